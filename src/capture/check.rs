//! Which tables can be tracked, and why the others cannot. Decides; changes nothing.

use rusqlite::Connection;

use crate::db::{Affinity, Ident, Table, TableKind, list, read_table, same_name};
use crate::error::{Error, Result};
use crate::model::{KeyKind, is_reserved_table};

/// Column names that the log keeps for itself.
const RESERVED_COLUMNS: [&str; 2] = ["zv_deleted", "zv_rowid"];
/// The journal has five columns of its own, and SQLite allows a table 2,000.
const MAX_COLUMNS: usize = 1_990;

/// The shape of a table that can be tracked, and the form of its entity ids.
pub(crate) fn check_trackable(conn: &Connection, name: &str, identity_key: bool) -> Result<(Table, KeyKind)> {
    if is_reserved_table(name) {
        return Err(Error::schema(format!("{name}: tables of SQLite's and of zvon's own cannot be tracked")));
    }
    let table = read_table(conn, name)?.ok_or_else(|| Error::schema(format!("{name}: no such table")))?;
    let name = &table.name;
    match table.kind {
        TableKind::Table => {}
        TableKind::View => return Err(refusal(name, "is a view; track the tables that it reads")),
        TableKind::Virtual => {
            return Err(refusal(name, "is a virtual table; track the table that it is filled from"));
        }
    }
    check_columns(&table)?;
    let kind = check_key(&table, identity_key)?;
    check_statements(conn, &table)?;
    Ok((table, kind))
}

fn refusal(table: &str, why: impl std::fmt::Display) -> Error {
    Error::schema(format!("{table} {why}"))
}

fn check_columns(table: &Table) -> Result<()> {
    if table.columns.len() > MAX_COLUMNS {
        return Err(refusal(&table.name, format_args!("has more than {MAX_COLUMNS} columns")));
    }
    if let Some(reserved) = RESERVED_COLUMNS.into_iter().find(|name| table.column(name).is_some()) {
        return Err(refusal(&table.name, format_args!("has a column {reserved}, a name that zvon needs; rename it")));
    }
    let by_expression = table.uniques.iter().find(|unique| unique.has_expression);
    by_expression.map_or(Ok(()), |unique| {
        let index = &unique.index;
        Err(refusal(
            &table.name,
            format_args!("has the unique index {index} on an expression, which cannot be tracked"),
        ))
    })
}

fn check_key(table: &Table, identity_key: bool) -> Result<KeyKind> {
    let name = &table.name;
    if table.key.is_empty() {
        return Err(refusal(name, "has no primary key, and a row needs one to be known by everywhere"));
    }
    if let Some(collation) = table.key_collations.iter().find(|c| !same_name(c, "BINARY")) {
        let why = format_args!("has a key with the collation {collation}; only BINARY keys are the same everywhere");
        return Err(refusal(name, why));
    }
    if let Some(real) = table.key_columns().find(|column| column.affinity == Affinity::Real) {
        return Err(refusal(name, format_args!("has the REAL key column {}; a key must be exact", real.name)));
    }
    if table.key_is_rowid && !identity_key {
        let key = &table.columns[table.key[0]].name;
        let why = format!(
            "is keyed by the integer {key}, and two replicas offline would give two rows the same number; \
             if the same number means the same row everywhere, say `--identity key`"
        );
        return Err(refusal(name, why));
    }
    let single = match table.key.as_slice() {
        [at] => Some(&table.columns[*at]),
        _ => None,
    };
    Ok(match single.map(|column| column.affinity) {
        Some(Affinity::Text) => KeyKind::Text,
        Some(Affinity::Integer) => KeyKind::Integer,
        _ => KeyKind::Parts,
    })
}

/// Prepares what a merge will run: it fails where a collation or a function is another program's own.
fn check_statements(conn: &Connection, table: &Table) -> Result<()> {
    let name = Ident(&table.name);
    let names: Vec<String> = table.columns.iter().map(|column| Ident(&column.name).to_string()).collect();
    let sets = list(names.iter().map(|column| format!("{column} = {column}")));
    let statements = [
        format!("SELECT 1 FROM {name} ORDER BY {}", list(&names)),
        format!("INSERT INTO {name} ({}) VALUES ({})", list(&names), list(names.iter().map(|_| "?"))),
        format!("UPDATE {name} SET {sets}"),
        format!("DELETE FROM {name}"),
    ];
    for sql in statements {
        if let Err(source) = conn.prepare(&sql) {
            let why = "needs a function, collation or module that zvon does not have";
            return Err(refusal(&table.name, why).caused_by(source));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, identity_key: bool) -> Result<KeyKind> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        check_trackable(&conn, "t", identity_key).map(|(_, kind)| kind)
    }

    #[test]
    fn kinds_of_key() {
        assert_eq!(check("CREATE TABLE t (id TEXT PRIMARY KEY, a)", false).unwrap(), KeyKind::Text);
        assert_eq!(check("CREATE TABLE t (id VARCHAR(9) PRIMARY KEY, a)", false).unwrap(), KeyKind::Text);
        assert_eq!(check("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", true).unwrap(), KeyKind::Integer);
        assert_eq!(check("CREATE TABLE t (id INT PRIMARY KEY, a)", false).unwrap(), KeyKind::Integer);
        assert_eq!(check("CREATE TABLE t (id PRIMARY KEY, a)", false).unwrap(), KeyKind::Parts);
        assert_eq!(check("CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b))", false).unwrap(), KeyKind::Parts);
    }

    #[test]
    fn what_cannot_be_tracked_is_refused_by_name() {
        for (sql, why) in [
            ("CREATE TABLE u (a)", "no such table"),
            ("CREATE VIEW t AS SELECT 1", "is a view"),
            ("CREATE VIRTUAL TABLE t USING fts5(a)", "is a virtual table"),
            ("CREATE TABLE t (a)", "has no primary key"),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY)", "`--identity key`"),
            ("CREATE TABLE t (id REAL PRIMARY KEY)", "REAL"),
            ("CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY)", "NOCASE"),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, ZV_deleted)", "zv_deleted"),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, a); CREATE UNIQUE INDEX i ON t (lower(a))", "on an expression"),
        ] {
            let message = check(sql, false).unwrap_err().to_string();
            assert!(message.contains(why), "{sql}: {message}");
        }
    }

    #[test]
    fn a_function_of_another_program_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        let flags = rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC;
        conn.create_scalar_function("theirs", 1, flags, |_| Ok(1)).unwrap();
        conn.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY, a CHECK (theirs(a)))").unwrap();
        conn.remove_function("theirs", 1).unwrap();
        assert!(check_trackable(&conn, "t", false).unwrap_err().to_string().contains("function"));
    }
}
