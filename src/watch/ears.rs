//! What the operating system tells of files: the database's, and those of a remote in a folder. Hears; decides nothing.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::wire::{ObjectName, ParsedName};

/// More objects than this are not told apart: there is something new among so many.
const MAX_OBJECTS: usize = 10_000;

/// What was heard of a folder.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Objects {
    /// The objects that something happened to.
    pub(super) named: HashSet<ObjectName>,
    /// Whether more happened than the names tell.
    pub(super) more: bool,
}

/// Where to listen.
#[derive(Debug, Default)]
struct Places {
    /// The database and the files that SQLite keeps beside it.
    database: Vec<PathBuf>,
    /// The remote, where it is a folder.
    remote: Option<PathBuf>,
}

/// What was heard and not taken yet.
#[derive(Debug, Default)]
struct Heard {
    places: Places,
    database: Notify,
    remote: Notify,
    objects: Mutex<Objects>,
    /// Folders that are not what was listened to any more.
    lost: Mutex<Vec<PathBuf>>,
}

/// A listener; it hears until it is dropped.
pub(super) struct Ears {
    heard: Arc<Heard>,
    watcher: Option<RecommendedWatcher>,
    listening: HashSet<PathBuf>,
    /// Why something cannot be heard, once.
    pub(super) deaf: Option<String>,
}

impl Ears {
    /// Listens to a database file and a remote's folder, as far as there are any and the system lets it.
    pub(super) fn new(database: Option<&Path>, remote: Option<&Path>) -> Self {
        let places =
            Places { database: database.map(database_files).unwrap_or_default(), remote: remote.map(Into::into) };
        let heard = Arc::new(Heard { places, ..Heard::default() });
        let mut ears = Self { heard: Arc::clone(&heard), watcher: None, listening: HashSet::new(), deaf: None };
        if database.is_some() || remote.is_some() {
            match notify::recommended_watcher(move |event| heard.take(event)) {
                Ok(watcher) => ears.watcher = Some(watcher),
                Err(e) => ears.deaf = Some(e.to_string()),
            }
        }
        ears.listen();
        ears
    }

    /// Listens to the folders that have appeared since. Called before a remote is listed, so that nothing falls between.
    pub(super) fn listen(&mut self) {
        let lost = std::mem::take(&mut *lock(&self.heard.lost));
        for folder in lost {
            self.listening.remove(&folder);
        }
        for folder in self.heard.places.folders() {
            self.listen_to(folder);
        }
    }

    fn listen_to(&mut self, folder: PathBuf) {
        let Some(watcher) = self.watcher.as_mut().filter(|_| !self.listening.contains(&folder) && folder.is_dir())
        else {
            return;
        };
        match watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.listening.insert(folder);
            }
            Err(e) => self.deaf = Some(format!("{}: {e}", folder.display())),
        }
    }

    /// Whether the database can be heard at all.
    pub(super) fn hear_database(&self) -> bool {
        self.heard.places.database_folder().is_some_and(|folder| self.listening.contains(folder))
    }

    /// Ends when something happened to the database's files since the last time.
    pub(super) async fn database(&self) {
        self.heard.database.notified().await;
    }

    /// Ends when something happened to the remote's folder since the last time.
    pub(super) async fn remote(&self) {
        self.heard.remote.notified().await;
    }

    /// Takes what was heard of the remote's folder.
    pub(super) fn take_objects(&self) -> Objects {
        std::mem::take(&mut *lock(&self.heard.objects))
    }
}

impl Places {
    fn database_folder(&self) -> Option<&Path> {
        self.database.first().and_then(|file| file.parent())
    }

    /// Folders one by one: what a sync tool keeps beside ours is none of our concern.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = self.database_folder().map(Into::into).into_iter().collect();
        if let Some(root) = &self.remote {
            folders.push(root.clone());
            folders.extend(ObjectName::FOLDERS.iter().map(|folder| root.join(folder)));
        }
        folders
    }

    /// What a path below the remote's root stands for.
    fn object(&self, path: &Path) -> Option<Part> {
        let name = path.strip_prefix(self.remote.as_ref()?).ok()?.to_str()?;
        if name.is_empty() || ObjectName::FOLDERS.contains(&name) {
            return Some(Part::Folder);
        }
        match ParsedName::parse(&name.replace(std::path::MAIN_SEPARATOR, "/")) {
            ParsedName::Known(name) => Some(Part::Object(name)),
            // Whatever is meant to be a change is looked at, and told.
            ParsedName::Refused(_) => Some(Part::Folder),
            ParsedName::Stranger => None,
        }
    }
}

