//! The keys of an encrypted remote as their owners handle them: made, listed, added to, taken away, renewed.
//! Each change of them is one new key file; none is ever written over.

use std::sync::Arc;

use super::unlock::{self, next_epoch, publish};
use super::{Session, known_identities, make_place, remember_identity};
use crate::blocking::blocking;
use crate::changelog::{expect_encrypted, expect_nothing, remember_remote};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ChangeId;
use crate::remote::{Listing, Remote};
use crate::report::{EpochReport, KeysReport};
use crate::seal::{Keyring, Lock, Recipient, Secret};
use crate::wire::ObjectName;

/// Makes an empty remote an encrypted one. One that is encrypted already stays as it is, if the secret opens it.
pub(crate) async fn encrypt(session: &Session, remote: &Remote, lock: &Lock) -> Result<KeysReport> {
    let url = remote.url().to_owned();
    let work = move |conn: &mut rusqlite::Connection| {
        let row = remember_remote(conn, &url)?;
        // However this ends, from here on nobody syncs there without a key.
        let is_new = expect_encrypted(conn, row.no)?;
        Ok((row, is_new))
    };
    let (row, is_new) = session.run(work).await?;
    make_place(session, remote, &row).await?;
    let (no, listing) = (row.no, remote.list().await?);
    let remote = &match (remote.secret(), lock) {
        (None, Lock::Passphrase(secret)) => remote.clone().with_secret(secret.clone()),
        _ => remote.clone(),
    };
    let remembered = unlock::remember(session, no).await?;
    match unlock::stands(remote, &remembered, &listing).await? {
        unlock::Stands::Encrypted => {
            let unlocked = unlock::unlock(session, remote, no, &listing).await?;
            return unlocked.keyring().map(|keyring| report(&unlocked, keyring)).ok_or_else(|| not_encrypted(remote));
        }
        unlock::Stands::Plain => {
            if is_new {
                session.run(move |conn| expect_nothing(conn, no)).await?;
            }
            let why = "holds objects that are not encrypted, and a remote is encrypted from its first object on or not at all; \
                       choose an empty one, and sync there";
            return Err(Error::new(ErrorKind::Key, format!("{} {why}", remote.url())));
        }
        unlock::Stands::Empty => {}
    }
    own_key_is_among(remote, lock)?;
    let known = session.run(move |conn| known_identities(conn, Some(no))).await?;
    let identity = known.into_iter().min().unwrap_or_else(|| session.new_id());
    let (epoch, closing) = (session.new_id(), lock.clone());
    let keyring = blocking(move || Keyring::create(identity, epoch, &closing)).await?;
    // The keys come first: a remote that says it is encrypted and has no keys would be of no use to anybody.
    let unlocked = publish(session, remote, no, keyring).await?;
    unlocked.put(&ObjectName::Identity(identity), unlocked.identity_object(identity)).await?;
    session.run(move |conn| remember_identity(conn, no, identity)).await?;
    unlocked.keyring().map(|keyring| report(&unlocked, keyring)).ok_or_else(|| not_encrypted(remote))
}

/// Who can open what, and since when.
pub(crate) async fn list(session: &Session, remote: &Remote) -> Result<KeysReport> {
    let (_, unlocked) = open(session, remote, &remote.list().await?).await?;
    unlocked.keyring().map(|keyring| report(&unlocked, keyring)).ok_or_else(|| not_encrypted(remote))
}

