//! Capture: triggers that journal every write of a tracked table, and the seal that turns the journal into changes.
//! Reads user tables and writes the log; never writes a user table and knows no remote.

mod alter;
mod check;
mod clash;
mod compare;
mod install;
mod record;
mod recover;
mod references;
mod retranslate;
mod seal;
mod track;
mod trigger;

pub(crate) use alter::{AlterEnd, alter_begin, alter_end};
pub(crate) use check::Wanted;
pub(crate) use compare::{Accounts, Terms, compare, same_reference, same_through_affinity};
pub(crate) use install::Installed;
pub(crate) use record::raw_key;
pub(crate) use recover::{
    Remains, are_references_right, follow_shapes, install_again, journal_width, recover, triggered, wrong_triggers,
};
pub(crate) use seal::{Notes, count_journal, seal, seal_ahead, seal_within, take_notes};
pub(crate) use track::{
    Renewed, TrackOptions, TrackedNow, look_again, parents_first, reinstall, renew, track, untrack,
};
