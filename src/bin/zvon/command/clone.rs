//! `zvon clone`: a new replica from a remote alone.

use std::path::PathBuf;

use serde::Serialize;
use zvon::{Replica, SyncReport};

use super::sync;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The remote.
    #[arg(value_name = "URL")]
    url: String,

    /// The database to make.
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
}

#[derive(Serialize)]
struct Cloned<'a> {
    database: String,
    database_uuid: String,
    #[serde(flatten)]
    sync: &'a SyncReport,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let place = context.place(args.database.as_deref())?;
    let remote = context.named_remote(&place, Some(&args.url))?.expect("a remote that is named is there");
    let url = remote.url().to_owned();
    let (path, settings) = (&place.database, place.config.settings());
    let key = &context.database_key()?;
    let (replica, report) = context
        .unlocking(remote, async |remote| {
            let (progress, settings) = (Box::new(context.bars.callback()), settings.clone());
            match key {
                Some(key) => Replica::clone_encrypted_from(&remote, path, key, settings, Some(progress)).await,
                None => Replica::clone_from(&remote, path, settings, Some(progress)).await,
            }
        })
        .await?;
    replica.set_default_remote(&url)?;
    let database = place.database.display().to_string();
    let first = format!("{} is a replica now\n", text::plain(&database));
    let cloned = Cloned { database, database_uuid: replica.database_uuid()?, sync: &report };
    Ok(sync::answer(&cloned, &report, first))
}
