//! Every kind of table and of name that SQLite has, tracked as it is by default on two replicas that write at once.

mod common;

use common::{assert_verified, fresh_remote, rows, run, sync, table};
use rusqlite::config::DbConfig;
use zvon::{Join, Remote, Replica, Settings, SyncOptions, TrackOptions};

/// A replica in memory whose tables are all tracked as they are by default.
async fn usual(schema: &str) -> Replica {
    let replica = Replica::in_memory().unwrap();
    run(&replica, schema);
    replica.track_all(&TrackOptions::default()).await.unwrap();
    run(&replica, "PRAGMA foreign_keys = ON");
    replica
}

/// Syncs until nobody has anything new; replicas that have rows already are copies of one database.
async fn converge(replicas: &[&Replica], remote: &Remote) {
    let mut options = SyncOptions::default();
    options.join = Some(Join::Same);
    for _ in 0..3 {
        for replica in replicas {
            replica.sync(remote, &options).await.unwrap();
        }
    }
}

async fn two(schema: &str) -> (Replica, Replica, Remote) {
    let (a, b, remote) = (usual(schema).await, usual(schema).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    (a, b, remote)
}

fn ask(replica: &Replica, sql: &str) -> Vec<String> {
    rows(&replica.connection(), sql)
}

/// Both sides answer alike, are sound and verify; what they answer.
async fn alike(a: &Replica, b: &Replica, remote: &Remote, sql: &str) -> Vec<String> {
    converge(&[a, b], remote).await;
    for replica in [a, b] {
        assert_eq!(ask(replica, sql), ask(a, sql));
        assert_eq!(ask(replica, "PRAGMA foreign_key_check"), [] as [&str; 0]);
        assert_eq!(ask(replica, "PRAGMA integrity_check"), ["'ok'"]);
        assert_verified(replica, remote).await;
    }
    ask(a, sql)
}

async fn held(replica: &Replica) -> Vec<String> {
    let rows = replica.held().await.unwrap().rows;
    rows.into_iter().map(|held| format!("{} {}", held.table, held.reason)).collect()
}

#[tokio::test]
async fn without_rowid() {
    let schema = "CREATE TABLE word (word TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
        CREATE TABLE year (year INTEGER PRIMARY KEY, what) WITHOUT ROWID;
        CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT);
        CREATE TABLE seen (word TEXT REFERENCES word, page INTEGER REFERENCES page ON DELETE CASCADE, at BLOB, how, PRIMARY KEY (page, word, at)) WITHOUT ROWID;
        INSERT INTO page VALUES (1, 'old')";
    let (a, b, remote) = two(schema).await;
    for (replica, who) in [(&a, "a"), (&b, "b")] {
        run(
            replica,
            &format!(
                "INSERT INTO word VALUES ('{who}', 1), ('of/{who}', 2); INSERT INTO page VALUES (2, 'of {who}'); INSERT INTO year VALUES (2026, '{who}');
                 INSERT INTO seen VALUES ('{who}', 2, x'00ff', 'first'), ('of/{who}', 1, x'', NULL), ('{who}', 2, x'01', 'gone');
                 UPDATE seen SET how = 'again' WHERE how = 'first'; DELETE FROM seen WHERE how = 'gone'"
            ),
        );
    }
    let sql = "SELECT word, title, at, how FROM seen JOIN page ON page.id = page ORDER BY 1";
    let shown = alike(&a, &b, &remote, sql).await;
    assert_eq!(
        shown,
        ["'a'|'of a'|x'00ff'|'again'", "'b'|'of b'|x'00ff'|'again'", "'of/a'|'old'|x''|NULL", "'of/b'|'old'|x''|NULL"]
    );
    // SQLite gives no numbers in a table without rowid: the integer is the row's own, and 2026 is 2026 everywhere.
    assert_eq!(alike(&a, &b, &remote, "SELECT * FROM year").await.len(), 1);
    run(&a, "UPDATE seen SET at = x'02' WHERE word = 'b'; UPDATE page SET id = 12 WHERE title = 'old' AND 0");
    run(&b, "DELETE FROM page WHERE title = 'of a'");
    let shown = alike(&b, &a, &remote, sql).await;
    assert_eq!(shown[0], "'b'|'of b'|x'02'|'again'");
    assert_eq!(shown.len(), 3);
}

