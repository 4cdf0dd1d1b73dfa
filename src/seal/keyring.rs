//! The keys of one remote in memory: opened from its key files, used to seal and open its objects, and added to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

use super::cipher::{self, BadSeal, Bound, Opener};
use super::epoch::{Epoch, EpochKey, Epochs};
use super::key_file::KeyFile;
use super::lock::{self, Closed, Lock, Secret};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ChangeId;
use crate::wire::ObjectName;

/// Why the keys of a remote cannot be used, and the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum BadKeys {
    #[error(
        "the remote is encrypted and a passphrase opens its keys: give it by --passphrase-file, ZVON_PASSPHRASE_FILE or \
         ZVON_PASSPHRASE"
    )]
    NoPassphrase,
    #[error("the remote is encrypted for age keys: give yours by --key-file or ZVON_KEY_FILE")]
    NoKey,
    #[error(
        "the remote is encrypted, and its key files are not there: they may be on their way, and a replica that syncs and has \
         them puts them back; nothing was merged or pushed"
    )]
    Missing,
    #[error("the passphrase does not open the remote's keys; nothing was merged or pushed: check it")]
    WrongPassphrase,
    #[error(
        "the passphrase does not open keys/{0}.age, though it opens other keys of the remote: it was changed; nothing was \
         merged or pushed: give the new one (or, where two were set at once, both to `zvon key rotate`)"
    )]
    OldPassphrase(ChangeId),
    #[error(
        "the remote is not encrypted for this key; nothing was merged or pushed: give the key file that is a member's, or \
         ask a member to run `zvon key add` with your recipient"
    )]
    WrongKey,
    #[error(
        "this key does not open keys/{0}.age, though it opens other keys of the remote: it was removed; nothing was merged or \
         pushed: ask a member to run `zvon key add` with your recipient"
    )]
    Removed(ChangeId),
    #[error(
        "keys/{0}.age is no whole key file of this remote; nothing was merged or pushed: sync again if it may still be on \
         its way, else remove it"
    )]
    Damaged(ChangeId),
    #[error("keys/{0}.age asks for more work than any key file needs; nothing was merged or pushed: remove it")]
    TooMuchWork(ChangeId),
    #[error(
        "keys/{0}.age was made without the keys that this replica knows; nothing was merged or pushed: somebody without them \
         may have put it there: remove it, or choose another remote"
    )]
    Stranger(ChangeId),
    #[error(
        "the key of the epoch {0}, which this replica knows, is gone from the remote's keys; nothing was merged or pushed"
    )]
    Lost(ChangeId),
    #[error(
        "identity/{0} is not the remote's own; nothing was merged or pushed: somebody without the keys may have put it there: \
         remove it, or choose another remote"
    )]
    OtherIdentity(ChangeId),
}

impl BadKeys {
    pub(crate) fn into_error(self, url: &str) -> Error {
        let kind = match self {
            Self::NoPassphrase => ErrorKind::Locked,
            // They may be there, and whole, the next time.
            Self::Damaged(_) | Self::Missing => ErrorKind::Remote,
            _ => ErrorKind::Key,
        };
        Error::new(kind, format!("{url}: {self}"))
    }
}

/// An epoch that a replica remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) epoch: ChangeId,
    pub(crate) fingerprint: [u8; 32],
    /// Its key file, where this replica has had it in its hands: locked, as it lies on the remote.
    pub(crate) file: Option<Bytes>,
}

/// Key files being opened, the newest first: most often it alone is needed, as it holds the older epochs' keys too.
#[derive(Default)]
pub(crate) struct Opening {
    identity: Option<ChangeId>,
    epochs: Epochs,
    files: BTreeMap<ChangeId, Bytes>,
    opened_with: Secret,
}

impl Opening {
    /// The file to open next, if any is still needed.
    pub(crate) fn next(&self, candidates: &BTreeSet<ChangeId>) -> Option<ChangeId> {
        candidates.iter().rev().find(|id| self.epochs.get(**id).is_none()).copied()
    }

    /// Opens a key file. Slow for a passphrase.
    pub(crate) fn open(&mut self, epoch: ChangeId, file: Bytes, secret: &Secret) -> std::result::Result<(), BadKeys> {
        let (plain, part) = lock::open(&file, secret).map_err(|closed| self.refusal(epoch, closed))?;
        let read = KeyFile::decode(epoch, &plain).ok_or(BadKeys::Damaged(epoch))?;
        if self.identity.is_some_and(|identity| identity != read.identity) {
            return Err(BadKeys::Stranger(epoch));
        }
        for (id, found) in read.epochs.0 {
            match self.epochs.get(id) {
                Some(known) if *known != found => return Err(BadKeys::Stranger(epoch)),
                Some(_) => {}
                None => {
                    self.epochs.0.insert(id, found);
                }
            }
        }
        if self.files.is_empty() {
            self.opened_with = part;
        }
        self.identity = Some(read.identity);
        self.files.insert(epoch, file);
        Ok(())
    }

