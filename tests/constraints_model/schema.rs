//! Random schemas: how rows are known, columns that are plain or refer to rows, and what constrains them, as data and as SQL.

use proptest::prelude::*;

/// How a table's rows are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// `k TEXT PRIMARY KEY`
    Text,
    /// `k INTEGER PRIMARY KEY`, the integer staying local.
    Generated { autoincrement: bool },
    /// `k INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE`, tracked by `u`.
    Uuid,
    /// `PRIMARY KEY (ka, kb)`
    Pair,
    /// `PRIMARY KEY (ka, kb)`, each a reference to a row of another table.
    Link(usize, usize),
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Text,
    NoCase,
    RTrim,
    Integer,
    Any,
    /// A reference to a row by its key.
    Row(usize),
    /// A reference to the UNIQUE column `c0` of a table.
    Code(usize),
    /// A reference to a table that is not tracked.
    Outside,
    /// One of the two columns that together refer to a row by a key of two columns: the one that follows is the other.
    Part(usize, usize),
}

#[derive(Debug, Clone)]
pub struct Column {
    pub holds: Holds,
    pub not_null: bool,
    pub check: bool,
}

/// A UNIQUE constraint, or an index with a condition or a collation of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unique {
    pub columns: Vec<String>,
    /// The column that must not be NULL for a row to count.
    pub only_where: Option<String>,
    /// The reference that must be NULL for a row to count.
    pub without: Option<String>,
    pub nocase: bool,
    /// Whether the last column is seen through `lower()`.
    pub lower: bool,
}

/// A CHECK on references: on more than one of them, or on their being there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// `CHECK (a <> b)`
    Differ(String, String),
    /// `CHECK ((a IS NULL) <> (b IS NULL))`
    OneOf(String, String),
    /// `CHECK (a IS NOT NULL)`
    Present(String),
}

#[derive(Debug, Clone)]
pub struct Table {
    pub identity: Identity,
    pub columns: Vec<Column>,
    pub uniques: Vec<Unique>,
    /// `CHECK (c0 <> c1)`
    pub differ: bool,
    pub relations: Vec<Relation>,
    pub strict: bool,
    pub without_rowid: bool,
    pub enforce: bool,
    pub on_delete: &'static str,
}

#[derive(Debug, Clone)]
pub struct Schema {
    pub tables: Vec<Table>,
    /// What the tables' constraints say of rows that break them: ` ON CONFLICT …`, or nothing.
    pub clause: &'static str,
    /// Triggers of the user's own, as SQL, the n-th by the name `own{n}`.
    pub triggers: Vec<String>,
    /// The type of columns that hold the integers of other tables' rows.
    pub reference: &'static str,
}

pub fn name(table: usize) -> String {
    format!("t{table}")
}

impl Identity {
    pub fn is_local(self) -> bool {
        matches!(self, Self::Generated { .. } | Self::Uuid)
    }

    pub fn is_one_column(self) -> bool {
        !matches!(self, Self::Pair | Self::Link(..))
    }

    pub fn key(self) -> &'static [&'static str] {
        if self.is_one_column() { &["k"] } else { &["ka", "kb"] }
    }
}

impl Table {
    /// The names and kinds of the columns beside the key's.
    pub fn named(&self) -> impl Iterator<Item = (String, &Column)> {
        self.columns.iter().enumerate().map(|(n, column)| (format!("c{n}"), column))
    }
}

impl Schema {
    /// The table whose local integers a column holds.
    pub fn target(&self, table: usize, column: &str) -> Option<usize> {
        let local = |parent: usize| self.tables[parent].identity.is_local().then_some(parent);
        let part = |parent: usize, at: usize| match self.tables[parent].identity {
            Identity::Link(a, b) => local([a, b][at]),
            _ => None,
        };
        match column {
            "ka" => part(table, 0),
            "kb" => part(table, 1),
            _ => match self.tables[table].named().find(|(name, _)| name == column)?.1.holds {
                Holds::Row(parent) => local(parent),
                Holds::Part(parent, at) => part(parent, at),
                _ => None,
            },
        }
    }

