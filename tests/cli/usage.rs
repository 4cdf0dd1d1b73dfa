//! What is refused, with which code and in which words.

use crate::place::{Place, SCHEMA, keys, ran};

#[test]
fn no_command_shows_the_help_and_counts_as_wrong_usage() {
    let ran = Place::new().run([""; 0]).ended(2);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("Usage: zvon"), "{ran:#?}");
}

#[test]
fn what_does_not_parse_is_wrong_usage() {
    let place = Place::new();
    for args in [
        &["bogus"][..],
        &["status", "--bogus"],
        &["--db", "a.db", "track"],
        &["--db", "a.db", "track", "notes", "--all"],
        &["--db", "a.db", "track", "--all", "--enforce-fk", "--no-enforce-fk"],
        &["--db", "a.db", "track", "--all", "--identity", "name"],
        &["--db", "a.db", "untrack"],
        &["--db", "a.db", "log", "-n", "many"],
        &["--db", "a.db", "conflicts", "restore", "first"],
        &["--db", "a.db", "sync", "--layout", "zip"],
        &["-q", "-v", "status"],
        &["sync", "--remote"],
        &["clone"],
    ] {
        place.run(args).refused(2, &[]);
    }
    assert!(!place.path("a.db").exists());
}

#[test]
fn no_database_is_named() {
    Place::new().run(["status"]).refused(2, &["--db FILE", "ZVON_DB", "zvon.toml"]);
}

#[test]
fn no_remote_is_named() {
    let place = Place::new();
    place.run(["init", "a.db"]).ended(0);
    place.run(["--db", "a.db", "sync"]).refused(2, &["--remote URL", "ZVON_REMOTE", "zvon.toml", "init"]);
    place.run(["--db", "a.db", "verify", "--remote"]).refused(2, &["--remote URL"]);
}

#[test]
fn two_names_for_one_thing_must_agree() {
    let place = Place::new();
    place.run(["init", "a.db", "--db", "b.db"]).refused(2, &["a.db", "b.db"]);
    place.run(["init", "a.db", "--db", "a.db"]).ended(0);
    place.run(["--db", "a.db", "sync", "here", "--remote", "there"]).refused(2, &["here", "there"]);
    assert!(!place.path("b.db").exists());
}

#[test]
fn a_database_that_is_not_there_is_not_made() {
    let place = Place::new();
    for command in ["status", "log", "held", "conflicts", "verify"] {
        place.run(["--db", "none.db", command]).refused(1, &["none.db"]);
    }
    place.run(["--db", "none.db", "sync", "shared"]).refused(1, &["none.db"]);
    assert!(!place.path("none.db").exists() && !place.path("shared").exists());
}

#[test]
fn a_file_that_is_no_database_stays_as_it_is() {
    let place = Place::new();
    let text = "This is a letter to my aunt, and no database. ".repeat(50);
    place.write("letter.txt", &text);
    place.run(["--db", "letter.txt", "status"]).refused(1, &["letter.txt"]);
    place.run(["init", "letter.txt"]).refused(1, &["letter.txt"]);
    assert_eq!(std::fs::read_to_string(place.path("letter.txt")).unwrap(), text);
}

#[test]
fn a_database_that_is_no_replica_is_told_to_become_one() {
    let place = Place::new();
    place.sql("plain.db", SCHEMA);
    place.run(["--db", "plain.db", "status"]).refused(1, &["plain.db", "zvon init"]);
    let tables = place.query("plain.db", "SELECT name FROM sqlite_master WHERE name LIKE 'ZV%'");
    assert_eq!(tables, Vec::<String>::new());
}

#[test]
fn a_database_in_memory_is_refused() {
    Place::new().run(["init", ":memory:"]).refused(2, &["memory"]);
}

#[test]
fn tables_that_cannot_be_tracked_are_named() {
    let place = Place::new();
    place.sql("a.db", SCHEMA);
    place.sql("a.db", "CREATE VIEW titles AS SELECT title FROM notes; CREATE TABLE keyless (x)");
    place.run(["init", "a.db"]).ended(0);
    for table in ["lost", "titles", "keyless", "ZV_CHANGE", "sqlite_master"] {
        let ran = place.run(["--db", "a.db", "track", table]);
        assert!([1, 2].contains(&ran.code), "{ran:#?}");
        let code = ran.code;
        ran.refused(code, &[table]);
    }
    let tracked = place.json(&["--db", "a.db", "status"]);
    assert_eq!(tracked["tables"], serde_json::json!([]));
}

#[test]
fn remotes_that_cannot_be_are_named_before_anything_is_made() {
    let place = Place::new();
    for (url, word) in [("gopher://example.org/x", "gopher"), ("s3://", "s3://"), ("", "empty")] {
        let ran = place.run(["init", "a.db", "--remote", url]);
        assert!([1, 2].contains(&ran.code), "{ran:#?}");
        let code = ran.code;
        ran.refused(code, &[word]);
    }
    assert!(!place.path("a.db").exists());
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let place = Place::new();
    let ran = place.run(["init", "a.db", "--remote", "s3://me:hunter2@localhost:9000/bucket"]);
    assert!([1, 2].contains(&ran.code), "{ran:#?}");
    assert!(!ran.stderr.contains("hunter2"), "{ran:#?}");
}

#[test]
fn errors_are_one_json_document_too() {
    let place = Place::new();
    for (args, code, kind) in [
        (&["--json", "status"][..], 2, "usage"),
        (&["bogus", "--json"], 2, "usage"),
        (&["--json", "--db", "none.db", "status"], 1, "database"),
    ] {
        let ran = place.run(args).ended(code);
        let document = ran.json();
        assert_eq!(keys(&document), ["error"]);
        assert_eq!(keys(&document["error"]), ["causes", "kind", "message"]);
        assert_eq!(document["error"]["kind"], kind, "{ran:#?}");
        assert!(document["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert!(ran.stderr.starts_with("error: "), "{ran:#?}");
    }
}

#[test]
fn a_backtrace_is_never_shown() {
    let place = Place::new();
    let mut command = place.zvon();
    command.env("RUST_BACKTRACE", "full").args(["--db", "none.db", "status"]);
    let with = ran(&mut command).refused(1, &["none.db"]);
    let without = place.run(["--db", "none.db", "status"]).refused(1, &[]);
    assert_eq!(with.stderr, without.stderr);
}

#[test]
fn names_in_errors_cannot_drive_the_terminal() {
    let ran = Place::new().run(["--db", "a\u{1b}[31m.db", "status"]).refused(1, &[r"a\u{1b}[31m.db"]);
    assert!(!ran.stderr.contains('\u{1b}'));
}
