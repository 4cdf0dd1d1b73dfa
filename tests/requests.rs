//! What a sync costs in requests, whatever the history: counted as a bucket bills them.

mod common;

use common::counting_store::{CountingStore, Counts};
use common::packs::pack;
use common::{keyed, rows, run, sync};
use serde_json::json;
use tempfile::tempdir;
use zvon::{CompactOptions, Replica, Settings};

const TABLE: &str = "CREATE TABLE n (id TEXT PRIMARY KEY, v INTEGER)";
/// One listing and nothing else.
const IDLE: Counts = Counts { list: 1, get: 0, put: 0, delete: 0 };

async fn tracked(replica: Replica) -> Replica {
    run(&replica, TABLE);
    replica.track_all(&keyed()).await.unwrap();
    replica
}

async fn in_memory() -> Replica {
    tracked(Replica::in_memory().unwrap()).await
}

fn insert(replica: &Replica, from: u32, count: u32) {
    let sql = "WITH RECURSIVE i (i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM i WHERE i < ?1 + ?2 - 1) \
               INSERT INTO n SELECT i, i FROM i";
    replica.connection().execute(sql, [from, count]).unwrap();
}

/// An id that grows with its number.
fn id(n: usize) -> String {
    format!("019c{:04x}-0000-7000-8000-{n:012x}", n >> 20)
}

/// Packs of as many changes as one takes, as another replica would have left them there.
async fn plant(store: &CountingStore, changes: usize) {
    for (at, from) in (0..changes).step_by(100_000).enumerate() {
        let files: Vec<(String, Vec<u8>)> = (from..changes.min(from + 100_000))
            .map(|n| {
                let change = json!([id(n), "author", "n", n.to_string(), false]);
                (id(n), rmp_serde::to_vec(&json!([change, [["v", n]]])).unwrap())
            })
            .collect();
        store.plant(&format!("packs/019c0000-0000-7000-9000-{at:012x}.pack"), pack(&files)).await;
    }
}

/// Clones and idles at one size of the history, and tells how many requests the clone took.
async fn clone_of(changes: usize) -> Counts {
    let store = CountingStore::default();
    let source = in_memory().await;
    insert(&source, 5_000_000, 1);
    sync(&source, &store.remote()).await;
    plant(&store, changes).await;

    let dir = tempdir().unwrap();
    let clone = tracked(Replica::init(dir.path().join("clone.db")).unwrap()).await;
    clone.connection().pragma_update(None, "synchronous", "off").unwrap();
    store.take();
    let report = sync(&clone, &store.remote()).await;
    let counts = store.take();
    assert_eq!((report.pulled, report.merged), (changes as u64 + 1, changes as u64 + 1));
    assert_eq!((report.requests.list, report.requests.get, report.requests.put), (counts.list, counts.get, counts.put));
    assert_eq!(counts.put, 0);
    let counted = rows(&clone.connection(), "SELECT count(*), sum(v) FROM n");
    let sum = changes * (changes - 1) / 2 + 5_000_000;
    assert_eq!(counted, [format!("{}|{sum}", changes + 1)]);
    for _ in 0..2 {
        let idle = sync(&clone, &store.remote()).await;
        assert_eq!(store.take(), IDLE, "an idle sync after {changes} changes");
        assert_eq!((idle.pulled, idle.pushed, idle.merged, idle.bytes_out), (0, 0, 0, 0));
    }
    // One edit more costs one object, whatever was before.
    run(&clone, "UPDATE n SET v = -1 WHERE id = '7'");
    sync(&clone, &store.remote()).await;
    assert_eq!(store.take(), Counts { put: 1, ..IDLE });
    counts
}

#[tokio::test]
async fn a_clone_of_a_thousand_changes_and_idle_syncs() {
    assert!(clone_of(1_000).await.get <= 4);
}

#[tokio::test]
async fn a_clone_of_a_hundred_thousand_changes_and_idle_syncs() {
    assert!(clone_of(100_000).await.get <= 4);
}

#[tokio::test]
async fn a_clone_of_a_million_changes_and_idle_syncs() {
    let counts = clone_of(1_000_000).await;
    assert!(counts.get <= 50 && counts.list == 1, "{counts:?}");
}

#[tokio::test]
async fn a_push_of_ten_thousand_changes() {
    let store = CountingStore::default();
    let replica = in_memory().await;
    insert(&replica, 0, 1);
    sync(&replica, &store.remote()).await;
    store.take();
    insert(&replica, 1, 10_000);
    assert_eq!(sync(&replica, &store.remote()).await.pushed, 10_000);
    let counts = store.take();
    assert!(counts.put <= 3 && counts.list == 1 && counts.get == 0, "{counts:?}");
}

