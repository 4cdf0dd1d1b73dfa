//! Compaction: loose files and small packs into larger packs, and the removal, in a later run, of what greater packs hold.
//! Any replica does it at any time; it loses nothing whatever the others do, because nothing is removed but for packs of
//! greater names that were read back. Never part of a sync.

pub(crate) mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Transaction};

use super::full::{Note, Standing, inspect_pack};
use super::places::lose_unplaced;
use super::push::own_pack;
use super::unlock;
use super::{RELISTS, RemoteRow, Session, newest_layout};
use crate::changelog::{
    Covered, PackRow, Places, contains, each_loose, forget_loose, forget_pack, list_packs, list_remotes, pack_ids,
    read_change, remember_pack, set_covered, set_word, word,
};
use crate::db::{Metadata, immediate};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{Listing, Remote};
use crate::report::CompactReport;
use crate::wire::{MAX_PACKED_CHANGE, ObjectName, PackWriter, Packed, encode_change, is_frozen};
use plan::{Candidate, Inputs, SmallPack};

/// How compaction is to go about it.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct CompactOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Do only what has piled up, as after a sync that says [`compaction_due`](crate::SyncReport::compaction_due): nothing is
    /// listed anew.
    pub only_if_due: bool,
}

/// A bucket's readers list again within moments; a sync tool may carry a removal long before the pack.
const GRACE: Duration = Duration::from_secs(60 * 60);
const FOLDER_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The most objects that one request removes.
const REMOVED_AT_ONCE: usize = 1_000;
const _: () = assert!(RELISTS > 0, "readers rely on listing again");

/// What there is to do on a remote, as far as it is remembered.
#[derive(Debug, Default)]
struct Work {
    inputs: Inputs,
    loose: Vec<ChangeId>,
    /// Loose files and packs that may go, with the packs that stand for them.
    loose_victims: BTreeMap<ChangeId, ChangeId>,
    pack_victims: BTreeMap<ChangeId, Vec<ChangeId>>,
    /// Objects that packs hold too, and whose time has not come.
    unripe: u64,
}

/// Whether a sync is to be followed by a compaction.
pub(super) async fn is_due(session: &Session, remote: &Remote, row: &RemoteRow, files_only: bool) -> Result<bool> {
    if files_only {
        return Ok(false);
    }
    let (no, now_ms) = (row.no, session.world.now_ms());
    if session.run(move |conn| Ok(wait(conn, no)?.is_some_and(|wait| wait.is_on(now_ms)))).await? {
        return Ok(false);
    }
    let work = find_work(session, row.no, grace_ms(session, remote), false, None).await?;
    Ok(!work.inputs.is_empty() || !work.loose_victims.is_empty() || !work.pack_victims.is_empty())
}

/// Does it. What cannot be finished is due again later and later: a pack that is not right is not read after every sync, and
/// who may not delete is not told so each time.
pub(crate) async fn compact(session: &Session, remote: &Remote, options: &CompactOptions) -> Result<CompactReport> {
    let url = remote.url().to_owned();
    let known = session.run(move |conn| Ok(list_remotes(conn)?.into_iter().find(|row| row.url == url))).await?;
    let Some(row) = known.filter(|row| row.last_sync_ms > 0) else {
        let message = format!("{}: this replica has not synced there yet; sync once, then compact", remote.url());
        return Err(Error::new(ErrorKind::Remote, message));
    };
    let done = compact_known(session, remote, &row, options).await;
    if !options.dry_run {
        let is_finished = done.as_ref().is_ok_and(|report| report.problems.is_empty());
        let (no, now_ms) = (row.no, session.world.now_ms());
        session.run(move |conn| put_off(conn, no, now_ms, is_finished)).await?;
    }
    done
}

/// How long compaction waits after one that could not be finished: the first time, and at most.
const FIRST_WAIT_MS: u64 = 15 * 60 * 1_000;
const LAST_WAIT_MS: u64 = 24 * 60 * 60 * 1_000;

