//! What to pull: the listing against what is remembered of the remote and against the log, in the order of ids. Decides;
//! transfers nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use super::packs::{Incomplete, incomplete};
use super::{RemoteRow, Session};
use crate::changelog::{
    IdText, PackRow, Places, RefusedFile, contains, each_loose, forget_refused, list_packs, refused_file, refused_files,
};
use crate::error::{Error, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{Listed, ListedChange, ListedPack, Listing};
use crate::seal::sealed_len;
use crate::wire::ObjectName;

/// A file that turned out unreadable.
pub(super) struct Refusal {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) stamp: u64,
    pub(super) reason: String,
    /// Whether it was asked for, and not only listed as larger than any file that is.
    pub(super) asked: bool,
}

impl Refusal {
    pub(super) fn of_change(listed: ListedChange, reason: String) -> Self {
        let ListedChange { id, size, stamp } = listed;
        Self { name: ObjectName::Change(id).to_string(), size, stamp, reason, asked: true }
    }

    pub(super) fn of_other(listed: Listed, reason: String) -> Self {
        let Listed { name, size, stamp } = listed;
        Self { name: name.to_string(), size, stamp, reason, asked: true }
    }

    pub(super) fn of_pack(listed: ListedPack, reason: String) -> Self {
        let ListedPack { id, size, stamp } = listed;
        Self { name: ObjectName::Pack(id).to_string(), size, stamp, reason, asked: true }
    }

    /// One that is listed as larger than the limit.
    pub(super) fn too_large(listed: ListedChange, limit: u64) -> Self {
        Self { asked: false, ..Self::of_change(listed, format!("larger than the limit of {limit} bytes")) }
    }

    /// One that this user may not read. Its bytes may be in order: it is remembered under another stamp than it has, so that
    /// every sync asks for it again.
    pub(super) fn kept_back(self) -> Self {
        Self { stamp: !self.stamp, reason: KEPT_BACK.to_owned(), ..self }
    }
}

/// What is said of a file that this user may not read.
pub(super) const KEPT_BACK: &str = "this user may not read it; check its permissions";

/// So many files that were refused before are asked for again in one sync; the others have their turn in the next ones.
const MAX_RETRIES: usize = 1_000;
/// Of so many waiting changes is remembered who made them; of more, how many there are.
const MAX_WAITING: usize = 10_000;

/// Changes whose time is still to come, with their authors as far as they are known: the first to come, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) first: Vec<(ChangeId, String)>,
    pub(super) more: u64,
}

impl Waiting {
    pub(super) fn add(&mut self, id: ChangeId, author: impl FnOnce() -> String) {
        if self.first.len() < MAX_WAITING {
            self.first.push((id, author()));
        } else {
            self.more += 1;
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        other.first.into_iter().for_each(|(id, author)| self.add(id, || author));
        self.more += other.more;
    }

    pub(super) fn count(&self) -> u64 {
        self.first.len() as u64 + self.more
    }
}

/// What is remembered of a remote's files that did not become changes. Refused files are looked up where they lie: somebody may
/// have filled the remote with them.
pub(super) struct Known {
    no: i64,
    /// Whether any file is refused.
    pub(super) any_refused: bool,
    /// Whether refused files are asked for again before their time.
    ask_again: bool,
    authors: BTreeMap<ChangeId, String>,
    /// The most bytes that a file may be listed with, a seal included.
    largest: u64,
    pub(super) now_ms: u64,
    /// Ids above this one have to wait.
    pub(super) bound: ChangeId,
}

impl Known {
    pub(super) fn new(
        no: i64,
        any_refused: bool,
        waiting: Vec<(ChangeId, String)>,
        now_ms: u64,
        drift_ms: u64,
    ) -> Self {
        Self {
            no,
            any_refused,
            ask_again: false,
            authors: waiting.into_iter().collect(),
            largest: u64::MAX,
            now_ms,
            bound: Clock::lower_bound(now_ms.saturating_add(drift_ms)),
        }
    }

    /// The same, with refused files asked for again whenever that was to be.
    pub(super) fn ask_again(mut self, ask_again: bool) -> Self {
        self.ask_again = ask_again;
        self
    }

