//! Columns that stay on a replica hold no row.

use super::*;

/// Two replicas on which columns of the table `c` stay.
async fn with_columns_of_their_own(schema: &str, own: &str) -> (Replica, Replica, zvon::Remote) {
    let make = async || {
        let replica = Replica::in_memory().unwrap();
        run(&replica, schema);
        let mut options = TrackOptions::default();
        options.enforce_fk = Some(true);
        replica.track(&["p"], &options).await.unwrap();
        options.exclude = own.split(' ').map(str::to_owned).collect();
        replica.track(&["c"], &options).await.unwrap();
        replica
    };
    (make().await, make().await, fresh_remote())
}

#[tokio::test]
async fn a_reference_in_a_column_that_stays_on_a_replica_holds_no_row() {
    for (p, of, p1) in [("k TEXT PRIMARY KEY, v", "TEXT", "'p1'"), ("k INTEGER PRIMARY KEY, v", "INTEGER", "1")] {
        let schema = format!(
            "CREATE TABLE p ({p}); CREATE TABLE c (k TEXT PRIMARY KEY, v, loc {of} REFERENCES p ON DELETE SET NULL)"
        );
        let (a, b, remote) = with_columns_of_their_own(&schema, "loc").await;
        run(&a, &format!("INSERT INTO p VALUES ({p1}, 'old'); INSERT INTO c (k, v) VALUES ('c1', 1)"));
        converge(&[&a, &b], &remote).await;
        run(&b, &format!("UPDATE c SET loc = {p1}"));
        run(&a, "DELETE FROM p");
        converge(&[&a, &b], &remote).await;
        run(&a, "UPDATE c SET v = 2");
        converge(&[&a, &b], &remote).await;
        assert_eq!(table(&b, "c"), [format!("'c1'|2|{p1}")]);
        assert_eq!(held(&b).await, [] as [&str; 0]);
        // What it names is no other row's.
        if of == "INTEGER" {
            run(&a, "INSERT INTO p VALUES (1, 'new')");
            converge(&[&a, &b], &remote).await;
            assert_eq!(rows(&b.connection(), "SELECT k = 1, v FROM p"), ["0|'new'"]);
        }
        for replica in [&a, &b] {
            assert_verified(replica, &remote).await;
        }
    }
}

#[tokio::test]
async fn a_check_on_a_column_that_stays_on_a_replica_holds_no_row() {
    let schema = "CREATE TABLE p (k TEXT PRIMARY KEY);
        CREATE TABLE c (k TEXT PRIMARY KEY, v, loc TEXT, CHECK (loc IS NULL OR v IS NOT NULL))";
    let (a, b, remote) = with_columns_of_their_own(schema, "loc").await;
    run(&a, "INSERT INTO c (k, v) VALUES ('c1', 1)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE c SET loc = 'here'");
    run(&a, "UPDATE c SET v = NULL");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "c"), ["'c1'|NULL|NULL"]);
    for replica in [&a, &b] {
        assert_eq!(held(replica).await, [] as [&str; 0]);
        assert_verified(replica, &remote).await;
    }
    // What breaks a rule by itself is held there as well.
    run(&b, "UPDATE c SET v = 2, loc = 'here'");
    sync(&b, &remote).await;
    run(&a, "UPDATE c SET v = 3");
    converge(&[&a, &b], &remote).await;
    assert_eq!((table(&a, "c"), table(&b, "c")), (vec!["'c1'|3|NULL".into()], vec!["'c1'|3|'here'".into()]));
    assert_verified(&b, &remote).await;
}

/// By reading: such a value was gone once its row was taken out again, and with it those of columns that break no rule.
#[tokio::test]
async fn what_a_check_keeps_out_of_a_column_that_stays_on_a_replica_comes_back() {
    let schema = "CREATE TABLE p (k TEXT PRIMARY KEY);
        CREATE TABLE c (k TEXT PRIMARY KEY, v, u UNIQUE, loc TEXT, note TEXT DEFAULT 'none', CHECK (loc IS NULL OR v IS NOT NULL))";
    let (a, b, remote) = with_columns_of_their_own(schema, "loc note").await;
    run(&a, "INSERT INTO c (k, v, u) VALUES ('c1', 1, 1), ('c2', 1, 2), ('c3', 1, 3)");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE c SET loc = 'in ' || k, note = 'of ' || k");
    run(&a, "UPDATE c SET v = NULL");
    converge(&[&a, &b], &remote).await;
    assert_eq!(
        table(&b, "c"),
        ["'c1'|NULL|1|NULL|'of c1'", "'c2'|NULL|2|NULL|'of c2'", "'c3'|NULL|3|NULL|'of c3'"],
        "no rule keeps the note out"
    );
    // Two change places, and are taken out for that; of what its user wrote since in the third, that counts.
    run(&a, "UPDATE c SET u = 9 WHERE k = 'c1'; UPDATE c SET u = 1 WHERE k = 'c2'; UPDATE c SET u = 2 WHERE k = 'c1'");
    converge(&[&a, &b], &remote).await;
    run(&b, "UPDATE c SET v = 4, loc = 'new' WHERE k = 'c3'");
    run(&a, "UPDATE c SET v = 5 WHERE k <> 'c3'");
    converge(&[&a, &b], &remote).await;
    run(&a, "UPDATE c SET v = 6");
    converge(&[&a, &b], &remote).await;
    assert_eq!(table(&b, "c"), ["'c1'|6|2|'in c1'|'of c1'", "'c2'|6|1|'in c2'|'of c2'", "'c3'|6|3|'new'|'of c3'"]);
    assert_eq!(rows(&b.connection(), "SELECT count(*) FROM ZV_ASIDE"), ["0"]);
    for replica in [&a, &b] {
        assert_verified(replica, &remote).await;
    }
}
