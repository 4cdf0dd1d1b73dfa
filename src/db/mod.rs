//! (in the making)

mod guard;

pub(crate) use guard::check_definition;
