//! How far long work is, on stderr: bars on a terminal, lines of text with `-v`. Knows nothing of the work itself.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use zvon::{Phase, Progress};

use crate::rate::{Sample, Samples};
use crate::{text, time};

/// Shorter work shows no bar: one that flashes by tells nobody anything.
const PATIENCE_MS: u64 = 1_000;
/// How long lines of text leave between them.
const LINE_MS: u64 = 5_000;
/// How often a bar is drawn anew though nothing was reported.
const TICK: Duration = Duration::from_millis(500);

/// What shows the progress of one command.
#[derive(Clone)]
pub struct Bars {
    started: Instant,
    state: Arc<Mutex<State>>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Not at all.
    Nothing,
    /// As bars, if stderr is a terminal.
    Bars,
    /// As lines of text.
    Lines,
}

impl Bars {
    pub fn new(show: Show) -> Self {
        let screen = match show {
            Show::Bars if io::stderr().is_terminal() => Some(Screen::Bars(MultiProgress::new())),
            Show::Lines => Some(Screen::Lines(Box::new(io::stderr()))),
            Show::Nothing | Show::Bars => None,
        };
        Self { started: Instant::now(), state: Arc::new(Mutex::new(State::new(screen))) }
    }

    /// What the library is to call.
    pub fn callback(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let bars = self.clone();
        move |progress| bars.state().show(progress, bars.now_ms())
    }

    /// Ends what is shown, for work that begins anew.
    pub fn start_anew(&self) {
        let now_ms = self.now_ms();
        self.state().start_anew(now_ms);
    }

