//! One change: whether a merge should have folded it, whether its marks say so, and its fields into the fold.

use rusqlite::types::ValueRef;

use super::catalog::{KnownTable, Role};
use super::context::{Context, Tally};
use super::entity::Entity;
use super::problems::{Problems, Quoted};
use crate::changelog::IdText;
use crate::db::{read_value, same_name};
use crate::error::Result;
use crate::model::{ChangeId, Value};

/// A change without its fields.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: ChangeId,
    pub(super) merged: bool,
    pub(super) seq: i64,
    pub(super) own: bool,
    pub(super) waits: Vec<Wait>,
}

/// A row of `ZV_PENDING`: what a change waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) table_no: u32,
    /// `None` where the table is what lacks.
    pub(super) column_no: Option<u32>,
}

/// A table that the log names.
pub(super) struct Table<'c> {
    entity_type: String,
    /// As the schema spells it where it is known; in quotes otherwise.
    pub(super) name: String,
    pub(super) no: Option<u32>,
    /// `None` where it was never tracked here.
    pub(super) known: Option<&'c KnownTable>,
}

impl<'c> Table<'c> {
    pub(super) fn find(context: &Context<'c>, entity_type: &str) -> Result<Self> {
        let known = context.catalog.get(entity_type);
        let name = known.map_or_else(|| Quoted(entity_type).to_string(), |known| known.tracked.name().to_owned());
        Ok(Self { no: context.number(entity_type)?, entity_type: entity_type.to_owned(), name, known })
    }

    pub(super) fn is(&self, entity_type: &str) -> bool {
        same_name(&self.entity_type, entity_type)
    }

    fn is_active(&self) -> bool {
        self.known.is_some_and(|known| known.rows.is_some())
    }

    fn role(&self, field: &str) -> Role {
        self.known.map_or(Role::Unknown, |known| known.role(field))
    }
}

/// Folds a change into its entity, if a merge has folded it or should have.
pub(super) fn fold(
    context: &Context<'_>,
    tally: &mut Tally,
    table: &Table<'_>,
    head: &Head,
    entity: &mut Entity,
) -> Result<()> {
    check_clock(context, &mut tally.problems, head);
    check_waits(&mut tally.problems, table, head);
    if !is_folded(context, &mut tally.problems, table, head) {
        return Ok(());
    }
    let unknown = fold_fields(context, tally, table, head, entity)?;
    if table.is_active() && !head.own {
        check_columns(context, &mut tally.problems, table, head, unknown, entity)?;
    }
    Ok(())
}

/// What was made or merged here is not beyond the clock, or the next write would lose to it.
fn check_clock(context: &Context<'_>, problems: &mut Problems, head: &Head) {
    let counts = (head.own || head.merged) && !head.id.is_backfill();
    if counts && Some(head.id) > context.last_id {
        problems
            .add(format_args!("change {} is newer than the clock's last id, so new writes would lose to it", head.id));
    }
}

fn check_waits(problems: &mut Problems, table: &Table<'_>, head: &Head) {
    if head.waits.iter().any(|wait| Some(wait.table_no) != table.no) {
        problems.add(format_args!("change {} of {} is listed as waiting for another table", head.id, table.name));
    }
    if head.merged && !head.waits.is_empty() {
        problems.add(format_args!("change {} of {} is marked merged and listed as waiting", head.id, table.name));
    }
}

/// Whether the registers have to hold the change.
fn is_folded(context: &Context<'_>, problems: &mut Problems, table: &Table<'_>, head: &Head) -> bool {
    let (id, name) = (head.id, &table.name);
    if head.own {
        if !head.merged {
            problems.add(format_args!("change {id} of {name} was made here and is not marked merged"));
        }
        return true;
    }
    let reached = head.seq <= context.merged_seq;
    if head.merged {
        if !reached {
            problems.add(format_args!("change {id} of {name} is marked merged before a merge has come to it"));
        }
        if table.known.is_none() {
            problems.add(format_args!("change {id} of {name} is marked merged, and that table was never tracked"));
        }
        return table.known.is_some();
    }
    if !reached {
        return false;
    }
    if head.waits.is_empty() {
        problems.add(format_args!("change {id} of {name} is not merged, and nothing says what it waits for"));
        return table.is_active();
    }
    // What waits for a table that has come since is folded by the next merge.
    let waits_for_table = head.waits.iter().any(|wait| wait.column_no.is_none());
    if !waits_for_table && table.known.is_none() {
        problems.add(format_args!("change {id} of {name} waits for a column of a table that was never tracked"));
    }
    !waits_for_table && table.known.is_some()
}

/// Folds the fields; returns the names of those that the table has no column for.
fn fold_fields(
    context: &Context<'_>,
    tally: &mut Tally,
    table: &Table<'_>,
    head: &Head,
    entity: &mut Entity,
) -> Result<Vec<String>> {
    let sql = "SELECT field_name, field_value FROM ZV_CHANGE_FIELD WHERE change_id = ?1";
    let mut statement = context.conn.prepare_cached(sql)?;
    let mut rows = statement.query([IdText::new(head.id).as_str()])?;
    let mut unknown = Vec::new();
    while let Some(row) = rows.next()? {
        let name = match row.get_ref(0)? {
            ValueRef::Text(name) => std::str::from_utf8(name).ok(),
            _ => None,
        };
        let Some(name) = name else {
            tally.problems.add(format_args!("change {} of {} has a field whose name is not text", head.id, table.name));
            continue;
        };
        match table.role(name) {
            Role::Key => continue,
            Role::Unknown => unknown.push(name.to_owned()),
            Role::Deleted | Role::Rowid | Role::Column | Role::Excluded => {}
        }
        let value = row.get_ref(1)?;
        entity.fold.write(name, head.id, head.own, || Value::from_logged(read_value(value)));
    }
    Ok(unknown)
}

/// A pulled change waits for exactly the columns that its table lacks.
fn check_columns(
    context: &Context<'_>,
    problems: &mut Problems,
    table: &Table<'_>,
    head: &Head,
    unknown: Vec<String>,
    entity: &mut Entity,
) -> Result<()> {
    let (id, table_name) = (head.id, &table.name);
    let mut wanted = Vec::with_capacity(unknown.len());
    for name in unknown {
        let no = context.number(&name)?;
        let listed = head.waits.iter().any(|wait| wait.column_no == no && no.is_some());
        if !head.merged && !listed {
            let column = Quoted(&name);
            problems.add(format_args!("change {id} of {table_name} is not listed as waiting for the column {column}"));
        }
        if head.merged && !table.known.is_some_and(|known| known.had(&name)) {
            let column = Quoted(&name);
            problems.add(format_args!("change {id} is marked merged, and {table_name} never had its column {column}"));
        }
        wanted.extend(no);
    }
    // A column that has come since is shown by the next merge.
    entity.awaits_merge |= head.waits.iter().any(|wait| wait.column_no.is_some_and(|no| !wanted.contains(&no)));
    Ok(())
}
