//! `ZV_SEQUENCE`, and the heads of changes: every change of the log has one place, and every place a change.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::told::Told;
use crate::changelog::{IdText, Names, contains};
use crate::db::{Metadata, get_metadata};
use crate::error::Result;
use crate::model::{ChangeId, Registers, is_reserved_table};
use crate::wire::{MAX_PACK_CHANGES, decode_ids};

pub(super) fn mend(conn: &Connection, told: &mut Told) -> Result<()> {
    reinstate(conn, told)?;
    unplace(conn, told)?;
    own_by_author(conn, told)?;
    place(conn, told)?;
    instruct(conn, told)
}

/// Own changes whose head is gone while fields, place and a register are left are put back as they were.
fn reinstate(conn: &Connection, told: &mut Told) -> Result<()> {
    let sql = "SELECT s.change_id FROM ZV_SEQUENCE AS s WHERE s.own = 1 AND typeof(s.change_id) = 'blob' AND length(s.change_id) = 16";
    let mut lost: BTreeMap<ChangeId, Option<(u32, String)>> = BTreeMap::new();
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(id) = ChangeId::from_bytes(row.get(0)?)
            && !contains(conn, id)?
        {
            lost.insert(id, None);
        }
    }
    drop(rows);
    if lost.is_empty() {
        return Ok(());
    }
    let mut statement = conn.prepare("SELECT table_no, entity_id, registers FROM ZV_REGISTER")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (Ok(table_no), Ok(entity_id)) = (row.get::<_, u32>(0), row.get::<_, String>(1)) else { continue };
        let registers = row.get_ref(2)?.as_blob().ok().and_then(Registers::decode).unwrap_or_default();
        for (_, register) in registers.iter() {
            if let Some(entity) = lost.get_mut(&register.id) {
                *entity = Some((table_no, entity_id.clone()));
            }
        }
    }
    let author: Option<String> = get_metadata(conn, Metadata::DatabaseUuid)?;
    let (mut names, mut back) = (Names::default(), 0);
    for (id, entity) in lost {
        let has_fields = conn
            .prepare_cached("SELECT 1 FROM ZV_CHANGE_FIELD WHERE change_id = ?1")?
            .exists([IdText::new(id).as_str()])?;
        if let (Some((table_no, entity_id)), true) = (entity, has_fields)
            && let Ok(table) = names.name(conn, table_no)
        {
            let sql =
                "INSERT INTO ZV_CHANGE (id, author_id, entity_type, entity_id, merged) VALUES (?1, ?2, ?3, ?4, 1)";
            let table = spelled(conn, &table)?;
            conn.prepare_cached(sql)?.execute((IdText::new(id).as_str(), &author, table, entity_id))?;
            back += 1;
        }
    }
    told.did(back, |n| {
        format!("{n} changes made here, whose heads the log had lost, were put back by their fields and registers")
    });
    Ok(())
}

/// A table's name as the log spells it elsewhere; names by number are in lower case.
fn spelled(conn: &Connection, folded: &str) -> Result<String> {
    let sql = "SELECT entity_type FROM ZV_SOURCE WHERE entity_type = ?1 COLLATE NOCASE ORDER BY source DESC LIMIT 1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([folded])?;
    Ok(match rows.next()? {
        Some(row) => row.get(0)?,
        None => folded.to_owned(),
    })
}

/// Places of what the log lacks, and second places, go.
fn unplace(conn: &Connection, told: &mut Told) -> Result<()> {
    let mut gone = Vec::new();
    let mut statement = conn.prepare("SELECT seq, change_id FROM ZV_SEQUENCE")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(1)?.as_blob().ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let is_logged = match id.and_then(ChangeId::from_bytes) {
            Some(id) => contains(conn, id)?,
            None => false,
        };
        if !is_logged {
            gone.push(row.get::<_, i64>(0)?);
        }
    }
    drop(rows);
    for seq in &gone {
        conn.prepare_cached("DELETE FROM ZV_SEQUENCE WHERE seq = ?1")?.execute([seq])?;
    }
    let twins = "DELETE FROM ZV_SEQUENCE WHERE seq NOT IN (SELECT min(seq) FROM ZV_SEQUENCE GROUP BY change_id)";
    let count = gone.len() as u64 + conn.execute(twins, [])? as u64;
    told.did(count, |n| {
        format!("{n} places in the sequence were taken off: the log lacks their changes, or has them placed already")
    });
    Ok(())
}

/// Nothing that names another author was made here.
fn own_by_author(conn: &Connection, told: &mut Told) -> Result<()> {
    let sql = "UPDATE ZV_SEQUENCE SET own = 0 WHERE own IS NOT 0 AND change_id IN \
               (SELECT unhex(c.id, '-') FROM ZV_CHANGE AS c, ZV_METADATA AS m WHERE m.key = 'database_uuid' AND c.author_id <> m.value)";
    let others = conn.execute(sql, [])?;
    let unclear = conn.execute("UPDATE ZV_SEQUENCE SET own = 1 WHERE own IS NOT 0 AND own IS NOT 1", [])?;
    told.did((others + unclear) as u64, |n| format!("{n} places in the sequence say again who made their change"));
    Ok(())
}

