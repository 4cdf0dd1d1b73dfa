//! Which tables can be tracked and what identifies their rows, and why the others cannot. Decides; changes nothing.

use rusqlite::Connection;

use super::references::Catalog;
use crate::db::{
    Affinity, Column, Ident, Shapes, Table, TableKind, Unique, list, read_collations, read_table, same_name,
};
use crate::error::{Error, Result};
use crate::model::{DELETED_FIELD, KeyKind, ROWID_FIELD, is_reserved_table};

/// Column names that the log keeps for itself.
const RESERVED_COLUMNS: [&str; 2] = [DELETED_FIELD, ROWID_FIELD];
/// The journal has five columns of its own, and SQLite allows a table 2,000.
const MAX_COLUMNS: usize = 1_990;

/// What the user wants rows to be known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The primary key, or an id of their own where that is an integer which SQLite may give.
    #[default]
    Usual,
    /// The primary key, whatever it is.
    PrimaryKey,
    /// Another set of columns.
    Columns(Vec<String>),
    /// An id of their own.
    Generated,
}

/// What identifies a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) kind: KeyKind,
    /// The integer primary key that stays on this replica.
    pub(crate) local: Option<String>,
    /// The columns that identify a row everywhere; none where it gets an id of its own.
    pub(crate) key: Vec<String>,
}

