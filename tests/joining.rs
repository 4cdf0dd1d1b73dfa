//! Which replica may share a remote with which: the wrong URL must not mix two databases.

mod common;

use std::fs;
use std::sync::Arc;

use common::faulty_store::{FaultyStore, Request, Verdict};
use common::shared_folder::*;
use common::wall::{START_MS, Wall, on_the_wall};
use common::*;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::Barrier;
use zvon::{ErrorKind, Join, Layout, Remote, Replica, SyncOptions};

const TABLES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, body TEXT);
                      CREATE TABLE tag (id TEXT PRIMARY KEY, name TEXT)";

async fn strangers() -> (Replica, Replica, SharedFolder) {
    let (a, b, folder) = (replica(TABLES).await, replica(TABLES).await, SharedFolder::new());
    run(
        &a,
        "INSERT INTO note VALUES ('1', 'a', 'x'), ('2', 'a', 'x'), ('3', 'a', 'x'); INSERT INTO tag VALUES ('t', 'a')",
    );
    run(&b, "INSERT INTO note VALUES ('3', 'b', 'y'), ('4', 'b', 'y')");
    sync(&a, &folder.remote()).await;
    (a, b, folder)
}

fn join_same() -> SyncOptions {
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    options
}

#[tokio::test]
async fn a_replica_with_other_rows_is_refused_and_told_how_many_meet() {
    let (a, b, folder) = strangers().await;
    let (files, rows) = (folder.changes(), table(&b, "note"));
    for _ in 0..2 {
        let error = b.sync(&folder.remote(), &SyncOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unrelated);
        for words in ["note: 1 of its 3 rows", "tag: 0 of its 1 rows", "--join same", "another database's data"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!((folder.changes(), table(&b, "note")), (files.clone(), rows.clone()));
        assert_eq!(folder.files("identity").len(), 1);
        assert_eq!(b.status().await.unwrap().changes, 2);
    }
    assert_eq!(sync(&a, &folder.remote()).await.pulled, 0);
    assert_verified(&a, &folder.remote()).await;
}

#[tokio::test]
async fn joined_as_the_same_rows_with_the_same_key_are_one_row() {
    let (a, b, folder) = strangers().await;
    let report = b.sync(&folder.remote(), &join_same()).await.unwrap();
    assert_eq!((report.pulled, report.pushed), (4, 2));
    converge(&[&a, &b], &folder.remote()).await;
    let notes = table(&a, "note");
    // Either may have written the row that both have within the same millisecond as the other.
    let [_, _, both, _] = &notes[..] else { panic!("four rows: {notes:?}") };
    assert!(["'3'|'a'|'x'", "'3'|'b'|'y'"].contains(&both.as_str()), "{both}");
    for replica in [&a, &b] {
        assert_eq!(table(replica, "note"), notes);
        assert_eq!(table(replica, "tag"), ["'t'|'a'"]);
        assert_verified(replica, &folder.remote()).await;
    }
}

#[tokio::test]
async fn an_empty_replica_just_joins() {
    let (a, _, folder) = strangers().await;
    let empty = replica(TABLES).await;
    assert_eq!(sync(&empty, &folder.remote()).await.pulled, 4);
    assert_eq!(table(&empty, "note"), table(&a, "note"));
}

#[tokio::test]
async fn a_remote_at_another_place_is_known_again() {
    let (a, _, folder) = strangers().await;
    let moved = folder.copy();
    run(&a, "INSERT INTO note VALUES ('5', 'a', 'x')");
    let report = sync(&a, &moved.remote()).await;
    assert_eq!((report.pushed, report.healed, report.pulled), (1, 0, 0));
    assert_eq!(moved.files("identity").len(), 1);
    assert_verified(&a, &moved.remote()).await;

    // Without its name, the changes alone say that it is the same.
    fs::remove_dir_all(folder.path("identity")).unwrap();
    let unnamed = folder.copy();
    assert_eq!(sync(&a, &unnamed.remote()).await.pushed, 1);
    assert_eq!(unnamed.files("identity").len(), 1);
}

#[tokio::test]
async fn two_who_push_first_at_once_share_the_remote_from_then_on() {
    let store = Arc::new(InMemory::new());
    let (a, b) = (replica(TABLES).await, replica(TABLES).await);
    run(&a, "INSERT INTO note VALUES ('1', 'a', 'x'), ('2', 'a', 'x')");
    run(&b, "INSERT INTO note VALUES ('2', 'b', 'y'), ('3', 'b', 'y')");
    // Each finds the remote empty, as neither listing is answered before both are under way.
    let barrier = Arc::new(Barrier::new(2));
    let together = move |n: usize, request| match request {
        Request::List if n < 2 => Verdict::Meet(Arc::clone(&barrier)),
        _ => Verdict::Pass,
    };
    let remote = Remote::from_store("faulty://first", FaultyStore::new(&store, together), "base").unwrap();
    let (first, second) = tokio::join!(sync(&a, &remote), sync(&b, &remote));
    assert_eq!((first.pushed, second.pushed), (2, 2));
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&a, "note").len(), 3);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    let newcomer = replica(TABLES).await;
    sync(&newcomer, &remote).await;
    for replica in [&a, &b, &newcomer] {
        assert_eq!(table(replica, "note"), table(&a, "note"));
        assert_verified(replica, &remote).await;
    }
    assert_eq!(sync(&a, &remote).await.requests.put, 0);
}

