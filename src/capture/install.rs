//! Putting triggers on tables and taking them off. Owns `ZV_TRACKED` and the journal's width; records no row.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row};

use super::check::Identity;
use super::references::record_references;
use super::trigger::{Capture, Trigger, trigger_name};
use crate::changelog::{Log, Source, Tracked, add_source, list_tracked, save_tracked, touch_held};
use crate::db::{Column, Ident, Table, list, same_name};
use crate::error::{Error, Result};

/// What `track` was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) excluded: Vec<String>,
    pub(crate) enforce_fk: bool,
    pub(crate) notice: String,
    pub(crate) blocked: String,
    /// The table's name in the log, where it was tracked under another.
    pub(crate) entity_type: Option<String>,
    /// The log's names of renamed columns, by their names in the table.
    pub(crate) renamed: BTreeMap<String, String>,
}

/// Installs the triggers of a table under a new source, and records it as tracked.
pub(crate) fn install(log: &mut Log<'_>, table: &Table, identity: Identity, wish: Wish) -> Result<Tracked> {
    let conn = log.conn;
    let Wish { excluded, enforce_fk, notice, blocked, entity_type, renamed } = wish;
    let entity_type = match entity_type {
        Some(known) => known,
        None => free_entity_type(conn, &table.name)?,
    };
    let Identity { kind, local, key } = identity;
    let mut source = Source {
        no: 0,
        table_no: log.names.number(conn, &entity_type)?,
        table: table.name.clone(),
        entity_type,
        kind,
        local,
        key,
        columns: Vec::new(),
        renamed,
    };
    source.columns = recorded_columns(table, &source, &excluded).iter().map(|column| column.name.clone()).collect();
    source.renamed.retain(|name, _| table.column(name).is_some());
    name_apart(&mut source);
    add_source(conn, &mut source)?;
    // One more than the row has, as a row that gets another integer says which it had.
    widen_journal(conn, source.lead_len() + source.columns.len() + 1)?;
    remove(conn, source.table_no)?;
    for trigger in triggers_of(table, &source, &excluded)? {
        conn.execute_batch(&trigger.sql)?;
    }
    check_compiles(conn, table)?;
    let tracked = Tracked { active: true, enforce_fk, excluded, notice, blocked, altering: Vec::new(), source };
    save_tracked(conn, &tracked)?;
    record_references(log)?;
    touch_held(conn, tracked.table_no())?;
    Ok(tracked)
}

/// The log's name of a table that is tracked for the first time: its own, unless a table that was renamed has that.
fn free_entity_type(conn: &Connection, table: &str) -> Result<String> {
    let known = list_tracked(conn)?;
    let is_free = |name: &String| !known.iter().any(|other| same_name(&other.source.entity_type, name));
    Ok(numbered(table).find(is_free).expect("there are more numbers than tables"))
}

/// Gives a column whose name an older column still has in the log another one there.
fn name_apart(source: &mut Source) {
    let mut taken: Vec<String> = source.renamed.values().cloned().collect();
    for column in &source.columns {
        if !source.renamed.contains_key(column) {
            let is_free = |name: &String| !taken.iter().any(|other| same_name(other, name));
            let name = numbered(column).find(is_free).expect("there are more numbers than columns");
            if name != *column {
                source.renamed.insert(column.clone(), name.clone());
            }
            taken.push(name);
        }
    }
}

/// A name, then the same with ~2, ~3, … behind it.
fn numbered(name: &str) -> impl Iterator<Item = String> {
    std::iter::once(name.to_owned()).chain((2_u32..).map(move |n| format!("{name}~{n}")))
}

/// Prepares a write of each kind, so that a trigger that SQLite cannot compile is found here and not by the user's writes.
fn check_compiles(conn: &Connection, table: &Table) -> Result<()> {
    let name = Ident(&table.name);
    let sets = list(table.columns.iter().map(|column| format!("{0} = {0}", Ident(&column.name))));
    for sql in [
        format!("INSERT INTO {name} DEFAULT VALUES"),
        format!("UPDATE {name} SET {sets}"),
        format!("DELETE FROM {name}"),
    ] {
        if let Err(source) = conn.prepare(&sql) {
            let why = "has a constraint that zvon cannot watch";
            return Err(Error::schema(format!("{} {why}", table.name)).caused_by(source));
        }
    }
    Ok(())
}

/// Takes a table's triggers off.
pub(crate) fn remove(conn: &Connection, table_no: u32) -> Result<()> {
    for name in installed(conn, table_no, None)?.into_iter().map(|trigger| trigger.name) {
        conn.execute_batch(&format!("DROP TRIGGER {}", Ident(&name)))?;
    }
    Ok(())
}

/// Leaves a trigger that never fires, so that a table that was dropped or rebuilt meanwhile is known by its absence.
pub(crate) fn leave_mark(conn: &Connection, tracked: &Tracked) -> Result<()> {
    let name = trigger_name(tracked.table_no(), MARK);
    let table = Ident(tracked.name());
    let sql = format!("CREATE TRIGGER {} AFTER DELETE ON {table} WHEN 0 BEGIN SELECT 1; END", Ident(&name));
    Ok(conn.execute_batch(&sql)?)
}

const MARK: &str = "untracked";

