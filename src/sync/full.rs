//! The thorough look: every file, pack and table definition that is known here is read and compared; what is
//! not as it should be is put back.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use rusqlite::Connection;

use super::definitions::{self, Stands};
use super::packs::{Ask, PackReader, Unread};
use super::places::give_up_pack;
use super::plan::Refusal;
use super::pull::note_refused;
use super::{RemoteRow, Session, SyncReport, known_files};
use crate::changelog::{contains, forget_refused, list_packs, pack_ids, read_change};
use crate::error::{Error, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{Fetched, Listing, Remote};
use crate::wire::{ObjectName, PackWriter, Records, decode_change, encode_change};

const BATCH: usize = 1_000;

/// How a file of the remote stands against the log.
pub(crate) enum Standing {
    /// It says what the log says.
    Same,
    /// It is not there.
    Gone,
    /// It cannot be read, or says something else.
    Different,
    /// This user may not read it.
    KeptBack,
}

/// Compares one file with the log's change.
pub(crate) async fn inspect(remote: &Remote, change: &Change, limit: u64) -> Result<Standing> {
    let fetched = match remote.get(&ObjectName::Change(change.id), limit).await {
        Err(error) if remote.is_damaged(&error) => return Ok(Standing::Different),
        Err(error) if remote.keeps_back(&error) => return Ok(Standing::KeptBack),
        fetched => fetched?,
    };
    Ok(match fetched {
        Fetched::Gone => Standing::Gone,
        Fetched::TooLarge | Fetched::Unopened(_) => Standing::Different,
        Fetched::Bytes(bytes) => match decode_change(change.id, &bytes) {
            Ok(there) if same_change(&there, change) => Standing::Same,
            _ => Standing::Different,
        },
    })
}

/// Other writers may spell the same change in other bytes: what counts is what it says.
fn same_change(there: &Change, here: &Change) -> bool {
    encode_change(there) == encode_change(here)
}

/// Reads what was listed and puts back what the log has otherwise; what else it has of packs that are not right is for the push
/// that follows.
pub(super) async fn mend(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    files_only: bool,
    listing: &Arc<Listing>,
    report: &mut SyncReport,
) -> Result<()> {
    let limit = session.settings.max_object_bytes;
    let mut kept_back = mend_definitions(session, remote, row, listing, report).await?;
    for pack in &listing.packs {
        if mend_pack(session, remote, row, files_only, pack.id, report).await? {
            kept_back.push(Refusal::of_pack(*pack, String::new()).kept_back());
        }
    }
    for part in listing.changes.chunks(BATCH) {
        let part = part.to_vec();
        let changes = session
            .run(move |conn| {
                let mut changes = Vec::new();
                for listed in part {
                    if contains(conn, listed.id)? {
                        changes.push((listed, read_change(conn, listed.id)?));
                    }
                }
                Ok(changes)
            })
            .await?;
        let mut checks = futures::stream::iter(changes)
            .map(|(listed, change)| async move {
                let standing = inspect(remote, &change, limit).await?;
                Ok::<_, Error>((listed, change, standing))
            })
            .buffer_unordered(session.settings.concurrency.clamp(1, 16));
        while let Some(checked) = checks.next().await {
            let (listed, change, standing) = checked?;
            match standing {
                Standing::Same => {}
                Standing::KeptBack => kept_back.push(Refusal::of_change(listed, String::new()).kept_back()),
                Standing::Gone | Standing::Different => {
                    let (name, no) = (ObjectName::Change(change.id), row.no);
                    remote.put(&name, encode_change(&change).into()).await?;
                    session.run(move |conn| forget_refused(conn, no, &name.to_string())).await?;
                    report.healed += 1;
                    report.pushed += 1;
                }
            }
        }
    }
    note_refused(session, row.no, &known_files(session, row, false).await?, kept_back, report).await
}

/// Puts back definitions that are there and not right. Returns those that this user may not read.
async fn mend_definitions(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Listing,
    report: &mut SyncReport,
) -> Result<Vec<Refusal>> {
    let mut kept_back = Vec::new();
    for Stands { name, body, standing, listed } in definitions::inspect(session, remote, listing).await? {
        match standing {
            // What is not there was put there before, as in any sync.
            Standing::Same | Standing::Gone => {}
            Standing::KeptBack => {
                kept_back.extend(listed.map(|listed| Refusal::of_other(listed, String::new()).kept_back()));
            }
            Standing::Different => {
                remote.put(&name, body.into()).await?;
                let no = row.no;
                session.run(move |conn| forget_refused(conn, no, &name.to_string())).await?;
                report.healed += 1;
            }
        }
    }
    Ok(kept_back)
}

/// Reads a pack and writes it again, from the log, where it is not what it was. Where the log does not hold all of it, what it holds
/// is to get another place. True where this user may not read it.
async fn mend_pack(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    files_only: bool,
    pack: ChangeId,
    report: &mut SyncReport,
) -> Result<bool> {
    match inspect_pack(session, remote, pack, Note::Nothing).await? {
        Standing::Same | Standing::Gone => return Ok(false),
        Standing::KeptBack => return Ok(true),
        Standing::Different => {}
    }
    let no = row.no;
    let Some((bytes, changes)) = session.run(move |conn| pack_again(conn, no, pack)).await? else {
        session.run(move |conn| give_up_pack(conn, no, pack, files_only)).await?;
        return Ok(false);
    };
    let name = ObjectName::Pack(pack);
    remote.put(&name, bytes).await?;
    session.run(move |conn| forget_refused(conn, no, &name.to_string())).await?;
    report.healed += changes;
    report.pushed += changes;
    Ok(false)
}

/// What is to be noted of the changes that are there and right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Nothing,
    /// Their ids, in the temporary table `ZV_PACKED`.
    Ids,
}

