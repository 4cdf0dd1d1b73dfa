//! What a table was tracked by, found again where our notes of it are damaged: the triggers themselves say it, as only the
//! right notes make just those. Reads the schema; writes nothing but what is asked for.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::check::{Wanted, check_trackable};
use super::install::{Installed, Wish, inspect, install, recorded_columns, widen_journal, wrong};
use super::references::{Catalog, record_references};
use super::trigger::trigger_name;
use crate::changelog::{Log, References, Source, Tracked, list_tracked, lower};
use crate::db::{Ident, Shapes, Table, read_table, same_name};
use crate::error::{ErrorKind, Result};

/// What is left of the notes of a tracked table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remains {
    pub(crate) table_no: u32,
    pub(crate) name: String,
    pub(crate) entity_type: String,
    /// What its rows were known by, where anything says so.
    pub(crate) wanted: Option<Wanted>,
    pub(crate) excluded: Option<Vec<String>>,
    pub(crate) renamed: BTreeMap<String, String>,
    pub(crate) enforce_fk: bool,
    pub(crate) notice: String,
    pub(crate) blocked: String,
    /// The numbers that its source may have had.
    pub(crate) sources: Vec<i64>,
}

/// The notes whose triggers would be just those that are there, if any are.
pub(crate) fn recover(conn: &Connection, remains: &Remains) -> Result<Option<Tracked>> {
    let Some(table) = read_table(conn, &remains.name)? else { return Ok(None) };
    let Some(insert) = insert_trigger(conn, remains.table_no)? else { return Ok(None) };
    let uniques = table.uniques.iter().filter_map(|unique| {
        let columns: Option<Vec<String>> = unique.parts.iter().map(|part| part.column.clone()).collect();
        columns.map(Wanted::Columns)
    });
    let usual = [Wanted::Usual, Wanted::PrimaryKey, Wanted::Generated];
    let mut shapes = Shapes::default();
    for wanted in remains.wanted.clone().into_iter().chain(usual).chain(uniques) {
        let (table, identity) = match check_trackable(conn, &mut shapes, &remains.name, &wanted) {
            Err(error) if [ErrorKind::Schema, ErrorKind::Usage].contains(&error.kind()) => continue,
            other => other?,
        };
        let mut source = Source {
            no: 0,
            table_no: remains.table_no,
            table: table.name.clone(),
            entity_type: remains.entity_type.clone(),
            kind: identity.kind,
            local: identity.local,
            key: identity.key,
            columns: Vec::new(),
            renamed: remains.renamed.clone(),
        };
        let excluded = remains.excluded.clone().unwrap_or_else(|| unnamed(&table, &source, &insert));
        source.columns = recorded_columns(&table, &source, &excluded).iter().map(|c| c.name.clone()).collect();
        for no in &remains.sources {
            source.no = *no;
            let tracked = tracked(remains, excluded.clone(), source.clone());
            if matches!(inspect(conn, &table, &tracked)?, Installed::Whole | Installed::Behind) {
                return Ok(Some(tracked));
            }
        }
    }
    Ok(None)
}

fn tracked(remains: &Remains, excluded: Vec<String>, source: Source) -> Tracked {
    Tracked {
        active: true,
        enforce_fk: remains.enforce_fk,
        excluded,
        notice: remains.notice.clone(),
        blocked: remains.blocked.clone(),
        altering: Vec::new(),
        source,
    }
}

/// Tracks a table anew by what is left of its notes, where it is known what its rows are known by.
pub(crate) fn install_again(log: &mut Log<'_>, remains: &Remains) -> Result<Option<Tracked>> {
    let Some(wanted) = &remains.wanted else { return Ok(None) };
    let (table, identity) = match check_trackable(log.conn, &mut log.shapes, &remains.name, wanted) {
        Err(error) if [ErrorKind::Schema, ErrorKind::Usage].contains(&error.kind()) => return Ok(None),
        other => other?,
    };
    let wish = Wish {
        excluded: remains.excluded.clone().unwrap_or_default(),
        enforce_fk: remains.enforce_fk,
        notice: remains.notice.clone(),
        blocked: remains.blocked.clone(),
        entity_type: Some(remains.entity_type.clone()),
        renamed: remains.renamed.clone(),
    };
    install(log, &table, identity, wish).map(Some)
}

