use super::*;
use crate::wire::Identity;

fn definition(table: &str, statements: &[&str]) -> TableDefinition {
    TableDefinition {
        table: table.into(),
        statements: statements.iter().map(|&sql| sql.into()).collect(),
        identity: Identity::Key,
        key: vec![],
        enforce_fk: false,
        version: 0,
        entity_type: None,
        renamed: std::collections::BTreeMap::new(),
    }
}

#[track_caller]
fn accepted(table: &str, statements: &[&str]) {
    let verdict = judge(&definition(table, statements));
    assert!(verdict.is_ok(), "{:.200?}: {verdict:?}", statements.concat());
}

/// The refusal, after its phrase was seen to be one.
#[track_caller]
fn refused(table: &str, statements: &[&str]) -> Refusal {
    let definition = definition(table, statements);
    let error = check_definition(&definition).expect_err(statements.first().unwrap_or(&""));
    let chain = format!("{error}: {error:?}");
    assert!(chain.len() < 2000 && !chain.contains(|c: char| c.is_control()), "{chain}");
    judge(&definition).unwrap_err()
}

/// Refused for what is in the column definition or table constraint.
#[track_caller]
fn refused_part(part: &str) -> Refusal {
    refused("t", &[&format!("CREATE TABLE t (a, {part})")])
}

#[track_caller]
fn refused_index(index: &str) -> Refusal {
    refused("t", &["CREATE TABLE t (a, b)", index])
}

#[test]
fn honest_tables_are_accepted() {
    accepted("t", &["CREATE TABLE t (a)"]);
    accepted("t", &["create table \"t\" (id integer primary key autoincrement, b text not null unique) strict;"]);
    accepted("t", &["CREATE TABLE [t] (a TEXT, b BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID, STRICT"]);
    accepted("t", &["/* by hand */ CREATE TABLE t (a -- the first; of one\n) ; -- the end"]);
    accepted("naïve \"table\"", &["CREATE TABLE \"naïve \"\"table\"\"\" (\"or\"\"der\" INT PRIMARY KEY)"]);
    accepted("t", &["CREATE TABLE t (a REFERENCES elsewhere (b) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)"]);
    accepted("t", &["CREATE TABLE t (a CHECK (a LIKE '%@%' AND length(a) < 9 AND a GLOB '*'), b COLLATE NOCASE)"]);
    accepted("t", &["CREATE TABLE t (a, b AS (lower(a) || '-' || a) STORED, c AS (json_extract(a, '$.x')))"]);
}

#[test]
fn honest_defaults_are_accepted() {
    let uuid = "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || \
                substr('89ab', abs(random()) % 4 + 1, 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))";
    let defaults = [
        "0",
        "-1.5e3",
        "NULL",
        "'it''s'",
        "x'00ff'",
        "TRUE",
        "\"legacy\"",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "(1 + 2)",
        "(datetime('now'))",
        "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        "(unixepoch())",
        "(julianday('now'))",
        "('[]')",
        "(json_array())",
        "(lower(hex(randomblob(16))))",
    ];
    for default in defaults.into_iter().chain([format!("({uuid})").as_str()]) {
        accepted("t", &[&format!("CREATE TABLE t (a DEFAULT {default})")]);
    }
}

#[test]
fn honest_indexes_are_accepted() {
    let indexes = [
        "CREATE INDEX i ON t (a)",
        "CREATE UNIQUE INDEX j ON t (lower(a), b DESC) WHERE b IS NOT NULL AND a > 'x'",
        "CREATE INDEX \"t b\" ON \"t\" (b COLLATE RTRIM);",
    ];
    accepted("t", &["CREATE TABLE t (a UNIQUE, b)", indexes[0], indexes[1], indexes[2]]);
}

#[test]
fn every_table_of_chinook_is_accepted() {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    db.execute_batch(include_str!("../../tests/data/chinook.sql")).unwrap();
    let sql = "SELECT name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type = 'index'";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let schema: Vec<(String, String, String)> = rows.map(Result::unwrap).collect();
    let tables: Vec<&String> = schema.iter().filter(|(name, table, _)| name == table).map(|(name, ..)| name).collect();
    assert_eq!(tables.len(), 11);
    for table in tables {
        let statements: Vec<&str> = schema.iter().filter(|(_, of, _)| of == table).map(|(.., sql)| &**sql).collect();
        accepted(table, &statements);
    }
}