/// Changes without a place get one, after all others: they are pushed and merged like what has just come.
fn place(conn: &Connection, told: &mut Told) -> Result<()> {
    let sql = "SELECT c.id, c.author_id = (SELECT value FROM ZV_METADATA WHERE key = 'database_uuid') FROM ZV_CHANGE AS c \
               LEFT JOIN ZV_SEQUENCE AS s ON s.change_id = unhex(c.id, '-') WHERE s.seq IS NULL ORDER BY c.id";
    let mut lacking = Vec::new();
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(id) = row.get_ref(0)?.as_str().ok().and_then(|id| id.parse::<ChangeId>().ok()) {
            lacking.push((id, row.get::<_, Option<bool>>(1)?.unwrap_or(false)));
        }
    }
    drop(rows);
    for (id, own) in &lacking {
        conn.prepare_cached("INSERT INTO ZV_SEQUENCE (change_id, own) VALUES (?1, ?2)")?
            .execute((id.as_bytes(), own))?;
    }
    told.did(lacking.len() as u64, |n| format!("{n} changes without a place in the sequence got one"));
    Ok(())
}

/// What no change can look like, and fields that no change has.
fn instruct(conn: &Connection, told: &mut Told) -> Result<()> {
    let mut bad = 0_u64;
    let mut statement = conn.prepare("SELECT id, entity_type, entity_id FROM ZV_CHANGE")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |at| row.get_ref(at).ok().and_then(|value| value.as_str().ok());
        let is_right = text(0).is_some_and(|id| id.parse::<ChangeId>().is_ok())
            && text(1).is_some_and(|table| !is_reserved_table(table))
            && text(2).is_some();
        bad += u64::from(!is_right);
    }
    if bad > 0 {
        told.instruct(format!(
            "{bad} rows of ZV_CHANGE are no changes that zvon could have written, and are passed over. If a remote has what was \
             pushed, `zvon clone URL new.db` makes a whole replica; otherwise look at them (`zvon verify` names them) and take \
             them out: `sqlite3 FILE \"DELETE FROM ZV_CHANGE WHERE id = '…'\"`"
        ));
    }
    let fetched = drop_fields_of_elsewhere(conn)?;
    told.did(fetched, |n| {
        format!(
            "the fields of {n} changes without a head were taken out: a remote has them, and the next sync fetches them"
        )
    });
    let sql = "SELECT count(DISTINCT f.change_id) FROM ZV_CHANGE_FIELD AS f LEFT JOIN ZV_CHANGE AS c ON c.id = f.change_id \
               WHERE c.id IS NULL";
    let orphans: u64 = conn.query_row(sql, [], |row| row.get(0))?;
    if orphans > 0 {
        told.instruct(format!(
            "{orphans} changes have fields in ZV_CHANGE_FIELD and no head in ZV_CHANGE, so nothing says of which row they are; \
             what the tables show is recorded. If a remote has them, `zvon clone URL new.db` makes a whole replica; otherwise \
             take them out: `sqlite3 FILE \"DELETE FROM ZV_CHANGE_FIELD WHERE change_id NOT IN (SELECT id FROM ZV_CHANGE)\"`"
        ));
    }
    Ok(())
}

/// Fields without a head are in the way of the change when it comes again from where it lies.
fn drop_fields_of_elsewhere(conn: &Connection) -> Result<u64> {
    let sql = "SELECT DISTINCT f.change_id FROM ZV_CHANGE_FIELD AS f LEFT JOIN ZV_CHANGE AS c ON c.id = f.change_id \
               WHERE c.id IS NULL AND typeof(f.change_id) = 'text'";
    let mut statement = conn.prepare(sql)?;
    let ids: Vec<String> = statement.query_map([], |row| row.get(0))?.filter_map(|id| id.ok()).collect();
    let mut dropped = 0;
    for text in ids {
        if let Ok(id) = text.parse::<ChangeId>()
            && is_elsewhere(conn, id)?
        {
            conn.prepare_cached("DELETE FROM ZV_CHANGE_FIELD WHERE change_id = ?1")?.execute([&text])?;
            dropped += 1;
        }
    }
    Ok(dropped)
}

/// Whether a remote is remembered to have a change.
fn is_elsewhere(conn: &Connection, id: ChangeId) -> Result<bool> {
    if conn.prepare_cached("SELECT 1 FROM ZV_LOOSE WHERE change_id = ?1")?.exists([id.as_bytes()])? {
        return Ok(true);
    }
    let sql = "SELECT ids, changes FROM ZV_PACK WHERE first <= ?1 AND last >= ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([id.as_bytes()])?;
    while let Some(row) = rows.next()? {
        let changes = row.get::<_, usize>(1).unwrap_or(0).min(MAX_PACK_CHANGES);
        let ids = decode_ids(row.get_ref(0)?.as_blob().unwrap_or_default(), changes).unwrap_or_default();
        if ids.binary_search(&id).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
