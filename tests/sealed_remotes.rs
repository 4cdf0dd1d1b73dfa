//! Encrypted remotes under everything that may become of them: each byte changed, each two objects swapped, and keys that three
//! replicas change while they write and see each other's objects late.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use zvon::{Error, ErrorKind, Layout, Lock, Recipient, Remote, Replica, Secret, Settings, SyncOptions, SyncReport};

const TABLES: &str = "CREATE TABLE patient (id TEXT PRIMARY KEY, diagnosis TEXT)";

type Objects = BTreeMap<String, Vec<u8>>;

/// A store with these objects.
async fn store(objects: &Objects) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    put(&store, objects).await;
    store
}

async fn put(store: &InMemory, objects: &Objects) {
    for (name, bytes) in objects {
        store.put(&Path::from(name.as_str()), bytes.clone().into()).await.unwrap();
    }
}

async fn objects(store: &InMemory) -> Objects {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut objects = Objects::new();
    for object in listed {
        let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
        objects.insert(object.location.to_string(), bytes.to_vec());
    }
    objects
}

fn remote_in(store: &Arc<InMemory>, secret: &Secret) -> Remote {
    Remote::from_store("memory://a/store", store.clone(), "").unwrap().with_secret(secret.clone())
}

fn run_async<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// An object of each kind, two loose changes and a pack among them; the rows that they make; what opens them.
async fn one_of_each() -> (Objects, Vec<String>, Secret) {
    let (store, secret, a) = (Arc::new(InMemory::new()), Secret::generate(), replica(TABLES).await);
    let remote = remote_in(&store, &secret);
    a.encrypt_remote(&remote, &Lock::Recipients(secret.recipients())).await.unwrap();
    run(&a, "INSERT INTO patient VALUES ('emil', 'measles'), ('erna', 'mumps')");
    let mut options = SyncOptions::default();
    options.layout = Some(Layout::Packs);
    a.sync(&remote, &options).await.unwrap();
    run(
        &a,
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO patient SELECT 'p' || i, 'cold' FROM n",
    );
    sync(&a, &remote).await;
    let objects = objects(&store).await;
    for kind in ["changes/", "identity/", "keys/", "layout/", "packs/", "schemas/"] {
        assert!(objects.keys().any(|name| name.starts_with(kind)), "{kind}");
    }
    (objects, table(&a, "patient"), secret)
}

/// What comes of a clone of what lies there: its report, and the rows; none where the table's definition was refused.
async fn cloned(objects: &Objects, secret: &Secret) -> Result<(SyncReport, Vec<String>), Error> {
    let folder = tempfile::tempdir().unwrap();
    let (remote, path) = (remote_in(&store(objects).await, secret), folder.path().join("clone.db"));
    let (replica, report) = Replica::clone_from(&remote, path, Settings::default(), None).await?;
    let has_table = !rows(&replica.connection(), "PRAGMA table_info(patient)").is_empty();
    Ok((report, if has_table { table(&replica, "patient") } else { Vec::new() }))
}

/// Whether a spoilt object was refused: all of the remote because of it, or it alone and by name.
fn is_refused(outcome: &Result<(SyncReport, Vec<String>), Error>, name: &str) -> bool {
    match outcome {
        Err(error) => matches!(error.kind(), ErrorKind::Key | ErrorKind::Remote),
        Ok((report, _)) => {
            report.newly_rejected.iter().any(|file| file.name == name)
                || report.notices.iter().any(|notice| notice.contains(name))
        }
    }
}

fn told(outcome: &Result<(SyncReport, Vec<String>), Error>) -> String {
    format!("{:?}", outcome.as_ref().map(|(report, _)| report))
}

fn assert_only_known(outcome: &Result<(SyncReport, Vec<String>), Error>, rows: &[String]) {
    if let Ok((_, shown)) = outcome {
        assert!(shown.iter().all(|row| rows.contains(row)), "{shown:?}");
    }
}

