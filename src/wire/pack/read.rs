//! From a pack's bytes to ids and changes. Nothing of a block is used before its checksum is right.

use sha2::{Digest, Sha256};

use super::{BlockHead, ID};
use crate::model::{Change, ChangeId};
use crate::wire::{BadFile, decode_change};

/// What a block holds: for each of its ids a change, or why it is refused.
pub(crate) type Records = Vec<Result<Change, (ChangeId, BadFile)>>;

/// Reads one block: a change, or why it is refused, for each of its ids.
pub(crate) fn decode_block(head: &BlockHead, ids: &[ChangeId], bytes: &[u8]) -> Result<Records, BadFile> {
    if bytes.len() != head.stored as usize {
        return Err(BadFile::WrongLength);
    }
    if Sha256::digest(bytes).as_slice() != head.sha256 {
        return Err(BadFile::WrongChecksum { part: "block" });
    }
    let raw = decompress(bytes, head.raw as usize, "block")?;
    let mut rest = raw.as_slice();
    let mut records = Vec::with_capacity(ids.len());
    for id in ids {
        let record = take_record(&mut rest)?;
        records.push(decode_change(*id, record).map_err(|bad| (*id, bad)));
    }
    if rest.is_empty() { Ok(records) } else { Err(BadFile::TrailingBytes) }
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadFile> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(BadFile::Truncated)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (record, after) = after.split_at_checked(length).ok_or(BadFile::Truncated)?;
    *rest = after;
    Ok(record)
}

/// Reads ids as a header, and what is remembered of it, holds them.
pub(crate) fn decode_ids(bytes: &[u8], count: usize) -> Result<Vec<ChangeId>, BadFile> {
    let raw = decompress(bytes, count * ID, "list of ids")?;
    let ids: Option<Vec<ChangeId>> = raw.as_chunks::<ID>().0.iter().map(|id| ChangeId::from_bytes(*id)).collect();
    let ids = ids.ok_or(BadFile::NotAnId)?;
    if ids.is_sorted_by(|a, b| a < b) { Ok(ids) } else { Err(BadFile::UnorderedIds) }
}

/// Decompresses one frame to exactly so many bytes, which the caller has bounded.
fn decompress(bytes: &[u8], len: usize, part: &'static str) -> Result<Vec<u8>, BadFile> {
    let bad = BadFile::BadCompression { part };
    if zstd::zstd_safe::find_frame_compressed_size(bytes).map_err(|_| bad)? != bytes.len() {
        return Err(bad);
    }
    let raw = zstd::bulk::decompress(bytes, len).map_err(|_| bad)?;
    if raw.len() == len { Ok(raw) } else { Err(bad) }
}
