//! Watching in the library: what wakes it, what does not, and what it survives. Time is virtual wherever no file is involved.

mod common;

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::faulty_store::{FaultyStore, Request, Verdict};
use common::shared_folder::SharedFolder;
use common::wall::{HOUR_MS, START_MS, Wall, clocked};
use common::watching::{DEADLINE, Watching, never_by_itself};
use common::*;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::{Instant, sleep, timeout};
use zvon::{ErrorKind, Lock, Remote, Replica, Secret, WatchCause, WatchEvent, WatchOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";
/// Longer than any sign of a file is followed up.
const QUIET: Duration = Duration::from_secs(3);

fn in_store(store: Arc<FaultyStore>) -> Remote {
    Remote::from_store("faulty://store", store, "base").unwrap()
}

async fn in_file(path: &Path) -> Replica {
    let replica = Replica::init(path).unwrap();
    run(&replica, NOTES);
    replica.track_all(&keyed()).await.unwrap();
    replica
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_asks_ever_less_often_and_a_commit_brings_it_back() {
    let store = FaultyStore::new(&Arc::new(InMemory::new()), |_, _| Verdict::Pass);
    let (replica, remote) = (replica(NOTES).await, in_store(store.clone()));
    let mut watch = Watching::start(&replica, &remote);
    watch.synced_for(WatchCause::Start).await;
    let mut last = Instant::now();
    for expected in [5, 10, 20, 40, 60, 60] {
        assert_eq!(watch.synced().await.0, WatchCause::Interval);
        assert_eq!(last.elapsed().as_secs(), expected);
        last = Instant::now();
    }
    let before = (store.requests(), remote.traffic());
    sleep(Duration::from_secs(3600)).await;
    let looks = store.requests() - before.0;
    assert!((59..=60).contains(&looks), "an idle hour is one listing a minute, not {looks}");
    assert_eq!(remote.traffic().list - before.1.list, looks as u64);
    // Away from the moment at which the remote is looked at anyway.
    sleep(Duration::from_secs(20)).await;
    while watch.events.try_recv().is_ok() {}
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    last = Instant::now();
    assert_eq!(watch.synced_for(WatchCause::Commit).await.pushed, 1);
    assert!(last.elapsed() <= Duration::from_millis(200), "{:?}", last.elapsed());
    last = Instant::now();
    assert_eq!(watch.synced().await.0, WatchCause::Interval);
    assert_eq!(last.elapsed().as_secs(), 5);
    assert!(watch.stop().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_program_that_commits_without_pause_syncs_once_a_second() {
    let store = FaultyStore::new(&Arc::new(InMemory::new()), |_, _| Verdict::Pass);
    let (replica, remote) = (replica(NOTES).await, in_store(store));
    let mut watch = Watching::start(&replica, &remote);
    watch.synced_for(WatchCause::Start).await;
    for n in 0..600 {
        run(&replica, &format!("INSERT INTO note VALUES ('{n}', 'x')"));
        sleep(Duration::from_millis(100)).await;
    }
    let (mut syncs, mut pushed) = (0, 0);
    while let Ok(event) = watch.events.try_recv() {
        let report = match event {
            WatchEvent::Synced { cause: WatchCause::Commit, report } => report,
            WatchEvent::Compacted { .. } => continue,
            other => panic!("{other:?}"),
        };
        syncs += 1;
        pushed += report.pushed;
    }
    assert!((60..=66).contains(&syncs), "{syncs} syncs in a minute");
    assert!(pushed >= 580, "{pushed}");
    watch.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_the_network_is_told_once_and_survived() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let rule = move |_, _| if is_down.load(Ordering::SeqCst) { Verdict::FailBefore } else { Verdict::Pass };
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::new(&memory, rule);
    let (replica, remote) = (replica(NOTES).await, in_store(store.clone()));
    let mut watch = Watching::start(&replica, &remote);
    watch.synced_for(WatchCause::Start).await;
    down.store(true, Ordering::SeqCst);
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    let mut waits = Vec::new();
    for attempt in 0..8 {
        let WatchEvent::Failed { error, again, retry_in } = watch.event().await else { panic!("attempt {attempt}") };
        assert_eq!((error.kind(), again), (ErrorKind::Remote, attempt > 0));
        waits.push(retry_in);
    }
    assert!(waits[0] <= Duration::from_millis(1250) && waits[7] >= Duration::from_secs(45), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(75)), "{waits:?}");
    down.store(false, Ordering::SeqCst);
    let (cause, report) = watch.synced().await;
    assert_eq!((cause, report.pushed), (WatchCause::Retry, 1));
    // What fails after it worked is told anew.
    down.store(true, Ordering::SeqCst);
    assert!(matches!(watch.event().await, WatchEvent::Failed { again: false, .. }));
    // While nothing answers, nobody waits for it.
    let before = Instant::now();
    run(&replica, "INSERT INTO note VALUES ('b', 'y')");
    watch.stop().await;
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(replica.status().await.unwrap().journal, 1);
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_syncs_at_once() {
    let wall = Wall::at(START_MS);
    let (replica, remote) = (clocked(NOTES, &wall, 1).await, fresh_remote());
    // The wall clock and virtual time go together until it jumps.
    let (ticking, started) = (wall.clone(), Instant::now());
    let slept = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let offset = Arc::clone(&slept);
    let mut settings = zvon::Settings::default();
    settings.world = zvon::World::new(
        move || ticking.now_ms() + started.elapsed().as_millis() as u64 + offset.load(Ordering::SeqCst),
        || 7,
    );
    let replica = replica.with_settings(settings);
    let mut watch = Watching::with(&replica, &remote, never_by_itself());
    watch.synced_for(WatchCause::Start).await;
    sleep(Duration::from_secs(600)).await;
    assert!(watch.events.try_recv().is_err(), "nothing happened");
    slept.store(8 * HOUR_MS, Ordering::SeqCst);
    let woken = Instant::now();
    watch.synced_for(WatchCause::Clock).await;
    assert!(woken.elapsed() <= Duration::from_secs(2));
    sleep(Duration::from_secs(600)).await;
    assert!(watch.events.try_recv().is_err(), "it jumped once");
    watch.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_last_is_pushed_before_it_stops() {
    let (replica, remote) = (replica(NOTES).await, fresh_remote());
    let mut watch = Watching::start(&replica, &remote);
    watch.synced_for(WatchCause::Start).await;
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    let rest = watch.stop().await;
    let [WatchEvent::Synced { cause: WatchCause::Stop | WatchCause::Commit, report }] = &rest[..] else {
        panic!("{rest:?}")
    };
    assert_eq!(report.pushed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_is_never_answered_is_dropped_when_the_watch_stops() {
    let asked = Arc::new(tokio::sync::Notify::new());
    let hang = Arc::clone(&asked);
    let rule = move |_, request| if request == Request::Put { Verdict::Hang(hang.clone()) } else { Verdict::Pass };
    let memory = Arc::new(InMemory::new());
    let (replica, remote) = (replica(NOTES).await, in_store(FaultyStore::new(&memory, rule)));
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    let watch = Watching::start(&replica, &remote);
    asked.notified().await;
    let before = Instant::now();
    watch.stop().await;
    assert_eq!(before.elapsed().as_secs(), WatchOptions::default().stop_within.as_secs());
    let honest = Remote::from_store("faulty://store", memory, "base").unwrap();
    assert_eq!(sync(&replica, &honest).await.pushed, 1);
    assert_verified(&replica, &honest).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_mends_ends_it() {
    let (here, other, remote) = (replica(NOTES).await, replica(NOTES).await, fresh_remote());
    for (replica, id) in [(&here, "a"), (&other, "b")] {
        run(replica, &format!("INSERT INTO note VALUES ('{id}', 'x')"));
    }
    sync(&other, &remote).await;
    let watch = Watching::start(&here, &remote);
    let error = timeout(DEADLINE, watch.task).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unrelated);
}

#[tokio::test]
async fn a_database_is_watched_once() {
    let (dir, remote) = (tempfile::tempdir().unwrap(), fresh_remote());
    let path = dir.path().join("notes.db");
    for replica in [in_file(&path).await, replica(NOTES).await] {
        let mut first = Watching::start(&replica, &remote);
        first.synced_for(WatchCause::Start).await;
        let options = WatchOptions::default();
        let second = replica.watch(&remote, &options, pending(), |_| ());
        let error = timeout(DEADLINE, second).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        first.stop().await;
        let mut third = Watching::start(&replica, &remote);
        third.synced_for(WatchCause::Start).await;
        third.stop().await;
    }
}

#[tokio::test]
async fn commits_of_other_connections_and_its_own_are_heard_in_every_journal_mode() {
    for mode in ["wal", "delete", "truncate", "persist"] {
        let (dir, remote) = (tempfile::tempdir().unwrap(), fresh_remote());
        let path = dir.path().join("notes.db");
        let replica = in_file(&path).await;
        replica.connection().pragma_update(None, "journal_mode", mode).unwrap();
        let mut watch = Watching::with(&replica, &remote, never_by_itself());
        watch.synced_for(WatchCause::Start).await;
        let other = rusqlite::Connection::open(&path).unwrap();
        other.busy_timeout(DEADLINE).unwrap();
        other.execute_batch("INSERT INTO note VALUES ('a', 'x')").unwrap();
        assert_eq!(watch.synced_for(WatchCause::Commit).await.pushed, 1, "{mode}");
        run(&replica, "INSERT INTO note VALUES ('b', 'y')");
        assert_eq!(watch.synced_for(WatchCause::Commit).await.pushed, 1, "{mode}");
        other.execute_batch("ALTER TABLE note ADD COLUMN n INTEGER").unwrap();
        assert_eq!(watch.synced_for(WatchCause::Commit).await.notices.len(), 1, "{mode}");
        watch.stop().await;
    }
}

#[tokio::test]
async fn what_it_writes_itself_does_not_wake_it() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), SharedFolder::new());
    let replica = in_file(&dir.path().join("notes.db")).await;
    replica.connection().execute_batch("CREATE TABLE untracked (n)").unwrap();
    let mut watch = Watching::with(&replica, &folder.remote(), never_by_itself());
    watch.synced_for(WatchCause::Start).await;
    // The folders that the first syncs make are heard of.
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    while timeout(QUIET, watch.synced()).await.is_ok() {}
    for n in 0..3 {
        run(&replica, &format!("INSERT INTO note VALUES ('{n}', 'x')"));
        let (cause, report) = watch.synced().await;
        assert_eq!((cause, report.pushed), (WatchCause::Commit, 1));
    }
    run(&replica, "INSERT INTO untracked VALUES (1)");
    let more = timeout(QUIET, watch.synced()).await;
    assert!(more.is_err(), "{more:?}");
    watch.stop().await;
}

#[tokio::test]
async fn files_that_appear_in_a_folder_are_pulled() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), SharedFolder::new());
    let here = in_file(&dir.path().join("notes.db")).await;
    let other = replica(NOTES).await;
    let mut watch = Watching::with(&here, &folder.remote(), never_by_itself());
    watch.synced_for(WatchCause::Start).await;
    sync(&other, &folder.remote()).await;
    for n in 0..3 {
        run(&other, &format!("INSERT INTO note VALUES ('{n}', 'x')"));
        sync(&other, &folder.remote()).await;
        while watch.synced_for(WatchCause::Folder).await.pulled == 0 {}
        assert_eq!(table(&here, "note").len(), n + 1);
    }
    // A folder that was taken away and came back is listened to again.
    folder.empty();
    here.sync(&folder.remote(), &zvon::SyncOptions::default()).await.unwrap();
    run(&other, "INSERT INTO note VALUES ('again', 'x')");
    sync(&other, &folder.remote()).await;
    while watch.synced_for(WatchCause::Folder).await.pulled == 0 {}
    watch.stop().await;
    assert_verified(&here, &folder.remote()).await;
}

#[tokio::test]
async fn a_database_that_another_program_holds_is_waited_for() {
    let (dir, remote) = (tempfile::tempdir().unwrap(), fresh_remote());
    let path = dir.path().join("notes.db");
    let replica = in_file(&path).await;
    replica.connection().busy_timeout(Duration::from_millis(50)).unwrap();
    let mut other = rusqlite::Connection::open(&path).unwrap();
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    held.execute_batch("INSERT INTO note VALUES ('b', 'y')").unwrap();
    let mut watch = Watching::with(&replica, &remote, never_by_itself());
    let told = loop {
        if let WatchEvent::Failed { error, .. } = watch.event().await {
            break error;
        }
    };
    assert_eq!(told.kind(), ErrorKind::Busy);
    held.commit().unwrap();
    assert_eq!(watch.synced_for(WatchCause::Retry).await.pushed, 2);
    watch.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_database_that_is_replaced_under_its_name_ends_it() {
    let (dir, remote) = (tempfile::tempdir().unwrap(), fresh_remote());
    let (path, backup) = (dir.path().join("notes.db"), dir.path().join("backup.db"));
    let replica = in_file(&path).await;
    drop(in_file(&backup).await);
    let mut options = WatchOptions::default();
    options.interval = Duration::from_millis(200);
    let mut watch = Watching::with(&replica, &remote, options);
    watch.synced_for(WatchCause::Start).await;
    std::fs::rename(&backup, &path).unwrap();
    let error = timeout(DEADLINE, watch.task).await.expect("the watch ends").unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database);
    assert!(error.to_string().contains("was replaced by another file while it was watched"), "{error}");
}

/// So many rows at once that they are pushed as a pack.
fn import(replica: &Replica, name: u32, body: &str) {
    let sql = "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 200) \
               INSERT INTO note SELECT ?1 || '-' || i, ?2 FROM i";
    replica.connection().execute(sql, (name, body)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn packs_that_piled_up_are_joined_beside_the_watch() {
    let store = FaultyStore::new(&Arc::new(InMemory::new()), |_, _| Verdict::Pass);
    let (replica, remote) = (replica(NOTES).await, in_store(store.clone()));
    for n in 0..7 {
        import(&replica, n, "x");
        sync(&replica, &remote).await;
    }
    let mut watch = Watching::start(&replica, &remote);
    watch.synced_for(WatchCause::Start).await;
    import(&replica, 7, "x");
    assert!(watch.synced_for(WatchCause::Commit).await.compaction_due);
    let WatchEvent::Compacted { report } = watch.event().await else { panic!("no compaction") };
    assert_eq!((report.joined_packs, report.written_packs, report.changes), (8, 1, 1_600));
    let rest = watch.stop().await;
    assert!(!rest.iter().any(|event| matches!(event, WatchEvent::Compacted { .. })), "{rest:?}");
}

/// It was logged, and nobody who watches reads that.
#[tokio::test(start_paused = true)]
async fn a_compaction_that_fails_beside_a_watch_is_told_of() {
    let fails = Arc::new(AtomicBool::new(false));
    let rule = {
        let fails = Arc::clone(&fails);
        move |_, request| match fails.load(Ordering::SeqCst) && request == Request::Get {
            true => Verdict::FailBefore,
            false => Verdict::Pass,
        }
    };
    let (replica, remote) = (replica(NOTES).await, in_store(FaultyStore::new(&Arc::new(InMemory::new()), rule)));
    for n in 0..8 {
        import(&replica, n, "x");
        sync(&replica, &remote).await;
    }
    let mut watch = Watching::start(&replica, &remote);
    assert!(watch.synced_for(WatchCause::Start).await.compaction_due);
    let WatchEvent::Compacted { .. } = watch.event().await else { panic!("no compaction") };
    fails.store(true, Ordering::SeqCst);
    // Before what a pack holds is removed, the pack is read.
    let ripe = "UPDATE ZV_PACK SET covered_ms = covered_ms - 100000000, seen_ms = seen_ms - 100000000";
    replica.connection().execute_batch(ripe).unwrap();
    import(&replica, 8, "x");
    while !watch.synced().await.1.compaction_due {}
    let WatchEvent::CompactionFailed { error } = watch.event().await else { panic!("not told") };
    assert_eq!(error.kind(), ErrorKind::Remote);
    // It waits before it tries again, and syncs go on.
    assert!(!watch.synced().await.1.compaction_due);
    watch.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_told_not_to_compact_does_not() {
    let store = FaultyStore::new(&Arc::new(InMemory::new()), |_, _| Verdict::Pass);
    let (replica, remote) = (replica(NOTES).await, in_store(store.clone()));
    for n in 0..8 {
        import(&replica, n, "x");
        sync(&replica, &remote).await;
    }
    let mut options = WatchOptions::default();
    options.compact = false;
    let mut watch = Watching::with(&replica, &remote, options);
    assert!(watch.synced_for(WatchCause::Start).await.compaction_due);
    assert_eq!(watch.synced().await.0, WatchCause::Interval);
    let rest = watch.stop().await;
    assert!(!rest.iter().any(|event| matches!(event, WatchEvent::Compacted { .. })), "{rest:?}");
}

/// Every object there is, with its bytes.
async fn objects(memory: &InMemory) -> Vec<(String, Vec<u8>)> {
    let listed: Vec<_> = memory.list(None).try_collect().await.unwrap();
    let mut objects = Vec::new();
    for object in listed {
        let bytes = memory.get(&object.location).await.unwrap().bytes().await.unwrap();
        objects.push((object.location.to_string(), bytes.to_vec()));
    }
    objects
}

#[tokio::test(start_paused = true)]
async fn an_encrypted_remote_is_watched_and_compacted_and_its_keys_may_change_meanwhile() {
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::new(&memory, |_, _| Verdict::Pass);
    let (alice, bob) = (Secret::generate(), Secret::generate());
    let (a, b) = (replica(NOTES).await, replica(NOTES).await);
    let alices = in_store(store.clone()).with_secret(alice.clone());
    let bobs = in_store(store.clone()).with_secret(bob.clone());
    a.encrypt_remote(&alices, &Lock::Recipients([alice.recipients(), bob.recipients()].concat())).await.unwrap();
    for n in 0..7 {
        import(&a, n, "planted words");
        sync(&a, &alices).await;
    }
    let (mut watch, mut other) = (Watching::start(&a, &alices), Watching::start(&b, &bobs));
    watch.synced_for(WatchCause::Start).await;
    assert_eq!(other.synced_for(WatchCause::Start).await.pulled, 1_400);
    import(&a, 7, "planted words");
    assert!(watch.synced_for(WatchCause::Commit).await.compaction_due);
    let WatchEvent::Compacted { report } = watch.event().await else { panic!("no compaction") };
    assert_eq!((report.joined_packs, report.written_packs, report.changes), (8, 1, 1_600));
    // A new key, while both watch: what is written next is sealed with it, and both go on.
    let rotated = a.rotate_keys(&alices, None).await.unwrap();
    let epoch = rotated.epochs.iter().find(|epoch| epoch.current).unwrap().epoch.replace('-', "");
    let before = objects(&memory).await;
    run(&b, "INSERT INTO note VALUES ('later', 'planted words')");
    while other.synced_for(WatchCause::Commit).await.pushed == 0 {}
    while watch.synced_for(WatchCause::Interval).await.pulled == 0 {}
    let after = objects(&memory).await;
    let new: Vec<_> = after.iter().filter(|(name, _)| !before.iter().any(|(other, _)| other == name)).collect();
    assert!(new.iter().any(|(name, _)| name.contains("/changes/")), "{}", new.len());
    for (name, bytes) in new {
        let sealed_under: String = bytes[4..20].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sealed_under, epoch, "{name}");
    }
    for (name, bytes) in &after {
        assert!(!bytes.windows(7).any(|part| part == b"planted"), "{name}");
        let is_open = name.contains("/identity/") || name.contains("/keys/");
        assert!(is_open || bytes.starts_with(b"ZVS\x01"), "{name}");
    }
    // Bob goes: his watch ends, and says why; Alice's goes on.
    a.remove_recipient(&alices, &bob.recipients()[0]).await.unwrap();
    let error = timeout(Duration::from_secs(120), other.task).await.unwrap().unwrap().unwrap_err();
    assert!(error.kind() == ErrorKind::Key && error.to_string().contains("it was removed"), "{error}");
    run(&a, "INSERT INTO note VALUES ('last', 'planted words')");
    assert_eq!(watch.synced_for(WatchCause::Commit).await.pushed, 1);
    watch.stop().await;
    assert_verified(&a, &alices).await;
}

#[tokio::test]
async fn a_drive_that_is_not_mounted_is_waited_for() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let replica = in_file(&dir.path().join("notes.db")).await;
    let (drive, away) = (place.path().join("drive"), place.path().join("away"));
    let url = drive.join("notes");
    sync(&replica, &remote(url.to_str().unwrap())).await;
    std::fs::rename(&drive, &away).unwrap();
    run(&replica, "INSERT INTO note VALUES ('a', 'x')");
    let mut watch = Watching::with(&replica, &remote(url.to_str().unwrap()), never_by_itself());
    let told = loop {
        if let WatchEvent::Failed { error, .. } = watch.event().await {
            break error;
        }
    };
    assert!(told.to_string().contains("its drive mounted"), "{told}");
    std::fs::rename(&away, &drive).unwrap();
    let report = watch.synced_for(WatchCause::Retry).await;
    assert_eq!((report.pushed, report.healed), (1, 0));
    watch.stop().await;
}
