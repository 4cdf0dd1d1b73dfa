//! The demo's folder: made, never emptied; and the list of what is in one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A folder that was not there or is empty, by its absolute path; without a name, a new one.
pub fn make(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder = match named {
        Some(folder) => named_folder(folder)?,
        None => temporary_folder()?,
    };
    std::path::absolute(&folder).map_err(|error| cannot_be_made(&folder, &error))
}

/// The names and sizes of all files in a folder and below it, in order.
pub fn files(folder: &Path) -> Result<Vec<(String, u64)>, Failure> {
    let mut found = Vec::new();
    walk(folder, "", &mut found)
        .map_err(|error| Failure::io(format!("{}: the folder cannot be read", folder.display()), &error))?;
    found.sort();
    Ok(found)
}

fn named_folder(folder: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(folder).map_err(|error| cannot_be_made(folder, &error))?;
    let mut entries = fs::read_dir(folder).map_err(|error| cannot_be_made(folder, &error))?;
    match entries.next() {
        None => Ok(folder.to_owned()),
        Some(_) => {
            let message = format!("{} is not empty: the demo needs an empty folder, or a new one", folder.display());
            Err(Failure::usage(message))
        }
    }
}

/// Who makes a folder owns it: the first free name is taken, and nothing that was there is used.
fn temporary_folder() -> Result<PathBuf, Failure> {
    let process = std::process::id();
    for number in 1_u64.. {
        let folder = std::env::temp_dir().join(format!("zvon-demo-{process}-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_be_made(&folder, &error)),
        }
    }
    Err(Failure::usage("no name is left for a temporary folder: name one"))
}

fn cannot_be_made(folder: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{}: the demo's folder cannot be made", folder.display()), error)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let about = entry.metadata()?;
        if about.is_dir() {
            walk(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.push((name, about.len()));
        }
    }
    Ok(())
}
