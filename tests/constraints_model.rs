//! Random schemas with every kind of constraint, random writes, random syncs: all replicas show the same, which is what the
//! rules say of the log, from scratch, in whatever order the changes came.

mod common;
#[path = "properties/model.rs"]
#[allow(dead_code, reason = "the values of its cells and its reader of files are all that is used here")]
mod model;
#[path = "constraints_model/naive.rs"]
mod naive;
#[path = "constraints_model/schema.rs"]
mod schema;
#[path = "constraints_model/setup.rs"]
mod setup;
#[path = "constraints_model/writes.rs"]
mod writes;

use bytes::Bytes;
use common::dated_store::DatedStore;
use common::wall::{START_MS, Wall, on_the_wall};
use naive::{Naive, Shown, dump, hidden};
use object_store::{ObjectStoreExt, path::Path};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use schema::{Schema, any_schema, relate, root};
use setup::{mend_references, set_up};
use writes::{Step, Write, any_seed, any_step};
use zvon::{Join, Layout, Remote, Replica, SyncOptions, SyncReport};

/// A replica and its clock.
struct Peer {
    replica: Replica,
    wall: Wall,
    loose: bool,
}

impl Peer {
    async fn new(n: usize, ahead_ms: u64, schema: &Schema, seed: &[Write], loose: bool) -> Self {
        let wall = Wall::at(START_MS + ahead_ms);
        let replica = on_the_wall(Replica::in_memory().unwrap(), &wall, n as u64);
        set_up(&replica, schema, seed, loose).await;
        Self { replica, wall, loose }
    }

    async fn sync(&self, remote: &Remote) -> SyncReport {
        let mut options = SyncOptions::default();
        options.join = Some(Join::Same);
        self.replica.sync(remote, &options).await.unwrap()
    }

    async fn step(&self, step: &Step, schema: &Schema, store: &DatedStore, remote: &Remote) {
        self.wall.advance(1);
        match step {
            Step::Write(_, write) => write.run(&self.replica.connection(), schema),
            Step::Sync(_, late) => {
                store.deliver_late(*late);
                self.sync(remote).await;
                store.deliver_late(0);
                self.assert_verified().await;
            }
            Step::Seal(_) => drop(self.replica.log(None, None, 1).await.unwrap()),
            Step::Tick(_, ms) => self.wall.advance(*ms),
        }
    }

    async fn assert_verified(&self) {
        assert_eq!(self.replica.verify().await.unwrap().problems, [] as [&str; 0]);
    }

    fn shown(&self, schema: &Schema) -> Vec<Shown> {
        (0..schema.tables.len()).map(|no| dump(&self.replica.connection(), schema, no)).collect()
    }

    /// The replica shows what the rules say of its log.
    async fn assert_like_the_model(&self, schema: &Schema, who: &str) {
        let naive = Naive::fold(&self.replica.connection(), schema);
        for no in 0..schema.tables.len() {
            let shown = dump(&self.replica.connection(), schema, no);
            assert_eq!(shown, naive.shown(no), "t{no} of {who}; out by the model: {:?}", naive.out);
        }
        let held = self.replica.held().await.unwrap();
        let held: Vec<String> = held.rows.iter().map(|held| format!("{}/{}", held.table, held.row)).collect();
        assert_eq!(held.into_iter().collect::<std::collections::BTreeSet<_>>(), hidden(&naive), "held by {who}");
        self.assert_verified().await;
        let conn = self.replica.connection();
        assert_eq!(common::rows(&conn, "PRAGMA integrity_check"), ["'ok'"]);
        for (no, table) in schema.tables.iter().enumerate().filter(|(_, table)| table.enforce) {
            let sql = format!("SELECT * FROM pragma_foreign_key_check('t{no}') WHERE parent <> 'outside'");
            assert_eq!(common::rows(&conn, &sql), [] as [&str; 0], "{table:?} of {who}");
        }
    }
}

fn who(step: &Step) -> usize {
    match step {
        Step::Write(n, _) | Step::Sync(n, _) | Step::Seal(n) | Step::Tick(n, _) => *n,
    }
}

/// Syncs until a whole round moved nothing.
async fn converge(peers: &[Peer], remote: &Remote) {
    for _ in 0..peers.len() + 3 {
        let mut moved = 0;
        for peer in peers {
            let report = peer.sync(remote).await;
            moved += report.pulled + report.pushed + report.merged;
        }
        if moved == 0 {
            return;
        }
    }
    panic!("the replicas do not come to rest");
}

#[derive(Clone)]
struct Story {
    schema: Schema,
    /// Whether the first replica's schema lacks what a table alone can refuse.
    loose: bool,
    ahead: Vec<u64>,
    seed: Vec<Write>,
    steps: Vec<Step>,
    order: u64,
}

/// As the SQL that it is, a step a line.
impl std::fmt::Debug for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { schema, loose, ahead, order, .. } = self;
        writeln!(f, "loose {loose} ahead {ahead:?} order {order}\n{}", schema.sql(false))?;
        let modes = schema.tables.iter().map(|table| (table.identity, table.enforce)).enumerate();
        modes.into_iter().try_for_each(|(no, mode)| writeln!(f, "t{no}: {mode:?}"))?;
        for write in self.seed.iter().filter(|_| schema.is_layered()) {
            writeln!(f, "before: {}", write.statements(schema).join("; "))?;
        }
        for step in &self.steps {
            let n = who(step) % ahead.len();
            match step {
                Step::Write(_, write) => writeln!(f, "{n}: {}", write.statements(schema).join("; "))?,
                step => writeln!(f, "{n}: {step:?}")?,
            }
        }
        Ok(())
    }
}

