//! Table definitions on their way: those of tracked tables written to `schemas/`, those of the remote read from there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::Connection;

use super::Session;
use super::full::Standing;
use super::plan::{Known, Refusal};
use crate::capture::look_again;
use crate::changelog::{
    Definition, Log, Names, Tracked, definitions, forget_definition, list_remotes, list_tracked, lower,
    newest_definition, remember_definition, save_tracked,
};
use crate::db::{immediate, read_table, same_name};
use crate::error::Result;
use crate::remote::{DAMAGED, Fetched, Listed, Listing, Remote};
use crate::wire::{Identity, ObjectName, TableDefinition};

/// The most bytes of a definition that are read.
const LIMIT: u64 = 1 << 20;
/// The most definitions that are read from one remote, and kept here; a table has one for every version of it.
pub(super) const MAX_DEFINITIONS: usize = 10_000;
/// The most that one sync reads, one after another.
pub(super) const MAX_AT_ONCE: usize = 1_000;
/// The most bytes of all that are kept here.
const MAX_KNOWN_BYTES: usize = 64 << 20;
/// How much greater than the newest known one a table's next version may be: somebody whose definition is not the right one is
/// answered by the next greater version, which there must always be.
const MAX_STEP: u64 = 1 << 20;
/// So many bytes are recorded at once.
const BATCH_BYTES: usize = 4 << 20;

/// Makes a definition for every tracked table that has none, or another schema than its newest. Returns notices.
pub(crate) fn define(conn: &Connection) -> Result<Vec<String>> {
    let all = definitions(conn)?;
    for mut tracked in list_tracked(conn)?.into_iter().filter(Tracked::is_live) {
        let Some(statements) = statements_of(conn, tracked.name())? else { continue };
        let known: Vec<TableDefinition> =
            all.iter().filter(|d| d.table_no == tracked.table_no()).filter_map(decode).collect();
        // A schema that some version had is an older replica's: only what nobody has defined is a change. Whether foreign keys are
        // enforced is the newest version's word, which this replica follows until its user says otherwise.
        let newest = newest_definition(conn, tracked.table_no())?.as_ref().and_then(decode);
        if let Some(newest) = newest.as_ref().filter(|newest| !has_key_of(&tracked, newest)) {
            // What came before the table was tracked is of other rows. Another key counts where its user says so (`redefine`).
            tracked.blocked = other_key(&tracked, newest);
            save_tracked(conn, &tracked)?;
            continue;
        }
        let follows = newest.is_none_or(|newest| newest.enforce_fk == tracked.enforce_fk);
        if follows && known.iter().any(|definition| definition.statements == statements) {
            continue;
        }
        define_next(conn, &tracked, statements)?;
    }
    Ok(Vec::new())
}

/// Whether foreign keys of a table that is not tracked yet are enforced, where its newest known definition says so.
pub(crate) fn is_enforced_elsewhere(conn: &Connection, table: &str) -> Result<Option<bool>> {
    // A table that was renamed here keeps the name in the log, and what is said there of it.
    let has_name =
        |tracked: &Tracked| same_name(tracked.name(), table) || same_name(&tracked.source.entity_type, table);
    if list_tracked(conn)?.iter().any(has_name) {
        return Ok(None);
    }
    let Some(no) = Names::find(conn, &lower(table))? else { return Ok(None) };
    Ok(newest_definition(conn, no)?.as_ref().and_then(decode).map(|newest| newest.enforce_fk))
}

/// Lets the definition that a table has here count from now on, whatever others said.
pub(crate) fn redefine(conn: &Connection, tracked: &mut Tracked) -> Result<()> {
    if let Some(statements) = statements_of(conn, tracked.name())? {
        define_next(conn, tracked, statements)?;
        tracked.blocked.clear();
        save_tracked(conn, tracked)?;
    }
    Ok(())
}

