//! What a row is to hold by its registers: read from the log, and the defaults of its columns. Writes nothing.

use rusqlite::Connection;

use super::fold::Touched;
use super::tables::MergeTable;
use crate::changelog::{LoggedField, named, read_fields};
use crate::db::same_name;
use crate::error::{Error, Result};
use crate::model::{ChangeId, ROWID_FIELD, Registers, Value};

/// The integer that a change says its row has at its author's.
pub(super) fn rowid_said(conn: &Connection, id: ChangeId) -> Result<Option<i64>> {
    let field = read_fields(conn, id)?.into_iter().find(|field| same_name(&field.name, ROWID_FIELD));
    Ok(match field.map(|field| field.value) {
        Some(Value::Integer(rowid)) => Some(rowid),
        _ => None,
    })
}

/// The values that a row's columns are to have: those at hand, those in the log, and defaults.
pub(super) fn winners(
    conn: &Connection,
    table: &MergeTable,
    registers: &Registers,
    touched: &mut Touched,
) -> Result<Vec<Value>> {
    let mut read: Option<(ChangeId, Vec<LoggedField>)> = None;
    let mut values = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let value = match (touched.take(column.no), registers.get(column.no)) {
            (Some(value), _) => value,
            (None, None) => column.default.clone(),
            (None, Some(register)) => {
                if read.as_ref().is_none_or(|(id, _)| *id != register.id) {
                    read = Some((register.id, read_fields(conn, register.id)?));
                }
                let fields = read.as_ref().map_or(&[][..], |(_, fields)| fields);
                let field = fields.iter().find(|field| same_name(&field.name, &column.logged));
                field.map(|field| field.value.clone()).ok_or_else(|| {
                    Error::corrupt(format!("the log lacks {}.{} of {}", table.shape.name, column.name, register.id))
                })?
            }
        };
        values.push(if column.target.is_some() { named(value) } else { value });
    }
    Ok(values)
}
