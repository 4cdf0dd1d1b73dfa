//! Syncs that are cut off anywhere, fail at any request, or meet another sync of the same database: nothing is lost, and the next
//! one completes.

mod common;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use common::faulty_store::{FaultyStore, Request, Verdict};
use common::*;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::{Barrier, Notify};
use zvon::{ErrorKind, Remote, Replica, SyncOptions};

const TABLES: &str = "CREATE TABLE author (id TEXT PRIMARY KEY, name TEXT);
                      CREATE TABLE note (id TEXT PRIMARY KEY, author TEXT REFERENCES author (id), n INTEGER)";
const URL: &str = "faulty://store";

fn honest(store: &Arc<InMemory>) -> Remote {
    Remote::from_store(URL, store.clone(), "base").unwrap()
}

/// Two replicas that have met, with news on both sides and on the remote.
async fn with_news() -> (Replica, Replica, Arc<InMemory>) {
    let store = Arc::new(InMemory::new());
    let (a, b, remote) = (replica(TABLES).await, replica(TABLES).await, honest(&store));
    run(&a, "INSERT INTO author VALUES ('x', 'Xenia'); INSERT INTO note VALUES ('1', 'x', 1), ('2', 'x', 2)");
    sync(&a, &remote).await;
    sync(&b, &remote).await;
    run(&a, "UPDATE note SET n = 10 WHERE id = '1'; DELETE FROM note WHERE id = '2'");
    run(&a, "INSERT INTO note VALUES ('3', 'x', 3), ('4', 'x', 4), ('5', 'x', 5)");
    sync(&a, &remote).await;
    run(&b, "INSERT INTO author VALUES ('y', 'Yann'); INSERT INTO note VALUES ('6', 'y', 6), ('7', 'y', 7)");
    run(&b, "UPDATE author SET name = 'Xena' WHERE id = 'x'");
    (a, b, store)
}

/// The rows that both have in the end, whatever happened on the way.
async fn assert_whole(a: &Replica, b: &Replica, store: &Arc<InMemory>) {
    let remote = honest(store);
    converge(&[b, a], &remote).await;
    for replica in [a, b] {
        assert_eq!(table(replica, "author"), ["'x'|'Xena'", "'y'|'Yann'"]);
        let notes = ["'1'|'x'|10", "'3'|'x'|3", "'4'|'x'|4", "'5'|'x'|5", "'6'|'y'|6", "'7'|'y'|7"];
        assert_eq!(table(replica, "note"), notes);
        assert_verified(replica, &remote).await;
        let idle = sync(replica, &remote).await;
        assert_eq!((idle.pulled, idle.pushed, idle.merged, idle.held), (0, 0, 0, 0));
        assert_eq!((idle.requests.get, idle.requests.put), (0, 0));
    }
    assert_eq!(a.status().await.unwrap().changes, b.status().await.unwrap().changes);
}

#[tokio::test]
async fn a_sync_dropped_at_any_request_loses_nothing() {
    for stop_at in 0.. {
        let (a, b, store) = with_news().await;
        let asked = Arc::new(Notify::new());
        let notice = Arc::clone(&asked);
        let hangs = move |n, _| if n == stop_at { Verdict::Hang(Arc::clone(&notice)) } else { Verdict::Pass };
        let remote = Remote::from_store(URL, FaultyStore::new(&store, hangs), "base").unwrap();
        let options = SyncOptions::default();
        let was_dropped = tokio::select! {
            done = b.sync(&remote, &options) => { done.unwrap(); false }
            () = asked.notified() => true,
        };
        assert_whole(&a, &b, &store).await;
        if !was_dropped {
            assert!(stop_at > 8, "a sync of so much news makes more than {stop_at} requests");
            return;
        }
    }
}

#[tokio::test]
async fn a_sync_dropped_after_any_step_loses_nothing() {
    // How often a sync waits differs with how busy the machine is: it ends when enough of them have.
    let (mut dropped, mut completed) = (0, 0);
    for steps in 0.. {
        let (a, b, store) = with_news().await;
        let (remote, options) = (honest(&store), SyncOptions::default());
        let done = {
            let mut sync = pin!(b.sync(&remote, &options));
            let mut left = steps;
            // The future is polled so many times and then dropped, wherever it is.
            poll_fn(|context| match sync.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        };
        assert_whole(&a, &b, &store).await;
        match done {
            Some(done) => {
                done.unwrap();
                completed += 1;
            }
            None => dropped += 1,
        }
        if completed == 10 {
            break;
        }
    }
    assert!(dropped > 10, "a sync waits more than {dropped} times");
}

/// Syncs until it works, which every attempt must bring nearer.
async fn sync_stubbornly(replica: &Replica, remote: &Remote) -> u32 {
    for failures in 0..200 {
        match replica.sync(remote, &SyncOptions::default()).await {
            Ok(_) => return failures,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
                assert!(error.to_string().contains(URL), "{error}");
            }
        }
    }
    panic!("two hundred syncs came to no end");
}

