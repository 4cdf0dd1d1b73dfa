//! Pushing: what the sequence says is not on the remote yet, oldest first, many puts at once, recorded batch by batch.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use rusqlite::Connection;

use super::plan::{Plan, is_listed};
use super::{OversizeChange, RemoteRow, Session, SyncReport, kept};
use crate::changelog::{Kept, Log, Names, keep, list_tracked, read_change, set_pushed, unkeep};
use crate::db::{Metadata, get_metadata, immediate, set_metadata};
use crate::error::{Error, Result};
use crate::model::ChangeId;
use crate::remote::{Listing, Remote};
use crate::report::Phase;
use crate::wire::{ObjectName, encode_change};

/// What bounds a batch on its way out of the log.
const BATCH_CHANGES: usize = 4_000;
const BATCH_BYTES: usize = 8 << 20;

/// A part of the sequence, ready to be put.
#[derive(Default)]
struct Batch {
    files: Vec<(ChangeId, i64, Bytes)>,
    kept: Vec<Kept>,
    end: i64,
    last: bool,
}

/// Puts what the remote lacks: the sequence after the cursor, or all of it where the listing shows that files are missing.
pub(super) async fn push(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    plan: &Plan,
    report: &mut SyncReport,
) -> Result<()> {
    expose(session).await?;
    let already = push_kept_again(session, remote, listing, report).await?;
    let progress = session.reporter(Phase::Push);
    let total = pending(session, row, plan.is_incomplete).await?;
    progress(0, Some(total));
    let mut from = if plan.is_incomplete { 0 } else { row.pushed_seq };
    let mut next = read(session, listing, from).await?;
    let mut done = 0;
    loop {
        let mut batch = std::mem::take(&mut next);
        batch.files.retain(|(id, _, _)| !already.contains(id));
        from = batch.end;
        let last = batch.last;
        done += batch.files.len() as u64;
        let following = async { if last { Ok(Batch::default()) } else { read(session, listing, from).await } };
        let (put, following) = futures::join!(put_batch(session, remote, row, batch, report), following);
        put?;
        next = following?;
        if done > 0 {
            progress(done, Some(total.max(done)));
        }
        if last {
            break;
        }
    }
    report_oversize(session, report).await
}

/// Records what may leave this machine before it does: from now on others may have seen it.
async fn expose(session: &Session) -> Result<()> {
    session
        .run(|conn| {
            let tx = immediate(conn)?;
            let last: Option<ChangeId> = get_metadata(&tx, Metadata::LastId)?;
            let made: u64 = get_metadata(&tx, Metadata::Backfilled)?.unwrap_or(0);
            if let Some(last) = last {
                set_metadata(&tx, Metadata::ExposedId, last)?;
            }
            set_metadata(&tx, Metadata::ExposedBackfills, made)?;
            Ok(tx.commit()?)
        })
        .await
}

async fn pending(session: &Session, row: &RemoteRow, all: bool) -> Result<u64> {
    let from = if all { 0 } else { row.pushed_seq };
    session
        .run(move |conn| {
            Ok(conn.query_row("SELECT count(*) FROM ZV_SEQUENCE WHERE seq > ?1", [from], |row| row.get(0))?)
        })
        .await
}

async fn read(session: &Session, listing: &Arc<Listing>, from: i64) -> Result<Batch> {
    let (listing, limit) = (Arc::clone(listing), session.settings.max_object_bytes);
    session.run(move |conn| read_batch(conn, &listing, from, limit)).await
}

