//! Decides what happens to a task that stopped before its last page.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::clients::aws::queue::QueueError;
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::retry::{RECEIVE_LIMIT, RetryAdvice, redelivery_delay};
use mailverse::ledger::messages::LedgerError;

use crate::task::{Kind, Task};

/// Deliveries after which a scheduled task is dropped and left to the next scheduled run.
const SCHEDULED_TRIES: u32 = 3;

/// A mailbox pause longer than this is left to the next scheduled run.
const SHORT_PAUSE: TimeDelta = TimeDelta::minutes(5);

/// Deliveries after which a mailbox that Nylas does not list counts as deleted. They take more than
/// a minute, which is how long a list of mailboxes is cached if a mailbox is missing from it.
const UNLISTED_TRIES: u32 = 3;

/// What happens to the queue message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueAction {
    /// It is acknowledged.
    Done,
    /// It is delivered again after a delay.
    Later {
        /// The delay.
        delay: Duration,
        /// Whether the task is not at fault, so that the delivery does not count.
        postponed: bool,
    },
}

/// Why work on a task stopped before the last page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("the invocation has no time left")]
    NoTime,
    #[error(
        "dataverse asked for a pause, its rate limit is used up, live mail goes first, or no token is available"
    )]
    Paused(DateTime<Utc>),
    #[error("nylas asked for a pause or rejects calls for the mailbox")]
    MailboxPaused(DateTime<Utc>),
    #[error("another worker is listing the mailbox")]
    Busy(DateTime<Utc>),
    #[error("another worker has continued the task")]
    Overtaken,
    #[error(transparent)]
    Nylas(#[from] NylasError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the mailbox has no folder with that name, id or attribute")]
    NoFolder,
    #[error("the mailbox does not take part: the setting MAILBOXES does not include it")]
    Excluded,
    #[error("nylas does not list the mailbox")]
    Unlisted,
}

/// What to do with a task that stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TaskDecision {
    /// The task is queued again as a new message, and this message is acknowledged.
    Again,
    /// Drop it: another worker or the next scheduled run does the work.
    Leave,
    Later(QueueAction),
    Park,
    Fail,
}

/// Decides what to do after a task stopped for the `tries`-th time. Failures of Nylas are counted
/// since the last page, all others by the queue.
///
/// | Reason | A scheduled task | An operator's task |
/// | --- | --- | --- |
/// | no time left | is queued again | the same |
/// | the mailbox is leased to another task | is dropped; the daily one waits | waits |
/// | pause of Dataverse, no token, a 429 | is delayed by that time | the same |
/// | the mailbox is paused | is delayed by that time; is dropped if that is longer than five minutes: the watermark covers it | is delayed by that time |
/// | the user has to sign in, or a scope is missing | is dropped: the watermark covers it | is parked |
/// | Nylas rejects the request, the folder does not exist, or the mailbox does not take part | is dropped | fails |
/// | Nylas does not list the mailbox (yet) | is dropped | is delayed by the backoff, fails after three tries |
/// | anything else | is delayed by the backoff, is dropped after three tries | is delayed by the backoff, moves to the dead-letter queue after ten tries |
pub(crate) fn judge(
    task: &Task,
    task_error: &TaskError,
    tries: u32,
    now: DateTime<Utc>,
) -> TaskDecision {
    let scheduled = task.kind.is_scheduled();
    let postponed = |until: DateTime<Utc>| {
        TaskDecision::Later(QueueAction::Later {
            delay: (until - now).to_std().unwrap_or_default(),
            postponed: true,
        })
    };
    let tired = scheduled && tries >= SCHEDULED_TRIES;
    match task_error {
        TaskError::NoTime => TaskDecision::Again,
        TaskError::Overtaken => TaskDecision::Leave,
        TaskError::Busy(_) if task.kind == Kind::Recent => TaskDecision::Leave,
        TaskError::MailboxPaused(until) if scheduled && *until - now > SHORT_PAUSE => {
            TaskDecision::Leave
        }
        TaskError::Busy(until) | TaskError::Paused(until) | TaskError::MailboxPaused(until) => {
            postponed(*until)
        }
        TaskError::Nylas(NylasError::SignInNeeded { .. } | NylasError::Rejected { .. })
        | TaskError::NoFolder
        | TaskError::Excluded
        | TaskError::Unlisted
            if scheduled =>
        {
            TaskDecision::Leave
        }
        TaskError::Nylas(error) if error.concerns_mailbox() => TaskDecision::Park,
        TaskError::NoFolder | TaskError::Excluded => TaskDecision::Fail,
        TaskError::Unlisted if tries >= UNLISTED_TRIES => TaskDecision::Fail,
        TaskError::Unlisted => TaskDecision::Later(soon(tries)),
        _ if tired => TaskDecision::Leave,
        TaskError::Nylas(error) => match error.retry_advice() {
            RetryAdvice::Never => TaskDecision::Fail,
            RetryAdvice::Postpone(wait) => TaskDecision::Later(QueueAction::Later {
                delay: wait,
                postponed: true,
            }),
            // Counted separately, so that postponed deliveries do not make this the last one.
            RetryAdvice::Soon => TaskDecision::Later(match soon(tries) {
                QueueAction::Later { delay, .. } => QueueAction::Later {
                    delay,
                    postponed: tries < RECEIVE_LIMIT,
                },
                done @ QueueAction::Done => done,
            }),
        },
        TaskError::Ledger(_) | TaskError::Queue(_) => TaskDecision::Later(soon(tries)),
    }
}

