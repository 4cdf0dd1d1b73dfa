//! The public face: what one can ask of a replica. No SQL text and no byte formats.

use std::ops::DerefMut;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use crate::capture::{AlterEnd, TrackedNow, Wanted, alter_begin, alter_end, seal, seal_within, track, untrack};
use crate::changelog::{Log, doubt_remote, find_tracked};
use crate::db::{
    DatabaseKey, Metadata, Turns, create_replica, encrypt_database, forget_metadata, get_metadata, immediate, is_blank,
    open_damaged, open_database, open_replica, same_name, set_metadata, table_names,
};
use crate::error::{Error, ErrorKind, Result};
use crate::merge::merge;
use crate::remote::Remote;
use crate::report::{
    CompactReport, Conflict, Held, KeysReport, LogEntry, Phase, Progress, RemoteSurvey, RepairReport, Status,
    SyncReport, TrackReport, VerifyReport,
};
use crate::seal::{Lock, Recipient};
use crate::sync::{self, CompactOptions, Session, SyncOptions};
use crate::watch::{self, WatchEvent, WatchOptions};
use crate::{Settings, World, history, repair, status, verify};

/// One SQLite database with a change log. Cheap to clone; clones share the connection.
///
/// ```
/// # tokio_test_block(async {
/// use zvon::{Remote, RemoteOptions, Replica, SyncOptions, TrackOptions};
///
/// let laptop = Replica::in_memory()?;
/// laptop.connection().execute_batch("CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)")?;
/// laptop.track(&["note"], &TrackOptions::default()).await?;
/// laptop.connection().execute("INSERT INTO note VALUES ('n1', 'bread')", [])?;
///
/// let shared = Remote::from_url("memory://doc/replica", &RemoteOptions::default())?;
/// let report = laptop.sync(&shared, &SyncOptions::default()).await?;
/// assert_eq!(report.pushed, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # fn tokio_test_block<T>(work: impl Future<Output = T>) -> T {
/// #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
/// # }
/// ```
#[derive(Clone)]
pub struct Replica {
    session: Session,
}

/// How [`Replica::track`] treats a table.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TrackOptions {
    /// The primary key itself is the row's identity, though it is an integer that SQLite may give: the same number means
    /// the same row on every replica.
    pub identity_key: bool,
    /// The columns that identify a row on every replica, in this order, where that is not the primary key. They need a UNIQUE
    /// constraint and NOT NULL. An integer primary key then stays on its replica. Not with `identity_key`.
    pub key: Vec<String>,
    /// Columns that are neither recorded nor written by merges.
    pub exclude: Vec<String>,
    /// Whether merges hold rows without a parent; by default, where no such row is there now.
    pub enforce_fk: Option<bool>,
    /// Rows that are missing from a table that was dropped or rebuilt were deleted; otherwise they are shown again.
    pub accept_deletes: bool,
    /// The tables' definitions here count from now on, whatever others on a remote say. Where those said that rows are known by
    /// other columns, and the tables were neither merged nor pushed, it is the other replicas that must follow.
    pub redefine: bool,
    /// The tables that [`Replica::track_all`] leaves alone.
    pub except: Vec<String>,
}

/// What [`Replica::alter_end`] cannot see for itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AlterOptions {
    /// Columns that have another name in a table that was made anew: the old name and the new.
    pub renamed: Vec<(String, String)>,
    /// Columns that are gone from a table that was made anew.
    pub dropped: Vec<String>,
    /// Rows that are missing were deleted; otherwise they are shown again.
    pub accept_deletes: bool,
}

impl Replica {
    /// Makes a replica of a database file, which is made if it is missing. A replica stays as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Database`] if the file is no SQLite database, read-only, or not encoded in UTF-8.
    pub fn init(path: impl AsRef<Path>) -> Result<Self> {
        Self::init_at(path.as_ref(), None)
    }

    /// The same, of a database file that is encrypted at rest. A file that is there and not encrypted is replaced by an
    /// encrypted one with the same content; no other program may have it open meanwhile.
    ///
    /// # Errors
    ///
    /// As [`init`](Self::init); [`ErrorKind::Busy`] if another program has the file open; [`ErrorKind::Database`] if the key does
    /// not open it, or this build lacks the feature `sqlcipher`.
    pub fn init_encrypted(path: impl AsRef<Path>, key: &DatabaseKey) -> Result<Self> {
        encrypt_database(path.as_ref(), key)?;
        Self::init_at(path.as_ref(), Some(key))
    }

