//! Comparing a table with its base (the registers of the rows it showed): backfills, and writes made while capture was off.

use std::collections::HashSet;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use super::record::{Recorded, Recorder, read_lead};
use super::retranslate::{Rekeyed, follow_rekeyed};
use crate::changelog::{
    Keyed, Log, LoggedField, Source, Tracked, Untranslated, entity_of, freed_entity, give_up_local, integer_in,
    is_touched, leave_out, local_of, move_local, read_fields, referred, set_free, to_local, to_logged, touch,
    unbind_local, waits_for, yield_to_waiting,
};
use crate::db::{
    Affinity, Ident, Metadata, Table, bind_value, condition, constant_default, get_metadata, list, read_affinity,
    read_value, same_name, set_metadata,
};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock, ROWID_FIELD, Registers, Value};
use crate::world::World;

/// What a comparison takes for granted.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// What was recorded of the table so far; nothing where it was never tracked: then its rows are older than any tracked write.
    pub(crate) before: Option<&'a Source>,
    /// Rows that are missing were deleted; otherwise they are shown again.
    pub(crate) accept_deletes: bool,
    /// The table's triggers were there all the while, so that every write to the columns that they record is in the log.
    pub(crate) was_captured: bool,
    /// Where registers were damaged: what else a row may have been shown from.
    pub(crate) evidence: Option<Evidence<'a>>,
}

/// What an entity's row may have been shown from, besides its registers.
pub(crate) type Evidence<'a> = &'a dyn Fn(u32, &str) -> Result<Accounts>;

/// States of an entity's registers that account for what its table shows.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) others: Vec<Registers>,
    /// Columns may have their defaults still, as the row waits to be shown anew.
    pub(crate) may_be_default: bool,
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
    /// Rows that are there and were not marked as shown, where that is weighed.
    pub(crate) unmarked: u64,
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
    comparison.bind_found()?;
    comparison.rows()?;
    comparison.missing()?;
    let Comparison { mut recorder, found, backfilled, rekeyed, .. } = comparison;
    follow_rekeyed(&mut recorder, rekeyed)?;
    let log = recorder.log;
    set_metadata(log.conn, Metadata::Backfilled, backfilled)?;
    log.flush()?;
    yield_to_waiting(log, world, tracked.table_no())?;
    Ok(found)
}

