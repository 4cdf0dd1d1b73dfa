//! The naive model of which rows are shown: from the log alone, from scratch, by the rules (0) to (2) as they are written down.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::schema::{Holds, Identity, Relation, Schema, name};
use crate::model::Cell;

/// A row's columns by name, each with the id of its newest write.
type Columns = BTreeMap<String, (String, Cell)>;
type Rows = BTreeMap<String, Columns>;

/// What a table is to show: the columns beside the key's by entity id, references by entity id too.
pub type Shown = BTreeMap<String, Vec<Cell>>;

pub struct Naive<'s> {
    schema: &'s Schema,
    /// The living rows by table.
    rows: Vec<Rows>,
    /// By row: why it is not shown.
    pub out: BTreeMap<(usize, String), &'static str>,
}

impl<'s> Naive<'s> {
    /// Folds every change of a replica's log.
    pub fn fold(conn: &Connection, schema: &'s Schema) -> Self {
        let mut rows = vec![Rows::new(); schema.tables.len()];
        let sql = "SELECT c.id, lower(c.entity_type), c.entity_id, lower(f.field_name), f.field_value \
                   FROM ZV_CHANGE AS c JOIN ZV_CHANGE_FIELD AS f ON f.change_id = c.id";
        let mut statement = conn.prepare(sql).unwrap();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let (id, table): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
            let Some(no) = (0..rows.len()).find(|no| name(*no) == table) else { continue };
            let register = rows[no].entry(row.get(2).unwrap()).or_default();
            let newest = register.entry(row.get(3).unwrap()).or_default();
            if newest.0 < id {
                *newest = (id, from_log(cell(row.get_ref(4).unwrap())));
            }
        }
        for table in &mut rows {
            table.retain(|_, columns| is_alive(columns));
        }
        let mut naive = Self { schema, rows, out: BTreeMap::new() };
        naive.hold_what_breaks_a_rule_alone();
        naive.settle_unique_values();
        naive.hold_orphans();
        naive
    }

    fn each_row(&self) -> Vec<(usize, String)> {
        let rows = self.rows.iter().enumerate();
        rows.flat_map(|(table, rows)| rows.keys().map(move |row| (table, row.clone()))).collect()
    }

    /// A column's value as the log has it, key columns included.
    fn value(&self, table: usize, row: &str, column: &str) -> Cell {
        let identity = self.schema.tables[table].identity;
        match (column, identity) {
            ("k", Identity::Text) | ("u", _) => Cell::text(row),
            ("k", _) => reference(row),
            ("ka" | "kb", _) => part(row.split('/').nth(usize::from(column == "kb")).unwrap()),
            _ => self.rows[table][row].get(column).map_or(Cell::Null, |(_, value)| value.clone()),
        }
    }

    fn hold_what_breaks_a_rule_alone(&mut self) {
        for (table, row) in self.each_row() {
            let shape = &self.schema.tables[table];
            for (name, column) in shape.named() {
                let value = self.value(table, &row, &name);
                if column.not_null && value == Cell::Null {
                    self.out.insert((table, row.clone()), "not null");
                }
                let folded = fold(&value, collation(column.holds));
                if column.check && folded == fold(&forbidden(column.holds), collation(column.holds)) {
                    self.out.insert((table, row.clone()), "check");
                }
                let fits = match column.holds {
                    Holds::Integer => matches!(value, Cell::Null | Cell::Integer(_)),
                    Holds::Text | Holds::NoCase | Holds::RTrim => matches!(value, Cell::Null | Cell::Text(_)),
                    _ => true,
                };
                assert!(fits, "{value:?} in {name} of t{table}");
            }
            if shape.differ {
                let [a, b] = ["c0", "c1"].map(|name| self.value(table, &row, name));
                let collation = collation(shape.columns[0].holds);
                if a != Cell::Null && b != Cell::Null && fold(&a, collation) == fold(&b, collation) {
                    self.out.insert((table, row.clone()), "check");
                }
            }
            if self.breaks_a_relation(table, &row, false) {
                self.out.insert((table, row.clone()), "check");
            }
        }
    }

    /// Whether a CHECK on references refuses a row: as the log has it, or without those that lead nowhere.
    fn breaks_a_relation(&self, table: usize, row: &str, without: bool) -> bool {
        let value = |column: &str| match without && self.lacks_target(table, row, column) {
            true => Cell::Null,
            false => self.value(table, row, column),
        };
        self.schema.tables[table].relations.iter().any(|relation| match relation {
            Relation::Differ(a, b) => value(a) != Cell::Null && value(a) == value(b),
            Relation::OneOf(a, b) => (value(a) == Cell::Null) == (value(b) == Cell::Null),
            Relation::Present(a) => value(a) == Cell::Null,
        })
    }

    fn settle_unique_values(&mut self) {
        let mut claims = Vec::new();
        for (table, row) in self.each_row() {
            if self.out.contains_key(&(table, row.clone())) {
                continue;
            }
            for (no, unique) in self.schema.tables[table].uniques.iter().enumerate() {
                let mut values = Vec::new();
                for (n, column) in unique.columns.iter().enumerate() {
                    let own = self.schema.tables[table].named().find(|(name, _)| name == column);
                    let own = own.map_or("BINARY", |(_, column)| collation(column.holds));
                    let last = n + 1 == unique.columns.len();
                    // What a function returns has no collation; of what it lowers, none differs by case.
                    let own = if unique.lower && last { "NOCASE" } else { own };
                    let collation = if unique.nocase && last { "NOCASE" } else { own };
                    values.push(fold(&self.value(table, &row, column), collation));
                }
                let counts = unique.only_where.iter().all(|name| self.value(table, &row, name) != Cell::Null)
                    && unique.without.iter().all(|name| self.value(table, &row, name) == Cell::Null);
                if counts && !values.contains(&Cell::Null) {
                    let columns = unique.columns.iter().chain(&unique.only_where).chain(&unique.without);
                    let id = self.claim_id(table, &row, columns);
                    claims.push((id, table, no, values, row.clone()));
                }
            }
        }
        claims.sort();
        let mut taken: BTreeMap<(usize, usize, Vec<Cell>), String> = BTreeMap::new();
        for (_, table, no, values, row) in claims {
            if self.out.contains_key(&(table, row.clone())) {
                continue;
            }
            let value = (table, no, values);
            match taken.get(&value) {
                Some(holder) if *holder != row && !self.out.contains_key(&(table, holder.clone())) => {
                    self.out.insert((table, row), "unique");
                }
                _ => drop(taken.insert(value, row)),
            }
        }
    }

    /// The greatest change id among a constraint's columns, or of the delete that the row outlived.
    fn claim_id<'n>(&self, table: usize, row: &str, columns: impl Iterator<Item = &'n String>) -> String {
        let registers = &self.rows[table][row];
        let written = columns.filter_map(|name| registers.get(name)).map(|(id, _)| id).max();
        let made = registers.iter().filter(|(name, _)| *name != "zv_deleted").map(|(_, (id, _))| id).min();
        let deleted = registers.get("zv_deleted");
        let outlived = deleted.filter(|(_, value)| *value == Cell::Integer(1)).map(|(id, _)| id);
        written.or(made).or(deleted.map(|(id, _)| id)).max(outlived).unwrap().clone()
    }

    fn is_shown(&self, table: usize, row: &str) -> bool {
        self.rows[table].contains_key(row) && !self.out.contains_key(&(table, row.to_owned()))
    }

    fn hold_orphans(&mut self) {
        loop {
            let orphans: Vec<(usize, String)> = self
                .each_row()
                .into_iter()
                .filter(|(table, row)| self.is_shown(*table, row) && self.is_orphan(*table, row))
                .collect();
            if orphans.is_empty() {
                return;
            }
            self.out.extend(orphans.into_iter().map(|row| (row, "foreign key")));
        }
    }

    fn is_orphan(&self, table: usize, row: &str) -> bool {
        let shape = &self.schema.tables[table];
        let lacks_parent = |(columns, parent, parent_columns): &(Vec<String>, usize, Vec<&str>)| {
            let values: Vec<Cell> = columns.iter().map(|column| self.value(table, row, column)).collect();
            let is_parent = |other: &String| {
                let mut pairs = parent_columns.iter().zip(&values);
                self.is_shown(*parent, other)
                    && pairs.all(|(column, value)| {
                        let collation = match *column {
                            "c0" => collation(self.schema.tables[*parent].columns[0].holds),
                            _ => "BINARY",
                        };
                        fold(&self.value(*parent, other, column), collation) == fold(value, collation)
                    })
            };
            !values.contains(&Cell::Null) && !self.rows[*parent].keys().any(is_parent)
        };
        if shape.enforce && self.schema.foreign_keys(table).iter().any(lacks_parent) {
            return true;
        }
        // Where the integer of a row that is not shown would have to stand, and NULL cannot.
        let names = shape.identity.key().iter().map(|name| ((*name).to_owned(), true));
        let mut names = names.chain(shape.named().map(|(name, column)| (name, column.not_null)));
        names.any(|(name, not_null)| {
            self.lacks_target(table, row, &name) && (not_null || self.demands(table, row, &name))
        }) || self.breaks_a_relation(table, row, true)
            || self.counts_without(table, row)
    }

    /// Whether a foreign key demands the row that a column refers to: not where another column of that key is NULL.
    fn demands(&self, table: usize, row: &str, column: &str) -> bool {
        let is_null = |name: &String| self.value(table, row, name) == Cell::Null;
        let demands = |columns: &[String]| columns.iter().any(|name| name == column) && !columns.iter().any(is_null);
        self.schema.tables[table].enforce
            && self.schema.foreign_keys(table).iter().any(|(columns, ..)| demands(columns))
    }

    /// Whether an index on rows without a reference would count a row only as its reference leads nowhere.
    fn counts_without(&self, table: usize, row: &str) -> bool {
        let lacks = |name: &String| self.lacks_target(table, row, name);
        let is_null = |name: &String| lacks(name) || self.value(table, row, name) == Cell::Null;
        let mut uniques = self.schema.tables[table].uniques.iter();
        uniques.any(|unique| unique.without.as_ref().is_some_and(lacks) && !unique.columns.iter().any(is_null))
    }

    /// Whether a column holds a local integer here, and the row that it refers to is not shown.
    fn lacks_target(&self, table: usize, row: &str, column: &str) -> bool {
        self.schema.target(table, column).is_some_and(|parent| match self.value(table, row, column) {
            Cell::Null => false,
            value => !self.is_shown(parent, &referred(&value)),
        })
    }

    pub fn shown(&self, table: usize) -> Shown {
        let rows = self.rows[table].keys().filter(|row| self.is_shown(table, row));
        let value = |row: &str, column: &str| match self.lacks_target(table, row, column) {
            true => Cell::Null,
            false => self.value(table, row, column),
        };
        let names: Vec<String> = self.schema.tables[table].named().map(|(name, _)| name).collect();
        rows.map(|row| (row.clone(), names.iter().map(|column| value(row, column)).collect())).collect()
    }
}

