//! Backfills that nobody has seen, of rows that a remote knows already: they give way, so that a stale copy that joins
//! late says nothing of what it does not know better.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::Connection;

use super::conflicts::id_from;
use super::redate::{IsThere, rename_all};
use super::{IdText, Log, lower, read_fields, read_head, touch};
use crate::db::{Metadata, get_metadata, set_metadata};
use crate::error::Result;
use crate::model::{ChangeId, Clock, DELETED_COLUMN, Register};
use crate::world::World;

/// How many entities are cached before they are written back.
const BATCH: usize = 10_000;

/// Takes back what the own backfills that never left this machine say of columns that a pulled, unmerged change writes.
/// What the remote has under its own name, as a copy of this file pushed it, stays. Returns how many backfills went altogether.
pub(crate) fn retire_backfills(conn: &Connection, world: &World, is_there: IsThere<'_>) -> Result<u64> {
    if !any_unseen(conn)? {
        return Ok(0);
    }
    let mut log = Log::new(conn)?;
    let cursor: i64 = get_metadata(conn, Metadata::MergedSeq)?.unwrap_or(0);
    let pulled = "SELECT change_id FROM ZV_SEQUENCE WHERE seq > ?1 AND NOT own ORDER BY seq";
    let beaten = merged_backfills(conn, cursor)?;
    let gone = give_way_to_each(&mut log, world, is_there, (pulled, cursor), Some(&beaten))?;
    log.finish()?;
    Ok(gone)
}

/// The same for the changes that wait for a table which is tracked from now on: they were pulled before it had any backfills.
pub(crate) fn yield_to_waiting(log: &mut Log<'_>, world: &World, table_no: u32) -> Result<u64> {
    if !any_unseen(log.conn)? {
        return Ok(0);
    }
    log.flush()?;
    let waiting = "SELECT change_id FROM ZV_PENDING WHERE table_no = ?1 AND column_no IS NULL ORDER BY change_id";
    // What a remote has of them all the same is pulled again.
    give_way_to_each(log, world, &mut |_| Ok(false), (waiting, table_no.into()), None)
}

/// Whether there are backfills that never left this machine.
fn any_unseen(conn: &Connection) -> Result<bool> {
    let made: u64 = get_metadata(conn, Metadata::Backfilled)?.unwrap_or(0);
    let exposed: u64 = get_metadata(conn, Metadata::ExposedBackfills)?.unwrap_or(0);
    Ok(made > exposed)
}

/// Lets backfills give way to each change that a query finds: to unmerged ones, which may uncover what backfills had beaten, or
/// to those of a table that was not tracked (no `beaten`), whose rows differ from the log until a merge comes to them.
fn give_way_to_each(
    log: &mut Log<'_>,
    world: &World,
    is_there: IsThere<'_>,
    (sql, parameter): (&str, i64),
    beaten: Option<&[ChangeId]>,
) -> Result<u64> {
    let conn = log.conn;
    let mut retired = Retired {
        first: get_metadata(conn, Metadata::ExposedBackfills)?.unwrap_or(0),
        is_there,
        gone: BTreeSet::new(),
        cut: BTreeSet::new(),
        empty: beaten.is_none_or(|beaten| !beaten.is_empty()).then(BTreeMap::new),
    };
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([parameter])?;
    while let Some(row) = rows.next()? {
        retired.give_way(log, id_from(row.get(0)?)?)?;
        if log.cached() >= BATCH {
            log.flush()?;
        }
    }
    drop(rows);
    match (&retired.empty, beaten) {
        (Some(empty), Some(beaten)) => fill(log, empty, beaten)?,
        (Some(empty), None) => empty.keys().try_for_each(|(table_no, row)| touch(conn, *table_no, row))?,
        (None, _) => {}
    }
    log.flush()?;
    remove(conn, &retired.gone)?;
    rename_cut(conn, world, &retired.cut - &retired.gone)?;
    Ok(retired.gone.len() as u64)
}

/// Pulled backfills that were merged already, as after a sync that was cut off: own ones that give way may have beaten them.
fn merged_backfills(conn: &Connection, cursor: i64) -> Result<Vec<ChangeId>> {
    let mut statement = conn.prepare("SELECT change_id FROM ZV_SEQUENCE WHERE seq <= ?1 AND NOT own ORDER BY seq")?;
    let mut rows = statement.query([cursor])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = id_from(row.get(0)?)?;
        if id.is_backfill() {
            found.push(id);
        }
    }
    Ok(found)
}

/// Lets the merged backfills have the registers that own ones left empty, and the rows be shown anew.
fn fill(log: &mut Log<'_>, empty: &BTreeMap<(u32, String), BTreeSet<u32>>, beaten: &[ChangeId]) -> Result<()> {
    let conn = log.conn;
    for &id in beaten {
        let Some(head) = read_head(conn, id)? else { continue };
        let row = (log.names.number(conn, &head.entity_type)?, head.entity_id);
        let Some(columns) = empty.get(&row) else { continue };
        for field in read_fields(conn, id)? {
            let no = log.names.number(conn, &lower(&field.name))?;
            if columns.contains(&no) {
                let deleted = no == DELETED_COLUMN && field.value.says_deleted();
                log.entity(row.0, &row.1)?.fold(no, Register { id, own: false, deleted });
            }
        }
        touch(conn, row.0, &row.1)?;
        if log.cached() >= BATCH {
            log.flush()?;
        }
    }
    Ok(())
}

