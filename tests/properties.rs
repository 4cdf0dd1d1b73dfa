//! Random writes by random replicas, synced in random order: all replicas end alike, and like a naive model.

mod common;
#[path = "properties/model.rs"]
mod model;
#[path = "properties/writes.rs"]
mod writes;

use std::collections::BTreeMap;

use common::dated_store::DatedStore;
use common::packs::unpack;
use common::wall::{START_MS, Wall, on_the_wall};
use common::{assert_verified, keyed};
use model::{Cell, ChangeFile, Model};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use writes::{
    FAMILY, FREE, Key, SCHEMA, Step, TRIGGER_AFTER, TRIGGER_BEFORE, Table, Write, any_cell, any_seed, any_step,
    execute, transaction,
};
use zvon::{Join, Remote, Replica, SyncOptions, SyncReport};

/// A replica, its clock, and the program that writes to it: over the lent connection, or over one of its own to the file.
struct Peer {
    replica: Replica,
    wall: Wall,
    other: Option<Connection>,
    _directory: Option<tempfile::TempDir>,
}

impl Peer {
    async fn new(n: usize, in_file: bool, ahead_ms: u64, seed: &[Write]) -> Self {
        let directory = in_file.then(|| tempfile::tempdir().unwrap());
        let path = directory.as_ref().map(|directory| directory.path().join("peer.db"));
        let replica = match &path {
            Some(path) => Replica::init(path).unwrap(),
            None => Replica::in_memory().unwrap(),
        };
        let wall = Wall::at(START_MS + ahead_ms);
        let replica = on_the_wall(replica, &wall, n as u64);
        let other = path.map(|path| Connection::open(path).unwrap());
        let peer = Self { replica, wall, other, _directory: directory };
        peer.write(|conn| {
            // What a crash would lose is no matter here.
            conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON").unwrap();
            conn.execute_batch(SCHEMA).unwrap();
            conn.execute_batch(TRIGGER_BEFORE).unwrap();
            seed.iter().for_each(|write| write.run(conn, n));
        });
        if let Some(other) = &peer.other {
            peer.wall.install(other);
        }
        peer.replica.connection().execute_batch("PRAGMA synchronous = OFF").unwrap();
        peer.replica.track_all(&keyed()).await.unwrap();
        peer.write(|conn| conn.execute_batch(TRIGGER_AFTER).unwrap());
        peer
    }

    fn write(&self, work: impl FnOnce(&Connection)) {
        match &self.other {
            Some(other) => work(other),
            None => work(&self.replica.connection()),
        }
    }

    async fn sync(&self, remote: &Remote) -> SyncReport {
        let mut options = SyncOptions::default();
        options.join = Some(Join::Same);
        self.replica.sync(remote, &options).await.unwrap()
    }

    async fn step(&self, n: usize, step: &Step, store: &DatedStore, remote: &Remote) {
        self.wall.advance(1);
        match step {
            Step::Write(_, write) => self.write(|conn| write.run(conn, n)),
            Step::Transaction(_, writes, fate) => self.write(|conn| transaction(conn, n, writes, *fate)),
            Step::RecursiveTriggers(_, on) => {
                self.write(|conn| conn.pragma_update(None, "recursive_triggers", on).unwrap());
            }
            Step::Sync(_, late) => {
                store.deliver_late(*late);
                self.sync(remote).await;
                store.deliver_late(0);
            }
            Step::Seal(_) => {
                self.replica.log(None, None, 1).await.unwrap();
            }
            Step::Untrack(_, table) => {
                // A table that is not tracked cannot be untracked.
                let _ = self.replica.untrack(&[table]).await;
            }
            Step::Track(_, table) => {
                self.replica.track(&[table], &keyed()).await.unwrap();
            }
            Step::Strip(_, table) => self.write(|conn| strip(conn, table)),
            Step::Tick(_, ms) => self.wall.advance(*ms),
        }
    }
}

