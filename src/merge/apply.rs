//! Showing: rows of the entity tables brought in line with their registers. The only place that writes a user's table.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::ffi;
use rusqlite::{CachedStatement, Connection, ErrorCode, params_from_iter};

use super::claims::Claims;
use super::fold::{Key, Plan, Touched};
use super::notes::without_triggers;
use super::reason::{Reason, missing_parent, reason_of};
use super::tables::{MergeTable, Tables};
use super::values::winners;
use crate::changelog::{
    Log, any_held, any_untranslated, any_waits, clear_waits, forget_aside, has_untranslated, hold,
    list_untranslated_of, release, settle, wait_for, waiting_for,
};
use crate::db::bind_value;
use crate::error::{Error, Result};
use crate::model::{Registers, Value};

/// Rows whose user trigger rolled the whole transaction back: found by one attempt, held by the next.
pub(super) type Refused = BTreeMap<Key, String>;

/// How often a row is looked at again in one batch. Rows may let each other in and keep each other out without end, as of none of
/// them any state is right by the rules: such rows stay where they then are.
const MOST_LOOKS: u32 = 64;

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

/// What came of putting a row in.
enum Put {
    Shown,
    /// Another row has a value of it that must be unique.
    Contested,
    Held(Reason),
}

/// Shows what a plan asks for.
pub(super) struct Applier<'a, 'c> {
    pub(super) log: &'a mut Log<'c>,
    pub(super) tables: &'a Tables,
    pub(super) refused: &'a Refused,
    pub(super) claims: Claims,
    /// Rows that were put in or changed, where foreign keys ask for them.
    pub(super) put: BTreeSet<Key>,
    /// Rows that were taken out, likewise.
    pub(super) taken: BTreeSet<Key>,
    /// Columns that rows of a table may have other values in than before, likewise; `None` stands for all of a table.
    pub(super) rewritten: BTreeSet<(u32, Option<u32>)>,
    watches_rows: bool,
    /// Whether any row is held, or waits, and so may be one that is shown now.
    any_held: bool,
    pub(super) any_waits: bool,
    /// Whether anything that was written here is left out of the log.
    any_left_out: bool,
    /// Rows that were given an integer before they are shown, as others refer to them, and those others.
    pub(super) expected: BTreeMap<Key, BTreeSet<Key>>,
    /// Rows that were expected and are not shown after all.
    pub(super) unavailable: BTreeSet<Key>,
    /// Rows that were deleted. They have their integers until the batch ends, so that who refers to them is found, and count as gone.
    pub(super) deleted: BTreeSet<Key>,
    /// The columns of the row which is being put in that are NULL as the row that each refers to is not here, and that row.
    pub(super) lacks: Vec<(usize, Key)>,
    /// Rows with a local integer that were taken out: it is theirs until the batch ends, as they may come back.
    pub(super) vacated: BTreeSet<Key>,
    /// How often rows were looked at again.
    looks: BTreeMap<Key, u32>,
    /// Rows that are gone, and those held beside them that were looked at for that.
    pub(super) given_chances: BTreeSet<(Key, Key)>,
    /// Rows that are held by what the tables show, which may be a trigger's doing that is taken back before the batch ends.
    pub(super) doubtful: BTreeSet<Key>,
    /// The last insert and the last update: most rows of a batch need the same statement.
    insert: Option<(u32, CachedStatement<'c>)>,
    update: Option<(u32, Vec<usize>, CachedStatement<'c>)>,
}

impl<'a, 'c> Applier<'a, 'c> {
    pub(super) fn new(log: &'a mut Log<'c>, tables: &'a Tables, refused: &'a Refused) -> Result<Self> {
        Ok(Self {
            any_held: any_held(log.conn)?,
            any_waits: any_waits(log.conn)?,
            any_left_out: any_untranslated(log.conn)?,
            claims: Claims::load(log.conn)?,
            watches_rows: tables.iter().any(|table| !table.shape.foreign_keys.is_empty()),
            log,
            tables,
            refused,
            put: BTreeSet::new(),
            taken: BTreeSet::new(),
            rewritten: BTreeSet::new(),
            expected: BTreeMap::new(),
            unavailable: BTreeSet::new(),
            deleted: BTreeSet::new(),
            lacks: Vec::new(),
            vacated: BTreeSet::new(),
            looks: BTreeMap::new(),
            given_chances: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            insert: None,
            update: None,
        })
    }

    /// Takes rows out first, then puts rows in, so that values which must be unique can move between rows; rows that meet
    /// others over such a value are settled together; then come the rows that waited for any of these.
    pub(super) fn apply(&mut self, plan: Plan) -> Result<(), Stop> {
        let mut changed: Vec<Key> = Vec::new();
        // Rows that are looked at again, and whether they were shown before. To who waits for one that is held as before, nothing
        // happened, even if it was shown until it was settled.
        let mut again: Vec<(Key, bool)> = Vec::new();
        for (key, touched) in &plan {
            match touched.is_retry {
                true => again.push((key.clone(), self.is_shown(key)?)),
                false => changed.push(key.clone()),
            }
        }
        let mut contested = self.pass(plan)?;
        loop {
            if !contested.is_empty() {
                let hidden = again.iter().filter(|(_, was_shown)| !was_shown).map(|(key, _)| key.clone()).collect();
                changed.extend(super::claims::settle(self, std::mem::take(&mut contested), &hidden)?);
            }
            for (key, was_shown) in std::mem::take(&mut again) {
                // One that went out, as a trigger refuses it with the reference that it lacked, keeps its values from others no more.
                if was_shown || self.is_shown(&key)? {
                    changed.push(key);
                }
            }
            let waiting = self.waiting(&std::mem::take(&mut changed))?;
            if waiting.is_empty() {
                return Ok(());
            }
            for key in waiting.keys() {
                again.push((key.clone(), self.is_shown(key)?));
            }
            contested = self.pass(waiting)?;
        }
    }

    /// The rows that wait for some others and are not shown whole.
    fn waiting(&mut self, changed: &[Key]) -> Result<Plan, Stop> {
        if !self.any_waits {
            return Ok(Plan::new());
        }
        let mut found = super::parents::waiting_by_values(self, changed)?;
        for key in changed {
            found.extend(waiting_for(self.log.conn, key.0, &key.1)?);
        }
        Ok(self.looked_at_again(found))
    }

    /// Rows that are looked at because others changed, but for those that were often enough.
    fn looked_at_again(&mut self, mut rows: Vec<Key>) -> Plan {
        rows.retain(|key| self.tables.get(key.0).is_some());
        rows.sort_unstable();
        rows.dedup();
        rows.retain(|key| {
            let looks = self.looks.entry(key.clone()).or_default();
            *looks += 1;
            *looks <= MOST_LOOKS
        });
        rows.into_iter().map(|key| (key, Touched::whole())).collect()
    }

    /// Brings rows in line; returns those that are contested, which are out of their tables.
    fn pass(&mut self, plan: Plan) -> Result<Vec<Key>, Stop> {
        let mut rows = Vec::with_capacity(plan.len());
        for (key, mut touched) in plan {
            if self.any_waits {
                // What it waits for is found again where it still waits, even if this batch does not touch that column.
                touched.whole |= clear_waits(self.log.conn, key.0, &key.1)?;
            }
            self.claims.forget(self.log.conn, &key)?;
            let has_left_out = self.has_left_out(&key)?;
            let entity = self.log.entity(key.0, &key.1)?;
            if entity.registers.alive() {
                let is_partly_known = touched.whole && has_left_out;
                let touched = if is_partly_known { self.known(&key, touched)? } else { touched };
                // Rows that refer to each other, or to themselves, have another chance together.
                self.unavailable.remove(&key);
                rows.push((key, touched));
            } else if entity.shown || (touched.whole && !has_left_out) {
                self.take_out(&key)?;
                self.deleted.insert(key);
            } else {
                self.release(&key)?;
                if !self.table(key.0)?.tracked.excluded.is_empty() {
                    forget_aside(self.log.conn, key.0, &key.1)?;
                }
                if self.watches_rows {
                    self.put.remove(&key);
                    self.taken.insert(key);
                }
            }
        }
        // What a trigger writes to another tracked table yields to the rows that come from its origin, so these come last;
        // parents come before their children.
        rows.sort_by_key(|(key, _)| self.tables.get(key.0).map(|table| (!table.has_triggers, table.rank)));
        let mut contested = Vec::new();
        for (key, touched) in rows {
            match self.put_in(&key, touched)? {
                Put::Shown => {}
                Put::Contested => {
                    self.take_out(&key)?;
                    contested.push(key);
                }
                Put::Held(reason) => {
                    let competes = reason.code == "foreign key";
                    self.hold_back(&key, reason)?;
                    // Who is kept out by a rule of its own, or by a trigger, keeps no value from others.
                    if competes && self.claims.has_any(key.0) && super::claims::meets_others(self, &key)? {
                        contested.push(key);
                    }
                }
            }
        }
        Ok(contested)
    }

    /// Holds a row that could not be put in. One that only lacks a parent keeps the values that it claims from others.
    fn hold_back(&mut self, key: &Key, reason: Reason) -> Result<(), Stop> {
        let lacks_parent = reason.code == "foreign key";
        let alone = if lacks_parent { super::claims::breaks_alone(self, key)? } else { None };
        self.hold(key, alone.as_ref().unwrap_or(&reason))?;
        if lacks_parent && alone.is_none() {
            super::claims::remember(self, key)?;
        }
        Ok(())
    }

    /// Puts a row in that the rule for unique values lets in, if nothing else keeps it out.
    pub(super) fn put_settled(&mut self, key: &Key) -> Result<(), Stop> {
        match self.put_row_in(key, Touched::whole())? {
            Put::Shown => {}
            Put::Held(reason) => self.hold_back(key, reason)?,
            Put::Contested => {
                // By a constraint of this replica alone, such as one on a column that is excluded here, or by what a trigger of
                // the user's wrote. The next merge tries again, as nothing says what to wait for.
                self.doubtful.insert(key.clone());
                clear_waits(self.log.conn, key.0, &key.1)?;
                self.hold(key, &Reason::new("unique", "a value that must be unique is another row's on this replica"))?;
            }
        }
        Ok(())
    }

    /// Whether the table knows more of a row than the log: a reference that could not be translated yet.
    pub(super) fn has_left_out(&self, key: &Key) -> Result<bool> {
        Ok(self.any_left_out && has_untranslated(self.log.conn, key.0, &key.1)?)
    }

    /// All of a row but what its user wrote and the log does not know yet, which must not be overwritten. Where the row itself is
    /// gone, by a trigger, that is gone with it.
    fn known(&mut self, key: &Key, mut touched: Touched) -> Result<Touched, Stop> {
        let (table, conn) = (self.table(key.0)?, self.log.conn);
        let mut left = list_untranslated_of(conn, key.0, &key.1)?;
        if !self.locate(key)?.map_or(Ok(false), |locator| row_exists(conn, table, &locator))? {
            left.iter().try_for_each(|left| settle(conn, left))?;
            return Ok(touched);
        }
        left.retain(|left| left.column_no.is_some_and(|no| !touched.has(no)));
        let registers = self.log.entity(key.0, &key.1)?.registers.clone();
        let values = winners(conn, table, &registers, &mut touched)?;
        for (column, value) in table.columns.iter().zip(values) {
            if left.iter().all(|left| left.column_no != Some(column.no)) {
                touched.set(column.no, value);
            }
        }
        touched.whole = false;
        Ok(touched)
    }

    pub(super) fn is_shown(&mut self, key: &Key) -> Result<bool> {
        Ok(self.log.entity(key.0, &key.1)?.shown)
    }

    /// The columns' values that find a row in its table, if it has any there.
    pub(super) fn locate(&self, key: &Key) -> Result<Option<Vec<Value>>> {
        let table = self.table(key.0)?;
        match table.fits(&self.tables.references, &key.1) {
            true => table.tracked.source.locate(self.log.conn, &self.tables.references, &key.1),
            false => Ok(None),
        }
    }

    /// Removes a row that is no longer to be shown.
    pub(super) fn take_out(&mut self, key: &Key) -> Result<(), Stop> {
        let table = self.table(key.0)?;
        let alive = self.log.entity(key.0, &key.1)?.registers.alive();
        if !alive && !table.tracked.excluded.is_empty() {
            forget_aside(self.log.conn, key.0, &key.1)?;
        }
        if let Some(row) = self.locate(key)? {
            if alive {
                super::aside::keep(self.log.conn, table, key, &row)?;
            }
            self.remove(table, key, &row)?;
            if table.tracked.source.local.is_some() {
                self.vacated.insert(key.clone());
            }
        }
        self.log.entity(key.0, &key.1)?.set_shown(false);
        if self.watches_rows {
            self.put.remove(key);
            self.taken.insert(key.clone());
            // It may come back with other values.
            self.rewritten.insert((key.0, None));
        }
        Ok(self.release(key)?)
    }

    /// Deletes a row. Tables follow their registers: a trigger may look on, but cannot keep a row that is gone.
    pub(super) fn remove(&self, table: &MergeTable, key: &Key, row: &[Value]) -> Result<(), Stop> {
        let conn = self.log.conn;
        let refused = self.refused.contains_key(key) || !delete(conn, table, key, row)?;
        if refused && row_exists(conn, table, row)? {
            without_triggers(conn, || delete(conn, table, key, row))?;
        }
        Ok(())
    }

    fn release(&self, key: &Key) -> Result<()> {
        if self.any_held { release(self.log.conn, key.0, &key.1) } else { Ok(()) }
    }

    /// Takes a row out and records why.
    pub(super) fn hold(&mut self, key: &Key, reason: &Reason) -> Result<(), Stop> {
        self.take_out(key)?;
        self.any_held = true;
        for (table_no, entity_id) in &reason.waits_for {
            self.any_waits = true;
            wait_for(self.log.conn, (*table_no, entity_id.as_deref()), (key.0, &key.1))?;
        }
        Ok(hold(self.log.conn, key.0, &key.1, reason.code, &reason.detail)?)
    }

    /// Puts a living row in, or changes what of it has a new winner.
    fn put_in(&mut self, key: &Key, touched: Touched) -> Result<Put, Stop> {
        let put = self.put_row_in(key, touched)?;
        // A row that is not shown may have the older claim to a value of this one.
        match matches!(put, Put::Shown) && self.claims.has_any(key.0) && super::claims::is_contested(self, key)? {
            true => Ok(Put::Contested),
            false => Ok(put),
        }
    }

    fn put_row_in(&mut self, key: &Key, mut touched: Touched) -> Result<Put, Stop> {
        self.lacks.clear();
        if let Some(why) = self.refused.get(key) {
            return Ok(Put::Held(Reason::new("trigger", why)));
        }
        let table = self.table(key.0)?;
        if !table.fits(&self.tables.references, &key.1) {
            let why = format!("the key does not fit the key columns of {}", table.shape.name);
            return Ok(Put::Held(Reason::new("key", why)));
        }
        let entity = self.log.entity(key.0, &key.1)?;
        let is_there = entity.shown && !touched.whole;
        let locator = if is_there { self.locate(key)? } else { None };
        let written = if let Some(locator) = locator {
            let mut changed = Vec::new();
            for (at, column) in table.columns.iter().enumerate() {
                if let Some(value) = touched.take(column.no) {
                    match self.localized(table, key, at, value)? {
                        Ok(value) => changed.push((at, value)),
                        Err(reason) => return Ok(Put::Held(reason)),
                    }
                }
            }
            if let Some(reason) = self.counts_null(table, key)? {
                return Ok(Put::Held(reason));
            }
            if self.watches_rows {
                self.rewritten.extend(changed.iter().map(|(at, _)| (key.0, Some(table.columns[*at].no))));
                self.rewritten.extend(touched.is_own.then_some((key.0, None)));
            }
            let changed: Vec<(usize, &Value)> = changed.iter().map(|(at, value)| (*at, value)).collect();
            if changed.is_empty() { Ok(1) } else { self.update(table, &locator, &changed) }
        } else {
            let registers = self.log.entity(key.0, &key.1)?.registers.clone();
            let mut values = winners(self.log.conn, table, &registers, &mut touched)?;
            for (at, value) in values.iter_mut().enumerate() {
                if table.columns[at].target.is_some() {
                    match self.localized(table, key, at, std::mem::replace(value, Value::Null))? {
                        Ok(local) => *value = local,
                        Err(reason) => return Ok(Put::Held(reason)),
                    }
                }
            }
            if let Some(reason) = self.counts_null(table, key)? {
                return Ok(Put::Held(reason));
            }
            let lead = match self.lead(table, key, &registers, &mut touched)? {
                Ok(lead) => lead,
                Err(reason) => return Ok(Put::Held(reason)),
            };
            match super::aside::bring_back(self.log.conn, table, key, &lead, &values)? {
                Some(written) => written,
                None => self.put_row(table, &lead, &values),
            }
        };
        if let Err(error) = &written
            && self.is_refused_here_alone(table, key, error)?
        {
            // Without what stays on this replica, which is kept for when the row is put in again.
            self.take_out(key)?;
            return self.put_row_in(key, Touched::whole());
        }
        match written {
            Ok(0) => return Ok(Put::Held(Reason::new("trigger", "a trigger ignores the row"))),
            Ok(_) => {}
            Err(error) => {
                let reason = refusal(self.log.conn, key, error)?;
                return Ok(match (reason.code, self.lacks.pop()) {
                    ("unique", _) => Put::Contested,
                    // It has a value in the log, and NULL in its place only here.
                    ("check" | "not null", Some((at, parent))) => {
                        Put::Held(self.lacks_among_others(table, key, at, parent)?)
                    }
                    // What breaks a rule is then what a trigger wrote, here or to another table.
                    ("check" | "not null" | "type", None)
                        if table.has_triggers && super::claims::breaks_alone(self, key)?.is_none() =>
                    {
                        Put::Held(Reason::new("trigger", format!("a trigger cannot write: {}", reason.detail)))
                    }
                    _ => Put::Held(reason),
                });
            }
        }
        if !table.tracked.excluded.is_empty()
            && let Some(locator) = self.locate(key)?
            && let Err(error) = super::aside::give_back(self.log.conn, table, key, &locator)?
        {
            return Ok(Put::Held(refusal(self.log.conn, key, error)?));
        }
        let entity = self.log.entity(key.0, &key.1)?;
        if !entity.shown {
            entity.set_shown(true);
            self.release(key)?;
            self.unavailable.remove(key);
        }
        if self.watches_rows {
            self.taken.remove(key);
            self.put.insert(key.clone());
        }
        if !self.lacks.is_empty() {
            // What its values break together is no less broken where one of them cannot be shown.
            if let Some(reason) = super::claims::breaks_alone(self, key)? {
                return Ok(Put::Held(reason));
            }
            super::claims::remember(self, key)?;
        }
        Ok(Put::Shown)
    }

    /// Whether a CHECK refuses a row that is there for what it holds in columns that stay on this replica.
    fn is_refused_here_alone(&mut self, table: &MergeTable, key: &Key, error: &rusqlite::Error) -> Result<bool, Stop> {
        let is_check = reason_of(error).is_some_and(|reason| reason.code == "check");
        if !is_check || table.tracked.excluded.is_empty() || !self.lacks.is_empty() || self.log.conn.is_autocommit() {
            return Ok(false);
        }
        let Some(locator) = self.locate(key)? else { return Ok(false) };
        Ok(row_exists(self.log.conn, table, &locator)? && super::claims::breaks_alone(self, key)?.is_none())
    }

    /// The reason to hold a row of which NULL, in the place of a reference to a row that is not here, would claim what the row
    /// itself does not: who else has that, and came first, is another one on each replica.
    fn counts_null(&mut self, table: &MergeTable, key: &Key) -> Result<Option<Reason>, Stop> {
        let found = self.lacks.iter().find(|(at, _)| table.columns[*at].counts_null);
        let Some((at, parent)) = found.cloned() else { return Ok(None) };
        let lacks: Vec<usize> = self.lacks.iter().map(|(at, _)| *at).collect();
        match super::claims::counts_null(self, key, &lacks)? {
            true => Ok(Some(self.lacks_among_others(table, key, at, parent)?)),
            false => Ok(None),
        }
    }

    /// The reason to hold a row that cannot be shown without a reference, given its others as they are: it is looked at again when
    /// those come or go, too.
    fn lacks_among_others(&mut self, table: &MergeTable, key: &Key, at: usize, parent: Key) -> Result<Reason, Stop> {
        let reason = missing_parent(self.tables, parent, &table.columns[at].name);
        let others = super::claims::referred_rows(self, key)?.into_iter().filter(|other| other != key);
        Ok(others.fold(reason, |reason, (table_no, id)| reason.until(table_no, Some(id))))
    }

    /// The values of the columns by which a row is known here: an integer of its own, where it has one, and its key.
    fn lead(
        &mut self,
        table: &MergeTable,
        key: &Key,
        registers: &Registers,
        touched: &mut Touched,
    ) -> Result<Result<Vec<Value>, Reason>, Stop> {
        let source = &table.tracked.source;
        let mut lead = Vec::with_capacity(source.lead_len());
        if source.local.is_some() {
            lead.push(Value::Integer(self.local_for(table, key, registers, touched)?));
        }
        if source.is_generated() {
            return Ok(Ok(lead));
        }
        let parts = source.logged_key(&self.tables.references, &key.1).unwrap_or_default();
        for (name, part) in source.key.iter().zip(parts) {
            let value = part.into_value();
            match self.tables.references.target(source.table_no, name) {
                None => lead.push(value),
                Some(parent_no) => match self.local_reference(key, parent_no, &value)? {
                    Ok(local) => lead.push(local),
                    Err(parent) => return Ok(Err(missing_parent(self.tables, parent, name))),
                },
            }
        }
        Ok(Ok(lead))
    }

    /// Inserts a row; one that is there already (written while capture was off) gets the values instead.
    fn put_row(&mut self, table: &MergeTable, lead: &[Value], values: &[Value]) -> rusqlite::Result<usize> {
        if self.insert.as_ref().is_none_or(|(no, _)| *no != table.no()) {
            self.insert = Some((table.no(), self.log.conn.prepare_cached(&table.insert_sql)?));
        }
        let (_, insert) = self.insert.as_mut().expect("it was prepared just above");
        match insert.execute(params_from_iter(lead.iter().chain(values).map(bind_value))) {
            Err(error) if is_unique_clash(&error) => {
                self.rewritten.insert((table.no(), None));
                let source = &table.tracked.source;
                let locator = &lead[..source.locator().len()];
                let columns: Vec<(usize, &Value)> = values.iter().enumerate().collect();
                match columns.is_empty() {
                    true if row_exists(self.log.conn, table, locator)? => Ok(1),
                    true => Err(error),
                    false => {
                        self.update(table, locator, &columns).and_then(|n| if n == 0 { Err(error) } else { Ok(n) })
                    }
                }
            }
            other => other,
        }
    }

    fn update(
        &mut self,
        table: &MergeTable,
        locator: &[Value],
        columns: &[(usize, &Value)],
    ) -> rusqlite::Result<usize> {
        let wanted = columns.iter().map(|(at, _)| *at);
        if !matches!(&self.update, Some((no, at, _)) if *no == table.no() && at.iter().copied().eq(wanted.clone())) {
            let statement = self.log.conn.prepare_cached(&table.update_sql(columns))?;
            self.update = Some((table.no(), wanted.collect(), statement));
        }
        let (_, _, update) = self.update.as_mut().expect("it was prepared just above");
        update.execute(params_from_iter(columns.iter().map(|(_, value)| *value).chain(locator).map(bind_value)))
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

fn row_exists(conn: &Connection, table: &MergeTable, key: &[Value]) -> rusqlite::Result<bool> {
    conn.prepare_cached(&table.select_sql)?.exists(params_from_iter(key.iter().map(bind_value)))
}

fn is_unique_clash(error: &rusqlite::Error) -> bool {
    let unique = [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID, ffi::SQLITE_CONSTRAINT_UNIQUE];
    matches!(error, rusqlite::Error::SqliteFailure(e, _) if unique.contains(&e.extended_code))
}

/// Turns an error of a row's own into the reason to hold it; everything else stops the merge.
fn refusal(conn: &Connection, key: &Key, error: rusqlite::Error) -> Result<Reason, Stop> {
    // SQLite itself rolls back when a disk is full or fails: no row is to blame for that.
    if let rusqlite::Error::SqliteFailure(code, message) = &error
        && code.code == ErrorCode::ConstraintViolation
        && conn.is_autocommit()
    {
        let message = message.as_deref().unwrap_or_default();
        return Err(Stop::RolledBack(key.clone(), format!("a trigger refuses the row: {message}")));
    }
    reason_of(&error).ok_or_else(|| error.into())
}
