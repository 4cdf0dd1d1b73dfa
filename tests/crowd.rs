//! A crowd at one database: eight programs write it, two sync it over and over, one watches it, and another replica sends what is to
//! be merged meanwhile. Nobody waits for ever, and nothing is lost.
//!
//! `cargo test --test crowd` lasts some seconds; `ZVON_SECONDS=180` as long as one likes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rusqlite::{Connection, ErrorCode};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT);
                     CREATE TABLE visit (id INTEGER PRIMARY KEY, note TEXT REFERENCES note)";
const PART: &str = "ZVON_TEST_CROWD";
/// How long a writer waits for the others.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same writer as [`write_on`], in another language.
const PYTHON: &str = r#"
import sqlite3, sys, time
name, path, seconds, patience = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
db = sqlite3.connect(path, timeout=patience, isolation_level=None)
until, commits, busy, longest = time.monotonic() + seconds, 0, 0, 0.0
while time.monotonic() < until:
    began = time.monotonic()
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        busy += 1
        continue
    longest = max(longest, time.monotonic() - began)
    db.execute("INSERT INTO note VALUES (?, 'x')", (f"{name}-{commits}",))
    db.execute("INSERT INTO visit (note) VALUES (?)", (f"{name}-{commits}",))
    db.execute("COMMIT")
    commits += 1
    time.sleep(0.005)
print(f"WROTE {commits} {busy} {int(longest * 1000)}")
"#;

/// What a writer reports: commits, refusals for want of the lock, its longest wait in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Wrote {
    commits: u64,
    busy: u64,
    longest_ms: u64,
}

fn write_on(name: &str, path: &str, duration: Duration) -> Wrote {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(PATIENCE).unwrap();
    let (until, mut wrote) = (Instant::now() + duration, Wrote::default());
    while Instant::now() < until {
        let began = Instant::now();
        match conn.execute_batch("BEGIN IMMEDIATE") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                wrote.busy += 1;
                continue;
            }
            other => other.unwrap(),
        }
        wrote.longest_ms = wrote.longest_ms.max(began.elapsed().as_millis() as u64);
        let id = format!("{name}-{}", wrote.commits);
        conn.execute("INSERT INTO note VALUES (?1, 'x')", [&id]).unwrap();
        conn.execute("INSERT INTO visit (note) VALUES (?1)", [&id]).unwrap();
        conn.execute_batch("COMMIT").unwrap();
        wrote.commits += 1;
        // Somebody typing, if fast; without it eight of them would only measure who gets the lock.
        thread::sleep(Duration::from_millis(5));
    }
    wrote
}

/// The part of another process.
#[test]
fn writer() {
    let Ok(part) = std::env::var(PART) else { return };
    let [name, path, ms] = &part.split('|').collect::<Vec<_>>()[..] else { panic!("{part}") };
    let Wrote { commits, busy, longest_ms } = write_on(name, path, Duration::from_millis(ms.parse().unwrap()));
    println!("WROTE {commits} {busy} {longest_ms}");
}

fn start_writer(name: &str, path: &Path, duration: Duration, in_python: bool) -> Child {
    let mut command = if in_python {
        let mut python = Command::new("python3");
        let seconds = [duration.as_secs_f64().to_string(), PATIENCE.as_secs().to_string()];
        python.args(["-c", PYTHON, name]).arg(path).args(seconds);
        python
    } else {
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args(["--exact", "writer", "--nocapture"]);
        own.env(PART, format!("{name}|{}|{}", path.display(), duration.as_millis()));
        own
    };
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn report(writer: Child) -> Wrote {
    let output = writer.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("WROTE ")).expect("a writer reports").1;
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    Wrote { commits: numbers[0], busy: numbers[1], longest_ms: numbers[2] }
}

struct Site {
    home: tempfile::TempDir,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn zvon(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zvon"));
        command.args(args).current_dir(self.home.path()).stdin(Stdio::null());
        command
    }

