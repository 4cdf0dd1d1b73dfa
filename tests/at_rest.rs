//! Database files that are encrypted at rest, by the feature `sqlcipher`; and what a build without it says.

mod common;

use std::fs;

use zvon::{DatabaseKey, ErrorKind, Replica};

fn key() -> DatabaseKey {
    DatabaseKey::new("correct horse 'battery' staple").unwrap()
}

#[cfg(not(feature = "sqlcipher"))]
#[test]
fn a_build_without_the_feature_says_which_one_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.db");
    for error in [
        Replica::init_encrypted(&path, &key()).unwrap_err(),
        Replica::open_encrypted(folder.path().join("missing.db"), &key()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Database);
    }
    let error = Replica::init_encrypted(&path, &key()).unwrap_err();
    assert!(error.to_string().contains("--features sqlcipher"), "{error}");
    assert!(!path.exists());
    fs::write(&path, [7; 4096]).unwrap();
    let error = Replica::open(&path).unwrap_err();
    for words in ["not an SQLite database, or is encrypted", "--features sqlcipher", "--db-key-file"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[cfg(feature = "sqlcipher")]
mod with_sqlcipher {
    use std::io::Read;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use rusqlite::Connection;
    use zvon::Settings;

    use super::common::terminal::{CTRL_C, converse, hidden};
    use super::common::*;
    use super::*;

    const SCHEMA: &str = "
        CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT);
        CREATE TABLE sparse (value TEXT);
        CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, value TEXT UNIQUE);
        CREATE VIEW bodies AS SELECT body FROM note;
        CREATE VIRTUAL TABLE found USING fts5(body, content='note');
        CREATE TRIGGER note_found AFTER INSERT ON note BEGIN INSERT INTO found (rowid, body) VALUES (new.rowid, new.body); END;
        INSERT INTO note VALUES ('a', 'planted words'), ('b', 'more of them');
        INSERT INTO sparse (rowid, value) VALUES (7, 'seven'), (900000, 'many');
        INSERT INTO counted (value) VALUES ('x'), ('y'); DELETE FROM counted WHERE value = 'y';
        PRAGMA user_version = 42; PRAGMA application_id = 1234;";

    /// Everything that the schema above holds, as text.
    fn content(conn: &Connection) -> Vec<Vec<String>> {
        [
            "SELECT * FROM note",
            "SELECT * FROM sparse",
            "SELECT * FROM counted",
            "SELECT * FROM sqlite_sequence",
            "SELECT * FROM bodies",
            "SELECT rowid, body FROM found WHERE found MATCH 'planted'",
            "PRAGMA user_version",
            "PRAGMA application_id",
            "PRAGMA journal_mode",
        ]
        .map(|sql| rows(conn, sql))
        .to_vec()
    }

    fn plain(path: &Path, journal_mode: &str) -> Vec<Vec<String>> {
        let conn = Connection::open(path).unwrap();
        conn.query_row(&format!("PRAGMA journal_mode = {journal_mode}"), [], |_| Ok(())).unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        content(&conn)
    }

    fn holds(path: &Path, text: &str) -> bool {
        fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes())
    }

    #[tokio::test]
    async fn a_new_replica_is_encrypted_and_opens_with_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let hex = DatabaseKey::new(&"0123456789abcdef".repeat(4)).unwrap();
        for (n, key) in [key(), hex].into_iter().enumerate() {
            let (path, remote) = (folder.path().join(format!("{n}.db")), fresh_remote());
            let a = Replica::init_encrypted(&path, &key).unwrap();
            run(
                &a,
                "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT); INSERT INTO note VALUES ('a', 'planted words')",
            );
            a.track_all(&keyed()).await.unwrap();
            sync(&a, &remote).await;
            let settings = Settings::default();
            let other = folder.path().join(format!("clone-{n}.db"));
            let (b, _) = Replica::clone_encrypted_from(&remote, &other, &key, settings, None).await.unwrap();
            assert_eq!(table(&b, "note"), table(&a, "note"));
            assert_verified(&b, &remote).await;
            drop((a, b));
            for file in fs::read_dir(folder.path()).unwrap() {
                let file = file.unwrap().path();
                assert!(!holds(&file, "planted words") && !holds(&file, "SQLite format 3"), "{}", file.display());
            }
            let wrong = DatabaseKey::new("another").unwrap();
            let error = Replica::open_encrypted(&path, &wrong).unwrap_err();
            assert!(
                error.kind() == ErrorKind::Database && error.to_string().contains("the key does not open"),
                "{error}"
            );
            let error = Replica::open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DatabaseKeyWanted);
            assert!(error.to_string().contains("--db-key-file"), "{error}");
            assert_eq!(table(&Replica::open_encrypted(&path, &key).unwrap(), "note"), ["'a'|'planted words'"]);
        }
    }

    #[test]
    fn an_existing_database_is_encrypted_with_all_that_it_holds() {
        for journal_mode in ["delete", "wal"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("notes.db");
            let before = plain(&path, journal_mode);
            let mut original = fs::File::open(&path).unwrap();
            // What an attempt that was cut off left behind does not matter.
            fs::write(folder.path().join("notes.db.zvon-encrypting"), b"half a copy").unwrap();
            let replica = Replica::init_encrypted(&path, &key()).unwrap();
            assert_eq!(content(&replica.connection()), before, "{journal_mode}");
            drop(replica);
            assert!(!holds(&path, "planted words"));
            let mut bytes = Vec::new();
            original.read_to_end(&mut bytes).unwrap();
            assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0), "the old content is overwritten");
            let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["notes.db"], "{journal_mode}");
            // Again: no change.
            assert_eq!(content(&Replica::init_encrypted(&path, &key()).unwrap().connection()), before);
        }
    }

    #[test]
    fn another_program_that_has_the_file_open_loses_no_write_in_silence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        let before = plain(&path, "wal");
        // In this mode an open connection is noticed.
        let other = Connection::open(&path).unwrap();
        other.query_row("SELECT count(*) FROM note", [], |_| Ok(())).unwrap();
        let error = Replica::init_encrypted(&path, &key()).unwrap_err();
        assert!(error.kind() == ErrorKind::Busy && error.to_string().contains("close them"), "{error}");
        assert_eq!(content(&other), before);
        // In the other mode it is not while it rests; it fails at its next write.
        other.query_row("PRAGMA journal_mode = delete", [], |_| Ok(())).unwrap();
        other.query_row("SELECT count(*) FROM note", [], |_| Ok(())).unwrap();
        let replica = Replica::init_encrypted(&path, &key()).unwrap();
        assert!(other.execute("INSERT INTO note VALUES ('lost', '?')", []).is_err());
        assert_eq!(table(&replica, "note").len(), 2);
        // One that is in the middle of a transaction is waited for, and then told.
        let path = folder.path().join("busy.db");
        plain(&path, "delete");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(Replica::init_encrypted(&path, &key()).unwrap_err().kind(), ErrorKind::Busy);
        writer.execute_batch("INSERT INTO note VALUES ('c', 'kept'); COMMIT").unwrap();
        assert!(holds(&path, "kept"));
    }

    #[test]
    fn a_key_for_a_plain_replica_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        Replica::init(&path).unwrap();
        let error = Replica::open_encrypted(&path, &key()).unwrap_err();
        assert!(error.to_string().contains("is not encrypted") && error.to_string().contains("zvon init"), "{error}");
    }

    /// Runs the stock shell; nothing where there is none. In a release's run there has to be one.
    fn shell(path: &Path, sql: &str) -> Option<String> {
        let shell = Command::new("sqlcipher").arg(path).arg(sql).stderr(Stdio::inherit()).output();
        match shell {
            Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
            Err(error) if std::env::var_os("CI").is_none() => {
                println!("SKIPPED: the sqlcipher shell is missing ({error})");
                None
            }
            Err(error) => panic!("the sqlcipher shell is missing: {error}"),
        }
    }

    const KEY_SQL: &str = "PRAGMA key = 'correct horse ''battery'' staple';";

    #[tokio::test]
    async fn the_stock_shell_and_zvon_share_a_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        // Made by the shell, in the form of its version, which is 3 in Debian 12.
        let made = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT); INSERT INTO note VALUES ('a', 'planted words')";
        if shell(&path, &format!("{KEY_SQL} {made}")).is_none() {
            return;
        }
        let (a, remote) = (Replica::init_encrypted(&path, &key()).unwrap(), fresh_remote());
        a.track_all(&keyed()).await.unwrap();
        let b = replica("CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)").await;
        converge(&[&a, &b], &remote).await;
        run(&b, "INSERT INTO note VALUES ('b', 'from afar')");
        converge(&[&a, &b], &remote).await;
        drop(a);
        assert!(!holds(&path, "planted words"));
        let read = shell(&path, &format!("{KEY_SQL} SELECT body FROM note ORDER BY id")).unwrap();
        assert!(read.ends_with("planted words\nfrom afar\n"), "{read}");
        // What the shell writes is captured like any other write.
        shell(&path, &format!("{KEY_SQL} INSERT INTO note VALUES ('c', 'by the shell')")).unwrap();
        let a = Replica::open_encrypted(&path, &key()).unwrap();
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&b, "note").len(), 3);
        assert_verified(&a, &remote).await;
    }

    #[test]
    fn another_build_of_sqlcipher_4_opens_what_zvon_makes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        plain(&path, "delete");
        Replica::init_encrypted(&path, &key()).unwrap();
        let script = "import sys, sqlcipher3\n\
                      db = sqlcipher3.connect(sys.argv[1])\n\
                      db.execute(sys.argv[2])\n\
                      db.execute(\"INSERT INTO note VALUES ('c', 'from Python')\")\n\
                      db.commit()\n\
                      print([row[0] for row in db.execute('SELECT body FROM note ORDER BY id')])";
        let Some(mut python) = python("sqlcipher3") else { return };
        let output = python.args(["-c", script]).arg(&path).arg(KEY_SQL).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{err}");
        assert_eq!(out, "['planted words', 'more of them', 'from Python']\n");
        assert_eq!(table(&Replica::open_encrypted(&path, &key()).unwrap(), "note").len(), 3);
    }

    /// The command line, with nothing from the environment that could steer it.
    fn zvon(folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zvon"));
        command.current_dir(folder).args(args);
        for variable in ["ZVON_DB", "ZVON_REMOTE", "ZVON_DB_KEY_FILE"] {
            command.env_remove(variable);
        }
        command
    }

    #[test]
    fn the_command_line_takes_the_key_from_a_file_the_environment_or_a_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let run = |mut command: Command| {
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        };
        let status = ["--db", "notes.db", "status"];
        fs::write(folder.path().join("key"), "planted key\n").unwrap();
        plain(&folder.path().join("notes.db"), "delete");
        let (code, told) = run(zvon(folder.path(), &["init", "notes.db", "--db-key-file", "key"]));
        assert_eq!(code, Some(0), "{told}");
        assert!(!holds(&folder.path().join("notes.db"), "planted words"));
        let (code, told) = run(zvon(folder.path(), &[&status[..], &["--db-key-file", "key"]].concat()));
        assert_eq!(code, Some(0), "{told}");
        let mut command = zvon(folder.path(), &status);
        command.env("ZVON_DB_KEY_FILE", "key");
        let (code, told) = run(command);
        assert_eq!(code, Some(0), "{told}");
        // Nobody is there to be asked.
        let (code, told) = run(zvon(folder.path(), &status));
        assert!(code == Some(1) && told.contains("--db-key-file"), "{told}");
        for (answer, code, words) in [
            ("planted key\n", 0, "notes.db"),
            ("planted but wrong\n", 1, "the key does not open"),
            (CTRL_C, 130, "interrupted"),
        ] {
            let answers = [hidden("The key of notes.db: ", answer)];
            let Some((shown, ended)) = converse(&zvon(folder.path(), &status), &answers) else { return };
            assert!(ended == code && shown.contains(words) && !shown.contains("planted"), "{ended}: {shown}");
        }
    }
}
