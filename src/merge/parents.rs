//! Foreign keys at merge: a row without a shown parent is held, until none is left to take out. Rows in a circle stay.

use std::collections::BTreeSet;

use rusqlite::{Connection, params_from_iter};
use sha2::{Digest, Sha256};

use super::apply::{Applier, Stop};
use super::fold::Key;
use super::reason::Reason;
use super::tables::{MergeTable, Tables};
use super::trial::put_value;
use crate::changelog::{BY_VALUES, References, Source, any_waits_by_values, entity_of, lower, waiting_for};
use crate::db::{ForeignKey, Ident, bind_value, list, read_value, same_name};
use crate::error::Result;
use crate::model::Value;

/// A foreign key that merges watch: both ends are tracked, and the child's table enforces it.
struct Reference<'t> {
    child: &'t MergeTable,
    parent: &'t MergeTable,
    columns: &'t [String],
    parent_columns: Vec<&'t str>,
    /// The child's columns as SQL that compares as a foreign key does, where the parent's stand left: with the parent's affinity
    /// and collation (<https://sqlite.org/foreignkeys.html>, section 3).
    terms: Vec<String>,
    /// Whether every column has its parent's kind of affinity, so that an index on the child's finds what the parent's holds.
    is_alike: bool,
}

/// Holds the rows of this batch, and the children of what it took out, that have no shown parent.
pub(super) fn hold_orphans(applier: &mut Applier<'_, '_>) -> Result<(), Stop> {
    let tables = applier.tables;
    let references = references(tables);
    if references.is_empty() {
        return Ok(());
    }
    let mut suspects: Vec<Key> = applier.put.iter().cloned().collect();
    suspects.extend(bereaved(&references, applier)?);
    loop {
        let unindexed = hold_suspects(applier, &references, suspects)?;
        suspects = Vec::new();
        for at in unindexed {
            suspects.extend(orphans(applier, &references[at])?);
        }
        if suspects.is_empty() {
            return Ok(());
        }
    }
}

/// Holds those of some rows that have no shown parent, and their children that an index finds. Returns which references may
/// have more, to be found by reading their tables once.
fn hold_suspects(
    applier: &mut Applier<'_, '_>,
    references: &[Reference<'_>],
    mut suspects: Vec<Key>,
) -> Result<BTreeSet<usize>, Stop> {
    let mut unindexed = BTreeSet::new();
    while let Some(key) = suspects.pop() {
        // What the log does not know, or not all of, stays as its user wrote it; what it knows as deleted is a trigger's doing.
        let is_logged = applier.log.entity(key.0, &key.1)?.registers.alive();
        if !is_logged {
            continue;
        }
        let Some(reference) = orphaned(applier, references, &key)? else { continue };
        let detail = format!(
            "its parent in {} (by {}) is not here or not shown",
            reference.parent.shape.name,
            reference.columns.join(", ")
        );
        let parent = parent_of(applier, reference, &key)?;
        let reason = Reason::new("foreign key", detail).until(reference.parent.no(), parent);
        for (at, reference) in references.iter().enumerate().filter(|(_, reference)| reference.parent.no() == key.0) {
            match is_indexed(applier.log.conn, reference)? {
                true => suspects.extend(children_of(applier, reference, &key)?),
                false => drop(unindexed.insert(at)),
            }
        }
        applier.hold(&key, &reason)?;
        super::claims::remember(applier, &key)?;
        applier.doubtful.insert(key);
    }
    Ok(unindexed)
}

impl Reference<'_> {
    /// Whether a row is known by it.
    fn is_of_key(&self) -> bool {
        let key = &self.child.tracked.source.key;
        self.columns.iter().any(|column| key.iter().any(|name| same_name(name, column)))
    }
}

fn references(tables: &Tables) -> Vec<Reference<'_>> {
    let mut references = Vec::new();
    for child in tables.iter().filter(|table| table.tracked.enforce_fk) {
        for key in &child.shape.foreign_keys {
            let parent = tables.by_name(&key.parent);
            if let Some(parent) = parent.filter(|parent| child.tracked.shares(key, &parent.tracked)) {
                references.extend(reference(child, parent, key));
            }
        }
    }
    references
}

