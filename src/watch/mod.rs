//! Watching: a replica kept in step with a remote until it is told to stop. Decides when to sync; how is `sync`'s.
//!
//! `pace` says when (pure), `ears` hears of files, `news` looks into the database, `lock` keeps a second watch away.

mod ears;
mod file;
mod lock;
mod news;
mod pace;

use std::collections::HashSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::FutureExt;
use futures::future::FusedFuture;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::report::{CompactReport, SyncReport};
use crate::sync::{self, CompactOptions, Session, SyncOptions};
use ears::Ears;
use file::DatabaseFile;
use lock::Lock;
use news::News;
use pace::Pace;

/// After a sign of a commit the database is looked at this soon, then after twice the time, and so on until the usual look:
/// a sign may come before its commit can be seen.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// How often the database is looked at without a sign: where signs are to be had, where they are not, and in memory.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_DEAF: Duration = Duration::from_secs(1);
const LOOK_MEMORY: Duration = Duration::from_millis(100);
/// Files that appear in a folder are let arrive whole and in company.
const SETTLE: Duration = Duration::from_millis(200);

/// How [`Replica::watch`](crate::Replica::watch) works; every field has a default that suits most.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WatchOptions {
    /// How long after a sync that moved something the remote is looked at again. 5 seconds.
    pub interval: Duration,
    /// Each look that finds nothing doubles the time to the next one, up to this. 60 seconds.
    pub max_interval: Duration,
    /// Whether to compact the remote, beside everything else, when a sync says that it is due. Yes.
    pub compact: bool,
    /// How long the last sync may take once the watch is to stop. 5 seconds.
    pub stop_within: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            max_interval: Duration::from_secs(60),
            compact: true,
            stop_within: Duration::from_secs(5),
        }
    }
}

/// Why a watch synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatchCause {
    /// The watch began.
    Start,
    /// Something was committed to the database, by whatever program.
    Commit,
    /// Something appeared in the remote's folder.
    Folder,
    /// It was time to look at the remote.
    Interval,
    /// It was time to try again after a failure.
    Retry,
    /// The clock jumped: the machine slept, or its clock was set.
    Clock,
    /// The watch is to stop, and something was not pushed yet.
    Stop,
}

/// What a watch tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchEvent {
    /// It has begun: the database is its own, and it hears of commits.
    Started {
        /// What the user should know, a sentence each.
        notices: Vec<String>,
    },
    /// A sync is done.
    Synced {
        /// Why there was one.
        cause: WatchCause,
        /// What it did.
        report: SyncReport,
    },
    /// The remote was compacted, beside everything else.
    Compacted {
        /// What that did.
        report: CompactReport,
    },
    /// A compaction failed. It is tried again once a sync finds it due, which it does ever later. Syncs go on.
    CompactionFailed {
        /// Why.
        error: Error,
    },
    /// A sync failed, and will be tried again.
    Failed {
        /// Why.
        error: Error,
        /// Whether a failure of this kind has been told since the last sync that worked.
        again: bool,
        /// When it will be tried again.
        retry_in: Duration,
    },
}

/// Keeps a replica in step with a remote until `stop` ends.
pub(crate) async fn watch(
    session: &Session,
    remote: &Remote,
    options: &WatchOptions,
    stop: impl Future<Output = ()>,
    mut on_event: impl FnMut(WatchEvent),
) -> Result<()> {
    let mut watch = Watch::new(session, remote, options)?;
    on_event(WatchEvent::Started { notices: watch.ears.deaf.iter().map(|why| deaf_notice(why)).collect() });
    let mut stop = pin!(stop.fuse());
    let mut cause = WatchCause::Start;
    loop {
        watch.sync(cause, stop.as_mut(), &mut on_event).await?;
        if stop.is_terminated() {
            return Ok(());
        }
        watch.compact_if_due();
        cause = tokio::select! {
            biased;
            () = &mut stop => return watch.push_the_rest(&mut on_event).await,
            cause = watch.next_cause(&mut on_event) => cause,
        };
    }
}

