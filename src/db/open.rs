//! Opening database files, and making replicas of them. Decides pragmas and format versions; owns no table's meaning.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::at_rest;
use super::key::{self, Cipher, DatabaseKey};
use super::structure::own_names;
use super::{Metadata, get_metadata, set_metadata};
use crate::error::{Error, ErrorKind, Result};

/// What makes our tables, and what turns those of each version into the next one's.
const SCHEMAS: [&str; 5] = [
    include_str!("../../schema/001.sql"),
    include_str!("../../schema/002.sql"),
    include_str!("../../schema/003.sql"),
    include_str!("../../schema/004.sql"),
    include_str!("../../schema/005.sql"),
];

/// How long a statement waits for another program's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The pages kept in memory: a merge moves between the log, the registers and the user's tables.
const CACHE_KIB: i64 = 8 << 10;

/// Opens a database file (`:memory:` for one in memory); a missing file is made only where `create` says so, encrypted where
/// there is a key.
pub(crate) fn open_database(path: &Path, create: bool, key: Option<&DatabaseKey>) -> Result<Connection> {
    let describe = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => key::explain(path, key.is_some()).caused_by(e),
        _ => {
            let e = Error::from(e);
            Error::new(e.kind(), format!("{}: {e}", path.display())).caused_by(e)
        }
    };
    if !create && path != Path::new(":memory:") && !path.exists() {
        return Err(Error::new(ErrorKind::Database, format!("{}: no such file", path.display())));
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let conn = match key {
        None => connect(path, flags, None),
        Some(key) => {
            key::check_build(path)?;
            connect(path, flags, Some((key, Cipher::Current))).or_else(|e| match e.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => connect(path, flags, Some((key, Cipher::Three))),
                _ => Err(e),
            })
        }
    };
    let conn = conn.map_err(describe)?;
    let encoding: String = conn.query_row("PRAGMA encoding", [], |row| row.get(0)).map_err(describe)?;
    if encoding != "UTF-8" {
        let message = format!("{}: the database is encoded in {encoding}; only UTF-8 can be tracked", path.display());
        return Err(Error::new(ErrorKind::Database, message));
    }
    Ok(conn)
}

fn connect(path: &Path, flags: OpenFlags, key: Option<(&DatabaseKey, Cipher)>) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags)?;
    if let Some((key, cipher)) = key {
        key::apply(&conn, key, cipher)?;
    }
    configure(&conn)?;
    Ok(conn)
}

