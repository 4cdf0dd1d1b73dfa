//! Packs: what is written is read back; every byte that is missing or wrong is noticed, within the limits.

use proptest::prelude::*;

use super::*;
use crate::model::{AuthorId, Change, Clock, Field, Value};
use crate::wire::{decode_change, encode_change};

fn change(n: u64, text: &str) -> Change {
    Change {
        id: Clock::new(None).next(1_800_000_000_000 + n, n),
        author: AuthorId::new("author"),
        entity_type: "note".to_owned(),
        entity_id: n.to_string(),
        fields: vec![Field { name: "text".to_owned(), value: Value::text(text) }],
    }
}

fn packed(changes: &[Change]) -> Vec<u8> {
    let mut writer = PackWriter::new();
    changes.iter().for_each(|change| writer.add(change.id, &encode_change(change)));
    writer.finish().bytes.to_vec()
}

fn unpack(bytes: &[u8]) -> Result<Vec<Change>, BadFile> {
    let header = PackHeader::decode(bytes)?;
    if header.pack_len() != bytes.len() as u64 {
        return Err(BadFile::WrongLength);
    }
    let mut changes = Vec::new();
    for (block, (place, ids)) in header.blocks.iter().zip(header.layout()) {
        let stored = &bytes[place.start as usize..place.end as usize];
        for record in decode_block(block, &header.ids[ids], stored)? {
            changes.push(record.map_err(|(_, bad)| bad)?);
        }
    }
    Ok(changes)
}

/// The bytes of a header with other numbers or another table, and its checksum made right again.
fn forged(pack: &[u8], forge: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let len = PackHeader::decode(pack).unwrap().len as usize;
    let mut header = pack[..len - HASH].to_vec();
    forge(&mut header);
    let hash = Sha256::digest(&header);
    [&header[..], hash.as_slice(), &pack[len..]].concat()
}