pub fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(n) => Cell::Integer(n),
        ValueRef::Real(n) => Cell::Real(n.to_bits()),
        ValueRef::Text(text) => Cell::Text(text.to_vec()),
        ValueRef::Blob(blob) => Cell::Blob(blob.to_vec()),
    }
}

/// What a replica's table shows, references and keys as the log has them.
pub fn dump(conn: &Connection, schema: &Schema, table: usize) -> Shown {
    let shape = &schema.tables[table];
    let names: Vec<String> = shape.named().map(|(name, _)| name).collect();
    let mut columns: Vec<String> = shape.identity.key().iter().map(|&name| name.to_owned()).collect();
    let keys = columns.len();
    columns.extend(names.iter().cloned());
    let sql = format!("SELECT {} FROM t{table}", columns.join(", "));
    let mut statement = conn.prepare(&sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut shown = Shown::new();
    while let Some(row) = rows.next().unwrap() {
        let mut cells = Vec::new();
        for (n, column) in columns.iter().enumerate() {
            let value = cell(row.get_ref(n).unwrap());
            // A column of text has the integer's digits.
            let local = match &value {
                Cell::Integer(local) => Some(*local),
                Cell::Text(digits) => std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()),
                _ => None,
            };
            cells.push(match (schema.target(table, column), local) {
                (Some(parent), Some(local)) => entity_of(conn, parent, local)
                    .map_or_else(|| Cell::text(&format!("nobody's number {local}")), |entity_id| reference(&entity_id)),
                _ => value,
            });
        }
        let values = cells.split_off(keys);
        let entity_id = match (&cells[0], shape.identity) {
            (Cell::Integer(local), identity) if identity.is_local() => {
                entity_of(conn, table, *local).unwrap_or_else(|| format!("nobody {local}"))
            }
            (key, _) if keys == 1 => referred(key),
            _ => cells.iter().map(put_part).collect::<Vec<_>>().join("/"),
        };
        assert_eq!(shown.insert(entity_id, values), None, "one row, two integers");
    }
    shown
}

