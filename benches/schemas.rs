//! What real schemas cost: UNIQUE, references and integer keys of their own, beside the same rows without.
//!
//! `cargo bench --bench schemas` prints criterion's own figures, then the ratios with the goals beside them.

mod common;

use std::path::Path;
use std::time::Duration;

use common::*;
use criterion::{Criterion, criterion_group};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zvon::{Phase, Remote, Replica, TrackOptions};

const ROWS: i64 = 100_000;
const OWNERS: i64 = 1_000;
const PLAIN: &str = "CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT, owner_id INTEGER, title TEXT, n INTEGER)";
const CONSTRAINED: &str = "CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT UNIQUE, owner_id INTEGER REFERENCES owner, title TEXT, n INTEGER)";
const UNIQUE: &str = "CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT UNIQUE, owner_id INTEGER, title TEXT, n INTEGER)";
const REFERS: &str = "CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT, owner_id INTEGER REFERENCES owner, title TEXT, n INTEGER)";

fn tracked(runtime: &Runtime, path: &Path, schema: &str) -> Replica {
    let replica = Replica::init(path).unwrap();
    tune(&replica.connection());
    replica.connection().execute_batch(schema).unwrap();
    runtime.block_on(replica.track_all(&TrackOptions::default())).unwrap();
    replica
}

fn insert(conn: &Connection, rows: i64) {
    conn.execute_batch("BEGIN").unwrap();
    let mut statement = conn.prepare("INSERT INTO owner (name) VALUES (?1)").unwrap();
    for n in 0..OWNERS {
        statement.execute([format!("owner {n}")]).unwrap();
    }
    let mut statement = conn.prepare("INSERT INTO item (code, owner_id, title, n) VALUES (?1, ?2, ?3, ?4)").unwrap();
    let title = "x".repeat(100);
    for n in 0..rows {
        let code = format!("{:08x}", n.wrapping_mul(0x9E37_79B1) & 0xFFFF_FFFF);
        statement.execute(params![code, n % OWNERS + 1, title, n]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

/// The time that one sync spends on merging.
fn merge_time(runtime: &Runtime, replica: &Replica, seen: &Seen, remote: &Remote) -> Duration {
    *seen.lock().unwrap() = None;
    sync(runtime, replica, remote);
    let (first, last) = seen.lock().unwrap().expect("a sync merges");
    last - first
}

/// New rows: with both constraints, with either, with none.
fn constraints(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for (name, schema) in [("none", PLAIN), ("unique", UNIQUE), ("reference", REFERS), ("both", CONSTRAINED)] {
        let dir = TempDir::new().unwrap();
        let (source, remote) = (tracked(&runtime, &dir.path().join("s.db"), schema), memory("constraints"));
        insert(&source.connection(), ROWS);
        sync(&runtime, &source, &remote);
        measure(c, &format!("merge rows/{name}"), || {
            let dir = TempDir::new().unwrap();
            let (replica, seen) = watched(tracked(&runtime, &dir.path().join("a.db"), schema), Phase::Merge);
            merge_time(&runtime, &replica, &seen, &remote)
        });
    }
}

/// Ten changes: to rows of every part of the table, new codes, new owners, two deletes, two inserts.
const TEN: &str = "UPDATE item SET title = ?2 WHERE id = ?1 + 1; UPDATE item SET code = ?2 WHERE id = ?1 + 2; UPDATE item SET owner_id = 7 + n % 2 WHERE id = ?1 + 3;
    UPDATE item SET code = 'b' || ?2, owner_id = 12 WHERE id = ?1 + 4; UPDATE owner SET name = ?2 WHERE id = 500; UPDATE item SET n = -n - 1 WHERE id = ?1 + 5;
    DELETE FROM item WHERE id = ?1 + 6; DELETE FROM item WHERE id = ?1 + 7; INSERT INTO item (code, owner_id) VALUES ('c' || ?2, 3); INSERT INTO item (code, owner_id) VALUES ('d' || ?2, 4)";

fn write_ten(conn: &Connection, round: i64, rows: i64) {
    let (at, what) = (round * 7_919 % (rows - 10), format!("round {round}"));
    for sql in TEN.split(';') {
        let mut statement = conn.prepare(sql).unwrap();
        let parameters = [("?1", &at as &dyn rusqlite::ToSql), ("?2", &what as &dyn rusqlite::ToSql)];
        let here = |name: &str| statement.parameter_index(name).unwrap().is_some();
        let here: Vec<_> = parameters.into_iter().filter(|(name, _)| here(name)).collect();
        assert_eq!(statement.execute(here.as_slice()).unwrap(), 1, "{sql}");
    }
}

/// The same few changes into a small table and into a large one.
fn proportion(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for rows in [10_000, 1_000_000] {
        let dir = TempDir::new().unwrap();
        let (source, remote) = (tracked(&runtime, &dir.path().join("s.db"), CONSTRAINED), memory("proportion"));
        insert(&source.connection(), rows);
        sync(&runtime, &source, &remote);
        let (replica, seen) = watched(tracked(&runtime, &dir.path().join("a.db"), CONSTRAINED), Phase::Merge);
        sync(&runtime, &replica, &remote);
        let mut round = 0;
        measure(c, &format!("merge ten/{rows}"), || {
            round += 1;
            write_ten(&source.connection(), round, rows);
            sync(&runtime, &source, &remote);
            merge_time(&runtime, &replica, &seen, &remote)
        });
    }
}

/// The size of a database with its whole log, over the same rows in a plain one, both after VACUUM.
fn size() -> f64 {
    let runtime = Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let plain = Connection::open(dir.path().join("plain.db")).unwrap();
    tune(&plain);
    plain.execute_batch(CONSTRAINED).unwrap();
    let replica = tracked(&runtime, &dir.path().join("tracked.db"), CONSTRAINED);
    insert(&plain, ROWS);
    insert(&replica.connection(), ROWS);
    sync(&runtime, &replica, &memory("size"));
    let pages = |conn: &Connection| -> f64 {
        conn.execute_batch("VACUUM").unwrap();
        conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
    };
    let tracked = pages(&replica.connection());
    tracked / pages(&plain)
}

criterion_group!(benches, constraints, proportion);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    println!();
    let what = "merge of 100,000 rows, UNIQUE and a reference over none";
    ratio(what, "merge rows/both", "merge rows/none", "1.6x");
    ratio("the same, UNIQUE alone", "merge rows/unique", "merge rows/none", "none of its own");
    ratio("the same, a reference alone", "merge rows/reference", "merge rows/none", "none of its own");
    ratio("ten changes into 1,000,000 rows over into 10,000", "merge ten/1000000", "merge ten/10000", "1.5x");
    if std::env::args().any(|arg| arg == "--bench") {
        println!("{:<56} {:>10.2}x  goal 4x", "database with the whole log over the plain tables", size());
    }
}