fn who(step: &Step) -> usize {
    match step {
        Step::Write(n, _)
        | Step::Transaction(n, ..)
        | Step::RecursiveTriggers(n, _)
        | Step::Sync(n, _)
        | Step::Seal(n)
        | Step::Untrack(n, _)
        | Step::Track(n, _)
        | Step::Strip(n, _)
        | Step::Tick(n, _) => *n,
    }
}

fn strip(conn: &Connection, table: &str) {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 AND name GLOB 'ZV_*'";
    let mut statement = conn.prepare(sql).unwrap();
    let names: Vec<String> = statement.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(statement);
    for name in names {
        conn.execute_batch(&format!("DROP TRIGGER \"{name}\"")).unwrap();
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(n) => Cell::Integer(n),
        ValueRef::Real(n) => Cell::Real(n.to_bits()),
        ValueRef::Text(text) => Cell::Text(text.to_vec()),
        ValueRef::Blob(blob) => Cell::Blob(blob.to_vec()),
    }
}

/// A row's key as text, spelled out once more.
fn entity_id(kind: Key, key: &[Cell]) -> String {
    let part = |cell: &Cell| match cell {
        Cell::Integer(n) if kind == Key::Parts => format!("#{n}"),
        Cell::Integer(n) => n.to_string(),
        Cell::Text(text) => {
            let text = String::from_utf8(text.clone()).unwrap();
            if kind == Key::Parts { text.replace('~', "~0").replace('/', "~1").replace('#', "~2") } else { text }
        }
        Cell::Blob(blob) => format!("#x{}", blob.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        other => panic!("{other:?} is no key"),
    };
    key.iter().map(part).collect::<Vec<_>>().join("/")
}

fn dump(conn: &Connection, table: &Table) -> BTreeMap<String, Vec<Cell>> {
    let names = table.key.iter().chain(table.columns).copied().collect::<Vec<_>>().join(", ");
    let mut statement = conn.prepare(&format!("SELECT {names} FROM {}", table.name)).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut dumped = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let mut cells: Vec<Cell> =
            (0..table.key.len() + table.columns.len()).map(|n| cell(row.get_ref(n).unwrap())).collect();
        let values = cells.split_off(table.key.len());
        dumped.insert(entity_id(table.kind, &cells), values);
    }
    dumped
}

