//! Which tables are tracked, and what the columns of a journal row mean.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::db::{ForeignKey, same_name};
use crate::error::{Error, Result};
use crate::model::KeyKind;

/// What the columns c0, c1, … of a journal row hold: the lead's columns (`changelog/identity.rs`), then the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) no: i64,
    pub(crate) table_no: u32,
    /// The table's name here.
    pub(crate) table: String,
    /// Its name in the log, which a rename leaves as it was.
    pub(crate) entity_type: String,
    pub(crate) kind: KeyKind,
    /// The integer primary key, where it is not what identifies a row: it stays on this replica.
    pub(crate) local: Option<String>,
    /// The columns that identify a row everywhere; none where rows have ids of their own.
    pub(crate) key: Vec<String>,
    pub(crate) columns: Vec<String>,
    /// The log's names of columns that were renamed here, by their names in the table.
    pub(crate) renamed: BTreeMap<String, String>,
}

impl Source {
    /// A column's name in the log.
    pub(crate) fn logged_name<'s>(&'s self, column: &'s str) -> &'s str {
        self.renamed.get(column).map_or(column, String::as_str)
    }
}

/// A tracked table; inactive once `untrack` has lifted its capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) active: bool,
    pub(crate) enforce_fk: bool,
    pub(crate) excluded: Vec<String>,
    /// What the user should know of it, or nothing.
    pub(crate) notice: String,
    /// Why it is neither merged nor pushed, or nothing.
    pub(crate) blocked: String,
    /// The columns that it had when its capture was lifted for a change of its schema (`zvon alter begin`).
    pub(crate) altering: Vec<String>,
    pub(crate) source: Source,
}

impl Tracked {
    pub(crate) fn table_no(&self) -> u32 {
        self.source.table_no
    }

    pub(crate) fn name(&self) -> &str {
        &self.source.table
    }

    /// Whether changes of it are merged and pushed.
    pub(crate) fn is_live(&self) -> bool {
        self.active && self.blocked.is_empty() && !self.is_altering()
    }

    /// Whether a column stays on this replica.
    pub(crate) fn excludes(&self, column: &str) -> bool {
        self.excluded.iter().any(|name| same_name(name, column))
    }

    /// Whether a foreign key is one for merges to watch: what a column that stays on its replica refers to, nobody else knows.
    pub(crate) fn shares(&self, foreign: &ForeignKey, parent: &Self) -> bool {
        !foreign.columns.iter().any(|name| self.excludes(name))
            && !foreign.parent_columns.iter().any(|name| parent.excludes(name))
    }

    /// Whether its schema is being changed, so that nothing of it is captured or merged.
    pub(crate) fn is_altering(&self) -> bool {
        !self.altering.is_empty()
    }
}

/// Adds a source; its `no` is given here.
pub(crate) fn add_source(conn: &Connection, source: &mut Source) -> Result<()> {
    let sql = "INSERT INTO ZV_SOURCE (table_no, name, key_kind, key_columns, columns, entity_type, local_key, renamed) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    conn.prepare_cached(sql)?.execute((
        source.table_no,
        &source.table,
        kind_name(source.kind),
        json(&source.key),
        json(&source.columns),
        &source.entity_type,
        source.local.as_deref().unwrap_or_default(),
        serde_json::to_string(&source.renamed).unwrap_or_default(),
    ))?;
    source.no = conn.last_insert_rowid();
    Ok(())
}

/// A source by its number.
pub(crate) fn read_source(conn: &Connection, no: i64) -> Result<Source> {
    let sql = "SELECT table_no, name, key_kind, key_columns, columns, entity_type, local_key, renamed \
               FROM ZV_SOURCE WHERE source = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([no])?;
    let row = rows.next()?.ok_or_else(|| Error::corrupt(format!("ZV_SOURCE lacks the source {no}")))?;
    let local: String = row.get(6)?;
    Ok(Source {
        no,
        table_no: row.get(0)?,
        table: row.get(1)?,
        entity_type: row.get(5)?,
        kind: kind_of(&row.get::<_, String>(2)?)?,
        local: Some(local).filter(|name| !name.is_empty()),
        key: from_json(&row.get::<_, String>(3)?)?,
        columns: from_json(&row.get::<_, String>(4)?)?,
        renamed: from_json(&row.get::<_, String>(7)?)?,
    })
}

