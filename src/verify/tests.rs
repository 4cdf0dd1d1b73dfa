//! Small replicas made by hand, whole at first, then damaged in one way at a time.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use super::verify;
use crate::capture::{TrackOptions, seal, track, untrack};
use crate::changelog::{Log, Names, NewChange, hold};
use crate::db::{Metadata, bind_value, create_replica, immediate, set_metadata};
use crate::model::{ChangeId, Clock, DELETED_COLUMN, Register, Value};
use crate::world::World;

const NOW: u64 = 1_800_000_000_000;

struct Replica {
    conn: Connection,
    world: World,
}

impl Replica {
    fn new(schema: &str) -> Self {
        let mut conn = Connection::open_in_memory().unwrap();
        create_replica(&mut conn, "019a9f3c-0c00-7000-8000-000000000001").unwrap();
        conn.execute_batch(schema).unwrap();
        let count = AtomicU64::new(0);
        Self { conn, world: World::new(|| NOW, move || count.fetch_add(1, Ordering::Relaxed)) }
    }

    fn log<T>(&mut self, work: impl FnOnce(&mut Log<'_>, &World) -> T) -> T {
        let tx = immediate(&mut self.conn).unwrap();
        let mut log = Log::new(&tx).unwrap();
        let done = work(&mut log, &self.world);
        log.finish().unwrap();
        tx.commit().unwrap();
        done
    }

    fn track(&mut self, table: &str, excluded: &[&str]) {
        let excluded = excluded.iter().map(|name| name.to_string()).collect();
        let options = TrackOptions { excluded, identity_key: true, ..TrackOptions::default() };
        self.log(|log, world| track(log, world, table, &options).unwrap());
    }

    /// Writes as a program does, sealed.
    fn write(&mut self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
        seal(&mut self.conn, &self.world).unwrap();
    }

    /// Damages the replica, past its capture; `{links}` stands for that table's number.
    fn damage(&mut self, sql: &str) {
        self.conn.pragma_update(None, "foreign_keys", false).unwrap();
        let links = self.table_no("links").map(|no| no.to_string()).unwrap_or_default();
        self.conn.execute_batch(&sql.replace("{links}", &links)).unwrap();
        self.conn.execute_batch("DELETE FROM ZV_JOURNAL").unwrap();
    }

    /// A change of elsewhere, `n` milliseconds after the own ones or, where negative, before them; not merged yet.
    fn pull(&mut self, n: i64, table: &str, row: &str, fields: &[(&str, Value)]) -> ChangeId {
        let id = Clock::lower_bound(NOW.checked_add_signed(n).unwrap() + 400_000_000_000);
        self.log(|log, _| {
            let change = NewChange { id, author: "elsewhere", entity_type: table, entity_id: row, own: false };
            assert!(log.append(change).unwrap());
            for (name, value) in fields {
                let sql = "INSERT INTO ZV_CHANGE_FIELD (change_id, field_name, field_value) VALUES (?1, ?2, ?3)";
                let value = value.clone().into_logged();
                log.conn.execute(sql, (id.to_string(), name, bind_value(&value))).unwrap();
            }
        });
        id
    }

    /// What a merge records of a change that it folds: registers, clock, cursor.
    fn merge(&mut self, id: ChangeId, table: &str, row: &str, columns: &[(&str, bool)], shown: bool) {
        self.log(|log, _| {
            let table_no = log.names.number(log.conn, table).unwrap();
            for (column, deleted) in columns {
                let no = log.names.number(log.conn, column).unwrap();
                assert!(no != DELETED_COLUMN || *column == "zv_deleted");
                let write = Register { id, own: false, deleted: *deleted };
                log.entity(table_no, row).unwrap().fold(no, write);
            }
            log.entity(table_no, row).unwrap().set_shown(shown);
            log.clock.observe(id);
            log.conn.execute("UPDATE ZV_CHANGE SET merged = 1 WHERE id = ?1", [id.to_string()]).unwrap();
        });
        self.merged_all();
    }

    fn merged_all(&mut self) {
        let end: i64 = self.conn.query_row("SELECT max(seq) FROM ZV_SEQUENCE", [], |row| row.get(0)).unwrap();
        set_metadata(&self.conn, Metadata::MergedSeq, end).unwrap();
    }

    /// What a merge records of a change that waits for a table, or for a column of it.
    fn wait(&mut self, id: ChangeId, table: &str, column: Option<&str>) {
        self.log(|log, _| {
            let table_no = log.names.number(log.conn, table).unwrap();
            let column_no = column.map(|name| log.names.number(log.conn, name).unwrap());
            let sql = "INSERT INTO ZV_PENDING (change_id, table_no, column_no) VALUES (?1, ?2, ?3)";
            log.conn.execute(sql, (id.as_bytes(), table_no, column_no)).unwrap();
            log.conn.execute("UPDATE ZV_CHANGE SET merged = 0 WHERE id = ?1", [id.to_string()]).unwrap();
            log.clock.observe(id);
        });
        self.merged_all();
    }

    fn table_no(&self, name: &str) -> Option<u32> {
        Names::find(&self.conn, name).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        let report = verify(&self.conn, &|_| {}).unwrap();
        assert_eq!(report.problems.len() as u64, report.problem_count);
        assert!(self.conn.is_autocommit());
        report.problems
    }

    /// Each problem has its phrase, in order, and there are no others.
    #[track_caller]
    fn assert_problems(&self, phrases: &[&str]) {
        let problems = self.problems();
        let fits = problems.iter().zip(phrases).all(|(problem, phrase)| problem.contains(phrase));
        assert!(fits && problems.len() == phrases.len(), "wanted {phrases:#?}, got {problems:#?}");
    }
}

fn text(text: &str) -> Value {
    Value::text(text)
}

const SCHEMA: &str = "
    CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT, stars INT DEFAULT 3, private);
    CREATE TABLE links (a TEXT, b INTEGER, PRIMARY KEY (a, b));
    CREATE TABLE other (id INTEGER PRIMARY KEY, a);
    INSERT INTO notes VALUES ('old', 'was here', 1, 'mine');";

