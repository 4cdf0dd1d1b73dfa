//! Compaction with real replicas: what it writes, when it removes, and that nobody loses anything whoever else compacts.

mod common;

use std::time::Duration;

use common::counting_store::CountingStore;
use common::shared_folder::SharedFolder;
use common::wall::{DAY_MS, HOUR_MS, START_MS, Wall};
use common::{assert_verified, replica, sync, table};
use proptest::prelude::*;
use zvon::{CompactOptions, CompactReport, Layout, Remote, Replica, Settings, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT)";

async fn compact(replica: &Replica, remote: &Remote) -> CompactReport {
    replica.compact(remote, &CompactOptions::default()).await.unwrap()
}

fn insert(replica: &Replica, prefix: &str, rows: u32) {
    let sql = "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?2) \
               INSERT INTO note SELECT ?1 || i, 'row ' || i FROM i";
    replica.connection().execute(sql, (prefix, rows)).unwrap();
}

async fn counts(store: &CountingStore) -> (usize, usize) {
    (store.names("changes").await.len(), store.names("packs").await.len())
}

/// A replica on a clock of the test's, which no store's clock contradicts.
async fn on_wall(wall: &Wall, seed: u64, grace: Option<Duration>) -> Replica {
    let mut settings = Settings::default();
    settings.world = wall.world(seed);
    settings.max_clock_drift = Duration::from_millis(1_000 * DAY_MS);
    settings.compaction_grace = grace;
    let replica = replica(NOTES).await.with_settings(settings);
    wall.install(&replica.connection());
    replica
}

async fn on_a_clock() -> (Replica, CountingStore, Wall) {
    let wall = Wall::at(START_MS);
    (on_wall(&wall, 1, None).await, CountingStore::default(), wall)
}

#[tokio::test]
async fn loose_files_are_packed_and_removed_in_a_later_run_after_an_hour() {
    let (a, store, wall) = on_a_clock().await;
    let remote = store.remote();
    for n in 0..3 {
        insert(&a, &n.to_string(), 10);
        sync(&a, &remote).await;
    }
    assert_eq!(counts(&store).await, (30, 0));
    let first = compact(&a, &remote).await;
    assert_eq!((first.packed_files, first.written_packs, first.changes, first.removed_files), (30, 1, 30, 0));
    assert_eq!(counts(&store).await, (30, 1));
    for minutes in [0, 59] {
        wall.set(START_MS + minutes * 60_000);
        let early = compact(&a, &remote).await;
        assert_eq!((early.written_packs, early.removed_files, early.unripe), (0, 0, 30), "after {minutes} minutes");
    }
    wall.set(START_MS + HOUR_MS);
    let ripe = compact(&a, &remote).await;
    assert_eq!((ripe.removed_files, ripe.removed_packs, ripe.unripe), (30, 0, 0));
    assert_eq!((ripe.requests.get, ripe.requests.list), (1, 1), "the pack is read back: {ripe:?}");
    assert_eq!(counts(&store).await, (0, 1));
    let idle = sync(&a, &remote).await;
    assert_eq!((idle.healed, idle.pushed, idle.requests.get), (0, 0, 0));
    assert_verified(&a, &remote).await;
    let b = on_wall(&wall, 2, None).await;
    assert_eq!(sync(&b, &remote).await.pulled, 30);
    assert_eq!(table(&a, "note"), table(&b, "note"));
}

#[tokio::test]
async fn in_a_folder_removals_wait_for_a_week() {
    let wall = Wall::at(START_MS);
    let a = on_wall(&wall, 1, None).await;
    let folder = SharedFolder::new();
    insert(&a, "", 10);
    sync(&a, &folder.remote()).await;
    compact(&a, &folder.remote()).await;
    wall.advance(7 * DAY_MS - 1);
    assert_eq!(compact(&a, &folder.remote()).await.removed_files, 0);
    wall.advance(1);
    assert_eq!(compact(&a, &folder.remote()).await.removed_files, 10);
    assert_eq!((folder.changes().len(), folder.files("packs").len()), (0, 1));
    assert_verified(&a, &folder.remote()).await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let (a, store, _) = on_a_clock().await;
    let remote = store.remote();
    insert(&a, "", 10);
    sync(&a, &remote).await;
    let mut dry = CompactOptions::default();
    dry.dry_run = true;
    let told = a.compact(&remote, &dry).await.unwrap();
    assert_eq!((told.dry_run, told.packed_files, told.changes, told.written_packs), (true, 10, 10, 0));
    assert_eq!((told.requests.list, told.requests.put, counts(&store).await), (1, 0, (10, 0)));
}

