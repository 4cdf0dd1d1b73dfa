//! Pulling: loose files that the log lacks, many at once under a budget of bytes, decoded and appended in bounded batches.

use std::sync::Arc;

use futures::StreamExt;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::packs::Outcome as FromPacks;
use super::plan::{Known, LoosePlan, Refusal, Waiting, stamp_text};
use super::{RefusedFile, RemoteRow, Session, SyncReport};
use crate::changelog::{
    Log, NewChange, Places, forget_refused, pushed_seq, refused_file, refused_files, remember_refused, set_pushed,
    set_waiting,
};
use crate::db::{bind_ref, immediate};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{DAMAGED, Fetched, ListedChange, Listing, MAX_REFUSED_NAMES, RefusedName, Remote};
use crate::report::{Phase, RejectedFile};
use crate::wire::{ObjectName, ParsedName, decode_change};

/// What bounds a batch on its way into the log.
const BATCH_CHANGES: usize = 2_500;
const BATCH_BYTES: usize = 4 << 20;
/// A file may have grown since it was listed: a shared folder may still be copying it.
const SLACK: u64 = 64 << 10;
/// Refused files are asked for again after a minute, then two, four, … up to a day.
const FIRST_RETRY_MS: u64 = 60_000;
const LAST_RETRY_MS: u64 = 24 * 60 * 60_000;
/// How many waiting changes are read for their authors' names in one sync, and how large a file may be that is read for that.
const MAX_AUTHORS_READ: usize = 200;
const MAX_AUTHOR_BYTES: u64 = 1 << 20;
/// Remembered names that are looked through at once.
const NAMES_AT_ONCE: usize = 1_000;

/// A file that was asked for.
enum Arrived {
    Change(Box<Change>),
    Refused(ListedChange, String),
    TooLarge(ListedChange, u64),
    KeptBack(ListedChange),
    Gone,
}

/// What a pull starts from.
pub(super) struct Work<'a> {
    pub(super) plan: LoosePlan,
    pub(super) known: &'a Known,
    pub(super) from_packs: FromPacks,
}

/// Fetches what a plan wants and appends it to the log; records that, and what came of packs. Returns how many
/// listed files were gone.
pub(super) async fn pull(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    work: Work<'_>,
    report: &mut SyncReport,
) -> Result<u64> {
    let Work { plan, known, from_packs } = work;
    let progress = session.reporter(Phase::Pull);
    let before = report.pulled;
    let total = before + plan.wanted.len() as u64;
    let mut outcome = Outcome { refused: Vec::new(), vanished: from_packs.vanished };
    progress(before, Some(total));
    let (sender, mut batches) = mpsc::channel::<Vec<Arrived>>(1);
    let fetching =
        tokio::spawn(fetch(session.clone(), remote.clone(), Arc::clone(listing), plan.wanted.clone(), sender));
    let _abort = AbortOnDrop(fetching.abort_handle());
    let mut done = before;
    while let Some(batch) = batches.recv().await {
        done += batch.len() as u64;
        report.pulled += append(session, batch, known.any_refused, row.no, &mut outcome).await?;
        note_refused(session, row.no, known, std::mem::take(&mut outcome.refused), report).await?;
        progress(done, Some(total));
    }
    fetching.await.map_err(|e| Error::new(ErrorKind::Interrupted, "fetching stopped").caused_by(e))??;
    let vanished = outcome.vanished;
    record_names(session, row, listing, known, report).await?;
    record_waiting(session, remote, row, plan.waiting, from_packs.waiting, report).await?;
    let (no, there) = (row.no, plan.there);
    session.run(move |conn| remember_there(conn, no, &there)).await?;
    Ok(vanished)
}

struct Outcome {
    refused: Vec<Refusal>,
    vanished: u64,
}

