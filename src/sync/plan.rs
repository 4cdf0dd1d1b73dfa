//! What to pull: the listing against what is remembered of the remote and against the log, in the order of ids. Decides;
//! transfers nothing.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::packs::{Incomplete, incomplete};
use super::{RemoteRow, Session};
use crate::changelog::{IdText, PackRow, Places, RefusedFile, contains, each_loose, list_packs};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{ListedChange, ListedPack, Listing};
use crate::wire::ObjectName;

/// A file that turned out unreadable.
pub(super) struct Refusal {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) stamp: u64,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn of_change(listed: ListedChange, reason: String) -> Self {
        let ListedChange { id, size, stamp } = listed;
        Self { name: ObjectName::Change(id).to_string(), size, stamp, reason }
    }

    pub(super) fn of_pack(listed: ListedPack, reason: String) -> Self {
        let ListedPack { id, size, stamp } = listed;
        Self { name: ObjectName::Pack(id).to_string(), size, stamp, reason }
    }

    /// One that this user may not read. Its bytes may be in order: it is remembered under another stamp than it has, so that
    /// every sync asks for it again.
    pub(super) fn kept_back(self) -> Self {
        Self { stamp: !self.stamp, reason: KEPT_BACK.to_owned(), ..self }
    }
}

const KEPT_BACK: &str = "this user may not read it; check its permissions";

/// What is remembered of a remote's files that did not become changes.
pub(super) struct Known {
    refused: HashMap<String, RefusedFile>,
    /// Whether refused files are asked for again before their time.
    ask_again: bool,
    authors: HashMap<ChangeId, String>,
    now_ms: u64,
    /// Ids above this one have to wait.
    pub(super) bound: ChangeId,
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

    pub(super) fn refused(&self) -> &HashMap<String, RefusedFile> {
        &self.refused
    }

    fn refused_as(&self, name: ObjectName) -> Option<&RefusedFile> {
        if self.refused.is_empty() {
            return None;
        }
        self.refused.get(&name.to_string())
    }

    /// Whether a file was refused as it is, and need not be asked for again yet.
    fn is_settled(&self, name: ObjectName, size: u64, stamp: u64) -> bool {
        !self.ask_again
            && self
                .refused_as(name)
                .is_some_and(|file| file.size == size && file.etag == stamp_text(stamp) && self.now_ms < file.retry_ms)
    }
}

/// A stamp as it is remembered.
pub(super) fn stamp_text(stamp: u64) -> String {
    format!("{stamp:016x}")
}

/// Which packs a sync is to look into, and which of the changes in others have to wait.
#[derive(Debug, Default)]
pub(super) struct PackPlan {
    pub(super) packs: Vec<ListedPack>,
    /// Changes whose time is still to come, with their authors as far as they are known.
    pub(super) waiting: Vec<(ChangeId, String)>,
}

/// Which loose files a sync is to fetch.
#[derive(Debug, Default)]
pub(super) struct LoosePlan {
    /// The listed changes that the log lacks and that can be asked for now, as positions in the listing.
    pub(super) wanted: Vec<u32>,
    /// Listed changes that the log has and that are not remembered to be there.
    pub(super) there: Vec<ChangeId>,
    /// Those whose time is still to come, with their authors as far as they are known.
    pub(super) waiting: Vec<(ChangeId, String)>,
}

