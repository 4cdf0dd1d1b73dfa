//! Which row is which: between a row's key as its table has it and its entity id, and between a local integer key and the
//! entity id that travels in its place. Reads and writes our tables only.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::{Source, freed_entity, lower, set_free};
use crate::db::{bind_value, read_value};
use crate::error::Result;
use crate::model::{KeyKind, KeyPart, Value, decode_entity_id, digits_of, encode_entity_id};

/// The entity id of a row of a table with local integer keys.
pub(crate) fn entity_of(conn: &Connection, table_no: u32, local: i64) -> Result<Option<String>> {
    let sql = "SELECT entity_id FROM ZV_LOCAL WHERE table_no = ?1 AND local = ?2";
    Ok(conn.prepare_cached(sql)?.query_row((table_no, local), |row| row.get(0)).optional()?)
}

/// The local integer key of an entity.
pub(crate) fn local_of(conn: &Connection, table_no: u32, entity_id: &str) -> Result<Option<i64>> {
    let sql = "SELECT local FROM ZV_LOCAL WHERE table_no = ?1 AND entity_id = ?2";
    Ok(conn.prepare_cached(sql)?.query_row((table_no, entity_id), |row| row.get(0)).optional()?)
}

/// The integer that an entity which has none here would get, as far as the integers of others say: its own digits, or the next.
pub(crate) fn integer_to_be(conn: &Connection, table_no: u32, entity_id: &str) -> Result<i64> {
    if let Some(digits) = digits_of(entity_id)
        && entity_of(conn, table_no, digits)?.is_none()
    {
        return Ok(digits);
    }
    let sql = "SELECT max(local) FROM ZV_LOCAL WHERE table_no = ?1";
    let greatest: Option<i64> = conn.prepare_cached(sql)?.query_row([table_no], |row| row.get(0))?;
    Ok(greatest.unwrap_or(0).max(0).wrapping_add(1))
}

/// Records that an entity has an integer here; what either was bound to before is forgotten.
pub(crate) fn bind_local(conn: &Connection, table_no: u32, local: i64, entity_id: &str) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO ZV_LOCAL (table_no, local, entity_id) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute((table_no, local, entity_id))?;
    Ok(())
}

/// Records that an entity has another integer here than it had; rows that still refer to the old one are for the merge to look at.
pub(crate) fn move_local(
    conn: &Connection,
    references: &References,
    table_no: u32,
    local: i64,
    entity_id: &str,
) -> Result<()> {
    let old = local_of(conn, table_no, entity_id)?;
    bind_local(conn, table_no, local, entity_id)?;
    old.map_or(Ok(()), |old| give_up_local(conn, references, table_no, old, entity_id))
}

/// Sets an integer free that an entity has no more, if any table can refer to it.
pub(crate) fn give_up_local(
    conn: &Connection,
    references: &References,
    table_no: u32,
    local: i64,
    entity_id: &str,
) -> Result<()> {
    match references.to(table_no).is_empty() {
        true => Ok(()),
        false => set_free(conn, table_no, local, entity_id),
    }
}

/// Records that an entity has no integer here any more.
pub(crate) fn unbind_local(conn: &Connection, table_no: u32, entity_id: &str) -> Result<()> {
    let sql = "DELETE FROM ZV_LOCAL WHERE table_no = ?1 AND entity_id = ?2";
    conn.prepare_cached(sql)?.execute((table_no, entity_id))?;
    Ok(())
}

/// The entity that a reference by local integer means: a row that got another integer is still meant by the one that it had,
/// until that is given again or a merge has taken its children along.
pub(crate) fn referent(conn: &Connection, table_no: u32, local: i64) -> Result<Option<String>> {
    if let Some(entity_id) = entity_of(conn, table_no, local)? {
        return Ok(Some(entity_id));
    }
    match freed_entity(conn, table_no, local)? {
        Some(before) => Ok(local_of(conn, table_no, &before)?.map(|_| before)),
        None => Ok(None),
    }
}

/// Which columns hold local integer keys of other rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct References {
    /// By table and column (in lower case): the table that is referred to.
    targets: HashMap<u32, HashMap<String, u32>>,
}

