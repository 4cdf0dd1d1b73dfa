//! The tracked tables as a merge needs them: columns by number, defaults, statements' text. Reads the schema; writes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::Connection;

use crate::changelog::{Log, References, Tracked, entity_of, freed_entity, integer_in, list_tracked};
use crate::db::{
    Affinity, Ident, Table, condition, constant_default, list, read_table, read_value, refers_to_any, same_name,
};
use crate::error::{Error, Result};
use crate::model::{ChangeId, DELETED_COLUMN, KeyPart, ROWID_FIELD, Value, digits_of};

/// What a field of a change is to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// The recorded column at this place of `MergeTable::columns`, with its number.
    Column(u32),
    /// The reserved field.
    Deleted,
    /// Part of the key, which travels in the entity id, or the integer key of this replica: ignored.
    Key,
    /// The reserved field that says which integer the row has at its author's, with its number.
    Rowid(u32),
    /// A column that this replica leaves alone: its register is kept.
    Excluded(u32),
    /// A column that the table does not have: its register is kept until it does.
    Unknown(u32),
}

/// A column that merges write.
#[derive(Debug, Clone)]
pub(super) struct MergeColumn {
    pub(super) no: u32,
    pub(super) name: String,
    /// Its name in the log.
    pub(super) logged: String,
    pub(super) default: Value,
    pub(super) not_null: bool,
    /// Whether NULL in the place of its reference may be what another row has, too.
    pub(super) counts_null: bool,
    pub(super) affinity: Affinity,
    /// The table that it refers to by local integers.
    pub(super) target: Option<u32>,
}

/// A tracked table.
#[derive(Debug)]
pub(super) struct MergeTable {
    pub(super) tracked: Tracked,
    pub(super) shape: Table,
    pub(super) columns: Vec<MergeColumn>,
    /// Whether triggers of the user's run when it is written.
    pub(super) has_triggers: bool,
    /// The place of the table among the others, parents before children.
    pub(super) rank: usize,
    excluded: Vec<u32>,
    fields: HashMap<String, FieldKind>,
    pub(super) insert_sql: String,
    pub(super) delete_sql: String,
    pub(super) select_sql: String,
}

impl MergeTable {
    fn new(
        log: &mut Log<'_>,
        references: &References,
        tracked: Tracked,
        shape: Table,
        has_triggers: bool,
    ) -> Result<Self> {
        let (source, mut columns) = (&tracked.source, Vec::new());
        for name in &source.columns {
            if let Some(column) = shape.column(name) {
                let logged = source.logged_name(name).to_owned();
                let target = references.target(source.table_no, name);
                columns.push(MergeColumn {
                    no: log.names.number(log.conn, &logged)?,
                    name: column.name.clone(),
                    logged,
                    default: constant_default(log.conn, column)?,
                    not_null: column.not_null,
                    counts_null: target.is_some() && shape.counts_null_in(name),
                    affinity: column.affinity,
                    target,
                });
            }
        }
        let names: Vec<&str> = source.lead().chain(columns.iter().map(|c| c.name.as_str())).collect();
        let (table, found) = (Ident(&shape.name), condition(source.locator(), 1));
        let all = list(names.iter().map(|name| Ident(name)));
        let insert_sql = insert_sql(&shape, &names);
        let delete_sql = format!("DELETE FROM {table} WHERE {found}");
        let select_sql = format!("SELECT {all} FROM {table} WHERE {found}");
        let excluded: Result<Vec<u32>> = tracked.excluded.iter().map(|name| log.names.number(log.conn, name)).collect();
        let (excluded, fields, rank) = (excluded?, HashMap::new(), 0);
        Ok(Self { tracked, columns, has_triggers, rank, excluded, fields, insert_sql, delete_sql, select_sql, shape })
    }

    pub(super) fn no(&self) -> u32 {
        self.tracked.table_no()
    }

