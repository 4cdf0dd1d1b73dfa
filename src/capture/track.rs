//! `track`, `untrack`, and noticing that a table's schema changed: the order of check, triggers and comparison.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::check::{Identity, Wanted, check_comes_first, check_trackable};
use super::compare::{Found, Terms, compare};
use super::install::{Installed, Wish, inspect, install, leave_mark, overtake, remove};
use crate::changelog::{
    Log, References, Tracked, list_tracked, save_tracked, touch, touch_all, touch_held, touch_waiting,
};
use crate::db::{Ident, Table, list, read_table, same_name};
use crate::error::{Error, ErrorKind, Result};
use crate::world::World;

/// What the caller of `track` chose.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrackOptions {
    /// What rows are known by.
    pub(crate) wanted: Wanted,
    /// Columns that are neither recorded nor written.
    pub(crate) excluded: Vec<String>,
    /// Whether rows without a parent are held; by default, where none are there now.
    pub(crate) enforce_fk: Option<bool>,
    /// Rows that are missing from a table that was dropped or rebuilt are deletes.
    pub(crate) accept_deletes: bool,
    /// The table's name in the log, and those of its columns, where the remote says that they are others.
    pub(crate) entity_type: Option<String>,
    pub(crate) renamed: BTreeMap<String, String>,
}

/// What `track` did for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrackedNow {
    pub(crate) tracked: Tracked,
    pub(crate) found: Found,
    /// The table's name before, and its columns that have another name now (before, now), or none any more.
    pub(crate) renamed_from: Option<String>,
    pub(crate) renamed: Vec<(String, String)>,
    pub(crate) dropped: Vec<String>,
}

impl TrackedNow {
    pub(super) fn new(tracked: Tracked, found: Found) -> Self {
        Self { tracked, found, renamed_from: None, renamed: Vec::new(), dropped: Vec::new() }
    }
}

/// Tracks a table; again, it applies what changed. Runs within the caller's transaction, the journal sealed.
pub(crate) fn track(log: &mut Log<'_>, world: &World, name: &str, options: &TrackOptions) -> Result<TrackedNow> {
    // A table that was let go may have had the name of one that is tracked by now.
    let named = list_tracked(log.conn)?.into_iter().filter(|tracked| same_name(tracked.name(), name));
    let before = named.max_by_key(|tracked| tracked.active);
    if before.as_ref().is_some_and(Tracked::is_altering) {
        return Err(Error::usage(format!("{name} is being altered; `zvon alter end {name}` ends that")));
    }
    let (table, identity) = identify(log, name, options, before.as_ref())?;
    check_excluded(&table, &identity, &options.excluded)?;
    let standing = before.as_ref().map(|tracked| inspect(log.conn, &table, tracked)).transpose()?;
    let wish = wish(log.conn, &table, options, before.as_ref())?;
    if let (Some(before), Some(Installed::Whole)) = (&before, standing)
        && before.excluded == wish.excluded
        && before.enforce_fk == wish.enforce_fk
    {
        return Ok(TrackedNow::new(before.clone(), Found::default()));
    }
    let intact = matches!(standing, Some(Installed::Whole | Installed::Behind | Installed::Stale | Installed::Marked));
    let source = before.as_ref().map(|tracked| &tracked.source);
    let was_captured = matches!(standing, Some(Installed::Whole | Installed::Stale));
    let accept_deletes = options.accept_deletes || intact;
    let terms = Terms { before: source, accept_deletes, was_captured, evidence: None };
    let tracked = install(log, &table, identity, wish)?;
    if before.as_ref().is_some_and(|before| before.enforce_fk != tracked.enforce_fk) {
        look_again(log.conn, &tracked)?;
    }
    let found = compare(log, world, &table, &tracked, terms)?;
    look_again(log.conn, &tracked)?;
    if !before.is_some_and(|before| before.active) {
        look_at_children(log, &tracked)?;
    }
    Ok(TrackedNow::new(tracked, found))
}

/// Has the next merge look at the rows that refer to a table which is tracked from now on, or no longer: whether they have their
/// parents counts, or does not; and a column that refers to its integers held what the log says, whatever row that is here.
fn look_at_children(log: &mut Log<'_>, parent: &Tracked) -> Result<()> {
    let conn = log.conn;
    let references = References::load(conn)?;
    for child in list_tracked(conn)?.iter().filter(|child| child.is_live() && child.table_no() != parent.table_no()) {
        let Some(shape) = log.shapes.read(conn, child.name())? else { continue };
        if shape.foreign_keys.iter().any(|key| same_name(&key.parent, parent.name())) {
            look_again(conn, child)?;
        }
        if !parent.active {
            continue;
        }
        let Some(local) = &parent.source.local else { continue };
        for column in
            shape.columns.iter().filter(|c| references.target(child.table_no(), &c.name) == Some(parent.table_no()))
        {
            touch_strangers(conn, child, &column.name, parent.name(), local)?;
        }
    }
    Ok(())
}

