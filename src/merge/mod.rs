//! Merge: unmerged changes into registers, registers into the entity tables, a batch a transaction.
//! Does no I/O but SQLite, and is the only module that writes a user's table.

mod apply;
mod aside;
mod children;
mod claims;
mod fold;
mod integers;
mod notes;
mod parents;
mod pending;
mod reason;
mod tables;
mod trial;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Transaction};

use crate::capture::{seal_ahead, seal_within};
use crate::changelog::{Log, any_waits, bind_local, entity_of, forget_freed, list_freed, list_restless, local_of};
use crate::db::{Metadata, Turns, get_metadata, immediate, set_metadata};
use crate::error::{Error, Result};
use crate::model::ChangeId;
use crate::world::World;
pub(crate) use trial::{RowClaim, Trial, claims_more};

use apply::{Applier, Refused, Stop};
use fold::{Folder, Key, Plan};
use notes::set_triggers;
use tables::Tables;

/// What bounds a batch, and with it how long the write lock is held at a time: changes, and the bytes of their values.
const BATCH_CHANGES: usize = 4_000;
const BATCH_BYTES: usize = 16 << 20;

/// What a batch is made no smaller than, while a trigger rolls batches back.
const LEAST_CHANGES: usize = 32;

/// What a merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// Changes folded.
    pub(crate) changes: u64,
    /// Conflicts recorded.
    pub(crate) conflicts: u64,
}

/// Merges everything that waits. `progress` hears of the changes done, batch by batch.
pub(crate) fn merge(conn: &mut Connection, world: &World, turns: &mut Turns, progress: &dyn Fn(u64)) -> Result<Merged> {
    let quiet = Quiet::begin(conn)?;
    let merged = merge_all(conn, world, turns, progress);
    quiet.end(conn)?;
    merged
}