#[tokio::test]
async fn small_packs_are_joined_and_the_old_ones_removed_later() {
    let (a, store, wall) = on_a_clock().await;
    let remote = store.remote();
    for n in 0..3 {
        insert(&a, &n.to_string(), 100);
        let report = sync(&a, &remote).await;
        assert!(n == 0 || report.requests.put == 1, "{report:?}");
    }
    assert_eq!(counts(&store).await, (0, 3));
    let before = store.names("packs").await;
    let joined = compact(&a, &remote).await;
    assert_eq!((joined.joined_packs, joined.written_packs, joined.changes), (3, 1, 300));
    let after = store.names("packs").await;
    assert!(
        after.len() == 4 && after[..3] == before && after[3] > before[2],
        "the new name is the greatest: {after:?}"
    );
    assert_eq!(compact(&a, &remote).await.written_packs, 0, "nothing is joined twice");
    wall.advance(HOUR_MS);
    assert_eq!(compact(&a, &remote).await.removed_packs, 3);
    assert_eq!(store.names("packs").await, after[3..]);
    assert_verified(&a, &remote).await;
}

#[tokio::test]
async fn nothing_is_removed_for_a_pack_that_is_not_right() {
    let (a, store, wall) = on_a_clock().await;
    let remote = store.remote();
    insert(&a, "", 10);
    sync(&a, &remote).await;
    compact(&a, &remote).await;
    let name = store.names("packs").await.remove(0);
    let mut spoilt = store.look(&name).await.to_vec();
    *spoilt.last_mut().unwrap() ^= 1;
    store.plant(&name, spoilt).await;
    wall.advance(HOUR_MS);
    let report = compact(&a, &remote).await;
    assert_eq!((report.removed_files, report.problems.len()), (0, 1));
    assert!(report.problems[0].contains(&name) && report.problems[0].contains("sync --full"), "{:?}", report.problems);
    assert_eq!(counts(&store).await, (10, 1));

    let mut full = SyncOptions::default();
    full.full = true;
    assert_eq!(a.sync(&remote, &full).await.unwrap().healed, 10);
    assert_eq!(compact(&a, &remote).await.removed_files, 10);
    assert_verified(&a, &remote).await;
}

/// Found by the simulation: what was removed for such a pack was in no place that was remembered, and was never put back.
#[tokio::test]
async fn what_is_removed_for_a_pack_that_is_lost_meanwhile_is_put_back() {
    for rows in [10, 100] {
        let (a, store, wall) = on_a_clock().await;
        let remote = store.remote();
        for n in 0..3 {
            insert(&a, &n.to_string(), rows);
            sync(&a, &remote).await;
        }
        let before = store.names("packs").await;
        compact(&a, &remote).await;
        wall.advance(HOUR_MS);
        let barrier = store.hold_deletion();
        let meanwhile = async {
            barrier.wait().await;
            let written = store.names("packs").await.pop().unwrap();
            assert!(!before.contains(&written));
            store.lose(&written).await;
            sync(&a, &remote).await;
            barrier.wait().await;
        };
        let (removed, ()) = futures::join!(compact(&a, &remote), meanwhile);
        assert_eq!((removed.removed_files, removed.removed_packs), if rows == 10 { (30, 0) } else { (0, 3) });
        assert_eq!(counts(&store).await, (0, 0));
        sync(&a, &remote).await;
        assert_verified(&a, &remote).await;
        let b = on_wall(&wall, 2, None).await;
        assert_eq!(sync(&b, &remote).await.pulled, u64::from(3 * rows));
        assert_eq!(table(&a, "note"), table(&b, "note"));
    }
}

