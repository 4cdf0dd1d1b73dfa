//! A row by itself: whether it breaks a rule alone, and which unique values it claims, found by putting it into an empty copy
//! of its table. Owns those copies, each in a database of its own in memory; reads the schema of the user's.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::changelog::{References, Source, Tracked, integer_to_be, local_of, referred};
use crate::db::{Ident, Part, Table, Token, Tokens, Unique, bind_value, checked_names, list, read_value, same_name};
use crate::error::{Error, Result};
use crate::model::{ChangeId, DELETED_COLUMN, Registers, Value};

/// The empty copy of a table, and its unique constraints beyond what identifies its rows.
#[derive(Debug)]
pub(crate) struct Trial {
    conn: Connection,
    table: String,
    insert: String,
    /// The table's number, where its rows have a local integer.
    local: Option<u32>,
    /// By the key's columns and by the others: the tables that they refer to by local integers.
    key_targets: Vec<Option<u32>>,
    targets: Vec<Option<u32>>,
    rules: Vec<Rule>,
    /// Whether a CHECK asks for local integers.
    checks_integers: bool,
}

/// A constraint that no two shown rows may break.
#[derive(Debug)]
struct Rule {
    name: String,
    parts: Vec<RulePart>,
    predicate: Option<String>,
    /// The local integers that the predicate asks for, beyond whether there is one.
    decided_by: Vec<Reference>,
    /// The columns whose newest write dates a claim, by their place among the recorded ones.
    dated_by: Vec<usize>,
}

impl Rule {
    fn is_of_integers(&self) -> bool {
        !self.decided_by.is_empty() || self.parts.iter().any(|part| !part.made_of.is_empty())
    }
}

#[derive(Debug)]
struct RulePart {
    sql: String,
    collation: String,
    /// Where the part is a reference by local integers.
    reference: Option<Reference>,
    /// The local integers that it is made of otherwise: by an expression, or a generated column.
    made_of: Vec<Reference>,
}

/// A column that holds local integers: the table whose they are, and where the value in the log is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference {
    table_no: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The row's own integer.
    Own,
    Key(usize),
    Column(usize),
}

/// A unique value that a row claims.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowClaim {
    pub(crate) rule: usize,
    /// The value in one form for all that the constraint holds equal.
    pub(crate) value: Vec<u8>,
    /// The value's parts; references as the log has them.
    pub(crate) parts: Vec<Value>,
    pub(crate) id: ChangeId,
}

/// Whether one form of a row claims a value that the other does not.
pub(crate) fn claims_more(one: &[RowClaim], other: &[RowClaim]) -> bool {
    let same = |a: &RowClaim, b: &RowClaim| (a.rule, &a.value) == (b.rule, &b.value);
    one.iter().any(|claim| !other.iter().any(|known| same(claim, known)))
}

impl Trial {
    pub(crate) fn new(conn: &Connection, references: &References, tracked: &Tracked, shape: &Table) -> Result<Self> {
        let source = &tracked.source;
        let copy = Connection::open_in_memory()?;
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        let create: Option<String> = conn.prepare_cached(sql)?.query_row([&shape.name], |row| row.get(0)).optional()?;
        let create = create.ok_or_else(|| Error::schema(format!("{} is gone", shape.name)))?;
        copy.pragma_update(None, "foreign_keys", false)?;
        copy.execute_batch(&create)?;
        let columns: Vec<&String> = source.columns.iter().filter(|name| shape.column(name).is_some()).collect();
        let names = source.lead().chain(columns.iter().map(|name| name.as_str())).map(Ident);
        let (names, count) = (list(names), source.lead_len() + columns.len());
        let marks = list((1..=count).map(|n| format!("?{n}")));
        let target = |name: &&String| references.target(source.table_no, name);
        let mut trial = Self {
            insert: format!("INSERT OR ABORT INTO {} ({names}) VALUES ({marks})", Ident(&shape.name)),
            table: shape.name.clone(),
            local: source.local.is_some().then_some(source.table_no),
            key_targets: source.key.iter().map(|name| target(&name)).collect(),
            targets: columns.iter().map(target).collect(),
            rules: Vec::new(),
            checks_integers: false,
            conn: copy,
        };
        let checked = shape.made_of(&checked_names(&create));
        trial.checks_integers = !trial.references_among(source, &columns, &checked).is_empty();
        for unique in &shape.uniques {
            trial.rules.extend(trial.rule(tracked, shape, &columns, unique));
        }
        Ok(trial)
    }

