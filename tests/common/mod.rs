//! What the tests share: replicas in memory and in files, a remote of their own, rows as text. Uses the public API only.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod counting_store;
pub mod dated_store;
pub mod faulty_store;
pub mod gone_store;
pub mod integers;
pub mod packs;
pub mod pair;
pub mod shared_folder;
pub mod terminal;
pub mod wall;
pub mod watching;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use zvon::{Remote, RemoteOptions, Replica, SyncOptions, SyncReport, TrackOptions};

/// Whether a program is here. Where tests are run for a release, it has to be.
pub fn is_here(program: &str, arguments: &[&str]) -> bool {
    let here =
        Command::new(program).args(arguments).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(here || std::env::var_os("CI").is_none(), "{program} is missing, and a test needs it");
    if !here {
        eprintln!("skipped: {program} is not installed here");
    }
    here
}

/// A remote in memory that no other test sees.
pub fn fresh_remote() -> Remote {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    remote(&format!("memory://test-{}-{n}/base", std::process::id()))
}

pub fn remote(url: &str) -> Remote {
    Remote::from_url(url, &RemoteOptions::default()).unwrap()
}

/// A replica in memory with a schema whose tables are all tracked.
pub async fn replica(schema: &str) -> Replica {
    let replica = Replica::in_memory().unwrap();
    replica.connection().execute_batch(schema).unwrap();
    replica.track_all(&keyed()).await.unwrap();
    replica
}

pub fn keyed() -> TrackOptions {
    let mut options = TrackOptions::default();
    options.identity_key = true;
    options
}

pub fn run(replica: &Replica, sql: &str) {
    replica.connection().execute_batch(sql).unwrap();
}

pub async fn sync(replica: &Replica, remote: &Remote) -> SyncReport {
    replica.sync(remote, &SyncOptions::default()).await.unwrap()
}

/// How much SQLite does in a sync, in thousands of its steps (<https://sqlite.org/opcode.html>).
pub async fn work(replica: &Replica, remote: &Remote) -> u64 {
    counted(replica, sync(replica, remote)).await
}

/// … that something else is.
pub async fn counted<T>(replica: &Replica, work: impl Future<Output = T>) -> u64 {
    let steps = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&steps);
    let count = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    replica.connection().progress_handler(1000, Some(count)).unwrap();
    work.await;
    replica.connection().progress_handler(0, None::<fn() -> bool>).unwrap();
    steps.load(Ordering::Relaxed)
}

/// Syncs until nobody has anything new.
pub async fn converge(replicas: &[&Replica], remote: &Remote) {
    for _ in 0..3 {
        for replica in replicas {
            sync(replica, remote).await;
        }
    }
}

/// The result of a query, a line a row, values as SQLite's `quote` writes them.
pub fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query(params![]).unwrap();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let values: Vec<String> = (0..columns).map(|n| text(row.get_ref(n).unwrap())).collect();
        lines.push(values.join("|"));
    }
    lines
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(n) => format!("{n:?}"),
        ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        ValueRef::Blob(blob) => format!("x'{}'", blob.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

pub fn table(replica: &Replica, name: &str) -> Vec<String> {
    let mut lines = rows(&replica.connection(), &format!("SELECT * FROM \"{name}\""));
    lines.sort();
    lines
}

/// Every promise of `verify`, kept.
pub async fn assert_verified(replica: &Replica, remote: &Remote) {
    let report = replica.verify_remote(remote).await.unwrap();
    assert_eq!(report.problems, [] as [String; 0]);
}

/// The Python that `ZVON_PYTHON` names, or any, if it has a module; nothing where it does not. In a release's run it has to.
pub fn python(module: &str) -> Option<std::process::Command> {
    let program = std::env::var_os("ZVON_PYTHON").unwrap_or_else(|| "python3".into());
    let asked = std::process::Command::new(&program).args(["-c", &format!("import {module}")]).output();
    let is_here = asked.is_ok_and(|output| output.status.success());
    assert!(is_here || std::env::var_os("CI").is_none(), "Python's {module} is missing, and a test needs it");
    if !is_here {
        println!("SKIPPED: Python's {module} is missing; ZVON_PYTHON names a Python that has it");
    }
    is_here.then(|| std::process::Command::new(program))
}
