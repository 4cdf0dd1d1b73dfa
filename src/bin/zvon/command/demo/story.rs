//! The demo's story: its data, its edits and its words. Does nothing.

use std::path::Path;

use zvon::{SyncReport, VerifyReport};

use super::rows::Rows;
use crate::text;

/// Whose replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Laptop,
    Phone,
}

impl Who {
    pub fn file(self) -> &'static str {
        match self {
            Self::Laptop => "laptop.db",
            Self::Phone => "phone.db",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Laptop => "laptop",
            Self::Phone => "phone",
        }
    }
}

pub const SCHEMA: &str = "
CREATE TABLE notes (
    id TEXT NOT NULL PRIMARY KEY,
    title TEXT NOT NULL,
    body TEXT NOT NULL DEFAULT '',
    pinned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE tags (
    id TEXT NOT NULL PRIMARY KEY,
    note_id TEXT NOT NULL REFERENCES notes(id) ON DELETE CASCADE,
    name TEXT NOT NULL
);";

pub const FIRST_ROWS: &str = "
INSERT INTO notes (id, title, body) VALUES
    ('garden', 'Garden', 'Plant the beans'),
    ('shopping', 'Shopping', 'Milk'),
    ('taxes', 'Taxes', 'Due in May');
INSERT INTO tags (id, note_id, name) VALUES
    ('garden-outside', 'garden', 'outside'),
    ('taxes-urgent', 'taxes', 'urgent');";

/// What both write before they hear of each other: other columns of one row, the same column of another, a delete, an insert.
pub const EDITS: &[(Who, &str)] = &[
    (Who::Laptop, "UPDATE notes SET title = 'Garden plan' WHERE id = 'garden'"),
    (Who::Phone, "UPDATE notes SET pinned = 1 WHERE id = 'garden'"),
    (Who::Laptop, "UPDATE notes SET body = 'Milk, eggs' WHERE id = 'shopping'"),
    (Who::Phone, "UPDATE notes SET body = 'Milk, bread' WHERE id = 'shopping'"),
    (Who::Laptop, "PRAGMA foreign_keys = ON; DELETE FROM notes WHERE id = 'taxes'"),
    (Who::Phone, "INSERT INTO notes (id, title) VALUES ('trip', 'Trip to the sea')"),
    (Who::Phone, "INSERT INTO tags (id, note_id, name) VALUES ('trip-june', 'trip', 'June')"),
];

pub const EDITING: &str = "
3. Both write, neither hearing of the other: plain SQL, from any program that can open the file.

";

pub const SYNCING: &str = "
4. Both sync, each twice, as the first cannot see yet what the second brings.

";

pub const REMOTE: &str = "
8. All that the folder holds: one small MessagePack file a change, packs where there are many. There is no server.

";

pub fn opening(folder: &Path) -> String {
    format!(
        "A laptop and a phone keep the same notes. They sync through a folder, as they would through an S3 bucket.\n\
         The files are in {}\n",
        text::plain(&folder.display().to_string())
    )
}

pub fn laptop_started(tables: u64, rows: u64, pushed: u64) -> String {
    let (tables, rows) = (text::count(tables, "table", "tables"), text::rows(rows));
    format!(
        "\n1. The laptop has a database of notes and tags. It becomes a replica, and pushes what it has.\n\n   \
         $ zvon init laptop.db --remote shared\n   \
         $ zvon --db laptop.db track --all\n   \
         $ zvon --db laptop.db sync\n   \
         {tables} tracked, with {rows}; {} pushed\n",
        text::changes(pushed)
    )
}

pub fn phone_cloned(pulled: u64) -> String {
    format!(
        "\n2. The phone starts from the folder alone: tables, rows and history.\n\n   \
         $ zvon clone shared phone.db\n   {} pulled\n",
        text::changes(pulled)
    )
}

pub fn edit(who: Who, sql: &str) -> String {
    format!("   {:<7} {sql};\n", format!("{}>", who.name()))
}

pub fn synced(who: Who, report: &SyncReport) -> String {
    let conflicts = match report.conflicts {
        0 => String::new(),
        number => format!(", {}", text::count(number, "conflict", "conflicts")),
    };
    let command = format!("$ zvon --db {} sync", who.file());
    format!("   {command:<27} pulled {}, pushed {}{conflicts}\n", report.pulled, report.pushed)
}

pub fn compared(laptop: &Rows, phone: &Rows) -> String {
    let verdict = match laptop == phone {
        true => {
            "   The garden note has the laptop's title and the phone's pin: other columns of one row do not clash.\n   \
             Shopping has one body, the one written last. Taxes went with its tag, the trip came with its own.\n"
        }
        false => "   They differ, which must never happen.\n",
    };
    format!("\n5. Both show the same.\n\n{}\n{verdict}", laptop.beside(phone))
}

pub fn conflicts(who: Who, words: &str) -> String {
    let words: String = words.lines().map(|line| format!("   {line}\n")).collect();
    format!("\n6. What lost is not gone.\n\n   $ zvon --db {} conflicts\n{words}", who.file())
}

pub fn verified(laptop: &VerifyReport, phone: &VerifyReport) -> String {
    let word = |report: &VerifyReport| match report.problem_count {
        0 => format!("all is well: {} and {} checked", text::changes(report.changes), text::rows(report.rows)),
        number => text::count(number, "problem", "problems"),
    };
    format!(
        "\n7. Tables and folder hold what the log says.\n\n   \
         $ zvon --db laptop.db verify           {}\n   \
         $ zvon --db phone.db verify --remote   {}\n",
        word(laptop),
        word(phone)
    )
}

pub fn closing(folder: &Path) -> String {
    let path = |name: &str| text::shell(&folder.join(name).display().to_string());
    let (laptop, phone) = (path("laptop.db"), path("phone.db"));
    format!(
        "\nThe files stay. Try next:\n\n  \
         zvon --db {phone} conflicts restore 1\n  \
         zvon --db {phone} sync && zvon --db {laptop} sync\n  \
         zvon --db {laptop} log notes shopping\n  \
         zvon --db {laptop} status\n  \
         sqlite3 {laptop} 'SELECT * FROM notes'\n\nDone with it: rm -r {}\n",
        text::shell(&folder.display().to_string())
    )
}
