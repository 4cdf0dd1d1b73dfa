//! Words for people: counts, columns, values, and names made safe for a terminal. Pure; prints nothing.

use std::fmt::Write as _;

use serde_json::Value;

/// How much of a value the lists show.
const VALUE_WIDTH: usize = 60;

/// A text in which nothing can move the cursor, recolour or reorder what stands around it.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Control characters, and those that change the direction of what follows or break its line.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 change`, `2 changes`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `1 change`, `2 changes`.
pub fn changes(number: u64) -> String {
    count(number, "change", "changes")
}

/// `1 row`, `2 rows`.
pub fn rows(number: u64) -> String {
    count(number, "row", "rows")
}

/// Bytes in a unit that fits.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let unit = (number.max(1).ilog2() / 10).min(3);
    if unit == 0 {
        return count(number, "byte", "bytes");
    }
    let tenths = u128::from(number) * 10 / (1u128 << (10 * unit));
    let name = UNITS.get(unit as usize).copied().unwrap_or("GiB");
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// A column's value, written as SQL would write it, shortened.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) if is_blob(text) => shorten(text, VALUE_WIDTH),
        Value::String(text) => format!("'{}'", shorten(&plain(text).replace('\'', "''"), VALUE_WIDTH)),
        other => plain(&other.to_string()),
    }
}

/// Whether a text is how the log writes a blob.
fn is_blob(text: &str) -> bool {
    text.strip_prefix("x'")
        .and_then(|rest| rest.strip_suffix('\''))
        .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// At most `width` characters, the last of them an ellipsis where some are left out.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Who made a change: this replica, or another by the end of its id (its beginning is a time, much like its siblings').
pub fn author(id: &str, own: bool) -> String {
    if own {
        return "this replica".to_owned();
    }
    let id = plain(id);
    let skipped = id.chars().count().saturating_sub(8);
    format!("replica …{}", id.chars().skip(skipped).collect::<String>())
}

/// A word as a shell reads it back.
pub fn shell(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,=%~".contains(c);
    if !word.is_empty() && word.chars().all(|c| harmless(c) || (!c.is_ascii() && !is_unsafe(c))) {
        return word.to_owned();
    }
    format!("'{}'", plain(word).replace('\'', r"'\''"))
}

/// How a column of a table leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lean {
    Left,
    Right,
}

/// Rows as aligned columns, two blanks between them and `indent` before them.
pub fn columns(indent: usize, leans: &[Lean], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..leans.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(leans).zip(&widths).map(|((cell, lean), &width)| match lean {
            Lean::Left => format!("{cell:<width$}"),
            Lean::Right => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{:indent$}{}", "", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_could_drive_it() {
        assert_eq!(plain("a\u{1b}[2J\u{7}\u{9b}\u{202e}b\n\u{7f}"), r"a\u{1b}[2J\u{7}\u{9b}\u{202e}b\n\u{7f}");
        assert_eq!(plain("Füße 日本 🎉"), "Füße 日本 🎉");
    }

    #[test]
    fn counts_know_their_plural() {
        assert_eq!(changes(0), "0 changes");
        assert_eq!(changes(1), "1 change");
        assert_eq!(rows(2), "2 rows");
    }

    #[test]
    fn sizes_have_a_fitting_unit() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
        assert_eq!(bytes(u64::MAX), "17179869183.9 GiB");
    }

    #[test]
    fn values_read_as_sql_writes_them() {
        assert_eq!(value(&Value::Null), "NULL");
        assert_eq!(value(&Value::from(3)), "3");
        assert_eq!(value(&Value::from("it's")), "'it''s'");
        assert_eq!(value(&Value::from("x'c0ff'")), "x'c0ff'");
        assert_eq!(value(&Value::from("x".repeat(100))).chars().count(), VALUE_WIDTH + 2);
        assert_eq!(value(&Value::from("\u{1b}[31m")), r"'\u{1b}[31m'");
    }

    #[test]
    fn authors_are_told_apart_by_their_end() {
        assert_eq!(author("0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", false), "replica …2e3f4a5b");
        assert_eq!(author("anything", true), "this replica");
    }

    #[test]
    fn words_come_back_whole_from_a_shell() {
        assert_eq!(shell("/tmp/a.db"), "/tmp/a.db");
        assert_eq!(shell("my notes.db"), "'my notes.db'");
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["TABLE".into(), "ROWS".into()], vec!["notes".into(), "12".into()], vec!["t".into(), "3".into()]];
        assert_eq!(columns(2, &[Lean::Left, Lean::Right], &rows), "  TABLE  ROWS\n  notes    12\n  t         3\n");
    }
}