fn deaf_notice(why: &str) -> String {
    format!(
        "the system does not tell of files ({why}): commits are looked for once a second, the remote at its interval"
    )
}

/// A watch at work.
struct Watch<'a> {
    session: &'a Session,
    remote: &'a Remote,
    options: &'a WatchOptions,
    _lock: Lock,
    /// Nothing for a database in memory.
    file: Option<DatabaseFile>,
    ears: Ears,
    pace: Pace,
    started: Instant,
    /// How often the database is looked at without a sign.
    usual_look: Duration,
    /// When the remote's turn is next.
    remote_at: Instant,
    /// The schema before the last sync: one that changed since, be it by that sync, may have been changed behind its back.
    schema: Option<i64>,
    /// Whether the last sync for a commit left it behind: it waits for the remote's turn.
    is_muted: bool,
    /// Whether the last sync found that a compaction is worth its while.
    is_compaction_due: bool,
    /// The compaction under way; it stops with the watch.
    compactions: JoinSet<Result<CompactReport>>,
    /// Whether any sync of this watch worked.
    has_synced: bool,
    /// The kinds of failures told since the last sync that worked.
    told: HashSet<ErrorKind>,
    /// The wall clock, and when it said that.
    clock: (u64, Instant),
}

impl<'a> Watch<'a> {
    fn new(session: &'a Session, remote: &'a Remote, options: &'a WatchOptions) -> Result<Self> {
        let file = session.path()?.map(DatabaseFile::new);
        let database = file.as_ref().map(DatabaseFile::path);
        let lock = database.map_or_else(|| Lock::in_memory(&session.is_watched), Lock::on_file)?;
        let ears = Ears::new(database, remote.folder());
        let usual_look = match database {
            Some(_) if ears.hear_database() => LOOK,
            Some(_) => LOOK_DEAF,
            None => LOOK_MEMORY,
        };
        let now = Instant::now();
        Ok(Self {
            session,
            remote,
            options,
            _lock: lock,
            file,
            ears,
            pace: Pace::new(options.interval, options.max_interval),
            started: now,
            usual_look,
            remote_at: now,
            schema: None,
            is_muted: false,
            is_compaction_due: false,
            compactions: JoinSet::new(),
            has_synced: false,
            told: HashSet::new(),
            clock: (session.world.now_ms(), now),
        })
    }