    /// What a field's name means here; remembered by the spelling.
    pub(super) fn field(&mut self, log: &mut Log<'_>, name: &str) -> Result<FieldKind> {
        if let Some(kind) = self.fields.get(name) {
            return Ok(*kind);
        }
        let no = log.names.number(log.conn, name)?;
        let kind = if no == DELETED_COLUMN {
            FieldKind::Deleted
        } else if same_name(name, ROWID_FIELD) {
            FieldKind::Rowid(no)
        } else if self.columns.iter().any(|column| column.no == no) {
            FieldKind::Column(no)
        } else if self.tracked.source.lead().any(|column| same_name(column, name)) {
            FieldKind::Key
        } else if self.tracked.excludes(name) {
            FieldKind::Excluded(no)
        } else {
            FieldKind::Unknown(no)
        };
        self.fields.insert(name.to_owned(), kind);
        Ok(kind)
    }

    /// The columns that stay on this replica.
    pub(super) fn local_columns(&self) -> impl Iterator<Item = &String> {
        self.tracked.excluded.iter().filter(|name| self.shape.column(name).is_some())
    }

    /// Whether the table has a column, be it one that is left alone here.
    pub(super) fn has_column(&self, no: u32) -> bool {
        self.columns.iter().any(|column| column.no == no) || self.excluded.contains(&no)
    }

    /// Whether an entity id is one of this table's that its key columns would keep as it is.
    pub(super) fn fits(&self, references: &References, entity_id: &str) -> bool {
        let source = &self.tracked.source;
        if source.is_generated() {
            return digits_of(entity_id).is_some() || entity_id.parse::<ChangeId>().is_ok();
        }
        let Some(key) = source.logged_key(references, entity_id) else { return false };
        key.iter().zip(&source.key).all(|(part, name)| {
            let is_reference = references.target(source.table_no, name).is_some();
            match self.shape.column(name) {
                Some(column) => is_reference || keeps(column.affinity, part),
                None => false,
            }
        })
    }

    /// Whether an integer key is no row's, and promised to none; nor is a row that gave it up still referred to by it.
    pub(super) fn is_free(&self, conn: &Connection, local: i64) -> Result<bool> {
        let taken = conn.prepare_cached(&self.select_sql)?.exists([local])?;
        Ok(!taken && entity_of(conn, self.no(), local)?.is_none() && freed_entity(conn, self.no(), local)?.is_none())
    }

    /// Whether an integer key was given before in a table where SQLite never gives one twice.
    pub(super) fn was_given(&self, conn: &Connection, local: i64) -> Result<bool> {
        Ok(self.given(conn)?.is_some_and(|given| local <= given))
    }

    /// The greatest integer key that SQLite ever gave, where it remembers that (AUTOINCREMENT).
    fn given(&self, conn: &Connection) -> Result<Option<i64>> {
        match self.shape.is_autoincrement {
            true => Ok(conn
                .prepare_cached("SELECT max(seq) FROM sqlite_sequence WHERE name = ?1")?
                .query_row([&self.shape.name], |row| row.get(0))?),
            false => Ok(None),
        }
    }

    /// The next integer key, above all that are or were given where SQLite remembers those (AUTOINCREMENT).
    pub(super) fn next_local(&self, conn: &Connection) -> Result<i64> {
        let column = Ident(&self.tracked.source.locator()[0]);
        let table = Ident(&self.shape.name);
        let shown = format!("SELECT max({column}) FROM {table}");
        let shown: Option<i64> = conn.prepare_cached(&shown)?.query_row([], |row| row.get(0))?;
        let promised = "SELECT max(local) FROM (SELECT max(local) AS local FROM ZV_LOCAL WHERE table_no = ?1 \
                        UNION ALL SELECT max(local) FROM ZV_FREED WHERE table_no = ?1)";
        let promised: Option<i64> = conn.prepare_cached(promised)?.query_row([self.no()], |row| row.get(0))?;
        let given = self.given(conn)?;
        let greatest = shown.max(promised).max(given).unwrap_or(0).max(0);
        match greatest.checked_add(1) {
            Some(next) => Ok(next),
            None => self.any_free(conn),
        }
    }

