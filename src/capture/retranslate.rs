//! Own writes that could not be translated at once, and rows whose parents got another identity: recorded when they can be.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::record::{Recorded, Recorder, raw_key};
use crate::changelog::{
    Keyed, Source, Untranslated, any_untranslated, bind_local, entity_of, integer_in, leave_out, list_tracked,
    list_untranslated, read_fields, referent, settle, to_logged,
};
use crate::db::{Ident, condition, read_value, refers_to, refers_to_any, same_name};
use crate::error::Result;
use crate::model::{KeyKind, KeyPart, Value, decode_entity_id};

/// A row with a local integer that got another identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rekeyed {
    pub(super) table_no: u32,
    pub(super) local: i64,
    /// Its entity id until then.
    pub(super) before: String,
}

/// Takes the children of rows that got another identity along: their tables hold the same integer as before, so that no
/// trigger saw them change. Returns how many changes were made.
pub(super) fn follow_rekeyed(recorder: &mut Recorder<'_, '_>, mut rekeyed: Vec<Rekeyed>) -> Result<u64> {
    let mut changes = 0;
    while !rekeyed.is_empty() {
        let mut by_parent: BTreeMap<u32, Vec<Rekeyed>> = BTreeMap::new();
        for parent in rekeyed.drain(..) {
            let now = referent(recorder.conn(), parent.table_no, parent.local)?;
            if now.is_some_and(|now| now != parent.before) {
                by_parent.entry(parent.table_no).or_default().push(parent);
            }
        }
        for (parent_no, parents) in &by_parent {
            let columns: Vec<(u32, String)> =
                recorder.references.to(*parent_no).into_iter().map(|(no, name)| (no, name.to_owned())).collect();
            for (child_no, column) in columns {
                let Some(child) = source_of(recorder, child_no)? else { continue };
                let referred = referred_among(recorder.conn(), &child.source, &column, parents)?;
                for parent in parents.iter().filter(|parent| referred.contains(&parent.local)) {
                    changes += take_along(recorder, &child, &column, parent, &by_parent, &mut rekeyed)?;
                }
            }
        }
        // New identities come once all old ones are gone, which may be the same: rows that change places. And they are bound
        // before the rows' own children are looked at.
        changes += retry_left_out(recorder)?;
    }
    Ok(changes)
}

/// Which of some integers a column refers to, with one look at the table.
fn referred_among(conn: &Connection, child: &Source, column: &str, parents: &[Rekeyed]) -> Result<BTreeSet<i64>> {
    let sql = format!("SELECT DISTINCT {} FROM {} WHERE {}", Ident(column), Ident(&child.table), refers_to_any(column));
    let Ok(mut statement) = conn.prepare_cached(&sql) else { return Ok(BTreeSet::new()) };
    let locals: Vec<i64> = parents.iter().map(|parent| parent.local).collect();
    let json = serde_json::to_string(&locals).expect("a list of integers is always JSON");
    let mut rows = statement.query([json])?;
    let mut referred = BTreeSet::new();
    while let Some(row) = rows.next()? {
        referred.extend(integer_in(&read_value(row.get_ref(0)?)));
    }
    Ok(referred)
}

fn take_along(
    recorder: &mut Recorder<'_, '_>,
    child: &Recorded,
    column: &str,
    parent: &Rekeyed,
    all: &BTreeMap<u32, Vec<Rekeyed>>,
    rekeyed: &mut Vec<Rekeyed>,
) -> Result<u64> {
    let (conn, source) = (recorder.conn(), &child.source);
    let is_key = source.key.iter().any(|name| same_name(name, column));
    let value_at = source.columns.iter().position(|name| same_name(name, column));
    let mut leads = Vec::new();
    child.each_live_row(conn, &refers_to(column, 1), &[Value::Integer(parent.local)], |lead, _| {
        leads.push(lead);
        Ok(())
    })?;
    let mut changes = 0;
    for lead in leads {
        if is_key {
            if let Some(before) = identity_before(recorder, child, &lead, parent, all)? {
                let id = recorder.next_id(recorder.world.now_ms());
                recorder.delete(id, source, &before)?;
                changes += 1;
                if let (Some(_), Some(Value::Integer(local))) = (&source.local, lead.first()) {
                    rekeyed.push(Rekeyed { table_no: source.table_no, local: *local, before });
                }
            }
            recorder.leave_row_out(source, &lead)?;
        } else if let (Some(n), Keyed::Entity(row)) = (value_at, source.entity_id(conn, &recorder.references, &lead)?) {
            leave_out(conn, &Untranslated { table_no: source.table_no, row, column_no: Some(child.number(n)) })?;
        }
    }
    Ok(changes)
}

/// What a row was known by before a parent in its key, and maybe others there, got another identity; nothing where the log does
/// not know it, or another row is known by that now.
fn identity_before(
    recorder: &mut Recorder<'_, '_>,
    child: &Recorded,
    lead: &[Value],
    parent: &Rekeyed,
    all: &BTreeMap<u32, Vec<Rekeyed>>,
) -> Result<Option<String>> {
    let (conn, source) = (recorder.conn(), &child.source);
    let of_another = |table_no: u32, local: i64| {
        let mut others = all.get(&table_no).into_iter().flatten();
        others.find(|other| other.local == local).map(|other| other.before.clone())
    };
    for others_before in [false, true] {
        let before = source.entity_id_by(&recorder.references, lead, &|table_no, local| {
            let is_parent = table_no == parent.table_no && local == parent.local;
            match of_another(table_no, local).filter(|_| others_before) {
                _ if is_parent => Ok(Some(parent.before.clone())),
                Some(before) => Ok(Some(before)),
                None => entity_of(conn, table_no, local),
            }
        })?;
        let Some(before) = before.entity().filter(|_| !lead.is_empty()) else { continue };
        if recorder.log.entity(source.table_no, &before)?.registers.alive() {
            return Ok(if is_anothers(recorder, child, lead, &before)? { None } else { Some(before) });
        }
    }
    Ok(None)
}

