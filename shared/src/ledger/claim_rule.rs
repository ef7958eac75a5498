//! Decides whether a message can be claimed. Pure; [`super::messages`] transcribes it as a DynamoDB
//! condition.
//!
//! # States of a message
//!
//! ```text
//!            claim                      settle
//! (absent) ────────▶ waiting, claimed ─────────▶ written    final
//!                     ▲  │   ▲      │
//!       lease expired │  │   │      ├──────────▶ skipped    claimed again if the message changed
//!       or released   │  │   │      │
//!                     │  ▼   │      └──────────▶ dead       claimed again if its attempts ran out
//!                    waiting, free ◀── release (a failure that may pass)
//! ```
//!
//! The claim of a message's last delivery stores `dead` from the start: if the process dies, the
//! queue moves the message to its dead-letter queue and no worker is left to record it. The outcome
//! of the attempt replaces that state.
//!
//! A claim has a token and a lease. Every later write is conditional on the token, so a worker that
//! exceeded its lease cannot overwrite its successor. Whether a lease has expired is decided by
//! comparing timestamps; the table's TTL is only housekeeping.
//!
//! Function timeout (120 s) < lease ([`LEASE`]) < visibility timeout of the queue (300 s): a worker
//! has stopped before another one can take over its claims, and a message is not delivered again
//! while its claim is held. A check reads `template.yaml`. The backfill runs longer, so it claims a
//! few messages at a time, shortly before it processes them.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::model::ids::ActivityId;

/// How long a claim is held.
pub const LEASE: TimeDelta = TimeDelta::seconds(180);

/// Proves that a write comes from the holder of a claim. Each invocation has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimToken(pub(super) Uuid);

impl ClaimToken {
    /// Creates a token from a value that the caller drew at random.
    #[must_use]
    pub const fn new(value: Uuid) -> Self {
        Self(value)
    }

    /// Parses what [`std::fmt::Display`] printed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl std::fmt::Display for ClaimToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// The state of a message in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Claimed, or free to be claimed for another attempt.
    Waiting,
    /// One completed email activity holds it.
    Written,
    /// A policy rule excluded it.
    Skipped,
    /// It cannot be written.
    Dead,
}

impl State {
    /// Returns the text that the ledger stores and the command prints.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Written => "written",
            Self::Skipped => "skipped",
            Self::Dead => "dead",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Written, Self::Skipped, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// The state of one message, read from its ledger item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The state of the message.
    pub state: State,
    /// The holder of the claim and the end of its lease; `None` if no worker holds it.
    pub held: Option<(ClaimToken, DateTime<Utc>)>,
    /// When the queue delivers it again; `None` unless it was released for another attempt.
    pub retry_at: Option<DateTime<Utc>>,
    /// How often it was claimed.
    pub attempts: u32,
    /// How many attempts failed or did not finish. A postponed attempt does not count; the attempt
    /// that holds the claim counts until it ends in another way.
    pub failures: u32,
    /// Since when it has been waiting or dead; `None` in the other two states.
    pub since: Option<DateTime<Utc>>,
    /// Dead only because its attempts ran out, or during its last attempt. It may be claimed again.
    pub claimable: bool,
    /// Its attempts ran out while its queue message had deliveries left. Those deliveries do not
    /// claim it, so that the queue moves the message to its dead-letter queue.
    pub awaits_dead_letter: bool,
    /// The rule that skipped it, the error that made it dead or delayed it, or the omissions of its
    /// row. Never content.
    pub reason: Option<String>,
    /// The row that holds it; `None` unless written.
    pub activity_id: Option<ActivityId>,
    /// The time of the last write of the item; `None` if the item does not record it.
    pub changed_at: Option<DateTime<Utc>>,
}

/// The skip rules whose result a later change can reverse. The message leaves the spam folder, is
/// sent or is moved into a tracked folder; the message that it answers is tracked later (a list
/// returns the newest first); its mailbox is admitted; or Nylas finally lists it.
///
/// A message that was skipped because of its activity parties stays skipped: every message that is
/// read or starred changes too, and would be fetched again.
pub const SKIPPED_FOR_NOW: [&str; 8] = [
    "draft",
    "spam",
    "trash",
    "folder",
    "answers_untracked",
    "gone",
    "mailbox_excluded",
    "mailbox_unknown",
];

fn was_skipped_for_now(entry: &Entry) -> bool {
    entry.state == State::Skipped
        && entry
            .reason
            .as_deref()
            .is_some_and(|reason| SKIPPED_FOR_NOW.contains(&reason))
}

/// The result of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The caller holds the message until the lease expires.
    Won {
        /// How many attempts failed before this one.
        failures: u32,
        /// Since when the message has been waiting.
        since: DateTime<Utc>,
    },
    /// Another worker holds the message until this time.
    HeldUntil(DateTime<Utc>),
    /// The message has a final state already, or must not be claimed by this delivery.
    Settled(Entry),
}

impl Claim {
    /// Returns whether the caller holds the message.
    #[must_use]
    pub const fn is_won(&self) -> bool {
        matches!(self, Self::Won { .. })
    }
}

/// The parameters of a claim.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest {
    /// The token of the worker that claims.
    pub token: ClaimToken,
    /// The current time. The claim is held for [`LEASE`] from here.
    pub now: DateTime<Utc>,
    /// The message changed or was listed, so the reason for skipping it may no longer apply.
    pub revisit: bool,
    /// The queue has delivered this request before.
    pub redelivery: bool,
    /// The queue will not deliver it again.
    pub last_delivery: bool,
}