/// A part of a remote's folder.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Object(ObjectName),
    Folder,
}

impl Heard {
    fn take(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.miss() };
        if event.need_rescan() {
            return self.miss();
        }
        if !changes_content(event.kind) {
            return;
        }
        if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
            let folders = self.places.folders();
            lock(&self.lost).extend(event.paths.iter().filter(|path| folders.contains(path)).cloned());
        }
        for path in &event.paths {
            if self.places.database.contains(path) {
                self.database.notify_one();
            }
            if let Some(part) = self.places.object(path) {
                self.hear(part);
            }
        }
    }

    fn hear(&self, part: Part) {
        let mut objects = lock(&self.objects);
        match part {
            Part::Object(name) if objects.named.len() < MAX_OBJECTS => {
                objects.named.insert(name);
            }
            _ => objects.more = true,
        }
        drop(objects);
        self.remote.notify_one();
    }

    /// The system lost events: anything may have happened.
    fn miss(&self) {
        self.database.notify_one();
        if self.places.remote.is_some() {
            self.hear(Part::Folder);
        }
    }
}

/// Whether something was written, and not only opened, read or given other rights.
fn changes_content(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Metadata(_)) => false,
        _ => true,
    }
}

/// A commit writes the file itself, its write-ahead log, or ends its rollback journal.
fn database_files(database: &Path) -> Vec<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = OsString::from(database);
        name.push(suffix);
        PathBuf::from(name)
    };
    vec![database.to_owned(), beside("-wal"), beside("-journal")]
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    const CHANGE: &str = "changes/0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b.msgpack";

    fn heard() -> Heard {
        let places = Places { database: database_files(Path::new("/data/notes.db")), remote: Some("/shared".into()) };
        Heard { places, ..Heard::default() }
    }

    fn objects_after(kind: EventKind, path: &str) -> Objects {
        let heard = heard();
        heard.take(Ok(Event::new(kind).add_path(path.into())));
        lock(&heard.objects).clone()
    }

    #[test]
    fn objects_are_told_from_what_lies_beside_them() {
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let objects = objects_after(renamed, &format!("/shared/{CHANGE}"));
        assert_eq!(objects.named.into_iter().map(|name| name.to_string()).collect::<Vec<_>>(), [CHANGE]);
        let created = EventKind::Create(CreateKind::Any);
        for folder in ["/shared/changes", "/shared", "/shared/changes/broken.msgpack"] {
            assert_eq!(objects_after(created, folder), Objects { more: true, ..Objects::default() }, "{folder}");
        }
        for stranger in
            ["/shared/.stfolder", "/shared/changes/.syncthing.x.tmp", "/data/notes.db-wal", "/shared/changes/a#1"]
        {
            assert_eq!(objects_after(created, stranger), Objects::default(), "{stranger}");
        }
    }

    #[test]
    fn reading_is_not_heard() {
        let path = format!("/shared/{CHANGE}");
        for kind in [
            EventKind::Access(AccessKind::Open(AccessMode::Any)),
            EventKind::Access(AccessKind::Close(AccessMode::Read)),
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
        ] {
            assert_eq!(objects_after(kind, &path), Objects::default(), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn commits_are_heard_by_their_files() {
        let heard = heard();
        for path in ["/data/notes.db", "/data/notes.db-wal", "/data/notes.db-journal"] {
            heard.take(Ok(Event::new(EventKind::Modify(ModifyKind::Data(DataChange::Any))).add_path(path.into())));
            heard.database.notified().await;
        }
        heard.take(Ok(Event::new(EventKind::Remove(RemoveKind::File)).add_path("/data/notes.db-journal".into())));
        heard.database.notified().await;
        heard.take(Err(notify::Error::generic("the queue is full")));
        heard.database.notified().await;
        assert!(lock(&heard.objects).more);
    }

    #[test]
    fn more_objects_than_are_told_apart_are_still_heard() {
        let heard = heard();
        for n in 0..=MAX_OBJECTS {
            let path = format!("/shared/changes/0199a1b2-c3d4-7e5f-8a9b-{n:012x}.msgpack");
            heard.take(Ok(Event::new(EventKind::Create(CreateKind::File)).add_path(path.into())));
        }
        let objects = lock(&heard.objects);
        assert!(objects.more && objects.named.len() == MAX_OBJECTS);
    }
}
