//! A notebook that everyone with the same bucket shares: adds a line, syncs, and prints all lines.
//!
//! ```sh
//! export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… AWS_REGION=eu-central-1
//! cargo run --example shared_bucket -- s3://my-bucket/notebook notebook.db "a line"
//! ```
//!
//! For a server other than Amazon's, set `AWS_ENDPOINT_URL` too, or write it into the URL:
//! `s3://localhost:9000/my-bucket/notebook`. Without arguments it explains itself.

use std::error::Error;
use std::process::ExitCode;

use zvon::{Remote, RemoteOptions, Replica, SyncOptions, TrackOptions};

const HELP: &str = "\
usage: shared_bucket URL DATABASE [LINE]

Adds LINE to a notebook that is shared through a bucket, and prints the notebook.

URL       s3://bucket/path, or s3://host:port/bucket/path for a server of your own
DATABASE  the file of this replica; it is made if it is missing

The keys are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the rest from
AWS_REGION, AWS_SESSION_TOKEN and AWS_ENDPOINT_URL.";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, path, line) = match &arguments[..] {
        [url, path] => (url, path, None),
        [url, path, line] => (url, path, Some(line.as_str())),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    // The library reads no environment of its own: whoever calls hands it in. Only the settings of AWS are taken from it.
    let variables =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    match share(url, &RemoteOptions::from_vars(variables), path, line).await {
        Ok(notebook) => {
            notebook.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Adds a line to the notebook at a URL, and returns all lines that anybody wrote, oldest first.
pub async fn share(
    url: &str,
    options: &RemoteOptions,
    path: &str,
    line: Option<&str>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let remote = Remote::from_url(url, options)?;
    let replica = Replica::init(path)?;
    // A key that no two machines make at once, and a default that puts the lines in order.
    replica.connection().execute_batch(
        "CREATE TABLE IF NOT EXISTS line (
             id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
             written TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
             text TEXT NOT NULL)",
    )?;
    replica.track(&["line"], &TrackOptions::default()).await?;

    // First what others wrote: a replica without rows of its own may join any notebook.
    replica.sync(&remote, &SyncOptions::default()).await?;
    if let Some(line) = line {
        replica.connection().execute("INSERT INTO line (text) VALUES (?1)", [line])?;
        replica.sync(&remote, &SyncOptions::default()).await?;
    }
    let conn = replica.connection();
    let mut statement = conn.prepare("SELECT written || '  ' || text FROM line ORDER BY written, id")?;
    let lines = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines)
}
