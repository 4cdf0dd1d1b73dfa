//! Rows that SQLite removes by a REPLACE, over whatever is unique: capture records each as deleted.

mod common;

use common::pair::Pair;
use common::*;
use zvon::{Replica, TrackOptions};

/// Found by fuzzing: it was taken for one on the key, as it has as many parts and all of them in the key.
#[tokio::test]
async fn a_unique_index_that_names_one_column_of_the_key_twice_is_another_constraint() {
    let schema = "CREATE TABLE pairs (a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY (b, a));
        CREATE UNIQUE INDEX twice ON pairs (a, a);";
    let pair = Pair::new(schema, "").await;
    pair.same(&[
        "INSERT INTO pairs VALUES ('x', 1), ('y', 2), ('z', 3)",
        "REPLACE INTO pairs VALUES ('x', 4)",
        "UPDATE OR REPLACE pairs SET a = 'y' WHERE b = 3",
    ]);
    let (twin, remote) = (replica(schema).await, fresh_remote());
    converge(&[&pair.tracked, &twin], &remote).await;
    assert_eq!(table(&twin, "pairs"), ["'x'|4", "'y'|3"]);
    run(&twin, "INSERT INTO pairs VALUES ('new', 5)");
    run(&pair.tracked, "INSERT INTO pairs VALUES ('new', 6)");
    converge(&[&pair.tracked, &twin], &remote).await;
    assert_eq!(table(&pair.tracked, "pairs"), table(&twin, "pairs"));
    for replica in [&pair.tracked, &twin] {
        assert_eq!(replica.held().await.unwrap().rows.len(), 1);
        assert_verified(replica, &remote).await;
    }
}

