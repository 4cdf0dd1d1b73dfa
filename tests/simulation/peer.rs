//! One replica as a process on a machine: its file or memory, its clock, what its user was told is committed, and its death
//! at a commit or anywhere else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::task::JoinHandle;
use zvon::{AlterOptions, ErrorKind, Remote, Replica, Settings};

use crate::naive::dump;
use crate::schema::{Schema, name};
use crate::setup::set_up;
use crate::triggers::dropped;
use crate::wall::Wall;
use crate::writes::Write;

/// The table into which every commit of a user writes a token of its own: what was acknowledged.
const TOKENS: &str = "CREATE TABLE acknowledged (id INTEGER PRIMARY KEY, token INTEGER NOT NULL)";

/// How far the extra column of `t0` has come: each replica walks this way at its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Plain,
    Added,
    Begun,
    Renamed,
    Ended,
}

/// A copy of the file, and what was committed by then.
#[derive(Debug)]
struct Backup {
    path: PathBuf,
    tokens: BTreeSet<u64>,
    version: Version,
}

pub struct Peer {
    pub replica: Replica,
    pub wall: Wall,
    /// Where it syncs, by the number of the place; it need not know all places.
    pub remotes: Vec<(usize, Remote)>,
    pub version: Version,
    /// What is in its database by all that its user was told.
    pub tokens: BTreeSet<u64>,
    /// What runs; aborted when the process dies.
    pub work: Vec<JoinHandle<()>>,
    /// Whether a watch is among it.
    pub watches: bool,
    path: Option<PathBuf>,
    backup: Option<Backup>,
    seed: u64,
    grace: Duration,
    /// Whether `t0` was made anew between the beginning and the end of its alteration.
    made_anew: bool,
    /// Commits until the process dies: none where negative; 0 is dead.
    fuse: Arc<AtomicI64>,
}

/// How a peer is made.
pub struct Making<'m> {
    pub seed: u64,
    pub wall: Wall,
    pub remotes: Vec<(usize, Remote)>,
    pub grace: Duration,
    pub path: Option<PathBuf>,
    pub schema: &'m Schema,
    pub rows: &'m [Write],
    pub loose: bool,
}

impl Peer {
    pub async fn new(making: Making<'_>) -> Self {
        let Making { seed, wall, remotes, grace, path, schema, rows, loose } = making;
        let replica = match &path {
            Some(path) => Replica::init(path).unwrap(),
            None => Replica::in_memory().unwrap(),
        };
        let mut peer = Self {
            replica,
            wall,
            remotes,
            version: Version::Plain,
            tokens: BTreeSet::new(),
            work: Vec::new(),
            watches: false,
            path,
            backup: None,
            seed,
            grace,
            made_anew: false,
            fuse: Arc::new(AtomicI64::new(-1)),
        };
        peer.start();
        peer.name_itself();
        set_up(&peer.replica, schema, rows, loose).await;
        if seed.is_multiple_of(2) {
            // SQLite runs the newest trigger first: some users make theirs after `track`.
            peer.replica.connection().execute_batch(&(dropped(schema) + &schema.triggers.concat())).unwrap();
        }
        peer.replica.connection().execute_batch(TOKENS).unwrap();
        peer.replica.track(&["acknowledged"], &zvon::TrackOptions::default()).await.unwrap();
        peer
    }

    /// What every process does first: its clock, its randomness, and a commit at which it may die.
    fn start(&mut self) {
        self.fuse.store(-1, Ordering::SeqCst);
        let mut settings = Settings::default();
        settings.world = self.wall.world(self.seed);
        settings.compaction_grace = Some(self.grace);
        self.seed = self.seed.wrapping_add(0x5851_F42D_4C95_7F2D);
        self.replica = self.replica.clone().with_settings(settings);
        let mut conn = self.replica.connection();
        self.wall.install(&conn);
        // What a crash of the machine would lose is another matter than what a process's death loses.
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON").unwrap();
        let fuse = Arc::clone(&self.fuse);
        let dies = move || match fuse.load(Ordering::SeqCst) {
            left if left < 0 => false,
            0 => true,
            _ => fuse.fetch_sub(1, Ordering::SeqCst) == 1,
        };
        conn.commit_hook(Some(dies)).unwrap();
    }

    /// The author id is the seed's choice, as all else is.
    fn name_itself(&self) {
        let id = format!("019b76da-a800-7000-8000-{:012x}", self.seed & 0xFFFF_FFFF_FFFF);
        let sql = "UPDATE ZV_METADATA SET value = ?1 WHERE key = 'database_uuid'";
        assert_eq!(self.replica.connection().execute(sql, [id]).unwrap(), 1);
    }