/// Rows of every kind: backfilled, written, deleted, deleted and revived, pulled, held, of keys alone, not tracked.
fn replica() -> Replica {
    let mut r = Replica::new(SCHEMA);
    r.track("notes", &["private"]);
    r.track("links", &[]);
    r.write(
        "INSERT INTO notes VALUES ('new', 'x', 2, NULL), ('gone', 'y', NULL, NULL), ('back', 'z', 1, NULL);
         UPDATE notes SET body = x'C0', stars = 7 WHERE id = 'new';
         DELETE FROM notes WHERE id IN ('gone', 'back');
         INSERT INTO notes VALUES ('back', 'again', NULL, 5);
         INSERT INTO links VALUES ('x/y', 1), ('z', 2); DELETE FROM links WHERE a = 'z';
         INSERT INTO other VALUES (1, 2);",
    );
    let id = r.pull(1, "NOTES", "far", &[("BODY", text("from afar")), ("id", text("ignored"))]);
    r.merge(id, "notes", "far", &[("body", false)], true);
    r.damage("INSERT INTO notes VALUES ('far', 'from afar', 3, NULL)");
    let id = r.pull(2, "notes", "held", &[("stars", Value::Integer(9)), ("private", text("theirs"))]);
    r.merge(id, "notes", "held", &[("stars", false), ("private", false)], false);
    hold(&r.conn, r.table_no("notes").unwrap(), "held", "check", "because").unwrap();
    r
}

#[test]
fn a_whole_replica_has_no_problems() {
    let r = replica();
    r.assert_problems(&[]);
    let calls = RefCell::new(Vec::new());
    let report = verify(&r.conn, &|done| calls.borrow_mut().push(done)).unwrap();
    let changes: u64 = r.conn.query_row("SELECT count(*) FROM ZV_CHANGE", [], |row| row.get(0)).unwrap();
    assert_eq!((report.changes, report.rows), (changes, 8));
    assert_eq!(calls.into_inner(), [changes]);
}

#[test]
fn it_runs_within_a_transaction_of_the_callers_too() {
    let mut r = replica();
    let tx = r.conn.transaction().unwrap();
    assert_eq!(verify(&tx, &|_| {}).unwrap().problem_count, 0);
}

