//! How much is asked of Dataverse at a time: one budget for each of its users, which live mail and history share. Pure.
//!
//! Dataverse counts what one user sends within a sliding window (Dataverse facts §11.1). Whoever exceeds a limit is refused, and everybody with the
//! same user waits: also the mail of this minute, for the sake of last year's. So the limits are not found out by running into them:
//!
//! - **Everybody books.** The ledger has one item for each user, with a moment: up to it the user's time is booked ([`crate::dedupe::bookings`]).
//!   A run moves it on by what its calls are expected to take up ([`Budget::taken_by`]), and later by what they took up instead.
//! - **Live mail goes at once**, whatever is booked. It asks the same item for the pause anyway, so booking costs no call.
//! - **History begins a batch when the moment has passed** ([`Standing::free_at`]), so it gets what live mail leaves, up to [`SHARE_PERCENT`] of the
//!   limits, and the rest is room for a burst of live mail. And it begins none while live mail waits in its queue ([`yields`]).
//! - **A batch of history** has as many messages as take about [`Budget::batch_time`], between [`SMALLEST`] and [`LARGEST`] ([`Pace`]).
//! - **As many batches at the same time** as Dataverse suggests (`x-ms-dop-hint`), in each invocation ([`Standing::lanes`]). How many of them there
//!   are in all is held by the booking: operations that take four seconds of each second are, on average, four at a time.
//! - **429 and `Retry-After`** pause everybody with that user: the same item has until when.
//!
//! The remaining time that Dataverse tells with each answer is "for diagnosis, not for control" (§11.1), and no part in this.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::dataverse::session::Usage;
use crate::refusal::RefusalState;

/// How much of the limits is used, live mail and history together. The rest is for what could not be booked in advance.
pub const SHARE_PERCENT: u32 = 97;

/// Fewest messages of a batch of history.
pub const SMALLEST: u32 = 10;

/// Most messages of a batch of history: change sets in one request.
pub const LARGEST: u32 = 100;

/// Messages of a process's first batch of history, where as many are expected to take no longer than they should.
const FIRST: u32 = 50;

/// Longest time for the calls of a batch of history: within the client's 15 seconds of silence, and far within Dataverse's two minutes and the lease.
const LONGEST_BATCH: Duration = Duration::from_secs(10);

/// Of the time that a request takes, so much is its way there and back, which no limit counts. Inferred, for a function in the organisation's part of
/// the world. If it is longer, history is a little slower than it might be.
const WAY: Duration = Duration::from_millis(30);

/// Batches at the same time when Dataverse has suggested nothing: four seconds of execution a second is what its limit comes to.
const LANES: u32 = 4;

/// Most batches at the same time in one invocation, whatever Dataverse suggests: some invocations together stay below its 52 requests in flight.
const MOST_LANES: u32 = 8;

/// What a message is expected to take before the first has been seen: two operations, and its part of the look-up.
const FIRST_GUESS: Duration = Duration::from_millis(100);

/// Requests of a run that are not counted.
const FREE_REQUESTS: u32 = 2;

/// Live messages that may wait in their queue without history minding: a batch, which a worker has at once.
const LIVE_BATCH: usize = 10;

/// After this long, history looks again whether live mail waits.
const YIELD: TimeDelta = TimeDelta::seconds(5);

/// A user of Dataverse: by default one application user does everything; others may help with history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct User(Option<String>);

impl User {
    /// The one whose token is in the secret `TOKEN_SECRET_ID`.
    #[must_use]
    pub const fn primary() -> Self {
        Self(None)
    }

    /// One of `DATAVERSE_APPLICATION_USERS`.
    #[must_use]
    pub const fn named(name: String) -> Self {
        Self(Some(name))
    }

    /// What follows a name that the primary user has for itself: nothing, or `separator` and the user's name.
    #[must_use]
    pub fn suffix(&self, separator: char) -> String {
        self.0
            .as_ref()
            .map_or_else(String::new, |name| format!("{separator}{name}"))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("primary"))
    }
}

