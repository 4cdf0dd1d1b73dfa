//! Folding: unmerged changes become registers, and what they touched becomes a plan. Writes our tables only.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, Row};

use super::tables::{FieldKind, Tables};
use crate::changelog::{ConflictRow, IdText, Log, read_fields, read_head, record_conflict};
use crate::db::{Metadata, get_metadata, read_value, same_name};
use crate::error::{Error, Result};
use crate::model::{ChangeId, DELETED_COLUMN, Register, Value};

/// An entity of a table.
pub(super) type Key = (u32, String);

/// What a batch found out about an entity.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The columns that got a new winner, with its value.
    columns: BTreeMap<u32, Value>,
    /// The row is compared as a whole, as something else than a change of its own may have moved it.
    pub(super) whole: bool,
    /// The row is held, and only tried again: nothing says that it changed.
    pub(super) is_retry: bool,
    /// The row's own writer may have changed any of its columns.
    pub(super) is_own: bool,
}

impl Touched {
    /// A row to be compared as a whole.
    pub(super) fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// A held row to be tried once more.
    pub(super) fn retry() -> Self {
        Self { is_retry: true, ..Self::whole() }
    }

    /// Takes the value of a column's new winner.
    pub(super) fn take(&mut self, column: u32) -> Option<Value> {
        self.columns.remove(&column)
    }

    /// Whether a column has a new winner.
    pub(super) fn has(&self, column: u32) -> bool {
        self.columns.contains_key(&column)
    }

    pub(super) fn set(&mut self, column: u32, value: Value) {
        self.columns.insert(column, value);
    }
}

/// The entities that a batch touched, in an order that suits the tables' trees.
pub(super) type Plan = BTreeMap<Key, Touched>;

/// Folds one change after another.
pub(super) struct Folder<'a, 'c> {
    log: &'a mut Log<'c>,
    tables: &'a mut Tables,
    /// Own changes above this id have never left this machine, so nobody can have seen them.
    exposed: Option<ChangeId>,
    now_ms: u64,
    read: CachedStatement<'c>,
    /// The changes of which every field has found its column.
    complete: Vec<ChangeId>,
    plan: Plan,
    conflicts: u64,
}

/// A change as a merge reads it: its row, and what it says of which of the table's columns.
struct Unfolded {
    table_no: u32,
    entity_id: String,
    /// Empty where the table is not there.
    fields: Vec<(FieldKind, Value)>,
    size: usize,
}

/// A pulled write that met an own one.
struct Meeting {
    column: u32,
    won: bool,
    before: Register,
    value: Value,
}

const READ: &str = "SELECT c.entity_type, c.entity_id, f.field_name, f.field_value \
                    FROM ZV_CHANGE AS c LEFT JOIN ZV_CHANGE_FIELD AS f ON f.change_id = c.id WHERE c.id = ?1";

impl<'a, 'c> Folder<'a, 'c> {
    pub(super) fn new(log: &'a mut Log<'c>, tables: &'a mut Tables, now_ms: u64) -> Result<Self> {
        let exposed = get_metadata(log.conn, Metadata::ExposedId)?;
        let read = log.conn.prepare_cached(READ)?;
        Ok(Self { log, tables, exposed, now_ms, read, complete: Vec::new(), plan: Plan::new(), conflicts: 0 })
    }

    /// Folds a change of the log. Returns about how many bytes of it stay in memory.
    pub(super) fn change(&mut self, id: ChangeId) -> Result<usize> {
        let change = self.read(id)?;
        let size = change.size;
        self.log.clock.observe(id);
        if self.tables.get(change.table_no).is_none() {
            pend(self.log.conn, id, change.table_no, None)?;
        } else if self.fold(id, change)? {
            self.complete.push(id);
        }
        Ok(size)
    }

    fn read(&mut self, id: ChangeId) -> Result<Unfolded> {
        let Self { log, tables, read, .. } = self;
        let mut found: Option<Unfolded> = None;
        let mut rows = read.query([IdText::new(id).as_str()])?;
        while let Some(row) = rows.next()? {
            let change = match &mut found {
                Some(change) => change,
                None => found.insert(Unfolded {
                    table_no: log.names.number(log.conn, text(row, 0)?)?,
                    entity_id: text(row, 1)?.to_owned(),
                    fields: Vec::with_capacity(4),
                    size: 128,
                }),
            };
            let Some(table) = tables.get_mut(change.table_no) else { break };
            if row.get_ref(2)? != ValueRef::Null {
                let kind = table.field(log, text(row, 2)?)?;
                let value = Value::from_logged(read_value(row.get_ref(3)?));
                change.size += value.size() + 64;
                change.fields.push((kind, value));
            }
        }
        found.ok_or_else(|| Error::corrupt(format!("the log lacks the change {id}")))
    }

