//! Whether the remote holds the whole log: every change and table definition there read, and compared. Writes nothing but a temporary table.

use futures::StreamExt;

use super::Session;
use super::definitions::{self, Stands};
use super::full::{Note, Standing, inspect, inspect_pack};
use super::plan::is_listed;
use super::unlock;
use crate::changelog::{kept, read_change};
use crate::error::{Error, Result};
use crate::model::{Change, ChangeId};
use crate::remote::{Listing, Remote};
use crate::report::{Phase, VerifyReport};
use crate::wire::ObjectName;

const BATCH: usize = 1_000;
const GONE: &str = "is not on the remote; `zvon sync --full` puts it there";
const DIFFERENT: &str = "is unreadable or different on the remote; `zvon sync --full` puts it right";
const KEPT_BACK: &str = "may not be read by this user on the remote; check its permissions";
/// The most problems that a report lists.
const MAX_PROBLEMS: usize = 1_000;

/// Adds to a report what the remote lacks or has otherwise than the log.
pub(crate) async fn verify_remote(session: &Session, remote: &Remote, report: &mut VerifyReport) -> Result<()> {
    let listing = remote.list().await?;
    let remote = &unlock::look(session, remote, &listing).await?;
    session.run(|conn| Ok(conn.execute_batch(BEGIN)?)).await?;
    let verified = verify_listed(session, remote, &listing, report).await;
    session.run(|conn| Ok(conn.execute_batch(END)?)).await?;
    verified
}

/// The changes that packs hold, as the log has them: in a table of its own, as there may be millions.
const BEGIN: &str = "DROP TABLE IF EXISTS temp.ZV_PACKED; \
                     CREATE TEMP TABLE ZV_PACKED (change_id BLOB PRIMARY KEY) WITHOUT ROWID";
const END: &str = "DROP TABLE temp.ZV_PACKED";

async fn verify_listed(session: &Session, remote: &Remote, listing: &Listing, report: &mut VerifyReport) -> Result<()> {
    for pack in &listing.packs {
        let standing = inspect_pack(session, remote, pack.id, Note::Ids).await?;
        let name = ObjectName::Pack(pack.id);
        match standing {
            Standing::Same | Standing::Gone => {}
            Standing::Different => problem(report, format!("{name} {DIFFERENT}")),
            Standing::KeptBack => problem(report, format!("{name} {KEPT_BACK}")),
        }
    }
    for Stands { name, standing, .. } in definitions::inspect(session, remote, listing).await? {
        match standing {
            Standing::Same => {}
            Standing::Gone => problem(report, format!("{name} {GONE}")),
            Standing::Different => problem(report, format!("{name} {DIFFERENT}")),
            Standing::KeptBack => problem(report, format!("{name} {KEPT_BACK}")),
        }
    }
    let limit = session.settings.max_object_bytes;
    let progress = session.reporter(Phase::Verify);
    let stays: Vec<ChangeId> = session.run(|conn| Ok(kept(conn)?.into_iter().map(|kept| kept.id).collect())).await?;
    let mut from = 0;
    loop {
        let (changes, end) = session.run(move |conn| batch(conn, from)).await?;
        if changes.is_empty() {
            return Ok(());
        }
        from = end;
        let mut checks = futures::stream::iter(changes)
            .map(|(change, is_packed)| {
                let listed = is_listed(listing, change.id);
                async move {
                    let standing = if listed { inspect(remote, &change, limit).await? } else { Standing::Gone };
                    let is_fine = matches!(standing, Standing::Gone) && is_packed;
                    Ok::<_, Error>((change.id, if is_fine { Standing::Same } else { standing }))
                }
            })
            .buffered(session.settings.concurrency.clamp(1, 16));
        while let Some(checked) = checks.next().await {
            let (id, standing) = checked?;
            report.remote_objects += 1;
            let what = match standing {
                Standing::Same => continue,
                Standing::Gone if stays.contains(&id) => "stays here and is not on the remote",
                Standing::Gone => GONE,
                Standing::Different => DIFFERENT,
                Standing::KeptBack => KEPT_BACK,
            };
            problem(report, format!("the change {id} {what}"));
        }
        progress(report.remote_objects, None);
    }
}

fn problem(report: &mut VerifyReport, sentence: String) {
    report.problem_count += 1;
    if report.problems.len() < MAX_PROBLEMS {
        report.problems.push(sentence);
    }
}

fn batch(conn: &rusqlite::Connection, from: i64) -> Result<(Vec<(Change, bool)>, i64)> {
    let mut statement = conn.prepare(
        "SELECT seq, change_id, change_id IN temp.ZV_PACKED FROM ZV_SEQUENCE WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query((from, BATCH as i64))?;
    let (mut changes, mut end) = (Vec::new(), from);
    while let Some(row) = rows.next()? {
        end = row.get(0)?;
        if let Some(id) = ChangeId::from_bytes(row.get(1)?) {
            changes.push((read_change(conn, id)?, row.get(2)?));
        }
    }
    Ok((changes, end))
}