    /// `None` for what identifies rows, and for constraints of this replica alone.
    fn rule(&self, tracked: &Tracked, shape: &Table, columns: &[&String], unique: &Unique) -> Option<Rule> {
        let source = &tracked.source;
        let is_identity =
            (!source.key.is_empty() && unique.identifies_by(&source.key)) || unique.identifies_by(source.locator());
        let names = shape.made_of(&unique.names);
        let mentions = |column: &str| names.contains(&column.to_ascii_lowercase());
        if is_identity || tracked.excluded.iter().any(|name| mentions(name)) {
            return None;
        }
        let parts = unique.parts.iter().map(|part| RulePart {
            sql: part.sql.clone(),
            collation: part.collation.clone(),
            reference: self.part_reference(source, columns, part),
            made_of: self.made_of(source, shape, columns, part),
        });
        let dated_by = (0..columns.len()).filter(|at| mentions(columns[*at])).collect();
        let predicate = unique.predicate.clone();
        let decided_by = match &predicate {
            Some(text) => self.references_among(source, columns, &shape.made_of(&asked_for(text))),
            None => Vec::new(),
        };
        Some(Rule { name: unique.index.clone(), parts: parts.collect(), predicate, decided_by, dated_by })
    }

    fn reference(&self, source: &Source, columns: &[&String], column: &str) -> Option<Reference> {
        if let Some(at) = source.key.iter().position(|name| same_name(name, column)) {
            return self.key_targets[at].map(|table_no| Reference { table_no, place: Place::Key(at) });
        }
        if source.local.as_deref().is_some_and(|local| same_name(local, column)) {
            return self.local.map(|table_no| Reference { table_no, place: Place::Own });
        }
        let at = columns.iter().position(|name| same_name(name, column))?;
        self.targets[at].map(|table_no| Reference { table_no, place: Place::Column(at) })
    }

    /// A row's own integer is none: it is compared as it is.
    fn part_reference(&self, source: &Source, columns: &[&String], part: &Part) -> Option<Reference> {
        let reference = self.reference(source, columns, part.column.as_ref()?)?;
        (reference.place != Place::Own).then_some(reference)
    }

    fn made_of(&self, source: &Source, shape: &Table, columns: &[&String], part: &Part) -> Vec<Reference> {
        if self.part_reference(source, columns, part).is_some() {
            return Vec::new();
        }
        let names: Vec<String> = Tokens::new(&part.sql).filter_map(|token| token.name()).collect();
        self.references_among(source, columns, &shape.made_of(&names))
    }

    /// The columns with local integers among names in lower case.
    fn references_among(&self, source: &Source, columns: &[&String], names: &HashSet<String>) -> Vec<Reference> {
        let all = source.lead().chain(columns.iter().map(|name| name.as_str()));
        all.filter(|column| names.contains(&column.to_ascii_lowercase()))
            .filter_map(|column| self.reference(source, columns, column))
            .collect()
    }

    pub(crate) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    pub(crate) fn rule_name(&self, rule: usize) -> &str {
        &self.rules[rule].name
    }

    /// Whether what rows claim by a constraint is the same whatever integers other rows have here.
    pub(crate) fn is_lasting(&self, rule_name: &str) -> bool {
        !self.rules.iter().any(|rule| rule.name == rule_name && rule.is_of_integers())
    }

    /// Whether some constraint is on what is made of integers that rows have here.
    pub(crate) fn has_rules_of_integers(&self) -> bool {
        self.rules.iter().any(Rule::is_of_integers)
    }

    /// Whether a CHECK asks which integers rows have here: those that have none are asked for with made-up ones.
    pub(crate) fn checks_integers(&self) -> bool {
        self.checks_integers
    }

