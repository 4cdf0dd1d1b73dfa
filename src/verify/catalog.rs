//! The tables that are tracked, or were, as they stand in the schema: their columns, defaults and triggers.

use std::collections::HashSet;

use rusqlite::Connection;

use super::problems::Problems;
use crate::capture::wrong_triggers;
use crate::changelog::{References, Source, Tracked, list_tracked, lower, read_source};
use crate::db::{Ident, Table, TableKind, condition, constant_default, list, read_table, same_name};
use crate::error::Result;
use crate::model::{DELETED_FIELD, ROWID_FIELD, Value};

/// What a field of a change is to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Part of the key, which travels in the entity id: ignored.
    Key,
    /// The reserved field that says whether the row is there.
    Deleted,
    /// The reserved field that says which integer the row has at its author's.
    Rowid,
    /// A column that a merge writes.
    Column,
    /// A column that this replica leaves alone.
    Excluded,
    /// A column that the table does not have.
    Unknown,
}

/// A column that a merge writes.
#[derive(Debug)]
pub(super) struct KnownColumn {
    pub(super) name: String,
    /// Its name in the log, in lower case.
    pub(super) folded: String,
    pub(super) default: Value,
    /// The table that it refers to by local integers.
    pub(super) target: Option<u32>,
}

/// A table under capture whose rows can be read.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) shape: Table,
    pub(super) columns: Vec<KnownColumn>,
    /// The lead and the columns of the row that a locator finds.
    pub(super) find: String,
    /// The leads of all rows.
    pub(super) leads: String,
}

/// A table that is tracked, or was.
#[derive(Debug)]
pub(super) struct KnownTable {
    pub(super) tracked: Tracked,
    /// Columns that it had at some time since it is tracked, in lower case.
    once: HashSet<String>,
    /// `None` where it is not under capture now, or not there, or has another key than the log knows.
    pub(super) rows: Option<Rows>,
}

impl KnownTable {
    fn load(conn: &Connection, references: &References, tracked: Tracked, problems: &mut Problems) -> Result<Self> {
        let once = columns_once(conn, tracked.table_no())?;
        let rows = if tracked.active && !tracked.is_altering() {
            load_rows(conn, references, &tracked, problems)?
        } else {
            None
        };
        Ok(Self { tracked, once, rows })
    }

    pub(super) fn role(&self, field: &str) -> Role {
        let names = |names: &[String]| names.iter().any(|name| same_name(name, field));
        let columns = self.rows.as_ref().map_or(&[][..], |rows| &rows.columns);
        if same_name(field, DELETED_FIELD) {
            Role::Deleted
        } else if same_name(field, ROWID_FIELD) {
            Role::Rowid
        } else if columns.iter().any(|column| same_name(&column.folded, field)) {
            Role::Column
        } else if self.tracked.source.lead().any(|name| same_name(name, field)) {
            Role::Key
        } else if names(&self.tracked.excluded) {
            Role::Excluded
        } else {
            Role::Unknown
        }
    }

    /// Whether the table had the column at some time: a change of it may have been merged then.
    pub(super) fn had(&self, field: &str) -> bool {
        self.once.contains(&lower(field))
    }
}

/// Every table that is tracked, or was.
#[derive(Debug)]
pub(super) struct Catalog {
    tables: Vec<KnownTable>,
    pub(super) references: References,
}

impl Catalog {
    /// Reads the tables, and notes what is wrong with their capture.
    pub(super) fn load(conn: &Connection, problems: &mut Problems) -> Result<Self> {
        let references = References::load(conn)?;
        let load = |tracked| KnownTable::load(conn, &references, tracked, problems);
        let tables = list_tracked(conn)?.into_iter().map(load).collect::<Result<_>>()?;
        Ok(Self { tables, references })
    }