#[tokio::test]
async fn requests_that_fail_before_or_after_they_acted_lose_nothing() {
    for fault in [Verdict::FailBefore, Verdict::FailAfter] {
        for every in [3, 4, 5, 7] {
            let (a, b, store) = with_news().await;
            let rule = fault.clone();
            let fails = move |n, _| if n % every == every - 1 { rule.clone() } else { Verdict::Pass };
            let faulty = FaultyStore::new(&store, fails);
            let remote = Remote::from_store(URL, faulty.clone(), "base").unwrap();
            assert!(sync_stubbornly(&b, &remote).await > 0);
            sync_stubbornly(&a, &remote).await;
            let newcomer = replica(TABLES).await;
            sync_stubbornly(&newcomer, &remote).await;
            assert_whole(&a, &b, &store).await;
            assert_whole(&newcomer, &b, &store).await;
            assert!(faulty.requests() > 20);
        }
    }
}

#[tokio::test]
async fn a_pull_keeps_what_arrived_before_a_request_failed() {
    let store = Arc::new(InMemory::new());
    let (a, b) = (replica(TABLES).await, replica(TABLES).await);
    run(&a, "INSERT INTO author VALUES ('1', 'a'), ('2', 'a'), ('3', 'a'), ('4', 'a'), ('5', 'a'), ('6', 'a')");
    sync(&a, &honest(&store)).await;
    // After one listing and one identity come the changes.
    let fails = |n, _| if n == 5 { Verdict::FailBefore } else { Verdict::Pass };
    let remote = Remote::from_store(URL, FaultyStore::new(&store, fails), "base").unwrap();
    assert_eq!(b.sync(&remote, &SyncOptions::default()).await.unwrap_err().kind(), ErrorKind::Remote);
    assert_eq!(b.status().await.unwrap().changes, 3);
    assert_eq!(sync(&b, &remote).await.pulled, 3);
    assert_eq!(table(&a, "author"), table(&b, "author"));
}