fn reference<'t>(child: &'t MergeTable, parent: &'t MergeTable, key: &'t ForeignKey) -> Option<Reference<'t>> {
    let parent_columns: Vec<&str> = match key.parent_columns.is_empty() {
        // The primary key, whatever identifies the parent's rows.
        true => parent.shape.key_columns().map(|column| column.name.as_str()).collect(),
        false => key.parent_columns.iter().map(String::as_str).collect(),
    };
    // A key that does not fit its parent is a mismatch that SQLite reports too: it can hold nothing.
    if parent_columns.len() != key.columns.len() {
        return None;
    }
    let (mut terms, mut is_alike) = (Vec::with_capacity(key.columns.len()), true);
    for (own, other) in key.columns.iter().zip(&parent_columns) {
        let of_parent = parent.shape.column(other)?.affinity;
        // A generated column is not in the shape.
        let same = child.shape.column(own).is_some_and(|column| column.affinity.compares_as(of_parent));
        // The plus takes the child's own affinity off (<https://sqlite.org/datatype3.html>, section 4.2), and its index with it.
        terms.push(format!("{}c.{}", if same { "" } else { "+" }, Ident(own)));
        is_alike &= same;
    }
    Some(Reference { child, parent, columns: &key.columns, parent_columns, terms, is_alike })
}

/// The first reference of a row whose parent is missing. What is left out of the log keeps a row in its table, but for a parent in
/// its key: without that nobody could find it there any more.
fn orphaned<'r, 't>(
    applier: &Applier<'_, '_>,
    references: &'r [Reference<'t>],
    key: &Key,
) -> Result<Option<&'r Reference<'t>>, Stop> {
    let mut own: Vec<&Reference<'t>> = references.iter().filter(|reference| reference.child.no() == key.0).collect();
    if !own.is_empty() && applier.has_left_out(key)? {
        own.retain(|reference| reference.is_of_key());
    }
    if own.is_empty() {
        return Ok(None);
    }
    let Some(locator) = applier.locate(key)? else { return Ok(None) };
    for reference in own {
        let sql = format!(
            "SELECT 1 FROM {child} AS c WHERE {row} AND {set} AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {join})",
            child = Ident(&reference.child.shape.name),
            row = aliased_locator(&reference.child.tracked.source, "c"),
            set = all(reference.columns.iter().map(|name| format!("c.{} IS NOT NULL", Ident(name)))),
            parent = Ident(&reference.parent.shape.name),
            join = join(reference),
        );
        let mut statement = applier.log.conn.prepare_cached(&sql)?;
        if statement.exists(params_from_iter(locator.iter().map(bind_value)))? {
            return Ok(Some(reference));
        }
    }
    Ok(None)
}

/// The entity that a row's reference names, where the reference is to what identifies the parent; else what stands for whichever
/// row has the values; else any may be it.
fn parent_of(applier: &Applier<'_, '_>, reference: &Reference<'_>, key: &Key) -> Result<Option<String>, Stop> {
    let conn = applier.log.conn;
    let parent = &reference.parent.tracked.source;
    let Some(locator) = applier.locate(key)? else { return Ok(None) };
    let sql = format!(
        "SELECT {} FROM {} AS c WHERE {}",
        list(reference.columns.iter().map(|name| format!("c.{}", Ident(name)))),
        Ident(&reference.child.shape.name),
        aliased_locator(&reference.child.tracked.source, "c"),
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(locator.iter().map(bind_value)))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let values: Vec<Value> =
        (0..reference.columns.len()).map(|n| Ok(read_value(row.get_ref(n)?))).collect::<Result<_>>()?;
    if is_by_values(reference, &applier.tables.references) {
        return Ok(mark(reference, values));
    }
    let mut lead = vec![Value::Null; parent.lead_len()];
    for (column, value) in reference.parent_columns.iter().zip(values) {
        if let Some(at) = parent.lead().position(|name| same_name(name, column)) {
            lead[at] = value;
        }
    }
    if let (Some(_), Some(Value::Integer(local))) = (&parent.local, lead.first()) {
        return Ok(entity_of(conn, reference.parent.no(), *local)?);
    }
    Ok(parent.entity_id(conn, &applier.tables.references, &lead)?.entity())
}

/// Whether a reference that does not say which row it is to, as a column does that is only unique, finds it by values which stay what
/// they are: local integers do not, nor what the parent's column would make of another type's, nor what stays on this replica.
fn is_by_values(reference: &Reference<'_>, references: &References) -> bool {
    let (child, parent) = (reference.child.no(), reference.parent.no());
    let is_local = |no, name: &str| references.target(no, name).is_some();
    let source = &reference.parent.tracked.source;
    let names_lead = reference.parent_columns.iter().any(|name| source.lead().any(|column| same_name(column, name)));
    reference.is_alike
        && !names_lead
        && !reference.columns.iter().any(|name| is_local(child, name))
        && !reference
            .parent_columns
            .iter()
            .any(|name| is_local(parent, name) || reference.parent.tracked.excludes(name))
}

