//! From a table's shape to the SQL of its triggers: pure text, plain SQL of SQLite 3.35, nothing but the table and `ZV_` names.

use crate::db::{Affinity, Column, Ident, Table, list};
use crate::model::KeyKind;

/// The operations of a journal row.
pub(crate) mod op {
    pub(crate) const INSERT: i64 = 1;
    pub(crate) const UPDATE: i64 = 2;
    pub(crate) const DELETE: i64 = 3;
    /// A row that a REPLACE may be about to remove without a delete trigger.
    pub(crate) const CANDIDATE: i64 = 4;
    /// A row got another local integer key: the whole row, and after it the old integer.
    pub(crate) const MOVE: i64 = 5;
    /// A row of a table with local integer keys got another identity: the old one. An insert follows.
    pub(crate) const REKEY: i64 = 6;
}

/// How many columns one integer of a mask covers.
pub(crate) const MASK_BITS: usize = 62;

/// The wall clock in milliseconds since the Unix epoch, as SQLite 3.35 can say it; SQLite counts in whole milliseconds.
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)";

/// The alias of the table inside a trigger, so that a table named `old` or `new` cannot be taken for the row.
pub(super) const ROW: &str = "zv_row";

/// The names of the rowid, where no column has them.
const ROWIDS: [&str; 3] = ["rowid", "oid", "_rowid_"];

/// A trigger of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub(crate) name: String,
    pub(crate) sql: String,
}

/// What the triggers of one table are made from.
pub(crate) struct Capture<'a> {
    pub(crate) table: &'a Table,
    pub(crate) kind: KeyKind,
    pub(crate) table_no: u32,
    pub(crate) source: i64,
    /// The integer key that stays on this replica.
    pub(crate) local: Option<&'a Column>,
    /// The key that identifies a row everywhere; none where it gets an id of its own.
    pub(crate) key: Vec<&'a Column>,
    /// The columns that are recorded: neither key nor excluded.
    pub(crate) columns: Vec<&'a Column>,
}

/// The name of a table's trigger.
pub(crate) fn trigger_name(table_no: u32, event: &str) -> String {
    format!("ZV_{table_no}_{event}")
}

impl<'a> Capture<'a> {
    /// Every trigger of the table.
    pub(crate) fn triggers(&self) -> Vec<Trigger> {
        let mut triggers = vec![
            self.trigger("insert", "AFTER INSERT", &self.key_is_there(), &self.record_row(op::INSERT)),
            self.trigger("delete", "AFTER DELETE", "", &self.record_delete(op::DELETE)),
            self.trigger("rekey", &self.on_key_update("AFTER"), &self.key_changed(), &self.record_rekey()),
        ];
        if !self.table.foreign_keys.is_empty() {
            // A REPLACE may take the row that has the new key, and with it, by a cascade, the row that was to get it.
            let body = self.record_candidates(&[format!("({})", self.supplanted())], &self.same_row_then());
            triggers.push(self.trigger("supplant", &self.on_key_update("BEFORE"), &self.key_changed(), &body));
        }
        if !self.columns.is_empty() {
            let when = format!("NOT ({}) AND ({})", self.key_changed(), self.any_changed());
            triggers.push(self.trigger("update", "AFTER UPDATE", &when, &self.record_row(op::UPDATE)));
        }
        triggers.extend(self.watch_hidden_rowid());
        triggers.extend(self.watch_uniques());
        triggers
    }

    /// A REPLACE removes whoever has the rowid that a row is given, also where it is no key of the table. An insert that names none
    /// has -1 here, as SQLite has not chosen it yet: it takes nobody's, and pays no look-up.
    fn watch_hidden_rowid(&self) -> Vec<Trigger> {
        let Some(rowid) = self.table.rowid.filter(|_| !self.table.key_is_rowid) else { return Vec::new() };
        let has_it = [format!("{ROW}.{rowid} = NEW.{rowid}")];
        let body = |itself: String| self.record_candidates(&has_it, &itself);
        let inserted = body(self.same_key("NEW"));
        let moved = (format!("BEFORE UPDATE OF {}", list(ROWIDS)), format!("OLD.{rowid} <> NEW.{rowid}"));
        vec![
            self.trigger("overlay", "BEFORE INSERT", &format!("NEW.{rowid} <> -1"), &inserted),
            self.trigger("oust", &moved.0, &moved.1, &body(self.same_row_then())),
        ]
    }

    pub(super) fn trigger(&self, event: &str, on: &str, when: &str, body: &str) -> Trigger {
        let name = trigger_name(self.table_no, event);
        let when = if when.is_empty() { String::new() } else { format!(" WHEN {when}") };
        let sql = format!("CREATE TRIGGER {} {on} ON {}{when} BEGIN {body} END", Ident(&name), Ident(&self.table.name));
        Trigger { name, sql }
    }

