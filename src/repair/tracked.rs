//! Which tables are tracked and by what: `ZV_TRACKED`, `ZV_SOURCE`, their numbers in `ZV_NAME`, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::facts::{read, set_name};
use super::told::Told;
use crate::capture::{Remains, Wanted, are_references_right, follow_shapes, install_again, recover, triggered};
use crate::changelog::{Log, Source, Tracked, find_tracked, lower, put_source, read_names, read_source, save_tracked};
use crate::db::{Metadata, read_table};
use crate::error::Result;
use crate::model::ChangeId;
use crate::wire::{Identity, TableDefinition};

pub(super) fn mend(conn: &Connection, told: &mut Told) -> Result<()> {
    read::<ChangeId>(conn, Metadata::LastId)?;
    let triggered = triggered(conn)?;
    let mut lost = Vec::new();
    for table_no in numbers(conn, &triggered)? {
        match find_tracked(conn, table_no) {
            Ok(Some(tracked)) => number(conn, &tracked, told)?,
            Ok(None) | Err(_) => lost.extend(Lost::take(conn, table_no, triggered.get(&table_no))?),
        }
    }
    // What a table is tracked by may depend on the tables that it refers to, and so on whether those were found.
    loop {
        let before = lost.len();
        let mut left = Vec::with_capacity(before);
        for table in lost {
            if !table.find_again(conn, told)? {
                left.push(table);
            }
        }
        lost = left;
        if lost.len() == before {
            break;
        }
    }
    lost.iter().try_for_each(|table| table.track_again(conn, told))?;
    let were_wrong = !are_references_right(conn)?;
    follow_shapes(&mut Log::new(conn)?)?;
    told.did(u64::from(were_wrong), |_| "ZV_REFERENCE was made again from the tables' foreign keys".to_owned());
    Ok(())
}

/// Every number of a table that was tracked, wherever it is left. One that cannot be a number is no table's.
fn numbers(conn: &Connection, triggered: &BTreeMap<u32, (String, bool)>) -> Result<BTreeSet<u32>> {
    let mut numbers: BTreeSet<u32> = triggered.keys().copied().collect();
    for table in ["ZV_TRACKED", "ZV_SOURCE"] {
        conn.execute(&format!("DELETE FROM {table} WHERE typeof(table_no) <> 'integer' OR table_no < 1"), [])?;
        let mut statement = conn.prepare(&format!("SELECT DISTINCT table_no FROM {table}"))?;
        let found: Vec<u32> = statement.query_map([], |row| row.get(0))?.filter_map(|no| no.ok()).collect();
        numbers.extend(found);
    }
    Ok(numbers)
}

/// A tracked table has the number of its name in the log.
fn number(conn: &Connection, tracked: &Tracked, told: &mut Told) -> Result<()> {
    if set_name(conn, tracked.table_no(), &lower(&tracked.source.entity_type))? {
        told.did(1, |_| format!("{} has its number in ZV_NAME again", tracked.name()));
    }
    Ok(())
}

/// A table whose notes cannot be read.
struct Lost {
    remains: Remains,
    newest: Option<Source>,
    /// Whether its triggers say that it is captured.
    is_active: bool,
}

impl Lost {
    /// Reads what is left of a table's notes and takes them away; nothing where that is but a number, which no change can be of.
    fn take(conn: &Connection, table_no: u32, triggered: Option<&(String, bool)>) -> Result<Option<Self>> {
        let newest = newest_source(conn, table_no)?;
        let remains = remains(conn, table_no, newest.as_ref(), triggered)?;
        let is_active = triggered.is_some_and(|(_, inserts)| *inserts);
        conn.execute("DELETE FROM ZV_TRACKED WHERE table_no = ?1", [table_no])?;
        Ok((!remains.name.is_empty()).then_some(Self { remains, newest, is_active }))
    }

    /// Makes its notes again from what is left: its triggers, its other notes, its definition. False where that is too little.
    fn find_again(&self, conn: &Connection, told: &mut Told) -> Result<bool> {
        let found = match (self.is_active, &self.newest) {
            (true, _) => recover(conn, &self.remains)?,
            // Its capture had been lifted: what it was tracked by says all.
            (false, Some(source)) => Some(inactive(&self.remains, source.clone())),
            (false, None) => None,
        };
        let Some(tracked) = found else { return Ok(false) };
        put_source(conn, &tracked.source)?;
        save_tracked(conn, &tracked)?;
        number(conn, &tracked, told)?;
        let name = &self.remains.name;
        told.did(1, |_| format!("what {name} is tracked by was found again, by what is left of it"));
        Ok(true)
    }

    /// Tracks it anew, as its definition says.
    fn track_again(&self, conn: &Connection, told: &mut Told) -> Result<()> {
        let Remains { table_no, name, entity_type, .. } = &self.remains;
        set_name(conn, *table_no, &lower(entity_type))?;
        conn.execute(
            "DELETE FROM ZV_SOURCE WHERE table_no = ?1 AND source NOT IN (SELECT source FROM ZV_JOURNAL WHERE source IS NOT NULL)",
            [table_no],
        )?;
        let mut log = Log::new(conn)?;
        let again = install_again(&mut log, &self.remains)?;
        log.finish()?;
        match again {
            Some(_) => told.did(1, |_| format!("{name} is tracked again, by its definition")),
            None if read_table(conn, name)?.is_none() => told.instruct(format!(
                "{name} was tracked, and there is no such table; create it again, then run `zvon track {name}`"
            )),
            None => told.instruct(format!(
                "what {name} is tracked by is lost; run `zvon track {name}`, with the options that it was tracked with"
            )),
        }
        Ok(())
    }
}

