//! A bucket that a stranger writes into, who knows the format and has no key: he can change tracked rows and nothing else, and
//! everything that he tries is answered, bounded and told. `docs/security.md` has the table of attacks.
//!
//! Tested elsewhere, and not here again: bytes that are no change file, pack or control object (`src/wire/`, `fuzz/`); definitions
//! whose SQL does more than make a table (`src/guard/tests.rs`, `tests/hostile_schema.rs`); rows that a table refuses
//! (`tests/poison.rs`); sizes that are lies, and objects without an end (`tests/bad_input.rs`, `src/remote/tests.rs`); answers that
//! drip, break off or are too long (`src/remote/s3_tests.rs`, `tests/network_faults.rs`); changes dated ahead of an honest author
//! whose clock is wrong (`tests/clocks.rs`); spoilt packs (`tests/packs.rs`); all of it on an encrypted remote
//! (`tests/sealed_remotes.rs`).

mod common;

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::faulty_store::{FaultyStore, Request, Verdict};
use common::packs::pack;
use common::shared_folder::{SharedFolder, change, field, file_name, msgpack, name_of, note_change};
use common::wall::{DAY_MS, HOUR_MS, START_MS, Wall, clocked, on_the_wall};
use common::*;
use object_store::memory::InMemory;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zvon::{
    CompactOptions, Error, ErrorKind, Layout, Remote, RemoteOptions, Replica, Settings, SyncOptions, SyncReport,
};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, n INTEGER)";
/// The last id that there is: nothing can be newer.
const LAST: &str = "ffffffff-ffff-7fff-bfff-ffffffffffff";

/// An id of a millisecond.
fn id(ms: u64, n: u64) -> String {
    format!("{:08x}-{:04x}-7000-8000-{n:012x}", ms >> 16, ms & 0xFFFF)
}

fn titled(id: &str, row: &str, title: &str) -> Vec<u8> {
    msgpack(&note_change(id, row, &json!({ "title": title })))
}

fn plant(folder: &SharedFolder, id: &str, bytes: &[u8]) {
    folder.write(&file_name(id), bytes);
}

fn pack_name(id: &str) -> String {
    format!("packs/{id}.pack")
}

/// Two replicas with two rows, a folder between them, and a clock.
async fn two() -> (Replica, Replica, SharedFolder, Wall) {
    let (wall, folder) = (Wall::at(START_MS), SharedFolder::new());
    let (a, b) = (clocked(NOTES, &wall, 1).await, clocked(NOTES, &wall, 2).await);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!(table(&b, "note"), ["'1'|'one'|1", "'2'|'two'|2"]);
    (a, b, folder, wall)
}

/// What comes of something that must not take for ever.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it goes on for ever")
}

