//! UNIQUE at merge: rows that meet over a value are settled together, the older claim keeping it. Evaluates rows in a database
//! of its own, in memory; writes the list of claims of rows that are not shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use rusqlite::Connection;

use super::apply::{Applier, Stop};
use super::fold::{Key, Touched};
use super::parents::entities;
use super::reason::{Reason, reason_of};
use super::trial::{RowClaim, Trial, claims_more};
use super::values::winners;
use crate::changelog::{clear_waits, referred, to_local, wait_for};
use crate::db::{Ident, list};
use crate::error::Result;
use crate::model::{Claim, KeyPart, Registers, Value, settle_claims};

/// What is known of claims during a merge.
pub(super) struct Claims {
    /// Tables of which some row's claims are recorded: one that is not shown, or not whole.
    held: BTreeSet<u32>,
    trials: HashMap<u32, Rc<Trial>>,
}

impl Claims {
    pub(super) fn load(conn: &Connection) -> Result<Self> {
        let mut statement = conn.prepare_cached("SELECT DISTINCT table_no FROM ZV_CLAIM")?;
        let held = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(Self { held, trials: HashMap::new() })
    }

    /// Whether claims of a table's rows are recorded.
    pub(super) fn has_any(&self, table_no: u32) -> bool {
        self.held.contains(&table_no)
    }

    /// Forgets what is recorded of a row's claims.
    pub(super) fn forget(&self, conn: &Connection, key: &Key) -> Result<()> {
        if self.has_any(key.0) {
            let sql = "DELETE FROM ZV_CLAIM WHERE table_no = ?1 AND entity_id = ?2";
            conn.prepare_cached(sql)?.execute((key.0, &key.1))?;
        }
        Ok(())
    }

    fn record(&mut self, conn: &Connection, key: &Key, claims: &[RowClaim], trial: &Trial) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO ZV_CLAIM (table_no, rule, value, entity_id) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = conn.prepare_cached(sql)?;
        for claim in claims {
            statement.execute((key.0, trial.rule_name(claim.rule), &claim.value, &key.1))?;
            self.held.insert(key.0);
        }
        Ok(())
    }
}

/// Records what a row claims that lacks a parent: it is not shown, or shown without the reference, and claims no less.
pub(super) fn remember(applier: &mut Applier<'_, '_>, key: &Key) -> Result<(), Stop> {
    let trial = trial(applier, key.0)?;
    if trial.has_rules()
        && let Ok(claims) = claims_of(applier, &trial, key)?
    {
        let conn = applier.log.conn;
        applier.claims.record(conn, key, &claims, &trial)?;
        await_integers(applier, &trial, key)?;
    }
    Ok(())
}

/// Has a row that is not shown looked at again when rows come, go, or come back of whose integers its claims are made: then it claims
/// something else. One that is shown is looked at with its parents anyway.
fn await_integers(applier: &mut Applier<'_, '_>, trial: &Trial, key: &Key) -> Result<(), Stop> {
    if !trial.has_rules_of_integers() || applier.is_shown(key)? {
        return Ok(());
    }
    let (own, columns, _) = logged(applier, key, &[])?;
    for parent in trial.integers_of(&own, &columns).into_iter().filter(|parent| parent != key) {
        applier.any_waits = true;
        wait_for(applier.log.conn, (parent.0, Some(&parent.1)), (key.0, &key.1))?;
    }
    Ok(())
}

