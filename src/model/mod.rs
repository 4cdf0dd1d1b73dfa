//! Pure values and rules: ids and their clock, column values, changes, registers. Does no I/O, reads no clock, draws no randomness.

mod change;
mod entity_id;
mod id;
mod register;
mod value;
mod visible;

pub use change::{AuthorId, Change, Field};
pub use id::ChangeId;
pub use value::Value;

pub(crate) use change::{DELETED_FIELD, ROWID_FIELD, is_reserved_table};
pub(crate) use entity_id::{KeyKind, KeyPart, decode_entity_id, digits_of, encode_entity_id};
pub(crate) use id::{CLOCK_FLOOR_MS, Clock};
pub(crate) use register::{DELETED_COLUMN, Register, Registers, wins};
pub(crate) use visible::{Claim, settle_claims};
