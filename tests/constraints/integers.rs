//! CHECKs and indexes that speak of local integers, of which a row that is not shown has none.

use super::common::integers::comes_to_an_end;
use super::*;

/// Three replicas with a table `row` that is known by `u`, and another one that refers to its local integers.
async fn three(other: &str, enforce_fk: Option<bool>) -> (Wall, [Replica; 3]) {
    let wall = Wall::at(START_MS);
    let make = async |seed| {
        let replica = on_the_wall(Replica::in_memory().unwrap(), &wall, seed);
        run(&replica, "CREATE TABLE row (id INTEGER PRIMARY KEY, u TEXT NOT NULL UNIQUE)");
        run(&replica, other);
        let mut options = TrackOptions::default();
        options.enforce_fk = enforce_fk;
        replica.track(&["other"], &options).await.unwrap();
        options.key = vec!["u".to_owned()];
        replica.track(&["row"], &options).await.unwrap();
        replica
    };
    (wall.clone(), [make(1).await, make(2).await, make(3).await])
}

/// The reasons of all rows that are held.
async fn reasons(replica: &Replica) -> Vec<String> {
    replica.held().await.unwrap().rows.into_iter().map(|held| format!("{} {}", held.table, held.reason)).collect()
}

/// What a CHECK says of local integers is asked with those that the rows have.
#[tokio::test]
async fn a_row_that_must_not_refer_to_itself_may_refer_to_the_first() {
    let other =
        "CREATE TABLE other (id INTEGER PRIMARY KEY, of INTEGER REFERENCES other, name TEXT UNIQUE, CHECK (of <> id))";
    for enforce_fk in [None, Some(false)] {
        let ((wall, [a, b, _]), remote) = (three(other, enforce_fk).await, fresh_remote());
        run(&a, "INSERT INTO other VALUES (1, NULL, 'root')");
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            wall.advance(1);
            run(replica, "INSERT INTO other (of, name) VALUES (1, 'same')");
        }
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(rows(&replica.connection(), "SELECT of, name FROM other"), ["NULL|'root'", "1|'same'"]);
            assert_eq!(reasons(replica).await, ["other unique"]);
            assert_verified(replica, &remote).await;
        }
    }
}

#[tokio::test]
async fn references_that_must_differ_wait_for_their_rows() {
    for other in [
        "CREATE TABLE other (a INTEGER REFERENCES row, b INTEGER REFERENCES row, PRIMARY KEY (a, b), CHECK (a <> b))",
        "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, b INTEGER REFERENCES row, CHECK (a <> b))",
    ] {
        for enforce_fk in [None, Some(false)] {
            let ((wall, [a, b, _]), remote) = (three(other, enforce_fk).await, fresh_remote());
            run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
            converge(&[&a, &b], &remote).await;
            wall.advance(1);
            run(&a, "DELETE FROM row");
            wall.advance(1);
            run(&b, "INSERT INTO other (a, b) VALUES (1, 2)");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                let shown = rows(&replica.connection(), "SELECT a, b FROM other");
                match shown.first() {
                    None => assert_eq!(reasons(replica).await, ["other foreign key"]),
                    Some(row) => assert_eq!(row, "NULL|NULL"),
                }
                assert_verified(replica, &remote).await;
            }
            wall.advance(1);
            run(&a, "INSERT INTO row (u) VALUES ('y'), ('x')");
            converge(&[&a, &b], &remote).await;
            for replica in [&a, &b] {
                let sql = "SELECT a.u, b.u FROM other JOIN row AS a ON a.id = a JOIN row AS b ON b.id = b";
                assert_eq!(rows(&replica.connection(), sql), ["'x'|'y'"], "{other} {enforce_fk:?}");
                assert_verified(replica, &remote).await;
            }
        }
    }
}

