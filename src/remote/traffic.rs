//! What a remote has cost so far: counters that only grow, and the copy of them that callers see.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::report::RequestCounts;

/// Requests made and bytes moved through a [`Remote`](crate::Remote) and its clones since it was made.
///
/// On S3 these are HTTP requests as sent: every attempt and every page of a listing counts. Elsewhere they are calls.
/// Bytes are those of the bodies: objects both ways and, on S3, listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Listings, or pages of one.
    pub list: u64,
    /// Objects asked for.
    pub get: u64,
    /// Objects written.
    pub put: u64,
    /// Objects deleted.
    pub delete: u64,
    /// Objects whose properties alone were asked for.
    pub head: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

impl Traffic {
    /// The requests since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> RequestCounts {
        RequestCounts {
            list: self.list - earlier.list,
            get: self.get - earlier.get,
            put: self.put - earlier.put,
            delete: self.delete - earlier.delete,
            head: self.head - earlier.head,
        }
    }
}

/// What a request does, as far as the counters care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    List,
    Get,
    Put,
    Delete,
    Head,
}

/// The live counters behind [`Traffic`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    list: AtomicU64,
    get: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    head: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Counters {
    pub(super) fn request(&self, request: Request) {
        let counter = match request {
            Request::List => &self.list,
            Request::Get => &self.get,
            Request::Put => &self.put,
            Request::Delete => &self.delete,
            Request::Head => &self.head,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Traffic {
        Traffic {
            list: self.list.load(Ordering::Relaxed),
            get: self.get.load(Ordering::Relaxed),
            put: self.put.load(Ordering::Relaxed),
            delete: self.delete.load(Ordering::Relaxed),
            head: self.head.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}
