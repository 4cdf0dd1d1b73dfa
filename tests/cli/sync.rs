//! Sync, clone and what they leave to look at, between replicas in one folder.

use serde_json::{Value, json};

use crate::place::{Place, keys};

/// A change file whose name is well-formed and whose content is not.
const BROKEN: &str = "shared/changes/01890a5d-ac96-774b-bcce-b302099a8057.msgpack";

fn counts(report: &Value) -> (u64, u64, u64) {
    let count = |name: &str| report[name].as_u64().unwrap();
    (count("pulled"), count("pushed"), count("merged"))
}

#[test]
fn sync_says_what_it_did() {
    let place = Place::with_notes();
    let report = place.json(&["--db", "notes.db", "sync"]);
    assert_eq!(
        keys(&report),
        [
            "bytes_in",
            "bytes_out",
            "compaction_due",
            "conflicts",
            "elapsed_ms",
            "healed",
            "held",
            "merged",
            "newly_rejected",
            "newly_rejected_more",
            "notices",
            "oversize",
            "pulled",
            "pushed",
            "redated",
            "rejected",
            "remote",
            "requests",
            "waiting",
        ]
    );
    assert_eq!(keys(&report["requests"]), ["delete", "get", "head", "list", "put"]);
    assert_eq!(counts(&report), (0, 2, 0));
    let ran = place.run(["--db", "notes.db", "sync"]).ended(0);
    assert!(ran.stdout.starts_with("Up to date with "), "{ran:#?}");
    assert_eq!(ran.stderr, "");
}

#[test]
fn quiet_is_quiet() {
    let place = Place::with_notes();
    for args in [&["sync", "-q"][..], &["track", "notes", "-q"], &["-q", "init", "notes.db"]] {
        let ran = place.run([args, &["--db", "notes.db"]].concat()).ended(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{args:?}");
    }
    assert_ne!(place.run(["-q", "log", "--db", "notes.db"]).ended(0).stdout, "");
}

#[test]
fn flags_stand_before_or_after_the_command() {
    let place = Place::with_notes();
    place.run(["--json", "--db", "notes.db", "--remote", "shared", "sync"]).ended(0).json();
    place.run(["sync", "--json", "--db", "notes.db", "--remote", "shared"]).ended(0).json();
    place.run(["--db", "notes.db", "conflicts", "--json"]).ended(0).json();
}

#[test]
fn clone_brings_tables_and_rows_and_remembers_where_from() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "sync"]).ended(0);
    let report = place.json(&["clone", "shared", "other.db"]);
    assert_eq!((&report["database"], &report["pulled"]), (&json!("other.db"), &json!(2)));
    assert!(report["database_uuid"].is_string() && report["requests"].is_object());
    assert_eq!(place.query("other.db", "SELECT title FROM notes ORDER BY id"), ["first", "second"]);
    place.sql("other.db", "INSERT INTO notes (id, title) VALUES ('c', 'third')");
    assert_eq!(counts(&place.json(&["--db", "other.db", "sync"])), (0, 1, 0));
    assert_eq!(counts(&place.json(&["--db", "notes.db", "sync"])), (1, 0, 1));
    assert_eq!(place.query("notes.db", "SELECT title FROM notes WHERE id = 'c'"), ["third"]);
}

#[test]
fn clone_overwrites_nothing() {
    let place = Place::with_clone();
    place.sql("mine.db", "CREATE TABLE mine (x); INSERT INTO mine VALUES ('kept')");
    let ran = place.run(["clone", "shared", "mine.db"]);
    let code = ran.code;
    assert_ne!(code, 0);
    ran.refused(code, &["mine.db"]);
    assert_eq!(place.query("mine.db", "SELECT x FROM mine"), ["kept"]);
}

#[test]
fn another_databases_remote_is_refused_until_told_how_to_join() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "sync"]).ended(0);
    place.sql("mine.db", crate::place::SCHEMA);
    place.run(["init", "mine.db"]).ended(0);
    place.run(["--db", "mine.db", "track", "--all"]).ended(0);
    let ran = place.run(["--json", "--db", "mine.db", "sync", "shared"]).ended(1);
    assert_eq!(ran.json()["error"]["kind"], "unrelated");
    assert!(ran.stderr.contains("--join"), "{ran:#?}");
    place.run(["--db", "mine.db", "sync", "shared", "--join", "same"]).ended(0);
}

