//! Two replicas and what becomes of their writes.

mod common;

use common::wall::{START_MS, Wall, clocked};
use common::*;
use zvon::Replica;

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, body TEXT DEFAULT 'empty', n INTEGER)";

#[tokio::test]
async fn inserts_updates_and_deletes_travel() {
    let (a, b, remote) = (replica(NOTES).await, replica(NOTES).await, fresh_remote());
    run(&a, "INSERT INTO note VALUES ('1', 'one', 'x', 1), ('2', 'two', NULL, 2), ('3', 'three', x'c0', 3)");
    let report = sync(&a, &remote).await;
    assert_eq!((report.pushed, report.pulled), (3, 0));
    let report = sync(&b, &remote).await;
    assert_eq!((report.pushed, report.pulled, report.merged), (0, 3, 3));
    assert_eq!(table(&a, "note"), table(&b, "note"));

    run(&b, "UPDATE note SET title = 'zwei' WHERE id = '2'; DELETE FROM note WHERE id = '3'");
    run(&a, "UPDATE note SET body = 'new' WHERE id = '2'");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&a, "note"), ["'1'|'one'|'x'|1", "'2'|'zwei'|'new'|2"]);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
    let idle = sync(&a, &remote).await;
    assert_eq!((idle.pushed, idle.pulled, idle.merged), (0, 0, 0));
    assert_eq!((idle.requests.list, idle.requests.get, idle.requests.put), (1, 0, 0));
}

#[tokio::test]
async fn a_write_after_a_delete_brings_the_row_back_whole() {
    // Writes that do not know of each other are ordered by the clock alone.
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let (a, b) = (clocked(NOTES, &wall, 1).await, clocked(NOTES, &wall, 2).await);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 'x', 1)");
    converge(&[&a, &b], &remote).await;
    run(&a, "DELETE FROM note");
    sync(&a, &remote).await;
    wall.advance(1);
    run(&b, "UPDATE note SET n = 7");
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "note"), ["'1'|'one'|'x'|7"]);
    assert_eq!(table(&a, "note"), table(&b, "note"));
}

#[tokio::test]
async fn conflicts_are_recorded_and_can_be_restored() {
    // Writes that do not know of each other are ordered by the clock alone.
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let (a, b) = (clocked(NOTES, &wall, 1).await, clocked(NOTES, &wall, 2).await);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 'x', 1)");
    converge(&[&a, &b], &remote).await;
    run(&a, "UPDATE note SET title = 'from a'");
    wall.advance(1);
    run(&b, "UPDATE note SET title = 'from b', n = 1");
    sync(&a, &remote).await;
    let report = sync(&b, &remote).await;
    assert_eq!(report.conflicts, 1);
    sync(&a, &remote).await;
    let conflict = b.conflicts().await.unwrap().remove(0);
    assert_eq!((conflict.table.as_str(), conflict.column.as_str()), ("note", "title"));
    // Within one millisecond the random bits decide which of the two was later.
    let [won, lost] = [&conflict.winning_value, &conflict.losing_value].map(|v| v.as_str().unwrap().to_owned());
    assert_eq!(table(&a, "note"), [format!("'1'|'{won}'|'x'|1")]);
    assert_eq!(std::collections::BTreeSet::from([won.as_str(), lost.as_str()]), ["from a", "from b"].into());
    b.restore_conflict(conflict.number).await.unwrap();
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "note"), [format!("'1'|'{lost}'|'x'|1")]);
    assert_eq!(b.status().await.unwrap().conflicts, 0);
}