    /// The foreign keys of a table: its columns, the parent and the parent's columns.
    pub fn foreign_keys(&self, table: usize) -> Vec<(Vec<String>, usize, Vec<&'static str>)> {
        let mut keys = Vec::new();
        if let Identity::Link(a, b) = self.tables[table].identity {
            keys.push((vec!["ka".to_owned()], a, vec!["k"]));
            keys.push((vec!["kb".to_owned()], b, vec!["k"]));
        }
        let columns: Vec<(String, &Column)> = self.tables[table].named().collect();
        for (n, (name, column)) in columns.iter().enumerate() {
            match column.holds {
                Holds::Row(parent) => keys.push((vec![name.clone()], parent, vec!["k"])),
                Holds::Code(parent) => keys.push((vec![name.clone()], parent, vec!["c0"])),
                Holds::Part(parent, 0) => {
                    keys.push((vec![name.clone(), columns[n + 1].0.clone()], parent, vec!["ka", "kb"]));
                }
                _ => {}
            }
        }
        keys
    }

    /// Whether every reference is to a table before, or to the same: then rows can be there before `track`.
    pub fn is_layered(&self) -> bool {
        (0..self.tables.len()).all(|table| self.foreign_keys(table).iter().all(|(_, parent, _)| *parent <= table))
    }

    fn reference_type(&self, parent: usize) -> &'static str {
        if self.tables[parent].identity.is_local() { self.reference } else { "TEXT" }
    }

    fn part_type(&self, parent: usize, at: usize) -> &'static str {
        match self.tables[parent].identity {
            Identity::Link(a, b) => self.reference_type([a, b][at]),
            _ => ["TEXT", "INTEGER"][at],
        }
    }

    /// The schema's SQL; a loose one lacks whatever a table alone can refuse.
    pub fn sql(&self, loose: bool) -> String {
        let mut sql = "CREATE TABLE outside (k INTEGER PRIMARY KEY); INSERT INTO outside VALUES (1), (2);\n".to_owned();
        for table in 0..self.tables.len() {
            self.write_table(&mut sql, table, loose);
        }
        sql + &self.triggers.concat()
    }

    fn write_table(&self, sql: &mut String, no: usize, loose: bool) {
        let (table, clause) = (&self.tables[no], self.clause);
        let mut parts: Vec<String> = Vec::new();
        // A STRICT table knows few types.
        let known = |typed: &'static str| match typed {
            "" | "NUMERIC" | "VARCHAR(9)" if table.strict && !loose => "ANY",
            typed => typed,
        };
        match table.identity {
            Identity::Text => parts.push(format!("k TEXT PRIMARY KEY{clause}")),
            Identity::Generated { autoincrement } => {
                parts.push(format!("k INTEGER PRIMARY KEY{}", if autoincrement { " AUTOINCREMENT" } else { "" }));
            }
            Identity::Uuid => {
                parts.extend(["k INTEGER PRIMARY KEY".into(), format!("u TEXT NOT NULL{clause} UNIQUE{clause}")]);
            }
            Identity::Pair | Identity::Link(..) => {
                parts.extend([0, 1].map(|at| format!("{} {}", ["ka", "kb"][at], known(self.part_type(no, at)))));
            }
        }
        for (name, column) in table.named() {
            let typed = match column.holds {
                Holds::Text => "TEXT",
                Holds::NoCase => "TEXT COLLATE NOCASE",
                Holds::RTrim => "TEXT COLLATE RTRIM",
                Holds::Integer | Holds::Outside => "INTEGER",
                Holds::Any => "",
                Holds::Row(parent) => self.reference_type(parent),
                Holds::Code(_) => "TEXT",
                Holds::Part(parent, at) => self.part_type(parent, at),
            };
            let mut part = format!("{name} {}", known(typed));
            if column.not_null && !loose {
                part += &format!(" NOT NULL{clause}");
            }
            if column.check && !loose {
                part += &format!(" CHECK ({name} <> {})", forbidden(column.holds).expect("a plain column"));
            }
            if column.holds == Holds::Outside {
                part += " REFERENCES outside (k)";
            }
            parts.push(part);
        }
        if !table.identity.is_one_column() {
            parts.push(format!("PRIMARY KEY (ka, kb){clause}"));
        }
        if table.differ && !loose {
            parts.push("CHECK (c0 <> c1)".into());
        }
        parts.extend(table.relations.iter().filter(|_| !loose).map(|relation| match relation {
            Relation::Differ(a, b) => format!("CHECK ({a} <> {b})"),
            Relation::OneOf(a, b) => format!("CHECK (({a} IS NULL) <> ({b} IS NULL))"),
            Relation::Present(a) => format!("CHECK ({a} IS NOT NULL)"),
        }));
        let (mut indexes, mut referred) = (String::new(), false);
        for (n, unique) in table.uniques.iter().enumerate() {
            let is_code = self.is_code(no, unique) && !std::mem::replace(&mut referred, true);
            if loose && !is_code {
                continue;
            }
            let mut columns = unique.columns.join(", ");
            if !is_plain(unique) {
                if unique.lower {
                    let last = unique.columns.last().expect("a constraint has a column");
                    columns =
                        [&unique.columns[..unique.columns.len() - 1], &[format!("lower({last})")]].concat().join(", ");
                }
                let collation = if unique.nocase { " COLLATE NOCASE" } else { "" };
                let condition = match (&unique.only_where, &unique.without) {
                    (Some(name), _) => format!(" WHERE {name} IS NOT NULL"),
                    (None, Some(name)) => format!(" WHERE {name} IS NULL"),
                    (None, None) => String::new(),
                };
                indexes += &format!("CREATE UNIQUE INDEX u{no}_{n} ON t{no} ({columns}{collation}){condition};\n");
            } else {
                parts.push(format!("UNIQUE ({columns}){clause}"));
            }
        }
        for (columns, parent, parent_columns) in self.foreign_keys(no) {
            parts.push(format!(
                "FOREIGN KEY ({}) REFERENCES t{parent} ({}){}",
                columns.join(", "),
                parent_columns.join(", "),
                table.on_delete
            ));
        }
        let mut options = Vec::new();
        if table.strict && !loose {
            options.push("STRICT");
        }
        if table.without_rowid && !table.identity.is_local() {
            options.push("WITHOUT ROWID");
        }
        *sql += &format!("CREATE TABLE t{no} ({}) {};\n{indexes}", parts.join(", "), options.join(", "));
    }

    /// Whether a constraint is the one that other tables may refer to.
    fn is_code(&self, table: usize, unique: &Unique) -> bool {
        let refers = |t: usize| self.foreign_keys(t).iter().any(|(_, parent, c)| *parent == table && c == &["c0"]);
        is_plain(unique) && unique.columns == ["c0"] && (0..self.tables.len()).any(refers)
    }
}

