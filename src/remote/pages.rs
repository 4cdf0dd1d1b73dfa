//! That a listing ends, whatever a store says: how many names and pages one may have, and how one that goes in a circle is noticed.
//! Relies on no order of names. Knows no object of ours.

use std::fmt;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};

/// The most names of a listing, unless a remote is told otherwise.
pub(super) const MAX_NAMES: u64 = 10_000_000;
/// Servers fill their pages with 1,000 names or more: where so few come on average, pages come for their own sake.
const NAMES_A_PAGE: u64 = 100;

/// Why a listing was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endless {
    /// What came before came again.
    Circle,
    /// More names than this.
    Names(u64),
    /// More pages than this, however few names stood in them.
    Pages(u64),
}

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Circle => f.write_str("the listing goes in a circle: names that were told come again"),
            Self::Names(most) => write!(f, "the listing has more than {most} names"),
            Self::Pages(most) => write!(f, "the listing has more than {most} pages, with hardly a name in them"),
        }
    }
}

impl std::error::Error for Endless {}

impl Endless {
    /// What the user can do about it.
    pub(super) fn advice(self, place: &str) -> String {
        match self {
            Self::Circle => format!("check what {place} is, and that it lists as such stores do, or choose another"),
            Self::Names(_) | Self::Pages(_) => {
                format!("somebody fills {place}: remove what does not belong there, or choose another path")
            }
        }
    }

    /// The same, as a store's error: it comes out of the middle of a store's stream.
    pub(super) fn of_store(self) -> object_store::Error {
        object_store::Error::Generic { store: "listing", source: Box::new(self) }
    }
}

/// Notices that what comes one after another goes in a circle, with one item remembered: the first, the second, the fourth, the
/// eighth, … A circle is noticed before it was gone round three times.
#[derive(Debug, Default)]
struct Circle {
    mark: String,
    seen: u64,
}

impl Circle {
    fn saw(&mut self, item: &str) -> Result<(), Endless> {
        if self.seen > 0 && self.mark == item {
            return Err(Endless::Circle);
        }
        self.seen += 1;
        if self.seen.is_power_of_two() {
            item.clone_into(&mut self.mark);
        }
        Ok(())
    }
}

/// Watches over the names of one listing, in whatever order they come.
#[derive(Debug)]
pub(super) struct Names {
    circle: Circle,
    seen: u64,
    most: u64,
}

impl Names {
    pub(super) fn at_most(most: u64) -> Self {
        Self { circle: Circle::default(), seen: 0, most }
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// Takes note of one more name, of which a listing has each once.
    pub(super) fn saw(&mut self, name: &str) -> Result<(), Endless> {
        self.circle.saw(name)?;
        self.count()
    }

    /// Takes note of a name that may come twice, as in a folder that changes while it is read.
    pub(super) fn count(&mut self) -> Result<(), Endless> {
        self.seen += 1;
        if self.seen > self.most { Err(Endless::Names(self.most)) } else { Ok(()) }
    }
}

/// A store whose listings come in pages, each with the token of the next.
#[derive(Clone)]
pub(super) struct Pager(Arc<dyn PaginatedListStore>);

impl fmt::Debug for Pager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pager")
    }
}

impl Pager {
    pub(super) fn new(store: Arc<dyn PaginatedListStore>) -> Self {
        Self(store)
    }

    /// What lies below a prefix. `object_store`'s own listing follows tokens for as long as there are any.
    pub(super) fn list(
        &self,
        prefix: Option<String>,
        most_names: u64,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let most = (most_names / NAMES_A_PAGE).max(1);
        let first = Some((self.clone(), None, Circle::default()));
        let pages = stream::try_unfold(first, move |next| {
            let prefix = prefix.clone();
            async move {
                let Some((pager, token, mut tokens)) = next else { return Ok(None) };
                let options = PaginatedListOptions { page_token: token, ..PaginatedListOptions::default() };
                let page = pager.0.list_paginated(prefix.as_deref(), options).await?;
                let next = match page.page_token.filter(|token| !token.is_empty()) {
                    Some(token) => {
                        tokens.saw(&token).map_err(Endless::of_store)?;
                        if tokens.seen >= most {
                            return Err(Endless::Pages(most).of_store());
                        }
                        Some((pager, Some(token), tokens))
                    }
                    None => None,
                };
                Ok(Some((stream::iter(page.result.objects.into_iter().map(Ok)), next)))
            }
        });
        pages.try_flatten().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_circle_is_noticed_soon_and_nothing_else_is_one(before in 0..300_u64, around in 1..300_u64) {
            let mut circle = Circle::default();
            for n in 0..before + around {
                prop_assert_eq!(circle.saw(&n.to_string()), Ok(()));
            }
            let again = (0..3 * (before + around)).map(|n| before + n % around);
            prop_assert!(again.into_iter().any(|n| circle.saw(&n.to_string()).is_err()));
        }
    }

    #[test]
    fn names_are_counted() {
        let mut names = Names::at_most(3);
        for name in ["c", "a", "b"] {
            assert_eq!(names.saw(name), Ok(()));
        }
        assert_eq!(names.saw("d"), Err(Endless::Names(3)));
    }
}
