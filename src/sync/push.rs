//! Pushing: what the sequence says is not on the remote yet, and what was lost there, oldest first. A handful goes as loose
//! files, a bulk as packs; the next part is read while the last one is on its way; what arrived is recorded part by part.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use rusqlite::Connection;

use super::plan::{is_damaged, is_there, listed};
use super::{OversizeChange, RemoteRow, Session, SyncReport, kept};
use crate::changelog::{
    Kept, Log, Names, NewPack, Places, contains, count_refused, emptied, forget_refused, keep, list_tracked, lose,
    lost, pushed_seq, read_change, regain, remember_pack, set_pushed, unkeep,
};
use crate::db::{Metadata, get_metadata, immediate, set_metadata};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{Listing, Remote};
use crate::report::Phase;
use crate::wire::{MAX_PACK_CHANGES, MAX_PACKED_CHANGE, ObjectName, PackWriter, Packed, encode_change};

/// So many changes are a handful; more go as packs.
pub(super) const HANDFUL: usize = 16;
/// What bounds a part of loose files.
const PART_FILES: usize = 4_000;
const PART_BYTES: usize = 8 << 20;

/// A part of what is to be pushed, ready to be put.
#[derive(Default)]
struct Part {
    pack: Option<(ChangeId, Packed)>,
    files: Vec<(ChangeId, Bytes)>,
    kept: Vec<Kept>,
    /// Of these changes, those that had been there before.
    healed: u64,
    /// Lost changes that this part settles.
    regained: Vec<ChangeId>,
    /// How far the sequence is on the remote once this part is.
    pushed: Option<i64>,
}

/// Where the parts come from: lost changes first, then the sequence, a batch of ids at a time.
struct Producer {
    no: i64,
    limit: u64,
    files_only: bool,
    listing: Arc<Listing>,
    /// Everything up to here had been pushed when the sync began.
    pushed_before: i64,
    /// What comes after it in the sequence was sealed since and goes next time: until then it may get other ids.
    until: i64,
    /// Names the packs: each greater than every pack that was there.
    names: Clock,
    now_ms: u64,
    random: u64,
    batch: Batch,
    /// The last lost change that was looked at: what is on its way is still on the list of them.
    last_lost: Option<ChangeId>,
    lost_done: bool,
    done: bool,
}

/// Changes that are to go, by id, and their places in the sequence; those of lost ones are looked up where they matter.
#[derive(Default)]
struct Batch {
    ids: Vec<(ChangeId, Option<i64>)>,
    at: usize,
    /// Where the sequence stands after this batch; nothing for lost changes.
    end: Option<i64>,
    lost: Vec<ChangeId>,
    packs: bool,
}

/// Puts what the remote lacks. Some of what counts as lost had not gone, but is asked for in another form.
pub(super) async fn push(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    files_only: bool,
    listing: &Arc<Listing>,
    asked_for: u64,
    report: &mut SyncReport,
) -> Result<()> {
    let until = expose(session).await?;
    let asked_for = asked_for + free_kept(session, row, listing).await?;
    let progress = session.reporter(Phase::Push);
    let mut total = 0;
    let mut producer = Producer {
        no: row.no,
        limit: session.settings.max_object_bytes,
        files_only,
        listing: Arc::clone(listing),
        pushed_before: row.pushed_seq,
        until,
        // A pack that is dated ahead is none to follow: what is named after it would be ahead, too.
        names: Clock::new(listing.packs.iter().map(|pack| pack.id).filter(|id| *id <= session.bound()).max()),
        now_ms: session.world.now_ms(),
        random: session.world.random(),
        batch: Batch::default(),
        last_lost: None,
        lost_done: false,
        done: false,
    };
    let mut next;
    (producer, next) = produce(session, producer).await?;
    while let Some(part) = next {
        if total == 0 {
            total = pending(session, row.no).await?;
            progress(0, Some(total));
        }
        producer.random = session.world.random();
        let before = report.pushed;
        let put = put_part(session, remote, row, part, report);
        let (put, produced) = futures::join!(put, produce(session, producer));
        put?;
        (producer, next) = produced?;
        if report.pushed > before {
            progress(report.pushed, Some(total.max(report.pushed)));
        }
    }
    report.healed = report.healed.saturating_sub(asked_for);
    report_oversize(session, report).await
}

