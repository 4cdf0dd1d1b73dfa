//! The public face of S3 remotes: what a URL and its settings make of a remote, and replicas that sync over real HTTP.

mod common;
#[path = "common/s3_server.rs"]
mod s3_server;

use std::error::Error as _;
use std::time::Duration;

use common::*;
use s3_server::S3Server;
use zvon::{Error, ErrorKind, Layout, Remote, RemoteOptions, Replica, SyncOptions, Traffic};

const NOTES: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)";

/// Options of somebody who does not want to wait for what is meant to fail.
fn hurried() -> RemoteOptions {
    RemoteOptions::from_vars(S3Server::settings()).max_retries(1).retry_timeout(Duration::from_millis(200))
}

fn open(server: &S3Server, options: &RemoteOptions) -> Remote {
    Remote::from_url(&server.url("bucket/notes"), options).unwrap()
}

async fn refused(replica: &Replica, remote: &Remote) -> Error {
    replica.sync(remote, &SyncOptions::default()).await.unwrap_err()
}

fn insert(replica: &Replica, rows: u32) {
    let sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO note SELECT i, 'row ' || i FROM n";
    replica.connection().execute(sql, [rows]).unwrap();
}

#[test]
fn both_forms_of_a_url_open_a_remote_and_nothing_is_sent() {
    let server = S3Server::start(&["photos"]).unwrap();
    let options = RemoteOptions::from_vars(S3Server::settings());
    let named = Remote::from_url(&server.url("photos/notes/"), &options).unwrap();
    assert_eq!(named.url(), server.url("photos/notes"));

    let set = options.setting("AWS_ENDPOINT_URL", server.endpoint());
    let plain = Remote::from_url("s3://photos/notes", &set).unwrap();
    assert_eq!(plain.url(), "s3://photos/notes");

    assert_eq!((named.traffic(), plain.traffic()), (Traffic::default(), Traffic::default()));
    assert!(!server.file("photos/notes").exists());
}

