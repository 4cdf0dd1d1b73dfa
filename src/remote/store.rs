//! A remote in any `ObjectStore`: S3, memory, a caller's own. Believes nothing that a store says about order or size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::{Path, PathPart};
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::Fetched;
use super::failure::{Speaker, is_bucket_missing};
use super::listing::{Listing, Properties};
use super::pages::{Endless, Names, Pager};
use super::traffic::{Counters, Request};
use crate::error::{Error, Result};
use crate::wire::{ObjectName, ParsedName};

/// More strangers than this, and more than objects of ours, and the folders are listed one by one.
const CROWD: usize = 1000;

/// A base path in a store.
#[derive(Debug)]
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    base: Path,
    speaker: Speaker,
    counters: Arc<Counters>,
    /// Where there is HTTP below: how to list page by page. Requests are counted there then, as sent, and otherwise here, as calls.
    pager: Option<Pager>,
    /// Whether an earlier listing met a crowd of strangers: the next one does not wade through it again.
    crowded: AtomicBool,
}

impl Store {
    pub(super) fn new(store: Arc<dyn ObjectStore>, base: Path, speaker: Speaker, counters: Arc<Counters>) -> Self {
        Self { store, base, speaker, counters, pager: None, crowded: AtomicBool::new(false) }
    }

    /// Lists page by page, and leaves the counting of requests to the layer below.
    pub(super) fn in_pages(mut self, pager: Pager) -> Self {
        self.pager = Some(pager);
        self
    }

    pub(super) async fn list(&self, place: &str, max_names: u64) -> Result<Listing> {
        let explain = |e| self.speaker.explain(&format!("list {place}"), &e);
        if !self.crowded.load(Ordering::Relaxed) {
            let (mut listing, mut names) = (Listing::default(), Names::at_most(max_names));
            match self.list_below(&self.base, &mut listing, &mut names, true).await {
                Ok(Completeness::Whole) => return Ok(listing.sorted()),
                Ok(Completeness::Crowded) => self.crowded.store(true, Ordering::Relaxed),
                // A name that the store cannot even say ends its listing; with luck it stands outside our folders.
                Err(object_store::Error::InvalidPath { .. }) => {}
                Err(error) => return Err(explain(error)),
            }
        }
        let (mut listing, mut names) = (Listing::default(), Names::at_most(max_names));
        for folder in ObjectName::FOLDERS {
            self.list_below(&self.key(folder), &mut listing, &mut names, false).await.map_err(explain)?;
        }
        Ok(listing.sorted())
    }

    async fn list_below(
        &self,
        prefix: &Path,
        listing: &mut Listing,
        names: &mut Names,
        may_stop: bool,
    ) -> object_store::Result<Completeness> {
        self.count(Request::List);
        let mut entries = match &self.pager {
            Some(pager) => pager.list((!prefix.is_root()).then(|| format!("{prefix}/")), names.most()),
            None => self.store.list((!prefix.is_root()).then_some(prefix)),
        };
        while let Some(meta) = entries.try_next().await? {
            names.saw(meta.location.as_ref()).map_err(Endless::of_store)?;
            let name = self.relative(&meta).map_or(ParsedName::Stranger, ParsedName::parse);
            listing.add(name, || properties(&meta));
            if may_stop && listing.strangers > CROWD && listing.strangers > listing.known() {
                return Ok(Completeness::Crowded);
            }
        }
        Ok(Completeness::Whole)
    }

    pub(super) async fn get(&self, name: &ObjectName, limit: u64, place: &str) -> Result<Fetched> {
        self.count(Request::Get);
        let explain = |e| self.speaker.explain(&format!("read {name} from {place}"), &e);
        match self.store.get(&self.key(&name.to_string())).await {
            Ok(found) => self.read(found, limit).await.map_err(explain),
            Err(error) if is_gone(&error) => Ok(Fetched::Gone),
            Err(error) => Err(explain(error)),
        }
    }

    async fn read(&self, found: GetResult, limit: u64) -> object_store::Result<Fetched> {
        if found.meta.size > limit {
            return Ok(Fetched::TooLarge);
        }
        let mut chunks = found.into_stream();
        let mut body = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            self.counters.received(chunk.len());
            if (body.len() + chunk.len()) as u64 > limit {
                return Ok(Fetched::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched::Bytes(body.freeze()))
    }

    /// Opens an object from a place in it on, for so many bytes or to its end. What comes is counted and explained by the caller.
    pub(super) async fn body(
        &self,
        name: &ObjectName,
        from: u64,
        len: Option<u64>,
    ) -> object_store::Result<Option<BoxStream<'static, object_store::Result<Bytes>>>> {
        self.count(Request::Get);
        let range = match (from, len) {
            (0, None) => None,
            (from, None) => Some(GetRange::Offset(from)),
            (from, Some(len)) => Some(GetRange::Bounded(from..from.saturating_add(len.max(1)))),
        };
        let options = GetOptions { range, ..GetOptions::default() };
        match self.store.get_opts(&self.key(&name.to_string()), options).await {
            Ok(found) => Ok(Some(found.into_stream())),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes objects; one that is gone already is as good as deleted.
    pub(super) async fn delete(&self, names: Vec<ObjectName>, place: &str) -> Result<()> {
        if self.pager.is_none() {
            names.iter().for_each(|_| self.counters.request(Request::Delete));
        }
        let keys: Vec<_> = names.iter().map(|name| Ok(self.key(&name.to_string()))).collect();
        let mut deleted = self.store.delete_stream(futures::stream::iter(keys).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(self.explain(&format!("delete objects from {place}"), &error)),
            }
        }
        Ok(())
    }

    /// An error of the store in the user's words.
    pub(super) fn explain(&self, doing: &str, error: &object_store::Error) -> Error {
        self.speaker.explain(doing, error)
    }

    pub(super) async fn put(&self, name: &ObjectName, bytes: Bytes, place: &str) -> Result<()> {
        self.count(Request::Put);
        if self.pager.is_none() {
            self.counters.sent(bytes.len());
        }
        match self.store.put(&self.key(&name.to_string()), bytes.into()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.speaker.explain(&format!("write {name} to {place}"), &error)),
        }
    }

    pub(super) async fn modified_ms(&self, name: &ObjectName, place: &str) -> Result<Option<u64>> {
        self.count(Request::Head);
        match self.store.head(&self.key(&name.to_string())).await {
            Ok(meta) => Ok(Some(properties(&meta).modified_ms)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(self.speaker.explain(&format!("look for {name} in {place}"), &error)),
        }
    }

    fn count(&self, request: Request) {
        if self.pager.is_none() {
            self.counters.request(request);
        }
    }

    fn key(&self, name: &str) -> Path {
        self.base.parts().chain(name.split('/').map(PathPart::from)).collect()
    }

    fn relative<'a>(&self, meta: &'a ObjectMeta) -> Option<&'a str> {
        let key = meta.location.as_ref();
        if self.base.is_root() { Some(key) } else { key.strip_prefix(self.base.as_ref())?.strip_prefix('/') }
    }
}

enum Completeness {
    Whole,
    Crowded,
}

fn is_gone(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !is_bucket_missing(error)
}

/// Some servers list no tags; the time of the last write then stands in.
fn properties(meta: &ObjectMeta) -> Properties {
    let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
    let etag = meta.e_tag.clone().or_else(|| Some(format!("{modified_ms}ms")));
    Properties { size: meta.size, etag, modified_ms }
}
