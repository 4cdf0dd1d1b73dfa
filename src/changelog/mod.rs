//! Our own tables: the log, its sequence, names, registers, and what is remembered of rows and remotes. Touches no user table.

mod conflicts;
mod held;
mod log;
mod names;
mod read;
mod tracked;

pub(crate) use conflicts::{ConflictRow, count_conflicts, list_conflicts, mark_restored, record_conflict};
pub(crate) use held::{HeldRow, count_held, count_pending, hold, list_held, list_pending, release};
pub(crate) use log::{Entity, Log, NewChange};
pub(crate) use names::{Names, lower};
pub(crate) use read::{IdText, LoggedField, LoggedHead, contains, read_change, read_fields, read_head};
pub(crate) use tracked::{Source, Tracked, add_source, list_tracked, read_source, save_tracked, touch};
