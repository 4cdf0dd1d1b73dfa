//! A remote in a folder into which tests write as a sync tool would, and files of changes made without zvon.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use zvon::{Remote, RemoteOptions};

/// A folder that goes when this is dropped.
pub struct SharedFolder(TempDir);

impl SharedFolder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn remote(&self) -> Remote {
        Remote::from_url(self.root().to_str().unwrap(), &RemoteOptions::default()).unwrap()
    }

    /// A path below the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The files of a folder of the remote, by name; none where there is no such folder.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    pub fn changes(&self) -> Vec<PathBuf> {
        self.files("changes")
    }

    /// Everything below the root goes.
    pub fn empty(&self) {
        for entry in fs::read_dir(self.root()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// What a file manager's "copy folder" makes of it.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        for folder in fs::read_dir(self.root()).unwrap() {
            let folder = folder.unwrap().file_name().into_string().unwrap();
            for file in self.files(&folder) {
                let name = format!("{folder}/{}", file.file_name().unwrap().to_str().unwrap());
                copy.write(&name, fs::read(file).unwrap());
            }
        }
        copy
    }
}

/// The name of a file below the remote's base path.
pub fn name_of(file: &Path) -> String {
    format!("changes/{}", file.file_name().unwrap().to_str().unwrap())
}

/// An id of the first days that the clock knows, older than whatever a test writes now.
pub fn old_id(n: u16) -> String {
    format!("019b76da-b{n:03x}-7000-8000-0123456789ab")
}

pub fn file_name(id: &str) -> String {
    format!("changes/{id}.msgpack")
}

/// A change of the table `note`, whose fields are given as a JSON object.
pub fn note_change(id: &str, row: &str, fields: &Value) -> Value {
    let fields: Vec<Value> = fields.as_object().unwrap().iter().map(|(name, value)| field(name, value)).collect();
    change(id, "note", row, &fields)
}

pub fn change(id: &str, table: &str, row: &str, fields: &[Value]) -> Value {
    let author = "019b76da-a800-7000-8000-aaaaaaaaaaaa";
    json!({
        "change": { "id": id, "author_id": author, "entity_type": table, "entity_id": row, "merged": false },
        "fields": fields,
    })
}

pub fn field(name: &str, value: &Value) -> Value {
    json!({ "field_name": name, "field_value": value })
}

/// The bytes of a change's file, as any MessagePack library writes them.
pub fn msgpack(file: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(file).unwrap()
}