async fn play(story: &Story) {
    let Story { schema, ahead, steps, .. } = story;
    let seed = if schema.is_layered() { &story.seed[..] } else { &[] };
    let store = DatedStore::new(&Wall::at(START_MS));
    let remote = store.remote();
    let mut peers = Vec::new();
    for (n, ahead_ms) in ahead.iter().enumerate() {
        peers.push(Peer::new(n, *ahead_ms, schema, seed, story.loose && n == 0).await);
    }
    let mut options = SyncOptions::default();
    (options.join, options.layout) = (Some(Join::Same), Some(Layout::Files));
    peers[0].replica.sync(&remote, &options).await.unwrap();
    for step in steps {
        peers[who(step) % peers.len()].step(step, schema, &store, &remote).await;
    }
    for peer in &peers {
        peer.sync(&remote).await;
        mend_references(&peer.replica.connection(), schema);
    }
    converge(&peers, &remote).await;
    for (n, peer) in peers.iter().enumerate() {
        assert_eq!(peer.replica.held().await.unwrap().references, [], "replica {n}");
        if !peer.loose {
            peer.assert_like_the_model(schema, &format!("replica {n}")).await;
        }
    }
    let strict = peers.iter().position(|peer| !peer.loose).unwrap();
    let shown = peers[strict].shown(schema);
    for peer in peers.iter().filter(|peer| !peer.loose) {
        assert_eq!(peer.shown(schema), shown);
    }
    deliver_in_any_order(story, &store, &shown).await;
}

/// The same files, delivered to fresh replicas batch by batch, in every order where they are few, else in some.
async fn deliver_in_any_order(story: &Story, store: &DatedStore, shown: &[Shown]) {
    let files = store.objects("changes").await;
    let mut others = Vec::new();
    for folder in ["identity", "schemas", "layout"] {
        others.extend(store.objects(folder).await);
    }
    if files.len() <= 5 {
        let places: Vec<usize> = (0..files.len()).collect();
        for order in permutations(&places) {
            let batches: Vec<&[usize]> = order.chunks(1).collect();
            deliver(&story.schema, &files, &others, &batches, shown).await;
        }
        return;
    }
    let mut state = story.order;
    for _ in 0..2 {
        let mut order: Vec<usize> = (0..files.len()).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, next(&mut state) % (n + 1));
        }
        let (mut batches, mut rest): (Vec<&[usize]>, &[usize]) = (Vec::new(), &order);
        while !rest.is_empty() {
            let size = 1 + next(&mut state) % rest.len().min(9);
            batches.push(&rest[..size]);
            rest = &rest[size..];
        }
        deliver(&story.schema, &files, &others, &batches, shown).await;
    }
}

/// Random numbers that a seed decides (SplitMix64).
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 33) as usize
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    let Some((first, rest)) = items.split_first() else { return vec![vec![]] };
    let mut all = Vec::new();
    for tail in permutations(rest) {
        for at in 0..=tail.len() {
            let mut order = tail.clone();
            order.insert(at, *first);
            all.push(order);
        }
    }
    all
}

/// When fresh replicas come: after all that was written.
const LATER_MS: u64 = 1_000_000;

type Files = [(String, Bytes)];

async fn deliver(schema: &Schema, files: &Files, others: &Files, batches: &[&[usize]], shown: &[Shown]) {
    let memory = DatedStore::new(&Wall::at(START_MS + LATER_MS));
    let remote = memory.remote();
    for (name, bytes) in others {
        memory.put(&Path::from(name.as_str()), bytes.clone().into()).await.unwrap();
    }
    let fresh = Peer::new(99, LATER_MS, schema, &[], false).await;
    for batch in batches {
        for at in *batch {
            memory.put(&Path::from(files[*at].0.as_str()), files[*at].1.clone().into()).await.unwrap();
        }
        fresh.sync(&remote).await;
        fresh.assert_like_the_model(schema, "a fresh replica midway").await;
    }
    assert_eq!(fresh.shown(schema), shown, "a fresh replica, by {batches:?}");
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn any_story() -> impl Strategy<Value = Story> {
    (
        any_schema(),
        prop::bool::weighted(0.3),
        prop::collection::vec(0_u64..2_000, 3..=4),
        any_seed(),
        prop::collection::vec(any_step(4), 0..50),
        any::<u64>(),
    )
        .prop_map(|(schema, loose, ahead, seed, steps, order)| Story { schema, loose, ahead, seed, steps, order })
}

/// The same with CHECKs on references, and indexes that ask for them.
fn any_related_story() -> impl Strategy<Value = Story> {
    (any_story(), any::<u64>()).prop_map(|(mut story, mut seed)| {
        relate(&mut story.schema, |n| next(&mut seed) % n);
        story.schema.reference = ["INTEGER", "TEXT", ""][next(&mut seed) % 3];
        root(&mut story.schema, |n| next(&mut seed) % n);
        story
    })
}

/// As many cases as a run of all tests has time for; `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/proptest-regressions/constraints_model.txt",
        ))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn replicas_show_what_the_rules_say(story in any_story()) {
        block_on(play(&story));
    }

    #[test]
    fn replicas_show_what_the_rules_say_of_checks_on_references(story in any_related_story()) {
        block_on(play(&story));
    }
}
