//! The replica at a glance: counts and sentences. Reads only, so that it also answers where nothing may be written.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::capture::count_journal;
use crate::changelog::{
    RemoteRow, Tracked, count_conflicts, count_held, count_pending, count_refused, is_encrypted, kept, list_held,
    list_remotes, list_tracked, refused_files, waiting,
};
use crate::db::{Ident, Metadata, get_metadata, read_table};
use crate::error::Result;
use crate::model::{ChangeId, Clock};
use crate::report::{MAX_REJECTED, RejectedFile, RemoteStatus, Status, TableStatus, WaitingChanges};
use crate::sync::{Settings, differences, drift_ms, oversize};

/// Of so many authors whose changes wait on a remote there is a sentence each.
const MAX_AUTHORS: usize = 20;

/// The replica at a glance.
pub(crate) fn status(conn: &Connection, now_ms: u64, settings: &Settings) -> Result<Status> {
    let count = |sql: &str| -> Result<u64> { Ok(conn.query_row(sql, [], |row| row.get(0))?) };
    let merged: i64 = get_metadata(conn, Metadata::MergedSeq)?.unwrap_or(0);
    let journal = count_journal(conn)?;
    Ok(Status {
        database_uuid: get_metadata(conn, Metadata::DatabaseUuid)?.unwrap_or_default(),
        format_version: get_metadata(conn, Metadata::FormatVersion)?.unwrap_or(0),
        default_remote: get_metadata(conn, Metadata::Remote)?,
        tables: tables(conn)?,
        changes: count("SELECT count(*) FROM ZV_CHANGE")?,
        journal,
        unmerged: conn
            .query_row("SELECT count(*) FROM ZV_SEQUENCE WHERE seq > ?1 AND NOT own", [merged], |row| row.get(0))?,
        held: count_held(conn)?,
        unknown: count_pending(conn)?,
        conflicts: count_conflicts(conn)?,
        remotes: list_remotes(conn)?
            .into_iter()
            .map(|row| remote(conn, row, journal, now_ms))
            .collect::<Result<_>>()?,
        clocks: clocks(conn, now_ms, settings)?,
        oversize: oversize(conn, settings.max_object_bytes)?,
        notices: differences(conn)?,
    })
}

fn tables(conn: &Connection) -> Result<Vec<TableStatus>> {
    let held = list_held(conn)?;
    let mut tables = Vec::new();
    for tracked in list_tracked(conn)? {
        let rows = match read_table(conn, tracked.name())? {
            Some(table) => {
                conn.query_row(&format!("SELECT count(*) FROM {}", Ident(&table.name)), [], |row| row.get(0))?
            }
            None => 0,
        };
        tables.push(TableStatus {
            rows,
            tracked: tracked.active,
            held: held.iter().filter(|row| row.table_no == tracked.table_no()).count() as u64,
            name: tracked.name().to_owned(),
            notice: notice(tracked),
        });
    }
    Ok(tables)
}

fn notice(tracked: Tracked) -> String {
    match (tracked.is_altering(), tracked.blocked.is_empty()) {
        (true, _) => format!("its schema is being changed; `zvon alter end {}` restores capture", tracked.source.table),
        (false, false) => tracked.blocked,
        (false, true) => tracked.notice,
    }
}

fn remote(conn: &Connection, row: RemoteRow, journal: u64, now_ms: u64) -> Result<RemoteStatus> {
    let sql = "SELECT count(*) FROM ZV_SEQUENCE WHERE seq > ?1";
    let behind: u64 = conn.query_row(sql, [row.pushed_seq], |row| row.get(0))?;
    let kept = kept(conn)?.iter().filter(|kept| kept.seq <= row.pushed_seq).count() as u64;
    let rejected = refused_files(conn, row.no, "", MAX_REJECTED)?;
    let rejected_more = count_refused(conn, row.no)?.saturating_sub(rejected.len() as u64);
    Ok(RemoteStatus {
        url: row.url,
        to_push: behind + journal + kept,
        last_sync_ms: row.last_sync_ms,
        layout: row.layout,
        encrypted: is_encrypted(conn, row.no)?.unwrap_or(false),
        rejected: rejected
            .into_iter()
            .map(|file| RejectedFile { name: file.name, bytes: file.size, reason: file.reason })
            .collect(),
        rejected_more,
        waiting: by_author(waiting(conn, row.no)?, now_ms),
    })
}

fn by_author(waiting: Vec<(ChangeId, String)>, now_ms: u64) -> Vec<WaitingChanges> {
    let mut authors: Vec<WaitingChanges> = Vec::new();
    // Somebody may have made up an author for each change.
    let mut places: HashMap<String, usize> = HashMap::new();
    for (id, author) in waiting {
        let ahead_ms = id.millis().saturating_sub(now_ms);
        let at = *places.entry(author).or_insert_with_key(|author| {
            authors.push(WaitingChanges { author: author.clone(), changes: 0, ahead_ms });
            authors.len() - 1
        });
        if let Some(known) = authors.get_mut(at) {
            known.changes += 1;
            known.ahead_ms = known.ahead_ms.max(ahead_ms);
        }
    }
    authors
}

/// What is wrong with clocks, as far as this replica can tell.
fn clocks(conn: &Connection, now_ms: u64, settings: &Settings) -> Result<Vec<String>> {
    let bound = Clock::lower_bound(now_ms.saturating_add(drift_ms(settings.max_clock_drift)));
    let mut sentences = Vec::new();
    let exposed: Option<ChangeId> = get_metadata(conn, Metadata::ExposedId)?;
    let last: Option<ChangeId> = get_metadata(conn, Metadata::LastId)?;
    if let Some(exposed) = exposed.filter(|id| *id > bound) {
        sentences.push(format!(
            "changes made here were pushed with times up to {} ahead of this machine's clock; the others accept them \
             once that time has come, or with a larger `max_clock_drift`",
            span(exposed.millis().saturating_sub(now_ms))
        ));
    } else if let Some(last) = last.filter(|id| *id > bound) {
        sentences.push(format!(
            "changes made here are up to {} ahead of this machine's clock; the next sync gives them new times",
            span(last.millis().saturating_sub(now_ms))
        ));
    }
    for remote in list_remotes(conn)? {
        let authors = by_author(waiting(conn, remote.no)?, now_ms);
        let more = authors.len().saturating_sub(MAX_AUTHORS);
        for waiting in authors.into_iter().take(MAX_AUTHORS) {
            let who = if waiting.author.is_empty() { "an unknown author" } else { &waiting.author };
            sentences.push(format!(
                "{} changes of {who} on {} are up to {} ahead of this machine's clock and wait for their time",
                waiting.changes,
                remote.url,
                span(waiting.ahead_ms)
            ));
        }
        if more > 0 {
            sentences.push(format!("changes of {more} more authors on {} wait for their time", remote.url));
        }
    }
    Ok(sentences)
}

fn span(ms: u64) -> String {
    let hours = ms / 3_600_000;
    if hours < 48 { format!("{hours} h {} min", ms / 60_000 % 60) } else { format!("{} days", hours / 24) }
}
