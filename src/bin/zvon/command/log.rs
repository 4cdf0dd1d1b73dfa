//! `zvon log`: the history.

use std::fmt::Write as _;

use zvon::LogEntry;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::{text, time};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this table.
    #[arg(value_name = "TABLE")]
    table: Option<String>,

    /// Only the row of this key.
    #[arg(value_name = "ID", requires = "table")]
    row: Option<String>,

    /// How many changes at most.
    #[arg(short = 'n', long = "limit", value_name = "N", default_value_t = 20)]
    limit: u64,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (_, replica) = context.open().await?;
    let entries = replica.log(args.table.as_deref(), args.row.as_deref(), args.limit).await?;
    Ok(Answer::new(&entries, words(&entries)))
}

fn words(entries: &[LogEntry]) -> String {
    if entries.is_empty() {
        return "No change is recorded.\n".to_owned();
    }
    entries.iter().map(entry).collect()
}

fn entry(entry: &LogEntry) -> String {
    let when = if entry.backfill { "before tracking     ".to_owned() } else { time::utc(entry.time_ms) };
    let what = format!("{} {}", text::plain(&entry.table), text::plain(&entry.row));
    let mut out = format!("{when}  {what}  by {}", text::author(&entry.author, entry.own));
    if entry.deletes {
        out += "  deleted";
    }
    if !entry.merged {
        out += "  (not merged yet)";
    }
    out.push('\n');
    let names: Vec<String> = entry.fields.iter().map(|field| text::plain(&field.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, field) in names.iter().zip(&entry.fields) {
        let _ = writeln!(out, "    {name:<width$} = {}", text::value(&field.value));
    }
    out
}