    fn refusal(&self, epoch: ChangeId, closed: Closed) -> BadKeys {
        let opens_others = !self.files.is_empty();
        match closed {
            Closed::NoPassphrase => BadKeys::NoPassphrase,
            Closed::NoKey => BadKeys::NoKey,
            Closed::WrongPassphrase if opens_others => BadKeys::OldPassphrase(epoch),
            Closed::WrongPassphrase => BadKeys::WrongPassphrase,
            Closed::WrongKey if opens_others => BadKeys::Removed(epoch),
            Closed::WrongKey => BadKeys::WrongKey,
            Closed::TooMuchWork => BadKeys::TooMuchWork(epoch),
            Closed::Damaged => BadKeys::Damaged(epoch),
        }
    }

    /// The keyring, if what was opened is one remote's and goes on from what the replica knows of it.
    pub(crate) fn finish(self, pins: &[Pin]) -> std::result::Result<Keyring, BadKeys> {
        let newest = self.files.keys().next_back().copied();
        let (Some(identity), Some(newest)) = (self.identity, newest) else { return Err(BadKeys::Missing) };
        if !self.epochs.are_sound() {
            return Err(BadKeys::Stranger(newest));
        }
        let Self { epochs, files, opened_with, .. } = self;
        let current = epochs.current();
        let keyring = Keyring { identity, epochs, current, files, opened_with };
        keyring.check(newest, pins)?;
        Ok(keyring)
    }
}

/// The keys of one remote. Seals and opens everything that lies there but identities and key files.
#[derive(Clone)]
pub(crate) struct Keyring {
    identity: ChangeId,
    epochs: Epochs,
    /// The epoch to write under, if one can be.
    current: Option<ChangeId>,
    /// The key files that were opened or made.
    files: BTreeMap<ChangeId, Bytes>,
    opened_with: Secret,
}

impl Keyring {
    /// The first epoch of a remote. Slow for a passphrase.
    pub(crate) fn create(identity: ChangeId, epoch: ChangeId, lock: &Lock) -> Result<Self> {
        let opened_with = match lock {
            Lock::Passphrase(secret) => secret.clone(),
            Lock::Recipients(_) => Secret::default(),
        };
        let empty = Self { identity, epochs: Epochs::default(), current: None, files: BTreeMap::new(), opened_with };
        empty.with_epoch(epoch, lock, false)
    }

    /// These keys and a new epoch's. Slow for a passphrase.
    pub(crate) fn with_epoch(&self, id: ChangeId, lock: &Lock, merge: bool) -> Result<Self> {
        let mut next = self.clone();
        let mut key = [0; 32];
        random(&mut key)?;
        let epoch = Epoch { parents: self.epochs.heads(), merge, recipients: lock.listed()?, key: EpochKey::new(key) };
        next.epochs.0.insert(id, epoch);
        next.current = next.epochs.current();
        let plain = next.as_file().encode();
        next.files.insert(id, lock.close(&plain)?.into());
        if let Lock::Passphrase(secret) = lock {
            next.opened_with = secret.clone();
        }
        Ok(next)
    }

    /// These keys and an epoch that brings together what was done at once, where that is needed before anything is written.
    pub(crate) fn settled(&self, id: ChangeId) -> Result<Option<Self>> {
        if self.current.is_some() {
            return Ok(None);
        }
        if self.epochs.locks_differ() {
            let why =
                "the remote was locked with a passphrase and for age keys at once; run `zvon key rotate` to settle how";
            return Err(Error::new(ErrorKind::Key, why));
        }
        self.with_epoch(id, &self.lock()?, true).map(Some)
    }

    /// Whether these keys are those of all the epochs that a replica remembers; `newest` is what it is blamed on if not.
    pub(crate) fn check(&self, newest: ChangeId, pins: &[Pin]) -> std::result::Result<(), BadKeys> {
        for pin in pins {
            match self.epochs.get(pin.epoch) {
                Some(epoch) if epoch.key.fingerprint() == pin.fingerprint => {}
                Some(_) => return Err(BadKeys::Stranger(newest)),
                None => return Err(BadKeys::Lost(pin.epoch)),
            }
        }
        Ok(())
    }

    /// What the key file of the newest epoch holds.
    pub(super) fn as_file(&self) -> KeyFile {
        KeyFile { identity: self.identity, epochs: self.epochs.clone() }
    }

