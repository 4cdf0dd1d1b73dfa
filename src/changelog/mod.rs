//! Our own tables: the log, its sequence, names, registers, and what is remembered of rows and remotes. Touches no user table.

mod aside;
mod conflicts;
mod counters;
mod epochs;
mod held;
mod identity;
mod log;
mod names;
mod placed;
mod read;
mod redate;
mod remembered;
mod remotes;
mod retire;
mod separate;
mod tracked;
mod untranslated;
mod waits;
mod words;

pub(crate) use aside::{forget_aside, forget_aside_of, list_aside, set_aside};
pub(crate) use conflicts::{
    ConflictRow, count_conflicts, list_conflicts, mark_restored, mend_conflicts, record_conflict, wrong_conflicts,
};
pub(crate) use counters::{backfills, greatest_seen, is_exposed};
pub(crate) use epochs::{expect_encrypted, expect_nothing, is_encrypted, pins, remember_pins, set_encrypted};
pub(crate) use held::{
    any_held, count_held, count_pending, hold, list_held, list_pending, list_restless, release, touch_held,
};
pub(crate) use identity::{
    Keyed, References, bind_local, entity_of, give_up_local, integer_in, integer_to_be, local_of, move_local, named,
    referent, referred, to_local, to_logged, unbind_local,
};
pub(crate) use log::{Log, NewChange};
pub(crate) use names::{Names, lower};
pub(crate) use placed::{
    Covered, NewPack, PackRow, Places, complete_pack, each_loose, emptied, forget_loose, forget_pack, forget_places,
    list_packs, lose, lose_packed, lost, pack_ids, pushed_after, regain, regain_unpushed, remember_pack, set_covered,
};
pub(crate) use read::{IdText, LoggedField, contains, read_change, read_fields, read_head};
pub(crate) use tracked::{
    Source, Tracked, add_source, find_tracked, is_touched, list_tracked, put_source, read_names, read_source,
    save_tracked, touch, touch_all,
};
pub(crate) use untranslated::{
    Untranslated, any_untranslated, forget_freed, freed_entity, gave_up, gave_up_any, has_untranslated, leave_out,
    list_freed, list_untranslated, list_untranslated_of, set_free, settle,
};

pub(crate) use redate::redate;
pub(crate) use remembered::{doubt_remote, forget_wrong, wrong_memory};
pub(crate) use remotes::{
    Definition, Kept, LayoutRow, RefusedFile, RemoteRow, ask_for_refused, count_refused, definitions,
    forget_definition, forget_refused, keep, kept, known_identities, list_remotes, newest_definition, pushed_seq,
    refused_file, refused_files, remember_definition, remember_identity, remember_refused, remember_remote, set_pushed,
    set_synced, set_waiting, unkeep, waiting,
};
pub(crate) use retire::{retire_backfills, yield_to_waiting};
pub(crate) use separate::separate;
pub(crate) use waits::{
    BY_VALUES, any_waits, any_waits_by_values, clear_waits, touch_waiting, wait_for, waiting_for,
    waiting_for_others_too, waits_for,
};
pub(crate) use words::{set_word, word};
