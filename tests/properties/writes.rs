//! What the writers do: statements in plain SQL, alone and in transactions, and how they are drawn.

use proptest::prelude::*;
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql, params_from_iter};

use super::model::Cell;

/// How a table's rows are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Text,
    Integer,
    Parts,
}

#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub kind: Key,
    pub key: &'static [&'static str],
    pub columns: &'static [&'static str],
}

/// Tables that any replica writes any row of.
pub const FREE: [Table; 5] = [
    Table { name: "note", kind: Key::Text, key: &["id"], columns: &["title", "body", "n", "updated_at"] },
    Table { name: "line", kind: Key::Parts, key: &["doc", "no"], columns: &["v", "w"] },
    Table { name: "num", kind: Key::Integer, key: &["id"], columns: &["v", "r"] },
    Table { name: "flat", kind: Key::Text, key: &["k"], columns: &["v", "m"] },
    Table { name: "link", kind: Key::Parts, key: &["a", "b"], columns: &[] },
];

/// Tables with parents: a replica writes rows of its own, so that nobody loses a parent to somebody else.
pub const FAMILY: [Table; 3] = [
    Table { name: "tree", kind: Key::Text, key: &["id"], columns: &["parent", "v"] },
    Table { name: "owner", kind: Key::Text, key: &["id"], columns: &["v"] },
    Table { name: "pet", kind: Key::Text, key: &["id"], columns: &["owner", "v"] },
];

