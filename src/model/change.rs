//! A change: one write to one row. Owns the reserved names; knows neither its bytes nor its tables.

use super::{ChangeId, Value};

/// The reserved field that records a deletion (1) or a row of key columns alone (0).
pub(crate) const DELETED_FIELD: &str = "zv_deleted";

/// The reserved field with the integer key that a row with a generated id has at its author's.
pub(crate) const ROWID_FIELD: &str = "zv_rowid";

/// The replica that made a change: its `database_uuid`. Nothing relies on it being unique, as files get copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorId(String);

impl AuthorId {
    /// Any text is an author: other writers of the format may name themselves as they like.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The author as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One column's value in a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The column's name as its author spells it; names match as SQLite's do, ASCII case ignored.
    pub name: String,
    /// The value written.
    pub value: Value,
}

/// One write to one row: what was written to which columns, by whom and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order of writes.
    pub id: ChangeId,
    /// Who made it.
    pub author: AuthorId,
    /// The table's name.
    pub entity_type: String,
    /// The row's key, as text.
    pub entity_id: String,
    /// What was written, sorted by name, each name once.
    pub fields: Vec<Field>,
}

impl Change {
    /// About how many bytes of memory the change takes.
    pub(crate) fn size(&self) -> usize {
        let fields: usize = self.fields.iter().map(|f| f.name.len() + f.value.size() + 64).sum();
        fields + self.entity_type.len() + self.entity_id.len() + self.author.0.len() + 128
    }
}

/// Whether a name can never be a tracked table's: SQLite's own or ours, in any ASCII case.
pub(crate) fn is_reserved_table(name: &str) -> bool {
    ["zv_", "sqlite_"]
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}