struct Comparison<'a, 'c> {
    recorder: Recorder<'a, 'c>,
    table: &'a Table,
    source: &'a Source,
    recorded: Recorded,
    terms: Terms<'a>,
    /// The columns' constant defaults, and whether they were recorded before, in the source's order.
    defaults: Vec<Value>,
    was_recorded: Vec<bool>,
    backfilled: u64,
    /// Rows that have the integer of another one now.
    rekeyed: Vec<Rekeyed>,
    /// Entities whose rows are there, under a reference in their key that no longer leads to their parent, or is spelled otherwise.
    adrift: HashSet<String>,
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
        let mut defaults = Vec::with_capacity(source.columns.len());
        for name in &source.columns {
            let column =
                table.column(name).ok_or_else(|| Error::schema(format!("{}: no column {name}", table.name)))?;
            defaults.push(constant_default(conn, column)?);
        }
        let backfilled = get_metadata(conn, Metadata::Backfilled)?.unwrap_or(0);
        let knew = |name: &String| {
            let logged = source.logged_name(name);
            terms.before.is_some_and(|b| b.columns.iter().any(|c| same_name(b.logged_name(c), logged)))
        };
        let was_recorded = source.columns.iter().map(knew).collect();
        let mut recorder = Recorder::new(log, world)?;
        let recorded = recorder.prepare(source.clone())?;
        let found = Found::default();
        Ok(Self {
            recorder,
            table,
            source,
            recorded,
            terms,
            defaults,
            was_recorded,
            backfilled,
            rekeyed: Vec::new(),
            adrift: HashSet::new(),
            found,
        })
    }

    /// The rows that a table has at its first `track` are known by the digits of their integers: copies of one file match.
    fn bind_found(&self) -> Result<()> {
        if !self.source.is_generated() || self.terms.before.is_some() {
            return Ok(());
        }
        let id = list(self.source.locator().iter().map(|name| Ident(name)));
        let sql = format!(
            "INSERT OR IGNORE INTO ZV_LOCAL (table_no, local, entity_id) SELECT ?1, {id}, CAST({id} AS TEXT) FROM {}",
            Ident(&self.table.name)
        );
        self.recorder.conn().execute(&sql, [self.source.table_no])?;
        Ok(())
    }

    fn rows(&mut self) -> Result<()> {
        let names = self.source.lead().chain(self.source.columns.iter().map(String::as_str)).map(Ident);
        let sql = format!("SELECT {} FROM {}", list(names), Ident(&self.table.name));
        let conn = self.recorder.conn();
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.row(row)?;
            if self.recorder.log.cached() >= BATCH {
                self.recorder.log.flush()?;
            }
        }
        Ok(())
    }

    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let lead = read_lead(self.source, row, 0)?;
        let entity_id = match self.source.entity_id(self.recorder.conn(), &self.recorder.references, &lead)? {
            Keyed::Entity(entity_id) => entity_id,
            Keyed::Untranslated if self.source.is_generated() => self.recorder.world.uuid().to_string(),
            Keyed::Untranslated => {
                self.adrift.extend(self.recorder.departing(self.source, &lead)?);
                return self.recorder.leave_row_out(self.source, &lead);
            }
            // A table that is tracked goes on without such a row: it came while its triggers were gone.
            Keyed::Unusable if self.terms.before.is_some() => {
                self.found.unusable += 1;
                return Ok(());
            }
            Keyed::Unusable => {
                let why = "holds a row whose key is NULL, of another type than its column's, or not valid text";
                return Err(Error::schema(format!("{} {why}; mend that row first", self.table.name)));
            }
        };
        self.bind(&lead, &entity_id)?;
        if self.is_adrift(&lead, &entity_id)? {
            self.adrift.insert(entity_id.clone());
        }
        if let Some(evidence) = self.terms.evidence {
            let accounts = evidence(self.source.table_no, &entity_id)?;
            return self.weighed_row(row, &lead, &entity_id, &accounts);
        }
        let entity = self.recorder.log.entity(self.source.table_no, &entity_id)?;
        let (known, shown) = (!entity.registers.is_empty(), entity.shown);
        if self.terms.before.is_none() || !known {
            self.found.backfilled += 1;
            let id = self.backfill_id();
            return self.record(id, &entity_id, &lead, row, true, |_| true);
        }
        if !shown {
            self.found.changed += 1;
            let id = self.new_id();
            return self.record(id, &entity_id, &lead, row, true, |_| true);
        }
        let registers = entity.registers.clone();
        self.edited_row(row, &lead, &entity_id, &registers)
    }

    /// Whether a row is not where its entity is looked for: its parent has another integer by now, and a merge is to take it along.
    fn is_adrift(&self, lead: &[Value], entity_id: &str) -> Result<bool> {
        let (conn, references) = (self.recorder.conn(), &self.recorder.references);
        let has_reference =
            || self.source.key.iter().any(|name| references.target(self.source.table_no, name).is_some());
        Ok(self.terms.before.is_some()
            && self.source.local.is_none()
            && has_reference()
            && self.source.locate(conn, references, entity_id)?.is_none_or(|locator| locator != lead))
    }

    fn bind(&mut self, lead: &[Value], entity_id: &str) -> Result<()> {
        let (Some(_), Some(Value::Integer(local))) = (&self.source.local, lead.first()) else { return Ok(()) };
        let (conn, table_no, local) = (self.recorder.conn(), self.source.table_no, *local);
        let before = match entity_of(conn, table_no, local)? {
            Some(before) if before == entity_id => return Ok(()),
            None if !self.recorder.references.to(table_no).is_empty() => freed_entity(conn, table_no, local)?,
            before => before,
        };
        // Where our own tables are damaged, they say nothing of what the user did.
        if let Some(before) = before.filter(|_| self.terms.before.is_some() && self.terms.evidence.is_none()) {
            self.rekeyed.push(Rekeyed { table_no, local, before });
        }
        move_local(conn, &self.recorder.references, table_no, local, entity_id)
    }

    /// A row that was shown: what differs from its registers was written since.
    fn edited_row(&mut self, row: &Row<'_>, lead: &[Value], entity_id: &str, registers: &Registers) -> Result<()> {
        let mut base = Base::default();
        let (mut edited, mut new) = (Vec::new(), Vec::new());
        for n in 0..self.source.columns.len() {
            let now = row.get_ref(self.source.lead_len() + n)?;
            if self.is_as_logged(n, registers, now)? {
                touch(self.recorder.conn(), self.source.table_no, entity_id)?;
                continue;
            }
            if self.is_freed(n, registers, now)? || self.is_untranslated(entity_id, n, now)? {
                continue;
            }
            match registers.get(self.recorded.number(n)) {
                Some(register) => {
                    let name = self.source.logged_name(&self.source.columns[n]);
                    let then = base.value(self.recorder.conn(), register.id, name)?;
                    if self.is_awaited(entity_id, n, now, &then)? {
                        touch(self.recorder.conn(), self.source.table_no, entity_id)?;
                        continue;
                    }
                    if !self.is_cleared(n, now, &then)? && self.same(lead, n, now, &then)? {
                        continue;
                    }
                    // What came from elsewhere waits to be shown: the table holds what it held before that.
                    if self.was_recorded[n]
                        && is_touched(self.recorder.conn(), self.source.table_no, entity_id)?
                        && (self.terms.was_captured || self.same(lead, n, now, &self.defaults[n])?)
                    {
                        continue;
                    }
                    if self.was_recorded[n] {
                        edited.push(n);
                        continue;
                    }
                    // The register came before the column was here, and so was never shown. What others know is not backfilled.
                    touch(self.recorder.conn(), self.source.table_no, entity_id)?;
                    if register.own && !self.same(lead, n, now, &self.defaults[n])? {
                        new.push(n);
                    }
                }
                None if self.same(lead, n, now, &self.defaults[n])? => {}
                None => new.push(n),
            }
        }
        if !new.is_empty() {
            let id = self.backfill_id();
            self.record(id, entity_id, lead, row, false, |n| new.contains(&n))?;
        }
        if !edited.is_empty() {
            let id = self.new_id();
            self.record(id, entity_id, lead, row, false, |n| edited.contains(&n))?;
        }
        self.found.changed += u64::from(!edited.is_empty());
        self.found.backfilled += u64::from(!new.is_empty());
        Ok(())
    }

    /// A row whose registers were damaged: what none of the states that it may have been shown from accounts for was written
    /// past the triggers.
    fn weighed_row(&mut self, row: &Row<'_>, lead: &[Value], entity_id: &str, accounts: &Accounts) -> Result<()> {
        let entity = self.recorder.log.entity(self.source.table_no, entity_id)?;
        let (now, was_shown) = (entity.registers.clone(), entity.shown);
        if now.is_empty() && accounts.others.iter().all(Registers::is_empty) {
            self.found.backfilled += 1;
            let id = self.backfill_id();
            return self.record(id, entity_id, lead, row, true, |_| true);
        }
        let states: Vec<&Registers> =
            std::iter::once(&now).chain(&accounts.others).filter(|state| state.alive()).collect();
        if states.is_empty() {
            self.found.changed += 1;
            let id = self.new_id();
            return self.record(id, entity_id, lead, row, true, |_| true);
        }
        let (mut edited, mut is_as_registered) = (Vec::new(), now.alive());
        for n in 0..self.source.columns.len() {
            let there = row.get_ref(self.source.lead_len() + n)?;
            if self.notice_reference(entity_id, n, &now, there)? {
                continue;
            }
            let is_same = |state: &Registers| self.is_state(lead, n, state, there);
            let mut accounted = is_same(&now)?;
            is_as_registered &= accounted;
            for state in &states {
                accounted = accounted || is_same(state)?;
            }
            accounted = accounted || accounts.may_be_default && self.same(lead, n, there, &self.defaults[n])?;
            if !accounted {
                edited.push(n);
            }
        }
        if !edited.is_empty() {
            self.found.changed += 1;
            let id = self.new_id();
            self.record(id, entity_id, lead, row, false, |n| edited.contains(&n))?;
        }
        if !is_as_registered || !was_shown {
            touch(self.recorder.conn(), self.source.table_no, entity_id)?;
        }
        self.recorder.log.entity(self.source.table_no, entity_id)?.set_shown(true);
        self.found.unmarked += u64::from(!was_shown);
        Ok(())
    }

    /// Whether a column of a row is what a state of its registers says.
    fn is_state(&self, lead: &[Value], n: usize, state: &Registers, there: ValueRef<'_>) -> Result<bool> {
        match state.get(self.recorded.number(n)) {
            Some(register) => {
                let name = self.source.logged_name(&self.source.columns[n]);
                let then = Base::default().value(self.recorder.conn(), register.id, name)?;
                self.same(lead, n, there, &then)
            }
            None => self.same(lead, n, there, &self.defaults[n]),
        }
    }

    /// Looks at a reference; says whether nothing translates it: it is to a row that gave up its integer before a merge could come
    /// to it, or one that its user wrote and that is left out of the log. One that is NULL for want of its row waits for that.
    fn notice_reference(&mut self, entity_id: &str, n: usize, now: &Registers, there: ValueRef<'_>) -> Result<bool> {
        let Some(parent_no) = self.recorded.target(n) else { return Ok(false) };
        let (conn, value) = (self.recorder.conn(), read_value(there));
        let name = self.source.logged_name(&self.source.columns[n]);
        let logged = match now.get(self.recorded.number(n)) {
            Some(register) => Base::default().value(conn, register.id, name)?,
            None => Value::Null,
        };
        match (to_logged(conn, parent_no, &value)?, integer_in(&value), referred(&logged)) {
            (None, Some(local), Some(parent)) if self.had(parent_no, &parent, local)? => {
                set_free(conn, parent_no, local, &parent)?;
                Ok(true)
            }
            (None, _, _) => self.is_untranslated(entity_id, n, there),
            (Some(Value::Null), _, _) if logged != Value::Null => {
                touch(conn, self.source.table_no, entity_id)?;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Whether a row that has no integer now had this one, by what its changes say.
    fn had(&mut self, parent_no: u32, parent: &str, local: i64) -> Result<bool> {
        let (conn, rowid_column) = (self.recorder.conn(), self.recorder.rowid_column());
        if local_of(conn, parent_no, parent)?.is_some() {
            return Ok(false);
        }
        let said = self.recorder.log.entity(parent_no, parent)?.registers.get(rowid_column);
        Ok(match said {
            Some(register) => Base::default().value(conn, register.id, ROWID_FIELD)? == Value::Integer(local),
            None => parent == local.to_string(),
        })
    }

    /// Whether a column holds the id that its register says, as it was shown when it was no reference here yet.
    fn is_as_logged(&self, n: usize, registers: &Registers, now: ValueRef<'_>) -> Result<bool> {
        let (Some(parent_no), ValueRef::Text(_)) = (self.recorded.target(n), now) else { return Ok(false) };
        let (conn, value) = (self.recorder.conn(), read_value(now));
        let Some(register) = registers.get(self.recorded.number(n)) else { return Ok(false) };
        let name = self.source.logged_name(&self.source.columns[n]);
        Ok(to_logged(conn, parent_no, &value)?.is_none() && Base::default().value(conn, register.id, name)? == value)
    }

    /// Whether a reference is NULL for want of its row, which may have come while this table was away: the next merge looks at that.
    fn is_awaited(&self, entity_id: &str, n: usize, now: ValueRef<'_>, then: &Value) -> Result<bool> {
        let (Some(parent_no), ValueRef::Null) = (self.recorded.target(n), now) else { return Ok(false) };
        let Some(parent) = referred(then) else { return Ok(false) };
        waits_for(self.recorder.conn(), (parent_no, &parent), (self.source.table_no, entity_id))
    }

    /// Whether a reference to a row that is not here, and for which its row does not wait, was made NULL by the row's user.
    fn is_cleared(&self, n: usize, now: ValueRef<'_>, then: &Value) -> Result<bool> {
        let (Some(parent_no), ValueRef::Null) = (self.recorded.target(n), now) else { return Ok(false) };
        Ok(referred(then).is_some() && to_local(self.recorder.conn(), parent_no, then)?.is_none())
    }

    /// Whether a column refers, as its register does, to a row that gave up its integer: the next merge looks at that.
    fn is_freed(&self, n: usize, registers: &Registers, now: ValueRef<'_>) -> Result<bool> {
        let (Some(parent_no), Some(local)) = (self.recorded.target(n), integer_in(&read_value(now))) else {
            return Ok(false);
        };
        let conn = self.recorder.conn();
        if entity_of(conn, parent_no, local)?.is_some() {
            return Ok(false);
        }
        let Some(freed) = freed_entity(conn, parent_no, local)? else { return Ok(false) };
        let Some(register) = registers.get(self.recorded.number(n)) else { return Ok(false) };
        let name = self.source.logged_name(&self.source.columns[n]);
        Ok(referred(&Base::default().value(conn, register.id, name)?) == Some(freed))
    }

    /// Whether a column refers to a row that is not known yet: then the next seal comes back to it.
    fn is_untranslated(&self, entity_id: &str, n: usize, now: ValueRef<'_>) -> Result<bool> {
        let Some(parent_no) = self.recorded.target(n) else { return Ok(false) };
        let conn = self.recorder.conn();
        let lacks = to_logged(conn, parent_no, &read_value(now))?.is_none();
        if lacks {
            let column_no = Some(self.recorded.number(n));
            leave_out(conn, &Untranslated { table_no: self.source.table_no, row: entity_id.to_owned(), column_no })?;
        }
        Ok(lacks)
    }

    /// Rows that were shown and are not there.
    fn missing(&mut self) -> Result<()> {
        self.recorder.log.flush()?;
        let conn = self.recorder.conn();
        let found = condition(self.source.locator(), 1);
        let mut find = conn.prepare(&format!("SELECT 1 FROM {} WHERE {found}", Ident(&self.table.name)))?;
        let mut statement = conn.prepare("SELECT entity_id FROM ZV_REGISTER WHERE table_no = ?1 AND shown")?;
        let mut rows = statement.query([self.source.table_no])?;
        let mut missing = Vec::new();
        while let Some(row) = rows.next()? {
            let entity_id: String = row.get(0)?;
            if self.adrift.contains(&entity_id) {
                continue;
            }
            let is_there = match self.source.locate(conn, &self.recorder.references, &entity_id)? {
                Some(locator) => find.exists(params_from_iter(locator.iter().map(bind_value)))?,
                None => self.is_unknowable(&entity_id),
            };
            if !is_there {
                missing.push(entity_id);
            }
        }
        missing.into_iter().try_for_each(|entity_id| self.missing_row(&entity_id))
    }

    /// Whether no row of this table can have the entity id, so that none is missing.
    fn is_unknowable(&self, entity_id: &str) -> bool {
        self.source.local.is_none() && self.source.logged_key(&self.recorder.references, entity_id).is_none()
    }

    fn missing_row(&mut self, entity_id: &str) -> Result<()> {
        let (conn, table_no) = (self.recorder.conn(), self.source.table_no);
        if self.terms.accept_deletes {
            self.found.deleted += 1;
            let id = self.new_id();
            self.recorder.delete(id, self.source, entity_id)?;
        } else {
            self.found.missing += 1;
            touch(conn, table_no, entity_id)?;
            self.recorder.log.entity(table_no, entity_id)?.set_shown(false);
        }
        if let (Some(_), Some(local)) = (&self.source.local, local_of(conn, table_no, entity_id)?) {
            // A row that is shown again gets it back, if nobody else has it by then.
            unbind_local(conn, table_no, entity_id)?;
            give_up_local(conn, &self.recorder.references, table_no, local, entity_id)?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        id: ChangeId,
        entity_id: &str,
        lead: &[Value],
        row: &Row<'_>,
        is_insert: bool,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let first = self.source.lead_len();
        // The digits of a row that was here before say its integer.
        let rowid = match (&self.source.local, lead.first()) {
            (Some(_), Some(Value::Integer(local))) if is_insert && local.to_string() != entity_id => Some(*local),
            _ => None,
        };
        let value = |n| Ok(wanted(n).then_some(row.get_ref(first + n)?));
        self.recorder.write(id, &self.recorded, entity_id, rowid, is_insert, &value)?;
        self.recorder.log.entity(self.source.table_no, entity_id)?.set_shown(true);
        touch_if_beaten(self.recorder.log, self.source.table_no, entity_id, id)
    }

    fn new_id(&mut self) -> ChangeId {
        self.recorder.next_id(self.recorder.world.now_ms())
    }

    fn backfill_id(&mut self) -> ChangeId {
        self.backfilled += 1;
        Clock::backfill(self.backfilled - 1, self.recorder.world.random())
    }

    /// Whether the table's value is the log's, seen through the column's affinity. A reference to a row that is not here is
    /// NULL in the table.
    fn same(&self, lead: &[Value], column: usize, now: ValueRef<'_>, then: &Value) -> Result<bool> {
        let (conn, now) = (self.recorder.conn(), read_value(now));
        if let Some(parent_no) = self.recorded.target(column) {
            return Ok(match to_logged(conn, parent_no, &now)? {
                Some(Value::Null) => to_local(conn, parent_no, then)?.is_none_or(|local| local == Value::Null),
                Some(now) => same_reference(&now, then),
                None => false,
            });
        }
        if now == *then {
            return Ok(true);
        }
        let locator = match self.source.local {
            Some(_) => &lead[..1],
            None => lead,
        };
        same_through_affinity(conn, self.source, locator, &self.source.columns[column], then)
    }
}

/// A backfill may lose to what the log knows already: then the row is shown anew.
fn touch_if_beaten(log: &mut Log<'_>, table_no: u32, entity_id: &str, id: ChangeId) -> Result<()> {
    let newest = log.entity(table_no, entity_id)?.registers.newest();
    if newest > Some(id) && id.is_backfill() { touch(log.conn, table_no, entity_id) } else { Ok(()) }
}

/// Whether two logged values refer to the same row.
pub(crate) fn same_reference(a: &Value, b: &Value) -> bool {
    a == b || (referred(a).is_some() && referred(a) == referred(b))
}

/// Whether a column of the row that a locator finds holds a value, once the column's affinity is applied to it.
pub(crate) fn same_through_affinity(
    conn: &Connection,
    source: &Source,
    locator: &[Value],
    column: &str,
    value: &Value,
) -> Result<bool> {
    let (name, found) = (Ident(&source.table), condition(source.locator(), 2));
    // To SQLite 1 and 1.0 are equal; a column without a type holds either as it is, and they are two values.
    let column_name = Ident(column);
    let sql = format!(
        "SELECT {column_name} IS ?1 COLLATE BINARY, typeof({column_name}) <> typeof(?1) FROM {name} WHERE {found}"
    );
    let parameters = std::iter::once(value).chain(locator).map(bind_value);
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let (is_equal, is_other_class): (bool, bool) =
        conn.prepare_cached(&sql)?.query_row(params_from_iter(parameters), read)?;
    if is_equal && is_other_class {
        return Ok(read_affinity(conn, &source.table, column)? != Some(Affinity::Blob));
    }
    Ok(is_equal)
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
