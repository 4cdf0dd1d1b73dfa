//! What capture records: exactly what a program wrote, as it stands, and nothing where nothing changed.

mod common;

use common::*;
use zvon::Replica;

/// The changes since the last look, oldest first: table, row and what was written.
struct News<'a> {
    replica: &'a Replica,
    seen: usize,
}

impl<'a> News<'a> {
    async fn of(replica: &'a Replica) -> Self {
        let mut news = Self { replica, seen: 0 };
        news.look().await;
        news
    }

    async fn look(&mut self) -> Vec<String> {
        // Reading the history seals the journal.
        self.replica.log(None, None, 0).await.unwrap();
        let sql = "SELECT c.entity_type || '/' || c.entity_id || (SELECT group_concat(' ' || f.field_name || '=' || quote(f.field_value), '') \
                   FROM ZV_CHANGE_FIELD AS f WHERE f.change_id = c.id) FROM ZV_CHANGE AS c ORDER BY c.id";
        let lines = rows(&self.replica.connection(), sql);
        let new = lines[self.seen..].iter().map(|line| line[1..line.len() - 1].to_owned()).collect();
        self.seen = lines.len();
        new
    }

    async fn after(&mut self, sql: &str) -> Vec<String> {
        run(self.replica, sql);
        self.look().await
    }
}

#[tokio::test]
async fn exactly_the_columns_that_changed() {
    let replica =
        replica("CREATE TABLE t (id TEXT PRIMARY KEY, name TEXT COLLATE NOCASE, free, n INTEGER, r REAL, b BLOB)")
            .await;
    let mut news = News::of(&replica).await;
    assert_eq!(
        news.after("INSERT INTO t VALUES ('k', 'bob', 1, 1, 1, x'c0')").await,
        ["t/k b=X'C0C0' free=1 n=1 name='bob' r=1.0"]
    );
    assert_eq!(news.after("UPDATE t SET name = 'Bob', n = 1, r = 1").await, ["t/k name='Bob'"]);
    assert_eq!(news.after("UPDATE t SET free = 1.0").await, ["t/k free=1.0"]);
    assert_eq!(news.after("UPDATE t SET free = '1.0', n = '1', r = '1.0'").await, ["t/k free='1.0'"]);
    assert_eq!(news.after("UPDATE t SET free = x'312e30', b = NULL").await, ["t/k b=X'C0' free=X'312E30'"]);
    assert_eq!(news.after("UPDATE t SET b = b, name = NULL; UPDATE t SET name = NULL").await, ["t/k name=X'C0'"]);
    assert_eq!(news.after("UPDATE t SET id = id, name = name; UPDATE t SET n = 2 WHERE 0").await, [] as [&str; 0]);
    assert_eq!(news.after("INSERT INTO t (id) VALUES ('k') ON CONFLICT DO UPDATE SET n = n").await, [] as [&str; 0]);
    assert_eq!(news.after("INSERT OR IGNORE INTO t (id, n) VALUES ('k', 9)").await, [] as [&str; 0]);
    assert_eq!(
        news.after("UPDATE t SET n = 3; UPDATE t SET n = 4; UPDATE t SET n = 3").await,
        ["t/k n=3", "t/k n=4", "t/k n=3"]
    );
    assert_eq!(news.after("BEGIN; DELETE FROM t; ROLLBACK").await, [] as [&str; 0]);
    assert_eq!(news.after("DELETE FROM t").await, ["t/k zv_deleted=1"]);
}

#[tokio::test]
async fn the_row_as_it_stands_after_an_application_trigger() {
    let table = "CREATE TABLE t (id TEXT PRIMARY KEY, v, updated_at INTEGER DEFAULT 0);";
    let trigger = "CREATE TRIGGER stamp AFTER UPDATE OF v ON t BEGIN UPDATE t SET updated_at = updated_at + 1 WHERE id = NEW.id; END;
        CREATE TRIGGER lower AFTER INSERT ON t BEGIN UPDATE t SET v = lower(v) WHERE id = NEW.id; END;";
    for ours_first in [true, false] {
        let (before, after) = if ours_first { (table.to_owned() + trigger, "") } else { (table.to_owned(), trigger) };
        let replica = replica(&before).await;
        run(&replica, after);
        let mut news = News::of(&replica).await;
        // `lower` writes v, and so sets `stamp` off; the last change of each column says what the row is at the end.
        let changes = news.after("INSERT INTO t VALUES ('k', 'ABC', 0)").await;
        assert_eq!(last_written(&changes, "v"), "'abc'", "{changes:?}");
        assert_eq!(last_written(&changes, "updated_at"), "1", "{changes:?}");
        let changes = news.after("UPDATE t SET v = 'd'").await;
        assert_eq!(last_written(&changes, "v"), "'d'", "{changes:?}");
        assert_eq!(last_written(&changes, "updated_at"), "2", "{changes:?}");
    }
}

