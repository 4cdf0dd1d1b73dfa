//! Epochs: the data keys of an encrypted remote, who could open each, and which of them is written under. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::model::ChangeId;

/// An epoch's data key. Zeroed when dropped, and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EpochKey(Zeroizing<[u8; 32]>);

impl EpochKey {
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// What tells two keys apart without telling anything of them: a replica's database may hold it.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.derive(None, b"zvon epoch fingerprint")
    }

    /// The name under which the table definition of a hash lies: nobody without the key can check a guess against it.
    pub(super) fn schema_name(&self, hash: &[u8; 32]) -> [u8; 32] {
        self.derive(Some(hash), b"zvon schema name")
    }

    fn derive(&self, salt: Option<&[u8]>, info: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        Hkdf::<Sha256>::new(salt, self.expose()).expand(info, &mut out).expect("HKDF gives up to 8160 bytes");
        out
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochKey")
    }
}

/// One epoch: its key, and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// The newest epochs that its maker knew: none for a remote's first one.
    pub(super) parents: Vec<ChangeId>,
    /// Made by a sync to bring together epochs made at the same time, not by a person.
    pub(super) merge: bool,
    /// The age recipients that can open it, sorted; none if a passphrase opens it.
    pub(super) recipients: Vec<String>,
    pub(super) key: EpochKey,
}

/// All epochs of a remote that are known, by id. Whatever is here has its parents here too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Epochs(pub(super) BTreeMap<ChangeId, Epoch>);

impl Epochs {
    pub(super) fn get(&self, id: ChangeId) -> Option<&Epoch> {
        self.0.get(&id)
    }

    /// Whether the epochs are one remote's: parents are there, are older, and all go back to one first epoch.
    pub(super) fn are_sound(&self) -> bool {
        let parents_are_there =
            self.0.iter().all(|(id, epoch)| epoch.parents.iter().all(|p| p < id && self.0.contains_key(p)));
        parents_are_there && self.0.values().filter(|epoch| epoch.parents.is_empty()).count() == 1
    }

    /// The epochs that no other one comes after.
    pub(super) fn heads(&self) -> Vec<ChangeId> {
        let parents: BTreeSet<&ChangeId> = self.0.values().flat_map(|epoch| &epoch.parents).collect();
        self.0.keys().filter(|id| !parents.contains(id)).copied().collect()
    }

    /// Some epochs and all that their makers knew of.
    pub(super) fn covered(&self, by: impl IntoIterator<Item = ChangeId>) -> BTreeSet<ChangeId> {
        let mut covered = BTreeSet::new();
        let mut open: Vec<ChangeId> = by.into_iter().collect();
        while let Some(id) = open.pop() {
            if covered.insert(id) {
                open.extend(self.0.get(&id).map(|epoch| epoch.parents.as_slice()).unwrap_or_default());
            }
        }
        covered
    }

    /// Who is to read what is written from now on. Removing somebody beats whatever did not know of it, so that who is out does
    /// not come back by an epoch of his own making: he has no key of the epoch that removed him, and can make none that covers it.
    pub(super) fn members(&self) -> Vec<String> {
        let heads = self.heads();
        let all: BTreeSet<&String> = heads.iter().flat_map(|head| &self.0[head].recipients).collect();
        all.into_iter().filter(|member| !self.is_out(member)).cloned().collect()
    }

    fn is_out(&self, member: &String) -> bool {
        let lists = |epoch: &Epoch| epoch.recipients.contains(member);
        let known_to_listing = self.covered(self.0.iter().filter(|(_, epoch)| lists(epoch)).map(|(id, _)| *id));
        let mut removals = self.0.iter().filter(|(_, epoch)| !lists(epoch) && self.had(epoch, member));
        removals.any(|(removal, _)| !known_to_listing.contains(removal))
    }

    fn had(&self, epoch: &Epoch, member: &String) -> bool {
        epoch.parents.iter().any(|parent| self.0[parent].recipients.contains(member))
    }

    /// Whether age keys open any of the newest epochs.
    pub(super) fn are_for_keys(&self) -> bool {
        self.heads().iter().any(|head| !self.0[head].recipients.is_empty())
    }

    /// Whether some epochs are opened by a passphrase and others by keys, among the newest.
    pub(super) fn locks_differ(&self) -> bool {
        let by_passphrase = self.heads().iter().filter(|head| self.0[head].recipients.is_empty()).count();
        by_passphrase != 0 && by_passphrase != self.heads().len()
    }

    /// The epoch to write under; none where one must be made first, as nobody has yet brought together what several people
    /// did at once. Its maker knew of every epoch that a person made, and whoever can open it is a member.
    pub(super) fn current(&self) -> Option<ChangeId> {
        let members = self.members();
        self.heads().into_iter().rev().find(|head| {
            let covered = self.covered([*head]);
            let unknown = self.0.iter().filter(|(id, _)| !covered.contains(id));
            self.0[head].recipients == members && unknown.into_iter().all(|(_, epoch)| epoch.merge)
        })
    }
}
