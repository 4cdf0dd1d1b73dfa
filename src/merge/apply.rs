//! Showing: rows of the entity tables brought in line with their registers. The only place that writes a user's table.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::ffi;
use rusqlite::{CachedStatement, Connection, params_from_iter};

use super::fold::{Key, Plan, Touched};
use super::notes::set_triggers;
use super::tables::{MergeTable, Tables};
use crate::changelog::{Log, LoggedField, count_held, hold, read_fields, release};
use crate::db::{bind_value, same_name};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Registers, Value};

/// Why a row is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Reason {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Rows whose user trigger rolled the whole transaction back: found by one attempt, held by the next.
pub(super) type Refused = BTreeMap<Key, String>;

/// How showing a batch can end early.
pub(super) enum Stop {
    Failed(Error),
    /// A trigger rolled the transaction back: the batch must be tried again without this row.
    RolledBack(Key, String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Shows what a plan asks for.
pub(super) struct Applier<'a, 'c> {
    pub(super) log: &'a mut Log<'c>,
    pub(super) tables: &'a Tables,
    pub(super) refused: &'a Refused,
    /// Rows that were put in or changed, where foreign keys ask for them.
    pub(super) put: BTreeSet<Key>,
    /// Rows that were taken out, likewise.
    pub(super) taken: BTreeSet<Key>,
    watches_rows: bool,
    /// Whether any row is held, and so may be one that is shown now.
    any_held: bool,
    /// The last insert and the last update: most rows of a batch need the same statement.
    insert: Option<(u32, CachedStatement<'c>)>,
    update: Option<(u32, Vec<usize>, CachedStatement<'c>)>,
}

impl<'a, 'c> Applier<'a, 'c> {
    pub(super) fn new(log: &'a mut Log<'c>, tables: &'a Tables, refused: &'a Refused) -> Result<Self> {
        Ok(Self {
            any_held: count_held(log.conn)? > 0,
            watches_rows: tables.iter().any(|table| !table.shape.foreign_keys.is_empty()),
            log,
            tables,
            refused,
            put: BTreeSet::new(),
            taken: BTreeSet::new(),
            insert: None,
            update: None,
        })
    }

    /// Takes rows out first, then puts rows in, so that values which must be unique can move between rows;
    /// what clashes with a row that moves later is taken out too and put in at the end.
    pub(super) fn apply(&mut self, plan: Plan) -> Result<(), Stop> {
        let mut rows = Vec::with_capacity(plan.len());
        for (key, touched) in plan {
            let entity = self.log.entity(key.0, &key.1)?;
            if entity.registers.alive() {
                rows.push((key, touched));
            } else if entity.shown || touched.whole {
                self.take_out(&key)?;
            } else {
                release(self.log.conn, key.0, &key.1)?;
            }
        }
        // What a trigger writes to another tracked table yields to the rows that come from its origin, so these come last.
        rows.sort_by_key(|(key, _)| !self.tables.get(key.0).is_some_and(|table| table.has_triggers));
        let mut again = Vec::new();
        for (key, touched) in rows {
            if self.put_in(&key, touched)?.is_some() {
                self.take_out(&key)?;
                again.push(key);
            }
        }
        for key in again {
            if let Some(reason) = self.put_in(&key, Touched::whole())? {
                self.hold(&key, &reason)?;
            }
        }
        Ok(())
    }

    /// Removes a row that is no longer to be shown.
    pub(super) fn take_out(&mut self, key: &Key) -> Result<(), Stop> {
        let table = self.table(key.0)?;
        if let Some(row) = table.key(&key.1) {
            let refused = self.refused.contains_key(key) || !delete(self.log.conn, table, key, &row)?;
            if refused && row_exists(self.log.conn, table, &row)? {
                // Tables follow their registers: a trigger may look on, but cannot keep a row that is gone.
                set_triggers(self.log.conn, false)?;
                delete(self.log.conn, table, key, &row)?;
                set_triggers(self.log.conn, true)?;
            }
        }
        self.log.entity(key.0, &key.1)?.set_shown(false);
        if self.watches_rows {
            self.put.remove(key);
            self.taken.insert(key.clone());
        }
        Ok(self.release(key)?)
    }

    fn release(&self, key: &Key) -> Result<()> {
        if self.any_held { release(self.log.conn, key.0, &key.1) } else { Ok(()) }
    }

    /// Takes a row out and records why.
    pub(super) fn hold(&mut self, key: &Key, reason: &Reason) -> Result<(), Stop> {
        self.take_out(key)?;
        self.any_held = true;
        Ok(hold(self.log.conn, key.0, &key.1, reason.code, &reason.detail)?)
    }

    /// Puts a living row in, or changes what of it has a new winner. Returns why it cannot be shown, if it cannot.
    fn put_in(&mut self, key: &Key, touched: Touched) -> Result<Option<Reason>, Stop> {
        if let Some(why) = self.refused.get(key) {
            return Ok(Some(Reason::new("trigger", why)));
        }
        let entity = self.log.entity(key.0, &key.1)?;
        let shown = entity.shown && !touched.whole;
        let registers = if shown { Registers::default() } else { entity.registers.clone() };
        let table = self.table(key.0)?;
        let Some(row_key) = table.key(&key.1) else {
            return Ok(Some(Reason::new(
                "key",
                format!("the key does not fit the key columns of {}", table.shape.name),
            )));
        };
        let written = if shown {
            let columns = table.columns.iter().enumerate();
            let changed: Vec<(usize, &Value)> =
                columns.filter_map(|(at, column)| Some((at, touched.value(column.no)?))).collect();
            if changed.is_empty() { Ok(1) } else { self.update(table, &row_key, &changed) }
        } else {
            let values = winners(self.log.conn, table, &registers, touched)?;
            self.put_row(table, &row_key, &values)
        };
        match written {
            Ok(0) => return Ok(Some(Reason::new("trigger", "a trigger ignores the row"))),
            Ok(_) => {}
            Err(error) => return refusal(self.log.conn, key, error).map(Some),
        }
        let entity = self.log.entity(key.0, &key.1)?;
        if !entity.shown {
            entity.set_shown(true);
            self.release(key)?;
        }
        if self.watches_rows {
            self.taken.remove(key);
            self.put.insert(key.clone());
        }
        Ok(None)
    }

    /// Inserts a row; one that is there already (written while capture was off) gets the values instead.
    fn put_row(&mut self, table: &MergeTable, key: &[Value], values: &[Value]) -> rusqlite::Result<usize> {
        if self.insert.as_ref().is_none_or(|(no, _)| *no != table.no()) {
            self.insert = Some((table.no(), self.log.conn.prepare_cached(&table.insert_sql)?));
        }
        let (_, insert) = self.insert.as_mut().expect("it was prepared just above");
        match insert.execute(params_from_iter(key.iter().chain(values).map(bind_value))) {
            Err(error) if is_key_clash(&error) => {
                let columns: Vec<(usize, &Value)> = values.iter().enumerate().collect();
                match columns.is_empty() {
                    true if row_exists(self.log.conn, table, key)? => Ok(1),
                    true => Err(error),
                    false => self.update(table, key, &columns).and_then(|n| if n == 0 { Err(error) } else { Ok(n) }),
                }
            }
            other => other,
        }
    }

    fn update(&mut self, table: &MergeTable, key: &[Value], columns: &[(usize, &Value)]) -> rusqlite::Result<usize> {
        let wanted = columns.iter().map(|(at, _)| *at);
        if !matches!(&self.update, Some((no, at, _)) if *no == table.no() && at.iter().copied().eq(wanted.clone())) {
            let statement = self.log.conn.prepare_cached(&table.update_sql(columns))?;
            self.update = Some((table.no(), wanted.collect(), statement));
        }
        let (_, _, update) = self.update.as_mut().expect("it was prepared just above");
        update.execute(params_from_iter(columns.iter().map(|(_, value)| *value).chain(key).map(bind_value)))
    }

    pub(super) fn table(&self, no: u32) -> Result<&'a MergeTable> {
        self.tables
            .get(no)
            .ok_or_else(|| Error::corrupt(format!("a row of table {no} is planned, which is not tracked")))
    }
}

/// Deletes a row; false if a trigger refuses, or ignores it.
fn delete(conn: &Connection, table: &MergeTable, key: &Key, row: &[Value]) -> Result<bool, Stop> {
    let deleted = conn.prepare_cached(&table.delete_sql)?.execute(params_from_iter(row.iter().map(bind_value)));
    match deleted {
        Ok(deleted) => Ok(deleted > 0),
        Err(error) => match refusal(conn, key, error)? {
            reason if ["trigger", "other"].contains(&reason.code) => Ok(false),
            reason => Err(Error::schema(reason.detail).into()),
        },
    }
}

/// The values that a row's columns are to have: those at hand, those in the log, and defaults.
pub(super) fn winners(
    conn: &Connection,
    table: &MergeTable,
    registers: &Registers,
    mut touched: Touched,
) -> Result<Vec<Value>> {
    let mut read: Option<(ChangeId, Vec<LoggedField>)> = None;
    let mut values = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let value = match (touched.take(column.no), registers.get(column.no)) {
            (Some(value), _) => value,
            (None, None) => column.default.clone(),
            (None, Some(register)) => {
                if read.as_ref().is_none_or(|(id, _)| *id != register.id) {
                    read = Some((register.id, read_fields(conn, register.id)?));
                }
                let fields = read.as_ref().map_or(&[][..], |(_, fields)| fields);
                let field = fields.iter().find(|field| same_name(&field.name, &column.name));
                field.map(|field| field.value.clone()).ok_or_else(|| {
                    Error::corrupt(format!("the log lacks {}.{} of {}", table.shape.name, column.name, register.id))
                })?
            }
        };
        values.push(value);
    }
    Ok(values)
}

fn row_exists(conn: &Connection, table: &MergeTable, key: &[Value]) -> rusqlite::Result<bool> {
    conn.prepare_cached(&table.select_sql)?.exists(params_from_iter(key.iter().map(bind_value)))
}

fn is_key_clash(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(e, _)
        if [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID].contains(&e.extended_code))
}

/// Turns an error of a row's own into the reason to hold it; everything else stops the merge.
fn refusal(conn: &Connection, key: &Key, error: rusqlite::Error) -> Result<Reason, Stop> {
    let (code, message) = match &error {
        rusqlite::Error::SqliteFailure(code, message) => (code, message.clone().unwrap_or_default()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg.clone()),
        _ => return Err(error.into()),
    };
    if conn.is_autocommit() {
        return Err(Stop::RolledBack(key.clone(), format!("a trigger refuses the row: {message}")));
    }
    Ok(match code.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            Reason::new("unique", format!("another row has the same value: {message}"))
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => Reason::new("not null", format!("a value is missing: {message}")),
        ffi::SQLITE_CONSTRAINT_CHECK => Reason::new("check", format!("a CHECK refuses the row: {message}")),
        ffi::SQLITE_CONSTRAINT_DATATYPE | ffi::SQLITE_MISMATCH => {
            Reason::new("type", format!("a value has another type than its column allows: {message}"))
        }
        ffi::SQLITE_CONSTRAINT_TRIGGER => Reason::new("trigger", format!("a trigger refuses the row: {message}")),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Reason::new("foreign key", message),
        // What a trigger, a CHECK or an indexed expression says of a value that it cannot read, or a trigger that is broken.
        ffi::SQLITE_ERROR => Reason::new("other", format!("SQLite cannot write the row: {message}")),
        ffi::SQLITE_TOOBIG => Reason::new("other", "the row is larger than SQLite allows"),
        _ => return Err(error.into()),
    })
}
