//! Schemas that change under capture: DROP, RENAME, rebuilds, and replicas of different versions.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use zvon::{AlterOptions, ErrorKind, Remote, Replica, Settings, TrackOptions};

const SCHEMA: &str = "CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT NOT NULL, born INTEGER);
    CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER REFERENCES author ON DELETE CASCADE, isbn TEXT UNIQUE);
    INSERT INTO author VALUES (1, 'Ann', 1900); INSERT INTO book VALUES (1, 'One', 1, 'i1'), (2, 'Two', 1, 'i2');";

async fn first(remote: &Remote) -> Replica {
    let replica = Replica::in_memory().unwrap();
    run(&replica, SCHEMA);
    replica.track_all(&TrackOptions::default()).await.unwrap();
    sync(&replica, remote).await;
    replica
}

async fn two() -> (Replica, Replica, Remote, tempfile::TempDir) {
    let (home, remote) = (tempfile::tempdir().unwrap(), fresh_remote());
    let a = first(&remote).await;
    let b = clone(&remote, &home, "b.db").await;
    (a, b, remote, home)
}

async fn clone(remote: &Remote, home: &tempfile::TempDir, name: &str) -> Replica {
    Replica::clone_from(remote, home.path().join(name), Settings::default(), None).await.unwrap().0
}

/// Two replicas of a schema whose foreign keys are enforced, and a remote; tables are tracked in order, the first by other columns
/// where these are named.
async fn pair_of(schema: &str, tables: &[&str], key: &[&str]) -> (Replica, Replica, Remote) {
    let (a, b) = (Replica::in_memory().unwrap(), Replica::in_memory().unwrap());
    for replica in [&a, &b] {
        run(replica, schema);
        for (n, table) in tables.iter().enumerate() {
            let mut options = TrackOptions::default();
            options.enforce_fk = Some(true);
            options.key = key.iter().filter(|_| n == 0).map(|&name| name.to_owned()).collect();
            replica.track(&[table], &options).await.unwrap();
        }
    }
    (a, b, fresh_remote())
}

async fn alter(replica: &Replica, table: &str, sql: &str, options: &AlterOptions) {
    replica.alter_begin(&[table]).await.unwrap();
    run(replica, sql);
    replica.alter_end(table, options).await.unwrap();
}

fn ask(replica: &Replica, sql: &str) -> Vec<String> {
    rows(&replica.connection(), sql)
}

async fn verified(replicas: &[&Replica], remote: &Remote) {
    for replica in replicas {
        assert_verified(replica, remote).await;
    }
}

const RENAMES: &str =
    "ALTER TABLE book RENAME COLUMN title TO \"na me\"; ALTER TABLE book RENAME COLUMN author_id TO writer";

