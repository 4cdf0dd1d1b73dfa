//! SQL as a row of tokens, cut where SQLite's own tokenizer cuts it, and what can be seen from them alone. Runs nothing.

use std::fmt;

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
const GROWING: [&str; 3] = ["hex", "json_array", "json_object"];

/// Refuses a text that is not exactly one statement of a kind, or that calls what could fill memory.
pub(super) fn check(sql: &str, kind: Kind) -> Result<(), Flaw> {
    // SQLite would read to the NUL, and leave what follows unjudged.
    if sql.contains('\0') {
        return Err(Flaw::Nul);
    }
    let tokens: Vec<Token<'_>> = Tokens { rest: sql }.collect();
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword or a bare name.
    Word(&'a str),
    /// A name in quotes, without them.
    Quoted(&'a str),
    Number(&'a str),
    Open,
    Close,
    Semicolon,
    /// A string or an operator, or what SQLite refuses.
    Other,
}

impl Token<'_> {
    /// A name as SQLite looks a function up: quoted or not, in any case. (A doubled quote is in the name of none.)
    fn name(&self) -> Option<String> {
        match self {
            Token::Word(name) | Token::Quoted(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        }
    }
}

/// Cuts tokens off the front; spaces and comments are none.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_spaces_and_comments();
        let first = self.rest.chars().next()?;
        Some(match first {
            '(' => self.cut(1, Token::Open),
            ')' => self.cut(1, Token::Close),
            ';' => self.cut(1, Token::Semicolon),
            '\'' => {
                self.cut_quoted('\'');
                Token::Other
            }
            '"' | '`' => Token::Quoted(self.cut_quoted(first)),
            '[' => Token::Quoted(self.cut_bracketed()),
            '0'..='9' => Token::Number(self.cut_word()),
            'a'..='z' | 'A'..='Z' | '_' => Token::Word(self.cut_word()),
            other if !other.is_ascii() => Token::Word(self.cut_word()),
            other => self.cut(other.len_utf8(), Token::Other),
        })
    }
}

impl<'a> Tokens<'a> {
    fn skip_spaces_and_comments(&mut self) {
        loop {
            // Where a token begins, SQLite takes a byte order mark for a space.
            let rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0C', '\u{FEFF}']);
            let end = match rest.get(..2) {
                Some("--") => rest.find('\n'),
                Some("/*") => rest[2..].find("*/").map(|at| at + 4),
                _ => {
                    self.rest = rest;
                    return;
                }
            };
            self.rest = &rest[end.unwrap_or(rest.len())..];
        }
    }

    fn cut<T>(&mut self, bytes: usize, token: T) -> T {
        self.rest = &self.rest[bytes..];
        token
    }

    /// A run of the characters that names and numbers are made of.
    fn cut_word(&mut self) -> &'a str {
        let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        let end = self.rest.find(|c| !in_word(c)).unwrap_or(self.rest.len());
        self.cut(end, &self.rest[..end])
    }

    /// From a quote to the next that is not doubled.
    fn cut_quoted(&mut self, quote: char) -> &'a str {
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
                return self.cut(at + 1, &self.rest[1..at]);
            }
        }
        self.cut(self.rest.len(), &self.rest[1..])
    }

    fn cut_bracketed(&mut self) -> &'a str {
        let end = self.rest.find(']').unwrap_or(self.rest.len());
        let inside = &self.rest[1..end];
        self.cut(self.rest.len().min(end + 1), inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(sql: &str) -> Vec<Token<'_>> {
        Tokens { rest: sql }.collect()
    }

    #[test]
    fn tokens_are_cut_where_sqlite_cuts_them() {
        let sql = "a/**/\u{FEFF}b\u{FEFF} -- ;\n\"c\"\"d\" [e\"f] `g` 'h'';' 16(1_0);/*/;*/";
        let expected = [
            Token::Word("a"),
            Token::Word("b\u{FEFF}"),
            Token::Quoted("c\"\"d"),
            Token::Quoted("e\"f"),
            Token::Quoted("g"),
            Token::Other,
            Token::Number("16"),
            Token::Open,
            Token::Number("1_0"),
            Token::Close,
            Token::Semicolon,
        ];
        assert_eq!(tokens(sql), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_cut_to_its_end(sql in ".{0,60}|[-/*'\"\\[\\]`;() a\u{FEFF}]{0,60}") {
            prop_assert!(tokens(&sql).len() <= sql.len());
            let _ = check(&sql, Kind::Table);
        }
    }
}