/// Records what may leave this machine before it does: from now on others may have seen it. Returns how far in the sequence it is.
async fn expose(session: &Session) -> Result<i64> {
    session
        .run(|conn| {
            let tx = immediate(conn)?;
            let last: Option<ChangeId> = get_metadata(&tx, Metadata::LastId)?;
            let made: u64 = get_metadata(&tx, Metadata::Backfilled)?.unwrap_or(0);
            if let Some(last) = last {
                set_metadata(&tx, Metadata::ExposedId, last)?;
            }
            set_metadata(&tx, Metadata::ExposedBackfills, made)?;
            let until = tx.query_row("SELECT coalesce(max(seq), 0) FROM ZV_SEQUENCE", [], |row| row.get(0))?;
            tx.commit()?;
            Ok(until)
        })
        .await
}

async fn pending(session: &Session, no: i64) -> Result<u64> {
    session
        .run(move |conn| {
            let sql = "SELECT (SELECT count(*) FROM ZV_SEQUENCE WHERE seq > pushed_seq) \
                       + (SELECT count(*) FROM ZV_LOST WHERE remote_no = no) FROM ZV_REMOTE WHERE no = ?1";
            Ok(conn.query_row(sql, [no], |row| row.get(0))?)
        })
        .await
}

async fn produce(session: &Session, mut producer: Producer) -> Result<(Producer, Option<Part>)> {
    session
        .run(move |conn| {
            // One view of the database: another process may sync at the same time.
            let tx = conn.transaction()?;
            let part = producer.next(&tx)?;
            tx.commit()?;
            Ok((producer, part))
        })
        .await
}

impl Producer {
    /// The next part; nothing where all is done.
    fn next(&mut self, conn: &Connection) -> Result<Option<Part>> {
        let blocked = blocked_tables(conn)?;
        if self.batch.at == self.batch.ids.len() {
            self.batch = match self.next_batch(conn)? {
                Some(batch) => batch,
                None => return Ok(None),
            };
        }
        let mut part = self.fill(conn, &blocked)?;
        if self.batch.at == self.batch.ids.len() {
            part.pushed = self.batch.end;
            part.regained = std::mem::take(&mut self.batch.lost);
        }
        Ok(Some(part))
    }

    fn next_batch(&mut self, conn: &Connection) -> Result<Option<Batch>> {
        if !self.lost_done {
            let lost = lost(conn, self.no, self.last_lost, MAX_PACK_CHANGES)?;
            self.last_lost = lost.last().copied().or(self.last_lost);
            self.lost_done = lost.len() < MAX_PACK_CHANGES;
            if !lost.is_empty() {
                return self.batch_of_lost(conn, lost).map(Some);
            }
        }
        if self.done {
            return Ok(None);
        }
        self.batch_of_sequence(conn).map(Some)
    }

    /// Lost changes, as far as the log has them: of others there is nothing to put back. Whether they are there again is said by
    /// what is remembered, and not by this sync's listing: who missed them may have seen a later one.
    fn batch_of_lost(&self, conn: &Connection, lost: Vec<ChangeId>) -> Result<Batch> {
        let mut ids = Vec::with_capacity(lost.len());
        let mut places = Places::new(conn, self.no)?;
        for id in &lost {
            let is_there = places.is_loose(*id)? || !self.files_only && places.is_packed(*id)?;
            if contains(conn, *id)? && !is_there {
                ids.push((*id, None));
            }
        }
        let packs = !self.files_only && ids.len() > HANDFUL;
        Ok(Batch { ids, at: 0, end: None, lost, packs })
    }

