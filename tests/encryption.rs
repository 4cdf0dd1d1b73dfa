//! Encrypted remotes: what lies there says nothing, whoever has the key syncs as ever, and everybody and everything else is
//! refused before anything is merged or uploaded.

mod common;

use std::fs;
use std::path::PathBuf;

use common::shared_folder::*;
use common::*;
use zvon::{CompactOptions, ErrorKind, Layout, Lock, Recipient, Remote, Replica, Secret, Settings, SyncOptions};

const TABLES: &str = "CREATE TABLE patient (id TEXT PRIMARY KEY, diagnosis TEXT, photo BLOB)";

/// An encrypted remote in a folder, and the key of its first member.
struct Encrypted {
    folder: SharedFolder,
    key: Secret,
}

impl Encrypted {
    /// A remote for one key, and a replica with two rows that has synced with it.
    async fn with_rows() -> (Self, Replica) {
        let (folder, key) = (SharedFolder::new(), Secret::generate());
        let a = replica(TABLES).await;
        run(&a, "INSERT INTO patient VALUES ('emil', 'measles', x'00'), ('erna', 'mumps', zeroblob(200000))");
        a.encrypt_remote(&folder.remote(), &Lock::Recipients(key.recipients())).await.unwrap();
        let encrypted = Self { folder, key };
        sync(&a, &encrypted.remote()).await;
        (encrypted, a)
    }

    fn remote(&self) -> Remote {
        self.with(&self.key)
    }

    fn with(&self, secret: &Secret) -> Remote {
        self.folder.remote().with_secret(secret.clone())
    }

    /// Every object, with its name below the base path.
    fn objects(&self) -> Vec<(String, PathBuf)> {
        let mut objects = Vec::new();
        for folder in ["changes", "identity", "keys", "layout", "packs", "schemas"] {
            for file in self.folder.files(folder) {
                objects.push((format!("{folder}/{}", file.file_name().unwrap().to_str().unwrap()), file));
            }
        }
        objects
    }

    /// What lies there, byte by byte.
    fn bytes(&self) -> Vec<(String, Vec<u8>)> {
        self.objects().into_iter().map(|(name, path)| (name, fs::read(path).unwrap())).collect()
    }

    /// Syncs, and makes sure that a refusal says what to do, and that nothing was merged or uploaded.
    async fn refuses(&self, replica: &Replica, remote: &Remote, kind: ErrorKind, words: &[&str]) {
        let (there, rows) = (self.bytes(), table(replica, "patient"));
        let error = replica.sync(remote, &SyncOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word:?} is not said: {error}");
        }
        assert_eq!(self.bytes(), there);
        assert_eq!(table(replica, "patient"), rows);
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

#[tokio::test]
async fn nothing_of_what_is_written_can_be_read_on_the_remote() {
    let (remote, a) = Encrypted::with_rows().await;
    let author = a.database_uuid().unwrap();
    for (name, bytes) in remote.bytes() {
        for text in ["patient", "diagnosis", "emil", "measles", "erna", "mumps", "zv_deleted", "packs", &author] {
            assert!(!contains(&bytes, text), "{text} stands in {name}");
        }
        match name.split('/').next().unwrap() {
            "identity" => assert!(contains(&bytes, "encryption"), "{name}"),
            "keys" => assert!(bytes.starts_with(b"age-encryption.org/v1\n"), "{name}"),
            _ => assert!(bytes.starts_with(b"ZVS\x01"), "{name}"),
        }
    }
    // Not even a guess of a table's definition can be checked against the name of its object.
    let hash: Vec<u8> = a.connection().query_row("SELECT hash FROM ZV_DEFINITION", [], |row| row.get(0)).unwrap();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!remote.folder.path(&format!("schemas/{hash}.msgpack")).exists());
    assert_verified(&a, &remote.remote()).await;
}

