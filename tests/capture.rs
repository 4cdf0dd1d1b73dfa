//! Capture changes nothing else: a program cannot tell a tracked database from an untracked one.

mod common;

use common::pair::Pair;
use common::*;
use zvon::{Replica, TrackOptions};

const PEOPLE: &str = "CREATE TABLE person (id TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE, name TEXT NOT NULL DEFAULT 'nobody',
        age INTEGER CHECK (age < 200), note COLLATE NOCASE);
    CREATE UNIQUE INDEX person_name_age ON person (name, age) WHERE age > 10;
    INSERT INTO person VALUES ('p1', 'a@x', 'Ann', 20, 'N'), ('p2', 'b@x', 'Bob', 30, 1), ('p3', NULL, 'Cid', 5, NULL);";

#[tokio::test]
async fn conflict_clauses() {
    for clause in ["", "OR ABORT", "OR FAIL", "OR IGNORE", "OR REPLACE", "OR ROLLBACK"] {
        let pair = Pair::new(PEOPLE, "").await;
        let insert = |values: &str| format!("INSERT {clause} INTO person (id, email, name, age) VALUES {values}");
        let statements = [
            "BEGIN".to_owned(),
            "INSERT INTO person (id) VALUES ('first')".to_owned(),
            insert("('n1', 'n1@x', 'N', 1), ('n2', 'a@x', 'N', 2), ('n3', 'n3@x', 'N', 3)"),
            insert("('p2', 'c@x', 'Bob', 31)"),
            insert("('n4', 'n4@x', NULL, 4)"),
            insert("('n5', 'n5@x', 'N', 400)"),
            insert("('n6', 'n6@x', 'Ann', 20), ('n7', 'b@x', 'Ann', 20)"),
            format!("UPDATE {clause} person SET email = 'same@x'"),
            format!("UPDATE {clause} person SET id = 'p1' WHERE id = 'p3'"),
            format!("UPDATE {clause} person SET name = 'Ann', age = 20 WHERE id <> 'p1'"),
            format!("UPDATE {clause} person SET name = NULL WHERE id = 'p1'"),
            format!("UPDATE {clause} person SET age = age + 180"),
            "COMMIT".to_owned(),
            insert("('n8', 'a@x', 'N', 8)"),
            "DELETE FROM person WHERE age > 10".to_owned(),
        ];
        pair.same(&statements.each_ref().map(String::as_str));
    }
}

#[tokio::test]
async fn upsert_and_returning() {
    let pair = Pair::new(PEOPLE, "").await;
    pair.same(&[
        "INSERT INTO person (id, email) VALUES ('p1', 'z@x') ON CONFLICT DO NOTHING",
        "INSERT INTO person (id, email) VALUES ('p1', 'z@x') ON CONFLICT (id) DO UPDATE SET email = excluded.email RETURNING *",
        "INSERT INTO person (id, email) VALUES ('p8', 'b@x'), ('p9', 'q@x') ON CONFLICT (email) DO UPDATE SET id = 'moved' RETURNING id, email",
        "INSERT INTO person (id, email) VALUES ('p9', 'w@x') ON CONFLICT (id) DO UPDATE SET age = 999 WHERE age > 1",
        "INSERT INTO person (id, email) VALUES ('p9', 'w@x') ON CONFLICT (id) DO UPDATE SET age = 999",
        "INSERT INTO person (id, email) VALUES ('p9', 'z@x') ON CONFLICT (id) DO NOTHING ON CONFLICT (email) DO UPDATE SET age = 7",
        "REPLACE INTO person (id, email, name, age) VALUES ('p7', 'z@x', 'Ann', 20) RETURNING *",
        "UPDATE person SET name = upper(name) WHERE age IS NOT NULL RETURNING id, name, age",
        "UPDATE person SET age = other.age FROM (SELECT 50 AS age, 'p7' AS id) AS other WHERE other.id = person.id RETURNING person.*",
        "DELETE FROM person RETURNING *",
        "INSERT INTO person DEFAULT VALUES",
    ]);
}

