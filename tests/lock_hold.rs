//! How long a sync that has much to do keeps other programs from writing: the lock is held for a batch at a time, and who waits
//! for it with SQLite's own patience gets it soon.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rusqlite::{Connection, ErrorCode};
use zvon::{Remote, Replica, SyncOptions};

const ITEM: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, title TEXT, n INTEGER)";
const ROWS: usize = 60_000;
/// A turn is two seconds while nobody was seen to write, then there is a rest; a machine that runs other tests is slower.
const BOUND: Duration = Duration::from_secs(4);

/// What a program saw of the lock while a sync ran.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    commits: u64,
    longest: Duration,
}

/// Writes now and then, and leaves the waiting to SQLite; a default in many drivers is five seconds.
fn write_until(path: &Path, done: &AtomicBool) -> Seen {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(60)).unwrap();
    let mut seen = Seen::default();
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        conn.execute("INSERT INTO item VALUES ('mine-' || ?1, 'x', 0)", [seen.commits]).unwrap();
        seen.longest = seen.longest.max(began.elapsed());
        seen.commits += 1;
        thread::sleep(Duration::from_millis(20));
    }
    seen
}

/// Asks for the lock each millisecond: the longest time during which it was never to be had.
fn probe_until(path: &Path, done: &AtomicBool) -> Seen {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::ZERO).unwrap();
    let (mut seen, mut since) = (Seen::default(), Instant::now());
    while !done.load(Ordering::Relaxed) {
        match conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
            Ok(()) => {
                seen.longest = seen.longest.max(since.elapsed());
                seen.commits += 1;
                since = Instant::now();
            }
            Err(error) => assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy)),
        }
        thread::sleep(Duration::from_millis(1));
    }
    seen
}

fn file_replica(runtime: &tokio::runtime::Runtime, path: &Path) -> Replica {
    let replica = Replica::init(path).unwrap();
    replica.connection().execute_batch("PRAGMA journal_mode = wal").unwrap();
    run(&replica, ITEM);
    runtime.block_on(replica.track_all(&keyed())).unwrap();
    replica
}

fn fill(replica: &Replica, prefix: &str) {
    let sql = format!(
        "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS}) \
         INSERT INTO item SELECT '{prefix}' || n, 'a title', n FROM n"
    );
    run(replica, &sql);
}

/// A sync while one program writes and one only asks for the lock.
fn sync_beside(
    runtime: &tokio::runtime::Runtime,
    replica: &Replica,
    path: &Path,
    remote: &Remote,
    see: fn(&Path, &AtomicBool) -> Seen,
) -> Seen {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let seeing = scope.spawn(|| see(path, &done));
        let began = Instant::now();
        let synced = runtime.block_on(replica.sync(remote, &SyncOptions::default()));
        done.store(true, Ordering::Relaxed);
        let seen = seeing.join().unwrap();
        println!("{ROWS} rows synced in {:?} beside {seen:?}", began.elapsed());
        synced.unwrap();
        seen
    })
}

/// Pulled, merged, sealed and pushed: whoever writes meanwhile waits for a batch, and SQLite's way of asking does not starve.
#[test]
fn a_program_that_writes_waits_little_while_much_is_synced() {
    let (home, remote) = (tempfile::tempdir().unwrap(), fresh_remote());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (here, there) = (home.path().join("a.db"), home.path().join("b.db"));
    let (a, b) = (file_replica(&runtime, &here), file_replica(&runtime, &there));
    runtime.block_on(converge(&[&a, &b], &remote));
    fill(&b, "theirs-");
    runtime.block_on(sync(&b, &remote));
    fill(&a, "ours-");

    let writer = sync_beside(&runtime, &a, &here, &remote, write_until);
    assert!(writer.commits > 5, "{writer:?}");
    assert!(writer.longest < BOUND, "a writer waited {:?}", writer.longest);

    let prober = sync_beside(&runtime, &b, &there, &remote, probe_until);
    assert!(prober.commits > 5, "{prober:?}");
    assert!(prober.longest < BOUND, "the lock was not to be had for {:?}", prober.longest);

    runtime.block_on(converge(&[&a, &b], &remote));
    assert_eq!(table(&a, "item"), table(&b, "item"));
    runtime.block_on(assert_verified(&a, &remote));
}
