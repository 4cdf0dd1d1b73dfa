//! The model as bytes and back: change files and control objects, as `docs/format.md` has them, and the names of objects.
//! Every input gives a value or an error; knows neither where the bytes come from nor any table.

mod bad_file;
mod change_file;
mod control;
mod name;
mod pack;
mod reader;

pub(crate) use bad_file::BadFile;
pub(crate) use change_file::{decode_change, encode_change};
pub(crate) use control::{Identity, Layout, RemoteIdentity, TableDefinition};
pub(crate) use name::{ObjectName, ParsedName};
pub(crate) use pack::{
    HEADER_GUESS, MAX_HEADER_BYTES, MAX_PACK_CHANGES, MAX_PACKED_CHANGE, PackHeader, PackWriter, Packed, Records,
    decode_block, decode_ids, encode_ids, is_frozen,
};
