//! Own writes that refer to rows which are not there, and integers that rows gave up: what a seal and a merge come back to.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};

use crate::error::Result;

/// A cell, or a row whose key refers to a row that is not there, left out of the log until it can be translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Untranslated {
    pub(crate) table_no: u32,
    /// The row: its entity id, or its key as it stands in the table (encoded as parts) where the key is what lacks.
    pub(crate) row: String,
    /// `None` where the key is what lacks.
    pub(crate) column_no: Option<u32>,
}

pub(crate) fn leave_out(conn: &Connection, left: &Untranslated) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_UNTRANSLATED (table_no, entity_id, column_no) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute((left.table_no, &left.row, left.column_no))?;
    Ok(())
}

/// Forgets what was left out: it was translated, written since, or is gone.
pub(crate) fn settle(conn: &Connection, left: &Untranslated) -> Result<()> {
    let sql = "DELETE FROM ZV_UNTRANSLATED WHERE table_no = ?1 AND entity_id = ?2 AND column_no IS ?3";
    conn.prepare_cached(sql)?.execute((left.table_no, &left.row, left.column_no))?;
    Ok(())
}

pub(crate) fn list_untranslated(conn: &Connection) -> Result<Vec<Untranslated>> {
    let sql = "SELECT table_no, entity_id, column_no FROM ZV_UNTRANSLATED ORDER BY table_no, entity_id, column_no";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement
        .query_map([], |row| Ok(Untranslated { table_no: row.get(0)?, row: row.get(1)?, column_no: row.get(2)? }))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The cells of a row that were left out.
pub(crate) fn list_untranslated_of(conn: &Connection, table_no: u32, entity_id: &str) -> Result<Vec<Untranslated>> {
    let sql = "SELECT column_no FROM ZV_UNTRANSLATED WHERE table_no = ?1 AND entity_id = ?2 AND column_no IS NOT NULL";
    let mut statement = conn.prepare_cached(sql)?;
    let row = |column_no| Untranslated { table_no, row: entity_id.to_owned(), column_no };
    let rows = statement.query_map((table_no, entity_id), |found| Ok(row(found.get(0)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether something of a row was left out.
pub(crate) fn has_untranslated(conn: &Connection, table_no: u32, entity_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_UNTRANSLATED WHERE table_no = ?1 AND entity_id = ?2 AND column_no IS NOT NULL";
    Ok(conn.prepare_cached(sql)?.exists((table_no, entity_id))?)
}

pub(crate) fn any_untranslated(conn: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ZV_UNTRANSLATED)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Records that a row gave up its local integer: it was deleted, or has another.
pub(crate) fn set_free(conn: &Connection, table_no: u32, local: i64, entity_id: &str) -> Result<()> {
    let sql = "INSERT INTO ZV_FREED (table_no, local, entity_id) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute((table_no, local, entity_id))?;
    Ok(())
}

/// The entity that had an integer last, before its row gave it up.
pub(crate) fn freed_entity(conn: &Connection, table_no: u32, local: i64) -> Result<Option<String>> {
    let sql = "SELECT entity_id FROM ZV_FREED WHERE table_no = ?1 AND local = ?2 ORDER BY no DESC LIMIT 1";
    Ok(conn.prepare_cached(sql)?.query_row((table_no, local), |row| row.get(0)).optional()?)
}

/// Whether a row gave up an integer since the last merge, be it that others had it after.
pub(crate) fn gave_up(conn: &Connection, table_no: u32, local: i64, entity_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_FREED WHERE table_no = ?1 AND local = ?2 AND entity_id = ?3";
    Ok(conn.prepare_cached(sql)?.exists((table_no, local, entity_id))?)
}

/// Whether a row gave up any integer since the last merge.
pub(crate) fn gave_up_any(conn: &Connection, table_no: u32, entity_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_FREED WHERE table_no = ?1 AND entity_id = ?2";
    Ok(conn.prepare_cached(sql)?.exists((table_no, entity_id))?)
}

/// The integers that were given up since the last merge, in order: table, integer, entity.
pub(crate) fn list_freed(conn: &Connection) -> Result<Vec<(u32, i64, String)>> {
    let mut statement = conn.prepare_cached("SELECT table_no, local, entity_id FROM ZV_FREED ORDER BY no")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets those of a table, but for some.
pub(crate) fn forget_freed(conn: &Connection, table_no: u32, but: &BTreeSet<i64>) -> Result<()> {
    let json = serde_json::to_string(but).expect("a list of integers is always JSON");
    let sql = "DELETE FROM ZV_FREED WHERE table_no = ?1 AND local NOT IN (SELECT value FROM json_each(?2))";
    conn.prepare_cached(sql)?.execute((table_no, json))?;
    Ok(())
}