#[test]
fn a_second_statement_is_refused() {
    for sql in [
        "CREATE TABLE t (a); DROP TABLE users",
        "CREATE TABLE t (a);CREATE TABLE u (a)",
        "CREATE TABLE t (a); /* ; */ x",
        "CREATE TABLE t (a DEFAULT ';'); -- \n;; SELECT 1",
        &"CREATE TABLE t (a);".repeat(10_000),
    ] {
        assert!(matches!(refused("t", &[sql]), Refusal::Text { flaw: tokens::Flaw::SecondStatement, .. }));
    }
    for sql in ["CREATE TABLE t (a)\0; DROP TABLE users", "\0", "CREATE TABLE t (a DEFAULT '\0')"] {
        assert!(matches!(refused("t", &[sql]), Refusal::Text { flaw: tokens::Flaw::Nul, .. }));
    }
}

#[test]
fn what_is_no_create_table_is_refused() {
    for sql in [
        "",
        "-- nothing",
        "CREATE TRIGGER t AFTER INSERT ON u BEGIN DELETE FROM u; END",
        "ATTACH 'evil.db' AS t",
        "CREATE VIEW t AS SELECT 1",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE TEMPORARY TABLE t (a)",
        "CREATE INDEX t ON u (a)",
        "PRAGMA writable_schema = ON",
        "EXPLAIN CREATE TABLE t (a)",
        "INSERT INTO sqlite_master VALUES ('table', 't', 't', 0, '')",
        "VACUUM INTO 'evil.db'",
        "SELECT load_extension('evil')",
        "BEGIN",
        "\"create\" TABLE t (a)",
    ] {
        assert!(matches!(refused("t", &[sql]), Refusal::Text { flaw: tokens::Flaw::NotCreateTable, .. }), "{sql}");
    }
    assert!(matches!(refused("t", &[]), Refusal::NoStatement));
}

#[test]
fn another_table_than_the_one_it_names_is_refused() {
    for sql in [
        "CREATE TABLE u (a)",
        "CREATE TABLE T (a)",
        "CREATE TABLE \"t\"\"\" (a)",
        "CREATE TABLE \"t \" (a)",
        "CREATE TABLE [t;] (a)",
        "CREATE TABLE 'u' (a)",
        "CREATE TABLE t.u (a)",
        "CREATE TABLE temp.t (a)",
        "CREATE TABLE IF NOT EXISTS sqlite_schema (a)",
        "CREATE TABLE IF NOT EXISTS u (a)",
        "CREATE TABLE t",
        "CREATE TABLE t ()",
        "CREATE TABLE t (a",
        "CREATE TABLE /* t (a)",
    ] {
        refused("t", &[sql]);
    }
}

#[test]
fn reserved_names_are_refused() {
    for name in ["sqlite_x", "SQLITE_sequence", "ZV_CHANGE", "zv_x"] {
        assert!(matches!(refused(name, &[&format!("CREATE TABLE {name} (a)")]), Refusal::ReservedName));
        refused("t", &[&format!("CREATE TABLE {name} (a)")]);
        refused_index(&format!("CREATE INDEX {name} ON t (a)"));
    }
    assert!(matches!(refused_part("Zv_Deleted"), Refusal::ReservedColumn));
}

#[test]
fn a_table_from_a_query_is_refused() {
    for query in
        ["SELECT load_extension('evil')", "SELECT 1 AS a", "VALUES (1)", "WITH x AS (SELECT 1) SELECT * FROM x"]
    {
        refused("t", &[&format!("CREATE TABLE t AS {query}")]);
    }
    refused_part("CHECK (a IN (SELECT name FROM sqlite_schema))");
    refused_part("b AS ((SELECT 1))");
    refused_part("b DEFAULT (SELECT 1)");
}

