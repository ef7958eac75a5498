//! The harness' time: the machine's, and what the harness let pass on top of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Clones are handles of the same time.
#[derive(Debug, Clone)]
pub(crate) struct Time {
    start: Instant,
    passed: Arc<Mutex<Duration>>,
}

impl Default for Time {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            passed: Arc::default(),
        }
    }
}

impl Time {
    /// Since the start.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed() + *self.passed.lock().unwrap()
    }

    /// Since the start, on the machine's clock.
    pub(crate) fn real(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.passed.lock().unwrap() += time;
    }
}