#[tokio::test]
async fn replicas_sync_clone_and_verify_as_ever() {
    let (remote, a) = Encrypted::with_rows().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.db");
    let (b, report) = Replica::clone_from(&remote.remote(), path, Settings::default(), None).await.unwrap();
    assert_eq!((report.pulled, table(&b, "patient")), (2, table(&a, "patient")));
    run(&b, "UPDATE patient SET diagnosis = 'well' WHERE id = 'emil'");
    converge(&[&a, &b], &remote.remote()).await;
    assert_eq!(table(&a, "patient"), table(&b, "patient"));
    for replica in [&a, &b] {
        assert_verified(replica, &remote.remote()).await;
        assert!(replica.status().await.unwrap().remotes[0].encrypted);
        let idle = sync(replica, &remote.remote()).await;
        assert_eq!(
            (idle.requests.list, idle.requests.get, idle.requests.put),
            (1, 0, 0),
            "an idle sync lists and no more"
        );
    }
}

#[tokio::test]
async fn the_layout_files_and_full_syncs_work_there_too() {
    let (remote, a) = Encrypted::with_rows().await;
    let mut options = SyncOptions::default();
    options.layout = Some(Layout::Files);
    a.sync(&remote.remote(), &options).await.unwrap();
    let spoilt = remote.folder.changes().remove(0);
    fs::write(&spoilt, b"spoilt").unwrap();
    let mut options = SyncOptions::default();
    options.full = true;
    let report = a.sync(&remote.remote(), &options).await.unwrap();
    assert_eq!(report.healed, 1);
    assert_verified(&a, &remote.remote()).await;
}

