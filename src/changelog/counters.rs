//! What the log itself says of the clock and the counters that are kept beside it. Reads only.

use rusqlite::Connection;

use crate::error::Result;
use crate::model::{CLOCK_FLOOR_MS, ChangeId, Clock};

/// The greatest id that was made or merged here.
pub(crate) fn greatest_seen(conn: &Connection) -> Result<Option<ChangeId>> {
    let sql = "SELECT c.id FROM ZV_CHANGE AS c LEFT JOIN ZV_SEQUENCE AS s ON s.change_id = unhex(c.id, '-') \
               WHERE (c.merged OR s.own) AND c.id >= ?1 AND typeof(c.id) = 'text' ORDER BY c.id DESC";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([Clock::lower_bound(CLOCK_FLOOR_MS).to_string()])?;
    while let Some(row) = rows.next()? {
        if let Some(id) = row.get_ref(0)?.as_str().ok().and_then(|id| id.parse::<ChangeId>().ok()) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// How many backfills were made here at least, by what the log has of them: the greatest one's number, and one more. A copy of
/// this file has the same author id, and makes its own.
pub(crate) fn backfills(conn: &Connection) -> Result<u64> {
    let sql = "SELECT max(change_id) FROM ZV_SEQUENCE WHERE own AND change_id < ?1";
    let bound = Clock::lower_bound(CLOCK_FLOOR_MS);
    let greatest: Option<Vec<u8>> =
        conn.query_row(sql, [bound.as_bytes()], |row| Ok(row.get_ref(0)?.as_blob().ok().map(<[u8]>::to_vec)))?;
    let id = greatest.and_then(|id| id.try_into().ok()).and_then(ChangeId::from_bytes);
    Ok(id.map_or(0, |id| id.millis() + 1))
}

/// Whether own changes have left this machine.
pub(crate) fn is_exposed(conn: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ZV_REMOTE AS r, ZV_SEQUENCE AS s WHERE s.own AND s.seq <= r.pushed_seq)";
    Ok(conn.query_row(sql, [], |row| row.get(0))?)
}
