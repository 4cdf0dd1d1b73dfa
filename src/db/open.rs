//! Opening database files, and making replicas of them. Decides pragmas and format versions; owns no table's meaning.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::{Metadata, get_metadata, set_metadata};
use crate::error::{Error, ErrorKind, Result};

/// The version of our tables that this program writes.
const FORMAT_VERSION: u32 = 1;
const SCHEMA_1: &str = include_str!("../../schema/001.sql");

/// How long a statement waits for another program's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The pages kept in memory: a merge moves between the log, the registers and the user's tables.
const CACHE_KIB: i64 = 8 << 10;

/// Opens a database file (`:memory:` for one in memory); a missing file is made only where `create` says so.
pub(crate) fn open_database(path: &Path, create: bool) -> Result<Connection> {
    let describe = |e: rusqlite::Error| {
        let e = Error::from(e);
        Error::new(e.kind(), format!("{}: {e}", path.display())).caused_by(e)
    };
    if !create && path != Path::new(":memory:") && !path.exists() {
        return Err(Error::new(ErrorKind::Database, format!("{}: no such file", path.display())));
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let conn = Connection::open_with_flags(path, flags).map_err(describe)?;
    configure(&conn).map_err(describe)?;
    let encoding: String = conn.query_row("PRAGMA encoding", [], |row| row.get(0)).map_err(describe)?;
    if encoding != "UTF-8" {
        let message = format!("{}: the database is encoded in {encoding}; only UTF-8 can be tracked", path.display());
        return Err(Error::new(ErrorKind::Database, message));
    }
    Ok(conn)
}

/// Foreign keys are enforced by the programs that write, and by the merge's own rules: no action may run here.
fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(256);
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A first read, so that a file that is no database is refused here.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Whether the database has a change log.
pub(crate) fn is_replica(conn: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ZV_METADATA')";
    Ok(conn.query_row(sql, [], |row| row.get(0))?)
}

/// Makes our tables, with a new author id. Does nothing to a database that is a replica already.
pub(crate) fn create_replica(conn: &mut Connection, author: &str) -> Result<()> {
    let tx = immediate(conn)?;
    if !is_replica(&tx)? {
        tx.execute_batch(SCHEMA_1)?;
        set_metadata(&tx, Metadata::FormatVersion, FORMAT_VERSION)?;
        set_metadata(&tx, Metadata::DatabaseUuid, author)?;
    }
    tx.commit()?;
    Ok(())
}

/// Opens a replica: refuses a database without a log and one of a newer format.
pub(crate) fn open_replica(path: &Path) -> Result<Connection> {
    let conn = open_database(path, false)?;
    if !is_replica(&conn)? {
        let message = format!("{}: not a replica yet; run `zvon init` on it first", path.display());
        return Err(Error::new(ErrorKind::Database, message));
    }
    check_format(&conn)?;
    Ok(conn)
}

/// Refuses a format that this program does not know.
fn check_format(conn: &Connection) -> Result<()> {
    match get_metadata::<u32>(conn, Metadata::FormatVersion)? {
        Some(FORMAT_VERSION) => Ok(()),
        Some(newer) if newer > FORMAT_VERSION => Err(Error::new(
            ErrorKind::Database,
            format!("the replica has format version {newer} and this program knows {FORMAT_VERSION}; use a newer zvon"),
        )),
        found => Err(Error::corrupt(format!("ZV_METADATA names the unknown format version {}", found.unwrap_or(0)))),
    }
}

/// A transaction that takes the write lock at once, so that what it reads stays true until it commits.
pub(crate) fn immediate(conn: &mut Connection) -> Result<Transaction<'_>> {
    Ok(conn.transaction_with_behavior(TransactionBehavior::Immediate)?)
}