#[test]
fn the_walk_reads_no_table_once_for_each_change() {
    let plan = super::log::plan(&replica().conn);
    let searches = plan.iter().filter(|step| step.starts_with("SEARCH s ") || step.starts_with("SEARCH waits "));
    assert!(searches.clone().count() == 2 && searches.clone().all(|step| step.contains("AUTOMATIC")), "{plan:#?}");
    let scans: Vec<_> = plan.iter().filter(|step| step.starts_with("SCAN ")).collect();
    assert!(!scans.iter().any(|step| step.contains(" s ") || step.ends_with(" s")), "{plan:#?}");
}

/// Each damage, and the problems that it must be seen as.
#[track_caller]
fn assert_damages(damages: &[(&str, &[&str])]) {
    for (sql, phrases) in damages {
        let mut r = replica();
        r.damage(sql);
        println!("{sql}");
        r.assert_problems(phrases);
    }
}

#[test]
fn damaged_rows_are_seen() {
    assert_damages(&[
        ("UPDATE notes SET body = 'X' WHERE id = 'back'", &["notes row \"back\": column body is not what"]),
        ("UPDATE notes SET body = 'was Here' WHERE id = 'old'", &["notes row \"old\": column body is not"]),
        ("UPDATE notes SET stars = NULL WHERE id = 'far'", &["notes row \"far\": column stars is not what"]),
        ("UPDATE notes SET body = CAST(body AS TEXT) WHERE id = 'new'", &["notes row \"new\": column body"]),
        ("UPDATE notes SET private = 'anything'", &[]),
        ("DELETE FROM notes WHERE id = 'new'", &["notes row \"new\": is not in the table, though"]),
        ("DELETE FROM links WHERE a = 'x/y'", &["links row \"x~1y/#1\": is not in the table, though"]),
        (
            "INSERT INTO notes (id) VALUES ('gone')",
            &["notes row \"gone\": is in the table, though the log says that it"],
        ),
        (
            "INSERT INTO notes (id) VALUES ('held')",
            &["notes row \"held\": is in the table, though it is listed as held"],
        ),
        ("INSERT INTO notes (id) VALUES ('stray')", &["notes row \"stray\": is in the table, and no merged change"]),
        ("INSERT INTO other VALUES (2, 2)", &[]),
    ]);
}

#[test]
fn a_row_with_an_impossible_key_is_seen() {
    let mut r = replica();
    r.damage("DROP TRIGGER ZV_{links}_insert");
    r.damage("INSERT INTO links VALUES (NULL, 1)");
    r.assert_problems(&["links lacks the trigger", "links has a row whose key no change can name"]);
}

#[test]
fn a_row_found_through_its_keys_affinity_is_another_entitys() {
    let mut r = Replica::new("CREATE TABLE t (k NUMERIC PRIMARY KEY, a)");
    r.track("t", &[]);
    r.write("INSERT INTO t VALUES (7, 'seven')");
    let id = r.pull(1, "t", "7", &[("a", text("seven"))]);
    r.merge(id, "t", "7", &[("a", false)], true);
    r.assert_problems(&["t row \"7\": is not in the table"]);
}

#[test]
fn values_are_compared_through_the_columns_affinity() {
    let mut r = Replica::new("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, r REAL)");
    r.track("t", &[]);
    let id = r.pull(1, "t", "x", &[("a", Value::Integer(5)), ("r", Value::Integer(5))]);
    r.merge(id, "t", "x", &[("a", false), ("r", false)], true);
    r.damage("INSERT INTO t VALUES ('x', 5, 5)");
    r.assert_problems(&[]);
    r.damage("UPDATE t SET a = '5.0'");
    r.assert_problems(&["column a is not"]);
}