    fn batch_of_sequence(&mut self, conn: &Connection) -> Result<Batch> {
        let mut places = Places::new(conn, self.no)?;
        let from = pushed_seq(conn, self.no)?.max(self.batch.end.unwrap_or(0));
        let mut batch = Batch { end: Some(from), ..Batch::default() };
        let mut statement =
            conn.prepare_cached("SELECT seq, change_id FROM ZV_SEQUENCE WHERE seq > ?1 AND seq <= ?2 ORDER BY seq")?;
        let mut rows = statement.query([from, self.until])?;
        self.done = true;
        while let Some(row) = rows.next()? {
            if batch.ids.len() == MAX_PACK_CHANGES {
                self.done = false;
                break;
            }
            let seq: i64 = row.get(0)?;
            let id = ChangeId::from_bytes(row.get(1)?)
                .ok_or_else(|| Error::corrupt("ZV_SEQUENCE holds an id that is not a UUIDv7"))?;
            batch.end = Some(seq);
            if !self.is_there(conn, &mut places, id)? {
                batch.ids.push((id, Some(seq)));
            }
        }
        batch.ids.sort_unstable();
        batch.packs = !self.files_only && batch.ids.len() > HANDFUL;
        Ok(batch)
    }

    /// Whether a change lies there in a form that its readers can read. A listed file that was refused is none: the change came
    /// another way, and takes the file's place.
    fn is_there(&self, conn: &Connection, places: &mut Places<'_>, id: ChangeId) -> Result<bool> {
        if places.is_loose(id)? || !self.files_only && places.is_packed(id)? {
            return Ok(true);
        }
        match listed(&self.listing, id) {
            Some(file) => Ok(!is_damaged(conn, self.no, file)?),
            None => Ok(false),
        }
    }

    /// Encodes as much of the batch as makes a pack, or a part of loose files.
    fn fill(&mut self, conn: &Connection, blocked: &HashSet<u32>) -> Result<Part> {
        let mut names = Names::default();
        let mut part = Part::default();
        let mut kept_lost = Vec::new();
        let mut writer = PackWriter::new();
        let mut bytes = 0;
        while let Some(&(id, seq)) = self.batch.ids.get(self.batch.at) {
            if writer.is_full() || part.files.len() >= PART_FILES || bytes >= PART_BYTES {
                break;
            }
            self.batch.at += 1;
            let change = read_change(conn, id)?;
            let table_no = names.number(conn, &change.entity_type)?;
            let file = encode_change(&change);
            if file.len() as u64 > self.limit || blocked.contains(&table_no) {
                let kept = Kept { id, seq: seq.unwrap_or(0), table_no, bytes: file.len() as u64 };
                if seq.is_some() { &mut part.kept } else { &mut kept_lost }.push(kept);
                continue;
            }
            part.healed += u64::from(seq.is_none_or(|seq| seq <= self.pushed_before));
            if self.batch.packs && file.len() <= MAX_PACKED_CHANGE {
                writer.add(id, &file);
            } else {
                bytes += file.len();
                part.files.push((id, file.into()));
            }
        }
        part.kept.extend(placed(conn, kept_lost)?);
        if !writer.is_empty() {
            part.pack = Some((self.names.next(self.now_ms, self.random), writer.finish()));
        }
        Ok(part)
    }
}

/// Lost changes that stay here, with their places in the sequence, which has no index by change: it is gone through once.
fn placed(conn: &Connection, kept: Vec<Kept>) -> Result<Vec<Kept>> {
    if kept.is_empty() {
        return Ok(kept);
    }
    let mut by_id: HashMap<[u8; 16], Kept> = kept.into_iter().map(|kept| (*kept.id.as_bytes(), kept)).collect();
    let mut found = Vec::with_capacity(by_id.len());
    let mut statement = conn.prepare("SELECT seq, change_id FROM ZV_SEQUENCE")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(kept) = by_id.remove(&row.get::<_, [u8; 16]>(1)?) {
            found.push(Kept { seq: row.get(0)?, ..kept });
        }
    }
    if by_id.is_empty() { Ok(found) } else { Err(Error::corrupt("ZV_SEQUENCE lacks a change that the log holds")) }
}

