//! Folding: unmerged changes become registers, and what they touched becomes a plan. Writes our tables only.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::tables::{FieldKind, Tables};
use crate::changelog::{ConflictRow, IdText, Log, LoggedField, LoggedHead, read_fields, read_head, record_conflict};
use crate::db::{Metadata, get_metadata, same_name};
use crate::error::{Error, Result};
use crate::model::{ChangeId, DELETED_COLUMN, Register, Value};

/// An entity of a table.
pub(super) type Key = (u32, String);

/// What a batch found out about an entity.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The columns that got a new winner, with its value.
    pub(super) columns: BTreeMap<u32, Value>,
    /// The row is compared as a whole, as something else than a change of its own may have moved it.
    pub(super) whole: bool,
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
    pub(super) plan: Plan,
    pub(super) conflicts: u64,
}

impl<'a, 'c> Folder<'a, 'c> {
    pub(super) fn new(log: &'a mut Log<'c>, tables: &'a mut Tables, now_ms: u64) -> Result<Self> {
        let exposed = get_metadata(log.conn, Metadata::ExposedId)?;
        Ok(Self { log, tables, exposed, now_ms, plan: Plan::new(), conflicts: 0 })
    }

    /// Folds a change of the log. Returns about how many bytes of it stay in memory.
    pub(super) fn change(&mut self, id: ChangeId) -> Result<usize> {
        let conn = self.log.conn;
        let head = read_head(conn, id)?.ok_or_else(|| Error::corrupt(format!("the log lacks the change {id}")))?;
        self.log.clock.observe(id);
        let table_no = self.log.names.number(conn, &head.entity_type)?;
        if self.tables.get(table_no).is_none() {
            pend(conn, id, table_no, None)?;
            return Ok(64);
        }
        let fields = read_fields(conn, id)?;
        let size = fields.iter().map(|field| field.value.size() + 64).sum::<usize>() + head.entity_id.len() + 128;
        let whole = self.fields(id, table_no, &head, fields)?;
        if whole {
            let sql = "UPDATE ZV_CHANGE SET merged = 1 WHERE id = ?1";
            conn.prepare_cached(sql)?.execute([IdText::new(id).as_str()])?;
        }
        Ok(size)
    }

    /// Folds the fields of a change; false if one of them waits for its column.
    fn fields(&mut self, id: ChangeId, table_no: u32, head: &LoggedHead, fields: Vec<LoggedField>) -> Result<bool> {
        let mut complete = true;
        let mut touched = self.plan.remove(&(table_no, head.entity_id.clone())).unwrap_or_default();
        for field in fields {
            let table = self.tables.get_mut(table_no).expect("the caller looked the table up");
            let column = match table.field(self.log, &field.name)? {
                FieldKind::Key => continue,
                FieldKind::Deleted => DELETED_COLUMN,
                FieldKind::Column(no) | FieldKind::Excluded(no) => no,
                FieldKind::Unknown(no) => {
                    pend(self.log.conn, id, table_no, Some(no))?;
                    complete = false;
                    no
                }
            };
            let deleted = column == DELETED_COLUMN && field.value.says_deleted();
            let entity = self.log.entity(table_no, &head.entity_id)?;
            let (won, before) = entity.fold(column, Register { id, own: false, deleted });
            if let Some(before) = before.filter(|_| column != DELETED_COLUMN) {
                self.conflict(table_no, head, column, (id, won), before, &field)?;
            }
            if won {
                touched.columns.insert(column, field.value);
            }
        }
        self.plan.insert((table_no, head.entity_id.clone()), touched);
        Ok(complete)
    }

    /// Records that a pulled write and an own one of the same column did not know of each other, where that is known.
    fn conflict(
        &mut self,
        table_no: u32,
        head: &LoggedHead,
        column_no: u32,
        (pulled, won): (ChangeId, bool),
        before: Register,
        field: &LoggedField,
    ) -> Result<()> {
        let known = if won { self.exposed < Some(before.id) } else { pulled < before.id };
        if !before.own || !known || pulled.is_backfill() || before.id.is_backfill() {
            return Ok(());
        }
        let own = read_fields(self.log.conn, before.id)?;
        let differs = own.iter().any(|other| same_name(&other.name, &field.name) && other.value != field.value);
        if differs {
            let (winner, loser) = if won { (pulled, before.id) } else { (before.id, pulled) };
            let entity_id = head.entity_id.clone();
            let seen_ms = self.now_ms;
            let row = ConflictRow { no: 0, table_no, entity_id, column_no, winner, loser, seen_ms, restored: false };
            self.conflicts += u64::from(record_conflict(self.log.conn, &row)?);
        }
        Ok(())
    }

    /// Asks for a row to be compared as a whole.
    pub(super) fn touch(&mut self, key: Key) {
        self.plan.entry(key).or_default().whole = true;
    }
}

/// Records that a change waits for a table, or for a column of it.
fn pend(conn: &Connection, id: ChangeId, table_no: u32, column_no: Option<u32>) -> Result<()> {
    let sql = "INSERT INTO ZV_PENDING (change_id, table_no, column_no) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute((id.as_bytes(), table_no, column_no))?;
    Ok(())
}
