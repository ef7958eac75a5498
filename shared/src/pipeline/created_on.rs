//! When a row says that it was made: today, or on the day of its mail, so that history does not look as if it arrived today.
//!
//! The setting `CREATED_ON` = `original` writes `overriddencreatedon` on create, for mail that is older than a day, whichever way it came: a list, a saved
//! file, or a delivery that took long. It is a setting of the environment and not of the policy, because it hangs on a privilege of the application user and not
//! on what people want to be tracked (the name of that privilege, prvOverrideCreatedOnCreatedBy, and that the column needs it are *inferred*: Dataverse facts §16).
//! Whether Dataverse keeps the time of day, or the date alone, is unknown (§20.11); both are sent.
//!
//! An organisation that refuses the column costs one more request: the mails of that batch are written without it, the process does not try again, and
//! the log says so once.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

use crate::message::Message;

/// Mail that is younger arrives, as far as anybody can tell, today.
const HISTORY: TimeDelta = TimeDelta::days(1);

/// 1990-01-01. What claims to be older comes from a clock that was never set.
const EARLIEST: i64 = 631_152_000;

/// What the setting `CREATED_ON` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreatedOn {
    /// `now`: when the row was made.
    #[default]
    Now,
    /// `original`: when the mail was received, where that is longer ago than a day.
    Original,
}

impl CreatedOn {
    /// The values by name.
    pub const NAMED: [(&str, Self); 2] = [("now", Self::Now), ("original", Self::Original)];
}

/// The setting, until Dataverse refuses it.
#[derive(Debug, Default)]
pub struct Backdating {
    wanted: CreatedOn,
    refused: AtomicBool,
}

impl From<CreatedOn> for Backdating {
    fn from(wanted: CreatedOn) -> Self {
        Self {
            wanted,
            refused: AtomicBool::new(false),
        }
    }
}

impl Backdating {
    /// What Dataverse is to say of a mail's creation; `None` for the moment of writing.
    #[must_use]
    pub fn date(&self, message: &Message, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let is_wanted = self.wanted == CreatedOn::Original && !self.is_refused();
        message.date.filter(|date| {
            is_wanted && date.timestamp() >= EARLIEST && now.signed_duration_since(date) > HISTORY
        })
    }

    /// Whether Dataverse refused it since the process began.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Dataverse took a row without the date that it had refused with it.
    pub(super) fn refuse(&self) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "dataverse does not let the application user set when a row was made (prvOverrideCreatedOnCreatedBy): CREATED_ON=original has no effect until the process is started anew"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn date(date: &str, wanted: CreatedOn) -> Option<String> {
        let object = json!({"id": "m", "date": date});
        let message = crate::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let date = Backdating::from(wanted).date(&message, now);
        date.map(|date| date.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    #[test]
    fn only_history_is_given_its_own_date_and_only_on_request() {
        let old = "2026-11-19T11:59:59Z";
        assert_eq!(date(old, CreatedOn::Original).as_deref(), Some(old));
        assert_eq!(date(old, CreatedOn::Now), None);
        for not_history in [
            "2026-11-19T12:00:00Z",
            "2026-11-20T12:00:00Z",
            "2026-11-21T12:00:00Z",
            "9998-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "1989-12-31T23:59:59Z",
            "no date",
        ] {
            assert_eq!(
                date(not_history, CreatedOn::Original),
                None,
                "{not_history}"
            );
        }
    }

    #[test]
    fn what_was_refused_is_not_tried_again() {
        let object = json!({"id": "m", "date": 1_600_000_000});
        let message = crate::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let backdating = Backdating::from(CreatedOn::Original);
        assert_eq!(backdating.date(&message, now), message.date);
        backdating.refuse();
        assert!(backdating.is_refused());
        assert_eq!(backdating.date(&message, now), None);
    }
}
