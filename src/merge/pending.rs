//! Changes that waited for a table or a column: found again once it exists. Writes our tables only.

use rusqlite::Connection;

use super::tables::Tables;
use crate::changelog::{IdText, read_head, touch};
use crate::error::{Error, Result};
use crate::model::ChangeId;

/// Changes of tables that can be merged into now: taken off the list of those that wait.
pub(super) fn take_changes(conn: &Connection, tables: &Tables, limit: usize) -> Result<Vec<ChangeId>> {
    let mut ids = Vec::new();
    for table_no in tables.numbers() {
        if ids.len() < limit {
            ids.extend(changes_of(conn, table_no, None, limit - ids.len())?);
        }
    }
    ids.sort_unstable();
    for id in &ids {
        conn.prepare_cached("DELETE FROM ZV_PENDING WHERE change_id = ?1 AND column_no IS NULL")?
            .execute([id.as_bytes()])?;
    }
    Ok(ids)
}

/// Columns that exist now: the rows that waited for them are to be shown anew, and their changes are merged.
pub(super) fn settle_columns(conn: &Connection, tables: &Tables) -> Result<()> {
    for table in tables.iter() {
        for column in columns_of(conn, table.no())?.into_iter().filter(|column| table.has_column(*column)) {
            settle_column(conn, table.no(), column)?;
        }
    }
    Ok(())
}

fn settle_column(conn: &Connection, table_no: u32, column: u32) -> Result<()> {
    for id in changes_of(conn, table_no, Some(column), usize::MAX)? {
        let head = read_head(conn, id)?.ok_or_else(|| Error::corrupt(format!("the log lacks the change {id}")))?;
        touch(conn, table_no, &head.entity_id)?;
        conn.prepare_cached("DELETE FROM ZV_PENDING WHERE change_id = ?1 AND column_no = ?2")?
            .execute((id.as_bytes(), column))?;
        let sql = "UPDATE ZV_CHANGE SET merged = 1 WHERE id = ?1 \
                   AND NOT EXISTS (SELECT 1 FROM ZV_PENDING WHERE change_id = ?2)";
        conn.prepare_cached(sql)?.execute((IdText::new(id).as_str(), id.as_bytes()))?;
    }
    Ok(())
}

/// The columns of a table that changes wait for. Each is looked up in the index, and not how many wait: every batch asks.
fn columns_of(conn: &Connection, table_no: u32) -> Result<Vec<u32>> {
    let sql = "SELECT min(column_no) FROM ZV_PENDING WHERE table_no = ?1 AND column_no > ?2";
    let mut next = conn.prepare_cached(sql)?;
    let (mut columns, mut last) = (Vec::new(), -1);
    while let Some(column) = next.query_row((table_no, last), |row| row.get::<_, Option<u32>>(0))? {
        columns.push(column);
        last = i64::from(column);
    }
    Ok(columns)
}

fn changes_of(conn: &Connection, table_no: u32, column_no: Option<u32>, limit: usize) -> Result<Vec<ChangeId>> {
    let sql = "SELECT change_id FROM ZV_PENDING WHERE table_no = ?1 AND column_no IS ?2 LIMIT ?3";
    let mut statement = conn.prepare_cached(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query((table_no, column_no, limit))?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.extend(ChangeId::from_bytes(row.get(0)?));
    }
    Ok(ids)
}
