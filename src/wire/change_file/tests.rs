use super::*;
use proptest::prelude::*;
use serde::Serialize;

mod golden;

const ID: &str = "019b76da-a800-7000-8000-000000000001";

fn id() -> ChangeId {
    ID.parse().unwrap()
}

fn field(name: &str, value: Value) -> Field {
    Field { name: name.into(), value }
}

fn change(id: &str, entity_type: &str, entity_id: &str, fields: Vec<Field>) -> Change {
    Change {
        id: id.parse().unwrap(),
        author: AuthorId::new("019b76da-a800-7000-8000-00000000000a"),
        entity_type: entity_type.into(),
        entity_id: entity_id.into(),
        fields,
    }
}

fn typical() -> Change {
    let fields = vec![
        field("album_id", Value::Integer(347)),
        field("composer", Value::Null),
        field("milliseconds", Value::Integer(206_005)),
        field("name", Value::text("Koyaanisqatsi")),
        field("unit_price", Value::Real(0.99)),
    ];
    change(ID, "track", "3503", fields)
}

/// The structures of the specification, as another program would derive them: `rmp_serde` writes them as arrays or maps.
#[derive(Serialize)]
struct File<'a, V> {
    change: Head<'a>,
    fields: Vec<Pair<'a, V>>,
}

#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    author_id: &'a str,
    entity_type: &'a str,
    entity_id: &'a str,
    merged: bool,
}

#[derive(Serialize)]
struct Pair<'a, V> {
    field_name: &'a str,
    field_value: V,
}

