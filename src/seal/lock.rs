//! What locks a remote's keys, and what opens them: passphrases and age keys. age does all of it.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};

/// scrypt's N is 2 to this: what the `age` tool uses, about a second and 256 MiB.
const WORK_FACTOR: u8 = 18;
/// The most work that a key file may ask for: about four seconds and 1 GiB. A remote is a stranger.
const MAX_WORK_FACTOR: u8 = 20;

/// What opens the keys of an encrypted remote: a passphrase, the keys of an age identity file, or both.
///
/// Secrets are zeroed when they are dropped, and shown by nothing: not by `Debug`, not in an error.
///
/// ```
/// let key = zvon::Secret::generate();
/// let recipient = key.recipients()[0].to_string();
/// assert!(recipient.starts_with("age1"));
/// assert_eq!(format!("{key:?}"), "Secret");
/// ```
#[derive(Clone, Default)]
pub struct Secret {
    passphrases: Vec<SecretString>,
    identities: Vec<x25519::Identity>,
}

impl Secret {
    /// A passphrase.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if it is empty.
    pub fn passphrase(passphrase: impl Into<String>) -> Result<Self> {
        let passphrase = SecretString::from(passphrase.into());
        match passphrase.expose_secret().is_empty() {
            true => Err(Error::usage("the passphrase is empty")),
            false => Ok(Self { passphrases: vec![passphrase], identities: Vec::new() }),
        }
    }

    /// The keys of an age identity file, as `zvon key generate` and `age-keygen` write it: a line `AGE-SECRET-KEY-1…` each,
    /// among empty lines and comments.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] if a line is something else, or there is none.
    pub fn from_key_file(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).enumerate();
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = |(at, line): (usize, &str)| {
            line.parse::<x25519::Identity>().map_err(|_| {
                let line = at + 1;
                Error::usage(format!(
                    "line {line} is no age key; expected AGE-SECRET-KEY-1…, as `zvon key generate` writes"
                ))
            })
        };
        let identities = keys.map(read).collect::<Result<Vec<_>>>()?;
        match identities.is_empty() {
            true => Err(Error::usage("there is no age key in it; `zvon key generate FILE` makes one")),
            false => Ok(Self { passphrases: Vec::new(), identities }),
        }
    }

    /// A new age key.
    pub fn generate() -> Self {
        Self { passphrases: Vec::new(), identities: vec![x25519::Identity::generate()] }
    }

    /// This secret and another one: whichever fits is used.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.passphrases.extend(other.passphrases);
        self.identities.extend(other.identities);
        self
    }

    /// Whether there is a passphrase among what this secret opens with.
    pub fn has_passphrase(&self) -> bool {
        !self.passphrases.is_empty()
    }

    /// The public halves of the age keys: what others add so that this secret opens a remote.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.identities.iter().map(|identity| Recipient(identity.to_public())).collect()
    }

    /// The text of an age identity file with these keys, for the eyes of its owner alone.
    pub fn to_key_file(&self) -> Zeroizing<String> {
        // Room enough from the start: a string that grows leaves its old bytes behind.
        let mut text = Zeroizing::new(String::with_capacity(self.identities.len() * 256));
        for identity in &self.identities {
            text.push_str(&format!("# public key: {}\n", identity.to_public()));
            text.push_str(identity.to_string().expose_secret());
            text.push('\n');
        }
        text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The public half of somebody's age key, `age1…`. No secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(x25519::Recipient);

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |_| match text.starts_with("AGE-SECRET-KEY-") {
            true => Error::usage(
                "this is a secret key, not a recipient: keep it to yourself, and give its public half, age1…",
            ),
            false => Error::usage("this is no age recipient; expected age1…, as `zvon key generate` prints"),
        };
        text.parse().map(Self).map_err(wrong)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a remote's keys are locked from now on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Lock {
    /// Whoever knows the passphrase of this secret can open them; it must have exactly one.
    Passphrase(Secret),
    /// Whoever has the secret half of one of these keys can.
    Recipients(Vec<Recipient>),
}