fn entity_of(conn: &Connection, table: usize, local: i64) -> Option<String> {
    let sql = "SELECT l.entity_id FROM ZV_LOCAL AS l JOIN ZV_TRACKED AS t USING (table_no) WHERE t.name = ?1 AND l.local = ?2";
    conn.query_row(sql, (name(table), local), |row| row.get(0)).ok()
}

/// The log's form of a reference: an integer where the entity id is digits.
fn reference(entity_id: &str) -> Cell {
    entity_id.parse().map_or_else(|_| Cell::text(entity_id), Cell::Integer)
}

fn referred(value: &Cell) -> String {
    match value {
        Cell::Integer(n) => n.to_string(),
        Cell::Text(text) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{other:?} refers to no row"),
    }
}

fn part(text: &str) -> Cell {
    text.strip_prefix('#').map_or_else(|| Cell::text(text), |digits| Cell::Integer(digits.parse().unwrap()))
}

fn put_part(value: &Cell) -> String {
    match value {
        Cell::Integer(n) => format!("#{n}"),
        other => referred(other),
    }
}

fn from_log(value: Cell) -> Cell {
    match value {
        Cell::Blob(bytes) if bytes == [0xC0] => Cell::Null,
        Cell::Blob(bytes) => Cell::Blob(bytes.strip_prefix(&[0xC0]).unwrap_or(&bytes).to_vec()),
        other => other,
    }
}

