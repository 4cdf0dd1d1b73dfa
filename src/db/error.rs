//! SQLite's errors as ours: what happened and what to do. Owns no context but the result code.

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        let (kind, message) = describe(source.sqlite_error_code());
        Error::new(kind, message).caused_by(source)
    }
}

fn describe(code: Option<ErrorCode>) -> (ErrorKind, &'static str) {
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Busy, "another program holds the database; let it finish and try again")
        }
        Some(ErrorCode::NotADatabase) => (ErrorKind::Database, "the file is not an SQLite database, or is encrypted"),
        Some(ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Database, "the database file is damaged; `PRAGMA integrity_check` says where")
        }
        Some(ErrorCode::ReadOnly) => (ErrorKind::Database, "the database is read-only; make file and folder writable"),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::Database, "the disk is full; nothing was lost, free some space and try again")
        }
        Some(ErrorCode::CannotOpen) => {
            (ErrorKind::Database, "the database file cannot be opened; check the path and its permissions")
        }
        Some(ErrorCode::PermissionDenied) => (ErrorKind::Database, "access to the database file is denied"),
        Some(ErrorCode::OperationInterrupted) => (ErrorKind::Interrupted, "interrupted"),
        Some(ErrorCode::SystemIoFailure) => {
            (ErrorKind::Database, "reading or writing the database file failed; is the disk full or gone?")
        }
        _ => (ErrorKind::Database, "SQLite refused a statement"),
    }
}