    pub fn is_file(&self) -> bool {
        self.path.is_some()
    }

    pub fn is_dead(&self) -> bool {
        self.fuse.load(Ordering::SeqCst) == 0
    }

    /// Lets the process die at one of its next commits.
    pub fn light_fuse(&self, commits: u64) {
        self.fuse.store(1 + commits as i64, Ordering::SeqCst);
    }

    /// The process is killed: whatever ran is gone, wherever it was.
    pub async fn kill(&mut self) {
        self.watches = false;
        for work in self.work.drain(..) {
            work.abort();
            if let Err(error) = work.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Kills the process and starts another on the same database.
    pub async fn restart(&mut self) {
        self.kill().await;
        if let Some(path) = &self.path {
            self.replica = Replica::open(path).unwrap();
        }
        self.start();
    }

    /// A user's commit: acknowledged if it came through.
    pub fn write(&mut self, token: u64, writes: &[Write], schema: &Schema, at_once: bool) {
        let conn = self.replica.connection();
        if at_once {
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        }
        for write in writes {
            for sql in write.statements(schema).into_iter().filter(|sql| !spoils_an_index(sql, schema)) {
                // What the database refuses is refused, a commit of a dying process too.
                if let Err(error) = conn.execute(&sql, []) {
                    assert!(self.is_dead() || is_refusal(&error) || is_endless(&error, schema), "{sql}: {error}");
                }
                if at_once && conn.is_autocommit() {
                    // A rollback that the statement brought about.
                    drop(conn);
                    return;
                }
            }
        }
        if self.version == Version::Added || self.version == Version::Ended {
            let column = if self.version == Version::Added { "extra" } else { "further" };
            let sql = format!("UPDATE t0 SET {column} = {token} WHERE rowid = (SELECT max(rowid) FROM t0)");
            // A table WITHOUT ROWID has none.
            let _ = conn.execute(&sql, []);
        }
        let done = conn.execute("INSERT INTO acknowledged (token) VALUES (?1)", [token]);
        let done = done.and_then(|_| if at_once { conn.execute_batch("COMMIT") } else { Ok(()) });
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").unwrap();
        }
        drop(conn);
        if done.is_ok() {
            self.tokens.insert(token);
        }
    }

    /// Makes a table anew, as a migration tool does (<https://sqlite.org/lang_altertable.html#otheralter>), and writes to it before
    /// zvon hears of that: our triggers went with the old one. False where the process died at the commit.
    pub fn rebuild(&mut self, no: usize, writes: &[Write], schema: &Schema) -> bool {
        let conn = self.replica.connection();
        let name = name(no);
        conn.execute_batch("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE").unwrap();
        let of = |kind: &str| {
            let sql =
                format!("SELECT sql FROM sqlite_schema WHERE tbl_name = '{name}' AND type = '{kind}' AND sql NOT NULL");
            let mut statement = conn.prepare(&sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect::<Vec<String>>()
        };
        let (table, indexes) = (of("table").remove(0).replacen(&name, "made_anew", 1), of("index"));
        conn.execute_batch(&dropped(schema)).unwrap();
        conn.execute_batch(&format!("{table}; INSERT INTO made_anew SELECT * FROM {name}; DROP TABLE {name}")).unwrap();
        conn.execute_batch(&format!("ALTER TABLE made_anew RENAME TO {name}; {}", indexes.join(";"))).unwrap();
        conn.execute_batch(&schema.triggers.concat()).unwrap();
        for sql in writes.iter().flat_map(|write| write.statements(schema)).filter(|sql| !spoils_an_index(sql, schema))
        {
            if let Err(error) = conn.execute(&sql, []) {
                assert!(is_refusal(&error) || is_endless(&error, schema), "{sql}: {error}");
            }
        }
        let done = conn.execute_batch("COMMIT");
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").unwrap();
        }
        conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        drop(conn);
        self.made_anew |= no == 0 && done.is_ok() && self.version >= Version::Begun;
        done.is_ok()
    }

    /// Goes one step further with the schema.
    pub async fn migrate(&mut self) {
        // Of a table that was made anew meanwhile nobody else knows what became of the column.
        let mut options = AlterOptions::default();
        if self.made_anew {
            options.renamed = vec![("extra".into(), "further".into())];
        }
        let plain = |replica: &Replica, sql: &str| replica.connection().execute_batch(sql).is_ok();
        let next = match self.version {
            Version::Plain if plain(&self.replica, "ALTER TABLE t0 ADD COLUMN extra INTEGER") => Version::Added,
            Version::Added if self.replica.alter_begin(&["t0"]).await.is_ok() => Version::Begun,
            Version::Begun if plain(&self.replica, "ALTER TABLE t0 RENAME COLUMN extra TO further") => Version::Renamed,
            Version::Renamed => match self.replica.alter_end("t0", &options).await {
                Ok(_) => Version::Ended,
                // Whoever died in the merge that follows has ended it.
                Err(error) if error.kind() == ErrorKind::Usage => Version::Ended,
                Err(_) => Version::Renamed,
            },
            now => now,
        };
        self.version = next;
    }

    /// Copies the file, as a backup program does.
    pub fn back_up(&mut self) {
        let Some(path) = &self.path else { return };
        let copy = path.with_extension("backup");
        copy_database(&self.replica.connection(), &copy);
        self.backup = Some(Backup { path: copy, tokens: self.tokens.clone(), version: self.version });
    }

    /// Puts the copy back, if there is one: what was committed since is gone from here.
    pub async fn restore(&mut self) -> bool {
        let (Some(path), Some(backup)) = (self.path.clone(), &self.backup) else { return false };
        let (copy, tokens, version) = (backup.path.clone(), backup.tokens.clone(), backup.version);
        self.kill().await;
        self.replica = Replica::in_memory().unwrap();
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(with_suffix(&path, suffix));
        }
        fs::copy(&copy, &path).unwrap();
        (self.tokens, self.version) = (tokens, version);
        self.replica = Replica::open(&path).unwrap();
        self.start();
        true
    }

