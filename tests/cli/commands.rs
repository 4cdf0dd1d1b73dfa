//! What each command answers, sync and its kin aside.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::place::{Place, SCHEMA, keys};

#[test]
fn init_again_changes_nothing() {
    let place = Place::new();
    place.sql("a.db", SCHEMA);
    let first = place.json(&["init", "a.db", "--remote", "shared"]);
    assert_eq!(keys(&first), ["database", "database_uuid", "default_remote", "encrypted"]);
    assert_eq!(first["database"], "a.db");
    assert_eq!(place.json(&["init", "a.db"]), first);
    assert_eq!(place.query("a.db", "SELECT id FROM notes ORDER BY id"), ["a", "b"]);
}

#[test]
fn init_makes_a_new_database_and_says_what_comes_next() {
    let place = Place::new();
    let ran = place.run(["init", "my notes.db"]).ended(0);
    assert!(ran.stdout.contains("zvon --db 'my notes.db' track --all"), "{ran:#?}");
    assert!(place.path("my notes.db").exists());
}

#[test]
fn track_reports_each_table() {
    let place = Place::new();
    place.sql("a.db", SCHEMA);
    place.sql("a.db", "CREATE TABLE tags (id TEXT NOT NULL PRIMARY KEY)");
    place.run(["init", "a.db"]).ended(0);
    let reports = place.json(&["--db", "a.db", "track", "--all"]);
    let mut tables: Vec<(&str, u64)> = reports.as_array().unwrap().iter().map(backfilled).collect();
    tables.sort_unstable();
    assert_eq!(tables, [("notes", 2), ("tags", 0)]);
    assert_eq!(
        keys(&reports[0]),
        ["backfilled", "changed", "deleted", "dropped", "missing", "notice", "renamed", "renamed_from", "table"]
    );
}

fn backfilled(report: &Value) -> (&str, u64) {
    (report["table"].as_str().unwrap(), report["backfilled"].as_u64().unwrap())
}

#[test]
fn a_migration_tools_table_is_left_alone() {
    let place = Place::new();
    place.sql("a.db", SCHEMA);
    place.sql("a.db", "CREATE TABLE schema_migrations (version)");
    place.run(["init", "a.db"]).ended(0);
    // It has no key, so that all or nothing would be nothing.
    place.run(["--db", "a.db", "track", "--all"]).refused(1, &["schema_migrations", "primary key"]);
    let wrong = ["--db", "a.db", "track", "--all", "--except", "schema_migration"];
    place.run(wrong).refused(2, &["schema_migration: no such table"]);
    let reports = place.json(&["--db", "a.db", "track", "--all", "--except", "SCHEMA_migrations"]);
    assert_eq!(reports.as_array().unwrap().iter().map(backfilled).collect::<Vec<_>>(), [("notes", 2)]);
}

