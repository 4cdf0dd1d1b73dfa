//! Odd tables and what an application may do to them, once tracked and once not: nobody can tell the two apart, what was written
//! is in the log, and another replica shows the same.

use std::path::Path;
use std::sync::Arc;

use object_store::memory::InMemory;
use rusqlite::Connection;

use super::dice::Dice;
use super::schema::{Odd, odd_table};
use crate::db::{Affinity, Column, Ident, Part, Unique, list, open_database, read_table, same_name};
use crate::{ErrorKind, HeldEntity, Remote, Replica, SyncOptions, TrackOptions};

/// A table that others may refer to.
const PARENT: &str = "CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT UNIQUE)";

const VALUES: [&str; 28] = [
    "NULL",
    "0",
    "1",
    "2",
    "-1",
    "1.0",
    "0.5",
    "'a'",
    "'A'",
    "'a '",
    "''",
    "'1'",
    "'01'",
    "x''",
    "x'00'",
    "x'c0'",
    "x'61'",
    "'é'",
    "CAST(x'ff' AS TEXT)",
    "'a' || char(0)",
    "char(0)",
    "4611686018427387904",
    "-9223372036854775808",
    "-9223372036854775808.0",
    "9e999",
    "-0.0",
    "'no'",
    "9007199254740993",
];
/// -2^63 as [`contents`] shows it.
const LEAST_REAL: &str = "Real(-9.223372036854776e18)";
const CLAUSES: [&str; 7] = ["", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK", ""];

/// Odd schemas: whatever table the bytes make, it is refused by name or captured without a trace in what the application sees.
pub fn triggers(data: &[u8]) {
    let mut dice = Dice::new(data);
    let odd = odd_table(&mut dice);
    let Some(twins) = Twins::make(&mut dice, &odd) else { return };
    for _ in 0..24 {
        if dice.is_empty() {
            break;
        }
        if dice.once_in(12) {
            twins.check();
        }
        if !twins.run(&statement(&mut dice, &odd.table, &odd.columns)) {
            return;
        }
    }
    twins.settle();
    twins.check();
    twins.travel(&odd);
}

/// A tracked database and an untracked one of the same schema.
struct Twins {
    tracked: Replica,
    plain: Connection,
    table: String,
    statements: Vec<String>,
    options: TrackOptions,
}

impl Twins {
    /// Nothing where SQLite does not accept the table, or it is refused for what it is.
    fn make(dice: &mut Dice<'_>, odd: &Odd) -> Option<Self> {
        let plain = open_database(Path::new(":memory:"), true, None).expect("memory is a database");
        create(&plain, odd)?;
        let tracked = tracked(odd)?;
        let (foreign_keys, recursive) = (dice.once_in(2), dice.once_in(2));
        let pragmas =
            format!("PRAGMA foreign_keys = {}; PRAGMA recursive_triggers = {}", foreign_keys as u8, recursive as u8);
        // Only what was never written without foreign keys can be shown with them.
        let mut options = TrackOptions { enforce_fk: Some(foreign_keys && recursive), ..TrackOptions::default() };
        options.identity_key = !dice.once_in(3);
        if dice.once_in(4) {
            options.identity_key = false;
            options.key = vec![dice.pick(&odd.columns.iter().map(String::as_str).collect::<Vec<_>>()).to_owned()];
        }
        track(&tracked, odd, &options)?;
        for conn in [&*tracked.connection(), &plain] {
            conn.execute_batch(&pragmas).expect("these pragmas are known");
        }
        Some(Self { tracked, plain, table: odd.table.clone(), statements: odd.statements.clone(), options })
    }

    /// Runs a statement on both: it ends alike, and leaves the table alike. False where SQLite itself sets them apart.
    fn run(&self, sql: &str) -> bool {
        let conn = self.tracked.connection();
        let left = outcome(&conn, sql);
        // Capture refuses one thing, a key that no entity id can be made of. And in a table that has triggers SQLite looks at the
        // types of a STRICT table before all else, not after what may be ignored.
        if ["zvon: the key column", "cannot store"].iter().any(|words| left.contains(words)) {
            return true;
        }
        let (right, schema) = (outcome(&self.plain, sql), &self.statements);
        // At some statements SQLite spoils an index, tracked or not.
        if right == "database disk image is malformed" {
            return false;
        }
        // A REPLACE, of the statement or of a constraint, into a table that refers to itself, or an UPSERT that may update where it
        // does so with an action on update: without triggers SQLite does not look whether references have their rows. A row that it
        // let in so is counted when its own row comes, and makes up there for another that refers to nobody.
        let refers_to_itself = schema[0].contains(&format!("REFERENCES {}", Ident(&self.table)));
        let replaces = sql.contains("REPLACE") || schema[0].contains("ON CONFLICT REPLACE");
        let may_update = sql.contains("DO UPDATE") && schema[0].contains("ON UPDATE");
        let fails_once = left != right && [&left, &right].iter().any(|end| *end == "FOREIGN KEY constraint failed");
        if fails_once && (replaces || may_update) && refers_to_itself {
            return false;
        }
        // The same, found in the end of a transaction.
        let refused = "FOREIGN KEY constraint failed";
        if left == refused && right.is_empty() && lets_orphans_in(&self.plain) {
            return false;
        }
        // Where there are triggers SQLite lets a reference to nobody in with a row that the type of the referring column alone makes
        // another's parent, as it does with '1' and 1.0.
        if right == refused && left != refused && lets_orphans_in(&conn) {
            return false;
        }
        // A row that a reference refuses at once may leave one behind that is looked at in the end, though the row is not there: where
        // there are triggers SQLite takes back the count of those, too.
        if right == "FOREIGN KEY constraint failed" && left.is_empty() && ["COMMIT", "RELEASE s"].contains(&sql) {
            return false;
        }
        // Which of several rows meets a constraint first is SQLite's choice, and another one in a table that has triggers.
        let has_clause = sql.starts_with("UPDATE OR ") || schema[0].contains("ON CONFLICT");
        let (there, here) = (contents(&conn, &self.table), contents(&self.plain, &self.table));
        if sql.starts_with("UPDATE ")
            && has_clause
            && (&left, &there) != (&right, &here)
            && there.len().max(here.len()) > 1
        {
            return false;
        }
        assert_eq!(left, right, "{sql}: {schema:?}");
        assert_eq!(there, here, "after {sql}: {schema:?}");
        // A reference to nobody that it let in unchecked makes up for another one later.
        !lets_orphans_in(&self.plain)
    }

    fn settle(&self) {
        for conn in [&*self.tracked.connection(), &self.plain] {
            if !conn.is_autocommit() && conn.execute_batch("COMMIT").is_err() {
                conn.execute_batch("ROLLBACK").expect("a transaction can be rolled back");
            }
        }
    }

    /// The log says what the table holds.
    fn check(&self) {
        if self.tracked.connection().is_autocommit() {
            verified(&self.tracked, &self.statements);
        }
    }

    /// Another replica of the schema shows the same.
    fn travel(&self, odd: &Odd) {
        let other = tracked(odd).expect("the first one was made");
        track(&other, odd, &self.options).expect("the first one was tracked");
        let remote = Remote::from_store("memory://fuzz", Arc::new(InMemory::new()), "").expect("the path is empty");
        block_on(self.tracked.sync(&remote, &SyncOptions::default())).expect("a store in memory answers");
        let report = block_on(other.sync(&remote, &SyncOptions::default())).expect("a store in memory answers");
        let held = block_on(other.held()).expect("it can be asked for").rows;
        // An update from the least integer to the real that equals it is no change in a column of numbers; an index on an expression
        // may tell them apart.
        let least = |line: &String| line.contains(LEAST_REAL);
        if !held.is_empty() && contents(&self.tracked.connection(), &self.table).iter().any(least) {
            return;
        }
        // A reference to no row says nothing elsewhere, where the column may not be empty; rows that refer to such a row are with it,
        // and to an expression rows without a reference may all be one. What is computed from integers differs where these do.
        let left_out = contents(&self.tracked.connection(), "ZV_UNTRANSLATED");
        let is_lost =
            |row: &HeldEntity| left_out.iter().any(|line| line.contains(&format!("{:?}", row.row.as_bytes())));
        let by_integers = self.held_by_integers();
        let is_kept_out = |row: &HeldEntity| {
            by_integers.contains(&row.reason.as_str()) || (row.reason == "unique" && !left_out.is_empty())
        };
        let follows = |row: &HeldEntity| {
            row.reason == "foreign key" && held.iter().any(|other| is_lost(other) || is_kept_out(other))
        };
        // A row whose parent is deleted, and that cannot be without it, is held where it was written, too.
        let own = block_on(self.tracked.held()).expect("it can be asked for").rows;
        let is_bereft =
            |row: &HeldEntity| own.iter().any(|other| (&other.row, &other.reason) == (&row.row, &row.reason));
        let is_explained = |row: &HeldEntity| is_lost(row) || is_kept_out(row) || follows(row) || is_bereft(row);
        assert!(held.iter().all(is_explained), "{held:?}: {:?}", odd.statements);
        assert_eq!((report.rejected, report.held), (0, held.len() as u64), "{:?}", odd.statements);
        verified(&other, &self.statements);
        if self.options.identity_key {
            let sorted = |conn: &Connection| {
                let one = |line: String| line.replace(LEAST_REAL, "Integer(-9223372036854775808)");
                let mut rows: Vec<String> = contents(conn, &self.table).into_iter().map(one).collect();
                rows.sort();
                rows
            };
            assert_eq!(sorted(&other.connection()), sorted(&self.tracked.connection()), "{:?}", self.statements);
        }
    }

    /// The reasons to hold a row whose integer key is another one elsewhere, or whose parent's is.
    fn held_by_integers(&self) -> Vec<&'static str> {
        let shape = read_table(&self.tracked.connection(), &self.table).expect("the table can be read");
        let shape = shape.expect("the table is there");
        let is_local = shape.key_is_rowid && !self.options.identity_key;
        let Some(key) = shape.key_columns().next().filter(|_| is_local).map(|column| column.name.as_str()) else {
            return Vec::new();
        };
        let is_own = |name: &str| shape.referred_by(name).any(|(parent, _)| same_name(parent, &self.table));
        let names = shape.columns.iter().map(|column| column.name.as_str());
        let references: Vec<&str> = names.filter(|name| is_own(name)).collect();
        let mentions = |names: &[String]| {
            let all = shape.made_of(names);
            references.iter().chain([&key]).any(|name| all.contains(&name.to_ascii_lowercase()))
        };
        let generated = shape.generated.iter().map(|generated| &generated.name);
        let computed: Vec<&String> = generated.filter(|name| mentions(&[name.to_ascii_lowercase()])).collect();
        // References themselves are alike wherever their rows are; an expression or a condition may ask for the integer.
        let is_plain = |part: &Part| {
            part.column.as_deref().is_some_and(|name| shape.column(name).is_some() && !same_name(name, key))
        };
        // One integer may be spelled in two ways where it was written, and is spelled in one elsewhere.
        let is_respelled = |part: &Part| {
            let column = part.column.as_deref().and_then(|name| shape.column(name));
            column.is_some_and(|column| references.contains(&column.name.as_str()) && self.is_spelled_oddly(column))
        };
        let is_asked = |unique: &Unique| {
            let is_of_integers =
                mentions(&unique.names) && (unique.predicate.is_some() || !unique.parts.iter().all(is_plain));
            is_of_integers || unique.parts.iter().any(is_respelled)
        };
        let checks: Vec<&str> = self.statements[0].split("CHECK (").skip(1).collect();
        let is_checked = |name: &str| {
            let name = Ident(name).to_string();
            checks.iter().any(|rest| rest[..rest.find(", \"").unwrap_or(rest.len())].contains(&name))
        };
        let of_integers = || references.iter().copied().chain([key]).chain(computed.iter().map(|name| name.as_str()));
        let is_computed = |name: &String| computed.iter().any(|computed| same_name(computed, name));
        let rules = [
            ("unique", shape.uniques.iter().any(is_asked)),
            ("check", of_integers().any(is_checked)),
            // A real may be unable to hold it, and what is computed from it may be nobody's.
            (
                "foreign key",
                shape.columns.iter().any(|column| column.affinity == Affinity::Real)
                    || shape.foreign_keys.iter().any(|foreign| foreign.columns.iter().any(is_computed)),
            ),
        ];
        rules.into_iter().filter(|(_, may)| *may).map(|(reason, _)| reason).collect()
    }

    /// Whether some reference in a column is text other than what the column would make of its integer.
    fn is_spelled_oddly(&self, column: &Column) -> bool {
        let is_canonical = match column.affinity {
            Affinity::Text => "CAST(CAST({} AS INTEGER) AS TEXT) IS {}",
            _ => "0",
        };
        let name = Ident(&column.name).to_string();
        let sql = format!(
            "SELECT 1 FROM {} WHERE typeof({name}) = 'text' AND NOT {}",
            Ident(&self.table),
            is_canonical.replace("{}", &name)
        );
        self.tracked.connection().prepare(&sql).and_then(|mut found| found.exists([])).expect("the table can be read")
    }
}

