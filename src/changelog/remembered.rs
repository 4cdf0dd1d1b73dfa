//! What is remembered of remotes and cannot be right: found, and forgotten, so that the next sync looks and finds out anew.
//! Nothing is believed to be there that may not be, and a push looks at the listing before it puts anything.

use std::collections::BTreeSet;

use rusqlite::types::Value as Key;
use rusqlite::{Connection, Row, params_from_iter};

use super::{Definition, Names, contains, lower, read_head, remember_definition};
use crate::error::Result;
use crate::model::ChangeId;
use crate::wire::{MAX_PACK_CHANGES, TableDefinition, decode_ids};

/// What is wrong with what is remembered: a table, and a row of it by its place among all of them.
#[derive(Debug, Default)]
pub(crate) struct WrongMemory {
    /// By table: rows, as the values of their keys or their rowids.
    rows: Vec<(&'static str, Vec<Key>)>,
    /// Remotes whose memory cannot be relied on.
    remotes: BTreeSet<i64>,
}

impl WrongMemory {
    /// By table, how many rows cannot be right.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts: Vec<(&'static str, u64)> = Vec::new();
        for (table, _) in &self.rows {
            match counts.iter_mut().find(|(known, _)| known == table) {
                Some((_, count)) => *count += 1,
                None => counts.push((table, 1)),
            }
        }
        counts
    }

    /// The remotes whose log is believed pushed while nothing says where it lies.
    pub(crate) fn forgetful(&self) -> usize {
        self.remotes.len()
    }
}

/// A table of what is remembered: its key, what else is read, and when a row is right.
struct Memory {
    table: &'static str,
    key: &'static [&'static str],
    columns: &'static str,
    is_right: fn(&Connection, &Row<'_>) -> Result<bool>,
}

const MEMORIES: [Memory; 9] = [
    Memory {
        table: "ZV_EPOCH",
        key: &["remote_no", "epoch"],
        columns: "remote_no, epoch, fingerprint, file",
        is_right: is_epoch,
    },
    Memory { table: "ZV_IDENTITY", key: &["identity", "remote_no"], columns: "remote_no, identity", is_right: has_id },
    Memory {
        table: "ZV_LOOSE",
        key: &["remote_no", "change_id"],
        columns: "remote_no, change_id, packed_ms",
        is_right: is_loose,
    },
    Memory { table: "ZV_LOST", key: &["remote_no", "change_id"], columns: "remote_no, change_id", is_right: has_id },
    Memory {
        table: "ZV_WAITING",
        key: &["remote_no", "change_id"],
        columns: "remote_no, change_id, author_id",
        is_right: is_waiting,
    },
    Memory {
        table: "ZV_REFUSED",
        key: &["remote_no", "name"],
        columns: "remote_no, name, size, etag, reason, tries, retry_ms",
        is_right: is_refused,
    },
    Memory {
        table: "ZV_PACK",
        key: &["rowid"],
        columns: "remote_no, pack, size, changes, raw, first, last, complete, seen_ms, covered_ms, ids",
        is_right: is_pack,
    },
    Memory { table: "ZV_KEPT", key: &["change_id"], columns: "0, change_id, seq, table_no, bytes", is_right: is_kept },
    Memory {
        table: "ZV_DEFINITION",
        key: &["hash"],
        columns: "0, hash, table_no, version, body",
        is_right: is_definition,
    },
];

/// Looks through what is remembered.
pub(crate) fn wrong_memory(conn: &Connection) -> Result<WrongMemory> {
    let mut wrong = WrongMemory::default();
    let sql = "SELECT no FROM ZV_REMOTE WHERE typeof(pushed_seq) <> 'integer' OR pushed_seq < 0 \
               OR pushed_seq > (SELECT coalesce(max(seq), 0) FROM ZV_SEQUENCE) OR typeof(url) <> 'text' \
               OR typeof(layout) <> 'text' OR typeof(layout_id) <> 'text' OR typeof(last_sync_ms) <> 'integer' OR last_sync_ms < 0";
    let mut statement = conn.prepare(sql)?;
    for no in statement.query_map([], |row| row.get::<_, i64>(0))? {
        wrong.rows.push(("ZV_REMOTE", vec![no?.into()]));
    }
    for memory in &MEMORIES {
        let sql = format!("SELECT {}, {} FROM {}", memory.columns, memory.key.join(", "), memory.table);
        let mut statement = conn.prepare(&sql)?;
        let first_key = statement.column_count() - memory.key.len();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let belongs = ["ZV_KEPT", "ZV_DEFINITION"].contains(&memory.table) || is_remote(conn, row)?;
            if !belongs || !(memory.is_right)(conn, row)? {
                let key: Vec<Key> =
                    (0..memory.key.len()).map(|n| row.get(first_key + n)).collect::<rusqlite::Result<_>>()?;
                wrong.rows.push((memory.table, key));
                wrong.remotes.extend(row.get::<_, i64>(0).ok().filter(|no| belongs && *no > 0));
            }
        }
    }
    let sql = "SELECT no FROM ZV_REMOTE WHERE EXISTS (SELECT 1 FROM ZV_SEQUENCE AS s WHERE s.seq <= pushed_seq \
               AND s.change_id NOT IN (SELECT change_id FROM ZV_KEPT)) \
               AND NOT EXISTS (SELECT 1 FROM ZV_PACK WHERE remote_no = no) AND NOT EXISTS (SELECT 1 FROM ZV_LOOSE WHERE remote_no = no) \
               AND NOT EXISTS (SELECT 1 FROM ZV_LOST WHERE remote_no = no)";
    let mut statement = conn.prepare(sql)?;
    for no in statement.query_map([], |row| row.get::<_, i64>(0))? {
        wrong.remotes.insert(no?);
    }
    Ok(wrong)
}

