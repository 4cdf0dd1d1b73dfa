//! What is gone from a remote: the listing against what is remembered to lie there. What no object holds any more is lost, and
//! the next push puts it back. Absence deletes nothing.

use std::sync::Arc;

use rusqlite::Connection;

use super::plan::is_listed;
use super::{RemoteRow, Session};
use crate::changelog::{
    Places, contains, each_loose, forget_loose, forget_pack, forget_places, list_packs, lose, lose_packed,
    pushed_after, regain_unpushed,
};
use crate::db::immediate;
use crate::error::Result;
use crate::model::ChangeId;
use crate::remote::Listing;

/// Brings what is remembered of a remote in line with a listing, after everything listed was looked at. Returns whether all of it
/// was forgotten.
pub(super) async fn reconcile(session: &Session, row: &RemoteRow, listing: &Arc<Listing>) -> Result<bool> {
    let (listing, no, files) = (Arc::clone(listing), row.no, row.is_laid_out_as_files());
    session.run(move |conn| compare(conn, no, &listing, files)).await
}

fn compare(conn: &mut Connection, no: i64, listing: &Listing, files: bool) -> Result<bool> {
    let remembered = list_packs(conn, no)?;
    let is_gone = |pack: ChangeId| listing.packs.binary_search_by_key(&pack, |listed| listed.id).is_err();
    let packs: Vec<ChangeId> = remembered.iter().map(|row| row.pack).filter(|pack| is_gone(*pack)).collect();
    let loose = gone_loose(conn, no, listing)?;
    if packs.is_empty() && loose.is_empty() {
        return Ok(false);
    }
    let tx = immediate(conn)?;
    if listing.is_without_changes() {
        // All of it is to go there again, from the first change on: nothing has to be looked up.
        forget_places(&tx, no)?;
        tx.commit()?;
        return Ok(true);
    }
    let mut gone = loose;
    gone.iter().try_for_each(|id| forget_loose(&tx, no, *id))?;
    for pack in packs {
        gone.extend(forget_pack(&tx, no, pack)?);
    }
    gone.sort_unstable();
    gone.dedup();
    lose_unplaced(&tx, no, &gone, files)?;
    tx.commit()?;
    Ok(false)
}

/// Of changes that an object held which is gone, those that the log has and no other object holds are to be put back.
pub(super) fn lose_unplaced(conn: &Connection, no: i64, gone: &[ChangeId], files: bool) -> Result<()> {
    let mut places = Places::new(conn, no)?;
    for id in gone {
        let is_there = places.is_loose(*id)? || !files && places.is_packed(*id)?;
        if !is_there && contains(conn, *id)? {
            lose(conn, no, *id)?;
        }
    }
    Ok(())
}

/// Counts a pack that cannot be read as gone.
pub(super) fn give_up_pack(conn: &mut Connection, no: i64, pack: ChangeId, files: bool) -> Result<()> {
    let tx = immediate(conn)?;
    let gone = forget_pack(&tx, no, pack)?;
    lose_unplaced(&tx, no, &gone, files)?;
    regain_unpushed(&tx, no)?;
    Ok(tx.commit()?)
}

/// The loose files that are remembered and not listed.
fn gone_loose(conn: &Connection, no: i64, listing: &Listing) -> Result<Vec<ChangeId>> {
    let (mut gone, mut at) = (Vec::new(), 0);
    each_loose(conn, no, |id, _| {
        while listing.changes.get(at).is_some_and(|listed| listed.id < id) {
            at += 1;
        }
        if listing.changes.get(at).is_none_or(|listed| listed.id != id) {
            gone.push(id);
        }
        Ok(())
    })?;
    Ok(gone)
}

/// So many changes are looked up in one go.
const LOOKED_UP_AT_ONCE: usize = 5_000;

/// What counts as pushed, and neither is listed in a file nor remembered to lie anywhere, is to be put back. Only a fault leaves any.
pub(super) async fn lose_unknown(
    session: &Session,
    row: &RemoteRow,
    files: bool,
    listing: &Arc<Listing>,
) -> Result<()> {
    let (no, mut next) = (row.no, Some(0));
    while let Some(after) = next {
        let listing = Arc::clone(listing);
        next = session.take_turn(move |conn| lose_unknown_after(conn, no, after, files, &listing)).await?;
    }
    Ok(())
}

/// The same for the next places in the sequence. Returns how far it came; nothing at the end.
fn lose_unknown_after(
    conn: &mut Connection,
    no: i64,
    after: i64,
    files: bool,
    listing: &Listing,
) -> Result<Option<i64>> {
    let tx = immediate(conn)?;
    let pushed = pushed_after(&tx, no, after, LOOKED_UP_AT_ONCE)?;
    let unlisted: Vec<ChangeId> = pushed.iter().map(|(_, id)| *id).filter(|id| !is_listed(listing, *id)).collect();
    lose_unplaced(&tx, no, &unlisted, files)?;
    tx.commit()?;
    Ok(pushed.last().map(|(seq, _)| *seq).filter(|_| pushed.len() == LOOKED_UP_AT_ONCE))
}

/// Every change that lies in packs alone is to get a file of its own. Returns how many there are.
pub(super) async fn unpack(session: &Session, row: &RemoteRow) -> Result<u64> {
    let no = row.no;
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let packed = lose_packed(&tx, no)?;
            tx.commit()?;
            Ok(packed)
        })
        .await
}