/// The row that a REPLACE removes takes the one along that was to get its key, by a cascade: no trigger after the update runs then.
#[tokio::test]
async fn a_row_that_is_replaced_and_takes_the_updated_one_along_is_recorded() {
    for typed in ["TEXT", "INTEGER"] {
        for options in ["", " WITHOUT ROWID"] {
            let schema = format!(
                "CREATE TABLE t (k {typed} PRIMARY KEY, c {typed} REFERENCES t (k) ON DELETE CASCADE){options}"
            );
            let (a, b, remote) = (Replica::in_memory().unwrap(), Replica::in_memory().unwrap(), fresh_remote());
            for replica in [&a, &b] {
                run(replica, &schema);
                replica.track(&["t"], &TrackOptions::default()).await.unwrap();
                run(replica, "PRAGMA foreign_keys = ON");
            }
            run(&a, "INSERT INTO t VALUES ('1', NULL), ('2', '1'), ('3', NULL)");
            converge(&[&a, &b], &remote).await;
            run(&a, "UPDATE OR REPLACE t SET k = '1' WHERE k = '2'");
            assert_eq!(rows(&a.connection(), "SELECT count(*) FROM t"), ["1"], "{schema}");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(rows(&replica.connection(), "SELECT count(*) FROM t"), ["1"], "{schema}");
                assert_verified(replica, &remote).await;
            }
            // Where it takes nothing along, it is the row that it was under the other's key.
            run(&a, "INSERT INTO t VALUES ('5', NULL), ('6', NULL); UPDATE OR REPLACE t SET k = '5' WHERE k = '6'");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(rows(&replica.connection(), "SELECT count(*) FROM t"), ["2"], "{schema}");
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// Found by fuzzing: 1 and 1.0 are equal, and two values to an index on their text.
#[tokio::test]
async fn a_row_that_is_replaced_over_an_expression_is_recorded() {
    for (of, one, other) in [("", "1", "1.0"), ("NUMERIC", "-9223372036854775808", "-9223372036854775808.0")] {
        for index in ["(CAST(v AS TEXT))", "(w) WHERE typeof(v) = 'real'"] {
            let schema =
                format!("CREATE TABLE t (id TEXT PRIMARY KEY, v {of}, w); CREATE UNIQUE INDEX by_text ON t {index}");
            let (a, b, remote) = (replica(&schema).await, replica(&schema).await, fresh_remote());
            run(&a, &format!("INSERT INTO t VALUES ('a', {one}, 7), ('b', {other}, 7)"));
            converge(&[&a, &b], &remote).await;
            run(&a, &format!("UPDATE OR REPLACE t SET v = {other} WHERE id = 'a'"));
            assert_eq!(rows(&a.connection(), "SELECT id FROM t"), ["'a'"]);
            converge(&[&a, &b], &remote).await;
            assert_eq!(rows(&b.connection(), "SELECT id FROM t"), ["'a'"], "{of} {index}");
            for replica in [&a, &b] {
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// Found by fuzzing: SQLite compares a column by its affinity, and the same value in a trigger without.
#[tokio::test]
async fn a_row_that_is_replaced_over_a_comparison_is_recorded() {
    for (columns, index, one, other) in [
        ("p TEXT", "(CASE WHEN p > 1 THEN 1 ELSE p END)", "'-5'", "'-5'"),
        ("p TEXT, q", "(p > 1, q)", "'-5', 7", "'-6', 7"),
        ("p INTEGER", "(p = '5')", "5", "5"),
        ("p INTEGER, q TEXT", "(p IN (q, '7'))", "5, '5'", "7, '8'"),
        ("p REAL", "(p BETWEEN '4' AND '6')", "5", "5.5"),
        ("p, g TEXT AS (p)", "(CASE g WHEN 5 THEN 'five' END)", "5", "5"),
        // What is no text compares alike.
        ("p TEXT", "(p > 1)", "x'00'", "x'01'"),
        ("p INTEGER", "(p > '1')", "'a'", "'b'"),
        // By reading: text in a column of numbers, and a blob in one of text, are what they are to the index alone.
        ("p INTEGER", "(p > '1')", "5", "'+x'"),
        ("p REAL NOT NULL DEFAULT '+x'", "(p > '1')", "5", "NULL"),
        ("p INTEGER, q", "(p BETWEEN '1' AND 'z', q)", "5, 7", "'+x', 7"),
        ("p TEXT, q INTEGER", "(p > 1 AND q = '5')", "'a', 5", "x'00', 5"),
        ("p TEXT, g INTEGER AS (p)", "(g > '1')", "'5'", "'+x'"),
        // By reading: what is generated of a default that is yet to come.
        ("p INTEGER NOT NULL DEFAULT 5, g AS (p + 1) UNIQUE", "(id, p)", "5", "NULL"),
        ("p TEXT UNIQUE NOT NULL DEFAULT current_date", "(id, p)", "current_date", "NULL"),
    ] {
        let schema =
            format!("CREATE TABLE t (id TEXT PRIMARY KEY, {columns}); CREATE UNIQUE INDEX compared ON t {index}");
        let writes =
            [format!("INSERT INTO t VALUES ('a', {one})"), format!("INSERT OR REPLACE INTO t VALUES ('b', {other})")];
        is_replaced_everywhere(&schema, &writes).await;
    }
}

/// By reading: a trigger sees NULL yet in the place of a default, and what is generated of it.
#[tokio::test]
async fn a_row_that_is_replaced_by_what_is_generated_of_a_default_is_recorded() {
    for of in ["", "NOT NULL"] {
        let schema = format!(
            "CREATE TABLE t (id TEXT PRIMARY KEY, p INTEGER NOT NULL DEFAULT 5, g INT {of} AS (nullif(p, 3) + 1) UNIQUE)"
        );
        let (a, b, remote) = (replica(&schema).await, replica(&schema).await, fresh_remote());
        let first = if of.is_empty() { 3 } else { 4 };
        run(&a, &format!("INSERT INTO t VALUES ('a', 5), ('b', {first}), ('c', 9)"));
        converge(&[&a, &b], &remote).await;
        run(&a, "UPDATE OR REPLACE t SET p = NULL WHERE id = 'b'");
        assert_eq!(rows(&a.connection(), "SELECT id, p, g FROM t ORDER BY id"), ["'b'|5|6", "'c'|9|10"]);
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(rows(&replica.connection(), "SELECT id, p, g FROM t ORDER BY id"), ["'b'|5|6", "'c'|9|10"]);
            assert_verified(replica, &remote).await;
        }
    }
}

/// The second of two writes replaces the row of the first, here and on another replica.
async fn is_replaced_everywhere(schema: &str, [first, second]: &[String; 2]) {
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, first);
    converge(&[&a, &b], &remote).await;
    let before = rows(&a.connection(), "SELECT id FROM t");
    run(&a, second);
    let after = rows(&a.connection(), "SELECT id FROM t");
    assert_eq!((before.len(), after.len()), (1, 1), "{schema}");
    assert_ne!(before, after, "{schema}");
    converge(&[&a, &b], &remote).await;
    assert_eq!(rows(&b.connection(), "SELECT id FROM t"), after, "{schema}");
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// The same of the integer that SQLite has yet to choose.
#[tokio::test]
async fn a_row_that_is_replaced_over_a_comparison_of_its_integer_is_recorded() {
    for (column, index) in [
        ("g", "CREATE UNIQUE INDEX compared ON t (id > '0', v)"),
        ("g TEXT AS (id)", "CREATE UNIQUE INDEX compared ON t (CASE WHEN g < 5 THEN 'few' ELSE g END)"),
        ("g REAL AS (max(id, 2)), h TEXT AS (g)", "CREATE UNIQUE INDEX converted ON t (h || 'x')"),
        ("g INTEGER AS (max(id, 2) * 1.0), h TEXT AS (g)", "CREATE UNIQUE INDEX converted ON t (h || 'x')"),
        ("g INTEGER AS (max(id, 2) * 1.0), h INT AS (g * 1.0)", "CREATE UNIQUE INDEX converted ON t (h || 'x')"),
    ] {
        let schema = format!("CREATE TABLE t (id INTEGER PRIMARY KEY, v DEFAULT 7, {column}); {index}");
        let writes = ["INSERT INTO t (id) VALUES (1)", "INSERT OR REPLACE INTO t (v) VALUES (7)"];
        is_replaced_everywhere(&schema, &writes.map(str::to_owned)).await;
    }
}

/// Found by fuzzing: what is computed from the integer that SQLite has yet to choose is not what a trigger sees of it.
#[tokio::test]
async fn a_row_that_is_replaced_by_what_is_computed_from_its_integer_is_recorded() {
    for autoincrement in ["", "AUTOINCREMENT"] {
        for (column, index) in [
            ("g TEXT AS (CASE WHEN id > 2 THEN 2 ELSE id END) UNIQUE", ""),
            ("g AS (min(id, 2)), h AS (g || v) STORED UNIQUE", ""),
            ("g", "CREATE UNIQUE INDEX by_id ON t (min(id, 2), v)"),
            ("g", "CREATE UNIQUE INDEX by_id ON t (v) WHERE id > 1"),
        ] {
            let schema =
                format!("CREATE TABLE t (id INTEGER PRIMARY KEY {autoincrement}, v DEFAULT 7, {column}); {index}");
            for is_key in [true, false] {
                let make = async || {
                    let replica = Replica::in_memory().unwrap();
                    run(&replica, &schema);
                    let options = if is_key { keyed() } else { TrackOptions::default() };
                    replica.track_all(&options).await.unwrap();
                    replica
                };
                let (a, b, remote) = (make().await, make().await, fresh_remote());
                let what = format!("{autoincrement} {column} {index} {is_key}");
                for _ in 0..3 {
                    run(
                        &a,
                        "INSERT INTO t DEFAULT VALUES; REPLACE INTO t (v) VALUES (7), (7); REPLACE INTO t DEFAULT VALUES",
                    );
                    let here = rows(&a.connection(), "SELECT count(*) FROM t");
                    assert_eq!(here, ["2"], "{what}");
                    sync(&a, &remote).await;
                    assert_verified(&a, &remote).await;
                    if is_key {
                        converge(&[&a, &b], &remote).await;
                        assert_eq!(rows(&b.connection(), "SELECT count(*) FROM t"), here, "{what}");
                        assert_verified(&b, &remote).await;
                    }
                    run(&a, "DELETE FROM t WHERE id > 1");
                }
            }
        }
    }
}

/// By reading: an index in another collation than the key's keeps rows out that the key lets in.
#[tokio::test]
async fn an_index_on_the_key_in_another_collation_is_a_constraint_of_its_own() {
    for schema in [
        "CREATE TABLE user (name TEXT PRIMARY KEY, bio TEXT); CREATE UNIQUE INDEX by_name ON user (name COLLATE NOCASE)",
        "CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, bio TEXT);
         CREATE UNIQUE INDEX by_name ON user (name COLLATE NOCASE)",
    ] {
        let make = async || {
            let replica = Replica::in_memory().unwrap();
            run(&replica, schema);
            let mut options = TrackOptions::default();
            options.key = vec!["name".to_owned()];
            replica.track(&["user"], &options).await.unwrap();
            replica
        };
        let (a, b, remote) = (make().await, make().await, fresh_remote());
        let names = |replica: &Replica| rows(&replica.connection(), "SELECT name, bio FROM user");
        run(&a, "INSERT INTO user (name, bio) VALUES ('Bob', 'x')");
        converge(&[&a, &b], &remote).await;
        // A REPLACE takes the row away, unseen by triggers.
        run(&a, "REPLACE INTO user (name, bio) VALUES ('bob', 'y')");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(names(replica), ["'bob'|'y'"], "{schema}");
            assert_verified(replica, &remote).await;
        }
        // Two that meet: the older one keeps the value.
        let (c, d, remote) = (make().await, make().await, fresh_remote());
        converge(&[&c, &d], &remote).await;
        run(&c, "INSERT INTO user (name, bio) VALUES ('Eve', 'x')");
        run(&d, "INSERT INTO user (name, bio) VALUES ('eve', 'y')");
        converge(&[&d, &c], &remote).await;
        assert_eq!(names(&c), names(&d), "{schema}");
        for replica in [&c, &d] {
            assert_eq!(replica.held().await.unwrap().rows.len(), 1, "{schema}");
            assert_verified(replica, &remote).await;
        }
    }
}
