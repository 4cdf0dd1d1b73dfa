//! Sealing: journal rows become changes, in order, with ids, entity ids and registers. The one place where own changes are made.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::trigger::{MASK_BITS, op};
use crate::changelog::{Log, NewChange, Source, read_source, release};
use crate::db::{Ident, bind_value, immediate, read_value};
use crate::error::Result;
use crate::model::{
    ChangeId, DELETED_COLUMN, DELETED_FIELD, KeyPart, Register, Value, decode_entity_id, encode_entity_id,
};
use crate::world::World;

/// How many journal rows one transaction seals.
const BATCH: usize = 20_000;

/// Seals the whole journal, a bounded transaction at a time. Returns how many changes were made.
pub(crate) fn seal(conn: &mut Connection, world: &World) -> Result<u64> {
    let mut sealed = 0;
    loop {
        let tx = immediate(conn)?;
        let mut log = Log::new(&tx)?;
        let batch = seal_batch(&mut log, world)?;
        log.finish()?;
        tx.commit()?;
        sealed += batch.changes;
        if batch.rows < BATCH {
            return Ok(sealed);
        }
    }
}

/// Seals what the journal holds, within a transaction that goes on with something else.
pub(crate) fn seal_within(log: &mut Log<'_>, world: &World) -> Result<u64> {
    let mut sealed = 0;
    loop {
        let batch = seal_batch(log, world)?;
        sealed += batch.changes;
        if batch.rows < BATCH {
            return Ok(sealed);
        }
        log.flush()?;
    }
}

/// How many writes wait in the journal.
pub(crate) fn count_journal(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(*) FROM ZV_JOURNAL", [], |row| row.get(0))?)
}

/// Takes the journal's entries as mere notes of which rows were written, and discards them: a merge's own writes, and
/// what the user's triggers did meanwhile, are no changes.
pub(crate) fn take_notes(log: &mut Log<'_>) -> Result<BTreeSet<(u32, String)>> {
    let conn = log.conn;
    let mut sources: HashMap<i64, Source> = HashMap::new();
    let mut notes = BTreeSet::new();
    let mut statement = conn.prepare_cached("SELECT * FROM ZV_JOURNAL ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let no: i64 = row.get(2)?;
        let source = match sources.entry(no) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(read_source(conn, no)?),
        };
        notes.extend(journal_key(source, row)?.map(|id| (source.table_no, id)));
    }
    drop(rows);
    conn.prepare_cached("DELETE FROM ZV_JOURNAL")?.execute([])?;
    Ok(notes)
}

struct Batch {
    rows: usize,
    changes: u64,
}

fn seal_batch(log: &mut Log<'_>, world: &World) -> Result<Batch> {
    let conn = log.conn;
    let mut sealer = Sealer { author: log.author()?, sources: HashMap::new(), held: any_held(conn)?, world, log };
    let mut statement = conn.prepare_cached("SELECT * FROM ZV_JOURNAL ORDER BY seq LIMIT ?1")?;
    let mut rows = statement.query([BATCH as i64])?;
    let mut batch = Batch { rows: 0, changes: 0 };
    let mut last: i64 = 0;
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        batch.rows += 1;
        batch.changes += u64::from(sealer.seal_row(row)?);
    }
    drop(rows);
    if batch.rows > 0 {
        conn.prepare_cached("DELETE FROM ZV_JOURNAL WHERE seq <= ?1")?.execute([last])?;
    }
    log.write_sequence()?;
    Ok(batch)
}

fn any_held(conn: &Connection) -> Result<bool> {
    Ok(conn.query_row("SELECT EXISTS (SELECT 1 FROM ZV_HELD)", [], |row| row.get(0))?)
}

/// The first of a journal row's value columns.
const C0: usize = 5;

struct Sealer<'a, 'c> {
    author: String,
    sources: HashMap<i64, (Source, Vec<u32>)>,
    /// Whether any row is held, and so may be one that was written now.
    held: bool,
    world: &'a World,
    log: &'a mut Log<'c>,
}

impl Sealer<'_, '_> {
    fn seal_row(&mut self, row: &Row<'_>) -> Result<bool> {
        let source_no: i64 = row.get(2)?;
        if !self.sources.contains_key(&source_no) {
            let source = read_source(self.log.conn, source_no)?;
            let numbers: Result<Vec<u32>> =
                source.columns.iter().map(|name| self.log.names.number(self.log.conn, name)).collect();
            self.sources.insert(source_no, (source, numbers?));
        }
        let (source, numbers) = &self.sources[&source_no];
        let Some(entity_id) = journal_key(source, row)? else {
            tracing::warn!(table = source.table, "a journal row without a usable key was left out");
            return Ok(false);
        };
        let operation: i64 = row.get(3)?;
        if operation == op::CANDIDATE && !was_replaced(self.log, source, &entity_id)? {
            return Ok(false);
        }
        if operation == op::DELETE && is_gone(self.log, source, &entity_id)? {
            return Ok(false);
        }
        let ms: i64 = row.get(1)?;
        let id = self.log.clock.next(u64::try_from(ms).unwrap_or(0), self.world.random());
        let (entity_type, entity_id) = (source.table.as_str(), entity_id.as_str());
        self.log.append(NewChange { id, author: &self.author, entity_type, entity_id, own: true })?;
        let shown = match operation {
            op::INSERT | op::UPDATE => {
                let mask = Mask::read(row.get_ref(4)?);
                let first = C0 + source.key.len();
                write_columns(self.log, id, source, numbers, entity_id, |n| {
                    Ok(mask.has(n).then_some(row.get_ref(first + n)?))
                })?;
                true
            }
            _ => {
                write_deleted(self.log, id, source.table_no, entity_id, true)?;
                false
            }
        };
        self.log.entity(source.table_no, entity_id)?.set_shown(shown);
        if self.held {
            release(self.log.conn, source.table_no, entity_id)?;
        }
        Ok(true)
    }
}