#[test]
fn functions_off_the_list_are_refused_wherever_they_stand() {
    let functions = [
        "load_extension('evil')",
        "readfile('/etc/passwd')",
        "writefile('x', 'y')",
        "zeroblob(1000000000)",
        "printf('%1000000000d', 1)",
        "format('%.*c', 1000000000, 'x')",
        "replace('aaaa', 'a', 'aaaaaaaa')",
        "quote(x'00')",
        "fts3_tokenizer('simple')",
        "fts5(1)",
        "sqlite_version()",
        "sqlite_compileoption_get(1)",
        "last_insert_rowid()",
        "changes()",
        "edit('x')",
        "soundex('x')",
        "json_group_array(1)",
        "json_each('[1]')",
        "sum(1)",
        "nosuch(1)",
        "regexp('x', 'y')",
        "randomblob(1000000000)",
        "hex(hex('x'))",
        "eval('DROP TABLE u')",
    ];
    for function in functions {
        refused_part(&format!("b DEFAULT ({function})"));
        refused_part(&format!("CHECK ({function})"));
        refused_part(&format!("b AS ({function})"));
        refused_part(&format!("b AS (coalesce(a, {function})) STORED"));
        refused_index(&format!("CREATE INDEX i ON t ({function})"));
        refused_index(&format!("CREATE INDEX i ON t (a) WHERE {function}"));
    }
    let Refusal::Statement { number: 1, source } = refused_part("b DEFAULT (zeroblob(9))") else { panic!() };
    assert_eq!(source.to_string(), "it wants to call \"zeroblob\", which no definition may");
    refused_part("b COLLATE nosuch");
    refused_part("CHECK (a = 'x' COLLATE nosuch)");
    refused_part("CHECK (a MATCH 'x')");
    refused_part("CHECK (a REGEXP 'x')");
    refused_index("CREATE INDEX i ON t (a COLLATE nosuch)");
}

#[test]
fn random_bytes_are_few_whatever_the_spelling() {
    for call in [
        "randomblob(1025)",
        "randomblob(99999999999)",
        "RANDOMBLOB(1e9)",
        "\"randomblob\"(1e9)",
        "[RandomBlob](1e9)",
        "`randomblob`(1e9)",
        "randomblob /* (1) */ (1e9)",
        "randomblob\u{FEFF}(1e9)",
        "randomblob \u{FEFF}(1e9)",
        "randomblob -- \n (1e9)",
        "randomblob(0x7fffffff)",
        "randomblob(1_000_000)",
        "randomblob(9 * 99999999)",
        "randomblob(unixepoch() / 9)",
        "randomblob((16))",
        "randomblob(16 || 000000000)",
        "randomblob(16.0)",
        "randomblob()",
    ] {
        refused_part(&format!("b DEFAULT ({call})"));
    }
    accepted("t", &["CREATE TABLE t (a DEFAULT (\"RandomBlob\" ( /* x */ 16 )))"]);
}

#[test]
fn an_error_obeys_no_stranger() {
    let evil = "\x1B]0;\n".repeat(1000);
    refused(&evil, &["CREATE TABLE t (a)"]);
    refused("t", &[&format!("CREATE TABLE \"{evil}\" (a)")]);
    refused_part(&format!("CHECK (\"{evil}\"(a))"));
    refused_part(&format!("b DEFAULT (\"{evil}\"(1))"));
    refused_index(&format!("CREATE INDEX i ON \"{evil}\" (a)"));
}

#[test]
fn growth_does_not_stack() {
    for call in
        ["hex(lower(hex('x')))", "\"hex\"((hex('x')))", "json_array(json_array('\"') || '')", "HEX (/**/ [hex] ('x'))"]
    {
        assert!(matches!(
            refused_part(&format!("b DEFAULT ({call})")),
            Refusal::Text { flaw: tokens::Flaw::Growth, .. }
        ));
    }
}

#[test]
fn what_is_made_of_a_rows_values_is_bounded() {
    let columns = |count: u32, of: fn(u32) -> String| (1..=count).map(move |n| format!("c{n} AS ({})", of(n)));
    let table = |columns: Vec<String>| format!("CREATE TABLE t (id TEXT PRIMARY KEY, c0 TEXT, {})", columns.join(", "));
    let doubling = |n: u32| format!("c{0} || c{0}", n - 1);
    accepted("t", &[&table(columns(4, doubling).collect())]);
    let bombs = [
        table(columns(12, doubling).collect()),
        table(columns(12, doubling).collect::<Vec<_>>().into_iter().rev().collect()),
        table(columns(12, |n| format!("concat(C{0}, [c{0}])", n - 1)).collect()),
        table(columns(6, |n| format!("hex(c{})", n - 1)).collect()),
        table(columns(40, |n| format!("c{} || 'x'", n - 1)).collect()),
        table(columns(600, |_| "c0 || c0".to_owned()).collect()),
        table(vec![format!(
            "CHECK (length(concat({})) > 0)",
            vec!["concat(c0, c0, c0, c0, c0, c0, c0, c0, c0, c0, c0, c0)"; 90].join(" || ")
        )]),
    ];
    for bomb in &bombs {
        assert!(matches!(refused("t", &[bomb]), Refusal::Growth));
    }
    // Honest ones name much, and make little of it.
    accepted("t", &[&table(columns(200, |n| format!("json_extract(c0, '$.f{n}')) CHECK (c{n} <> ''")).collect())]);
    accepted("t", &[&table(columns(20, |n| format!("lower(c{}) || '-' || id", n - 1)).collect())]);
    accepted("t", &["CREATE TABLE t (a, b AS (hex(a)) STORED UNIQUE, c AS (json_object('a', a, 'b', b)))"]);
    accepted(
        "t",
        &["CREATE TABLE t (a, \"check\" AS (a || ';'), CHECK (\"check\" <> ''))", "CREATE INDEX i ON t (hex(a))"],
    );
}

