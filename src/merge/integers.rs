//! The local integers of rows and of references to them: which a row gets, what a reference is to a row that is not here, and when
//! integers are given up. Writes no row; which are put in, and in what order, is said in `apply.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::apply::{Applier, Stop};
use super::fold::{Key, Plan, Touched};
use super::reason::{Reason, missing_parent};
use super::tables::MergeTable;
use super::values::{rowid_said, winners};
use crate::changelog::{
    bind_local, freed_entity, local_of, named, referred, set_free, to_local, unbind_local, wait_for,
    waiting_for_others_too,
};
use crate::db::{ForeignKey, same_name};
use crate::error::Result;
use crate::model::{Registers, Value, digits_of};

impl Applier<'_, '_> {
    /// A column's value as the table here holds it. A reference to a row that is not here is NULL where nothing forbids
    /// that, and looked at again when the row comes.
    pub(super) fn localized(
        &mut self,
        table: &MergeTable,
        key: &Key,
        at: usize,
        value: Value,
    ) -> Result<Result<Value, Reason>, Stop> {
        let column = &table.columns[at];
        let Some(parent_no) = column.target else { return Ok(Ok(value)) };
        let value = named(value);
        match self.local_reference(key, parent_no, &value)? {
            // What it would make of the integer is another row's.
            Ok(Value::Integer(local)) if !column.affinity.keeps(local) => {
                let parent = (parent_no, referred(&value).unwrap_or_default());
                Ok(Err(missing_parent(self.tables, parent, &column.name)))
            }
            Ok(local) => Ok(Ok(local)),
            Err(parent) if column.not_null || self.is_demanded(table, key, at, parent.0)? => {
                Ok(Err(missing_parent(self.tables, parent, &column.name)))
            }
            Err(parent) => {
                self.any_waits = true;
                wait_for(self.log.conn, (parent.0, Some(&parent.1)), (key.0, &key.1))?;
                self.lacks.push((at, parent));
                Ok(Ok(Value::Null))
            }
        }
    }

    /// Whether a foreign key demands the row that a column refers to. One of several columns demands nothing where any of them is
    /// NULL (<https://sqlite.org/foreignkeys.html>, section 3).
    fn is_demanded(&mut self, table: &MergeTable, key: &Key, at: usize, parent_no: u32) -> Result<bool> {
        if !table.tracked.enforce_fk || self.tables.get(parent_no).is_none() {
            return Ok(false);
        }
        let name = &table.columns[at].name;
        let is_watched = |foreign: &&ForeignKey| {
            let parent = self.tables.by_name(&foreign.parent);
            parent.is_some_and(|parent| table.tracked.shares(foreign, &parent.tracked))
                && foreign.columns.iter().any(|column| same_name(column, name))
        };
        let foreign_keys = table.shape.foreign_keys.iter().filter(is_watched);
        let foreign_keys: Vec<&ForeignKey> = foreign_keys.collect();
        if foreign_keys.iter().all(|foreign| foreign.columns.len() == 1) {
            return Ok(!foreign_keys.is_empty());
        }
        let registers = self.log.entity(key.0, &key.1)?.registers.clone();
        let values = winners(self.log.conn, table, &registers, &mut Touched::default())?;
        // A column of the key is never NULL; what a generated one would be is nowhere to be read.
        let is_null = |name: &String| {
            let at = table.columns.iter().position(|column| same_name(&column.name, name));
            at.is_some_and(|at| values[at] == Value::Null)
        };
        Ok(!foreign_keys.iter().all(|foreign| foreign.columns.iter().any(is_null)))
    }

    /// The local integer of the row that a logged value refers to; the row itself where it has none, and is not about to
    /// get one.
    pub(super) fn local_reference(
        &mut self,
        key: &Key,
        parent_no: u32,
        value: &Value,
    ) -> Result<Result<Value, Key>, Stop> {
        if let Some(local) = to_local(self.log.conn, parent_no, value)? {
            let Some(entity_id) = referred(value) else { return Ok(Ok(local)) };
            let parent = (parent_no, entity_id);
            match self.unavailable.contains(&parent) || self.deleted.contains(&parent) {
                true => return Ok(Err(parent)),
                // It may be gone by the end of the batch.
                false if !self.vacated.is_empty() || !self.expected.is_empty() => self.expect(parent, key)?,
                false => {}
            }
            return Ok(Ok(local));
        }
        let parent = (parent_no, referred(value).unwrap_or_default());
        let Some(table) = self.tables.get(parent_no) else { return Ok(Err(parent)) };
        let registers = self.log.entity(parent_no, &parent.1)?.registers.clone();
        let may_come = registers.alive()
            && !self.unavailable.contains(&parent)
            && !self.refused.contains_key(&parent)
            && table.tracked.source.local.is_some()
            && table.fits(&self.tables.references, &parent.1);
        if !may_come {
            return Ok(Err(parent));
        }
        let local = self.local_for(table, &parent, &registers, &mut Touched::default())?;
        self.expect(parent, key)?;
        Ok(Ok(Value::Integer(local)))
    }

