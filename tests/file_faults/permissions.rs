//! Folders and files that a user may not read or write, and a disk that fails to read one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::NOTES;
use super::common::{self, *};
use super::failing_calls::{Errno, failing_calls};

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
