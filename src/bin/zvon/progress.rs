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
    started: Instant,
    all: MultiProgress,
    by_phase: Arc<Mutex<ByPhase>>,
}

/// Nothing where no bar is to be drawn, or none any more.
type ByPhase = Option<HashMap<Phase, ProgressBar>>;

impl Bars {
    /// Bars where `wanted` and stderr is a terminal; otherwise nothing is ever drawn.
    pub fn new(wanted: bool) -> Self {
        let by_phase = (wanted && io::stderr().is_terminal()).then(HashMap::new);
        Self { started: Instant::now(), all: MultiProgress::new(), by_phase: Arc::new(Mutex::new(by_phase)) }
    }

    /// What the library is to call.
    pub fn callback(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let bars = self.clone();
        move |progress| bars.show(progress)
    }

    /// Takes the bars off the terminal, for work that begins anew.
    pub fn start_anew(&self) {
        let mut state = self.by_phase();
        if let Some(bars) = state.as_mut() {
            for (_, bar) in bars.drain() {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
        }
    }

    /// Takes the bars off the terminal for good: a step that still runs draws no more.
    pub fn clear(&self) {
        for bar in self.by_phase().take().unwrap_or_default().values() {
            bar.finish_and_clear();
            self.all.remove(bar);
        }
    }

    fn show(&self, progress: Progress) {
        let nothing_yet = progress.done == 0 && progress.total.is_none();
        if nothing_yet || self.started.elapsed() < PATIENCE {
            return;
        }
        let mut by_phase = self.by_phase();
        let Some(bars) = by_phase.as_mut() else { return };
        let bar = bars.entry(progress.phase).or_insert_with(|| self.all.add(bar(progress.phase)));
        if let Some(total) = progress.total.filter(|&total| bar.length() != Some(total)) {
            bar.set_length(total);
            bar.set_style(style("{prefix:<10} [{bar:30}] {human_pos}/{human_len} {msg} {eta}"));
        }
        bar.set_position(progress.done);
    }

    /// A bar is only ever half drawn, so what a panic left behind is as good as any.
    fn by_phase(&self) -> MutexGuard<'_, ByPhase> {
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
