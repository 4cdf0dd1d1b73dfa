//! SQLite itself: opening a file, our own tables, the shape of a user's, quoted names. Knows nothing of changes or remotes.

mod at_rest;
mod create_sql;
mod default;
mod error;
mod key;
mod metadata;
mod open;
mod quote;
mod shape;
mod structure;
mod tokens;
mod turns;
mod value;

pub(crate) use create_sql::{ColumnSql, Event, IndexSql, SetColumn, TriggerSql, checked_names};
pub(crate) use default::{constant_default, constant_expression};
pub use key::DatabaseKey;
pub(crate) use metadata::{Metadata, forget_metadata, get_metadata, set_metadata};
pub(crate) use open::{
    create_replica, encrypt_database, immediate, is_blank, open_damaged, open_database, open_replica, record_version,
};
pub(crate) use quote::{Ident, list};
pub(crate) use shape::{
    Affinity, Column, ForeignKey, Generated, Part, Shapes, Table, TableKind, Unique, condition, read_affinity,
    read_collations, read_table, refers_to, refers_to_any, same_name, table_names,
};
pub(crate) use structure::{Lack, lacking, make_again};
pub(crate) use tokens::{Token, Tokens, without_tail};
pub(crate) use turns::Turns;
pub(crate) use value::{bind_logged, bind_ref, bind_value, read_value};
