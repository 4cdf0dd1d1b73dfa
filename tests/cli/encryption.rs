//! Encrypted remotes as their users handle them: key files, passphrases, the environment, `zvon key`.

use crate::place::{Place, Ran, SCHEMA, ran};
use crate::terminal::{CTRL_C, converse, hidden, once};

/// A folder with a key in `me.key`, and `notes.db`, which tracks its table and syncs with the encrypted remote `shared`.
fn with_key() -> (Place, String) {
    let place = Place::new();
    let recipient = place.json(&["key", "generate", "me.key"])["recipient"].as_str().unwrap().to_owned();
    place.sql("notes.db", SCHEMA);
    let done = place.json(&["init", "notes.db", "--remote", "shared", "--encrypt", "--key-file", "me.key"]);
    assert_eq!(done["encrypted"], true);
    place.run(["--db", "notes.db", "track", "notes"]).ended(0);
    place.run(["--db", "notes.db", "--key-file", "me.key", "sync"]).ended(0);
    (place, recipient)
}

#[test]
fn a_key_is_made_once_for_its_owners_eyes() {
    let place = Place::new();
    let ran = place.run(["key", "generate", "me.key"]).ended(0);
    assert!(ran.stdout.starts_with("age1") && !ran.stdout.contains("AGE-SECRET-KEY"), "{ran:#?}");
    let key = std::fs::read_to_string(place.path("me.key")).unwrap();
    assert!(key.contains("AGE-SECRET-KEY-1"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(place.path("me.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    place.run(["key", "generate", "me.key"]).refused(2, &["me.key", "exists"]);
    assert_eq!(std::fs::read_to_string(place.path("me.key")).unwrap(), key);
}

#[test]
fn a_life_with_a_key_file() {
    let (place, recipient) = with_key();
    place.run(["clone", "shared", "other.db", "--key-file", "me.key"]).ended(0);
    assert_eq!(place.query("other.db", "SELECT title FROM notes ORDER BY id"), ["first", "second"]);
    place.run(["--db", "other.db", "--key-file", "me.key", "verify", "--remote"]).ended(0);
    let from_env = ran(place.zvon().env("ZVON_KEY_FILE", "me.key").args(["--db", "other.db", "sync"]));
    from_env.ended(0);
    // A friend is let in, and out again.
    let friend = place.json(&["key", "generate", "friend.key"])["recipient"].as_str().unwrap().to_owned();
    let refused = ["clone", "shared", "friend.db", "--key-file", "friend.key"];
    place.run(refused).refused(1, &["not encrypted for this key", "zvon key add"]);
    assert!(!place.path("friend.db").exists());
    let key = |args: &[&str]| place.json(&[&["--db", "notes.db", "--key-file", "me.key", "key"], args].concat());
    assert_eq!(key(&["add", &friend])["recipients"].as_array().unwrap().len(), 2);
    place.run(refused).ended(0);
    assert_eq!(key(&["remove", &friend])["recipients"][0], recipient.as_str());
    place.run(["--db", "friend.db", "--key-file", "friend.key", "sync"]).refused(1, &["it was removed"]);
    assert_eq!(key(&["rotate"])["epochs"].as_array().unwrap().len(), 4);
    let list = place.run(["--db", "notes.db", "--key-file", "me.key", "key", "list"]).ended(0).stdout;
    assert!(list.contains(&recipient) && list.matches("current").count() == 1, "{list}");
    place.run(["--db", "notes.db", "key", "list"]).refused(1, &["--key-file", "ZVON_KEY_FILE"]);
    place.run(["--db", "notes.db", "key", "add", "age1nonsense"]).ended(2);
}

#[test]
fn a_secret_key_given_as_a_recipient_is_refused_and_not_shown_again() {
    let place = Place::new();
    place.run(["key", "generate", "me.key"]).ended(0);
    let key = std::fs::read_to_string(place.path("me.key")).unwrap();
    let key = key.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap();
    for args in [vec!["key", "add", key], vec!["init", "a.db", "--remote", "r", "--encrypt", "--recipient", key]] {
        let ran = place.run(args).ended(2);
        assert!(!format!("{ran:?}").contains(&key[20..]), "{ran:#?}");
        assert!(ran.stderr.contains("keep it to yourself"), "{ran:#?}");
    }
}

/// How often the slow derivation ran.
fn derivations(ran: &Ran) -> usize {
    ran.stderr.matches("derived a key from the passphrase").count()
}

#[test]
fn one_derivation_a_command() {
    let place = Place::new();
    place.write("pass", "correct horse battery staple\n");
    place.sql("notes.db", SCHEMA);
    let run = |args: &[&str]| place.run([&["-vv", "--passphrase-file", "pass"], args].concat()).ended(0);
    let init = run(&["init", "notes.db", "--remote", "shared", "--encrypt"]);
    assert_eq!(derivations(&init), 1);
    place.run(["--db", "notes.db", "track", "notes"]).ended(0);
    assert_eq!(derivations(&run(&["--db", "notes.db", "sync"])), 1);
    // One to open the keys, one to lock the new ones.
    assert_eq!(derivations(&run(&["--db", "notes.db", "key", "rotate"])), 2);
    assert_eq!(derivations(&run(&["--db", "notes.db", "key", "rotate"])), 2);
    for args in [
        &["--db", "notes.db", "sync"][..],
        &["--db", "notes.db", "key", "list"],
        &["--db", "notes.db", "verify", "--remote"],
        &["clone", "shared", "other.db"],
    ] {
        let ran = run(args);
        assert_eq!(derivations(&ran), 1, "{args:?}: {ran:#?}");
    }
}

#[test]
fn passphrases_come_from_a_file_and_the_environment() {
    let place = Place::new();
    place.write("pass", "one\r\n");
    place.write("two-lines", "one\ntwo\n");
    place.write("empty", "\n");
    let init = ["init", "notes.db", "--remote", "shared", "--encrypt"];
    place.run([&init[..], &["--passphrase-file", "two-lines"]].concat()).refused(2, &["two-lines", "only line"]);
    place.run([&init[..], &["--passphrase-file", "empty"]].concat()).refused(2, &["empty"]);
    place.run([&init[..], &["--passphrase-file", "missing"]].concat()).refused(1, &["missing", "cannot be read"]);
    place.run(init).refused(2, &["--passphrase-file", "ZVON_PASSPHRASE", "--recipient"]);
    ran(place.zvon().env("ZVON_PASSPHRASE_FILE", "pass").args(init)).ended(0);
    let list = ["--db", "notes.db", "key", "list"];
    ran(place.zvon().env("ZVON_PASSPHRASE", "one").args(list)).ended(0);
    ran(place.zvon().env("ZVON_PASSPHRASE", "other").args(list)).refused(1, &["the passphrase does not open"]);
    let flag = [&list[..], &["--passphrase-file", "pass"]].concat();
    ran(place.zvon().env("ZVON_PASSPHRASE", "other").args(&flag)).ended(0);
    place.run(list).refused(1, &["--passphrase-file"]);
    // A new one: the old one opens nothing any more.
    place.write("new", "two");
    place.run([&flag[..3], &["rotate", "--passphrase-file", "pass", "--new-passphrase-file", "new"]].concat()).ended(0);
    ran(place.zvon().env("ZVON_PASSPHRASE", "one").args(list)).refused(1, &["it was changed"]);
    ran(place.zvon().env("ZVON_PASSPHRASE", "two").args(list)).ended(0);
}

const QUESTION: &str = "The passphrase for file:///";

/// A folder with a replica of a remote that a passphrase opens.
fn with_passphrase() -> Place {
    let place = Place::new();
    place.write("pass", "asked for\n");
    place.sql("notes.db", SCHEMA);
    place.run(["--passphrase-file", "pass", "init", "notes.db", "--remote", "shared", "--encrypt"]).ended(0);
    place.run(["--db", "notes.db", "track", "notes"]).ended(0);
    place
}

#[test]
fn the_passphrase_is_asked_for_on_a_terminal_and_not_shown() {
    let place = with_passphrase();
    let mut list = place.plain_zvon();
    list.args(["--db", "notes.db", "key", "list"]);
    let Some((shown, code)) = converse(&list, &[hidden(QUESTION, "asked for\n")]) else { return };
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("is encrypted") && !shown.contains("asked for"), "{shown}");
    let (shown, code) = converse(&list, &[hidden(QUESTION, "something else\n")]).unwrap();
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("the passphrase does not open") && !shown.contains("something"), "{shown}");
    let (shown, code) = converse(&list, &[hidden(QUESTION, CTRL_C)]).unwrap();
    assert_eq!(code, 130, "{shown}");
}

#[test]
fn a_watch_asks_for_the_passphrase_once_and_goes_on() {
    let place = with_passphrase();
    let mut watch = place.plain_zvon();
    watch.args(["-vv", "--json", "--db", "notes.db", "watch", "--interval", "1s"]);
    // The second look at the remote is a sync of its own.
    let answers = [hidden(QUESTION, "asked for\n"), once("\"cause\":\"interval\"", CTRL_C)];
    let Some((shown, code)) = converse(&watch, &answers) else { return };
    assert_eq!(code, 0, "{shown}");
    for (words, times) in
        [(QUESTION, 1), ("derived a key", 1), ("\"started\"", 1), ("\"stopped\"", 1), ("asked for", 0)]
    {
        assert_eq!(shown.matches(words).count(), times, "{words}: {shown}");
    }
    assert!(shown.contains("\"pushed\":2"), "{shown}");
    let (shown, code) = converse(&watch, &[hidden(QUESTION, CTRL_C)]).unwrap();
    assert_eq!(code, 130, "{shown}");
}

#[test]
fn a_watch_without_its_secret_or_with_a_wrong_one_ends_and_says_so() {
    let place = with_passphrase();
    let watch = ["--db", "notes.db", "watch"];
    place.run(watch).ended_with(1, &["a passphrase opens its keys", "--passphrase-file"]);
    ran(place.zvon().env("ZVON_PASSPHRASE", "wrong").args(watch)).ended_with(1, &["the passphrase does not open"]);
}

#[test]
fn an_encryption_that_fails_leaves_no_remote_to_sync_with_in_the_clear() {
    let place = Place::new();
    place.sql("notes.db", SCHEMA);
    place.run(["key", "generate", "me.key"]).ended(0);
    let other = place.json(&["key", "generate", "other.key"])["recipient"].as_str().unwrap().to_owned();
    let init = ["init", "notes.db", "--remote", "shared", "--encrypt"];
    // Nobody is there to be asked; one's own key is not named.
    place.run(init).refused(2, &["passphrase for the remote is missing"]);
    let without_me = ["--recipient", other.as_str(), "--key-file", "me.key"];
    place.run([&init[..], &without_me].concat()).refused(2, &["your own key"]);
    place.run(["--db", "notes.db", "track", "notes"]).ended(0);
    place.run(["--db", "notes.db", "sync"]).refused(2, &["no remote is named"]);
    // Nor is it, if it is named elsewhere.
    place.run(["--db", "notes.db", "sync", "shared"]).refused(1, &["was to be an encrypted one", "--encrypt"]);
    assert_eq!(std::fs::read_dir(place.path("shared")).unwrap().count(), 0);
    place.run([&init[..], &["--key-file", "me.key"]].concat()).ended(0);
    place.run(["--db", "notes.db", "--key-file", "me.key", "sync"]).ended(0);
}

#[test]
fn a_plain_remote_that_was_to_be_encrypted_is_refused_and_stays_usable() {
    let place = Place::with_clone();
    place.run(["key", "generate", "me.key"]).ended(0);
    let init = ["init", "third.db", "--remote", "shared", "--encrypt", "--key-file", "me.key"];
    place.run(init).refused(1, &["holds objects that are not encrypted"]);
    place.run(["--db", "third.db", "sync", "shared"]).ended(0);
}

/// As with `--key-file <(pass show me.key)`: what was read once is gone.
#[cfg(unix)]
#[test]
fn a_key_that_comes_through_a_pipe_is_read_once() {
    let place = Place::new();
    place.run(["key", "generate", "me.key"]).ended(0);
    let key = std::fs::read_to_string(place.path("me.key")).unwrap();
    let init = ["init", "notes.db", "--remote", "shared", "--encrypt", "--key-file", "/dev/stdin"];
    ran(place.zvon().args(init).write_stdin(key)).ended(0);
    place.run(["--db", "notes.db", "--key-file", "me.key", "key", "list"]).ended(0);
}

#[test]
fn looking_for_keys_where_there_are_none_leaves_no_remote_behind() {
    let (place, recipient) = with_key();
    std::fs::create_dir(place.path("typo")).unwrap();
    let wrong = ["--db", "notes.db", "--remote", "typo", "key"];
    place.run([&wrong[..], &["list"]].concat()).refused(1, &["typo", "not encrypted"]);
    place.run([&wrong[..], &["add", recipient.as_str()]].concat()).refused(1, &["typo", "not encrypted"]);
    let status = place.json(&["--db", "notes.db", "status"]);
    assert_eq!(status["remotes"].as_array().unwrap().len(), 1, "{status}");
    // One that is met for the first time by its keys is remembered with them.
    place.sql("other.db", SCHEMA);
    place.run(["init", "other.db"]).ended(0);
    place.run(["--db", "other.db", "--remote", "shared", "--key-file", "me.key", "key", "list"]).ended(0);
    assert_eq!(place.json(&["--db", "other.db", "status"])["remotes"][0]["encrypted"], true);
}
