//! The user's own triggers at merge: they run, what they write elsewhere stays, and none of it becomes a change.

mod common;

use common::integers::unenforced;
use common::wall::{START_MS, Wall, clocked, on_the_wall};
use common::*;
use zvon::{Replica, TrackOptions};

/// A replica whose named tables are tracked; others are its own.
async fn tracking(schema: &str, tables: &[&str]) -> Replica {
    let replica = Replica::in_memory().unwrap();
    run(&replica, schema);
    replica.track(tables, &keyed()).await.unwrap();
    replica
}

/// Two replicas of a schema whose integers stay local and whose foreign keys are enforced, and a remote.
async fn two(schema: &str, tables: &[&str]) -> (Replica, Replica, zvon::Remote) {
    let mut options = TrackOptions::default();
    options.enforce_fk = Some(true);
    let (a, b) = (Replica::in_memory().unwrap(), Replica::in_memory().unwrap());
    for replica in [&a, &b] {
        run(replica, schema);
        replica.track(tables, &options).await.unwrap();
    }
    (a, b, fresh_remote())
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

#[tokio::test]
async fn a_counter_that_a_trigger_keeps_counts_once() {
    let schema = "CREATE TABLE album (id TEXT PRIMARY KEY, tracks INTEGER NOT NULL DEFAULT 0, seconds INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE track (id TEXT PRIMARY KEY, album TEXT REFERENCES album, seconds INTEGER);
        CREATE TRIGGER i AFTER INSERT ON track BEGIN
            UPDATE album SET tracks = tracks + 1, seconds = seconds + NEW.seconds WHERE id = NEW.album; END;
        CREATE TRIGGER u AFTER UPDATE ON track BEGIN
            UPDATE album SET seconds = seconds + NEW.seconds - OLD.seconds WHERE id = NEW.album; END;
        CREATE TRIGGER d AFTER DELETE ON track BEGIN
            UPDATE album SET tracks = tracks - 1, seconds = seconds - OLD.seconds WHERE id = OLD.album; END;";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, "INSERT INTO album (id) VALUES ('x'), ('y')");
    converge(&[&a, &b], &remote).await;
    run(
        &a,
        "INSERT INTO track VALUES ('1', 'x', 10), ('2', 'x', 20), ('3', 'y', 30); UPDATE track SET seconds = 11 WHERE id = '1'",
    );
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "album"), ["'x'|2|31", "'y'|1|30"]);
    run(&b, "DELETE FROM track WHERE id = '2'; UPDATE track SET seconds = 5");
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "album"), ["'x'|1|5", "'y'|1|5"]);
    for replica in [&a, &b] {
        assert_eq!(table(replica, "album"), table(&a, "album"));
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn a_trigger_that_writes_children_of_nobody_leaves_no_trace() {
    let schema = "CREATE TABLE parent (id TEXT PRIMARY KEY, v); CREATE TABLE child (id TEXT PRIMARY KEY, p TEXT REFERENCES parent);
        CREATE TABLE z (id TEXT PRIMARY KEY, v);
        CREATE TRIGGER orphan AFTER INSERT ON z BEGIN
            INSERT INTO child VALUES ('made by ' || NEW.id, 'nobody'); DELETE FROM parent WHERE id = NEW.v; END;";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    run(&a, "INSERT INTO parent VALUES ('p', 1), ('q', 1); INSERT INTO child VALUES ('c', 'p')");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER orphan; INSERT INTO z VALUES ('1', 'p')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "child"), ["'c'|'p'"]);
        assert_eq!(table(replica, "parent"), ["'p'|1", "'q'|1"]);
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

#[tokio::test]
async fn a_row_that_a_trigger_renumbered_at_merge_is_back() {
    let schema = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE other (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TRIGGER renumber AFTER INSERT ON t BEGIN UPDATE other SET k = 100 + k WHERE v = NEW.v; END;";
    let (a, b, remote) = two(schema, &["t", "other"]).await;
    run(&a, "INSERT INTO other VALUES (7, 'stays'), (8, 'moves')");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER renumber; INSERT INTO t (v) VALUES ('moves')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "other"), ["7|'stays'", "8|'moves'"]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

/// In the place of a row that is gone, the trigger's row was taken for it, and for one that has the value by right.
#[tokio::test]
async fn a_row_that_a_trigger_makes_at_merge_keeps_no_other_out() {
    let schema =
        "CREATE TABLE code (k INTEGER PRIMARY KEY, v TEXT UNIQUE); CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TRIGGER makes BEFORE INSERT ON t BEGIN INSERT OR REPLACE INTO code (v) VALUES ('x'); END;";
    let (a, b, remote) = two(schema, &["code", "t"]).await;
    run(&a, "INSERT INTO code VALUES (1, 'x')");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER makes; DELETE FROM code; INSERT INTO code VALUES (2, 'x'); INSERT INTO t VALUES (1, 'y')");
    sync(&b, &remote).await;
    sync(&a, &remote).await;
    assert_eq!(held(&a).await, [] as [&str; 0]);
    for replica in [&a, &b] {
        assert_eq!(table(replica, "code"), ["2|'x'"]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

/// Taking back what a trigger made sets off another, which was taken for the user.
#[tokio::test]
async fn what_follows_when_a_triggers_row_is_taken_back_is_no_change() {
    let schema = "CREATE TABLE code (k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE count (k TEXT PRIMARY KEY, n INTEGER);
        CREATE TRIGGER makes AFTER INSERT ON t BEGIN INSERT INTO code (v) VALUES ('x'); END;
        CREATE TRIGGER counts AFTER DELETE ON code BEGIN UPDATE count SET n = n + 1; END;";
    let (a, b, remote) = two(schema, &["code", "t", "count"]).await;
    run(&a, "INSERT INTO count VALUES ('deleted', 0)");
    converge(&[&a, &b], &remote).await;
    run(&b, "INSERT INTO t VALUES (1, 'y')");
    converge(&[&b, &a], &remote).await;
    assert_quiet(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "code"), ["1|'x'"]);
        assert_eq!(table(replica, "count"), ["'deleted'|0"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn a_triggers_row_that_a_trigger_keeps_does_not_stop_a_merge() {
    for raise in ["ABORT, 'no'", "ROLLBACK, 'no'", "FAIL, 'no'", "IGNORE"] {
        let schema = format!(
            "CREATE TABLE code (k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);
            CREATE TRIGGER makes AFTER INSERT ON t BEGIN INSERT INTO code (v) VALUES ('x'); END;
            CREATE TRIGGER keeps BEFORE DELETE ON code BEGIN SELECT RAISE({raise}); END;"
        );
        let (a, b, remote) = two(&schema, &["code", "t"]).await;
        run(&b, "INSERT INTO t VALUES (1, 'y')");
        converge(&[&b, &a], &remote).await;
        for replica in [&a, &b] {
            assert_eq!((table(replica, "t"), table(replica, "code")), (vec!["1|'y'".into()], vec!["1|'x'".into()]));
            assert_eq!(held(replica).await, [] as [&str; 0], "{raise}");
            assert_verified(replica, &remote).await;
        }
        assert_quiet(&[&a, &b], &remote).await;
    }
}

/// What a trigger wrote into a row was taken for the row when it was asked whether its parent is shown.
#[tokio::test]
async fn a_reference_that_a_trigger_wrote_at_merge_holds_no_row() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE child (k INTEGER PRIMARY KEY, p INTEGER REFERENCES parent, v TEXT);
        CREATE TRIGGER turns BEFORE DELETE ON parent WHEN (SELECT count(*) FROM parent) = 3 BEGIN
            UPDATE child SET p = (SELECT k FROM parent WHERE v = 'goes' AND k <> OLD.k); END;";
    let (a, b, remote) = two(schema, &["parent", "child"]).await;
    run(&a, "INSERT INTO parent VALUES (1, 'stays'), (2, 'goes'), (3, 'goes'); INSERT INTO child VALUES (1, 1, 'x')");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER turns; DELETE FROM parent WHERE v = 'goes'");
    sync(&b, &remote).await;
    sync(&a, &remote).await;
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_eq!(table(replica, "child"), ["1|1|'x'"]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

/// A row that is deleted in the log, and that a trigger makes again at merge, was held when its parent went.
#[tokio::test]
async fn a_deleted_row_that_a_trigger_makes_at_merge_is_not_held() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE child (k TEXT PRIMARY KEY, p INTEGER NOT NULL REFERENCES parent ON DELETE CASCADE);
        CREATE TRIGGER makes AFTER DELETE ON parent BEGIN
            INSERT OR IGNORE INTO child SELECT 'c', k FROM parent ORDER BY k LIMIT 1; END;";
    let (a, b, remote) = two(schema, &["parent", "child"]).await;
    run(&a, "INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES ('c', 1); DELETE FROM child");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER makes; DELETE FROM parent");
    sync(&b, &remote).await;
    sync(&a, &remote).await;
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_eq!(table(replica, "child"), [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

/// Its integer was looked at, and its other columns; its key was another.
#[tokio::test]
async fn a_row_whose_key_a_trigger_changed_at_merge_is_back() {
    let schema = "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE other (k INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE, v TEXT);
        CREATE TRIGGER renames AFTER INSERT ON t BEGIN UPDATE other SET u = 'another'; END;";
    let (a, b, remote) = two(schema, &["t"]).await;
    for replica in [&a, &b] {
        let mut options = TrackOptions::default();
        options.key = vec!["u".into()];
        replica.track(&["other"], &options).await.unwrap();
    }
    run(&a, "INSERT INTO other VALUES (1, 'its own', 'x')");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER renames; INSERT INTO t VALUES (1, 'y')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "other"), ["1|'its own'|'x'"]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

/// The user's trigger runs before ours, or after: what it did to a row that got another integer may be known before the move itself is.
#[tokio::test]
async fn a_row_that_a_trigger_deletes_or_moves_on_when_its_integer_changes_is_followed() {
    for (then, is_first) in [
        ("DELETE FROM t WHERE k = NEW.k", false),
        ("DELETE FROM t WHERE k = NEW.k", true),
        ("UPDATE t SET k = 300 WHERE k = 200", false),
        ("UPDATE t SET k = 300 WHERE k = 200", true),
    ] {
        let trigger = format!("CREATE TRIGGER follows AFTER UPDATE OF k ON t WHEN NEW.k = 200 BEGIN {then}; END");
        let [before, after] = if is_first { [&*trigger, ""] } else { ["", &*trigger] };
        let schema = format!("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); {before}");
        let (a, b, remote) = two(&schema, &["t"]).await;
        [&a, &b].into_iter().for_each(|replica| run(replica, after));
        run(&a, "INSERT INTO t VALUES (1, 'x'), (2, 'y'); UPDATE t SET k = 200 WHERE k = 1");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            let shown = rows(&replica.connection(), "SELECT v FROM t ORDER BY v");
            assert_eq!(shown, if then.starts_with("DELETE") { vec!["'y'"] } else { vec!["'x'", "'y'"] }, "{then}");
            assert_verified(replica, &remote).await;
        }
        assert_quiet(&[&a, &b], &remote).await;
    }
}

/// NULL stands for a row that is not here; this one is.
#[tokio::test]
async fn a_reference_that_a_trigger_made_null_at_merge_is_back() {
    let schema = "CREATE TABLE parent (k INTEGER PRIMARY KEY, v TEXT);
        CREATE TABLE child (k INTEGER PRIMARY KEY, p INTEGER REFERENCES parent);
        CREATE TRIGGER clears AFTER INSERT ON parent BEGIN UPDATE child SET p = NULL; END;";
    let (a, b, remote) = two(schema, &["parent", "child"]).await;
    run(&a, "INSERT INTO parent VALUES (1, 'x'); INSERT INTO child VALUES (1, 1)");
    converge(&[&a, &b], &remote).await;
    run(&b, "DROP TRIGGER clears; INSERT INTO parent VALUES (2, 'y')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "child"), ["1|1"]);
        assert_verified(replica, &remote).await;
    }
    assert_quiet(&[&a, &b], &remote).await;
}

/// Seed 5080126 of the simulation: a row of which a reference is left out of the log, as it is to nobody, and which a trigger deletes,
/// or changes, at merge.
#[tokio::test]
async fn a_row_with_a_reference_to_nobody_that_a_trigger_wrote_at_merge_is_back() {
    for (body, here, there) in [
        ("DELETE FROM child", "1|NULL|'mine'", "1|NULL|'mine'"),
        ("UPDATE child SET v = 'changed'", "1|77|'mine'", "1|NULL|'mine'"),
        // What the reference was is nowhere recorded: it is not told from a row of that number that has come.
        ("UPDATE child SET p = 1, v = 'changed'", "1|1|'mine'", "1|1|'mine'"),
    ] {
        let schema = format!(
            "CREATE TABLE parent (k INTEGER PRIMARY KEY, v TEXT);
             CREATE TABLE child (k INTEGER PRIMARY KEY, p INTEGER REFERENCES parent, v TEXT);
             CREATE TRIGGER writes AFTER INSERT ON parent BEGIN {body}; END;"
        );
        let (a, b, remote) = two(&schema, &["parent", "child"]).await;
        run(&a, "PRAGMA foreign_keys = OFF; INSERT INTO child VALUES (1, 77, 'mine')");
        converge(&[&a, &b], &remote).await;
        run(&b, "DROP TRIGGER writes; INSERT INTO parent VALUES (1, 'x')");
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&a, "child"), [here], "{body}");
        assert_eq!(table(&b, "child"), [there], "{body}");
        for replica in [&a, &b] {
            assert_verified(replica, &remote).await;
        }
    }
}

/// Seed 6890327 of the simulation: what a trigger writes to another table may break a rule there.
#[tokio::test]
async fn a_row_whose_trigger_cannot_write_elsewhere_is_tried_again() {
    let (a, remote) = (tracking("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)", &["t"]).await, fresh_remote());
    let b = tracking(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT); CREATE TABLE seen (v TEXT NOT NULL CHECK (v <> 'bad'));
         CREATE TRIGGER notes AFTER INSERT ON t BEGIN INSERT INTO seen VALUES (NEW.v); END",
        &["t"],
    )
    .await;
    run(&a, "INSERT INTO t VALUES ('1', NULL), ('2', 'bad'), ('3', 'good')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(held(&b).await, ["t/1 trigger", "t/2 trigger"]);
    assert_verified(&b, &remote).await;
    run(&b, "DROP TRIGGER notes");
    sync(&b, &remote).await;
    assert_eq!(table(&b, "t"), table(&a, "t"));
    assert_eq!(held(&b).await, [] as [&str; 0]);
    assert_verified(&b, &remote).await;
}

/// Seed 5910461 of the simulation: a row that refers to itself, and was taken out for a while, as a trigger had it refer to another.
#[tokio::test]
async fn a_row_that_refers_to_itself_is_back_after_a_trigger_led_it_elsewhere() {
    let schema = "CREATE TABLE t (k INTEGER PRIMARY KEY, p INTEGER REFERENCES t, v TEXT);
        CREATE TABLE other (k TEXT PRIMARY KEY);
        CREATE TRIGGER refuses BEFORE INSERT ON t WHEN NEW.v = 'bad' BEGIN SELECT RAISE (ABORT, 'no'); END;
        CREATE TRIGGER leads AFTER INSERT ON t BEGIN UPDATE t SET p = (SELECT min(k) FROM t) WHERE k = NEW.k; END;
        CREATE TRIGGER clears AFTER INSERT ON other BEGIN DELETE FROM t WHERE v LIKE 'self%'; END;";
    let (a, b, remote) = two(schema, &["t", "other"]).await;
    run(&a, "DROP TRIGGER refuses; DROP TRIGGER leads; DROP TRIGGER clears");
    run(
        &a,
        "INSERT INTO t VALUES (5, NULL, 'bad'), (1, 5, 'follows'), (2, 2, 'self'), (3, 4, 'self, by another'), (4, 3, 'self too');
         INSERT INTO other VALUES ('x')",
    );
    converge(&[&a, &b], &remote).await;
    let shown = "SELECT c.v, p.v FROM t AS c JOIN t AS p ON p.k = c.p ORDER BY 1";
    let expected = ["'self'|'self'", "'self too'|'self, by another'", "'self, by another'|'self too'"];
    assert_eq!(rows(&b.connection(), shown), expected);
    let reasons: Vec<String> = b.held().await.unwrap().rows.into_iter().map(|held| held.reason).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}

/// What the user's triggers on the table `c` say happened, since the last time they were asked.
fn heard(replica: &Replica) -> Vec<String> {
    let conn = replica.connection();
    let heard = rows(&conn, "SELECT what FROM audit ORDER BY rowid");
    conn.execute("DELETE FROM audit", []).unwrap();
    heard
}

/// Triggers on one replica alone: one refuses rows that say so, others tell what happens to rows.
const REFUSES_AND_TELLS: &str = "CREATE TABLE audit (what TEXT);
    CREATE TRIGGER refuses BEFORE INSERT ON p WHEN NEW.v = 'bad' BEGIN SELECT RAISE (ABORT, 'no'); END;
    CREATE TRIGGER tells_in AFTER INSERT ON c BEGIN INSERT INTO audit VALUES ('in ' || NEW.k); END;
    CREATE TRIGGER tells_over AFTER UPDATE ON c BEGIN INSERT INTO audit VALUES ('over ' || NEW.k); END;
    CREATE TRIGGER tells_out AFTER DELETE ON c BEGIN INSERT INTO audit VALUES ('out ' || OLD.k); END;";

#[tokio::test]
async fn children_of_a_parent_that_a_trigger_refuses_rest_until_it_is_in() {
    for (enforce_fk, not_null, shown) in [(false, "", 1), (true, "", 0), (false, "NOT NULL", 0)] {
        let schema = format!(
            "CREATE TABLE p (id INTEGER PRIMARY KEY, v TEXT);
             CREATE TABLE c (k TEXT PRIMARY KEY, p INTEGER {not_null} REFERENCES p)"
        );
        let mut options = TrackOptions::default();
        options.enforce_fk = Some(enforce_fk);
        let (a, b, remote) = (Replica::in_memory().unwrap(), Replica::in_memory().unwrap(), fresh_remote());
        for replica in [&a, &b] {
            run(replica, &schema);
            replica.track(&["p", "c"], &options).await.unwrap();
        }
        run(&b, REFUSES_AND_TELLS);
        run(&a, "INSERT INTO p VALUES (7, 'bad'); INSERT INTO c VALUES ('c1', 7)");
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&b, "c").len(), shown);
        heard(&b);
        sync(&b, &remote).await;
        assert_eq!(heard(&b), [] as [&str; 0], "{enforce_fk} {not_null}");
        run(&b, "DROP TRIGGER refuses");
        sync(&b, &remote).await;
        assert_eq!(table(&b, "c"), ["'c1'|7"]);
        assert_eq!(held(&b).await, [] as [&str; 0]);
        assert_verified(&b, &remote).await;
    }
}

#[tokio::test]
async fn a_row_that_a_trigger_refuses_keeps_no_value_from_others() {
    for when in ["BEFORE", "AFTER"] {
        let schema = "CREATE TABLE c (k TEXT PRIMARY KEY, v TEXT UNIQUE, note TEXT)";
        let wall = Wall::at(START_MS);
        let (a, b, remote) = (clocked(schema, &wall, 1).await, clocked(schema, &wall, 2).await, fresh_remote());
        converge(&[&a, &b], &remote).await;
        // Another value is claimed by a row that is held, so that claims are looked at.
        run(&a, "INSERT INTO c VALUES ('x1', 'dup', '')");
        wall.advance(1);
        run(&b, "INSERT INTO c VALUES ('x2', 'dup', '')");
        converge(&[&a, &b], &remote).await;
        let refuses =
            REFUSES_AND_TELLS.replace("BEFORE INSERT ON p WHEN NEW.v", &format!("{when} INSERT ON c WHEN NEW.note"));
        run(&b, &refuses);
        wall.advance(1);
        run(&a, "INSERT INTO c VALUES ('r1', 'same', 'bad')");
        wall.advance(1);
        run(&b, "INSERT INTO c VALUES ('r2', 'same', '')");
        converge(&[&a, &b], &remote).await;
        for _ in 0..2 {
            heard(&b);
            sync(&b, &remote).await;
            if when == "BEFORE" {
                assert_eq!(heard(&b), [] as [&str; 0]);
            }
            assert_eq!(table(&b, "c"), ["'r2'|'same'|''", "'x1'|'dup'|''"], "{when}");
            assert_eq!(held(&b).await, ["c/r1 trigger", "c/x2 unique"], "{when}");
            assert_verified(&b, &remote).await;
        }
        run(&b, "DROP TRIGGER refuses");
        sync(&b, &remote).await;
        assert_eq!(table(&b, "c"), table(&a, "c"), "{when}");
        assert_verified(&b, &remote).await;
    }
}

#[tokio::test]
async fn rows_whose_trigger_rolls_back_do_not_have_all_the_others_written_again() {
    let (a, b) = (
        replica("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)").await,
        replica("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)").await,
    );
    let remote = fresh_remote();
    run(&b, "CREATE TRIGGER refuses BEFORE INSERT ON t WHEN NEW.v = 'bad' BEGIN SELECT RAISE (ROLLBACK, 'no'); END");
    run(
        &a,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO t SELECT printf('%04d', i), CASE WHEN i % 10 THEN 'good' ELSE 'bad' END FROM n",
    );
    sync(&a, &remote).await;
    let steps = work(&b, &remote).await;
    assert!(steps < 2000, "{steps} thousand steps");
    let steps = work(&b, &remote).await;
    assert!(steps < 500, "{steps} thousand steps of an idle sync");
    assert_eq!((table(&b, "t").len(), held(&b).await.len()), (900, 100));
    run(&b, "DROP TRIGGER refuses");
    sync(&b, &remote).await;
    assert_eq!(table(&b, "t"), table(&a, "t"));
    assert_verified(&b, &remote).await;
}

#[tokio::test]
async fn a_value_is_free_once_a_trigger_refuses_the_row_that_had_it() {
    let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY, v); CREATE TABLE c (k TEXT PRIMARY KEY, v UNIQUE, p INTEGER REFERENCES p)";
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let make = async |seed| {
        let replica = on_the_wall(unenforced(schema).await, &wall, seed);
        sync(&replica, &remote).await;
        replica
    };
    let (a, b, c) = (make(1).await, make(2).await, make(3).await);
    let refuses = |event| {
        format!(
            "CREATE TRIGGER refuses_{event} BEFORE {event} ON c WHEN NEW.p IS NOT NULL BEGIN SELECT RAISE (ABORT, 'no'); END;"
        )
    };
    run(&b, &(refuses("INSERT") + &refuses("UPDATE")));
    run(&a, "INSERT INTO p VALUES (1, 'one')");
    converge(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&a, "INSERT INTO c VALUES ('first', 'same', 1); DELETE FROM p");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "c"), ["'first'|'same'|NULL"]);
    // The parent lives on, and with it comes a row that wants the value, too.
    wall.advance(1);
    run(&c, "UPDATE p SET v = 'two'; INSERT INTO c VALUES ('second', 'same', NULL)");
    sync(&c, &remote).await;
    sync(&b, &remote).await;
    assert_eq!(held(&b).await, ["c/first trigger"]);
    assert_eq!(table(&b, "c"), ["'second'|'same'|NULL"]);
    assert_verified(&b, &remote).await;
    run(&b, "DROP TRIGGER refuses_INSERT; DROP TRIGGER refuses_UPDATE");
    converge(&[&a, &b], &remote).await;
    assert_eq!((table(&b, "c"), held(&b).await), (table(&a, "c"), held(&a).await));
    assert_verified(&b, &remote).await;
}

#[tokio::test]
async fn who_waits_for_a_value_rests_until_a_row_has_it() {
    let schema = "CREATE TABLE p (k TEXT PRIMARY KEY, code TEXT UNIQUE COLLATE NOCASE, n INTEGER UNIQUE, v);
        CREATE TABLE c (k TEXT PRIMARY KEY, code TEXT REFERENCES p (code), n REAL REFERENCES p (n))";
    for comes in [
        "INSERT INTO p VALUES ('p3', 'WANTED', 5, NULL)",
        "UPDATE p SET code = 'wanted', n = 5 WHERE k = 'p1'",
        "DELETE FROM p; INSERT INTO p VALUES ('p2', 'Wanted', 5, NULL)",
    ] {
        let wall = Wall::at(START_MS);
        let (a, b, remote) = (clocked(schema, &wall, 1).await, clocked(schema, &wall, 2).await, fresh_remote());
        run(&b, &REFUSES_AND_TELLS.replace("BEFORE INSERT ON p WHEN NEW.v = 'bad'", "BEFORE INSERT ON c WHEN 0"));
        run(&a, "INSERT INTO p VALUES ('p1', 'one', 1, NULL); INSERT INTO c VALUES ('c1', 'wanted', '5')");
        converge(&[&a, &b], &remote).await;
        assert_eq!(held(&b).await, ["c/c1 foreign key"]);
        heard(&b);
        for other in [
            "UPDATE p SET v = 2",
            "UPDATE p SET code = 'another', n = 50",
            "INSERT INTO p VALUES ('p2', 'wante', NULL, 1)",
            "DELETE FROM p WHERE k = 'p2'",
        ] {
            run(&a, other);
            converge(&[&a, &b], &remote).await;
            assert_eq!(heard(&b), [] as [&str; 0], "{other}");
        }
        run(&a, comes);
        converge(&[&a, &b], &remote).await;
        assert_eq!(heard(&b), ["'in c1'"], "{comes}");
        for replica in [&a, &b] {
            assert_eq!((table(replica, "c").len(), held(replica).await), (1, vec![]), "{comes}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// An update records what triggers set in its row before it, and others may write those columns meanwhile: what triggers set elsewhere,
/// under the same name, is not among them.
#[tokio::test]
async fn an_update_says_nothing_of_what_triggers_set_in_other_tables() {
    let schema =
        "CREATE TABLE task (id TEXT PRIMARY KEY, title, state); CREATE TABLE sale (id TEXT PRIMARY KEY, state);
        CREATE TABLE audit (title UNIQUE, state);
        CREATE TRIGGER note_it BEFORE UPDATE ON task BEGIN
            INSERT INTO audit VALUES (OLD.title, 1) ON CONFLICT DO UPDATE SET state = state + 1; END;
        CREATE TRIGGER begin_it AFTER INSERT ON sale BEGIN UPDATE sale SET state = 'new' WHERE id = NEW.id; END";
    let wall = Wall::at(START_MS);
    let (a, b, remote) = two(schema, &["task", "sale"]).await;
    let (a, b) = (on_the_wall(a, &wall, 1), on_the_wall(b, &wall, 2));
    run(&a, "INSERT INTO task VALUES ('t', 'old', 'open')");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE task SET state = 'done'");
    wall.advance(1_000);
    run(&a, "UPDATE task SET title = 'better'");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "task"), ["'t'|'better'|'done'"]);
        assert_verified(replica, &remote).await;
    }
}