    /// Another replica that is a copy of this one's file.
    pub fn copy(&self, seed: u64, wall: Wall, remotes: Vec<(usize, Remote)>, path: PathBuf) -> Self {
        copy_database(&self.replica.connection(), &path);
        let mut copy = Self {
            replica: Replica::open(&path).unwrap(),
            wall,
            remotes,
            version: self.version,
            tokens: self.tokens.clone(),
            work: Vec::new(),
            watches: false,
            path: Some(path),
            backup: None,
            seed,
            grace: self.grace,
            made_anew: self.made_anew,
            fuse: Arc::new(AtomicI64::new(-1)),
        };
        copy.start();
        copy
    }

    /// Everything that a user can see, for a run's digest and for comparison.
    pub fn shown(&self, schema: &Schema) -> String {
        let conn = self.replica.connection();
        (0..schema.tables.len()).map(|no| format!("t{no} {:?}\n", dump(&conn, schema, no))).collect()
    }

    /// The tokens that the database has.
    pub fn tokens_there(&self) -> BTreeSet<u64> {
        self.tokens_by("SELECT token FROM acknowledged")
    }

    /// Those that it has more than once: rows that became two, on whichever replica.
    pub fn tokens_doubled(&self) -> BTreeSet<u64> {
        self.tokens_by("SELECT token FROM acknowledged GROUP BY token HAVING count(*) > 1")
    }

    fn tokens_by(&self, sql: &str) -> BTreeSet<u64> {
        let conn = self.replica.connection();
        let mut statement = conn.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

fn is_refusal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TypeMismatch};
    matches!(error, rusqlite::Error::SqliteFailure(error, _) if [ConstraintViolation, TypeMismatch].contains(&error.code))
}

/// Triggers and cascades that go in a circle.
fn is_endless(error: &rusqlite::Error, schema: &Schema) -> bool {
    !schema.triggers.is_empty() && error.to_string().contains("too many levels of trigger recursion")
}

fn copy_database(conn: &Connection, to: &Path) {
    let _ = fs::remove_file(to);
    conn.execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where a row is replaced that the updated row itself refers to, by a reference that becomes NULL then, SQLite (3.40 as the one
/// within) updates an index by the value from before: `PRAGMA integrity_check` finds a row missing, with and without triggers.
pub fn spoils_an_index(sql: &str, schema: &Schema) -> bool {
    // Of others, a clause of the schema may say the same.
    let by_clause = schema.clause.contains("REPLACE").then_some("UPDATE ");
    let rest = sql.strip_prefix("UPDATE OR REPLACE ").or_else(|| sql.strip_prefix(by_clause?));
    let Some(rest) = rest else { return false };
    (0..schema.tables.len()).any(|no| {
        rest.starts_with(&format!("{} ", name(no)))
            && schema.tables[no].on_delete.contains("SET NULL")
            && schema.foreign_keys(no).iter().any(|(_, parent, _)| *parent == no)
    })
}
