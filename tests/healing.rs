//! A remote that lost or spoilt something gets it back; what is too large stays here and is never forgotten; layouts are kept.

mod common;

use std::fs;

use common::shared_folder::*;
use common::*;
use serde_json::json;
use zvon::{Layout, Replica, Settings, SyncOptions, SyncReport};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT)";
const FIVE: &str = "INSERT INTO note VALUES ('1', 'one'), ('2', 'two'), ('3', 'three'), ('4', 'four'), ('5', 'five')";

fn options(set: impl FnOnce(&mut SyncOptions)) -> SyncOptions {
    let mut options = SyncOptions::default();
    set(&mut options);
    options
}

async fn sync_full(replica: &Replica, folder: &SharedFolder) -> SyncReport {
    replica.sync(&folder.remote(), &options(|o| o.full = true)).await.unwrap()
}

async fn two() -> (Replica, Replica, SharedFolder) {
    let (a, b, folder) = (replica(NOTES).await, replica(NOTES).await, SharedFolder::new());
    run(&a, FIVE);
    converge(&[&a, &b], &folder.remote()).await;
    (a, b, folder)
}

#[tokio::test]
async fn an_emptied_remote_gets_everything_back_under_its_old_name() {
    let (a, b, folder) = two().await;
    let files = |folder: &SharedFolder| ["changes", "identity", "schemas"].map(|name| folder.files(name));
    let before = files(&folder);
    run(&b, "UPDATE note SET title = 'zwei' WHERE id = '2'");
    folder.empty();
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pushed, report.healed, report.pulled), (5, 5, 0));
    assert_eq!(files(&folder), before);
    let report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pushed, report.healed), (1, 0));
    let c = replica(NOTES).await;
    converge(&[&c, &a], &folder.remote()).await;
    assert_eq!(table(&c, "note"), table(&a, "note"));
    for replica in [&a, &b, &c] {
        assert_verified(replica, &folder.remote()).await;
    }
}

#[tokio::test]
async fn an_emptied_remote_gets_its_layout_back() {
    let (a, _, folder) = two().await;
    a.sync(&folder.remote(), &options(|o| o.layout = Some(Layout::Files))).await.unwrap();
    folder.empty();
    sync(&a, &folder.remote()).await;
    let newcomer = replica(NOTES).await;
    sync(&newcomer, &folder.remote()).await;
    assert_eq!(newcomer.status().await.unwrap().remotes[0].layout, "files");
}

#[tokio::test]
async fn deleted_files_are_put_back_by_whoever_syncs_next() {
    let (a, b, folder) = two().await;
    let files = folder.changes();
    fs::remove_file(&files[1]).unwrap();
    fs::remove_file(&files[3]).unwrap();
    run(&b, "INSERT INTO note VALUES ('6', 'six')");
    let report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pushed, report.healed), (3, 2));
    assert_eq!(folder.changes().len(), 6);
    assert_eq!(sync(&a, &folder.remote()).await.healed, 0);
    assert_verified(&a, &folder.remote()).await;
}

#[tokio::test]
async fn a_thorough_sync_mends_spoilt_files() {
    let (a, b, folder) = two().await;
    let files = folder.changes();
    let before: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    fs::write(&files[0], &before[0][..before[0].len() - 2]).unwrap();
    fs::write(&files[1], b"").unwrap();
    fs::write(&files[2], &before[3]).unwrap();
    let id = files[4].file_stem().unwrap().to_str().unwrap();
    fs::write(&files[4], msgpack(&note_change(id, "5", &json!({ "title": "forged" })))).unwrap();

    let idle = sync(&a, &folder.remote()).await;
    assert_eq!((idle.requests.get, idle.healed), (0, 0));
    let report = a.verify_remote(&folder.remote()).await.unwrap();
    assert_eq!((report.problem_count, report.problems.len()), (4, 4));
    assert!(report.problems.iter().all(|problem| problem.contains("sync --full")), "{:?}", report.problems);

    assert_eq!(sync_full(&b, &folder).await.healed, 4);
    assert_eq!(files.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>(), before);
    assert_verified(&a, &folder.remote()).await;
    assert_eq!(sync_full(&a, &folder).await.healed, 0);
}

