//! Tables with integer keys that SQLite gives: rows have ids of their own, integers stay local, references are translated.

mod common;

use common::integers::{alike, ask, converge, held, unenforced, usual};
use common::wall::{START_MS, Wall, on_the_wall};
use common::*;
use rusqlite::Connection;
use zvon::{Join, Replica, SyncOptions, TrackOptions};

const MUSIC: &str = "CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE album (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, artist_id INTEGER NOT NULL REFERENCES artist ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT UNIQUE);
    CREATE TABLE album_tag (album_id INTEGER REFERENCES album ON DELETE CASCADE ON UPDATE CASCADE, tag_id INTEGER REFERENCES tag (id) ON DELETE CASCADE ON UPDATE CASCADE, PRIMARY KEY (album_id, tag_id));
    INSERT INTO artist VALUES (1, 'old'); INSERT INTO album VALUES (1, 'first', 1); INSERT INTO tag VALUES (1, 'a'); INSERT INTO album_tag VALUES (1, 1);";
const ALBUMS: &str = "SELECT artist.name, title, (SELECT group_concat(word) FROM (SELECT word FROM album_tag JOIN tag ON tag.id = tag_id WHERE album_id = album.id ORDER BY word))
    FROM album JOIN artist ON artist.id = artist_id ORDER BY 1, 2";

#[tokio::test]
async fn rows_that_got_one_number_on_two_replicas_are_two_rows() {
    let (a, b, remote) = (usual(MUSIC).await, usual(MUSIC).await, fresh_remote());
    let shown = alike(&[&a, &b], &remote, ALBUMS).await;
    assert_eq!(shown, ["'old'|'first'|'a'"], "copies of one file match");
    for (replica, name) in [(&a, "A"), (&b, "B")] {
        run(
            replica,
            &format!(
                "INSERT INTO artist (name) VALUES ('{name}'); INSERT INTO album (title, artist_id) VALUES ('of {name}', last_insert_rowid()), ('of old {name}', 1);
                 INSERT INTO tag (word) VALUES ('{name}'); INSERT INTO album_tag SELECT album.id, tag.id FROM album, tag WHERE title GLOB '*{name}' AND word IN ('a', '{name}')"
            ),
        );
    }
    let shown = alike(&[&a, &b], &remote, ALBUMS).await;
    assert_eq!(
        shown,
        [
            "'A'|'of A'|'A,a'",
            "'B'|'of B'|'B,a'",
            "'old'|'first'|'a'",
            "'old'|'of old A'|'A,a'",
            "'old'|'of old B'|'B,a'"
        ]
    );
    // Each keeps the number that it gave.
    assert_eq!(ask(&a, "SELECT name FROM artist WHERE id = 2"), ["'A'"]);
    assert_eq!(ask(&b, "SELECT name FROM artist WHERE id = 2"), ["'B'"]);
    run(&a, "DELETE FROM album WHERE title = 'of B'; UPDATE artist SET name = 'C' WHERE name = 'A'");
    run(
        &b,
        "UPDATE album SET artist_id = (SELECT id FROM artist WHERE name = 'A') WHERE title = 'first'; DELETE FROM album_tag WHERE tag_id = 1",
    );
    let shown = alike(&[&b, &a], &remote, ALBUMS).await;
    assert_eq!(shown, ["'C'|'first'|NULL", "'C'|'of A'|'A'", "'old'|'of old A'|'A'", "'old'|'of old B'|'B'"]);
}

#[tokio::test]
async fn a_number_is_kept_where_it_is_free() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t VALUES (7, 'seven'), (-3, 'minus'), (9223372036854775807, 'last')");
    alike(&[&a, &b], &remote, "SELECT id, v FROM t ORDER BY id").await;
    run(&b, "INSERT INTO t VALUES (50, 'b')");
    run(&a, "INSERT INTO t VALUES (50, 'a')");
    alike(&[&a, &b], &remote, "SELECT v FROM t ORDER BY v").await;
    assert_eq!(ask(&a, "SELECT v FROM t WHERE id = 50"), ["'a'"]);
    assert_eq!(ask(&b, "SELECT v FROM t WHERE id = 50"), ["'b'"]);
}

