//! The rows of the demo's tables, read as any program would read them.

use std::path::Path;

use rusqlite::{Connection, Result};

use crate::failure::Failure;
use crate::text::{self, Lean};

/// The tables' rows, in the order of their keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Rows {
    notes: Vec<Vec<String>>,
    tags: Vec<Vec<String>>,
}

impl Rows {
    pub fn read(database: &Path) -> Result<Self, Failure> {
        let read = |connection: Connection| {
            Ok(Self {
                notes: select(&connection, "SELECT id, title, body, CAST(pinned AS TEXT) FROM notes ORDER BY id")?,
                tags: select(&connection, "SELECT id, note_id, name, '' FROM tags ORDER BY id")?,
            })
        };
        Connection::open(database)
            .and_then(read)
            .map_err(|error| Failure::sqlite(format!("{}: the demo's rows cannot be read", database.display()), &error))
    }

    /// These rows on the left, the others on the right.
    pub fn beside(&self, other: &Self) -> String {
        let mut lines = vec![line(Some(&["laptop.db".to_owned()]), Some(&["phone.db".to_owned()]))];
        for (left, right) in [(&self.notes, &other.notes), (&self.tags, &other.tags)] {
            lines.push(line(None, None));
            let longest = left.len().max(right.len());
            lines.extend(
                (0..longest).map(|row| line(left.get(row).map(Vec::as_slice), right.get(row).map(Vec::as_slice))),
            );
        }
        text::columns(3, &[Lean::Left; 9], &lines)
    }
}

/// A row of each side, or the blanks of a side that has none.
fn line(left: Option<&[String]>, right: Option<&[String]>) -> Vec<String> {
    let side = |cells: Option<&[String]>| {
        let mut cells: Vec<String> = cells.unwrap_or_default().iter().map(|cell| text::plain(cell)).collect();
        cells.resize(4, String::new());
        cells
    };
    [side(left), vec!["|".to_owned()], side(right)].concat()
}

fn select(connection: &Connection, sql: &str) -> Result<Vec<Vec<String>>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| (0..4).map(|column| row.get(column)).collect())?;
    rows.collect()
}
