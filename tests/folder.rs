//! A folder that Syncthing, Dropbox or a person writes into: strangers, half files, late arrivals, bad files.

mod common;

use std::fs;

use common::shared_folder::*;
use common::wall::{START_MS, Wall, clocked};
use common::*;
use serde_json::{Value, json};
use zvon::{ErrorKind, Remote, RemoteOptions, Replica, Settings, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, n INTEGER)";

async fn two() -> (Replica, Replica, SharedFolder) {
    (replica(NOTES).await, replica(NOTES).await, SharedFolder::new())
}

fn truncate(path: &std::path::Path, bytes: usize) -> Vec<u8> {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - bytes]).unwrap();
    whole
}

#[tokio::test]
async fn what_sync_tools_and_desktops_leave_is_ignored() {
    let (a, b, folder) = two().await;
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    sync(&a, &folder.remote()).await;
    let file = folder.changes().remove(0);
    let (stem, bytes) = (file.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(&file).unwrap());
    for name in [
        &format!("changes/.syncthing.{stem}.msgpack.tmp"),
        &format!("changes/~syncthing~{stem}.msgpack.tmp"),
        &format!("changes/{stem} (conflicted copy).msgpack"),
        &format!("changes/{stem} (Anna's conflicted copy 2026-02-03).msgpack"),
        &format!("changes/{stem}.sync-conflict-20260203-040506-ABCDEFG.msgpack"),
        &format!("changes/{stem}.msgpack#1"),
        &format!("changes/{stem}.msgpack.part"),
        &format!("changes/sub/{stem}.msgpack"),
        "changes/.DS_Store",
        "changes/Icon\r",
        "changes/desktop.ini",
        ".stfolder/syncthing-folder-abc.txt",
        ".dropbox.cache/x",
        "photos/cat.jpg",
        "identity/.DS_Store",
        "layout/notes.txt",
        "schemas/thumbs.db",
        "Icon\r",
    ] {
        folder.write(name, &bytes);
    }
    odd_entries_of_unix(&folder);
    let report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pulled, report.pushed, report.rejected), (2, 0, 0));
    assert_eq!(report.newly_rejected, []);
    assert_eq!(report.notices, [] as [String; 0]);
    assert_verified(&b, &folder.remote()).await;
    let idle = sync(&b, &folder.remote()).await;
    assert_eq!((idle.requests.list, idle.requests.get, idle.requests.put), (1, 0, 0));
}

#[cfg(unix)]
fn odd_entries_of_unix(folder: &SharedFolder) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    let not_utf8 = OsStr::from_bytes(b"\xff\xfe.msgpack");
    fs::write(folder.root().join(not_utf8), b"x").unwrap();
    fs::write(folder.path("changes").join(not_utf8), b"x").unwrap();
    symlink("..", folder.path("changes/up")).unwrap();
    symlink(folder.root(), folder.path("again")).unwrap();
    let looping = file_name(&old_id(1));
    symlink(folder.path(&looping), folder.path(&looping)).unwrap();
    symlink("nowhere", folder.path(&file_name(&old_id(2)))).unwrap();
    fs::create_dir(folder.path(&file_name(&old_id(3)))).unwrap();
}

#[cfg(not(unix))]
fn odd_entries_of_unix(_: &SharedFolder) {}

