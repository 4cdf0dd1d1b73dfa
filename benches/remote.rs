//! A clone of a million changes over a network with 30 ms of latency, against the raw download of the same bytes, the same
//! clone from memory, and the raw insert of the same rows of the log; and how much memory it takes.
//!
//! `cargo bench --bench remote`. The server is the one of the tests, or the one at `ZVON_TEST_S3_ENDPOINT` (`host:port`, with
//! `ZVON_TEST_S3_BUCKET` and `AWS_*` keys).

#[path = "../tests/common/s3_server.rs"]
mod s3_server;
#[path = "../tests/common/slow_proxy.rs"]
mod slow_proxy;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use rusqlite::{Connection, params};
use s3_server::S3Server;
use slow_proxy::SlowProxy;
use tempfile::TempDir;
use zvon::{Remote, RemoteOptions, Replica, Settings, SyncOptions, TrackOptions};

const SCHEMA: &str = "CREATE TABLE item (id TEXT PRIMARY KEY, title TEXT, body TEXT, n INTEGER, price REAL)";
const LATENCY: Duration = Duration::from_millis(30);
const BASE: &str = "bench";

fn uuid(n: usize) -> String {
    format!(
        "019a9f3c-{:04x}-7{:03x}-8000-{:012x}",
        n >> 12 & 0xFFFF,
        n & 0xFFF,
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF
    )
}

/// A hundred characters that look like text, no two alike.
fn body(n: usize) -> String {
    let words = ["the", "river", "of", "small", "changes", "never", "sleeps", "and", "carries", "stones"];
    let (mut body, mut seed) = (String::new(), n as u64 + 1);
    while body.len() < 100 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(body, "{} {:x} ", words[(seed >> 33) as usize % 10], seed >> 52);
    }
    body.truncate(100);
    body
}

fn tune(conn: &Connection) {
    conn.pragma_update(None, "journal_mode", "wal").unwrap();
    conn.pragma_update(None, "synchronous", "normal").unwrap();
}

async fn source(path: &Path, rows: usize) -> Replica {
    let replica = Replica::init(path).unwrap();
    tune(&replica.connection());
    replica.connection().execute_batch(SCHEMA).unwrap();
    replica.track(&["item"], &TrackOptions::default()).await.unwrap();
    {
        let conn = replica.connection();
        conn.execute_batch("BEGIN").unwrap();
        let mut statement = conn.prepare("INSERT INTO item VALUES (?1, 'a title', ?2, ?3, ?4)").unwrap();
        for n in 0..rows {
            statement.execute(params![uuid(n), body(n), n as i64, n as f64 * 0.25]).unwrap();
        }
        drop(statement);
        conn.execute_batch("COMMIT").unwrap();
    }
    replica
}

/// The rows of the log as any program would insert them: read from another file, one prepared statement a table.
fn raw_insert(source: &Path, target: &Path) -> Duration {
    let from = Connection::open(source).unwrap();
    let to = Connection::open(target).unwrap();
    tune(&to);
    to.execute_batch(
        "CREATE TABLE ZV_CHANGE (id TEXT NOT NULL PRIMARY KEY, author_id TEXT NOT NULL, entity_type TEXT NOT NULL, \
         entity_id TEXT NOT NULL, merged BOOL NOT NULL DEFAULT FALSE) WITHOUT ROWID; \
         CREATE TABLE ZV_CHANGE_FIELD (change_id TEXT NOT NULL, field_name TEXT NOT NULL, field_value BLOB NOT NULL, \
         PRIMARY KEY (change_id, field_name)) WITHOUT ROWID; \
         CREATE TABLE ZV_SEQUENCE (seq INTEGER PRIMARY KEY AUTOINCREMENT, change_id BLOB NOT NULL, own INTEGER NOT NULL)",
    )
    .unwrap();
    let started = Instant::now();
    for (select, insert, columns) in [
        ("SELECT id, author_id, entity_type, entity_id, 1 FROM ZV_CHANGE", "ZV_CHANGE VALUES (?, ?, ?, ?, ?)", 5),
        ("SELECT change_id, field_name, field_value FROM ZV_CHANGE_FIELD", "ZV_CHANGE_FIELD VALUES (?, ?, ?)", 3),
        ("SELECT seq, change_id, 0 FROM ZV_SEQUENCE", "ZV_SEQUENCE VALUES (?, ?, ?)", 3),
    ] {
        to.execute_batch("BEGIN").unwrap();
        let mut insert = to.prepare(&format!("INSERT INTO {insert}")).unwrap();
        let mut select = from.prepare(select).unwrap();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for n in 0..columns {
                insert.raw_bind_parameter(n + 1, row.get::<_, rusqlite::types::Value>(n).unwrap()).unwrap();
            }
            insert.raw_execute().unwrap();
        }
        drop(insert);
        to.execute_batch("COMMIT").unwrap();
    }
    started.elapsed()
}

async fn clone(remote: &Remote, path: &Path) -> (Duration, zvon::SyncReport) {
    let started = Instant::now();
    let (_, report) = Replica::clone_from(remote, path, Settings::default(), None).await.unwrap();
    (started.elapsed(), report)
}

