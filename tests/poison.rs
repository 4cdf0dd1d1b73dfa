//! One row of each kind that a table refuses, among ten thousand good ones: the good ones merge, the others are held with a
//! reason that says so in words, and each is shown once its cause is gone.

mod common;

use common::*;
use zvon::{AlterOptions, Replica};

/// What a poison row's table is called, how it stands where it is written and where it is refused, the row, and why.
struct Poison {
    table: &'static str,
    loose: &'static str,
    strict: &'static str,
    row: &'static str,
    reason: &'static str,
    words: &'static str,
}

const ANY: &str = "(id TEXT PRIMARY KEY, v)";

const POISONS: [Poison; 8] = [
    Poison {
        table: "u",
        loose: ANY,
        strict: "CREATE TABLE u (id TEXT PRIMARY KEY, v UNIQUE)",
        row: "7",
        reason: "unique",
        words: "the row 7 has the same value of (v), and took it first",
    },
    Poison {
        table: "f",
        loose: ANY,
        strict: "CREATE TABLE f (id TEXT PRIMARY KEY, v REFERENCES parent)",
        row: "'nobody'",
        reason: "foreign key",
        words: "its parent in parent (by v) is not here or not shown",
    },
    Poison {
        table: "n",
        loose: ANY,
        strict: "CREATE TABLE n (id TEXT PRIMARY KEY, v NOT NULL)",
        row: "NULL",
        reason: "not null",
        words: "a value is missing: NOT NULL constraint failed: n.v",
    },
    Poison {
        table: "c",
        loose: ANY,
        strict: "CREATE TABLE c (id TEXT PRIMARY KEY, v CHECK (v < 1000000))",
        row: "1000000",
        reason: "check",
        words: "a CHECK refuses the row: CHECK constraint failed: v < 1000000",
    },
    Poison {
        table: "s",
        loose: ANY,
        strict: "CREATE TABLE s (id TEXT PRIMARY KEY, v INTEGER) STRICT",
        row: "'text'",
        reason: "type",
        words: "a value has another type than its column allows: cannot store TEXT value in INTEGER column s.v",
    },
    Poison {
        table: "ta",
        loose: ANY,
        strict: "CREATE TABLE ta (id TEXT PRIMARY KEY, v);
            CREATE TRIGGER cause_ta BEFORE INSERT ON ta WHEN NEW.v = -13 BEGIN SELECT RAISE(ABORT, 'thirteen'); END",
        row: "-13",
        reason: "trigger",
        words: "a trigger refuses the row: thirteen",
    },
    Poison {
        table: "ti",
        loose: ANY,
        strict: "CREATE TABLE ti (id TEXT PRIMARY KEY, v);
            CREATE TRIGGER cause_ti BEFORE INSERT ON ti WHEN NEW.v = -13 BEGIN SELECT RAISE(IGNORE); END",
        row: "-13",
        reason: "trigger",
        words: "a trigger ignores the row",
    },
    Poison {
        table: "tr",
        loose: ANY,
        strict: "CREATE TABLE tr (id TEXT PRIMARY KEY, v);
            CREATE TRIGGER cause_tr BEFORE INSERT ON tr WHEN NEW.v = -13 BEGIN SELECT RAISE(ROLLBACK, 'thirteen'); END",
        row: "-13",
        reason: "trigger",
        words: "a trigger refuses the row: thirteen",
    },
];

const GOOD: u64 = 10_000;
/// One of each kind, and a row of an unknown table, and one with an unknown column.
const BAD: u64 = POISONS.len() as u64 + 2;

/// The replica that takes anything, with its rows written.
async fn writer() -> Replica {
    let tables: Vec<String> = POISONS.iter().map(|p| format!("CREATE TABLE {} {};", p.table, p.loose)).collect();
    let schema = format!(
        "{} CREATE TABLE parent (id TEXT PRIMARY KEY); CREATE TABLE strange {ANY}; CREATE TABLE k (id TEXT PRIMARY KEY, v, extra)",
        tables.concat()
    );
    let writer = replica(&schema).await;
    let each = GOOD / (POISONS.len() as u64 + 1);
    let good = |table: &str, count: u64, value: &str, column: &str| {
        let numbers = format!("WITH n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})");
        run(&writer, &format!("{numbers} INSERT INTO {table} (id{column}) SELECT n, {value} FROM n"));
    };
    run(&writer, "INSERT INTO parent VALUES ('somebody')");
    for poison in &POISONS {
        let value = if poison.table == "f" { "'somebody'" } else { "n" };
        good(poison.table, each, value, ", v");
    }
    good("k", GOOD - 1 - each * POISONS.len() as u64, "n", ", v");
    for poison in &POISONS {
        run(&writer, &format!("INSERT INTO {} VALUES ('poison', {})", poison.table, poison.row));
    }
    run(&writer, "INSERT INTO strange VALUES ('poison', 1); UPDATE k SET extra = 'more' WHERE id = '1'");
    writer
}