fn last_written(changes: &[String], column: &str) -> String {
    let fields = changes.iter().flat_map(|change| change.split(' ').skip(1));
    let last = fields.filter_map(|field| field.strip_prefix(&format!("{column}="))).last();
    last.unwrap_or("nothing").to_owned()
}

#[tokio::test]
async fn rows_that_a_replace_removes() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, email TEXT UNIQUE COLLATE NOCASE, a, b, UNIQUE (a, b));
        CREATE TABLE d (id TEXT PRIMARY KEY, v TEXT NOT NULL DEFAULT 'd' UNIQUE);
        CREATE TABLE g (id TEXT PRIMARY KEY, n INTEGER, twice AS (n * 2) UNIQUE);
        CREATE TABLE f (id TEXT PRIMARY KEY, v);
        CREATE UNIQUE INDEX f_some ON f (v) WHERE v > 10;
        INSERT INTO t VALUES ('1', 'a@x', 1, 1), ('2', 'b@x', 2, 2), ('3', NULL, 3, NULL), ('4', NULL, 3, NULL);
        INSERT INTO d VALUES ('1', 'd'), ('2', 'e');
        INSERT INTO g (id, n) VALUES ('1', 1), ('2', 2), ('3', 3);
        INSERT INTO f VALUES ('1', 1), ('2', 20);";
    for recursive in ["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"] {
        let replica = replica(schema).await;
        run(&replica, recursive);
        let mut news = News::of(&replica).await;
        let mut gone = async |sql: &str| {
            let mut changes = news.after(sql).await;
            changes.retain(|change| change.ends_with("zv_deleted=1"));
            // They are removed at once, in no order.
            changes.sort();
            changes.dedup();
            changes
        };
        assert_eq!(gone("REPLACE INTO t VALUES ('5', 'A@X', 2, 2)").await, ["t/1 zv_deleted=1", "t/2 zv_deleted=1"]);
        assert_eq!(gone("REPLACE INTO t VALUES ('6', NULL, 3, NULL)").await, [] as [&str; 0]);
        assert_eq!(gone("UPDATE OR REPLACE t SET email = 'a@x' WHERE id = '3'").await, ["t/5 zv_deleted=1"]);
        assert_eq!(gone("INSERT OR IGNORE INTO t (id, email) VALUES ('7', 'a@x')").await, [] as [&str; 0]);
        assert_eq!(gone("INSERT INTO t (id, email) VALUES ('7', 'a@x') ON CONFLICT DO NOTHING").await, [] as [&str; 0]);
        assert!(gone("UPDATE OR REPLACE t SET id = '4' WHERE id = '3'").await.contains(&"t/3 zv_deleted=1".to_owned()));
        // A NULL in a NOT NULL column with a default becomes the default after the BEFORE triggers have run.
        assert_eq!(gone("REPLACE INTO d VALUES ('3', NULL)").await, ["d/1 zv_deleted=1"]);
        assert_eq!(gone("UPDATE OR REPLACE d SET v = NULL WHERE id = '2'").await, ["d/3 zv_deleted=1"]);
        assert_eq!(gone("REPLACE INTO g (id, n) VALUES ('4', 1)").await, ["g/1 zv_deleted=1"]);
        assert_eq!(gone("UPDATE OR REPLACE g SET n = 2 WHERE id = '3'").await, ["g/2 zv_deleted=1"]);
        assert_eq!(gone("REPLACE INTO f VALUES ('3', 1), ('4', 20)").await, ["f/2 zv_deleted=1"]);
    }
}

