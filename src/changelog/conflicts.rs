//! Writes of one column that did not know of each other: recorded once, listed, marked when restored.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row};

use super::{Names, read_fields, read_head};
use crate::error::{Error, Result};
use crate::model::ChangeId;

/// A recorded conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConflictRow {
    pub(crate) no: i64,
    pub(crate) table_no: u32,
    pub(crate) entity_id: String,
    pub(crate) column_no: u32,
    pub(crate) winner: ChangeId,
    pub(crate) loser: ChangeId,
    pub(crate) seen_ms: u64,
    pub(crate) restored: bool,
}

/// Records a conflict; a second time changes nothing. Returns whether it is new.
pub(crate) fn record_conflict(conn: &Connection, conflict: &ConflictRow) -> Result<bool> {
    let sql = "INSERT OR IGNORE INTO ZV_CONFLICT (table_no, entity_id, column_no, winner, loser, seen_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let added = conn.prepare_cached(sql)?.execute((
        conflict.table_no,
        &conflict.entity_id,
        conflict.column_no,
        conflict.winner.as_bytes(),
        conflict.loser.as_bytes(),
        conflict.seen_ms,
    ))?;
    Ok(added > 0)
}

/// How many conflicts nobody has restored.
pub(crate) fn count_conflicts(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(*) FROM ZV_CONFLICT WHERE NOT restored", [], |row| row.get(0))?)
}

/// The conflicts, oldest first, or the one of a number.
pub(crate) fn list_conflicts(conn: &Connection, no: Option<i64>) -> Result<Vec<ConflictRow>> {
    let sql = "SELECT no, table_no, entity_id, column_no, winner, loser, seen_ms, restored FROM ZV_CONFLICT \
               WHERE ?1 IS NULL OR no = ?1 ORDER BY no";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([no])?;
    let mut conflicts = Vec::new();
    while let Some(row) = rows.next()? {
        conflicts.push(ConflictRow {
            no: row.get(0)?,
            table_no: row.get(1)?,
            entity_id: row.get(2)?,
            column_no: row.get(3)?,
            winner: id_from(row.get(4)?)?,
            loser: id_from(row.get(5)?)?,
            seen_ms: row.get(6)?,
            restored: row.get(7)?,
        });
    }
    Ok(conflicts)
}

/// Records that a conflict's losing value has been brought back.
pub(crate) fn mark_restored(conn: &Connection, no: i64) -> Result<()> {
    conn.execute("UPDATE ZV_CONFLICT SET restored = 1 WHERE no = ?1", [no])?;
    Ok(())
}

/// An entry of the list of conflicts as it should be, by the changes that it names.
#[derive(Debug)]
pub(crate) struct RightConflict {
    table_no: u32,
    entity_id: String,
    column_no: u32,
    winner: ChangeId,
    loser: ChangeId,
}

/// The entries that are wrong: those that name changes of one row with a column that both wrote, as they should be; of the
/// others nothing.
pub(crate) fn wrong_conflicts(conn: &Connection) -> Result<Vec<(i64, Option<RightConflict>)>> {
    let (mut wrong, mut taken) = (Vec::new(), BTreeSet::new());
    let mut names = Names::default();
    let mut statement = conn.prepare(
        "SELECT no, table_no, entity_id, column_no, winner, loser, seen_ms, restored FROM ZV_CONFLICT ORDER BY no",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let no: i64 = row.get(0)?;
        match right_conflict(conn, &mut names, row, &taken)? {
            Some(right) => {
                let is_right = row.get::<_, u32>(1).is_ok_and(|no| no == right.table_no)
                    && row.get::<_, String>(2).is_ok_and(|id| id == right.entity_id)
                    && row.get::<_, u32>(3).is_ok_and(|no| no == right.column_no)
                    && row.get::<_, u64>(6).is_ok()
                    && row.get::<_, i64>(7).is_ok_and(|restored| (0..=1).contains(&restored));
                taken.insert((right.winner, right.loser, right.column_no));
                if !is_right {
                    wrong.push((no, Some(right)));
                }
            }
            None => wrong.push((no, None)),
        }
    }
    Ok(wrong)
}

/// Puts wrong entries right, or takes them out.
pub(crate) fn mend_conflicts(conn: &Connection, wrong: &[(i64, Option<RightConflict>)]) -> Result<()> {
    for (no, right) in wrong {
        match right {
            Some(right) => {
                let sql = "UPDATE OR REPLACE ZV_CONFLICT SET table_no = ?2, entity_id = ?3, column_no = ?4, \
                           seen_ms = max(0, CAST(seen_ms AS INTEGER)), restored = CAST(restored AS INTEGER) <> 0 WHERE no = ?1";
                conn.prepare_cached(sql)?.execute((no, right.table_no, &right.entity_id, right.column_no))?;
            }
            None => {
                conn.prepare_cached("DELETE FROM ZV_CONFLICT WHERE no = ?1")?.execute([no])?;
            }
        }
    }
    Ok(())
}

/// What an entry should say; `None` where its changes are not there, or not of one row, or wrote no column both.
fn right_conflict(
    conn: &Connection,
    names: &mut Names,
    row: &Row<'_>,
    taken: &BTreeSet<(ChangeId, ChangeId, u32)>,
) -> Result<Option<RightConflict>> {
    let id = |at| {
        row.get_ref(at).ok().and_then(|value| value.as_blob().ok()?.try_into().ok()).and_then(ChangeId::from_bytes)
    };
    let (Some(winner), Some(loser)) = (id(4), id(5)) else { return Ok(None) };
    let (Some(won), Some(lost)) = (read_head(conn, winner)?, read_head(conn, loser)?) else { return Ok(None) };
    if winner <= loser || won.entity_id != lost.entity_id || !won.entity_type.eq_ignore_ascii_case(&lost.entity_type) {
        return Ok(None);
    }
    let (wrote, said) = (read_fields(conn, winner)?, read_fields(conn, loser)?);
    let mut both = BTreeSet::new();
    for field in wrote {
        if said.iter().any(|other| other.name.eq_ignore_ascii_case(&field.name) && other.value != field.value) {
            both.insert(names.number(conn, &field.name)?);
        }
    }
    let recorded = row.get::<_, u32>(3).ok().filter(|no| both.contains(no));
    let free = both.iter().copied().find(|no| !taken.contains(&(winner, loser, *no)));
    let Some(column_no) = recorded.or(free) else { return Ok(None) };
    Ok(Some(RightConflict {
        table_no: names.number(conn, &won.entity_type)?,
        entity_id: won.entity_id,
        column_no,
        winner,
        loser,
    }))
}

/// A change id from its sixteen bytes in one of our tables.
pub(super) fn id_from(bytes: [u8; 16]) -> Result<ChangeId> {
    ChangeId::from_bytes(bytes).ok_or_else(|| Error::corrupt("a table of zvon's holds an id that is not a UUIDv7"))
}