impl References {
    pub(crate) fn load(conn: &Connection) -> Result<Self> {
        let sql =
            "SELECT r.table_no, n.name, r.parent_no FROM ZV_REFERENCE AS r JOIN ZV_NAME AS n ON n.no = r.column_no";
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut references = Self::default();
        while let Some(row) = rows.next()? {
            references.insert(row.get(0)?, row.get(1)?, row.get(2)?);
        }
        Ok(references)
    }

    pub(crate) fn insert(&mut self, table_no: u32, column: String, parent_no: u32) {
        self.targets.entry(table_no).or_default().insert(column, parent_no);
    }

    /// The table that a column refers to by its local integer key.
    pub(crate) fn target(&self, table_no: u32, column: &str) -> Option<u32> {
        let columns = self.targets.get(&table_no)?;
        columns.get(column).or_else(|| columns.get(&lower(column))).copied()
    }

    /// The columns of all tables that refer to a table, in order.
    pub(crate) fn to(&self, parent_no: u32) -> Vec<(u32, &str)> {
        let columns = self.targets.iter().flat_map(|(no, columns)| columns.iter().map(|column| (*no, column)));
        let mut found: Vec<(u32, &str)> = columns
            .filter(|(_, (_, parent))| **parent == parent_no)
            .map(|(no, (name, _))| (no, name.as_str()))
            .collect();
        found.sort_unstable();
        found
    }
}

/// Finds the entity of a table's local integer.
pub(crate) type Find<'f> = &'f dyn Fn(u32, i64) -> Result<Option<String>>;

/// A reference as the log has it: the parent's entity id, as an integer where it is digits. `None` where the value refers to
/// no row that is here.
pub(crate) fn to_logged(conn: &Connection, parent_no: u32, value: &Value) -> Result<Option<Value>> {
    translate(parent_no, value, &|table_no, local| referent(conn, table_no, local))
}

fn translate(parent_no: u32, value: &Value, find: Find<'_>) -> Result<Option<Value>> {
    match integer_in(value) {
        _ if matches!(value, Value::Null) => Ok(Some(Value::Null)),
        Some(local) => Ok(find(parent_no, local)?.map(|entity_id| reference(&entity_id))),
        None => Ok(None),
    }
}

/// A reference as the table has it: the parent's local integer. `None` where the parent has none.
pub(crate) fn to_local(conn: &Connection, parent_no: u32, value: &Value) -> Result<Option<Value>> {
    match referred(value) {
        _ if matches!(value, Value::Null) => Ok(Some(Value::Null)),
        Some(entity_id) => Ok(local_of(conn, parent_no, &entity_id)?.map(Value::Integer)),
        None => Ok(None),
    }
}

/// The entity id that a reference in the log names.
pub(crate) fn referred(value: &Value) -> Option<String> {
    match value {
        Value::Integer(n) => Some(n.to_string()),
        Value::Text(text) => String::from_utf8(text.clone()).ok(),
        Value::Null | Value::Real(_) | Value::Blob(_) => None,
    }
}

/// A reference as it may be shown: NULL where it names no row at all, as a column's default may.
pub(crate) fn named(value: Value) -> Value {
    match referred(&value) {
        Some(entity_id) if !entity_id.is_empty() => value,
        _ => Value::Null,
    }
}

fn reference(entity_id: &str) -> Value {
    digits_of(entity_id).map_or_else(|| Value::text(entity_id), Value::Integer)
}

/// The integer that a value is to a column which refers to an INTEGER PRIMARY KEY, whatever the column's own type made of it: what
/// SQLite makes of it for the parent's affinity (<https://sqlite.org/datatype3.html>, sections 3 and 4.2).
pub(crate) fn integer_in(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(n) => Some(*n),
        Value::Real(n) => integer_of(*n),
        Value::Text(text) => {
            // SQLite reads numbers up to a NUL.
            let text = std::str::from_utf8(text.split(|byte| *byte == 0).next()?).ok()?;
            let digits = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
            // A number begins so; Rust also reads "inf" and "nan".
            let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
                && !digits.contains(['i', 'I', 'n', 'N']);
            if !is_number {
                return None;
            }
            digits.parse().ok().or_else(|| integer_of(digits.parse().ok()?))
        }
        Value::Null | Value::Blob(_) => None,
    }
}

