//! Small replicas made by hand, whole at first, then damaged in one way at a time.

mod damage;
mod waiting;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use super::verify;
use crate::capture::{TrackOptions, seal, track, untrack};
use crate::changelog::{Log, Names, NewChange, hold};
use crate::db::{Metadata, Turns, bind_value, create_replica, immediate, set_metadata};
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
        let options = TrackOptions { excluded, wanted: crate::capture::Wanted::PrimaryKey, ..TrackOptions::default() };
        self.log(|log, world| track(log, world, table, &options).unwrap());
    }

    /// Writes as a program does, sealed.
    fn write(&mut self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
        seal(&mut self.conn, &self.world, &mut Turns::default()).unwrap();
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

    /// A repair ends without problems, or with instructions; a second one finds nothing more to do.
    #[track_caller]
    fn assert_repaired(&mut self, damaged: bool) {
        let report = crate::repair::repair(&mut self.conn, &self.world, &|_| {}).unwrap();
        assert_eq!(report.found > 0, damaged, "{report:#?}");
        let is_well = report.after.problem_count == 0;
        assert!(is_well || !report.instructions.is_empty(), "{report:#?}");
        if is_well && report.instructions.is_empty() {
            assert_eq!(damaged, !report.done.is_empty(), "{report:#?}");
            let again = crate::repair::repair(&mut self.conn, &self.world, &|_| {}).unwrap();
            assert_eq!((again.found, again.done, again.instructions), (0, vec![], vec![]));
        }
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
    hold(&r.conn, r.table_no("notes").unwrap(), "held", "trigger", "because").unwrap();
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
