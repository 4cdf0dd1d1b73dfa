//! What `keys/{epoch}.age` holds once it is opened: every epoch that its maker knew (section 12.1 of `docs/format.md`).
//! Owns these bytes; age locks and opens them elsewhere.

use std::fmt;
use std::io::Cursor;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::epoch::{Epoch, EpochKey, Epochs};
use crate::model::ChangeId;

/// The most bytes of an object below `keys/`: some thousand epochs with some hundred recipients.
pub(crate) const MAX_KEY_FILE_BYTES: u64 = 4 << 20;
const FORMAT: u64 = 1;

/// The epochs of one remote, as one maker knew them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFile {
    /// The identity of the remote that everything sealed is bound to.
    pub(super) identity: ChangeId,
    pub(super) epochs: Epochs,
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u64,
    identity: String,
    epochs: Vec<WrittenEpoch>,
}

#[derive(Serialize, Deserialize)]
struct WrittenEpoch {
    epoch: String,
    parents: Vec<String>,
    merge: bool,
    recipients: Vec<String>,
    key: EpochKey,
}

impl KeyFile {
    /// The plaintext. Zeroed when dropped, as everything on the way to it is.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let epochs = self.epochs.0.iter().map(|(id, epoch)| WrittenEpoch {
            epoch: id.to_string(),
            parents: epoch.parents.iter().map(ToString::to_string).collect(),
            merge: epoch.merge,
            recipients: epoch.recipients.clone(),
            key: epoch.key.clone(),
        });
        let written = Written { format: FORMAT, identity: self.identity.to_string(), epochs: epochs.collect() };
        // Room enough from the start: a vector that grows leaves its old bytes behind.
        let room: usize = written.epochs.iter().map(WrittenEpoch::room).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(256 + room));
        let mut serializer = rmp_serde::Serializer::new(&mut *bytes).with_struct_map();
        written.serialize(&mut serializer).expect("these types have known lengths and memory takes any bytes");
        bytes
    }

    /// Reads the plaintext of the file of an epoch; nothing where it is not one, or of a newer format.
    pub(super) fn decode(epoch: ChangeId, bytes: &[u8]) -> Option<Self> {
        let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(bytes));
        deserializer.set_max_depth(16);
        let written = Written::deserialize(&mut deserializer).ok()?;
        let is_whole = deserializer.position() == bytes.len() as u64;
        let count = written.epochs.len();
        let epochs: Option<_> = written.epochs.into_iter().map(WrittenEpoch::read).collect();
        let file = Self { identity: written.identity.parse().ok()?, epochs: Epochs(epochs?) };
        let covers_all = file.epochs.covered([epoch]).len() == count && file.epochs.0.len() == count;
        let is_sound = file.epochs.are_sound() && file.epochs.0.contains_key(&epoch) && covers_all;
        (is_whole && written.format == FORMAT && is_sound).then_some(file)
    }
}

impl WrittenEpoch {
    fn room(&self) -> usize {
        256 + self.parents.len() * 64 + self.recipients.iter().map(|recipient| recipient.len() + 8).sum::<usize>()
    }

    fn read(self) -> Option<(ChangeId, Epoch)> {
        let parents = self.parents.iter().map(|parent| parent.parse().ok()).collect::<Option<Vec<_>>>()?;
        let is_sorted = parents.is_sorted() && self.recipients.is_sorted();
        let epoch = Epoch { parents, merge: self.merge, recipients: self.recipients, key: self.key };
        is_sorted.then_some((self.epoch.parse().ok()?, epoch))
    }
}

impl Serialize for EpochKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.expose())
    }
}

impl<'de> Deserialize<'de> for EpochKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = EpochKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("32 bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<EpochKey, E> {
                bytes.try_into().map(EpochKey::new).map_err(|_| E::custom("not 32 bytes"))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<EpochKey, E> {
                self.visit_bytes(&Zeroizing::new(bytes))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}
