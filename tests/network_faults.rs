//! Faults on the way to an S3 server, at each request of each command: a clear error or a success by trying again, never a hang;
//! the database is sound, nothing is lost, and the next sync mends.
//!
//! `cargo test --test network_faults` injects some at each request; `ZVON_SEED` chooses others, `ZVON_FAULTS` says how many at each.

mod common;
#[path = "common/fault_proxy.rs"]
mod fault_proxy;
#[path = "common/s3_server.rs"]
mod s3_server;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use fault_proxy::{Asked, Fault, FaultProxy};
use futures::StreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use s3_server::S3Server;
use tempfile::TempDir;
use zvon::{CompactOptions, Error, ErrorKind, Remote, RemoteOptions, Replica, Settings, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";

/// How long the server may be silent where that is the fault.
const SILENCE: Duration = Duration::from_millis(400);
/// And where it is none: a busy machine answers late, and such a request is made again.
const PATIENCE: Duration = Duration::from_secs(10);
/// A byte comes so often where answers drip: well within the silence.
const DRIP: Duration = Duration::from_millis(100);
/// How often a request is tried again.
const RETRIES: usize = 4;
/// Whatever takes longer hangs.
const AT_MOST: Duration = Duration::from_secs(20);
/// So many faults are tried at each request, unless `ZVON_FAULTS` says how many.
const USUAL: usize = 2;
/// So many of them at once: most of their time is waiting.
const AT_ONCE: usize = 8;
/// And so many on one server.
const A_SERVER: usize = 31;

const FAULTS: [Fault; 19] = [
    Fault::CutRequest(0),
    Fault::CutRequest(500),
    Fault::CutRequest(1_000),
    Fault::CutAnswer(0),
    Fault::CutAnswer(100),
    Fault::CutAnswer(800),
    Fault::CutAnswer(1_000),
    Fault::Refuse(403),
    Fault::Refuse(404),
    Fault::Refuse(409),
    Fault::Refuse(412),
    Fault::Refuse(429),
    Fault::Refuse(500),
    Fault::Refuse(503),
    Fault::ActAndRefuse(403),
    Fault::ActAndRefuse(500),
    Fault::DripAll,
    Fault::DripBody,
    Fault::Silence,
];

/// Whether a request that went wrong so is made again.
fn passes(fault: Fault) -> bool {
    match fault {
        Fault::Refuse(status) | Fault::ActAndRefuse(status) => matches!(status, 429 | 500..),
        _ => true,
    }
}

/// How long an answer is waited for.
fn patience(fault: Fault) -> Duration {
    match fault {
        Fault::DripAll | Fault::DripBody | Fault::Silence => SILENCE,
        _ => PATIENCE,
    }
}

/// What a refusal has to say.
fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::Refuse(403) | Fault::ActAndRefuse(403) => "refuses access; check the keys",
        Fault::Refuse(404) => "there is no bucket bucket at",
        Fault::Refuse(409) => "status 409, as if others wrote the same object",
        Fault::Refuse(412) => "status 412, as if others wrote the same object",
        _ => "",
    }
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// The commands that faults are tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    PushFiles,
    PushPacks,
    Pull,
    Clone,
    Compact,
}

/// Two replicas that have met, with work to do, on a path of their own in the bucket.
struct World {
    work: Work,
    url: String,
    endpoint: String,
    a: Replica,
    b: Replica,
    home: TempDir,
    /// The rows that all have in the end.
    rows: Vec<String>,
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.compaction_grace = Some(Duration::ZERO);
    settings
}

fn options(endpoint: &str) -> RemoteOptions {
    RemoteOptions::from_vars(S3Server::settings()).setting("AWS_ENDPOINT_URL", endpoint)
}

fn hurried(endpoint: &str, patience: Duration) -> RemoteOptions {
    options(endpoint).request_timeout(patience).max_retries(RETRIES).retry_timeout(AT_MOST / 2)
}

fn write(replica: &Replica, prefix: &str, rows: usize) {
    let sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
               INSERT INTO note SELECT ?1 || i, 'row ' || i FROM n";
    replica.connection().execute(sql, (prefix, rows)).unwrap();
}

impl World {
    async fn new(work: Work, server: &S3Server, path: &str) -> Self {
        let (a, b) = (replica(NOTES).await.with_settings(settings()), replica(NOTES).await.with_settings(settings()));
        let (url, endpoint) = (format!("s3://bucket/{path}"), server.endpoint());
        let mut world = Self { work, url, endpoint, a, b, home: tempfile::tempdir().unwrap(), rows: Vec::new() };
        let remote = world.honest();
        write(&world.a, "first-", 3);
        for replica in [&world.a, &world.b] {
            sync(replica, &remote).await;
        }
        match work {
            Work::PushFiles => {
                write(&world.a, "file-", 3);
                run(
                    &world.a,
                    "UPDATE note SET body = 'new' WHERE id = 'first-1'; DELETE FROM note WHERE id = 'first-2'",
                );
            }
            Work::PushPacks => write(&world.a, "pack-", 120),
            Work::Pull | Work::Clone => {
                write(&world.a, "pack-", 120);
                sync(&world.a, &remote).await;
                write(&world.a, "file-", 2);
                sync(&world.a, &remote).await;
            }
            Work::Compact => {
                write(&world.a, "pack-", 40);
                sync(&world.a, &remote).await;
                // What the first compaction packed, the next one removes, and it packs what came since.
                world.a.compact(&remote, &CompactOptions::default()).await.unwrap();
                write(&world.a, "file-", 2);
                sync(&world.a, &remote).await;
            }
        }
        write(&world.b, "theirs-", 1);
        world.rows = [table(&world.a, "note"), vec!["'theirs-1'|'row 1'".to_owned()]].concat();
        world.rows.sort();
        world
    }

