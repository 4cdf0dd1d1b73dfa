//! What is remembered of a remote's encryption: whether it is encrypted, and its epochs. No key and no secret is ever here.

use rusqlite::{Connection, OptionalExtension};

use super::conflicts::id_from;
use crate::error::{Error, Result};
use crate::seal::Pin;

/// Whether a remote is known to be encrypted; nothing before that is known.
pub(crate) fn is_encrypted(conn: &Connection, remote: i64) -> Result<Option<bool>> {
    let sql = "SELECT encrypted FROM ZV_REMOTE WHERE no = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([remote], |row| row.get(0)).optional()?.flatten())
}

/// Records for good whether a remote is encrypted.
pub(crate) fn set_encrypted(conn: &Connection, remote: i64, encrypted: bool) -> Result<()> {
    let sql = "UPDATE ZV_REMOTE SET encrypted = ?2 WHERE no = ?1 AND encrypted IS NOT ?2";
    conn.prepare_cached(sql)?.execute((remote, encrypted))?;
    Ok(())
}

/// Records that a remote of which nothing is known is to be an encrypted one. Says whether nothing was.
pub(crate) fn expect_encrypted(conn: &Connection, remote: i64) -> Result<bool> {
    let sql = "UPDATE ZV_REMOTE SET encrypted = TRUE WHERE no = ?1 AND encrypted IS NULL";
    Ok(conn.prepare_cached(sql)?.execute([remote])? > 0)
}

/// Forgets that a remote was to be an encrypted one.
pub(crate) fn expect_nothing(conn: &Connection, remote: i64) -> Result<()> {
    conn.prepare_cached("UPDATE ZV_REMOTE SET encrypted = NULL WHERE no = ?1")?.execute([remote])?;
    Ok(())
}

/// The epochs of a remote, as far as they are known here.
pub(crate) fn pins(conn: &Connection, remote: i64) -> Result<Vec<Pin>> {
    let sql = "SELECT epoch, fingerprint, file FROM ZV_EPOCH WHERE remote_no = ?1 ORDER BY epoch";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([remote])?;
    let mut pins = Vec::new();
    while let Some(row) = rows.next()? {
        let fingerprint = row.get(1).map_err(|e| Error::corrupt("ZV_EPOCH holds a damaged row").caused_by(e))?;
        let file: Option<Vec<u8>> = row.get(2)?;
        pins.push(Pin { epoch: id_from(row.get(0)?)?, fingerprint, file: file.map(Into::into) });
    }
    Ok(pins)
}

/// Records epochs of a remote; what is known of one stays. Says whether there is a new one.
pub(crate) fn remember_pins(conn: &Connection, remote: i64, pins: &[Pin]) -> Result<bool> {
    let known = count_epochs(conn, remote)?;
    let sql = "INSERT INTO ZV_EPOCH (remote_no, epoch, fingerprint, file) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (remote_no, epoch) DO UPDATE SET file = ?4 WHERE file IS NULL AND ?4 IS NOT NULL";
    let mut statement = conn.prepare_cached(sql)?;
    for pin in pins {
        statement.execute((remote, pin.epoch.as_bytes(), pin.fingerprint, pin.file.as_deref()))?;
    }
    Ok(count_epochs(conn, remote)? > known)
}

fn count_epochs(conn: &Connection, remote: i64) -> Result<u64> {
    let sql = "SELECT count(*) FROM ZV_EPOCH WHERE remote_no = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([remote], |row| row.get(0))?)
}
