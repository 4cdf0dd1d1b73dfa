//! A change as MessagePack, as `changes/{id}.msgpack` and the records of a pack hold it. Owns both directions; `docs/format.md` is the law.
//! Pure: no I/O, and nothing of a table but its name.

use std::cmp::Ordering;
use std::convert::Infallible;

use rmp::encode::{self, ByteBuf, ValueWriteError};

use super::BadFile;
use super::reader::{Item, Reader};
use crate::model::{AuthorId, Change, ChangeId, Field, Value, is_reserved_table};

/// The extension type of TEXT that is not UTF-8.
const EXT_TEXT: i8 = 1;

/// As many columns as SQLite can be built for, and the two reserved fields.
const MAX_FIELDS: u32 = 32_767 + 2;

const FILE: [&str; 2] = ["change", "fields"];
const CHANGE: [&str; 5] = ["id", "author_id", "entity_type", "entity_id", "merged"];
const FIELD: [&str; 2] = ["field_name", "field_value"];

/// The bytes of a change: always the same for the same change.
pub(crate) fn encode_change(change: &Change) -> Vec<u8> {
    let mut out = ByteBuf::with_capacity(change.size());
    put_map(&mut out, &FILE);
    put_key(&mut out, FILE[0]);
    put_head(&mut out, change);
    put_key(&mut out, FILE[1]);
    put_fields(&mut out, &change.fields);
    out.into_vec()
}

fn put_head(out: &mut ByteBuf, change: &Change) {
    put_map(out, &CHANGE);
    let id = change.id.to_string();
    let parts = [&id, change.author.as_str(), &change.entity_type, &change.entity_id];
    for (key, part) in CHANGE.iter().zip(parts) {
        put_key(out, key);
        written(encode::write_str(out, part));
    }
    put_key(out, CHANGE[4]);
    written(encode::write_bool(out, false).map_err(ValueWriteError::InvalidDataWrite));
}

fn put_fields(out: &mut ByteBuf, fields: &[Field]) {
    written(encode::write_array_len(out, len32(fields.len())));
    if fields.is_sorted_by(|a, b| a.name <= b.name) {
        fields.iter().for_each(|field| put_field(out, field));
    } else {
        let mut sorted: Vec<&Field> = fields.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.iter().for_each(|field| put_field(out, field));
    }
}

fn put_field(out: &mut ByteBuf, field: &Field) {
    put_map(out, &FIELD);
    put_key(out, FIELD[0]);
    written(encode::write_str(out, &field.name));
    put_key(out, FIELD[1]);
    put_value(out, &field.value);
}

fn put_value(out: &mut ByteBuf, value: &Value) {
    match value {
        Value::Null => written(encode::write_nil(out).map_err(ValueWriteError::InvalidDataWrite)),
        Value::Integer(n) => written(encode::write_sint(out, *n)),
        Value::Real(number) => written(encode::write_f64(out, *number)),
        Value::Blob(blob) => written(encode::write_bin(out, blob)),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => written(encode::write_str(out, text)),
            Err(_) => {
                written(encode::write_ext_meta(out, len32(text.len()), EXT_TEXT));
                out.as_mut_vec().extend_from_slice(text);
            }
        },
    }
}

fn put_map(out: &mut ByteBuf, keys: &[&str]) {
    written(encode::write_map_len(out, len32(keys.len())));
}

fn put_key(out: &mut ByteBuf, key: &str) {
    written(encode::write_str(out, key));
}

/// Writing to memory has no error.
fn written<T>(result: Result<T, ValueWriteError<Infallible>>) {
    let Ok(_) = result;
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("SQLite holds no value, and no row, of 2 GiB")
}

/// Reads the change that a file named `expected` holds.
pub(crate) fn decode_change(expected: ChangeId, bytes: &[u8]) -> Result<Change, BadFile> {
    let mut reader = Reader::new(bytes);
    let (mut head, mut fields) = (Head::default(), Vec::new());
    read_parts(&mut reader, "file", FILE, |reader, part| {
        match part {
            0 => head = read_head(reader)?,
            _ => fields = read_fields(reader)?,
        }
        Ok(())
    })?;
    reader.finish()?;
    Ok(Change {
        id: read_id(head.id, expected)?,
        author: AuthorId::new(head.author),
        entity_type: read_entity_type(head.entity_type)?,
        entity_id: head.entity_id.to_owned(),
        fields,
    })
}

/// The parts of `change` that a reader uses.
#[derive(Default)]
struct Head<'a> {
    id: &'a str,
    author: &'a str,
    entity_type: &'a str,
    entity_id: &'a str,
}

