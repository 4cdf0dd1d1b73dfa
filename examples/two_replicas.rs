//! Two replicas, a shared folder, edits on both sides at once, and what comes of them.
//!
//! Run it with `cargo run --example two_replicas`. Everything happens in a temporary folder that is gone afterwards.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use zvon::{Remote, RemoteOptions, Replica, SyncOptions, TrackOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    print!("{}", story(dir.path()).await?);
    Ok(())
}

/// What happens, told line by line.
pub async fn story(dir: &Path) -> Result<String, Box<dyn Error>> {
    let mut told = String::new();
    // Any folder that both machines see will do: a network drive, Syncthing, Dropbox. Or a bucket: see `shared_bucket`.
    let shared = dir.join("shared");
    let remote = Remote::from_url(&shared.to_string_lossy(), &RemoteOptions::default())?;

    let laptop = open(&dir.join("laptop.db")).await?;
    let phone = open(&dir.join("phone.db")).await?;
    let options = SyncOptions::default();

    write(&laptop, "INSERT INTO note VALUES ('n1', 'groceries', 'bread'), ('n2', 'books', 'Dubliners')")?;
    laptop.sync(&remote, &options).await?;
    phone.sync(&remote, &options).await?;

    // Both are offline now. They edit the same row, and one of them deletes what the other does not touch.
    write(&laptop, "UPDATE note SET body = 'bread, milk' WHERE id = 'n1'")?;
    write(&phone, "UPDATE note SET title = 'Groceries' WHERE id = 'n1'; DELETE FROM note WHERE id = 'n2'")?;

    // In whatever order they sync, both end with the same rows: columns are merged one by one.
    for replica in [&phone, &laptop, &phone] {
        let report = replica.sync(&remote, &options).await?;
        writeln!(told, "pulled {}, merged {}, pushed {}", report.pulled, report.merged, report.pushed)?;
    }
    for (name, replica) in [("laptop", &laptop), ("phone", &phone)] {
        let problems = replica.verify_remote(&remote).await?.problems;
        writeln!(told, "{name}: {}, {} problems", notes(replica)?.join("; "), problems.len())?;
    }
    Ok(told)
}

/// A new database with one table, tracked.
async fn open(path: &Path) -> Result<Replica, Box<dyn Error>> {
    let replica = Replica::init(path)?;
    write(&replica, "CREATE TABLE note (id TEXT PRIMARY KEY, title TEXT, body TEXT)")?;
    replica.track(&["note"], &TrackOptions::default()).await?;
    Ok(replica)
}

/// The connection is lent to do whatever SQLite does. Any other program could write to the file just as well.
fn write(replica: &Replica, sql: &str) -> Result<(), Box<dyn Error>> {
    Ok(replica.connection().execute_batch(sql)?)
}

fn notes(replica: &Replica) -> Result<Vec<String>, Box<dyn Error>> {
    let conn = replica.connection();
    let mut statement = conn.prepare("SELECT id || ' ' || title || ': ' || body FROM note ORDER BY id")?;
    let notes = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(notes)
}