/// Whether another row is known by an identity.
fn is_anothers(recorder: &Recorder<'_, '_>, child: &Recorded, lead: &[Value], entity_id: &str) -> Result<bool> {
    let (conn, source) = (recorder.conn(), &child.source);
    let Some(locator) = source.locate(conn, &recorder.references, entity_id)? else { return Ok(false) };
    let mut is_there = false;
    child.each_live_row(conn, &condition(source.locator(), 1), &locator, |other, _| {
        is_there |= other != lead;
        Ok(())
    })?;
    Ok(is_there)
}

/// Records what was left out and can be translated now; forgets what is gone. Returns how many changes were made.
pub(super) fn retry_left_out(recorder: &mut Recorder<'_, '_>) -> Result<u64> {
    if !any_untranslated(recorder.conn())? {
        return Ok(0);
    }
    let mut changes = 0;
    for left in list_untranslated(recorder.conn())? {
        let Some(recorded) = source_of(recorder, left.table_no)? else { continue };
        changes += match left.column_no {
            Some(column_no) => retry_cell(recorder, &recorded, &left, column_no)?,
            None => retry_row(recorder, &recorded, &left)?,
        };
    }
    Ok(changes)
}

fn source_of(recorder: &mut Recorder<'_, '_>, table_no: u32) -> Result<Option<Recorded>> {
    let tracked = list_tracked(recorder.conn())?.into_iter().find(|t| t.active && t.table_no() == table_no);
    tracked.map(|tracked| recorder.prepare(tracked.source)).transpose()
}

fn retry_cell(
    recorder: &mut Recorder<'_, '_>,
    recorded: &Recorded,
    left: &Untranslated,
    column_no: u32,
) -> Result<u64> {
    let (conn, source) = (recorder.conn(), &recorded.source);
    let at = (0..source.columns.len()).find(|n| recorded.number(*n) == column_no);
    let (Some(n), Some(locator)) = (at, source.locate(conn, &recorder.references, &left.row)?) else {
        settle(conn, left)?;
        return Ok(0);
    };
    let mut now: Option<Value> = None;
    recorded.each_live_row(conn, &condition(source.locator(), 1), &locator, |_, row| {
        now = Some(read_value(row.get_ref(source.lead_len() + n)?));
        Ok(())
    })?;
    let Some(now) = now else {
        settle(conn, left)?;
        return Ok(0);
    };
    let translated = match recorded.target(n) {
        Some(parent_no) => to_logged(conn, parent_no, &now)?,
        None => Some(now.clone()),
    };
    let Some(translated) = translated else { return Ok(0) };
    settle(conn, left)?;
    if registered(recorder, source, &left.row, n, column_no)? == Some(translated) {
        return Ok(0);
    }
    let id = recorder.next_id(recorder.world.now_ms());
    let value = |at: usize| Ok((at == n).then(|| crate::db::bind_ref(&now)));
    Ok(u64::from(recorder.write(id, recorded, &left.row, None, false, &value)?))
}

/// What the register of a column holds.
fn registered(
    recorder: &mut Recorder<'_, '_>,
    source: &Source,
    entity_id: &str,
    n: usize,
    column_no: u32,
) -> Result<Option<Value>> {
    let Some(register) = recorder.log.entity(source.table_no, entity_id)?.registers.get(column_no) else {
        return Ok(None);
    };
    let name = source.logged_name(&source.columns[n]);
    let fields = read_fields(recorder.conn(), register.id)?;
    Ok(fields.into_iter().find(|field| same_name(&field.name, name)).map(|field| field.value))
}

fn retry_row(recorder: &mut Recorder<'_, '_>, recorded: &Recorded, left: &Untranslated) -> Result<u64> {
    let (conn, source) = (recorder.conn(), &recorded.source);
    let lead: Vec<Value> = match decode_entity_id(KeyKind::Parts, source.lead_len(), &left.row) {
        Some(parts) => parts.into_iter().map(KeyPart::into_value).collect(),
        None => {
            settle(conn, left)?;
            return Ok(0);
        }
    };
    let by: Vec<String> = source.lead().map(str::to_owned).collect();
    let (mut is_there, mut changes) = (false, 0);
    recorded.each_live_row(conn, &condition(&by, 1), &lead, |lead, row| {
        is_there = true;
        let Keyed::Entity(entity_id) = source.entity_id(conn, &recorder.references, &lead)? else { return Ok(()) };
        settle(conn, left)?;
        let local = match (&source.local, lead.first()) {
            (Some(_), Some(Value::Integer(local))) => Some(*local),
            _ => None,
        };
        if let Some(local) = local {
            bind_local(conn, source.table_no, local, &entity_id)?;
        }
        let id = recorder.next_id(recorder.world.now_ms());
        let first = source.lead_len();
        changes +=
            u64::from(recorder.write(id, recorded, &entity_id, local, true, &|n| Ok(Some(row.get_ref(first + n)?)))?);
        Ok(())
    })?;
    if !is_there {
        settle(conn, left)?;
    }
    debug_assert!(raw_key(&lead).as_deref() == Some(left.row.as_str()));
    Ok(changes)
}