/// Adds a new epoch under the lock that `choose` makes of the one there is.
pub(crate) async fn change(
    session: &Session,
    remote: &Remote,
    choose: impl FnOnce(&Keyring) -> Result<Lock>,
) -> Result<KeysReport> {
    let listing = remote.list().await?;
    let (no, unlocked) = open(session, remote, &listing).await?;
    let keyring = Arc::clone(unlocked.keyring().ok_or_else(|| not_encrypted(remote))?);
    let lock = choose(&keyring)?;
    own_key_is_among(remote, &lock)?;
    let epoch = next_epoch(session, &keyring, &listing);
    let next = blocking(move || keyring.with_epoch(epoch, &lock, false)).await?;
    if next.current() != Some(epoch) {
        let why = "the keys cannot be changed so: what was done to them before would still count; nothing was written";
        return Err(Error::new(ErrorKind::Key, format!("{}: {why}", remote.url())));
    }
    let unlocked = publish(session, &unlocked, no, next).await?;
    unlocked.keyring().map(|keyring| report(&unlocked, keyring)).ok_or_else(|| not_encrypted(remote))
}

/// The lock with one more recipient.
pub(crate) fn with(keyring: &Keyring, recipient: &Recipient) -> Result<Lock> {
    let mut recipients = recipients(keyring)?;
    if recipients.contains(recipient) {
        return Err(Error::usage(format!("{recipient} can open the remote already")));
    }
    recipients.push(recipient.clone());
    Ok(Lock::Recipients(recipients))
}

/// The lock with one recipient less.
pub(crate) fn without(keyring: &Keyring, recipient: &Recipient) -> Result<Lock> {
    let mut recipients = recipients(keyring)?;
    if !recipients.contains(recipient) {
        return Err(Error::usage(format!(
            "{recipient} is none of the remote's recipients; `zvon key list` shows them"
        )));
    }
    recipients.retain(|other| other != recipient);
    if recipients.is_empty() {
        return Err(Error::usage(format!(
            "{recipient} is the only one who can open the remote; add another one first"
        )));
    }
    Ok(Lock::Recipients(recipients))
}

fn recipients(keyring: &Keyring) -> Result<Vec<Recipient>> {
    match keyring.lock()? {
        Lock::Recipients(recipients) => Ok(recipients),
        Lock::Passphrase(_) => Err(Error::usage(
            "a passphrase opens this remote; `zvon key rotate --recipient age1…` locks it for age keys instead, and `zvon key \
             rotate --new-passphrase-file FILE` for another passphrase",
        )),
    }
}

/// Nobody locks himself out by mistake.
fn own_key_is_among(remote: &Remote, lock: &Lock) -> Result<()> {
    let own: Vec<Recipient> = remote.secret().as_ref().map(Secret::recipients).unwrap_or_default();
    match lock {
        Lock::Recipients(recipients) if !own.is_empty() && !recipients.iter().any(|one| own.contains(one)) => {
            let own: Vec<String> = own.iter().map(ToString::to_string).collect();
            let own = own.join(", ");
            Err(Error::usage(format!(
                "your own key ({own}) would not open the remote any more: name it too, or let another member do it"
            )))
        }
        _ => Ok(()),
    }
}

/// Opens an encrypted remote's keys and remembers it with them: of another one, which may be a mistyped URL, nothing is.
async fn open(session: &Session, remote: &Remote, listing: &Listing) -> Result<(i64, Remote)> {
    let unlocked = unlock::look(session, remote, listing).await?;
    let keyring = unlocked.keyring().ok_or_else(|| not_encrypted(remote))?;
    let url = remote.url().to_owned();
    let no = session.run(move |conn| remember_remote(conn, &url)).await?.no;
    unlock::record(session, no, keyring).await?;
    Ok((no, unlocked))
}

fn not_encrypted(remote: &Remote) -> Error {
    Error::new(ErrorKind::Key, format!("{} is not encrypted: there are no keys", remote.url()))
}

fn report(remote: &Remote, keyring: &Keyring) -> KeysReport {
    let current: Option<ChangeId> = keyring.current();
    let epochs = keyring.list().into_iter().map(|(id, recipients)| EpochReport {
        epoch: id.to_string(),
        since_ms: id.millis(),
        current: current == Some(id),
        recipients,
    });
    KeysReport { remote: remote.url().to_owned(), recipients: keyring.members(), epochs: epochs.collect() }
}
