//! What is remembered of where changes lie on a remote: its packs, its loose files, and what was lost there.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::conflicts::id_from;
use crate::db::{Metadata, get_metadata, set_metadata};
use crate::error::{Error, Result};
use crate::model::ChangeId;
use crate::wire::{decode_ids, encode_ids};

/// A pack of a remote, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) pack: ChangeId,
    pub(crate) size: u64,
    pub(crate) changes: u64,
    /// The bytes of its records, once decompressed.
    pub(crate) raw: u64,
    /// The epoch under which it is sealed, on an encrypted remote.
    pub(crate) epoch: Option<ChangeId>,
    /// The least and the greatest id in it.
    pub(crate) first: ChangeId,
    pub(crate) last: ChangeId,
    /// Whether the log holds all of its changes.
    pub(crate) complete: bool,
    /// When this replica wrote it or first saw it.
    pub(crate) seen_ms: u64,
    /// Whether packs of greater names hold all of its changes.
    pub(crate) covered: Covered,
}

impl PackRow {
    /// Whether it is sealed under another epoch than the current one. One whose epoch is not known is left as it is.
    pub(crate) fn is_sealed_before(&self, current: Option<ChangeId>) -> bool {
        current.is_some() && self.epoch.is_some() && self.epoch != current
    }
}

/// Whether packs of greater names hold all of a pack's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covered {
    /// Still to be found out.
    Unknown,
    No,
    /// The last of them was seen then.
    Since(u64),
}

impl Covered {
    fn decode(ms: i64) -> Self {
        match u64::try_from(ms) {
            Err(_) => Self::Unknown,
            Ok(0) => Self::No,
            Ok(ms) => Self::Since(ms),
        }
    }

    fn encode(self) -> i64 {
        match self {
            Self::Unknown => -1,
            Self::No => 0,
            Self::Since(ms) => i64::try_from(ms.max(1)).unwrap_or(i64::MAX),
        }
    }
}

/// What a pack's header says of it, and how large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewPack<'a> {
    pub(crate) pack: ChangeId,
    pub(crate) size: u64,
    pub(crate) raw: u64,
    /// The epoch under which it is sealed, on an encrypted remote.
    pub(crate) epoch: Option<ChangeId>,
    /// The ids of its changes, ascending and not empty.
    pub(crate) ids: &'a [ChangeId],
    pub(crate) complete: bool,
}

/// The remembered packs of a remote, by name.
pub(crate) fn list_packs(conn: &Connection, remote: i64) -> Result<Vec<PackRow>> {
    let sql = "SELECT pack, size, changes, raw, first, last, complete, seen_ms, covered_ms, epoch FROM ZV_PACK \
               WHERE remote_no = ?1 ORDER BY pack";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([remote])?;
    let mut packs = Vec::new();
    while let Some(row) = rows.next()? {
        packs.push(PackRow {
            pack: id_from(row.get(0)?)?,
            size: row.get(1)?,
            changes: row.get(2)?,
            raw: row.get(3)?,
            first: id_from(row.get(4)?)?,
            last: id_from(row.get(5)?)?,
            complete: row.get(6)?,
            seen_ms: row.get(7)?,
            covered: Covered::decode(row.get(8)?),
            epoch: row.get::<_, Option<[u8; 16]>>(9)?.map(id_from).transpose()?,
        });
    }
    Ok(packs)
}

