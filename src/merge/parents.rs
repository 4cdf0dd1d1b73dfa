//! Foreign keys at merge: a row without a shown parent is held, until none is left to take out. Rows in a circle stay.

use rusqlite::{Connection, params_from_iter};

use super::apply::{Applier, Reason, Stop};
use super::fold::Key;
use super::tables::{MergeTable, Tables};
use crate::db::{ForeignKey, Ident, bind_value, list, read_value, same_name};
use crate::error::Result;
use crate::model::{KeyPart, Value, encode_entity_id};

/// A foreign key that merges watch: both ends are tracked, and the child's table enforces it.
struct Reference<'t> {
    child: &'t MergeTable,
    parent: &'t MergeTable,
    columns: &'t [String],
    parent_columns: Vec<&'t str>,
}

/// Holds the rows of this batch, and the children of what it took out, that have no shown parent.
pub(super) fn hold_orphans(applier: &mut Applier<'_, '_>) -> Result<(), Stop> {
    let references = references(applier.tables);
    if references.is_empty() {
        return Ok(());
    }
    let mut suspects: Vec<Key> = applier.put.iter().cloned().collect();
    suspects.extend(bereaved(applier.log.conn, &references, applier)?);
    while let Some(key) = suspects.pop() {
        let Some(reference) = orphaned(applier, &references, &key)? else { continue };
        let detail = format!(
            "its parent in {} (by {}) is not here or not shown",
            reference.parent.shape.name,
            reference.columns.join(", ")
        );
        suspects.extend(children_of(applier.log.conn, &references, applier.table(key.0)?, &key)?);
        applier.hold(&key, &Reason::new("foreign key", detail))?;
    }
    Ok(())
}

fn references(tables: &Tables) -> Vec<Reference<'_>> {
    let mut references = Vec::new();
    for child in tables.iter().filter(|table| table.tracked.enforce_fk) {
        for key in &child.shape.foreign_keys {
            if let Some(parent) = tables.by_name(&key.parent) {
                references.extend(reference(child, parent, key));
            }
        }
    }
    references
}

fn reference<'t>(child: &'t MergeTable, parent: &'t MergeTable, key: &'t ForeignKey) -> Option<Reference<'t>> {
    let parent_columns: Vec<&str> = match key.parent_columns.is_empty() {
        true => parent.shape.key_columns().map(|column| column.name.as_str()).collect(),
        false => key.parent_columns.iter().map(String::as_str).collect(),
    };
    let known = parent_columns.iter().all(|name| parent.shape.column(name).is_some());
    // A key that does not fit its parent is a mismatch that SQLite reports too: it can hold nothing.
    (known && parent_columns.len() == key.columns.len()).then_some(Reference {
        child,
        parent,
        columns: &key.columns,
        parent_columns,
    })
}

/// The first reference of a row whose parent is missing.
fn orphaned<'r, 't>(
    applier: &Applier<'_, '_>,
    references: &'r [Reference<'t>],
    key: &Key,
) -> Result<Option<&'r Reference<'t>>, Stop> {
    let table = applier.table(key.0)?;
    let Some(row_key) = table.key(&key.1) else { return Ok(None) };
    for reference in references.iter().filter(|reference| reference.child.no() == key.0) {
        let sql = format!(
            "SELECT 1 FROM {child} AS c WHERE {row} AND {set} AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {join})",
            child = Ident(&table.shape.name),
            row = aliased_key(table, "c"),
            set = all(reference.columns.iter().map(|name| format!("c.{} IS NOT NULL", Ident(name)))),
            parent = Ident(&reference.parent.shape.name),
            join = join(reference),
        );
        let mut statement = applier.log.conn.prepare_cached(&sql)?;
        if statement.exists(params_from_iter(row_key.iter().map(bind_value)))? {
            return Ok(Some(reference));
        }
    }
    Ok(None)
}

fn aliased_key(table: &MergeTable, alias: &str) -> String {
    all(table
        .shape
        .key_columns()
        .enumerate()
        .map(|(n, column)| format!("{alias}.{} = ?{}", Ident(&column.name), n + 1)))
}

/// The comparison that SQLite makes for a foreign key: with the parent's affinity and collation, so it stands left.
fn join(reference: &Reference<'_>) -> String {
    let pairs = reference.parent_columns.iter().zip(reference.columns);
    all(pairs.map(|(parent, child)| format!("p.{} = c.{}", Ident(parent), Ident(child))))
}