/// To SQLite -0.0 and 0.0 are one value, so an update from one to the other changes nothing that a trigger could see.
fn without_signed_zero(mut rows: BTreeMap<String, Vec<Cell>>) -> BTreeMap<String, Vec<Cell>> {
    let minus_zero = Cell::Real((-0.0_f64).to_bits());
    for cell in rows.values_mut().flatten().filter(|cell| **cell == minus_zero) {
        *cell = Cell::Real(0);
    }
    rows
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

async fn play(ahead: &[u64], in_file: usize, seeds: &[Vec<Write>], steps: &[Step]) {
    let store = DatedStore::new(&Wall::at(START_MS));
    let remote = store.remote();
    let mut peers = Vec::new();
    for (n, ahead_ms) in ahead.iter().enumerate() {
        peers.push(Peer::new(n, n == in_file, *ahead_ms, &seeds[n]).await);
    }
    for step in steps {
        let n = who(step) % peers.len();
        peers[n].step(n, step, &store, &remote).await;
    }
    for peer in &peers {
        peer.replica.track_all(&keyed()).await.unwrap();
    }
    converge(&peers, &remote).await;

    // What lies there, loose or packed; the same change may lie in several places.
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (name, bytes) in store.objects("changes").await {
        files.insert(name["changes/".len()..].trim_end_matches(".msgpack").to_owned(), bytes.to_vec());
    }
    for (_, bytes) in store.objects("packs").await {
        files.extend(unpack(&bytes));
    }
    let changes: Vec<ChangeFile> = files.values().map(|bytes| ChangeFile::read(bytes)).collect();
    assert!(files.keys().zip(&changes).all(|(id, change)| *id == change.id));
    let model = Model::fold(changes);
    for (n, peer) in peers.iter().enumerate() {
        for table in FREE.iter().chain(&FAMILY) {
            let shown = without_signed_zero(dump(&peer.replica.connection(), table));
            let expected = without_signed_zero(model.shown(table.name, table.columns));
            assert_eq!(shown, expected, "{} of replica {n}", table.name);
        }
        let status = peer.replica.status().await.unwrap();
        assert_eq!((status.journal, status.unmerged, status.held, status.unknown), (0, 0, 0, 0), "replica {n}");
        assert_eq!(status.changes, files.len() as u64, "changes of replica {n}");
        assert_eq!(common::rows(&peer.replica.connection(), "PRAGMA foreign_key_check"), [] as [&str; 0]);
        assert_verified(&peer.replica, &remote).await;
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// As many cases as a run of all tests has time for; `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/proptest-regressions/properties.txt",
        ))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn replicas_end_alike_and_like_the_model(
        ahead in prop::collection::vec(0_u64..2_000, 2..=4),
        in_file in 0_usize..8,
        seeds in prop::collection::vec(any_seed(), 4),
        steps in prop::collection::vec(any_step(4), 0..60),
    ) {
        block_on(play(&ahead, in_file, &seeds, &steps));
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn any_value_comes_back_as_it_was(values in prop::collection::vec(any_cell(), 1..20), size in 0_usize..200_000) {
        block_on(carry(values, size));
    }
}

#[derive(Debug, Clone)]
enum Leap {
    Insert(usize),
    Update(usize, u64),
    Seal(usize),
    Sync(usize),
    SetClock(usize, u64),
}

fn any_leap() -> impl Strategy<Value = Leap> {
    let who = || 0..2_usize;
    prop_oneof![
        2 => who().prop_map(Leap::Insert),
        4 => (who(), 0..6_u64).prop_map(|(who, row)| Leap::Update(who, row)),
        1 => who().prop_map(Leap::Seal),
        3 => who().prop_map(Leap::Sync),
        3 => (who(), 0..6_000_u64).prop_map(|(who, ms)| Leap::SetClock(who, ms)),
    ]
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn clocks_that_leap_lose_nothing(leaps in prop::collection::vec(any_leap(), 1..40)) {
        block_on(leap(&leaps));
    }
}

/// Two replicas whose clocks leap to and fro by more than the drift that they accept of each other.
async fn leap(leaps: &[Leap]) {
    let remote = common::fresh_remote();
    let mut peers = Vec::new();
    for seed in 0..2 {
        let wall = Wall::at(START_MS);
        let mut settings = zvon::Settings::default();
        settings.max_clock_drift = std::time::Duration::from_secs(1);
        settings.world = wall.world(seed);
        let replica = common::wall::clocked("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)", &wall, seed).await;
        peers.push((replica.with_settings(settings), wall));
    }
    let join = || {
        let mut options = SyncOptions::default();
        options.join = Some(Join::Same);
        options
    };
    let mut written = 0;
    for (n, step) in (0_u64..).zip(leaps) {
        match step {
            Leap::Insert(who) => {
                written += 1;
                common::run(&peers[*who].0, &format!("INSERT INTO t VALUES ('{n}', 0)"));
            }
            Leap::Update(who, row) => {
                let sql = format!("UPDATE t SET n = {} WHERE id = (SELECT id FROM t LIMIT 1 OFFSET {row})", n + 1);
                written += peers[*who].0.connection().execute(&sql, []).unwrap() as u64;
            }
            Leap::Seal(who) => drop(peers[*who].0.log(None, None, 1).await.unwrap()),
            Leap::Sync(who) => drop(peers[*who].0.sync(&remote, &join()).await.unwrap()),
            Leap::SetClock(who, ms) => peers[*who].1.set(START_MS + ms),
        }
        for (replica, _) in &peers {
            assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
        }
    }
    // Everybody's time comes.
    for (_, wall) in &peers {
        wall.set(START_MS + 60_000);
    }
    for _ in 0..3 {
        for (replica, _) in &peers {
            replica.sync(&remote, &join()).await.unwrap();
        }
    }
    let shown = common::table(&peers[0].0, "t");
    for (replica, _) in &peers {
        assert_eq!(common::table(replica, "t"), shown);
        assert_eq!(replica.status().await.unwrap().changes, written);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_writes_while_syncs_run_and_every_write_arrives() {
    const WRITES: u64 = 400;
    const NOTES: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, n INTEGER, who TEXT)";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("busy.db");
    let a = Replica::init(&path).unwrap();
    common::run(&a, NOTES);
    a.track_all(&keyed()).await.unwrap();
    let (b, remote) = (common::replica(NOTES).await, common::fresh_remote());
    let writer = std::thread::spawn(move || {
        let conn = Connection::open(path).unwrap();
        conn.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF").unwrap();
        for n in 0..WRITES {
            let sql = "INSERT INTO note VALUES (?1 % 20, ?1, 'a') ON CONFLICT DO UPDATE SET n = excluded.n, who = 'a'";
            conn.execute(sql, [n as i64]).unwrap();
        }
    });
    let mut answers = 0;
    while !writer.is_finished() {
        common::sync(&a, &remote).await;
        common::sync(&b, &remote).await;
        answers +=
            b.connection().execute("UPDATE note SET who = 'b' WHERE id % 5 = 0 AND who = 'a'", []).unwrap() as u64;
    }
    writer.join().unwrap();
    common::converge(&[&a, &b], &remote).await;
    assert_eq!(common::table(&a, "note"), common::table(&b, "note"));
    for replica in [&a, &b] {
        assert_eq!(replica.status().await.unwrap().changes, WRITES + answers);
        assert_verified(replica, &remote).await;
    }
    let newest = common::rows(&a.connection(), "SELECT n FROM note ORDER BY n");
    assert_eq!(newest, (WRITES - 20..WRITES).map(|n| n.to_string()).collect::<Vec<_>>(), "only the program writes n");
}

/// Values go through table, journal, log and file into a table, and from that replica's log through another file into a third.
async fn carry(mut values: Vec<Cell>, size: usize) {
    values.push(Cell::Blob((0..size).map(|n| n as u8).collect()));
    let schema = "CREATE TABLE v (id INTEGER PRIMARY KEY, any, t TEXT, i INTEGER, n NUMERIC, r REAL, b BLOB)";
    let (a, b, c) = (common::replica(schema).await, common::replica(schema).await, common::replica(schema).await);
    for (n, value) in values.iter().enumerate() {
        let cells = [vec![Cell::Integer(n as i64)], vec![value.clone(); 6]].concat();
        execute(&a.connection(), "INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?)", &cells);
    }
    let (first, second) = (common::fresh_remote(), common::fresh_remote());
    for (replica, remote) in [(&a, &first), (&b, &first), (&b, &second), (&c, &second)] {
        common::sync(replica, remote).await;
    }
    let table = Table { name: "v", kind: Key::Integer, key: &["id"], columns: &["any", "t", "i", "n", "r", "b"] };
    let written = dump(&a.connection(), &table);
    assert_eq!(written.len(), values.len());
    for replica in [&b, &c] {
        assert_eq!(dump(&replica.connection(), &table), written);
    }
    for (n, value) in values.iter().enumerate() {
        let stored = match value {
            // SQLite has no NaN.
            Cell::Real(bits) if f64::from_bits(*bits).is_nan() => Cell::Null,
            value => value.clone(),
        };
        assert_eq!(written[&n.to_string()][0], stored);
    }
}
