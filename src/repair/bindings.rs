//! `ZV_LOCAL`: which row of a table with local integers is which entity, found again by what the rows hold and by the integers
//! that their changes say. A binding whose row is what its entity's changes say is never moved.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, params_from_iter};

use super::registers::Evidence;
use super::told::Told;
use crate::capture::{Accounts, parents_first, same_through_affinity};
use crate::changelog::{
    Keyed, Names, References, Source, bind_local, entity_of, list_tracked, local_of, read_fields, read_source,
    referred, to_logged, unbind_local,
};
use crate::db::{Ident, Table, bind_value, condition, constant_default, list, read_table, read_value, same_name};
use crate::error::Result;
use crate::model::{ROWID_FIELD, Registers, Value, digits_of};

/// The operations of journal rows after which a row is not what it was before.
const INSERT: i64 = 1;
const MOVE: i64 = 5;

/// By entity: the integer that it has, and the one that its changes say.
type Misplaced = BTreeMap<String, (i64, i64)>;

/// How many rows that nothing else tells apart are compared with how many entities.
const COMPARED: usize = 2_000;

pub(super) fn mend(conn: &Connection, evidence: &Evidence, told: &mut Told) -> Result<()> {
    conn.execute_batch(
        "DROP TABLE IF EXISTS temp.ZV_BOUND; CREATE TEMP TABLE ZV_BOUND AS SELECT table_no, local, entity_id FROM ZV_LOCAL",
    )?;
    conn.execute(
        "DELETE FROM ZV_LOCAL WHERE typeof(local) <> 'integer' OR typeof(entity_id) <> 'text' OR NOT EXISTS \
         (SELECT 1 FROM ZV_REGISTER AS r WHERE r.table_no = ZV_LOCAL.table_no AND r.entity_id = ZV_LOCAL.entity_id)",
        [],
    )?;
    let tracked = list_tracked(conn)?;
    let names = parents_first(conn, tracked.iter().map(|tracked| tracked.name().to_owned()).collect())?;
    for name in names {
        let source = tracked.iter().find(|tracked| tracked.active && tracked.name() == name).map(|t| &t.source);
        let Some(source) = source.filter(|source| source.local.is_some()) else { continue };
        let Some(shape) = read_table(conn, &name)? else { continue };
        if source.lead().all(|column| shape.column(column).is_some()) {
            Binder::new(conn, source, &shape, evidence)?.run()?;
        }
    }
    let sql = "SELECT count(*) FROM (SELECT * FROM (SELECT table_no, local, entity_id FROM ZV_LOCAL EXCEPT SELECT * FROM temp.ZV_BOUND) \
               UNION ALL SELECT * FROM (SELECT * FROM temp.ZV_BOUND EXCEPT SELECT table_no, local, entity_id FROM ZV_LOCAL))";
    let moved: u64 = conn.query_row(sql, [], |row| row.get(0))?;
    told.did(moved, |n| format!("{n} entries of ZV_LOCAL, which says which row has which integer, were put right"));
    Ok(conn.execute_batch("DROP TABLE temp.ZV_BOUND")?)
}

/// A row of the table, by its integer, and an entity.
type Row = (i64, String);

struct Binder<'a> {
    conn: &'a Connection,
    source: &'a Source,
    references: References,
    evidence: &'a Evidence,
    /// The columns that tell rows apart: name, log's name, number, default, the table referred to.
    columns: Vec<Compared>,
    rowid_column: u32,
    /// What the journal says of integers first, as the rows may differ from the log by it.
    journal: HashMap<i64, i64>,
}

struct Compared {
    name: String,
    logged: String,
    no: u32,
    default: Value,
    target: Option<u32>,
}

impl<'a> Binder<'a> {
    fn new(conn: &'a Connection, source: &'a Source, shape: &Table, evidence: &'a Evidence) -> Result<Self> {
        let references = References::load(conn)?;
        let mut names = Names::default();
        let mut columns = Vec::new();
        for name in &source.columns {
            let Some(column) = shape.column(name) else { continue };
            let target = references.target(source.table_no, name);
            // What refers to its own table says nothing before that is bound.
            if target != Some(source.table_no) {
                let logged = source.logged_name(name).to_owned();
                columns.push(Compared {
                    name: column.name.clone(),
                    no: names.number(conn, &logged)?,
                    logged,
                    default: constant_default(conn, column)?,
                    target,
                });
            }
        }
        let rowid_column = names.number(conn, ROWID_FIELD)?;
        let journal = journal_of(conn, source.table_no)?;
        Ok(Self { conn, source, references, evidence, columns, rowid_column, journal })
    }