#[tokio::test]
async fn transactions_and_savepoints() {
    let pair = Pair::new(PEOPLE, "").await;
    pair.same(&[
        "BEGIN",
        "INSERT INTO person (id) VALUES ('a')",
        "SAVEPOINT one",
        "UPDATE person SET name = 'x' WHERE id = 'a'",
        "SAVEPOINT two",
        "DELETE FROM person",
        "ROLLBACK TO two",
        "INSERT INTO person (id) VALUES ('a')",
        "RELEASE one",
        "COMMIT",
        "BEGIN",
        "DELETE FROM person",
        "ROLLBACK",
        "SAVEPOINT alone",
        "UPDATE person SET age = 1",
        "ROLLBACK TO alone",
        "RELEASE alone",
        "COMMIT",
    ]);
    assert_eq!(pair.tracked.log(Some("person"), Some("p1"), 9).await.unwrap().len(), 1, "only the backfill is left");
}

#[tokio::test]
async fn foreign_keys_and_cascades() {
    let schema = "PRAGMA foreign_keys = ON;
        CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT UNIQUE);
        CREATE TABLE child (id TEXT PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
            c TEXT DEFAULT 'd' REFERENCES parent (code) ON DELETE SET NULL ON UPDATE SET DEFAULT);
        CREATE TABLE leaf (id INTEGER PRIMARY KEY, c TEXT REFERENCES child ON DELETE RESTRICT,
            up INTEGER REFERENCES leaf DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO parent VALUES (1, 'one'), (2, 'two'), (3, 'd');
        INSERT INTO child VALUES ('a', 1, 'one'), ('b', 1, 'two'), ('c', 2, 'two');
        INSERT INTO leaf VALUES (1, 'c', 1), (2, NULL, 1);";
    for recursive in ["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"] {
        let pair = Pair::new(schema, recursive).await;
        pair.same(&[
            "INSERT INTO child VALUES ('x', 9, NULL)",
            "UPDATE parent SET id = 10 WHERE id = 1",
            "UPDATE parent SET code = 'zwei' WHERE id = 2",
            "DELETE FROM parent WHERE id = 2",
            "DELETE FROM leaf WHERE id = 1",
            "BEGIN",
            "INSERT INTO leaf VALUES (5, NULL, 6)",
            "COMMIT",
            "INSERT INTO leaf VALUES (6, NULL, 6)",
            "COMMIT",
            "REPLACE INTO parent VALUES (11, 'one')",
            "REPLACE INTO parent VALUES (2, 'two')",
            "DELETE FROM parent",
        ]);
        assert!(pair.tracked.log(Some("child"), None, 100).await.unwrap().iter().any(|entry| entry.deletes));
    }
}

/// Triggers as applications have them: they fire on every kind of write, before and after, and write everywhere.
const TRIGGERS: &str = "CREATE TRIGGER stamp AFTER UPDATE ON doc WHEN NEW.stamp IS OLD.stamp BEGIN
        UPDATE doc SET stamp = coalesce(stamp, 0) + 1 WHERE id = NEW.id; END;
    CREATE TRIGGER fill AFTER INSERT ON doc WHEN NEW.title IS NULL BEGIN
        UPDATE doc SET title = 'untitled ' || last_insert_rowid() WHERE id = NEW.id; END;
    CREATE TRIGGER log_insert BEFORE INSERT ON doc BEGIN INSERT INTO event (what) VALUES ('+' || NEW.id || changes()); END;
    CREATE TRIGGER log_delete AFTER DELETE ON doc BEGIN INSERT INTO event (what) VALUES ('-' || OLD.id || last_insert_rowid()); END;
    CREATE TRIGGER guard BEFORE DELETE ON doc WHEN OLD.title = 'keep' BEGIN SELECT RAISE(IGNORE); END;
    CREATE TRIGGER refuse BEFORE UPDATE ON doc WHEN NEW.title = 'bad' BEGIN SELECT RAISE(ABORT, 'no bad titles'); END;
    CREATE TRIGGER fail BEFORE UPDATE ON doc WHEN NEW.title = 'worse' BEGIN SELECT RAISE(FAIL, 'no worse titles'); END;
    CREATE TRIGGER undo AFTER INSERT ON doc WHEN NEW.title = 'never' BEGIN SELECT RAISE(ROLLBACK, 'rolled back'); END;
    CREATE TRIGGER tree AFTER INSERT ON doc WHEN NEW.stamp > 0 BEGIN
        INSERT OR IGNORE INTO doc (id, title, stamp) VALUES (NEW.id || '+', NEW.title, NEW.stamp - 1); END;";

