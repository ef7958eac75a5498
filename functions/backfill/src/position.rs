//! Where in a mailbox's lists is a task, and where does it go on?

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::dedupe::runs::Position;

use crate::task::Task;

/// After this long a cursor is not tried any more.
const CURSOR_LIVES: TimeDelta = TimeDelta::hours(24);

/// How far above the oldest settled message a list begins anew, in seconds.
pub(crate) const STEP_BACK: i64 = 24 * 60 * 60;

/// A part of a mailbox that one list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// `None` for the first, in which a list begins.
    pub(crate) name: Option<String>,
    pub(crate) folder: Option<String>,
    pub(crate) query_imap: bool,
}

/// The part that a position is in, and the name of the one after it. A folder that went meanwhile leaves its place to the next one.
pub(crate) fn part_at<'a>(parts: &'a [Part], name: Option<&str>) -> (&'a Part, Option<String>) {
    const NOTHING: &Part = &Part {
        name: None,
        folder: None,
        query_imap: false,
    };
    let at = parts
        .iter()
        .position(|part| part.name.as_deref() >= name)
        .unwrap_or_else(|| parts.len().saturating_sub(1));
    let next = parts.get(at + 1).and_then(|part| part.name.clone());
    (parts.get(at).unwrap_or(NOTHING), next)
}

/// Where the list goes on after a page.
pub(crate) fn advanced(
    position: &Position,
    next_cursor: Option<String>,
    next_part: Option<String>,
    oldest: Option<i64>,
    now: DateTime<Utc>,
) -> Position {
    match (next_cursor, next_part) {
        (Some(cursor), _) => Position {
            cursor: Some((cursor, now)),
            oldest: position.oldest.into_iter().chain(oldest).min(),
            ..position.clone()
        },
        (None, Some(part)) => Position {
            part: Some(part),
            ..Position::default()
        },
        (None, None) => Position {
            cursor: None,
            oldest: position.oldest.into_iter().chain(oldest).min(),
            ..position.clone()
        },
    }
}

pub(crate) fn forget_old_cursor(position: &mut Position, task: &Task, now: DateTime<Utc>) {
    let is_old = |(_, at): &(String, DateTime<Utc>)| *at + CURSOR_LIVES < now;
    if position.cursor.as_ref().is_some_and(is_old) {
        forget_cursor(position, task);
    }
}

/// The list begins anew, below what is settled.
pub(crate) fn forget_cursor(position: &mut Position, task: &Task) {
    position.cursor = None;
    let below = position
        .oldest
        .map(|oldest| oldest.saturating_add(STEP_BACK));
    position.before = task.received_before.into_iter().chain(below).min();
}
