//! Every interleaving of a small model: two and three compactors at once, a reader in the middle, and a store that lists in the
//! order of names. What the compactors write and remove is decided by the functions of `plan` that replicas run.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use super::plan::{Candidate, SmallPack, choose, covers, is_ripe};
use crate::model::{ChangeId, Clock};

/// A change, or the name of a pack, as a number.
type Id = u64;

fn id(n: Id) -> ChangeId {
    Clock::backfill(n, 0)
}

/// The names that lie in the store, in the order in which they are listed: loose files sort before packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Loose(Id),
    Pack(Id),
}

/// A set of small numbers, as bits: there are hundreds of thousands of states, each with a dozen sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Set(u64);

impl Set {
    fn of(ids: &[Id]) -> Self {
        ids.iter().fold(Self::default(), |set, id| set.with(*id))
    }

    fn with(self, id: Id) -> Self {
        assert!(id < 64, "the model's numbers are small");
        Self(self.0 | 1 << id)
    }

    fn without(self, id: Id) -> Self {
        Self(self.0 & !(1 << id))
    }

    fn contains(self, id: Id) -> bool {
        self.0 >> id & 1 == 1
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn iter(self) -> impl Iterator<Item = Id> {
        std::iter::successors(self.first(), move |id| Self(self.0 & (!1 << id)).first())
    }

    fn first(self) -> Option<Id> {
        (!self.is_empty()).then(|| self.0.trailing_zeros().into())
    }

    fn last(self) -> Option<Id> {
        self.0.checked_ilog2().map(Into::into)
    }

    fn ids(self) -> Vec<ChangeId> {
        self.iter().map(id).collect()
    }
}

type Store = BTreeMap<Name, Set>;

/// What a compactor does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Next {
    ListLoose,
    ListPacks { loose: Set },
    Look { loose: Set, packs: Set },
    ReadBack { loose: Set, victims: Vec<(Name, Set)>, left: Set, right: Set },
    Remove { loose: Set, victims: Vec<Name> },
    Write { loose: Set },
    Done,
}

/// A replica that compacts: it holds every change, and remembers the packs that it has seen and in which of its runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Compactor {
    no: Id,
    runs: u64,
    run: u64,
    seen: BTreeMap<Id, (u64, Set)>,
    next: Next,
}

impl Compactor {
    fn new(no: Id, runs: u64) -> Self {
        Self { no, runs, run: 1, seen: BTreeMap::new(), next: Next::ListLoose }
    }

    fn is_done(&self) -> bool {
        self.next == Next::Done
    }

    fn candidates(&self, ripe_only: bool) -> Vec<Candidate> {
        let counts = |seen: u64| !ripe_only || is_ripe(seen, self.run, 1);
        let counting = self.seen.iter().filter(|(_, (seen, _))| counts(*seen));
        let candidate = |(pack, (seen_ms, ids)): (&Id, &(u64, Set))| Candidate {
            pack: id(*pack),
            first: id(ids.first().unwrap()),
            last: id(ids.last().unwrap()),
            seen_ms: *seen_ms,
        };
        counting.map(candidate).collect()
    }

    fn covers_of(&self, pack: Id, ids: Set, candidates: &[Candidate]) -> Option<Set> {
        let load = |pack: ChangeId| Ok::<_, Infallible>(Arc::new(self.seen[&pack.millis()].1.ids()));
        let Ok(found) = covers(id(pack), &ids.ids(), candidates, load);
        found.map(|found| found.iter().fold(Set::default(), |set, cover| set.with(cover.pack.millis())))
    }

    fn victims(&self, loose: Set) -> Vec<(Name, Set)> {
        let candidates = self.candidates(true);
        let mut victims = Vec::new();
        for n in loose.iter() {
            let holder = candidates.iter().find(|c| self.seen[&c.pack.millis()].1.contains(n));
            victims.extend(holder.map(|holder| (Name::Loose(n), Set::of(&[holder.pack.millis()]))));
        }
        for (pack, (_, ids)) in &self.seen {
            let covers = self.covers_of(*pack, *ids, &candidates);
            victims.extend(covers.map(|covers| (Name::Pack(*pack), covers)));
        }
        victims
    }

