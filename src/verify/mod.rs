//! Verifying: does every table equal what the log says? The log is folded anew, and which rows are to be shown computed anew, by
//! paths that share with the merge only the pure rules, the equality of values and the reading of what a row claims. Reads everything in one snapshot; writes nothing, and knows no remote.

mod catalog;
mod change;
mod context;
mod entity;
mod fold;
mod leftovers;
mod log;
mod own;
mod problems;
#[cfg(test)]
mod tests;
mod visible;

use rusqlite::Connection;

use crate::capture::seal;
use crate::db::Turns;
use crate::error::{Error, ErrorKind, Result};
use crate::report::VerifyReport;
use crate::world::World;
use catalog::Catalog;
use context::{Context, Tally};
use problems::Problems;

/// Verifies and seals what was written, whatever the state of our own tables: what keeps either from being done is a problem
/// like any other.
pub(crate) fn verify_damaged(conn: &mut Connection, world: &World, progress: &dyn Fn(u64)) -> Result<VerifyReport> {
    let mut problems = Problems::default();
    let is_whole = own::structure(conn, &mut problems)?;
    let mut report = VerifyReport::default();
    if is_whole {
        report = checked(conn, &mut problems, progress)?;
        // What waits is only recorded by what is sound: a row whose integer is lost would be taken for another.
        let waits: bool = conn.query_row("SELECT EXISTS (SELECT 1 FROM ZV_JOURNAL)", [], |row| row.get(0))?;
        if waits && problems.is_empty() && report.problem_count == 0 {
            match seal(conn, world, &mut Turns::default()) {
                Ok(_) => report = checked(conn, &mut problems, progress)?,
                Err(error) if is_damage(&error) => {
                    problems.add(format_args!("what waits in the journal cannot be recorded: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
    }
    let (kept, count) = problems.into_parts();
    report.problems.splice(0..0, kept);
    report.problem_count += count;
    Ok(report)
}

/// Verifies; what cannot even be read is a problem.
fn checked(conn: &Connection, problems: &mut Problems, progress: &dyn Fn(u64)) -> Result<VerifyReport> {
    match verify(conn, progress) {
        Err(error) if is_damage(&error) => {
            problems.add(format_args!("zvon's own tables cannot be read, so that no more can be checked: {error}"));
            Ok(VerifyReport::default())
        }
        other => other,
    }
}

/// Whether an error says that our own tables hold what they should not, rather than that the file cannot be used now.
fn is_damage(error: &Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows, SqlInputError,
        SqliteFailure, Utf8Error,
    };
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<rusqlite::Error>());
    let is_of_content = match source {
        Some(SqliteFailure(code, _)) => code.code == rusqlite::ErrorCode::ConstraintViolation,
        Some(
            FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | QueryReturnedNoRows
            | SqlInputError { .. }
            | Utf8Error(..),
        ) => true,
        _ => false,
    };
    error.kind() == ErrorKind::Corrupt || is_of_content
}

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
    own::check(conn, &catalog, &mut tally.problems)?;
    log::check(&context, &mut tally, progress)?;
    leftovers::check(&context, &mut tally)?;
    visible::check(&context, &mut tally)?;
    let (problems, problem_count) = tally.problems.into_parts();
    Ok(VerifyReport { changes: tally.changes, rows: tally.rows, problems, problem_count, ..VerifyReport::default() })
}
