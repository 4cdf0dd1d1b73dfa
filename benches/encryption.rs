//! What encryption costs where it is felt: a push of 100,000 changes in packs, and a clone from them, plain and encrypted by turns.
//!
//! `cargo bench --bench encryption` prints the best of several rounds, with the goal beside it.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use zvon::{Lock, Remote, RemoteOptions, Replica, Secret, Settings, SyncOptions, TrackOptions};

const ROUNDS: usize = 5;
const ROWS: usize = 100_000;
const SCHEMA: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, title TEXT, body TEXT, n INTEGER, price REAL)";

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut best = [[Duration::MAX; 2]; 2];
    for round in 0..ROUNDS {
        for (at, secret) in [None, Some(Secret::generate())].into_iter().enumerate() {
            let [push, clone] = runtime.block_on(once(round, at, secret));
            best[at] = [best[at][0].min(push), best[at][1].min(clone)];
        }
    }
    for (what, step) in [("push", 0), ("clone", 1)] {
        let (plain, encrypted) = (best[0][step], best[1][step]);
        let more = (encrypted.as_secs_f64() / plain.as_secs_f64() - 1.0) * 100.0;
        println!(
            "{what} of {ROWS} changes: {plain:?} plain, {encrypted:?} encrypted, {more:+.1} % (goal for a clone: at most +10 %)"
        );
    }
}

async fn once(round: usize, at: usize, secret: Option<Secret>) -> [Duration; 2] {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::from_url(&format!("memory://bench-{round}-{at}/x"), &RemoteOptions::default()).unwrap();
    let replica = Replica::init(folder.path().join("a.db")).unwrap();
    replica.connection().execute_batch(SCHEMA).unwrap();
    let fill = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO item SELECT printf('item-%08d', i), 'title ' || i, hex(randomblob(50)), i, i / 7.0 FROM n";
    replica.connection().execute(fill, [ROWS]).unwrap();
    replica.track(&["item"], &TrackOptions::default()).await.unwrap();
    let remote = match secret {
        Some(secret) => {
            let lock = Lock::Recipients(secret.recipients());
            let remote = remote.with_secret(secret);
            replica.encrypt_remote(&remote, &lock).await.unwrap();
            remote
        }
        None => remote,
    };
    let started = Instant::now();
    replica.sync(&remote, &SyncOptions::default()).await.unwrap();
    let push = started.elapsed();
    let started = Instant::now();
    let path = folder.path().join("b.db");
    let (_, report) = Replica::clone_from(&remote, path, Settings::default(), None).await.unwrap();
    let clone = started.elapsed();
    assert_eq!(report.pulled, ROWS as u64);
    [push, clone]
}
