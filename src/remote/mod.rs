//! Remotes: a URL turned into a place in a store, and the few things done there: list, get, put, delete. Knows the names of
//! objects and nothing of what they hold, but that what goes to an encrypted remote is sealed, and what comes from there is
//! opened: every object's body passes through `get`, `body` and `put`. No SQL, no merging. Relies on no conditional write, no
//! lock and no order.

mod failure;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod http;
mod listing;
mod location;
mod memory;
mod options;
mod pages;
mod s3;
mod sealed;
mod store;
mod traffic;
mod xml;

#[cfg(test)]
mod s3_tests;
#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;

use crate::error::{Error, ErrorKind, Result};
use crate::seal::{BadSeal, Secret};
use crate::wire::ObjectName;
use failure::Speaker;
use folder::Folder;
use location::{Bucket, Location};
use pages::Pager;
use sealed::Sealing;
use store::Store;
use traffic::Counters;

pub(crate) use listing::{Listed, ListedChange, ListedPack, Listing, MAX_REFUSED_NAMES, RefusedName};
pub use options::RemoteOptions;
pub use traffic::Traffic;

/// A place in an object store through which replicas exchange their changes. Cheap to clone; clones share their [`Traffic`].
///
/// ```
/// let remote = zvon::Remote::from_url("memory://notes/shared", &zvon::RemoteOptions::default())?;
/// assert_eq!(remote.url(), "memory://notes/shared");
/// # Ok::<(), zvon::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote {
    place: Arc<Place>,
    sealing: Sealing,
    max_names: u64,
}

/// Where a remote is, and how to get there.
struct Place {
    url: String,
    backend: Backend,
    counters: Arc<Counters>,
    has_own_clock: bool,
}

#[derive(Debug)]
enum Backend {
    Folder(Folder),
    Store(Store),
}

/// What came of asking for an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// All of its bytes.
    Bytes(Bytes),
    /// There is no such object (any more).
    Gone,
    /// It is larger than the limit; at most that much of it was held in memory.
    TooLarge,
    /// It is there, and its seal does not open.
    Unopened(BadSeal),
}

/// An input or output error, by the number that all Unixes give it (`errno.h`); the standard library has no name for it.
const EIO: i32 = 5;
/// What is said of a file that the disk fails to read.
pub(crate) const DAMAGED: &str = "the disk fails to read it";

/// The bytes of an object, or of a part of it, as they come.
pub(crate) type Body = BoxStream<'static, Result<Bytes, Interruption>>;

/// Why the bytes of an object stop coming.
#[derive(Debug)]
pub(crate) enum Interruption {
    /// The remote failed.
    Failed(Error),
    /// Its seal does not open.
    Unopened(BadSeal),
}

impl From<Error> for Interruption {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The bytes of an object as they lie there.
type RawBody = BoxStream<'static, Result<Bytes>>;

impl Remote {
    /// Opens the place that a URL names. Nothing is sent yet, and nothing made: a folder that is missing is made by a replica's
    /// first sync there, and by no later one, as its drive may not be mounted.
    ///
    /// | URL | store |
    /// | --- | --- |
    /// | `file:///path`, a plain path | a folder |
    /// | `memory://name/path` | memory, shared within the process by name |
    /// | `s3://bucket/path` | AWS, or the server in the setting `AWS_ENDPOINT_URL` |
    /// | `s3://host[:port]/bucket/path` | a server that speaks S3, where no setting names one and the host has a port, a dot, or is `localhost`; over https, but http on this machine |
    ///
    /// # Errors
    ///
    /// If the URL is none of these, holds a password, or cannot work with the options as they are; if the folder cannot be used.
    pub fn from_url(url: &str, options: &RemoteOptions) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        match location::parse(url, options.endpoint())? {
            Location::Folder(path) => Self::in_folder(Folder::open(&path, Arc::clone(&counters))?, counters),
            Location::Memory { name, base } => {
                let url = location::text("memory", &name, &base);
                let store = Store::new(memory::store(&name), base, anonymous(&url), Arc::clone(&counters));
                Ok(Self::new(url, Backend::Store(store), counters, false))
            }
            Location::S3(bucket) => Self::in_bucket(&bucket, options, counters),
        }
    }

