//! Our own tables: whether they are all there, and whether each of their rows names what there is. What rows hold, the walk of
//! the log has seen.

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::catalog::Catalog;
use super::context::fact;
use super::problems::Problems;
use crate::capture::{are_references_right, journal_width};
use crate::changelog::{Names, backfills, lower, read_source, wrong_conflicts, wrong_memory};
use crate::db::{Lack, Metadata, get_metadata, lacking};
use crate::error::Result;
use crate::model::{ChangeId, DELETED_COLUMN, DELETED_FIELD};

/// What of our tables is missing; while anything is, nothing else can be checked.
pub(super) fn structure(conn: &Connection, problems: &mut Problems) -> Result<bool> {
    let lacking = lacking(conn)?;
    for lack in &lacking {
        let name = lack.name();
        let advice = if lack.is_of_the_log() { "and the history with it" } else { "`zvon repair` makes it again" };
        match lack {
            Lack::Table(_) => problems.add(format_args!("the table {name} is missing; {advice}")),
            Lack::Columns(_) => problems.add(format_args!("the table {name} lacks columns; {advice}")),
            Lack::Index { .. } => problems.add(format_args!("the index {name} is missing or another; {advice}")),
        }
    }
    Ok(lacking.is_empty())
}

/// Looks at the tables that hold no user's values.
pub(super) fn check(conn: &Connection, catalog: &Catalog, problems: &mut Problems) -> Result<()> {
    facts(conn, problems)?;
    names(conn, catalog, problems)?;
    journal(conn, problems)?;
    if !are_references_right(conn)? {
        problems.add(format_args!("ZV_REFERENCE does not say what the tables' foreign keys say"));
    }
    for table in ["ZV_TOUCHED", "ZV_FREED", "ZV_LOCAL", "ZV_WAIT", "ZV_CLAIM"] {
        let sql = format!(
            "SELECT count(*) FROM {table} AS t WHERE NOT EXISTS \
             (SELECT 1 FROM ZV_REGISTER AS r WHERE r.table_no = t.table_no AND r.entity_id = t.entity_id)"
        );
        let strange: u64 = conn.query_row(&sql, [], |row| row.get(0))?;
        if strange > 0 {
            problems.add(format_args!("{table} names {strange} rows that no change wrote"));
        }
    }
    let conflicts = wrong_conflicts(conn)?.len();
    if conflicts > 0 {
        problems.add(format_args!("ZV_CONFLICT has {conflicts} entries that name no conflict, or not as it is"));
    }
    let memory = wrong_memory(conn)?;
    for (table, count) in memory.counts() {
        problems.add(format_args!("{table} has {count} entries that cannot be right"));
    }
    if memory.forgetful() > 0 {
        problems.add(format_args!(
            "of {} remotes it is not known what they hold, though the log counts as pushed there",
            memory.forgetful()
        ));
    }
    Ok(())
}

fn facts(conn: &Connection, problems: &mut Problems) -> Result<()> {
    let bytes: (u64, u64) = conn.query_row(
        "SELECT count(*), count(iif(typeof(i) = 'integer' AND i BETWEEN 0 AND 255, 1, NULL)) FROM ZV_BYTE",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if bytes != (256, 256) {
        problems.add(format_args!("ZV_BYTE does not hold the numbers 0 to 255"));
    }
    let author: Option<String> = get_metadata(conn, Metadata::DatabaseUuid)?;
    if author.as_ref().is_none_or(|author| uuid::Uuid::parse_str(author).is_err()) {
        problems.add(format_args!("ZV_METADATA has no database_uuid"));
    } else if let Some(id) = made_by_another(conn, author.as_deref().unwrap_or_default())? {
        problems.add(format_args!("change {id} was made here and names another author"));
    }
    let made: Option<u64> = fact(conn, Metadata::Backfilled, problems)?;
    if made.unwrap_or(0) < backfills(conn)? {
        problems.add(format_args!("the log has more backfills than ZV_METADATA says were made"));
    }
    // Whether they are there says nothing: a copy of this file may have pushed what both had.
    fact::<ChangeId>(conn, Metadata::ExposedId, problems)?;
    fact::<u64>(conn, Metadata::ExposedBackfills, problems)?;
    Ok(())
}

/// The newest change that was made here, if it names another author.
fn made_by_another(conn: &Connection, author: &str) -> Result<Option<ChangeId>> {
    let sql = "SELECT s.change_id FROM ZV_SEQUENCE AS s JOIN ZV_CHANGE AS c ON s.change_id = unhex(c.id, '-') \
               WHERE s.own AND c.author_id <> ?1 LIMIT 1";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([author])?;
    Ok(match rows.next()? {
        Some(row) => row.get_ref(0)?.as_blob().ok().and_then(|id| id.try_into().ok()).and_then(ChangeId::from_bytes),
        None => None,
    })
}

fn names(conn: &Connection, catalog: &Catalog, problems: &mut Problems) -> Result<()> {
    if Names::find(conn, DELETED_FIELD)? != Some(DELETED_COLUMN) {
        problems.add(format_args!("{DELETED_FIELD} does not have its number in ZV_NAME"));
    }
    for known in catalog.iter() {
        let source = &known.tracked.source;
        if Names::find(conn, &lower(&source.entity_type))? != Some(source.table_no) {
            problems.add(format_args!("{} does not have its number in ZV_NAME", known.tracked.name()));
        }
    }
    Ok(())
}

fn journal(conn: &Connection, problems: &mut Problems) -> Result<()> {
    let sql = "SELECT count(*) FROM pragma_table_info('ZV_JOURNAL') WHERE name GLOB 'c[0-9]*'";
    let width: usize = conn.query_row(sql, [], |row| row.get(0))?;
    if width < journal_width(conn)? {
        problems.add(format_args!("ZV_JOURNAL has fewer columns than the triggers write to, so that writes fail"));
    }
    let mut statement = conn.prepare("SELECT DISTINCT source, op, typeof(ms) FROM ZV_JOURNAL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let is_right = match (row.get_ref(0)?, row.get_ref(1)?) {
            // One whose source is not known has been seen when its keys were read.
            (ValueRef::Integer(source), ValueRef::Integer(1..=6)) => {
                row.get::<_, String>(2)? == "integer" || read_source(conn, source).is_err()
            }
            (ValueRef::Integer(source), _) => read_source(conn, source).is_err(),
            _ => false,
        };
        if !is_right {
            problems.add(format_args!("the journal holds writes that cannot be read"));
            break;
        }
    }
    Ok(())
}
