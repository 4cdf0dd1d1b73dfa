//! Why a row is held: the reasons by code and in words, from SQLite's errors and from parents that lack. Decides, reads no table.

use rusqlite::ffi;

use super::fold::Key;
use super::tables::Tables;

/// Why a row is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: &'static str,
    pub(super) detail: String,
    /// Whose change makes it worth another look: a row, or any row of a table (or any that has certain values, see `parents.rs`).
    pub(super) waits_for: Vec<(u32, Option<String>)>,
}

impl Reason {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), waits_for: Vec::new() }
    }

    /// The same, to be looked at again when a row changes, or any of a table.
    pub(super) fn until(mut self, table_no: u32, entity_id: Option<String>) -> Self {
        self.waits_for.push((table_no, entity_id));
        self
    }
}

/// The reason to hold a row that refers to one which is not here or not shown.
pub(super) fn missing_parent(tables: &Tables, (parent_no, entity_id): Key, column: &str) -> Reason {
    let parent = tables.get(parent_no).map_or("another table", |table| table.shape.name.as_str());
    let detail = format!("its parent in {parent} (by {column}) is not here or not shown");
    Reason::new("foreign key", detail).until(parent_no, Some(entity_id))
}

/// The reason to hold a row that SQLite refuses with an error; `None` where the row is not to blame.
pub(super) fn reason_of(error: &rusqlite::Error) -> Option<Reason> {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(code, message) => (code, message.as_deref().unwrap_or_default()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg.as_str()),
        _ => return None,
    };
    Some(match code.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            Reason::new("unique", format!("another row has the same value: {message}"))
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => Reason::new("not null", format!("a value is missing: {message}")),
        ffi::SQLITE_CONSTRAINT_CHECK => Reason::new("check", format!("a CHECK refuses the row: {message}")),
        ffi::SQLITE_CONSTRAINT_DATATYPE | ffi::SQLITE_MISMATCH => {
            Reason::new("type", format!("a value has another type than its column allows: {message}"))
        }
        ffi::SQLITE_CONSTRAINT_TRIGGER => Reason::new("trigger", format!("a trigger refuses the row: {message}")),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Reason::new("foreign key", message),
        // What a trigger, a CHECK or an indexed expression says of a value that it cannot read, or a trigger that is broken.
        ffi::SQLITE_ERROR => Reason::new("other", format!("SQLite cannot write the row: {message}")),
        ffi::SQLITE_TOOBIG => Reason::new("other", "the row is larger than SQLite allows"),
        _ => return None,
    })
}
