//! Registers: which write of a column counts. The one place that picks a winner; knows no values and no tables.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::ChangeId;

/// Whether a write beats what a register holds: the greater id wins, and every id is one write.
pub(crate) fn wins(challenger: ChangeId, holder: Option<ChangeId>) -> bool {
    holder.is_none_or(|holder| holder < challenger)
}

/// The newest write of one column of one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) id: ChangeId,
    /// Whether this replica made the write (what its twin made, after the file was copied, was not made here).
    pub(crate) own: bool,
    /// Of the reserved column alone: whether the write says that the row is deleted.
    pub(crate) deleted: bool,
}

/// The number that stands for the reserved column `zv_deleted`; real columns are numbered from 1.
pub(crate) const DELETED_COLUMN: u32 = 0;

/// The registers of one entity: a pure function of the set of its changes, whatever their order, batching and repetition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    /// By column number. A map, as a stranger's changes may name any number of columns, in any order.
    columns: BTreeMap<u32, Register>,
}

impl Registers {
    /// Folds one write in. Returns whether it won, and what the register held before.
    pub(crate) fn fold(&mut self, column: u32, write: Register) -> (bool, Option<Register>) {
        match self.columns.entry(column) {
            Entry::Occupied(mut entry) => {
                let held = *entry.get();
                let won = wins(write.id, Some(held.id));
                if won {
                    entry.insert(write);
                }
                (won, Some(held))
            }
            Entry::Vacant(entry) => {
                entry.insert(write);
                (true, None)
            }
        }
    }

    /// Forgets the writes that `keep` refuses: for changes taken out of a log that nobody else has seen.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32, Register) -> bool) {
        self.columns.retain(|column, register| keep(*column, *register));
    }

    /// Gives changes other ids, in an order that moves no winner.
    pub(crate) fn rename(&mut self, new_id: impl Fn(ChangeId) -> Option<ChangeId>) {
        for register in self.columns.values_mut() {
            register.id = new_id(register.id).unwrap_or(register.id);
        }
    }

    pub(crate) fn get(&self, column: u32) -> Option<Register> {
        self.columns.get(&column).copied()
    }

    /// Every column that has a register, the reserved one among them, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Register)> + '_ {
        self.columns.iter().map(|(column, register)| (*column, *register))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The greatest id of all writes.
    pub(crate) fn newest(&self) -> Option<ChangeId> {
        self.columns.values().map(|register| register.id).max()
    }

    /// A row lives while its newest write is not a delete.
    pub(crate) fn alive(&self) -> bool {
        match self.get(DELETED_COLUMN) {
            Some(last) if last.deleted => self.newest() > Some(last.id),
            _ => !self.is_empty(),
        }
    }

    /// The stored form: for each winning change its 16 bytes, a byte of flags, a count and its columns' numbers (LEB128).
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut by_change: Vec<(Register, u32)> = self.columns.iter().map(|(c, r)| (*r, *c)).collect();
        by_change.sort_by_key(|(r, column)| (r.id, flags(r), *column));
        let mut bytes = Vec::with_capacity(24);
        for group in by_change.chunk_by(|(a, _), (b, _)| a.id == b.id && flags(a) == flags(b)) {
            bytes.extend_from_slice(group[0].0.id.as_bytes());
            bytes.push(flags(&group[0].0));
            put_varint(&mut bytes, group.len() as u32);
            group.iter().for_each(|(_, column)| put_varint(&mut bytes, *column));
        }
        bytes
    }

    /// `None` if the bytes are not what [`encode`](Self::encode) writes.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut columns = BTreeMap::new();
        while !bytes.is_empty() {
            let (id, rest) = bytes.split_first_chunk::<16>()?;
            let (flags, rest) = rest.split_first()?;
            let register =
                Register { id: ChangeId::from_bytes(*id)?, own: flags & OWN != 0, deleted: flags & DELETED != 0 };
            bytes = rest;
            for _ in 0..take_varint(&mut bytes)? {
                if columns.insert(take_varint(&mut bytes)?, register).is_some() {
                    return None;
                }
            }
        }
        Some(Self { columns })
    }
}

const OWN: u8 = 1;
const DELETED: u8 = 2;

fn flags(register: &Register) -> u8 {
    (u8::from(register.own) * OWN) | (u8::from(register.deleted) * DELETED)
}

fn put_varint(bytes: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        bytes.push(n as u8 & 0x7F | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut n = 0_u32;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u32::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Clock;
    use proptest::prelude::*;

    fn id(n: u64) -> ChangeId {
        Clock::lower_bound(2_000_000_000_000 + n)
    }

    fn fold_all(writes: impl IntoIterator<Item = (u32, Register)>) -> Registers {
        let mut registers = Registers::default();
        writes.into_iter().for_each(|(column, write)| {
            registers.fold(column, write);
        });
        registers
    }

    /// Writes as a log holds them: a change has one set of flags, and says something of a column once.
    fn any_writes() -> impl Strategy<Value = Vec<(u32, Register)>> {
        prop::collection::vec((0_u32..5, 0_u64..12), 0..24).prop_map(|writes| {
            writes
                .into_iter()
                .map(|(column, n)| {
                    let deleted = column == DELETED_COLUMN && n % 3 != 0;
                    (column * 77, Register { id: id(n), own: n % 2 == 0, deleted })
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_order_batching_and_repetition_gives_the_same(
            (writes, shuffled) in any_writes().prop_flat_map(|w| (Just(w.clone()), Just(w).prop_shuffle())),
            again in any::<prop::sample::Index>(),
        ) {
            let once = fold_all(writes.clone());
            prop_assert_eq!(&fold_all(shuffled.clone()), &once);
            let repeated = shuffled.iter().chain(writes.iter().skip(again.index(writes.len() + 1))).copied();
            prop_assert_eq!(&fold_all(repeated), &once);
            prop_assert_eq!(Registers::decode(&once.encode()), Some(once));
        }

        #[test]
        fn the_winner_rule_is_commutative_associative_and_idempotent(a in 0_u64..9, b in 0_u64..9, c in 0_u64..9) {
            let pick = |x: ChangeId, y: ChangeId| if wins(y, Some(x)) { y } else { x };
            let (a, b, c) = (id(a), id(b), id(c));
            prop_assert_eq!(pick(a, b), pick(b, a));
            prop_assert_eq!(pick(pick(a, b), c), pick(a, pick(b, c)));
            prop_assert_eq!(pick(a, a), a);
        }

        #[test]
        fn any_bytes_decode_or_not_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(registers) = Registers::decode(&bytes) {
                prop_assert_eq!(Registers::decode(&registers.encode()), Some(registers));
            }
        }
    }

    #[test]
    fn a_row_lives_while_its_newest_write_is_not_a_delete() {
        let write = |n, deleted| Register { id: id(n), own: false, deleted };
        assert!(!Registers::default().alive());
        assert!(fold_all([(1, write(1, false))]).alive());
        assert!(!fold_all([(1, write(1, false)), (DELETED_COLUMN, write(2, true))]).alive());
        assert!(fold_all([(1, write(3, false)), (DELETED_COLUMN, write(2, true))]).alive());
        assert!(fold_all([(DELETED_COLUMN, write(3, false)), (DELETED_COLUMN, write(2, true))]).alive());
        assert!(!fold_all([(1, write(2, false)), (DELETED_COLUMN, write(2, true))]).alive(), "one change, both");
    }
}