#[test]
fn any_byte_that_changes_in_any_object_is_refused() {
    let (objects, rows, secret) = run_async(one_of_each());
    let names: Vec<String> = objects.keys().cloned().collect();
    let config = ProptestConfig { cases: 256, ..ProptestConfig::default() };
    proptest!(config, |(name in prop::sample::select(names), at in any::<prop::sample::Index>(), flip in 1..=255_u8)| {
        let mut spoilt = objects.clone();
        let bytes = spoilt.get_mut(&name).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let outcome = run_async(cloned(&spoilt, &secret));
        prop_assert!(is_refused(&outcome, &name), "byte {at} of {name}, {flip}: {}", told(&outcome));
        assert_only_known(&outcome, &rows);
    });
}

#[test]
fn any_object_that_is_cut_is_refused() {
    let (objects, rows, secret) = run_async(one_of_each());
    for (name, bytes) in &objects {
        for left in [0, 1, 4, 20, 36, bytes.len() / 2, bytes.len() - 1] {
            let mut spoilt = objects.clone();
            spoilt.insert(name.clone(), bytes[..left.min(bytes.len() - 1)].to_vec());
            let outcome = run_async(cloned(&spoilt, &secret));
            assert!(is_refused(&outcome, name), "{left} bytes of {name}: {}", told(&outcome));
            assert_only_known(&outcome, &rows);
        }
    }
}

#[test]
fn any_two_objects_that_are_swapped_are_refused_both() {
    let (objects, rows, secret) = run_async(one_of_each());
    let names: Vec<&String> = objects.keys().collect();
    for (at, one) in names.iter().enumerate() {
        for two in &names[at + 1..] {
            let mut swapped = objects.clone();
            swapped.insert((*one).clone(), objects[*two].clone());
            swapped.insert((*two).clone(), objects[*one].clone());
            let outcome = run_async(cloned(&swapped, &secret));
            assert!(is_refused(&outcome, one) && is_refused(&outcome, two), "{one} and {two}: {}", told(&outcome));
            assert_only_known(&outcome, &rows);
        }
    }
}

#[test]
fn an_object_under_another_name_of_its_kind_is_refused() {
    let (objects, rows, secret) = run_async(one_of_each());
    for name in objects.keys() {
        let (kind, rest) = name.split_once('/').unwrap();
        // The last digit before the ending, if there is one.
        let end = rest.find('.').unwrap_or(rest.len());
        let digit = if rest.as_bytes()[end - 1] == b'0' { "1" } else { "0" };
        let other = format!("{kind}/{}{digit}{}", &rest[..end - 1], &rest[end..]);
        let mut moved = objects.clone();
        let bytes = moved.remove(name).unwrap();
        moved.insert(other.clone(), bytes);
        let outcome = run_async(cloned(&moved, &secret));
        // Nobody asks for a definition by a name that it cannot have.
        assert!(kind == "schemas" || is_refused(&outcome, &other), "{other}: {}", told(&outcome));
        assert_only_known(&outcome, &rows);
    }
}

/// What a replica does next; `Look` brings it what lies at another one's.
#[derive(Debug, Clone)]
enum Step {
    Look(usize),
    Rotate,
    Add(usize),
    Remove(usize),
    Write,
}

const REPLICAS: usize = 3;
const GUESTS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        2 => (0..REPLICAS).prop_map(Step::Look),
        1 => Just(Step::Rotate),
        2 => (0..GUESTS).prop_map(Step::Add),
        2 => (0..GUESTS).prop_map(Step::Remove),
        3 => Just(Step::Write),
    ];
    prop::collection::vec((0..REPLICAS, step), 1..16)
}

/// Three replicas of one owner, each with a folder of its own that a sync tool brings together with the others now and then.
struct World {
    owner: Secret,
    guests: Vec<Secret>,
    stores: Vec<Arc<InMemory>>,
    replicas: Vec<Replica>,
    rows: usize,
}