    /// The columns by which a journal row knows its row.
    pub(super) fn lead(&self) -> impl Iterator<Item = &'a Column> + Clone + '_ {
        self.local.into_iter().chain(self.key.iter().copied())
    }

    fn lead_len(&self) -> usize {
        self.key.len() + usize::from(self.local.is_some())
    }

    /// Appends the row as it stands: the whole of it, or what an update changed of it.
    fn record_row(&self, operation: i64) -> String {
        let update = operation == op::UPDATE;
        // An update that leaves the key alone leaves a key that was looked at when the row came.
        let lead = self.lead().map(|column| match update {
            true => format!("{ROW}.{}", Ident(&column.name)),
            false => self.checked_key(column),
        });
        let values = self.columns.iter().map(|column| {
            let value = format!("{ROW}.{}", Ident(&column.name));
            match update && !self.is_written_first(column) {
                true => format!("CASE WHEN {} THEN {value} END", changed(column)),
                false => value,
            }
        });
        let moved = self.local.filter(|_| operation == op::MOVE).map(|local| format!("OLD.{}", Ident(&local.name)));
        let has_mask = operation != op::INSERT && !self.columns.is_empty();
        let mask = if has_mask { self.mask() } else { "NULL".into() };
        format!(
            "{} SELECT {NOW}, {}, {operation}, {mask}, {} FROM {} AS {ROW} WHERE {};",
            self.append(self.lead_len() + self.columns.len() + usize::from(moved.is_some())),
            self.source,
            list(lead.chain(values).chain(moved)),
            Ident(&self.table.name),
            self.this_row("NEW"),
        )
    }

    /// A delete, unless another trigger has put the row back already.
    fn record_delete(&self, operation: i64) -> String {
        let lead = self.lead().map(|column| format!("OLD.{}", Ident(&column.name)));
        format!(
            "{} SELECT {NOW}, {}, {operation}, NULL, {} WHERE NOT EXISTS (SELECT 1 FROM {} AS {ROW} WHERE {});",
            self.append(self.lead_len()),
            self.source,
            list(lead),
            Ident(&self.table.name),
            self.same_key("OLD"),
        )
    }

    /// A change of key is a delete and an insert; a row with an id of its own keeps it under another integer.
    fn record_rekey(&self) -> String {
        match self.local {
            Some(_) if self.key.is_empty() => self.record_row(op::MOVE),
            Some(_) => format!("{} {}", self.record_delete(op::REKEY), self.record_row(op::INSERT)),
            None => format!("{} {}", self.record_delete(op::DELETE), self.record_row(op::INSERT)),
        }
    }

    /// Where a trigger of the user's fills a key in once the row is there, a row that has none yet is recorded when it gets one.
    fn key_is_there(&self) -> String {
        let is_filled_in = |name: &String| self.table.triggers.filled_in.contains(&name.to_ascii_lowercase());
        let names = self.key.iter().map(|column| &column.name).filter(|name| is_filled_in(name));
        names.map(|name| format!("NEW.{} IS NOT NULL", Ident(name))).collect::<Vec<_>>().join(" AND ")
    }

    /// Fires where a statement names a key column, so that other updates pay nothing. A key that is the rowid has three
    /// more names; SQLite takes names in UPDATE OF that no column has.
    fn on_key_update(&self, when: &str) -> String {
        let by_rowid = self.lead().any(|column| self.is_rowid(column));
        let aliases = if by_rowid { &ROWIDS[..] } else { &[] };
        let lead = self.lead().map(|column| Ident(&column.name));
        format!("{when} UPDATE OF {}", list(lead.chain(aliases.iter().map(|alias| Ident(alias)))))
    }

    /// Notes the keys of other rows that share a unique value with the new one: a REPLACE would remove them silently. Each constraint
    /// has a search of its own, as SQLite takes no index for conditions with a COLLATE in them that are joined by OR.
    pub(super) fn record_candidates(&self, clashing: &[String], itself: &str) -> String {
        let lead = list(self.lead().map(|column| format!("{ROW}.{}", Ident(&column.name))));
        let (source, candidate, table) = (self.source, op::CANDIDATE, Ident(&self.table.name));
        let searches = clashing.iter().map(|clashes| {
            format!("SELECT {NOW}, {source}, {candidate}, NULL, {lead} FROM {table} AS {ROW} WHERE {clashes} AND NOT ({itself})")
        });
        format!("{} {};", self.append(self.lead_len()), searches.collect::<Vec<_>>().join(" UNION ALL "))
    }

