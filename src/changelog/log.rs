//! Appending to the log and folding into the registers, within one transaction whose caches it holds.

use std::collections::HashMap;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params_from_iter};

use super::{IdText, Names};
use crate::db::{Metadata, Shapes, bind_logged, get_metadata, set_metadata};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock, Register, Registers};

/// A change on its way into the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewChange<'a> {
    pub(crate) id: ChangeId,
    pub(crate) author: &'a str,
    pub(crate) entity_type: &'a str,
    pub(crate) entity_id: &'a str,
    /// Made here, and so folded already; what is pulled waits for a merge.
    pub(crate) own: bool,
}

/// What is known of an entity: its registers, and whether its table shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entity {
    pub(crate) registers: Registers,
    pub(crate) shown: bool,
    dirty: bool,
    stored: bool,
}

impl Entity {
    /// Folds one write in. Returns whether it won, and what the register held before.
    pub(crate) fn fold(&mut self, column: u32, write: Register) -> (bool, Option<Register>) {
        let (won, before) = self.registers.fold(column, write);
        self.dirty |= won;
        (won, before)
    }

    pub(crate) fn set_shown(&mut self, shown: bool) {
        self.dirty |= self.shown != shown;
        self.shown = shown;
    }

    pub(crate) fn replace_registers(&mut self, registers: Registers) {
        self.registers = registers;
        self.dirty = true;
    }
}

/// The log during one write transaction: its names, its clock and the entities at hand are cached until [`finish`](Self::finish).
pub(crate) struct Log<'c> {
    pub(crate) conn: &'c Connection,
    pub(crate) names: Names,
    /// Of the tables that the user has; nothing of ours is among them, nor changes them.
    pub(crate) shapes: Shapes,
    pub(crate) clock: Clock,
    clock_before: Clock,
    entities: HashMap<u32, HashMap<String, Entity>>,
    /// Places in the sequence that are still to be written.
    sequence: Vec<(ChangeId, bool)>,
    add_change: CachedStatement<'c>,
    add_sequence: CachedStatement<'c>,
    /// By the number of fields that they add, less one.
    add_fields: [Option<CachedStatement<'c>>; FIELDS],
    find_entity: CachedStatement<'c>,
}