#[tokio::test]
async fn application_triggers_in_both_orders_of_creation() {
    let tables = "CREATE TABLE doc (id TEXT PRIMARY KEY, title TEXT, slug TEXT UNIQUE, stamp INTEGER);
        CREATE TABLE event (id INTEGER PRIMARY KEY, what TEXT);";
    let after_triggers = format!("{tables}{TRIGGERS}");
    for (before, after) in [(after_triggers.as_str(), ""), (tables, TRIGGERS)] {
        for recursive in ["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"] {
            let pair = Pair::new(before, after).await;
            pair.same(&[
                recursive,
                "INSERT INTO doc (id, title, slug, stamp) VALUES ('a', 'A', 's1', 2), ('b', NULL, 's2', 0), ('c', 'keep', 's3', NULL)",
                "UPDATE doc SET title = title || '!' WHERE id = 'a'",
                "UPDATE doc SET title = CASE id WHEN 'b' THEN 'bad' ELSE 'good' END",
                "UPDATE doc SET title = CASE id WHEN 'b' THEN 'worse' ELSE 'better' END",
                "UPDATE doc SET id = 'd', slug = 's4' WHERE id = 'b'",
                "REPLACE INTO doc (id, title, slug) VALUES ('e', 'E', 's1'), ('d', 'D', 's3')",
                "UPDATE OR REPLACE doc SET slug = 's3' WHERE id = 'e'",
                "INSERT INTO doc (id, slug) VALUES ('e', 's9') ON CONFLICT DO UPDATE SET slug = excluded.slug, id = 'f'",
                "BEGIN",
                "INSERT INTO doc (id) VALUES ('g')",
                "INSERT INTO doc (id, title) VALUES ('h', 'never')",
                "COMMIT",
                "DELETE FROM doc WHERE id IN (SELECT id FROM doc LIMIT 2)",
                "DELETE FROM doc",
            ]);
        }
    }
}

#[tokio::test]
async fn every_kind_of_table() {
    let schema = "CREATE TABLE pairs (a TEXT, b INTEGER NOT NULL, v, PRIMARY KEY (b, a)) WITHOUT ROWID;
        CREATE TABLE firm (id INT PRIMARY KEY NOT NULL, t TEXT, r REAL, b BLOB, x ANY) STRICT;
        CREATE TABLE made (id TEXT PRIMARY KEY, n INTEGER, twice AS (n * 2) UNIQUE, half INTEGER AS (n / 2) STORED);
        CREATE TABLE links (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
        CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE ON CONFLICT REPLACE);
        CREATE TABLE loose (id BLOB PRIMARY KEY, v NUMERIC, w DEFAULT (1 + 1));";
    let pair = Pair::new(schema, "").await;
    pair.same(&[
        "INSERT INTO pairs VALUES ('x', 1, 1), ('y', 1, 1.0), ('z', 2, NULL)",
        "UPDATE pairs SET v = 1.0, b = b + 1",
        "UPDATE OR REPLACE pairs SET a = 'x', b = 2",
        "REPLACE INTO pairs VALUES ('x', 2, 'new')",
        "INSERT INTO firm VALUES (1, 't', 1, x'00', 1.0), (2, 5, 2.5, x'', NULL)",
        "INSERT INTO firm VALUES (3, 't', 'no number', x'00', 1)",
        "UPDATE firm SET r = 'text'",
        "UPDATE firm SET x = CAST(x AS TEXT), r = 3, t = 9",
        "INSERT INTO made (id, n) VALUES ('a', 1), ('b', 2)",
        "REPLACE INTO made (id, n) VALUES ('c', 2)",
        "UPDATE OR REPLACE made SET n = 1 WHERE id = 'c'",
        "UPDATE made SET twice = 1",
        "INSERT INTO links VALUES ('a', 'b'), ('a', 'c')",
        "INSERT OR IGNORE INTO links VALUES ('a', 'b'), ('a', 'd')",
        "UPDATE links SET b = b || '.'",
        "DELETE FROM links WHERE b = 'b.'",
        "INSERT INTO counted (v) VALUES ('x'), ('y')",
        "INSERT INTO counted (v) VALUES ('x'), (NULL), (NULL)",
        "UPDATE counted SET v = 'y' WHERE v IS NULL",
        "DELETE FROM counted",
        "INSERT INTO counted (v) VALUES ('z')",
        "INSERT INTO loose (id, v) VALUES (x'01', '12'), ('01', 1.5), (1, 'text')",
        "UPDATE loose SET v = v + 0, w = NULL",
        "INSERT INTO loose (id) SELECT v FROM loose WHERE typeof(v) = 'integer'",
        "DELETE FROM loose",
    ]);
}

