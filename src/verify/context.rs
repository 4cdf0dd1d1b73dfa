//! What every check reads, and what all of them add to.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use super::catalog::Catalog;
use super::problems::Problems;
use crate::capture::raw_key;
use crate::changelog::{Names, Source, entity_of, has_untranslated, read_source};
use crate::db::{Metadata, get_metadata, read_value};
use crate::error::{ErrorKind, Result};
use crate::model::{ChangeId, Value};

/// How many names are remembered: a log may name more columns than anybody has.
const NAMES: usize = 10_000;

/// The state that the log is compared with.
pub(super) struct Context<'a> {
    pub(super) conn: &'a Connection,
    pub(super) catalog: &'a Catalog,
    /// The last row of the sequence that a merge has come to.
    pub(super) merged_seq: i64,
    /// The clock: no id made or merged here is greater.
    pub(super) last_id: Option<ChangeId>,
    /// Rows written but not sealed: their tables are ahead of the log.
    journal: HashSet<(u32, String)>,
    /// The same by their local integers, as what was inserted has no other name yet.
    journal_locals: HashSet<(u32, i64)>,
    /// The same by their keys as they stand in the table, where those refer to rows without another name yet.
    journal_keys: HashSet<(u32, String)>,
    any_touched: bool,
    numbers: RefCell<HashMap<String, Option<u32>>>,
}

impl<'a> Context<'a> {
    pub(super) fn load(conn: &'a Connection, catalog: &'a Catalog, problems: &mut Problems) -> Result<Self> {
        let Journal { entities, locals, keys } = read_journal(conn, catalog, problems)?;
        Ok(Self {
            conn,
            catalog,
            merged_seq: fact(conn, Metadata::MergedSeq, problems)?.unwrap_or(0),
            last_id: fact(conn, Metadata::LastId, problems)?,
            journal: entities,
            journal_locals: locals,
            journal_keys: keys,
            any_touched: conn.query_row("SELECT EXISTS (SELECT 1 FROM ZV_TOUCHED)", [], |row| row.get(0))?,
            numbers: RefCell::default(),
        })
    }

    /// The number of a table's or column's name, if it has one.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>> {
        let mut numbers = self.numbers.borrow_mut();
        if let Some(no) = numbers.get(name) {
            return Ok(*no);
        }
        if numbers.len() >= NAMES {
            numbers.clear();
        }
        let no = Names::find(self.conn, name)?;
        numbers.insert(name.to_owned(), no);
        Ok(no)
    }

    /// Whether the row may differ from the registers: it is not sealed yet, or waits for the next merge to show it anew.
    pub(super) fn in_motion(&self, table_no: u32, entity_id: &str) -> Result<bool> {
        if self.unsealed(table_no, entity_id) {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM ZV_TOUCHED WHERE table_no = ?1 AND entity_id = ?2";
        Ok(self.any_touched && self.conn.prepare_cached(sql)?.exists((table_no, entity_id))?)
    }

    /// Whether a merge has come to the end of the log, and nothing waits for the next.
    pub(super) fn is_settled(&self) -> Result<bool> {
        let end: i64 = self.conn.query_row("SELECT coalesce(max(seq), 0) FROM ZV_SEQUENCE", [], |row| row.get(0))?;
        let is_sealed = self.journal.is_empty() && self.journal_locals.is_empty() && self.journal_keys.is_empty();
        Ok(is_sealed && !self.any_touched && self.merged_seq >= end)
    }

    /// Whether the table knows more of a row than the log: a reference that could not be translated yet.
    pub(super) fn is_left_out(&self, table_no: u32, entity_id: &str) -> Result<bool> {
        has_untranslated(self.conn, table_no, entity_id)
    }

    /// Whether the journal has a write of a row that has no other name yet than its local integer, or its key here.
    pub(super) fn unsealed_lead(&self, table_no: u32, lead: &[Value]) -> bool {
        let is_local = match lead.first() {
            Some(Value::Integer(local)) => self.journal_locals.contains(&(table_no, *local)),
            _ => false,
        };
        is_local || raw_key(lead).is_some_and(|key| self.journal_keys.contains(&(table_no, key)))
    }

    /// Whether the journal has a write of the row.
    pub(super) fn unsealed(&self, table_no: u32, entity_id: &str) -> bool {
        !self.journal.is_empty() && self.journal.contains(&(table_no, entity_id.to_owned()))
    }
}

