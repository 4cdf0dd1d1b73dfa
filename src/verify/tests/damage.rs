//! A replica that is damaged in one way: what `verify` must say of it, and nothing else.

use super::*;

/// Each damage, and the problems that it must be seen as. A repair leaves none of them, or says what the user has to do.
#[track_caller]
fn assert_damages(damages: &[(&str, &[&str])]) {
    for (sql, phrases) in damages {
        let mut r = replica();
        r.damage(sql);
        println!("{sql}");
        r.assert_problems(phrases);
        r.assert_repaired(!phrases.is_empty());
    }
}

#[test]
fn damaged_rows_are_seen() {
    assert_damages(&[
        ("UPDATE notes SET body = 'X' WHERE id = 'back'", &["notes row \"back\": column body is not what"]),
        ("UPDATE notes SET body = 'was Here' WHERE id = 'old'", &["notes row \"old\": column body is not"]),
        ("UPDATE notes SET stars = NULL WHERE id = 'far'", &["notes row \"far\": column stars is not what"]),
        ("UPDATE notes SET body = CAST(body AS TEXT) WHERE id = 'new'", &["notes row \"new\": column body"]),
        ("UPDATE notes SET private = 'anything'", &[]),
        ("DELETE FROM notes WHERE id = 'new'", &["notes row \"new\": is not in the table, though"]),
        ("DELETE FROM links WHERE a = 'x/y'", &["links row \"x~1y/#1\": is not in the table, though"]),
        (
            "INSERT INTO notes (id) VALUES ('gone')",
            &["notes row \"gone\": is in the table, though the log says that it"],
        ),
        (
            "INSERT INTO notes (id) VALUES ('held')",
            &["notes row \"held\": is in the table, though it is listed as held"],
        ),
        ("INSERT INTO notes (id) VALUES ('stray')", &["notes row \"stray\": is in the table, and no merged change"]),
        ("INSERT INTO other VALUES (2, 2)", &[]),
    ]);
}

#[test]
fn a_row_with_an_impossible_key_is_seen() {
    let mut r = replica();
    r.damage("DROP TRIGGER ZV_{links}_insert");
    r.damage("INSERT INTO links VALUES (NULL, 1)");
    r.assert_problems(&["links lacks the trigger", "links has a row whose key no change can name"]);
}

#[test]
fn a_row_found_through_its_keys_affinity_is_another_entitys() {
    let mut r = Replica::new("CREATE TABLE t (k NUMERIC PRIMARY KEY, a)");
    r.track("t", &[]);
    r.write("INSERT INTO t VALUES (7, 'seven')");
    let id = r.pull(1, "t", "7", &[("a", text("seven"))]);
    r.merge(id, "t", "7", &[("a", false)], true);
    r.assert_problems(&["t row \"7\": is not in the table"]);
}

#[test]
fn damaged_registers_are_seen() {
    let flip = "UPDATE ZV_REGISTER SET registers = (SELECT registers FROM ZV_REGISTER WHERE entity_id = 'new')
                WHERE entity_id = 'back'";
    assert_damages(&[
        ("UPDATE ZV_REGISTER SET shown = 0 WHERE entity_id = 'new'", &["row \"new\": is not marked as shown"]),
        ("UPDATE ZV_REGISTER SET shown = 1 WHERE entity_id = 'gone'", &["row \"gone\": is marked as shown and"]),
        ("UPDATE ZV_REGISTER SET shown = 1 WHERE entity_id = 'held'", &["row \"held\": is marked as shown and"]),
        (
            "DELETE FROM ZV_REGISTER WHERE entity_id = 'far'",
            &["row \"far\": the register of column \"body\" is missing", "row \"far\": is not marked as shown"],
        ),
        (
            "UPDATE ZV_REGISTER SET registers = x'00' WHERE entity_id = 'far'",
            &["row \"far\": its registers cannot be read"],
        ),
        (
            flip,
            &[
                "row \"back\": the register of column \"body\" does not hold the newest",
                "row \"back\": the register of column \"stars\" does not hold the newest",
                "row \"back\": the register of column \"zv_deleted\" is missing",
            ],
        ),
        (
            "UPDATE ZV_REGISTER SET registers = CAST(registers || (SELECT registers FROM ZV_REGISTER WHERE entity_id = 'z/#2') AS BLOB)
             WHERE entity_id = 'far'",
            &["row \"far\": a register holds a write that no merged change made"],
        ),
        (
            "INSERT INTO ZV_REGISTER SELECT table_no, 'nobody', 0, registers FROM ZV_REGISTER WHERE entity_id = 'new'",
            &["ZV_REGISTER holds row \"nobody\""],
        ),
        (
            "INSERT INTO ZV_REGISTER SELECT 999, entity_id, 0, registers FROM ZV_REGISTER WHERE entity_id = 'new'",
            &["ZV_REGISTER holds row \"new\" of table 999"],
        ),
    ]);
}

