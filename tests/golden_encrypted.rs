//! Golden files of encrypted remotes, one for an age key and one for a passphrase: what they were written as, they stay. Read by
//! this program, by a reader written from `docs/format.md` alone, and, as far as the keys go, by the stock `age` tool.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use zvon::{Layout, Lock, Remote, Replica, Secret, Settings, SyncOptions};

const TABLES: &str = "CREATE TABLE patient (id TEXT PRIMARY KEY, diagnosis TEXT, photo BLOB)";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

/// A golden remote, copied: a sync may write, and golden files are never written again.
struct Golden {
    folder: tempfile::TempDir,
    secret: Secret,
    secret_file: PathBuf,
    expected: serde_json::Value,
}

impl Golden {
    fn open(name: &str) -> Self {
        let (folder, golden) = (tempfile::tempdir().unwrap(), golden(name));
        copy(&golden.join("remote"), folder.path());
        let secret_file = golden.join("secret");
        let text = fs::read_to_string(&secret_file).unwrap();
        let secret = Secret::from_key_file(&text).unwrap_or_else(|_| Secret::passphrase(text.trim()).unwrap());
        let expected = serde_json::from_str(&fs::read_to_string(golden.join("expected.json")).unwrap()).unwrap();
        Self { folder, secret, secret_file, expected }
    }

    fn remote(&self) -> Remote {
        remote(self.folder.path().to_str().unwrap()).with_secret(self.secret.clone())
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

/// The rows of a replica as the reader prints them.
fn as_json(replica: &Replica) -> serde_json::Value {
    let conn = replica.connection();
    let sql = "SELECT json_object('patient', json_group_object(id, json_object('diagnosis', diagnosis, 'photo',
               CASE WHEN photo IS NULL THEN NULL ELSE json_object('blob', lower(hex(photo))) END))) FROM patient";
    serde_json::from_str(&conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()).unwrap()
}

#[tokio::test]
async fn golden_remotes_are_read_as_they_were_written() {
    for name in ["v1-encrypted", "v1-encrypted-passphrase"] {
        write_where_asked(name).await;
        let golden = Golden::open(name);
        let path = golden.folder.path().join("clone.db");
        let (replica, report) = Replica::clone_from(&golden.remote(), path, Settings::default(), None).await.unwrap();
        assert_eq!((report.rejected, as_json(&replica)), (0, golden.expected.clone()), "{name}");
        assert_verified(&replica, &golden.remote()).await;
        let epochs = replica.keys(&golden.remote()).await.unwrap().epochs;
        assert_eq!(epochs.len(), 2);
    }
}

/// With `ZVON_WRITE_GOLDEN` set, a remote that is not there is written. One that is there is never written again.
async fn write_where_asked(name: &str) {
    let golden = golden(name);
    if std::env::var_os("ZVON_WRITE_GOLDEN").is_none() || golden.exists() {
        return;
    }
    fs::create_dir_all(golden.join("remote")).unwrap();
    let secret = match name.ends_with("passphrase") {
        true => Secret::passphrase("correct horse battery staple").unwrap(),
        false => Secret::generate(),
    };
    let lock = match secret.has_passphrase() {
        true => Lock::Passphrase(secret.clone()),
        false => Lock::Recipients(secret.recipients()),
    };
    let text =
        if secret.has_passphrase() { "correct horse battery staple\n".to_owned().into() } else { secret.to_key_file() };
    fs::write(golden.join("secret"), text.as_bytes()).unwrap();
    let remote = remote(golden.join("remote").to_str().unwrap()).with_secret(secret);
    let a = replica(TABLES).await;
    a.encrypt_remote(&remote, &lock).await.unwrap();
    let mut options = SyncOptions::default();
    options.layout = Some(Layout::Packs);
    run(&a, "INSERT INTO patient VALUES ('emil', 'measles', x'c0ffee'), ('erna', 'mumps', NULL)");
    a.sync(&remote, &options).await.unwrap();
    a.rotate_keys(&remote, None).await.unwrap();
    run(&a, "UPDATE patient SET diagnosis = 'well' WHERE id = 'emil'; DELETE FROM patient WHERE id = 'erna'");
    sync(&a, &remote).await;
    run(
        &a,
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20)
         INSERT INTO patient SELECT 'p' || i, 'cold', zeroblob(i) FROM n",
    );
    run(&a, "INSERT INTO patient VALUES ('large', 'x', randomblob(70000))");
    sync(&a, &remote).await;
    let expected = serde_json::to_string_pretty(&as_json(&a)).unwrap();
    fs::write(golden.join("expected.json"), expected + "\n").unwrap();
}

