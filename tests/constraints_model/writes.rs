//! What the writers do to a random schema: statements in plain SQL, sense and nonsense alike.

use proptest::prelude::*;
use rusqlite::{Connection, ErrorCode};

use super::schema::{Holds, Identity, Schema};

#[derive(Debug, Clone)]
pub enum Write {
    Insert {
        verb: &'static str,
        table: usize,
        key: usize,
        values: Vec<usize>,
    },
    Update {
        verb: &'static str,
        table: usize,
        row: usize,
        column: usize,
        value: usize,
    },
    UpdateAll {
        verb: &'static str,
        table: usize,
        column: usize,
        value: usize,
    },
    Rekey {
        verb: &'static str,
        table: usize,
        row: usize,
        key: usize,
    },
    Delete {
        table: usize,
        row: usize,
    },
    DeleteAll {
        table: usize,
    },
    Swap {
        table: usize,
        column: usize,
        row: usize,
        other: usize,
    },
    Pragma(&'static str, bool),
    /// Another number, or none and the same given again at once, whoever refers to it.
    Renumber {
        table: usize,
        row: usize,
        to: usize,
    },
    Recycle {
        table: usize,
        row: usize,
    },
}

#[derive(Debug, Clone)]
pub enum Step {
    Write(usize, Write),
    /// The listing lacks some of the files, or none where the number is 0.
    Sync(usize, u64),
    Seal(usize),
    Tick(usize, u64),
}

pub fn any_write() -> impl Strategy<Value = Write> {
    let insert =
        prop::sample::select(vec!["INSERT", "INSERT", "INSERT", "INSERT OR IGNORE", "INSERT OR REPLACE", "REPLACE"]);
    let update = || prop::sample::select(vec!["UPDATE", "UPDATE", "UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"]);
    let (table, row, column, value) = (|| 0..8_usize, || 0..5_usize, || 0..8_usize, || 0..16_usize);
    prop_oneof![
        12 => (insert, table(), 0..16_usize, prop::collection::vec(value(), 8))
            .prop_map(|(verb, table, key, values)| Write::Insert { verb, table, key, values }),
        8 => (update(), table(), row(), column(), value())
            .prop_map(|(verb, table, row, column, value)| Write::Update { verb, table, row, column, value }),
        1 => (update(), table(), column(), value())
            .prop_map(|(verb, table, column, value)| Write::UpdateAll { verb, table, column, value }),
        2 => (update(), table(), row(), 0..16_usize).prop_map(|(verb, table, row, key)| Write::Rekey { verb, table, row, key }),
        3 => (table(), row()).prop_map(|(table, row)| Write::Delete { table, row }),
        1 => table().prop_map(|table| Write::DeleteAll { table }),
        2 => (table(), column(), row(), row())
            .prop_map(|(table, column, row, other)| Write::Swap { table, column, row, other }),
        1 => (prop::sample::select(vec!["foreign_keys", "recursive_triggers"]), any::<bool>())
            .prop_map(|(name, on)| Write::Pragma(name, on)),
        1 => (table(), row(), 0..9_usize).prop_map(|(table, row, to)| Write::Renumber { table, row, to }),
        1 => (table(), row()).prop_map(|(table, row)| Write::Recycle { table, row }),
    ]
}

pub fn any_seed() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec(any_write(), 0..8)
}

pub fn any_step(replicas: usize) -> impl Strategy<Value = Step> {
    let who = move || 0..replicas;
    prop_oneof![
        12 => (who(), any_write()).prop_map(|(who, write)| Step::Write(who, write)),
        4 => (who(), prop_oneof![1 => Just(0), 1 => 1..4_u64]).prop_map(|(who, late)| Step::Sync(who, late)),
        1 => who().prop_map(Step::Seal),
        1 => (who(), 0..50_u64).prop_map(|(who, ms)| Step::Tick(who, ms)),
    ]
}

impl Write {
    /// Runs the write; what the database refuses is refused.
    pub fn run(&self, conn: &Connection, schema: &Schema) {
        for sql in self.statements(schema) {
            match conn.execute(&sql, []) {
                Ok(_) => {}
                Err(rusqlite::Error::SqliteFailure(error, _))
                    if [ErrorCode::ConstraintViolation, ErrorCode::TypeMismatch].contains(&error.code) => {}
                Err(error) => panic!("{sql}: {error}"),
            }
        }
    }