/// Compares a pack with the log.
pub(super) async fn inspect_pack(session: &Session, remote: &Remote, pack: ChangeId, note: Note) -> Result<Standing> {
    match compare_pack(session, remote, pack, note).await {
        Ok(true) => Ok(Standing::Same),
        Ok(false) | Err(Unread::Bad(_)) => Ok(Standing::Different),
        Err(Unread::Gone) => Ok(Standing::Gone),
        Err(Unread::Failed(error)) if remote.is_damaged(&error) => Ok(Standing::Different),
        Err(Unread::Failed(error)) if remote.keeps_back(&error) => Ok(Standing::KeptBack),
        Err(Unread::Failed(error)) => Err(error),
    }
}

async fn compare_pack(session: &Session, remote: &Remote, pack: ChangeId, note: Note) -> Result<bool, Unread> {
    let mut reader = PackReader::start(remote, pack, Ask::Whole, session.settings.transfer_budget);
    reader.header().await?;
    let mut is_same = true;
    while let Some(records) = reader.next().await? {
        is_same &= session.run(move |conn| are_right(conn, records, note)).await?;
    }
    Ok(is_same)
}

/// Whether the log has the changes just so; what it lacks altogether is no fault.
fn are_right(conn: &mut Connection, records: Records, note: Note) -> Result<bool> {
    let tx = conn.transaction()?;
    let mut all = true;
    for record in records {
        match record {
            Ok(there) if !contains(&tx, there.id)? => {}
            Ok(there) if same_change(&there, &read_change(&tx, there.id)?) => {
                if note == Note::Ids {
                    let sql = "INSERT OR IGNORE INTO temp.ZV_PACKED (change_id) VALUES (?1)";
                    tx.prepare_cached(sql)?.execute([there.id.as_bytes()])?;
                }
            }
            _ => all = false,
        }
    }
    tx.commit()?;
    Ok(all)
}

/// A remembered pack, made again from the log; nothing where the log does not hold all of it.
fn pack_again(conn: &mut Connection, no: i64, pack: ChangeId) -> Result<Option<(Bytes, u64)>> {
    let tx = conn.transaction()?;
    if !list_packs(&tx, no)?.iter().any(|row| row.pack == pack && row.complete) {
        return Ok(None);
    }
    let mut writer = PackWriter::new();
    for id in pack_ids(&tx, no, pack)? {
        if !contains(&tx, id)? {
            return Ok(None);
        }
        writer.add(id, &encode_change(&read_change(&tx, id)?));
    }
    let packed = writer.finish();
    Ok(Some((packed.bytes, packed.ids.len() as u64)))
}
