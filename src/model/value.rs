//! A column's value in SQLite's own storage classes, and the form in which the log keeps it. Knows no SQL.

use std::fmt;

/// A value as SQLite holds it (<https://sqlite.org/datatype3.html>, section 2): every storage class, to the bit.
///
/// Text is bytes, as SQLite stores text that is not UTF-8 or that has NULs in it without complaint.
/// `Debug` shows the class and the size, never the content: values of a user's rows stay out of logs.
#[derive(Clone)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A 64-bit IEEE 754 number. SQLite has no NaN: it reads as NULL.
    Real(f64),
    /// Text in the database's encoding, which is UTF-8 unless somebody stored something else.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl PartialEq for Value {
    /// Equal means the same storage class and the same bits, so that -0.0 is not 0.0 and 1 is not 1.0.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Integer(_) => f.write_str("Integer"),
            Self::Real(_) => f.write_str("Real"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Blob(blob) => write!(f, "Blob({} bytes)", blob.len()),
        }
    }
}

impl Value {
    /// A number as SQLite would hold it: NaN is NULL.
    pub fn real(number: f64) -> Self {
        if number.is_nan() { Self::Null } else { Self::Real(number) }
    }

    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes())
    }

    /// The content's size in bytes (8 for a number, 0 for NULL).
    pub fn size(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
        }
    }

    /// The form of `ZV_CHANGE_FIELD.field_value`, which is NOT NULL: NULL is the one-byte blob `C0`, and a blob that begins
    /// with `C0` has one more in front.
    pub(crate) fn into_logged(self) -> Self {
        match self {
            Self::Null => Self::Blob(vec![NIL]),
            Self::Blob(mut blob) if blob.first() == Some(&NIL) => {
                blob.insert(0, NIL);
                Self::Blob(blob)
            }
            other => other,
        }
    }

    /// The inverse of [`into_logged`](Self::into_logged).
    pub(crate) fn from_logged(logged: Self) -> Self {
        match logged {
            Self::Blob(blob) if blob == [NIL] => Self::Null,
            Self::Blob(mut blob) if blob.first() == Some(&NIL) => {
                blob.remove(0);
                Self::Blob(blob)
            }
            other => other,
        }
    }

    /// Whether this, as the value of the reserved field `zv_deleted`, says that the row is deleted.
    pub(crate) fn says_deleted(&self) -> bool {
        matches!(self, Self::Integer(n) if *n != 0)
    }
}

/// MessagePack's nil.
const NIL: u8 = 0xC0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_values_are_never_null_and_come_back() {
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(f64::NEG_INFINITY),
            Value::Real(-0.0),
            Value::Text(vec![]),
            Value::Text(vec![0xC0]),
            Value::Blob(vec![]),
            Value::Blob(vec![0xC0]),
            Value::Blob(vec![0xC0, 0xC0]),
            Value::Blob(vec![0xC0, 1]),
        ];
        for value in values {
            let logged = value.clone().into_logged();
            assert_ne!(logged, Value::Null);
            assert!(Value::from_logged(logged) == value, "{value:?}");
        }
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", Value::text("secret")), "Text(6 bytes)");
    }
}
