//! New ids for rows that were known by the digits of their local integers, in a log that nobody else has seen: a database that
//! joins another which counted its own rows. Owns the rewriting of the log; decides nothing.

use std::collections::HashMap;

use rusqlite::Connection;

use super::{References, Source, list_tracked, referred};
use crate::db::{Metadata, bind_value, get_metadata, read_value};
use crate::error::{Error, Result};
use crate::model::{ChangeId, KeyKind, KeyPart, Value, digits_of};
use crate::world::World;

/// The tables of ours that name an entity by `table_no` and `entity_id`.
const NAMING: [&str; 10] = [
    "ZV_REGISTER",
    "ZV_LOCAL",
    "ZV_CONFLICT",
    "ZV_HELD",
    "ZV_TOUCHED",
    "ZV_UNTRANSLATED",
    "ZV_WAIT",
    "ZV_CLAIM",
    "ZV_FREED",
    "ZV_ASIDE",
];

/// The new entity ids, by table and old one.
type Renamed = HashMap<u32, HashMap<String, String>>;

/// Gives rows known by digits ids of their own, and everything that refers to them the same. Returns how many rows.
/// Runs within the caller's transaction, the journal sealed.
pub(crate) fn separate(conn: &Connection, world: &World) -> Result<u64> {
    let sources: Vec<Source> = list_tracked(conn)?.into_iter().map(|tracked| tracked.source).collect();
    if !sources.iter().any(Source::is_generated) {
        return Ok(0);
    }
    check_unseen(conn)?;
    let references = References::load(conn)?;
    let mut renamed = Renamed::new();
    for source in parents_first(&sources, &references) {
        let new = new_ids(conn, world, source, &references, &renamed)?;
        renamed.insert(source.table_no, new);
    }
    for source in &sources {
        rename_rows(conn, source, &renamed[&source.table_no])?;
        rename_values(conn, source, &references, &renamed)?;
    }
    let generated = sources.iter().filter(|source| source.is_generated());
    Ok(generated.map(|source| renamed[&source.table_no].len() as u64).sum())
}

/// A change always has the same content: what somebody may have seen stays as it is.
fn check_unseen(conn: &Connection) -> Result<()> {
    let changes: Option<ChangeId> = get_metadata(conn, Metadata::ExposedId)?;
    let backfills: u64 = get_metadata(conn, Metadata::ExposedBackfills)?.unwrap_or(0);
    if changes.is_none() && backfills == 0 {
        return Ok(());
    }
    Err(Error::usage(
        "this replica has been pushed to a remote before, so its rows keep the ids that they have there; \
         `--join separate` is for a database that joins its first remote",
    ))
}

/// Rows whose key is a reference come after those that they refer to.
fn parents_first<'s>(sources: &'s [Source], references: &References) -> Vec<&'s Source> {
    let mut waiting: Vec<&Source> = sources.iter().collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_free = |source: &&Source| {
            let targets = source.key.iter().filter_map(|name| references.target(source.table_no, name));
            let mut others = targets.filter(|target| *target != source.table_no);
            !others.any(|target| waiting.iter().any(|other| other.table_no == target))
        };
        let free = waiting.iter().position(is_free).unwrap_or(0);
        ordered.push(waiting.remove(free));
    }
    ordered
}

/// The entities of a table that get another id: those known by digits, and those whose key refers to one that does.
fn new_ids(
    conn: &Connection,
    world: &World,
    source: &Source,
    references: &References,
    renamed: &Renamed,
) -> Result<HashMap<String, String>> {
    let mut new = HashMap::new();
    let sql = "SELECT entity_id FROM ZV_REGISTER WHERE table_no = ?1 UNION SELECT entity_id FROM ZV_LOCAL WHERE table_no = ?1";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([source.table_no])?;
    while let Some(row) = rows.next()? {
        let old: String = row.get(0)?;
        let id = match source.is_generated() {
            true => digits_of(&old).map(|_| world.uuid().to_string()),
            false => moved_key(source, references, renamed, &old),
        };
        if let Some(id) = id {
            new.insert(old, id);
        }
    }
    Ok(new)
}

