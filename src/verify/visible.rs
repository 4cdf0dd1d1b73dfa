//! Which rows are to be shown, computed anew for all that are not, and for those whom they meet: by the rules of what a row
//! breaks alone, of unique values, and of foreign keys. Refusals by the user's triggers are taken as recorded.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension, params_from_iter};

use super::catalog::{KnownTable, Rows};
use super::context::{Context, Tally};
use super::entity::row_entity_id;
use super::problems::Quoted;
use crate::changelog::{list_held, named, read_fields, referred, to_local};
use crate::db::{Affinity, ForeignKey, Ident, bind_value, list, same_name};
use crate::error::Result;
use crate::merge::{RowClaim, Trial, claims_more};
use crate::model::{ChangeId, Claim, KeyPart, Registers, Value, settle_claims};

/// A row that is not shown, by its table and entity id.
type Key = (u32, String);

/// Checks every row that is not shown, and what its not being shown means for others. Nothing can be said while changes wait
/// for a merge.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> Result<()> {
    if !context.is_settled()? {
        return Ok(());
    }
    let (tables, reasons, restless) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut visible = Visible { context, tally, tables, reasons, restless };
    for known in context.catalog.iter().filter(|known| known.tracked.is_live()) {
        if let Some(rows) = &known.rows {
            let trial = Trial::new(context.conn, &context.catalog.references, &known.tracked, &rows.shape)?;
            visible.tables.insert(known.tracked.table_no(), Checked { known, rows, trial });
        }
    }
    for held in list_held(context.conn)?.into_iter().filter(|held| visible.tables.contains_key(&held.table_no)) {
        visible.reasons.insert((held.table_no, held.entity_id), held.reason);
    }
    let hidden = visible.alone()?;
    visible.noted(&hidden)?;
    let waiting = visible.uniques(hidden)?;
    visible.parents(waiting)?;
    visible.orphans()
}

struct Checked<'a> {
    known: &'a KnownTable,
    rows: &'a Rows,
    trial: Trial,
}

struct Visible<'a, 'c> {
    context: &'a Context<'c>,
    tally: &'a mut Tally,
    tables: BTreeMap<u32, Checked<'a>>,
    /// Why rows are held, as recorded.
    reasons: BTreeMap<Key, String>,
    /// Those of which nothing says what they wait for, as a constraint of this replica alone may keep them out, or integers that rows
    /// have here.
    restless: BTreeSet<Key>,
}

/// The values of a living row as the log has them.
struct LoggedRow {
    key: Vec<Value>,
    columns: Vec<Value>,
    ids: Vec<Option<ChangeId>>,
    registers: Registers,
}

impl Visible<'_, '_> {
    /// What rows break alone; returns those that break nothing, with what they claim.
    fn alone(&mut self) -> Result<BTreeMap<Key, Vec<RowClaim>>> {
        let mut hidden = BTreeMap::new();
        for (key, reason) in self.reasons.clone() {
            // A trigger may depend on anything, and so may a constraint that this replica alone has.
            if ["trigger", "other", "key"].contains(&reason.as_str()) {
                continue;
            }
            let waits = self.waits(&key)?;
            // Whether it still meets the other row cannot be said without the integer that it had then.
            let trial = &self.tables[&key.0].trial;
            let (is_of_integers, checks_integers) = (trial.has_rules_of_integers(), trial.checks_integers());
            if reason == "unique" && (!waits || is_of_integers) {
                self.restless.insert(key.clone());
            }
            if reason == "foreign key" && !waits {
                self.problem(&key, format_args!("is held for want of a parent, and nothing says which"));
            }
            let breaks_alone = ["not null", "check", "type"].contains(&reason.as_str());
            match self.claims(&key)? {
                None => {}
                Some(Err(_)) if breaks_alone || reason == "foreign key" => {}
                Some(Err(_)) if self.restless.contains(&key) || checks_integers => {}
                Some(Err(_)) => self.problem(&key, format_args!("is held as {reason}, and breaks a rule by itself")),
                // It was asked with the integers that rows had then.
                Some(Ok(_)) if reason == "check" && checks_integers => {}
                Some(Ok(_)) if breaks_alone => {
                    self.problem(&key, format_args!("is held as {reason}, and breaks no rule by itself"));
                }
                Some(Ok(claims)) => drop(hidden.insert(key, claims)),
            }
        }
        Ok(hidden)
    }

