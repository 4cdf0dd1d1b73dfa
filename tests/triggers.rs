//! The user's own triggers at merge: they run, what they write elsewhere stays, and none of it becomes a change.

mod common;

use common::*;
use zvon::Replica;

/// A replica whose named tables are tracked; others are its own.
async fn tracking(schema: &str, tables: &[&str]) -> Replica {
    let replica = Replica::in_memory().unwrap();
    run(&replica, schema);
    replica.track(tables, &keyed()).await.unwrap();
    replica
}

/// Nobody has anything left to say.
async fn assert_quiet(replicas: &[&Replica], remote: &zvon::Remote) {
    for replica in replicas {
        let report = sync(replica, remote).await;
        assert_eq!((report.pushed, report.pulled, report.merged), (0, 0, 0));
    }
}

/// The held rows: table, key, reason.
async fn held(replica: &Replica) -> Vec<String> {
    let rows = replica.held().await.unwrap().rows;
    rows.into_iter().map(|held| format!("{}/{} {}", held.table, held.row, held.reason)).collect()
}

#[tokio::test]
async fn a_full_text_index_over_a_tracked_table_stays_right() {
    let schema = "CREATE TABLE doc (id INTEGER PRIMARY KEY, title TEXT, body TEXT);
        CREATE VIRTUAL TABLE doc_fts USING fts5(title, body, content='doc', content_rowid='id');
        CREATE TRIGGER doc_ai AFTER INSERT ON doc BEGIN
            INSERT INTO doc_fts(rowid, title, body) VALUES (NEW.id, NEW.title, NEW.body); END;
        CREATE TRIGGER doc_ad AFTER DELETE ON doc BEGIN
            INSERT INTO doc_fts(doc_fts, rowid, title, body) VALUES ('delete', OLD.id, OLD.title, OLD.body); END;
        CREATE TRIGGER doc_au AFTER UPDATE ON doc BEGIN
            INSERT INTO doc_fts(doc_fts, rowid, title, body) VALUES ('delete', OLD.id, OLD.title, OLD.body);
            INSERT INTO doc_fts(rowid, title, body) VALUES (NEW.id, NEW.title, NEW.body); END;";
    let (a, b, remote) = (tracking(schema, &["doc"]).await, tracking(schema, &["doc"]).await, fresh_remote());
    let found = |replica: &Replica, word: &str| {
        rows(&replica.connection(), &format!("SELECT rowid FROM doc_fts WHERE doc_fts MATCH '{word}' ORDER BY rowid"))
    };
    let checked = |replica: &Replica| run(replica, "INSERT INTO doc_fts(doc_fts, rank) VALUES ('integrity-check', 1)");

    run(&a, "INSERT INTO doc VALUES (1, 'first', 'apple pie'), (2, 'second', 'plum cake'), (3, 'third', 'apple cake')");
    converge(&[&a, &b], &remote).await;
    assert_eq!((found(&b, "apple"), found(&b, "cake")), (vec!["1".into(), "3".into()], vec!["2".into(), "3".into()]));
    checked(&b);

    run(&a, "UPDATE doc SET body = 'pear pie' WHERE id = 1; DELETE FROM doc WHERE id = 3");
    run(&b, "UPDATE doc SET title = 'zweite' WHERE id = 2; REPLACE INTO doc VALUES (4, 'fourth', 'apple tart')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(found(replica, "apple"), ["4"]);
        assert_eq!((found(replica, "pear"), found(replica, "cake")), (vec!["1".to_owned()], vec!["2".to_owned()]));
        assert_eq!((found(replica, "second"), found(replica, "zweite")), (vec![], vec!["2".to_owned()]));
        checked(replica);
        assert_verified(replica, &remote).await;
    }

    run(&a, "UPDATE doc SET body = 'from a' WHERE id = 2; DELETE FROM doc WHERE id = 1");
    run(&b, "UPDATE doc SET body = 'from b' WHERE id = 2; UPDATE doc SET title = 'revived' WHERE id = 1");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&a, "doc"), table(&b, "doc"));
    for replica in [&a, &b] {
        let either = [found(replica, "a"), found(replica, "b")].concat();
        assert_eq!(either, ["2"]);
        let body = rows(&replica.connection(), "SELECT substr(body, 6) FROM doc WHERE id = 2").remove(0);
        assert_eq!(found(replica, body.trim_matches('\'')), ["2"]);
        checked(replica);
    }
    assert_quiet(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn an_audit_log_in_an_untracked_table_sees_merges() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE audit (n INTEGER PRIMARY KEY, what TEXT);
        CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO audit (what) VALUES ('+' || NEW.id || NEW.v); END;
        CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO audit (what) VALUES (OLD.v || '>' || NEW.v); END;
        CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO audit (what) VALUES ('-' || OLD.id); END;";
    let (a, b, remote) = (tracking(schema, &["t"]).await, tracking(schema, &["t"]).await, fresh_remote());
    run(&a, "INSERT INTO t VALUES ('k', 1)");
    converge(&[&a, &b], &remote).await;
    run(&a, "UPDATE t SET v = 2");
    converge(&[&a, &b], &remote).await;
    run(&b, "DELETE FROM t");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT what FROM audit ORDER BY n"), ["'+k1'", "'1>2'", "'-k'"]);
    }
    assert_quiet(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn an_audit_log_in_a_tracked_table_has_the_origins_rows_only() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE audit (id TEXT PRIMARY KEY, what TEXT);
        CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (hex(randomblob(8)), '+' || NEW.id || NEW.v); END;
        CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO audit VALUES (hex(randomblob(8)), OLD.v || '>' || NEW.v); END;
        CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO audit VALUES (hex(randomblob(8)), '-' || OLD.id); END;";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t VALUES ('k', 1), ('l', 1); UPDATE t SET v = 2 WHERE id = 'k'");
    run(&b, "INSERT INTO t VALUES ('m', 1)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE t SET v = 3 WHERE id = 'k'; DELETE FROM t WHERE id = 'l'");
    converge(&[&b, &a], &remote).await;
    let written = ["'+k1'", "'+l1'", "'+m1'", "'-l'", "'1>2'", "'2>3'"];
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT what FROM audit ORDER BY what"), written);
        assert_verified(replica, &remote).await;
    }
    assert_eq!(table(&a, "audit"), table(&b, "audit"));
    assert_quiet(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn a_history_whose_keys_follow_from_the_row_holds_nothing_back() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, v INTEGER); CREATE TABLE a_history (id TEXT, v INTEGER, PRIMARY KEY (id, v));
        CREATE TABLE z_history (id TEXT, v INTEGER, note TEXT, PRIMARY KEY (id, v));
        CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO a_history VALUES (NEW.id, NEW.v); INSERT INTO z_history VALUES (NEW.id, NEW.v, 'i'); END;
        CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO a_history VALUES (NEW.id, NEW.v); INSERT INTO z_history VALUES (NEW.id, NEW.v, 'u'); END;";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, "INSERT INTO t VALUES ('k', 1); UPDATE t SET v = 2; UPDATE t SET v = 3");
    converge(&[&a, &b], &remote).await;
    assert_eq!(held(&b).await, [] as [&str; 0]);
    for name in ["t", "a_history", "z_history"] {
        assert_eq!(table(&a, name), table(&b, name), "{name}");
    }
    run(&b, "UPDATE t SET v = 4");
    converge(&[&b, &a], &remote).await;
    assert_eq!(held(&a).await, [] as [&str; 0]);
    assert_eq!(table(&a, "z_history"), table(&b, "z_history"));
    assert_quiet(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn an_updated_at_trigger_plays_no_ping_pong() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY, v, updated_at TEXT);";
    let trigger = "CREATE TRIGGER stamp AFTER UPDATE ON t BEGIN UPDATE t SET updated_at = hex(randomblob(4)) WHERE id = NEW.id; END;";
    for ours_first in [true, false] {
        let (before, after) = if ours_first { (tables.to_owned() + trigger, "") } else { (tables.to_owned(), trigger) };
        let (a, b, remote) = (replica(&before).await, replica(&before).await, fresh_remote());
        run(&a, after);
        run(&b, after);
        run(&a, "INSERT INTO t VALUES ('k', 1, NULL), ('l', 1, 'then'); UPDATE t SET v = 2 WHERE id = 'k'");
        converge(&[&a, &b], &remote).await;
        run(&a, "UPDATE t SET v = 3 WHERE id = 'k'");
        run(&b, "UPDATE t SET v = 4");
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&a, "t"), table(&b, "t"));
        assert_quiet(&[&a, &b], &remote).await;
        assert_verified(&a, &remote).await;
        assert_verified(&b, &remote).await;
    }
}

