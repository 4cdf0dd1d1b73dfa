//! The one way by which objects come and go: on an encrypted remote they pass through the seal here, and nowhere else.
//! Identities and key files do not: they say that the remote is encrypted, and what opens it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};

use super::{Body, Fetched, Interruption, RawBody, Remote};
use crate::blocking::blocking;
use crate::error::Result;
use crate::model::ChangeId;
use crate::seal::{
    BadSeal, HEAD_BYTES, Keyring, Opener, SEALED_CHUNK_BYTES, Secret, chunk_at, chunk_start, epoch_of, plain_len,
    sealed_len,
};
use crate::wire::{ObjectName, RemoteIdentity};

/// Above this, sealing and opening are given to a thread that may be busy for a while.
const MANY_BYTES: usize = 256 << 10;

/// What a remote and its clones know of their keys.
#[derive(Clone, Default)]
pub(super) struct Sealing {
    vault: Option<Arc<Vault>>,
    /// There once the remote is known to be encrypted, and its keys are open.
    keyring: Option<Arc<Keyring>>,
    /// The heads of packs: what is read from the middle of one needs them.
    heads: Arc<Mutex<HashMap<ObjectName, Head>>>,
}

type Head = [u8; HEAD_BYTES];

/// So many heads are remembered at once.
const MAX_HEADS: usize = 10_000;

/// The secret, and the keys that it opened last: the slow derivation is not for every sync.
struct Vault {
    secret: Secret,
    opened: Mutex<Option<Arc<Keyring>>>,
}

impl Sealing {
    pub(super) fn with(secret: Secret) -> Self {
        let vault = Arc::new(Vault { secret, opened: Mutex::default() });
        Self { vault: Some(vault), ..Self::default() }
    }
}

impl Remote {
    /// The secret that the caller gave.
    pub(crate) fn secret(&self) -> Option<Secret> {
        self.sealing.vault.as_ref().map(|vault| vault.secret.clone())
    }

