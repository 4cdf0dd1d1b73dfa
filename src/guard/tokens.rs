//! What can be seen of a statement from its tokens alone. Runs nothing.

use std::fmt;

use crate::db::{Token, Tokens};

/// What a statement is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Index,
}

/// What is wrong with a statement's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    Nul,
    SecondStatement,
    NotCreateTable,
    NotCreateIndex,
    RandomBlob,
    Growth,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nul => "has a NUL in it",
            Self::SecondStatement => "is followed by another one",
            Self::NotCreateTable => "is not a CREATE TABLE",
            Self::NotCreateIndex => "is not a CREATE INDEX",
            Self::RandomBlob => "calls randomblob with something else than a small number",
            Self::Growth => "calls a function that makes its argument larger on the result of another",
        })
    }
}

/// More random bytes than any id has.
const MAX_RANDOM_BYTES: u32 = 1024;

/// Functions whose result is larger than their arguments by a factor: harmless once, a bomb when stacked.
pub(super) const GROWING: [&str; 3] = ["hex", "json_array", "json_object"];

/// Refuses a text that is not exactly one statement of a kind, or that calls what could fill memory.
pub(super) fn check(sql: &str, kind: Kind) -> Result<(), Flaw> {
    // SQLite would read to the NUL, and leave what follows unjudged.
    if sql.contains('\0') {
        return Err(Flaw::Nul);
    }
    let tokens: Vec<Token<'_>> = Tokens::new(sql).collect();
    check_kind(&tokens, kind)?;
    check_end(&tokens)?;
    check_calls(&tokens)
}

fn check_kind(tokens: &[Token<'_>], kind: Kind) -> Result<(), Flaw> {
    let mut words = tokens.iter().map(|token| match token {
        Token::Word(word) => word.to_ascii_lowercase(),
        _ => String::new(),
    });
    let mut next = || words.next().unwrap_or_default();
    match kind {
        Kind::Table => (next() == "create" && next() == "table").then_some(()).ok_or(Flaw::NotCreateTable),
        Kind::Index => {
            let start = [next(), next(), next()];
            let start = start.each_ref().map(String::as_str);
            let is_index = matches!(start, ["create", "index", _] | ["create", "unique", "index"]);
            is_index.then_some(()).ok_or(Flaw::NotCreateIndex)
        }
    }
}

fn check_end(tokens: &[Token<'_>]) -> Result<(), Flaw> {
    let end = tokens.iter().position(|token| *token == Token::Semicolon).unwrap_or(tokens.len());
    let one = tokens[end..].iter().all(|token| *token == Token::Semicolon);
    if one { Ok(()) } else { Err(Flaw::SecondStatement) }
}

fn check_calls(tokens: &[Token<'_>]) -> Result<(), Flaw> {
    // For each open parenthesis, whether it or one around it holds the arguments of a growing function.
    let mut growing = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => {
                let called = at.checked_sub(1).and_then(|before| tokens[before].name());
                if called.as_deref() == Some("randomblob") && !is_small_number(&tokens[at + 1..]) {
                    return Err(Flaw::RandomBlob);
                }
                let around = growing.last().copied().unwrap_or(false);
                let grows = called.is_some_and(|name| GROWING.contains(&name.as_str()));
                if grows && around {
                    return Err(Flaw::Growth);
                }
                growing.push(grows || around);
            }
            Token::Close => drop(growing.pop()),
            _ => (),
        }
    }
    Ok(())
}

/// Whether the tokens begin with a small number and the parenthesis that closes a call.
fn is_small_number(tokens: &[Token<'_>]) -> bool {
    match tokens {
        [Token::Number(digits), Token::Close, ..] => digits.parse::<u32>().is_ok_and(|n| n <= MAX_RANDOM_BYTES),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(sql in ".{0,60}|[-/*'\"\\[\\]`;() a\u{FEFF}]{0,60}") {
            let _ = check(&sql, Kind::Table);
            let _ = check(&sql, Kind::Index);
        }
    }
}
