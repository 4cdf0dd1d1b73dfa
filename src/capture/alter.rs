//! A table's schema changed under capture: `begin` lifts capture and leaves a mark that SQLite itself keeps in step with
//! renames, `end` reads it, restores capture and compares the rows with the base. The user changes the table in between.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::check::{Identity, check_trackable};
use super::compare::{Terms, compare};
use super::install::{Wish, install, remove};
use super::track::{TrackedNow, another_key, look_again};
use super::trigger::trigger_name;
use crate::capture::Wanted;
use crate::changelog::{Log, Tracked, list_tracked, save_tracked};
use crate::db::{Ident, Table, Token, Tokens, list, read_table, same_name};
use crate::error::{Error, Result};
use crate::world::World;

/// What the user says of a change that the schema does not say itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct AlterEnd {
    /// Columns that have another name now: the old name and the new.
    pub(crate) renamed: Vec<(String, String)>,
    /// Columns that are gone.
    pub(crate) dropped: Vec<String>,
    /// Rows that are missing were deleted; otherwise they are shown again.
    pub(crate) accept_deletes: bool,
}

/// The event in the name of the trigger that is left as a mark.
const MARK: &str = "altering";

/// Lifts the capture of a table. Runs within the caller's transaction, the journal sealed.
pub(crate) fn alter_begin(log: &mut Log<'_>, name: &str) -> Result<()> {
    let conn = log.conn;
    let found = list_tracked(conn)?.into_iter().find(|t| t.active && same_name(t.name(), name));
    let mut tracked = found.ok_or_else(|| Error::schema(format!("{name} is not tracked")))?;
    if tracked.is_altering() {
        return Err(Error::usage(format!("{name} is being altered already; `zvon alter end {name}` ends it")));
    }
    let table = read_table(conn, tracked.name())?.ok_or_else(|| Error::schema(format!("{name}: no such table")))?;
    remove(conn, tracked.table_no())?;
    tracked.altering = table.columns.iter().map(|column| column.name.clone()).collect();
    let sql = format!(
        "CREATE TRIGGER {} AFTER UPDATE OF {} ON {} WHEN 0 BEGIN SELECT 1; END",
        Ident(&trigger_name(tracked.table_no(), MARK)),
        list(tracked.altering.iter().map(|name| Ident(name))),
        Ident(&table.name)
    );
    conn.execute_batch(&sql)?;
    save_tracked(conn, &tracked)
}

/// Restores the capture of a table as it is now, under whichever name. Runs within the caller's transaction, the journal sealed.
pub(crate) fn alter_end(log: &mut Log<'_>, world: &World, name: &str, end: &AlterEnd) -> Result<TrackedNow> {
    let conn = log.conn;
    let (before, mark) = find(conn, name)?;
    let now = mark.as_ref().map_or_else(|| before.name().to_owned(), |mark| mark.table.clone());
    let table = read_table(conn, &now)?.ok_or_else(|| {
        let why = "is gone, and no table says that it was renamed; create it again, or `zvon untrack` it";
        Error::schema(format!("{now} {why}"))
    })?;
    let is_another = |other: &Tracked| other.active && !other.is_altering() && same_name(other.name(), &now);
    if list_tracked(conn)?.iter().any(is_another) {
        let why = "is another table that is tracked; `zvon untrack` it to let go of the one that had the name";
        return Err(Error::schema(format!("{now} {why}")));
    }
    let fates = fates(&before, &table, mark.as_ref(), end)?;
    let identity = identity(log, &table, &before, &fates)?;
    let wish = Wish {
        excluded: before.excluded.iter().filter_map(|name| fates.now(name)).collect(),
        enforce_fk: before.enforce_fk,
        notice: before.notice.clone(),
        blocked: before.blocked.clone(),
        entity_type: Some(before.source.entity_type.clone()),
        renamed: fates.logged_names(&before),
    };
    let tracked = install(log, &table, identity, wish)?;
    let terms =
        Terms { before: Some(&before.source), accept_deletes: end.accept_deletes, was_captured: false, evidence: None };
    let found = compare(log, world, &table, &tracked, terms)?;
    look_at_references(conn, &table)?;
    Ok(TrackedNow {
        renamed_from: (before.name() != table.name).then(|| before.name().to_owned()),
        renamed: fates.renamed(),
        dropped: fates.dropped(),
        ..TrackedNow::new(tracked, found)
    })
}

