//! Writers that are not zvon: Python's `sqlite3` module and the `sqlite3` shell write a tracked file, with nothing loaded.

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use zvon::Replica;

const SCHEMA: &str =
    "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT COLLATE NOCASE, body BLOB, n NUMERIC, tag TEXT UNIQUE);
    CREATE TABLE link (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT, pop INTEGER);";

/// Makes a tracked file, and gives the file and its lock up again.
async fn tracked_file(path: &Path) {
    let replica = Replica::init(path).unwrap();
    run(&replica, SCHEMA);
    run(&replica, "INSERT INTO note VALUES ('old', 'from before', NULL, 1, 'x')");
    replica.track_all(&keyed()).await.unwrap();
}

/// Syncs the file and a replica elsewhere, and compares all that they have.
async fn assert_arrives(path: &Path) {
    let (here, there, remote) = (Replica::open(path).unwrap(), replica(SCHEMA).await, fresh_remote());
    converge(&[&here, &there], &remote).await;
    for name in ["note", "link", "city"] {
        assert!(!table(&here, name).is_empty(), "{name}");
        assert_eq!(table(&here, name), table(&there, name), "{name}");
    }
    for replica in [&here, &there] {
        assert_eq!(replica.status().await.unwrap().journal, 0);
        assert_verified(replica, &remote).await;
    }
}

fn python(script: &str, path: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(path);
    command
}

#[tokio::test]
async fn pythons_sqlite3_writes() {
    if !is_here("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("python.db");
    tracked_file(&path).await;
    let script = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.executemany("INSERT INTO note VALUES (?, ?, ?, ?, ?)",
    [(f"n{n}", f"note {n}", bytes([n, 0xc0]), n / 2, f"t{n}") for n in range(100)])
db.executemany("INSERT INTO link VALUES (?, ?)", [("a", str(n)) for n in range(20)])
db.commit()
db.execute("UPDATE note SET title = upper(title), n = n + 1 WHERE id < 'n5'")
db.execute("INSERT INTO note (id, title) VALUES ('n7', 'upserted') ON CONFLICT (id) DO UPDATE SET title = excluded.title")
db.execute("INSERT OR REPLACE INTO note VALUES ('new', 'replaces n8', NULL, 9e999, 't8')")
db.execute("INSERT OR IGNORE INTO note (id, tag) VALUES ('ignored', 't9')")
db.execute("DELETE FROM note WHERE id LIKE 'n9%'")
db.execute("UPDATE link SET b = b || '!' WHERE b < '2'")
db.commit()
db.execute("DELETE FROM note")
db.rollback()
cursor = db.execute("INSERT INTO city (name, pop) VALUES (?, ?)", ("Zürich 🔔", 2**62))
assert cursor.lastrowid == 1, cursor.lastrowid
cursor = db.execute("UPDATE city SET pop = pop + 1")
assert cursor.rowcount == 1, cursor.rowcount
try:
    db.execute("INSERT OR IGNORE INTO note (id) VALUES (NULL)")
    raise SystemExit("a row without a key was taken")
except sqlite3.IntegrityError as error:
    assert "zvon: the key column id of note must be text" in str(error), error
db.commit()
db.close()
"#;
    assert!(python(script, &path).status().unwrap().success());
    assert_arrives(&path).await;
}

#[tokio::test]
async fn the_sqlite3_shell_writes() {
    if !is_here("sqlite3", &["--version"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("shell.db");
    tracked_file(&path).await;
    let script = "PRAGMA foreign_keys = ON;
        INSERT INTO note VALUES ('s1', 'one', x'00c0', 1, 'a'), ('s2', 'two', NULL, 2.5, 'b'), ('s3', 'three', '', -1, 'c');
        BEGIN; UPDATE note SET title = 'ONE', n = 1 WHERE id = 's1'; SAVEPOINT s; DELETE FROM note; ROLLBACK TO s; COMMIT;
        REPLACE INTO note VALUES ('s4', 'four', zeroblob(3), 4, 'b');
        DELETE FROM note WHERE id = 's3';
        UPDATE note SET id = 'moved' WHERE id = 's4';
        INSERT INTO link SELECT 'l', id FROM note;
        INSERT INTO city (name) VALUES ('Bern'), ('Brno') RETURNING id;
        UPDATE city SET name = 'Bonn' WHERE id = 2;";
    let output = Command::new("sqlite3").arg("-bail").arg(&path).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>(), ["1", "2"]);
    assert_arrives(&path).await;
}

#[tokio::test]
async fn a_writer_and_syncs_at_once() {
    if !is_here("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("busy.db");
    tracked_file(&path).await;
    let script = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for n in range(300):
    db.execute("INSERT INTO note (id, title, n) VALUES (?, 'fresh', ?)", (f"p{n}", n))
    db.execute("UPDATE note SET n = n + 1000 WHERE id = ?", (f"p{n}",))
    if n % 3 == 0:
        db.execute("DELETE FROM note WHERE id = ?", (f"p{n}",))
"#;
    let (here, there, remote) = (Replica::open(&path).unwrap(), replica(SCHEMA).await, fresh_remote());
    converge(&[&here, &there], &remote).await;
    let mut writer = python(script, &path).spawn().unwrap();
    let mut syncs = 0;
    let status = loop {
        // The other side writes too, so that every sync merges while the writer writes.
        run(&there, &format!("INSERT INTO city (name, pop) VALUES ('there', {syncs}); UPDATE note SET title = 'seen'"));
        sync(&there, &remote).await;
        sync(&here, &remote).await;
        syncs += 1;
        if let Some(status) = writer.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success(), "the writer failed");
    converge(&[&here, &there], &remote).await;
    assert_eq!(table(&here, "note"), table(&there, "note"));
    assert_eq!(table(&here, "city").len(), syncs);
    assert_eq!(rows(&here.connection(), "SELECT count(*), min(n) >= 1000 FROM note WHERE id GLOB 'p*'"), ["200|1"]);
    // Every one of the writer's inserts is a change of its own; the row from before `track` has an id of the epoch.
    let inserts = "SELECT count(*) FROM ZV_CHANGE_FIELD WHERE field_name = 'n' AND field_value BETWEEN 0 AND 299 AND change_id > '0199'";
    assert_eq!(rows(&there.connection(), inserts), ["300"]);
    assert_verified(&here, &remote).await;
    assert_verified(&there, &remote).await;
}
