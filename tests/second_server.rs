//! A second server that speaks S3, started by `.ci/run`: the same promises there. `ZVON_TEST_S3_ENDPOINT` is its `host:port`,
//! `ZVON_TEST_S3_BUCKET` a bucket of it, and the keys are `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.

mod common;

#[path = "common/slow_proxy.rs"]
mod slow_proxy;

use std::time::Duration;

use common::{assert_verified, replica, run, sync, table};
use slow_proxy::SlowProxy;
use zvon::{CompactOptions, Remote, RemoteOptions, Replica, Settings};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";

/// The server's address and bucket; `None` where none was started, which CI does not accept.
fn server() -> Option<(String, String)> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let found = variable("ZVON_TEST_S3_ENDPOINT").zip(variable("ZVON_TEST_S3_BUCKET"));
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI demands the second S3 server: `.ci/run` starts it");
        println!("SKIPPED: no second S3 server; `.ci/run` starts one and sets ZVON_TEST_S3_ENDPOINT");
    }
    found
}

/// A remote of this test's own.
fn open(address: &str, bucket: &str, name: &str) -> Remote {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let options = RemoteOptions::from_vars(std::env::vars());
    Remote::from_url(&format!("s3://{address}/{bucket}/{name}-{now}"), &options).unwrap()
}

fn insert(replica: &Replica, prefix: &str, rows: u32) {
    let sql = "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?2) \
               INSERT INTO note SELECT ?1 || i, hex(randomblob(20)) FROM i";
    replica.connection().execute(sql, (prefix, rows)).unwrap();
}

async fn eager() -> Replica {
    let mut settings = Settings::default();
    settings.compaction_grace = Some(Duration::ZERO);
    replica(NOTES).await.with_settings(settings)
}

async fn play(remote: &Remote) {
    let (a, b) = (eager().await, eager().await);
    sync(&b, remote).await;
    insert(&a, "bulk", 50_000);
    assert_eq!(sync(&a, remote).await.requests.put, 2, "a pack and the table's definition");
    insert(&a, "few", 10);
    sync(&a, remote).await;
    assert_eq!(sync(&b, remote).await.pulled, 50_010);
    let packed = a.compact(remote, &CompactOptions::default()).await.unwrap();
    assert_eq!((packed.packed_files, packed.joined_packs, packed.written_packs), (10, 1, 1));
    run(&b, "UPDATE note SET body = 'b' WHERE id = 'few1'");
    // The joined pack is decided by its header, which is a request for a range.
    let report = sync(&b, remote).await;
    assert_eq!((report.pulled, report.requests.get), (0, 1));
    assert!(report.bytes_in < 2 << 20, "{}", report.bytes_in);
    let removed = a.compact(remote, &CompactOptions::default()).await.unwrap();
    assert_eq!((removed.removed_files, removed.removed_packs, removed.requests.delete), (10, 1, 1));
    for replica in [&a, &b] {
        sync(replica, remote).await;
        let idle = sync(replica, remote).await.requests;
        assert_eq!((idle.list, idle.get, idle.put, idle.delete, idle.head), (1, 0, 0, 0, 0));
        assert_verified(replica, remote).await;
    }
    assert_eq!(table(&a, "note"), table(&b, "note"));
    let survey = a.survey(remote).await.unwrap();
    assert_eq!((survey.loose_files, survey.packs), (1, 1));
    assert!(survey.clock_skew_ms.is_some_and(|ms| ms.abs() < 60_000), "{survey:?}");
}

#[tokio::test]
async fn packs_and_compaction_on_the_second_server() {
    let Some((address, bucket)) = server() else { return };
    play(&open(&address, &bucket, "near")).await;
}

#[tokio::test]
async fn packs_and_compaction_over_a_slow_network() {
    let Some((address, bucket)) = server() else { return };
    let proxy = SlowProxy::start(&address, Duration::from_millis(30)).await.unwrap();
    play(&open(&proxy.address(), &bucket, "far")).await;
}