/// The integer that a real is; the least one is never taken for one by SQLite.
fn integer_of(real: f64) -> Option<i64> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    (real.fract() == 0.0 && -END < real && real < END).then_some(real as i64)
}

/// What a row's key says of its entity id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keyed {
    Entity(String),
    /// It refers to a row that is not here.
    Untranslated,
    /// No entity id can be made of it.
    Unusable,
}

impl Keyed {
    pub(crate) fn entity(self) -> Option<String> {
        match self {
            Self::Entity(entity_id) => Some(entity_id),
            Self::Untranslated | Self::Unusable => None,
        }
    }
}

impl Source {
    /// Whether rows have ids of their own, whatever their columns hold.
    pub(crate) fn is_generated(&self) -> bool {
        self.key.is_empty()
    }

    /// The columns by which a row is known here, which a journal row and our queries have first: the local integer key
    /// where there is one, then the key that identifies the row everywhere.
    pub(crate) fn lead(&self) -> impl Iterator<Item = &str> + Clone {
        self.local.iter().chain(&self.key).map(String::as_str)
    }

    pub(crate) fn lead_len(&self) -> usize {
        self.key.len() + usize::from(self.local.is_some())
    }

    /// The columns that find a row in its table.
    pub(crate) fn locator(&self) -> &[String] {
        self.local.as_ref().map_or(&self.key, std::slice::from_ref)
    }

    /// The columns that tell rows of different identity apart in the table.
    pub(crate) fn distinct(&self) -> &[String] {
        if self.is_generated() { self.locator() } else { &self.key }
    }

