//! Pulling from packs: each new pack is decided by the ids in its header, and what the log lacks of it is appended block by
//! block, while the next blocks, and the next packs, are on their way.

mod read;

use std::ops::Range;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::plan::{Known, Refusal, Waiting, is_listed};
use super::pull::{AbortOnDrop, append_pulled, note_refused};
use super::{RemoteRow, Session, SyncReport};
use crate::changelog::{
    NewPack, Places, complete_pack, contains, forget_refused, list_packs, lose, pack_ids, refused_file, remember_pack,
};
use crate::db::immediate;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{ListedPack, Listing, Remote};
use crate::report::Phase;
use crate::wire::{BadFile, ObjectName, PackHeader};
use read::BadPack;
pub(super) use read::{Ask, PackReader, Unread};

/// How many packs are under way at once; they share the budget of bytes.
const AHEAD: usize = 3;
/// A pack of no more bytes is asked for whole: a second request would cost more than the bytes.
const SMALL: u64 = 1 << 20;
/// So few changes that also lie in loose files are fetched from there.
const FEW: usize = 16;
/// What bounds a batch on its way into the log.
const BATCH_CHANGES: usize = 4_000;
const BATCH_BYTES: usize = 4 << 20;

/// What came of looking into packs.
#[derive(Default)]
pub(super) struct Outcome {
    /// How many listed packs were gone when they were asked for.
    pub(super) vanished: u64,
    pub(super) waiting: Waiting,
}

/// What a pack's reader tells the one who writes the log, in this order.
enum Told {
    /// Its header is here; the answer says which blocks are wanted.
    Header(ListedPack, Arc<PackHeader>, oneshot::Sender<Vec<usize>>),
    /// Changes of it, whose times have come.
    Changes(Vec<Change>),
    /// Changes that have to wait.
    Waiting(Vec<(ChangeId, String)>),
    /// All that was wanted of it was told; some records may have been refused.
    Done(ListedPack, Vec<(ChangeId, BadFile)>),
    Refused(ListedPack, BadPack),
    KeptBack(ListedPack),
    Gone,
}

/// What deciding and recording needs to know.
#[derive(Clone)]
struct Ground {
    no: i64,
    layout_files: bool,
    now_ms: u64,
    listing: Arc<Listing>,
}

/// Looks into the packs that a plan names, in the order of their names, and appends what the log lacks.
pub(super) async fn pull(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    packs: Vec<ListedPack>,
    known: &Known,
    report: &mut SyncReport,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if packs.is_empty() {
        return Ok(outcome);
    }
    let ground = Ground {
        no: row.no,
        layout_files: row.is_laid_out_as_files(),
        now_ms: session.world.now_ms(),
        listing: Arc::clone(listing),
    };
    let is_new = session
        .run(|conn| Ok(!conn.query_row("SELECT EXISTS (SELECT 1 FROM ZV_SEQUENCE)", [], |row| row.get::<_, bool>(0))?))
        .await?;
    let (sender, mut told) = mpsc::channel(1);
    let reading = tokio::spawn(read_all(session.clone(), remote.clone(), packs, is_new, known.bound, sender));
    let _abort = AbortOnDrop(reading.abort_handle());
    let progress = session.reporter(Phase::Pull);
    let mut total = 0;
    while let Some(next) = told.recv().await {
        match next {
            Told::Header(pack, header, reply) => {
                let (ground, header) = (ground.clone(), Arc::clone(&header));
                let epoch = remote.sealed_under(&ObjectName::Pack(pack.id));
                let wanted = session.run(move |conn| decide(conn, &ground, pack, epoch, &header)).await?;
                total += wanted.changes;
                // A reader that does not wait for the answer any more has failed, and says so itself.
                let _ = reply.send(wanted.blocks);
            }
            Told::Changes(changes) => {
                let no = ground.no;
                report.pulled += session.take_turn(move |conn| append_pulled(conn, no, &changes, &[])).await?;
                progress(report.pulled, Some(total.max(report.pulled)));
            }
            Told::Waiting(waiting) => waiting.into_iter().for_each(|(id, author)| outcome.waiting.add(id, || author)),
            Told::Done(pack, bad) => {
                if let Some((id, bad)) = bad.first() {
                    let refused = Refusal::of_pack(pack, format!("the change {id} in it is refused: {bad}"));
                    note_refused(session, ground.no, known, vec![refused], report).await?;
                }
                let (ground, all_good) = (ground.clone(), bad.is_empty());
                session.run(move |conn| settle(conn, &ground, pack, all_good)).await?;
            }
            Told::Refused(pack, bad) => {
                let refused = Refusal::of_pack(pack, bad.to_string());
                note_refused(session, ground.no, known, vec![refused], report).await?;
            }
            Told::KeptBack(pack) => {
                let refused = Refusal::of_pack(pack, String::new()).kept_back();
                note_refused(session, ground.no, known, vec![refused], report).await?;
            }
            Told::Gone => outcome.vanished += 1,
        }
    }
    reading.await.map_err(|e| Error::new(ErrorKind::Interrupted, "fetching stopped").caused_by(e))??;
    Ok(outcome)
}

