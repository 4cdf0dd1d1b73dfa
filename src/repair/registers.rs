//! Registers, marks of merged changes and the list of what waits, made again from the log; what the registers were before is
//! kept for a while, as evidence of what the tables showed.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::facts::read;
use super::told::Told;
use crate::capture::Accounts;
use crate::changelog::{IdText, Names, Tracked, list_tracked, lower, read_source};
use crate::db::{Metadata, read_table, read_value, same_name, set_metadata};
use crate::error::Result;
use crate::model::{
    ChangeId, DELETED_COLUMN, DELETED_FIELD, ROWID_FIELD, Register, Registers, Value, is_reserved_table, wins,
};

/// What rows may have been shown from, in temporary tables of this connection's.
#[derive(Debug)]
pub(super) struct Evidence(());

impl Evidence {
    /// The states that account for an entity's row, besides its registers.
    pub(super) fn of(&self, conn: &Connection, table_no: u32, entity_id: &str) -> Result<Accounts> {
        let sql = "SELECT registers FROM temp.ZV_EVIDENCE WHERE table_no = ?1 AND entity_id = ?2";
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query((table_no, entity_id))?;
        let mut others = Vec::new();
        while let Some(row) = rows.next()? {
            others.extend(Registers::decode(row.get_ref(0)?.as_blob().unwrap_or_default()));
        }
        let sql = "SELECT 1 FROM ZV_TOUCHED WHERE table_no = ?1 AND entity_id = ?2";
        let may_be_default = conn.prepare_cached(sql)?.exists((table_no, entity_id))?;
        Ok(Accounts { others, may_be_default })
    }

    pub(super) fn forget(self, conn: &Connection) -> Result<()> {
        Ok(conn.execute_batch("DROP TABLE temp.ZV_EVIDENCE")?)
    }
}

/// Makes the registers again.
pub(super) fn rebuild(conn: &Connection, told: &mut Told) -> Result<Evidence> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.ZV_EVIDENCE; DROP TABLE IF EXISTS temp.ZV_REBUILT; \
         CREATE TEMP TABLE ZV_EVIDENCE (table_no, entity_id, registers); \
         CREATE INDEX temp.ZV_EVIDENCE_BY_ROW ON ZV_EVIDENCE (table_no, entity_id); \
         CREATE TEMP TABLE ZV_REBUILT (table_no INTEGER NOT NULL, entity_id TEXT NOT NULL, shown INTEGER NOT NULL, \
         registers BLOB NOT NULL, PRIMARY KEY (table_no, entity_id)) WITHOUT ROWID",
    )?;
    forget_unknown(conn, told)?;
    let cursor = Cursor::read(conn)?;
    let mut walk = Walk { conn, names: Names::default(), tables: tables(conn)?, cursor, marks: 0, waits: 0 };
    walk.run()?;
    let Walk { marks, waits, cursor, .. } = walk;
    if cursor.moves {
        set_metadata(conn, Metadata::MergedSeq, cursor.end)?;
        told.did(1, |_| "how far merges have come was set by the changes' own marks".to_owned());
    }
    told.did(marks, |n| format!("{n} changes are marked again as merged or not merged"));
    told.did(waits, |n| format!("what {n} changes wait for was recorded again"));
    take_over(conn, told)?;
    Ok(Evidence(()))
}

