//! Whatever a full run prints, at the most verbose level there is, holds no value of a user's row and no secret.

mod common;
#[path = "common/s3_server.rs"]
mod s3_server;

use std::path::PathBuf;
use std::process::Command;

use rusqlite::Connection;
use s3_server::S3Server;
use tempfile::TempDir;

/// What users wrote: as text, as a key, in a blob, as a number.
const VALUES: [&str; 5] = ["PlantedDiagnosis", "PlantedPatient", "PlantedBlob", "8675309731", "PlantedLoser"];
const PASSPHRASE: &str = "planted horse battery staple";
const NEW_PASSPHRASE: &str = "planted anew and longer";
const WRONG_PASSPHRASE: &str = "planted but wrong";

/// A folder, the commands run in it, and all that they printed.
struct Run {
    folder: TempDir,
    server: S3Server,
    printed: Vec<(String, String)>,
}

impl Run {
    fn new() -> Self {
        let run = Self {
            folder: TempDir::new().unwrap(),
            server: S3Server::start(&["bucket"]).unwrap(),
            printed: Vec::new(),
        };
        for (name, text) in [("pass", PASSPHRASE), ("new", NEW_PASSPHRASE), ("wrong", WRONG_PASSPHRASE)] {
            std::fs::write(run.path(name), text).unwrap();
        }
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sql(&self, database: &str, sql: &str) {
        Connection::open(self.path(database)).unwrap().execute_batch(sql).unwrap();
    }

    /// Runs a command with every library telling all that it can.
    fn zvon(&mut self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zvon"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["ZVON_", "AWS_", "RUST_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.envs(S3Server::settings()).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
        let json = if self.printed.len().is_multiple_of(2) { &["--json"][..] } else { &[] };
        let output = command.current_dir(self.folder.path()).args(json).args(args).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        let line = format!("zvon {} (exit {:?})", args.join(" "), output.status.code());
        self.printed.push((line, String::from_utf8_lossy(&printed).into_owned()));
    }

    /// Two replicas of one remote, with all that may go right and wrong.
    fn story(&mut self, remote: &str, secret: &[&str], wrong: &[&str]) {
        let (a, b) = (["--db", "a.db"], ["--db", "b.db"]);
        let _ = (std::fs::remove_file(self.path("a.db")), std::fs::remove_file(self.path("b.db")));
        self.sql(
            "a.db",
            "CREATE TABLE patient (id TEXT PRIMARY KEY, diagnosis TEXT, photo BLOB, phone INTEGER CHECK (phone <> 5));
             INSERT INTO patient VALUES ('PlantedPatient', 'PlantedDiagnosis', CAST('PlantedBlob' AS BLOB), 8675309731)",
        );
        self.zvon(&[&["init", "a.db", "--remote", remote, "--encrypt"], secret].concat());
        self.zvon(&[&a[..], &["track", "--all"]].concat());
        self.zvon(&[&a[..], &["sync"], secret].concat());
        self.zvon(&[&["clone", remote, "b.db"], secret].concat());
        self.sql("a.db", "UPDATE patient SET diagnosis = 'PlantedDiagnosis 2'");
        self.sql("b.db", "UPDATE patient SET diagnosis = 'PlantedLoser'");
        for db in [a, b, a] {
            self.zvon(&[&db[..], &["sync"], secret].concat());
        }
        for command in [&["status"][..], &["held"], &["verify"], &["track", "missing"], &["untrack", "nothing"]] {
            self.zvon(&[&a[..], command].concat());
        }
        let commands: [&[&str]; 5] =
            [&["verify", "--remote"], &["sync", "--full"], &["compact"], &["key", "rotate"], &["status", "--remote"]];
        for command in commands {
            self.zvon(&[&a[..], command, secret].concat());
            self.zvon(&[&a[..], command].concat());
        }
        for command in [&["sync"][..], &["key", "list"]] {
            self.zvon(&[&a[..], command, wrong].concat());
        }
    }
}

#[test]
fn a_full_run_at_the_most_verbose_level_prints_no_value_and_no_secret() {
    let mut run = Run::new();
    run.zvon(&["key", "generate", "me.key"]);
    run.zvon(&["key", "generate", "other.key"]);
    let folder = run.path("shared");
    run.story(folder.to_str().unwrap(), &["--passphrase-file", "pass"], &["--passphrase-file", "wrong"]);
    run.zvon(&["--db", "a.db", "key", "rotate", "--passphrase-file", "pass", "--new-passphrase-file", "new"]);
    run.zvon(&["--db", "a.db", "sync", "--passphrase-file", "pass"]);
    // A file that is spoilt, and one that is none of ours.
    for file in std::fs::read_dir(folder.join("changes")).unwrap() {
        std::fs::write(file.unwrap().path(), b"PlantedDiagnosis").unwrap();
    }
    run.zvon(&["clone", folder.to_str().unwrap(), "c.db", "--passphrase-file", "new"]);
    run.zvon(&["--db", "a.db", "sync", "--full", "--passphrase-file", "new"]);
    run.zvon(&["--db", "b.db", "sync", "--db-key-file", "pass", "--passphrase-file", "new"]);
    let bucket = run.server.url("bucket/notes");
    run.story(&bucket, &["--key-file", "me.key"], &["--key-file", "other.key"]);

    let key = |name: &str| {
        let text = std::fs::read_to_string(run.path(name)).unwrap();
        text.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap().to_owned()
    };
    let secrets = [PASSPHRASE, NEW_PASSPHRASE, WRONG_PASSPHRASE, S3Server::SECRET].map(str::to_owned);
    let planted = VALUES.map(str::to_owned).into_iter().chain(secrets).chain([key("me.key"), key("other.key")]);
    let planted: Vec<String> = planted.collect();
    for (command, printed) in &run.printed {
        for text in &planted {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            for text in [text.as_str(), &hex] {
                if let Some(at) = printed.to_lowercase().find(&text.to_lowercase()) {
                    let around: String = printed[at.saturating_sub(200)..].chars().take(400).collect();
                    panic!("{command} printed {text:?}: {around}");
                }
            }
        }
    }
    // It did run, and it did tell: both of zvon's own work and of what is below it.
    let all: String = run.printed.iter().map(|(command, printed)| format!("{command}\n{printed}")).collect();
    for words in
        ["derived a key from the passphrase", "hyper", "does not open", "not encrypted for this key", "(exit Some(3))"]
    {
        assert!(all.contains(words), "{words} is missing from {} bytes", all.len());
    }
}
