//! Processes killed at any moment of what they do: the database stays sound, no commit is lost, and the next sync mends.
//!
//! `cargo test --test kills` kills some; `ZVON_KILLS=5000` as many as one likes, `ZVON_SEED` others. A failure names its seed.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::rows;
use rusqlite::Connection;
use tempfile::TempDir;

/// How many processes `cargo test` kills.
const USUAL: u64 = 60;
/// So many kills, and everybody syncs in peace and is looked at.
const ROUND: u64 = 20;

const SCHEMA: &str = "PRAGMA journal_mode = wal;
    CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE note (id INTEGER PRIMARY KEY, person INTEGER REFERENCES person ON DELETE CASCADE, body TEXT);
    CREATE TABLE acknowledged (token TEXT PRIMARY KEY)";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Random numbers that a seed decides (SplitMix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// Two replicas of one database and the folder between them.
struct World {
    home: TempDir,
    rng: Rng,
    tokens: [Vec<String>; 2],
    written: u64,
    columns: u64,
    tables: u64,
    kills: u64,
    /// How long a command takes that is let be, by its name: kills fall within that.
    spans: std::collections::HashMap<String, Duration>,
}

impl World {
    fn new(seed: u64) -> Self {
        let world = Self {
            home: tempfile::tempdir().unwrap(),
            rng: Rng(seed),
            tokens: [Vec::new(), Vec::new()],
            written: 0,
            columns: 0,
            tables: 0,
            kills: 0,
            spans: std::collections::HashMap::new(),
        };
        for n in 0..2 {
            world.open(n).execute_batch(SCHEMA).unwrap();
            let path = world.db(n);
            world.complete(&["init", path.to_str().unwrap(), "--remote", world.remote().to_str().unwrap()]);
            world.complete(&["--db", path.to_str().unwrap(), "track", "--all"]);
            // They meet while they are empty.
            world.complete(&["--db", path.to_str().unwrap(), "sync"]);
        }
        world
    }

    fn db(&self, n: usize) -> PathBuf {
        self.home.path().join(["a.db", "b.db"][n])
    }

    fn remote(&self) -> PathBuf {
        self.home.path().join("shared")
    }

    /// Another program's connection.
    fn open(&self, n: usize) -> Connection {
        let conn = Connection::open(self.db(n)).unwrap();
        conn.busy_timeout(Duration::from_secs(20)).unwrap();
        conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        conn
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zvon"));
        command.args(args).current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        command
    }

    /// Runs a command that nobody kills.
    fn complete(&self, args: &[&str]) -> Duration {
        let started = Instant::now();
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        started.elapsed()
    }

    /// Runs a command and kills it at some moment of it, or just after.
    fn kill(&mut self, args: &[&str]) {
        let name = args.iter().find(|arg| !arg.starts_with('-') && !arg.contains('.')).copied().unwrap_or_default();
        let usual = self.spans.get(name).copied().unwrap_or(Duration::from_millis(60));
        let delay = usual.mul_f64(self.rng.below(1_300) as f64 / 1_000.0);
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while started.elapsed() < delay && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        match child.try_wait().unwrap() {
            Some(_) => {
                self.spans.insert(name.to_owned(), (usual + started.elapsed()) / 2);
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                self.kills += 1;
                // What was not long enough to see the end of it may be longer.
                self.spans.insert(name.to_owned(), usual.mul_f64(1.02));
            }
        }
    }

    /// A user's transaction: once it is committed it is there for good.
    fn write(&mut self, n: usize) {
        self.written += 1;
        let (conn, token) = (self.open(n), format!("{}-{}", ["a", "b"][n], self.written));
        let (row, rows) = (self.rng.below(60), 1 + self.rng.below(200));
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        conn.execute("INSERT OR REPLACE INTO person (name) VALUES (?1)", [format!("p{row}")]).unwrap();
        let sql = "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < ?1) \
                   INSERT INTO note (person, body) SELECT (SELECT id FROM person WHERE id % 7 = i % 7 LIMIT 1), 'note ' || i FROM i";
        conn.execute(sql, [rows]).unwrap();
        conn.execute("UPDATE note SET body = body || '+' WHERE id % 11 = ?1", [row % 11]).unwrap();
        conn.execute("DELETE FROM note WHERE id % 13 = ?1", [row % 13]).unwrap();
        conn.execute("INSERT INTO acknowledged VALUES (?1)", [&token]).unwrap();
        conn.execute_batch("COMMIT").unwrap();
        self.tokens[n].push(token);
    }

    fn step(&mut self) {
        let n = self.rng.below(2) as usize;
        self.write(n);
        let path = self.db(n);
        let db = path.to_str().unwrap().to_owned();
        match self.rng.below(100) {
            0..55 => self.kill(&["--db", &db, "sync"]),
            55..65 => self.kill(&["--db", &db, "compact"]),
            65..75 => self.clone_anew(),
            75..85 => self.track_another(n, &db),
            85..95 => self.alter(n, &db),
            _ => self.kill(&["--db", &db, "verify", "--remote"]),
        }
        self.check(n);
    }

