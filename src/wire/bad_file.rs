//! Why bytes from a remote are refused. Says what is wrong with a file, never what is in it: a user's values stay out of logs.

use thiserror::Error;

/// Why an object of a remote is refused, as a lower-case phrase that follows its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum BadFile {
    #[error("it ends too early")]
    Truncated,
    #[error("bytes follow its end")]
    TrailingBytes,
    #[error("it is not MessagePack")]
    NotMessagePack,
    #[error("it is larger than {limit} bytes, the most that such an object can be")]
    TooLarge { limit: usize },
    #[error("its {part} is not what belongs there")]
    WrongType { part: &'static str },
    #[error("its {part} is not UTF-8 text")]
    NotText { part: &'static str },
    #[error("its {part} is missing")]
    Missing { part: &'static str },
    #[error("its {part} is there twice")]
    DuplicateKey { part: &'static str },
    #[error("its id is not a canonical UUIDv7")]
    NotAnId,
    #[error("its id differs from its name")]
    WrongId,
    #[error("its entity type can never be a table's name")]
    BadTableName,
    #[error("its entity type is reserved: tables of that name are never replicated")]
    ReservedTable,
    #[error("it has no fields")]
    NoFields,
    #[error("it has more fields than a table can have columns")]
    TooManyFields,
    #[error("two of its fields have the same name")]
    DuplicateField,
    #[error("values are nested where none may be, or deeper than any reader follows")]
    Nesting,
    #[error("an integer is outside the 64-bit signed range")]
    IntegerRange,
    #[error("a value has an extension type that is not known")]
    UnknownExtension,
    #[error("it is not written the one way that such an object is written")]
    NotCanonical,
    #[error("a newer version of zvon wrote it: update this one")]
    NewerFormat,
    #[error("it asks for something that this version of zvon does not know: update it")]
    UnknownRequirement,
    #[error("it does not begin as a pack does")]
    NotAPack,
    #[error("its {part} is outside the range that is allowed there, or does not add up")]
    BadNumber { part: &'static str },
    #[error("the checksum of its {part} is wrong")]
    WrongChecksum { part: &'static str },
    #[error("its {part} cannot be decompressed to what belongs there")]
    BadCompression { part: &'static str },
    #[error("its ids do not ascend")]
    UnorderedIds,
    #[error("it is not as long as it says")]
    WrongLength,
}
