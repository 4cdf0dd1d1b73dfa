//! `zvon sync`: pulls, merges and pushes.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::Serialize;
use zvon::{CompactOptions, Remote, Replica, SyncOptions, SyncReport};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Answer;
use crate::{text, time};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The remote, where it is not the one that is set.
    #[arg(value_name = "URL")]
    url: Option<String>,

    /// Compare everything with the remote, and put back what it lost.
    #[arg(long)]
    full: bool,

    /// How to join a remote that holds other replicas' rows, for a replica with rows of its own:
    /// `same`, rows with the same key are the same row; `separate`, rows that SQLite numbered are other rows under the same
    /// numbers.
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    join: Option<Join>,

    /// How the remote stores changes from now on: `files`, one file a change, for the plainest readers, or `packs`.
    #[arg(long, value_name = "LAYOUT", hide_possible_values = true)]
    layout: Option<Layout>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Join {
    Same,
    Separate,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layout {
    Files,
    Packs,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let options = options(args);
    let (place, replica) = context.open().await?;
    let remote = context.remote(&place, &replica, args.url.as_deref())?;
    let syncing = &replica;
    let synced = async |remote: Remote| Ok((syncing.sync(&remote, &options).await?, remote));
    let (report, remote) = context.unlocking(remote, synced).await?;
    Ok(compacting(answer(&report, &report, String::new()), &report, replica, remote))
}

fn options(args: &Args) -> SyncOptions {
    let mut options = SyncOptions::default();
    options.full = args.full;
    options.join = match args.join {
        None => None,
        Some(Join::Same) => Some(zvon::Join::Same),
        Some(Join::Separate) => Some(zvon::Join::Separate),
    };
    options.layout = args.layout.map(|layout| match layout {
        Layout::Files => zvon::Layout::Files,
        Layout::Packs => zvon::Layout::Packs,
    });
    options
}

/// Lets a compaction follow the answer of a sync that asks for one: nobody waits for the answer because of it.
pub fn compacting(answer: Answer, report: &SyncReport, replica: Replica, remote: Remote) -> Answer {
    if !report.compaction_due {
        return answer;
    }
    answer.then(async move {
        let mut options = CompactOptions::default();
        options.only_if_due = true;
        let report = replica.compact(&remote, &options).await?;
        if report.problems.is_empty() { Ok(()) } else { Err(Failure::remote(report.problems.join("; "))) }
    })
}

/// The answer of a sync, which `data` tells to programs, and `first` to people before the sync itself.
pub fn answer(data: &impl Serialize, report: &SyncReport, first: String) -> Answer {
    Answer::summary(data, first + &words(report)).warn(warnings(report)).exit(exit(report))
}

/// What was left undone goes before what could not be read.
fn exit(report: &SyncReport) -> Exit {
    match (report.oversize.is_empty(), report.newly_rejected.is_empty()) {
        (false, _) => Exit::Failed,
        (true, false) => Exit::Rejected,
        (true, true) => Exit::Done,
    }
}

fn words(report: &SyncReport) -> String {
    let remote = text::plain(&report.remote);
    let elapsed = time::span(report.elapsed_ms);
    let mut out = String::new();
    if moved(report) {
        let _ = writeln!(out, "Synced with {remote} ({elapsed})");
        let _ = writeln!(out, "  {}", counts(report));
    } else {
        let _ = writeln!(out, "Up to date with {remote} ({elapsed})");
    }
    for line in remarks(report) {
        let _ = writeln!(out, "  {line}");
    }
    out
}

/// Whether changes moved.
pub fn moved(report: &SyncReport) -> bool {
    (report.pulled, report.pushed, report.merged) != (0, 0, 0)
}

/// What moved.
pub fn counts(report: &SyncReport) -> String {
    format!("pulled {}, merged {}, pushed {}", text::changes(report.pulled), report.merged, report.pushed)
}

/// What else happened, a line each.
pub fn remarks(report: &SyncReport) -> Vec<String> {
    let mut lines = Vec::new();
    let mut when = |number: u64, line: String| lines.extend((number > 0).then_some(line));
    let conflicts = text::count(report.conflicts, "write lost", "writes lost");
    when(
        report.conflicts,
        format!("{conflicts} against a concurrent one: `zvon conflicts` shows what, and the way back"),
    );
    when(report.held, format!("{} held, not shown: `zvon held` says why", text::rows(report.held)));
    when(
        report.waiting,
        format!("{} from a clock ahead of this one wait: see `zvon status`", text::changes(report.waiting)),
    );
    when(report.redated, format!("{} made under a wrong clock got new times", text::changes(report.redated)));
    let healed = text::count(report.healed, "file was", "files were");
    when(report.healed, format!("{healed} gone from the remote, or spoilt there: put back"));
    let new = report.newly_rejected.len() as u64 + report.newly_rejected_more;
    let known = report.rejected.saturating_sub(new);
    let unread = text::count(known, "file", "files");
    when(known, format!("{unread} on the remote still cannot be read: see `zvon status`"));
    lines.extend(report.notices.iter().map(|notice| format!("note: {}", text::plain(notice))));
    lines
}

/// Of so many files that cannot be read a person wants to hear by name.
pub const FILES_TOLD: usize = 20;

/// What must be noticed, a sentence each.
pub fn warnings(report: &SyncReport) -> Vec<String> {
    let oversize = report.oversize.iter().map(|change| {
        let size = text::bytes(change.bytes);
        format!("change {} of {} ({size}) is too large for the remote and stays here", change.id, change.table)
    });
    let rejected = report.newly_rejected.iter().take(FILES_TOLD).map(|file| {
        format!("{} on the remote ({}) cannot be read: {}", file.name, text::bytes(file.bytes), file.reason)
    });
    let untold = report.newly_rejected.len().saturating_sub(FILES_TOLD) as u64 + report.newly_rejected_more;
    let more = (untold > 0).then(|| {
        format!(
            "{} on the remote cannot be read either: see who else can write there",
            text::count(untold, "more file", "more files")
        )
    });
    oversize.chain(rejected).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_says_what_it_did() {
        let mut report = SyncReport::default();
        report.remote = "file:///tmp/shared".to_owned();
        report.elapsed_ms = 12;
        assert_eq!(words(&report), "Up to date with file:///tmp/shared (12 ms)\n");
        report.pulled = 1;
        report.merged = 1;
        report.pushed = 2;
        report.conflicts = 1;
        report.held = 2;
        assert_eq!(
            words(&report),
            "Synced with file:///tmp/shared (12 ms)\n  pulled 1 change, merged 1, pushed 2\n  \
             1 write lost against a concurrent one: `zvon conflicts` shows what, and the way back\n  \
             2 rows held, not shown: `zvon held` says why\n"
        );
        assert_eq!(exit(&report), Exit::Done);
    }
}