#[test]
fn several_blocks_are_read_back_whole_and_one_by_one() {
    let changes: Vec<Change> = (0..5).map(|n| change(n, &"long".repeat(200_000))).collect();
    let pack = packed(&changes);
    let header = PackHeader::decode(&pack).unwrap();
    assert_eq!(header.blocks.len(), 3);
    assert_eq!(header.layout().iter().map(|(_, ids)| ids.clone()).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
    assert_eq!(unpack(&pack).unwrap(), changes);
    assert_eq!(PackHeader::length(&pack[..FIXED]), Ok(Some(header.len as usize)));
    assert_eq!(PackHeader::length(&pack[..FIXED - 1]), Ok(None));
    assert_eq!(PackHeader::length(b"x"), Err(BadFile::NotAPack));
}

#[test]
fn every_missing_or_wrong_byte_is_noticed() {
    let pack = packed(&[change(1, "one"), change(2, "two")]);
    for end in 0..pack.len() {
        assert!(unpack(&pack[..end]).is_err(), "cut at {end}");
    }
    for at in 0..pack.len() {
        let mut bad = pack.clone();
        bad[at] ^= 1;
        assert!(unpack(&bad).is_err(), "flipped at {at}");
    }
    assert_eq!(unpack(&[&pack[..], b"x"].concat()), Err(BadFile::WrongLength));
}

#[test]
fn numbers_outside_their_range_are_refused_before_they_take_memory() {
    let pack = packed(&[change(1, "one"), change(2, "two")]);
    let number = |at: usize, n: u32| forged(&pack, |header| header[at..at + 4].copy_from_slice(&n.to_be_bytes()));
    for (at, n) in [
        (12, 0),
        (12, 1),
        (12, 3),
        (12, 100_001),
        (12, u32::MAX),
        (16, 0),
        (16, 3),
        (16, u32::MAX),
        (20, 0),
        (20, 2 * 16 + 1025),
        (20, u32::MAX),
        (24, u32::MAX),
        (28, 0),
        (28, 3),
        (32, 0),
        (32, MAX_BLOCK + 1),
        (36, 0),
        (36, MAX_BLOCK + 1),
    ] {
        assert!(unpack(&number(at, n)).is_err(), "{n} at {at}");
    }
    assert_eq!(PackHeader::decode(&number(8, 0x0201_0000)), Err(BadFile::NewerFormat));
    assert_eq!(PackHeader::decode(&number(8, 0x0102_0000)), Err(BadFile::UnknownRequirement));
    assert_eq!(PackHeader::decode(&number(8, 0x0101_0001)), Err(BadFile::UnknownRequirement));
}

#[test]
fn additions_of_a_later_version_are_passed_over() {
    let changes = [change(1, "one"), change(2, "two")];
    let later = forged(&packed(&changes), |header| {
        header[24..28].copy_from_slice(&5_u32.to_be_bytes());
        header.extend_from_slice(b"later");
    });
    assert_eq!(unpack(&later).unwrap(), changes);
}

/// A pack of one block with these records, compressed and hashed as it should be.
fn of_records(ids: &[ChangeId], raw: &[u8], stated: u32) -> Vec<u8> {
    let block = zstd::bulk::compress(raw, 3).unwrap();
    let ids_frame = encode_ids(ids);
    let mut header = [&MAGIC[..], &[VERSION, CODEC_ZSTD, 0, 0]].concat();
    for n in [ids.len(), 1, ids_frame.len(), 0, ids.len(), block.len(), stated as usize] {
        header.extend_from_slice(&u32::try_from(n).unwrap().to_be_bytes());
    }
    header.extend_from_slice(&Sha256::digest(&block));
    header.extend_from_slice(&ids_frame);
    let hash = Sha256::digest(&header);
    [&header[..], hash.as_slice(), &block].concat()
}

#[test]
fn a_block_that_swells_beyond_what_it_says_is_not_followed() {
    let id = change(1, "").id;
    let bomb = vec![0; 200 << 20];
    assert_eq!(unpack(&of_records(&[id], &bomb, 100)), Err(BadFile::BadCompression { part: "block" }));
    assert_eq!(unpack(&of_records(&[id], b"1234", 5)), Err(BadFile::BadCompression { part: "block" }));
    assert_eq!(unpack(&of_records(&[id], &[0xFF; 8], 8)), Err(BadFile::Truncated));
    assert_eq!(unpack(&of_records(&[id], &[0; 8], 8)), Err(BadFile::TrailingBytes));
}

#[test]
fn a_bad_record_is_refused_alone() {
    let changes = [change(1, "one"), change(2, "two"), change(3, "three")];
    let mut raw = Vec::new();
    for file in [encode_change(&changes[0]), encode_change(&changes[0]), encode_change(&changes[2])] {
        raw.extend_from_slice(&u32::try_from(file.len()).unwrap().to_be_bytes());
        raw.extend_from_slice(&file);
    }
    let ids: Vec<ChangeId> = changes.iter().map(|change| change.id).collect();
    let pack = of_records(&ids, &raw, u32::try_from(raw.len()).unwrap());
    let header = PackHeader::decode(&pack).unwrap();
    let block = &pack[header.len as usize..];
    let records = decode_block(&header.blocks[0], &header.ids, block).unwrap();
    assert_eq!(records[0].as_ref(), Ok(&changes[0]));
    assert_eq!(records[1], Err((changes[1].id, BadFile::WrongId)));
    assert_eq!(records[2].as_ref(), Ok(&changes[2]));
}

#[test]
fn ids_that_do_not_ascend_or_are_none_are_refused() {
    let (a, b) = (change(1, "").id, change(2, "").id);
    for (ids, bad) in [(vec![b, a], BadFile::UnorderedIds), (vec![a, a], BadFile::UnorderedIds)] {
        assert_eq!(decode_ids(&encode_ids(&ids), 2), Err(bad));
    }
    let nil = zstd::bulk::compress(&[0; 16], 3).unwrap();
    assert_eq!(decode_ids(&nil, 1), Err(BadFile::NotAnId));
    assert!(decode_ids(&[nil.clone(), nil].concat(), 2).is_err(), "two frames are not one");
}

#[test]
fn a_pack_is_full_at_its_number_of_changes() {
    let mut writer = PackWriter::new();
    let file = encode_change(&change(1, "x"));
    let mut clock = Clock::new(None);
    for n in 0..MAX_PACK_CHANGES {
        assert!(!writer.is_full(), "{n}");
        writer.add(clock.next(0, 0), &file);
    }
    assert!(writer.is_full());
    let Packed { bytes, ids, raw } = writer.finish();
    assert!(is_frozen(ids.len() as u64, bytes.len() as u64, raw));
    assert_eq!(PackHeader::decode(&bytes).unwrap().ids, ids);
    // The header of a full pack comes with the first request.
    assert!(PackHeader::decode(&bytes).unwrap().len < HEADER_GUESS);
}

#[test]
fn a_full_pack_of_typical_changes_takes_at_most_two_fifths_of_the_loose_files() {
    // Five fields, and a body of 100 characters that look like text: words of a small vocabulary, no two bodies alike.
    let words = ["the", "river", "of", "small", "changes", "never", "sleeps", "and", "carries", "stones", "to", "sea"];
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 16
    };
    let (mut writer, mut loose, mut clock) = (PackWriter::new(), 0_u64, Clock::new(None));
    for n in 0..MAX_PACK_CHANGES as u64 {
        let mut body = String::new();
        while body.len() < 100 {
            body += words[(random() % 12) as usize];
            body += &format!(" {:x} ", random() & 0xFFF);
        }
        body.truncate(100);
        let id = clock.next(1_800_000_000_000 + n / 5, random());
        let fields = [
            ("a_title", Value::text("a title")),
            ("body", Value::text(&body)),
            ("count", Value::Integer(n as i64)),
            ("price", Value::Real((random() & 0xFFFF) as f64 / 100.0)),
            ("removed_at", Value::Null),
        ];
        let change = Change {
            id,
            author: AuthorId::new("019a9f3c-0c00-7000-8000-3f6c2a1b4d5e"),
            entity_type: "item".to_owned(),
            entity_id: Clock::new(None).next(1_700_000_000_000 + n, random()).to_string(),
            fields: fields.map(|(name, value)| Field { name: name.to_owned(), value }).to_vec(),
        };
        let file = encode_change(&change);
        loose += file.len() as u64;
        writer.add(id, &file);
    }
    let pack = writer.finish().bytes.len() as u64;
    println!("{loose} bytes loose, {pack} packed: {:.1} %", pack as f64 * 100.0 / loose as f64);
    assert!(pack * 100 <= loose * 40, "{pack} of {loose}");
}

