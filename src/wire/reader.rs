//! MessagePack item by item, borrowed from the input. Owns the limits on nesting and the end of input; knows no object of ours.
//!
//! Nothing is ever allocated by a length that the input states: a string is a slice that exists, a container is its head alone.

use rmp::Marker;

use super::BadFile;

/// How deep the values of unknown keys may nest before a file is refused rather than followed.
const MAX_SKIPPED_DEPTH: u32 = 16;

/// A scalar, or the head of a container whose items follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Item<'a> {
    Nil,
    Bool(bool),
    Integer(i64),
    /// An unsigned integer above the greatest `i64`.
    HugeInteger,
    Real(f64),
    /// Text, of which MessagePack does not promise that it is UTF-8.
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Ext(i8, &'a [u8]),
    /// The head of an array of so many items.
    Array(u32),
    /// The head of a map of so many pairs.
    Map(u32),
}

/// What is still to be read.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Refuses whatever follows the one value that a file is.
    pub(super) fn finish(self) -> Result<(), BadFile> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadFile::TrailingBytes) }
    }

    /// The next item.
    pub(super) fn item(&mut self) -> Result<Item<'a>, BadFile> {
        Ok(match Marker::from_u8(self.byte()?) {
            Marker::Null => Item::Nil,
            Marker::False => Item::Bool(false),
            Marker::True => Item::Bool(true),
            Marker::FixPos(n) => Item::Integer(n.into()),
            Marker::FixNeg(n) => Item::Integer(n.into()),
            Marker::U8 => Item::Integer(self.byte()?.into()),
            Marker::U16 => Item::Integer(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Item::Integer(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => i64::try_from(u64::from_be_bytes(self.array()?)).map_or(Item::HugeInteger, Item::Integer),
            Marker::I8 => Item::Integer(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Item::Integer(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Item::Integer(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Item::Integer(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Item::Real(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Item::Real(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(n) => Item::Str(self.take(n.into())?),
            Marker::Str8 => Item::Str(self.take_after_len8()?),
            Marker::Str16 => Item::Str(self.take_after_len16()?),
            Marker::Str32 => Item::Str(self.take_after_len32()?),
            Marker::Bin8 => Item::Bin(self.take_after_len8()?),
            Marker::Bin16 => Item::Bin(self.take_after_len16()?),
            Marker::Bin32 => Item::Bin(self.take_after_len32()?),
            Marker::FixExt1 => self.ext(1)?,
            Marker::FixExt2 => self.ext(2)?,
            Marker::FixExt4 => self.ext(4)?,
            Marker::FixExt8 => self.ext(8)?,
            Marker::FixExt16 => self.ext(16)?,
            Marker::Ext8 => self.byte().and_then(|n| self.ext(n.into()))?,
            Marker::Ext16 => self.array().and_then(|n| self.ext(u16::from_be_bytes(n).into()))?,
            Marker::Ext32 => self.array().and_then(|n| self.ext(u32::from_be_bytes(n)))?,
            Marker::FixArray(n) => Item::Array(n.into()),
            Marker::Array16 => Item::Array(u16::from_be_bytes(self.array()?).into()),
            Marker::Array32 => Item::Array(u32::from_be_bytes(self.array()?)),
            Marker::FixMap(n) => Item::Map(n.into()),
            Marker::Map16 => Item::Map(u16::from_be_bytes(self.array()?).into()),
            Marker::Map32 => Item::Map(u32::from_be_bytes(self.array()?)),
            Marker::Reserved => return Err(BadFile::NotMessagePack),
        })
    }

    /// Passes over one value, whatever it is.
    pub(super) fn skip(&mut self) -> Result<(), BadFile> {
        let item = self.item()?;
        self.skip_rest_of(item)
    }

    /// Passes over what follows an item's head.
    pub(super) fn skip_rest_of(&mut self, head: Item<'a>) -> Result<(), BadFile> {
        self.skip_items(head, MAX_SKIPPED_DEPTH)
    }

    fn skip_items(&mut self, head: Item<'a>, depth: u32) -> Result<(), BadFile> {
        let items = match head {
            Item::Array(n) => u64::from(n),
            Item::Map(n) => 2 * u64::from(n),
            _ => return Ok(()),
        };
        let depth = depth.checked_sub(1).ok_or(BadFile::Nesting)?;
        for _ in 0..items {
            let item = self.item()?;
            self.skip_items(item, depth)?;
        }
        Ok(())
    }

    /// Text, of the part that is named.
    pub(super) fn text(&mut self, part: &'static str) -> Result<&'a str, BadFile> {
        match self.item()? {
            Item::Str(bytes) => std::str::from_utf8(bytes).map_err(|_| BadFile::NotText { part }),
            _ => Err(BadFile::WrongType { part }),
        }
    }

    fn ext(&mut self, len: u32) -> Result<Item<'a>, BadFile> {
        let kind = i8::from_be_bytes(self.array()?);
        Ok(Item::Ext(kind, self.take(len)?))
    }

    fn take_after_len8(&mut self) -> Result<&'a [u8], BadFile> {
        let len = self.byte()?;
        self.take(len.into())
    }

    fn take_after_len16(&mut self) -> Result<&'a [u8], BadFile> {
        let len = u16::from_be_bytes(self.array()?);
        self.take(len.into())
    }

    fn take_after_len32(&mut self) -> Result<&'a [u8], BadFile> {
        let len = u32::from_be_bytes(self.array()?);
        self.take(len)
    }

    fn byte(&mut self) -> Result<u8, BadFile> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadFile> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(BadFile::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, len: u32) -> Result<&'a [u8], BadFile> {
        let len = usize::try_from(len).map_err(|_| BadFile::Truncated)?;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(BadFile::Truncated)?;
        self.rest = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipping_stops_at_a_depth_and_never_overflows_the_stack() {
        for (depth, result) in [(16, Ok(())), (17, Err(BadFile::Nesting)), (200_000, Err(BadFile::Nesting))] {
            for opening in [&[0x91][..], &[0x81, 0x00]] {
                let bytes = [opening.repeat(depth), vec![0xC0]].concat();
                assert_eq!(Reader::new(&bytes).skip(), result, "{depth}");
            }
        }
    }

    #[test]
    fn a_stated_length_takes_no_memory_and_ends_with_the_input() {
        for huge in [[0xDD, 0xFF, 0xFF, 0xFF, 0xFF], [0xDF, 0xFF, 0xFF, 0xFF, 0xFF], [0xC6, 0xFF, 0xFF, 0xFF, 0xFF]] {
            assert_eq!(Reader::new(&huge).skip(), Err(BadFile::Truncated));
        }
    }

    #[test]
    fn the_byte_that_messagepack_never_uses_is_refused() {
        assert_eq!(Reader::new(&[0xC1]).item(), Err(BadFile::NotMessagePack));
    }
}
