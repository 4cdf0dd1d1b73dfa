//! Where an answer goes: text or one JSON document on stdout, diagnostics on stderr. Decides nothing about either.

use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, Write as _};
use std::pin::Pin;

use serde::Serialize;

use crate::cli::Global;
use crate::failure::{Exit, Failure, Told};
use crate::text;

/// What a command has to say.
#[derive(Debug)]
pub struct Answer {
    json: Option<String>,
    text: String,
    summary: bool,
    warnings: Vec<String>,
    exit: Exit,
    afterwards: Option<Afterwards>,
}

/// Work that nobody waits for an answer because of.
pub struct Afterwards(pub Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>);

impl std::fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Afterwards")
    }
}

impl Answer {
    /// What the user asked to see: data for programs, text for people.
    pub fn new(data: &impl Serialize, text: String) -> Self {
        Self { json: Some(json(data)), text, summary: false, warnings: Vec::new(), exit: Exit::Done, afterwards: None }
    }

    /// A word on what was done, which `--quiet` leaves out.
    pub fn summary(data: &impl Serialize, text: String) -> Self {
        Self { summary: true, ..Self::new(data, text) }
    }

    /// Nothing: all has been told on the way.
    pub fn told() -> Self {
        Self {
            json: None,
            text: String::new(),
            summary: true,
            warnings: Vec::new(),
            exit: Exit::Done,
            afterwards: None,
        }
    }

    /// What must be noticed even where stdout goes elsewhere, a sentence each.
    pub fn warn(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// What is to be done once the answer is out. Should it fail, that is a warning.
    pub fn then(mut self, work: impl Future<Output = Result<(), Failure>> + Send + 'static) -> Self {
        self.afterwards = Some(Afterwards(Box::pin(work)));
        self
    }

    /// Takes what is to be done once the answer is out.
    pub fn take_afterwards(&mut self) -> Option<Afterwards> {
        self.afterwards.take()
    }

    /// How the process ends, where that is not well.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
}

impl Output {
    pub fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet }
    }

    /// Prints an answer and says how the process ends.
    pub fn answer(self, answer: &Answer) -> Exit {
        for warning in &answer.warnings {
            self.warn(warning);
        }
        let result = match self.json {
            true => answer.json.as_ref().map_or(Ok(()), |json| write_out(&document(json))),
            false if self.quiet && answer.summary => Ok(()),
            false => write_out(&answer.text),
        };
        match result {
            Ok(()) | Err(Failure::BrokenPipe) => answer.exit,
            Err(failure) => self.failure(&failure),
        }
    }

    /// Tells of work after the answer that failed: the answer stands all the same.
    pub fn remark(self, failure: &Failure) {
        if let Failure::Error(told) = failure
            && !self.quiet
        {
            complain(&format!("warning: the remote was not compacted: {}\n", text::plain(&told.message)));
        }
    }

    /// Prints an error and says how the process ends.
    pub fn failure(self, failure: &Failure) -> Exit {
        let Failure::Error(told) = failure else { return Exit::Done };
        complain(&sentence(told));
        if self.json {
            // A stdout that is gone leaves only stderr, which has been told.
            let _ = write_out(&document(&line(&Errors { error: told })));
        }
        told.exit
    }

    /// Says what must be noticed, on stderr.
    pub fn warn(self, warning: &str) {
        complain(&format!("warning: {}\n", text::plain(warning)));
    }

    /// Prints one of many documents, on a line of its own, or the words for it, if there are any.
    pub fn line(self, data: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.json {
            true => write_out(&document(&line(data))),
            false if self.quiet => Ok(()),
            false => match words() {
                words if words.is_empty() => Ok(()),
                words => write_out(&words),
            },
        }
    }

    /// Prints a part of a longer story, unless the answer is to be JSON.
    pub fn tell(self, part: &str) -> Result<(), Failure> {
        if self.json || self.quiet { Ok(()) } else { write_out(part) }
    }
}

/// An error with its causes, a line each.
fn sentence(told: &Told) -> String {
    let mut out = format!("error: {}\n", text::plain(&told.message));
    for cause in &told.causes {
        let _ = writeln!(out, "  because: {}", text::plain(cause));
    }
    out
}

/// An error as JSON has it.
#[derive(Serialize)]
struct Errors<'a> {
    error: &'a Told,
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string_pretty(data).expect("reports have no map whose keys are not text")
}

/// On one line: also an error is, as it may end what printed a document a line.
fn line(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("a line has no map whose keys are not text")
}

/// A JSON document on lines of its own. What could drive a terminal only occurs within its strings, where it can be written as an escape.
fn document(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        match c {
            c if c != '\n' && text::is_unsafe(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}

/// Writes to stderr; a stderr that is closed is nobody's to be told of.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_sentence_and_its_causes() {
        let causes = vec!["disk I/O error".to_owned(), "EIO\n".to_owned()];
        let told = Told { exit: Exit::Failed, kind: "database", message: "a.db cannot be read".to_owned(), causes };
        assert_eq!(sentence(&told), "error: a.db cannot be read\n  because: disk I/O error\n  because: EIO\\n\n");
    }

    #[test]
    fn a_document_stays_json_and_drives_no_terminal() {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "a": "\u{9b}31m\u{7f}\u{202e}ü" })).unwrap();
        let document = document(&json);
        assert!(document.chars().all(|c| c == '\n' || !text::is_unsafe(c)), "{document:?}");
        let read: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(read["a"], "\u{9b}31m\u{7f}\u{202e}ü");
    }
}