    pub(super) fn get(&self, name: &str) -> Option<&KnownTable> {
        self.tables.iter().find(|table| same_name(&table.tracked.source.entity_type, name))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KnownTable> {
        self.tables.iter()
    }
}

fn columns_once(conn: &Connection, table_no: u32) -> Result<HashSet<String>> {
    let mut statement = conn.prepare_cached("SELECT source FROM ZV_SOURCE WHERE table_no = ?1")?;
    let sources: Vec<i64> = statement.query_map([table_no], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut once = HashSet::new();
    for source in sources {
        let source = read_source(conn, source)?;
        once.extend(source.columns.iter().map(|name| lower(source.logged_name(name))));
    }
    Ok(once)
}

fn load_rows(
    conn: &Connection,
    references: &References,
    tracked: &Tracked,
    problems: &mut Problems,
) -> Result<Option<Rows>> {
    let name = tracked.name();
    let Some(shape) = read_table(conn, name)?.filter(|shape| shape.kind == TableKind::Table) else {
        problems.add(format_args!("{name} is tracked, and there is no such table; create it again or untrack it"));
        return Ok(None);
    };
    let missing = check_triggers(conn, tracked, problems)?;
    let source = &tracked.source;
    let rowid = shape.key_is_rowid.then(|| shape.columns[shape.key[0]].name.as_str());
    let is_there = source.lead().all(|name| shape.column(name).is_some());
    let same_local = source.local.as_deref().is_none_or(|local| rowid.is_some_and(|rowid| same_name(local, rowid)));
    if !is_there || !same_local || !is_unique(&shape, source) {
        problems
            .add(format_args!("{name} has another primary key than when it was tracked, so no row can be compared"));
        return Ok(None);
    }
    for trigger in wrong_triggers(conn, &shape, tracked)?.into_iter().filter(|name| !missing.contains(name)) {
        problems.add(format_args!("{name}: the trigger {trigger} is missing, or not as it should be"));
    }
    let columns = known_columns(conn, references, &shape, tracked)?;
    let names = source.lead().chain(columns.iter().map(|c| c.name.as_str()));
    let (names, table) = (list(names.map(Ident)), Ident(&shape.name));
    let find = format!("SELECT {names} FROM {table} WHERE {}", condition(source.locator(), 1));
    let leads = format!("SELECT {} FROM {table}", list(source.lead().map(Ident)));
    Ok(Some(Rows { columns, find, leads, shape }))
}

/// Whether the columns that identify a row still do.
fn is_unique(shape: &Table, source: &Source) -> bool {
    let is_key = shape.key.len() == source.key.len()
        && shape.key_columns().all(|column| source.key.iter().any(|key| same_name(key, &column.name)));
    source.is_generated() || is_key || shape.uniques.iter().any(|unique| unique.identifies_by(&source.key))
}

fn known_columns(
    conn: &Connection,
    references: &References,
    shape: &Table,
    tracked: &Tracked,
) -> Result<Vec<KnownColumn>> {
    let source = &tracked.source;
    let there = source.columns.iter().filter_map(|name| Some((name, shape.column(name)?)));
    let known = there.map(|(name, column)| {
        Ok(KnownColumn {
            name: column.name.clone(),
            folded: lower(source.logged_name(name)),
            default: constant_default(conn, column)?,
            target: references.target(source.table_no, name),
        })
    });
    known.collect()
}

/// Without its triggers a table's writes escape the log. Returns those that are not there.
fn check_triggers(conn: &Connection, tracked: &Tracked, problems: &mut Problems) -> Result<Vec<String>> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?1 AND tbl_name = ?2 COLLATE NOCASE";
    let mut statement = conn.prepare_cached(sql)?;
    let update = (!tracked.source.columns.is_empty()).then_some("update");
    let mut missing = Vec::new();
    for event in ["insert", "delete", "rekey"].into_iter().chain(update) {
        let (name, table) = (format!("ZV_{}_{event}", tracked.table_no()), tracked.name());
        if !statement.exists([&name, table])? {
            problems.add(format_args!("{table} lacks the trigger {name}, so its writes are not captured"));
            missing.push(name);
        }
    }
    Ok(missing)
}
