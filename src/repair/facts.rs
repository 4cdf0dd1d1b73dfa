//! `ZV_METADATA`, `ZV_BYTE` and the first of the names: facts that the log or the program itself can say again.

use rusqlite::Connection;

use super::told::Told;
use crate::changelog::{backfills, greatest_seen, is_exposed, read_head};
use crate::db::{Metadata, forget_metadata, get_metadata, record_version, set_metadata};
use crate::error::{ErrorKind, Result};
use crate::model::{ChangeId, DELETED_COLUMN, DELETED_FIELD};
use crate::world::World;

/// The facts that the rest of a repair builds upon.
pub(super) fn mend(conn: &Connection, world: &World, told: &mut Told) -> Result<()> {
    record_version(conn)?;
    mend_author(conn, world, told)?;
    let bytes: u64 = conn.query_row("SELECT count(*) FROM ZV_BYTE WHERE i BETWEEN 0 AND 255", [], |row| row.get(0))?;
    let all: u64 = conn.query_row("SELECT count(*) FROM ZV_BYTE", [], |row| row.get(0))?;
    if (bytes, all) != (256, 256) {
        conn.execute_batch(
            "DELETE FROM ZV_BYTE; INSERT INTO ZV_BYTE (i) \
             WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 255) SELECT i FROM n",
        )?;
        told.did(1, |_| "ZV_BYTE was filled again".to_owned());
    }
    if set_name(conn, DELETED_COLUMN, DELETED_FIELD)? {
        told.did(1, |_| format!("{DELETED_FIELD} has its number in ZV_NAME again"));
    }
    Ok(())
}

/// Gives a name its number; whoever has either is forgotten, and gets another. Returns whether anything changed.
pub(super) fn set_name(conn: &Connection, no: u32, name: &str) -> Result<bool> {
    if conn.prepare_cached("SELECT 1 FROM ZV_NAME WHERE no = ?1 AND name = ?2")?.exists((no, name))? {
        return Ok(false);
    }
    conn.execute("DELETE FROM ZV_NAME WHERE no = ?1 OR name = ?2", (no, name))?;
    conn.execute("INSERT INTO ZV_NAME (no, name) VALUES (?1, ?2)", (no, name))?;
    Ok(true)
}

/// The author that own changes name. A replica that made none may as well be a new author.
fn mend_author(conn: &Connection, world: &World, told: &mut Told) -> Result<()> {
    let said: Option<String> = read(conn, Metadata::DatabaseUuid)?;
    let mut made = Vec::new();
    let mut statement = conn.prepare("SELECT change_id FROM ZV_SEQUENCE WHERE own = 1 ORDER BY seq DESC LIMIT 1000")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_blob().ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        if let Some(id) = id.and_then(ChangeId::from_bytes)
            && let Ok(Some(head)) = read_head(conn, id)
        {
            made.push(head.author);
        }
    }
    let is_right = |author: &String| made.is_empty() || made.contains(author);
    if said.as_ref().is_some_and(|author| uuid::Uuid::parse_str(author).is_ok() && is_right(author)) {
        return Ok(());
    }
    let author = match made.first() {
        Some(author) => author.clone(),
        None => world.uuid().to_string(),
    };
    set_metadata(conn, Metadata::DatabaseUuid, &author)?;
    let source =
        if made.is_empty() { "it is a new one, as this replica made no change" } else { "its changes name it" };
    told.did(1, |_| format!("the replica's author id was recorded again: {source}"));
    Ok(())
}

/// The clock and the counters: nothing made from now on may lose to, or be taken for, what was made before.
pub(super) fn mend_clock(conn: &Connection, told: &mut Told) -> Result<()> {
    let mut mended = 0;
    let last: Option<ChangeId> = read(conn, Metadata::LastId)?;
    let greatest = greatest_seen(conn)?;
    if greatest > last {
        mended += 1;
        set_metadata(conn, Metadata::LastId, greatest.map(|id| id.to_string()).unwrap_or_default())?;
    }
    let last = greatest.max(last);
    let made: Option<u64> = read(conn, Metadata::Backfilled)?;
    let least = backfills(conn)?;
    if made.unwrap_or(0) < least {
        mended += 1;
        set_metadata(conn, Metadata::Backfilled, least)?;
    }
    if is_exposed(conn)? {
        // Where it is not known how much has left this machine, all of it may have.
        if read::<ChangeId>(conn, Metadata::ExposedId)?.is_none() && last.is_some() {
            mended += 1;
            set_metadata(conn, Metadata::ExposedId, last.map(|id| id.to_string()).unwrap_or_default())?;
        }
        if read::<u64>(conn, Metadata::ExposedBackfills)?.is_none() {
            mended += 1;
            set_metadata(conn, Metadata::ExposedBackfills, made.unwrap_or(0).max(least))?;
        }
    } else {
        read::<ChangeId>(conn, Metadata::ExposedId)?;
        read::<u64>(conn, Metadata::ExposedBackfills)?;
    }
    told.did(mended, |_| "the clock and the counters in ZV_METADATA were set by the log again".to_owned());
    Ok(())
}

/// A fact; one that cannot be read is forgotten, and counts as never set.
pub(super) fn read<T: std::str::FromStr>(conn: &Connection, key: Metadata) -> Result<Option<T>> {
    match get_metadata(conn, key) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            forget_metadata(conn, key)?;
            Ok(None)
        }
        other => other,
    }
}
