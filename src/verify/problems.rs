//! What does not hold, as sentences. They name tables, columns and rows' keys, never values.

use std::fmt;

/// How many sentences are kept; the rest are counted.
const KEPT: usize = 1_000;
/// How much of a name from the log a sentence shows.
const NAME_CHARS: usize = 120;

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    kept: Vec<String>,
    count: u64,
}

impl Problems {
    pub(super) fn add(&mut self, sentence: fmt::Arguments<'_>) {
        self.count += 1;
        if self.kept.len() < KEPT {
            self.kept.push(sentence.to_string());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn into_parts(self) -> (Vec<String>, u64) {
        (self.kept, self.count)
    }
}

/// A name or key from the log, whatever it holds, in quotes and no longer than a line.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(NAME_CHARS) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_are_kept_and_all_are_counted() {
        let mut problems = Problems::default();
        (0..1_500).for_each(|n| problems.add(format_args!("{n}")));
        let (kept, count) = problems.into_parts();
        assert_eq!((kept.len(), count), (1_000, 1_500));
    }

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(Quoted("a\n\"b\0").to_string(), r#""a\n\"b\0""#);
        assert_eq!(Quoted(&"ž".repeat(500)).to_string(), format!("\"{}\"…", "ž".repeat(NAME_CHARS)));
    }
}
