//! `zvon key`: the keys of an encrypted remote, made, shown, added to, taken away, renewed.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use zvon::{KeysReport, Lock, Recipient, Secret};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::Lean;
use crate::{secrets, text, time};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an age key in a new file, and print its recipient: what others need to let it in.
    Generate {
        /// The file to make.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show who can open the remote, and its epochs.
    List,
    /// Let somebody open the remote, with all that lies there.
    Add {
        /// The public half of the key, age1….
        #[arg(value_name = "RECIPIENT")]
        recipient: String,
    },
    /// Keep somebody from reading what is written from now on.
    Remove {
        /// The public half of the key, age1….
        #[arg(value_name = "RECIPIENT")]
        recipient: String,
    },
    /// Write with a new data key from now on; with another lock, if one is named.
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
struct Rotate {
    /// Lock the keys for these age recipients, and for nobody else; once for each.
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    recipients: Vec<String>,

    /// Lock the keys with the passphrase in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "recipients")]
    new_passphrase_file: Option<PathBuf>,

    /// Lock the keys with a passphrase that is asked for.
    #[arg(long, conflicts_with_all = ["recipients", "new_passphrase_file"])]
    new_passphrase: bool,
}

/// Recipients on the command line. Not clap's to parse: it would repeat a secret key that was given by mistake.
pub fn recipients(texts: &[String]) -> Result<Vec<Recipient>, Failure> {
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    if let Action::Generate { file } = &args.action {
        return generate(file);
    }
    let named = match &args.action {
        Action::Add { recipient } | Action::Remove { recipient } => Some(recipient.parse::<Recipient>()?),
        _ => None,
    };
    let (place, replica) = context.open().await?;
    let mut remote = context.remote(&place, &replica, None)?;
    let lock = match &args.action {
        Action::Rotate(rotate) => lock(rotate).await?,
        _ => None,
    };
    if let Some(Lock::Passphrase(new)) = &lock {
        // Where two people set a passphrase at once, the keys need both.
        remote = context.with_more(remote, new)?;
    }
    let (lock, replica, named) = (&lock, &replica, &named);
    let report = context
        .unlocking(remote, async |remote| match (&args.action, named) {
            (Action::Add { .. }, Some(recipient)) => replica.add_recipient(&remote, recipient).await,
            (Action::Remove { .. }, Some(recipient)) => replica.remove_recipient(&remote, recipient).await,
            (Action::Rotate(_), _) => replica.rotate_keys(&remote, lock.as_ref()).await,
            _ => replica.keys(&remote).await,
        })
        .await?;
    Ok(match &args.action {
        Action::List => Answer::new(&report, table(&report)),
        _ => Answer::summary(&report, words(&report)),
    })
}

fn generate(file: &std::path::Path) -> Result<Answer, Failure> {
    let secret = Secret::generate();
    let recipient = secret.recipients().first().map(ToString::to_string).unwrap_or_default();
    secrets::write_key_file(file, &secret.to_key_file())?;
    let shown = file.display().to_string();
    let data = json!({ "file": shown, "recipient": recipient });
    let words =
        format!("{recipient}\nThe secret key is in {}: keep it, and keep it to yourself\n", text::plain(&shown));
    Ok(Answer::new(&data, words))
}

async fn lock(args: &Rotate) -> Result<Option<Lock>, Failure> {
    if !args.recipients.is_empty() {
        return Ok(Some(Lock::Recipients(recipients(&args.recipients)?)));
    }
    let passphrase = match &args.new_passphrase_file {
        Some(file) => secrets::passphrase_in(file)?,
        None if args.new_passphrase => secrets::ask_new("The new passphrase").await?,
        None => return Ok(None),
    };
    Ok(Some(Lock::Passphrase(passphrase)))
}

/// What a change of the keys came to.
fn words(report: &KeysReport) -> String {
    let current = report.epochs.iter().find(|epoch| epoch.current);
    let epoch = current.map_or_else(String::new, |epoch| format!(" under epoch {}", epoch.epoch));
    format!(
        "What is written to {} from now on is sealed{epoch}, for {}\n",
        text::plain(&report.remote),
        readers(report)
    )
}

fn readers(report: &KeysReport) -> String {
    let is_for_keys = report.epochs.last().is_some_and(|newest| !newest.recipients.is_empty());
    match report.recipients.is_empty() {
        true if is_for_keys => "nobody, as its members removed each other at once".to_owned(),
        true => "whoever knows the passphrase".to_owned(),
        false => report.recipients.join(", "),
    }
}

fn table(report: &KeysReport) -> String {
    let mut lines = vec![["EPOCH", "SINCE", "", "OPENED BY"].map(str::to_owned).to_vec()];
    lines.extend(report.epochs.iter().map(|epoch| {
        let readers = match epoch.recipients.is_empty() {
            true => "a passphrase".to_owned(),
            false => epoch.recipients.join(", "),
        };
        let current = if epoch.current { "current" } else { "" };
        vec![epoch.epoch.clone(), time::utc(epoch.since_ms), current.to_owned(), text::plain(&readers)]
    }));
    let table = text::columns(0, &[Lean::Left, Lean::Left, Lean::Left, Lean::Left], &lines);
    format!("{} is encrypted, for {}\n{table}", text::plain(&report.remote), text::plain(&readers(report)))
}
