//! Decides which valid message notifications are acknowledged without being queued.
//!
//! | Notification | Why nothing is lost |
//! | --- | --- |
//! | from another Nylas application than the configured one | its messages are not ours |
//! | older than seven days according to the envelope's `time` | the daily backfill has listed that week |
//! | queued by this process within the last day | the queue has it |
//!
//! If a check is not possible, the notification is queued: it has no application id, no time or no
//! id.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::notification::MessageNotification;
use crate::recent_notifications::{Fingerprint, RecentNotifications};

/// Older notifications are not queued. The daily backfill lists the same number of days
/// (`template.yaml`, `Daily`).
const LONGEST_AGE: TimeDelta = TimeDelta::days(7);

/// Why a notification is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// It comes from another Nylas application.
    AnotherApplication,
    /// It is older than seven days.
    TooOld,
    /// It was already queued.
    Duplicate,
}

impl Unwanted {
    /// Returns the reason as text for the log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::AnotherApplication => "it comes from another Nylas application",
            Self::TooOld => "it is older than seven days",
            Self::Duplicate => "it was queued within the last day",
        }
    }
}

/// Decides which notifications are not queued.
#[derive(Debug, Default)]
pub struct Filter {
    application_id: Option<String>,
    live: Option<Mutex<RecentNotifications>>,
}

impl Filter {
    /// Creates a filter that queues everything: for saved events, which are old and may be replayed
    /// repeatedly.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Creates a filter for live deliveries. With an `application_id`, notifications from other
    /// applications are not queued.
    #[must_use]
    pub fn live(application_id: Option<String>) -> Self {
        Self {
            application_id,
            live: Some(Mutex::default()),
        }
    }

    /// Returns why `notification` is not queued; `None` if it is to be queued.
    #[must_use]
    pub fn unwanted(
        &self,
        notification: &MessageNotification,
        now: DateTime<Utc>,
    ) -> Option<Unwanted> {
        if let (Some(ours), Some(named)) = (&self.application_id, &notification.application_id)
            && !ours.eq_ignore_ascii_case(named)
        {
            return Some(Unwanted::AnotherApplication);
        }
        let recent = self.live.as_ref()?;
        if notification.time.is_some_and(|at| now - at > LONGEST_AGE) {
            return Some(Unwanted::TooOld);
        }
        let fingerprint = fingerprint(notification)?;
        let recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.holds(fingerprint, now);
        known.then_some(Unwanted::Duplicate)
    }

    /// Records that the queue has accepted `notification`.
    pub fn queued(&self, notification: &MessageNotification, now: DateTime<Utc>) {
        if let (Some(recent), Some(fingerprint)) = (&self.live, fingerprint(notification)) {
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.add(fingerprint, now);
        }
    }
}

fn fingerprint(notification: &MessageNotification) -> Option<Fingerprint> {
    let id = notification.id.as_ref()?;
    Some(Fingerprint::new(id, &notification.request))
}

#[cfg(test)]
mod tests {
    use mailverse::model::ids::MessageKey;
    use mailverse::model::sync_request::{SyncRequest, Trigger};

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
    }

    fn notification() -> MessageNotification {
        MessageNotification {
            request: SyncRequest {
                key: MessageKey {
                    grant_id: "g".parse().unwrap(),
                    message_id: "m".parse().unwrap(),
                },
                trigger: Trigger::Created,
            },
            id: Some("n".to_owned()),
            time: Some(now()),
            application_id: Some("app".to_owned()),
            unknown_suffix: None,
        }
    }

    #[test]
    fn only_a_notification_that_names_another_application_is_filtered_out() {
        let configured = Filter::live(Some("APP".to_owned()));
        let mut notification = notification();
        assert_eq!(configured.unwanted(&notification, now()), None);
        notification.application_id = Some("other".to_owned());
        let unwanted = configured.unwanted(&notification, now());
        assert_eq!(unwanted, Some(Unwanted::AnotherApplication));
        assert_eq!(Filter::live(None).unwanted(&notification, now()), None);
        notification.application_id = None;
        assert_eq!(configured.unwanted(&notification, now()), None);
    }

    #[test]
    fn a_notification_is_too_old_after_seven_days_and_never_without_a_time() {
        let filter = Filter::live(None);
        let mut notification = notification();
        for (days, minutes, expected) in [
            (7, 0, None),
            (7, 1, Some(Unwanted::TooOld)),
            (400, 0, Some(Unwanted::TooOld)),
            (-400, 0, None),
        ] {
            notification.time = Some(now() - TimeDelta::days(days) - TimeDelta::minutes(minutes));
            assert_eq!(filter.unwanted(&notification, now()), expected, "{days}");
            assert_eq!(Filter::none().unwanted(&notification, now()), None);
        }
        notification.time = None;
        assert_eq!(filter.unwanted(&notification, now()), None);
    }

    #[test]
    fn a_notification_is_a_duplicate_only_after_it_was_queued() {
        let filter = Filter::live(None);
        let notification = notification();
        assert_eq!(filter.unwanted(&notification, now()), None);
        assert_eq!(filter.unwanted(&notification, now()), None);
        filter.queued(&notification, now());
        let unwanted = filter.unwanted(&notification, now());
        assert_eq!(unwanted, Some(Unwanted::Duplicate));
        let mut nameless = notification.clone();
        nameless.id = None;
        filter.queued(&nameless, now());
        assert_eq!(filter.unwanted(&nameless, now()), None);
        let none = Filter::none();
        none.queued(&notification, now());
        assert_eq!(none.unwanted(&notification, now()), None);
    }
}