/// What Dataverse allows one user in a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    requests: u32,
    execution: Duration,
    window: Duration,
}

impl Default for Budget {
    /// The documented limits (Dataverse facts §11.1): 6,000 requests and 1,200 seconds of execution in 300 seconds.
    fn default() -> Self {
        Self {
            requests: 6_000,
            execution: Duration::from_secs(1_200),
            window: Duration::from_secs(300),
        }
    }
}

impl Budget {
    /// More than anybody uses: for stand-ins, which take whatever they are given.
    #[must_use]
    pub const fn boundless() -> Self {
        Self {
            requests: u32::MAX,
            execution: Duration::from_secs(u32::MAX as u64),
            window: Duration::from_secs(1),
        }
    }
}

/// The text names no budget.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be three numbers from 1 to 1,000,000: requests, seconds of execution, seconds of the window, as 6000,1200,300"
)]
pub struct NoBudget;

impl FromStr for Budget {
    type Err = NoBudget;

    fn from_str(text: &str) -> Result<Self, NoBudget> {
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
            _ => Err(NoBudget),
        }
    }
}

impl Budget {
    /// For how long nobody else could send anything if all that we use of the limits went into the calls of this run. Of the two limits, the one counts that
    /// they use up more of. Two requests are free, the look-up and the batch: it is not their number by which runs like that would meet a limit.
    #[must_use]
    pub fn taken_by(&self, spent: Usage) -> TimeDelta {
        let executed = spent
            .time
            .saturating_sub(WAY.saturating_mul(spent.requests));
        let window = self.window.as_micros();
        let by_time = executed.as_micros() * window / self.execution.as_micros();
        let beyond = u128::from(spent.requests.saturating_sub(FREE_REQUESTS));
        let by_requests = beyond * window / u128::from(self.requests);
        let micros = by_time.max(by_requests) * 100 / u128::from(SHARE_PERCENT);
        TimeDelta::microseconds(i64::try_from(micros).unwrap_or(i64::MAX / 2))
    }

    /// Time that nobody used can be used later, so much of it: a hundredth of the window. With it, [`SHARE_PERCENT`] of the limits, and a batch that begins
    /// at the last moment, the limits are just not reached in any window.
    #[must_use]
    pub fn kept(&self) -> TimeDelta {
        TimeDelta::from_std(self.window / 100).unwrap_or_default()
    }

    /// Nothing is booked for longer ahead than a window: what was sent before it no limit counts. So a time in which Dataverse answers nobody, and every call takes
    /// until it is given up, does not keep history waiting for long after its end.
    #[must_use]
    pub fn ahead(&self) -> TimeDelta {
        TimeDelta::from_std(self.window).unwrap_or_default()
    }

    /// What the calls of a batch of history should take: ten seconds, and of a small budget a sixty-fourth part, so that it can be spent evenly.
    #[must_use]
    pub fn batch_time(&self) -> Duration {
        LONGEST_BATCH.min(self.execution / 64)
    }
}

/// How it stands with one user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Until when nothing is sent, because Dataverse said so. It may have passed.
    pub paused_until: Option<DateTime<Utc>>,
    /// Up to when the user's time is booked. It may have passed.
    pub booked_until: Option<DateTime<Utc>>,
    /// How many requests at the same time Dataverse suggested last.
    pub suggested: Option<u32>,
    /// What is known of refusals that may concern everybody.
    pub refused: RefusalState,
}

impl Standing {
    /// Until when nobody sends anything; `None` when one may.
    #[must_use]
    pub fn pause(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.paused_until.filter(|until| *until > now)
    }

    /// When history may begin a batch that books `owed` along; `None` when it may now.
    #[must_use]
    pub fn free_at(&self, owed: TimeDelta, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let booked = self.booked_until.map(|until| until + owed);
        self.pause(now).max(booked.filter(|until| *until > now))
    }

