//! `zvon watch`: syncs until it is told to stop, and says a line for each sync that moved something.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use zvon::{CompactReport, Remote, SyncReport, WatchCause, WatchEvent, WatchOptions};

use super::sync;
use crate::config;
use crate::context::Context;
use crate::failure::{Failure, Told};
use crate::output::{Answer, Output};
use crate::progress::Bars;
use crate::signals::Requests;
use crate::{text, time};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long after a sync that moved something to look at the remote again; twice as long each time that nothing
    /// is found. Local commits, and files that appear in a folder, sync at once.
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = config::positive_span)]
    interval: Duration,

    /// The longest time between two looks at the remote.
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = config::positive_span)]
    max_interval: Duration,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (place, replica) = context.open().await?;
    let remote = context.remote(&place, &replica, None)?;
    let requests = Requests::count();
    let mut options = WatchOptions::default();
    options.interval = args.interval;
    options.max_interval = args.max_interval;
    let url = remote.url().to_owned();
    let teller = Teller::new(context, &place.database, &url);
    let stop = || async {
        tokio::select! {
            () = requests.clone().at_least(1) => {}
            () = teller.unheard.notified() => {}
        }
    };
    let (replica, options) = (&replica, &options);
    let watched = async |remote: Remote| replica.watch(&remote, options, stop(), |event| teller.tell(event)).await;
    tokio::select! {
        ended = context.unlocking(remote, watched) => ended?,
        // Whoever asks twice does not want to wait for the last sync.
        () = requests.clone().at_least(2) => {}
    }
    teller.end()
}

/// An event as JSON has it, a line each.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Started {
        time: &'a str,
        database: &'a str,
        remote: &'a str,
        notices: &'a [String],
    },
    Synced {
        time: &'a str,
        cause: &'static str,
        #[serde(flatten)]
        report: &'a SyncReport,
    },
    Compacted {
        time: &'a str,
        #[serde(flatten)]
        report: &'a CompactReport,
    },
    CompactionFailed {
        time: &'a str,
        error: &'a Told,
    },
    Failed {
        time: &'a str,
        error: &'a Told,
        again: bool,
        retry_ms: u128,
    },
    Stopped {
        time: &'a str,
    },
}

/// Tells what a watch does.
struct Teller<'a> {
    output: Output,
    bars: &'a Bars,
    database: String,
    remote: &'a str,
    story: RefCell<Story>,
    /// Nobody reads any more.
    unheard: Notify,
    failure: RefCell<Option<Failure>>,
}

/// What has been told, so that nothing is told twice in a row.
#[derive(Debug, Default)]
struct Story {
    has_started: bool,
    has_synced: bool,
    is_failing: bool,
    remarks: HashSet<String>,
}

impl<'a> Teller<'a> {
    fn new(context: &'a Context, database: &Path, remote: &'a str) -> Self {
        Self {
            output: context.output,
            bars: &context.bars,
            database: database.display().to_string(),
            remote,
            story: RefCell::default(),
            unheard: Notify::new(),
            failure: RefCell::default(),
        }
    }

    fn tell(&self, event: WatchEvent) {
        self.bars.start_anew();
        if let Err(failure) = self.try_to_tell(event) {
            *self.failure.borrow_mut() = Some(failure);
            self.unheard.notify_one();
        }
    }

    fn try_to_tell(&self, event: WatchEvent) -> Result<(), Failure> {
        let time = &time::utc(time::now_ms());
        let (database, remote) = (&self.database, self.remote);
        match event {
            // A watch that had to ask for the passphrase begins again.
            WatchEvent::Started { .. } if std::mem::replace(&mut self.story.borrow_mut().has_started, true) => Ok(()),
            WatchEvent::Started { notices } => {
                notices.iter().for_each(|notice| self.output.warn(notice));
                self.output.line(&Line::Started { time, database, remote, notices: &notices }, || {
                    let (database, remote) = (text::plain(database), text::plain(remote));
                    format!("{time} Watching {database}, to sync with {remote}; Ctrl-C ends it\n")
                })
            }
            WatchEvent::Synced { cause, report } => {
                let news = self.story.borrow_mut().synced(&report);
                news.warnings.iter().for_each(|warning| self.output.warn(warning));
                self.output.line(&Line::Synced { time, cause: name(cause), report: &report }, || news.text(time))
            }
            WatchEvent::Compacted { report } => {
                report.problems.iter().for_each(|problem| self.output.warn(problem));
                self.output.line(&Line::Compacted { time, report: &report }, || {
                    let packs = text::count(report.written_packs, "pack", "packs");
                    let removed = text::count(report.removed_files + report.removed_packs, "file", "files");
                    format!("{time} Compacted: {} into {packs}, {removed} removed\n", text::changes(report.changes))
                })
            }
            WatchEvent::CompactionFailed { error } => {
                let Failure::Error(told) = Failure::from(error) else { return Ok(()) };
                self.output
                    .warn(&format!("the remote was not compacted: {}; it is tried again later", told.with_causes()));
                self.output.line(&Line::CompactionFailed { time, error: &told }, String::new)
            }
            WatchEvent::Failed { error, again, retry_in } => {
                self.story.borrow_mut().is_failing = true;
                let Failure::Error(told) = Failure::from(error) else { return Ok(()) };
                if !again {
                    self.output.warn(&format!("{}; trying again until it works", told.with_causes()));
                }
                let retry_ms = retry_in.as_millis();
                self.output.line(&Line::Failed { time, error: &told, again, retry_ms }, String::new)
            }
            _ => Ok(()),
        }
    }

