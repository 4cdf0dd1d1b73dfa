//! Table definitions on their way: those of tracked tables written to `schemas/`, those of the remote read from there.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::Session;
use crate::changelog::{
    Definition, Log, Tracked, definitions, list_tracked, newest_definition, remember_definition, save_tracked,
};
use crate::db::{immediate, read_table, same_name};
use crate::error::Result;
use crate::remote::{Fetched, Listing, Remote};
use crate::wire::{Identity, ObjectName, TableDefinition};

/// The most bytes of a definition that are read.
const LIMIT: u64 = 1 << 20;
/// The most definitions that are read from one remote; a table has one for every version of it.
const MAX_DEFINITIONS: usize = 10_000;

/// Makes a definition for every tracked table that has none, or another schema than its newest. Returns notices.
pub(crate) fn define(conn: &Connection) -> Result<Vec<String>> {
    for tracked in list_tracked(conn)?.into_iter().filter(Tracked::is_live) {
        let Some(statements) = statements_of(conn, tracked.name())? else { continue };
        let newest = newest_definition(conn, tracked.table_no())?;
        let known: Vec<TableDefinition> =
            definitions(conn)?.iter().filter(|d| d.table_no == tracked.table_no()).filter_map(decode).collect();
        // A schema that some version had is an older replica's: only what nobody has defined is a change.
        if known
            .iter()
            .any(|definition| definition.statements == statements && definition.enforce_fk == tracked.enforce_fk)
        {
            continue;
        }
        let definition = TableDefinition {
            table: tracked.name().to_owned(),
            statements,
            identity: identity_of(&tracked),
            key: logged_key(&tracked),
            enforce_fk: tracked.enforce_fk,
            version: newest.map_or(0, |newest| newest.version + 1),
            entity_type: Some(tracked.source.entity_type.clone()).filter(|name| *name != tracked.source.table),
            renamed: tracked.source.renamed.clone(),
        };
        remember(conn, tracked.table_no(), &definition)?;
    }
    Ok(Vec::new())
}

/// The columns that identify rows, by their names in the log.
fn logged_key(tracked: &Tracked) -> Vec<String> {
    tracked.source.key.iter().map(|name| tracked.source.logged_name(name).to_owned()).collect()
}

fn identity_of(tracked: &Tracked) -> Identity {
    if tracked.source.is_generated() { Identity::Generated } else { Identity::Key }
}

/// A table's `CREATE TABLE` and indexes, as the schema holds them.
fn statements_of(conn: &Connection, table: &str) -> Result<Option<Vec<String>>> {
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('table', 'index') \
               AND sql IS NOT NULL ORDER BY type <> 'table', name";
    let mut statement = conn.prepare_cached(sql)?;
    let statements: Vec<String> = statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok((!statements.is_empty()).then_some(statements))
}

fn decode(definition: &Definition) -> Option<TableDefinition> {
    TableDefinition::decode(&definition.body).ok()
}

fn remember(conn: &Connection, table_no: u32, definition: &TableDefinition) -> Result<()> {
    let version = definition.version.min(i64::MAX as u64);
    let row = Definition { hash: definition.hash(), table_no, version, body: definition.encode() };
    remember_definition(conn, &row)
}

/// Reads the definitions of the remote that are not known here, and lets the newest of each table count.
pub(super) async fn pull(session: &Session, remote: &Remote, listing: &Arc<Listing>) -> Result<Vec<String>> {
    let known = session.run(|conn| definitions(conn)).await?;
    let listed = listing.others.iter().filter_map(|listed| match listed.name {
        ObjectName::Schema(_) if remote.content_len(listed.size) <= LIMIT => Some(listed.name),
        _ => None,
    });
    let here: HashSet<ObjectName> = known.iter().flat_map(|known| remote.schema_names(&known.hash)).collect();
    let lacking: Vec<ObjectName> = listed.filter(|name| !here.contains(name)).take(MAX_DEFINITIONS).collect();
    let (mut fetched, mut notices) = (Vec::new(), Vec::new());
    for name in lacking {
        match remote.get(&name, LIMIT).await? {
            Fetched::Bytes(bytes) => match TableDefinition::decode(&bytes) {
                Ok(read) if remote.schema_names(&read.hash()).contains(&name) => fetched.push(read),
                Ok(_) => notices.push(format!("{name} on the remote does not have the content that its name says")),
                Err(bad) => notices.push(format!("{name} on the remote is no table definition: {bad}")),
            },
            Fetched::Unopened(bad) => notices.push(format!("{name} on the remote cannot be read: {bad}")),
            Fetched::Gone | Fetched::TooLarge => {}
        }
    }
    notices.extend(session.run(move |conn| adopt(conn, &fetched)).await?);
    Ok(notices)
}

