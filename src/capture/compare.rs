//! Comparing a table with its base (the registers of the rows it showed): backfills, and writes made while capture was off.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use super::seal::{write_columns, write_deleted};
use crate::changelog::{Log, LoggedField, NewChange, Source, Tracked, read_fields, touch};
use crate::db::{
    Ident, Metadata, Table, bind_value, constant_default, get_metadata, list, read_value, same_name, set_metadata,
};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock, KeyPart, Registers, Value, decode_entity_id, encode_entity_id};
use crate::world::World;

/// What a comparison takes for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms<'a> {
    /// What was recorded of the table so far; nothing where it was never tracked: then its rows are older than any tracked write.
    pub(crate) before: Option<&'a Source>,
    /// Rows that are missing were deleted; otherwise they are shown again.
    pub(crate) accept_deletes: bool,
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Rows that the log did not know.
    pub(crate) backfilled: u64,
    /// Rows that were written while capture was off.
    pub(crate) changed: u64,
    /// Rows that were deleted while capture was off.
    pub(crate) deleted: u64,
    /// Rows that are missing and will be shown again.
    pub(crate) missing: u64,
    /// Rows whose key is none: they are left out until somebody mends them.
    pub(crate) unusable: u64,
}

/// How many entities are cached before they are written back.
const BATCH: usize = 10_000;

/// Compares every row of a table with its base, and records what differs.
pub(crate) fn compare(
    log: &mut Log<'_>,
    world: &World,
    table: &Table,
    tracked: &Tracked,
    terms: Terms<'_>,
) -> Result<Found> {
    let mut comparison = Comparison::new(log, world, table, tracked, terms)?;
    comparison.rows()?;
    comparison.missing()?;
    let Comparison { found, backfilled, .. } = comparison;
    set_metadata(log.conn, Metadata::Backfilled, backfilled)?;
    log.flush()?;
    Ok(found)
}

struct Comparison<'a, 'c> {
    log: &'a mut Log<'c>,
    world: &'a World,
    table: &'a Table,
    source: &'a Source,
    author: String,
    terms: Terms<'a>,
    /// The columns' numbers, their constant defaults, and whether they were recorded before, in the source's order.
    numbers: Vec<u32>,
    defaults: Vec<Value>,
    recorded: Vec<bool>,
    backfilled: u64,
    found: Found,
}

impl<'a, 'c> Comparison<'a, 'c> {
    fn new(
        log: &'a mut Log<'c>,
        world: &'a World,
        table: &'a Table,
        tracked: &'a Tracked,
        terms: Terms<'a>,
    ) -> Result<Self> {
        let conn = log.conn;
        let source = &tracked.source;
        let mut numbers = Vec::with_capacity(source.columns.len());
        let mut defaults = Vec::with_capacity(source.columns.len());
        for name in &source.columns {
            numbers.push(log.names.number(conn, name)?);
            let column =
                table.column(name).ok_or_else(|| Error::schema(format!("{}: no column {name}", table.name)))?;
            defaults.push(constant_default(conn, column)?);
        }
        let author = log.author()?;
        let backfilled = get_metadata(conn, Metadata::Backfilled)?.unwrap_or(0);
        let was_recorded = |name: &String| terms.before.is_some_and(|b| b.columns.iter().any(|c| same_name(c, name)));
        let recorded = source.columns.iter().map(was_recorded).collect();
        let found = Found::default();
        Ok(Self { log, world, table, source, author, terms, numbers, defaults, recorded, backfilled, found })
    }

