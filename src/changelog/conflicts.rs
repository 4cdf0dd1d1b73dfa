//! Writes of one column that did not know of each other: recorded once, listed, marked when restored.

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::model::ChangeId;

/// A recorded conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConflictRow {
    pub(crate) no: i64,
    pub(crate) table_no: u32,
    pub(crate) entity_id: String,
    pub(crate) column_no: u32,
    pub(crate) winner: ChangeId,
    pub(crate) loser: ChangeId,
    pub(crate) seen_ms: u64,
    pub(crate) restored: bool,
}

/// Records a conflict; a second time changes nothing. Returns whether it is new.
pub(crate) fn record_conflict(conn: &Connection, conflict: &ConflictRow) -> Result<bool> {
    let sql = "INSERT OR IGNORE INTO ZV_CONFLICT (table_no, entity_id, column_no, winner, loser, seen_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let added = conn.prepare_cached(sql)?.execute((
        conflict.table_no,
        &conflict.entity_id,
        conflict.column_no,
        conflict.winner.as_bytes(),
        conflict.loser.as_bytes(),
        conflict.seen_ms,
    ))?;
    Ok(added > 0)
}

/// How many conflicts nobody has restored.
pub(crate) fn count_conflicts(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(*) FROM ZV_CONFLICT WHERE NOT restored", [], |row| row.get(0))?)
}

/// The conflicts, oldest first, or the one of a number.
pub(crate) fn list_conflicts(conn: &Connection, no: Option<i64>) -> Result<Vec<ConflictRow>> {
    let sql = "SELECT no, table_no, entity_id, column_no, winner, loser, seen_ms, restored FROM ZV_CONFLICT \
               WHERE ?1 IS NULL OR no = ?1 ORDER BY no";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([no])?;
    let mut conflicts = Vec::new();
    while let Some(row) = rows.next()? {
        conflicts.push(ConflictRow {
            no: row.get(0)?,
            table_no: row.get(1)?,
            entity_id: row.get(2)?,
            column_no: row.get(3)?,
            winner: id_from(row.get(4)?)?,
            loser: id_from(row.get(5)?)?,
            seen_ms: row.get(6)?,
            restored: row.get(7)?,
        });
    }
    Ok(conflicts)
}

/// Records that a conflict's losing value has been brought back.
pub(crate) fn mark_restored(conn: &Connection, no: i64) -> Result<()> {
    conn.execute("UPDATE ZV_CONFLICT SET restored = 1 WHERE no = ?1", [no])?;
    Ok(())
}

/// A change id from its sixteen bytes in one of our tables.
pub(super) fn id_from(bytes: [u8; 16]) -> Result<ChangeId> {
    ChangeId::from_bytes(bytes).ok_or_else(|| Error::corrupt("a table of zvon's holds an id that is not a UUIDv7"))
}
