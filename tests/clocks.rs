//! Clocks that are wrong, late copies, and what wins whatever the clocks say.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use common::dated_store::DatedStore;
use common::faulty_store::{FaultyStore, Request, Verdict};
use common::shared_folder::{SharedFolder, file_name, msgpack, note_change};
use common::wall::{DAY_MS, HOUR_MS, START_MS, Wall, clocked, on_the_wall};
use common::*;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;
use tokio::runtime::Runtime;
use zvon::{ErrorKind, Join, Lock, Remote, Replica, Secret, Settings, SyncOptions, SyncReport};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, n INTEGER)";

/// A replica whose clock is off by some milliseconds.
async fn off_by(ms: i64, seed: u64) -> (Replica, Wall) {
    let wall = Wall::at(START_MS.saturating_add_signed(ms));
    (clocked(NOTES, &wall, seed).await, wall)
}

async fn join(replica: &Replica, remote: &Remote) -> SyncReport {
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    replica.sync(remote, &options).await.unwrap()
}

async fn clock_error(replica: &Replica, remote: &Remote) -> String {
    let error = replica.sync(remote, &SyncOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Clock);
    error.to_string()
}

/// The ids of a row's changes, oldest first.
async fn ids(replica: &Replica, row: &str) -> Vec<String> {
    let log = replica.log(Some("note"), Some(row), 100).await.unwrap();
    log.into_iter().rev().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn a_change_made_after_seeing_another_wins_whatever_the_clocks_say() {
    let ((ahead, _), (behind, wall), remote) = (off_by(2 * 3_600_000, 1).await, off_by(0, 2).await, fresh_remote());
    run(&ahead, "INSERT INTO note VALUES ('1', 'first', 1)");
    converge(&[&ahead, &behind], &remote).await;
    for turn in 0..5 {
        wall.advance(1);
        run(&behind, &format!("UPDATE note SET title = 'answer {turn}'"));
        converge(&[&behind, &ahead], &remote).await;
        assert_eq!(table(&ahead, "note"), [format!("'1'|'answer {turn}'|1")]);
        run(&ahead, &format!("UPDATE note SET title = 'question {turn}'"));
        converge(&[&ahead, &behind], &remote).await;
        assert_eq!(table(&behind, "note"), [format!("'1'|'question {turn}'|1")]);
    }
    let ids = ids(&behind, "1").await;
    assert!(ids.is_sorted() && ids.len() == 11);
    assert_eq!(behind.status().await.unwrap().conflicts, 0);
    assert_verified(&behind, &remote).await;
}

#[tokio::test]
async fn a_write_not_yet_sealed_keeps_its_own_time_when_others_arrive() {
    let ((ahead, _), (behind, _), remote) = (off_by(3_600_000, 1).await, off_by(0, 2).await, fresh_remote());
    run(&ahead, "INSERT INTO note VALUES ('1', 'one', 1)");
    converge(&[&ahead, &behind], &remote).await;
    // Neither knows of the other's write; the one that was made at the later time wins.
    run(&behind, "UPDATE note SET title = 'earlier', n = 2");
    run(&ahead, "UPDATE note SET title = 'later'");
    sync(&ahead, &remote).await;
    converge(&[&behind, &ahead], &remote).await;
    // The earlier clock saw the insert, so its write comes just after that, and before the later one.
    for replica in [&ahead, &behind] {
        assert_eq!(table(replica, "note"), ["'1'|'later'|2"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn changes_too_far_ahead_wait_for_their_time() {
    let ((ahead, _), (right, wall), remote) = (off_by(48 * 3_600_000, 1).await, off_by(0, 2).await, fresh_remote());
    run(&ahead, "INSERT INTO note VALUES ('1', 'future', 1), ('2', 'future', 2)");
    sync(&ahead, &remote).await;
    for _ in 0..2 {
        let report = sync(&right, &remote).await;
        assert_eq!((report.pulled, report.waiting, report.pushed), (0, 2, 0));
        let status = right.status().await.unwrap();
        let waiting = &status.remotes[0].waiting;
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].author, ahead.database_uuid().unwrap());
        assert_eq!((waiting[0].changes, waiting[0].ahead_ms), (2, 48 * HOUR_MS));
        assert!(
            status.clocks[0].contains(&waiting[0].author) && status.clocks[0].contains("2 days"),
            "{:?}",
            status.clocks
        );
        assert_eq!(status.changes, 0);
        assert_verified(&right, &remote).await;
    }
    wall.advance(24 * HOUR_MS + 1);
    let report = sync(&right, &remote).await;
    assert_eq!((report.pulled, report.waiting), (2, 0));
    assert_eq!(table(&right, "note"), table(&ahead, "note"));
    assert_eq!(right.status().await.unwrap().clocks, [] as [String; 0]);
}

#[tokio::test]
async fn a_larger_drift_accepts_changes_from_further_ahead() {
    let ((ahead, _), remote) = (off_by(48 * 3_600_000, 1).await, fresh_remote());
    run(&ahead, "INSERT INTO note VALUES ('1', 'future', 1)");
    sync(&ahead, &remote).await;
    let (right, wall) = off_by(0, 2).await;
    let mut settings = Settings::default();
    settings.world = wall.world(3);
    settings.max_clock_drift = std::time::Duration::from_secs(49 * 3600);
    let right = right.with_settings(settings);
    assert_eq!(sync(&right, &remote).await.pulled, 1);
    run(&right, "UPDATE note SET title = 'seen'");
    converge(&[&right, &ahead], &remote).await;
    assert_eq!(table(&ahead, "note"), ["'1'|'seen'|1"]);
}

#[tokio::test]
async fn own_changes_from_the_future_are_redated_before_anybody_sees_them() {
    let ((leaping, wall), (right, right_wall), remote) = (off_by(0, 1).await, off_by(0, 2).await, fresh_remote());
    run(&leaping, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2), ('3', 'three', 3)");
    converge(&[&leaping, &right], &remote).await;

    wall.set(START_MS + 400 * DAY_MS);
    run(&leaping, "UPDATE note SET title = 'a' WHERE id = '1'; DELETE FROM note WHERE id = '2'");
    run(&leaping, "UPDATE note SET title = 'b', n = 10 WHERE id = '1'; INSERT INTO note VALUES ('4', 'four', 4)");
    leaping.log(None, None, 1).await.unwrap();
    // What is still in the journal when the clock is put right is redated too.
    run(&leaping, "UPDATE note SET n = 11 WHERE id = '1'; INSERT INTO note VALUES ('2', 'again', 22)");
    wall.set(START_MS + HOUR_MS);
    let sentence = leaping.status().await.unwrap().clocks.join("; ");
    assert!(sentence.contains("399 days"), "{sentence}");

    right_wall.set(START_MS + HOUR_MS / 2);
    run(&right, "UPDATE note SET title = 'right', n = 5 WHERE id = '1'; UPDATE note SET n = 33 WHERE id = '3'");
    sync(&right, &remote).await;
    let report = sync(&leaping, &remote).await;
    assert_eq!((report.redated, report.pushed, report.pulled), (6, 6, 2));
    converge(&[&right, &leaping], &remote).await;
    for replica in [&leaping, &right] {
        assert_eq!(table(replica, "note"), ["'1'|'b'|11", "'2'|'again'|22", "'3'|'three'|33", "'4'|'four'|4"]);
        assert_verified(replica, &remote).await;
    }
    for entry in leaping.log(None, None, 100).await.unwrap() {
        assert!(entry.time_ms <= START_MS + HOUR_MS, "{}", entry.time_ms);
    }
    assert_eq!(leaping.status().await.unwrap().clocks, [] as [String; 0]);
    // The clock itself came back too: a later write of another replica wins again.
    right_wall.set(START_MS + 2 * HOUR_MS);
    run(&right, "UPDATE note SET title = 'late' WHERE id = '1'");
    converge(&[&right, &leaping], &remote).await;
    assert_eq!(table(&leaping, "note")[0], "'1'|'late'|11");
    assert_eq!(sync(&leaping, &remote).await.redated, 0);
}

#[tokio::test]
async fn changes_are_redated_on_a_connection_that_enforces_foreign_keys() {
    let ((leaping, wall), remote) = (off_by(30 * 86_400_000, 1).await, fresh_remote());
    run(&leaping, "PRAGMA foreign_keys = ON; INSERT INTO note VALUES ('1', 'one', 1)");
    wall.set(START_MS);
    assert_eq!(sync(&leaping, &remote).await.redated, 1);
    assert_verified(&leaping, &remote).await;
    assert_eq!(leaping.log(None, None, 1).await.unwrap()[0].time_ms, START_MS);
}

#[tokio::test]
async fn redated_changes_stay_above_what_was_merged_and_pushed() {
    let ((leaping, wall), (ahead, _), remote) = (off_by(0, 1).await, off_by(20 * 3_600_000, 2).await, fresh_remote());
    run(&ahead, "INSERT INTO note VALUES ('1', 'seen', 1)");
    converge(&[&ahead, &leaping], &remote).await;
    wall.set(START_MS + 30 * DAY_MS);
    run(&leaping, "UPDATE note SET title = 'after seeing'");
    wall.set(START_MS + 1);
    assert_eq!(sync(&leaping, &remote).await.redated, 1);
    let ids = ids(&leaping, "1").await;
    assert_eq!(ids.len(), 2);
    sync(&ahead, &remote).await;
    for replica in [&ahead, &leaping] {
        assert_eq!(table(replica, "note"), ["'1'|'after seeing'|1"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn pushed_changes_from_the_future_are_not_redated_and_status_says_so() {
    let ((leaping, wall), (right, right_wall), remote) = (off_by(0, 1).await, off_by(0, 2).await, fresh_remote());
    wall.set(START_MS + 10 * DAY_MS);
    run(&leaping, "INSERT INTO note VALUES ('1', 'future', 1)");
    sync(&leaping, &remote).await;
    let before = ids(&leaping, "1").await;
    wall.set(START_MS);
    run(&leaping, "UPDATE note SET title = 'later'");
    let report = sync(&leaping, &remote).await;
    assert_eq!((report.redated, report.pushed), (0, 1));
    let after = ids(&leaping, "1").await;
    assert_eq!(after[0], before[0]);
    assert!(after.is_sorted() && after.len() == 2, "a later write stays above the earlier one");
    let sentence = leaping.status().await.unwrap().clocks.join("; ");
    assert!(sentence.contains("10 days") && sentence.contains("max_clock_drift"), "{sentence}");
    assert_eq!(sync(&right, &remote).await.waiting, 2);
    right_wall.set(START_MS + 9 * DAY_MS + HOUR_MS);
    assert_eq!(sync(&right, &remote).await.pulled, 2);
    assert_eq!(table(&right, "note"), ["'1'|'later'|1"]);
    assert_verified(&right, &remote).await;
    assert_verified(&leaping, &remote).await;
}

#[tokio::test]
async fn the_stores_clock_stops_a_sync_whose_own_clock_is_wrong() {
    let (store_wall, (right, right_wall)) = (Wall::at(START_MS), off_by(0, 1).await);
    let remote = DatedStore::new(&store_wall).remote();
    run(&right, "INSERT INTO note VALUES ('1', 'one', 1)");
    sync(&right, &remote).await;
    let (wrong, wall) = off_by(48 * 3_600_000, 2).await;
    let message = clock_error(&wrong, &remote).await;
    assert!(message.contains("ahead"), "{message}");
    wall.set(START_MS - 48 * HOUR_MS);
    let message = clock_error(&wrong, &remote).await;
    assert!(message.contains("behind"), "{message}");
    assert_eq!(wrong.status().await.unwrap().changes, 0);
    // Put right, the same replica syncs, and so does everybody after a long time in which nobody did.
    wall.set(START_MS + HOUR_MS);
    assert_eq!(sync(&wrong, &remote).await.pulled, 1);
    for clock in [&store_wall, &right_wall, &wall] {
        clock.set(START_MS + 90 * DAY_MS);
    }
    run(&right, "UPDATE note SET title = 'months later'");
    converge(&[&right, &wrong], &remote).await;
    assert_eq!(table(&wrong, "note"), ["'1'|'months later'|1"]);
}

#[tokio::test]
async fn where_the_store_agrees_it_is_the_other_clock_that_is_wrong() {
    let (store_wall, (right, _)) = (Wall::at(START_MS), off_by(0, 1).await);
    let store = DatedStore::new(&store_wall);
    let remote = store.remote();
    for seed in 2..6 {
        // Their own syncs met a store whose clock was as wrong as theirs.
        let (ahead, _) = off_by(72 * 3_600_000, seed).await;
        store_wall.set(START_MS + 72 * HOUR_MS);
        run(&ahead, &format!("INSERT INTO note VALUES ('{seed}', 'future', 1)"));
        join(&ahead, &remote).await;
    }
    store_wall.set(START_MS);
    run(&right, "INSERT INTO note VALUES ('1', 'now', 1)");
    let report = join(&right, &remote).await;
    assert_eq!((report.pushed, report.waiting), (1, 4), "most authors are ahead, but the store is not");
}

#[tokio::test]
async fn without_a_clock_of_the_store_most_of_three_authors_decide() {
    let remote = fresh_remote();
    let (right, wall) = off_by(0, 1).await;
    for seed in 2..4 {
        let (ahead, _) = off_by(48 * 3_600_000, seed).await;
        run(&ahead, &format!("INSERT INTO note VALUES ('{seed}', 'future', 1)"));
        join(&ahead, &remote).await;
        assert_eq!(sync(&right, &remote).await.waiting, seed - 1, "two authors are no majority to trust");
    }
    let (third, _) = off_by(48 * 3_600_000, 4).await;
    run(&third, "INSERT INTO note VALUES ('4', 'future', 1)");
    join(&third, &remote).await;
    run(&right, "INSERT INTO note VALUES ('1', 'mine', 1)");
    let message = clock_error(&right, &remote).await;
    assert!(message.contains("behind"), "{message}");
    assert_eq!(table(&right, "note"), ["'1'|'mine'|1"]);
    wall.set(START_MS + 48 * HOUR_MS);
    let report = sync(&right, &remote).await;
    assert_eq!((report.pulled, report.pushed), (3, 1));
}

#[tokio::test]
async fn backfills_never_beat_a_tracked_write_and_do_not_move_the_clock() {
    let ((a, _), remote) = (off_by(0, 1).await, fresh_remote());
    run(&a, "INSERT INTO note VALUES ('1', 'tracked', 1)");
    sync(&a, &remote).await;
    let wall = Wall::at(START_MS + DAY_MS / 2);
    let b = on_the_wall(Replica::in_memory().unwrap(), &wall, 2);
    run(&b, NOTES);
    run(&b, "INSERT INTO note VALUES ('1', 'old', 99), ('2', 'older', 2)");
    let reports = b.track(&["note"], &keyed()).await.unwrap();
    assert_eq!(reports[0].backfilled, 2);
    assert!(b.log(None, None, 9).await.unwrap().iter().all(|entry| entry.backfill));
    let report = join(&b, &remote).await;
    assert_eq!((report.pulled, report.pushed, report.conflicts), (1, 1, 0));
    wall.set(START_MS + HOUR_MS);
    run(&b, "UPDATE note SET n = 3 WHERE id = '2'");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "note"), ["'1'|'tracked'|1", "'2'|'older'|3"]);
        assert_verified(replica, &remote).await;
    }
    assert_eq!(b.log(None, Some("2"), 1).await.unwrap()[0].time_ms, START_MS + HOUR_MS);
}

#[tokio::test]
async fn a_stale_copy_that_joins_late_overwrites_nothing_and_resurrects_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("original.db"), directory.path().join("copy.db"));
    let plain = rusqlite::Connection::open(&original).unwrap();
    plain.execute_batch(NOTES).unwrap();
    plain
        .execute_batch("INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2), ('3', 'three', 3), ('4', 'four', 4)")
        .unwrap();
    drop(plain);
    std::fs::copy(&original, &copy).unwrap();

    let (remote, wall) = (fresh_remote(), Wall::at(START_MS));
    let a = on_the_wall(Replica::init(&original).unwrap(), &wall, 1);
    a.track_all(&keyed()).await.unwrap();
    run(&a, "UPDATE note SET title = 'edited' WHERE id = '1'; DELETE FROM note WHERE id = '2'");
    run(&a, "DELETE FROM note WHERE id = '4'; INSERT INTO note VALUES ('5', 'five', 5)");
    sync(&a, &remote).await;
    let expected = ["'1'|'edited'|1", "'3'|'three'|3", "'5'|'five'|5"];
    assert_eq!(table(&a, "note"), expected);

    // The copy was changed by programs that know nothing of zvon, and has its clock far behind.
    let plain = rusqlite::Connection::open(&copy).unwrap();
    plain.execute_batch("UPDATE note SET title = 'stale', n = 0; DELETE FROM note WHERE id = '4'").unwrap();
    drop(plain);
    let late = Wall::at(START_MS - 20 * HOUR_MS);
    let b = on_the_wall(Replica::init(&copy).unwrap(), &late, 2);
    b.track_all(&keyed()).await.unwrap();
    let report = join(&b, &remote).await;
    assert_eq!((report.pushed, report.conflicts), (0, 0), "the remote knows all of these rows");
    assert_eq!(table(&b, "note"), expected);
    assert_eq!(sync(&a, &remote).await.pulled, 0);
    run(&b, "UPDATE note SET n = 30 WHERE id = '3'");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "note")[1], "'3'|'three'|30");
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn a_copy_with_a_new_column_says_nothing_of_rows_that_the_remote_knows() {
    let ((a, _), remote) = (off_by(0, 1).await, fresh_remote());
    run(&a, "ALTER TABLE note ADD COLUMN tag TEXT DEFAULT 'none'");
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1, 'red')");
    sync(&a, &remote).await;
    run(&a, "UPDATE note SET tag = 'blue'; INSERT INTO note VALUES ('2', 'two', 2, 'green')");
    sync(&a, &remote).await;
    let b = on_the_wall(Replica::in_memory().unwrap(), &Wall::at(START_MS), 2);
    run(&b, NOTES);
    run(&b, "INSERT INTO note VALUES ('1', 'old', 99), ('2', 'older', 98)");
    b.track(&["note"], &keyed()).await.unwrap();
    // One backfill is made by the tracking, another by the new column, and nobody has seen either.
    run(&b, "ALTER TABLE note ADD COLUMN tag TEXT DEFAULT 'none'; UPDATE note SET tag = 'stale'");
    assert_eq!(join(&b, &remote).await.pushed, 0);
    for replica in [&a, &b] {
        assert_eq!(table(replica, "note"), ["'1'|'one'|1|'blue'", "'2'|'two'|2|'green'"]);
        assert_verified(replica, &remote).await;
    }
}