/// How many compactions in a row could not be finished, and until when the next one waits.
struct Wait {
    tries: u32,
    until_ms: u64,
}

impl Wait {
    /// A clock that was set back makes nobody wait for longer.
    fn is_on(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms && self.until_ms - now_ms <= LAST_WAIT_MS
    }
}

fn wait(conn: &Connection, no: i64) -> Result<Option<Wait>> {
    let word = word(conn, Metadata::Compactions, no)?.unwrap_or_default();
    let Some((tries, until_ms)) = word.split_once('@') else { return Ok(None) };
    let read = tries.parse().ok().zip(until_ms.parse().ok());
    Ok(read.map(|(tries, until_ms)| Wait { tries, until_ms }))
}

fn put_off(conn: &Connection, no: i64, now_ms: u64, is_finished: bool) -> Result<()> {
    if is_finished {
        return set_word(conn, Metadata::Compactions, no, None);
    }
    let tries = wait(conn, no)?.map_or(0, |wait| wait.tries);
    let delay = FIRST_WAIT_MS.saturating_mul(1 << tries.min(20)).min(LAST_WAIT_MS);
    let word = format!("{}@{}", tries.saturating_add(1), now_ms.saturating_add(delay));
    set_word(conn, Metadata::Compactions, no, Some(&word))
}

async fn compact_known(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    options: &CompactOptions,
) -> Result<CompactReport> {
    let traffic = remote.traffic();
    let started = std::time::Instant::now();
    let mut report = CompactReport { remote: remote.url().to_owned(), dry_run: options.dry_run, ..Default::default() };
    let known = unlock::remember(session, row.no).await?;
    let listing = match options.only_if_due && !known.is_encrypted() {
        true => None,
        false => Some(remote.list().await?),
    };
    if let Some(listing) = &listing {
        check_layout(remote, row, listing, session.bound())?;
    }
    let remote = &match &listing {
        Some(listing) => unlock::open(remote, &known, listing).await?,
        None => remote.clone(),
    };
    let epoch = remote.keyring().and_then(|keyring| keyring.current());
    if remote.keyring().is_some() && epoch.is_none() {
        let message = format!("{}: its keys were changed by several at once; sync, then compact", remote.url());
        return Err(Error::new(ErrorKind::Key, message));
    }
    if !row.is_laid_out_as_files() {
        let work = find_work(session, row.no, grace_ms(session, remote), !options.only_if_due, epoch).await?;
        report.unripe = work.unripe;
        if options.dry_run {
            foretell(session, row, &work, &mut report).await?;
        } else {
            // Who may not delete may still write: others remove what those packs hold.
            let removed = remove(session, remote, row.no, &work, &mut report).await;
            write(session, remote, row.no, work, &mut report).await?;
            removed?;
        }
    }
    report.requests = remote.traffic().since(&traffic);
    report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Nobody compacts on the word of a layout that may have changed.
fn check_layout(remote: &Remote, row: &RemoteRow, listing: &Listing, bound: ChangeId) -> Result<()> {
    let newest = newest_layout(listing, bound).map(|id| id.to_string()).unwrap_or_default();
    if newest == row.layout_id {
        return Ok(());
    }
    let message = format!("{}: its layout has changed since the last sync; sync, then compact", remote.url());
    Err(Error::new(ErrorKind::Remote, message))
}

/// How long a pack must have been seen before something is removed for it.
pub(crate) fn grace_ms(session: &Session, remote: &Remote) -> u64 {
    let usual = if remote.is_folder() { FOLDER_GRACE } else { GRACE };
    let grace = session.settings.compaction_grace.unwrap_or(usual);
    u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)
}

async fn find_work(session: &Session, no: i64, grace_ms: u64, asked: bool, epoch: Option<ChangeId>) -> Result<Work> {
    let (now_ms, bound) = (session.world.now_ms(), session.bound());
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let packs = packs_up_to(&tx, no, bound)?;
            refresh_covers(&tx, no, &packs)?;
            let packs = packs_up_to(&tx, no, bound)?;
            let work = look(&tx, no, &packs, now_ms, grace_ms, asked, epoch)?;
            tx.commit()?;
            Ok(work)
        })
        .await
}