#[tokio::test]
async fn deletes_and_the_triggers_that_undo_them() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, v);
        INSERT INTO t VALUES ('kept', 1), ('back', 1), ('gone', 1);
        CREATE TRIGGER keep BEFORE DELETE ON t WHEN OLD.id = 'kept' BEGIN SELECT RAISE(IGNORE); END;
        CREATE TRIGGER back AFTER DELETE ON t WHEN OLD.id = 'back' BEGIN INSERT INTO t VALUES (OLD.id, OLD.v); END;";
    let (replica, twin, remote) =
        (replica(schema).await, replica("CREATE TABLE t (id TEXT PRIMARY KEY, v)").await, fresh_remote());
    let mut news = News::of(&replica).await;
    let changes = news.after("DELETE FROM t").await;
    assert!(changes.contains(&"t/gone zv_deleted=1".to_owned()), "{changes:?}");
    assert!(!changes.iter().any(|change| change.starts_with("t/kept")), "{changes:?}");
    converge(&[&replica, &twin], &remote).await;
    assert_eq!(table(&twin, "t"), ["'back'|1", "'kept'|1"]);
    assert_eq!(table(&replica, "t"), table(&twin, "t"));
}

#[tokio::test]
async fn a_key_change_is_a_delete_and_an_insert() {
    let replica = replica(
        "CREATE TABLE t (id TEXT PRIMARY KEY, a, b); CREATE TABLE p (a TEXT, b INTEGER, PRIMARY KEY (a, b));
         CREATE TABLE n (id INTEGER PRIMARY KEY, v); CREATE TABLE c (id TEXT PRIMARY KEY, n REFERENCES n ON UPDATE CASCADE)",
    )
    .await;
    run(&replica, "PRAGMA foreign_keys = ON");
    let mut news = News::of(&replica).await;
    assert_eq!(
        news.after("INSERT INTO t VALUES ('k', 1, 2); UPDATE t SET id = 'l', a = 3").await,
        ["t/k a=1 b=2", "t/k zv_deleted=1", "t/l a=3 b=2"]
    );
    assert_eq!(news.after("UPDATE t SET id = 'L'").await, ["t/l zv_deleted=1", "t/L a=3 b=2"]);
    assert_eq!(
        news.after("INSERT INTO p VALUES ('x/y', 7); UPDATE p SET b = 8").await,
        ["p/x~1y/#7 zv_deleted=0", "p/x~1y/#7 zv_deleted=1", "p/x~1y/#8 zv_deleted=0"]
    );
    assert_eq!(news.after("DELETE FROM p").await, ["p/x~1y/#8 zv_deleted=1"]);
    assert_eq!(
        news.after("INSERT INTO n VALUES (1, 'v'); INSERT INTO c VALUES ('c', 1); UPDATE n SET id = 2").await,
        ["n/1 v='v'", "c/c n=1", "c/c n=2", "n/1 zv_deleted=1", "n/2 v='v'"]
    );
}

