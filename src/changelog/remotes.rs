//! What is remembered of remotes: how far the log was pushed, identities, refused files, waiting changes, definitions.

use rusqlite::{Connection, OptionalExtension, Row};

use super::conflicts::id_from;
use super::placed::emptied;
use crate::error::Result;
use crate::model::ChangeId;

/// A remote that the replica has met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RemoteRow {
    pub(crate) no: i64,
    pub(crate) url: String,
    /// Everything of the sequence up to here was on the remote after the last push.
    pub(crate) pushed_seq: i64,
    pub(crate) layout: String,
    /// The object that says so.
    pub(crate) layout_id: String,
    pub(crate) last_sync_ms: u64,
    /// How often places were forgotten altogether when this was read.
    pub(crate) emptied: u64,
}

/// The row of a remote, made on first meeting.
pub(crate) fn remember_remote(conn: &Connection, url: &str) -> Result<RemoteRow> {
    conn.execute("INSERT OR IGNORE INTO ZV_REMOTE (url) VALUES (?1)", [url])?;
    let found = list_remotes(conn)?.into_iter().find(|remote| remote.url == url);
    Ok(found.unwrap_or_default())
}

/// Every remote that the replica has met.
pub(crate) fn list_remotes(conn: &Connection) -> Result<Vec<RemoteRow>> {
    let sql = "SELECT no, url, pushed_seq, layout, layout_id, last_sync_ms FROM ZV_REMOTE ORDER BY no";
    let (mut statement, emptied) = (conn.prepare_cached(sql)?, emptied(conn)?);
    let rows = statement.query_map([], |row| {
        Ok(RemoteRow {
            no: row.get(0)?,
            url: row.get(1)?,
            pushed_seq: row.get(2)?,
            layout: row.get(3)?,
            layout_id: row.get(4)?,
            last_sync_ms: row.get(5)?,
            emptied,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

impl RemoteRow {
    /// Whether every change is to lie in a file of its own there.
    pub(crate) fn is_laid_out_as_files(&self) -> bool {
        self.layout == "files"
    }
}

/// Up to where the log is on a remote.
pub(crate) fn pushed_seq(conn: &Connection, remote: i64) -> Result<i64> {
    let sql = "SELECT pushed_seq FROM ZV_REMOTE WHERE no = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([remote], |row| row.get(0))?)
}

/// Records that the log up to `seq` is on a remote.
pub(crate) fn set_pushed(conn: &Connection, remote: i64, seq: i64) -> Result<()> {
    let sql = "UPDATE ZV_REMOTE SET pushed_seq = max(pushed_seq, ?2) WHERE no = ?1";
    conn.prepare_cached(sql)?.execute((remote, seq))?;
    Ok(())
}

/// A remote's layout, and the object that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayoutRow {
    pub(crate) layout: String,
    pub(crate) id: String,
}

/// Records the end of a sync.
pub(crate) fn set_synced(conn: &Connection, remote: i64, now_ms: u64, layout: &LayoutRow) -> Result<()> {
    let sql = "UPDATE ZV_REMOTE SET last_sync_ms = ?2, layout = ?3, layout_id = ?4 WHERE no = ?1";
    conn.prepare_cached(sql)?.execute((remote, now_ms, &layout.layout, &layout.id))?;
    Ok(())
}

/// The identities of all remotes that the replica has met, or of one.
pub(crate) fn known_identities(conn: &Connection, remote: Option<i64>) -> Result<Vec<ChangeId>> {
    let sql = "SELECT DISTINCT identity FROM ZV_IDENTITY WHERE ?1 IS NULL OR remote_no = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([remote])?;
    let mut identities = Vec::new();
    while let Some(row) = rows.next()? {
        identities.push(id_from(row.get(0)?)?);
    }
    Ok(identities)
}

/// Records an identity of a remote.
pub(crate) fn remember_identity(conn: &Connection, remote: i64, identity: ChangeId) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_IDENTITY (identity, remote_no) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?.execute((identity.as_bytes(), remote))?;
    Ok(())
}

/// A remote file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedFile {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) reason: String,
    pub(crate) tries: u32,
    pub(crate) retry_ms: u64,
}

fn refused(row: &Row<'_>) -> rusqlite::Result<RefusedFile> {
    Ok(RefusedFile {
        name: row.get(0)?,
        size: row.get(1)?,
        etag: row.get(2)?,
        reason: row.get(3)?,
        tries: row.get(4)?,
        retry_ms: row.get(5)?,
    })
}

/// The refused files of a remote whose names come after one, by name, so many at most: there may be as many as a listing has names.
pub(crate) fn refused_files(conn: &Connection, remote: i64, after: &str, limit: usize) -> Result<Vec<RefusedFile>> {
    let sql = "SELECT name, size, etag, reason, tries, retry_ms FROM ZV_REFUSED \
               WHERE remote_no = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map((remote, after, limit), refused)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What is remembered of one refused file.
pub(crate) fn refused_file(conn: &Connection, remote: i64, name: &str) -> Result<Option<RefusedFile>> {
    let sql = "SELECT name, size, etag, reason, tries, retry_ms FROM ZV_REFUSED WHERE remote_no = ?1 AND name = ?2";
    Ok(conn.prepare_cached(sql)?.query_row((remote, name), refused).optional()?)
}

/// How many files of a remote are refused.
pub(crate) fn count_refused(conn: &Connection, remote: i64) -> Result<u64> {
    let sql = "SELECT count(*) FROM ZV_REFUSED WHERE remote_no = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([remote], |row| row.get(0))?)
}

/// Records a refused file, or what is new of it.
pub(crate) fn remember_refused(conn: &Connection, remote: i64, file: &RefusedFile) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_REFUSED (remote_no, name, size, etag, reason, tries, retry_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    conn.prepare_cached(sql)?.execute((
        remote,
        &file.name,
        file.size,
        &file.etag,
        &file.reason,
        file.tries,
        file.retry_ms,
    ))?;
    Ok(())
}

/// Lets the next look at a remote ask for every refused file, whatever its time.
pub(crate) fn ask_for_refused(conn: &Connection, remote: i64) -> Result<()> {
    conn.prepare_cached("UPDATE ZV_REFUSED SET retry_ms = 0 WHERE remote_no = ?1")?.execute([remote])?;
    Ok(())
}

/// Forgets a refused file that was read after all, or is gone.
pub(crate) fn forget_refused(conn: &Connection, remote: i64, name: &str) -> Result<()> {
    let sql = "DELETE FROM ZV_REFUSED WHERE remote_no = ?1 AND name = ?2";
    conn.prepare_cached(sql)?.execute((remote, name))?;
    Ok(())
}

/// The changes of a remote whose time is still to come, with their authors (empty where not read).
pub(crate) fn waiting(conn: &Connection, remote: i64) -> Result<Vec<(ChangeId, String)>> {
    let sql = "SELECT change_id, author_id FROM ZV_WAITING WHERE remote_no = ?1 ORDER BY change_id";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([remote])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((id_from(row.get(0)?)?, row.get(1)?));
    }
    Ok(found)
}

/// Replaces the list of a remote's waiting changes.
///
/// What the caller leaves out of it waits all the same: it is found again in the next listing.
pub(crate) fn set_waiting(conn: &Connection, remote: i64, changes: &[(ChangeId, String)]) -> Result<()> {
    conn.prepare_cached("DELETE FROM ZV_WAITING WHERE remote_no = ?1")?.execute([remote])?;
    let sql = "INSERT OR REPLACE INTO ZV_WAITING (remote_no, change_id, author_id) VALUES (?1, ?2, ?3)";
    let mut statement = conn.prepare_cached(sql)?;
    changes.iter().try_for_each(|(id, author)| statement.execute((remote, id.as_bytes(), author)).map(|_| ()))?;
    Ok(())
}

/// A change that stays here: it is too large for a remote, or of a table that a remote knows by another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: ChangeId,
    pub(crate) seq: i64,
    pub(crate) table_no: u32,
    /// The size of its file.
    pub(crate) bytes: u64,
}

/// The changes that stay here.
pub(crate) fn kept(conn: &Connection) -> Result<Vec<Kept>> {
    let mut statement =
        conn.prepare_cached("SELECT change_id, seq, table_no, bytes FROM ZV_KEPT ORDER BY change_id")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Kept { id: id_from(row.get(0)?)?, seq: row.get(1)?, table_no: row.get(2)?, bytes: row.get(3)? });
    }
    Ok(found)
}