/// A row lives while its newest write is not a delete.
fn is_alive(row: &Columns) -> bool {
    let newest = row.iter().max_by_key(|(_, (id, _))| id);
    newest.is_some_and(|(name, (_, value))| name != "zv_deleted" || *value == Cell::Integer(0))
}

fn collation(holds: Holds) -> &'static str {
    match holds {
        Holds::NoCase => "NOCASE",
        Holds::RTrim => "RTRIM",
        _ => "BINARY",
    }
}

fn forbidden(holds: Holds) -> Cell {
    match holds {
        Holds::Integer => Cell::Integer(3),
        Holds::Any => Cell::Integer(2),
        _ => Cell::text("b"),
    }
}

/// A value in one form for all that a collation holds equal; numbers are whole here.
fn fold(value: &Cell, collation: &str) -> Cell {
    match value {
        Cell::Real(bits) => Cell::Integer(f64::from_bits(*bits) as i64),
        Cell::Text(text) if collation == "NOCASE" => Cell::Text(text.to_ascii_lowercase()),
        Cell::Text(text) if collation == "RTRIM" => {
            Cell::text(String::from_utf8(text.clone()).unwrap().trim_end_matches(' '))
        }
        other => other.clone(),
    }
}

/// All rows of a model that are not shown.
pub fn hidden(naive: &Naive<'_>) -> BTreeSet<String> {
    naive.out.keys().map(|(table, row)| format!("t{table}/{row}")).collect()
}
