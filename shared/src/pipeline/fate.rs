//! What became of a message in one run, and what the ledger is told.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::dataverse::error::DataverseError;
use crate::dedupe::ledger::Settlement;
use crate::dedupe::{ClaimToken, Entry, State};
use crate::entra::TokenError;
use crate::ids::{ActivityId, MessageKey};
use crate::message::Message;
use crate::nylas::error::NylasError;
use crate::policy::Rule;
use crate::policy::source::PolicyError;
use crate::refusal::Refusal;
use crate::retry::{FIRST_STEP, RECEIVE_LIMIT, RetryAdvice, redelivery_delay};
use crate::sync_request::SyncRequest;
use crate::telemetry::Count;

/// A message to bring to a final state.
pub struct Work {
    /// Which, and why.
    pub request: SyncRequest,
    /// The message, when a list brought it along.
    pub message: Option<Message>,
    /// How often the queue has delivered the request; 1 on first delivery.
    pub receive_count: u32,
}

/// Time that the longest step, and settling what came of it, may take: a call ends after 15 seconds of silence.
const LAST_STEP: Duration = Duration::from_secs(30);

/// How long messages wait for a policy that can be used.
const UNTIL_ANOTHER_POLICY: Duration = Duration::from_secs(5 * 60);

/// Time and chance of one run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The claim token, drawn at random.
    pub token: ClaimToken,
    /// When the run began.
    pub now: DateTime<Utc>,
    /// The same moment on `clock`.
    pub begun: Instant,
    /// Tells how much time has passed since.
    pub clock: fn() -> Instant,
    /// When the process is ended, whatever it is doing.
    pub deadline: DateTime<Utc>,
    /// With which of the pipeline's users of Dataverse it sends: 0 is the primary one, with which all live mail goes.
    pub identity: usize,
    /// By how much a delay is lengthened at most, 0 to 25; by how much, the token and the message's id decide, so that failed messages do not all
    /// come back at once.
    pub jitter_percent: u32,
}

impl Run {
    /// A run that begins now, with a token drawn at random, in an invocation that ends at `deadline`. For the shells: what they call takes it as a value.
    #[must_use]
    pub fn begin(deadline: DateTime<Utc>) -> Self {
        Self {
            token: ClaimToken::new(uuid::Uuid::new_v4()),
            now: Utc::now(),
            begun: Instant::now(),
            clock: Instant::now,
            deadline,
            identity: 0,
            jitter_percent: 25,
        }
    }

    /// Too little time is left to begin something: what is begun could not be settled.
    pub(super) fn is_nearly_over(&self) -> bool {
        self.time() + LAST_STEP > self.deadline
    }

    /// What time it is now.
    pub(super) fn time(&self) -> DateTime<Utc> {
        self.now + (self.clock)().saturating_duration_since(self.begun)
    }
}

