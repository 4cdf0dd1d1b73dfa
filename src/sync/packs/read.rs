//! Reading a pack of a remote block by block: bytes arrive ahead under a budget, whole or only the ranges that are wanted, and
//! nothing is handed on whose checksum is not right. Knows nothing of the log.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::model::ChangeId;
use crate::remote::{DAMAGED, Interruption, Remote};
use crate::seal::BadSeal;
use crate::wire::{BadFile, HEADER_GUESS, MAX_HEADER_BYTES, ObjectName, PackHeader, Records, decode_block};

/// Gaps between wanted blocks that are fetched along rather than asked around.
const GAP: u64 = 256 << 10;

/// Why a pack was not read.
#[derive(Debug)]
pub(in crate::sync) enum Unread {
    /// It is not there (any more).
    Gone,
    /// It is not what it should be.
    Bad(BadPack),
    /// The remote failed.
    Failed(Error),
}

/// What is wrong with a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::sync) enum BadPack {
    #[error(transparent)]
    File(#[from] BadFile),
    #[error(transparent)]
    Seal(#[from] BadSeal),
    #[error("{DAMAGED}")]
    Damaged,
}

impl From<Interruption> for Unread {
    fn from(why: Interruption) -> Self {
        match why {
            Interruption::Failed(error) => Self::Failed(error),
            Interruption::Unopened(bad) => Self::Bad(bad.into()),
        }
    }
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<BadFile> for Unread {
    fn from(bad: BadFile) -> Self {
        Self::Bad(bad.into())
    }
}

/// How a pack is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sync) enum Ask {
    /// All of it at once: most of it will be wanted, or it is small.
    Whole,
    /// Its header first: little of it may be wanted.
    Header,
}

/// A pack that is being read. Dropped, it leaves the rest unread.
pub(in crate::sync) struct PackReader {
    remote: Remote,
    name: ObjectName,
    budget: usize,
    ask: Ask,
    arriving: Arriving,
    header: Option<Arc<PackHeader>>,
    /// Where each block lies, and which ids are its records'.
    layout: Vec<(Range<u64>, Range<usize>)>,
    wanted: VecDeque<usize>,
}

impl PackReader {
    /// Asks for a pack; its bytes begin to arrive, up to a budget, while others are still being worked on.
    pub(in crate::sync) fn start(remote: &Remote, pack: ChangeId, ask: Ask, budget: usize) -> Self {
        let name = ObjectName::Pack(pack);
        let len = match ask {
            Ask::Whole => None,
            Ask::Header => Some(HEADER_GUESS),
        };
        let arriving = Arriving::start(remote, name, 0, len, budget);
        Self {
            remote: remote.clone(),
            name,
            budget,
            ask,
            arriving,
            header: None,
            layout: Vec::new(),
            wanted: VecDeque::new(),
        }
    }

    /// The header; from then on every block is wanted.
    pub(in crate::sync) async fn header(&mut self) -> Result<Arc<PackHeader>, Unread> {
        let mut wanted = 0;
        let len = loop {
            match PackHeader::length(self.arriving.peek())? {
                Some(len) => break len,
                None => wanted = self.arriving.peek().len().max(wanted) + 1,
            }
            self.arriving.fill(wanted).await?;
        };
        if len as u64 > MAX_HEADER_BYTES {
            return Err(BadFile::BadNumber { part: "length of header" }.into());
        }
        if self.arriving.end.is_some_and(|end| end < len as u64) {
            self.arriving = Arriving::start(&self.remote, self.name, 0, Some(len as u64), self.budget);
        }
        let bytes = self.arriving.take(len).await?;
        let header = blocking(move || Ok(PackHeader::decode(&bytes))).await??;
        self.wanted = (0..header.blocks.len()).collect();
        self.layout = header.layout();
        let header = Arc::new(header);
        self.header = Some(Arc::clone(&header));
        Ok(header)
    }

    /// Leaves out all blocks but these.
    pub(in crate::sync) fn only(&mut self, blocks: impl IntoIterator<Item = usize>) {
        self.wanted = blocks.into_iter().collect();
    }

    /// The next wanted block's changes; nothing after the last.
    pub(in crate::sync) async fn next(&mut self) -> Result<Option<Records>, Unread> {
        let Some(header) = self.header.clone() else { return Ok(None) };
        let Some(block) = self.wanted.pop_front() else { return self.finish(&header).await };
        let (place, ids) = self.layout[block].clone();
        if place.start < self.arriving.at || self.arriving.end.is_some_and(|end| end < place.end) {
            let mut end = place.end;
            for next in &self.wanted {
                match &self.layout[*next].0 {
                    next if next.start <= end + GAP => end = next.end,
                    _ => break,
                }
            }
            self.arriving = Arriving::start(&self.remote, self.name, place.start, Some(end - place.start), self.budget);
        }
        self.arriving.skip(place.start - self.arriving.at).await?;
        let length = usize::try_from(place.end - place.start).map_err(|_| BadFile::WrongLength)?;
        let bytes = self.arriving.take(length).await?;
        let decode = move || decode_block(&header.blocks[block], &header.ids[ids], &bytes);
        Ok(Some(blocking(move || Ok(decode())).await??))
    }

    /// A pack that was asked for whole ends where its header says.
    async fn finish(&mut self, header: &PackHeader) -> Result<Option<Records>, Unread> {
        let read_all = self.ask == Ask::Whole && self.arriving.at == header.pack_len();
        if read_all && !self.arriving.is_at_end().await? { Err(BadFile::WrongLength.into()) } else { Ok(None) }
    }
}

/// Bytes of an object on their way: a task fetches them, as far ahead as the budget allows.
struct Arriving {
    chunks: mpsc::Receiver<Chunk>,
    buffer: BytesMut,
    /// What the buffered bytes hold of the budget.
    permits: VecDeque<(usize, OwnedSemaphorePermit)>,
    /// Where in the object the buffer begins.
    at: u64,
    /// Where what was asked for ends; nothing for the object's own end.
    end: Option<u64>,
    task: AbortHandle,
}

enum Chunk {
    Bytes(Bytes, OwnedSemaphorePermit),
    Gone,
    Failed(Interruption),
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Arriving {
    fn start(remote: &Remote, name: ObjectName, from: u64, len: Option<u64>, budget: usize) -> Self {
        let (sender, chunks) = mpsc::channel(1_024);
        let fetching = tokio::spawn(fetch(remote.clone(), name, from, len, budget.max(1), sender));
        let end = len.map(|len| from + len);
        let (buffer, permits) = (BytesMut::new(), VecDeque::new());
        Self { chunks, buffer, permits, at: from, end, task: fetching.abort_handle() }
    }

    fn peek(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits for one more chunk; false at the end.
    async fn more(&mut self) -> Result<bool, Unread> {
        match self.chunks.recv().await {
            Some(Chunk::Bytes(bytes, permit)) => {
                self.permits.push_back((bytes.len(), permit));
                self.buffer.extend_from_slice(&bytes);
                Ok(true)
            }
            Some(Chunk::Gone) => Err(Unread::Gone),
            Some(Chunk::Failed(why)) => Err(why.into()),
            None => Ok(false),
        }
    }

    async fn fill(&mut self, len: usize) -> Result<(), Unread> {
        while self.buffer.len() < len {
            // A budget that is smaller than what is waited for must not stop it.
            self.permits.clear();
            if !self.more().await? {
                return Err(BadFile::Truncated.into());
            }
        }
        Ok(())
    }

    async fn take(&mut self, len: usize) -> Result<Bytes, Unread> {
        self.fill(len).await?;
        let taken = self.buffer.split_to(len).freeze();
        self.release(len);
        Ok(taken)
    }

    async fn skip(&mut self, len: u64) -> Result<(), Unread> {
        let mut left = len;
        while left > 0 {
            self.fill(1).await?;
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            drop(self.buffer.split_to(part));
            self.release(part);
            left -= part as u64;
        }
        Ok(())
    }

    /// Gives the budget back for bytes that are not held here any more.
    fn release(&mut self, len: usize) {
        self.at += len as u64;
        let mut left = len;
        while let Some((held, permit)) = self.permits.pop_front() {
            if held > left {
                self.permits.push_front((held - left, permit));
                return;
            }
            left -= held;
        }
    }

    async fn is_at_end(&mut self) -> Result<bool, Unread> {
        Ok(self.buffer.is_empty() && !self.more().await?)
    }
}

async fn fetch(
    remote: Remote,
    name: ObjectName,
    from: u64,
    len: Option<u64>,
    budget: usize,
    sender: mpsc::Sender<Chunk>,
) {
    let permits = Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS)));
    let mut body = match remote.body(&name, from, len).await {
        Ok(Some(body)) => body,
        Ok(None) => return drop(sender.send(Chunk::Gone).await),
        Err(error) => return drop(sender.send(Chunk::Failed(error.into())).await),
    };
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(bytes) => {
                let share = u32::try_from(bytes.len().clamp(1, budget)).unwrap_or(u32::MAX);
                match Arc::clone(&permits).acquire_many_owned(share).await {
                    Ok(permit) => Chunk::Bytes(bytes, permit),
                    Err(_) => return,
                }
            }
            Err(error) => Chunk::Failed(error),
        };
        if sender.send(chunk).await.is_err() {
            return;
        }
    }
}