/// Logs and folds the columns that `value` has of an own change; a row of key columns alone says that it is not deleted.
pub(super) fn write_columns<'v>(
    log: &mut Log<'_>,
    id: ChangeId,
    source: &Source,
    numbers: &[u32],
    entity_id: &str,
    value: impl Fn(usize) -> Result<Option<ValueRef<'v>>>,
) -> Result<()> {
    if source.columns.is_empty() {
        return write_deleted(log, id, source.table_no, entity_id, false);
    }
    let (mut fields, mut written) = (Vec::with_capacity(numbers.len()), Vec::with_capacity(numbers.len()));
    for (n, name) in source.columns.iter().enumerate() {
        if let Some(value) = value(n)? {
            fields.push((name.as_str(), value));
            written.push(numbers[n]);
        }
    }
    log.append_fields(id, &fields)?;
    let entity = log.entity(source.table_no, entity_id)?;
    for column in written {
        entity.fold(column, Register { id, own: true, deleted: false });
    }
    Ok(())
}

/// Logs and folds the reserved field of an own change.
pub(super) fn write_deleted(
    log: &mut Log<'_>,
    id: ChangeId,
    table_no: u32,
    entity_id: &str,
    deleted: bool,
) -> Result<()> {
    log.append_fields(id, &[(DELETED_FIELD, ValueRef::Integer(i64::from(deleted)))])?;
    log.entity(table_no, entity_id)?.fold(DELETED_COLUMN, Register { id, own: true, deleted });
    Ok(())
}

/// The entity id of a journal row; `None` where its key can be none (a row that was there before its table was tracked).
fn journal_key(source: &Source, row: &Row<'_>) -> Result<Option<String>> {
    let mut key = Vec::with_capacity(source.key.len());
    for n in 0..source.key.len() {
        match KeyPart::from_value(read_value(row.get_ref(C0 + n)?)) {
            Some(part) => key.push(part),
            None => return Ok(None),
        }
    }
    Ok(encode_entity_id(source.kind, &key))
}

/// Whether the log says already that a row is deleted: a REPLACE under recursive triggers leaves two journal rows.
fn is_gone(log: &mut Log<'_>, source: &Source, entity_id: &str) -> Result<bool> {
    let entity = log.entity(source.table_no, entity_id)?;
    Ok(!entity.shown && !entity.registers.is_empty() && !entity.registers.alive())
}

/// Whether a row that a REPLACE may have removed is gone, and was there as far as the log knows.
fn was_replaced(log: &mut Log<'_>, source: &Source, entity_id: &str) -> Result<bool> {
    if !log.entity(source.table_no, entity_id)?.shown {
        return Ok(false);
    }
    Ok(!row_exists(log.conn, source, entity_id)?)
}

/// Whether a table has the row of an entity. A table that is gone has none that a REPLACE could have removed.
fn row_exists(conn: &Connection, source: &Source, entity_id: &str) -> Result<bool> {
    let Some(key) = decode_entity_id(source.kind, source.key.len(), entity_id) else { return Ok(true) };
    let terms: Vec<String> =
        source.key.iter().enumerate().map(|(n, name)| format!("{} = ?{}", Ident(name), n + 1)).collect();
    let sql = format!("SELECT 1 FROM {} WHERE {}", Ident(&source.table), terms.join(" AND "));
    let Ok(mut statement) = conn.prepare_cached(&sql) else { return Ok(true) };
    let key: Vec<Value> = key.into_iter().map(KeyPart::into_value).collect();
    let found = statement.query_row(rusqlite::params_from_iter(key.iter().map(bind_value)), |_| Ok(())).optional()?;
    Ok(found.is_some())
}

/// Which columns an update changed: NULL says all, otherwise integers of 62 bits joined by commas.
struct Mask(Option<Vec<i64>>);

impl Mask {
    fn read(value: ValueRef<'_>) -> Self {
        Self(match value {
            ValueRef::Null => None,
            ValueRef::Integer(bits) => Some(vec![bits]),
            ValueRef::Text(text) => {
                let text = String::from_utf8_lossy(text);
                Some(text.split(',').map(|bits| bits.parse().unwrap_or(0)).collect())
            }
            ValueRef::Real(_) | ValueRef::Blob(_) => Some(Vec::new()),
        })
    }

    fn has(&self, n: usize) -> bool {
        match &self.0 {
            None => true,
            Some(groups) => groups.get(n / MASK_BITS).is_some_and(|bits| bits >> (n % MASK_BITS) & 1 == 1),
        }
    }
}
