//! `zvon untrack`: stops capture.

use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tables.
    #[arg(value_name = "TABLE", required = true)]
    tables: Vec<String>,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (_, replica) = context.open().await?;
    let tables: Vec<&str> = args.tables.iter().map(String::as_str).collect();
    replica.untrack(&tables).await?;
    let words = args
        .tables
        .iter()
        .map(|table| format!("{}: no longer tracked; its rows and its history stay\n", text::plain(table)));
    Ok(Answer::summary(&json!({ "untracked": args.tables }), words.collect()))
}
