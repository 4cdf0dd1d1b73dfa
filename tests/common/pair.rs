//! Two databases of one schema, one tracked and one not, that are given the same statements and must not be told apart.

use rusqlite::Connection;
use zvon::Replica;

use super::{keyed, rows};

/// A tracked database and its untracked twin.
pub struct Pair {
    pub tracked: Replica,
    plain: Replica,
}

impl Pair {
    /// Both with the schema of before `track`, and what an application adds to it afterwards.
    pub async fn new(before: &str, after: &str) -> Self {
        let (tracked, plain) = (Replica::in_memory().unwrap(), Replica::in_memory().unwrap());
        for replica in [&tracked, &plain] {
            replica.connection().execute_batch(before).unwrap();
        }
        let mut options = keyed();
        options.enforce_fk = Some(false);
        tracked.track_all(&options).await.unwrap();
        for replica in [&tracked, &plain] {
            // `track` wrote rows of its own, so the connection's counters start anew.
            replica.connection().execute_batch(after).unwrap();
            replica.connection().execute_batch("CREATE TABLE start (n)").unwrap();
            restart(&replica.connection());
        }
        Self { tracked, plain }
    }

    /// Runs statements one by one on both sides; each must end alike and leave the tables alike.
    pub fn same(&self, statements: &[&str]) {
        for sql in statements {
            let (tracked, plain) = (self.tracked.connection(), self.plain.connection());
            let (mut left, mut right) = (outcome(&tracked, sql), outcome(&plain, sql));
            if right[0].contains("FOREIGN KEY constraint failed") {
                // On a table with any trigger at all, SQLite looks at foreign keys after the row is in, and
                // `last_insert_rowid()` is then that of the row that failed.
                left.truncate(1);
                right.truncate(1);
                restart(&tracked);
                restart(&plain);
            }
            assert_eq!(left, right, "{sql}");
            assert_eq!(contents(&tracked), contents(&plain), "after {sql}");
        }
    }

    /// Runs statements of which each must fail on both sides, with the same words.
    pub fn same_errors(&self, statements: &[&str]) {
        for sql in statements {
            self.same(&[sql]);
            assert!(self.plain.connection().execute_batch(sql).is_err(), "{sql} did not fail");
        }
    }
}

/// Gives the connection's counters values that do not depend on what was before.
fn restart(conn: &Connection) {
    conn.execute("INSERT INTO start VALUES (1)", []).unwrap();
}

/// All that a program can see of a statement: its rows or its error, and the connection's counters.
fn outcome(conn: &Connection, sql: &str) -> Vec<String> {
    let mut seen = match run(conn, sql) {
        Ok(rows) => rows,
        Err(error) => vec![format!("error: {error}")],
    };
    seen.push(format!(
        "changes {} last {} in transaction {}",
        conn.changes(),
        conn.last_insert_rowid(),
        !conn.is_autocommit()
    ));
    seen.extend(rows(conn, "SELECT changes(), last_insert_rowid()"));
    seen
}

fn run(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|n| row.get_ref(n).map(|value| format!("{value:?}")));
        lines.push(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
    }
    Ok(lines)
}

/// Every row of every table of the user's, rowids included where a table has them.
fn contents(conn: &Connection) -> Vec<String> {
    let sql = "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
               AND name NOT GLOB 'ZV_*' AND name NOT GLOB 'sqlite_*' ORDER BY name";
    let tables: Vec<(String, bool)> = conn
        .prepare(sql)
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let mut lines = Vec::new();
    for (table, without_rowid) in tables {
        let rowid = if without_rowid { "" } else { "rowid, " };
        lines.push(format!("{table}:"));
        lines.extend(rows(conn, &format!("SELECT {rowid}* FROM \"{}\"", table.replace('"', "\"\""))));
    }
    lines
}
