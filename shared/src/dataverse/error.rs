//! What Dataverse can answer, and how we read it.
//!
//! Every code that Dataverse facts §12 lists is classified here, in `ErrorCode::class`. An unlisted code counts by its HTTP status.
//!
//! | Answer | Variant | Next |
//! | --- | --- | --- |
//! | 429, or one of the throttling codes | [`DataverseError::Throttled`] | wait at least `Retry-After`, then repeat |
//! | 5xx, time-out, connection lost, SQL time-out or deadlock, unreadable answer | [`DataverseError::Unavailable`] | repeat; a row may have been written, and the repeat finds it |
//! | 401 | [`DataverseError::TokenRejected`] | drop the cached token, then repeat |
//! | 404 for a row that a write names, 412 row version, 412 alternate key | [`DataverseError::Stale`] | repeat: it looks everything up again |
//! | 413 | [`DataverseError::TooLarge`] | send less at once |
//! | 403 and every other refusal | [`DataverseError::Rejected`] | settle the message `dead` with the code, or wait, if it may concern everybody ([`crate::refusal`]) |
//!
//! 412 with 0x80040237 (a row with matching key values is there already) is no error but [`super::write::CreateOutcome::AlreadyExisted`]. Which key that is,
//! the code does not say: the primary key, or `messageid` (facts §7.3). So the row is read by its id before it counts as ours. 412 with 0x80060892 (an alternate key that the organisation has put on a column, such as `messageid`) names no row, and the one that is
//! in the way may be a draft or another mail. So it counts as news: the look-up of the next try asks for the Message-ID and ends the message as `written`
//! with the row that carries it, or, if none does, the tries run out.
//!
//! The message text of an error is not kept: it can quote what was sent.

#![deny(clippy::wildcard_enum_match_arm)]

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::http;
use crate::refusal::{Blame, Refusal};
use crate::retry::{FIRST_STEP, RetryAdvice};

/// A Dataverse error code such as `0x80040217`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(u32);

impl ErrorCode {
    /// A row with this primary key exists (412).
    pub(super) const DUPLICATE_KEY: Self = Self(0x8004_0237);

    /// No row of this id (404).
    pub(super) const NO_ROW: Self = Self(0x8004_0217);

    /// The privilege to act on behalf of another user is missing. Not in §12 (inferred from its name in the list of codes; 0x80040220 is as likely).
    const ACT_ON_BEHALF: u32 = 0x8004_A110;