fn is_plain(unique: &Unique) -> bool {
    unique.only_where.is_none() && unique.without.is_none() && !unique.nocase && !unique.lower
}

/// The value that a column's CHECK forbids, as SQL.
pub fn forbidden(holds: Holds) -> Option<&'static str> {
    match holds {
        Holds::Text | Holds::NoCase | Holds::RTrim => Some("'b'"),
        Holds::Integer => Some("3"),
        Holds::Any => Some("2"),
        _ => None,
    }
}

/// What a schema is drawn from.
#[derive(Debug, Clone)]
struct RawTable {
    identity: (u8, u8, u8),
    columns: Vec<(u8, u8, u8)>,
    uniques: Vec<(u8, u8, u8)>,
    flags: u8,
    on_delete: u8,
}

pub fn any_schema() -> impl Strategy<Value = Schema> {
    let raw = (
        any::<(u8, u8, u8)>(),
        prop::collection::vec(any::<(u8, u8, u8)>(), 0..4),
        prop::collection::vec(any::<(u8, u8, u8)>(), 0..3),
        any::<u8>(),
        any::<u8>(),
    )
        .prop_map(|(identity, columns, uniques, flags, on_delete)| RawTable {
            identity,
            columns,
            uniques,
            flags,
            on_delete,
        });
    prop::collection::vec(raw, 1..5).prop_map(|raw| build(&raw))
}

