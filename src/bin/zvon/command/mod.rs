//! One file a command: its arguments, the library call, the words for the answer. Prints through [`crate::output`] alone.

mod alter;
mod clone;
mod compact;
mod conflicts;
mod demo;
mod held;
mod init;
mod key;
mod log;
mod repair;
mod status;
mod sync;
mod track;
mod untrack;
mod verify;
mod watch;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a replica of a database, new or existing; with --remote, save where it syncs.
    Init(init::Args),
    /// Start capturing the writes to tables, and record the rows they have.
    Track(track::Args),
    /// Stop capturing the writes to tables; their rows and their history stay.
    Untrack(untrack::Args),
    /// Drop or rename columns or tables under capture.
    Alter(alter::Args),
    /// Pull, merge and push.
    Sync(sync::Args),
    /// Make a new replica, with its tables, from a remote, and save that remote.
    Clone(clone::Args),
    /// Pack what lies loose on the remote now, and remove what packs hold.
    Compact(compact::Args),
    /// Sync whenever there is something new, until Ctrl-C.
    ///
    /// It hears of commits by any program and of files that appear in a folder, and looks at a bucket from time to time. A
    /// remote that does not answer is tried again until it does. SIGTERM ends it too; both with exit code 0. With --json it
    /// prints a document a line: started, synced, compacted, compaction_failed, failed, stopped.
    Watch(watch::Args),
    /// Show the replica, its tables and remotes, and what waits.
    Status(status::Args),
    /// Show the history, newest first.
    Log(log::Args),
    /// Show what lost against a concurrent write, or bring it back.
    Conflicts(conflicts::Args),
    /// Show what is not shown in the tables, and why.
    Held,
    /// Check that the tables, and the remote, hold what the log says.
    Verify(verify::Args),
    /// Mend damage to zvon's own tables and triggers, and to the remote.
    ///
    /// It looks as `verify` does, mends what it finds from the log and from what your tables show, says what it did, and looks
    /// again. Values that you wrote are never dropped, and none are made up. With --remote it also reads every file there, puts
    /// back what was lost or spoilt, and fetches what the log lacks. For what it cannot mend it says what to do; exit 1 then.
    Repair(repair::Args),
    /// Make, show and change the keys of an encrypted remote.
    Key(key::Args),
    /// See two replicas sync through a folder, in files to play with.
    Demo(demo::Args),
}

impl Command {
    /// Whether it goes on until it is asked to end, and then ends well.
    pub fn ends_when_asked(&self) -> bool {
        matches!(self, Self::Watch(_))
    }
}

/// Runs a command.
pub async fn run(command: &Command, context: &Context) -> Result<Answer, Failure> {
    match command {
        Command::Init(args) => init::run(args, context).await,
        Command::Track(args) => track::run(args, context).await,
        Command::Untrack(args) => untrack::run(args, context).await,
        Command::Alter(args) => alter::run(args, context).await,
        Command::Sync(args) => sync::run(args, context).await,
        Command::Clone(args) => clone::run(args, context).await,
        Command::Compact(args) => compact::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Log(args) => log::run(args, context).await,
        Command::Conflicts(args) => conflicts::run(args, context).await,
        Command::Held => held::run(context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Repair(args) => repair::run(args, context).await,
        Command::Key(args) => key::run(args, context).await,
        Command::Demo(args) => demo::run(args, context).await,
    }
}
