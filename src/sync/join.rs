//! Two databases that have nothing in common: how many rows would meet, so that the user can choose.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::Session;
use super::packs::{Ask, PackReader, Unread, is_of_file};
use crate::capture::seal_within;
use crate::changelog::{Log, Names, separate};
use crate::db::immediate;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{Fetched, Listing, Remote};
use crate::wire::{ObjectName, decode_change};

/// How many of the remote's files are looked at to count the rows that meet.
const MAX_READ: usize = 100_000;
const BATCH: usize = 2_000;

/// Gives the rows here that were known by the digits of local integers ids of their own.
pub(super) async fn separate_rows(session: &Session) -> Result<()> {
    let world = session.world.clone();
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            let mut log = Log::new(&tx)?;
            seal_within(&mut log, &world)?;
            log.finish()?;
            separate(&tx, &world)?;
            Ok(tx.commit()?)
        })
        .await
}

/// Counts for one table: rows of the remote, and those of them that are here too.
#[derive(Default)]
struct Count {
    remote: u64,
    both: u64,
}

/// The error of a sync with a remote that this replica is not related to.
pub(super) async fn refusal(session: &Session, remote: &Remote, listing: &Arc<Listing>) -> Result<Error> {
    let (counts, read) = count(session, remote, listing).await?;
    let tables: Vec<String> = counts
        .iter()
        .map(|(table, count)| format!("{table}: {} of its {} rows there are here too", count.both, count.remote))
        .collect();
    let at_least = if read >= MAX_READ { " (of the first hundred thousand changes)" } else { "" };
    Ok(Error::new(
        ErrorKind::Unrelated,
        format!(
            "{} holds another database's data, and this replica has rows of its own ({}){at_least}; if rows with the \
             same key are the same row, sync once with `--join same`; if rows that SQLite numbered are other rows under the \
             same numbers, with `--join separate`; otherwise choose another remote",
            remote.url(),
            if tables.is_empty() { "no table in common".to_owned() } else { tables.join("; ") }
        ),
    ))
}

/// Counts by table, and how many changes were read for it.
async fn count(session: &Session, remote: &Remote, listing: &Arc<Listing>) -> Result<(BTreeMap<String, Count>, usize)> {
    let mut counter = Counter::default();
    let limit = session.settings.max_object_bytes;
    let ids: Vec<ChangeId> = listing.changes.iter().take(MAX_READ).map(|listed| listed.id).collect();
    let files = futures::stream::iter(ids)
        .map(|id| async move {
            match remote.get(&ObjectName::Change(id), limit).await {
                Ok(Fetched::Bytes(bytes)) => Ok(decode_change(id, &bytes).ok()),
                Err(error) if !is_of_file(remote, &error) => Err(error),
                _ => Ok(None),
            }
        })
        .buffered(session.settings.concurrency.clamp(1, 16));
    let mut chunks = std::pin::pin!(files.try_chunks(BATCH));
    while let Some(chunk) = chunks.next().await {
        counter.add(session, chunk.map_err(|e| e.1)?.into_iter().flatten().collect()).await?;
    }
    for pack in &listing.packs {
        let mut reader = PackReader::start(remote, pack.id, Ask::Whole, session.settings.transfer_budget);
        match counter.add_pack(session, &mut reader).await {
            Err(Unread::Failed(error)) if !is_of_file(remote, &error) => return Err(error),
            Ok(()) | Err(Unread::Gone | Unread::Bad(_) | Unread::Failed(_)) => {}
        }
    }
    Ok((counter.counts, counter.read))
}

#[derive(Default)]
struct Counter {
    counts: BTreeMap<String, Count>,
    seen: HashSet<(String, String)>,
    read: usize,
}

impl Counter {
    async fn add_pack(&mut self, session: &Session, reader: &mut PackReader) -> Result<(), Unread> {
        if self.read < MAX_READ {
            reader.header().await?;
        }
        while self.read < MAX_READ
            && let Some(records) = reader.next().await?
        {
            self.add(session, records.into_iter().flatten().collect()).await?;
        }
        Ok(())
    }

    async fn add(&mut self, session: &Session, changes: Vec<Change>) -> Result<()> {
        self.read += changes.len();
        let rows = changes.into_iter().map(|change| (change.entity_type, change.entity_id));
        let rows: Vec<(String, String)> = rows.filter(|row| self.seen.insert(row.clone())).collect();
        for (table, here) in session.run(move |conn| which_are_here(conn, rows)).await? {
            let count = self.counts.entry(table).or_default();
            count.remote += 1;
            count.both += u64::from(here);
        }
        Ok(())
    }
}

fn which_are_here(conn: &rusqlite::Connection, rows: Vec<(String, String)>) -> Result<Vec<(String, bool)>> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2")?;
    let mut checked = Vec::with_capacity(rows.len());
    for (table, row) in rows {
        let here = match Names::find(conn, &table)? {
            Some(no) => statement.exists((no, row))?,
            None => false,
        };
        checked.push((table, here));
    }
    Ok(checked)
}