/// Makes an existing database that is not encrypted an encrypted one; one that is, or is not there, stays as it is.
pub(crate) fn encrypt_database(path: &Path, key: &DatabaseKey) -> Result<bool> {
    key::check_build(path)?;
    if key::is_plain(path) != Some(true) {
        return Ok(false);
    }
    at_rest::encrypt(path, key)?;
    Ok(true)
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

/// Whether a database holds nothing of anybody's: an empty file, or a replica without tables, history and another remote, as a
/// clone leaves that was cut off at its very beginning.
pub(crate) fn is_blank(conn: &Connection, remote: &str) -> Result<bool> {
    let own = own_names()?;
    let mut statement = conn.prepare("SELECT name FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*'")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    if names.iter().any(|name| !own.contains(name)) {
        return Ok(false);
    }
    if !is_replica(conn)? {
        return Ok(true);
    }
    let has_history: bool = conn.query_row("SELECT EXISTS (SELECT 1 FROM ZV_CHANGE)", [], |row| row.get(0))?;
    Ok(!has_history && get_metadata::<String>(conn, Metadata::Remote)?.is_none_or(|other| other == remote))
}

/// Makes our tables, with a new author id, or renews those of an older version.
pub(crate) fn create_replica(conn: &mut Connection, author: &str) -> Result<()> {
    if is_replica(conn)? {
        return migrate(conn);
    }
    let tx = immediate(conn)?;
    if !is_replica(&tx)? {
        if was_replica(&tx)? {
            return Err(Error::corrupt("ZV_METADATA is missing; `zvon repair` makes it again"));
        }
        run_schemas(&tx, 0)?;
        set_metadata(&tx, Metadata::DatabaseUuid, author)?;
    }
    tx.commit()?;
    Ok(())
}

/// Opens a replica: refuses a database without a log and one of a newer format, renews one of an older.
pub(crate) fn open_replica(path: &Path, key: Option<&DatabaseKey>) -> Result<Connection> {
    let mut conn = open_database(path, false, key)?;
    if !is_replica(&conn)? {
        return Err(no_replica(&conn, path)?);
    }
    migrate(&mut conn)?;
    Ok(conn)
}

/// Opens what was a replica, whatever of our own tables is left: for those who look at the damage or mend it.
pub(crate) fn open_damaged(path: &Path, key: Option<&DatabaseKey>) -> Result<Connection> {
    let mut conn = open_database(path, false, key)?;
    if !was_replica(&conn)? {
        return Err(no_replica(&conn, path)?);
    }
    match is_replica(&conn)?.then(|| migrate(&mut conn)).transpose() {
        // A version that cannot be read is part of the damage; a newer one is none.
        Err(error) if error.kind() == ErrorKind::Database => Err(error),
        _ => Ok(conn),
    }
}

/// Whether a database is a replica, or is left of one: a table that only begins like ours is its owner's.
fn was_replica(conn: &Connection) -> Result<bool> {
    let own = own_names()?;
    let sql = "SELECT name, type = 'trigger' AND name GLOB 'ZV_[0-9]*_*' FROM sqlite_schema WHERE name GLOB 'ZV_*'";
    let mut statement = conn.prepare(sql)?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found = found.collect::<rusqlite::Result<Vec<(String, bool)>>>()?;
    Ok(found.iter().any(|(name, is_trigger)| *is_trigger || own.contains(name)))
}

/// Says that a database is no replica, or that it was one.
fn no_replica(conn: &Connection, path: &Path) -> Result<Error> {
    if was_replica(conn)? {
        let message = format!("{}: ZV_METADATA is missing; `zvon repair` makes it again", path.display());
        return Ok(Error::corrupt(message));
    }
    let message = format!("{}: not a replica yet; run `zvon init` on it first", path.display());
    Ok(Error::new(ErrorKind::Database, message))
}

/// Brings our tables to the newest version, in one transaction; one that is newer than this program is refused.
fn migrate(conn: &mut Connection) -> Result<()> {
    if format_version(conn)? < SCHEMAS.len() {
        let tx = immediate(conn)?;
        // Another process may have done it while this one waited for the lock.
        let version = format_version(&tx)?;
        run_schemas(&tx, version)?;
        tx.commit()?;
    }
    Ok(())
}

/// Runs the schema files after the first `done` of them, and records that.
fn run_schemas(tx: &Transaction<'_>, done: usize) -> Result<()> {
    run_schema_files(tx, done)?;
    record_version(tx)
}

/// Runs the schema files after the first `done` of them.
pub(super) fn run_schema_files(conn: &Connection, done: usize) -> Result<()> {
    SCHEMAS[done..].iter().try_for_each(|sql| Ok(conn.execute_batch(sql)?))
}

/// Records that our tables are those of the newest version.
pub(crate) fn record_version(conn: &Connection) -> Result<()> {
    set_metadata(conn, Metadata::FormatVersion, SCHEMAS.len())
}

/// The version of the tables that are there: from 1 to the number of schema files.
fn format_version(conn: &Connection) -> Result<usize> {
    let known = SCHEMAS.len();
    match get_metadata::<usize>(conn, Metadata::FormatVersion)? {
        Some(version) if (1..=known).contains(&version) => Ok(version),
        Some(newer) if newer > known => Err(Error::new(
            ErrorKind::Database,
            format!("the replica has format version {newer} and this program knows {known}; use a newer zvon"),
        )),
        found => {
            let version = found.unwrap_or(0);
            let why = "`zvon repair` looks at the tables themselves";
            Err(Error::corrupt(format!("ZV_METADATA names the unknown format version {version}; {why}")))
        }
    }
}

/// A transaction that takes the write lock at once, so that what it reads stays true until it commits.
pub(crate) fn immediate(conn: &mut Connection) -> Result<Transaction<'_>> {
    Ok(conn.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica of before packs knew its remote's files from the sequence alone: they are remembered one by one from now on.
    #[test]
    fn what_an_older_replica_had_pushed_is_remembered_as_loose_files() {
        let mut conn = Connection::open_in_memory().unwrap();
        let tx = immediate(&mut conn).unwrap();
        tx.execute_batch(SCHEMAS[0]).unwrap();
        set_metadata(&tx, Metadata::FormatVersion, 1).unwrap();
        tx.execute_batch(
            "INSERT INTO ZV_REMOTE (no, url, pushed_seq) VALUES (1, 'here', 3), (2, 'there', 0);
             INSERT INTO ZV_SEQUENCE (change_id, own) VALUES (x'01', 1), (x'02', 1), (x'03', 0), (x'04', 1);
             INSERT INTO ZV_KEPT (change_id, seq, table_no, bytes) VALUES (x'02', 2, 1, 9);",
        )
        .unwrap();
        tx.commit().unwrap();
        create_replica(&mut conn, "author").unwrap();
        let sql = "SELECT group_concat(remote_no || ':' || hex(change_id) || ':' || packed_ms, ' ') FROM ZV_LOOSE";
        let loose: String = conn.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(loose, "1:01:0 1:03:0");
        assert_eq!(format_version(&conn).unwrap(), SCHEMAS.len());
    }
}