    /// The integer of an entity of a table with local integers: the one that it has, the one that it has elsewhere if that is
    /// free, or the next.
    pub(super) fn local_for(
        &self,
        table: &MergeTable,
        key: &Key,
        registers: &Registers,
        touched: &mut Touched,
    ) -> Result<i64, Stop> {
        let conn = self.log.conn;
        if let Some(local) = local_of(conn, key.0, &key.1)? {
            return Ok(local);
        }
        let hint = match (digits_of(&key.1), touched.take(self.tables.rowid_column)) {
            _ if !table.tracked.source.is_generated() => None,
            (_, Some(Value::Integer(hint))) => Some(hint),
            (digits, _) => match registers.get(self.tables.rowid_column) {
                Some(register) => rowid_said(conn, register.id)?,
                None => digits,
            },
        };
        let local = match hint {
            Some(hint)
                if table.is_free(conn, hint)? && (digits_of(&key.1).is_some() || !table.was_given(conn, hint)?) =>
            {
                hint
            }
            _ => table.next_local(conn)?,
        };
        bind_local(conn, key.0, local, &key.1)?;
        Ok(local)
    }

    fn expect(&mut self, parent: Key, child: &Key) -> Result<()> {
        if !self.is_shown(&parent)? {
            self.expected.entry(parent).or_default().insert(child.clone());
        }
        Ok(())
    }

    /// Ends a batch: rows that refer to one that is not shown after all are put in without it, or held; integers of rows
    /// that are not shown are given up. Returns whether rows changed, which others may depend on.
    pub(super) fn give_up(&mut self) -> Result<bool, Stop> {
        let (mut again, mut gone, mut vacated) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (parent, children) in std::mem::take(&mut self.expected) {
            if !self.is_shown(&parent)? {
                again.extend(children);
                gone.push(parent);
            }
        }
        for key in std::mem::take(&mut self.vacated) {
            if self.is_shown(&key)? {
                continue;
            }
            vacated.extend(local_of(self.log.conn, key.0, &key.1)?.map(|local| (key.0, local)));
            gone.push(key);
        }
        again.extend(super::children::referring(self.log.conn, self.tables, &vacated)?);
        self.unavailable.extend(gone.iter().cloned());
        let mut plan = Plan::new();
        for key in again {
            if self.is_shown(&key)? {
                plan.insert(key, Touched::whole());
            }
        }
        for key in self.held_beside(&gone)? {
            plan.insert(key, Touched::retry());
        }
        let changed = !plan.is_empty();
        self.apply(plan)?;
        // Who came back and went again may have children now that are to be looked at first.
        gone.retain(|key| !self.vacated.contains(key) && !self.expected.contains_key(key));
        self.give_integers_up(gone)?;
        Ok(changed)
    }

    /// Rows that are held for want of one row, given the others that they refer to, of which some are gone now. For each of those a
    /// row has one chance in a batch.
    fn held_beside(&mut self, gone: &[Key]) -> Result<Vec<Key>, Stop> {
        if !self.any_waits {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for key in gone {
            for waiting in waiting_for_others_too(self.log.conn, key.0, &key.1)? {
                let is_known = self.tables.get(waiting.0).is_some();
                if is_known && !self.is_shown(&waiting)? && self.given_chances.insert((key.clone(), waiting.clone())) {
                    found.push(waiting);
                }
            }
        }
        Ok(found)
    }

    /// Takes the integers of rows that are not shown. They find the rows that refer to them, so this comes last; of those that can
    /// only be looked at later it is remembered what they refer to.
    fn give_integers_up(&mut self, rows: Vec<Key>) -> Result<(), Stop> {
        let conn = self.log.conn;
        let mut by_table: BTreeMap<u32, BTreeMap<i64, String>> = BTreeMap::new();
        for key in rows {
            if !self.is_shown(&key)? {
                let local = local_of(conn, key.0, &key.1)?;
                unbind_local(conn, key.0, &key.1)?;
                local.map(|local| by_table.entry(key.0).or_default().insert(local, key.1));
            }
        }
        for (table_no, rows) in by_table {
            for local in self.tables.remembered(conn, table_no, rows.keys().copied().collect())? {
                if freed_entity(conn, table_no, local)?.as_ref() != Some(&rows[&local]) {
                    set_free(conn, table_no, local, &rows[&local])?;
                }
            }
        }
        Ok(())
    }
}
