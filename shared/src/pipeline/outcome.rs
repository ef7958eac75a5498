//! The outcome of a message in one invocation, and how it is stored in the ledger.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::failure::Failure;
use super::invocation::Invocation;
use crate::clients::retry::{RECEIVE_LIMIT, RetryAdvice, redelivery_delay};
use crate::ledger::messages::StoredOutcome;
use crate::ledger::{Entry, State};
use crate::model::ids::{ActivityId, MessageKey};
use crate::policy::Rule;
use crate::telemetry::Count;

/// The outcome of processing a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One completed email activity holds the message.
    Written {
        /// The row.
        activity_id: ActivityId,
        /// What was omitted from the row, or why this run did not create it.
        note: Option<String>,
    },
    /// A policy rule excluded it.
    Skipped {
        /// The name of the rule.
        rule: String,
    },
    /// It will be tried again.
    Waiting {
        /// The time until the next attempt.
        delay: Duration,
        /// The failure.
        reason: String,
        /// The attempt does not count as a failure of the message.
        postponed: bool,
        /// This was the last delivery that the queue makes, but the message has to be tried again.
        /// The caller puts it on the queue again, then calls [`Ledger::mark_requeued`]. Until then
        /// the ledger lists it as given up, in case the process dies first.
        ///
        /// [`Ledger::mark_requeued`]: crate::ledger::messages::Ledger::mark_requeued
        last_delivery: bool,
    },
    /// It cannot be written.
    Dead {
        /// The error.
        reason: String,
        /// A retry might succeed, but there were too many failures: leave it to the dead-letter
        /// queue.
        attempts_exhausted: bool,
    },
}

impl Outcome {
    /// Returns the ledger state of this outcome.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Written { .. } => State::Written,
            Self::Skipped { .. } => State::Skipped,
            Self::Waiting { .. } => State::Waiting,
            Self::Dead { .. } => State::Dead,
        }
    }

    /// Returns the stored reason: note, rule or error. `None` for a written message without a note.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Written { note, .. } => note.as_deref(),
            Self::Skipped { rule } => Some(rule),
            Self::Waiting { reason, .. } | Self::Dead { reason, .. } => Some(reason),
        }
    }

    pub(super) fn counted_as(&self) -> Count {
        match self {
            Self::Written { .. } => Count::Written,
            Self::Skipped { rule } if rule == Rule::MailboxExcluded.name() => {
                Count::MailboxExcluded
            }
            Self::Skipped { rule } if rule == Rule::MailboxUnknown.name() => Count::MailboxUnknown,
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

    /// Returns the outcome that an earlier run stored; `None` if the message is not settled, or if
    /// a `written` entry has no row id.
    pub(super) fn of_entry(entry: Entry) -> Option<Self> {
        let attempts_exhausted = entry.claimable;
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
            State::Dead => Some(Self::Dead {
                reason,
                attempts_exhausted,
            }),
            State::Waiting => None,
        }
    }

    /// Returns the outcome of a failure: waiting, or dead if a retry cannot help or there were too
    /// many failures.
    pub(super) fn of_failure(
        key: &MessageKey,
        failure: Failure,
        attempts: Attempts,
        invocation: &Invocation,
    ) -> Self {
        let Failure { advice, reason, .. } = failure;
        let failures = attempts.failures + 1;
        let Some(delay) = redelivery_delay(advice, failures, invocation.jitter_percent_of(key))
        else {
            return Self::Dead {
                reason,
                attempts_exhausted: false,
            };
        };
        let postponed = matches!(advice, RetryAdvice::Postpone(_));
        if !postponed && failures >= RECEIVE_LIMIT {
            return Self::Dead {
                reason: format!("gave up after {failures} failures: {reason}"),
                attempts_exhausted: true,
            };
        }
        Self::Waiting {
            delay,
            reason,
            postponed,
            last_delivery: attempts.receive_count >= RECEIVE_LIMIT,
        }
    }

    pub(super) fn stored_outcome(&self, now: DateTime<Utc>) -> StoredOutcome {
        match self.clone() {
            Self::Written { activity_id, note } => StoredOutcome::Written { activity_id, note },
            Self::Skipped { rule } => StoredOutcome::Skipped { rule },
            Self::Dead {
                reason,
                attempts_exhausted,
            } => StoredOutcome::Dead {
                reason,
                claimable: attempts_exhausted,
            },
            Self::Waiting {
                reason,
                postponed,
                last_delivery: true,
                ..
            } => StoredOutcome::Requeued {
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
                StoredOutcome::Released {
                    retry_at: now + delay,
                    reason,
                    counted: !postponed,
                }
            }
        }
    }
}