    fn init_at(path: &Path, key: Option<&DatabaseKey>) -> Result<Self> {
        // An empty file is a database that nobody has written to yet.
        let is_new = path.metadata().map_or(true, |file| file.len() == 0);
        let mut conn = open_database(path, true, key)?;
        if is_new {
            // A reader never blocks a writer in this mode (<https://sqlite.org/wal.html>); an existing file keeps its own.
            conn.pragma_update(None, "journal_mode", "wal")?;
        }
        create_replica(&mut conn, &crate::World::default().uuid().to_string())?;
        drop(conn);
        Self::open_at(path, key)
    }

    /// Opens a replica.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Database`] if there is no such file, or it is no replica, or of a newer format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_at(path.as_ref(), None)
    }

    /// Opens a replica whose database file is encrypted at rest.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`ErrorKind::Database`] if the key does not open it, or this build lacks the feature `sqlcipher`.
    pub fn open_encrypted(path: impl AsRef<Path>, key: &DatabaseKey) -> Result<Self> {
        Self::open_at(path.as_ref(), Some(key))
    }

    fn open_at(path: &Path, key: Option<&DatabaseKey>) -> Result<Self> {
        Ok(Self { session: Session::new(open_replica(path, key)?) })
    }

    /// Opens what is or was a replica, though its own tables may be damaged or missing: for [`verify`](Self::verify) and
    /// [`repair`](Self::repair). The key is for a file that is encrypted at rest.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), damage aside.
    pub fn open_damaged(path: impl AsRef<Path>, key: Option<&DatabaseKey>) -> Result<Self> {
        Ok(Self { session: Session::new(open_damaged(path.as_ref(), key)?) })
    }

    /// Makes a replica in memory, for tests.
    ///
    /// # Errors
    ///
    /// If memory runs out.
    pub fn in_memory() -> Result<Self> {
        let mut conn = open_database(Path::new(":memory:"), true, None)?;
        create_replica(&mut conn, &crate::World::default().uuid().to_string())?;
        Ok(Self { session: Session::new(conn) })
    }

    /// The same replica with other settings.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.session.world = settings.world.clone();
        self.session.settings = settings;
        self
    }

    /// The same replica with a callback that hears how far long operations are. It is called often, and from any thread.
    pub fn on_progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.session.on_progress = Some(Arc::new(callback));
        self
    }

    /// Lends the connection, to read and write the user's tables like any other program. While it is lent, nothing else
    /// of this replica runs, so give it back before awaiting. `PRAGMA foreign_keys` is off on it until it is turned on.
    pub fn connection(&self) -> impl DerefMut<Target = Connection> + '_ {
        self.session.lock()
    }

    /// The replica's author id.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn database_uuid(&self) -> Result<String> {
        let uuid = get_metadata(&self.session.lock(), Metadata::DatabaseUuid)?;
        uuid.ok_or_else(|| Error::corrupt("ZV_METADATA has no database_uuid"))
    }

    /// The remote that [`set_default_remote`](Self::set_default_remote) saved.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn default_remote(&self) -> Result<Option<String>> {
        get_metadata(&self.session.lock(), Metadata::Remote)
    }

    /// Saves a remote's URL in the database, for those who name none. URLs hold no secrets.
    ///
    /// # Errors
    ///
    /// If the database cannot be written.
    pub fn set_default_remote(&self, url: &str) -> Result<()> {
        set_metadata(&self.session.lock(), Metadata::Remote, url)
    }

    /// Starts the capture of tables, parents before children, and records the rows that they have. All or none of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if a table is missing or cannot be tracked as it is; the message says what to do.
    pub async fn track(&self, tables: &[&str], options: &TrackOptions) -> Result<Vec<TrackReport>> {
        let tables: Vec<String> = tables.iter().map(|name| (*name).to_owned()).collect();
        self.track_named(tables, options).await
    }

    /// Starts the capture of every ordinary table, those in [`except`](TrackOptions::except) aside.
    ///
    /// # Errors
    ///
    /// As [`track`](Self::track); [`ErrorKind::Usage`] if a table that is to be left alone does not exist.
    pub async fn track_all(&self, options: &TrackOptions) -> Result<Vec<TrackReport>> {
        let mut tables = self.session.run(|conn| table_names(conn)).await?;
        if tables.is_empty() {
            return Err(Error::schema("the database has no tables yet; create them first"));
        }
        for name in &options.except {
            let before = tables.len();
            tables.retain(|table| !same_name(table, name));
            if tables.len() == before {
                return Err(Error::usage(format!("{name}: no such table, so it cannot be left alone")));
            }
        }
        self.track_named(tables, options).await
    }

    async fn track_named(&self, tables: Vec<String>, options: &TrackOptions) -> Result<Vec<TrackReport>> {
        let world = self.session.world.clone();
        let wanted = match (options.identity_key, options.key.as_slice()) {
            (true, []) => Wanted::PrimaryKey,
            (false, []) => Wanted::Usual,
            (false, columns) => Wanted::Columns(columns.to_vec()),
            (true, _) => {
                return Err(Error::usage("a table is known by its primary key or by other columns, not by both"));
            }
        };
        let redefine = options.redefine;
        let options = crate::capture::TrackOptions {
            wanted,
            excluded: options.exclude.clone(),
            enforce_fk: options.enforce_fk,
            accept_deletes: options.accept_deletes,
            ..Default::default()
        };
        let tracked = self.session.run_in_turns(move |conn, turns| {
            let tables = crate::capture::parents_first(conn, tables)?;
            seal(conn, &world, turns)?;
            let done: Result<Vec<TrackedNow>> = sealed(conn, &world, |log| {
                let track_one = |table: &String| {
                    let mut options = options.clone();
                    if options.enforce_fk.is_none() {
                        options.enforce_fk = sync::is_enforced_elsewhere(log.conn, table)?;
                    }
                    track(log, &world, table, &options)
                };
                let mut done = tables.iter().map(track_one).collect::<Result<Vec<TrackedNow>>>()?;
                sync::define(log.conn)?;
                for now in &mut done {
                    if let Some(tracked) = find_tracked(log.conn, now.tracked.table_no())? {
                        now.tracked = tracked;
                    }
                    if redefine {
                        sync::redefine(log.conn, &mut now.tracked)?;
                    }
                }
                Ok(done)
            });
            let done = done?;
            merge(conn, &world, turns, &|_| ())?;
            Ok(done)
        });
        Ok(tracked.await?.into_iter().map(report).collect())
    }

    /// Lifts the capture of tables whose columns or names are about to change by DROP, RENAME, or a rebuild: SQLite refuses
    /// those, or misnames what triggers say, while triggers are there. What other programs write meanwhile is found by
    /// [`alter_end`](Self::alter_end).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if one of them is not tracked, [`ErrorKind::Usage`] if it is being altered already.
    pub async fn alter_begin(&self, tables: &[&str]) -> Result<()> {
        let (tables, world): (Vec<String>, _) =
            (tables.iter().map(|name| (*name).to_owned()).collect(), self.session.world.clone());
        let work = move |conn: &mut Connection| {
            sealed(conn, &world, |log| tables.iter().try_for_each(|table| alter_begin(log, table)))
        };
        self.session.run(work).await
    }

    /// Restores the capture of a table after [`alter_begin`](Self::alter_begin), by the name that it had or that it has now,
    /// and records what was written in between. Columns and tables that SQLite renamed keep their names in the log.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if the table is not being altered, or if it was made anew and it is not clear which columns were
    /// renamed; [`ErrorKind::Schema`] if it cannot be tracked as it is now.
    pub async fn alter_end(&self, table: &str, options: &AlterOptions) -> Result<TrackReport> {
        let (table, world) = (table.to_owned(), self.session.world.clone());
        let end = AlterEnd {
            renamed: options.renamed.clone(),
            dropped: options.dropped.clone(),
            accept_deletes: options.accept_deletes,
        };
        let work = move |conn: &mut Connection, turns: &mut Turns| {
            let now = sealed(conn, &world, |log| {
                let now = alter_end(log, &world, &table, &end)?;
                sync::define(log.conn)?;
                Ok(now)
            })?;
            merge(conn, &world, turns, &|_| ())?;
            Ok(now)
        };
        self.session.run_in_turns(work).await.map(report)
    }

    /// Stops the capture of tables; their rows and their history stay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if one of them is not tracked.
    pub async fn untrack(&self, tables: &[&str]) -> Result<()> {
        let (tables, world): (Vec<String>, _) =
            (tables.iter().map(|name| (*name).to_owned()).collect(), self.session.world.clone());
        let work = move |conn: &mut Connection| {
            sealed(conn, &world, |log| tables.iter().try_for_each(|table| untrack(log, table).map(|_| ())))
        };
        self.session.run(work).await
    }

    /// Lists and pulls what the remote has, merges it, and pushes what the remote lacks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Remote`] if the remote does not answer or refuses; [`ErrorKind::Unrelated`] if it holds another
    /// database's data; [`ErrorKind::Locked`] and [`ErrorKind::Key`] if it is encrypted and cannot be opened, or should be and
    /// is not; [`ErrorKind::Clock`] if this machine's clock is wrong; [`ErrorKind::Busy`] if another program holds the
    /// database for too long. Whatever happens, nothing is lost, and the next sync goes on from there.
    pub async fn sync(&self, remote: &Remote, options: &SyncOptions) -> Result<SyncReport> {
        sync::sync(&self.session, remote, options).await
    }

    /// Packs what has piled up on a remote, and removes what packs written earlier hold. It changes nothing of what replicas
    /// see, costs no other replica anything, and may run anywhere at any time; nothing waits for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Remote`] if the remote does not answer or refuses, or this replica has not synced there yet.
    pub async fn compact(&self, remote: &Remote, options: &CompactOptions) -> Result<CompactReport> {
        sync::compact(&self.session, remote, options).await
    }

    /// What lies on a remote, what listing it costs and what compaction would save; and this machine's clock against the store's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Remote`] if the remote does not answer or refuses.
    pub async fn survey(&self, remote: &Remote) -> Result<RemoteSurvey> {
        sync::survey(&self.session, remote).await
    }

    /// Keeps the replica in step with a remote until `stop` ends: syncs when it begins, within a moment of a commit by any
    /// program, when something appears in a remote's folder, and from time to time (see [`WatchOptions`]).
    ///
    /// A sync that fails is tried again, ever later, while `on_event` hears of it; the network, the disk, the clock and other
    /// programs may come and go. When `stop` ends, what was committed last is pushed if that is quickly done, and the watch
    /// ends well; what was not pushed is in the log. Dropping the future stops it too, where it stands.
    ///
    /// Commits by other programs are heard by the database's files. A database in memory has none: its journal is looked at ten
    /// times a second.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] if the database is watched already, by whatever process; what else a sync refuses for good, as
    /// [`sync`](Self::sync) does: [`ErrorKind::Unrelated`], [`ErrorKind::Usage`], [`ErrorKind::Database`],
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Locked`], [`ErrorKind::Key`].
    pub async fn watch(
        &self,
        remote: &Remote,
        options: &WatchOptions,
        stop: impl Future<Output = ()>,
        on_event: impl FnMut(WatchEvent),
    ) -> Result<()> {
        watch::watch(&self.session, remote, options, stop, on_event).await
    }

    /// Makes a new replica, with its tables, from a remote alone. Interrupted, the same call goes on.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync); [`ErrorKind::Database`] if the file is there and is no unfinished clone of this remote.
    pub async fn clone_from(
        remote: &Remote,
        path: impl AsRef<Path>,
        settings: Settings,
        on_progress: Option<Box<dyn Fn(Progress) + Send + Sync>>,
    ) -> Result<(Self, SyncReport)> {
        Self::clone_at(remote, path.as_ref(), None, settings, on_progress).await
    }

    /// The same, into a database file that is encrypted at rest.
    ///
    /// # Errors
    ///
    /// As [`clone_from`](Self::clone_from) and [`init_encrypted`](Self::init_encrypted).
    pub async fn clone_encrypted_from(
        remote: &Remote,
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        settings: Settings,
        on_progress: Option<Box<dyn Fn(Progress) + Send + Sync>>,
    ) -> Result<(Self, SyncReport)> {
        Self::clone_at(remote, path.as_ref(), Some(key), settings, on_progress).await
    }

    async fn clone_at(
        remote: &Remote,
        path: &Path,
        key: Option<&DatabaseKey>,
        settings: Settings,
        on_progress: Option<Box<dyn Fn(Progress) + Send + Sync>>,
    ) -> Result<(Self, SyncReport)> {
        match path.exists() && !is_blank(&open_database(path, false, key)?, remote.url())? {
            true => check_unfinished(path, key, remote.url())?,
            false => sync::check_clonable(remote).await?,
        }
        let replica = Self::init_at(path, key)?.with_settings(settings);
        let mut session = replica.session;
        session.on_progress = on_progress.map(Arc::from);
        begin_clone(&mut session.lock(), remote.url())?;
        sync::create_tables(&session, remote).await?;
        let report = sync::sync(&session, remote, &SyncOptions::default()).await?;
        forget_metadata(&session.lock(), Metadata::Cloning)?;
        Ok((Self { session }, report))
    }

    /// Makes an empty remote an encrypted one: from its first object on, whatever goes there is sealed. Sync it from then on
    /// with a secret that fits the lock ([`Remote::with_secret`]). One that is encrypted already stays as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`] if the remote holds objects that are not encrypted, or its keys do not open; [`ErrorKind::Remote`].
    pub async fn encrypt_remote(&self, remote: &Remote, lock: &Lock) -> Result<KeysReport> {
        sync::encrypt(&self.session, remote, lock).await
    }

    /// Who can open an encrypted remote, and since when.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`] if the remote is not encrypted or its keys do not open, [`ErrorKind::Locked`] if a passphrase is
    /// wanted; [`ErrorKind::Remote`].
    pub async fn keys(&self, remote: &Remote) -> Result<KeysReport> {
        sync::list_keys(&self.session, remote).await
    }

    /// Lets somebody else open an encrypted remote, all that lies there included.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys); [`ErrorKind::Usage`] if a passphrase opens the remote, or the recipient can already.
    pub async fn add_recipient(&self, remote: &Remote, recipient: &Recipient) -> Result<KeysReport> {
        sync::change_keys(&self.session, remote, |keyring| sync::with_recipient(keyring, recipient)).await
    }

    /// Keeps somebody from opening what is written to an encrypted remote from now on. What was written before stays open to
    /// him, as he may have a copy; his credentials for the store are another matter.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys); [`ErrorKind::Usage`] if he is no recipient, or the only one.
    pub async fn remove_recipient(&self, remote: &Remote, recipient: &Recipient) -> Result<KeysReport> {
        sync::change_keys(&self.session, remote, |keyring| sync::without_recipient(keyring, recipient)).await
    }

    /// Starts a new epoch, with a new data key for what is written from now on: under another lock, or under the same.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys).
    pub async fn rotate_keys(&self, remote: &Remote, lock: Option<&Lock>) -> Result<KeysReport> {
        sync::change_keys(&self.session, remote, |keyring| lock.map_or_else(|| keyring.lock(), |lock| Ok(lock.clone())))
            .await
    }

    /// The replica at a glance. Reads only.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn status(&self) -> Result<Status> {
        let (now_ms, settings) = (self.session.world.now_ms(), self.session.settings.clone());
        self.session.run(move |conn| status::status(conn, now_ms, &settings)).await
    }

    /// The history, newest first: of everything, of a table, or of one of its rows (by its key as text).
    ///
    /// # Errors
    ///
    /// If the database cannot be read or, to seal what was written last, not be written.
    pub async fn log(&self, table: Option<&str>, row: Option<&str>, limit: u64) -> Result<Vec<LogEntry>> {
        let (table, row) = (table.map(str::to_owned), row.map(str::to_owned));
        self.sealed(move |conn| history::log(conn, table.as_deref(), row.as_deref(), limit)).await
    }

    /// Writes of one column that did not know of each other, oldest first.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>> {
        self.session.run(|conn| history::conflicts(conn, None)).await
    }

    /// Brings the losing value of a conflict back, as a new change.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if there is no such conflict, [`ErrorKind::Schema`] if the row or the table is gone.
    pub async fn restore_conflict(&self, number: i64) -> Result<Conflict> {
        self.sealed(move |conn| history::restore(conn, number)).await
    }

    /// What is not shown, and why.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub async fn held(&self) -> Result<Held> {
        self.session.run(|conn| history::held(conn)).await
    }

    /// Checks that the tables are what the log says, by a way of its own.
    ///
    /// # Errors
    ///
    /// If the database cannot be read or, to seal what was written last, not be written. What does not hold is no error:
    /// the report lists it.
    pub async fn verify(&self) -> Result<VerifyReport> {
        let (progress, world) = (self.session.reporter(Phase::Verify), self.session.world.clone());
        self.session.run(move |conn| verify::verify_damaged(conn, &world, &|done| progress(done, None))).await
    }

    /// Mends what [`verify`](Self::verify) finds of damage to zvon's own tables and triggers, from the log and from what the
    /// tables show, and verifies again. No value that a user wrote is dropped, and none is made up: what the tables show and the
    /// log cannot account for was written past the triggers, and is recorded as a change of now. A whole replica is left as
    /// it is.
    ///
    /// # Errors
    ///
    /// If the database cannot be read or written. What cannot be mended is no error: the report says what to do.
    pub async fn repair(&self) -> Result<RepairReport> {
        let (progress, world) = (self.session.reporter(Phase::Verify), self.session.world.clone());
        self.session.run(move |conn| repair::repair(conn, &world, &|done| progress(done, None))).await
    }

    /// The same, and with the remote: what it lost or what was spoilt there is put back, by a sync that reads every file, and
    /// what the log lacks is fetched. The report says both.
    ///
    /// # Errors
    ///
    /// As [`repair`](Self::repair) and [`sync`](Self::sync).
    pub async fn repair_remote(&self, remote: &Remote) -> Result<RepairReport> {
        let mut report = self.repair().await?;
        let url = remote.url().to_owned();
        self.session.run(move |conn| doubt_remote(conn, &url)).await?;
        let options = SyncOptions { full: true, ..SyncOptions::default() };
        let synced = self.sync(remote, &options).await?;
        // What came may settle what was left.
        let again = self.repair().await?;
        report.done.extend(again.done);
        report.instructions = again.instructions;
        repair::tell_of_remote(&mut report, &synced);
        report.after = self.verify_remote(remote).await?;
        Ok(report)
    }

    /// Checks that the remote holds the whole log, reading every file.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify), and [`ErrorKind::Remote`].
    pub async fn verify_remote(&self, remote: &Remote) -> Result<VerifyReport> {
        let mut report = self.verify().await?;
        sync::verify_remote(&self.session, remote, &mut report).await?;
        Ok(report)
    }

    /// Seals what was written, then does some work.
    async fn sealed<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let world = self.session.world.clone();
        self.session
            .run_in_turns(move |conn, turns| {
                seal(conn, &world, turns)?;
                work(conn)
            })
            .await
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replica")
    }
}

