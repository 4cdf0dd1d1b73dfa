//! One entity: its registers and its row against what its changes say.

use rusqlite::{OptionalExtension, Row, params_from_iter};

use super::catalog::{KnownTable, Rows};
use super::change::Table;
use super::context::{Context, Tally};
use super::fold::Fold;
use super::problems::Quoted;
use crate::capture::{same_reference, same_through_affinity};
use crate::changelog::{gave_up, gave_up_any, integer_in, lower, named, referred, to_local, to_logged, waits_for};
use crate::db::{bind_value, read_value};
use crate::error::Result;
use crate::model::{ChangeId, DELETED_FIELD, Register, Registers, Value};

/// An entity while its changes are read.
#[derive(Debug, Default)]
pub(super) struct Entity {
    pub(super) id: String,
    pub(super) fold: Fold,
    /// The change read last.
    pub(super) newest_read: Option<ChangeId>,
    /// A column of it has come since the last merge, and is shown by the next.
    pub(super) awaits_merge: bool,
}

/// A row of `ZV_REGISTER`.
struct Stored {
    shown: bool,
    registers: Option<Registers>,
}

/// Compares an entity with its registers and its row.
pub(super) fn compare(context: &Context<'_>, tally: &mut Tally, table: &Table<'_>, entity: &Entity) -> Result<()> {
    let stored = table.no.map(|no| read_stored(context, no, &entity.id)).transpose()?.flatten();
    tally.registers += u64::from(stored.is_some());
    compare_registers(context, tally, table, entity, stored.as_ref())?;
    let Some(known) = table.known else { return Ok(()) };
    let Some(rows) = &known.rows else { return Ok(()) };
    let in_motion = entity.awaits_merge || context.in_motion(known.tracked.table_no(), &entity.id)?;
    if in_motion || entity.fold.is_empty() {
        return Ok(());
    }
    let shown = stored.is_some_and(|stored| stored.shown);
    Comparison { context, tally, known, rows, entity }.run(shown)
}

fn read_stored(context: &Context<'_>, table_no: u32, entity_id: &str) -> Result<Option<Stored>> {
    let sql = "SELECT shown, registers FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";
    let row = context.conn.prepare_cached(sql)?.query_row((table_no, entity_id), |row| {
        let registers = row.get_ref(1)?.as_blob().ok().and_then(Registers::decode);
        Ok(Stored { shown: row.get_ref(0)?.as_i64().is_ok_and(|shown| shown != 0), registers })
    });
    Ok(row.optional()?)
}

fn compare_registers(
    context: &Context<'_>,
    tally: &mut Tally,
    table: &Table<'_>,
    entity: &Entity,
    stored: Option<&Stored>,
) -> Result<()> {
    let (name, row) = (&table.name, Quoted(&entity.id));
    let empty = Registers::default();
    let registers = match stored {
        Some(Stored { registers: Some(registers), .. }) => registers,
        Some(Stored { registers: None, .. }) => {
            tally.problems.add(format_args!("{name} row {row}: its registers cannot be read"));
            return Ok(());
        }
        None => &empty,
    };
    let mut written = 0;
    for (column, winner) in entity.fold.iter() {
        let no = context.number(column)?;
        let held = no.and_then(|no| registers.get(no));
        let deleted = column == DELETED_FIELD && winner.value.says_deleted();
        written += usize::from(held.is_some());
        if held != Some(Register { id: winner.id, own: winner.own, deleted }) {
            let column = Quoted(column);
            let what = if held.is_none() { "is missing" } else { "does not hold the newest write" };
            tally.problems.add(format_args!("{name} row {row}: the register of column {column} {what}"));
        }
    }
    if written < registers.iter().count() {
        tally.problems.add(format_args!("{name} row {row}: a register holds a write that no merged change made"));
    }
    Ok(())
}

/// An entity of a table under capture, and its row.
struct Comparison<'a, 'c> {
    context: &'a Context<'c>,
    tally: &'a mut Tally,
    known: &'a KnownTable,
    rows: &'a Rows,
    entity: &'a Entity,
}

impl Comparison<'_, '_> {
    fn run(&mut self, shown: bool) -> Result<()> {
        let (alive, held) = (self.entity.fold.alive(), self.is_held()?);
        if held && !alive {
            self.problem("is listed as held, though the log says that it is deleted");
        }
        if shown != (alive && !held) {
            self.problem(if shown { "is marked as shown and should not be" } else { "is not marked as shown" });
        }
        let (source, references) = (&self.known.tracked.source, &self.context.catalog.references);
        let Some(locator) = source.locate(self.context.conn, references, &self.entity.id)? else {
            if alive && !held {
                self.problem("cannot be shown, as nothing finds it in this table, and is not listed as held");
            }
            return Ok(());
        };
        self.row(alive, held, &locator)
    }