#[tokio::test]
async fn a_remote_whose_name_cannot_be_read_is_neither_merged_nor_written() {
    let (_, b, folder) = strangers().await;
    let files = folder.changes();
    let identity = format!("identity/{}", old_id(1));
    let named = |format: u32, requires: &[&str]| {
        msgpack(&serde_json::json!({ "format": format, "identity": old_id(1), "requires": requires }))
    };
    for (bytes, words) in [
        (named(1, &[])[..9].to_vec(), "not what belongs there"),
        (Vec::new(), "not what belongs there"),
        (named(2, &[]), "newer version"),
        (named(1, &["signatures"]), "does not know"),
        (vec![0xC0; 70_000], "larger than any identity"),
    ] {
        folder.write(&identity, bytes);
        let empty = replica(TABLES).await;
        for (replica, options) in [(&empty, SyncOptions::default()), (&b, join_same())] {
            let error = replica.sync(&folder.remote(), &options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Remote);
            assert!(error.to_string().contains(words) && error.to_string().contains(&identity), "{error}");
            assert_eq!(folder.changes(), files);
        }
        assert_eq!(empty.status().await.unwrap().changes, 0);
    }
    folder.write(&identity, named(1, &[]));
    assert_eq!(b.sync(&folder.remote(), &join_same()).await.unwrap().pushed, 2);
}

/// A row of key columns alone says that it is there by a field which says of other rows that they are deleted.
#[tokio::test]
async fn a_new_columns_value_survives_meeting_the_row_elsewhere() {
    let schema = "CREATE TABLE t (k TEXT PRIMARY KEY); INSERT INTO t VALUES ('a')";
    let (a, b, remote) = (replica(schema).await, replica(schema).await, fresh_remote());
    sync(&a, &remote).await;
    run(&b, "ALTER TABLE t ADD COLUMN extra; UPDATE t SET extra = 17");
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    b.sync(&remote, &options).await.unwrap();
    run(&a, "ALTER TABLE t ADD COLUMN extra");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "t"), ["'a'|17"]);
        assert_verified(replica, &remote).await;
    }
}

#[tokio::test]
async fn a_new_columns_value_survives_an_older_delete_elsewhere() {
    let schema = "CREATE TABLE t (k TEXT PRIMARY KEY, v); INSERT INTO t VALUES ('a', 1)";
    let wall = Wall::at(START_MS);
    let (a, b) = (on_the_wall(replica(schema).await, &wall, 1), on_the_wall(replica(schema).await, &wall, 2));
    let remote = fresh_remote();
    run(&a, "DELETE FROM t");
    sync(&a, &remote).await;
    wall.advance(1);
    run(&b, "ALTER TABLE t ADD COLUMN extra; UPDATE t SET extra = 17; UPDATE t SET v = 2");
    b.sync(&remote, &join_same()).await.unwrap();
    run(&a, "ALTER TABLE t ADD COLUMN extra");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "t"), ["'a'|2|17"]);
        assert_verified(replica, &remote).await;
    }
}