    /// The keys as they were opened last.
    pub(crate) fn opened_before(&self) -> Option<Arc<Keyring>> {
        // Whoever panicked while holding the lock cannot have left an `Arc` half changed.
        let vault = self.sealing.vault.as_ref()?;
        vault.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same remote with its keys open: everything is sealed from here on.
    pub(crate) fn unlocked(&self, keyring: Arc<Keyring>) -> Self {
        if let Some(vault) = &self.sealing.vault {
            *vault.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&keyring));
        }
        let mut unlocked = self.clone();
        unlocked.sealing.keyring = Some(keyring);
        unlocked
    }

    /// The open keys of an encrypted remote.
    pub(crate) fn keyring(&self) -> Option<&Arc<Keyring>> {
        self.sealing.keyring.as_ref()
    }

    /// An object's content, if it is at most `limit` bytes, whatever the store says about its size.
    pub(crate) async fn get(&self, name: &ObjectName, limit: u64) -> Result<Fetched> {
        let Some(keyring) = self.keyring_for(name) else { return self.get_as_is(name, limit).await };
        Ok(match self.get_as_is(name, sealed_len(limit)).await? {
            Fetched::Bytes(sealed) => match open(keyring, *name, sealed).await? {
                Ok(plain) => Fetched::Bytes(plain),
                Err(bad) => Fetched::Unopened(bad),
            },
            other => other,
        })
    }

    /// Writes an object. It is durable afterwards, and nobody sees a part of it.
    pub(crate) async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<()> {
        let bytes = match self.keyring_for(name) {
            Some(keyring) => seal(keyring, *name, bytes).await?,
            None => bytes,
        };
        if self.keyring().is_some() {
            self.remember_head(name, &bytes);
        }
        self.put_as_is(name, bytes).await
    }

    /// An object's content as it comes, from a place in it on, for so many bytes at most or to its end. Nothing if there is no
    /// such object (any more). Whoever drops the body before its end leaves the rest unread.
    pub(crate) async fn body(&self, name: &ObjectName, from: u64, len: Option<u64>) -> Result<Option<Body>> {
        match self.keyring_for(name) {
            Some(keyring) => Ok(self.sealed_body(keyring, name, from, len).await?.map(StreamExt::boxed)),
            None => {
                let body = self.body_as_is(name, from, len).await?;
                Ok(body.map(|body| body.map_err(Interruption::Failed).boxed()))
            }
        }
    }

    async fn sealed_body(
        &self,
        keyring: &Arc<Keyring>,
        name: &ObjectName,
        from: u64,
        len: Option<u64>,
    ) -> Result<Option<impl Stream<Item = Result<Bytes, Interruption>> + Send + 'static>> {
        let (first, skip) = chunk_at(from);
        let end = len.map(|len| chunk_start(chunk_at(from.saturating_add(len).saturating_sub(1)).0 + 1));
        let known = self.heads().get(name).copied().filter(|_| first > 0);
        let start = match (first, known) {
            (0, _) => 0,
            (_, Some(_)) => chunk_start(first),
            // The head of an object that is read from its middle: it says which key opens it.
            (_, None) => match self.read_head(name).await? {
                Some(()) => chunk_start(first),
                None => return Ok(None),
            },
        };
        let Some(body) = self.body_as_is(name, start, end.map(|end| end - start)).await? else { return Ok(None) };
        let head = self.heads().get(name).copied().filter(|_| first > 0);
        let reading = Reading {
            remote: self.clone(),
            keyring: Arc::clone(keyring),
            name: *name,
            body,
            buffer: BytesMut::new(),
            head,
            next: first,
            stop: end.map(|end| (end - HEAD_BYTES as u64) / SEALED_CHUNK_BYTES as u64),
            skip,
            left: len.unwrap_or(u64::MAX),
            at_end: false,
        };
        Ok(Some(futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|bytes| (bytes, reading)))
        })))
    }

    /// The same remote as somebody has it who has read and written nothing.
    #[cfg(test)]
    pub(super) fn forgetful(&self) -> Self {
        let mut other = self.clone();
        other.sealing.heads = Arc::default();
        other
    }

    /// Whether an object begins as sealed ones do, which can be told without a key; nothing if there is no such object.
    pub(crate) async fn looks_sealed(&self, name: &ObjectName) -> Result<Option<bool>> {
        let head = self.head(name).await?;
        Ok(head.map(|head| !matches!(epoch_of(&head), Err(BadSeal::NotSealed))))
    }

    /// Reads and remembers the head of a sealed object.
    async fn read_head(&self, name: &ObjectName) -> Result<Option<()>> {
        let head = self.head(name).await?;
        Ok(head.map(|head| self.remember_head(name, &head)))
    }

    /// The first bytes of an object: as many as a sealed one's head has, or all.
    async fn head(&self, name: &ObjectName) -> Result<Option<BytesMut>> {
        let Some(mut body) = self.body_as_is(name, 0, Some(HEAD_BYTES as u64)).await? else { return Ok(None) };
        let mut head = BytesMut::new();
        while let Some(bytes) = body.try_next().await? {
            head.extend_from_slice(&bytes);
        }
        Ok(Some(head))
    }

    /// The epoch under which a pack is sealed that was read or written here.
    pub(crate) fn sealed_under(&self, name: &ObjectName) -> Option<ChangeId> {
        let head = self.heads().get(name).copied()?;
        epoch_of(&head).ok()
    }

    fn heads(&self) -> MutexGuard<'_, HashMap<ObjectName, Head>> {
        // Whoever panicked while holding the lock cannot have left a map half changed.
        self.sealing.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_head(&self, name: &ObjectName, bytes: &[u8]) {
        if let (ObjectName::Pack(_), Some(head)) = (name, bytes.first_chunk()) {
            let mut heads = self.heads();
            if heads.len() >= MAX_HEADS {
                heads.clear();
            }
            heads.insert(*name, *head);
        }
    }

    /// How many bytes of content an object of a listed size has at most.
    pub(crate) fn content_len(&self, listed: u64) -> u64 {
        if self.keyring().is_some() { plain_len(listed) } else { listed }
    }

    /// What the identity object of this remote says.
    pub(crate) fn identity_object(&self, identity: ChangeId) -> Bytes {
        let object = RemoteIdentity::new(identity.to_string());
        let object = if self.keyring().is_some() { object.encrypted() } else { object };
        object.encode().into()
    }

    /// The names under which a table definition of this hash may lie here; it is written under the first.
    pub(crate) fn schema_names(&self, hash: &[u8; 32]) -> Vec<ObjectName> {
        match self.keyring() {
            Some(keyring) => keyring.schema_names(hash).into_iter().map(ObjectName::Schema).collect(),
            None => vec![ObjectName::Schema(*hash)],
        }
    }

    fn keyring_for(&self, name: &ObjectName) -> Option<&Arc<Keyring>> {
        match name {
            ObjectName::Identity(_) | ObjectName::Keys(_) => None,
            ObjectName::Change(_) | ObjectName::Layout(_) | ObjectName::Pack(_) | ObjectName::Schema(_) => {
                self.keyring()
            }
        }
    }
}

