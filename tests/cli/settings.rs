//! Where the database, the remote and the limits come from: flag, environment, `zvon.toml`, what `init` saved.

use crate::place::{Place, Ran, ran};

/// Syncs with an environment of two variables, and says which folder it went to.
fn remote_of(ran: Ran) -> String {
    let remote = ran.ended(0).json()["remote"].as_str().unwrap().to_owned();
    remote.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn remotes_go_by_precedence() {
    let place = Place::with_notes();
    let sync = ["--json", "--db", "notes.db", "sync"];
    assert_eq!(remote_of(place.run(sync)), "shared");
    place.write("zvon.toml", "remote = 'from-toml'\n");
    assert_eq!(remote_of(place.run(sync)), "from-toml");
    assert_eq!(remote_of(ran(place.zvon().env("ZVON_REMOTE", "from-env").args(sync))), "from-env");
    assert_eq!(remote_of(ran(place.zvon().env("ZVON_REMOTE", "").args(sync))), "from-toml");
    let with_flag = ["--json", "--db", "notes.db", "sync", "--remote", "from-flag"];
    assert_eq!(remote_of(ran(place.zvon().env("ZVON_REMOTE", "from-env").args(with_flag))), "from-flag");
    let with_url = ["--json", "--db", "notes.db", "sync", "from-argument"];
    assert_eq!(remote_of(ran(place.zvon().env("ZVON_REMOTE", "from-env").args(with_url))), "from-argument");
    let saved = place.json(&["--db", "notes.db", "status"]);
    assert!(saved["default_remote"].as_str().unwrap().ends_with("/shared"), "{saved:#}");
}

#[test]
fn only_the_flag_of_init_is_saved() {
    let place = Place::new();
    place.write("zvon.toml", "remote = 'from-toml'\n");
    let done = ran(place.zvon().env("ZVON_REMOTE", "from-env").args(["--json", "init", "a.db"])).ended(0).json();
    assert_eq!(done["default_remote"], serde_json::Value::Null);
}

#[test]
fn databases_go_by_precedence() {
    let place = Place::new();
    let uuid = |name: &str| place.json(&["init", name])["database_uuid"].clone();
    let (flag, env, toml) = (uuid("flag.db"), uuid("env.db"), uuid("toml.db"));
    place.write("zvon.toml", "db = 'toml.db'\n");
    assert_eq!(place.json(&["status"])["database_uuid"], toml);
    let from_env = ran(place.zvon().env("ZVON_DB", "env.db").args(["--json", "status"]));
    assert_eq!(from_env.ended(0).json()["database_uuid"], env);
    let from_flag = ran(place.zvon().env("ZVON_DB", "env.db").args(["--json", "status", "--db", "flag.db"]));
    assert_eq!(from_flag.ended(0).json()["database_uuid"], flag);
}

#[test]
fn paths_in_a_settings_file_count_from_its_folder() {
    let place = Place::new();
    place.write("data/zvon.toml", "remote = 'shared'\n");
    place.run(["init", "data/a.db"]).ended(0);
    place.run(["sync", "--db", "data/a.db"]).ended(0);
    assert!(place.path("data/shared").is_dir() && !place.path("shared").exists());
}

#[test]
fn the_file_beside_the_database_goes_before_the_one_that_names_it() {
    let place = Place::new();
    place.write("zvon.toml", "db = 'data/a.db'\nremote = 'far'\n");
    place.write("data/zvon.toml", "");
    place.run(["init"]).ended(0);
    assert_eq!(remote_of(place.run(["--json", "sync"])), "far");
    place.write("data/zvon.toml", "remote = 'near'\n");
    assert_eq!(remote_of(place.run(["--json", "sync"])), "near");
    // Named by its path, the database has only what lies beside it.
    place.write("data/zvon.toml", "");
    place.run(["sync", "--db", "data/a.db"]).refused(2, &["no remote"]);
}

#[test]
fn relative_remotes_are_saved_as_what_they_meant() {
    let place = Place::with_notes();
    place.write("elsewhere/empty", "");
    let mut command = place.zvon();
    command.current_dir(place.path("elsewhere")).args(["--db", "../notes.db", "sync"]);
    ran(&mut command).ended(0);
    assert!(place.path("shared").is_dir() && !place.path("elsewhere/shared").exists());
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_line() {
    let place = Place::with_notes();
    place.write("zvon.toml", "# mine\nremot = 'shared'\n");
    place.run(["--db", "notes.db", "status"]).refused(2, &["zvon.toml, line 2", "`remot`", "`remote`"]);
    place.write("zvon.toml", "max_clock_drift = 'a while'\n");
    place.run(["--db", "notes.db", "status"]).refused(2, &["zvon.toml, line 1", "a while", "24h"]);
    place.write("zvon.toml", "db = [");
    place.run(["--db", "notes.db", "status"]).refused(2, &["zvon.toml, line 1"]);
}

#[test]
fn the_largest_object_is_a_setting() {
    let place = Place::with_notes();
    place.run(["--db", "notes.db", "sync"]).ended(0);
    place.write("zvon.toml", "max_object_size = '1KiB'\n");
    place.sql("notes.db", "UPDATE notes SET body = printf('%.*c', 5000, 'x') WHERE id = 'a'");
    place.sql("notes.db", "UPDATE notes SET body = 'small' WHERE id = 'b'");
    let ran = place.run(["--json", "--db", "notes.db", "sync"]).ended(1);
    let report = ran.json();
    assert_eq!((report["pushed"].as_u64(), report["oversize"].as_array().unwrap().len()), (Some(1), 1), "{ran:#?}");
    assert_eq!(report["oversize"][0]["table"], "notes");
    assert!(ran.stderr.starts_with("warning: change "), "{ran:#?}");
    place.write("zvon.toml", "");
    assert_eq!(place.json(&["--db", "notes.db", "sync"])["pushed"], 1);
}

#[test]
fn logs_go_to_stderr_and_only_when_asked_for() {
    let place = Place::with_notes();
    assert_eq!(place.run(["--db", "notes.db", "sync"]).ended(0).stderr, "");
    for ran in [
        place.run(["--json", "-vv", "--db", "notes.db", "sync"]),
        ran(place.zvon().env("RUST_LOG", "zvon=trace").args(["--json", "--db", "notes.db", "sync"])),
    ] {
        ran.ended(0).json();
    }
    ran(place.zvon().env("RUST_LOG", "zvon=loud").args(["--db", "notes.db", "status"])).refused(2, &["RUST_LOG"]);
}

/// A server that is always too busy, and counts who asks.
fn busy_server() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), std::sync::Arc::new(AtomicUsize::new(0)));
    let counter = asked.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, mut request) = (connection.unwrap(), Vec::new());
            let mut part = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&part[..read]),
                }
            }
            if !request.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                connection.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (address, asked)
}