impl Run {
    /// Another for each message and each run.
    fn jitter_percent_of(&self, key: &MessageKey) -> u32 {
        let drawn = self.token.to_string() + key.message_id.as_str();
        let sum = drawn.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        sum % (self.jitter_percent + 1)
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// One completed email activity carries it.
    Written {
        /// The row.
        activity_id: ActivityId,
        /// What was left out, or how the row came to be there.
        note: Option<String>,
    },
    /// The policy left it out.
    Skipped {
        /// The rule.
        rule: String,
    },
    /// It is to be tried again.
    Waiting {
        /// After this long.
        delay: Duration,
        /// The failure.
        reason: String,
        /// The try does not count as a failure of the message.
        postponed: bool,
        /// It is to be tried again after the last delivery that its queue makes: put it on the queue anew, then tell [`Ledger::queued_anew`]. Until then the ledger says
        /// that it was given up, as it has to should nobody come to that.
        ///
        /// [`Ledger::queued_anew`]: crate::dedupe::ledger::Ledger::queued_anew
        last_delivery: bool,
    },
    /// It cannot be written.
    Dead {
        /// The error.
        reason: String,
        /// It could have been tried again, but was tried often enough: leave it to the dead-letter queue.
        gave_up: bool,
    },
}

impl Fate {
    /// The state that it amounts to.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Written { .. } => State::Written,
            Self::Skipped { .. } => State::Skipped,
            Self::Waiting { .. } => State::Waiting,
            Self::Dead { .. } => State::Dead,
        }
    }

    /// The reason that goes with it.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Written { note, .. } => note.as_deref(),
            Self::Skipped { rule } => Some(rule),
            Self::Waiting { reason, .. } | Self::Dead { reason, .. } => Some(reason),
        }
    }

    pub(super) const fn counted_as(&self) -> Count {
        match self {
            Self::Written { .. } => Count::Written,
            Self::Skipped { .. } => Count::Skipped,
            Self::Waiting { .. } => Count::Waiting,
            Self::Dead { .. } => Count::Dead,
        }
    }

    pub(super) fn skipped(rule: Rule) -> Self {
        Self::Skipped {
            rule: rule.to_string(),
        }
    }

    /// The fate that an earlier run settled; `None` for one that is not settled.
    pub(super) fn of_entry(entry: Entry) -> Option<Self> {
        let gave_up = entry.gave_up;
        let reason = entry
            .reason
            .clone()
            .unwrap_or_else(|| "not recorded".to_owned());
        match entry.state {
            State::Written => Some(Self::Written {
                activity_id: entry.activity_id?,
                note: entry.reason,
            }),
            State::Skipped => Some(Self::Skipped { rule: reason }),
            State::Dead => Some(Self::Dead { reason, gave_up }),
            State::Waiting => None,
        }
    }

    /// The fate of a failure: waiting, or dead when waiting does not help or has been done often
    /// enough.
    pub(super) fn of_failure(key: &MessageKey, failure: Failure, tries: Tries, run: &Run) -> Self {
        let Failure { advice, reason, .. } = failure;
        let failures = tries.failures + 1;
        let Some(delay) = redelivery_delay(advice, failures, run.jitter_percent_of(key)) else {
            return Self::Dead {
                reason,
                gave_up: false,
            };
        };
        let postponed = matches!(advice, RetryAdvice::Postpone(_));
        if !postponed && failures >= RECEIVE_LIMIT {
            return Self::Dead {
                reason: format!("gave up after {failures} failures: {reason}"),
                gave_up: true,
            };
        }
        Self::Waiting {
            delay,
            reason,
            postponed,
            last_delivery: tries.receive_count >= RECEIVE_LIMIT,
        }
    }

    pub(super) fn settlement(&self, now: DateTime<Utc>) -> Settlement {
        match self.clone() {
            Self::Written { activity_id, note } => Settlement::Written { activity_id, note },
            Self::Skipped { rule } => Settlement::Skipped { rule },
            Self::Dead { reason, gave_up } => Settlement::Dead { reason, gave_up },
            Self::Waiting {
                reason,
                postponed,
                last_delivery: true,
                ..
            } => Settlement::Requeued {
                reason,
                counted: !postponed,
            },
            Self::Waiting {
                delay,
                reason,
                postponed,
                ..
            } => {
                let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::days(1));
                Settlement::Released {
                    retry_at: now + delay,
                    reason,
                    counted: !postponed,
                }
            }
        }
    }
}

/// How often a message was tried before this try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    /// How often its queue message was delivered, this time included. Postponed deliveries are among
    /// them: it only tells whether the queue delivers the message again.
    pub receive_count: u32,
    /// How many tries failed before this one.
    pub failures: u32,
    /// Since when it has been waiting.
    pub since: DateTime<Utc>,
}

impl Tries {
    /// Of a message that is tried for the first time.
    pub(super) const fn first(now: DateTime<Utc>) -> Self {
        Self {
            receive_count: 1,
            failures: 0,
            since: now,
        }
    }
}

/// A failed step: what to do next and what to tell the ledger. One failed call can fail many messages.
#[derive(Clone)]
pub(super) struct Failure {
    pub advice: RetryAdvice,
    pub reason: String,
    /// The refusal that it is, if it is one; whom it concerns is found out later.
    pub refusal: Option<Refusal>,
}

impl Failure {
    pub(super) fn new(advice: RetryAdvice, reason: impl Into<String>) -> Self {
        Self {
            advice,
            reason: reason.into(),
            refusal: None,
        }
    }

    pub(super) fn soon(reason: impl Into<String>) -> Self {
        Self::new(RetryAdvice::Soon, reason)
    }

    /// For no fault of the message.
    pub(super) fn postponed(wait: Duration, reason: impl Into<String>) -> Self {
        Self::new(RetryAdvice::Postpone(wait), reason)
    }