/// The ids of a remembered pack's changes, ascending; none where another process has forgotten it since.
pub(crate) fn pack_ids(conn: &Connection, remote: i64, pack: ChangeId) -> Result<Vec<ChangeId>> {
    let sql = "SELECT ids, changes FROM ZV_PACK WHERE remote_no = ?1 AND pack = ?2";
    let found: Option<(Vec<u8>, usize)> = conn
        .prepare_cached(sql)?
        .query_row((remote, pack.as_bytes()), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((ids, changes)) = found else { return Ok(Vec::new()) };
    decode_ids(&ids, changes).map_err(|bad| Error::corrupt("ZV_PACK holds ids that cannot be read").caused_by(bad))
}

/// Remembers a pack. One that is remembered already keeps its time.
pub(crate) fn remember_pack(conn: &Connection, remote: i64, new: NewPack<'_>, now_ms: u64) -> Result<()> {
    let NewPack { pack, size, raw, epoch, ids, complete } = new;
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(()) };
    let sql = "INSERT INTO ZV_PACK (remote_no, pack, size, changes, raw, first, last, complete, seen_ms, covered_ms, ids, \
               epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, -1, ?10, ?11) \
               ON CONFLICT (remote_no, pack) DO UPDATE SET size = ?3, changes = ?4, raw = ?5, first = ?6, last = ?7, \
               complete = ?8, ids = ?10, epoch = ?11";
    conn.prepare_cached(sql)?.execute((
        remote,
        pack.as_bytes(),
        size,
        ids.len(),
        raw,
        first.as_bytes(),
        last.as_bytes(),
        complete,
        now_ms.max(1),
        encode_ids(ids),
        epoch.as_ref().map(ChangeId::as_bytes),
    ))?;
    // It may hold what older packs hold.
    let sql = "UPDATE ZV_PACK SET covered_ms = -1 WHERE remote_no = ?1 AND pack < ?2 AND covered_ms = 0 \
               AND first <= ?4 AND last >= ?3";
    conn.prepare_cached(sql)?.execute((remote, pack.as_bytes(), first.as_bytes(), last.as_bytes()))?;
    let sql = "UPDATE ZV_LOOSE SET packed_ms = ?3 WHERE remote_no = ?1 AND change_id = ?2 AND packed_ms = 0";
    let mut mark = conn.prepare_cached(sql)?;
    for id in loose_between(conn, remote, *first, *last)? {
        if ids.binary_search(&id).is_ok() {
            mark.execute((remote, id.as_bytes(), now_ms.max(1)))?;
        }
    }
    Ok(())
}

/// Records what was found out of a pack.
pub(crate) fn set_covered(conn: &Connection, remote: i64, pack: ChangeId, covered: Covered) -> Result<()> {
    let sql = "UPDATE ZV_PACK SET covered_ms = ?3 WHERE remote_no = ?1 AND pack = ?2";
    conn.prepare_cached(sql)?.execute((remote, pack.as_bytes(), covered.encode()))?;
    Ok(())
}

/// Records that the log holds all changes of a pack.
pub(crate) fn complete_pack(conn: &Connection, remote: i64, pack: ChangeId) -> Result<()> {
    let sql = "UPDATE ZV_PACK SET complete = 1 WHERE remote_no = ?1 AND pack = ?2";
    conn.prepare_cached(sql)?.execute((remote, pack.as_bytes()))?;
    Ok(())
}

/// Forgets a pack that is gone. Returns the ids of its changes.
pub(crate) fn forget_pack(conn: &Connection, remote: i64, pack: ChangeId) -> Result<Vec<ChangeId>> {
    let ids = pack_ids(conn, remote, pack)?;
    let sql = "DELETE FROM ZV_PACK WHERE remote_no = ?1 AND pack = ?2";
    conn.prepare_cached(sql)?.execute((remote, pack.as_bytes()))?;
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(ids) };
    // What it covered may be uncovered now.
    let sql =
        "UPDATE ZV_PACK SET covered_ms = -1 WHERE remote_no = ?1 AND covered_ms > 0 AND first <= ?3 AND last >= ?2";
    conn.prepare_cached(sql)?.execute((remote, first.as_bytes(), last.as_bytes()))?;
    let mut places = Places::new(conn, remote)?;
    let sql = "UPDATE ZV_LOOSE SET packed_ms = ?3 WHERE remote_no = ?1 AND change_id = ?2";
    let mut mark = conn.prepare_cached(sql)?;
    for id in loose_between(conn, remote, *first, *last)? {
        if ids.binary_search(&id).is_ok() {
            mark.execute((remote, id.as_bytes(), places.packed_ms(id)?))?;
        }
    }
    Ok(ids)
}

fn loose_between(conn: &Connection, remote: i64, first: ChangeId, last: ChangeId) -> Result<Vec<ChangeId>> {
    let sql = "SELECT change_id FROM ZV_LOOSE WHERE remote_no = ?1 AND change_id BETWEEN ?2 AND ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((remote, first.as_bytes(), last.as_bytes()))?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(id_from(row.get(0)?)?);
    }
    Ok(ids)
}