#[test]
fn how_often_a_remote_is_asked_again_is_set_beside_the_database() {
    let place = Place::with_notes();
    let (address, asked) = busy_server();
    let url = format!("s3://{address}/bucket/base");
    let sync = || {
        let mut command = place.zvon();
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        ran(command.args(["--db", "notes.db", "sync", &url])).refused(1, &["503"]);
    };
    for retries in [0, 2] {
        place.write("zvon.toml", format!("max_retries = {retries}\nretry_timeout = '1m'\n"));
        let before = asked.load(std::sync::atomic::Ordering::SeqCst);
        sync();
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst) - before, 1 + retries);
    }
}

/// Made absolute, it was a folder of that name.
#[test]
fn a_home_folder_written_with_a_tilde_is_refused_wherever_it_stands() {
    let place = Place::new();
    place.run(["init", "a.db", "--remote=~/shared"]).refused(2, &["~ is not expanded"]);
    place.run(["init", "a.db"]).ended(0);
    ran(place.zvon().env("ZVON_REMOTE", "~/shared").args(["--db", "a.db", "sync"])).refused(2, &["~ is not expanded"]);
    place.write("zvon.toml", "remote = '~/shared'\n");
    place.run(["--db", "a.db", "sync"]).refused(2, &["~ is not expanded"]);
    assert!(!place.path("~").exists());
}

/// The bytes that are no text were replaced, and another folder made.
#[cfg(target_os = "linux")]
#[test]
fn a_relative_remote_below_a_folder_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::with_notes();
    let folder = place.path(std::ffi::OsStr::from_bytes(b"bad\xff"));
    std::fs::create_dir(&folder).unwrap();
    let sync = |remote: &str| {
        let mut command = place.zvon();
        ran(command.current_dir(&folder).args(["--db", "../notes.db", "sync", remote]))
    };
    sync("rel").refused(2, &["is not UTF-8", "file:///"]);
    let names = || std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names().all(|name| !name.to_string_lossy().contains('\u{fffd}') || name.as_bytes() == b"bad\xff"));
    sync(place.path("shared").to_str().unwrap()).ended(0);
}
