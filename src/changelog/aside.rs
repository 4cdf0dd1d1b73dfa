//! What columns that stay on this replica held of rows that are taken out of their tables for a while. Owns `ZV_ASIDE`.

use rusqlite::Connection;

use crate::db::{bind_value, read_value};
use crate::error::Result;
use crate::model::Value;

/// Keeps a column's value of a row.
pub(crate) fn set_aside(conn: &Connection, table_no: u32, entity_id: &str, name: &str, value: &Value) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_ASIDE (table_no, entity_id, name, value) VALUES (?1, ?2, ?3, ?4)";
    conn.prepare_cached(sql)?.execute((table_no, entity_id, name, bind_value(value)))?;
    Ok(())
}

/// What is kept of a row, by column.
pub(crate) fn list_aside(conn: &Connection, table_no: u32, entity_id: &str) -> Result<Vec<(String, Value)>> {
    let mut statement =
        conn.prepare_cached("SELECT name, value FROM ZV_ASIDE WHERE table_no = ?1 AND entity_id = ?2")?;
    let rows = statement.query_map((table_no, entity_id), |row| Ok((row.get(0)?, read_value(row.get_ref(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets what is kept of a row: it is shown again, or deleted.
pub(crate) fn forget_aside(conn: &Connection, table_no: u32, entity_id: &str) -> Result<()> {
    let sql = "DELETE FROM ZV_ASIDE WHERE table_no = ?1 AND entity_id = ?2";
    conn.prepare_cached(sql)?.execute((table_no, entity_id))?;
    Ok(())
}

/// Forgets what is kept of one column of a row.
pub(crate) fn forget_aside_of(conn: &Connection, table_no: u32, entity_id: &str, name: &str) -> Result<()> {
    let sql = "DELETE FROM ZV_ASIDE WHERE table_no = ?1 AND entity_id = ?2 AND name = ?3 COLLATE NOCASE";
    conn.prepare_cached(sql)?.execute((table_no, entity_id, name))?;
    Ok(())
}