fn file<'a, V>(id: &'a str, entity_type: &'a str, entity_id: &'a str, fields: Vec<(&'a str, V)>) -> File<'a, V> {
    File {
        change: Head { id, author_id: "author", entity_type, entity_id, merged: false },
        fields: fields.into_iter().map(|(field_name, field_value)| Pair { field_name, field_value }).collect(),
    }
}

fn decoded<V: Serialize>(file: &File<'_, V>) -> Result<Change, BadFile> {
    let named = decode_change(id(), &rmp_serde::to_vec_named(file).unwrap());
    let positional = decode_change(id(), &rmp_serde::to_vec(file).unwrap());
    assert_eq!(named, positional);
    named
}

/// A good file whose one value is these bytes.
fn with_value(value: &[u8]) -> Vec<u8> {
    let mut bytes = rmp_serde::to_vec_named(&file(ID, "t", "1", vec![("a", ())])).unwrap();
    assert_eq!(bytes.pop(), Some(0xC0));
    bytes.extend_from_slice(value);
    bytes
}

fn value_of(bytes: &[u8]) -> Result<Value, BadFile> {
    decode_change(id(), &with_value(bytes)).map(|mut change| change.fields.remove(0).value)
}

#[test]
fn every_form_of_a_value_is_read() {
    let nan = [&[0xCB][..], &f64::NAN.to_be_bytes()].concat();
    let forms: [(&[u8], Value); 15] = [
        (&[0xC0], Value::Null),
        (&[0xC2], Value::Integer(0)),
        (&[0xC3], Value::Integer(1)),
        (&[0x7F], Value::Integer(127)),
        (&[0xE0], Value::Integer(-32)),
        (&[0xCD, 0, 7], Value::Integer(7)),
        (&[0xD3, 0x80, 0, 0, 0, 0, 0, 0, 0], Value::Integer(i64::MIN)),
        (&[0xCF, 0x7F, 255, 255, 255, 255, 255, 255, 255], Value::Integer(i64::MAX)),
        (&[0xCA, 0x3F, 0x80, 0, 0], Value::Real(1.0)),
        (&nan, Value::Null),
        (&[0xA1, b'x'], Value::text("x")),
        (&[0xA1, 0xFF], Value::Text(vec![0xFF])),
        (&[0xD4, 1, 0xFF], Value::Text(vec![0xFF])),
        (&[0xC4, 1, 0xC0], Value::Blob(vec![0xC0])),
        (&[0xC7, 0, 1], Value::text("")),
    ];
    for (bytes, value) in forms {
        assert_eq!(value_of(bytes), Ok(value), "{bytes:02x?}");
    }
}

#[test]
fn values_that_no_column_can_hold_are_refused() {
    assert_eq!(value_of(&[0xCF, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(BadFile::IntegerRange));
    assert_eq!(value_of(&[0x90]), Err(BadFile::Nesting));
    assert_eq!(value_of(&[0x80]), Err(BadFile::Nesting));
    assert_eq!(value_of(&[0xD6, 0xFF, 0, 0, 0, 0]), Err(BadFile::UnknownExtension));
    assert_eq!(value_of(&[0xC1]), Err(BadFile::NotMessagePack));
}

#[test]
fn a_change_that_is_not_one_is_refused() {
    let refused = |id, entity_type, fields| decoded(&file(id, entity_type, "1", fields)).unwrap_err();
    let one = || vec![("a", 1)];
    assert_eq!(refused("019b76da-a800-7000-8000-000000000002", "t", one()), BadFile::WrongId);
    assert_eq!(refused("019B76DA-A800-7000-8000-000000000001", "t", one()), BadFile::NotAnId);
    assert_eq!(refused("019b76da-a800-4000-8000-000000000001", "t", one()), BadFile::NotAnId);
    for reserved in ["ZV_CHANGE", "zv_metadata", "sqlite_schema", "SQLITE_x"] {
        assert_eq!(refused(ID, reserved, one()), BadFile::ReservedTable);
    }
    for impossible in ["", "a\0b"] {
        assert_eq!(refused(ID, impossible, one()), BadFile::BadTableName);
    }
    assert_eq!(refused(ID, "t", vec![]), BadFile::NoFields);
    assert_eq!(refused(ID, "t", vec![("a", 1), ("b", 2), ("a", 1)]), BadFile::DuplicateField);
    assert_eq!(refused(ID, "t", vec![("a", 1), ("B", 2), ("A", 1)]), BadFile::DuplicateField);
}

#[test]
fn fields_are_counted_before_they_are_read() {
    let mut bytes = rmp_serde::to_vec_named(&file(ID, "t", "1", Vec::<(&str, ())>::new())).unwrap();
    assert_eq!(bytes.pop(), Some(0x90));
    bytes.extend([0xDD, 0xFF, 0xFF, 0xFF, 0xFF]);
    assert_eq!(decode_change(id(), &bytes), Err(BadFile::TooManyFields));
}

#[test]
fn fields_come_out_by_name_and_names_keep_their_case() {
    let read = decoded(&file(ID, "t", "1", vec![("é", 1), ("b", 2), ("É", 3), ("A", 4)])).unwrap();
    let names: Vec<&str> = read.fields.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["A", "b", "É", "é"], "SQLite folds the case of ASCII alone");
    let mut shuffled = read.clone();
    shuffled.fields.reverse();
    assert_eq!(encode_change(&shuffled), encode_change(&read));
}

/// Writes a map by hand from keys and their encoded values.
fn map(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0x80 | pairs.len() as u8];
    for (key, value) in pairs {
        rmp::encode::write_str(&mut out, key).unwrap();
        out.extend_from_slice(value);
    }
    out
}

fn text(text: &str) -> Vec<u8> {
    rmp_serde::to_vec(text).unwrap()
}

#[test]
fn unknown_keys_are_passed_over_and_known_ones_come_once() {
    let texts = [text(ID), text("author"), text("t"), text("1")];
    let mut head: Vec<(&str, &[u8])> = CHANGE.into_iter().zip(texts.iter().map(Vec::as_slice)).collect();
    head.push(("merged", &[0]));
    let pair = map(&[("later", &[0x93, 1, 2, 0x81, 3, 4]), ("field_value", &[7]), ("field_name", &text("a"))]);
    let fields = [&[0x91][..], &pair].concat();
    let read = |head: &[(&str, &[u8])]| {
        let bytes = map(&[("unknown", &[0xCF; 9]), ("fields", &fields), ("change", &map(head))]);
        decode_change(id(), &bytes)
    };
    assert_eq!(read(&head).unwrap().fields, [field("a", Value::Integer(7))]);
    for at in 0..head.len() {
        let mut missing = head.clone();
        missing.remove(at);
        assert_eq!(read(&missing), Err(BadFile::Missing { part: CHANGE[at] }));
        let mut twice = head.clone();
        twice.push(head[at]);
        assert_eq!(read(&twice), Err(BadFile::DuplicateKey { part: CHANGE[at] }));
        let mut not_text = head.clone();
        not_text[at].1 = &[0xC4, 0];
        if at < 4 {
            assert_eq!(read(&not_text), Err(BadFile::WrongType { part: CHANGE[at] }));
            not_text[at].1 = &[0xA1, 0xFF];
            assert_eq!(read(&not_text), Err(BadFile::NotText { part: CHANGE[at] }));
        }
    }
    let deep = [vec![0x91; 200_000], vec![0xC0]].concat();
    head.push(("unknown", &deep));
    assert_eq!(read(&head), Err(BadFile::Nesting));
}

#[test]
fn arrays_of_another_length_are_refused() {
    for short in [&[0x90][..], &[0x91, 0x90], &[0x93, 0x90, 0x90, 0x90], &[0xA0], &[0xC0]] {
        assert_eq!(decode_change(id(), short), Err(BadFile::WrongType { part: "file" }), "{short:02x?}");
    }
    assert_eq!(decode_change(id(), &[0x92, 0x90, 0x90]), Err(BadFile::WrongType { part: "change" }));
    assert_eq!(decode_change(id(), &[]), Err(BadFile::Truncated));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (0_u32..64, any::<bool>()).prop_map(|(bits, less)| Value::Integer((1_i64 << bits).wrapping_sub(less.into()))),
        any::<u64>().prop_map(|bits| Value::real(f64::from_bits(bits))),
        ".{0,40}".prop_map(Value::text),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Blob),
    ]
}

