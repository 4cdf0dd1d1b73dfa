//! Packs, read and written from `docs/format.md` alone, for tests that look into a remote or fill one.

use sha2::{Digest, Sha256};

/// The changes of a pack: each id, and its change file.
pub fn unpack(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(&bytes[..12], b"\x89ZVPACK\n\x01\x01\x00\x00");
    let (changes, blocks, ids, extra) = (number(12), number(16), number(20), number(24));
    let table = 28 + 44 * blocks;
    let signed = table + ids + extra;
    assert_eq!(bytes[signed..signed + 32], *Sha256::digest(&bytes[..signed]));
    let ids = zstd::bulk::decompress(&bytes[table..table + ids], changes * 16).unwrap();
    let mut ids = ids.chunks(16).map(|id| uuid::Uuid::from_slice(id).unwrap().to_string());
    let (mut at, mut found) = (signed + 32, Vec::new());
    for block in 0..blocks {
        let head = 28 + 44 * block;
        let (records, stored, raw) = (number(head), number(head + 4), number(head + 8));
        let block = &bytes[at..at + stored];
        assert_eq!(bytes[head + 12..head + 44], *Sha256::digest(block));
        let block = zstd::bulk::decompress(block, raw).unwrap();
        let mut rest = &block[..];
        for _ in 0..records {
            let (length, after) = rest.split_at(4);
            let (file, after) = after.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
            found.push((ids.next().unwrap(), file.to_vec()));
            rest = after;
        }
        assert_eq!(rest, b"");
        at += stored;
    }
    assert_eq!((at, found.len()), (bytes.len(), changes));
    found
}

/// A pack of change files, given by id in ascending order.
pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let compress = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let ids: Vec<u8> = files.iter().flat_map(|(id, _)| uuid::Uuid::parse_str(id).unwrap().into_bytes()).collect();
    let ids = compress(&ids);
    let (mut table, mut body) = (Vec::new(), Vec::new());
    let blocks: Vec<&[(String, Vec<u8>)]> = files.chunks(2_000).collect();
    for block in &blocks {
        let raw: Vec<u8> = block.iter().flat_map(|(_, file)| [&number(file.len())[..], file].concat()).collect();
        let stored = compress(&raw);
        [block.len(), stored.len(), raw.len()].iter().for_each(|n| table.extend_from_slice(&number(*n)));
        table.extend_from_slice(&Sha256::digest(&stored));
        body.extend_from_slice(&stored);
    }
    let mut pack = b"\x89ZVPACK\n\x01\x01\x00\x00".to_vec();
    [files.len(), blocks.len(), ids.len(), 0].iter().for_each(|n| pack.extend_from_slice(&number(*n)));
    pack.extend_from_slice(&table);
    pack.extend_from_slice(&ids);
    let hash = Sha256::digest(&pack);
    pack.extend_from_slice(&hash);
    pack.extend_from_slice(&body);
    pack
}