/// The packs that compaction looks at. One whose name lies further ahead than a clock may be off is left alone until its time comes:
/// new packs need greater names, and after the last name there is none.
fn packs_up_to(conn: &Connection, no: i64, bound: ChangeId) -> Result<Vec<PackRow>> {
    let mut packs = list_packs(conn, no)?;
    packs.retain(|row| row.pack <= bound);
    Ok(packs)
}

/// Finds out, for packs of which it is not known yet, whether greater packs hold all of their changes.
fn refresh_covers(conn: &Connection, no: i64, packs: &[PackRow]) -> Result<()> {
    if packs.iter().all(|row| row.covered != Covered::Unknown) {
        return Ok(());
    }
    let candidates: Vec<Candidate> = packs.iter().map(candidate).collect();
    let mut places = Places::new(conn, no)?;
    for row in packs.iter().filter(|row| row.covered == Covered::Unknown) {
        let enough = packs.iter().filter(|other| row.pack < other.pack).map(|other| other.changes).sum::<u64>();
        let covers = match enough >= row.changes {
            true => plan::covers(row.pack, &pack_ids(conn, no, row.pack)?, &candidates, |pack| places.ids(pack))?,
            false => None,
        };
        let since = covers.and_then(|covers| covers.iter().map(|cover| cover.seen_ms).max());
        set_covered(conn, no, row.pack, since.map_or(Covered::No, Covered::Since))?;
    }
    Ok(())
}

fn candidate(row: &PackRow) -> Candidate {
    Candidate { pack: row.pack, first: row.first, last: row.last, seen_ms: row.seen_ms }
}

fn look(
    tx: &Transaction<'_>,
    no: i64,
    packs: &[PackRow],
    now_ms: u64,
    grace_ms: u64,
    asked: bool,
    epoch: Option<ChangeId>,
) -> Result<Work> {
    let mut work = Work::default();
    let mut places = Places::new(tx, no)?;
    let ripe: Vec<Candidate> =
        packs.iter().filter(|row| plan::is_ripe(row.seen_ms, now_ms, grace_ms)).map(candidate).collect();
    let mut victims = Vec::new();
    each_loose(tx, no, |id, packed_ms| {
        match packed_ms {
            0 => work.loose.push(id),
            ms if plan::is_ripe(ms, now_ms, grace_ms) => victims.push(id),
            _ => work.unripe += 1,
        }
        Ok(())
    })?;
    for id in victims {
        let mut holders = places.packs_with(id, false)?;
        if let Some(row) = holders.find(|row| plan::is_ripe(row.seen_ms, now_ms, grace_ms)) {
            work.loose_victims.insert(id, row.pack);
        }
    }
    for row in packs {
        match row.covered {
            Covered::Since(ms) if plan::is_ripe(ms, now_ms, grace_ms) => {
                let ids = places.ids(row.pack)?;
                if let Some(covers) = plan::covers(row.pack, &ids, &ripe, |pack| places.ids(pack))? {
                    work.pack_victims.insert(row.pack, covers.iter().map(|cover| cover.pack).collect());
                }
            }
            Covered::Since(_) => work.unripe += 1,
            _ => {}
        }
    }
    let is_small =
        |row: &&PackRow| row.complete && row.covered == Covered::No && !is_frozen(row.changes, row.size, row.raw);
    let small: Vec<SmallPack> =
        packs.iter().filter(is_small).map(|row| SmallPack { pack: row.pack, changes: row.changes }).collect();
    work.inputs = plan::choose(work.loose.len(), &small, asked);
    if work.inputs.loose {
        // What fits into no pack stays loose, and is no reason to compact.
        work.loose = packable(tx, std::mem::take(&mut work.loose))?;
        work.inputs = plan::choose(work.loose.len(), &small, asked);
    }
    if asked {
        // What is sealed under an older epoch moves to the current one, however large it is.
        let outdated =
            packs.iter().filter(|row| row.complete && row.covered == Covered::No && row.is_sealed_before(epoch));
        let moved = outdated.map(|row| row.pack).filter(|pack| !work.inputs.packs.contains(pack));
        let moved: Vec<ChangeId> = moved.collect();
        work.inputs.packs.extend(moved);
    }
    Ok(work)
}