/// What stands for the rows that have certain values in the columns which a reference names. All that SQLite holds equal, by whatever
/// collation, have one; so may others, and who waits for it is then looked at in vain.
fn mark(reference: &Reference<'_>, values: Vec<Value>) -> Option<String> {
    let (source, mut bytes) = (&reference.parent.tracked.source, Vec::new());
    for (name, value) in reference.parent_columns.iter().zip(values) {
        put_value(&mut bytes, &Value::text(lower(source.logged_name(name))), "BINARY");
        let value = match value {
            Value::Null => return None,
            Value::Text(mut text) => {
                text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
                text.make_ascii_lowercase();
                Value::Text(text.trim_ascii_end().to_vec())
            }
            other => other,
        };
        put_value(&mut bytes, &value, "BINARY");
    }
    let digest = Sha256::digest(&bytes);
    Some(std::iter::once(BY_VALUES.to_string()).chain(digest[..16].iter().map(|byte| format!("{byte:02x}"))).collect())
}

/// The rows that wait for one that has the values which some rows have now.
pub(super) fn waiting_by_values(applier: &Applier<'_, '_>, changed: &[Key]) -> Result<Vec<Key>, Stop> {
    let conn = applier.log.conn;
    let mut awaited = Vec::new();
    for reference in references(applier.tables) {
        if any_waits_by_values(conn, reference.parent.no())? {
            awaited.push(reference);
        }
    }
    let mut found = Vec::new();
    for reference in &awaited {
        let parent = reference.parent;
        let sql = format!(
            "SELECT {} FROM {} AS p WHERE {}",
            list(reference.parent_columns.iter().map(|name| format!("p.{}", Ident(name)))),
            Ident(&parent.shape.name),
            aliased_locator(&parent.tracked.source, "p"),
        );
        let mut statement = conn.prepare_cached(&sql)?;
        for key in changed.iter().filter(|key| key.0 == parent.no()) {
            let Some(locator) = applier.locate(key)? else { continue };
            let mut rows = statement.query(params_from_iter(locator.iter().map(bind_value)))?;
            let Some(row) = rows.next()? else { continue };
            let values = (0..reference.parent_columns.len()).map(|n| Ok(read_value(row.get_ref(n)?)));
            if let Some(mark) = mark(reference, values.collect::<Result<_>>()?) {
                found.extend(waiting_for(conn, parent.no(), &mark)?);
            }
        }
    }
    Ok(found)
}

fn aliased_locator(source: &Source, alias: &str) -> String {
    all(source.locator().iter().enumerate().map(|(n, name)| format!("{alias}.{} = ?{}", Ident(name), n + 1)))
}

/// The comparison that SQLite makes for a foreign key.
fn join(reference: &Reference<'_>) -> String {
    let pairs = reference.parent_columns.iter().zip(&reference.terms);
    all(pairs.map(|(parent, term)| format!("p.{} = {term}", Ident(parent))))
}

fn all(terms: impl Iterator<Item = String>) -> String {
    terms.collect::<Vec<_>>().join(" AND ")
}

