//! Entity ids: a row's key as text and back. Knows no tables; one function pair holds the whole rule.

use super::Value;

/// How a table's key becomes an entity id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// One TEXT column: the text itself.
    Text,
    /// One INTEGER column: its digits.
    Integer,
    /// Anything else: tagged parts joined by `/`.
    Parts,
}

/// One key column's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeyPart {
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl KeyPart {
    /// `None` where a value can be no key: NULL, a number with a fraction, text that is not UTF-8 or has a NUL in it.
    pub(crate) fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Integer(n) => Some(Self::Integer(n)),
            Value::Text(text) => String::from_utf8(text).ok().filter(|t| !t.contains('\0')).map(Self::Text),
            Value::Blob(blob) => Some(Self::Blob(blob)),
            Value::Null | Value::Real(_) => None,
        }
    }

    pub(crate) fn into_value(self) -> Value {
        match self {
            Self::Integer(n) => Value::Integer(n),
            Self::Text(text) => Value::text(text),
            Self::Blob(blob) => Value::Blob(blob),
        }
    }
}

impl KeyPart {
    /// The entity id of a row that is known by a reference to another: that row's own.
    pub(crate) fn into_reference(self) -> Option<String> {
        match self {
            Self::Integer(n) => Some(n.to_string()),
            Self::Text(text) => Some(text),
            Self::Blob(_) => None,
        }
    }
}

/// The integer that an entity id is the digits of.
pub(crate) fn digits_of(entity_id: &str) -> Option<i64> {
    decode_digits(entity_id)
}

/// The entity id of a key; `None` where the kind asks for another type than the key has.
pub(crate) fn encode_entity_id(kind: KeyKind, key: &[KeyPart]) -> Option<String> {
    match (kind, key) {
        (KeyKind::Text, [KeyPart::Text(text)]) => Some(text.clone()),
        (KeyKind::Integer, [KeyPart::Integer(n)]) => Some(n.to_string()),
        (KeyKind::Parts, parts) if !parts.is_empty() => {
            Some(parts.iter().map(encode_part).collect::<Vec<_>>().join("/"))
        }
        _ => None,
    }
}

/// The key of an entity id; `None` unless it is exactly what [`encode_entity_id`] writes for a key of `columns` columns.
pub(crate) fn decode_entity_id(kind: KeyKind, columns: usize, id: &str) -> Option<Vec<KeyPart>> {
    match kind {
        KeyKind::Text => (columns == 1 && !id.contains('\0')).then(|| vec![KeyPart::Text(id.to_owned())]),
        KeyKind::Integer => Some(vec![KeyPart::Integer(decode_digits(id)?)]).filter(|_| columns == 1),
        KeyKind::Parts => {
            let parts: Vec<KeyPart> = id.split('/').map(decode_part).collect::<Option<_>>()?;
            (parts.len() == columns).then_some(parts)
        }
    }
}

fn encode_part(part: &KeyPart) -> String {
    match part {
        KeyPart::Integer(n) => format!("#{n}"),
        KeyPart::Text(text) => text.replace('~', "~0").replace('/', "~1").replace('#', "~2"),
        KeyPart::Blob(blob) => blob.iter().fold(String::from("#x"), |hex, byte| hex + &format!("{byte:02x}")),
    }
}

fn decode_part(part: &str) -> Option<KeyPart> {
    match part.strip_prefix('#') {
        None => decode_text(part).map(KeyPart::Text),
        Some(rest) => match rest.strip_prefix('x') {
            Some(hex) => decode_hex(hex).map(KeyPart::Blob),
            None => decode_digits(rest).map(KeyPart::Integer),
        },
    }
}

fn decode_text(part: &str) -> Option<String> {
    let mut text = String::with_capacity(part.len());
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        match c {
            '~' => text.push(match chars.next()? {
                '0' => '~',
                '1' => '/',
                '2' => '#',
                _ => return None,
            }),
            '#' | '\0' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

fn decode_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect())?
}

/// The canonical digits of an i64 alone: no `+`, no leading zero, no `-0`.
fn decode_digits(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|n| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(key: &[KeyPart]) -> String {
        encode_entity_id(KeyKind::Parts, key).unwrap()
    }

    #[test]
    fn the_documented_forms() {
        assert_eq!(encode_entity_id(KeyKind::Text, &[KeyPart::Text("a/b#~".into())]).unwrap(), "a/b#~");
        assert_eq!(encode_entity_id(KeyKind::Integer, &[KeyPart::Integer(-7)]).unwrap(), "-7");
        assert_eq!(parts(&[KeyPart::Text("order-7".into()), KeyPart::Integer(3)]), "order-7/#3");
        assert_eq!(parts(&[KeyPart::Blob(vec![0, 0xAB])]), "#x00ab");
        assert_eq!(parts(&[KeyPart::Text("~/#".into()), KeyPart::Text(String::new())]), "~0~1~2/");
        assert_eq!(encode_entity_id(KeyKind::Integer, &[KeyPart::Text("7".into())]), None);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for bad in ["07", "+7", "-0", "", "7 ", "9223372036854775808", "x"] {
            assert_eq!(decode_entity_id(KeyKind::Integer, 1, bad), None, "{bad}");
        }
        for bad in ["#", "#07", "#x0", "#xAB", "~3", "~", "a#", "a/b", "#1/#2"] {
            assert_eq!(decode_entity_id(KeyKind::Parts, 1, bad), None, "{bad}");
        }
        assert_eq!(decode_entity_id(KeyKind::Text, 1, "a\0b"), None);
    }

    fn any_part() -> impl Strategy<Value = KeyPart> {
        prop_oneof![
            any::<i64>().prop_map(KeyPart::Integer),
            "[^\\x00]{0,12}".prop_map(KeyPart::Text),
            "[~/#x0-2]{0,6}".prop_map(KeyPart::Text),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(KeyPart::Blob),
        ]
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_different_keys_have_different_ids(
            a in prop::collection::vec(any_part(), 1..4),
            b in prop::collection::vec(any_part(), 1..4),
        ) {
            prop_assert_eq!(decode_entity_id(KeyKind::Parts, a.len(), &parts(&a)), Some(a.clone()));
            prop_assert_eq!(parts(&a) == parts(&b), a == b);
        }

        #[test]
        fn what_decodes_encodes_to_the_same(id in "[~/#x0-9a-f-]{0,10}") {
            for kind in [KeyKind::Text, KeyKind::Integer, KeyKind::Parts] {
                for columns in 1..4 {
                    if let Some(key) = decode_entity_id(kind, columns, &id) {
                        prop_assert_eq!(encode_entity_id(kind, &key), Some(id.clone()));
                    }
                }
            }
        }
    }
}
