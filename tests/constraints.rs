//! Constraints at merge: a row that one keeps out is held with its reason, the rest merges, and it is shown once it can be.

mod common;

use common::integers::comes_to_an_end;
use common::wall::{START_MS, Wall, clocked, on_the_wall};
use common::*;
use zvon::{Join, Remote, Replica, SyncOptions, TrackOptions};

/// The held rows: table, key, reason.
async fn held(replica: &Replica) -> Vec<String> {
    let rows = replica.held().await.unwrap().rows;
    rows.into_iter().map(|held| format!("{}/{} {}", held.table, held.row, held.reason)).collect()
}

#[tokio::test]
async fn a_row_that_its_table_refuses_is_held() {
    // The sender's table takes anything; the receiver's own is stricter.
    let loose = "CREATE TABLE t (id TEXT PRIMARY KEY, v, w)";
    for (strict, bad, good, reason) in [
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v NOT NULL, w)", "NULL", "2", "not null"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v CHECK (v < 10), w)", "10", "2", "check"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER, w ANY) STRICT", "'text'", "2", "type"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v UNIQUE, w)", "1", "2", "unique"),
        // What a constraint would do by itself, in a merge it does not.
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v NOT NULL ON CONFLICT REPLACE DEFAULT 9, w)", "NULL", "2", "not null"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v NOT NULL ON CONFLICT IGNORE, w)", "NULL", "2", "not null"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v NOT NULL ON CONFLICT ROLLBACK, w)", "NULL", "2", "not null"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v UNIQUE ON CONFLICT REPLACE, w)", "1", "2", "unique"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v UNIQUE ON CONFLICT IGNORE, w)", "1", "2", "unique"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v UNIQUE ON CONFLICT ROLLBACK, w)", "1", "2", "unique"),
        (
            "CREATE TABLE t (id TEXT PRIMARY KEY, v, w); CREATE INDEX t_v ON t (json_extract(v, '$.a'))",
            "'{'",
            "2",
            "other",
        ),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, v CHECK (json(v) IS NOT NULL), w)", "'{'", "2", "other"),
    ] {
        let (a, b, remote) = (replica(loose).await, replica(strict).await, fresh_remote());
        run(&a, &format!("INSERT INTO t VALUES ('a', 1, 1), ('b', {bad}, 2), ('c', 3, 3)"));
        sync(&a, &remote).await;
        let report = sync(&b, &remote).await;
        assert_eq!((report.merged, report.held), (3, 1), "{strict}");
        assert_eq!(table(&b, "t"), ["'a'|1|1", "'c'|3|3"], "{strict}");
        assert_eq!(held(&b).await, [format!("t/b {reason}")], "{strict}");
        assert_verified(&b, &remote).await;

        run(&a, "UPDATE t SET w = 4 WHERE id = 'b'");
        sync(&a, &remote).await;
        assert_eq!(sync(&b, &remote).await.held, 1, "{strict}");
        run(&a, &format!("UPDATE t SET v = {good} WHERE id = 'b'"));
        sync(&a, &remote).await;
        assert_eq!(sync(&b, &remote).await.held, 0, "{strict}");
        assert_eq!(table(&b, "t"), ["'a'|1|1", "'b'|2|4", "'c'|3|3"], "{strict}");

        // A row that is shown and becomes bad is taken out, and comes back when it is good again.
        run(&a, &format!("UPDATE t SET v = {bad} WHERE id = 'b'"));
        sync(&a, &remote).await;
        assert_eq!(sync(&b, &remote).await.held, 1, "{strict}");
        assert_eq!(table(&b, "t"), ["'a'|1|1", "'c'|3|3"], "{strict}");
        run(&a, &format!("UPDATE t SET v = {good} WHERE id = 'b'"));
        sync(&a, &remote).await;
        assert_eq!(sync(&b, &remote).await.held, 0, "{strict}");
        assert_eq!(table(&a, "t"), table(&b, "t"), "{strict}");
        assert_verified(&b, &remote).await;
    }
}

#[tokio::test]
async fn columns_that_nobody_wrote_have_their_defaults() {
    let (a, b, remote) = (
        replica("CREATE TABLE t (id TEXT PRIMARY KEY, v)").await,
        replica("CREATE TABLE t (id TEXT PRIMARY KEY, v, n TEXT NOT NULL DEFAULT 'here', m NOT NULL DEFAULT 7)").await,
        fresh_remote(),
    );
    run(&a, "INSERT INTO t VALUES ('a', 1)");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "t"), ["'a'|1|'here'|7"]);
    run(&b, "UPDATE t SET n = 'changed'");
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "t"), ["'a'|1"]);
}

/// The clauses are the writers' own: a merge that obeyed them would remove, leave out or refuse another row on each replica.
#[tokio::test]
async fn conflict_clauses_of_the_schema_do_not_decide_between_two_replicas() {
    for clause in ["ABORT", "FAIL", "IGNORE", "REPLACE", "ROLLBACK"] {
        let schema = format!(
            "CREATE TABLE t (id TEXT PRIMARY KEY ON CONFLICT {clause}, name TEXT UNIQUE ON CONFLICT {clause}, n NOT NULL ON CONFLICT {clause} DEFAULT 7)"
        );
        let wall = Wall::at(START_MS);
        let (a, b, remote) = (clocked(&schema, &wall, 1).await, clocked(&schema, &wall, 2).await, fresh_remote());
        converge(&[&a, &b], &remote).await;
        run(&a, "INSERT INTO t VALUES ('1', 'x', 1)");
        wall.advance(1);
        run(&b, "INSERT INTO t VALUES ('2', 'x', 2), ('3', 'y', 3)");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(table(replica, "t"), ["'1'|'x'|1", "'3'|'y'|3"], "{clause}");
            assert_eq!(held(replica).await, ["t/2 unique"], "{clause}");
            assert_verified(replica, &remote).await;
        }
        // A writer of one's own still gets what the schema says.
        wall.advance(1);
        run(&a, "UPDATE t SET name = 'z' WHERE id = '1'");
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&b, "t"), ["'1'|'z'|1", "'2'|'x'|2", "'3'|'y'|3"], "{clause}");
        wall.advance(1);
        let replaced = b.connection().execute_batch("INSERT INTO t VALUES ('4', 'x', 4)");
        assert_eq!(replaced.is_ok(), ["IGNORE", "REPLACE"].contains(&clause), "{clause}");
        converge(&[&b, &a], &remote).await;
        let rows = if clause == "REPLACE" { "'4'|'x'|4" } else { "'2'|'x'|2" };
        assert!(table(&a, "t").contains(&rows.to_owned()), "{clause}: {:?}", table(&a, "t"));
        assert_eq!(table(&a, "t"), table(&b, "t"), "{clause}");
        for replica in [&a, &b] {
            assert_verified(replica, &remote).await;
        }
    }
}