    pub(super) fn no_time_left() -> Self {
        Self::postponed(FIRST_STEP, "the invocation had no time left for it")
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        let reason = error.to_string();
        match error {
            PolicyError::Ledger(_) => Self::soon(reason),
            // Somebody has to push another one, and no message is to blame.
            PolicyError::Unusable { .. } => Self::postponed(UNTIL_ANOTHER_POLICY, reason),
        }
    }
}

impl From<NylasError> for Failure {
    fn from(error: NylasError) -> Self {
        Self {
            advice: error.retry_advice(),
            reason: error.to_string(),
            refusal: None,
        }
    }
}

impl From<DataverseError> for Failure {
    fn from(error: DataverseError) -> Self {
        Self {
            advice: error.retry_advice(),
            reason: error.to_string(),
            refusal: error.refusal(),
        }
    }
}

// For no fault of the message, however long it takes until somebody has put the credential right.
impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::postponed(TokenError::WAIT, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(message: &str) -> MessageKey {
        MessageKey {
            grant_id: "g".parse().unwrap(),
            message_id: message.parse().unwrap(),
        }
    }

    /// The fate of a message whose try number `failures` failed, at this delivery of the queue.
    fn fate_at(advice: RetryAdvice, failures: u32, receive_count: u32) -> Fate {
        let failure = Failure::new(advice, "x");
        let tries = Tries {
            receive_count,
            failures: failures - 1,
            since: DateTime::UNIX_EPOCH,
        };
        Fate::of_failure(&key("m"), failure, tries, &run())
    }

    fn fate(advice: RetryAdvice, failures: u32) -> Fate {
        fate_at(advice, failures, 1)
    }

    fn run() -> Run {
        Run {
            token: ClaimToken::new(Uuid::nil()),
            now: DateTime::UNIX_EPOCH,
            begun: Instant::now(),
            clock: Instant::now,
            deadline: DateTime::UNIX_EPOCH,
            identity: 0,
            jitter_percent: 25,
        }
    }

    #[test]
    fn the_messages_of_a_batch_come_back_at_different_times() {
        let jitters: std::collections::HashSet<u32> = (0..20)
            .map(|n| run().jitter_percent_of(&key(&n.to_string())))
            .collect();
        assert!(
            jitters.len() > 5 && jitters.iter().all(|jitter| *jitter <= 25),
            "{jitters:?}"
        );
    }

    #[test]
    fn what_is_dead_is_counted_so_whether_it_was_refused_or_given_up() {
        for dead in [
            fate(RetryAdvice::Never, 1),
            fate(RetryAdvice::Soon, RECEIVE_LIMIT),
        ] {
            assert_eq!(dead.counted_as(), Count::Dead);
        }
        assert_eq!(fate(RetryAdvice::Soon, 1).counted_as(), Count::Waiting);
    }

    #[test]
    fn the_last_delivery_of_a_queue_message_is_not_the_last_try() {
        let postponed = RetryAdvice::Postpone(Duration::from_secs(7));
        for advice in [postponed, RetryAdvice::Soon] {
            for receive_count in [1, RECEIVE_LIMIT, RECEIVE_LIMIT + 1] {
                let is_last = receive_count >= RECEIVE_LIMIT;
                let fate = fate_at(advice, 2, receive_count);
                assert!(
                    matches!(fate, Fate::Waiting { last_delivery, .. } if last_delivery == is_last),
                    "{fate:?}"
                );
            }
        }
    }

    #[test]
    fn a_postponed_try_is_no_failure_however_many_there_were() {
        let postponed = RetryAdvice::Postpone(Duration::from_secs(7));
        let fate = fate(postponed, RECEIVE_LIMIT + 1);
        assert!(
            matches!(
                fate,
                Fate::Waiting {
                    postponed: true,
                    ..
                }
            ),
            "{fate:?}"
        );
    }

    #[test]
    fn a_message_waits_after_nine_failures_and_is_dead_after_ten() {
        assert!(matches!(fate(RetryAdvice::Soon, 1), Fate::Waiting { .. }));
        assert!(matches!(
            fate(RetryAdvice::Soon, RECEIVE_LIMIT - 1),
            Fate::Waiting { .. }
        ));
        assert!(matches!(
            fate(RetryAdvice::Soon, RECEIVE_LIMIT),
            Fate::Dead { gave_up: true, .. }
        ));
        assert!(matches!(
            fate(RetryAdvice::Never, 1),
            Fate::Dead { gave_up: false, .. }
        ));
    }
}
