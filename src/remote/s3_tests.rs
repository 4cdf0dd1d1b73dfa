//! S3 remotes over real HTTP, against a server in this process: what works, and what every failure says.

use std::error::Error as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::tests::{change, hurried};
use super::{Fetched, Remote, RemoteOptions, Traffic};
use crate::error::{Error, ErrorKind};
use crate::wire::ObjectName;
use s3_server::S3Server;

#[path = "../../tests/common/s3_server.rs"]
mod s3_server;

fn options() -> RemoteOptions {
    let keys = S3Server::settings();
    keys.into_iter().fold(hurried(), |options, (key, value)| options.setting(key, value))
}

fn open(server: &S3Server) -> Remote {
    Remote::from_url(&server.url("bucket/base"), &options()).unwrap()
}

/// The error of the first request that a remote with these options makes. Nothing in it may be secret.
async fn refused(url: &str, options: &RemoteOptions) -> Error {
    let remote = Remote::from_url(url, options).unwrap();
    let errors = [
        remote.list().await.unwrap_err(),
        remote.get(&change(1), 100).await.unwrap_err(),
        remote.put(&change(1), Bytes::from_static(b"x")).await.unwrap_err(),
    ];
    for error in &errors {
        let cause = error.source().map(|source| format!("{source} {source:?}"));
        let all = format!("{error} {error:?} {cause:?} {remote:?}");
        assert!(!all.contains("hunter2"), "{all}");
    }
    let [list, ..] = errors;
    assert_eq!(list.kind(), ErrorKind::Remote, "{list}");
    assert!(list.to_string().contains(remote.url()), "{list}");
    list
}

#[tokio::test]
async fn both_forms_of_a_url_are_the_same_place() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let named = open(&server);
    let set = options().setting("AWS_ENDPOINT_URL", server.endpoint()).setting("AWS_CA_BUNDLE", "/nowhere.pem");
    let plain = Remote::from_url("s3://bucket/base", &set).unwrap();

    assert_eq!(named.list().await.unwrap().names(), []);
    named.put(&change(2), Bytes::from_static(b"two")).await.unwrap();
    plain.put(&change(1), Bytes::from_static(b"one")).await.unwrap();
    plain.put(&ObjectName::Schema([7; 32]), Bytes::from_static(b"schema")).await.unwrap();

    let listing = named.list().await.unwrap();
    assert_eq!(listing, plain.list().await.unwrap());
    let changes = listing.changes.iter().map(|o| (ObjectName::Change(o.id), o.size));
    let objects: Vec<_> = changes.chain(listing.others.iter().map(|o| (o.name, o.size))).collect();
    assert_eq!(objects, [(change(1), 3), (change(2), 3), (ObjectName::Schema([7; 32]), 6)]);
    assert!(listing.changes.iter().all(|o| o.stamp != 0));

    assert_eq!(named.get(&change(1), 3).await.unwrap(), Fetched::Bytes(Bytes::from_static(b"one")));
    assert_eq!(named.get(&change(1), 2).await.unwrap(), Fetched::TooLarge);
    assert_eq!(named.get(&change(9), 9).await.unwrap(), Fetched::Gone);
    assert_eq!(named.modified_ms(&change(9)).await.unwrap(), None);
    let modified = named.modified_ms(&change(1)).await.unwrap().unwrap();
    // In whole seconds here, and there in milliseconds, of the object that was written last.
    let since = (listing.newest_modified_ms / 1000).checked_sub(modified / 1000);
    assert!(since.is_some_and(|seconds| seconds < 60), "{modified}: {}", listing.newest_modified_ms);
    assert!(named.has_own_clock());
    assert!(server.file("bucket/base").join(change(1).to_string()).is_file());
}

#[tokio::test]
async fn a_listing_of_several_pages_counts_each() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let remote = open(&server);
    let names: Vec<_> = (0..1100).map(change).collect();
    let puts = stream::iter(&names).map(|name| remote.put(name, Bytes::from_static(b"12345"))).buffer_unordered(16);
    puts.try_collect::<()>().await.unwrap();
    assert_eq!(remote.traffic(), Traffic { put: 1100, bytes_out: 5500, ..Traffic::default() });

    let listed: Vec<_> = remote.list().await.unwrap().names();
    assert_eq!(listed, names);
    let traffic = remote.traffic();
    assert_eq!((traffic.list, traffic.get, traffic.put, traffic.head), (2, 0, 1100, 0));
    assert!(traffic.bytes_in > 1100 * 50, "{traffic:?}");

    remote.get(&change(5), 10).await.unwrap();
    remote.modified_ms(&change(5)).await.unwrap();
    let after = remote.traffic();
    assert_eq!((after.get, after.head, after.bytes_in), (1, 1, traffic.bytes_in + 5));
}

#[tokio::test]
async fn the_strangers_of_a_bucket_are_passed_over() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let remote = Remote::from_url(&server.url("bucket"), &options()).unwrap();
    remote.put(&change(1), Bytes::from_static(b"x")).await.unwrap();
    for name in ["changes/no-id.msgpack", "changes/a (conflicted copy).msgpack", "changes/bell\u{7}", "photo.jpg"] {
        std::fs::write(server.file("bucket").join(name), b"y").unwrap();
    }
    let listing = remote.list().await.unwrap();
    assert_eq!(listing.known(), 1);
    assert_eq!(listing.refused.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["changes/no-id.msgpack"]);
}

