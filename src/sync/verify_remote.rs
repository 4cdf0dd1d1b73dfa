//! Whether the remote holds the whole log: every change listed, read, and compared. Reads only.

use futures::StreamExt;

use super::Session;
use super::full::{Standing, inspect};
use super::plan::is_listed;
use super::unlock;
use crate::changelog::{kept, list_remotes, read_change};
use crate::error::{Error, Result};
use crate::model::ChangeId;
use crate::remote::Remote;
use crate::report::{Phase, VerifyReport};

const BATCH: usize = 1_000;
/// The most problems that a report lists.
const MAX_PROBLEMS: usize = 1_000;

/// Adds to a report what the remote lacks or has otherwise than the log.
pub(crate) async fn verify_remote(session: &Session, remote: &Remote, report: &mut VerifyReport) -> Result<()> {
    let listing = remote.list().await?;
    let url = remote.url().to_owned();
    let row = session.run(move |conn| Ok(list_remotes(conn)?.into_iter().find(|row| row.url == url))).await?;
    let remembered = match row {
        Some(row) => unlock::remember(session, row.no).await?,
        None => unlock::Remembered::default(),
    };
    let remote = &unlock::open(remote, &remembered, &listing).await?;
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
            .map(|change| {
                let listed = is_listed(&listing, change.id);
                async move {
                    let standing = if listed { inspect(remote, &change, limit).await? } else { Standing::Gone };
                    Ok::<_, Error>((change.id, standing))
                }
            })
            .buffered(session.settings.concurrency.clamp(1, 16));
        while let Some(checked) = checks.next().await {
            let (id, standing) = checked?;
            report.remote_objects += 1;
            let what = match standing {
                Standing::Same => continue,
                Standing::Gone if stays.contains(&id) => "stays here and is not on the remote",
                Standing::Gone => "is not on the remote; `zvon sync` puts it there",
                Standing::Different => "is unreadable or different on the remote; `zvon sync --full` puts it right",
            };
            report.problem_count += 1;
            if report.problems.len() < MAX_PROBLEMS {
                report.problems.push(format!("the change {id} {what}"));
            }
        }
        progress(report.remote_objects, None);
    }
}

fn batch(conn: &rusqlite::Connection, from: i64) -> Result<(Vec<crate::model::Change>, i64)> {
    let mut statement =
        conn.prepare_cached("SELECT seq, change_id FROM ZV_SEQUENCE WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = statement.query((from, BATCH as i64))?;
    let (mut changes, mut end) = (Vec::new(), from);
    while let Some(row) = rows.next()? {
        end = row.get(0)?;
        if let Some(id) = ChangeId::from_bytes(row.get(1)?) {
            changes.push(read_change(conn, id)?);
        }
    }
    Ok((changes, end))
}