#[test]
fn damaged_registers_are_seen() {
    let flip = "UPDATE ZV_REGISTER SET registers = (SELECT registers FROM ZV_REGISTER WHERE entity_id = 'new')
                WHERE entity_id = 'back'";
    assert_damages(&[
        ("UPDATE ZV_REGISTER SET shown = 0 WHERE entity_id = 'new'", &["row \"new\": is not marked as shown"]),
        ("UPDATE ZV_REGISTER SET shown = 1 WHERE entity_id = 'gone'", &["row \"gone\": is marked as shown and"]),
        ("UPDATE ZV_REGISTER SET shown = 1 WHERE entity_id = 'held'", &["row \"held\": is marked as shown and"]),
        (
            "DELETE FROM ZV_REGISTER WHERE entity_id = 'far'",
            &["row \"far\": the register of column \"body\" is missing", "row \"far\": is not marked as shown"],
        ),
        (
            "UPDATE ZV_REGISTER SET registers = x'00' WHERE entity_id = 'far'",
            &["row \"far\": its registers cannot be read"],
        ),
        (
            flip,
            &[
                "row \"back\": the register of column \"body\" does not hold the newest",
                "row \"back\": the register of column \"stars\" does not hold the newest",
                "row \"back\": the register of column \"zv_deleted\" is missing",
            ],
        ),
        (
            "UPDATE ZV_REGISTER SET registers = CAST(registers || (SELECT registers FROM ZV_REGISTER WHERE entity_id = 'z/#2') AS BLOB)
             WHERE entity_id = 'far'",
            &["row \"far\": a register holds a write that no merged change made"],
        ),
        (
            "INSERT INTO ZV_REGISTER SELECT table_no, 'nobody', 0, registers FROM ZV_REGISTER WHERE entity_id = 'new'",
            &["ZV_REGISTER holds row \"nobody\""],
        ),
        (
            "INSERT INTO ZV_REGISTER SELECT 999, entity_id, 0, registers FROM ZV_REGISTER WHERE entity_id = 'new'",
            &["ZV_REGISTER holds row \"new\" of table 999"],
        ),
    ]);
}

#[test]
fn the_flags_of_a_register_are_compared() {
    for (flags, phrase) in [("00", "does not hold the newest"), ("03", "does not hold the newest")] {
        let mut r = replica();
        // The seventeenth byte of a register is its flags: own is 1, deleted is 2.
        r.damage(&format!(
            "UPDATE ZV_REGISTER SET registers = unhex(substr(hex(registers), 1, 32) || '{flags}' ||
             substr(hex(registers), 35)) WHERE entity_id = 'x~1y/#1'"
        ));
        r.assert_problems(&[phrase]);
    }
}

#[test]
fn damaged_marks_of_held_rows_are_seen() {
    assert_damages(&[
        (
            "DELETE FROM ZV_HELD",
            &["notes row \"held\": is not marked as shown", "notes row \"held\": is not in the table"],
        ),
        (
            "UPDATE ZV_HELD SET entity_id = 'gone'",
            &[
                "notes row \"gone\": is listed as held, though the log says that it is deleted",
                "notes row \"held\": is not marked",
                "notes row \"held\": is not in",
            ],
        ),
        ("INSERT INTO ZV_HELD VALUES (77, 'nobody', 'x', 'y')", &["row \"nobody\" of table 77 is listed as held"]),
    ]);
}

#[test]
fn a_damaged_log_is_seen() {
    let far = "(SELECT id FROM ZV_CHANGE WHERE entity_id = 'far')";
    let lost = format!("DELETE FROM ZV_CHANGE WHERE id = {far}");
    let unsequenced = format!("DELETE FROM ZV_SEQUENCE WHERE change_id = unhex({far}, '-')");
    let twice = format!("INSERT INTO ZV_SEQUENCE (change_id, own) VALUES (unhex({far}, '-'), 0)");
    assert_damages(&[
        (
            &lost,
            &["the sequence holds the change", "the log holds fields of the change", "ZV_REGISTER holds row \"far\""],
        ),
        (&unsequenced, &["has no place in the sequence"]),
        (&twice, &["has more than one place in the sequence"]),
        ("INSERT INTO ZV_SEQUENCE (change_id, own) VALUES (x'00', 0)", &["the sequence holds an id that is not"]),
        ("INSERT INTO ZV_PENDING VALUES (x'00', 1, NULL)", &["the list of what waits holds an id that is not"]),
        (
            "INSERT INTO ZV_CHANGE_FIELD VALUES ('nobody', 'a', 1)",
            &["the log holds fields of the change \"nobody\", which it lacks"],
        ),
        (
            "UPDATE ZV_CHANGE_FIELD SET field_value = 'other' WHERE field_value = 'from afar'",
            &["notes row \"far\": column body is not what the log says"],
        ),
        (
            "INSERT INTO ZV_CHANGE VALUES ('019A9F3C-0C00-7000-8000-3F6C2A1B4D5E', 'a', 'notes', 'r', 0)",
            &["the change \"019A9F3C-0C00-7000-8000-3F6C2A1B4D5E\", whose id is not a canonical UUIDv7"],
        ),
    ]);
    let mut r = replica();
    r.damage("UPDATE ZV_METADATA SET value = 'x' WHERE key = 'last_id'");
    assert!(r.problems()[0].contains("ZV_METADATA holds no valid value of last_id"));
}