/// Futures that cannot move between threads cannot be spawned: this is found out by the compiler.
#[tokio::test]
async fn every_call_can_be_spawned() {
    fn spawnable<T: Send + 'static>(_: impl Future<Output = T> + Send) {}
    let (replica, remote) = (replica(TABLES).await, fresh_remote());
    spawnable(replica.sync(&remote, &SyncOptions::default()));
    spawnable(replica.verify_remote(&remote));
    spawnable(replica.verify());
    spawnable(replica.track(&["note"], &keyed()));
    spawnable(replica.status());
    spawnable(replica.log(None, None, 1));
    spawnable(replica.conflicts());
    spawnable(replica.restore_conflict(1));
    spawnable(replica.held());
    spawnable(replica.untrack(&["note"]));
    spawnable(Replica::clone_from(&remote, "clone.db", zvon::Settings::default(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_database_synced_twice_at_once_stays_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.db");
    let (store, other) = (Arc::new(InMemory::new()), replica(TABLES).await);
    let one = Replica::init(&path).unwrap();
    run(&one, TABLES);
    one.track_all(&keyed()).await.unwrap();
    let two = Replica::open(&path).unwrap();
    converge(&[&one, &other], &honest(&store)).await;
    for round in 0..25 {
        let writer = [&one, &two][round % 2];
        run(writer, &format!("INSERT INTO author VALUES ('mine-{round}', 'a'), ('also-{round}', 'b')"));
        run(writer, &format!("DELETE FROM author WHERE id = 'also-{}'", round / 2));
        run(&other, &format!("INSERT INTO author VALUES ('theirs-{round}', 'c')"));
        run(&other, "UPDATE author SET name = name || '.' WHERE id GLOB 'mine-*[05]'");
        let syncs = [&one, &two, &other].map(|replica| {
            let (replica, remote) = (replica.clone(), honest(&store));
            tokio::spawn(async move { sync(&replica, &remote).await })
        });
        for sync in syncs {
            sync.await.unwrap();
        }
    }
    converge(&[&one, &two, &other], &honest(&store)).await;
    assert_eq!(table(&one, "author").len(), 25 * 3 - 13);
    assert_eq!(table(&one, "author"), table(&other, "author"));
    for replica in [&one, &two, &other] {
        assert_verified(replica, &honest(&store)).await;
        let idle = sync(replica, &honest(&store)).await;
        assert_eq!((idle.pulled, idle.pushed, idle.merged, idle.requests.put), (0, 0, 0, 0));
    }
    let log = rows(&one.connection(), "SELECT count(*) - count(DISTINCT change_id) FROM ZV_SEQUENCE");
    assert_eq!(log, ["0"], "no change is in the log twice");
}

/// A clone that dies before it has written anything leaves an empty file, or a replica of nothing.
#[tokio::test]
async fn a_clone_that_was_cut_off_at_its_very_beginning_goes_on() {
    let schema = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";
    let (source, remote) = (replica(schema).await, fresh_remote());
    run(&source, "INSERT INTO note VALUES ('a', 'x')");
    sync(&source, &remote).await;
    let home = tempfile::tempdir().unwrap();
    let (empty, bare) = (home.path().join("empty.db"), home.path().join("bare.db"));
    std::fs::File::create(&empty).unwrap();
    drop(Replica::init(&bare).unwrap());
    for path in [&empty, &bare] {
        let (clone, _) = Replica::clone_from(&remote, path, zvon::Settings::default(), None).await.unwrap();
        assert_eq!(table(&clone, "note"), table(&source, "note"));
    }
    // What has anything of its own is left alone.
    let other = home.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let error = Replica::clone_from(&remote, &other, zvon::Settings::default(), None).await.err().unwrap();
    assert_eq!(error.kind(), zvon::ErrorKind::Database);
}

/// A clone of a replica that stood already, with the same remote saved, tracked what its owner did not track, and published it.
#[tokio::test]
async fn a_clone_onto_a_replica_that_stands_is_refused_and_one_that_was_cut_off_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (a, store) = (replica(TABLES).await, Arc::new(InMemory::new()));
    run(&a, "INSERT INTO author VALUES ('x', 'Xenia')");
    sync(&a, &honest(&store)).await;
    let clone = async |name: &str, remote: &Remote| {
        Replica::clone_from(remote, home.path().join(name), zvon::Settings::default(), None).await
    };
    // Its owner never tracked his authors, or does so no longer.
    let mine = Replica::init(home.path().join("mine.db")).unwrap();
    run(&mine, TABLES);
    run(&mine, "INSERT INTO author VALUES ('mine', 'Mine')");
    mine.set_default_remote(URL).unwrap();
    let (other, _) = clone("other.db", &honest(&store)).await.unwrap();
    other.untrack(&["author"]).await.unwrap();
    for name in ["mine.db", "other.db"] {
        let error = clone(name, &honest(&store)).await.err().unwrap();
        assert!(error.kind() == ErrorKind::Database && error.to_string().contains("`zvon sync`"), "{error}");
    }
    assert!(mine.status().await.unwrap().tables.is_empty());
    for stop_at in 0.. {
        let name = format!("{stop_at}.db");
        let fails = move |n, _| if n == stop_at { Verdict::FailBefore } else { Verdict::Pass };
        let faulty = Remote::from_store(URL, FaultyStore::new(&store, fails), "base").unwrap();
        let failed = clone(&name, &faulty).await.is_err();
        if !failed {
            assert!(stop_at > 4);
            break;
        }
        let (whole, _) = clone(&name, &honest(&store)).await.unwrap();
        assert_eq!(table(&whole, "author"), table(&a, "author"));
    }
}

/// A table that only begins like ours was taken for one of ours, and its database for an empty one.
#[tokio::test]
async fn a_clone_leaves_a_table_alone_that_is_named_almost_like_ours() {
    let home = tempfile::tempdir().unwrap();
    let (source, remote) = (replica(TABLES).await, fresh_remote());
    sync(&source, &remote).await;
    for name in ["zv_diary", "ZV_DIARY"] {
        let path = home.path().join(name);
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch(&format!("CREATE TABLE {name} (x)")).unwrap();
        let error = Replica::clone_from(&remote, &path, zvon::Settings::default(), None).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Database);
        assert_eq!(rows(&conn, "SELECT name FROM sqlite_schema"), [format!("'{name}'")]);
    }
}

/// Seed 1205430 of the simulation: the other sync saw an old, empty listing, forgot all places and failed; the first then recorded
/// that it had pushed all, and a file that had been there was missed by nobody once it was gone.
#[tokio::test]
async fn what_another_sync_forgot_meanwhile_is_not_taken_for_pushed() {
    let (home, store) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let path = home.path().join("a.db");
    let (a, twin) = (Replica::init(&path).unwrap(), Replica::open(&path).unwrap());
    run(&a, TABLES);
    a.track_all(&keyed()).await.unwrap();
    sync(&a, &honest(&store)).await;
    let through = |store: &Arc<FaultyStore>| Remote::from_store(URL, store.clone(), "base").unwrap();

    let before = store_names(&store).await;
    run(&a, "INSERT INTO author VALUES ('x', 'Xenia')");
    let unlucky = FaultyStore::new(&store, |_, request| match request {
        Request::Put => Verdict::FailAfter,
        _ => Verdict::Pass,
    });
    a.sync(&through(&unlucky), &SyncOptions::default()).await.unwrap_err();
    let there: Vec<_> = store_names(&store).await.into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(there.len(), 1, "{there:?}");

    run(&a, "INSERT INTO author VALUES ('y', 'Yann')");
    let (waiting, barrier, asked) = waiting_at(&store, |request| matches!(request, Request::Put));
    let empty = FaultyStore::new(&Arc::new(InMemory::new()), |_, request| match request {
        Request::Put => Verdict::FailBefore,
        _ => Verdict::Pass,
    });
    let (remote, options) = (through(&waiting), SyncOptions::default());
    let other = async {
        while !asked.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        twin.sync(&through(&empty), &SyncOptions::default()).await.unwrap_err();
        barrier.wait().await;
    };
    let (first, ()) = tokio::join!(a.sync(&remote, &options), other);
    assert_eq!(first.unwrap().pushed, 1);

    store.delete(&there[0]).await.unwrap();
    sync(&a, &honest(&store)).await;
    assert!(store_names(&store).await.contains(&there[0]), "nobody misses it");
    assert_verified(&a, &honest(&store)).await;
}

/// Seed 706452 of the simulation: one sync had listed a file, another one then missed it, and could not put it back; the first took it
/// off the list of what is to be put back, as its own listing had it.
#[tokio::test]
async fn what_another_sync_missed_meanwhile_is_put_back() {
    let (home, store) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let path = home.path().join("a.db");
    let (a, twin) = (Replica::init(&path).unwrap(), Replica::open(&path).unwrap());
    let other = Replica::in_memory().unwrap();
    for replica in [&a, &other] {
        run(replica, TABLES);
        replica.track_all(&keyed()).await.unwrap();
        sync(replica, &honest(&store)).await;
    }
    let through = |store: &Arc<FaultyStore>| Remote::from_store(URL, store.clone(), "base").unwrap();
    let before = store_names(&store).await;
    run(&a, "INSERT INTO author VALUES ('x', 'Xenia')");
    sync(&a, &honest(&store)).await;
    let there: Vec<_> = store_names(&store).await.into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(there.len(), 1, "{there:?}");
    run(&other, "INSERT INTO author VALUES ('z', 'Zoe')");
    sync(&other, &honest(&store)).await;

    // It has listed, and reads what is new, when the file goes and the other one lists.
    let (waiting, barrier, asked) = waiting_at(&store, |request| matches!(request, Request::Get));
    let unlucky = FaultyStore::new(&store, |_, request| match request {
        Request::Put => Verdict::FailBefore,
        _ => Verdict::Pass,
    });
    let (remote, options) = (through(&waiting), SyncOptions::default());
    let second = async {
        while !asked.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        store.delete(&there[0]).await.unwrap();
        twin.sync(&through(&unlucky), &SyncOptions::default()).await.unwrap_err();
        barrier.wait().await;
    };
    let (first, ()) = tokio::join!(a.sync(&remote, &options), second);
    first.unwrap();
    sync(&a, &honest(&store)).await;
    assert!(store_names(&store).await.contains(&there[0]), "nobody misses it");
    assert_verified(&a, &honest(&store)).await;
}

/// A store that waits at the first request of a kind, the barrier where it does, and whether it was asked.
fn waiting_at(store: &Arc<InMemory>, is_it: fn(Request) -> bool) -> (Arc<FaultyStore>, Arc<Barrier>, Arc<AtomicBool>) {
    let (barrier, asked) = (Arc::new(Barrier::new(2)), Arc::new(AtomicBool::new(false)));
    let (meeting, notice) = (Arc::clone(&barrier), Arc::clone(&asked));
    let waiting =
        FaultyStore::new(store, move |_, request| match is_it(request) && !notice.swap(true, Ordering::SeqCst) {
            true => Verdict::Meet(Arc::clone(&meeting)),
            false => Verdict::Pass,
        });
    (waiting, barrier, asked)
}

async fn store_names(store: &Arc<InMemory>) -> Vec<Path> {
    store.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap()
}
