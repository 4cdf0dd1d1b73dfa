//! Parts of sealed objects are the same parts of their content, and nothing that was cut, moved or changed comes through.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::{Fetched, Interruption, Remote};
use crate::model::{ChangeId, Clock};
use crate::seal::{BadSeal, Keyring, Lock, Secret};
use crate::wire::ObjectName;

const CHUNK: usize = 64 << 10;

fn id(n: u64) -> ChangeId {
    Clock::new(None).next(1_800_000_000_000 + n, n)
}

/// An encrypted remote in memory, and the store below it.
fn remote() -> (Remote, Arc<InMemory>) {
    let keyring = Keyring::create(id(1), id(2), &Lock::Recipients(Secret::generate().recipients())).unwrap();
    let store = Arc::new(InMemory::new());
    let plain = Remote::from_store("sealed", Arc::clone(&store) as Arc<dyn ObjectStore>, "").unwrap();
    (plain.unlocked(Arc::new(keyring)), store)
}

fn content(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

async fn read(remote: &Remote, name: &ObjectName, from: u64, len: Option<u64>) -> Result<Vec<u8>, BadSeal> {
    let body = remote.body(name, from, len).await.unwrap().unwrap();
    let parts: Result<Vec<Bytes>, Interruption> = body.try_collect().await;
    match parts {
        Ok(parts) => Ok(parts.concat()),
        Err(Interruption::Unopened(bad)) => Err(bad),
        Err(Interruption::Failed(error)) => panic!("{error}"),
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK, 3 * CHUNK + 7]),
        0..3 * CHUNK
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_part_is_that_part_of_the_content(length in lengths(), from in 0..4 * CHUNK, len in 1..4 * CHUNK, fresh in any::<bool>()) {
        run(async {
            let (remote, _) = remote();
            let (name, content) = (ObjectName::Pack(id(7)), content(length));
            remote.put(&name, content.clone()).await.unwrap();
            // Another replica has not written it, and does not know its head.
            let reader = if fresh { remote.forgetful() } else { remote.clone() };
            assert_eq!(read(&reader, &name, 0, None).await.unwrap(), content);
            assert_eq!(remote.get(&name, length as u64).await.unwrap(), Fetched::Bytes(content.clone()));
            let from = from.min(length.saturating_sub(1));
            let end = content.len().min(from + len);
            assert_eq!(read(&reader, &name, from as u64, Some(len as u64)).await.unwrap(), content[from..end]);
            assert_eq!(read(&reader, &name, from as u64, None).await.unwrap(), content[from..]);
            assert_eq!(reader.sealed_under(&name), Some(id(2)));
        });
    }

    #[test]
    fn nothing_comes_of_what_was_cut_or_changed(length in lengths(), at in any::<prop::sample::Index>(), flip in any::<Option<u8>>()) {
        run(async {
            let (remote, store) = remote();
            let name = ObjectName::Pack(id(7));
            remote.put(&name, content(length)).await.unwrap();
            let key = Path::from(name.to_string());
            let mut sealed = store.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
            let at = at.index(sealed.len());
            match flip {
                Some(flip) => sealed[at] ^= flip.max(1),
                None => sealed.truncate(at),
            }
            store.put(&key, sealed.into()).await.unwrap();
            assert!(read(&remote.forgetful(), &name, 0, None).await.is_err());
            assert!(matches!(remote.get(&name, length as u64).await.unwrap(), Fetched::Unopened(_)));
        });
    }
}

#[tokio::test]
async fn an_object_above_the_limit_is_not_opened() {
    let (remote, _) = remote();
    let name = ObjectName::Change(id(7));
    remote.put(&name, content(1000)).await.unwrap();
    assert_eq!(remote.get(&name, 1000).await.unwrap(), Fetched::Bytes(content(1000)));
    assert_eq!(remote.get(&name, 999).await.unwrap(), Fetched::TooLarge);
}

#[tokio::test]
async fn what_is_missing_is_gone() {
    let (remote, _) = remote();
    let name = ObjectName::Pack(id(7));
    assert_eq!(remote.get(&name, 1000).await.unwrap(), Fetched::Gone);
    for from in [0, 1, CHUNK as u64] {
        assert!(remote.body(&name, from, None).await.unwrap().is_none());
    }
}