#[tokio::test]
async fn strict() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, i INT, r REAL, s TEXT, b BLOB, x ANY) STRICT;
        CREATE TABLE k (a TEXT NOT NULL, b INTEGER NOT NULL, x ANY, PRIMARY KEY (a, b)) STRICT, WITHOUT ROWID";
    let (a, b, remote) = two(schema).await;
    run(
        &a,
        "INSERT INTO t VALUES (1, 9223372036854775807, 1, '', x'', '1'), (2, NULL, 9e999, 'a', x'c0', 1), (3, 1, -0.5, 'ž', x'00', 1.0)",
    );
    run(&b, "INSERT INTO t VALUES (1, 1.0, 0.1, 'b', NULL, x'01'); INSERT INTO k VALUES ('a', 1, '01'), ('a', 2, 1)");
    let shown = alike(&a, &b, &remote, "SELECT i, r, s, b, x, typeof(x) FROM t ORDER BY s").await;
    assert_eq!(
        shown,
        [
            "9223372036854775807|1.0|''|x''|'1'|'text'",
            "NULL|inf|'a'|x'c0'|1|'integer'",
            "1|0.1|'b'|NULL|x'01'|'blob'",
            "1|-0.5|'ž'|x'00'|1.0|'real'"
        ]
    );
    assert_eq!(alike(&a, &b, &remote, "SELECT * FROM k").await, ["'a'|1|'01'", "'a'|2|1"]);
    // A column of type ANY keeps a number's class, so that another class is another value.
    run(&a, "UPDATE t SET x = 1 WHERE s = 'ž'; UPDATE t SET x = 1.0 WHERE s = 'a'");
    let shown = alike(&a, &b, &remote, "SELECT typeof(x) FROM t ORDER BY s").await;
    assert_eq!(shown, ["'text'", "'real'", "'blob'", "'integer'"]);
}

#[tokio::test]
async fn a_value_that_a_strict_table_cannot_hold_is_held_there() {
    let loose = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, v)";
    let strict = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, v ANY) STRICT";
    let (a, b, remote) = (usual(loose).await, usual(strict).await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO t (n, v) VALUES (1, 'good'), ('many', 'bad'), (2, 'fine'), (x'00', 'worse')");
    converge(&[&a, &b], &remote).await;
    assert_eq!(ask(&b, "SELECT n, v FROM t ORDER BY n"), ["1|'good'", "2|'fine'"]);
    assert_eq!(held(&b).await, ["t type", "t type"]);
    run(&a, "UPDATE t SET n = 3 WHERE v = 'bad'; DELETE FROM t WHERE v = 'worse'");
    assert_eq!(alike(&a, &b, &remote, "SELECT n, v FROM t ORDER BY n").await.len(), 3);
    assert_eq!(held(&b).await, [] as [&str; 0]);
}