async fn reader() -> Replica {
    let tables: Vec<&str> = POISONS.iter().map(|poison| poison.strict).collect();
    replica(&format!("{}; CREATE TABLE parent (id TEXT PRIMARY KEY); CREATE TABLE k {ANY}", tables.join(";"))).await
}

async fn held(replica: &Replica) -> Vec<String> {
    let held = replica.held().await.unwrap().rows;
    held.into_iter().map(|held| format!("{}/{} {}: {}", held.table, held.row, held.reason, held.detail)).collect()
}

/// Which tables' poison is still held, once a sync has looked again.
async fn still_held(reader: &Replica, remote: &zvon::Remote) -> Vec<String> {
    let report = sync(reader, remote).await;
    let mut held: Vec<String> = reader.held().await.unwrap().rows.into_iter().map(|held| held.table).collect();
    held.sort();
    assert_eq!(report.held, held.len() as u64);
    assert_verified(reader, remote).await;
    held
}

#[tokio::test]
async fn each_kind_among_ten_thousand_good_rows() {
    let (a, b, remote) = (writer().await, reader().await, fresh_remote());
    // The good rows of `k` are one fewer than the numbers say, as the parent is one; its insert of `extra` is NULL.
    let pushed = sync(&a, &remote).await.pushed;
    assert_eq!(pushed, GOOD + BAD);
    let report = sync(&b, &remote).await;
    assert_eq!((report.pulled, report.held), (GOOD + BAD, POISONS.len() as u64));
    assert_verified(&b, &remote).await;

    let mut wanted: Vec<String> =
        POISONS.iter().map(|p| format!("{}/poison {}: {}", p.table, p.reason, p.words)).collect();
    let mut told = held(&b).await;
    wanted.sort();
    told.sort();
    assert_eq!(told, wanted);
    let unknown = b.held().await.unwrap().unknown;
    let unknown: Vec<(&str, Option<&str>)> = unknown.iter().map(|u| (u.table.as_str(), u.column.as_deref())).collect();
    assert_eq!(unknown, [("k", Some("extra")), ("strange", None)]);
    for poison in &POISONS {
        assert_eq!(table(&b, poison.table).len(), table(&a, poison.table).len() - 1, "{}", poison.table);
    }
    assert_eq!(table(&b, "k").len(), table(&a, "k").len());

    // A sync that finds nothing new changes nothing.
    let again = sync(&b, &remote).await;
    assert_eq!((again.pulled, again.merged, again.held), (0, 0, POISONS.len() as u64));

    heal(&a, &b, &remote).await;
    for poison in &POISONS {
        assert_eq!(table(&b, poison.table), table(&a, poison.table), "{}", poison.table);
    }
    assert_eq!(table(&b, "k"), table(&a, "k"));
    assert_eq!(table(&b, "strange"), ["'poison'|1"]);
    let status = b.status().await.unwrap();
    assert_eq!((status.held, status.unknown, status.unmerged), (0, 0, 0));
}

/// Takes one cause away after another.
async fn heal(a: &Replica, b: &Replica, remote: &zvon::Remote) {
    // The triggers go, and nothing else happens.
    run(b, "DROP TRIGGER cause_ta; DROP TRIGGER cause_ti; DROP TRIGGER cause_tr");
    assert_eq!(still_held(b, remote).await, ["c", "f", "n", "s", "u"]);

    // The tables are built anew without what refused the rows.
    for (name, sql) in [("n", ANY), ("c", ANY), ("s", "(id TEXT PRIMARY KEY, v)")] {
        b.alter_begin(&[name]).await.unwrap();
        run(
            b,
            &format!(
                "CREATE TABLE fresh {sql}; INSERT INTO fresh SELECT * FROM {name}; DROP TABLE {name}; ALTER TABLE fresh RENAME TO {name}"
            ),
        );
        b.alter_end(name, &AlterOptions::default()).await.unwrap();
    }
    assert_eq!(still_held(b, remote).await, ["f", "u"]);

    // The parent comes, and the other row gives the value up.
    run(a, "INSERT INTO parent VALUES ('nobody')");
    sync(a, remote).await;
    assert_eq!(still_held(b, remote).await, ["u"]);
    run(a, "UPDATE u SET v = 'another' WHERE id = '7'");
    sync(a, remote).await;
    assert_eq!(still_held(b, remote).await, [] as [&str; 0]);

    // The table and the column are there.
    run(b, &format!("CREATE TABLE strange {ANY}; ALTER TABLE k ADD COLUMN extra"));
    b.track(&["strange"], &keyed()).await.unwrap();
    sync(b, remote).await;
    assert_verified(b, remote).await;
}
