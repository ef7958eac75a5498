//! Checks the state and status of a row (Dataverse facts §2.2 and §3).
//!
//! | Sent                               | Answer                                  |
//! | ---------------------------------- | --------------------------------------- |
//! | POST with a status of another state than the first | 400 / 0x80048408        |
//! | PATCH with a matching pair         | accepted                                |
//! | PATCH with only a state            | accepted, with the state's default status |
//! | PATCH with only a status           | accepted if it belongs to the current state, else 400 / 0x80048408 |
//!
//! A state in a POST does not reach this module: the column is not valid for create and is dropped
//! earlier.

use uuid::Uuid;

use super::refusal::Refusal;
use super::schema::Table;

/// State and status, in this order.
pub(crate) type Pair = (i64, i64);

/// Returns the pair of a new row, or `None` if the table has no states.
pub(crate) fn on_create(
    table: &Table,
    status: Option<i64>,
    id: Uuid,
) -> Result<Option<Pair>, Refusal> {
    let Some((&state, &default)) = table.states.first_key_value() else {
        return Ok(None);
    };
    let status = status.unwrap_or(default);
    check(table, (state, status), id).map(Some)
}

/// Returns the pair after a change, or `None` if the change has neither state nor status.
pub(crate) fn on_update(
    table: &Table,
    current_state: i64,
    asked: (Option<i64>, Option<i64>),
    id: Uuid,
) -> Result<Option<Pair>, Refusal> {
    let pair = match asked {
        (None, None) => return Ok(None),
        (Some(state), Some(status)) => (state, status),
        (Some(state), None) => (state, table.states.get(&state).copied().unwrap_or_default()),
        (None, Some(status)) => (current_state, status),
    };
    check(table, pair, id).map(Some)
}

fn check(table: &Table, (state, status): Pair, id: Uuid) -> Result<Pair, Refusal> {
    if table.statuses.get(&status) == Some(&state) {
        return Ok((state, status));
    }
    Err(Refusal::status(&table.name, status, state, id))
}

#[cfg(test)]
mod tests {
    use super::super::schema::Schema;
    use super::*;

    fn email(test: impl Fn(&Table)) {
        let schema = Schema::load().unwrap();
        test(schema.table("email").unwrap());
    }

    #[test]
    fn an_email_is_always_created_open() {
        email(|table| {
            assert_eq!(on_create(table, None, Uuid::nil()).unwrap(), Some((0, 1)));
            assert_eq!(
                on_create(table, Some(8), Uuid::nil()).unwrap(),
                Some((0, 8))
            );
            for status in 2..=7 {
                assert_eq!(
                    on_create(table, Some(status), Uuid::nil())
                        .unwrap_err()
                        .code,
                    "0x80048408",
                    "{status}"
                );
            }
        });
    }

    #[test]
    fn a_state_without_a_status_sets_the_default_status() {
        email(|table| {
            for (state, status) in [(0, 1), (1, 2), (2, 5)] {
                let pair = on_update(table, 0, (Some(state), None), Uuid::nil()).unwrap();
                assert_eq!(pair, Some((state, status)));
            }
        });
    }

    #[test]
    fn a_status_without_a_state_cannot_change_the_state() {
        email(|table| {
            assert_eq!(
                on_update(table, 0, (None, Some(8)), Uuid::nil()).unwrap(),
                Some((0, 8))
            );
            assert_eq!(
                on_update(table, 0, (None, Some(4)), Uuid::nil())
                    .unwrap_err()
                    .code,
                "0x80048408"
            );
        });
    }

    #[test]
    fn a_state_and_a_status_must_match() {
        email(|table| {
            assert_eq!(
                on_update(table, 0, (Some(1), Some(4)), Uuid::nil()).unwrap(),
                Some((1, 4))
            );
            assert_eq!(
                on_update(table, 0, (Some(1), Some(5)), Uuid::nil())
                    .unwrap_err()
                    .code,
                "0x80048408"
            );
        });
    }
}
