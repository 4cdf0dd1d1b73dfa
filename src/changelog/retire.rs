//! Backfills that nobody has seen, of rows that a remote knows already: they give way, so that a stale copy that joins
//! late says nothing of what it does not know better.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::conflicts::id_from;
use super::{IdText, Log, lower, read_fields, read_head};
use crate::db::{Metadata, get_metadata};
use crate::error::Result;
use crate::model::{ChangeId, DELETED_FIELD};

/// How many entities are cached before they are written back.
const BATCH: usize = 10_000;

/// Takes back what the own backfills that never left this machine say of columns that a pulled, unmerged change writes.
/// Returns how many backfills went altogether.
pub(crate) fn retire_backfills(conn: &Connection) -> Result<u64> {
    let made: u64 = get_metadata(conn, Metadata::Backfilled)?.unwrap_or(0);
    let exposed: u64 = get_metadata(conn, Metadata::ExposedBackfills)?.unwrap_or(0);
    if made <= exposed {
        return Ok(0);
    }
    let mut log = Log::new(conn)?;
    let mut gone = BTreeSet::new();
    let cursor: i64 = get_metadata(conn, Metadata::MergedSeq)?.unwrap_or(0);
    let mut statement = conn.prepare("SELECT change_id FROM ZV_SEQUENCE WHERE seq > ?1 AND NOT own ORDER BY seq")?;
    let mut rows = statement.query([cursor])?;
    while let Some(row) = rows.next()? {
        retire_for(&mut log, id_from(row.get(0)?)?, exposed, &mut gone)?;
        if log.cached() >= BATCH {
            log.flush()?;
        }
    }
    drop(rows);
    log.finish()?;
    remove(conn, &gone)?;
    Ok(gone.len() as u64)
}

/// Lets the backfills of one row (its own, and those of columns added since) give way to a pulled change of that row.
fn retire_for(log: &mut Log<'_>, pulled: ChangeId, exposed: u64, gone: &mut BTreeSet<ChangeId>) -> Result<()> {
    let conn = log.conn;
    let Some(head) = read_head(conn, pulled)? else { return Ok(()) };
    let table_no = log.names.number(conn, &head.entity_type)?;
    let entity = log.entity(table_no, &head.entity_id)?;
    let is_unseen = |id: ChangeId| id.is_backfill() && id.millis() >= exposed;
    let backfills: BTreeSet<ChangeId> =
        entity.registers.iter().filter(|(_, r)| r.own && is_unseen(r.id)).map(|(_, r)| r.id).collect();
    if backfills.is_empty() {
        return Ok(());
    }
    let written: Vec<String> = read_fields(conn, pulled)?.iter().map(|field| lower(&field.name)).collect();
    for backfill in backfills {
        if retire(log, (table_no, &head.entity_id), backfill, &written)? {
            gone.insert(backfill);
        }
    }
    Ok(())
}

/// Takes back what a backfill says of the columns that were written. Returns whether nothing of it is left.
fn retire(log: &mut Log<'_>, row: (u32, &str), backfill: ChangeId, written: &[String]) -> Result<bool> {
    let conn = log.conn;
    let deletes = written.iter().any(|name| name == DELETED_FIELD);
    let mut nothing_left = true;
    for field in read_fields(conn, backfill)? {
        let name = lower(&field.name);
        if !deletes && !written.contains(&name) {
            nothing_left = false;
            continue;
        }
        let no = log.names.number(conn, &name)?;
        let entity = log.entity(row.0, row.1)?;
        let mut registers = entity.registers.clone();
        registers.retain(|column, register| column != no || register.id != backfill);
        entity.replace_registers(registers);
        conn.prepare_cached("DELETE FROM ZV_CHANGE_FIELD WHERE change_id = ?1 AND field_name = ?2")?
            .execute((IdText::new(backfill).as_str(), &field.name))?;
    }
    Ok(nothing_left)
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