/// Records that a change stays here.
pub(crate) fn keep(conn: &Connection, kept: &Kept) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_KEPT (change_id, seq, table_no, bytes) VALUES (?1, ?2, ?3, ?4)";
    conn.prepare_cached(sql)?.execute((kept.id.as_bytes(), kept.seq, kept.table_no, kept.bytes))?;
    Ok(())
}

/// Records that a change stays here no longer, and went to one remote. The others that lack it are to get it too.
pub(crate) fn unkeep(conn: &Connection, remote: i64, id: ChangeId) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_LOST (remote_no, change_id) SELECT no, change_id FROM ZV_REMOTE \
               JOIN ZV_KEPT ON seq <= pushed_seq WHERE no <> ?1 AND change_id = ?2";
    conn.prepare_cached(sql)?.execute((remote, id.as_bytes()))?;
    conn.prepare_cached("DELETE FROM ZV_KEPT WHERE change_id = ?1")?.execute([id.as_bytes()])?;
    Ok(())
}

/// A table definition as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) hash: [u8; 32],
    pub(crate) table_no: u32,
    pub(crate) version: u64,
    pub(crate) body: Vec<u8>,
}

/// Every definition that is known.
pub(crate) fn definitions(conn: &Connection) -> Result<Vec<Definition>> {
    let sql = "SELECT hash, table_no, version, body FROM ZV_DEFINITION ORDER BY table_no, version, hash";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([], definition)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The definition of a table that counts: the greatest version, and among equals the greatest hash.
pub(crate) fn newest_definition(conn: &Connection, table_no: u32) -> Result<Option<Definition>> {
    let sql = "SELECT hash, table_no, version, body FROM ZV_DEFINITION WHERE table_no = ?1 \
               ORDER BY version DESC, hash DESC LIMIT 1";
    Ok(conn.prepare_cached(sql)?.query_row([table_no], definition).optional()?)
}

fn definition(row: &Row<'_>) -> rusqlite::Result<Definition> {
    Ok(Definition { hash: row.get(0)?, table_no: row.get(1)?, version: row.get(2)?, body: row.get(3)? })
}

/// Records a definition; a second time changes nothing.
pub(crate) fn remember_definition(conn: &Connection, definition: &Definition) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_DEFINITION (hash, table_no, version, body) VALUES (?1, ?2, ?3, ?4)";
    let Definition { hash, table_no, version, body } = definition;
    conn.prepare_cached(sql)?.execute((hash, table_no, version, body))?;
    Ok(())
}

/// Forgets a definition.
pub(crate) fn forget_definition(conn: &Connection, hash: &[u8; 32]) -> Result<()> {
    conn.prepare_cached("DELETE FROM ZV_DEFINITION WHERE hash = ?1")?.execute([hash])?;
    Ok(())
}