#[tokio::test]
async fn a_renamed_column_is_the_same_column_to_replicas_of_either_version() {
    let (a, b, remote, home) = two().await;
    alter(&a, "book", RENAMES, &AlterOptions::default()).await;
    run(
        &a,
        "UPDATE book SET \"na me\" = 'Uno' WHERE id = 1; INSERT INTO author VALUES (2, 'Bea', 1950); UPDATE book SET writer = 2 WHERE id = 2",
    );
    run(&b, "UPDATE book SET title = 'Dos' WHERE id = 2; INSERT INTO book VALUES (3, 'Three', 1, 'i3')");
    converge(&[&a, &b], &remote).await;
    let sql = |title: &str, author: &str| {
        format!("SELECT {title}, name, isbn FROM book JOIN author ON author.id = {author} ORDER BY isbn")
    };
    let (old, new) = (sql("title", "author_id"), sql("\"na me\"", "writer"));
    let shown = ["'Uno'|'Ann'|'i1'", "'Dos'|'Bea'|'i2'", "'Three'|'Ann'|'i3'"];
    assert_eq!(ask(&a, &new), shown);
    assert_eq!(ask(&b, &old), shown);
    assert_eq!(a.held().await.unwrap().unknown, []);
    assert_eq!(b.held().await.unwrap().unknown, []);
    assert!(b.status().await.unwrap().notices.iter().any(|n| n.contains("book has another definition here")));
    // The other follows, and writes on.
    run(&b, "UPDATE book SET title = 'Tres' WHERE id = 3");
    alter(&b, "book", RENAMES, &AlterOptions::default()).await;
    run(&b, "UPDATE book SET writer = 1 WHERE id = 2");
    converge(&[&b, &a], &remote).await;
    let shown = ["'Uno'|'Ann'|'i1'", "'Dos'|'Ann'|'i2'", "'Tres'|'Ann'|'i3'"];
    assert_eq!(ask(&a, &new), shown);
    assert_eq!(ask(&b, &new), shown);
    assert_eq!(b.status().await.unwrap().notices, [] as [&str; 0]);
    // And who joins later has the newest.
    let c = clone(&remote, &home, "c.db").await;
    assert_eq!(ask(&c, &new), shown);
    run(&c, "UPDATE book SET \"na me\" = 'One' WHERE isbn = 'i1'");
    converge(&[&c, &a, &b], &remote).await;
    assert_eq!(ask(&a, &new)[0], "'One'|'Ann'|'i1'");
    verified(&[&a, &b, &c], &remote).await;
}

#[tokio::test]
async fn a_dropped_column_and_a_new_one_of_its_name_are_two() {
    let (a, b, remote, home) = two().await;
    alter(&a, "author", "ALTER TABLE author DROP COLUMN born; ALTER TABLE author RENAME COLUMN name TO born; ALTER TABLE author ADD COLUMN name", &AlterOptions::default()).await;
    run(&a, "UPDATE author SET born = 'Anna', name = 'new'");
    run(&b, "UPDATE author SET born = 1901");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&a, "author"), ["1|'Anna'|'new'"]);
    assert_eq!(table(&b, "author"), ["1|'Anna'|1901"]);
    let c = clone(&remote, &home, "c.db").await;
    assert_eq!(table(&c, "author"), ["1|'Anna'|'new'"]);
    verified(&[&a, &b, &c], &remote).await;
}

#[tokio::test]
async fn a_renamed_table_is_the_same_table() {
    let (a, b, remote, home) = two().await;
    alter(&a, "author", "ALTER TABLE author RENAME TO writer", &AlterOptions::default()).await;
    run(
        &a,
        "INSERT INTO writer VALUES (5, 'Cay', NULL); INSERT INTO book VALUES (9, 'Nine', 5, 'i9'); UPDATE writer SET born = 1 WHERE id = 1",
    );
    run(&b, "INSERT INTO author VALUES (5, 'Dan', NULL); INSERT INTO book VALUES (9, 'Neun', 5, 'i0')");
    converge(&[&a, &b], &remote).await;
    let sql =
        |table: &str| format!("SELECT title, name, born FROM book JOIN {table} AS w ON w.id = author_id ORDER BY 1");
    let shown = ["'Neun'|'Dan'|NULL", "'Nine'|'Cay'|NULL", "'One'|'Ann'|1", "'Two'|'Ann'|1"];
    assert_eq!(ask(&a, &sql("writer")), shown);
    assert_eq!(ask(&b, &sql("author")), shown);
    // The old name is free for another table.
    run(&a, "CREATE TABLE author (id INTEGER PRIMARY KEY, other TEXT); INSERT INTO author VALUES (1, 'else')");
    a.track(&["author"], &TrackOptions::default()).await.unwrap();
    alter(&b, "author", "ALTER TABLE author RENAME TO writer", &AlterOptions::default()).await;
    run(&b, "DELETE FROM writer WHERE name = 'Cay'; PRAGMA foreign_keys = ON");
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&a, &sql("writer")).len(), 3);
    assert_eq!(ask(&b, &sql("writer")), ask(&a, &sql("writer")));
    let c = clone(&remote, &home, "c.db").await;
    assert_eq!(ask(&c, &sql("writer")), ask(&a, &sql("writer")));
    assert_eq!(table(&c, "author"), ["1|'else'"]);
    let history = a.log(Some("writer"), None, 100).await.unwrap();
    assert!(history.len() >= 4 && history.iter().all(|entry| entry.table == "author"));
    verified(&[&a, &b, &c], &remote).await;
}