    /// The same, for a limit of bytes.
    pub(super) fn up_to(mut self, limit: u64) -> Self {
        self.largest = sealed_len(limit);
        self
    }

    /// What is remembered of a refused file.
    pub(super) fn refused_as(&self, conn: &Connection, name: ObjectName) -> Result<Option<RefusedFile>> {
        if self.any_refused { refused_file(conn, self.no, &name.to_string()) } else { Ok(None) }
    }

    /// Forgets that files were refused, where any was.
    pub(super) fn forget(&self, conn: &Connection, names: impl Iterator<Item = ObjectName>) -> Result<()> {
        names.filter(|_| self.any_refused).try_for_each(|name| forget_refused(conn, self.no, &name.to_string()))
    }

    /// Those of other objects that are to be asked for now.
    pub(super) fn wanted(&self, conn: &Connection, listed: Vec<Listed>) -> Result<Vec<Listed>> {
        let (mut wanted, mut retries) = (Vec::new(), 0);
        for listed in listed {
            let refused = self.refused_as(conn, listed.name)?;
            if !self.is_settled(refused.as_ref(), listed.size, listed.stamp, &mut retries) {
                wanted.push(listed);
            }
        }
        Ok(wanted)
    }

    /// Who made a change that waits, if that was read.
    fn author(&self, id: ChangeId) -> String {
        self.authors.get(&id).cloned().unwrap_or_default()
    }

    /// Whether a file that was refused as it is need not be asked for again yet, or has no turn in this sync.
    fn is_settled(&self, refused: Option<&RefusedFile>, size: u64, stamp: u64, retries: &mut usize) -> bool {
        let Some(file) = refused.filter(|file| file.size == size && file.etag == stamp_text(stamp)) else {
            return false;
        };
        if self.ask_again {
            return false;
        }
        if file.tries == 0 {
            // It was too large to be asked for: that depends on the limit, and on no time.
            return size > self.largest;
        }
        if file.retry_ms == 0 {
            // It is known that it may be readable now: a key came.
            return false;
        }
        let is_due = file.retry_ms <= self.now_ms;
        *retries += usize::from(is_due);
        !is_due || *retries > MAX_RETRIES
    }
}

/// The refused loose files in the order of their names, which is that of a listing: read as it is gone through.
struct RefusedLoose<'a> {
    conn: &'a Connection,
    no: i64,
    ahead: VecDeque<RefusedFile>,
    /// Up to where they were read; nothing once all were.
    read_to: Option<String>,
}

impl<'a> RefusedLoose<'a> {
    fn new(conn: &'a Connection, known: &Known) -> Self {
        let read_to = known.any_refused.then(|| "changes/".to_owned());
        Self { conn, no: known.no, ahead: VecDeque::new(), read_to }
    }