#[tokio::test]
async fn two_replicas_that_take_one_unique_value() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, email TEXT UNIQUE COLLATE NOCASE, n)";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t VALUES ('a', 'same@x', 1), ('a2', 'a@x', 1)");
    run(&b, "INSERT INTO t VALUES ('b', 'SAME@x', 2), ('b2', 'b@x', 2)");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        let (shown, out) = (table(replica, "t").len(), held(replica).await);
        assert_eq!((shown, out.len()), (3, 1), "{out:?}");
        assert!(out[0].ends_with(" unique"), "{out:?}");
        assert!(table(replica, "t").iter().any(|row| row.contains("'a2'")));
        assert!(table(replica, "t").iter().any(|row| row.contains("'b2'")));
    }
    // Whoever is shown gives the value up, and all are shown everywhere.
    run(&a, "UPDATE t SET email = 'other@x' WHERE id IN ('a', 'b')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_eq!(table(replica, "t").len(), 4);
    }
    assert_eq!(table(&a, "t"), table(&b, "t"));
}

/// SQLite's NOCASE looks no further than a NUL.
#[tokio::test]
async fn texts_that_differ_after_a_nul_only_are_one_value_without_case() {
    let schema = "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT COLLATE NOCASE UNIQUE)";
    let wall = Wall::at(START_MS);
    let (a, b, remote) = (clocked(schema, &wall, 1).await, clocked(schema, &wall, 2).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t VALUES ('1', 'x' || char(0) || 'b')");
    wall.advance(1);
    run(&b, "INSERT INTO t VALUES ('2', 'X' || char(0) || 'c')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT k FROM t"), ["'1'"]);
        assert_eq!(held(replica).await, ["t/2 unique"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn unique_values_can_be_swapped_and_passed_on() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, place INTEGER UNIQUE, n)";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, "INSERT INTO t VALUES ('a', 1, 0), ('b', 2, 0), ('c', 3, 0), ('d', 4, 0)");
    converge(&[&a, &b], &remote).await;
    run(&a, "UPDATE t SET place = -place; UPDATE t SET place = -place % 4 + 1");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "t"), ["'a'|2|0", "'b'|3|0", "'c'|4|0", "'d'|1|0"]);
    run(
        &a,
        "DELETE FROM t WHERE id = 'a'; INSERT INTO t VALUES ('e', 2, 0); UPDATE t SET place = 9 WHERE id = 'b'; UPDATE t SET place = 3 WHERE id = 'c'",
    );
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "t"), ["'b'|9|0", "'c'|3|0", "'d'|1|0", "'e'|2|0"]);
    run(&a, "REPLACE INTO t VALUES ('f', 9, 1); UPDATE OR REPLACE t SET place = 3 WHERE id = 'f'");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "t"), ["'d'|1|0", "'e'|2|0", "'f'|3|1"]);
    assert_eq!(table(&a, "t"), table(&b, "t"));
    assert_eq!(held(&b).await, [] as [&str; 0]);
}

const FAMILY: &str = "CREATE TABLE parent (id TEXT PRIMARY KEY, code TEXT UNIQUE, v);
    CREATE TABLE child (id TEXT PRIMARY KEY, p TEXT REFERENCES parent ON DELETE CASCADE, c TEXT REFERENCES parent (code));
    CREATE TABLE grandchild (id TEXT PRIMARY KEY, c TEXT NOT NULL REFERENCES child)";

#[tokio::test]
async fn a_child_without_its_parent_is_held_until_it_comes() {
    let (a, b, remote) = (replica(FAMILY).await, replica(FAMILY).await, fresh_remote());
    for replica in [&a, &b] {
        run(replica, "PRAGMA foreign_keys = ON");
    }
    run(&a, "INSERT INTO parent VALUES ('p', 'code', 1)");
    converge(&[&a, &b], &remote).await;
    // One deletes the parent while the other gives it children.
    run(&a, "DELETE FROM parent");
    run(
        &b,
        "INSERT INTO child VALUES ('c1', 'p', NULL), ('c2', NULL, 'code'), ('c3', NULL, NULL); INSERT INTO grandchild VALUES ('g', 'c1')",
    );
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, ["child/c1 foreign key", "child/c2 foreign key", "grandchild/g foreign key"]);
        assert_eq!(table(replica, "child"), ["'c3'|NULL|NULL"]);
        assert_eq!(rows(&replica.connection(), "PRAGMA foreign_key_check"), [] as [&str; 0]);
    }
    run(&a, "INSERT INTO parent VALUES ('p', 'code', 2)");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_eq!(table(replica, "grandchild"), ["'g'|'c1'"]);
    }
    assert_eq!(table(&a, "child"), table(&b, "child"));
    assert_eq!(table(&a, "child").len(), 3);
}

