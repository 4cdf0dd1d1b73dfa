//! A folder of its own for each test, the commands run in it, and plain SQLite beside them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub const SCHEMA: &str = "
    CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL DEFAULT '');
    INSERT INTO notes (id, title) VALUES ('a', 'first'), ('b', 'second');";

/// A folder that is gone with the test.
pub struct Place {
    folder: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Stdout as the one document that it must be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts how it ended, showing everything where it did not.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts that it failed as errors should: one sentence on stderr, nothing on stdout.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        let ran = self.ended_with(code, words);
        assert_eq!(ran.stdout, "", "{ran:#?}");
        ran
    }

    /// Asserts that it ended with an error of one sentence, whatever was done before.
    #[track_caller]
    pub fn ended_with(self, code: i32, words: &[&str]) -> Self {
        let ran = self.ended(code);
        assert!(ran.stderr.starts_with("error: "), "{ran:#?}");
        assert!(!ran.stderr.contains("backtrace") && !ran.stderr.contains("panicked"), "{ran:#?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{word:?} is not said: {ran:#?}");
        }
        ran
    }
}

impl Place {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// A folder whose `notes.db` is a replica that tracks its table, with `shared` as its remote.
    pub fn with_notes() -> Self {
        let place = Self::new();
        place.sql("notes.db", SCHEMA);
        place.run(["init", "notes.db", "--remote", "shared"]).ended(0);
        place.run(["--db", "notes.db", "track", "notes"]).ended(0);
        place
    }

    /// The same, synced, and cloned to `other.db`.
    pub fn with_clone() -> Self {
        let place = Self::with_notes();
        place.run(["--db", "notes.db", "sync"]).ended(0);
        place.run(["clone", "shared", "other.db"]).ended(0);
        place
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The binary, in this folder, with nothing from the environment that could steer it.
    pub fn zvon(&self) -> Command {
        let mut command = Command::from_std(self.plain_zvon());
        command.timeout(std::time::Duration::from_secs(60));
        command
    }

    /// The same, to be spawned.
    pub fn plain_zvon(&self) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_zvon"));
        command.current_dir(self.folder.path()).env("TMPDIR", self.folder.path());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["ZVON_", "AWS_", "RUST_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        ran(self.zvon().args(args))
    }

    /// Runs `--json` with what is given, and reads the answer of a command that is done.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.run([&["--json"], args].concat()).ended(0).json()
    }

    /// Writes as any program would.
    pub fn sql(&self, database: &str, sql: &str) {
        Connection::open(self.path(database)).unwrap().execute_batch(sql).unwrap();
    }

    /// The first column of what any program would read.
    pub fn query(&self, database: &str, sql: &str) -> Vec<String> {
        let connection = Connection::open(self.path(database)).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
}

pub fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The names of an object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
