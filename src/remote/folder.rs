//! A remote in a folder, which sync tools, desktops and people share: whatever else lies there must not stop a listing, and
//! what cannot be read must not look absent. Writing is `object_store`'s, atomic and with fsync; the rest is plain `std::fs`.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind as IoErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use url::Url;

use super::Fetched;
use super::listing::{Listing, Properties};
use super::pages::{Endless, Names};
use super::traffic::{Counters, Request};
use crate::blocking::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::{ObjectName, ParsedName};

/// A folder on a disk of this machine, or one that looks so.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    counters: Arc<Counters>,
}

impl Folder {
    /// Names a folder, which need not be there: its drive may not be mounted.
    pub(super) fn open(path: &Path, counters: Arc<Counters>) -> Result<Self> {
        let root = resolve(path).map_err(|e| cannot("use", path, e))?;
        if root.is_file() {
            return Err(cannot("use", path, IoErrorKind::NotADirectory.into()));
        }
        Ok(Self { root, counters })
    }

    /// Makes the folder if it is missing.
    pub(super) async fn make(&self) -> Result<()> {
        let root = self.root.clone();
        blocking(move || fs::create_dir_all(&root).map_err(|e| cannot("use", &root, e))).await
    }

    /// The folder's path, by whatever links it was reached.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder as a `file://` URL.
    pub(super) fn url(&self) -> Result<String> {
        let url = Url::from_file_path(&self.root)
            .map_err(|()| Error::usage(format!("{} cannot be written as a URL", self.root.display())))?;
        Ok(url.into())
    }

    pub(super) async fn list(&self, max_names: u64) -> Result<Listing> {
        self.counters.request(Request::List);
        let root = self.root.clone();
        blocking(move || walk(&root, Names::at_most(max_names))).await
    }

    pub(super) async fn get(&self, name: &ObjectName, limit: u64) -> Result<Fetched> {
        self.counters.request(Request::Get);
        let path = self.path(name);
        let fetched = blocking(move || read(&path, limit).map_err(|e| cannot("read", &path, e))).await?;
        if let Fetched::Bytes(bytes) = &fetched {
            self.counters.received(bytes.len());
        }
        Ok(fetched)
    }

    /// Opens a file from a place in it on, for so many bytes or to its end.
    pub(super) async fn body(
        &self,
        name: &ObjectName,
        from: u64,
        len: Option<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes>>>> {
        self.counters.request(Request::Get);
        let path = self.path(name);
        let opened = path.clone();
        let file = blocking(move || match open_file(&opened) {
            Ok((mut file, _)) => {
                file.seek(SeekFrom::Start(from)).map_err(|e| cannot("read", &opened, e))?;
                Ok(Some(file))
            }
            Err(e) if e.kind() == IoErrorKind::NotFound => Ok(None),
            Err(e) => Err(cannot("read", &opened, e)),
        })
        .await?;
        let Some(file) = file else { return Ok(None) };
        let chunks = futures::stream::try_unfold((file, len.unwrap_or(u64::MAX)), move |(file, left)| {
            let path = path.clone();
            async move {
                let (file, chunk) =
                    blocking(move || read_chunk(file, left).map_err(|e| cannot("read", &path, e))).await?;
                let left = left - chunk.len() as u64;
                Ok((!chunk.is_empty()).then_some((chunk, (file, left))))
            }
        });
        Ok(Some(chunks.boxed()))
    }

    /// Deletes files; one that is gone already is as good as deleted.
    pub(super) async fn delete(&self, names: Vec<ObjectName>) -> Result<()> {
        names.iter().for_each(|_| self.counters.request(Request::Delete));
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        blocking(move || {
            paths.iter().try_for_each(|path| match fs::remove_file(path) {
                Err(e) if e.kind() != IoErrorKind::NotFound => Err(cannot("delete", path, e)),
                _ => Ok(()),
            })
        })
        .await
    }

    pub(super) async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<()> {
        self.counters.request(Request::Put);
        self.counters.sent(bytes.len());
        let written = self.writer().await?.put(&Key::from(name.to_string()), PutPayload::from(bytes)).await;
        written.map(|_| ()).map_err(|e| cannot("write", &self.path(name), io_error(e)))
    }

    pub(super) async fn modified_ms(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.counters.request(Request::Head);
        let path = self.path(name);
        blocking(move || match fs::metadata(&path) {
            Ok(meta) => Ok(meta.is_file().then(|| properties(&meta).modified_ms)),
            Err(e) if e.kind() == IoErrorKind::NotFound => Ok(None),
            Err(e) => Err(cannot("read", &path, e)),
        })
        .await
    }

    /// What writes into the folder as long as it is there: by itself it would make the folder anew beside the drive that held it.
    async fn writer(&self) -> Result<LocalFileSystem> {
        let root = self.root.clone();
        let open = move || LocalFileSystem::new_with_prefix(&root).map_err(|e| cannot("use", &root, io_error(e)));
        Ok(blocking(open).await?.with_fsync(true))
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.to_string())
    }
}

