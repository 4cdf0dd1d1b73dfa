//! What to pull and what to push: the listing against the log, both in the order of ids. Decides; transfers nothing.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::Session;
use crate::changelog::{IdText, RefusedFile, RemoteRow, kept};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{ListedChange, Listing};
use crate::wire::ObjectName;

/// What is remembered of a remote's files that did not become changes.
pub(super) struct Known {
    refused: HashMap<String, RefusedFile>,
    /// Whether refused files are asked for again before their time.
    ask_again: bool,
    authors: HashMap<ChangeId, String>,
    now_ms: u64,
    /// Ids above this one have to wait.
    bound: ChangeId,
}

impl Known {
    pub(super) fn new(refused: Vec<RefusedFile>, waiting: Vec<(ChangeId, String)>, now_ms: u64, drift_ms: u64) -> Self {
        Self {
            refused: refused.into_iter().map(|file| (file.name.clone(), file)).collect(),
            ask_again: false,
            authors: waiting.into_iter().collect(),
            now_ms,
            bound: Clock::lower_bound(now_ms.saturating_add(drift_ms)),
        }
    }

    /// The same, with refused files asked for again whenever that was to be.
    pub(super) fn ask_again(mut self, ask_again: bool) -> Self {
        self.ask_again = ask_again;
        self
    }

    fn refused(&self, listed: &ListedChange) -> Option<&RefusedFile> {
        if self.refused.is_empty() {
            return None;
        }
        self.refused.get(&ObjectName::Change(listed.id).to_string())
    }

    /// Whether a file was refused as it is, and need not be asked for again yet.
    fn is_settled(&self, listed: &ListedChange) -> bool {
        !self.ask_again
            && self.refused(listed).is_some_and(|file| {
                file.size == listed.size && file.etag == stamp_text(listed.stamp) && self.now_ms < file.retry_ms
            })
    }
}

/// A stamp as it is remembered.
pub(super) fn stamp_text(stamp: u64) -> String {
    format!("{stamp:016x}")
}

/// What a sync is to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The listed changes that the log lacks and that can be asked for now, as positions in the listing.
    pub(super) wanted: Vec<u32>,
    /// Those whose time is still to come, with their authors as far as they are known.
    pub(super) waiting: Vec<(ChangeId, String)>,
    /// Files known to be unreadable, as they still are.
    pub(super) refused: HashMap<String, RefusedFile>,
    /// Whether something that was on the remote is not there any more.
    pub(super) is_incomplete: bool,
}

/// Whether the log has any of the listed changes.
pub(super) fn any_known(conn: &Connection, listing: &Listing) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM ZV_CHANGE WHERE id = ?1")?;
    for listed in &listing.changes {
        if statement.exists([IdText::new(listed.id).as_str()])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compares the listing with the log.
pub(super) async fn make(session: &Session, row: &RemoteRow, listing: &Arc<Listing>, known: Known) -> Result<Plan> {
    let (listing, pushed_seq) = (Arc::clone(listing), row.pushed_seq);
    session.run(move |conn| compare(conn, &listing, pushed_seq, known)).await
}

fn compare(conn: &Connection, listing: &Listing, pushed_seq: i64, known: Known) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut missing: u64 = 0;
    let mut statement = conn.prepare("SELECT id FROM ZV_CHANGE ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut logged = next_id(&mut rows)?;
    for (at, listed) in listing.changes.iter().enumerate() {
        while logged.is_some_and(|id| id < listed.id) {
            missing += 1;
            logged = next_id(&mut rows)?;
        }
        let is_logged = logged == Some(listed.id);
        if is_logged {
            logged = next_id(&mut rows)?;
        }
        if is_logged && known.refused(listed).is_none() {
            // A refused file is looked at again even if its change came another way: nobody is to hear of it for ever.
            continue;
        }
        if !is_logged && known.bound < listed.id {
            let author = known.authors.get(&listed.id).cloned().unwrap_or_default();
            plan.waiting.push((listed.id, author));
        } else if !known.is_settled(listed) {
            plan.wanted.push(u32::try_from(at).map_err(|_| Error::corrupt("the remote lists too many files"))?);
        }
    }
    while logged.is_some() {
        missing += 1;
        logged = next_id(&mut rows)?;
    }
    plan.is_incomplete = missing > unpushed(conn, listing, pushed_seq)?;
    plan.refused = known.refused;
    Ok(plan)
}

fn next_id(rows: &mut rusqlite::Rows<'_>) -> Result<Option<ChangeId>> {
    rows.next()?.map(|row| row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?.parse()).transpose()
}

/// How many changes the remote is expected to lack: those after the cursor, and those that stay here.
fn unpushed(conn: &Connection, listing: &Listing, pushed_seq: i64) -> Result<u64> {
    let mut statement = conn.prepare_cached("SELECT change_id FROM ZV_SEQUENCE WHERE seq > ?1")?;
    let mut rows = statement.query([pushed_seq])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let id = ChangeId::from_bytes(row.get(0)?);
        count += u64::from(id.is_some_and(|id| !is_listed(listing, id)));
    }
    let kept = kept(conn)?.into_iter().filter(|kept| kept.seq <= pushed_seq && !is_listed(listing, kept.id));
    Ok(count + kept.count() as u64)
}

/// Whether a change was on the remote when it was listed.
pub(super) fn is_listed(listing: &Listing, id: ChangeId) -> bool {
    listing.changes.binary_search_by_key(&id, |listed| listed.id).is_ok()
}
