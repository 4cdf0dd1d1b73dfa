//! The log as people read it: history, conflicts and their way back, what is held. Turns values into JSON; decides nothing.

use rusqlite::{Connection, params_from_iter};

use crate::changelog::{
    ConflictRow, LoggedField, Names, References, list_conflicts, list_held, list_pending, list_tracked,
    list_untranslated, mark_restored, read_fields, read_head, to_local,
};
use crate::db::{Ident, Metadata, bind_value, condition, get_metadata, immediate, read_table, same_name};
use crate::error::{Error, Result};
use crate::model::{ChangeId, DELETED_FIELD, Value};
use crate::report::{Conflict, Held, HeldEntity, LogEntry, LogField, UnknownName, UntranslatedReference};

/// The history, newest first.
pub(crate) fn log(conn: &Connection, table: Option<&str>, row: Option<&str>, limit: u64) -> Result<Vec<LogEntry>> {
    if let Some(table) = table {
        let known = Names::find(conn, table)?.is_some() || read_table(conn, table)?.is_some();
        if !known {
            return Err(Error::usage(format!("{table}: neither a table nor anything that the log knows")));
        }
    }
    let author: String = get_metadata(conn, Metadata::DatabaseUuid)?.unwrap_or_default();
    // A table that was renamed keeps its name in the log.
    let tracked = table.map(|name| Ok::<_, Error>(list_tracked(conn)?.into_iter().find(|t| same_name(t.name(), name))));
    let tracked = tracked.transpose()?.flatten();
    let table = tracked.as_ref().map(|tracked| tracked.source.entity_type.as_str()).or(table);
    let sql = "SELECT id FROM ZV_CHANGE WHERE (?1 IS NULL OR entity_type = ?1 COLLATE NOCASE) \
               AND (?2 IS NULL OR entity_id = ?2) ORDER BY id DESC LIMIT ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((table, row, limit.min(i64::MAX as u64)))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let id: ChangeId = row.get::<_, String>(0)?.parse()?;
        entries.push(entry(conn, id, &author)?);
    }
    Ok(entries)
}

fn entry(conn: &Connection, id: ChangeId, author: &str) -> Result<LogEntry> {
    let head = read_head(conn, id)?.ok_or_else(|| Error::corrupt(format!("the log lacks the change {id}")))?;
    let fields = read_fields(conn, id)?;
    Ok(LogEntry {
        id: id.to_string(),
        time_ms: id.millis(),
        backfill: id.is_backfill(),
        own: head.author == author,
        author: head.author,
        table: head.entity_type,
        row: head.entity_id,
        deletes: fields.iter().any(|f| same_name(&f.name, DELETED_FIELD) && f.value.says_deleted()),
        merged: head.merged,
        fields: fields
            .into_iter()
            .filter(|f| !same_name(&f.name, DELETED_FIELD))
            .map(|f| LogField { value: json(&f.value), name: f.name })
            .collect(),
    })
}

/// A value as JSON, which knows neither bytes nor infinity.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(n) => (*n).into(),
        Value::Real(n) if n.is_finite() => (*n).into(),
        Value::Real(n) => n.to_string().into(),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => text.into(),
            Err(_) => hex(text).into(),
        },
        Value::Blob(blob) => hex(blob).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// The conflicts, oldest first, or the one of a number.
pub(crate) fn conflicts(conn: &Connection, number: Option<i64>) -> Result<Vec<Conflict>> {
    let mut names = Names::default();
    list_conflicts(conn, number)?.into_iter().map(|row| conflict(conn, &mut names, &row)).collect()
}

/// One of the two writes of a conflict.
#[derive(Default)]
struct Side {
    table: String,
    author: String,
    /// The column as the change spells it.
    column: String,
    value: serde_json::Value,
}

fn side(conn: &Connection, id: ChangeId, column: &str) -> Result<Side> {
    let mut side = Side::default();
    if let Some(head) = read_head(conn, id)? {
        (side.table, side.author) = (head.entity_type, head.author);
    }
    if let Some(field) = read_fields(conn, id)?.into_iter().find(|field| same_name(&field.name, column)) {
        (side.column, side.value) = (field.name, json(&field.value));
    }
    Ok(side)
}

