//! The user's tables against the log: triggers made right, what was written past them recorded, and what is not shown marked for
//! the merge to look at.

use rusqlite::Connection;

use super::registers::Evidence;
use super::told::Told;
use crate::capture::{Installed, Terms, compare, reinstall};
use crate::changelog::{Log, Tracked, list_tracked, lower, touch};
use crate::db::{read_table, same_name};
use crate::error::Result;
use crate::model::Registers;
use crate::world::World;

/// Compares every table under capture with what the log accounts for.
pub(super) fn weigh(log: &mut Log<'_>, world: &World, evidence: &Evidence, told: &mut Told) -> Result<()> {
    let conn = log.conn;
    let accounts = |table_no: u32, entity_id: &str| evidence.of(conn, table_no, entity_id);
    for before in list_tracked(conn)?.into_iter().filter(|tracked| tracked.active && !tracked.is_altering()) {
        let name = before.name().to_owned();
        let Some(table) = read_table(conn, &name)? else {
            told.instruct(format!(
                "{name} is tracked, and there is no such table: create it again, or `zvon untrack {name}`"
            ));
            continue;
        };
        let source = before.source.clone();
        let (tracked, standing) = reinstall(log, &table, before)?;
        if !tracked.active {
            told.instruct(format!("{name}: {}", tracked.notice));
            continue;
        }
        told.did(u64::from(standing != Installed::Whole), |_| format!("the triggers of {name} were put on again"));
        told_of_columns(&tracked, &source.columns, told);
        let terms =
            Terms { before: Some(&source), accept_deletes: false, was_captured: false, evidence: Some(&accounts) };
        let found = compare(log, world, &table, &tracked, terms)?;
        told.did(found.changed, |n| format!("{n} rows of {name} that were written past its triggers were recorded"));
        told.did(found.backfilled, |n| format!("{n} rows of {name} that the log did not know were added to it"));
        told.did(found.unmarked, |n| format!("{n} rows of {name} are marked as shown again"));
        told.did(found.missing, |n| {
            format!("{n} rows of {name} that the log says are there were missing, and are shown again; delete them again where that was meant")
        });
        if found.unusable > 0 {
            told.instruct(format!(
                "{} rows of {name} have a key that no change can name: NULL, of another type than its column's, or not valid \
                 text; give them another key, or delete them",
                found.unusable
            ));
        }
    }
    Ok(())
}

fn told_of_columns(tracked: &Tracked, before: &[String], told: &mut Told) {
    let is_new = |name: &&String| !before.iter().any(|other| same_name(other, name));
    let new: Vec<String> = tracked.source.columns.iter().filter(is_new).map(|name| lower(name)).collect();
    told.did(new.len() as u64, |_| format!("{} is captured with its columns {} too", tracked.name(), new.join(", ")));
}

/// What is noted of rows that are not shown, or not whole, and their keys.
const NOTES: [(&str, &str); 3] = [
    ("ZV_HELD", "table_no, entity_id, reason"),
    ("ZV_WAIT", "on_table, on_entity, table_no, entity_id"),
    ("ZV_CLAIM", "table_no, rule, value, entity_id"),
];

/// Keeps what is noted of rows that are not shown, to tell afterwards what of it was wrong.
pub(super) fn keep_notes(conn: &Connection) -> Result<()> {
    for (table, key) in NOTES {
        conn.execute_batch(&format!(
            "DROP TABLE IF EXISTS temp.{table}_BEFORE; CREATE TEMP TABLE {table}_BEFORE AS SELECT {key} FROM main.{table}"
        ))?;
    }
    Ok(())
}

/// Tells what the merge made of it.
pub(super) fn tell_of_notes(conn: &Connection, told: &mut Told) -> Result<()> {
    let sql =
        "SELECT count(*) FROM temp.ZV_HIDDEN AS h JOIN ZV_REGISTER AS r USING (table_no, entity_id) WHERE r.shown";
    let shown: u64 = conn.query_row(sql, [], |row| row.get(0))?;
    told.did(shown, |n| format!("{n} rows that were not in their tables, and that nothing keeps out, are there now"));
    conn.execute_batch("DROP TABLE temp.ZV_HIDDEN")?;
    for (table, key) in NOTES {
        let sql = format!(
            "SELECT count(*) FROM (SELECT * FROM (SELECT {key} FROM main.{table} EXCEPT SELECT * FROM temp.{table}_BEFORE) \
             UNION ALL SELECT * FROM (SELECT * FROM temp.{table}_BEFORE EXCEPT SELECT {key} FROM main.{table}))"
        );
        let count: u64 = conn.query_row(&sql, [], |row| row.get(0))?;
        told.did(count, |n| {
            format!("{n} entries of {table}, of rows that are not shown, were made again or taken out")
        });
        conn.execute_batch(&format!("DROP TABLE temp.{table}_BEFORE"))?;
    }
    Ok(())
}

/// Every living entity that its table does not show is looked at anew, and with it what is noted of such rows: why they are
/// held, what they wait for, what they claim.
pub(super) fn touch_hidden(conn: &Connection, told: &mut Told) -> Result<()> {
    let unknown =
        "NOT EXISTS (SELECT 1 FROM ZV_REGISTER AS r WHERE r.table_no = t.table_no AND r.entity_id = t.entity_id)";
    for table in ["ZV_TOUCHED", "ZV_FREED", "ZV_HELD", "ZV_WAIT", "ZV_CLAIM"] {
        let sql = format!("SELECT count(*) FROM {table} AS t WHERE {unknown}");
        let strange: u64 = conn.query_row(&sql, [], |row| row.get(0))?;
        told.did(strange, |n| format!("{n} entries of {table} that name rows of no change were taken out"));
    }
    conn.execute_batch(&format!(
        "DELETE FROM ZV_TOUCHED AS t WHERE {unknown}; DELETE FROM ZV_FREED AS t WHERE {unknown}; \
         INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) SELECT table_no, entity_id FROM ZV_WAIT AS t WHERE NOT {unknown}; \
         INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) SELECT table_no, entity_id FROM ZV_CLAIM AS t WHERE NOT {unknown}; \
         DELETE FROM ZV_HELD; DELETE FROM ZV_WAIT; DELETE FROM ZV_CLAIM; \
         DELETE FROM ZV_UNTRANSLATED WHERE table_no NOT IN (SELECT table_no FROM ZV_TRACKED WHERE active)"
    ))?;
    conn.execute_batch("DROP TABLE IF EXISTS temp.ZV_HIDDEN; CREATE TEMP TABLE ZV_HIDDEN (table_no, entity_id)")?;
    let mut statement = conn.prepare("SELECT table_no, entity_id, registers FROM ZV_REGISTER WHERE NOT shown")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let registers = Registers::decode(row.get_ref(2)?.as_blob().unwrap_or_default());
        if registers.is_some_and(|registers| registers.alive()) {
            let (table_no, entity_id): (u32, String) = (row.get(0)?, row.get(1)?);
            touch(conn, table_no, &entity_id)?;
            conn.prepare_cached("INSERT INTO temp.ZV_HIDDEN VALUES (?1, ?2)")?.execute((table_no, entity_id))?;
        }
    }
    Ok(())
}