/// <https://sqlite.org/lang_altertable.html>, section 7: what SQLite itself cannot do to a table.
const TWELVE_STEPS: &str = "PRAGMA foreign_keys = OFF; BEGIN;
    CREATE TABLE book_new (id INTEGER PRIMARY KEY, isbn TEXT NOT NULL UNIQUE, author_id INTEGER REFERENCES author, name TEXT, pages INTEGER DEFAULT 7);
    INSERT INTO book_new (id, isbn, author_id, name) SELECT id, isbn, author_id, title FROM book;
    DROP TABLE book; ALTER TABLE book_new RENAME TO book; COMMIT; PRAGMA foreign_keys = ON";

#[tokio::test]
async fn a_rebuild_asks_what_it_cannot_know() {
    let (a, b, remote, _home) = two().await;
    a.alter_begin(&["book"]).await.unwrap();
    run(&a, TWELVE_STEPS);
    let error = a.alter_end("book", &AlterOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("--renamed title="), "{error}");
    // While it lasts, nothing is captured or merged, and nothing is lost.
    run(&a, "UPDATE book SET name = 'Eins' WHERE isbn = 'i1'");
    run(&b, "UPDATE book SET title = 'Zwei' WHERE isbn = 'i2'");
    sync(&b, &remote).await;
    let report = sync(&a, &remote).await;
    assert_eq!((report.pulled, report.pushed), (1, 0));
    let mut options = AlterOptions::default();
    options.renamed = vec![("title".into(), "name".into())];
    let report = a.alter_end("book", &options).await.unwrap();
    assert_eq!((report.changed, report.missing, report.deleted), (1, 0, 0));
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&a, "SELECT name, pages FROM book ORDER BY isbn"), ["'Eins'|7", "'Zwei'|7"]);
    assert_eq!(ask(&b, "SELECT title FROM book ORDER BY isbn"), ["'Eins'", "'Zwei'"]);
    verified(&[&a, &b], &remote).await;
}

/// The other way to make a table anew: the old one steps aside under another name, and is kept.
const ASIDE: &str = "ALTER TABLE book RENAME TO book_old;
    CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER REFERENCES author, pages INTEGER DEFAULT 7);
    INSERT INTO book (id, title, author_id) SELECT id, title, author_id FROM book_old";

