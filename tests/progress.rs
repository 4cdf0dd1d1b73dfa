//! What the library's callback hears of long work.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::faulty_store::{FaultyStore, Request, Verdict};
use common::*;
use object_store::memory::InMemory;
use tokio::sync::Notify;
use zvon::{Phase, Progress, Remote, Replica, SyncOptions};

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";

type Heard = Arc<Mutex<Vec<Progress>>>;

fn listening(replica: Replica) -> (Replica, Heard) {
    let heard = Heard::default();
    let into = Arc::clone(&heard);
    (replica.on_progress(move |progress| into.lock().unwrap().push(progress)), heard)
}

fn last_of_each(heard: &Heard) -> HashMap<Phase, Progress> {
    heard.lock().unwrap().iter().map(|progress| (progress.phase, *progress)).collect()
}

fn insert(replica: &Replica, rows: u64) {
    let sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO note SELECT 'row ' || i, hex(randomblob(40)) FROM n";
    replica.connection().execute(sql, [rows]).unwrap();
}

#[tokio::test]
async fn every_phase_tells_how_far_it_is_and_the_bytes_are_those_of_the_report() {
    let remote = fresh_remote();
    let (a, heard_a) = listening(replica(NOTES).await);
    let (b, heard_b) = listening(replica(NOTES).await);
    insert(&a, 6_000);
    let report = sync(&a, &remote).await;
    let pushed = last_of_each(&heard_a)[&Phase::Push];
    assert_eq!((pushed.done, pushed.total), (6_000, Some(6_000)));
    assert_eq!((pushed.bytes_in, pushed.bytes_out), (report.bytes_in, report.bytes_out));
    let report = sync(&b, &remote).await;
    let last = last_of_each(&heard_b);
    let pulled = last[&Phase::Pull];
    assert_eq!((pulled.done, pulled.total), (6_000, Some(6_000)));
    assert!(pulled.bytes_in > 0 && pulled.bytes_in <= report.bytes_in);
    assert_eq!(last[&Phase::Merge].done, 6_000);
    for heard in [heard_a, heard_b] {
        let heard = heard.lock().unwrap();
        for phase in [Phase::Pull, Phase::Merge, Phase::Push] {
            let of_phase: Vec<&Progress> = heard.iter().filter(|progress| progress.phase == phase).collect();
            assert!(of_phase.windows(2).all(|two| two[0].done <= two[1].done && two[0].bytes_in <= two[1].bytes_in));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_are_told_while_a_batch_is_still_on_its_way() {
    let memory = Arc::new(InMemory::new());
    let honest = Remote::from_store("faulty://store", memory.clone(), "base").unwrap();
    let a = replica(NOTES).await;
    insert(&a, 20);
    let mut loose = SyncOptions::default();
    loose.layout = Some(zvon::Layout::Files);
    a.sync(&honest, &loose).await.unwrap();
    // Of the twenty files one never comes.
    let asked = Arc::new(Notify::new());
    let (hang, gets) = (Arc::clone(&asked), Arc::new(Mutex::new(0)));
    let rule = move |_, request| {
        let mut gets = gets.lock().unwrap();
        *gets += usize::from(request == Request::Get);
        if request == Request::Get && *gets == 15 { Verdict::Hang(hang.clone()) } else { Verdict::Pass }
    };
    let slow = Remote::from_store("faulty://store", FaultyStore::new(&memory, rule), "base").unwrap();
    let (b, heard) = listening(replica(NOTES).await);
    let syncing = tokio::spawn(async move { b.sync(&slow, &SyncOptions::default()).await });
    asked.notified().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let last = *heard.lock().unwrap().last().unwrap();
    assert_eq!((last.phase, last.done, last.total), (Phase::Pull, 0, Some(20)));
    assert!(last.bytes_in > 0);
    let told = heard.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(heard.lock().unwrap().len(), told, "what does not move is not told again");
    syncing.abort();
}