/// Found by the simulation: a change was in no place that was remembered, so that nobody missed it.
#[tokio::test]
async fn a_thorough_sync_puts_back_what_nothing_remembers() {
    let (a, b, folder) = two().await;
    sync(&a, &folder.remote()).await;
    run(&a, "DELETE FROM ZV_LOOSE WHERE change_id = (SELECT max(change_id) FROM ZV_LOOSE)");
    fs::remove_file(folder.changes().pop().unwrap()).unwrap();
    assert_eq!(sync(&a, &folder.remote()).await.pushed, 0);
    let told = a.verify_remote(&folder.remote()).await.unwrap().problems;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with("is not on the remote; `zvon sync --full` puts it there"), "{told:?}");
    let report = sync_full(&a, &folder).await;
    assert_eq!((report.pushed, report.healed), (1, 1));
    let again = sync_full(&a, &folder).await;
    assert_eq!((again.pushed, again.healed), (0, 0));
    for replica in [&a, &b] {
        assert_verified(replica, &folder.remote()).await;
    }
}

#[tokio::test]
async fn what_came_from_one_remote_goes_to_the_other() {
    let (a, b, c) = (replica(NOTES).await, replica(NOTES).await, replica(NOTES).await);
    let (home, office) = (SharedFolder::new(), SharedFolder::new());
    run(&a, FIVE);
    sync(&a, &home.remote()).await;
    assert_eq!(sync(&b, &home.remote()).await.pulled, 5);
    assert_eq!(sync(&b, &office.remote()).await.pushed, 5);
    run(&c, "DELETE FROM note");
    assert_eq!(sync(&c, &office.remote()).await.pulled, 5);
    run(&c, "UPDATE note SET title = 'eins' WHERE id = '1'");
    sync(&c, &office.remote()).await;
    sync(&b, &office.remote()).await;
    assert_eq!(sync(&b, &home.remote()).await.pushed, 1);
    assert_eq!(sync(&a, &home.remote()).await.pulled, 1);
    assert_eq!(table(&a, "note"), table(&c, "note"));
    for (replica, folder) in [(&a, &home), (&b, &home), (&b, &office), (&c, &office)] {
        assert_verified(replica, &folder.remote()).await;
    }
}

#[tokio::test]
async fn a_change_above_the_limit_stays_here_and_is_named_until_it_may_go() {
    let (a, b, folder) = two().await;
    let other = SharedFolder::new();
    let mut settings = Settings::default();
    settings.max_object_bytes = 2_000;
    let a = a.with_settings(settings);
    run(&a, "INSERT INTO note VALUES ('6', 'six'), ('7', printf('%.5000c', 'x')), ('8', 'eight')");
    for (pushed, folder) in [(2, &folder), (0, &folder), (7, &other)] {
        let report = sync(&a, &folder.remote()).await;
        assert_eq!((report.pushed, report.healed, report.oversize.len()), (pushed, 0, 1));
        assert_eq!(report.oversize[0].table, "note");
        assert!(report.oversize[0].bytes > 5_000, "{:?}", report.oversize);
        let status = a.status().await.unwrap();
        assert_eq!(status.oversize, report.oversize);
        assert_eq!(status.remotes[0].to_push, 1);
    }
    assert_eq!(sync(&b, &folder.remote()).await.pulled, 2);
    let problems = a.verify_remote(&folder.remote()).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("stays here"), "{problems:?}");

    let a = a.with_settings(Settings::default());
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pushed, report.oversize.len()), (1, 0));
    assert_eq!(sync(&a, &other.remote()).await.pushed, 1);
    assert_eq!(a.status().await.unwrap().oversize, []);
    assert_eq!(sync(&b, &folder.remote()).await.pulled, 1);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    for folder in [&folder, &other] {
        assert_verified(&a, &folder.remote()).await;
        assert_eq!(sync(&a, &folder.remote()).await.pushed, 0);
    }
}