/// Ends a task with whoever waits for it.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

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
        return Ok(Arrived::TooLarge(listed, limit));
    }
    let bound = listed.size.saturating_add(SLACK).min(limit);
    let fetched = match remote.get(&ObjectName::Change(listed.id), bound).await {
        Err(error) if remote.keeps_back(&error) => return Ok(Arrived::KeptBack(listed)),
        Err(error) if remote.is_damaged(&error) => return Ok(Arrived::Refused(listed, DAMAGED.to_owned())),
        fetched => fetched?,
    };
    Ok(match fetched {
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
    any_refused: bool,
    remote: i64,
    outcome: &mut Outcome,
) -> Result<u64> {
    let mut changes = Vec::with_capacity(batch.len());
    for arrived in batch {
        match arrived {
            Arrived::Change(change) => changes.push(*change),
            Arrived::Refused(listed, reason) => outcome.refused.push(Refusal::of_change(listed, reason)),
            Arrived::TooLarge(listed, limit) => outcome.refused.push(Refusal::too_large(listed, limit)),
            Arrived::KeptBack(listed) => {
                outcome.refused.push(Refusal::of_change(listed, String::new()).kept_back());
            }
            Arrived::Gone => outcome.vanished += 1,
        }
    }
    if changes.is_empty() {
        return Ok(0);
    }
    session
        .take_turn(move |conn| {
            let loose: Vec<ChangeId> = changes.iter().map(|change| change.id).collect();
            let added = append_pulled(conn, remote, &changes, &loose)?;
            for id in loose.iter().filter(|_| any_refused) {
                forget_refused(conn, remote, &ObjectName::Change(*id).to_string())?;
            }
            Ok(added)
        })
        .await
}

/// Appends changes that came from a remote, in one transaction; `loose` are those that lie there in files of their own.
/// Where everything of the log was there before, it is afterwards. Returns how many changes were new.
pub(super) fn append_pulled(conn: &mut Connection, no: i64, changes: &[Change], loose: &[ChangeId]) -> Result<u64> {
    let tx = immediate(conn)?;
    let end = |conn: &Connection| -> Result<i64> {
        Ok(conn.query_row("SELECT coalesce(max(seq), 0) FROM ZV_SEQUENCE", [], |row| row.get(0))?)
    };
    let was_pushed = pushed_seq(&tx, no)? >= end(&tx)?;
    let added = append_changes(&tx, changes)?;
    if was_pushed {
        set_pushed(&tx, no, end(&tx)?)?;
    }
    let mut places = Places::new(&tx, no)?;
    loose.iter().try_for_each(|id| places.remember_loose(*id))?;
    tx.commit()?;
    Ok(added)
}

/// Remembers loose files of changes that the log has already.
fn remember_there(conn: &mut Connection, no: i64, there: &[ChangeId]) -> Result<()> {
    if there.is_empty() {
        return Ok(());
    }
    let tx = immediate(conn)?;
    let mut places = Places::new(&tx, no)?;
    there.iter().try_for_each(|id| places.remember_loose(*id))?;
    Ok(tx.commit()?)
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

/// Records refused files, and tells what is new of them.
pub(super) async fn note_refused(
    session: &Session,
    no: i64,
    known: &Known,
    refused: Vec<Refusal>,
    report: &mut SyncReport,
) -> Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    let now_ms = known.now_ms;
    let new: Vec<RefusedFile> = session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let mut new = Vec::new();
            for refusal in refused {
                let (file, is_new) = refuse(&tx, no, refusal, now_ms)?;
                remember_refused(&tx, no, &file)?;
                new.extend(is_new.then_some(file));
            }
            tx.commit()?;
            Ok(new)
        })
        .await?;
    for RefusedFile { name, size: bytes, reason, .. } in new {
        report.tell_rejected(RejectedFile { name, bytes, reason });
    }
    Ok(())
}

/// Records files that can be no change by their names, and forgets refused files that are gone.
async fn record_names(
    session: &Session,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    known: &Known,
    report: &mut SyncReport,
) -> Result<()> {
    let (no, there, any) = (row.no, Arc::clone(listing), known.any_refused);
    let (remembered, new) = session.run(move |conn| compare_names(conn, no, &there, any)).await?;
    note_refused(session, row.no, known, new, report).await?;
    report.rejected = listing.refused_more;
    if remembered < MAX_REFUSED_NAMES {
        // There was room for more names, and these were not among them.
        report.newly_rejected_more += listing.refused_more;
    }
    Ok(())
}

