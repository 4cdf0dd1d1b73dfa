//! The command line's grammar and help. Does nothing: the commands do.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};

use crate::command::Command;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::secrets::Files;

const AFTER_HELP: &str = "\
The database, the remote and the limits are looked for in this order: the command line; the environment (ZVON_DB, \
ZVON_REMOTE); zvon.toml beside the database, or in the current directory where that is what names the database \
(db, remote, max_clock_drift = \"24h\", max_object_size = \"256MiB\"); what `init --remote` saved. Credentials come \
from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ...).

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 synced, but new files on the remote could not be read.

New here? `zvon demo` shows two replicas syncing through a folder.";

/// Sync SQLite databases without a server, through an S3 bucket or a shared folder.
#[derive(Debug, Parser)]
#[command(name = "zvon", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What may stand before or after the command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The SQLite database to work on.
    #[arg(long, global = true, value_name = "FILE")]
    pub db: Option<PathBuf>,

    /// The remote: s3://bucket/path, s3://endpoint:port/bucket/path, file:///path, or a folder.
    #[arg(long, global = true, value_name = "URL")]
    pub remote: Option<String>,

    /// Print one JSON document.
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing but what was asked for, and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Tell what is being done; twice for more.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    #[command(flatten)]
    pub secrets: Files,
}

/// Answers a command line that does not parse, which may as well be a request for help.
pub fn refuse(error: &clap::Error, arguments: &[OsString]) -> Exit {
    let json = arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    if json && error.use_stderr() {
        let rendered = error.render().to_string();
        let first = rendered.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let message = first.split_whitespace().collect::<Vec<_>>().join(" ");
        return Output::new(&Global { json, ..Global::default() }).failure(&Failure::usage(message));
    }
    // A closed stdout or stderr leaves nobody to tell.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}
