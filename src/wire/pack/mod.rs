//! Packs: many changes in one object, as section 11 of `docs/format.md` has them. Owns the header and the limits; what a record
//! is, `change_file` knows. Pure: no I/O, and never more memory than the limits here say.

mod read;
mod write;

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::BadFile;
use crate::model::ChangeId;
pub(crate) use read::{Records, decode_block, decode_ids};
pub(crate) use write::{PackWriter, Packed, encode_ids};

const MAGIC: [u8; 8] = *b"\x89ZVPACK\n";
const VERSION: u8 = 1;
const CODEC_ZSTD: u8 = 1;

/// The most changes of one pack.
pub(crate) const MAX_PACK_CHANGES: usize = 100_000;
/// A larger change file stays a loose file.
pub(crate) const MAX_PACKED_CHANGE: usize = 8 << 20;
/// A pack of so many bytes takes no more changes.
const FULL_BYTES: u64 = 64 << 20;
/// Nor does one of so many bytes once decompressed.
const FULL_RAW: u64 = 512 << 20;
/// A block of so many bytes takes no more records.
const FULL_BLOCK: usize = 1 << 20;

/// What a reader takes at most.
const MAX_BLOCK: u32 = 16 << 20;
const MAX_RAW: u64 = 1 << 30;
const MAX_EXTRA: usize = 1 << 20;

const FIXED: usize = 28;
const BLOCK_HEAD: usize = 44;
const HASH: usize = 32;
const ID: usize = 16;
/// What zstd may add to ids that do not compress.
const IDS_SLACK: usize = 1024;

/// No header is longer.
pub(crate) const MAX_HEADER_BYTES: u64 =
    (FIXED + MAX_PACK_CHANGES * (BLOCK_HEAD + ID) + IDS_SLACK + MAX_EXTRA + HASH) as u64;
/// The header of a full pack of usual changes is shorter than this: asking for so much almost always gets it whole.
pub(crate) const HEADER_GUESS: u64 = 1 << 20;

/// Whether a pack is never joined with others again.
pub(crate) fn is_frozen(changes: u64, bytes: u64, raw: u64) -> bool {
    changes >= MAX_PACK_CHANGES as u64 || bytes >= FULL_BYTES || raw >= FULL_RAW
}

/// A block as the header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    records: u32,
    stored: u32,
    raw: u32,
    sha256: [u8; HASH],
}

/// What stands before the blocks of a pack: all that decides whether, and what of it, to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackHeader {
    /// The ids of the changes, ascending.
    pub(crate) ids: Vec<ChangeId>,
    pub(crate) blocks: Vec<BlockHead>,
    /// Where the first block begins.
    len: u64,
}

impl PackHeader {
    /// How long the header is that begins with these bytes; nothing if they are too few to tell.
    pub(crate) fn length(start: &[u8]) -> Result<Option<usize>, BadFile> {
        match start.first_chunk::<FIXED>() {
            Some(fixed) => Fixed::decode(fixed).map(|fixed| Some(fixed.header_len())),
            None if MAGIC.starts_with(&start[..start.len().min(MAGIC.len())]) => Ok(None),
            None => Err(BadFile::NotAPack),
        }
    }

    /// Reads a header, and nothing after it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadFile> {
        let start = bytes.first_chunk::<FIXED>().ok_or(BadFile::Truncated)?;
        let fixed = Fixed::decode(start)?;
        let bytes = bytes.get(..fixed.header_len()).ok_or(BadFile::Truncated)?;
        let (signed, hash) = bytes.split_at(bytes.len() - HASH);
        if Sha256::digest(signed).as_slice() != hash {
            return Err(BadFile::WrongChecksum { part: "header" });
        }
        let (table, rest) = signed[FIXED..].split_at(fixed.blocks * BLOCK_HEAD);
        let blocks = read_blocks(table, fixed.changes)?;
        let ids = decode_ids(&rest[..fixed.ids], fixed.changes)?;
        Ok(Self { ids, blocks, len: bytes.len() as u64 })
    }

    /// How long the whole pack is.
    pub(crate) fn pack_len(&self) -> u64 {
        self.len + self.blocks.iter().map(|block| u64::from(block.stored)).sum::<u64>()
    }

    /// How many bytes the records of all blocks are.
    pub(crate) fn raw_len(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.raw)).sum()
    }

    /// Each block: where it lies in the pack, and which of the ids are its records'.
    pub(crate) fn layout(&self) -> Vec<(Range<u64>, Range<usize>)> {
        let (mut at, mut first) = (self.len, 0);
        let place = |block: &BlockHead| {
            let bytes = at..at + u64::from(block.stored);
            let ids = first..first + block.records as usize;
            (at, first) = (bytes.end, ids.end);
            (bytes, ids)
        };
        self.blocks.iter().map(place).collect()
    }
}

/// The numbers at the beginning of a header.
struct Fixed {
    changes: usize,
    blocks: usize,
    ids: usize,
    extra: usize,
}

impl Fixed {
    fn decode(bytes: &[u8; FIXED]) -> Result<Self, BadFile> {
        let (magic, rest) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(BadFile::NotAPack);
        }
        match rest[..4] {
            [VERSION, CODEC_ZSTD, 0, 0] => {}
            [VERSION, ..] => return Err(BadFile::UnknownRequirement),
            _ => return Err(BadFile::NewerFormat),
        }
        let mut numbers = rest[4..].as_chunks::<4>().0.iter().map(|n| u32::from_be_bytes(*n) as usize);
        let mut bounded = |part, least, most| {
            let n = numbers.next().unwrap_or_default();
            if (least..=most).contains(&n) { Ok(n) } else { Err(BadFile::BadNumber { part }) }
        };
        let changes = bounded("number of changes", 1, MAX_PACK_CHANGES)?;
        let blocks = bounded("number of blocks", 1, changes)?;
        let ids = bounded("length of ids", 1, changes * ID + IDS_SLACK)?;
        let extra = bounded("length of additions", 0, MAX_EXTRA)?;
        Ok(Self { changes, blocks, ids, extra })
    }

    fn header_len(&self) -> usize {
        FIXED + self.blocks * BLOCK_HEAD + self.ids + self.extra + HASH
    }
}

fn read_blocks(table: &[u8], changes: usize) -> Result<Vec<BlockHead>, BadFile> {
    let blocks: Vec<BlockHead> = table.as_chunks::<BLOCK_HEAD>().0.iter().map(read_block_head).collect();
    if blocks.iter().any(|b| b.records == 0 || b.stored == 0 || b.stored > MAX_BLOCK || b.raw > MAX_BLOCK) {
        return Err(BadFile::BadNumber { part: "table of blocks" });
    }
    let records: u64 = blocks.iter().map(|block| u64::from(block.records)).sum();
    let raw: u64 = blocks.iter().map(|block| u64::from(block.raw)).sum();
    if records != changes as u64 || raw > MAX_RAW {
        return Err(BadFile::BadNumber { part: "table of blocks" });
    }
    Ok(blocks)
}

fn read_block_head(bytes: &[u8; BLOCK_HEAD]) -> BlockHead {
    let (numbers, hash) = bytes.split_at(BLOCK_HEAD - HASH);
    let number = |at: usize| u32::from_be_bytes(numbers.as_chunks::<4>().0[at]);
    let mut sha256 = [0; HASH];
    sha256.copy_from_slice(hash);
    BlockHead { records: number(0), stored: number(1), raw: number(2), sha256 }
}

#[cfg(test)]
mod tests;