#[tokio::test]
async fn odd_names() {
    let schema = r#"CREATE TABLE "old" (id TEXT PRIMARY KEY, "new" TEXT UNIQUE, old);
        CREATE TABLE "new" (rowid TEXT PRIMARY KEY, oid UNIQUE, _rowid_, "zv_row");
        CREATE TABLE "a b""c'd" ("the key" TEXT PRIMARY KEY, "sel""ect" TEXT, [from] TEXT UNIQUE, `gr'oup`);
        CREATE TABLE "päivä" ("ключ" TEXT PRIMARY KEY, "värde" UNIQUE, "🔔");
        CREATE TABLE "select" ("order" INTEGER PRIMARY KEY, "where" UNIQUE, "c0", "ms");
        CREATE TABLE "x.y;--" (";" TEXT PRIMARY KEY, "--" UNIQUE, "?1" INTEGER, "*/" TEXT);"#;
    let pair = Pair::new(schema, "").await;
    pair.same(&[
        r#"INSERT INTO "old" VALUES ('1', 'a', 'b'), ('2', 'c', 'd')"#,
        r#"REPLACE INTO "old" VALUES ('3', 'a', 'b')"#,
        r#"UPDATE "old" SET old = "new", "new" = old"#,
        r#"INSERT INTO "new" VALUES ('1', 2, 3, 4), ('2', 3, 4, 5)"#,
        r#"UPDATE OR REPLACE "new" SET oid = 3, _rowid_ = 1 WHERE rowid = '1'"#,
        r#"UPDATE "new" SET rowid = 'one'"#,
        r#"INSERT INTO "a b""c'd" VALUES ('k', 's', 'f', 'g'), ('l', 1, 2, 3)"#,
        r#"REPLACE INTO "a b""c'd" VALUES ('m', 1, 'f', 3)"#,
        r#"UPDATE "a b""c'd" SET "sel""ect" = 'x', `gr'oup` = NULL"#,
        r#"INSERT INTO "päivä" VALUES ('ä', 'ö', '🔔'), ('ü', 'ß', NULL)"#,
        r#"UPDATE OR REPLACE "päivä" SET "värde" = 'ß', "🔔" = 'x'"#,
        r#"INSERT INTO "select" VALUES (NULL, 1, 2, 3), (NULL, 4, 5, 6)"#,
        r#"REPLACE INTO "select" ("where") VALUES (1), (4)"#,
        r#"UPDATE "select" SET "order" = "order" + 10, c0 = 1"#,
        r#"INSERT INTO "x.y;--" VALUES ('a', 'b', 1, 'c'), ('d', 'e', 2, 'f')"#,
        r#"UPDATE OR REPLACE "x.y;--" SET "--" = 'e', "?1" = 3 WHERE ";" = 'a'"#,
    ]);
    let (twin, remote) = (replica(schema).await, fresh_remote());
    converge(&[&pair.tracked, &twin], &remote).await;
    for name in ["old", "new", "a b\"\"c'd", "päivä", "select", "x.y;--"] {
        assert!(!table(&twin, name).is_empty(), "{name}");
        assert_eq!(table(&pair.tracked, name), table(&twin, name), "{name}");
    }
}

#[tokio::test]
async fn wide_tables() {
    for width in [200, 1500] {
        let columns: Vec<String> = (0..width).map(|n| format!("v{n} INTEGER DEFAULT {n}")).collect();
        let schema = format!("CREATE TABLE wide (id TEXT PRIMARY KEY, {})", columns.join(", "));
        let pair = Pair::new(&schema, "").await;
        pair.same(&[
            "INSERT INTO wide (id) VALUES ('a'), ('b')",
            "UPDATE wide SET v0 = -1, v61 = -2, v62 = -3, v123 = -4, v124 = -5, v199 = -6 WHERE id = 'a'",
            "UPDATE wide SET v7 = v7",
        ]);
        let newest = &pair.tracked.log(Some("wide"), None, 1).await.unwrap()[0];
        let mut written: Vec<&str> = newest.fields.iter().map(|field| field.name.as_str()).collect();
        written.sort_unstable();
        assert_eq!(written, ["v0", "v123", "v124", "v199", "v61", "v62"]);
    }
}

