//! Columns that stay on this replica, of rows that a merge takes out of their tables for a while: kept, and put back with the row, so
//! that the user's triggers see all of it, or one by one once nothing refuses them any more.

use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::apply::Stop;
use super::fold::Key;
use super::tables::MergeTable;
use crate::changelog::{forget_aside, forget_aside_of, list_aside, set_aside};
use crate::db::{Ident, bind_value, condition, constant_expression, read_value, same_name};
use crate::model::Value;

/// Keeps what those columns hold of a row that is about to be taken out, and lives. What is kept of a column that could not have it
/// back stays, unless its user wrote there since.
pub(super) fn keep(conn: &Connection, table: &MergeTable, key: &Key, locator: &[Value]) -> Result<(), Stop> {
    let kept = list_aside(conn, key.0, &key.1)?;
    for name in table.local_columns() {
        let Some((value, is_default)) = held(conn, table, name, locator)? else { continue };
        if !is_default || !kept.iter().any(|(other, _)| same_name(other, name)) {
            set_aside(conn, key.0, &key.1, name, &value)?;
        }
    }
    Ok(())
}

/// What a column of a row holds, and whether that is what it has where nobody wrote anything.
fn held(conn: &Connection, table: &MergeTable, name: &str, locator: &[Value]) -> Result<Option<(Value, bool)>, Stop> {
    let default = table.shape.column(name).and_then(|column| column.default.as_deref()).and_then(constant_expression);
    let sql = format!(
        "SELECT {name}, {name} IS ({}) FROM {} WHERE {}",
        default.as_deref().unwrap_or("NULL"),
        Ident(&table.shape.name),
        condition(table.tracked.source.locator(), 1),
        name = Ident(name),
    );
    let read = |row: &Row<'_>| Ok((read_value(row.get_ref(0)?), row.get(1)?));
    Ok(conn.prepare_cached(&sql)?.query_row(params_from_iter(locator.iter().map(bind_value)), read).optional()?)
}

/// Gives a row that is there what is kept of those columns, each by itself, where nothing refuses it and its user wrote nothing there.
pub(super) fn give_back(
    conn: &Connection,
    table: &MergeTable,
    key: &Key,
    locator: &[Value],
) -> Result<rusqlite::Result<()>, Stop> {
    for (name, value) in list_aside(conn, key.0, &key.1)? {
        let Some(name) = table.local_columns().find(|local| same_name(local, &name)) else { continue };
        match held(conn, table, name, locator)? {
            None => continue,
            Some((_, false)) => {}
            Some((_, true)) => {
                let found = condition(table.tracked.source.locator(), 2);
                let sql = format!("UPDATE {} SET {} = ?1 WHERE {found}", Ident(&table.shape.name), Ident(name));
                let all = std::iter::once(&value).chain(locator).map(bind_value);
                match conn.prepare_cached(&sql)?.execute(params_from_iter(all)) {
                    Ok(0) => continue,
                    Ok(_) => {}
                    Err(_) if !conn.is_autocommit() => continue,
                    // A trigger took the whole transaction back.
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        forget_aside_of(conn, key.0, &key.1, name)?;
    }
    Ok(Ok(()))
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
