//! A store in memory that counts requests as a bucket bills them: a listing is a request for each thousand names.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Barrier;
use zvon::Remote;

/// What a page of a listing holds.
const PAGE: usize = 1_000;

/// The store. Clones share what it holds and what it counted.
#[derive(Debug, Clone, Default)]
pub struct CountingStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    memory: InMemory,
    list: AtomicU64,
    get: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    held: Mutex<Option<Arc<Barrier>>>,
}

/// Requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub list: u64,
    pub get: u64,
    pub put: u64,
    pub delete: u64,
}

impl CountingStore {
    /// The store as a remote, of which nobody else shares the counters.
    pub fn remote(&self) -> Remote {
        Remote::from_store("counted", Arc::new(self.clone()), "base").unwrap()
    }

    /// The requests since the last time that this was asked.
    pub fn take(&self) -> Counts {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::SeqCst);
        let Inner { list, get, put, delete, .. } = &*self.0;
        Counts { list: take(list), get: take(get), put: take(put), delete: take(delete) }
    }

    /// The next deletion waits for two meetings at the barrier: one says that it is asked for, the other lets it go on.
    pub fn hold_deletion(&self) -> Arc<Barrier> {
        let barrier = Arc::new(Barrier::new(2));
        *self.0.held.lock().unwrap() = Some(Arc::clone(&barrier));
        barrier
    }

    /// Puts an object without being counted.
    pub async fn plant(&self, name: &str, bytes: Vec<u8>) {
        self.0.memory.put(&Path::from(format!("base/{name}")), bytes.into()).await.unwrap();
    }

    /// Takes an object away without being counted.
    pub async fn lose(&self, name: &str) {
        self.0.memory.delete(&Path::from(format!("base/{name}"))).await.unwrap();
    }

    /// The bytes of an object, without being counted.
    pub async fn look(&self, name: &str) -> Bytes {
        self.0.memory.get(&Path::from(format!("base/{name}"))).await.unwrap().bytes().await.unwrap()
    }

    /// The names in a folder, in order, without being counted.
    pub async fn names(&self, folder: &str) -> Vec<String> {
        let listed: Vec<ObjectMeta> =
            self.0.memory.list(Some(&Path::from(format!("base/{folder}")))).try_collect().await.unwrap();
        let mut names: Vec<String> =
            listed.iter().map(|meta| meta.location.as_ref().trim_start_matches("base/").to_owned()).collect();
        names.sort();
        names
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingStore")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put.fetch_add(1, Ordering::SeqCst);
        self.0.memory.put_opts(at, bytes, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get.fetch_add(1, Ordering::SeqCst);
        self.0.memory.get_opts(at, options).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // A bucket takes a thousand names with one request.
        self.0.delete.fetch_add(1, Ordering::SeqCst);
        let deleted = self.0.memory.delete_stream(at);
        let Some(barrier) = self.0.held.lock().unwrap().take() else { return deleted };
        let held = async move {
            barrier.wait().await;
            barrier.wait().await;
            deleted
        };
        stream::once(held).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, listed) = (Arc::clone(&self.0), self.0.memory.list(prefix));
        let counted = async move {
            let listed: Vec<Result<ObjectMeta>> = listed.collect().await;
            inner.list.fetch_add(listed.len().div_ceil(PAGE).max(1) as u64, Ordering::SeqCst);
            stream::iter(listed)
        };
        stream::once(counted).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.memory.copy_opts(from, to, options).await
    }
}