#[tokio::test]
async fn errors_have_the_same_words() {
    let pair =
        Pair::new(PEOPLE, "CREATE TRIGGER no BEFORE DELETE ON person BEGIN SELECT RAISE(ABORT, 'it''s kept'); END")
            .await;
    pair.same_errors(&[
        "INSERT INTO person (id) VALUES ('p1')",
        "INSERT INTO person (id) VALUES (NULL)",
        "INSERT INTO person (id, email) VALUES ('n', 'a@x')",
        "INSERT INTO person (id, age) VALUES ('n', 200)",
        "INSERT INTO person (id, name) VALUES ('n', NULL)",
        "INSERT INTO person (id, nothing) VALUES ('n', NULL)",
        "INSERT INTO person VALUES (1)",
        "UPDATE person SET name = 'Ann', age = 20",
        "UPDATE person SET nothing = 1",
        "DELETE FROM person",
        "DELETE FROM nowhere",
    ]);
}

/// A small generator of its own, so that a run depends on its seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len() as u64) as usize]
    }

    /// A statement. Its conditions use no index, as the order in which rows are found is the planner's and not a promise.
    fn statement(&mut self) -> String {
        let clause = self.pick(&["", "", "OR IGNORE", "OR REPLACE", "OR REPLACE", "OR FAIL", "OR ROLLBACK"]);
        let upsert = self.pick(&[
            "",
            "",
            "ON CONFLICT DO NOTHING",
            "ON CONFLICT (id) DO UPDATE SET b = excluded.b, v = v || '.'",
        ]);
        let key = self.pick(&["'k1'", "'k2'", "'k3'", "'k4'", "'K1'"]);
        let value = self.pick(&["1", "1.0", "'1'", "x'31'", "NULL", "'a'", "'A'"]);
        let other = self.pick(&["1", "2", "3", "NULL", "'a'"]);
        let what = self.roll(13);
        match what {
            0 => self.pick(&["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]).into(),
            1..=4 => format!(
                "INSERT {clause} INTO t VALUES ({key}, {value}, {other}, {value}), ('k5', {other}, {value}, 5) {upsert}"
            ),
            5 => format!("UPDATE {clause} t NOT INDEXED SET id = {key} WHERE b = {other}"),
            6 => format!("UPDATE {clause} t NOT INDEXED SET b = {value}, v = {other}"),
            7 => format!("UPDATE {clause} t NOT INDEXED SET a = {other} WHERE id <= {key} RETURNING *"),
            8 => format!("DELETE FROM t NOT INDEXED WHERE id = {key} OR a = {value}"),
            9 => format!("INSERT {clause} INTO c VALUES ({key} || {other}, {key}, {value})"),
            10 => format!("UPDATE {clause} c NOT INDEXED SET t = {key}, x = {value} WHERE x IS NOT {other}"),
            11 => format!("INSERT {clause} INTO w VALUES ({other}, {key}), (7, 'k1')"),
            _ => format!("UPDATE {clause} w NOT INDEXED SET n = {other}, s = {key} WHERE n <> {other}"),
        }
    }
}

#[tokio::test]
async fn random_scripts() {
    let tables = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a COLLATE NOCASE UNIQUE, b, v TEXT);
        CREATE UNIQUE INDEX t_ab ON t (b, v) WHERE b IS NOT NULL;
        CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, t TEXT REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE, x UNIQUE);
        CREATE TABLE w (n INTEGER NOT NULL CHECK (typeof(n) = 'integer'), s TEXT NOT NULL UNIQUE, PRIMARY KEY (n, s)) WITHOUT ROWID;";
    let triggers = "CREATE TRIGGER t_c AFTER INSERT ON t WHEN NEW.a = 'a' BEGIN INSERT OR IGNORE INTO c VALUES ('t' || NEW.id, NEW.id, NEW.b); END;
        CREATE TRIGGER t_v AFTER UPDATE OF b ON t BEGIN UPDATE t SET v = NEW.b || 'v' WHERE id = NEW.id; END;
        CREATE TRIGGER c_w BEFORE DELETE ON c BEGIN REPLACE INTO w VALUES (length(OLD.id), OLD.id); END;";
    let whole = format!("{tables}{triggers}");
    for seed in 0..48 {
        let mut dice = Dice(seed);
        let (before, after) = if seed % 2 == 0 { (whole.as_str(), "") } else { (tables, triggers) };
        let pair = Pair::new(before, after).await;
        pair.same(&[["PRAGMA recursive_triggers = 1", "PRAGMA foreign_keys = 1"][(seed / 2 % 2) as usize]]);
        if seed % 3 == 0 {
            pair.same(&["PRAGMA foreign_keys = 1"]);
        }
        for _ in 0..40 {
            pair.same(&[&dice.statement()]);
        }
        if !pair.tracked.connection().is_autocommit() {
            pair.same(&["COMMIT"]);
        }
        let (twin, remote) = (Replica::in_memory().unwrap(), fresh_remote());
        run(&twin, tables);
        let mut options = keyed();
        options.enforce_fk = Some(false);
        twin.track_all(&options).await.unwrap();
        sync(&pair.tracked, &remote).await;
        let report = sync(&twin, &remote).await;
        assert_eq!(report.held, 0, "seed {seed}: {:?}", twin.held().await.unwrap());
        for name in ["t", "c", "w"] {
            assert_eq!(table(&pair.tracked, name), table(&twin, name), "seed {seed}: {name}");
        }
    }
}

