//! The failures of a Dataverse call, and how an answer is classified.
//!
//! `ErrorCode::class` classifies every code that Dataverse facts §12 lists. For any other code, the
//! HTTP status decides.
//!
//! | Answer | Variant | Next |
//! | --- | --- | --- |
//! | 429, or one of the throttling codes | [`DataverseError::Throttled`] | wait at least `Retry-After`, then repeat |
//! | 5xx, timeout, connection lost, SQL timeout or deadlock, unreadable answer | [`DataverseError::Unavailable`] | repeat; a row may have been written, and the repeat finds it |
//! | 401 | [`DataverseError::TokenRejected`] | drop the cached token, then repeat |
//! | 404 for a row that a write refers to, 412 row version, 412 alternate key | [`DataverseError::Stale`] | repeat, including the lookup |
//! | 413 | [`DataverseError::TooLarge`] | send less at once |
//! | 403 and every other rejection | [`DataverseError::Rejected`] | settle the message as `dead` with the code, or wait if the rejection may affect every message ([`crate::clients::refusal`]) |
//!
//! 412 with 0x80040237 (a row with matching key values already exists) is not an error: see
//! [`super::emails::CreateOutcome::AlreadyExisted`]. The code does not tell which key matched, the
//! primary key or `messageid` (Dataverse facts §7.3). So the row is read by its id before it counts
//! as ours.
//!
//! 412 with 0x80060892 (an alternate key that the organisation defined on a column, such as
//! `messageid`) names no row, and the conflicting row may be a draft or another email. So the
//! answer counts as a change in Dataverse: the lookup of the next attempt searches for the
//! Message-ID and settles the message as `written` with the row that has it. If no row has it, the
//! attempts run out.
//!
//! The message text of an error is not kept, because it can quote the data that was sent.

#![deny(clippy::wildcard_enum_match_arm)]

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::batch::BatchPart;
use crate::clients::http;
use crate::clients::refusal::{Blame, Refusal};
use crate::clients::retry::{FIRST_STEP, RetryAdvice};

/// A Dataverse error code such as `0x80040217`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(u32);

impl ErrorCode {
    /// A row with a matching key value exists (412).
    pub(crate) const DUPLICATE_KEY: Self = Self(0x8004_0237);

    /// No row with this id exists (404).
    pub(crate) const NO_ROW: Self = Self(0x8004_0217);

    /// The privilege to act on behalf of another user is missing. Not in §12 (inferred from its
    /// name in the list of codes; 0x80040220 is as likely).
    const ACT_ON_BEHALF: u32 = 0x8004_A110;