    /// Reads the text of `error.code`; `None` when it is empty or no hexadecimal number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16)
            .ok()
            .map(Self)
    }

    /// Whether Dataverse refused an attachment and not the email: size, emptiness, name, blocked type (Dataverse facts §4.2).
    #[must_use]
    pub const fn concerns_attachment(self) -> bool {
        matches!(
            self.0,
            0x8004_4A02 | 0x8004_4A04 | 0x8004_4A08 | 0x8004_3E09
        )
    }

    /// Whether a text is longer than its column.
    #[must_use]
    pub const fn concerns_length(self) -> bool {
        matches!(self.0, 0x8004_4331)
    }

    /// Whom a refusal with this code blames.
    ///
    /// Facts §12 lists the privileges and 0x80072560. The others come from the list of error codes
    /// (`error_codes.csv`), by their names; with which status Dataverse sends them is unknown.
    #[must_use]
    pub const fn blame(self) -> Blame {
        match self.0 {
            _ if self.concerns_privilege() => Blame::RowOrCaller,
            // Not a member of the organisation; the user is disabled, in three words; no licence.
            0x8007_2560 | 0x8004_0225 | 0x8004_A112 | 0x8004_A113 | 0x8004_D24B
            // The organisation is disabled, its servers are, its trial or its registration has ended,
            // its licence is invalid, creating is switched off for it.
            | 0x8004_A104 | 0x8004_A107 | 0x8004_415C | 0x8004_415D | 0x8004_415F | 0x8004_0276
            // Its storage is full.
            | 0x8004_B057 => Blame::Caller,
            // A text that is too long, a choice out of its range, characters that are not allowed.
            0x8004_4331 | 0x8004_431A | 0x8004_0278 => Blame::Content,
            _ => Blame::Row,
        }
    }

    /// Whether it may be that the caller, or who it acts for, is refused and not the row.
    pub(super) const fn concerns_caller(self) -> bool {
        matches!(self.blame(), Blame::RowOrCaller | Blame::Caller)
    }

    /// Whether the application user lacks a privilege for the operation.
    #[must_use]
    pub const fn concerns_privilege(self) -> bool {
        matches!(
            self.0,
            0x8004_0220 | 0x8004_8306 | 0x8004_8405 | Self::ACT_ON_BEHALF
        )
    }

    const fn class(self) -> Class {
        match self.0 {
            // Service protection limits and their neighbours (§11.1).
            0x8007_2322 | 0x8007_2321 | 0x8007_2326 | 0x8005_F103 => Class::Throttled,
            // SQL time-out, generic SQL error (deadlocks), network to database, database limits, concurrent operation, server busy,
            // plug-in time-out, unexpected error.
            0x8004_4151 | 0x8004_4150 | 0x8007_3000 | 0x8007_2323 | 0x8007_2324 | 0x8007_1154
            | 0x8004_A001 | 0x8008_1111 | 0x8004_0216 => Class::Passing,
            // Row not found, no row for the alternate key, row version mismatch, another row with the alternate key.
            0x8004_0217 | 0x8006_0891 | 0x8006_0882 | 0x8006_0892 => Class::Stale,
            0x8004_418A => Class::TooLarge,
            // Payload and query errors, invalid status, length, choice, argument, required field, characters, plug-in refusal,
            // attachments, privileges, not a member, delete conflict, primary-key and rule duplicates.
            0x8004_8d19
            | 0x8006_0888
            | 0x8006_088A
            | 0x8004_8408
            | 0x8004_4331
            | 0x8004_431A
            | 0x8004_0203
            | 0x8004_0200
            | 0x8004_0278
            | 0x8004_0265
            | 0x8004_4A02
            | 0x8004_4A04
            | 0x8004_4A08
            | 0x8004_3E09
            | 0x8004_0220
            | 0x8004_8306
            | 0x8004_8405
            | 0x8007_2560
            | 0x8004_0225
            | 0x8004_A112
            | 0x8004_A113
            | 0x8004_D24B
            | 0x8004_A104
            | 0x8004_A107
            | 0x8004_415C
            | 0x8004_415D
            | 0x8004_415F
            | 0x8004_0276
            | 0x8004_B057
            | 0x8004_0227
            | 0x8004_0237
            | 0x8004_0333
            | Self::ACT_ON_BEHALF => Class::Permanent,
            _ => Class::Unlisted,
        }
    }

    /// What the code means, for people; `None` for one that the facts do not list.
    #[must_use]
    pub const fn meaning(self) -> Option<&'static str> {
        Some(match self.0 {
            0x8004_8d19 => {
                "payload error: a column or binding that this organisation does not have"
            }
            0x8006_0888 => "malformed request, or an unknown column in a query",
            0x8004_8408 => "the status is not valid for the state",
            0x8004_4331 => "a text is longer than its column in this organisation",
            0x8004_431A => "a choice value is out of range",
            0x8004_0200 => "a required column is missing",
            0x8004_0278 => "a text holds characters that Dataverse refuses",
            0x8004_0265 => "a plug-in of this organisation refused the row",
            0x8004_4A02 => "an attachment is larger than the organisation allows",
            0x8004_4A04 => "an attachment is empty",
            0x8004_4A08 => "an attachment's file name holds a character that is not allowed",
            0x8004_3E09 => "an attachment's type is blocked in this organisation",
            _ if self.concerns_privilege() => {
                "a privilege is missing: give the application user's role the right that the operation needs"
            }
            0x8007_2560 => {
                "the application is no user of this organisation: add it as an application user with a security role"
            }
            0x8004_0225 | 0x8004_A112 => "the application user is disabled",
            0x8004_A113 => "the organisation is in administration mode",
            0x8004_D24B => "the application user has no licence",
            0x8004_A104 | 0x8004_A107 => "the organisation is disabled",
            0x8004_415C | 0x8004_415D | 0x8004_415F => {
                "the organisation's trial, registration or licence has ended"
            }
            0x8004_0276 => "creating is switched off for the organisation",
            0x8004_B057 => "the organisation's storage is full",
            0x8004_0333 => "a duplicate-detection rule of this organisation refused the row",
            0x8004_0217 => "a row that the write names does not exist",
            0x8004_418A => "the request is too large",
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

enum Class {
    Throttled,
    Passing,
    Stale,
    TooLarge,
    Permanent,
    Unlisted,
}

/// A call, or one part of a batch, that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataverseError {
    /// The organisation limits us.
    #[error("dataverse throttled the call")]
    Throttled {
        /// At least this long.
        retry_after: Option<Duration>,
    },
    /// Not reachable, or broken for now.
    #[error("dataverse is unavailable: {what}")]
    Unavailable {
        /// Status, code or kind of failure.
        what: String,
    },
    /// The bearer token is missing, wrong or expired.
    #[error("dataverse refused the token")]
    TokenRejected,
    /// What we knew of the organisation is no longer so.
    #[error("dataverse changed in between: {what}")]
    Stale {
        /// Status and code.
        what: String,
    },
    /// The request as a whole is larger than Dataverse takes.
    #[error("dataverse refused the request for its size")]
    TooLarge,
    /// The same call will be refused again.
    #[error("dataverse refused the row: {status}{}{}{}", Detail(*code), Missing(privilege.as_deref()), Meaning(*code))]
    Rejected {
        /// HTTP status.
        status: u16,
        /// `None` when the answer has none.
        code: Option<ErrorCode>,
        /// The privilege that is missing, such as `prvCreateActivity`, where the answer names it.
        privilege: Option<String>,
    },
}

struct Detail(Option<ErrorCode>);
struct Missing<'a>(Option<&'a str>);
struct Meaning(Option<ErrorCode>);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |code| write!(f, " {code}"))
    }
}

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |privilege| write!(f, " {privilege}"))
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .and_then(ErrorCode::meaning)
            .map_or(Ok(()), |meaning| write!(f, ", {meaning}"))
    }
}

