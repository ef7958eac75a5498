//! Reads outcomes that a test expects, and creates faults that lead to them.

use std::time::Duration;

use emulators::Fault;
use mailverse::pipeline::Outcome;
use uuid::Uuid;

/// Returns the row of a written message, and the note stored with it.
#[track_caller]
pub(crate) fn written(outcome: &Outcome) -> (Uuid, Option<&str>) {
    match outcome {
        Outcome::Written { activity_id, note } => (activity_id.uuid(), note.as_deref()),
        other => panic!("not written: {other:?}"),
    }
}

/// Returns how long a message waits, and why.
#[track_caller]
pub(crate) fn waiting(outcome: &Outcome) -> (Duration, &str) {
    match outcome {
        Outcome::Waiting { delay, reason, .. } => (*delay, reason),
        other => panic!("not waiting: {other:?}"),
    }
}

/// Returns why a message is dead.
#[track_caller]
pub(crate) fn dead(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Dead { reason, .. } => reason,
        other => panic!("not dead: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_skipped(outcome: &Outcome, expected: &str) {
    match outcome {
        Outcome::Skipped { rule } => assert_eq!(rule, expected),
        other => panic!("not skipped: {other:?}"),
    }
}

/// Returns a fault: a response with this status and code.
pub(crate) fn status(status: u16, code: &str) -> Fault {
    Fault::Status {
        status,
        code: code.to_owned(),
        message: "as the test asked".to_owned(),
        retry_after_seconds: None,
    }
}

/// Returns a fault: a 429 with this `Retry-After`, in seconds.
pub(crate) fn throttled(code: &str, seconds: u64) -> Fault {
    Fault::Status {
        status: 429,
        code: code.to_owned(),
        message: "as the test asked".to_owned(),
        retry_after_seconds: Some(seconds),
    }
}