impl<'c> Log<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Result<Self> {
        let clock = Clock::new(get_metadata(conn, Metadata::LastId)?);
        Ok(Self {
            conn,
            names: Names::default(),
            shapes: Shapes::default(),
            clock,
            clock_before: clock,
            entities: HashMap::new(),
            sequence: Vec::with_capacity(SEQUENCE_ROWS),
            add_change: conn.prepare_cached(
                "INSERT OR IGNORE INTO ZV_CHANGE (id, author_id, entity_type, entity_id, merged) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            add_sequence: conn.prepare_cached(&sequence_sql(SEQUENCE_ROWS))?,
            add_fields: [const { None }; FIELDS],
            find_entity: conn.prepare_cached(FIND_ENTITY)?,
        })
    }

    /// The author id of this replica.
    pub(crate) fn author(&self) -> Result<String> {
        get_metadata(self.conn, Metadata::DatabaseUuid)?
            .ok_or_else(|| Error::corrupt("ZV_METADATA has no database_uuid"))
    }

    /// Appends a change's head and its place in the sequence; false, and nothing done, if the log has it.
    pub(crate) fn append(&mut self, change: NewChange<'_>) -> Result<bool> {
        let id = IdText::new(change.id);
        let row = (id.as_str(), change.author, change.entity_type, change.entity_id, change.own);
        if self.add_change.execute(row)? == 0 {
            return Ok(false);
        }
        self.sequence.push((change.id, change.own));
        if self.sequence.len() == SEQUENCE_ROWS {
            self.write_sequence()?;
        }
        Ok(true)
    }

    /// Writes the places in the sequence that were put off, many with one statement, as each statement has its price.
    pub(crate) fn write_sequence(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.sequence);
        let values = rows.iter().flat_map(|(id, own)| {
            [ToSqlOutput::Borrowed(ValueRef::Blob(id.as_bytes())), ToSqlOutput::Owned((*own).into())]
        });
        match rows.len() {
            0 => {}
            SEQUENCE_ROWS => {
                self.add_sequence.execute(params_from_iter(values))?;
            }
            n => {
                self.conn.prepare(&sequence_sql(n))?.execute(params_from_iter(values))?;
            }
        }
        Ok(())
    }

    /// Appends the fields of a change, with one statement for up to `FIELDS` of them; the values are the user's, and get
    /// their logged form here.
    pub(crate) fn append_fields(&mut self, id: ChangeId, fields: &[(&str, ValueRef<'_>)]) -> Result<()> {
        let id = IdText::new(id);
        for part in fields.chunks(FIELDS) {
            let statement = match &mut self.add_fields[part.len() - 1] {
                Some(statement) => statement,
                unprepared => unprepared.insert(self.conn.prepare_cached(&fields_sql(part.len()))?),
            };
            let values = part.iter().flat_map(|(name, value)| {
                [ToSqlOutput::Borrowed(ValueRef::Text(name.as_bytes())), bind_logged(*value)]
            });
            let id = ToSqlOutput::Borrowed(ValueRef::Text(id.as_str().as_bytes()));
            statement.execute(params_from_iter(std::iter::once(id).chain(values)))?;
        }
        Ok(())
    }

    /// An entity, read on first use.
    pub(crate) fn entity(&mut self, table_no: u32, id: &str) -> Result<&mut Entity> {
        let entities = self.entities.entry(table_no).or_default();
        if !entities.contains_key(id) {
            let entity = find_entity(&mut self.find_entity, table_no, id)?.unwrap_or_default();
            entities.insert(id.to_owned(), entity);
        }
        Ok(entities.get_mut(id).expect("it was there, or put there just above"))
    }

    /// How many entities are cached: what a caller bounds its batches by.
    pub(crate) fn cached(&self) -> usize {
        self.entities.values().map(HashMap::len).sum()
    }

    /// Writes the entities and the sequence back and forgets them.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.write_sequence()?;
        let sql = "INSERT INTO ZV_REGISTER (table_no, entity_id, shown, registers) VALUES (?1, ?2, ?3, ?4)";
        let mut insert = self.conn.prepare_cached(sql)?;
        let sql = "UPDATE ZV_REGISTER SET shown = ?3, registers = ?4 WHERE table_no = ?1 AND entity_id = ?2";
        let mut update = self.conn.prepare_cached(sql)?;
        for (table_no, entities) in self.entities.drain() {
            let mut dirty: Vec<(String, Entity)> = entities.into_iter().filter(|(_, entity)| entity.dirty).collect();
            dirty.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (id, entity) in dirty {
                let statement = if entity.stored { &mut update } else { &mut insert };
                statement.execute((table_no, id, entity.shown, entity.registers.encode()))?;
            }
        }
        Ok(())
    }

    /// Writes back what the transaction changed. Everything cached is lost without it.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self.clock.last() {
            Some(last) if self.clock != self.clock_before => set_metadata(self.conn, Metadata::LastId, last),
            _ => Ok(()),
        }
    }
}

/// How many fields one statement adds.
const FIELDS: usize = 8;

fn fields_sql(fields: usize) -> String {
    let rows: Vec<String> = (0..fields).map(|n| format!("(?1, ?{}, ?{})", 2 * n + 2, 2 * n + 3)).collect();
    format!("INSERT INTO ZV_CHANGE_FIELD (change_id, field_name, field_value) VALUES {}", rows.join(", "))
}

/// How many places of the sequence one statement writes.
const SEQUENCE_ROWS: usize = 64;

fn sequence_sql(rows: usize) -> String {
    format!("INSERT INTO ZV_SEQUENCE (change_id, own) VALUES {}", vec!["(?, ?)"; rows].join(", "))
}

const FIND_ENTITY: &str = "SELECT shown, registers FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";

fn find_entity(statement: &mut CachedStatement<'_>, table_no: u32, id: &str) -> Result<Option<Entity>> {
    let row = statement.query_row((table_no, id), |row| {
        Ok((row.get::<_, bool>(0)?, Registers::decode(row.get_ref(1)?.as_blob().unwrap_or(&[0]))))
    });
    match row.optional()? {
        None => Ok(None),
        Some((shown, Some(registers))) => Ok(Some(Entity { registers, shown, dirty: false, stored: true })),
        Some((_, None)) => Err(Error::corrupt("ZV_REGISTER holds registers that cannot be read")),
    }
}