impl World {
    async fn new() -> Self {
        let (owner, first) = (Secret::generate(), Arc::new(InMemory::new()));
        let guests: Vec<Secret> = (0..GUESTS).map(|_| Secret::generate()).collect();
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(replica(TABLES).await);
        }
        let lock = Lock::Recipients([owner.recipients(), guests[0].recipients()].concat());
        replicas[0].encrypt_remote(&remote_in(&first, &owner), &lock).await.unwrap();
        for replica in &replicas {
            sync(replica, &remote_in(&first, &owner)).await;
        }
        let stores = vec![first.clone(), Arc::new(first.fork()), Arc::new(first.fork())];
        Self { owner, guests, stores, replicas, rows: 0 }
    }

    fn remote(&self, replica: usize) -> Remote {
        remote_in(&self.stores[replica], &self.owner)
    }

    fn recipient(&self, guest: usize) -> Recipient {
        self.guests[guest].recipients().remove(0)
    }

    async fn step(&mut self, at: usize, step: &Step) {
        let (replica, remote) = (self.replicas[at].clone(), self.remote(at));
        let done = match step {
            Step::Look(other) => {
                put(&self.stores[at], &objects(&self.stores[*other]).await).await;
                replica.sync(&remote, &SyncOptions::default()).await.map(drop)
            }
            Step::Rotate => replica.rotate_keys(&remote, None).await.map(drop),
            Step::Add(guest) => replica.add_recipient(&remote, &self.recipient(*guest)).await.map(drop),
            Step::Remove(guest) => replica.remove_recipient(&remote, &self.recipient(*guest)).await.map(drop),
            Step::Write => {
                run(&replica, &format!("INSERT INTO patient VALUES ('{}', 'by {at}')", self.rows));
                self.rows += 1;
                replica.sync(&remote, &SyncOptions::default()).await.map(drop)
            }
        };
        // Who is in already is not added, and who is not is not removed.
        assert!(
            done.as_ref().is_ok_and(|()| true) || done.as_ref().is_err_and(|e| e.kind() == ErrorKind::Usage),
            "{done:?}"
        );
    }

    /// Everybody sees everything, until nobody has anything new.
    async fn meet(&mut self) {
        for _ in 0..3 {
            for at in 0..REPLICAS {
                for other in 0..REPLICAS {
                    self.step(at, &Step::Look(other)).await;
                }
            }
        }
    }
}

/// The rows that a guest comes by with his key, whatever part of the key files he lays out for his own program.
async fn rows_for(all: &Objects, guest: &Secret) -> Vec<String> {
    let keys: Vec<&String> = all.keys().filter(|name| name.starts_with("keys/")).collect();
    let mut read = Vec::new();
    let choices = keys.iter().map(|key| vec![*key]).chain([keys.clone()]);
    for choice in choices {
        let laid_out = all.iter().filter(|(name, _)| !name.starts_with("keys/") || choice.contains(name));
        let laid_out = laid_out.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        match cloned(&laid_out, guest).await {
            Ok((_, rows)) => read.extend(rows),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Key, "{error}"),
        }
    }
    read
}

async fn converges(steps: &[(usize, Step)]) {
    let mut world = World::new().await;
    for (at, step) in steps {
        world.step(*at, step).await;
    }
    world.meet().await;
    // What is written from now on is for the members alone.
    run(&world.replicas[0], "INSERT INTO patient VALUES ('last', 'for members')");
    world.meet().await;
    let all = table(&world.replicas[0], "patient");
    assert_eq!(all.len(), world.rows + 1);
    let report = world.replicas[0].keys(&world.remote(0)).await.unwrap();
    for at in 0..REPLICAS {
        assert_eq!(table(&world.replicas[at], "patient"), all);
        assert_verified(&world.replicas[at], &world.remote(at)).await;
        assert_eq!(world.replicas[at].keys(&world.remote(at)).await.unwrap(), report);
    }
    let there = objects(&world.stores[0]).await;
    for (at, guest) in world.guests.iter().enumerate() {
        let is_member = report.recipients.contains(&world.recipient(at).to_string());
        let read = rows_for(&there, guest).await;
        let reads_last = read.iter().any(|row| row.contains("'for members'"));
        assert_eq!(reads_last, is_member, "guest {at}");
        assert!(!is_member || all.iter().all(|row| read.contains(row)), "guest {at} lacks rows");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rotations_additions_removals_and_writes_in_any_order_converge(steps in steps()) {
        run_async(converges(&steps));
    }
}
