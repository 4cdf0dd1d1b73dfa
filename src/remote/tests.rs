//! Remotes in folders, in memory and in stores of a caller's own: oddities, limits, counts.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tempfile::tempdir;

use super::{Fetched, Remote, RemoteOptions, Traffic};
use crate::error::{ErrorKind, Result};
use crate::model::ChangeId;
use crate::wire::ObjectName;

pub(super) fn change(n: u16) -> ObjectName {
    let [high, low] = n.to_be_bytes();
    let bytes = [1, 0x9a, 0, 0, high, low, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
    ObjectName::Change(ChangeId::from_bytes(bytes).unwrap())
}

/// Options of somebody who does not want to wait for what is meant to fail.
pub(super) fn hurried() -> RemoteOptions {
    RemoteOptions::default()
        .request_timeout(Duration::from_millis(300))
        .connect_timeout(Duration::from_millis(300))
        .max_retries(1)
        .retry_timeout(Duration::from_secs(1))
}

fn in_folder(path: &FsPath) -> Result<Remote> {
    Remote::from_url(path.to_str().unwrap(), &RemoteOptions::default())
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn names(remote: &Remote) -> Vec<ObjectName> {
    remote.list().await.unwrap().names()
}

#[tokio::test]
async fn a_folder_is_made_and_holds_plain_files() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a b/é");
    let remote = in_folder(&path).unwrap();
    assert!(!path.exists(), "nothing is made before it is asked for");
    remote.make().await.unwrap();
    assert_eq!(remote.list().await.unwrap(), super::Listing::default());

    remote.put(&change(2), bytes("two")).await.unwrap();
    remote.put(&change(1), bytes("one")).await.unwrap();
    remote.put(&change(1), bytes("one")).await.unwrap();
    assert_eq!(fs::read(path.join(change(1).to_string())).unwrap(), b"one");
    assert_eq!(names(&remote).await, [change(1), change(2)]);

    assert_eq!(remote.get(&change(1), 3).await.unwrap(), Fetched::Bytes(bytes("one")));
    assert_eq!(remote.get(&change(1), u64::MAX).await.unwrap(), Fetched::Bytes(bytes("one")));
    assert_eq!(remote.get(&change(1), 2).await.unwrap(), Fetched::TooLarge);
    assert_eq!(remote.get(&change(3), 9).await.unwrap(), Fetched::Gone);
    assert_eq!(remote.modified_ms(&change(3)).await.unwrap(), None);
    let listing = remote.list().await.unwrap();
    let (listed, modified) = (&listing.changes[0], listing.newest_modified_ms);
    assert_eq!((listed.size, Some(modified)), (3, remote.modified_ms(&change(1)).await.unwrap()));
    assert!(!remote.has_own_clock());
}

#[test]
fn every_spelling_of_a_folder_has_one_url() {
    let dir = tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    let plain = root.join("x y");
    let remote = in_folder(&plain).unwrap();
    let url = remote.url().to_owned();
    assert!(url.starts_with("file:///") && url.ends_with("/x%20y"), "{url}");
    let same = |spelling: &str| {
        assert_eq!(Remote::from_url(spelling, &RemoteOptions::default()).unwrap().url(), url, "{spelling}");
    };
    same(&url);
    same(&format!("{url}/"));
    same(&format!("{}/../x y/.", plain.display()));
    #[cfg(unix)]
    {
        fs::create_dir(&plain).unwrap();
        std::os::unix::fs::symlink(&plain, root.join("link")).unwrap();
        same(root.join("link").to_str().unwrap());
    }
}

/// Between the listing and the put a drive goes: nothing is written beside it.
#[tokio::test]
async fn a_folder_that_goes_is_not_made_by_writing() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("drive/notes");
    let remote = in_folder(&path).unwrap();
    remote.make().await.unwrap();
    remote.put(&change(1), bytes("one")).await.unwrap();
    fs::rename(dir.path().join("drive"), dir.path().join("away")).unwrap();
    for error in [remote.put(&change(2), bytes("two")).await.unwrap_err(), remote.list().await.unwrap_err()] {
        assert!(error.to_string().contains("its drive mounted"), "{error}");
    }
    assert!(!dir.path().join("drive").exists());
}