#[tokio::test]
async fn a_freed_number_that_is_given_again_is_another_row() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'one'), (2, 'two')";
    let (wall, remote) = (Wall::at(START_MS), fresh_remote());
    let (a, b) = (on_the_wall(usual(schema).await, &wall, 1), on_the_wall(usual(schema).await, &wall, 2));
    converge(&[&a, &b], &remote).await;
    run(&a, "DELETE FROM t WHERE id = 2; INSERT INTO t (v) VALUES ('new')");
    assert_eq!(ask(&a, "SELECT id FROM t WHERE v = 'new'"), ["2"]);
    wall.advance(1);
    run(&b, "UPDATE t SET v = 'edited' WHERE id = 2");
    let shown = alike(&[&a, &b], &remote, "SELECT v FROM t ORDER BY v").await;
    assert_eq!(shown, ["'edited'", "'new'", "'one'"], "the later write brought the old row back");
    // Without a concurrent edit, a delete stays one.
    run(&b, "DELETE FROM t; INSERT INTO t (v) VALUES ('x'), ('y')");
    assert_eq!(alike(&[&b, &a], &remote, "SELECT v FROM t ORDER BY v").await, ["'x'", "'y'"]);
}

#[tokio::test]
async fn replace_and_another_number_keep_the_row() {
    let (a, b, remote) = (usual(MUSIC).await, usual(MUSIC).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    for recursive in ["OFF", "ON"] {
        run(&a, &format!("PRAGMA recursive_triggers = {recursive}; PRAGMA foreign_keys = OFF"));
        run(&a, "REPLACE INTO tag VALUES (1, 'b'); PRAGMA foreign_keys = ON");
        assert_eq!(ask(&a, "SELECT * FROM tag"), ["1|'b'"]);
        alike(&[&a, &b], &remote, "SELECT word FROM tag").await;
        run(&a, "UPDATE tag SET word = 'a'");
        run(&a, "INSERT INTO album_tag SELECT 1, 1 WHERE NOT EXISTS (SELECT 1 FROM album_tag)");
        alike(&[&a, &b], &remote, ALBUMS).await;
    }
    run(
        &a,
        "PRAGMA recursive_triggers = OFF; UPDATE artist SET id = 77 WHERE id = 1; UPDATE album SET id = 5; UPDATE tag SET id = id + 10",
    );
    run(&b, "UPDATE artist SET name = 'late'");
    assert_eq!(alike(&[&a, &b], &remote, ALBUMS).await, ["'late'|'first'|'a'"]);
    // A REPLACE that takes another row's unique word deletes that row, and its links with it.
    run(&a, "INSERT INTO tag VALUES (90, 'b'); UPDATE OR REPLACE tag SET word = 'a' WHERE id = 90");
    alike(&[&a, &b], &remote, "SELECT word FROM tag").await;
    assert_eq!(ask(&b, "SELECT count(*) FROM tag"), ["1"]);
    // And one that takes another row's number deletes that one.
    run(&a, "INSERT INTO tag VALUES (91, 'c'); UPDATE OR REPLACE tag SET id = 90 WHERE id = 91");
    assert_eq!(alike(&[&a, &b], &remote, "SELECT word FROM tag").await, ["'c'"]);
}

#[tokio::test]
async fn links_that_arrive_before_their_ends_wait() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("remote");
    let shared = remote(folder.to_str().unwrap());
    let (a, b) = (usual(MUSIC).await, usual(MUSIC).await);
    converge(&[&a, &b], &shared).await;
    run(
        &a,
        "INSERT INTO artist VALUES (2, 'x'); INSERT INTO album VALUES (2, 'y', 2); INSERT INTO tag VALUES (2, 'z'); INSERT INTO album_tag VALUES (2, 2), (1, 2)",
    );
    sync(&a, &shared).await;
    let mut aside = Vec::new();
    for name in ["artist", "tag"] {
        let newest = a.log(Some(name), None, 1).await.unwrap();
        let file = folder.join(format!("changes/{}.msgpack", newest[0].id));
        let away = home.path().join(name);
        std::fs::rename(&file, &away).unwrap();
        aside.push((file, away));
    }
    assert_eq!(sync(&b, &shared).await.held, 3);
    assert_eq!(held(&b).await, ["album foreign key", "album_tag foreign key", "album_tag foreign key"]);
    assert_eq!(ask(&b, ALBUMS), ["'old'|'first'|'a'"]);
    aside.iter().for_each(|(file, away)| std::fs::rename(away, file).unwrap());
    assert_eq!(sync(&b, &shared).await.held, 0);
    assert_eq!(alike(&[&a, &b], &shared, ALBUMS).await, ["'old'|'first'|'a,z'", "'x'|'y'|'z'"]);
}