fn conflict(conn: &Connection, names: &mut Names, row: &ConflictRow) -> Result<Conflict> {
    let column = names.name(conn, row.column_no)?;
    let (won, lost) = (side(conn, row.winner, &column)?, side(conn, row.loser, &column)?);
    Ok(Conflict {
        number: row.no,
        table: won.table,
        row: row.entity_id.clone(),
        column: won.column,
        winner: row.winner.to_string(),
        winner_author: won.author,
        winning_value: won.value,
        loser: row.loser.to_string(),
        loser_author: lost.author,
        losing_value: lost.value,
        seen_ms: row.seen_ms,
        restored: row.restored,
    })
}

/// Writes a conflict's losing value into its row: the triggers make it a change like any other.
pub(crate) fn restore(conn: &mut Connection, number: i64) -> Result<Conflict> {
    let tx = immediate(conn)?;
    let found = list_conflicts(&tx, Some(number))?.into_iter().next();
    let row =
        found.ok_or_else(|| Error::usage(format!("there is no conflict {number}; `zvon conflicts` lists them")))?;
    let column = Names::default().name(&tx, row.column_no)?;
    let lost: Option<LoggedField> = read_fields(&tx, row.loser)?.into_iter().find(|f| same_name(&f.name, &column));
    let lost = lost.ok_or_else(|| Error::corrupt(format!("the log lacks the losing value of {}", row.loser)))?;
    let tracked = list_tracked(&tx)?.into_iter().find(|t| t.active && t.table_no() == row.table_no);
    let tracked = tracked.ok_or_else(|| Error::schema("the conflict's table is not tracked any more"))?;
    let source = &tracked.source;
    let gone = || {
        Error::schema(format!(
            "the row {} of {} is not shown, so nothing can be restored in it",
            row.entity_id, source.table
        ))
    };
    let shape = read_table(&tx, &source.table)?.ok_or_else(gone)?;
    let references = References::load(&tx)?;
    let key = source.locate(&tx, &references, &row.entity_id)?.ok_or_else(gone)?;
    let is_it = |name: &&String| same_name(source.logged_name(name), &column);
    let name = source.columns.iter().find(is_it).filter(|name| shape.column(name).is_some()).ok_or_else(gone)?;
    let value = match references.target(source.table_no, name) {
        None => lost.value,
        Some(parent_no) => to_local(&tx, parent_no, &lost.value)?.ok_or_else(|| {
            Error::schema("the losing value refers to a row that is not shown, so it cannot be restored")
        })?,
    };
    let found = condition(source.locator(), 2);
    let sql = format!("UPDATE {} SET {} = ?1 WHERE {found}", Ident(&shape.name), Ident(name));
    let parameters: Vec<Value> = std::iter::once(value).chain(key).collect();
    if tx.execute(&sql, params_from_iter(parameters.iter().map(bind_value)))? == 0 {
        return Err(gone());
    }
    mark_restored(&tx, number)?;
    let conflict = conflicts(&tx, Some(number))?.into_iter().next();
    tx.commit()?;
    conflict.ok_or_else(|| Error::corrupt("the conflict vanished while it was restored"))
}

/// What is not shown, and why.
pub(crate) fn held(conn: &Connection) -> Result<Held> {
    let mut names = Names::default();
    let mut held = Held { rows: Vec::new(), unknown: Vec::new(), references: Vec::new() };
    for row in list_held(conn)? {
        let table = names.name(conn, row.table_no)?.to_string();
        held.rows.push(HeldEntity { table, row: row.entity_id, reason: row.reason, detail: row.detail });
    }
    for (table_no, column_no, changes) in list_pending(conn)? {
        let table = names.name(conn, table_no)?.to_string();
        let column = column_no.map(|no| names.name(conn, no)).transpose()?.map(|name| name.to_string());
        held.unknown.push(UnknownName { table, column, changes });
    }
    for left in list_untranslated(conn)? {
        let table = names.name(conn, left.table_no)?.to_string();
        let column = left.column_no.map(|no| names.name(conn, no)).transpose()?.map(|name| name.to_string());
        held.references.push(UntranslatedReference { table, row: left.row, column });
    }
    Ok(held)
}