/// Reads packs one after another, each started a few ahead of its turn.
async fn read_all(
    session: Session,
    remote: Remote,
    packs: Vec<ListedPack>,
    is_new: bool,
    bound: ChangeId,
    sender: mpsc::Sender<Told>,
) -> Result<()> {
    let budget = (session.settings.transfer_budget / AHEAD).max(1);
    let start = |pack: &ListedPack| {
        let ask = if is_new || pack.size <= SMALL { Ask::Whole } else { Ask::Header };
        (*pack, PackReader::start(&remote, pack.id, ask, budget))
    };
    let mut to_start = packs.iter();
    let mut started: std::collections::VecDeque<_> = to_start.by_ref().take(AHEAD).map(start).collect();
    while let Some((pack, reader)) = started.pop_front() {
        let told = match read_one(pack, reader, bound, &sender).await {
            Ok(Some(bad)) => Told::Done(pack, bad),
            Ok(None) => return Ok(()),
            Err(Unread::Gone) => Told::Gone,
            Err(Unread::Bad(bad)) => Told::Refused(pack, bad),
            Err(Unread::Failed(error)) if remote.keeps_back(&error) => Told::KeptBack(pack),
            Err(Unread::Failed(error)) if remote.is_damaged(&error) => Told::Refused(pack, BadPack::Damaged),
            Err(Unread::Failed(error)) => return Err(error),
        };
        started.extend(to_start.next().map(start));
        if sender.send(told).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Tells what is wanted of one pack. Returns the refused records; nothing where nobody listens any more.
async fn read_one(
    pack: ListedPack,
    mut reader: PackReader,
    bound: ChangeId,
    sender: &mpsc::Sender<Told>,
) -> Result<Option<Vec<(ChangeId, BadFile)>>, Unread> {
    let header = reader.header().await?;
    let (reply, answer) = oneshot::channel();
    if sender.send(Told::Header(pack, header, reply)).await.is_err() {
        return Ok(None);
    }
    let Ok(wanted) = answer.await else { return Ok(None) };
    if wanted.is_empty() {
        return Ok(Some(Vec::new()));
    }
    reader.only(wanted);
    let (mut batch, mut bad, mut bytes) = (Batch::default(), Vec::new(), 0);
    loop {
        let next = match reader.next().await {
            Ok(next) => next,
            Err(unread) => {
                // What came before is kept, so that every attempt brings the end nearer.
                batch.tell(sender).await;
                return Err(unread);
            }
        };
        let Some(records) = next else { break };
        for record in records {
            match record {
                Ok(change) if bound < change.id => {
                    batch.waiting.push((change.id, change.author.as_str().to_owned()));
                }
                Ok(change) => {
                    bytes += change.size();
                    batch.changes.push(change);
                }
                Err(refused) => bad.push(refused),
            }
        }
        if batch.changes.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES {
            bytes = 0;
            if !std::mem::take(&mut batch).tell(sender).await {
                return Ok(None);
            }
        }
    }
    Ok(batch.tell(sender).await.then_some(bad))
}

#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    waiting: Vec<(ChangeId, String)>,
}

impl Batch {
    /// Hands the batch on; false where nobody listens any more.
    async fn tell(self, sender: &mpsc::Sender<Told>) -> bool {
        let changes = self.changes.is_empty() || sender.send(Told::Changes(self.changes)).await.is_ok();
        changes && (self.waiting.is_empty() || sender.send(Told::Waiting(self.waiting)).await.is_ok())
    }
}

/// What is wanted of a pack.
struct Wanted {
    blocks: Vec<usize>,
    changes: u64,
}

/// Remembers a pack by its header, and says which blocks hold what the log lacks.
fn decide(
    conn: &mut Connection,
    ground: &Ground,
    pack: ListedPack,
    epoch: Option<ChangeId>,
    header: &PackHeader,
) -> Result<Wanted> {
    let lacking = lacking(conn, &header.ids)?;
    let tx = immediate(conn)?;
    let new = NewPack {
        pack: pack.id,
        size: pack.size,
        raw: header.raw_len(),
        epoch,
        ids: &header.ids,
        complete: lacking.is_empty(),
    };
    remember_pack(&tx, ground.no, new, ground.now_ms)?;
    if ground.layout_files {
        // Under this layout a pack is no place for a change: plain readers look for a file.
        let places = Places::new(&tx, ground.no)?;
        for id in &header.ids {
            if !places.is_loose(*id)? && !is_listed(&ground.listing, *id) {
                lose(&tx, ground.no, *id)?;
            }
        }
    }
    let from_files = lacking.len() <= FEW && come_in_files(&tx, ground, lacking.iter().map(|at| header.ids[*at]))?;
    tx.commit()?;
    if from_files {
        return Ok(Wanted { blocks: Vec::new(), changes: 0 });
    }
    let has_lacking = |ids: &Range<usize>| {
        let first = lacking.partition_point(|at| *at < ids.start);
        lacking.get(first).is_some_and(|at| ids.contains(at))
    };
    let layout = header.layout();
    let blocks = layout.iter().enumerate().filter(|(_, (_, ids))| has_lacking(ids)).map(|(n, _)| n).collect();
    Ok(Wanted { blocks, changes: lacking.len() as u64 })
}

/// Whether every change has a loose file that is listed and was not refused.
fn come_in_files(conn: &Connection, ground: &Ground, ids: impl Iterator<Item = ChangeId>) -> Result<bool> {
    for id in ids {
        let is_refused = || refused_file(conn, ground.no, &ObjectName::Change(id).to_string());
        if !is_listed(&ground.listing, id) || is_refused()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Which of the ids, by their places, the log lacks.
fn lacking(conn: &Connection, ids: &[ChangeId]) -> Result<Vec<usize>> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(Vec::new()) };
    let sql = "SELECT EXISTS (SELECT 1 FROM ZV_CHANGE WHERE id BETWEEN ?1 AND ?2)";
    let any: bool = conn.prepare_cached(sql)?.query_row((first.to_string(), last.to_string()), |row| row.get(0))?;
    if !any {
        return Ok((0..ids.len()).collect());
    }
    let mut lacking = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        if !contains(conn, *id)? {
            lacking.push(at);
        }
    }
    Ok(lacking)
}

