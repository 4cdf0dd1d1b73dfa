//! Repair: our own tables made right again, from the log and from what the user's tables show. Decides what is evidence of
//! what; a value that a user wrote is never dropped, and none is made up. Writes our tables; the rows are left to a merge.
//!
//! What can be damaged is of two kinds. The log is the truth: what it lost cannot be made again from within, and the report
//! says what can be done. All else is derived: it is made again, and where the tables show what the log cannot account for,
//! somebody wrote it past the triggers, and it is recorded as a change of now.

mod bindings;
mod conflicts;
mod facts;
mod journal;
mod places;
mod registers;
mod remotes;
mod rows;
mod told;
mod tracked;

use rusqlite::Connection;

use crate::capture::seal_within;
use crate::changelog::Log;
use crate::db::{Turns, immediate, lacking, make_again};
use crate::error::Result;
use crate::merge::merge;
use crate::report::{RepairReport, SyncReport};
use crate::verify::verify_damaged;
use crate::world::World;
use told::Told;

/// Looks for damage, mends it, and looks again. A replica without damage is left as it is.
pub(crate) fn repair(conn: &mut Connection, world: &World, progress: &dyn Fn(u64)) -> Result<RepairReport> {
    let mut before = verify_damaged(conn, world, progress)?;
    if before.problem_count == 0 {
        // What waits for a merge hides whether rows that are not shown are noted as they should be.
        merge(conn, world, &mut Turns::default(), &|_| ())?;
        before = verify_damaged(conn, world, progress)?;
    }
    if before.problem_count == 0 {
        return Ok(RepairReport { after: before, ..RepairReport::default() });
    }
    let mut told = Told::default();
    if lacking(conn)?.iter().any(|lack| lack.is_of_the_log()) {
        told.instruct(LOG_IS_LOST);
        return Ok(told.report(before.clone(), before));
    }
    mend(conn, world, &mut told)?;
    let after = verify_damaged(conn, world, progress)?;
    if after.problem_count > 0 && told.needs_nobody() {
        told.instruct(LEFT);
    }
    Ok(told.report(before, after))
}

const LOG_IS_LOST: &str = "the log itself (ZV_CHANGE, ZV_CHANGE_FIELD) is gone, and with it the history; your own tables are whole. \
     Keep this file. If a remote has everything that was pushed, `zvon clone URL new.db` makes a replica from it, and what this \
     file has beyond it can be copied from its tables. If nothing was pushed, make a new replica of your tables: \
     `sqlite3 this.db '.dump TABLE' | sqlite3 new.db` for each table, then `zvon init new.db` and `zvon track`";

const LEFT: &str = "what is left could not be mended from here. Keep a copy of this file. `zvon repair --remote URL` fetches what the \
     log lacks and a remote has; if a remote has everything that was pushed, `zvon clone URL new.db` makes a whole replica from \
     it; your own tables in this file are as they were";

/// Adds what a sync that read every file did for a remote.
pub(crate) fn tell_of_remote(report: &mut RepairReport, synced: &SyncReport) {
    report.found += synced.healed;
    let mut tell = |count: u64, what: &str| {
        if count > 0 {
            report.done.push(format!("{what} {}: {count}", synced.remote));
        }
    };
    tell(synced.healed, "lost or spoilt changes put back on");
    tell(synced.pushed.saturating_sub(synced.healed), "changes that were not there pushed to");
    tell(synced.pulled, "changes fetched from");
}

/// One transaction makes our tables right; the merge that follows brings the user's tables in line.
fn mend(conn: &mut Connection, world: &World, told: &mut Told) -> Result<()> {
    let tx = immediate(conn)?;
    for lack in lacking(&tx)? {
        make_again(&tx, &lack)?;
        told.did(1, |_| format!("{} was made again, as it was missing or not as it should be", lack.name()));
    }
    facts::mend(&tx, world, told)?;
    tracked::mend(&tx, told)?;
    places::mend(&tx, told)?;
    facts::mend_clock(&tx, told)?;
    let evidence = registers::rebuild(&tx, told)?;
    bindings::mend(&tx, &evidence, told)?;
    journal::mend(&tx, told)?;
    let mut log = Log::new(&tx)?;
    let sealed = seal_within(&mut log, world)?;
    told.did(sealed, |n| format!("{n} writes that waited in the journal were recorded"));
    rows::weigh(&mut log, world, &evidence, told)?;
    log.finish()?;
    rows::keep_notes(&tx)?;
    rows::touch_hidden(&tx, told)?;
    conflicts::mend(&tx, told)?;
    remotes::mend(&tx, told)?;
    crate::sync::define(&tx)?;
    evidence.forget(&tx)?;
    tx.commit()?;
    merge(conn, world, &mut Turns::default(), &|_| ())?;
    rows::tell_of_notes(conn, told)
}
