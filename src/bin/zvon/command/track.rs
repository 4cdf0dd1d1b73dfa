//! `zvon track`: starts capture.

use clap::ValueEnum;
use zvon::{TrackOptions, TrackReport};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
#[command(override_usage = "zvon track [OPTIONS] <TABLE>...\n       zvon track [OPTIONS] --all")]
pub struct Args {
    /// The tables.
    #[arg(value_name = "TABLE", required_unless_present = "all")]
    tables: Vec<String>,

    /// Every table that can be tracked.
    #[arg(long, conflicts_with = "tables")]
    all: bool,

    /// Tables that --all leaves alone, such as a migration tool's own.
    #[arg(long, value_name = "TABLE,…", value_delimiter = ',', requires = "all")]
    except: Vec<String>,

    /// What a row is known by on other replicas: `key`, its INTEGER PRIMARY KEY, where rows keep their numbers
    /// everywhere [default: an id of its own, as two replicas may give two rows the same number].
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    identity: Option<Identity>,

    /// The columns that a row is known by on other replicas, where that is not the primary key; they need a UNIQUE constraint
    /// and NOT NULL. An INTEGER PRIMARY KEY beside them stays on this replica.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', conflicts_with_all = ["identity", "all"])]
    key: Vec<String>,

    /// Columns that stay on this replica.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    exclude: Vec<String>,

    /// Hold rows whose parent row is not shown, on every replica [default: if the rows that are there all have theirs].
    #[arg(long, conflicts_with = "no_enforce_fk")]
    enforce_fk: bool,

    /// Show rows whose parent row is not shown, on every replica.
    #[arg(long)]
    no_enforce_fk: bool,

    /// Let the definition that the tables have here count from now on, whatever others on a remote say: for tables that are
    /// neither merged nor pushed, as somebody says that their rows are known by other columns.
    #[arg(long, conflicts_with = "all")]
    redefine: bool,

    /// Count the rows that are missing since their table was dropped or rebuilt as deleted.
    #[arg(long)]
    accept_deletes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Identity {
    Key,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let (_, replica) = context.open().await?;
    let options = options(args);
    let reports = if args.all {
        replica.track_all(&options).await?
    } else {
        let tables: Vec<&str> = args.tables.iter().map(String::as_str).collect();
        replica.track(&tables, &options).await?
    };
    Ok(Answer::summary(&reports, words(&reports)))
}

fn options(args: &Args) -> TrackOptions {
    let mut options = TrackOptions::default();
    options.identity_key = matches!(args.identity, Some(Identity::Key));
    options.key.clone_from(&args.key);
    options.exclude.clone_from(&args.exclude);
    options.except.clone_from(&args.except);
    options.enforce_fk = (args.enforce_fk || args.no_enforce_fk).then_some(args.enforce_fk);
    options.accept_deletes = args.accept_deletes;
    options.redefine = args.redefine;
    options
}

pub(super) fn words(reports: &[TrackReport]) -> String {
    if reports.is_empty() {
        return "There is no table to track: make one, then track it.\n".to_owned();
    }
    reports.iter().map(table).collect()
}

fn table(report: &TrackReport) -> String {
    let mut facts = vec![match report.backfilled {
        0 => "tracked".to_owned(),
        rows => format!("tracked, with the {} it has", text::rows(rows)),
    }];
    let found = [
        (report.changed, "written while capture was off"),
        (report.deleted, "deleted while capture was off"),
        (report.missing, "missing, shown again by the next sync (--accept-deletes to delete them everywhere)"),
    ];
    facts
        .extend(found.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!("{} {what}", text::rows(*rows))));
    let mut out = format!("{}: {}\n", text::plain(&report.table), facts.join("; "));
    if let Some(before) = &report.renamed_from {
        out += &format!("  the table {} has this name now\n", text::plain(before));
    }
    for (before, now) in &report.renamed {
        out += &format!("  the column {} is {} now\n", text::plain(before), text::plain(now));
    }
    for name in &report.dropped {
        out += &format!("  the column {} is gone here; other replicas keep it\n", text::plain(name));
    }
    if !report.notice.is_empty() {
        out += &format!("  note: {}\n", text::plain(&report.notice));
    }
    out
}
