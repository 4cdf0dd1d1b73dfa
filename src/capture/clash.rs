//! From a table's unique constraints to the triggers that note whom a REPLACE may remove over them, without a delete trigger: pure
//! text, and the one place that foresees what SQLite makes of a row to be.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::trigger::{Capture, ROW, Trigger, any, is_other, is_other_at_all};
use crate::db::{
    Affinity, Column, Generated, Ident, Part, Token, Tokens, Unique, constant_expression, list, same_name,
};

/// How an expression sees the row to be. To SQLite the values of NEW have the collations of their columns, and not the affinities
/// by which columns are compared (<https://sqlite.org/datatype3.html>, section 4.2; so in 3.40 to 3.54): `NEW.t > 1` holds for '-5'.
#[derive(Clone, Copy)]
enum Seen {
    /// As NEW has them: right but where values are compared.
    Bare,
    /// With the affinity of their columns: right but for blobs in columns of text, and text in columns of numbers.
    Cast,
}

impl<'a> Capture<'a> {
    /// The triggers that note candidates by unique values; none where only the key is unique.
    pub(super) fn watch_uniques(&self) -> Vec<Trigger> {
        let uniques = self.clashing_rows();
        if uniques.is_empty() {
            return Vec::new();
        }
        let body = self.record_clashes(&uniques, &self.same_row_before());
        let body = format!("/* {} */ {body}", self.mark_of_uniques());
        let mut triggers = vec![self.trigger("replace", "BEFORE INSERT", "", &body)];
        let changed = self.unique_changed();
        // No update changes what an index on a constant holds.
        if !changed.is_empty() {
            let itself = format!("{} OR {}", self.same_row_then(), self.same_key("NEW"));
            let body = self.record_clashes(&uniques, &itself);
            triggers.push(self.trigger("displace", "BEFORE UPDATE", &changed, &body));
        }
        triggers
    }

    /// The unique constraints beyond the identity.
    fn uniques(&self) -> impl Iterator<Item = &'a Unique> + '_ {
        let key: Vec<String> = self.key.iter().map(|column| column.name.clone()).collect();
        self.table.uniques.iter().filter(move |unique| !unique.identifies_by(&key))
    }