/// A sealed object that is being read from a chunk on.
struct Reading {
    remote: Remote,
    keyring: Arc<Keyring>,
    name: ObjectName,
    body: RawBody,
    buffer: BytesMut,
    head: Option<Head>,
    /// The next chunk, and the one before which reading stops, if that is not the object's end.
    next: u64,
    stop: Option<u64>,
    /// How many bytes of the next chunk's content are not asked for, and how many of the content are.
    skip: usize,
    left: u64,
    at_end: bool,
}

impl Reading {
    /// The content of the next chunk, as far as it is asked for; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Interruption> {
        loop {
            if self.at_end || self.left == 0 {
                return Ok(None);
            }
            let mut content = self.chunk().await?;
            content = content.split_off(self.skip.min(content.len()));
            self.skip = 0;
            content.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= content.len() as u64;
            if !content.is_empty() {
                return Ok(Some(content.into()));
            }
        }
    }

    /// Opens the next chunk. One is the last when nothing follows it; where the next bytes were not asked for, it may be either.
    async fn chunk(&mut self) -> Result<Vec<u8>, Interruption> {
        let opener = self.opener().await?;
        let ends = !self.fill(SEALED_CHUNK_BYTES + 1).await?;
        let length = self.buffer.len().min(SEALED_CHUNK_BYTES);
        let sealed = self.buffer.split_to(length);
        let number = u32::try_from(self.next).map_err(|_| Interruption::Unopened(BadSeal::Broken))?;
        self.next += 1;
        let may_go_on = length == SEALED_CHUNK_BYTES && self.stop == Some(self.next);
        self.at_end = ends;
        let opened = match opener.chunk(number, ends, &sealed) {
            Err(_) if ends && may_go_on => opener.chunk(number, false, &sealed),
            opened => opened,
        };
        opened.map_err(Interruption::Unopened)
    }

    /// What opens chunks; the head comes first where the object is read from its beginning.
    async fn opener(&mut self) -> Result<Opener, Interruption> {
        let head = match self.head {
            Some(head) => head,
            None => {
                self.fill(HEAD_BYTES).await?;
                let length = self.buffer.len().min(HEAD_BYTES);
                let bytes = self.buffer.split_to(length);
                // Whatever is too short to be sealed says best itself what it is.
                self.keyring.opener(&self.name, &bytes).map_err(Interruption::Unopened)?;
                self.remote.remember_head(&self.name, &bytes);
                *bytes.first_chunk().ok_or(Interruption::Unopened(BadSeal::Broken))?
            }
        };
        self.head = Some(head);
        self.keyring.opener(&self.name, &head).map_err(Interruption::Unopened)
    }

    /// Waits until so many bytes are here; false where they end before.
    async fn fill(&mut self, length: usize) -> Result<bool, Interruption> {
        while self.buffer.len() < length {
            match self.body.try_next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

async fn seal(keyring: &Arc<Keyring>, name: ObjectName, plain: Bytes) -> Result<Bytes> {
    if plain.len() <= MANY_BYTES {
        return keyring.seal(&name, &plain).map(Bytes::from);
    }
    let keyring = Arc::clone(keyring);
    blocking(move || keyring.seal(&name, &plain).map(Bytes::from)).await
}

async fn open(keyring: &Arc<Keyring>, name: ObjectName, sealed: Bytes) -> Result<Result<Bytes, BadSeal>> {
    if sealed.len() <= MANY_BYTES {
        return Ok(keyring.open(&name, &sealed).map(Bytes::from));
    }
    let keyring = Arc::clone(keyring);
    blocking(move || Ok(keyring.open(&name, &sealed).map(Bytes::from))).await
}