fn build(raw: &[RawTable]) -> Schema {
    let mut schema = Schema { tables: Vec::new(), clause: "", triggers: Vec::new(), reference: "INTEGER" };
    let mut identities: Vec<Identity> = Vec::new();
    for table in raw {
        let ends: Vec<usize> = (0..identities.len()).filter(|at| identities[*at].is_one_column()).collect();
        let (which, a, b) = table.identity;
        identities.push(match which % 8 {
            0 | 1 => Identity::Text,
            2..=4 => Identity::Generated { autoincrement: a % 3 == 0 },
            5 => Identity::Uuid,
            6 => Identity::Pair,
            _ if ends.is_empty() => Identity::Generated { autoincrement: false },
            _ => Identity::Link(ends[usize::from(a) % ends.len()], ends[usize::from(b) % ends.len()]),
        });
    }
    // Which tables have a first column of text that others can refer to.
    let codes: Vec<usize> = (0..raw.len()).filter(|at| has_code(&raw[*at])).collect();
    for (no, table) in raw.iter().enumerate() {
        let mut columns: Vec<Column> = Vec::new();
        for (n, (which, to, flags)) in table.columns.iter().enumerate() {
            let holds = holds(*which, usize::from(*to), n == 0 && codes.contains(&no), &identities, &codes);
            for holds in holds {
                columns.push(Column {
                    holds,
                    not_null: flags % 5 == 0,
                    check: flags % 3 == 0 && forbidden(holds).is_some(),
                });
            }
        }
        let differ = table.flags % 3 == 0
            && columns.len() > 1
            && columns[0].holds == columns[1].holds
            && forbidden(columns[0].holds).is_some();
        let mut built = Table {
            identity: identities[no],
            columns,
            uniques: Vec::new(),
            differ,
            relations: Vec::new(),
            strict: table.flags & 16 != 0,
            without_rowid: table.flags & 32 != 0,
            enforce: table.flags & 0xC0 != 0,
            on_delete: ["", " ON DELETE CASCADE", " ON DELETE SET NULL", " ON DELETE CASCADE ON UPDATE CASCADE"]
                [usize::from(table.on_delete % 4)],
        };
        built.uniques = uniques(table, &built, codes.contains(&no));
        schema.tables.push(built);
    }
    schema
}

/// Gives tables references, and CHECKs on those: as a part is no part of itself, and a note is on a post or on a photo.
pub fn relate(schema: &mut Schema, mut pick: impl FnMut(usize) -> usize) {
    let identities: Vec<Identity> = schema.tables.iter().map(|table| table.identity).collect();
    let ends: Vec<usize> = (0..identities.len()).filter(|at| identities[*at].is_one_column()).collect();
    for (no, table) in schema.tables.iter_mut().enumerate() {
        for _ in 0..pick(3) {
            // A write has values for eight columns.
            if table.columns.len() < 8 && !ends.is_empty() {
                let parent = if pick(2) == 0 && ends.contains(&no) { no } else { ends[pick(ends.len())] };
                table.columns.push(Column { holds: Holds::Row(parent), not_null: pick(8) == 0, check: false });
            }
        }
        let mut names: Vec<(String, usize)> = Vec::new();
        for (name, column) in table.named() {
            if let Holds::Row(parent) = column.holds {
                names.push((name, parent));
            }
        }
        let own = match table.identity {
            Identity::Link(a, b) => vec![("ka".to_owned(), a), ("kb".to_owned(), b)],
            Identity::Pair => vec![],
            _ => vec![("k".to_owned(), no)],
        };
        let mut possible: Vec<Relation> = names.iter().map(|(name, _)| Relation::Present(name.clone())).collect();
        let all: Vec<&(String, usize)> = names.iter().chain(&own).collect();
        for (n, (a, parent)) in all.iter().enumerate() {
            for (b, other) in &all[n + 1..] {
                if parent == other {
                    possible.extend([0; 3].map(|_| Relation::Differ(a.clone(), b.clone())));
                }
            }
        }
        for (n, (a, _)) in names.iter().enumerate() {
            possible.extend(names[n + 1..].iter().map(|(b, _)| Relation::OneOf(a.clone(), b.clone())));
        }
        for _ in 0..pick(3).min(possible.len()) {
            let relation = possible[pick(possible.len())].clone();
            if !table.relations.contains(&relation) {
                table.relations.push(relation);
            }
        }
    }
}

