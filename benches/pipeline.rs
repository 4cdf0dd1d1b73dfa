//! What capture, seal, push, pull and merge cost: each against plain SQLite or a rate, in one run.
//!
//! `cargo bench` prints criterion's own figures, then a table of ratios and rates with the goals beside them.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use criterion::{Criterion, criterion_group};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zvon::{Phase, Replica, Settings, TrackOptions};

const ROWS: usize = 100_000;
const SCHEMA: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, title TEXT, body TEXT, n INTEGER, price REAL)";

fn uuid(n: usize) -> String {
    format!(
        "019a9f3c-{:04x}-7{:03x}-8000-{:012x}",
        n >> 12 & 0xFFFF,
        n & 0xFFF,
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF
    )
}

fn plain(dir: &TempDir, name: &str) -> Connection {
    let conn = Connection::open(dir.path().join(name)).unwrap();
    tune(&conn);
    conn.execute_batch(SCHEMA).unwrap();
    conn
}

fn tracked(runtime: &Runtime, path: &Path) -> Replica {
    let replica = Replica::init(path).unwrap();
    tune(&replica.connection());
    replica.connection().execute_batch(SCHEMA).unwrap();
    runtime.block_on(replica.track(&["item"], &TrackOptions::default())).unwrap();
    replica
}

