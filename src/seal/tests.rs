//! Seals that hold, and epochs under every interleaving of what people do to them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::cipher::{self, BadSeal, Bound, CHUNK_BYTES, HEAD_BYTES};
use super::epoch::EpochKey;
use super::key_file::KeyFile;
use super::keyring::{BadKeys, Keyring, Opening};
use super::{Lock, Recipient, Secret, plain_len, sealed_len};
use crate::error::Result;
use crate::model::{CLOCK_FLOOR_MS, ChangeId, Clock};
use crate::wire::ObjectName;

fn id(n: u64) -> ChangeId {
    Clock::new(None).next(CLOCK_FLOOR_MS + n, n)
}

fn change(n: u64) -> ObjectName {
    ObjectName::Change(id(n))
}

fn key(n: u8) -> EpochKey {
    EpochKey::new([n; 32])
}

fn bound(name: &ObjectName) -> Bound<'_> {
    Bound { identity: id(1), epoch: id(2), name }
}

fn seal(plain: &[u8]) -> Vec<u8> {
    cipher::seal(&key(7), bound(&change(3)), [9; 16], plain)
}

fn open(sealed: &[u8]) -> Result<Vec<u8>, BadSeal> {
    cipher::open(&key(7), bound(&change(3)), sealed)
}

/// Lengths around the borders of chunks, and in between.
fn lengths() -> impl Strategy<Value = usize> {
    let borders =
        [0, 1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5];
    prop_oneof![prop::sample::select(borders.to_vec()), 0..300_usize]
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn what_is_sealed_opens_and_has_the_length_that_was_foretold() {
    for length in [0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000] {
        let sealed = seal(&bytes(length));
        assert_eq!(open(&sealed), Ok(bytes(length)));
        assert_eq!(sealed.len() as u64, sealed_len(length as u64));
        assert_eq!(plain_len(sealed.len() as u64), length as u64);
        let start = bytes(length.min(16));
        assert!(length < 16 || !sealed.windows(16).any(|part| part == start));
    }
}

#[test]
fn neither_the_key_nor_what_it_is_bound_to_may_differ() {
    let sealed = seal(b"bread");
    let name = change(3);
    assert_eq!(cipher::open(&key(8), bound(&name), &sealed), Err(BadSeal::Broken));
    for other in [
        Bound { identity: id(9), ..bound(&name) },
        Bound { epoch: id(9), ..bound(&name) },
        bound(&change(4)),
        bound(&ObjectName::Layout(id(3))),
    ] {
        assert_eq!(cipher::open(&key(7), other, &sealed), Err(BadSeal::Broken));
    }
}

#[test]
fn what_is_not_sealed_or_by_a_newer_version_is_told_apart() {
    assert_eq!(cipher::epoch_of(b"\x82\xa6change"), Err(BadSeal::NotSealed));
    assert_eq!(cipher::epoch_of(b""), Err(BadSeal::NotSealed));
    assert_eq!(cipher::epoch_of(b"ZVS\x02aaaaaaaaaaaaaaaa"), Err(BadSeal::NewerForm));
    assert_eq!(cipher::epoch_of(b"ZVS\x01aaaa"), Err(BadSeal::Broken));
    assert_eq!(cipher::epoch_of(&seal(b"x")), Ok(id(2)));
}

#[test]
fn whole_chunks_do_not_move() {
    let sealed = seal(&bytes(3 * CHUNK_BYTES));
    let (head, body) = sealed.split_at(HEAD_BYTES);
    let chunks: Vec<&[u8]> = body.chunks(CHUNK_BYTES + 16).collect();
    for order in [vec![1, 0, 2], vec![0, 2], vec![0, 1], vec![0, 1, 1, 2], vec![0, 0, 1, 2], vec![2], vec![0], vec![]] {
        let moved = [vec![head], order.iter().map(|at| chunks[*at]).collect()].concat().concat();
        assert_eq!(open(&moved), Err(BadSeal::Broken), "{order:?}");
    }
}

proptest! {
    #[test]
    fn any_one_byte_that_changes_breaks_the_seal(length in lengths(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut sealed = seal(&bytes(length));
        let at = at.index(sealed.len());
        sealed[at] ^= flip;
        // The epoch in the head is what the reader looks its key up by.
        let opened = cipher::epoch_of(&sealed).and_then(|epoch| match epoch == id(2) {
            true => open(&sealed),
            false => Err(BadSeal::UnknownEpoch(epoch)),
        });
        prop_assert!(opened.is_err(), "byte {at} of {}", sealed.len());
    }

    #[test]
    fn any_cut_and_anything_added_breaks_the_seal(length in lengths(), at in any::<prop::sample::Index>(), more in 1..20_usize) {
        let sealed = seal(&bytes(length));
        let cut = &sealed[..at.index(sealed.len())];
        prop_assert!(cipher::epoch_of(cut).and_then(|_| open(cut)).is_err());
        prop_assert_eq!(open(&[sealed, vec![0; more]].concat()), Err(BadSeal::Broken));
    }

    #[test]
    fn any_two_objects_that_are_swapped_break(a in 0..50_u64, b in 0..50_u64, length in lengths()) {
        prop_assume!(a != b);
        let keyring = Keyring::create(id(1), id(2), &Lock::Recipients(Secret::generate().recipients())).unwrap();
        let (one, two) = (keyring.seal(&change(a), &bytes(length)).unwrap(), keyring.seal(&change(b), b"two").unwrap());
        prop_assert_eq!(keyring.open(&change(a), &one), Ok(bytes(length)));
        prop_assert_eq!(keyring.open(&change(a), &two), Err(BadSeal::Broken));
        prop_assert_eq!(keyring.open(&change(b), &one), Err(BadSeal::Broken));
    }

    #[test]
    fn any_bytes_are_opened_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (cipher::epoch_of(&bytes), KeyFile::decode(id(1), &bytes));
        prop_assert!(cipher::open(&key(1), bound(&change(3)), &bytes).is_err());
    }
}

#[test]
fn the_same_bytes_are_never_sealed_alike() {
    let keyring = Keyring::create(id(1), id(2), &Lock::Recipients(Secret::generate().recipients())).unwrap();
    let sealed: BTreeSet<Vec<u8>> = (0..100).map(|_| keyring.seal(&change(3), b"bread").unwrap()).collect();
    assert_eq!(sealed.len(), 100);
}

/// Opens what lies on a remote as somebody with a secret does.
fn unlock(files: &[(ChangeId, bytes::Bytes)], secret: &Secret) -> Result<Keyring, BadKeys> {
    let candidates: BTreeSet<ChangeId> = files.iter().map(|(id, _)| *id).collect();
    let mut opening = Opening::default();
    while let Some(next) = opening.next(&candidates) {
        let file = files.iter().find(|(id, _)| *id == next).unwrap().1.clone();
        opening.open(next, file, secret)?;
    }
    opening.finish(&[])
}

#[test]
fn a_passphrase_opens_what_it_locked_and_another_does_not() {
    let secret = Secret::passphrase("correct horse").unwrap();
    let keyring = Keyring::create(id(1), id(2), &Lock::Passphrase(secret.clone())).unwrap();
    let files = keyring.needed_files();
    assert_eq!(unlock(&files, &secret).unwrap().list(), keyring.list());
    assert_eq!(unlock(&files, &Secret::passphrase("wrong").unwrap()).err(), Some(BadKeys::WrongPassphrase));
    assert_eq!(unlock(&files, &Secret::generate()).err(), Some(BadKeys::NoPassphrase));
    assert!(Secret::passphrase("").is_err());
}

#[test]
fn any_change_of_a_key_file_is_refused() {
    let secret = Secret::generate();
    let keyring = Keyring::create(id(1), id(2), &Lock::Recipients(secret.recipients())).unwrap();
    let (epoch, file) = keyring.needed_files().remove(0);
    for at in 0..file.len() {
        let mut spoilt = file.to_vec();
        spoilt[at] ^= 1;
        assert!(unlock(&[(epoch, spoilt.into())], &secret).is_err(), "byte {at}");
        assert!(unlock(&[(epoch, file.slice(..at))], &secret).is_err(), "cut at {at}");
    }
    assert_eq!(unlock(&[(id(5), file)], &secret).err(), Some(BadKeys::Damaged(id(5))), "renamed");
}

#[test]
fn keys_made_without_the_ones_that_are_known_are_refused() {
    let secret = Secret::generate();
    let lock = Lock::Recipients(secret.recipients());
    let ours = Keyring::create(id(1), id(2), &lock).unwrap();
    // A stranger knows the recipients and the names, and makes keys of his own.
    let planted = Keyring::create(id(1), id(2), &lock).unwrap().with_epoch(id(9), &lock, false).unwrap();
    let read = unlock(&planted.needed_files(), &secret).unwrap();
    assert_eq!(read.check(id(9), &ours.pins()), Err(BadKeys::Stranger(id(9))));
    let both = [ours.needed_files(), planted.needed_files()].concat();
    assert!(unlock(&both, &secret).is_ok(), "the planted file alone is opened, as it claims to cover the other");
    let unrelated = Keyring::create(id(1), id(7), &lock).unwrap();
    let both = [ours.needed_files(), unrelated.needed_files()].concat();
    assert!(matches!(unlock(&both, &secret).err(), Some(BadKeys::Stranger(_))));
}

#[test]
fn who_was_removed_does_not_come_back_by_an_epoch_of_his_own() {
    let (alice, carol) = (Secret::generate(), Secret::generate());
    let both = [alice.recipients(), carol.recipients()].concat();
    let first = Keyring::create(id(1), id(2), &Lock::Recipients(both.clone())).unwrap();
    let removed = first.with_epoch(id(3), &Lock::Recipients(alice.recipients()), false).unwrap();
    // Carol knows the first key. She makes newer epochs from it: for both, for Alice alone, by hand and as if by a merge.
    for recipients in [both, alice.recipients()] {
        for merge in [false, true] {
            let forged = first.with_epoch(id(4), &Lock::Recipients(recipients.clone()), merge).unwrap();
            let files = [removed.needed_files(), forged.needed_files()].concat();
            let seen = unlock(&files, &alice).unwrap();
            assert_ne!(seen.current(), Some(id(4)));
            let next = seen.settled(id(5)).unwrap().unwrap_or(seen);
            assert_eq!(next.members(), [alice.recipients()[0].to_string()]);
            let sealed = next.seal(&change(3), b"later").unwrap();
            assert!(first.open(&change(3), &sealed).is_err() && forged.open(&change(3), &sealed).is_err());
        }
    }
}

#[test]
fn who_was_removed_while_the_keys_changed_otherwise_can_be_let_in_again() {
    let people: Vec<Secret> = (0..3).map(|_| Secret::generate()).collect();
    let of = |who: &[usize]| -> Vec<Recipient> { who.iter().flat_map(|n| people[*n].recipients()).collect() };
    let first = Keyring::create(id(1), id(2), &Lock::Recipients(of(&[0, 1]))).unwrap();
    let added = first.with_epoch(id(3), &Lock::Recipients(of(&[0, 1, 2])), false).unwrap();
    let removed = first.with_epoch(id(4), &Lock::Recipients(of(&[0])), false).unwrap();
    let files = [added.needed_files(), removed.needed_files()].concat();
    let both = unlock(&files, &people[0]).unwrap();
    assert!(!both.members().contains(&of(&[1])[0].to_string()));
    let again = both.with_epoch(id(5), &Lock::Recipients(of(&[0, 1, 2])), false).unwrap();
    assert_eq!((again.current(), again.members().len()), (Some(id(5)), 3));
    // Removed once more, he knows of the first removal and not of the second.
    let last = again.with_epoch(id(6), &Lock::Recipients(of(&[0, 2])), false).unwrap();
    let forged = again.with_epoch(id(7), &Lock::Recipients(of(&[0, 1, 2])), false).unwrap();
    let files = [last.needed_files(), forged.needed_files()].concat();
    let seen = unlock(&files, &people[0]).unwrap();
    assert_eq!((seen.current(), seen.members().len()), (None, 2));
}

#[test]
fn members_who_removed_each_other_are_not_taken_for_a_passphrase() {
    let (alice, bob) = (Secret::generate(), Secret::generate());
    let both = [alice.recipients(), bob.recipients()].concat();
    let first = Keyring::create(id(1), id(2), &Lock::Recipients(both.clone())).unwrap();
    let without_bob = first.with_epoch(id(3), &Lock::Recipients(alice.recipients()), false).unwrap();
    let without_alice = first.with_epoch(id(4), &Lock::Recipients(bob.recipients()), false).unwrap();
    let files = [without_bob.needed_files(), without_alice.needed_files()].concat();
    assert_eq!(unlock(&files, &alice).err(), Some(BadKeys::WrongKey));
    let together = unlock(&files, &alice.or(bob)).unwrap();
    for refused in [together.lock().err(), together.settled(id(5)).err()] {
        assert!(refused.unwrap().to_string().contains("removed each other"));
    }
    let settled = together.with_epoch(id(5), &Lock::Recipients(both), false).unwrap();
    assert_eq!((settled.current(), settled.members().len()), (Some(id(5)), 2));
}

/// What somebody does to the keys, as `zvon key` does it.
#[derive(Debug, Clone)]
enum Step {
    Rotate,
    Add(usize),
    Remove(usize),
    Write,
}

const PEOPLE: usize = 4;
const REPLICAS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<(usize, bool, Step)>> {
    let step = prop_oneof![
        Just(Step::Rotate),
        (1..PEOPLE).prop_map(Step::Add),
        (1..PEOPLE).prop_map(Step::Remove),
        Just(Step::Write),
    ];
    prop::collection::vec((0..REPLICAS, any::<bool>(), step), 1..14)
}

/// Three replicas of person 0 change keys and write, each with what it had seen of the remote when it last looked.
struct World {
    people: Vec<Secret>,
    files: Vec<(ChangeId, bytes::Bytes)>,
    /// How many of the files each replica has seen.
    seen: [usize; REPLICAS],
    clock: u64,
    written: Vec<(ObjectName, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        let people: Vec<Secret> = (0..PEOPLE).map(|_| Secret::generate()).collect();
        let lock = Lock::Recipients(people[..2].iter().flat_map(Secret::recipients).collect());
        let files = Keyring::create(id(1), id(2), &lock).unwrap().needed_files();
        Self { people, files, seen: [1; REPLICAS], clock: 10, written: Vec::new() }
    }

    fn next(&mut self) -> ChangeId {
        self.clock += 1;
        id(self.clock)
    }

    fn put(&mut self, keyring: &Keyring) {
        let newest = keyring.newest().unwrap();
        self.files.extend(keyring.needed_files().into_iter().filter(|(epoch, _)| *epoch == newest));
    }

    fn keys_of(&self, replica: usize) -> Keyring {
        unlock(&self.files[..self.seen[replica]], &self.people[0]).unwrap()
    }

    fn step(&mut self, replica: usize, looks: bool, step: &Step) {
        if looks {
            self.seen[replica] = self.files.len();
        }
        let keyring = self.keys_of(replica);
        let mut members = keyring.members();
        let person = |n: usize| self.people[n].recipients()[0].to_string();
        match step {
            Step::Rotate => {}
            Step::Add(n) => members.push(person(*n)),
            Step::Remove(n) => members.retain(|member| *member != person(*n)),
            Step::Write => return self.write(&keyring),
        }
        let recipients: Vec<Recipient> = members.iter().map(|member| member.parse().unwrap()).collect();
        let changed = keyring.with_epoch(self.next(), &Lock::Recipients(recipients), false).unwrap();
        members.sort();
        members.dedup();
        assert_eq!((changed.current(), changed.members()), (changed.newest(), members), "what is asked for is done");
        self.put(&changed);
    }

    fn write(&mut self, keyring: &Keyring) {
        let epoch = self.next();
        let settled = keyring.settled(epoch).unwrap();
        if let Some(settled) = &settled {
            self.put(settled);
        }
        let keyring = settled.unwrap_or_else(|| keyring.clone());
        let name = ObjectName::Change(self.next());
        let sealed = keyring.seal(&name, b"row").unwrap();
        self.written.push((name, sealed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_converges_and_who_is_out_reads_nothing_more(steps in steps()) {
        let mut world = World::new();
        for (replica, looks, step) in &steps {
            world.step(*replica, *looks, step);
        }
        // Everybody looks, and one writes, which settles what was done at once.
        let last = world.written.len();
        world.step(0, true, &Step::Write);
        let keyring = unlock(&world.files, &world.people[0]).unwrap();
        prop_assert!(keyring.current().is_some());
        prop_assert!(keyring.settled(id(999)).unwrap().is_none(), "nothing is left to settle");
        for (name, sealed) in &world.written {
            prop_assert_eq!(keyring.open(name, sealed), Ok(b"row".to_vec()));
        }
        let members = keyring.members();
        for person in &world.people {
            let is_member = members.contains(&person.recipients()[0].to_string());
            let (name, sealed) = &world.written[last];
            let reads = world.files.iter().any(|file| {
                unlock(std::slice::from_ref(file), person).is_ok_and(|keys| keys.open(name, sealed).is_ok())
            });
            prop_assert_eq!(reads, is_member);
        }
    }
}

#[test]
fn a_key_file_says_the_same_after_a_round_trip_and_nothing_unsound_is_read() {
    let lock = Lock::Recipients(Secret::generate().recipients());
    let keyring = Keyring::create(id(1), id(2), &lock).unwrap().with_epoch(id(4), &lock, true).unwrap();
    let file = keyring.as_file();
    assert_eq!(KeyFile::decode(id(4), &file.encode()), Some(file.clone()));
    assert_eq!(KeyFile::decode(id(5), &file.encode()), None, "its own epoch is missing");
    assert_eq!(KeyFile::decode(id(2), &file.encode()), None, "it holds what its epoch cannot know");
    let mut without_parent = file.clone();
    without_parent.epochs.0.remove(&id(2));
    assert_eq!(KeyFile::decode(id(4), &without_parent.encode()), None);
    assert_eq!(KeyFile::decode(id(4), &[file.encode().as_slice(), b"\xc0"].concat()), None);
}

/// Run by `cargo test --release --lib speed -- --ignored --nocapture`, on a machine that nobody else wants.
#[test]
#[ignore = "measures, and means nothing in a debug build"]
fn speed() {
    let keyring = Keyring::create(id(1), id(2), &Lock::Recipients(Secret::generate().recipients())).unwrap();
    let plain = bytes(32 << 20);
    let name = ObjectName::Pack(id(3));
    let mut sealed = Vec::new();
    let rate = |mut work: Box<dyn FnMut() + '_>| {
        let best = (0..7).map(|_| {
            let started = std::time::Instant::now();
            work();
            started.elapsed()
        });
        32.0 * 1.048_576 / best.min().unwrap().as_secs_f64()
    };
    let seal = rate(Box::new(|| sealed = keyring.seal(&name, &plain).unwrap()));
    let open = rate(Box::new(|| assert_eq!(keyring.open(&name, &sealed).unwrap().len(), plain.len())));
    let small = rate(Box::new(|| {
        for part in plain.chunks(300) {
            keyring.seal(&name, part).unwrap();
        }
    }));
    println!("sealing {seal:.0} MB/s, opening {open:.0} MB/s, sealing objects of 300 bytes {small:.0} MB/s");
    assert!(seal >= 200.0 && open >= 200.0);
}
