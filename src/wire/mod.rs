//! (in the making)

mod name;

pub(crate) use name::{ObjectName, ParsedName};