/// As a row that must have a reference, by its CHECK instead of NOT NULL: without it, it is held, and keeps what it claims.
#[tokio::test]
async fn a_check_that_asks_for_a_reference_waits_for_its_row() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, b INTEGER REFERENCES row,
                 name TEXT UNIQUE, CHECK ((a IS NULL) <> (b IS NULL)))";
    let ((wall, [a, b, _]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "DELETE FROM row WHERE u = 'x'");
    wall.advance(1);
    run(&b, "INSERT INTO other (a, name) VALUES (1, 'same')");
    wall.advance(1);
    run(&a, "INSERT INTO other (b, name) VALUES (2, 'same')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(rows(&replica.connection(), "SELECT a, b, name FROM other"), [] as [&str; 0]);
        assert_eq!(reasons(replica).await, ["other foreign key", "other unique"]);
        assert_verified(replica, &remote).await;
    }
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('x')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        let sql = "SELECT u, b, name FROM other LEFT JOIN row ON row.id = a";
        assert_eq!(rows(&replica.connection(), sql), ["'x'|NULL|'same'"]);
        assert_eq!(reasons(replica).await, ["other unique"]);
        assert_verified(replica, &remote).await;
    }
}

/// What a merge of two writes made break a CHECK is held for that, whether its reference leads anywhere or not.
#[tokio::test]
async fn a_reference_to_no_row_does_not_hide_that_a_check_is_broken() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, b INTEGER REFERENCES row, CHECK (a IS NULL OR b IS NULL))";
    let ((wall, [a, b, c]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y'); INSERT INTO other VALUES (1, NULL, NULL)");
    converge(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&c, "UPDATE other SET a = 1");
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u = 'x'");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "UPDATE other SET b = 2");
    sync(&a, &remote).await;
    // One has the row and its parent's end at once, the others one after the other.
    converge(&[&c, &a, &b], &remote).await;
    for replica in [&a, &b, &c] {
        assert_eq!(reasons(replica).await, ["other check"]);
        assert_verified(replica, &remote).await;
    }
    wall.advance(1);
    run(&b, "INSERT INTO row (u) VALUES ('x')");
    converge(&[&b, &a, &c], &remote).await;
    for replica in [&a, &b, &c] {
        assert_eq!(reasons(replica).await, ["other check"]);
        assert_verified(replica, &remote).await;
    }
}

/// Found by fuzzing: what an expression makes of the integer of a row that is not here, nobody knows.
#[tokio::test]
async fn an_index_on_what_is_made_of_a_missing_reference_keeps_nobody_out() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES row, twice AS (a * 2));
                 CREATE UNIQUE INDEX by_text ON other (CAST(a AS TEXT));
                 CREATE UNIQUE INDEX by_twice ON other (twice)";
    let ((wall, [a, b, _]), remote) = (three(other, None).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "DELETE FROM row WHERE u = 'y'");
    wall.advance(1);
    run(&b, "INSERT INTO other (a) VALUES (2)");
    converge(&[&a, &b], &remote).await;
    for u in ["z", "x"] {
        wall.advance(1);
        run(
            &a,
            &format!(
                "INSERT OR IGNORE INTO row (u) VALUES ('{u}'); INSERT INTO other (a) SELECT id FROM row WHERE u = '{u}'"
            ),
        );
        converge(&[&a, &b], &remote).await;
        for replica in [&a, &b] {
            assert_eq!(reasons(replica).await, ["other foreign key"], "{u}");
            assert_verified(replica, &remote).await;
        }
    }
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('y')");
    converge(&[&a, &b], &remote).await;
    for replica in [&a, &b] {
        let sql = "SELECT u FROM other JOIN row ON row.id = a ORDER BY u";
        assert_eq!(rows(&replica.connection(), sql), ["'x'", "'y'", "'z'"]);
        assert_eq!(reasons(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
}

/// Found by fuzzing: a row that refers to itself has the value of another one by its integer, which it gives up as it is held.
#[tokio::test]
async fn verify_cannot_say_what_a_row_claimed_by_an_integer_that_it_gave_up() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES other);
                 CREATE UNIQUE INDEX by_a ON other (coalesce(a, 0))";
    let ((wall, [a, b, _]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO other VALUES (6, NULL)");
    wall.advance(1);
    converge(&[&a, &b], &remote).await;
    run(&b, "DELETE FROM other; INSERT INTO other VALUES (0, 0)");
    wall.advance(1);
    run(&a, "UPDATE other SET a = NULL; UPDATE other SET id = 7");
    run(&a, "INSERT INTO other VALUES (8, 9)");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
    }
}

/// Found by fuzzing: what keeps such a row out cannot be said any more, and so it keeps nobody else out.
#[tokio::test]
async fn verify_knows_that_a_row_held_by_an_integer_that_it_gave_up_keeps_nobody_out() {
    let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES other, u TEXT UNIQUE);
                 CREATE UNIQUE INDEX by_a ON other (coalesce(a, 0))";
    let ((wall, [a, b, _]), remote) = (three(other, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO other VALUES (6, NULL, 'first')");
    wall.advance(1);
    converge(&[&a, &b], &remote).await;
    run(&b, "DELETE FROM other; INSERT INTO other VALUES (0, 0, 'same')");
    wall.advance(1);
    run(&a, "UPDATE other SET a = NULL; UPDATE other SET id = 7; INSERT INTO other VALUES (8, 8, 'same')");
    converge(&[&b, &a], &remote).await;
    for replica in [&a, &b] {
        assert_eq!(table(replica, "other"), ["7|NULL|'first'", "8|8|'same'"]);
        assert_eq!(reasons(replica).await, ["other unique"]);
        assert_eq!(replica.verify().await.unwrap().problems, [] as [&str; 0]);
    }
}

/// A child of two rows, of whose reference to one a unique index makes an expression.
const TWO_PARENTS: &str =
    "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES row, b INTEGER REFERENCES row);
    CREATE UNIQUE INDEX by_text ON other (CAST(b AS TEXT))";

const CHILD_OF_Z_AND_Y: &str =
    "INSERT INTO other (a, b) SELECT z.id, y.id FROM row AS z, row AS y WHERE z.u = 'z' AND y.u = 'y'";

/// Of two children with one value the older one lacks a parent; the younger one is not shown in its place.
async fn the_older_keeps_the_younger_out(replicas: &[&Replica], remote: &Remote) {
    for replica in replicas {
        assert_eq!(table(replica, "other"), [] as [&str; 0]);
        assert_eq!(reasons(replica).await, ["other foreign key", "other unique"]);
        assert_verified(replica, remote).await;
    }
}

/// Found by fuzzing: what a held row claims by the integer of a row that is not here is known once that one is.
#[tokio::test]
async fn a_row_that_lacks_one_parent_claims_what_an_index_makes_of_another() {
    let ((wall, [a, b, c]), remote) = (three(TWO_PARENTS, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y'), (3, 'z')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u <> 'z'");
    wall.advance(1);
    run(&a, "INSERT INTO other (a, b) VALUES (1, 2)");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('y')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&b, CHILD_OF_Z_AND_Y);
    converge(&[&a, &b, &c], &remote).await;
    the_older_keeps_the_younger_out(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&a, "INSERT INTO row (u) VALUES ('x')");
    converge(&[&a, &b, &c], &remote).await;
    for replica in [&a, &b, &c] {
        let sql = "SELECT x.u, y.u FROM other JOIN row AS x ON x.id = a JOIN row AS y ON y.id = b";
        assert_eq!(rows(&replica.connection(), sql), ["'x'|'y'"]);
        assert_eq!(reasons(replica).await, ["other unique"]);
        assert_verified(replica, &remote).await;
    }
}

/// By reading: what a held row claims by the integer of another row is something else when that one comes back with another integer.
#[tokio::test]
async fn a_row_that_lacks_one_parent_claims_what_an_index_makes_of_the_integer_that_another_has_now() {
    let ((wall, [a, b, c]), remote) = (three(TWO_PARENTS, Some(false)).await, fresh_remote());
    run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y'), (3, 'z')");
    converge(&[&a, &b], &remote).await;
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u = 'x'");
    wall.advance(1);
    run(&a, "INSERT INTO other (a, b) VALUES (1, 2)");
    converge(&[&a, &b, &c], &remote).await;
    wall.advance(1);
    run(&b, "DELETE FROM row WHERE u = 'y'");
    converge(&[&b, &a, &c], &remote).await;
    wall.advance(1);
    run(&b, "INSERT INTO row VALUES (99, 'y')");
    converge(&[&b, &a, &c], &remote).await;
    wall.advance(1);
    run(&a, CHILD_OF_Z_AND_Y);
    converge(&[&a, &b, &c], &remote).await;
    the_older_keeps_the_younger_out(&[&a, &b, &c], &remote).await;
}

/// Found by fuzzing: one row keeps another one out by the integer of a third one, which is only here with the one that is kept out.
#[test]
fn rows_of_which_one_is_kept_out_by_an_integer_that_goes_with_it_come_to_rest() {
    comes_to_an_end(async || {
        let other = "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES row,
                         b INTEGER REFERENCES other, c INTEGER NOT NULL REFERENCES other);
                     CREATE UNIQUE INDEX by_text ON other (CAST(b AS TEXT))";
        let ((wall, [a, b, c]), remote) = (three(other, Some(false)).await, fresh_remote());
        run(&a, "INSERT INTO row VALUES (1, 'x'), (2, 'y')");
        for (id, word, of) in [(1, 2, 1), (2, 1, 2), (3, 2, 1)] {
            wall.advance(1);
            run(&a, &format!("INSERT INTO other VALUES ({id}, {word}, NULL, {of})"));
        }
        converge(&[&a, &b], &remote).await;
        wall.advance(1);
        run(&a, "UPDATE other SET b = 3 WHERE id = 2");
        wall.advance(1);
        run(&b, "DELETE FROM row WHERE u = 'x'; UPDATE other SET b = 3 WHERE id = 1");
        converge(&[&a, &b, &c], &remote).await;
        for replica in [&a, &b, &c] {
            assert_eq!(table(replica, "other"), [] as [&str; 0]);
            assert_eq!(reasons(replica).await, ["other unique", "other foreign key", "other foreign key"]);
            assert_verified(replica, &remote).await;
        }
    });
}

/// By reading: NULL in the place of a reference to a row that is not here would count in an index that asks for it, and who
/// came first would keep the other out.
#[tokio::test]
async fn a_reference_that_an_index_asks_for_is_not_replaced_by_null() {
    for index in
        ["(coalesce(a, 0), name)", "(a IS NULL, name)", "(root, name)", "(name) WHERE a IS NULL", "(name) WHERE root"]
    {
        let other = format!(
            "CREATE TABLE other (id INTEGER PRIMARY KEY, a INTEGER REFERENCES row, name TEXT, root AS (a IS NULL));
             CREATE UNIQUE INDEX by_name ON other {index}"
        );
        let ((wall, [a, b, c]), remote) = (three(&other, Some(false)).await, fresh_remote());
        run(&a, "INSERT INTO row VALUES (1, 'p')");
        converge(&[&a, &b, &c], &remote).await;
        wall.advance(1);
        run(&b, "DELETE FROM row");
        wall.advance(1);
        // One comes by a row under the one that is gone first, the other by one without; both have one name.
        run(&a, "INSERT INTO other (a, name) VALUES (1, 'x')");
        wall.advance(1);
        run(&c, "INSERT INTO other (name) VALUES ('x')");
        sync(&a, &remote).await;
        sync(&b, &remote).await;
        converge(&[&c, &b, &a], &remote).await;
        for replica in [&a, &b, &c] {
            assert_eq!(rows(&replica.connection(), "SELECT a, name FROM other"), ["NULL|'x'"], "{index}");
            assert_eq!(reasons(replica).await, ["other foreign key"], "{index}");
            assert_verified(replica, &remote).await;
        }
        wall.advance(1);
        run(&b, "INSERT INTO row (u) VALUES ('p')");
        converge(&[&b, &c, &a], &remote).await;
        for replica in [&a, &b, &c] {
            let sql = "SELECT u, name FROM other LEFT JOIN row ON row.id = a ORDER BY u";
            assert_eq!(rows(&replica.connection(), sql), ["NULL|'x'", "'p'|'x'"], "{index}");
            assert_eq!(reasons(replica).await, [] as [&str; 0], "{index}");
            assert_verified(replica, &remote).await;
        }
    }
}