    /// Packs what no pack that it knows holds, and joins what is small and not covered.
    fn write(&mut self, loose: Set, store: &mut Store) {
        let all = self.candidates(false);
        let packed = self.seen.values().fold(Set::default(), |all, (_, ids)| all.union(*ids));
        let bare = loose.iter().filter(|n| !packed.contains(*n)).fold(Set::default(), Set::with);
        let is_small = |(pack, (_, ids)): &(&Id, &(u64, Set))| self.covers_of(**pack, *ids, &all).is_none();
        let small = self.seen.iter().filter(is_small);
        let small: Vec<SmallPack> =
            small.map(|(pack, (_, ids))| SmallPack { pack: id(*pack), changes: ids.iter().count() as u64 }).collect();
        let inputs = choose(bare.iter().count(), &small, true);
        let loose = if inputs.loose { bare } else { Set::default() };
        let ids = inputs.packs.iter().fold(loose, |ids, pack| ids.union(self.seen[&pack.millis()].1));
        if ids.is_empty() {
            return;
        }
        let greatest = self.seen.keys().last().copied().unwrap_or(0);
        let name = (greatest / 10 + 1) * 10 + self.no;
        store.insert(Name::Pack(name), ids);
        self.seen.insert(name, (self.run, ids));
    }

    fn step(&mut self, store: &mut Store) {
        self.next = match std::mem::replace(&mut self.next, Next::Done) {
            Next::ListLoose => Next::ListPacks { loose: loose_in(store) },
            Next::ListPacks { loose } => Next::Look { loose, packs: packs_in(store) },
            Next::Look { loose, packs } => {
                // A pack that is gone is forgotten; of a new one the header is read, unless it has gone meanwhile.
                self.seen.retain(|pack, _| packs.contains(*pack));
                for pack in packs.iter() {
                    if let Some(ids) = store.get(&Name::Pack(pack)) {
                        self.seen.entry(pack).or_insert((self.run, *ids));
                    }
                }
                let victims = self.victims(loose);
                let left = victims.iter().fold(Set::default(), |left, (_, covers)| left.union(*covers));
                Next::ReadBack { loose, victims, left, right: Set::default() }
            }
            Next::ReadBack { loose, victims, left, right } => match left.first() {
                Some(cover) => {
                    let is_right = store.get(&Name::Pack(cover)) == self.seen.get(&cover).map(|(_, ids)| ids);
                    let right = if is_right { right.with(cover) } else { right };
                    Next::ReadBack { loose, victims, left: left.without(cover), right }
                }
                None => {
                    let victims = victims.into_iter().filter(|(_, covers)| covers.is_subset(right));
                    Next::Remove { loose, victims: victims.map(|(name, _)| name).collect() }
                }
            },
            Next::Remove { mut loose, mut victims } => match victims.pop() {
                Some(victim) => {
                    store.remove(&victim);
                    match victim {
                        Name::Loose(n) => loose = loose.without(n),
                        Name::Pack(pack) => drop(self.seen.remove(&pack)),
                    }
                    Next::Remove { loose, victims }
                }
                None => Next::Write { loose },
            },
            Next::Write { loose } => {
                self.write(loose, store);
                self.run += 1;
                if self.run > self.runs { Next::Done } else { Next::ListLoose }
            }
            Next::Done => Next::Done,
        };
    }
}

fn loose_in(store: &Store) -> Set {
    store.keys().fold(Set::default(), |set, name| if let Name::Loose(n) = name { set.with(*n) } else { set })
}

fn packs_in(store: &Store) -> Set {
    store.keys().fold(Set::default(), |set, name| if let Name::Pack(n) = name { set.with(*n) } else { set })
}

fn everything_in(store: &Store) -> Set {
    store.values().fold(Set::default(), |all, ids| all.union(*ids))
}

/// A replica that pulls: it lists name by name, fetches what it lacks, and lists again where something was gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reader {
    has: Set,
    cursor: Option<Name>,
    listed: Vec<Name>,
    listing: bool,
    vanished: bool,
    rounds: u32,
    done: bool,
    fetched: BTreeSet<Name>,
}

impl Reader {
    fn new() -> Self {
        Self {
            has: Set::default(),
            cursor: None,
            listed: Vec::new(),
            listing: true,
            vanished: false,
            rounds: 0,
            done: false,
            fetched: BTreeSet::new(),
        }
    }

