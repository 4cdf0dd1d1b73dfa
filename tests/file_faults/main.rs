//! System calls that fail under the built `zvon`, and folders that may not be written: the message says what and where, the database
//! is sound, nothing is lost, the same command then does its work, and the other replica gets everything.
//!
//! `cargo test --test file_faults` fails some calls of each command; `ZVON_SEED` chooses others, `ZVON_FAULTS` says how many of each
//! kind, `ZVON_FAULTS=100000` is all of them.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod failing_calls;
mod permissions;

const NOTES: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT)";
