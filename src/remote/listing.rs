//! What a listing found, sorted by name: this program's objects, refused files, and how many strangers there were.

use crate::wire::{ObjectName, ParsedName};

/// Everything below a remote's base path at about one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Listing {
    /// This program's objects, sorted by name.
    pub(crate) objects: Vec<Listed>,
    /// Files that were meant to be changes and cannot be by their name, sorted by name.
    pub(crate) refused: Vec<RefusedName>,
    /// How many other things were met; no listing is complete in them.
    pub(crate) strangers: usize,
}

/// An object as a listing shows it. The properties are the store's word, and no more than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: ObjectName,
    pub(crate) size: u64,
    /// Differs when the bytes do, as far as the store can tell.
    pub(crate) etag: Option<String>,
    /// When the object was last written, by the store's clock, in milliseconds since the Unix epoch.
    pub(crate) modified_ms: u64,
}

/// A file that was meant to be a change under a name that no change can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedName {
    /// Relative to the base path: `changes/….msgpack`.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) etag: Option<String>,
}

/// The properties of one entry.
pub(super) struct Properties {
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    pub(super) modified_ms: u64,
}

impl Listing {
    /// Takes note of an entry by its parsed name; the properties are asked for only where they matter.
    pub(super) fn add(&mut self, name: ParsedName, properties: impl FnOnce() -> Properties) {
        match name {
            ParsedName::Known(name) => {
                let Properties { size, etag, modified_ms } = properties();
                self.objects.push(Listed { name, size, etag, modified_ms });
            }
            ParsedName::Refused(name) => {
                let Properties { size, etag, .. } = properties();
                self.refused.push(RefusedName { name, size, etag });
            }
            ParsedName::Stranger => self.strangers += 1,
        }
    }

    /// No store promises an order, and folders have none.
    pub(super) fn sorted(mut self) -> Self {
        self.objects.sort_unstable_by_key(|listed| listed.name);
        self.refused.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self
    }
}
