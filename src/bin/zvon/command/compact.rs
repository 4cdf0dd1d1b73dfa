//! `zvon compact`: packs what lies loose on the remote, and removes what packs hold.

use std::fmt::Write as _;

use zvon::{CompactOptions, CompactReport, SyncOptions};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Answer;
use crate::{text, time};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The remote, where it is not the one that is set.
    #[arg(value_name = "URL")]
    url: Option<String>,

    /// Only say what would be done, as far as the last sync tells.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (place, replica) = context.open().await?;
    let remote = context.remote(&place, &replica, args.url.as_deref())?;
    let mut options = CompactOptions::default();
    options.dry_run = args.dry_run;
    let (options, replica) = (&options, &replica);
    let report = context
        .unlocking(remote, async |remote| {
            if !args.dry_run {
                // Only what this replica holds can be packed.
                replica.sync(&remote, &SyncOptions::default()).await?;
            }
            replica.compact(&remote, options).await
        })
        .await?;
    let exit = if report.problems.is_empty() { Exit::Done } else { Exit::Failed };
    Ok(Answer::summary(&report, words(&report)).warn(report.problems.clone()).exit(exit))
}

fn words(report: &CompactReport) -> String {
    let remote = text::plain(&report.remote);
    let mut out = String::new();
    let nothing = report.packed_files + report.joined_packs + report.removed_files + report.removed_packs == 0;
    match (nothing, report.dry_run) {
        (true, _) => drop(writeln!(out, "Nothing to compact on {remote}")),
        (false, true) => drop(writeln!(out, "Compacting {remote} would")),
        (false, false) => drop(writeln!(out, "Compacted {remote} ({})", time::span(report.elapsed_ms))),
    }
    let files = |n| text::count(n, "file", "files");
    let packs = |n| text::count(n, "pack", "packs");
    if report.packed_files + report.joined_packs > 0 {
        let into = if report.dry_run { String::new() } else { format!(" into {}", packs(report.written_packs)) };
        let bytes = if report.dry_run { String::new() } else { format!(", {}", text::bytes(report.bytes_written)) };
        let what = format!("{} and {}", files(report.packed_files), packs(report.joined_packs));
        let _ = writeln!(out, "  pack {what}{into} ({}{bytes})", text::changes(report.changes));
    }
    if report.removed_files + report.removed_packs > 0 {
        let what = format!("{} and {}", files(report.removed_files), packs(report.removed_packs));
        let _ = writeln!(out, "  remove {what} that larger packs hold");
    }
    if report.unripe > 0 {
        let _ = writeln!(
            out,
            "  {} wait for a later run: packs hold them too",
            text::count(report.unripe, "object", "objects")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_says_what_it_did_and_would_do() {
        let mut report = CompactReport::default();
        report.remote = "file:///tmp/shared".to_owned();
        assert_eq!(words(&report), "Nothing to compact on file:///tmp/shared\n");
        report.packed_files = 512;
        report.joined_packs = 1;
        report.changes = 600;
        report.written_packs = 1;
        report.bytes_written = 2_000;
        report.removed_packs = 1;
        report.unripe = 513;
        report.elapsed_ms = 12;
        assert_eq!(
            words(&report),
            "Compacted file:///tmp/shared (12 ms)\n  pack 512 files and 1 pack into 1 pack (600 changes, 1.9 KiB)\n  \
             remove 0 files and 1 pack that larger packs hold\n  513 objects wait for a later run: packs hold them too\n"
        );
        report.dry_run = true;
        assert!(
            words(&report)
                .starts_with("Compacting file:///tmp/shared would\n  pack 512 files and 1 pack (600 changes)\n")
        );
    }
}
