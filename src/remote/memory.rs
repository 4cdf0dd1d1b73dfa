//! Stores in this process's memory, shared by name and kept until the process ends. The one piece of global state there is:
//! a name that means the same store everywhere in the process cannot do without.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use object_store::memory::InMemory;

static STORES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

/// The store of a name, new and empty the first time.
pub(super) fn store(name: &str) -> Arc<InMemory> {
    // Whoever panicked while holding the lock cannot have left a map half changed.
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(stores.entry(name.to_owned()).or_default())
}