async fn refused(replica: &Replica, remote: &Remote) -> Error {
    let error = in_time(replica.sync(remote, &SyncOptions::default())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
    error
}

/// How many rows zvon holds in a table of its own.
fn own_rows(replica: &Replica, table: &str) -> u64 {
    replica.connection().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

// Listings without an end.

/// A store whose listing a test makes up.
fn lister(names: impl Fn(u64) -> String + Send + Sync + 'static) -> Remote {
    let names = Verdict::Names(Arc::new(names));
    let store = FaultyStore::new(&Arc::new(InMemory::new()), move |_, request| match request {
        Request::List => names.clone(),
        _ => Verdict::Pass,
    });
    Remote::from_store("lister", store, "").unwrap()
}

#[tokio::test]
async fn a_listing_in_a_circle_is_given_up_and_told() {
    let a = replica(NOTES).await;
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1)");
    for around in [1, 2, 7] {
        // A circle of objects, of names that are none, and of strangers: whatever it is made of.
        for remote in [
            lister(move |n| file_name(&id(START_MS, n % around))),
            lister(move |n| format!("changes/junk-{}.msgpack", n % around)),
            lister(move |n| format!("changes/junk {}", n % around)),
        ] {
            let error = refused(&a, &remote).await.to_string();
            assert!(error.contains("cannot list lister") && error.contains("goes in a circle"), "{error}");
        }
    }
    assert_eq!(sync(&a, &fresh_remote()).await.pushed, 1);
}

#[tokio::test]
async fn a_listing_without_an_end_is_given_up_and_told() {
    let a = replica(NOTES).await;
    for remote in [lister(|n| file_name(&id(START_MS, n))), lister(|n| format!("changes/junk {n}"))] {
        let error = refused(&a, &remote.with_max_names(5_000)).await.to_string();
        assert!(error.contains("more than 5000 names") && error.contains("remove what does not belong"), "{error}");
    }
    // As long as there is room, nothing is wrong with strangers in a folder either.
    let folder = SharedFolder::new();
    (0..50).for_each(|n| folder.write(&format!("changes/junk {n}"), b""));
    assert_eq!(sync(&a, &folder.remote().with_max_names(1_000)).await.rejected, 0);
    let error = refused(&a, &folder.remote().with_max_names(49)).await.to_string();
    assert!(error.contains("more than 49 names"), "{error}");
}

/// A server that answers every request with a page of a listing; it gets how many it gave before.
async fn pages(page: impl Fn(u64) -> String + Send + 'static) -> Remote {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("s3://{}/bucket", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for n in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 8192]).await;
            let page = format!("<ListBucketResult>{}</ListBucketResult>", page(n));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
            let _ = socket.write_all((head + &page).as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    let options = RemoteOptions::default()
        .setting("AWS_ACCESS_KEY_ID", "AKID")
        .setting("AWS_SECRET_ACCESS_KEY", "secret-secret")
        .max_retries(0);
    Remote::from_url(&url, &options).unwrap()
}

fn page(token: &str, names: &[String]) -> String {
    let mut page = format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>");
    for name in names {
        let _ = write!(
            page,
            "<Contents><Key>{name}</Key><Size>1</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
        );
    }
    page
}

#[tokio::test]
async fn pages_without_an_end_are_given_up_and_told() {
    let a = replica(NOTES).await;
    // The tokens go in a circle, and no page holds a name by which that could be noticed.
    let error = refused(&a, &pages(|n| page(&format!("token-{}", n % 3), &[])).await).await.to_string();
    assert!(error.contains("goes in a circle"), "{error}");
    // The same page again and again, under tokens that are always new.
    let names: Vec<String> = (0..3).map(|n| file_name(&id(START_MS, n))).collect();
    let error = refused(&a, &pages(move |n| page(&format!("token-{n}"), &names)).await).await.to_string();
    assert!(error.contains("goes in a circle"), "{error}");
    // Always new tokens, and never a name.
    let remote = pages(|n| page(&format!("token-{n}"), &[])).await.with_max_names(2_000);
    let error = refused(&a, &remote).await.to_string();
    assert!(error.contains("more than 20 pages"), "{error}");
    // Always new names.
    let fresh =
        |n: u64| page(&format!("token-{n}"), &(0..500).map(|k| file_name(&id(START_MS + n, k))).collect::<Vec<_>>());
    let error = refused(&a, &pages(fresh).await.with_max_names(2_000)).await.to_string();
    assert!(error.contains("more than 2000 names"), "{error}");
}

// Rubbish.

#[tokio::test]
async fn of_a_crowd_of_names_that_are_none_a_thousand_are_remembered_and_the_others_counted() {
    let (a, _, folder, _) = two().await;
    (0..1_500).for_each(|n| folder.write(&format!("changes/junk-{n:05}.msgpack"), b"x"));
    let counts = |report: &SyncReport| (report.rejected, report.newly_rejected.len(), report.newly_rejected_more);
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (1_500, 1_000, 500));
    assert_eq!(own_rows(&a, "ZV_REFUSED"), 1_000);
    let status = a.status().await.unwrap().remotes.remove(0);
    assert_eq!((status.rejected.len(), status.rejected_more), (1_000, 0));
    // Nothing is new of them the next time; what goes makes room for others, and in the end nothing is left.
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (1_500, 0, 0));
    (0..10).for_each(|n| fs::remove_file(folder.path(&format!("changes/junk-{n:05}.msgpack"))).unwrap());
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (1_490, 10, 0));
    (10..1_500).for_each(|n| fs::remove_file(folder.path(&format!("changes/junk-{n:05}.msgpack"))).unwrap());
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (0, 0, 0));
    assert_eq!(own_rows(&a, "ZV_REFUSED"), 0);
    assert_verified(&a, &folder.remote()).await;
}

