//! `compact`, the compaction that follows a sync, and `status --remote`.

use std::fs;

use crate::place::{Place, keys};

fn count(place: &Place, folder: &str) -> usize {
    fs::read_dir(place.path("shared").join(folder)).map_or(0, Iterator::count)
}

fn insert(place: &Place, prefix: &str, rows: u32) {
    let sql = format!(
        "WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {rows}) \
         INSERT INTO notes SELECT '{prefix}' || i, 'title', 'body' FROM i"
    );
    place.sql("notes.db", &sql);
}

#[test]
fn compact_packs_what_lies_loose_and_says_so() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "sync"]).ended(0);
    let loose = count(&place, "changes");
    assert!(loose >= 2);
    let dry = place.json(&["--db", "notes.db", "compact", "--dry-run"]);
    assert_eq!((dry["dry_run"].as_bool(), dry["packed_files"].as_u64()), (Some(true), Some(loose as u64)));
    assert_eq!(count(&place, "packs"), 0);
    let ran = place.run(["--db", "notes.db", "compact"]).ended(0);
    assert!(ran.stdout.contains(&format!("pack {loose} files and 0 packs into 1 pack")), "{ran:#?}");
    assert_eq!((count(&place, "changes"), count(&place, "packs")), (loose, 1));
    let again = place.run(["--db", "notes.db", "compact"]).ended(0);
    assert!(again.stdout.contains("Nothing to compact"), "{again:#?}");
    assert!(again.stdout.contains(&format!("{loose} objects wait for a later run")), "{again:#?}");
}

#[test]
fn compact_before_a_sync_is_refused_where_it_may_not_sync_itself() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "compact", "--dry-run"]).refused(1, &["sync once"]);
}

#[test]
fn a_sync_that_leaves_much_behind_compacts_after_its_answer() {
    let place = Place::with_notes();
    for n in 0..35 {
        insert(&place, &format!("{n}-"), 15);
        place.run(["--db", "notes.db", "sync"]).ended(0);
    }
    assert_eq!(count(&place, "packs"), 1);
}

#[test]
fn status_looks_at_the_remote_when_asked_to() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "sync"]).ended(0);
    insert(&place, "bulk", 100);
    place.run(["--db", "notes.db", "sync"]).ended(0);
    assert!(!keys(&place.json(&["--db", "notes.db", "status"])).contains(&"remote"));
    let status = place.json(&["--db", "notes.db", "status", "--remote"]);
    let remote = &status["remote"];
    assert_eq!(remote["loose_files"].as_u64().unwrap() as usize, count(&place, "changes"));
    assert_eq!((remote["packs"].as_u64(), remote["unknown_packs"].as_u64()), (Some(1), Some(0)));
    assert!(remote["objects_compacted"].as_u64() < remote["objects"].as_u64(), "{remote:#}");
    assert!(remote["clock_skew_ms"].is_null(), "a folder has no clock of its own");
    let text = place.run(["--db", "notes.db", "status", "--remote"]).ended(0).stdout;
    assert!(text.contains("a listing") && text.contains("loose files"), "{text}");
}