/// By reading: a row that gets another integer and another unique value at once is no row that it replaces.
#[tokio::test]
async fn a_row_that_is_renumbered_while_its_unique_value_changes_stays_the_same_row() {
    for with_name in ["name UNIQUE", "name"] {
        let schema = format!("CREATE TABLE slot (id INTEGER PRIMARY KEY, pos UNIQUE, {with_name}, note)");
        let make = async || {
            let replica = Replica::in_memory().unwrap();
            run(&replica, &schema);
            replica.track_all(&TrackOptions::default()).await.unwrap();
            replica
        };
        let (a, b, remote) = (make().await, make().await, fresh_remote());
        run(&a, "INSERT INTO slot VALUES (1, 1, 'one', NULL), (2, 2, 'two', NULL)");
        converge(&[&a, &b], &remote).await;
        run(&b, "UPDATE slot SET note = 'theirs' WHERE name = 'one'");
        run(&a, "UPDATE slot SET id = id + 100, pos = pos + 100");
        // And over a row that is there: that one goes.
        run(&a, "UPDATE OR REPLACE slot SET id = 102, pos = 7 WHERE name = 'one'");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            let shown = rows(&replica.connection(), "SELECT pos, name, note FROM slot");
            assert_eq!(shown, ["7|'one'|'theirs'"], "{with_name}");
            assert_verified(replica, &remote).await;
        }
    }
}

/// Found by fuzzing: -2^63 as a real is equal to the integer, and no key.
#[tokio::test]
async fn a_key_that_becomes_the_real_of_its_value_is_refused() {
    let replica = replica("CREATE TABLE t (id INTEGER PRIMARY KEY, v) WITHOUT ROWID").await;
    run(&replica, "INSERT INTO t VALUES (-9223372036854775808, 1)");
    for sql in [
        "UPDATE t SET id = -9223372036854775808.0",
        "INSERT INTO t VALUES (-9223372036854775808.0, 2) ON CONFLICT DO UPDATE SET id = excluded.id",
    ] {
        let error = replica.connection().execute_batch(sql).unwrap_err().to_string();
        assert!(error.contains("the key column id of t must be an integer"), "{error}");
    }
    assert_eq!(rows(&replica.connection(), "SELECT typeof(id) FROM t"), ["'integer'"]);
    assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
}

async fn pair_of(schema: &str) -> (Replica, Replica, zvon::Remote) {
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        replica.track_all(&TrackOptions::default()).await.unwrap();
        replica
    };
    (make().await, make().await, fresh_remote())
}

/// Both replicas show the same by a query, and verify.
async fn alike(replicas: &[&Replica], remote: &zvon::Remote, sql: &str) -> Vec<String> {
    converge(replicas, remote).await;
    let shown = rows(&replicas[0].connection(), sql);
    for replica in replicas {
        assert_eq!(rows(&replica.connection(), sql), shown);
        assert_verified(replica, remote).await;
    }
    shown
}