#[tokio::test]
async fn of_a_crowd_of_bad_files_each_is_asked_for_once_and_a_thousand_a_sync_again() {
    let (a, b, folder, wall) = two().await;
    (0..1_200).for_each(|n| plant(&folder, &id(START_MS + 1, n), b"no change"));
    run(&b, "UPDATE note SET title = 'still works' WHERE id = '1'");
    sync(&b, &folder.remote()).await;
    let counts = |report: &SyncReport| (report.requests.get, report.newly_rejected.len(), report.newly_rejected_more);
    let first = sync(&a, &folder.remote()).await;
    assert_eq!((counts(&first), first.rejected), ((1_201, 1_000, 200), 1_200));
    assert_eq!(table(&a, "note")[0], "'1'|'still works'|1");
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (0, 0, 0));
    let status = a.status().await.unwrap().remotes.remove(0);
    assert_eq!((status.rejected.len(), status.rejected_more), (1_000, 200));
    // A minute later all are due: a thousand have their turn, then those that had none.
    wall.advance(60_000);
    for due in [1_000, 200, 0] {
        assert_eq!(counts(&sync(&a, &folder.remote()).await), (due, 0, 0));
    }
    // They hide nothing: one that turns out good is taken, at the latest when it has its turn.
    plant(&folder, &id(START_MS + 1, 1_199), &titled(&id(START_MS + 1, 1_199), "3", "late"));
    assert_eq!(sync(&a, &folder.remote()).await.pulled, 1);
    assert_eq!(own_rows(&a, "ZV_REFUSED"), 1_199);
}

#[tokio::test]
async fn a_crowd_of_definitions_and_identities_is_bounded() {
    let (a, _, folder, _) = two().await;
    (0..1_050).for_each(|n| folder.write(&format!("schemas/{n:064x}.msgpack"), b"no definition"));
    let counts = |report: &SyncReport| (report.requests.get, report.rejected);
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (1_000, 1_000));
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (50, 1_050));
    assert_eq!(counts(&sync(&a, &folder.remote()).await), (0, 1_050));
    (0..1_001).for_each(|n| folder.write(&format!("identity/{}", id(START_MS, n)), b""));
    let error = refused(&a, &folder.remote()).await.to_string();
    assert!(
        error.contains("more than 1,000 identities") && error.contains("remove from its folder `identity`"),
        "{error}"
    );
    fs::remove_dir_all(folder.path("schemas")).unwrap();
    fs::remove_dir_all(folder.path("identity")).unwrap();
    assert_eq!(sync(&a, &folder.remote()).await.rejected, 0);
    assert_verified(&a, &folder.remote()).await;
}

// What is read and what is run.

#[tokio::test]
async fn sql_in_names_and_keys_runs_nowhere_and_touches_nothing_else() {
    let (a, b, folder, _) = two().await;
    for replica in [&a, &b] {
        run(
            replica,
            "CREATE TABLE secret (id TEXT PRIMARY KEY, title TEXT); INSERT INTO secret VALUES ('1', 'untouched')",
        );
    }
    sync(&a, &folder.remote()).await;
    let schema = rows(&a.connection(), "SELECT type, name, sql FROM sqlite_schema ORDER BY name");
    let uuid = a.database_uuid().unwrap();
    let evil = "x'; DROP TABLE secret; DELETE FROM ZV_METADATA; --\"`]";
    let tables = [
        "secret",
        "main.note",
        "note; DROP TABLE secret",
        evil,
        "note\"",
        "[note]",
        "temp.note",
        "pragma_table_info",
        "json_each",
    ];
    let owned = ["ZV_CHANGE", "zv_metadata", "Zv_Anything", "sqlite_schema", "SQLITE_SEQUENCE", "", "note\0"];
    let fields = [field("title", &json!(evil)), field(evil, &json!(1)), field("title\" = 1; --", &json!(2))];
    for (n, name) in tables.iter().chain(&owned).enumerate() {
        let id = id(START_MS + 1, n as u64);
        plant(&folder, &id, &msgpack(&change(&id, name, evil, &fields)));
    }
    let odd = id(START_MS + 2, 1);
    plant(&folder, &odd, &msgpack(&change(&odd, "NOTE", evil, &fields)));
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pulled, report.rejected), (tables.len() as u64 + 1, owned.len() as u64));
    assert_eq!(rows(&a.connection(), "SELECT type, name, sql FROM sqlite_schema ORDER BY name"), schema);
    assert_eq!(table(&a, "secret"), ["'1'|'untouched'"]);
    assert_eq!(a.database_uuid().unwrap(), uuid);
    // The text is a row's key and value, and no more than that.
    let sql = "SELECT count(*) FROM note WHERE id = ?1 AND title = ?1 AND n IS NULL";
    assert_eq!(a.connection().query_row(sql, [evil], |row| row.get::<_, u64>(0)).unwrap(), 1);
    let unknown = a.held().await.unwrap().unknown;
    assert!(unknown.iter().any(|unknown| unknown.table == "secret"), "{unknown:?}");
    converge(&[&b, &a], &folder.remote()).await;
    assert_eq!((table(&b, "note"), table(&b, "secret")), (table(&a, "note"), table(&a, "secret")));
    assert_verified(&a, &folder.remote()).await;
}

