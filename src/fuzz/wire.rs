//! Bytes from a remote, and entity ids: what is read is written back, and means the same.

use sha2::{Digest, Sha256};

use super::dice::Dice;
use crate::guard::check_definition;
use crate::model::{ChangeId, Clock, KeyKind, KeyPart, decode_entity_id, encode_entity_id};
use crate::wire::{
    BadFile, HEADER_GUESS, Layout, MAX_HEADER_BYTES, MAX_PACKED_CHANGE, PackHeader, PackWriter, ParsedName, Records,
    RemoteIdentity, TableDefinition, decode_block, decode_change, decode_ids, encode_change, encode_ids,
};

/// The id under which every change of a fuzzed file lies.
const ID: &str = "019b76da-a802-7000-8000-0123456789ab";

/// A change file: what is read, and written anew, is the same change in the same bytes ever after.
pub fn change_file(data: &[u8]) {
    let id = ID.parse().expect("the id is a UUIDv7");
    let Ok(change) = decode_change(id, data) else { return };
    let bytes = encode_change(&change);
    // An extension of one byte may become text with a longer head, and a float of four bytes one of eight.
    assert!(bytes.len() <= 2 * data.len() + 512, "{} bytes became {}", data.len(), bytes.len());
    let again = decode_change(id, &bytes).expect("what is written can be read");
    assert_eq!(again, change);
    assert_eq!(encode_change(&again), bytes);
}

/// A pack: as it is; with its checksums made right, so that what they guard is reached; and made around the records given.
pub fn pack(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => drop(unpack(data)),
        1 => drop(unpack(&resigned(data))),
        2 => of_records(data),
        _ => packed_files(data),
    }
}

/// Reads a pack block by block, as a sync does.
fn unpack(bytes: &[u8]) -> Result<Vec<Records>, BadFile> {
    let length = PackHeader::length(&bytes[..bytes.len().min(HEADER_GUESS as usize)])?;
    assert!(length.is_none_or(|length| length as u64 <= MAX_HEADER_BYTES));
    let header = PackHeader::decode(bytes)?;
    let layout = header.layout();
    assert_eq!(layout.len(), header.blocks.len());
    assert!(layout.is_sorted_by(|(a, ids_a), (b, ids_b)| a.end == b.start && ids_a.end == ids_b.start));
    assert_eq!(layout.first().map(|(place, ids)| (Some(place.start), ids.start)), Some((length.map(|n| n as u64), 0)));
    assert_eq!(layout.last().map(|(place, ids)| (place.end, ids.end)), Some((header.pack_len(), header.ids.len())));
    assert_eq!(decode_ids(&encode_ids(&header.ids), header.ids.len()).as_ref(), Ok(&header.ids));
    let mut blocks = Vec::new();
    for (head, (place, ids)) in header.blocks.iter().zip(layout) {
        let place = place.start as usize..place.end as usize;
        let stored = bytes.get(place).ok_or(BadFile::Truncated)?;
        let records = decode_block(head, &header.ids[ids.clone()], stored)?;
        assert_eq!(records.len(), ids.len());
        blocks.push(records);
    }
    Ok(blocks)
}

/// The same bytes with the checksums of the blocks and of the header as they should be (section 11 of `docs/format.md`).
fn resigned(bytes: &[u8]) -> Vec<u8> {
    const TABLE: usize = 28;
    const ENTRY: usize = 44;
    let mut bytes = bytes.to_vec();
    let Ok(Some(length)) = PackHeader::length(&bytes) else { return bytes };
    if length > bytes.len() {
        return bytes;
    }
    let number = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let mut start = length;
    for block in 0..number(&bytes, 16) as usize {
        let entry = TABLE + block * ENTRY;
        let end = start.saturating_add(number(&bytes, entry + 4) as usize);
        let Some(stored) = bytes.get(start..end) else { break };
        let hash: [u8; 32] = Sha256::digest(stored).into();
        bytes[entry + 12..entry + ENTRY].copy_from_slice(&hash);
        start = end;
    }
    let hash: [u8; 32] = Sha256::digest(&bytes[..length - 32]).into();
    bytes[length - 32..length].copy_from_slice(&hash);
    bytes
}

fn ids(count: usize) -> Vec<ChangeId> {
    let mut clock = Clock::new(None);
    (0..count as u64).map(|n| clock.next(1_800_000_000_000 + n, n)).collect()
}