fn merge_all(conn: &mut Connection, world: &World, turns: &mut Turns, progress: &dyn Fn(u64)) -> Result<Merged> {
    let mut merged = Merged::default();
    let mut refused = Refused::new();
    let mut most = BATCH_CHANGES;
    loop {
        seal_ahead(conn, world, turns)?;
        match turns.take(conn, |conn| merge_batch(conn, world, &refused, most)) {
            Ok(batch) => {
                most = BATCH_CHANGES.min(most * 2);
                merged.changes += batch.changes;
                merged.conflicts += batch.conflicts;
                progress(merged.changes);
                if batch.last {
                    return Ok(merged);
                }
            }
            Err(Stop::RolledBack(key, why)) => {
                refused.insert(key, why);
                // All of the batch is done again for each such row.
                most = LEAST_CHANGES.max(most / 2);
            }
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
}

/// Foreign key actions do not run at merge: the origin's cascades arrive as changes of their own.
struct Quiet {
    foreign_keys: bool,
}

impl Quiet {
    fn begin(conn: &Connection) -> Result<Self> {
        let foreign_keys = conn.pragma_query_value(None, "foreign_keys", |row| row.get(0))?;
        // Setting it, to whatever it is, has SQLite compile every statement anew.
        if foreign_keys {
            conn.pragma_update(None, "foreign_keys", false)?;
        }
        Ok(Self { foreign_keys })
    }

    fn end(self, conn: &Connection) -> Result<()> {
        set_triggers(conn, true)?;
        if self.foreign_keys {
            conn.pragma_update(None, "foreign_keys", true)?;
        }
        Ok(())
    }
}

struct Batch {
    changes: u64,
    conflicts: u64,
    last: bool,
}

fn merge_batch(conn: &mut Connection, world: &World, refused: &Refused, most: usize) -> Result<Batch, Stop> {
    let tx = immediate(conn)?;
    let mut log = Log::new(&tx)?;
    seal_within(&mut log, world)?;
    let mut tables = Tables::load(&mut log)?;
    let work = Work::find(&tx, &tables, refused, most)?;
    if work.is_empty() {
        log.finish()?;
        work.record(&tx)?;
        tx.commit()?;
        return Ok(Batch { changes: 0, conflicts: 0, last: true });
    }
    let user_triggers = tables.have_user_triggers();
    // Where no trigger but ours would run, none has to.
    set_triggers(&tx, user_triggers)?;
    let mut folder = Folder::new(&mut log, &mut tables, world.now_ms())?;
    let folded = work.fold(&mut folder)?;
    let (plan, conflicts) = folder.finish()?;
    let mut applier = Applier::new(&mut log, &tables, refused)?;
    for key in work.vacated {
        if !applier.log.entity(key.0, &key.1)?.registers.alive() {
            applier.deleted.insert(key.clone());
        }
        applier.vacated.insert(key);
    }
    show(&mut applier, plan, user_triggers)?;
    drop(applier);
    log.finish()?;
    folded.record(&tx)?;
    tx.commit()?;
    Ok(Batch { changes: folded.changes, conflicts, last: folded.last })
}

/// Brings the tables in line with what was folded.
fn show(applier: &mut Applier<'_, '_>, plan: Plan, user_triggers: bool) -> Result<(), Stop> {
    applier.apply(plan)?;
    if user_triggers { notes::settle(applier) } else { come_to_rest(applier) }
}

/// Takes out what depends on rows that are not shown, until nothing does.
fn come_to_rest(applier: &mut Applier<'_, '_>) -> Result<(), Stop> {
    loop {
        parents::hold_orphans(applier)?;
        if !applier.give_up()? {
            return Ok(());
        }
    }
}

/// A place in the sequence.
struct Logged {
    seq: i64,
    id: ChangeId,
    own: bool,
}

/// What a batch has to do.
struct Work {
    /// How many of each kind it may be at most.
    most: usize,
    /// Changes after the cursor.
    logged: Vec<Logged>,
    /// Changes that waited for a table.
    returned: Vec<ChangeId>,
    /// Rows to be shown anew.
    touched: Vec<Key>,
    /// Rows with a local integer that were deleted here: it is theirs until the batch ends, so that who refers to them is found.
    vacated: Vec<Key>,
    /// The greatest sequence number there is.
    end: i64,
    /// Held rows that get another chance at each merge, as nothing says what would let them in.
    restless: Vec<Key>,
}

impl Work {
    fn find(tx: &Transaction<'_>, tables: &Tables, refused: &Refused, most: usize) -> Result<Self, Stop> {
        pending::settle_columns(tx, tables)?;
        let cursor: i64 = get_metadata(tx, Metadata::MergedSeq)?.unwrap_or(0);
        let end: i64 = tx.query_row("SELECT coalesce(max(seq), 0) FROM ZV_SEQUENCE", [], |row| row.get(0))?;
        let returned = pending::take_changes(tx, tables, most)?;
        // What a row shows may be what a backfill said that gave way to one of these, of which more may come.
        let mut touched = if returned.len() < most { take_touched(tx, tables, most)? } else { Vec::new() };
        let vacated = take_given_up(tx, tables, &mut touched)?;
        let logged = logged_after(tx, cursor, rows_depend(tx, tables)?, most)?;
        let may_be_last = logged.len() < most && returned.len() < most && touched.len() < most;
        // All held rows are read for them, which is once enough.
        let mut restless = if may_be_last { list_restless(tx)? } else { Vec::new() };
        restless.retain(|key| tables.get(key.0).is_some() && !refused.contains_key(key));
        Ok(Self { most, vacated, logged, returned, touched, restless, end })
    }

    fn is_empty(&self) -> bool {
        let nothing_new = self.logged.is_empty() && self.returned.is_empty();
        nothing_new && self.touched.is_empty() && self.vacated.is_empty() && self.restless.is_empty()
    }

    fn record(&self, tx: &Transaction<'_>) -> Result<()> {
        Folded { cursor: self.end, changes: 0, last: true }.record(tx)
    }

    /// Folds as much as fits a batch, and adds the rows that are to be looked at for other reasons.
    fn fold(&self, folder: &mut Folder<'_, '_>) -> Result<Folded> {
        for id in &self.returned {
            folder.change(*id)?;
        }
        let mut folded = Folded { cursor: self.end, changes: self.returned.len() as u64, last: true };
        let mut bytes = 0;
        for (n, logged) in self.logged.iter().enumerate() {
            if logged.own {
                folder.own_change(logged.id)?;
            } else {
                bytes += folder.change(logged.id)?;
                folded.changes += 1;
            }
            if bytes >= BATCH_BYTES || n + 1 == self.most {
                folded.cursor = logged.seq;
                folded.last = false;
                break;
            }
        }
        folded.last &= self.returned.len() < self.most && self.touched.len() < self.most;
        // Those nobody calls have their chance once a merge, after all that is new.
        let restless = self.restless.iter().filter(|_| folded.last);
        self.touched.iter().for_each(|key| folder.touch(key.clone()));
        restless.for_each(|key| folder.retry(key.clone()));
        Ok(folded)
    }
}

/// Looks at the integers that rows gave up here. Rows that refer to one whose row has another are touched, and follow it;
/// rows that were deleted, which are returned, get theirs back until the batch ends.
fn take_given_up(tx: &Transaction<'_>, tables: &Tables, touched: &mut Vec<Key>) -> Result<Vec<Key>, Stop> {
    let (mut deleted, mut moved_on, mut left) = (Vec::new(), Vec::new(), Vec::new());
    let freed = list_freed(tx)?;
    let mut nobodys: BTreeMap<u32, BTreeSet<i64>> = BTreeMap::new();
    for (table_no, local, entity_id) in freed.iter().rev() {
        let locals = nobodys.entry(*table_no).or_default();
        match (entity_of(tx, *table_no, *local)?, local_of(tx, *table_no, entity_id)?) {
            (None, None) => {
                bind_local(tx, *table_no, *local, entity_id)?;
                deleted.push((*table_no, entity_id.clone()));
                locals.insert(*local);
            }
            (None, Some(now)) => {
                moved_on.push((*table_no, *local));
                left.push(children::Left { parent_no: *table_no, before: *local, now });
                locals.insert(*local);
            }
            (Some(_), _) => moved_on.push((*table_no, *local)),
        }
    }
    touched.extend(children::referring(tx, tables, &moved_on)?);
    children::follow(tx, tables, &left)?;
    // Whoever refers to them has been looked at, unless their table is away.
    for (table_no, locals) in nobodys {
        forget_freed(tx, table_no, &tables.remembered(tx, table_no, locals)?)?;
    }
    Ok(deleted)
}

struct Folded {
    cursor: i64,
    changes: u64,
    last: bool,
}

impl Folded {
    fn record(&self, tx: &Transaction<'_>) -> Result<()> {
        let before: Option<i64> = get_metadata(tx, Metadata::MergedSeq)?;
        if before.is_none_or(|before| before < self.cursor) {
            set_metadata(tx, Metadata::MergedSeq, self.cursor)?;
        }
        Ok(())
    }
}

/// Whether a row may depend on what another row's own writer did.
fn rows_depend(tx: &Transaction<'_>, tables: &Tables) -> Result<bool> {
    let has_parents = tables.iter().any(|table| !table.shape.foreign_keys.is_empty());
    Ok(has_parents || any_waits(tx)? || has_claims(tx)?)
}

fn has_claims(tx: &Transaction<'_>) -> Result<bool> {
    Ok(tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM ZV_CLAIM)")?.query_row([], |row| row.get(0))?)
}

/// The changes after the cursor, in the order of the sequence: pulled ones, and own ones where they matter.
fn logged_after(tx: &Transaction<'_>, cursor: i64, with_own: bool, most: usize) -> Result<Vec<Logged>> {
    let sql = "SELECT seq, change_id, own FROM ZV_SEQUENCE WHERE seq > ?1 AND (NOT own OR ?2) ORDER BY seq LIMIT ?3";
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query((cursor, with_own, most as i64))?;
    let mut logged = Vec::new();
    while let Some(row) = rows.next()? {
        let id = ChangeId::from_bytes(row.get(1)?);
        let id = id.ok_or_else(|| Error::corrupt("ZV_SEQUENCE holds an id that is not a UUIDv7"))?;
        logged.push(Logged { seq: row.get(0)?, id, own: row.get(2)? });
    }
    Ok(logged)
}

/// Takes rows off the list of those to be shown anew; those of tables that are not there stay on it.
fn take_touched(tx: &Transaction<'_>, tables: &Tables, most: usize) -> Result<Vec<Key>> {
    let mut touched = Vec::new();
    for table in tables.iter() {
        let limit = (most - touched.len()) as i64;
        let sql = "SELECT entity_id FROM ZV_TOUCHED WHERE table_no = ?1 ORDER BY entity_id LIMIT ?2";
        let mut statement = tx.prepare_cached(sql)?;
        let rows = statement.query_map((table.no(), limit), |row| row.get::<_, String>(0))?;
        for row in rows {
            touched.push((table.no(), row?));
        }
    }
    let mut statement = tx.prepare_cached("DELETE FROM ZV_TOUCHED WHERE table_no = ?1 AND entity_id = ?2")?;
    touched.iter().try_for_each(|(table_no, id)| statement.execute((table_no, id)).map(|_| ()))?;
    Ok(touched)
}
