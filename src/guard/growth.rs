//! How much larger than a row's own values a definition's expressions can make them, from its tokens alone. Runs nothing.
//!
//! What counts is how often columns are named: an expression's result is no larger than all that it names, each time that it
//! names it, but for the functions that grow. Computed columns may name each other, and so double what they name each time.

use std::collections::{HashMap, HashSet};

use super::Column;
use super::tokens::GROWING;
use crate::db::{Token, Tokens};

/// So many times as much as a row holds may be made of it, in all of its computed columns together, or in any other expression.
const MAX_GROWTH: u64 = 1_000;

/// What a growing function makes of its argument at most: `json_array` writes six bytes for some.
const GROWN: u64 = 6;

/// So many columns may be computed one from the other.
const MAX_STEPS: usize = 32;

/// What one column, constraint or part of an index says.
#[derive(Debug, Clone, Default)]
struct Part {
    /// Every name in it but the first, which in a column is its own.
    names: Vec<String>,
    grows: bool,
}

impl Part {
    /// How many times as much as a row holds it makes of it; nothing while a column that it names is not known.
    fn growth(&self, own: &str, known: &HashMap<String, u64>, computed: &HashSet<String>) -> Option<u64> {
        let mut sum: u64 = 1;
        for name in self.names.iter().filter(|name| *name != own) {
            match known.get(name) {
                Some(growth) => sum = sum.saturating_add(*growth),
                None if computed.contains(name) => return None,
                None => {}
            }
        }
        Some(if self.grows { sum.saturating_mul(GROWN) } else { sum })
    }
}

/// Whether what the expressions of a table and its indexes make of a row is within bounds.
pub(super) fn is_bounded(statements: &[String], columns: &[Column]) -> bool {
    let computed: HashSet<String> =
        columns.iter().filter(|column| column.generated).map(|column| column.name.to_ascii_lowercase()).collect();
    let plain = columns.iter().filter(|column| !column.generated);
    let mut known: HashMap<String, u64> = plain.map(|column| (column.name.to_ascii_lowercase(), 1)).collect();
    let (mut of_computed, mut others): (HashMap<String, Part>, Vec<Part>) = (HashMap::new(), Vec::new());
    for (first, part) in statements.iter().flat_map(|sql| parts(sql)) {
        if computed.contains(&first) {
            let all = of_computed.entry(first.clone()).or_default();
            all.names.extend(part.names.iter().cloned());
            all.grows |= part.grows;
        }
        others.push(Part { names: part.names.into_iter().chain([first]).collect(), grows: part.grows });
    }
    for _ in 0..MAX_STEPS {
        let growth = |(name, part): (&String, &Part)| Some((name.clone(), part.growth(name, &known, &computed)?));
        let found: Vec<(String, u64)> = of_computed.iter().filter_map(growth).collect();
        known.extend(found);
    }
    let in_columns =
        computed.iter().map(|name| known.get(name).copied().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    let elsewhere = others.iter().map(|part| part.growth("", &known, &computed).unwrap_or(u64::MAX)).max();
    in_columns.max(elsewhere.unwrap_or(0)) <= MAX_GROWTH
}

/// What commas separate in a statement's first parentheses, and what follows those; each with its first name.
fn parts(sql: &str) -> Vec<(String, Part)> {
    let tokens: Vec<Token<'_>> = Tokens::new(sql).collect();
    let start = tokens.iter().position(|token| *token == Token::Open).map_or(tokens.len(), |open| open + 1);
    let (mut depth, mut begun, mut parts) = (1, start, Vec::new());
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            _ => {}
        }
        if (depth, token) == (1, &Token::Comma) || (depth, token) == (0, &Token::Close) {
            parts.push(part(&tokens[begun..at]));
            begun = at + 1;
        }
    }
    parts.push(part(&tokens[begun.min(tokens.len())..]));
    parts
}

fn part(tokens: &[Token<'_>]) -> (String, Part) {
    let first = tokens.first().and_then(Token::name).unwrap_or_default();
    let mut part = Part::default();
    for (at, token) in tokens.iter().enumerate().skip(1) {
        let Some(name) = token.name() else { continue };
        match tokens.get(at + 1) {
            Some(Token::Open) => part.grows |= GROWING.contains(&name.as_str()),
            _ => part.names.push(name),
        }
    }
    // The part of an index may be a call.
    part.grows |= GROWING.contains(&first.as_str());
    (first, part)
}
