//! What a fleet of replicas costs a month: a real replica syncs and compacts against a store that counts requests as a bucket
//! bills them, while the edits of the others arrive there at their rate. Prints the table of `docs/scaling.md`.
//!
//! `cargo bench --bench scaling`. Two hours of the fleet's time are played, the second of which counts.

#[path = "../tests/common/counting_store.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod counting_store;
#[path = "../tests/common/wall.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wall;

use std::time::Duration;

use counting_store::{CountingStore, Counts};
use serde_json::json;
use wall::{DAY_MS, START_MS, Wall};
use zvon::{CompactOptions, Replica, Settings, SyncOptions, TrackOptions};

/// Amazon S3, us-east-1, standard class, 2026: dollars for a thousand requests, and for a gigabyte that leaves.
const PUT_OR_LIST: f64 = 0.005 / 1e3;
const GET: f64 = 0.0004 / 1e3;
const OUT: f64 = 0.09 / 1e9;
const HOURS_A_MONTH: f64 = 730.0;

/// What the tests call these; here they are this file's own.
fn keyed() -> TrackOptions {
    let mut options = TrackOptions::default();
    options.identity_key = true;
    options
}

/// A fleet: how many replicas, how often each looks, how many edits each makes in an hour.
struct Fleet {
    replicas: f64,
    poll_s: u64,
    edits: f64,
}

/// What the second hour cost the whole fleet.
#[derive(Default)]
struct Hour {
    list: f64,
    get: f64,
    put: f64,
    delete: f64,
    bytes_out: f64,
    objects: usize,
}

impl Hour {
    fn add(&mut self, counts: Counts, times: f64) {
        self.list += counts.list as f64 * times;
        self.get += counts.get as f64 * times;
        self.put += counts.put as f64 * times;
        self.delete += counts.delete as f64 * times;
    }

    fn dollars(&self) -> f64 {
        ((self.list + self.put) * PUT_OR_LIST + self.get * GET + self.bytes_out * OUT) * HOURS_A_MONTH
    }
}

async fn play(fleet: &Fleet) -> Hour {
    let (store, wall) = (CountingStore::default(), Wall::at(START_MS));
    let mut settings = Settings::default();
    settings.world = wall.world(1);
    settings.max_clock_drift = Duration::from_millis(1_000 * DAY_MS);
    let replica = Replica::in_memory().unwrap().with_settings(settings);
    wall.install(&replica.connection());
    replica.connection().execute_batch("CREATE TABLE n (id TEXT PRIMARY KEY, v TEXT)").unwrap();
    replica.track(&["n"], &keyed()).await.unwrap();
    // It is one of the fleet before any of them writes.
    replica.sync(&store.remote(), &SyncOptions::default()).await.unwrap();
    let mut if_due = CompactOptions::default();
    if_due.only_if_due = true;
    let (mut hour, mut own, mut theirs, mut number) = (Hour::default(), 0.0, 0.0, 0_u64);
    for tick in 1..=2 * 3_600 / fleet.poll_s {
        wall.set(START_MS + tick * fleet.poll_s * 1_000);
        let counts = tick * fleet.poll_s > 3_600;
        let share = fleet.edits * fleet.poll_s as f64 / 3_600.0;
        own += share;
        theirs += share * (fleet.replicas - 1.0);
        while theirs >= 1.0 {
            theirs -= 1.0;
            number += 1;
            let (name, bytes) = edit(wall.now_ms(), number);
            store.plant(&name, bytes).await;
            hour.put += f64::from(u8::from(counts));
        }
        while own >= 1.0 {
            own -= 1.0;
            number += 1;
            let conn = replica.connection();
            conn.execute("INSERT INTO n VALUES (?1, 'a value of forty characters or about so')", [number]).unwrap();
        }
        store.take();
        let report = replica.sync(&store.remote(), &SyncOptions::default()).await.unwrap();
        if counts {
            // The others' own objects are counted above, as they are planted.
            let mut each = store.take();
            hour.put += each.put as f64;
            each.put = 0;
            hour.add(each, fleet.replicas);
            hour.bytes_out += report.bytes_in as f64 * fleet.replicas;
        }
        if report.compaction_due {
            let compacted = replica.compact(&store.remote(), &if_due).await.unwrap();
            // Who comes first does it for all; each of the others reads the new pack's header once.
            if counts {
                hour.add(store.take(), 1.0);
                hour.bytes_out += compacted.bytes_written as f64 * fleet.replicas;
                hour.get += compacted.written_packs as f64 * fleet.replicas;
            }
        }
    }
    hour.objects = store.names("").await.len();
    hour
}

/// Another replica's edit.
fn edit(now_ms: u64, number: u64) -> (String, Vec<u8>) {
    let id = format!("{:08x}-{:04x}-7000-8000-{number:012x}", now_ms >> 16, now_ms & 0xFFFF);
    let change = json!([id, "019b76da-a800-7000-8000-00000000000a", "n", number.to_string(), false]);
    let file = json!([change, [["v", "a value of forty characters or about so"]]]);
    (format!("changes/{id}.msgpack"), rmp_serde::to_vec(&file).unwrap())
}

#[tokio::main]
async fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    println!(
        "| replicas | each polls every | edits an hour, each | LIST an hour | GET | PUT | objects at its end | dollars a month |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for replicas in [2.0, 10.0, 100.0, 10_000.0] {
        for edits in [1.0, 30.0] {
            for poll_s in [5, 60, 600] {
                if replicas * edits > 20_000.0 {
                    continue;
                }
                let fleet = Fleet { replicas, poll_s, edits };
                let hour = play(&fleet).await;
                println!(
                    "| {replicas} | {poll_s} s | {edits} | {:.0} | {:.0} | {:.0} | {} | {:.2} |",
                    hour.list,
                    hour.get,
                    hour.put,
                    hour.objects,
                    hour.dollars()
                );
            }
        }
    }
}