/// No merge looked whether a table's rows have their parents, and those that refer to them theirs, while it was being altered.
fn look_at_references(conn: &Connection, table: &Table) -> Result<()> {
    for tracked in list_tracked(conn)?.iter().filter(|tracked| tracked.is_live()) {
        let shape = read_table(conn, tracked.name())?;
        let refers = |shape: Table| shape.foreign_keys.iter().any(|key| same_name(&key.parent, &table.name));
        if same_name(tracked.name(), &table.name) || shape.is_some_and(refers) {
            look_again(conn, tracked)?;
        }
    }
    Ok(())
}

/// What the mark says: the table's name now, and its columns' in the order that they had.
struct Mark {
    table: String,
    columns: Vec<String>,
}

/// The table that is being altered under a name, which it has now or had then.
fn find(conn: &Connection, name: &str) -> Result<(Tracked, Option<Mark>)> {
    let (altering, others): (Vec<Tracked>, _) =
        list_tracked(conn)?.into_iter().filter(|tracked| tracked.active).partition(Tracked::is_altering);
    let mut by_old_name = None;
    for tracked in altering {
        let mark = read_mark(conn, tracked.table_no())?;
        if mark.as_ref().is_some_and(|mark| same_name(&mark.table, name)) {
            return Ok((tracked, mark));
        }
        if same_name(tracked.name(), name) {
            by_old_name = Some((tracked, mark));
        }
    }
    let Some((tracked, mark)) = by_old_name else {
        return Err(Error::usage(format!(
            "{name} is not being altered; `zvon alter begin {name}` comes before the change"
        )));
    };
    // A table of that name that is nobody else's was made anew, and the one that took the mark along is kept beside it.
    let is_anothers = others.iter().any(|other| same_name(other.name(), name));
    let is_made_anew = !is_anothers && read_table(conn, name)?.is_some();
    Ok((tracked, mark.filter(|_| !is_made_anew)))
}

fn read_mark(conn: &Connection, table_no: u32) -> Result<Option<Mark>> {
    let sql = "SELECT tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1";
    let found: Option<(String, String)> = conn
        .prepare_cached(sql)?
        .query_row([trigger_name(table_no, MARK)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.map(|(table, sql)| Mark { table, columns: columns_of(&sql) }))
}

/// The names in the UPDATE OF clause, which SQLite rewrites when it renames a column.
fn columns_of(sql: &str) -> Vec<String> {
    let is = |token: &Token<'_>, word: &str| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
    let after = Tokens::new(sql).skip_while(|token| !is(token, "of")).skip(1);
    let names = after.take_while(|token| !is(token, "on")).filter_map(|token| match token {
        Token::Word(name) => Some(name.to_owned()),
        Token::Quoted(name) => Some(name.into_owned()),
        _ => None,
    });
    names.collect()
}

/// What became of the columns that the table had: their names now, nothing where they are gone.
struct Fates(BTreeMap<String, Option<String>>);

impl Fates {
    fn now(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(old, _)| same_name(old, name)).and_then(|(_, now)| now.clone())
    }

    /// The columns that have another name now: before, now.
    fn renamed(&self) -> Vec<(String, String)> {
        let named = self.0.iter().filter_map(|(old, now)| Some((old, now.as_ref()?)));
        named.filter(|(old, now)| old != now).map(|(old, now)| (old.clone(), now.clone())).collect()
    }

    fn dropped(&self) -> Vec<String> {
        self.0.iter().filter(|(_, now)| now.is_none()).map(|(old, _)| old.clone()).collect()
    }

    /// The log's names of the columns whose names here differ from them.
    fn logged_names(&self, before: &Tracked) -> BTreeMap<String, String> {
        let names = self.0.iter().filter_map(|(old, now)| {
            let logged = before.source.logged_name(old);
            now.as_ref().filter(|now| !same_name(now, logged)).map(|now| (now.clone(), logged.to_owned()))
        });
        names.collect()
    }
}

