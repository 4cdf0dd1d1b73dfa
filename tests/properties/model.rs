//! The naive model: every change file of a remote, read by a reader of its own and folded column by column in the order of ids.

use std::collections::BTreeMap;

/// A value, to the bit.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    #[default]
    Null,
    Integer(i64),
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    pub fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

/// A change as its file says it.
#[derive(Debug)]
pub struct ChangeFile {
    pub id: String,
    pub table: String,
    pub row: String,
    pub fields: Vec<(String, Cell)>,
}

/// What MessagePack can say, as far as change files use it.
#[derive(Debug)]
enum Item {
    Value(Cell),
    Bool,
    List(Vec<Item>),
    Map(Vec<(String, Item)>),
}

impl ChangeFile {
    pub fn read(mut bytes: &[u8]) -> Self {
        let mut file = item(&mut bytes).map();
        assert!(bytes.is_empty(), "trailing bytes");
        let mut change = file.remove("change").expect("the head").map();
        let mut part = |name: &str| change.remove(name).expect("a part of the head").text();
        let fields = file.remove("fields").expect("the fields").list().into_iter().map(|field| {
            let mut field = field.map();
            let name = field.remove("field_name").expect("a name").text();
            match field.remove("field_value") {
                Some(Item::Value(value)) => (name, value),
                other => panic!("a field's value is {other:?}"),
            }
        });
        Self { id: part("id"), table: part("entity_type"), row: part("entity_id"), fields: fields.collect() }
    }
}

impl Item {
    fn map(self) -> BTreeMap<String, Item> {
        match self {
            Self::Map(entries) => entries.into_iter().collect(),
            other => panic!("no map: {other:?}"),
        }
    }

    fn list(self) -> Vec<Item> {
        match self {
            Self::List(items) => items,
            other => panic!("no list: {other:?}"),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Value(Cell::Text(text)) => String::from_utf8(text).expect("a name is UTF-8"),
            other => panic!("no text: {other:?}"),
        }
    }
}

fn item(bytes: &mut &[u8]) -> Item {
    let tag = take(bytes, 1)[0];
    match tag {
        0xC0 => Item::Value(Cell::Null),
        0xC2 | 0xC3 => Item::Bool,
        0x00..=0x7F | 0xE0..=0xFF => Item::Value(Cell::Integer(i64::from(tag as i8))),
        0xCC..=0xCF => {
            let n = number(bytes, 1 << (tag - 0xCC));
            Item::Value(Cell::Integer(i64::try_from(n).expect("an integer of SQLite's")))
        }
        0xD0..=0xD3 => {
            let size = 1 << (tag - 0xD0);
            let unused = 64 - 8 * size as u32;
            Item::Value(Cell::Integer((number(bytes, size) as i64) << unused >> unused))
        }
        0xCB => Item::Value(Cell::Real(number(bytes, 8))),
        0xA0..=0xBF => text(bytes, usize::from(tag & 0x1F)),
        0xD9..=0xDB => {
            let size = length(bytes, 1 << (tag - 0xD9));
            text(bytes, size)
        }
        0xC4..=0xC6 => {
            let size = length(bytes, 1 << (tag - 0xC4));
            Item::Value(Cell::Blob(take(bytes, size).to_vec()))
        }
        0xC7..=0xC9 => {
            let size = length(bytes, 1 << (tag - 0xC7));
            extension(bytes, size)
        }
        0xD4..=0xD8 => extension(bytes, 1 << (tag - 0xD4)),
        0x90..=0x9F => list(bytes, usize::from(tag & 0xF)),
        0xDC | 0xDD => {
            let size = length(bytes, 2 << (tag - 0xDC));
            list(bytes, size)
        }
        0x80..=0x8F => {
            let entries = (0..tag & 0xF).map(|_| (item(bytes).text(), item(bytes)));
            Item::Map(entries.collect())
        }
        _ => panic!("the tag {tag:x} has no place in a change file"),
    }
}

fn take<'b>(bytes: &mut &'b [u8], size: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(size);
    *bytes = rest;
    taken
}

fn number(bytes: &mut &[u8], size: usize) -> u64 {
    take(bytes, size).iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn length(bytes: &mut &[u8], size: usize) -> usize {
    usize::try_from(number(bytes, size)).expect("a length")
}

fn text(bytes: &mut &[u8], size: usize) -> Item {
    Item::Value(Cell::Text(take(bytes, size).to_vec()))
}

/// Extension type 1 is text that is not UTF-8.
fn extension(bytes: &mut &[u8], size: usize) -> Item {
    assert_eq!(take(bytes, 1), [1], "the only extension type");
    text(bytes, size)
}

fn list(bytes: &mut &[u8], size: usize) -> Item {
    Item::List((0..size).map(|_| item(bytes)).collect())
}

/// A row's columns, each with the id of its newest write.
type Columns = BTreeMap<String, (String, Cell)>;

/// The newest write of every column of every row.
#[derive(Debug, Default)]
pub struct Model {
    rows: BTreeMap<String, BTreeMap<String, Columns>>,
}

impl Model {
    pub fn fold(files: impl IntoIterator<Item = ChangeFile>) -> Self {
        let mut model = Self::default();
        for file in files {
            let table = model.rows.entry(file.table.to_ascii_lowercase()).or_default();
            let row = table.entry(file.row).or_default();
            for (name, value) in file.fields {
                let newest = row.entry(name.to_ascii_lowercase()).or_default();
                if newest.0 < file.id {
                    *newest = (file.id.clone(), value);
                }
            }
        }
        model
    }

    /// The rows that a table is to show, by entity id; every column was written when its row was made.
    pub fn shown(&self, table: &str, columns: &[&str]) -> BTreeMap<String, Vec<Cell>> {
        let rows = self.rows.get(table).into_iter().flatten().filter(|(_, row)| is_alive(row));
        let value = |row: &Columns, name: &str| row.get(name).map_or(Cell::Null, |(_, value)| value.clone());
        rows.map(|(id, row)| (id.clone(), columns.iter().map(|name| value(row, name)).collect())).collect()
    }
}

/// A row lives while its newest write is not a delete.
fn is_alive(row: &Columns) -> bool {
    let newest = row.iter().max_by_key(|(_, (id, _))| id);
    newest.is_some_and(|(name, (_, value))| name != "zv_deleted" || *value == Cell::Integer(0))
}
