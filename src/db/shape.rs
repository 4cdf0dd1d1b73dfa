//! The shape of a user's table as SQLite reports it. Reads the schema; judges nothing.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension, Row};

use super::{ColumnSql, Event, Ident, IndexSql, SetColumn, Token, Tokens, TriggerSql};
use crate::error::Result;

/// What a name in the schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableKind {
    Table,
    View,
    /// A virtual table, or the shadow of one, as far as that can be known.
    Virtual,
}

/// A column's affinity (<https://sqlite.org/datatype3.html>, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affinity {
    Text,
    Numeric,
    Integer,
    Real,
    Blob,
}

impl Affinity {
    /// In a STRICT table a column of type ANY keeps every value as it is (<https://sqlite.org/stricttables.html>).
    fn of(declared: &str, strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        if strict && declared == "ANY" {
            return Self::Blob;
        }
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if has(&["INT"]) {
            Self::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if declared.is_empty() || has(&["BLOB"]) {
            Self::Blob
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Whether a column keeps an integer as it is: a real has 53 bits for it, and the least integer as a real is none to SQLite.
    pub(crate) fn keeps(self, integer: i64) -> bool {
        self != Self::Real || (integer > i64::MIN && i128::from(integer) == integer as f64 as i128)
    }

    /// Whether SQLite compares columns of two affinities as one kind (<https://sqlite.org/datatype3.html>, section 4.2).
    pub(crate) fn compares_as(self, other: Self) -> bool {
        let is_number = |affinity| matches!(affinity, Self::Numeric | Self::Integer | Self::Real);
        self == other || (is_number(self) && is_number(other))
    }
}

/// A column that can be written (generated ones are left out of a [`Table`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) declared: String,
    pub(crate) affinity: Affinity,
    pub(crate) not_null: bool,
    /// The DEFAULT clause's text.
    pub(crate) default: Option<String>,
}

/// A column that is computed from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generated {
    pub(crate) name: String,
    pub(crate) affinity: Affinity,
    pub(crate) sql: ColumnSql,
}

/// A UNIQUE constraint or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unique {
    pub(crate) index: String,
    pub(crate) parts: Vec<Part>,
    pub(crate) is_primary_key: bool,
    /// The condition on the rows that are in it.
    pub(crate) predicate: Option<String>,
    /// Every name that it mentions, in lower case.
    pub(crate) names: Vec<String>,
}

/// A part of a unique index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The column, where the part is one.
    pub(crate) column: Option<String>,
    /// The part as SQL: the quoted column, or the expression.
    pub(crate) sql: String,
    pub(crate) collation: String,
}

impl Unique {
    /// Whether it lets no two rows have the same values of these columns, and no other two rows keeps apart.
    pub(crate) fn identifies_by(&self, columns: &[String]) -> bool {
        self.is_on(columns) && self.parts.iter().all(|part| same_name(&part.collation, "BINARY"))
    }

    /// Whether every row is in it, and it is on exactly these columns, in whatever collation. It may name one of them twice.
    pub(crate) fn is_on(&self, columns: &[String]) -> bool {
        let is = |part: &Part, column: &String| part.column.as_ref().is_some_and(|name| same_name(name, column));
        self.predicate.is_none()
            && self.parts.iter().all(|part| columns.iter().any(|column| is(part, column)))
            && columns.iter().all(|column| self.parts.iter().any(|part| is(part, column)))
    }

    pub(crate) fn mentions(&self, column: &str) -> bool {
        self.names.iter().any(|name| same_name(name, column))
    }
}

/// A FOREIGN KEY: the columns here and, where named, the parent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) parent: String,
    pub(crate) columns: Vec<String>,
    /// Empty where the parent's primary key is meant.
    pub(crate) parent_columns: Vec<String>,
}

