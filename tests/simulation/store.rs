//! Stores that fail as a seed decides: one that all replicas share, or a folder of each replica's own between which a carrier
//! brings files, late, in pieces and out of order. Both date what they hold by the simulation's time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

use crate::rng::{Rng, hash};
use crate::wall::Wall;

/// How often what goes wrong, in percent of the requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub fails_before: u64,
    pub fails_after: u64,
    /// It takes minutes, in which the process may be killed.
    pub hangs: u64,
    pub stale_listing: u64,
    /// Short, spoilt or older bytes.
    pub bad_bytes: u64,
}

/// What was done to requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected {
    pub failed_before: u64,
    pub failed_after: u64,
    pub hung: u64,
    pub stale: u64,
    pub bad_bytes: u64,
    pub lost: u64,
    pub torn: u64,
}

impl Injected {
    pub fn total(&self) -> u64 {
        self.failed_before + self.failed_after + self.hung + self.stale + self.bad_bytes + self.lost + self.torn
    }
}

/// A file on its way to one of the folders.
#[derive(Debug, Clone)]
enum Carried {
    Put(String, Bytes),
    Delete(String),
}

#[derive(Debug)]
struct State {
    faults: Faults,
    injected: Injected,
    attempts: BTreeMap<String, u64>,
    requests: u64,
    /// What listings of each view showed before, the last few of them.
    shown: Vec<VecDeque<Vec<ObjectMeta>>>,
    /// What names held that hold something else now.
    older: BTreeMap<String, Bytes>,
    /// By view, what is on its way there.
    carried: Vec<Vec<Carried>>,
    written: Vec<BTreeMap<String, u64>>,
}

#[derive(Debug)]
struct Inner {
    seed: u64,
    time: Wall,
    sealed: bool,
    views: Vec<InMemory>,
    state: Mutex<State>,
}

/// The places where the objects are.
#[derive(Debug, Clone)]
pub struct Stores(Arc<Inner>);

/// What one replica sees of them.
#[derive(Debug, Clone)]
pub struct View {
    stores: Stores,
    no: usize,
}

impl Stores {
    /// One store that all see, or so many folders, for what is sealed or not.
    pub fn new(seed: u64, time: &Wall, folders: Option<usize>, faults: Faults, sealed: bool) -> Self {
        let count = folders.unwrap_or(1);
        let state = State {
            faults,
            injected: Injected::default(),
            attempts: BTreeMap::new(),
            requests: 0,
            shown: vec![VecDeque::new(); count],
            older: BTreeMap::new(),
            carried: vec![Vec::new(); count],
            written: vec![BTreeMap::new(); count],
        };
        let views = (0..count).map(|_| InMemory::new()).collect();
        Self(Arc::new(Inner { seed, time: time.clone(), sealed, views, state: Mutex::new(state) }))
    }

    pub fn view(&self, replica: usize) -> View {
        View { stores: self.clone(), no: replica % self.0.views.len() }
    }

