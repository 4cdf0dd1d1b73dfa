//! What a listing found, sorted by name: this program's objects, refused files, and how many strangers there were.

use sha2::{Digest, Sha256};

use crate::model::ChangeId;
use crate::wire::{ObjectName, ParsedName};

/// So many names that no change can have are kept; of more, how many there are.
pub(crate) const MAX_REFUSED_NAMES: usize = 1_000;

/// Everything below a remote's base path at about one time. A million changes take 32 MB, so each is kept small.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Listing {
    /// The loose files, sorted by id.
    pub(crate) changes: Vec<ListedChange>,
    /// The packs, sorted by name.
    pub(crate) packs: Vec<ListedPack>,
    /// This program's other objects, sorted by name.
    pub(crate) others: Vec<Listed>,
    /// Files that were meant to be changes and cannot be by their name, sorted by name: the first of them.
    pub(crate) refused: Vec<RefusedName>,
    /// How many more of these there are.
    pub(crate) refused_more: u64,
    /// How many other things were met; no listing is complete in them.
    pub(crate) strangers: usize,
    /// When the newest of our objects was written, by the store's clock, in milliseconds since the Unix epoch.
    pub(crate) newest_modified_ms: u64,
}

/// A loose file as a listing shows it. Size and stamp are the store's word, and no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedChange {
    pub(crate) id: ChangeId,
    pub(crate) size: u64,
    /// A digest of the etag: differs when the bytes do, as far as the store can tell.
    pub(crate) stamp: u64,
}

/// A pack as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedPack {
    pub(crate) id: ChangeId,
    pub(crate) size: u64,
    /// A digest of the etag.
    pub(crate) stamp: u64,
}

/// Another object of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: ObjectName,
    pub(crate) size: u64,
    /// A digest of the etag.
    pub(crate) stamp: u64,
}

/// A file that was meant to be a change under a name that no change can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedName {
    /// Relative to the base path: `changes/….msgpack`.
    pub(crate) name: String,
    pub(crate) size: u64,
    /// A digest of the etag.
    pub(crate) stamp: u64,
}

/// The properties of one entry.
pub(super) struct Properties {
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    pub(super) modified_ms: u64,
}

impl Listing {
    /// Every object, in the order of the names.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<ObjectName> {
        let changes = self.changes.iter().map(|listed| ObjectName::Change(listed.id));
        let packs = self.packs.iter().map(|listed| ObjectName::Pack(listed.id));
        let mut names: Vec<ObjectName> = changes.chain(packs).chain(self.others.iter().map(|l| l.name)).collect();
        names.sort_unstable();
        names
    }

    /// Takes note of an entry by its parsed name; the properties are asked for only where they matter.
    pub(super) fn add(&mut self, name: ParsedName, properties: impl FnOnce() -> Properties) {
        // A store may claim any size; one that SQLite cannot count is as good as the largest that it can.
        let properties = || {
            let found = properties();
            Properties { size: found.size.min(i64::MAX as u64), ..found }
        };
        match name {
            ParsedName::Known(name) => {
                let Properties { size, etag, modified_ms } = properties();
                self.newest_modified_ms = self.newest_modified_ms.max(modified_ms);
                match name {
                    ObjectName::Change(id) => self.changes.push(ListedChange { id, size, stamp: digest(etag) }),
                    ObjectName::Pack(id) => self.packs.push(ListedPack { id, size, stamp: digest(etag) }),
                    name => self.others.push(Listed { name, size, stamp: digest(etag) }),
                }
            }
            ParsedName::Refused(name) => {
                let Properties { size, etag, .. } = properties();
                self.refused.push(RefusedName { name, size, stamp: digest(etag) });
                if self.refused.len() >= 2 * MAX_REFUSED_NAMES {
                    self.keep_first_refused();
                }
            }
            ParsedName::Stranger => self.strangers += 1,
        }
    }

    /// Whether no change lies there, loose or packed.
    pub(crate) fn is_without_changes(&self) -> bool {
        self.changes.is_empty() && self.packs.is_empty()
    }

    /// How many of this program's objects there are.
    pub(super) fn known(&self) -> usize {
        self.changes.len() + self.packs.len() + self.others.len()
    }

    /// No store promises an order, and folders have none.
    pub(super) fn sorted(mut self) -> Self {
        self.changes.sort_unstable_by_key(|listed| listed.id);
        self.packs.sort_unstable_by_key(|listed| listed.id);
        self.others.sort_unstable_by_key(|listed| listed.name);
        self.keep_first_refused();
        self
    }

    /// The first by name, so that the same ones are kept whatever order they come in.
    fn keep_first_refused(&mut self) {
        self.refused.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.refused_more += self.refused.len().saturating_sub(MAX_REFUSED_NAMES) as u64;
        self.refused.truncate(MAX_REFUSED_NAMES);
    }
}

/// The first eight bytes of the etag's SHA-256; 0 where the store has none.
fn digest(etag: Option<String>) -> u64 {
    etag.map_or(0, |etag| {
        let hash = Sha256::digest(etag.as_bytes());
        let (first, _) = hash.as_slice().split_first_chunk::<8>().expect("SHA-256 has 32 bytes");
        u64::from_be_bytes(*first)
    })
}