/// A table as the schema has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) kind: TableKind,
    pub(crate) columns: Vec<Column>,
    /// The primary key's columns in the key's order, as positions in `columns`; empty where there is none.
    pub(crate) key: Vec<usize>,
    /// The collations of the key's columns.
    pub(crate) key_collations: Vec<String>,
    /// Whether the key is one column that is the rowid itself.
    pub(crate) key_is_rowid: bool,
    /// A name that reads the rowid; `None` in a WITHOUT ROWID table and where columns shadow all three names.
    pub(crate) rowid: Option<&'static str>,
    /// The columns that are computed from others.
    pub(crate) generated: Vec<Generated>,
    /// Whether SQLite never gives an integer key twice.
    pub(crate) is_autoincrement: bool,
    pub(crate) uniques: Vec<Unique>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// Whether a constraint says itself what becomes of a row that breaks it (<https://sqlite.org/lang_conflict.html>).
    pub(crate) has_conflict_clause: bool,
    /// What the user's triggers do to a row while it is written.
    pub(crate) triggers: Triggers,
}

/// The columns, in lower case, that the user's triggers write in the row whose writing fires them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Triggers {
    /// By an update of their own once a row is inserted.
    pub(crate) filled_in: HashSet<String>,
    /// Before an update does, which may then put back what they wrote.
    pub(crate) written_first: HashSet<String>,
}

/// Whether two names are one to SQLite: ASCII case does not count.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

impl Table {
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| same_name(&c.name, name))
    }

    /// Names in lower case with those that the columns of these names are computed from.
    pub(crate) fn made_of(&self, names: &[String]) -> HashSet<String> {
        let mut all = HashSet::new();
        let mut waiting = names.to_vec();
        while let Some(name) = waiting.pop() {
            let generated = self.generated.iter().find(|generated| same_name(&generated.name, &name));
            if all.insert(name) {
                waiting.extend(generated.iter().flat_map(|generated| generated.sql.names.iter().cloned()));
            }
        }
        all
    }

    /// Whether NULL in a column may make two rows alike to a UNIQUE constraint: by an expression, a generated column or the
    /// condition. Where the column itself is a part, they are all different (<https://sqlite.org/nulls.html>).
    pub(crate) fn counts_null_in(&self, column: &str) -> bool {
        let is_it = |part: &Part| part.column.as_ref().is_some_and(|name| same_name(name, column));
        let mut others = self.uniques.iter().filter(|unique| !unique.parts.iter().any(is_it));
        others.any(|unique| self.made_of(&unique.names).contains(&column.to_ascii_lowercase()))
    }

    /// The tables that a column refers to, and the column there; none where the key is meant.
    pub(crate) fn referred_by(&self, column: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.foreign_keys.iter().filter_map(move |key| {
            let at = key.columns.iter().position(|name| same_name(name, column))?;
            Some((key.parent.as_str(), key.parent_columns.get(at).map(String::as_str)))
        })
    }

    pub(crate) fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|at| &self.columns[*at])
    }
}

/// `"a" = ?1 AND "b" = ?2`, parameters from `first` on.
pub(crate) fn condition(columns: &[String], first: usize) -> String {
    let terms = columns.iter().enumerate();
    terms.map(|(n, name)| format!("{} = ?{}", Ident(name), first + n)).collect::<Vec<_>>().join(" AND ")
}

/// The condition on a column that refers to an integer, a parameter: also by digits, such as '5' or '05', where the column's type,
/// or the lack of one, leaves them text. A foreign key compares with the parent's type, and what is cast has one
/// (<https://sqlite.org/foreignkeys.html>, section 3; <https://sqlite.org/datatype3.html>, section 4.2). Text sorts after numbers, so
/// that an index finds at once that there is none.
pub(crate) fn refers_to(column: &str, parameter: usize) -> String {
    let column = Ident(column);
    format!("({column} = ?{parameter} OR ({column} >= '' AND {column} = CAST(?{parameter} AS INTEGER)))")
}

/// The same for the integers of a JSON array, the first parameter.
pub(crate) fn refers_to_any(column: &str) -> String {
    format!("{} IN (SELECT CAST(value AS INTEGER) FROM json_each(?1))", Ident(column))
}