/// A key of several columns with a NULL among them is not checked (<https://sqlite.org/foreignkeys.html>, section 3).
#[tokio::test]
async fn a_composite_key_with_a_null_part_asks_for_no_parent() {
    let schema = "CREATE TABLE parent (id INTEGER PRIMARY KEY, tenant INTEGER, UNIQUE (id, tenant));
        CREATE TABLE child (k TEXT PRIMARY KEY, pid INTEGER, tenant INTEGER,
            FOREIGN KEY (pid, tenant) REFERENCES parent (id, tenant));
        INSERT INTO parent VALUES (1, 10), (2, 10)";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        replica.track_all(&TrackOptions::default()).await.unwrap();
        run(&replica, "PRAGMA foreign_keys = ON");
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    for replica in [&a, &b] {
        replica.sync(&remote, &options).await.unwrap();
    }
    run(&b, "INSERT INTO child VALUES ('c1', 1, NULL), ('c2', 2, NULL), ('c3', 2, 10)");
    run(&a, "DELETE FROM parent WHERE id = 1");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "child"), ["'c1'|NULL|NULL", "'c2'|2|NULL", "'c3'|2|10"]);
        assert_verified(replica, &remote).await;
    }
    run(&a, "DELETE FROM child WHERE k = 'c3'; DELETE FROM parent WHERE id = 2");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "child"), ["'c1'|NULL|NULL", "'c2'|NULL|NULL"]);
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
    // What it left open is filled in: now the key asks for the parent.
    run(&b, "UPDATE child SET tenant = 10 WHERE k = 'c2'");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, ["child/c2 foreign key"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn rows_in_a_circle_merge() {
    let schema = "CREATE TABLE node (id TEXT PRIMARY KEY, next TEXT REFERENCES node DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE one (id TEXT PRIMARY KEY, two TEXT REFERENCES two DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE two (id TEXT PRIMARY KEY, one TEXT REFERENCES one DEFERRABLE INITIALLY DEFERRED)";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    for replica in [&a, &b] {
        run(replica, "PRAGMA foreign_keys = ON");
    }
    run(
        &a,
        "BEGIN; INSERT INTO node VALUES ('self', 'self'), ('x', 'y'), ('y', 'z'), ('z', 'x');
        INSERT INTO one VALUES ('1', '2'); INSERT INTO two VALUES ('2', '1'); COMMIT",
    );
    let report = {
        sync(&a, &remote).await;
        sync(&b, &remote).await
    };
    assert_eq!((report.merged, report.held), (6, 0));
    for name in ["node", "one", "two"] {
        assert_eq!(table(&a, name), table(&b, name), "{name}");
    }
    run(&b, "BEGIN; DELETE FROM node WHERE id <> 'self'; DELETE FROM one; DELETE FROM two; COMMIT");
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "node"), ["'self'|'self'"]);
    assert_eq!(held(&a).await, [] as [&str; 0]);
}

#[tokio::test]
async fn keys_that_look_like_numbers_only_to_a_machine() {
    let schema = "CREATE TABLE t (id NUMERIC PRIMARY KEY, v)";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(
        &a,
        "INSERT INTO t VALUES ('inf', 1), ('NaN', 2), ('-Infinity', 3), ('e', 4), ('1e2', 5), ('0x10', 6), ('1 2', 7), ('', 8)",
    );
    converge(&[&a, &b], &remote).await;
    assert_eq!(held(&b).await, [] as [&str; 0]);
    assert_eq!(table(&b, "t").len(), 8);
    assert_eq!(table(&a, "t"), table(&b, "t"));
}

#[tokio::test]
async fn unique_indexes_on_expressions_and_on_some_rows() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, email TEXT, gone INTEGER NOT NULL DEFAULT 0, slug TEXT AS (lower(trim(email))));
        CREATE UNIQUE INDEX t_email ON t (lower(email)) WHERE gone = 0;
        CREATE UNIQUE INDEX t_slug ON t (slug, gone)";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t VALUES ('a', 'X@y', 0), ('c', 'c@y', 0)");
    sync(&a, &remote).await;
    run(&b, "INSERT INTO t VALUES ('b', 'x@Y', 0), ('d', 'd@y', 0)");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "t").len(), 3);
        let held = replica.held().await.unwrap().rows;
        assert_eq!((held.len(), held[0].reason.as_str()), (1, "unique"));
        assert_verified(replica, &remote).await;
    }
    // A REPLACE removes the row that has the same value of the expression, and that is a delete.
    run(&a, "INSERT OR REPLACE INTO t VALUES ('e', 'C@Y', 0); UPDATE OR REPLACE t SET email = 'D@y' WHERE id = 'e'");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        let ids = rows(&replica.connection(), "SELECT id FROM t WHERE id IN ('c', 'd', 'e')");
        assert_eq!(ids, ["'e'"]);
    }
    // The index has only the rows that are not gone: the one that was held comes in.
    run(&a, "UPDATE t SET gone = 1 WHERE id IN ('a', 'b')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "t").len(), 3);
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
    assert_eq!(table(&a, "t"), table(&b, "t"));
}

#[tokio::test]
async fn a_clash_of_unique_values_ends_when_either_row_changes() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, email TEXT UNIQUE, n)";
    let ways = [
        ("the one that is shown takes another value", "UPDATE t SET email = 'new' WHERE id = 'a'", 2),
        ("the one that is shown goes", "DELETE FROM t WHERE id = 'a'", 1),
        ("the one that is held is given another value", "INSERT INTO t VALUES ('b', 'new', 3)", 2),
    ];
    for (way, sql, shown) in ways {
        for at in [0, 1] {
            let wall = Wall::at(START_MS);
            let (a, b) = (on_the_wall(replica(schema).await, &wall, 1), on_the_wall(replica(schema).await, &wall, 2));
            let remote = fresh_remote();
            converge(&[&a, &b], &remote).await;
            run(&a, "INSERT INTO t VALUES ('a', 'same', 1)");
            wall.advance(1);
            run(&b, "INSERT INTO t VALUES ('b', 'same', 2)");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(table(replica, "t"), ["'a'|'same'|1"]);
                let out = replica.held().await.unwrap().rows;
                assert_eq!((out.len(), out[0].row.as_str(), out[0].reason.as_str()), (1, "b", "unique"));
                assert!(out[0].detail.contains("email"), "{out:?}");
            }
            wall.advance(1);
            run([&a, &b][at], sql);
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(held(replica).await, [] as [&str; 0], "{way}");
                assert_eq!(table(replica, "t").len(), shown, "{way}");
                assert_verified(replica, &remote).await;
            }
            assert_eq!(table(&a, "t"), table(&b, "t"), "{way}");
        }
    }
}

