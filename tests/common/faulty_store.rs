//! An object store that misbehaves as it is told: a rule decides, request by request, what becomes of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use tokio::sync::{Barrier, Notify};

/// The requests that a sync makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    List,
    Get,
    Put,
}

/// What becomes of a request.
#[derive(Clone)]
pub enum Verdict {
    Pass,
    /// It fails and nothing was done.
    FailBefore,
    /// It fails though it was done; a listing, half way through.
    FailAfter,
    /// It is never answered; whoever waits at the notice hears of it.
    Hang(Arc<Notify>),
    /// It is answered when all who are to meet at the barrier have asked.
    Meet(Arc<Barrier>),
    /// It is answered once everybody else has had turns.
    Yield,
    /// It is answered, with this size as that of every object.
    Claim(u64),
    /// A listing is answered with made-up names of 100,000 numbers, over and over without an end.
    Names(Arc<dyn Fn(u64) -> String + Send + Sync>),
}

type Rule = dyn Fn(usize, Request) -> Verdict + Send + Sync;

/// A store in memory behind a rule, which gets the number of the request, from 0, and its kind.
pub struct FaultyStore {
    inner: Arc<InMemory>,
    rule: Arc<Rule>,
    requests: AtomicUsize,
}

impl FaultyStore {
    pub fn new(inner: &Arc<InMemory>, rule: impl Fn(usize, Request) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), rule: Arc::new(rule), requests: AtomicUsize::new(0) })
    }

    /// How many requests have been made so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn judge(&self, request: Request) -> Verdict {
        (self.rule)(self.requests.fetch_add(1, Ordering::SeqCst), request)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty store")
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn fault() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "as the test asked for".into() }
}

/// Does what has to be done before a request is passed on; an error where it is not to be.
async fn begin(verdict: &Verdict) -> object_store::Result<()> {
    match verdict {
        Verdict::FailBefore => Err(fault()),
        Verdict::Hang(notice) => {
            notice.notify_one();
            std::future::pending().await
        }
        Verdict::Meet(barrier) => {
            barrier.wait().await;
            Ok(())
        }
        Verdict::Yield => {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            Ok(())
        }
        Verdict::Pass | Verdict::FailAfter | Verdict::Claim(_) | Verdict::Names(_) => Ok(()),
    }
}

fn end<T>(verdict: &Verdict, done: T) -> object_store::Result<T> {
    if matches!(verdict, Verdict::FailAfter) { Err(fault()) } else { Ok(done) }
}

async fn list_all(
    inner: Arc<InMemory>,
    prefix: Option<Path>,
    verdict: Verdict,
) -> Vec<object_store::Result<ObjectMeta>> {
    // Those who meet have all seen what was there before any of them goes on.
    let mut listed: Vec<_> = inner.list(prefix.as_ref()).collect().await;
    if let Err(error) = begin(&verdict).await {
        return vec![Err(error)];
    }
    match verdict {
        Verdict::FailAfter => {
            listed.truncate(listed.len() / 2);
            listed.push(Err(fault()));
        }
        Verdict::Claim(size) => listed.iter_mut().flatten().for_each(|meta| meta.size = size),
        _ => {}
    }
    listed
}

/// It yields now and then, so that a test's clock may run out.
fn list_over_and_over(names: &dyn Fn(u64) -> String) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let meta = |name: String| ObjectMeta {
        location: Path::from(name),
        last_modified: std::time::UNIX_EPOCH.into(),
        size: 1,
        e_tag: None,
        version: None,
    };
    let metas: Vec<ObjectMeta> = (0..100_000).map(|n| meta(names(n))).collect();
    let again = stream::iter(0..).then(move |_| {
        let metas = metas.clone();
        async move {
            tokio::task::yield_now().await;
            stream::iter(metas.into_iter().map(Ok))
        }
    });
    again.flatten().boxed()
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let verdict = self.judge(Request::Put);
        begin(&verdict).await?;
        end(&verdict, self.inner.put_opts(at, bytes, options).await?)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let verdict = self.judge(Request::Get);
        begin(&verdict).await?;
        let mut found = self.inner.get_opts(at, options).await?;
        if let Verdict::Claim(size) = verdict {
            found.meta.size = size;
        }
        end(&verdict, found)
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.judge(Request::List) {
            Verdict::Names(names) => list_over_and_over(&*names),
            verdict => {
                let listed = list_all(Arc::clone(&self.inner), prefix.cloned(), verdict);
                stream::once(listed).flat_map(stream::iter).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
