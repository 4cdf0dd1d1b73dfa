//! Packs between real replicas: what is lost or spoilt is put back, what is bad is refused alone, what lies ahead waits, and
//! what was interrupted goes on where it was.

mod common;

use std::sync::Arc;

use common::counting_store::CountingStore;
use common::faulty_store::{FaultyStore, Request, Verdict};
use common::packs::{pack, unpack};
use common::wall::{DAY_MS, START_MS, Wall, on_the_wall};
use common::{assert_verified, replica, run, sync, table};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};
use zvon::{ErrorKind, Join, Remote, Replica, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT)";

fn insert(replica: &Replica, prefix: &str, rows: u32) {
    let sql = "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?2) \
               INSERT INTO note SELECT ?1 || i, 'row ' || i FROM i";
    replica.connection().execute(sql, (prefix, rows)).unwrap();
}

async fn sync_full(replica: &Replica, remote: &Remote) -> zvon::SyncReport {
    let mut options = SyncOptions::default();
    options.full = true;
    replica.sync(remote, &options).await.unwrap()
}

/// Two replicas that share a pack of a hundred changes.
async fn two() -> (Replica, Replica, CountingStore) {
    let (a, b, store) = (replica(NOTES).await, replica(NOTES).await, CountingStore::default());
    insert(&a, "", 100);
    sync(&a, &store.remote()).await;
    assert_eq!(sync(&b, &store.remote()).await.pulled, 100);
    assert_eq!((store.names("changes").await.len(), store.names("packs").await.len()), (0, 1));
    (a, b, store)
}

#[tokio::test]
async fn a_pack_that_vanished_is_put_back_by_whoever_syncs_next() {
    let (a, b, store) = two().await;
    insert(&b, "b", 1);
    sync(&b, &store.remote()).await;
    store.lose(&store.names("packs").await[0]).await;
    let report = sync(&b, &store.remote()).await;
    assert_eq!((report.pushed, report.healed, report.pulled), (100, 100, 0));
    let report = sync(&a, &store.remote()).await;
    assert_eq!((report.pushed, report.healed, report.pulled), (0, 0, 1));
    for replica in [&a, &b] {
        assert_verified(replica, &store.remote()).await;
        assert_eq!(sync(replica, &store.remote()).await.requests.get, 0);
    }
}

/// By reading: what was on its way was still on the list, and was read from it again.
#[tokio::test]
async fn as_many_lost_changes_as_a_pack_holds_are_put_back_once() {
    let (a, store) = (replica("CREATE TABLE note (id TEXT PRIMARY KEY)").await, Arc::new(InMemory::new()));
    let remote = Remote::from_store("memory://slow", FaultyStore::new(&store, |_, _| Verdict::Yield), "base").unwrap();
    let insert = |rows: u32| {
        let sql = "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?1) INSERT INTO note SELECT ?1 || '-' || i FROM i";
        a.connection().execute(sql, [rows]).unwrap();
    };
    insert(1);
    sync(&a, &remote).await;
    insert(100_000);
    sync(&a, &remote).await;
    let packs: Vec<_> = store.list(Some(&Path::from("base/packs"))).try_collect().await.unwrap();
    for pack in packs {
        store.delete(&pack.location).await.unwrap();
    }
    let report = sync(&a, &remote).await;
    assert_eq!((report.pushed, report.healed), (100_000, 100_000));
}

#[tokio::test]
async fn an_emptied_remote_gets_its_packs_back() {
    let (a, b, store) = two().await;
    for folder in ["packs", "identity", "layout", "schemas"] {
        for name in store.names(folder).await {
            store.lose(&name).await;
        }
    }
    insert(&a, "more", 30);
    let report = sync(&a, &store.remote()).await;
    assert_eq!((report.pushed, report.healed), (130, 100));
    assert_eq!(sync(&b, &store.remote()).await.pulled, 30);
    let c = replica(NOTES).await;
    sync(&c, &store.remote()).await;
    for replica in [&a, &b, &c] {
        assert_eq!(table(replica, "note").len(), 130);
        assert_verified(replica, &store.remote()).await;
    }
}

#[tokio::test]
async fn a_spoilt_pack_is_refused_and_mended_by_a_thorough_sync() {
    let (a, b, store) = two().await;
    let name = store.names("packs").await.remove(0);
    let whole = store.look(&name).await.to_vec();
    let flipped: Vec<u8> = whole.iter().enumerate().map(|(n, byte)| byte ^ u8::from(n == whole.len() - 9)).collect();
    for spoilt in [whole[..40].to_vec(), whole[..whole.len() - 1].to_vec(), flipped, vec![], b"rubbish".repeat(500)] {
        store.plant(&name, spoilt).await;
        let newcomer = replica(NOTES).await;
        let report = sync(&newcomer, &store.remote()).await;
        assert_eq!((report.pulled, report.rejected, report.newly_rejected.len()), (0, 1, 1));
        assert_eq!(report.newly_rejected[0].name, name);
        let again = sync(&newcomer, &store.remote()).await;
        assert_eq!((again.rejected, again.newly_rejected.len(), again.requests.get), (1, 0, 0));
        let problems = a.verify_remote(&store.remote()).await.unwrap().problems;
        assert!(problems[0].contains(&name) && problems[0].contains("sync --full"), "{problems:?}");

        assert_eq!(sync_full(&b, &store.remote()).await.healed, 100);
        assert_eq!(unpack(&store.look(&name).await), unpack(&whole));
        let healed = sync(&newcomer, &store.remote()).await;
        assert_eq!((healed.pulled, healed.rejected), (100, 0));
        assert_verified(&newcomer, &store.remote()).await;
    }
    assert_eq!(sync_full(&a, &store.remote()).await.healed, 0);
}