/// Puts the new registers in the place of the old.
fn take_over(conn: &Connection, told: &mut Told) -> Result<()> {
    let sql = "SELECT n.name, count(*) FROM (SELECT * FROM temp.ZV_REBUILT EXCEPT SELECT * FROM main.ZV_REGISTER) AS r \
               LEFT JOIN ZV_NAME AS n ON n.no = r.table_no GROUP BY n.name ORDER BY n.name";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, count): (Option<String>, u64) = (row.get(0)?, row.get(1)?);
        let name = name.unwrap_or_else(|| "an unknown table".to_owned());
        told.did(count, |n| format!("registers of {n} rows of {name} were rebuilt from the log"));
    }
    drop(rows);
    let sql = "SELECT count(*) FROM main.ZV_REGISTER AS r WHERE NOT EXISTS \
               (SELECT 1 FROM temp.ZV_REBUILT AS b WHERE b.table_no = r.table_no AND b.entity_id = r.entity_id)";
    let strange: u64 = conn.query_row(sql, [], |row| row.get(0))?;
    told.did(strange, |n| format!("registers of {n} rows that no change wrote were taken out"));
    Ok(conn.execute_batch(
        "DELETE FROM main.ZV_REGISTER; INSERT INTO main.ZV_REGISTER SELECT * FROM temp.ZV_REBUILT; \
         DROP TABLE temp.ZV_REBUILT",
    )?)
}

/// What waits for changes that the log lacks.
fn forget_unknown(conn: &Connection, told: &mut Told) -> Result<()> {
    let sql = "DELETE FROM ZV_PENDING WHERE typeof(change_id) <> 'blob' OR typeof(table_no) <> 'integer' \
               OR typeof(column_no) NOT IN ('integer', 'null') \
               OR NOT EXISTS (SELECT 1 FROM ZV_SEQUENCE AS s WHERE s.change_id = ZV_PENDING.change_id)";
    conn.execute_batch("CREATE INDEX ZV_REPAIR_SEQUENCE ON ZV_SEQUENCE (change_id)")?;
    let gone = conn.execute(sql, [])? as u64;
    conn.execute_batch("DROP INDEX ZV_REPAIR_SEQUENCE")?;
    told.did(gone, |n| format!("{n} entries of ZV_PENDING that name no change were taken out"));
    Ok(())
}

/// How far merges have come.
struct Cursor {
    /// Pulled changes after this one that are not marked are new.
    at: i64,
    end: i64,
    /// Whether it contradicts the marks: then the marks count, and it moves to the end.
    moves: bool,
}

impl Cursor {
    fn read(conn: &Connection) -> Result<Self> {
        let end: i64 = conn.query_row("SELECT coalesce(max(seq), 0) FROM ZV_SEQUENCE", [], |row| row.get(0))?;
        let recorded: Option<i64> = read(conn, Metadata::MergedSeq)?;
        let at = recorded.unwrap_or(0);
        let sql = "SELECT EXISTS (SELECT 1 FROM ZV_SEQUENCE AS s JOIN ZV_CHANGE AS c ON s.change_id = unhex(c.id, '-') \
                   WHERE s.seq > ?1 AND NOT s.own AND c.merged = 1)";
        let contradicts: bool = conn.query_row(sql, [at], |row| row.get(0))?;
        Ok(Self { at, end, moves: contradicts || at > end || at < 0 })
    }
}

/// A table that is tracked, or was.
struct Known {
    tracked: Tracked,
    /// Whether changes of it are merged now.
    live: bool,
    /// The log's names of the columns that it has, and of those that it had, in lower case.
    columns: Vec<String>,
    once: HashSet<String>,
}

fn tables(conn: &Connection) -> Result<Vec<Known>> {
    let mut tables = Vec::new();
    for tracked in list_tracked(conn)? {
        let shape = read_table(conn, tracked.name())?;
        let source = &tracked.source;
        let has = |name: &&String| shape.as_ref().is_some_and(|shape| shape.column(name).is_some());
        let columns = source.columns.iter().filter(has).map(|name| lower(source.logged_name(name))).collect();
        let live = tracked.is_live() && shape.is_some();
        tables.push(Known { once: once(conn, tracked.table_no())?, columns, live, tracked });
    }
    Ok(tables)
}