    /// The write as SQL.
    pub fn statements(&self, schema: &Schema) -> Vec<String> {
        let count = schema.tables.len();
        match self {
            Self::Insert { verb, table, key, values } => {
                let no = table % count;
                let (mut names, mut cells) = key_of(schema, no, *key);
                for (n, (name, column)) in schema.tables[no].named().enumerate() {
                    // Both halves of a reference by two columns are of one row, most of the time.
                    let at = if matches!(column.holds, Holds::Part(_, 1)) && values[n] < 14 { n - 1 } else { n };
                    names.push(name);
                    cells.push(cell(schema, column.holds, values[at]));
                }
                vec![format!("{verb} INTO t{no} ({}) VALUES ({})", names.join(", "), cells.join(", "))]
            }
            Self::Update { verb, table, row, column, value } => {
                let no = table % count;
                let sets = assignments(schema, no, *column, *value);
                sets.map_or(vec![], |sets| vec![format!("{verb} t{no} SET {sets} WHERE {}", nth(schema, no, *row))])
            }
            Self::UpdateAll { verb, table, column, value } => {
                let no = table % count;
                assignments(schema, no, *column, *value).map_or(vec![], |sets| vec![format!("{verb} t{no} SET {sets}")])
            }
            Self::Rekey { verb, table, row, key } => {
                let no = table % count;
                let (names, cells) = key_of(schema, no, *key);
                let pairs = names.iter().zip(&cells).filter(|(_, cell)| *cell != "NULL");
                let sets: Vec<String> = pairs.map(|(name, cell)| format!("{name} = {cell}")).collect();
                match sets.is_empty() {
                    true => vec![],
                    false => vec![format!("{verb} t{no} SET {} WHERE {}", sets.join(", "), nth(schema, no, *row))],
                }
            }
            Self::Delete { table, row } => {
                let no = table % count;
                vec![format!("DELETE FROM t{no} WHERE {}", nth(schema, no, *row))]
            }
            Self::DeleteAll { table } => vec![format!("DELETE FROM t{}", table % count)],
            Self::Swap { table, column, row, other } => swap(schema, table % count, *column, *row, *other),
            Self::Pragma(name, on) => vec![format!("PRAGMA {name} = {on}")],
            Self::Renumber { table, row, to } => {
                let no = table % count;
                without_foreign_keys(schema, no, [format!("UPDATE t{no} SET k = {to} WHERE {}", nth(schema, no, *row))])
            }
            Self::Recycle { table, row } => recycle(schema, table % count, *row),
        }
    }
}

/// The values of a column of two rows, exchanged by way of one that no row has.
fn swap(schema: &Schema, no: usize, column: usize, row: usize, other: usize) -> Vec<String> {
    let columns = &schema.tables[no].columns;
    if columns.is_empty() || row == other {
        return vec![];
    }
    let (at, table) = (column % columns.len(), &schema.tables[no]);
    let away = match columns[at].holds {
        Holds::Integer | Holds::Any => "1000",
        Holds::Text | Holds::NoCase | Holds::RTrim => "'away'",
        _ => return vec![],
    };
    let (name, key) = (format!("c{at}"), table.identity.key().join(", "));
    let nth = |n: usize| format!("({key}) = (SELECT {key} FROM t{no} ORDER BY {key} LIMIT 1 OFFSET {n})");
    vec![
        "CREATE TEMP TABLE IF NOT EXISTS swapped (v)".into(),
        "DELETE FROM temp.swapped".into(),
        format!("INSERT INTO temp.swapped SELECT {name} FROM t{no} WHERE {}", nth(row)),
        format!("UPDATE t{no} SET {name} = {away} WHERE {}", nth(row)),
        format!("UPDATE t{no} SET {name} = (SELECT v FROM temp.swapped) WHERE {}", nth(other)),
    ]
}

/// What only foreign keys would refuse: rows that lose their parents' numbers to nobody, or to others.
fn without_foreign_keys(schema: &Schema, no: usize, sql: impl IntoIterator<Item = String>) -> Vec<String> {
    if !schema.tables[no].identity.is_local() {
        return vec![];
    }
    let switch = |on: bool| [format!("PRAGMA foreign_keys = {on}")];
    switch(false).into_iter().chain(sql).chain(switch(true)).collect()
}

