//! The `zvon` command: parses, calls the library's public API, prints, and turns the result into an exit code.
//!
//! Nothing outside this folder reads flags, the environment or settings files, or prints.

#![forbid(unsafe_code)]

mod cli;
mod command;
mod config;
mod context;
mod failure;
mod logging;
mod output;
mod progress;
mod rate;
mod secrets;
mod signals;
mod text;
mod time;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::{Builder, Runtime};

use crate::cli::Cli;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Afterwards, Answer, Output};
use crate::signals::interrupted;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let exit = match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(cli),
        Err(error) => cli::refuse(&error, &arguments),
    };
    ExitCode::from(exit.code())
}

/// Runs one command from its arguments to its exit code.
fn run(cli: Cli) -> Exit {
    let output = Output::new(&cli.global);
    let runtime = match threads() {
        Ok(runtime) => runtime,
        Err(error) => return output.failure(&Failure::io("the program's threads cannot be started", &error)),
    };
    let result = match cli.command.ends_when_asked() {
        true => runtime.block_on(answer(cli, output)),
        false => runtime.block_on(until_interrupted(answer(cli, output))),
    };
    // From here on Ctrl-C ends the process: a long answer may still be on its way to the terminal.
    runtime.spawn(async {
        interrupted().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    let exit = match result {
        Ok(mut answer) => {
            let exit = output.answer(&answer);
            if let Some(Afterwards(work)) = answer.take_afterwards()
                && let Err(failure) = runtime.block_on(work)
            {
                output.remark(&failure);
            }
            exit
        }
        Err(failure) => output.failure(&failure),
    };
    // A step that still runs is a transaction: cut off here, it never happened.
    runtime.shutdown_background();
    exit
}

/// The threads of a command: one waits for the network and decodes beside SQLite, whose work, like that of disks, is done on
/// the others. Few, because memory that one thread gave back is of no use to the next; and enough, because no such work waits
/// for other such work.
fn threads() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).max_blocking_threads(4).enable_all().build()
}

/// What a command answers.
async fn answer(cli: Cli, output: Output) -> Result<Answer, Failure> {
    let logs = logging::start(&cli.global)?;
    let context = Context::new(cli.global, output, logs)?;
    command::run(&cli.command, &context).await
}

/// Runs `work` unless Ctrl-C comes first, which drops it where it stands.
async fn until_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        () = interrupted() => Err(Failure::interrupted()),
    }
}