    /// The remote's identity that everything is bound to.
    pub(crate) fn identity(&self) -> ChangeId {
        self.identity
    }

    /// The recipients of what is written from now on; none if a passphrase opens it.
    pub(crate) fn members(&self) -> Vec<String> {
        self.epochs.members()
    }

    /// The lock as it stands, for the same members or the same passphrase.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let members = self.members();
        if members.is_empty() && self.epochs.are_for_keys() {
            let why = "the remote's members removed each other at once, and nobody is left; run `zvon key rotate --recipient age1…` \
                       for those who are to stay, with the keys of all who changed them in one key file";
            return Err(Error::new(ErrorKind::Key, why));
        }
        Lock::of(&members, &self.opened_with)
    }

    /// The epoch to write under, if one can be.
    pub(crate) fn current(&self) -> Option<ChangeId> {
        self.current
    }

    /// The newest epoch of all.
    pub(crate) fn newest(&self) -> Option<ChangeId> {
        self.epochs.0.keys().next_back().copied()
    }

    /// Every epoch, oldest first, with its recipients.
    pub(crate) fn list(&self) -> Vec<(ChangeId, Vec<String>)> {
        self.epochs.0.iter().map(|(id, epoch)| (*id, epoch.recipients.clone())).collect()
    }

    /// Whether all of these epochs are known.
    pub(crate) fn knows(&self, candidates: &BTreeSet<ChangeId>) -> bool {
        candidates.iter().all(|id| self.epochs.get(*id).is_some())
    }

    /// What a replica is to remember.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        let pin = |(id, epoch): (&ChangeId, &Epoch)| Pin {
            epoch: *id,
            fingerprint: epoch.key.fingerprint(),
            file: self.files.get(id).cloned(),
        };
        self.epochs.0.iter().map(pin).collect()
    }

    /// The key files that a remote must have: those that no other one covers.
    pub(crate) fn needed_files(&self) -> Vec<(ChangeId, Bytes)> {
        let heads = self.epochs.heads();
        heads.into_iter().filter_map(|id| Some((id, self.files.get(&id)?.clone()))).collect()
    }

    /// Seals an object under the current epoch.
    pub(crate) fn seal(&self, name: &ObjectName, plain: &[u8]) -> Result<Vec<u8>> {
        let (id, epoch) = self.writing()?;
        let mut salt = [0; 16];
        random(&mut salt)?;
        Ok(cipher::seal(&epoch.key, self.bound(id, name), salt, plain))
    }

    /// Opens an object.
    pub(crate) fn open(&self, name: &ObjectName, sealed: &[u8]) -> std::result::Result<Vec<u8>, BadSeal> {
        let id = cipher::epoch_of(sealed)?;
        let epoch = self.epochs.get(id).ok_or(BadSeal::UnknownEpoch(id))?;
        cipher::open(&epoch.key, self.bound(id, name), sealed)
    }

    /// Opens an object part by part, from its head on.
    pub(crate) fn opener(&self, name: &ObjectName, head: &[u8]) -> std::result::Result<Opener, BadSeal> {
        let id = cipher::epoch_of(head)?;
        let epoch = self.epochs.get(id).ok_or(BadSeal::UnknownEpoch(id))?;
        Opener::new(&epoch.key, self.bound(id, name), head)
    }

    /// The names that the table definition of a hash may have here: one for each epoch, the current one's first.
    pub(crate) fn schema_names(&self, hash: &[u8; 32]) -> Vec<[u8; 32]> {
        let current = self.current;
        let mut epochs: Vec<(&ChangeId, &Epoch)> = self.epochs.0.iter().collect();
        epochs.sort_by_key(|(id, _)| Some(**id) != current);
        epochs.into_iter().map(|(_, epoch)| epoch.key.schema_name(hash)).collect()
    }

    fn writing(&self) -> Result<(ChangeId, &Epoch)> {
        let current = self.current.and_then(|id| Some((id, self.epochs.get(id)?)));
        current.ok_or_else(|| Error::new(ErrorKind::Key, "no epoch of the remote may be written under; sync again"))
    }

    fn bound<'a>(&self, epoch: ChangeId, name: &'a ObjectName) -> Bound<'a> {
        Bound { identity: self.identity, epoch, name }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Random bytes from the system itself: keys do not come from the world that a simulation may own.
fn random(bytes: &mut [u8]) -> Result<()> {
    SysRng
        .try_fill_bytes(bytes)
        .map_err(|e| Error::new(ErrorKind::Key, "the system gives no random bytes").caused_by(e))
}
