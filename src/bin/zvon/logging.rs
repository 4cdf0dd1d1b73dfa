//! What the library tells of its work, on stderr, where asked for by `-v` or `RUST_LOG`.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::cli::Global;
use crate::failure::Failure;

/// Starts logging where it is asked for, and says whether it was.
pub fn start(global: &Global) -> Result<bool, Failure> {
    let Some(directives) = directives(global) else { return Ok(false) };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| Failure::usage(format!("RUST_LOG={directives} cannot be read: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(true)
}

/// The flag goes before the environment.
fn directives(global: &Global) -> Option<String> {
    match global.verbose {
        0 if global.quiet => None,
        0 => std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty()),
        1 => Some("zvon=info".to_owned()),
        _ => Some("zvon=debug".to_owned()),
    }
}