#[test]
fn a_reader_written_from_the_documentation_reads_them() {
    for name in ["v1-encrypted", "v1-encrypted-passphrase"] {
        let golden = Golden::open(name);
        let Some(mut python) = python("pyrage, cryptography, zstandard") else { return };
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zvon_reader.py");
        let output = python.arg(reader).arg(golden.folder.path()).arg(&golden.secret_file).output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
        let tables: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(tables, golden.expected, "{name}");
    }
}

/// Whether the stock age tool is here. In a release's run it has to be.
fn has_age() -> bool {
    let is_here = Command::new("age").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(is_here || std::env::var_os("CI").is_none(), "the age tool is missing, and a test needs it");
    if !is_here {
        println!("SKIPPED: the age tool is missing");
    }
    is_here
}

#[test]
fn the_stock_age_tool_opens_the_key_files() {
    if !has_age() {
        return;
    }
    let golden = Golden::open("v1-encrypted");
    for file in fs::read_dir(golden.folder.path().join("keys")).unwrap() {
        let file = file.unwrap().path();
        let output = Command::new("age").arg("-d").arg("-i").arg(&golden.secret_file).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let epoch = file.file_stem().unwrap().to_str().unwrap();
        for text in ["identity", "epochs", epoch] {
            assert!(output.stdout.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
        }
    }
}

/// Reads a passphrase from a terminal alone, which Python has to give.
#[test]
fn the_stock_age_tool_opens_key_files_with_a_passphrase() {
    let (true, Some(mut python)) = (has_age(), python("pty")) else { return };
    let golden = Golden::open("v1-encrypted-passphrase");
    let script = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execvp("age", ["age", "-d", "-o", sys.argv[2], sys.argv[1]])
shown, answered = b"", False
while True:
    try: part = os.read(terminal, 4096)
    except OSError: break
    if not part: break
    shown += part
    if b"passphrase" in shown and not answered:
        os.write(terminal, sys.argv[3].encode() + b"\n")
        answered = True
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let plain = golden.folder.path().join("plain");
    let file = fs::read_dir(golden.folder.path().join("keys")).unwrap().next().unwrap().unwrap().path();
    let status =
        python.args(["-c", script]).arg(file).arg(&plain).arg("correct horse battery staple").status().unwrap();
    assert!(status.success());
    assert!(fs::read(plain).unwrap().windows(6).any(|part| part == b"epochs"));
}

#[tokio::test]
async fn keys_made_by_age_keygen_open_remotes_and_ours_are_read_by_it() {
    if !has_age() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("theirs.key");
    assert!(Command::new("age-keygen").arg("-o").arg(&theirs).output().unwrap().status.success());
    let secret = Secret::from_key_file(&fs::read_to_string(&theirs).unwrap()).unwrap();
    let (a, shared) = (replica(TABLES).await, fresh_remote().with_secret(secret.clone()));
    a.encrypt_remote(&shared, &Lock::Recipients(secret.recipients())).await.unwrap();
    run(&a, "INSERT INTO patient VALUES ('emil', 'measles', NULL)");
    assert_eq!(sync(&a, &shared).await.pushed, 1);
    let ours = folder.path().join("ours.key");
    let secret = Secret::generate();
    fs::write(&ours, secret.to_key_file().as_bytes()).unwrap();
    let read = Command::new("age-keygen").arg("-y").arg(&ours).output().unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap().trim(), secret.recipients()[0].to_string());
}