#[tokio::test]
async fn a_change_that_may_go_at_last_goes_once_though_the_remote_heals_meanwhile() {
    let (a, _, folder) = two().await;
    let mut settings = Settings::default();
    settings.max_object_bytes = 2_000;
    let a = a.with_settings(settings);
    run(&a, "INSERT INTO note VALUES ('6', printf('%.5000c', 'x'))");
    assert_eq!(sync(&a, &folder.remote()).await.oversize.len(), 1);
    fs::remove_file(&folder.changes()[0]).unwrap();
    let a = a.with_settings(Settings::default());
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pushed, report.healed, report.requests.put), (2, 1, 2));
    assert_verified(&a, &folder.remote()).await;
}

/// By reading: what was lost and could not be put back was struck off, and stayed away when it could.
#[tokio::test]
async fn a_lost_change_above_the_limit_is_put_back_once_it_may_go() {
    let ((a, b, folder), other) = (two().await, SharedFolder::new());
    run(&a, "INSERT INTO note VALUES ('6', printf('%.5000c', 'x')), ('7', 'seven')");
    sync(&a, &folder.remote()).await;
    sync(&a, &other.remote()).await;
    let large = folder.changes().into_iter().find(|file| fs::metadata(file).unwrap().len() > 5_000).unwrap();
    let bytes = fs::read(&large).unwrap();
    fs::remove_file(&large).unwrap();
    let mut settings = Settings::default();
    settings.max_object_bytes = 2_000;
    let a = a.with_settings(settings);
    for _ in 0..2 {
        let report = sync(&a, &folder.remote()).await;
        assert_eq!((report.pushed, report.healed, report.oversize.len()), (0, 0, 1));
        assert_eq!(a.status().await.unwrap().remotes[0].to_push, 1);
    }
    let a = a.with_settings(Settings::default());
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pushed, report.oversize.len()), (1, 0));
    assert_eq!(fs::read(&large).unwrap(), bytes);
    assert_eq!((sync(&a, &folder.remote()).await.pushed, sync(&a, &other.remote()).await.pushed), (0, 0));
    assert!(a.status().await.unwrap().remotes.iter().all(|remote| remote.to_push == 0));
    sync(&b, &folder.remote()).await;
    assert_eq!(table(&a, "note"), table(&b, "note"));
    assert_verified(&a, &folder.remote()).await;
}

/// By reading: the same of a table that the remote knows by another key. Here somebody else puts one of them back meanwhile.
#[tokio::test]
async fn what_a_remote_lost_of_a_blocked_table_is_put_back_once_the_table_is_free() {
    let (a, b, folder) = two().await;
    let other = replica("CREATE TABLE note (id TEXT, title TEXT PRIMARY KEY)").await;
    let mut same = SyncOptions::default();
    same.join = Some(zvon::Join::Same);
    other.sync(&folder.remote(), &same).await.unwrap();
    let mut right = keyed();
    right.redefine = true;
    other.track(&["note"], &right).await.unwrap();
    sync(&other, &folder.remote()).await;
    let report = sync(&a, &folder.remote()).await;
    assert!(report.notices.iter().any(|notice| notice.contains("neither merged nor pushed")), "{report:?}");
    let files = folder.changes();
    let lost = [&files[1], &files[3]];
    let bytes = lost.map(|file| fs::read(file).unwrap());
    lost.iter().for_each(|file| fs::remove_file(file).unwrap());
    for layout in [None, Some(Layout::Files)] {
        assert_eq!(a.sync(&folder.remote(), &options(|o| o.layout = layout)).await.unwrap().pushed, 0);
        assert_eq!(a.status().await.unwrap().remotes[0].to_push, 2);
    }
    fs::write(lost[1], &bytes[1]).unwrap();
    a.track(&["note"], &right).await.unwrap();
    assert_eq!(sync(&a, &folder.remote()).await.pushed, 1);
    assert_eq!(lost.map(|file| fs::read(file).unwrap()), bytes);
    assert_eq!((sync(&a, &folder.remote()).await.pushed, a.status().await.unwrap().remotes[0].to_push), (0, 0));
    sync(&b, &folder.remote()).await;
    for replica in [&a, &b] {
        assert_verified(replica, &folder.remote()).await;
    }
}

