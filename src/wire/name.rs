//! The names of a remote's objects: built and parsed by one type. Knows no store, and no byte of what an object holds.

use std::fmt;

use crate::model::ChangeId;

/// The endings of objects; an identity has none.
const MSGPACK: &str = ".msgpack";
const PACK: &str = ".pack";
const AGE: &str = ".age";

/// The name of an object below a remote's base path, made of `[A-Za-z0-9._-]` and `/` alone, so that every store agrees on it.
///
/// Variants are declared in the order of their folders' names: the derived order is the order of the names as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectName {
    /// `changes/{change id}.msgpack`: exactly one change.
    Change(ChangeId),
    /// `identity/{UUIDv7}`: one of the names by which replicas know this remote again.
    Identity(ChangeId),
    /// `keys/{UUIDv7}.age`: the keys of an encrypted remote, up to this epoch.
    Keys(ChangeId),
    /// `layout/{UUIDv7}.msgpack`: how files are to be laid out from here on.
    Layout(ChangeId),
    /// `packs/{UUIDv7}.pack`: many changes.
    Pack(ChangeId),
    /// `schemas/{SHA-256 in lower-case hex}.msgpack`: the definition of a table.
    Schema([u8; 32]),
}

/// What a name found below the base path turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParsedName {
    /// One of this program's objects.
    Known(ObjectName),
    /// A file meant to be a change whose stem is not a canonical UUIDv7: reported to the user.
    Refused(String),
    /// Somebody else's file (a sync tool's, an editor's, a desktop's): ignored without a word.
    Stranger,
}

impl ObjectName {
    /// Every folder that holds objects, in the order in which their names sort.
    pub(crate) const FOLDERS: [&'static str; 6] = ["changes", "identity", "keys", "layout", "packs", "schemas"];

    /// The folder that holds the object.
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Self::Change(_) => "changes",
            Self::Identity(_) => "identity",
            Self::Keys(_) => "keys",
            Self::Layout(_) => "layout",
            Self::Pack(_) => "packs",
            Self::Schema(_) => "schemas",
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.folder())?;
        match self {
            Self::Identity(id) => write!(f, "{id}"),
            Self::Keys(id) => write!(f, "{id}{AGE}"),
            Self::Change(id) | Self::Layout(id) => write!(f, "{id}{MSGPACK}"),
            Self::Pack(id) => write!(f, "{id}{PACK}"),
            Self::Schema(hash) => {
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(MSGPACK)
            }
        }
    }
}

impl ParsedName {
    /// Reads a name relative to the base path, such as `changes/{id}.msgpack`.
    pub(crate) fn parse(name: &str) -> Self {
        let Some((folder, file)) = name.split_once('/') else { return Self::Stranger };
        match folder {
            "changes" => Self::change(name, file),
            "identity" => Self::known(file.parse().ok().map(ObjectName::Identity)),
            "keys" => Self::known(file.strip_suffix(AGE).and_then(|stem| stem.parse().ok()).map(ObjectName::Keys)),
            "layout" => Self::known(stem(file).and_then(|stem| stem.parse().ok()).map(ObjectName::Layout)),
            "packs" => Self::known(file.strip_suffix(PACK).and_then(|stem| stem.parse().ok()).map(ObjectName::Pack)),
            "schemas" => Self::known(stem(file).and_then(parse_hash).map(ObjectName::Schema)),
            _ => Self::Stranger,
        }
    }

    fn known(name: Option<ObjectName>) -> Self {
        name.map_or(Self::Stranger, Self::Known)
    }

    /// A file that looks like a change is somebody's change, and must not be passed over in silence. Whatever a sync tool
    /// or a desktop adds to a name (a dot, a blank, a parenthesis, `~`, `#`) makes it look like nothing of ours.
    fn change(name: &str, file: &str) -> Self {
        let Some(stem) = stem(file) else { return Self::Stranger };
        match stem.parse() {
            Ok(id) => Self::Known(ObjectName::Change(id)),
            Err(_) if is_plain(stem) => Self::Refused(name.to_owned()),
            Err(_) => Self::Stranger,
        }
    }
}

fn stem(file: &str) -> Option<&str> {
    file.strip_suffix(MSGPACK)
}

