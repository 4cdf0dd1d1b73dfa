//! Verifying: does every table equal what the log says? The log is folded anew, and which rows are to be shown computed anew, by
//! paths that share with the merge only the pure rules, the equality of values and the reading of what a row claims. Reads everything in one snapshot; writes nothing, and knows no remote.

mod catalog;
mod change;
mod context;
mod entity;
mod fold;
mod leftovers;
mod log;
mod problems;
#[cfg(test)]
mod tests;
mod visible;

use rusqlite::Connection;

use crate::error::Result;
use crate::report::VerifyReport;
use catalog::Catalog;
use context::{Context, Tally};

/// Compares registers, tables and what is remembered of the log with the log itself. `progress` hears of the changes done.
///
/// Memory holds one entity at a time (and the keys in the journal, which the caller seals first); SQLite does the sorting,
/// and spills it to disk. Pulled changes that no merge has come to are left out: what a merge has done is what is checked.
pub(crate) fn verify(conn: &Connection, progress: &dyn Fn(u64)) -> Result<VerifyReport> {
    // One snapshot, so that what other programs write meanwhile does not look like damage.
    let _snapshot = conn.is_autocommit().then(|| conn.unchecked_transaction()).transpose()?;
    let mut tally = Tally::default();
    let catalog = Catalog::load(conn, &mut tally.problems)?;
    let context = Context::load(conn, &catalog, &mut tally.problems)?;
    log::check(&context, &mut tally, progress)?;
    leftovers::check(&context, &mut tally)?;
    visible::check(&context, &mut tally)?;
    let (problems, problem_count) = tally.problems.into_parts();
    Ok(VerifyReport { changes: tally.changes, rows: tally.rows, problems, problem_count, ..VerifyReport::default() })
}