    /// Uses a store of the caller's own, below the path `base` (`""` for all of it).
    ///
    /// `url` is the name by which the place is shown and remembered: give the same place the same name, and no secret.
    ///
    /// # Errors
    ///
    /// If `base` is not a path of an object store.
    pub fn from_store(url: &str, store: Arc<dyn ObjectStore>, base: &str) -> Result<Self> {
        let base = location::path(base)?;
        let counters = Arc::new(Counters::default());
        let store = Store::new(store, base, anonymous(url), Arc::clone(&counters));
        Ok(Self::new(url.to_owned(), Backend::Store(store), counters, true))
    }

    fn in_folder(folder: Folder, counters: Arc<Counters>) -> Result<Self> {
        Ok(Self::new(folder.url()?, Backend::Folder(folder), counters, false))
    }

    fn in_bucket(bucket: &Bucket, options: &RemoteOptions, counters: Arc<Counters>) -> Result<Self> {
        let client = s3::build(bucket, options, Arc::clone(&counters))?;
        let speaker = s3::speaker(bucket, options);
        let client = Arc::new(client);
        let store = Store::new(client.clone(), bucket.base.clone(), speaker, Arc::clone(&counters));
        let store = store.in_pages(Pager::new(client));
        Ok(Self::new(bucket.url(), Backend::Store(store), counters, true))
    }

    fn new(url: String, backend: Backend, counters: Arc<Counters>, has_own_clock: bool) -> Self {
        let place = Arc::new(Place { url, backend, counters, has_own_clock });
        Self { place, sealing: Sealing::default(), max_names: pages::MAX_NAMES }
    }

