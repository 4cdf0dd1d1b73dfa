//! What must hold of sealed objects and key files, whatever the bytes are. For the fuzz targets and their tests alone.

use std::sync::LazyLock;

use super::cipher::{self, Bound};
use super::epoch::EpochKey;
use super::key_file::KeyFile;
use super::{Secret, lock, plain_len, sealed_len};
use crate::model::ChangeId;
use crate::wire::ObjectName;

const ID: &str = "019b76da-a802-7000-8000-0123456789ab";

/// The plaintext of a key file, the age file around one, or what is sealed and then spoilt.
pub fn sealed(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 3 {
        0 => key_file(data),
        1 => age_file(data),
        _ => object(data),
    }
}

fn id() -> ChangeId {
    ID.parse().expect("the id is a UUIDv7")
}

/// What is read is written so that it reads alike, and has an answer to each question.
fn key_file(data: &[u8]) {
    let Some(file) = KeyFile::decode(id(), data) else { return };
    assert_eq!(KeyFile::decode(id(), &file.encode()).as_ref(), Some(&file));
    let epochs = &file.epochs;
    assert_eq!(epochs.heads(), [id()]);
    assert!(epochs.members().is_sorted());
    assert!(!epochs.locks_differ());
    assert!(epochs.current().is_none_or(|current| current == id()));
}

/// No bytes open that were not locked for the key.
fn age_file(data: &[u8]) {
    static SECRET: LazyLock<Secret> = LazyLock::new(Secret::generate);
    assert!(lock::open(data, &SECRET).is_err());
}

/// What is sealed opens, and does not once a byte of it is another, whatever is left of it.
fn object(data: &[u8]) {
    let (place, plain) = data.split_at(data.len().min(5));
    let name = ObjectName::Change(id());
    let (key, bound) = (EpochKey::new([7; 32]), Bound { identity: id(), epoch: id(), name: &name });
    assert!(cipher::open(&key, bound, plain).is_err());
    let mut sealed = cipher::seal(&key, bound, [9; 16], plain);
    assert_eq!(sealed.len() as u64, sealed_len(plain.len() as u64));
    assert_eq!(plain.len() as u64, plain_len(sealed.len() as u64));
    assert_eq!(cipher::open(&key, bound, &sealed).as_deref(), Ok(plain));
    let [at_high, at_low, flip, cut_high, cut_low] = place else { return };
    let at = usize::from(u16::from_be_bytes([*at_high, *at_low])) % sealed.len();
    // The magic and the epoch say which key it takes; whoever opens it has looked at them before.
    if at >= 20 && *flip != 0 {
        sealed[at] ^= flip;
        assert!(cipher::open(&key, bound, &sealed).is_err(), "{at}");
        sealed[at] ^= flip;
    }
    let cut = usize::from(u16::from_be_bytes([*cut_high, *cut_low])) % sealed.len();
    sealed.truncate(cut);
    assert!(cipher::open(&key, bound, &sealed).is_err(), "{cut}");
}
