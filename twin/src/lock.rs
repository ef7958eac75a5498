//! How state is shared between a test's thread and the servers: one plain mutex for each service.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a thread died while it held the lock: a test that failed must not make the next ones fail
/// with another message.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
