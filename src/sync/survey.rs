//! What lies on a remote, what it costs to list, what compaction would save, and how this machine's clock stands to the store's.

use super::Session;
use super::clocks::store_clock;
use super::unlock;
use crate::changelog::{known_identities, list_packs, list_remotes};
use crate::error::Result;
use crate::model::ChangeId;
use crate::remote::{Listing, Remote};
use crate::report::RemoteSurvey;
use crate::wire::{MAX_PACK_CHANGES, ObjectName, is_frozen};

/// What S3 lists with one request.
const PAGE: u64 = 1_000;

/// Looks at a remote. Writes nothing but, to read the store's clock, an identity again with the bytes that it has.
pub(crate) async fn survey(session: &Session, remote: &Remote) -> Result<RemoteSurvey> {
    let traffic = remote.traffic();
    let listing = remote.list().await?;
    let remote = &unlock::look(session, remote, &listing).await?;
    let url = remote.url().to_owned();
    let (packs, known) = session
        .run(move |conn| {
            let row = list_remotes(conn)?.into_iter().find(|row| row.url == url);
            Ok(match row {
                Some(row) => (list_packs(conn, row.no)?, known_identities(conn, Some(row.no))?),
                None => (Vec::new(), Vec::new()),
            })
        })
        .await?;
    let small = packs.iter().filter(|row| !is_frozen(row.changes, row.size, row.raw));
    let (small_packs, small_changes) = small.fold((0, 0), |(n, changes), row| (n + 1, changes + row.changes));
    let mut survey = count(&listing);
    survey.unknown_packs = survey.packs.saturating_sub(packs.len() as u64);
    let movable = survey.loose_files + small_packs;
    let left = (survey.loose_files + small_changes).div_ceil(MAX_PACK_CHANGES as u64);
    survey.objects_compacted = survey.objects - movable.saturating_sub(left.min(movable));
    survey.list_requests = survey.objects.div_ceil(PAGE).max(1);
    survey.list_requests_compacted = survey.objects_compacted.div_ceil(PAGE).max(1);
    survey.clock_skew_ms = skew(session, remote, &listing, &known).await?;
    survey.requests = remote.traffic().since(&traffic);
    Ok(survey)
}

fn count(listing: &Listing) -> RemoteSurvey {
    let loose_bytes: u64 = listing.changes.iter().map(|listed| listed.size).sum();
    let pack_bytes: u64 = listing.packs.iter().map(|listed| listed.size).sum();
    let other_bytes: u64 = listing.others.iter().map(|listed| listed.size).sum();
    let (loose_files, packs) = (listing.changes.len() as u64, listing.packs.len() as u64);
    RemoteSurvey {
        loose_files,
        loose_bytes,
        packs,
        pack_bytes,
        objects: loose_files + packs + listing.others.len() as u64,
        bytes: loose_bytes + pack_bytes + other_bytes,
        ..RemoteSurvey::default()
    }
}

/// By how much this machine's clock is ahead of the store's, where that has one and the replica knows the remote.
async fn skew(session: &Session, remote: &Remote, listing: &Listing, known: &[ChangeId]) -> Result<Option<i64>> {
    let mut listed = listing.others.iter().filter_map(|listed| match listed.name {
        ObjectName::Identity(id) => Some(id),
        _ => None,
    });
    let Some(identity) = listed.find(|id| known.contains(id)).filter(|_| remote.has_own_clock()) else {
        return Ok(None);
    };
    let before = session.world.now_ms();
    let store_ms = store_clock(remote, identity).await?;
    let here = before.midpoint(session.world.now_ms());
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    Ok(store_ms.map(|there| signed(here).saturating_sub(signed(there))))
}
