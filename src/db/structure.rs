//! Our own tables against what the schema files make of an empty database: what lacks, and making it again.

use rusqlite::Connection;

use super::open::run_schema_files;
use super::{Ident, list};
use crate::error::Result;

/// The tables that hold what nothing else says.
const LOG: [&str; 2] = ["ZV_CHANGE", "ZV_CHANGE_FIELD"];

/// Something of ours that is not there, or not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lack {
    /// A table that is missing, or that something else has the name of.
    Table(String),
    /// A table without all of its columns.
    Columns(String),
    /// An index that is missing or another.
    Index { name: String, table: String },
}

impl Lack {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Table(name) | Self::Columns(name) | Self::Index { name, .. } => name,
        }
    }

    /// Whether it takes changes or their values with it, which no other table has.
    pub(crate) fn is_of_the_log(&self) -> bool {
        !matches!(self, Self::Index { .. }) && LOG.contains(&self.name())
    }
}

/// A row of `sqlite_schema`.
struct Part {
    is_table: bool,
    name: String,
    table: String,
    sql: String,
}

/// The names of our tables and their indexes.
pub(super) fn own_names() -> Result<Vec<String>> {
    Ok(parts(&scratch()?)?.into_iter().map(|part| part.name).collect())
}

/// What of ours lacks in a database that was made a replica, tables first.
pub(crate) fn lacking(conn: &Connection) -> Result<Vec<Lack>> {
    let scratch = scratch()?;
    let mut lacking = Vec::new();
    for part in parts(&scratch)? {
        let found = find(conn, &part.name)?;
        if !part.is_table {
            if found != Some(("index".to_owned(), part.sql)) {
                lacking.push(Lack::Index { name: part.name, table: part.table });
            }
        } else if found.is_none_or(|(kind, _)| kind != "table") {
            lacking.push(Lack::Table(part.name));
        } else if !columns(&scratch, &part.name)?.iter().all(has(&columns(conn, &part.name)?)) {
            lacking.push(Lack::Columns(part.name));
        }
    }
    Ok(lacking)
}

/// Makes something of ours again: a table empty, or with the rows that still fit it. Indexes of a table come by themselves.
pub(crate) fn make_again(conn: &Connection, lack: &Lack) -> Result<()> {
    let scratch = scratch()?;
    let parts = parts(&scratch)?;
    match lack {
        Lack::Index { name, table } => {
            conn.execute_batch(&format!("DROP INDEX IF EXISTS {}", Ident(name)))?;
            drop_twins(conn, name)?;
            make(conn, parts.iter().filter(|part| part.name == *name && part.table == *table))
        }
        Lack::Table(name) => {
            if let Some((kind, _)) = find(conn, name)? {
                conn.execute_batch(&format!("DROP {kind} {}", Ident(name)))?;
            }
            make(conn, parts.iter().filter(|part| part.table == *name))
        }
        Lack::Columns(name) => {
            let was = Ident(name);
            conn.execute_batch(&format!(
                "DROP TABLE IF EXISTS temp.ZV_REMADE; CREATE TEMP TABLE ZV_REMADE AS SELECT * FROM main.{was}; \
                 DROP TABLE main.{was}"
            ))?;
            make(conn, parts.iter().filter(|part| part.table == *name))?;
            let there = columns(conn, name)?;
            let before = columns(conn, "ZV_REMADE")?;
            let both: Vec<&String> = there.iter().filter(|column| has(&before)(column)).collect();
            if !both.is_empty() {
                let both = list(both.into_iter().map(|column| Ident(column)));
                let sql = format!("INSERT OR IGNORE INTO main.{was} ({both}) SELECT {both} FROM temp.ZV_REMADE");
                conn.execute_batch(&sql)?;
            }
            Ok(conn.execute_batch("DROP TABLE temp.ZV_REMADE")?)
        }
    }
}

fn make<'p>(conn: &Connection, parts: impl Iterator<Item = &'p Part>) -> Result<()> {
    for part in parts {
        conn.execute_batch(&part.sql)?;
    }
    Ok(())
}