#[test]
fn the_flags_of_a_register_are_compared() {
    for (flags, phrase) in [("00", "does not hold the newest"), ("03", "does not hold the newest")] {
        let mut r = replica();
        // The seventeenth byte of a register is its flags: own is 1, deleted is 2.
        r.damage(&format!(
            "UPDATE ZV_REGISTER SET registers = unhex(substr(hex(registers), 1, 32) || '{flags}' ||
             substr(hex(registers), 35)) WHERE entity_id = 'x~1y/#1'"
        ));
        r.assert_problems(&[phrase]);
    }
}

#[test]
fn damaged_marks_of_held_rows_are_seen() {
    assert_damages(&[
        (
            "DELETE FROM ZV_HELD",
            &["notes row \"held\": is not marked as shown", "notes row \"held\": is not in the table"],
        ),
        (
            "UPDATE ZV_HELD SET entity_id = 'gone'",
            &[
                "notes row \"gone\": is listed as held, though the log says that it is deleted",
                "notes row \"held\": is not marked",
                "notes row \"held\": is not in",
            ],
        ),
        ("INSERT INTO ZV_HELD VALUES (77, 'nobody', 'x', 'y')", &["row \"nobody\" of table 77 is listed as held"]),
    ]);
}

#[test]
fn a_damaged_log_is_seen() {
    let far = "(SELECT id FROM ZV_CHANGE WHERE entity_id = 'far')";
    let lost = format!("DELETE FROM ZV_CHANGE WHERE id = {far}");
    let unsequenced = format!("DELETE FROM ZV_SEQUENCE WHERE change_id = unhex({far}, '-')");
    let twice = format!("INSERT INTO ZV_SEQUENCE (change_id, own) VALUES (unhex({far}, '-'), 0)");
    assert_damages(&[
        (
            &lost,
            &["the sequence holds the change", "the log holds fields of the change", "ZV_REGISTER holds row \"far\""],
        ),
        (&unsequenced, &["has no place in the sequence"]),
        (&twice, &["has more than one place in the sequence"]),
        ("INSERT INTO ZV_SEQUENCE (change_id, own) VALUES (x'00', 0)", &["the sequence holds an id that is not"]),
        ("INSERT INTO ZV_PENDING VALUES (x'00', 1, NULL)", &["the list of what waits holds an id that is not"]),
        (
            "INSERT INTO ZV_CHANGE_FIELD VALUES ('nobody', 'a', 1)",
            &["the log holds fields of the change \"nobody\", which it lacks"],
        ),
        (
            "UPDATE ZV_CHANGE_FIELD SET field_value = 'other' WHERE field_value = 'from afar'",
            &["notes row \"far\": column body is not what the log says"],
        ),
        (
            "INSERT INTO ZV_CHANGE VALUES ('019A9F3C-0C00-7000-8000-3F6C2A1B4D5E', 'a', 'notes', 'r', 0)",
            &["the change \"019A9F3C-0C00-7000-8000-3F6C2A1B4D5E\", whose id is not a canonical UUIDv7"],
        ),
    ]);
    let mut r = replica();
    r.damage("UPDATE ZV_METADATA SET value = 'x' WHERE key = 'last_id'");
    assert!(r.problems()[0].contains("ZV_METADATA holds no valid value of last_id"));
}

#[test]
fn an_id_beyond_the_clock_is_seen() {
    let mut r = replica();
    let last: String = r.conn.query_row("SELECT max(id) FROM ZV_CHANGE", [], |row| row.get(0)).unwrap();
    r.damage(
        "UPDATE ZV_METADATA SET value = (SELECT id FROM ZV_CHANGE ORDER BY id DESC LIMIT 1 OFFSET 1)
         WHERE key = 'last_id'",
    );
    r.assert_problems(&[&format!("change {last} is newer than the clock's last id")]);
}