/// The entity id of a row whose key refers to rows that get other ids; `None` where none does.
fn moved_key(source: &Source, references: &References, renamed: &Renamed, old: &str) -> Option<String> {
    let mut parts = source.logged_key(references, old)?;
    let mut moved = false;
    for (name, part) in source.key.iter().zip(&mut parts) {
        let new = references.target(source.table_no, name).and_then(|target| renamed.get(&target));
        if let Some(id) = new.and_then(|new| new.get(&part.clone().into_reference()?)) {
            *part = KeyPart::Text(id.clone());
            moved = true;
        }
    }
    let single = source.kind != KeyKind::Parts;
    moved.then(|| match parts.as_slice() {
        [part] if single => part.clone().into_reference(),
        parts => crate::model::encode_entity_id(source.kind, parts),
    })?
}

/// Renames a table's entities wherever the log or what is derived from it names them.
fn rename_rows(conn: &Connection, source: &Source, new: &HashMap<String, String>) -> Result<()> {
    let sql = "UPDATE ZV_CHANGE SET entity_id = ?3 WHERE entity_type = ?1 AND entity_id = ?2";
    // Without an index on entities the log is read once for each row: one is made for the time being.
    if !new.is_empty() {
        conn.execute_batch("CREATE INDEX IF NOT EXISTS ZV_CHANGE_BY_ENTITY ON ZV_CHANGE (entity_type, entity_id)")?;
    }
    let mut in_log = conn.prepare(sql)?;
    for (old, id) in new {
        in_log.execute((&source.entity_type, old, id))?;
    }
    drop(in_log);
    if !new.is_empty() {
        conn.execute_batch("DROP INDEX ZV_CHANGE_BY_ENTITY")?;
    }
    for table in NAMING {
        let sql = format!("UPDATE {table} SET entity_id = ?3 WHERE table_no = ?1 AND entity_id = ?2");
        let mut statement = conn.prepare(&sql)?;
        for (old, id) in new {
            statement.execute((source.table_no, old, id))?;
        }
    }
    let mut waited_for = conn.prepare("UPDATE ZV_WAIT SET on_entity = ?3 WHERE on_table = ?1 AND on_entity = ?2")?;
    for (old, id) in new {
        waited_for.execute((source.table_no, old, id))?;
    }
    Ok(())
}

/// Lets the references in a table's changes name the rows by their new ids.
fn rename_values(conn: &Connection, source: &Source, references: &References, renamed: &Renamed) -> Result<()> {
    for column in &source.columns {
        let Some(new) = references.target(source.table_no, column).and_then(|target| renamed.get(&target)) else {
            continue;
        };
        let sql = "SELECT f.change_id, f.field_name, f.field_value FROM ZV_CHANGE AS c JOIN ZV_CHANGE_FIELD AS f ON f.change_id = c.id \
                   WHERE c.entity_type = ?1 AND f.field_name = ?2 COLLATE NOCASE";
        let mut moved = Vec::new();
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query((&source.entity_type, source.logged_name(column)))?;
        while let Some(row) = rows.next()? {
            let value = Value::from_logged(read_value(row.get_ref(2)?));
            if let Some(id) = referred(&value).and_then(|old| new.get(&old)) {
                moved.push((row.get::<_, String>(0)?, row.get::<_, String>(1)?, Value::text(id.clone())));
            }
        }
        drop(rows);
        let sql = "UPDATE ZV_CHANGE_FIELD SET field_value = ?3 WHERE change_id = ?1 AND field_name = ?2";
        let mut update = conn.prepare(sql)?;
        for (change, field, value) in moved {
            update.execute((change, field, bind_value(&value)))?;
        }
    }
    Ok(())
}