/// The tables that the remote knows by another key.
fn blocked_tables(conn: &Connection) -> Result<HashSet<u32>> {
    let tracked = list_tracked(conn)?;
    Ok(tracked.iter().filter(|table| !table.blocked.is_empty()).map(|table| table.table_no()).collect())
}

async fn put_part(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    part: Part,
    report: &mut SyncReport,
) -> Result<()> {
    let (no, known_emptied) = (row.no, row.emptied);
    let Part { pack, files, kept, healed, regained, pushed } = part;
    let loose: Vec<ChangeId> = files.iter().map(|(id, _)| *id).collect();
    let count = loose.len() + pack.as_ref().map_or(0, |(_, packed)| packed.ids.len());
    put_files(session, remote, files).await?;
    if let Some((name, packed)) = &pack {
        remote.put(&ObjectName::Pack(*name), packed.bytes.clone()).await?;
    }
    report.pushed += count as u64;
    report.healed += healed;
    let epoch = pack.as_ref().and_then(|(name, _)| remote.sealed_under(&ObjectName::Pack(*name)));
    let now_ms = session.world.now_ms();
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let (emptied_now, any_refused) = (emptied(&tx)?, count_refused(&tx, no)? > 0);
            if let Some((name, packed)) = &pack {
                remember_pack(&tx, no, own_pack(*name, packed, epoch), now_ms)?;
            }
            let mut places = Places::new(&tx, no)?;
            loose.iter().try_for_each(|id| places.remember_loose(*id))?;
            if any_refused {
                // What was refused was overwritten.
                loose.iter().try_for_each(|id| forget_refused(&tx, no, &ObjectName::Change(*id).to_string()))?;
            }
            kept.iter().try_for_each(|kept| keep(&tx, kept))?;
            regained.iter().try_for_each(|id| regain(&tx, no, *id))?;
            // Where another sync found the remote empty meanwhile, what was there when this one began has no place any more.
            if let Some(end) = pushed.filter(|_| emptied_now == known_emptied) {
                set_pushed(&tx, no, end)?;
            }
            Ok(tx.commit()?)
        })
        .await
}

/// A pack that was just written here.
pub(super) fn own_pack(name: ChangeId, packed: &Packed, epoch: Option<ChangeId>) -> NewPack<'_> {
    let Packed { bytes, ids, raw } = packed;
    NewPack { pack: name, size: bytes.len() as u64, raw: *raw, epoch, ids, complete: true }
}

async fn put_files(session: &Session, remote: &Remote, files: Vec<(ChangeId, Bytes)>) -> Result<()> {
    futures::stream::iter(files.into_iter().map(Ok))
        .try_for_each_concurrent(session.settings.concurrency.max(1), |(id, bytes)| async move {
            remote.put(&ObjectName::Change(id), bytes).await
        })
        .await
}

/// Lets changes that stayed here before, and need not any more, go with those that are to be put back, as the limit or the table's
/// key changed. Returns how many there are that the remote lacks.
async fn free_kept(session: &Session, row: &RemoteRow, listing: &Arc<Listing>) -> Result<u64> {
    let (limit, listed, no) = (session.settings.max_object_bytes, Arc::clone(listing), row.no);
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let blocked = blocked_tables(&tx)?;
            let mut places = Places::new(&tx, no)?;
            let mut lacking = 0;
            for kept in kept(&tx)?.into_iter().filter(|k| k.bytes <= limit && !blocked.contains(&k.table_no)) {
                unkeep(&tx, no, kept.id)?;
                if !is_there(&listed, &mut places, kept.id)? {
                    lacking += u64::from(lose(&tx, no, kept.id)?);
                }
            }
            drop(places);
            tx.commit()?;
            Ok(lacking)
        })
        .await
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
