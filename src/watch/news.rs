//! What asks for a sync: writes in the journal, changes not pushed yet, another schema, files that the log does not know. Reads only.

use std::collections::HashSet;

use rusqlite::Connection;

use crate::changelog::IdText;
use crate::error::Result;
use crate::wire::ObjectName;

/// What of a replica a remote does not have yet, at a glance.
///
/// The journal and the sequence tell this more narrowly than `PRAGMA data_version`: they count this connection's own commits
/// too, and leave out commits to tables that are not tracked and those of syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// Whether there are writes that nobody sealed, or changes that are not on the remote.
    pub(super) unpushed: bool,
    /// SQLite's count of schema changes: a table may have a new column, which only a sync takes under capture.
    pub(super) schema: i64,
}

/// Looks. A database that another program holds is one without news for now.
pub(super) fn look(conn: &Connection, remote: &str) -> Result<News> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ZV_JOURNAL) OR EXISTS (
                   SELECT 1 FROM ZV_SEQUENCE
                   WHERE seq > coalesce((SELECT pushed_seq FROM ZV_REMOTE WHERE url = ?1), 0))";
    let unpushed = conn.prepare_cached(sql)?.query_row([remote], |row| row.get(0))?;
    let schema = conn.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
    Ok(News { unpushed, schema })
}

/// Whether one of the objects that appeared in a remote's folder may hold what the log lacks. Those of its own are known.
pub(super) fn any_unknown(conn: &Connection, remote: &str, objects: &HashSet<ObjectName>) -> Result<bool> {
    let mut changes = conn.prepare_cached("SELECT 1 FROM ZV_CHANGE WHERE id = ?1")?;
    let sql = "SELECT 1 FROM ZV_PACK JOIN ZV_REMOTE ON no = remote_no WHERE url = ?1 AND pack = ?2 AND complete";
    let mut packs = conn.prepare_cached(sql)?;
    for object in objects {
        let known = match object {
            ObjectName::Change(id) => changes.exists([IdText::new(*id).as_str()])?,
            ObjectName::Pack(id) => packs.exists((remote, id.as_bytes()))?,
            _ => false,
        };
        if !known {
            return Ok(true);
        }
    }
    Ok(false)
}