/// Records a tracked table's state.
pub(crate) fn save_tracked(conn: &Connection, tracked: &Tracked) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_TRACKED (table_no, name, active, source, enforce_fk, excluded, notice, blocked, altering) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    conn.prepare_cached(sql)?.execute((
        tracked.table_no(),
        tracked.name(),
        tracked.active,
        tracked.source.no,
        tracked.enforce_fk,
        json(&tracked.excluded),
        &tracked.notice,
        &tracked.blocked,
        json(&tracked.altering),
    ))?;
    Ok(())
}

/// Every table that is or was tracked, by name.
pub(crate) fn list_tracked(conn: &Connection) -> Result<Vec<Tracked>> {
    select_tracked(conn, None)
}

/// The table of a number, if it is or was tracked.
pub(crate) fn find_tracked(conn: &Connection, table_no: u32) -> Result<Option<Tracked>> {
    Ok(select_tracked(conn, Some(table_no))?.pop())
}

fn select_tracked(conn: &Connection, table_no: Option<u32>) -> Result<Vec<Tracked>> {
    let sql = "SELECT active, enforce_fk, excluded, notice, blocked, source, altering FROM ZV_TRACKED \
               WHERE ?1 IS NULL OR table_no = ?1 ORDER BY name";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([table_no])?;
    let mut tracked = Vec::new();
    while let Some(row) = rows.next()? {
        tracked.push(Tracked {
            active: row.get(0)?,
            enforce_fk: row.get(1)?,
            excluded: from_json(&row.get::<_, String>(2)?)?,
            notice: row.get(3)?,
            blocked: row.get(4)?,
            source: read_source(conn, row.get(5)?)?,
            altering: from_json(&row.get::<_, String>(6)?)?,
        });
    }
    Ok(tracked)
}

/// A list of names as our tables hold it.
pub(crate) fn read_names(json: &str) -> Result<Vec<String>> {
    from_json(json)
}

/// Writes a source that has its number already.
pub(crate) fn put_source(conn: &Connection, source: &Source) -> Result<()> {
    conn.prepare_cached("DELETE FROM ZV_SOURCE WHERE source = ?1")?.execute([source.no])?;
    let (wanted, mut added) = (source.no, source.clone());
    add_source(conn, &mut added)?;
    conn.prepare_cached("UPDATE ZV_SOURCE SET source = ?2 WHERE source = ?1")?.execute((added.no, wanted))?;
    Ok(())
}

/// Asks the next merge to show an entity anew from its registers.
pub(crate) fn touch(conn: &Connection, table_no: u32, entity_id: &str) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?.execute((table_no, entity_id))?;
    Ok(())
}

/// Whether an entity waits for that.
pub(crate) fn is_touched(conn: &Connection, table_no: u32, entity_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_TOUCHED WHERE table_no = ?1 AND entity_id = ?2";
    Ok(conn.prepare_cached(sql)?.exists((table_no, entity_id))?)
}

/// Asks the next merge to show anew all entities of a table, or for those that wait for others.
pub(crate) fn touch_all(conn: &Connection, table_no: u32, only_waiting: bool) -> Result<()> {
    let from = if only_waiting { "ZV_WAIT" } else { "ZV_REGISTER" };
    let sql = format!(
        "INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) SELECT table_no, entity_id FROM {from} WHERE table_no = ?1"
    );
    conn.prepare_cached(&sql)?.execute([table_no])?;
    Ok(())
}

fn json(names: &[String]) -> String {
    serde_json::to_string(names).expect("a list of strings is always JSON")
}

fn from_json<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json)
        .map_err(|e| Error::corrupt("a list of names in zvon's tables cannot be read").caused_by(e))
}

fn kind_name(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Text => "text",
        KeyKind::Integer => "integer",
        KeyKind::Parts => "parts",
    }
}

fn kind_of(name: &str) -> Result<KeyKind> {
    match name {
        "text" => Ok(KeyKind::Text),
        "integer" => Ok(KeyKind::Integer),
        "parts" => Ok(KeyKind::Parts),
        _ => Err(Error::corrupt("ZV_SOURCE names an unknown kind of key")),
    }
}