/// Forgets refused files that are gone. Returns how many were remembered that no change can have the name of, and those that were not.
fn compare_names(conn: &mut Connection, no: i64, listing: &Listing, any: bool) -> Result<(usize, Vec<Refusal>)> {
    let remembered = if any { forget_gone(conn, no, listing)? } else { 0 };
    let mut new = Vec::new();
    for RefusedName { name, size, stamp } in &listing.refused {
        let known = refused_file(conn, no, name)?;
        if known.is_none_or(|file| file.size != *size || file.etag != stamp_text(*stamp)) {
            let reason = "the name is not a canonical UUIDv7".to_owned();
            new.push(Refusal { name: name.clone(), size: *size, stamp: *stamp, reason, asked: true });
        }
    }
    Ok((remembered, new))
}

/// Forgets refused files that are gone. Returns how many there were that no change can have the name of.
fn forget_gone(conn: &mut Connection, no: i64, listing: &Listing) -> Result<usize> {
    let tx = immediate(conn)?;
    let (mut after, mut odd) = (String::new(), 0);
    loop {
        let files = refused_files(&tx, no, &after, NAMES_AT_ONCE)?;
        let Some(last) = files.last() else { break };
        after.clone_from(&last.name);
        for file in files {
            odd += usize::from(matches!(ParsedName::parse(&file.name), ParsedName::Refused(_)));
            if !still_there(listing, &file.name) {
                forget_refused(&tx, no, &file.name)?;
            }
        }
    }
    tx.commit()?;
    Ok(odd)
}

/// Records the changes whose time is still to come.
async fn record_waiting(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    loose: Waiting,
    packed: Waiting,
    report: &mut SyncReport,
) -> Result<()> {
    let first = read_authors(remote, loose.first, session.settings.max_object_bytes).await?;
    let mut waiting = Waiting { first, more: loose.more };
    waiting.extend(packed);
    report.waiting = waiting.count();
    let no = row.no;
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            set_waiting(&tx, no, &waiting.first)?;
            Ok(tx.commit()?)
        })
        .await
}

/// What to remember of a refused file, and whether it is new: never seen, or changed since.
fn refuse(conn: &Connection, no: i64, refusal: Refusal, now_ms: u64) -> Result<(RefusedFile, bool)> {
    let Refusal { name, size, stamp, reason, asked } = refusal;
    let etag = stamp_text(stamp);
    let before = refused_file(conn, no, &name)?.filter(|file| file.size == size && file.etag == etag);
    let tries = before.as_ref().map_or(0, |file| file.tries).saturating_add(u32::from(asked));
    let delay = FIRST_RETRY_MS.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(LAST_RETRY_MS);
    let file = RefusedFile { name, size, etag, reason, tries, retry_ms: now_ms.saturating_add(delay) };
    Ok((file, before.is_none()))
}

fn still_there(listing: &Listing, name: &str) -> bool {
    match ParsedName::parse(name) {
        ParsedName::Known(ObjectName::Change(id)) => super::plan::is_listed(listing, id),
        ParsedName::Known(ObjectName::Pack(id)) => listing.packs.binary_search_by_key(&id, |listed| listed.id).is_ok(),
        ParsedName::Known(other) => listing.others.binary_search_by_key(&other, |listed| listed.name).is_ok(),
        _ => listing.refused.binary_search_by(|file| file.name.as_str().cmp(name)).is_ok(),
    }
}

/// Reads who made the changes that have to wait, so that the user hears whose clock is wrong.
pub(super) async fn read_authors(
    remote: &Remote,
    mut waiting: Vec<(ChangeId, String)>,
    limit: u64,
) -> Result<Vec<(ChangeId, String)>> {
    for (id, author) in waiting.iter_mut().filter(|(_, author)| author.is_empty()).take(MAX_AUTHORS_READ) {
        let fetched = match remote.get(&ObjectName::Change(*id), limit.min(MAX_AUTHOR_BYTES)).await {
            // Whose it is stays unknown; what is wrong with the file is told when its time has come.
            Err(error) if remote.keeps_back(&error) || remote.is_damaged(&error) => continue,
            fetched => fetched?,
        };
        if let Fetched::Bytes(bytes) = fetched
            && let Ok(change) = decode_change(*id, &bytes)
        {
            *author = change.author.as_str().to_owned();
        }
    }
    Ok(waiting)
}