/// What the checks have found and counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) problems: Problems,
    /// Changes of the log.
    pub(super) changes: u64,
    /// Rows compared with the log.
    pub(super) rows: u64,
    /// Rows of each table that an entity of the log was found to have.
    pub(super) found: HashMap<u32, u64>,
    /// Rows of `ZV_REGISTER` that an entity of the log was found to have.
    pub(super) registers: u64,
}

/// A fact of `ZV_METADATA`; one that cannot be read is a problem, and counts as never set.
pub(super) fn fact<T: std::str::FromStr>(
    conn: &Connection,
    key: Metadata,
    problems: &mut Problems,
) -> Result<Option<T>> {
    match get_metadata(conn, key) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            problems.add(format_args!("{error}"));
            Ok(None)
        }
        other => other,
    }
}

/// The rows whose writes the journal holds.
#[derive(Debug, Default)]
struct Journal {
    entities: HashSet<(u32, String)>,
    locals: HashSet<(u32, i64)>,
    keys: HashSet<(u32, String)>,
}

fn read_journal(conn: &Connection, catalog: &Catalog, problems: &mut Problems) -> Result<Journal> {
    let mut journal = Journal::default();
    let mut statement = conn.prepare("SELECT DISTINCT source FROM ZV_JOURNAL")?;
    let sources: Vec<Option<i64>> =
        statement.query_map([], |row| Ok(row.get_ref(0)?.as_i64().ok()))?.collect::<rusqlite::Result<_>>()?;
    for no in sources {
        match no.map(|no| read_source(conn, no)) {
            Some(Ok(source)) => add_journal(conn, catalog, &source, &mut journal)?,
            Some(Err(error)) if error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => problems.add(format_args!("the journal holds writes of a table that ZV_SOURCE does not name")),
        }
    }
    Ok(journal)
}

fn add_journal(conn: &Connection, catalog: &Catalog, source: &Source, journal: &mut Journal) -> Result<()> {
    // Behind a row that moved stands the integer that it had.
    let (lead_len, moved) = (source.lead_len(), source.lead_len() + source.columns.len());
    let mut columns: Vec<String> = (0..lead_len).map(|n| format!("c{n}")).collect();
    if source.local.is_some() {
        columns.push(format!("c{moved}"));
    }
    let sql = format!("SELECT {} FROM ZV_JOURNAL WHERE source = ?1", columns.join(", "));
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([source.no])?;
    while let Some(row) = rows.next()? {
        let mut values: Vec<Value> =
            (0..columns.len()).map(|n| Ok(read_value(row.get_ref(n)?))).collect::<rusqlite::Result<_>>()?;
        let before = if source.local.is_some() { values.pop() } else { None };
        let entity_id = source.entity_id(conn, &catalog.references, &values)?.entity();
        if entity_id.is_none() && source.local.is_none() {
            journal.keys.extend(raw_key(&values).map(|key| (source.table_no, key)));
        }
        journal.entities.extend(entity_id.map(|entity_id| (source.table_no, entity_id)));
        for local in [values.first(), before.as_ref()].into_iter().flatten() {
            if let (Some(_), Value::Integer(local)) = (&source.local, local) {
                journal.locals.insert((source.table_no, *local));
                let entity_id = entity_of(conn, source.table_no, *local)?;
                journal.entities.extend(entity_id.map(|entity_id| (source.table_no, entity_id)));
            }
        }
    }
    Ok(())
}
