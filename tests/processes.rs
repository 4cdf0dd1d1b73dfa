//! Several processes on one database: two that sync it at once, and one that is killed wherever it happens to be.
//!
//! The other processes are this test's own program, told by its environment to play a part.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::shared_folder::SharedFolder;
use common::*;
use zvon::Replica;

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";
const PART: &str = "ZVON_TEST_WRITER";

/// The part of the other process: writes and syncs so many times, and says each time what it has committed.
#[tokio::test]
async fn writer() {
    let Ok(part) = std::env::var(PART) else { return };
    let [name, db, folder, rounds] = &part.split('|').collect::<Vec<_>>()[..] else { panic!("{part}") };
    let (replica, remote) = (Replica::open(db).unwrap(), remote(folder));
    for round in 0..rounds.parse().unwrap() {
        run(&replica, &format!("INSERT INTO note VALUES ('{name}-{round}', 'x'), ('{name}-{round}b', 'y')"));
        run(&replica, &format!("UPDATE note SET body = body || '{name}' WHERE id GLOB '*-{round}'"));
        println!("COMMITTED {name}-{round}");
        sync(&replica, &remote).await;
    }
}

fn start_writer(name: &str, db: &Path, folder: &SharedFolder, rounds: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(PART, format!("{name}|{}|{}|{rounds}", db.display(), folder.root().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn database(path: &Path, folder: &SharedFolder) -> Replica {
    let replica = Replica::init(path).unwrap();
    run(&replica, NOTES);
    replica.track_all(&keyed()).await.unwrap();
    sync(&replica, &folder.remote()).await;
    replica
}

#[tokio::test]
async fn two_processes_that_sync_one_database_at_once_change_nothing_wrong() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), SharedFolder::new());
    let path = dir.path().join("notes.db");
    let (here, other) = (database(&path, &folder).await, replica(NOTES).await);
    let writers = ["one", "two"].map(|name| start_writer(name, &path, &folder, 12));
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    converge(&[&here, &other], &folder.remote()).await;
    assert_eq!(table(&here, "note").len(), 2 * 2 * 12);
    assert_eq!(table(&here, "note"), table(&other, "note"));
    for replica in [&here, &other] {
        assert_verified(replica, &folder.remote()).await;
    }
    assert_eq!(here.status().await.unwrap().changes, folder.changes().len() as u64);
}

#[tokio::test]
async fn a_process_killed_anywhere_loses_no_commit() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), SharedFolder::new());
    let path = dir.path().join("notes.db");
    let other = replica(NOTES).await;
    drop(database(&path, &folder).await);
    for victim in 0..12 {
        let mut child = start_writer(&format!("v{victim}"), &path, &folder, 1000);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let committed: Vec<String> =
            lines.by_ref().filter_map(|line| Some(line.split_once("COMMITTED ")?.1.to_owned())).take(3).collect();
        // From here on it is somewhere in its sync. How far it gets is up to how long this takes.
        (0..victim * 2_000).for_each(|n| drop(std::hint::black_box(n.to_string())));
        child.kill().unwrap();
        child.wait().unwrap();

        let here = Replica::open(&path).unwrap();
        let there: Vec<String> = rows(&here.connection(), "SELECT id FROM note");
        assert!(committed.iter().all(|id| there.contains(&format!("'{id}'"))), "{committed:?}");
        converge(&[&here, &other], &folder.remote()).await;
        assert_eq!(table(&here, "note"), table(&other, "note"));
        assert_verified(&here, &folder.remote()).await;
    }
    assert_verified(&other, &folder.remote()).await;
}
