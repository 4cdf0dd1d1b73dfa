//! What the public calls answer: plain data, ready for JSON. Holds no logic.

use serde::Serialize;

/// What a sync did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SyncReport {
    /// The remote, without secrets.
    pub remote: String,
    /// Changes that came from the remote into the log.
    pub pulled: u64,
    /// Changes that were written to the remote.
    pub pushed: u64,
    /// Changes that were folded into the registers and shown where they won.
    pub merged: u64,
    /// Rows alive in the registers that a constraint or a trigger keeps out of their tables, now.
    pub held: u64,
    /// Conflicts recorded by this sync.
    pub conflicts: u64,
    /// Unreadable files now on the remote.
    pub rejected: u64,
    /// Those of them that this sync found, or found changed: the first thousand.
    pub newly_rejected: Vec<RejectedFile>,
    /// How many more of those there are.
    pub newly_rejected_more: u64,
    /// Changes on the remote whose time, by this machine's clock, is still to come.
    pub waiting: u64,
    /// Own changes too large for the remote: they stay in the log, and the sync counts as failed.
    pub oversize: Vec<OversizeChange>,
    /// Own changes that got new ids because the clock had been wrong when they were made.
    pub redated: u64,
    /// Files that had gone missing from the remote and were put back.
    pub healed: u64,
    /// Whether so much has piled up that a compaction is worth its while.
    pub compaction_due: bool,
    /// What else the user should know, a sentence each.
    pub notices: Vec<String>,
    /// Requests made.
    pub requests: RequestCounts,
    /// Bytes received in objects.
    pub bytes_in: u64,
    /// Bytes sent in objects.
    pub bytes_out: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// So many refused files are told by name.
pub(crate) const MAX_REJECTED: usize = 1_000;

impl SyncReport {
    /// Tells of a file that was refused: by name, as long as there is room.
    pub(crate) fn tell_rejected(&mut self, file: RejectedFile) {
        if self.newly_rejected.len() < MAX_REJECTED {
            self.newly_rejected.push(file);
        } else {
            self.newly_rejected_more += 1;
        }
    }
}

/// What lies on a remote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoteSurvey {
    /// Loose files: changes in a file each.
    pub loose_files: u64,
    /// Their bytes.
    pub loose_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Packs that this replica has not looked into yet.
    pub unknown_packs: u64,
    /// Objects in all, table definitions and the like included.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many objects compaction would leave, once what it replaces is removed.
    pub objects_compacted: u64,
    /// Requests that list the remote in a bucket, where a page holds 1,000 names: what an idle sync costs.
    pub list_requests: u64,
    /// The same after compaction.
    pub list_requests_compacted: u64,
    /// By how many milliseconds this machine's clock is ahead of the store's; nothing where that cannot be told.
    pub clock_skew_ms: Option<i64>,
    /// Requests made to find this out.
    pub requests: RequestCounts,
}

/// What a compaction did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompactReport {
    /// The remote, without secrets.
    pub remote: String,
    /// Whether nothing was done and the rest says what would be.
    pub dry_run: bool,
    /// Loose files whose changes went into new packs.
    pub packed_files: u64,
    /// Packs whose changes did.
    pub joined_packs: u64,
    /// Changes in the new packs.
    pub changes: u64,
    /// New packs.
    pub written_packs: u64,
    /// Their bytes.
    pub bytes_written: u64,
    /// Loose files removed, as packs hold their changes.
    pub removed_files: u64,
    /// Packs removed, as packs of greater names hold their changes.
    pub removed_packs: u64,
    /// Loose files and packs that a later compaction will remove, once their grace time is over.
    pub unripe: u64,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// Requests made.
    pub requests: RequestCounts,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// Requests by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RequestCounts {
    /// Listings (pages of them, where the store pages).
    pub list: u64,
    /// Downloads.
    pub get: u64,
    /// Uploads.
    pub put: u64,
    /// Deletions.
    pub delete: u64,
    /// Look-ups of an object's facts.
    pub head: u64,
}

/// A remote file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RejectedFile {
    /// Its name under the remote's base path.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it was refused.
    pub reason: String,
}

