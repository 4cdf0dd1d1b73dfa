//! One entity's state recomputed from its changes: the newest write of each column, and whether the row lives. Pure.

use std::collections::BTreeMap;

use crate::changelog::lower;
use crate::model::{ChangeId, DELETED_FIELD, Value, wins};

/// The newest write of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Winner {
    pub(super) id: ChangeId,
    pub(super) own: bool,
    pub(super) value: Value,
}

/// The newest writes of an entity, by the columns' names in lower case.
#[derive(Debug, Default)]
pub(super) struct Fold {
    columns: BTreeMap<String, Winner>,
}

impl Fold {
    /// Takes a write in; its value is only read where it wins.
    pub(super) fn write(&mut self, field: &str, id: ChangeId, own: bool, value: impl FnOnce() -> Value) {
        let column = lower(field);
        if wins(id, self.columns.get(&column).map(|winner| winner.id)) {
            self.columns.insert(column, Winner { id, own, value: value() });
        }
    }

    /// The newest write of a column, its name in lower case.
    pub(super) fn get(&self, column: &str) -> Option<&Winner> {
        self.columns.get(column)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Winner)> {
        self.columns.iter().map(|(column, winner)| (column.as_str(), winner))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Whether the newest write is there and no delete; a change that deletes and writes columns deletes.
    pub(super) fn alive(&self) -> bool {
        let deleted = self.get(DELETED_FIELD).filter(|winner| winner.value.says_deleted());
        self.columns.values().any(|winner| deleted.is_none_or(|deleted| deleted.id < winner.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Clock, DELETED_COLUMN, Register, Registers};
    use proptest::prelude::*;

    fn id(n: u64) -> ChangeId {
        Clock::lower_bound(2_000_000_000_000 + n)
    }

    fn fold(writes: &[(&str, u64, Value)]) -> Fold {
        let mut fold = Fold::default();
        for (field, n, value) in writes {
            fold.write(field, id(*n), false, || value.clone());
        }
        fold
    }

    #[test]
    fn the_newest_write_of_each_column_wins_whatever_the_order_and_case() {
        let fold = fold(&[("A", 2, Value::Integer(2)), ("a", 3, Value::Integer(3)), ("a", 1, Value::Integer(1))]);
        assert_eq!(fold.get("a").unwrap().value, Value::Integer(3));
        assert_eq!(fold.iter().count(), 1);
    }

    #[test]
    fn only_an_integer_other_than_zero_deletes() {
        for (value, alive) in [
            (Value::Integer(1), false),
            (Value::Integer(-1), false),
            (Value::Integer(0), true),
            (Value::Real(1.0), true),
            (Value::text("1"), true),
            (Value::Null, true),
        ] {
            assert_eq!(fold(&[("a", 1, Value::Null), ("zv_deleted", 2, value)]).alive(), alive);
        }
    }

    #[test]
    fn a_row_lives_while_its_newest_write_is_not_a_delete() {
        let delete = |n| ("ZV_Deleted", n, Value::Integer(1));
        assert!(!fold(&[]).alive());
        assert!(!fold(&[delete(1)]).alive());
        assert!(fold(&[delete(1), ("a", 2, Value::Null)]).alive());
        assert!(!fold(&[delete(2), ("a", 2, Value::Null)]).alive(), "one change, both");
    }

    proptest! {
        #[test]
        fn liveness_is_that_of_the_registers(writes in prop::collection::vec((0_u32..3, 0_u64..9), 0..12)) {
            let (mut ours, mut theirs) = (Fold::default(), Registers::default());
            for (column, n) in writes {
                let name = if column == DELETED_COLUMN { "zv_deleted".into() } else { format!("c{column}") };
                let value = Value::Integer((n % 2) as i64);
                let deleted = column == DELETED_COLUMN && value.says_deleted();
                ours.write(&name, id(n), false, || value);
                theirs.fold(column, Register { id: id(n), own: false, deleted });
            }
            prop_assert_eq!(ours.alive(), theirs.alive());
        }
    }
}