#[tokio::test]
async fn wrong_keys_are_told_apart() {
    let server = S3Server::start(&["bucket"]).unwrap();
    let url = server.url("bucket/base");
    let error = refused(&url, &options().setting("AWS_SECRET_ACCESS_KEY", "hunter2-is-not-the-secret")).await;
    assert!(error.to_string().contains("check AWS_SECRET_ACCESS_KEY"), "{error}");
    let error = refused(&url, &options().setting("AWS_ACCESS_KEY_ID", "AKIDNOBODY")).await;
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    let error = refused(&url, &options().setting("AWS_SKIP_SIGNATURE", "true")).await;
    assert!(error.to_string().contains("refuses access"), "{error}");
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let server = S3Server::start(&[]).unwrap();
    let remote = open(&server);
    let error = remote.list().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("there is no bucket bucket at 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_is_given_up_soon() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = Instant::now();
    let error = refused(&format!("s3://{address}/bucket"), &options()).await;
    assert!(error.to_string().contains(&format!("{address} cannot be reached")), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    let error = refused(&format!("s3://{address}/bucket"), &options()).await;
    assert!(error.to_string().contains("does not answer in time"), "{error}");
    silent.abort();
}

/// Answers every request on a connection of its own with the same bytes.
async fn canned(answer: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 8192]).await;
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    address
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn what_a_server_answers_is_not_believed_to_be_harmless() {
    let xml = format!("<Error><Code>AccessDenied</Code><Message>{} \u{1b}[2J</Message></Error>", S3Server::SECRET);
    for (answer, words) in [
        (http("403 Forbidden", &xml), "refuses access"),
        (http("500 Oops", &"x".repeat(1 << 20)), "fails with status 500"),
        (http("301 Moved Permanently", ""), "AWS_REGION"),
        (http("200 OK", "this is no listing"), "cannot list"),
        (http("200 OK", &"x".repeat(17 << 20)), "cannot list"),
    ] {
        let remote = Remote::from_url(&format!("s3://{}/bucket", canned(answer).await), &options()).unwrap();
        let error = remote.list().await.unwrap_err();
        let all = format!("{error} {error:?} {:?}", error.source().map(ToString::to_string));
        assert!(error.to_string().contains(words), "{all}");
        assert!(all.len() < 2000 && !all.contains("hunter2") && !all.contains('\u{1b}'), "{all}");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_in_the_middle_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("s3://{}/bucket", listener.local_addr().unwrap());
    let half = "HTTP/1.1 200 OK\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\nhalf";
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 8192]).await;
            let _ = socket.write_all(half.as_bytes()).await;
            held.push(socket);
        }
    });
    let remote = Remote::from_url(&url, &options().max_retries(0)).unwrap();
    for error in [remote.get(&change(1), 100).await.unwrap_err(), remote.list().await.unwrap_err()] {
        assert!(error.to_string().contains("does not answer in time"), "{error} {error:?}");
    }
    server.abort();
}

#[tokio::test]
async fn a_dotted_name_that_is_no_server_may_be_a_bucket() {
    let remote = Remote::from_url("s3://photos.invalid/notes", &options()).unwrap();
    let error = remote.list().await.unwrap_err();
    assert!(error.to_string().contains("if photos.invalid is a bucket, set AWS_ENDPOINT_URL"), "{error}");
}

#[tokio::test]
async fn retries_are_counted_as_sent() {
    let address = canned(http("503 Slow Down", "")).await;
    let remote = Remote::from_url(&format!("s3://{address}/bucket"), &options().max_retries(2)).unwrap();
    remote.put(&change(1), Bytes::from_static(b"abc")).await.unwrap_err();
    assert_eq!(remote.traffic(), Traffic { put: 3, bytes_out: 9, ..Traffic::default() });
}

#[tokio::test]
async fn keys_that_are_no_paths_do_not_end_a_listing() {
    let entry = |key: &str| {
        let rest = "<Size>1</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified>";
        format!("<Contents><Key>{key}</Key>{rest}</Contents>")
    };
    let good = change(1).to_string();
    let entries = [entry("changes//x"), entry("changes/"), entry(&good), entry("../x"), entry("a&#7;")].concat();
    let answer = http("200 OK", &format!("<ListBucketResult>{entries}</ListBucketResult>"));
    let remote = Remote::from_url(&format!("s3://{}/bucket", canned(answer).await), &options()).unwrap();
    let listing = remote.list().await.unwrap();
    assert_eq!(listing.names(), [change(1)]);
    assert_eq!(remote.traffic().list, 1);
}

/// A page to log in at, in a hotel, or a console on another port.
#[tokio::test]
async fn a_page_that_is_no_listing_is_no_empty_remote() {
    let xml = "<?xml version=\"1.0\"?>";
    for body in [
        "<html><body>log in to the network</body></html>".to_owned(),
        "<!DOCTYPE html><html><body/></html>".to_owned(),
        format!("{xml}<Error><Code>InternalError</Code></Error>"),
        format!("{xml}<!-- <ListBucketResult> --><html><ListBucketResult/></html>"),
        "<ListBucketResultat/>".to_owned(),
        String::new(),
    ] {
        let answer = http("200 OK", &body);
        let remote = Remote::from_url(&format!("s3://{}/bucket", canned(answer).await), &options()).unwrap();
        let error = remote.list().await.expect_err(&body);
        assert_eq!(error.kind(), ErrorKind::Remote, "{body}");
    }
    let empty = "<IsTruncated>false</IsTruncated>";
    for body in [
        format!("<ListBucketResult>{empty}</ListBucketResult>"),
        format!(
            "\u{feff}{xml}\n<!-- a server --> <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{empty}</ListBucketResult>"
        ),
        format!("<s3:ListBucketResult xmlns:s3=\"x\">{empty}</s3:ListBucketResult>"),
    ] {
        let answer = http("200 OK", &body);
        let remote = Remote::from_url(&format!("s3://{}/bucket", canned(answer).await), &options()).unwrap();
        assert_eq!(remote.list().await.unwrap().names(), [], "{body}");
    }
}