/// Records what the log holds of a pack that was read, and that it is not refused any more.
fn settle(conn: &mut Connection, ground: &Ground, pack: ListedPack, all_good: bool) -> Result<()> {
    let tx = immediate(conn)?;
    if lacking(&tx, &pack_ids(&tx, ground.no, pack.id)?)?.is_empty() {
        complete_pack(&tx, ground.no, pack.id)?;
    }
    if all_good {
        forget_refused(&tx, ground.no, &ObjectName::Pack(pack.id).to_string())?;
    }
    Ok(tx.commit()?)
}

/// Which changes of remembered, incomplete packs the log lacks still: those to be looked for now, and those that wait.
pub(super) struct Incomplete {
    pub(super) due: bool,
    pub(super) waiting: Vec<ChangeId>,
}

/// Looks at a remembered pack of which the log lacks something.
pub(super) fn incomplete(conn: &Connection, no: i64, pack: ChangeId, bound: ChangeId) -> Result<Incomplete> {
    let ids = pack_ids(conn, no, pack)?;
    let lacking = lacking(conn, &ids)?;
    let waiting: Vec<ChangeId> = lacking.iter().map(|at| ids[*at]).filter(|id| bound < *id).collect();
    Ok(Incomplete { due: waiting.len() < lacking.len(), waiting })
}

