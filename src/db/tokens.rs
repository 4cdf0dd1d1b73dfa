//! SQL as a row of tokens, cut where SQLite's own tokenizer cuts it. Judges nothing, runs nothing.

use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or a bare name.
    Word(&'a str),
    /// A name in quotes, without them, and each quote in it once.
    Quoted(Cow<'a, str>),
    Number(&'a str),
    Open,
    Close,
    Comma,
    Semicolon,
    /// A string or an operator, or what SQLite refuses.
    Other,
}

impl Token<'_> {
    /// A name as SQLite looks it up: quoted or not, in any case.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Token::Word(name) => Some(name.to_ascii_lowercase()),
            Token::Quoted(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        }
    }
}

/// Cuts tokens off the front; spaces and comments are none.
pub(crate) struct Tokens<'a> {
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
            ',' => self.cut(1, Token::Comma),
            ';' => self.cut(1, Token::Semicolon),
            '\'' => {
                self.cut_quoted('\'');
                Token::Other
            }
            '"' => Token::Quoted(undoubled(self.cut_quoted(first), "\"\"")),
            '`' => Token::Quoted(undoubled(self.cut_quoted(first), "``")),
            '[' => Token::Quoted(self.cut_bracketed().into()),
            '0'..='9' => Token::Number(self.cut_word()),
            'a'..='z' | 'A'..='Z' | '_' => Token::Word(self.cut_word()),
            other if !other.is_ascii() => Token::Word(self.cut_word()),
            other => self.cut(other.len_utf8(), Token::Other),
        })
    }
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(sql: &'a str) -> Self {
        Self { rest: sql }
    }

    /// What has not been cut yet.
    pub(crate) fn rest(&self) -> &'a str {
        self.rest
    }

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

/// What stands between quotes, with one for each two.
fn undoubled<'a>(inside: &'a str, two: &str) -> Cow<'a, str> {
    if inside.contains(two) { inside.replace(two, &two[1..]).into() } else { inside.into() }
}

/// SQL without what stands behind its last token: a comment there would swallow what is put behind it.
pub(crate) fn without_tail(sql: &str) -> &str {
    let mut tokens = Tokens::new(sql);
    let mut end = 0;
    while let Some(token) = tokens.next() {
        if token != Token::Semicolon {
            end = sql.len() - tokens.rest().len();
        }
    }
    &sql[..end]
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
        let sql = "a/**/\u{FEFF}b\u{FEFF} -- ;\n\"c\"\"d\" [e\"\"f] `g``` 'h'';' 16(1_0);/*/;*/";
        let expected = [
            Token::Word("a"),
            Token::Word("b\u{FEFF}"),
            Token::Quoted("c\"d".into()),
            Token::Quoted("e\"\"f".into()),
            Token::Quoted("g`".into()),
            Token::Other,
            Token::Number("16"),
            Token::Open,
            Token::Number("1_0"),
            Token::Close,
            Token::Semicolon,
        ];
        assert_eq!(tokens(sql), expected);
    }

    #[test]
    fn what_stands_behind_the_last_token_is_cut() {
        for (sql, cut) in [
            ("a -- b", "a"),
            ("a IS NULL /* b */ ; -- c\n", "a IS NULL"),
            (" a -- b\n = '--' ", " a -- b\n = '--'"),
            ("/* a", ""),
            ("a /* b", "a"),
            ("", ""),
        ] {
            assert_eq!(without_tail(sql), cut, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_cut_to_its_end(sql in ".{0,60}|[-/*'\"\\[\\]`;() a\u{FEFF}]{0,60}") {
            prop_assert!(tokens(&sql).len() <= sql.len());
        }
    }
}