fn id(n: u32) -> String {
    format!("019c0000-0000-7000-8000-{n:012x}")
}

fn file(n: u32, table: &str, fields: &Value) -> (String, Vec<u8>) {
    let change = json!([id(n), "author", table, format!("p{n}"), false]);
    (id(n), rmp_serde::to_vec(&json!([change, fields])).unwrap())
}

#[tokio::test]
async fn a_bad_record_is_refused_and_the_others_are_applied() {
    let (a, _, store) = two().await;
    let title = json!([["title", "t"]]);
    let bad = [file(2, "ZV_CHANGE", &title), (id(3), b"\xc1".to_vec()), file(4, "note", &json!([]))];
    let files = [vec![file(1, "note", &title)], bad.to_vec(), vec![file(5, "note", &title)]].concat();
    store.plant("packs/019c0000-0000-7000-9000-000000000001.pack", pack(&files)).await;
    let report = sync(&a, &store.remote()).await;
    assert_eq!((report.pulled, report.merged, report.newly_rejected.len()), (2, 2, 1));
    assert!(report.newly_rejected[0].reason.contains(&id(2)), "{:?}", report.newly_rejected);
    assert_eq!(table(&a, "note").len(), 102);
    let again = sync(&a, &store.remote()).await;
    assert_eq!((again.pulled, again.rejected, again.newly_rejected.len(), again.requests.get), (0, 1, 0, 0));
}

#[tokio::test]
async fn changes_of_a_pack_that_lie_ahead_wait_for_their_time() {
    let (here, there) = (Wall::at(START_MS), Wall::at(START_MS + 3 * DAY_MS));
    let shared = tempfile::tempdir().unwrap();
    let remote = common::remote(shared.path().to_str().unwrap());
    let a = on_the_wall(replica(NOTES).await, &here, 1);
    let b = on_the_wall(replica(NOTES).await, &there, 2);
    sync(&a, &remote).await;
    sync(&b, &remote).await;
    insert(&b, "ahead", 40);
    sync(&b, &remote).await;
    let report = sync(&a, &remote).await;
    assert_eq!((report.pulled, report.waiting, report.rejected), (0, 40, 0));
    let author = b.database_uuid().unwrap();
    let waiting = a.status().await.unwrap().remotes.remove(0).waiting;
    assert_eq!((waiting.len(), waiting[0].author.as_str(), waiting[0].changes), (1, author.as_str(), 40));
    let idle = sync(&a, &remote).await;
    assert_eq!((idle.waiting, idle.pushed), (40, 0));
    here.advance(2 * DAY_MS + 1);
    let report = sync(&a, &remote).await;
    assert_eq!((report.pulled, report.waiting), (40, 0));
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_eq!(sync(&a, &remote).await.requests.get, 0);
}

#[tokio::test]
async fn an_interrupted_pull_goes_on_with_the_packs_that_lack() {
    let inner = Arc::new(InMemory::new());
    let open = |store| Remote::from_store("faulty", store, "base").unwrap();
    let honest = open(Arc::clone(&inner) as Arc<dyn object_store::ObjectStore>);
    let a = replica(NOTES).await;
    for n in 0..4 {
        insert(&a, &format!("{n}-"), 200);
        sync(&a, &honest).await;
    }
    let b = replica(NOTES).await;
    let mut pulled = 0;
    for fails_at in 1.. {
        let gets = std::sync::atomic::AtomicUsize::new(0);
        let rule = move |_, request| {
            let is_get = request == Request::Get;
            let n = gets.fetch_add(usize::from(is_get), std::sync::atomic::Ordering::SeqCst);
            if is_get && n == fails_at { Verdict::FailBefore } else { Verdict::Pass }
        };
        match b.sync(&open(FaultyStore::new(&inner, rule)), &SyncOptions::default()).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Remote),
            Ok(report) => {
                // What had arrived before a failure is not asked for again.
                assert!(report.pulled < 800, "{report:?}");
                pulled += report.pulled;
                break;
            }
        }
    }
    assert!(pulled < 800);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_verified(&b, &honest).await;
}

#[tokio::test]
async fn a_stranger_is_refused_by_what_packs_hold_and_joins_when_asked_to() {
    let (a, _, store) = two().await;
    let stranger = replica(NOTES).await;
    run(&stranger, "INSERT INTO note VALUES ('1', 'mine'), ('2', 'mine'), ('x', 'mine')");
    let error = stranger.sync(&store.remote(), &SyncOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unrelated);
    assert!(error.to_string().contains("note: 2 of its 100 rows"), "{error}");
    let mut join = SyncOptions::default();
    join.join = Some(Join::Same);
    assert_eq!(stranger.sync(&store.remote(), &join).await.unwrap().pulled, 100);
    sync(&a, &store.remote()).await;
    assert_eq!(table(&a, "note"), table(&stranger, "note"));
}

#[tokio::test]
async fn two_bulks_pushed_at_once_are_both_there() {
    let (a, b, store) = two().await;
    insert(&a, "a", 500);
    insert(&b, "b", 500);
    let remote = store.remote();
    let (left, right) = tokio::join!(sync(&a, &remote), sync(&b, &remote));
    assert_eq!((left.pushed, right.pushed), (500, 500));
    for replica in [&a, &b, &a] {
        sync(replica, &remote).await;
    }
    assert_eq!(table(&a, "note").len(), 1_100);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}