#[tokio::test]
async fn a_half_file_is_told_of_once_and_read_when_it_is_complete() {
    let (a, b, folder) = two().await;
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    sync(&a, &folder.remote()).await;
    let file = folder.changes().remove(1);
    let whole = truncate(&file, 9);

    let report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pulled, report.rejected), (1, 1));
    let [bad] = &report.newly_rejected[..] else { panic!("{:?}", report.newly_rejected) };
    assert_eq!((bad.name.as_str(), bad.bytes), (name_of(&file).as_str(), whole.len() as u64 - 9));
    assert!(bad.reason.contains("ends too early"), "{}", bad.reason);
    assert_eq!(table(&b, "note"), ["'1'|'one'|1"]);

    let again = sync(&b, &folder.remote()).await;
    assert_eq!((again.rejected, again.newly_rejected.len(), again.requests.get), (1, 0, 0));
    assert_eq!(b.status().await.unwrap().remotes[0].rejected, report.newly_rejected);

    fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let grown = sync(&b, &folder.remote()).await;
    assert_eq!((grown.rejected, grown.newly_rejected.len(), grown.requests.get), (1, 1, 1));

    fs::write(&file, &whole).unwrap();
    let complete = sync(&b, &folder.remote()).await;
    assert_eq!((complete.pulled, complete.rejected, complete.newly_rejected.len()), (1, 0, 0));
    assert_eq!(table(&b, "note"), table(&a, "note"));
    assert_verified(&b, &folder.remote()).await;
}

#[tokio::test]
async fn a_refused_file_is_asked_for_again_after_a_growing_delay() {
    let (wall, folder) = (Wall::at(START_MS), SharedFolder::new());
    let (a, b) = (clocked(NOTES, &wall, 1).await, clocked(NOTES, &wall, 2).await);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1)");
    sync(&a, &folder.remote()).await;
    let file = folder.changes().remove(0);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, vec![0xC1; whole.len()]).unwrap();
    let written = fs::metadata(&file).unwrap().modified().unwrap();

    assert_eq!(sync(&b, &folder.remote()).await.newly_rejected.len(), 1);
    for minutes in [1, 2, 4, 8] {
        wall.advance(minutes * 60_000 - 1);
        let early = sync(&b, &folder.remote()).await;
        assert_eq!((early.requests.get, early.rejected), (0, 1), "before {minutes} minutes");
        wall.advance(1);
        let due = sync(&b, &folder.remote()).await;
        assert_eq!((due.requests.get, due.rejected, due.newly_rejected.len()), (1, 1, 0), "after {minutes} minutes");
    }
    // A tool that keeps time and size leaves no other sign that the file is whole now.
    fs::write(&file, &whole).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
    assert_eq!(sync(&b, &folder.remote()).await.rejected, 1);
    wall.advance(16 * 60_000);
    let read = sync(&b, &folder.remote()).await;
    assert_eq!((read.pulled, read.rejected), (1, 0));
}

#[tokio::test]
async fn a_file_that_arrives_late_with_an_old_id_is_found() {
    let (a, b, folder) = two().await;
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1)");
    converge(&[&a, &b], &folder.remote()).await;
    let late = old_id(7);
    folder.write(&file_name(&late), msgpack(&note_change(&late, "0", &json!({ "title": "late", "n": 0 }))));
    let stale = old_id(8);
    folder.write(&file_name(&stale), msgpack(&note_change(&stale, "1", &json!({ "title": "stale" }))));
    for replica in [&a, &b] {
        assert_eq!(sync(replica, &folder.remote()).await.pulled, 2);
        assert_eq!(table(replica, "note"), ["'0'|'late'|0", "'1'|'one'|1"]);
        assert_verified(replica, &folder.remote()).await;
    }
}

