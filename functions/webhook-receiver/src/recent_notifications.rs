//! The notifications that this process queued recently: a cheap check for duplicates.
//!
//! Nylas sends a notification again if it did not receive our 200, with the same envelope id (Nylas
//! facts §4). If this memory is lost or full, the notification is queued again, and the ledger
//! shows that the message is done. So the check saves work but guarantees nothing.
//!
//! An entry is the digest of the envelope id and the queued request. If two notifications have the
//! same id but name different messages, both are queued.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::model::sync_request::SyncRequest;
use sha2::{Digest, Sha256};

/// How long a notification is remembered.
const KEPT: TimeDelta = TimeDelta::days(1);

/// How many notifications are remembered, which takes about a megabyte.
const CAPACITY: usize = 10_000;

/// The digest of a notification: 32 bytes, however long its id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Creates the digest of an envelope's id and the request in it.
    #[must_use]
    pub fn new(id: &str, request: &SyncRequest) -> Self {
        let digest = Sha256::new()
            .chain_update(id.len().to_be_bytes())
            .chain_update(id)
            .chain_update(request.to_body())
            .finalize();
        Self(digest.into())
    }
}

/// The notifications that were queued recently.
#[derive(Debug, Default)]
pub struct RecentNotifications {
    queued_at: HashMap<Fingerprint, DateTime<Utc>>,
    /// The digests in the order of queueing, oldest first.
    order: VecDeque<Fingerprint>,
}

impl RecentNotifications {
    /// Returns whether the notification was queued within the last day.
    #[must_use]
    pub fn holds(&self, notification: Fingerprint, now: DateTime<Utc>) -> bool {
        let queued_at = self.queued_at.get(&notification);
        // If the clock was set back, the age is negative and the notification counts as unknown.
        queued_at.is_some_and(|at| (TimeDelta::zero()..KEPT).contains(&(now - *at)))
    }

    /// Records that the queue has accepted the notification.
    pub fn add(&mut self, notification: Fingerprint, now: DateTime<Utc>) {
        if self.queued_at.insert(notification, now).is_some() {
            // It keeps its place in the order, so it is forgotten a little early.
            return;
        }
        self.order.push_back(notification);
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.queued_at.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use mailverse::model::ids::MessageKey;
    use mailverse::model::sync_request::Trigger;

    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hours)
    }

    fn request(message: &str, trigger: Trigger) -> SyncRequest {
        SyncRequest {
            key: MessageKey {
                grant_id: "g".parse().unwrap(),
                message_id: message.parse().unwrap(),
            },
            trigger,
        }
    }

    fn fingerprint(id: &str) -> Fingerprint {
        Fingerprint::new(id, &request("m", Trigger::Created))
    }

    #[test]
    fn a_notification_is_remembered_for_a_day() {
        let mut recent = RecentNotifications::default();
        recent.add(fingerprint("n"), at(1));
        for (hours, held) in [(0, false), (1, true), (24, true), (25, false)] {
            assert_eq!(recent.holds(fingerprint("n"), at(hours)), held, "{hours}");
        }
        assert!(!recent.holds(fingerprint("other"), at(1)));
    }

    #[test]
    fn one_id_with_another_message_or_trigger_is_another_notification() {
        let of = |message, trigger| Fingerprint::new("n", &request(message, trigger));
        assert_eq!(of("m", Trigger::Created), of("m", Trigger::Created));
        assert_ne!(of("m", Trigger::Created), of("m2", Trigger::Created));
        assert_ne!(of("m", Trigger::Created), of("m", Trigger::Updated));
    }

    #[test]
    fn the_number_of_remembered_notifications_is_bounded_and_the_oldest_goes_first() {
        let mut recent = RecentNotifications::default();
        for n in 0..=CAPACITY {
            recent.add(fingerprint(&n.to_string()), at(1));
            recent.add(fingerprint(&n.to_string()), at(1));
        }
        assert_eq!(recent.order.len(), CAPACITY);
        assert_eq!(recent.queued_at.len(), CAPACITY);
        assert!(!recent.holds(fingerprint("0"), at(1)));
        assert!(recent.holds(fingerprint("1"), at(1)));
    }
}
