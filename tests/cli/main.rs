//! The command line, tried through the real binary as a user or a script would.

mod commands;
mod compact;
mod demo;
mod encryption;
mod help;
mod interrupt;
mod place;
mod progress;
#[path = "../common/s3_server.rs"]
mod s3_server;
mod settings;
mod sync;
#[path = "../common/terminal.rs"]
mod terminal;
mod usage;
mod watch;
