//! Rows whose parent is not here, or went.

use super::*;

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