    /// How many batches one invocation has under way at the same time.
    #[must_use]
    pub fn lanes(&self) -> usize {
        let lanes = self.suggested.unwrap_or(LANES).clamp(1, MOST_LANES);
        usize::try_from(lanes).unwrap_or(1)
    }
}

/// Until when history makes room, if so many live messages wait in their queue; `None` when it need not.
#[must_use]
pub fn yields(live_waiting: usize, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (live_waiting > LIVE_BATCH).then(|| now + YIELD)
}

/// What a process has learnt of its batches with one user: how many messages history takes at a time, and what a message takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    size: u32,
    /// What a message is expected to take up.
    for_each: TimeDelta,
    /// What earlier runs took up beyond what they booked; less than nothing when they booked too much.
    owed: TimeDelta,
}

impl Pace {
    /// Of a process that has seen nothing yet.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        let guess = Usage {
            requests: 0,
            time: FIRST_GUESS,
        };
        let fitting = budget.batch_time().as_millis() / FIRST_GUESS.as_millis();
        let fitting = u32::try_from(fitting).unwrap_or(FIRST);
        Self {
            size: fitting.clamp(SMALLEST, FIRST),
            for_each: budget.taken_by(guess),
            owed: TimeDelta::zero(),
        }
    }

    /// How many messages the next batch of history has, from [`SMALLEST`] to [`LARGEST`].
    #[must_use]
    pub fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(1)
    }

    /// What earlier runs took up beyond what they booked; less than nothing when they booked too much.
    #[must_use]
    pub const fn owed(&self) -> TimeDelta {
        self.owed
    }

    /// What a run over so many messages books: what it is expected to take up, and what is owed. What is booked and then not used is [returned](Self::settle).
    pub fn book(&mut self, messages: usize) -> Booking {
        let messages = i32::try_from(messages).unwrap_or(i32::MAX);
        let expected = self.for_each * messages;
        let owed = std::mem::take(&mut self.owed);
        Booking { expected, owed }
    }

    /// A booking that the ledger did not take.
    pub fn cancel(&mut self, booking: &Booking) {
        self.owed += booking.owed;
    }

    /// What a run took that had booked this, and how many messages Dataverse heard of.
    pub fn settle(&mut self, budget: &Budget, booking: &Booking, spent: Usage, messages: usize) {
        let taken = budget.taken_by(spent);
        self.owed += taken - booking.expected;
        if let Some(messages) = i32::try_from(messages).ok().filter(|n| *n > 0) {
            self.for_each += (taken / messages - self.for_each) / 4;
        }
    }

    /// Adapts the size to the time that the calls of a batch of history took. The next batch is as large as one that would have taken `target`, but neither
    /// less than half of this one nor more than half as much again; within a quarter of the target all stays as it is.
    pub fn adapt(&mut self, messages: usize, took: Duration, target: Duration) {
        let Some(messages) = u32::try_from(messages).ok().filter(|n| *n > 0) else {
            return;
        };
        let fitting = u128::from(messages) * target.as_micros() / took.as_micros().max(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        let grows = fitting > self.size + self.size / 4;
        let shrinks = fitting < self.size - self.size / 4;
        // The few that were left of a page do not tell how long many take.
        if shrinks || (grows && messages * 2 >= self.size) {
            let near = fitting.clamp(self.size / 2, self.size + self.size / 2);
            self.size = near.clamp(SMALLEST, LARGEST);
        }
    }
}

/// What a run has booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "what was booked is settled, or cancelled"]
pub struct Booking {
    /// What the run is expected to take up.
    pub expected: TimeDelta,
    /// What earlier runs of the process took up beyond what they booked. The time is free when what they really took has passed.
    pub owed: TimeDelta,
}

impl Booking {
    /// By how much the user's booked time moves on.
    #[must_use]
    pub fn time(&self) -> TimeDelta {
        self.expected + self.owed
    }
}

#[cfg(test)]
mod tests;
