//! The public face of S3 remotes: what a URL and its settings make of a remote, before and without any request.

#[path = "common/s3_server.rs"]
mod s3_server;

use std::error::Error as _;

use s3_server::S3Server;
use zvon::{ErrorKind, Remote, RemoteOptions, Traffic};

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