fn read_head<'a>(reader: &mut Reader<'a>) -> Result<Head<'a>, BadFile> {
    let mut head = Head::default();
    read_parts(reader, FILE[0], CHANGE, |reader, part| {
        match part {
            0 => head.id = reader.text(CHANGE[0])?,
            1 => head.author = reader.text(CHANGE[1])?,
            2 => head.entity_type = reader.text(CHANGE[2])?,
            3 => head.entity_id = reader.text(CHANGE[3])?,
            // Whether the writer had merged it says nothing to a reader.
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(head)
}

fn read_id(id: &str, expected: ChangeId) -> Result<ChangeId, BadFile> {
    let id: ChangeId = id.parse().map_err(|_| BadFile::NotAnId)?;
    if id == expected { Ok(id) } else { Err(BadFile::WrongId) }
}

fn read_entity_type(name: &str) -> Result<String, BadFile> {
    if name.is_empty() || name.contains('\0') {
        return Err(BadFile::BadTableName);
    }
    if is_reserved_table(name) { Err(BadFile::ReservedTable) } else { Ok(name.to_owned()) }
}

fn read_fields(reader: &mut Reader<'_>) -> Result<Vec<Field>, BadFile> {
    let count = match reader.item()? {
        Item::Array(0) => return Err(BadFile::NoFields),
        Item::Array(n) if n > MAX_FIELDS => return Err(BadFile::TooManyFields),
        Item::Array(n) => n,
        _ => return Err(BadFile::WrongType { part: FILE[1] }),
    };
    let mut fields = Vec::with_capacity(count.min(16) as usize);
    for _ in 0..count {
        fields.push(read_field(reader)?);
    }
    sorted(fields)
}

fn read_field(reader: &mut Reader<'_>) -> Result<Field, BadFile> {
    let (mut name, mut value) = ("", Value::Null);
    read_parts(reader, "field", FIELD, |reader, part| {
        match part {
            0 => name = reader.text(FIELD[0])?,
            _ => value = read_value(reader)?,
        }
        Ok(())
    })?;
    Ok(Field { name: name.to_owned(), value })
}

fn read_value(reader: &mut Reader<'_>) -> Result<Value, BadFile> {
    Ok(match reader.item()? {
        Item::Nil => Value::Null,
        Item::Bool(truth) => Value::Integer(truth.into()),
        Item::Integer(n) => Value::Integer(n),
        Item::HugeInteger => return Err(BadFile::IntegerRange),
        Item::Real(number) => Value::real(number),
        Item::Str(text) | Item::Ext(EXT_TEXT, text) => Value::Text(text.to_vec()),
        Item::Bin(blob) => Value::Blob(blob.to_vec()),
        Item::Ext(..) => return Err(BadFile::UnknownExtension),
        Item::Array(_) | Item::Map(_) => return Err(BadFile::Nesting),
    })
}

/// The fields by name, unless two names are the same to SQLite.
fn sorted(mut fields: Vec<Field>) -> Result<Vec<Field>, BadFile> {
    fields.sort_by(|a, b| cmp_ignoring_case(&a.name, &b.name));
    if fields.windows(2).any(|pair| pair[0].name.eq_ignore_ascii_case(&pair[1].name)) {
        return Err(BadFile::DuplicateField);
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fields)
}

fn cmp_ignoring_case(a: &str, b: &str) -> Ordering {
    let [a, b] = [a, b].map(|name| name.bytes().map(|byte| byte.to_ascii_lowercase()));
    a.cmp(b)
}

/// Reads a record's parts, each exactly once: named, as a map that may hold other keys too, or in order, as an array.
fn read_parts<'a, const N: usize>(
    reader: &mut Reader<'a>,
    record: &'static str,
    names: [&'static str; N],
    mut read: impl FnMut(&mut Reader<'a>, usize) -> Result<(), BadFile>,
) -> Result<(), BadFile> {
    match reader.item()? {
        Item::Array(n) if n as usize == N => (0..N).try_for_each(|part| read(reader, part)),
        Item::Map(pairs) => {
            let mut seen = [false; N];
            for _ in 0..pairs {
                match read_key(reader, &names)? {
                    Some(part) if seen[part] => return Err(BadFile::DuplicateKey { part: names[part] }),
                    Some(part) => {
                        seen[part] = true;
                        read(reader, part)?;
                    }
                    None => reader.skip()?,
                }
            }
            seen.iter().position(|seen| !seen).map_or(Ok(()), |at| Err(BadFile::Missing { part: names[at] }))
        }
        _ => Err(BadFile::WrongType { part: record }),
    }
}

/// Which of the names a map's next key is; a key of any other kind is as unknown as another name.
fn read_key(reader: &mut Reader<'_>, names: &[&str]) -> Result<Option<usize>, BadFile> {
    let key = reader.item()?;
    match key {
        Item::Str(key) => Ok(names.iter().position(|name| name.as_bytes() == key)),
        other => reader.skip_rest_of(other).map(|()| None),
    }
}

#[cfg(test)]
mod tests;