/// Those of loose changes that fit into a pack.
fn packable(conn: &Connection, loose: Vec<ChangeId>) -> Result<Vec<ChangeId>> {
    let mut fitting = Vec::with_capacity(loose.len());
    for id in loose {
        if fits_into_pack(conn, id)? {
            fitting.push(id);
        }
    }
    Ok(fitting)
}

/// Whether a change fits into a pack. Large ones are judged by the lengths that SQLite keeps, without reading their values, as far
/// as it can be told by those.
fn fits_into_pack(conn: &Connection, id: ChangeId) -> Result<bool> {
    let sql = "SELECT coalesce(sum(octet_length(field_value)), 0), coalesce(sum(octet_length(field_name) + ?2), 0) \
               + (SELECT octet_length(entity_type) + octet_length(entity_id) + octet_length(author_id) \
               FROM ZV_CHANGE WHERE id = ?1) FROM ZV_CHANGE_FIELD WHERE change_id = ?1";
    let (values, around): (u64, Option<u64>) =
        conn.prepare_cached(sql)?.query_row((id.to_string(), AROUND_FIELD), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (most, Some(around)) = (MAX_PACKED_CHANGE as u64, around) else { return Ok(false) };
    if values > most {
        return Ok(false);
    }
    Ok(values + around + AROUND_CHANGE <= most || encode_change(&read_change(conn, id)?).len() as u64 <= most)
}

/// More bytes than a change file has around a field's name and value, and around all else.
const AROUND_FIELD: u64 = 64;
const AROUND_CHANGE: u64 = 1 << 10;

/// Says what would be done.
async fn foretell(session: &Session, row: &RemoteRow, work: &Work, report: &mut CompactReport) -> Result<()> {
    let (no, packs) = (row.no, work.inputs.packs.clone());
    let changes: u64 = session
        .run(move |conn| {
            let rows = list_packs(conn, no)?;
            Ok(rows.iter().filter(|row| packs.contains(&row.pack)).map(|row| row.changes).sum())
        })
        .await?;
    let loose = if work.inputs.loose { work.loose.len() as u64 } else { 0 };
    report.packed_files = loose;
    report.joined_packs = work.inputs.packs.len() as u64;
    report.changes = changes + loose;
    report.removed_files = work.loose_victims.len() as u64;
    report.removed_packs = work.pack_victims.len() as u64;
    Ok(())
}

/// Removes what ripe packs of greater names hold, once those were read back and are right.
async fn remove(session: &Session, remote: &Remote, no: i64, work: &Work, report: &mut CompactReport) -> Result<()> {
    let covers: BTreeSet<ChangeId> =
        work.loose_victims.values().chain(work.pack_victims.values().flatten()).copied().collect();
    let mut right = BTreeSet::new();
    for cover in covers {
        match inspect_pack(session, remote, cover, Note::Nothing).await? {
            Standing::Same => drop(right.insert(cover)),
            Standing::Gone => {}
            Standing::KeptBack => report.problems.push(format!(
                "{} may not be read by this user, so nothing was removed for it; check its permissions",
                ObjectName::Pack(cover)
            )),
            Standing::Different => report.problems.push(format!(
                "{} is not right on the remote, so nothing was removed for it; `zvon sync --full` mends it",
                ObjectName::Pack(cover)
            )),
        }
    }
    let loose = work.loose_victims.iter().filter(|(_, cover)| right.contains(cover)).map(|(id, _)| *id);
    let packs = work.pack_victims.iter().filter(|(_, covers)| covers.iter().all(|c| right.contains(c)));
    let loose: Vec<ChangeId> = loose.collect();
    let packs: Vec<ChangeId> = packs.map(|(pack, _)| *pack).collect();
    let names: Vec<ObjectName> =
        loose.iter().map(|id| ObjectName::Change(*id)).chain(packs.iter().map(|id| ObjectName::Pack(*id))).collect();
    for part in names.chunks(REMOVED_AT_ONCE) {
        remote.delete(part.to_vec()).await?;
    }
    report.removed_files = loose.len() as u64;
    report.removed_packs = packs.len() as u64;
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            // What these were removed for may be lost meanwhile, and another sync have seen that while they were still there.
            loose.iter().try_for_each(|id| forget_loose(&tx, no, *id))?;
            lose_unplaced(&tx, no, &loose, false)?;
            for pack in packs {
                lose_unplaced(&tx, no, &forget_pack(&tx, no, pack)?, false)?;
            }
            Ok(tx.commit()?)
        })
        .await
}