/// What became of backfills.
struct Retired<'a> {
    /// Those before this one may have left this machine.
    first: u64,
    is_there: IsThere<'a>,
    gone: BTreeSet<ChangeId>,
    /// Those of which something was taken back.
    cut: BTreeSet<ChangeId>,
    /// By row, the columns whose registers they left, where another change may be waiting for that.
    empty: Option<BTreeMap<(u32, String), BTreeSet<u32>>>,
}

impl Retired<'_> {
    /// Lets the backfills of one row (its own, and those of columns added since) give way to a pulled change of that row.
    fn give_way(&mut self, log: &mut Log<'_>, pulled: ChangeId) -> Result<()> {
        let conn = log.conn;
        let Some(head) = read_head(conn, pulled)? else { return Ok(()) };
        let table_no = log.names.number(conn, &head.entity_type)?;
        let entity = log.entity(table_no, &head.entity_id)?;
        let is_unseen = |id: ChangeId| id.is_backfill() && id.millis() >= self.first;
        let mut backfills: BTreeSet<ChangeId> =
            entity.registers.iter().filter(|(_, r)| r.own && is_unseen(r.id)).map(|(_, r)| r.id).collect();
        for id in backfills.clone() {
            if id == pulled || (self.is_there)(id)? {
                backfills.remove(&id);
            }
        }
        if backfills.is_empty() {
            return Ok(());
        }
        // A delete is newer than any backfill: what the row was stays known, should somebody bring it back.
        let written: Vec<String> = read_fields(conn, pulled)?.iter().map(|field| lower(&field.name)).collect();
        for backfill in backfills {
            let (left, taken) = retire(log, (table_no, &head.entity_id), backfill, &written)?;
            if let Some(empty) = self.empty.as_mut().filter(|_| !taken.is_empty()) {
                empty.entry((table_no, head.entity_id.clone())).or_default().extend(taken);
            }
            match left {
                Left::All => {}
                Left::Something => drop(self.cut.insert(backfill)),
                Left::Nothing => drop(self.gone.insert(backfill)),
            }
        }
        Ok(())
    }
}

/// A name always has the same bytes: what is left of a backfill gets another, as a copy of this file may push the whole.
fn rename_cut(conn: &Connection, world: &World, cut: BTreeSet<ChangeId>) -> Result<()> {
    if cut.is_empty() {
        return Ok(());
    }
    let made: u64 = get_metadata(conn, Metadata::Backfilled)?.unwrap_or(0);
    let cut: Vec<ChangeId> = cut.into_iter().collect();
    let renamed: HashMap<ChangeId, ChangeId> =
        cut.iter().zip(made..).map(|(old, n)| (*old, Clock::backfill(n, world.random()))).collect();
    rename_all(conn, &cut, &renamed)?;
    set_metadata(conn, Metadata::Backfilled, made + cut.len() as u64)
}

/// How much of a backfill is left.
enum Left {
    All,
    Something,
    Nothing,
}

/// Takes back what a backfill says of the columns that were written. Returns what is left of it, and the numbers of those columns.
fn retire(log: &mut Log<'_>, row: (u32, &str), backfill: ChangeId, written: &[String]) -> Result<(Left, Vec<u32>)> {
    let conn = log.conn;
    let (mut left, mut taken) = (0, Vec::new());
    for field in read_fields(conn, backfill)? {
        let name = lower(&field.name);
        if !written.contains(&name) {
            left += 1;
            continue;
        }
        let no = log.names.number(conn, &name)?;
        taken.push(no);
        let entity = log.entity(row.0, row.1)?;
        let mut registers = entity.registers.clone();
        registers.retain(|column, register| column != no || register.id != backfill);
        entity.replace_registers(registers);
        conn.prepare_cached("DELETE FROM ZV_CHANGE_FIELD WHERE change_id = ?1 AND field_name = ?2")?
            .execute((IdText::new(backfill).as_str(), &field.name))?;
    }
    let left = match left {
        0 => Left::Nothing,
        _ if taken.is_empty() => Left::All,
        _ => Left::Something,
    };
    Ok((left, taken))
}

fn remove(conn: &Connection, gone: &BTreeSet<ChangeId>) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut seqs = Vec::new();
    let mut statement = conn.prepare("SELECT seq, change_id FROM ZV_SEQUENCE WHERE own")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if gone.contains(&id_from(row.get(1)?)?) {
            seqs.push(row.get::<_, i64>(0)?);
        }
    }
    drop(rows);
    let mut from_sequence = conn.prepare("DELETE FROM ZV_SEQUENCE WHERE seq = ?1")?;
    let mut from_log = conn.prepare("DELETE FROM ZV_CHANGE WHERE id = ?1")?;
    seqs.into_iter().try_for_each(|seq| from_sequence.execute([seq]).map(|_| ()))?;
    gone.iter().try_for_each(|id| from_log.execute([IdText::new(*id).as_str()]).map(|_| ()))?;
    Ok(())
}
