//! From changes to a pack's bytes: the same changes give the same bytes, as long as zstd compresses them alike.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;

use super::{BlockHead, CODEC_ZSTD, FULL_BLOCK, MAGIC, MAX_PACKED_CHANGE, VERSION, is_frozen};
use crate::model::ChangeId;

/// A pack of usual changes shrinks to a fifth at this level, faster than SQLite reads them.
const LEVEL: i32 = 3;

/// A pack in the making.
pub(crate) struct PackWriter {
    ids: Vec<ChangeId>,
    blocks: Vec<BlockHead>,
    stored: Vec<u8>,
    /// The records of the block at hand.
    open: Vec<u8>,
    open_records: u32,
    raw: u64,
    compressor: Compressor<'static>,
}

impl PackWriter {
    pub(crate) fn new() -> Self {
        Self {
            ids: Vec::new(),
            blocks: Vec::new(),
            stored: Vec::new(),
            open: Vec::new(),
            open_records: 0,
            raw: 0,
            compressor: compressor(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the pack takes no more changes.
    pub(crate) fn is_full(&self) -> bool {
        is_frozen(self.ids.len() as u64, self.stored.len() as u64, self.raw)
    }

    /// Adds a change by its file, which is no larger than [`MAX_PACKED_CHANGE`]; ids ascend.
    pub(crate) fn add(&mut self, id: ChangeId, file: &[u8]) {
        debug_assert!(self.ids.last().is_none_or(|last| *last < id) && file.len() <= MAX_PACKED_CHANGE);
        self.ids.push(id);
        self.open.extend_from_slice(&len32(file.len()).to_be_bytes());
        self.open.extend_from_slice(file);
        self.open_records += 1;
        self.raw += file.len() as u64 + 4;
        if self.open.len() >= FULL_BLOCK {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if self.open_records == 0 {
            return;
        }
        let block = compress(&mut self.compressor, &self.open);
        self.blocks.push(BlockHead {
            records: self.open_records,
            stored: len32(block.len()),
            raw: len32(self.open.len()),
            sha256: Sha256::digest(&block).into(),
        });
        self.stored.extend_from_slice(&block);
        self.open.clear();
        self.open_records = 0;
    }

    /// The pack.
    pub(crate) fn finish(mut self) -> Packed {
        self.close_block();
        let ids = compress(&mut self.compressor, &flat(&self.ids));
        let mut header = Vec::with_capacity(ids.len() + 64);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&[VERSION, CODEC_ZSTD, 0, 0]);
        for n in [self.ids.len(), self.blocks.len(), ids.len(), 0] {
            header.extend_from_slice(&len32(n).to_be_bytes());
        }
        for block in &self.blocks {
            for n in [block.records, block.stored, block.raw] {
                header.extend_from_slice(&n.to_be_bytes());
            }
            header.extend_from_slice(&block.sha256);
        }
        header.extend_from_slice(&ids);
        let hash = Sha256::digest(&header);
        header.extend_from_slice(&hash);
        // One copy of the larger part is spared by putting the header before it in place.
        self.stored.splice(0..0, header);
        Packed { bytes: self.stored.into(), ids: self.ids, raw: self.raw }
    }
}

/// A finished pack.
pub(crate) struct Packed {
    pub(crate) bytes: Bytes,
    /// The ids of its changes.
    pub(crate) ids: Vec<ChangeId>,
    /// The bytes of its records before they were compressed.
    pub(crate) raw: u64,
}

/// Ids, ascending, as a header holds them.
pub(crate) fn encode_ids(ids: &[ChangeId]) -> Vec<u8> {
    compress(&mut compressor(), &flat(ids))
}

fn flat(ids: &[ChangeId]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

fn compressor() -> Compressor<'static> {
    Compressor::new(LEVEL).expect("zstd knows its own default level, and memory is there or the process ends")
}

fn compress(compressor: &mut Compressor<'static>, bytes: &[u8]) -> Vec<u8> {
    compressor.compress(bytes).expect("zstd is given the room that it says it needs at most")
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("blocks, and what a header counts, are far below 4 GiB")
}