#[test]
fn damaged_marks_of_merged_changes_are_seen() {
    assert_damages(&[
        (
            "UPDATE ZV_CHANGE SET merged = 0 WHERE entity_id = 'old'",
            &["of notes was made here and is not marked merged"],
        ),
        (
            "UPDATE ZV_CHANGE SET merged = 0 WHERE entity_id = 'far'",
            &["of notes is not merged, and nothing says what it waits for"],
        ),
        (
            "UPDATE ZV_METADATA SET value = value - 1 WHERE key = 'merged_seq'",
            &["of notes is marked merged before a merge has come to it"],
        ),
        (
            "INSERT INTO ZV_PENDING SELECT unhex(id, '-'), 1, NULL FROM ZV_CHANGE WHERE entity_id = 'far'",
            &["is marked merged and listed as waiting"],
        ),
        (
            "UPDATE ZV_CHANGE SET entity_type = 'zv_x' WHERE entity_id = 'far'",
            &["which can never be tracked", "ZV_REGISTER"],
        ),
    ]);
}

#[test]
fn lost_triggers_and_tables_are_seen() {
    assert_damages(&[
        ("DROP TRIGGER ZV_1_insert", &["notes lacks the trigger ZV_1_insert"]),
        ("DROP TRIGGER ZV_1_update", &["notes lacks the trigger ZV_1_update"]),
        ("DROP TRIGGER ZV_1_delete", &["notes lacks the trigger ZV_1_delete"]),
        ("DROP TRIGGER ZV_{links}_rekey", &["_rekey, so its writes are not captured"]),
        ("DROP TABLE links", &["links is tracked, and there is no such table"]),
        (
            "DROP TABLE links; CREATE TABLE links (a TEXT PRIMARY KEY, b INTEGER);
             CREATE TRIGGER ZV_{links}_insert AFTER INSERT ON links BEGIN SELECT 1; END;
             CREATE TRIGGER ZV_{links}_delete AFTER INSERT ON links BEGIN SELECT 1; END;
             CREATE TRIGGER ZV_{links}_rekey AFTER INSERT ON other BEGIN SELECT 1; END;",
            &["_rekey, so its writes are not captured", "links has another primary key"],
        ),
    ]);
}

#[test]
fn an_entity_whose_key_cannot_be_a_rows_is_held_or_a_problem() {
    let mut r = replica();
    let id = r.pull(10, "links", "not/canonical/#", &[("zv_deleted", Value::Integer(0))]);
    r.merge(id, "links", "not/canonical/#", &[("zv_deleted", false)], false);
    r.assert_problems(&["is not marked as shown", "cannot be shown, as nothing finds it in this table"]);
    hold(&r.conn, r.table_no("links").unwrap(), "not/canonical/#", "key", "").unwrap();
    r.assert_problems(&[]);
}

#[test]
fn bad_content_of_the_log_is_a_problem_and_never_a_panic() {
    let mut r = replica();
    r.damage(
        "DROP TRIGGER ZV_1_insert;
         INSERT INTO ZV_CHANGE VALUES (x'FF', x'00', 'notes', 'r', 'maybe');
         INSERT INTO ZV_CHANGE VALUES (CAST(x'FF00FE' AS TEXT), 'a', 'notes', 'r', 0);
         INSERT INTO ZV_CHANGE VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d5e', 'a', 'notes', CAST(x'FF' AS TEXT), 1);
         INSERT INTO ZV_CHANGE VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d5f', 'a', x'01', 'r', 1);
         INSERT INTO ZV_CHANGE VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d60', 'a', 'notes', '', 1);
         INSERT INTO ZV_CHANGE_FIELD VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d60', x'FF', 1);
         INSERT INTO ZV_CHANGE_FIELD VALUES ('019a9f3c-0c00-7000-8000-3f6c2a1b4d60', CAST(x'FF' AS TEXT), 1);
         INSERT INTO ZV_SEQUENCE (change_id, own) SELECT unhex(id, '-'), 0 FROM ZV_CHANGE WHERE id GLOB '*3f6c2a1b*';
         INSERT INTO ZV_PENDING VALUES ('text', 'text', 'text');
         INSERT INTO ZV_HELD VALUES (-1, CAST(x'FF' AS TEXT), '', '');
         INSERT INTO ZV_REGISTER VALUES (-1, CAST(x'FF' AS TEXT), 'maybe', 'text');
         INSERT INTO notes (id) VALUES (CAST(x'FF' AS TEXT));",
    );
    let problems = r.problems();
    for phrase in
        ["canonical UUIDv7", "by what is not text", "a field whose name is not text", "the list of what waits"]
    {
        assert!(problems.iter().any(|problem| problem.contains(phrase)), "{phrase}: {problems:#?}");
    }
}
