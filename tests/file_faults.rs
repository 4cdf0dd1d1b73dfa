//! System calls that fail under the built `zvon`, and folders that may not be written: the message says what and where, the database
//! is sound, nothing is lost, the same command then does its work, and the other replica gets everything.
//!
//! `cargo test --test file_faults` fails some calls of each command; `ZVON_SEED` chooses others, `ZVON_FAULTS` says how many of each
//! kind, `ZVON_FAULTS=100000` is all of them.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use common::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rusqlite::Connection;
use tempfile::TempDir;
use zvon::{Replica, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";
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
enum Errno {
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
fn failing_calls() -> Option<&'static Path> {
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

/// Root may do everything, and so proves nothing: nobody is the user then.
const NOBODY: u32 = 65_534;

/// Two replicas and the folder between them, and a user whom permissions bind.
struct Bound {
    home: TempDir,
    zvon: PathBuf,
    is_root: bool,
}

impl Bound {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let is_root = fs::metadata(home.path()).unwrap().uid() == 0;
        let mut zvon = PathBuf::from(env!("CARGO_BIN_EXE_zvon"));
        if is_root {
            // What lies below root's own folders, nobody else may run.
            let copied = home.path().join("zvon");
            fs::hard_link(&zvon, &copied).or_else(|_| fs::copy(&zvon, &copied).map(|_| ())).unwrap();
            zvon = copied;
        }
        let bound = Self { home, zvon, is_root };
        bound.permit("", 0o755);
        for folder in ["data", "shared"] {
            fs::create_dir(bound.path(folder)).unwrap();
            bound.give(folder);
        }
        for name in ["data/a.db", "data/b.db"] {
            bound.sql(name, NOTES);
            bound.give(name);
            bound.done(&["init", name, "--remote", "shared"]);
            bound.done(&["--db", name, "track", "--all"]);
            bound.sql(name, &format!("INSERT INTO note VALUES ('{name}', 'first')"));
            bound.done(&["--db", name, "sync", "--join", "same"]);
        }
        bound.done(&["--db", "data/a.db", "sync"]);
        bound
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn permit(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn give(&self, name: &str) {
        if self.is_root {
            chown(self.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn sql(&self, name: &str, sql: &str) {
        Connection::open(self.path(name)).unwrap().execute_batch(sql).unwrap();
    }

    fn notes(&self, name: &str) -> Vec<String> {
        rows(&Connection::open(self.path(name)).unwrap(), "SELECT id FROM note ORDER BY id")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.zvon);
        command.args(args).current_dir(self.home.path()).stdin(Stdio::null()).env("HOME", self.home.path());
        if self.is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    fn done(&self, args: &[&str]) -> String {
        let (code, said) = self.run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        said
    }

    fn fails(&self, args: &[&str], words: &[&str]) {
        self.ends(1, args, words);
    }

    fn ends(&self, with: i32, args: &[&str], words: &[&str]) {
        let (code, said) = self.run(args);
        assert_eq!(code, Some(with), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: {said}");
        }
    }

    /// A file that may not be read is told of when a sync meets it first, then counted, and listed by `status`.
    fn is_told_of_once(&self, db: &str, file: &str) {
        let words = [file, "may not read it; check its permissions"];
        self.ends(3, &["--db", db, "sync"], &words);
        self.ends(0, &["--db", db, "sync"], &["1 file on the remote still cannot be read"]);
        self.ends(0, &["--db", db, "status"], &words);
    }

    /// Everybody syncs, is whole, and has so many rows.
    fn assert_mended(&self, rows_in_all: usize) {
        for name in ["data/a.db", "data/b.db", "data/a.db"] {
            self.done(&["--db", name, "sync"]);
        }
        assert_eq!(self.notes("data/a.db"), self.notes("data/b.db"));
        assert_eq!(self.notes("data/a.db").len(), rows_in_all);
        for name in ["data/a.db", "data/b.db"] {
            assert_eq!(rows(&Connection::open(self.path(name)).unwrap(), "PRAGMA integrity_check"), ["'ok'"]);
            self.done(&["--db", name, "verify", "--remote"]);
        }
    }
}

#[test]
fn a_database_that_may_not_be_written_is_told_of_and_left_alone() {
    let bound = Bound::new();
    bound.sql("data/a.db", "INSERT INTO note VALUES ('new', 'x')");
    for (name, closed, open) in [("data", 0o555, 0o755), ("data/a.db", 0o444, 0o644)] {
        bound.permit(name, closed);
        for args in [&["sync"][..], &["compact"], &["untrack", "note"]] {
            let args = [&["--db", "data/a.db"], args].concat();
            bound.fails(&args, &["error: the database", "folder writable"]);
        }
        bound.permit(name, open);
    }
    bound.assert_mended(3);
}

#[test]
fn a_remote_that_may_not_be_written_is_read_and_a_push_names_it() {
    let bound = Bound::new();
    bound.sql("data/b.db", "INSERT INTO note VALUES ('theirs', 'x')");
    bound.done(&["--db", "data/b.db", "sync"]);
    let folders = ["shared", "shared/changes", "shared/schemas", "shared/identity"];
    folders.iter().for_each(|folder| bound.permit(folder, 0o555));
    // Who has nothing to push needs no permission to.
    bound.done(&["--db", "data/a.db", "sync"]);
    assert_eq!(bound.notes("data/a.db").len(), 3);
    bound.done(&["clone", "shared", "data/c.db"]);
    bound.sql("data/a.db", "INSERT INTO note VALUES ('mine', 'x')");
    bound.fails(
        &["--db", "data/a.db", "sync"],
        &["error: cannot write", "/shared/changes/", "check the folder's permissions"],
    );
    let status = bound.done(&["--db", "data/a.db", "--json", "status"]);
    assert!(status.contains("\"to_push\": 1"), "{status}");
    folders.iter().for_each(|folder| bound.permit(folder, 0o755));
    bound.assert_mended(4);
}

#[test]
fn a_remote_that_may_not_be_listed_is_not_taken_for_an_empty_one() {
    let bound = Bound::new();
    bound.sql("data/a.db", "INSERT INTO note VALUES ('mine', 'x')");
    for folder in ["shared", "shared/changes", "shared/identity"] {
        bound.permit(folder, 0o000);
        bound.fails(&["--db", "data/a.db", "sync"], &["error: cannot ", "/shared", "check the folder's permissions"]);
        bound.permit(folder, 0o755);
    }
    bound.assert_mended(3);
}

#[test]
fn a_file_that_may_not_be_read_is_named_and_the_others_are_taken() {
    let bound = Bound::new();
    bound.sql("data/b.db", "INSERT INTO note VALUES ('one', 'x'), ('two', 'x'), ('three', 'x')");
    let before = names_in(&bound, "changes");
    bound.done(&["--db", "data/b.db", "sync"]);
    let new: Vec<String> = names_in(&bound, "changes").into_iter().filter(|name| !before.contains(name)).collect();
    let name = format!("shared/changes/{}", new[1]);
    bound.permit(&name, 0o000);
    bound.is_told_of_once("data/a.db", &new[1]);
    assert_eq!(bound.notes("data/a.db").len(), 4);
    bound.permit(&name, 0o644);
    bound.assert_mended(5);
}

fn names_in(bound: &Bound, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(bound.path("shared").join(folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_pack_that_may_not_be_read_is_named_and_the_rest_is_taken() {
    let bound = Bound::new();
    let many = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                INSERT INTO note SELECT 'pack-' || i, 'x' FROM n";
    bound.sql("data/b.db", many);
    bound.done(&["--db", "data/b.db", "sync"]);
    bound.sql("data/b.db", "INSERT INTO note VALUES ('one', 'x')");
    bound.done(&["--db", "data/b.db", "sync"]);
    let pack = fs::read_dir(bound.path("shared/packs")).unwrap().next().unwrap().unwrap().file_name();
    let name = format!("shared/packs/{}", pack.to_str().unwrap());
    bound.permit(&name, 0o000);
    bound.is_told_of_once("data/a.db", pack.to_str().unwrap());
    assert_eq!(bound.notes("data/a.db").len(), 3);
    bound.permit(&name, 0o644);
    bound.assert_mended(43);
}

/// A bad sector: the rest is pulled, the file is told of, and whoever has its changes writes it anew.
#[test]
fn a_file_that_the_disk_fails_to_read_holds_up_no_other_and_is_put_back() {
    let Some(library) = failing_calls() else { return };
    for folder in ["changes", "packs"] {
        let bound = Bound::new();
        if folder == "packs" {
            let many = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                        INSERT INTO note SELECT 'pack-' || i, 'x' FROM n";
            bound.sql("data/b.db", many);
            bound.done(&["--db", "data/b.db", "sync"]);
        }
        bound.sql("data/b.db", "INSERT INTO note VALUES ('one', 'x')");
        let before = names_in(&bound, folder);
        bound.done(&["--db", "data/b.db", "sync"]);
        bound.sql("data/b.db", "INSERT INTO note VALUES ('two', 'x')");
        bound.done(&["--db", "data/b.db", "sync"]);
        let bad = match folder {
            "packs" => before[0].clone(),
            _ => names_in(&bound, folder).into_iter().find(|name| !before.contains(name)).unwrap(),
        };
        let run = |args: &[&str]| {
            let mut command = bound.command(args);
            command.env("LD_PRELOAD", library).env("FAIL_CALL", "read").env("FAIL_PATH", format!("{folder}/{bad}"));
            command.env("FAIL_AT", "1").env("FAIL_ON", "1").env("FAIL_ERRNO", (Errno::Eio as i32).to_string());
            command.env("FAIL_LOG", "/dev/null");
            let output = command.output().unwrap();
            let told = [&output.stdout[..], &output.stderr].concat();
            (output.status.code(), String::from_utf8(told).unwrap())
        };
        let (code, said) = run(&["--db", "data/a.db", "sync"]);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(&bad) && said.contains("the disk fails to read it"), "{said}");
        let there = bound.notes("data/a.db").len();
        assert_eq!(there, if folder == "packs" { 4 } else { 3 });
        let (code, said) = run(&["--db", "data/b.db", "verify", "--remote"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is unreadable or different on the remote"), "{said}");
        // It is written beside it and takes its name: other sectors, which can be read.
        let (code, said) = run(&["--db", "data/b.db", "sync", "--full"]);
        assert_eq!(code, Some(0), "{said}");
        bound.assert_mended(if folder == "packs" { 44 } else { 4 });
    }
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

/// A watch that has synced, and what it tells. Ends with the test, should it not have ended.
struct Watch {
    process: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    fn start(bound: &Bound) -> Self {
        let mut command = bound.command(&["--db", "data/a.db", "--json", "watch", "--interval", "1s"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let watch = Self { process, lines };
        watch.wait_for(&["\"synced\""]);
        watch
    }

    /// Waits for a line with all of some words.
    fn wait_for(&self, words: &[&str]) {
        let has_all = |line: String| words.iter().all(|word| line.contains(word));
        while !has_all(self.lines.recv_timeout(Duration::from_secs(30)).expect("a line within the deadline")) {}
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_watch_outlives_a_permission_that_goes_and_comes_back() {
    let bound = Bound::new();
    let watch = Watch::start(&bound);
    bound.permit("shared/changes", 0o555);
    bound.sql("data/a.db", "INSERT INTO note VALUES ('mine', 'x')");
    watch.wait_for(&["cannot write", "/shared/changes/", "check the folder's permissions"]);
    bound.permit("shared/changes", 0o755);
    watch.wait_for(&["\"synced\"", "\"pushed\":1"]);
    drop(watch);
    bound.assert_mended(3);
}

/// SQLite cannot make its journal for a while: a folder that lost a permission, or a disk without room for one more file.
#[test]
fn a_watch_outlives_a_database_whose_folder_is_read_only_for_a_while() {
    let bound = Bound::new();
    let watch = Watch::start(&bound);
    if bound.is_root {
        chown(bound.path("data"), Some(0), Some(0)).unwrap();
    }
    bound.permit("data", 0o555);
    watch.wait_for(&["\"failed\"", "the database"]);
    bound.give("data");
    bound.permit("data", 0o755);
    bound.sql("data/a.db", "INSERT INTO note VALUES ('mine', 'x')");
    watch.wait_for(&["\"synced\"", "\"pushed\":1"]);
    drop(watch);
    bound.assert_mended(3);
}

/// A definition, a layout, and a change whose time is still to come, each of which a permission or a bad sector keeps back.
#[test]
fn a_single_file_of_any_kind_that_cannot_be_read_holds_up_no_other() {
    for folder in ["schemas", "layout", "waiting"] {
        let bound = Bound::new();
        let known = if folder == "waiting" { Vec::new() } else { names_in(&bound, folder) };
        let bad = make_one_more(&bound, folder, &known);
        bound.sql("data/b.db", "INSERT INTO note VALUES ('after', 'x')");
        bound.done(&["--db", "data/b.db", "sync"]);
        bound.permit(&bad, 0o000);
        let told = if folder == "schemas" { 3 } else { 0 };
        bound.ends(told, &["--db", "data/a.db", "sync"], &[]);
        bound.done(&["--db", "data/a.db", "sync"]);
        assert_eq!(bound.notes("data/a.db").len(), 3, "{folder}");
        bound.permit(&bad, 0o644);
        if let Some(library) = failing_calls() {
            bound.sql("data/b.db", "INSERT INTO note VALUES ('again', 'x')");
            bound.done(&["--db", "data/b.db", "sync"]);
            let mut command = bound.command(&["--db", "data/a.db", "sync"]);
            command.env("LD_PRELOAD", library).env("FAIL_CALL", "read").env("FAIL_PATH", &bad);
            command.env("FAIL_AT", "1").env("FAIL_ON", "1").env("FAIL_ERRNO", (Errno::Eio as i32).to_string());
            let output = command.env("FAIL_LOG", "/dev/null").output().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(matches!(output.status.code(), Some(0 | 3)), "{folder}: {said}");
            assert_eq!(bound.notes("data/a.db").len(), 4, "{folder}");
        }
    }
}

/// To count the rows that meet, files are read before anything is known of them.
#[test]
fn a_file_that_may_not_be_read_does_not_hide_how_to_join() {
    let bound = Bound::new();
    bound.sql("data/x.db", NOTES);
    bound.give("data/x.db");
    bound.done(&["init", "data/x.db", "--remote", "shared"]);
    bound.done(&["--db", "data/x.db", "track", "--all"]);
    bound.sql("data/x.db", "INSERT INTO note VALUES ('data/b.db', 'another')");
    let name = format!("shared/changes/{}", names_in(&bound, "changes")[0]);
    bound.permit(&name, 0o000);
    let words = ["note: 1 of its 1 rows there are here too", "--join same"];
    bound.fails(&["--db", "data/x.db", "sync"], &words);
    bound.permit(&name, 0o644);
}

/// Puts one more file of a kind on the remote, by `b`, and says where.
fn make_one_more(bound: &Bound, folder: &str, known: &[String]) -> String {
    match folder {
        "schemas" => {
            bound.sql("data/b.db", "CREATE TABLE other (id TEXT PRIMARY KEY)");
            bound.done(&["--db", "data/b.db", "track", "other"]);
            bound.done(&["--db", "data/b.db", "sync"]);
        }
        "layout" => drop(bound.done(&["--db", "data/b.db", "sync", "--layout", "files"])),
        _ => {
            // In the year 2100.
            let digits = format!("{:012x}", 4_102_444_800_000_u64);
            let id = format!("{}-{}-7000-8000-0123456789ab", &digits[..8], &digits[8..]);
            let change = common::shared_folder::note_change(&id, "late", &serde_json::json!({ "body": "x" }));
            let name = format!("shared/{}", common::shared_folder::file_name(&id));
            fs::write(bound.path(&name), common::shared_folder::msgpack(&change)).unwrap();
            bound.give(&name);
            return name;
        }
    }
    let new = names_in(bound, folder).into_iter().find(|name| !known.contains(name)).unwrap();
    format!("shared/{folder}/{new}")
}

/// Nobody knows what a remote is without its identity, nor for whom to seal what is written without its keys. Who has read them goes on.
#[test]
fn an_identity_or_a_key_file_that_cannot_be_read_is_named_with_what_to_do() {
    let bound = Bound::new();
    fs::create_dir(bound.path("sealed")).unwrap();
    bound.give("sealed");
    bound.done(&["key", "generate", "data/me.key"]);
    bound.sql("data/e.db", NOTES);
    bound.give("data/e.db");
    let with_key = |args: &[&'static str]| [args, &["--key-file", "data/me.key"]].concat();
    bound.done(&with_key(&["init", "data/e.db", "--remote", "sealed", "--encrypt"]));
    bound.done(&["--db", "data/e.db", "track", "--all"]);
    bound.done(&with_key(&["--db", "data/e.db", "sync"]));
    let plain =
        (["clone", "shared", "data/c.db"].to_vec(), "shared", "identity", ["--db", "data/a.db", "sync"].to_vec());
    let sealed =
        (with_key(&["clone", "sealed", "data/c.db"]), "sealed", "keys", with_key(&["--db", "data/e.db", "sync"]));
    for (newcomer, remote, folder, member) in [plain, sealed] {
        let files = fs::read_dir(bound.path(remote).join(folder)).unwrap();
        let name = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).next().unwrap();
        let (path, name) = (format!("{remote}/{folder}/{name}"), format!("{folder}/{name}"));
        bound.permit(&path, 0o000);
        bound.fails(&newcomer, &[&name, "nothing was merged or pushed", "may not read it; check its permissions"]);
        bound.done(&member);
        bound.permit(&path, 0o644);
        if let Some(library) = failing_calls() {
            let mut command = bound.command(&newcomer);
            command.env("LD_PRELOAD", library).env("FAIL_CALL", "read").env("FAIL_PATH", &path);
            command.env("FAIL_AT", "1").env("FAIL_ON", "1").env("FAIL_ERRNO", (Errno::Eio as i32).to_string());
            let said = String::from_utf8(command.env("FAIL_LOG", "/dev/null").output().unwrap().stderr).unwrap();
            assert!(
                said.contains(&name) && said.contains("the disk fails to read it; remove it if that stays so"),
                "{said}"
            );
        }
        // A folder in its place: it is missing, and cannot be put back.
        let whole = fs::read(bound.path(&path)).unwrap();
        fs::remove_file(bound.path(&path)).unwrap();
        fs::create_dir(bound.path(&path)).unwrap();
        bound.fails(&member, &["cannot write", &name, "a folder lies where a file belongs; move it away"]);
        fs::remove_dir(bound.path(&path)).unwrap();
        // Damaged: who has read it before goes on, and once it is removed puts it back.
        fs::write(bound.path(&path), &whole[..9]).unwrap();
        bound.give(&path);
        bound.fails(
            &newcomer,
            &[&name, "nothing was merged or pushed", "sync again if it may still be on its way, else remove it"],
        );
        bound.done(&member);
        fs::remove_file(bound.path(&path)).unwrap();
        bound.done(&member);
        assert!(bound.path(&path).exists());
        bound.done(&newcomer);
        fs::remove_file(bound.path("data/c.db")).unwrap();
    }
}

#[test]
fn a_thorough_look_goes_on_beyond_a_file_that_may_not_be_read() {
    let bound = Bound::new();
    let many = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                INSERT INTO note SELECT 'pack-' || i, 'x' FROM n";
    bound.sql("data/b.db", many);
    bound.done(&["--db", "data/b.db", "sync"]);
    bound.done(&["--db", "data/a.db", "sync"]);
    for folder in ["changes", "packs"] {
        let name = format!("shared/{folder}/{}", names_in(&bound, folder)[0]);
        bound.permit(&name, 0o000);
        let words = [&name["shared/".len()..], "may not read it; check its permissions"];
        bound.ends(3, &["--db", "data/a.db", "sync", "--full"], &words);
        let id = name.rsplit('/').next().unwrap().split('.').next().unwrap();
        bound.ends(1, &["--db", "data/a.db", "verify", "--remote"], &[id, "may not be read by this user"]);
        bound.permit(&name, 0o644);
    }
    bound.assert_mended(42);
}

/// Who may write and not delete was told after every sync that a file is no folder.
#[test]
fn whoever_may_not_delete_is_told_so_once_in_a_while() {
    let Some(library) = failing_calls() else { return };
    let bound = Bound::new();
    bound.done(&["--db", "data/a.db", "compact"]);
    let long_ago = "UPDATE ZV_PACK SET seen_ms = seen_ms - 1000000000; \
                    UPDATE ZV_LOOSE SET packed_ms = packed_ms - 1000000000 WHERE packed_ms > 0";
    bound.sql("data/a.db", long_ago);
    let sync = || {
        let mut command = bound.command(&["--db", "data/a.db", "sync"]);
        command.env("LD_PRELOAD", library).env("FAIL_CALL", "unlink").env("FAIL_PATH", "shared/changes");
        command.env("FAIL_AT", "1").env("FAIL_ON", "1").env("FAIL_ERRNO", (Errno::Eacces as i32).to_string());
        let output = command.env("FAIL_LOG", "/dev/null").output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = sync();
    assert!(said.contains("cannot delete") && said.contains("check the folder's permissions"), "{said}");
    assert_eq!(sync(), "");
    bound.done(&["--db", "data/a.db", "compact"]);
    assert_eq!(names_in(&bound, "changes").len(), 0);
    bound.assert_mended(2);
}