/// The children of what this batch took out or moved: looked up by the parent where an index serves, else the table is read
/// once.
fn bereaved(references: &[Reference<'_>], applier: &Applier<'_, '_>) -> Result<Vec<Key>, Stop> {
    let conn = applier.log.conn;
    let mut found = Vec::new();
    for reference in references {
        let parent = reference.parent.no();
        let taken: Vec<&Key> = applier.taken.iter().filter(|key| key.0 == parent).collect();
        let by_lead = refers_to_lead(reference);
        if taken.is_empty() && (by_lead || !is_rewritten(applier, reference)) {
            continue;
        }
        if by_lead && is_indexed(conn, reference)? {
            for key in taken {
                if let Some(values) = lead_values(applier, reference, key)? {
                    found.extend(keys(applier, reference.child, &lookup(reference), &values)?);
                }
            }
            continue;
        }
        found.extend(orphans(applier, reference)?);
    }
    Ok(found)
}

/// Whether a row of the parent's table that stays may have another value in a column by which it is referred to.
fn is_rewritten(applier: &Applier<'_, '_>, reference: &Reference<'_>) -> bool {
    let parent = reference.parent;
    let is_named = |name: &str| reference.parent_columns.iter().any(|column| same_name(column, name));
    let named = parent.columns.iter().filter(|column| is_named(&column.name)).map(|column| Some(column.no));
    named.chain([None]).any(|column| applier.rewritten.contains(&(parent.no(), column)))
}

/// The rows that have certain values in the columns of a reference.
fn lookup(reference: &Reference<'_>) -> String {
    let child = reference.child;
    let terms = reference.terms.iter().enumerate().map(|(n, term)| format!("{term} = ?{}", n + 1));
    format!("SELECT {} FROM {} AS c WHERE {}", child_lead(child), Ident(&child.shape.name), all(terms))
}

/// Whether an index finds the children of a row.
fn is_indexed(conn: &Connection, reference: &Reference<'_>) -> Result<bool> {
    Ok(reference.is_alike && is_search(conn, &lookup(reference))?)
}

/// The rows whose reference leads nowhere, found by reading their table.
fn orphans(applier: &Applier<'_, '_>, reference: &Reference<'_>) -> Result<Vec<Key>, Stop> {
    let child = reference.child;
    let scan = format!(
        "SELECT {lead} FROM {child} AS c WHERE {set} AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {join})",
        lead = child_lead(child),
        child = Ident(&child.shape.name),
        set = all(reference.columns.iter().map(|name| format!("c.{} IS NOT NULL", Ident(name)))),
        parent = Ident(&reference.parent.shape.name),
        join = join(reference),
    );
    keys(applier, child, &scan, &[])
}

fn child_lead(child: &MergeTable) -> String {
    list(child.tracked.source.lead().map(|name| format!("c.{}", Ident(name))))
}

/// Whether SQLite would answer a query by an index, or by one for each of the terms of an OR
/// (<https://sqlite.org/eqp.html>, section 1.1).
pub(super) fn is_search(conn: &Connection, sql: &str) -> Result<bool> {
    let mut statement = conn.prepare_cached(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let mut plan = statement.raw_query();
    let step: Option<String> = plan.next()?.map(|row| row.get(3)).transpose()?;
    Ok(step.is_some_and(|step| step.starts_with("SEARCH") || step == "MULTI-INDEX OR"))
}

/// Whether the parent is named by what it is known by, here or everywhere, which no update changes.
fn refers_to_lead(reference: &Reference<'_>) -> bool {
    let lead = reference.parent.tracked.source.lead();
    reference.parent_columns.iter().all(|name| lead.clone().any(|column| same_name(column, name)))
}

/// What a parent has in the columns by which it is referred to, where those are what it is known by, whether its row is there or not.
fn lead_values(applier: &Applier<'_, '_>, reference: &Reference<'_>, key: &Key) -> Result<Option<Vec<Value>>, Stop> {
    let (source, references) = (&reference.parent.tracked.source, &applier.tables.references);
    let locator = applier.locate(key)?.unwrap_or_default();
    let own = source.local_key(applier.log.conn, references, &key.1)?.unwrap_or_default();
    let named: Vec<(&String, Value)> = source.locator().iter().zip(locator).chain(source.key.iter().zip(own)).collect();
    let value = |name: &&str| named.iter().find(|(column, _)| same_name(column, name)).map(|(_, value)| value.clone());
    Ok(reference.parent_columns.iter().map(value).collect())
}

/// The rows that refer to a row which is about to be taken out.
fn children_of(applier: &Applier<'_, '_>, reference: &Reference<'_>, key: &Key) -> Result<Vec<Key>, Stop> {
    let Some(locator) = applier.locate(key)? else { return Ok(Vec::new()) };
    let child = reference.child;
    let sql = format!(
        "SELECT {lead} FROM {child} AS c, {parent} AS p WHERE {row} AND {join}",
        lead = child_lead(child),
        child = Ident(&child.shape.name),
        parent = Ident(&reference.parent.shape.name),
        row = aliased_locator(&reference.parent.tracked.source, "p"),
        join = join(reference),
    );
    keys(applier, child, &sql, &locator)
}

/// The entities of a table that a query of its lead finds.
fn keys(applier: &Applier<'_, '_>, table: &MergeTable, sql: &str, parameters: &[Value]) -> Result<Vec<Key>, Stop> {
    entities(applier.log.conn, &applier.tables.references, table, sql, parameters)
}

/// The same.
pub(super) fn entities(
    conn: &Connection,
    references: &References,
    table: &MergeTable,
    sql: &str,
    parameters: &[Value],
) -> Result<Vec<Key>, Stop> {
    let found = table.tracked.source.entities(conn, references, sql, parameters)?;
    Ok(found.into_iter().map(|id| (table.no(), id)).collect())
}
