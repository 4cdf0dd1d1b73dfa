//! The examples do what they say.

#[path = "../examples/two_replicas.rs"]
#[allow(dead_code, reason = "its `main` is for `cargo run`")]
mod two_replicas;

#[path = "common/s3_server.rs"]
mod s3_server;
#[path = "../examples/shared_bucket.rs"]
#[allow(dead_code, reason = "its `main` is for `cargo run`")]
mod shared_bucket;

use s3_server::S3Server;
use zvon::RemoteOptions;

#[tokio::test]
async fn two_replicas_end_with_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let story = two_replicas::story(dir.path()).await.unwrap();
    for name in ["laptop", "phone"] {
        assert!(story.contains(&format!("{name}: n1 Groceries: bread, milk, 0 problems")), "{story}");
    }
}

#[tokio::test]
async fn a_shared_bucket_is_read_by_all_who_write_to_it() {
    let (server, dir) = (S3Server::start(&["bucket"]).unwrap(), tempfile::tempdir().unwrap());
    let (url, options) = (server.url("bucket/notebook"), RemoteOptions::from_vars(S3Server::settings()));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let anna = shared_bucket::share(&url, &options, &path("anna.db"), Some("from Anna")).await.unwrap();
    let bert = shared_bucket::share(&url, &options, &path("bert.db"), Some("from Bert")).await.unwrap();
    assert_eq!((anna.len(), bert.len()), (1, 2));
    assert!(bert[0].ends_with("from Anna") && bert[1].ends_with("from Bert"), "{bert:?}");
    assert_eq!(shared_bucket::share(&url, &options, &path("anna.db"), None).await.unwrap(), bert);
}
