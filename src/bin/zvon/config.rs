//! `zvon.toml`: what it may say, and what is told where it says something else. Decides no precedence.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use zvon::{RemoteOptions, Settings};

use crate::failure::Failure;

/// The file's name, beside the database.
pub const FILE_NAME: &str = "zvon.toml";

/// The settings of one folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database, from the file's own folder.
    pub db: Option<PathBuf>,
    /// The remote; a plain path counts from the file's own folder.
    pub remote: Option<String>,
    max_clock_drift: Option<Span>,
    max_object_size: Option<Size>,
    request_timeout: Option<Span>,
    connect_timeout: Option<Span>,
    max_retries: Option<usize>,
    retry_timeout: Option<Span>,
}

impl Config {
    /// Reads the file of a folder; one that is not there says nothing.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE_NAME);
        match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?.within(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::io(format!("{}: the settings cannot be read", path.display()), &error)),
        }
    }

    /// These settings, and where they are silent the other ones.
    pub fn or(self, other: Self) -> Self {
        Self {
            db: self.db.or(other.db),
            remote: self.remote.or(other.remote),
            max_clock_drift: self.max_clock_drift.or(other.max_clock_drift),
            max_object_size: self.max_object_size.or(other.max_object_size),
            request_timeout: self.request_timeout.or(other.request_timeout),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            max_retries: self.max_retries.or(other.max_retries),
            retry_timeout: self.retry_timeout.or(other.retry_timeout),
        }
    }

    /// What the library is to be told.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        if let Some(Span(drift)) = self.max_clock_drift {
            settings.max_clock_drift = drift;
        }
        if let Some(Size(bytes)) = self.max_object_size {
            settings.max_object_bytes = bytes;
        }
        settings
    }

    /// How long and how often a remote is asked.
    pub fn patience(&self, mut options: RemoteOptions) -> RemoteOptions {
        if let Some(Span(timeout)) = self.request_timeout {
            options = options.request_timeout(timeout);
        }
        if let Some(Span(timeout)) = self.connect_timeout {
            options = options.connect_timeout(timeout);
        }
        if let Some(retries) = self.max_retries {
            options = options.max_retries(retries);
        }
        if let Some(Span(timeout)) = self.retry_timeout {
            options = options.retry_timeout(timeout);
        }
        options
    }

    fn within(mut self, folder: &Path) -> Result<Self, Failure> {
        self.db = self.db.map(|db| folder.join(db));
        self.remote = self.remote.map(|remote| from_folder(&remote, folder)).transpose()?;
        Ok(self)
    }
}

/// A remote that is a plain path, seen from a folder; anything else as it is, a home folder's `~` too, which the library refuses.
pub fn from_folder(remote: &str, folder: &Path) -> Result<String, Failure> {
    if remote.is_empty() || has_scheme(remote) || remote == "~" || remote.starts_with("~/") {
        return Ok(remote.to_owned());
    }
    let path = folder.join(remote);
    let path = std::path::absolute(&path).unwrap_or(path);
    path.into_os_string().into_string().map_err(|path| {
        let path = Path::new(&path).display();
        Failure::usage(format!(
            "{path}: the path is not UTF-8; write the remote as a URL, file:///…, with its bytes as %XX"
        ))
    })
}

/// Whether a text begins like a URL. One letter before the colon is a drive.
fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

fn parse(path: &Path, text: &str) -> Result<Config, Failure> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1;
        let why = error.message().replace("unknown field", "unknown key");
        Failure::usage(format!("{}, line {line}: {why}", path.display()))
    })
}

/// A span of time such as `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        const UNITS: &[(&str, u64)] =
            &[("ms", 1), ("s", 1000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let wrong = || format!("{text:?} is not a span of time such as \"24h\" (units: ms, s, m, h, d)");
        quantity(&text, UNITS).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

/// A span of time that is not nothing, as the command line has it.
pub fn positive_span(text: &str) -> Result<Duration, String> {
    match Span::try_from(text.to_owned())? {
        Span(Duration::ZERO) => Err("it has to be more than nothing".to_owned()),
        Span(span) => Ok(span),
    }
}

/// A number of bytes such as `256MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Size(u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        const UNITS: &[(&str, u64)] = &[
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("kB", 1000),
            ("KB", 1000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
        ];
        let wrong = || format!("{text:?} is not a size such as \"256MiB\" (units: B, KiB, MiB, GiB, kB, MB, GB)");
        quantity(&text, UNITS).filter(|&bytes| bytes > 0).map(Self).ok_or_else(wrong)
    }
}

/// A whole number and its unit, as a multiple of the smallest unit.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match parse(Path::new("zvon.toml"), text) {
            Err(Failure::Error(told)) => told.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_key_is_read() {
        let text = "db = 'a.db'\nremote = 's3://b/p'\nmax_clock_drift = '90m'\nmax_object_size = '1 MiB'\n\
                    request_timeout = '7s'\nconnect_timeout = '2s'\nmax_retries = 3\nretry_timeout = '1m'\n";
        let config = parse(Path::new("zvon.toml"), text).unwrap().within(Path::new("/home/me")).unwrap();
        assert_eq!(config.db.as_deref(), Some(Path::new("/home/me/a.db")));
        assert_eq!(config.remote.as_deref(), Some("s3://b/p"));
        assert_eq!(config.settings().max_clock_drift, Duration::from_secs(5400));
        assert_eq!(config.settings().max_object_bytes, 1 << 20);
        let patience = format!("{:?}", config.patience(RemoteOptions::default()));
        for set in ["request_timeout: 7s", "connect_timeout: 2s", "max_retries: 3", "retry_timeout: 60s"] {
            assert!(patience.contains(set), "{patience}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let message = refused("# mine\n\nremot = 's3://b'\n");
        assert!(message.starts_with("zvon.toml, line 3: unknown key `remot`, expected one of"), "{message}");
        assert!(refused("db = 'a'\nmax_clock_drift = 'a while'").starts_with("zvon.toml, line 2: \"a while\" is not"));
        assert!(refused("max_object_size = '0B'").contains("not a size"));
        assert!(refused("max_object_size = '99999999999GiB'").contains("not a size"));
        assert!(refused("db = ").starts_with("zvon.toml, line 1: "));
    }

    #[test]
    fn only_plain_paths_count_from_the_folder() {
        let folder = Path::new("/home/me");
        assert_eq!(from_folder("shared", folder).unwrap(), "/home/me/shared");
        assert_eq!(from_folder("/mnt/shared", folder).unwrap(), "/mnt/shared");
        assert_eq!(from_folder("file:///mnt/shared", folder).unwrap(), "file:///mnt/shared");
        assert_eq!(from_folder("s3:/typo", folder).unwrap(), "s3:/typo");
        assert_eq!(from_folder("~/shared", folder).unwrap(), "~/shared");
    }

    #[test]
    fn the_nearer_file_goes_first() {
        let near = Config { remote: Some("near".into()), ..Config::default() };
        let far = Config { db: Some("far.db".into()), remote: Some("far".into()), ..Config::default() };
        let both = near.or(far);
        assert_eq!((both.remote.as_deref(), both.db), (Some("near"), Some("far.db".into())));
    }
}