/// How often a message was tried before this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempts {
    /// How often its queue message was delivered, this time included. Postponed deliveries count
    /// here, so it only shows whether the queue will deliver the message again.
    pub receive_count: u32,
    /// How many attempts failed before this one.
    pub failures: u32,
    /// Since when it has been waiting.
    pub since: DateTime<Utc>,
}

impl Attempts {
    /// Returns the value of a message that is tried for the first time.
    pub(super) const fn first(now: DateTime<Utc>) -> Self {
        Self {
            receive_count: 1,
            failures: 0,
            since: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use uuid::Uuid;

    use super::*;
    use crate::ledger::ClaimToken;

    fn key(message: &str) -> MessageKey {
        MessageKey {
            grant_id: "g".parse().unwrap(),
            message_id: message.parse().unwrap(),
        }
    }

    /// Returns the outcome after failure number `failures`, on the given delivery of the queue.
    fn outcome_at(advice: RetryAdvice, failures: u32, receive_count: u32) -> Outcome {
        let failure = Failure::new(advice, "x");
        let attempts = Attempts {
            receive_count,
            failures: failures - 1,
            since: DateTime::UNIX_EPOCH,
        };
        Outcome::of_failure(&key("m"), failure, attempts, &invocation())
    }

    fn outcome(advice: RetryAdvice, failures: u32) -> Outcome {
        outcome_at(advice, failures, 1)
    }

    fn invocation() -> Invocation {
        Invocation {
            token: ClaimToken::new(Uuid::nil()),
            now: DateTime::UNIX_EPOCH,
            begun: Instant::now(),
            clock: Instant::now,
            deadline: DateTime::UNIX_EPOCH,
            application_user: 0,
            jitter_percent: 25,
        }
    }

    #[test]
    fn the_messages_of_a_batch_are_redelivered_at_different_times() {
        let jitters: std::collections::HashSet<u32> = (0..20)
            .map(|n| invocation().jitter_percent_of(&key(&n.to_string())))
            .collect();
        assert!(
            jitters.len() > 5 && jitters.iter().all(|jitter| *jitter <= 25),
            "{jitters:?}"
        );
    }

    #[test]
    fn rejected_and_exhausted_messages_both_count_as_dead() {
        for dead in [
            outcome(RetryAdvice::Never, 1),
            outcome(RetryAdvice::Soon, RECEIVE_LIMIT),
        ] {
            assert_eq!(dead.counted_as(), Count::Dead);
        }
        assert_eq!(outcome(RetryAdvice::Soon, 1).counted_as(), Count::Waiting);
    }

    #[test]
    fn messages_of_excluded_and_unknown_mailboxes_are_counted_separately() {
        for (rule, count) in [
            (Rule::MailboxExcluded, Count::MailboxExcluded),
            (Rule::MailboxUnknown, Count::MailboxUnknown),
            (Rule::Gone, Count::Skipped),
        ] {
            assert_eq!(Outcome::skipped(rule).counted_as(), count);
        }
    }

    #[test]
    fn the_last_delivery_of_a_queue_message_is_not_the_last_attempt() {
        let postponed = RetryAdvice::Postpone(Duration::from_secs(7));
        for advice in [postponed, RetryAdvice::Soon] {
            for receive_count in [1, RECEIVE_LIMIT, RECEIVE_LIMIT + 1] {
                let is_last = receive_count >= RECEIVE_LIMIT;
                let outcome = outcome_at(advice, 2, receive_count);
                assert!(
                    matches!(outcome, Outcome::Waiting { last_delivery, .. } if last_delivery == is_last),
                    "{outcome:?}"
                );
            }
        }
    }

    #[test]
    fn a_postponed_attempt_never_counts_as_a_failure() {
        let postponed = RetryAdvice::Postpone(Duration::from_secs(7));
        let outcome = outcome(postponed, RECEIVE_LIMIT + 1);
        assert!(
            matches!(
                outcome,
                Outcome::Waiting {
                    postponed: true,
                    ..
                }
            ),
            "{outcome:?}"
        );
    }

    #[test]
    fn a_message_waits_after_nine_failures_and_is_dead_after_ten() {
        assert!(matches!(
            outcome(RetryAdvice::Soon, 1),
            Outcome::Waiting { .. }
        ));
        assert!(matches!(
            outcome(RetryAdvice::Soon, RECEIVE_LIMIT - 1),
            Outcome::Waiting { .. }
        ));
        assert!(matches!(
            outcome(RetryAdvice::Soon, RECEIVE_LIMIT),
            Outcome::Dead {
                attempts_exhausted: true,
                ..
            }
        ));
        assert!(matches!(
            outcome(RetryAdvice::Never, 1),
            Outcome::Dead {
                attempts_exhausted: false,
                ..
            }
        ));
    }
}