#[tokio::test]
async fn without_the_key_nothing_happens() {
    let (remote, a) = Encrypted::with_rows().await;
    run(&a, "INSERT INTO patient VALUES ('new', 'gout', NULL)");
    let plain = remote.folder.remote();
    remote.refuses(&a, &plain, ErrorKind::Key, &["encrypted for age keys", "--key-file"]).await;
    let wrong = remote.with(&Secret::generate());
    remote.refuses(&a, &wrong, ErrorKind::Key, &["not encrypted for this key", "zvon key add"]).await;
    let passphrase = remote.with(&Secret::passphrase("x").unwrap());
    remote.refuses(&a, &passphrase, ErrorKind::Key, &["encrypted for age keys", "--key-file"]).await;
    // Nor for who has never been there: no file is made of a clone.
    let path = tempfile::tempdir().unwrap().path().join("clone.db");
    for remote in [&plain, &wrong] {
        let error = Replica::clone_from(remote, &path, Settings::default(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(!path.exists());
    }
    let b = replica(TABLES).await;
    run(&b, "INSERT INTO patient VALUES ('other', 'colic', NULL)");
    remote.refuses(&b, &plain, ErrorKind::Key, &["--key-file"]).await;
    remote.refuses(&b, &wrong, ErrorKind::Key, &["zvon key add"]).await;
    assert_eq!(a.verify_remote(&plain).await.unwrap_err().kind(), ErrorKind::Key);
}

#[tokio::test]
async fn a_passphrase_opens_a_remote_and_a_wrong_one_does_not() {
    let (folder, a) = (SharedFolder::new(), replica(TABLES).await);
    let right = Secret::passphrase("battery staple").unwrap();
    let report = a.encrypt_remote(&folder.remote(), &Lock::Passphrase(right.clone())).await.unwrap();
    assert_eq!((report.recipients.len(), report.epochs.len()), (0, 1));
    let remote = Encrypted { folder, key: right };
    run(&a, "INSERT INTO patient VALUES ('emil', 'measles', NULL)");
    remote.refuses(&a, &remote.folder.remote(), ErrorKind::Locked, &["--passphrase-file", "ZVON_PASSPHRASE"]).await;
    let wrong = remote.with(&Secret::passphrase("battery").unwrap());
    remote.refuses(&a, &wrong, ErrorKind::Key, &["the passphrase does not open", "check it"]).await;
    assert_eq!(sync(&a, &remote.remote()).await.pushed, 1);
    // Another passphrase: the old one is told so, and the new one reads what was written under the old.
    let new = Secret::passphrase("new and better").unwrap();
    a.rotate_keys(&remote.remote(), Some(&Lock::Passphrase(new.clone()))).await.unwrap();
    remote.refuses(&a, &remote.remote(), ErrorKind::Key, &["it was changed", "give the new one"]).await;
    let b = replica(TABLES).await;
    assert_eq!(sync(&b, &remote.with(&new)).await.pulled, 1);
    assert_verified(&b, &remote.with(&new)).await;
}

#[tokio::test]
async fn a_plain_remote_is_refused_where_an_encrypted_one_is_expected_and_the_other_way_round() {
    let (folder, a) = (SharedFolder::new(), replica(TABLES).await);
    run(&a, "INSERT INTO patient VALUES ('emil', 'measles', NULL)");
    let (plain, key) = (folder.remote(), Secret::generate());
    let remote = Encrypted { folder, key };
    // Empty: a key alone does not make it encrypted.
    remote.refuses(&a, &remote.remote(), ErrorKind::Key, &["the remote is empty", "--encrypt"]).await;
    sync(&a, &plain).await;
    let lock = Lock::Recipients(remote.key.recipients());
    let error = a.encrypt_remote(&plain, &lock).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Key && error.to_string().contains("choose an empty one"), "{error}");
    let b = replica(TABLES).await;
    for replica in [&a, &b] {
        remote.refuses(replica, &remote.remote(), ErrorKind::Key, &["is not encrypted", "sync without the key"]).await;
    }
    // The folder's contents are exchanged for those of an encrypted remote, and back.
    let (other, c) = Encrypted::with_rows().await;
    let (ours, theirs) = (remote.folder.copy(), other.folder.copy());
    replace(&remote.folder, &theirs);
    remote.refuses(&a, &plain, ErrorKind::Key, &["is known as one that is not encrypted", "check the URL"]).await;
    replace(&other.folder, &ours);
    other.refuses(&c, &other.remote(), ErrorKind::Key, &["is known as an encrypted one", "check the URL"]).await;
    other.refuses(&c, &other.folder.remote(), ErrorKind::Key, &["is known as an encrypted one"]).await;
}

fn replace(folder: &SharedFolder, by: &SharedFolder) {
    folder.empty();
    for kind in fs::read_dir(by.root()).unwrap() {
        let kind = kind.unwrap().file_name().into_string().unwrap();
        for file in by.files(&kind) {
            folder.write(&format!("{kind}/{}", file.file_name().unwrap().to_str().unwrap()), fs::read(file).unwrap());
        }
    }
}

#[tokio::test]
async fn a_plain_object_among_sealed_ones_is_refused_and_a_plain_identity_stops_everything() {
    let (remote, a) = Encrypted::with_rows().await;
    let forged = note_change(&old_id(1), "forged", &serde_json::json!({"body": "x"}));
    remote.folder.write(&file_name(&old_id(1)), msgpack(&forged));
    let report = sync(&a, &remote.remote()).await;
    assert_eq!((report.pulled, report.newly_rejected.len()), (0, 1));
    assert!(report.newly_rejected[0].reason.contains("it is not sealed"), "{:?}", report.newly_rejected);
    let identity = "019b76da-b000-7000-8000-000000000001";
    let plain = serde_json::json!({"format": 1, "identity": identity, "requires": []});
    remote.folder.write(&format!("identity/{identity}"), msgpack(&plain));
    remote.refuses(&a, &remote.remote(), ErrorKind::Key, &["another that it is not", "choose another remote"]).await;
}

#[tokio::test]
async fn the_name_of_another_remote_is_refused() {
    let (remote, a) = Encrypted::with_rows().await;
    let (other, b) = Encrypted::with_rows().await;
    let theirs = other.folder.files("identity").remove(0);
    let name = format!("identity/{}", theirs.file_name().unwrap().to_str().unwrap());
    remote.folder.write(&name, fs::read(&theirs).unwrap());
    for replica in [&a, &b] {
        remote.refuses(replica, &remote.remote(), ErrorKind::Key, &["is not the remote's own", "remove it"]).await;
    }
}

#[tokio::test]
async fn tampered_renamed_swapped_truncated_and_foreign_objects_are_refused() {
    let (remote, a) = Encrypted::with_rows().await;
    let files = remote.folder.changes();
    let (one, two) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    let (other, _) = Encrypted::with_rows().await;
    let foreign = fs::read(&other.folder.changes()[0]).unwrap();
    let (_, schema) = remote.objects().into_iter().find(|(name, _)| name.starts_with("schemas/")).unwrap();
    let mut flipped = one.clone();
    *flipped.last_mut().unwrap() ^= 1;
    type Spoilt = Vec<(PathBuf, Vec<u8>)>;
    let cases: [(&str, Spoilt, usize, &str); 6] = [
        ("tampered", vec![(files[0].clone(), flipped)], 1, "its seal is broken"),
        ("truncated", vec![(files[1].clone(), two[..two.len() - 1].to_vec())], 1, "its seal is broken"),
        ("swapped", vec![(files[0].clone(), two.clone()), (files[1].clone(), one.clone())], 2, "its seal is broken"),
        ("renamed", vec![(remote.folder.path(&file_name(&old_id(7))), one.clone())], 1, "its seal is broken"),
        ("foreign", vec![(files[0].clone(), foreign)], 1, "which is not here"),
        ("another kind", vec![(files[0].clone(), fs::read(schema).unwrap())], 1, "its seal is broken"),
    ];
    for (what, spoilt, refused, words) in cases {
        let copy = Encrypted { folder: remote.folder.copy(), key: remote.key.clone() };
        for (path, bytes) in spoilt {
            let name = path.strip_prefix(remote.folder.root()).unwrap();
            copy.folder.write(name.to_str().unwrap(), bytes);
        }
        let b = replica(TABLES).await;
        let report = sync(&b, &copy.remote()).await;
        assert_eq!(report.newly_rejected.len(), refused, "{what}: {report:?}");
        assert!(report.newly_rejected.iter().all(|file| file.reason.contains(words)), "{what}: {report:?}");
        let rows = table(&b, "patient");
        assert!(rows.iter().all(|row| table(&a, "patient").contains(row)), "{what}: {rows:?}");
    }
}

#[tokio::test]
async fn keys_that_are_tampered_with_or_planted_stop_everything() {
    let (remote, a) = Encrypted::with_rows().await;
    let file = remote.folder.files("keys").remove(0);
    let whole = fs::read(&file).unwrap();
    let b = replica(TABLES).await;
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    remote.refuses(&b, &remote.remote(), ErrorKind::Remote, &["no whole key file", "sync again"]).await;
    // Who has synced before has the keys, and needs no other.
    assert_eq!(sync(&a, &remote.remote()).await.pulled, 0);
    fs::write(&file, &whole).unwrap();
    // Keys made for the same recipient, by somebody who knows none of ours.
    let (other, _) = Encrypted::with_rows().await;
    let lock = Lock::Recipients([remote.key.recipients(), other.key.recipients()].concat());
    let c = replica(TABLES).await;
    c.rotate_keys(&other.remote(), Some(&lock)).await.unwrap();
    let planted = other.folder.files("keys").pop().unwrap();
    let name = format!("keys/{}", planted.file_name().unwrap().to_str().unwrap());
    remote.folder.write(&name, fs::read(planted).unwrap());
    for replica in [&a, &b] {
        remote.refuses(replica, &remote.remote(), ErrorKind::Key, &["was made without", "remove it"]).await;
    }
}

#[tokio::test]
async fn an_emptied_remote_gets_back_its_keys_and_everything() {
    let (remote, a) = Encrypted::with_rows().await;
    a.rotate_keys(&remote.remote(), None).await.unwrap();
    run(&a, "INSERT INTO patient VALUES ('new', 'gout', NULL)");
    sync(&a, &remote.remote()).await;
    remote.folder.empty();
    remote.refuses(&a, &remote.folder.remote(), ErrorKind::Key, &["--key-file"]).await;
    let report = sync(&a, &remote.remote()).await;
    assert_eq!(report.pushed, 3);
    for (name, bytes) in remote.bytes() {
        assert!(!contains(&bytes, "gout") && !contains(&bytes, "patient"), "{name}");
    }
    let b = replica(TABLES).await;
    assert_eq!(sync(&b, &remote.remote()).await.pulled, 3);
    assert_verified(&b, &remote.remote()).await;
}

/// As while a sync tool brings a folder: whoever has no keys yet waits for them.
#[tokio::test]
async fn a_remote_whose_keys_have_not_arrived_says_so() {
    let (encrypted, a) = Encrypted::with_rows().await;
    let keys: Vec<(PathBuf, Vec<u8>)> =
        encrypted.folder.files("keys").into_iter().map(|file| (file.clone(), fs::read(&file).unwrap())).collect();
    keys.iter().for_each(|(file, _)| fs::remove_file(file).unwrap());
    let b = replica(TABLES).await;
    encrypted.refuses(&b, &encrypted.remote(), ErrorKind::Remote, &["its key files are not there"]).await;
    sync(&a, &encrypted.remote()).await;
    assert_eq!(sync(&b, &encrypted.remote()).await.pulled, 2);
    for (file, bytes) in keys {
        assert_eq!(fs::read(file).unwrap(), bytes);
    }
}

/// As while a sync tool brings a folder in no order: what says that it is encrypted may come last.
#[tokio::test]
async fn a_folder_of_which_only_sealed_files_have_arrived_is_not_taken_for_a_plain_one() {
    let (whole, _a) = Encrypted::with_rows().await;
    for first in [&["changes"][..], &["schemas"], &["layout"], &["changes", "schemas", "layout"]] {
        let part = Encrypted { folder: SharedFolder::new(), key: whole.key.clone() };
        for (name, bytes) in whole.bytes().iter().filter(|(name, _)| first.iter().any(|f| name.starts_with(f))) {
            part.folder.write(name, bytes);
        }
        let (stranger, member) = (replica(TABLES).await, replica(TABLES).await);
        run(&stranger, "INSERT INTO patient VALUES ('mine', 'gout', NULL)");
        part.refuses(&stranger, &part.folder.remote(), ErrorKind::Remote, &["its key files are not there"]).await;
        part.refuses(&member, &part.remote(), ErrorKind::Remote, &["its key files are not there"]).await;
        for (name, bytes) in whole.bytes() {
            part.folder.write(&name, bytes);
        }
        assert_eq!(sync(&member, &part.remote()).await.pulled, 2);
        part.refuses(&stranger, &part.folder.remote(), ErrorKind::Key, &["--key-file"]).await;
    }
}

#[tokio::test]
async fn keys_that_were_rolled_back_are_put_back_and_never_written_under_again() {
    let (remote, a) = Encrypted::with_rows().await;
    let before = remote.folder.copy();
    a.rotate_keys(&remote.remote(), None).await.unwrap();
    let newest = remote.folder.files("keys").pop().unwrap();
    let epoch = *uuid::Uuid::parse_str(newest.file_stem().unwrap().to_str().unwrap()).unwrap().as_bytes();
    replace(&remote.folder, &before);
    assert_eq!(remote.folder.files("keys").len(), 1);
    run(&a, "INSERT INTO patient VALUES ('new', 'gout', NULL)");
    sync(&a, &remote.remote()).await;
    assert!(newest.exists());
    let written: Vec<_> = remote
        .folder
        .changes()
        .into_iter()
        .filter(|file| !before.changes().iter().any(|old| old.file_name() == file.file_name()))
        .collect();
    assert_eq!(written.len(), 1);
    assert_eq!(fs::read(&written[0]).unwrap()[4..20], epoch);
}

#[tokio::test]
async fn what_arrives_before_its_key_is_read_once_that_is_there() {
    let (remote, a) = Encrypted::with_rows().await;
    let b = replica(TABLES).await;
    sync(&b, &remote.remote()).await;
    a.rotate_keys(&remote.remote(), None).await.unwrap();
    run(&a, "INSERT INTO patient VALUES ('new', 'gout', NULL)");
    sync(&a, &remote.remote()).await;
    let newest = remote.folder.files("keys").pop().unwrap();
    let late = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    let early = sync(&b, &remote.remote()).await;
    let refused: Vec<&str> = early.newly_rejected.iter().filter_map(|file| file.name.split('/').next()).collect();
    assert_eq!((early.pulled, refused), (0, vec!["schemas", "changes"]));
    assert!(early.newly_rejected.iter().all(|file| file.reason.contains("sync again once keys/")), "{early:?}");
    fs::write(&newest, late).unwrap();
    let report = sync(&b, &remote.remote()).await;
    assert_eq!((report.pulled, report.rejected), (1, 0));
    assert_eq!(table(&b, "patient"), table(&a, "patient"));
}

#[tokio::test]
async fn members_come_and_go() {
    let (remote, a) = Encrypted::with_rows().await;
    let (bob, b) = (Secret::generate(), replica(TABLES).await);
    remote.refuses(&b, &remote.with(&bob), ErrorKind::Key, &["zvon key add"]).await;
    let bobs: Recipient = bob.recipients().remove(0);
    assert_eq!(a.add_recipient(&remote.remote(), &bobs).await.unwrap().recipients.len(), 2);
    assert_eq!(sync(&b, &remote.with(&bob)).await.pulled, 2, "all that was written before is his to read");
    let again = a.add_recipient(&remote.remote(), &bobs).await.unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
    let alice = remote.key.recipients().remove(0);
    let own = a.remove_recipient(&remote.remote(), &alice).await.unwrap_err();
    assert!(own.kind() == ErrorKind::Usage && own.to_string().contains("your own key"), "{own}");
    // Bob goes: what is written from now on is not for him, and he is told.
    let report = a.remove_recipient(&remote.remote(), &bobs).await.unwrap();
    assert_eq!(report.recipients, [alice.to_string()]);
    assert_eq!(report.epochs.iter().filter(|epoch| epoch.current).count(), 1);
    run(&a, "INSERT INTO patient VALUES ('new', 'gout', NULL)");
    sync(&a, &remote.remote()).await;
    run(&b, "INSERT INTO patient VALUES ('bobs', 'itch', NULL)");
    remote.refuses(&b, &remote.with(&bob), ErrorKind::Key, &["it was removed", "zvon key add"]).await;
    let c = replica(TABLES).await;
    remote.refuses(&c, &remote.with(&bob), ErrorKind::Key, &["it was removed"]).await;
    assert_eq!(sync(&c, &remote.remote()).await.pulled, 3);
    let last = a.remove_recipient(&remote.remote(), &alice).await.unwrap_err();
    assert!(last.to_string().contains("the only one"), "{last}");
}

#[tokio::test]
async fn keys_change_while_others_sync() {
    let (remote, a) = Encrypted::with_rows().await;
    let (b, c) = (replica(TABLES).await, replica(TABLES).await);
    let replicas = [&a, &b, &c];
    converge(&replicas, &remote.remote()).await;
    for round in 0..4 {
        let changes = async {
            a.rotate_keys(&remote.remote(), None).await.unwrap();
            let guest = Secret::generate().recipients().remove(0);
            b.add_recipient(&remote.remote(), &guest).await.unwrap();
            c.remove_recipient(&remote.remote(), &guest).await.map(|_| ()).unwrap();
        };
        let writes = async {
            for (n, replica) in replicas.iter().enumerate() {
                run(replica, &format!("INSERT INTO patient VALUES ('{round}-{n}', 'x', NULL)"));
                sync(replica, &remote.remote()).await;
            }
        };
        tokio::join!(changes, writes);
    }
    converge(&replicas, &remote.remote()).await;
    assert_eq!(table(&a, "patient").len(), 2 + 12);
    for replica in replicas {
        assert_eq!(table(replica, "patient"), table(&a, "patient"));
        assert_verified(replica, &remote.remote()).await;
    }
}

#[tokio::test]
async fn two_rotations_at_once_are_brought_together_by_the_next_who_writes() {
    let (remote, a) = Encrypted::with_rows().await;
    let b = replica(TABLES).await;
    sync(&b, &remote.remote()).await;
    let before = remote.folder.copy();
    a.rotate_keys(&remote.remote(), None).await.unwrap();
    let elsewhere = Encrypted { folder: before, key: remote.key.clone() };
    let far = replica(TABLES).await;
    far.rotate_keys(&elsewhere.remote(), None).await.unwrap();
    // A sync tool brings the two together.
    let theirs = elsewhere.folder.files("keys").pop().unwrap();
    remote.folder.write(&format!("keys/{}", theirs.file_name().unwrap().to_str().unwrap()), fs::read(&theirs).unwrap());
    run(&b, "INSERT INTO patient VALUES ('new', 'gout', NULL)");
    sync(&b, &remote.remote()).await;
    assert_eq!(remote.folder.files("keys").len(), 4, "the first, two at once, and one that covers them");
    sync(&a, &remote.remote()).await;
    assert_eq!(remote.folder.files("keys").len(), 4);
    assert_eq!(table(&a, "patient"), table(&b, "patient"));
}

#[tokio::test]
async fn encrypting_again_changes_nothing_and_wants_the_key() {
    let (remote, a) = Encrypted::with_rows().await;
    let there = remote.bytes();
    let lock = Lock::Recipients(remote.key.recipients());
    a.encrypt_remote(&remote.remote(), &lock).await.unwrap();
    let stranger = Secret::generate();
    let error = a.encrypt_remote(&remote.with(&stranger), &Lock::Recipients(stranger.recipients())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
    assert_eq!(remote.bytes(), there);
    assert_eq!(a.keys(&fresh_remote()).await.unwrap_err().kind(), ErrorKind::Key);
}

/// Writes enough rows that a push makes a pack of them, with values that do not compress.
fn insert_many(replica: &Replica, prefix: &str, rows: u32) {
    let sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
               INSERT INTO patient SELECT ?1 || i, 'measles', randomblob(600) FROM n";
    replica.connection().execute(sql, (prefix, rows)).unwrap();
}

fn compacting(replica: Replica) -> Replica {
    let mut settings = Settings::default();
    settings.compaction_grace = Some(std::time::Duration::ZERO);
    replica.with_settings(settings)
}

#[tokio::test]
async fn packs_are_sealed_whole_and_read_in_parts() {
    let (remote, a) = Encrypted::with_rows().await;
    insert_many(&a, "p", 5_000);
    sync(&a, &remote.remote()).await;
    let packs = remote.folder.files("packs");
    assert_eq!(packs.len(), 1);
    let bytes = fs::read(&packs[0]).unwrap();
    assert!(bytes.starts_with(b"ZVS\x01") && bytes.len() > 2 << 20);
    assert!(!contains(&bytes, "ZVPACK") && !contains(&bytes, "measles"));
    let b = replica(TABLES).await;
    assert_eq!(sync(&b, &remote.remote()).await.pulled, 5_002);
    assert_eq!(table(&b, "patient"), table(&a, "patient"));
    assert_verified(&b, &remote.remote()).await;
    // Who has most of a pack asks for its header first, and then for what is lacking.
    let c = replica(TABLES).await;
    let copy = Encrypted { folder: remote.folder.copy(), key: remote.key.clone() };
    sync(&c, &copy.remote()).await;
    run(&c, "INSERT INTO patient VALUES ('late', 'gout', NULL)");
    sync(&c, &copy.remote()).await;
    let d = compacting(replica(TABLES).await);
    sync(&d, &copy.remote()).await;
    d.compact(&copy.remote(), &CompactOptions::default()).await.unwrap();
    let idle = sync(&b, &copy.remote()).await;
    assert_eq!(idle.pulled, 1, "{idle:?}");
    assert_eq!(table(&b, "patient"), table(&d, "patient"));
}

#[tokio::test]
async fn a_pack_that_was_tampered_with_is_refused_whole() {
    let (remote, a) = Encrypted::with_rows().await;
    insert_many(&a, "p", 1_000);
    sync(&a, &remote.remote()).await;
    let pack = remote.folder.files("packs").remove(0);
    let whole = fs::read(&pack).unwrap();
    for at in [0, 3, 10, 30, 40, whole.len() / 2, whole.len() - 1] {
        let mut spoilt = whole.clone();
        spoilt[at] ^= 1;
        fs::write(&pack, &spoilt).unwrap();
        let b = replica(TABLES).await;
        let report = sync(&b, &remote.remote()).await;
        assert_eq!(report.newly_rejected.len(), 1, "byte {at}: {report:?}");
        let reason = &report.newly_rejected[0].reason;
        assert!(
            ["seal is broken", "not sealed", "newer version", "not here"].iter().any(|w| reason.contains(w)),
            "{reason}"
        );
    }
    for end in [20, 36, whole.len() / 2, whole.len() - 1] {
        fs::write(&pack, &whole[..end]).unwrap();
        let b = replica(TABLES).await;
        assert_eq!(sync(&b, &remote.remote()).await.newly_rejected.len(), 1, "cut at {end}");
    }
    fs::write(&pack, &whole).unwrap();
    let b = replica(TABLES).await;
    assert_eq!(sync(&b, &remote.remote()).await.pulled, 1_002);
}

#[tokio::test]
async fn compaction_moves_what_is_sealed_under_an_old_epoch_to_the_new_one() {
    let (remote, a) = Encrypted::with_rows().await;
    let a = compacting(a);
    insert_many(&a, "old", 2_000);
    sync(&a, &remote.remote()).await;
    let first = remote.folder.files("keys").remove(0);
    let old = *uuid::Uuid::parse_str(first.file_stem().unwrap().to_str().unwrap()).unwrap().as_bytes();
    a.rotate_keys(&remote.remote(), None).await.unwrap();
    insert_many(&a, "new", 10);
    sync(&a, &remote.remote()).await;
    // In one run they are written anew, in the next the old ones go.
    for _ in 0..2 {
        a.compact(&remote.remote(), &CompactOptions::default()).await.unwrap();
        sync(&a, &remote.remote()).await;
    }
    for (name, bytes) in remote.bytes() {
        let holds_data = name.starts_with("changes/") || name.starts_with("packs/");
        assert!(!holds_data || bytes[4..20] != old, "{name} is sealed under the old epoch");
    }
    assert_eq!(remote.folder.files("packs").len(), 1);
    assert!(remote.folder.changes().is_empty());
    let idle = a.compact(&remote.remote(), &CompactOptions::default()).await.unwrap();
    assert_eq!((idle.written_packs, idle.removed_packs), (0, 0), "what is moved stays");
    let b = replica(TABLES).await;
    assert_eq!(sync(&b, &remote.remote()).await.pulled, 2_012);
    assert_verified(&b, &remote.remote()).await;
    assert_verified(&a, &remote.remote()).await;
    // Without the key, nobody compacts either.
    let error = a.compact(&remote.folder.remote(), &CompactOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
}