/// Whether SQLite shows a reference to nobody that it should have refused.
fn lets_orphans_in(conn: &Connection) -> bool {
    let is_on: bool = conn.pragma_query_value(None, "foreign_keys", |row| row.get(0)).expect("it is known");
    if !is_on || !conn.is_autocommit() {
        return false;
    }
    // A reference that does not fit its parent's table is an error here.
    conn.prepare("PRAGMA foreign_key_check").and_then(|mut statement| statement.exists([])).unwrap_or(false)
}

fn create(conn: &Connection, odd: &Odd) -> Option<()> {
    conn.execute_batch(PARENT).expect("the parent is a table");
    odd.statements.iter().try_for_each(|sql| conn.execute_batch(sql)).ok()
}

fn tracked(odd: &Odd) -> Option<Replica> {
    let replica = Replica::in_memory().expect("memory is a database");
    create(&replica.connection(), odd)?;
    Some(replica)
}

fn track(replica: &Replica, odd: &Odd, options: &TrackOptions) -> Option<()> {
    match block_on(replica.track(&[&odd.table], options)) {
        Ok(_) => Some(()),
        Err(error) if matches!(error.kind(), ErrorKind::Schema | ErrorKind::Usage) => None,
        Err(error) => panic!("{error:?}: {:?}", odd.statements),
    }
}