fn recycle(schema: &Schema, no: usize, row: usize) -> Vec<String> {
    let table = &schema.tables[no];
    let mut names = vec!["k".to_owned()];
    names.extend((table.identity == Identity::Uuid).then(|| "u".to_owned()));
    let key = names.len();
    names.extend(table.named().map(|(name, _)| name));
    let values = names.iter().enumerate().map(|(n, name)| match (n, key) {
        (1, 2) => "u || '+'".to_owned(),
        _ => name.clone(),
    });
    let values: Vec<String> = values.collect();
    let sql = [
        "DROP TABLE IF EXISTS temp.recycled".to_owned(),
        format!("CREATE TEMP TABLE recycled AS SELECT * FROM t{no} WHERE {}", nth(schema, no, row)),
        format!("DELETE FROM t{no} WHERE k IN (SELECT k FROM temp.recycled)"),
        format!("INSERT INTO t{no} ({}) SELECT {} FROM temp.recycled", names.join(", "), values.join(", ")),
    ];
    without_foreign_keys(schema, no, sql)
}

/// A value for a column, and for the other half of its reference, if it has one.
pub fn assignments(schema: &Schema, no: usize, column: usize, value: usize) -> Option<String> {
    let columns = &schema.tables[no].columns;
    if columns.is_empty() {
        return None;
    }
    let at = column % columns.len();
    let set = |at: usize| format!("c{at} = {}", cell(schema, columns[at].holds, value));
    Some(match columns[at].holds {
        Holds::Part(_, 0) if value < 14 => format!("{}, {}", set(at), set(at + 1)),
        _ => set(at),
    })
}

/// The condition on the row at a place.
fn nth(schema: &Schema, no: usize, row: usize) -> String {
    let key = schema.tables[no].identity.key().join(", ");
    format!("({key}) = (SELECT {key} FROM t{no} ORDER BY {key} LIMIT 1 OFFSET {row})")
}

fn key_of(schema: &Schema, no: usize, key: usize) -> (Vec<String>, Vec<String>) {
    let number = || if key.is_multiple_of(3) { (key % 7).to_string() } else { "NULL".to_owned() };
    match schema.tables[no].identity {
        Identity::Text => (vec!["k".into()], vec![format!("'k{}'", key % 4)]),
        Identity::Generated { .. } => (vec!["k".into()], vec![number()]),
        Identity::Uuid => (vec!["k".into(), "u".into()], vec![number(), format!("'u{}'", key % 4)]),
        Identity::Pair => {
            (vec!["ka".into(), "kb".into()], vec![format!("'{}'", ["x", "y"][key % 2]), (key / 2 % 2).to_string()])
        }
        Identity::Link(a, b) => {
            let part = |parent: usize, n: usize| match (n, schema.tables[parent].identity.is_local()) {
                (3, true) => "77".to_owned(),
                (3, false) => "'k9'".to_owned(),
                _ => format!("(SELECT k FROM t{parent} ORDER BY k LIMIT 1 OFFSET {n})"),
            };
            (vec!["ka".into(), "kb".into()], vec![part(a, key % 4), part(b, key / 4 % 4)])
        }
    }
}

/// A value of a column as SQL: literals from a few, so that rows meet, and references to rows that are there, or not.
fn cell(schema: &Schema, holds: Holds, n: usize) -> String {
    let one_of = |values: &[&str]| values[n % values.len()].to_owned();
    match holds {
        Holds::Text | Holds::NoCase | Holds::RTrim => one_of(&["NULL", "'a'", "'A'", "'a '", "'b'", "'c'"]),
        Holds::Integer => one_of(&["NULL", "0", "1", "2", "3"]),
        Holds::Any => one_of(&["NULL", "1", "1.0", "'a'", "2"]),
        Holds::Outside => one_of(&["NULL", "1", "2", "3"]),
        Holds::Row(parent) => match n {
            0 | 1 => "NULL".into(),
            2 if schema.tables[parent].identity.is_local() => "77".into(),
            2 => "'k9'".into(),
            _ => format!("(SELECT k FROM t{parent} ORDER BY k LIMIT 1 OFFSET {})", n % 4),
        },
        Holds::Code(parent) => match n {
            0 | 1 => "NULL".into(),
            2 => "'b'".into(),
            _ => format!("(SELECT c0 FROM t{parent} ORDER BY k{} LIMIT 1 OFFSET {})", suffix(schema, parent), n % 4),
        },
        Holds::Part(parent, at) => match n {
            0 | 1 => "NULL".into(),
            _ => format!("(SELECT {} FROM t{parent} ORDER BY ka, kb LIMIT 1 OFFSET {})", ["ka", "kb"][at], n % 4),
        },
    }
}

fn suffix(schema: &Schema, table: usize) -> &'static str {
    if schema.tables[table].identity.is_one_column() { "" } else { "a" }
}
