//! When the next sync is due. Pure: it is told the time, and reads no clock.

use std::time::Duration;

/// How many syncs for local commits may follow each other at once; a program that commits without pause syncs once a second.
const BURST: u32 = 5;
const REFILL: Duration = Duration::from_secs(1);
/// After a failure: a second, then two, four, … up to a minute, each a little earlier or later by chance.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A wall clock that runs ahead of the time that passed, or behind it, by more than this was set, or the machine slept.
const JUMP_MS: u64 = 10_000;

/// When to look at the remote again, and how often local commits may ask for a sync. Times are counted from any start.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    interval: Duration,
    longest: Duration,
    current: Duration,
    failures: u32,
    /// When the budget for local commits would be full again.
    full_at: Duration,
}

impl Pace {
    pub(super) fn new(interval: Duration, longest: Duration) -> Self {
        Self { interval, longest: longest.max(interval), current: interval, failures: 0, full_at: Duration::ZERO }
    }

    /// How long after a sync that did something, or nothing, the remote is looked at again: twice as long each time that
    /// nothing happened.
    pub(super) fn synced(&mut self, did_something: bool) -> Duration {
        self.failures = 0;
        let wait = if did_something { self.interval } else { self.current };
        self.current = wait.saturating_mul(2).min(self.longest);
        wait
    }

    /// How long after a failed sync to try again; `chance` is random bits.
    pub(super) fn failed(&mut self, chance: u64) -> Duration {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.current = self.interval;
        // Replicas that lost the same server do not come back to it all at once.
        wait.mul_f64(0.75 + (chance % 1000) as f64 / 2000.0)
    }

    /// Whether the last sync failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// How long a local commit has to wait for its sync.
    pub(super) fn until_local(&self, now: Duration) -> Duration {
        self.full_at.saturating_sub(now).saturating_sub(REFILL * (BURST - 1))
    }

    /// Counts a sync for local commits.
    pub(super) fn spend_local(&mut self, now: Duration) {
        self.full_at = self.full_at.max(now) + REFILL;
    }
}

/// Whether the wall clock and the time that passed disagree: the machine slept, or somebody set its clock.
pub(super) fn jumped(before_ms: u64, now_ms: u64, passed: Duration) -> bool {
    let expected = before_ms.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
    now_ms.abs_diff(expected) > JUMP_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_remote_where_nothing_happens_is_looked_at_ever_less_often() {
        let mut pace = Pace::new(secs(5), secs(60));
        let waits: Vec<u64> = (0..6).map(|_| pace.synced(false).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!((pace.synced(true), pace.synced(false), pace.synced(false)), (secs(5), secs(10), secs(20)));
    }

    #[test]
    fn an_interval_beyond_the_longest_stands() {
        let mut pace = Pace::new(secs(300), secs(60));
        assert_eq!((pace.synced(false), pace.synced(false)), (secs(300), secs(300)));
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_forgotten_once_it_works() {
        let mut pace = Pace::new(secs(5), secs(60));
        let waits: Vec<u64> = (0..9).map(|_| pace.failed(500).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(pace.is_failing());
        assert_eq!(pace.synced(false), secs(5));
        assert!(!pace.is_failing());
        assert_eq!((pace.clone().failed(0), pace.failed(999)), (secs(1).mul_f64(0.75), secs(1).mul_f64(1.2495)));
    }

    #[test]
    fn a_few_commits_sync_at_once_and_many_once_a_second() {
        let mut pace = Pace::new(secs(5), secs(60));
        let mut now = secs(100);
        for _ in 0..BURST {
            assert_eq!(pace.until_local(now), Duration::ZERO);
            pace.spend_local(now);
        }
        assert_eq!(pace.until_local(now), secs(1));
        for _ in 0..3 {
            now += pace.until_local(now);
            pace.spend_local(now);
            assert_eq!(pace.until_local(now), secs(1));
        }
        assert_eq!(pace.until_local(now + secs(60)), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_moved_on_its_own_is_noticed() {
        assert!(!jumped(1_000, 3_000, secs(2)));
        assert!(!jumped(1_000, 12_000, secs(2)));
        assert!(jumped(1_000, 3_600_000, secs(2)));
        assert!(jumped(3_600_000, 1_000, secs(2)));
    }
}
