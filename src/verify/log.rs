//! Walks the log an entity at a time. SQLite sorts, on disk where it must; nothing here grows with the history.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::change::{Head, Table, Wait, fold};
use super::context::{Context, Tally};
use super::entity::{Entity, compare};
use super::problems::{Problems, Quoted};
use crate::error::Result;
use crate::model::{ChangeId, is_reserved_table};

/// Every change with its place in the sequence and what it waits for, by entity, the newest first so that a write that
/// lost is passed over unread. Neither join has an index to use: SQLite makes one for the statement.
const HEADS: &str = "\
    WITH waits AS MATERIALIZED (
        SELECT change_id, group_concat(table_no || ':' || ifnull(column_no, ''), ' ') AS list
        FROM ZV_PENDING GROUP BY change_id
    )
    SELECT c.id, c.entity_type, c.entity_id, c.merged, s.seq, s.own, waits.list
    FROM ZV_CHANGE AS c
    LEFT JOIN ZV_SEQUENCE AS s ON s.change_id = unhex(c.id, '-')
    LEFT JOIN waits ON waits.change_id = unhex(c.id, '-')
    ORDER BY c.entity_type COLLATE NOCASE, c.entity_id, c.id DESC";

/// How many changes pass between two calls of `progress`.
const STEP: u64 = 1_000;

/// Compares every entity of the log with what the replica holds of it.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally, progress: &dyn Fn(u64)) -> Result<()> {
    let mut statement = context.conn.prepare(HEADS)?;
    let mut rows = statement.query([])?;
    let mut table: Option<Table<'_>> = None;
    let mut entity = Entity::default();
    while let Some(row) = rows.next()? {
        tally.changes += 1;
        if tally.changes.is_multiple_of(STEP) {
            progress(tally.changes);
        }
        let Some((head, entity_type, entity_id)) = read_head(row, &mut tally.problems)? else { continue };
        let same_table = table.as_ref().is_some_and(|table| table.is(entity_type));
        if !same_table || entity.id != entity_id {
            finish(context, tally, table.as_ref(), &entity)?;
            entity = Entity { id: entity_id.to_owned(), ..Entity::default() };
        }
        if !same_table {
            table = Some(Table::find(context, entity_type)?);
        }
        if entity.newest_read == Some(head.id) {
            tally.changes -= 1;
            tally.problems.add(format_args!("change {} has more than one place in the sequence", head.id));
            continue;
        }
        entity.newest_read = Some(head.id);
        let table = table.as_ref().expect("the change's table was set just above");
        fold(context, tally, table, &head, &mut entity)?;
    }
    finish(context, tally, table.as_ref(), &entity)?;
    progress(tally.changes);
    Ok(())
}

fn finish(context: &Context<'_>, tally: &mut Tally, table: Option<&Table<'_>>, entity: &Entity) -> Result<()> {
    table.map_or(Ok(()), |table| compare(context, tally, table, entity))
}

/// A change's head, table and entity id; `None`, and a problem, where no change can look like this.
fn read_head<'r>(row: &'r Row<'_>, problems: &mut Problems) -> Result<Option<(Head, &'r str, &'r str)>> {
    let Some(id) = text(row, 0)?.and_then(|id| id.parse::<ChangeId>().ok()) else {
        let id = String::from_utf8_lossy(row.get_ref(0)?.as_bytes().unwrap_or_default()).into_owned();
        problems.add(format_args!("the log holds the change {}, whose id is not a canonical UUIDv7", Quoted(&id)));
        return Ok(None);
    };
    let (Some(entity_type), Some(entity_id)) = (text(row, 1)?, text(row, 2)?) else {
        problems.add(format_args!("change {id} names its table or row by what is not text"));
        return Ok(None);
    };
    if is_reserved_table(entity_type) {
        problems.add(format_args!("change {id} is of {}, which can never be tracked", Quoted(entity_type)));
        return Ok(None);
    }
    let seq = integer(row, 4)?;
    if seq.is_none() {
        problems.add(format_args!("change {id} has no place in the sequence, so it is neither pushed nor merged"));
    }
    let head = Head {
        id,
        merged: integer(row, 3)?.is_some_and(|merged| merged != 0),
        seq: seq.unwrap_or(0),
        own: integer(row, 5)?.is_some_and(|own| own != 0),
        waits: text(row, 6)?.map(read_waits).unwrap_or_default(),
    };
    Ok(Some((head, entity_type, entity_id)))
}

/// What the statement above lists: `table:column`, or `table:` where the table is what lacks, separated by spaces.
fn read_waits(list: &str) -> Vec<Wait> {
    let wait = |item: &str| {
        let (table, column) = item.split_once(':')?;
        let column_no = if column.is_empty() { None } else { Some(column.parse().ok()?) };
        Some(Wait { table_no: table.parse().ok()?, column_no })
    };
    list.split(' ').filter_map(wait).collect()
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<Option<&'r str>> {
    match row.get_ref(column)? {
        ValueRef::Text(text) => Ok(std::str::from_utf8(text).ok()),
        _ => Ok(None),
    }
}

fn integer(row: &Row<'_>, column: usize) -> Result<Option<i64>> {
    match row.get_ref(column)? {
        ValueRef::Integer(n) => Ok(Some(n)),
        _ => Ok(None),
    }
}

/// How SQLite will run the walk; a test looks for a join that would read one table once for each row of another.
#[cfg(test)]
pub(super) fn plan(conn: &rusqlite::Connection) -> Vec<String> {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {HEADS}")).unwrap();
    let details = statement.query_map([], |row| row.get(3)).unwrap();
    details.map(|detail| detail.unwrap()).collect()
}
