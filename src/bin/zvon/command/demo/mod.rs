//! `zvon demo`: the main job shown, on files that stay. Uses the library as any program would, and plain SQLite for the edits.

mod folder;
mod rows;
mod story;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use zvon::{Conflict, Remote, RemoteOptions, Replica, SyncOptions, SyncReport, TrackOptions, VerifyReport};

use self::rows::Rows;
use self::story::{EDITS, FIRST_ROWS, SCHEMA, Who};
use super::conflicts;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Answer, Output};
use crate::text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder for the demo's files: empty, or not there yet [default: a new one for temporary files].
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Serialize)]
struct Shown {
    folder: String,
    identical: bool,
    conflicts: Vec<Conflict>,
    verify_laptop: VerifyReport,
    verify_phone: VerifyReport,
    remote_files: Vec<String>,
}

pub async fn run(args: &Args, context: &Context) -> Result<Answer, Failure> {
    let demo = Demo { folder: folder::make(args.folder.as_deref())?, output: context.output };
    demo.output.tell(&story::opening(&demo.folder))?;
    let remote = demo.remote()?;
    let laptop = demo.start_laptop(&remote).await?;
    let phone = demo.clone_phone(&remote).await?;
    demo.edit_both().await?;
    demo.sync_both(&laptop, &phone, &remote).await?;
    let identical = demo.compare()?;
    let conflicts = demo.show_conflicts(&laptop, &phone).await?;
    let (verify_laptop, verify_phone) = demo.verify(&laptop, &phone, &remote).await?;
    let remote_files = demo.show_remote()?;
    let well = identical && verify_laptop.problem_count + verify_phone.problem_count == 0;
    let folder = demo.folder.display().to_string();
    let shown = Shown { folder, identical, conflicts, verify_laptop, verify_phone, remote_files };
    Ok(finish(&shown, story::closing(&demo.folder), well))
}

fn finish(shown: &Shown, closing: String, well: bool) -> Answer {
    let answer = Answer::new(shown, closing);
    if well {
        return answer;
    }
    let mut warnings: Vec<String> = Vec::new();
    warnings.extend((!shown.identical).then(|| "the two replicas differ, which must never happen".to_owned()));
    warnings.extend(shown.verify_laptop.problems.iter().chain(&shown.verify_phone.problems).cloned());
    answer.warn(warnings).exit(Exit::Failed)
}

struct Demo {
    folder: PathBuf,
    output: Output,
}

impl Demo {
    fn database(&self, who: Who) -> PathBuf {
        self.folder.join(who.file())
    }

    fn shared(&self) -> PathBuf {
        self.folder.join("shared")
    }

    fn remote(&self) -> Result<Remote, Failure> {
        let path = self.shared();
        let url = path.to_str().ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))?;
        Ok(Remote::from_url(url, &RemoteOptions::from_vars([]))?)
    }

    async fn start_laptop(&self, remote: &Remote) -> Result<Replica, Failure> {
        let path = self.database(Who::Laptop);
        write(&path, SCHEMA)?;
        write(&path, FIRST_ROWS)?;
        let replica = Replica::init(&path)?;
        replica.set_default_remote(remote.url())?;
        let tracked = replica.track_all(&TrackOptions::default()).await?;
        let report = replica.sync(remote, &SyncOptions::default()).await?;
        let rows = tracked.iter().map(|table| table.backfilled).sum();
        self.output.tell(&story::laptop_started(tracked.len() as u64, rows, report.pushed))?;
        Ok(replica)
    }

    async fn clone_phone(&self, remote: &Remote) -> Result<Replica, Failure> {
        let path = self.database(Who::Phone);
        let (replica, report) = Replica::clone_from(remote, &path, zvon::Settings::default(), None).await?;
        replica.set_default_remote(remote.url())?;
        self.output.tell(&story::phone_cloned(report.pulled))?;
        Ok(replica)
    }

    /// Each edit has a millisecond of its own, so that the story has one ending.
    async fn edit_both(&self) -> Result<(), Failure> {
        self.output.tell(story::EDITING)?;
        for (who, sql) in EDITS {
            write(&self.database(*who), sql)?;
            self.output.tell(&story::edit(*who, sql))?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Twice, as the first of them cannot see yet what the second brings.
    async fn sync_both(&self, laptop: &Replica, phone: &Replica, remote: &Remote) -> Result<(), Failure> {
        self.output.tell(story::SYNCING)?;
        for (who, replica) in [(Who::Laptop, laptop), (Who::Phone, phone), (Who::Laptop, laptop), (Who::Phone, phone)] {
            let report: SyncReport = replica.sync(remote, &SyncOptions::default()).await?;
            self.output.tell(&story::synced(who, &report))?;
        }
        Ok(())
    }

    fn compare(&self) -> Result<bool, Failure> {
        let (laptop, phone) = (Rows::read(&self.database(Who::Laptop))?, Rows::read(&self.database(Who::Phone))?);
        self.output.tell(&story::compared(&laptop, &phone))?;
        Ok(laptop == phone)
    }

    /// Whoever won knows of a conflict; the other one may have pushed too early to tell.
    async fn show_conflicts(&self, laptop: &Replica, phone: &Replica) -> Result<Vec<Conflict>, Failure> {
        let mut all = Vec::new();
        for (who, replica) in [(Who::Phone, phone), (Who::Laptop, laptop)] {
            let found = replica.conflicts().await?;
            if all.is_empty() && !found.is_empty() {
                let own = replica.database_uuid()?;
                let words: String = found.iter().map(|conflict| conflicts::words(conflict, &own)).collect();
                self.output.tell(&story::conflicts(who, &words))?;
            }
            all.extend(found);
        }
        Ok(all)
    }

    async fn verify(
        &self,
        laptop: &Replica,
        phone: &Replica,
        remote: &Remote,
    ) -> Result<(VerifyReport, VerifyReport), Failure> {
        let reports = (laptop.verify().await?, phone.verify_remote(remote).await?);
        self.output.tell(&story::verified(&reports.0, &reports.1))?;
        Ok(reports)
    }

    fn show_remote(&self) -> Result<Vec<String>, Failure> {
        let files = folder::files(&self.shared())?;
        let mut words = story::REMOTE.to_owned();
        for (name, size) in &files {
            let _ = writeln!(words, "   {}  {}", text::plain(name), text::bytes(*size));
        }
        self.output.tell(&words)?;
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }
}

/// Writes as any program would: through a connection that knows nothing of zvon.
fn write(database: &Path, sql: &str) -> Result<(), Failure> {
    rusqlite::Connection::open(database)
        .and_then(|connection| connection.execute_batch(sql))
        .map_err(|error| Failure::sqlite(format!("{}: the demo's edit failed", database.display()), &error))
}
