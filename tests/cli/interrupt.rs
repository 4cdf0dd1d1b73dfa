//! Ctrl-C while a remote does not answer.

#![cfg(unix)]

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::place::Place;

#[test]
fn ctrl_c_ends_it_and_says_that_nothing_is_lost() {
    let place = Place::with_notes();
    // A server that takes the connection and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("s3://{}/bucket/base", listener.local_addr().unwrap());
    let (connected, wait) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = connected.send(stream);
        }
    });
    let child = place
        .plain_zvon()
        .args(["--db", "notes.db", "sync", &url])
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _stream = wait.recv_timeout(Duration::from_secs(20)).unwrap();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert_eq!(stderr, "error: interrupted; nothing is lost, and the next sync goes on from here\n");
    let report = place.json(&["--db", "notes.db", "sync"]);
    assert_eq!(report["pushed"], 2);
}