    /// The rows, beside itself, whose integers a row's claims are made of; its key and columns are given as the log has them.
    pub(crate) fn integers_of(&self, key: &[Value], columns: &[Value]) -> Vec<(u32, String)> {
        let row = |reference: &Reference| {
            let value = match reference.place {
                Place::Own => return None,
                Place::Key(at) => &key[at],
                Place::Column(at) => &columns[at],
            };
            Some((reference.table_no, referred(value)?))
        };
        let made_of = self.rules.iter().flat_map(|rule| rule.parts.iter().flat_map(|part| &part.made_of));
        let decided_by = self.rules.iter().flat_map(|rule| &rule.decided_by);
        made_of.chain(decided_by).filter_map(row).collect()
    }

    /// What a constraint is on, for people.
    pub(crate) fn rule_columns(&self, rule: usize) -> String {
        list(self.rules[rule].parts.iter().map(|part| part.sql.trim_matches('"')))
    }

    pub(crate) fn part_target(&self, rule: usize, part: usize) -> Option<u32> {
        self.rules[rule].parts[part].reference.map(|reference| reference.table_no)
    }

    /// The condition on rows that have the value of a claim, its parts as parameters; NULL for a reference to a row that is
    /// not here.
    pub(crate) fn same_value_sql(&self, rule: usize) -> String {
        let rule = &self.rules[rule];
        let same = rule.parts.iter().enumerate().map(|(n, part)| {
            // The expression as the index has it, so that the index serves.
            format!("{} COLLATE {} IS ?{}", part.sql, Ident(&part.collation), n + 1)
        });
        let predicate = rule.predicate.iter().map(|predicate| format!("({predicate})"));
        same.chain(predicate).collect::<Vec<_>>().join(" AND ")
    }

    /// What a row claims, whose key and columns are given as the log has them; SQLite's error where it breaks a rule by itself. The
    /// caller says of which rows the integers count, given whether they have one here: rows that are gone may have theirs until a
    /// batch ends.
    pub(crate) fn claims(
        &self,
        conn: &Connection,
        entity_id: &str,
        (key, columns): (&[Value], &[Value]),
        ids: &[Option<ChangeId>],
        registers: &Registers,
        counts: impl Fn(u32, &str, bool) -> bool,
    ) -> Result<Result<Vec<RowClaim>, rusqlite::Error>> {
        let mut integers = Integers::default();
        let mut row = Vec::with_capacity(1 + key.len() + columns.len());
        if let Some(table_no) = self.local {
            row.push(Value::Integer(integers.of(conn, table_no, entity_id)?));
        }
        for (value, target) in key.iter().zip(&self.key_targets).chain(columns.iter().zip(&self.targets)) {
            row.push(match (target, value) {
                (None, _) | (_, Value::Null) => value.clone(),
                (Some(parent_no), _) => {
                    Value::Integer(integers.of(conn, *parent_no, &referred(value).unwrap_or_default())?)
                }
            });
        }
        let written = self.conn.prepare_cached(&self.insert)?.execute(params_from_iter(row.iter().map(bind_value)));
        if let Err(error) = written {
            return Ok(Err(error));
        }
        let is_here = |reference: &Reference| {
            let id = match reference.place {
                Place::Own => Some(entity_id.to_owned()),
                Place::Key(at) => referred(&key[at]),
                Place::Column(at) => referred(&columns[at]),
            };
            id.is_none_or(|id| counts(reference.table_no, &id, integers.is_here(reference.table_no, &id)))
        };
        let claims = self.read(key, columns, ids, registers, is_here);
        self.conn.prepare_cached(&format!("DELETE FROM {}", Ident(&self.table)))?.execute([])?;
        claims.map(Ok)
    }

