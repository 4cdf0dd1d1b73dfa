//! One run: what a seed makes of machines, users, clocks, stores and faults; and what must be true when all that is over.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use zvon::{
    CompactOptions, Error, ErrorKind, Join, Layout, Lock, Remote, Secret, SyncOptions, SyncReport, WatchOptions,
};

use crate::naive::{Naive, hidden};
use crate::peer::{Making, Peer, Version};
use crate::rng::{Rng, hash};
use crate::schema::{Identity, Schema, any_schema, name, relate, root};
use crate::setup::mend_references;
use crate::store::{Faults, Stores};
use crate::triggers::{any_triggers, dropped};
use crate::wall::{DAY_MS, HOUR_MS, START_MS, Wall};
use crate::writes::{Write, any_seed, any_write};

const YEAR_MS: u64 = 365 * DAY_MS;
/// Seeds from here on play in a wider world: several remotes, some of them encrypted, whose keys change. Those below, with one
/// plain remote, stay what they were when some of them failed.
pub const WIDE: u64 = 1_000_000;

/// From here on constraints say themselves, too, what becomes of rows that break them.
pub const CLAUSES: u64 = 2_000_000;

/// From here on they do not, but the tables have triggers of the user's own, which write to the tables.
pub const TRIGGERS: u64 = 3_000_000;

/// From here on, beside all that, tables are made anew behind zvon's back, as migration tools do.
pub const REBUILDS: u64 = 4_000_000;

/// From here on, beside all that, CHECKs compare references, or ask for them.
pub const RELATIONS: u64 = 5_000_000;

/// From here on references may be columns of text, of no type, or of another type of numbers.
pub const DIGITS: u64 = 6_000_000;

/// From here on, beside all that, indexes count rows that have no reference.
pub const ROOTS: u64 = 7_000_000;

/// Recipients whose keys nobody has any more.
const GUESTS: [&str; 2] = [
    "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
    "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg",
];

/// What a run did, and a number that stands for all that it left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub digest: u64,
    pub steps: u64,
    pub syncs: u64,
    pub failed_syncs: u64,
    pub compactions: u64,
    pub watches: u64,
    pub crashes: u64,
    pub restores: u64,
    /// Rotations of keys, and recipients who came or went.
    pub key_changes: u64,
    /// Remotes, and those of them that are encrypted.
    pub remotes: u64,
    pub encrypted: u64,
    pub requests: u64,
    /// Requests that failed, hung, or were answered wrongly; objects lost or torn.
    pub faults: u64,
}

impl Outcome {
    /// Counts another run's; the digest stays that of no single run.
    pub fn add(&mut self, other: &Self) {
        self.digest = self.digest.rotate_left(1) ^ other.digest;
        self.steps += other.steps;
        self.syncs += other.syncs;
        self.failed_syncs += other.failed_syncs;
        self.compactions += other.compactions;
        self.watches += other.watches;
        self.crashes += other.crashes;
        self.restores += other.restores;
        self.key_changes += other.key_changes;
        self.remotes += other.remotes;
        self.encrypted += other.encrypted;
        self.requests += other.requests;
        self.faults += other.faults;
    }
}

#[derive(Debug, Default)]
struct Counters {
    syncs: AtomicU64,
    failed: AtomicU64,
    compactions: AtomicU64,
    key_changes: AtomicU64,
}

/// One remote, as all see it.
struct Place {
    stores: Stores,
    /// What opens it, where it is encrypted.
    secret: Option<Secret>,
}

/// The world of one run.
struct Story {
    rng: Rng,
    values: TestRunner,
    schema: Schema,
    time: Wall,
    places: Vec<Place>,
    /// Decides about what only the wider world has.
    wide: Option<Rng>,
    /// Decides which tables are made anew, where that happens.
    rebuilds: Option<Rng>,
    peers: Vec<Peer>,
    files: bool,
    folder: tempfile::TempDir,
    counters: Arc<Counters>,
    outcome: Outcome,
    token: u64,
    /// Tokens that a successful sync brought to a remote which lost nothing since: they must outlive any replica.
    safe: BTreeSet<u64>,
    loud: bool,
}

/// Plays a seed, on a runtime of its own: one thread, a clock that runs when everybody waits.
pub fn play(seed: u64, loud: bool) -> Outcome {
    zvon::work_in_place(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut story = Story::begin(seed, loud).await;
        story.go_on().await;
        story.end().await
    })
}