/// Has the next merge show anew the rows whose reference is to none of a table's integers.
fn touch_strangers(conn: &Connection, child: &Tracked, column: &str, parent: &str, local: &str) -> Result<()> {
    let source = &child.source;
    let sql = format!(
        "SELECT {lead} FROM {child} AS c WHERE c.{column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE p.{local} = c.{column})",
        lead = list(source.lead().map(|name| format!("c.{}", Ident(name)))),
        child = Ident(child.name()),
        column = Ident(column),
        parent = Ident(parent),
        local = Ident(local),
    );
    for entity_id in source.entities(conn, &References::load(conn)?, &sql, &[])? {
        touch(conn, child.table_no(), &entity_id)?;
    }
    Ok(())
}

/// What the table's rows are known by: for good, once it was tracked.
fn identify(
    log: &mut Log<'_>,
    name: &str,
    options: &TrackOptions,
    before: Option<&Tracked>,
) -> Result<(Table, Identity)> {
    let (conn, shapes) = (log.conn, &mut log.shapes);
    let Some(before) = before else {
        let (table, identity) = check_trackable(conn, shapes, name, &options.wanted)?;
        // What a remote says is so already.
        if options.entity_type.is_none() {
            check_comes_first(conn, shapes, &table)?;
        }
        return Ok((table, identity));
    };
    let (table, identity) = check_trackable(conn, shapes, name, &wanted_as(before))?;
    check_same_identity(&table, &identity, before)?;
    if options.wanted != Wanted::Usual {
        let (_, other) = check_trackable(conn, shapes, name, &options.wanted)?;
        if other != identity {
            let why = "is known by another key already, and its history with it; that cannot be changed";
            return Err(Error::usage(format!("{} {why}", table.name)));
        }
    }
    Ok((table, identity))
}

/// The wish that leads to the identity a table has.
fn wanted_as(tracked: &Tracked) -> Wanted {
    match tracked.source.is_generated() {
        true => Wanted::Generated,
        false => Wanted::Columns(tracked.source.key.clone()),
    }
}

/// The way a table is known does not change under the log: a key of another kind is another table.
fn check_same_identity(table: &Table, identity: &Identity, before: &Tracked) -> Result<()> {
    let source = &before.source;
    let same_key = identity.key.len() == source.key.len()
        && identity.key.iter().zip(&source.key).all(|(a, b)| same_name(a, b))
        && (identity.kind == source.kind || source.is_generated());
    if same_key && identity.local.is_some() == source.local.is_some() {
        return Ok(());
    }
    Err(another_key(&table.name))
}

pub(super) fn another_key(table: &str) -> Error {
    Error::schema(format!("{table} has another primary key than when it was tracked; give it back its key"))
}

/// The tables of a call, each once, parents before the children that refer to them. In circles only an
/// integer key that is a parent's waits for that, and otherwise the order of the call stays.
pub(crate) fn parents_first(conn: &Connection, names: Vec<String>) -> Result<Vec<String>> {
    let mut waiting: Vec<Waiting> = Vec::new();
    for name in names {
        if !waiting.iter().any(|known| same_name(&known.name, &name)) {
            waiting.push(Waiting::new(conn, name)?);
        }
    }
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_waiting = |parent: &String| waiting.iter().any(|table| same_name(&table.name, parent));
        let free = waiting.iter().position(|table| !table.parents.iter().any(is_waiting));
        let free = free.or_else(|| waiting.iter().position(|table| !table.parents_by_key.iter().any(is_waiting)));
        ordered.push(waiting.remove(free.unwrap_or(0)).name);
    }
    Ok(ordered)
}

/// A table that waits for its parents to be tracked.
struct Waiting {
    name: String,
    parents: Vec<String>,
    /// Those that its integer key refers to.
    parents_by_key: Vec<String>,
}