    fn waits(&self, key: &Key) -> Result<bool> {
        let sql = "SELECT 1 FROM ZV_WAIT WHERE table_no = ?1 AND entity_id = ?2";
        Ok(self.context.conn.prepare_cached(sql)?.exists((key.0, &key.1))?)
    }

    /// Rows that are not shown, and break nothing by themselves, have their claims recorded, so that others are kept from them.
    /// Of those that are shown, only rows that lack a reference have. What is made of integers may have another value by now: that
    /// is where to look for a row that claims the same, and no more.
    fn noted(&mut self, hidden: &BTreeMap<Key, Vec<RowClaim>>) -> Result<()> {
        for (key, claims) in hidden {
            if self.restless.contains(key) {
                continue;
            }
            let trial = &self.tables[&key.0].trial;
            let wanted = claims.iter().map(|claim| (trial.rule_name(claim.rule).to_owned(), claim.value.clone()));
            let wanted: BTreeSet<(String, Vec<u8>)> = wanted.filter(|(rule, _)| trial.is_lasting(rule)).collect();
            let sql = "SELECT rule, value FROM ZV_CLAIM WHERE table_no = ?1 AND entity_id = ?2";
            let mut statement = self.context.conn.prepare_cached(sql)?;
            let there = statement.query_map((key.0, &key.1), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let there: rusqlite::Result<BTreeSet<(String, Vec<u8>)>> = there.collect();
            let is_other = |there: BTreeSet<(String, Vec<u8>)>| {
                there.iter().filter(|(rule, _)| trial.is_lasting(rule)).ne(&wanted)
            };
            if there.map_or(true, is_other) {
                self.problem(key, format_args!("is held, and what it claims is not recorded as it is"));
            }
        }
        let sql = "SELECT count(*) FROM (SELECT DISTINCT table_no, entity_id FROM ZV_CLAIM) AS c \
                   WHERE NOT EXISTS (SELECT 1 FROM ZV_HELD AS h WHERE h.table_no = c.table_no AND h.entity_id = c.entity_id) \
                   AND NOT EXISTS (SELECT 1 FROM ZV_WAIT AS w WHERE w.table_no = c.table_no AND w.entity_id = c.entity_id)";
        let strange: u64 = self.context.conn.query_row(sql, [], |row| row.get(0))?;
        if strange > 0 {
            self.tally.problems.add(format_args!("ZV_CLAIM has claims of {strange} rows that are shown whole"));
        }
        Ok(())
    }

    /// Settles all claims of rows that are not shown with those of the rows that they meet. Returns the rows that only a
    /// foreign key can keep out.
    fn uniques(&mut self, hidden: BTreeMap<Key, Vec<RowClaim>>) -> Result<BTreeSet<Key>> {
        let mut members = hidden.clone();
        let mut waiting: Vec<Key> = hidden.keys().cloned().collect();
        while let Some(key) = waiting.pop() {
            for claim in members[&key].clone() {
                for other in self.shown_claimants(key.0, &claim)? {
                    if !members.contains_key(&other)
                        && let Some(Ok(claims)) = self.claims(&other)?
                    {
                        members.insert(other.clone(), claims);
                        waiting.push(other);
                    }
                }
            }
        }
        let out = loop {
            let claims = members.iter().flat_map(|(key, claims)| {
                claims.iter().map(|claim| Claim {
                    id: claim.id,
                    value: (key.0, claim.rule, claim.value.clone()),
                    row: key.clone(),
                })
            });
            let out = settle_claims(claims.collect());
            // What keeps such a row out cannot be said; as it is out, it keeps nobody else out.
            let count = members.len();
            members.retain(|key, _| out.contains_key(key) || !self.restless.contains(key));
            if members.len() == count {
                break out;
            }
        };
        for key in members.keys() {
            let recorded = self.reasons.get(key).cloned();
            match (out.contains_key(key), recorded.as_deref()) {
                (true, None) => {
                    self.problem(key, format_args!("is shown, though another row took a unique value first"))
                }
                (true, Some("unique")) if self.restless.contains(key) && !self.waits(key)? => {
                    self.problem(key, format_args!("is held as unique, and nothing says whom it waits for"));
                }
                (true, Some("foreign key")) | (false, Some("unique")) => {
                    let why = if out.contains_key(key) {
                        "and another row took a unique value first"
                    } else {
                        "and no row took its value first"
                    };
                    self.problem(key, format_args!("is held as {}, {why}", recorded.as_deref().unwrap_or_default()));
                }
                _ => {}
            }
        }
        Ok(hidden.into_keys().filter(|key| !out.contains_key(key) && !self.restless.contains(key)).collect())
    }

    /// The greatest set of rows of which each has its parents among the shown or the set must be empty.
    fn parents(&mut self, mut waiting: BTreeSet<Key>) -> Result<()> {
        loop {
            let mut lost = BTreeSet::new();
            for key in &waiting {
                if self.lacks_parent(key, &waiting)? {
                    lost.insert(key.clone());
                }
            }
            if lost.is_empty() {
                break;
            }
            waiting = &waiting - &lost;
        }
        for key in waiting.iter().filter(|key| self.reasons.get(*key).is_some_and(|reason| reason == "foreign key")) {
            self.tally.problems.add(format_args!(
                "{} row {}: is held for want of a parent that is there",
                self.tables[&key.0].known.tracked.name(),
                Quoted(&key.1)
            ));
        }
        Ok(())
    }

    fn lacks_parent(&self, key: &Key, among: &BTreeSet<Key>) -> Result<bool> {
        let Some(row) = self.logged(key)? else { return Ok(true) };
        let checked = &self.tables[&key.0];
        // A reference that may not be NULL cannot be shown without its row, enforced or not.
        for foreign in &checked.rows.shape.foreign_keys {
            let Some(parent) = self.enforced(checked, foreign) else { continue };
            // What a generated column would hold is nowhere to be read: that row may well lack its parent.
            let is_generated =
                |name: &String| checked.rows.shape.generated.iter().any(|generated| same_name(&generated.name, name));
            if foreign.columns.iter().any(is_generated) {
                return Ok(true);
            }
            let values: Option<Vec<Value>> =
                foreign.columns.iter().map(|name| self.logged_value(checked, &row, name)).collect();
            let Some(values) = values.filter(|values| !values.contains(&Value::Null)) else { continue };
            if !self.has_parent(parent, foreign, checked, &values, among)? {
                return Ok(true);
            }
        }
        self.lacks_reference(key, row, among)
    }

    /// Whether a reference by local integers is to a row that is not there, and NULL cannot stand in its place.
    fn lacks_reference(&self, key: &Key, mut row: LoggedRow, among: &BTreeSet<Key>) -> Result<bool> {
        let checked = &self.tables[&key.0];
        let table_no = checked.known.tracked.table_no();
        for (name, value) in checked.known.tracked.source.key.iter().zip(&row.key) {
            if self.leads_nowhere(table_no, name, value, among)? {
                return Ok(true);
            }
        }
        let (whole, mut lacks_any) = (row.columns.clone(), false);
        for (column, value) in checked.rows.columns.iter().zip(&mut row.columns) {
            // A real may be unable to hold the integer of its row, also one that the row does not have yet.
            if let (Some(parent_no), Some(shape)) = (column.target, checked.rows.shape.column(&column.name))
                && shape.affinity == Affinity::Real
            {
                let is_kept = match to_local(self.context.conn, parent_no, value)? {
                    Some(Value::Integer(local)) => shape.affinity.keeps(local),
                    other => other.is_some(),
                };
                if !is_kept {
                    return Ok(true);
                }
            }
            if self.leads_nowhere(table_no, &column.name, value, among)? {
                if checked.rows.shape.column(&column.name).is_some_and(|shape| shape.not_null) {
                    return Ok(true);
                }
                (*value, lacks_any) = (Value::Null, true);
            }
        }
        if !lacks_any {
            return Ok(false);
        }
        // An integer of its own it will have when it is shown.
        let counts = |no, id: &str, has_one| (no, id) == (key.0, key.1.as_str()) || has_one;
        let Ok(less) = self.claims_with(key, &row, counts)? else { return Ok(true) };
        row.columns = whole;
        Ok(self.claims_with(key, &row, counts)?.is_ok_and(|whole| claims_more(&less, &whole)))
    }

    fn leads_nowhere(&self, table_no: u32, column: &str, value: &Value, among: &BTreeSet<Key>) -> Result<bool> {
        let Some(parent_no) = self.context.catalog.references.target(table_no, column) else { return Ok(false) };
        match referred(value) {
            Some(entity_id) => Ok(!self.is_there(&(parent_no, entity_id), among)?),
            None => Ok(false),
        }
    }

    fn has_parent(
        &self,
        parent: &Checked<'_>,
        foreign: &ForeignKey,
        child: &Checked<'_>,
        values: &[Value],
        among: &BTreeSet<Key>,
    ) -> Result<bool> {
        let (conn, references) = (self.context.conn, &self.context.catalog.references);
        let names = parent_columns(parent, foreign);
        let mut local = Vec::with_capacity(values.len());
        for (name, value) in foreign.columns.iter().zip(values) {
            local.push(match references.target(child.known.tracked.table_no(), name) {
                Some(parent_no) => to_local(conn, parent_no, value)?,
                None => Some(value.clone()),
            });
        }
        if let Some(local) = local.into_iter().collect::<Option<Vec<Value>>>() {
            let terms = names.iter().enumerate().map(|(n, name)| format!("{} = ?{}", Ident(name), n + 1));
            let terms = terms.collect::<Vec<_>>().join(" AND ");
            let sql = format!("SELECT 1 FROM {} WHERE {terms}", Ident(&parent.rows.shape.name));
            if conn.prepare_cached(&sql)?.exists(params_from_iter(local.iter().map(bind_value)))? {
                return Ok(true);
            }
        }
        for other in among.iter().filter(|other| other.0 == parent.known.tracked.table_no()) {
            if let Some(row) = self.logged(other)?
                && names.iter().zip(values).all(|(name, value)| self.is_same(parent, other, &row, name, value))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_same(&self, parent: &Checked<'_>, key: &Key, row: &LoggedRow, name: &str, value: &Value) -> bool {
        let source = &parent.known.tracked.source;
        if source.local.as_deref().is_some_and(|local| same_name(local, name)) {
            return referred(value).as_deref() == Some(key.1.as_str());
        }
        self.logged_value(parent, row, name)
            .is_some_and(|own| own == *value || (referred(&own).is_some() && referred(&own) == referred(value)))
    }

    fn is_there(&self, key: &Key, among: &BTreeSet<Key>) -> Result<bool> {
        let sql = "SELECT shown FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";
        let shown: Option<bool> =
            self.context.conn.prepare_cached(sql)?.query_row((key.0, &key.1), |row| row.get(0)).optional()?;
        Ok(shown == Some(true) || among.contains(key))
    }

    /// Shown rows whose enforced foreign keys lead nowhere.
    fn orphans(&mut self) -> Result<()> {
        for (table_no, checked) in &self.tables {
            for foreign in &checked.rows.shape.foreign_keys {
                let Some(parent) = self.enforced(checked, foreign) else { continue };
                let names = parent_columns(parent, foreign);
                if names.len() != foreign.columns.len() {
                    continue;
                }
                let set = foreign.columns.iter().map(|name| format!("c.{} IS NOT NULL", Ident(name)));
                // The plus takes the child's affinity off: the parent's decides.
                let join = names.iter().zip(&foreign.columns).map(|(p, c)| format!("p.{} = +c.{}", Ident(p), Ident(c)));
                let sql = format!(
                    "SELECT {} FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
                    list(checked.known.tracked.source.lead().map(|name| format!("c.{}", Ident(name)))),
                    Ident(&checked.rows.shape.name),
                    set.collect::<Vec<_>>().join(" AND "),
                    Ident(&parent.rows.shape.name),
                    join.collect::<Vec<_>>().join(" AND "),
                );
                let mut statement = self.context.conn.prepare(&sql)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let Some(id) = row_entity_id(self.context, checked.known, row)? else { continue };
                    if !self.context.is_left_out(*table_no, &id)?
                        && self.is_there(&(*table_no, id.clone()), &BTreeSet::new())?
                    {
                        let (name, row) = (checked.known.tracked.name(), Quoted(&id));
                        self.tally.problems.add(format_args!("{name} row {row}: is shown without its parent"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The parent's table of a foreign key that merges watch.
    fn enforced(&self, child: &Checked<'_>, foreign: &ForeignKey) -> Option<&Checked<'_>> {
        let tracked = &child.known.tracked;
        let parent = self.by_name(&foreign.parent).filter(|_| tracked.enforce_fk);
        parent.filter(|parent| tracked.shares(foreign, &parent.known.tracked))
    }

    fn by_name(&self, name: &str) -> Option<&Checked<'_>> {
        self.tables.values().find(|checked| same_name(&checked.rows.shape.name, name))
    }

    /// A column's value, of the key or another, as the log has it.
    fn logged_value(&self, checked: &Checked<'_>, row: &LoggedRow, name: &str) -> Option<Value> {
        let source = &checked.known.tracked.source;
        if let Some(at) = source.key.iter().position(|key| same_name(key, name)) {
            return row.key.get(at).cloned();
        }
        let at = checked.rows.columns.iter().position(|column| same_name(&column.name, name))?;
        row.columns.get(at).cloned()
    }

    fn shown_claimants(&self, table_no: u32, claim: &RowClaim) -> Result<Vec<Key>> {
        let checked = &self.tables[&table_no];
        let conn = self.context.conn;
        let mut values = Vec::with_capacity(claim.parts.len());
        for (n, value) in claim.parts.iter().enumerate() {
            values.push(match checked.trial.part_target(claim.rule, n) {
                None => value.clone(),
                // A row that is shown without the reference claims it nevertheless.
                Some(parent_no) => to_local(conn, parent_no, value)?.unwrap_or(Value::Null),
            });
        }
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            list(checked.known.tracked.source.lead().map(Ident)),
            Ident(&checked.rows.shape.name),
            checked.trial.same_value_sql(claim.rule)
        );
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values.iter().map(bind_value)))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.extend(row_entity_id(self.context, checked.known, row)?.map(|id| (table_no, id)));
        }
        // Where the index leaves out rows without the reference, it does not find the one that is shown without it.
        let sql = "SELECT entity_id FROM ZV_CLAIM WHERE table_no = ?1 AND rule = ?2 AND value = ?3";
        let mut statement = conn.prepare_cached(sql)?;
        let rule = checked.trial.rule_name(claim.rule);
        let noted = statement.query_map((table_no, rule, &claim.value), |row| row.get::<_, String>(0))?;
        for id in noted {
            let key = (table_no, id?);
            if self.is_there(&key, &BTreeSet::new())? {
                found.push(key);
            }
        }
        Ok(found)
    }

    /// What a living row claims; `None` where it does not live.
    fn claims(&self, key: &Key) -> Result<Option<Result<Vec<RowClaim>, rusqlite::Error>>> {
        self.logged(key)?.map(|row| self.claims_with(key, &row, |_, _, has_one| has_one)).transpose()
    }

    /// What a row claims, if the integers of those rows count of which the caller says so, given whether they have one here.
    fn claims_with(
        &self,
        key: &Key,
        row: &LoggedRow,
        counts: impl Fn(u32, &str, bool) -> bool,
    ) -> Result<Result<Vec<RowClaim>, rusqlite::Error>> {
        let trial = &self.tables[&key.0].trial;
        trial.claims(self.context.conn, &key.1, (&row.key, &row.columns), &row.ids, &row.registers, counts)
    }

    fn logged(&self, key: &Key) -> Result<Option<LoggedRow>> {
        let checked = &self.tables[&key.0];
        let conn = self.context.conn;
        let sql = "SELECT registers FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";
        let bytes: Option<Vec<u8>> =
            conn.prepare_cached(sql)?.query_row((key.0, &key.1), |row| row.get(0)).optional()?;
        let Some(registers) = bytes.as_deref().and_then(Registers::decode).filter(Registers::alive) else {
            return Ok(None);
        };
        let (mut columns, mut ids) = (Vec::new(), Vec::new());
        for column in &checked.rows.columns {
            let no = self.context.number(&column.folded)?;
            let register = no.and_then(|no| registers.get(no));
            ids.push(register.map(|register| register.id));
            let field = match register {
                Some(register) => {
                    read_fields(conn, register.id)?.into_iter().find(|field| same_name(&field.name, &column.folded))
                }
                None => None,
            };
            let value = field.map_or_else(|| column.default.clone(), |field| field.value);
            columns.push(if column.target.is_some() { named(value) } else { value });
        }
        let parts = checked.known.tracked.source.logged_key(&self.context.catalog.references, &key.1);
        let key = parts.unwrap_or_default().into_iter().map(KeyPart::into_value).collect();
        Ok(Some(LoggedRow { key, columns, ids, registers }))
    }

    fn problem(&mut self, key: &Key, what: std::fmt::Arguments<'_>) {
        let (table, row) = (self.tables[&key.0].known.tracked.name(), Quoted(&key.1));
        self.tally.problems.add(format_args!("{table} row {row}: {what}"));
    }
}

/// The columns of the parent that a foreign key refers to.
fn parent_columns(parent: &Checked<'_>, foreign: &ForeignKey) -> Vec<String> {
    match foreign.parent_columns.is_empty() {
        true => parent.rows.shape.key_columns().map(|column| column.name.clone()).collect(),
        false => foreign.parent_columns.clone(),
    }
}
