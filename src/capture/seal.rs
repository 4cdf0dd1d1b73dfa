//! Sealing: journal rows become changes, in order, with ids, entity ids and registers. The one place where own writes are read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};
use sha2::{Digest, Sha256};

use super::record::{Recorded, Recorder, read_lead};
use super::retranslate::{Rekeyed, follow_rekeyed, retry_left_out};
use super::trigger::{MASK_BITS, op};
use crate::changelog::{
    Keyed, Log, References, Source, entity_of, freed_entity, give_up_local, local_of, move_local, read_source,
    unbind_local,
};
use crate::db::{Ident, Metadata, Turns, bind_value, condition, get_metadata, immediate, read_value};
use crate::error::Result;
use crate::model::Value;
use crate::world::World;

/// How many journal rows one transaction seals.
const BATCH: usize = 5_000;

/// Seals the whole journal, a bounded transaction at a time. Returns how many changes were made.
pub(crate) fn seal(conn: &mut Connection, world: &World, turns: &mut Turns) -> Result<u64> {
    let mut sealed = 0;
    loop {
        let batch = turns.take(conn, |conn| seal_alone(conn, world))?;
        sealed += batch.changes;
        if batch.rows < BATCH {
            return Ok(sealed);
        }
    }
}

/// Seals as long as the journal holds more than a batch: before a transaction that seals the rest and goes on.
pub(crate) fn seal_ahead(conn: &mut Connection, world: &World, turns: &mut Turns) -> Result<()> {
    while conn.prepare_cached("SELECT 1 FROM ZV_JOURNAL LIMIT 1 OFFSET ?1")?.exists([BATCH as i64])? {
        turns.take(conn, |conn| seal_alone(conn, world))?;
    }
    Ok(())
}

/// Seals a batch in a transaction of its own.
fn seal_alone(conn: &mut Connection, world: &World) -> Result<Batch> {
    let tx = immediate(conn)?;
    let mut log = Log::new(&tx)?;
    let batch = seal_batch(&mut log, world)?;
    log.finish()?;
    tx.commit()?;
    Ok(batch)
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

/// Rows that were written while a merge wrote.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// By table and entity id.
    pub(crate) rows: BTreeSet<(u32, String)>,
    /// By table and local integer: rows that are no entity's.
    pub(crate) strays: BTreeSet<(u32, i64)>,
}

/// Takes the journal's entries as mere notes of which rows were written, and discards them: a merge's own writes, and
/// what the user's triggers did meanwhile, are no changes.
pub(crate) fn take_notes(log: &mut Log<'_>, references: &References) -> Result<Notes> {
    let conn = log.conn;
    let mut sources: HashMap<i64, Source> = HashMap::new();
    let mut notes = Notes::default();
    let mut statement = conn.prepare_cached("SELECT * FROM ZV_JOURNAL ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let no: i64 = row.get(2)?;
        let source = match sources.entry(no) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(read_source(conn, no)?),
        };
        let lead = read_lead(source, row, C0)?;
        if let Some(entity_id) = source.entity_id(conn, references, &lead)?.entity() {
            notes.rows.insert((source.table_no, entity_id));
        }
        if let (Some(_), Some(Value::Integer(local))) = (&source.local, lead.first()) {
            match entity_of(conn, source.table_no, *local)? {
                Some(entity_id) => drop(notes.rows.insert((source.table_no, entity_id))),
                None => drop(notes.strays.insert((source.table_no, *local))),
            }
        }
        if row.get::<_, i64>(3)? == op::MOVE
            && let Some(entity_id) = entity_of(conn, source.table_no, moved_from(source, row)?)?
        {
            notes.rows.insert((source.table_no, entity_id));
        }
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
    let database = get_metadata(conn, Metadata::DatabaseUuid)?.unwrap_or_default();
    let recorder = Recorder::new(log, world)?;
    let mut sealer = Sealer {
        recorder,
        database,
        sources: HashMap::new(),
        rekeyed: Vec::new(),
        unheard: HashMap::new(),
        moves: None,
        changes: 0,
    };
    let mut statement = conn.prepare_cached("SELECT * FROM ZV_JOURNAL ORDER BY seq")?;
    let mut rows = statement.query([])?;
    let (mut read, mut last, mut last_ms): (usize, i64, i64) = (0, 0, 0);
    while let Some(row) = rows.next()? {
        let ms = row.get(1)?;
        // What a row of which an update came first is moved by is of the same statement, and that has one time.
        if read >= BATCH && (sealer.unheard.is_empty() || ms != last_ms) {
            break;
        }
        (last, last_ms) = (row.get(0)?, ms);
        read += 1;
        sealer.seal_row(row)?;
    }
    drop(rows);
    let Sealer { mut recorder, rekeyed, mut changes, .. } = sealer;
    changes += follow_rekeyed(&mut recorder, rekeyed)?;
    if read > 0 {
        conn.prepare_cached("DELETE FROM ZV_JOURNAL WHERE seq <= ?1")?.execute([last])?;
    }
    if read < BATCH {
        changes += retry_left_out(&mut recorder)?;
    }
    log.write_sequence()?;
    Ok(Batch { rows: read, changes })
}

