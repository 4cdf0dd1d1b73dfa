//! A wall clock that a test owns: what a replica's world says, and what SQLite's `julianday('now')` says to its triggers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use zvon::{Replica, Settings, World};

use super::keyed;

/// 2027-01-15 in milliseconds since the Unix epoch: when the tests' clocks start.
pub const START_MS: u64 = 1_800_000_000_000;
pub const HOUR_MS: u64 = 3_600_000;
pub const DAY_MS: u64 = 24 * HOUR_MS;

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Wall(Arc<AtomicU64>);

impl Wall {
    pub fn at(ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(ms)))
    }

    pub fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }

    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// This clock, and random bits that a seed decides (SplitMix64).
    pub fn world(&self, seed: u64) -> World {
        let (wall, state) = (self.clone(), AtomicU64::new(seed));
        let random = move || {
            let mut z = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        World::new(move || wall.now_ms(), random)
    }

    /// Lets the triggers of a connection read this clock.
    pub fn install(&self, conn: &Connection) {
        let wall = self.clone();
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let julian = move |_: &rusqlite::functions::Context<'_>| Ok(wall.now_ms() as f64 / 86_400_000.0 + 2_440_587.5);
        conn.create_scalar_function("julianday", 1, flags, julian).unwrap();
    }
}

/// Gives a replica a clock.
pub fn on_the_wall(replica: Replica, wall: &Wall, seed: u64) -> Replica {
    wall.install(&replica.connection());
    let mut settings = Settings::default();
    settings.world = wall.world(seed);
    replica.with_settings(settings)
}

/// A replica in memory with a clock of its own and a schema whose tables are all tracked.
pub async fn clocked(schema: &str, wall: &Wall, seed: u64) -> Replica {
    let replica = on_the_wall(Replica::in_memory().unwrap(), wall, seed);
    replica.connection().execute_batch(schema).unwrap();
    replica.track_all(&keyed()).await.unwrap();
    replica
}