/// Gives tables indexes on rows without a reference: of two folders at the root, none has the other's name.
pub fn root(schema: &mut Schema, mut pick: impl FnMut(usize) -> usize) {
    for table in &mut schema.tables {
        let names: Vec<String> = table.named().map(|(name, _)| name).collect();
        let is_reference = |column: &Column| matches!(column.holds, Holds::Row(_));
        let references: Vec<String> =
            table.named().filter(|(_, column)| is_reference(column)).map(|(name, _)| name).collect();
        for name in references {
            let others: Vec<&String> = names.iter().filter(|other| **other != name).collect();
            if others.is_empty() || pick(2) == 0 {
                continue;
            }
            let mut columns = vec![others[pick(others.len())].clone()];
            let second = others[pick(others.len())];
            if pick(2) == 0 && *second != columns[0] {
                columns.push(second.clone());
            }
            table.uniques.push(Unique { columns, without: Some(name), ..Unique::default() });
        }
    }
}

fn has_code(raw: &RawTable) -> bool {
    raw.columns.first().is_some_and(|(which, _, _)| which % 4 == 0)
}

fn holds(which: u8, to: usize, is_code: bool, identities: &[Identity], codes: &[usize]) -> Vec<Holds> {
    if is_code {
        return vec![[Holds::Text, Holds::NoCase][to % 2]];
    }
    let pick = |from: Vec<usize>| (!from.is_empty()).then(|| from[to % from.len()]);
    let rows = || pick((0..identities.len()).filter(|at| identities[*at].is_one_column()).collect());
    let pairs = || pick((0..identities.len()).filter(|at| !identities[*at].is_one_column()).collect());
    match which % 16 {
        0 => vec![Holds::Text],
        1 => vec![Holds::NoCase],
        2 => vec![Holds::RTrim],
        3..=5 => vec![Holds::Integer],
        6 => vec![Holds::Any],
        7 => vec![Holds::Outside],
        8 | 9 => pick(codes.to_vec()).map_or(vec![Holds::Integer], |to| vec![Holds::Code(to)]),
        10 | 11 => pairs().map_or(vec![Holds::Integer], |to| vec![Holds::Part(to, 0), Holds::Part(to, 1)]),
        _ => rows().map_or(vec![Holds::Integer], |to| vec![Holds::Row(to)]),
    }
}

fn uniques(raw: &RawTable, table: &Table, is_code: bool) -> Vec<Unique> {
    let mut names: Vec<String> = table.named().map(|(name, _)| name).collect();
    let mut uniques = Vec::new();
    if is_code {
        uniques.push(Unique { columns: vec!["c0".into()], ..Unique::default() });
    }
    if matches!(table.identity, Identity::Link(..) | Identity::Pair) {
        names.extend(["ka".into(), "kb".into()]);
    }
    for (first, second, kind) in &raw.uniques {
        if names.is_empty() {
            break;
        }
        let mut columns = vec![names[usize::from(*first) % names.len()].clone()];
        let other = &names[usize::from(*second) % names.len()];
        if kind % 2 == 0 && *other != columns[0] {
            columns.push(other.clone());
        }
        let only_where = (kind % 4 == 1).then(|| names[usize::from(*second) % names.len()].clone());
        let nocase = kind % 5 == 0;
        let of = table.named().find(|(name, _)| columns.last() == Some(name)).map(|(_, column)| column.holds);
        let has_text =
            of.is_some_and(|holds| matches!(holds, Holds::Text | Holds::NoCase | Holds::RTrim | Holds::Integer));
        uniques.push(Unique { lower: kind % 3 == 0 && has_text, columns, only_where, without: None, nocase });
    }
    // SQLite makes one index of two equal constraints.
    uniques.dedup();
    uniques
}