#[tokio::test]
async fn generated_columns() {
    let schema = "CREATE TABLE item (id INTEGER PRIMARY KEY, net REAL, rate REAL DEFAULT 0.2, gross REAL GENERATED ALWAYS AS (net * (1 + rate)) STORED,
            name TEXT, slug TEXT AS (lower(replace(name, ' ', '-'))) VIRTUAL UNIQUE, CHECK (gross >= net));
        CREATE INDEX by_gross ON item (gross); INSERT INTO item (net, name) VALUES (10, 'Old One')";
    let (a, b, remote) = two(schema).await;
    run(&a, "INSERT INTO item (net, name) VALUES (100, 'Of A'); UPDATE item SET net = 20 WHERE name = 'Old One'");
    run(&b, "INSERT INTO item (net, name) VALUES (200, 'Of B'); UPDATE item SET rate = 0.5 WHERE name = 'Old One'");
    let sql = "SELECT name, slug, net, gross FROM item ORDER BY name";
    let shown = alike(&a, &b, &remote, sql).await;
    assert_eq!(
        shown,
        ["'Of A'|'of-a'|100.0|120.0", "'Of B'|'of-b'|200.0|240.0", "'Old One'|'old-one'|20.0|30.0"],
        "what is generated is generated from what was merged"
    );
    let fields = a.log(Some("item"), None, 100).await.unwrap().into_iter().flat_map(|entry| entry.fields);
    assert!(fields.into_iter().all(|field| !["gross", "slug"].contains(&field.name.as_str())), "and does not travel");
    // Two names whose slugs are one: the older claim keeps it.
    run(&a, "INSERT INTO item (net, name) VALUES (1, 'Same Slug')");
    sync(&a, &remote).await;
    run(&b, "INSERT INTO item (net, name) VALUES (2, 'same slug')");
    let shown = alike(&a, &b, &remote, sql).await;
    assert_eq!(shown.last().unwrap(), "'Same Slug'|'same-slug'|1.0|1.2");
    assert_eq!((held(&a).await, held(&b).await), (vec!["item unique".into()], vec!["item unique".to_owned()]));
    run(&a, "UPDATE item SET name = 'Other' WHERE name = 'Same Slug'");
    let shown = alike(&a, &b, &remote, sql).await;
    assert_eq!(shown.last().unwrap(), "'same slug'|'same-slug'|2.0|2.4");
    assert_eq!(held(&a).await, [] as [&str; 0]);
}

#[tokio::test]
async fn defaults_that_are_computed_are_computed_once() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP, ms DEFAULT (strftime('%f', 'now')),
        token TEXT NOT NULL DEFAULT (lower(hex(randomblob(8)))), n INTEGER DEFAULT (2 * 3 + abs(-1)), x DEFAULT 'a', y REAL DEFAULT -1)";
    let home = tempfile::tempdir().unwrap();
    let (a, remote) = (usual(schema).await, fresh_remote());
    run(&a, "INSERT INTO t (name) VALUES ('first')");
    sync(&a, &remote).await;
    let (b, _) = Replica::clone_from(&remote, &home.path().join("b.db"), Settings::default(), None).await.unwrap();
    run(&a, "INSERT INTO t (name) VALUES ('of a')");
    run(&b, "INSERT INTO t (name) VALUES ('of b'); INSERT INTO t DEFAULT VALUES");
    let shown = alike(&a, &b, &remote, "SELECT name, at, ms, token, n, x, y FROM t ORDER BY token").await;
    assert_eq!(shown.len(), 4);
    assert!(shown.iter().all(|row| row.contains("|7|'a'|-1.0")), "{shown:?}");
}

#[tokio::test]
async fn autoincrement_gives_no_number_twice() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v); CREATE TABLE u (id INTEGER PRIMARY KEY AUTOINCREMENT, v)";
    let (a, b, remote) = two(schema).await;
    run(&a, "INSERT INTO t (v) VALUES ('a1'), ('a2'), ('a3'); INSERT INTO u (v) VALUES ('a')");
    run(&b, "INSERT INTO t (v) VALUES ('b1'), ('b2'); DELETE FROM t WHERE v = 'b2'");
    alike(&a, &b, &remote, "SELECT v FROM t ORDER BY v").await;
    // Number 2 was given here, to a row that is gone: the row that comes under it from elsewhere gets another.
    assert_eq!(ask(&b, "SELECT v FROM t WHERE id = 2"), [] as [&str; 0]);
    assert_eq!(ask(&b, "SELECT v FROM u WHERE id = 1"), ["'a'"], "where it is free, the number is kept");
    for round in 0..3 {
        for (replica, who) in [(&a, "a"), (&b, "b")] {
            let before = ask(replica, "SELECT seq FROM sqlite_sequence WHERE name = 't'")[0].parse::<i64>().unwrap();
            assert!(ask(replica, &format!("SELECT 1 FROM t WHERE id > {before}")).is_empty());
            run(
                replica,
                &format!("INSERT INTO t (v) VALUES ('{who}{round}'), ('gone'); DELETE FROM t WHERE v = 'gone'"),
            );
            let given =
                ask(replica, &format!("SELECT id - {before} FROM t WHERE v = '{who}{round}' AND id > {before}"));
            assert_eq!(given, ["1"], "the next after all that were ever here");
        }
        alike(&a, &b, &remote, "SELECT v FROM t ORDER BY v").await;
    }
    assert_eq!(ask(&a, "SELECT count(*) FROM t"), ["10"]);
}

