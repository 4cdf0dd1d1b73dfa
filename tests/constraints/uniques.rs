//! Two rows that claim one unique value: the older claim is shown, the other row is held until it can be.

use super::*;

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
