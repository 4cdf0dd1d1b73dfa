//! Whose clock is wrong: this machine's, or another's. The verdict is pure; the evidence is gathered here.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::pull::read_authors;
use super::{Meeting, RemoteRow, Session, drift_ms, identity_to_write, packs};
use crate::changelog::{set_word, waiting, word};
use crate::db::Metadata;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CLOCK_FLOOR_MS, ChangeId, Clock};
use crate::remote::{Listing, Remote};
use crate::wire::ObjectName;

/// How many authors must be heard before most of them can outvote this machine.
const MIN_AUTHORS: usize = 3;

/// What is known of the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Evidence {
    now_ms: u64,
    drift_ms: u64,
    /// The store's clock, where it has one of its own and could be asked.
    store_ms: Option<u64>,
    /// The newest change of each author, backfills aside.
    authors_ms: Vec<u64>,
}

/// What a wrong clock of this machine looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Plausible,
    /// By how many milliseconds this machine is ahead of (or, negative, behind) the store.
    OffTheStore(i64),
    /// Most authors' newest changes lie further ahead than the drift allows.
    BehindMostAuthors,
}

fn judge(evidence: &Evidence) -> Verdict {
    let Evidence { now_ms, drift_ms, store_ms, authors_ms } = evidence;
    if let Some(store_ms) = store_ms {
        let off = i64::try_from(*now_ms).unwrap_or(i64::MAX) - i64::try_from(*store_ms).unwrap_or(i64::MAX);
        return if off.unsigned_abs() > *drift_ms { Verdict::OffTheStore(off) } else { Verdict::Plausible };
    }
    let ahead = authors_ms.iter().filter(|ms| **ms > now_ms.saturating_add(*drift_ms)).count();
    let outvoted = authors_ms.len() >= MIN_AUTHORS && ahead * 2 > authors_ms.len();
    if outvoted { Verdict::BehindMostAuthors } else { Verdict::Plausible }
}

/// Stops a sync where it is this machine's clock that is wrong.
pub(super) async fn check(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Listing,
    meeting: &Meeting,
) -> Result<()> {
    let (now_ms, drift) = (session.world.now_ms(), drift_ms(session.settings.max_clock_drift));
    let bound = Clock::lower_bound(now_ms.saturating_add(drift));
    let ahead: Vec<ChangeId> = listing.changes.iter().rev().map(|c| c.id).take_while(|id| *id > bound).collect();
    let packs_ahead = listing.packs.last().is_some_and(|pack| pack.id > bound);
    let from_the_future = !ahead.is_empty() || packs_ahead;
    let mut question = None;
    let mut evidence = Evidence { now_ms, drift_ms: drift, ..Evidence::default() };
    if remote.has_own_clock() {
        // Nothing on the remote and no sync of ours is recent: either nobody worked, or this clock leapt ahead.
        let newest = listing.newest_modified_ms.max(row.last_sync_ms);
        let leapt = now_ms.saturating_sub(newest) > drift;
        let behind = listing.newest_modified_ms > now_ms.saturating_add(drift);
        if from_the_future || leapt || behind {
            evidence.store_ms = ask_store(session, remote, row, meeting).await?;
        }
    } else if from_the_future {
        let asked = question_of(listing, bound);
        if was_answered(session, row, &asked).await? {
            return Ok(());
        }
        question = Some(asked);
        evidence.authors_ms = hear_authors(session, remote, row, listing, ahead, bound).await?;
    }
    match judge(&evidence) {
        Verdict::Plausible => remember_answered(session, row, question).await,
        verdict => Err(wrong_clock(remote, &verdict)),
    }
}

