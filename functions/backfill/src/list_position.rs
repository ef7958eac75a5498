//! Computes the position of a task in the lists of its mailbox, and the position after a page.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::backfill_runs::Position;

use crate::task::Task;

/// The age at which a cursor is no longer used.
const CURSOR_LIVES: TimeDelta = TimeDelta::hours(24);

/// A restarted list begins this many seconds after the newest message of the last settled page.
const STEP_BACK: i64 = 24 * 60 * 60;

/// A part of a mailbox that one list covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// `None` for the first part, with which every task begins.
    pub(crate) name: Option<String>,
    pub(crate) folder: Option<String>,
    pub(crate) query_imap: bool,
}

/// Returns the part of a position and the name of the part after it. If a folder was deleted in the
/// meantime, the next part takes its place.
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

/// Returns the position after a page.
pub(crate) fn advanced(
    position: &Position,
    next_cursor: Option<String>,
    next_part: Option<String>,
    newest: Option<i64>,
    now: DateTime<Utc>,
) -> Position {
    match (next_cursor, next_part) {
        (Some(cursor), _) => Position {
            cursor: Some((cursor, now)),
            reached: position.reached.into_iter().chain(newest).min(),
            ..position.clone()
        },
        (None, Some(part)) => Position {
            part: Some(part),
            ..Position::default()
        },
        (None, None) => Position {
            cursor: None,
            reached: position.reached.into_iter().chain(newest).min(),
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

/// Makes the list start again, just above the settled messages.
pub(crate) fn forget_cursor(position: &mut Position, task: &Task) {
    position.cursor = None;
    let below = position
        .reached
        .map(|reached| reached.saturating_add(STEP_BACK));
    position.before = task.received_before.into_iter().chain(below).min();
}

#[cfg(test)]
mod tests {
    use mailverse::clients::nylas::wire;
    use serde_json::json;

    use super::*;
    use crate::task::Kind;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn part(name: Option<&str>) -> Part {
        Part {
            name: name.map(str::to_owned),
            folder: None,
            query_imap: name.is_some(),
        }
    }

    fn task(received_before: Option<i64>) -> Task {
        let grant = wire::grant(&json!({"id": "g", "provider": "imap"})).unwrap();
        let run_id = "11111111-2222-4333-8444-555555555555".parse().unwrap();
        Task {
            received_before,
            ..Task::new(run_id, Kind::History, &grant, 0, at(0))
        }
    }

    #[test]
    fn parts_are_listed_in_order_and_a_removed_folder_is_skipped() {
        let parts = [part(None), part(Some("b")), part(Some("d"))];
        for (name, found, next) in [
            (None, None, Some("b")),
            (Some("b"), Some("b"), Some("d")),
            (Some("c"), Some("d"), None),
            (Some("d"), Some("d"), None),
            (Some("e"), Some("d"), None),
        ] {
            let (part, after) = part_at(&parts, name);
            assert_eq!(
                (part.name.as_deref(), after.as_deref()),
                (found, next),
                "{name:?}"
            );
        }
        assert_eq!(part_at(&[], None), (&part(None), None));
    }

    #[test]
    fn a_position_never_moves_back_within_its_part_and_a_new_part_starts_over() {
        let first = advanced(
            &Position::default(),
            Some("c1".to_owned()),
            None,
            Some(50),
            at(1),
        );
        assert_eq!(
            (first.reached, first.cursor.clone()),
            (Some(50), Some(("c1".to_owned(), at(1))))
        );
        // Lists are not strictly ordered, and a page may have no dates at all.
        for (newest, expected) in [(Some(60), 50), (Some(40), 40), (None, 50)] {
            let second = advanced(&first, Some("c2".to_owned()), None, newest, at(2));
            assert_eq!(second.reached, Some(expected));
        }
        let next_part = advanced(&first, None, Some("b".to_owned()), Some(10), at(3));
        let expected = Position {
            part: Some("b".to_owned()),
            ..Position::default()
        };
        assert_eq!(next_part, expected);
        assert_eq!(advanced(&first, None, None, Some(10), at(3)).cursor, None);
    }

    #[test]
    fn listing_without_a_cursor_restarts_one_day_later_but_within_the_requested_range() {
        let old = Position {
            cursor: Some(("c".to_owned(), at(0))),
            reached: Some(1_000_000),
            ..Position::default()
        };
        let a_day = 24 * 60 * 60;
        let mut position = old.clone();
        forget_old_cursor(&mut position, &task(None), at(a_day));
        assert_eq!(position, old, "a cursor of exactly one day is still used");
        forget_old_cursor(&mut position, &task(None), at(a_day + 1));
        assert_eq!(
            (position.cursor, position.before),
            (None, Some(1_000_000 + a_day))
        );
        let mut bounded = old;
        forget_cursor(&mut bounded, &task(Some(1_000_100)));
        assert_eq!(bounded.before, Some(1_000_100));
        let mut nothing_settled = Position::default();
        forget_cursor(&mut nothing_settled, &task(None));
        assert_eq!(nothing_settled.before, None);
    }
}
