//! Single words that are remembered of remotes, each kind in a fact of `ZV_METADATA`, by the remotes' numbers. What cannot be read
//! there counts as never remembered.

use rusqlite::Connection;

use crate::db::{Metadata, get_metadata, set_metadata};
use crate::error::Result;

/// The word that is remembered of a remote.
pub(crate) fn word(conn: &Connection, fact: Metadata, remote: i64) -> Result<Option<String>> {
    let all: String = get_metadata(conn, fact)?.unwrap_or_default();
    Ok(entries(&all).find(|(no, _)| *no == remote).map(|(_, word)| word.to_owned()))
}

/// Remembers a word, without spaces, of a remote, or nothing any more.
pub(crate) fn set_word(conn: &Connection, fact: Metadata, remote: i64, word: Option<&str>) -> Result<()> {
    let all: String = get_metadata(conn, fact)?.unwrap_or_default();
    let others = entries(&all).filter(|(no, _)| *no != remote);
    let entries: Vec<String> =
        others.chain(word.map(|word| (remote, word))).map(|(no, word)| format!("{no}:{word}")).collect();
    if entries.is_empty() && all.is_empty() {
        return Ok(());
    }
    set_metadata(conn, fact, entries.join(" "))
}

fn entries(all: &str) -> impl Iterator<Item = (i64, &str)> {
    all.split(' ').filter_map(|entry| {
        let (no, word) = entry.split_once(':')?;
        Some((no.parse().ok()?, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_remote_has_its_own_word() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE ZV_METADATA (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)").unwrap();
        let fact = Metadata::Compactions;
        set_word(&conn, fact, 1, None).unwrap();
        let rows =
            |conn: &Connection| conn.query_row("SELECT count(*) FROM ZV_METADATA", [], |row| row.get::<_, i64>(0));
        assert_eq!(rows(&conn).unwrap(), 0, "nothing is written for nothing");
        set_word(&conn, fact, 1, Some("one")).unwrap();
        set_word(&conn, fact, 12, Some("a:b")).unwrap();
        set_word(&conn, fact, 1, Some("two")).unwrap();
        let all = |conn: &Connection| [1, 2, 12].map(|no| word(conn, fact, no).unwrap());
        assert_eq!(all(&conn), [Some("two".to_owned()), None, Some("a:b".to_owned())]);
        set_word(&conn, fact, 12, None).unwrap();
        assert_eq!(all(&conn), [Some("two".to_owned()), None, None]);
        set_metadata(&conn, fact, "no word: 1 :x 1:one").unwrap();
        assert_eq!(all(&conn), [Some("one".to_owned()), None, None]);
    }
}