    /// The lead's values of those columns.
    pub(crate) fn distinct_values<'l>(&self, lead: &'l [Value]) -> &'l [Value] {
        &lead[lead.len() - self.distinct().len()..]
    }

    /// The entities of the rows whose leads a query finds; a row that has none is left out.
    pub(crate) fn entities(
        &self,
        conn: &Connection,
        references: &References,
        sql: &str,
        parameters: &[Value],
    ) -> Result<Vec<String>> {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(parameters.iter().map(bind_value)))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let lead: Vec<Value> =
                (0..self.lead_len()).map(|n| row.get_ref(n).map(read_value)).collect::<rusqlite::Result<_>>()?;
            found.extend(match (&self.local, lead.first()) {
                (Some(_), Some(Value::Integer(local))) => entity_of(conn, self.table_no, *local)?,
                _ => self.entity_id(conn, references, &lead)?.entity(),
            });
        }
        Ok(found)
    }

    /// The entity id of a row by its lead's values.
    pub(crate) fn entity_id(&self, conn: &Connection, references: &References, lead: &[Value]) -> Result<Keyed> {
        // Its own integer means a row only while the row has it.
        match self.is_generated() {
            true => self.entity_id_by(references, lead, &|table_no, local| entity_of(conn, table_no, local)),
            false => self.entity_id_by(references, lead, &|table_no, local| referent(conn, table_no, local)),
        }
    }

    /// The same, where local integers mean what `find` says.
    pub(crate) fn entity_id_by(&self, references: &References, lead: &[Value], find: Find<'_>) -> Result<Keyed> {
        if self.is_generated() {
            return match lead {
                [Value::Integer(local)] => Ok(find(self.table_no, *local)?.map_or(Keyed::Untranslated, Keyed::Entity)),
                _ => Ok(Keyed::Unusable),
            };
        }
        let mut parts = Vec::with_capacity(self.key.len());
        for (name, value) in self.key.iter().zip(&lead[self.lead_len() - self.key.len()..]) {
            let part = match references.target(self.table_no, name) {
                None => KeyPart::from_value(value.clone()),
                Some(parent_no) => match translate(parent_no, value, find)? {
                    Some(value) => KeyPart::from_value(value),
                    None => return Ok(Keyed::Untranslated),
                },
            };
            match part {
                Some(part) => parts.push(part),
                None => return Ok(Keyed::Unusable),
            }
        }
        Ok(self.encode(references, &parts).map_or(Keyed::Unusable, Keyed::Entity))
    }

    /// A single key that is a reference has the parent's entity id for its own, whatever the column's type.
    fn encode(&self, references: &References, parts: &[KeyPart]) -> Option<String> {
        match (self.kind, parts) {
            (KeyKind::Text | KeyKind::Integer, [part]) if references.target(self.table_no, &self.key[0]).is_some() => {
                part.clone().into_reference()
            }
            _ => encode_entity_id(self.kind, parts),
        }
    }

    /// The key of an entity id as the log has it: one part a key column, references not translated.
    pub(crate) fn logged_key(&self, references: &References, entity_id: &str) -> Option<Vec<KeyPart>> {
        match self.kind {
            _ if self.is_generated() => None,
            KeyKind::Text | KeyKind::Integer if references.target(self.table_no, &self.key[0]).is_some() => {
                KeyPart::from_value(reference(entity_id)).map(|part| vec![part])
            }
            kind => decode_entity_id(kind, self.key.len(), entity_id),
        }
    }

    /// The key columns' values in the table for an entity; `None` if the id is not one of this table's, or it refers to a
    /// row that is not here.
    pub(crate) fn local_key(
        &self,
        conn: &Connection,
        references: &References,
        entity_id: &str,
    ) -> Result<Option<Vec<Value>>> {
        let Some(parts) = self.logged_key(references, entity_id) else { return Ok(None) };
        let mut values = Vec::with_capacity(parts.len());
        for (name, part) in self.key.iter().zip(parts) {
            let value = match references.target(self.table_no, name) {
                None => Some(part.into_value()),
                Some(parent_no) => to_local(conn, parent_no, &part.into_value())?,
            };
            match value {
                Some(value) => values.push(value),
                None => return Ok(None),
            }
        }
        Ok(Some(values))
    }

    /// The values of the locator's columns for an entity; `None` where it has no row that could be found.
    pub(crate) fn locate(
        &self,
        conn: &Connection,
        references: &References,
        entity_id: &str,
    ) -> Result<Option<Vec<Value>>> {
        match self.local {
            Some(_) => Ok(local_of(conn, self.table_no, entity_id)?.map(|local| vec![Value::Integer(local)])),
            None => self.local_key(conn, references, entity_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_integer_that_sqlite_makes_of_it() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE made (n INTEGER)").unwrap();
        let texts = "5,05,+5,-5,-0, 5 ,\t5\n,\x0b5\r,\x0c5,5\u{a0},5.0,5.,.5,.,+,-,,5e0,50E-1,5e,5e+,1e3,1e18,1e19,5.5,1e400,-1e400,5x,0x5,1_0,\
                     5 5,+ 5,--5,5\0,5\0x,\x005,inf,+inf,-Infinity,nan,+NaN,9007199254740993,9007199254740993.0,9223372036854775807,\
                     9223372036854775808,-9223372036854775808,-9223372036854775809,-9223372036854775808.0";
        let mut values: Vec<Value> = texts.split(',').map(Value::text).collect();
        values.extend(
            [0.0, -0.0, 5.5, 2f64.powi(53), 2f64.powi(62), 2f64.powi(63), -2f64.powi(63), 1e300].map(Value::Real),
        );
        values.extend([Value::Real(f64::INFINITY), Value::Integer(i64::MIN), Value::Null, Value::Blob(b"5".to_vec())]);
        for value in values {
            conn.execute("DELETE FROM made", []).unwrap();
            conn.execute("INSERT INTO made VALUES (?1)", [bind_value(&value)]).unwrap();
            let made = conn.query_row("SELECT n FROM made", [], |row| Ok(read_value(row.get_ref(0)?))).unwrap();
            let expected = if let Value::Integer(n) = made { Some(n) } else { None };
            assert_eq!(integer_in(&value), expected, "{value:?}");
        }
    }
}