#[tokio::test]
async fn a_row_that_a_trigger_refuses_holds_up_no_other() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE other (id TEXT PRIMARY KEY, v);";
    for (refusal, word) in [
        ("SELECT RAISE(ABORT, 'no poison')", "no poison"),
        ("SELECT RAISE(ROLLBACK, 'no poison')", "no poison"),
        ("SELECT RAISE(FAIL, 'no poison')", "no poison"),
        ("SELECT RAISE(IGNORE)", "ignores"),
        ("SELECT json('not ' || 'json')", "malformed JSON"),
    ] {
        for when in ["BEFORE", "AFTER"] {
            if when == "AFTER" && refusal.contains("IGNORE") {
                continue;
            }
            let (a, b, remote) = (replica(tables).await, replica(tables).await, fresh_remote());
            run(&b, &format!("CREATE TRIGGER guard {when} INSERT ON t WHEN NEW.v = 'poison' BEGIN {refusal}; END"));
            run(
                &a,
                "INSERT INTO t VALUES ('a', 1), ('b', 'poison'), ('c', 3), ('d', 'poison'); INSERT INTO other VALUES ('x', 1)",
            );
            sync(&a, &remote).await;
            let report = sync(&b, &remote).await;
            assert_eq!((report.merged, report.held), (5, 2), "{when} {refusal}");
            assert_eq!(table(&b, "t"), ["'a'|1", "'c'|3"], "{when} {refusal}");
            assert_eq!(table(&b, "other"), ["'x'|1"]);
            let reason = if refusal.contains("json") { "other" } else { "trigger" };
            assert_eq!(held(&b).await, [format!("t/b {reason}"), format!("t/d {reason}")], "{when} {refusal}");
            let detail = b.held().await.unwrap().rows.remove(0).detail;
            assert!(detail.contains(word), "{when} {refusal}: {detail}");
            assert_verified(&b, &remote).await;

            run(&a, "UPDATE t SET v = 'cured' WHERE id = 'd'");
            sync(&a, &remote).await;
            assert_eq!(sync(&b, &remote).await.held, 1, "{when} {refusal}");
            run(&b, "DROP TRIGGER guard; INSERT INTO other VALUES ('y', 1)");
            assert_eq!(sync(&b, &remote).await.held, 0, "{when} {refusal}");
            sync(&a, &remote).await;
            assert_eq!(table(&b, "t"), ["'a'|1", "'b'|'poison'", "'c'|3", "'d'|'cured'"]);
            assert_eq!(table(&a, "t"), table(&b, "t"));
            assert_quiet(&[&a, &b], &remote).await;
        }
    }
}

