//! Whom a refusal concerns: the message that met it, or everybody who asks. Pure.
//!
//! A refusal is an answer that the same call would get again. Of one message it is the end; of the
//! caller it is an incident, and the messages that met it are as good as all others. The code alone
//! does not tell which: a plug-in that is broken refuses every email with the code of a plug-in that
//! dislikes one. What tells them apart is whether other messages get through.
//!
//! | [`Blame`] | Another message of the run was written | [`IN_A_ROW`] different messages met the code | Another one was written since the message waits | None of these |
//! | --- | --- | --- | --- | --- |
//! | a text of the message | the message | the caller | the message | the message |
//! | the row | the message | the caller | the message | open |
//! | the row or the caller | open | the caller | open | the caller |
//! | the caller | open | the caller | the caller | the caller |
//!
//! A message is `dead` only where the verdict is [`Verdict::Message`]. While it is open, the message
//! is tried again at the steps of the backoff. Where it is the caller, everybody pauses: the first
//! message after the pause goes alone, as a probe, and only when that one passes do the others follow.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// After how many different messages in a row with the same code, and none that passed, a refusal is
/// taken to concern the caller.
pub const IN_A_ROW: usize = 5;

/// How long the pauses after a refusal of the caller are: each twice as long as the one before.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(240),
    Duration::from_secs(300),
];

/// Whom the code of a refusal blames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// A text or a value of this message: too long, or with characters that are not allowed.
    Content,
    /// The row or the message; and every code that no table lists.
    Row,
    /// A privilege is missing: for this row, or for all of them.
    RowOrCaller,
    /// The user, the licence, the key, the organisation.
    Caller,
}

/// A refusal, as far as it matters whom it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status and code, and the name of a missing privilege. No content.
    pub cause: String,
    /// Whom it blames.
    pub blame: Blame,
}

/// What is known of other messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    /// Another message of the same run was written.
    pub one_passed_now: bool,
    /// Another message was written since this one has been waiting.
    pub one_passed_since: bool,
    /// How many different messages in a row met this code, this one included.
    pub in_a_row: usize,
}

/// Whom a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This message alone.
    Message,
    /// Everybody who asks.
    Caller,
    /// It cannot be told yet.
    Open,
}

/// What everybody who asks the same service knows of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefusalState {
    /// Why everybody pauses; `None` when nobody does, or because the service asked for it.
    pub cause: Option<String>,
    /// How many refusals of the caller there were in a row.
    pub times: u32,
    /// The code that the last messages met in a row.
    pub code: Option<String>,
    /// How many different messages that were.
    pub messages: usize,
    /// When a message passed after others had been refused.
    pub passed_at: Option<DateTime<Utc>>,
}

impl RefusalState {
    /// Whether a message that passes has to be reported, as nobody would know of it otherwise.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.cause.is_some() || self.code.is_some()
    }
}

/// The table of the module.
#[must_use]
pub const fn judge(blame: Blame, others: Others) -> Verdict {
    let Others {
        one_passed_now,
        one_passed_since,
        in_a_row,
    } = others;
    match blame {
        Blame::Content | Blame::Row if one_passed_now => Verdict::Message,
        Blame::RowOrCaller | Blame::Caller if one_passed_now => Verdict::Open,
        Blame::Content | Blame::Row if in_a_row >= IN_A_ROW => Verdict::Caller,
        Blame::Content => Verdict::Message,
        Blame::Row if one_passed_since => Verdict::Message,
        Blame::Row => Verdict::Open,
        Blame::RowOrCaller if one_passed_since && in_a_row < IN_A_ROW => Verdict::Open,
        Blame::RowOrCaller | Blame::Caller => Verdict::Caller,
    }
}

/// How long everybody pauses after a refusal of the caller, of which there were `before` in a row.
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

    fn verdict(blame: Blame, now: bool, since: bool, in_a_row: usize) -> Verdict {
        judge(
            blame,
            Others {
                one_passed_now: now,
                one_passed_since: since,
                in_a_row,
            },
        )
    }

    #[test]
    fn the_verdicts_are_the_table() {
        use Blame::{Caller, Content, Row, RowOrCaller};
        for (blame, now, in_a_row, since, neither) in [
            (
                Content,
                Verdict::Message,
                Verdict::Caller,
                Verdict::Message,
                Verdict::Message,
            ),
            (
                Row,
                Verdict::Message,
                Verdict::Caller,
                Verdict::Message,
                Verdict::Open,
            ),
            (
                RowOrCaller,
                Verdict::Open,
                Verdict::Caller,
                Verdict::Open,
                Verdict::Caller,
            ),
            (
                Caller,
                Verdict::Open,
                Verdict::Caller,
                Verdict::Caller,
                Verdict::Caller,
            ),
        ] {
            for (since_too, n) in [(false, 1), (true, IN_A_ROW)] {
                assert_eq!(verdict(blame, true, since_too, n), now, "{blame:?}");
            }
            for since_too in [false, true] {
                assert_eq!(verdict(blame, false, since_too, IN_A_ROW), in_a_row);
            }
            assert_eq!(verdict(blame, false, true, IN_A_ROW - 1), since);
            assert_eq!(verdict(blame, false, false, IN_A_ROW - 1), neither);
        }
    }

    #[test]
    fn pauses_grow_to_five_minutes_so_that_an_hour_has_few_probes() {
        let pauses: Vec<u64> = (0..6).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 300, 300, 300]);
        assert_eq!(pause(u32::MAX).as_secs(), 300);
    }
}
