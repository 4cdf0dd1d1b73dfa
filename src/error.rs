//! The crate's one public error: what went wrong, named by what the caller can do about it. Owns no logic.

use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call, an option or a name is wrong: correct it and call again.
    Usage,
    /// The database file is not usable as it is: not SQLite, not UTF-8, read-only, or of a newer format.
    Database,
    /// The database file is encrypted, or no database, and no key was given: ask for it and call again.
    DatabaseKeyWanted,
    /// Another process holds the database: try again later.
    Busy,
    /// A table cannot be tracked as it is, or its shape is not what the log expects.
    Schema,
    /// The remote is absent, refuses access, or does not answer: check the URL and credentials, or try later.
    Remote,
    /// The remote holds another database's data: choose how to join, or another URL.
    Unrelated,
    /// The remote's keys wait for a passphrase, and none was given: ask for it and call again.
    Locked,
    /// The remote is encrypted and the key is missing, wrong or removed, or it is not and should be.
    Key,
    /// A clock is wrong: correct it, or accept a larger drift.
    Clock,
    /// The operation was asked to stop.
    Interrupted,
    /// A file or the log holds what no version of this program writes.
    Corrupt,
}

/// What went wrong, where, and what to do about it, as one lower-case phrase, with its cause as [`source`](std::error::Error::source).
///
/// No value of a user's row and no secret is ever part of an error.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    pub(crate) fn schema(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Schema, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("source", &self.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
