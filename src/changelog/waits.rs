//! What rows wait for that are held, or shown without a reference: whose change makes a merge look at them again.

use rusqlite::Connection;

use crate::error::Result;

/// Stands for every row of a table.
const ANY: &str = "";

/// What stands for whichever row comes to have certain values begins so; no entity id has a NUL in it.
pub(crate) const BY_VALUES: char = '\0';

/// Records that a row is to be looked at again when another changes: one row, any of a table, or one that has certain values.
pub(crate) fn wait_for(
    conn: &Connection,
    (on_table, on_entity): (u32, Option<&str>),
    (table_no, entity_id): (u32, &str),
) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_WAIT (on_table, on_entity, table_no, entity_id) VALUES (?1, ?2, ?3, ?4)";
    conn.prepare_cached(sql)?.execute((on_table, on_entity.unwrap_or(ANY), table_no, entity_id))?;
    Ok(())
}

/// Whether a row waits for another one.
pub(crate) fn waits_for(
    conn: &Connection,
    (on_table, on_entity): (u32, &str),
    (table_no, entity_id): (u32, &str),
) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_WAIT WHERE on_table = ?1 AND on_entity = ?2 AND table_no = ?3 AND entity_id = ?4";
    Ok(conn.prepare_cached(sql)?.exists((on_table, on_entity, table_no, entity_id))?)
}

/// Forgets what a row waits for: it is being looked at. Returns whether it waited for anything.
pub(crate) fn clear_waits(conn: &Connection, table_no: u32, entity_id: &str) -> Result<bool> {
    let sql = "DELETE FROM ZV_WAIT WHERE table_no = ?1 AND entity_id = ?2";
    Ok(conn.prepare_cached(sql)?.execute((table_no, entity_id))? > 0)
}

/// The rows that wait for a row, or for any of its table.
pub(crate) fn waiting_for(conn: &Connection, table_no: u32, entity_id: &str) -> Result<Vec<(u32, String)>> {
    let sql = "SELECT table_no, entity_id FROM ZV_WAIT WHERE on_table = ?1 AND on_entity IN (?2, ?3)";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map((table_no, entity_id, ANY), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The rows that wait for a row, and for others, too.
pub(crate) fn waiting_for_others_too(conn: &Connection, table_no: u32, entity_id: &str) -> Result<Vec<(u32, String)>> {
    let sql = "SELECT table_no, entity_id FROM ZV_WAIT AS w WHERE on_table = ?1 AND on_entity = ?2 AND EXISTS \
               (SELECT 1 FROM ZV_WAIT AS o WHERE o.table_no = w.table_no AND o.entity_id = w.entity_id \
               AND (o.on_table <> ?1 OR o.on_entity <> ?2))";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map((table_no, entity_id), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether a row waits for one of a table that has certain values.
pub(crate) fn any_waits_by_values(conn: &Connection, table_no: u32) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_WAIT WHERE on_table = ?1 AND on_entity BETWEEN char(0) AND char(1)";
    Ok(conn.prepare_cached(sql)?.exists([table_no])?)
}

/// Asks the next merge to look at whoever waits for any row of a table.
pub(crate) fn touch_waiting(conn: &Connection, table_no: u32) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) SELECT table_no, entity_id FROM ZV_WAIT WHERE on_table = ?1";
    conn.prepare_cached(sql)?.execute([table_no])?;
    Ok(())
}

pub(crate) fn any_waits(conn: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ZV_WAIT)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}
