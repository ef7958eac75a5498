//! The budget of an application user, and the theoretical arrival time (TAT) up to which it is
//! reserved.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::clients::dataverse::session::Usage;
use crate::clients::refusal::RefusalState;

/// The percentage of the limits that live mail and backfill use together. The rest is for usage
/// that could not be reserved in advance.
pub(crate) const SHARE_PERCENT: u32 = 97;

/// The longest time for the calls of a backfill batch: within the client's idle timeout of 15
/// seconds, and far within Dataverse's two minutes and the lease.
const LONGEST_BATCH: Duration = Duration::from_secs(10);

/// The part of a request's time that is network latency, which no limit counts. *Inferred*, for a
/// function in the region of the organisation. If the latency is higher, backfill is a little
/// slower than necessary.
const WAY: Duration = Duration::from_millis(30);

/// The number of concurrent batches if Dataverse has suggested none: its limit equals four seconds
/// of execution per second.
const DEFAULT_CONCURRENCY: u32 = 4;

/// The most concurrent batches in one invocation, whatever Dataverse suggests: several invocations
/// together stay below its 52 concurrent requests.
const MAX_CONCURRENCY: u32 = 8;

/// Requests of a batch that do not count.
const FREE_REQUESTS: u32 = 2;

/// The number of live messages that may wait in their queue before backfill yields: one batch,
/// which a worker receives immediately.
const LIVE_BATCH: usize = 10;

/// How long backfill yields before it checks again whether live mail waits.
const YIELD: TimeDelta = TimeDelta::seconds(5);

/// The limits of Dataverse for one user in a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    requests: u32,
    execution: Duration,
    pub(super) window: Duration,
}

impl Default for Limits {
    /// Returns the documented limits (Dataverse facts §11.1): 6,000 requests and 1,200 seconds of
    /// execution in 300 seconds.
    fn default() -> Self {
        Self {
            requests: 6_000,
            execution: Duration::from_secs(1_200),
            window: Duration::from_secs(300),
        }
    }
}

impl Limits {
    /// Returns limits that are never reached, for emulators, which have none.
    #[must_use]
    pub const fn boundless() -> Self {
        Self {
            requests: u32::MAX,
            execution: Duration::from_secs(u32::MAX as u64),
            window: Duration::from_secs(1),
        }
    }
}

/// The text contains no valid limits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be three numbers from 1 to 1,000,000: requests, seconds of execution, seconds of the window (such as 6000,1200,300)"
)]
pub struct InvalidLimits;

impl FromStr for Limits {
    type Err = InvalidLimits;

    fn from_str(text: &str) -> Result<Self, InvalidLimits> {
        let numbers: Result<Vec<u32>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        match numbers.as_deref() {
            Ok(&[requests, execution, window])
                if [requests, execution, window]
                    .iter()
                    .all(|n| (1..=1_000_000).contains(n)) =>
            {
                Ok(Self {
                    requests,
                    execution: Duration::from_secs(execution.into()),
                    window: Duration::from_secs(window.into()),
                })
            }
            _ => Err(InvalidLimits),
        }
    }
}

impl Limits {
    /// Converts usage to time, by which it advances the TAT: how long these calls use up our whole
    /// share of the limits, so that nothing else could be sent. Of the two limits, the one of which
    /// they use more decides.
    ///
    /// Two requests, the lookup and the batch, do not count: calls of that kind reach the limit on
    /// execution time before the one on requests.
    #[must_use]
    pub fn time_of(&self, usage: Usage) -> TimeDelta {
        let executed = usage
            .time
            .saturating_sub(WAY.saturating_mul(usage.requests));
        let window = self.window.as_micros();
        let by_time = executed.as_micros() * window / self.execution.as_micros();
        let beyond = u128::from(usage.requests.saturating_sub(FREE_REQUESTS));
        let by_requests = beyond * window / u128::from(self.requests);
        let micros = by_time.max(by_requests) * 100 / u128::from(SHARE_PERCENT);
        TimeDelta::microseconds(i64::try_from(micros).unwrap_or(i64::MAX / 2))
    }

    /// Returns the burst: how much unused time may be used later, a hundredth of the window.
    /// [`SHARE_PERCENT`] of the limits, the burst and a batch that starts at the last moment
    /// together stay just below the limits in any window.
    #[must_use]
    pub fn burst(&self) -> TimeDelta {
        TimeDelta::from_std(self.window / 100).unwrap_or_default()
    }

    /// Returns how far the TAT may be ahead of the clock: one window, because no limit counts what
    /// was sent earlier. So an outage of Dataverse, in which every call takes until its timeout,
    /// does not delay backfill for long after it ends.
    #[must_use]
    pub(crate) fn max_backlog(&self) -> TimeDelta {
        TimeDelta::from_std(self.window).unwrap_or_default()
    }

    /// Returns the target time for the calls of a backfill batch: ten seconds, or a sixty-fourth of
    /// a small limit on execution time, so that it is used evenly.
    #[must_use]
    pub(crate) fn batch_time(&self) -> Duration {
        LONGEST_BATCH.min(self.execution / 64)
    }
}

/// The rate limiter state of one user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimiterState {
    /// The pause that Dataverse asked for: nothing is sent before this time. It may have passed;
    /// `None` without a pause.
    pub paused_until: Option<DateTime<Utc>>,
    /// The theoretical arrival time (TAT): capacity is reserved up to this time. It may have
    /// passed; `None` before the first reservation.
    pub tat: Option<DateTime<Utc>>,
    /// The concurrency that Dataverse suggested last; `None` if it has not.
    pub suggested_concurrency: Option<u32>,
    /// Recent refusals that may concern the caller.
    pub refused: RefusalState,
}

impl LimiterState {
    /// Returns until when nothing may be sent; `None` if requests are allowed now.
    #[must_use]
    pub fn pause(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Returns when backfill may start a batch that also reserves `owed`; `None` if it may start
    /// now.
    #[must_use]
    pub(crate) fn free_at(&self, owed: TimeDelta, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let reserved = self.tat.map(|until| until + owed);
        self.pause(now).max(reserved.filter(|until| *until > now))
    }

    /// Returns how many batches one invocation runs at the same time.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        let concurrency = self
            .suggested_concurrency
            .unwrap_or(DEFAULT_CONCURRENCY)
            .clamp(1, MAX_CONCURRENCY);
        usize::try_from(concurrency).unwrap_or(1)
    }
}

/// Returns until when backfill yields if this many live messages wait in their queue; `None` if it
/// need not.
#[must_use]
pub(crate) fn yield_until(live_waiting: usize, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (live_waiting > LIVE_BATCH).then(|| now + YIELD)
}

/// Capacity that a batch reserves in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "settle or cancel every reservation"]
pub struct Reservation {
    /// The expected usage of the batch.
    pub expected: TimeDelta,
    /// The usage of the process's earlier batches beyond what they reserved. The capacity is free
    /// once their actual usage has passed.
    pub owed: TimeDelta,
}

impl Reservation {
    /// Returns the time by which the reservation advances the user's TAT.
    #[must_use]
    pub fn time(&self) -> TimeDelta {
        self.expected + self.owed
    }
}