/// By reading: a row that a merge took out for a while came back without what had stayed on this replica.
#[tokio::test]
async fn columns_that_stay_on_a_replica_keep_their_values_while_a_row_is_out() {
    let schema = "CREATE TABLE list (id TEXT PRIMARY KEY);
                  CREATE TABLE task (id TEXT PRIMARY KEY, pos INTEGER UNIQUE, list TEXT REFERENCES list, thumb BLOB, note TEXT DEFAULT 'none')";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = keyed();
        replica.track(&["list"], &options).await.unwrap();
        options.exclude = vec!["thumb".to_owned(), "note".to_owned()];
        replica.track(&["task"], &options).await.unwrap();
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(&a, "INSERT INTO list VALUES ('l'); INSERT INTO task (id, pos, list) VALUES ('s', 1, 'l'), ('t', 2, NULL)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE task SET thumb = x'01' || id, note = NULL");
    // Two rows change places: each is out of the way of the other for a moment.
    run(
        &a,
        "UPDATE task SET pos = -1 WHERE id = 's'; UPDATE task SET pos = 1 WHERE id = 't'; UPDATE task SET pos = 2 WHERE id = 's'",
    );
    converge(&[&a, &b], &remote).await;
    let here =
        |replica: &Replica| rows(&replica.connection(), "SELECT id, pos, typeof(thumb), note FROM task ORDER BY id");
    assert_eq!(here(&b), ["'s'|2|'text'|NULL", "'t'|1|'text'|NULL"]);
    assert_eq!(here(&a), ["'s'|2|'null'|'none'", "'t'|1|'null'|'none'"]);
    // One is held until its list is back.
    run(&a, "DELETE FROM list");
    converge(&[&a, &b], &remote).await;
    assert_eq!(here(&b), ["'t'|1|'text'|NULL"]);
    run(&a, "INSERT INTO list VALUES ('l')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(here(&b), ["'s'|2|'text'|NULL", "'t'|1|'text'|NULL"]);
    // What is deleted is gone with all that it held.
    run(&a, "DELETE FROM task; UPDATE list SET id = id");
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO task (id, pos) VALUES ('s', 1)");
    converge(&[&a, &b], &remote).await;
    assert_eq!(here(&b), ["'s'|1|'null'|'none'"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// By reading: the user's triggers see those columns with the row, so that a search index over them stays right.
#[tokio::test]
async fn a_search_index_over_columns_that_stay_on_a_replica_stays_right() {
    let schema = "CREATE TABLE task (id TEXT PRIMARY KEY, pos INTEGER UNIQUE, title TEXT, note TEXT DEFAULT '');
        CREATE VIRTUAL TABLE found USING fts5 (title, note, content = 'task');
        CREATE TRIGGER found_in AFTER INSERT ON task BEGIN
            INSERT INTO found (rowid, title, note) VALUES (NEW.rowid, NEW.title, NEW.note); END;
        CREATE TRIGGER found_out AFTER DELETE ON task BEGIN
            INSERT INTO found (found, rowid, title, note) VALUES ('delete', OLD.rowid, OLD.title, OLD.note); END;
        CREATE TRIGGER found_over AFTER UPDATE ON task BEGIN
            INSERT INTO found (found, rowid, title, note) VALUES ('delete', OLD.rowid, OLD.title, OLD.note);
            INSERT INTO found (rowid, title, note) VALUES (NEW.rowid, NEW.title, NEW.note); END;";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = keyed();
        options.exclude = vec!["note".to_owned()];
        replica.track(&["task"], &options).await.unwrap();
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(&a, "INSERT INTO task (id, pos, title) VALUES ('s', 1, 'one'), ('t', 2, 'two')");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE task SET note = 'secret' || id");
    run(
        &a,
        "UPDATE task SET pos = -1 WHERE id = 's'; UPDATE task SET pos = 1 WHERE id = 't'; UPDATE task SET pos = 2 WHERE id = 's'",
    );
    converge(&[&a, &b], &remote).await;
    let there = rows(
        &b.connection(),
        "SELECT id FROM task WHERE rowid IN (SELECT rowid FROM found WHERE found MATCH 'secrets')",
    );
    assert_eq!(there, ["'s'"]);
    run(&b, "INSERT INTO found (found, rank) VALUES ('integrity-check', 1)");
    assert_verified(&b, &remote).await;
}

/// By reading: each batch of a merge, and each idle sync, counted all that waited for a table or a column.
#[tokio::test]
async fn changes_that_wait_for_a_table_or_a_column_make_no_other_sync_longer() {
    let schema = "CREATE TABLE note (id TEXT PRIMARY KEY)";
    let more = "CREATE TABLE other (id TEXT PRIMARY KEY); ALTER TABLE note ADD COLUMN extra";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, more);
    a.track_all(&keyed()).await.unwrap();
    let mut idle = Vec::new();
    for rows in [10, 2_000] {
        let numbers = format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})");
        run(&a, &format!("{numbers} INSERT INTO other SELECT '{rows}-' || n FROM n"));
        run(&a, &format!("{numbers} INSERT INTO note SELECT '{rows}-' || n, n FROM n"));
        converge(&[&a, &b], &remote).await;
        idle.push(work(&b, &remote).await);
    }
    assert!(b.status().await.unwrap().unknown > 4_000);
    assert!(idle[0] > 0 && idle[1] < 2 * idle[0], "{idle:?}");
    run(&b, more);
    b.track_all(&keyed()).await.unwrap();
    converge(&[&b, &a], &remote).await;
    for name in ["note", "other"] {
        assert_eq!(table(&b, name), table(&a, name));
    }
    assert_verified(&b, &remote).await;
}
