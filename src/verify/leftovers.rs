//! The other direction: what the replica holds that no change of the log accounts for.

use super::catalog::{KnownTable, Rows};
use super::context::{Context, Tally};
use super::entity::{row_entity_id, row_lead};
use super::problems::Quoted;
use crate::capture::raw_key;
use crate::changelog::{contains, is_touched, read_head};
use crate::error::Result;
use crate::model::{ChangeId, Registers};

/// Looks for rows, registers and marks that the walk of the log did not meet.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> Result<()> {
    check_ids(context, tally, "SELECT change_id FROM ZV_SEQUENCE", "the sequence")?;
    check_ids(context, tally, "SELECT DISTINCT change_id FROM ZV_PENDING", "the list of what waits")?;
    check_fields(context, tally)?;
    check_registers(context, tally)?;
    check_held(context, tally)?;
    for known in context.catalog.iter() {
        if let Some(rows) = &known.rows {
            check_rows(context, tally, known, rows)?;
        }
    }
    Ok(())
}

/// Every id names a change of the log.
fn check_ids(context: &Context<'_>, tally: &mut Tally, sql: &str, place: &str) -> Result<()> {
    let mut statement = context.conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob().ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        match bytes.and_then(ChangeId::from_bytes) {
            None => tally.problems.add(format_args!("{place} holds an id that is not a UUIDv7")),
            Some(id) if !contains(context.conn, id)? => {
                tally.problems.add(format_args!("{place} holds the change {id}, which the log lacks"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Every field belongs to a change.
fn check_fields(context: &Context<'_>, tally: &mut Tally) -> Result<()> {
    let sql = "SELECT DISTINCT CAST(f.change_id AS TEXT) FROM ZV_CHANGE_FIELD AS f \
               LEFT JOIN ZV_CHANGE AS c ON c.id = f.change_id WHERE c.id IS NULL";
    let mut statement = context.conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = String::from_utf8_lossy(row.get_ref(0)?.as_bytes().unwrap_or_default()).into_owned();
        tally.problems.add(format_args!("the log holds fields of the change {}, which it lacks", Quoted(&id)));
    }
    Ok(())
}

/// Every row of registers belongs to an entity of the log. The walk counted those it met: mostly there is nothing to do.
fn check_registers(context: &Context<'_>, tally: &mut Tally) -> Result<()> {
    let there: u64 = context.conn.query_row("SELECT count(*) FROM ZV_REGISTER", [], |row| row.get(0))?;
    if there == tally.registers {
        return Ok(());
    }
    let mut statement = context.conn.prepare("SELECT table_no, entity_id, registers FROM ZV_REGISTER")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entity_id = String::from_utf8_lossy(row.get_ref(1)?.as_bytes().unwrap_or_default()).into_owned();
        let table_no = row.get_ref(0)?.as_i64().unwrap_or(-1);
        let newest = row.get_ref(2)?.as_blob().ok().and_then(Registers::decode).and_then(|r| r.newest());
        if !newest.map_or(Ok(false), |id| is_of(context, id, table_no, &entity_id))? {
            let row = Quoted(&entity_id);
            tally.problems.add(format_args!("ZV_REGISTER holds row {row} of table {table_no}, and no change wrote it"));
        }
    }
    Ok(())
}

/// Whether the log has the change, and it is one of this entity.
fn is_of(context: &Context<'_>, id: ChangeId, table_no: i64, entity_id: &str) -> Result<bool> {
    match read_head(context.conn, id) {
        Ok(Some(head)) => {
            let no = context.number(&head.entity_type)?.map(i64::from);
            Ok(no == Some(table_no) && head.entity_id == entity_id)
        }
        // A head that cannot be read has been reported by the walk.
        Ok(None) | Err(_) => Ok(false),
    }
}

/// Every held row is an entity; whether it lives, the walk has seen.
fn check_held(context: &Context<'_>, tally: &mut Tally) -> Result<()> {
    let sql = "SELECT h.table_no, CAST(h.entity_id AS TEXT) FROM ZV_HELD AS h \
               LEFT JOIN ZV_REGISTER AS r USING (table_no, entity_id) WHERE r.entity_id IS NULL";
    let mut statement = context.conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entity_id = String::from_utf8_lossy(row.get_ref(1)?.as_bytes().unwrap_or_default()).into_owned();
        let (table_no, row) = (row.get_ref(0)?.as_i64().unwrap_or(-1), Quoted(&entity_id));
        tally.problems.add(format_args!("row {row} of table {table_no} is listed as held, and no change wrote it"));
    }
    Ok(())
}

/// Every row of the table is an entity's. The walk counted those it met: mostly there is nothing to do.
fn check_rows(context: &Context<'_>, tally: &mut Tally, known: &KnownTable, table: &Rows) -> Result<()> {
    let (table_no, name) = (known.tracked.table_no(), known.tracked.name());
    let sql = format!("SELECT count(*) FROM {}", crate::db::Ident(&table.shape.name));
    let there: u64 = context.conn.query_row(&sql, [], |row| row.get(0))?;
    if tally.found.get(&table_no).copied().unwrap_or(0) == there {
        return Ok(());
    }
    let mut statement = context.conn.prepare(&table.leads)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match row_entity_id(context, known, row)? {
            None if context.unsealed_lead(table_no, &row_lead(known, row)?) => {}
            None if is_left_out(context, table_no, raw_key(&row_lead(known, row)?))? => {}
            None => tally.problems.add(format_args!("{name} has a row whose key no change can name")),
            Some(id) if is_strange(context, table_no, &id)? => {
                let row = Quoted(&id);
                tally.problems.add(format_args!("{name} row {row}: is in the table, and no merged change wrote it"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether nothing says that an entity has a row: neither what was merged, nor what waits to be.
fn is_strange(context: &Context<'_>, table_no: u32, entity_id: &str) -> Result<bool> {
    let is_known = context.unsealed(table_no, entity_id) || is_touched(context.conn, table_no, entity_id)?;
    Ok(!is_known && !has_registers(context, table_no, entity_id)?)
}

/// Whether a row is known to wait for the row that its key refers to.
fn is_left_out(context: &Context<'_>, table_no: u32, key: Option<String>) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_UNTRANSLATED WHERE table_no = ?1 AND entity_id = ?2 AND column_no IS NULL";
    let is_left_out = key.map(|key| context.conn.prepare_cached(sql)?.exists((table_no, key))).transpose()?;
    Ok(is_left_out.unwrap_or(false))
}

fn has_registers(context: &Context<'_>, table_no: u32, entity_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2 AND length(registers) > 0";
    Ok(context.conn.prepare_cached(sql)?.exists((table_no, entity_id))?)
}