    /// A mark that is another one when a unique constraint is: by its condition alone, or its name, by which its values are recorded.
    /// So a table whose indexes were made anew is noticed like one whose columns were.
    fn mark_of_uniques(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        for unique in self.uniques() {
            add(&unique.index);
            for part in &unique.parts {
                add(&part.sql);
                add(&part.collation);
            }
            add(unique.predicate.as_deref().unwrap_or_default());
        }
        hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The candidates by unique values. Those that are all rows for some values are a statement of their own, which costs others
    /// nothing.
    fn record_clashes(&self, uniques: &[String], itself: &str) -> String {
        let unforeseen: Vec<String> = self.uniques().filter_map(|unique| self.may_clash(unique)).collect();
        let mut body = self.record_candidates(uniques, itself);
        if !unforeseen.is_empty() {
            body = format!("{body} {}", self.record_candidates(&unforeseen, itself));
        }
        body
    }

    /// The conditions on other rows that share a unique value with NEW; none where only the key is unique. They may find too many:
    /// whether a row is gone is seen later.
    fn clashing_rows(&self) -> Vec<String> {
        let mut conditions = Vec::new();
        for unique in self.uniques() {
            let ways: &[Seen] = if self.asks_affinities(unique) { &[Seen::Bare, Seen::Cast] } else { &[Seen::Bare] };
            for seen in ways {
                let found = [Some(self.clashes(unique, *seen)), self.clashes_by_what_comes(unique, *seen)];
                for condition in found.into_iter().flatten() {
                    if !conditions.contains(&condition) {
                        conditions.push(condition);
                    }
                }
            }
        }
        conditions
    }

    /// Whether what a constraint is on depends on the affinities of columns: where it compares values, or takes them from generated
    /// columns, which make theirs of them.
    fn asks_affinities(&self, unique: &Unique) -> bool {
        let names = self.table.made_of(&unique.names);
        let mut expressions = unique.parts.iter().filter(|part| part.column.is_none());
        self.table.generated.iter().any(|generated| names.contains(&generated.name.to_ascii_lowercase()))
            || expressions.any(|part| compares(&part.sql))
    }

    fn clashes(&self, unique: &Unique, seen: Seen) -> String {
        let terms = unique.parts.iter().map(|part| match &part.column {
            Some(name) => self.same_column(name, part),
            None => self.same_expression(part, seen),
        });
        format!("({})", terms.chain(condition_of(unique)).collect::<Vec<_>>().join(" AND "))
    }

    /// The condition on all rows that are alike but for what is compared, if NEW has a value that has a class of its own in its
    /// column: neither way of seeing it tells then what the index makes of it.
    fn may_clash(&self, unique: &Unique) -> Option<String> {
        if !self.asks_affinities(unique) {
            return None;
        }
        let names = self.table.made_of(&unique.names);
        let columns =
            self.table.columns.iter().map(|column| (&column.name, column.affinity, self.value_to_be(&column.name)));
        let generated = self.table.generated.iter();
        let generated = generated.map(|column| (&column.name, column.affinity, format!("NEW.{}", Ident(&column.name))));
        let named = columns.chain(generated).filter(|(name, ..)| names.contains(&name.to_ascii_lowercase()));
        let is_kept = named.filter_map(|(_, affinity, value)| match affinity {
            Affinity::Blob => None,
            Affinity::Text => Some(format!("typeof({value}) = 'blob'")),
            Affinity::Integer | Affinity::Real | Affinity::Numeric => Some(format!("typeof({value}) = 'text'")),
        });
        let is_kept = any(is_kept);
        if is_kept.is_empty() {
            return None;
        }
        let same = unique.parts.iter().filter_map(|part| part.column.as_ref().map(|name| self.same_column(name, part)));
        let terms = std::iter::once(format!("({is_kept})")).chain(same).chain(condition_of(unique));
        Some(format!("({})", terms.collect::<Vec<_>>().join(" AND ")))
    }

    /// The condition on rows that have the value that a column is about to have.
    fn same_column(&self, name: &str, part: &Part) -> String {
        format!("{ROW}.{} = {} COLLATE {}", Ident(name), self.value_to_be(name), Ident(&part.collation))
    }

    /// The condition on rows for which an expression has the value that it is about to have. Its names are looked up in the
    /// innermost FROM clause: the row's for one side, the new row's for the other.
    fn same_expression(&self, part: &Part, seen: Seen) -> String {
        let columns = self.table.columns.iter();
        let columns = columns.map(|column| seen.named(self.value_to_be(&column.name), column.affinity, &column.name));
        let generated = self.table.generated.iter();
        let generated =
            generated.map(|column| seen.named(format!("NEW.{}", Ident(&column.name)), column.affinity, &column.name));
        let new = list(columns.chain(generated));
        let (sql, collation) = (&part.sql, Ident(&part.collation));
        format!("({sql}) = (SELECT {sql} FROM (SELECT {new})) COLLATE {collation}")
    }

    /// The condition on rows that share what is computed of values which are not there yet: an integer key that SQLite calls -1, and
    /// that will be the next one (<https://sqlite.org/autoinc.html>), and defaults in the place of NULL, of which generated columns know
    /// nothing yet.
    fn clashes_by_what_comes(&self, unique: &Unique, seen: Seen) -> Option<String> {
        let names = self.table.made_of(&unique.names);
        let is_named = |name: &str| names.contains(&name.to_ascii_lowercase());
        let is_part =
            |name: &str| unique.parts.iter().any(|part| part.column.as_ref().is_some_and(|part| same_name(part, name)));
        // No other row has the integer itself.
        let key =
            self.lead().find(|column| self.is_rowid(column)).filter(|key| is_named(&key.name) && !is_part(&key.name));
        let generates = self.table.generated.iter().any(|generated| is_named(&generated.name));
        let defaults = self
            .table
            .columns
            .iter()
            .filter(|column| generates && is_named(&column.name) && default_of(column).is_some());
        let waited_for = key.iter().map(|key| format!("NEW.{} = -1", Ident(&key.name)));
        let waited_for = any(waited_for.chain(defaults.map(|column| format!("NEW.{} IS NULL", Ident(&column.name)))));
        if waited_for.is_empty() {
            return None;
        }
        let row = self.row_to_be(key, &names, seen)?;
        let terms = unique.parts.iter().map(|part| {
            let own =
                part.column.as_ref().map_or_else(|| format!("({})", part.sql), |name| format!("{ROW}.{}", Ident(name)));
            format!("{own} = (SELECT {} FROM {row}) COLLATE {}", part.sql, Ident(&part.collation))
        });
        let terms = terms.chain(condition_of(unique));
        Some(format!("(({waited_for}) AND {})", terms.collect::<Vec<_>>().join(" AND ")))
    }

    /// The row as it is about to be, if need be under the next integer, with those of its generated columns that are named.
    fn row_to_be(&self, key: Option<&Column>, names: &HashSet<String>, seen: Seen) -> Option<String> {
        let columns = self.table.columns.iter().map(|column| {
            let value = self.value_to_be(&column.name);
            let value = match key.filter(|key| column.name == key.name) {
                Some(key) => format!("CASE {value} WHEN -1 THEN {} ELSE {value} END", self.next(key)),
                None => value,
            };
            seen.named(value, column.affinity, &column.name)
        });
        let mut row = format!("(SELECT {})", list(columns));
        let is_named = |generated: &&Generated| names.contains(&generated.name.to_ascii_lowercase());
        let mut waiting: Vec<&Generated> = self.table.generated.iter().filter(is_named).collect();
        while !waiting.is_empty() {
            let uses = |one: &Generated, other: &Generated| one.sql.names.contains(&other.name.to_ascii_lowercase());
            let is_ready = |one: &&Generated| !waiting.iter().any(|other| other.name != one.name && uses(one, other));
            let generated = waiting.remove(waiting.iter().position(is_ready)?);
            let expression = generated.sql.expression.as_ref()?;
            row = seen.computed(&row, expression, generated);
        }
        Some(row)
    }

    /// The integer that SQLite chooses next.
    fn next(&self, key: &Column) -> String {
        let table = &self.table.name;
        let greatest = format!("SELECT max({}) FROM {}", Ident(&key.name), Ident(table));
        match self.table.is_autoincrement {
            false => format!("coalesce(({greatest}), 0) + 1"),
            true => format!(
                "max(coalesce(({greatest}), 0), coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{}'), 0)) + 1",
                table.replace('\'', "''")
            ),
        }
    }

    /// What a column is about to hold: REPLACE puts the default where NULL is not allowed, after the BEFORE triggers.
    fn value_to_be(&self, name: &str) -> String {
        match self.table.column(name).and_then(default_of) {
            Some(default) => format!("coalesce(NEW.{}, {default})", Ident(name)),
            None => format!("NEW.{}", Ident(name)),
        }
    }

    /// Whether an update may meet another row over a unique value. To an expression, equal values of two classes may be two.
    fn unique_changed(&self) -> String {
        let is_computed = |part: &Part| match &part.column {
            Some(column) => self.table.generated.iter().any(|generated| same_name(&generated.name, column)),
            None => true,
        };
        let generated = self.table.generated.iter().map(|column| &column.name);
        let columns = self.table.columns.iter().map(|column| &column.name).chain(generated);
        // What is generated of a default is seen to change by the NULL in whose place that will be.
        let is_asked = |unique: &Unique, name: &str| {
            unique.mentions(name)
                || self.table.column(name).is_some_and(|column| {
                    default_of(column).is_some()
                        && self.table.made_of(&unique.names).contains(&name.to_ascii_lowercase())
                })
        };
        any(columns.filter(|name| self.uniques().any(|unique| is_asked(unique, name))).map(|name| {
            let computes = |unique: &&Unique| {
                unique.mentions(name) && (unique.predicate.is_some() || unique.parts.iter().any(is_computed))
            };
            match self.uniques().find(computes) {
                Some(_) => is_other_at_all(name),
                None => is_other(name),
            }
        }))
    }
}

impl Seen {
    /// A value under the name of its column, for a SELECT.
    fn named(self, value: String, affinity: Affinity, name: &str) -> String {
        match (self, affinity) {
            (Self::Bare, _) | (Self::Cast, Affinity::Blob) => format!("{value} AS {}", Ident(name)),
            (Self::Cast, Affinity::Text) => format!("CAST({value} AS TEXT) AS {}", Ident(name)),
            (Self::Cast, Affinity::Real) => format!("CAST({value} AS REAL) AS {}", Ident(name)),
            // It leaves integers and reals as they are (<https://sqlite.org/lang_expr.html#castexpr>).
            (Self::Cast, Affinity::Integer | Affinity::Numeric) => {
                format!("CAST({value} AS NUMERIC) AS {}", Ident(name))
            }
        }
    }

