//! How a test's thread and the servers share state: one plain mutex for each service.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex, even if it is poisoned. Otherwise a thread that panicked while it held the lock
/// would make the next tests fail with an unrelated message.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
