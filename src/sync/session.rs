//! What a sync works with: the connection, which never blocks the runtime, the world, the settings, a callback.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::model::ChangeId;
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
    /// How many bytes of downloads are held in memory at once, a single larger file aside. 32 MiB.
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
            transfer_budget: 32 << 20,
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
    pub(crate) world: World,
    pub(crate) settings: Settings,
    pub(crate) on_progress: Option<OnProgress>,
}

impl Session {
    pub(crate) fn new(conn: Connection) -> Self {
        let settings = Settings::default();
        Self { conn: Arc::new(Mutex::new(conn)), world: settings.world.clone(), settings, on_progress: None }
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
        let done = tokio::task::spawn_blocking(move || work(&mut session.lock()));
        done.await.unwrap_or_else(|failed| match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(ErrorKind::Interrupted, "the runtime is shutting down")),
        })
    }

    /// A function that reports how much of a phase is done.
    pub(crate) fn reporter(&self, phase: Phase) -> impl Fn(u64, Option<u64>) + Send + Sync + Clone + 'static {
        let callback = self.on_progress.clone();
        move |done, total| {
            if let Some(callback) = &callback {
                callback(Progress { phase, done, total });
            }
        }
    }

    /// A UUIDv7 that is no change's.
    pub(crate) fn new_id(&self) -> ChangeId {
        ChangeId::from_bytes(self.world.uuid().into_bytes()).expect("the world makes UUIDs of version 7")
    }
}
