//! What a sync works with: the connection, which never blocks the runtime, the world, the settings, a callback.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::drift_ms;
use super::pull::AbortOnDrop;
use crate::blocking::blocking;
use crate::db::Turns;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{Remote, Traffic};
use crate::report::{Phase, Progress};
use crate::world::World;

/// How a replica works; every field has a default that suits most.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// How far a pulled change may be ahead of this machine's clock before it has to wait. 24 hours.
    pub max_clock_drift: Duration,
    /// The most bytes of one remote file, read or written. 256 MiB.
    pub max_object_bytes: u64,
    /// How many requests are under way at once. 64.
    pub concurrency: usize,
    /// How many bytes of downloads are held in memory at once, a single larger file aside. 8 MiB.
    pub transfer_budget: usize,
    /// How long a pack must have been seen before compaction removes what it replaced; by default one hour in a bucket and
    /// seven days in a folder, where another program may carry the removal long before the pack.
    pub compaction_grace: Option<Duration>,
    /// Where time and randomness come from.
    pub world: World,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_clock_drift: Duration::from_secs(24 * 60 * 60),
            max_object_bytes: 256 << 20,
            concurrency: 64,
            transfer_budget: 8 << 20,
            compaction_grace: None,
            world: World::default(),
        }
    }
}

/// A callback that hears how far a long operation is.
pub(crate) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// A replica at work. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Session {
    conn: Arc<Mutex<Connection>>,
    turns: Arc<Mutex<Turns>>,
    pub(crate) world: World,
    pub(crate) settings: Settings,
    pub(crate) on_progress: Option<OnProgress>,
    /// What is moved through the remote while the session works with one.
    meter: Option<Arc<Meter>>,
    /// Whether a watch of a database in memory runs.
    pub(crate) is_watched: Arc<AtomicBool>,
}

impl Session {
    pub(crate) fn new(conn: Connection) -> Self {
        let settings = Settings::default();
        Self {
            conn: Arc::new(Mutex::new(conn)),
            turns: Arc::default(),
            world: settings.world.clone(),
            settings,
            on_progress: None,
            meter: None,
            is_watched: Arc::default(),
        }
    }

    /// The database's file, by its one name; nothing for a database in memory.
    pub(crate) fn path(&self) -> Result<Option<PathBuf>> {
        let Some(path) = self.lock().path().filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(None) };
        let found = std::fs::canonicalize(&path).map_err(|e| {
            Error::new(ErrorKind::Database, format!("{}: the database file is gone", path.display())).caused_by(e)
        })?;
        Ok(Some(found))
    }

    /// The connection itself. A panic elsewhere leaves no half-done transaction behind: rusqlite rolls back.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs SQLite work on a thread that may block.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let session = self.clone();
        blocking(move || work(&mut session.lock())).await
    }

    /// Runs SQLite work that takes many transactions, and lets other programs have their turn in between.
    pub(crate) async fn run_in_turns<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, &mut Turns) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turns = Arc::clone(&self.turns);
        self.run(move |conn| work(conn, &mut turns.lock().unwrap_or_else(PoisonError::into_inner))).await
    }

    /// Runs one of many transactions.
    pub(crate) async fn take_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_in_turns(|conn, turns| turns.take(conn, work)).await
    }

    /// A function that reports how much of a phase is done.
    pub(crate) fn reporter(&self, phase: Phase) -> impl Fn(u64, Option<u64>) + Send + Sync + Clone + 'static {
        let (callback, meter) = (self.on_progress.clone(), self.meter.clone());
        move |done, total| {
            let Some(callback) = &callback else { return };
            let progress = Progress::new(phase, done, total);
            callback(meter.as_ref().map_or(progress, |meter| meter.measure(progress)));
        }
    }

    /// The same session at work with a remote: its reports count the bytes that move.
    pub(crate) fn with_meter(&self, remote: &Remote) -> Self {
        Self { meter: Some(Arc::new(Meter::new(remote))), ..self.clone() }
    }

    /// Repeats the last report while bytes move and nothing else is told: a large batch on a slow line takes its time.
    /// Ends when what it returns is dropped.
    pub(super) fn repeat_reports(&self) -> Option<AbortOnDrop> {
        let (callback, meter) = (self.on_progress.clone()?, self.meter.clone()?);
        let repeating = tokio::spawn(async move {
            loop {
                tokio::time::sleep(REPEAT).await;
                if let Some(progress) = meter.news() {
                    callback(progress);
                }
            }
        });
        Some(AbortOnDrop(repeating.abort_handle()))
    }

    /// Ids above this one lie further ahead than a clock may be off: what bears them has to wait for its time.
    pub(crate) fn bound(&self) -> ChangeId {
        Clock::lower_bound(self.world.now_ms().saturating_add(drift_ms(self.settings.max_clock_drift)))
    }

    /// A UUIDv7 that is no change's.
    pub(crate) fn new_id(&self) -> ChangeId {
        ChangeId::from_bytes(self.world.uuid().into_bytes()).expect("the world makes UUIDs of version 7")
    }
}

/// How often a report is repeated.
const REPEAT: Duration = Duration::from_millis(500);

/// Counts the bytes of one operation, and keeps its last report.
struct Meter {
    remote: Remote,
    before: Traffic,
    last: Mutex<Option<Progress>>,
}

impl Meter {
    fn new(remote: &Remote) -> Self {
        Self { remote: remote.clone(), before: remote.traffic(), last: Mutex::new(None) }
    }

    fn measure(&self, progress: Progress) -> Progress {
        let progress = self.with_bytes(progress);
        *self.last() = Some(progress);
        progress
    }

    /// The last report with the bytes of now, where those are more.
    fn news(&self) -> Option<Progress> {
        let mut last = self.last();
        let now = last.map(|progress| self.with_bytes(progress)).filter(|now| *last != Some(*now))?;
        *last = Some(now);
        Some(now)
    }

    fn with_bytes(&self, progress: Progress) -> Progress {
        let now = self.remote.traffic();
        let bytes_in = now.bytes_in - self.before.bytes_in;
        Progress { bytes_in, bytes_out: now.bytes_out - self.before.bytes_out, ..progress }
    }

    fn last(&self) -> MutexGuard<'_, Option<Progress>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
