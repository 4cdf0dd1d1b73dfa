//! Constraints at merge: a row that one keeps out is held with its reason, the rest merges, and it is shown once it can be.

#[path = "../common/mod.rs"]
mod common;
mod integers;
mod own_columns;
mod parents;
mod uniques;

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