    fn read(
        &self,
        key: &[Value],
        columns: &[Value],
        ids: &[Option<ChangeId>],
        registers: &Registers,
        is_here: impl Fn(&Reference) -> bool,
    ) -> Result<Vec<RowClaim>> {
        let mut claims = Vec::new();
        for (rule_no, rule) in self.rules.iter().enumerate() {
            let predicate = rule.predicate.as_ref().map_or(String::new(), |text| format!(" WHERE {text}"));
            let sql = format!(
                "SELECT {} FROM {}{predicate}",
                list(rule.parts.iter().map(|part| &part.sql)),
                Ident(&self.table)
            );
            let mut statement = self.conn.prepare_cached(&sql)?;
            let mut rows = statement.query([])?;
            let Some(row) = rows.next()? else { continue };
            let (mut parts, mut bytes) = (Vec::new(), Vec::new());
            let mut is_null = !rule.decided_by.iter().all(&is_here);
            for (n, part) in rule.parts.iter().enumerate() {
                let value = match part.reference.map(|reference| reference.place) {
                    Some(Place::Key(at)) => key[at].clone(),
                    Some(Place::Column(at)) => columns[at].clone(),
                    Some(Place::Own) | None => read_value(row.get_ref(n)?),
                };
                // What is made of the integer of a row that is not here, nobody knows yet.
                is_null |= matches!(value, Value::Null) || !part.made_of.iter().all(&is_here);
                match part.reference {
                    Some(_) => put_text(&mut bytes, referred(&value).unwrap_or_default().as_bytes()),
                    None => put_value(&mut bytes, &value, &part.collation),
                }
                parts.push(value);
            }
            // NULLs are all different to SQLite (<https://sqlite.org/nulls.html>).
            if !is_null {
                claims.push(RowClaim { rule: rule_no, value: bytes, parts, id: dated(rule, ids, registers)? });
            }
        }
        Ok(claims)
    }
}