impl Waiting {
    fn new(conn: &Connection, name: String) -> Result<Self> {
        let Some(table) = read_table(conn, &name)? else {
            return Ok(Self { name, parents: Vec::new(), parents_by_key: Vec::new() });
        };
        let is_other = |parent: &&str| !same_name(parent, &name);
        let parents = table.foreign_keys.iter().map(|key| key.parent.as_str()).filter(is_other).map(str::to_owned);
        let key = table.key.first().filter(|_| table.key_is_rowid).map(|at| table.columns[*at].name.as_str());
        let by_key = key.into_iter().flat_map(|key| table.referred_by(key)).map(|(parent, _)| parent);
        let by_key = by_key.filter(is_other).map(str::to_owned);
        Ok(Self { parents: parents.collect(), parents_by_key: by_key.collect(), name })
    }
}

fn check_excluded(table: &Table, identity: &Identity, excluded: &[String]) -> Result<()> {
    for name in excluded {
        let is_key = identity.local.iter().chain(&identity.key).any(|key| same_name(key, name));
        if is_key || table.column(name).is_none() {
            let why = "no such column outside the key, so it cannot be excluded";
            return Err(Error::usage(format!("{}.{name}: {why}", table.name)));
        }
        if table.column(name).is_some_and(|c| c.not_null && c.default.is_none()) {
            let why = "is NOT NULL without a default, so rows from elsewhere could not be shown without it";
            return Err(Error::usage(format!("{}.{name} {why}", table.name)));
        }
    }
    Ok(())
}

fn wish(conn: &Connection, table: &Table, options: &TrackOptions, before: Option<&Tracked>) -> Result<Wish> {
    let mut wish = Wish {
        excluded: options.excluded.clone(),
        enforce_fk: true,
        entity_type: options.entity_type.clone(),
        renamed: options.renamed.clone(),
        ..Wish::default()
    };
    if let Some(before) = before {
        wish.enforce_fk = options.enforce_fk.unwrap_or(before.enforce_fk);
        wish.blocked.clone_from(&before.blocked);
        wish.entity_type = Some(before.source.entity_type.clone());
        wish.renamed.clone_from(&before.source.renamed);
        if options.excluded.is_empty() {
            wish.excluded.clone_from(&before.excluded);
        }
        return Ok(wish);
    }
    wish.enforce_fk = match options.enforce_fk {
        Some(chosen) => chosen,
        None => table.foreign_keys.is_empty() || !violates_foreign_keys(conn, &table.name)?,
    };
    if !wish.enforce_fk && options.enforce_fk.is_none() {
        wish.notice = "foreign keys are not enforced at merge, as rows without a parent were there already".into();
    }
    Ok(wish)
}

/// Has the next merge look at whoever is held, or shown, by another rule than the one that holds now: foreign keys of a table are
/// enforced, or are not any more; or nobody looked for a while, and a merge may have missed rows that were there.
pub(crate) fn look_again(conn: &Connection, tracked: &Tracked) -> Result<()> {
    touch_held(conn, tracked.table_no())?;
    touch_waiting(conn, tracked.table_no())?;
    if tracked.enforce_fk {
        let only_waiting = !violates_foreign_keys(conn, tracked.name())?;
        touch_all(conn, tracked.table_no(), only_waiting)?;
    }
    Ok(())
}

fn violates_foreign_keys(conn: &Connection, table: &str) -> Result<bool> {
    let mut statement = conn.prepare("SELECT 1 FROM pragma_foreign_key_check(?1)")?;
    // A key whose parent has no such columns is a mismatch that SQLite reports as an error: it cannot be enforced.
    Ok(statement.exists([table]).unwrap_or(true))
}

/// Takes a table's capture off, keeping its data and its log.
pub(crate) fn untrack(log: &mut Log<'_>, name: &str) -> Result<Tracked> {
    let named: Vec<Tracked> =
        list_tracked(log.conn)?.into_iter().filter(|t| t.active && same_name(t.name(), name)).collect();
    let is_anothers = named.len() > 1;
    // Of two, one is being altered and gone, and the other has its name now.
    let found = named.into_iter().max_by_key(Tracked::is_altering);
    let mut tracked = found.ok_or_else(|| Error::schema(format!("{name} is not tracked")))?;
    remove(log.conn, tracked.table_no())?;
    if !is_anothers && read_table(log.conn, name)?.is_some() {
        leave_mark(log.conn, &tracked)?;
    }
    tracked.active = false;
    tracked.altering.clear();
    save_tracked(log.conn, &tracked)?;
    look_at_children(log, &tracked)?;
    Ok(tracked)
}

/// What `renew` did to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewed {
    pub(crate) tracked: Tracked,
    pub(crate) found: Found,
    /// How its triggers stood.
    pub(crate) standing: Installed,
}

