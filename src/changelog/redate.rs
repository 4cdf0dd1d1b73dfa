//! New ids for own changes that a wrong clock dated too far ahead, while nobody else has seen them.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use super::conflicts::id_from;
use super::{IdText, Log, read_head};
use crate::db::{Metadata, get_metadata, set_metadata};
use crate::error::Result;
use crate::model::{ChangeId, Clock};
use crate::world::World;

/// Whether the remote has a change.
pub(super) type IsThere<'a> = &'a mut dyn FnMut(ChangeId) -> Result<bool>;

/// Redates the own changes after `bound` that never left this machine: in order, each above everything pushed or merged
/// from elsewhere. Log, sequence, registers and conflicts follow. Returns how many there were.
///
/// What the remote has did leave, whatever is remembered: this may be a backup of the file that pushed it.
pub(crate) fn redate(conn: &Connection, world: &World, bound: ChangeId, is_there: IsThere<'_>) -> Result<u64> {
    let ahead = "SELECT EXISTS (SELECT 1 FROM ZV_CHANGE WHERE id > ?1)";
    if !conn.query_row(ahead, [IdText::new(bound).as_str()], |row| row.get::<_, bool>(0))? {
        return Ok(0);
    }
    let exposed: Option<ChangeId> = get_metadata(conn, Metadata::ExposedId)?;
    let (own, foreign) = after(conn, bound)?;
    let unseen: Vec<ChangeId> = own.iter().copied().filter(|id| Some(*id) > exposed).collect();
    // Where something that others have seen lies ahead, later writes must stay above it: nothing would be gained.
    if unseen.is_empty() || unseen.len() < own.len() || !foreign.is_empty() {
        return Ok(0);
    }
    for id in unseen.iter().rev() {
        if is_there(*id)? {
            set_metadata(conn, Metadata::ExposedId, *id)?;
            return Ok(0);
        }
    }
    let mut clock = Clock::new(greatest_up_to(conn, bound)?);
    let renamed: HashMap<ChangeId, ChangeId> =
        unseen.iter().map(|old| (*old, clock.next(world.now_ms(), world.random()))).collect();
    rename_all(conn, &unseen, &renamed)?;
    if let Some(last) = clock.last() {
        set_metadata(conn, Metadata::LastId, last)?;
    }
    Ok(unseen.len() as u64)
}

/// Gives own changes that nobody has seen their new ids, wherever the old ones are named.
pub(super) fn rename_all(conn: &Connection, unseen: &[ChangeId], renamed: &HashMap<ChangeId, ChangeId>) -> Result<()> {
    // A field names its change by the id: on a connection that enforces this, it is checked once both have the new one.
    conn.pragma_update(None, "defer_foreign_keys", true)?;
    for old in unseen {
        rename(conn, *old, renamed[old])?;
    }
    rename_registers(conn, unseen, renamed)
}

/// The ids after a bound, in order: own ones, and those from elsewhere.
fn after(conn: &Connection, bound: ChangeId) -> Result<(Vec<ChangeId>, Vec<ChangeId>)> {
    let mut statement =
        conn.prepare("SELECT change_id, own FROM ZV_SEQUENCE WHERE change_id > ?1 ORDER BY change_id")?;
    let mut rows = statement.query([bound.as_bytes()])?;
    let (mut own, mut foreign) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let id = id_from(row.get(0)?)?;
        if row.get(1)? { own.push(id) } else { foreign.push(id) }
    }
    Ok((own, foreign))
}

/// The greatest id up to a bound among what was written here and what was merged.
fn greatest_up_to(conn: &Connection, bound: ChangeId) -> Result<Option<ChangeId>> {
    let merged: i64 = get_metadata(conn, Metadata::MergedSeq)?.unwrap_or(0);
    let mut statement = conn.prepare("SELECT change_id FROM ZV_SEQUENCE WHERE seq > ?1 AND NOT own")?;
    let unmerged = statement.query_map([merged], |row| row.get(0))?.map(|id| id_from(id?));
    let unmerged: HashSet<ChangeId> = unmerged.collect::<Result<_>>()?;
    let mut statement = conn.prepare("SELECT id FROM ZV_CHANGE WHERE id <= ?1 ORDER BY id DESC")?;
    let mut rows = statement.query([IdText::new(bound).as_str()])?;
    while let Some(row) = rows.next()? {
        let id: Option<ChangeId> = row.get::<_, String>(0)?.parse().ok();
        if let Some(id) = id.filter(|id| !unmerged.contains(id)) {
            return Ok(Some(id).filter(|id| !id.is_backfill()));
        }
    }
    Ok(None)
}

fn rename(conn: &Connection, old: ChangeId, new: ChangeId) -> Result<()> {
    let (old_text, new_text) = (IdText::new(old), IdText::new(new));
    for sql in
        ["UPDATE ZV_CHANGE SET id = ?2 WHERE id = ?1", "UPDATE ZV_CHANGE_FIELD SET change_id = ?2 WHERE change_id = ?1"]
    {
        conn.prepare_cached(sql)?.execute((old_text.as_str(), new_text.as_str()))?;
    }
    for sql in [
        "UPDATE ZV_CONFLICT SET winner = ?2 WHERE winner = ?1",
        "UPDATE ZV_CONFLICT SET loser = ?2 WHERE loser = ?1",
        "UPDATE ZV_KEPT SET change_id = ?2 WHERE change_id = ?1",
    ] {
        conn.prepare_cached(sql)?.execute((old.as_bytes(), new.as_bytes()))?;
    }
    Ok(())
}

fn rename_registers(conn: &Connection, unseen: &[ChangeId], renamed: &HashMap<ChangeId, ChangeId>) -> Result<()> {
    let mut log = Log::new(conn)?;
    for old in unseen {
        let Some(head) = read_head(conn, renamed[old])? else { continue };
        let table_no = log.names.number(conn, &head.entity_type)?;
        let entity = log.entity(table_no, &head.entity_id)?;
        let mut registers = entity.registers.clone();
        registers.rename(|id| renamed.get(&id).copied());
        entity.replace_registers(registers);
    }
    log.flush()?;
    let mut rows = Vec::new();
    let mut statement = conn.prepare("SELECT seq, change_id FROM ZV_SEQUENCE WHERE own")?;
    let mut cursor = statement.query([])?;
    while let Some(row) = cursor.next()? {
        if let Some(new) = renamed.get(&id_from(row.get(1)?)?) {
            rows.push((row.get::<_, i64>(0)?, *new));
        }
    }
    drop(cursor);
    let mut update = conn.prepare("UPDATE ZV_SEQUENCE SET change_id = ?2 WHERE seq = ?1")?;
    rows.into_iter().try_for_each(|(seq, new)| update.execute((seq, new.as_bytes())).map(|_| ()))?;
    Ok(())
}