    /// The same remote, encrypted: with the secret that opens its keys. A remote that turns out not to be encrypted is refused
    /// from then on. The keys are opened once for this remote and its clones.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.sealing = Sealing::with(secret);
        self
    }

    /// How many names there may be below the base path (10 million unless set): a listing that goes on beyond is an error, so that
    /// a store, or somebody who fills it, cannot hold a sync for ever.
    #[must_use]
    pub fn with_max_names(mut self, names: u64) -> Self {
        self.max_names = names;
        self
    }

    /// The place as text, without secrets: the same place, however it was written, has the same text.
    ///
    /// What a setting adds to an S3 URL (its endpoint) is not part of it.
    pub fn url(&self) -> &str {
        &self.place.url
    }

    /// What was asked and moved through this remote and its clones so far.
    pub fn traffic(&self) -> Traffic {
        self.place.counters.read()
    }

    /// The remote's folder, where it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.place.backend {
            Backend::Folder(folder) => Some(folder.root()),
            Backend::Store(_) => None,
        }
    }

    /// Whether the times that [`modified_ms`](Self::modified_ms) tells come from another clock than this machine's.
    pub(crate) fn has_own_clock(&self) -> bool {
        self.place.has_own_clock
    }

    /// Whether the place is a folder, which another program may carry elsewhere.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.place.backend, Backend::Folder(_))
    }

    /// Whether reading failed for want of permission to read that one file, while the rest of the folder may be read.
    pub(crate) fn keeps_back(&self, error: &Error) -> bool {
        self.failure_of_file(error).is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
    }

    /// Whether the disk failed to read that one file, as where a sector of it is bad.
    pub(crate) fn is_damaged(&self, error: &Error) -> bool {
        self.failure_of_file(error).is_some_and(|cause| cfg!(unix) && cause.raw_os_error() == Some(EIO))
    }

    fn failure_of_file<'e>(&self, error: &'e Error) -> Option<&'e std::io::Error> {
        let cause = std::error::Error::source(error)?.downcast_ref::<std::io::Error>();
        cause.filter(|_| self.is_folder())
    }

    /// Makes the place, where it is a folder that is missing.
    pub(crate) async fn make(&self) -> Result<()> {
        match &self.place.backend {
            Backend::Folder(folder) => folder.make().await,
            Backend::Store(_) => Ok(()),
        }
    }

    /// Everything of ours below the base path. What cannot be read is an error, and never looks absent.
    pub(crate) async fn list(&self) -> Result<Listing> {
        match &self.place.backend {
            Backend::Folder(folder) => folder.list(self.max_names).await,
            Backend::Store(store) => store.list(self.url(), self.max_names).await,
        }
    }

    /// An object's bytes as they lie there, at most `limit` of them, whatever the store says about its size.
    async fn get_as_is(&self, name: &ObjectName, limit: u64) -> Result<Fetched> {
        match &self.place.backend {
            Backend::Folder(folder) => folder.get(name, limit).await,
            Backend::Store(store) => store.get(name, limit, self.url()).await,
        }
    }

    /// An object's bytes as they lie there and as they come, from a place in it on, for so many bytes at most or to its end. Nothing if there is no
    /// such object (any more). Whoever drops the body before its end leaves the rest unread.
    async fn body_as_is(&self, name: &ObjectName, from: u64, len: Option<u64>) -> Result<Option<RawBody>> {
        let body = match &self.place.backend {
            Backend::Folder(folder) => folder.body(name, from, len).await?,
            Backend::Store(store) => {
                let opened = store.body(name, from, len).await;
                let opened = opened.map_err(|e| store.explain(&format!("read {name} from {}", self.url()), &e))?;
                let (remote, name) = (self.clone(), *name);
                opened.map(|body| body.map(move |chunk| chunk.map_err(|e| remote.explain_read(&name, &e))).boxed())
            }
        };
        let counters = Arc::clone(&self.place.counters);
        Ok(body.map(|body| body.inspect(move |chunk| count(&counters, chunk)).boxed()))
    }

    fn explain_read(&self, name: &ObjectName, error: &object_store::Error) -> Error {
        let doing = format!("read {name} from {}", self.url());
        match &self.place.backend {
            Backend::Store(store) => store.explain(&doing, error),
            Backend::Folder(_) => Error::new(ErrorKind::Remote, format!("cannot {doing}: {error}")),
        }
    }

    /// Deletes objects. One that is gone already is as good as deleted.
    pub(crate) async fn delete(&self, names: Vec<ObjectName>) -> Result<()> {
        match &self.place.backend {
            Backend::Folder(folder) => folder.delete(names).await,
            Backend::Store(store) => store.delete(names, self.url()).await,
        }
    }

    /// Writes an object, over the old one if there is one: a name always has the same content. It is durable afterwards, and
    /// nobody sees a part of it.
    async fn put_as_is(&self, name: &ObjectName, bytes: Bytes) -> Result<()> {
        match &self.place.backend {
            Backend::Folder(folder) => folder.put(name, bytes).await,
            Backend::Store(store) => store.put(name, bytes, self.url()).await,
        }
    }

    /// When an object was last written, in milliseconds since the Unix epoch, or nothing if there is no such object.
    pub(crate) async fn modified_ms(&self, name: &ObjectName) -> Result<Option<u64>> {
        match &self.place.backend {
            Backend::Folder(folder) => folder.modified_ms(name).await,
            Backend::Store(store) => store.modified_ms(name, self.url()).await,
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.url()).finish_non_exhaustive()
    }
}

fn count(counters: &Counters, chunk: &Result<Bytes>) {
    if let Ok(chunk) = chunk {
        counters.received(chunk.len());
    }
}

/// Explains the failures of a store of which no more is known than its name.
fn anonymous(url: &str) -> Speaker {
    Speaker { server: url.to_owned(), bucket: "the bucket".to_owned(), doubt: String::new(), secrets: Vec::new() }
}