#[tokio::test]
async fn a_lost_parent_is_made_up_for_by_either_row() {
    let schema = "CREATE TABLE parent (id TEXT PRIMARY KEY, v); CREATE TABLE child (id TEXT PRIMARY KEY, p TEXT REFERENCES parent, v)";
    let ways = [
        ("the parent comes back", "INSERT INTO parent VALUES ('p', 'again')"),
        ("the child has another", "INSERT INTO child VALUES ('c', 'q', 'moved')"),
        ("the child needs none", "INSERT INTO child (id, p) VALUES ('c', NULL)"),
    ];
    for (way, sql) in ways {
        for at in [0, 1] {
            let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
            for replica in [&a, &b] {
                run(replica, "PRAGMA foreign_keys = ON");
            }
            run(&a, "INSERT INTO parent VALUES ('p', 1), ('q', 2)");
            converge(&[&a, &b], &remote).await;
            run(&a, "DELETE FROM parent WHERE id = 'p'");
            run(&b, "INSERT INTO child VALUES ('c', 'p', 'x')");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(held(replica).await, ["child/c foreign key"]);
                assert_eq!(table(replica, "child"), [] as [&str; 0]);
            }
            run([&a, &b][at], sql);
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                assert_eq!(held(replica).await, [] as [&str; 0], "{way}");
                assert_eq!(table(replica, "child").len(), 1, "{way}");
                assert_eq!(rows(&replica.connection(), "PRAGMA foreign_key_check"), [] as [&str; 0]);
                assert_verified(replica, &remote).await;
            }
            assert_eq!(table(&a, "child"), table(&b, "child"), "{way}");
        }
    }
}

/// More than a merge takes in one transaction.
const MANY: u32 = 6_500;

#[tokio::test]
async fn unique_values_passed_on_through_many_rows_and_back() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, place INTEGER NOT NULL UNIQUE)";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        replica.track_all(&TrackOptions::default()).await.unwrap();
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(
        &a,
        &format!(
            "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {MANY}) INSERT INTO t SELECT i, i FROM i"
        ),
    );
    converge(&[&a, &b], &remote).await;
    // Everybody moves up by one, the last goes first; then pairs change places, on another replica.
    run(&a, &format!("UPDATE t SET place = -place; UPDATE t SET place = -place % {MANY} + 1"));
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE t SET place = -place; UPDATE t SET place = -place + 1 - 2 * (place % 2 = 0)");
    converge(&[&b, &a], &remote).await;
    let expected = rows(&b.connection(), "SELECT id, place FROM t ORDER BY id");
    assert_eq!(expected.len(), MANY as usize);
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT id, place FROM t ORDER BY id"), expected);
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn parents_that_are_not_tracked_are_not_asked_for() {
    let schema = "CREATE TABLE country (id TEXT PRIMARY KEY); INSERT INTO country VALUES ('cz');
        CREATE TABLE city (id TEXT PRIMARY KEY, country TEXT NOT NULL REFERENCES country)";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        run(&replica, "PRAGMA foreign_keys = ON");
        replica.track(&["city"], &keyed()).await.unwrap();
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(&a, "INSERT INTO country VALUES ('sk'); INSERT INTO city VALUES ('Brno', 'cz'), ('Nitra', 'sk')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "city"), ["'Brno'|'cz'", "'Nitra'|'sk'"]);
    assert_eq!(table(&b, "country"), ["'cz'"]);
    assert_eq!(held(&b).await, [] as [&str; 0]);
    // What the application does about it is its own affair, and its foreign keys are as they were.
    run(&b, "INSERT INTO country VALUES ('sk')");
    assert_eq!(rows(&b.connection(), "PRAGMA foreign_key_check"), [] as [&str; 0]);
    assert_eq!(rows(&b.connection(), "PRAGMA foreign_keys"), ["1"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// Seed 501037 of the simulation: a row that is shown without its reference keeps its value, though the index leaves it out.
#[tokio::test]
async fn verify_knows_who_keeps_a_value_whose_index_asks_for_the_missing_reference() {
    let schema = "CREATE TABLE p (k INTEGER PRIMARY KEY, name TEXT UNIQUE);
                  CREATE TABLE c (k INTEGER PRIMARY KEY, code TEXT, p INTEGER REFERENCES p);
                  CREATE UNIQUE INDEX u ON c (code) WHERE p IS NOT NULL";
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let mut replicas = Vec::new();
    for seed in [1, 2] {
        let replica = on_the_wall(Replica::in_memory().unwrap(), &wall, seed);
        run(&replica, schema);
        let mut options = TrackOptions::default();
        options.enforce_fk = Some(false);
        replica.track_all(&options).await.unwrap();
        replicas.push(replica);
    }
    let [a, b] = &replicas[..] else { unreachable!() };
    converge(&[a, b], &remote).await;
    for (replica, sql) in [
        (b, "INSERT INTO p VALUES (1, 'same')"),
        (a, "INSERT INTO p VALUES (1, 'same'); INSERT INTO c VALUES (1, 'x', 1)"),
        (b, "INSERT INTO c VALUES (1, 'x', 1)"),
    ] {
        wall.advance(1);
        run(replica, sql);
    }
    converge(&[a, b], &remote).await;
    for replica in [a, b] {
        assert_eq!(rows(&replica.connection(), "SELECT code, p FROM c"), ["'x'|NULL"]);
        let held: Vec<String> =
            held(replica).await.iter().map(|row| row[..1].to_owned() + &row[row.len() - 7..]).collect();
        assert_eq!(held, ["p unique", "c unique"]);
        assert_verified(replica, &remote).await;
    }
}

/// Two replicas on which columns of the table `c` stay.
async fn with_columns_of_their_own(schema: &str, own: &str) -> (Replica, Replica, zvon::Remote) {
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = TrackOptions::default();
        options.enforce_fk = Some(true);
        replica.track(&["p"], &options).await.unwrap();
        options.exclude = own.split(' ').map(str::to_owned).collect();
        replica.track(&["c"], &options).await.unwrap();
        replica
    };
    (make().await, make().await, fresh_remote())
}

#[tokio::test]
async fn a_reference_in_a_column_that_stays_on_a_replica_holds_no_row() {
    for (p, of, p1) in [("k TEXT PRIMARY KEY, v", "TEXT", "'p1'"), ("k INTEGER PRIMARY KEY, v", "INTEGER", "1")] {
        let schema = format!(
            "CREATE TABLE p ({p}); CREATE TABLE c (k TEXT PRIMARY KEY, v, loc {of} REFERENCES p ON DELETE SET NULL)"
        );
        let (a, b, remote) = with_columns_of_their_own(&schema, "loc").await;
        run(&a, &format!("INSERT INTO p VALUES ({p1}, 'old'); INSERT INTO c (k, v) VALUES ('c1', 1)"));
        converge(&[&a, &b], &remote).await;
        run(&b, &format!("UPDATE c SET loc = {p1}"));
        run(&a, "DELETE FROM p");
        converge(&[&a, &b], &remote).await;
        run(&a, "UPDATE c SET v = 2");
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&b, "c"), [format!("'c1'|2|{p1}")]);
        assert_eq!(held(&b).await, [] as [&str; 0]);
        // What it names is no other row's.
        if of == "INTEGER" {
            run(&a, "INSERT INTO p VALUES (1, 'new')");
            converge(&[&a, &b], &remote).await;
            assert_eq!(rows(&b.connection(), "SELECT k = 1, v FROM p"), ["0|'new'"]);
        }
        for replica in [&a, &b] {
            assert_verified(replica, &remote).await;
        }
    }
}

#[tokio::test]
async fn a_check_on_a_column_that_stays_on_a_replica_holds_no_row() {
    let schema = "CREATE TABLE p (k TEXT PRIMARY KEY);
        CREATE TABLE c (k TEXT PRIMARY KEY, v, loc TEXT, CHECK (loc IS NULL OR v IS NOT NULL))";
    let (a, b, remote) = with_columns_of_their_own(schema, "loc").await;
    run(&a, "INSERT INTO c (k, v) VALUES ('c1', 1)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE c SET loc = 'here'");
    run(&a, "UPDATE c SET v = NULL");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "c"), ["'c1'|NULL|NULL"]);
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
    // What breaks a rule by itself is held there as well.
    run(&b, "UPDATE c SET v = 2, loc = 'here'");
    sync(&b, &remote).await;
    run(&a, "UPDATE c SET v = 3");
    converge(&[&a, &b], &remote).await;
    assert_eq!((table(&a, "c"), table(&b, "c")), (vec!["'c1'|3|NULL".into()], vec!["'c1'|3|'here'".into()]));
    assert_verified(&b, &remote).await;
}