#[tokio::test]
async fn where_files_are_asked_for_nothing_is_packed_and_packs_are_unpacked() {
    let (a, store, wall) = on_a_clock().await;
    let remote = store.remote();
    insert(&a, "", 40);
    sync(&a, &remote).await;
    assert_eq!(counts(&store).await, (0, 1));
    let mut as_files = SyncOptions::default();
    as_files.layout = Some(Layout::Files);
    assert_eq!(a.sync(&remote, &as_files).await.unwrap().pushed, 40);
    assert_eq!(counts(&store).await, (40, 1));
    insert(&a, "more", 40);
    sync(&a, &remote).await;
    wall.advance(DAY_MS);
    assert_eq!(compact(&a, &remote).await.written_packs, 0);
    assert_eq!(counts(&store).await, (80, 1));
    let idle = sync(&a, &remote).await;
    assert_eq!((idle.pushed, idle.compaction_due), (0, false));
    assert_verified(&a, &remote).await;
}

#[tokio::test]
async fn a_sync_says_when_compaction_is_due_and_does_not_wait_for_it() {
    let (a, store, wall) = on_a_clock().await;
    let remote = store.remote();
    let mut if_due = CompactOptions::default();
    if_due.only_if_due = true;
    for n in 0..64 {
        insert(&a, &n.to_string(), 8);
        let report = sync(&a, &remote).await;
        assert_eq!(report.compaction_due, n == 63, "after {} loose files", (n + 1) * 8);
    }
    store.take();
    let report = a.compact(&remote, &if_due).await.unwrap();
    assert_eq!((report.packed_files, report.requests.put, report.requests.list), (512, 1, 0));
    assert!(!sync(&a, &remote).await.compaction_due);
    wall.advance(HOUR_MS);
    assert!(sync(&a, &remote).await.compaction_due);
    assert_eq!(a.compact(&remote, &if_due).await.unwrap().removed_files, 512);
    assert!(!sync(&a, &remote).await.compaction_due);
    assert_eq!(counts(&store).await, (0, 1));
}

#[tokio::test]
async fn whoever_has_not_synced_cannot_compact() {
    let store = CountingStore::default();
    let a = replica(NOTES).await;
    let error = a.compact(&store.remote(), &CompactOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("sync once"), "{error}");
}

/// The pack was read whole after every sync, for ever, and nobody was told why.
#[tokio::test]
async fn a_compaction_that_cannot_finish_is_tried_again_ever_later() {
    let (a, store, wall) = on_a_clock().await;
    let remote = store.remote();
    let mut if_due = CompactOptions::default();
    if_due.only_if_due = true;
    insert(&a, "", 10);
    sync(&a, &remote).await;
    compact(&a, &remote).await;
    let name = store.names("packs").await.remove(0);
    let right = store.look(&name).await.to_vec();
    let mut spoilt = right.clone();
    *spoilt.last_mut().unwrap() ^= 1;
    store.plant(&name, spoilt).await;
    wall.advance(HOUR_MS);
    for minutes in [15, 30, 60, 120] {
        assert!(sync(&a, &remote).await.compaction_due, "before a wait of {minutes} minutes");
        assert_eq!(a.compact(&remote, &if_due).await.unwrap().problems.len(), 1);
        wall.advance(minutes * 60_000 - 1);
        store.take();
        assert!(!sync(&a, &remote).await.compaction_due, "within {minutes} minutes");
        assert_eq!(store.take().get, 0);
        wall.advance(1);
    }
    // What somebody asks for is done at once, and what works needs no patience any more.
    store.plant(&name, right).await;
    assert_eq!(compact(&a, &remote).await.removed_files, 10);
    for n in 0..64 {
        insert(&a, &format!("{n}-"), 8);
        sync(&a, &remote).await;
    }
    assert!(sync(&a, &remote).await.compaction_due);
    assert_verified(&a, &remote).await;
}

