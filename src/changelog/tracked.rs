//! Which tables are tracked, and what the columns of a journal row mean.

use rusqlite::{Connection, OptionalExtension};

use crate::error::{Error, Result};
use crate::model::KeyKind;

/// What the columns c0, c1, … of a journal row hold: the key's columns, then the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) no: i64,
    pub(crate) table_no: u32,
    pub(crate) table: String,
    pub(crate) kind: KeyKind,
    pub(crate) key: Vec<String>,
    pub(crate) columns: Vec<String>,
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
        self.active && self.blocked.is_empty()
    }
}

/// Adds a source; its `no` is given here.
pub(crate) fn add_source(conn: &Connection, source: &mut Source) -> Result<()> {
    let sql = "INSERT INTO ZV_SOURCE (table_no, name, key_kind, key_columns, columns) VALUES (?1, ?2, ?3, ?4, ?5)";
    conn.prepare_cached(sql)?.execute((
        source.table_no,
        &source.table,
        kind_name(source.kind),
        json(&source.key),
        json(&source.columns),
    ))?;
    source.no = conn.last_insert_rowid();
    Ok(())
}

/// A source by its number.
pub(crate) fn read_source(conn: &Connection, no: i64) -> Result<Source> {
    let sql = "SELECT table_no, name, key_kind, key_columns, columns FROM ZV_SOURCE WHERE source = ?1";
    let row: Option<(u32, String, String, String, String)> = conn
        .prepare_cached(sql)?
        .query_row([no], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .optional()?;
    let (table_no, table, kind, key, columns) =
        row.ok_or_else(|| Error::corrupt(format!("ZV_SOURCE lacks the source {no}")))?;
    Ok(Source { no, table_no, table, kind: kind_of(&kind)?, key: names(&key)?, columns: names(&columns)? })
}

/// Records a tracked table's state.
pub(crate) fn save_tracked(conn: &Connection, tracked: &Tracked) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_TRACKED (table_no, name, active, source, enforce_fk, excluded, notice, blocked) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    conn.prepare_cached(sql)?.execute((
        tracked.table_no(),
        tracked.name(),
        tracked.active,
        tracked.source.no,
        tracked.enforce_fk,
        json(&tracked.excluded),
        &tracked.notice,
        &tracked.blocked,
    ))?;
    Ok(())
}

/// Every table that is or was tracked, by name.
pub(crate) fn list_tracked(conn: &Connection) -> Result<Vec<Tracked>> {
    let sql = "SELECT active, enforce_fk, excluded, notice, blocked, source FROM ZV_TRACKED ORDER BY name";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut tracked = Vec::new();
    while let Some(row) = rows.next()? {
        tracked.push(Tracked {
            active: row.get(0)?,
            enforce_fk: row.get(1)?,
            excluded: names(&row.get::<_, String>(2)?)?,
            notice: row.get(3)?,
            blocked: row.get(4)?,
            source: read_source(conn, row.get(5)?)?,
        });
    }
    Ok(tracked)
}

/// Asks the next merge to show an entity anew from its registers.
pub(crate) fn touch(conn: &Connection, table_no: u32, entity_id: &str) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?.execute((table_no, entity_id))?;
    Ok(())
}

fn json(names: &[String]) -> String {
    serde_json::to_string(names).expect("a list of strings is always JSON")
}

fn names(json: &str) -> Result<Vec<String>> {
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