/// By reading: such a value was gone once its row was taken out again, and with it those of columns that break no rule.
#[tokio::test]
async fn what_a_check_keeps_out_of_a_column_that_stays_on_a_replica_comes_back() {
    let schema = "CREATE TABLE p (k TEXT PRIMARY KEY);
        CREATE TABLE c (k TEXT PRIMARY KEY, v, u UNIQUE, loc TEXT, note TEXT DEFAULT 'none', CHECK (loc IS NULL OR v IS NOT NULL))";
    let (a, b, remote) = with_columns_of_their_own(schema, "loc note").await;
    run(&a, "INSERT INTO c (k, v, u) VALUES ('c1', 1, 1), ('c2', 1, 2), ('c3', 1, 3)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE c SET loc = 'in ' || k, note = 'of ' || k");
    run(&a, "UPDATE c SET v = NULL");
    converge(&[&a, &b], &remote).await;
    assert_eq!(
        table(&b, "c"),
        ["'c1'|NULL|1|NULL|'of c1'", "'c2'|NULL|2|NULL|'of c2'", "'c3'|NULL|3|NULL|'of c3'"],
        "no rule keeps the note out"
    );
    // Two change places, and are taken out for that; of what its user wrote since in the third, that counts.
    run(&a, "UPDATE c SET u = 9 WHERE k = 'c1'; UPDATE c SET u = 1 WHERE k = 'c2'; UPDATE c SET u = 2 WHERE k = 'c1'");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE c SET v = 4, loc = 'new' WHERE k = 'c3'");
    run(&a, "UPDATE c SET v = 5 WHERE k <> 'c3'");
    converge(&[&a, &b], &remote).await;
    run(&a, "UPDATE c SET v = 6");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "c"), ["'c1'|6|2|'in c1'|'of c1'", "'c2'|6|1|'in c2'|'of c2'", "'c3'|6|3|'new'|'of c3'"]);
    assert_eq!(rows(&b.connection(), "SELECT count(*) FROM ZV_ASIDE"), ["0"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// Three replicas with a table `row` that is known by `u`, and another one that refers to its local integers.
async fn three(other: &str, enforce_fk: Option<bool>) -> (Wall, [Replica; 3]) {
    let wall = Wall::at(START_MS);
    let make = async |seed| {
        let replica = on_the_wall(Replica::in_memory().unwrap(), &wall, seed);
        run(&replica, "CREATE TABLE row (id INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE)");
        run(&replica, other);
        let mut options = TrackOptions::default();
        options.enforce_fk = enforce_fk;
        replica.track(&["other"], &options).await.unwrap();
        options.key = vec!["u".to_owned()];
        replica.track(&["row"], &options).await.unwrap();
        replica
    };
    (wall.clone(), [make(1).await, make(2).await, make(3).await])
}

/// The reasons of all rows that are held.
async fn reasons(replica: &Replica) -> Vec<String> {
    replica.held().await.unwrap().rows.into_iter().map(|held| format!("{} {}", held.table, held.reason)).collect()
}

/// What a CHECK says of local integers is asked with those that the rows have.
#[tokio::test]
async fn a_row_that_must_not_refer_to_itself_may_refer_to_the_first() {
    let other =
        "CREATE TABLE other (id INTEGER PRIMARY KEY, of INTEGER REFERENCES other, name TEXT UNIQUE, CHECK (of <> id))";
    for enforce_fk in [None, Some(false)] {
        let ((wall, [a, b, _]), remote) = (three(other, enforce_fk).await, fresh_remote());
        run(&a, "INSERT INTO other VALUES (1, NULL, 'root')");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            wall.advance(1);
            run(replica, "INSERT INTO other (of, name) VALUES (1, 'same')");
        }
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(rows(&replica.connection(), "SELECT of, name FROM other"), ["NULL|'root'", "1|'same'"]);
            assert_eq!(reasons(replica).await, ["other unique"]);
            assert_verified(replica, &remote).await;
        }
    }
}

