//! Decides whether a row gets the date of its message as creation date, so that old messages do not
//! look as if they arrived today.
//!
//! With the setting `CREATED_ON` = `original`, a create sets `overriddencreatedon` for messages
//! that are older than a day, whether they come from a list, a saved file or a late delivery. It is
//! a setting of the environment and not of the policy, because it depends on a privilege of the
//! application user and not on what users want to be tracked. The name of that privilege,
//! prvOverrideCreatedOnCreatedBy, and that the column needs it are *inferred* (Dataverse facts
//! §16). Whether Dataverse keeps the time of day or only the date is *unknown* (§20.11); both are
//! sent.
//!
//! If an organisation refuses the column, this takes one more request: the messages of that batch
//! are written without it, the process does not try it again, and one log line reports it.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::message::Message;

/// The age from which a message gets its original date. For a younger message, the time of writing
/// is close enough.
const HISTORY: TimeDelta = TimeDelta::days(1);

/// 1990-01-01, in seconds since 1970. An earlier date comes from a clock that was never set.
const EARLIEST: i64 = 631_152_000;

/// The value of the setting `CREATED_ON`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreatedOn {
    /// `now`: the time when the row was created.
    #[default]
    Now,
    /// `original`: the time when the message was received, if it is older than a day.
    Original,
}

impl CreatedOn {
    /// The values by name.
    pub const NAMED: [(&str, Self); 2] = [("now", Self::Now), ("original", Self::Original)];
}

/// The setting, and whether Dataverse refused it.
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
    /// Returns the creation date to write for a message; `None` for the time of writing.
    #[must_use]
    pub fn date(&self, message: &Message, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let is_wanted = self.wanted == CreatedOn::Original && !self.is_refused();
        message.date.filter(|date| {
            is_wanted && date.timestamp() >= EARLIEST && now.signed_duration_since(date) > HISTORY
        })
    }

    /// Returns whether Dataverse refused the column since the process started.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Notes that Dataverse accepted a row without the date, after it had refused it with the date.
    pub(super) fn refuse(&self) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "dataverse does not let the application user set the creation date of a row (privilege prvOverrideCreatedOnCreatedBy); CREATED_ON=original has no effect until the process restarts"
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
        let message = crate::clients::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let date = Backdating::from(wanted).date(&message, now);
        date.map(|date| date.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    #[test]
    fn only_old_messages_get_their_original_date_and_only_on_request() {
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
    fn backdating_is_not_tried_again_after_a_rejection() {
        let object = json!({"id": "m", "date": 1_600_000_000});
        let message = crate::clients::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let backdating = Backdating::from(CreatedOn::Original);
        assert_eq!(backdating.date(&message, now), message.date);
        backdating.refuse();
        assert!(backdating.is_refused());
        assert_eq!(backdating.date(&message, now), None);
    }
}