/// One file of every kind that is refused: its name, its bytes, and a word of the reason.
fn bad_files() -> Vec<(String, Vec<u8>, &'static str)> {
    let ids: Vec<String> = (0..32).map(old_id).collect();
    let good = |n: usize| msgpack(&note_change(&ids[n], &format!("bad{n}"), &json!({ "title": "no" })));
    let with = |n: usize, fields: &[Value]| msgpack(&change(&ids[n], "note", &format!("bad{n}"), fields));
    let of = |n: usize, table: &str| msgpack(&change(&ids[n], table, "x", &[field("key", &json!("no"))]));
    let title = |value: Value| field("title", &value);
    let named = |n: usize, bytes: Vec<u8>, why| (file_name(&ids[n]), bytes, why);
    vec![
        ("changes/no-uuid-at-all.msgpack".to_owned(), good(0), "canonical UUIDv7"),
        (file_name(&ids[1].to_uppercase()), good(1), "canonical UUIDv7"),
        (file_name(&ids[2].replace("-7000-", "-4000-")), good(2), "canonical UUIDv7"),
        named(3, good(4), "differs from its name"),
        named(5, good(5)[..20].to_vec(), "ends too early"),
        named(6, Vec::new(), "ends too early"),
        named(7, [good(7), vec![0xC0]].concat(), "bytes follow"),
        named(8, with(8, &[title(json!("a")), title(json!("b"))]), "same name"),
        named(9, with(9, &[title(json!("a")), field("TITLE", &json!("b"))]), "same name"),
        named(10, with(10, &[title(json!(["nested"]))]), "nested"),
        named(11, with(11, &[title(json!({ "nested": 1 }))]), "nested"),
        named(12, with(12, &[title(json!(u64::MAX))]), "64-bit"),
        named(13, of(13, "ZV_METADATA"), "reserved"),
        named(14, of(14, "zv_change"), "reserved"),
        named(15, of(15, "sqlite_sequence"), "reserved"),
        named(16, of(16, ""), "never be a table's name"),
        named(17, with(17, &[title(json!("x".repeat(3000)))]), "larger than the limit"),
        named(18, with(18, &[]), "no fields"),
        named(19, b"<html>502 Bad Gateway</html>".to_vec(), "is not what belongs there"),
    ]
}

#[tokio::test]
async fn every_kind_of_bad_file_is_told_of_and_blocks_nothing() {
    let (a, b, folder) = two().await;
    let mut settings = Settings::default();
    settings.max_object_bytes = 2000;
    let b = b.with_settings(settings);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1)");
    sync(&a, &folder.remote()).await;
    let old = old_id(40);
    folder.write(&file_name(&old), msgpack(&note_change(&old, "0", &json!({ "title": "good" }))));
    let mut bad = bad_files();
    bad.iter().for_each(|(name, bytes, _)| folder.write(name, bytes));
    bad.sort();

    let mut report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pulled, report.rejected), (2, bad.len() as u64));
    report.newly_rejected.sort_by(|a, b| a.name.cmp(&b.name));
    let told: Vec<&str> = report.newly_rejected.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(told, bad.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>());
    for (file, (_, bytes, why)) in report.newly_rejected.iter().zip(&bad) {
        assert!(file.reason.contains(why), "{}: {}", file.name, file.reason);
        assert_eq!(file.bytes, bytes.len() as u64, "{}", file.name);
    }
    assert_eq!(table(&b, "note"), ["'0'|'good'|NULL", "'1'|'one'|1"]);
    assert!(b.status().await.unwrap().notices.is_empty());
    assert_eq!(b.held().await.unwrap().unknown, []);

    let again = sync(&b, &folder.remote()).await;
    assert_eq!((again.rejected, again.newly_rejected.len(), again.requests.get), (bad.len() as u64, 0, 0));
    for (name, ..) in &bad {
        fs::remove_file(folder.path(name)).unwrap();
    }
    assert_eq!(sync(&b, &folder.remote()).await.rejected, 0);
    assert_verified(&b, &folder.remote()).await;
}

#[tokio::test]
async fn a_thorough_sync_asks_again_and_tells_nothing_twice() {
    let (a, b, folder) = two().await;
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1), ('2', 'two', 2)");
    sync(&a, &folder.remote()).await;
    let changes = folder.changes();
    let (mended, broken) = (&changes[0], &changes[1]);
    let (whole, written) = (truncate(mended, 4), fs::metadata(mended).unwrap().modified().unwrap());
    truncate(broken, 4);
    assert_eq!(sync(&b, &folder.remote()).await.newly_rejected.len(), 2);

    fs::write(mended, &whole).unwrap();
    fs::File::options().write(true).open(mended).unwrap().set_modified(written).unwrap();
    let mut options = SyncOptions::default();
    options.full = true;
    let full = b.sync(&folder.remote(), &options).await.unwrap();
    assert_eq!((full.pulled, full.rejected, full.newly_rejected.len()), (1, 1, 0));

    // Its author puts the other right, and the same change has come here another way: nothing is left to complain of.
    fs::remove_file(broken).unwrap();
    assert_eq!(a.sync(&folder.remote(), &options).await.unwrap().healed, 1);
    let last = sync(&b, &folder.remote()).await;
    assert_eq!((last.pulled, last.rejected), (1, 0));
}

