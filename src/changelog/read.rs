//! Reading the log: one change, its head, its fields. Values come back from the logged form here.

use rusqlite::{Connection, OptionalExtension};

use crate::db::read_value;
use crate::error::{Error, Result};
use crate::model::{AuthorId, Change, ChangeId, Field, Value};

/// A change id as the text of the log's tables, on the stack.
pub(crate) struct IdText([u8; 36]);

impl IdText {
    pub(crate) fn new(id: ChangeId) -> Self {
        let mut text = [0; 36];
        uuid::Uuid::from_bytes(*id.as_bytes()).as_hyphenated().encode_lower(&mut text);
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a UUID is written in ASCII")
    }
}

/// A row of `ZV_CHANGE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedHead {
    pub(crate) author: String,
    pub(crate) entity_type: String,
    pub(crate) entity_id: String,
    pub(crate) merged: bool,
}

/// A row of `ZV_CHANGE_FIELD`, its value as the user's table holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedField {
    pub(crate) name: String,
    pub(crate) value: Value,
}

/// Whether the log has a change.
pub(crate) fn contains(conn: &Connection, id: ChangeId) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM ZV_CHANGE WHERE id = ?1")?;
    Ok(statement.exists([IdText::new(id).as_str()])?)
}

/// A change's head.
pub(crate) fn read_head(conn: &Connection, id: ChangeId) -> Result<Option<LoggedHead>> {
    let sql = "SELECT author_id, entity_type, entity_id, merged FROM ZV_CHANGE WHERE id = ?1";
    let head = conn.prepare_cached(sql)?.query_row([IdText::new(id).as_str()], |row| {
        Ok(LoggedHead { author: row.get(0)?, entity_type: row.get(1)?, entity_id: row.get(2)?, merged: row.get(3)? })
    });
    Ok(head.optional()?)
}

/// A change's fields, sorted by name.
pub(crate) fn read_fields(conn: &Connection, id: ChangeId) -> Result<Vec<LoggedField>> {
    let sql = "SELECT field_name, field_value FROM ZV_CHANGE_FIELD WHERE change_id = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([IdText::new(id).as_str()])?;
    let mut fields = Vec::new();
    while let Some(row) = rows.next()? {
        fields.push(LoggedField { name: row.get(0)?, value: Value::from_logged(read_value(row.get_ref(1)?)) });
    }
    Ok(fields)
}

/// A whole change.
pub(crate) fn read_change(conn: &Connection, id: ChangeId) -> Result<Change> {
    let head = read_head(conn, id)?.ok_or_else(|| Error::corrupt(format!("the log lacks the change {id}")))?;
    let fields = read_fields(conn, id)?.into_iter().map(|f| Field { name: f.name, value: f.value }).collect();
    let LoggedHead { author, entity_type, entity_id, .. } = head;
    Ok(Change { id, author: AuthorId::new(author), entity_type, entity_id, fields })
}
