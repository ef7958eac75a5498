//! Decides whether a refusal concerns the message that met it or the caller. Pure.
//!
//! A refusal is a response that the same call would get again. A refusal of one message is final
//! for that message. A refusal of the caller is an incident, and nothing is wrong with the messages
//! that met it. The code alone does not tell them apart: a broken plug-in refuses every email with
//! the same code as a plug-in that objects to one. The difference is whether other messages are
//! accepted.
//!
//! The second to fifth column are checked from left to right; the first one that applies decides.
//!
//! | [`Blame`] | Another message of the batch was written | [`IN_A_ROW`] different messages in a row met the code | Another message was written since this one started to wait | None of these |
//! | --- | --- | --- | --- | --- |
//! | a text of the message | the message | the caller | the message | the message |
//! | the row | the message | the caller | the message | open |
//! | the row or the caller | open | the caller | open | the caller |
//! | the caller | open | the caller | the caller | the caller |
//!
//! A message becomes `dead` only if the verdict is [`RefusalVerdict::Message`]. While the verdict
//! is open, the message is tried again with the usual backoff. If the refusal concerns the caller,
//! every worker pauses: after the pause one message is sent alone, as a probe, and the others
//! follow only if it passes.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// After this many different messages in a row with the same code, none of which passed, a refusal
/// is taken to concern the caller.
pub(crate) const IN_A_ROW: usize = 5;

/// The lengths of successive pauses after refusals of the caller: doubled each time, up to five
/// minutes.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(240),
    Duration::from_secs(300),
];

/// What the code of a refusal blames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// A text or a value of this message: too long, or with characters that are not allowed.
    Content,
    /// The row or the message. Also every code that is in no table.
    Row,
    /// A missing privilege: for this row, or for all of them.
    RowOrCaller,
    /// The user, the licence, the key, the organisation.
    Caller,
}

/// A refusal, reduced to what decides whom it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status, code and the name of a missing privilege. No content.
    pub cause: String,
    /// What the code blames.
    pub(crate) blame: Blame,
}

/// What is known about other messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    /// Another message of the same batch was written.
    pub(crate) one_passed_now: bool,
    /// Another message was written since this one started to wait.
    pub(crate) one_passed_since: bool,
    /// How many different messages in a row met this code, including this one.
    pub(crate) consecutive_refusals: usize,
}

/// Whether a refusal concerns the message or the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalVerdict {
    /// Only this message.
    Message,
    /// Every call of this caller.
    Caller,
    /// Unknown so far.
    Open,
}

/// The recent refusals by a service, shared by all workers that call it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefusalState {
    /// Why all workers pause; `None` if there is no pause, or the service asked for it.
    pub cause: Option<String>,
    /// How many refusals of the caller there were in a row.
    pub times: u32,
    /// The code that the last messages met in a row; `None` if the last one passed, and from the
    /// start of a pause that refusals caused.
    pub code: Option<String>,
    /// How many different messages met it.
    pub messages: usize,
    /// When a message passed after others had been refused; `None` if that did not happen, or so
    /// long ago that the item expired.
    pub passed_at: Option<DateTime<Utc>>,
}

impl RefusalState {
    /// Returns whether the next message that passes must be recorded, so that other workers learn
    /// of it.
    #[must_use]
    pub(crate) const fn is_open(&self) -> bool {
        self.cause.is_some() || self.code.is_some()
    }
}

/// Decides by the table in the module's documentation.
#[must_use]
pub const fn judge(blame: Blame, others: Others) -> RefusalVerdict {
    let Others {
        one_passed_now,
        one_passed_since,
        consecutive_refusals,
    } = others;
    match blame {
        Blame::Content | Blame::Row if one_passed_now => RefusalVerdict::Message,
        Blame::RowOrCaller | Blame::Caller if one_passed_now => RefusalVerdict::Open,
        Blame::Content | Blame::Row if consecutive_refusals >= IN_A_ROW => RefusalVerdict::Caller,
        Blame::Content => RefusalVerdict::Message,
        Blame::Row if one_passed_since => RefusalVerdict::Message,
        Blame::Row => RefusalVerdict::Open,
        Blame::RowOrCaller if one_passed_since && consecutive_refusals < IN_A_ROW => {
            RefusalVerdict::Open
        }
        Blame::RowOrCaller | Blame::Caller => RefusalVerdict::Caller,
    }
}

/// Returns how long to pause after a refusal of the caller that followed `before` others in a row.
#[must_use]
pub fn pause(before: u32) -> Duration {
    let step = usize::try_from(before).unwrap_or(usize::MAX);
    let last = PAUSES.len() - 1;
    PAUSES
        .get(step.min(last))
        .copied()
        .unwrap_or(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(
        blame: Blame,
        now: bool,
        since: bool,
        consecutive_refusals: usize,
    ) -> RefusalVerdict {
        judge(
            blame,
            Others {
                one_passed_now: now,
                one_passed_since: since,
                consecutive_refusals,
            },
        )
    }

    #[test]
    fn each_refusal_gets_the_verdict_of_the_table() {
        use Blame::{Caller, Content, Row, RowOrCaller};
        for (blame, now, consecutive_refusals, since, neither) in [
            (
                Content,
                RefusalVerdict::Message,
                RefusalVerdict::Caller,
                RefusalVerdict::Message,
                RefusalVerdict::Message,
            ),
            (
                Row,
                RefusalVerdict::Message,
                RefusalVerdict::Caller,
                RefusalVerdict::Message,
                RefusalVerdict::Open,
            ),
            (
                RowOrCaller,
                RefusalVerdict::Open,
                RefusalVerdict::Caller,
                RefusalVerdict::Open,
                RefusalVerdict::Caller,
            ),
            (
                Caller,
                RefusalVerdict::Open,
                RefusalVerdict::Caller,
                RefusalVerdict::Caller,
                RefusalVerdict::Caller,
            ),
        ] {
            for (since_too, n) in [(false, 1), (true, IN_A_ROW)] {
                assert_eq!(verdict(blame, true, since_too, n), now, "{blame:?}");
            }
            for since_too in [false, true] {
                assert_eq!(
                    verdict(blame, false, since_too, IN_A_ROW),
                    consecutive_refusals
                );
            }
            assert_eq!(verdict(blame, false, true, IN_A_ROW - 1), since);
            assert_eq!(verdict(blame, false, false, IN_A_ROW - 1), neither);
        }
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = (0..6).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 300, 300, 300]);
        assert_eq!(pause(u32::MAX).as_secs(), 300);
    }
}
