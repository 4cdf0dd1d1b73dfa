//! What `CREATE` statements say that SQLite's pragmas do not: an index's expressions and its WHERE clause, what a column is computed
//! from. Text; runs nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{Token, Tokens, without_tail};

/// The text of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IndexSql {
    /// Its parts in order, without collation and direction.
    pub(crate) parts: Vec<String>,
    /// The condition on the rows that are in it.
    pub(crate) predicate: Option<String>,
    /// Every name that it mentions, in lower case.
    pub(crate) names: Vec<String>,
}

impl IndexSql {
    /// Reads the statement as `sqlite_schema.sql` holds it (<https://sqlite.org/lang_createindex.html>); `None` if it is none.
    pub(crate) fn read(sql: &str) -> Option<Self> {
        let tokens = spans(sql);
        let on = tokens.iter().position(|(token, _, _)| is_word(token, "on"))?;
        let open = on + 2;
        (tokens.get(open)?.0 == Token::Open).then_some(())?;
        let close = closing(&tokens, open)?;
        let parts = elements(&tokens[open + 1..close]).map(|tokens| part(sql, tokens)).collect::<Option<_>>()?;
        let predicate = tokens.get(close + 1).filter(|(token, _, _)| is_word(token, "where"));
        let predicate = predicate.map(|(_, _, end)| without_tail(&sql[*end..]).trim().to_owned());
        let names = tokens[open..].iter().filter_map(|(token, _, _)| token.name()).collect();
        Some(Self { parts, predicate, names })
    }
}

/// The text of a column's definition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ColumnSql {
    /// Every name in it, in lower case: its own, and those of columns that it is computed from.
    pub(crate) names: Vec<String>,
    /// What it is computed by, if it is (<https://sqlite.org/gencol.html>).
    pub(crate) expression: Option<String>,
    /// The collation that its values are compared by, where it says one.
    pub(crate) collation: Option<String>,
}

impl ColumnSql {
    /// Reads those of all columns in a `CREATE TABLE`, by their names in lower case: it may be long, and is looked at once.
    pub(crate) fn read_all(create: &str) -> HashMap<String, Self> {
        let tokens = spans(create);
        let mut found = HashMap::new();
        let Some(open) = tokens.iter().position(|(token, _, _)| *token == Token::Open) else { return found };
        let Some(close) = closing(&tokens, open) else { return found };
        for tokens in elements(&tokens[open + 1..close]) {
            // A constraint of the table comes after its columns, and may begin with a word that is the name of one.
            if let Some(name) = tokens.first().and_then(|(token, _, _)| token.name())
                && let Entry::Vacant(entry) = found.entry(name)
            {
                entry.insert(Self::of(create, tokens));
            }
        }
        found
    }

    fn of(create: &str, tokens: &[Span<'_>]) -> Self {
        let opens = |at: usize| tokens.get(at + 1).is_some_and(|(token, _, _)| *token == Token::Open);
        let by = outside(tokens).skip(1).find(|(at, token)| is_word(token, "as") && opens(*at));
        let expression = by.and_then(|(by, _)| {
            let (from, to) = (tokens[by + 1].2, tokens[closing(tokens, by + 1)?].1);
            Some(create[from..to].trim().to_owned())
        });
        let collate = outside(tokens).skip(1).filter(|(_, token)| is_word(token, "collate")).last();
        let collation = collate.and_then(|(at, _)| tokens.get(at + 1)).map(|(token, from, to)| {
            // A name may be in a string's quotes, too.
            token.name().unwrap_or_else(|| create[*from..*to].trim().trim_matches('\'').to_owned())
        });
        let names = tokens.iter().filter_map(|(token, _, _)| token.name()).collect();
        Self { names, expression, collation }
    }
}

/// The names in the CHECKs of a `CREATE TABLE`, of columns and of the table, in lower case
/// (<https://sqlite.org/lang_createtable.html#check_constraints>).
pub(crate) fn checked_names(create: &str) -> Vec<String> {
    let tokens = spans(create);
    let checks = (0..tokens.len()).filter(|at| is_word(&tokens[*at].0, "check"));
    let opened =
        checks.map(|at| at + 1).filter(|at| tokens.get(*at).is_some_and(|(token, _, _)| *token == Token::Open));
    let expressions = opened.filter_map(|open| Some(&tokens[open..closing(&tokens, open)?]));
    expressions.flatten().filter_map(|(token, _, _)| token.name()).collect()
}

/// When a trigger fires: before or after, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    BeforeUpdate,
    AfterInsert,
    Other,
}