/// By reading: the backfills of a table that was tracked after its changes had been pulled did not give way to these.
#[tokio::test]
async fn a_copy_that_tracks_a_table_late_says_nothing_of_rows_that_the_remote_knows() {
    let (a, remote) = (on_the_wall(Replica::in_memory().unwrap(), &Wall::at(START_MS), 1), fresh_remote());
    run(&a, NOTES);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2), ('3', 'three', 3)");
    a.track_all(&keyed()).await.unwrap();
    sync(&a, &remote).await;
    run(&a, "UPDATE note SET title = 'new' WHERE id = '1'; DELETE FROM note WHERE id = '2'");
    let b = on_the_wall(Replica::in_memory().unwrap(), &Wall::at(START_MS), 2);
    run(&b, "CREATE TABLE other (id TEXT PRIMARY KEY); INSERT INTO other VALUES ('x'), ('y'), ('z')");
    b.track(&["other"], &keyed()).await.unwrap();
    join(&b, &remote).await;
    run(&b, NOTES);
    run(&b, "ALTER TABLE note ADD COLUMN tag TEXT");
    run(
        &b,
        "INSERT INTO note VALUES ('1', 'old', 0, 'b'), ('2', 'old', 0, NULL), ('3', 'old', 0, NULL), ('4', 'four', 4, NULL)",
    );
    b.track(&["note"], &keyed()).await.unwrap();
    let shown = ["'1'|'one'|1|'b'", "'2'|'two'|2|NULL", "'3'|'three'|3|NULL", "'4'|'four'|4|NULL"];
    assert_eq!(table(&b, "note"), shown);
    // What the remote does not know is told: the row that it lacks, and a column of the others.
    let report = sync(&b, &remote).await;
    assert_eq!((report.pushed, report.conflicts), (4, 0));
    for replica in [&a, &b] {
        sync(replica, &remote).await;
        let shown = rows(&replica.connection(), "SELECT id, title, n FROM note ORDER BY id");
        assert_eq!(shown, ["'1'|'new'|1", "'3'|'three'|3", "'4'|'four'|4"]);
        assert_verified(replica, &remote).await;
    }
    // The same of a column whose changes were here before it.
    run(&a, "ALTER TABLE note ADD COLUMN late TEXT");
    run(&a, "UPDATE note SET late = 'a'");
    converge(&[&a, &b], &remote).await;
    run(&b, "ALTER TABLE note ADD COLUMN late TEXT");
    run(&b, "UPDATE note SET late = 'b'");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT DISTINCT late FROM note"), ["'a'"]);
        assert_verified(replica, &remote).await;
    }
}

