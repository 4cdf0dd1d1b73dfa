//! What encryption costs where it is felt: a push of 100,000 changes in packs, and a clone from them, plain and encrypted by turns.
//!
//! `cargo bench --bench encryption` prints the best of several rounds, with the goal beside it: by the clock, and by what the
//! processor worked, which other programs disturb less.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use zvon::{Lock, Remote, RemoteOptions, Replica, Secret, Settings, SyncOptions, TrackOptions};

const ROUNDS: usize = 5;
const ROWS: usize = 100_000;
const SCHEMA: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, title TEXT, body TEXT, n INTEGER, price REAL)";

/// What a step took: by the clock, and the processor's time.
type Cost = [Duration; 2];

fn main() {
    let runtime = Runtime::new().unwrap();
    // Plain and encrypted, then push and clone.
    let mut best = [[[Duration::MAX; 2]; 2]; 2];
    for round in 0..ROUNDS {
        for (at, secret) in [None, Some(Secret::generate())].into_iter().enumerate() {
            let costs = runtime.block_on(once(round, at, secret));
            for (best, cost) in best[at].as_flattened_mut().iter_mut().zip(costs.as_flattened()) {
                *best = (*best).min(*cost);
            }
        }
    }
    for (step, what) in ["push", "clone"].into_iter().enumerate() {
        for (measure, by) in ["by the clock", "processor"].into_iter().enumerate() {
            let (plain, encrypted) = (best[0][step][measure], best[1][step][measure]);
            let more = (encrypted.as_secs_f64() / plain.as_secs_f64() - 1.0) * 100.0;
            println!("{what} of {ROWS} changes, {by}: {plain:.2?} plain, {encrypted:.2?} encrypted, {more:+.1} %");
        }
    }
    println!("goal for a clone: at most +10 %");
}

/// What the processor has worked for this process; nothing where the system does not tell.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the command's name, which may hold anything; user and system time in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

fn measured(started: (Instant, Duration)) -> Cost {
    [started.0.elapsed(), processor_time() - started.1]
}

fn now() -> (Instant, Duration) {
    (Instant::now(), processor_time())
}

async fn once(round: usize, at: usize, secret: Option<Secret>) -> [Cost; 2] {
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
    let started = now();
    replica.sync(&remote, &SyncOptions::default()).await.unwrap();
    let push = measured(started);
    let started = now();
    let path = folder.path().join("b.db");
    let (_, report) = Replica::clone_from(&remote, path, Settings::default(), None).await.unwrap();
    let clone = measured(started);
    assert_eq!(report.pulled, ROWS as u64);
    [push, clone]
}
