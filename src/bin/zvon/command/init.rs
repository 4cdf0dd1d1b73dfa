//! `zvon init`: makes a replica of a database.

use std::path::PathBuf;

use serde::Serialize;
use zvon::Replica;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database; a file that is not there is made.
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
}

#[derive(Serialize)]
struct Initialised {
    database: String,
    database_uuid: String,
    default_remote: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let place = context.place(args.database.as_deref())?;
    // A wrong URL is told before anything is made.
    let remote = context.named_remote(None)?;
    let replica = Replica::init(&place.database)?;
    if let Some(remote) = &remote {
        replica.set_default_remote(remote.url())?;
    }
    let initialised = Initialised {
        database: place.database.display().to_string(),
        database_uuid: replica.database_uuid()?,
        default_remote: replica.default_remote()?,
    };
    Ok(Answer::summary(&initialised, words(&initialised)))
}

fn words(done: &Initialised) -> String {
    let mut out = format!("{} is a replica: {}\n", text::plain(&done.database), text::plain(&done.database_uuid));
    if let Some(remote) = &done.default_remote {
        out += &format!("It syncs with {}\n", text::plain(remote));
    }
    out + &format!("To capture what is written to its tables: zvon --db {} track --all\n", text::shell(&done.database))
}
