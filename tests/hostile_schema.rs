//! A remote whose table definitions are hostile: a clone refuses them, and none of their text is run.

mod common;

use std::path::Path;

use common::*;
use serde::Serialize;
use sha2::{Digest, Sha256};
use zvon::{Replica, Settings};

/// What an object of `schemas/` holds, as `docs/format.md` says.
#[derive(Serialize)]
struct Definition {
    table: String,
    statements: Vec<String>,
    identity: String,
    key: Vec<String>,
    enforce_fk: bool,
    version: u64,
}

/// Writes a definition under its true name, as anyone who can write to the remote may.
fn plant(folder: &Path, table: &str, statements: &[&str], version: u64) {
    let definition = Definition {
        table: table.into(),
        statements: statements.iter().map(|sql| (*sql).to_owned()).collect(),
        identity: "key".into(),
        key: vec!["id".into()],
        enforce_fk: true,
        version,
    };
    let bytes = rmp_serde::to_vec_named(&definition).unwrap();
    let name: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::create_dir_all(folder.join("schemas")).unwrap();
    std::fs::write(folder.join(format!("schemas/{name}.msgpack")), bytes).unwrap();
}

const GOOD: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, v)";

#[tokio::test]
async fn hostile_definitions_are_refused_and_run_nothing() {
    let home = tempfile::tempdir().unwrap();
    let stolen = home.path().join("stolen.db");
    let attach = format!("CREATE TABLE t (id TEXT PRIMARY KEY); ATTACH '{}' AS stolen", stolen.display());
    let cases: [(&str, &[&str]); 10] = [
        ("t", &[GOOD, "DROP TABLE ZV_CHANGE"]),
        ("t", &["CREATE TABLE t (id TEXT PRIMARY KEY); DELETE FROM ZV_METADATA"]),
        ("t", &[&attach]),
        ("t", &[GOOD, "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM ZV_METADATA; END"]),
        ("t", &[GOOD, "CREATE TABLE other (id TEXT PRIMARY KEY)"]),
        ("t", &["CREATE VIRTUAL TABLE t USING fts5(id)"]),
        ("t", &["CREATE TABLE t AS SELECT * FROM sqlite_schema"]),
        ("t", &["CREATE TABLE t (id TEXT PRIMARY KEY, v DEFAULT (load_extension('x')))"]),
        ("ZV_METADATA", &["CREATE TABLE ZV_METADATA (id TEXT PRIMARY KEY)"]),
        ("t", &["CREATE TABLE other (id TEXT PRIMARY KEY)"]),
    ];
    for (n, (table, statements)) in cases.into_iter().enumerate() {
        let (folder, file) = (home.path().join(format!("remote{n}")), home.path().join(format!("{n}.db")));
        let shared = remote(folder.to_str().unwrap());
        sync(&replica("CREATE TABLE fine (id TEXT PRIMARY KEY, v); INSERT INTO fine VALUES ('a', 1)").await, &shared)
            .await;
        plant(&folder, table, statements, 0);
        let error = Replica::clone_from(&shared, &file, Settings::default(), None).await.unwrap_err();
        assert!(error.to_string().contains(table), "{statements:?}: {error}");
        assert!(!stolen.exists());
        if file.exists() {
            let replica = Replica::open(&file).unwrap();
            let sql = "SELECT name FROM sqlite_schema WHERE name NOT GLOB 'ZV_*' AND name NOT GLOB 'sqlite_*'";
            assert_eq!(rows(&replica.connection(), sql), [] as [&str; 0], "{statements:?}");
            assert_eq!(
                rows(&replica.connection(), "SELECT count(*) FROM ZV_METADATA WHERE key = 'database_uuid'"),
                ["1"]
            );
        }
    }
}

#[tokio::test]
async fn a_replica_that_stands_takes_no_definition_unasked() {
    let home = tempfile::tempdir().unwrap();
    let shared = remote(home.path().join("remote").to_str().unwrap());
    let replica = replica(&format!("{GOOD}; INSERT INTO t VALUES ('a', 1)")).await;
    sync(&replica, &shared).await;
    plant(&home.path().join("remote"), "t", &["CREATE TABLE t (id TEXT PRIMARY KEY, v, more)"], 7);
    plant(&home.path().join("remote"), "new", &["CREATE TABLE new (id TEXT PRIMARY KEY)"], 0);
    run(&replica, "INSERT INTO t VALUES ('b', 2)");
    assert_eq!(sync(&replica, &shared).await.pushed, 1);
    assert_eq!(
        rows(&replica.connection(), "SELECT sql FROM sqlite_schema WHERE name IN ('t', 'new')"),
        [format!("'{GOOD}'")]
    );
    let notices = replica.status().await.unwrap().notices.join("\n");
    assert!(notices.contains("t has another definition") && notices.contains("new is on the remote"), "{notices}");
}

/// Eight thousand bytes took half a minute, and ten times as many a thousand times as long.
#[tokio::test]
async fn a_long_definition_takes_no_longer_than_its_length() {
    let home = tempfile::tempdir().unwrap();
    let (folder, file) = (home.path().join("remote"), home.path().join("clone.db"));
    let shared = remote(folder.to_str().unwrap());
    sync(&replica("CREATE TABLE fine (id TEXT PRIMARY KEY, v); INSERT INTO fine VALUES ('a', 1)").await, &shared).await;
    let computed = (0..40).map(|n| format!("g{n} AS (abs(v{}))", "+1".repeat(90)));
    let long = format!("CREATE TABLE t (id TEXT PRIMARY KEY, v, {})", computed.collect::<Vec<_>>().join(", "));
    plant(&folder, "t", &[&long], 0);
    let start = std::time::Instant::now();
    let (replica, _) = Replica::clone_from(&shared, &file, Settings::default(), None).await.unwrap();
    sync(&replica, &shared).await;
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
