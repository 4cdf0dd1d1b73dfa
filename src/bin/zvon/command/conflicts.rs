//! `zvon conflicts`: what lost against a concurrent write, and its way back.

use clap::Subcommand;
use zvon::{Conflict, Replica};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::{text, time};

#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the value that lost again, as a new change.
    Restore {
        /// The conflict's number.
        #[arg(value_name = "N")]
        number: i64,
    },
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (_, replica) = context.open().await?;
    match args.action {
        None => list(&replica).await,
        Some(Action::Restore { number }) => restore(&replica, number).await,
    }
}

async fn list(replica: &Replica) -> Result<Answer, Failure> {
    let conflicts = replica.conflicts().await?;
    let own = replica.database_uuid()?;
    let words = match conflicts.is_empty() {
        true => "No conflicts.\n".to_owned(),
        false => conflicts.iter().map(|conflict| words(conflict, &own)).collect::<Vec<_>>().join("\n"),
    };
    Ok(Answer::new(&conflicts, words))
}

async fn restore(replica: &Replica, number: i64) -> Result<Answer, Failure> {
    let conflict = replica.restore_conflict(number).await?;
    let what = format!("{} {}", text::plain(&conflict.table), text::plain(&conflict.row));
    let (column, value) = (text::plain(&conflict.column), text::value(&conflict.losing_value));
    let words = format!("{what}: {column} is {value} again, as a new change that goes out with the next sync\n");
    Ok(Answer::summary(&conflict, words))
}

/// A conflict in four lines; `own` is this replica's author id.
pub fn words(conflict: &Conflict, own: &str) -> String {
    let author = |id: &str| text::author(id, id == own);
    let (table, row, column) =
        (text::plain(&conflict.table), text::plain(&conflict.row), text::plain(&conflict.column));
    let way_back = match conflict.restored {
        true => "brought back".to_owned(),
        false => format!("to bring it back: zvon conflicts restore {}", conflict.number),
    };
    format!(
        "{}  {}  {table} {row}, column {column}\n    kept  {}  by {}\n    lost  {}  by {}\n    {way_back}\n",
        conflict.number,
        time::utc(conflict.seen_ms),
        text::value(&conflict.winning_value),
        author(&conflict.winner_author),
        text::value(&conflict.losing_value),
        author(&conflict.loser_author),
    )
}