    /// One sync. One that is under way when the watch is to stop gets a little time to end, and is dropped where it stands
    /// after that: a sync may be cut off anywhere.
    async fn sync(
        &mut self,
        cause: WatchCause,
        mut stop: Pin<&mut impl FusedFuture<Output = ()>>,
        on_event: &mut impl FnMut(WatchEvent),
    ) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), DatabaseFile::check)?;
        self.ears.listen();
        self.schema = self.look().await.map(|news| news.schema);
        let options = SyncOptions::default();
        let outcome = {
            let mut work = pin!(sync::sync(self.session, self.remote, &options));
            tokio::select! {
                biased;
                outcome = &mut work => Some(outcome),
                () = &mut stop => timeout(self.options.stop_within, work).await.ok(),
            }
        };
        match outcome {
            Some(outcome) => self.conclude(cause, outcome, on_event).await,
            None => Ok(()),
        }
    }

    /// What was committed last leaves with a last sync, unless the remote does not answer anyway.
    async fn push_the_rest(mut self, on_event: &mut impl FnMut(WatchEvent)) -> Result<()> {
        let within = self.options.stop_within;
        let last = async {
            if !self.pace.is_failing() && self.look().await.is_some_and(|news| news.unpushed) {
                let never = futures::future::pending::<()>().fuse();
                self.sync(WatchCause::Stop, pin!(never), on_event).await?;
            }
            Ok(())
        };
        timeout(within, last).await.unwrap_or(Ok(()))
    }

    async fn conclude(
        &mut self,
        cause: WatchCause,
        outcome: Result<SyncReport>,
        on_event: &mut impl FnMut(WatchEvent),
    ) -> Result<()> {
        match outcome {
            Ok(report) => {
                let moved = moved_something(&report);
                self.is_compaction_due = report.compaction_due;
                self.remote_at = Instant::now() + self.pace.synced(moved);
                self.told.clear();
                self.has_synced = true;
                on_event(WatchEvent::Synced { cause, report });
                let left_behind = cause == WatchCause::Commit && !moved;
                self.is_muted = left_behind && self.look().await.is_some_and(|news| news.unpushed);
                Ok(())
            }
            Err(error) if is_lasting(&error, self.has_synced) => Err(error),
            Err(error) => {
                let retry_in = self.pace.failed(self.session.world.random());
                self.remote_at = Instant::now() + retry_in;
                let again = !self.told.insert(error.kind());
                tracing::info!(%error, ?retry_in, "the sync failed");
                on_event(WatchEvent::Failed { error, again, retry_in });
                Ok(())
            }
        }
    }

    /// Starts a compaction that nobody waits for, one at a time.
    fn compact_if_due(&mut self) {
        if !self.is_compaction_due || !self.options.compact || !self.compactions.is_empty() {
            return;
        }
        self.is_compaction_due = false;
        let (session, remote) = (self.session.clone(), self.remote.clone());
        let options = CompactOptions { only_if_due: true, ..CompactOptions::default() };
        self.compactions.spawn(async move { sync::compact(&session, &remote, &options).await });
    }

    /// Tells of a compaction that has ended.
    fn compacted(done: Result<Result<CompactReport>, JoinError>, on_event: &mut impl FnMut(WatchEvent)) {
        match done.map_err(|e| Error::new(ErrorKind::Interrupted, "the compaction stopped").caused_by(e)) {
            Ok(Ok(report)) => on_event(WatchEvent::Compacted { report }),
            Ok(Err(error)) | Err(error) => {
                tracing::info!(%error, "the compaction failed");
                on_event(WatchEvent::CompactionFailed { error });
            }
        }
    }

    /// Waits for a reason to sync.
    async fn next_cause(&mut self, on_event: &mut impl FnMut(WatchEvent)) -> WatchCause {
        let mut due = Due::now(self.usual_look);
        let is_failing = self.pace.is_failing();
        loop {
            if due.look_at <= Instant::now() {
                let wait = self.commit_waits_for().await;
                if wait == Some(Duration::ZERO) {
                    self.pace.spend_local(self.started.elapsed());
                    return WatchCause::Commit;
                }
                due.looked(wait);
            }
            if due.take_folder() && self.folder_has_news().await {
                return WatchCause::Folder;
            }
            if self.clock_jumped() {
                return WatchCause::Clock;
            }
            if self.remote_at <= Instant::now() {
                return if is_failing { WatchCause::Retry } else { WatchCause::Interval };
            }
            tokio::select! {
                () = sleep_until(due.first().min(self.remote_at)) => {}
                Some(done) = self.compactions.join_next() => Self::compacted(done, on_event),
                () = self.ears.database(), if !is_failing => due.hear_commit(),
                () = self.ears.remote(), if !is_failing => due.hear_folder(),
            }
        }
    }

    /// How long what was committed has to wait for its sync; nothing where nothing was.
    async fn commit_waits_for(&self) -> Option<Duration> {
        if self.pace.is_failing() || self.is_muted {
            return None;
        }
        let news = self.look().await?;
        let has_other_schema = self.schema.is_some_and(|schema| schema != news.schema);
        (news.unpushed || has_other_schema).then(|| self.pace.until_local(self.started.elapsed()))
    }

    /// Looks into the database. One that cannot be read now is looked at again, and the next sync says what is wrong.
    async fn look(&self) -> Option<News> {
        let url = self.remote.url().to_owned();
        self.session.run(move |conn| news::look(conn, &url)).await.ok()
    }

    /// Whether what happened in the remote's folder may be more than this replica's own pushes.
    async fn folder_has_news(&self) -> bool {
        let objects = self.ears.take_objects();
        if objects.more {
            return true;
        }
        let url = self.remote.url().to_owned();
        self.session.run(move |conn| news::any_unknown(conn, &url, &objects.named)).await.unwrap_or(true)
    }

    /// Whether the wall clock moved on its own since the last time.
    fn clock_jumped(&mut self) -> bool {
        let (before_ms, at) = self.clock;
        self.clock = (self.session.world.now_ms(), Instant::now());
        pace::jumped(before_ms, self.clock.0, self.clock.1 - at)
    }
}

