//! References to integers that SQLite gives: rows that get other integers or none, are written over, or come before their parents.

mod common;

use common::integers::{alike, ask, comes_to_an_end, converge, held, unenforced, usual};
use common::wall::{START_MS, Wall, on_the_wall};
use common::*;
use rusqlite::config::DbConfig;
use zvon::{AlterOptions, Replica, TrackOptions};

/// Between a write and the next merge: the parent is gone, and nobody has looked yet who refers to it.
#[tokio::test]
async fn verify_knows_a_reference_to_a_row_that_was_deleted_since_the_last_merge() {
    let (a, remote) = (Replica::in_memory().unwrap(), fresh_remote());
    run(
        &a,
        "CREATE TABLE p (k INTEGER PRIMARY KEY); CREATE TABLE c (k INTEGER PRIMARY KEY, p INTEGER NOT NULL REFERENCES p, q INTEGER REFERENCES p)",
    );
    let mut options = TrackOptions::default();
    options.enforce_fk = Some(true);
    a.track(&["p", "c"], &options).await.unwrap();
    run(
        &a,
        "PRAGMA foreign_keys = OFF; INSERT INTO p VALUES (1), (2); INSERT INTO c (p, q) VALUES (2, 1); DELETE FROM p",
    );
    assert_eq!(a.verify().await.unwrap().problems, [] as [&str; 0]);
    // A reference that somebody wrote past the triggers is still told.
    let triggers = |on| a.connection().set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on).unwrap();
    triggers(false);
    run(&a, "UPDATE c SET p = 1");
    triggers(true);
    let told = a.verify().await.unwrap().problems;
    assert!(told.iter().any(|problem| problem.contains("column p is not what the log says")), "{told:?}");
    run(&a, "PRAGMA foreign_keys = ON");
    sync(&a, &remote).await;
    assert_eq!(held(&a).await, ["c foreign key"]);
    assert_verified(&a, &remote).await;
}

