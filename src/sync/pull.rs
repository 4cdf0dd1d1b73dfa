//! Pulling: files that the log lacks, many at once under a budget of bytes, decoded and appended in bounded batches.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::plan::{Plan, stamp_text};
use super::{RefusedFile, RemoteRow, Session, SyncReport};
use crate::changelog::{Log, NewChange, forget_refused, remember_refused, set_waiting};
use crate::db::{bind_ref, immediate};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{Fetched, ListedChange, Listing, Remote};
use crate::report::{Phase, RejectedFile};
use crate::wire::{ObjectName, decode_change};

/// What bounds a batch on its way into the log.
const BATCH_CHANGES: usize = 2_500;
const BATCH_BYTES: usize = 4 << 20;
/// A file may have grown since it was listed: a shared folder may still be copying it.
const SLACK: u64 = 64 << 10;
/// Refused files are asked for again after a minute, then two, four, … up to a day.
const FIRST_RETRY_MS: u64 = 60_000;
const LAST_RETRY_MS: u64 = 24 * 60 * 60_000;
/// How many waiting changes are read for their authors' names in one sync.
const MAX_AUTHORS_READ: usize = 200;

/// What a pull came to.
pub(super) struct Pulled {
    /// Whether a listed file was gone when it was asked for.
    pub(super) vanished: bool,
}

/// A file that was asked for.
enum Arrived {
    Change(Box<Change>),
    Refused(ListedChange, String),
    Gone,
}

/// Fetches what a plan wants and appends it to the log.
pub(super) async fn pull(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    plan: &Plan,
    report: &mut SyncReport,
) -> Result<Pulled> {
    let total = plan.wanted.len() as u64;
    let progress = session.reporter(Phase::Pull);
    let mut outcome = Outcome::default();
    let (sender, mut batches) = mpsc::channel::<Vec<Arrived>>(1);
    let fetching =
        tokio::spawn(fetch(session.clone(), remote.clone(), Arc::clone(listing), plan.wanted.clone(), sender));
    let _abort = AbortOnDrop(fetching.abort_handle());
    let mut done = 0;
    while let Some(batch) = batches.recv().await {
        done += batch.len() as u64;
        let known = Arc::new(plan.refused.keys().cloned().collect::<HashSet<_>>());
        report.pulled += append(session, batch, known, row.no, &mut outcome).await?;
        progress(done, Some(total));
    }
    fetching.await.map_err(|e| Error::new(ErrorKind::Interrupted, "fetching stopped").caused_by(e))??;
    record(session, remote, row, listing, plan, outcome, report).await
}

#[derive(Default)]
struct Outcome {
    refused: Vec<(ListedChange, String)>,
    vanished: bool,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks for the wanted files in the order of their ids and hands them on in batches.
async fn fetch(
    session: Session,
    remote: Remote,
    listing: Arc<Listing>,
    wanted: Vec<u32>,
    sender: mpsc::Sender<Vec<Arrived>>,
) -> Result<()> {
    let budget = session.settings.transfer_budget.max(1);
    let permits = Semaphore::new(budget);
    let limit = session.settings.max_object_bytes;
    let requests = futures::stream::iter(wanted).map(|at| {
        let listed = listing.changes[at as usize];
        let (remote, permits) = (&remote, &permits);
        async move {
            let share = usize::try_from(listed.size.min(limit)).unwrap_or(budget).clamp(1, budget);
            let permit = permits.acquire_many(u32::try_from(share).unwrap_or(u32::MAX)).await;
            let arrived = fetch_one(remote, listed, limit).await;
            drop(permit);
            arrived
        }
    });
    let mut arrivals = std::pin::pin!(requests.buffered(session.settings.concurrency.max(1)));
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(arrived) = arrivals.next().await {
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(error) => {
                // What came before is kept, so that every attempt brings the end nearer.
                let _ = sender.send(batch).await;
                return Err(error);
            }
        };
        bytes += match &arrived {
            Arrived::Change(change) => change.size(),
            _ => 0,
        };
        batch.push(arrived);
        if batch.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES {
            bytes = 0;
            if sender.send(std::mem::take(&mut batch)).await.is_err() {
                return Ok(());
            }
        }
    }
    let _ = sender.send(batch).await;
    Ok(())
}

async fn fetch_one(remote: &Remote, listed: ListedChange, limit: u64) -> Result<Arrived> {
    if remote.content_len(listed.size) > limit {
        return Ok(Arrived::Refused(listed, format!("larger than the limit of {limit} bytes")));
    }
    let bound = listed.size.saturating_add(SLACK).min(limit);
    Ok(match remote.get(&ObjectName::Change(listed.id), bound).await? {
        Fetched::Gone => Arrived::Gone,
        Fetched::TooLarge => Arrived::Refused(listed, "larger than the remote's listing says".to_owned()),
        Fetched::Unopened(bad) => Arrived::Refused(listed, bad.to_string()),
        Fetched::Bytes(bytes) => match decode_change(listed.id, &bytes) {
            Ok(change) => Arrived::Change(Box::new(change)),
            Err(bad) => Arrived::Refused(listed, bad.to_string()),
        },
    })
}

