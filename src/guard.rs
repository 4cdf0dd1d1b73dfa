//! Judges SQL that came from a remote before any of it is run: a table definition is hostile until shown otherwise.
//! Owns the list of what a definition may use; touches no database but an empty one of its own, in memory.
//!
//! Two walls. The text is read first, as SQLite would cut it into tokens: one statement, of the expected kind, without calls that
//! could fill memory. Then SQLite itself runs it in a scratch database, under limits and an authorizer that denies by default.
//!
//! What expressions may make of a row's own values is bounded by how often they name columns (`a || a` is honest SQL).

mod growth;
mod tokens;

use std::sync::mpsc::{self, Receiver};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error as ThisError;

use crate::error::Error;
use crate::model::{DELETED_FIELD, is_reserved_table};
use crate::wire::TableDefinition;

/// A table and as many indexes as any honest one has.
const MAX_STATEMENTS: usize = 129;

const LIMITS: [(Limit, i32); 11] = [
    (Limit::SQLITE_LIMIT_LENGTH, 2 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 256 << 10),
    (Limit::SQLITE_LIMIT_COLUMN, 2000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 1),
    (Limit::SQLITE_LIMIT_VDBE_OP, 250_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 32),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
];

/// Functions that read nothing but their arguments, the clock and the dice, and whose results are no larger than their arguments,
/// but for `randomblob` and those that `tokens` keeps from multiplying.
const FUNCTIONS: &str = "\
    -> ->> abs ceil ceiling char coalesce concat current_date current_time current_timestamp date datetime floor \
    glob hex if ifnull iif instr json json_array json_array_length json_extract json_object json_type json_valid \
    julianday length like likelihood likely ln log lower ltrim max min mod nullif octet_length pi pow power random \
    randomblob round rtrim sign sqrt strftime substr substring time timediff trim trunc typeof unhex unicode \
    unixepoch unlikely upper";

/// Why a definition is refused.
#[derive(Debug, ThisError)]
enum Refusal {
    #[error("its name is reserved")]
    ReservedName,
    #[error("it has no statement")]
    NoStatement,
    #[error("it has more than {MAX_STATEMENTS} statements")]
    TooManyStatements,
    #[error("statement {number} {flaw}")]
    Text { number: usize, flaw: tokens::Flaw },
    #[error("statement {number} is refused")]
    Statement { number: usize, source: Fault },
    #[error("statement {number} does not create what it should")]
    OtherObject { number: usize },
    #[error("no row can be written to it")]
    Write { source: Fault },
    #[error("its expressions make too much of a row's values; make the table yourself, track it, and sync")]
    Growth,
    #[error("it has a column of a reserved name")]
    ReservedColumn,
    #[error("it has no column {column}, which is part of its key")]
    NoKeyColumn { column: String },
    #[error("the scratch database failed")]
    Scratch(#[from] rusqlite::Error),
}

/// What came of running SQL behind the second wall.
#[derive(Debug, ThisError)]
enum Fault {
    #[error("it wants to {0}, which no definition may")]
    Denied(String),
    #[error("SQLite does not accept it: {0}")]
    Sql(String),
}

/// Refuses a definition unless its statements create the table it names, indexes on that table, and nothing else, from harmless parts.
pub(crate) fn check_definition(definition: &TableDefinition) -> Result<(), Error> {
    judge(definition).map_err(|refusal| {
        Error::schema(format!("the remote's definition of table {} is refused", shown(&definition.table)))
            .caused_by(refusal)
    })
}

fn judge(definition: &TableDefinition) -> Result<(), Refusal> {
    check_text(definition)?;
    let mut scratch = Scratch::open(&definition.table)?;
    for (at, sql) in definition.statements.iter().enumerate() {
        scratch.run(at + 1, sql)?;
    }
    let columns = scratch.columns()?;
    check_columns(definition, &columns)?;
    if !growth::is_bounded(&definition.statements, &columns) {
        return Err(Refusal::Growth);
    }
    scratch.prepare_writes(&columns)
}

fn check_text(definition: &TableDefinition) -> Result<(), Refusal> {
    if is_reserved_table(&definition.table) {
        return Err(Refusal::ReservedName);
    }
    match definition.statements.len() {
        0 => return Err(Refusal::NoStatement),
        1..=MAX_STATEMENTS => (),
        _ => return Err(Refusal::TooManyStatements),
    }
    definition.statements.iter().enumerate().try_for_each(|(at, sql)| {
        let kind = if at == 0 { tokens::Kind::Table } else { tokens::Kind::Index };
        tokens::check(sql, kind).map_err(|flaw| Refusal::Text { number: at + 1, flaw })
    })
}

fn check_columns(definition: &TableDefinition, columns: &[Column]) -> Result<(), Refusal> {
    let has = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    if has(DELETED_FIELD) {
        return Err(Refusal::ReservedColumn);
    }
    let now = |logged: &String| definition.renamed.iter().find(|(_, name)| *name == logged).map(|(now, _)| now.clone());
    let key: Vec<String> = definition.key.iter().map(|name| now(name).unwrap_or_else(|| name.clone())).collect();
    let missing = key.iter().chain(definition.renamed.keys()).find(|column| !has(column));
    missing.map_or(Ok(()), |column| Err(Refusal::NoKeyColumn { column: shown(column) }))
}

struct Column {
    name: String,
    generated: bool,
}

/// An empty database in memory that holds the one table being judged.
struct Scratch {
    db: Connection,
    table: String,
    indexes: i64,
}

impl Scratch {
    fn open(table: &str) -> Result<Self, Refusal> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_in_memory_with_flags(flags)?;
        for (limit, value) in LIMITS {
            db.set_limit(limit, value)?;
        }
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
        // A parent table may be defined elsewhere; here there is none.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        Ok(Self { db, table: table.to_owned(), indexes: 0 })
    }

