//! `zvon verify`: the promises, checked.

use std::fmt::Write as _;

use zvon::VerifyReport;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check the remote too: this one, or the one that is set.
    //
    // Takes the global flag's place and its value; here alone the URL may be left out, which the empty value says.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    remote: Option<String>,
}

pub async fn run(_: &Args, context: &Context) -> Result<Answer, Failure> {
    let (place, replica) = context.open_damaged().await?;
    let remote = match context.remote_asked() {
        true => Some(context.remote(&place, &replica, None)?),
        false => None,
    };
    let (checks_remote, replica) = (remote.is_some(), &replica);
    let report = match remote {
        Some(remote) => context.unlocking(remote, async |remote| replica.verify_remote(&remote).await).await?,
        None => replica.verify().await?,
    };
    let exit = if report.problem_count == 0 { Exit::Done } else { Exit::Failed };
    Ok(Answer::new(&report, words(&report, checks_remote)).exit(exit))
}

fn words(report: &VerifyReport, remote: bool) -> String {
    let mut looked = format!("{} and {}", text::changes(report.changes), text::rows(report.rows));
    if remote {
        looked += &format!(", {} on the remote", text::count(report.remote_objects, "object", "objects"));
    }
    if report.problem_count == 0 {
        return format!("All is well: {looked} checked\n");
    }
    let problems = text::count(report.problem_count, "problem", "problems");
    let mut out = format!("{problems}: {looked} checked\n");
    for problem in &report.problems {
        let _ = writeln!(out, "  {}", text::plain(problem));
    }
    let more = report.problem_count.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "  and {more} more");
    }
    out
}
