//! The database's file: one that was moved, removed or replaced under its name is not the one that is open any more.

use std::fs::{self, Metadata};
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A file as it was when the watch began. It is never opened: closing it again would give up SQLite's own locks on it.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl DatabaseFile {
    pub(super) fn new(path: PathBuf) -> Self {
        let identity = fs::metadata(&path).ok().and_then(|meta| identity(&meta));
        Self { path, identity }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses to go on with a file that nobody else sees: what programs write into the new one would never be synced.
    pub(super) fn check(&self) -> Result<()> {
        let what = match fs::metadata(&self.path) {
            Err(e) if e.kind() == IoErrorKind::NotFound => "was moved or removed",
            Ok(meta) if identity(&meta) != self.identity => "was replaced by another file",
            // A disk that does not answer may answer later.
            _ => return Ok(()),
        };
        let message = format!("{}: the database {what} while it was watched; watch it again", self.path.display());
        Err(Error::new(ErrorKind::Database, message))
    }
}

/// The file system and the file's number there.
#[cfg(unix)]
fn identity(meta: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((meta.dev(), meta.ino()))
}

/// Elsewhere a file that is open can be neither moved nor replaced.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_another_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("notes.db"), folder.path().join("backup.db"));
        fs::write(&path, "one").unwrap();
        fs::write(&other, "two").unwrap();
        let file = DatabaseFile::new(path.clone());
        fs::write(&path, "more").unwrap();
        file.check().unwrap();
        fs::rename(&other, &path).unwrap();
        let error = file.check().unwrap_err().to_string();
        assert!(cfg!(not(unix)) || error.contains("was replaced by another file"), "{error}");
        fs::remove_file(&path).unwrap();
        assert!(file.check().unwrap_err().to_string().contains("was moved or removed"));
    }
}
