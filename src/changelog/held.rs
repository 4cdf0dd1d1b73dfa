//! What is not shown, and why: rows that a constraint keeps out, and changes of tables and columns unknown here.

use rusqlite::Connection;

use crate::error::Result;

/// A row alive in the registers that its table cannot show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldRow {
    pub(crate) table_no: u32,
    pub(crate) entity_id: String,
    pub(crate) reason: String,
    pub(crate) detail: String,
}

/// Records that a row is held.
pub(crate) fn hold(conn: &Connection, table_no: u32, entity_id: &str, reason: &str, detail: &str) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_HELD (table_no, entity_id, reason, detail) VALUES (?1, ?2, ?3, ?4)";
    conn.prepare_cached(sql)?.execute((table_no, entity_id, reason, detail))?;
    Ok(())
}

/// Records that a row is held no longer.
pub(crate) fn release(conn: &Connection, table_no: u32, entity_id: &str) -> Result<()> {
    let sql = "DELETE FROM ZV_HELD WHERE table_no = ?1 AND entity_id = ?2";
    conn.prepare_cached(sql)?.execute((table_no, entity_id))?;
    Ok(())
}

/// How many rows are held.
pub(crate) fn count_held(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(*) FROM ZV_HELD", [], |row| row.get(0))?)
}

/// Whether any row is held.
pub(crate) fn any_held(conn: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ZV_HELD)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The held rows.
pub(crate) fn list_held(conn: &Connection) -> Result<Vec<HeldRow>> {
    let sql = "SELECT table_no, entity_id, reason, detail FROM ZV_HELD ORDER BY table_no, entity_id";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(HeldRow { table_no: row.get(0)?, entity_id: row.get(1)?, reason: row.get(2)?, detail: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Held rows of which nothing says when to look again, as a trigger of the user's may depend on anything.
pub(crate) fn list_restless(conn: &Connection) -> Result<Vec<(u32, String)>> {
    let sql = "SELECT table_no, entity_id FROM ZV_HELD WHERE reason IN ('trigger', 'other') OR (reason = 'unique' \
               AND NOT EXISTS (SELECT 1 FROM ZV_WAIT AS w WHERE w.table_no = ZV_HELD.table_no AND w.entity_id = ZV_HELD.entity_id))";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Asks the next merge to look at the held rows of a table again, and at those that are shown without all that they claim: its
/// constraints may have changed.
pub(crate) fn touch_held(conn: &Connection, table_no: u32) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) SELECT table_no, entity_id FROM ZV_HELD WHERE table_no = ?1 \
               UNION SELECT table_no, entity_id FROM ZV_CLAIM WHERE table_no = ?1";
    conn.prepare_cached(sql)?.execute([table_no])?;
    Ok(())
}

/// How many changes wait for a table or a column that does not exist here.
pub(crate) fn count_pending(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(DISTINCT change_id) FROM ZV_PENDING", [], |row| row.get(0))?)
}

/// For each table, or column of a table, that does not exist here: how many changes wait for it.
pub(crate) fn list_pending(conn: &Connection) -> Result<Vec<(u32, Option<u32>, u64)>> {
    let sql = "SELECT table_no, column_no, count(*) FROM ZV_PENDING GROUP BY table_no, column_no";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