/// Changes that fit into no pack made a compaction due for ever, which wrote nothing and said that it had packed them.
#[tokio::test]
async fn a_change_that_fits_into_no_pack_makes_no_compaction_due() {
    let (a, store, _) = on_a_clock().await;
    let remote = store.remote();
    a.connection()
        .execute_batch("INSERT INTO note VALUES ('1', zeroblob(8400000)), ('2', printf('%.*c', 8400000, 'x'))")
        .unwrap();
    sync(&a, &remote).await;
    let mut dry = CompactOptions::default();
    dry.dry_run = true;
    for report in [a.compact(&remote, &dry).await.unwrap(), compact(&a, &remote).await] {
        assert_eq!((report.packed_files, report.changes, report.written_packs), (0, 0, 0));
    }
    insert(&a, "small", 2);
    a.connection().execute_batch("INSERT INTO note VALUES ('3', zeroblob(8388000))").unwrap();
    sync(&a, &remote).await;
    let report = compact(&a, &remote).await;
    assert_eq!((report.packed_files, report.changes, report.written_packs), (3, 3, 1));
    assert_verified(&a, &remote).await;
}

#[derive(Debug, Clone)]
enum Step {
    Write { rows: u32 },
    Sync,
    Compact,
    Wait { minutes: u64 },
    Newcomer,
    LosePack,
}

fn any_step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        3 => (1_u32..40).prop_map(|rows| Step::Write { rows }),
        4 => Just(Step::Sync),
        3 => Just(Step::Compact),
        2 => (1_u64..50).prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Newcomer),
        1 => Just(Step::LosePack),
    ];
    (0_usize..3, step)
}

async fn play(steps: &[(usize, Step)]) {
    let (store, wall) = (CountingStore::default(), Wall::at(START_MS));
    let grace = Some(Duration::from_secs(30 * 60));
    let mut replicas = Vec::new();
    for n in 0..3 {
        let replica = on_wall(&wall, n + 1, grace).await;
        sync(&replica, &store.remote()).await;
        replicas.push(replica);
    }
    for (n, (who, step)) in steps.iter().enumerate() {
        let replica = &replicas[*who];
        wall.advance(7);
        match step {
            Step::Write { rows } => insert(replica, &format!("{n}-"), *rows),
            Step::Sync => drop(sync(replica, &store.remote()).await),
            Step::Compact => drop(compact(replica, &store.remote()).await),
            Step::Wait { minutes } => wall.advance(minutes * 60_000),
            Step::Newcomer => {
                let newcomer = on_wall(&wall, 1_000 + n as u64, grace).await;
                let report = sync(&newcomer, &store.remote()).await;
                assert_eq!((report.rejected, report.pushed), (0, 0));
            }
            Step::LosePack => {
                if let Some(name) = store.names("packs").await.first() {
                    store.lose(name).await;
                }
            }
        }
    }
    for _ in 0..3 {
        for replica in &replicas {
            sync(replica, &store.remote()).await;
        }
    }
    let expected = table(&replicas[0], "note");
    let written: usize =
        steps.iter().map(|(_, step)| if let Step::Write { rows } = step { *rows as usize } else { 0 }).sum();
    assert_eq!(expected.len(), written, "every row that was written is there");
    for replica in &replicas {
        assert_eq!(table(replica, "note"), expected);
        assert_verified(replica, &store.remote()).await;
        store.take();
        sync(replica, &store.remote()).await;
        let idle = store.take();
        assert_eq!((idle.get, idle.put), (0, 0));
    }
    let newcomer = on_wall(&wall, 99, grace).await;
    sync(&newcomer, &store.remote()).await;
    assert_eq!(table(&newcomer, "note"), expected);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48),
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            "tests/proptest-regressions/compaction.txt",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn replicas_that_compact_whenever_they_like_lose_nothing(steps in prop::collection::vec(any_step(), 1..50)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(&steps));
    }
}
