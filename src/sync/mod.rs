//! Sync: the order of the steps. Each step is plan (pure), do (I/O), record (one transaction), and safe to repeat.

mod clocks;
mod clone;
pub(crate) mod compaction;
mod definitions;
mod full;
mod join;
mod keys;
mod packs;
mod places;
mod plan;
mod pull;
mod push;
mod session;
mod survey;
mod unlock;
mod verify_remote;

use std::sync::Arc;
use std::time::Duration;

use crate::capture::{Installed, renew, seal, seal_within};
use crate::changelog::{
    LayoutRow, Log, Places, RefusedFile, RemoteRow, count_held, count_refused, kept, known_identities, redate,
    remember_identity, remember_remote, retire_backfills, set_encrypted, set_synced, waiting,
};
use crate::db::immediate;
use crate::error::Result;
use crate::merge::merge;
use crate::model::{ChangeId, Clock};
use crate::remote::{DAMAGED, Fetched, Listing, Remote};
use crate::report::{OversizeChange, Phase, SyncReport};
use crate::wire::{Layout, ObjectName};
#[cfg(any(test, fuzzing))]
pub(crate) use clone::clone_defined;
pub(crate) use clone::{check_clonable, create_tables};
pub use compaction::CompactOptions;
pub(crate) use compaction::compact;
pub(crate) use definitions::{define, differences, is_enforced_elsewhere, redefine};
pub(crate) use keys::{
    change as change_keys, encrypt, list as list_keys, with as with_recipient, without as without_recipient,
};
use plan::{KEPT_BACK, Known};
pub(crate) use push::oversize;
pub(crate) use session::Session;
pub use session::Settings;
pub(crate) use survey::survey;
pub(crate) use verify_remote::verify_remote;

/// How a replica with rows of its own joins a remote that it is not related to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Join {
    /// Rows with the same key are the same row.
    Same,
    /// Rows of tables whose integer keys are local are rows of their own, whatever their integers; other rows with the same
    /// key are the same row. For a replica that was never pushed anywhere.
    Separate,
}

/// The form in which changes lie on a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteLayout {
    /// One file a change, for the plainest readers.
    Files,
    /// Packs are allowed.
    Packs,
}

/// What a sync is asked to do beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SyncOptions {
    /// Read every file that is there and put back what is not as the log has it.
    pub full: bool,
    /// How to join a remote that this replica is not related to.
    pub join: Option<Join>,
    /// Record another layout on the remote.
    pub layout: Option<RemoteLayout>,
}

/// A file that vanished between listing and fetching makes the sync list again, this often at most.
const RELISTS: usize = 3;

