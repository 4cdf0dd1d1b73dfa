//! The value of a column that nobody wrote: its DEFAULT where that is a constant, otherwise NULL.

use rusqlite::Connection;

use super::{Column, read_value, without_tail};
use crate::error::Result;
use crate::model::Value;

/// The constant default of a column; NULL where it has none, or one that depends on time or functions.
pub(crate) fn constant_default(conn: &Connection, column: &Column) -> Result<Value> {
    match column.default.as_deref().and_then(constant_expression) {
        Some(sql) => Ok(conn.query_row(&format!("SELECT {sql}"), [], |row| Ok(read_value(row.get_ref(0)?)))?),
        None => Ok(Value::Null),
    }
}

/// The DEFAULT clause as an expression that reads nothing but itself; `None` where it is not made of literals alone.
pub(crate) fn constant_expression(default: &str) -> Option<String> {
    let text = without_tail(default).trim();
    if let Some(name) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return Some(format!("'{}'", name.replace("\"\"", "\"").replace('\'', "''")));
    }
    let bare = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    if bare && !text.starts_with(|c: char| c.is_ascii_digit()) {
        return match text.to_ascii_uppercase().as_str() {
            "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "CURRENT_TIME" => None,
            "NULL" | "TRUE" | "FALSE" => Some(text.to_owned()),
            _ => Some(format!("'{text}'")),
        };
    }
    literals_only(text).then(|| text.to_owned())
}

/// Whether the text outside of quotes has only numbers, blob prefixes, `NULL`, `TRUE`, `FALSE`, operators and parentheses.
fn literals_only(text: &str) -> bool {
    let mut quoted = false;
    let mut words = vec![String::new()];
    for c in text.chars() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => continue,
            c if c.is_ascii_alphanumeric() || c == '.' => {
                words.last_mut().expect("there is always a word").push(c);
                continue;
            }
            ' ' | '+' | '-' | '*' | '/' | '%' | '|' | '&' | '(' | ')' => {}
            _ => return false,
        }
        words.push(String::new());
    }
    let literal = |word: &String| {
        let upper = word.to_ascii_uppercase();
        let number = upper.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        number || ["", "X", "NULL", "TRUE", "FALSE"].contains(&upper.as_str())
    };
    !quoted && words.iter().all(literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::read_table;

    fn default_of(clause: &str) -> Value {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!("CREATE TABLE t (a DEFAULT {clause})")).unwrap();
        let table = read_table(&conn, "t").unwrap().unwrap();
        constant_default(&conn, &table.columns[0]).unwrap()
    }

    #[test]
    fn literals_are_constants() {
        assert_eq!(default_of("-3"), Value::Integer(-3));
        assert_eq!(default_of("1.5e3"), Value::Real(1500.0));
        assert_eq!(default_of("'it''s'"), Value::text("it's"));
        assert_eq!(default_of("\"dq\""), Value::text("dq"));
        assert_eq!(default_of("x'C0'"), Value::Blob(vec![0xC0]));
        assert_eq!(default_of("TRUE"), Value::Integer(1));
        assert_eq!(default_of("(1 + 2)"), Value::Integer(3));
        assert_eq!(default_of("('x' -- said of it\n)"), Value::text("x"));
        assert_eq!(default_of("(NULL)"), Value::Null);
        assert_eq!(default_of("active"), Value::text("active"));
    }

    #[test]
    fn what_depends_on_anything_is_not() {
        for clause in ["CURRENT_TIMESTAMP", "(random())", "(datetime('now'))", "(lower('A'))", "(hex(randomblob(4)))"] {
            assert_eq!(default_of(clause), Value::Null, "{clause}");
        }
    }
}
