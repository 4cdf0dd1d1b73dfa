//! Table and column names by number, so that registers are small. Case is folded here, as SQLite folds it: ASCII alone.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use crate::error::{Error, Result};

/// A name as SQLite compares it.
pub(crate) fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// The numbers of the names met during one transaction.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: HashMap<String, u32>,
    by_number: HashMap<u32, Arc<str>>,
}

impl Names {
    /// The number of a name, given now if it has none.
    pub(crate) fn number(&mut self, conn: &Connection, name: &str) -> Result<u32> {
        if let Some(no) = self.by_name.get(name) {
            return Ok(*no);
        }
        let folded = lower(name);
        let no = match Self::find(conn, &folded)? {
            Some(no) => no,
            None => conn
                .prepare_cached("INSERT INTO ZV_NAME (name) VALUES (?1) RETURNING no")?
                .query_row([&folded], |row| row.get(0))?,
        };
        self.by_name.insert(name.to_owned(), no);
        Ok(no)
    }

    /// The number of a name, if it has one.
    pub(crate) fn find(conn: &Connection, name: &str) -> Result<Option<u32>> {
        let mut statement = conn.prepare_cached("SELECT no FROM ZV_NAME WHERE name = ?1")?;
        Ok(statement.query_row([lower(name)], |row| row.get(0)).optional()?)
    }

    /// The name of a number, in lower case.
    pub(crate) fn name(&mut self, conn: &Connection, no: u32) -> Result<Arc<str>> {
        if let Some(name) = self.by_number.get(&no) {
            return Ok(name.clone());
        }
        let mut statement = conn.prepare_cached("SELECT name FROM ZV_NAME WHERE no = ?1")?;
        let name: Option<String> = statement.query_row([no], |row| row.get(0)).optional()?;
        let name: Arc<str> = name.ok_or_else(|| Error::corrupt(format!("ZV_NAME lacks the number {no}")))?.into();
        self.by_number.insert(no, name.clone());
        Ok(name)
    }
}