#[test]
fn an_id_beyond_the_clock_is_seen() {
    let mut r = replica();
    let last: String = r.conn.query_row("SELECT max(id) FROM ZV_CHANGE", [], |row| row.get(0)).unwrap();
    r.damage(
        "UPDATE ZV_METADATA SET value = (SELECT id FROM ZV_CHANGE ORDER BY id DESC LIMIT 1 OFFSET 1)
         WHERE key = 'last_id'",
    );
    r.assert_problems(&[&format!("change {last} is newer than the clock's last id")]);
}

#[test]
fn damaged_marks_of_merged_changes_are_seen() {
    assert_damages(&[
        (
            "UPDATE ZV_CHANGE SET merged = 0 WHERE entity_id = 'old'",
            &["of notes was made here and is not marked merged"],
        ),
        (
            "UPDATE ZV_CHANGE SET merged = 0 WHERE entity_id = 'far'",
            &["of notes is not merged, and nothing says what it waits for"],
        ),
        (
            "UPDATE ZV_METADATA SET value = value - 1 WHERE key = 'merged_seq'",
            &["of notes is marked merged before a merge has come to it"],
        ),
        (
            "INSERT INTO ZV_PENDING SELECT unhex(id, '-'), 1, NULL FROM ZV_CHANGE WHERE entity_id = 'far'",
            &["is marked merged and listed as waiting"],
        ),
        (
            "UPDATE ZV_CHANGE SET entity_type = 'zv_x' WHERE entity_id = 'far'",
            &["which can never be tracked", "ZV_REGISTER"],
        ),
    ]);
}

#[test]
fn lost_triggers_and_tables_are_seen() {
    assert_damages(&[
        ("DROP TRIGGER ZV_1_insert", &["notes lacks the trigger ZV_1_insert"]),
        ("DROP TRIGGER ZV_1_update", &["notes lacks the trigger ZV_1_update"]),
        ("DROP TRIGGER ZV_1_delete", &["notes lacks the trigger ZV_1_delete"]),
        ("DROP TRIGGER ZV_{links}_rekey", &["_rekey, so its writes are not captured"]),
        ("DROP TABLE links", &["links is tracked, and there is no such table"]),
        (
            "DROP TABLE links; CREATE TABLE links (a TEXT PRIMARY KEY, b INTEGER);
             CREATE TRIGGER ZV_{links}_insert AFTER INSERT ON links BEGIN SELECT 1; END;
             CREATE TRIGGER ZV_{links}_delete AFTER INSERT ON links BEGIN SELECT 1; END;
             CREATE TRIGGER ZV_{links}_rekey AFTER INSERT ON other BEGIN SELECT 1; END;",
            &["_rekey, so its writes are not captured", "links has another primary key"],
        ),
    ]);
}

#[test]
fn what_no_merge_has_come_to_is_left_out() {
    let mut r = replica();
    r.pull(10, "notes", "new", &[("body", text("newer"))]);
    r.pull(11, "notes", "unborn", &[("body", text("newer"))]);
    r.pull(12, "nowhere", "1", &[("a", Value::Null)]);
    r.assert_problems(&[]);
    r.merged_all();
    let unmerged = "is not merged, and nothing says what it waits for";
    let missing = "the register of column \"body\"";
    let problems = r.problems();
    assert_eq!(problems.iter().filter(|problem| problem.contains(unmerged)).count(), 3, "{problems:#?}");
    assert_eq!(problems.iter().filter(|problem| problem.contains(missing)).count(), 2, "{problems:#?}");
}

