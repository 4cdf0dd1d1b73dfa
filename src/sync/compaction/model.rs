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

type Store = BTreeMap<Name, BTreeSet<Id>>;

/// What a compactor does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Next {
    ListLoose,
    ListPacks { loose: BTreeSet<Id> },
    Look { loose: BTreeSet<Id>, packs: BTreeSet<Id> },
    ReadBack { loose: BTreeSet<Id>, victims: Vec<(Name, BTreeSet<Id>)>, left: BTreeSet<Id>, right: BTreeSet<Id> },
    Remove { loose: BTreeSet<Id>, victims: Vec<Name> },
    Write { loose: BTreeSet<Id> },
    Done,
}

/// A replica that compacts: it holds every change, and remembers the packs that it has seen and in which of its runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Compactor {
    no: Id,
    runs: u64,
    run: u64,
    seen: BTreeMap<Id, (u64, BTreeSet<Id>)>,
    next: Next,
}

impl Compactor {
    fn new(no: Id, runs: u64) -> Self {
        Self { no, runs, run: 1, seen: BTreeMap::new(), next: Next::ListLoose }
    }

    fn is_done(&self) -> bool {
        self.next == Next::Done
    }

    fn candidates(&self) -> Vec<Candidate> {
        let ripe = self.seen.iter().filter(|(_, (seen, _))| is_ripe(*seen, self.run, 1));
        ripe.map(|(pack, (seen_ms, ids))| Candidate {
            pack: id(*pack),
            first: id(*ids.first().unwrap()),
            last: id(*ids.last().unwrap()),
            seen_ms: *seen_ms,
        })
        .collect()
    }

    fn covers_of(&self, pack: Id, ids: &BTreeSet<Id>, candidates: &[Candidate]) -> Option<BTreeSet<Id>> {
        let ids: Vec<ChangeId> = ids.iter().map(|n| id(*n)).collect();
        let load = |pack: ChangeId| {
            let ids = self.seen[&pack.millis()].1.iter().map(|n| id(*n)).collect();
            Ok::<_, Infallible>(Arc::new(ids))
        };
        let Ok(found) = covers(id(pack), &ids, candidates, load);
        found.map(|found| found.iter().map(|cover| cover.pack.millis()).collect())
    }

    fn victims(&self, loose: &BTreeSet<Id>) -> Vec<(Name, BTreeSet<Id>)> {
        let candidates = self.candidates();
        let mut victims = Vec::new();
        for n in loose {
            let holder = candidates.iter().find(|c| self.seen[&c.pack.millis()].1.contains(n));
            victims.extend(holder.map(|holder| (Name::Loose(*n), BTreeSet::from([holder.pack.millis()]))));
        }
        for (pack, (_, ids)) in &self.seen {
            let covers = self.covers_of(*pack, ids, &candidates);
            victims.extend(covers.map(|covers| (Name::Pack(*pack), covers)));
        }
        victims
    }

    /// Packs what no pack that it knows holds, and joins what is small and not covered.
    fn write(&mut self, loose: &BTreeSet<Id>, store: &mut Store) {
        let all: Vec<Candidate> = self
            .seen
            .iter()
            .map(|(pack, (seen_ms, ids))| Candidate {
                pack: id(*pack),
                first: id(*ids.first().unwrap()),
                last: id(*ids.last().unwrap()),
                seen_ms: *seen_ms,
            })
            .collect();
        let bare: Vec<Id> =
            loose.iter().copied().filter(|n| !self.seen.values().any(|(_, ids)| ids.contains(n))).collect();
        let small: Vec<SmallPack> = self
            .seen
            .iter()
            .filter(|(pack, (_, ids))| self.covers_of(**pack, ids, &all).is_none())
            .map(|(pack, (_, ids))| SmallPack { pack: id(*pack), changes: ids.len() as u64 })
            .collect();
        let inputs = choose(bare.len(), &small, true);
        let mut ids: BTreeSet<Id> = if inputs.loose { bare.into_iter().collect() } else { BTreeSet::new() };
        inputs.packs.iter().for_each(|pack| ids.extend(&self.seen[&pack.millis()].1));
        if ids.is_empty() {
            return;
        }
        let greatest = self.seen.keys().last().copied().unwrap_or(0);
        let name = (greatest / 10 + 1) * 10 + self.no;
        store.insert(Name::Pack(name), ids.clone());
        self.seen.insert(name, (self.run, ids));
    }