fn read_batch(conn: &Connection, listing: &Listing, from: i64, limit: u64) -> Result<Batch> {
    let blocked = blocked_tables(conn)?;
    let mut names = Names::default();
    let mut batch = Batch { end: from, last: true, ..Batch::default() };
    let mut bytes = 0;
    let mut statement = conn.prepare_cached("SELECT seq, change_id FROM ZV_SEQUENCE WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query([from])?;
    while let Some(row) = rows.next()? {
        if batch.files.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES {
            batch.last = false;
            break;
        }
        let seq: i64 = row.get(0)?;
        let id = ChangeId::from_bytes(row.get(1)?)
            .ok_or_else(|| Error::corrupt("ZV_SEQUENCE holds an id that is not a UUIDv7"))?;
        batch.end = seq;
        if is_listed(listing, id) {
            continue;
        }
        let change = read_change(conn, id)?;
        let table_no = names.number(conn, &change.entity_type)?;
        let file = encode_change(&change);
        let size = file.len() as u64;
        if size > limit || blocked.contains(&table_no) {
            batch.kept.push(Kept { id, seq, table_no, bytes: size });
        } else {
            bytes += file.len();
            batch.files.push((id, seq, file.into()));
        }
    }
    Ok(batch)
}

/// The tables that the remote knows by another key.
fn blocked_tables(conn: &Connection) -> Result<HashSet<u32>> {
    let tracked = list_tracked(conn)?;
    Ok(tracked.iter().filter(|table| !table.blocked.is_empty()).map(|table| table.table_no()).collect())
}

async fn put_batch(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    batch: Batch,
    report: &mut SyncReport,
) -> Result<()> {
    let Batch { files, kept, end, .. } = batch;
    let healed = files.iter().filter(|(_, seq, _)| *seq <= row.pushed_seq).count() as u64;
    report.pushed += files.len() as u64;
    report.healed += healed;
    put_files(session, remote, files).await?;
    let no = row.no;
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            kept.iter().try_for_each(|kept| keep(&tx, kept))?;
            set_pushed(&tx, no, end)?;
            Ok(tx.commit()?)
        })
        .await
}

async fn put_files(session: &Session, remote: &Remote, files: Vec<(ChangeId, i64, Bytes)>) -> Result<()> {
    futures::stream::iter(files.into_iter().map(Ok))
        .try_for_each_concurrent(session.settings.concurrency.max(1), |(id, _, bytes)| async move {
            remote.put(&ObjectName::Change(id), bytes).await
        })
        .await
}

/// Puts changes that stayed here before and need not any more, as the limit or the table's key changed. Returns them.
async fn push_kept_again(
    session: &Session,
    remote: &Remote,
    listing: &Arc<Listing>,
    report: &mut SyncReport,
) -> Result<HashSet<ChangeId>> {
    let (limit, listed) = (session.settings.max_object_bytes, Arc::clone(listing));
    let free = session
        .run(move |conn| {
            let blocked = blocked_tables(conn)?;
            let free = kept(conn)?.into_iter().filter(|k| k.bytes <= limit && !blocked.contains(&k.table_no));
            let free: Vec<Kept> = free.filter(|kept| !is_listed(&listed, kept.id)).collect();
            free.into_iter()
                .map(|kept| Ok((kept.id, kept.seq, Bytes::from(encode_change(&read_change(conn, kept.id)?)))))
                .collect::<Result<Vec<_>>>()
        })
        .await?;
    let pushed: HashSet<ChangeId> = free.iter().map(|(id, _, _)| *id).collect();
    report.pushed += free.len() as u64;
    put_files(session, remote, free).await?;
    let ids = pushed.clone();
    session.run(move |conn| ids.iter().try_for_each(|id| unkeep(conn, *id))).await?;
    Ok(pushed)
}

/// Names the own changes that are too large for a remote.
async fn report_oversize(session: &Session, report: &mut SyncReport) -> Result<()> {
    let limit = session.settings.max_object_bytes;
    report.oversize = session.run(move |conn| oversize(conn, limit)).await?;
    Ok(())
}

/// The own changes above a limit of bytes.
pub(crate) fn oversize(conn: &Connection, limit: u64) -> Result<Vec<OversizeChange>> {
    let mut log = Log::new(conn)?;
    let mut found = Vec::new();
    for kept in kept(conn)?.into_iter().filter(|kept| kept.bytes > limit) {
        let table = log.names.name(conn, kept.table_no)?.to_string();
        found.push(OversizeChange { id: kept.id.to_string(), table, bytes: kept.bytes });
    }
    Ok(found)
}