const ODD: &str = r#"
    CREATE TABLE "select" ("from" INTEGER PRIMARY KEY, "where" TEXT UNIQUE, "a b" TEXT, "quo""te" TEXT, "brack[et" , "back`tick", "it's", "žluťoučký" TEXT, "emoji 🔔", "a.b", "?1", ":x", "100%" NUMERIC DEFAULT 5);
    CREATE TABLE "rowid" ("rowid" INTEGER PRIMARY KEY, "old" TEXT, "new" TEXT, oid, _rowid_);
    CREATE TABLE "old" ("new" INTEGER REFERENCES "rowid" ("rowid") ON DELETE CASCADE, "old" INTEGER REFERENCES "select", "it's ""so""", PRIMARY KEY ("new", "old"));
    CREATE TABLE "new" ("old" TEXT PRIMARY KEY, "NEW" TEXT);
    CREATE TABLE "two words; DROP TABLE x --" (id INTEGER PRIMARY KEY, seq, no, value, entity_id, change_id, "", " ");
    CREATE TABLE "Žvonaři 🔔" ("Zvon č. 1" TEXT, "/" TEXT, PRIMARY KEY ("Zvon č. 1", "/"));
    CREATE UNIQUE INDEX "an ""index""" ON "select" ("a b", "quo""te");"#;