/// By reading: each went in a file of its own, all of them in memory at once; and what only got another form was told as put back.
#[tokio::test]
async fn many_changes_that_may_go_at_last_go_together() {
    let (a, b, folder) = two().await;
    let mut settings = Settings::default();
    settings.max_object_bytes = 1_000;
    let a = a.with_settings(settings);
    let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100)";
    run(&a, &format!("{rows} INSERT INTO note SELECT 'large ' || n, printf('%.2000c', 'x') FROM n"));
    assert_eq!(sync(&a, &folder.remote()).await.oversize.len(), 100);
    let a = a.with_settings(Settings::default());
    let report = sync(&a, &folder.remote()).await;
    assert_eq!((report.pushed, report.healed, report.oversize.len(), report.requests.put), (100, 0, 0, 1));
    assert_eq!(a.status().await.unwrap().remotes[0].to_push, 0);
    assert_eq!(sync(&b, &folder.remote()).await.pulled, 100);
    let report = b.sync(&folder.remote(), &options(|o| o.layout = Some(Layout::Files))).await.unwrap();
    assert_eq!((report.pushed, report.healed), (100, 0));
    for replica in [&a, &b] {
        assert_eq!(sync(replica, &folder.remote()).await.pushed, 0);
        assert_verified(replica, &folder.remote()).await;
    }
}

#[tokio::test]
async fn a_remotes_layout_is_recorded_there_and_changed_by_an_explicit_one() {
    let (a, b, folder) = two().await;
    for (replica, other, layout, text) in
        [(&a, &b, Layout::Files, "files"), (&b, &a, Layout::Packs, "packs"), (&a, &b, Layout::Files, "files")]
    {
        replica.sync(&folder.remote(), &options(|o| o.layout = Some(layout))).await.unwrap();
        sync(other, &folder.remote()).await;
        for replica in [replica, other] {
            assert_eq!(replica.status().await.unwrap().remotes[0].layout, text);
        }
        let again = replica.sync(&folder.remote(), &options(|o| o.layout = Some(layout))).await.unwrap();
        assert_eq!(again.requests.put, 0);
    }
}

#[tokio::test]
async fn a_layout_that_cannot_be_read_yet_is_not_overruled() {
    let (a, b, folder) = two().await;
    a.sync(&folder.remote(), &options(|o| o.layout = Some(Layout::Files))).await.unwrap();
    let layouts = folder.files("layout");
    let newest = layouts.last().unwrap();
    let whole = fs::read(newest).unwrap();
    fs::write(newest, &whole[..3]).unwrap();
    let newcomer = replica(NOTES).await;
    for replica in [&b, &newcomer] {
        sync(replica, &folder.remote()).await;
        assert_eq!(folder.files("layout"), layouts);
    }
    fs::write(newest, whole).unwrap();
    for replica in [&b, &newcomer] {
        sync(replica, &folder.remote()).await;
        assert_eq!(replica.status().await.unwrap().remotes[0].layout, "files");
    }
}

/// A pack that held the change all along was never asked, as a loose file of it was listed.
#[tokio::test]
async fn a_change_whose_loose_file_is_damaged_is_taken_from_a_pack() {
    let (a, b, folder) = (replica(NOTES).await, replica(NOTES).await, SharedFolder::new());
    run(&a, FIVE);
    sync(&a, &folder.remote()).await;
    a.compact(&folder.remote(), &zvon::CompactOptions::default()).await.unwrap();
    let damaged = &folder.changes()[1];
    fs::write(damaged, &fs::read(damaged).unwrap()[..20]).unwrap();
    assert_eq!(sync(&b, &folder.remote()).await.newly_rejected.len(), 1);
    sync(&b, &folder.remote()).await;
    assert_eq!(table(&b, "note"), table(&a, "note"));
    let idle = sync(&b, &folder.remote()).await;
    assert_eq!((idle.pulled, idle.requests.get, idle.rejected), (0, 0, 1));
}