impl Lock {
    /// The recipients as key files list them: none for a passphrase.
    pub(super) fn listed(&self) -> Result<Vec<String>> {
        match self {
            Self::Passphrase(secret) if secret.passphrases.len() == 1 => Ok(Vec::new()),
            Self::Passphrase(_) => Err(Error::usage("a lock takes one passphrase")),
            Self::Recipients(recipients) if recipients.is_empty() => {
                Err(Error::usage("there is no recipient left to lock the keys for"))
            }
            Self::Recipients(recipients) => {
                let mut listed: Vec<String> = recipients.iter().map(ToString::to_string).collect();
                listed.sort();
                listed.dedup();
                Ok(listed)
            }
        }
    }

    /// The lock of listed recipients, or the passphrase that opened what there is now.
    pub(super) fn of(listed: &[String], opened_with: &Secret) -> Result<Self> {
        if listed.is_empty() {
            return Ok(Self::Passphrase(opened_with.clone()));
        }
        let recipients = listed.iter().map(|text| text.parse());
        Ok(Self::Recipients(recipients.collect::<Result<_>>()?))
    }

    /// Locks some bytes: an age file, as the `age` tool reads it.
    pub(super) fn close(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let failed = |e: &dyn fmt::Display| Error::new(ErrorKind::Key, format!("the keys cannot be locked: {e}"));
        let mut passphrase = None;
        let recipients: Vec<&dyn age::Recipient> = match self {
            Self::Passphrase(secret) => {
                let mut recipient = scrypt::Recipient::new(secret.passphrases[0].clone());
                recipient.set_work_factor(WORK_FACTOR);
                tracing::debug!("derived a key from the passphrase, to lock");
                vec![passphrase.insert(recipient)]
            }
            Self::Recipients(recipients) => recipients.iter().map(|recipient| &recipient.0 as _).collect(),
        };
        let encryptor = Encryptor::with_recipients(recipients.into_iter()).map_err(|e| failed(&e))?;
        let mut locked = Vec::new();
        let mut writer = encryptor.wrap_output(&mut locked).map_err(|e| failed(&e))?;
        writer.write_all(plain).and_then(|()| writer.finish()).map_err(|e| failed(&e))?;
        Ok(locked)
    }
}

/// Why a key file stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// It is locked with a passphrase, and none was given.
    NoPassphrase,
    /// It is locked for age keys, and none was given.
    NoKey,
    WrongPassphrase,
    WrongKey,
    /// It asks for more work than a key file may.
    TooMuchWork,
    /// It is no whole age file.
    Damaged,
}

/// Opens an age file. Says with which part of the secret, so that a later lock can be the same.
pub(super) fn open(locked: &[u8], secret: &Secret) -> std::result::Result<(Zeroizing<Vec<u8>>, Secret), Closed> {
    let decryptor = || Decryptor::new_buffered(locked).map_err(|_| Closed::Damaged);
    if !decryptor()?.is_scrypt() {
        if secret.identities.is_empty() {
            return Err(Closed::NoKey);
        }
        let plain = read(decryptor()?, locked.len(), secret.identities.iter().map(|identity| identity as _))?;
        return Ok((plain, Secret { passphrases: Vec::new(), identities: secret.identities.clone() }));
    }
    let mut closed = Closed::NoPassphrase;
    for passphrase in &secret.passphrases {
        tracing::debug!("derived a key from the passphrase, to open");
        let mut identity = scrypt::Identity::new(passphrase.clone());
        identity.set_max_work_factor(MAX_WORK_FACTOR);
        match read(decryptor()?, locked.len(), std::iter::once(&identity as _)) {
            Ok(plain) => return Ok((plain, Secret { passphrases: vec![passphrase.clone()], identities: Vec::new() })),
            Err(why) => closed = why,
        }
    }
    Err(closed)
}

fn read<'a>(
    decryptor: Decryptor<&[u8]>,
    room: usize,
    identities: impl Iterator<Item = &'a dyn age::Identity>,
) -> std::result::Result<Zeroizing<Vec<u8>>, Closed> {
    let is_scrypt = decryptor.is_scrypt();
    let mut reader = decryptor.decrypt(identities).map_err(|error| match error {
        DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            if is_scrypt {
                Closed::WrongPassphrase
            } else {
                Closed::WrongKey
            }
        }
        DecryptError::ExcessiveWork { .. } => Closed::TooMuchWork,
        _ => Closed::Damaged,
    })?;
    // Room enough from the start: a vector that grows leaves its old bytes behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(room));
    let read = reader.read_to_end(&mut plain);
    if read.is_ok() { Ok(plain) } else { Err(Closed::Damaged) }
}
