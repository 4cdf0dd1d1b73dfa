//! A new replica from a remote alone: its tables made from the definitions found there, once they are known to be harmless.

use rusqlite::Connection;

use super::{Session, definitions, known_files, unlock};
use crate::capture::{TrackOptions, Wanted, track};
use crate::changelog::{Log, remember_remote};
use crate::db::{immediate, read_table};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::check_definition;
use crate::remote::Remote;
use crate::wire::{Identity, ObjectName, TableDefinition};
use crate::world::World;

/// Refuses a remote from which no replica can be made, before a file is.
pub(crate) async fn check_clonable(remote: &Remote) -> Result<()> {
    let listing = remote.list().await?;
    unlock::open(remote, &unlock::Remembered::default(), &listing).await?;
    let has_tables = listing.others.iter().any(|listed| matches!(listed.name, ObjectName::Schema(_)));
    if has_tables {
        return Ok(());
    }
    let why = match listing.is_without_changes() {
        true => "there is nothing to clone; sync a replica with tracked tables to it first",
        false => "there are changes but no table definitions; make the tables yourself, track them, and sync",
    };
    Err(Error::new(ErrorKind::Remote, format!("{}: {why}", remote.url())))
}

/// Makes and tracks the tables that the remote defines and that are not here yet.
pub(crate) async fn create_tables(session: &Session, remote: &Remote) -> Result<()> {
    let listing = std::sync::Arc::new(remote.list().await?);
    let url = remote.url().to_owned();
    let row = session.run(move |conn| remember_remote(conn, &url)).await?;
    let remote = &unlock::unlock(session, remote, row.no, &listing).await?;
    // What cannot be read is told by the sync that follows.
    let known = std::sync::Arc::new(known_files(session, &row, true).await?);
    definitions::pull(session, remote, &listing, &known, definitions::MAX_DEFINITIONS).await?;
    let world = session.world.clone();
    session.run(move |conn| create_known(conn, &world)).await
}

/// Makes and tracks the tables whose definitions are known here: all of them or none.
fn create_known(conn: &mut Connection, world: &World) -> Result<()> {
    let newest = definitions::newest(conn)?;
    newest.iter().try_for_each(check_definition)?;
    let tx = immediate(conn)?;
    let mut log = Log::new(&tx)?;
    for definition in &newest {
        if read_table(&tx, &definition.table)?.is_none() {
            create(&tx, definition)?;
        }
    }
    for definition in &newest {
        let wanted = match definition.identity {
            Identity::Generated => Wanted::Generated,
            Identity::Key => Wanted::Columns(local_key(definition)),
        };
        let options = TrackOptions {
            wanted,
            entity_type: Some(definition.entity_type().to_owned()),
            renamed: definition.renamed.clone(),
            enforce_fk: Some(definition.enforce_fk),
            ..TrackOptions::default()
        };
        track(&mut log, world, &definition.table, &options)?;
    }
    log.finish()?;
    Ok(tx.commit()?)
}

/// What a clone does with the definitions that a remote has.
#[cfg(any(test, fuzzing))]
pub(crate) fn clone_defined(conn: &mut Connection, world: &World, found: &[TableDefinition]) -> Result<()> {
    definitions::adopt(conn, found, &[])?;
    create_known(conn, world)
}

/// The columns that identify rows, by their names in the table.
fn local_key(definition: &TableDefinition) -> Vec<String> {
    let local = |logged: &String| {
        definition
            .renamed
            .iter()
            .find(|(_, name)| *name == logged)
            .map_or_else(|| logged.clone(), |(now, _)| now.clone())
    };
    definition.key.iter().map(local).collect()
}

fn create(tx: &rusqlite::Transaction<'_>, definition: &TableDefinition) -> Result<()> {
    definition.statements.iter().try_for_each(|sql| Ok(tx.execute_batch(sql)?))
}
