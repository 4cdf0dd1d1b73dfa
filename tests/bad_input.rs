//! Bad input: a clear error, and nothing lost. Databases that cannot be used, tables that cannot be tracked, remotes that fail.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::faulty_store::{FaultyStore, Request, Verdict};
use common::*;
use object_store::memory::InMemory;
use rusqlite::Connection;
use tempfile::tempdir;
use zvon::{Error, ErrorKind, Remote, RemoteOptions, Replica, Settings, SyncOptions, TrackOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT)";

fn assert_error(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for words in words {
        assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
    }
}

async fn refused(replica: &Replica, remote: &Remote) -> Error {
    replica.sync(remote, &SyncOptions::default()).await.unwrap_err()
}

#[test]
fn files_that_are_no_database_are_named_and_left_alone() {
    let dir = tempdir().unwrap();
    let photo = dir.path().join("photo.db");
    let content = b"\xff\xd8\xff\xe0 JFIF, a photo and no database".repeat(200);
    fs::write(&photo, &content).unwrap();
    for error in [Replica::init(&photo).unwrap_err(), Replica::open(&photo).unwrap_err()] {
        assert_error(&error, ErrorKind::Database, &["photo.db", "not an SQLite database"]);
    }
    assert_eq!(fs::read(&photo).unwrap(), content);

    let missing = dir.path().join("missing.db");
    assert_error(&Replica::open(&missing).unwrap_err(), ErrorKind::Database, &["missing.db", "no such file"]);
    assert!(!missing.exists());
    assert_error(&Replica::init(dir.path()).unwrap_err(), ErrorKind::Database, &[dir.path().to_str().unwrap()]);
    let nowhere = dir.path().join("no/folder/x.db");
    assert_error(&Replica::init(&nowhere).unwrap_err(), ErrorKind::Database, &["x.db", "cannot be opened"]);
}

#[test]
fn a_database_without_a_log_says_what_to_do() {
    let dir = tempdir().unwrap();
    let plain = dir.path().join("plain.db");
    Connection::open(&plain).unwrap().execute_batch(NOTES).unwrap();
    assert_error(&Replica::open(&plain).unwrap_err(), ErrorKind::Database, &["plain.db", "zvon init"]);
}

#[test]
fn a_database_in_utf_16_is_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("wide.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(&format!("PRAGMA encoding = 'UTF-16le'; {NOTES}")).unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    assert_error(&Replica::init(&path).unwrap_err(), ErrorKind::Database, &["wide.db", "UTF-16le", "UTF-8"]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("newer.db");
    drop(Replica::init(&path).unwrap());
    let set = |version: &str| {
        let sql = "UPDATE ZV_METADATA SET value = ?1 WHERE key = 'format_version'";
        assert_eq!(Connection::open(&path).unwrap().execute(sql, [version]).unwrap(), 1);
    };
    let sql = "SELECT value FROM ZV_METADATA WHERE key = 'format_version'";
    let current: String = Connection::open(&path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    set("99");
    for error in [Replica::open(&path).unwrap_err(), Replica::init(&path).unwrap_err()] {
        assert_error(&error, ErrorKind::Database, &["format version 99", "newer zvon"]);
    }
    set("what");
    assert_error(&Replica::open(&path).unwrap_err(), ErrorKind::Corrupt, &["format_version"]);
    set(&current);
    Replica::open(&path).unwrap();
}

#[tokio::test]
async fn a_locked_database_is_waited_for_and_then_told_of() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("locked.db");
    let (replica, remote) = (Replica::init(&path).unwrap(), fresh_remote());
    run(&replica, NOTES);
    replica.track_all(&keyed()).await.unwrap();
    run(&replica, "INSERT INTO note VALUES ('1', 'one')");
    // The lent connection's own wait, so that nobody has to sit through ten seconds.
    replica.connection().busy_timeout(Duration::from_millis(50)).unwrap();

    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE; INSERT INTO note VALUES ('2', 'two')").unwrap();
    assert_error(&refused(&replica, &remote).await, ErrorKind::Busy, &["another program holds the database"]);
    let error = replica.track(&["note"], &keyed()).await.unwrap_err();
    assert_error(&error, ErrorKind::Busy, &["try again"]);
    assert_eq!(replica.status().await.unwrap().journal, 1);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(sync(&replica, &remote).await.pushed, 2);
    assert_verified(&replica, &remote).await;
}

#[tokio::test]
async fn a_database_that_may_not_be_written_is_told_of() {
    let (replica, remote) = (replica(NOTES).await, fresh_remote());
    run(&replica, "INSERT INTO note VALUES ('1', 'one'); PRAGMA query_only = ON");
    assert_error(&refused(&replica, &remote).await, ErrorKind::Database, &["read-only", "writable"]);
    assert_eq!(replica.status().await.unwrap().journal, 1);
    run(&replica, "PRAGMA query_only = OFF");
    assert_eq!(sync(&replica, &remote).await.pushed, 1);
}

/// Whether permissions mean anything to whoever runs the tests: they do not to root.
#[cfg(unix)]
fn permissions_count(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let probe = dir.join("probe");
    fs::write(&probe, b"").unwrap();
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o444)).unwrap();
    let count = fs::File::options().write(true).open(&probe).is_err();
    if !count {
        println!("SKIPPED: files and folders without permission to write mean nothing to this user");
    }
    count
}