fn all(terms: impl Iterator<Item = String>) -> String {
    terms.collect::<Vec<_>>().join(" AND ")
}

/// Rows that lost a parent to this batch: looked up by the parent where an index serves, else the table is read once.
fn bereaved(conn: &Connection, references: &[Reference<'_>], applier: &Applier<'_, '_>) -> Result<Vec<Key>, Stop> {
    let mut found = Vec::new();
    for reference in references {
        let parent = reference.parent.no();
        let taken: Vec<&Key> = applier.taken.iter().filter(|key| key.0 == parent).collect();
        let by_key = refers_to_key(reference);
        let moved = !by_key && applier.put.iter().any(|key| key.0 == parent);
        if taken.is_empty() && !moved {
            continue;
        }
        let child = reference.child;
        let lookup = format!(
            "SELECT {} FROM {} AS c WHERE {}",
            child_key(child),
            Ident(&child.shape.name),
            all(reference.columns.iter().enumerate().map(|(n, name)| format!("c.{} = ?{}", Ident(name), n + 1))),
        );
        if by_key && is_search(conn, &lookup)? {
            for key in taken {
                found.extend(keys(conn, child, &lookup, &referred(reference, key))?);
            }
            continue;
        }
        let scan = format!(
            "SELECT {key} FROM {child} AS c WHERE {set} AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {join})",
            key = child_key(child),
            child = Ident(&child.shape.name),
            set = all(reference.columns.iter().map(|name| format!("c.{} IS NOT NULL", Ident(name)))),
            parent = Ident(&reference.parent.shape.name),
            join = join(reference),
        );
        found.extend(keys(conn, child, &scan, &[])?);
    }
    Ok(found)
}

fn child_key(child: &MergeTable) -> String {
    list(child.shape.key_columns().map(|column| format!("c.{}", Ident(&column.name))))
}

/// Whether SQLite would answer a query by an index.
fn is_search(conn: &Connection, sql: &str) -> Result<bool> {
    let mut statement = conn.prepare_cached(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let mut plan = statement.raw_query();
    let step: Option<String> = plan.next()?.map(|row| row.get(3)).transpose()?;
    Ok(step.is_some_and(|step| step.starts_with("SEARCH")))
}

/// A parent's key in the order in which a reference names its columns.
fn referred(reference: &Reference<'_>, parent: &Key) -> Vec<Value> {
    let key = reference.parent.key(&parent.1).unwrap_or_default();
    let columns: Vec<&str> = reference.parent.shape.key_columns().map(|column| column.name.as_str()).collect();
    let value =
        |name: &&str| columns.iter().position(|column| same_name(column, name)).and_then(|at| key.get(at)).cloned();
    reference.parent_columns.iter().map(|name| value(name).unwrap_or(Value::Null)).collect()
}

/// Whether the parent is named by its whole key, which no update changes.
fn refers_to_key(reference: &Reference<'_>) -> bool {
    let key = &reference.parent.shape;
    key.key.len() == reference.parent_columns.len()
        && reference.parent_columns.iter().all(|name| key.key_columns().any(|column| same_name(&column.name, name)))
}

/// The rows that refer to a row which is about to be taken out.
fn children_of(
    conn: &Connection,
    references: &[Reference<'_>],
    parent: &MergeTable,
    key: &Key,
) -> Result<Vec<Key>, Stop> {
    let Some(row_key) = parent.key(&key.1) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for reference in references.iter().filter(|reference| reference.parent.no() == parent.no()) {
        let child = reference.child;
        let sql = format!(
            "SELECT {key} FROM {child} AS c, {parent} AS p WHERE {row} AND {join}",
            key = child_key(child),
            child = Ident(&child.shape.name),
            parent = Ident(&parent.shape.name),
            row = aliased_key(parent, "p"),
            join = join(reference),
        );
        found.extend(keys(conn, child, &sql, &row_key)?);
    }
    Ok(found)
}

/// The entities of a table that a query of its key columns finds.
fn keys(conn: &Connection, table: &MergeTable, sql: &str, parameters: &[Value]) -> Result<Vec<Key>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(parameters.iter().map(bind_value)))?;
    let source = &table.tracked.source;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let parts: Option<Vec<KeyPart>> = (0..source.key.len())
            .map(|n| row.get_ref(n).map(|value| KeyPart::from_value(read_value(value))))
            .collect::<rusqlite::Result<_>>()?;
        keys.extend(parts.and_then(|parts| encode_entity_id(source.kind, &parts)).map(|id| (table.no(), id)));
    }
    Ok(keys)
}
