//! `ZV_METADATA`: a replica's few facts, by key. Knows the keys; what they mean is their users' affair.

use rusqlite::{Connection, OptionalExtension};

use crate::error::{Error, Result};

/// A key of `ZV_METADATA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// The replica's author id, a UUIDv7.
    DatabaseUuid,
    /// The version of our tables.
    FormatVersion,
    /// The clock's `last`: the greatest id made or merged.
    LastId,
    /// How many rows this replica has backfilled.
    Backfilled,
    /// The greatest own id that may have left this machine.
    ExposedId,
    /// How many backfills may have left this machine.
    ExposedBackfills,
    /// The greatest sequence number that a merge has folded.
    MergedSeq,
    /// The remote that `init --remote` named.
    Remote,
    /// The remote of which the replica is to be a clone, until it is one.
    Cloning,
    /// How often all that was remembered of a remote was forgotten, as it turned out empty.
    Emptied,
    /// Of each remote, for which files from the future it was found that this machine's clock is right.
    ClockTrusted,
    /// Of each remote, how often compactions in a row could not be finished, and until when the next one waits.
    Compactions,
}

impl Metadata {
    fn key(self) -> &'static str {
        match self {
            Self::DatabaseUuid => "database_uuid",
            Self::FormatVersion => "format_version",
            Self::LastId => "last_id",
            Self::Backfilled => "backfilled",
            Self::ExposedId => "exposed_id",
            Self::ExposedBackfills => "exposed_backfills",
            Self::MergedSeq => "merged_seq",
            Self::Remote => "remote",
            Self::Cloning => "cloning",
            Self::Emptied => "emptied",
            Self::ClockTrusted => "clock_trusted",
            Self::Compactions => "compactions",
        }
    }
}

/// A fact, read as `T`; `None` where it was never set.
pub(crate) fn get_metadata<T: std::str::FromStr>(conn: &Connection, key: Metadata) -> Result<Option<T>> {
    let text: Option<String> = conn
        .prepare_cached("SELECT value FROM ZV_METADATA WHERE key = ?1")?
        .query_row([key.key()], |row| row.get(0))
        .optional()?;
    text.map(|text| {
        text.parse().map_err(|_| Error::corrupt(format!("ZV_METADATA holds no valid value of {}", key.key())))
    })
    .transpose()
}

/// Sets a fact; nothing is written where it stands already.
pub(crate) fn set_metadata(conn: &Connection, key: Metadata, value: impl ToString) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO ZV_METADATA (key, value) VALUES (?1, ?2) \
         ON CONFLICT (key) DO UPDATE SET value = ?2 WHERE value IS NOT ?2",
    )?
    .execute((key.key(), value.to_string()))?;
    Ok(())
}

/// Forgets a fact.
pub(crate) fn forget_metadata(conn: &Connection, key: Metadata) -> Result<()> {
    conn.prepare_cached("DELETE FROM ZV_METADATA WHERE key = ?1")?.execute([key.key()])?;
    Ok(())
}