/// Three replicas whose rows all began alike; which of three backfills is the newest is chance, row by row.
#[tokio::test]
async fn a_backfill_that_gives_way_late_leaves_the_register_to_the_next_newest() {
    let schema = "CREATE TABLE t (k INTEGER PRIMARY KEY, v);
                  WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60) INSERT INTO t SELECT i, 'v' FROM n";
    let (a, b, c) = (replica(schema).await, replica(schema).await, replica(schema).await);
    let (before, mut loose) = (Arc::new(InMemory::new()), join_same());
    loose.layout = Some(zvon::Layout::Files);
    let through = |store: &Arc<InMemory>, rule: fn(usize, Request) -> Verdict| {
        Remote::from_store("faulty://store", FaultyStore::new(store, rule), "").unwrap()
    };
    let pass = |_, _| Verdict::Pass;
    replica("CREATE TABLE t (k INTEGER PRIMARY KEY, v)").await.sync(&through(&before, pass), &loose).await.unwrap();
    // Two join at once, and do not see each other's rows; a sync tool brings the objects together later.
    let [store, elsewhere] = [(); 2].map(|()| Arc::new(before.fork()));
    a.sync(&through(&store, pass), &loose).await.unwrap();
    c.sync(&through(&elsewhere, pass), &loose).await.unwrap();
    // The third one's sync is cut off when it has most of the first one's; what it has is merged as soon as a table is tracked.
    let cut = through(
        &store,
        |n, request| if n > 50 && request == Request::Get { Verdict::FailBefore } else { Verdict::Pass },
    );
    b.sync(&cut, &loose).await.unwrap_err();
    run(&b, "CREATE TABLE other (k TEXT PRIMARY KEY)");
    b.track(&["other"], &zvon::TrackOptions::default()).await.unwrap();
    assert!(b.status().await.unwrap().changes > 60, "something was pulled");
    let objects: Vec<_> = elsewhere.list(None).try_collect().await.unwrap();
    for object in objects {
        let bytes = elsewhere.get(&object.location).await.unwrap().bytes().await.unwrap();
        store.put(&object.location, bytes.into()).await.unwrap();
    }
    let remote = through(&store, pass);
    for replica in [&b, &c, &a, &b] {
        replica.sync(&remote, &loose).await.unwrap();
    }
    for replica in [&a, &b, &c] {
        assert_verified(replica, &remote).await;
    }
}

/// By reading: a replica that does not see the layout yet, as a folder is carried piece by piece, chose another one for everybody.
#[tokio::test]
async fn a_layout_that_somebody_chose_outlives_one_that_nobody_chose() {
    let (a, b, folder) = (replica(TABLES).await, replica(TABLES).await, SharedFolder::new());
    let mut options = SyncOptions::default();
    options.layout = Some(Layout::Files);
    a.sync(&folder.remote(), &options).await.unwrap();
    let [chosen] = &folder.files("layout")[..] else { panic!("one layout object") };
    let bytes = fs::read(chosen).unwrap();
    fs::remove_file(chosen).unwrap();
    sync(&b, &folder.remote()).await;
    fs::write(chosen, bytes).unwrap();
    converge(&[&a, &b], &folder.remote()).await;
    let all = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) SELECT i FROM n";
    for (replica, name) in [(&a, 'a'), (&b, 'b')] {
        run(replica, &format!("INSERT INTO note SELECT '{name}' || i, 'x', 'y' FROM ({all})"));
        sync(replica, &folder.remote()).await;
    }
    converge(&[&a, &b], &folder.remote()).await;
    assert_eq!((folder.files("packs").len(), folder.changes().len()), (0, 80));
    for replica in [&a, &b] {
        assert_verified(replica, &folder.remote()).await;
    }
}

/// Whether such a remote is an encrypted one is looked for in its first bytes, and no store gives those of nothing.
#[tokio::test]
async fn an_empty_file_on_a_remote_that_only_plain_writers_know_stops_nobody() {
    let store = Arc::new(InMemory::new());
    let whole = msgpack(&note_change(&old_id(2), "2", &serde_json::json!({ "title": "plain" })));
    for (id, bytes) in [(old_id(1), Vec::new()), (old_id(2), whole)] {
        store.put(&format!("base/{}", file_name(&id)).into(), bytes.into()).await.unwrap();
    }
    let remote = Remote::from_store("memory://plain", store, "base").unwrap();
    let newcomer = replica(TABLES).await;
    let report = sync(&newcomer, &remote).await;
    assert_eq!((report.pulled, report.newly_rejected.len()), (1, 1));
    assert_eq!(table(&newcomer, "note"), ["'2'|'plain'|NULL"]);
}