    /// Ends what is shown for good: a step that still runs shows no more.
    pub fn clear(&self) {
        let mut state = self.state();
        state.end();
        state.screen = None;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A bar is only ever half drawn, so what a panic left behind is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where progress is shown.
enum Screen {
    Bars(MultiProgress),
    Lines(Box<dyn Write + Send>),
}

/// What is shown.
struct State {
    screen: Option<Screen>,
    /// When the work began.
    since_ms: u64,
    phases: Vec<Seen>,
}

/// A phase that was heard of.
struct Seen {
    phase: Phase,
    samples: Samples,
    last: Progress,
    bar: Option<ProgressBar>,
    told_ms: u64,
    has_ended: bool,
}

impl State {
    fn new(screen: Option<Screen>) -> Self {
        Self { screen, since_ms: 0, phases: Vec::new() }
    }

    fn show(&mut self, progress: Progress, now_ms: u64) {
        let Some(screen) = &mut self.screen else { return };
        let at = self.phases.iter().position(|seen| seen.phase == progress.phase);
        if let Screen::Lines(out) = screen {
            let others = self.phases.iter_mut().filter(|seen| seen.phase != progress.phase);
            others.filter(|seen| seen.seems_over()).for_each(|seen| seen.tell_end(out));
        }
        let seen = match at {
            Some(at) => &mut self.phases[at],
            None => self.phases.push_mut(Seen::new(progress, now_ms)),
        };
        seen.samples.add(sample(progress, now_ms));
        // More was found to do after all: the end is told again.
        seen.has_ended &= progress.done <= seen.last.done;
        seen.last = progress;
        if progress.done == 0 && progress.total.is_none_or(|total| total == 0) {
            return;
        }
        match screen {
            Screen::Bars(all) if now_ms.saturating_sub(self.since_ms) >= PATIENCE_MS => seen.draw(all),
            Screen::Bars(_) => {}
            Screen::Lines(out) if !seen.seems_over() && now_ms.saturating_sub(seen.told_ms) >= LINE_MS => {
                seen.told_ms = now_ms;
                tell(out, &seen.words());
            }
            Screen::Lines(_) => {}
        }
    }

    fn start_anew(&mut self, now_ms: u64) {
        self.end();
        self.since_ms = now_ms;
    }

    fn end(&mut self) {
        for mut seen in self.phases.drain(..) {
            match &mut self.screen {
                Some(Screen::Lines(out)) => seen.tell_end(out),
                Some(Screen::Bars(all)) => {
                    if let Some(bar) = seen.bar {
                        bar.finish_and_clear();
                        all.remove(&bar);
                    }
                }
                None => {}
            }
        }
    }
}

impl Seen {
    fn new(progress: Progress, now_ms: u64) -> Self {
        let samples = Samples::new(sample(progress, now_ms));
        Self { phase: progress.phase, samples, last: progress, bar: None, told_ms: now_ms, has_ended: false }
    }

    /// Whether the phase is over, should another one be heard of: the first ones are, the others may go on side by side.
    fn seems_over(&self) -> bool {
        match self.last.total {
            Some(total) => self.last.done >= total,
            None => matches!(self.phase, Phase::Seal | Phase::List),
        }
    }

    fn draw(&mut self, all: &MultiProgress) {
        let (words, total) = (words(self.phase), self.last.total);
        let is_new = self.bar.is_none();
        let bar = self.bar.get_or_insert_with(|| all.add(ProgressBar::no_length()));
        if is_new || bar.length() != total {
            let far = if total.is_some() { "[{bar:14}] {human_pos}/{human_len}" } else { "{spinner} {human_pos}" };
            bar.set_style(style(&format!("{{prefix:<9}} {far} {{wide_msg}}")));
            bar.set_prefix(words.doing);
        }
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(self.last.done);
        let how = self.samples.words(total);
        bar.set_message(if total.is_some() { how } else { listed(words.unit, &how) });
        if is_new {
            // A step that takes long tells nothing meanwhile: the spinner shows that it goes on.
            bar.enable_steady_tick(TICK);
        }
    }

    /// `Pulling: 1,000 of 20,000 changes (5 %), 100/s, …`
    fn words(&self) -> String {
        let Words { doing, unit, .. } = words(self.phase);
        let done = HumanCount(self.last.done);
        let far = match self.last.total.filter(|&total| total > 0) {
            Some(total) => {
                let percent = u128::from(self.last.done) * 100 / u128::from(total);
                format!("{done} of {} {unit} ({percent} %)", HumanCount(total))
            }
            None => format!("{done} {unit}"),
        };
        format!("{doing}: {}", listed(&far, &self.samples.words(self.last.total)))
    }

    /// `Pulled 20,000 changes in 3.2 s, 1.4 MiB`, once.
    fn tell_end(&mut self, out: &mut impl Write) {
        if self.has_ended || self.last.done == 0 {
            return;
        }
        self.has_ended = true;
        let Words { did, unit, .. } = words(self.phase);
        let moved = match self.samples.bytes() {
            0 => String::new(),
            bytes => text::bytes(bytes),
        };
        let took = time::span(self.samples.took_ms());
        tell(out, &listed(&format!("{did} {} {unit} in {took}", HumanCount(self.last.done)), &moved));
    }
}

/// A stderr that is closed is nobody's to be told of.
fn tell(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{line}");
}

fn listed(first: &str, rest: &str) -> String {
    if rest.is_empty() { first.to_owned() } else { format!("{first}, {rest}") }
}

/// Of the bytes that moved, those that the phase moves.
fn sample(progress: Progress, ms: u64) -> Sample {
    let bytes = match progress.phase {
        Phase::Pull => progress.bytes_in,
        Phase::Push => progress.bytes_out,
        _ => 0,
    };
    Sample { ms, done: progress.done, bytes }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are ours and well-formed").progress_chars("=> ")
}

/// What is being done, was done, and is counted.
struct Words {
    doing: &'static str,
    did: &'static str,
    unit: &'static str,
}

fn words(phase: Phase) -> Words {
    let (doing, did, unit) = match phase {
        Phase::Seal => ("Recording", "Recorded", "writes"),
        Phase::List => ("Listing", "Listed", "files"),
        Phase::Pull => ("Pulling", "Pulled", "changes"),
        Phase::Merge => ("Merging", "Merged", "changes"),
        Phase::Push => ("Pushing", "Pushed", "changes"),
        Phase::Verify => ("Verifying", "Verified", "changes"),
        _ => ("Working", "Worked on", "things"),
    };
    Words { doing, did, unit }
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;

    fn progress(phase: Phase, done: u64, total: Option<u64>, bytes: u64) -> Progress {
        let mut progress = Progress::new(phase, done, total);
        (progress.bytes_in, progress.bytes_out) = (bytes, bytes);
        progress
    }

    /// A terminal to look at, and what is shown there.
    fn terminal(width: u16) -> (InMemoryTerm, State) {
        let terminal = InMemoryTerm::new(10, width);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        (terminal, State::new(Some(Screen::Bars(MultiProgress::with_draw_target(target)))))
    }

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_bar_shows_counts_rates_bytes_and_what_is_left() {
        let (terminal, mut state) = terminal(80);
        state.show(progress(Phase::Pull, 0, Some(10_000), 0), 0);
        assert_eq!(terminal.contents(), "", "not before a second is over");
        state.show(progress(Phase::Pull, 2_500, Some(10_000), 1 << 20), 2_000);
        assert_eq!(
            terminal.contents(),
            "Pulling   [===>          ] 2,500/10,000 6 s left, 1,250/s, 512.0 KiB/s, 1.0 MiB"
        );
        state.show(progress(Phase::Merge, 40, None, 1 << 20), 2_500);
        let lines = terminal.contents();
        assert!(lines.lines().nth(1).unwrap().starts_with("Merging"), "{lines}");
        assert!(lines.ends_with("40 changes"), "{lines}");
        state.end();
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn a_narrow_terminal_gets_one_line_all_the_same() {
        let (terminal, mut state) = terminal(50);
        state.show(progress(Phase::Push, 0, Some(10_000), 0), 0);
        state.show(progress(Phase::Push, 2_500, Some(10_000), 1 << 20), 2_000);
        assert_eq!(terminal.contents().lines().count(), 1, "{}", terminal.contents());
    }

    #[test]
    fn nothing_to_do_shows_nothing() {
        let (terminal, mut state) = terminal(80);
        for phase in [Phase::List, Phase::Pull, Phase::Push] {
            state.show(progress(phase, 0, None, 0), 5_000);
            state.show(progress(phase, 0, Some(0), 0), 9_000);
        }
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn lines_come_every_few_seconds_and_at_the_end_of_a_phase() {
        let paper = Paper::default();
        let mut state = State::new(Some(Screen::Lines(Box::new(paper.clone()))));
        state.show(progress(Phase::List, 0, None, 0), 0);
        state.show(progress(Phase::List, 20_000, None, 0), 800);
        for n in 0..=20 {
            state.show(progress(Phase::Pull, n * 1_000, Some(20_000), n * 1_000_000), 1_000 + n * 600);
        }
        state.show(progress(Phase::Merge, 20_000, None, 20_000_000), 14_000);
        state.end();
        assert_eq!(
            paper.text(),
            "Listed 20,000 files in 800 ms\n\
             Pulling: 9,000 of 20,000 changes (45 %), 7 s left, 1,666/s, 1.5 MiB/s, 8.5 MiB\n\
             Pulling: 18,000 of 20,000 changes (90 %), 2 s left, 1,666/s, 1.5 MiB/s, 17.1 MiB\n\
             Pulled 20,000 changes in 12.0 s, 19.0 MiB\n\
             Merged 20,000 changes in 0 ms\n"
        );
    }

    #[test]
    fn a_phase_that_finds_more_to_do_tells_its_end_again() {
        let paper = Paper::default();
        let mut state = State::new(Some(Screen::Lines(Box::new(paper.clone()))));
        state.show(progress(Phase::Pull, 0, Some(10), 0), 0);
        state.show(progress(Phase::Pull, 10, Some(10), 0), 1_000);
        state.show(progress(Phase::Merge, 10, None, 0), 1_000);
        state.show(progress(Phase::Merge, 10, None, 0), 1_100);
        state.show(progress(Phase::Pull, 20, Some(20), 0), 2_000);
        state.end();
        let told = "Pulled 10 changes in 1.0 s\nPulled 20 changes in 2.0 s\nMerged 10 changes in 100 ms\n";
        assert_eq!(paper.text(), told);
    }

    #[test]
    fn after_the_end_nothing_is_shown() {
        let paper = Paper::default();
        let mut state = State::new(Some(Screen::Lines(Box::new(paper.clone()))));
        state.end();
        state.screen = None;
        state.show(progress(Phase::Pull, 5, Some(5), 5), 9_000);
        assert_eq!(paper.text(), "");
    }
}