#[tokio::test]
async fn rows_that_refer_to_their_own_table_in_any_order() {
    let schema = "CREATE TABLE node (id INTEGER PRIMARY KEY, name TEXT, up INTEGER REFERENCES node DEFERRABLE INITIALLY DEFERRED)";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    run(&b, "INSERT INTO node (name) VALUES ('b1'), ('b2'), ('b3')");
    converge(&[&b], &remote).await;
    run(
        &a,
        "BEGIN; INSERT INTO node VALUES (1, 'r', 3), (2, 's', 1), (3, 't', 2), (4, 'self', 4); UPDATE node SET up = 4 WHERE id = 2; COMMIT",
    );
    let sql = "SELECT c.name, p.name FROM node AS c LEFT JOIN node AS p ON p.id = c.up ORDER BY 1";
    let shown = alike(&[&a, &b], &remote, sql).await;
    assert_eq!(shown, ["'b1'|NULL", "'b2'|NULL", "'b3'|NULL", "'r'|'t'", "'s'|'self'", "'self'|'self'", "'t'|'s'"]);
    run(
        &b,
        "UPDATE node SET up = NULL WHERE name = 'self'; BEGIN; DELETE FROM node WHERE name = 'self'; UPDATE node SET up = (SELECT id FROM node WHERE name = 'b1') WHERE name = 's'; COMMIT",
    );
    let shown = alike(&[&b, &a], &remote, sql).await;
    assert_eq!(shown[4..], ["'s'|'b1'", "'t'|'s'"]);
}

#[tokio::test]
async fn one_row_for_each_row_of_its_parent() {
    let schema = "CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE profile (user_id INTEGER PRIMARY KEY REFERENCES user ON DELETE CASCADE, bio TEXT);
        CREATE TABLE badge (id INTEGER PRIMARY KEY, profile_id INTEGER REFERENCES profile (user_id) ON DELETE CASCADE, what TEXT)";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    for (replica, name) in [(&a, "ann"), (&b, "bob")] {
        run(
            replica,
            &format!(
                "INSERT INTO user VALUES (1, '{name}'); INSERT INTO profile VALUES (1, 'of {name}'); INSERT INTO badge VALUES (1, 1, 'gold {name}')"
            ),
        );
    }
    let sql = "SELECT name, bio, what FROM user JOIN profile ON user_id = user.id JOIN badge ON profile_id = user_id ORDER BY 1";
    let shown = alike(&[&a, &b], &remote, sql).await;
    assert_eq!(shown, ["'ann'|'of ann'|'gold ann'", "'bob'|'of bob'|'gold bob'"]);
    run(&a, "DELETE FROM user WHERE name = 'bob'");
    assert_eq!(alike(&[&a, &b], &remote, sql).await.len(), 1);
    assert_eq!(ask(&b, "SELECT count(*) FROM badge"), ["1"]);
}