/// By reading: more changes waited for the table than fit a batch, and a row whose change came in a later one was nothing until then.
#[tokio::test]
async fn rows_of_a_table_that_is_tracked_late_stay_until_the_last_of_its_changes_is_merged() {
    let (a, remote) = (clocked(NOTES, &Wall::at(START_MS), 1).await, fresh_remote());
    let count = "WITH n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4100) INSERT INTO note";
    run(&a, &format!("{count} SELECT printf('%04d', 9999 - i), 'new', i FROM n"));
    sync(&a, &remote).await;
    let b = on_the_wall(Replica::in_memory().unwrap(), &Wall::at(START_MS), 2);
    run(&b, "CREATE TABLE other (id TEXT PRIMARY KEY); INSERT INTO other VALUES ('x')");
    b.track(&["other"], &keyed()).await.unwrap();
    join(&b, &remote).await;
    run(&b, NOTES);
    run(&b, "ALTER TABLE note ADD COLUMN mine TEXT; CREATE TABLE gone (id TEXT)");
    run(&b, &format!("{count} SELECT printf('%04d', 9999 - i), 'old', 0, 'mine' FROM n"));
    run(&b, "CREATE TRIGGER tells AFTER DELETE ON note BEGIN INSERT INTO gone VALUES (OLD.id); END");
    let mut options = keyed();
    options.exclude = vec!["mine".to_owned()];
    b.track(&["note"], &options).await.unwrap();
    sync(&b, &remote).await;
    let told = "SELECT title, mine, count(*) FROM note GROUP BY title, mine";
    assert_eq!(rows(&b.connection(), told), ["'new'|'mine'|4100"]);
    assert_eq!(rows(&b.connection(), "SELECT count(*) FROM gone"), ["0"]);
    assert_verified(&b, &remote).await;
}