#[tokio::test]
async fn a_bad_file_of_a_change_that_came_another_way_is_no_longer_told_of_once_it_is_right() {
    let (a, b, folder) = two().await;
    let other = SharedFolder::new();
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1)");
    sync(&a, &folder.remote()).await;
    sync(&a, &other.remote()).await;
    let file = folder.changes().remove(0);
    truncate(&file, 4);
    assert_eq!(sync(&b, &folder.remote()).await.rejected, 1);
    assert_eq!(sync(&b, &other.remote()).await.pulled, 1);
    let mended = sync(&b, &folder.remote()).await;
    assert_eq!((mended.pushed, mended.newly_rejected.len()), (1, 0));
    assert_eq!(sync(&b, &folder.remote()).await.rejected, 0);

    truncate(&file, 4);
    let mut options = SyncOptions::default();
    options.full = true;
    let mended = b.sync(&folder.remote(), &options).await.unwrap();
    assert_eq!((mended.healed, mended.rejected, mended.newly_rejected.len()), (1, 0, 0));
    truncate(&file, 4);
    assert_eq!(a.sync(&folder.remote(), &options).await.unwrap().healed, 1);
    assert_eq!(sync(&b, &folder.remote()).await.rejected, 0);
}

/// The drive was not mounted: the whole log went into a new folder in its place, and everybody was told that all was well.
#[tokio::test]
async fn a_known_folder_that_is_gone_is_not_made_again() {
    let (place, a) = (tempfile::tempdir().unwrap(), replica(NOTES).await);
    let (drive, away) = (place.path().join("drive"), place.path().join("away"));
    let remote = || Remote::from_url(drive.join("notes").to_str().unwrap(), &RemoteOptions::default()).unwrap();
    run(&a, "INSERT INTO note VALUES ('1', 'one', 1)");
    assert_eq!(sync(&a, &remote()).await.pushed, 1, "a first sync makes it");
    let opened_before = remote();
    fs::rename(&drive, &away).unwrap();
    run(&a, "INSERT INTO note VALUES ('2', 'two', 2)");
    for remote in [opened_before, remote()] {
        let synced = a.sync(&remote, &SyncOptions::default()).await.map(drop);
        let (verified, looked) = (a.verify_remote(&remote).await.map(drop), a.survey(&remote).await.map(drop));
        let keys = a.keys(&remote).await.map(drop);
        for done in [synced, verified, looked, keys] {
            let error = done.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Remote);
            assert!(error.to_string().contains("its drive mounted"), "{error}");
        }
    }
    assert!(!drive.exists());
    fs::rename(&away, &drive).unwrap();
    let report = sync(&a, &remote()).await;
    assert_eq!((report.pushed, report.healed), (1, 0));
    assert_verified(&a, &remote()).await;
}

#[tokio::test]
async fn whoever_only_reads_makes_no_folder() {
    let (place, a) = (tempfile::tempdir().unwrap(), replica(NOTES).await);
    let folder = place.path().join("no/such/folder");
    let remote = Remote::from_url(folder.to_str().unwrap(), &RemoteOptions::default()).unwrap();
    let clone = Replica::clone_from(&remote, place.path().join("c.db"), Settings::default(), None).await.map(drop);
    let (verified, looked) = (a.verify_remote(&remote).await.map(drop), a.survey(&remote).await.map(drop));
    for done in [clone, verified, looked, a.keys(&remote).await.map(drop)] {
        let error = done.unwrap_err();
        assert!(error.to_string().contains("check that the folder is there"), "{error}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    assert_eq!(sync(&a, &remote).await.requests.list, 1);
    assert!(folder.is_dir());
}