#[tokio::test]
async fn nesting_200000_deep_is_refused_wherever_it_stands() {
    let (a, _, folder, wall) = two().await;
    let deep = |opening: &[u8]| [opening.repeat(200_000), vec![0xC0]].concat();
    let (lists, maps) = (deep(&[0x91]), deep(&[0x81, 0xA1, b'a']));
    let [first, second, third] = [1, 2, 3].map(|n| id(START_MS + n, 0));
    plant(&folder, &first, &lists);
    // Where a change file has a value, and under a key that nobody knows.
    let mut inside = titled(&second, "1", "deep");
    let tail = inside.len() - 5;
    inside.splice(tail.., lists.clone());
    plant(&folder, &second, &inside);
    let honest = titled(&third, "1", "x");
    plant(&folder, &third, &[&[0x83][..], b"\xA1z", &maps, &honest[1..]].concat());
    folder.write(&pack_name(&id(START_MS, 9)), pack(&[(id(START_MS + 4, 0), maps.clone())]));
    for bytes in [&lists, &maps] {
        let name: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        folder.write(&format!("schemas/{name}.msgpack"), bytes);
    }
    let report = in_time(sync(&a, &folder.remote())).await;
    assert_eq!((report.pulled, report.rejected, report.newly_rejected.len()), (0, 6, 6), "{report:?}");
    folder.write(&format!("layout/{}.msgpack", id(START_MS + 5, 0)), &lists[..60_000]);
    assert_eq!(sync(&a, &folder.remote()).await.notices.len(), 1);
    let b = clocked(NOTES, &wall, 3).await;
    assert_eq!(sync(&b, &folder.remote()).await.pulled, 2);
    folder.write(&format!("identity/{}", id(START_MS + 5, 0)), &lists[..60_000]);
    assert!(refused(&a, &folder.remote()).await.to_string().contains("cannot be read"));
}

/// A pack of one block with bytes of the test's own, which states so many of them.
fn block_of(id: &str, raw: &[u8], stated: u32) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let ids = zstd::bulk::compress(uuid::Uuid::parse_str(id).unwrap().as_bytes(), 1).unwrap();
    let stored = zstd::bulk::compress(raw, 1).unwrap();
    let mut pack = b"\x89ZVPACK\n\x01\x01\x00\x00".to_vec();
    [1, 1, ids.len(), 0].iter().for_each(|n| pack.extend_from_slice(&number(*n)));
    pack.extend_from_slice(&[&number(1)[..], &number(stored.len()), &stated.to_be_bytes()].concat());
    pack.extend_from_slice(&Sha256::digest(&stored));
    pack.extend_from_slice(&ids);
    let hash = Sha256::digest(&pack);
    pack.extend_from_slice(&hash);
    pack.extend_from_slice(&stored);
    pack
}

