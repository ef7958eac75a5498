//! How a duplicate is prevented.
//!
//! Four guards, each of which holds when the ones before it fail:
//!
//! 1. **A claim** in the ledger, one item for each message of each mailbox ([`ledger`]). One conditional write; the loser gets
//!    the item it lost to.
//! 2. **A key that Dataverse enforces**: [`activity_id`]. A second row with the same key is refused with 412, so a crash
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
pub mod runs;
pub mod stored_policy;
pub mod survivor;
pub mod table;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::ids::{ActivityId, EmailAddress, InternetMessageId, MessageKey};

/// How long a claim holds.
pub const LEASE: TimeDelta = TimeDelta::seconds(180);

/// The namespace of all activity ids. Changing it would write every mail a second time.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_6163_7469_7669);

/// The key under which Dataverse holds this mail: the same for every copy of it in every mailbox.
///
/// UUIDv5 of the Message-ID and the sender, both normalised; of the grant and the message id where there is no Message-ID.
/// The sender is part of it because Message-IDs are chosen by senders: nobody can occupy the key of someone else's mail
/// by repeating its Message-ID. Source: Dataverse facts §7.1 (a client-chosen `activityid` is accepted; verified).
#[must_use]
pub fn activity_id(
    key: &MessageKey,
    internet_message_id: Option<&InternetMessageId>,
    sender: Option<&EmailAddress>,
) -> ActivityId {
    let (kind, first, second) = match internet_message_id {
        Some(id) => (
            "message-id",
            id.as_str(),
            sender.map_or("", EmailAddress::normal),
        ),
        None => ("provider", key.grant_id.as_str(), key.message_id.as_str()),
    };
    // None of the parts can hold a control character, so the separator is unambiguous.
    ActivityId::new(Uuid::new_v5(
        &NAMESPACE,
        format!("{kind}\0{first}\0{second}").as_bytes(),
    ))
}

/// The key of a mail's attachment: by its place and name, since provider ids differ from copy to copy.
#[must_use]
pub fn attachment_id(activity: ActivityId, position: usize, file_name: &str) -> Uuid {
    Uuid::new_v5(
        &activity.uuid(),
        format!("attachment\0{position}\0{file_name}").as_bytes(),
    )
}

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
    /// Dead only because it was tried often enough, or is being tried for the last time.
    pub gave_up: bool,
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
    Won,
    /// Another worker holds it until then.
    HeldUntil(DateTime<Utc>),
    /// It is in a final state already.
    Settled(Entry),
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
/// | skipped for what may have changed ([`SKIPPED_FOR_NOW`]), and the message changed or a list showed it since (`revisit`) | won |
/// | written, skipped, dead | settled |
///
/// What was given up is named again only by a redrive or by the backfill, which is why it may be claimed.
#[must_use]
pub fn decide_claim(existing: Option<&Entry>, request: &ClaimRequest) -> Claim {
    let Some(entry) = existing else {
        return Claim::Won;
    };
    let unfinished = entry.state == State::Waiting || entry.gave_up;
    match entry.held {
        Some((holder, until)) if unfinished && holder != request.token && until > request.now => {
            Claim::HeldUntil(until)
        }
        _ if unfinished => Claim::Won,
        _ if request.revisit && was_skipped_for_now(entry) => Claim::Won,
        _ => Claim::Settled(entry.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(grant: &str, message: &str) -> MessageKey {
        MessageKey {
            grant_id: grant.parse().unwrap(),
            message_id: message.parse().unwrap(),
        }
    }

    fn header(value: &str) -> InternetMessageId {
        InternetMessageId::from_header(value).unwrap()
    }

    #[test]
    fn every_copy_of_a_mail_has_the_same_activity_id() {
        let ada = EmailAddress::parse("Ada@Example.com").unwrap();
        let one = activity_id(&key("g1", "m1"), Some(&header("<a@x>")), Some(&ada));
        let two = activity_id(
            &key("g2", "m2"),
            Some(&header("a@x ")),
            EmailAddress::parse("ada@example.com").as_ref(),
        );
        assert_eq!(one, two);
        // Pinned: a change of derivation would write every mail again.
        assert_eq!(one.to_string(), "1a2265b9-1c53-5c96-b593-6ecd884c829f");
    }

    #[test]
    fn however_a_copy_spells_its_sender_the_activity_id_is_the_same() {
        let id = |sender: &str| {
            let sender = EmailAddress::parse(sender);
            activity_id(&key("g", "m"), Some(&header("a@x")), sender.as_ref())
        };
        let wire = id("ada@xn--bcher-kva.example");
        assert_eq!(id("Ada@Bücher.example"), wire);
        assert_eq!(id("\"ada\"@bücher.example"), wire);
        assert_ne!(id("ada+x@bücher.example"), wire);
        // Pinned with the form that mail servers carry, whose key is the one that it always had.
        assert_eq!(wire.to_string(), "ee506ead-a066-56d6-bbaf-eb661452632e");
    }

    #[test]
    fn another_message_id_sender_or_mailbox_copy_without_header_is_another_row() {
        let ada = EmailAddress::parse("ada@example.com");
        let bob = EmailAddress::parse("bob@example.com");
        let ids = [
            activity_id(&key("g1", "m1"), Some(&header("a@x")), ada.as_ref()),
            activity_id(&key("g1", "m1"), Some(&header("A@x")), ada.as_ref()),
            activity_id(&key("g1", "m1"), Some(&header("a@x")), bob.as_ref()),
            activity_id(&key("g1", "m1"), Some(&header("a@x")), None),
            activity_id(&key("g1", "m1"), None, ada.as_ref()),
            activity_id(&key("g2", "m1"), None, ada.as_ref()),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn two_attachments_of_one_name_have_ids_of_their_own() {
        let activity = ActivityId::new(Uuid::from_u128(7));
        assert_ne!(
            attachment_id(activity, 0, "a.pdf"),
            attachment_id(activity, 1, "a.pdf")
        );
        assert_eq!(
            attachment_id(activity, 0, "a.pdf"),
            attachment_id(activity, 0, "a.pdf")
        );
    }

    fn entry(state: State, held: Option<(ClaimToken, DateTime<Utc>)>) -> Entry {
        Entry {
            state,
            held,
            retry_at: None,
            attempts: 1,
            gave_up: false,
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

        assert_eq!(decide_claim(None, &request(false)), Claim::Won);
        assert_eq!(decide(&entry(State::Waiting, None), false), Claim::Won);
        assert_eq!(
            decide(&entry(State::Waiting, Some((mine, later))), false),
            Claim::Won
        );
        assert_eq!(
            decide(&entry(State::Waiting, Some((other, past))), false),
            Claim::Won
        );
        assert_eq!(
            decide(&entry(State::Waiting, Some((other, later))), true),
            Claim::HeldUntil(later)
        );
        for rule in SKIPPED_FOR_NOW {
            let skipped = Entry {
                reason: Some(rule.to_owned()),
                ..entry(State::Skipped, None)
            };
            assert_eq!(decide(&skipped, true), Claim::Won);
            assert_eq!(decide(&skipped, false), Claim::Settled(skipped.clone()));
        }
        let given_up = Entry {
            gave_up: true,
            ..entry(State::Dead, None)
        };
        assert_eq!(decide(&given_up, false), Claim::Won);
        let tried_for_the_last_time = |until| Entry {
            gave_up: true,
            ..entry(State::Dead, Some((other, until)))
        };
        assert_eq!(
            decide(&tried_for_the_last_time(later), false),
            Claim::HeldUntil(later)
        );
        assert_eq!(decide(&tried_for_the_last_time(past), false), Claim::Won);
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