pub fn some<T>(values: &mut TestRunner, strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(values).unwrap().current()
}

/// The same write to another table.
fn of_table(mut write: Write, no: usize) -> Write {
    match &mut write {
        Write::Insert { table, .. }
        | Write::Update { table, .. }
        | Write::UpdateAll { table, .. }
        | Write::Rekey { table, .. }
        | Write::Delete { table, .. }
        | Write::DeleteAll { table }
        | Write::Swap { table, .. }
        | Write::Renumber { table, .. }
        | Write::Recycle { table, .. } => *table = no,
        Write::Pragma(..) => {}
    }
    write
}

impl Story {
    async fn begin(seed: u64, loud: bool) -> Self {
        let mut rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..4).flat_map(|n| hash(seed, &[&[n]]).to_le_bytes()).collect();
        let mut values = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let mut schema = some(&mut values, any_schema());
        if (CLAUSES..TRIGGERS).contains(&seed) {
            let clauses = [" ON CONFLICT REPLACE", " ON CONFLICT IGNORE", " ON CONFLICT ROLLBACK", " ON CONFLICT FAIL"];
            schema.clause = *Rng::new(hash(seed, &[b"clauses"])).pick(&clauses);
        }
        if seed >= RELATIONS {
            let mut rng = Rng::new(hash(seed, &[b"relations"]));
            relate(&mut schema, |n| rng.index(n));
        }
        if seed >= DIGITS {
            schema.reference = *Rng::new(hash(seed, &[b"digits"])).pick(&["TEXT", "TEXT", "", "NUMERIC", "VARCHAR(9)"]);
        }
        if seed >= ROOTS {
            let mut rng = Rng::new(hash(seed, &[b"roots"]));
            root(&mut schema, |n| rng.index(n));
        }
        if seed >= TRIGGERS {
            let mut rng = Rng::new(hash(seed, &[b"triggers"]));
            schema.triggers = any_triggers(&mut rng, &mut values, &schema);
        }
        let rows = if schema.is_layered() { some(&mut values, any_seed()) } else { Vec::new() };
        let (time, count) = (Wall::at(START_MS + YEAR_MS), 2 + rng.index(3));
        let level = *rng.pick(&[0, 1, 5, 15]);
        let faults = Faults {
            fails_before: level,
            fails_after: level,
            hangs: level / 4,
            stale_listing: level * 2,
            bad_bytes: level,
        };
        let mut wide = (seed >= WIDE).then(|| Rng::new(hash(seed, &[b"wide"])));
        let place = |rng: &mut Rng, wide: Option<&mut Rng>| {
            let (seed, folders) = (rng.next(), rng.percent(40).then_some(6));
            let secret = wide.is_some_and(|wide| wide.percent(60)).then(Secret::generate);
            Place { stores: Stores::new(seed, &time, folders, faults, secret.is_some()), secret }
        };
        let mut places = vec![place(&mut rng, wide.as_mut())];
        if let Some(wide) = &mut wide
            && wide.percent(35)
        {
            let mut other = Rng::new(wide.next());
            places.push(place(&mut other, Some(wide)));
        }
        let files = rng.percent(60);
        let mut story = Self {
            values,
            schema,
            time,
            places,
            wide,
            rebuilds: (seed >= REBUILDS).then(|| Rng::new(hash(seed, &[b"rebuilds"]))),
            peers: Vec::new(),
            files,
            folder: tempfile::tempdir().unwrap(),
            counters: Arc::default(),
            outcome: Outcome::default(),
            token: 0,
            safe: BTreeSet::new(),
            loud,
            rng,
        };
        let wrong = story.rng.percent(50);
        for n in 0..count {
            let skew = if wrong { story.skew() } else { story.rng.below(2_000) as i64 };
            let making = Making {
                seed: story.rng.next(),
                wall: Wall::at(story.time.now_ms().saturating_add_signed(skew)),
                remotes: story.remotes(n),
                grace: Duration::from_millis(*story.rng.pick(&[0, 1_000, HOUR_MS])),
                path: files.then(|| story.path(n)),
                schema: &story.schema,
                rows: &rows,
                loose: false,
            };
            story.say(|| format!("replica {n}: {skew} ms ahead"));
            let peer = Peer::new(making).await;
            story.peers.push(peer);
        }
        story.encrypt().await;
        if loud {
            let modes: Vec<_> = story.schema.tables.iter().map(|table| (table.identity, table.enforce)).collect();
            println!("{}\n{modes:?}\n{faults:?}", story.schema.sql(false));
            for place in &story.places {
                println!("a remote of folders: {}, encrypted: {}", place.stores.are_folders(), place.secret.is_some());
            }
            rows.iter().for_each(|write| println!("before: {}", write.statements(&story.schema).join("; ")));
        }
        story
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.loud {
            println!("{} {}", self.time.now_ms(), what());
        }
    }

    fn path(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("replica{n}.db"))
    }

    /// The remotes that a replica knows: the first replica all of them, so that in the end everything gets everywhere.
    fn remotes(&mut self, n: usize) -> Vec<(usize, Remote)> {
        let mut known: Vec<usize> = (0..self.places.len()).collect();
        if n > 0
            && known.len() > 1
            && let Some(wide) = &mut self.wide
            && wide.percent(50)
        {
            known.remove(wide.index(known.len()));
        }
        known.into_iter().map(|no| (no, self.remote(no, n))).collect()
    }

    fn remote(&self, no: usize, n: usize) -> Remote {
        let Place { stores, secret } = &self.places[no];
        let kind = if stores.are_folders() { "folder" } else { "store" };
        let of = if stores.are_folders() { n } else { 0 };
        let remote = Remote::from_store(&format!("memory://{kind}{no}/{of}"), Arc::new(stores.view(n)), "").unwrap();
        match secret {
            Some(secret) => remote.with_secret(secret.clone()),
            None => remote,
        }
    }

    /// The first replica makes the encrypted remotes what they are, before anything goes wrong.
    async fn encrypt(&mut self) {
        for (no, remote) in self.peers[0].remotes.clone() {
            let Place { stores, secret: Some(secret) } = &self.places[no] else { continue };
            let faults = stores.stop_faults();
            self.peers[0].replica.encrypt_remote(&remote, &Lock::Recipients(secret.recipients())).await.unwrap();
            stores.begin_faults(faults);
        }
    }

    /// One of the remotes that a replica knows.
    fn one_remote(&mut self, n: usize) -> Remote {
        let remotes = &self.peers[n].remotes;
        let at = self.wide.as_mut().map_or(0, |wide| wide.index(remotes.len()));
        remotes[at].1.clone()
    }

    /// How wrong a clock is: a little, a day, a year, in either direction.
    fn skew(&mut self) -> i64 {
        let most = *self.rng.pick(&[1_000, HOUR_MS, 2 * DAY_MS, YEAR_MS]);
        self.rng.below(2 * most) as i64 - most as i64
    }

    /// Time passes, for everybody alike; what waits for it goes on. A watch looks ten times a second: not for days.
    async fn wait(&mut self, ms: u64) {
        let ms = if self.peers.iter().any(|peer| peer.watches) { ms.min(60_000) } else { ms };
        self.time.advance(ms);
        self.peers.iter().for_each(|peer| peer.wall.advance(ms));
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn go_on(&mut self) {
        for _ in 0..10 + self.rng.below(50) {
            self.outcome.steps += 1;
            let n = self.rng.index(self.peers.len());
            if self.peers[n].is_dead() {
                self.say(|| format!("{n}: died at a commit"));
                self.crash(n).await;
            }
            self.step(n).await;
            let ms = *self.rng.pick(&[0, 1, 10, 50, 300]);
            self.wait(ms).await;
        }
    }

    async fn step(&mut self, n: usize) {
        if self.wide.as_mut().is_some_and(|wide| wide.percent(6)) {
            return self.change_keys(n);
        }
        if self.rebuilds.as_mut().is_some_and(|rebuilds| rebuilds.percent(8)) {
            return self.rebuild(n);
        }
        match self.rng.below(100) {
            0..40 => self.write(n),
            40..60 => self.sync(n),
            60..66 => self.compact(n),
            66..68 => self.watch(n),
            68..74 => {
                let ms = *self.rng.pick(&[1_000, 60_000, HOUR_MS, DAY_MS]);
                let ms = self.rng.below(ms);
                self.say(|| format!("{ms} ms pass"));
                self.wait(ms).await;
            }
            74..77 => {
                let skew = self.skew();
                self.say(|| format!("{n}: clock set {skew} ms from the truth"));
                self.peers[n].wall.set(self.time.now_ms().saturating_add_signed(skew));
            }
            77..82 => {
                let commits = self.rng.below(6);
                self.say(|| format!("{n}: will die at a commit, {commits} from now"));
                self.peers[n].light_fuse(commits);
            }
            82..86 => {
                self.say(|| format!("{n}: killed"));
                self.crash(n).await;
            }
            86..88 => self.peers[n].back_up(),
            88..90 => self.restore(n).await,
            90 => self.copy(n),
            91..94 => {
                self.peers[n].migrate().await;
                self.say(|| format!("{n}: schema is {:?} now", self.peers[n].version));
            }
            94 => {
                self.say(|| "the store loses objects".to_owned());
                self.safe.clear();
                for place in &self.places {
                    place.stores.lose(&mut self.rng).await;
                }
            }
            95 => self.look(n).await,
            _ => {
                self.say(|| "files are carried".to_owned());
                self.carry(false).await;
            }
        }
    }

    async fn carry(&mut self, all: bool) {
        for place in &self.places {
            place.stores.carry(&mut self.rng, all).await;
        }
    }

    fn write(&mut self, n: usize) {
        let count = 1 + self.rng.index(3);
        let writes: Vec<Write> = (0..count).map(|_| some(&mut self.values, any_write())).collect();
        let at_once = self.rng.percent(50);
        self.token += 1;
        self.peers[n].write(self.token, &writes, &self.schema, at_once);
        let done = self.peers[n].tokens.contains(&self.token);
        self.say(|| {
            let sql: Vec<String> = writes.iter().flat_map(|write| write.statements(&self.schema)).collect();
            format!("{n}: token {} committed {done}, at once {at_once}: {}", self.token, sql.join("; "))
        });
    }

    /// A table is made anew, and written to before zvon hears of it.
    fn rebuild(&mut self, n: usize) {
        let Some(rebuilds) = &mut self.rebuilds else { return };
        let table = rebuilds.index(self.schema.tables.len());
        if matches!(self.schema.tables[table].identity, Identity::Link(..)) {
            // While nobody looks its keys may become NULL, which no change can name.
            return;
        }
        let writes: Vec<Write> = (0..rebuilds.index(3)).map(|_| some(&mut self.values, any_write())).collect();
        let writes: Vec<Write> = writes.into_iter().map(|write| of_table(write, table)).collect();
        let done = self.peers[n].rebuild(table, &writes, &self.schema);
        self.say(|| {
            let sql: Vec<String> = writes.iter().flat_map(|write| write.statements(&self.schema)).collect();
            format!("{n}: {} is made anew: {done:?}, and there: {}", name(table), sql.join("; "))
        });
    }

    fn options(&mut self) -> SyncOptions {
        let mut options = SyncOptions::default();
        options.join = Some(Join::Same);
        options.full = self.rng.percent(10);
        options.layout = self.rng.percent(3).then(|| *self.rng.pick(&[Layout::Files, Layout::Packs]));
        options
    }

    /// A sync begins, beside whatever else this or other processes do.
    fn sync(&mut self, n: usize) {
        self.say(|| format!("{n}: sync"));
        let (options, counters, loud) = (self.options(), Arc::clone(&self.counters), self.loud);
        let remote = self.one_remote(n);
        let peer = &mut self.peers[n];
        let replica = peer.replica.clone();
        peer.work.push(tokio::spawn(async move {
            let outcome = replica.sync(&remote, &options).await;
            if loud {
                println!("    {n}: sync ended: {:?}", outcome.as_ref().map(|r| (r.pulled, r.merged, r.pushed)));
            }
            counters.syncs.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = outcome {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                assert_ne!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            }
        }));
    }

    fn compact(&mut self, n: usize) {
        self.say(|| format!("{n}: compact"));
        let (counters, loud) = (Arc::clone(&self.counters), self.loud);
        let mut options = CompactOptions::default();
        options.only_if_due = self.rng.percent(20);
        let remote = self.one_remote(n);
        let peer = &mut self.peers[n];
        let replica = peer.replica.clone();
        peer.work.push(tokio::spawn(async move {
            let outcome = replica.compact(&remote, &options).await;
            if loud {
                println!(
                    "    {n}: compaction ended: {:?}",
                    outcome.as_ref().map(|r| (r.changes, r.removed_files, r.removed_packs))
                );
            }
            counters.compactions.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = outcome {
                assert_ne!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            }
        }));
    }

    /// A watch, for as long as the process lives; a file's would listen to the system's clock and threads.
    fn watch(&mut self, n: usize) {
        if self.peers[n].is_file() {
            return self.sync(n);
        }
        self.say(|| format!("{n}: watch"));
        self.outcome.watches += 1;
        let remote = self.one_remote(n);
        let peer = &mut self.peers[n];
        peer.watches = true;
        let replica = peer.replica.clone();
        peer.work.push(tokio::spawn(async move {
            let never = std::future::pending();
            if let Err(error) = replica.watch(&remote, &WatchOptions::default(), never, |_| ()).await {
                assert_ne!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            }
        }));
    }

    /// Keys are changed, beside whatever else happens; a plain remote has none.
    fn change_keys(&mut self, n: usize) {
        let (remote, loud, counters) = (self.one_remote(n), self.loud, Arc::clone(&self.counters));
        let Some(wide) = &mut self.wide else { return };
        let what = wide.below(3);
        // One of a few guests, whom others may be adding or removing too.
        let guest = GUESTS[wide.index(GUESTS.len())].parse().unwrap();
        self.say(|| format!("{n}: keys change, {what}"));
        let peer = &mut self.peers[n];
        let replica = peer.replica.clone();
        peer.work.push(tokio::spawn(async move {
            let outcome: Result<(), Error> = match what {
                0 => replica.rotate_keys(&remote, None).await.map(drop),
                1 => replica.add_recipient(&remote, &guest).await.map(drop),
                _ => replica.remove_recipient(&remote, &guest).await.map(drop),
            };
            if loud {
                println!("    {n}: keys changed: {outcome:?}");
            }
            match outcome {
                Ok(()) => drop(counters.key_changes.fetch_add(1, Ordering::Relaxed)),
                Err(error) => assert_ne!(error.kind(), ErrorKind::Corrupt, "{error:?}"),
            }
        }));
    }

    async fn crash(&mut self, n: usize) {
        self.outcome.crashes += 1;
        self.peers[n].restart().await;
        self.check_commits(n);
    }

    /// What a user was told is committed is there.
    fn check_commits(&self, n: usize) {
        let there = self.peers[n].tokens_there();
        let lost: Vec<&u64> = self.peers[n].tokens.difference(&there).collect();
        assert!(lost.is_empty(), "replica {n} lost the commits {lost:?}");
    }

    async fn restore(&mut self, n: usize) {
        let before = self.peers[n].tokens_there();
        if !self.peers[n].restore().await {
            return;
        }
        self.say(|| format!("{n}: a backup is put back"));
        self.outcome.restores += 1;
        // What only this file had is gone for good.
        let kept: BTreeSet<u64> = self.peers.iter().flat_map(Peer::tokens_there).collect();
        let gone: BTreeSet<u64> = before.difference(&kept).copied().collect();
        self.say(|| format!("    gone with it: {:?}", gone.difference(&self.safe)));
    }

    fn copy(&mut self, n: usize) {
        if !self.files || self.peers.len() >= 6 {
            return;
        }
        let no = self.peers.len();
        self.say(|| format!("{n}: its file is copied, as replica {no}"));
        let (seed, wall) = (self.rng.next(), Wall::at(self.peers[n].wall.now_ms()));
        let (remotes, path) = (self.remotes(no), self.path(no));
        let copy = self.peers[n].copy(seed, wall, remotes, path);
        self.peers.push(copy);
    }

    /// Commands that only look, and what they must find at any time.
    async fn look(&mut self, n: usize) {
        let peer = &self.peers[n];
        let report = peer.replica.verify().await;
        // A dying process can record nothing, and says so.
        if let Ok(report) = report
            && !peer.is_dead()
        {
            // A table that was made anew stands as it is until the next sync.
            let is_unwatched = report.problems.iter().any(|problem| problem.contains("so its writes are not captured"));
            assert!(report.problems.is_empty() || is_unwatched, "replica {n}, in the middle: {:?}", report.problems);
        }
        let _ = peer.replica.status().await;
        let _ = peer.replica.log(None, None, 5).await;
        self.check_commits(n);
    }

    /// Faults stop, clocks are right, time passes all ids: everybody has and shows the same.
    async fn end(mut self) -> Outcome {
        for place in &self.places {
            place.stores.stop_faults();
        }
        for n in 0..self.peers.len() {
            self.crash(n).await;
        }
        let latest = self.peers.iter().map(|peer| peer.wall.now_ms()).max().unwrap().max(self.time.now_ms());
        let ahead = latest.max(self.greatest_id_ms()) + 3 * DAY_MS;
        self.wait(ahead - self.time.now_ms()).await;
        self.peers.iter().for_each(|peer| peer.wall.set(self.time.now_ms()));
        self.say(|| "faults are over".to_owned());
        for peer in &mut self.peers {
            while peer.version != Version::Ended {
                let before = peer.version;
                peer.migrate().await;
                assert!(peer.version > before, "the schema does not get on from {before:?}");
            }
        }
        self.come_to_rest().await;
        for peer in &self.peers {
            let conn = peer.replica.connection();
            // A trigger would break while it mends, foreign keys being off.
            conn.execute_batch(&dropped(&self.schema)).unwrap();
            mend_references(&conn, &self.schema);
            conn.execute_batch(&self.schema.triggers.concat()).unwrap();
        }
        self.come_to_rest().await;
        self.check_end().await;
        let counters = &self.counters;
        self.outcome.syncs += counters.syncs.load(Ordering::Relaxed);
        self.outcome.failed_syncs = counters.failed.load(Ordering::Relaxed);
        self.outcome.compactions = counters.compactions.load(Ordering::Relaxed);
        self.outcome.remotes = self.places.len() as u64;
        self.outcome.encrypted = self.places.iter().filter(|place| place.secret.is_some()).count() as u64;
        self.outcome.key_changes = counters.key_changes.load(Ordering::Relaxed);
        self.outcome.requests = self.places.iter().map(|place| place.stores.requests()).sum();
        self.outcome.faults = self.places.iter().map(|place| place.stores.injected().total()).sum();
        self.outcome.digest = self.digest().await;
        self.outcome
    }

    fn greatest_id_ms(&self) -> u64 {
        let of = |peer: &Peer| -> u64 {
            let conn = peer.replica.connection();
            let sql = "SELECT max(replace(id, '-', '')) FROM (SELECT id FROM ZV_CHANGE UNION ALL SELECT lower(hex(change_id)) FROM ZV_WAITING)";
            let id: Option<String> = conn.query_row(sql, [], |row| row.get(0)).unwrap();
            id.map_or(0, |id| u64::from_str_radix(&id[..12], 16).unwrap())
        };
        self.peers.iter().map(of).max().unwrap_or(0)
    }

    /// Syncs and carries until a whole round moved nothing.
    async fn come_to_rest(&mut self) {
        let mut options = SyncOptions::default();
        options.join = Some(Join::Same);
        let mut least = 1;
        for round in 0..20 {
            let mut moved = 0;
            self.carry(true).await;
            let to: Vec<(usize, Remote)> = self
                .peers
                .iter()
                .enumerate()
                .flat_map(|(n, peer)| peer.remotes.iter().map(move |(_, remote)| (n, remote.clone())))
                .collect();
            for (n, remote) in to {
                options.full = round == 1 || round == 4;
                let report = match self.peers[n].replica.sync(&remote, &options).await {
                    Ok(report) => report,
                    // Whoever has the keys of an encrypted remote that lost them puts them back, and then they are carried.
                    Err(error) if matches!(error.kind(), ErrorKind::Key | ErrorKind::Remote) && round < 3 => {
                        self.say(|| format!("{n}: does not sync yet: {error:?}"));
                        (moved, least) = (moved + 1, 5);
                        continue;
                    }
                    Err(error) => panic!("replica {n} does not sync any more: {error:?}"),
                };
                self.say(|| {
                    let SyncReport { pulled, merged, pushed, waiting, redated, .. } = report;
                    format!(
                        "{n}: pulled {pulled}, merged {merged}, pushed {pushed}, waiting {waiting}, redated {redated}"
                    )
                });
                moved += report.pulled + report.pushed + report.merged + report.waiting + report.redated;
                self.outcome.syncs += 1;
            }
            // What a replica wrote and forgot, with the backup that was put back, may wait for its time on the remote alone.
            let waits = self.greatest_id_ms().saturating_sub(self.time.now_ms());
            self.wait(waits + HOUR_MS).await;
            if moved == 0 && round >= least {
                return;
            }
        }
        panic!("the replicas do not come to rest");
    }

    async fn check_end(&self) {
        let union: BTreeSet<u64> = self.peers.iter().flat_map(|peer| peer.tokens.iter().copied()).collect();
        let shown = self.peers[0].shown(&self.schema);
        let tokens = self.peers[0].tokens_there();
        if self.loud {
            for (n, peer) in self.peers.iter().enumerate() {
                let conn = peer.replica.connection();
                let sql = "SELECT c.id, c.entity_id, c.author_id, c.merged, f.field_name, f.field_value FROM ZV_CHANGE AS c JOIN ZV_CHANGE_FIELD AS f \
                           ON f.change_id = c.id ORDER BY 2, 1";
                println!("log of replica {n}:\n{}", crate::common::rows(&conn, sql).join("\n"));
                for no in 0..self.schema.tables.len() {
                    let sql = format!("SELECT * FROM {}", name(no));
                    println!("{} of replica {n}: {:?}", name(no), crate::common::rows(&conn, &sql));
                }
                println!(
                    "tokens of replica {n}: {:?} {:?}",
                    peer.tokens,
                    crate::common::rows(&conn, "SELECT * FROM acknowledged")
                );
                for table in
                    ["ZV_LOCAL", "ZV_FREED", "ZV_UNTRANSLATED", "ZV_HELD", "ZV_NAME", "ZV_REGISTER", "ZV_TOUCHED"]
                {
                    println!(
                        "{table} of replica {n}: {:?}",
                        crate::common::rows(&conn, &format!("SELECT * FROM {table}"))
                    );
                }
            }
        }
        for (n, peer) in self.peers.iter().enumerate() {
            self.check_commits(n);
            assert_eq!(peer.tokens_there(), tokens, "tokens of replica {n}");
            assert_eq!(peer.tokens_doubled(), BTreeSet::new(), "tokens that replica {n} has more than once");
            assert!(union.is_subset(&tokens), "lost: {:?}", union.difference(&tokens).collect::<Vec<_>>());
            assert_eq!(peer.shown(&self.schema), shown, "replica {n}");
            let status = peer.replica.status().await.unwrap();
            assert_eq!((status.journal, status.unmerged, status.unknown), (0, 0, 0), "replica {n}: {status:?}");
            self.check_model(n).await;
            for (no, remote) in &peer.remotes {
                let problems = peer.replica.verify_remote(remote).await.unwrap().problems;
                assert_eq!(problems, [] as [&str; 0], "replica {n}, remote {no}");
            }
            let conn = peer.replica.connection();
            let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok", "replica {n}");
        }
        assert!(self.safe.is_subset(&tokens));
    }

    async fn check_model(&self, n: usize) {
        let peer = &self.peers[n];
        let naive = Naive::fold(&peer.replica.connection(), &self.schema);
        for no in 0..self.schema.tables.len() {
            let there = crate::naive::dump(&peer.replica.connection(), &self.schema, no);
            assert_eq!(there, naive.shown(no), "{} of replica {n}; out by the model: {:?}", name(no), naive.out);
        }
        let held = peer.replica.held().await.unwrap();
        let held: BTreeSet<String> = held.rows.iter().map(|held| format!("{}/{}", held.table, held.row)).collect();
        assert_eq!(held, hidden(&naive), "held by replica {n}");
    }

    /// A number that stands for every replica's log and tables and every object.
    async fn digest(&self) -> u64 {
        let mut digest = 0;
        for peer in &self.peers {
            let conn = peer.replica.connection();
            let sql = "SELECT id || author_id || entity_type || entity_id FROM ZV_CHANGE ORDER BY id";
            let mut statement = conn.prepare(sql).unwrap();
            let lines: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            drop(statement);
            drop(conn);
            digest = hash(digest, &[lines.concat().as_bytes(), peer.shown(&self.schema).as_bytes()]);
        }
        for Place { stores, secret } in &self.places {
            for (name, bytes) in stores.objects().await {
                // What is sealed is never the same twice, and definitions are called by what the keys make of them.
                match secret {
                    None => digest = hash(digest, &[name.as_bytes(), &bytes]),
                    Some(_) if name.starts_with("schemas/") => {}
                    Some(_) => digest = hash(digest, &[name.as_bytes()]),
                }
            }
        }
        digest
    }
}
