//! What `verify` recomputes from the log is what merges have made, through changes of schema, of tracking and held rows.

mod common;

use std::sync::Arc;

use common::faulty_store::{FaultyStore, Verdict};
use common::*;
use object_store::memory::InMemory;
use zvon::{Join, Remote, Replica, SyncOptions, TrackOptions};

const FULL: &str = "
    CREATE TABLE parent (id TEXT PRIMARY KEY, name TEXT UNIQUE, extra DEFAULT 5, n REAL);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent TEXT REFERENCES parent (id), v NOT NULL);
    CREATE TABLE link (a TEXT, b INT, PRIMARY KEY (a, b));
    CREATE TABLE only_here (id TEXT PRIMARY KEY, v);";

/// The same with other spellings, and without a column and a table.
const LEAN: &str = "
    CREATE TABLE PARENT (ID TEXT PRIMARY KEY, NAME TEXT UNIQUE, n REAL);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent TEXT REFERENCES parent (id), v NOT NULL);
    CREATE TABLE link (a TEXT, b INT, PRIMARY KEY (a, b));";

/// Two replicas with rows of both, some of them held.
async fn joined() -> (Replica, Replica, Remote) {
    let (full, lean, remote) = (replica(FULL).await, replica(LEAN).await, fresh_remote());
    run(
        &full,
        "INSERT INTO parent VALUES ('x', 'one', 1, 2), ('y', 'two', NULL, 'text');
         INSERT INTO child VALUES (1, 'x', 'v'), (2, 'y', x'c0');
         INSERT INTO link VALUES ('q', 1), ('r/#', 2);
         INSERT INTO only_here VALUES ('1', 2)",
    );
    run(
        &lean,
        "INSERT INTO parent VALUES ('z', 'one', 2.5); INSERT INTO child VALUES (9, 'z', 1); INSERT INTO link VALUES ('q', 1)",
    );
    sync(&full, &remote).await;
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    lean.sync(&remote, &options).await.unwrap();
    converge(&[&full, &lean], &remote).await;
    (full, lean, remote)
}

async fn assert_whole(replicas: &[&Replica]) {
    for replica in replicas {
        assert_eq!(replica.verify().await.unwrap().problems, [] as [String; 0]);
    }
}

#[tokio::test]
async fn held_rows_replaced_rows_and_moved_keys() {
    let (full, lean, remote) = joined().await;
    assert_eq!(full.status().await.unwrap().held, 2);
    assert_whole(&[&full, &lean]).await;
    run(&lean, "DELETE FROM parent WHERE id = 'x'; UPDATE link SET a = 'moved' WHERE b = 2");
    run(&lean, "UPDATE parent SET name = 'nine' WHERE id = 'z'");
    run(&full, "UPDATE parent SET extra = 7; INSERT OR REPLACE INTO parent VALUES ('w', 'two', 1, 1)");
    assert_whole(&[&full, &lean]).await;
    sync(&lean, &remote).await;
    sync(&full, &remote).await;
    assert_whole(&[&full, &lean]).await;
    converge(&[&full, &lean], &remote).await;
    assert_whole(&[&full, &lean]).await;
}

#[tokio::test]
async fn columns_and_tables_that_come_later() {
    let (full, lean, remote) = joined().await;
    assert!(lean.status().await.unwrap().unknown > 0);
    run(&lean, "ALTER TABLE parent ADD COLUMN extra DEFAULT 5; CREATE TABLE only_here (id TEXT PRIMARY KEY, v)");
    assert_whole(&[&lean]).await;
    lean.track(&["only_here"], &keyed()).await.unwrap();
    assert_whole(&[&lean]).await;
    sync(&lean, &remote).await;
    assert_whole(&[&lean]).await;
    assert_eq!(lean.status().await.unwrap().unknown, 0);
    assert_eq!(table(&lean, "only_here"), ["'1'|2"]);
    converge(&[&full, &lean], &remote).await;
    assert_whole(&[&full, &lean]).await;
}

#[tokio::test]
async fn a_table_that_is_untracked_for_a_while() {
    let (full, lean, remote) = joined().await;
    lean.untrack(&["link"]).await.unwrap();
    run(&lean, "DELETE FROM link");
    run(&full, "INSERT INTO link VALUES ('late', 1)");
    converge(&[&full, &lean], &remote).await;
    assert_whole(&[&full, &lean]).await;
    lean.track(&["link"], &keyed()).await.unwrap();
    assert_whole(&[&lean]).await;
    converge(&[&full, &lean], &remote).await;
    assert_whole(&[&full, &lean]).await;
}

#[tokio::test]
async fn damage_is_named() {
    let (full, _, _) = joined().await;
    run(&full, "DELETE FROM ZV_REGISTER WHERE entity_id = 'y'");
    let report = full.verify().await.unwrap();
    assert!(report.problem_count > 0);
    assert!(report.problems.iter().all(|problem| problem.starts_with("parent row \"y\": ")), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_link_between_rows_that_are_not_sealed_yet() {
    let tables = "CREATE TABLE tag (id INTEGER PRIMARY KEY); CREATE TABLE tagged (a INTEGER REFERENCES tag, b INTEGER REFERENCES tag,
                  PRIMARY KEY (a, b))";
    let tagging = Replica::in_memory().unwrap();
    run(&tagging, tables);
    tagging.track_all(&zvon::TrackOptions::default()).await.unwrap();
    run(&tagging, "INSERT INTO tag VALUES (7), (8); INSERT INTO tagged VALUES (7, 8)");
    assert_whole(&[&tagging]).await;
    // A link that no trigger saw is none of these.
    let name =
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'tagged' AND sql LIKE '%AFTER INSERT%'";
    let name: String = tagging.connection().query_row(name, [], |row| row.get(0)).unwrap();
    run(&tagging, &format!("DROP TRIGGER \"{name}\"; INSERT INTO tagged VALUES (8, 7)"));
    let problems = tagging.verify().await.unwrap().problems;
    assert!(
        problems.iter().any(|problem| problem.contains("is in the table, and no merged change wrote it")),
        "{problems:?}"
    );
}

/// Seed 5010216 of the simulation: a reference to a row that was made behind zvon's back is left out of the log until that row is
/// known, and a while longer.
#[tokio::test]
async fn verify_knows_a_reference_that_could_be_translated_by_now() {
    let replica = Replica::in_memory().unwrap();
    run(
        &replica,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent)",
    );
    replica.track_all(&TrackOptions::default()).await.unwrap();
    run(
        &replica,
        "PRAGMA foreign_keys = OFF; DROP TABLE parent; CREATE TABLE parent (id INTEGER PRIMARY KEY); INSERT INTO parent VALUES (6);
         INSERT INTO child VALUES (1, 6)",
    );
    // A sync finds the table that was made anew, and comes no further.
    let fails = FaultyStore::new(&Arc::new(InMemory::new()), |_, _| Verdict::FailBefore);
    let remote = Remote::from_store("faulty://store", fails, "").unwrap();
    replica.sync(&remote, &SyncOptions::default()).await.unwrap_err();
    assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
    let remote = fresh_remote();
    sync(&replica, &remote).await;
    let other = Replica::in_memory().unwrap();
    run(
        &other,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent)",
    );
    other.track_all(&TrackOptions::default()).await.unwrap();
    sync(&other, &remote).await;
    assert_eq!(rows(&other.connection(), "SELECT parent FROM child"), ["6"]);
}
