//! The key of a database file that is encrypted at rest, and what a build without SQLCipher says of it. Zeroed when dropped.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};

/// How every database file begins that is not encrypted.
const PLAIN: &[u8; 16] = b"SQLite format 3\0";

/// The key of a database file that is encrypted at rest by SQLCipher: 64 hexadecimal digits are the key itself; anything else
/// is a passphrase, from which SQLCipher derives the key.
///
/// A build without the feature `sqlcipher` takes keys and refuses to open anything with them.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseKey(Zeroizing<String>);

impl DatabaseKey {
    /// A key, or a passphrase.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if it is empty or holds a NUL.
    pub fn new(key: &str) -> Result<Self> {
        match key {
            "" => Err(Error::usage("the database's key is empty")),
            key if key.contains('\0') => Err(Error::usage("the database's key holds a NUL")),
            key => Ok(Self(Zeroizing::new(key.to_owned()))),
        }
    }

    /// The key as an SQL literal, as SQLCipher's own shell takes it.
    pub(super) fn literal(&self) -> Zeroizing<String> {
        let is_raw = self.0.len() == 64 && self.0.bytes().all(|byte| byte.is_ascii_hexdigit());
        // Room enough from the start: a string that grows leaves its old bytes behind.
        let mut literal = Zeroizing::new(String::with_capacity(2 * self.0.len() + 8));
        literal.push_str(if is_raw { "\"x'" } else { "'" });
        self.0.chars().for_each(|c| {
            literal.push(c);
            if c == '\'' {
                literal.push(c);
            }
        });
        literal.push_str(if is_raw { "'\"" } else { "'" });
        literal
    }
}

impl fmt::Debug for DatabaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseKey")
    }
}

/// The form of an encrypted file. Newer ones are made in the current form, which SQLCipher 4 reads unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Current,
    /// What SQLCipher 3 wrote.
    Three,
}

/// Gives a connection its key, before anything else is said on it.
pub(super) fn apply(conn: &Connection, key: &DatabaseKey, cipher: Cipher) -> rusqlite::Result<()> {
    let literal = key.literal();
    let mut sql = Zeroizing::new(String::with_capacity(literal.len() + 128));
    // What goes wrong is told by errors; SQLCipher would write to stderr as well.
    sql.push_str("PRAGMA cipher_log_level = NONE; PRAGMA key = ");
    sql.push_str(&literal);
    sql.push(';');
    if cipher == Cipher::Three {
        sql.push_str("PRAGMA cipher_compatibility = 3;");
    }
    conn.execute_batch(&sql)
}

/// Refuses a key where this build can do nothing with it.
pub(super) fn check_build(path: &Path) -> Result<()> {
    if cfg!(feature = "sqlcipher") {
        return Ok(());
    }
    let why = "a key was given for the database, and this build of zvon has no SQLCipher; use one built with \
               `cargo install zvon --features sqlcipher`";
    Err(Error::new(ErrorKind::Database, format!("{}: {why}", path.display())))
}

/// Whether a file is a database that is not encrypted; nothing if it is missing or empty.
pub(super) fn is_plain(path: &Path) -> Option<bool> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(PLAIN.len() as u64).read_to_end(&mut start).ok()?;
    (!start.is_empty()).then_some(start == PLAIN)
}

/// What a file that does not open as a database is, and what to do.
pub(super) fn explain(path: &Path, has_key: bool) -> Error {
    let why = match (has_key, is_plain(path)) {
        (true, Some(true)) => {
            "a key was given, and the database is not encrypted; `zvon init` with the key encrypts it, or leave the key out"
        }
        (true, _) => "the key does not open the file, or it is not an SQLite database",
        (false, _) if cfg!(feature = "sqlcipher") => {
            "the file is encrypted, or not an SQLite database; give its key by --db-key-file or ZVON_DB_KEY_FILE"
        }
        (false, _) => {
            "the file is not an SQLite database, or is encrypted: then use a zvon built with `cargo install zvon --features \
             sqlcipher`, and give it the key by --db-key-file or ZVON_DB_KEY_FILE"
        }
    };
    // Somebody who has a key to give can be asked for it.
    let kind =
        if has_key || cfg!(not(feature = "sqlcipher")) { ErrorKind::Database } else { ErrorKind::DatabaseKeyWanted };
    Error::new(kind, format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_literal_of_its_kind_and_shows_nowhere() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(*DatabaseKey::new(&hex).unwrap().literal(), format!("\"x'{hex}'\""));
        assert_eq!(*DatabaseKey::new("it's; DROP").unwrap().literal(), "'it''s; DROP'");
        assert_eq!(*DatabaseKey::new(&hex[1..]).unwrap().literal(), format!("'{}'", &hex[1..]));
        assert_eq!(format!("{:?}", DatabaseKey::new("hunter2").unwrap()), "DatabaseKey");
        assert!(DatabaseKey::new("").is_err() && DatabaseKey::new("a\0b").is_err());
    }
}