#[tokio::test]
async fn a_table_made_anew_beside_the_old_one_is_the_one_of_the_name() {
    let (a, b, remote, _home) = two().await;
    a.alter_begin(&["book"]).await.unwrap();
    run(&a, ASIDE);
    let error = a.alter_end("book", &AlterOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("--renamed isbn=pages"), "{error}");
    let mut options = AlterOptions::default();
    options.dropped = vec!["isbn".into()];
    let report = a.alter_end("book", &options).await.unwrap();
    assert_eq!((report.renamed_from, report.missing, report.deleted), (None, 0, 0));
    run(&a, "UPDATE book SET title = 'Eins' WHERE id = 1; UPDATE book_old SET title = 'kept' WHERE id = 2");
    run(&b, "INSERT INTO book VALUES (3, 'Three', 1, 'i3')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&a, "SELECT title, pages FROM book ORDER BY 1"), ["'Eins'|7", "'Three'|7", "'Two'|7"]);
    assert_eq!(ask(&b, "SELECT title FROM book ORDER BY 1"), ["'Eins'", "'Three'", "'Two'"]);
    verified(&[&a, &b], &remote).await;
}

const TWO_TABLES: &str =
    "CREATE TABLE one (id TEXT PRIMARY KEY, v TEXT); CREATE TABLE two (id TEXT PRIMARY KEY, v TEXT);
    INSERT INTO one VALUES ('o', 'first'); INSERT INTO two VALUES ('t', 'second')";

#[tokio::test]
async fn tables_that_change_their_names_are_told_apart() {
    for ends in [["one", "two"], ["two", "one"]] {
        let (a, remote) = (replica(TWO_TABLES).await, fresh_remote());
        sync(&a, &remote).await;
        a.alter_begin(&["one", "two"]).await.unwrap();
        run(&a, "ALTER TABLE one RENAME TO three; ALTER TABLE two RENAME TO one; ALTER TABLE three RENAME TO two");
        for end in ends {
            let report = a.alter_end(end, &AlterOptions::default()).await.unwrap();
            assert_eq!((report.backfilled, report.changed, report.missing), (0, 0, 0), "{report:?}");
        }
        assert_eq!(sync(&a, &remote).await.pushed, 0);
        assert_eq!(
            (table(&a, "one"), table(&a, "two")),
            (vec!["'t'|'second'".to_owned()], vec!["'o'|'first'".to_owned()])
        );
        verified(&[&a], &remote).await;
    }
}

/// The table of the name was taken for both, and its rows were recorded as rows of either.
#[tokio::test]
async fn a_table_that_takes_the_name_of_one_that_is_gone_is_tracked_once() {
    let (one, two) = ("'o'|'first'".to_owned(), "'t'|'second'".to_owned());
    for untracked_before in [false, true] {
        for (gone, kept) in [("one", "two"), ("two", "one")] {
            let (a, remote) = (replica(TWO_TABLES).await, fresh_remote());
            sync(&a, &remote).await;
            let rename = format!("DROP TABLE {gone}; ALTER TABLE {kept} RENAME TO {gone}");
            if untracked_before {
                a.untrack(&[gone]).await.unwrap();
                alter(&a, kept, &rename, &AlterOptions::default()).await;
            } else {
                a.alter_begin(&["one", "two"]).await.unwrap();
                run(&a, &rename);
                a.alter_end(kept, &AlterOptions::default()).await.unwrap();
                let error = a.alter_end(gone, &AlterOptions::default()).await.unwrap_err();
                assert!(error.to_string().contains("is another table that is tracked"), "{error}");
                a.untrack(&[gone]).await.unwrap();
            }
            a.track_all(&keyed()).await.unwrap();
            assert_eq!(rows(&a.connection(), "SELECT count(*) FROM ZV_TRACKED WHERE active"), ["1"]);
            let row = if gone == "one" { &two } else { &one };
            assert_eq!(table(&a, gone), std::slice::from_ref(row));
            assert_eq!(sync(&a, &remote).await.pushed, 0);
            verified(&[&a], &remote).await;
        }
    }
}

#[tokio::test]
async fn a_rebuild_behind_our_back_is_noticed_and_deletes_nothing() {
    let (a, b, remote, _home) = two().await;
    run(&a, "DROP TABLE IF EXISTS tmp; CREATE TABLE tmp (id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER REFERENCES author ON DELETE CASCADE, isbn TEXT UNIQUE, extra TEXT);
        INSERT INTO tmp SELECT id, title, author_id, isbn, 'x' FROM book WHERE id = 1; DROP TABLE book; ALTER TABLE tmp RENAME TO book; UPDATE book SET title = 'changed'");
    let report = sync(&a, &remote).await;
    assert!(report.notices.iter().any(|n| n.contains("rebuilt without its triggers")), "{report:?}");
    run(&b, "UPDATE book SET title = 'both' WHERE id = 2");
    converge(&[&b, &a], &remote).await;
    assert_eq!(ask(&a, "SELECT title, extra FROM book ORDER BY isbn"), ["'changed'|'x'", "'both'|NULL"]);
    assert_eq!(ask(&b, "SELECT title FROM book ORDER BY isbn"), ["'changed'", "'both'"]);
    verified(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn missing_rows_are_deletes_where_the_user_says_so() {
    let (a, b, remote, _home) = two().await;
    let mut options = AlterOptions::default();
    options.accept_deletes = true;
    alter(&a, "book", "DELETE FROM book WHERE id = 2; ALTER TABLE book DROP COLUMN author_id", &options).await;
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&b, "SELECT title FROM book"), ["'One'"]);
    alter(&a, "book", "DELETE FROM book", &AlterOptions::default()).await;
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&a, "SELECT title FROM book"), ["'One'"], "shown again");
    verified(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn alter_in_the_wrong_order_is_told_of() {
    let remote = fresh_remote();
    let a = first(&remote).await;
    assert_eq!(a.alter_end("book", &AlterOptions::default()).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(a.alter_begin(&["nothing"]).await.unwrap_err().kind(), ErrorKind::Schema);
    a.alter_begin(&["book"]).await.unwrap();
    assert_eq!(a.alter_begin(&["book"]).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(a.track(&["book"], &TrackOptions::default()).await.unwrap_err().kind(), ErrorKind::Usage);
    assert!(
        a.status().await.unwrap().tables.iter().any(|t| t.name == "book" && t.notice.contains("zvon alter end book"))
    );
    let mut options = AlterOptions::default();
    options.renamed = vec![("nope".into(), "title".into())];
    assert_eq!(a.alter_end("book", &options).await.unwrap_err().kind(), ErrorKind::Usage);
    a.alter_end("book", &AlterOptions::default()).await.unwrap();
    run(&a, "UPDATE book SET title = 'captured'");
    assert_eq!(sync(&a, &remote).await.pushed, 2);
}

#[tokio::test]
async fn references_written_while_a_table_is_altered_are_recorded() {
    let schema = "CREATE TABLE node (id INTEGER PRIMARY KEY, name TEXT, up INTEGER REFERENCES node); INSERT INTO node VALUES (1, 'root', NULL)";
    let remote = fresh_remote();
    let a = Replica::in_memory().unwrap();
    run(&a, schema);
    a.track_all(&TrackOptions::default()).await.unwrap();
    sync(&a, &remote).await;
    let home = tempfile::tempdir().unwrap();
    let b = clone(&remote, &home, "b.db").await;
    // The row that the first one refers to comes after it, and both are written while nobody looks.
    let sql = "ALTER TABLE node ADD COLUMN extra; INSERT INTO node VALUES (2, 'late', NULL, NULL); UPDATE node SET up = 2 WHERE id = 1";
    alter(&a, "node", sql, &AlterOptions::default()).await;
    converge(&[&a, &b], &remote).await;
    let sql = "SELECT c.name, p.name FROM node AS c LEFT JOIN node AS p ON p.id = c.up ORDER BY 1";
    for replica in [&a, &b] {
        assert_eq!(ask(replica, sql), ["'late'|NULL", "'root'|'late'"]);
        assert_eq!(replica.held().await.unwrap().references, []);
    }
    verified(&[&a, &b], &remote).await;
}

/// Two replicas, of which one shows a child whose parent's file is away: with the file's place, and where it is now.
async fn child_before_its_parent(folder: &Path, options: &TrackOptions) -> (Replica, Replica, PathBuf, PathBuf) {
    let shared = remote(folder.to_str().unwrap());
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(
            &replica,
            "CREATE TABLE p (id INTEGER PRIMARY KEY, v); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p, v)",
        );
        replica.track_all(options).await.unwrap();
        replica
    };
    let (a, b) = (make().await, make().await);
    converge(&[&a, &b], &shared).await;
    run(&a, "INSERT INTO p VALUES (9, 'nine'); INSERT INTO c VALUES (1, 9, 'child')");
    sync(&a, &shared).await;
    let newest = a.log(Some("p"), None, 1).await.unwrap();
    let file = folder.join(format!("changes/{}.msgpack", newest[0].id));
    let away = folder.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    sync(&b, &shared).await;
    assert_eq!(ask(&b, "SELECT p, v FROM c"), ["NULL|'child'"]);
    (a, b, file, away)
}

#[tokio::test]
async fn a_reference_to_a_row_that_is_not_here_outlives_an_alter() {
    outlives(&["after"]).await;
}

/// By reading: the same where its row comes while the table is being altered, or is not tracked.
#[tokio::test]
async fn a_reference_whose_row_comes_while_its_table_is_altered_is_no_edit() {
    outlives(&["while altered", "while untracked"]).await;
}

async fn outlives(cases: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let mut options = TrackOptions::default();
    options.enforce_fk = Some(false);
    for case in cases {
        let folder = home.path().join(case);
        let (a, b, file, away) = child_before_its_parent(&folder, &options).await;
        let shared = remote(folder.to_str().unwrap());
        match *case {
            "after" => alter(&b, "c", "ALTER TABLE c ADD COLUMN extra", &AlterOptions::default()).await,
            "while altered" => b.alter_begin(&["c"]).await.unwrap(),
            _ => b.untrack(&["c"]).await.unwrap(),
        }
        std::fs::rename(&away, &file).unwrap();
        sync(&b, &shared).await;
        match *case {
            "after" => {}
            "while altered" => drop(b.alter_end("c", &AlterOptions::default()).await.unwrap()),
            _ => drop(b.track(&["c"], &options).await.unwrap()),
        }
        converge(&[&b, &a], &shared).await;
        for replica in [&a, &b] {
            let pairs = ask(replica, "SELECT p.v, c.v FROM c JOIN p ON p.id = c.p");
            assert_eq!(pairs, ["'nine'|'child'"], "{case}");
        }
        verified(&[&a, &b], &shared).await;
    }
}

/// Seed 402557 of the simulation: 1 and 1.0 are equal to SQLite, and two values in a column that has no type.
#[tokio::test]
async fn a_number_that_only_changes_its_class_while_its_table_is_altered_is_an_edit() {
    let remote = fresh_remote();
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, free, n NUMERIC, r REAL); CREATE TABLE s (id TEXT PRIMARY KEY, free ANY) STRICT";
    let (a, b) = (replica(schema).await, replica(schema).await);
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t VALUES ('x', 1, 1, 1), ('y', 2.0, 2, 2); INSERT INTO s VALUES ('x', 1), ('y', 2.0)");
    converge(&[&a, &b], &remote).await;
    for name in ["t", "s"] {
        let other = if name == "t" { ", n = 1.0, r = 1" } else { "" };
        let sql =
            format!("UPDATE {name} SET free = 1.0{other} WHERE id = 'x'; UPDATE {name} SET free = 2 WHERE id = 'y'");
        a.alter_begin(&[name]).await.unwrap();
        run(&a, &sql);
        let report = a.alter_end(name, &AlterOptions::default()).await.unwrap();
        assert_eq!(report.changed, 2, "{name}");
    }
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "t"), ["'x'|1.0|1|1.0", "'y'|2|2|2.0"]);
        assert_eq!(table(replica, "s"), ["'x'|1.0", "'y'|2"]);
    }
    verified(&[&a, &b], &remote).await;
    // What is written past the triggers is seen.
    let conn = a.connection();
    let triggers: Vec<String> = rows(&conn, "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 't'");
    for name in triggers {
        conn.execute_batch(&format!("DROP TRIGGER \"{}\"", name.trim_matches('\''))).unwrap();
    }
    conn.execute_batch("UPDATE t SET free = 1 WHERE id = 'x'").unwrap();
    drop(conn);
    let problems = a.verify().await.unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("column free is not what the log says")), "{problems:?}");
}

