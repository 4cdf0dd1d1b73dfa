//! The tracked tables as a merge needs them: columns by number, defaults, statements' text. Reads the schema; writes nothing.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::changelog::{Log, Tracked, list_tracked};
use crate::db::{Affinity, Ident, Table, constant_default, list, read_table, same_name};
use crate::error::Result;
use crate::model::{DELETED_COLUMN, KeyPart, Value, decode_entity_id};

/// What a field of a change is to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// The recorded column at this place of `MergeTable::columns`, with its number.
    Column(u32),
    /// The reserved field.
    Deleted,
    /// Part of the key, which travels in the entity id: ignored.
    Key,
    /// A column that this replica leaves alone: its register is kept.
    Excluded(u32),
    /// A column that the table does not have: its register is kept until it does.
    Unknown(u32),
}

/// A column that merges write.
#[derive(Debug, Clone)]
pub(super) struct MergeColumn {
    pub(super) no: u32,
    pub(super) name: String,
    pub(super) default: Value,
}

/// A tracked table.
#[derive(Debug)]
pub(super) struct MergeTable {
    pub(super) tracked: Tracked,
    pub(super) shape: Table,
    pub(super) columns: Vec<MergeColumn>,
    /// Whether triggers of the user's run when it is written.
    pub(super) has_triggers: bool,
    excluded: Vec<u32>,
    fields: HashMap<String, FieldKind>,
    pub(super) insert_sql: String,
    pub(super) delete_sql: String,
    pub(super) select_sql: String,
}

impl MergeTable {
    fn new(log: &mut Log<'_>, tracked: Tracked, shape: Table, has_triggers: bool) -> Result<Self> {
        let mut columns = Vec::new();
        for name in &tracked.source.columns {
            if let Some(column) = shape.column(name) {
                let no = log.names.number(log.conn, name)?;
                columns.push(MergeColumn {
                    no,
                    name: column.name.clone(),
                    default: constant_default(log.conn, column)?,
                });
            }
        }
        let names: Vec<&str> =
            shape.key_columns().map(|c| c.name.as_str()).chain(columns.iter().map(|c| c.name.as_str())).collect();
        let table = Ident(&shape.name);
        let all = list(names.iter().map(|name| Ident(name)));
        let insert_sql =
            format!("INSERT INTO {table} ({all}) VALUES ({})", list((1..=names.len()).map(|n| format!("?{n}"))));
        let delete_sql = format!("DELETE FROM {table} WHERE {}", shape.key_condition(1));
        let select_sql = format!("SELECT {all} FROM {table} WHERE {}", shape.key_condition(1));
        let excluded: Result<Vec<u32>> = tracked.excluded.iter().map(|name| log.names.number(log.conn, name)).collect();
        let (excluded, fields) = (excluded?, HashMap::new());
        Ok(Self { tracked, columns, has_triggers, excluded, fields, insert_sql, delete_sql, select_sql, shape })
    }

    pub(super) fn no(&self) -> u32 {
        self.tracked.table_no()
    }

    /// What a field's name means here; remembered by the spelling.
    pub(super) fn field(&mut self, log: &mut Log<'_>, name: &str) -> Result<FieldKind> {
        if let Some(kind) = self.fields.get(name) {
            return Ok(*kind);
        }
        let no = log.names.number(log.conn, name)?;
        let kind = if no == DELETED_COLUMN {
            FieldKind::Deleted
        } else if self.columns.iter().any(|column| column.no == no) {
            FieldKind::Column(no)
        } else if self.shape.key_columns().any(|column| same_name(&column.name, name)) {
            FieldKind::Key
        } else if self.tracked.excluded.iter().any(|excluded| same_name(excluded, name)) {
            FieldKind::Excluded(no)
        } else {
            FieldKind::Unknown(no)
        };
        self.fields.insert(name.to_owned(), kind);
        Ok(kind)
    }

    /// Whether the table has a column, be it one that is left alone here.
    pub(super) fn has_column(&self, no: u32) -> bool {
        self.columns.iter().any(|column| column.no == no) || self.excluded.contains(&no)
    }

    /// The key of an entity as values; `None` if the entity id is not one of this table's, or its columns would turn it
    /// into another's.
    pub(super) fn key(&self, entity_id: &str) -> Option<Vec<Value>> {
        let source = &self.tracked.source;
        let key = decode_entity_id(source.kind, source.key.len(), entity_id)?;
        let kept = key.iter().zip(self.shape.key_columns()).all(|(part, column)| keeps(column.affinity, part));
        kept.then(|| key.into_iter().map(KeyPart::into_value).collect())
    }

    /// `UPDATE` of some columns: their values come first, then the key.
    pub(super) fn update_sql(&self, columns: &[(usize, &Value)]) -> String {
        let sets =
            columns.iter().enumerate().map(|(n, (at, _))| format!("{} = ?{}", Ident(&self.columns[*at].name), n + 1));
        let condition = self.shape.key_condition(columns.len() + 1);
        format!("UPDATE {} SET {} WHERE {condition}", Ident(&self.shape.name), list(sets))
    }
}

/// Whether a column stores a key's part as it is: text columns turn numbers into text, number columns turn text that
/// looks like a number into one (<https://sqlite.org/datatype3.html>, section 3).
fn keeps(affinity: Affinity, part: &KeyPart) -> bool {
    match (affinity, part) {
        (Affinity::Text, KeyPart::Integer(_)) => false,
        (Affinity::Numeric | Affinity::Integer | Affinity::Real, KeyPart::Text(text)) => {
            // Rust reads words such as `inf` and `nan` as numbers too; SQLite does not.
            let text = text.trim_ascii();
            text.contains(|c: char| c.is_ascii_alphabetic() && !c.eq_ignore_ascii_case(&'e'))
                || text.parse::<f64>().is_err()
        }
        _ => true,
    }
}

/// The tables that can be merged into now: tracked, active and there.
#[derive(Debug)]
pub(super) struct Tables {
    by_no: HashMap<u32, MergeTable>,
}

impl Tables {
    pub(super) fn load(log: &mut Log<'_>) -> Result<Self> {
        let (mut by_no, triggered) = (HashMap::new(), triggered(log.conn)?);
        for tracked in list_tracked(log.conn)?.into_iter().filter(Tracked::is_live) {
            if let Some(shape) = read_table(log.conn, tracked.name())? {
                let has_triggers = triggered.iter().any(|name| same_name(name, &shape.name));
                by_no.insert(tracked.table_no(), MergeTable::new(log, tracked, shape, has_triggers)?);
            }
        }
        Ok(Self { by_no })
    }

    pub(super) fn get(&self, no: u32) -> Option<&MergeTable> {
        self.by_no.get(&no)
    }

    pub(super) fn get_mut(&mut self, no: u32) -> Option<&mut MergeTable> {
        self.by_no.get_mut(&no)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MergeTable> {
        self.by_no.values()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&MergeTable> {
        self.by_no.values().find(|table| same_name(&table.shape.name, name))
    }

    /// Whether a trigger of the user's would run when a merge writes one of these tables.
    pub(super) fn have_user_triggers(&self) -> bool {
        self.iter().any(|table| table.has_triggers)
    }
}

/// The tables on which the user has triggers.
fn triggered(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name NOT GLOB 'ZV_*' \
               UNION SELECT tbl_name FROM sqlite_temp_schema WHERE type = 'trigger'";
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}
