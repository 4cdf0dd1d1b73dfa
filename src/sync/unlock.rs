//! Whether a remote is encrypted, and its keys opened: before anything of it is merged, and before anything goes there.
//! What it may be is decided by what this replica remembers and what lies there; the two must agree.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::plan::KEPT_BACK;
use super::{IDENTITY_LIMIT, Session};
use crate::blocking::blocking;
use crate::changelog::{
    ask_for_refused, is_encrypted, known_identities, list_remotes, pins, remember_pins, set_encrypted,
};
use crate::db::immediate;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ChangeId, Clock};
use crate::remote::{DAMAGED, Fetched, Listing, Remote};
use crate::seal::{BadKeys, Keyring, MAX_KEY_FILE_BYTES, Opening, Pin, Secret};
use crate::wire::{BadFile, ObjectName, RemoteIdentity};

/// The most key files that are looked at; each change of the keys makes one.
const MAX_KEY_FILES: usize = 10_000;

/// The most identities of a remote: two first pushers at once make two.
const MAX_IDENTITIES: usize = 1_000;

/// So many objects of a kind are looked at where nothing says whether a remote is encrypted: not one alone, as it may be damaged.
const SAMPLES: usize = 2;

/// What a replica remembers of a remote's encryption.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered {
    encrypted: Option<bool>,
    pins: Vec<Pin>,
    identities: Vec<ChangeId>,
}

impl Remembered {
    /// Whether the remote is known to be encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted == Some(true)
    }

    /// Whether the remote was to be an encrypted one, and nothing of it has been seen yet.
    fn is_expected(&self) -> bool {
        self.is_encrypted() && self.pins.is_empty() && self.identities.is_empty()
    }

    /// Whether it was seen what the remote is.
    fn is_met(&self) -> bool {
        self.encrypted.is_some() && !self.is_expected()
    }
}

/// What lies on a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Signs {
    /// Something says that the remote is encrypted.
    encrypted: bool,
    /// Something says that it is not.
    plain: bool,
}

/// What a remote is to be treated as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Plain,
    Encrypted,
}

/// Opens the keys of an encrypted remote and records what is new of them. A plain remote stays as it is.
pub(super) async fn unlock(session: &Session, remote: &Remote, no: i64, listing: &Listing) -> Result<Remote> {
    let remembered = remember(session, no).await?;
    let unlocked = open(remote, &remembered, listing).await?;
    if let Some(keyring) = unlocked.keyring() {
        record(session, no, keyring).await?;
    }
    Ok(unlocked)
}

/// The same, without recording anything.
pub(super) async fn look(session: &Session, remote: &Remote, listing: &Listing) -> Result<Remote> {
    let url = remote.url().to_owned();
    let row = session.run(move |conn| Ok(list_remotes(conn)?.into_iter().find(|row| row.url == url))).await?;
    let remembered = match row {
        Some(row) => remember(session, row.no).await?,
        None => Remembered::default(),
    };
    open(remote, &remembered, listing).await
}

/// What is known of a remote's encryption here.
pub(super) async fn remember(session: &Session, no: i64) -> Result<Remembered> {
    let read = move |conn: &mut rusqlite::Connection| {
        let (encrypted, pins) = (is_encrypted(conn, no)?, pins(conn, no)?);
        Ok(Remembered { encrypted, pins, identities: known_identities(conn, Some(no))? })
    };
    session.run(read).await
}

/// Records the keys of an encrypted remote: their fingerprints, and the key files, locked as they are.
pub(super) async fn record(session: &Session, no: i64, keyring: &Keyring) -> Result<()> {
    let pins = keyring.pins();
    session
        .run(move |conn| {
            let tx = immediate(conn)?;
            set_encrypted(&tx, no, true)?;
            if remember_pins(&tx, no, &pins)? {
                // What came before its key did opens now.
                ask_for_refused(&tx, no)?;
            }
            Ok(tx.commit()?)
        })
        .await
}