/// Makes the definition of a table that comes after all that are known.
fn define_next(conn: &Connection, tracked: &Tracked, statements: Vec<String>) -> Result<()> {
    let newest = newest_definition(conn, tracked.table_no())?;
    let definition = TableDefinition {
        table: tracked.name().to_owned(),
        statements,
        identity: identity_of(tracked),
        key: logged_key(tracked),
        enforce_fk: tracked.enforce_fk,
        version: newest.map_or(0, |newest| newest.version.saturating_add(1)),
        entity_type: Some(tracked.source.entity_type.clone()).filter(|name| *name != tracked.source.table),
        renamed: tracked.source.renamed.clone(),
    };
    remember(conn, tracked.table_no(), &definition)
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

/// What came of reading definitions.
#[derive(Default)]
pub(super) struct Found {
    pub(super) notices: Vec<String>,
    pub(super) refused: Vec<Refusal>,
    /// Those that could be read, and may have been refused before.
    pub(super) read: Vec<ObjectName>,
}

/// Reads definitions of the remote that are not known here, so many at most, and lets the newest of each table count.
pub(super) async fn pull(
    session: &Session,
    remote: &Remote,
    listing: &Listing,
    known: &Arc<Known>,
    most: usize,
) -> Result<Found> {
    let (mut found, mut fetched, mut bytes) = (Found::default(), Vec::new(), 0);
    let Lacking { listed: lacking, mut room, mut versions, own } = lacking(session, remote, listing, known).await?;
    let left = lacking.len().saturating_sub(most);
    for listed in lacking.into_iter().take(most) {
        let refuse = |reason: String| Refusal::of_other(listed, reason);
        let answer = match remote.get(&listed.name, LIMIT).await {
            Err(error) if remote.keeps_back(&error) => {
                found.refused.push(refuse(String::new()).kept_back());
                continue;
            }
            Err(error) if remote.is_damaged(&error) => {
                found.refused.push(refuse(DAMAGED.to_owned()));
                continue;
            }
            answer => answer?,
        };
        match answer {
            Fetched::Bytes(read) if read.len() > room => {
                found.notices.push(too_many(remote));
                break;
            }
            Fetched::Bytes(read) => match TableDefinition::decode(&read) {
                Ok(definition) if !remote.schema_names(&definition.hash()).contains(&listed.name) => {
                    found.refused.push(refuse("it does not have the content that its name says".to_owned()));
                }
                Ok(definition) if !versions.take(&definition) => {
                    let version = definition.version;
                    found
                        .refused
                        .push(refuse(format!("its version {version} is far beyond any that the table has had")));
                }
                Ok(definition) => {
                    (room, bytes) = (room - read.len(), bytes + read.len());
                    fetched.push(definition);
                    found.read.push(listed.name);
                }
                Err(bad) => found.refused.push(refuse(format!("it is no table definition: {bad}"))),
            },
            Fetched::Unopened(bad) => found.refused.push(refuse(bad.to_string())),
            Fetched::Gone | Fetched::TooLarge => {}
        }
        if bytes >= BATCH_BYTES {
            bytes = 0;
            let batch = std::mem::take(&mut fetched);
            session.run(move |conn| adopt(conn, &batch, &[])).await?;
        }
    }
    if left > 0 {
        found.notices.push(format!("{left} more table definitions are on the remote; the next syncs read them"));
    }
    // The last look at what the tables share speaks for all of them; what gives way does so to the newest of them.
    found.notices.extend(session.run(move |conn| adopt(conn, &fetched, &own)).await?);
    Ok(found)
}

/// Definitions that are not known here.
struct Lacking {
    /// Those to ask for.
    listed: Vec<Listed>,
    /// For how many bytes of them there is room.
    room: usize,
    versions: Versions,
    /// Those of a replica that never synced anywhere, and that this remote does not have.
    own: Vec<Definition>,
}

/// The newest version of each table that is known, by the table's name in the log.
#[derive(Default)]
struct Versions(HashMap<String, u64>);

impl Versions {
    /// Takes note of a definition; false, and nothing done, if its version is out of all proportion.
    fn take(&mut self, definition: &TableDefinition) -> bool {
        let newest = self.0.entry(lower(definition.entity_type())).or_default();
        let fits = definition.version <= newest.saturating_add(MAX_STEP);
        if fits {
            *newest = definition.version.max(*newest);
        }
        fits
    }
}

async fn lacking(session: &Session, remote: &Remote, listing: &Listing, known: &Arc<Known>) -> Result<Lacking> {
    let is_definition = |listed: &&Listed| matches!(listed.name, ObjectName::Schema(_));
    let listed = listing.others.iter().filter(is_definition);
    let listed: Vec<Listed> = listed.filter(|listed| remote.content_len(listed.size) <= LIMIT).copied().collect();
    let (remote, known) = (remote.clone(), Arc::clone(known));
    session
        .run(move |conn| {
            let here = definitions(conn)?;
            let bytes: usize = here.iter().map(|definition| definition.body.len()).sum();
            let room = if here.len() < MAX_DEFINITIONS { MAX_KNOWN_BYTES.saturating_sub(bytes) } else { 0 };
            let mut versions = Versions::default();
            for definition in here.iter().filter_map(decode) {
                // What is known already counts as it is.
                let newest = versions.0.entry(lower(definition.entity_type())).or_default();
                *newest = definition.version.max(*newest);
            }
            let names: HashSet<ObjectName> = here.iter().flat_map(|known| remote.schema_names(&known.hash)).collect();
            let (known_here, lacking): (Vec<Listed>, Vec<Listed>) =
                listed.into_iter().partition(|listed| names.contains(&listed.name));
            // What came another way is not asked for any more: nobody is to hear of it for ever.
            known.forget(conn, known_here.iter().map(|listed| listed.name))?;
            let is_there = |definition: &Definition| {
                let names = remote.schema_names(&definition.hash);
                known_here.iter().any(|listed| names.contains(&listed.name))
            };
            let is_new = list_remotes(conn)?.iter().all(|remote| remote.last_sync_ms == 0);
            let own = here.into_iter().filter(|definition| is_new && !is_there(definition)).collect();
            Ok(Lacking { listed: known.wanted(conn, lacking)?, room, versions, own })
        })
        .await
}

fn too_many(remote: &Remote) -> String {
    format!(
        "there are more table definitions on {} than are kept here ({MAX_DEFINITIONS}, or {} MiB of them): somebody fills it; remove \
         from its folder `schemas` what does not belong there",
        remote.url(),
        MAX_KNOWN_BYTES >> 20
    )
}

/// Records definitions, and brings what the tracked tables share in line with the newest.
pub(super) fn adopt(conn: &mut Connection, fetched: &[TableDefinition], own: &[Definition]) -> Result<Vec<String>> {
    let tx = immediate(conn)?;
    let mut log = Log::new(&tx)?;
    for definition in fetched {
        let table_no = log.names.number(&tx, definition.entity_type())?;
        remember(&tx, table_no, definition)?;
    }
    give_way(&tx, own)?;
    let mut notices = Vec::new();
    for mut tracked in list_tracked(&tx)? {
        let newest = newest_definition(&tx, tracked.table_no())?.as_ref().and_then(decode);
        let Some(newest) = newest else { continue };
        let enforced = tracked.enforce_fk;
        notices.extend(follow(&mut tracked, &newest));
        save_tracked(&tx, &tracked)?;
        if tracked.enforce_fk != enforced {
            look_again(&tx, &tracked)?;
        }
    }
    drop(log);
    tx.commit()?;
    Ok(notices)
}

/// What a newcomer said of tables before it heard of a remote's definitions of them is as new as these, and would have the last word
/// by chance: it says nothing of keys, nor of whether foreign keys are enforced. Its schema stays known for what it is.
fn give_way(conn: &Connection, own: &[Definition]) -> Result<()> {
    let known = definitions(conn)?;
    for (ours, row) in own.iter().filter_map(|row| Some((decode(row)?, row))) {
        let is_theirs =
            |other: &&Definition| other.table_no == row.table_no && own.iter().all(|o| o.hash != other.hash);
        let theirs = known.iter().filter(is_theirs).max_by_key(|other| (other.version, other.hash)).and_then(decode);
        let Some(theirs) = theirs.filter(|theirs| !has_same_key(theirs, &ours) || theirs.enforce_fk != ours.enforce_fk)
        else {
            continue;
        };
        forget_definition(conn, &row.hash)?;
        if has_same_key(&theirs, &ours) {
            remember(conn, row.table_no, &TableDefinition { enforce_fk: theirs.enforce_fk, ..ours })?;
        }
    }
    Ok(())
}

/// Whether foreign keys are enforced is the remote's word; a table with another key is left alone, and says why.
fn follow(tracked: &mut Tracked, newest: &TableDefinition) -> Option<String> {
    tracked.enforce_fk = newest.enforce_fk;
    if has_key_of(tracked, newest) {
        tracked.blocked.clear();
        return None;
    }
    let why = other_key(tracked, newest);
    tracked.blocked.clone_from(&why);
    Some(why)
}

fn other_key(tracked: &Tracked, newest: &TableDefinition) -> String {
    let name = tracked.name();
    let (here, there) = (key_words(&logged_key(tracked)), key_words(&newest.key));
    format!(
        "{name}: a row is known by {here} here and by {there} on the remote; the table is neither merged nor pushed (`zvon track \
         {name} --redefine` if it is right here)"
    )
}

/// Whether a table's rows are known here by what a definition says.
fn has_key_of(tracked: &Tracked, definition: &TableDefinition) -> bool {
    definition.identity == identity_of(tracked) && are_same(&logged_key(tracked), &definition.key)
}

fn has_same_key(one: &TableDefinition, other: &TableDefinition) -> bool {
    one.identity == other.identity && are_same(&one.key, &other.key)
}

fn are_same(key: &[String], other: &[String]) -> bool {
    key.len() == other.len() && key.iter().zip(other).all(|(a, b)| same_name(a, b))
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

/// How one of the definitions that are known here stands on a remote.
pub(super) struct Stands {
    pub(super) name: ObjectName,
    pub(super) body: Vec<u8>,
    pub(super) standing: Standing,
    /// As it was listed, if it was.
    pub(super) listed: Option<Listed>,
}

/// Reads every definition that is known here and listed.
pub(super) async fn inspect(session: &Session, remote: &Remote, listing: &Listing) -> Result<Vec<Stands>> {
    let find = |name: ObjectName| {
        listing.others.binary_search_by_key(&name, |listed| listed.name).ok().map(|at| listing.others[at])
    };
    let mut found = Vec::new();
    for Definition { hash, body, .. } in session.run(|conn| definitions(conn)).await? {
        let names = remote.schema_names(&hash);
        let listed: Vec<Listed> = names.iter().filter_map(|name| find(*name)).collect();
        for listed in &listed {
            let standing = compare(remote, listed.name, &hash).await?;
            found.push(Stands { name: listed.name, body: body.clone(), standing, listed: Some(*listed) });
        }
        if let Some(name) = names.first().filter(|_| listed.is_empty()) {
            found.push(Stands { name: *name, body, standing: Standing::Gone, listed: None });
        }
    }
    Ok(found)
}

async fn compare(remote: &Remote, name: ObjectName, hash: &[u8; 32]) -> Result<Standing> {
    let fetched = match remote.get(&name, LIMIT).await {
        Err(error) if remote.keeps_back(&error) => return Ok(Standing::KeptBack),
        Err(error) if remote.is_damaged(&error) => return Ok(Standing::Different),
        fetched => fetched?,
    };
    Ok(match fetched {
        Fetched::Gone => Standing::Gone,
        Fetched::Bytes(read) if TableDefinition::decode(&read).is_ok_and(|there| there.hash() == *hash) => {
            Standing::Same
        }
        Fetched::Bytes(_) | Fetched::TooLarge | Fetched::Unopened(_) => Standing::Different,
    })
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