    /// The condition on rows that have the integer or the key that a row is about to get.
    fn supplanted(&self) -> String {
        let same = |columns: &[&Column]| {
            let terms = columns.iter().map(|column| format!("{ROW}.{0} IS NEW.{0}", Ident(&column.name)));
            terms.collect::<Vec<_>>().join(" AND ")
        };
        let groups = [self.local.as_slice(), &self.key];
        let groups = groups.into_iter().filter(|columns| !columns.is_empty()).map(same);
        groups.collect::<Vec<_>>().join(" OR ")
    }

    /// The condition on the row itself before it is updated.
    pub(super) fn same_row_then(&self) -> String {
        match self.table.rowid {
            Some(rowid) => format!("{ROW}.{rowid} = OLD.{rowid}"),
            None => self.same_key("OLD"),
        }
    }

    /// The condition on the row itself before it is written, when SQLite calls a rowid -1 that it has not chosen yet.
    pub(super) fn same_row_before(&self) -> String {
        let same = self.same_key("NEW");
        let by = if self.key.is_empty() { self.local.as_slice() } else { &self.key };
        match by {
            [column] if self.is_rowid(column) => format!("{same} AND NEW.{} <> -1", Ident(&column.name)),
            _ => same,
        }
    }

    pub(super) fn is_rowid(&self, column: &Column) -> bool {
        self.table.key_is_rowid && column.name == self.table.columns[self.table.key[0]].name
    }

    fn append(&self, values: usize) -> String {
        let columns = list((0..values).map(|n| format!("c{n}")));
        format!("INSERT INTO ZV_JOURNAL (ms, source, op, mask, {columns})")
    }

    /// The condition that finds the written row itself, by its rowid where it has one.
    fn this_row(&self, row: &str) -> String {
        match self.table.rowid {
            Some(rowid) => format!("{ROW}.{rowid} = {row}.{rowid}"),
            None => self.same_key(row),
        }
    }