#[tokio::test]
async fn a_replica_copied_before_its_first_sync_rewrites_no_file_of_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("original.db"), directory.path().join("copy.db"));
    let (remote, wall) = (fresh_remote(), Wall::at(START_MS));
    let a = on_the_wall(Replica::init(&original).unwrap(), &wall, 1);
    run(&a, NOTES);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    a.track_all(&keyed()).await.unwrap();
    run(&a, "PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(&original, &copy).unwrap();
    let b = on_the_wall(Replica::open(&copy).unwrap(), &wall, 2);

    sync(&a, &remote).await;
    run(&a, "UPDATE note SET title = 'edited' WHERE id = '1'; DELETE FROM note WHERE id = '2'");
    sync(&a, &remote).await;
    // The copy has backfills that it never pushed, and that the remote has all the same.
    for _ in 0..2 {
        sync(&b, &remote).await;
        assert_verified(&b, &remote).await;
    }
    assert_eq!(table(&b, "note"), ["'1'|'edited'|1"]);
    assert_eq!(sync(&a, &remote).await.pulled, 0);
    assert_verified(&a, &remote).await;
}

#[tokio::test]
async fn what_is_left_of_a_backfill_has_a_name_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("original.db"), directory.path().join("copy.db"));
    let (remote, wall) = (fresh_remote(), Wall::at(START_MS));
    let a = on_the_wall(Replica::init(&original).unwrap(), &wall, 1);
    run(&a, NOTES);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    a.track_all(&keyed()).await.unwrap();
    run(&a, "PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(&original, &copy).unwrap();
    let b = on_the_wall(Replica::open(&copy).unwrap(), &wall, 2);

    let c = clocked("CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT)", &wall, 3).await;
    run(&c, "INSERT INTO note VALUES ('1', 'from c')");
    sync(&c, &remote).await;
    // Both copies take back what they said of the title; the first one tells the number, which the remote did not know.
    assert_eq!((join(&a, &remote).await.pushed, join(&b, &remote).await.pushed), (2, 0));
    for replica in [&a, &b, &a] {
        join(replica, &remote).await;
    }
    for replica in [&a, &b] {
        assert_eq!(table(replica, "note"), ["'1'|'from c'|1", "'2'|'two'|2"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn a_copied_replica_goes_on_as_another_one_of_the_same_name() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("original.db"), directory.path().join("copy.db"));
    let (remote, wall) = (fresh_remote(), Wall::at(START_MS));
    let a = on_the_wall(Replica::init(&original).unwrap(), &wall, 1);
    run(&a, NOTES);
    a.track_all(&keyed()).await.unwrap();
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    sync(&a, &remote).await;
    run(&a, "UPDATE note SET n = 10 WHERE id = '1'; PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(&original, &copy).unwrap();

    let b = on_the_wall(Replica::open(&copy).unwrap(), &wall, 2);
    assert_eq!(a.database_uuid().unwrap(), b.database_uuid().unwrap());
    run(&a, "UPDATE note SET title = 'a' WHERE id = '1'; DELETE FROM note WHERE id = '2'");
    wall.advance(1);
    run(&b, "UPDATE note SET title = 'b' WHERE id = '1'; INSERT INTO note VALUES ('3', 'three', 3)");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "note"), ["'1'|'b'|10", "'3'|'three'|3"]);
        assert_verified(replica, &remote).await;
    }
}

