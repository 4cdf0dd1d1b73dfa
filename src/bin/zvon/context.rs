//! What a command works with: which database, which remote, which settings, by one order of precedence.
//!
//! The only place that reads the environment's `ZVON_*` and credentials. Does no work on what it opens.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use zvon::{Remote, RemoteOptions, Replica};

use crate::cli::Global;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{Bars, Show};

/// What a command works with.
pub struct Context {
    global: Global,
    environment: Environment,
    /// Where it prints, should it have more to tell than an answer.
    pub output: Output,
    /// Where it shows how far it is.
    pub bars: Bars,
}

/// What the environment says; an empty variable says nothing.
#[derive(Debug, Default)]
struct Environment {
    db: Option<PathBuf>,
    remote: Option<String>,
}

/// A database, and what was set for it.
#[derive(Debug)]
pub struct Place {
    pub database: PathBuf,
    pub config: Config,
}

impl Context {
    /// `logs` says whether log lines go to stderr, which bars would garble.
    pub fn new(global: Global, output: Output, logs: bool) -> Result<Self, Failure> {
        let show = match (global.verbose > 0, output.json || output.quiet || logs) {
            (true, _) => Show::Lines,
            (false, true) => Show::Nothing,
            (false, false) => Show::Bars,
        };
        let bars = Bars::new(show);
        Ok(Self { global, environment: Environment::read()?, output, bars })
    }

    /// The database that a command is about; `named` is what it names itself.
    pub fn place(&self, named: Option<&Path>) -> Result<Place, Failure> {
        let flag = same("database", named, self.global.db.as_deref(), |path| path.display().to_string())?;
        if let Some(database) = flag.or(self.environment.db.as_deref()) {
            return place(database.to_owned(), Config::default());
        }
        let here = Config::read(Path::new(""))?;
        match here.db.clone() {
            Some(database) => place(database, here),
            None => Err(Failure::usage(
                "no database is named: use --db FILE, set ZVON_DB, or write db = \"FILE\" into zvon.toml",
            )),
        }
    }

    /// The replica that a command is about.
    pub fn open(&self) -> Result<(Place, Replica), Failure> {
        let place = self.place(None)?;
        let replica = Replica::open(&place.database)?;
        let replica = replica.with_settings(place.config.settings()).on_progress(self.bars.callback());
        Ok((place, replica))
    }

    /// The same, though zvon's own tables may be damaged or missing.
    pub fn open_damaged(&self) -> Result<(Place, Replica), Failure> {
        let place = self.place(None)?;
        let replica = Replica::open_damaged(&place.database)?;
        let replica = replica.with_settings(place.config.settings()).on_progress(self.bars.callback());
        Ok((place, replica))
    }

    /// The remote named on the command line, in its own place or by the flag.
    pub fn named_remote(&self, named: Option<&str>) -> Result<Option<Remote>, Failure> {
        let flag = self.global.remote.as_deref();
        same("remote", named, flag, str::to_owned)?.map(remote).transpose()
    }

    /// Whether `--remote` was given, with or without a URL.
    pub fn remote_asked(&self) -> bool {
        self.global.remote.is_some()
    }

    /// The remote that a command is about; `named` is what it names itself.
    pub fn remote(&self, place: &Place, replica: &Replica, named: Option<&str>) -> Result<Remote, Failure> {
        // `verify --remote` without a URL only asks for the remote that is set otherwise.
        let named_at_all = named.or(self.global.remote.as_deref()).is_some_and(|url| !url.is_empty());
        if named_at_all && let Some(remote) = self.named_remote(named)? {
            return Ok(remote);
        }
        if let Some(url) = self.environment.remote.as_deref().or(place.config.remote.as_deref()) {
            return remote(url);
        }
        match replica.default_remote()? {
            Some(url) => remote(&url),
            None => Err(Failure::usage(
                "no remote is named: use --remote URL, set ZVON_REMOTE, write remote = \"URL\" into zvon.toml, \
                 or save one with `zvon init DB --remote URL`",
            )),
        }
    }
}

impl Drop for Context {
    /// However a command ends, its bars do not stand in the way of what is said next.
    fn drop(&mut self) {
        self.bars.clear();
    }
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let utf8 = |value: OsString| value.into_string().map_err(|_| Failure::usage("ZVON_REMOTE is not UTF-8"));
        Ok(Self { db: variable("ZVON_DB").map(PathBuf::from), remote: variable("ZVON_REMOTE").map(utf8).transpose()? })
    }
}

/// A database with the settings beside it, and where those are silent `here`'s.
fn place(database: PathBuf, here: Config) -> Result<Place, Failure> {
    if database.as_os_str().is_empty() {
        return Err(Failure::usage("the database's name is empty"));
    }
    if database == Path::new(":memory:") {
        return Err(Failure::usage("a database in memory ends with the command: name a file"));
    }
    let beside = Config::read(database.parent().unwrap_or(Path::new("")))?;
    Ok(Place { database, config: beside.or(here) })
}

/// A remote, with the credentials that the environment holds.
fn remote(url: &str) -> Result<Remote, Failure> {
    if url.is_empty() {
        return Err(Failure::usage("the remote's URL is empty"));
    }
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let url = config::from_folder(url, Path::new(""));
    Ok(Remote::from_url(&url, &RemoteOptions::from_vars(variables))?)
}

/// What is named once, or twice alike.
fn same<'a, T: PartialEq + ?Sized>(
    what: &str,
    named: Option<&'a T>,
    flag: Option<&'a T>,
    show: impl Fn(&T) -> String,
) -> Result<Option<&'a T>, Failure> {
    match (named, flag) {
        (Some(named), Some(flag)) if named != flag => {
            let message = format!("two {what}s are named, {} and {}: name one", show(named), show(flag));
            Err(Failure::usage(message))
        }
        (named, flag) => Ok(named.or(flag)),
    }
}