#[test]
fn changes_of_unknown_tables_wait() {
    let mut r = replica();
    let id = r.pull(10, "nowhere", "1", &[("a", Value::Null)]);
    r.wait(id, "nowhere", None);
    let other = r.pull(11, "other", "1", &[("a", Value::Null)]);
    r.wait(other, "other", None);
    r.assert_problems(&[]);
    r.merge(other, "other", "1", &[("a", false)], true);
    r.assert_problems(&[
        "is marked merged and listed",
        "is marked merged, and that table was never tracked",
        "a register holds",
    ]);
    let mut r = replica();
    let id = r.pull(10, "nowhere", "1", &[("a", Value::Null)]);
    r.wait(id, "nowhere", Some("a"));
    r.assert_problems(&["of \"nowhere\" waits for a column of a table that was never tracked"]);
    r.damage("UPDATE ZV_PENDING SET column_no = NULL, table_no = 1");
    r.assert_problems(&["of \"nowhere\" is listed as waiting for another table"]);
}

#[test]
fn changes_of_unknown_columns_wait_and_are_folded() {
    let waiting = || {
        let mut r = replica();
        let id = r.pull(10, "notes", "new", &[("body", text("newer")), ("colour", text("red"))]);
        r.merge(id, "notes", "new", &[("body", false), ("colour", false)], true);
        r.wait(id, "notes", Some("colour"));
        r.damage("UPDATE notes SET body = 'newer' WHERE id = 'new'");
        r
    };
    waiting().assert_problems(&[]);
    let damages = [
        ("DELETE FROM ZV_PENDING", &["nothing says what it waits for", "is not listed as waiting for"][..]),
        (
            "DELETE FROM ZV_PENDING; UPDATE ZV_CHANGE SET merged = 1",
            &["is marked merged, and notes never had its column \"colour\""],
        ),
        ("UPDATE ZV_PENDING SET column_no = 2", &["is not listed as waiting for the column \"colour\""]),
        (
            "UPDATE ZV_REGISTER SET registers = (SELECT registers FROM ZV_REGISTER WHERE entity_id = 'old')
             WHERE entity_id = 'new'",
            &["column \"body\"", "column \"colour\" is missing", "column \"stars\""],
        ),
    ];
    for (sql, phrases) in damages {
        let mut r = waiting();
        r.damage(sql);
        r.assert_problems(phrases);
    }
    // A change that deletes by an unknown column's newer write lives.
    let mut r = waiting();
    let id = r.pull(9, "notes", "new", &[("zv_deleted", Value::Integer(1))]);
    r.merge(id, "notes", "new", &[("zv_deleted", true)], true);
    r.assert_problems(&[]);
}

#[test]
fn a_table_or_column_that_has_come_waits_for_the_next_merge() {
    let mut r = replica();
    let table = r.pull(10, "other", "1", &[("a", Value::Null)]);
    r.wait(table, "other", None);
    let column = r.pull(11, "notes", "new", &[("colour", text("red"))]);
    r.merge(column, "notes", "new", &[("colour", false)], true);
    r.wait(column, "notes", Some("colour"));
    r.track("other", &[]);
    r.conn.execute_batch("ALTER TABLE notes ADD COLUMN colour TEXT").unwrap();
    r.assert_problems(&[]);
    r.log(|log, world| crate::capture::renew(log, world).unwrap());
    r.assert_problems(&[]);
}

#[test]
fn an_untracked_table_keeps_what_was_merged() {
    let mut r = replica();
    r.log(|log, _| untrack(log, "notes").unwrap());
    r.damage("UPDATE notes SET body = 'free'");
    let id = r.pull(10, "notes", "new", &[("body", text("newer"))]);
    r.wait(id, "notes", None);
    r.assert_problems(&[]);
    r.damage("UPDATE ZV_REGISTER SET registers = x'' WHERE entity_id = 'old'");
    r.assert_problems(&["column \"body\" is missing", "column \"stars\" is missing"]);
}

