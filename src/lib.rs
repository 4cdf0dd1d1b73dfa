#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod capture;
mod changelog;
mod db;
mod error;
mod merge;
mod model;
mod remote;
mod replica;
mod report;
mod sync;
mod verify;
mod wire;
mod world;
