//! Each command of the program while a system call of its fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rusqlite::Connection;
use tempfile::TempDir;
use zvon::{Replica, SyncOptions};

use super::NOTES;
use super::common::*;

/// So many calls of each kind fail in each command, unless `ZVON_FAULTS` says how many.
const USUAL: usize = 3;

/// Calls and the errors with which they fail.
const CALLS: [(&str, &[Errno]); 7] = [
    ("sync", &[Errno::Eio, Errno::Enospc]),
    ("write", &[Errno::Enospc, Errno::Eio]),
    ("open", &[Errno::Eacces, Errno::Emfile, Errno::Erofs]),
    ("rename", &[Errno::Eacces, Errno::Eio, Errno::Erofs]),
    ("unlink", &[Errno::Eacces, Errno::Erofs]),
    ("mkdir", &[Errno::Eacces, Errno::Enospc, Errno::Erofs]),
    ("truncate", &[Errno::Eio, Errno::Eacces]),
];

/// The numbers that Linux gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    Eio = 5,
    Eacces = 13,
    Emfile = 24,
    Enospc = 28,
    Erofs = 30,
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// The library that lets calls fail, made once; nothing where that cannot be.
pub fn failing_calls() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if !cfg!(target_os = "linux") {
            println!("SKIPPED: calls are made to fail by LD_PRELOAD, which is Linux's");
            return None;
        }
        if !is_here("cc", &["--version"]) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("failing_calls.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/failing_calls.c");
        let mut cc = Command::new("cc");
        cc.args(["-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        let done = cc.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Some((dir, library))
    });
    built.as_ref().map(|(_, library)| library.as_path())
}

/// A call that is to fail.
#[derive(Debug, Clone, Copy)]
struct Failing {
    call: &'static str,
    /// From 1; 0 only counts.
    at: usize,
    errno: Errno,
    /// Whether all after it fail too.
    on: bool,
}

/// The commands whose calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Init,
    Track,
    PushFiles,
    PushPacks,
    Pull,
    Clone,
    Compact,
    AlterBegin,
    AlterEnd,
}

impl Work {
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Init => &["init", "a.db", "--remote", "shared"],
            Self::Track => &["--db", "a.db", "track", "--all"],
            Self::PushFiles | Self::PushPacks | Self::Pull => &["--db", "a.db", "sync"],
            Self::Clone => &["clone", "shared", "c.db"],
            Self::Compact => &["--db", "a.db", "compact"],
            Self::AlterBegin => &["--db", "a.db", "alter", "begin", "note"],
            Self::AlterEnd => &["--db", "a.db", "alter", "end", "note"],
        }
    }
}

/// Two databases and the folder between them, always at one path; it is put back as it was before each fault.
struct World {
    home: TempDir,
    work: Work,
    /// The rows that all have in the end.
    rows: Vec<String>,
}

impl World {
    fn new(work: Work) -> Self {
        let mut world = Self { home: tempfile::tempdir().unwrap(), work, rows: Vec::new() };
        fs::create_dir(world.now()).unwrap();
        for name in ["a.db", "b.db"] {
            world.sql(name, NOTES);
        }
        world.write("a.db", "first-", 3);
        world.complete(&["init", "b.db", "--remote", "shared"]);
        world.complete(&["--db", "b.db", "track", "--all"]);
        world.write("b.db", "theirs-", 2);
        if work != Work::Init {
            world.complete(&["init", "a.db", "--remote", "shared"]);
        }
        if !matches!(work, Work::Init | Work::Track) {
            world.complete(&["--db", "a.db", "track", "--all"]);
            for name in ["a.db", "b.db", "a.db"] {
                world.complete(&["--db", name, "sync", "--join", "same"]);
            }
        }
        world.prepare();
        world.rows = [world.notes("a.db"), world.notes("b.db")].concat();
        world.rows.sort();
        world.rows.dedup();
        copy(&world.now(), &world.home.path().join("before"));
        world
    }

    fn prepare(&self) {
        match self.work {
            Work::Init | Work::Track => {}
            Work::PushFiles => self.write("a.db", "file-", 3),
            Work::PushPacks => self.write("a.db", "pack-", 60),
            Work::Pull | Work::Clone => {
                self.write("b.db", "pack-", 60);
                self.complete(&["--db", "b.db", "sync"]);
                self.write("b.db", "file-", 2);
                self.complete(&["--db", "b.db", "sync"]);
            }
            Work::Compact => {
                self.write("a.db", "pack-", 30);
                self.complete(&["--db", "a.db", "sync"]);
                self.write("a.db", "file-", 2);
            }
            Work::AlterBegin => self.write("a.db", "file-", 2),
            Work::AlterEnd => {
                self.complete(&["--db", "a.db", "alter", "begin", "note"]);
                self.sql("a.db", "ALTER TABLE note RENAME COLUMN body TO text");
                self.write("a.db", "file-", 2);
            }
        }
    }