    fn step(&mut self, store: &mut Store) {
        self.next = match std::mem::replace(&mut self.next, Next::Done) {
            Next::ListLoose => Next::ListPacks { loose: loose_in(store) },
            Next::ListPacks { loose } => Next::Look { loose, packs: packs_in(store) },
            Next::Look { loose, packs } => {
                // A pack that is gone is forgotten; of a new one the header is read, unless it has gone meanwhile.
                self.seen.retain(|pack, _| packs.contains(pack));
                for pack in packs {
                    if let Some(ids) = store.get(&Name::Pack(pack)) {
                        self.seen.entry(pack).or_insert_with(|| (self.run, ids.clone()));
                    }
                }
                let victims = self.victims(&loose);
                let left = victims.iter().flat_map(|(_, covers)| covers).copied().collect();
                Next::ReadBack { loose, victims, left, right: BTreeSet::new() }
            }
            Next::ReadBack { loose, victims, mut left, mut right } => match left.pop_first() {
                Some(cover) => {
                    if store.get(&Name::Pack(cover)) == self.seen.get(&cover).map(|(_, ids)| ids) {
                        right.insert(cover);
                    }
                    Next::ReadBack { loose, victims, left, right }
                }
                None => {
                    let victims = victims.into_iter().filter(|(_, covers)| covers.is_subset(&right));
                    Next::Remove { loose, victims: victims.map(|(name, _)| name).collect() }
                }
            },
            Next::Remove { mut loose, mut victims } => match victims.pop() {
                Some(victim) => {
                    store.remove(&victim);
                    match victim {
                        Name::Loose(n) => drop(loose.remove(&n)),
                        Name::Pack(pack) => drop(self.seen.remove(&pack)),
                    }
                    Next::Remove { loose, victims }
                }
                None => Next::Write { loose },
            },
            Next::Write { loose } => {
                self.write(&loose, store);
                self.run += 1;
                if self.run > self.runs { Next::Done } else { Next::ListLoose }
            }
            Next::Done => Next::Done,
        };
    }
}

fn loose_in(store: &Store) -> BTreeSet<Id> {
    store.keys().filter_map(|name| if let Name::Loose(n) = name { Some(*n) } else { None }).collect()
}

fn packs_in(store: &Store) -> BTreeSet<Id> {
    store.keys().filter_map(|name| if let Name::Pack(n) = name { Some(*n) } else { None }).collect()
}

/// A replica that pulls: it lists name by name, fetches what it lacks, and lists again where something was gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reader {
    has: BTreeSet<Id>,
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
            has: BTreeSet::new(),
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
                Some(ids) if !ids.is_subset(&self.has) => {
                    assert!(self.fetched.insert(name), "{name:?} is fetched twice");
                    self.has.extend(ids);
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
    let all: BTreeSet<Id> = start.store.values().flatten().copied().collect();
    let mut seen: HashSet<World> = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut ends = HashSet::new();
    while let Some(world) = open.pop() {
        let there: BTreeSet<Id> = world.store.values().flatten().copied().collect();
        assert_eq!(there, all, "a change is unreachable: {world:?}");
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
    let loose = loose.iter().map(|n| (Name::Loose(*n), BTreeSet::from([*n])));
    loose.chain(packs.iter().map(|(pack, ids)| (Name::Pack(*pack), ids.iter().copied().collect()))).collect()
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
        let victims = vec![(Name::Pack(victim), BTreeSet::from([cover]))];
        compactor.seen = BTreeMap::from([(cover, (1, BTreeSet::from([1])))]);
        let left = BTreeSet::from([cover]);
        compactor.next = Next::ReadBack { loose: BTreeSet::new(), victims, left, right: BTreeSet::new() };
        world.compactors.push(compactor);
    }
    explore(world);
}
