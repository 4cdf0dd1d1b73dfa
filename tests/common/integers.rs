//! Replicas whose tables have integer keys that SQLite gives.

use zvon::{Join, Replica, SyncOptions, TrackOptions};

use super::{assert_verified, rows, run};

/// A replica in memory whose tables are all tracked as they are by default.
pub async fn usual(schema: &str) -> Replica {
    let replica = Replica::in_memory().unwrap();
    run(&replica, schema);
    replica.track_all(&TrackOptions::default()).await.unwrap();
    run(&replica, "PRAGMA foreign_keys = ON");
    replica
}

/// The same, where no replica holds rows without a parent.
pub async fn unenforced(schema: &str) -> Replica {
    let replica = Replica::in_memory().unwrap();
    run(&replica, schema);
    let mut options = TrackOptions::default();
    options.enforce_fk = Some(false);
    replica.track_all(&options).await.unwrap();
    replica
}

/// Syncs until nobody has anything new; all are copies of one database.
pub async fn converge(replicas: &[&Replica], remote: &zvon::Remote) {
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    for _ in 0..3 {
        for replica in replicas {
            replica.sync(remote, &options).await.unwrap();
        }
    }
}

/// Fails where what is done does not end, or panics: a merge looks at nothing else meanwhile, so no timer of its own thread can stop it.
pub fn comes_to_an_end<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
        done.send(()).unwrap();
    });
    ended.recv_timeout(std::time::Duration::from_secs(120)).expect("a merge does not end, or the thread failed");
}

pub async fn held(replica: &Replica) -> Vec<String> {
    let rows = replica.held().await.unwrap().rows;
    rows.into_iter().map(|held| format!("{} {}", held.table, held.reason)).collect()
}

pub fn ask(replica: &Replica, sql: &str) -> Vec<String> {
    rows(&replica.connection(), sql)
}

/// Both sides show the same by a query that names no local integer, are sound, and verify.
pub async fn alike(replicas: &[&Replica], remote: &zvon::Remote, sql: &str) -> Vec<String> {
    converge(replicas, remote).await;
    let shown = ask(replicas[0], sql);
    for replica in replicas {
        assert_eq!(ask(replica, sql), shown);
        assert_eq!(ask(replica, "PRAGMA foreign_key_check"), [] as [&str; 0]);
        assert_eq!(ask(replica, "PRAGMA integrity_check"), ["'ok'"]);
        assert_verified(replica, remote).await;
    }
    shown
}