/// A pack of one block whose records are the bytes given, compressed, under a number of ids and of a stated length.
fn of_records(data: &[u8]) {
    let mut dice = Dice::new(data);
    let (ids, stated) = (ids(1 + dice.roll(8)), dice.integer());
    let raw = dice.rest();
    let stated = if stated == 0 { raw.len() } else { stated as u32 as usize };
    let block = zstd::bulk::compress(raw, 1).expect("memory takes any bytes");
    let ids_frame = encode_ids(&ids);
    let mut pack = b"\x89ZVPACK\n\x01\x01\0\0".to_vec();
    for number in [ids.len(), 1, ids_frame.len(), 0, ids.len(), block.len(), stated] {
        pack.extend_from_slice(&(number as u32).to_be_bytes());
    }
    pack.extend_from_slice(&[0; 32]);
    pack.extend_from_slice(&ids_frame);
    pack.extend_from_slice(&[0; 32]);
    pack.extend_from_slice(&block);
    if let Ok(blocks) = unpack(&resigned(&pack)) {
        assert_eq!((blocks.len(), stated), (1, raw.len()));
        assert_eq!(blocks[0].len(), ids.len());
    }
}

/// Any files are packed and come back one by one, each a change or refused by itself.
fn packed_files(data: &[u8]) {
    let mut dice = Dice::new(data);
    let mut files = Vec::new();
    while !dice.is_empty() {
        files.push(dice.bytes(255));
    }
    let ids = ids(files.len().max(1));
    let mut writer = PackWriter::new();
    for (id, file) in ids.iter().zip(&files) {
        assert!(file.len() <= MAX_PACKED_CHANGE);
        writer.add(*id, file);
    }
    if files.is_empty() {
        writer.add(ids[0], &[]);
    }
    let packed = writer.finish();
    assert_eq!(packed.ids, ids);
    let records: Vec<_> = unpack(&packed.bytes).expect("a pack of ours is whole").into_iter().flatten().collect();
    for ((record, id), file) in records.iter().zip(&ids).zip(&files) {
        assert_eq!(*record, decode_change(*id, file).map_err(|bad| (*id, bad)));
    }
}

/// A table definition: whatever is accepted is written in one way only, and judging it, however it ends, says no more than it may.
pub fn schema_object(data: &[u8]) {
    let Ok(definition) = TableDefinition::decode(data) else { return };
    assert_eq!(definition.encode(), data);
    assert_eq!(definition.hash(), <[u8; 32]>::from(Sha256::digest(data)));
    if let Err(error) = check_definition(&definition) {
        let chain = format!("{error}: {error:?}");
        assert!(chain.len() < 2000 && !chain.contains(|c: char| c.is_control()), "{chain}");
    }
}

/// Identities and layouts, and the names of objects.
pub fn control_object(data: &[u8]) {
    if let Ok(identity) = RemoteIdentity::decode(data) {
        assert_eq!(RemoteIdentity::decode(&identity.encode()).as_ref(), Ok(&identity));
    }
    if let Ok(layout) = Layout::decode(data) {
        assert_eq!(Layout::decode(&layout.encode()), Ok(layout));
    }
    let Ok(name) = std::str::from_utf8(data) else { return };
    match ParsedName::parse(name) {
        ParsedName::Known(known) => assert_eq!(known.to_string(), name),
        ParsedName::Refused(refused) => assert_eq!(refused, name),
        ParsedName::Stranger => {}
    }
}

/// Entity ids: what is read as a key is written as it was, and every key has an id of its own that reads back as that key.
pub fn entity_id(data: &[u8]) {
    if let Ok(id) = std::str::from_utf8(data) {
        for kind in [KeyKind::Text, KeyKind::Integer, KeyKind::Parts] {
            for columns in 0..5 {
                let Some(key) = decode_entity_id(kind, columns, id) else { continue };
                assert_eq!(key.len(), columns);
                assert_eq!(encode_entity_id(kind, &key).as_deref(), Some(id));
            }
        }
    }
    let mut dice = Dice::new(data);
    let (a, b) = (any_key(&mut dice), any_key(&mut dice));
    for kind in [KeyKind::Text, KeyKind::Integer, KeyKind::Parts] {
        let [id_a, id_b] = [&a, &b].map(|key| encode_entity_id(kind, key));
        if let Some(id) = &id_a {
            assert_eq!(decode_entity_id(kind, a.len(), id).as_ref(), Some(&a), "{kind:?} {id:?}");
        }
        if id_a.is_some() && id_b.is_some() {
            assert_eq!(id_a == id_b, a == b, "{kind:?} {a:?} {b:?}");
        }
    }
}

fn any_key(dice: &mut Dice<'_>) -> Vec<KeyPart> {
    let columns = 1 + dice.roll(4);
    let part = |dice: &mut Dice<'_>| match dice.roll(3) {
        0 => KeyPart::Text(dice.text(12)),
        1 => KeyPart::Integer(dice.integer()),
        _ => KeyPart::Blob(dice.bytes(12).to_vec()),
    };
    (0..columns).map(|_| part(dice)).collect()
}
