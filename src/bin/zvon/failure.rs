//! What goes wrong, as the command line tells it: one sentence, its causes, an exit code. Prints nothing.

use std::error::Error as StdError;
use std::io;

use serde::Serialize;
use zvon::ErrorKind;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Done,
    /// It is not, or what was checked does not hold.
    Failed,
    /// The command line, a setting or a name is wrong.
    Usage,
    /// The sync is done, but files that it newly found on the remote were refused.
    Rejected,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Rejected => 3,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub enum Failure {
    /// An error to tell the user.
    Error(Told),
    /// Whoever read our output has gone: there is nobody to tell.
    BrokenPipe,
}

/// An error as it is told.
#[derive(Debug, Serialize)]
pub struct Told {
    #[serde(skip)]
    pub exit: Exit,
    pub kind: &'static str,
    pub message: String,
    pub causes: Vec<String>,
}

impl Told {
    /// All of it on one line.
    pub fn with_causes(&self) -> String {
        let causes = self.causes.iter().map(|cause| format!(" ({cause})"));
        self.message.clone() + &causes.collect::<String>()
    }
}

impl Failure {
    /// The command line, a setting or a name is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Error(Told { exit: Exit::Usage, kind: "usage", message: message.into(), causes: Vec::new() })
    }

    /// The machine refused something.
    pub fn io(message: impl Into<String>, error: &io::Error) -> Self {
        let causes = vec![error.to_string()];
        Self::Error(Told { exit: Exit::Failed, kind: "io", message: message.into(), causes })
    }

    /// SQLite refused something that the command line itself asked of it.
    pub fn sqlite(message: impl Into<String>, error: &rusqlite::Error) -> Self {
        let causes = vec![error.to_string()];
        Self::Error(Told { exit: Exit::Failed, kind: "database", message: message.into(), causes })
    }

    /// Something on the remote is not right.
    pub fn remote(message: impl Into<String>) -> Self {
        Self::Error(Told { exit: Exit::Failed, kind: "remote", message: message.into(), causes: Vec::new() })
    }

    /// Ctrl-C.
    pub fn interrupted() -> Self {
        let message = "interrupted; nothing is lost, and the next sync goes on from here".to_owned();
        Self::Error(Told { exit: Exit::Interrupted, kind: "interrupted", message, causes: Vec::new() })
    }

    /// Stdout could not be written.
    pub fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::io("the answer cannot be written to the standard output", error),
        }
    }
}

impl From<zvon::Error> for Failure {
    fn from(error: zvon::Error) -> Self {
        let (kind, exit) = name(error.kind());
        let message = error.to_string();
        let causes = causes(&message, error.source());
        Self::Error(Told { exit, kind, message, causes })
    }
}

/// The chain below an error, without the links that only repeat what was said before them.
fn causes(message: &str, source: Option<&(dyn StdError + 'static)>) -> Vec<String> {
    let mut told = vec![message.to_owned()];
    let mut next = source;
    while let Some(error) = next {
        let cause = error.to_string();
        if !told.iter().any(|before| before.contains(&cause)) {
            told.push(cause);
        }
        next = error.source();
    }
    told.split_off(1)
}

/// A kind's name in JSON, and its exit code.
fn name(kind: ErrorKind) -> (&'static str, Exit) {
    match kind {
        ErrorKind::Usage => ("usage", Exit::Usage),
        ErrorKind::Database => ("database", Exit::Failed),
        ErrorKind::DatabaseKeyWanted => ("database_key_wanted", Exit::Failed),
        ErrorKind::Busy => ("busy", Exit::Failed),
        ErrorKind::Schema => ("schema", Exit::Failed),
        ErrorKind::Remote => ("remote", Exit::Failed),
        ErrorKind::Unrelated => ("unrelated", Exit::Failed),
        ErrorKind::Locked => ("locked", Exit::Failed),
        ErrorKind::Key => ("key", Exit::Failed),
        ErrorKind::Clock => ("clock", Exit::Failed),
        ErrorKind::Interrupted => ("interrupted", Exit::Interrupted),
        ErrorKind::Corrupt => ("corrupt", Exit::Failed),
        _ => ("other", Exit::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Link>>);

    impl std::fmt::Display for Link {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Link {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|link| link as _)
        }
    }

    #[test]
    fn causes_do_not_repeat_what_was_said() {
        let chain = Link("file is not a database", Some(Box::new(Link("code 26", None))));
        assert_eq!(causes("a.db: file is not a database", Some(&chain)), ["code 26"]);
        assert_eq!(causes("a.db cannot be opened", Some(&chain)), ["file is not a database", "code 26"]);
        assert!(causes("alone", None).is_empty());
    }
}