#[tokio::test]
async fn bombs_do_not_go_off() {
    let (a, _, folder, _) = two().await;
    let record = |len: usize| [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![0; len]].concat();
    // Says a little and holds much; says more than a block may; holds what it may and is no change; ids that swell.
    let bombs = [(record(64 << 20), 1_000), (record(64 << 20), u32::MAX), (record((16 << 20) - 4), 16 << 20)];
    for (n, (raw, stated)) in (1..).zip(bombs) {
        let bomb = block_of(&id(START_MS + n, 0), &raw, stated);
        assert!(bomb.len() < 10_000, "{} bytes", bomb.len());
        folder.write(&pack_name(&id(START_MS, n)), bomb);
    }
    let mut swelling = block_of(&id(START_MS + 9, 0), &record(1), 5);
    let ids = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    swelling.truncate(28 + 44);
    swelling[20..24].copy_from_slice(&u32::try_from(ids.len()).unwrap().to_be_bytes());
    swelling.extend_from_slice(&ids);
    let hash = Sha256::digest(&swelling);
    swelling.extend_from_slice(&hash);
    folder.write(&pack_name(&id(START_MS, 9)), swelling);
    let report = in_time(sync(&a, &folder.remote())).await;
    assert_eq!((report.pulled, report.rejected), (0, 4), "{report:?}");

    // A definition has no compression; what could swell in it is SQL, and 200,000 parentheses are too many for SQLite's parser.
    let nested =
        format!("CREATE TABLE t (id TEXT PRIMARY KEY, v CHECK ({}1{}))", "(".repeat(200_000), ")".repeat(200_000));
    define(&folder, "t", &[&nested], &["id"], 0);
    let file = folder.path("clone.db");
    let error = in_time(Replica::clone_from(&folder.remote(), &file, Settings::default(), None)).await.unwrap_err();
    assert!(error.to_string().len() < 1_000, "{error}");
}

/// Writes a table definition under its true name. Returns the name.
fn define(folder: &SharedFolder, table: &str, statements: &[&str], key: &[&str], version: u64) -> String {
    define_so(folder, table, statements, key, version, true)
}

fn define_so(
    folder: &SharedFolder,
    table: &str,
    statements: &[&str],
    key: &[&str],
    version: u64,
    enforce_fk: bool,
) -> String {
    #[derive(serde::Serialize)]
    struct Definition<'a> {
        table: &'a str,
        statements: &'a [&'a str],
        identity: &'a str,
        key: &'a [&'a str],
        enforce_fk: bool,
        version: u64,
    }
    let definition = Definition { table, statements, identity: "key", key, enforce_fk, version };
    let bytes = rmp_serde::to_vec_named(&definition).unwrap();
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("schemas/{hash}.msgpack");
    folder.write(&name, bytes);
    name
}

#[tokio::test]
async fn a_pack_full_of_changes_of_one_row_and_of_names_alike_takes_its_time_and_no_more() {
    let (a, b, folder, _) = two().await;
    let took = async |count: u64, at: u64, of: &dyn Fn(u64, &str) -> Vec<u8>| {
        let files: Vec<(String, Vec<u8>)> = (0..count)
            .map(|n| id(START_MS + at, n))
            .enumerate()
            .map(|(n, id)| (id.clone(), of(n as u64, &id)))
            .collect();
        folder.write(&pack_name(&id(START_MS, at)), pack(&files));
        let started = Instant::now();
        assert_eq!(in_time(sync(&a, &folder.remote())).await.pulled, count);
        started.elapsed()
    };
    let one_row = |n: u64, id: &str| titled(id, "1", &format!("turn {n}"));
    // Keys of one hash, where a hash adds and multiplies as those of Java and C libraries do: `Aa` and `BB` in all orders.
    let alike = |n: u64, id: &str| {
        titled(id, &(0..13).map(|at| if n >> at & 1 == 0 { "Aa" } else { "BB" }).collect::<String>(), "x")
    };
    let few = took(1_000, 1, &one_row).await;
    let many = took(8_000, 2, &one_row).await;
    let colliding = took(8_000, 3, &alike).await;
    println!("1,000 changes of a row {few:?}, 8,000 {many:?}, 8,000 rows of one hash {colliding:?}");
    // A square would be 64 times as much; a busy machine is not what is tested.
    assert!(many < 32 * few.max(Duration::from_millis(50)), "{few:?} {many:?}");
    assert!(table(&a, "note").contains(&"'1'|'turn 7999'|1".to_owned()));
    assert_eq!(sync(&b, &folder.remote()).await.pulled, 17_000);
    assert_eq!(table(&a, "note"), table(&b, "note"));
}

#[test]
fn no_map_has_a_hash_that_a_stranger_knows() {
    fn look(folder: &std::path::Path) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                look(&entry);
            } else {
                let text = fs::read_to_string(&entry).unwrap();
                for word in ["with_hasher", "BuildHasherDefault", "FxHash", "fnv", "ahash"] {
                    assert!(!text.contains(word), "{word} in {}", entry.display());
                }
            }
        }
    }
    look(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
}