    /// What is remembered of a file; each one asked about comes after those before.
    fn of(&mut self, id: ChangeId) -> Result<Option<RefusedFile>> {
        const AT_ONCE: usize = 1_000;
        if self.ahead.is_empty() && self.read_to.is_none() {
            return Ok(None);
        }
        let name = ObjectName::Change(id).to_string();
        loop {
            while self.ahead.front().is_some_and(|file| file.name < name) {
                self.ahead.pop_front();
            }
            if !self.ahead.is_empty() {
                return Ok(self.ahead.pop_front_if(|file| file.name == name));
            }
            let Some(read_to) = self.read_to.take() else { return Ok(None) };
            self.ahead = refused_files(self.conn, self.no, &read_to, AT_ONCE)?.into();
            self.read_to = self.ahead.back().map(|file| file.name.clone()).filter(|_| self.ahead.len() == AT_ONCE);
        }
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
    pub(super) waiting: Waiting,
}

/// Which loose files a sync is to fetch.
#[derive(Debug, Default)]
pub(super) struct LoosePlan {
    /// The listed changes that the log lacks and that can be asked for now, as positions in the listing.
    pub(super) wanted: Vec<u32>,
    /// Listed changes that the log has and that are not remembered to be there.
    pub(super) there: Vec<ChangeId>,
    pub(super) waiting: Waiting,
    /// How many refused files are asked for again.
    retries: usize,
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
    let (mut plan, mut retries) = (PackPlan::default(), 0);
    let remembered = list_packs(conn, no)?;
    for listed in &listing.packs {
        let row = remembered.binary_search_by_key(&listed.id, |row| row.pack).ok().map(|at| &remembered[at]);
        let name = ObjectName::Pack(listed.id);
        let refused = known.refused_as(conn, name)?;
        let is_refused = refused.is_some();
        let is_settled = known.is_settled(refused.as_ref(), listed.size, listed.stamp, &mut retries);
        if row.is_some_and(|row| row.complete) && !is_refused || is_settled {
            continue;
        }
        let Incomplete { due, waiting } = match row {
            Some(row) if !row.complete => incomplete(conn, no, row.pack, known.bound)?,
            _ => Incomplete { due: true, waiting: Vec::new() },
        };
        if due || is_refused {
            plan.packs.push(*listed);
        } else {
            waiting.into_iter().for_each(|id| plan.waiting.add(id, || known.author(id)));
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
    let (mut plan, mut refused) = (LoosePlan::default(), RefusedLoose::new(conn, known));
    let mut at = 0;
    each_loose(conn, no, |id, _| {
        while at < listing.changes.len() && listing.changes[at].id < id {
            place(conn, known, listing, at, false, &mut refused, &mut plan)?;
            at += 1;
        }
        if at < listing.changes.len() && listing.changes[at].id == id {
            place(conn, known, listing, at, true, &mut refused, &mut plan)?;
            at += 1;
        }
        Ok(())
    })?;
    for at in at..listing.changes.len() {
        place(conn, known, listing, at, false, &mut refused, &mut plan)?;
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
    refused: &mut RefusedLoose<'_>,
    plan: &mut LoosePlan,
) -> Result<()> {
    let listed = listing.changes[at];
    let is_logged = remembered || contains(conn, listed.id)?;
    let refused = refused.of(listed.id)?;
    // A refused file is looked at again even if its change came another way: nobody is to hear of it for ever.
    if is_logged && refused.is_none() {
        if !remembered {
            plan.there.push(listed.id);
        }
    } else if !is_logged && known.bound < listed.id {
        plan.waiting.add(listed.id, || known.author(listed.id));
    } else if !known.is_settled(refused.as_ref(), listed.size, listed.stamp, &mut plan.retries) {
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
    listed(listing, id).is_some()
}

/// The loose file of a change, as it was listed.
pub(super) fn listed(listing: &Listing, id: ChangeId) -> Option<ListedChange> {
    listing.changes.binary_search_by_key(&id, |listed| listed.id).ok().map(|at| listing.changes[at])
}

/// Whether a loose file was read as it is listed, and refused. One that was too large to be asked for may be in order, and so may one
/// that this user may not read, which is remembered under another stamp.
pub(super) fn is_damaged(conn: &Connection, no: i64, listed: ListedChange) -> Result<bool> {
    let refused = refused_file(conn, no, &ObjectName::Change(listed.id).to_string())?;
    Ok(refused.is_some_and(|file| file.etag == stamp_text(listed.stamp) && file.tries > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_refused_files_have_a_turn_and_all_that_a_key_came_for() {
        let known = Known::new(1, true, Vec::new(), 100, 0);
        let settled = |retry_ms: u64, size: u64, retries: &mut usize| {
            let (name, reason) = (String::new(), String::new());
            let file = RefusedFile { name, size: 1, etag: stamp_text(2), reason, tries: 1, retry_ms };
            known.is_settled(Some(&file), size, 2, retries)
        };
        let mut retries = 0;
        assert!(settled(101, 1, &mut retries), "not due");
        let asked = (0..MAX_RETRIES + 7).filter(|_| !settled(100, 1, &mut retries)).count();
        assert_eq!(asked, MAX_RETRIES);
        assert!(!settled(0, 1, &mut retries), "a key came for it");
        assert!(!settled(100, 3, &mut retries), "another file under the same name");
        assert!(!known.is_settled(None, 1, 2, &mut retries), "never refused");
    }
}