    /// Parses the text of `error.code`; `None` if it is empty or not a hexadecimal number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16)
            .ok()
            .map(Self)
    }

    /// Returns whether Dataverse rejected an attachment and not the email: too large, empty,
    /// invalid name, or blocked type (Dataverse facts §4.2).
    #[must_use]
    pub(crate) const fn concerns_attachment(self) -> bool {
        matches!(
            self.0,
            0x8004_4A02 | 0x8004_4A04 | 0x8004_4A08 | 0x8004_3E09
        )
    }

    /// Returns whether a text is longer than its column.
    #[must_use]
    pub(crate) const fn concerns_length(self) -> bool {
        matches!(self.0, 0x8004_4331)
    }

    /// Returns what a rejection with this code blames: the caller, the row, or its content.
    ///
    /// Facts §12 lists the privileges and 0x80072560. The other codes were chosen by their names in
    /// the list of error codes (`error_codes.csv`); the status with which Dataverse sends them is
    /// unknown.
    #[must_use]
    pub(crate) const fn blame(self) -> Blame {
        match self.0 {
            _ if self.concerns_privilege() => Blame::RowOrCaller,
            // Not a member of the organisation; three codes for a disabled user; no licence.
            0x8007_2560 | 0x8004_0225 | 0x8004_A112 | 0x8004_A113 | 0x8004_D24B
            // The organisation or its servers are disabled, its trial or registration has ended,
            // its licence is invalid, creating rows is switched off for it.
            | 0x8004_A104 | 0x8004_A107 | 0x8004_415C | 0x8004_415D | 0x8004_415F | 0x8004_0276
            // The storage of the organisation is full.
            | 0x8004_B057 => Blame::Caller,
            // A text that is too long, a choice value out of range, characters that are not
            // allowed.
            0x8004_4331 | 0x8004_431A | 0x8004_0278 => Blame::Content,
            _ => Blame::Row,
        }
    }

    /// Returns whether Dataverse may have rejected the caller, or the user it acts for, instead of
    /// the row.
    pub(crate) const fn concerns_caller(self) -> bool {
        matches!(self.blame(), Blame::RowOrCaller | Blame::Caller)
    }

    /// Returns whether the application user lacks a privilege for the operation.
    #[must_use]
    pub const fn concerns_privilege(self) -> bool {
        matches!(
            self.0,
            0x8004_0220 | 0x8004_8306 | 0x8004_8405 | Self::ACT_ON_BEHALF
        )
    }

    const fn class(self) -> Class {
        match self.0 {
            // The service protection limits and related codes (§11.1).
            0x8007_2322 | 0x8007_2321 | 0x8007_2326 | 0x8005_F103 => Class::Throttled,
            // SQL timeout, generic SQL error (deadlocks), network to the database, database limits,
            // concurrent operation, server busy, plug-in timeout, unexpected error.
            0x8004_4151 | 0x8004_4150 | 0x8007_3000 | 0x8007_2323 | 0x8007_2324 | 0x8007_1154
            | 0x8004_A001 | 0x8008_1111 | 0x8004_0216 => Class::Passing,
            // Row not found, no row with the alternate key, row version mismatch, another row with
            // the alternate key.
            0x8004_0217 | 0x8006_0891 | 0x8006_0882 | 0x8006_0892 => Class::Stale,
            0x8004_418A => Class::TooLarge,
            // Payload and query errors, invalid status, length, choice, argument, required column,
            // characters, plug-in rejection, attachments, privileges, not a member, delete
            // conflict, duplicates by primary key or by rule.
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

    /// Returns the meaning of the code for people; `None` for a code without a text here.
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
            0x8004_0278 => "a text contains characters that Dataverse does not allow",
            0x8004_0265 => "a plug-in of this organisation refused the row",
            0x8004_4A02 => "an attachment is larger than the organisation allows",
            0x8004_4A04 => "an attachment is empty",
            0x8004_4A08 => "an attachment's file name has a character that is not allowed",
            0x8004_3E09 => "an attachment's type is blocked in this organisation",
            _ if self.concerns_privilege() => {
                "a privilege is missing: give the application user's role the right that the operation needs"
            }
            0x8007_2560 => {
                "the application is not a user of this organisation: add it as an application user with a security role"
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
            0x8004_0217 => "a row that the write refers to does not exist",
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

/// The failure of a call or of one part of a `$batch`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataverseError {
    /// Dataverse throttles us.
    #[error("dataverse throttled the call")]
    Throttled {
        /// The shortest wait; `None` if the answer has no `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Dataverse cannot be reached or fails for now.
    #[error("dataverse is unavailable: {what}")]
    Unavailable {
        /// The status, the code or the kind of failure.
        what: String,
    },
    /// The bearer token is missing, wrong or expired.
    #[error("dataverse refused the token")]
    TokenRejected,
    /// A row was changed, created or deleted since the lookup.
    #[error("a dataverse row changed in the meantime: {what}")]
    Stale {
        /// Status and code.
        what: String,
    },
    /// The whole request is larger than Dataverse accepts.
    #[error("dataverse refused the request: it is too large")]
    TooLarge,
    /// The same call would be rejected again.
    #[error("dataverse refused the row: {status}{}{}{}", Detail(*code), Missing(privilege.as_deref()), Meaning(*code))]
    Rejected {
        /// HTTP status.
        status: u16,
        /// The error code; `None` if the answer has none.
        code: Option<ErrorCode>,
        /// The missing privilege, such as `prvCreateActivity`, if the answer names it.
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
    /// Returns the rejection of a row because of a key other than its primary key.
    #[must_use]
    pub(crate) const fn of_another_key() -> Self {
        Self::Rejected {
            status: 412,
            code: Some(ErrorCode::DUPLICATE_KEY),
            privilege: None,
        }
    }

    /// Returns the code of a rejection, if it has one.
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

    /// Returns the rejection, if this is one, to find out whether it affects one message or all.
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

    /// Returns whether Dataverse may have rejected the caller, so that other messages would be
    /// rejected as well.
    #[must_use]
    pub(crate) fn may_concern_caller(&self) -> bool {
        self.code().is_some_and(ErrorCode::concerns_caller)
    }

    /// Returns whether, and when, the same call is worth repeating.
    #[must_use]
    pub fn retry_advice(&self) -> RetryAdvice {
        match self {
            // Throttling is not the fault of the message, however often it happens.
            Self::Throttled { retry_after } => {
                RetryAdvice::Postpone(retry_after.unwrap_or(FIRST_STEP))
            }
            // Not the fault of the message: with another token it succeeds, and without a token it
            // is not sent.
            Self::TokenRejected => RetryAdvice::Postpone(FIRST_STEP),
            Self::Unavailable { .. } | Self::Stale { .. } => RetryAdvice::Soon,
            // A single message that is too large stays too large; a batch was split before.
            Self::TooLarge | Self::Rejected { .. } => RetryAdvice::Never,
        }
    }

    /// Classifies an unsuccessful answer to a request or to a part of a `$batch`.
    #[must_use]
    pub(crate) fn from_answer(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
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
            // A redirect does not come from Dataverse itself and does not concern the row.
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

/// Returns the code of an error body: `{"error":{"code":"0x…","message":"…"}}`. The code can be an
/// empty text (Dataverse facts §12).
#[must_use]
pub(crate) fn error_code(body: &[u8]) -> Option<ErrorCode> {
    let body: Value = serde_json::from_slice(body).ok()?;
    ErrorCode::parse(body.get("error")?.get("code")?.as_str()?)
}

/// Returns the name of the missing privilege from the message of an error.
///
/// An example is `prvCreateActivity` in "Principal user (Id=…) is missing prvCreateActivity
/// privilege …"; that the message has this form is inferred. The rest of the message is dropped,
/// and so are words that cannot be a privilege.
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

/// Classifies the failure of one part of a `$batch`.
pub(crate) fn part_error(part: &BatchPart) -> DataverseError {
    DataverseError::from_answer(
        part.status,
        part.retry_after_seconds.map(Duration::from_secs),
        &part.body,
    )
}

pub(crate) fn unreadable(what: &str) -> DataverseError {
    DataverseError::Unavailable {
        what: format!("{what} cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> DataverseError {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"private"}}}}"#);
        DataverseError::from_answer(status, None, body.as_bytes())
    }

    #[test]
    fn transient_errors_are_retried_and_permanent_errors_are_not() {
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
    fn a_redirect_and_a_busy_server_do_not_blame_the_row() {
        assert_eq!(answer(302, "").retry_advice(), RetryAdvice::Soon);
        let busy = DataverseError::from_answer(503, Some(Duration::from_secs(90)), b"");
        assert_eq!(
            busy.retry_advice(),
            RetryAdvice::Postpone(Duration::from_secs(90))
        );
    }

    #[test]
    fn a_rejected_token_is_distinguished_from_a_missing_privilege() {
        assert_eq!(answer(401, ""), DataverseError::TokenRejected);
        assert!(matches!(
            answer(403, "0x80072560"),
            DataverseError::Rejected { status: 403, .. }
        ));
    }

    #[test]
    fn a_missing_privilege_is_named_without_the_rest_of_the_message() {
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
    fn an_error_code_blames_the_row_unless_it_concerns_the_caller() {
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
    fn the_error_text_contains_the_code_and_its_meaning_but_not_the_message() {
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
