//! What is remembered of remotes: what cannot be right is forgotten, and the user hears of it.

use rusqlite::Connection;

use super::told::Told;
use crate::changelog::{forget_wrong, wrong_memory};
use crate::error::Result;

pub(super) fn mend(conn: &Connection, told: &mut Told) -> Result<()> {
    let wrong = wrong_memory(conn)?;
    for (table, count) in wrong.counts() {
        told.did(count, |n| match table {
            "ZV_REMOTE" => format!("what is known of {n} remotes was put right"),
            "ZV_EPOCH" => format!(
                "{n} entries of ZV_EPOCH were forgotten: the next sync takes the keys that it finds there for the right ones, so \
                 compare `zvon key list` with another replica's"
            ),
            "ZV_KEPT" | "ZV_DEFINITION" => format!("{n} entries of {table} were put right, or taken out"),
            _ => format!("{n} entries of {table} were forgotten; the next sync finds out anew"),
        });
    }
    told.did(wrong.forgetful() as u64, |n| {
        format!(
            "of {n} remotes it is not known for sure what they hold: the next sync looks, and puts there what lacks"
        )
    });
    forget_wrong(conn, &wrong)
}
