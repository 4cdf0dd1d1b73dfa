//! Own changes on their way into log and registers: references translated, names as the log has them. Decides nothing.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use crate::changelog::{
    Keyed, Log, NewChange, References, Source, Untranslated, any_held, any_untranslated, entity_of, freed_entity,
    leave_out, release, settle, to_logged,
};
use crate::db::{Ident, bind_ref, bind_value, list, read_value};
use crate::error::Result;
use crate::model::{
    ChangeId, DELETED_COLUMN, DELETED_FIELD, KeyKind, KeyPart, ROWID_FIELD, Register, Value, encode_entity_id,
};
use crate::world::World;

/// A source, with what its columns are to the log.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) source: Source,
    /// The columns' numbers, and the tables that they refer to by local integers, in the source's order.
    numbers: Vec<u32>,
    targets: Vec<Option<u32>>,
}

/// Records own changes within one transaction.
pub(super) struct Recorder<'a, 'c> {
    pub(super) log: &'a mut Log<'c>,
    pub(super) world: &'a World,
    pub(super) references: References,
    author: String,
    rowid_column: u32,
    /// Whether anything is left out, and so may be what is written now.
    any_left_out: bool,
    /// Whether any row is held, and so may be one that was written now.
    any_held: bool,
}

/// A column's value, if the change has it.
pub(super) type ValueOf<'f, 'v> = &'f dyn Fn(usize) -> Result<Option<ValueRef<'v>>>;

impl<'a, 'c> Recorder<'a, 'c> {
    pub(super) fn new(log: &'a mut Log<'c>, world: &'a World) -> Result<Self> {
        let conn = log.conn;
        Ok(Self {
            author: log.author()?,
            references: References::load(conn)?,
            rowid_column: log.names.number(conn, ROWID_FIELD)?,
            any_left_out: any_untranslated(conn)?,
            any_held: any_held(conn)?,
            log,
            world,
        })
    }