/// The shape of a table that can be tracked, and what identifies its rows.
pub(crate) fn check_trackable(
    conn: &Connection,
    shapes: &mut Shapes,
    name: &str,
    wanted: &Wanted,
) -> Result<(Table, Identity)> {
    if is_reserved_table(name) {
        return Err(Error::schema(format!("{name}: tables of SQLite's and of zvon's own cannot be tracked")));
    }
    if name.is_empty() {
        return Err(Error::schema("a table without a name cannot be tracked; rename it"));
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
    let identity = match wanted {
        Wanted::Columns(columns) => identity_by(&table, columns)?,
        Wanted::Usual if table.key_is_rowid && !refers_to_key(conn, shapes, &table)? => generated(&table),
        Wanted::Generated if table.key_is_rowid => generated(&table),
        Wanted::Usual | Wanted::PrimaryKey | Wanted::Generated => identity_by_primary_key(&table)?,
    };
    // Where the log keeps the name of a local key, an empty one says that there is none.
    if identity.local.as_deref() == Some("") {
        return Err(refusal(name, "has an integer key without a name; rename the column"));
    }
    check_collations(conn, &table, &identity)?;
    check_statements(conn, &table)?;
    Ok((table, identity))
}

/// Whether the integer primary key is another row's, as in a table with one row for each row of its parent: then it is
/// that row's identity. While the parent is not tracked, nobody knows which of its rows the integer will mean elsewhere.
fn refers_to_key(conn: &Connection, shapes: &mut Shapes, table: &Table) -> Result<bool> {
    let key = &table.columns[table.key[0]].name;
    if table.foreign_keys.is_empty() {
        return Ok(false);
    }
    let catalog = Catalog::load(conn, shapes)?;
    if catalog.target(table, key).is_some() {
        return Ok(true);
    }
    for (parent, column) in table.referred_by(key) {
        let Some(parent) = read_table(conn, parent)?.filter(|parent| !same_name(&parent.name, &table.name)) else {
            continue;
        };
        if catalog.has(&parent.name) {
            return Ok(true);
        }
        if is_integer_key(&parent, column) {
            let (child, parent) = (&table.name, &parent.name);
            let what = format!(
                "has a key that refers to {parent}, which is not tracked; track {parent} first, or both together"
            );
            return Err(refusal(
                child,
                format_args!("{what}, or {child} with `--identity key` if a number is the same row everywhere"),
            ));
        }
    }
    Ok(false)
}

/// Whether a column that is referred to, the key where none is named, is a table's integer key.
fn is_integer_key(table: &Table, column: Option<&str>) -> bool {
    table.key_is_rowid && column.is_none_or(|column| same_name(column, &table.columns[table.key[0]].name))
}

/// Refuses a table that is to be tracked after one whose integer key refers to it: the rows of that one have ids of their own, and
/// whatever integers they get elsewhere, so that they would come to other rows of this table there.
pub(super) fn check_comes_first(conn: &Connection, shapes: &mut Shapes, table: &Table) -> Result<()> {
    let catalog = Catalog::load(conn, shapes)?;
    for (child, shape) in catalog.tables().filter(|(child, _)| child.source.is_generated()) {
        let local = child.source.local.as_deref().unwrap_or_default();
        let mut referred = shape.referred_by(local);
        if referred.any(|(parent, column)| same_name(parent, &table.name) && is_integer_key(table, column)) {
            let child = &shape.name;
            let what = format!("cannot be tracked: the key of {child} refers to it, and {child} was tracked before it");
            return Err(refusal(
                &table.name,
                format_args!(
                    "{what}, with ids of its own; put a new table in place of {child}, and track that after this one"
                ),
            ));
        }
    }
    Ok(())
}

fn generated(table: &Table) -> Identity {
    Identity { kind: KeyKind::Text, local: Some(table.columns[table.key[0]].name.clone()), key: Vec::new() }
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
    Ok(())
}

fn identity_by_primary_key(table: &Table) -> Result<Identity> {
    if table.key.is_empty() {
        let why =
            "has no primary key, and a row needs one to be known by everywhere; name other unique columns with `--key`";
        let name = &table.name;
        return Err(refusal(name, format_args!("{why}, or leave it out: `track --all --except {name}`")));
    }
    if let Some(collation) = table.key_collations.iter().find(|c| !same_name(c, "BINARY")) {
        return Err(refused_collation(&table.name, collation));
    }
    let key: Vec<&Column> = table.key_columns().collect();
    Ok(Identity { kind: kind_of(&table.name, &key)?, local: None, key: names(&key) })
}

/// Another UNIQUE NOT NULL set of columns as the identity; an integer key that SQLite may give then stays here.
fn identity_by(table: &Table, wanted: &[String]) -> Result<Identity> {
    let name = &table.name;
    let mut key = Vec::with_capacity(wanted.len());
    for column in wanted {
        let found = table.column(column);
        key.push(found.ok_or_else(|| refusal(name, format_args!("has no column {column} to be known by")))?);
    }
    let names = names(&key);
    if table.key.len() == key.len() && table.key_columns().all(|column| names.contains(&column.name)) {
        return identity_by_primary_key(table);
    }
    if let Some(nullable) = key.iter().find(|column| !column.not_null && !table.key_columns().any(|k| k == **column)) {
        let why = "may hold NULL, and a NULL identifies no row; make it NOT NULL";
        return Err(refusal(name, format_args!("has the column {}, which {why}", nullable.name)));
    }
    let by = |is_it: fn(&Unique, &[String]) -> bool| table.uniques.iter().find(|unique| is_it(unique, &names));
    let index = by(Unique::identifies_by).or_else(|| by(Unique::is_on));
    let index = index.ok_or_else(|| {
        let columns = wanted.join(", ");
        refusal(name, format_args!("has no UNIQUE constraint on exactly ({columns}), so two rows could share them"))
    })?;
    if let Some(part) = index.parts.iter().find(|part| !same_name(&part.collation, "BINARY")) {
        return Err(refused_collation(name, &part.collation));
    }
    let local = table.key_is_rowid.then(|| table.columns[table.key[0]].name.clone());
    Ok(Identity { kind: kind_of(name, &key)?, local, key: names })
}

/// An index may compare a key by its bytes where its column does not: then every look-up of a row finds others, too.
fn check_collations(conn: &Connection, table: &Table, identity: &Identity) -> Result<()> {
    if is_rowid(table, identity) {
        return Ok(());
    }
    let collations = read_collations(conn, &table.name)?;
    let mut of_key = identity.key.iter().filter_map(|name| collations.get(&name.to_ascii_lowercase()));
    match of_key.find(|collation| !same_name(collation, "BINARY")) {
        Some(collation) => Err(refused_collation(&table.name, &collation.to_ascii_uppercase())),
        None => Ok(()),
    }
}

/// Whether rows are known by the rowid itself, an integer whatever its column says.
fn is_rowid(table: &Table, identity: &Identity) -> bool {
    table.key_is_rowid && identity.local.is_none()
}

fn refused_collation(table: &str, collation: &str) -> Error {
    refusal(table, format_args!("has a key with the collation {collation}; only BINARY keys are the same everywhere"))
}

fn names(columns: &[&Column]) -> Vec<String> {
    columns.iter().map(|column| column.name.clone()).collect()
}

fn kind_of(table: &str, key: &[&Column]) -> Result<KeyKind> {
    if let Some(real) = key.iter().find(|column| column.affinity == Affinity::Real) {
        return Err(refusal(table, format_args!("has the REAL key column {}; a key must be exact", real.name)));
    }
    Ok(match key {
        [single] if single.affinity == Affinity::Text => KeyKind::Text,
        [single] if single.affinity == Affinity::Integer => KeyKind::Integer,
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

    fn check(sql: &str, wanted: &Wanted) -> Result<Identity> {
        let mut conn = Connection::open_in_memory().unwrap();
        crate::db::create_replica(&mut conn, "019a9f3c-0c00-7000-8000-000000000001").unwrap();
        conn.execute_batch(sql).unwrap();
        check_trackable(&conn, &mut Shapes::default(), "t", wanted).map(|(_, identity)| identity)
    }

    fn columns(names: &[&str]) -> Wanted {
        Wanted::Columns(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn kinds_of_key() {
        for (sql, wanted, kind) in [
            ("CREATE TABLE t (id TEXT PRIMARY KEY, a)", Wanted::Usual, KeyKind::Text),
            ("CREATE TABLE t (id VARCHAR(9) PRIMARY KEY, a)", Wanted::Usual, KeyKind::Text),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", Wanted::PrimaryKey, KeyKind::Integer),
            ("CREATE TABLE t (id INT PRIMARY KEY, a)", Wanted::Usual, KeyKind::Integer),
            ("CREATE TABLE t (id PRIMARY KEY, a)", Wanted::Usual, KeyKind::Parts),
            ("CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b))", Wanted::Usual, KeyKind::Parts),
        ] {
            let identity = check(sql, &wanted).unwrap();
            assert_eq!((identity.kind, identity.local), (kind, None), "{sql}");
        }
    }

    #[test]
    fn an_integer_key_stays_here_unless_it_is_said_to_be_the_identity() {
        let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE, n TEXT UNIQUE, m NOT NULL)";
        let identity = check(sql, &Wanted::Usual).unwrap();
        assert_eq!((identity.local.as_deref(), identity.key.len()), (Some("id"), 0));
        let identity = check(sql, &columns(&["U"])).unwrap();
        assert_eq!((identity.local.as_deref(), identity.key), (Some("id"), vec!["u".to_owned()]));
        assert_eq!(check(sql, &columns(&["id"])).unwrap(), check(sql, &Wanted::PrimaryKey).unwrap());
        for (key, why) in [("n", "may hold NULL"), ("m", "no UNIQUE"), ("x", "no column x")] {
            let message = check(sql, &columns(&[key])).unwrap_err().to_string();
            assert!(message.contains(why), "{key}: {message}");
        }
    }

    #[test]
    fn what_cannot_be_tracked_is_refused_by_name() {
        for (sql, why) in [
            ("CREATE TABLE u (a)", "no such table"),
            ("CREATE VIEW t AS SELECT 1", "is a view"),
            ("CREATE VIRTUAL TABLE t USING fts5(a)", "is a virtual table"),
            ("CREATE TABLE t (a)", "has no primary key"),
            ("CREATE TABLE t (a)", "`track --all --except t`"),
            ("CREATE TABLE t (id REAL PRIMARY KEY)", "REAL"),
            ("CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY)", "NOCASE"),
            ("CREATE TABLE t (id TEXT PRIMARY KEY, ZV_deleted)", "zv_deleted"),
            ("CREATE TABLE t (\"\" INTEGER PRIMARY KEY)", "an integer key without a name"),
        ] {
            let message = check(sql, &Wanted::Usual).unwrap_err().to_string();
            assert!(message.contains(why), "{sql}: {message}");
        }
    }

    #[test]
    fn a_table_without_a_name_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE \"\" (id TEXT PRIMARY KEY)").unwrap();
        assert!(
            check_trackable(&conn, &mut Shapes::default(), "", &Wanted::Usual)
                .unwrap_err()
                .to_string()
                .contains("without a name")
        );
    }

    #[test]
    fn a_function_of_another_program_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        let flags = rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC;
        conn.create_scalar_function("theirs", 1, flags, |_| Ok(1)).unwrap();
        conn.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY, a CHECK (theirs(a)))").unwrap();
        conn.remove_function("theirs", 1).unwrap();
        assert!(
            check_trackable(&conn, &mut Shapes::default(), "t", &Wanted::Usual)
                .unwrap_err()
                .to_string()
                .contains("function")
        );
    }
}