#[test]
fn a_column_dropped_since_keeps_its_merged_changes() {
    let mut r = replica();
    let id = r.pull(10, "notes", "new", &[("stars", Value::Integer(1))]);
    r.merge(id, "notes", "new", &[("stars", false)], true);
    r.damage("DROP TRIGGER ZV_1_update; DROP TRIGGER ZV_1_insert; DROP TRIGGER ZV_1_rekey");
    r.damage("ALTER TABLE notes DROP COLUMN stars");
    r.log(|log, world| crate::capture::renew(log, world).unwrap());
    r.assert_problems(&[]);
}

#[test]
fn rows_that_are_not_sealed_or_wait_to_be_shown_are_passed_over() {
    let mut r = replica();
    r.conn
        .execute_batch(
            "UPDATE notes SET body = 'unsealed' WHERE id = 'new'; INSERT INTO notes (id) VALUES ('unsealed');
             DELETE FROM links;",
        )
        .unwrap();
    r.assert_problems(&[]);
    seal(&mut r.conn, &r.world).unwrap();
    r.assert_problems(&[]);
    r.damage("DELETE FROM notes WHERE id = 'far'; INSERT INTO ZV_TOUCHED VALUES (1, 'far')");
    r.assert_problems(&[]);
    r.damage("DELETE FROM ZV_TOUCHED");
    r.assert_problems(&["notes row \"far\": is not in the table"]);
    r.conn.execute_batch("INSERT INTO ZV_JOURNAL (ms, source, op, c0) VALUES (1, 99, 1, 'x')").unwrap();
    r.assert_problems(&["the journal holds writes of a table that", "notes row \"far\""]);
}

#[test]
fn an_entity_whose_key_cannot_be_a_rows_is_held_or_a_problem() {
    let mut r = replica();
    let id = r.pull(10, "links", "not/canonical/#", &[("zv_deleted", Value::Integer(0))]);
    r.merge(id, "links", "not/canonical/#", &[("zv_deleted", false)], false);
    r.assert_problems(&["is not marked as shown", "cannot be shown, as no key of this table reads so"]);
    hold(&r.conn, r.table_no("links").unwrap(), "not/canonical/#", "key", "").unwrap();
    r.assert_problems(&[]);
}

#[test]
fn bad_content_of_the_log_is_a_problem_and_never_a_panic() {
    let mut r = replica();
    r.damage(
        "DROP TRIGGER ZV_1_insert;
         INSERT INTO ZV_CHANGE VALUES (x'FF', x'00', 'notes', 'r', 'maybe');
         INSERT INTO ZV_CHANGE VALUES (CAST(x'FF00FE' AS TEXT), 'a', 'notes', 'r', 0);
         INSERT INTO ZV_CHANGE VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d5e', 'a', 'notes', CAST(x'FF' AS TEXT), 1);
         INSERT INTO ZV_CHANGE VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d5f', 'a', x'01', 'r', 1);
         INSERT INTO ZV_CHANGE VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d60', 'a', 'notes', '', 1);
         INSERT INTO ZV_CHANGE_FIELD VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d60', x'FF', 1);
         INSERT INTO ZV_CHANGE_FIELD VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d60', CAST(x'FF' AS TEXT), 1);
         INSERT INTO ZV_SEQUENCE (change_id, own) SELECT unhex(id, '-'), 0 FROM ZV_CHANGE WHERE id GLOB '*3f6c2a1b*';
         INSERT INTO ZV_PENDING VALUES ('text', 'text', 'text');
         INSERT INTO ZV_HELD VALUES (-1, CAST(x'FF' AS TEXT), '', '');
         INSERT INTO ZV_REGISTER VALUES (-1, CAST(x'FF' AS TEXT), 'maybe', 'text');
         INSERT INTO notes (id) VALUES (CAST(x'FF' AS TEXT));",
    );
    let problems = r.problems();
    for phrase in
        ["canonical UUIDv7", "by what is not text", "a field whose name is not text", "the list of what waits"]
    {
        assert!(problems.iter().any(|problem| problem.contains(phrase)), "{phrase}: {problems:#?}");
    }
}
