//! Rows that refer to local integers which were given up: found in their tables, and taken along where the row that had the
//! integer has another.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::apply::Stop;
use super::fold::Key;
use super::notes::without_triggers;
use super::parents::{entities, is_search};
use super::tables::{MergeTable, Tables};
use crate::db::{Affinity, Ident, list, refers_to, refers_to_any, same_name};
use crate::error::Result;
use crate::model::Value;

/// An integer that a row had before it got another.
pub(super) struct Left {
    pub(super) parent_no: u32,
    pub(super) before: i64,
    pub(super) now: i64,
}

/// Gives rows whose key refers to such an integer the row's other one: their entity ids are the same as before, so nothing
/// else would find them. Rows whose key only the constraints of their table forbid are put in anew from their registers.
pub(super) fn follow(conn: &Connection, tables: &Tables, left: &[Left]) -> Result<(), Stop> {
    if left.is_empty() {
        return Ok(());
    }
    // The rows are what they were to everybody but this table.
    without_triggers(conn, || {
        for parent in left {
            for (child_no, column) in tables.references.to(parent.parent_no) {
                let Some(child) = tables.get(child_no) else { continue };
                if !child.tracked.source.key.iter().any(|name| same_name(name, column)) {
                    continue;
                }
                let table = Ident(&child.shape.name);
                let sql = format!("UPDATE OR IGNORE {table} SET {} = ?1 WHERE {}", Ident(column), refers_to(column, 2));
                conn.execute(&sql, (parent.now, parent.before))?;
                conn.execute(&format!("DELETE FROM {table} WHERE {}", refers_to(column, 1)), [parent.before])?;
            }
        }
        Ok(())
    })
}

/// The rows that refer to integers of tables: looked up where an index serves, else a table is read once.
pub(super) fn referring(conn: &Connection, tables: &Tables, locals: &[(u32, i64)]) -> Result<BTreeSet<Key>, Stop> {
    let mut by_parent: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    locals.iter().for_each(|(parent_no, local)| by_parent.entry(*parent_no).or_default().push(*local));
    let mut found = BTreeSet::new();
    for (parent_no, locals) in by_parent {
        for (child_no, column) in tables.references.to(parent_no) {
            if let Some(child) = tables.get(child_no) {
                found.extend(children(conn, tables, child, column, &locals)?);
            }
        }
    }
    Ok(found)
}

fn children(
    conn: &Connection,
    tables: &Tables,
    child: &MergeTable,
    column: &str,
    locals: &[i64],
) -> Result<Vec<Key>, Stop> {
    let lead = list(child.tracked.source.lead().map(Ident));
    let table = Ident(&child.shape.name);
    let lookup = format!("SELECT {lead} FROM {table} WHERE {}", refers_to(column, 1));
    // All of a column of text would be looked through for each.
    let is_text = child.shape.column(column).is_some_and(|column| column.affinity == Affinity::Text);
    if !is_text && is_search(conn, &lookup)? {
        let mut found = Vec::new();
        for local in locals {
            found.extend(entities(conn, &tables.references, child, &lookup, &[Value::Integer(*local)])?);
        }
        return Ok(found);
    }
    let numbers = locals.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let scan = format!("SELECT {lead} FROM {table} WHERE {}", refers_to_any(column));
    entities(conn, &tables.references, child, &scan, &[Value::text(format!("[{numbers}]"))])
}
