//! Time and randomness: the one seam through which both come in, so that a test can own them.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a replica takes the time and its random bits from.
///
/// The triggers of a tracked table read the clock on their own, by SQLite's `julianday('now')`.
#[derive(Clone)]
pub struct World {
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl World {
    /// A world of one's own: the wall clock in milliseconds since the Unix epoch, and random bits.
    pub fn new(
        now_ms: impl Fn() -> u64 + Send + Sync + 'static,
        random: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { now_ms: Arc::new(now_ms), random: Arc::new(random) }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    pub(crate) fn random(&self) -> u64 {
        (self.random)()
    }

    /// A UUID of version 7, for an author or a remote's identity.
    pub(crate) fn uuid(&self) -> uuid::Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random().to_be_bytes());
        random[8..].copy_from_slice(&self.random().to_be_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(self.now_ms(), &random).into_uuid()
    }
}

impl Default for World {
    /// The system's clock and the process's random generator.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn default() -> Self {
        let now_ms = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        Self::new(now_ms, rand::random)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
