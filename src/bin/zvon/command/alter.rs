//! `zvon alter begin|end`: a table's columns or name change under capture.

use clap::Subcommand;
use zvon::AlterOptions;

use super::track::words;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Lift the capture of tables, before DROP or RENAME of a column or table, or a rebuild.
    Begin {
        /// The tables.
        #[arg(value_name = "TABLE", required = true)]
        tables: Vec<String>,
    },
    /// Restore capture, and record what was written in between.
    End {
        /// The tables, by their names before or now.
        #[arg(value_name = "TABLE", required = true)]
        tables: Vec<String>,

        /// Columns of a table that was made anew which have another name now.
        #[arg(long, value_name = "OLD=NEW,…", value_delimiter = ',', value_parser = rename)]
        renamed: Vec<(String, String)>,

        /// Columns of a table that was made anew which are gone.
        #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
        dropped: Vec<String>,

        /// Count the rows that are missing as deleted.
        #[arg(long)]
        accept_deletes: bool,
    },
}

fn rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("expected OLD=NEW".to_owned()),
    }
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (_, replica) = context.open().await?;
    match &args.step {
        Step::Begin { tables } => {
            let names: Vec<&str> = tables.iter().map(String::as_str).collect();
            replica.alter_begin(&names).await?;
            let lines: String = tables
                .iter()
                .map(|table| {
                    format!("{0}: capture is lifted; change the table, then `zvon alter end {0}`\n", text::plain(table))
                })
                .collect();
            Ok(Answer::summary(tables, lines))
        }
        Step::End { tables, renamed, dropped, accept_deletes } => {
            let mut options = AlterOptions::default();
            options.renamed.clone_from(renamed);
            options.dropped.clone_from(dropped);
            options.accept_deletes = *accept_deletes;
            let mut reports = Vec::new();
            for table in tables {
                reports.push(replica.alter_end(table, &options).await?);
            }
            Ok(Answer::summary(&reports, words(&reports)))
        }
    }
}
