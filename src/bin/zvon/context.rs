//! What a command works with: which database, which remote, which settings, by one order of precedence.
//!
//! The only place that reads the environment's `ZVON_*` and credentials. Does no work on what it opens.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use zvon::{DatabaseKey, ErrorKind, Remote, RemoteOptions, Replica, Secret};

use crate::cli::Global;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{Bars, Show};
use crate::{secrets, text};

/// What a command works with.
pub struct Context {
    global: Global,
    environment: Environment,
    /// What was read already: a pipe gives it once.
    secret: OnceLock<Option<Secret>>,
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
        Ok(Self { global, environment: Environment::read()?, secret: OnceLock::new(), output, bars })
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
    pub async fn open(&self) -> Result<(Place, Replica), Failure> {
        let open = |path: &Path, key: Option<&DatabaseKey>| match key {
            Some(key) => Replica::open_encrypted(path, key),
            None => Replica::open(path),
        };
        self.open_by(open).await
    }

    /// The same, though zvon's own tables may be damaged or missing.
    pub async fn open_damaged(&self) -> Result<(Place, Replica), Failure> {
        self.open_by(|path, key| Replica::open_damaged(path, key)).await
    }

    async fn open_by(
        &self,
        open: impl Fn(&Path, Option<&DatabaseKey>) -> zvon::Result<Replica>,
    ) -> Result<(Place, Replica), Failure> {
        let place = self.place(None)?;
        let opened = open(&place.database, self.database_key()?.as_ref());
        let replica = match opened {
            Err(wanted) if wanted.kind() == ErrorKind::DatabaseKeyWanted => {
                let prompt = format!("The key of {}: ", text::plain(&place.database.display().to_string()));
                match secrets::ask_database_key(&prompt).await? {
                    Some(key) => open(&place.database, Some(&key))?,
                    None => return Err(wanted.into()),
                }
            }
            opened => opened?,
        };
        let replica = replica.with_settings(place.config.settings()).on_progress(self.bars.callback());
        Ok((place, replica))
    }

    /// The remote named on the command line, in its own place or by the flag.
    pub fn named_remote(&self, place: &Place, named: Option<&str>) -> Result<Option<Remote>, Failure> {
        let flag = self.global.remote.as_deref();
        same("remote", named, flag, str::to_owned)?.map(|url| self.remote_at(place, url)).transpose()
    }

    /// The key of the database file, if one was given.
    pub fn database_key(&self) -> Result<Option<DatabaseKey>, Failure> {
        self.global.secrets.database_key()
    }

    /// What opens an encrypted remote, as far as it was given.
    pub fn secret(&self) -> Result<Option<Secret>, Failure> {
        if let Some(read) = self.secret.get() {
            return Ok(read.clone());
        }
        let read = self.global.secrets.secret()?;
        Ok(self.secret.get_or_init(|| read).clone())
    }

    /// Works with a remote, and asks for the passphrase where one turns out to be wanted and somebody is there to answer.
    pub async fn unlocking<T>(
        &self,
        remote: Remote,
        work: impl AsyncFn(Remote) -> zvon::Result<T>,
    ) -> Result<T, Failure> {
        match work(remote.clone()).await {
            Err(locked) if locked.kind() == ErrorKind::Locked => {
                self.bars.clear();
                match secrets::ask(&format!("The passphrase for {}: ", text::plain(remote.url()))).await? {
                    Some(secret) => Ok(work(remote.with_secret(secret)).await?),
                    None => Err(locked.into()),
                }
            }
            done => Ok(done?),
        }
    }

    /// The remote with one more secret to try, after those that were given.
    pub fn with_more(&self, remote: Remote, more: &Secret) -> Result<Remote, Failure> {
        Ok(match self.secret()? {
            Some(secret) => remote.with_secret(secret.or(more.clone())),
            None => remote,
        })
    }

    /// Whether `--remote` was given, with or without a URL.
    pub fn remote_asked(&self) -> bool {
        self.global.remote.is_some()
    }

    /// The remote that a command is about; `named` is what it names itself.
    pub fn remote(&self, place: &Place, replica: &Replica, named: Option<&str>) -> Result<Remote, Failure> {
        // `verify --remote` without a URL only asks for the remote that is set otherwise.
        let named_at_all = named.or(self.global.remote.as_deref()).is_some_and(|url| !url.is_empty());
        if named_at_all && let Some(remote) = self.named_remote(place, named)? {
            return Ok(remote);
        }
        if let Some(url) = self.environment.remote.as_deref().or(place.config.remote.as_deref()) {
            return self.remote_at(place, url);
        }
        match replica.default_remote()? {
            Some(url) => self.remote_at(place, &url),
            None => Err(Failure::usage(
                "no remote is named: use --remote URL, set ZVON_REMOTE, write remote = \"URL\" into zvon.toml, \
                 or save one with `zvon init DB --remote URL`",
            )),
        }
    }
}

impl Context {
    /// A remote, with the credentials and the secret that were given.
    fn remote_at(&self, place: &Place, url: &str) -> Result<Remote, Failure> {
        let remote = remote(url, &place.config)?;
        Ok(match self.secret()? {
            Some(secret) => remote.with_secret(secret),
            None => remote,
        })
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

/// A place, with the credentials that the environment holds and the patience that was set.
fn remote(url: &str, config: &Config) -> Result<Remote, Failure> {
    if url.is_empty() {
        return Err(Failure::usage("the remote's URL is empty"));
    }
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let url = config::from_folder(url, Path::new(""))?;
    Ok(Remote::from_url(&url, &config.patience(RemoteOptions::from_vars(variables)))?)
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