/// Whether the log has any of the changes of the loose files, or a pack that is listed is remembered.
pub(super) fn any_known(conn: &Connection, no: i64, listing: &Listing) -> Result<bool> {
    let remembered = list_packs(conn, no)?;
    if listing.packs.iter().any(|listed| is_remembered(&remembered, listed)) {
        return Ok(true);
    }
    let mut statement = conn.prepare_cached("SELECT 1 FROM ZV_CHANGE WHERE id = ?1")?;
    for listed in &listing.changes {
        if statement.exists([IdText::new(listed.id).as_str()])? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_remembered(packs: &[PackRow], listed: &ListedPack) -> bool {
    packs.binary_search_by_key(&listed.id, |row| row.pack).is_ok()
}

/// Compares the listed packs with those that are remembered.
pub(super) async fn packs(
    session: &Session,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    known: &Arc<Known>,
) -> Result<PackPlan> {
    let (listing, no, known) = (Arc::clone(listing), row.no, Arc::clone(known));
    session.run(move |conn| compare_packs(conn, no, &listing, &known)).await
}

fn compare_packs(conn: &mut Connection, no: i64, listing: &Listing, known: &Known) -> Result<PackPlan> {
    // One view of the database: another process may sync at the same time.
    let tx = conn.transaction()?;
    let conn: &Connection = &tx;
    let mut plan = PackPlan::default();
    let remembered = list_packs(conn, no)?;
    for listed in &listing.packs {
        let row = remembered.binary_search_by_key(&listed.id, |row| row.pack).ok().map(|at| &remembered[at]);
        let name = ObjectName::Pack(listed.id);
        let is_refused = known.refused_as(name).is_some();
        if row.is_some_and(|row| row.complete) && !is_refused || known.is_settled(name, listed.size, listed.stamp) {
            continue;
        }
        let Incomplete { due, waiting } = match row {
            Some(row) if !row.complete => incomplete(conn, no, row.pack, known.bound)?,
            _ => Incomplete { due: true, waiting: Vec::new() },
        };
        if due || is_refused {
            plan.packs.push(*listed);
        } else {
            let author = |id: &ChangeId| known.authors.get(id).cloned().unwrap_or_default();
            plan.waiting.extend(waiting.iter().map(|id| (*id, author(id))));
        }
    }
    Ok(plan)
}

/// Compares the listed loose files with those that are remembered, and with the log.
pub(super) async fn loose(
    session: &Session,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    known: &Arc<Known>,
) -> Result<LoosePlan> {
    let (listing, no, known) = (Arc::clone(listing), row.no, Arc::clone(known));
    session.run(move |conn| compare_loose(conn, no, &listing, &known)).await
}

fn compare_loose(conn: &mut Connection, no: i64, listing: &Listing, known: &Known) -> Result<LoosePlan> {
    let tx = conn.transaction()?;
    let conn: &Connection = &tx;
    let mut plan = LoosePlan::default();
    let mut at = 0;
    each_loose(conn, no, |id, _| {
        while at < listing.changes.len() && listing.changes[at].id < id {
            place(conn, known, listing, at, false, &mut plan)?;
            at += 1;
        }
        if at < listing.changes.len() && listing.changes[at].id == id {
            place(conn, known, listing, at, true, &mut plan)?;
            at += 1;
        }
        Ok(())
    })?;
    for at in at..listing.changes.len() {
        place(conn, known, listing, at, false, &mut plan)?;
    }
    Ok(plan)
}

/// Decides what becomes of one listed file.
fn place(
    conn: &Connection,
    known: &Known,
    listing: &Listing,
    at: usize,
    remembered: bool,
    plan: &mut LoosePlan,
) -> Result<()> {
    let listed = listing.changes[at];
    let name = ObjectName::Change(listed.id);
    let is_logged = remembered || contains(conn, listed.id)?;
    // A refused file is looked at again even if its change came another way: nobody is to hear of it for ever.
    if is_logged && known.refused_as(name).is_none() {
        if !remembered {
            plan.there.push(listed.id);
        }
    } else if !is_logged && known.bound < listed.id {
        plan.waiting.push((listed.id, known.authors.get(&listed.id).cloned().unwrap_or_default()));
    } else if !known.is_settled(name, listed.size, listed.stamp) {
        plan.wanted.push(u32::try_from(at).map_err(|_| Error::corrupt("the remote lists too many files"))?);
    }
    Ok(())
}

/// Whether a change lies on the remote: in a listed loose file, or in a remembered pack.
pub(super) fn is_there(listing: &Listing, places: &mut Places<'_>, id: ChangeId) -> Result<bool> {
    Ok(is_listed(listing, id) || places.is_packed(id)?)
}

/// Whether a loose file of a change was on the remote when it was listed.
pub(super) fn is_listed(listing: &Listing, id: ChangeId) -> bool {
    listing.changes.binary_search_by_key(&id, |listed| listed.id).is_ok()
}