    fn now(&self) -> PathBuf {
        self.home.path().join("now")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.now().join(name)
    }

    fn restore(&self) {
        fs::remove_dir_all(self.now()).unwrap();
        copy(&self.home.path().join("before"), &self.now());
    }

    fn sql(&self, name: &str, sql: &str) {
        Connection::open(self.path(name)).unwrap().execute_batch(sql).unwrap();
    }

    /// Another program's commit.
    fn write(&self, name: &str, prefix: &str, rows: usize) {
        let sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
                   INSERT INTO note SELECT ?1 || i, 'row ' || i FROM n";
        Connection::open(self.path(name)).unwrap().execute(sql, (prefix, rows)).unwrap();
    }

    fn notes(&self, name: &str) -> Vec<String> {
        rows(&Connection::open(self.path(name)).unwrap(), "SELECT * FROM note ORDER BY id")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zvon"));
        command.args(args).current_dir(self.now()).stdin(Stdio::null());
        command
    }

    fn complete(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs the command while a call fails; what it said, and the paths of the calls that failed.
    fn fail(&self, library: &Path, failing: Failing) -> (Output, Vec<String>) {
        let log = self.home.path().join("log");
        let _ = fs::remove_file(&log);
        let mut command = self.command(self.work.args());
        command.env("LD_PRELOAD", library).env("FAIL_CALL", failing.call).env("FAIL_PATH", self.now());
        command.env("FAIL_AT", failing.at.to_string()).env("FAIL_ERRNO", (failing.errno as i32).to_string());
        command.env("FAIL_LOG", &log);
        if failing.on {
            command.env("FAIL_ON", "1");
        }
        let output = command.output().unwrap();
        let failed = fs::read_to_string(&log).unwrap_or_default();
        (output, failed.lines().map(str::to_owned).collect())
    }

    /// How many calls of a kind the command makes.
    fn count(&self, library: &Path, call: &'static str) -> usize {
        self.restore();
        let (output, calls) = self.fail(library, Failing { call, at: 0, errno: Errno::Eio, on: false });
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        calls.len()
    }

    /// Fails a call and looks at what is left, at once and after the same command without faults.
    fn try_out(&self, library: &Path, failing: Failing) {
        self.restore();
        let (output, failed) = self.fail(library, failing);
        let told = format!("{:?} with {failing:?} of {failed:?}", self.work);
        assert!(!failed.is_empty(), "{told}: no call failed");
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => assert!(failed.iter().all(|path| self.may_be_ignored(failing.call, path)), "{told} is not told"),
            Some(1) => assert!(says_what_and_where(&said), "{told}: {said}"),
            other => panic!("{told} ends with {other:?}: {said}"),
        }
        for name in ["a.db", "b.db", "c.db"].iter().filter(|name| self.path(name).exists()) {
            let conn = Connection::open(self.path(name)).unwrap();
            assert_eq!(rows(&conn, "PRAGMA integrity_check"), ["'ok'"], "{told}");
        }
        self.finish(&told);
    }

    /// Whether a command may succeed although this call failed. SQLite passes over what no commit depends on: that a folder lists a
    /// new journal, that a log is carried over into the database when it is closed, that a new database has a log and no
    /// journal. A journal that stays takes the commit back when it is next opened, so a failure to remove one has to be told.
    fn may_be_ignored(&self, call: &str, path: &str) -> bool {
        let path = Path::new(path);
        let is_new = |name: &str| self.work == Work::Clone && path == self.path(name);
        let is_remote = path.starts_with(self.path("shared"));
        match call {
            // The log of a new database is synced at each commit, which tells, and once more before it is carried over.
            "sync" => !is_remote && path.is_dir() || ["c.db", "c.db-journal", "c.db-wal"].into_iter().any(is_new),
            "write" => is_new("c.db"),
            "truncate" => !is_remote,
            "unlink" => !is_remote && (!path.to_string_lossy().ends_with("-journal") || is_new("c.db-journal")),
            _ => false,
        }
    }