/// What was listed counted as there, however damaged, and was never put there again once it went.
#[tokio::test]
async fn a_change_that_came_another_way_is_put_over_its_damaged_file() {
    let (a, b, c) = (replica(NOTES).await, replica(NOTES).await, replica(NOTES).await);
    let (home, office) = (SharedFolder::new(), SharedFolder::new());
    run(&b, FIVE);
    for folder in [&home, &office] {
        sync(&b, &folder.remote()).await;
    }
    let damaged = &home.changes()[1];
    let whole = fs::read(damaged).unwrap();
    fs::write(damaged, &whole[..20]).unwrap();
    assert_eq!(sync(&a, &home.remote()).await.pulled, 4);
    assert_eq!(sync(&a, &office.remote()).await.pulled, 1);
    let report = sync(&a, &home.remote()).await;
    assert_eq!((report.pushed, report.requests.put, report.rejected), (1, 1, 0));
    assert_eq!(fs::read(damaged).unwrap(), whole);
    for folder in [&home, &office, &home] {
        let report = sync(&a, &folder.remote()).await;
        assert_eq!((report.pushed, report.requests.put, report.rejected), (0, 0, 0));
        assert_verified(&a, &folder.remote()).await;
    }
    assert_eq!(sync(&c, &home.remote()).await.pulled, 5);
    assert_eq!(table(&c, "note"), table(&a, "note"));
}

#[tokio::test]
async fn what_is_there_and_good_is_not_put_again_whoever_pulled_it_meanwhile() {
    let (a, folder, dir) = (replica(NOTES).await, SharedFolder::new(), tempfile::tempdir().unwrap());
    run(&a, FIVE);
    sync(&a, &folder.remote()).await;
    let path = dir.path().join("b.db");
    let b = Replica::init(&path).unwrap();
    run(&b, NOTES);
    b.track_all(&keyed()).await.unwrap();
    // Two processes with one database, which pull the same at once.
    let twin = Replica::open(&path).unwrap();
    let (home, again) = (folder.remote(), folder.remote());
    let (one, other) = tokio::join!(sync(&b, &home), sync(&twin, &again));
    assert_eq!((one.pushed + other.pushed, one.pulled + other.pulled), (0, 5));
    for replica in [&b, &twin, &a] {
        let report = sync(replica, &folder.remote()).await;
        assert_eq!((report.pushed, report.requests.get, report.requests.put), (0, 0, 0));
    }
}

#[tokio::test]
async fn a_damaged_definition_is_seen_and_put_back() {
    let (a, _, folder) = two().await;
    let file = &folder.files("schemas")[0];
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[..10]).unwrap();
    let problems = a.verify_remote(&folder.remote()).await.unwrap().problems;
    let name = format!("schemas/{}", file.file_name().unwrap().to_str().unwrap());
    assert!(problems.len() == 1 && problems[0].contains(&name) && problems[0].contains("sync --full"), "{problems:?}");
    assert_eq!(sync_full(&a, &folder).await.healed, 1);
    assert_eq!(fs::read(file).unwrap(), whole);
    assert_verified(&a, &folder.remote()).await;
    let again = sync_full(&a, &folder).await;
    assert_eq!((again.healed, again.requests.put), (0, 0));
    fs::remove_file(file).unwrap();
    let problems = a.verify_remote(&folder.remote()).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("is not on the remote"), "{problems:?}");
    sync(&a, &folder.remote()).await;
    assert_verified(&a, &folder.remote()).await;
}