/// The text of a trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TriggerSql {
    pub(crate) event: Event,
    /// Whether it may write anything.
    pub(crate) writes: bool,
    /// What its updates set.
    pub(crate) sets: Vec<SetColumn>,
}

/// A column that a trigger sets, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetColumn {
    /// The table, where it can be told.
    pub(crate) table: Option<String>,
    pub(crate) column: String,
}

impl TriggerSql {
    /// Reads the statement as `sqlite_schema.sql` holds it (<https://sqlite.org/lang_createtrigger.html>); `None` if it is none.
    pub(crate) fn read(sql: &str) -> Option<Self> {
        let tokens = spans(sql);
        let is = |at: usize, word: &str| tokens.get(at).is_some_and(|(token, _, _)| is_word(token, word));
        let name = tokens.iter().position(|(token, _, _)| is_word(token, "trigger"))? + 1;
        // A name may have the schema's before it, and a dot.
        let is_qualified = tokens.get(name + 1).is_some_and(|(token, _, _)| *token == Token::Other);
        let at = name + if is_qualified { 3 } else { 1 };
        let event = match (is(at, "after"), is(at, "before")) {
            (true, _) if is(at + 1, "insert") => Event::AfterInsert,
            (_, true) if is(at + 1, "update") => Event::BeforeUpdate,
            // One that does not say when fires before.
            _ if is(at, "update") => Event::BeforeUpdate,
            _ => Event::Other,
        };
        let body = (at..tokens.len()).find(|at| is(*at, "begin"))? + 1;
        let writes = ["insert", "replace", "update", "delete"];
        let writes = (body..tokens.len()).any(|at| writes.iter().any(|word| is(at, word)));
        let sets = (body..tokens.len()).filter(|at| is(*at, "set")).flat_map(|at| {
            let table = updated(&tokens[body..at]);
            assigned(sql, &tokens[at + 1..]).into_iter().map(move |column| SetColumn { table: table.clone(), column })
        });
        Some(Self { event, writes, sets: sets.collect() })
    }
}

/// The table of the UPDATE whose SET comes next, or in an UPSERT of the insert.
fn updated(before: &[Span<'_>]) -> Option<String> {
    let last = |word| before.iter().rposition(|(token, _, _)| is_word(token, word));
    let update = last("update")?;
    if update + 1 == before.len() {
        return before.get(last("into")? + 1)?.0.name();
    }
    let is_or = before.get(update + 1).is_some_and(|(token, _, _)| is_word(token, "or"));
    before.get(update + if is_or { 3 } else { 1 })?.0.name()
}

/// The names that a SET clause, and what comes after it, gives values to.
fn assigned(sql: &str, tokens: &[Span<'_>]) -> Vec<String> {
    let (mut depth, mut is_target, mut names) = (0, true, Vec::new());
    for span in tokens {
        match &span.0 {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Semicolon => break,
            token if depth == 0 && ["from", "where", "returning"].iter().any(|word| is_word(token, word)) => break,
            Token::Other if depth == 0 && sql[span.1..span.2].ends_with('=') => is_target = false,
            Token::Comma if depth == 0 => is_target = true,
            token => names.extend(token.name().filter(|_| is_target)),
        }
    }
    names
}

/// What commas outside all brackets separate.
fn elements<'t, 's>(tokens: &'t [Span<'s>]) -> impl Iterator<Item = &'t [Span<'s>]> {
    let mut depth = 0;
    tokens.split(move |(token, _, _)| {
        depth += step(token);
        depth == 0 && *token == Token::Comma
    })
}

