//! Values across the border to SQLite: to the bit, in both directions, in the plain and in the logged form.

use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::model::Value;

/// The value of a result column.
pub(crate) fn read_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => Value::Integer(n),
        ValueRef::Real(n) => Value::Real(n),
        ValueRef::Text(text) => Value::Text(text.to_vec()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    }
}

/// A value as SQLite reads one.
pub(crate) fn bind_ref(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Integer(n) => ValueRef::Integer(*n),
        Value::Real(n) => ValueRef::Real(*n),
        Value::Text(text) => ValueRef::Text(text),
        Value::Blob(blob) => ValueRef::Blob(blob),
    }
}

/// A value as a parameter.
pub(crate) fn bind_value(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(bind_ref(value))
}

/// A value in the logged form as a parameter, copied only where the form differs (`Value::into_logged`).
pub(crate) fn bind_logged(value: ValueRef<'_>) -> ToSqlOutput<'_> {
    match value {
        ValueRef::Null => ToSqlOutput::Borrowed(ValueRef::Blob(&[0xC0])),
        ValueRef::Blob([0xC0, ..]) => match read_value(value).into_logged() {
            Value::Blob(blob) => ToSqlOutput::Owned(blob.into()),
            _ => ToSqlOutput::Borrowed(value),
        },
        other => ToSqlOutput::Borrowed(other),
    }
}