// Time.

#[tokio::test]
async fn nothing_dated_ahead_wins_before_its_time_or_moves_a_clock() {
    let (a, b, folder, wall) = two().await;
    let ahead: Vec<(String, Vec<u8>)> = (0..12_000)
        .map(|n| id(START_MS + 100 * DAY_MS, n))
        .map(|id| (id.clone(), titled(&id, "1", "for ever")))
        .collect();
    folder.write(&pack_name(&id(START_MS + 1, 0)), pack(&ahead));
    plant(&folder, LAST, &titled(LAST, "2", "for ever"));
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pulled, report.waiting), (0, 12_001));
    assert_eq!(own_rows(&a, "ZV_WAITING"), 10_000, "who made them is remembered of as many");
    let clocks = a.status().await.unwrap().clocks;
    assert!(clocks.iter().any(|line| line.contains("wait for their time")), "{clocks:?}");
    // The clock goes on as if nothing were there, and what is written now counts now.
    run(&a, "UPDATE note SET title = 'now' WHERE id = '1'");
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!(table(&b, "note"), ["'1'|'now'|1", "'2'|'two'|2"]);
    let newest = a.log(Some("note"), Some("1"), 1).await.unwrap().remove(0).id;
    assert!(newest < id(START_MS + HOUR_MS, 0), "{newest}");
    // When their time has come they are changes like any other, and what is written then wins over them.
    wall.advance(101 * DAY_MS);
    assert_eq!(sync(&a, &folder.remote()).await.pulled, 12_000);
    run(&a, "UPDATE note SET title = 'after' WHERE id = '1'");
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!(table(&b, "note"), ["'1'|'after'|1", "'2'|'two'|2"]);
    assert_eq!(
        sync(&b, &folder.remote()).await.waiting,
        1,
        "the last millisecond that there is comes in the year 10889"
    );
}

#[tokio::test]
async fn a_layout_from_the_end_of_time_is_not_the_last_word() {
    let (a, b, folder, _) = two().await;
    folder.write(&format!("layout/{LAST}.msgpack"), rmp_serde::to_vec_named(&json!({ "layout": "files" })).unwrap());
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!(a.status().await.unwrap().remotes.remove(0).layout, "packs");
    for (wanted, word) in [(Layout::Files, "files"), (Layout::Packs, "packs")] {
        let mut options = SyncOptions::default();
        options.layout = Some(wanted);
        a.sync(&folder.remote(), &options).await.unwrap();
        sync(&b, &folder.remote()).await;
        assert_eq!(b.status().await.unwrap().remotes.remove(0).layout, word);
    }
}

#[tokio::test]
async fn a_pack_named_at_the_end_of_time_does_not_keep_compaction_busy() {
    // By reading: packs that were pushed, of more changes than a handful, were named after it.
    for count in [3, 30] {
        compacts_beside_a_pack_at_the_end_of_time(count).await;
    }
}

async fn compacts_beside_a_pack_at_the_end_of_time(count: usize) {
    let (a, _, folder, wall) = two().await;
    let mut settings = Settings::default();
    settings.compaction_grace = Some(Duration::from_millis(HOUR_MS));
    settings.world = wall.world(7);
    let a = a.with_settings(settings);
    let hostile = id(START_MS - 1_000, 0);
    folder.write(&pack_name(LAST), pack(&[(hostile.clone(), titled(&hostile, "3", "three"))]));
    assert_eq!(sync(&a, &folder.remote()).await.pulled, 1);
    for round in 0..6 {
        let all = format!(
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n"
        );
        run(&a, &format!("INSERT INTO note SELECT 'r{round}-' || i, 'x', 1 FROM ({all})"));
        sync(&a, &folder.remote()).await;
        a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap();
        wall.advance(2 * HOUR_MS);
    }
    a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap();
    let names: Vec<String> =
        folder.files("packs").iter().map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.len() == 2 && names[0] < id(START_MS + DAY_MS, 0) && names[1] == LAST, "{names:?}");
    assert!(!sync(&a, &folder.remote()).await.compaction_due);
    assert_verified(&a, &folder.remote()).await;
}