fn fates(before: &Tracked, table: &Table, mark: Option<&Mark>, end: &AlterEnd) -> Result<Fates> {
    let mut fates = BTreeMap::new();
    for (at, old) in before.altering.iter().enumerate() {
        let told = end.renamed.iter().find(|(from, _)| same_name(from, old)).map(|(_, to)| to.as_str());
        let marked = mark.and_then(|mark| mark.columns.get(at)).map(String::as_str);
        let now = told.or(marked).unwrap_or(old);
        fates.insert(old.clone(), table.column(now).map(|column| column.name.clone()));
    }
    check_told(before, table, end)?;
    if mark.is_none() {
        check_rebuilt(table, &fates, end)?;
    }
    Ok(Fates(fates))
}

fn check_told(before: &Tracked, table: &Table, end: &AlterEnd) -> Result<()> {
    let had = |name: &str| before.altering.iter().any(|old| same_name(old, name));
    for (from, to) in &end.renamed {
        if !had(from) || table.column(to).is_none() {
            return Err(Error::usage(format!("{}: no column {from} became {to}", table.name)));
        }
    }
    match end.dropped.iter().find(|name| !had(name) || table.column(name).is_some()) {
        Some(name) => Err(Error::usage(format!("{}: no column {name} was dropped", table.name))),
        None => Ok(()),
    }
}

/// In a table that was made anew, a column that is gone and one that is new may be the same one: only the user knows.
fn check_rebuilt(table: &Table, fates: &BTreeMap<String, Option<String>>, end: &AlterEnd) -> Result<()> {
    let is_new = |name: &&str| !fates.values().flatten().any(|now| same_name(now, name));
    let new: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).filter(is_new).collect();
    let is_told = |name: &&String| end.dropped.iter().any(|dropped| same_name(dropped, name));
    let gone = fates.iter().filter(|(_, now)| now.is_none()).map(|(old, _)| old).find(|name| !is_told(name));
    match gone {
        Some(gone) if !new.is_empty() => {
            let message = format!(
                "{}: the column {gone} is gone, and {} new; say `--renamed {gone}={}` if it is the same column, or \
                 `--dropped {gone}`",
                table.name,
                new.join(", "),
                new[0]
            );
            Err(Error::usage(message))
        }
        _ => Ok(()),
    }
}

/// What identifies rows stays what it was, under the names that its columns have now.
fn identity(log: &mut Log<'_>, table: &Table, before: &Tracked, fates: &Fates) -> Result<Identity> {
    let source = &before.source;
    let wanted = match source.is_generated() {
        true => Wanted::Generated,
        false => {
            let key: Option<Vec<String>> = source.key.iter().map(|name| fates.now(name)).collect();
            Wanted::Columns(key.ok_or_else(|| another_key(&table.name))?)
        }
    };
    let (_, identity) = check_trackable(log.conn, &mut log.shapes, &table.name, &wanted)?;
    let same_kind = source.is_generated() || identity.kind == source.kind;
    match same_kind && identity.local.is_some() == source.local.is_some() && identity.key.len() == source.key.len() {
        true => Ok(identity),
        false => Err(another_key(&table.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_follows_renames() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, \"b\"\"c\", last);
             CREATE TRIGGER ZV_7_altering AFTER UPDATE OF \"id\", \"a\", \"b\"\"c\", \"last\" ON t WHEN 0 BEGIN SELECT 1; END;
             ALTER TABLE t RENAME COLUMN a TO \"on of\"; ALTER TABLE t DROP COLUMN \"b\"\"c\"; ALTER TABLE t RENAME TO \"new name\";
             ALTER TABLE \"new name\" RENAME COLUMN last TO \"x\"\"y\"; ALTER TABLE \"new name\" ADD COLUMN last",
        )
        .unwrap();
        let mark = read_mark(&conn, 7).unwrap().unwrap();
        assert_eq!(mark.table, "new name");
        assert_eq!(mark.columns, ["id", "on of", "b\"c", "x\"y"]);
    }
}
