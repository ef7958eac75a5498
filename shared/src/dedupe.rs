//! How a duplicate is prevented.
//!
//! Four guards, each of which holds when the ones before it fail:
//!
//! 1. **A claim** in the ledger, one item for each message of each mailbox ([`ledger`]). One conditional write; the loser gets
//!    the item it lost to.
//! 2. **A key that Dataverse enforces**: [`activity_id`](crate::keys::activity_id), and [`activity_id_by_content`](crate::keys::activity_id_by_content) for a mail whose Message-ID
//!    another mail of its sender has ([`crate::same_mail`]). A second row with the same key is refused with 412, so a crash
//!    between write and settle, a wiped ledger, two workers racing or one mail in five mailboxes all end in one row.
//! 3. **A look-up by Message-ID** before the write finds what server-side sync or a person put there.
//! 4. **One run looks at one message once**, however often its batch names it (the pipeline's first step).
//!
//! # States of a message
//!
//! ```text
//!            claim                      settle
//! (absent) ────────▶ waiting, claimed ─────────▶ written    final
//!                     ▲  │   ▲      │
//!       lease run out │  │   │      ├──────────▶ skipped    claimed again when the message changed
//!       or released   │  │   │      │
//!                     │  ▼   │      └──────────▶ dead       claimed again when it was only tried often enough
//!                    waiting, free ◀── release (a failure that may pass)
//! ```
//!
//! The claim of a message's last delivery says `dead` from the start: should the process die on it, the queue moves the message to its
//! dead-letter queue with nobody left to say so. Whatever the try comes to replaces it.
//!
//! A claim carries a token and a lease. Every later write is conditional on the token, so a worker that overran its lease
//! cannot overwrite its successor. Whether a lease has run out is decided by comparing times; the table's TTL only tidies up.
//!
//! Function timeout (120 s) < lease ([`LEASE`]) < visibility timeout of the queue (300 s): a worker is gone before its
//! claims can be taken over, and a message does not come back while its claim still stands. A check reads
//! `template.yaml`. The backfill runs for longer, and so claims a few messages at a time, shortly before it works on them.

pub mod attention;
pub mod bookings;
pub mod kept;
pub mod ledger;
pub mod mailbox;
pub mod pause;
pub mod refusals;
pub mod runs;
pub mod stored_policy;
pub mod survivor;
pub mod table;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::ids::ActivityId;

/// How long a claim holds.
pub const LEASE: TimeDelta = TimeDelta::seconds(180);

/// Proves that a write comes from the holder of a claim. One for each invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimToken(Uuid);

impl ClaimToken {
    /// A token of this value, drawn at random by the caller.
    #[must_use]
    pub const fn new(value: Uuid) -> Self {
        Self(value)
    }

    /// Reads back what [`std::fmt::Display`] printed.
    fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl std::fmt::Display for ClaimToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// What the ledger says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Claimed, or free to be tried again.
    Waiting,
    /// One completed email activity carries it.
    Written,
    /// The policy left it out.
    Skipped,
    /// It cannot be written.
    Dead,
}

impl State {
    /// The text in the ledger and in the command's output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Written => "written",
            Self::Skipped => "skipped",
            Self::Dead => "dead",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Written, Self::Skipped, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// One item of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the message stands.
    pub state: State,
    /// Who works on it, and until when; `None` when nobody does.
    pub held: Option<(ClaimToken, DateTime<Utc>)>,
    /// When the queue delivers it again; `None` unless it was released.
    pub retry_at: Option<DateTime<Utc>>,
    /// How often it was claimed.
    pub attempts: u32,
    /// How many tries failed, or did not come to an end. A postponed try is not among them; the try
    /// that holds the claim is, until it ends otherwise.
    pub failures: u32,
    /// Since when it has been waiting, or dead; `None` in the other two states.
    pub since: Option<DateTime<Utc>>,
    /// Dead only because it was tried often enough, or is being tried for the last time.
    pub gave_up: bool,
    /// Given up while its queue message had deliveries left. They are left alone, so that the queue
    /// moves that message to its dead-letter queue.
    pub awaits_dead_letter: bool,
    /// The rule that skipped it, the error that killed or delayed it, what was left out of it. Never content.
    pub reason: Option<String>,
    /// The row that carries it.
    pub activity_id: Option<ActivityId>,
    /// The last write of the item.
    pub changed_at: Option<DateTime<Utc>>,
}

/// The rules whose answer a later change can undo: the message leaves the spam folder, is sent, is moved into a tracked folder, or the mail that it
/// answers is tracked after it (a list shows the newest first). Its mailbox is admitted, or Nylas
/// lists it at last.
///
/// What was skipped for its people stays so: every message that is read or starred changes too, and would be fetched again.
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

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is ours until the lease runs out.
    Won {
        /// How many tries failed before this one.
        failures: u32,
        /// Since when the message has been waiting.
        since: DateTime<Utc>,
    },
    /// Another worker holds it until then.
    HeldUntil(DateTime<Utc>),
    /// It is in a final state already.
    Settled(Entry),
}

impl Claim {
    /// Whether the message is ours.
    #[must_use]
    pub const fn is_won(&self) -> bool {
        matches!(self, Self::Won { .. })
    }
}

/// What a worker asks for when it claims a message.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest {
    /// Who asks.
    pub token: ClaimToken,
    /// When. The claim holds for [`LEASE`] from here.
    pub now: DateTime<Utc>,
    /// What it was skipped for may have changed.
    pub revisit: bool,
    /// The queue has delivered this request before.
    pub redelivery: bool,
    /// The queue will not deliver it again.
    pub last_delivery: bool,
}

impl ClaimRequest {
    /// A request for a message that is new, or should be.
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

/// The claim rule. The condition of [`ledger::Ledger::claim`] is its transcription.
///
/// | Ledger says | Claim |
/// | --- | --- |
/// | nothing | won |
/// | waiting, or dead because it was tried often enough; nobody holds it | won |
/// | so, held by this very token (the SDK repeated the call) | won |
/// | so, and its lease has run out | won |
/// | so, and its lease still runs | held |
/// | given up, and this delivery is one that its queue message had left (`redelivery`) | settled |
/// | skipped for what may have changed ([`SKIPPED_FOR_NOW`]), and the message changed or a list showed it since (`revisit`) | won |
/// | written, skipped, dead | settled |
///
/// A message that was given up is named again by a redrive, by the backfill or by a notification,
/// which is why it may be claimed.
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
        || (entry.gave_up && !(entry.awaits_dead_letter && request.redelivery));
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
            gave_up: false,
            awaits_dead_letter: false,
            reason: None,
            activity_id: None,
            changed_at: None,
        }
    }

    #[test]
    fn the_claim_rule_is_its_table() {
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
            gave_up: true,
            ..entry(State::Dead, None)
        };
        assert!(decide(&given_up, false).is_won());
        let awaits_dead_letter = Entry {
            awaits_dead_letter: true,
            ..given_up.clone()
        };
        assert!(
            decide(&awaits_dead_letter, false).is_won(),
            "it is named again"
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
            "it was redriven"
        );
        let tried_for_the_last_time = |until| Entry {
            gave_up: true,
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