fn is_plain(stem: &str) -> bool {
    !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Reads 64 lower-case hexadecimal digits, and nothing else: one hash has one name.
fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(hash)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "019a9f3c-0c00-7000-8000-3f6c2a1b4d5e";

    fn id() -> ChangeId {
        ID.parse().unwrap()
    }

    #[test]
    fn names_are_the_documented_ones_and_parse_back() {
        let names = [
            (ObjectName::Change(id()), format!("changes/{ID}.msgpack")),
            (ObjectName::Identity(id()), format!("identity/{ID}")),
            (ObjectName::Keys(id()), format!("keys/{ID}.age")),
            (ObjectName::Layout(id()), format!("layout/{ID}.msgpack")),
            (ObjectName::Pack(id()), format!("packs/{ID}.pack")),
            (ObjectName::Schema([0xA5; 32]), format!("schemas/{}.msgpack", "a5".repeat(32))),
        ];
        for (name, text) in names {
            assert_eq!(name.to_string(), text);
            assert_eq!(ParsedName::parse(&text), ParsedName::Known(name));
            assert!(ObjectName::FOLDERS.contains(&name.folder()));
        }
        assert!(ObjectName::FOLDERS.is_sorted());
    }

    #[test]
    fn a_change_under_a_wrong_id_is_refused() {
        for stem in ["1", "hello_world", "019A9F3C-0C00-7000-8000-3F6C2A1B4D5E", "019a9f3c-0c00-4000-8000-3f6c2a1b4d5e"]
        {
            let name = format!("changes/{stem}.msgpack");
            assert_eq!(ParsedName::parse(&name), ParsedName::Refused(name.clone()));
        }
    }

    #[test]
    fn files_of_others_are_strangers() {
        for name in [
            "",
            "changes",
            "changes/",
            "changes/.msgpack",
            "changes/.DS_Store",
            "changes/Icon\r",
            "Icon\r",
            &format!("{ID}.msgpack"),
            &format!("/changes/{ID}.msgpack"),
            &format!("Changes/{ID}.msgpack"),
            &format!("changes/{ID}"),
            &format!("changes/{ID}.MSGPACK"),
            &format!("changes/{ID}.msgpack#1"),
            &format!("changes/{ID}.msgpack.tmp"),
            &format!("changes/.syncthing.{ID}.msgpack.tmp"),
            &format!("changes/{ID} (conflicted copy).msgpack"),
            &format!("changes/{ID}.sync-conflict-20260102-030405-ABCDEFG.msgpack"),
            &format!("changes/sub/{ID}.msgpack"),
            &format!("identity/{ID}.msgpack"),
            "identity/x",
            &format!("layout/{ID}"),
            &format!("keys/{ID}"),
            &format!("keys/{ID}.age.tmp"),
            &format!("packs/{ID}"),
            &format!("packs/{ID}.msgpack"),
            &format!("packs/.syncthing.{ID}.pack.tmp"),
            &format!("schemas/{}.msgpack", "A5".repeat(32)),
            &format!("schemas/{}.msgpack", "a5".repeat(31)),
            &format!("schemas/{}a.msgpack", "a5".repeat(32)),
            "photos/cat.jpg",
        ] {
            assert_eq!(ParsedName::parse(name), ParsedName::Stranger, "{name}");
        }
    }

    fn any_name() -> impl Strategy<Value = ObjectName> {
        (0..6, any::<[u8; 32]>()).prop_map(|(kind, hash)| {
            let mut bytes: [u8; 16] = hash[..16].try_into().unwrap();
            bytes[6] = bytes[6] & 0xF | 0x70;
            bytes[8] = bytes[8] & 0x3F | 0x80;
            let id = ChangeId::from_bytes(bytes).unwrap();
            match kind {
                0 => ObjectName::Change(id),
                1 => ObjectName::Identity(id),
                2 => ObjectName::Layout(id),
                3 => ObjectName::Keys(id),
                4 => ObjectName::Pack(id),
                _ => ObjectName::Schema(hash),
            }
        })
    }

    proptest! {
        #[test]
        fn the_order_of_names_is_the_order_of_their_texts(a in any_name(), b in any_name()) {
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(ParsedName::parse(&a.to_string()), ParsedName::Known(a));
        }

        #[test]
        fn any_text_parses_to_something(name in ".{0,80}") {
            if let ParsedName::Known(known) = ParsedName::parse(&name) {
                prop_assert_eq!(known.to_string(), name);
            }
        }
    }
}
