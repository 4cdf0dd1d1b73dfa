//! A real database: Chinook, its foreign keys enforced, on two replicas that edit it at once.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use zvon::{Remote, Replica, Settings, TrackOptions};

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
async fn chinook(options: &TrackOptions) -> Replica {
    let sql = std::fs::read_to_string("tests/data/chinook.sql").unwrap();
    let replica = Replica::in_memory().unwrap();
    run(&replica, sql.trim_start_matches('\u{feff}'));
    replica.track_all(options).await.unwrap();
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
    let (a, remote) = (chinook(&keyed()).await, fresh_remote());
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

/// Everything in the tables by what the foreign keys lead to, without a number that a database gave.
const THROUGH_RELATIONS: [(&str, &str); 9] = [
    ("artists", "SELECT Name FROM Artist"),
    ("albums", "SELECT Title, Name FROM Album JOIN Artist USING (ArtistId)"),
    (
        "tracks",
        "SELECT t.Name, al.Title, ar.Name, m.Name, g.Name, Composer, Milliseconds, Bytes, UnitPrice FROM Track AS t
            LEFT JOIN Album AS al USING (AlbumId) LEFT JOIN Artist AS ar USING (ArtistId) JOIN MediaType AS m USING (MediaTypeId) LEFT JOIN Genre AS g USING (GenreId)",
    ),
    ("playlists", "SELECT Name, (SELECT count(*) FROM PlaylistTrack AS l WHERE l.PlaylistId = p.PlaylistId) FROM Playlist AS p"),
    (
        "links",
        "SELECT p.Name, t.Name, Composer, Title, Bytes FROM PlaylistTrack JOIN Playlist AS p USING (PlaylistId) JOIN Track AS t USING (TrackId) LEFT JOIN Album USING (AlbumId)",
    ),
    ("customers", "SELECT c.*, e.Email FROM Customer AS c LEFT JOIN Employee AS e ON EmployeeId = SupportRepId"),
    ("employees", "SELECT e.LastName, e.FirstName, e.Title, e.Email, boss.Email FROM Employee AS e LEFT JOIN Employee AS boss ON boss.EmployeeId = e.ReportsTo"),
    ("invoices", "SELECT Email, InvoiceDate, BillingAddress, Total FROM Invoice JOIN Customer USING (CustomerId)"),
    (
        "lines",
        "SELECT Email, InvoiceDate, t.Name, Bytes, l.UnitPrice, Quantity FROM InvoiceLine AS l JOIN Invoice USING (InvoiceId) JOIN Customer USING (CustomerId) JOIN Track AS t USING (TrackId)",
    ),
];

/// What a label's clerk enters: the same numbers of new rows on any replica.
fn new_records(who: &str, how_many: u32) -> String {
    format!(
        "INSERT INTO Artist (Name) WITH n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {how_many}) SELECT printf('%s %03d', '{who}', n) FROM n;
         INSERT INTO Album (Title, ArtistId) SELECT 'Songs of ' || Name, ArtistId FROM Artist WHERE Name GLOB '{who} *';
         INSERT INTO Track (Name, AlbumId, MediaTypeId, GenreId, Composer, Milliseconds, Bytes, UnitPrice)
             SELECT Title || ', ' || n.Name, AlbumId, 1, GenreId, '{who}', 1000 + GenreId, AlbumId, 0.99 FROM Album JOIN Genre AS n ON GenreId < 4 WHERE Title GLOB 'Songs of {who} *';
         INSERT INTO Playlist (Name) VALUES ('Best of {who}'), ('Worst of {who}');
         INSERT INTO PlaylistTrack SELECT PlaylistId, TrackId FROM Playlist AS p JOIN Track ON GenreId < 3 WHERE p.Name GLOB '* of {who}' AND Composer = '{who}';
         INSERT INTO PlaylistTrack SELECT 18, TrackId FROM Track WHERE Composer = '{who}' AND GenreId = 1;
         DELETE FROM PlaylistTrack WHERE PlaylistId = (SELECT PlaylistId FROM Playlist WHERE Name = 'Worst of {who}') AND TrackId IN (SELECT TrackId FROM Track WHERE GenreId = 2);"
    )
}

fn count(replica: &Replica, sql: &str) -> String {
    rows(&replica.connection(), &format!("SELECT count(*) FROM {sql}")).concat()
}

fn assert_alike_through_relations(a: &Replica, b: &Replica) {
    for (what, sql) in THROUGH_RELATIONS {
        let [mut left, mut right] = [a, b].map(|replica| rows(&replica.connection(), sql));
        left.sort();
        right.sort();
        assert!(left == right, "{what} differ");
    }
}

#[tokio::test]
async fn new_rows_of_both_sides_share_numbers_and_nothing_else() {
    if !is_here("sqlite3", &["-version"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (a, remote) = (chinook(&TrackOptions::default()).await, fresh_remote());
    assert_eq!(sync(&a, &remote).await.pushed, ROWS);
    let path = home.path().join("clone.db");
    let b = clone(&remote, &path).await;
    assert_alike(&a, &b);

    run(&a, &new_records("Ann", 100));
    // The other side is written by a program that knows nothing of this one.
    let script = format!("PRAGMA foreign_keys = ON; {}", new_records("Bob", 100));
    let output = Command::new("sqlite3").arg("-bail").arg(&path).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT max(ArtistId) FROM Artist"), ["375"]);
    }
    run(&a, "UPDATE Track SET UnitPrice = 1.99 WHERE AlbumId IN (SELECT AlbumId FROM Album WHERE ArtistId < 50)");
    run(
        &b,
        "UPDATE Track SET GenreId = 3 WHERE AlbumId IN (SELECT AlbumId FROM Album WHERE ArtistId < 50); UPDATE Employee SET ReportsTo = 6 WHERE EmployeeId = 3",
    );

    converge(&[&a, &b], &remote).await;
    assert_alike_through_relations(&a, &b);
    for replica in [&a, &b] {
        assert_sound(replica);
        assert_eq!(replica.status().await.unwrap().held, 0);
        assert_verified(replica, &remote).await;
        for (name, there) in TABLES {
            let new = match name {
                "Artist" | "Album" => 200,
                "Track" => 600,
                "Playlist" => 4,
                "PlaylistTrack" => 2 * (200 + 100 + 100),
                _ => 0,
            };
            assert_eq!(count(replica, &format!("\"{name}\"")), (there + new).to_string(), "{name}");
        }
        // Nobody's rows hang on the other's.
        let foreign = "Track JOIN Album USING (AlbumId) JOIN Artist AS r USING (ArtistId) WHERE Composer IN ('Ann', 'Bob') AND r.Name NOT GLOB Composer || ' *'";
        assert_eq!(count(replica, foreign), "0");
        let foreign = "PlaylistTrack JOIN Playlist AS p USING (PlaylistId) JOIN Track AS t USING (TrackId) WHERE p.Name GLOB '* of ???' AND p.Name NOT GLOB '* of ' || Composer";
        assert_eq!(count(replica, foreign), "0");
        let both = "Track JOIN Album USING (AlbumId) WHERE ArtistId < 50 AND UnitPrice = 1.99 AND GenreId = 3";
        assert_eq!(count(replica, both), count(replica, "Track JOIN Album USING (AlbumId) WHERE ArtistId < 50"));
    }
    // Who entered a row finds it under its number still.
    for (replica, who) in [(&a, "Ann"), (&b, "Bob")] {
        assert_eq!(
            count(replica, &format!("Artist WHERE ArtistId BETWEEN 276 AND 375 AND Name GLOB '{who} *'")),
            "100"
        );
    }
    for replica in [&a, &b] {
        let report = sync(replica, &remote).await;
        assert_eq!((report.pushed, report.pulled, report.merged), (0, 0, 0));
    }
}
