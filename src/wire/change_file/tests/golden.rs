//! The golden files of format 1: what this program writes is these bytes, and what others may write reads as these changes.

use std::fs;
use std::path::PathBuf;

use super::*;

/// How a golden file came to be.
enum Form {
    /// As this program writes it.
    Ours,
    /// As another program may write it.
    Theirs(Vec<u8>),
}

fn golden_id(n: u32) -> String {
    format!("019b76da-a8{n:02x}-7000-8000-0123456789ab")
}

fn ours(n: u32, entity_type: &str, entity_id: &str, fields: Vec<Field>) -> (Change, Form) {
    (change(&golden_id(n), entity_type, entity_id, fields), Form::Ours)
}

fn every_class_of_value() -> Vec<Field> {
    let integers = [0, 1, -1, 127, 128, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, i64::MAX];
    let negatives = [-32, -33, -128, -129, -32_768, -32_769, -2_147_483_648, -2_147_483_649, i64::MIN];
    let reals = [0.0, -0.0, 1.0, 0.1, -1.5e300, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
    let texts = ["", "plain", "a\0b", "zvon \u{1F514} звон", &"long ".repeat(60), &"x".repeat(32)];
    let broken: [&[u8]; 4] = [b"\xFF", b"ab\xFE", b"\xC0\xC0\xC0\xC0\xC0", &[0x80; 300]];
    let blobs: [&[u8]; 6] = [b"", b"\xC0", b"\xC0\xC0", b"\xC0\x01", b"text", &[7; 300]];
    let mut fields = vec![field("null", Value::Null)];
    let mut add = |name: &str, values: Vec<Value>| {
        fields.extend(values.into_iter().enumerate().map(|(n, value)| field(&format!("{name}_{n:02}"), value)));
    };
    add("integer", integers.into_iter().chain(negatives).map(Value::Integer).collect());
    add("real", reals.into_iter().map(Value::Real).collect());
    add("text", texts.into_iter().map(Value::text).collect());
    add("broken_text", broken.into_iter().map(|bytes| Value::Text(bytes.to_vec())).collect());
    add("blob", blobs.into_iter().map(|bytes| Value::Blob(bytes.to_vec())).collect());
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    fields
}

fn theirs(n: u32, fields: Vec<Field>, bytes: Vec<u8>) -> (Change, Form) {
    let mut read = change(&golden_id(n), "foreign", &n.to_string(), fields);
    read.author = AuthorId::new("author");
    (read, Form::Theirs(bytes))
}

fn as_arrays() -> (Change, Form) {
    let id = golden_id(0x20);
    let bytes = rmp_serde::to_vec(&file(&id, "foreign", "32", vec![("b", 2.5), ("a", 1.0)])).unwrap();
    theirs(0x20, vec![field("a", Value::Real(1.0)), field("b", Value::Real(2.5))], bytes)
}

fn as_maps_with_booleans() -> (Change, Form) {
    let id = golden_id(0x21);
    let bytes = rmp_serde::to_vec_named(&file(&id, "foreign", "33", vec![("no", false), ("yes", true)])).unwrap();
    theirs(0x21, vec![field("no", Value::Integer(0)), field("yes", Value::Integer(1))], bytes)
}

fn with_short_reals() -> (Change, Form) {
    let id = golden_id(0x22);
    let reals = vec![("half", 0.5_f32), ("nan", f32::NAN)];
    let bytes = rmp_serde::to_vec_named(&file(&id, "foreign", "34", reals)).unwrap();
    theirs(0x22, vec![field("half", Value::Real(0.5)), field("nan", Value::Null)], bytes)
}

/// The longest form of every head, unknown keys, keys and fields in an unusual order.
fn at_its_most_unusual() -> (Change, Form) {
    let str32 = |text: &str| [&[0xDB][..], &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
    let map32 = |pairs: &[(&str, Vec<u8>)]| {
        let pairs_bytes = pairs.iter().flat_map(|(key, value)| [str32(key), value.clone()].concat());
        [&[0xDF][..], &(pairs.len() as u32).to_be_bytes(), &pairs_bytes.collect::<Vec<_>>()].concat()
    };
    let pair = |name: &str, value: Vec<u8>| map32(&[("field_value", value), ("field_name", str32(name))]);
    let values = [
        pair("one", vec![0xD3, 0, 0, 0, 0, 0, 0, 0, 1]),
        pair("bytes", vec![0xC6, 0, 0, 0, 1, 9]),
        pair("broken", vec![0xC9, 0, 0, 0, 1, 1, 0xFF]),
        pair("Three", vec![0xCF, 0, 0, 0, 0, 0, 0, 0, 3]),
    ];
    let head = map32(&[
        ("merged", vec![1]),
        ("entity_id", str32("35")),
        ("entity_type", str32("foreign")),
        ("comment", vec![0x92, 0x81, 1, 2, 0xD6, 0xFF, 0, 0, 0, 0]),
        ("author_id", str32("author")),
        ("id", str32(&golden_id(0x23))),
    ]);
    let fields = [&[0xDD, 0, 0, 0, values.len() as u8][..], &values.concat()].concat();
    let read = vec![
        field("Three", Value::Integer(3)),
        field("broken", Value::Text(vec![0xFF])),
        field("bytes", Value::Blob(vec![9])),
        field("one", Value::Integer(1)),
    ];
    theirs(0x23, read, map32(&[("fields", fields), ("version", vec![0xC0]), ("change", head)]))
}

fn golden() -> Vec<(Change, Form)> {
    let title = |text: &str| field("title", Value::text(text));
    let deleted = |n| field("zv_deleted", Value::Integer(n));
    let backfill = "00000000-0007-7000-8000-ba9876543210";
    vec![
        (change(backfill, "album", "1", vec![field("artist_id", Value::Integer(1)), title("older")]), Form::Ours),
        ours(0x01, "all_values", "v", every_class_of_value()),
        ours(0x02, "ALBUM", "1", vec![field("Title", Value::text("newer, spelt in another case"))]),
        ours(0x03, "album", "2", vec![title("deleted")]),
        ours(0x04, "album", "2", vec![deleted(1)]),
        ours(0x05, "album", "3", vec![field("artist_id", Value::Integer(3)), title("brought back")]),
        ours(0x06, "album", "3", vec![deleted(1)]),
        ours(0x07, "album", "3", vec![field("artist_id", Value::Integer(33))]),
        ours(0x08, "order_line", "order-7/#3", vec![field("quantity", Value::Integer(2))]),
        ours(0x09, "order_line", "a~0b~1c~2d/#-9223372036854775808/#x00ff", vec![deleted(0)]),
        ours(0x0A, "text_key", "a/b#c~d", vec![deleted(0)]),
        ours(0x0B, "note", &golden_id(0x0B), vec![field("body", Value::Null), field("zv_rowid", Value::Integer(7))]),
        as_arrays(),
        as_maps_with_booleans(),
        with_short_reals(),
        at_its_most_unusual(),
    ]
}

fn path(id: ChangeId) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/v1/changes");
    PathBuf::from(folder).join(format!("{id}.msgpack"))
}

fn written(change: &Change, form: &Form) -> Vec<u8> {
    match form {
        Form::Ours => encode_change(change),
        Form::Theirs(bytes) => bytes.clone(),
    }
}

/// With `ZVON_WRITE_GOLDEN` set, a new form gets its file. One that is there is never written again: it is what the format was.
fn write_new_files() {
    for (change, form) in golden().iter().filter(|(change, _)| !path(change.id).exists()) {
        fs::write(path(change.id), written(change, form)).unwrap();
    }
}

#[test]
fn what_is_written_is_the_golden_bytes() {
    if std::env::var_os("ZVON_WRITE_GOLDEN").is_some() {
        write_new_files();
    }
    for (change, form) in golden() {
        assert_eq!(written(&change, &form), fs::read(path(change.id)).unwrap(), "{}", change.id);
    }
}

#[test]
fn the_golden_files_read_as_their_changes() {
    for (change, _) in golden() {
        assert_eq!(decode_change(change.id, &fs::read(path(change.id)).unwrap()), Ok(change));
    }
}

#[test]
fn the_bad_files_among_the_golden_ones_are_refused() {
    let reasons = [BadFile::Truncated, BadFile::WrongId, BadFile::TrailingBytes, BadFile::ReservedTable];
    for (n, reason) in (0xF0..).zip(reasons) {
        let id = golden_id(n).parse().unwrap();
        assert_eq!(decode_change(id, &fs::read(path(id)).unwrap()), Err(reason), "{id}");
    }
}