    /// Runs one statement and looks whether it did what its place asks for.
    fn run(&mut self, number: usize, sql: &str) -> Result<(), Refusal> {
        self.guarded(|db| db.prepare(sql)?.raw_execute().map(drop))?
            .map_err(|source| Refusal::Statement { number, source })?;
        self.indexes += i64::from(number > 1);
        if self.holds_only_its_own()? { Ok(()) } else { Err(Refusal::OtherObject { number }) }
    }

    /// Whether the schema is the table, as many indexes on it as statements made, and what SQLite adds by itself.
    fn holds_only_its_own(&self) -> Result<bool, Refusal> {
        let mut statement = self.db.prepare("SELECT type, name, tbl_name, sql IS NOT NULL FROM sqlite_schema")?;
        let mut rows = statement.query([])?;
        let (mut tables, mut indexes) = (0, 0);
        while let Some(row) = rows.next()? {
            let (kind, name, table): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match kind.as_str() {
                "table" if name == self.table => tables += 1,
                "table" if name == "sqlite_sequence" => (),
                "index" if table != self.table => return Ok(false),
                "index" if !row.get(3)? => (),
                "index" if !is_reserved_table(&name) => indexes += 1,
                _ => return Ok(false),
            }
        }
        Ok((tables, indexes) == (1, self.indexes))
    }

    fn columns(&self) -> Result<Vec<Column>, Refusal> {
        let mut statement = self.db.prepare("SELECT name, hidden <> 0 FROM pragma_table_xinfo(?1)")?;
        let columns =
            statement.query_map([&self.table], |row| Ok(Column { name: row.get(0)?, generated: row.get(1)? }))?;
        Ok(columns.collect::<Result<_, _>>()?)
    }

    /// Prepares what will be run on the table: SQLite looks up the functions of a default only then.
    fn prepare_writes(&mut self, columns: &[Column]) -> Result<(), Refusal> {
        let table = quoted(&self.table);
        let updated = columns.iter().find(|column| !column.generated).map(|column| quoted(&column.name));
        let update = updated.map(|column| format!("UPDATE {table} SET {column} = {column}"));
        let writes = [format!("INSERT INTO {table} DEFAULT VALUES"), format!("DELETE FROM {table}")];
        for sql in writes.into_iter().chain(update) {
            self.guarded(|db| db.prepare(&sql).map(drop))?.map_err(|source| Refusal::Write { source })?;
        }
        Ok(())
    }

    /// Does something under the authorizer, which is lifted again for our own look at what came of it.
    fn guarded(
        &mut self,
        act: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Result<(), Fault>, rusqlite::Error> {
        let denied = authorize(&mut self.db, &self.table)?;
        let done = act(&self.db);
        self.db.authorizer(NO_AUTHORIZER)?;
        Ok(match denied.try_iter().next() {
            Some(wish) => Err(Fault::Denied(wish)),
            None => done.map_err(|error| Fault::Sql(complaint(&error))),
        })
    }
}

const NO_AUTHORIZER: Option<fn(AuthContext<'_>) -> Authorization> = None;

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Denies whatever a definition has no need of. What was denied is sent to the receiver.
fn authorize(db: &mut Connection, table: &str) -> rusqlite::Result<Receiver<String>> {
    let (denials, denied) = mpsc::channel();
    let table = table.to_owned();
    db.authorizer(Some(move |context: AuthContext<'_>| {
        if context.accessor.is_none() && allowed(&context, &table) {
            return Authorization::Allow;
        }
        // Nobody listens any more once the first denial has been read.
        let _ = denials.send(wish(&context.action));
        Authorization::Deny
    }))?;
    Ok(denied)
}

fn allowed(context: &AuthContext<'_>, table: &str) -> bool {
    use AuthAction as A;
    let main = context.database_name.is_none_or(|name| name == "main");
    match context.action {
        // AUTOINCREMENT creates the sequence; SQLite lets nobody else.
        A::CreateTable { table_name } => main && (table_name == table || table_name == "sqlite_sequence"),
        A::CreateIndex { table_name, .. } => main && table_name == table,
        A::Insert { table_name }
        | A::Delete { table_name }
        | A::Update { table_name, .. }
        | A::Read { table_name, .. } => main && (table_name == table || is_catalogue(table_name)),
        A::Reindex { .. } => main,
        // The name comes as the statement spells it.
        A::Function { function_name } => FUNCTIONS.split(' ').any(|name| name.eq_ignore_ascii_case(function_name)),
        _ => false,
    }
}

/// What SQLite writes to itself when it creates a table or an index.
fn is_catalogue(table: &str) -> bool {
    table == "sqlite_master" || table == "sqlite_sequence"
}

/// What a denied action would have done, without quoting more than names.
fn wish(action: &AuthAction<'_>) -> String {
    match action {
        AuthAction::Function { function_name } => format!("call {}", shown(function_name)),
        AuthAction::Select => "read from a query".to_owned(),
        AuthAction::CreateTable { table_name } => format!("create table {}", shown(table_name)),
        AuthAction::CreateIndex { table_name, .. } => format!("create an index on {}", shown(table_name)),
        AuthAction::Read { table_name, .. } => format!("read {}", shown(table_name)),
        _ => "do something other than create its table and indexes".to_owned(),
    }
}

/// A stranger's name as an error may show it: in quotes, short, and nothing in it that a terminal obeys.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(64).collect::<String>())
}

/// SQLite's own words alone: rusqlite would quote the whole statement.
fn complaint(error: &rusqlite::Error) -> String {
    let words = match error {
        rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg)) => msg.clone(),
        other => other.to_string(),
    };
    words.chars().take(200).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