// What was there before, and elsewhere.

#[tokio::test]
async fn what_is_replayed_changes_nothing() {
    let (a, b, folder, wall) = two().await;
    let mut settings = Settings::default();
    settings.compaction_grace = Some(Duration::from_millis(HOUR_MS));
    settings.world = wall.world(7);
    let a = a.with_settings(settings);
    run(&a, "UPDATE note SET title = 'old' WHERE id = '1'; UPDATE note SET title = 'older' WHERE id = '2'");
    sync(&a, &folder.remote()).await;
    let keep = |folder: &SharedFolder, part: &str| -> Vec<(String, Vec<u8>)> {
        let name = |file: &std::path::Path| format!("{part}/{}", file.file_name().unwrap().to_str().unwrap());
        folder.files(part).iter().map(|file| (name(file), fs::read(file).unwrap())).collect()
    };
    let mut kept = [keep(&folder, "changes"), keep(&folder, "schemas")].concat();
    a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap();
    kept.extend(keep(&folder, "packs"));
    wall.advance(2 * HOUR_MS);
    assert_eq!(a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap().removed_files, 4);
    run(&a, "UPDATE note SET title = 'new'; DELETE FROM note WHERE id = '2'");
    run(&a, "ALTER TABLE note ADD COLUMN more");
    sync(&a, &folder.remote()).await;
    a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap();
    wall.advance(2 * HOUR_MS);
    a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap();
    sync(&b, &folder.remote()).await;
    let shown = (table(&a, "note"), table(&b, "note"));

    kept.iter().for_each(|(name, bytes)| folder.write(name, bytes));
    let c = on_the_wall(Replica::in_memory().unwrap(), &wall, 3);
    run(&c, &format!("{NOTES}; ALTER TABLE note ADD COLUMN more"));
    c.track_all(&keyed()).await.unwrap();
    converge(&[&a, &b, &c], &folder.remote()).await;
    assert_eq!((table(&a, "note"), table(&b, "note"), table(&c, "note")), (shown.0.clone(), shown.1, shown.0));
    assert_eq!(a.status().await.unwrap().notices, [] as [&str; 0], "the old definition is known for what it is");
    // And goes the way of what it was.
    for _ in 0..2 {
        a.compact(&folder.remote(), &CompactOptions::default()).await.unwrap();
        wall.advance(2 * HOUR_MS);
    }
    assert_eq!((folder.changes().len(), folder.files("packs").len()), (0, 1));
    assert_verified(&c, &folder.remote()).await;
}

#[tokio::test]
async fn objects_that_change_names_are_refused_or_mean_the_same() {
    let (a, _, folder, wall) = two().await;
    let swap = |one: &std::path::Path, other: &std::path::Path| {
        let (first, second) = (fs::read(one).unwrap(), fs::read(other).unwrap());
        fs::write(one, second).unwrap();
        fs::write(other, first).unwrap();
    };
    let third = define(&folder, "other", &["CREATE TABLE other (id TEXT PRIMARY KEY)"], &["id"], 0);
    let changes = folder.changes();
    swap(&changes[0], &changes[1]);
    let schemas = folder.files("schemas");
    swap(&schemas[0], &schemas[1]);
    assert!(schemas.contains(&folder.path(&third)));
    let b = clocked(NOTES, &wall, 3).await;
    let report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pulled, report.rejected), (0, 3), "{report:?}");
    let reasons: Vec<&str> = report.newly_rejected.iter().map(|file| file.reason.as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("name")), "{reasons:?}");
    assert!(report.newly_rejected.iter().any(|file| file.name == name_of(&changes[0])));
    let mut full = SyncOptions::default();
    full.full = true;
    assert_eq!(
        a.sync(&folder.remote(), &full).await.unwrap().healed,
        3,
        "two changes, and the definition that is known here"
    );
    wall.advance(60_000);
    assert_eq!(sync(&b, &folder.remote()).await.pulled, 2);

    // A pack's name says nothing of what it holds: two that changed names hold what they held.
    let files = |n: u64| {
        let id = id(START_MS - n, n);
        (id.clone(), titled(&id, &format!("p{n}"), "packed"))
    };
    let [one, other] = [1, 2].map(|n| pack_name(&id(START_MS, n)));
    folder.write(&one, pack(&[files(2)]));
    folder.write(&other, pack(&[files(1)]));
    sync(&b, &folder.remote()).await;
    swap(&folder.path(&one), &folder.path(&other));
    sync(&b, &folder.remote()).await;
    assert_eq!(sync(&a, &folder.remote()).await.pulled, 2);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_eq!(table(&a, "note").len(), 4);
}