/// An own change above the limit that a remote file has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OversizeChange {
    /// The change's id.
    pub id: String,
    /// Its table.
    pub table: String,
    /// The size of its file in bytes.
    pub bytes: u64,
}

/// What `track` did for one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TrackReport {
    /// The table's name.
    pub table: String,
    /// Rows that were there before and are in the log now.
    pub backfilled: u64,
    /// Rows written while capture was off.
    pub changed: u64,
    /// Rows deleted while capture was off.
    pub deleted: u64,
    /// Rows that are missing since the table was dropped or rebuilt; the next merge shows them again.
    pub missing: u64,
    /// The table's name before it was altered, if that was another.
    pub renamed_from: Option<String>,
    /// Columns that have another name since the table was altered: before, now. The log keeps the names before.
    pub renamed: Vec<(String, String)>,
    /// Columns that are gone since the table was altered; the log keeps their values.
    pub dropped: Vec<String>,
    /// What else the user should know, or nothing.
    pub notice: String,
}

/// A replica at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The replica's author id.
    pub database_uuid: String,
    /// The version of zvon's tables in it.
    pub format_version: u32,
    /// The remote that `init --remote` saved.
    pub default_remote: Option<String>,
    /// The tables that are tracked, or were.
    pub tables: Vec<TableStatus>,
    /// Changes in the log.
    pub changes: u64,
    /// Writes captured and not sealed yet.
    pub journal: u64,
    /// Changes not merged yet, those of unknown tables and columns aside.
    pub unmerged: u64,
    /// Rows that are held.
    pub held: u64,
    /// Changes of tables or columns that do not exist here, or are not tracked.
    pub unknown: u64,
    /// Conflicts nobody has restored.
    pub conflicts: u64,
    /// The remotes that this replica has met.
    pub remotes: Vec<RemoteStatus>,
    /// What is wrong with clocks, a sentence each.
    pub clocks: Vec<String>,
    /// Own changes too large for a remote.
    pub oversize: Vec<OversizeChange>,
    /// What else the user should know, a sentence each.
    pub notices: Vec<String>,
}

/// A tracked table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Whether its writes are captured now.
    pub tracked: bool,
    /// Rows that it shows.
    pub rows: u64,
    /// Rows of it that are held.
    pub held: u64,
    /// What the user should know of it, or nothing.
    pub notice: String,
}

/// A remote that the replica has met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoteStatus {
    /// Its URL, without secrets.
    pub url: String,
    /// Changes that wait to be pushed there (writes in the journal among them).
    pub to_push: u64,
    /// When the last sync with it ended, in milliseconds since the Unix epoch; 0 for never.
    pub last_sync_ms: u64,
    /// `files` or `packs`, as recorded there.
    pub layout: String,
    /// Whether what lies there is encrypted.
    pub encrypted: bool,
    /// Files there that cannot be read: the first thousand.
    pub rejected: Vec<RejectedFile>,
    /// How many more of those are remembered. A sync counts them all.
    pub rejected_more: u64,
    /// Changes there whose time is still to come, by author.
    pub waiting: Vec<WaitingChanges>,
}

/// Who can open an encrypted remote. Holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeysReport {
    /// The remote's URL.
    pub remote: String,
    /// The age recipients that can open what is written from now on; none if a passphrase opens it.
    pub recipients: Vec<String>,
    /// Every epoch, oldest first.
    pub epochs: Vec<EpochReport>,
}

/// One epoch of an encrypted remote's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EpochReport {
    /// Its id: its key file is `keys/{epoch}.age`.
    pub epoch: String,
    /// When it was made, by its maker's clock, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Whether what is written now is sealed with its key.
    pub current: bool,
    /// The age recipients that could open its key file; none if a passphrase opens it.
    pub recipients: Vec<String>,
}

/// Changes of one author that lie too far ahead of this machine's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingChanges {
    /// Whose clock it is.
    pub author: String,
    /// How many changes.
    pub changes: u64,
    /// How far the farthest is ahead of this machine's clock, in milliseconds.
    pub ahead_ms: u64,
}