#[test]
fn alter_end_says_what_became_of_names() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "alter", "begin", "notes"]).ended(0);
    place.sql(
        "notes.db",
        "ALTER TABLE notes RENAME COLUMN title TO heading; ALTER TABLE notes DROP COLUMN body; ALTER TABLE notes RENAME TO memos",
    );
    let said = place.run(["--db", "notes.db", "alter", "end", "notes"]).ended(0).stdout;
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "memos: tracked",
        "  the table notes has this name now",
        "  the column title is heading now",
        "  the column body is gone here; other replicas keep it",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn excluded_columns_stay() {
    let place = Place::new();
    place.sql("a.db", SCHEMA);
    place.run(["init", "a.db"]).ended(0);
    place.run(["--db", "a.db", "track", "notes", "--exclude", "body"]).ended(0);
    place.sql("a.db", "INSERT INTO notes VALUES ('c', 'third', 'secret')");
    let log = place.json(&["--db", "a.db", "log", "notes", "c"]);
    let names: Vec<&str> = log[0]["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["title"]);
}

#[test]
fn untrack_stops_capture_and_keeps_the_rest() {
    let place = Place::with_notes();
    let before = place.json(&["--db", "notes.db", "status"])["changes"].clone();
    assert_eq!(place.json(&["--db", "notes.db", "untrack", "notes"]), json!({ "untracked": ["notes"] }));
    place.sql("notes.db", "UPDATE notes SET title = 'unseen'");
    let status = place.json(&["--db", "notes.db", "status"]);
    assert_eq!((&status["changes"], &status["tables"][0]["tracked"]), (&before, &json!(false)));
    let ran = place.run(["--db", "notes.db", "untrack", "lost"]);
    assert_ne!(ran.code, 0, "{ran:#?}");
    let reports = place.json(&["--db", "notes.db", "track", "notes"]);
    assert_eq!(reports[0]["changed"], 2, "{reports:#}");
}

#[test]
fn status_shows_what_waits() {
    let place = Place::with_notes();
    place.sql("notes.db", "UPDATE notes SET title = 'third'");
    let status = place.json(&["--db", "notes.db", "status"]);
    assert_eq!(
        keys(&status),
        [
            "changes",
            "clocks",
            "conflicts",
            "database_uuid",
            "default_remote",
            "format_version",
            "held",
            "journal",
            "notices",
            "oversize",
            "remotes",
            "tables",
            "unknown",
            "unmerged",
        ]
    );
    assert_eq!((&status["tables"][0]["name"], &status["tables"][0]["rows"]), (&json!("notes"), &json!(2)));
    let text = place.run(["--db", "notes.db", "status"]).ended(0).stdout;
    for word in ["notes.db", "notes", "shared", status["database_uuid"].as_str().unwrap()] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn log_goes_from_the_newest_back() {
    let place = Place::with_notes();
    place.sql("notes.db", "UPDATE notes SET title = 'third' WHERE id = 'a'");
    place.sql("notes.db", "DELETE FROM notes WHERE id = 'b'");
    let log = place.json(&["--db", "notes.db", "log"]);
    let all = log.as_array().unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!((&all[0]["row"], &all[0]["deletes"]), (&json!("b"), &json!(true)));
    assert_eq!(all[1]["fields"], json!([{ "name": "title", "value": "third" }]));
    assert!(all[2]["backfill"].as_bool().unwrap() && all[3]["backfill"].as_bool().unwrap());
    assert_eq!(
        keys(&all[0]),
        ["author", "backfill", "deletes", "fields", "id", "merged", "own", "row", "table", "time_ms"]
    );
    assert_eq!(place.json(&["--db", "notes.db", "log", "-n", "1"]).as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["--db", "notes.db", "log", "notes", "a"]).as_array().unwrap().len(), 2);
    let text = place.run(["--db", "notes.db", "log"]).ended(0).stdout;
    for word in ["title = 'third'", "notes b  by this replica  deleted", "before tracking"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn values_cannot_drive_the_terminal() {
    let place = Place::with_notes();
    place.sql("notes.db", "UPDATE notes SET title = char(27) || '[2J' || char(155) || char(8238) WHERE id = 'a'");
    let text = place.run(["--db", "notes.db", "log"]).ended(0).stdout;
    assert!(text.contains(r"'\u{1b}[2J\u{9b}\u{202e}'"), "{text}");
    let ran = place.run(["--json", "--db", "notes.db", "log", "-n", "1"]).ended(0);
    assert_eq!(ran.json()[0]["fields"][0]["value"], "\u{1b}[2J\u{9b}\u{202e}");
    assert!(!ran.stdout.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{ran:?}");
}

#[test]
fn nothing_held_and_no_conflict_is_said_so() {
    let place = Place::with_notes();
    assert_eq!(place.json(&["--db", "notes.db", "held"]), json!({ "rows": [], "unknown": [], "references": [] }));
    assert_eq!(place.json(&["--db", "notes.db", "conflicts"]), json!([]));
    assert!(place.run(["--db", "notes.db", "held"]).ended(0).stdout.starts_with("Nothing is held"));
    assert_eq!(place.run(["--db", "notes.db", "conflicts"]).ended(0).stdout, "No conflicts.\n");
}

#[test]
fn a_conflict_that_is_not_there_cannot_be_restored() {
    let ran = Place::with_notes().run(["--db", "notes.db", "conflicts", "restore", "7"]);
    let code = ran.code;
    assert_ne!(code, 0);
    ran.refused(code, &["7"]);
}

#[test]
fn verify_fails_where_a_table_is_not_what_the_log_says() {
    let place = Place::with_notes();
    let report = place.json(&["--db", "notes.db", "verify"]);
    assert_eq!(keys(&report), ["changes", "problem_count", "problems", "remote_objects", "rows"]);
    assert_eq!((&report["problem_count"], &report["rows"]), (&json!(0), &json!(2)));
    place.sql("notes.db", "UPDATE ZV_CHANGE_FIELD SET field_value = 'forged' WHERE field_name = 'title'");
    let report = place.run(["--json", "--db", "notes.db", "verify"]).ended(1).json();
    assert!(report["problem_count"].as_u64().unwrap() > 0, "{report:#}");
    let ran = place.run(["--db", "notes.db", "verify"]).ended(1);
    assert!(ran.stdout.contains("problem"), "{ran:#?}");
}

#[test]
fn repair_mends_and_says_what_it_did() {
    let place = Place::with_notes();
    let ran = place.run(["--db", "notes.db", "repair"]).ended(0);
    assert!(ran.stdout.starts_with("Nothing to repair: "), "{ran:#?}");
    place.sql("notes.db", "DROP TABLE ZV_HELD; DELETE FROM ZV_REGISTER");
    place.run(["--db", "notes.db", "verify"]).ended(1);
    let ran = place.run(["--db", "notes.db", "repair"]).ended(0);
    for words in ["problem", "  ZV_HELD was made again", "of notes were rebuilt from the log", "All is well now: "] {
        assert!(ran.stdout.contains(words), "{words}: {ran:#?}");
    }
    let report = place.json(&["--db", "notes.db", "repair"]);
    assert_eq!(keys(&report), ["after", "done", "found", "instructions", "problems"]);
    assert_eq!(report["found"], 0);
}

#[test]
fn repair_opens_what_nothing_else_does() {
    let place = Place::with_notes();
    place.sql("notes.db", "DROP TABLE ZV_METADATA");
    for command in ["status", "init"] {
        place.run(["--db", "notes.db", command]).refused(1, &["ZV_METADATA is missing", "zvon repair"]);
    }
    place.run(["--db", "notes.db", "repair"]).ended(0);
    place.run(["--db", "notes.db", "status"]).ended(0);
    place.sql("notes.db", "DROP TABLE ZV_CHANGE_FIELD; DROP TABLE ZV_CHANGE");
    let ran = place.run(["--db", "notes.db", "repair"]).ended(1);
    assert!(ran.stdout.contains("What only you can do:"), "{ran:#?}");
    assert!(ran.stdout.contains("zvon clone URL new.db"), "{ran:#?}");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let place = Place::with_notes();
    let mut command = place.plain_zvon();
    let mut child = command
        .args(["--db", "notes.db", "log", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

/// Whatever begins like our tables was taken for what is left of a replica.
#[test]
fn a_users_own_table_named_almost_like_ours_is_nothing_left_of_a_replica() {
    let place = Place::new();
    place.sql("notes.db", "CREATE TABLE ZV_FOO (a INTEGER PRIMARY KEY, b); INSERT INTO ZV_FOO VALUES (1, 'mine')");
    place.run(["--db", "notes.db", "status"]).refused(1, &["not a replica yet"]);
    place.run(["init", "notes.db"]).ended(0);
    place.run(["--db", "notes.db", "verify"]).ended(0);
    assert_eq!(place.query("notes.db", "SELECT b FROM ZV_FOO"), ["mine"]);
}