fn once(conn: &Connection, table_no: u32) -> Result<HashSet<String>> {
    let mut statement = conn.prepare_cached("SELECT source FROM ZV_SOURCE WHERE table_no = ?1")?;
    let sources: Vec<i64> = statement.query_map([table_no], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut once = HashSet::new();
    for source in sources.into_iter().filter_map(|no| read_source(conn, no).ok()) {
        once.extend(source.columns.iter().map(|name| lower(source.logged_name(name))));
    }
    Ok(once)
}

impl Known {
    fn is_key(&self, field: &str) -> bool {
        let is_column = self.columns.iter().any(|column| same_name(column, field));
        !is_column && self.tracked.source.lead().any(|name| same_name(name, field))
    }

    /// Whether a change of it waits for the column.
    fn lacks(&self, field: &str) -> bool {
        let is_known = [DELETED_FIELD, ROWID_FIELD].iter().any(|name| same_name(name, field))
            || self.columns.iter().chain(&self.tracked.excluded).any(|name| same_name(name, field));
        !is_known
    }
}

/// A change as it stands in the log.
struct Logged {
    id: ChangeId,
    /// -1 where it is neither marked nor not.
    merged: i64,
    seq: i64,
    own: bool,
    /// The columns that it wrote, and whether it says that the row is deleted.
    writes: Vec<(u32, bool)>,
    /// The columns that its table does not have.
    lacking: Vec<(u32, String)>,
    /// What it is said to wait for: columns, or the table.
    waits: Vec<Option<u32>>,
}

/// Walks the log an entity at a time.
struct Walk<'c> {
    conn: &'c Connection,
    names: Names,
    tables: Vec<Known>,
    cursor: Cursor,
    marks: u64,
    waits: u64,
}

