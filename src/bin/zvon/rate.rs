//! How fast work goes and when it will be done, from samples of how far it was. Pure: it is told the time.

use std::collections::VecDeque;

use indicatif::HumanCount;

use crate::{text, time};

/// A rate is that of the last so many milliseconds: long enough to be calm, short enough to follow the network.
const WINDOW_MS: u64 = 10_000;
/// Samples closer together than this say nothing new.
const STEP_MS: u64 = 200;
/// A rate over less than this is a guess.
const LEAST_MS: u64 = 1_000;

/// How far work was at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    pub ms: u64,
    pub done: u64,
    pub bytes: u64,
}

/// How fast work goes, by the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub done: u64,
    pub bytes: u64,
}

/// How far work was of late.
#[derive(Debug, Clone)]
pub struct Samples {
    first: Sample,
    recent: VecDeque<Sample>,
}

impl Samples {
    pub fn new(first: Sample) -> Self {
        Self { first, recent: VecDeque::from([first]) }
    }

    pub fn add(&mut self, sample: Sample) {
        let before_last = self.recent.iter().rev().nth(1);
        if before_last.is_some_and(|before| sample.ms.saturating_sub(before.ms) < STEP_MS) {
            self.recent.pop_back();
        }
        self.recent.push_back(sample);
        // The oldest of the window is what the rate is counted from.
        while self.recent.get(1).is_some_and(|second| sample.ms.saturating_sub(second.ms) >= WINDOW_MS) {
            self.recent.pop_front();
        }
    }

    fn last(&self) -> Sample {
        self.recent.back().copied().unwrap_or(self.first)
    }

    /// How fast it goes now, once that can be told.
    pub fn rate(&self) -> Option<Rate> {
        let from = self.recent.front()?;
        let last = self.last();
        let ms = last.ms.saturating_sub(from.ms);
        let a_second = |moved: u64| moved.saturating_mul(1000) / ms;
        (ms >= LEAST_MS).then(|| Rate {
            done: a_second(last.done.saturating_sub(from.done)),
            bytes: a_second(last.bytes.saturating_sub(from.bytes)),
        })
    }

    /// How many milliseconds are left until `total` is done, at the present rate.
    pub fn left_ms(&self, total: u64) -> Option<u64> {
        let rate = self.rate().filter(|rate| rate.done > 0)?;
        Some(total.saturating_sub(self.last().done).saturating_mul(1000) / rate.done)
    }

    /// Bytes moved since the first sample.
    pub fn bytes(&self) -> u64 {
        self.last().bytes.saturating_sub(self.first.bytes)
    }

    /// Milliseconds since the first sample.
    pub fn took_ms(&self) -> u64 {
        self.last().ms.saturating_sub(self.first.ms)
    }

    /// `40 s left, 3,412/s, 1.2 MiB/s, 12.1 MiB`, as far as it can be told: a narrow terminal shows what comes first.
    pub fn words(&self, total: Option<u64>) -> String {
        let mut parts = Vec::new();
        let rate = self.rate();
        let left = total.filter(|&total| total > self.last().done).and_then(|total| self.left_ms(total));
        parts.extend(left.map(|ms| format!("{} left", time::rough_span(ms))));
        parts.extend(rate.filter(|rate| rate.done > 0).map(|rate| format!("{}/s", HumanCount(rate.done))));
        if self.bytes() > 0 {
            parts.extend(rate.map(|rate| format!("{}/s", text::bytes(rate.bytes))));
            parts.push(text::bytes(self.bytes()));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work at a steady pace: `step` done and 1,000 bytes moved every 100 ms.
    fn steady(step: u64, until_ms: u64) -> Samples {
        let mut samples = Samples::new(Sample::default());
        for n in 1..=until_ms / 100 {
            samples.add(Sample { ms: n * 100, done: n * step, bytes: n * 1000 });
        }
        samples
    }

    #[test]
    fn a_steady_pace_has_its_rate() {
        let samples = steady(10, 30_000);
        assert_eq!(samples.rate(), Some(Rate { done: 100, bytes: 10_000 }));
        assert_eq!(samples.left_ms(4_000), Some(10_000));
        assert_eq!((samples.bytes(), samples.took_ms()), (300_000, 30_000));
    }

    #[test]
    fn reports_that_come_fast_are_not_all_kept() {
        let mut samples = Samples::new(Sample::default());
        for ms in 0..30_000 {
            samples.add(Sample { ms, done: ms, bytes: 0 });
        }
        assert!(samples.recent.len() as u64 <= 2 * WINDOW_MS / STEP_MS, "{}", samples.recent.len());
        assert_eq!(samples.rate().unwrap().done, 1000);
    }

    #[test]
    fn a_rate_follows_what_happens_now() {
        let mut samples = steady(10, 30_000);
        samples.add(Sample { ms: 40_000, done: 3_000, bytes: 300_000 });
        assert_eq!(samples.rate(), Some(Rate { done: 0, bytes: 0 }));
        assert_eq!(samples.left_ms(4_000), None);
    }

    #[test]
    fn nothing_is_told_before_it_is_known() {
        let mut samples = Samples::new(Sample { ms: 500, done: 7, bytes: 70 });
        assert_eq!((samples.rate(), samples.left_ms(10), samples.words(Some(10)).as_str()), (None, None, ""));
        samples.add(Sample { ms: 1_400, done: 8, bytes: 80 });
        assert_eq!(samples.rate(), None);
        assert_eq!(samples.words(None), "10 bytes");
        samples.add(Sample { ms: 1_500, done: 9, bytes: 90 });
        assert_eq!(samples.rate(), Some(Rate { done: 2, bytes: 20 }));
    }

    #[test]
    fn words_say_what_is_known() {
        let samples = steady(400, 5_000);
        assert_eq!(samples.words(Some(100_000)), "20 s left, 4,000/s, 9.7 KiB/s, 48.8 KiB");
        assert_eq!(samples.words(None), "4,000/s, 9.7 KiB/s, 48.8 KiB");
        assert_eq!(samples.words(Some(20_000)), "4,000/s, 9.7 KiB/s, 48.8 KiB");
        let mut still = Samples::new(Sample::default());
        still.add(Sample { ms: 2_000, ..Sample::default() });
        assert_eq!(still.words(Some(5)), "");
    }

    #[test]
    fn a_clock_or_a_count_that_goes_back_breaks_nothing() {
        let mut samples = steady(10, 2_000);
        samples.add(Sample { ms: 100, done: 1, bytes: 1 });
        assert_eq!(samples.rate(), None);
        samples.add(Sample { ms: u64::MAX, done: u64::MAX, bytes: u64::MAX });
        assert_eq!((samples.rate().is_some(), samples.left_ms(u64::MAX)), (true, Some(0)));
    }
}
