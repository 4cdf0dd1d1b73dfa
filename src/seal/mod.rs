//! Encryption end to end: objects sealed and opened, and the keys for it. Bytes in, bytes out: no store, no database, no clock.
//! Nothing cryptographic is made here: age locks the keys, RustCrypto's ChaCha20-Poly1305, STREAM and HKDF do the rest.

mod cipher;
mod epoch;
mod key_file;
mod keyring;
mod lock;

#[cfg(test)]
mod tests;

pub(crate) use cipher::{
    BadSeal, HEAD_BYTES, Opener, SEALED_CHUNK_BYTES, chunk_at, chunk_start, epoch_of, plain_len, sealed_len,
};
pub(crate) use key_file::MAX_KEY_FILE_BYTES;
pub(crate) use keyring::{BadKeys, Keyring, Opening, Pin};
pub use lock::{Lock, Recipient, Secret};
