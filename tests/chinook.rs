//! A real database: Chinook, its foreign keys enforced, on two replicas that edit it at once.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use zvon::{Remote, Replica, Settings};

const TABLES: [(&str, usize); 11] = [
    ("Album", 347),
    ("Artist", 275),
    ("Customer", 59),
    ("Employee", 8),
    ("Genre", 25),
    ("Invoice", 412),
    ("InvoiceLine", 2240),
    ("MediaType", 5),
    ("Playlist", 18),
    ("PlaylistTrack", 8715),
    ("Track", 3503),
];
const ROWS: u64 = 15607;

/// A replica of Chinook in memory, every table tracked.
async fn chinook() -> Replica {
    let sql = std::fs::read_to_string("tests/data/chinook.sql").unwrap();
    let replica = replica(sql.trim_start_matches('\u{feff}')).await;
    run(&replica, "PRAGMA foreign_keys = ON");
    replica
}

async fn clone(remote: &Remote, path: &Path) -> Replica {
    let (replica, report) = Replica::clone_from(remote, path, Settings::default(), None).await.unwrap();
    assert_eq!((report.held, report.newly_rejected.len()), (0, 0));
    run(&replica, "PRAGMA foreign_keys = ON");
    replica
}

fn assert_sound(replica: &Replica) {
    assert_eq!(rows(&replica.connection(), "PRAGMA foreign_key_check"), [] as [&str; 0]);
    assert_eq!(rows(&replica.connection(), "PRAGMA integrity_check"), ["'ok'"]);
}

fn assert_alike(a: &Replica, b: &Replica) {
    for (name, _) in TABLES {
        assert!(table(a, name) == table(b, name), "{name} differs");
    }
}

const EDITS_OF_A: &str = "UPDATE Track SET UnitPrice = UnitPrice + 0.5 WHERE GenreId = 1;
    INSERT INTO Artist VALUES (1001, 'Bell Ringers');
    INSERT INTO Album VALUES (2001, 'Peal', 1001);
    INSERT INTO Track VALUES (9001, 'First Bell', 2001, 1, NULL, 'A. Ringer', 1000, 10, 0.99), (9002, 'Second Bell', 2001, 1, 2, NULL, 2000, 20, 1.99);
    INSERT INTO PlaylistTrack VALUES (1, 9001), (1, 9002);
    DELETE FROM PlaylistTrack WHERE PlaylistId = 3;
    UPDATE Employee SET ReportsTo = 6 WHERE EmployeeId IN (3, 4);
    UPDATE Employee SET ReportsTo = 1 WHERE ReportsTo = 2;
    UPDATE Customer SET Company = NULL, Email = 'new@example.org' WHERE CustomerId = 5;";
const EDITS_OF_B: &str = "UPDATE Track SET Name = Name || ' (live)' WHERE GenreId = 1;
    INSERT INTO Artist VALUES (1002, 'Žvonaři');
    INSERT INTO Album VALUES (2002, 'Zvony', 1002);
    INSERT INTO Track VALUES (9101, 'Zvon', 2002, 1, 2, NULL, 3000, 30, 0.99);
    INSERT INTO PlaylistTrack SELECT 2, TrackId FROM Track WHERE AlbumId = 2002;
    DELETE FROM PlaylistTrack WHERE PlaylistId = 3 AND TrackId % 2;
    DELETE FROM InvoiceLine WHERE InvoiceId = 7; DELETE FROM Invoice WHERE InvoiceId = 7;
    UPDATE Employee SET ReportsTo = 8 WHERE EmployeeId = 4;
    UPDATE Artist SET Name = 'AC-DC' WHERE ArtistId = 1;
    BEGIN; DELETE FROM PlaylistTrack; DELETE FROM Playlist; ROLLBACK;";