/// Forgets what cannot be right.
pub(crate) fn forget_wrong(conn: &Connection, wrong: &WrongMemory) -> Result<()> {
    for (table, key) in &wrong.rows {
        match *table {
            "ZV_REMOTE" => mend_remote(conn, key)?,
            "ZV_KEPT" => mend_kept(conn, key)?,
            "ZV_DEFINITION" => mend_definition(conn, key)?,
            _ => forget(conn, table, key)?,
        }
    }
    for no in &wrong.remotes {
        conn.prepare_cached("UPDATE ZV_REMOTE SET pushed_seq = 0 WHERE no = ?1")?.execute([no])?;
    }
    Ok(())
}

/// Believes nothing to lie on a remote but what the next listing shows.
pub(crate) fn doubt_remote(conn: &Connection, url: &str) -> Result<()> {
    conn.execute("UPDATE ZV_REMOTE SET pushed_seq = 0 WHERE url = ?1", [url])?;
    Ok(())
}

fn forget(conn: &Connection, table: &str, key: &[Key]) -> Result<()> {
    let memory = MEMORIES.iter().find(|memory| memory.table == table);
    let Some(memory) = memory else { return Ok(()) };
    let terms: Vec<String> = memory.key.iter().enumerate().map(|(n, name)| format!("{name} IS ?{}", n + 1)).collect();
    let sql = format!("DELETE FROM {table} WHERE {}", terms.join(" AND "));
    conn.prepare_cached(&sql)?.execute(params_from_iter(key))?;
    Ok(())
}

fn mend_remote(conn: &Connection, key: &[Key]) -> Result<()> {
    let sql = "UPDATE ZV_REMOTE SET pushed_seq = 0, layout = iif(typeof(layout) = 'text', layout, ''), \
               layout_id = iif(typeof(layout_id) = 'text', layout_id, ''), \
               last_sync_ms = iif(typeof(last_sync_ms) = 'integer' AND last_sync_ms >= 0, last_sync_ms, 0) WHERE no = ?1";
    conn.execute(sql, params_from_iter(key))?;
    conn.execute("DELETE FROM ZV_REMOTE WHERE typeof(url) <> 'text' AND no = ?1", params_from_iter(key))?;
    Ok(())
}

/// A change that stays here has its place and its table; of one that is none nothing is kept, and it is pushed like any other.
fn mend_kept(conn: &Connection, key: &[Key]) -> Result<()> {
    let [Key::Blob(bytes)] = key else { return forget(conn, "ZV_KEPT", key) };
    let id = <[u8; 16]>::try_from(bytes.as_slice()).ok().and_then(ChangeId::from_bytes);
    let Some(head) = id.map(|id| read_head(conn, id)).transpose()?.flatten() else {
        return forget(conn, "ZV_KEPT", key);
    };
    let table_no = Names::default().number(conn, &head.entity_type)?;
    let sql = "UPDATE ZV_KEPT SET table_no = ?2, bytes = iif(typeof(bytes) = 'integer' AND bytes >= 0, bytes, 0), \
               seq = coalesce((SELECT seq FROM ZV_SEQUENCE AS s WHERE s.change_id = ?1), seq) WHERE change_id = ?1";
    conn.execute(sql, (bytes, table_no))?;
    Ok(())
}

fn mend_definition(conn: &Connection, key: &[Key]) -> Result<()> {
    let body: Option<Vec<u8>> =
        conn.query_row("SELECT body FROM ZV_DEFINITION WHERE hash IS ?1", params_from_iter(key), |row| row.get(0)).ok();
    forget(conn, "ZV_DEFINITION", key)?;
    if let Some(definition) = body.and_then(|body| TableDefinition::decode(&body).ok()) {
        let table_no = Names::default().number(conn, definition.entity_type())?;
        let version = definition.version.min(i64::MAX as u64);
        let (hash, body) = (definition.hash(), definition.encode());
        let row = Definition { hash, table_no, version, body };
        remember_definition(conn, &row)?;
    }
    Ok(())
}

