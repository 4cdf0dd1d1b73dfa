//! Work that blocks (SQLite, disks, codecs): the one way to it. On a thread that may block, or in place, where a simulation
//! owns the order of everything.

use std::cell::Cell;

use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// Lets this thread do work that blocks in place, or not any more, rather than hand it to other threads.
///
/// For simulations: in a runtime of one thread whose clock is paused, everything then happens in one order, which a seed can
/// decide. Anywhere else it would let a database or a disk hold up all other tasks of the thread.
///
/// ```
/// zvon::work_in_place(true);
/// # zvon::work_in_place(false);
/// ```
pub fn work_in_place(yes: bool) {
    IN_PLACE.set(yes);
}

/// Whether work that blocks is done in place on this thread.
pub(crate) fn is_in_place() -> bool {
    IN_PLACE.get()
}

/// Does work that blocks; a panic in it is the caller's.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if is_in_place() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(ErrorKind::Interrupted, "the runtime is shutting down")),
        },
    }
}