proptest! {
    #[test]
    fn what_is_packed_comes_back(texts in prop::collection::vec(".{0,40}", 1..30)) {
        let changes: Vec<Change> = texts.iter().enumerate().map(|(n, text)| change(n as u64, text)).collect();
        let pack = packed(&changes);
        prop_assert_eq!(&pack, &packed(&changes));
        prop_assert_eq!(unpack(&pack).unwrap(), changes);
    }

    #[test]
    fn any_bytes_are_a_pack_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..300), ours in any::<bool>()) {
        if ours && bytes.len() >= 12 {
            bytes[..12].copy_from_slice(&[&MAGIC[..], &[VERSION, CODEC_ZSTD, 0, 0]].concat());
        }
        let _ = PackHeader::length(&bytes);
        let _ = unpack(&bytes);
        let _ = decode_change(change(1, "").id, &bytes);
    }
}

/// The golden pack: two changes that lie in it alone, one that lies loose too, in two blocks.
fn golden() -> (std::path::PathBuf, Vec<Change>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/v1/packs");
    let path = std::path::PathBuf::from(folder).join("019b76da-aa00-7000-8000-0123456789ab.pack");
    let packed = |id: &str, title: Value| Change {
        id: id.parse().unwrap(),
        author: AuthorId::new("019b76da-a800-7000-8000-00000000000a"),
        entity_type: "packed".to_owned(),
        entity_id: "1".to_owned(),
        fields: vec![Field { name: "title".to_owned(), value: title }],
    };
    let loose = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/golden/v1/changes/019b76da-a804-7000-8000-0123456789ab.msgpack"
    );
    let loose = std::fs::read(loose).unwrap();
    let changes = vec![
        decode_change("019b76da-a804-7000-8000-0123456789ab".parse().unwrap(), &loose).unwrap(),
        packed("019b76da-a900-7000-8000-0123456789ab", Value::text("long ".repeat(220_000))),
        packed("019b76da-a901-7000-8000-0123456789ab", Value::text("from a pack")),
    ];
    (path, changes)
}

/// How zstd compresses may change with its version; what it decompresses to may not, nor anything else of the form.
#[test]
fn the_golden_pack_reads_as_its_changes() {
    let (path, changes) = golden();
    if std::env::var_os("ZVON_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, packed(&changes)).unwrap();
    }
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(PackHeader::decode(&bytes).unwrap().blocks.len(), 2);
    assert_eq!(unpack(&bytes).unwrap(), changes);
    // What is written now has the same numbers, ids and records.
    let again = packed(&changes);
    assert_eq!(bytes[..20], again[..20]);
    assert_eq!(PackHeader::decode(&again).unwrap().raw_len(), PackHeader::decode(&bytes).unwrap().raw_len());
}