#[test]
fn without_keys_the_error_says_which_to_set() {
    let error = Remote::from_url("s3://photos/notes", &RemoteOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    for word in ["s3://photos/notes", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "~/.aws"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn no_error_and_no_debug_output_holds_a_secret() {
    let options = RemoteOptions::from_vars(S3Server::settings());
    let with = |key: &str, value: &str| options.clone().setting(key, value);
    let password = format!("http://user:{}@localhost:1", S3Server::SECRET);
    let tries = [
        (format!("s3://key:{}@host/bucket", S3Server::SECRET), options.clone()),
        ("s3://photos".to_owned(), with("AWS_ENDPOINT_URL", &password)),
        ("s3://photos".to_owned(), with("AWS_ENDPOINT_URL", "http://example.com")),
        ("s3://photos".to_owned(), with("AWS_PROXY_URL", &format!("nonsense://{}", S3Server::SECRET))),
        ("s3://photos".to_owned(), with("AWS_SESSION_TOKEN", &format!("{}\n", S3Server::SECRET))),
        ("s3://photos".to_owned(), with("AWS_ACCESS_KEY_ID", "")),
    ];
    for (url, options) in tries {
        let shown = match Remote::from_url(&url, &options) {
            Ok(remote) => format!("{remote:?} {options:?}"),
            Err(error) => format!("{error} {error:?} {:?} {options:?}", error.source().map(ToString::to_string)),
        };
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn two_replicas_share_a_bucket_by_both_forms_of_its_url() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let (a, b) = (replica(NOTES).await, replica(NOTES).await);
    let named = open(&server, &hurried());
    let plain = hurried().setting("AWS_ENDPOINT_URL", server.endpoint());
    let plain = Remote::from_url("s3://bucket/notes", &plain).unwrap();
    run(&a, "INSERT INTO note VALUES (1, 'a'), (2, 'a'), (3, NULL)");
    let report = sync(&a, &named).await;
    assert_eq!((report.remote.as_str(), report.pushed), (named.url(), 3));
    assert!(report.bytes_out > 300 && report.requests.put >= 3, "{report:?}");
    run(&b, "INSERT INTO note VALUES (4, 'b')");
    let mut join = SyncOptions::default();
    join.join = Some(zvon::Join::Same);
    let report = b.sync(&plain, &join).await.unwrap();
    assert_eq!((report.pulled, report.pushed), (3, 1));
    run(&b, "UPDATE note SET body = 'b' WHERE id = 1; DELETE FROM note WHERE id = 2");
    sync(&b, &plain).await;
    assert_eq!(sync(&a, &named).await.pulled, 3);
    assert_eq!(table(&a, "note"), ["1|'b'", "3|NULL", "4|'b'"]);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    // The same place under its other name is known again, and nothing is sent twice.
    assert_eq!(sync(&a, &plain).await.pushed, 0);
    for remote in [&named, &plain] {
        assert_verified(&a, remote).await;
        assert_verified(&b, remote).await;
    }
    let idle = sync(&a, &named).await.requests;
    assert_eq!((idle.list, idle.get, idle.put, idle.delete, idle.head), (1, 0, 0, 0, 0));
}

#[tokio::test]
async fn more_than_a_page_of_changes_is_listed_whole() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let (a, b, remote) = (replica(NOTES).await, replica(NOTES).await, open(&server, &hurried()));
    insert(&a, 1_050);
    let mut as_files = SyncOptions::default();
    as_files.layout = Some(Layout::Files);
    assert_eq!(a.sync(&remote, &as_files).await.unwrap().pushed, 1_050);
    let report = sync(&b, &remote).await;
    assert_eq!((report.pulled, report.merged), (1_050, 1_050));
    assert_eq!((report.requests.list, report.requests.put), (2, 0));
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_eq!(sync(&a, &remote).await.requests.list, 2);
}

#[tokio::test]
async fn wrong_keys_are_explained_and_the_right_ones_go_on() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let (a, b) = (replica(NOTES).await, replica(NOTES).await);
    let right = open(&server, &hurried());
    insert(&a, 5);
    sync(&a, &right).await;
    run(&a, "UPDATE note SET body = 'mine' WHERE id = 1");
    for (key, value, advice) in [
        ("AWS_SECRET_ACCESS_KEY", "hunter2-is-not-the-secret", "check AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "AKIDNOBODY", "check AWS_ACCESS_KEY_ID"),
    ] {
        let wrong = open(&server, &hurried().setting(key, value));
        for replica in [&a, &b] {
            let error = refused(replica, &wrong).await;
            assert_eq!(error.kind(), ErrorKind::Remote);
            assert!(error.to_string().contains(advice), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
    assert_eq!(a.status().await.unwrap().remotes[0].to_push, 1);
    assert_eq!(sync(&a, &right).await.pushed, 1);
    assert_eq!(sync(&b, &right).await.pulled, 6);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_verified(&a, &right).await;
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_named() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let a = replica(NOTES).await;
    insert(&a, 3);
    let missing = Remote::from_url(&server.url("buckle/notes"), &hurried()).unwrap();
    let error = refused(&a, &missing).await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("there is no bucket buckle"), "{error}");
    std::fs::create_dir(server.file("buckle")).unwrap();
    assert_eq!(sync(&a, &missing).await.pushed, 3);
    assert_verified(&a, &missing).await;
}

#[tokio::test]
async fn a_server_that_dies_during_a_push_loses_nothing() {
    let mut server = S3Server::start(&["bucket"]).unwrap();
    let (a, b, remote) = (replica(NOTES).await, replica(NOTES).await, open(&server, &hurried()));
    insert(&a, 300);
    let mut as_files = SyncOptions::default();
    as_files.layout = Some(Layout::Files);
    for uploads in [0, 1, 100] {
        server.dies_after_uploads(uploads);
        let error = a.sync(&remote, &as_files).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        let words = ["cannot be reached", "does not answer"];
        assert!(words.iter().any(|words| error.to_string().contains(words)), "{error}");
        server.restart().unwrap();
        assert_eq!(table(&a, "note").len(), 300);
    }
    let report = sync(&a, &remote).await;
    assert!((1..300).contains(&report.pushed), "a part was there already: {}", report.pushed);
    assert_verified(&a, &remote).await;
    assert_eq!(sync(&b, &remote).await.pulled, 300);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_eq!(sync(&a, &remote).await.pushed, 0);
}