#[tokio::test]
async fn a_trigger_that_forbids_updates_or_deletes_does_not_stop_a_merge() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY, v)";
    for raise in ["ABORT, 'no'", "ROLLBACK, 'no'", "IGNORE"] {
        for event in ["UPDATE", "DELETE"] {
            let (a, b, remote) = (replica(tables).await, replica(tables).await, fresh_remote());
            run(&a, "INSERT INTO t VALUES ('a', 1), ('b', 1), ('c', 1)");
            converge(&[&a, &b], &remote).await;
            run(
                &b,
                &format!(
                    "CREATE TRIGGER guard BEFORE {event} ON t WHEN OLD.id <> 'c' BEGIN SELECT RAISE({raise}); END"
                ),
            );
            run(&a, "DELETE FROM t WHERE id = 'a'; UPDATE t SET v = 2");
            converge(&[&a, &b], &remote).await;
            run(&b, "DROP TRIGGER guard; INSERT INTO t VALUES ('d', 1)");
            converge(&[&a, &b], &remote).await;
            assert_eq!(table(&b, "t"), ["'b'|2", "'c'|2", "'d'|1"], "{event} {raise}");
            assert_eq!(table(&a, "t"), table(&b, "t"), "{event} {raise}");
            assert_quiet(&[&a, &b], &remote).await;
        }
    }
}

#[tokio::test]
async fn a_broken_trigger_holds_its_own_table_only() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE other (id TEXT PRIMARY KEY, v);";
    let (a, b, remote) = (replica(tables).await, replica(tables).await, fresh_remote());
    run(&b, "CREATE TRIGGER broken AFTER INSERT ON t BEGIN INSERT INTO nowhere VALUES (NEW.id); END");
    run(&a, "INSERT INTO t VALUES ('a', 1); INSERT INTO other VALUES ('x', 1)");
    sync(&a, &remote).await;
    assert_eq!(sync(&b, &remote).await.held, 1);
    assert_eq!(table(&b, "other"), ["'x'|1"]);
    assert!(b.held().await.unwrap().rows[0].detail.contains("nowhere"));
    run(&b, "CREATE TABLE nowhere (id); INSERT INTO other VALUES ('y', 1)");
    assert_eq!(sync(&b, &remote).await.held, 0);
    assert_eq!(table(&b, "t"), ["'a'|1"]);
}
