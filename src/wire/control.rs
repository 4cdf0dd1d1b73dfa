//! The control objects of a remote: what it is (`identity/`), how it may be laid out (`layout/`), what its tables are (`schemas/`).
//! Owns their bytes and their limits; whether a definition's SQL may be run is for `db` to judge.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::BadFile;

/// The version of everything under a base path that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u64 = 1;

/// The word in `requires` of an encrypted remote.
const ENCRYPTION: &str = "encryption";

/// The most bytes of an identity or layout object.
const MAX_CONTROL_BYTES: usize = 64 << 10;
/// The most bytes of a table definition.
pub(crate) const MAX_DEFINITION_BYTES: usize = 1 << 20;
/// The deepest that a control object nests: a list in a map, and room for keys that are not known yet.
const MAX_DEPTH: usize = 16;

/// What `identity/{uuid}` holds: the remote's name and what a program must know to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteIdentity {
    /// The version of the format that the remote is written in.
    format: u64,
    /// The UUID that is the object's name too.
    #[serde(deserialize_with = "text")]
    pub(crate) identity: String,
    /// What a program must know beyond the format to read or write here, such as encryption.
    requires: Vec<String>,
}

/// Text, and no bytes that happen to be some, which would do for serde.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
    from.deserialize_str(Text)
}

impl RemoteIdentity {
    pub(crate) fn new(identity: impl Into<String>) -> Self {
        Self { format: FORMAT, identity: identity.into(), requires: Vec::new() }
    }

    /// The same, of a remote whose other objects are sealed.
    pub(crate) fn encrypted(mut self) -> Self {
        self.requires = vec![ENCRYPTION.to_owned()];
        self
    }

    /// Whether the remote's other objects are sealed.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.requires.iter().any(|word| word == ENCRYPTION)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        write(self)
    }

    /// Reads the object; refused if this program is too old for the remote that it names.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadFile> {
        let identity: Self = read(bytes, MAX_CONTROL_BYTES, "identity")?;
        match identity.format {
            FORMAT => {}
            0 => return Err(BadFile::WrongType { part: "identity" }),
            _ => return Err(BadFile::NewerFormat),
        }
        let is_understood = identity.requires.iter().all(|word| word == ENCRYPTION);
        if is_understood { Ok(identity) } else { Err(BadFile::UnknownRequirement) }
    }
}

/// What `layout/{uuid}.msgpack` holds: the form in which changes may lie on the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// One file a change, and nothing else.
    Files,
    /// Loose files and packs.
    Packs,
}

#[derive(Serialize, Deserialize)]
struct LayoutObject {
    layout: Layout,
}

impl Layout {
    pub(crate) fn encode(self) -> Vec<u8> {
        write(&LayoutObject { layout: self })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadFile> {
        read(bytes, MAX_CONTROL_BYTES, "layout").map(|object: LayoutObject| object.layout)
    }
}

/// What makes two rows of a table the same row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Identity {
    /// The values of its key columns.
    Key,
    /// An id of its own, given when it was inserted; its integer key is local to each replica.
    Generated,
}

/// What `schemas/{hash}.msgpack` holds: a table as a new replica creates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableDefinition {
    /// The table's name as `CREATE TABLE` spells it.
    pub(crate) table: String,
    /// Its `CREATE TABLE`, then its `CREATE INDEX`es, as `sqlite_schema.sql` holds them.
    pub(crate) statements: Vec<String>,
    pub(crate) identity: Identity,
    /// The columns whose values identify a row, in the order in which the entity id has them.
    pub(crate) key: Vec<String>,
    /// Whether a row without its parent is held.
    pub(crate) enforce_fk: bool,
    /// 0 at a first `track`; the newest known version + 1 for a later change. Equal versions: the greater hash counts.
    pub(crate) version: u64,
    /// The table's name in changes, where it was renamed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entity_type: Option<String>,
    /// The columns' names in changes, by their names in the table, where they were renamed since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) renamed: BTreeMap<String, String>,
}

impl TableDefinition {
    /// The table's name in changes.
    pub(crate) fn entity_type(&self) -> &str {
        self.entity_type.as_deref().unwrap_or(&self.table)
    }

    /// The object's bytes: always the same for the same definition.
    pub(crate) fn encode(&self) -> Vec<u8> {
        write(self)
    }

    /// Reads the object. What this program would not write in these very bytes is refused: a definition is understood whole or not used.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadFile> {
        let definition: Self = read(bytes, MAX_DEFINITION_BYTES, "table definition")?;
        if definition.encode() == bytes { Ok(definition) } else { Err(BadFile::NotCanonical) }
    }

    /// The SHA-256 of the object's bytes, which is its name.
    pub(crate) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }
}

fn write<T: Serialize>(object: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(object).expect("these types have known lengths and memory takes any bytes")
}