/// The first of a journal row's value columns.
const C0: usize = 5;

/// The integer that a row had before it was moved.
fn moved_from(source: &Source, row: &Row<'_>) -> Result<i64> {
    Ok(row.get(C0 + source.lead_len() + source.columns.len())?)
}

struct Sealer<'a, 'c> {
    recorder: Recorder<'a, 'c>,
    /// The database's own UUID, which its copies have too.
    database: String,
    sources: HashMap<i64, Rc<Recorded>>,
    /// Rows with a local integer that got another identity.
    rekeyed: Vec<Rekeyed>,
    /// Rows of which an update is the first that is heard, with what updates changed of them.
    unheard: HashMap<String, Vec<Mask>>,
    /// Where the journal has rows moved to another integer, once that was asked for.
    moves: Option<Moves>,
    changes: u64,
}

/// The places in the journal at which rows are moved from an integer, by table and that integer.
type Moves = HashMap<(u32, i64), Vec<i64>>;

/// Reads where the journal has rows moved, behind a place in it.
fn read_moves(conn: &Connection, after: i64) -> Result<Moves> {
    let mut sources: HashMap<i64, Source> = HashMap::new();
    let mut moves = Moves::new();
    let mut statement = conn.prepare_cached("SELECT * FROM ZV_JOURNAL WHERE seq > ?1 AND op = ?2 ORDER BY seq")?;
    let mut rows = statement.query([after, op::MOVE])?;
    while let Some(row) = rows.next()? {
        let no: i64 = row.get(2)?;
        let source = match sources.entry(no) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(read_source(conn, no)?),
        };
        moves.entry((source.table_no, moved_from(source, row)?)).or_default().push(row.get(0)?);
    }
    Ok(moves)
}

