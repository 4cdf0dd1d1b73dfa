//! What a repair has to tell: what it did, a sentence a kind, and what only the user can do.

use crate::report::{RepairReport, VerifyReport};

#[derive(Debug, Default)]
pub(super) struct Told {
    done: Vec<String>,
    instructions: Vec<String>,
}

impl Told {
    /// Tells of something done, if it was done at all.
    pub(super) fn did(&mut self, count: u64, sentence: impl FnOnce(u64) -> String) {
        if count > 0 {
            self.done.push(sentence(count));
        }
    }

    /// Tells what cannot be mended from here, and what to do about it.
    pub(super) fn instruct(&mut self, sentence: impl Into<String>) {
        self.instructions.push(sentence.into());
    }

    /// Whether there is nothing that only the user can do.
    pub(super) fn needs_nobody(&self) -> bool {
        self.instructions.is_empty()
    }

    pub(super) fn report(self, before: VerifyReport, after: VerifyReport) -> RepairReport {
        let Self { done, instructions } = self;
        RepairReport { found: before.problem_count, problems: before.problems, done, instructions, after }
    }
}