const HEADS: &str = "\
    SELECT c.id, c.entity_type, c.entity_id, iif(typeof(c.merged) = 'integer' AND c.merged IN (0, 1), c.merged, -1), s.seq, s.own \
    FROM ZV_CHANGE AS c JOIN ZV_SEQUENCE AS s ON s.change_id = unhex(c.id, '-') \
    ORDER BY c.entity_type COLLATE NOCASE, c.entity_id, c.id";

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut statement = self.conn.prepare(HEADS)?;
        let mut rows = statement.query([])?;
        let mut entity: Option<(String, String)> = None;
        let mut changes = Vec::new();
        while let Some(row) = rows.next()? {
            let Some((change, entity_type, entity_id)) = head(row)? else { continue };
            let is_same = entity.as_ref().is_some_and(|(table, id)| same_name(table, entity_type) && id == entity_id);
            if !is_same {
                if let Some((table, id)) = entity.take() {
                    self.entity(&table, &id, std::mem::take(&mut changes))?;
                }
                entity = Some((entity_type.to_owned(), entity_id.to_owned()));
            }
            changes.push(change);
        }
        match entity {
            Some((table, id)) => self.entity(&table, &id, changes),
            None => Ok(()),
        }
    }

    fn entity(&mut self, table: &str, entity_id: &str, mut changes: Vec<Logged>) -> Result<()> {
        let table_no = self.names.number(self.conn, table)?;
        let at = self.tables.iter().position(|known| known.tracked.table_no() == table_no);
        for change in &mut changes {
            self.read(at, table_no, change)?;
        }
        let stored = Stored::read(self.conn, table_no, entity_id, &changes)?;
        let (mut merged, mut all, mut sure) = (Registers::default(), Registers::default(), Registers::default());
        for change in &changes {
            let is_folded = self.is_folded(at, change, &stored);
            for (column, deleted) in &change.writes {
                let register = Register { id: change.id, own: change.own, deleted: *deleted };
                all.fold(*column, register);
                if is_folded {
                    merged.fold(*column, register);
                }
                if change.own || change.merged == 1 {
                    sure.fold(*column, register);
                }
            }
            self.mark(at, table_no, change, is_folded)?;
        }
        let others = stored.registers.iter().chain([&all]).chain(Some(&sure).filter(|sure| !sure.is_empty()));
        let others: BTreeSet<Vec<u8>> = others.filter(|state| **state != merged).map(Registers::encode).collect();
        for state in others {
            let sql = "INSERT INTO temp.ZV_EVIDENCE (table_no, entity_id, registers) VALUES (?1, ?2, ?3)";
            self.conn.prepare_cached(sql)?.execute((table_no, entity_id, state))?;
        }
        if merged.is_empty() && !stored.is_there {
            return Ok(());
        }
        let shown = match stored.shown {
            Some(shown) => shown && (merged.alive() || merged.is_empty()),
            None => merged.alive() && !is_held(self.conn, table_no, entity_id)?,
        };
        let sql = "INSERT INTO temp.ZV_REBUILT (table_no, entity_id, shown, registers) VALUES (?1, ?2, ?3, ?4)";
        self.conn.prepare_cached(sql)?.execute((table_no, entity_id, shown, merged.encode()))?;
        Ok(())
    }

    /// Reads the fields of a change, and what it is said to wait for.
    fn read(&mut self, at: Option<usize>, table_no: u32, change: &mut Logged) -> Result<()> {
        let sql = "SELECT field_name, field_value FROM ZV_CHANGE_FIELD WHERE change_id = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([IdText::new(change.id).as_str()])?;
        while let Some(row) = rows.next()? {
            let Ok(name) = row.get_ref(0)?.as_str() else { continue };
            let known = at.map(|at| &self.tables[at]);
            if known.is_some_and(|known| known.is_key(name)) {
                continue;
            }
            let no = self.names.number(self.conn, name)?;
            let deleted = no == DELETED_COLUMN && Value::from_logged(read_value(row.get_ref(1)?)).says_deleted();
            change.writes.push((no, deleted));
            if known.is_some_and(|known| known.lacks(name)) {
                change.lacking.push((no, lower(name)));
            }
        }
        let sql = "SELECT table_no, column_no FROM ZV_PENDING WHERE change_id = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([change.id.as_bytes()])?;
        while let Some(row) = rows.next()? {
            // One that names another table is no word of this change's.
            let is_right = row.get::<_, u32>(0).is_ok_and(|no| no == table_no);
            change.waits.push(if is_right {
                row.get::<_, Option<u32>>(1).unwrap_or(Some(u32::MAX))
            } else {
                Some(u32::MAX)
            });
        }
        Ok(())
    }

    /// Whether a merge has folded a change. Where marks, cursor and registers disagree, two of them are believed.
    fn is_folded(&self, at: Option<usize>, change: &Logged, stored: &Stored) -> bool {
        let Some(known) = at.map(|at| &self.tables[at]) else { return change.own };
        let has_column_wait = change.waits.iter().any(|wait| wait.is_some_and(|no| no != u32::MAX));
        let waits_for_table = change.waits.contains(&None);
        if change.own || change.merged == 1 {
            return true;
        }
        if waits_for_table {
            return false;
        }
        if has_column_wait {
            return true;
        }
        if !known.live || change.seq > self.cursor.at {
            return false;
        }
        if stored.registers.is_none() && stored.has_integer {
            // The registers cannot say it any more: a merge gave the row its integer.
            return true;
        }
        // It should have been marked: it was folded if that made no difference, or the registers have it.
        let would_win = |(column, _): &(u32, bool)| {
            let held = stored.registers.as_ref().and_then(|stored| stored.get(*column)).map(|register| register.id);
            wins(change.id, held)
        };
        !change.writes.iter().any(would_win)
    }

    /// Brings a change's mark, and what it waits for, in line.
    fn mark(&mut self, at: Option<usize>, table_no: u32, change: &Logged, is_folded: bool) -> Result<()> {
        let known = at.map(|at| &self.tables[at]);
        let waits: Vec<Option<u32>> = match known {
            _ if change.own => Vec::new(),
            // A merge comes to it by itself.
            _ if !is_folded && !self.cursor.moves && change.seq > self.cursor.at => Vec::new(),
            _ if !is_folded => vec![None],
            Some(known) if known.live => {
                let had = |name: &String| change.merged == 1 && known.once.contains(name);
                change.lacking.iter().filter(|(_, name)| !had(name)).map(|(no, _)| Some(*no)).collect()
            }
            _ if change.merged == 1 => Vec::new(),
            _ => change.waits.iter().copied().filter(|wait| wait.is_some_and(|no| no != u32::MAX)).collect(),
        };
        let merged = i64::from(is_folded && waits.is_empty());
        if change.merged != merged {
            let sql = "UPDATE ZV_CHANGE SET merged = ?2 WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute((IdText::new(change.id).as_str(), merged))?;
            self.marks += 1;
        }
        let (mut wanted, mut there) = (waits, change.waits.clone());
        wanted.sort_unstable();
        there.sort_unstable();
        if wanted != there {
            self.waits += 1;
            self.conn.prepare_cached("DELETE FROM ZV_PENDING WHERE change_id = ?1")?.execute([change.id.as_bytes()])?;
            let sql = "INSERT INTO ZV_PENDING (change_id, table_no, column_no) VALUES (?1, ?2, ?3)";
            let mut insert = self.conn.prepare_cached(sql)?;
            for column_no in wanted {
                insert.execute((change.id.as_bytes(), table_no, column_no))?;
            }
        }
        Ok(())
    }
}