/// A change in the history.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LogEntry {
    /// The change's id.
    pub id: String,
    /// When it was made, by its author's clock, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Whether it records a row that was there before its table was tracked.
    pub backfill: bool,
    /// Who made it.
    pub author: String,
    /// Whether that was this replica.
    pub own: bool,
    /// Its table.
    pub table: String,
    /// Its row's key.
    pub row: String,
    /// Whether it deletes the row.
    pub deletes: bool,
    /// Whether it has been merged.
    pub merged: bool,
    /// What it wrote, by column.
    pub fields: Vec<LogField>,
}

/// A column's value in the history.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LogField {
    /// The column.
    pub name: String,
    /// The value; text that is not UTF-8 and blobs as `x'…'` in hexadecimal digits.
    pub value: serde_json::Value,
}

/// Two writes of one column that did not know of each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Conflict {
    /// Its number, by which it is restored.
    pub number: i64,
    /// The table.
    pub table: String,
    /// The row's key.
    pub row: String,
    /// The column.
    pub column: String,
    /// The id of the change that won here.
    pub winner: String,
    /// Who made it.
    pub winner_author: String,
    /// The value that won.
    pub winning_value: serde_json::Value,
    /// The id of the change that lost.
    pub loser: String,
    /// Who made it.
    pub loser_author: String,
    /// The value that lost: it is in the log, and can be brought back.
    pub losing_value: serde_json::Value,
    /// When this replica noticed, in milliseconds since the Unix epoch.
    pub seen_ms: u64,
    /// Whether the losing value has been brought back.
    pub restored: bool,
}

/// What is not shown, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// Rows that a constraint or a trigger keeps out.
    pub rows: Vec<HeldEntity>,
    /// Changes of tables and columns that do not exist here or are not tracked.
    pub unknown: Vec<UnknownName>,
    /// References, written here, to rows that are not here: they are not in the log until they can be translated.
    pub references: Vec<UntranslatedReference>,
}

/// A reference that cannot be translated yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UntranslatedReference {
    /// The table.
    pub table: String,
    /// The row's key, as far as it is known.
    pub row: String,
    /// The column, or nothing where the reference is part of the key, so that the whole row waits.
    pub column: Option<String>,
}

/// A row that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeldEntity {
    /// The table.
    pub table: String,
    /// The row's key.
    pub row: String,
    /// The kind of reason: `unique`, `foreign key`, `not null`, `check`, `type`, `trigger`, `key`, `other`.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
}

/// A table or column that changes name and that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnknownName {
    /// The table.
    pub table: String,
    /// The column, or nothing where the table is what lacks.
    pub column: Option<String>,
    /// How many changes wait for it.
    pub changes: u64,
}

/// The promises, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Changes looked at.
    pub changes: u64,
    /// Rows compared with the log.
    pub rows: u64,
    /// Objects of the remote compared with the log, where asked for.
    pub remote_objects: u64,
    /// What does not hold, a sentence each (the first thousand); empty if all is well.
    pub problems: Vec<String>,
    /// How many problems there are in all.
    pub problem_count: u64,
}

/// What a repair found, did and left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// How many problems there were; none where there was nothing to repair.
    pub found: u64,
    /// Those problems, a sentence each (the first thousand).
    pub problems: Vec<String>,
    /// What was done, a sentence for each kind.
    pub done: Vec<String>,
    /// What cannot be mended from here, and exactly what to do about it.
    pub instructions: Vec<String>,
    /// What does not hold now; no problems if all is well.
    pub after: VerifyReport,
}

/// How far a long operation is; a callback gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// How much of it is done, in the phase's unit.
    pub done: u64,
    /// How much there is to do, where that is known.
    pub total: Option<u64>,
    /// Bytes received from the remote by the whole operation so far.
    pub bytes_in: u64,
    /// Bytes sent to the remote by the whole operation so far.
    pub bytes_out: u64,
}

impl Progress {
    /// Progress that has moved no bytes yet.
    pub fn new(phase: Phase, done: u64, total: Option<u64>) -> Self {
        Self { phase, done, total, bytes_in: 0, bytes_out: 0 }
    }
}

/// The phases of long operations, each counted in the unit that its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Writes of the journal becoming changes.
    Seal,
    /// Names of objects being listed.
    List,
    /// Changes being fetched.
    Pull,
    /// Changes being merged.
    Merge,
    /// Changes being pushed.
    Push,
    /// Changes being verified.
    Verify,
}