/// Appends a batch to the log, in one transaction. Returns how many changes were new.
async fn append(
    session: &Session,
    batch: Vec<Arrived>,
    known_bad: Arc<HashSet<String>>,
    remote: i64,
    outcome: &mut Outcome,
) -> Result<u64> {
    let mut changes = Vec::with_capacity(batch.len());
    for arrived in batch {
        match arrived {
            Arrived::Change(change) => changes.push(*change),
            Arrived::Refused(listed, reason) => outcome.refused.push((listed, reason)),
            Arrived::Gone => outcome.vanished = true,
        }
    }
    if changes.is_empty() {
        return Ok(0);
    }
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let added = append_changes(&tx, &changes)?;
            for change in changes.iter().filter(|_| !known_bad.is_empty()) {
                let name = ObjectName::Change(change.id).to_string();
                if known_bad.contains(&name) {
                    forget_refused(&tx, remote, &name)?;
                }
            }
            tx.commit()?;
            Ok(added)
        })
        .await
}

fn append_changes(conn: &Connection, changes: &[Change]) -> Result<u64> {
    let mut log = Log::new(conn)?;
    let mut added = 0;
    for change in changes {
        let head = NewChange {
            id: change.id,
            author: change.author.as_str(),
            entity_type: &change.entity_type,
            entity_id: &change.entity_id,
            own: false,
        };
        if log.append(head)? {
            added += 1;
            let fields: Vec<_> = change.fields.iter().map(|f| (f.name.as_str(), bind_ref(&f.value))).collect();
            log.append_fields(change.id, &fields)?;
        }
    }
    log.finish()?;
    Ok(added)
}

/// Records refused files and waiting changes, and tells what is new of them.
async fn record(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    plan: &Plan,
    outcome: Outcome,
    report: &mut SyncReport,
) -> Result<Pulled> {
    let now_ms = session.world.now_ms();
    let mut bad: Vec<(RefusedFile, bool)> = Vec::new();
    for (listed, reason) in outcome.refused {
        let name = ObjectName::Change(listed.id).to_string();
        bad.push(refuse(plan, name, listed.size, listed.stamp, reason, now_ms));
    }
    for refused in &listing.refused {
        let reason = "the name is not a canonical UUIDv7".to_owned();
        bad.push(refuse(plan, refused.name.clone(), refused.size, refused.stamp, reason, now_ms));
    }
    for (file, is_new) in &bad {
        if *is_new {
            let (name, bytes, reason) = (file.name.clone(), file.size, file.reason.clone());
            report.newly_rejected.push(RejectedFile { name, bytes, reason });
        }
    }
    let waiting = read_authors(remote, plan.waiting.clone(), session.settings.max_object_bytes).await?;
    let gone: Vec<String> = plan.refused.keys().filter(|name| !still_there(listing, name)).cloned().collect();
    let no = row.no;
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            bad.iter().try_for_each(|(file, _)| remember_refused(&tx, no, file))?;
            gone.iter().try_for_each(|name| forget_refused(&tx, no, name))?;
            set_waiting(&tx, no, &waiting)?;
            Ok(tx.commit()?)
        })
        .await?;
    Ok(Pulled { vanished: outcome.vanished })
}

/// What to remember of a refused file, and whether it is new: never seen, or changed since.
fn refuse(plan: &Plan, name: String, size: u64, stamp: u64, reason: String, now_ms: u64) -> (RefusedFile, bool) {
    let etag = stamp_text(stamp);
    let before = plan.refused.get(&name).filter(|file| file.size == size && file.etag == etag);
    let tries = before.map_or(1, |file| file.tries.saturating_add(1));
    let delay = FIRST_RETRY_MS.saturating_mul(1 << (tries - 1).min(20)).min(LAST_RETRY_MS);
    let file = RefusedFile { name, size, etag, reason, tries, retry_ms: now_ms.saturating_add(delay) };
    (file, before.is_none())
}

fn still_there(listing: &Listing, name: &str) -> bool {
    let refused = listing.refused.binary_search_by(|file| file.name.as_str().cmp(name)).is_ok();
    let id = name.strip_prefix("changes/").and_then(|name| name.strip_suffix(".msgpack"));
    let id: Option<ChangeId> = id.and_then(|id| id.parse().ok());
    refused || id.is_some_and(|id| super::plan::is_listed(listing, id))
}

/// Reads who made the changes that have to wait, so that the user hears whose clock is wrong.
pub(super) async fn read_authors(
    remote: &Remote,
    mut waiting: Vec<(ChangeId, String)>,
    limit: u64,
) -> Result<Vec<(ChangeId, String)>> {
    for (id, author) in waiting.iter_mut().filter(|(_, author)| author.is_empty()).take(MAX_AUTHORS_READ) {
        if let Fetched::Bytes(bytes) = remote.get(&ObjectName::Change(*id), limit).await?
            && let Ok(change) = decode_change(*id, &bytes)
        {
            *author = change.author.as_str().to_owned();
        }
    }
    Ok(waiting)
}
