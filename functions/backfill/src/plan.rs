//! What a schedule event asks for: which mailboxes, since when. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ids::GrantId;
use mailverse::nylas::wire::Grant;
use serde::Deserialize;
use serde_json::Value;

/// How far back a scheduled run looks: long enough to repair what webhooks lost in a day's outage.
const WINDOW: TimeDelta = TimeDelta::hours(24);

/// The event is none that this function knows.
#[derive(Debug, thiserror::Error)]
#[error("not a schedule event: {0}")]
pub struct NotASchedule(&'static str);

/// One mailbox to list.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// Which.
    pub grant_id: GrantId,
    /// Messages received since then, in Unix seconds.
    pub received_after: i64,
}

#[derive(Deserialize)]
struct Event {
    source: String,
    time: String,
}

/// When the schedule meant this run to start. A run that Scheduler repeats late still covers the window that it was meant for.
///
/// # Errors
/// [`NotASchedule`]: the event comes from somewhere else, and nothing was done.
pub fn scheduled_time(event: &Value) -> Result<DateTime<Utc>, NotASchedule> {
    let event = Event::deserialize(event)
        .map_err(|_| NotASchedule("source or time is missing or no text"))?;
    if !matches!(event.source.as_str(), "aws.scheduler" | "aws.events") {
        return Err(NotASchedule(
            "its source is neither aws.scheduler nor aws.events",
        ));
    }
    let time =
        DateTime::parse_from_rfc3339(&event.time).map_err(|_| NotASchedule("its time is none"))?;
    // Before the first message there was; what is left keeps clear of the ends of the calendar.
    if time.timestamp() < WINDOW.num_seconds() {
        return Err(NotASchedule("its time is before 1970"));
    }
    Ok(time.to_utc())
}

/// One task for each valid mailbox. A grant that needs signing in again cannot be listed and is left out.
#[must_use]
pub fn tasks(grants: &[Grant], scheduled: DateTime<Utc>) -> Vec<Task> {
    // Whether the bound is inclusive is unknown (Nylas facts §7), so it is put a second early.
    let received_after = (scheduled - WINDOW).timestamp() - 1;
    let readable = grants
        .iter()
        .filter(|grant| grant.valid && grant.address.is_some());
    readable
        .map(|grant| Task {
            grant_id: grant.id.clone(),
            received_after,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mailverse::nylas::wire;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schedule_event_is_known_by_its_source() {
        let event = |source: &str| json!({"version": "0", "source": source, "time": "2026-11-20T06:00:00Z", "detail": "{}"});
        assert_eq!(
            scheduled_time(&event("aws.scheduler")).unwrap().timestamp(),
            1_795_154_400
        );
        assert!(scheduled_time(&event("aws.events")).is_ok());
        assert_eq!(
            scheduled_time(&event("aws.s3")).unwrap_err().to_string(),
            "not a schedule event: its source is neither aws.scheduler nor aws.events"
        );
        for time in [
            "-262143-01-01T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "soon",
            "",
        ] {
            let event = json!({"source": "aws.scheduler", "time": time});
            assert!(scheduled_time(&event).is_err(), "{time}");
        }
        assert!(scheduled_time(&json!({"source": "aws.scheduler"})).is_err());
        assert!(scheduled_time(&json!(null)).is_err());
    }

    #[test]
    fn each_valid_mailbox_is_listed_for_a_day() {
        let grants: Vec<Grant> = [
            json!({"id": "a", "email": "a@example.com", "grant_status": "valid"}),
            json!({"id": "b", "email": "b@example.com", "grant_status": "invalid"}),
            json!({"id": "c", "grant_status": "valid"}),
        ]
        .iter()
        .filter_map(wire::grant)
        .collect();
        let scheduled = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let expected = Task {
            grant_id: "a".parse().unwrap(),
            received_after: 1_000_000 - 86_400 - 1,
        };
        assert_eq!(tasks(&grants, scheduled), [expected]);
    }
}
