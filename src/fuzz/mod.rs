//! What the fuzz targets of `fuzz/` run: for each kind of input from outside, what must hold whatever it is. Exists for them, and
//! for the tests that run again what they kept; no part of an ordinary build.

mod capture;
mod clone;
mod dice;
mod schema;
mod wire;

pub use capture::triggers;
pub use clone::clone_ddl;
pub use wire::{change_file, control_object, entity_id, pack, schema_object};

pub use crate::remote::fuzz::remote_url;
pub use crate::seal::fuzz::sealed;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Runs a target on every input that is kept: those that reach far, and those that once went wrong.
    fn replay(target: &str, run: fn(&[u8])) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{}", root.display());
        for file in files {
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }

    #[test]
    fn kept_change_files() {
        replay("change_file", super::change_file);
    }

    #[test]
    fn kept_packs() {
        replay("pack", super::pack);
    }

    #[test]
    fn kept_schema_objects() {
        replay("schema_object", super::schema_object);
    }

    #[test]
    fn kept_control_objects() {
        replay("control_object", super::control_object);
    }

    #[test]
    fn kept_remote_urls() {
        replay("remote_url", super::remote_url);
    }

    #[test]
    fn kept_entity_ids() {
        replay("entity_id", super::entity_id);
    }

    #[test]
    fn kept_sealed_objects() {
        replay("sealed", super::sealed);
    }

    #[test]
    fn kept_odd_schemas() {
        replay("triggers", super::triggers);
    }

    #[test]
    fn kept_definitions_of_strangers() {
        replay("clone_ddl", super::clone_ddl);
    }
}
