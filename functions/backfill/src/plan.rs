//! Plans a scheduled run: which mailboxes it lists, and from which date on.
//!
//! | The schedule | lists each valid mailbox since | and finds |
//! | --- | --- | --- |
//! | every 15 minutes | its watermark, less [`OVERLAP`]; without a watermark, a day ago | messages without a webhook, however long webhooks were missing |
//! | once a day | the number of days ago in the event's `detail`: `{"days": 7}`; or its watermark, less [`OVERLAP`], if that is earlier | messages that appeared in the list late, with an old date |
//!
//! The watermark (`shared/src/ledger/mailbox_state.rs`) is the time up to which a mailbox was
//! listed completely. It advances when a list reaches its end, so the next run covers the gap after
//! an outage of any kind, including an expired grant. A mailbox whose user has to sign in again
//! gets no task. An operator's task for it is parked, and the first run that finds the grant valid
//! queues it. A mailbox that does not take part gets no task either and keeps its watermark: once
//! it is admitted, the next run covers the time since it last took part.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use mailverse::clients::aws::queue::SyncQueue;
use mailverse::clients::nylas::wire::Grant;
use mailverse::ledger::backfill_runs::RunId;
use mailverse::ledger::mailbox_state::MailboxRecord;
use mailverse::pipeline::Invocation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::task::{Kind, Task};
use crate::{Backfill, BackfillError};

/// How far before the watermark a list begins. Longer than Nylas needs to see new messages,
/// and longer than other clients need to write their rows.
pub const OVERLAP: TimeDelta = TimeDelta::hours(2);

/// How far back the first list of a mailbox reaches. An operator can request older mail.
const FIRST_WINDOW: TimeDelta = TimeDelta::hours(24);

/// Queue messages that are sent concurrently.
pub(crate) const SENDS: usize = 10;

/// A scheduled event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The time for which the run was scheduled. A run that is repeated late still covers its own
    /// window.
    pub time: DateTime<Utc>,
    /// How many days to list; `None` means since the watermark.
    pub days: Option<i64>,
}

/// What a scheduled run has put on the queues.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The id of the run.
    pub run_id: String,
    /// Mailboxes that will be listed.
    pub mailboxes: usize,
    /// Mailboxes whose user has to sign in again.
    pub not_valid: usize,
    /// Mailboxes that do not take part.
    pub excluded: usize,
    /// Parked tasks that were queued again.
    pub unparked: usize,
    /// Stranded messages that were sent to the sync queue.
    pub stranded: usize,
}

#[derive(Deserialize)]
struct Event {
    time: String,
    #[serde(default)]
    detail: Value,
}

impl Schedule {
    /// Parses an event of EventBridge.
    ///
    /// # Errors
    /// The problem with the event, as text. Nothing was done.
    pub fn from_event(event: &Value) -> Result<Self, &'static str> {
        let Event { time, detail } =
            Event::deserialize(event).map_err(|_| "its time is missing or not a string")?;
        let time =
            DateTime::parse_from_rfc3339(&time).map_err(|_| "its time is not in RFC 3339")?;
        let days = match detail.get("days").map(Value::as_i64) {
            None => None,
            Some(Some(days)) if (1..=36_500).contains(&days) => Some(days),
            Some(_) => return Err("its detail.days must be a whole number from 1 to 36500"),
        };
        let time = time.to_utc();
        let window = days.map_or(FIRST_WINDOW, TimeDelta::days);
        // There is no email from before 1970. The check also keeps the date arithmetic in range.
        if time.timestamp() < window.num_seconds() {
            return Err("its time is before 1970");
        }
        Ok(Self { time, days })
    }

    fn kind(&self) -> Kind {
        if self.days.is_some() {
            Kind::Days
        } else {
            Kind::Recent
        }
    }

    /// Returns the time from which a mailbox is listed, in Unix seconds. `watermark` is its
    /// watermark.
    #[must_use]
    pub fn received_after(&self, watermark: Option<DateTime<Utc>>) -> i64 {
        let since = match (self.days, watermark) {
            // Never after the watermark, because this list advances it too.
            (Some(days), until) => {
                let since = self.time - TimeDelta::days(days);
                until.map_or(since, |until| since.min(until - OVERLAP))
            }
            // A watermark after the scheduled time comes from a later run, which has overtaken this
            // one.
            (None, Some(until)) => until.min(self.time) - OVERLAP,
            (None, None) => self.time - FIRST_WINDOW,
        };
        // Whether the bound is inclusive is *unknown* (Nylas facts §7), so it is one second
        // earlier.
        (since.timestamp() - 1).max(0)
    }
}

/// Returns whether the grant is a mailbox and can be read now.
pub(crate) fn is_readable(grant: &Grant) -> bool {
    grant.valid && grant.address.is_some()
}

