//! `zvon watch` as a process: woken by other programs, ended by signals, and killed.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::Place;
use crate::s3_server::S3Server;

/// Far more than anything here takes: a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// A watch that is killed with the test, should it not have ended.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    /// A watch that prints JSON and looks at the remote by itself once a day.
    fn start(place: &Place, args: &[&str]) -> Self {
        let common = ["--json", "watch", "--interval", "1d"];
        Self::spawn(place.plain_zvon().args(common).args(args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line within the deadline")
    }

    /// The next line that is about an event.
    fn event(&self, name: &str) -> Value {
        loop {
            let line: Value = serde_json::from_str(&self.line()).unwrap();
            if line["event"] == name {
                return line;
            }
        }
    }

    /// The next sync that did as much as is asked for.
    fn synced(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.event("synced");
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Ended by a signal: what was printed since, the exit code, and stderr.
    fn signal(mut self, signal: &str) -> (Vec<String>, Option<i32>, String) {
        self.kill(signal);
        let status = self.child.wait().unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.lines.iter().collect(), status.code(), stderr)
    }

    fn kill(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended long since.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    lines
}

fn pushed(line: &Value) -> bool {
    line["pushed"] != 0
}

/// A commit by a program that knows nothing of zvon, if that program is there.
fn write_with(program: &str, place: &Place, id: &str) -> bool {
    let sql = format!("INSERT INTO notes (id, title) VALUES ('{id}', 'by {program}')");
    let database = place.path("notes.db");
    let mut command = Command::new(program);
    match program {
        "sqlite3" => command.arg(&database).arg(&sql),
        _ => command.arg("-c").arg(format!(
            "import sqlite3; c = sqlite3.connect({:?}); c.execute({sql:?}); c.commit()",
            database.to_str().unwrap()
        )),
    };
    match command.status() {
        Ok(status) => {
            assert!(status.success());
            true
        }
        Err(_) if std::env::var_os("CI").is_some() => panic!("{program} is not installed, and CI demands it"),
        Err(_) => {
            eprintln!("skipped: {program} is not installed here");
            false
        }
    }
}

#[test]
fn what_any_program_commits_is_pushed_and_what_appears_is_pulled() {
    let place = Place::with_clone();
    let watch = Watch::start(&place, &["--db", "notes.db"]);
    assert_eq!(watch.event("started")["database"], "notes.db");
    assert_eq!(watch.event("synced")["cause"], "start");
    for (n, program) in ["sqlite3", "python3"].into_iter().enumerate() {
        if write_with(program, &place, &format!("c{n}")) {
            assert_eq!(watch.synced(pushed)["cause"], "commit");
        }
    }
    place.sql("other.db", "INSERT INTO notes (id, title) VALUES ('d', 'elsewhere')");
    place.run(["--db", "other.db", "sync"]).ended(0);
    assert_eq!(watch.synced(|line| line["pulled"] == 1)["cause"], "folder");
    assert_eq!(place.query("notes.db", "SELECT title FROM notes WHERE id = 'd'"), ["elsewhere"]);
    let (lines, code, stderr) = watch.signal("-INT");
    let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!((code, stderr.as_str(), &last["event"]), (Some(0), "", &"stopped".into()));
}

#[test]
fn a_commit_is_on_its_way_within_moments() {
    let place = Place::with_clone();
    let watch = Watch::start(&place, &["--db", "notes.db"]);
    watch.event("synced");
    let connection = rusqlite::Connection::open(place.path("notes.db")).unwrap();
    // As many as may follow each other at once.
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..5 {
        connection.execute("INSERT INTO notes (id, title) VALUES (?1, 'x')", [format!("t{n}")]).unwrap();
        let committed = Instant::now();
        watch.synced(pushed);
        times.push(committed.elapsed());
    }
    times.sort();
    eprintln!("from a commit to the end of its sync: {times:?}");
    // A busy machine takes its time; the figures of an idle one are in docs/performance.md.
    assert!(times[0] < Duration::from_millis(500), "{times:?}");
}

#[test]
fn a_second_watch_is_refused_and_a_killed_one_leaves_nothing_in_the_way() {
    let place = Place::with_clone();
    let first = Watch::start(&place, &["--db", "notes.db"]);
    first.event("started");
    let pid = first.child.id();
    let ran = place.run(["--db", "notes.db", "watch"]);
    ran.refused(1, &["notes.db is watched already", &format!("(process {pid})"), "stop that watch first"]);
    // By another name of the same file, too.
    std::os::unix::fs::symlink(place.path("notes.db"), place.path("link.db")).unwrap();
    place.run(["--db", "link.db", "watch"]).refused(1, &["watched already"]);
    let (_, code, _) = first.signal("-KILL");
    assert_eq!(code, None);
    let second = Watch::start(&place, &["--db", "notes.db"]);
    second.event("synced");
    place.run(["--db", "notes.db", "verify", "--remote"]).ended(0);
    assert_eq!(second.signal("-TERM").1, Some(0));
}

#[test]
fn the_error_that_ends_a_watch_is_a_line_too() {
    let place = Place::with_clone();
    let first = Watch::start(&place, &["--db", "notes.db"]);
    first.event("started");
    let ran = place.run(["--json", "--db", "notes.db", "watch"]).ended(1);
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:#?}");
    assert_eq!(ran.json()["error"]["kind"], "busy");
}

#[test]
fn both_signals_end_it_well_and_the_last_commit_is_pushed_or_in_the_log() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::with_clone();
        let watch = Watch::start(&place, &["--db", "notes.db"]);
        watch.event("synced");
        for round in 0..10 {
            place.sql("notes.db", &format!("INSERT INTO notes (id, title) VALUES ('{signal}{round}', 'x')"));
        }
        let (_, code, stderr) = watch.signal(signal);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{signal}");
        let by_hand = place.json(&["--db", "notes.db", "sync"])["pushed"].as_u64().unwrap();
        assert!(by_hand <= 10, "{by_hand}");
        let there = place.json(&["--db", "other.db", "sync"])["pulled"].as_u64().unwrap();
        assert_eq!(there, 10);
        place.run(["--db", "notes.db", "verify", "--remote"]).ended(0);
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_remote_that_never_answers() {
    let place = Place::with_notes();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("s3://{}/bucket/base", listener.local_addr().unwrap());
    let (connected, wait) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = connected.send(stream);
        }
    });
    let mut command = place.plain_zvon();
    command.args(["--json", "--db", "notes.db", "--remote", &url, "watch"]).envs(S3Server::settings());
    let watch = Watch::spawn(&mut command);
    let _stream = wait.recv_timeout(DEADLINE).unwrap();
    watch.kill("-INT");
    let asked = Instant::now();
    // The first may be still on its way: signals of one kind do not queue.
    let (_, code, stderr) = watch.signal("-TERM");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(asked.elapsed() < Duration::from_secs(4), "it waited for {:?}", asked.elapsed());
    assert_eq!(place.json(&["--db", "notes.db", "sync"])["pushed"], 2);
}