#[tokio::test]
async fn references_that_must_differ_wait_for_their_rows() {
    for other in [
        "CREATE TABLE other (a INTEGER REFERENCES row, b INTEGER REFERENCES row, PRIMARY KEY (a, b), CHECK (a <> b))",
        "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, b INTEGER REFERENCES row, CHECK (a <> b))",
    ] {
        for enforce_fk in [None, Some(false)] {
            let ((wall, [a, b, _]), remote) = (three(other, enforce_fk).await, fresh_remote());
            run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
            converge(&[&a, &b], &remote).await;
            wall.advance(1);
            run(&a, "DELETE FROM row");
            wall.advance(1);
            run(&b, "INSERT INTO other (a, b) VALUES (1, 2)");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                let shown = rows(&replica.connection(), "SELECT a, b FROM other");
                match shown.first() {
                    None => assert_eq!(reasons(replica).await, ["other foreign key"]),
                    Some(row) => assert_eq!(row, "NULL|NULL"),
                }
                assert_verified(replica, &remote).await;
            }
            wall.advance(1);
            run(&a, "INSERT INTO row (u) VALUES ('y'), ('x')");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                let sql = "SELECT a.u, b.u FROM other JOIN row AS a ON a.id = a JOIN row AS b ON b.id = b";
                assert_eq!(rows(&replica.connection(), sql), ["'x'|'y'"], "{other} {enforce_fk:?}");
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// As a row that must have a reference, by its CHECK instead of NOT NULL: without it, it is held, and keeps what it claims.
#[tokio::test]
async fn a_check_that_asks_for_a_reference_waits_for_its_row() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, b INTEGER REFERENCES row,
                 name TEXT UNIQUE, CHECK ((a IS NULL) <> (b IS NULL)))";
    let ((wall, [a, b, _]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "DELETE FROM row WHERE u = 'x'");
    wall.advance(1);
    run(&b, "INSERT INTO other (a, name) VALUES (1, 'same')");
    wall.advance(1);
    run(&a, "INSERT INTO other (b, name) VALUES (2, 'same')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT a, b, name FROM other"), [] as [&str; 0]);
        assert_eq!(reasons(replica).await, ["other foreign key", "other unique"]);
        assert_verified(replica, &remote).await;
    }
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('x')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        let sql = "SELECT u, b, name FROM other LEFT JOIN row ON row.id = a";
        assert_eq!(rows(&replica.connection(), sql), ["'x'|NULL|'same'"]);
        assert_eq!(reasons(replica).await, ["other unique"]);
        assert_verified(replica, &remote).await;
    }
}

/// What a merge of two writes made break a CHECK is held for that, whether its reference leads anywhere or not.
#[tokio::test]
async fn a_reference_to_no_row_does_not_hide_that_a_check_is_broken() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, b INTEGER REFERENCES row, CHECK (a IS NULL OR b IS NULL))";
    let ((wall, [a, b, c]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y'); INSERT INTO other VALUES (1, NULL, NULL)");
    converge(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&c, "UPDATE other SET a = 1");
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u = 'x'");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "UPDATE other SET b = 2");
    sync(&a, &remote).await;
    // One has the row and its parent's end at once, the others one after the other.
    converge(&[&c, &a, &b], &remote).await;
    for replica in [&a, &b, &c] {
        assert_eq!(reasons(replica).await, ["other check"]);
        assert_verified(replica, &remote).await;
    }
    wall.advance(1);
    run(&b, "INSERT INTO row (u) VALUES ('x')");
    converge(&[&b, &a, &c], &remote).await;
    for replica in [&a, &b, &c] {
        assert_eq!(reasons(replica).await, ["other check"]);
        assert_verified(replica, &remote).await;
    }
}

/// Found by fuzzing: what an expression makes of the integer of a row that is not here, nobody knows.
#[tokio::test]
async fn an_index_on_what_is_made_of_a_missing_reference_keeps_nobody_out() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES row, twice AS (a * 2));
                 CREATE UNIQUE INDEX by_text ON other (CAST(a AS TEXT));
                 CREATE UNIQUE INDEX by_twice ON other (twice)";
    let ((wall, [a, b, _]), remote) = (three(other, None).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "DELETE FROM row WHERE u = 'y'");
    wall.advance(1);
    run(&b, "INSERT INTO other (a) VALUES (2)");
    converge(&[&a, &b], &remote).await;
    for u in ["z", "x"] {
        wall.advance(1);
        run(
            &a,
            &format!(
                "INSERT OR IGNORE INTO row (u) VALUES ('{u}'); INSERT INTO other (a) SELECT id FROM row WHERE u = '{u}'"
            ),
        );
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(reasons(replica).await, ["other foreign key"], "{u}");
            assert_verified(replica, &remote).await;
        }
    }
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('y')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        let sql = "SELECT u FROM other JOIN row ON row.id = a ORDER BY u";
        assert_eq!(rows(&replica.connection(), sql), ["'x'", "'y'", "'z'"]);
        assert_eq!(reasons(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
}

/// Found by fuzzing: a row that refers to itself has the value of another one by its integer, which it gives up as it is held.
#[tokio::test]
async fn verify_cannot_say_what_a_row_claimed_by_an_integer_that_it_gave_up() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES other);
                 CREATE UNIQUE INDEX by_a ON other (coalesce(a, 0))";
    let ((wall, [a, b, _]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO other VALUES (6, NULL)");
    wall.advance(1);
    converge(&[&a, &b], &remote).await;
    run(&b, "DELETE FROM other; INSERT INTO other VALUES (0, 0)");
    wall.advance(1);
    run(&a, "UPDATE other SET a = NULL; UPDATE other SET id = 7");
    run(&a, "INSERT INTO other VALUES (8, 9)");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
    }
}

