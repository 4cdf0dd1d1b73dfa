//! Which of the rows that claim one unique value keeps it. Pure; the same claims give the same outcome everywhere.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::ChangeId;

/// A row's claim to a value that must be unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim<V, R> {
    /// The greatest change id among the constraint's columns, or of the delete that the row outlived if that is greater.
    pub(crate) id: ChangeId,
    /// The constraint and the value.
    pub(crate) value: V,
    pub(crate) row: R,
}

/// Takes claims in the order of their ids: a row whose claim meets a value taken by a row that is not out by then is out.
/// Returns the rows that are out, each with the row that keeps the value.
pub(crate) fn settle_claims<V: Ord + Hash, R: Ord + Clone>(mut claims: Vec<Claim<V, R>>) -> BTreeMap<R, R> {
    claims.sort_by(|a, b| a.id.cmp(&b.id).then_with(|| a.row.cmp(&b.row)).then_with(|| a.value.cmp(&b.value)));
    let mut holders: HashMap<V, R> = HashMap::new();
    let mut out: BTreeMap<R, R> = BTreeMap::new();
    for Claim { value, row, .. } in claims {
        if out.contains_key(&row) {
            continue;
        }
        match holders.get(&value) {
            Some(holder) if *holder != row && !out.contains_key(holder) => drop(out.insert(row, holder.clone())),
            _ => drop(holders.insert(value, row)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Clock;
    use proptest::prelude::*;

    fn claim(ms: u64, value: u8, row: u8) -> Claim<u8, u8> {
        Claim { id: Clock::lower_bound(ms), value, row }
    }

    #[test]
    fn the_older_claim_keeps_the_value() {
        assert_eq!(settle_claims(vec![claim(2, 7, 2), claim(1, 7, 1), claim(3, 8, 3)]), BTreeMap::from([(2, 1)]));
    }

    #[test]
    fn a_row_that_is_out_leaves_its_other_values_to_later_claims() {
        // Row 2 loses value 7 to row 1, so value 8, which it took first, is row 3's.
        let claims = vec![claim(1, 7, 1), claim(2, 8, 2), claim(3, 7, 2), claim(4, 8, 3)];
        assert_eq!(settle_claims(claims), BTreeMap::from([(2, 1)]));
    }

    #[test]
    fn a_row_that_met_a_value_before_its_holder_was_out_stays_out() {
        let claims = vec![claim(1, 7, 1), claim(2, 8, 2), claim(3, 8, 3), claim(4, 7, 2)];
        assert_eq!(settle_claims(claims), BTreeMap::from([(2, 1), (3, 2)]));
    }

    fn any_claims() -> impl Strategy<Value = Vec<Claim<u8, u8>>> {
        prop::collection::vec((0_u64..9, 0_u8..5, 0_u8..6), 0..20)
            .prop_map(|claims| claims.into_iter().map(|(id, value, row)| claim(1 + id, value, row)).collect())
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            (claims, shuffled) in any_claims().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle())),
        ) {
            prop_assert_eq!(settle_claims(shuffled), settle_claims(claims));
        }

        #[test]
        fn rows_that_stay_share_no_value(claims in any_claims()) {
            let out = settle_claims(claims.clone());
            let mut holders: HashMap<u8, u8> = HashMap::new();
            for Claim { value, row, .. } in claims.into_iter().filter(|claim| !out.contains_key(&claim.row)) {
                prop_assert_eq!(*holders.entry(value).or_insert(row), row);
            }
        }

        #[test]
        fn rows_that_nobody_meets_change_nothing(claims in any_claims(), ms in 0_u64..9) {
            let mut more = claims.clone();
            more.push(claim(1 + ms, 200, 200));
            prop_assert_eq!(settle_claims(more), settle_claims(claims));
        }
    }
}
