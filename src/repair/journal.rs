//! `ZV_JOURNAL`: writes that wait to be recorded. What cannot be read of them is taken out; the tables show what they wrote.

use std::collections::HashMap;

use rusqlite::Connection;

use super::told::Told;
use crate::changelog::read_source;
use crate::error::Result;

pub(super) fn mend(conn: &Connection, told: &mut Told) -> Result<()> {
    // Without a time a write gets that of its neighbours, as the clock only goes on.
    let undated = conn.execute("UPDATE ZV_JOURNAL SET ms = 0 WHERE typeof(ms) <> 'integer'", [])?;
    told.did(undated as u64, |n| {
        format!("{n} writes in the journal that had lost their time are recorded in their order")
    });
    let mut known: HashMap<i64, bool> = HashMap::new();
    let mut unreadable = Vec::new();
    let mut statement = conn.prepare("SELECT seq, source, op FROM ZV_JOURNAL ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let is_right = match (row.get::<_, i64>(1), row.get::<_, i64>(2)) {
            (Ok(source), Ok(1..=6)) => *known.entry(source).or_insert_with(|| read_source(conn, source).is_ok()),
            _ => false,
        };
        if !is_right {
            unreadable.push(row.get::<_, i64>(0)?);
        }
    }
    drop(rows);
    for seq in &unreadable {
        conn.prepare_cached("DELETE FROM ZV_JOURNAL WHERE seq = ?1")?.execute([seq])?;
    }
    told.did(unreadable.len() as u64, |n| {
        format!(
            "{n} writes in the journal that cannot be read were taken out: what the tables show is recorded, and rows that \
             those writes deleted are shown again"
        )
    });
    Ok(())
}