    fn row(&mut self, alive: bool, held: bool, locator: &[Value]) -> Result<()> {
        let mut statement = self.context.conn.prepare_cached(&self.rows.find)?;
        let mut rows = statement.query(params_from_iter(locator.iter().map(bind_value)))?;
        // The key's affinity may have found another entity's row.
        let is_it = |row: &Row<'_>| -> Result<bool> {
            Ok(row_entity_id(self.context, self.known, row)?.as_deref() == Some(self.entity.id.as_str()))
        };
        let row = match rows.next()? {
            Some(row) if is_it(row)? => Some(row),
            _ => None,
        };
        if row.is_some() {
            *self.tally.found.entry(self.known.tracked.table_no()).or_default() += 1;
        }
        self.tally.rows += 1;
        match row {
            Some(row) if alive && !held => return self.values(row, locator),
            Some(_) if held => self.problem("is in the table, though it is listed as held"),
            Some(_) => self.problem("is in the table, though the log says that it is deleted"),
            None if alive && !held && self.follows_its_parent()? => {}
            None if alive && !held => self.problem("is not in the table, though the log says that it is there"),
            None => {}
        }
        Ok(())
    }

    fn values(&mut self, row: &Row<'_>, locator: &[Value]) -> Result<()> {
        let (conn, source) = (self.context.conn, &self.known.tracked.source);
        for (n, column) in self.rows.columns.iter().enumerate() {
            let winner = self.entity.fold.get(&column.folded);
            let wanted = winner.map_or(&column.default, |winner| &winner.value);
            let wanted = &if column.target.is_some() { named(wanted.clone()) } else { wanted.clone() };
            let there = read_value(row.get_ref(source.lead_len() + n)?);
            let is_same = match column.target {
                Some(parent_no) => self.same_reference(parent_no, &column.name, &there, wanted)?,
                None => there == *wanted || same_through_affinity(conn, source, locator, &column.name, wanted)?,
            };
            if !is_same {
                let column = &column.name;
                self.problem(format_args!("column {column} is not what the log says"));
            }
        }
        Ok(())
    }

    /// Whether a reference is to the row that the log says; one to a row that is not shown is NULL, once a merge has looked at who
    /// refers to a row that was deleted here. What cannot be translated was left out of the log.
    fn same_reference(&self, parent_no: u32, column: &str, there: &Value, wanted: &Value) -> Result<bool> {
        let conn = self.context.conn;
        // To SQLite these are equal, and so an update from one to the other is no change.
        let is_least = *there == Value::Real(i64::MIN as f64);
        if is_least && to_local(conn, parent_no, wanted)? == Some(Value::Integer(i64::MIN)) {
            return Ok(true);
        }
        match to_logged(conn, parent_no, there)? {
            // One that is NULL for want of its row is looked at again when that comes.
            Some(Value::Null) => match to_local(conn, parent_no, wanted)? {
                Some(local) => Ok(local == Value::Null),
                None => {
                    let (parent, table_no) = (referred(wanted).unwrap_or_default(), self.known.tracked.table_no());
                    waits_for(conn, (parent_no, &parent), (table_no, &self.entity.id))
                }
            },
            Some(there) => Ok(same_reference(&there, wanted) || self.is_left_out(column)?),
            None => {
                let parent = referred(wanted).unwrap_or_default();
                let was_its = match integer_in(there) {
                    Some(local) => gave_up(conn, parent_no, local, &parent)?,
                    None => false,
                };
                Ok(was_its || self.is_left_out(column)?)
            }
        }
    }

    /// Whether a reference was left out of the log. It may be one that could be translated by now: the next seal comes back to it.
    fn is_left_out(&self, column: &str) -> Result<bool> {
        let sql = "SELECT 1 FROM ZV_UNTRANSLATED AS u JOIN ZV_NAME AS n ON n.no = u.column_no \
                   WHERE u.table_no = ?1 AND u.entity_id = ?2 AND n.name = ?3";
        let source = &self.known.tracked.source;
        let name = lower(source.logged_name(column));
        Ok(self.context.conn.prepare_cached(sql)?.exists((source.table_no, &self.entity.id, name))?)
    }

    /// Whether the row still refers to an integer that its parent had before: the next merge takes it along.
    fn follows_its_parent(&self) -> Result<bool> {
        let (source, references) = (&self.known.tracked.source, &self.context.catalog.references);
        let Some(parts) = source.logged_key(references, &self.entity.id) else { return Ok(false) };
        for (name, part) in source.key.iter().zip(parts) {
            let Some(parent_no) = references.target(source.table_no, name) else { continue };
            if let Some(parent) = referred(&part.into_value())
                && gave_up_any(self.context.conn, parent_no, &parent)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_held(&self) -> Result<bool> {
        let mut statement =
            self.context.conn.prepare_cached("SELECT 1 FROM ZV_HELD WHERE table_no = ?1 AND entity_id = ?2")?;
        Ok(statement.exists((self.known.tracked.table_no(), &self.entity.id))?)
    }

    fn problem(&mut self, what: impl std::fmt::Display) {
        let (table, row) = (self.known.tracked.name(), Quoted(&self.entity.id));
        self.tally.problems.add(format_args!("{table} row {row}: {what}"));
    }
}

/// The entity id of a row whose first columns are its lead; `None` where it can have none.
pub(super) fn row_entity_id(context: &Context<'_>, known: &KnownTable, row: &Row<'_>) -> Result<Option<String>> {
    let lead = row_lead(known, row)?;
    Ok(known.tracked.source.entity_id(context.conn, &context.catalog.references, &lead)?.entity())
}

/// The values of a row's lead, which are its first columns.
pub(super) fn row_lead(known: &KnownTable, row: &Row<'_>) -> Result<Vec<Value>> {
    let lead = (0..known.tracked.source.lead_len()).map(|n| Ok(read_value(row.get_ref(n)?)));
    lead.collect()
}