impl DataverseError {
    /// A row is refused because of a key that is not its primary key.
    #[must_use]
    pub const fn of_another_key() -> Self {
        Self::Rejected {
            status: 412,
            code: Some(ErrorCode::DUPLICATE_KEY),
            privilege: None,
        }
    }

    /// The code of a refusal, if it has one.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Rejected { code, .. } => *code,
            Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::TokenRejected
            | Self::Stale { .. }
            | Self::TooLarge => None,
        }
    }

    /// The refusal, if it is one, for finding out whom it concerns.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Rejected {
            status,
            code,
            privilege,
        } = self
        else {
            return None;
        };
        let privilege = Missing(privilege.as_deref());
        Some(Refusal {
            cause: format!("{status}{}{privilege}{}", Detail(*code), Meaning(*code)),
            blame: code.map_or(Blame::Row, ErrorCode::blame),
        })
    }

    /// Whether it may be that the caller is refused, so that others would be refused as well.
    #[must_use]
    pub fn may_concern_caller(&self) -> bool {
        self.code().is_some_and(ErrorCode::concerns_caller)
    }

    /// Whether, and when, the same call is worth repeating.
    #[must_use]
    pub fn retry_advice(&self) -> RetryAdvice {
        match self {
            // No fault of the message either, however often it is told so.
            Self::Throttled { retry_after } => {
                RetryAdvice::Postpone(retry_after.unwrap_or(FIRST_STEP))
            }
            // No fault of the message: with another token it goes through, and without one it is not tried.
            Self::TokenRejected => RetryAdvice::Postpone(FIRST_STEP),
            Self::Unavailable { .. } | Self::Stale { .. } => RetryAdvice::Soon,
            // One message that is too large alone stays too large; a batch was split before it came to this.
            Self::TooLarge | Self::Rejected { .. } => RetryAdvice::Never,
        }
    }

    /// Reads an answer, or a part of a batch, that was no success.
    #[must_use]
    pub fn from_answer(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let code = error_code(body);
        let what = || format!("{status}{}", Detail(code));
        match code.map_or(Class::Unlisted, ErrorCode::class) {
            _ if status == 401 => Self::TokenRejected,
            _ if status == 429 => Self::Throttled { retry_after },
            Class::Throttled => Self::Throttled { retry_after },
            Class::Passing => Self::Unavailable { what: what() },
            Class::Stale => Self::Stale { what: what() },
            Class::TooLarge => Self::TooLarge,
            Class::Unlisted if status == 413 => Self::TooLarge,
            Class::Unlisted if status == 503 && retry_after.is_some() => {
                Self::Throttled { retry_after }
            }
            // A redirect is an answer of somebody else and says nothing of the row.
            Class::Unlisted if status < 400 => Self::Unavailable { what: what() },
            Class::Unlisted if status >= 500 && status != 501 => Self::Unavailable { what: what() },
            Class::Unlisted if status == 404 || status == 408 => Self::Unavailable { what: what() },
            Class::Permanent | Class::Unlisted => Self::Rejected {
                status,
                code,
                privilege: code
                    .filter(|code| code.concerns_privilege())
                    .and_then(|_| missing_privilege(body)),
            },
        }
    }
}

impl From<reqwest::Error> for DataverseError {
    fn from(error: reqwest::Error) -> Self {
        Self::Unavailable {
            what: http::describe(error),
        }
    }
}

/// The code of an error body: `{"error":{"code":"0x…","message":"…"}}`. The code can be an empty text (Dataverse facts §12).
#[must_use]
pub fn error_code(body: &[u8]) -> Option<ErrorCode> {
    let body: Value = serde_json::from_slice(body).ok()?;
    ErrorCode::parse(body.get("error")?.get("code")?.as_str()?)
}