/// The names in a condition, in lower case, but where it only asks whether there is a value.
fn asked_for(predicate: &str) -> Vec<String> {
    let tokens: Vec<Token<'_>> = Tokens::new(predicate).collect();
    let is = |at: usize, word: &str| matches!(tokens.get(at), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
    let asks_whether = |at: usize| {
        is(at, "isnull")
            || is(at, "notnull")
            || (is(at, "not") && is(at + 1, "null"))
            || (is(at, "is") && (is(at + 1, "null") || (is(at + 1, "not") && is(at + 2, "null"))))
    };
    let names = tokens.iter().enumerate().filter(|(at, _)| !asks_whether(at + 1));
    names.filter_map(|(_, token)| token.name()).collect()
}

/// The integers of a row and of those that it refers to. Whoever has none here gets one that no other has, so that a CHECK which
/// compares two of them finds equal what is one row, and nothing else.
#[derive(Default)]
struct Integers {
    made_up: BTreeMap<(u32, String), i64>,
}

impl Integers {
    fn is_here(&self, table_no: u32, entity_id: &str) -> bool {
        !self.made_up.contains_key(&(table_no, entity_id.to_owned()))
    }

    fn of(&mut self, conn: &Connection, table_no: u32, entity_id: &str) -> Result<i64> {
        if let Some(local) = local_of(conn, table_no, entity_id)? {
            return Ok(local);
        }
        let key = (table_no, entity_id.to_owned());
        if let Some(local) = self.made_up.get(&key) {
            return Ok(*local);
        }
        let mut local = integer_to_be(conn, table_no, entity_id)?;
        while self.made_up.iter().any(|((table, _), other)| *table == table_no && *other == local) {
            local = local.wrapping_add(1);
        }
        self.made_up.insert(key, local);
        Ok(local)
    }
}

/// When a row took what a constraint is on: the newest write of its columns, or the delete that the row outlived; a row
/// of which no such column was ever written took it when it was made.
fn dated(rule: &Rule, ids: &[Option<ChangeId>], registers: &Registers) -> Result<ChangeId> {
    let written = rule.dated_by.iter().filter_map(|at| ids[*at]).max();
    let first = registers.iter().filter(|(column, _)| *column != DELETED_COLUMN).map(|(_, r)| r.id).min();
    let outlived = registers.get(DELETED_COLUMN).map(|register| register.id);
    let deleted = registers.get(DELETED_COLUMN).filter(|register| register.deleted).map(|register| register.id);
    written
        .or(first)
        .or(outlived)
        .max(deleted)
        .ok_or_else(|| Error::corrupt("a row that nobody wrote claims a unique value"))
}

/// Appends a value in a form that is the same for all that SQLite holds equal: numbers by their value, text by its collation
/// (<https://sqlite.org/datatype3.html>, sections 4 and 7).
pub(super) fn put_value(bytes: &mut Vec<u8>, value: &Value, collation: &str) {
    match value {
        Value::Null => bytes.push(0),
        Value::Integer(n) => put_integer(bytes, *n),
        Value::Real(r) => match exact_integer(*r) {
            Some(n) => put_integer(bytes, n),
            None => {
                bytes.push(2);
                bytes.extend_from_slice(&r.to_bits().to_be_bytes());
            }
        },
        Value::Text(text) if same_name(collation, "NOCASE") => put_text(bytes, &without_case(text)),
        Value::Text(text) if same_name(collation, "RTRIM") => put_text(bytes, without_end_spaces(text)),
        Value::Text(text) => put_text(bytes, text),
        Value::Blob(blob) => put_sized(bytes, 4, blob),
    }
}

fn put_integer(bytes: &mut Vec<u8>, n: i64) {
    bytes.push(1);
    bytes.extend_from_slice(&n.to_be_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_sized(bytes, 3, text);
}

fn put_sized(bytes: &mut Vec<u8>, class: u8, content: &[u8]) {
    bytes.push(class);
    bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
    bytes.extend_from_slice(content);
}

/// The integer that a real is equal to.
fn exact_integer(real: f64) -> Option<i64> {
    let fits = real.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&real);
    fits.then_some(real as i64)
}

/// NOCASE ignores the case of ASCII letters, and in two texts of one length whatever follows the first NUL of both (`nocaseCollatingFunc`
/// in SQLite's `main.c`, and `sqlite3StrNICmp`).
fn without_case(text: &[u8]) -> Vec<u8> {
    let mut folded = text.to_ascii_lowercase();
    if let Some(nul) = folded.iter().position(|byte| *byte == 0) {
        folded[nul..].fill(0);
    }
    folded
}

/// RTRIM ignores spaces at the end, and no other white space.
fn without_end_spaces(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(value: &Value, collation: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_value(&mut bytes, value, collation);
        bytes
    }

    #[test]
    fn a_condition_may_only_ask_whether_there_is_a_value() {
        let asked = |text| {
            let mut names = asked_for(text);
            names.retain(|name| ["a", "b", "c"].contains(&name.as_str()));
            names
        };
        assert_eq!(asked("a IS NULL AND \"b\" is  not /* */ null OR c NOTNULL"), [] as [&str; 0]);
        assert_eq!(asked("a ISNULL OR b NOT NULL"), [] as [&str; 0]);
        assert_eq!(asked("a IS NOT NULL AND [a] > 1 AND b IS NOT 2 AND lower(c) IS NULL"), ["a", "b", "c"]);
    }

    #[test]
    fn what_sqlite_holds_equal_has_one_form() {
        let values = [
            Value::Integer(1),
            Value::Real(1.0),
            Value::Real(1.5),
            Value::Integer(i64::MAX),
            Value::Real(9_223_372_036_854_775_808.0),
            Value::Integer(1 << 53),
            Value::Real((1_u64 << 53) as f64),
            Value::Integer((1 << 53) + 1),
            Value::Real(0.0),
            Value::Real(-0.0),
            Value::text("a"),
            Value::text("A"),
            Value::text("a "),
            Value::text("a\t"),
            Value::text(""),
            Value::text("a\0b"),
            Value::text("A\0c"),
            Value::text("a\0bc"),
            Value::text("b\0b"),
            Value::text("a\0\0"),
            Value::text("\0a"),
            Value::text("\0b"),
            Value::text("abc"),
            Value::Blob(vec![b'a']),
            Value::Blob(vec![]),
        ];
        let conn = Connection::open_in_memory().unwrap();
        for collation in ["BINARY", "NOCASE", "RTRIM"] {
            let sql = format!("SELECT ?1 = ?2 COLLATE {collation}");
            for a in &values {
                for b in &values {
                    let parameters = [a, b].map(bind_value);
                    let equal: bool = conn.query_row(&sql, params_from_iter(parameters), |row| row.get(0)).unwrap();
                    assert_eq!(form(a, collation) == form(b, collation), equal, "{a:?} {b:?} {collation}");
                }
            }
        }
    }
}