/// Rows that have each other's integers, or another row's, after a change that no trigger saw: who refers to the integers refers to
/// the rows that have them now.
#[tokio::test]
async fn references_follow_integers_that_went_to_other_rows_while_their_table_was_altered() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE);
        CREATE TABLE child (name TEXT PRIMARY KEY, p INTEGER REFERENCES parent);
        CREATE TABLE link (p INTEGER REFERENCES parent, n INTEGER, PRIMARY KEY (p, n));";
    for (how, shown, links) in [
        (
            "DELETE FROM parent WHERE k = 1; INSERT INTO parent VALUES (1, 'new')",
            ["'first'|'new'", "'second'|'b'", "'third'|'new'"],
            ["'new'|1", "'b'|2"],
        ),
        (
            "UPDATE parent SET k = -k; UPDATE parent SET k = 3 + k",
            ["'first'|'b'", "'second'|'a'", "'third'|'b'"],
            ["'b'|1", "'a'|2"],
        ),
    ] {
        let (a, b, remote) = pair_of(schema, &["parent", "child", "link"], &["u"]).await;
        run(
            &a,
            "INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES ('first', 1), ('second', 2), ('third', NULL)",
        );
        run(&a, "INSERT INTO link VALUES (1, 1), (2, 2)");
        converge(&[&a, &b], &remote).await;
        let mut options = AlterOptions::default();
        options.accept_deletes = true;
        a.alter_begin(&["parent"]).await.unwrap();
        run(&a, how);
        run(&a, "UPDATE child SET p = 1 WHERE name = 'third'");
        sync(&a, &remote).await;
        a.alter_end("parent", &options).await.unwrap();
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(ask(replica, "SELECT name, u FROM child JOIN parent ON k = p ORDER BY name"), shown, "{how}");
            assert_eq!(ask(replica, "SELECT u, n FROM link JOIN parent ON k = p ORDER BY n"), links, "{how}");
        }
        verified(&[&a, &b], &remote).await;
    }
}