/// Found by fuzzing: what keeps such a row out cannot be said any more, and so it keeps nobody else out.
#[tokio::test]
async fn verify_knows_that_a_row_held_by_an_integer_that_it_gave_up_keeps_nobody_out() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES other, u TEXT UNIQUE);
                 CREATE UNIQUE INDEX by_a ON other (coalesce(a, 0))";
    let ((wall, [a, b, _]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO other VALUES (6, NULL, 'first')");
    wall.advance(1);
    converge(&[&a, &b], &remote).await;
    run(&b, "DELETE FROM other; INSERT INTO other VALUES (0, 0, 'same')");
    wall.advance(1);
    run(&a, "UPDATE other SET a = NULL; UPDATE other SET id = 7; INSERT INTO other VALUES (8, 8, 'same')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "other"), ["7|NULL|'first'", "8|8|'same'"]);
        assert_eq!(reasons(replica).await, ["other unique"]);
        assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
    }
}

/// A child of two rows, of whose reference to one a unique index makes an expression.
const TWO_PARENTS: &str =
    "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES row, b INTEGER REFERENCES row);
    CREATE UNIQUE INDEX by_text ON other (CAST(b AS TEXT))";
const CHILD_OF_Z_AND_Y: &str =
    "INSERT INTO other (a, b) SELECT z.id, y.id FROM row AS z, row AS y WHERE z.u = 'z' AND y.u = 'y'";

/// Of two children with one value the older one lacks a parent; the younger one is not shown in its place.
async fn the_older_keeps_the_younger_out(replicas: &[&Replica], remote: &Remote) {
    for replica in replicas {
        assert_eq!(table(replica, "other"), [] as [&str; 0]);
        assert_eq!(reasons(replica).await, ["other foreign key", "other unique"]);
        assert_verified(replica, remote).await;
    }
}

/// Found by fuzzing: what a held row claims by the integer of a row that is not here is known once that one is.
#[tokio::test]
async fn a_row_that_lacks_one_parent_claims_what_an_index_makes_of_another() {
    let ((wall, [a, b, c]), remote) = (three(TWO_PARENTS, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y'), (3, 'z')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u <> 'z'");
    wall.advance(1);
    run(&a, "INSERT INTO other (a, b) VALUES (1, 2)");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('y')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&b, CHILD_OF_Z_AND_Y);
    converge(&[&a, &b, &c], &remote).await;
    the_older_keeps_the_younger_out(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('x')");
    converge(&[&a, &b, &c], &remote).await;
    for replica in [&a, &b, &c] {
        let sql = "SELECT x.u, y.u FROM other JOIN row AS x ON x.id = a JOIN row AS y ON y.id = b";
        assert_eq!(rows(&replica.connection(), sql), ["'x'|'y'"]);
        assert_eq!(reasons(replica).await, ["other unique"]);
        assert_verified(replica, &remote).await;
    }
}

/// By reading: what a held row claims by the integer of another row is something else when that one comes back with another integer.
#[tokio::test]
async fn a_row_that_lacks_one_parent_claims_what_an_index_makes_of_the_integer_that_another_has_now() {
    let ((wall, [a, b, c]), remote) = (three(TWO_PARENTS, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y'), (3, 'z')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u = 'x'");
    wall.advance(1);
    run(&a, "INSERT INTO other (a, b) VALUES (1, 2)");
    converge(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u = 'y'");
    converge(&[&b, &a, &c], &remote).await;
    wall.advance(1);
    run(&b, "INSERT INTO row VALUES (99, 'y')");
    converge(&[&b, &a, &c], &remote).await;
    wall.advance(1);
    run(&a, CHILD_OF_Z_AND_Y);
    converge(&[&a, &b, &c], &remote).await;
    the_older_keeps_the_younger_out(&[&a, &b, &c], &remote).await;
}

/// Found by fuzzing: one row keeps another one out by the integer of a third one, which is only here with the one that is kept out.
#[test]
fn rows_of_which_one_is_kept_out_by_an_integer_that_goes_with_it_come_to_rest() {
    comes_to_an_end(async || {
        let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES row,
                         b INTEGER REFERENCES other, c INTEGER NOT NULL REFERENCES other);
                     CREATE UNIQUE INDEX by_text ON other (CAST(b AS TEXT))";
        let ((wall, [a, b, c]), remote) = (three(other, Some(false)).await, fresh_remote());
        run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
        for (id, word, of) in [(1, 2, 1), (2, 1, 2), (3, 2, 1)] {
            wall.advance(1);
            run(&a, &format!("INSERT INTO other VALUES ({id}, {word}, NULL, {of})"));
        }
        converge(&[&a, &b], &remote).await;
        wall.advance(1);
        run(&a, "UPDATE other SET b = 3 WHERE id = 2");
        wall.advance(1);
        run(&b, "DELETE FROM row WHERE u = 'x'; UPDATE other SET b = 3 WHERE id = 1");
        converge(&[&a, &b, &c], &remote).await;
        for replica in [&a, &b, &c] {
            assert_eq!(table(replica, "other"), [] as [&str; 0]);
            assert_eq!(reasons(replica).await, ["other unique", "other foreign key", "other foreign key"]);
            assert_verified(replica, &remote).await;
        }
    });
}

/// By reading: how the index of a child's column compares is not how SQLite compares a child with its parent.
#[tokio::test]
async fn a_child_whose_column_has_another_type_than_its_parents_is_held_without_it() {
    for (parent, child, value) in [
        ("INTEGER", "", "'5'"),
        ("INTEGER", "TEXT", "'05'"),
        ("INTEGER", "TEXT", "'5'"),
        ("INTEGER", "BLOB", "'5.0'"),
        ("TEXT", "INTEGER", "5"),
        ("TEXT", "", "5"),
        ("REAL", "TEXT", "'5.0'"),
        ("BLOB", "INTEGER", "5"),
        ("TEXT", "INTEGER AS (length(id) + 4)", "5"),
    ] {
        let what = format!("{child} {value} to {parent}");
        let schema = format!(
            "CREATE TABLE parent (id {parent} PRIMARY KEY NOT NULL, code {parent} UNIQUE) WITHOUT ROWID;
             CREATE TABLE child (id TEXT PRIMARY KEY NOT NULL, of {child} REFERENCES parent{});
             CREATE INDEX by_of ON child (of)",
            if parent == "REAL" { " (code)" } else { "" }
        );
        let schema = if parent == "REAL" { schema.replacen("id REAL", "id TEXT", 1) } else { schema };
        let make = async || {
            let replica = Replica::in_memory().unwrap();
            run(&replica, &schema);
            let mut options = TrackOptions::default();
            options.identity_key = true;
            replica.track_all(&options).await.unwrap();
            replica
        };
        let (a, b, remote) = (make().await, make().await, fresh_remote());
        run(&a, "PRAGMA foreign_keys = ON; INSERT INTO parent VALUES (5, 5)");
        converge(&[&a, &b], &remote).await;
        // One deletes the parent; the other gives it a child.
        run(&b, "DELETE FROM parent");
        match child.contains(" AS ") {
            true => run(&a, "INSERT INTO child VALUES ('a')"),
            false => run(&a, &format!("INSERT INTO child VALUES ('a', {value})")),
        }
        sync(&a, &remote).await;
        converge(&[&b, &a], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(held(replica).await, ["child/a foreign key"], "{what}");
            assert_eq!(table(replica, "child"), [] as [&str; 0], "{what}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// By reading: NULL in the place of a reference to a row that is not here would count in an index that asks for it, and who
/// came first would keep the other out.
#[tokio::test]
async fn a_reference_that_an_index_asks_for_is_not_replaced_by_null() {
    for index in
        ["(coalesce(a, 0), name)", "(a IS NULL, name)", "(root, name)", "(name) WHERE a IS NULL", "(name) WHERE root"]
    {
        let other = format!(
            "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, name TEXT, root AS (a IS NULL));
             CREATE UNIQUE INDEX by_name ON other {index}"
        );
        let ((wall, [a, b, c]), remote) = (three(&other, Some(false)).await, fresh_remote());
        run(&a, "INSERT INTO row VALUES (1, 'p')");
        converge(&[&a, &b, &c], &remote).await;
        wall.advance(1);
        run(&b, "DELETE FROM row");
        wall.advance(1);
        // One comes by a row under the one that is gone first, the other by one without; both have one name.
        run(&a, "INSERT INTO other (a, name) VALUES (1, 'x')");
        wall.advance(1);
        run(&c, "INSERT INTO other (name) VALUES ('x')");
        sync(&a, &remote).await;
        sync(&b, &remote).await;
        converge(&[&c, &b, &a], &remote).await;
        for replica in [&a, &b, &c] {
            assert_eq!(rows(&replica.connection(), "SELECT a, name FROM other"), ["NULL|'x'"], "{index}");
            assert_eq!(reasons(replica).await, ["other foreign key"], "{index}");
            assert_verified(replica, &remote).await;
        }
        wall.advance(1);
        run(&b, "INSERT INTO row (u) VALUES ('p')");
        converge(&[&b, &c, &a], &remote).await;
        for replica in [&a, &b, &c] {
            let sql = "SELECT u, name FROM other LEFT JOIN row ON row.id = a ORDER BY u";
            assert_eq!(rows(&replica.connection(), sql), ["NULL|'x'", "'p'|'x'"], "{index}");
            assert_eq!(reasons(replica).await, [] as [&str; 0], "{index}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// By reading: an index that was made anew with another condition, or another name, lets in whom it kept out, and keeps out whom it
/// kept out.
#[tokio::test]
async fn an_index_that_is_made_anew_is_looked_at_again() {
    let old = "CREATE UNIQUE INDEX one ON sub (user) WHERE status <> 'cancelled'";
    let schema = format!("CREATE TABLE sub (id TEXT PRIMARY KEY, user TEXT, status TEXT); {old}");
    let wider = "DROP INDEX one; CREATE UNIQUE INDEX one ON sub (user) WHERE status NOT IN ('cancelled', 'expired')";
    let renamed = format!("DROP INDEX one; {}", old.replace("INDEX one", "INDEX other"));
    for (change, shown) in [(wider, 2), (&renamed, 1)] {
        let (wall, remote) = (Wall::at(START_MS), fresh_remote());
        let (a, b) = (clocked(&schema, &wall, 1).await, clocked(&schema, &wall, 2).await);
        converge(&[&a, &b], &remote).await;
        for (replica, sql) in
            [(&a, "INSERT INTO sub VALUES ('k', 'u', 'active')"), (&b, "INSERT INTO sub VALUES ('x', 'u', 'expired')")]
        {
            run(replica, sql);
            wall.advance(1);
        }
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(held(replica).await, ["sub/x unique"]);
            run(replica, change);
        }
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(table(replica, "sub").len(), shown, "{change}");
            assert_verified(replica, &remote).await;
        }
        wall.advance(1);
        run(&a, "UPDATE sub SET status = 'cancelled' WHERE id = 'k'");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(table(replica, "sub").len(), 2, "{change}");
            assert_verified(replica, &remote).await;
        }
    }
}

const THOUSANDS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";

#[tokio::test]
async fn a_changed_parent_does_not_have_all_children_read() {
    // By its identity, and by a value of its own that another column's write does not change.
    for (key, of) in [("u", "u"), ("u", "code")] {
        let schema = format!(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE, code TEXT UNIQUE, v);
             CREATE TABLE child (k TEXT PRIMARY KEY, p TEXT REFERENCES parent ({of}));
             CREATE INDEX by_p ON child (p)"
        );
        let make = async || {
            let replica = Replica::in_memory().unwrap();
            run(&replica, &schema);
            let mut options = TrackOptions::default();
            options.enforce_fk = Some(true);
            replica.track(&["child"], &options).await.unwrap();
            options.key = vec![key.to_owned()];
            replica.track(&["parent"], &options).await.unwrap();
            replica
        };
        let (a, b, remote) = (make().await, make().await, fresh_remote());
        run(
            &a,
            &format!(
                "INSERT INTO parent VALUES (1, '1', '1', 0); {THOUSANDS} INSERT INTO child SELECT 'k' || i, '1' FROM n"
            ),
        );
        converge(&[&a, &b], &remote).await;
        run(&a, "UPDATE parent SET v = 1");
        sync(&a, &remote).await;
        let steps = work(&b, &remote).await;
        assert!(steps < 20, "{of}: {steps} thousand steps");
        // A parent that goes, or is called something else, has its children held.
        run(&a, if of == "u" { "DELETE FROM parent" } else { "UPDATE parent SET code = '2'" });
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!((table(replica, "child").len(), held(replica).await.len()), (0, 2000), "{of}");
        }
    }
}

#[tokio::test]
async fn children_without_an_index_are_read_once_for_all_parents_that_are_held() {
    let schema = "CREATE TABLE first (k TEXT PRIMARY KEY);
        CREATE TABLE parent (k TEXT PRIMARY KEY, p TEXT REFERENCES first);
        CREATE TABLE child (k TEXT PRIMARY KEY, p TEXT REFERENCES parent)";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, "INSERT INTO first VALUES ('1'), ('2'); INSERT INTO parent VALUES ('stays', '1')");
    run(&a, &format!("{THOUSANDS} INSERT INTO child SELECT 'k' || i, 'stays' FROM n"));
    converge(&[&a, &b], &remote).await;
    run(&a, "DELETE FROM first WHERE k = '2'");
    run(&b, &format!("{THOUSANDS} INSERT INTO parent SELECT 'p' || i, '2' FROM n WHERE i <= 100"));
    run(&b, "INSERT INTO child VALUES ('c', 'p7')");
    sync(&b, &remote).await;
    let steps = work(&a, &remote).await;
    assert!(steps < 400, "{steps} thousand steps");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!((table(replica, "child").len(), held(replica).await.len()), (2000, 101));
        assert_verified(replica, &remote).await;
    }
}