/// Calls back with each remembered loose file of a remote, by id, and when a pack was seen that holds its change too (or 0).
pub(crate) fn each_loose(
    conn: &Connection,
    remote: i64,
    mut each: impl FnMut(ChangeId, u64) -> Result<()>,
) -> Result<()> {
    let sql = "SELECT change_id, packed_ms FROM ZV_LOOSE WHERE remote_no = ?1 ORDER BY change_id";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([remote])?;
    while let Some(row) = rows.next()? {
        each(id_from(row.get(0)?)?, row.get(1)?)?;
    }
    Ok(())
}

/// Forgets a loose file that is gone.
pub(crate) fn forget_loose(conn: &Connection, remote: i64, id: ChangeId) -> Result<()> {
    let sql = "DELETE FROM ZV_LOOSE WHERE remote_no = ?1 AND change_id = ?2";
    conn.prepare_cached(sql)?.execute((remote, id.as_bytes()))?;
    Ok(())
}

/// Forgets all that is remembered of where changes lie on a remote that turned out empty; all of the log is to go there again.
pub(crate) fn forget_places(conn: &Connection, remote: i64) -> Result<()> {
    for sql in [
        "DELETE FROM ZV_PACK WHERE remote_no = ?1",
        "DELETE FROM ZV_LOOSE WHERE remote_no = ?1",
        "DELETE FROM ZV_LOST WHERE remote_no = ?1",
        "UPDATE ZV_REMOTE SET pushed_seq = 0 WHERE no = ?1",
    ] {
        conn.prepare_cached(sql)?.execute([remote])?;
    }
    set_metadata(conn, Metadata::Emptied, emptied(conn)? + 1)
}

/// How often places were forgotten altogether. A sync that others' forgetting overtakes does not know any more what is there.
pub(crate) fn emptied(conn: &Connection) -> Result<u64> {
    Ok(get_metadata(conn, Metadata::Emptied)?.unwrap_or(0))
}

/// Records that a change is to be put back; false if that was known.
pub(crate) fn lose(conn: &Connection, remote: i64, id: ChangeId) -> Result<bool> {
    let sql = "INSERT OR IGNORE INTO ZV_LOST (remote_no, change_id) VALUES (?1, ?2)";
    Ok(conn.prepare_cached(sql)?.execute((remote, id.as_bytes()))? > 0)
}

/// Takes changes off the list of what is to be put back that were never pushed: the push sees to them anyway.
pub(crate) fn regain_unpushed(conn: &Connection, remote: i64) -> Result<()> {
    let sql = "DELETE FROM ZV_LOST WHERE remote_no = ?1 AND change_id IN \
               (SELECT change_id FROM ZV_REMOTE JOIN ZV_SEQUENCE ON seq > pushed_seq WHERE no = ?1)";
    conn.prepare_cached(sql)?.execute([remote])?;
    Ok(())
}

/// Records that every change that was pushed and has no loose file is to be put back. Returns for how many that is new.
pub(crate) fn lose_packed(conn: &Connection, remote: i64) -> Result<u64> {
    let sql = "INSERT OR IGNORE INTO ZV_LOST (remote_no, change_id) \
               SELECT no, change_id FROM ZV_REMOTE JOIN ZV_SEQUENCE ON seq <= pushed_seq \
               WHERE no = ?1 AND change_id NOT IN (SELECT change_id FROM ZV_KEPT) \
               AND change_id NOT IN (SELECT change_id FROM ZV_LOOSE WHERE remote_no = ?1)";
    Ok(conn.prepare_cached(sql)?.execute([remote])? as u64)
}

/// The next changes that count as pushed, and stay here for no reason of their own, with their places in the sequence.
pub(crate) fn pushed_after(conn: &Connection, remote: i64, after: i64, limit: usize) -> Result<Vec<(i64, ChangeId)>> {
    let sql = "SELECT seq, change_id FROM ZV_REMOTE JOIN ZV_SEQUENCE ON seq > ?2 AND seq <= pushed_seq \
               WHERE no = ?1 AND change_id NOT IN (SELECT change_id FROM ZV_KEPT) ORDER BY seq LIMIT ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query((remote, after, limit))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, id_from(row.get(1)?)?));
    }
    Ok(found)
}