pub const SCHEMA: &str = "
    CREATE TABLE note (id TEXT PRIMARY KEY, title, body TEXT DEFAULT 'empty', n INTEGER DEFAULT 7, updated_at INTEGER);
    CREATE TABLE line (doc TEXT, no INTEGER, v NUMERIC, w BLOB, PRIMARY KEY (doc, no));
    CREATE TABLE num (id INTEGER PRIMARY KEY, v, r REAL);
    CREATE TABLE flat (k TEXT PRIMARY KEY, v COLLATE NOCASE, m INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE link (a TEXT, b INTEGER, PRIMARY KEY (a, b));
    CREATE TABLE tree (id TEXT PRIMARY KEY, v, parent TEXT REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE owner (id TEXT PRIMARY KEY, v);
    CREATE TABLE pet (id TEXT PRIMARY KEY, v, owner TEXT REFERENCES owner (id) ON DELETE SET NULL ON UPDATE CASCADE);
";

/// An application's own triggers: the first was there before `track`, the second came after it.
pub const TRIGGER_BEFORE: &str = "CREATE TRIGGER note_touched AFTER UPDATE OF title, body ON note BEGIN
    UPDATE note SET updated_at = coalesce(OLD.updated_at, 0) + 1 WHERE id = NEW.id; END;
    CREATE TRIGGER line_counted AFTER INSERT ON line BEGIN INSERT OR REPLACE INTO num (id, v) VALUES (1000, NEW.v); END";
pub const TRIGGER_AFTER: &str = "CREATE TRIGGER flat_touched AFTER UPDATE OF v ON flat BEGIN
    UPDATE flat SET m = OLD.m + 1 WHERE k = NEW.k; END;
    CREATE TRIGGER note_linked AFTER INSERT ON note BEGIN INSERT OR IGNORE INTO link VALUES (NEW.id, 7); END;
    CREATE TRIGGER note_unlinked AFTER DELETE ON note BEGIN DELETE FROM link WHERE a = OLD.id AND b = 7; END";

#[derive(Debug, Clone)]
pub enum Write {
    Insert { verb: &'static str, table: usize, key: usize, values: Vec<Cell> },
    Upsert { table: usize, key: usize, values: Vec<Cell> },
    Update { table: usize, key: usize, first: usize, values: Vec<Cell> },
    UpdateAll { table: usize, column: usize, value: Cell },
    Delete { table: usize, key: usize },
    Rekey { verb: &'static str, table: usize, from: usize, to: usize },
    Copy { verb: &'static str },
    Refused { table: usize, key: Cell },
    Plant { verb: &'static str, table: usize, key: usize, parent: Option<usize>, value: Cell },
    Graft { key: usize, parent: Option<usize>, table: usize },
    Prune { table: usize, key: usize },
    Uproot { verb: &'static str, table: usize, from: usize, to: usize },
}

/// What becomes of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Commit,
    Rollback,
    /// What comes after the first write is taken back, and the rest committed.
    RollbackToSavepoint,
}

#[derive(Debug, Clone)]
pub enum Step {
    Write(usize, Write),
    Transaction(usize, Vec<Write>, Fate),
    RecursiveTriggers(usize, bool),
    /// The listing lacks some of the files, or none where the number is 0.
    Sync(usize, u64),
    Seal(usize),
    Untrack(usize, &'static str),
    Track(usize, &'static str),
    /// Another program takes the triggers off a table.
    Strip(usize, &'static str),
    Tick(usize, u64),
}

pub fn any_cell() -> impl Strategy<Value = Cell> {
    let reals =
        prop::sample::select(vec![0.0, -0.0, 1.0, 0.1, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e18]);
    let texts = prop::sample::select(vec!["", "bob", "Bob", "1", "1.0", "a\0b", "žluť 🐎", " 1 ", "x'00'"]);
    let blobs =
        prop::sample::select(vec![vec![], vec![0xC0], vec![0xC0, 0xC0, 1], vec![0xC1], vec![0; 3000], vec![0x62]]);
    let broken = prop::sample::select(vec![vec![0xFF], vec![0xC0], vec![0xC3], vec![b'a', 0xED, 0xA0, 0x80, b'b']]);
    prop_oneof![
        1 => Just(Cell::Null),
        2 => prop::sample::select(vec![0, 1, -1, 7, 127, 128, -33, 1 << 40, i64::MAX, i64::MIN]).prop_map(Cell::Integer),
        2 => reals.prop_map(|n: f64| Cell::Real(n.to_bits())),
        3 => texts.prop_map(Cell::text),
        2 => blobs.prop_map(Cell::Blob),
        1 => broken.prop_map(Cell::Text),
    ]
}

fn insert_verb() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["INSERT", "INSERT OR IGNORE", "INSERT OR REPLACE", "INSERT OR FAIL", "REPLACE"])
}

fn update_verb() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"])
}

fn values() -> impl Strategy<Value = Vec<Cell>> {
    prop::collection::vec(any_cell(), 4)
}

fn any_write() -> impl Strategy<Value = Write> {
    let (table, key, relative) = (|| 0..FREE.len(), || 0..KEYS, || 0..FAMILY.len());
    let odd_keys = vec![
        Cell::Null,
        Cell::text("a\0b"),
        Cell::Text(vec![0xFF]),
        Cell::Blob(vec![1]),
        Cell::Real(1.5_f64.to_bits()),
    ];
    prop_oneof![
        6 => (insert_verb(), table(), key(), values())
            .prop_map(|(verb, table, key, values)| Write::Insert { verb, table, key, values }),
        2 => (table(), key(), values()).prop_map(|(table, key, values)| Write::Upsert { table, key, values }),
        6 => (table(), key(), 0..4_usize, prop::collection::vec(any_cell(), 1..3))
            .prop_map(|(table, key, first, values)| Write::Update { table, key, first, values }),
        1 => (table(), 0..4_usize, any_cell()).prop_map(|(table, column, value)| Write::UpdateAll { table, column, value }),
        3 => (table(), key()).prop_map(|(table, key)| Write::Delete { table, key }),
        2 => (update_verb(), table(), key(), key())
            .prop_map(|(verb, table, from, to)| Write::Rekey { verb, table, from, to }),
        1 => insert_verb().prop_map(|verb| Write::Copy { verb }),
        1 => (table(), prop::sample::select(odd_keys)).prop_map(|(table, key)| Write::Refused { table, key }),
        4 => (insert_verb(), relative(), key(), prop::option::of(key()), any_cell())
            .prop_map(|(verb, table, key, parent, value)| Write::Plant { verb, table, key, parent, value }),
        2 => (key(), prop::option::of(key()), relative()).prop_map(|(key, parent, table)| Write::Graft { key, parent, table }),
        2 => (relative(), key()).prop_map(|(table, key)| Write::Prune { table, key }),
        2 => (update_verb(), relative(), key(), key())
            .prop_map(|(verb, table, from, to)| Write::Uproot { verb, table, from, to }),
    ]
}

/// Writes that every table takes before it is tracked.
pub fn any_seed() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec(
        any_write().prop_filter("a key that can be tracked", |w| !matches!(w, Write::Refused { .. })),
        0..8,
    )
}

fn any_table() -> impl Strategy<Value = &'static str> {
    let names: Vec<&str> = FREE.iter().chain(&FAMILY).map(|table| table.name).collect();
    prop::sample::select(names)
}

pub fn any_step(replicas: usize) -> impl Strategy<Value = Step> {
    let who = move || 0..replicas;
    let fate = prop_oneof![2 => Just(Fate::Commit), 1 => Just(Fate::Rollback), 1 => Just(Fate::RollbackToSavepoint)];
    prop_oneof![
        12 => (who(), any_write()).prop_map(|(who, write)| Step::Write(who, write)),
        3 => (who(), prop::collection::vec(any_write(), 1..5), fate)
            .prop_map(|(who, writes, fate)| Step::Transaction(who, writes, fate)),
        1 => (who(), any::<bool>()).prop_map(|(who, on)| Step::RecursiveTriggers(who, on)),
        5 => (who(), prop_oneof![2 => Just(0), 1 => 1..4_u64]).prop_map(|(who, late)| Step::Sync(who, late)),
        1 => (who(), any_table()).prop_map(|(who, table)| Step::Untrack(who, table)),
        2 => (who(), any_table()).prop_map(|(who, table)| Step::Track(who, table)),
        1 => (who(), any_table()).prop_map(|(who, table)| Step::Strip(who, table)),
        1 => who().prop_map(Step::Seal),
        2 => (who(), 0..50_u64).prop_map(|(who, ms)| Step::Tick(who, ms)),
    ]
}

/// How many keys a table's rows are drawn from: few, so that writers meet.
const KEYS: usize = 6;

fn key_cells(kind: Key, n: usize) -> Vec<Cell> {
    let text = Cell::text(["a", "b/c", "~#", "", "é", "A"][n % KEYS]);
    match kind {
        Key::Text => vec![text],
        Key::Integer => vec![Cell::Integer([0, 1, -1, i64::MAX, i64::MIN, 42][n % KEYS])],
        Key::Parts => vec![text, Cell::Integer(n as i64 % 2 - 1)],
    }
}

fn family_key(replica: usize, n: usize) -> Cell {
    Cell::text(&format!("{replica}:{n}"))
}

struct Bound<'c>(&'c Cell);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Cell::Null => ToSqlOutput::Owned(SqlValue::Null),
            Cell::Integer(n) => ToSqlOutput::Owned(SqlValue::Integer(*n)),
            Cell::Real(bits) => ToSqlOutput::Owned(SqlValue::Real(f64::from_bits(*bits))),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text)),
            Cell::Blob(blob) => ToSqlOutput::Borrowed(ValueRef::Blob(blob)),
        })
    }
}