/// Opens the keys of an encrypted remote, or finds that it is not encrypted; refuses what does not fit together.
pub(super) async fn open(remote: &Remote, remembered: &Remembered, listing: &Listing) -> Result<Remote> {
    let signs = signs(remote, remembered, listing).await?;
    let refuse =
        |why: &str| Error::new(ErrorKind::Key, format!("{}: {why}; nothing was merged or pushed", remote.url()));
    match judge(remembered.encrypted, signs, remote.secret().is_some()) {
        Ok(Nature::Plain) => Ok(remote.clone()),
        Ok(Nature::Encrypted) if remembered.is_expected() && !signs.encrypted => {
            let why = "the remote was to be an encrypted one, and is none yet; run `zvon init DB --remote URL --encrypt` again";
            Err(refuse(why))
        }
        Ok(Nature::Encrypted) => {
            let keyring = open_keys(remote, &remembered.pins, listing).await?;
            let mut identities = listed_identities(listing);
            match identities.find(|id| *id != keyring.identity()) {
                Some(id) => Err(BadKeys::OtherIdentity(id).into_error(remote.url())),
                None => Ok(remote.unlocked(keyring)),
            }
        }
        Err(why) => Err(refuse(why)),
    }
}

/// How a remote stands before it is made an encrypted one.
pub(super) enum Stands {
    Empty,
    Plain,
    Encrypted,
}

/// How a remote stands, whatever the caller would like it to be.
pub(super) async fn stands(remote: &Remote, remembered: &Remembered, listing: &Listing) -> Result<Stands> {
    let signs = signs(remote, remembered, listing).await?;
    let is_empty = listing.changes.is_empty() && listing.packs.is_empty() && listing.others.is_empty();
    Ok(match signs {
        Signs { encrypted: true, .. } => Stands::Encrypted,
        _ if remembered.is_encrypted() && !remembered.is_expected() => Stands::Encrypted,
        _ if is_empty => Stands::Empty,
        _ => Stands::Plain,
    })
}

/// Whether a remote and what is known of it fit together, or why they do not, and the way out.
fn judge(remembered: Option<bool>, signs: Signs, has_secret: bool) -> Result<Nature, &'static str> {
    match (remembered, signs) {
        (_, Signs { encrypted: true, plain: true }) => Err(
            "one part of it says that it is encrypted, another that it is not: somebody wrote there without the key; \
             remove what does not belong there, or choose another remote",
        ),
        (Some(true), Signs { plain: true, .. }) => Err(
            "the remote is known as an encrypted one, and what lies there now is not encrypted; check the URL, and who \
             else writes there",
        ),
        (Some(false), Signs { encrypted: true, .. }) => Err(
            "the remote is known as one that is not encrypted, and now it is; check the URL; to use it, clone it into a new \
             replica",
        ),
        (Some(true), _) | (None, Signs { encrypted: true, .. }) => Ok(Nature::Encrypted),
        (Some(false), _) | (None, Signs { plain: true, .. }) if has_secret => Err(
            "a key was given, and the remote is not encrypted: everything in it can be read; sync without the key, or encrypt \
             a new, empty remote with `zvon init DB --remote URL --encrypt`",
        ),
        (None, _) if has_secret => Err(
            "a key was given, and the remote is empty: make it an encrypted one first, with `zvon init DB --remote URL \
             --encrypt`",
        ),
        _ => Ok(Nature::Plain),
    }
}