/// What is wrong with a statement, in the trigger's words.
fn refusal(replica: &Replica, sql: &str) -> String {
    match replica.connection().execute_batch(sql) {
        Ok(()) => panic!("{sql} is not refused"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn keys_that_are_refused() {
    let replica = replica(
        "CREATE TABLE t (id TEXT PRIMARY KEY, v); CREATE TABLE \"o'd\" (a, \"b'c\", v, PRIMARY KEY (a, \"b'c\"));
         CREATE TABLE i (id INT PRIMARY KEY, v)",
    )
    .await;
    let mut news = News::of(&replica).await;
    for or in ["", "OR IGNORE", "OR REPLACE", "OR FAIL"] {
        for (sql, why) in [
            ("INTO t VALUES (NULL, 1)", "zvon: the key column id of t must be text"),
            ("INTO t VALUES (x'41', 1)", "zvon: the key column id of t must be text"),
            ("INTO t VALUES ('a' || char(0), 1)", "zvon: the key column id of t must have no NUL in it"),
            ("INTO t VALUES (char(0), 1)", "zvon: the key column id of t must have no NUL in it"),
            ("INTO t VALUES (CAST(x'ff' AS TEXT), 1)", "zvon: the key column id of t must be valid UTF-8"),
            ("INTO t VALUES (CAST(x'61c3' AS TEXT), 1)", "zvon: the key column id of t must be valid UTF-8"),
            ("INTO t VALUES (CAST(x'eda080' AS TEXT), 1)", "zvon: the key column id of t must be valid UTF-8"),
            ("INTO t VALUES (CAST(x'c080' AS TEXT), 1)", "zvon: the key column id of t must be valid UTF-8"),
            ("INTO \"o'd\" VALUES (1, 1.5, 1)", "zvon: the key column b'c of o'd must be text, an integer or a blob"),
            ("INTO \"o'd\" VALUES (NULL, 1, 1)", "zvon: the key column a of o'd must be text, an integer or a blob"),
            ("INTO i VALUES (1.5, 1)", "zvon: the key column id of i must be an integer"),
            ("INTO i VALUES ('x', 1)", "zvon: the key column id of i must be an integer"),
        ] {
            assert_eq!(refusal(&replica, &format!("INSERT {or} {sql}")), why, "INSERT {or} {sql}");
        }
    }
    run(&replica, "INSERT INTO t VALUES ('é🔔', 1), (5, 2), ('', 3); INSERT INTO \"o'd\" VALUES (1, x'00', 1)");
    run(&replica, "INSERT INTO i VALUES ('7', 1), (8.0, 1)");
    assert_eq!(news.look().await, ["t/é🔔 v=1", "t/5 v=2", "t/ v=3", "o'd/#1/#x00 v=1", "i/7 v=1", "i/8 v=1"]);
    for (sql, why) in [
        ("UPDATE t SET id = NULL", "zvon: the key column id of t must be text"),
        (
            "UPDATE OR IGNORE t SET id = 'x' || char(0) WHERE id = '5'",
            "zvon: the key column id of t must have no NUL in it",
        ),
        // Equal to the old value, but of a class that no entity id has.
        ("UPDATE \"o'd\" SET a = 1.0", "zvon: the key column a of o'd must be text, an integer or a blob"),
    ] {
        assert_eq!(refusal(&replica, sql), why, "{sql}");
    }
    assert_eq!(news.look().await, [] as [&str; 0]);
}

#[tokio::test]
async fn real_values_in_keys_without_a_type_cannot_hide_from_capture() {
    let replica = replica("CREATE TABLE t (id PRIMARY KEY, v)").await;
    run(&replica, "INSERT INTO t VALUES (1, 'v')");
    assert_eq!(
        refusal(&replica, "UPDATE t SET id = 1.0"),
        "zvon: the key column id of t must be text, an integer or a blob"
    );
    let mut news = News::of(&replica).await;
    assert_eq!(news.after("DELETE FROM t").await, ["t/#1 zv_deleted=1"]);
}

#[tokio::test]
async fn writes_that_newer_triggers_hide_are_found_by_the_next_sync() {
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, v); INSERT INTO t VALUES ('old', 1), ('out', 1);";
    let (a, b, remote) =
        (replica(schema).await, replica("CREATE TABLE t (id TEXT PRIMARY KEY, v)").await, fresh_remote());
    converge(&[&a, &b], &remote).await;
    // SQLite abandons the triggers that would run after such a one, and the rows stay as they were written.
    run(
        &a,
        "CREATE TRIGGER i AFTER INSERT ON t WHEN NEW.v = 'hide' BEGIN SELECT RAISE(IGNORE); END;
         CREATE TRIGGER u AFTER UPDATE ON t WHEN NEW.v = 'hide' BEGIN SELECT RAISE(FAIL, 'failed'); END;
         CREATE TRIGGER d AFTER DELETE ON t BEGIN SELECT RAISE(IGNORE); END;
         INSERT INTO t VALUES ('new', 'hide'); DELETE FROM t WHERE id = 'out';",
    );
    assert_eq!(refusal(&a, "UPDATE t SET v = 'hide' WHERE id = 'old'"), "failed");
    assert_eq!(table(&a, "t"), ["'new'|'hide'", "'old'|'hide'"]);
    let report = sync(&a, &remote).await;
    assert!(report.notices.iter().any(|notice| notice.contains("hid writes")), "{:?}", report.notices);
    sync(&b, &remote).await;
    assert_eq!(table(&b, "t"), ["'new'|'hide'", "'old'|'hide'"]);

    // From then on capture comes first, and nothing is hidden from it.
    let mut news = News::of(&a).await;
    assert_eq!(
        news.after("INSERT INTO t VALUES ('newer', 'hide'); DELETE FROM t WHERE id = 'new'").await,
        ["t/newer v='hide'", "t/new zv_deleted=1"]
    );
    assert_eq!(sync(&a, &remote).await.notices, [] as [&str; 0]);
}