#[tokio::test]
async fn traffic_counts_calls_and_bytes_over_all_clones() {
    let dir = tempdir().unwrap();
    let in_own_store = Remote::from_store("own", Arc::new(InMemory::new()), "base").unwrap();
    for remote in [in_folder(dir.path()).unwrap(), in_own_store] {
        let twin = remote.clone();
        remote.put(&change(1), bytes("one")).await.unwrap();
        twin.get(&change(1), 10).await.unwrap();
        twin.get(&change(2), 10).await.unwrap();
        twin.list().await.unwrap();
        twin.modified_ms(&change(1)).await.unwrap();
        let want = Traffic { list: 1, get: 2, put: 1, delete: 0, head: 1, bytes_in: 3, bytes_out: 3 };
        assert_eq!((remote.traffic(), twin.traffic()), (want, want), "{remote:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn odd_entries_do_not_break_a_listing() {
    use std::ffi::OsStr;
    use std::os::unix::{ffi::OsStrExt, fs::symlink};

    let dir = tempdir().unwrap();
    let remote = in_folder(dir.path()).unwrap();
    let at = |n| dir.path().join(change(n).to_string());
    remote.put(&change(1), bytes("one")).await.unwrap();
    let changes = dir.path().join("changes");
    for name in [&b"not \xff utf-8"[..], b"new\nline", b"Icon\r", b"x.msgpack#1", b".syncthing.x.msgpack.tmp", b"pipe|"]
    {
        fs::write(changes.join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    fs::write(changes.join("hello.msgpack"), b"abc").unwrap();
    fs::create_dir(at(2)).unwrap();
    symlink("nowhere", at(3)).unwrap();
    symlink(at(4), at(4)).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(at(5)).status().unwrap();
    assert!(pipe.success());
    symlink(at(1), at(6)).unwrap();
    let strange = dir.path().join("photos/changes");
    fs::create_dir_all(&strange).unwrap();
    fs::write(strange.join("deep.msgpack"), b"x").unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();

    let listing = remote.list().await.unwrap();
    assert_eq!(listing.names(), [change(1), change(6)]);
    let refused: Vec<_> = listing.refused.iter().map(|r| (r.name.as_str(), r.size)).collect();
    assert_eq!(refused, [("changes/hello.msgpack", 3)]);
    assert_eq!(listing.strangers, 6 + 4 + 2);
    for n in 2..=3 {
        assert_eq!(remote.get(&change(n), 10).await.unwrap(), Fetched::Gone);
    }
    assert_eq!(remote.get(&change(5), 10).await.unwrap(), Fetched::Gone);
}

#[tokio::test]
async fn a_completed_file_has_another_tag() {
    let dir = tempdir().unwrap();
    let remote = in_folder(dir.path()).unwrap();
    remote.put(&change(1), bytes("ha")).await.unwrap();
    let half = remote.list().await.unwrap();
    fs::write(dir.path().join(change(1).to_string()), b"half").unwrap();
    assert_ne!(remote.list().await.unwrap().changes[0].stamp, half.changes[0].stamp);
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_read_does_not_look_absent() {
    use std::os::unix::fs::symlink;

    for target in ["changes", "drive that is not mounted"] {
        let dir = tempdir().unwrap();
        let remote = in_folder(dir.path()).unwrap();
        symlink(target, dir.path().join("changes")).unwrap();
        let error = remote.list().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(error.to_string().contains("changes"), "{error}");
    }
    let dir = tempdir().unwrap();
    let remote = in_folder(&dir.path().join("x")).unwrap();
    remote.make().await.unwrap();
    fs::write(dir.path().join("x/changes"), b"").unwrap();
    let error = remote.list().await.unwrap_err();
    assert!(error.to_string().contains("a file, not a folder"), "{error}");
    fs::remove_dir_all(dir.path().join("x")).unwrap();
    let error = remote.list().await.unwrap_err();
    assert!(error.to_string().contains("check that the folder is there"), "{error}");
}

#[tokio::test]
async fn places_that_can_be_no_folder_say_why() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    for path in [file.clone(), file.join("below"), file.join("far/below")] {
        let error = in_folder(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(error.to_string().contains("file, not a folder"), "{error}");
    }
    let remote = in_folder(&dir.path().join("x")).unwrap();
    remote.make().await.unwrap();
    fs::write(dir.path().join("x/changes"), b"").unwrap();
    let error = remote.put(&change(1), bytes("one")).await.unwrap_err();
    assert!(error.to_string().contains(&change(1).to_string()), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempdir().unwrap();
    let remote = in_folder(dir.path()).unwrap();
    remote.put(&change(1), bytes("one")).await.unwrap();
    let set_mode = |mode| fs::set_permissions(dir.path().join("changes"), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o555);
    // The superuser may write anywhere, and there is nothing to be seen then.
    if let Err(error) = remote.put(&change(2), bytes("two")).await {
        assert!(error.to_string().contains("check the folder's permissions"), "{error}");
        assert_eq!(names(&remote).await, [change(1)]);
    }
    set_mode(0o755);
}

#[tokio::test]
async fn memory_is_shared_by_name_and_keyed_by_path() {
    let open = |url: &str| Remote::from_url(url, &RemoteOptions::default()).unwrap();
    let here = open("memory://shared-by-name/a");
    here.put(&change(1), bytes("one")).await.unwrap();
    drop(here);
    assert_eq!(names(&open("memory://shared-by-name/a/")).await, [change(1)]);
    assert_eq!(names(&open("memory://shared-by-name/b")).await, []);
    assert_eq!(names(&open("memory://shared-by-another-name/a")).await, []);
    assert_eq!(open("memory://shared-by-name/a%20b/").url(), "memory://shared-by-name/a%20b");
    assert!(!open("memory://shared-by-name").has_own_clock());
}

/// A store that says whatever it likes about sizes, lists in any order, and counts what is taken from it.
#[derive(Debug, Default)]
struct Liar {
    inner: InMemory,
    claimed: Option<u64>,
}

impl fmt::Display for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Liar")
    }
}

type Answer<'f, T> = futures::future::BoxFuture<'f, object_store::Result<T>>;

impl ObjectStore for Liar {
    fn put_opts<'a, 'b, 'f>(&'a self, at: &'b Path, bytes: PutPayload, options: PutOptions) -> Answer<'f, PutResult>
    where
        'a: 'f,
        'b: 'f,
    {
        self.inner.put_opts(at, bytes, options)
    }

    fn put_multipart_opts<'a, 'b, 'f>(
        &'a self,
        at: &'b Path,
        options: PutMultipartOptions,
    ) -> Answer<'f, Box<dyn MultipartUpload>>
    where
        'a: 'f,
        'b: 'f,
    {
        self.inner.put_multipart_opts(at, options)
    }

    fn get_opts<'a, 'b, 'f>(&'a self, at: &'b Path, options: GetOptions) -> Answer<'f, GetResult>
    where
        'a: 'f,
        'b: 'f,
    {
        Box::pin(async move {
            let mut found = self.inner.get_opts(at, options).await?;
            if let Some(claimed) = self.claimed {
                found.meta.size = claimed;
                found.range = Range { start: 0, end: claimed };
                // Without an end: whoever reads on past the limit never comes back.
                let endless = stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 1000])));
                found.payload = GetResultPayload::Stream(endless.boxed());
            }
            Ok(found)
        })
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let listed = self.inner.list(prefix).collect::<Vec<_>>();
        stream::once(listed).flat_map(|all| stream::iter(all.into_iter().rev())).boxed()
    }

    fn list_with_delimiter<'a, 'b, 'f>(&'a self, prefix: Option<&'b Path>) -> Answer<'f, ListResult>
    where
        'a: 'f,
        'b: 'f,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'c, 'f>(&'a self, from: &'b Path, to: &'c Path, options: CopyOptions) -> Answer<'f, ()>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        self.inner.copy_opts(from, to, options)
    }
}

