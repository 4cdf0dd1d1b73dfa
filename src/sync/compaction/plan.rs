//! What compaction writes and what it may remove: the rules of DESIGN's packs as pure functions. Knows no store and no SQL, so
//! that the same functions run in replicas and in the exhaustive model of their interleavings.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::ChangeId;

/// So many loose files that no pack holds are packed without being asked for.
pub(crate) const LOOSE_THRESHOLD: usize = 512;
/// So many packs of about a size are joined without being asked for.
pub(crate) const PACKS_OF_A_SIZE: usize = 8;

/// A pack that compaction may join with others: held whole, not full, and not covered by greater packs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SmallPack {
    pub(crate) pack: ChangeId,
    pub(crate) changes: u64,
}

/// What is to go into new packs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// Whether the loose files do that no pack holds.
    pub(crate) loose: bool,
    pub(crate) packs: Vec<ChangeId>,
}

impl Inputs {
    pub(crate) fn is_empty(&self) -> bool {
        !self.loose && self.packs.is_empty()
    }
}

/// Chooses what to pack: all there is where somebody asked, otherwise what has piled up. Packs grow by a factor each time
/// that they are written again, so that a change is written but a few times in its life.
pub(crate) fn choose(loose: usize, small: &[SmallPack], asked: bool) -> Inputs {
    if asked {
        let worth_it = loose + small.len() > 1;
        let packs = small.iter().map(|small| small.pack).filter(|_| worth_it).collect();
        return Inputs { loose: worth_it && loose > 0, packs };
    }
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    small.iter().for_each(|small| *sizes.entry(size_class(small.changes)).or_default() += 1);
    let crowded = sizes.iter().rev().find(|(_, packs)| **packs >= PACKS_OF_A_SIZE).map(|(class, _)| *class);
    let joined = small.iter().filter(|small| crowded.is_some_and(|class| size_class(small.changes) <= class));
    let packs: Vec<ChangeId> = joined.map(|small| small.pack).collect();
    Inputs { loose: loose >= LOOSE_THRESHOLD || loose > 0 && !packs.is_empty(), packs }
}

/// Packs of one class differ by less than a factor of eight.
fn size_class(changes: u64) -> u32 {
    changes.max(1).ilog2() / 3
}

/// A pack that may stand for what is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) pack: ChangeId,
    pub(crate) first: ChangeId,
    pub(crate) last: ChangeId,
    pub(crate) seen_ms: u64,
}

/// The packs of greater names than `pack` that together hold all of its changes, those seen first preferred; nothing where
/// some change has no other place. What is removed for them is never the last: the greatest pack that holds a change stays.
pub(crate) fn covers<E>(
    pack: ChangeId,
    ids: &[ChangeId],
    candidates: &[Candidate],
    mut load: impl FnMut(ChangeId) -> Result<Arc<Vec<ChangeId>>, E>,
) -> Result<Option<Vec<Candidate>>, E> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(None) };
    let mut greater: Vec<&Candidate> =
        candidates.iter().filter(|c| pack < c.pack && c.first <= *last && *first <= c.last).collect();
    greater.sort_by_key(|candidate| (candidate.seen_ms, candidate.pack));
    let (mut left, mut used) = (ids.to_vec(), Vec::new());
    for candidate in greater {
        let theirs = load(candidate.pack)?;
        let before = left.len();
        left.retain(|id| theirs.binary_search(id).is_err());
        if left.len() < before {
            used.push(*candidate);
        }
        if left.is_empty() {
            return Ok(Some(used));
        }
    }
    Ok(None)
}

/// Whether what was seen at a time may stand for what is removed now. A clock that was set back lets nothing ripen.
pub(crate) fn is_ripe(seen_ms: u64, now_ms: u64, grace_ms: u64) -> bool {
    seen_ms.checked_add(grace_ms).is_some_and(|ripe_ms| ripe_ms <= now_ms)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::model::Clock;

    fn id(n: u64) -> ChangeId {
        Clock::backfill(n, 0)
    }

    fn small(changes: &[u64]) -> Vec<SmallPack> {
        changes.iter().enumerate().map(|(n, changes)| SmallPack { pack: id(n as u64), changes: *changes }).collect()
    }

    #[test]
    fn what_has_piled_up_is_packed_unasked() {
        assert!(choose(LOOSE_THRESHOLD - 1, &small(&[20; 7]), false).is_empty());
        assert_eq!(choose(LOOSE_THRESHOLD, &[], false), Inputs { loose: true, packs: vec![] });
        let joined = choose(0, &small(&[20; 8]), false);
        assert_eq!((joined.loose, joined.packs.len()), (false, 8));
    }

    #[test]
    fn a_larger_pack_is_not_written_again_for_each_small_one() {
        let mut packs = vec![20; 8];
        packs.push(50_000);
        assert_eq!(choose(0, &small(&packs), false).packs.len(), 8);
        let crowd = [[50_000; 8], [20; 8]].concat();
        assert_eq!(choose(0, &small(&crowd), false).packs.len(), 16);
    }

    #[test]
    fn whoever_asks_gets_all_joined_but_nothing_written_anew_for_nothing() {
        assert_eq!(choose(1, &small(&[20]), true), Inputs { loose: true, packs: vec![id(0)] });
        for (loose, packs) in [(0, vec![]), (1, vec![]), (0, small(&[99_999]))] {
            assert!(choose(loose, &packs, true).is_empty());
        }
    }

    fn covering(pack: u64, ids: &[u64], others: &[(u64, &[u64])]) -> Option<Vec<u64>> {
        let ids: Vec<ChangeId> = ids.iter().map(|n| id(*n)).collect();
        let candidates: Vec<Candidate> = others
            .iter()
            .map(|(pack, ids)| Candidate {
                pack: id(*pack),
                first: id(ids[0]),
                last: id(*ids.last().unwrap()),
                seen_ms: *pack,
            })
            .collect();
        let load = |pack: ChangeId| {
            let (_, ids) = others.iter().find(|(other, _)| id(*other) == pack).unwrap();
            Ok::<_, Infallible>(Arc::new(ids.iter().map(|n| id(*n)).collect()))
        };
        let Ok(covers) = covers(id(pack), &ids, &candidates, load);
        covers.map(|covers| covers.iter().map(|c| c.pack.millis()).collect())
    }

    #[test]
    fn only_greater_packs_cover_and_only_all_of_it() {
        assert_eq!(covering(10, &[1, 2], &[(11, &[1, 2, 3])]), Some(vec![11]));
        assert_eq!(covering(10, &[1, 2], &[(11, &[1]), (12, &[2, 5])]), Some(vec![11, 12]));
        assert_eq!(covering(10, &[1, 2], &[(11, &[1]), (12, &[3])]), None);
        assert_eq!(covering(10, &[1, 2], &[(9, &[1, 2]), (10, &[1, 2])]), None, "equal twins never remove each other");
    }

    #[test]
    fn a_clock_that_was_set_back_lets_nothing_ripen() {
        assert!(is_ripe(1_000, 1_500, 500));
        assert!(!is_ripe(1_000, 1_499, 500));
        assert!(!is_ripe(1_000, 900, 0));
        assert!(!is_ripe(u64::MAX, u64::MAX, 1));
    }
}