#[tokio::test]
async fn references_of_several_columns_and_to_columns_that_are_unique() {
    let schema = "CREATE TABLE tenant (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
        CREATE TABLE account (id INTEGER PRIMARY KEY, tenant_id INTEGER NOT NULL REFERENCES tenant, code TEXT NOT NULL UNIQUE, UNIQUE (tenant_id, id));
        CREATE TABLE entry (id INTEGER PRIMARY KEY, tenant_id INTEGER, account_id INTEGER, code TEXT REFERENCES account (code), tenant TEXT REFERENCES tenant (name) ON UPDATE CASCADE, v,
            FOREIGN KEY (tenant_id, account_id) REFERENCES account (tenant_id, id))";
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    for (replica, name) in [(&a, "ann"), (&b, "bob")] {
        run(
            replica,
            &format!(
                "INSERT INTO tenant VALUES (1, '{name}'); INSERT INTO account VALUES (1, 1, 'c-{name}'); INSERT INTO entry VALUES (1, 1, 1, 'c-{name}', '{name}', 'v-{name}')"
            ),
        );
    }
    let sql = "SELECT tenant.name, account.code, entry.code, tenant, v FROM entry JOIN tenant ON tenant.id = entry.tenant_id JOIN account ON account.id = account_id ORDER BY 1";
    let shown = alike(&[&a, &b], &remote, sql).await;
    assert_eq!(shown, ["'ann'|'c-ann'|'c-ann'|'ann'|'v-ann'", "'bob'|'c-bob'|'c-bob'|'bob'|'v-bob'"]);
    run(&a, "UPDATE tenant SET name = 'robert' WHERE name = 'bob'");
    assert_eq!(alike(&[&a, &b], &remote, sql).await[1], "'robert'|'c-bob'|'c-bob'|'robert'|'v-bob'");
}

#[tokio::test]
async fn another_unique_key_beside_a_local_integer() {
    let schema = "CREATE TABLE person (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name TEXT);
        CREATE TABLE pet (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, owner INTEGER REFERENCES person ON DELETE CASCADE, name TEXT);
        CREATE TABLE likes (person INTEGER REFERENCES person ON DELETE CASCADE, pet INTEGER REFERENCES pet ON DELETE CASCADE, how, PRIMARY KEY (person, pet))";
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = TrackOptions::default();
        options.key = vec!["uuid".into()];
        replica.track(&["person", "pet"], &options).await.unwrap();
        replica.track(&["likes"], &TrackOptions::default()).await.unwrap();
        run(&replica, "PRAGMA foreign_keys = ON");
        replica
    };
    let (a, b, remote) = (make().await, make().await, fresh_remote());
    run(
        &a,
        "INSERT INTO person VALUES (1, 'p-a', 'Ann'), (2, 'p-c', 'Cy'); INSERT INTO pet VALUES (1, 't-a', 1, 'Rex'); INSERT INTO likes VALUES (1, 1, 'much'), (2, 1, 'little')",
    );
    run(
        &b,
        "INSERT INTO person VALUES (1, 'p-b', 'Bob'), (9, 'p-c', 'Cyril'); INSERT INTO pet VALUES (1, 't-b', 9, 'Tom'); INSERT INTO likes VALUES (9, 1, 'madly')",
    );
    let sql = "SELECT p.uuid, p.name, t.uuid, t.name, how, o.uuid FROM likes JOIN person AS p ON p.id = person JOIN pet AS t ON t.id = pet JOIN person AS o ON o.id = owner ORDER BY 1, 3";
    let shown = alike(&[&a, &b], &remote, sql).await;
    let cy = &ask(&a, "SELECT name FROM person WHERE uuid = 'p-c'")[0];
    assert_eq!(
        shown,
        [
            "'p-a'|'Ann'|'t-a'|'Rex'|'much'|'p-a'".to_owned(),
            format!("'p-c'|{cy}|'t-a'|'Rex'|'little'|'p-a'"),
            format!("'p-c'|{cy}|'t-b'|'Tom'|'madly'|'p-c'"),
        ]
    );
    assert_eq!(ask(&a, "SELECT id FROM person WHERE uuid = 'p-c'"), ["2"]);
    assert_eq!(ask(&b, "SELECT id FROM person WHERE uuid = 'p-c'"), ["9"]);
    // A parent whose key changes takes its children along, though no trigger sees them.
    run(&a, "UPDATE person SET uuid = 'p-d' WHERE uuid = 'p-c'");
    let shown = alike(&[&a, &b], &remote, sql).await;
    assert_eq!(shown[1], format!("'p-d'|{cy}|'t-a'|'Rex'|'little'|'p-a'"));
    assert_eq!(shown[2], format!("'p-d'|{cy}|'t-b'|'Tom'|'madly'|'p-d'"));
    assert_eq!(ask(&b, "SELECT id, uuid FROM person ORDER BY uuid").len(), 3);
    run(&b, "UPDATE pet SET uuid = 't-x', name = 'Max' WHERE uuid = 't-a'; DELETE FROM person WHERE uuid = 'p-a'");
    alike(&[&b, &a], &remote, sql).await;
    assert_eq!(ask(&a, "SELECT uuid FROM pet"), ["'t-b'"]);
}