/// What the objects of a remote say of its encryption. Refuses a remote that asks for more than this program knows.
async fn signs(remote: &Remote, remembered: &Remembered, listing: &Listing) -> Result<Signs> {
    let mut signs = Signs { encrypted: !listed_keys(listing).is_empty(), plain: false };
    let identities: Vec<ChangeId> = listed_identities(listing).take(MAX_IDENTITIES + 1).collect();
    if identities.len() > MAX_IDENTITIES {
        let message = "it has more than 1,000 identities, and replicas make one: somebody fills it; remove from its folder `identity` \
                       what does not belong there, or choose another remote";
        return Err(Error::new(ErrorKind::Remote, format!("{}: {message}", remote.url())));
    }
    if identities.is_empty() && !signs.encrypted {
        // A folder may be carried piece by piece, and what says that it is encrypted come last.
        signs.encrypted = !remembered.is_met() && any_sealed(remote, listing).await?;
        // Else only plain writers leave changes and no identity; a remote that is known to be encrypted may have lost it.
        signs.plain = !listing.is_without_changes() && !signs.encrypted && !remembered.is_encrypted();
    }
    for id in identities {
        // One that was read is not read again, though the sync that read it may have been cut off: what it said of encryption was
        // recorded with it, or it said nothing.
        let is_encrypted = match remembered.identities.contains(&id) {
            true => remembered.is_encrypted(),
            false => match read_identity(remote, id).await? {
                Some(identity) => identity.is_encrypted(),
                None => continue,
            },
        };
        signs.encrypted |= is_encrypted;
        signs.plain |= !is_encrypted;
    }
    Ok(signs)
}