    /// An integer key below the greatest there can be, as SQLite looks for one itself.
    fn any_free(&self, conn: &Connection) -> Result<i64> {
        for _ in 0..100 {
            let local: i64 = conn.query_row("SELECT abs(random() % 4611686018427387904) + 1", [], |row| row.get(0))?;
            if self.is_free(conn, local)? {
                return Ok(local);
            }
        }
        Err(Error::schema(format!("{} has no integer keys left", self.shape.name)))
    }

    /// `INSERT` of a whole row and of more columns, which come last.
    pub(super) fn insert_sql_with<'n>(&'n self, more: impl Iterator<Item = &'n str>) -> String {
        let own = self.columns.iter().map(|column| column.name.as_str());
        insert_sql(&self.shape, &self.tracked.source.lead().chain(own).chain(more).collect::<Vec<_>>())
    }

    /// `UPDATE` of some columns: their values come first, then the locator's.
    pub(super) fn update_sql(&self, columns: &[(usize, &Value)]) -> String {
        let sets =
            columns.iter().enumerate().map(|(n, (at, _))| format!("{} = ?{}", Ident(&self.columns[*at].name), n + 1));
        let found = condition(self.tracked.source.locator(), columns.len() + 1);
        format!("UPDATE{} {} SET {} WHERE {found}", or_abort(&self.shape), Ident(&self.shape.name), list(sets))
    }
}

/// What becomes of a row that breaks a constraint is the merge's to say, alike on every replica: a clause of the table's own
/// would remove another row for it, leave it out or end the transaction. The word is said only where there is such a clause, as
/// it also goes for the statements of the user's triggers (<https://sqlite.org/lang_createtrigger.html>).
fn insert_sql(shape: &Table, names: &[&str]) -> String {
    format!(
        "INSERT{} INTO {} ({}) VALUES ({})",
        or_abort(shape),
        Ident(&shape.name),
        list(names.iter().map(|name| Ident(name))),
        list((1..=names.len()).map(|n| format!("?{n}")))
    )
}

fn or_abort(shape: &Table) -> &'static str {
    if shape.has_conflict_clause { " OR ABORT" } else { "" }
}

/// Whether a column stores a key's part as it is: text columns turn numbers into text, number columns turn text that
/// looks like a number into one (<https://sqlite.org/datatype3.html>, section 3).
fn keeps(affinity: Affinity, part: &KeyPart) -> bool {
    match (affinity, part) {
        (Affinity::Text, KeyPart::Integer(_)) => false,
        (Affinity::Numeric | Affinity::Integer | Affinity::Real, KeyPart::Text(text)) => {
            // Rust reads words such as `inf` and `nan` as numbers too; SQLite does not.
            let text = text.trim_ascii();
            text.contains(|c: char| c.is_ascii_alphabetic() && !c.eq_ignore_ascii_case(&'e'))
                || text.parse::<f64>().is_err()
        }
        _ => true,
    }
}

/// The tables that can be merged into now: tracked, active and there.
#[derive(Debug)]
pub(super) struct Tables {
    by_no: HashMap<u32, MergeTable>,
    /// Tables that merges leave alone while they are being altered, or defined otherwise elsewhere.
    away: BTreeSet<u32>,
    /// The names of tables that are tracked no more and may be again.
    untracked: BTreeMap<u32, String>,
    pub(super) references: References,
    /// The number of the reserved field `zv_rowid`.
    pub(super) rowid_column: u32,
}