/// Brings a replica and a remote to the same set of changes, and the replica's tables in line with it.
pub(crate) async fn sync(session: &Session, remote: &Remote, options: &SyncOptions) -> Result<SyncReport> {
    let started = std::time::Instant::now();
    let traffic = remote.traffic();
    let session = &session.with_meter(remote);
    let _repeating = session.repeat_reports();
    let mut report = SyncReport { remote: remote.url().to_owned(), ..SyncReport::default() };
    let mut row = prepare(session, remote, &mut report).await?;
    make_place(session, remote, &row).await?;
    let listing = list(session, remote).await?;
    let remote = &unlock::unlock(session, remote, row.no, &listing).await?;
    let meeting = meet(session, remote, &row, &listing, options).await?;
    clocks::check(session, remote, &row, &listing, &meeting).await?;
    pull_definitions(session, remote, &row, &listing, options, &mut report).await?;
    let listing = pull_all(session, remote, &row, listing, options, &mut report).await?;
    row.emptied += u64::from(places::reconcile(session, &row, &listing).await?);
    merge_all(session, &row, &listing, &mut report).await?;
    let remote = &unlock::settle(session, remote.clone(), row.no, &listing).await?;
    let layout = announce(session, remote, &row, &listing, &meeting, options, &mut report.notices).await?;
    definitions::push(session, remote, &listing).await?;
    let files_only = layout.layout == layout_text(Layout::Files);
    let is_unpacked = files_only && !row.is_laid_out_as_files();
    let packed = if is_unpacked { places::unpack(session, &row).await? } else { 0 };
    if options.full {
        full::mend(session, remote, &row, files_only, &listing, &mut report).await?;
        places::lose_unknown(session, &row, files_only, &listing).await?;
    }
    push::push(session, remote, &row, files_only, &listing, packed, &mut report).await?;
    finish(session, remote, &row, layout, &mut report).await?;
    report.compaction_due = compaction::is_due(session, remote, &row, files_only).await?;
    let after = remote.traffic();
    report.requests = after.since(&traffic);
    report.bytes_in = after.bytes_in - traffic.bytes_in;
    report.bytes_out = after.bytes_out - traffic.bytes_out;
    report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Seals what was written, notices changed schemas, and remembers the remote.
async fn prepare(session: &Session, remote: &Remote, report: &mut SyncReport) -> Result<RemoteRow> {
    let (url, world) = (remote.url().to_owned(), session.world.clone());
    let progress = session.reporter(Phase::Seal);
    let (row, notices) = session
        .run_in_turns(move |conn, turns| {
            progress(0, None);
            seal(conn, &world, turns)?;
            let tx = immediate(conn)?;
            let mut log = Log::new(&tx)?;
            seal_within(&mut log, &world)?;
            let renewed = renew(&mut log, &world)?;
            log.finish()?;
            let mut notices: Vec<String> = renewed.iter().map(renewal_notice).collect();
            notices.extend(definitions::define(&tx)?);
            let row = remember_remote(&tx, &url)?;
            tx.commit()?;
            Ok((row, notices))
        })
        .await?;
    report.notices.extend(notices);
    Ok(row)
}

/// What the user should know of a table whose triggers were renewed.
pub(crate) fn renewal_notice(renewed: &crate::capture::Renewed) -> String {
    let (name, found) = (renewed.tracked.name(), renewed.found);
    if !renewed.tracked.active {
        return format!("{name}: {}", renewed.tracked.notice);
    }
    let what = match renewed.standing {
        Installed::Broken => "was dropped or rebuilt without its triggers; capture is on again",
        Installed::Behind => "has triggers that hid writes from capture; capture comes before them now",
        _ => "has other columns, unique constraints or triggers than before; capture covers them now",
    };
    let counts = [
        (found.backfilled, "rows added to the log"),
        (found.changed, "rows written meanwhile"),
        (found.deleted, "rows deleted meanwhile"),
        (found.unusable, "rows left out, as their key is NULL, of another type than its column's, or not valid text"),
        (found.missing, "missing rows shown again (`zvon track --accept-deletes` makes such rows deletes)"),
    ];
    let told: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if told.is_empty() { format!("{name} {what}") } else { format!("{name} {what}: {}", told.join(", ")) }
}

/// Makes the place of a remote that this replica never met. One that it knows is not made again: a drive may not be mounted, and
/// what is pushed would lie beside it.
async fn make_place(session: &Session, remote: &Remote, row: &RemoteRow) -> Result<()> {
    let no = row.no;
    let is_known = row.last_sync_ms > 0 || !session.run(move |conn| known_identities(conn, Some(no))).await?.is_empty();
    if is_known { Ok(()) } else { remote.make().await }
}

async fn list(session: &Session, remote: &Remote) -> Result<Arc<Listing>> {
    let progress = session.reporter(Phase::List);
    progress(0, None);
    let listing = remote.list().await?;
    progress((listing.changes.len() + listing.packs.len()) as u64, None);
    Ok(Arc::new(listing))
}

/// How replica and remote stand to each other.
pub(crate) struct Meeting {
    /// The remote's identities as listed.
    identities: Vec<ChangeId>,
}

/// Makes sure that two databases do not mix: a replica with rows of its own needs something in common with the remote.
async fn meet(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Arc<Listing>,
    options: &SyncOptions,
) -> Result<Meeting> {
    let identities: Vec<ChangeId> = listing
        .others
        .iter()
        .filter_map(|listed| match listed.name {
            ObjectName::Identity(id) => Some(id),
            _ => None,
        })
        .collect();
    let (listed, no) = (identities.clone(), row.no);
    let changes = Arc::clone(listing);
    let is_empty = listing.is_without_changes() && identities.is_empty();
    let related = session
        .run(move |conn| {
            let known = known_identities(conn, None)?;
            let meets = listed.iter().any(|id| known.contains(id));
            let own_rows: bool = conn.query_row("SELECT EXISTS (SELECT 1 FROM ZV_SEQUENCE)", [], |row| row.get(0))?;
            Ok(is_empty || meets || !own_rows || plan::any_known(conn, no, &changes)?)
        })
        .await?;
    let related = related || packs::any_known(session, remote, listing).await?;
    match options.join {
        _ if related => {}
        None => return Err(join::refusal(session, remote, listing).await?),
        Some(Join::Same) => {}
        Some(Join::Separate) => join::separate_rows(session).await?,
    }
    let remembered = identities.clone();
    session.run(move |conn| remembered.iter().try_for_each(|id| remember_identity(conn, no, *id))).await?;
    Ok(Meeting { identities })
}

/// The most bytes of an identity or a layout.
const IDENTITY_LIMIT: u64 = 64 << 10;

pub(crate) fn drift_ms(drift: Duration) -> u64 {
    u64::try_from(drift.as_millis()).unwrap_or(u64::MAX)
}

/// Fetches the table definitions that are not known here, and remembers those that cannot be read.
async fn pull_definitions(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Listing,
    options: &SyncOptions,
    report: &mut SyncReport,
) -> Result<()> {
    let known = Arc::new(known_files(session, row, options.full).await?);
    let found = definitions::pull(session, remote, listing, &known, definitions::MAX_AT_ONCE).await?;
    report.notices.extend(found.notices);
    let readable = Arc::clone(&known);
    session.run(move |conn| readable.forget(conn, found.read.into_iter())).await?;
    pull::note_refused(session, row.no, &known, found.refused, report).await
}

/// Fetches what the log lacks; lists again where a listed file was gone.
async fn pull_all(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    mut listing: Arc<Listing>,
    options: &SyncOptions,
    report: &mut SyncReport,
) -> Result<Arc<Listing>> {
    for round in 0.. {
        let known = Arc::new(known_files(session, row, options.full && round == 0).await?);
        let plan = plan::packs(session, row, &listing, &known).await?;
        let mut found = packs::pull(session, remote, row, &listing, plan.packs, &known, report).await?;
        found.waiting.extend(plan.waiting);
        let plan = plan::loose(session, row, &listing, &known).await?;
        let work = pull::Work { plan, known: &known, from_packs: found };
        let vanished = pull::pull(session, remote, row, &listing, work, report).await?;
        packs::complete(session, row).await?;
        if vanished > 0 && round == RELISTS {
            report.notices.push(gone_notice(vanished));
        }
        if vanished == 0 || round == RELISTS {
            return Ok(listing);
        }
        listing = list(session, remote).await?;
    }
    unreachable!("the loop above only ends by returning")
}

fn gone_notice(files: u64) -> String {
    let (files, say) = if files == 1 { ("1 file".to_owned(), "it is") } else { (format!("{files} files"), "they are") };
    format!("{files} that the remote lists could not be fetched, as it says that {say} gone; the next sync asks again")
}

async fn known_files(session: &Session, row: &RemoteRow, ask_again: bool) -> Result<Known> {
    let no = row.no;
    let world = session.world.clone();
    let drift = drift_ms(session.settings.max_clock_drift);
    let limit = session.settings.max_object_bytes;
    session
        .run(move |conn| {
            let now_ms = world.now_ms();
            let any_refused = count_refused(conn, no)? > 0;
            let known = Known::new(no, any_refused, waiting(conn, no)?, now_ms, drift);
            Ok(known.ask_again(ask_again).up_to(limit))
        })
        .await
}

/// Merges what was pulled. Own changes that nobody has seen make room before: those that a wrong clock dated ahead get new ids,
/// and backfills of rows that the remote knows go. What others have seen is known once everything listed was looked at.
async fn merge_all(session: &Session, row: &RemoteRow, listing: &Arc<Listing>, report: &mut SyncReport) -> Result<()> {
    let (world, listing, no) = (session.world.clone(), Arc::clone(listing), row.no);
    let drift = drift_ms(session.settings.max_clock_drift);
    let progress = session.reporter(Phase::Merge);
    let (redated, merged) = session
        .run_in_turns(move |conn, turns| {
            let tx = immediate(conn)?;
            let mut places = Places::new(&tx, no)?;
            let mut is_there = |id| plan::is_there(&listing, &mut places, id);
            let bound = Clock::lower_bound(world.now_ms().saturating_add(drift));
            let redated = redate(&tx, &world, bound, &mut is_there)?;
            retire_backfills(&tx, &world, &mut is_there)?;
            drop(places);
            tx.commit()?;
            progress(0, None);
            Ok((redated, merge(conn, &world, turns, &|done| progress(done, None))?))
        })
        .await?;
    report.redated = redated;
    report.merged = merged.changes;
    report.conflicts = merged.conflicts;
    Ok(())
}

/// The identity that a remote gets which shows none, remembered: the one that its keys are bound to; that by which its replicas
/// know it, if it was emptied; or a new one.
async fn identity_to_write(session: &Session, remote: &Remote, no: i64) -> Result<ChangeId> {
    let known = session.run(move |conn| known_identities(conn, Some(no))).await?;
    let bound = remote.keyring().map(|keyring| keyring.identity());
    let identity = bound.or(known.into_iter().min()).unwrap_or_else(|| session.new_id());
    session.run(move |conn| remember_identity(conn, no, identity)).await?;
    Ok(identity)
}

/// Names the remote where nobody has, and records its layout where it has none or another is asked for.
async fn announce(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Listing,
    meeting: &Meeting,
    options: &SyncOptions,
    notices: &mut Vec<String>,
) -> Result<LayoutRow> {
    if meeting.identities.is_empty() {
        let identity = identity_to_write(session, remote, row.no).await?;
        remote.put(&ObjectName::Identity(identity), remote.identity_object(identity)).await?;
    }
    settle_layout(session, remote, row, listing, options, notices).await
}

/// The layout that the remote records; the first sync, or an explicit wish, records it there.
async fn settle_layout(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    listing: &Listing,
    options: &SyncOptions,
    notices: &mut Vec<String>,
) -> Result<LayoutRow> {
    let newest = newest_layout(listing, session.bound());
    let recorded = match newest {
        Some(id) if id.to_string() == row.layout_id => Some(row.layout.clone()),
        Some(id) => read_layout(remote, id, notices).await?,
        None => None,
    };
    let wanted = match options.layout {
        Some(RemoteLayout::Files) => Some(Layout::Files),
        Some(RemoteLayout::Packs) => Some(Layout::Packs),
        // A remote that was emptied gets back the layout that it had.
        None if newest.is_none() && row.layout == layout_text(Layout::Files) => Some(Layout::Files),
        None if newest.is_none() => Some(Layout::Packs),
        None => None,
    };
    match wanted.filter(|wanted| recorded.as_deref() != Some(layout_text(*wanted))) {
        Some(wanted) => {
            // What nobody chose yields to what somebody did, whose word may just not be here yet, as a folder is carried piece by piece.
            let now_ms = if options.layout.is_some() || !row.layout.is_empty() { session.world.now_ms() } else { 0 };
            let id = Clock::new(newest).next(now_ms, session.world.random());
            remote.put(&ObjectName::Layout(id), wanted.encode().into()).await?;
            Ok(LayoutRow { layout: layout_text(wanted).to_owned(), id: id.to_string() })
        }
        None => Ok(match newest.zip(recorded) {
            Some((id, layout)) => LayoutRow { layout, id: id.to_string() },
            // One that cannot be read yet stands all the same, and is read again next time.
            None => LayoutRow { layout: row.layout.clone(), id: row.layout_id.clone() },
        }),
    }
}

fn layout_text(layout: Layout) -> &'static str {
    match layout {
        Layout::Files => "files",
        Layout::Packs => "packs",
    }
}

