//! What time it is for the services, and how they wait.
//!
//! A clock runs with the machine's until it is stopped. A stopped clock moves only when it is told to; whatever would
//! wait then moves it instead, so that a test of five minutes takes none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::lock::lock;

/// The clock of all three services. Clones are handles of the same clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Time>>);

#[derive(Debug, Default)]
struct Time {
    /// How far it was moved ahead of the machine's.
    ahead: TimeDelta,
    stopped: Option<DateTime<Utc>>,
}

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let time = lock(&self.0);
        time.stopped.unwrap_or_else(|| Utc::now() + time.ahead)
    }

    /// From now on the clock moves only by [`advance`](Self::advance), and by what would be waited for.
    pub fn stop(&self) {
        let now = self.now();
        lock(&self.0).stopped = Some(now);
    }

    /// Moves the clock forward, whether it runs or not.
    pub fn advance(&self, by: Duration) {
        let by = TimeDelta::from_std(by).unwrap_or_default();
        let mut time = lock(&self.0);
        match &mut time.stopped {
            Some(stopped) => *stopped += by,
            None => time.ahead += by,
        }
    }

    /// Moves the clock back, so that a machine's own is ahead of it.
    pub fn put_back(&self, by: Duration) {
        let by = TimeDelta::from_std(by).unwrap_or_default();
        let mut time = lock(&self.0);
        match &mut time.stopped {
            Some(stopped) => *stopped -= by,
            None => time.ahead -= by,
        }
    }

    /// Lets this much time go by.
    pub(crate) async fn pass(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        if lock(&self.0).stopped.is_some() {
            self.advance(time);
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the stand-in is slow on purpose; no handler of the product waits here"
        )]
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_clock_moves_instead_of_waiting() {
        let clock = Clock::default();
        clock.stop();
        let before = clock.now();
        clock.pass(Duration::from_secs(86_400)).await;
        clock.advance(Duration::from_millis(500));
        assert_eq!(clock.now() - before, TimeDelta::milliseconds(86_400_500));
    }

    #[test]
    fn a_running_clock_can_be_moved_too() {
        let clock = Clock::default();
        clock.advance(Duration::from_secs(600));
        assert!(clock.now() - Utc::now() > TimeDelta::seconds(590));
    }
}
