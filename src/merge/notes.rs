//! What the user's triggers wrote into tracked tables while a merge wrote: shown from the registers again, and no change.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params_from_iter};

use super::apply::{Applier, Stop};
use super::fold::{Key, Plan, Touched};
use super::values::winners;
use crate::capture::{Notes, count_journal, same_reference, same_through_affinity, take_notes};
use crate::changelog::{to_local, to_logged};
use crate::db::{bind_value, read_value};
use crate::error::Result;
use crate::model::Value;

/// How often rows are written back with the triggers on, so that what follows the table (a search index) follows this too.
const ROUNDS_WITH_TRIGGERS: usize = 2;

/// Brings the tables to rest: every row that the journal noted since the merge began and that is not what its registers say is
/// written back, and what depends on rows that are not shown is taken out, until the merge itself is all that was noted.
pub(super) fn settle(applier: &mut Applier<'_, '_>) -> Result<(), Stop> {
    for _ in 0..ROUNDS_WITH_TRIGGERS {
        write_back(applier)?;
        super::come_to_rest(applier)?;
        if count_journal(applier.log.conn)? == 0 {
            return Ok(());
        }
    }
    let conn = applier.log.conn;
    // A trigger that rewrites its own row at every write would never let go.
    without_triggers(conn, || {
        write_back(applier)?;
        super::come_to_rest(applier)
    })
}

fn write_back(applier: &mut Applier<'_, '_>) -> Result<(), Stop> {
    let noted = take_notes(applier.log, &applier.tables.references)?;
    remove_strays(applier, &noted)?;
    let mut plan = Plan::new();
    for key in noted.rows {
        if applier.tables.get(key.0).is_none() {
            continue;
        }
        match found(applier, &key)? {
            Found::Right => continue,
            Found::Wrong => {}
            Found::OfAnother(locator) => applier.remove(applier.table(key.0)?, &key, &locator)?,
        }
        plan.insert(key, Touched::whole());
    }
    plan.extend(std::mem::take(&mut applier.doubtful).into_iter().map(|key| (key, Touched::whole())));
    if plan.is_empty() { Ok(()) } else { applier.apply(plan) }
}

/// A row that a trigger put into a table whose rows have ids of their own is nobody's: its origin sends what it made there.
fn remove_strays(applier: &mut Applier<'_, '_>, noted: &Notes) -> Result<(), Stop> {
    for (table_no, local) in &noted.strays {
        if let Some(table) = applier.tables.get(*table_no) {
            let key = (*table_no, NOBODY.to_owned());
            applier.remove(table, &key, &[Value::Integer(*local)])?;
            // Others may have found their parent in it.
            applier.taken.insert(key);
        }
    }
    Ok(())
}

/// The entity id of rows that are nobody's; an entity id has no NUL in it.
const NOBODY: &str = "\0";

/// How a row stands in its table against what its registers, and its being held, say.
enum Found {
    Right,
    Wrong,
    /// The row that has its integer has another key.
    OfAnother(Vec<Value>),
}

fn found(applier: &mut Applier<'_, '_>, key: &Key) -> Result<Found, Stop> {
    let entity = applier.log.entity(key.0, &key.1)?;
    let wanted = (entity.shown && entity.registers.alive()).then(|| entity.registers.clone());
    let absent = if wanted.is_none() { Found::Right } else { Found::Wrong };
    let table = applier.table(key.0)?;
    let (conn, source) = (applier.log.conn, &table.tracked.source);
    let Some(locator) = applier.locate(key)? else { return Ok(absent) };
    let mut statement = conn.prepare_cached(&table.select_sql)?;
    let mut rows = statement.query(params_from_iter(locator.iter().map(bind_value)))?;
    let Some(row) = rows.next()? else { return Ok(absent) };
    let Some(registers) = wanted else { return Ok(Found::Wrong) };
    if source.local.is_some() && !source.is_generated() {
        let lead: Vec<Value> =
            (0..source.lead_len()).map(|n| Ok(read_value(row.get_ref(n)?))).collect::<Result<_>>()?;
        if source.entity_id(conn, &applier.tables.references, &lead)?.entity().as_ref() != Some(&key.1) {
            drop(rows);
            return Ok(Found::OfAnother(locator));
        }
    }
    let values = winners(conn, table, &registers, &mut Touched::default())?;
    for (n, (column, value)) in table.columns.iter().zip(&values).enumerate() {
        let there: Value = read_value(row.get_ref(source.lead_len() + n)?);
        let is_same = match column.target {
            Some(parent_no) => match to_logged(conn, parent_no, &there)? {
                // One that is not here is shown as NULL.
                Some(Value::Null) => to_local(conn, parent_no, value)?.is_none_or(|local| local == Value::Null),
                Some(there) => same_reference(&there, value),
                None => false,
            },
            None => there == *value || same_through_affinity(conn, source, &locator, &column.name, value)?,
        };
        if !is_same {
            return Ok(Found::Wrong);
        }
    }
    Ok(Found::Right)
}

/// Switches the triggers of this connection on or off; other connections are not affected
/// (`SQLITE_DBCONFIG_ENABLE_TRIGGER`, <https://sqlite.org/c3ref/c_dbconfig_defensive.html>).
pub(super) fn set_triggers(conn: &Connection, on: bool) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on)?;
    Ok(())
}

/// Does something while no trigger runs.
pub(super) fn without_triggers<T>(conn: &Connection, work: impl FnOnce() -> Result<T, Stop>) -> Result<T, Stop> {
    let before = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?;
    set_triggers(conn, false)?;
    let done = work();
    set_triggers(conn, before)?;
    done
}
