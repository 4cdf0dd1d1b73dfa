//! The demo, end to end.

use serde_json::json;

use crate::place::Place;

#[test]
fn the_demo_tells_its_story_and_leaves_its_files() {
    let place = Place::new();
    let ran = place.run(["demo", "shown"]).ended(0);
    assert_eq!(ran.stderr, "");
    for word in [
        "$ zvon init laptop.db --remote shared",
        "$ zvon clone shared phone.db",
        "'Milk, eggs'",
        "zvon conflicts restore 1",
        "changes/",
        "Try next:",
    ] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
    assert!(ran.stdout.contains(place.path("shown").to_str().unwrap()));
    for database in ["shown/laptop.db", "shown/phone.db"] {
        assert_eq!(
            place.query(database, "SELECT id || '|' || title || '|' || body || '|' || pinned FROM notes ORDER BY id"),
            ["garden|Garden plan|Plant the beans|1", "shopping|Shopping|Milk, bread|0", "trip|Trip to the sea||0"]
        );
        assert_eq!(place.query(database, "SELECT id FROM tags ORDER BY id"), ["garden-outside", "trip-june"]);
        place.run(["--db", database, "verify", "--remote"]).ended(0);
    }
}

#[test]
fn what_the_demo_says_to_try_next_works() {
    let place = Place::new();
    place.run(["demo", "shown"]).ended(0);
    place.run(["--db", "shown/phone.db", "conflicts", "restore", "1"]).ended(0);
    place.run(["--db", "shown/phone.db", "sync"]).ended(0);
    place.run(["--db", "shown/laptop.db", "sync"]).ended(0);
    let body = place.query("shown/laptop.db", "SELECT body FROM notes WHERE id = 'shopping'");
    assert_eq!(body, ["Milk, eggs"]);
    place.run(["--db", "shown/laptop.db", "log", "notes", "shopping"]).ended(0);
}

#[test]
fn the_demo_in_json_is_one_document() {
    let place = Place::new();
    let shown = place.json(&["demo"]);
    assert_eq!((&shown["identical"], &shown["verify_laptop"]["problem_count"]), (&json!(true), &json!(0)));
    assert_eq!(shown["conflicts"][0]["losing_value"], "Milk, eggs");
    assert!(shown["remote_files"].as_array().unwrap().iter().any(|f| f.as_str().unwrap().starts_with("changes/")));
    let folder = std::path::Path::new(shown["folder"].as_str().unwrap());
    assert!(folder.starts_with(place.path("")) && folder.join("phone.db").exists());
}

#[test]
fn the_demo_takes_no_folder_that_is_in_use() {
    let place = Place::new();
    place.write("used/letter.txt", "keep me");
    place.run(["demo", "used"]).refused(2, &["used", "not empty"]);
    assert_eq!(std::fs::read_dir(place.path("used")).unwrap().count(), 1);
}

#[test]
fn the_demo_ignores_what_steers_other_commands() {
    let place = Place::new();
    place.write("zvon.toml", "nonsense = true\n");
    let mut command = place.zvon();
    command.env("ZVON_DB", "elsewhere.db").env("ZVON_REMOTE", "gopher://x").args(["demo", "shown", "-q"]);
    crate::place::ran(&mut command).ended(0);
    assert!(!place.path("elsewhere.db").exists());
}