#[tokio::test]
async fn a_definition_that_blocks_a_table_is_told_takes_nothing_and_has_not_the_last_word() {
    let (a, b, folder, _) = two().await;
    let schema = "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name = 'note' ORDER BY name";
    let before = rows(&a.connection(), schema);
    let other = ["CREATE TABLE note (title TEXT PRIMARY KEY, id, n)"];
    // A version that none could be greater than is none.
    define(&folder, "note", &other, &["title"], u64::MAX);
    let report = sync(&a, &folder.remote()).await;
    assert!(report.newly_rejected[0].reason.contains("far beyond"), "{report:?}");
    assert!(report.notices.is_empty(), "{report:?}");
    define(&folder, "note", &other, &["title"], 1 << 20);
    let report = sync(&a, &folder.remote()).await;
    assert!(report.notices.iter().any(|notice| notice.contains("neither merged nor pushed")), "{report:?}");
    // Other tables go on, and what is written to this one is kept.
    run(&a, "UPDATE note SET title = 'kept' WHERE id = '1'; CREATE TABLE other (id TEXT PRIMARY KEY)");
    run(&b, "CREATE TABLE other (id TEXT PRIMARY KEY)");
    for replica in [&a, &b] {
        replica.track(&["other"], &keyed()).await.unwrap();
    }
    run(&a, "INSERT INTO other VALUES ('1')");
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!(table(&b, "other"), ["'1'"]);
    assert_eq!(table(&a, "note")[0], "'1'|'kept'|1");
    assert_eq!(rows(&a.connection(), schema), before);

    // One replica says that it is right, and the other one hears of it.
    let mut options = keyed();
    options.redefine = true;
    let report = a.track(&["note"], &options).await.unwrap();
    assert_eq!(report[0].notice, "");
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!(table(&b, "note")[0], "'1'|'kept'|1");
    for replica in [&a, &b] {
        assert_verified(replica, &folder.remote()).await;
    }
}

/// Whether foreign keys are enforced is said by the newest definition: whoever says otherwise changes what is shown, on all replicas
/// alike, and nothing of what is kept; the last word can be had here too.
#[tokio::test]
async fn a_definition_that_turns_foreign_keys_on_or_off_changes_what_is_shown_alone() {
    let wall = Wall::at(START_MS);
    let folder = SharedFolder::new();
    let child = "CREATE TABLE child (id TEXT PRIMARY KEY, parent TEXT REFERENCES parent)";
    let schema = format!("CREATE TABLE parent (id TEXT PRIMARY KEY); {child}");
    let (a, b) = (clocked(&schema, &wall, 1).await, clocked(&schema, &wall, 2).await);
    run(&a, "INSERT INTO parent VALUES ('p'); INSERT INTO child VALUES ('1', 'p'), ('2', NULL)");
    converge(&[&a, &b], &folder.remote()).await;
    // One takes the parent away while the other gives it a child: held, as the reference is enforced.
    run(&a, "DELETE FROM child; DELETE FROM parent");
    run(&b, "INSERT INTO child VALUES ('3', 'p')");
    converge(&[&a, &b], &folder.remote()).await;
    for (version, enforced) in [(1, false), (2, true), (3, false)] {
        define_so(&folder, "child", &[child], &["id"], version, enforced);
        converge(&[&a, &b], &folder.remote()).await;
        for replica in [&a, &b] {
            let shown = if enforced { vec![] } else { vec!["'3'|'p'".to_owned()] };
            assert_eq!(table(replica, "child"), shown, "version {version}");
            assert_verified(replica, &folder.remote()).await;
        }
    }
    let mut options = keyed();
    (options.redefine, options.enforce_fk) = (true, Some(true));
    a.track(&["child"], &options).await.unwrap();
    converge(&[&a, &b], &folder.remote()).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "child"), [] as [&str; 0]);
        assert_eq!(replica.held().await.unwrap().rows.len(), 1);
        assert_verified(replica, &folder.remote()).await;
    }
}