    fn run(&self) -> Result<()> {
        if !self.source.is_generated() {
            return self.by_key();
        }
        let (strange, out_of_place) = self.rows()?;
        self.turn_back(out_of_place)?;
        let lost = self.lost(&strange)?;
        if !lost.is_empty() {
            self.rematch(strange, lost)?;
        }
        Ok(())
    }

    /// A table whose rows are known by other columns says itself which row is which.
    fn by_key(&self) -> Result<()> {
        let names = list(self.source.lead().map(Ident));
        let mut statement = self.conn.prepare(&format!("SELECT {names} FROM {}", Ident(&self.source.table)))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let lead: Vec<Value> =
                (0..self.source.lead_len()).map(|n| row.get_ref(n).map(read_value)).collect::<rusqlite::Result<_>>()?;
            let keyed = self.source.entity_id(self.conn, &self.references, &lead)?;
            if let (Some(Value::Integer(local)), Keyed::Entity(entity_id)) = (lead.first(), keyed)
                && !self.journal.contains_key(local)
                && self.is_known(&entity_id)?
                && entity_of(self.conn, self.source.table_no, *local)?.as_deref() != Some(&entity_id)
            {
                bind_local(self.conn, self.source.table_no, *local, &entity_id)?;
            }
        }
        Ok(())
    }

    fn is_known(&self, entity_id: &str) -> Result<bool> {
        let sql = "SELECT 1 FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";
        Ok(self.conn.prepare_cached(sql)?.exists((self.source.table_no, entity_id))?)
    }

    /// The rows that are bound to nobody, or are not what their entity's changes say; and those that are, and have another
    /// integer than the changes say.
    fn rows(&self) -> Result<(BTreeSet<i64>, Misplaced)> {
        let local = Ident(&self.source.locator()[0]);
        let mut statement = self.conn.prepare(&format!("SELECT {local} FROM {}", Ident(&self.source.table)))?;
        let mut rows = statement.query([])?;
        let (mut strange, mut out_of_place) = (BTreeSet::new(), BTreeMap::new());
        while let Some(row) = rows.next()? {
            let local: i64 = row.get(0)?;
            if self.journal.contains_key(&local) {
                continue;
            }
            match entity_of(self.conn, self.source.table_no, local)? {
                Some(entity_id) if self.fits(local, &entity_id)? => {
                    if let Some(hint) = self.hint(&entity_id)?.filter(|hint| *hint != local) {
                        out_of_place.insert(entity_id, (local, hint));
                    }
                }
                _ => drop(strange.insert(local)),
            }
        }
        Ok((strange, out_of_place))
    }

    /// Rows that hold the same and whose integers went round in a circle go back: nothing but damage makes such circles.
    fn turn_back(&self, mut circle: Misplaced) -> Result<()> {
        let mut swapped = BTreeMap::new();
        for (entity_id, (local, hint)) in std::mem::take(&mut circle) {
            if self.fits(hint, &entity_id)? {
                swapped.insert(entity_id, (local, hint));
            }
        }
        loop {
            let places: BTreeSet<i64> = swapped.values().map(|(local, _)| *local).collect();
            let wanted: BTreeSet<i64> = swapped.values().map(|(_, hint)| *hint).collect();
            let before = swapped.len();
            swapped.retain(|_, (local, hint)| places.contains(hint) && wanted.contains(local));
            if swapped.len() == before {
                break;
            }
        }
        self.bind_all(swapped.into_iter().map(|(entity_id, (_, hint))| (hint, entity_id)).collect())
    }

    /// Living entities whose row is not there, or not what they say.
    fn lost(&self, strange: &BTreeSet<i64>) -> Result<Vec<String>> {
        let sql = "SELECT entity_id, registers FROM ZV_REGISTER AS r WHERE table_no = ?1 AND NOT EXISTS \
                   (SELECT 1 FROM ZV_HELD AS h WHERE h.table_no = r.table_no AND h.entity_id = r.entity_id AND NOT r.shown)";
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([self.source.table_no])?;
        let mut lost = Vec::new();
        while let Some(row) = rows.next()? {
            let entity_id: String = row.get(0)?;
            let is_lost = match local_of(self.conn, self.source.table_no, &entity_id)? {
                None => true,
                Some(local) => strange.contains(&local) || !self.journal.contains_key(&local) && !self.is_row(local)?,
            };
            if is_lost && self.states(&entity_id)?.iter().any(Registers::alive) {
                lost.push(entity_id);
            }
        }
        Ok(lost)
    }

    fn is_row(&self, local: i64) -> Result<bool> {
        let found = condition(self.source.locator(), 1);
        let sql = format!("SELECT 1 FROM {} WHERE {found}", Ident(&self.source.table));
        Ok(self.conn.prepare_cached(&sql)?.exists([local])?)
    }

    /// Brings rows and entities together: by integer and values, by values alone where they leave no choice, by integer alone.
    fn rematch(&self, mut strange: BTreeSet<i64>, lost: Vec<String>) -> Result<()> {
        let mut found: Vec<Row> = Vec::new();
        let mut left = Vec::new();
        for entity_id in lost {
            match self.hint(&entity_id)? {
                Some(hint) if strange.contains(&hint) && self.fits(hint, &entity_id)? => {
                    strange.remove(&hint);
                    found.push((hint, entity_id));
                }
                _ => left.push(entity_id),
            }
        }
        if strange.len() <= COMPARED && left.len() <= COMPARED {
            self.by_values(&mut strange, &mut left, &mut found)?;
        }
        self.bind_all(found)?;
        self.by_integer(strange, left)
    }

    /// What is left goes by the integer alone, where that is nobody's. A row that was written since it was last recorded is
    /// rather one that was made here: integers of elsewhere are used where they were free.
    fn by_integer(&self, strange: BTreeSet<i64>, left: Vec<String>) -> Result<()> {
        let mut own_first = Vec::with_capacity(left.len());
        for entity_id in left {
            // An integer that no row has is nobody's, whatever the table says.
            if let Some(local) = local_of(self.conn, self.source.table_no, &entity_id)?
                && !strange.contains(&local)
            {
                unbind_local(self.conn, self.source.table_no, &entity_id)?;
            }
            own_first.push((!self.is_own(&entity_id)?, entity_id));
        }
        own_first.sort();
        for (_, entity_id) in own_first {
            let Some(hint) = self.hint(&entity_id)? else { continue };
            // A row that was there before its first unsealed write.
            let was_there = self.journal.get(&hint).is_some_and(|op| *op != INSERT);
            if (was_there || strange.contains(&hint))
                && self.is_unbound(hint)?
                && local_of(self.conn, self.source.table_no, &entity_id)?.is_none()
            {
                bind_local(self.conn, self.source.table_no, hint, &entity_id)?;
            }
        }
        Ok(())
    }

    /// Whether the integer that an entity's changes say was given here.
    fn is_own(&self, entity_id: &str) -> Result<bool> {
        let states = self.states(entity_id)?;
        let said = states.iter().find_map(|state| state.get(self.rowid_column));
        Ok(said.is_none_or(|register| register.own))
    }

    fn by_values(&self, strange: &mut BTreeSet<i64>, left: &mut Vec<String>, found: &mut Vec<Row>) -> Result<()> {
        let mut rows_of: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut takers: HashMap<i64, u32> = HashMap::new();
        for entity_id in left.iter() {
            for local in strange.iter() {
                if self.fits(*local, entity_id)? {
                    rows_of.entry(entity_id.clone()).or_default().push(*local);
                    *takers.entry(*local).or_default() += 1;
                }
            }
        }
        for (entity_id, locals) in rows_of {
            if let [local] = locals[..]
                && takers[&local] == 1
            {
                strange.remove(&local);
                left.retain(|other| *other != entity_id);
                found.push((local, entity_id));
            }
        }
        Ok(())
    }

    fn is_unbound(&self, local: i64) -> Result<bool> {
        Ok(entity_of(self.conn, self.source.table_no, local)?.is_none())
    }

    /// Binds all at once, so that no old binding of one is in the way of another's.
    fn bind_all(&self, rows: Vec<Row>) -> Result<()> {
        let table_no = self.source.table_no;
        let sql = "DELETE FROM ZV_LOCAL WHERE table_no = ?1 AND (local = ?2 OR entity_id = ?3)";
        for (local, entity_id) in &rows {
            self.conn.prepare_cached(sql)?.execute((table_no, local, entity_id))?;
        }
        rows.iter().try_for_each(|(local, entity_id)| bind_local(self.conn, table_no, *local, entity_id))
    }

    /// The states that an entity's row may be shown from.
    fn states(&self, entity_id: &str) -> Result<Vec<Registers>> {
        let sql = "SELECT registers FROM ZV_REGISTER WHERE table_no = ?1 AND entity_id = ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query((self.source.table_no, entity_id))?;
        let now = match rows.next()? {
            Some(row) => Registers::decode(row.get_ref(0)?.as_blob().unwrap_or_default()),
            None => None,
        };
        let Accounts { others, .. } = self.evidence.of(self.conn, self.source.table_no, entity_id)?;
        Ok(now.into_iter().chain(others).collect())
    }

    /// The integer that an entity's changes say it has.
    fn hint(&self, entity_id: &str) -> Result<Option<i64>> {
        let states = self.states(entity_id)?;
        let said = states.iter().find_map(|state| state.get(self.rowid_column));
        let Some(register) = said else { return Ok(digits_of(entity_id)) };
        let field = read_fields(self.conn, register.id)?.into_iter().find(|field| same_name(&field.name, ROWID_FIELD));
        Ok(match field.map(|field| field.value) {
            Some(Value::Integer(local)) => Some(local),
            _ => None,
        })
    }

    /// Whether the row of an integer holds what a state of an entity says.
    fn fits(&self, local: i64, entity_id: &str) -> Result<bool> {
        let states = self.states(entity_id)?;
        for state in states.iter().filter(|state| state.alive()) {
            if self.holds(local, state)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holds(&self, local: i64, state: &Registers) -> Result<bool> {
        let names = list(self.source.lead().chain(self.columns.iter().map(|column| column.name.as_str())).map(Ident));
        let found = condition(self.source.locator(), 1);
        let sql = format!("SELECT {names} FROM {} WHERE {found}", Ident(&self.source.table));
        let locator = [Value::Integer(local)];
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(locator.iter().map(bind_value)))?;
        let Some(row) = rows.next()? else { return Ok(false) };
        for (n, column) in self.columns.iter().enumerate() {
            let there = read_value(row.get_ref(self.source.lead_len() + n)?);
            let wanted = self.value(state, column)?;
            let is_same = match column.target {
                None => {
                    there == wanted || same_through_affinity(self.conn, self.source, &locator, &column.name, &wanted)?
                }
                // What cannot be translated, or is not here, tells nothing.
                Some(parent_no) => match to_logged(self.conn, parent_no, &there)? {
                    None | Some(Value::Null) => true,
                    Some(there) => referred(&there) == referred(&wanted),
                },
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn value(&self, state: &Registers, column: &Compared) -> Result<Value> {
        let Some(register) = state.get(column.no) else { return Ok(column.default.clone()) };
        let fields = read_fields(self.conn, register.id)?;
        let field = fields.into_iter().find(|field| same_name(&field.name, &column.logged));
        Ok(field.map_or(Value::Null, |field| field.value))
    }
}

/// The first operation that the journal has of each integer of a table; a row that moved had its old integer before.
fn journal_of(conn: &Connection, table_no: u32) -> Result<HashMap<i64, i64>> {
    let mut first = HashMap::new();
    let mut sources: HashMap<i64, Option<Source>> = HashMap::new();
    let mut statement = conn.prepare("SELECT * FROM ZV_JOURNAL ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (Ok(no), Ok(op), Ok(local)) = (row.get::<_, i64>(2), row.get::<_, i64>(3), row.get::<_, i64>(5)) else {
            continue;
        };
        let source = sources.entry(no).or_insert_with(|| read_source(conn, no).ok());
        let Some(source) = source.as_ref().filter(|source| source.table_no == table_no) else { continue };
        if op == MOVE
            && let Ok(before) = row.get::<_, i64>(5 + source.lead_len() + source.columns.len())
        {
            first.entry(before).or_insert(op);
            first.entry(local).or_insert(INSERT);
        } else {
            first.entry(local).or_insert(op);
        }
    }
    Ok(first)
}