/// It came back under another integer, and who referred to it by the old one referred to nobody.
#[tokio::test]
async fn a_row_that_is_shown_again_after_an_alter_has_its_integer_again() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE);
        CREATE TABLE child (name TEXT PRIMARY KEY, p INTEGER REFERENCES parent);
        CREATE TABLE link (p INTEGER REFERENCES parent, n INTEGER, PRIMARY KEY (p, n));";
    for key in [&[][..], &["u"]] {
        let (a, b, remote) = pair_of(schema, &["parent", "child", "link"], key).await;
        run(
            &a,
            "INSERT INTO parent VALUES (4, 'a'), (7, 'b'), (9, 'c'); INSERT INTO child VALUES ('first', 4), ('second', 7)",
        );
        run(&a, "INSERT INTO link VALUES (4, 1), (7, 2)");
        converge(&[&a, &b], &remote).await;
        alter(&a, "parent", "DELETE FROM parent WHERE u = 'a'", &AlterOptions::default()).await;
        converge(&[&a, &b], &remote).await;
        assert_eq!(ask(&a, "SELECT k FROM parent ORDER BY k"), ["4", "7", "9"]);
        for replica in [&a, &b] {
            let sql = "SELECT name, u FROM child JOIN parent ON k = p ORDER BY name";
            assert_eq!(ask(replica, sql), ["'first'|'a'", "'second'|'b'"]);
            assert_eq!(ask(replica, "SELECT u, n FROM link JOIN parent ON k = p ORDER BY n"), ["'a'|1", "'b'|2"]);
        }
        verified(&[&a, &b], &remote).await;
    }
}