/// By reading: rows with an id of their own that were written and not sealed when a backup was made were rows of two ids.
#[tokio::test]
async fn a_row_that_a_backup_has_unsealed_is_one_row() {
    let directory = tempfile::tempdir().unwrap();
    let (original, backup) = (directory.path().join("original.db"), directory.path().join("backup.db"));
    let (remote, wall) = (fresh_remote(), Wall::at(START_MS));
    let a = on_the_wall(Replica::init(&original).unwrap(), &wall, 1);
    run(&a, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, n INTEGER)");
    a.track_all(&zvon::TrackOptions::default()).await.unwrap();
    sync(&a, &remote).await;
    run(&a, "INSERT INTO item (name) VALUES ('edited'), ('deleted'), ('kept'); PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(&original, &backup).unwrap();
    sync(&a, &remote).await;
    wall.advance(1);
    run(&a, "UPDATE item SET n = 1 WHERE name = 'edited'; DELETE FROM item WHERE name = 'deleted'");
    sync(&a, &remote).await;
    wall.advance(1);
    // The backup is put back, and goes on.
    let b = on_the_wall(Replica::open(&backup).unwrap(), &wall, 2);
    run(&b, "INSERT INTO item (name) VALUES ('new')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        let shown = rows(&replica.connection(), "SELECT name, n FROM item ORDER BY name");
        assert_eq!(shown, ["'edited'|1", "'kept'|NULL", "'new'|NULL"]);
        assert_verified(replica, &remote).await;
    }
}

/// By reading: what the file that was backed up had pushed since got another id, and was there twice.
#[tokio::test]
async fn a_backup_redates_nothing_that_was_pushed_since() {
    let directory = tempfile::tempdir().unwrap();
    let (original, backup) = (directory.path().join("original.db"), directory.path().join("backup.db"));
    for packed in [false, true] {
        let (remote, wall) = (fresh_remote(), Wall::at(START_MS));
        let a = on_the_wall(Replica::init(&original).unwrap(), &wall, 1);
        run(&a, NOTES);
        a.track_all(&keyed()).await.unwrap();
        sync(&a, &remote).await;
        wall.set(START_MS + 400 * DAY_MS);
        let rows = if packed { 100 } else { 2 };
        let numbers = format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})");
        run(&a, &format!("{numbers} INSERT INTO note SELECT n, 'ahead', n FROM n"));
        // It is in the log, and has not left.
        assert_eq!(a.log(None, None, 1000).await.unwrap().len(), rows);
        run(&a, "PRAGMA wal_checkpoint(TRUNCATE)");
        std::fs::copy(&original, &backup).unwrap();
        assert_eq!(sync(&a, &remote).await.pushed, rows as u64);
        drop(a);
        wall.set(START_MS);
        let b = on_the_wall(Replica::open(&backup).unwrap(), &wall, 2);
        let report = sync(&b, &remote).await;
        assert_eq!((report.redated, report.pushed), (0, 0));
        // Others wait for the time of what was there before: a later write has to come after it.
        run(&b, "UPDATE note SET title = 'later' WHERE id = '1'");
        let sentence = b.status().await.unwrap().clocks.join("; ");
        assert!(sentence.contains("were pushed"), "{sentence}");
        assert_eq!(sync(&b, &remote).await.pushed, 1);
        assert!(ids(&b, "1").await.is_sorted());
        assert_verified(&b, &remote).await;
        for file in std::fs::read_dir(directory.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

/// By reading: it was pushed with what was noted as seen before, and got another id when the clock was put right.
#[tokio::test]
async fn what_is_sealed_during_a_push_goes_with_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    // The store in memory stamps what it gets with the time that it really is.
    let start = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let (path, store, wall) = (directory.path().join("notes.db"), Arc::new(InMemory::new()), Wall::at(start));
    let remote = |store: Arc<dyn ObjectStore>| Remote::from_store("memory://pushed", store, "base").unwrap();
    let a = on_the_wall(Replica::init(&path).unwrap(), &wall, 1);
    run(&a, NOTES);
    a.track_all(&keyed()).await.unwrap();
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    sync(&a, &remote(store.clone())).await;
    // The first of two parts is what the remote lost. While it is on its way, another process writes, under a wrong clock.
    let changes: Vec<_> = store.list(Some(&Path::from("base/changes"))).try_collect().await.unwrap();
    store.delete(&changes[0].location).await.unwrap();
    let (now, has_written) = (wall.clone(), AtomicBool::new(false));
    let writes = move |_, request| {
        if request == Request::Put && !has_written.swap(true, Ordering::SeqCst) {
            now.set(start + 400 * DAY_MS);
            let other = on_the_wall(Replica::open(&path).unwrap(), &now, 2);
            run(&other, "INSERT INTO note VALUES ('3', 'three', 3)");
            let seals = move || Runtime::new().unwrap().block_on(other.log(None, None, 9)).unwrap().len();
            assert_eq!(std::thread::spawn(seals).join().unwrap(), 3);
            now.set(start + 1);
        }
        Verdict::Pass
    };
    let report = sync(&a, &remote(FaultyStore::new(&store, writes))).await;
    assert_eq!((report.healed, report.pushed), (1, 1));
    assert_eq!(sync(&a, &fresh_remote()).await.redated, 1);
    assert_eq!(sync(&a, &remote(store.clone())).await.pushed, 1);
    let changes: Vec<_> = store.list(Some(&Path::from("base/changes"))).try_collect().await.unwrap();
    assert_eq!(changes.len(), 3, "each change is there under one name");
    assert_verified(&a, &remote(store)).await;
}

/// It has to write something to learn the store's time: the identity that the keys are bound to, and no other.
#[tokio::test]
async fn a_wrong_clock_leaves_an_encrypted_remote_that_lost_its_identity_to_the_others() {
    let (store_wall, (right, _)) = (Wall::at(START_MS), off_by(0, 1).await);
    let store = DatedStore::new(&store_wall);
    let secret = Secret::generate();
    let remote = store.remote().with_secret(secret.clone());
    right.encrypt_remote(&remote, &Lock::Recipients(secret.recipients())).await.unwrap();
    run(&right, "INSERT INTO note VALUES ('1', 'one', 1)");
    sync(&right, &remote).await;
    let (identity, _) = store.objects("identity").await.remove(0);
    store.delete(&Path::from(identity.as_str())).await.unwrap();
    let (wrong, wall) = off_by(48 * 3_600_000, 2).await;
    let message = clock_error(&wrong, &remote).await;
    assert!(message.contains("ahead"), "{message}");
    let there: Vec<String> = store.objects("identity").await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(there, [identity]);
    wall.set(START_MS);
    assert_eq!(join(&wrong, &remote).await.pulled, 1);
    assert_verified(&right, &remote).await;
}

/// How many steps SQLite takes for a sync, in hundreds, and the sync.
async fn measured(replica: &Replica, remote: &Remote) -> (u64, SyncReport) {
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    replica.connection().progress_handler(100, Some(count)).unwrap();
    let report = sync(replica, remote).await;
    replica.connection().progress_handler(0, None::<fn() -> bool>).unwrap();
    (steps.load(Ordering::Relaxed), report)
}

/// A single file from the future, and every idle sync read it and went through the whole log.
#[tokio::test]
async fn changes_that_wait_cost_an_idle_sync_nothing() {
    let (folder, wall) = (SharedFolder::new(), Wall::at(START_MS));
    let replica = clocked(NOTES, &wall, 1).await;
    let mut steps = Vec::new();
    for (n, rows) in [(1, 10), (2, 5_000)] {
        let sql = "WITH RECURSIVE i (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM i WHERE i < ?1) \
                   INSERT INTO note (id) SELECT ?1 || '-' || i FROM i";
        replica.connection().execute(sql, [rows]).unwrap();
        sync(&replica, &folder.remote()).await;
        // Five authors, of whom two are ahead: others have to be known before it is clear that this clock is right.
        for (author, ahead) in [(0, 0), (3, 0), (1, 40), (2, 40)] {
            let ms = START_MS + ahead * DAY_MS + n * 1_000;
            let digits = format!("{ms:012x}");
            let id = format!("{}-{}-7000-8000-00000000000{author}", &digits[..8], &digits[8..]);
            let mut change = note_change(&id, &format!("{n}-{author}"), &json!({ "n": 1 }));
            change["change"]["author_id"] = json!(format!("019b76da-a800-7000-8000-00000000000{author}"));
            folder.write(&file_name(&id), msgpack(&change));
            sync(&replica, &folder.remote()).await;
        }
        let (taken, idle) = measured(&replica, &folder.remote()).await;
        assert_eq!((idle.waiting, idle.requests.get), (2 * n, 0));
        steps.push(taken);
    }
    assert!(steps[1] < steps[0] * 2 + 20, "hundreds of steps with ten rows, and with thousands: {steps:?}");
}