    pub(super) fn conn(&self) -> &'c Connection {
        self.log.conn
    }

    /// The number of the reserved field that says a row's integer.
    pub(super) fn rowid_column(&self) -> u32 {
        self.rowid_column
    }

    pub(super) fn prepare(&mut self, source: Source) -> Result<Recorded> {
        let conn = self.conn();
        let numbers: Result<Vec<u32>> =
            source.columns.iter().map(|name| self.log.names.number(conn, source.logged_name(name))).collect();
        let targets = source.columns.iter().map(|name| self.references.target(source.table_no, name)).collect();
        Ok(Recorded { numbers: numbers?, targets, source })
    }

    pub(super) fn next_id(&mut self, ms: u64) -> ChangeId {
        self.log.clock.next(ms, self.world.random())
    }

    /// Records that a row stands in its table as `value` says; an insert says so even where no column could be recorded.
    /// Returns whether there was anything to say.
    pub(super) fn write(
        &mut self,
        id: ChangeId,
        recorded: &Recorded,
        entity_id: &str,
        rowid: Option<i64>,
        is_insert: bool,
        value: ValueOf<'_, '_>,
    ) -> Result<bool> {
        let source = &recorded.source;
        let mut translated = Vec::new();
        for (n, target) in recorded.targets.iter().enumerate() {
            let (Some(parent_no), Some(value)) = (target, value(n)?) else { continue };
            let cell = Untranslated {
                table_no: source.table_no,
                row: entity_id.to_owned(),
                column_no: Some(recorded.numbers[n]),
            };
            let logged = to_logged(self.conn(), *parent_no, &read_value(value))?;
            if logged.is_none() {
                leave_out(self.conn(), &cell)?;
                self.any_left_out = true;
            } else if self.any_left_out {
                settle(self.conn(), &cell)?;
            }
            translated.push((n, logged));
        }
        let (mut fields, mut written) = (Vec::with_capacity(source.columns.len() + 1), Vec::new());
        let mut translated = translated.iter().peekable();
        for (n, name) in source.columns.iter().enumerate() {
            let value = match translated.next_if(|(at, _)| *at == n) {
                Some((_, logged)) => logged.as_ref().map(bind_ref),
                None => value(n)?,
            };
            if let Some(value) = value {
                fields.push((source.logged_name(name), value));
                written.push((recorded.numbers[n], false));
            }
        }
        if is_insert && fields.is_empty() {
            fields.push((DELETED_FIELD, ValueRef::Integer(0)));
            written.push((DELETED_COLUMN, false));
        }
        if let Some(rowid) = rowid.filter(|_| source.is_generated()) {
            fields.push((ROWID_FIELD, ValueRef::Integer(rowid)));
            written.push((self.rowid_column, false));
        }
        if fields.is_empty() {
            return Ok(false);
        }
        self.change(id, source, entity_id, &fields, &written)?;
        self.shown(source.table_no, entity_id, true)?;
        Ok(true)
    }

    /// Records that a row is deleted.
    pub(super) fn delete(&mut self, id: ChangeId, source: &Source, entity_id: &str) -> Result<()> {
        self.change(id, source, entity_id, &[(DELETED_FIELD, ValueRef::Integer(1))], &[(DELETED_COLUMN, true)])?;
        self.shown(source.table_no, entity_id, false)
    }

    fn change(
        &mut self,
        id: ChangeId,
        source: &Source,
        entity_id: &str,
        fields: &[(&str, ValueRef<'_>)],
        written: &[(u32, bool)],
    ) -> Result<()> {
        let change = NewChange { id, author: &self.author, entity_type: &source.entity_type, entity_id, own: true };
        self.log.append(change)?;
        self.log.append_fields(id, fields)?;
        let entity = self.log.entity(source.table_no, entity_id)?;
        for (column, deleted) in written {
            entity.fold(*column, Register { id, own: true, deleted: *deleted });
        }
        Ok(())
    }

    /// A row that its own table's user wrote is as it should be.
    fn shown(&mut self, table_no: u32, entity_id: &str, shown: bool) -> Result<()> {
        self.log.entity(table_no, entity_id)?.set_shown(shown);
        if self.any_held { release(self.conn(), table_no, entity_id) } else { Ok(()) }
    }

    /// Leaves a row out whose key refers to a row that is not here.
    pub(super) fn leave_row_out(&mut self, source: &Source, lead: &[Value]) -> Result<()> {
        self.any_left_out = true;
        match raw_key(lead) {
            Some(row) => leave_out(self.conn(), &Untranslated { table_no: source.table_no, row, column_no: None }),
            None => Ok(()),
        }
    }

    /// The entity id of a row that is being deleted, whose key may refer to a row that was deleted just before.
    pub(super) fn departing(&mut self, source: &Source, lead: &[Value]) -> Result<Option<String>> {
        let conn = self.conn();
        let now = source.entity_id(conn, &self.references, lead)?;
        let is_known = match &now {
            Keyed::Entity(entity_id) => !self.log.entity(source.table_no, entity_id)?.registers.is_empty(),
            Keyed::Untranslated => false,
            Keyed::Unusable => return Ok(None),
        };
        if is_known || source.is_generated() {
            return Ok(now.entity());
        }
        let before = source.entity_id_by(&self.references, lead, &|table_no, local| {
            freed_entity(conn, table_no, local)?.map_or_else(|| entity_of(conn, table_no, local), |id| Ok(Some(id)))
        })?;
        Ok(before.entity().or(now.entity()))
    }
}

impl Recorded {
    pub(super) fn number(&self, n: usize) -> u32 {
        self.numbers[n]
    }

    pub(super) fn target(&self, n: usize) -> Option<u32> {
        self.targets[n]
    }

    /// The rows of a table that a condition finds, their lead first.
    fn live_rows_sql(&self, condition: &str) -> String {
        let source = &self.source;
        let names = source.lead().chain(source.columns.iter().map(String::as_str)).map(Ident);
        format!("SELECT {} FROM {} WHERE {condition}", list(names), Ident(&source.table))
    }

    /// Calls `found` with each row of the table that meets a condition on given values; a table that is gone has none.
    pub(super) fn each_live_row(
        &self,
        conn: &Connection,
        condition: &str,
        values: &[Value],
        mut found: impl FnMut(Vec<Value>, &Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let Ok(mut statement) = conn.prepare_cached(&self.live_rows_sql(condition)) else { return Ok(()) };
        let mut rows = statement.query(params_from_iter(values.iter().map(bind_value)))?;
        while let Some(row) = rows.next()? {
            found(read_lead(&self.source, row, 0)?, row)?;
        }
        Ok(())
    }
}

/// The values of a row's lead, which begin at a column of the result.
pub(super) fn read_lead(source: &Source, row: &Row<'_>, first: usize) -> Result<Vec<Value>> {
    let lead = (0..source.lead_len()).map(|n| Ok(read_value(row.get_ref(first + n)?)));
    lead.collect()
}

/// A row's key as it stands in the table, as text.
pub(crate) fn raw_key(lead: &[Value]) -> Option<String> {
    let parts: Option<Vec<KeyPart>> = lead.iter().map(|value| KeyPart::from_value(value.clone())).collect();
    encode_entity_id(KeyKind::Parts, &parts?)
}
