//! Odd tables made by dice: any names, types, keys, constraints and indexes that SQLite may or may not accept. Pure text.

use super::dice::Dice;
use crate::db::{Ident, list};

const NAMES: [&str; 32] = [
    "a",
    "b",
    "A",
    "old",
    "new",
    "NEW",
    "rowid",
    "oid",
    "_rowid_",
    "zv_row",
    "select",
    "order",
    "a b",
    "a\"b",
    "it's",
    "[x]",
    "`",
    "",
    " ",
    "c0",
    "ms",
    "seq",
    "op",
    "1",
    "päivä",
    "Ä",
    "🔔",
    "x.y;--",
    "%",
    "zv_deleted",
    "\n",
    "id",
];
const TYPES: [&str; 16] = [
    "TEXT",
    "",
    "INTEGER",
    "INT",
    "REAL",
    "BLOB",
    "NUMERIC",
    "ANY",
    "VARCHAR(9)",
    "DATETIME",
    "BOOLEAN",
    "DECIMAL(9, 2)",
    "CLOB",
    "DOUBLE",
    "CHARINT",
    "\"odd type\"",
];
const DEFAULTS: [&str; 16] = [
    "0",
    "NULL",
    "'x'",
    "''",
    "-1.5e3",
    "'it''s'",
    "x'00ff'",
    "TRUE",
    "(1 + 2)",
    "1e999",
    "9223372036854775808",
    "'1'",
    "\"legacy\"",
    "(lower('A'))",
    "(NULL)",
    "-9223372036854775808",
];
const COLLATIONS: [&str; 4] = ["BINARY", "NOCASE", "RTRIM", "nocase"];
const RESOLUTIONS: [&str; 6] =
    ["", "", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE", " ON CONFLICT FAIL", " ON CONFLICT ROLLBACK"];

/// A table as the dice made it.
pub(super) struct Odd {
    pub(super) table: String,
    /// What creates it and its indexes.
    pub(super) statements: Vec<String>,
    pub(super) columns: Vec<String>,
}

/// Any name: a known trap, or text of the dice's own.
fn name(dice: &mut Dice<'_>) -> String {
    match dice.roll(NAMES.len() + 8) {
        at if at < NAMES.len() => NAMES[at].to_owned(),
        _ => dice.text(16),
    }
}

pub(super) fn odd_table(dice: &mut Dice<'_>) -> Odd {
    let table = name(dice);
    let columns: Vec<String> = (0..1 + dice.roll(6)).map(|_| name(dice)).collect();
    // One column in eight tables is computed, and never the first.
    let is_strict = dice.once_in(6);
    let mut parts: Vec<String> = Vec::new();
    let key_kind = dice.roll(5);
    for (at, column) in columns.iter().enumerate() {
        let key = match key_kind {
            0 | 1 if at == 0 => format!(" PRIMARY KEY{}", dice.pick(&RESOLUTIONS)),
            2 if at == 0 && dice.once_in(2) => " PRIMARY KEY AUTOINCREMENT".to_owned(),
            2 if at == 0 => " PRIMARY KEY".to_owned(),
            _ => String::new(),
        };
        let kind = if key_kind == 2 && at == 0 { "INTEGER" } else { column_type(dice, is_strict) };
        parts.push(format!("{} {kind}{key}{}", Ident(column), constraints(dice, &table, &columns, at)));
    }
    if key_kind >= 3 {
        parts.push(format!("PRIMARY KEY ({}){}", some_columns(dice, &columns, 3), dice.pick(&RESOLUTIONS)));
    }
    for _ in 0..dice.roll(3) {
        parts.push(table_constraint(dice, &table, &columns));
    }
    let options = match (is_strict, dice.once_in(4)) {
        (false, false) => "",
        (true, false) => " STRICT",
        (false, true) => " WITHOUT ROWID",
        (true, true) => " STRICT, WITHOUT ROWID",
    };
    let mut statements = vec![format!("CREATE TABLE {} ({}){options}", Ident(&table), list(parts))];
    for at in 0..dice.roll(3) {
        statements.push(index(dice, at, &table, &columns));
    }
    Odd { table, statements, columns }
}

fn column_type(dice: &mut Dice<'_>, is_strict: bool) -> &'static str {
    if is_strict { dice.pick(&["TEXT", "INTEGER", "INT", "REAL", "BLOB", "ANY"]) } else { dice.pick(&TYPES) }
}

fn constraints(dice: &mut Dice<'_>, table: &str, columns: &[String], at: usize) -> String {
    let column = Ident(&columns[at]);
    let mut sql = String::new();
    for _ in 0..dice.roll(4) {
        sql += &match dice.roll(7) {
            0 => format!(" NOT NULL{}", dice.pick(&RESOLUTIONS)),
            1 => format!(" UNIQUE{}", dice.pick(&RESOLUTIONS)),
            2 => format!(" DEFAULT {}", dice.pick(&DEFAULTS)),
            3 => format!(" COLLATE {}", dice.pick(&COLLATIONS)),
            4 => format!(" CHECK ({})", condition(dice, &column.to_string())),
            5 => format!(" {}", reference(dice, table, columns)),
            _ if at > 0 => {
                let expression = expression(dice, &Ident(&columns[at - 1]).to_string());
                format!(" AS ({expression}) {}", dice.pick(&["VIRTUAL", "STORED"]))
            }
            _ => String::new(),
        };
    }
    sql
}

fn reference(dice: &mut Dice<'_>, table: &str, columns: &[String]) -> String {
    let parent = match dice.roll(4) {
        0 => "parent".to_owned(),
        1 => "parent (code)".to_owned(),
        2 => Ident(table).to_string(),
        _ => format!("{} ({})", Ident(table), Ident(&columns[0])),
    };
    let action = dice.pick(&["", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT"]);
    let on = dice.pick(&["DELETE", "UPDATE"]);
    let action = if action.is_empty() { String::new() } else { format!(" ON {on} {action}") };
    format!("REFERENCES {parent}{action}{}", dice.pick(&["", " DEFERRABLE INITIALLY DEFERRED"]))
}

fn table_constraint(dice: &mut Dice<'_>, table: &str, columns: &[String]) -> String {
    match dice.roll(3) {
        0 => format!("UNIQUE ({}){}", some_columns(dice, columns, 3), dice.pick(&RESOLUTIONS)),
        1 => {
            let column = any_column(dice, columns);
            format!("CHECK ({})", condition(dice, &column))
        }
        _ => format!("FOREIGN KEY ({}) {}", any_column(dice, columns), reference(dice, table, columns)),
    }
}

fn index(dice: &mut Dice<'_>, at: usize, table: &str, columns: &[String]) -> String {
    let unique = dice.pick(&["UNIQUE ", ""]);
    let mut parts = Vec::new();
    for _ in 0..1 + dice.roll(2) {
        let column = any_column(dice, columns);
        let part = if dice.once_in(3) { expression(dice, &column) } else { column };
        let collation = if dice.once_in(4) { format!(" COLLATE {}", dice.pick(&COLLATIONS)) } else { String::new() };
        parts.push(format!("{part}{collation}{}", dice.pick(&["", " DESC"])));
    }
    let column = any_column(dice, columns);
    let filter = if dice.once_in(3) { format!(" WHERE {}", condition(dice, &column)) } else { String::new() };
    format!("CREATE {unique}INDEX {} ON {} ({}){filter}", Ident(&format!("index {at}")), Ident(table), list(parts))
}

fn any_column(dice: &mut Dice<'_>, columns: &[String]) -> String {
    Ident(&columns[dice.roll(columns.len())]).to_string()
}

fn some_columns(dice: &mut Dice<'_>, columns: &[String], most: usize) -> String {
    let count = 1 + dice.roll(most);
    list((0..count).map(|_| any_column(dice, columns) + dice.pick(&["", "", "", " COLLATE NOCASE", " DESC"])))
}

/// An expression of a column that is the same whenever it is computed.
fn expression(dice: &mut Dice<'_>, column: &str) -> String {
    match dice.roll(8) {
        0 => format!("lower({column})"),
        1 => format!("{column} || 'x'"),
        2 => format!("{column} + 1"),
        3 => format!("typeof({column})"),
        4 => format!("coalesce({column}, 0)"),
        5 => format!("CASE WHEN {column} > 1 THEN 1 ELSE {column} END"),
        6 => format!("CAST({column} AS TEXT)"),
        _ => format!("-{column}"),
    }
}

fn condition(dice: &mut Dice<'_>, column: &str) -> String {
    match dice.roll(7) {
        0 => format!("{column} IS NOT NULL"),
        1 => format!("{column} <> 'no'"),
        2 => format!("length({column}) < 9"),
        3 => format!("typeof({column}) <> 'blob'"),
        4 => format!("{column} IS NULL OR {column} >= 0"),
        5 => format!("{column} IN (1, 'a', x'00')"),
        _ => format!("{column} LIKE '%a%'"),
    }
}
