//! One object's bytes sealed and opened, as section 12.2 of `docs/format.md` has them. Pure: the salt comes in, nothing is kept.
//!
//! ChaCha20-Poly1305 in the STREAM construction, both from RustCrypto, under a key of the object's own.

use aead_stream::{NewStream, StreamBE32, StreamPrimitive};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::Payload;
use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use super::epoch::EpochKey;
use crate::model::ChangeId;
use crate::wire::ObjectName;

/// What a sealed object begins with: `ZVS` and the version of this form.
const MAGIC: [u8; 4] = *b"ZVS\x01";
/// The magic, the epoch, the salt.
pub(crate) const HEAD_BYTES: usize = 36;
/// The plaintext of every chunk but the last.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// What the cipher adds to each chunk.
const TAG_BYTES: usize = 16;
pub(crate) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// Random bytes that make the object's key its own.
pub(super) type Salt = [u8; 16];

/// Why an object is not opened. Says what is wrong, never what is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum BadSeal {
    #[error("it is not sealed, and everything on an encrypted remote is: whoever put it there does not have the key")]
    NotSealed,
    #[error("a newer version of zvon sealed it: update this one")]
    NewerForm,
    #[error("it is sealed with the key of the epoch {0}, which is not here: sync again once keys/{0}.age has arrived")]
    UnknownEpoch(ChangeId),
    #[error("its seal is broken: it was cut, changed, renamed, or belongs to another remote")]
    Broken,
}

/// The remote and the object that a seal is bound to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) identity: ChangeId,
    pub(super) epoch: ChangeId,
    pub(super) name: &'a ObjectName,
}

impl Bound<'_> {
    fn associated_data(self) -> Vec<u8> {
        let (identity, epoch) = (self.identity.as_bytes(), self.epoch.as_bytes());
        [&identity[..], &epoch[..], self.name.to_string().as_bytes()].concat()
    }
}

/// How many bytes an object has once it is sealed.
pub(crate) fn sealed_len(plain: u64) -> u64 {
    let chunks = plain.div_ceil(CHUNK_BYTES as u64).max(1);
    plain.saturating_add(HEAD_BYTES as u64).saturating_add(chunks.saturating_mul(TAG_BYTES as u64))
}

/// How many bytes a sealed object can have inside at most.
pub(crate) fn plain_len(sealed: u64) -> u64 {
    let chunks = sealed.saturating_sub(HEAD_BYTES as u64).div_ceil(SEALED_CHUNK_BYTES as u64);
    sealed.saturating_sub(HEAD_BYTES as u64).saturating_sub(chunks * TAG_BYTES as u64)
}

/// Seals an object whole.
pub(super) fn seal(key: &EpochKey, bound: Bound<'_>, salt: Salt, plain: &[u8]) -> Vec<u8> {
    let stream = stream(key, &salt);
    let aad = bound.associated_data();
    let mut sealed = Vec::with_capacity(usize::try_from(sealed_len(plain.len() as u64)).unwrap_or(0));
    sealed.extend_from_slice(&MAGIC);
    sealed.extend_from_slice(bound.epoch.as_bytes());
    sealed.extend_from_slice(&salt);
    for (at, chunk, is_last) in chunks(plain, CHUNK_BYTES) {
        let payload = Payload { msg: chunk, aad: &aad };
        let chunk = stream.encrypt(at, is_last, payload).expect("a chunk is far below the cipher's limit");
        sealed.extend_from_slice(&chunk);
    }
    sealed
}

/// The epoch that a sealed object says it belongs to.
pub(crate) fn epoch_of(sealed: &[u8]) -> Result<ChangeId, BadSeal> {
    let Some(magic) = sealed.first_chunk::<4>() else { return Err(BadSeal::NotSealed) };
    match (magic[..3] == MAGIC[..3], magic[3] == MAGIC[3]) {
        (true, true) => {}
        (true, false) => return Err(BadSeal::NewerForm),
        _ => return Err(BadSeal::NotSealed),
    }
    let epoch = sealed.get(4..20).and_then(|bytes| bytes.try_into().ok()).ok_or(BadSeal::Broken)?;
    ChangeId::from_bytes(epoch).ok_or(BadSeal::Broken)
}

/// Opens an object whole.
pub(super) fn open(key: &EpochKey, bound: Bound<'_>, sealed: &[u8]) -> Result<Vec<u8>, BadSeal> {
    let opener = Opener::new(key, bound, sealed)?;
    let mut plain = Vec::with_capacity(sealed.len());
    for (at, chunk, is_last) in chunks(&sealed[HEAD_BYTES..], SEALED_CHUNK_BYTES) {
        plain.extend_from_slice(&opener.chunk(at, is_last, chunk)?);
    }
    Ok(plain)
}

/// The chunk in which a byte of the content lies, and where in it.
pub(crate) fn chunk_at(content: u64) -> (u64, usize) {
    let size = CHUNK_BYTES as u64;
    (content / size, usize::try_from(content % size).expect("64 KiB fit into memory"))
}

/// Where a chunk begins in the sealed object.
pub(crate) fn chunk_start(chunk: u64) -> u64 {
    (HEAD_BYTES as u64).saturating_add(chunk.saturating_mul(SEALED_CHUNK_BYTES as u64))
}

/// Opens the chunks of one object, in any order.
pub(crate) struct Opener {
    stream: StreamBE32<ChaCha20Poly1305>,
    aad: Vec<u8>,
}

impl Opener {
    /// From the object's first bytes, its head at least.
    pub(super) fn new(key: &EpochKey, bound: Bound<'_>, head: &[u8]) -> Result<Self, BadSeal> {
        let salt: &Salt = head.get(20..HEAD_BYTES).and_then(|salt| salt.try_into().ok()).ok_or(BadSeal::Broken)?;
        Ok(Self { stream: stream(key, salt), aad: bound.associated_data() })
    }

    pub(crate) fn chunk(&self, at: u32, is_last: bool, sealed: &[u8]) -> Result<Vec<u8>, BadSeal> {
        let payload = Payload { msg: sealed, aad: &self.aad };
        let plain = self.stream.decrypt(at, is_last, payload).map_err(|_| BadSeal::Broken)?;
        // No chunk after the first is empty: an object is written in one way.
        if plain.is_empty() && at > 0 { Err(BadSeal::Broken) } else { Ok(plain) }
    }
}

/// The cipher under the object's own key. Each key seals one object, so the nonces may count from zero.
fn stream(key: &EpochKey, salt: &Salt) -> StreamBE32<ChaCha20Poly1305> {
    let mut object_key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt), key.expose())
        .expand(b"zvon sealed object", &mut *object_key)
        .expect("HKDF gives up to 8160 bytes");
    StreamBE32::new((&*object_key).into(), &[0; 7].into())
}

/// The parts of some bytes, with their numbers and whether they are the last: at least one, be it empty.
fn chunks(bytes: &[u8], size: usize) -> impl Iterator<Item = (u32, &[u8], bool)> {
    let count = bytes.len().div_ceil(size).max(1);
    (0..count).map(move |at| {
        let part = &bytes[at * size..bytes.len().min((at + 1) * size)];
        let number = u32::try_from(at).expect("an object that fits in memory has fewer than 2^32 chunks of 64 KiB");
        (number, part, at + 1 == count)
    })
}