#[tokio::test]
async fn a_pack_that_is_known_otherwise_is_decided_by_its_header_alone() {
    let store = CountingStore::default();
    let (a, b) = (in_memory().await, in_memory().await);
    insert(&a, 0, 60_000);
    sync(&a, &store.remote()).await;
    sync(&b, &store.remote()).await;
    insert(&a, 60_000, 30);
    sync(&a, &store.remote()).await;
    sync(&b, &store.remote()).await;
    // Both packs, joined into one of which `b` knows every change.
    assert_eq!(a.compact(&store.remote(), &CompactOptions::default()).await.unwrap().written_packs, 1);
    let packs = store.names("packs").await;
    let size = store.look(packs.last().unwrap()).await.len() as u64;
    assert!(size > 1 << 20, "large enough to be asked for its header first: {size}");
    store.take();
    let report = sync(&b, &store.remote()).await;
    assert_eq!((report.pulled, store.take()), (0, Counts { get: 1, ..IDLE }));
    assert!(report.bytes_in <= 1 << 20, "the header alone, {} of {size}", report.bytes_in);
    sync(&b, &store.remote()).await;
    assert_eq!(store.take(), IDLE);
}

#[tokio::test]
async fn of_a_pack_only_the_blocks_that_are_wanted_are_fetched() {
    let store = CountingStore::default();
    let (a, b) = (in_memory().await, in_memory().await);
    insert(&a, 0, 90_000);
    sync(&a, &store.remote()).await;
    sync(&b, &store.remote()).await;
    insert(&a, 90_000, 100);
    sync(&a, &store.remote()).await;
    a.compact(&store.remote(), &CompactOptions::default()).await.unwrap();
    // What `b` lacks is now in the joined pack alone.
    let packs = store.names("packs").await;
    store.lose(&packs[1]).await;
    let size = store.look(packs.last().unwrap()).await.len() as u64;
    store.take();
    let report = sync(&b, &store.remote()).await;
    assert_eq!((report.pulled, store.take()), (100, Counts { get: 2, ..IDLE }));
    assert!(report.bytes_in < (1 << 20) + size / 4, "{} of {size}", report.bytes_in);
}

#[tokio::test]
async fn sixteen_replicas_that_write_and_compact_come_to_one_listing_each() {
    let store = CountingStore::default();
    let mut replicas = Vec::new();
    for n in 0..16 {
        let mut settings = Settings::default();
        settings.compaction_grace = Some(std::time::Duration::ZERO);
        let replica = in_memory().await.with_settings(settings);
        sync(&replica, &store.remote()).await;
        insert(&replica, n * 1_000, 5 + n * 3);
        sync(&replica, &store.remote()).await;
        replicas.push(replica);
    }
    for round in 0..3 {
        for (n, replica) in replicas.iter().enumerate() {
            insert(replica, 100_000 + round * 10_000 + n as u32 * 100, 3);
            sync(replica, &store.remote()).await;
            if n % 5 == round as usize {
                replica.compact(&store.remote(), &CompactOptions::default()).await.unwrap();
            }
        }
    }
    for replica in &replicas {
        sync(replica, &store.remote()).await;
    }
    for _ in 0..3 {
        replicas[3].compact(&store.remote(), &CompactOptions::default()).await.unwrap();
    }
    for replica in &replicas {
        sync(replica, &store.remote()).await;
    }
    let left = (store.names("changes").await.len(), store.names("packs").await.len());
    assert_eq!(left, (0, 1));
    let expected = rows(&replicas[0].connection(), "SELECT id, v FROM n ORDER BY id");
    assert_eq!(expected.len(), (0..16).map(|n| 5 + n * 3).sum::<usize>() + 3 * 16 * 3);
    for replica in &replicas {
        store.take();
        sync(replica, &store.remote()).await;
        assert_eq!(store.take(), IDLE);
        assert_eq!(rows(&replica.connection(), "SELECT id, v FROM n ORDER BY id"), expected);
        common::assert_verified(replica, &store.remote()).await;
    }
    let newcomer = in_memory().await;
    store.take();
    sync(&newcomer, &store.remote()).await;
    let counts = store.take();
    assert!(counts.get <= 4 && counts.list == 1, "{counts:?}");
    assert_eq!(rows(&newcomer.connection(), "SELECT id, v FROM n ORDER BY id"), expected);
}
