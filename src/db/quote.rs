//! The one way in which a name enters SQL. Values enter as parameters only.

use std::fmt::{self, Display};

/// An identifier, quoted whatever it holds (<https://sqlite.org/lang_keywords.html>).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ident<'a>(pub(crate) &'a str);

impl Display for Ident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// Items joined by commas.
pub(crate) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(Ident(r#"a"b; DROP"#).to_string(), r#""a""b; DROP""#);
        assert_eq!(list(["a", "b"].map(Ident)), r#""a", "b""#);
    }
}