/// Rows that a unique index forbids came while it was gone; none of them is known to be the right one.
fn drop_twins(conn: &Connection, index: &str) -> Result<()> {
    let sql = match index {
        "ZV_LOCAL_BY_ENTITY" => {
            "DELETE FROM ZV_LOCAL WHERE (table_no, entity_id) IN \
             (SELECT table_no, entity_id FROM ZV_LOCAL GROUP BY table_no, entity_id HAVING count(*) > 1)"
        }
        "ZV_CONFLICT_ONCE" => {
            "DELETE FROM ZV_CONFLICT WHERE no NOT IN \
             (SELECT min(no) FROM ZV_CONFLICT GROUP BY table_no, entity_id, column_no, winner, loser)"
        }
        "ZV_PACK_ONCE" => {
            "DELETE FROM ZV_PACK WHERE rowid NOT IN (SELECT min(rowid) FROM ZV_PACK GROUP BY remote_no, pack)"
        }
        "ZV_UNTRANSLATED_ONCE" => {
            "DELETE FROM ZV_UNTRANSLATED WHERE rowid NOT IN \
             (SELECT min(rowid) FROM ZV_UNTRANSLATED GROUP BY table_no, entity_id, ifnull(column_no, 0))"
        }
        _ => return Ok(()),
    };
    conn.execute(sql, [])?;
    Ok(())
}

/// A database in memory with our tables and nothing else.
fn scratch() -> Result<Connection> {
    let scratch = Connection::open_in_memory()?;
    run_schema_files(&scratch, 0)?;
    Ok(scratch)
}

/// Tables first, so that an index finds its own.
fn parts(conn: &Connection) -> Result<Vec<Part>> {
    let sql = "SELECT type = 'table', name, tbl_name, sql FROM sqlite_schema \
               WHERE name GLOB 'ZV_*' AND sql IS NOT NULL ORDER BY type <> 'table', name";
    let mut statement = conn.prepare(sql)?;
    let found = statement.query_map([], |row| {
        Ok(Part { is_table: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// What has a name, and the statement that made it.
fn find(conn: &Connection, name: &str) -> Result<Option<(String, String)>> {
    let sql = "SELECT type, sql FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type <> 'trigger'";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([name])?;
    Ok(match rows.next()? {
        Some(row) => Some((row.get(0)?, row.get(1)?)),
        None => None,
    })
}

fn columns(conn: &Connection, table: &str) -> Result<Vec<String>> {
    let mut statement = conn.prepare_cached("SELECT name FROM pragma_table_info(?1)")?;
    Ok(statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

fn has(columns: &[String]) -> impl Fn(&String) -> bool + '_ {
    move |wanted| columns.iter().any(|column| column.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Connection {
        scratch().unwrap()
    }

    #[test]
    fn whatever_is_dropped_is_found_and_made_again() {
        let all = parts(&whole()).unwrap();
        assert!(all.len() > 25);
        for part in &all {
            let conn = whole();
            let kind = if part.is_table { "TABLE" } else { "INDEX" };
            conn.execute_batch(&format!("DROP {kind} {}", part.name)).unwrap();
            let found = lacking(&conn).unwrap();
            assert_eq!(found[0].name(), part.name);
            for lack in &found {
                make_again(&conn, lack).unwrap();
            }
            assert_eq!(lacking(&conn).unwrap(), [], "{}", part.name);
        }
    }

    #[test]
    fn a_table_that_lost_a_column_keeps_the_rows_that_still_fit() {
        let conn = whole();
        conn.execute_batch(
            "INSERT INTO ZV_REMOTE (no, url, layout_id) VALUES (1, 'here', 'x'); ALTER TABLE ZV_REMOTE DROP COLUMN layout;
             DROP TABLE ZV_HELD; CREATE VIEW ZV_HELD AS SELECT 1;",
        )
        .unwrap();
        let found = lacking(&conn).unwrap();
        assert_eq!(found, [Lack::Table("ZV_HELD".into()), Lack::Columns("ZV_REMOTE".into())]);
        found.iter().for_each(|lack| make_again(&conn, lack).unwrap());
        assert_eq!(lacking(&conn).unwrap(), []);
        let kept: String =
            conn.query_row("SELECT url || layout || layout_id FROM ZV_REMOTE", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, "herex");
    }

    #[test]
    fn a_unique_index_comes_back_though_rows_came_that_it_forbids() {
        let conn = whole();
        conn.execute_batch(
            "DROP INDEX ZV_LOCAL_BY_ENTITY; INSERT INTO ZV_LOCAL VALUES (1, 1, 'a'), (1, 2, 'a'), (1, 3, 'b');
             DROP INDEX ZV_PACK_ONCE; CREATE INDEX ZV_PACK_ONCE ON ZV_PACK (remote_no);",
        )
        .unwrap();
        let found = lacking(&conn).unwrap();
        assert_eq!(found.iter().map(Lack::name).collect::<Vec<_>>(), ["ZV_LOCAL_BY_ENTITY", "ZV_PACK_ONCE"]);
        found.iter().for_each(|lack| make_again(&conn, lack).unwrap());
        let left: i64 = conn.query_row("SELECT count(*) FROM ZV_LOCAL", [], |row| row.get(0)).unwrap();
        assert_eq!((left, lacking(&conn).unwrap()), (1, vec![]));
    }
}