    fn honest(&self) -> Remote {
        Remote::from_url(&self.url, &options(&self.endpoint)).unwrap()
    }

    fn clone_path(&self) -> PathBuf {
        self.home.path().join("clone.db")
    }

    async fn clone_from(&self, remote: &Remote) -> Result<Replica, Error> {
        Ok(Replica::clone_from(remote, self.clone_path(), settings(), None).await?.0)
    }

    /// The command, by a way that may be faulty.
    async fn perform(&self, proxy: &FaultProxy, patience: Duration) -> Result<(), Error> {
        let remote = Remote::from_url(&self.url, &hurried(&proxy.endpoint(), patience)).unwrap();
        match self.work {
            Work::PushFiles | Work::PushPacks => self.a.sync(&remote, &SyncOptions::default()).await.map(|_| ()),
            Work::Pull => self.b.sync(&remote, &SyncOptions::default()).await.map(|_| ()),
            Work::Clone => self.clone_from(&remote).await.map(|_| ()),
            Work::Compact => self.a.compact(&remote, &CompactOptions::default()).await.map(|_| ()),
        }
    }

    /// Sound at once; and after syncs without faults alike, verified, and whole on the remote.
    async fn assert_mended(&self) {
        for replica in [&self.a, &self.b] {
            assert_eq!(rows(&replica.connection(), "PRAGMA integrity_check"), ["'ok'"]);
            let report = replica.verify().await.unwrap();
            assert_eq!(report.problems, [] as [String; 0]);
        }
        let remote = self.honest();
        let mut replicas = vec![self.a.clone(), self.b.clone()];
        if self.work == Work::Clone {
            if self.clone_path().exists() {
                let conn = rusqlite::Connection::open(self.clone_path()).unwrap();
                assert_eq!(rows(&conn, "PRAGMA integrity_check"), ["'ok'"]);
            }
            let clone = match self.clone_from(&remote).await {
                Ok(clone) => clone,
                // The clone was whole already.
                Err(_) => Replica::open(self.clone_path()).unwrap(),
            };
            replicas.push(clone);
        }
        let replicas: Vec<&Replica> = replicas.iter().collect();
        for replica in replicas.iter().chain(&replicas) {
            sync(replica, &remote).await;
        }
        for replica in replicas {
            assert_eq!(table(replica, "note"), self.rows);
            assert_verified(replica, &remote).await;
        }
    }
}

/// How many requests a command makes where nothing goes wrong.
async fn requests_of(work: Work, server: &S3Server) -> usize {
    let world = World::new(work, server, &format!("{work:?}")).await;
    let proxy = FaultProxy::start(&server.endpoint(), DRIP, |_| None).await.unwrap();
    world.perform(&proxy, PATIENCE).await.unwrap();
    world.assert_mended().await;
    proxy.asked().len()
}

