//! What the benches share: times by name, replicas tuned as an application would, and the time of one phase of a sync.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::Criterion;
use rusqlite::Connection;
use tokio::runtime::Runtime;
use zvon::{Phase, Remote, RemoteOptions, Replica, SyncOptions};

/// The shortest time of each measurement, by name: what the machine can do when nobody else wants it.
static BEST: Mutex<BTreeMap<String, Duration>> = Mutex::new(BTreeMap::new());

pub fn measure(c: &mut Criterion, name: &str, mut once: impl FnMut() -> Duration) {
    let mut group = c.benchmark_group("zvon");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(1));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                let time = once();
                total += time;
                let mut best = BEST.lock().unwrap();
                let entry = best.entry(name.to_owned()).or_insert(time);
                *entry = time.min(*entry);
            }
            total
        });
    });
    group.finish();
}

pub fn tune(conn: &Connection) {
    conn.pragma_update(None, "journal_mode", "wal").unwrap();
    conn.pragma_update(None, "synchronous", "normal").unwrap();
}

pub fn memory(name: &str) -> Remote {
    static NEXT: Mutex<u32> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    Remote::from_url(&format!("memory://bench-{name}-{next}/base"), &RemoteOptions::default()).unwrap()
}

/// When a phase was first and last heard of.
pub type Seen = Arc<Mutex<Option<(Instant, Instant)>>>;

/// A replica that notes when a phase began and when it was last heard of.
pub fn watched(replica: Replica, phase: Phase) -> (Replica, Seen) {
    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    let replica = replica.on_progress(move |progress| {
        if progress.phase == phase {
            let now = Instant::now();
            let mut seen = noted.lock().unwrap();
            *seen = Some((seen.map_or(now, |(first, _)| first), now));
        }
    });
    (replica, seen)
}

pub fn sync(runtime: &Runtime, replica: &Replica, remote: &Remote) {
    runtime.block_on(replica.sync(remote, &SyncOptions::default())).unwrap();
}

pub fn best(name: &str) -> Option<f64> {
    BEST.lock().unwrap().get(name).map(Duration::as_secs_f64)
}

pub fn ratio(what: &str, of: &str, over: &str, goal: &str) {
    if let (Some(of), Some(over)) = (best(of), best(over)) {
        println!("{what:<56} {:>10.2}x  goal {goal}", of / over);
    }
}