/// The name of a privilege in the message of an error, such as `prvCreateActivity`: "Principal user
/// (Id=…) is missing prvCreateActivity privilege …". That the message has this form is inferred. The
/// rest of it is dropped, and so is what is no name.
fn missing_privilege(body: &[u8]) -> Option<String> {
    const LONGEST: usize = 80;
    let body: Value = serde_json::from_slice(body).ok()?;
    let message = body.get("error")?.get("message")?.as_str()?;
    let words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| word.len() <= LONGEST)
        .find(|word| {
            let name = word.strip_prefix("prv").unwrap_or_default();
            name.starts_with(|first: char| first.is_ascii_uppercase())
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> DataverseError {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"private"}}}}"#);
        DataverseError::from_answer(status, None, body.as_bytes())
    }

    #[test]
    fn what_passes_is_repeated_and_what_does_not_is_dead() {
        for (status, code) in [
            (500, "0x80044151"),
            (500, "0x80044150"),
            (400, "0x80040216"),
            (500, ""),
            (503, ""),
            (408, ""),
            (404, "0x80040217"),
            (412, "0x80060882"),
            (412, "0x80060892"),
            (404, ""),
        ] {
            assert_eq!(
                answer(status, code).retry_advice(),
                RetryAdvice::Soon,
                "{status} {code}"
            );
        }
        for (status, code) in [
            (400, "0x80048d19"),
            (400, "0x80044331"),
            (403, "0x80072560"),
            (403, "0x80040220"),
            (413, ""),
            (400, ""),
            (501, "0x8006088A"),
            (500, "0x80040333"),
            (400, "0x80040265"),
        ] {
            assert_eq!(
                answer(status, code).retry_advice(),
                RetryAdvice::Never,
                "{status} {code}"
            );
        }
    }

    #[test]
    fn throttling_is_recognised_by_status_and_by_code() {
        let wait = Some(Duration::from_secs(9));
        assert_eq!(
            DataverseError::from_answer(429, wait, b"").retry_advice(),
            RetryAdvice::Postpone(Duration::from_secs(9))
        );
        assert!(matches!(
            answer(503, "0x80072321"),
            DataverseError::Throttled { retry_after: None }
        ));
    }

    #[test]
    fn a_redirect_and_a_busy_server_say_nothing_of_the_row() {
        assert_eq!(answer(302, "").retry_advice(), RetryAdvice::Soon);
        let busy = DataverseError::from_answer(503, Some(Duration::from_secs(90)), b"");
        assert_eq!(
            busy.retry_advice(),
            RetryAdvice::Postpone(Duration::from_secs(90))
        );
    }

    #[test]
    fn a_refused_token_is_told_from_a_missing_privilege() {
        assert_eq!(answer(401, ""), DataverseError::TokenRejected);
        assert!(matches!(
            answer(403, "0x80072560"),
            DataverseError::Rejected { status: 403, .. }
        ));
    }

    #[test]
    fn a_missing_privilege_is_named_and_the_rest_of_the_message_is_not() {
        let body = br#"{"error":{"code":"0x80040220","message":"Principal user (Id=7, Ada) is missing prvCreateActivity privilege (Id=8) on OTC=4200"}}"#;
        let error = DataverseError::from_answer(403, None, body);
        assert_eq!(
            error.refusal().unwrap().cause,
            "403 0x80040220 prvCreateActivity, a privilege is missing: give the application user's role the right that the operation needs"
        );
        assert!(!error.to_string().contains("Ada"), "{error}");
        let of_a_row = br#"{"error":{"code":"0x80040265","message":"prvSecret is a subject"}}"#;
        let error = DataverseError::from_answer(400, None, of_a_row);
        assert!(!error.to_string().contains("prvSecret"), "{error}");
    }

    #[test]
    fn a_code_blames_the_row_unless_it_speaks_of_the_caller() {
        let blame = |code: &str| ErrorCode::parse(code).unwrap().blame();
        for code in ["0x80072560", "0x8004A112", "0x8004A104", "0x8004415C"] {
            assert_eq!(blame(code), Blame::Caller, "{code}");
        }
        for code in ["0x80040220", "0x80048306", "0x80048405"] {
            assert_eq!(blame(code), Blame::RowOrCaller, "{code}");
        }
        for code in ["0x80040265", "0x80048d19", "0x80099999"] {
            assert_eq!(blame(code), Blame::Row, "{code}");
        }
        for code in ["0x80044331", "0x80040278"] {
            assert_eq!(blame(code), Blame::Content, "{code}");
        }
    }

    #[test]
    fn the_text_names_code_and_meaning_and_never_the_message() {
        let text = answer(400, "0x80044331").to_string();
        assert_eq!(
            text,
            "dataverse refused the row: 400 0x80044331, a text is longer than its column in this organisation"
        );
        assert_eq!(
            answer(400, "nonsense").to_string(),
            "dataverse refused the row: 400"
        );
    }
}