/// The names of the user's ordinary tables.
pub(crate) fn table_names(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'zv\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = conn.prepare(sql)?;
    let mut names = Vec::new();
    for name in statement.query_map([], |row| row.get::<_, String>(0))? {
        let name = name?;
        if !is_shadow(conn, &name)? {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a table has the name of a shadow, `X_…`, of a virtual table X whose module is not here: which tables are its own only the
/// module knows (<https://sqlite.org/vtab.html>, section 2.11).
fn is_shadow(conn: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0 \
               AND substr(?1, 1, length(name) + 1) = name || '_' COLLATE NOCASE";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([name])?;
    while let Some(row) = rows.next()? {
        let owner: String = row.get(0)?;
        if conn.prepare(&format!("SELECT 1 FROM {}", Ident(&owner))).is_err() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Shapes of tables that were read before, while nobody can change them: in one write transaction.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    known: HashMap<String, Option<Rc<Table>>>,
}

impl Shapes {
    /// A table's shape, `None` if the schema has no such name.
    pub(crate) fn read(&mut self, conn: &Connection, name: &str) -> Result<Option<Rc<Table>>> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let read = read_table(conn, name)?.map(Rc::new);
        self.known.insert(name.to_owned(), read.clone());
        Ok(read)
    }
}

/// A table's shape, `None` if the schema has no such name.
pub(crate) fn read_table(conn: &Connection, name: &str) -> Result<Option<Table>> {
    let sql = "SELECT name, type, wr, strict FROM pragma_table_list(?1) WHERE schema = 'main'";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let found: Option<(String, String, bool, bool)> = conn.prepare_cached(sql)?.query_row([name], read).optional()?;
    let Some((name, kind, without_rowid, strict)) = found else { return Ok(None) };
    let kind = match kind.as_str() {
        "table" if !is_shadow(conn, &name)? => TableKind::Table,
        "view" => TableKind::View,
        _ => TableKind::Virtual,
    };
    let create = read_create(conn, &name)?;
    let mut table = Table {
        kind,
        columns: Vec::new(),
        key: Vec::new(),
        key_collations: Vec::new(),
        key_is_rowid: false,
        rowid: None,
        generated: Vec::new(),
        is_autoincrement: false,
        uniques: Vec::new(),
        foreign_keys: read_foreign_keys(conn, &name)?,
        has_conflict_clause: has_conflict_clause(&create),
        triggers: read_triggers(conn, &name)?,
        name,
    };
    read_columns(conn, &mut table, strict, &create)?;
    table.uniques = read_uniques(conn, &table.name)?;
    let is_taken = |alias: &str| {
        let generated = table.generated.iter().map(|generated| &generated.name);
        let mut names = table.columns.iter().map(|column| &column.name).chain(generated);
        names.any(|name| same_name(name, alias))
    };
    let free = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !is_taken(alias));
    table.rowid = free.filter(|_| !without_rowid && kind == TableKind::Table);
    match table.uniques.iter().find(|unique| unique.is_primary_key) {
        Some(unique) => table.key_collations = unique.parts.iter().map(|part| part.collation.clone()).collect(),
        None => {
            // Only the key that is the rowid has no index of its own.
            table.key_is_rowid = table.key.len() == 1 && !without_rowid;
            // No bare name can be this word (<https://sqlite.org/lang_keywords.html>).
            table.is_autoincrement =
                table.key_is_rowid && Tokens::new(&create).any(|token| is(&token, "autoincrement"));
            table.key_collations = vec!["BINARY".into(); table.key.len()];
        }
    }
    Ok(Some(table))
}

/// The statement that made a table; empty where none is kept.
fn read_create(conn: &Connection, table: &str) -> Result<String> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let create: Option<Option<String>> = conn.prepare_cached(sql)?.query_row([table], |row| row.get(0)).optional()?;
    Ok(create.flatten().unwrap_or_default())
}

/// The collations that columns' definitions say their values are compared by, by the columns' names in lower case.
pub(crate) fn read_collations(conn: &Connection, table: &str) -> Result<HashMap<String, String>> {
    let columns = ColumnSql::read_all(&read_create(conn, table)?).into_iter();
    Ok(columns.filter_map(|(name, sql)| Some((name, sql.collation?))).collect())
}

fn is(token: &Token<'_>, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word))
}

fn has_conflict_clause(create: &str) -> bool {
    Tokens::new(create).zip(Tokens::new(create).skip(1)).any(|(a, b)| is(&a, "on") && is(&b, "conflict"))
}

fn read_columns(conn: &Connection, table: &mut Table, strict: bool, create: &str) -> Result<()> {
    let sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([&table.name])?;
    let mut key: Vec<(i64, usize)> = Vec::new();
    let mut definitions = None;
    while let Some(row) = rows.next()? {
        let (declared, place, hidden): (String, i64, i64) = (row.get(1)?, row.get(4)?, row.get(5)?);
        if hidden != 0 {
            let name: String = row.get(0)?;
            let definitions = definitions.get_or_insert_with(|| ColumnSql::read_all(create));
            // A definition that begins with a string is not found by its name: any column may be in it.
            let all = || Tokens::new(create).filter_map(|token| token.name()).collect();
            let unknown = || ColumnSql { names: all(), ..ColumnSql::default() };
            let sql = definitions.remove(&name.to_ascii_lowercase()).unwrap_or_else(unknown);
            table.generated.push(Generated { name, affinity: Affinity::of(&declared, strict), sql });
            continue;
        }
        if place > 0 {
            key.push((place, table.columns.len()));
        }
        table.columns.push(Column {
            name: row.get(0)?,
            affinity: Affinity::of(&declared, strict),
            declared,
            not_null: row.get(2)?,
            default: row.get(3)?,
        });
    }
    key.sort_unstable();
    table.key = key.into_iter().map(|(_, at)| at).collect();
    Ok(())
}

/// The affinity of a column.
pub(crate) fn read_affinity(conn: &Connection, table: &str, column: &str) -> Result<Option<Affinity>> {
    let sql = "SELECT c.type, t.strict FROM pragma_table_list AS t, pragma_table_xinfo(t.name) AS c \
               WHERE t.schema = 'main' AND t.name = ?1 COLLATE NOCASE AND c.name = ?2 COLLATE NOCASE";
    let read = |row: &Row<'_>| Ok(Affinity::of(&row.get::<_, String>(0)?, row.get(1)?));
    Ok(conn.prepare_cached(sql)?.query_row([table, column], read).optional()?)
}

fn read_uniques(conn: &Connection, table: &str) -> Result<Vec<Unique>> {
    let sql = "SELECT l.name, l.origin = 'pk', s.sql FROM pragma_index_list(?1) AS l \
               LEFT JOIN sqlite_schema AS s ON s.type = 'index' AND s.name = l.name WHERE l.\"unique\" ORDER BY l.seq";
    let mut statement = conn.prepare_cached(sql)?;
    let indexes: Vec<(String, bool, Option<String>)> = statement
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    indexes.into_iter().map(|(index, is_primary_key, sql)| read_unique(conn, index, is_primary_key, sql)).collect()
}

fn read_unique(conn: &Connection, index: String, is_primary_key: bool, sql: Option<String>) -> Result<Unique> {
    let text = sql.as_deref().and_then(IndexSql::read).unwrap_or_default();
    let sql = "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE \"key\" ORDER BY seqno";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([&index])?;
    let (mut parts, mut names) = (Vec::new(), text.names);
    while let Some(row) = rows.next()? {
        let column: Option<String> = row.get(0)?;
        names.extend(column.iter().map(|name| name.to_ascii_lowercase()));
        let sql = match &column {
            Some(name) => Ident(name).to_string(),
            None => text.parts.get(parts.len()).cloned().unwrap_or_else(|| "NULL".to_owned()),
        };
        parts.push(Part { column, sql, collation: row.get(1)? });
    }
    Ok(Unique { index, parts, is_primary_key, predicate: text.predicate, names })
}

fn read_triggers(conn: &Connection, table: &str) -> Result<Triggers> {
    let is_here = |set: &SetColumn| set.table.as_ref().is_none_or(|other| same_name(other, table));
    let set_here = |trigger: TriggerSql| trigger.sets.into_iter().filter(is_here).map(|set| set.column);
    let (mut found, mut writes_first) = (Triggers::default(), false);
    for trigger in triggers_on(conn, Some(table))? {
        match trigger.event {
            Event::AfterInsert => found.filled_in.extend(set_here(trigger)),
            Event::BeforeUpdate => writes_first |= trigger.writes,
            Event::Other => {}
        }
    }
    if writes_first {
        // What it writes elsewhere may have triggers that write here.
        found.written_first.extend(triggers_on(conn, None)?.into_iter().flat_map(set_here));
    }
    Ok(found)
}

/// The user's triggers, of one table or of all.
fn triggers_on(conn: &Connection, table: Option<&str>) -> Result<Vec<TriggerSql>> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = coalesce(?1, tbl_name) COLLATE NOCASE \
               AND name NOT GLOB 'ZV_*'";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([table])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(row.get::<_, Option<String>>(0)?.as_deref().and_then(TriggerSql::read));
    }
    Ok(found)
}

