//! A disk that is full: the error says so, nothing is lost, and the next sync goes on once there is room.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::*;
use tempfile::{TempDir, tempdir};
use zvon::{Error, ErrorKind, Remote, Replica, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT, n INTEGER)";
const ROWS: usize = 1_500;

/// A remote that holds more than a megabyte of somebody's rows.
async fn full_remote() -> (Replica, Remote) {
    let (author, remote) = (replica(NOTES).await, fresh_remote());
    let sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO note SELECT printf('row-%05d', i), printf('%.600c', 'x'), i FROM n";
    author.connection().execute(sql, [ROWS]).unwrap();
    sync(&author, &remote).await;
    (author, remote)
}

async fn replica_at(path: &Path) -> Replica {
    let replica = Replica::init(path).unwrap();
    run(&replica, NOTES);
    replica.track_all(&keyed()).await.unwrap();
    run(&replica, "INSERT INTO note VALUES ('mine', 'of my own', 0)");
    replica
}

fn assert_full(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    assert!(error.to_string().contains("disk") && error.to_string().contains("full"), "{error}");
}

async fn assert_complete(replica: &Replica, author: &Replica, remote: &Remote) {
    converge(&[replica, author], remote).await;
    assert_eq!(table(replica, "note").len(), ROWS + 1);
    assert_eq!(table(replica, "note"), table(author, "note"));
    assert_verified(replica, remote).await;
    assert_verified(author, remote).await;
    assert_eq!(replica.status().await.unwrap().held, 0);
}

fn join() -> SyncOptions {
    let mut options = SyncOptions::default();
    options.join = Some(zvon::Join::Same);
    options
}

#[tokio::test]
async fn room_for_the_log_alone_stops_the_merge_and_loses_nothing() {
    let (author, remote) = full_remote().await;
    let dir = tempdir().unwrap();
    for journal in ["wal", "delete"] {
        let replica = replica_at(&dir.path().join(journal)).await;
        run(&replica, &format!("PRAGMA journal_mode = {journal}; PRAGMA cache_size = 20"));
        let mut pages: u32 = replica.connection().pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let mut stopped_merges = 0;
        // Little by little the disk gets larger, so that it is full at every stage of a sync.
        loop {
            pages += 40;
            replica.connection().pragma_update(None, "max_page_count", pages).unwrap();
            let result = replica.sync(&remote, &join()).await;
            let status = replica.status().await.unwrap();
            assert_eq!(status.held, 0, "a full disk is no reason to hold a row");
            match result {
                Ok(report) => {
                    assert_eq!(report.held, 0);
                    break;
                }
                Err(error) => assert_full(&error),
            }
            stopped_merges += u32::from(status.unmerged > 0);
            let shown = table(&replica, "note").len();
            assert!(shown == 1 || shown == ROWS + 1, "a batch merges whole or not at all: {shown}");
        }
        assert!(stopped_merges > 0);
        assert_complete(&replica, &author, &remote).await;
    }
}

/// A small disk in memory; none where it cannot be made.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = Self(tempdir().unwrap());
        let options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        let mounted = cfg!(target_os = "linux")
            && Command::new("mount").args(options).arg(disk.0.path()).output().is_ok_and(|done| done.status.success());
        mounted.then_some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_is_told_of_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        println!("SKIPPED: mounting a small disk takes Linux and root");
        return;
    };
    let (author, remote) = full_remote().await;
    let replica = replica_at(&disk.0.path().join("small.db")).await;
    assert_full(&replica.sync(&remote, &join()).await.unwrap_err());
    assert_full(&replica.sync(&remote, &join()).await.unwrap_err());
    assert_eq!(replica.status().await.unwrap().held, 0);

    let mut resize = Command::new("mount");
    resize.args(["-o", "remount,size=64m"]).arg(disk.0.path());
    assert!(resize.output().unwrap().status.success());
    assert_complete_after_join(&replica, &author, &remote).await;
    drop(replica);
    assert!(fs::metadata(disk.0.path().join("small.db")).unwrap().len() > 1 << 20);
}

async fn assert_complete_after_join(replica: &Replica, author: &Replica, remote: &Remote) {
    replica.sync(remote, &join()).await.unwrap();
    assert_complete(replica, author, remote).await;
}