/// When to look where, while there is nothing to do.
struct Due {
    usual_look: Duration,
    look_in: Duration,
    look_at: Instant,
    /// Commits that follow each other too fast are left to gather until then.
    free_at: Instant,
    folder_at: Option<Instant>,
}

impl Due {
    fn now(usual_look: Duration) -> Self {
        let now = Instant::now();
        Self { usual_look, look_in: FIRST_LOOK, look_at: now, free_at: now, folder_at: None }
    }

    /// The database was looked at; a commit that was found there has to wait for so long.
    fn looked(&mut self, wait: Option<Duration>) {
        let now = Instant::now();
        self.free_at = now + wait.unwrap_or_default();
        self.look_at = now + wait.unwrap_or(self.look_in);
        self.look_in = self.look_in.saturating_mul(2).min(self.usual_look);
    }

    fn hear_commit(&mut self) {
        self.look_in = FIRST_LOOK;
        self.look_at = self.look_at.min(Instant::now() + FIRST_LOOK).max(self.free_at);
    }

    fn hear_folder(&mut self) {
        self.folder_at.get_or_insert_with(|| Instant::now() + SETTLE);
    }

    /// Whether it is time to see what happened in the folder; once.
    fn take_folder(&mut self) -> bool {
        self.folder_at.take_if(|at| *at <= Instant::now()).is_some()
    }

    fn first(&self) -> Instant {
        self.folder_at.map_or(self.look_at, |at| at.min(self.look_at))
    }
}

fn moved_something(report: &SyncReport) -> bool {
    report.pulled + report.pushed + report.merged + report.redated + report.healed > 0
}

/// Whether trying again helps nobody before a human has done something about this very watch. What a watch has done before, it
/// will be able to do again once the disk and the machine let it.
fn is_lasting(error: &Error, has_synced: bool) -> bool {
    match error.kind() {
        ErrorKind::Usage | ErrorKind::Unrelated | ErrorKind::Corrupt | ErrorKind::Interrupted => true,
        ErrorKind::Locked | ErrorKind::Key => true,
        ErrorKind::Database => {
            let code = sqlite_code(error);
            !(code.is_some_and(is_of_the_disk) || has_synced && code.is_some_and(is_of_the_surroundings))
        }
        _ => false,
    }
}

fn sqlite_code(error: &Error) -> Option<rusqlite::ErrorCode> {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<rusqlite::Error>()?.sqlite_error_code())
}

/// A full disk, or one that is away: both pass.
fn is_of_the_disk(code: rusqlite::ErrorCode) -> bool {
    matches!(code, rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
}

/// A disk that is read-only or without room for one more file, a folder that lost a permission, memory that ran out: these pass
/// where there was none of them before.
fn is_of_the_surroundings(code: rusqlite::ErrorCode) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        code,
        ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::FileLockingProtocolFailed | ErrorCode::OutOfMemory
    )
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn lasts(code: i32, has_synced: bool) -> bool {
        is_lasting(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into(), has_synced)
    }

    #[test]
    fn what_passes_by_itself_does_not_end_a_watch() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_BUSY] {
            assert!(!lasts(code, false) && !lasts(code, true), "{code}");
        }
        for code in [
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_READONLY_DIRECTORY,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_NOMEM,
        ] {
            assert!(lasts(code, false) && !lasts(code, true), "{code}");
        }
        for code in [ffi::SQLITE_NOTADB, ffi::SQLITE_CORRUPT, ffi::SQLITE_ERROR] {
            assert!(lasts(code, false) && lasts(code, true), "{code}");
        }
    }
}