/// What the files from the future are, in a word. Once this clock was found right among them it stays so while they are the same:
/// their authors are as many as before, and others can only have become more. So an idle sync neither reads the files nor goes
/// through the log.
fn question_of(listing: &Listing, bound: ChangeId) -> String {
    let changes = listing.changes.iter().rev().map(|c| (c.id, c.stamp));
    let packs = listing.packs.iter().rev().map(|pack| (pack.id, pack.stamp));
    let mut hash = Sha256::new();
    for (id, stamp) in changes.take_while(|(id, _)| *id > bound).chain(packs.take_while(|(id, _)| *id > bound)) {
        hash.update(id.as_bytes());
        hash.update(stamp.to_be_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn was_answered(session: &Session, row: &RemoteRow, question: &str) -> Result<bool> {
    let no = row.no;
    let answered = session.run(move |conn| word(conn, Metadata::ClockTrusted, no)).await?;
    Ok(answered.as_deref() == Some(question))
}

async fn remember_answered(session: &Session, row: &RemoteRow, question: Option<String>) -> Result<()> {
    let Some(question) = question else { return Ok(()) };
    let no = row.no;
    session.run(move |conn| set_word(conn, Metadata::ClockTrusted, no, Some(&question))).await
}

/// The newest change of each author, in the log and among what waits.
async fn hear_authors(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Listing,
    ahead: Vec<ChangeId>,
    bound: ChangeId,
) -> Result<Vec<u64>> {
    let no = row.no;
    let known: BTreeMap<ChangeId, String> = session.run(move |conn| waiting(conn, no)).await?.into_iter().collect();
    let unread = ahead.into_iter().map(|id| (id, known.get(&id).cloned().unwrap_or_default())).collect();
    let mut waiting = read_authors(remote, unread, session.settings.max_object_bytes).await?;
    waiting.extend(packs::changes_after(session, remote, listing, bound).await?);
    session.run(move |conn| newest_by_author(conn, &waiting)).await
}

fn wrong_clock(remote: &Remote, verdict: &Verdict) -> Error {
    let how = match verdict {
        Verdict::OffTheStore(off) if *off > 0 => format!("{} ahead of {}", hours(*off), remote.url()),
        Verdict::OffTheStore(off) => format!("{} behind {}", hours(*off), remote.url()),
        _ => "behind the newest changes of most replicas".to_owned(),
    };
    Error::new(
        ErrorKind::Clock,
        format!("this machine's clock is {how}; nothing was merged or pushed: correct the clock and sync again"),
    )
}

fn hours(ms: i64) -> String {
    let minutes = ms.unsigned_abs() / 60_000;
    if minutes < 48 * 60 {
        format!("{} h {} min", minutes / 60, minutes % 60)
    } else {
        format!("{} days", minutes / 1440)
    }
}

/// The store's clock: the time of something just written there. An identity is written again with the bytes that it has.
async fn ask_store(session: &Session, remote: &Remote, row: &RemoteRow, meeting: &Meeting) -> Result<Option<u64>> {
    let identity = match meeting.identities.iter().min() {
        Some(identity) => *identity,
        None => identity_to_write(session, remote, row.no).await?,
    };
    store_clock(remote, identity).await
}

/// Writes an identity again and asks when that was.
pub(super) async fn store_clock(remote: &Remote, identity: ChangeId) -> Result<Option<u64>> {
    let name = ObjectName::Identity(identity);
    if remote.put(&name, remote.identity_object(identity)).await.is_err() {
        // Somebody who may only read cannot ask; pushing will say so in its own words.
        return Ok(None);
    }
    remote.modified_ms(&name).await
}

/// The newest change of each author: in the log, and among those that wait.
fn newest_by_author(conn: &Connection, waiting: &[(ChangeId, String)]) -> Result<Vec<u64>> {
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let floor = Clock::lower_bound(CLOCK_FLOOR_MS).to_string();
    let mut statement = conn.prepare("SELECT author_id, max(id) FROM ZV_CHANGE WHERE id >= ?1 GROUP BY author_id")?;
    let mut rows = statement.query([floor])?;
    while let Some(row) = rows.next()? {
        let id: ChangeId = row.get::<_, String>(1)?.parse()?;
        newest.insert(row.get(0)?, id.millis());
    }
    for (id, author) in waiting.iter().filter(|(_, author)| !author.is_empty()) {
        let at = newest.entry(author.clone()).or_default();
        *at = id.millis().max(*at);
    }
    Ok(newest.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = CLOCK_FLOOR_MS + 1_000_000_000;
    const DRIFT: u64 = 1000;

    fn verdict(store_ms: Option<u64>, authors: &[i64]) -> Verdict {
        let authors_ms = authors.iter().map(|off| NOW.saturating_add_signed(*off)).collect();
        judge(&Evidence { now_ms: NOW, drift_ms: DRIFT, store_ms, authors_ms })
    }

    #[test]
    fn the_stores_clock_decides_where_it_can_be_had() {
        assert_eq!(verdict(Some(NOW - 900), &[5000, 5000, 5000]), Verdict::Plausible);
        assert_eq!(verdict(Some(NOW - 1100), &[]), Verdict::OffTheStore(1100));
        assert_eq!(verdict(Some(NOW + 1100), &[]), Verdict::OffTheStore(-1100));
    }

    #[test]
    fn otherwise_most_of_at_least_three_authors_do() {
        assert_eq!(verdict(None, &[5000, 5000]), Verdict::Plausible);
        assert_eq!(verdict(None, &[5000, 0, 0]), Verdict::Plausible);
        assert_eq!(verdict(None, &[5000, 5000, 0]), Verdict::BehindMostAuthors);
        assert_eq!(verdict(None, &[5000, 5000, 0, 0]), Verdict::Plausible);
    }
}