    /// The command again and what is to follow it, without faults: everybody has everything.
    fn finish(&self, told: &str) {
        let is_tracked = || {
            let sql =
                "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'note' AND name GLOB 'ZV_*_insert'";
            !rows(&Connection::open(self.path("a.db")).unwrap(), sql).is_empty()
        };
        match self.work {
            Work::Init => {
                self.complete(self.work.args());
                self.complete(Work::Track.args());
            }
            Work::AlterBegin => {
                if is_tracked() {
                    self.complete(self.work.args());
                }
                self.sql("a.db", "ALTER TABLE note RENAME COLUMN body TO text");
                self.complete(Work::AlterEnd.args());
            }
            Work::AlterEnd if is_tracked() => {}
            Work::Clone if self.is_whole_clone() => {}
            _ => self.complete(self.work.args()),
        }
        let mut names = vec!["a.db", "b.db"];
        if self.work == Work::Clone {
            names.push("c.db");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let remote = remote(self.path("shared").to_str().unwrap());
            let replicas: Vec<Replica> = names.iter().map(|name| Replica::open(self.path(name)).unwrap()).collect();
            let mut join = SyncOptions::default();
            join.join = Some(zvon::Join::Same);
            for replica in replicas.iter().chain(&replicas) {
                replica.sync(&remote, &join).await.unwrap();
            }
            for replica in &replicas {
                assert_eq!(table(replica, "note"), self.rows, "{told}");
                let report = replica.verify_remote(&remote).await.unwrap();
                assert_eq!(report.problems, [] as [String; 0], "{told}");
            }
        });
    }

    /// Whether the clone was done before a call failed that nothing depended on.
    fn is_whole_clone(&self) -> bool {
        self.path("c.db").exists()
            && Connection::open(self.path("c.db"))
                .unwrap()
                .prepare("SELECT * FROM note")
                .is_ok_and(|_| self.notes("c.db") == self.rows)
    }
}

/// An error and its causes, whose first line speaks of the database or of the folder.
fn says_what_and_where(said: &str) -> bool {
    let mut lines = said.lines();
    let first = lines.next().unwrap_or_default();
    let where_it_was = ["database", "disk", "/shared", ".db"].iter().any(|word| first.contains(word));
    first.starts_with("error: ") && where_it_was && lines.all(|line| line.starts_with("  because: "))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), &target).unwrap()),
        }
    }
}

/// Lets calls of each kind fail in a command.
fn sweep(work: Work) {
    let Some(library) = failing_calls() else { return };
    let seed = number("ZVON_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("ZVON_SEED={seed} fails these calls of {work:?} again");
    let mut rng = StdRng::seed_from_u64(seed as u64);
    let (world, mut failed) = (World::new(work), 0);
    for (call, errnos) in CALLS {
        let count = world.count(library, call);
        let mut places: Vec<usize> = (1..=count).collect();
        places.shuffle(&mut rng);
        places.truncate(number("ZVON_FAULTS").unwrap_or(USUAL));
        for (n, at) in places.iter().copied().enumerate() {
            let failing = Failing { call, at, errno: errnos[n % errnos.len()], on: n % 2 == 1 };
            world.try_out(library, failing);
            failed += 1;
        }
        println!("{work:?}: {} of {count} calls of {call} failed", places.len());
    }
    assert!(failed >= 5, "{work:?} makes few calls: {failed}");
}

#[test]
fn calls_that_fail_in_init() {
    sweep(Work::Init);
}

#[test]
fn calls_that_fail_in_track() {
    sweep(Work::Track);
}

#[test]
fn calls_that_fail_in_a_push_of_files() {
    sweep(Work::PushFiles);
}

#[test]
fn calls_that_fail_in_a_push_of_packs() {
    sweep(Work::PushPacks);
}

#[test]
fn calls_that_fail_in_a_pull() {
    sweep(Work::Pull);
}

#[test]
fn calls_that_fail_in_a_clone() {
    sweep(Work::Clone);
}

#[test]
fn calls_that_fail_in_a_compaction() {
    sweep(Work::Compact);
}

#[test]
fn calls_that_fail_in_alter() {
    sweep(Work::AlterBegin);
    sweep(Work::AlterEnd);
}

/// Between the listing, which works, and the second file that is put the permission goes, and comes back.
#[test]
fn a_permission_that_goes_between_the_list_and_the_put_is_told_of() {
    let Some(library) = failing_calls() else { return };
    let world = World::new(Work::PushFiles);
    let failing = Failing { call: "open", at: 1, errno: Errno::Eacces, on: true };
    let mut command = world.command(world.work.args());
    command.env("LD_PRELOAD", library).env("FAIL_CALL", failing.call).env("FAIL_PATH", world.path("shared/changes"));
    command.env("FAIL_AT", "2").env("FAIL_ON", "1").env("FAIL_ERRNO", (failing.errno as i32).to_string());
    let output = command.env("FAIL_LOG", world.home.path().join("log")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in ["error: cannot write", "/shared/changes/", "check the folder's permissions"] {
        assert!(said.contains(words), "{said}");
    }
    world.finish("a permission that went");
}