impl<Q: SyncQueue> Backfill<Q> {
    /// Puts a task for each mailbox on the queue.
    ///
    /// # Errors
    /// [`BackfillError`]: some tasks may be queued; the next scheduled run plans all of them again.
    pub async fn plan(
        &self,
        schedule: &Schedule,
        begin: &impl Fn() -> Invocation,
    ) -> Result<Planned, BackfillError> {
        let invocation = begin();
        let run_id = RunId::from(invocation.token);
        let (grants, excluded) = self.grants().await?;
        let mut planned = Planned {
            run_id: run_id.to_string(),
            ..Planned::default()
        };
        if schedule.days.is_none() {
            planned.stranded = self.requeue_stranded(invocation.now).await;
        }
        let (readable, others): (Vec<Grant>, Vec<Grant>) =
            grants.into_iter().partition(is_readable);
        planned.excluded = excluded.iter().filter(|it| it.address.is_some()).count();
        planned.not_valid = others.iter().filter(|it| it.address.is_some()).count();
        let ids: Vec<_> = readable.iter().map(|grant| grant.id.clone()).collect();
        let records = self.pipeline.ledger.mailbox_records(&ids).await?;
        let sends = stream::iter(readable).map(async |grant| {
            let record = records.get(&grant.id).cloned().unwrap_or_default();
            let unparked = record.parked.len();
            self.queue_mailbox(schedule, run_id, &grant, record, invocation.now)
                .await
                .map(|()| unparked)
        });
        let unparked: Vec<usize> = sends.buffered(SENDS).try_collect().await?;
        planned.mailboxes = unparked.len();
        planned.unparked = unparked.iter().sum();
        tracing::info!(?planned, "backfill planned");
        Ok(planned)
    }

    async fn queue_mailbox(
        &self,
        schedule: &Schedule,
        run_id: RunId,
        grant: &Grant,
        record: MailboxRecord,
        now: DateTime<Utc>,
    ) -> Result<(), BackfillError> {
        for parked in record.parked {
            // In this order: if the process dies between the two, the task is queued twice, and the
            // second delivery finds it finished.
            self.queue_body(parked.clone()).await?;
            self.pipeline.ledger.unpark(&grant.id, &parked).await?;
        }
        let received_after = schedule.received_after(record.watermark);
        // A late or repeated run covers only the time up to which it was scheduled.
        let now = schedule.time.min(now);
        let task = Task::new(run_id, schedule.kind(), grant, received_after, now);
        self.queue_body(task.to_body()).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schedule_event_has_a_time_and_may_name_a_number_of_days() {
        let event = |detail: Value| json!({"source": "aws.scheduler", "time": "2026-11-20T06:00:00Z", "detail": detail});
        for detail in [json!("{}"), json!({}), Value::Null] {
            let schedule = Schedule::from_event(&event(detail)).unwrap();
            assert_eq!(schedule.time.timestamp(), 1_795_154_400);
            assert_eq!(schedule.days, None);
        }
        let daily = Schedule::from_event(&event(json!({"days": 7}))).unwrap();
        assert_eq!(daily.days, Some(7));
        for days in [json!(0), json!("7"), json!(1.5), json!(99_999)] {
            assert!(Schedule::from_event(&event(json!({ "days": days }))).is_err());
        }
        for time in [
            "-262143-01-01T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "soon",
            "",
        ] {
            let event = json!({"source": "aws.scheduler", "time": time});
            assert!(Schedule::from_event(&event).is_err(), "{time}");
        }
        assert!(Schedule::from_event(&json!({"source": "aws.scheduler"})).is_err());
    }

    #[test]
    fn listing_starts_before_the_watermark_or_one_day_back_without_one() {
        let now = 1_795_154_400;
        let time = DateTime::from_timestamp(now, 0).unwrap();
        let recent = Schedule { time, days: None };
        assert_eq!(recent.received_after(None), now - 86_400 - 1);
        let watermark = time - TimeDelta::days(30);
        assert_eq!(
            recent.received_after(Some(watermark)),
            watermark.timestamp() - 7_200 - 1,
            "after an outage of a month, the list begins at the watermark"
        );
        assert_eq!(
            recent.received_after(Some(time + TimeDelta::hours(9))),
            now - 7_200 - 1,
            "a late run covers its own window"
        );
        let days = Some(7);
        let daily = Schedule { time, days };
        assert_eq!(daily.received_after(Some(time)), now - 604_800 - 1);
        assert_eq!(daily.received_after(None), now - 604_800 - 1);
        assert_eq!(
            daily.received_after(Some(watermark)),
            watermark.timestamp() - 7_200 - 1,
            "a gap longer than the number of days is covered"
        );
    }
}