impl ClaimRequest {
    /// Returns a request for a message that is new or is expected to be new.
    #[must_use]
    pub const fn new(token: ClaimToken, now: DateTime<Utc>) -> Self {
        Self {
            token,
            now,
            revisit: false,
            redelivery: false,
            last_delivery: false,
        }
    }
}

/// Decides a claim. The condition of [`super::messages::Ledger::claim`] is a transcription of this
/// rule.
///
/// *Unfinished* means: waiting, or dead because its attempts ran out.
///
/// | State in the ledger | Claim |
/// | --- | --- |
/// | no item | won |
/// | unfinished, and no worker holds it | won |
/// | unfinished, and held by this very token (the SDK repeated the call) | won |
/// | unfinished, and the lease has expired | won |
/// | unfinished, and another worker's lease has not expired | held |
/// | its attempts ran out, and this is a delivery that its queue message had left (`redelivery`) | settled |
/// | skipped by a rule of [`SKIPPED_FOR_NOW`], and the message changed or was listed since (`revisit`) | won |
/// | written, skipped, dead | settled |
///
/// A message whose attempts ran out may be claimed because a redrive, the backfill or a
/// notification requests it again.
#[must_use]
pub fn decide_claim(existing: Option<&Entry>, request: &ClaimRequest) -> Claim {
    let Some(entry) = existing else {
        return Claim::Won {
            failures: 0,
            since: request.now,
        };
    };
    let won = Claim::Won {
        failures: entry.failures,
        since: entry.since.unwrap_or(request.now),
    };
    let unfinished = entry.state == State::Waiting
        || (entry.claimable && !(entry.awaits_dead_letter && request.redelivery));
    match entry.held {
        Some((holder, until)) if unfinished && holder != request.token && until > request.now => {
            Claim::HeldUntil(until)
        }
        _ if unfinished => won,
        _ if request.revisit && was_skipped_for_now(entry) => won,
        _ => Claim::Settled(entry.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: State, held: Option<(ClaimToken, DateTime<Utc>)>) -> Entry {
        Entry {
            state,
            held,
            retry_at: None,
            attempts: 1,
            failures: 1,
            since: None,
            claimable: false,
            awaits_dead_letter: false,
            reason: None,
            activity_id: None,
            changed_at: None,
        }
    }

    #[test]
    fn the_claim_rule_matches_its_table() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let (mine, other) = (
            ClaimToken::new(Uuid::from_u128(1)),
            ClaimToken::new(Uuid::from_u128(2)),
        );
        let (later, past) = (now + LEASE, now);
        let request = |revisit| ClaimRequest {
            revisit,
            ..ClaimRequest::new(mine, now)
        };
        let decide = |entry: &Entry, revisit| decide_claim(Some(entry), &request(revisit));

        let first = Claim::Won {
            failures: 0,
            since: now,
        };
        assert_eq!(decide_claim(None, &request(false)), first);
        let failed_twice = Entry {
            failures: 2,
            since: Some(DateTime::UNIX_EPOCH),
            ..entry(State::Waiting, None)
        };
        let third = Claim::Won {
            failures: 2,
            since: DateTime::UNIX_EPOCH,
        };
        assert_eq!(decide(&failed_twice, false), third);
        assert!(decide(&entry(State::Waiting, Some((mine, later))), false).is_won());
        assert!(decide(&entry(State::Waiting, Some((other, past))), false).is_won());
        assert_eq!(
            decide(&entry(State::Waiting, Some((other, later))), true),
            Claim::HeldUntil(later)
        );
        for rule in SKIPPED_FOR_NOW {
            let skipped = Entry {
                reason: Some(rule.to_owned()),
                ..entry(State::Skipped, None)
            };
            assert!(decide(&skipped, true).is_won());
            assert_eq!(decide(&skipped, false), Claim::Settled(skipped.clone()));
        }
        let given_up = Entry {
            claimable: true,
            ..entry(State::Dead, None)
        };
        assert!(decide(&given_up, false).is_won());
        let awaits_dead_letter = Entry {
            awaits_dead_letter: true,
            ..given_up.clone()
        };
        assert!(
            decide(&awaits_dead_letter, false).is_won(),
            "a new request may claim it"
        );
        let redelivery = ClaimRequest {
            redelivery: true,
            ..request(true)
        };
        assert_eq!(
            decide_claim(Some(&awaits_dead_letter), &redelivery),
            Claim::Settled(awaits_dead_letter.clone())
        );
        assert!(
            decide_claim(Some(&given_up), &redelivery).is_won(),
            "a redrive allowed the claim"
        );
        let tried_for_the_last_time = |until| Entry {
            claimable: true,
            ..entry(State::Dead, Some((other, until)))
        };
        assert_eq!(
            decide(&tried_for_the_last_time(later), false),
            Claim::HeldUntil(later)
        );
        assert!(decide(&tried_for_the_last_time(past), false).is_won());
        let internal = Entry {
            reason: Some("internal_only".to_owned()),
            ..entry(State::Skipped, None)
        };
        assert_eq!(decide(&internal, true), Claim::Settled(internal.clone()));
        for state in [State::Written, State::Skipped, State::Dead] {
            assert_eq!(
                decide(&entry(state, None), false),
                Claim::Settled(entry(state, None))
            );
        }
        for state in [State::Written, State::Dead] {
            assert_eq!(
                decide(&entry(state, None), true),
                Claim::Settled(entry(state, None))
            );
        }
    }
}
