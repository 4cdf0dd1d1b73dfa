//! The one way by which objects come and go: on an encrypted remote they pass through the seal here, and nowhere else.
//! Identities and key files do not: they say that the remote is encrypted, and what opens it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Fetched, Remote};
use crate::error::Result;
use crate::model::ChangeId;
use crate::seal::{Keyring, Secret, plain_len, sealed_len};
use crate::wire::{ObjectName, RemoteIdentity};

/// Above this, sealing and opening are given to a thread that may be busy for a while.
const MANY_BYTES: usize = 256 << 10;

/// What a remote and its clones know of their keys.
#[derive(Clone, Default)]
pub(super) struct Sealing {
    vault: Option<Arc<Vault>>,
    /// There once the remote is known to be encrypted, and its keys are open.
    keyring: Option<Arc<Keyring>>,
}

/// The secret, and the keys that it opened last: the slow derivation is not for every sync.
struct Vault {
    secret: Secret,
    opened: Mutex<Option<Arc<Keyring>>>,
}

impl Sealing {
    pub(super) fn with(secret: Secret) -> Self {
        Self { vault: Some(Arc::new(Vault { secret, opened: Mutex::default() })), keyring: None }
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
            Fetched::Bytes(sealed) => match open(keyring, *name, sealed).await {
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
        self.put_as_is(name, bytes).await
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
            ObjectName::Change(_) | ObjectName::Layout(_) | ObjectName::Schema(_) => self.keyring(),
        }
    }
}

async fn seal(keyring: &Arc<Keyring>, name: ObjectName, plain: Bytes) -> Result<Bytes> {
    if plain.len() <= MANY_BYTES {
        return keyring.seal(&name, &plain).map(Bytes::from);
    }
    let keyring = Arc::clone(keyring);
    apart(move || keyring.seal(&name, &plain).map(Bytes::from)).await
}

async fn open(keyring: &Arc<Keyring>, name: ObjectName, sealed: Bytes) -> Result<Bytes, crate::seal::BadSeal> {
    if sealed.len() <= MANY_BYTES {
        return keyring.open(&name, &sealed).map(Bytes::from);
    }
    let keyring = Arc::clone(keyring);
    apart(move || keyring.open(&name, &sealed).map(Bytes::from)).await
}

/// Does work that takes a while where it holds nobody up.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down: whoever waits for this is dropped as well.
            Err(_) => std::future::pending().await,
        },
    }
}