/// A change's head, its table and its entity; `None` where no change can look like this.
fn head<'r>(row: &'r Row<'_>) -> Result<Option<(Logged, &'r str, &'r str)>> {
    let text = |at| row.get_ref(at).ok().and_then(|value| value.as_str().ok());
    let Some(id) = text(0).and_then(|id| id.parse::<ChangeId>().ok()) else { return Ok(None) };
    let (Some(entity_type), Some(entity_id)) = (text(1), text(2)) else { return Ok(None) };
    if is_reserved_table(entity_type) {
        return Ok(None);
    }
    let (merged, seq, own) = (row.get(3)?, row.get(4)?, row.get(5)?);
    let change = Logged { id, merged, seq, own, writes: Vec::new(), lacking: Vec::new(), waits: Vec::new() };
    Ok(Some((change, entity_type, entity_id)))
}

/// What was stored of an entity.
struct Stored {
    is_there: bool,
    /// Whether it has a local integer.
    has_integer: bool,
    shown: Option<bool>,
    /// `None` where it cannot be read, or holds what the log's changes of this entity did not write.
    registers: Option<Registers>,
}

impl Stored {
    fn read(conn: &Connection, table_no: u32, entity_id: &str, changes: &[Logged]) -> Result<Self> {
        let sql = "SELECT 1 FROM ZV_LOCAL WHERE table_no = ?1 AND entity_id = ?2";
        let has_integer = conn.prepare_cached(sql)?.exists((table_no, entity_id))?;
        let sql = "SELECT shown, registers FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";
        let found = conn.prepare_cached(sql)?.query_row((table_no, entity_id), |row| {
            let shown = match row.get_ref(0)? {
                ValueRef::Integer(shown @ 0..=1) => Some(shown == 1),
                _ => None,
            };
            Ok((shown, row.get_ref(1)?.as_blob().ok().and_then(Registers::decode)))
        });
        let Some((shown, registers)) = found.optional()? else {
            return Ok(Self { is_there: false, has_integer, shown: None, registers: None });
        };
        let by_id: HashMap<ChangeId, &Logged> = changes.iter().map(|change| (change.id, change)).collect();
        let is_right = |(column, register): (u32, Register)| {
            by_id.get(&register.id).is_some_and(|change| change.writes.contains(&(column, register.deleted)))
        };
        let registers = registers.filter(|registers| registers.iter().all(is_right));
        // What cannot be read at all is no evidence of what was shown either.
        Ok(Self { is_there: true, has_integer, shown: shown.filter(|_| registers.is_some()), registers })
    }
}

fn is_held(conn: &Connection, table_no: u32, entity_id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM ZV_HELD WHERE table_no = ?1 AND entity_id = ?2";
    Ok(conn.prepare_cached(sql)?.exists((table_no, entity_id))?)
}