#[test]
fn a_conflict_is_shown_and_what_lost_comes_back() {
    let place = Place::with_clone();
    place.sql("notes.db", "UPDATE notes SET title = 'mine' WHERE id = 'a'");
    place.sql("other.db", "UPDATE notes SET title = 'theirs' WHERE id = 'a'");
    place.run(["--db", "notes.db", "sync"]).ended(0);
    assert_eq!(place.json(&["--db", "other.db", "sync"])["conflicts"], 1);
    let conflict = place.json(&["--db", "other.db", "conflicts"])[0].clone();
    // Within one millisecond the random bits decide which of the two was later.
    let [won, lost] = ["winning_value", "losing_value"].map(|side| conflict[side].as_str().unwrap().to_owned());
    assert!([("theirs", "mine"), ("mine", "theirs")].contains(&(won.as_str(), lost.as_str())), "{conflict}");
    let number = conflict["number"].to_string();
    let text = place.run(["--db", "other.db", "conflicts"]).ended(0).stdout;
    let words = [format!("kept  '{won}'"), format!("lost  '{lost}'"), "by this replica".to_owned()];
    for word in words.iter().chain([&format!("zvon conflicts restore {number}")]) {
        assert!(text.contains(word.as_str()), "{word}: {text}");
    }
    let restored = place.json(&["--db", "other.db", "conflicts", "restore", &number]);
    assert_eq!(restored["number"], conflict["number"]);
    assert_eq!(place.query("other.db", "SELECT title FROM notes WHERE id = 'a'"), [lost.as_str()]);
    place.run(["--db", "other.db", "sync"]).ended(0);
    place.run(["--db", "notes.db", "sync"]).ended(0);
    assert_eq!(place.query("notes.db", "SELECT title FROM notes WHERE id = 'a'"), [lost.as_str()]);
}

#[test]
fn a_file_that_cannot_be_read_is_told_once() {
    let place = Place::with_clone();
    place.write(BROKEN, "not MessagePack at all");
    let ran = place.run(["--json", "--db", "notes.db", "sync"]).ended(3);
    let report = ran.json();
    assert_eq!((&report["rejected"], report["newly_rejected"].as_array().unwrap().len()), (&json!(1), 1));
    assert!(ran.stderr.starts_with("warning: changes/01890a5d"), "{ran:#?}");
    let again = place.json(&["--db", "notes.db", "sync"]);
    assert_eq!((&again["rejected"], &again["newly_rejected"]), (&json!(1), &json!([])));
    let status = place.run(["--db", "notes.db", "status"]).ended(0).stdout;
    assert!(status.contains("changes/01890a5d-ac96-774b-bcce-b302099a8057.msgpack"), "{status}");
}

#[test]
fn of_many_bad_files_twenty_are_told_and_the_others_counted() {
    let place = Place::with_clone();
    (0..25).for_each(|n| place.write(&format!("shared/changes/junk-{n:02}.msgpack"), "x"));
    let ran = place.run(["--db", "notes.db", "sync"]).ended(3);
    assert_eq!(ran.stderr.lines().count(), 21, "{ran:#?}");
    assert!(ran.stderr.contains("junk-19") && !ran.stderr.contains("junk-20"), "{ran:#?}");
    assert!(
        ran.stderr.contains("5 more files on the remote cannot be read either: see who else can write there"),
        "{ran:#?}"
    );
    let status = place.run(["--db", "notes.db", "status"]).ended(0).stdout;
    assert!(status.contains("junk-19") && !status.contains("junk-20"), "{status}");
    assert!(status.contains("5 more files that cannot be read"), "{status}");
}

#[test]
fn verify_looks_at_the_remote_where_asked() {
    let place = Place::with_clone();
    for args in [
        &["--db", "notes.db", "verify", "--remote"][..],
        &["--db", "notes.db", "verify", "--remote", "shared"],
        &["--db", "notes.db", "--remote", "shared", "verify"],
    ] {
        assert_ne!(place.json(args)["remote_objects"], json!(0), "{args:?}");
    }
    std::fs::remove_dir_all(place.path("shared")).unwrap();
    assert_eq!(place.json(&["--db", "notes.db", "verify"])["problem_count"], 0);
    let ran = place.run(["--db", "notes.db", "verify", "--remote"]);
    assert_eq!(ran.code, 1, "{ran:#?}");
}