#[test]
fn what_is_no_index_on_the_table_is_refused() {
    for sql in [
        "CREATE INDEX i ON u (a)",
        "CREATE INDEX i ON sqlite_schema (name)",
        "CREATE INDEX temp.i ON t (a)",
        "CREATE INDEX i ON t (a); DROP TABLE users",
        "CREATE INDEX IF NOT EXISTS sqlite_autoindex_t_1 ON t (a)",
        "CREATE UNIQUE TABLE u (a)",
        "CREATE TABLE u (a)",
        "CREATE TRIGGER i AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIEW i AS SELECT * FROM t",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t RENAME TO u",
        "DROP TABLE t",
        "REINDEX",
        "CREATE INDEX i ON t (random())",
        "CREATE INDEX i ON t (nosuch)",
        "CREATE INDEX i ON t ((SELECT 1))",
        "",
    ] {
        refused_index(sql);
    }
    let twice = "CREATE INDEX IF NOT EXISTS i ON t (a)";
    assert!(matches!(refused("t", &["CREATE TABLE t (a)", twice, twice]), Refusal::OtherObject { number: 3 }));
    let many = vec!["CREATE TABLE t (a)"; MAX_STATEMENTS + 1];
    assert!(matches!(refused("t", &many), Refusal::TooManyStatements));
}

#[test]
fn huge_definitions_are_refused() {
    let columns = |n: usize| (0..n).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
    accepted("t", &[&format!("CREATE TABLE t ({})", columns(2000))]);
    refused("t", &[&format!("CREATE TABLE t ({})", columns(2001))]);
    refused("t", &[&format!("CREATE TABLE t ({})", columns(50_000))]);
    refused_part(&format!("b DEFAULT '{}'", "x".repeat(256 << 10)));
    for deep in [
        format!("{}1{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("{}1", "- ".repeat(50_000)),
        format!("{}1", "NOT ".repeat(50_000)),
        format!("1{}", " + 1".repeat(50_000)),
        format!("{}1{}", "abs(".repeat(50_000), ")".repeat(50_000)),
        format!("max({})", vec!["1"; 50_000].join(", ")),
    ] {
        refused_part(&format!("b DEFAULT ({deep})"));
        refused_part(&format!("CHECK ({deep})"));
    }
}

#[test]
fn a_key_is_made_of_its_columns() {
    let keyed =
        |key: &str| TableDefinition { key: vec![key.into()], ..definition("t", &["CREATE TABLE t (a, b AS (a))"]) };
    assert!(judge(&keyed("A")).is_ok());
    assert!(matches!(judge(&keyed("c")), Err(Refusal::NoKeyColumn { .. })));
}

#[test]
fn the_second_wall_stands_alone() {
    for sql in [
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "ATTACH ':memory:' AS x",
        "CREATE TABLE u (a)",
        "CREATE TABLE ZV_u (a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE VIEW u AS SELECT 1",
        "CREATE VIRTUAL TABLE u USING fts5(a)",
        "PRAGMA user_version = 7",
        "PRAGMA writable_schema = ON",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN b",
        "ANALYZE",
        "BEGIN",
        "SAVEPOINT x",
        "SELECT * FROM t",
        "UPDATE sqlite_master SET sql = 'x'",
        "INSERT INTO t VALUES (zeroblob(9))",
        "DETACH main",
    ] {
        let mut scratch = Scratch::open("t").unwrap();
        scratch.run(1, "CREATE TABLE t (a)").unwrap();
        assert!(scratch.run(2, sql).is_err(), "{sql}");
    }
}
