//! Change ids: UUIDv7 as a hybrid logical clock. Owns the bit layout and the arithmetic; the time and the random bits come from outside.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::error::Error;

/// 2026-01-01T00:00:00Z in milliseconds since the Unix epoch: no wall clock that this program trusts shows less,
/// and every id below it is a backfill's.
pub(crate) const CLOCK_FLOOR_MS: u64 = 1_767_225_600_000;

/// The largest value that the 48 bits of milliseconds hold.
const MAX_MS: u64 = (1 << 48) - 1;
/// The counter is 26 bits: the 12 bits of `rand_a` and the 14 highest of `rand_b` (RFC 9562, section 6.2, method 1).
const COUNTER_BITS: u32 = 26;
const MAX_COUNTER: u32 = (1 << COUNTER_BITS) - 1;
/// The random bits below the counter.
const RANDOM_BITS: u32 = 48;
const RANDOM_MASK: u64 = (1 << RANDOM_BITS) - 1;

/// The id of a change: a UUID of version 7 (RFC 9562, section 5.7) whose order, as bytes or as text, is the order of writes.
///
/// Layout, from the highest bit: 48 bits of milliseconds since the Unix epoch, 4 bits of version (7), the 12 high bits of
/// a 26-bit counter, 2 bits of variant (binary 10), the counter's 14 low bits, 48 random bits.
///
/// ```
/// let id: zvon::ChangeId = "019a9f3c-0c00-7000-8000-3f6c2a1b4d5e".parse()?;
/// assert_eq!(id.millis(), 0x019a_9f3c_0c00);
/// # Ok::<(), zvon::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId([u8; 16]);

impl ChangeId {
    /// Milliseconds since the Unix epoch at which the change was made, by its author's clock (0, 1, … for a backfill).
    pub fn millis(self) -> u64 {
        self.as_u128().checked_shr(80).map_or(0, |ms| ms as u64)
    }

    /// Whether the change records a row that existed before its table was tracked, and so is older than any tracked write.
    pub fn is_backfill(self) -> bool {
        self.millis() < CLOCK_FLOOR_MS
    }

    /// The sixteen bytes, in the order in which they compare.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads sixteen bytes; `None` if they are not a UUID of version 7 and the RFC's variant.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let is_v7 = bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10;
        is_v7.then_some(Self(bytes))
    }

    fn as_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    fn counter(self) -> u32 {
        let bits = self.as_u128();
        let high = (bits >> 64) as u32 & 0xFFF;
        let low = (bits >> RANDOM_BITS) as u32 & 0x3FFF;
        high << 14 | low
    }

    fn from_parts(ms: u64, counter: u32, random: u64) -> Self {
        let bits = u128::from(ms & MAX_MS) << 80
            | 0x7 << 76
            | u128::from(counter >> 14 & 0xFFF) << 64
            | 0b10 << 62
            | u128::from(counter & 0x3FFF) << RANDOM_BITS
            | u128::from(random & RANDOM_MASK);
        Self(bits.to_be_bytes())
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        f.pad(Uuid::from_bytes(self.0).as_hyphenated().encode_lower(&mut buffer))
    }
}

impl FromStr for ChangeId {
    type Err = Error;

    /// Accepts the canonical form alone: 36 characters, lower case, version 7, RFC variant.
    fn from_str(text: &str) -> Result<Self, Error> {
        let canonical = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
        canonical
            .then(|| Uuid::try_parse(text).ok())
            .flatten()
            .and_then(|uuid| Self::from_bytes(uuid.into_bytes()))
            .ok_or_else(|| Error::corrupt("not a canonical UUIDv7"))
    }
}

/// The hybrid logical clock of one replica: the greatest id that it made or merged, backfills aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    last: Option<ChangeId>,
}

impl Clock {
    pub(crate) fn new(last: Option<ChangeId>) -> Self {
        Self { last }
    }

    pub(crate) fn last(self) -> Option<ChangeId> {
        self.last
    }

    /// Moves the clock past an id that was made elsewhere, so that whatever is made here from now on wins over it.
    pub(crate) fn observe(&mut self, id: ChangeId) {
        if !id.is_backfill() && self.last.is_none_or(|last| last < id) {
            self.last = Some(id);
        }
    }