/// Records definitions, and brings what the tracked tables share in line with the newest.
fn adopt(conn: &mut Connection, fetched: &[TableDefinition]) -> Result<Vec<String>> {
    let tx = immediate(conn)?;
    let mut log = Log::new(&tx)?;
    for definition in fetched {
        let table_no = log.names.number(&tx, definition.entity_type())?;
        remember(&tx, table_no, definition)?;
    }
    let mut notices = Vec::new();
    for mut tracked in list_tracked(&tx)? {
        let newest = newest_definition(&tx, tracked.table_no())?.as_ref().and_then(decode);
        let Some(newest) = newest else { continue };
        notices.extend(follow(&mut tracked, &newest));
        save_tracked(&tx, &tracked)?;
    }
    drop(log);
    tx.commit()?;
    Ok(notices)
}

/// Whether foreign keys are enforced is the remote's word; a table with another key is left alone, and says why.
fn follow(tracked: &mut Tracked, newest: &TableDefinition) -> Option<String> {
    let here = &logged_key(tracked);
    let same = newest.identity == identity_of(tracked)
        && here.len() == newest.key.len()
        && here.iter().zip(&newest.key).all(|(a, b)| same_name(a, b));
    tracked.enforce_fk = newest.enforce_fk;
    if same {
        tracked.blocked.clear();
        return None;
    }
    let why = format!(
        "{}: a row is known by {} here and by {} on the remote; the table is neither merged nor pushed",
        tracked.name(),
        key_words(here),
        key_words(&newest.key)
    );
    tracked.blocked.clone_from(&why);
    Some(why)
}

fn key_words(key: &[String]) -> String {
    if key.is_empty() { "an id of its own".to_owned() } else { format!("({})", key.join(", ")) }
}

/// Writes the definitions that the remote lacks.
pub(super) async fn push(session: &Session, remote: &Remote, listing: &Arc<Listing>) -> Result<()> {
    for definition in session.run(|conn| definitions(conn)).await? {
        let Some(name) = remote.schema_names(&definition.hash).into_iter().next() else { continue };
        if listing.others.binary_search_by_key(&name, |listed| listed.name).is_err() {
            remote.put(&name, definition.body.into()).await?;
        }
    }
    Ok(())
}

/// How the tables here differ from the newest definitions, a sentence each.
pub(crate) fn differences(conn: &Connection) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for tracked in list_tracked(conn)?.into_iter().filter(|tracked| tracked.active) {
        if !tracked.blocked.is_empty() {
            sentences.push(tracked.blocked.clone());
        }
        let Some(here) = statements_of(conn, tracked.name())? else {
            sentences.push(format!("{} is tracked, but the table does not exist", tracked.name()));
            continue;
        };
        let newest = newest_definition(conn, tracked.table_no())?.as_ref().and_then(decode);
        if newest.is_some_and(|newest| newest.statements != here) {
            sentences
                .push(format!("{} has another definition here than the newest that the remotes know", tracked.name()));
        }
    }
    let tracked = list_tracked(conn)?;
    for definition in newest(conn)? {
        let is_tracked = tracked.iter().any(|t| same_name(&t.source.entity_type, definition.entity_type()));
        if !is_tracked && read_table(conn, &definition.table)?.is_none() {
            sentences.push(format!("{} is on the remote, but the table does not exist here", definition.table));
        }
    }
    sentences.dedup();
    Ok(sentences)
}

/// The newest definition of every table that is known, parents before children where their statements allow.
pub(crate) fn newest(conn: &Connection) -> Result<Vec<TableDefinition>> {
    let mut tables: Vec<u32> = definitions(conn)?.iter().map(|definition| definition.table_no).collect();
    tables.dedup();
    let mut newest = Vec::new();
    for table_no in tables {
        newest.extend(newest_definition(conn, table_no)?.as_ref().and_then(decode));
    }
    Ok(newest)
}