/// Verify finds nothing.
pub(super) fn verified(replica: &Replica, schema: &[String]) {
    match block_on(replica.verify()) {
        Ok(report) => assert_eq!(report.problems, [] as [String; 0], "{schema:?}"),
        Err(error) => panic!("{error:?}: {schema:?}"),
    }
}

/// How a statement ended.
fn outcome(conn: &Connection, sql: &str) -> String {
    match conn.execute_batch(sql) {
        // Other statements leave the count of the write before.
        Ok(()) if is_write(sql) => format!("{} changes", conn.changes()),
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn is_write(sql: &str) -> bool {
    ["INSERT", "UPDATE", "DELETE"].iter().any(|word| sql.starts_with(word))
}

fn contents(conn: &Connection, table: &str) -> Vec<String> {
    let mut statement = conn.prepare(&format!("SELECT * FROM {}", Ident(table))).expect("the table is there");
    let columns = statement.column_count();
    let mut rows = statement.query([]).expect("the table can be read");
    let mut lines = Vec::new();
    while let Some(row) = rows.next().expect("the table can be read") {
        let value = |at| format!("{:?}", row.get_ref(at).expect("the row has the column"));
        lines.push((0..columns).map(value).collect::<Vec<_>>().join("|"));
    }
    lines
}

/// A write as an application may do it. `NOT INDEXED` keeps the order of rows from depending on the triggers.
pub(super) fn statement(dice: &mut Dice<'_>, table: &str, columns: &[String]) -> String {
    let (table, clause) = (Ident(table), dice.pick(&CLAUSES));
    match dice.roll(10) {
        0..=3 => {
            let names = list(columns.iter().map(|name| Ident(name)));
            let mut row = || format!("({})", list(columns.iter().map(|_| value(dice))));
            let rows = [row(), row()];
            let rows = if dice.once_in(2) { rows.join(", ") } else { rows[0].clone() };
            format!("INSERT {clause} INTO {table} ({names}) VALUES {rows} {}", upsert(dice, columns))
        }
        4 => format!("INSERT {clause} INTO {table} ({}) VALUES ({})", column(dice, columns), value(dice)),
        5 => format!("INSERT {clause} INTO {table} DEFAULT VALUES"),
        6 | 7 => {
            let (first, second) = (assignment(dice, columns), assignment(dice, columns));
            let sets = if dice.once_in(3) { format!("{first}, {second}") } else { first };
            format!("UPDATE {clause} {table} NOT INDEXED SET {sets} {}", filter(dice, columns))
        }
        8 => format!("DELETE FROM {table} NOT INDEXED {}", filter(dice, columns)),
        _ => dice.pick(&["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]).to_owned(),
    }
}

fn upsert(dice: &mut Dice<'_>, columns: &[String]) -> String {
    match dice.roll(6) {
        0 => "ON CONFLICT DO NOTHING".to_owned(),
        1 => {
            let column = column(dice, columns);
            format!("ON CONFLICT DO UPDATE SET {column} = excluded.{column}")
        }
        2 => format!("ON CONFLICT ({}) DO UPDATE SET {}", column(dice, columns), assignment(dice, columns)),
        _ => String::new(),
    }
}

fn column(dice: &mut Dice<'_>, columns: &[String]) -> String {
    Ident(&columns[dice.roll(columns.len())]).to_string()
}

fn assignment(dice: &mut Dice<'_>, columns: &[String]) -> String {
    let target = column(dice, columns);
    match dice.roll(4) {
        0 => format!("{target} = {}", column(dice, columns)),
        1 => format!("{target} = {target} + 1"),
        _ => format!("{target} = {}", value(dice)),
    }
}

fn filter(dice: &mut Dice<'_>, columns: &[String]) -> String {
    match dice.roll(3) {
        0 => String::new(),
        1 => format!("WHERE {} IS {}", column(dice, columns), value(dice)),
        _ => format!("WHERE {} >= {}", column(dice, columns), value(dice)),
    }
}

fn value(dice: &mut Dice<'_>) -> String {
    match dice.roll(VALUES.len() + 4) {
        at if at < VALUES.len() => VALUES[at].to_owned(),
        at if at % 2 == 0 => dice.integer().to_string(),
        _ => format!("'{}'", dice.text(12).replace('\'', "''")),
    }
}

/// Runs to the end what a target asks of a replica.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs no more than threads");
    }
    // No work is handed to another thread: what an input reaches is then the same each time.
    crate::work_in_place(true);
    RUNTIME.with(|runtime| runtime.block_on(work))
}