/// The layout that counts. One from further ahead than a clock may be off counts when its time comes: it would win for ever.
fn newest_layout(listing: &Listing, bound: ChangeId) -> Option<ChangeId> {
    let layouts = listing.others.iter().filter_map(|listed| match listed.name {
        ObjectName::Layout(id) if id <= bound => Some(id),
        _ => None,
    });
    layouts.max()
}

/// What the object of a layout says; nothing where it is gone or cannot be read, of which the user hears.
async fn read_layout(remote: &Remote, id: ChangeId, notices: &mut Vec<String>) -> Result<Option<String>> {
    let name = ObjectName::Layout(id);
    let mut unread = |why: &str| {
        notices.push(format!("{name} on the remote cannot be read, and its layout stays as it was: {why}"));
        None
    };
    let fetched = match remote.get(&name, IDENTITY_LIMIT).await {
        Err(error) if remote.keeps_back(&error) => return Ok(unread(KEPT_BACK)),
        Err(error) if remote.is_damaged(&error) => return Ok(unread(DAMAGED)),
        fetched => fetched?,
    };
    Ok(match fetched {
        Fetched::Bytes(bytes) => match Layout::decode(&bytes) {
            Ok(layout) => Some(layout_text(layout).to_owned()),
            Err(bad) => unread(&bad.to_string()),
        },
        Fetched::Unopened(bad) => unread(&bad.to_string()),
        Fetched::TooLarge => unread("it is larger than any layout"),
        Fetched::Gone => None,
    })
}

/// Records the end, and counts what the user should know.
async fn finish(
    session: &Session,
    remote: &Remote,
    row: &RemoteRow,
    layout: LayoutRow,
    report: &mut SyncReport,
) -> Result<()> {
    let encrypted = remote.keyring().is_some();
    let (no, now_ms) = (row.no, session.world.now_ms());
    let (held, rejected) = session
        .run(move |conn| {
            let tx = immediate(conn)?;
            set_synced(&tx, no, now_ms, &layout)?;
            set_encrypted(&tx, no, encrypted)?;
            let counts = (count_held(&tx)?, count_refused(&tx, no)?);
            tx.commit()?;
            Ok(counts)
        })
        .await?;
    report.held = held;
    // Beside those of which no more is known than their number.
    report.rejected += rejected;
    Ok(())
}
