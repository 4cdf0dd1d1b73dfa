//! Which columns refer to rows by local integer keys: found in the schema, recorded in `ZV_REFERENCE`. Translates nothing.

use std::rc::Rc;

use rusqlite::Connection;

use crate::changelog::{Log, Tracked, list_tracked, lower};
use crate::db::{Shapes, Table, same_name};
use crate::error::Result;

/// The tracked tables that exist, with their shapes.
pub(crate) struct Catalog {
    tables: Vec<(Tracked, Rc<Table>)>,
}

/// How many columns are followed from table to table; nobody's hand nests foreign keys so far.
const MOST: usize = 256;

impl Catalog {
    pub(crate) fn load(conn: &Connection, shapes: &mut Shapes) -> Result<Self> {
        let mut tables = Vec::new();
        for tracked in list_tracked(conn)? {
            if let Some(shape) = shapes.read(conn, tracked.name())? {
                tables.push((tracked, shape));
            }
        }
        Ok(Self { tables })
    }

    /// The tables, with their shapes.
    pub(super) fn tables(&self) -> impl Iterator<Item = &(Tracked, Rc<Table>)> {
        self.tables.iter()
    }

    /// Whether a table is tracked.
    pub(super) fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|(_, shape)| same_name(&shape.name, table))
    }

    /// The table whose local integer key a column holds: by a foreign key of its own, or by one to a column that holds such
    /// a key itself.
    pub(crate) fn target(&self, table: &Table, column: &str) -> Option<u32> {
        self.follow(table, column, &mut Vec::new())
    }

    /// Looks at each column once, as references may go in circles and meet again.
    fn follow<'a>(&'a self, table: &'a Table, column: &str, seen: &mut Vec<(&'a str, String)>) -> Option<u32> {
        let is_seen = |(table_seen, column_seen): &(&str, String)| {
            same_name(table_seen, &table.name) && same_name(column_seen, column)
        };
        if seen.len() == MOST || seen.iter().any(is_seen) {
            return None;
        }
        seen.push((&table.name, column.to_owned()));
        table.foreign_keys.iter().find_map(|key| {
            let at = key.columns.iter().position(|name| same_name(name, column))?;
            let (tracked, parent) = self.tables.iter().find(|(_, shape)| same_name(&shape.name, &key.parent))?;
            let referred = match key.parent_columns.get(at) {
                Some(name) => name.as_str(),
                None => parent.columns[*parent.key.get(at)?].name.as_str(),
            };
            let is_local = tracked.source.local.as_deref().is_some_and(|local| same_name(local, referred));
            if is_local { Some(tracked.table_no()) } else { self.follow(parent, referred, seen) }
        })
    }
}

/// Records the references of every tracked table that exists; those of tables that are gone stay as they were.
pub(crate) fn record_references(log: &mut Log<'_>) -> Result<()> {
    let conn = log.conn;
    let catalog = Catalog::load(conn, &mut log.shapes)?;
    for (tracked, shape) in &catalog.tables {
        let table_no = tracked.table_no();
        conn.prepare_cached("DELETE FROM ZV_REFERENCE WHERE table_no = ?1")?.execute([table_no])?;
        for column in &shape.columns {
            let is_own_local = tracked.source.local.as_deref().is_some_and(|local| same_name(local, &column.name));
            if let Some(parent_no) = catalog.target(shape, &column.name).filter(|_| !is_own_local) {
                let column_no = log.names.number(conn, &lower(&column.name))?;
                let sql = "INSERT INTO ZV_REFERENCE (table_no, column_no, parent_no) VALUES (?1, ?2, ?3)";
                conn.prepare_cached(sql)?.execute((table_no, column_no, parent_no))?;
            }
        }
    }
    Ok(())
}