/// A merge took the parent's integer away while the child's table was altered; what the child had was taken for a reference of
/// its user's to a row that nobody knows.
#[tokio::test]
async fn a_row_whose_parent_goes_while_its_table_is_altered_is_held() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE child (name TEXT PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE CASCADE, more INTEGER);";
    for again in [false, true] {
        let (a, b, remote) = pair_of(schema, &["parent", "child"], &[]).await;
        run(&a, "INSERT INTO parent VALUES (1, 'goes'), (2, 'stays')");
        run(&a, "INSERT INTO child VALUES ('first', 1, 1), ('second', 2, 2)");
        converge(&[&a, &b], &remote).await;
        a.alter_begin(&["child"]).await.unwrap();
        run(&b, "PRAGMA foreign_keys = OFF; DELETE FROM parent WHERE v = 'goes'");
        sync(&b, &remote).await;
        sync(&a, &remote).await;
        sync(&a, &remote).await;
        if again {
            // It is another row's now, and so is who refers to it.
            run(&a, "INSERT INTO parent VALUES (1, 'new')");
            sync(&a, &remote).await;
        }
        run(&a, "ALTER TABLE child RENAME COLUMN more TO most");
        a.alter_end("child", &AlterOptions::default()).await.unwrap();
        converge(&[&a, &b], &remote).await;
        let shown = if again { vec!["'first'|'new'", "'second'|'stays'"] } else { vec!["'second'|'stays'"] };
        for replica in [&a, &b] {
            assert_eq!(ask(replica, "SELECT name, v FROM child LEFT JOIN parent ON k = p ORDER BY name"), shown);
            assert_eq!(replica.held().await.unwrap().rows.len(), usize::from(!again));
        }
        verified(&[&a, &b], &remote).await;
    }
}