/// Writes what was chosen into new packs, each recorded once it is there.
async fn write(session: &Session, remote: &Remote, no: i64, work: Work, report: &mut CompactReport) -> Result<()> {
    let Work { inputs, mut loose, .. } = work;
    if inputs.is_empty() {
        return Ok(());
    }
    if !inputs.loose {
        loose.clear();
    }
    report.packed_files = loose.len() as u64;
    report.joined_packs = inputs.packs.len() as u64;
    let bound = session.bound();
    let (ids, greatest) = session.run(move |conn| input_ids(conn, no, &loose, &inputs.packs, bound)).await?;
    let mut names = Clock::new(greatest);
    let ids = Arc::new(ids);
    let mut at = 0;
    while at < ids.len() {
        let input = Arc::clone(&ids);
        let (packed, next) = session.run(move |conn| encode_from(conn, &input, at)).await?;
        at = next;
        if packed.ids.is_empty() {
            break;
        }
        let name = names.next(session.world.now_ms(), session.world.random());
        remote.put(&ObjectName::Pack(name), packed.bytes.clone()).await?;
        report.written_packs += 1;
        report.changes += packed.ids.len() as u64;
        report.bytes_written += packed.bytes.len() as u64;
        let (now_ms, epoch) = (session.world.now_ms(), remote.sealed_under(&ObjectName::Pack(name)));
        session
            .run(move |conn| {
                let tx = immediate(conn)?;
                remember_pack(&tx, no, own_pack(name, &packed, epoch), now_ms)?;
                Ok(tx.commit()?)
            })
            .await?;
    }
    Ok(())
}

/// The changes that go into new packs, ascending, and the greatest name of the packs that there are.
fn input_ids(
    conn: &Connection,
    no: i64,
    loose: &[ChangeId],
    packs: &[ChangeId],
    bound: ChangeId,
) -> Result<(Vec<ChangeId>, Option<ChangeId>)> {
    let mut ids = loose.to_vec();
    for pack in packs {
        ids.extend(pack_ids(conn, no, *pack)?);
    }
    ids.sort_unstable();
    ids.dedup();
    let greatest = packs_up_to(conn, no, bound)?.last().map(|row| row.pack);
    Ok((ids, greatest))
}

/// Fills one pack from the log. Returns where the next one begins.
fn encode_from(conn: &mut Connection, ids: &[ChangeId], from: usize) -> Result<(Packed, usize)> {
    let tx = conn.transaction()?;
    let mut writer = PackWriter::new();
    let mut at = from;
    while at < ids.len() && !writer.is_full() {
        let id = ids[at];
        at += 1;
        if !contains(&tx, id)? {
            continue;
        }
        let file = encode_change(&read_change(&tx, id)?);
        if file.len() <= MAX_PACKED_CHANGE {
            writer.add(id, &file);
        }
    }
    Ok((writer.finish(), at))
}

#[cfg(test)]
mod model;
