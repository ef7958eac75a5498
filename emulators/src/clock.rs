//! The clock of the emulators, and how they wait.
//!
//! A clock follows the machine's clock until it is stopped. A stopped clock moves only on request.
//! A wait then moves the clock instead of sleeping, so that a test that spans five minutes takes no
//! time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::lock::lock;

/// The clock of the three emulators. Clones are handles of the same clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Time>>);

#[derive(Debug, Default)]
struct Time {
    /// How far the clock is ahead of the machine's clock; negative if it is behind.
    ahead: TimeDelta,
    stopped: Option<DateTime<Utc>>,
}

impl Clock {
    /// Returns the current time of this clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let time = lock(&self.0);
        time.stopped.unwrap_or_else(|| Utc::now() + time.ahead)
    }

    /// Stops the clock. It then moves only by [`advance`](Self::advance) and
    /// [`put_back`](Self::put_back), and by the time that an emulator would wait.
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

    /// Moves the clock back, as if the machines that read it were ahead.
    pub fn put_back(&self, by: Duration) {
        let by = TimeDelta::from_std(by).unwrap_or_default();
        let mut time = lock(&self.0);
        match &mut time.stopped {
            Some(stopped) => *stopped -= by,
            None => time.ahead -= by,
        }
    }

    /// Waits for `time`. A stopped clock moves forward by `time` instead.
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
            reason = "the emulator is slow on purpose; no handler of the product waits here"
        )]
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_clock_advances_instead_of_waiting() {
        let clock = Clock::default();
        clock.stop();
        let before = clock.now();
        clock.pass(Duration::from_secs(86_400)).await;
        clock.advance(Duration::from_millis(500));
        assert_eq!(clock.now() - before, TimeDelta::milliseconds(86_400_500));
    }

    #[test]
    fn a_running_clock_can_be_advanced() {
        let clock = Clock::default();
        clock.advance(Duration::from_secs(600));
        assert!(clock.now() - Utc::now() > TimeDelta::seconds(590));
    }
}