    pub fn are_folders(&self) -> bool {
        self.0.views.len() > 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn injected(&self) -> Injected {
        self.state().injected
    }

    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    /// From now on nothing goes wrong. Returns what went wrong before.
    pub fn stop_faults(&self) -> Faults {
        std::mem::take(&mut self.state().faults)
    }

    pub fn begin_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Takes some objects away, as nobody asked for.
    pub async fn lose(&self, rng: &mut Rng) {
        let view = rng.index(self.0.views.len());
        for name in self.names(view).await {
            if rng.percent(20) {
                let _ = self.0.views[view].delete(&Path::from(name.as_str())).await;
                self.state().injected.lost += 1;
                // What goes from one folder, a sync tool removes from the others.
                self.send(view, &Carried::Delete(name));
            }
        }
    }

    pub async fn names(&self, view: usize) -> Vec<String> {
        let listed: Vec<ObjectMeta> = self.0.views[view].list(None).try_collect().await.unwrap();
        let mut names: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
        names.sort();
        names
    }

    /// The bytes of everything below a folder, whichever view has them.
    pub async fn objects(&self) -> BTreeMap<String, Bytes> {
        let mut objects = BTreeMap::new();
        for (no, view) in self.0.views.iter().enumerate() {
            for name in self.names(no).await {
                let bytes = view.get(&Path::from(name.as_str())).await.unwrap().bytes().await.unwrap();
                objects.insert(name, bytes);
            }
        }
        objects
    }

    /// Carries some of what is on its way between the folders, in any order: deletions before the data that they follow,
    /// the first half of a file before the whole, now and then a second copy under another name.
    pub async fn carry(&self, rng: &mut Rng, all: bool) {
        for no in 0..self.0.views.len() {
            loop {
                let next = {
                    let mut state = self.state();
                    let waiting = &mut state.carried[no];
                    if waiting.is_empty() || (!all && rng.percent(15)) {
                        break;
                    }
                    let at = if all { 0 } else { rng.index(waiting.len()) };
                    // Of one name the older comes first: what a sync tool leaves in the end is the newest.
                    let name = waiting[at].name().to_owned();
                    let first = waiting.iter().position(|carried| carried.name() == name).expect("it is there");
                    waiting.remove(first)
                };
                self.arrive(no, next, rng, all).await;
            }
        }
    }

    async fn arrive(&self, no: usize, carried: Carried, rng: &mut Rng, whole: bool) {
        match carried {
            Carried::Delete(name) => drop(self.0.views[no].delete(&Path::from(name)).await),
            Carried::Put(name, bytes) => {
                let torn = !whole && rng.percent(10) && bytes.len() > 1;
                let part = if torn { bytes.slice(..rng.index(bytes.len())) } else { bytes.clone() };
                self.put(no, &name, part).await;
                if torn {
                    let mut state = self.state();
                    state.injected.torn += 1;
                    state.carried[no].insert(0, Carried::Put(name, bytes));
                } else if !whole && rng.percent(5) {
                    let copy = name.replacen('.', ".sync-conflict-20270115-101010-ABCDEFG.", 1);
                    self.put(no, &copy, bytes).await;
                }
            }
        }
    }

    async fn put(&self, no: usize, name: &str, bytes: Bytes) {
        self.0.views[no].put(&Path::from(name), bytes.into()).await.unwrap();
        let now = self.0.time.now_ms();
        self.state().written[no].insert(name.to_owned(), now);
    }

    fn send(&self, from: usize, carried: &Carried) {
        let mut state = self.state();
        for (no, waiting) in state.carried.iter_mut().enumerate() {
            if no != from {
                waiting.push(carried.clone());
            }
        }
    }
}

impl Carried {
    fn name(&self) -> &str {
        match self {
            Self::Put(name, _) | Self::Delete(name) => name,
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    FailBefore,
    FailAfter,
    /// For a listing: an older one. For bytes: others, as the number says.
    Wrong(u64),
}

impl View {
    /// Waits as long as the request takes, and says what becomes of it: by its kind, its object, and how often that was
    /// asked for, so that the order in which requests of several processes are made does not matter.
    async fn fate(&self, kind: &str, name: &str) -> Fate {
        let (fate, ms) = {
            let mut state = self.stores.state();
            state.requests += 1;
            // Definitions on an encrypted remote are called by what random keys make of them.
            let is_secret = self.stores.0.sealed && name.starts_with("schemas/");
            let name = if is_secret { "schemas/" } else { name };
            let key = format!("{} {kind} {name}", self.no);
            let attempt = state.attempts.entry(key.clone()).or_default();
            *attempt += 1;
            let mut rng = Rng::new(hash(self.stores.0.seed, &[key.as_bytes(), &attempt.to_le_bytes()]));
            let faults = state.faults;
            let (mut ms, mut fate) = (1 + rng.below(40), Fate::Pass);
            if rng.percent(faults.hangs) {
                state.injected.hung += 1;
                ms = 60_000 + rng.below(600_000);
            }
            if rng.percent(faults.fails_before) {
                state.injected.failed_before += 1;
                fate = Fate::FailBefore;
            } else if rng.percent(faults.fails_after) {
                state.injected.failed_after += 1;
                fate = Fate::FailAfter;
            } else if rng.percent(if kind == "list" { faults.stale_listing } else { 0 }) {
                state.injected.stale += 1;
                fate = Fate::Wrong(rng.next());
            } else if rng.percent(if kind == "get" { faults.bad_bytes } else { 0 }) {
                state.injected.bad_bytes += 1;
                fate = Fate::Wrong(rng.next());
            }
            (fate, ms)
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        fate
    }

    fn memory(&self) -> &InMemory {
        &self.stores.0.views[self.no]
    }

    fn date(&self, meta: &mut ObjectMeta) {
        let state = self.stores.state();
        let wanted = state.written[self.no].get(meta.location.as_ref()).copied().unwrap_or_default();
        let there = u64::try_from(meta.last_modified.timestamp_millis()).unwrap();
        if wanted >= there {
            meta.last_modified += Duration::from_millis(wanted - there);
        } else {
            meta.last_modified -= Duration::from_millis(there - wanted);
        }
    }

    async fn listed(self, prefix: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let key = prefix.as_ref().map(Path::to_string).unwrap_or_default();
        let fate = self.fate("list", &key).await;
        if fate == Fate::FailBefore {
            return vec![Err(fault())];
        }
        let mut now: Vec<ObjectMeta> = self.memory().list(None).try_collect().await.unwrap();
        now.iter_mut().for_each(|meta| self.date(meta));
        now.sort_by(|a, b| a.location.cmp(&b.location));
        let mut state = self.stores.state();
        let before = &mut state.shown[self.no];
        let mut shown = match fate {
            Fate::Wrong(n) if !before.is_empty() => before[n as usize % before.len()].clone(),
            _ => now.clone(),
        };
        before.push_back(now);
        if before.len() > 4 {
            before.pop_front();
        }
        drop(state);
        shown.retain(|meta| prefix.as_ref().is_none_or(|prefix| meta.location.prefix_matches(prefix)));
        let mut shown: Vec<Result<ObjectMeta>> = shown.into_iter().map(Ok).collect();
        if fate == Fate::FailAfter {
            shown.truncate(shown.len() / 2);
            shown.push(Err(fault()));
        }
        shown
    }

    /// Other bytes than the object has. A change's own file has no checksum, so that spoilt means unreadable there.
    fn spoilt(&self, name: &str, bytes: &Bytes, n: u64) -> Bytes {
        let older = self.stores.state().older.get(name).cloned();
        let at = (n / 3) as usize % bytes.len().max(1);
        match n % 3 {
            0 => bytes.slice(..at),
            1 if older.is_some() => older.unwrap(),
            _ if name.starts_with("packs/") && !bytes.is_empty() => {
                let mut other = bytes.to_vec();
                other[at] ^= 1 << (n % 8);
                other.into()
            }
            _ => [&[0xC1], &bytes[bytes.len().min(1)..]].concat().into(),
        }
    }
}

fn fault() -> object_store::Error {
    object_store::Error::Generic { store: "simulated", source: "as the seed asked for".into() }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a simulated store")
    }
}

#[async_trait]
impl ObjectStore for View {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fate = self.fate("put", at.as_ref()).await;
        if fate == Fate::FailBefore {
            return Err(fault());
        }
        let bytes: Bytes = payload.clone().into();
        if let Ok(before) = self.memory().get(at).await {
            let before = before.bytes().await.unwrap();
            if before != bytes {
                self.stores.state().older.insert(at.to_string(), before);
            }
        }
        let put = self.memory().put_opts(at, payload, options).await?;
        let now = self.stores.0.time.now_ms();
        self.stores.state().written[self.no].insert(at.to_string(), now);
        self.stores.send(self.no, &Carried::Put(at.to_string(), bytes));
        if fate == Fate::FailAfter { Err(fault()) } else { Ok(put) }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.memory().put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { "head" } else { "get" };
        let fate = self.fate(kind, at.as_ref()).await;
        if fate == Fate::FailBefore {
            return Err(fault());
        }
        let mut found = match fate {
            Fate::Wrong(n) => {
                let bytes = self.memory().get(at).await?.bytes().await?;
                let other = InMemory::new();
                other.put(at, self.spoilt(at.as_ref(), &bytes, n).into()).await?;
                other.get_opts(at, options).await?
            }
            _ => self.memory().get_opts(at, options).await?,
        };
        self.date(&mut found.meta);
        if fate == Fate::FailAfter { Err(fault()) } else { Ok(found) }
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let view = self.clone();
        at.then(move |path| {
            let view = view.clone();
            async move {
                let path = path?;
                let fate = view.fate("delete", path.as_ref()).await;
                if fate == Fate::FailBefore {
                    return Err(fault());
                }
                view.memory().delete(&path).await?;
                view.stores.send(view.no, &Carried::Delete(path.to_string()));
                if fate == Fate::FailAfter { Err(fault()) } else { Ok(path) }
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::once(self.clone().listed(prefix.cloned())).flat_map(stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory().copy_opts(from, to, options).await
    }
}