    fn step(&mut self, store: &Store) {
        if self.listing {
            let mut names = store.keys().filter(|name| self.cursor.is_none_or(|cursor| cursor < **name));
            match names.next() {
                Some(name) => {
                    self.cursor = Some(*name);
                    self.listed.push(*name);
                }
                None => self.listing = false,
            }
        } else if let Some(name) = self.listed.pop() {
            // Packs come first, as the greater names do here: what a pack brought is not fetched from a loose file.
            match store.get(&name) {
                Some(ids) if !ids.is_subset(self.has) => {
                    assert!(self.fetched.insert(name), "{name:?} is fetched twice");
                    self.has = self.has.union(*ids);
                }
                Some(_) => {}
                None => self.vanished = true,
            }
        } else if self.vanished && self.rounds < 3 {
            (self.listing, self.vanished, self.cursor, self.rounds) = (true, false, None, self.rounds + 1);
        } else {
            self.done = true;
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    store: Store,
    compactors: Vec<Compactor>,
    reader: Option<Reader>,
}

struct Explored {
    states: usize,
    ends: HashSet<Vec<Name>>,
}

/// Walks through every state that can be reached, and checks each.
fn explore(start: World) -> Explored {
    let all = everything_in(&start.store);
    let mut seen: HashSet<World> = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut ends = HashSet::new();
    while let Some(world) = open.pop() {
        assert_eq!(everything_in(&world.store), all, "a change is unreachable: {world:?}");
        let mut is_end = true;
        for at in 0..world.compactors.len() {
            if !world.compactors[at].is_done() {
                is_end = false;
                let mut after = world.clone();
                after.compactors[at].step(&mut after.store);
                if seen.insert(after.clone()) {
                    open.push(after);
                }
            }
        }
        if let Some(reader) = world.reader.as_ref() {
            if reader.done {
                assert!(reader.has == all || reader.vanished, "a reader believes to have all: {world:?}");
            } else {
                is_end = false;
                let mut after = world.clone();
                let store = after.store.clone();
                after.reader.as_mut().unwrap().step(&store);
                if seen.insert(after.clone()) {
                    open.push(after);
                }
            }
        }
        if is_end {
            ends.insert(world.store.keys().copied().collect());
        }
    }
    Explored { states: seen.len(), ends }
}

fn store(loose: &[Id], packs: &[(Id, &[Id])]) -> Store {
    let loose = loose.iter().map(|n| (Name::Loose(*n), Set::of(&[*n])));
    loose.chain(packs.iter().map(|(pack, ids)| (Name::Pack(*pack), Set::of(ids)))).collect()
}

#[test]
fn one_compactor_leaves_one_pack() {
    let world = World { store: store(&[1, 2], &[(5, &[3])]), compactors: vec![Compactor::new(1, 2)], reader: None };
    let explored = explore(world);
    assert_eq!(explored.ends, HashSet::from([vec![Name::Pack(11)]]));
}

#[test]
fn two_compactors_and_a_reader_in_every_interleaving() {
    let compactors = vec![Compactor::new(1, 2), Compactor::new(2, 2)];
    let world = World { store: store(&[1, 2], &[(5, &[3])]), compactors, reader: Some(Reader::new()) };
    let explored = explore(world);
    println!("{} states, {} ends", explored.states, explored.ends.len());
    assert!(explored.states > 1_000 && explored.ends.len() > 1);
}

#[test]
fn two_compactors_over_several_runs_in_every_interleaving() {
    let compactors = vec![Compactor::new(1, 4), Compactor::new(2, 4)];
    let world = World { store: store(&[1], &[(5, &[2])]), compactors, reader: None };
    let explored = explore(world);
    println!("{} states, {} ends", explored.states, explored.ends.len());
    assert!(explored.states > 1_000);
}

#[test]
fn three_compactors_in_every_interleaving() {
    let compactors = (1..=3).map(|no| Compactor::new(no, 2)).collect();
    let world = World { store: store(&[1], &[(5, &[2])]), compactors, reader: None };
    let explored = explore(world);
    println!("{} states, {} ends", explored.states, explored.ends.len());
    assert!(explored.states > 1_000);
}

/// The explorer finds what it is there to find: were equal twins allowed to stand for each other, both would go.
#[test]
#[should_panic(expected = "a change is unreachable")]
fn a_rule_that_lets_twins_remove_each_other_is_caught() {
    let mut world = World { store: store(&[], &[(5, &[1]), (6, &[1])]), compactors: Vec::new(), reader: None };
    for (no, victim, cover) in [(1, 5, 6), (2, 6, 5)] {
        let mut compactor = Compactor::new(no, 1);
        let victims = vec![(Name::Pack(victim), Set::of(&[cover]))];
        compactor.seen = BTreeMap::from([(cover, (1, Set::of(&[1])))]);
        let left = Set::of(&[cover]);
        compactor.next = Next::ReadBack { loose: Set::default(), victims, left, right: Set::default() };
        world.compactors.push(compactor);
    }
    explore(world);
}