    /// The next id: `max(now, last + 1)` on (milliseconds, counter), the counter carrying into the milliseconds.
    pub(crate) fn next(&mut self, now_ms: u64, random: u64) -> ChangeId {
        let now = (now_ms.clamp(CLOCK_FLOOR_MS, MAX_MS), 0);
        let (ms, counter) = self.last.map_or(now, |last| now.max(successor(last)));
        let id = ChangeId::from_parts(ms, counter, random);
        self.last = Some(id);
        id
    }

    /// The id of the `n`th backfilled row of this replica: below every tracked write, and outside this clock.
    pub(crate) fn backfill(n: u64, random: u64) -> ChangeId {
        ChangeId::from_parts(n.min(CLOCK_FLOOR_MS - 1), 0, random)
    }

    /// The smallest id of a millisecond: a bound for comparisons, never given to a change.
    pub(crate) fn lower_bound(ms: u64) -> ChangeId {
        ChangeId::from_parts(ms, 0, 0)
    }
}

fn successor(id: ChangeId) -> (u64, u32) {
    match id.counter() {
        MAX_COUNTER => ((id.millis() + 1).min(MAX_MS), 0),
        counter => (id.millis(), counter + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = CLOCK_FLOOR_MS + 1000;

    #[test]
    fn the_layout_is_the_documented_one() {
        let id = ChangeId::from_parts(0x0123_4567_89AB, 0x3FF_FFFF, 0);
        assert_eq!(id.to_string(), "01234567-89ab-7fff-bfff-000000000000");
        let id = ChangeId::from_parts(0, 1, 0xFFFF_FFFF_FFFF);
        assert_eq!(id.to_string(), "00000000-0000-7000-8001-ffffffffffff");
        assert_eq!((id.millis(), id.counter()), (0, 1));
    }

    #[test]
    fn only_the_canonical_form_parses() {
        let good = "019a9f3c-0c00-7000-8000-3f6c2a1b4d5e";
        assert_eq!(good.parse::<ChangeId>().unwrap().to_string(), good);
        for bad in [
            "019A9F3C-0C00-7000-8000-3F6C2A1B4D5E",
            "019a9f3c0c00700080003f6c2a1b4d5e",
            "{019a9f3c-0c00-7000-8000-3f6c2a1b4d5e}",
            "019a9f3c-0c00-4000-8000-3f6c2a1b4d5e",
            "019a9f3c-0c00-7000-c000-3f6c2a1b4d5e",
            "019a9f3c-0c00-7000-8000-3f6c2a1b4d5",
            "",
        ] {
            assert!(bad.parse::<ChangeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let mut clock = Clock::new(Some(ChangeId::from_parts(NOW, MAX_COUNTER, RANDOM_MASK)));
        let id = clock.next(NOW - 500, 7);
        assert_eq!((id.millis(), id.counter()), (NOW + 1, 0));
    }

    #[test]
    fn a_clock_before_the_floor_counts_as_the_floor() {
        let id = Clock::new(None).next(5, 0);
        assert_eq!(id.millis(), CLOCK_FLOOR_MS);
        assert!(!id.is_backfill());
    }

    #[test]
    fn backfills_are_below_every_write_and_do_not_move_the_clock() {
        let mut clock = Clock::new(None);
        let fill = Clock::backfill(12_000_000, 1);
        clock.observe(fill);
        assert_eq!(clock.last(), None);
        assert!(fill.is_backfill() && fill < clock.next(0, 0));
    }

    proptest! {
        #[test]
        fn ids_only_grow_whatever_the_wall_clock_does(
            times in prop::collection::vec((any::<u64>(), any::<u64>(), prop::option::of(any::<u64>())), 1..200),
        ) {
            let mut clock = Clock::new(None);
            let mut greatest: Option<ChangeId> = None;
            for (now, random, seen) in times {
                if let Some(seen) = seen {
                    let seen = ChangeId::from_parts(seen % (1 << 45), seen as u32 & MAX_COUNTER, seen);
                    clock.observe(seen);
                    if !seen.is_backfill() { greatest = greatest.max(Some(seen)); }
                }
                let id = clock.next(now % (1 << 45), random);
                prop_assert!(Some(id) > greatest);
                prop_assert_eq!(id.to_string().parse::<ChangeId>().unwrap(), id);
                greatest = Some(id);
            }
        }

        #[test]
        fn text_order_is_byte_order(a in any::<(u64, u32, u64)>(), b in any::<(u64, u32, u64)>()) {
            let [a, b] = [a, b].map(|(ms, counter, random)| ChangeId::from_parts(ms & MAX_MS, counter & MAX_COUNTER, random));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
