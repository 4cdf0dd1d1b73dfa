//! Where secrets come from: flags that name files, the environment, a prompt on a terminal. Zeroes what it read; shows none.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;
use zvon::{DatabaseKey, Secret};

use crate::failure::Failure;
use crate::signals::interrupted;

/// The largest file that can be a passphrase or a key file: whoever names another one made a mistake.
const MAX_SECRET_FILE: u64 = 64 << 10;

/// The files that flags name.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Keys")]
pub struct Files {
    /// The file with the passphrase of an encrypted remote [or ZVON_PASSPHRASE_FILE, or ZVON_PASSPHRASE, or a prompt].
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,

    /// The age key file for an encrypted remote, as `zvon key generate` and age-keygen write it [or ZVON_KEY_FILE].
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// The file with the key of the database file itself, where that is encrypted [or ZVON_DB_KEY_FILE, or a prompt].
    #[arg(long, global = true, value_name = "FILE")]
    pub db_key_file: Option<PathBuf>,
}

impl Files {
    /// The key of the database file, if one was given; a flag goes before the environment.
    pub fn database_key(&self) -> Result<Option<DatabaseKey>, Failure> {
        let file = self.db_key_file.clone().or_else(|| file_variable("ZVON_DB_KEY_FILE"));
        file.map(|file| Ok(DatabaseKey::new(&only_line(&file, "the database's key")?)?)).transpose()
    }

    /// What opens an encrypted remote, if anything was given; a flag goes before the environment.
    pub fn secret(&self) -> Result<Option<Secret>, Failure> {
        let passphrase = match (&self.passphrase_file, variable("ZVON_PASSPHRASE")?) {
            (Some(file), _) => Some(passphrase_in(file)?),
            (None, Some(passphrase)) => Some(Secret::passphrase(passphrase.as_str())?),
            (None, None) => file_variable("ZVON_PASSPHRASE_FILE").map(|file| passphrase_in(&file)).transpose()?,
        };
        let key = self.key_file.clone().or_else(|| file_variable("ZVON_KEY_FILE"));
        let key = key.map(|file| key_in(&file)).transpose()?;
        Ok(match (passphrase, key) {
            (Some(passphrase), Some(key)) => Some(passphrase.or(key)),
            (passphrase, key) => passphrase.or(key),
        })
    }
}

/// The passphrase in a file.
pub fn passphrase_in(path: &Path) -> Result<Secret, Failure> {
    Ok(Secret::passphrase(only_line(path, "the passphrase")?.as_str())?)
}

/// A file's only line, which is a secret.
fn only_line(path: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    let text = read(path)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line {
        "" => Err(Failure::usage(format!("{}: the file is empty; it must hold {what}", path.display()))),
        line if line.contains(['\n', '\r']) => {
            Err(Failure::usage(format!("{}: {what} must be the file's only line", path.display())))
        }
        line => Ok(Zeroizing::new(line.to_owned())),
    }
}

/// Asks for the key of a database file, where somebody is there to answer.
pub async fn ask_database_key(prompt: &str) -> Result<Option<DatabaseKey>, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(None);
    }
    Ok(Some(DatabaseKey::new(&read_hidden(prompt.to_owned()).await?)?))
}

/// Asks for a passphrase, where somebody is there to answer; nothing where nobody is.
pub async fn ask(prompt: &str) -> Result<Option<Secret>, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(None);
    }
    Ok(Some(Secret::passphrase(read_hidden(prompt.to_owned()).await?.as_str())?))
}

/// Asks for a new passphrase, twice.
pub async fn ask_new(what: &str) -> Result<Secret, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage(format!(
            "{what} is missing: give it by --passphrase-file, ZVON_PASSPHRASE_FILE or ZVON_PASSPHRASE, or use --recipient"
        )));
    }
    let first = read_hidden(format!("{what}: ")).await?;
    let again = read_hidden(format!("{what}, again: ")).await?;
    match first == again {
        true => Ok(Secret::passphrase(first.as_str())?),
        false => Err(Failure::usage("the two passphrases differ")),
    }
}

async fn read_hidden(prompt: String) -> Result<Zeroizing<String>, Failure> {
    let reading =
        async { tokio::task::spawn_blocking(move || rpassword::prompt_password(prompt).map(Zeroizing::new)).await };
    let failed = |error: &io::Error| Failure::io("what is typed cannot be read from the terminal", error);
    tokio::select! {
        // Listened for first: nobody dies of Ctrl-C before the terminal shows again what is typed.
        biased;
        () = interrupted() => Err(Failure::interrupted()),
        read = reading => match read {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Err(Failure::interrupted()),
            Ok(Err(error)) => Err(failed(&error)),
            Err(panicked) => Err(failed(&io::Error::other(panicked))),
        },
    }
}

/// Writes a key file that only its owner can read; one that is there already stays.
pub fn write_key_file(path: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let written =
        options.open(path).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{}: the file exists, and a key that is lost is lost: name another", path.display()))
        }
        _ => Failure::io(format!("{}: the key file cannot be written", path.display()), &error),
    })
}

fn key_in(path: &Path) -> Result<Secret, Failure> {
    let text = read(path)?;
    let secret = Secret::from_key_file(&text);
    secret.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::io(format!("{}: the secret cannot be read", path.display()), &error);
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_SECRET_FILE {
        return Err(Failure::usage(format!("{}: the file is too large to be a passphrase or a key", path.display())));
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

/// A variable's value; an empty one says nothing.
fn variable(name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => match value.into_string() {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(_) => Err(Failure::usage(format!("{name} is not UTF-8"))),
        },
    }
}

fn file_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