/// The tokens outside all brackets, with their places.
fn outside<'t, 's>(tokens: &'t [Span<'s>]) -> impl Iterator<Item = (usize, &'t Token<'s>)> {
    let mut depth = 0;
    tokens.iter().enumerate().filter_map(move |(at, (token, _, _))| {
        let is_outside = depth == 0;
        depth += step(token);
        is_outside.then_some((at, token))
    })
}

/// A token and the bytes that it takes.
type Span<'a> = (Token<'a>, usize, usize);

fn spans(sql: &str) -> Vec<Span<'_>> {
    let mut tokens = Tokens::new(sql);
    let mut spans = Vec::new();
    while let Some(token) = tokens.next() {
        let end = sql.len() - tokens.rest().len();
        let start = spans.last().map_or(0, |(_, _, end)| *end);
        // Spaces and comments before a token are cut with it.
        spans.push((token, start, end));
    }
    spans
}

fn is_word(token: &Token<'_>, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word))
}

/// How much deeper in brackets what follows a token is.
fn step(token: &Token<'_>) -> i32 {
    match token {
        Token::Open => 1,
        Token::Close => -1,
        _ => 0,
    }
}

fn closing(tokens: &[Span<'_>], open: usize) -> Option<usize> {
    let mut depth = 0;
    (open..tokens.len()).find(|at| {
        depth += step(&tokens[*at].0);
        depth == 0
    })
}

/// A part without what follows its expression: `COLLATE name`, `ASC`, `DESC`.
fn part(sql: &str, mut tokens: &[Span<'_>]) -> Option<String> {
    loop {
        match tokens {
            [rest @ .., (last, _, _)] if is_word(last, "asc") || is_word(last, "desc") => tokens = rest,
            [rest @ .., (word, _, _), (name, _, _)] if is_word(word, "collate") && *name != Token::Close => {
                tokens = rest
            }
            _ => break,
        }
    }
    let (first, last) = (tokens.first()?, tokens.last()?);
    Some(sql[first.1..last.2].trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> (Vec<String>, Option<String>) {
        let index = IndexSql::read(sql).unwrap();
        (index.parts, index.predicate)
    }

    #[test]
    fn parts_and_predicate() {
        let sql = "CREATE UNIQUE INDEX \"on (x\" ON [t,(] ( a collate nocase DESC, lower(b || ',)') , \"c d\", substr(e, 1, 2) COLLATE RTRIM ) \n WHERE f IS NOT NULL AND (g > 1)";
        let (parts, predicate) = read(sql);
        assert_eq!(parts, ["a", "lower(b || ',)')", "\"c d\"", "substr(e, 1, 2)"]);
        assert_eq!(predicate.as_deref(), Some("f IS NOT NULL AND (g > 1)"));
        assert_eq!(read("CREATE INDEX i ON t(a)"), (vec!["a".to_owned()], None));
        let commented =
            "CREATE INDEX i ON t ( -- one\n a -- two\n, b /* three */ DESC -- four\n) WHERE -- five\n c IS NULL -- six";
        let (parts, predicate) = read(commented);
        assert_eq!((parts.len(), parts[0].ends_with('a'), parts[1].as_str()), (2, true, "b"));
        assert_eq!(predicate.as_deref(), Some("-- five\n c IS NULL"));
        assert!(IndexSql::read(sql).unwrap().names.contains(&"g".to_owned()));
    }

    #[test]
    fn a_column_is_what_its_definition_says() {
        let sql = "CREATE TABLE \"t (g\" (a DEFAULT (CAST(1 AS INT)), \"G\" INTEGER AS (coalesce(a, 'b, c', [d e])) STORED, h, CHECK (g > h))";
        let columns = ColumnSql::read_all(sql);
        let g = &columns["g"];
        assert_eq!(g.names, ["g", "integer", "as", "coalesce", "a", "d e", "stored"]);
        assert_eq!(g.expression.as_deref(), Some("coalesce(a, 'b, c', [d e])"));
        assert_eq!(columns["h"], ColumnSql { names: vec!["h".into()], ..ColumnSql::default() });
        assert_eq!(columns["a"].expression, None);
        assert_eq!(columns.get("b"), None);
    }

    #[test]
    fn the_names_in_checks_are_those_of_all_checks() {
        let sql = "CREATE TABLE \"check\" (a CHECK (a > 'c'), \"check\" INT DEFAULT (d), CONSTRAINT e check((F) IN (1, \"g h\")), i)";
        assert_eq!(checked_names(sql), ["a", "f", "in", "g h"]);
    }

    #[test]
    fn a_column_says_its_collation() {
        let sql = "CREATE TABLE t (a TEXT COLLATE NOCASE PRIMARY KEY, b CHECK (b <> 'x' COLLATE RTRIM), c collate 'My one' NOT NULL,
                   d AS (a COLLATE RTRIM), e COLLATE RTRIM COLLATE \"binary\", PRIMARY KEY (b COLLATE NOCASE))";
        let columns = ColumnSql::read_all(sql);
        let said = ["a", "b", "c", "d", "e"].map(|column| columns[column].collation.as_deref());
        assert_eq!(said, [Some("nocase"), None, Some("My one"), None, Some("binary")]);
    }

    #[test]
    fn a_trigger_is_what_its_statement_says() {
        let read = |sql: &str| {
            TriggerSql::read(sql).map(|read| {
                let set = |set: &SetColumn| format!("{}.{}", set.table.as_deref().unwrap_or("?"), set.column);
                (read.event, read.writes, read.sets.iter().map(set).collect::<Vec<_>>().join(" "))
            })
        };
        let body =
            "BEGIN UPDATE OR FAIL t SET a = b + (SELECT c = d), \"E e\" = x == y WHERE f = 1; SELECT replace(1, 2, 3);
                    INSERT INTO u VALUES (1) ON CONFLICT DO UPDATE SET (g, h) = (i, j); END";
        let sets = "t.a t.e e u.g u.h".to_owned();
        for (sql, event) in [
            ("CREATE TRIGGER g BEFORE UPDATE ON t", Event::BeforeUpdate),
            ("CREATE TRIGGER \"main\".g update OF a, b ON t WHEN OLD.a", Event::BeforeUpdate),
            ("CREATE TRIGGER before AFTER /* INSERT */ INSERT ON t FOR EACH ROW", Event::AfterInsert),
            ("CREATE TRIGGER update_it AFTER UPDATE ON t", Event::Other),
            ("CREATE TRIGGER g INSTEAD OF INSERT ON v", Event::Other),
            ("CREATE TRIGGER g INSERT ON t", Event::Other),
        ] {
            assert_eq!(read(&format!("{sql} {body}")), Some((event, true, sets.clone())), "{sql}");
        }
        let refuses =
            "CREATE TRIGGER g BEFORE UPDATE ON t BEGIN SELECT RAISE(ABORT, 'set no update') WHERE NEW.a = 1; END";
        assert_eq!(read(refuses), Some((Event::BeforeUpdate, false, String::new())));
        assert_eq!(read("CREATE TABLE t (a)"), None);
    }

    #[test]
    fn what_is_no_index_is_none() {
        for sql in ["", "CREATE TABLE t (a)", "CREATE INDEX i ON t", "CREATE INDEX i ON t (a", "CREATE INDEX i ON t ()"]
        {
            assert_eq!(IndexSql::read(sql), None, "{sql}");
        }
    }
}
