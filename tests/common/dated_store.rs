//! A store in memory that a test can look into, and whose own clock the test owns.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use zvon::Remote;

use super::wall::Wall;

/// Memory whose `last_modified` is what a test's clock said at the time of the write.
#[derive(Debug, Clone)]
pub struct DatedStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: InMemory,
    wall: Wall,
    written: Mutex<HashMap<Path, u64>>,
    late: AtomicU64,
}

impl DatedStore {
    pub fn new(wall: &Wall) -> Self {
        Self(Arc::new(Inner {
            memory: InMemory::new(),
            wall: wall.clone(),
            written: Mutex::default(),
            late: AtomicU64::new(0),
        }))
    }

    /// Lets listings lack a third of the change files, as a shared folder that delivers late does; 0 shows all.
    pub fn deliver_late(&self, which: u64) {
        self.0.late.store(which, Ordering::Relaxed);
    }

    fn is_late(&self, meta: &ObjectMeta) -> bool {
        let (late, name) = (self.0.late.load(Ordering::Relaxed), meta.location.as_ref());
        let sum: u64 = name.bytes().map(u64::from).sum();
        late > 0 && name.starts_with("changes/") && (sum + late).is_multiple_of(3)
    }

    /// All of the store as a remote.
    pub fn remote(&self) -> Remote {
        Remote::from_store("memory://dated", Arc::new(self.clone()), "").unwrap()
    }

    /// The names and bytes of everything below a folder.
    pub async fn objects(&self, folder: &str) -> Vec<(String, Bytes)> {
        let listed: Vec<ObjectMeta> = self.0.memory.list(Some(&Path::from(folder))).try_collect().await.unwrap();
        let mut objects = Vec::new();
        for meta in listed {
            let bytes = self.0.memory.get(&meta.location).await.unwrap().bytes().await.unwrap();
            objects.push((meta.location.to_string(), bytes));
        }
        objects.sort();
        objects
    }

    fn date(&self, meta: &mut ObjectMeta) {
        let written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = written.get(&meta.location).copied().unwrap_or_default();
        let there = u64::try_from(meta.last_modified.timestamp_millis()).unwrap();
        if wanted >= there {
            meta.last_modified += Duration::from_millis(wanted - there);
        } else {
            meta.last_modified -= Duration::from_millis(there - wanted);
        }
    }
}

impl fmt::Display for DatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatedStore")
    }
}

#[async_trait]
impl ObjectStore for DatedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let now = self.0.wall.now_ms();
        self.0.written.lock().unwrap_or_else(PoisonError::into_inner).insert(location.clone(), now);
        self.0.memory.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.memory.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.0.memory.get_opts(location, options).await?;
        self.date(&mut found.meta);
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.memory.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let (late, listed) = (self.clone(), self.0.memory.list(prefix));
        let listed = listed.try_filter(move |meta| std::future::ready(!late.is_late(meta)));
        let dated = listed.map_ok(move |mut meta| {
            store.date(&mut meta);
            meta
        });
        dated.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.memory.copy_opts(from, to, options).await
    }
}
