//! An existing database made an encrypted one: a whole encrypted copy first, then one rename. Only in builds with SQLCipher.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

use super::Ident;
use super::key::{Cipher, DatabaseKey, apply};
use crate::error::{Error, ErrorKind, Result};

/// Replaces a plain database by an encrypted one with the same content. Until the copy is whole and checked, the original
/// stays as it is; then it is overwritten with zeros, so that a program which still has it open fails instead of writing into
/// a file that is gone.
pub(super) fn encrypt(path: &Path, key: &DatabaseKey) -> Result<()> {
    let copy = copy_path(path);
    remove_if_there(&copy)?;
    let original = lock(path)?;
    let written = write_copy(&original, &copy, key).and_then(|()| put_in_place(path, &copy));
    match written {
        Ok(file) => overwrite(path, file, original),
        Err(why) => {
            // What went wrong is told; an attempt to come removes the copy as well.
            let _ = fs::remove_file(&copy);
            let _ = set_journal_mode(&original.conn, &original.journal_mode);
            Err(why)
        }
    }
}

/// Beside the database, so that one rename can put it in its place.
fn copy_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".zvon-encrypting");
    path.with_file_name(name)
}

/// The original, which nobody else can write to any more.
struct Original {
    conn: Connection,
    journal_mode: String,
}

fn write_copy(original: &Original, copy: &Path, key: &DatabaseKey) -> Result<()> {
    let conn = &original.conn;
    let literal = key.literal();
    let mut sql = Zeroizing::new(String::with_capacity(literal.len() + 64));
    sql.push_str("ATTACH DATABASE ?1 AS encrypted KEY ");
    sql.push_str(&literal);
    let at = copy.to_str().ok_or_else(|| Error::usage("the database's path is not UTF-8"))?;
    conn.execute(&sql, [at])?;
    conn.query_row("SELECT sqlcipher_export('encrypted')", [], |_| Ok(()))?;
    for pragma in ["user_version", "application_id"] {
        let value: i64 = conn.pragma_query_value(None, pragma, |row| row.get(0))?;
        conn.pragma_update(Some("encrypted"), pragma, value)?;
    }
    conn.execute_batch("DETACH DATABASE encrypted")?;
    check(conn, copy, key, &original.journal_mode)?;
    File::open(copy).and_then(|file| file.sync_all()).map_err(|e| cannot("write", copy, e))
}

/// Opens the original so that nobody else writes to it; out of the mode in which other connections could go unnoticed.
fn lock(path: &Path) -> Result<Original> {
    // What is attached is opened as this is, and the copy has to be made.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    let journal_mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let busy = |e: rusqlite::Error| {
        let message = format!("{}: other programs have the database open; close them, then encrypt it", path.display());
        Error::new(ErrorKind::Busy, message).caused_by(e)
    };
    // Leaving the mode succeeds for the last connection alone.
    conn.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(busy)?;
    conn.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    // In this mode the lock that a transaction takes stays until the connection is closed.
    conn.execute_batch("BEGIN EXCLUSIVE; COMMIT").map_err(busy)?;
    Ok(Original { conn, journal_mode })
}

/// Makes sure that the copy opens with the key, is whole, and has as many rows everywhere; and that it works as the original did.
fn check(original: &Connection, copy: &Path, key: &DatabaseKey, journal_mode: &str) -> Result<()> {
    let differs = |what: &str| {
        Error::new(
            ErrorKind::Database,
            format!("the encrypted copy differs from the database ({what}); nothing was changed"),
        )
    };
    let conn = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    apply(&conn, key, Cipher::Current)?;
    if schema(&conn)? != schema(original)? {
        return Err(differs("its schema"));
    }
    let mut tables = original.prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")?;
    for table in tables.query_map([], |row| row.get(0))? {
        let table: String = table?;
        let sql = format!("SELECT count(*) FROM {}", Ident(&table));
        let count = |conn: &Connection| conn.query_row(&sql, [], |row| row.get::<_, i64>(0));
        if count(&conn)? != count(original)? {
            return Err(differs(&table));
        }
    }
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(differs("its integrity"));
    }
    set_journal_mode(&conn, journal_mode)?;
    conn.close().map_err(|(_, e)| e)?;
    Ok(())
}

fn schema(conn: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut statement = conn.prepare("SELECT name, sql FROM sqlite_schema ORDER BY type, name")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn set_journal_mode(conn: &Connection, mode: &str) -> rusqlite::Result<()> {
    conn.query_row(&format!("PRAGMA journal_mode = {}", Ident(mode)), [], |_| Ok(()))
}

/// Puts the copy in the original's place. Returns the original's file, which has no name any more.
fn put_in_place(path: &Path, copy: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).open(path).map_err(|e| cannot("open", path, e))?;
    let permissions = file.metadata().map_err(|e| cannot("read", path, e))?.permissions();
    fs::set_permissions(copy, permissions).map_err(|e| cannot("write", copy, e))?;
    fs::rename(copy, path).map_err(|e| cannot("replace", path, e))?;
    sync_folder(path)?;
    Ok(file)
}

/// Overwrites the original while its lock still holds, then gives it up: in this order, as closing any handle of a file gives
/// up the POSIX locks that the process has on it.
fn overwrite(path: &Path, mut file: File, original: Original) -> Result<()> {
    let zeroed = write_zeros(&mut file).map_err(|e| cannot("overwrite the old content of", path, e));
    drop(original.conn);
    drop(file);
    zeroed
}

fn write_zeros(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let zeros = vec![0; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= part as u64;
    }
    file.sync_all()
}

/// A rename is durable once the folder is.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| cannot("sync", folder, e))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path, e)),
        _ => Ok(()),
    }
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Database, format!("cannot {what} {}", path.display())).caused_by(error)
}