    /// A clone that is cut off goes on where it was.
    fn clone_anew(&mut self) {
        let shared = self.remote();
        if !shared.join("identity").exists() {
            return;
        }
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(self.home.path().join(format!("c.db{suffix}")));
        }
        let clone = ["clone", shared.to_str().unwrap(), "c.db"];
        self.kill(&clone);
        self.kill(&clone);
        let output = self.command(&clone).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // One that was to be killed may have been done before.
        assert!(output.status.success() || said.contains("is a replica that syncs with"), "{said}");
        self.complete(&["--db", "c.db", "verify"]);
    }

    fn track_another(&mut self, n: usize, db: &str) {
        self.tables += 1;
        let table = format!("more{}", self.tables);
        let sql = format!(
            "CREATE TABLE {table} (k TEXT PRIMARY KEY, v); INSERT INTO {table} SELECT id, body FROM note LIMIT 500"
        );
        self.open(n).execute_batch(&sql).unwrap();
        self.kill(&["--db", db, "track", &table]);
        let there = rows(&self.open(n), &format!("SELECT count(*) FROM {table}"));
        self.complete(&["--db", db, "track", &table]);
        assert_eq!(rows(&self.open(n), &format!("SELECT count(*) FROM {table}")), there);
        // The other one does not know it: what it says of it waits there. It is only looked at here.
        self.complete(&["--db", db, "untrack", &table]);
    }

    /// A new column and a new name for it, killed at each step, each then done.
    fn alter(&mut self, n: usize, db: &str) {
        self.columns += 1;
        let (old, new) = (format!("c{}", self.columns), format!("d{}", self.columns));
        self.open(n).execute_batch(&format!("ALTER TABLE note ADD COLUMN {old}; UPDATE note SET {old} = id")).unwrap();
        self.kill(&["--db", db, "alter", "begin", "note"]);
        if self.is_tracked(n) {
            self.complete(&["--db", db, "alter", "begin", "note"]);
        }
        self.open(n).execute_batch(&format!("ALTER TABLE note RENAME COLUMN {old} TO {new}")).unwrap();
        self.kill(&["--db", db, "alter", "end", "note"]);
        if !self.is_tracked(n) {
            self.complete(&["--db", db, "alter", "end", "note"]);
        }
    }

    /// Whether the table's triggers are there.
    fn is_tracked(&self, n: usize) -> bool {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'note' AND name LIKE 'ZV\\_%\\_insert' ESCAPE '\\'";
        !rows(&self.open(n), sql).is_empty()
    }

    /// The database is sound, and has all that its user was told it has.
    fn check(&self, n: usize) {
        let conn = self.open(n);
        assert_eq!(rows(&conn, "PRAGMA integrity_check"), ["'ok'"]);
        assert_eq!(rows(&conn, "PRAGMA foreign_key_check"), [] as [&str; 0]);
        let there = rows(&conn, "SELECT token FROM acknowledged");
        for token in &self.tokens[n] {
            assert!(there.contains(&format!("'{token}'")), "{token} is lost");
        }
    }

    /// Everybody syncs in peace: all have all, alike, and verify says so.
    fn rest(&mut self) {
        for _ in 0..2 {
            for n in 0..2 {
                let took = self.complete(&["--db", self.db(n).to_str().unwrap(), "sync"]);
                self.spans.insert("sync".to_owned(), took);
            }
        }
        let shown = |n: usize| {
            let sql = "SELECT p.name, n.body FROM note AS n LEFT JOIN person AS p ON p.id = n.person \
                       UNION ALL SELECT name, NULL FROM person UNION ALL SELECT token, NULL FROM acknowledged ORDER BY 1, 2";
            rows(&self.open(n), sql)
        };
        assert_eq!(shown(0), shown(1));
        for n in 0..2 {
            for token in self.tokens.iter().flatten() {
                assert!(shown(n).contains(&format!("'{token}'|NULL")), "{token} did not arrive");
            }
            self.complete(&["--db", self.db(n).to_str().unwrap(), "verify", "--remote"]);
        }
        for folder in ["changes", "packs"] {
            let left: Vec<PathBuf> = files(&self.remote().join(folder));
            assert!(left.iter().all(|file| is_object(file)), "{left:?}");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

/// An object, or what a write that was cut off left behind, which nobody takes for one.
fn is_object(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy();
    name.ends_with(".msgpack") || name.ends_with(".pack") || name.contains('#')
}

#[test]
fn nothing_is_lost_whoever_is_killed_when() {
    let (wanted, seed) = (number("ZVON_KILLS").unwrap_or(USUAL), number("ZVON_SEED").unwrap_or(1));
    let done = std::panic::catch_unwind(|| {
        let (mut kills, mut round) = (0, 0);
        while kills < wanted {
            // A world that grows without end would only be slow.
            let mut world = World::new(seed + round);
            while world.kills < ROUND * 5 && kills + world.kills < wanted {
                let before = world.kills / ROUND;
                world.step();
                if world.kills / ROUND > before {
                    world.rest();
                }
            }
            world.rest();
            kills += world.kills;
            round += 1;
        }
        println!("{kills} processes killed in {round} worlds");
    });
    if let Err(panic) = done {
        eprintln!("ZVON_SEED={seed} repeats the choices; when a kill falls is the machine's");
        std::panic::resume_unwind(panic);
    }
}