    /// Folds the fields of a change; false if one of them waits for its column.
    fn fold(&mut self, id: ChangeId, change: Unfolded) -> Result<bool> {
        let Unfolded { table_no, entity_id, fields, .. } = change;
        let conn = self.log.conn;
        let (mut complete, mut meetings) = (true, Vec::new());
        let entity = self.log.entity(table_no, &entity_id)?;
        let mut won_columns = Vec::with_capacity(fields.len());
        for (kind, value) in fields {
            let is_value = !matches!(kind, FieldKind::Deleted | FieldKind::Rowid(_));
            let column = match kind {
                FieldKind::Key => continue,
                FieldKind::Deleted => DELETED_COLUMN,
                FieldKind::Column(no) | FieldKind::Excluded(no) | FieldKind::Rowid(no) => no,
                FieldKind::Unknown(no) => {
                    pend(conn, id, table_no, Some(no))?;
                    complete = false;
                    no
                }
            };
            let deleted = column == DELETED_COLUMN && value.says_deleted();
            let (won, before) = entity.fold(column, Register { id, own: false, deleted });
            if let Some(before) = before.filter(|before| before.own && is_value) {
                meetings.push(Meeting { column, won, before, value: value.clone() });
            }
            if won {
                won_columns.push((column, value));
            }
        }
        for meeting in meetings {
            self.conflict(id, table_no, &entity_id, meeting)?;
        }
        let touched = self.plan.entry((table_no, entity_id)).or_default();
        won_columns.into_iter().for_each(|(column, value)| touched.set(column, value));
        Ok(complete)
    }

    /// Records that a pulled write and an own one of the same column did not know of each other, where that is known.
    fn conflict(&mut self, pulled: ChangeId, table_no: u32, entity_id: &str, meeting: Meeting) -> Result<()> {
        let Meeting { column, won, before, value } = meeting;
        let known = if won { self.exposed < Some(before.id) } else { pulled < before.id };
        if !known || pulled.is_backfill() || before.id.is_backfill() {
            return Ok(());
        }
        let name = self.log.names.name(self.log.conn, column)?;
        let own = read_fields(self.log.conn, before.id)?;
        if own.iter().any(|other| same_name(&other.name, &name) && other.value != value) {
            let (winner, loser) = if won { (pulled, before.id) } else { (before.id, pulled) };
            let row = ConflictRow {
                no: 0,
                table_no,
                entity_id: entity_id.to_owned(),
                column_no: column,
                winner,
                loser,
                seen_ms: self.now_ms,
                restored: false,
            };
            self.conflicts += u64::from(record_conflict(self.log.conn, &row)?);
        }
        Ok(())
    }

    /// Marks the changes as merged. Returns what was touched, and how many conflicts were recorded.
    pub(super) fn finish(mut self) -> Result<(Plan, u64)> {
        self.complete.sort_unstable();
        mark_merged(self.log.conn, &self.complete)?;
        Ok((self.plan, self.conflicts))
    }

    /// Asks for the row of an own change to be looked at: it is folded, but other rows may depend on it.
    pub(super) fn own_change(&mut self, id: ChangeId) -> Result<()> {
        let head = read_head(self.log.conn, id)?;
        let head = head.ok_or_else(|| Error::corrupt(format!("the log lacks the change {id}")))?;
        let table_no = self.log.names.number(self.log.conn, &head.entity_type)?;
        if self.tables.get(table_no).is_some() {
            self.plan.entry((table_no, head.entity_id)).or_default().is_own = true;
        }
        Ok(())
    }

    /// Asks for a row to be compared as a whole.
    pub(super) fn touch(&mut self, key: Key) {
        self.plan.entry(key).or_default().whole = true;
    }

    /// Asks for a held row to be tried again, if it is not looked at anyway.
    pub(super) fn retry(&mut self, key: Key) {
        self.plan.entry(key).or_insert_with(Touched::retry).whole = true;
    }
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str> {
    row.get_ref(column)?.as_str().map_err(|e| Error::corrupt("the log holds a name that is no text").caused_by(e))
}

/// Marks changes, in order, as merged: in one go where they are all the unmerged ones between the first and the last.
fn mark_merged(conn: &Connection, ids: &[ChangeId]) -> Result<()> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(()) };
    let (first, last) = (IdText::new(*first), IdText::new(*last));
    let sql = "SELECT count(*), total(NOT merged) FROM \
               (SELECT merged FROM ZV_CHANGE WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)";
    let most = ids.len() * 2;
    let (there, unmerged): (usize, f64) = conn
        .prepare_cached(sql)?
        .query_row((first.as_str(), last.as_str(), most + 1), |row| Ok((row.get(0)?, row.get(1)?)))?;
    if there <= most && unmerged == ids.len() as f64 {
        let sql = "UPDATE ZV_CHANGE SET merged = 1 WHERE id BETWEEN ?1 AND ?2 AND NOT merged";
        conn.prepare_cached(sql)?.execute((first.as_str(), last.as_str()))?;
        return Ok(());
    }
    let mut mark = conn.prepare_cached("UPDATE ZV_CHANGE SET merged = 1 WHERE id = ?1")?;
    ids.iter().try_for_each(|id| mark.execute([IdText::new(*id).as_str()]).map(|_| ()))?;
    Ok(())
}

/// Records that a change waits for a table, or for a column of it.
fn pend(conn: &Connection, id: ChangeId, table_no: u32, column_no: Option<u32>) -> Result<()> {
    let sql = "INSERT INTO ZV_PENDING (change_id, table_no, column_no) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute((id.as_bytes(), table_no, column_no))?;
    Ok(())
}