#[tokio::test]
async fn odd_names() {
    let home = tempfile::tempdir().unwrap();
    let (a, remote) = (usual(ODD).await, fresh_remote());
    run(
        &a,
        r#"INSERT INTO "select" ("where", "a b") VALUES ('old', 'x'); INSERT INTO "rowid" VALUES (1, 'o', 'n', 1, 2)"#,
    );
    sync(&a, &remote).await;
    let (b, _) = Replica::clone_from(&remote, &home.path().join("b.db"), Settings::default(), None).await.unwrap();
    run(&b, "PRAGMA foreign_keys = ON");
    for (replica, who) in [(&a, "a"), (&b, "b")] {
        run(
            replica,
            &format!(
                r#"INSERT INTO "select" VALUES (2, '{who}', '{who} b', '"', '[', '`', '''', 'kůň', '🔔', '.', '?', ':', 0.5);
                INSERT INTO "rowid" VALUES (2, 'old {who}', 'new {who}', 8, 9); UPDATE "rowid" SET "new" = 'newer {who}' WHERE "rowid" = 2;
                INSERT INTO "old" VALUES (2, 2, '{who}'), (1, 2, 'between');
                INSERT INTO "new" VALUES ('key of {who}', 'n'); UPDATE "new" SET "NEW" = "old"; UPDATE "new" SET "old" = 'other key of {who}' WHERE "old" = 'key of {who}';
                INSERT INTO "two words; DROP TABLE x --" (seq, "", " ") VALUES ('{who}', 'nameless', 'blank'); INSERT INTO "Žvonaři 🔔" VALUES ('{who}', '/~#')"#
            ),
        );
    }
    let sql = r#"SELECT "where", "a b", "quo""te", "brack[et", "back`tick", "it's", "žluťoučký", "emoji 🔔", "a.b", "?1", ":x", "100%", r."old", r."new", oid, _rowid_, "it's ""so"""
        FROM "select" AS s LEFT JOIN "old" AS o ON o."old" = "from" LEFT JOIN "rowid" AS r ON r."rowid" = o."new" ORDER BY 1, r."old""#;
    let shown = alike(&a, &b, &remote, sql).await;
    let of = |who: &str| format!(r#"'{who}'|'{who} b'|'"'|'['|'`'|'''|'kůň'|'🔔'|'.'|'?'|':'|0.5"#);
    assert_eq!(
        shown,
        [
            format!("{}|'o'|'n'|1|2|'between'", of("a")),
            format!("{}|'old a'|'newer a'|8|9|'a'", of("a")),
            format!("{}|'o'|'n'|1|2|'between'", of("b")),
            format!("{}|'old b'|'newer b'|8|9|'b'", of("b")),
            "'old'|'x'|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|5|NULL|NULL|NULL|NULL|NULL".to_owned(),
        ]
    );
    let sql = r#"SELECT "old", "NEW" FROM "new" UNION ALL SELECT seq, "" || " " FROM "two words; DROP TABLE x --" UNION ALL SELECT * FROM "Žvonaři 🔔" ORDER BY 1, 2"#;
    let shown = alike(&b, &a, &remote, sql).await;
    assert_eq!(
        shown,
        [
            "'a'|'/~#'",
            "'a'|'namelessblank'",
            "'b'|'/~#'",
            "'b'|'namelessblank'",
            "'other key of a'|'key of a'",
            "'other key of b'|'key of b'"
        ]
    );
    run(&b, r#"DELETE FROM "rowid" WHERE "old" = 'old a'; UPDATE "select" SET "a b" = 'c' WHERE "where" = 'b'"#);
    assert_eq!(
        alike(&b, &a, &remote, r#"SELECT "it's ""so""" FROM "old" ORDER BY 1"#).await,
        ["'b'", "'between'", "'between'"]
    );
    assert_eq!(ask(&a, r#"SELECT "a b" FROM "select" ORDER BY "where""#), ["'a b'", "'c'", "'x'"]);
}

#[tokio::test]
async fn two_hundred_columns() {
    let columns: Vec<String> =
        (0..199).map(|n| format!("c{n} {}", ["TEXT", "INTEGER", "REAL", "BLOB", ""][n % 5])).collect();
    let schema = format!("CREATE TABLE wide (id INTEGER PRIMARY KEY, {})", columns.join(", "));
    let (a, b, remote) = two(&schema).await;
    let insert = |who: &str| {
        let values: Vec<String> = (0..199).map(|n| format!("'{who}{n}'")).collect();
        format!("INSERT INTO wide VALUES (1, {})", values.join(", "))
    };
    run(&a, &insert("a"));
    run(&b, &insert("b"));
    alike(&a, &b, &remote, "SELECT c0, c198 FROM wide ORDER BY c0").await;
    run(&a, "UPDATE wide SET c0 = 'x' || c0, c63 = 63, c64 = NULL, c127 = x'7f', c198 = 0.5 WHERE c0 = 'b0'");
    run(&b, "UPDATE wide SET c1 = 'y', c62 = 62, c65 = '', c128 = 128, c197 = -1 WHERE c0 = 'b0'");
    let all: Vec<String> = (0..199).map(|n| format!("c{n}")).collect();
    let sql = format!("SELECT {} FROM wide ORDER BY c0", all.join(", "));
    let shown = alike(&a, &b, &remote, &sql).await;
    let values: Vec<&str> = shown[1].split('|').collect();
    assert_eq!(values.len(), 199);
    let edited = [0, 1, 62, 63, 64, 65, 127, 128, 197, 198].map(|n| values[n]);
    assert_eq!(edited, ["'xb0'", "'y'", "62.0", "63", "NULL", "''", "x'7f'", "128", "-1.0", "0.5"]);
    assert_eq!(values[100], "'b100'");
    let newest = a.log(Some("wide"), None, 2).await.unwrap();
    assert_eq!(newest.iter().map(|entry| entry.fields.len()).collect::<Vec<_>>(), [5, 5]);
}

#[tokio::test]
async fn names_that_differ_in_the_case_of_ascii_letters_are_one() {
    let a = usual("CREATE TABLE Artist (Id INTEGER PRIMARY KEY, Name TEXT UNIQUE); CREATE TABLE Album (Id INTEGER PRIMARY KEY, Title TEXT, ARTIST INTEGER REFERENCES ARTIST (ID) ON DELETE CASCADE)").await;
    let b = usual("CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE ALBUM (ID INTEGER PRIMARY KEY, TITLE TEXT, artist INTEGER REFERENCES Artist ON DELETE CASCADE)").await;
    let remote = fresh_remote();
    converge(&[&a, &b], &remote).await;
    for (replica, who) in [(&a, "a"), (&b, "b")] {
        run(
            replica,
            &format!(
                "INSERT INTO artist VALUES (1, '{who}'), (2, 'both'); INSERT INTO album VALUES (1, 'of {who}', 1)"
            ),
        );
    }
    let sql = "SELECT title, name FROM album JOIN artist ON artist.id = artist ORDER BY 1";
    assert_eq!(alike(&a, &b, &remote, sql).await, ["'of a'|'a'", "'of b'|'b'"]);
    assert_eq!(ask(&a, "SELECT name FROM artist ORDER BY 1"), ["'a'", "'b'", "'both'"]);
    assert_eq!(held(&a).await.len(), 1);
    run(&b, "UPDATE Album SET Title = 'new' WHERE Title = 'of a'; DELETE FROM ARTIST WHERE NAME = 'b'");
    assert_eq!(alike(&a, &b, &remote, sql).await, ["'new'|'a'"]);
    // The case of other letters makes other names, as in SQLite.
    let (a, b) = (
        usual("CREATE TABLE É (id INTEGER PRIMARY KEY)").await,
        usual("CREATE TABLE é (id INTEGER PRIMARY KEY)").await,
    );
    let remote = fresh_remote();
    converge(&[&a, &b], &remote).await;
    run(&a, "INSERT INTO É VALUES (1)");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "é"), [] as [&str; 0]);
    assert_eq!(b.held().await.unwrap().unknown[0].table, "É");
}

const SEARCHED: &str = "CREATE TABLE doc (id INTEGER PRIMARY KEY, title TEXT, body TEXT);
    CREATE VIRTUAL TABLE doc_fts USING fts5(title, body, content='doc', content_rowid='id');
    CREATE TRIGGER doc_ai AFTER INSERT ON doc BEGIN INSERT INTO doc_fts(rowid, title, body) VALUES (NEW.id, NEW.title, NEW.body); END;
    CREATE TRIGGER doc_ad AFTER DELETE ON doc BEGIN INSERT INTO doc_fts(doc_fts, rowid, title, body) VALUES ('delete', OLD.id, OLD.title, OLD.body); END;
    CREATE TRIGGER doc_au AFTER UPDATE ON doc BEGIN
        INSERT INTO doc_fts(doc_fts, rowid, title, body) VALUES ('delete', OLD.id, OLD.title, OLD.body);
        INSERT INTO doc_fts(rowid, title, body) VALUES (NEW.id, NEW.title, NEW.body); END;
    CREATE TRIGGER doc_change BEFORE UPDATE OF title ON doc BEGIN SELECT 1; END;
    INSERT INTO doc VALUES (1, 'first', 'apple pie')";

#[tokio::test]
async fn a_full_text_index_stays_right_where_integers_differ() {
    let (a, b, remote) = two(SEARCHED).await;
    let found = |word: &str| format!("SELECT title FROM doc_fts WHERE doc_fts MATCH '{word}' ORDER BY title");
    for (replica, who) in [(&a, "ann"), (&b, "bob")] {
        run(
            replica,
            &format!(
                "INSERT INTO doc (title, body) VALUES ('{who} 1', 'apple of {who}'), ('{who} 2', 'plum of {who}')"
            ),
        );
    }
    assert_eq!(alike(&a, &b, &remote, &found("apple")).await, ["'ann 1'", "'bob 1'", "'first'"]);
    run(&a, "UPDATE doc SET body = 'pear of bob' WHERE title = 'bob 1'; DELETE FROM doc WHERE title = 'first'");
    run(
        &b,
        "UPDATE doc SET title = 'ann one' WHERE title = 'ann 1'; UPDATE doc SET id = 77 WHERE title = 'bob 2'; REPLACE INTO doc VALUES (3, 'replaced', 'cherry')",
    );
    for (word, titles) in [
        ("apple", vec!["'ann one'"]),
        ("pear", vec!["'bob 1'"]),
        ("plum", vec!["'ann 2'", "'bob 2'"]),
        ("bob", vec!["'bob 1'", "'bob 2'"]),
    ] {
        assert_eq!(alike(&a, &b, &remote, &found(word)).await, titles, "{word}");
    }
    for replica in [&a, &b] {
        run(replica, "INSERT INTO doc_fts(doc_fts, rank) VALUES ('integrity-check', 1)");
    }
}

#[tokio::test]
async fn virtual_tables_are_refused_by_name() {
    let replica = Replica::in_memory().unwrap();
    run(
        &replica,
        "CREATE VIRTUAL TABLE contentless USING fts5(title, content=''); CREATE VIRTUAL TABLE inside USING fts5(title); CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1);
         CREATE TABLE note (id INTEGER PRIMARY KEY, title)",
    );
    for name in ["contentless", "inside", "boxes", "inside_content"] {
        let error = replica.track(&[name], &TrackOptions::default()).await.unwrap_err().to_string();
        assert_eq!(error, format!("{name} is a virtual table; track the table that it is filled from"));
    }
    let tracked = replica.track_all(&TrackOptions::default()).await.unwrap();
    assert_eq!(tracked.iter().map(|report| report.table.as_str()).collect::<Vec<_>>(), ["note"]);
}

/// The name was not found in the index's text, and the trigger that watches it had no condition.
#[tokio::test]
async fn a_unique_expression_of_a_column_with_a_quote_in_its_name() {
    let schema = r#"CREATE TABLE t (id TEXT PRIMARY KEY, "a""b" TEXT, [c""d] TEXT);
        CREATE UNIQUE INDEX i ON t (lower("a""b")); CREATE UNIQUE INDEX j ON t (upper(`c""d`))"#;
    let (a, b, remote) = two(schema).await;
    run(&a, "INSERT INTO t VALUES ('1', 'x', 'p'), ('2', 'y', 'q'), ('3', 'z', 'r')");
    run(
        &a,
        r#"UPDATE OR REPLACE t SET "a""b" = 'X' WHERE id = '2'; UPDATE OR REPLACE t SET [c""d] = 'R' WHERE id = '2'"#,
    );
    assert_eq!(alike(&a, &b, &remote, "SELECT * FROM t").await, ["'2'|'X'|'R'"]);
}

/// No update changes what such an index holds, so no trigger watches for it.
#[tokio::test]
async fn a_unique_index_on_a_constant() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, a); CREATE UNIQUE INDEX i ON t (coalesce(1, 2))";
    let (a, b, remote) = two(schema).await;
    run(&a, "INSERT INTO t VALUES ('1', 'x'); REPLACE INTO t VALUES ('2', 'y'); UPDATE t SET a = 'z', id = '3'");
    assert_eq!(alike(&a, &b, &remote, "SELECT * FROM t").await, ["'3'|'z'"]);
}

/// Each foreign key was followed from each other one, and that from each step to the next.
#[tokio::test]
async fn references_in_circles_are_followed_once() {
    let keys = "FOREIGN KEY (a) REFERENCES t (b), FOREIGN KEY (b) REFERENCES t (a), ".repeat(20);
    let schema = format!("CREATE TABLE t (id TEXT PRIMARY KEY, a UNIQUE, b UNIQUE, {keys} CHECK (1))");
    let (a, b, remote) = two(&schema).await;
    run(&a, "INSERT INTO t VALUES ('1', 1, 1)");
    assert_eq!(alike(&a, &b, &remote, "SELECT * FROM t").await, ["'1'|1|1"]);
}

/// The name read a value that was computed, and not the rowid: where it was NULL no write was seen.
#[tokio::test]
async fn a_generated_column_that_is_called_rowid_hides_no_write() {
    let schema = "CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER, rowid AS (v + 1));
        CREATE TABLE s (k TEXT PRIMARY KEY, v INTEGER, _ROWID_ AS (v + 1) STORED, rowid INTEGER)";
    let (a, b, remote) = two(schema).await;
    run(&a, "INSERT INTO t (v) VALUES (NULL), (NULL), (20); INSERT INTO s VALUES ('x', NULL, 7)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE t SET v = 11 WHERE k = 2; UPDATE s SET v = 2; DELETE FROM t WHERE v = 20");
    let sql = "SELECT v, rowid FROM t UNION ALL SELECT v, _rowid_ FROM s";
    assert_eq!(alike(&a, &b, &remote, sql).await, ["NULL|NULL", "11|12", "2|3"]);
}

/// Every comparison of such a column, but the key's own index, takes two rows for one.
#[tokio::test]
async fn a_key_whose_column_has_another_collation_is_refused() {
    for (schema, key) in [
        ("CREATE TABLE t (e TEXT NOT NULL COLLATE NOCASE, v TEXT, PRIMARY KEY (e COLLATE BINARY))", None),
        (
            "CREATE TABLE t (e TEXT NOT NULL COLLATE \"nocase\", v TEXT); CREATE UNIQUE INDEX i ON t (e COLLATE BINARY)",
            Some("e"),
        ),
        ("CREATE TABLE t (a, e COLLATE RTRIM, PRIMARY KEY (a, e COLLATE BINARY)) WITHOUT ROWID", None),
    ] {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = TrackOptions::default();
        options.key = key.into_iter().map(str::to_owned).collect();
        let error = replica.track(&["t"], &options).await.unwrap_err().to_string();
        assert!(error.to_lowercase().contains("has a key with the collation"), "{error}");
    }
    // Numbers have none, and a CHECK is no column.
    let replica = Replica::in_memory().unwrap();
    run(
        &replica,
        "CREATE TABLE n (id INTEGER COLLATE NOCASE PRIMARY KEY, v); CREATE TABLE c (e TEXT CHECK (e <> 'x' COLLATE NOCASE) PRIMARY KEY, v COLLATE NOCASE)",
    );
    replica.track_all(&TrackOptions::default()).await.unwrap();
}

/// What a module keeps in tables of its own is known as such by the module alone, and that may not be here.
#[tokio::test]
async fn the_tables_of_a_module_that_is_not_here_are_left_alone() {
    let replica = Replica::in_memory().unwrap();
    replica.connection().set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).unwrap();
    run(
        &replica,
        "CREATE TABLE note (id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE vec_chunks (id INTEGER PRIMARY KEY, v BLOB);
         CREATE TABLE vector (id INTEGER PRIMARY KEY, v); CREATE TABLE boxes_own (id INTEGER PRIMARY KEY, v);
         CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema VALUES ('table', 'Vec', 'Vec', 0, 'CREATE VIRTUAL TABLE Vec USING vec0(embedding float[3])');
         PRAGMA writable_schema = RESET",
    );
    let error = replica.track(&["vec_chunks"], &TrackOptions::default()).await.unwrap_err().to_string();
    assert_eq!(error, "vec_chunks is a virtual table; track the table that it is filled from");
    let tracked = replica.track_all(&TrackOptions::default()).await.unwrap();
    assert_eq!(tracked.iter().map(|report| report.table.as_str()).collect::<Vec<_>>(), ["boxes_own", "note", "vector"]);
}