/// Records that a change is back.
pub(crate) fn regain(conn: &Connection, remote: i64, id: ChangeId) -> Result<()> {
    let sql = "DELETE FROM ZV_LOST WHERE remote_no = ?1 AND change_id = ?2";
    conn.prepare_cached(sql)?.execute((remote, id.as_bytes()))?;
    Ok(())
}

/// The next changes that are to be put back, by id.
pub(crate) fn lost(conn: &Connection, remote: i64, after: Option<ChangeId>, limit: usize) -> Result<Vec<ChangeId>> {
    let sql = "SELECT change_id FROM ZV_LOST WHERE remote_no = ?1 AND change_id > ?2 ORDER BY change_id LIMIT ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let after = after.as_ref().map_or(&[][..], |id| id.as_bytes());
    let mut rows = statement.query((remote, after, limit))?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(id_from(row.get(0)?)?);
    }
    Ok(ids)
}

/// How many ids of packs are kept at hand: 16 bytes each.
const CACHED_IDS: usize = 1_000_000;

/// Looks changes up among the packs and loose files of a remote, within one transaction.
pub(crate) struct Places<'c> {
    conn: &'c Connection,
    remote: i64,
    packs: Vec<PackRow>,
    cache: VecDeque<(ChangeId, Arc<Vec<ChangeId>>)>,
}

impl<'c> Places<'c> {
    pub(crate) fn new(conn: &'c Connection, remote: i64) -> Result<Self> {
        Ok(Self { conn, remote, packs: list_packs(conn, remote)?, cache: VecDeque::new() })
    }

    /// Whether a loose file holds a change.
    pub(crate) fn is_loose(&self, id: ChangeId) -> Result<bool> {
        let sql = "SELECT 1 FROM ZV_LOOSE WHERE remote_no = ?1 AND change_id = ?2";
        Ok(self.conn.prepare_cached(sql)?.exists((self.remote, id.as_bytes()))?)
    }

    /// Whether a pack holds a change.
    pub(crate) fn is_packed(&mut self, id: ChangeId) -> Result<bool> {
        Ok(self.packs_with(id, true)?.next().is_some())
    }

    /// When the first pack was seen that holds a change; 0 where none does.
    pub(crate) fn packed_ms(&mut self, id: ChangeId) -> Result<u64> {
        Ok(self.packs_with(id, false)?.map(|row| row.seen_ms).min().unwrap_or(0))
    }

    /// The packs that hold a change, newest name first: all of them, or just one.
    pub(crate) fn packs_with(&mut self, id: ChangeId, just_one: bool) -> Result<impl Iterator<Item = &PackRow>> {
        let mut found = Vec::new();
        for at in (0..self.packs.len()).rev() {
            let row = &self.packs[at];
            if row.first <= id && id <= row.last {
                let pack = row.pack;
                if self.ids(pack)?.binary_search(&id).is_ok() {
                    found.push(at);
                    if just_one {
                        break;
                    }
                }
            }
        }
        Ok(found.into_iter().map(|at| &self.packs[at]))
    }

    /// The ids of a pack's changes.
    pub(crate) fn ids(&mut self, pack: ChangeId) -> Result<Arc<Vec<ChangeId>>> {
        if let Some((_, ids)) = self.cache.iter().find(|(cached, _)| *cached == pack) {
            return Ok(Arc::clone(ids));
        }
        let ids = Arc::new(pack_ids(self.conn, self.remote, pack)?);
        let mut cached: usize = self.cache.iter().map(|(_, ids)| ids.len()).sum();
        while cached + ids.len() > CACHED_IDS {
            let Some((_, oldest)) = self.cache.pop_front() else { break };
            cached -= oldest.len();
        }
        self.cache.push_back((pack, Arc::clone(&ids)));
        Ok(ids)
    }

    /// Remembers a loose file whose change the log holds.
    pub(crate) fn remember_loose(&mut self, id: ChangeId) -> Result<()> {
        let packed_ms = self.packed_ms(id)?;
        let sql = "INSERT OR IGNORE INTO ZV_LOOSE (remote_no, change_id, packed_ms) VALUES (?1, ?2, ?3)";
        self.conn.prepare_cached(sql)?.execute((self.remote, id.as_bytes(), packed_ms))?;
        Ok(())
    }
}
