//! Triggers of the user's own, at random: they write to the tables when a user writes, and when a merge does.

use std::fmt::Write as _;

use proptest::test_runner::TestRunner;

use crate::peer::spoils_an_index;
use crate::rng::Rng;
use crate::schema::{Identity, Schema, Table, name};
use crate::story::some;
use crate::writes::{Write, any_write, assignments};

/// One to four triggers. None can refuse a row: what a trigger refuses is held by another rule than the model's, so that their
/// statements leave out what breaks a constraint (`OR IGNORE`) or remove what is in the way (`OR REPLACE`).
pub fn any_triggers(rng: &mut Rng, values: &mut TestRunner, schema: &Schema) -> Vec<String> {
    let mut triggers = Vec::new();
    let mut stamped = vec![false; schema.tables.len()];
    for _ in 0..1 + rng.index(4) {
        let table = rng.index(schema.tables.len());
        let made = match rng.percent(40) {
            true => stamp(rng, schema, table, &mut stamped[table]),
            false => write_elsewhere(rng, values, schema, table),
        };
        if let Some((when, body)) = made {
            let n = triggers.len();
            triggers.push(format!("CREATE TRIGGER own{n} {when} BEGIN {body}; END;\n"));
        }
    }
    triggers
}

/// SQL that takes the triggers away.
pub fn dropped(schema: &Schema) -> String {
    (0..schema.triggers.len()).fold(String::new(), |mut sql, n| {
        let _ = writeln!(sql, "DROP TRIGGER own{n};");
        sql
    })
}

/// A trigger that writes a column of the row itself, as one that keeps the time of the last edit does: one a table for updates,
/// so that none sets off the other.
fn stamp(rng: &mut Rng, schema: &Schema, no: usize, stamped: &mut bool) -> Option<(String, String)> {
    let (table, name) = (&schema.tables[no], name(no));
    let sets = assignments(schema, no, rng.index(8), rng.index(16))?;
    let key: Vec<String> = table.identity.key().iter().map(|key| format!("{key} IS NEW.{key}")).collect();
    let body = format!("UPDATE OR IGNORE {name} SET {sets} WHERE {}", key.join(" AND "));
    let others: Vec<String> =
        table.named().map(|(column, _)| column).filter(|column| !sets.contains(&format!("{column} ="))).collect();
    let when = match rng.percent(50) && !others.is_empty() && !*stamped {
        true => {
            *stamped = true;
            format!("AFTER UPDATE OF {} ON {name}", rng.pick(&others))
        }
        false => format!("AFTER INSERT ON {name}"),
    };
    (!can_spoil(&body, schema)).then_some((when, body))
}

/// A trigger that writes a row of a table further on, so that none sets off itself.
fn write_elsewhere(rng: &mut Rng, values: &mut TestRunner, schema: &Schema, from: usize) -> Option<(String, String)> {
    let later = schema.tables.len() - from - 1;
    if later == 0 {
        return None;
    }
    let to = from + 1 + rng.index(later);
    // A value that is missing or forbidden stops a REPLACE, and with it the row.
    let target = &schema.tables[to];
    let forbids = |table: &Table| {
        table.differ
            || !table.relations.is_empty()
            || !table.identity.is_one_column()
            || table.columns.iter().any(|c| c.not_null || c.check)
    };
    // What it says of conflicts goes for the triggers that it sets off, which write to tables further on.
    let replaces = rng.percent(25) && !schema.tables[to..].iter().any(forbids);
    // A key that refers to a row which is not there is NULL, and that capture refuses, whoever writes it.
    let may_name = !matches!(target.identity, Identity::Link(..));
    let write = (0..100).map(|_| some(values, any_write())).find_map(|write| match write {
        Write::Insert { key, values, .. } if may_name => {
            let verb = if replaces { "INSERT OR REPLACE" } else { "INSERT OR IGNORE" };
            Some(Write::Insert { verb, table: to, key, values })
        }
        Write::Update { row, column, value, .. } => {
            let verb = if replaces { "UPDATE OR REPLACE" } else { "UPDATE OR IGNORE" };
            Some(Write::Update { verb, table: to, row, column, value })
        }
        Write::Rekey { row, key, .. } if may_name => {
            Some(Write::Rekey { verb: "UPDATE OR IGNORE", table: to, row, key })
        }
        Write::Delete { row, .. } => Some(Write::Delete { table: to, row }),
        _ => None,
    })?;
    let body = write.statements(schema).pop()?;
    let events = ["INSERT", "UPDATE", "DELETE"];
    let when = format!("{} {} ON {}", rng.pick(&["AFTER", "BEFORE"]), rng.pick(&events), name(from));
    (!can_spoil(&body, schema)).then_some((when, body))
}

/// What a statement says of conflicts goes for those of the triggers that it sets off, too.
fn can_spoil(body: &str, schema: &Schema) -> bool {
    spoils_an_index(&body.replacen("UPDATE OR IGNORE ", "UPDATE OR REPLACE ", 1), schema)
}