/// What SQLite keeps of an index ends where its statement does, with a comment that came last.
#[tokio::test]
async fn a_comment_after_the_condition_of_an_index_is_none_of_it() {
    for end in ["-- only live rows\n", "/* live */ ;", "/* unfinished", "-- ;"] {
        let (a, b, remote) = pair_of(&format!(
            "CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT, b TEXT, c INTEGER NOT NULL DEFAULT (1 + 2 -- 3\n) UNIQUE); CREATE UNIQUE INDEX i ON t (a) WHERE b IS NULL {end}"
        ))
        .await;
        converge(&[&a, &b], &remote).await;
        run(&a, "INSERT INTO t VALUES ('1', 'x', NULL, 1)");
        run(&b, "INSERT INTO t VALUES ('2', 'x', NULL, 2)");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT a FROM t").await, ["'x'"]);
        run(&a, "INSERT INTO t VALUES ('4', 'y', NULL, 4); REPLACE INTO t VALUES ('3', 'y', NULL, NULL)");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT id, c FROM t WHERE a = 'y'").await, ["'3'|3"]);
    }
}

/// A trigger looks other rows up by their unique values, whatever the index leaves out.
#[tokio::test]
async fn no_write_scans_its_table_for_a_unique_value() {
    let replica = Replica::in_memory().unwrap();
    run(
        &replica,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b, c, gone TEXT); CREATE UNIQUE INDEX i ON t (a) WHERE gone IS NULL;
         CREATE UNIQUE INDEX j ON t (lower(b)) WHERE c > 1 AND b <> 'or'; CREATE UNIQUE INDEX k ON t (b, c);
         CREATE UNIQUE INDEX l ON t (c) WHERE id > 9;
         CREATE TABLE \"s\"\"s\" (k TEXT PRIMARY KEY, \"old\" TEXT, gone); CREATE UNIQUE INDEX m ON \"s\"\"s\" (\"old\") WHERE gone = 0",
    );
    replica.track_all(&TrackOptions::default()).await.unwrap();
    let conn = replica.connection();
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRIGGER_EQP, true).unwrap();
    for sql in [
        "INSERT INTO t (a, b, c) VALUES ('x', 'y', 3)",
        "UPDATE t SET a = 'x', b = 'y', c = 2, gone = 1 WHERE id = 1",
        "INSERT INTO \"s\"\"s\" VALUES ('a', 'b', 1)",
        "UPDATE \"s\"\"s\" SET \"old\" = 'c', gone = 0 WHERE k = 'a'",
    ] {
        let plan = rows(&conn, &format!("EXPLAIN QUERY PLAN {sql}"));
        assert!(plan.iter().any(|line| line.contains("zv_row")), "{plan:#?}");
        assert!(!plan.iter().any(|line| line.contains("SCAN zv_row")), "{sql}: {plan:#?}");
    }
}

/// A trigger that fills in a key runs after the row is in without one.
#[tokio::test]
async fn a_key_that_a_trigger_fills_in_is_waited_for() {
    let fill = "CREATE TRIGGER fill AFTER INSERT ON t WHEN NEW.id IS NULL BEGIN UPDATE t SET id = lower(hex(randomblob(16))) WHERE rowid = NEW.rowid; END;";
    for (before, after) in [(fill, ""), ("", fill)] {
        let (a, b, remote) = pair_of(&format!("CREATE TABLE t (id TEXT PRIMARY KEY, v UNIQUE); {before}")).await;
        run(&a, after);
        for v in 0..3 {
            run(&a, &format!("INSERT INTO t (v) VALUES ({v}); INSERT OR IGNORE INTO t (v) VALUES ({v})"));
            let shown = alike(&[&a, &b], &remote, "SELECT v, length(id) FROM t ORDER BY v").await;
            assert_eq!(shown.last().unwrap(), &format!("{v}|32"));
            assert_eq!(shown.len(), v + 1);
        }
        // Whatever else is no key is refused as ever, and so is a row that nobody gives one.
        let error = a.connection().execute_batch("INSERT INTO t VALUES (x'00', 7)").unwrap_err().to_string();
        assert!(error.contains("the key column id of t must be text"), "{error}");
        // A trigger that sets a column of that name in another table gives it none (seed 6710293 of the simulation).
        run(&a, "DROP TRIGGER fill; CREATE TABLE other (id TEXT)");
        run(&a, "CREATE TRIGGER elsewhere AFTER INSERT ON t BEGIN UPDATE other SET id = 'x'; END");
        sync(&a, &remote).await;
        let error = a.connection().execute_batch("INSERT INTO t (v) VALUES (8)").unwrap_err().to_string();
        assert!(error.contains("the key column id of t must be text"), "{error}");
    }
}

