//! Turns: when work that takes many transactions lets other programs have the write lock. Knows how SQLite waits, and nothing of
//! the work.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::blocking::is_in_place;

/// How long a rest is: [SQLite's busy handler](https://sqlite.org/c3ref/busy_timeout.html) looks again after 100 ms at most, so
/// that every program that waits looks at least once.
const REST: Duration = Duration::from_millis(110);

/// After how much work there is a rest while others write too: what a waiting program is kept from, at most.
const AMONG_OTHERS: Duration = Duration::from_millis(300);

/// And while none was seen that writes: the first to come waits that long.
const ALONE: Duration = Duration::from_secs(2);

/// One after another, transactions leave gaps that a program which waits for the lock hardly ever meets; from time to time there
/// is one that it cannot miss.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    worked: Duration,
    /// What SQLite said last of the commits of others.
    seen: Option<i64>,
}

impl Turns {
    /// Does a part of the work: one transaction, or a few short ones. None is open when it ends.
    pub(crate) fn take<T, E: From<rusqlite::Error>>(
        &mut self,
        conn: &mut Connection,
        work: impl FnOnce(&mut Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        // Where a simulation owns the time there is nobody to wait for.
        if is_in_place() {
            return work(conn);
        }
        if self.seen.is_none() {
            self.seen = Some(data_version(conn)?);
        }
        let begun = Instant::now();
        let done = work(conn)?;
        self.worked += begun.elapsed();
        if self.worked >= AMONG_OTHERS && self.is_over(data_version(conn)?) {
            std::thread::sleep(REST);
        }
        Ok(done)
    }

    /// Whether the turn is over, given what SQLite says now of the commits of others. The next one begins then.
    fn is_over(&mut self, version: i64) -> bool {
        let others = self.seen.replace(version).is_some_and(|seen| seen != version);
        let is_over = self.worked >= if others { AMONG_OTHERS } else { ALONE };
        if is_over {
            self.worked = Duration::ZERO;
        }
        is_over
    }
}

/// Another number after each commit of somebody else ([PRAGMA data_version](https://sqlite.org/pragma.html#pragma_data_version)).
fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "data_version", |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_among_others_is_short_and_one_alone_is_long() {
        let mut turns = Turns { worked: AMONG_OTHERS, seen: Some(1) };
        assert!(!turns.is_over(1), "nobody else wrote");
        assert!(turns.is_over(2), "somebody did");
        assert!(!turns.is_over(3), "the next turn has only begun");
        turns.worked = AMONG_OTHERS;
        assert!(!turns.is_over(3));
        turns.worked = ALONE;
        assert!(turns.is_over(3), "who waits is not seen");
    }

    #[test]
    fn a_commit_of_another_connection_is_seen_and_an_own_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let [mut here, there] = [(); 2].map(|()| Connection::open(home.path().join("a.db")).unwrap());
        let mut turns = Turns::default();
        let write =
            |conn: &mut Connection| conn.execute_batch("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)");
        turns.take(&mut here, write).unwrap();
        let before = turns.seen.unwrap();
        assert_eq!(data_version(&here).unwrap(), before);
        there.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        assert_ne!(data_version(&here).unwrap(), before);
    }
}
