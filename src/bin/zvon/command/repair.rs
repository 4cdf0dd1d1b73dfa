//! `zvon repair`: damage to zvon's own tables, triggers and remote, mended.

use std::fmt::Write as _;

use zvon::RepairReport;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Repair the remote too: this one, or the one that is set.
    //
    // Takes the global flag's place and its value, as in `verify`.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    remote: Option<String>,
}

pub async fn run(_: &Args, context: &Context) -> Result<Answer, Failure> {
    let (place, replica) = context.open_damaged().await?;
    let mut report = replica.repair().await?;
    if context.remote_asked() {
        // Which remote is set may have been part of the damage.
        let remote = context.remote(&place, &replica, None)?;
        let there = context.unlocking(remote, async |remote| replica.repair_remote(&remote).await).await?;
        report.found += there.found;
        report.problems.extend(there.problems);
        report.done.extend(there.done);
        report.instructions = there.instructions;
        report.after = there.after;
    }
    let is_well = report.after.problem_count == 0 && report.instructions.is_empty();
    Ok(Answer::new(&report, words(&report)).exit(if is_well { Exit::Done } else { Exit::Failed }))
}

fn words(report: &RepairReport) -> String {
    let looked = format!("{} and {}", text::changes(report.after.changes), text::rows(report.after.rows));
    let mut out = match (report.found, report.done.is_empty()) {
        (0, true) => format!("Nothing to repair: {looked} checked\n"),
        (found, _) => format!("{}\n", text::count(found, "problem found", "problems found")),
    };
    for done in &report.done {
        let _ = writeln!(out, "  {}", text::plain(done));
    }
    if report.after.problem_count > 0 {
        let problems = text::count(report.after.problem_count, "problem is left", "problems are left");
        let _ = writeln!(out, "{problems}: {looked} checked");
        for problem in &report.after.problems {
            let _ = writeln!(out, "  {}", text::plain(problem));
        }
    } else if report.found > 0 {
        let _ = writeln!(out, "All is well now: {looked} checked");
    }
    if !report.instructions.is_empty() {
        out += "What only you can do:\n";
    }
    for instruction in &report.instructions {
        let _ = writeln!(out, "  {}", text::plain(instruction));
    }
    out
}