/// Its trigger did not see to it after all: the row is in the table and in no log, and is told of.
#[tokio::test]
async fn a_row_whose_key_no_trigger_filled_in_is_told_of() {
    let (a, b, remote) =
        pair_of("CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TRIGGER fill AFTER INSERT ON t WHEN NEW.v <> 'kept' BEGIN UPDATE t SET id = 'filled' WHERE rowid = NEW.rowid; END")
            .await;
    run(&a, "INSERT INTO t (v) VALUES ('kept')");
    sync(&a, &remote).await;
    let problems = a.verify().await.unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("key no change can name")), "{problems:?}");
    run(&a, "UPDATE t SET id = 'late'; INSERT INTO t (v) VALUES ('new')");
    assert_eq!(alike(&[&a, &b], &remote, "SELECT * FROM t ORDER BY v").await, ["'late'|'kept'", "'filled'|'new'"]);
}

/// What the trigger wrote is overwritten by the statement that fired it, with what was there before both.
#[tokio::test]
async fn a_trigger_that_writes_the_row_before_an_update_does_hides_nothing_of_that() {
    for body in [
        "UPDATE t SET stamp = 'touched' WHERE id = OLD.id",
        "INSERT INTO other (note) VALUES ('x'); UPDATE OR FAIL t SET \"STAMP\" = 'touched' WHERE id = OLD.id",
        "REPLACE INTO other (id, note) VALUES (1, NEW.name)",
    ] {
        let (a, b, remote) = pair_of(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name, stamp, note); CREATE TABLE other (id INTEGER PRIMARY KEY, note);
             CREATE TRIGGER touch BEFORE UPDATE ON t BEGIN {body}; END;
             CREATE TRIGGER back AFTER INSERT ON other WHEN NEW.id = 1 AND NEW.note = 'm' BEGIN UPDATE t SET stamp = 'indirect'; END"
        ))
        .await;
        run(&a, "INSERT INTO t VALUES (1, 'n', 's', NULL)");
        converge(&[&a, &b], &remote).await;
        run(&a, "UPDATE t SET name = 'm', stamp = 's'");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT name, stamp FROM t").await, ["'m'|'s'"], "{body}");
        run(&a, "UPDATE t SET stamp = 's'");
        alike(&[&a, &b], &remote, "SELECT name, stamp FROM t").await;
        // Columns that the trigger has nothing to do with merge one by one.
        run(&b, "UPDATE t SET note = 'theirs'");
        run(&a, "UPDATE t SET name = 'ours'");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT name, note FROM t").await, ["'ours'|'theirs'"], "{body}");
    }
}

/// Its key is another, so that it is the hidden integer alone that a REPLACE goes by.
#[tokio::test]
async fn a_row_that_is_replaced_over_its_hidden_rowid_is_recorded() {
    for (key, hidden) in [("k TEXT PRIMARY KEY, v", "rowid"), ("k TEXT, v, rowid, PRIMARY KEY (k, v)", "oid")] {
        let (a, b, remote) = pair_of(&format!("CREATE TABLE t ({key})")).await;
        run(&a, "INSERT INTO t (k, v) VALUES ('old', '1'), ('x', '2'), ('y', '3')");
        converge(&[&a, &b], &remote).await;
        run(&a, &format!("INSERT OR REPLACE INTO t ({hidden}, k, v) VALUES (1, 'new', '4')"));
        assert_eq!(alike(&[&a, &b], &remote, "SELECT k FROM t ORDER BY 1").await, ["'new'", "'x'", "'y'"]);
        run(&a, &format!("UPDATE OR REPLACE t SET {hidden} = 1 WHERE k = 'x'"));
        assert_eq!(alike(&[&a, &b], &remote, "SELECT k FROM t ORDER BY 1").await, ["'x'", "'y'"]);
        run(&a, "UPDATE OR REPLACE t SET _rowid_ = 3, v = '9', k = 'y' WHERE k = 'x'; UPDATE t SET _rowid_ = 3");
        assert_eq!(alike(&[&a, &b], &remote, "SELECT k, v FROM t").await, ["'y'|'9'"]);
        run(
            &a,
            &format!(
                "INSERT OR REPLACE INTO t ({hidden}, k, v) SELECT _rowid_, k || k, v FROM t; INSERT INTO t (k, v) VALUES ('z', '0')"
            ),
        );
        assert_eq!(alike(&[&a, &b], &remote, "SELECT k FROM t ORDER BY 1").await, ["'yy'", "'z'"]);
    }
}
