//! Two replicas and what becomes of their writes.

mod common;

use common::wall::{START_MS, Wall, clocked};
use common::*;

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, body TEXT DEFAULT 'empty', n INTEGER)";

#[tokio::test]
async fn inserts_updates_and_deletes_travel() {
    let (a, b, remote) = (replica(NOTES).await, replica(NOTES).await, fresh_remote());
    run(&a, "INSERT INTO note VALUES ('1', 'one', 'x', 1), ('2', 'two', NULL, 2), ('3', 'three', x'c0', 3)");
    let report = sync(&a, &remote).await;
    assert_eq!((report.pushed, report.pulled), (3, 0));
    let report = sync(&b, &remote).await;
    assert_eq!((report.pushed, report.pulled, report.merged), (0, 3, 3));
    assert_eq!(table(&a, "note"), table(&b, "note"));

    run(&b, "UPDATE note SET title = 'zwei' WHERE id = '2'; DELETE FROM note WHERE id = '3'");
    run(&a, "UPDATE note SET body = 'new' WHERE id = '2'");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&a, "note"), ["'1'|'one'|'x'|1", "'2'|'zwei'|'new'|2"]);
    assert_eq!(table(&a, "note"), table(&b, "note"));
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
    let idle = sync(&a, &remote).await;
    assert_eq!((idle.pushed, idle.pulled, idle.merged), (0, 0, 0));
    assert_eq!((idle.requests.list, idle.requests.get, idle.requests.put), (1, 0, 0));
}

#[tokio::test]
async fn a_write_after_a_delete_brings_the_row_back_whole() {
    // Writes that do not know of each other are ordered by the clock alone.
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let (a, b) = (clocked(NOTES, &wall, 1).await, clocked(NOTES, &wall, 2).await);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 'x', 1)");
    converge(&[&a, &b], &remote).await;
    run(&a, "DELETE FROM note");
    sync(&a, &remote).await;
    wall.advance(1);
    run(&b, "UPDATE note SET n = 7");
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "note"), ["'1'|'one'|'x'|7"]);
    assert_eq!(table(&a, "note"), table(&b, "note"));
}

#[tokio::test]
async fn conflicts_are_recorded_and_can_be_restored() {
    // Writes that do not know of each other are ordered by the clock alone.
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let (a, b) = (clocked(NOTES, &wall, 1).await, clocked(NOTES, &wall, 2).await);
    run(&a, "INSERT INTO note VALUES ('1', 'one', 'x', 1)");
    converge(&[&a, &b], &remote).await;
    run(&a, "UPDATE note SET title = 'from a'");
    wall.advance(1);
    run(&b, "UPDATE note SET title = 'from b', n = 1");
    sync(&a, &remote).await;
    let report = sync(&b, &remote).await;
    assert_eq!(report.conflicts, 1);
    sync(&a, &remote).await;
    let conflict = b.conflicts().await.unwrap().remove(0);
    assert_eq!((conflict.table.as_str(), conflict.column.as_str()), ("note", "title"));
    // Within one millisecond the random bits decide which of the two was later.
    let [won, lost] = [&conflict.winning_value, &conflict.losing_value].map(|v| v.as_str().unwrap().to_owned());
    assert_eq!(table(&a, "note"), [format!("'1'|'{won}'|'x'|1")]);
    assert_eq!(std::collections::BTreeSet::from([won.as_str(), lost.as_str()]), ["from a", "from b"].into());
    b.restore_conflict(conflict.number).await.unwrap();
    converge(&[&b, &a], &remote).await;
    assert_eq!(table(&a, "note"), [format!("'1'|'{lost}'|'x'|1")]);
    assert_eq!(b.status().await.unwrap().conflicts, 0);
}
