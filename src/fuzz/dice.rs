//! Decisions from bytes: each takes one, and all are the first choice once the bytes are used up.

/// The bytes that are left to decide by.
pub(super) struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        usize::from(self.byte()) % sides
    }

    /// True once in so many times, and never without bytes.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.roll(times) == times - 1
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len())]
    }

    /// At most so many bytes as they are.
    pub(super) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = self.roll(most + 1).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    /// Text of at most so many bytes, without NUL.
    pub(super) fn text(&mut self, most: usize) -> String {
        String::from_utf8_lossy(self.bytes(most)).replace('\0', "0")
    }

    pub(super) fn integer(&mut self) -> i64 {
        let bytes = self.bytes(8);
        bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