fn read<T: DeserializeOwned>(bytes: &[u8], limit: usize, part: &'static str) -> Result<T, BadFile> {
    if bytes.len() > limit {
        return Err(BadFile::TooLarge { limit });
    }
    let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(bytes));
    deserializer.set_max_depth(MAX_DEPTH);
    // The cause is left out: it would quote what the object holds.
    let object = T::deserialize(&mut deserializer).map_err(|_| BadFile::WrongType { part })?;
    if deserializer.position() == bytes.len() as u64 { Ok(object) } else { Err(BadFile::TrailingBytes) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn definition() -> TableDefinition {
        TableDefinition {
            table: "track".into(),
            statements: vec!["CREATE TABLE track (id INTEGER PRIMARY KEY, name TEXT)".into()],
            identity: Identity::Key,
            key: vec!["id".into()],
            enforce_fk: true,
            version: 0,
            entity_type: None,
            renamed: std::collections::BTreeMap::new(),
        }
    }

    /// The one golden object below a folder of format 1: its name and its bytes.
    fn golden(folder: &str) -> (String, Vec<u8>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/v1").join(folder);
        let entry = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    }

    #[test]
    fn what_is_written_is_the_golden_bytes() {
        let (name, bytes) = golden("identity");
        assert_eq!(RemoteIdentity::new(name).encode(), bytes);
        let (_, bytes) = golden("layout");
        assert_eq!(Layout::Files.encode(), bytes);
        let (name, bytes) = golden("schemas");
        let album = TableDefinition {
            table: "album".into(),
            statements: vec![
                "CREATE TABLE album (id INTEGER PRIMARY KEY, title TEXT NOT NULL, artist_id INTEGER REFERENCES artist)"
                    .into(),
                "CREATE INDEX album_artist ON album (artist_id)".into(),
            ],
            identity: Identity::Generated,
            key: vec!["id".into()],
            enforce_fk: true,
            version: 0,
            entity_type: None,
            renamed: std::collections::BTreeMap::new(),
        };
        assert_eq!(album.encode(), bytes);
        assert_eq!(TableDefinition::decode(&bytes), Ok(album.clone()));
        let hash: String = album.hash().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(name, format!("{hash}.msgpack"));
    }

    fn pack(value: serde_json::Value) -> Vec<u8> {
        rmp_serde::to_vec_named(&value).unwrap()
    }

    #[test]
    fn definitions_round_trip_and_equal_ones_have_equal_names() {
        let one = definition();
        assert_eq!(TableDefinition::decode(&one.encode()), Ok(one.clone()));
        assert_eq!(one.hash(), definition().hash());
        assert_ne!(one.hash(), TableDefinition { version: 1, ..definition() }.hash());
    }

    #[test]
    fn a_definition_in_other_bytes_is_refused() {
        let positional = rmp_serde::to_vec(&definition()).unwrap();
        assert_eq!(TableDefinition::decode(&positional), Err(BadFile::NotCanonical));
        let mut longer = definition().encode();
        longer.push(0xC0);
        assert_eq!(TableDefinition::decode(&longer), Err(BadFile::TrailingBytes));
        let huge = vec![0; MAX_DEFINITION_BYTES + 1];
        assert_eq!(TableDefinition::decode(&huge), Err(BadFile::TooLarge { limit: MAX_DEFINITION_BYTES }));
        let deep = [vec![0x91; 200_000], vec![0xC0]].concat();
        assert_eq!(TableDefinition::decode(&deep), Err(BadFile::WrongType { part: "table definition" }));
    }

    #[test]
    fn an_identity_this_program_is_too_old_for_is_refused() {
        let one = RemoteIdentity::new("019b76da-a800-7000-8000-000000000001");
        assert_eq!(RemoteIdentity::decode(&one.encode()), Ok(one));
        let newer = pack(json!({"format": 2, "identity": "x", "requires": []}));
        assert_eq!(RemoteIdentity::decode(&newer), Err(BadFile::NewerFormat));
        let sealed = pack(json!({"format": 1, "identity": "x", "requires": ["encryption"]}));
        assert_eq!(RemoteIdentity::decode(&sealed), Ok(RemoteIdentity::new("x").encrypted()));
        assert!(RemoteIdentity::new("x").encrypted().is_encrypted() && !RemoteIdentity::new("x").is_encrypted());
        let strange = pack(json!({"format": 1, "identity": "x", "requires": ["encryption", "moonlight"]}));
        assert_eq!(RemoteIdentity::decode(&strange), Err(BadFile::UnknownRequirement));
        let more = pack(json!({"format": 1, "identity": "x", "requires": [], "made_by": {"name": "y"}}));
        assert_eq!(RemoteIdentity::decode(&more), Ok(RemoteIdentity::new("x")));
        let mut bytes = RemoteIdentity::new("019b76da-a800-7000-8000-000000000001").encode();
        assert_eq!(bytes[18], 0xD9);
        bytes[18] = 0xC4;
        assert_eq!(RemoteIdentity::decode(&bytes), Err(BadFile::WrongType { part: "identity" }), "bytes are no text");
        let less = pack(json!({"format": 1, "identity": "x"}));
        assert_eq!(RemoteIdentity::decode(&less), Err(BadFile::WrongType { part: "identity" }));
    }

    #[test]
    fn layouts_round_trip_and_unknown_ones_are_refused() {
        for layout in [Layout::Files, Layout::Packs] {
            assert_eq!(Layout::decode(&layout.encode()), Ok(layout));
        }
        assert_eq!(Layout::Files.encode(), pack(json!({"layout": "files"})));
        assert_eq!(Layout::decode(&pack(json!({"layout": "tapes"}))), Err(BadFile::WrongType { part: "layout" }));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_object_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (RemoteIdentity::decode(&bytes), Layout::decode(&bytes), TableDefinition::decode(&bytes));
        }

        #[test]
        fn a_spoilt_definition_is_another_one_or_an_error(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = definition().encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = TableDefinition::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