/// The most memory that `zvon clone` took, in KiB, as the kernel counts it.
fn peak_memory(url: &str, settings: &[(String, String)], path: &Path) -> u64 {
    let mut clone = Command::new(env!("CARGO_BIN_EXE_zvon"))
        .args(["-q", "clone", url])
        .arg(path)
        .envs(settings.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", clone.id());
    let mut peak = 0;
    while clone.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse().ok());
        peak = kib.unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    peak
}

struct Server {
    address: String,
    bucket: String,
    settings: Vec<(String, String)>,
    _server: Option<S3Server>,
}

impl Server {
    fn find() -> Self {
        if let Ok(address) = std::env::var("ZVON_TEST_S3_ENDPOINT") {
            let bucket = std::env::var("ZVON_TEST_S3_BUCKET").expect("ZVON_TEST_S3_BUCKET names the bucket");
            let settings = std::env::vars().filter(|(key, _)| key.starts_with("AWS_")).collect();
            return Self { address, bucket, settings, _server: None };
        }
        let server = S3Server::start(&["bucket"]).unwrap();
        let address = server.endpoint().trim_start_matches("http://").to_owned();
        let settings = S3Server::settings().to_vec();
        Self { address, bucket: "bucket".to_owned(), settings, _server: Some(server) }
    }

    fn url(&self, address: &str) -> String {
        format!("s3://{address}/{}/{BASE}", self.bucket)
    }

    fn remote(&self, address: &str) -> Remote {
        Remote::from_url(&self.url(address), &RemoteOptions::from_vars(self.settings.clone())).unwrap()
    }

    fn client(&self, address: &str) -> impl ObjectStore + use<> {
        let setting = |name: &str| self.settings.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone()).unwrap();
        let region = self.settings.iter().find(|(key, _)| key == "AWS_REGION").map_or("us-east-1", |(_, v)| v);
        AmazonS3Builder::new()
            .with_endpoint(format!("http://{address}"))
            .with_bucket_name(&self.bucket)
            .with_region(region)
            .with_allow_http(true)
            .with_access_key_id(setting("AWS_ACCESS_KEY_ID"))
            .with_secret_access_key(setting("AWS_SECRET_ACCESS_KEY"))
            .build()
            .unwrap()
    }
}

/// All objects, three at a time, as fast as they come. Copies them into memory.
async fn download(client: &impl ObjectStore) -> (Duration, u64, Arc<InMemory>) {
    let memory = Arc::new(InMemory::new());
    let base = object_store::path::Path::from(BASE);
    let started = Instant::now();
    let listed: Vec<_> = client.list(Some(&base)).try_collect().await.unwrap();
    let bodies: Vec<_> = futures::stream::iter(listed)
        .map(|meta| async move {
            let bytes = client.get(&meta.location).await.unwrap().bytes().await.unwrap();
            (meta.location, bytes)
        })
        .buffer_unordered(3)
        .collect()
        .await;
    let took = started.elapsed();
    let bytes = bodies.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    for (at, bytes) in bodies {
        memory.put(&at, bytes.into()).await.unwrap();
    }
    (took, bytes, memory)
}

#[tokio::main]
async fn main() {
    // `cargo test` builds benches and asks them for nothing.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let rows: usize = std::env::var("ZVON_BENCH_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let server = Server::find();
    let proxy = SlowProxy::start(&server.address, LATENCY).await.unwrap();

    let a = source(&at("source.db"), rows).await;
    let started = Instant::now();
    let pushed = a.sync(&server.remote(&proxy.address()), &SyncOptions::default()).await.unwrap();
    println!("push: {:.2?}, {} PUTs, {} bytes", started.elapsed(), pushed.requests.put, pushed.bytes_out);

    let (raw_download, bytes, memory) = download(&server.client(&proxy.address())).await;
    println!("raw download of {bytes} bytes: {raw_download:.2?}");
    let local = Remote::from_store("memory://bench", memory, BASE).unwrap();
    let (from_memory, _) = clone(&local, &at("memory.db")).await;
    println!("clone from memory: {from_memory:.2?}");
    let (over_network, report) = clone(&server.remote(&proxy.address()), &at("network.db")).await;
    println!(
        "clone over {LATENCY:?}: {over_network:.2?}, {} GETs, {} LISTs",
        report.requests.get, report.requests.list
    );
    let inserted = raw_insert(&at("source.db"), &at("raw.db"));
    println!("raw insert of the log's rows: {inserted:.2?}");
    let url = server.url(&proxy.address());
    let (settings, path) = (server.settings.clone(), at("peak.db"));
    let peak = tokio::task::spawn_blocking(move || peak_memory(&url, &settings, &path)).await.unwrap();
    println!("peak memory of a clone: {peak} KiB");

    let larger = raw_download.max(from_memory);
    println!("clone over network / larger of download and memory: {:.2}x, goal 1.3x", ratio(over_network, larger));
    println!("clone from memory / raw insert: {:.2}x, goal 2.5x", ratio(from_memory, inserted));
    println!("peak memory: {:.1} MB, goal 100 MB", peak as f64 * 1024.0 / 1e6);
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