/// Brings the triggers of every tracked table in line with its columns, and records what was written in between.
/// Runs within the caller's transaction, the journal sealed.
pub(crate) fn renew(log: &mut Log<'_>, world: &World) -> Result<Vec<Renewed>> {
    let mut renewed = Vec::new();
    for tracked in list_tracked(log.conn)?.into_iter().filter(|t| t.active && !t.is_altering()) {
        let Some(table) = read_table(log.conn, tracked.name())? else {
            // Renamed as it was, it is a table of its own from now on: what is written there is not written here.
            remove(log.conn, tracked.table_no())?;
            continue;
        };
        let standing = inspect(log.conn, &table, &tracked)?;
        match standing {
            Installed::Whole => {}
            Installed::Behind => {
                overtake(log.conn, &table, &tracked)?;
                let terms =
                    Terms { before: Some(&tracked.source), accept_deletes: true, was_captured: false, evidence: None };
                let found = compare(log, world, &table, &tracked, terms)?;
                if found != Found::default() {
                    renewed.push(Renewed { tracked, found, standing });
                }
            }
            Installed::Stale | Installed::Broken | Installed::Marked => {
                match check_renewable(log, &table, &tracked) {
                    Ok(identity) => renewed.push(renew_table(log, world, &table, identity, tracked, standing)?),
                    // One table that is not what it was stops neither the others nor the sync.
                    Err(error) if error.kind() == ErrorKind::Schema => {
                        let tracked = lift(log.conn, tracked, &error)?;
                        renewed.push(Renewed { tracked, found: Found::default(), standing });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(renewed)
}

/// Makes the triggers of a table right where they are not; what was written meanwhile is for the caller to find. Returns the
/// table as it is tracked now, inactive where it cannot be, and how its triggers stood.
pub(crate) fn reinstall(log: &mut Log<'_>, table: &Table, tracked: Tracked) -> Result<(Tracked, Installed)> {
    let standing = inspect(log.conn, table, &tracked)?;
    let now = match standing {
        Installed::Whole => tracked,
        Installed::Behind => {
            overtake(log.conn, table, &tracked)?;
            tracked
        }
        Installed::Stale | Installed::Broken | Installed::Marked => match check_renewable(log, table, &tracked) {
            Ok(identity) => install(log, table, identity, wish_of(&tracked))?,
            Err(error) if error.kind() == ErrorKind::Schema => lift(log.conn, tracked, &error)?,
            Err(error) => return Err(error),
        },
    };
    Ok((now, standing))
}

fn check_renewable(log: &mut Log<'_>, table: &Table, old: &Tracked) -> Result<Identity> {
    let by_old_key =
        |error: Error| match old.source.key.iter().all(|name| table.column(name).is_some_and(|c| c.not_null)) {
            true => error,
            false => another_key(&table.name),
        };
    let (table, identity) =
        check_trackable(log.conn, &mut log.shapes, &table.name, &wanted_as(old)).map_err(by_old_key)?;
    check_same_identity(&table, &identity, old)?;
    Ok(identity)
}

/// Takes capture off a table that cannot be tracked any more: its changes wait like those of an unknown table.
fn lift(conn: &Connection, mut tracked: Tracked, why: &Error) -> Result<Tracked> {
    remove(conn, tracked.table_no())?;
    tracked.active = false;
    tracked.notice = format!("capture is off: {why}; then track it again");
    save_tracked(conn, &tracked)?;
    Ok(tracked)
}

/// The wish for a table to be tracked as it is.
fn wish_of(tracked: &Tracked) -> Wish {
    Wish {
        excluded: tracked.excluded.clone(),
        enforce_fk: tracked.enforce_fk,
        notice: tracked.notice.clone(),
        blocked: tracked.blocked.clone(),
        entity_type: Some(tracked.source.entity_type.clone()),
        renamed: tracked.source.renamed.clone(),
    }
}

fn renew_table(
    log: &mut Log<'_>,
    world: &World,
    table: &Table,
    identity: Identity,
    old: Tracked,
    standing: Installed,
) -> Result<Renewed> {
    let tracked = install(log, table, identity, wish_of(&old))?;
    // Nothing but a REPLACE over an index that is new goes past the triggers that stood on the table.
    let was_captured = standing == Installed::Stale;
    let terms = Terms { before: Some(&old.source), accept_deletes: was_captured, was_captured, evidence: None };
    let found = compare(log, world, table, &tracked, terms)?;
    look_again(log.conn, &tracked)?;
    Ok(Renewed { tracked, found, standing })
}
