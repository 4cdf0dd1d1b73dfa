//! Rows that refer to local integers which were given up: found in their tables. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::apply::Stop;
use super::fold::Key;
use super::parents::{entities, is_search};
use super::tables::{MergeTable, Tables};
use crate::db::{Ident, list};
use crate::error::Result;
use crate::model::Value;

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
    let (table, column) = (Ident(&child.shape.name), Ident(column));
    let lookup = format!("SELECT {lead} FROM {table} WHERE {column} = ?1");
    if is_search(conn, &lookup)? {
        let mut found = Vec::new();
        for local in locals {
            found.extend(entities(conn, &tables.references, child, &lookup, &[Value::Integer(*local)])?);
        }
        return Ok(found);
    }
    let numbers = locals.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let scan = format!("SELECT {lead} FROM {table} WHERE {column} IN (SELECT value FROM json_each(?1))");
    entities(conn, &tables.references, child, &scan, &[Value::text(format!("[{numbers}]"))])
}
