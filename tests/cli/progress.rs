//! Progress as a user sees it: bars on a terminal, lines with `-v` where there is none, and nothing else in a pipe.

#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::place::Place;
use crate::s3_server::S3Server;

/// How long each answer is on its way: four of them in a row take longer than a sync shows nothing.
const LATENCY: Duration = Duration::from_millis(300);

/// A line to a server far away.
fn far_away(server: &S3Server) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap(), server.endpoint());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(server.trim_start_matches("http://")).unwrap();
            let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pass(client, server, Duration::ZERO));
            thread::spawn(move || pass(ends.1, ends.0, LATENCY));
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, latency: Duration) {
    let mut buffer = [0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        thread::sleep(latency);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_terminal_shows_bars_and_is_left_clean() {
    let (place, server) = (Place::with_notes(), S3Server::start(&["bucket"]).unwrap());
    let remote = format!("s3://{}/bucket/base", far_away(&server));
    // `script` gives its command a terminal.
    let inner = format!("'{}' --db notes.db --remote {remote} sync", env!("CARGO_BIN_EXE_zvon"));
    let mut script = Command::new("script");
    let steered = place.plain_zvon();
    script.args(["-qec", &inner, "/dev/null"]).current_dir(steered.get_current_dir().unwrap()).env("TERM", "xterm");
    for (name, value) in steered.get_envs().filter(|(_, value)| value.is_none()) {
        assert!(value.is_none());
        script.env_remove(name);
    }
    let output = match script.envs(S3Server::settings()).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(_) if std::env::var_os("CI").is_some() => panic!("script is not installed, and CI demands it"),
        Err(_) => return eprintln!("skipped: script is not installed here"),
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Pushing") && text.contains("0/2"), "{text:?}");
    // What was drawn is wiped before the answer is told.
    let (drawn, answer) = text.split_once("Synced with ").unwrap();
    assert!(drawn.ends_with("\u{1b}[2K") || drawn.ends_with('\r'), "{text:?}");
    assert!(answer.contains("pushed 2") && !answer.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_pipe_gets_lines_where_asked_for_and_nothing_otherwise() {
    let place = Place::with_notes();
    let ran = place.run(["-v", "--json", "--db", "notes.db", "sync"]).ended(0);
    assert_eq!(ran.json()["pushed"], 2);
    assert!(ran.stderr.contains("Pushed 2 changes in ") && ran.stderr.contains(" bytes\n"), "{ran:#?}");
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:#?}");
    let ran = place.run(["clone", "shared", "other.db"]).ended(0);
    assert_eq!(ran.stderr, "");
}