    fn rows(&mut self) -> Result<()> {
        let names = self.source.key.iter().chain(&self.source.columns).map(|name| Ident(name));
        let sql = format!("SELECT {} FROM {}", list(names), Ident(&self.table.name));
        let conn = self.log.conn;
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.row(row)?;
            if self.log.cached() >= BATCH {
                self.log.flush()?;
            }
        }
        Ok(())
    }

    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let entity_id = match self.entity_id(row)? {
            Some(entity_id) => entity_id,
            // A table that is tracked goes on without such a row: it came while its triggers were gone.
            None if self.terms.before.is_some() => {
                self.found.unusable += 1;
                return Ok(());
            }
            None => {
                let why = "holds a row whose key is NULL, of another type than its column's, or not valid text";
                return Err(Error::schema(format!("{} {why}; mend that row first", self.table.name)));
            }
        };
        let entity = self.log.entity(self.source.table_no, &entity_id)?;
        let (known, shown) = (!entity.registers.is_empty(), entity.shown);
        if self.terms.before.is_none() || !known {
            self.found.backfilled += 1;
            let id = self.backfill_id();
            return self.record(id, &entity_id, row, |_| true);
        }
        if !shown {
            self.found.changed += 1;
            let id = self.new_id();
            return self.record(id, &entity_id, row, |_| true);
        }
        let registers = entity.registers.clone();
        self.edited_row(row, &entity_id, &registers)
    }

    /// A row that was shown: what differs from its registers was written since.
    fn edited_row(&mut self, row: &Row<'_>, entity_id: &str, registers: &Registers) -> Result<()> {
        let mut base = Base::default();
        let (mut edited, mut new) = (Vec::new(), Vec::new());
        for n in 0..self.source.columns.len() {
            let now = row.get_ref(self.source.key.len() + n)?;
            match registers.get(self.numbers[n]) {
                Some(register) => {
                    let then = base.value(self.log.conn, register.id, &self.source.columns[n])?;
                    if self.same(entity_id, n, now, &then)? {
                        continue;
                    }
                    if self.recorded[n] {
                        edited.push(n);
                        continue;
                    }
                    // The register came from elsewhere before the column was here, and so was never shown.
                    touch(self.log.conn, self.source.table_no, entity_id)?;
                    if !self.same(entity_id, n, now, &self.defaults[n])? {
                        new.push(n);
                    }
                }
                None if self.same(entity_id, n, now, &self.defaults[n])? => {}
                None => new.push(n),
            }
        }
        if !new.is_empty() {
            let id = self.backfill_id();
            self.record(id, entity_id, row, |n| new.contains(&n))?;
        }
        if !edited.is_empty() {
            let id = self.new_id();
            self.record(id, entity_id, row, |n| edited.contains(&n))?;
        }
        self.found.changed += u64::from(!edited.is_empty());
        self.found.backfilled += u64::from(!new.is_empty());
        Ok(())
    }

    /// Rows that were shown and are not there.
    fn missing(&mut self) -> Result<()> {
        self.log.flush()?;
        let conn = self.log.conn;
        let sql = format!("SELECT 1 FROM {} WHERE {}", Ident(&self.table.name), self.table.key_condition(1));
        let mut find = conn.prepare(&sql)?;
        let mut statement = conn.prepare("SELECT entity_id FROM ZV_REGISTER WHERE table_no = ?1 AND shown")?;
        let mut rows = statement.query([self.source.table_no])?;
        let mut missing = Vec::new();
        while let Some(row) = rows.next()? {
            let entity_id: String = row.get(0)?;
            let key = decode_entity_id(self.source.kind, self.source.key.len(), &entity_id).unwrap_or_default();
            let key: Vec<Value> = key.into_iter().map(KeyPart::into_value).collect();
            if !key.is_empty() && !find.exists(params_from_iter(key.iter().map(bind_value)))? {
                missing.push(entity_id);
            }
        }
        missing.into_iter().try_for_each(|entity_id| self.missing_row(&entity_id))
    }

    fn missing_row(&mut self, entity_id: &str) -> Result<()> {
        let table_no = self.source.table_no;
        if self.terms.accept_deletes {
            self.found.deleted += 1;
            let id = self.new_id();
            self.append(id, entity_id)?;
            write_deleted(self.log, id, table_no, entity_id, true)?;
        } else {
            self.found.missing += 1;
            touch(self.log.conn, table_no, entity_id)?;
        }
        self.log.entity(table_no, entity_id)?.set_shown(false);
        Ok(())
    }

    /// The entity id of a row; `None` if its key can have none.
    fn entity_id(&self, row: &Row<'_>) -> Result<Option<String>> {
        let parts: Option<Vec<KeyPart>> = (0..self.source.key.len())
            .map(|n| row.get_ref(n).map(|value| KeyPart::from_value(read_value(value))))
            .collect::<rusqlite::Result<_>>()?;
        Ok(parts.and_then(|parts| encode_entity_id(self.source.kind, &parts)))
    }

    fn record(&mut self, id: ChangeId, entity_id: &str, row: &Row<'_>, wanted: impl Fn(usize) -> bool) -> Result<()> {
        self.append(id, entity_id)?;
        let first = self.source.key.len();
        write_columns(self.log, id, self.source, &self.numbers, entity_id, |n| {
            Ok(wanted(n).then_some(row.get_ref(first + n)?))
        })?;
        self.log.entity(self.source.table_no, entity_id)?.set_shown(true);
        touch_if_beaten(self.log, self.source.table_no, entity_id, id)
    }

    fn append(&mut self, id: ChangeId, entity_id: &str) -> Result<()> {
        let change = NewChange { id, author: &self.author, entity_type: &self.source.table, entity_id, own: true };
        self.log.append(change).map(|_| ())
    }

    fn new_id(&mut self) -> ChangeId {
        self.log.clock.next(self.world.now_ms(), self.world.random())
    }

    fn backfill_id(&mut self) -> ChangeId {
        self.backfilled += 1;
        Clock::backfill(self.backfilled - 1, self.world.random())
    }

    /// Whether the table's value is the log's, seen through the column's affinity.
    fn same(&self, entity_id: &str, column: usize, now: ValueRef<'_>, then: &Value) -> Result<bool> {
        if read_value(now) == *then {
            return Ok(true);
        }
        let key = decode_entity_id(self.source.kind, self.source.key.len(), entity_id).unwrap_or_default();
        same_through_affinity(self.log.conn, self.table, key, &self.source.columns[column], then)
    }
}