impl<'c> Sealer<'_, 'c> {
    fn seal_row(&mut self, row: &Row<'_>) -> Result<()> {
        let recorded = self.source(row.get(2)?)?;
        let lead = read_lead(&recorded.source, row, C0)?;
        let ms = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let written = Written { recorded: &recorded, lead, ms, row };
        match row.get::<_, i64>(3)? {
            op::INSERT => self.insert(&written),
            op::UPDATE => self.update(&written),
            op::MOVE => self.moved(&written),
            op::REKEY => self.rekey(&written),
            op::CANDIDATE => self.candidate(&written),
            _ => self.delete(&written),
        }
    }

    fn conn(&self) -> &'c Connection {
        self.recorder.conn()
    }

    fn source(&mut self, no: i64) -> Result<Rc<Recorded>> {
        if let Some(recorded) = self.sources.get(&no) {
            return Ok(Rc::clone(recorded));
        }
        let recorded = Rc::new(self.recorder.prepare(read_source(self.conn(), no)?)?);
        self.sources.insert(no, Rc::clone(&recorded));
        Ok(recorded)
    }

    fn insert(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let source = written.source();
        let known = source.entity_id(self.conn(), &self.recorder.references, &written.lead)?;
        let entity_id = match known {
            Keyed::Entity(entity_id) => entity_id,
            Keyed::Untranslated if source.is_generated() => self.new_entity(written)?,
            Keyed::Untranslated => return self.recorder.leave_row_out(source, &written.lead),
            Keyed::Unusable => {
                tracing::warn!(table = source.table, "a journal row without a usable key was left out");
                return Ok(());
            }
        };
        self.bind(written, &entity_id)?;
        self.write(written, &entity_id, true, true)
    }

    /// The id of a row that is new, a UUID of version 7. It is made of the journal row, so that a copy of the database, or a backup that
    /// is put back, makes the same of it: sealed there once more, it is no second row.
    fn new_entity(&mut self, written: &Written<'_, '_>) -> Result<String> {
        let other = self.recorder.world.uuid().to_string();
        let mut hash = Sha256::new();
        hash.update(&self.database);
        for at in 0..written.row.as_ref().column_count() {
            let value = read_value(written.row.get_ref(at)?);
            let (class, bytes) = match &value {
                Value::Null => (0, Vec::new()),
                Value::Integer(n) => (1, n.to_be_bytes().to_vec()),
                Value::Real(n) => (2, n.to_bits().to_be_bytes().to_vec()),
                Value::Text(text) => (3, text.clone()),
                Value::Blob(blob) => (4, blob.clone()),
            };
            hash.update([class]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
        let mut random = [0; 10];
        random.copy_from_slice(&hash.finalize()[..10]);
        let id = uuid::Builder::from_unix_timestamp_millis(written.ms, &random).into_uuid().to_string();
        let is_new = self.recorder.log.entity(written.source().table_no, &id)?.registers.is_empty();
        Ok(if is_new { id } else { other })
    }

    /// Gives an entity the row's local integer; whoever had it was replaced, and what it had itself is free.
    fn bind(&mut self, written: &Written<'_, '_>, entity_id: &str) -> Result<()> {
        let Some(local) = written.local() else { return Ok(()) };
        let table_no = written.source().table_no;
        let is_referred_to = !self.recorder.references.to(table_no).is_empty();
        let before = match entity_of(self.conn(), table_no, local)? {
            Some(before) if before == entity_id => return Ok(()),
            Some(replaced) => {
                self.record_delete(written, &replaced)?;
                Some(replaced)
            }
            None if is_referred_to => freed_entity(self.conn(), table_no, local)?,
            None => None,
        };
        // An integer that is given again: rows that still refer to it refer to this row now.
        if let Some(before) = before.filter(|_| is_referred_to) {
            self.rekeyed.push(Rekeyed { table_no, local, before });
        }
        move_local(self.conn(), &self.recorder.references, table_no, local, entity_id)
    }

    fn update(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let source = written.source();
        match source.entity_id(self.conn(), &self.recorder.references, &written.lead)? {
            Keyed::Entity(entity_id) => {
                if let Some(masks) = self.unheard.get_mut(&entity_id) {
                    masks.push(written.mask()?);
                }
                self.write(written, &entity_id, false, false)
            }
            // A row that the log has not heard of yet: it is recorded whole, as it stands.
            Keyed::Untranslated if source.is_generated() => self.insert_as_it_stands(written),
            Keyed::Untranslated => self.recorder.leave_row_out(source, &written.lead),
            Keyed::Unusable => Ok(()),
        }
    }

    fn insert_as_it_stands(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let entity_id = self.new_entity(written)?;
        self.write_as_it_stands(written, &entity_id, None)?;
        self.unheard.insert(entity_id, vec![written.mask()?]);
        Ok(())
    }

    /// Records a row as its table has it now: the whole of it where it is new, or what updates changed of it.
    fn write_as_it_stands(&mut self, written: &Written<'_, '_>, entity_id: &str, masks: Option<&[Mask]>) -> Result<()> {
        let (conn, recorded) = (self.conn(), written.recorded);
        let first = recorded.source.lead_len();
        recorded.each_live_row(conn, &condition(recorded.source.locator(), 1), &written.lead, |_, row| {
            self.bind(written, entity_id)?;
            let id = self.recorder.next_id(written.ms);
            let is_wanted = |n| masks.is_none_or(|masks| masks.iter().any(|mask| mask.has(n)));
            let value = |n| Ok(is_wanted(n).then_some(row.get_ref(first + n)?));
            self.recorder.write(id, recorded, entity_id, written.local(), masks.is_none(), &value)?;
            self.changes += 1;
            Ok(())
        })
    }

    /// A row that keeps its id under another integer.
    fn moved(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let (conn, source) = (self.conn(), written.source());
        let old = moved_from(source, written.row)?;
        let Some(entity_id) = entity_of(conn, source.table_no, old)? else {
            return self.insert(written);
        };
        let was_written = written.local().map(|now| entity_of(conn, source.table_no, now)).transpose()?.flatten();
        self.bind(written, &entity_id)?;
        self.write(written, &entity_id, true, false)?;
        // What a cascade of the same statement wrote under the new integer came before this, and went to a row of its own.
        match was_written.and_then(|other| self.unheard.remove(&other)) {
            Some(masks) => self.write_as_it_stands(written, &entity_id, Some(&masks)),
            None => Ok(()),
        }
    }

    fn rekey(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let Some(entity_id) = self.recorder.departing(written.source(), &written.lead)? else { return Ok(()) };
        if let Some(local) = written.local() {
            let table_no = written.source().table_no;
            self.rekeyed.push(Rekeyed { table_no, local, before: entity_id.clone() });
        }
        self.record_delete(written, &entity_id)
    }

    fn delete(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let Some(entity_id) = self.recorder.departing(written.source(), &written.lead)? else { return Ok(()) };
        let table_no = written.source().table_no;
        let entity = self.recorder.log.entity(table_no, &entity_id)?;
        // A REPLACE under recursive triggers leaves two journal rows.
        if !entity.shown && !entity.registers.is_empty() && !entity.registers.alive() {
            return Ok(());
        }
        self.record_delete(written, &entity_id)
    }

    /// A row that a REPLACE may have removed: it was deleted if it was there as far as the log knows, and is gone.
    fn candidate(&mut self, written: &Written<'_, '_>) -> Result<()> {
        let Some(entity_id) = self.recorder.departing(written.source(), &written.lead)? else { return Ok(()) };
        let table_no = written.source().table_no;
        let was_there = self.recorder.log.entity(table_no, &entity_id)?.shown;
        if was_there && !row_exists(self.conn(), written.source(), &written.lead)? && !self.moves_on(written)? {
            self.record_delete(written, &entity_id)?;
        }
        Ok(())
    }

    /// Whether a row that has its integer no more was given another one later, as one that an UPSERT left alone may be.
    fn moves_on(&mut self, written: &Written<'_, '_>) -> Result<bool> {
        let (conn, source) = (self.conn(), written.source());
        let Some(local) = written.local().filter(|_| source.is_generated()) else { return Ok(false) };
        let noted: i64 = written.row.get(0)?;
        if self.moves.is_none() {
            self.moves = Some(read_moves(conn, noted)?);
        }
        let moves = self.moves.as_ref().and_then(|moves| moves.get(&(source.table_no, local)));
        let Some(moved) = moves.and_then(|moves| moves.iter().find(|seq| **seq > noted)) else { return Ok(false) };
        // It is another row that moves where the integer was given to one in between.
        let sql = "SELECT 1 FROM ZV_JOURNAL WHERE seq > ?1 AND seq < ?2 AND source = ?3 AND op IN (?4, ?5) AND c0 = ?6";
        let given = (noted, moved, source.no, op::INSERT, op::MOVE, local);
        Ok(!conn.prepare_cached(sql)?.exists(given)?)
    }

    fn record_delete(&mut self, written: &Written<'_, '_>, entity_id: &str) -> Result<()> {
        let (conn, source) = (self.conn(), written.source());
        let id = self.recorder.next_id(written.ms);
        self.recorder.delete(id, source, entity_id)?;
        self.changes += 1;
        if source.local.is_some()
            && let Some(local) = local_of(conn, source.table_no, entity_id)?
        {
            unbind_local(conn, source.table_no, entity_id)?;
            give_up_local(conn, &self.recorder.references, source.table_no, local, entity_id)?;
        }
        Ok(())
    }

    fn write(&mut self, written: &Written<'_, '_>, entity_id: &str, says_rowid: bool, is_insert: bool) -> Result<()> {
        let mask = if is_insert { Mask(None) } else { written.mask()? };
        let first = C0 + written.source().lead_len();
        let rowid = written.local().filter(|_| says_rowid);
        let id = self.recorder.next_id(written.ms);
        let wrote = self.recorder.write(id, written.recorded, entity_id, rowid, is_insert, &|n| {
            Ok(mask.has(n).then_some(written.row.get_ref(first + n)?))
        })?;
        self.changes += u64::from(wrote);
        Ok(())
    }
}

/// A journal row.
struct Written<'w, 'r> {
    recorded: &'w Recorded,
    lead: Vec<Value>,
    ms: u64,
    row: &'w Row<'r>,
}

impl Written<'_, '_> {
    fn source(&self) -> &Source {
        &self.recorded.source
    }

    fn mask(&self) -> Result<Mask> {
        Ok(Mask::read(self.row.get_ref(4)?))
    }

    fn local(&self) -> Option<i64> {
        match (&self.source().local, self.lead.first()) {
            (Some(_), Some(Value::Integer(local))) => Some(*local),
            _ => None,
        }
    }
}

/// Whether a table has a row of this identity. A table that is gone has none that a REPLACE could have removed.
fn row_exists(conn: &Connection, source: &Source, lead: &[Value]) -> Result<bool> {
    let sql = format!("SELECT 1 FROM {} WHERE {}", Ident(&source.table), condition(source.distinct(), 1));
    let Ok(mut statement) = conn.prepare_cached(&sql) else { return Ok(true) };
    Ok(statement.exists(params_from_iter(source.distinct_values(lead).iter().map(bind_value)))?)
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