/// The trigger that records what is inserted.
fn insert_trigger(conn: &Connection, table_no: u32) -> Result<Option<String>> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([trigger_name(table_no, "insert")])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

/// The columns that a trigger does not name.
fn unnamed(table: &Table, source: &Source, trigger: &str) -> Vec<String> {
    let is_lead = |name: &str| source.lead().any(|lead| same_name(lead, name));
    let names = table.columns.iter().map(|column| &column.name);
    names.filter(|name| !is_lead(name) && !trigger.contains(&format!("zv_row.{}", Ident(name)))).cloned().collect()
}

/// The tables that our triggers are on, by the number in the triggers' names; and whether one of them records inserts.
pub(crate) fn triggered(conn: &Connection) -> Result<BTreeMap<u32, (String, bool)>> {
    let sql = "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB 'ZV_*_*'";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut found: BTreeMap<u32, (String, bool)> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        if let Some((no, event)) = name.trim_start_matches("ZV_").split_once('_')
            && let Ok(no) = no.parse()
        {
            found.entry(no).or_insert((row.get(1)?, false)).1 |= event == "insert";
        }
    }
    Ok(found)
}

/// The columns that hold local integer keys as the schema says it: table, column in lower case, parent.
fn references_of(conn: &Connection) -> Result<Vec<(u32, String, u32)>> {
    let catalog = Catalog::load(conn, &mut Shapes::default())?;
    let mut found = Vec::new();
    for (tracked, shape) in catalog.tables() {
        for column in &shape.columns {
            let is_own = tracked.source.local.as_deref().is_some_and(|local| same_name(local, &column.name));
            if let Some(parent_no) = catalog.target(shape, &column.name).filter(|_| !is_own) {
                found.push((tracked.table_no(), lower(&column.name), parent_no));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// How many value columns the journal needs for the tables under capture.
pub(crate) fn journal_width(conn: &Connection) -> Result<usize> {
    let widths = list_tracked(conn)?.into_iter().filter(|tracked| tracked.active);
    Ok(widths.map(|tracked| tracked.source.lead_len() + tracked.source.columns.len() + 1).max().unwrap_or(0))
}

/// Brings what follows from the tracked tables' shapes in line with them.
pub(crate) fn follow_shapes(log: &mut Log<'_>) -> Result<()> {
    widen_journal(log.conn, journal_width(log.conn)?)?;
    record_references(log)
}

/// The triggers of ours that are missing or other than the table needs. Where its columns changed since they were made, none:
/// that is for the next sync to notice.
pub(crate) fn wrong_triggers(conn: &Connection, table: &Table, tracked: &Tracked) -> Result<Vec<String>> {
    let columns = recorded_columns(table, &tracked.source, &tracked.excluded);
    let is_as_it_was = columns.len() == tracked.source.columns.len()
        && columns.iter().zip(&tracked.source.columns).all(|(column, name)| column.name == *name);
    if is_as_it_was { wrong(conn, table, tracked) } else { Ok(Vec::new()) }
}

/// Whether `ZV_REFERENCE` says of every tracked table that exists what its schema says.
pub(crate) fn are_references_right(conn: &Connection) -> Result<bool> {
    let recorded = References::load(conn)?;
    let wanted = references_of(conn)?;
    for (table_no, column, parent_no) in &wanted {
        if recorded.target(*table_no, column) != Some(*parent_no) {
            return Ok(false);
        }
    }
    for tracked in list_tracked(conn)? {
        if read_table(conn, tracked.name())?.is_some() {
            let table_no = tracked.table_no();
            let expected = wanted.iter().filter(|(no, _, _)| *no == table_no).count();
            let sql = "SELECT count(*) FROM ZV_REFERENCE WHERE table_no = ?1";
            let there: usize = conn.prepare_cached(sql)?.query_row([table_no], |row| row.get(0))?;
            if there != expected {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