/// NULL was taken for the want of the row that the log names, which had gone meanwhile.
#[tokio::test]
async fn a_reference_that_is_cleared_while_its_row_goes_and_its_table_is_altered_is_cleared() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE child (name TEXT PRIMARY KEY, p INTEGER REFERENCES parent, more INTEGER);";
    let (a, b, remote) = pair_of(schema, &["parent", "child"], &[]).await;
    run(&a, "INSERT INTO parent VALUES (1, 'goes'); INSERT INTO child VALUES ('first', 1, 1)");
    converge(&[&a, &b], &remote).await;
    a.alter_begin(&["child"]).await.unwrap();
    run(&b, "PRAGMA foreign_keys = OFF; DELETE FROM parent");
    sync(&b, &remote).await;
    sync(&a, &remote).await;
    run(&a, "UPDATE child SET p = NULL; ALTER TABLE child RENAME COLUMN more TO most");
    a.alter_end("child", &AlterOptions::default()).await.unwrap();
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(ask(replica, "SELECT name, p FROM child"), ["'first'|NULL"]);
        assert_eq!(replica.held().await.unwrap().rows.len(), 0);
    }
    verified(&[&a, &b], &remote).await;
}

/// Who was written without a parent, and whose parent went, while nobody looked.
#[tokio::test]
async fn rows_that_have_no_parent_after_an_alter_of_either_table_are_held() {
    let schema = "CREATE TABLE parent (k TEXT PRIMARY KEY, more INTEGER);
        CREATE TABLE child (name TEXT PRIMARY KEY, p TEXT REFERENCES parent, more INTEGER);";
    for table in ["parent", "child"] {
        let (a, b, remote) = pair_of(schema, &["parent", "child"], &[]).await;
        run(
            &a,
            "INSERT INTO parent VALUES ('goes', 1), ('stays', 1); INSERT INTO child VALUES ('1', 'goes', 1), ('2', 'stays', 1)",
        );
        converge(&[&a, &b], &remote).await;
        a.alter_begin(&[table]).await.unwrap();
        run(&a, "PRAGMA foreign_keys = OFF; INSERT INTO child VALUES ('3', 'nobody', 1)");
        run(&b, "PRAGMA foreign_keys = OFF; DELETE FROM parent WHERE k = 'goes'");
        sync(&b, &remote).await;
        sync(&a, &remote).await;
        run(&a, &format!("ALTER TABLE {table} RENAME COLUMN more TO most"));
        a.alter_end(table, &AlterOptions::default()).await.unwrap();
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(ask(replica, "SELECT name FROM child"), ["'2'"], "{table}");
            assert_eq!(replica.held().await.unwrap().rows.len(), 2, "{table}");
        }
        verified(&[&a, &b], &remote).await;
    }
}