/// Nobody had all of the pack any more, and so nobody put back what each had of it.
#[tokio::test]
async fn what_a_replica_has_of_a_damaged_pack_is_put_back_though_it_lacks_the_rest() {
    let (a, b, folder) = (replica(NOTES).await, replica(NOTES).await, SharedFolder::new());
    let other = SharedFolder::new();
    run(&a, FIVE);
    sync(&a, &other.remote()).await;
    sync(&b, &other.remote()).await;
    let rows = "WITH RECURSIVE i (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM i WHERE i < 40) \
                INSERT INTO note SELECT 'more ' || i, 'x' FROM i";
    run(&a, rows);
    sync(&a, &folder.remote()).await;
    let [pack] = &folder.files("packs")[..] else { panic!("one pack") };
    let mut bytes = fs::read(pack).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(pack, &bytes).unwrap();
    // Of the pack, `b` has what came from the other remote.
    let same = options(|o| o.join = Some(zvon::Join::Same));
    assert_eq!(b.sync(&folder.remote(), &same).await.unwrap().newly_rejected.len(), 1);
    let report = sync_full(&b, &folder).await;
    assert_eq!((report.pulled, report.pushed, report.healed), (0, 5, 5));
    let again = sync_full(&b, &folder).await;
    assert_eq!((again.pushed, again.healed, again.requests.put), (0, 0, 0));
    let newcomer = replica(NOTES).await;
    sync(&newcomer, &folder.remote()).await;
    assert_eq!(table(&newcomer, "note"), table(&b, "note"));
    // Its author has all of it, and puts it right.
    assert_eq!(sync_full(&a, &folder).await.healed, 45);
    converge(&[&b, &newcomer], &folder.remote()).await;
    assert_eq!(table(&b, "note"), table(&a, "note"));
    for replica in [&a, &b, &newcomer] {
        assert_verified(replica, &folder.remote()).await;
    }
}

/// The remote lists a file and says that there is none: the sync said that all was up to date.
#[tokio::test]
async fn what_is_listed_and_cannot_be_fetched_is_told_of() {
    let (a, b) = (replica(NOTES).await, replica(NOTES).await);
    let memory = std::sync::Arc::new(object_store::memory::InMemory::new());
    let shown = zvon::Remote::from_store("memory://gone", memory.clone(), "base").unwrap();
    run(&a, FIVE);
    sync(&a, &shown).await;
    sync(&b, &shown).await;
    run(&a, "INSERT INTO note VALUES ('6', 'six'), ('7', 'seven')");
    sync(&a, &shown).await;
    let gone = std::sync::Arc::new(common::gone_store::GoneStore::new(memory));
    let gone = zvon::Remote::from_store("memory://gone", gone, "base").unwrap();
    let report = sync(&b, &gone).await;
    assert_eq!(report.pulled, 0);
    assert!(report.notices.iter().any(|notice| notice.starts_with("2 files that the remote lists")), "{report:?}");
    let report = sync(&b, &shown).await;
    assert_eq!((report.pulled, report.notices.len()), (2, 0));
}

#[tokio::test]
async fn a_file_that_was_too_large_is_fetched_as_soon_as_it_may_be_that_large() {
    let (a, folder) = (replica(NOTES).await, SharedFolder::new());
    run(&a, "INSERT INTO note VALUES ('1', 'one'), ('2', printf('%.5000c', 'x'))");
    sync(&a, &folder.remote()).await;
    let mut settings = Settings::default();
    settings.max_object_bytes = 2_000;
    let b = replica(NOTES).await.with_settings(settings);
    for (pulled, new) in [(1, 1), (0, 0)] {
        let report = sync(&b, &folder.remote()).await;
        assert_eq!((report.pulled, report.rejected, report.newly_rejected.len()), (pulled, 1, new));
    }
    let b = b.with_settings(Settings::default());
    let report = sync(&b, &folder.remote()).await;
    assert_eq!((report.pulled, report.rejected), (1, 0));
    assert_eq!(table(&a, "note"), table(&b, "note"));
}