/// Found by fuzzing: digits in a column of text, or of no type, refer to a row as integers do.
#[tokio::test]
async fn references_in_columns_of_text_follow_their_rows() {
    for of in ["INTEGER", "TEXT", "", "NUMERIC", "VARCHAR(9)", "REAL"] {
        for (is_sealed, indexed) in [(false, false), (true, false), (false, true), (true, true)] {
            let schema = format!(
                "CREATE TABLE row (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE child (id INTEGER PRIMARY KEY, of {of} REFERENCES row, name TEXT);
                 {}",
                if indexed { "CREATE INDEX by_of ON child (of)" } else { "" }
            );
            let make = async || unenforced(&schema).await;
            let (a, b, remote) = (make().await, make().await, fresh_remote());
            let seal = async |replica: &Replica| {
                if is_sealed {
                    replica.log(None, None, 1).await.unwrap();
                }
            };
            let pairs = "SELECT row.name, child.name FROM child LEFT JOIN row ON row.id = child.of ORDER BY child.name";
            run(&a, "INSERT INTO row VALUES (5, 'one'); INSERT INTO child VALUES (1, '5', 'a'), (2, '05', 'b')");
            seal(&a).await;
            // The row has another integer, and another row has its one.
            run(&a, "UPDATE row SET id = 6; INSERT INTO row VALUES (5, 'two')");
            seal(&a).await;
            assert_eq!(a.verify().await.unwrap().problems, [] as [&str; 0], "{of} {is_sealed} {indexed}");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(ask(replica, pairs), ["'two'|'a'", "'two'|'b'"], "{of} {is_sealed} {indexed}");
                assert_verified(replica, &remote).await;
            }
            // A row that is deleted elsewhere takes its references away.
            run(&b, "DELETE FROM row WHERE name = 'two'");
            converge(&[&b, &a], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(ask(replica, pairs), ["NULL|'a'", "NULL|'b'"], "{of} {is_sealed} {indexed}");
                assert_eq!(ask(replica, "SELECT of FROM child"), ["NULL", "NULL"], "{of} {is_sealed} {indexed}");
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// Found by fuzzing: a reference is what SQLite makes of the column's value, large reals and odd digits too.
#[tokio::test]
async fn whatever_is_an_integer_to_sqlite_is_a_reference() {
    let large = 1i64 << 62;
    for (of, value, id) in [
        ("REAL", large.to_string(), large),
        ("REAL", format!("-{large}"), -large),
        ("", format!("{large}.0"), large),
        ("TEXT", "' 5 '".to_owned(), 5),
        ("TEXT", "'5.0'".to_owned(), 5),
        ("", "'+5'".to_owned(), 5),
        ("", "'.5e1'".to_owned(), 5),
    ] {
        let schema = format!(
            "CREATE TABLE row (id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE child (id INTEGER PRIMARY KEY, of {of} REFERENCES row, name TEXT)"
        );
        let (a, b, remote) = (usual(&schema).await, usual(&schema).await, fresh_remote());
        run(&b, &format!("INSERT INTO row VALUES ({id}, 'theirs')"));
        run(
            &a,
            &format!(
                "PRAGMA foreign_keys = ON; INSERT INTO row VALUES ({id}, 'ours'); INSERT INTO child VALUES (1, {value}, 'a')"
            ),
        );
        converge(&[&a, &b], &remote).await;
        let pairs = "SELECT row.name, child.name FROM child LEFT JOIN row ON row.id = child.of";
        assert_eq!(ask(&a, pairs), ["'ours'|'a'"], "{of} {value}");
        // There it is the next integer, which a real may be unable to hold: another row's in its place would be a lie.
        let held: Vec<String> = b.held().await.unwrap().rows.into_iter().map(|row| row.reason).collect();
        match of == "REAL" && id > 0 {
            true => assert_eq!((held, ask(&b, pairs)), (vec!["foreign key".to_owned()], vec![]), "{of} {value}"),
            false => assert_eq!((held, ask(&b, pairs)), (vec![], vec!["'ours'|'a'".to_owned()]), "{of} {value}"),
        }
        for replica in [&a, &b] {
            assert_verified(replica, &remote).await;
        }
    }
}

/// Found by fuzzing: an integer that two rows had, one after the other, and that the second gave up or left before the next merge.
#[tokio::test]
async fn a_reference_to_an_integer_that_two_rows_had_is_to_the_last_one() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, r INTEGER REFERENCES t, v)";
    let pairs = "SELECT c.v, p.v FROM t AS c LEFT JOIN t AS p ON p.id = c.r WHERE c.v = 'b'";
    for (then, to) in [("DELETE FROM t WHERE id = 1", "NULL"), ("UPDATE t SET id = 9 WHERE id = 1", "'c'")] {
        for is_sealed in [false, true] {
            let make = async || unenforced(schema).await;
            let (a, b, remote) = (make().await, make().await, fresh_remote());
            run(&a, "INSERT INTO t VALUES (1, NULL, 'a'), (2, 1, 'b')");
            if is_sealed {
                converge(&[&a, &b], &remote).await;
            }
            run(&a, &format!("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, NULL, 'c'); {then}"));
            assert_eq!(a.verify().await.unwrap().problems, [] as [&str; 0], "{then} {is_sealed}");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(ask(replica, pairs), [format!("'b'|{to}")], "{then} {is_sealed}");
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// By reading: a table that is tracked after the rows that refer to it have come, and no longer.
#[tokio::test]
async fn rows_that_came_before_their_parents_table_was_tracked_refer_to_its_rows() {
    for (enforce_fk, strict) in [(None, ""), (Some(false), ""), (None, "STRICT"), (Some(false), "STRICT")] {
        let item = format!("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT) {strict}");
        let migration = format!(
            "CREATE TABLE category (id INTEGER PRIMARY KEY, name TEXT) {strict};
             ALTER TABLE item ADD COLUMN category_id INTEGER REFERENCES category"
        );
        let what = format!("{enforce_fk:?} {strict}");
        let (a, b, remote) = (Replica::in_memory().unwrap(), Replica::in_memory().unwrap(), fresh_remote());
        let mut options = TrackOptions::default();
        options.enforce_fk = enforce_fk;
        for replica in [&a, &b] {
            run(replica, &item);
            replica.track_all(&options).await.unwrap();
        }
        run(&a, "INSERT INTO item VALUES (1, 'one'), (2, 'two')");
        converge(&[&a, &b], &remote).await;
        run(&a, &migration);
        a.track(&["category"], &options).await.unwrap();
        run(&a, "INSERT INTO category VALUES (7, 'x'); UPDATE item SET category_id = 7 WHERE id = 1");
        converge(&[&a, &b], &remote).await;
        // The other one syncs between its migration and tracking the new table.
        run(&b, &migration);
        converge(&[&b, &a], &remote).await;
        run(&b, "INSERT INTO category VALUES (7, 'its own')");
        b.track(&["category"], &options).await.unwrap();
        converge(&[&b, &a], &remote).await;
        let pairs =
            "SELECT item.name, category.name FROM item LEFT JOIN category ON category.id = category_id ORDER BY 1";
        for replica in [&a, &b] {
            assert_eq!(ask(replica, pairs), ["'one'|'x'", "'two'|NULL"], "{what}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// By reading: a reference that a rebuild declares on a column that was none before, at its own time on each replica.
#[tokio::test]
async fn a_column_that_becomes_a_reference_later_here_than_elsewhere_is_one() {
    for is_told in [true, false] {
        let schema = "CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT);
                      CREATE TABLE album (id INTEGER PRIMARY KEY, title TEXT, artist_id INTEGER)";
        let rebuild = "CREATE TABLE new (id INTEGER PRIMARY KEY, title TEXT, artist_id INTEGER REFERENCES artist);
                       INSERT INTO new SELECT * FROM album; DROP TABLE album; ALTER TABLE new RENAME TO album";
        let migrate = async |replica: &Replica| {
            if is_told {
                replica.alter_begin(&["album"]).await.unwrap();
            }
            run(replica, &format!("PRAGMA foreign_keys = OFF; {rebuild}; PRAGMA foreign_keys = ON"));
            if is_told {
                replica.alter_end("album", &zvon::AlterOptions::default()).await.unwrap();
            }
        };
        let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
        converge(&[&a, &b], &remote).await;
        run(&b, "INSERT INTO artist VALUES (1, 'Blur')");
        run(&a, "INSERT INTO artist VALUES (1, 'Abba'); INSERT INTO album VALUES (1, 'Arrival', 1)");
        converge(&[&a, &b], &remote).await;
        migrate(&a).await;
        converge(&[&a, &b], &remote).await;
        migrate(&b).await;
        converge(&[&b, &a], &remote).await;
        for replica in [&a, &b] {
            let pairs = ask(replica, "SELECT title, name FROM album LEFT JOIN artist ON artist.id = artist_id");
            assert_eq!(pairs, ["'Arrival'|'Abba'"], "{is_told}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// The same where the references are no local integers, and rows are held or not.
#[tokio::test]
async fn a_table_that_is_tracked_or_not_counts_for_the_rows_that_refer_to_it() {
    let schema =
        "CREATE TABLE parent (id TEXT PRIMARY KEY); CREATE TABLE child (id TEXT PRIMARY KEY, p TEXT REFERENCES parent)";
    let mut options = TrackOptions::default();
    options.enforce_fk = Some(true);
    let make = async |tables: &[&str]| {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        replica.track(tables, &options).await.unwrap();
        replica
    };
    let (a, b, remote) = (make(&["parent", "child"]).await, make(&["child"]).await, fresh_remote());
    let held = async |replica: &Replica| replica.held().await.unwrap().rows.len();
    run(&a, "INSERT INTO child VALUES ('a', 'nobody')");
    converge(&[&a, &b], &remote).await;
    assert_eq!((held(&a).await, held(&b).await), (1, 0));
    b.track(&["parent"], &options).await.unwrap();
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!((held(replica).await, ask(replica, "SELECT id FROM child")), (1, vec![]));
        assert_verified(replica, &remote).await;
    }
    b.untrack(&["parent"]).await.unwrap();
    converge(&[&a, &b], &remote).await;
    assert_eq!((held(&b).await, ask(&b, "SELECT id FROM child")), (0, vec!["'a'".to_owned()]));
    assert_verified(&b, &remote).await;
}

/// By reading: of rows that are known by their parents, those whose parents changed places were deleted everywhere.
#[tokio::test]
async fn rows_known_by_parents_that_change_places_are_all_there() {
    let schema = "CREATE TABLE usr (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT);
                  CREATE TABLE bio (usr INTEGER PRIMARY KEY REFERENCES usr ON UPDATE CASCADE ON DELETE CASCADE, text TEXT);
                  CREATE TABLE usr_tag (usr INTEGER REFERENCES usr ON UPDATE CASCADE ON DELETE CASCADE, tag INTEGER REFERENCES tag ON UPDATE CASCADE ON DELETE CASCADE, note TEXT, PRIMARY KEY (usr, tag));
                  INSERT INTO usr VALUES (1, 'a'), (2, 'b'); INSERT INTO tag VALUES (1, 'x'), (2, 'y'); INSERT INTO bio VALUES (1, 'of 1'), (2, 'of 2');
                  INSERT INTO usr_tag VALUES (1, 1, '1 1'), (1, 2, '1 2'), (2, 1, '2 1'), (2, 2, '2 2')";
    let swap = |table: &str| {
        format!(
            "UPDATE {table} SET id = -1 WHERE id = 1; UPDATE {table} SET id = 1 WHERE id = 2; UPDATE {table} SET id = 2 WHERE id = -1;"
        )
    };
    let shift = |table: &str| {
        format!(
            "UPDATE {table} SET id = 3 WHERE id = 2; UPDATE {table} SET id = 2 WHERE id = 1; INSERT INTO {table} VALUES (1, 'new');"
        )
    };
    let pairs = "SELECT name, text FROM usr JOIN bio ON bio.usr = usr.id ORDER BY 1";
    let links = "SELECT name, word, note FROM usr_tag JOIN usr ON usr.id = usr JOIN tag ON tag.id = tag ORDER BY 1, 2";
    for enforced in ["ON", "OFF"] {
        for writes in [
            swap("usr"),
            shift("usr"),
            swap("usr") + &swap("tag"),
            shift("usr") + &swap("tag"),
            shift("tag") + &shift("usr"),
        ] {
            let (a, b, remote) =
                (usual(schema).await, usual(schema.split("INSERT").next().unwrap()).await, fresh_remote());
            converge(&[&a, &b], &remote).await;
            run(&a, &format!("PRAGMA foreign_keys = {enforced}; {writes}"));
            let expected = [ask(&a, pairs), ask(&a, links)];
            assert_eq!([expected[0].len(), expected[1].len()], [2, 4]);
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!([ask(replica, pairs), ask(replica, links)], expected, "foreign keys {enforced}: {writes}");
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// By reading: the integer of a parent that went meanwhile was given to another row, which was taken for the parent.
#[tokio::test]
async fn an_integer_that_a_row_of_a_table_that_is_not_tracked_refers_to_is_given_to_nobody_else() {
    let schema = "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
                  CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent, n);
                  INSERT INTO parent VALUES (1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO child VALUES (1, 2, 0), (2, 3, 0)";
    for case in ["altered", "untracked"] {
        let (a, b, remote) = (usual(schema).await, usual(schema.split("INSERT").next().unwrap()).await, fresh_remote());
        converge(&[&a, &b], &remote).await;
        match case {
            "untracked" => b.untrack(&["child"]).await.unwrap(),
            _ => b.alter_begin(&["child"]).await.unwrap(),
        }
        // One goes, another gets another integer; new rows have theirs where they were made.
        run(&b, "PRAGMA foreign_keys = OFF; UPDATE parent SET id = 20 WHERE id = 3");
        run(
            &a,
            "PRAGMA foreign_keys = OFF; UPDATE child SET parent_id = 1 WHERE id = 1; DELETE FROM parent WHERE id = 2",
        );
        converge(&[&a, &b], &remote).await;
        run(
            &a,
            "INSERT INTO parent VALUES (2, 'new'); UPDATE parent SET id = 30 WHERE id = 3; UPDATE child SET parent_id = 30 WHERE id = 2; INSERT INTO parent VALUES (3, 'newer')",
        );
        converge(&[&a, &b], &remote).await;
        assert_eq!(ask(&b, "SELECT name FROM parent WHERE id IN (2, 3)"), [] as [&str; 0], "{case}");
        match case {
            "untracked" => drop(b.track(&["child"], &TrackOptions::default()).await.unwrap()),
            _ => drop(b.alter_end("child", &AlterOptions::default()).await.unwrap()),
        }
        let shown =
            alike(&[&b, &a], &remote, "SELECT child.n, name FROM child JOIN parent ON parent.id = parent_id").await;
        assert_eq!(shown, ["0|'one'", "0|'three'"], "{case}");
        // What nobody refers to any more is free again.
        run(&a, "INSERT INTO parent VALUES (22, 'last')");
        converge(&[&a, &b], &remote).await;
        assert_eq!(ask(&b, "SELECT count(*) FROM ZV_FREED"), ["0"]);
    }
}

/// Seed 3710144 of the simulation: such a row stayed under a number that nobody had any more, and nobody knew it.
#[tokio::test]
async fn a_row_with_a_reference_to_nobody_is_held_without_a_parent_in_its_key() {
    let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY, name TEXT);
                  CREATE TABLE link (a INTEGER REFERENCES p, b INTEGER REFERENCES p, c INTEGER REFERENCES p, PRIMARY KEY (a, b))";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    run(&a, "INSERT INTO p VALUES (1, 'one'), (2, 'two')");
    converge(&[&a, &b], &remote).await;
    run(&b, "PRAGMA foreign_keys = OFF; INSERT INTO link VALUES (1, 2, 77)");
    sync(&b, &remote).await;
    run(&a, "DELETE FROM p WHERE id = 1");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(
            (ask(replica, "SELECT * FROM link").len(), held(replica).await),
            (0, vec!["link foreign key".to_owned()])
        );
        assert_verified(replica, &remote).await;
    }
}

/// By reading on from seed 5080126 of the simulation: of a row of which a reference is left out of the log, the others go on.
#[tokio::test]
async fn a_row_with_a_reference_to_nobody_follows_its_other_parents() {
    let schema = "CREATE TABLE row (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
                  CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES row, q INTEGER REFERENCES row)";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = TrackOptions::default();
        options.enforce_fk = Some(false);
        replica.track(&["child"], &options).await.unwrap();
        options.key = vec!["name".to_owned()];
        replica.track(&["row"], &options).await.unwrap();
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'); INSERT INTO child VALUES (1, 77, 1)");
    converge(&[&a, &b], &remote).await;
    run(&b, "DELETE FROM row");
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "child"), ["1|77|NULL"]);
    assert_verified(&a, &remote).await;
    run(&b, "INSERT INTO row VALUES (5, 'x')");
    converge(&[&b, &a], &remote).await;
    assert_eq!(ask(&a, "SELECT p, name FROM child JOIN row ON row.id = q"), ["77|'x'"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// Found by fuzzing, and by reading on from there: such a row waited for any row of its table, and so for itself, without end.
#[test]
fn a_default_that_is_no_reference_is_waited_for_by_nobody() {
    comes_to_an_end(async || {
        for default in ["''", "1e999", "x'00'"] {
            let make = async || {
                let replica = Replica::in_memory().unwrap();
                let column = format!("parent TEXT DEFAULT {default} UNIQUE REFERENCES part");
                run(&replica, &format!("CREATE TABLE part (id INTEGER PRIMARY KEY, {column}, name TEXT)"));
                let mut options = TrackOptions::default();
                options.enforce_fk = Some(false);
                replica.track_all(&options).await.unwrap();
                replica
            };
            let (a, b, remote) = (make().await, make().await, fresh_remote());
            for name in ["one", "two", "three"] {
                // Left out of the log, as it is to nobody; elsewhere the default stands in its place.
                run(&a, &format!("INSERT INTO part (parent, name) VALUES ('{name}', '{name}')"));
                run(&a, "UPDATE part SET name = name || '.'");
                converge(&[&a, &b], &remote).await;
            }
            assert_eq!(ask(&b, "SELECT parent, name FROM part"), ["NULL|'one...'", "NULL|'two..'", "NULL|'three.'"]);
            for replica in [&a, &b] {
                assert_verified(replica, &remote).await;
            }
        }
    });
}

/// Found by fuzzing: rows that wait for each other, and keep values from others meanwhile, called each other without end.
#[test]
fn held_rows_that_wait_for_each_other_and_keep_values_come_to_rest() {
    comes_to_an_end(async || {
        let wall = Wall::at(START_MS);
        let make = async |seed| {
            on_the_wall(
                unenforced("CREATE TABLE t (id INTEGER PRIMARY KEY, r REAL REFERENCES t, u TEXT UNIQUE, v UNIQUE)")
                    .await,
                &wall,
                seed,
            )
        };
        let (a, b, remote) = (make(1).await, make(2).await, fresh_remote());
        run(&a, "INSERT INTO t VALUES (3, NULL, 'x', 3), (4, NULL, 'y', 4)");
        sync(&a, &remote).await;
        wall.advance(1);
        run(&a, "INSERT INTO t VALUES (1, NULL, 'p', 1), (2, 1, 'q', 2); UPDATE t SET r = 2 WHERE id = 1");
        wall.advance(1);
        // Others have their integers here, and no real is any of those that come next.
        run(&b, "INSERT INTO t VALUES (1, NULL, 'one', 5), (2, NULL, 'two', 6), (4611686018427387904, NULL, 'far', 7)");
        // Kept out by x and y, with values that p and q took first.
        run(&b, "INSERT INTO t VALUES (5, NULL, 'x', NULL), (6, NULL, 'y', NULL)");
        wall.advance(1);
        run(&b, "UPDATE t SET v = id - 4 WHERE v IS NULL");
        converge(&[&b, &a], &remote).await;
        assert_eq!(
            ask(&a, "SELECT u, r FROM t ORDER BY v"),
            ["'p'|2.0", "'q'|1.0", "'x'|NULL", "'y'|NULL", "'one'|NULL", "'two'|NULL", "'far'|NULL"]
        );
        assert_eq!(ask(&b, "SELECT u FROM t ORDER BY v"), ["'x'", "'y'", "'one'", "'two'", "'far'"]);
        assert_eq!(held(&b).await, ["t foreign key", "t foreign key", "t unique", "t unique"]);
        for replica in [&a, &b] {
            assert_verified(replica, &remote).await;
        }
    });
}

/// Found by fuzzing: what a row claims by its own integer, which it gives up when it is held, it claims again when it comes back.
#[tokio::test]
async fn a_row_counts_its_own_integer_where_null_would_claim_more() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, r INTEGER REFERENCES t, v);
                  CREATE UNIQUE INDEX v_and_id ON t (v, id + 1) WHERE typeof(r) <> 'blob'";
    let (a, b, c, remote) =
        (unenforced(schema).await, unenforced(schema).await, unenforced(schema).await, fresh_remote());
    run(&a, "INSERT INTO t VALUES (1, NULL, 'parent'), (2, 1, 'child')");
    converge(&[&a, &b], &remote).await;
    run(&a, "DELETE FROM t WHERE id = 1");
    assert_eq!(alike(&[&a, &b, &c], &remote, "SELECT v FROM t").await, [] as [&str; 0]);
    for replica in [&a, &b, &c] {
        assert_eq!(held(replica).await, ["t foreign key"]);
    }
}

/// Found by the simulation: whether NULL, in the place of one reference, claims more, or breaks a CHECK, depends on the others; the
/// row is looked at again when those go.
#[tokio::test]
async fn a_row_held_as_null_would_count_comes_when_its_other_reference_goes() {
    for rule in ["CREATE UNIQUE INDEX alone ON t (b) WHERE a IS NULL", "CHECK ((a IS NULL) = (b IS NULL))"] {
        let check = if rule.starts_with("CHECK") { format!(", {rule}") } else { String::new() };
        let index = if rule.starts_with("CREATE") { rule } else { "" };
        let schema = format!(
            "CREATE TABLE p (id INTEGER PRIMARY KEY);
             CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER REFERENCES p, b INTEGER REFERENCES p, v{check}); {index}"
        );
        let (a, b, remote) = (unenforced(&schema).await, unenforced(&schema).await, fresh_remote());
        run(&a, "INSERT INTO p VALUES (1), (2); INSERT INTO t VALUES (1, 1, 2, 'row')");
        converge(&[&a, &b], &remote).await;
        run(&a, "DELETE FROM p WHERE id = 1");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT v FROM t").await, [] as [&str; 0], "{rule}");
        assert_eq!(held(&a).await, ["t foreign key"], "{rule}");
        run(&a, "DELETE FROM p");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT a, b, v FROM t").await, ["NULL|NULL|'row'"], "{rule}");
    }
}

/// Found by the simulation (seed 7100121): the other parent need not go; it is enough that it is not shown any more.
#[tokio::test]
async fn a_row_held_as_null_would_count_comes_when_its_other_reference_is_held() {
    let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY, of INTEGER NOT NULL REFERENCES p);
        CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER REFERENCES p, b INTEGER REFERENCES p, v);
        CREATE UNIQUE INDEX alone ON t (b) WHERE a IS NULL";
    let (a, b, remote) = (unenforced(schema).await, unenforced(schema).await, fresh_remote());
    run(&a, "INSERT INTO p VALUES (1, 1), (2, 3), (3, 3); INSERT INTO t VALUES (1, 1, 2, 'row')");
    converge(&[&a, &b], &remote).await;
    run(&a, "DELETE FROM p WHERE id = 1");
    assert_eq!(alike(&[&a, &b], &remote, "SELECT v FROM t").await, [] as [&str; 0]);
    run(&a, "DELETE FROM p WHERE id = 3");
    assert_eq!(alike(&[&a, &b], &remote, "SELECT a, b, v FROM t").await, ["NULL|NULL|'row'"]);
    assert_eq!(held(&a).await, ["p foreign key"]);
}

/// Three rows of which each is shown just when the next one is not: no state is right, and the merge ends all the same.
#[test]
fn rows_that_keep_each_other_out_in_a_circle_come_to_rest() {
    comes_to_an_end(async || {
        let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY);
                      CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER REFERENCES p, b INTEGER REFERENCES t);
                      CREATE UNIQUE INDEX alone ON t (b) WHERE a IS NULL";
        let (a, b, remote) = (unenforced(schema).await, unenforced(schema).await, fresh_remote());
        run(&a, "INSERT INTO p VALUES (1); INSERT INTO t VALUES (1, 1, 2), (2, 1, 3), (3, 1, 1)");
        converge(&[&a, &b], &remote).await;
        run(&a, "DELETE FROM p");
        converge(&[&a, &b], &remote).await;
        // Nothing is lost: they are all there again with what they lack.
        run(&b, "INSERT INTO p VALUES (1)");
        run(&b, "INSERT INTO t VALUES (9, NULL, NULL)");
        converge(&[&b, &a], &remote).await;
        for replica in [&a, &b] {
            let shown: usize = ask(replica, "SELECT 1 FROM t").len();
            assert_eq!(shown + replica.held().await.unwrap().rows.len(), 4);
        }
    });
}

/// Found by fuzzing: the spellings of one integer are different values where they were written, and one reference elsewhere.
#[tokio::test]
async fn unique_references_that_are_spelled_in_two_ways_are_one_elsewhere() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, r TEXT UNIQUE REFERENCES t, v)";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    run(&a, "INSERT INTO t VALUES (1, NULL, 'parent'); INSERT INTO t VALUES (2, '1', 'first'), (3, '01', 'second')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&a, "SELECT v, r FROM t ORDER BY id"), ["'parent'|NULL", "'first'|'1'", "'second'|'01'"]);
    assert_eq!(ask(&b, "SELECT v, r FROM t ORDER BY id"), ["'parent'|NULL", "'first'|'1'"]);
    assert_eq!(held(&b).await, ["t unique"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
    run(&a, "UPDATE t SET r = 2 WHERE v = 'second'");
    assert_eq!(alike(&[&a, &b], &remote, "SELECT v FROM t ORDER BY v").await, ["'first'", "'parent'", "'second'"]);
}

/// Found by fuzzing: a CHECK that asks for integers was asked with those that rows had, or would have had, then.
#[tokio::test]
async fn verify_cannot_say_with_which_integer_a_check_was_asked() {
    let wall = Wall::at(START_MS);
    let make = async |seed| {
        let parent = "parent BLOB DEFAULT -9223372036854775808 REFERENCES t CHECK (length(parent) < 9)";
        on_the_wall(unenforced(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, {parent})")).await, &wall, seed)
    };
    let (a, b, remote) = (make(1).await, make(2).await, fresh_remote());
    // References to nobody: elsewhere the default stands in their place, and is the second row's integer.
    run(&a, "INSERT INTO t VALUES (5, x'')");
    wall.advance(1);
    run(&a, "INSERT INTO t VALUES (-9223372036854775808, x'')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(held(&b).await, ["t check"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// Found by fuzzing: to SQLite the least integer and the real that equals it are one value, and an update from one to the other none.
#[tokio::test]
async fn verify_takes_the_least_real_for_the_reference_that_it_was() {
    let a = unenforced("CREATE TABLE t (id INTEGER PRIMARY KEY, parent NUMERIC REFERENCES t, r REAL)").await;
    run(&a, "INSERT INTO t VALUES (-9223372036854775808, -9223372036854775808, -9223372036854775808)");
    run(&a, "UPDATE t SET parent = r");
    assert_eq!(ask(&a, "SELECT typeof(parent) FROM t"), ["'real'"]);
    assert_eq!(a.verify().await.unwrap().problems, [] as [&str; 0]);
    // What refers to nobody elsewhere, as to another row, is still told.
    let triggers = |on| a.connection().set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on).unwrap();
    triggers(false);
    run(&a, "UPDATE t SET parent = -9223372036854775807");
    triggers(true);
    let told = a.verify().await.unwrap().problems;
    assert!(told.iter().any(|problem| problem.contains("column parent is not what the log says")), "{told:?}");
}

/// Whoever referred to a row by its integer refers to the one that took that over with the row removed: by an insert, or an update.
#[tokio::test]
async fn children_of_an_integer_that_a_replace_took_over_follow_it() {
    let tables = "CREATE TABLE p (id INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE, v TEXT);
        CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p ON UPDATE CASCADE, t TEXT);
        CREATE TABLE l (p INTEGER REFERENCES p ON UPDATE CASCADE, t TEXT, v TEXT, PRIMARY KEY (p, t));
        INSERT INTO p VALUES (1, 'u1', 'one'), (2, 'u2', 'two'); INSERT INTO c VALUES (1, 1, 'x'), (2, 2, 'y');
        INSERT INTO l VALUES (1, 'x', 'lx'), (2, 'y', 'ly')";
    let shown = "SELECT p.u, c.t, (SELECT group_concat(v) FROM (SELECT v FROM l WHERE l.p = p.id ORDER BY v)) FROM c JOIN p ON p.id = c.p ORDER BY 2";
    for (key, on, sql) in [
        (Some("u"), "OFF", "REPLACE INTO p VALUES (1, 'u9', 'nine')"),
        (
            Some("u"),
            "OFF",
            "UPDATE OR REPLACE p SET u = 'u9', id = 2 WHERE id = 1; UPDATE c SET p = 2; UPDATE l SET p = 2",
        ),
        (None, "OFF", "UPDATE c SET p = 2; UPDATE l SET p = 2; UPDATE OR REPLACE p SET id = 2 WHERE id = 1"),
        (
            None,
            "OFF",
            "UPDATE OR REPLACE p SET id = 2 WHERE id = 1; DELETE FROM c WHERE p = 1; DELETE FROM l WHERE p = 1",
        ),
        (
            None,
            "ON",
            "DELETE FROM c WHERE p = 2; DELETE FROM l WHERE p = 2; UPDATE OR REPLACE p SET id = 2 WHERE id = 1",
        ),
    ] {
        let make = async || {
            let replica = Replica::in_memory().unwrap();
            run(&replica, tables);
            let mut options = TrackOptions::default();
            options.key = key.into_iter().map(str::to_owned).collect();
            replica.track(&["p"], &options).await.unwrap();
            replica.track(&["c", "l"], &TrackOptions::default()).await.unwrap();
            replica
        };
        let (a, b, remote) = (make().await, make().await, fresh_remote());
        converge(&[&a, &b], &remote).await;
        run(&a, &format!("PRAGMA foreign_keys = {on}; BEGIN; {sql}; COMMIT"));
        let written = ask(&a, shown);
        assert_ne!(written, [] as [&str; 0], "{sql}");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(ask(replica, shown), written, "{sql}");
            assert_eq!(held(replica).await, [] as [&str; 0], "{sql}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// An UPSERT that does nothing notes the row that it met; that one gets another integer before the note is read.
#[tokio::test]
async fn a_row_that_an_upsert_left_alone_keeps_its_id_under_another_integer() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v); INSERT INTO t VALUES (1, 'x', 'old')";
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let (a, b) = (on_the_wall(usual(schema).await, &wall, 1), on_the_wall(usual(schema).await, &wall, 2));
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t (u) VALUES ('x') ON CONFLICT DO NOTHING; UPDATE t SET id = 9; UPDATE t SET id = 10");
    converge(&[&a, &b], &remote).await;
    let kept = async || a.log(Some("t"), None, 9).await.unwrap();
    assert!(kept().await.iter().all(|entry| entry.row == "1" && !entry.deletes), "{:?}", kept().await);
    // One that a REPLACE removed is gone, though another row that gets its integer moves on.
    run(
        &a,
        "REPLACE INTO t (u, v) VALUES ('x', 'new'); INSERT INTO t VALUES (10, 'y', 'other'); UPDATE t SET id = 20 WHERE u = 'y'",
    );
    let shown = alike(&[&a, &b], &remote, "SELECT u, v FROM t ORDER BY u").await;
    assert_eq!(shown, ["'x'|'new'", "'y'|'other'"]);
    assert!(kept().await.iter().any(|entry| entry.row == "1" && entry.deletes));
}

const PROFILES: &str = "CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE profile (user_id INTEGER PRIMARY KEY REFERENCES user, bio TEXT)";

/// Its rows would be known by ids of their own, and come to other rows of the parent once that is tracked.
#[tokio::test]
async fn a_table_whose_integer_key_is_another_tables_is_not_tracked_before_it() {
    let replica = Replica::in_memory().unwrap();
    run(&replica, PROFILES);
    let usual = TrackOptions::default();
    let mut but_user = TrackOptions::default();
    but_user.except = vec!["user".into()];
    for tracked in [replica.track(&["profile"], &usual).await, replica.track_all(&but_user).await] {
        let error = tracked.unwrap_err().to_string();
        assert!(error.contains("profile has a key that refers to user") && error.contains("track user"), "{error}");
    }
    // The integers of a parent that is never tracked can be the same everywhere.
    replica.track(&["profile"], &keyed()).await.unwrap();
    for names in [&["profile", "user"][..], &["user", "profile"]] {
        let replica = Replica::in_memory().unwrap();
        run(&replica, PROFILES);
        replica.track(names, &usual).await.unwrap();
    }
    // Where the parent refers back, it comes first all the same.
    let replica = Replica::in_memory().unwrap();
    run(
        &replica,
        "CREATE TABLE a (id INTEGER PRIMARY KEY REFERENCES b, v); CREATE TABLE b (id INTEGER PRIMARY KEY, best INTEGER REFERENCES a)",
    );
    replica.track_all(&usual).await.unwrap();
    run(&replica, "INSERT INTO b VALUES (7, NULL); INSERT INTO a VALUES (7, 'x')");
    assert_eq!(
        replica.log(Some("a"), None, 9).await.unwrap()[0].row,
        replica.log(Some("b"), None, 9).await.unwrap()[0].row
    );
}

/// The integers of a parent that are the same everywhere identify the rows of such a table, too.
#[tokio::test]
async fn a_key_that_refers_to_integers_that_are_the_same_everywhere_is_one_of_them() {
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, PROFILES);
        replica.track(&["user"], &keyed()).await.unwrap();
        replica.track(&["profile"], &TrackOptions::default()).await.unwrap();
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(&a, "INSERT INTO user VALUES (1, 'ann'); INSERT INTO profile VALUES (1, 'of ann')");
    run(&b, "INSERT INTO user VALUES (2, 'bob'), (1, 'ann'); INSERT INTO profile VALUES (1, 'of ann'), (2, 'of bob')");
    let shown = alike(&[&a, &b], &remote, "SELECT name, bio FROM user JOIN profile ON user_id = id ORDER BY 1").await;
    assert_eq!(shown, ["'ann'|'of ann'", "'bob'|'of bob'"]);
}

/// Such rows have ids of their own: a parent that is tracked afterwards would be given other rows' children.
#[tokio::test]
async fn a_table_is_not_tracked_after_one_whose_key_refers_to_it() {
    let replica = Replica::in_memory().unwrap();
    let (user, profile) = PROFILES.split_once(';').unwrap();
    run(&replica, profile);
    replica.track(&["profile"], &TrackOptions::default()).await.unwrap();
    run(&replica, user);
    let error = replica.track(&["user"], &TrackOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("user") && error.contains("the key of profile refers to it"), "{error}");
}

/// Found by fuzzing: the cascade's write came before the row had its new integer, and was lost with the row that it was taken for.
#[tokio::test]
async fn a_row_that_refers_to_itself_and_is_renumbered_is_recorded_with_what_its_cascade_did() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, r INTEGER REFERENCES t ON UPDATE SET NULL)";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    run(&a, "INSERT INTO t VALUES (1, 'no', 1); UPDATE t SET v = 'yes', id = 9");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(ask(replica, "SELECT v, r FROM t"), ["'yes'|NULL"]);
        assert_verified(replica, &remote).await;
    }
}

/// What the cascade wrote, and no more: not what others wrote elsewhere in the row meanwhile. The last row that a seal takes at once may be
/// the cascade's write, of which the row's move is behind.
#[tokio::test]
async fn a_renumbered_row_says_what_its_cascade_did_wherever_a_seal_ends() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, r INTEGER REFERENCES t ON UPDATE SET NULL);
        CREATE TABLE other (id TEXT PRIMARY KEY); INSERT INTO t VALUES (1, 'old', 1)";
    for before in [0, 4_999] {
        let (wall, remote) = (Wall::at(START_MS), fresh_remote());
        let (a, b) = (on_the_wall(usual(schema).await, &wall, 1), on_the_wall(usual(schema).await, &wall, 2));
        converge(&[&a, &b], &remote).await;
        run(&b, "UPDATE t SET v = 'new'");
        wall.advance(1_000);
        run(
            &a,
            &format!(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) INSERT INTO other SELECT 'o' || n FROM n LIMIT {before}"
            ),
        );
        run(&a, "UPDATE t SET id = 9");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(ask(replica, "SELECT v, r FROM t"), ["'new'|NULL"], "{before}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// Such rows stand under the integer that their parent had, where nobody finds them by what it has now, until a merge has come to them.
#[tokio::test]
async fn rows_whose_parent_was_renumbered_or_deleted_are_not_taken_for_deleted() {
    let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY, n); INSERT INTO p VALUES (1, 'one'), (2, 'two');
        CREATE TABLE l (p INTEGER REFERENCES p, k TEXT, v, PRIMARY KEY (p, k)); INSERT INTO l VALUES (1, 'x', 'l1'), (2, 'y', 'l2');
        CREATE TABLE o (p INTEGER PRIMARY KEY REFERENCES p, v); INSERT INTO o VALUES (1, 'o1'), (2, 'o2')";
    let shown = "SELECT n, l.v, o.v FROM p JOIN l ON l.p = p.id JOIN o ON o.p = p.id ORDER BY n";
    let (moved, deleted) = ("UPDATE p SET id = 9 WHERE id = 1", "DELETE FROM p WHERE id = 1");
    for (sql, is_untracked) in [(moved, false), (deleted, false), (moved, true), (deleted, true)] {
        let (wall, remote) = (Wall::at(START_MS), fresh_remote());
        let (a, b) = (on_the_wall(usual(schema).await, &wall, 1), on_the_wall(usual(schema).await, &wall, 2));
        converge(&[&a, &b], &remote).await;
        run(&a, "PRAGMA foreign_keys = OFF");
        match is_untracked {
            true => {
                a.untrack(&["l", "o"]).await.unwrap();
                run(&a, sql);
                a.track(&["l", "o"], &TrackOptions::default()).await.unwrap();
            }
            false => run(&a, &format!("{sql}; ALTER TABLE l ADD COLUMN w; ALTER TABLE o ADD COLUMN w")),
        }
        wall.advance(1_000);
        // A row that somebody goes on writing to is not deleted.
        run(&b, "UPDATE p SET n = 'uno' WHERE id = 1");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(ask(replica, shown), ["'two'|'l2'|'o2'", "'uno'|'l1'|'o1'"], "{sql}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// Nobody knows an integer that a condition asks for once its row is gone; whoever deleted it still had it until the batch ended, and
/// showed the row that the others held.
#[tokio::test]
async fn a_condition_on_the_integer_of_a_row_that_is_deleted_counts_alike_everywhere() {
    let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p, code TEXT);
        CREATE UNIQUE INDEX by_code ON c (code) WHERE p IS NULL OR p >= 0";
    let (a, b, remote) = (unenforced(schema).await, unenforced(schema).await, fresh_remote());
    run(&a, "PRAGMA foreign_keys = OFF; INSERT INTO p VALUES (1); INSERT INTO c VALUES (7, 1, 'x'), (8, NULL, 'y')");
    converge(&[&a], &remote).await;
    run(&a, "DELETE FROM p");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(ask(replica, "SELECT p, code FROM c"), ["NULL|'y'"]);
        assert_eq!(held(replica).await, ["c foreign key"]);
        assert_verified(replica, &remote).await;
    }
}
