//! A replica of a random schema: made, filled, tracked; and mended where its writers broke what only they can mend.

use rusqlite::Connection;
use zvon::{Replica, TrackOptions};

use super::schema::{Identity, Schema, name};
use super::writes::Write;

/// Makes the tables, fills them, tracks them; a loose replica's tables refuse nothing.
pub async fn set_up(replica: &Replica, schema: &Schema, seed: &[Write], loose: bool) {
    {
        let conn = replica.connection();
        conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        conn.execute_batch(&schema.sql(loose)).unwrap();
        seed.iter().for_each(|write| write.run(&conn, schema));
        for (no, table) in schema.tables.iter().enumerate().filter(|(_, table)| !table.identity.is_one_column()) {
            // What `track` refuses.
            let [a, b] = [0, 1].map(|at| table.identity.key()[at]);
            conn.execute_batch(&format!("DELETE FROM t{no} WHERE {a} IS NULL OR {b} IS NULL")).unwrap();
        }
        conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = OFF").unwrap();
    }
    for (no, table) in schema.tables.iter().enumerate() {
        let mut options = TrackOptions::default();
        options.enforce_fk = Some(table.enforce);
        if table.identity == Identity::Uuid {
            options.key = vec!["u".into()];
        }
        replica.track(&[&name(no)], &options).await.unwrap();
    }
}

/// Removes references to rows that never were: they are left out of the log, and of the model. What refers to a row that goes with
/// them goes, too.
pub fn mend_references(conn: &Connection, schema: &Schema) {
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    let mut removed = 1;
    while removed > 0 {
        removed = 0;
        for (no, table) in schema.tables.iter().enumerate() {
            for column in table.identity.key().iter().map(|&key| key.to_owned()).chain(table.named().map(|(c, _)| c)) {
                let Some(parent) = schema.target(no, &column) else { continue };
                let lost = format!("{column} IS NOT NULL AND {column} NOT IN (SELECT k FROM t{parent})");
                conn.execute_batch(&format!("UPDATE OR IGNORE t{no} SET {column} = NULL WHERE {lost}")).ok();
                removed += conn.execute(&format!("DELETE FROM t{no} WHERE {lost}"), []).unwrap();
            }
        }
    }
}