/// One fault at one request of a command.
async fn inject(work: Work, at: usize, fault: Fault, server: &S3Server) {
    let world = World::new(work, server, &format!("{work:?}-{at}-{fault:?}")).await;
    let rule = move |asked: &Asked| (asked.number == at).then_some(fault);
    let proxy = FaultProxy::start(&server.endpoint(), DRIP, rule).await.unwrap();
    let told = format!("{fault:?} at request {at} of {work:?}");
    let result = tokio::time::timeout(AT_MOST, world.perform(&proxy, patience(fault))).await;
    let result = result.unwrap_or_else(|_| panic!("{told} hangs"));
    assert_eq!(proxy.hits(), 1, "{told}: {result:?}");
    match result {
        Ok(()) => assert!(passes(fault), "{told} was not noticed: {:?}", proxy.asked()[at]),
        Err(error) => {
            assert!(!passes(fault), "{told} is not tried again: {error:?}");
            assert_eq!(error.kind(), ErrorKind::Remote, "{told}: {error:?}");
            assert!(error.to_string().contains(words(fault)), "{told}: {error}");
        }
    }
    world.assert_mended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_request_is_told_or_passes_and_the_next_sync_mends() {
    let seed = number("ZVON_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("ZVON_SEED={seed} chooses these faults again");
    let server = S3Server::start(&["bucket"]).unwrap();
    let mut rng = StdRng::seed_from_u64(seed as u64);
    let (mut faults, mut cases, mut tally) = (Vec::new(), Vec::new(), HashMap::new());
    for work in [Work::PushFiles, Work::PushPacks, Work::Pull, Work::Clone, Work::Compact] {
        let requests = requests_of(work, &server).await;
        assert!(requests > 1, "{work:?} makes {requests} requests");
        println!("{work:?}: {requests} requests");
        for at in 0..requests {
            let mut chosen = Vec::new();
            while chosen.len() < number("ZVON_FAULTS").unwrap_or(USUAL).min(FAULTS.len()) {
                if faults.is_empty() {
                    faults = FAULTS.to_vec();
                    faults.shuffle(&mut rng);
                }
                let fault = faults.pop().unwrap();
                if !chosen.contains(&fault) {
                    chosen.push(fault);
                }
            }
            cases.extend(chosen.into_iter().map(|fault| (work, at, fault)));
        }
    }
    let started = Instant::now();
    cases.iter().for_each(|(_, _, fault)| *tally.entry(*fault).or_insert(0) += 1);
    for some in cases.chunks(A_SERVER) {
        // The server looks at all its objects for each listing.
        let server = S3Server::start(&["bucket"]).unwrap();
        let all = futures::stream::iter(some).map(|(work, at, fault)| inject(*work, *at, *fault, &server));
        all.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }
    println!("{} faults in {:.1?}: {tally:?}", cases.len(), started.elapsed());
}

#[tokio::test]
async fn what_passes_is_asked_for_again_and_what_does_not_is_told_at_once() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let always = async |fault: Fault, requests: usize, advice: &str| {
        let world = World::new(Work::PushFiles, &server, &format!("always-{fault:?}")).await;
        let proxy = FaultProxy::start(&server.endpoint(), DRIP, move |_| Some(fault)).await.unwrap();
        let error = tokio::time::timeout(AT_MOST, world.perform(&proxy, patience(fault))).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote, "{fault:?}");
        assert!(error.to_string().contains(advice), "{fault:?}: {error}");
        assert_eq!(proxy.asked().len(), requests, "{fault:?}: {:?}", proxy.asked());
        world.assert_mended().await;
    };
    let again = 1 + RETRIES;
    futures::join!(
        always(Fault::Refuse(403), 1, "check the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"),
        always(Fault::Refuse(404), 1, "create it, or correct the URL"),
        always(Fault::Refuse(409), 1, "try again later"),
        always(Fault::Refuse(412), 1, "try again later"),
        always(Fault::Refuse(429), again, "asks for fewer requests; try again later"),
        always(Fault::Refuse(500), again, "fails with status 500; try again later"),
        always(Fault::Refuse(503), again, "asks for fewer requests; try again later"),
        always(Fault::CutRequest(0), again, "check the address and the network"),
        always(Fault::CutAnswer(800), again, "check the address and the network"),
        always(Fault::DripAll, again, "does not answer in time"),
        always(Fault::DripBody, again, "does not answer in time"),
        always(Fault::Silence, again, "does not answer in time"),
    );
}

/// An answer that comes a byte now and then is never silent, and was waited for to its end.
#[tokio::test]
async fn a_file_that_drips_is_given_up() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let world = World::new(Work::Pull, &server, "drips").await;
    let rule = |asked: &Asked| asked.target.contains("/changes/").then_some(Fault::DripBody);
    let proxy = FaultProxy::start(&server.endpoint(), DRIP, rule).await.unwrap();
    let error = tokio::time::timeout(AT_MOST, world.perform(&proxy, SILENCE)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("does not answer in time"), "{error}");
    world.assert_mended().await;
}

#[tokio::test]
async fn a_server_that_restarts_in_the_middle_is_waited_for() {
    let mut server = S3Server::start(&["bucket"]).unwrap();
    for (n, work) in [Work::PushFiles, Work::PushPacks, Work::Pull, Work::Clone, Work::Compact].into_iter().enumerate()
    {
        let world = World::new(work, &server, &format!("restart-{n}")).await;
        let [asked, turned_away] = [(); 2].map(|()| std::sync::Arc::new(tokio::sync::Notify::new()));
        let is_down = std::sync::Arc::new(AtomicBool::new(false));
        let (notice, away, went_down) = (asked.clone(), turned_away.clone(), is_down.clone());
        // Nothing gets through while it goes down: the command is in the middle when it is.
        let rule = move |asked: &Asked| match (asked.number, went_down.load(Ordering::SeqCst)) {
            (0, _) => None,
            (_, false) => {
                notice.notify_one();
                Some(Fault::CutRequest(0))
            }
            (_, true) => {
                away.notify_one();
                None
            }
        };
        let proxy = FaultProxy::start(&server.endpoint(), DRIP, rule).await.unwrap();
        let restart = async {
            asked.notified().await;
            server.stop();
            is_down.store(true, Ordering::SeqCst);
            turned_away.notified().await;
            server.restart().unwrap();
        };
        let both = futures::future::join(world.perform(&proxy, PATIENCE), restart);
        let (done, ()) = tokio::time::timeout(AT_MOST, both).await.unwrap();
        done.unwrap_or_else(|error| panic!("{work:?}: {error:?}"));
        world.assert_mended().await;
    }
}