impl Tables {
    pub(super) fn load(log: &mut Log<'_>) -> Result<Self> {
        let (mut by_no, triggered) = (HashMap::new(), triggered(log.conn)?);
        let references = References::load(log.conn)?;
        let (active, inactive): (Vec<Tracked>, Vec<Tracked>) =
            list_tracked(log.conn)?.into_iter().partition(|tracked| tracked.active);
        let (live, others): (Vec<Tracked>, Vec<Tracked>) = active.into_iter().partition(Tracked::is_live);
        for tracked in live {
            if let Some(shape) = read_table(log.conn, tracked.name())? {
                let has_triggers = triggered.iter().any(|name| same_name(name, &shape.name));
                by_no.insert(tracked.table_no(), MergeTable::new(log, &references, tracked, shape, has_triggers)?);
            }
        }
        rank(&mut by_no);
        let rowid_column = log.names.number(log.conn, ROWID_FIELD)?;
        let away = others.iter().map(Tracked::table_no).collect();
        let untracked = inactive.iter().map(|tracked| (tracked.table_no(), tracked.name().to_owned())).collect();
        Ok(Self { by_no, away, untracked, references, rowid_column })
    }

    /// Which of the integers that a table's rows gave up are to be remembered: rows that refer to them can only be looked at later.
    /// Of a table that is tracked no more, which may be for ever, that goes for the integers that it holds; likewise of a column
    /// that stays on this replica, which merges leave as it is.
    pub(super) fn remembered(&self, conn: &Connection, no: u32, freed: BTreeSet<i64>) -> Result<BTreeSet<i64>> {
        let children = self.references.to(no);
        if freed.is_empty() || children.iter().any(|(child, _)| self.away.contains(child)) {
            return Ok(freed);
        }
        let json = serde_json::to_string(&freed).expect("a list of integers is always JSON");
        let mut held = BTreeSet::new();
        for (child, column) in children {
            let excluding =
                self.get(child).filter(|table| table.tracked.excludes(column)).map(|table| &table.shape.name);
            let Some(name) = self.untracked.get(&child).or(excluding) else { continue };
            let sql = format!("SELECT DISTINCT {} FROM {} WHERE {}", Ident(column), Ident(name), refers_to_any(column));
            // It may be gone, or have another shape, and refers to nothing then.
            let Ok(mut statement) = conn.prepare(&sql) else { continue };
            let mut rows = statement.query([&json])?;
            loop {
                match rows.next() {
                    Ok(Some(row)) => held.extend(integer_in(&read_value(row.get_ref(0)?))),
                    Ok(None) => break,
                    // What cannot be read, as a view that has the name now, may refer to any.
                    Err(_) => return Ok(freed),
                }
            }
        }
        Ok(freed.intersection(&held).copied().collect())
    }

    pub(super) fn get(&self, no: u32) -> Option<&MergeTable> {
        self.by_no.get(&no)
    }

    pub(super) fn get_mut(&mut self, no: u32) -> Option<&mut MergeTable> {
        self.by_no.get_mut(&no)
    }

    /// The numbers of all, in order.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.by_no.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MergeTable> {
        self.by_no.values()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&MergeTable> {
        self.by_no.values().find(|table| same_name(&table.shape.name, name))
    }

    /// Whether a trigger of the user's would run when a merge writes one of these tables.
    pub(super) fn have_user_triggers(&self) -> bool {
        self.iter().any(|table| table.has_triggers)
    }
}

/// The tables on which the user has triggers.
fn triggered(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name NOT GLOB 'ZV_*' \
               UNION SELECT tbl_name FROM sqlite_temp_schema WHERE type = 'trigger'";
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Places parents before children; tables in a circle keep the order of their numbers.
fn rank(tables: &mut HashMap<u32, MergeTable>) {
    let mut waiting: Vec<u32> = tables.keys().copied().collect();
    waiting.sort_unstable();
    for place in 0..waiting.len() {
        let is_free = |no: &u32| {
            let parents = tables[no].shape.foreign_keys.iter().map(|key| key.parent.as_str());
            let mut others = parents.filter(|parent| !same_name(parent, &tables[no].shape.name));
            !others.any(|parent| waiting.iter().any(|other| same_name(&tables[other].shape.name, parent)))
        };
        let free = waiting.iter().position(is_free).unwrap_or(0);
        let no = waiting.remove(free);
        if let Some(table) = tables.get_mut(&no) {
            table.rank = place;
        }
    }
}
