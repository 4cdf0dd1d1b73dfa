//! Columns that stay on this replica, of rows that a merge takes out of their tables for a while: kept, and given back. Writes those
//! columns and no other.

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params_from_iter};

use super::apply::Stop;
use super::fold::Key;
use super::notes::without_triggers;
use super::tables::MergeTable;
use crate::changelog::{forget_aside, list_aside, set_aside};
use crate::db::{Ident, bind_value, condition, list, read_value, same_name};
use crate::model::Value;

/// Keeps what those columns hold of a row that is about to be taken out, and lives.
pub(super) fn keep(conn: &Connection, table: &MergeTable, key: &Key, locator: &[Value]) -> Result<(), Stop> {
    let found = condition(table.tracked.source.locator(), 1);
    for name in table.local_columns() {
        let sql = format!("SELECT {} FROM {} WHERE {found}", Ident(name), Ident(&table.shape.name));
        let read = |row: &Row<'_>| Ok(read_value(row.get_ref(0)?));
        let mut statement = conn.prepare_cached(&sql)?;
        if let Some(value) = statement.query_row(params_from_iter(locator.iter().map(bind_value)), read).optional()? {
            set_aside(conn, key.0, &key.1, name, &value)?;
        }
    }
    Ok(())
}

/// Gives a row that is back what those columns held. It stays aside where a constraint of this replica alone refuses it.
pub(super) fn bring_back(conn: &Connection, table: &MergeTable, key: &Key, locator: &[Value]) -> Result<(), Stop> {
    let mut kept = list_aside(conn, key.0, &key.1)?;
    kept.retain(|(name, _)| table.local_columns().any(|local| same_name(local, name)));
    if kept.is_empty() {
        return Ok(());
    }
    let sets = list(kept.iter().enumerate().map(|(n, (name, _))| format!("{} = ?{}", Ident(name), n + 1)));
    let found = condition(table.tracked.source.locator(), kept.len() + 1);
    let sql = format!("UPDATE OR ABORT {} SET {sets} WHERE {found}", Ident(&table.shape.name));
    let values = kept.iter().map(|(_, value)| value).chain(locator);
    // Nobody wrote it: it is what it was.
    match without_triggers(conn, || Ok(conn.execute(&sql, params_from_iter(values.map(bind_value)))))? {
        Ok(_) => Ok(forget_aside(conn, key.0, &key.1)?),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