#[tokio::test]
async fn a_reference_to_a_row_that_is_not_there_is_left_out_until_it_is() {
    let (a, b, remote) = (usual(MUSIC).await, usual(MUSIC).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(
        &a,
        "PRAGMA foreign_keys = OFF; INSERT INTO album VALUES (5, 'lost', 42); INSERT INTO album_tag VALUES (5, 42)",
    );
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&a, "SELECT artist_id FROM album WHERE id = 5"), ["42"], "what was written stays");
    let left = a.held().await.unwrap().references;
    let left: Vec<(&str, Option<&str>)> = left.iter().map(|r| (r.table.as_str(), r.column.as_deref())).collect();
    assert_eq!(left, [("album", Some("artist_id")), ("album_tag", None)]);
    assert_eq!(held(&b).await, ["album not null"]);
    run(&a, "INSERT INTO artist VALUES (42, 'found'); INSERT INTO tag VALUES (42, 'tag')");
    let shown = alike(&[&a, &b], &remote, ALBUMS).await;
    assert_eq!(shown, ["'found'|'lost'|'tag'", "'old'|'first'|'a'"]);
    assert_eq!(a.held().await.unwrap().references, []);
}

#[tokio::test]
async fn an_unenforced_reference_is_null_until_its_row_comes() {
    let schema = "CREATE TABLE p (id INTEGER PRIMARY KEY, v); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p, v)";
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("remote");
    let shared = remote(folder.to_str().unwrap());
    let make = async || unenforced(schema).await;
    let (a, b) = (make().await, make().await);
    converge(&[&a, &b], &shared).await;
    run(&b, "INSERT INTO p VALUES (1, 'b')");
    converge(&[&b, &a], &shared).await;
    run(&a, "INSERT INTO p VALUES (9, 'nine'); INSERT INTO c VALUES (1, 9, 'child')");
    sync(&a, &shared).await;
    let newest = a.log(Some("p"), None, 1).await.unwrap();
    let (file, away) = (folder.join(format!("changes/{}.msgpack", newest[0].id)), home.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    assert_eq!(sync(&b, &shared).await.held, 0);
    assert_eq!(ask(&b, "SELECT p, v FROM c"), ["NULL|'child'"]);
    assert_verified_here(&b).await;
    std::fs::rename(&away, &file).unwrap();
    let sql = "SELECT p.v, c.v FROM c LEFT JOIN p ON p.id = c.p";
    assert_eq!(alike(&[&b, &a], &shared, sql).await, ["'nine'|'child'"]);
    // And NULL again once the row is gone.
    run(&a, "DELETE FROM p WHERE v = 'nine'");
    assert_eq!(alike(&[&a, &b], &shared, sql).await, ["NULL|'child'"]);
}

async fn assert_verified_here(replica: &Replica) {
    assert_eq!(replica.verify().await.unwrap().problems, [] as [String; 0]);
}

#[tokio::test]
async fn a_clone_has_the_same_identity() {
    let home = tempfile::tempdir().unwrap();
    let (a, remote) = (usual(MUSIC).await, fresh_remote());
    run(&a, "INSERT INTO artist (name) VALUES ('new'); INSERT INTO album (title, artist_id) VALUES ('newer', 2)");
    sync(&a, &remote).await;
    let path = home.path().join("b.db");
    let (b, report) = Replica::clone_from(&remote, &path, zvon::Settings::default(), None).await.unwrap();
    assert_eq!(report.held, 0);
    run(&b, "PRAGMA foreign_keys = ON");
    // Another program writes, which knows nothing of this one.
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch(
            "INSERT INTO artist (name) VALUES ('of b'); INSERT INTO album (title, artist_id) VALUES ('b', 3)",
        )
        .unwrap();
    run(&a, "INSERT INTO artist (name) VALUES ('of a'); INSERT INTO album (title, artist_id) VALUES ('a', 3)");
    let shown = alike(&[&a, &b], &remote, ALBUMS).await;
    assert_eq!(shown, ["'new'|'newer'|NULL", "'of a'|'a'|NULL", "'of b'|'b'|NULL", "'old'|'first'|'a'"]);
}

#[tokio::test]
async fn rows_written_while_capture_was_off_are_found() {
    let (a, b, remote) = (usual(MUSIC).await, usual(MUSIC).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    b.untrack(&["artist", "album"]).await.unwrap();
    run(
        &b,
        "INSERT INTO artist VALUES (2, 'while off'); INSERT INTO album VALUES (2, 'off', 2); UPDATE album SET title = 'changed' WHERE id = 1; UPDATE artist SET name = 'changed' WHERE id = 1",
    );
    run(&a, "INSERT INTO artist VALUES (2, 'of a')");
    b.track(&["artist", "album"], &TrackOptions::default()).await.unwrap();
    let shown = alike(&[&b, &a], &remote, ALBUMS).await;
    assert_eq!(shown, ["'changed'|'changed'|'a'", "'while off'|'off'|NULL"]);
    assert_eq!(ask(&a, "SELECT count(*) FROM artist"), ["3"]);
}

/// Two laptops that each had rows before they met.
async fn laptops() -> (Replica, Replica, zvon::Remote) {
    let schema = MUSIC.split("INSERT INTO artist").next().unwrap();
    let rows = "INSERT INTO artist VALUES (1, 'of a'); INSERT INTO album VALUES (1, 'A', 1); INSERT INTO tag VALUES (1, 'a'); INSERT INTO album_tag VALUES (1, 1)";
    let (a, b, remote) = (usual(&format!("{schema}{rows}")).await, Replica::in_memory().unwrap(), fresh_remote());
    sync(&a, &remote).await;
    run(&b, schema);
    run(
        &b,
        "INSERT INTO artist VALUES (1, 'of b'), (2, 'gone'); INSERT INTO album VALUES (1, 'B', 1), (2, 'B2', 2); INSERT INTO tag VALUES (1, 'b'); INSERT INTO album_tag VALUES (1, 1), (2, 1)",
    );
    b.track_all(&TrackOptions::default()).await.unwrap();
    run(
        &b,
        "PRAGMA foreign_keys = ON; DELETE FROM artist WHERE id = 2; UPDATE album SET title = 'B1' WHERE id = 1; INSERT INTO album VALUES (7, 'B7', 1)",
    );
    let error = b.sync(&remote, &SyncOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), zvon::ErrorKind::Unrelated);
    assert!(error.to_string().contains("--join separate"), "{error}");
    (a, b, remote)
}

#[tokio::test]
async fn laptops_that_join_separately_keep_all_their_rows() {
    let (a, b, remote) = laptops().await;
    let mut options = SyncOptions::default();
    options.join = Some(Join::Separate);
    b.sync(&remote, &options).await.unwrap();
    let expected = ["'of a'|'A'|'a'", "'of b'|'B1'|'b'", "'of b'|'B7'|NULL"];
    assert_eq!(alike(&[&a, &b], &remote, ALBUMS).await, expected);
    // Who was there keeps its numbers.
    assert_eq!(ask(&b, "SELECT title FROM album WHERE id IN (1, 7) ORDER BY id"), ["'B1'", "'B7'"]);
    run(&a, "DELETE FROM artist WHERE name = 'of b'");
    run(&b, "INSERT INTO album_tag SELECT album.id, tag.id FROM album, tag WHERE title = 'A' AND word = 'b'");
    assert_eq!(alike(&[&a, &b], &remote, ALBUMS).await, ["'of a'|'A'|'a,b'"]);
    // What others have seen cannot get other ids.
    let elsewhere = fresh_remote();
    let c = usual("CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT UNIQUE); INSERT INTO tag VALUES (1, 'c')").await;
    sync(&c, &elsewhere).await;
    let error = b.sync(&elsewhere, &options).await.unwrap_err();
    assert_eq!(error.kind(), zvon::ErrorKind::Usage, "{error}");
}

#[tokio::test]
async fn laptops_that_join_as_the_same_fuse_rows_of_one_number() {
    let (a, b, remote) = laptops().await;
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    b.sync(&remote, &options).await.unwrap();
    let shown = alike(&[&b, &a], &remote, "SELECT count(*) FROM artist").await;
    assert_eq!(shown, ["1"]);
    assert_eq!(ask(&a, ALBUMS), ask(&b, ALBUMS));
    assert_eq!(ask(&a, "SELECT title FROM album ORDER BY 1").len(), 2, "album 1 is one, B7 is b's own");
}

const LINKED: &str = "CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT);
    CREATE TABLE item (id INTEGER PRIMARY KEY, main INTEGER REFERENCES tag, name TEXT);
    CREATE TABLE item_tag (item_id INTEGER REFERENCES item, tag_id INTEGER REFERENCES tag, note TEXT, PRIMARY KEY (item_id, tag_id));
    INSERT INTO item VALUES (1, NULL, 'i')";
const TAGS: &str = "SELECT name, (SELECT word FROM tag WHERE id = main), (SELECT group_concat(word) FROM (SELECT word FROM item_tag JOIN tag ON tag.id = tag_id WHERE item_id = item.id ORDER BY word)) FROM item ORDER BY 1";

#[tokio::test]
async fn a_number_that_is_freed_and_given_twice_before_a_merge() {
    let (a, b, remote) = (usual(LINKED).await, usual(LINKED).await, fresh_remote());
    run(&a, "PRAGMA foreign_keys = OFF; INSERT INTO tag VALUES (2, 'first'); INSERT INTO item_tag VALUES (1, 2, 'n')");
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'i'|NULL|'first'"]);
    // Parents go before their links, twice; the second pair is known to nobody yet.
    run(
        &a,
        "DELETE FROM tag WHERE id = 2; DELETE FROM item_tag; INSERT INTO tag VALUES (2, 'second'); INSERT INTO item_tag VALUES (1, 2, 'n')",
    );
    run(&a, "DELETE FROM tag WHERE id = 2; DELETE FROM item_tag");
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'i'|NULL|NULL"]);
    assert_eq!(held(&b).await, [] as [&str; 0]);
    // Sealed one by one, and the link follows the number to the third row that has it.
    run(&a, "INSERT INTO tag VALUES (2, 'third'); INSERT INTO item_tag VALUES (1, 2, 'n'); UPDATE item SET main = 2");
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'i'|'third'|'third'"]);
    for word in ["fourth", "fifth"] {
        run(&a, &format!("DELETE FROM tag WHERE id = 2; INSERT INTO tag VALUES (2, '{word}')"));
        a.status().await.unwrap();
    }
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'i'|'fifth'|'fifth'"]);
}

#[tokio::test]
async fn a_parent_whose_number_changes_without_its_children() {
    let (a, b, remote) = (usual(LINKED).await, usual(LINKED).await, fresh_remote());
    run(
        &a,
        "PRAGMA foreign_keys = OFF; INSERT INTO tag VALUES (2, 'word'); INSERT INTO item_tag VALUES (1, 2, 'n'); UPDATE item SET main = 2",
    );
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'i'|'word'|'word'"]);
    run(&a, "UPDATE tag SET id = 4; UPDATE tag SET id = 5; UPDATE item_tag SET note = 'still here'");
    assert_verified_here(&a).await;
    sync(&a, &remote).await;
    assert_eq!(ask(&a, "SELECT * FROM item_tag"), ["1|5|'still here'"]);
    assert_eq!(ask(&a, "SELECT main FROM item"), ["5"]);
    sync(&b, &remote).await;
    assert_eq!(ask(&b, "SELECT note FROM item_tag"), ["'still here'"]);
    run(
        &b,
        "UPDATE item SET name = 'j'; INSERT INTO item_tag SELECT 1, id, NULL FROM tag WHERE NOT EXISTS (SELECT 1 FROM item_tag)",
    );
    assert_eq!(alike(&[&b, &a], &remote, TAGS).await, ["'j'|'word'|'word'"]);
    // Whoever gets the old number then has nothing to do with it.
    run(&a, "INSERT INTO tag VALUES (2, 'other')");
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'j'|'word'|'word'"]);
    // But numbers that change hands take along who refers to them.
    run(&a, "UPDATE tag SET id = 9 WHERE id = 5; UPDATE tag SET id = 5 WHERE id = 2");
    assert_eq!(alike(&[&a, &b], &remote, TAGS).await, ["'j'|'other'|'other'"]);
}

#[tokio::test]
async fn a_parent_known_by_another_key_whose_number_changes_without_its_children() {
    let remote = fresh_remote();
    let sides = [Replica::in_memory().unwrap(), Replica::in_memory().unwrap()];
    for side in &sides {
        run(side, "CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE)");
        run(
            side,
            "CREATE TABLE item_tag (item TEXT, tag_id INTEGER REFERENCES tag, PRIMARY KEY (item, tag_id)) WITHOUT ROWID",
        );
        run(side, "CREATE TABLE item (id TEXT PRIMARY KEY, main INTEGER REFERENCES tag)");
        let mut options = TrackOptions::default();
        options.key = vec!["word".to_owned()];
        side.track(&["tag"], &options).await.unwrap();
        side.track(&["item_tag", "item"], &TrackOptions::default()).await.unwrap();
    }
    let [a, b] = &sides;
    let tags = "SELECT i.id, m.word, t.word FROM item AS i JOIN tag AS m ON m.id = main JOIN item_tag ON item = i.id JOIN tag AS t ON t.id = tag_id";
    run(
        a,
        "INSERT INTO tag VALUES (2, 'word'); INSERT INTO item_tag VALUES ('i', 2); INSERT INTO item VALUES ('i', 2)",
    );
    assert_eq!(alike(&[a, b], &remote, tags).await, ["'i'|'word'|'word'"]);
    run(a, "UPDATE tag SET id = 4; UPDATE tag SET id = 8");
    assert_verified_here(a).await;
    sync(a, &remote).await;
    assert_eq!(ask(a, "SELECT tag_id, (SELECT main FROM item) FROM item_tag"), ["8|8"]);
    // The same while nobody looks.
    a.alter_begin(&["tag"]).await.unwrap();
    run(a, "UPDATE tag SET id = 5");
    a.alter_end("tag", &zvon::AlterOptions::default()).await.unwrap();
    assert_eq!(alike(&[a, b], &remote, tags).await, ["'i'|'word'|'word'"]);
    assert_eq!(ask(a, "SELECT tag_id, (SELECT main FROM item) FROM item_tag"), ["5|5"]);
}

/// To a trigger before an insert SQLite calls a rowid -1 that it has not chosen yet.
#[tokio::test]
async fn a_row_numbered_minus_one_is_replaced_like_any_other() {
    for options in [TrackOptions::default(), keyed()] {
        let replica = Replica::in_memory().unwrap();
        run(&replica, "CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT UNIQUE)");
        replica.track(&["tag"], &options).await.unwrap();
        run(&replica, "INSERT INTO tag VALUES (-1, 'a'), (-2, 'b')");
        replica.status().await.unwrap();
        run(&replica, "INSERT OR REPLACE INTO tag (word) VALUES ('a'); REPLACE INTO tag VALUES (-2, 'b')");
        assert_eq!(table(&replica, "tag"), ["-2|'b'", "0|'a'"]);
        assert_verified_here(&replica).await;
        run(&replica, "REPLACE INTO tag VALUES (-1, 'b')");
        assert_verified_here(&replica).await;
        assert_eq!(table(&replica, "tag"), ["-1|'b'", "0|'a'"]);
    }
}
