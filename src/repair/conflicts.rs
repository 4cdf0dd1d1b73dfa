//! `ZV_CONFLICT`: entries that name changes which the log has, and a column that both of them wrote.

use rusqlite::Connection;

use super::told::Told;
use crate::changelog::{mend_conflicts, wrong_conflicts};
use crate::error::Result;

pub(super) fn mend(conn: &Connection, told: &mut Told) -> Result<()> {
    let wrong = wrong_conflicts(conn)?;
    let gone = wrong.iter().filter(|(_, right)| right.is_none()).count() as u64;
    mend_conflicts(conn, &wrong)?;
    told.did(wrong.len() as u64 - gone, |n| {
        format!("{n} recorded conflicts were put right by the changes that they name")
    });
    told.did(gone, |n| format!("{n} entries of ZV_CONFLICT that are no conflict were taken out"));
    Ok(())
}