fn is_remote(conn: &Connection, row: &Row<'_>) -> Result<bool> {
    let Ok(no) = row.get::<_, i64>(0) else { return Ok(false) };
    Ok(conn.prepare_cached("SELECT 1 FROM ZV_REMOTE WHERE no = ?1")?.exists([no])?)
}

fn id(row: &Row<'_>, at: usize) -> Option<ChangeId> {
    let bytes = row.get_ref(at).ok()?.as_blob().ok()?;
    ChangeId::from_bytes(bytes.try_into().ok()?)
}

fn is_count(row: &Row<'_>, at: usize) -> bool {
    row.get::<_, i64>(at).is_ok_and(|n| n >= 0)
}

fn is_text(row: &Row<'_>, at: usize) -> bool {
    row.get::<_, String>(at).is_ok()
}

fn has_id(_: &Connection, row: &Row<'_>) -> Result<bool> {
    Ok(id(row, 1).is_some())
}

fn is_epoch(_: &Connection, row: &Row<'_>) -> Result<bool> {
    let is_print = row.get_ref(2)?.as_blob().is_ok_and(|print| print.len() == 32);
    Ok(id(row, 1).is_some() && is_print && row.get::<_, Option<Vec<u8>>>(3).is_ok())
}

fn is_loose(conn: &Connection, row: &Row<'_>) -> Result<bool> {
    match id(row, 1) {
        Some(id) => Ok(is_count(row, 2) && contains(conn, id)?),
        None => Ok(false),
    }
}

fn is_waiting(_: &Connection, row: &Row<'_>) -> Result<bool> {
    Ok(id(row, 1).is_some() && is_text(row, 2))
}

fn is_refused(_: &Connection, row: &Row<'_>) -> Result<bool> {
    Ok(is_text(row, 1)
        && is_count(row, 2)
        && is_text(row, 3)
        && is_text(row, 4)
        && row.get::<_, u32>(5).is_ok()
        && is_count(row, 6))
}

fn is_pack(conn: &Connection, row: &Row<'_>) -> Result<bool> {
    let counts = [2, 3, 4, 8].iter().all(|at| is_count(row, *at));
    let flags = row.get::<_, i64>(7).is_ok_and(|complete| (0..=1).contains(&complete)) && row.get::<_, i64>(9).is_ok();
    let (Some(_), Ok(changes), Ok(bytes)) = (id(row, 1), row.get::<_, usize>(3), row.get_ref(10)?.as_blob()) else {
        return Ok(false);
    };
    // More than any pack holds: nothing is to be made room for.
    if !counts || !flags || changes > MAX_PACK_CHANGES {
        return Ok(false);
    }
    let Ok(ids) = decode_ids(bytes, changes) else { return Ok(false) };
    if ids.is_empty() || ids.first().copied() != id(row, 5) || ids.last().copied() != id(row, 6) {
        return Ok(false);
    }
    let is_complete: bool = row.get(7)?;
    for id in ids.into_iter().filter(|_| is_complete) {
        if !contains(conn, id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_kept(conn: &Connection, row: &Row<'_>) -> Result<bool> {
    let Some(id) = id(row, 1) else { return Ok(false) };
    let Some(head) = read_head(conn, id)? else { return Ok(false) };
    let sql = "SELECT 1 FROM ZV_SEQUENCE WHERE seq = ?1 AND change_id = ?2";
    let is_placed = match row.get::<_, i64>(2) {
        Ok(seq) => conn.prepare_cached(sql)?.exists((seq, id.as_bytes()))?,
        Err(_) => false,
    };
    let no = Names::find(conn, &lower(&head.entity_type))?;
    Ok(is_placed && is_count(row, 4) && row.get::<_, u32>(3).ok() == no)
}

fn is_definition(conn: &Connection, row: &Row<'_>) -> Result<bool> {
    let body = row.get_ref(4)?.as_blob().unwrap_or_default();
    let Ok(definition) = TableDefinition::decode(body) else { return Ok(false) };
    let no = Names::find(conn, definition.entity_type())?;
    let is_named = row.get_ref(1)?.as_blob().is_ok_and(|hash| hash == definition.hash());
    let is_version = row.get::<_, u64>(3).is_ok_and(|version| version == definition.version.min(i64::MAX as u64));
    Ok(is_named && is_version && row.get::<_, u32>(2).ok() == no && no.is_some())
}