/// One place has one name, by whatever links it was reached; of what is missing, the path is followed as far as it goes.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Err(e) if is_absent(path, &e) => e,
        found => return found,
    };
    let path = std::path::absolute(path)?;
    let Some(parent) = path.parent() else { return Err(error) };
    let mut root = resolve(parent)?;
    match path.file_name() {
        Some(name) => root.push(name),
        // The only other part that a path ends with is `..`.
        None => drop(root.pop()),
    }
    Ok(root)
}

/// Lists our own folders and looks into no other.
fn walk(root: &Path, mut names: Names) -> Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(root).map_err(|e| cannot("list", root, e))? {
        let entry = entry.map_err(|e| cannot("list", root, e))?;
        names.count().map_err(|e| endless(root, e))?;
        if !ObjectName::FOLDERS.iter().any(|folder| entry.file_name() == *folder) {
            listing.strangers += 1;
        }
    }
    for folder in ObjectName::FOLDERS {
        walk_folder(&root.join(folder), folder, &mut listing, &mut names)?;
    }
    Ok(listing.sorted())
}

fn walk_folder(path: &Path, folder: &str, listing: &mut Listing, names: &mut Names) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if is_absent(path, &e) => return Ok(()),
        Err(e) => return Err(cannot("list", path, e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| cannot("list", path, e))?;
        names.count().map_err(|e| endless(path, e))?;
        let name = entry.file_name();
        let name = name.to_str().map_or(ParsedName::Stranger, |name| ParsedName::parse(&format!("{folder}/{name}")));
        if name == ParsedName::Stranger {
            listing.strangers += 1;
        } else if let Some(meta) = file_at(&entry.path())? {
            listing.add(name, || properties(&meta));
        } else {
            listing.strangers += 1;
        }
    }
    Ok(())
}

fn endless(path: &Path, endless: Endless) -> Error {
    let message = format!("cannot list {}: {endless}; {}", path.display(), endless.advice("the folder"));
    Error::new(ErrorKind::Remote, message)
}

/// The properties of a regular file, or of one that a link leads to. Nothing for what only bears such a name: a folder, a pipe,
/// a link that leads nowhere; nothing for what has vanished since.
fn file_at(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta).filter(Metadata::is_file)),
        Err(e) => match fs::symlink_metadata(path) {
            Ok(link) if link.is_symlink() => Ok(None),
            Err(gone) if gone.kind() == IoErrorKind::NotFound => Ok(None),
            _ => Err(cannot("read", path, e)),
        },
    }
}

/// A folder is absent only if nothing bears its name: behind a link that leads nowhere may be a drive that is not mounted.
fn is_absent(path: &Path, error: &io::Error) -> bool {
    let nothing = |e: io::Error| e.kind() == IoErrorKind::NotFound;
    error.kind() == IoErrorKind::NotFound && fs::symlink_metadata(path).err().is_some_and(nothing)
}

/// Reads a file up to a limit. What is no regular file is not opened: a pipe would never answer.
fn read(path: &Path, limit: u64) -> io::Result<Fetched> {
    let (file, size) = match open_file(path) {
        Err(e) if e.kind() == IoErrorKind::NotFound => return Ok(Fetched::Gone),
        opened => opened?,
    };
    if size > limit {
        return Ok(Fetched::TooLarge);
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Ok(Fetched::TooLarge);
    }
    Ok(Fetched::Bytes(bytes.into()))
}

/// Opens a regular file; anything else of that name counts as no file.
fn open_file(path: &Path) -> io::Result<(File, u64)> {
    match fs::metadata(path)? {
        meta if !meta.is_file() => Err(IoErrorKind::NotFound.into()),
        meta => Ok((File::open(path)?, meta.len())),
    }
}

/// How much of a file is read at once.
const CHUNK: u64 = 256 << 10;

fn read_chunk(file: File, left: u64) -> io::Result<(File, Bytes)> {
    let mut chunk = Vec::new();
    let mut part = file.take(left.min(CHUNK));
    part.read_to_end(&mut chunk)?;
    Ok((part.into_inner(), chunk.into()))
}

/// The tag is the time and the size: a sync tool that completes or replaces a file changes one of them.
fn properties(meta: &Metadata) -> Properties {
    let age = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let modified_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Properties { size: meta.len(), etag: Some(format!("{:x}-{:x}", age.as_nanos(), meta.len())), modified_ms }
}

fn cannot(doing: &str, path: &Path, error: io::Error) -> Error {
    let advice = match error.kind() {
        IoErrorKind::NotADirectory | IoErrorKind::AlreadyExists if path.is_file() => ": it is a file, not a folder",
        IoErrorKind::NotADirectory => ": a part of the path is a file, not a folder",
        IoErrorKind::IsADirectory => ": a folder lies where a file belongs; move it away",
        IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem => ": check the folder's permissions",
        IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded => ": make room on the disk",
        IoErrorKind::NotFound => ": check that the folder is there, and its drive mounted",
        _ => "",
    };
    Error::new(ErrorKind::Remote, format!("cannot {doing} {}{advice}", path.display())).caused_by(error)
}

/// The operating system's error inside a store's.
fn io_error(error: object_store::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return io
                .raw_os_error()
                .map_or_else(|| io::Error::new(io.kind(), io.to_string()), io::Error::from_raw_os_error);
        }
        cause = inner.source();
    }
    io::Error::other(error.to_string())
}
