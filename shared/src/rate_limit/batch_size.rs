//! The batch size of backfill, and what its batches reserve.

use std::time::Duration;

use chrono::TimeDelta;

use super::gcra::{Limits, Reservation};
use crate::clients::dataverse::session::Usage;

/// The fewest messages of a backfill batch.
pub(crate) const SMALLEST: u32 = 10;

/// The most messages of a backfill batch: change sets in one request.
pub const LARGEST: u32 = 100;

/// The most messages of a process's first backfill batch; fewer if these are expected to exceed
/// [`Limits::batch_time`].
const FIRST: u32 = 50;

/// The expected usage of a message before the first was processed: two operations, and its share of
/// the lookup.
const FIRST_GUESS: Duration = Duration::from_millis(100);

/// The batch size of backfill and the usage of a message, as one process has learnt them for one
/// user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchSize {
    size: u32,
    /// The expected usage of a message.
    for_each: TimeDelta,
    /// The actual usage of earlier batches beyond what they reserved; negative if they reserved too
    /// much.
    owed: TimeDelta,
}

impl BatchSize {
    /// Returns the values of a process that has processed nothing yet.
    #[must_use]
    pub(crate) fn new(limits: &Limits) -> Self {
        let guess = Usage {
            requests: 0,
            time: FIRST_GUESS,
        };
        let fitting = limits.batch_time().as_millis() / FIRST_GUESS.as_millis();
        let fitting = u32::try_from(fitting).unwrap_or(FIRST);
        Self {
            size: fitting.clamp(SMALLEST, FIRST),
            for_each: limits.time_of(guess),
            owed: TimeDelta::zero(),
        }
    }

    /// Returns the number of messages of the next backfill batch, from [`SMALLEST`] to [`LARGEST`].
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(1)
    }

    /// Returns the actual usage of earlier batches beyond what they reserved; negative if they
    /// reserved too much.
    #[must_use]
    pub(crate) const fn owed(&self) -> TimeDelta {
        self.owed
    }

    /// Returns the reservation for a batch of this many messages: its expected usage, and what is
    /// owed. [`settle`](Self::settle) returns what is reserved and not used.
    pub(crate) fn reserve(&mut self, messages: usize) -> Reservation {
        let messages = i32::try_from(messages).unwrap_or(i32::MAX);
        let expected = self.for_each * messages;
        let owed = std::mem::take(&mut self.owed);
        Reservation { expected, owed }
    }

    /// Undoes a reservation that the ledger did not store.
    pub(crate) fn cancel(&mut self, reservation: &Reservation) {
        self.owed += reservation.owed;
    }

    /// Settles a reservation with the actual usage and the number of messages that were looked up
    /// in Dataverse.
    pub(crate) fn settle(
        &mut self,
        limits: &Limits,
        reservation: &Reservation,
        usage: Usage,
        messages: usize,
    ) {
        let taken = limits.time_of(usage);
        self.owed += taken - reservation.expected;
        if let Some(messages) = i32::try_from(messages).ok().filter(|n| *n > 0) {
            self.for_each += (taken / messages - self.for_each) / 4;
        }
    }

    /// Adapts the batch size to the time that the calls of a backfill batch took. The next batch
    /// has as many messages as would have taken `target`, but at least half and at most one and a
    /// half times the current size. Within a quarter of the current size, nothing changes.
    pub(crate) fn adapt(&mut self, messages: usize, took: Duration, target: Duration) {
        let Some(messages) = u32::try_from(messages).ok().filter(|n| *n > 0) else {
            return;
        };
        let fitting = u128::from(messages) * target.as_micros() / took.as_micros().max(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        let grows = fitting > self.size + self.size / 4;
        let shrinks = fitting < self.size - self.size / 4;
        // A few messages at the end of a page do not show how long many take.
        if shrinks || (grows && messages * 2 >= self.size) {
            let near = fitting.clamp(self.size / 2, self.size + self.size / 2);
            self.size = near.clamp(SMALLEST, LARGEST);
        }
    }
}