#[tokio::test]
async fn a_store_that_lies_about_sizes_cannot_fill_memory() {
    for (claimed, received) in [(0, 11_000), (10_000, 11_000), (u64::MAX, 0)] {
        let store = Liar { claimed: Some(claimed), ..Liar::default() };
        let remote = Remote::from_store("liar", Arc::new(store), "").unwrap();
        remote.put(&change(1), bytes("one")).await.unwrap();
        assert_eq!(remote.get(&change(1), 10_000).await.unwrap(), Fetched::TooLarge);
        assert_eq!(remote.traffic().bytes_in, received);
    }
}

#[tokio::test]
async fn the_order_of_a_store_is_not_relied_on() {
    let remote = Remote::from_store("liar", Arc::new(Liar::default()), "a/b").unwrap();
    for n in [2, 3, 1] {
        remote.put(&change(n), bytes("x")).await.unwrap();
    }
    assert_eq!(names(&remote).await, [change(1), change(2), change(3)]);
    assert_eq!(remote.url(), "liar");
    assert!(remote.has_own_clock());
}

#[tokio::test]
async fn a_crowd_of_strangers_is_walked_around() {
    use object_store::ObjectStoreExt;

    let store = Arc::new(InMemory::new());
    for n in 0..1500 {
        store.put(&Path::from(format!("base/a/{n}")), PutPayload::default()).await.unwrap();
    }
    let remote = Remote::from_store("crowd", store, "base").unwrap();
    remote.put(&change(1), bytes("x")).await.unwrap();
    let folders = ObjectName::FOLDERS.len() as u64;
    for requests in [1 + folders, folders] {
        let before = remote.traffic().list;
        let listing = remote.list().await.unwrap();
        assert_eq!((listing.known(), listing.strangers), (1, 0));
        assert_eq!(remote.traffic().list - before, requests);
    }
}