fn inactive(remains: &Remains, source: Source) -> Tracked {
    Tracked {
        active: false,
        enforce_fk: remains.enforce_fk,
        excluded: remains.excluded.clone().unwrap_or_default(),
        notice: remains.notice.clone(),
        blocked: remains.blocked.clone(),
        altering: Vec::new(),
        source,
    }
}

/// What can still be read of a table's notes.
fn remains(
    conn: &Connection,
    table_no: u32,
    newest: Option<&Source>,
    triggered: Option<&(String, bool)>,
) -> Result<Remains> {
    let definition = definition(conn, table_no)?;
    let mut remains = Remains { table_no, enforce_fk: true, ..Remains::default() };
    if let Some((name, _)) = triggered {
        remains.name.clone_from(name);
    }
    if let Some(definition) = &definition {
        remains.enforce_fk = definition.enforce_fk;
        remains.renamed.clone_from(&definition.renamed);
        remains.entity_type = definition.entity_type().to_owned();
        let here = |logged: &String| {
            let renamed = definition.renamed.iter().find(|(_, to)| *to == logged);
            renamed.map_or_else(|| logged.clone(), |(name, _)| name.clone())
        };
        remains.wanted = Some(match definition.identity {
            Identity::Generated => Wanted::Generated,
            Identity::Key => Wanted::Columns(definition.key.iter().map(here).collect()),
        });
        if remains.name.is_empty() {
            remains.name.clone_from(&definition.table);
        }
    }
    if let Some(source) = newest {
        remains.entity_type.clone_from(&source.entity_type);
        remains.renamed.clone_from(&source.renamed);
        remains.wanted = Some(match source.is_generated() {
            true => Wanted::Generated,
            false => Wanted::Columns(source.key.clone()),
        });
        if remains.name.is_empty() {
            remains.name.clone_from(&source.table);
        }
    }
    if remains.entity_type.is_empty() {
        remains.entity_type.clone_from(&remains.name);
    }
    read_row(conn, &mut remains)?;
    remains.sources = candidates(conn, table_no)?;
    Ok(remains)
}

/// What the table's own row still says.
fn read_row(conn: &Connection, remains: &mut Remains) -> Result<()> {
    let sql = "SELECT name, excluded, notice, blocked, enforce_fk FROM ZV_TRACKED WHERE table_no = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([remains.table_no])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    let text = |at| row.get_ref(at).ok().and_then(|value| value.as_str().ok());
    if remains.name.is_empty() {
        remains.name = text(0).unwrap_or_default().to_owned();
    }
    remains.excluded = text(1).and_then(|names| read_names(names).ok());
    remains.notice = text(2).unwrap_or_default().to_owned();
    remains.blocked = text(3).unwrap_or_default().to_owned();
    if let ValueRef::Integer(enforced) = row.get_ref(4)? {
        remains.enforce_fk = enforced != 0;
    }
    Ok(())
}

/// The numbers that a table's source may have: those that anything names.
fn candidates(conn: &Connection, table_no: u32) -> Result<Vec<i64>> {
    let sql = "SELECT source FROM ZV_TRACKED WHERE table_no = ?1 UNION ALL SELECT source FROM ZV_SOURCE \
               UNION ALL SELECT source FROM ZV_JOURNAL UNION ALL SELECT seq FROM sqlite_sequence WHERE name = 'ZV_SOURCE'";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([table_no])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        if let ValueRef::Integer(no) = row.get_ref(0)? {
            found.insert(no);
        }
    }
    // Sources are numbered as they come, so that where all notes are gone they are among the first.
    let greatest = found.last().copied().unwrap_or(0).max(i64::from(table_no)).min(1_000) + 64;
    found.extend(1..=greatest);
    Ok(found.into_iter().collect())
}

fn newest_source(conn: &Connection, table_no: u32) -> Result<Option<Source>> {
    let mut statement = conn.prepare("SELECT source FROM ZV_SOURCE WHERE table_no = ?1 ORDER BY source DESC")?;
    let numbers: Vec<i64> = statement.query_map([table_no], |row| row.get(0))?.filter_map(|no| no.ok()).collect();
    Ok(numbers.into_iter().find_map(|no| read_source(conn, no).ok()))
}

fn definition(conn: &Connection, table_no: u32) -> Result<Option<TableDefinition>> {
    let sql = "SELECT body FROM ZV_DEFINITION WHERE table_no = ?1 ORDER BY version DESC, hash DESC";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([table_no])?;
    while let Some(row) = rows.next()? {
        if let Ok(definition) = TableDefinition::decode(row.get_ref(0)?.as_bytes().unwrap_or_default()) {
            return Ok(Some(definition));
        }
    }
    Ok(None)
}
