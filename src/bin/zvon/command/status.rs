//! `zvon status`: a replica at a glance.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use zvon::{RemoteStatus, RemoteSurvey, Status, TableStatus};

use super::sync::FILES_TOLD;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Lean};
use crate::time;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look at the remote too, this one or the one that is set: what lies there, what compaction would save, its clock.
    //
    // Takes the global flag's place and its value; here the URL may be left out, which the empty value says.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    remote: Option<String>,
}

/// A replica, and the remote if it was looked at.
#[derive(Serialize)]
struct WithRemote<'a> {
    #[serde(flatten)]
    status: &'a Status,
    remote: &'a RemoteSurvey,
}

pub async fn run(_: &Args, context: &Context) -> Result<Answer, Failure> {
    let (place, replica) = context.open().await?;
    let status = replica.status().await?;
    let text = words(&status, &place.database);
    if !context.remote_asked() {
        return Ok(Answer::new(&status, text));
    }
    let remote = context.remote(&place, &replica, None)?;
    let (url, replica) = (remote.url().to_owned(), &replica);
    let survey = context.unlocking(remote, async |remote| replica.survey(&remote).await).await?;
    let text = format!("{text}\n{}", on_survey(&url, &survey));
    Ok(Answer::new(&WithRemote { status: &status, remote: &survey }, text))
}

/// What lies on the remote, a line each.
fn on_survey(url: &str, survey: &RemoteSurvey) -> String {
    let packed = format!("{} ({})", survey.packs, text::bytes(survey.pack_bytes));
    let loose = format!("{} ({})", survey.loose_files, text::bytes(survey.loose_bytes));
    let listing = format!(
        "{} and {}; compacted {} and {}",
        text::count(survey.objects, "object", "objects"),
        text::count(survey.list_requests, "request", "requests"),
        survey.objects_compacted,
        survey.list_requests_compacted
    );
    let clock = survey.clock_skew_ms.map_or_else(
        || "cannot be told from here".to_owned(),
        |ms| format!("this machine is {} ms {} it", ms.unsigned_abs(), if ms < 0 { "behind" } else { "ahead of" }),
    );
    let lines = [
        ("on", text::plain(url)),
        ("packs", packed),
        ("loose files", loose),
        ("a listing", listing),
        ("its clock", clock),
    ];
    let lines: Vec<Vec<String>> = lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    text::columns(0, &[Lean::Left; 2], &lines)
}

fn words(status: &Status, database: &Path) -> String {
    let parts = [head(status, database), tables(&status.tables), remotes(&status.remotes), attention(status)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn head(status: &Status, database: &Path) -> String {
    let mut log = text::changes(status.changes);
    if status.journal > 0 {
        log += &format!(", and {} to be recorded", text::count(status.journal, "write", "writes"));
    }
    let remote = status.default_remote.as_deref().map_or_else(|| "none saved".to_owned(), text::plain);
    let lines = [
        ("database", text::plain(&database.display().to_string())),
        ("replica", text::plain(&status.database_uuid)),
        ("remote", remote),
        ("log", log),
    ];
    let lines: Vec<Vec<String>> = lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    text::columns(0, &[Lean::Left; 2], &lines)
}

fn tables(tables: &[TableStatus]) -> String {
    if tables.is_empty() {
        return "No table is tracked: `zvon track --all` starts it.\n".to_owned();
    }
    let mut lines = vec![vec!["TABLE".to_owned(), "ROWS".to_owned(), "HELD".to_owned()]];
    lines.extend(tables.iter().map(|table| {
        let notice = text::plain(&table.notice);
        let note = match (table.tracked, notice.is_empty()) {
            (true, _) => notice,
            (false, true) => "not tracked now".to_owned(),
            (false, false) => format!("not tracked now; {notice}"),
        };
        vec![text::plain(&table.name), table.rows.to_string(), table.held.to_string(), note]
    }));
    text::columns(0, &[Lean::Left, Lean::Right, Lean::Right, Lean::Left], &lines)
}

fn remotes(remotes: &[RemoteStatus]) -> String {
    if remotes.is_empty() {
        return String::new();
    }
    let mut lines = vec![["REMOTE", "TO PUSH", "LAST SYNC", "LAYOUT"].map(str::to_owned).to_vec()];
    lines.extend(remotes.iter().map(|remote| {
        let last = if remote.last_sync_ms == 0 { "never".to_owned() } else { time::utc(remote.last_sync_ms) };
        vec![text::plain(&remote.url), remote.to_push.to_string(), last, text::plain(&remote.layout)]
    }));
    text::columns(0, &[Lean::Left, Lean::Right, Lean::Left, Lean::Left], &lines)
}

/// What the user should look at, a line each.
fn attention(status: &Status) -> String {
    let mut lines = Vec::new();
    let mut when = |number: u64, line: String| lines.extend((number > 0).then_some(line));
    let conflicts = text::count(status.conflicts, "write", "writes");
    when(status.conflicts, format!("{conflicts} lost against a concurrent one: see `zvon conflicts`"));
    when(status.held, format!("{} held, not shown: see `zvon held`", text::rows(status.held)));
    when(status.unknown, format!("{} of tables or columns not here: see `zvon held`", text::changes(status.unknown)));
    when(status.unmerged, format!("{} to be merged by the next sync", text::changes(status.unmerged)));
    lines.extend(status.oversize.iter().map(|change| {
        let (id, table) = (text::plain(&change.id), text::plain(&change.table));
        format!("change {id} of {table} ({}) is too large for a remote", text::bytes(change.bytes))
    }));
    lines.extend(status.remotes.iter().flat_map(on_remote));
    lines.extend(status.clocks.iter().chain(&status.notices).map(|sentence| text::plain(sentence)));
    lines.iter().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "! {line}");
        out
    })
}

fn on_remote(remote: &RemoteStatus) -> Vec<String> {
    let url = text::plain(&remote.url);
    let waiting = remote.waiting.iter().take(FILES_TOLD).map(|waiting| {
        let (changes, author) = (text::changes(waiting.changes), text::author(&waiting.author, false));
        format!("{url}: {changes} of {author} wait, made by a clock up to {} ahead", time::span(waiting.ahead_ms))
    });
    let rejected = remote.rejected.iter().take(FILES_TOLD).map(|file| {
        let (name, reason) = (text::plain(&file.name), text::plain(&file.reason));
        format!("{url}: {name} ({}) cannot be read: {reason}", text::bytes(file.bytes))
    });
    let more = |untold: u64, one: &str, many: &str, what: &str| {
        (untold > 0).then(|| format!("{url}: {} {what}", text::count(untold, one, many)))
    };
    let authors = remote.waiting.len().saturating_sub(FILES_TOLD) as u64;
    let authors = more(authors, "more author", "more authors", "whose changes wait");
    let files = remote.rejected.len().saturating_sub(FILES_TOLD) as u64 + remote.rejected_more;
    let files = more(files, "more file", "more files", "that cannot be read");
    waiting.chain(authors).chain(rejected).chain(files).collect()
}