fn insert(conn: &Connection, rows: usize) {
    let body = "x".repeat(100);
    conn.execute_batch("BEGIN").unwrap();
    let mut statement = conn.prepare("INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5)").unwrap();
    for n in 0..rows {
        statement.execute(params![uuid(n), "a title", body, n as i64, n as f64 * 0.25]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

fn update(conn: &Connection, rows: usize, title: &str) {
    conn.execute_batch("BEGIN").unwrap();
    let mut statement = conn.prepare("UPDATE item SET title = ?2 WHERE id = ?1").unwrap();
    for n in 0..rows {
        statement.execute(params![uuid(n), title]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

fn update_hot(conn: &Connection, rows: usize, hot: usize) {
    update(conn, rows - hot, "new");
    conn.execute_batch("BEGIN").unwrap();
    let mut statement = conn.prepare("UPDATE item SET n = ?2 WHERE id = ?1").unwrap();
    for n in 0..hot {
        statement.execute(params![uuid(7), 1_000_000 + n as i64]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

fn delete(conn: &Connection, rows: usize) {
    conn.execute_batch("BEGIN").unwrap();
    let mut statement = conn.prepare("DELETE FROM item WHERE id = ?1").unwrap();
    for n in 0..rows {
        statement.execute(params![uuid(n)]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

fn single(conn: &Connection, rows: usize) {
    let mut statement = conn.prepare("INSERT INTO item VALUES (?1, 'a title', ?2, 1, 0.5)").unwrap();
    let body = "x".repeat(100);
    for n in 0..rows {
        statement.execute(params![uuid(n), body]).unwrap();
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn capture(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for (kind, is_tracked) in [("plain", false), ("tracked", true)] {
        let with_db = |work: &dyn Fn(&Connection) -> Duration| {
            let dir = TempDir::new().unwrap();
            if is_tracked {
                let replica = tracked(&runtime, &dir.path().join("a.db"));
                work(&replica.connection())
            } else {
                work(&plain(&dir, "a.db"))
            }
        };
        measure(c, &format!("insert/{kind}"), || with_db(&|conn| timed(|| insert(conn, ROWS))));
        measure(c, &format!("update/{kind}"), || {
            with_db(&|conn| {
                insert(conn, ROWS);
                timed(|| update(conn, ROWS, "new"))
            })
        });
        measure(c, &format!("delete/{kind}"), || {
            with_db(&|conn| {
                insert(conn, ROWS);
                timed(|| delete(conn, ROWS / 2))
            })
        });
        measure(c, &format!("single/{kind}"), || with_db(&|conn| timed(|| single(conn, 5_000))));
    }
}

/// The least that a trigger can cost: one integer into a table of its own. What capture adds is to be read beside it.
fn floor(c: &mut Criterion) {
    measure(c, "single/least trigger", || {
        let dir = TempDir::new().unwrap();
        let conn = plain(&dir, "a.db");
        let sql = "CREATE TABLE j (n INTEGER PRIMARY KEY); \
                   CREATE TRIGGER least AFTER INSERT ON item BEGIN INSERT INTO j VALUES (NULL); END";
        conn.execute_batch(sql).unwrap();
        timed(|| single(&conn, 5_000))
    });
}

fn transfer(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    measure(c, "seal and push", || {
        let dir = TempDir::new().unwrap();
        let replica = tracked(&runtime, &dir.path().join("a.db"));
        let remote = memory("push");
        insert(&replica.connection(), ROWS);
        timed(|| sync(&runtime, &replica, &remote))
    });
    for rows in [10_000, ROWS] {
        let dir = TempDir::new().unwrap();
        let source = tracked(&runtime, &dir.path().join("source.db"));
        let remote = memory("pull");
        insert(&source.connection(), rows);
        sync(&runtime, &source, &remote);
        measure(c, &format!("pull and merge/{rows}"), || {
            let dir = TempDir::new().unwrap();
            let replica = tracked(&runtime, &dir.path().join("a.db"));
            timed(|| sync(&runtime, &replica, &remote))
        });
    }
    for (name, hot) in [("merge updates", 0), ("merge updates, one row hot", 10_000)] {
        measure(c, name, || {
            let dir = TempDir::new().unwrap();
            let (source, remote) = (tracked(&runtime, &dir.path().join("s.db")), memory("updates"));
            insert(&source.connection(), ROWS);
            sync(&runtime, &source, &remote);
            let (replica, seen) = watched(tracked(&runtime, &dir.path().join("a.db")), Phase::Merge);
            sync(&runtime, &replica, &remote);
            update_hot(&source.connection(), ROWS, hot);
            sync(&runtime, &source, &remote);
            *seen.lock().unwrap() = None;
            sync(&runtime, &replica, &remote);
            let (first, last) = seen.lock().unwrap().expect("a sync merges");
            last - first
        });
    }
}

/// The size of a database with its whole log, over the same rows in a plain one, both after VACUUM.
fn size() -> f64 {
    let runtime = Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let conn = plain(&dir, "plain.db");
    insert(&conn, ROWS);
    let replica = tracked(&runtime, &dir.path().join("tracked.db"));
    insert(&replica.connection(), ROWS);
    sync(&runtime, &replica, &memory("size"));
    let pages = |conn: &Connection| -> f64 {
        conn.execute_batch("VACUUM").unwrap();
        conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
    };
    let tracked = pages(&replica.connection());
    tracked / pages(&conn)
}

/// The cost of a change while the log grows: a million changes in all, in a folder of its own.
fn growth(rows: usize) -> (f64, f64) {
    let runtime = Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let source = tracked(&runtime, &dir.path().join("s.db"));
    let remote = memory("growth");
    insert(&source.connection(), rows);
    let push = timed(|| sync(&runtime, &source, &remote));
    let replica = tracked(&runtime, &dir.path().join("a.db")).with_settings(Settings::default());
    let pull = timed(|| sync(&runtime, &replica, &remote));
    (push.as_secs_f64() * 1e6 / rows as f64, pull.as_secs_f64() * 1e6 / rows as f64)
}

fn rate(what: &str, name: &str, goal: &str) {
    if let Some(time) = best(name) {
        println!("{what:<56} {:>10.0}/s goal {goal}", ROWS as f64 / time);
    }
}

criterion_group!(benches, capture, floor, transfer);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    println!();
    ratio("tracked over untracked, 100,000 inserts", "insert/tracked", "insert/plain", "3x");
    ratio("tracked over untracked, 100,000 updates by key", "update/tracked", "update/plain", "2.5x");
    ratio("tracked over untracked, 50,000 deletes by key", "delete/tracked", "delete/plain", "3x");
    ratio("tracked over untracked, single-row transactions", "single/tracked", "single/plain", "1.3x");
    ratio("the least trigger over none, single-row transactions", "single/least trigger", "single/plain", "the floor");
    rate("seal and push of 100,000 changes", "seal and push", "100,000/s");
    ratio("pull and merge of 100,000 rows over a plain insert", "pull and merge/100000", "insert/plain", "8x");
    rate("merge of 100,000 updates", "merge updates", "150,000/s");
    rate("the same, 10,000 of them to one row", "merge updates, one row hot", "no slower");
    if std::env::args().any(|arg| arg == "--bench") && std::env::var_os("ZVON_BENCH_QUICK").is_none() {
        println!("{:<56} {:>10.2}x  goal 4x", "database with the whole log over the plain table", size());
        let costs: Vec<(usize, (f64, f64))> =
            [10_000, 100_000, 1_000_000].into_iter().map(|rows| (rows, growth(rows))).collect();
        for (rows, (push, pull)) in costs {
            println!(
                "{:<56} {push:>6.2} µs to push, {pull:>6.2} µs to pull and merge",
                format!("a change, of {rows} in all")
            );
        }
    }
}