pub(crate) fn soon(receive_count: u32) -> QueueAction {
    QueueAction::Later {
        delay: redelivery_delay(RetryAdvice::Soon, receive_count, 0).unwrap_or_default(),
        postponed: false,
    }
}

#[cfg(test)]
mod tests {
    use mailverse::clients::nylas::wire;
    use serde_json::json;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn task(kind: Kind) -> Task {
        let grant = wire::grant(&json!({"id": "g", "provider": "google"})).unwrap();
        let run_id = "11111111-2222-4333-8444-555555555555".parse().unwrap();
        Task::new(run_id, kind, &grant, 0, NOW)
    }

    fn verdicts(task_error: &TaskError, receive_count: u32) -> [TaskDecision; 3] {
        [Kind::Recent, Kind::Days, Kind::History]
            .map(|kind| judge(&task(kind), task_error, receive_count, NOW))
    }

    fn later(seconds: u64, postponed: bool) -> TaskDecision {
        TaskDecision::Later(QueueAction::Later {
            delay: Duration::from_secs(seconds),
            postponed,
        })
    }

    #[test]
    fn a_pause_throttling_or_a_busy_mailbox_does_not_count_as_a_delivery() {
        let until = NOW + TimeDelta::seconds(77);
        let waits = || later(77, true);
        assert_eq!(
            verdicts(&TaskError::Paused(until), 9),
            [waits(), waits(), waits()]
        );
        assert_eq!(
            verdicts(&TaskError::Busy(until), 9),
            [TaskDecision::Leave, waits(), waits()]
        );
        let throttled = NylasError::Throttled {
            retry_after: Some(Duration::from_secs(77)),
        };
        assert_eq!(
            verdicts(&TaskError::Nylas(throttled), 1),
            [waits(), waits(), waits()]
        );
        for end in verdicts(&TaskError::NoTime, 9) {
            assert_eq!(end, TaskDecision::Again);
        }
    }

    #[test]
    fn a_scheduled_task_is_dropped_while_an_operators_task_is_parked_or_fails() {
        use TaskDecision::{Fail, Leave, Park};
        let signed_out = NylasError::SignInNeeded {
            kind: "unauthorized".to_owned(),
        };
        assert_eq!(
            verdicts(&TaskError::Nylas(signed_out), 1),
            [Leave, Leave, Park]
        );
        let refused = NylasError::Rejected {
            status: 404,
            kind: "not_found_error".to_owned(),
        };
        assert_eq!(
            verdicts(&TaskError::Nylas(refused), 1),
            [Leave, Leave, Fail]
        );
        assert_eq!(verdicts(&TaskError::NoFolder, 1), [Leave, Leave, Fail]);
    }

    #[test]
    fn an_excluded_mailbox_is_not_retried_and_an_unlisted_one_is_retried_for_a_while() {
        use TaskDecision::{Fail, Leave};
        assert_eq!(verdicts(&TaskError::Excluded, 1), [Leave, Leave, Fail]);
        let waits = TaskDecision::Later(soon(1));
        assert_eq!(verdicts(&TaskError::Unlisted, 1), [Leave, Leave, waits]);
        let [.., backfill_page] = verdicts(&TaskError::Unlisted, UNLISTED_TRIES);
        assert_eq!(backfill_page, Fail);
        let before: u64 = (1..UNLISTED_TRIES)
            .map(|tries| match soon(tries) {
                QueueAction::Later { delay, .. } => delay.as_secs(),
                QueueAction::Done => panic!("the task is delivered again"),
            })
            .sum();
        assert!(
            before > 60,
            "the tries must outlast the cached list of mailboxes: {before} s"
        );
    }

    #[test]
    fn an_outage_is_tried_three_times_by_the_schedule_and_longer_for_an_operator() {
        let outage = || {
            TaskError::Nylas(NylasError::Unavailable {
                what: "503".to_owned(),
            })
        };
        let after = |tries, postponed| match soon(tries) {
            QueueAction::Later { delay, .. } => {
                TaskDecision::Later(QueueAction::Later { delay, postponed })
            }
            QueueAction::Done => panic!("the task is delivered again"),
        };
        for end in verdicts(&outage(), SCHEDULED_TRIES - 1) {
            assert_eq!(end, after(SCHEDULED_TRIES - 1, true));
        }
        let [recent, days, backfill_page] = verdicts(&outage(), SCHEDULED_TRIES);
        assert_eq!((recent, days), (TaskDecision::Leave, TaskDecision::Leave));
        assert_eq!(backfill_page, after(SCHEDULED_TRIES, true));
        let [.., backfill_page] = verdicts(&outage(), RECEIVE_LIMIT);
        assert_eq!(
            backfill_page,
            after(RECEIVE_LIMIT, false),
            "the tenth failure counts as a delivery"
        );
    }
}