    /// The condition on rows of the same identity.
    pub(super) fn same_key(&self, row: &str) -> String {
        let by = if self.key.is_empty() { self.local.as_slice() } else { &self.key };
        let terms = by.iter().map(|c| format!("{ROW}.{0} IS {row}.{0}", Ident(&c.name)));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    fn key_changed(&self) -> String {
        any(self.lead().map(|column| match column.affinity {
            // No key is a real, not even the one that is equal to an integer and stays a real.
            Affinity::Integer | Affinity::Numeric if !self.is_rowid(column) => is_other_at_all(&column.name),
            _ => changed(column),
        }))
    }

    fn any_changed(&self) -> String {
        any(self.columns.iter().map(|column| self.may_have_changed(column)))
    }

    /// Whether an update changed a column, or put back what a trigger had written there before it: OLD is from before both.
    fn may_have_changed(&self, column: &Column) -> String {
        if self.is_written_first(column) { "1".into() } else { changed(column) }
    }

    fn is_written_first(&self, column: &Column) -> bool {
        self.table.triggers.written_first.contains(&column.name.to_ascii_lowercase())
    }

    /// Which columns changed, as an integer of one bit a column; wider tables have several, joined by commas.
    fn mask(&self) -> String {
        let groups = self.columns.chunks(MASK_BITS).map(|columns| {
            let bits = columns
                .iter()
                .enumerate()
                .map(|(bit, column)| format!("(({}) << {bit})", self.may_have_changed(column)));
            format!("({})", bits.collect::<Vec<_>>().join(" | "))
        });
        groups.collect::<Vec<_>>().join(" || ',' || ")
    }

    /// A key column's value, refused where no entity id can be made of it.
    fn checked_key(&self, column: &Column) -> String {
        let value = format!("{ROW}.{}", Ident(&column.name));
        if self.is_rowid(column) {
            return value;
        }
        let allowed = match self.kind {
            KeyKind::Text => "= 'text'",
            KeyKind::Integer => "= 'integer'",
            KeyKind::Parts => "IN ('text', 'integer', 'blob')",
        };
        let refuse = |what: &str| {
            let name = format!("zvon: the key column {} of {} {what}", column.name, self.table.name);
            format!("RAISE(ABORT, '{}')", name.replace('\'', "''"))
        };
        let class = match self.kind {
            KeyKind::Text => "must be text",
            KeyKind::Integer => "must be an integer",
            KeyKind::Parts => "must be text, an integer or a blob",
        };
        let mut cases = format!("WHEN typeof({value}) {allowed} IS NOT 1 THEN {}", refuse(class));
        if self.kind != KeyKind::Integer {
            let nul = refuse("must have no NUL in it");
            let broken = refuse("must be valid UTF-8");
            let text = format!("typeof({value}) = 'text' AND {value} GLOB '*[^ -~]*'");
            cases += &format!(" WHEN instr({value}, char(0)) AND typeof({value}) = 'text' THEN {nul}");
            cases += &format!(" WHEN {text} AND ({}) THEN {broken}", broken_utf8(&value));
        }
        format!("CASE {cases} ELSE {value} END")
    }
}

/// Whether an update changed a column: another value, or the same under another storage class ('bob' to 'Bob' in a NOCASE
/// column counts, 1 to 1.0 in a column without a type too). Columns of numbers turn 1.0 into 1, and columns of text and of
/// reals have one class of numbers or none, so that only columns without a type hold equal values of two classes
/// (-2^63, as an integer and as a real, is the one exception: SQLite leaves that real as it is).
fn changed(column: &Column) -> String {
    match column.affinity {
        Affinity::Blob => is_other_at_all(&column.name),
        _ => is_other(&column.name),
    }
}

/// Whether a column has another value.
pub(super) fn is_other(name: &str) -> String {
    format!("OLD.{0} IS NOT NEW.{0} COLLATE BINARY", Ident(name))
}

/// Whether a column has another value, or the same under another storage class.
pub(super) fn is_other_at_all(name: &str) -> String {
    format!("({} OR typeof(OLD.{1}) <> typeof(NEW.{1}))", is_other(name), Ident(name))
}

/// Terms joined by OR, in groups, as SQLite allows an expression a depth of 1,000 only; empty where there is none.
pub(super) fn any(terms: impl Iterator<Item = String>) -> String {
    let terms: Vec<String> = terms.collect();
    let groups: Vec<String> = terms.chunks(100).map(|group| group.join(" OR ")).collect();
    if groups.len() < 2 { groups.concat() } else { format!("({})", groups.join(") OR (")) }
}

/// Whether text is not UTF-8: some character, taken apart and put together again, has other bytes.
/// Keys of more than 65,536 characters that are not plain ASCII count as broken, as `ZV_BYTE` walks no further.
fn broken_utf8(value: &str) -> String {
    let at = format!("substr({value}, a.i * 256 + b.i + 1, 1)");
    format!(
        "length({value}) > 65536 OR EXISTS (SELECT 1 FROM ZV_BYTE AS a, ZV_BYTE AS b \
         WHERE a.i <= length({value}) / 256 AND b.i < length({value}) - a.i * 256 \
         AND CAST(char(unicode({at})) AS BLOB) IS NOT CAST({at} AS BLOB))"
    )
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::db::read_table;

    /// The triggers of a table, as they are installed.
    fn triggers(sql: &str, kind: KeyKind) -> String {
        let table = table(sql);
        let key: Vec<&Column> = table.key_columns().collect();
        let columns = table.columns.iter().filter(|column| !key.contains(column)).collect();
        shown(&Capture { table: &table, kind, table_no: 7, source: 3, local: None, key, columns })
    }

    fn table(sql: &str) -> Table {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        read_table(&conn, "t").unwrap().unwrap()
    }

    fn shown(capture: &Capture<'_>) -> String {
        capture.triggers().into_iter().map(|trigger| trigger.sql).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_text_key_and_a_unique_column() {
        let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, name TEXT COLLATE NOCASE UNIQUE NOT NULL DEFAULT 'x', n)";
        insta::assert_snapshot!(triggers(sql, KeyKind::Text));
    }

    #[test]
    fn a_key_of_two_columns_and_nothing_else() {
        insta::assert_snapshot!(triggers(
            "CREATE TABLE t (a, \"b'c\" INTEGER, PRIMARY KEY (a, \"b'c\")) WITHOUT ROWID",
            KeyKind::Parts
        ));
    }

    #[test]
    fn an_integer_key_that_is_the_rowid() {
        insta::assert_snapshot!(triggers("CREATE TABLE t (id INTEGER PRIMARY KEY, r REAL)", KeyKind::Integer));
    }

    #[test]
    fn a_condition_that_names_its_table_is_left_out() {
        let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, a, b, c); CREATE UNIQUE INDEX i ON t (a) WHERE t.b IS NULL;
                   CREATE UNIQUE INDEX j ON t (b) WHERE c IS NULL";
        let triggers = triggers(sql, KeyKind::Text);
        assert!(triggers.contains("COLLATE \"BINARY\" AND (c IS NULL))"), "{triggers}");
        assert!(!triggers.contains("t.b IS NULL"), "{triggers}");
    }

    #[test]
    fn a_local_integer_key() {
        let table = table("CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE, a)");
        let (local, [u, a]) = (table.column("id"), ["u", "a"].map(|name| table.column(name).unwrap()));
        let generated = Capture {
            table: &table,
            kind: KeyKind::Text,
            table_no: 7,
            source: 3,
            local,
            key: vec![],
            columns: vec![u, a],
        };
        let keyed = Capture {
            table: &table,
            kind: KeyKind::Text,
            table_no: 7,
            source: 3,
            local,
            key: vec![u],
            columns: vec![a],
        };
        insta::assert_snapshot!(format!("{}\n\n{}", shown(&generated), shown(&keyed)));
    }
}