fn read_foreign_keys(conn: &Connection, table: &str) -> Result<Vec<ForeignKey>> {
    let sql = "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) ORDER BY id, seq";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([table])?;
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        if keys.last().is_none_or(|(last, _)| *last != id) {
            let parent = row.get(1)?;
            keys.push((id, ForeignKey { parent, columns: Vec::new(), parent_columns: Vec::new() }));
        }
        let (_, key) = keys.last_mut().expect("a key was pushed just above");
        key.columns.push(row.get(2)?);
        key.parent_columns.extend(row.get::<_, Option<String>>(3)?);
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(sql: &str) -> Table {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        read_table(&conn, "T").unwrap().unwrap()
    }

    #[test]
    fn reads_keys_uniques_and_foreign_keys() {
        let t = table(
            "CREATE TABLE t (a TEXT, b INT NOT NULL DEFAULT 3, g AS (b + 1), c TEXT COLLATE NOCASE UNIQUE, rowid,
             PRIMARY KEY (b, a), FOREIGN KEY (a, c) REFERENCES p (x, y), FOREIGN KEY (b) REFERENCES q)",
        );
        assert_eq!(t.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "rowid"]);
        assert_eq!((t.key.as_slice(), t.rowid, t.key_is_rowid), (&[1, 0][..], Some("_rowid_"), false));
        assert_eq!(t.uniques.len(), 2);
        assert!(
            t.uniques.iter().any(|u| u.is_on(&["C".into()]) && u.parts[0].collation == "NOCASE" && !u.is_primary_key)
        );
        let parents: Vec<_> = t.foreign_keys.iter().map(|f| (f.parent.as_str(), f.parent_columns.len())).collect();
        assert_eq!(parents, [("q", 0), ("p", 2)]);
    }

    #[test]
    fn a_conflict_clause_is_one_in_words_alone() {
        assert!(table("CREATE TABLE t (a UNIQUE on /* no */ CONFLICT Ignore)").has_conflict_clause);
        assert!(table("CREATE TABLE t (a, b, PRIMARY KEY (a) ON CONFLICT REPLACE)").has_conflict_clause);
        assert!(
            !table("CREATE TABLE t (\"on\" \"conflict\", b DEFAULT 'on conflict' /* ON CONFLICT */)")
                .has_conflict_clause
        );
    }

    #[test]
    fn only_a_rowid_key_is_the_rowid() {
        assert!(table("CREATE TABLE t (id INTEGER PRIMARY KEY, a)").key_is_rowid);
        assert!(!table("CREATE TABLE t (id INT PRIMARY KEY, a)").key_is_rowid);
        assert!(!table("CREATE TABLE t (id INTEGER PRIMARY KEY, a) WITHOUT ROWID").key_is_rowid);
        assert_eq!(table("CREATE TABLE t (id TEXT PRIMARY KEY) WITHOUT ROWID").rowid, None);
    }
}