#[cfg(unix)]
#[tokio::test]
async fn files_and_folders_without_permission_are_told_of() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    if !permissions_count(dir.path()) {
        return;
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let path = dir.path().join("ro.db");
    Connection::open(&path).unwrap().execute_batch(NOTES).unwrap();
    mode(&path, 0o444);
    assert_error(&Replica::init(&path).unwrap_err(), ErrorKind::Database, &["read-only"]);
    mode(&path, 0o644);

    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let (a, remote) = (replica(NOTES).await, remote(shared.to_str().unwrap()));
    run(&a, "INSERT INTO note VALUES ('1', 'one')");
    mode(&shared, 0o555);
    assert_error(&refused(&a, &remote).await, ErrorKind::Remote, &["shared", "permissions"]);
    mode(&shared, 0o755);
    assert_eq!(sync(&a, &remote).await.pushed, 1);
}

#[tokio::test]
async fn what_cannot_be_tracked_is_refused_by_name_and_nothing_is_tracked() {
    let replica = Replica::in_memory().unwrap();
    let schema = "CREATE VIEW titles AS SELECT title FROM note; CREATE VIRTUAL TABLE found USING fts5(title)";
    run(&replica, &format!("{NOTES}; {schema}; CREATE TABLE keyless (a)"));
    for (table, words) in [
        ("nothing", "nothing"),
        ("titles", "view"),
        ("found", "virtual"),
        ("sqlite_schema", "sqlite_schema"),
        ("ZV_CHANGE", "ZV_CHANGE"),
        ("keyless", "primary key"),
    ] {
        let error = replica.track(&["note", table], &TrackOptions::default()).await.unwrap_err();
        assert_error(&error, ErrorKind::Schema, &[words, table]);
    }
    assert_eq!(replica.status().await.unwrap().tables, []);
    run(&replica, "INSERT INTO note VALUES ('1', 'one')");
    assert_eq!(replica.status().await.unwrap().journal, 0);
}

#[tokio::test]
async fn a_remote_that_is_not_there_or_silent_is_told_of() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_at, closed_at) = (silent.local_addr().unwrap(), closed.local_addr().unwrap());
    drop(closed);
    let options = RemoteOptions::default()
        .setting("AWS_ACCESS_KEY_ID", "AKID")
        .setting("AWS_SECRET_ACCESS_KEY", "secret-secret")
        .request_timeout(Duration::from_millis(100))
        .connect_timeout(Duration::from_millis(100))
        .max_retries(0);
    let (a, working) = (replica(NOTES).await, fresh_remote());
    run(&a, "INSERT INTO note VALUES ('1', 'one')");
    for (address, words) in [(silent_at, "does not answer in time"), (closed_at, "cannot be reached")] {
        let remote = Remote::from_url(&format!("s3://{address}/bucket"), &options).unwrap();
        assert_error(&refused(&a, &remote).await, ErrorKind::Remote, &[&address.to_string(), words]);
    }
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Remote::from_url(file.to_str().unwrap(), &RemoteOptions::default()).unwrap_err();
    assert_error(&error, ErrorKind::Remote, &["it is a file, not a folder"]);
    let gone = dir.path().join("drive");
    let remote = remote(gone.to_str().unwrap());
    sync(&a, &remote).await;
    fs::rename(&gone, dir.path().join("away")).unwrap();
    assert_error(&refused(&a, &remote).await, ErrorKind::Remote, &["drive", "mounted"]);
    assert!(!gone.exists(), "nothing is written beside a drive that is not mounted");
    assert_eq!(sync(&a, &working).await.pushed, 1);
    assert_verified(&a, &working).await;
}

#[tokio::test]
async fn a_remote_that_lies_about_sizes_is_survived() {
    type Rule = fn(Request) -> Verdict;
    let store = Arc::new(InMemory::new());
    let a = replica(NOTES).await;
    run(&a, "INSERT INTO note VALUES ('1', 'one'), ('2', printf('%.200000c', 'x'))");
    let remote = |rule: Rule| {
        Remote::from_store("faulty://sizes", FaultyStore::new(&store, move |_, request| rule(request)), "").unwrap()
    };
    sync(&a, &remote(|_| Verdict::Pass)).await;
    let rules: [(Rule, Option<u64>); 4] = [
        // What is listed as larger than the limit is not asked for.
        (|r| if r == Request::List { Verdict::Claim(u64::MAX) } else { Verdict::Pass }, Some(0)),
        // What is larger than listed is read as far as a file may have grown meanwhile.
        (|r| if r == Request::List { Verdict::Claim(0) } else { Verdict::Pass }, Some(1)),
        // Where even the remote's name is too large to be read, nothing is done at all.
        (|r| if r == Request::Get { Verdict::Claim(u64::MAX) } else { Verdict::Pass }, None),
        // Fewer bytes announced than sent: the bytes count.
        (|r| if r == Request::Get { Verdict::Claim(1) } else { Verdict::Pass }, Some(2)),
    ];
    for (rule, pulled) in rules {
        for limit in [Settings::default().max_object_bytes, u64::MAX] {
            let mut settings = Settings::default();
            settings.max_object_bytes = limit;
            let b = replica(NOTES).await.with_settings(settings);
            match (b.sync(&remote(rule), &SyncOptions::default()).await, pulled) {
                (Ok(report), Some(pulled)) if limit < u64::MAX => {
                    assert_eq!((report.pulled, report.rejected), (pulled, 2 - pulled));
                }
                (Ok(_), Some(_)) => {}
                (Err(error), None) => assert_error(&error, ErrorKind::Remote, &["identity", "larger"]),
                (result, _) => panic!("{result:?}"),
            }
            // Told the truth, it has everything in the end.
            sync(&b, &remote(|_| Verdict::Pass)).await;
            let mut full = SyncOptions::default();
            full.full = true;
            let last = b.sync(&remote(|_| Verdict::Pass), &full).await.unwrap();
            assert_eq!(last.rejected, 0);
            assert_eq!(table(&b, "note"), table(&a, "note"));
            assert_verified(&b, &remote(|_| Verdict::Pass)).await;
        }
    }
}