    /// A row with one more column, which is computed from its others.
    fn computed(self, row: &str, expression: &str, column: &Generated) -> String {
        let name = &column.name;
        match (self, column.affinity) {
            // A real that is an integer becomes one.
            (Self::Cast, Affinity::Integer | Affinity::Numeric) => {
                let before = Ident(&format!("zv_value of {name}")).to_string();
                let whole = format!(
                    "CASE WHEN typeof({before}) = 'real' AND {before} = CAST({before} AS INTEGER) THEN CAST({before} AS INTEGER) \
                     ELSE {before} END"
                );
                let column = self.named(whole, column.affinity, name);
                format!("(SELECT *, {column} FROM (SELECT *, ({expression}) AS {before} FROM {row}))")
            }
            _ => format!("(SELECT *, {} FROM {row})", self.named(format!("({expression})"), column.affinity, name)),
        }
    }
}

/// What a REPLACE puts in the place of NULL, as far as it can be told before: constants, and the time.
fn default_of(column: &Column) -> Option<String> {
    let default = column.default.as_deref().filter(|_| column.not_null)?;
    let clocks = ["CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP"];
    let clock = clocks.into_iter().find(|clock| clock.eq_ignore_ascii_case(default.trim()));
    clock.map(str::to_owned).or_else(|| constant_expression(default))
}

/// Whether an expression compares values by their affinities; functions do not.
fn compares(expression: &str) -> bool {
    let is_comparison = |token: Token<'_>| matches!(token, Token::Word(word) if ["in", "between", "is", "case"].iter().any(|known| word.eq_ignore_ascii_case(known)));
    expression.contains(['<', '>', '=']) || Tokens::new(expression).any(is_comparison)
}

/// The condition on the rows that are in an index, by which SQLite sees that the index serves. Its names are looked up in the
/// innermost FROM clause, and so are the searched row's; one that names the table, too, would not be found there.
fn condition_of(unique: &Unique) -> Option<String> {
    let predicate = unique.predicate.as_ref().filter(|predicate| !is_qualified(predicate))?;
    Some(format!("({predicate})"))
}

/// Whether a name in an expression has another one before it, and a dot.
fn is_qualified(expression: &str) -> bool {
    let mut tokens = Tokens::new(expression);
    let mut is_after_name = false;
    while let Some(token) = tokens.next() {
        let read = &expression[..expression.len() - tokens.rest().len()];
        if is_after_name && token == Token::Other && read.ends_with('.') {
            return true;
        }
        is_after_name = token.name().is_some();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::is_qualified;

    #[test]
    fn a_name_after_another_and_a_dot_is_qualified() {
        for sql in ["t.a IS NULL", "\"t\" /* */ . [a] > 1", "a > 1.5 AND main.t.b"] {
            assert!(is_qualified(sql), "{sql}");
        }
        for sql in ["a > 1.5", "a = '.b'", "a > .5", ""] {
            assert!(!is_qualified(sql), "{sql}");
        }
    }
}