/// Passes connections on to a server for as long as it is let.
struct Cable {
    address: std::net::SocketAddr,
    cut: std::sync::Arc<std::sync::Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Cable {
    fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cable = Self { address: listener.local_addr().unwrap(), cut: Default::default() };
        let line = cable.cut.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = line.lock().unwrap();
                if line.is_cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else { continue };
                for (mut from, mut to) in [(&stream, &server), (&server, &stream)]
                    .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()))
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                line.streams.extend([stream, server]);
            }
        });
        cable
    }

    fn cut(&self) {
        let mut line = self.cut.lock().unwrap();
        line.is_cut = true;
        for stream in line.streams.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.lock().unwrap().is_cut = false;
    }
}

#[test]
fn a_network_that_comes_and_goes_is_survived_and_told_once() {
    let place = Place::with_notes();
    let server = S3Server::start(&["bucket"]).unwrap();
    let cable = Cable::to(server.endpoint().trim_start_matches("http://").to_owned());
    let url = format!("s3://{}/bucket/base", cable.address);
    let mut command = place.plain_zvon();
    command.args(["--json", "--db", "notes.db", "--remote", &url, "watch", "--interval", "1s"]);
    let watch = Watch::spawn(command.envs(S3Server::settings()));
    assert_eq!(watch.event("synced")["pushed"], 2);
    cable.cut();
    place.sql("notes.db", "INSERT INTO notes (id, title) VALUES ('c', 'offline')");
    let failed = watch.event("failed");
    assert_eq!((&failed["error"]["kind"], &failed["again"]), (&"remote".into(), &false.into()));
    cable.mend();
    assert_eq!(watch.synced(pushed)["cause"], "retry");
    let (_, code, stderr) = watch.signal("-INT");
    assert_eq!(code, Some(0));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("warning: ") && stderr.contains("trying again until it works"), "{stderr}");
}

#[test]
fn people_read_a_line_for_each_sync_that_moved_something() {
    let place = Place::with_clone();
    let mut command = place.plain_zvon();
    command.args(["--db", "notes.db", "watch", "--interval", "1d"]);
    let watch = Watch::spawn(&mut command);
    let untimed = |line: String| line.split_once(' ').unwrap().1.to_owned();
    assert!(untimed(watch.line()).starts_with("Watching notes.db, to sync with file://"));
    assert_eq!(untimed(watch.line()), "Up to date");
    place.sql("notes.db", "INSERT INTO notes (id, title) VALUES ('c', 'third')");
    let line = untimed(watch.line());
    assert!(line.starts_with("Pulled 0 changes, merged 0, pushed 1 ("), "{line}");
    let (lines, code, _) = watch.signal("-INT");
    assert_eq!((code, lines.into_iter().map(untimed).collect::<Vec<_>>()), (Some(0), vec!["Stopped watching".into()]));
}

#[test]
fn a_reader_that_goes_ends_it() {
    let place = Place::with_clone();
    let mut command = place.plain_zvon();
    let mut child = command.args(["--json", "--db", "notes.db", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    place.sql("notes.db", "INSERT INTO notes (id, title) VALUES ('c', 'third')");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_interval_is_a_span_of_time() {
    let place = Place::with_notes();
    for wrong in ["0s", "soon", "5"] {
        place.run(["--db", "notes.db", "watch", "--interval", wrong]).refused(2, &["--interval"]);
    }
}
