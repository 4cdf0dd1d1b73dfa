//! Table definitions of a stranger: what `clone` accepts creates the tables and indexes that it names, and nothing else happens.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::capture::{statement, verified};
use super::dice::Dice;
use crate::db::{read_table, same_name};
use crate::model::is_reserved_table;
use crate::sync::clone_defined;
use crate::wire::{Identity, TableDefinition};
use crate::{ErrorKind, Replica, World};

/// What the database has before: a table with something to steal or spoil, and what hangs on it.
const STANDING: &str = "CREATE TABLE victim (id TEXT PRIMARY KEY, secret TEXT);
    CREATE INDEX victim_secret ON victim (secret);
    CREATE TABLE audit (n INTEGER);
    CREATE VIEW victims AS SELECT id FROM victim;
    CREATE TRIGGER victim_audit AFTER INSERT ON victim BEGIN INSERT INTO audit VALUES (1); END;
    INSERT INTO victim VALUES ('a', 'hunter2');";

/// What no definition may change, one value a line.
const UNTOUCHED: &str = "SELECT 'victim ' || id || ' ' || secret FROM victim
    UNION ALL SELECT 'audit ' || n FROM audit
    UNION ALL SELECT 'metadata ' || key || ' ' || value FROM ZV_METADATA WHERE key <> 'backfilled'
    UNION ALL SELECT 'database ' || name || ' ' || file FROM pragma_database_list WHERE name <> 'temp'
    UNION ALL SELECT 'foreign_keys ' || foreign_keys FROM pragma_foreign_keys
    UNION ALL SELECT 'user_version ' || user_version FROM pragma_user_version
    UNION ALL SELECT 'application_id ' || application_id FROM pragma_application_id
    UNION ALL SELECT 'temp ' || name FROM sqlite_temp_schema";

/// Definitions as text: tables are separated by a line of `==`, their statements by one of `--`; the first part of each is the
/// table's name and, a line each, the columns that identify its rows. After a line of `##` come bytes that decide what is
/// written to the first table.
pub fn clone_ddl(data: &[u8]) {
    let at = data.windows(4).position(|window| window == b"\n##\n").unwrap_or(data.len());
    let (text, dice) = (String::from_utf8_lossy(&data[..at]), data.get(at + 4..).unwrap_or_default());
    let definitions: Vec<TableDefinition> = text.split("\n==\n").take(4).map(definition).collect();
    let replica = Replica::in_memory().expect("memory is a database");
    replica.connection().execute_batch(STANDING).expect("these are tables");
    let before = objects(&replica.connection());
    let standing = untouched(&replica.connection());
    let accepted = clone_defined(&mut replica.connection(), &World::default(), &definitions);
    let after = objects(&replica.connection());
    assert_eq!(untouched(&replica.connection()), standing);
    match accepted {
        Err(error) => {
            assert!(!matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Busy), "{error:?}");
            assert_eq!(after, before, "{error:?}");
        }
        Ok(()) => {
            let new: BTreeSet<_> = after.difference(&before).cloned().collect();
            assert_eq!(before.difference(&after).next(), None);
            check_created(&definitions, &new);
            write(&replica, &definitions[0], dice);
        }
    }
}

fn definition(text: &str) -> TableDefinition {
    let mut parts = text.split("\n--\n");
    let mut head = parts.next().unwrap_or_default().lines();
    let table = head.next().unwrap_or_default().to_owned();
    let key: Vec<String> = head.map(str::to_owned).collect();
    TableDefinition {
        table,
        statements: parts.map(str::to_owned).collect(),
        identity: if key.is_empty() { Identity::Generated } else { Identity::Key },
        key,
        enforce_fk: text.len().is_multiple_of(2),
        version: 0,
        entity_type: None,
        renamed: BTreeMap::new(),
    }
}

/// Type, name and table of everything in the schema, and its text.
fn objects(conn: &Connection) -> BTreeSet<[String; 4]> {
    let sql = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema";
    let mut statement = conn.prepare(sql).expect("there is a schema");
    let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]));
    rows.expect("there is a schema").collect::<Result<_, _>>().expect("the schema is text")
}

fn untouched(conn: &Connection) -> Vec<String> {
    let mut statement = conn.prepare(UNTOUCHED).expect("these tables are there");
    let rows = statement.query_map([], |row| row.get(0)).expect("these tables are there");
    rows.collect::<Result<_, _>>().expect("all of it is text")
}

/// What is new is the tables of the definitions, as many indexes as they say, and what SQLite and zvon add to such tables.
fn check_created(definitions: &[TableDefinition], new: &BTreeSet<[String; 4]>) {
    for [kind, name, table, sql] in new {
        let defined = || definitions.iter().filter(|definition| same_name(&definition.table, table));
        let statements = || defined().flat_map(|definition| &definition.statements);
        let is_expected = match kind.as_str() {
            "table" if name == "sqlite_sequence" => true,
            "table" => !is_reserved_table(name) && statements().count() > 0,
            "index" if sql.is_empty() => statements().count() > 0,
            "index" => !is_reserved_table(name) && statements().count() > 1,
            "trigger" => name.starts_with("ZV_") && defined().count() > 0,
            _ => false,
        };
        assert!(is_expected, "{kind} {name:?} on {table:?}: {sql:?}");
    }
}

/// Writes to a table that was accepted: whatever it refuses, the log says what it holds.
fn write(replica: &Replica, definition: &TableDefinition, dice: &[u8]) {
    let table = &definition.table;
    let Ok(Some(shape)) = read_table(&replica.connection(), table) else { return };
    let columns: Vec<String> = shape.columns.into_iter().map(|column| column.name).collect();
    let mut dice = Dice::new(dice);
    for _ in 0..12 {
        // What the table's own rules refuse is for the application to see, and no concern here.
        let _ = replica.connection().execute_batch(&statement(&mut dice, table, &columns));
        if dice.is_empty() {
            break;
        }
    }
    if !replica.connection().is_autocommit() {
        let _ = replica.connection().execute_batch("ROLLBACK");
    }
    verified(replica, &definition.statements);
}