/// Records that a replica is to be a clone.
fn begin_clone(conn: &mut Connection, url: &str) -> Result<()> {
    let tx = immediate(conn)?;
    set_metadata(&tx, Metadata::Remote, url)?;
    set_metadata(&tx, Metadata::Cloning, url)?;
    Ok(tx.commit()?)
}

/// Refuses a file that is no unfinished clone: what its owner did not track is not to be, nor published.
fn check_unfinished(path: &Path, key: Option<&DatabaseKey>, url: &str) -> Result<()> {
    let standing = open_replica(path, key)?;
    if get_metadata::<String>(&standing, Metadata::Cloning)?.is_some_and(|unfinished| unfinished == url) {
        return Ok(());
    }
    let why = match get_metadata::<String>(&standing, Metadata::Remote)? {
        Some(remote) if remote == url => format!(
            "the file is a replica that syncs with {url} already: `zvon sync` brings what is new, `zvon track` adds tables, and \
             a clone wants a file that is not there"
        ),
        _ => format!("the file exists and is no clone of {url}; a clone wants a file that is not there"),
    };
    Err(Error::new(ErrorKind::Database, format!("{}: {why}", path.display())))
}

/// Runs work within one transaction, after the journal has been sealed in it. It is for those who decide which tables are
/// tracked: a clone that was cut off would decide otherwise, and goes on no more.
fn sealed<T>(conn: &mut Connection, world: &World, work: impl FnOnce(&mut Log<'_>) -> Result<T>) -> Result<T> {
    let tx = immediate(conn)?;
    let mut log = Log::new(&tx)?;
    seal_within(&mut log, world)?;
    let done = work(&mut log)?;
    log.finish()?;
    forget_metadata(&tx, Metadata::Cloning)?;
    tx.commit()?;
    Ok(done)
}

fn report(now: TrackedNow) -> TrackReport {
    let TrackedNow { tracked, found, renamed_from, renamed, dropped } = now;
    TrackReport {
        renamed_from,
        renamed,
        dropped,
        table: tracked.name().to_owned(),
        backfilled: found.backfilled,
        changed: found.changed,
        deleted: found.deleted,
        missing: found.missing,
        notice: if tracked.blocked.is_empty() { tracked.notice } else { tracked.blocked },
    }
}
