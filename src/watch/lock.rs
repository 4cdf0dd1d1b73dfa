//! One watch a database: a lock that the kernel gives back when its holder dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// What is added to the database's name to name the lock's file. The file stays; only the lock on it counts.
const SUFFIX: &str = "-zvon-watch";

/// Held for as long as a watch runs.
#[derive(Debug)]
pub(super) enum Lock {
    File { _locked: File },
    Memory(Arc<AtomicBool>),
}

impl Lock {
    /// Takes the lock of a database file.
    pub(super) fn on_file(database: &Path) -> Result<Self> {
        let path = lock_path(database);
        let cannot = |e| {
            let message = format!("{}: the file that keeps watches apart cannot be locked", path.display());
            Error::new(ErrorKind::Database, message).caused_by(e)
        };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(&format!("{}", database.display()), holder(&mut file))),
            Err(TryLockError::Error(e)) => return Err(cannot(e)),
        }
        // Only for the one who is refused; without it the refusal is as good, if less helpful.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self::File { _locked: file })
    }

    /// Takes the lock of a database that only this process can see.
    pub(super) fn in_memory(watched: &Arc<AtomicBool>) -> Result<Self> {
        if watched.swap(true, Ordering::AcqRel) {
            return Err(taken("the database in memory", None));
        }
        Ok(Self::Memory(Arc::clone(watched)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Self::Memory(watched) = self {
            watched.store(false, Ordering::Release);
        }
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// The process that holds the lock, as it wrote it there.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn taken(database: &str, holder: Option<u32>) -> Error {
    let who = holder.map(|process| format!(" (process {process})")).unwrap_or_default();
    Error::new(ErrorKind::Busy, format!("{database} is watched already{who}; stop that watch first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_locked_once_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("notes.db");
        let first = Lock::on_file(&database).unwrap();
        let error = Lock::on_file(&database).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let words = format!("notes.db is watched already (process {}); stop that watch first", std::process::id());
        assert!(error.to_string().ends_with(&words), "{error}");
        drop(first);
        Lock::on_file(&database).unwrap();
    }

    #[test]
    fn a_database_in_memory_too() {
        let watched = Arc::new(AtomicBool::new(false));
        let first = Lock::in_memory(&watched).unwrap();
        assert_eq!(Lock::in_memory(&watched).unwrap_err().kind(), ErrorKind::Busy);
        drop(first);
        Lock::in_memory(&watched).unwrap();
    }
}