#[tokio::test]
async fn edited_on_both_sides_it_converges() {
    let home = tempfile::tempdir().unwrap();
    let (a, remote) = (chinook().await, fresh_remote());
    let report = sync(&a, &remote).await;
    assert_eq!((report.pushed, report.held), (ROWS, 0));
    let b = clone(&remote, &home.path().join("clone.db")).await;
    assert_alike(&a, &b);
    for (name, count) in TABLES {
        assert_eq!(table(&b, name).len(), count, "{name}");
    }
    let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type IN ('table', 'index') AND name NOT GLOB 'ZV_*' AND tbl_name NOT GLOB 'ZV_*' ORDER BY name";
    assert_eq!(rows(&a.connection(), schema), rows(&b.connection(), schema));
    assert_eq!(rows(&b.connection(), "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'IFK_*'"), ["11"]);
    assert_sound(&b);

    run(&a, EDITS_OF_A);
    run(&b, EDITS_OF_B);
    converge(&[&a, &b], &remote).await;
    assert_alike(&a, &b);
    for replica in [&a, &b] {
        assert_sound(replica);
        assert_eq!(replica.status().await.unwrap().held, 0);
        assert_verified(replica, &remote).await;
        let count = |sql: &str| rows(&replica.connection(), sql).concat();
        assert_eq!(count("SELECT count(*) FROM Track"), "3506");
        assert_eq!(count("SELECT count(*) FROM PlaylistTrack WHERE PlaylistId = 3"), "0");
        assert_eq!(count("SELECT count(*) FROM Invoice"), "411");
        let both = "SELECT count(*) FROM Track WHERE GenreId = 1 AND Name GLOB '* (live)' AND UnitPrice = 1.49";
        assert_eq!(count(both), "1297");
    }
    // Both moved employee 4: whoever came last, both know.
    assert!(!a.conflicts().await.unwrap().is_empty() || !b.conflicts().await.unwrap().is_empty());
    for replica in [&a, &b] {
        let report = sync(replica, &remote).await;
        assert_eq!((report.pushed, report.pulled, report.merged), (0, 0, 0));
    }
}

/// The loose files of a table's changes that are newer than a time, by what the log of a replica says.
async fn files_of(replica: &Replica, tables: &[&str], folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in tables {
        for entry in replica.log(Some(name), None, 100).await.unwrap().into_iter().filter(|entry| !entry.backfill) {
            files.push(folder.join(format!("changes/{}.msgpack", entry.id)));
        }
    }
    files
}

#[tokio::test]
async fn children_that_arrive_before_their_parents_wait() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("remote");
    let shared = remote(folder.to_str().unwrap());
    let schema = "CREATE TABLE Artist (ArtistId INTEGER PRIMARY KEY, Name TEXT);
        CREATE TABLE Album (AlbumId INTEGER PRIMARY KEY, Title TEXT, ArtistId INTEGER NOT NULL REFERENCES Artist);
        CREATE TABLE Track (TrackId INTEGER PRIMARY KEY, Name TEXT, AlbumId INTEGER REFERENCES Album);
        CREATE TABLE Employee (EmployeeId INTEGER PRIMARY KEY, ReportsTo INTEGER REFERENCES Employee);
        INSERT INTO Artist VALUES (1, 'AC/DC'); INSERT INTO Album VALUES (1, 'Ballbreaker', 1);";
    let a = replica(schema).await;
    sync(&a, &shared).await;
    let b = clone(&shared, &home.path().join("b.db")).await;
    run(&a, "INSERT INTO Artist VALUES (5, 'New'); INSERT INTO Album VALUES (6, 'Newer', 5); INSERT INTO Track VALUES (7, 'Newest', 6), (8, 'Known', 1);
        INSERT INTO Employee VALUES (1, 1), (2, 1), (3, 2); UPDATE Album SET ArtistId = 5 WHERE AlbumId = 1;
        UPDATE Employee SET ReportsTo = 3 WHERE EmployeeId = 1");
    sync(&a, &shared).await;

    // A shared folder delivers in any order: the parents come later.
    let late = files_of(&a, &["Artist"], &folder).await;
    let aside: Vec<PathBuf> = (0..late.len()).map(|n| home.path().join(format!("aside{n}"))).collect();
    late.iter().zip(&aside).for_each(|(file, aside)| std::fs::rename(file, aside).unwrap());
    let report = sync(&b, &shared).await;
    assert_eq!(report.held, 4, "{:?}", b.held().await.unwrap());
    assert_sound(&b);
    assert_eq!(table(&b, "Employee"), ["1|3", "2|1", "3|2"]);
    assert_eq!(table(&b, "Album"), [] as [&str; 0]);
    let held = b.held().await.unwrap().rows;
    assert!(held.iter().all(|held| held.reason == "foreign key"), "{held:?}");

    late.iter().zip(&aside).for_each(|(file, aside)| std::fs::rename(aside, file).unwrap());
    assert_eq!(sync(&b, &shared).await.held, 0);
    for name in ["Artist", "Album", "Track", "Employee"] {
        assert_eq!(table(&a, name), table(&b, name), "{name}");
    }
    assert_sound(&b);
    assert_verified(&b, &shared).await;
}
