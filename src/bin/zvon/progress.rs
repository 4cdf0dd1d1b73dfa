//! Progress bars on stderr, one a phase, for what takes longer than a second. Knows nothing of the work itself.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use zvon::{Phase, Progress};

/// Shorter work shows nothing: a bar that flashes by tells nobody anything.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bars of one command.
#[derive(Clone)]
pub struct Bars {
    shown: bool,
    started: Instant,
    all: MultiProgress,
    by_phase: Arc<Mutex<HashMap<Phase, ProgressBar>>>,
}

impl Bars {
    /// Bars where `wanted` and stderr is a terminal; otherwise nothing is ever drawn.
    pub fn new(wanted: bool) -> Self {
        Self {
            shown: wanted && io::stderr().is_terminal(),
            started: Instant::now(),
            all: MultiProgress::new(),
            by_phase: Arc::default(),
        }
    }

    /// What the library is to call.
    pub fn callback(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let bars = self.clone();
        move |progress| bars.show(progress)
    }

    /// Takes the bars off the terminal.
    pub fn clear(&self) {
        for (_, bar) in self.bars().drain() {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    fn show(&self, progress: Progress) {
        if !self.shown || self.started.elapsed() < PATIENCE {
            return;
        }
        let mut bars = self.bars();
        let bar = bars.entry(progress.phase).or_insert_with(|| self.all.add(bar(progress.phase)));
        if let Some(total) = progress.total.filter(|&total| bar.length() != Some(total)) {
            bar.set_length(total);
            bar.set_style(style("{prefix:<10} [{bar:30}] {human_pos}/{human_len} {msg} {eta}"));
        }
        bar.set_position(progress.done);
    }

    /// A bar is only ever half drawn, so what a panic left behind is as good as any.
    fn bars(&self) -> MutexGuard<'_, HashMap<Phase, ProgressBar>> {
        self.by_phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bar(phase: Phase) -> ProgressBar {
    let (verb, unit) = words(phase);
    ProgressBar::no_length()
        .with_style(style("{prefix:<10} {spinner} {human_pos} {msg}"))
        .with_prefix(verb)
        .with_message(unit)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are ours and well-formed").progress_chars("=> ")
}

/// What is being done, and what is counted.
fn words(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Seal => ("Recording", "writes"),
        Phase::List => ("Listing", "files"),
        Phase::Pull => ("Pulling", "changes"),
        Phase::Merge => ("Merging", "changes"),
        Phase::Push => ("Pushing", "changes"),
        Phase::Verify => ("Verifying", "changes"),
        _ => ("Working", ""),
    }
}