/// How a table's triggers stand against what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// Every trigger is there as it should be.
    Whole,
    /// Those that record are there, but not as they should be: the table's columns or indexes changed.
    Stale,
    /// They are as they should be, but the user has made triggers since. SQLite runs the newest first, and what those do
    /// with RAISE(IGNORE) or FAIL keeps ours from running while the row stays written.
    Behind,
    /// Some are missing, or on another table: the table was dropped or rebuilt, or renamed and made anew, or somebody removed them.
    Broken,
    /// Only the mark that `untrack` left.
    Marked,
}

/// Compares the triggers that are there with those that the table, as it is now, should have.
pub(crate) fn inspect(conn: &Connection, table: &Table, tracked: &Tracked) -> Result<Installed> {
    let there = installed(conn, tracked.table_no(), Some(&table.name))?;
    let has = |event: &str| there.iter().any(|trigger| trigger.name == trigger_name(tracked.table_no(), event));
    if has(MARK) {
        return Ok(Installed::Marked);
    }
    let wanted = triggers_of(table, &tracked.source, &tracked.excluded).unwrap_or_default();
    let updates = if tracked.source.columns.is_empty() { None } else { Some("update") };
    Ok(match wanted.iter().all(|trigger| there.contains(trigger)) {
        true if there.len() == wanted.len() => match is_behind(conn, table, tracked)? {
            true => Installed::Behind,
            false => Installed::Whole,
        },
        _ if ["insert", "delete", "rekey"].into_iter().chain(updates).all(has) => Installed::Stale,
        _ => Installed::Broken,
    })
}

/// The triggers that are missing or not as they should be, and those that should not be there.
pub(super) fn wrong(conn: &Connection, table: &Table, tracked: &Tracked) -> Result<Vec<String>> {
    let there = installed(conn, tracked.table_no(), Some(&table.name))?;
    let wanted = triggers_of(table, &tracked.source, &tracked.excluded)?;
    let lacking = wanted.iter().filter(|trigger| !there.contains(trigger)).map(|trigger| trigger.name.clone());
    let extra = there.iter().filter(|trigger| !wanted.iter().any(|other| other.name == trigger.name));
    Ok(lacking.chain(extra.map(|trigger| trigger.name.clone())).collect())
}

/// Whether a trigger of the user's is newer than ours; rows of the schema keep the order of creation.
fn is_behind(conn: &Connection, table: &Table, tracked: &Tracked) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
               AND name NOT GLOB 'ZV_*' AND rowid > (SELECT min(rowid) FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?2))";
    let ours = trigger_name(tracked.table_no(), "*");
    Ok(conn.prepare_cached(sql)?.query_row((&table.name, ours), |row| row.get(0))?)
}

/// Makes the triggers of a table anew, as they are, so that they are the newest and run first.
pub(crate) fn overtake(conn: &Connection, table: &Table, tracked: &Tracked) -> Result<()> {
    remove(conn, tracked.table_no())?;
    let triggers = triggers_of(table, &tracked.source, &tracked.excluded)?;
    triggers.iter().try_for_each(|trigger| Ok(conn.execute_batch(&trigger.sql)?))
}

/// Our triggers of one table, as the schema has them. A table that is renamed takes them along: `on` says of which they count.
fn installed(conn: &Connection, table_no: u32, on: Option<&str>) -> Result<Vec<Trigger>> {
    let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?1 \
               AND tbl_name = coalesce(?2, tbl_name) COLLATE NOCASE";
    let mut statement = conn.prepare_cached(sql)?;
    let read = |row: &Row<'_>| Ok(Trigger { name: row.get(0)?, sql: row.get(1)? });
    let found = statement.query_map((trigger_name(table_no, "*"), on), read)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn triggers_of(table: &Table, source: &Source, excluded: &[String]) -> Result<Vec<Trigger>> {
    let find = |name: &String| {
        table.column(name).ok_or_else(|| Error::schema(format!("{} has no key column {name} any more", table.name)))
    };
    let capture = Capture {
        table,
        kind: source.kind,
        table_no: source.table_no,
        source: source.no,
        local: source.local.as_ref().map(find).transpose()?,
        key: source.key.iter().map(find).collect::<Result<_>>()?,
        columns: recorded_columns(table, source, excluded),
    };
    Ok(capture.triggers())
}

/// The columns whose values are recorded: neither those by which a row is known nor excluded.
pub(super) fn recorded_columns<'t>(table: &'t Table, source: &Source, excluded: &[String]) -> Vec<&'t Column> {
    let is_recorded = |column: &&Column| {
        !source.lead().any(|name| same_name(name, &column.name))
            && !excluded.iter().any(|name| same_name(name, &column.name))
    };
    table.columns.iter().filter(is_recorded).collect()
}

/// Gives the journal as many value columns as the widest table needs.
pub(super) fn widen_journal(conn: &Connection, wanted: usize) -> Result<()> {
    let sql = "SELECT count(*) FROM pragma_table_info('ZV_JOURNAL') WHERE name GLOB 'c[0-9]*'";
    let there: usize = conn.query_row(sql, [], |row| row.get(0))?;
    for n in there..wanted {
        conn.execute_batch(&format!("ALTER TABLE ZV_JOURNAL ADD COLUMN c{n}"))?;
    }
    Ok(())
}
