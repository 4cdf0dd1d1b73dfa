//! The thorough look: every file that the log knows is read and compared with it; what is not as it should be is put back.

use std::sync::Arc;

use futures::StreamExt;

use super::{RemoteRow, Session, SyncReport};
use crate::changelog::{contains, forget_refused, read_change};
use crate::error::{Error, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{Fetched, Listing, Remote};
use crate::wire::{ObjectName, decode_change, encode_change};

const BATCH: usize = 1_000;

/// How a file of the remote stands against the log.
pub(crate) enum Standing {
    /// It says what the log says.
    Same,
    /// It is not there.
    Gone,
    /// It cannot be read, or says something else.
    Different,
}

/// Compares one file with the log's change.
pub(crate) async fn inspect(remote: &Remote, change: &Change, limit: u64) -> Result<Standing> {
    Ok(match remote.get(&ObjectName::Change(change.id), limit).await? {
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

/// Reads what was listed and puts back what the log has otherwise.
pub(super) async fn mend(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    report: &mut SyncReport,
) -> Result<()> {
    let limit = session.settings.max_object_bytes;
    for part in listing.changes.chunks(BATCH) {
        let ids: Vec<ChangeId> = part.iter().map(|listed| listed.id).collect();
        let changes = session
            .run(move |conn| {
                let mut changes = Vec::new();
                for id in ids {
                    if contains(conn, id)? {
                        changes.push(read_change(conn, id)?);
                    }
                }
                Ok(changes)
            })
            .await?;
        let mut checks = futures::stream::iter(changes)
            .map(|change| async move {
                let standing = inspect(remote, &change, limit).await?;
                Ok::<_, Error>((change, standing))
            })
            .buffer_unordered(session.settings.concurrency.clamp(1, 16));
        while let Some(checked) = checks.next().await {
            let (change, standing) = checked?;
            if !matches!(standing, Standing::Same) {
                let (name, no) = (ObjectName::Change(change.id), row.no);
                remote.put(&name, encode_change(&change).into()).await?;
                session.run(move |conn| forget_refused(conn, no, &name.to_string())).await?;
                report.healed += 1;
                report.pushed += 1;
            }
        }
    }
    Ok(())
}