/// Whether one of a few objects is sealed. One that is gone again, or that nobody may read, says nothing; of one that is empty no store
/// gives the first bytes.
async fn any_sealed(remote: &Remote, listing: &Listing) -> Result<bool> {
    let packs = listing.packs.iter().filter(|listed| listed.size > 0);
    let packs = packs.map(|listed| ObjectName::Pack(listed.id)).take(SAMPLES);
    let changes = listing.changes.iter().filter(|listed| listed.size > 0);
    let changes = changes.map(|listed| ObjectName::Change(listed.id)).take(SAMPLES);
    let others = listing.others.iter().filter(|listed| listed.size > 0).map(|listed| listed.name).take(SAMPLES);
    for name in packs.chain(changes).chain(others) {
        match remote.looks_sealed(&name).await {
            Ok(Some(true)) => return Ok(true),
            Err(error) if !remote.keeps_back(&error) && !remote.is_damaged(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// What is to be done about an identity or a key file that is none.
const IS_NONE: &str = "sync again if it may still be on its way, else remove it";

async fn read_identity(remote: &Remote, id: ChangeId) -> Result<Option<RemoteIdentity>> {
    let name = ObjectName::Identity(id);
    let refuse = |why: &dyn std::fmt::Display| unreadable(remote, &name, why);
    match get_needed(remote, &name, IDENTITY_LIMIT).await? {
        Fetched::Gone => Ok(None),
        Fetched::Bytes(bytes) => match RemoteIdentity::decode(&bytes) {
            Ok(identity) if identity.identity == id.to_string() => Ok(Some(identity)),
            Ok(_) => Err(refuse(&format!("it holds the identity of another remote; {IS_NONE}"))),
            Err(bad @ (BadFile::NewerFormat | BadFile::UnknownRequirement)) => Err(refuse(&bad).caused_by(bad)),
            Err(bad) => Err(refuse(&format!("{bad}; {IS_NONE}")).caused_by(bad)),
        },
        Fetched::TooLarge | Fetched::Unopened(_) => Err(refuse(&format!("it is larger than any identity; {IS_NONE}"))),
    }
}

/// An identity or a key file, without which nobody knows what the remote is, or who is to read what is written there: where it cannot
/// be read, nothing may go on.
async fn get_needed(remote: &Remote, name: &ObjectName, limit: u64) -> Result<Fetched> {
    let refuse = |why: &str, error| Err(unreadable(remote, name, &why).caused_by(error));
    match remote.get(name, limit).await {
        Err(error) if remote.keeps_back(&error) => refuse(KEPT_BACK, error),
        Err(error) if remote.is_damaged(&error) => {
            let why = format!(
                "{DAMAGED}; remove it if that stays so: a replica that has seen it puts it back where it is needed"
            );
            refuse(&why, error)
        }
        fetched => fetched,
    }
}

fn unreadable(remote: &Remote, name: &ObjectName, why: &dyn std::fmt::Display) -> Error {
    let message = format!("{}: {name} cannot be read, and nothing was merged or pushed: {why}", remote.url());
    Error::new(ErrorKind::Remote, message)
}

fn listed_identities(listing: &Listing) -> impl Iterator<Item = ChangeId> {
    listing.others.iter().filter_map(|listed| match listed.name {
        ObjectName::Identity(id) => Some(id),
        _ => None,
    })
}

fn listed_keys(listing: &Listing) -> BTreeSet<ChangeId> {
    let keys = listing.others.iter().filter_map(|listed| match listed.name {
        ObjectName::Keys(epoch) => Some(epoch),
        _ => None,
    });
    keys.take(MAX_KEY_FILES).collect()
}

/// Opens the newest key file, and what it does not cover: those on the remote, and those that are remembered.
async fn open_keys(remote: &Remote, pins: &[Pin], listing: &Listing) -> Result<Arc<Keyring>> {
    let refuse = |bad: BadKeys| bad.into_error(remote.url());
    let listed = listed_keys(listing);
    let kept = pins.iter().filter(|pin| pin.file.is_some()).map(|pin| pin.epoch);
    let mut candidates: BTreeSet<ChangeId> = listed.into_iter().chain(kept).collect();
    if let Some(before) = remote.opened_before().filter(|before| before.knows(&candidates)) {
        before.check(before.newest().unwrap_or(before.identity()), pins).map_err(refuse)?;
        return Ok(before);
    }
    let Some(secret) = remote.secret() else {
        return Err(refuse(missing_secret(remote, pins, &candidates).await?));
    };
    let mut opening = Opening::default();
    while let Some(epoch) = opening.next(&candidates) {
        let Some(file) = key_file(remote, pins, epoch).await? else {
            candidates.remove(&epoch);
            continue;
        };
        let (opened, bad) = try_open(opening, epoch, file, &secret).await?;
        opening = opened;
        if let Some(bad) = bad {
            return Err(refuse(explain(remote, pins, &candidates, &secret, epoch, bad).await?));
        }
    }
    Ok(Arc::new(opening.finish(pins).map_err(refuse)?))
}

/// Opens one file on a thread that may be busy for a second.
async fn try_open(
    mut opening: Opening,
    epoch: ChangeId,
    file: Bytes,
    secret: &Secret,
) -> Result<(Opening, Option<BadKeys>)> {
    let secret = secret.clone();
    let work = move || {
        let bad = opening.open(epoch, file, &secret).err();
        Ok((opening, bad))
    };
    blocking(work).await
}

/// A key file's bytes; none if it is gone.
async fn key_file(remote: &Remote, pins: &[Pin], epoch: ChangeId) -> Result<Option<Bytes>> {
    if let Some(file) = pins.iter().find(|pin| pin.epoch == epoch).and_then(|pin| pin.file.clone()) {
        return Ok(Some(file));
    }
    match get_needed(remote, &ObjectName::Keys(epoch), MAX_KEY_FILE_BYTES).await? {
        Fetched::Bytes(bytes) => Ok(Some(bytes)),
        Fetched::Gone => Ok(None),
        Fetched::TooLarge | Fetched::Unopened(_) => Err(BadKeys::Damaged(epoch).into_error(remote.url())),
    }
}

/// What is asked for where nothing was given.
async fn missing_secret(remote: &Remote, pins: &[Pin], candidates: &BTreeSet<ChangeId>) -> Result<BadKeys> {
    let Some(newest) = candidates.last() else { return Ok(BadKeys::Missing) };
    let Some(file) = key_file(remote, pins, *newest).await? else { return Ok(BadKeys::Missing) };
    let (_, bad) = try_open(Opening::default(), *newest, file, &Secret::default()).await?;
    Ok(bad.unwrap_or(BadKeys::NoKey))
}

/// Whether a secret that does not open the newest keys is wrong, or was good once: then it opens older ones.
async fn explain(
    remote: &Remote,
    pins: &[Pin],
    candidates: &BTreeSet<ChangeId>,
    secret: &Secret,
    epoch: ChangeId,
    bad: BadKeys,
) -> Result<BadKeys> {
    let (was_good, enough) = match bad {
        // A passphrase takes its time: it is tried on the first keys alone.
        BadKeys::WrongPassphrase => (BadKeys::OldPassphrase(epoch), 1),
        BadKeys::WrongKey => (BadKeys::Removed(epoch), MAX_KEY_FILES),
        other => return Ok(other),
    };
    for older in candidates.range(..epoch).take(enough) {
        if let Some(file) = key_file(remote, pins, *older).await? {
            let (_, refused) = try_open(Opening::default(), *older, file, secret).await?;
            if refused.is_none() {
                return Ok(was_good);
            }
        }
    }
    Ok(bad)
}

/// Puts back key files that the remote lost, and brings together what was done to the keys at once, before anything is written
/// under them. Returns the remote as it can be written to.
pub(super) async fn settle(session: &Session, remote: Remote, no: i64, listing: &Listing) -> Result<Remote> {
    let Some(keyring) = remote.keyring().cloned() else { return Ok(remote) };
    let listed = listed_keys(listing);
    for (epoch, file) in keyring.needed_files() {
        if !listed.contains(&epoch) {
            remote.put(&ObjectName::Keys(epoch), file).await?;
        }
    }
    let id = next_epoch(session, &keyring, listing);
    let settled = blocking(move || keyring.settled(id)).await?;
    match settled {
        Some(keyring) => publish(session, &remote, no, keyring).await,
        None => Ok(remote),
    }
}

/// An id for a new epoch: after every one that is known or listed.
pub(super) fn next_epoch(session: &Session, keyring: &Keyring, listing: &Listing) -> ChangeId {
    let last = keyring.newest().max(listed_keys(listing).last().copied());
    Clock::new(last).next(session.world.now_ms(), session.world.random())
}

/// Writes the newest epoch of a keyring to the remote and remembers it.
pub(super) async fn publish(session: &Session, remote: &Remote, no: i64, keyring: Keyring) -> Result<Remote> {
    for (epoch, file) in keyring.needed_files() {
        if Some(epoch) == keyring.newest() {
            remote.put(&ObjectName::Keys(epoch), file).await?;
        }
    }
    record(session, no, &keyring).await?;
    Ok(remote.unlocked(Arc::new(keyring)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(remembered: Option<bool>, encrypted: bool, plain: bool, secret: bool) -> Result<Nature, &'static str> {
        judge(remembered, Signs { encrypted, plain }, secret)
    }

    #[test]
    fn a_remote_is_what_it_was_and_what_it_says() {
        for secret in [false, true] {
            assert_eq!(verdict(None, true, false, secret), Ok(Nature::Encrypted));
            assert_eq!(verdict(Some(true), true, false, secret), Ok(Nature::Encrypted));
            // Emptied: it is what it was, and is put back so.
            assert_eq!(verdict(Some(true), false, false, secret), Ok(Nature::Encrypted));
            assert!(verdict(Some(true), false, true, secret).is_err());
            assert!(verdict(Some(false), true, false, secret).is_err());
            for remembered in [None, Some(false), Some(true)] {
                assert!(verdict(remembered, true, true, secret).is_err());
            }
        }
    }

    #[test]
    fn a_key_is_never_given_to_a_remote_that_needs_none() {
        for remembered in [None, Some(false)] {
            for plain in [false, true] {
                assert_eq!(verdict(remembered, false, plain, false), Ok(Nature::Plain));
                assert!(verdict(remembered, false, plain, true).is_err());
            }
        }
    }
}
