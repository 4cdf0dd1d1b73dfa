//! `zvon init`: makes a replica of a database, and an encrypted remote where that is asked for.

use std::path::PathBuf;

use serde::Serialize;
use zvon::{KeysReport, Lock, Remote, Replica};

use super::key::recipients;
use crate::context::{Context, Place};
use crate::failure::Failure;
use crate::output::Answer;
use crate::{secrets, text};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database; a file that is not there is made.
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,

    /// Make the remote, which must be empty, an encrypted one: for the passphrase or the key that is given.
    #[arg(long)]
    encrypt: bool,

    /// Encrypt for this age recipient (age1…); once for each.
    #[arg(long = "recipient", value_name = "RECIPIENT", requires = "encrypt")]
    recipients: Vec<String>,
}

#[derive(Serialize)]
struct Initialised {
    database: String,
    database_uuid: String,
    default_remote: Option<String>,
    encrypted: bool,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let place = context.place(args.database.as_deref())?;
    // A wrong URL is told before anything is made.
    let remote = context.named_remote(&place, None)?;
    recipients(&args.recipients)?;
    // A passphrase that is not there or was mistyped, too.
    let lock = match args.encrypt {
        true => Some(lock(args, context).await?),
        false => None,
    };
    let replica = match context.database_key()? {
        Some(key) => Replica::init_encrypted(&place.database, &key)?,
        None => Replica::init(&place.database)?,
    };
    let named = remote.as_ref().map(|remote| remote.url().to_owned());
    let keys = match &lock {
        Some(lock) => Some(encrypt(lock, context, &place, &replica, remote).await?),
        None => None,
    };
    // A remote that was to be encrypted and is not is none to sync with.
    if let Some(url) = &named {
        replica.set_default_remote(url)?;
    }
    let initialised = Initialised {
        database: place.database.display().to_string(),
        database_uuid: replica.database_uuid()?,
        default_remote: replica.default_remote()?,
        encrypted: keys.is_some(),
    };
    Ok(Answer::summary(&initialised, words(&initialised, keys.as_ref())))
}

async fn encrypt(
    lock: &Lock,
    context: &Context,
    place: &Place,
    replica: &Replica,
    named: Option<Remote>,
) -> Result<KeysReport, Failure> {
    let remote = match named {
        Some(remote) => remote,
        None => context.remote(place, replica, None)?,
    };
    context.unlocking(remote, async |remote| replica.encrypt_remote(&remote, lock).await).await
}

/// For the recipients that are named, else for the key or the passphrase that is given, else for a passphrase that is asked for.
async fn lock(args: &Args, context: &Context) -> Result<Lock, Failure> {
    if !args.recipients.is_empty() {
        return Ok(Lock::Recipients(recipients(&args.recipients)?));
    }
    match context.secret()? {
        Some(secret) if secret.has_passphrase() => Ok(Lock::Passphrase(secret)),
        Some(secret) => Ok(Lock::Recipients(secret.recipients())),
        None => Ok(Lock::Passphrase(secrets::ask_new("The passphrase for the remote").await?)),
    }
}

fn words(done: &Initialised, keys: Option<&KeysReport>) -> String {
    let mut out = format!("{} is a replica: {}\n", text::plain(&done.database), text::plain(&done.database_uuid));
    if let Some(remote) = &done.default_remote {
        out += &format!("It syncs with {}\n", text::plain(remote));
    }
    if let Some(keys) = keys {
        let readers = match keys.recipients.is_empty() {
            true => "whoever knows the passphrase; if it is lost, so is what lies there".to_owned(),
            false => keys.recipients.join(", "),
        };
        out += &format!("{} is encrypted, for {}\n", text::plain(&keys.remote), text::plain(&readers));
    }
    out + &format!("To capture what is written to its tables: zvon --db {} track --all\n", text::shell(&done.database))
}