/// Whether a row whose claims are recorded claims a value of this one.
pub(super) fn is_contested(applier: &mut Applier<'_, '_>, key: &Key) -> Result<bool, Stop> {
    let trial = trial(applier, key.0)?;
    let Ok(claims) = claims_of(applier, &trial, key)? else { return Ok(false) };
    for claim in &claims {
        if hidden_claimants(applier.log.conn, key.0, &trial, claim)?.iter().any(|other| other != key) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any other row claims a value of this one, which is not shown.
pub(super) fn meets_others(applier: &mut Applier<'_, '_>, key: &Key) -> Result<bool, Stop> {
    let trial = trial(applier, key.0)?;
    let Ok(claims) = claims_of(applier, &trial, key)? else { return Ok(false) };
    for claim in &claims {
        let hidden = hidden_claimants(applier.log.conn, key.0, &trial, claim)?;
        let shown = shown_claimants(applier, key.0, &trial, claim)?;
        if hidden.iter().chain(&shown).any(|other| other != key) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a row claims more with NULL in some of its columns. An integer of its own it will have when it is shown.
pub(super) fn counts_null(applier: &mut Applier<'_, '_>, key: &Key, columns: &[usize]) -> Result<bool, Stop> {
    let trial = trial(applier, key.0)?;
    let counts = |table_no, id: &str, has_one| (table_no, id) == (key.0, key.1.as_str()) || has_one;
    let whole = claims_with(applier, &trial, key, &[], counts)?;
    let less = claims_with(applier, &trial, key, columns, counts)?;
    let (Ok(whole), Ok(less)) = (whole, less) else { return Ok(false) };
    Ok(claims_more(&less, &whole))
}

/// The reason why a row breaks a rule by itself, if it does.
pub(super) fn breaks_alone(applier: &mut Applier<'_, '_>, key: &Key) -> Result<Option<Reason>, Stop> {
    let trial = trial(applier, key.0)?;
    Ok(claims_of(applier, &trial, key)?.err())
}

/// Settles rows that are out of their tables because each met another row over a value, together with all whom they meet.
/// Returns the rows that came in or went out, and those that could not come in, which keep nobody out. Some were hidden until a
/// moment ago: as they are out again, nothing happened.
pub(super) fn settle(
    applier: &mut Applier<'_, '_>,
    contested: Vec<Key>,
    hidden: &BTreeSet<Key>,
) -> Result<Vec<Key>, Stop> {
    let contested: BTreeSet<Key> = contested.into_iter().collect();
    let mut changed: BTreeSet<Key> = BTreeSet::new();
    let members = members(applier, &contested)?;
    let mut claims = Vec::new();
    for (key, own) in &members {
        claims.extend(own.iter().map(|claim| Claim {
            id: claim.id,
            value: (key.0, claim.rule, claim.value.clone()),
            row: key.clone(),
        }));
    }
    let out = settle_claims(claims);
    for (key, keeper) in &out {
        let trial = trial(applier, key.0)?;
        let reason = lost(&trial, key, keeper, &members).until(keeper.0, Some(keeper.1.clone()));
        if applier.is_shown(key)? && !hidden.contains(key) {
            changed.insert(key.clone());
        }
        let conn = applier.log.conn;
        clear_waits(conn, key.0, &key.1)?;
        applier.hold(key, &reason)?;
        applier.claims.forget(conn, key)?;
        applier.claims.record(conn, key, &members[key], &trial)?;
        await_integers(applier, &trial, key)?;
    }
    for key in members.keys().filter(|key| !out.contains_key(*key)) {
        if !applier.is_shown(key)? && (contested.contains(key) || is_held_for_unique(applier, key)?) {
            applier.claims.forget(applier.log.conn, key)?;
            applier.put_settled(key)?;
            // One that is held for want of a parent keeps its values from others as before.
            if applier.is_shown(key)? || !is_recorded(applier.log.conn, key)? {
                changed.insert(key.clone());
            }
        }
    }
    Ok(changed.into_iter().collect())
}

/// The rows of a settlement with their claims: those that are contested, whom they meet, whom those meet, and so on.
fn members(applier: &mut Applier<'_, '_>, contested: &BTreeSet<Key>) -> Result<BTreeMap<Key, Vec<RowClaim>>, Stop> {
    let mut members = BTreeMap::new();
    let mut waiting: Vec<Key> = contested.iter().cloned().collect();
    while let Some(key) = waiting.pop() {
        if members.contains_key(&key) {
            continue;
        }
        let trial = trial(applier, key.0)?;
        let claims = match claims_of(applier, &trial, &key)? {
            Ok(claims) => claims,
            // It breaks a rule by itself, and so claims nothing.
            Err(reason) => {
                applier.hold(&key, &reason)?;
                continue;
            }
        };
        for claim in &claims {
            waiting.extend(hidden_claimants(applier.log.conn, key.0, &trial, claim)?);
            waiting.extend(shown_claimants(applier, key.0, &trial, claim)?);
        }
        members.insert(key, claims);
    }
    Ok(members)
}

/// The reason to hold a row whose value another keeps.
fn lost(trial: &Trial, key: &Key, keeper: &Key, members: &BTreeMap<Key, Vec<RowClaim>>) -> Reason {
    let theirs = |claim: &&RowClaim| members[keeper].iter().any(|c| c.rule == claim.rule && c.value == claim.value);
    let rule = members[key].iter().find(theirs).map(|claim| trial.rule_columns(claim.rule)).unwrap_or_default();
    Reason::new("unique", format!("the row {} has the same value of ({rule}), and took it first", keeper.1))
}

/// Whether claims of a row are recorded.
fn is_recorded(conn: &Connection, key: &Key) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_CLAIM WHERE table_no = ?1 AND entity_id = ?2";
    Ok(conn.prepare_cached(sql)?.exists((key.0, &key.1))?)
}

fn is_held_for_unique(applier: &Applier<'_, '_>, key: &Key) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_HELD WHERE table_no = ?1 AND entity_id = ?2 AND reason = 'unique'";
    Ok(applier.log.conn.prepare_cached(sql)?.exists((key.0, &key.1))?)
}

/// Rows whose claims are recorded and that claim the same.
fn hidden_claimants(conn: &Connection, table_no: u32, trial: &Trial, claim: &RowClaim) -> Result<Vec<Key>> {
    let sql = "SELECT entity_id FROM ZV_CLAIM WHERE table_no = ?1 AND rule = ?2 AND value = ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map((table_no, trial.rule_name(claim.rule), &claim.value), |row| row.get(0))?;
    Ok(rows.map(|id| id.map(|id| (table_no, id))).collect::<rusqlite::Result<_>>()?)
}

/// Rows that are shown and have the same, found by the constraint's own index. What a trigger put where a row was, or will be, is
/// not that row.
fn shown_claimants(
    applier: &mut Applier<'_, '_>,
    table_no: u32,
    trial: &Trial,
    claim: &RowClaim,
) -> Result<Vec<Key>, Stop> {
    let table = applier.table(table_no)?;
    let (conn, references) = (applier.log.conn, &applier.tables.references);
    let Some(values) = local_values(conn, trial, claim)? else { return Ok(Vec::new()) };
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        list(table.tracked.source.lead().map(Ident)),
        Ident(&table.shape.name),
        trial.same_value_sql(claim.rule)
    );
    let mut found = Vec::new();
    for key in entities(conn, references, table, &sql, &values)? {
        if applier.is_shown(&key)? {
            found.push(key);
        }
    }
    Ok(found)
}

/// A claim's values as the table has them; `None` where it refers to a row that is not here.
fn local_values(conn: &Connection, trial: &Trial, claim: &RowClaim) -> Result<Option<Vec<Value>>> {
    let mut values = Vec::with_capacity(claim.parts.len());
    for (n, value) in claim.parts.iter().enumerate() {
        values.push(match trial.part_target(claim.rule, n) {
            None => value.clone(),
            Some(parent_no) => match to_local(conn, parent_no, value)? {
                Some(value) => value,
                None => return Ok(None),
            },
        });
    }
    Ok(Some(values))
}

fn trial(applier: &mut Applier<'_, '_>, table_no: u32) -> Result<Rc<Trial>, Stop> {
    if let Some(trial) = applier.claims.trials.get(&table_no) {
        return Ok(Rc::clone(trial));
    }
    let table = applier.table(table_no)?;
    let trial = Rc::new(Trial::new(applier.log.conn, &applier.tables.references, &table.tracked, &table.shape)?);
    applier.claims.trials.insert(table_no, Rc::clone(&trial));
    Ok(trial)
}

/// The rows that the columns of a row refer to by local integers.
pub(super) fn referred_rows(applier: &mut Applier<'_, '_>, key: &Key) -> Result<Vec<Key>, Stop> {
    let (_, columns, _) = logged(applier, key, &[])?;
    let table = applier.table(key.0)?;
    let targets =
        table.columns.iter().zip(&columns).filter_map(|(column, value)| Some((column.target?, referred(value)?)));
    Ok(targets.collect())
}

/// What a living row claims by its registers; the reason where it breaks a rule by itself.
fn claims_of(applier: &mut Applier<'_, '_>, trial: &Trial, key: &Key) -> Result<Result<Vec<RowClaim>, Reason>, Stop> {
    claims_with(applier, trial, key, &[], |_, _, has_one| has_one)
}

/// The same, some columns taken for NULL; the caller says of which rows the integers count, given whether they have one here.
fn claims_with(
    applier: &mut Applier<'_, '_>,
    trial: &Trial,
    key: &Key,
    nulls: &[usize],
    counts: impl Fn(u32, &str, bool) -> bool,
) -> Result<Result<Vec<RowClaim>, Reason>, Stop> {
    let (own, columns, registers) = logged(applier, key, nulls)?;
    let table = applier.table(key.0)?;
    let ids: Vec<_> = table.columns.iter().map(|column| registers.get(column.no).map(|r| r.id)).collect();
    let counts = |table_no, id: &str, has_one| {
        // Who is deleted has one until the batch ends.
        counts(table_no, id, has_one && !applier.deleted.contains(&(table_no, id.to_owned())))
    };
    let written = trial.claims(applier.log.conn, &key.1, (&own, &columns), &ids, &registers, counts)?;
    Ok(written.map_err(|error| match reason_of(&error) {
        Some(reason) => reason,
        None => Reason::new("other", "SQLite cannot write the row"),
    }))
}

/// The key and the columns of a row as the log has them, some columns taken for NULL, and its registers.
fn logged(
    applier: &mut Applier<'_, '_>,
    key: &Key,
    nulls: &[usize],
) -> Result<(Vec<Value>, Vec<Value>, Registers), Stop> {
    let table = applier.table(key.0)?;
    let registers = applier.log.entity(key.0, &key.1)?.registers.clone();
    let mut columns = winners(applier.log.conn, table, &registers, &mut Touched::default())?;
    nulls.iter().for_each(|at| columns[*at] = Value::Null);
    let parts = table.tracked.source.logged_key(&applier.tables.references, &key.1).unwrap_or_default();
    Ok((parts.into_iter().map(KeyPart::into_value).collect(), columns, registers))
}