    /// The last word.
    fn end(self) -> Result<Answer, Failure> {
        if let Some(failure) = self.failure.into_inner() {
            return Err(failure);
        }
        let time = &time::utc(time::now_ms());
        self.output.line(&Line::Stopped { time }, || format!("{time} Stopped watching\n"))?;
        Ok(Answer::told())
    }
}

/// What is new in a sync's report.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    words: Option<String>,
    remarks: Vec<String>,
    warnings: Vec<String>,
}

impl News {
    fn text(&self, time: &str) -> String {
        let words = self.words.iter().map(|words| format!("{time} {words}\n"));
        words.chain(self.remarks.iter().map(|remark| format!("  {remark}\n"))).collect()
    }
}

impl Story {
    /// What is worth a line of a sync: the first one, what it moved, and what was not so after the one before.
    fn synced(&mut self, report: &SyncReport) -> News {
        let all_remarks = sync::remarks(report);
        let all_warnings = sync::warnings(report);
        let is_new = |line: &&String| !self.remarks.contains(*line);
        let remarks: Vec<String> = all_remarks.iter().filter(is_new).cloned().collect();
        let warnings: Vec<String> = all_warnings.iter().filter(is_new).cloned().collect();
        self.remarks = all_remarks.into_iter().chain(all_warnings).collect();
        let moved = sync::moved(report);
        let words = match (moved, self.is_failing) {
            (true, true) => Some(format!("Works again: {}", timed_counts(report))),
            (true, false) => Some(capitalised(&timed_counts(report))),
            (false, true) => Some("Works again: up to date".to_owned()),
            (false, false) => (!self.has_synced || !remarks.is_empty()).then(|| "Up to date".to_owned()),
        };
        self.has_synced = true;
        self.is_failing = false;
        News { words, remarks, warnings }
    }
}

fn timed_counts(report: &SyncReport) -> String {
    format!("{} ({})", sync::counts(report), time::span(report.elapsed_ms))
}

fn capitalised(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn name(cause: WatchCause) -> &'static str {
    match cause {
        WatchCause::Start => "start",
        WatchCause::Commit => "commit",
        WatchCause::Folder => "folder",
        WatchCause::Interval => "interval",
        WatchCause::Retry => "retry",
        WatchCause::Clock => "clock",
        WatchCause::Stop => "stop",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(pulled: u64, held: u64) -> SyncReport {
        let mut report = SyncReport::default();
        (report.pulled, report.merged, report.held, report.elapsed_ms) = (pulled, pulled, held, 7);
        report
    }

    #[test]
    fn a_line_is_printed_for_what_is_new_and_no_other() {
        let mut story = Story::default();
        let mut told = |report: &SyncReport| story.synced(report).text("T");
        assert_eq!(told(&report(0, 0)), "T Up to date\n");
        assert_eq!(told(&report(0, 0)), "");
        assert_eq!(told(&report(1, 0)), "T Pulled 1 change, merged 1, pushed 0 (7 ms)\n");
        let held = "  2 rows held, not shown: `zvon held` says why\n";
        assert_eq!(told(&report(2, 2)), format!("T Pulled 2 changes, merged 2, pushed 0 (7 ms)\n{held}"));
        assert_eq!(told(&report(0, 2)), "");
        assert_eq!(told(&report(0, 0)), "");
        assert_eq!(told(&report(0, 2)), format!("T Up to date\n{held}"));
    }

    #[test]
    fn the_end_of_a_failure_is_told() {
        let mut story = Story { has_synced: true, is_failing: true, ..Story::default() };
        assert_eq!(story.synced(&report(0, 0)).text("T"), "T Works again: up to date\n");
        story.is_failing = true;
        assert_eq!(
            story.synced(&report(1, 0)).text("T"),
            "T Works again: pulled 1 change, merged 1, pushed 0 (7 ms)\n"
        );
        assert_eq!(story.synced(&report(0, 0)).text("T"), "");
    }
}
