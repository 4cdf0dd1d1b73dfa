//! What is in motion: changes that wait for a merge, a table or a column, and rows that are ahead of the log.

use super::*;

#[test]
fn what_no_merge_has_come_to_is_left_out() {
    let mut r = replica();
    r.pull(10, "notes", "new", &[("body", text("newer"))]);
    r.pull(11, "notes", "unborn", &[("body", text("newer"))]);
    r.pull(12, "nowhere", "1", &[("a", Value::Null)]);
    r.assert_problems(&[]);
    r.merged_all();
    let unmerged = "is not merged, and nothing says what it waits for";
    let missing = "the register of column \"body\"";
    let problems = r.problems();
    assert_eq!(problems.iter().filter(|problem| problem.contains(unmerged)).count(), 3, "{problems:#?}");
    assert_eq!(problems.iter().filter(|problem| problem.contains(missing)).count(), 2, "{problems:#?}");
}

#[test]
fn changes_of_unknown_tables_wait() {
    let mut r = replica();
    let id = r.pull(10, "nowhere", "1", &[("a", Value::Null)]);
    r.wait(id, "nowhere", None);
    let other = r.pull(11, "other", "1", &[("a", Value::Null)]);
    r.wait(other, "other", None);
    r.assert_problems(&[]);
    r.merge(other, "other", "1", &[("a", false)], true);
    r.assert_problems(&[
        "is marked merged and listed",
        "is marked merged, and that table was never tracked",
        "a register holds",
    ]);
    let mut r = replica();
    let id = r.pull(10, "nowhere", "1", &[("a", Value::Null)]);
    r.wait(id, "nowhere", Some("a"));
    r.assert_problems(&["of \"nowhere\" waits for a column of a table that was never tracked"]);
    r.damage("UPDATE ZV_PENDING SET column_no = NULL, table_no = 1");
    r.assert_problems(&["of \"nowhere\" is listed as waiting for another table"]);
}

#[test]
fn changes_of_unknown_columns_wait_and_are_folded() {
    let waiting = || {
        let mut r = replica();
        let id = r.pull(10, "notes", "new", &[("body", text("newer")), ("colour", text("red"))]);
        r.merge(id, "notes", "new", &[("body", false), ("colour", false)], true);
        r.wait(id, "notes", Some("colour"));
        r.damage("UPDATE notes SET body = 'newer' WHERE id = 'new'");
        r
    };
    waiting().assert_problems(&[]);
    let damages = [
        ("DELETE FROM ZV_PENDING", &["nothing says what it waits for", "is not listed as waiting for"][..]),
        (
            "DELETE FROM ZV_PENDING; UPDATE ZV_CHANGE SET merged = 1",
            &["is marked merged, and notes never had its column \"colour\""],
        ),
        ("UPDATE ZV_PENDING SET column_no = 2", &["is not listed as waiting for the column \"colour\""]),
        (
            "UPDATE ZV_REGISTER SET registers = (SELECT registers FROM ZV_REGISTER WHERE entity_id = 'old')
             WHERE entity_id = 'new'",
            &["column \"body\"", "column \"colour\" is missing", "column \"stars\""],
        ),
    ];
    for (sql, phrases) in damages {
        let mut r = waiting();
        r.damage(sql);
        r.assert_problems(phrases);
    }
    // A change that deletes by an unknown column's newer write lives.
    let mut r = waiting();
    let id = r.pull(9, "notes", "new", &[("zv_deleted", Value::Integer(1))]);
    r.merge(id, "notes", "new", &[("zv_deleted", true)], true);
    r.assert_problems(&[]);
}

#[test]
fn a_table_or_column_that_has_come_waits_for_the_next_merge() {
    let mut r = replica();
    let table = r.pull(10, "other", "1", &[("a", Value::Null)]);
    r.wait(table, "other", None);
    let column = r.pull(11, "notes", "new", &[("colour", text("red"))]);
    r.merge(column, "notes", "new", &[("colour", false)], true);
    r.wait(column, "notes", Some("colour"));
    r.track("other", &[]);
    r.conn.execute_batch("ALTER TABLE notes ADD COLUMN colour TEXT").unwrap();
    r.assert_problems(&[]);
    r.log(|log, world| crate::capture::renew(log, world).unwrap());
    r.assert_problems(&[]);
}

#[test]
fn an_untracked_table_keeps_what_was_merged() {
    let mut r = replica();
    r.log(|log, _| untrack(log, "notes").unwrap());
    r.damage("UPDATE notes SET body = 'free'");
    let id = r.pull(10, "notes", "new", &[("body", text("newer"))]);
    r.wait(id, "notes", None);
    r.assert_problems(&[]);
    r.damage("UPDATE ZV_REGISTER SET registers = x'' WHERE entity_id = 'old'");
    r.assert_problems(&["column \"body\" is missing", "column \"stars\" is missing"]);
}

#[test]
fn a_column_dropped_since_keeps_its_merged_changes() {
    let mut r = replica();
    let id = r.pull(10, "notes", "new", &[("stars", Value::Integer(1))]);
    r.merge(id, "notes", "new", &[("stars", false)], true);
    r.damage("DROP TRIGGER ZV_1_update; DROP TRIGGER ZV_1_insert; DROP TRIGGER ZV_1_rekey");
    r.damage("ALTER TABLE notes DROP COLUMN stars");
    r.log(|log, world| crate::capture::renew(log, world).unwrap());
    r.assert_problems(&[]);
}

#[test]
fn rows_that_are_not_sealed_or_wait_to_be_shown_are_passed_over() {
    let mut r = replica();
    r.conn
        .execute_batch(
            "UPDATE notes SET body = 'unsealed' WHERE id = 'new'; INSERT INTO notes (id) VALUES ('unsealed');
             DELETE FROM links;",
        )
        .unwrap();
    r.assert_problems(&[]);
    seal(&mut r.conn, &r.world, &mut Turns::default()).unwrap();
    r.assert_problems(&[]);
    r.damage("DELETE FROM notes WHERE id = 'far'; INSERT INTO ZV_TOUCHED VALUES (1, 'far')");
    r.assert_problems(&[]);
    r.damage("DELETE FROM ZV_TOUCHED");
    r.assert_problems(&["notes row \"far\": is not in the table"]);
    r.conn.execute_batch("INSERT INTO ZV_JOURNAL (ms, source, op, c0) VALUES (1, 99, 1, 'x')").unwrap();
    r.assert_problems(&["the journal holds writes of a table that", "notes row \"far\""]);
}