/// Runs a statement; what a constraint or a trigger refuses is refused, and any other error is a failure.
pub fn execute(conn: &Connection, sql: &str, cells: &[Cell]) {
    match conn.execute(sql, params_from_iter(cells.iter().map(Bound))) {
        Ok(_) => {}
        Err(rusqlite::Error::SqliteFailure(error, _))
            if [ErrorCode::ConstraintViolation, ErrorCode::TypeMismatch].contains(&error.code) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn assignments(columns: &[&str]) -> String {
    columns.iter().map(|name| format!("{name} = ?")).collect::<Vec<_>>().join(", ")
}

fn condition(table: &Table) -> String {
    table.key.iter().map(|name| format!("{name} = ?")).collect::<Vec<_>>().join(" AND ")
}

impl Write {
    /// The statement, with the values that it binds; nothing where the table has no column to write.
    fn statement(&self, replica: usize) -> Option<(String, Vec<Cell>)> {
        Some(match self {
            Self::Insert { verb, table, key, values } => insert(verb, &FREE[*table], *key, values),
            Self::Upsert { table, key, values } => {
                let table = &FREE[*table];
                let (sql, cells) = insert("INSERT", table, *key, values);
                let sets = table.columns.iter().map(|c| format!("{c} = excluded.{c}")).collect::<Vec<_>>().join(", ");
                let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {sets}") };
                (format!("{sql} ON CONFLICT ({}) DO {action}", table.key.join(", ")), cells)
            }
            Self::Update { table, key, first, values } => {
                let table = &FREE[*table];
                let columns: Vec<&str> =
                    table.columns.iter().cycle().skip(*first).take(values.len()).copied().collect();
                if table.columns.len() < columns.len() || columns.is_empty() {
                    return None;
                }
                let cells = values.iter().cloned().chain(key_cells(table.kind, *key)).collect();
                (format!("UPDATE {} SET {} WHERE {}", table.name, assignments(&columns), condition(table)), cells)
            }
            Self::UpdateAll { table, column, value } => {
                let table = &FREE[*table];
                let column = table.columns.get(*column)?;
                (format!("UPDATE {} SET {column} = ?", table.name), vec![value.clone()])
            }
            Self::Delete { table, key } => {
                let table = &FREE[*table];
                (format!("DELETE FROM {} WHERE {}", table.name, condition(table)), key_cells(table.kind, *key))
            }
            Self::Rekey { verb, table, from, to } => {
                let table = &FREE[*table];
                let cells = key_cells(table.kind, *to).into_iter().chain(key_cells(table.kind, *from)).collect();
                (format!("{verb} {} SET {} WHERE {}", table.name, assignments(table.key), condition(table)), cells)
            }
            Self::Copy { verb } => {
                (format!("{verb} INTO flat (k, v, m) SELECT id, body, coalesce(n, 0) FROM note"), vec![])
            }
            Self::Refused { table, key } => {
                let table = &FREE[*table];
                let (sql, mut cells) = insert("INSERT OR IGNORE", table, 0, &vec![Cell::Null; 4]);
                cells[0] = key.clone();
                (sql, cells)
            }
            Self::Plant { verb, table, key, parent, value } => {
                let table = &FAMILY[*table];
                let parent = parent.map_or(Cell::Null, |n| family_key(replica, n));
                let mut cells = vec![family_key(replica, *key), parent, value.clone()];
                if table.columns.len() == 1 {
                    cells.remove(1);
                }
                let names = table.key.iter().chain(table.columns).copied().collect::<Vec<_>>().join(", ");
                (format!("{verb} INTO {} ({names}) VALUES ({})", table.name, marks(cells.len())), cells)
            }
            Self::Graft { key, parent, table } => {
                let table = &FAMILY[*table];
                let value = parent.map_or(Cell::Null, |n| family_key(replica, n));
                let sql = format!("UPDATE {} SET {} = ? WHERE id = ?", table.name, table.columns[0]);
                (sql, vec![value, family_key(replica, *key)])
            }
            Self::Prune { table, key } => {
                (format!("DELETE FROM {} WHERE id = ?", FAMILY[*table].name), vec![family_key(replica, *key)])
            }
            Self::Uproot { verb, table, from, to } => (
                format!("{verb} {} SET id = ? WHERE id = ?", FAMILY[*table].name),
                vec![family_key(replica, *to), family_key(replica, *from)],
            ),
        })
    }

    pub fn run(&self, conn: &Connection, replica: usize) {
        // Who takes the triggers off a table takes off what refuses keys that nobody could be told of.
        let possible = match self {
            Self::Refused { table, .. } => is_captured(conn, FREE[*table].name),
            _ => true,
        };
        if let Some((sql, cells)) = self.statement(replica).filter(|_| possible) {
            execute(conn, &sql, &cells);
        }
    }
}

fn is_captured(conn: &Connection, table: &str) -> bool {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 AND name GLOB 'ZV_*_insert'";
    conn.prepare(sql).unwrap().exists([table]).unwrap()
}

fn insert(verb: &str, table: &Table, key: usize, values: &[Cell]) -> (String, Vec<Cell>) {
    let names = table.key.iter().chain(table.columns).copied().collect::<Vec<_>>().join(", ");
    let mut cells = key_cells(table.kind, key);
    cells.extend(values.iter().take(table.columns.len()).cloned());
    (format!("{verb} INTO {} ({names}) VALUES ({})", table.name, marks(cells.len())), cells)
}

/// Runs writes in one transaction.
pub fn transaction(conn: &Connection, replica: usize, writes: &[Write], fate: Fate) {
    conn.execute_batch("BEGIN").unwrap();
    for (n, write) in writes.iter().enumerate() {
        if n == 1 && fate == Fate::RollbackToSavepoint {
            conn.execute_batch("SAVEPOINT here").unwrap();
        }
        write.run(conn, replica);
    }
    match fate {
        Fate::Commit => conn.execute_batch("COMMIT"),
        Fate::Rollback => conn.execute_batch("ROLLBACK"),
        Fate::RollbackToSavepoint if writes.len() > 1 => conn.execute_batch("ROLLBACK TO here; RELEASE here; COMMIT"),
        Fate::RollbackToSavepoint => conn.execute_batch("COMMIT"),
    }
    .unwrap();
}
