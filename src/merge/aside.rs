//! Columns that stay on this replica, of rows that a merge takes out of their tables for a while: kept, and put back with the row, so
//! that the user's triggers see all of it.

use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::apply::Stop;
use super::fold::Key;
use super::tables::MergeTable;
use crate::changelog::{forget_aside, list_aside, set_aside};
use crate::db::{Ident, bind_value, condition, read_value, same_name};
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

/// Puts a row in with what those columns held, where anything is kept of them. It stays aside, and nothing is put in, where a
/// constraint of this replica alone refuses it.
pub(super) fn bring_back(
    conn: &Connection,
    table: &MergeTable,
    key: &Key,
    lead: &[Value],
    values: &[Value],
) -> Result<Option<rusqlite::Result<usize>>, Stop> {
    if table.tracked.excluded.is_empty() {
        return Ok(None);
    }
    let mut kept = list_aside(conn, key.0, &key.1)?;
    kept.retain(|(name, _)| table.local_columns().any(|local| same_name(local, name)));
    if kept.is_empty() {
        return Ok(None);
    }
    let sql = table.insert_sql_with(kept.iter().map(|(name, _)| name.as_str()));
    let all = lead.iter().chain(values).chain(kept.iter().map(|(_, value)| value));
    match conn.prepare_cached(&sql)?.execute(params_from_iter(all.map(bind_value))) {
        Ok(written) => {
            forget_aside(conn, key.0, &key.1)?;
            Ok(Some(Ok(written)))
        }
        Err(_) if !conn.is_autocommit() => Ok(None),
        // A trigger took the whole transaction back.
        Err(error) => Ok(Some(Err(error))),
    }
}