    fn done(&self, args: &[&str]) {
        let output = self.zvon(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Syncs a database over and over. Returns how often.
    fn sync_until(&self, name: &str, until: Instant) -> u64 {
        let mut syncs = 0;
        while Instant::now() < until {
            self.done(&["--db", name, "sync"]);
            syncs += 1;
        }
        syncs
    }

    /// Another machine at work: it writes and syncs, so that there is always something to merge.
    fn work_elsewhere(&self, until: Instant) -> u64 {
        let mut rows = 0;
        while Instant::now() < until {
            let mut conn = Connection::open(self.path("b.db")).unwrap();
            let tx = conn.transaction().unwrap();
            for _ in 0..200 {
                tx.execute("INSERT INTO note VALUES ('elsewhere-' || ?1, 'y')", [rows]).unwrap();
                rows += 1;
            }
            tx.commit().unwrap();
            self.done(&["--db", "b.db", "sync"]);
        }
        rows
    }
}

#[test]
fn eight_write_two_sync_and_one_watches() {
    let seconds = std::env::var("ZVON_SECONDS").map_or(8, |text| text.parse().expect("ZVON_SECONDS is a number"));
    let (duration, site) = (Duration::from_secs(seconds), Site { home: tempfile::tempdir().unwrap() });
    for name in ["a.db", "b.db"] {
        Connection::open(site.path(name)).unwrap().execute_batch(NOTES).unwrap();
        site.done(&["init", name, "--remote", "shared"]);
        site.done(&["--db", name, "track", "--all"]);
        site.done(&["--db", name, "sync"]);
    }
    let in_python = is_here("python3", &["-c", "import sqlite3"]);
    let log = fs::File::create(site.path("watch.log")).unwrap();
    let mut watch = site.zvon(&["--db", "a.db", "watch"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();

    let (path, until) = (site.path("a.db"), Instant::now() + duration);
    let writers: Vec<Child> =
        (0..8).map(|n| start_writer(&format!("w{n}"), &path, duration, in_python && n % 2 == 0)).collect();
    let (syncs, elsewhere) = thread::scope(|scope| {
        let syncs = [(); 2].map(|()| scope.spawn(|| site.sync_until("a.db", until)));
        let elsewhere = scope.spawn(|| site.work_elsewhere(until));
        (syncs.map(|handle| handle.join().unwrap()), elsewhere.join().unwrap())
    });
    let wrote: Vec<Wrote> = writers.into_iter().map(report).collect();
    assert!(
        watch.try_wait().unwrap().is_none(),
        "the watch ended: {}",
        fs::read_to_string(site.path("watch.log")).unwrap()
    );
    let id = watch.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(watch.wait().unwrap().success());

    let commits: u64 = wrote.iter().map(|wrote| wrote.commits).sum();
    let longest = wrote.iter().map(|wrote| wrote.longest_ms).max().unwrap();
    println!(
        "{commits} commits in {seconds} s, {syncs:?} syncs, {elsewhere} rows from elsewhere, longest wait {longest} ms"
    );
    for wrote in &wrote {
        assert!(wrote.commits > 0 && wrote.busy == 0, "{wrote:?}");
    }
    for name in ["a.db", "b.db", "a.db"] {
        site.done(&["--db", name, "sync"]);
    }
    for name in ["a.db", "b.db"] {
        let conn = Connection::open(site.path(name)).unwrap();
        for (n, wrote) in wrote.iter().enumerate() {
            let sql = format!(
                "SELECT count(*), count(v.id) FROM note AS n LEFT JOIN visit AS v ON v.note = n.id WHERE n.id GLOB 'w{n}-*'"
            );
            assert_eq!(rows(&conn, &sql), [format!("{0}|{0}", wrote.commits)], "writer {n} in {name}");
        }
        let there = rows(&conn, "SELECT count(*) FROM note WHERE id GLOB 'elsewhere-*'");
        assert_eq!(there, [elsewhere.to_string()], "{name}");
        assert_eq!(rows(&conn, "PRAGMA integrity_check"), ["'ok'"]);
        site.done(&["--db", name, "verify", "--remote"]);
    }
}