/// A backfill may lose to what the log knows already: then the row is shown anew.
fn touch_if_beaten(log: &mut Log<'_>, table_no: u32, entity_id: &str, id: ChangeId) -> Result<()> {
    let newest = log.entity(table_no, entity_id)?.registers.newest();
    if newest > Some(id) && id.is_backfill() { touch(log.conn, table_no, entity_id) } else { Ok(()) }
}

/// Whether a column of a row holds a value, once the column's affinity is applied to it.
pub(crate) fn same_through_affinity(
    conn: &Connection,
    table: &Table,
    key: Vec<KeyPart>,
    column: &str,
    value: &Value,
) -> Result<bool> {
    let (name, condition) = (Ident(&table.name), table.key_condition(2));
    let sql = format!("SELECT {} IS ?1 COLLATE BINARY FROM {name} WHERE {condition}", Ident(column));
    let key = key.into_iter().map(KeyPart::into_value);
    let parameters: Vec<Value> = std::iter::once(value.clone()).chain(key).collect();
    Ok(conn.prepare_cached(&sql)?.query_row(params_from_iter(parameters.iter().map(bind_value)), |row| row.get(0))?)
}

/// The values of one row's base; the fields of a change are read once, as most columns share one.
#[derive(Default)]
struct Base {
    change: Option<(ChangeId, Vec<LoggedField>)>,
}

impl Base {
    fn value(&mut self, conn: &Connection, id: ChangeId, column: &str) -> Result<Value> {
        if self.change.as_ref().is_none_or(|(read, _)| *read != id) {
            self.change = Some((id, read_fields(conn, id)?));
        }
        let fields = self.change.as_ref().map_or(&[][..], |(_, fields)| fields);
        let field = fields.iter().find(|field| same_name(&field.name, column));
        Ok(field.map_or(Value::Null, |field| field.value.clone()))
    }
}
