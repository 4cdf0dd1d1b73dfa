#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod blocking;
mod capture;
mod changelog;
mod db;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod guard;
mod history;
mod merge;
mod model;
mod remote;
mod repair;
mod replica;
mod report;
mod seal;
mod status;
mod sync;
mod verify;
mod watch;
mod wire;
mod world;

pub use blocking::work_in_place;
pub use db::DatabaseKey;
pub use error::{Error, ErrorKind, Result};
pub use model::{AuthorId, Change, ChangeId, Field, Value};
pub use remote::{Remote, RemoteOptions, Traffic};
pub use replica::{AlterOptions, Replica, TrackOptions};
pub use report::*;
pub use seal::{Lock, Recipient, Secret};
pub use sync::{CompactOptions, Join, RemoteLayout as Layout, Settings, SyncOptions};
pub use watch::{WatchCause, WatchEvent, WatchOptions};
pub use world::World;