/// Whether the log has a change of any listed pack; read as far as it takes to find out.
pub(super) async fn any_known(session: &Session, remote: &Remote, listing: &Listing) -> Result<bool> {
    for pack in &listing.packs {
        let ask = if pack.size <= SMALL { Ask::Whole } else { Ask::Header };
        let mut reader = PackReader::start(remote, pack.id, ask, session.settings.transfer_budget);
        match reader.header().await {
            Ok(header) => {
                let known = move |conn: &mut Connection| Ok(lacking(conn, &header.ids)?.len() < header.ids.len());
                if session.run(known).await? {
                    return Ok(true);
                }
            }
            Err(Unread::Failed(error)) if !is_of_file(remote, &error) => return Err(error),
            Err(Unread::Gone | Unread::Bad(_) | Unread::Failed(_)) => {}
        }
    }
    Ok(false)
}

/// Whether it is that one file alone that cannot be read.
pub(super) fn is_of_file(remote: &Remote, error: &Error) -> bool {
    remote.keeps_back(error) || remote.is_damaged(error)
}

/// Records which packs the log holds all of, now that what it lacked has come from loose files.
pub(super) async fn complete(session: &Session, row: &RemoteRow) -> Result<()> {
    let no = row.no;
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            for row in list_packs(&tx, no)?.into_iter().filter(|row| !row.complete) {
                if lacking(&tx, &pack_ids(&tx, no, row.pack)?)?.is_empty() {
                    complete_pack(&tx, no, row.pack)?;
                }
            }
            Ok(tx.commit()?)
        })
        .await
}

/// How many packs from the future are read for their authors in one sync.
const MAX_AHEAD: usize = 16;

/// The changes after a bound, with their authors, in the packs whose names lie after it too: who writes with a clock that is
/// ahead names packs by that clock.
pub(super) async fn changes_after(
    session: &Session,
    remote: &Remote,
    listing: &Listing,
    bound: ChangeId,
) -> Result<Vec<(ChangeId, String)>> {
    let mut found = Vec::new();
    for pack in listing.packs.iter().rev().take_while(|pack| pack.id > bound).take(MAX_AHEAD) {
        let mut reader = PackReader::start(remote, pack.id, Ask::Whole, session.settings.transfer_budget);
        match after(&mut reader, bound, &mut found).await {
            Err(Unread::Failed(error)) if !is_of_file(remote, &error) => return Err(error),
            Ok(()) | Err(Unread::Gone | Unread::Bad(_) | Unread::Failed(_)) => {}
        }
    }
    Ok(found)
}

async fn after(reader: &mut PackReader, bound: ChangeId, found: &mut Vec<(ChangeId, String)>) -> Result<(), Unread> {
    reader.header().await?;
    while let Some(records) = reader.next().await? {
        let ahead = records.into_iter().flatten().filter(|change| change.id > bound);
        found.extend(ahead.map(|change| (change.id, change.author.as_str().to_owned())));
    }
    Ok(())
}