fn any_fields() -> impl Strategy<Value = Vec<Field>> {
    prop::collection::vec((".{0,8}|[a-cA-C]{1,2}", any_value()), 1..24).prop_map(|pairs| {
        let mut fields: Vec<Field> = pairs.into_iter().map(|(name, value)| Field { name, value }).collect();
        fields.sort_by_key(|f| f.name.to_ascii_lowercase());
        fields.dedup_by_key(|f| f.name.to_ascii_lowercase());
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = "[^\\x00]{1,12}".prop_filter("reserved", |name| !is_reserved_table(name));
    (any::<[u8; 16]>(), ".{0,40}", name, ".{0,40}", any_fields()).prop_map(
        |(mut id, author, entity_type, entity_id, fields)| {
            id[6] = 0x70 | id[6] & 0x0F;
            id[8] = 0x80 | id[8] & 0x3F;
            let id = ChangeId::from_bytes(id).unwrap();
            Change { id, author: AuthorId::new(author), entity_type, entity_id, fields }
        },
    )
}

proptest! {
    #[test]
    fn any_change_comes_back(change in any_change()) {
        let bytes = encode_change(&change);
        prop_assert_eq!(decode_change(change.id, &bytes), Ok(change));
    }

    #[test]
    fn any_bytes_give_a_change_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_change(id(), &bytes);
    }

    #[test]
    fn a_spoilt_file_gives_a_change_or_an_error(
        change in any_change(),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_change(&change);
        for (at, byte) in spoilt {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = decode_change(change.id, &bytes) {
            prop_assert_eq!(decode_change(change.id, &encode_change(&read)), Ok(read));
        }
    }

    #[test]
    fn every_truncation_is_refused(change in any_change()) {
        let bytes = encode_change(&change);
        for end in 0..bytes.len() {
            prop_assert_eq!(decode_change(change.id, &bytes[..end]), Err(BadFile::Truncated));
        }
    }
}

#[test]
fn every_appended_byte_is_refused() {
    for byte in 0..=u8::MAX {
        let mut bytes = encode_change(&typical());
        bytes.push(byte);
        assert_eq!(decode_change(id(), &bytes), Err(BadFile::TrailingBytes));
    }
}
