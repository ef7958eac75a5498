//! What happens after a failed call, in one place.
//!
//! The queue is the only retry loop. No client of Dataverse, Nylas or Entra repeats a call and nothing sleeps: a failure
//! carries a [`RetryAdvice`], [`redelivery_delay`] turns it into a delay, and the worker asks the queue to hide the
//! message for that long. (The AWS SDK repeats its own calls a few times within milliseconds; all of ours are safe to repeat.)
//!
//! | Failure | Advice | Then |
//! | --- | --- | --- |
//! | 429 with `Retry-After: n` | `Postpone(n s)` | hidden for at least n s; a pause for all workers with that user of Dataverse, or for that mailbox of Nylas |
//! | 429 without the header | `Postpone(30 s)` | the same |
//! | whatever of the same run comes after a Dataverse 429 or 401 | the same | goes back without another request |
//! | a pause that another worker was told | `Postpone(rest of it)` | goes back untouched |
//! | the invocation's time is nearly over | `Postpone(30 s)` | what was not begun goes back untouched |
//! | 5xx, time-out, connection lost, unreadable answer | `Soon` | hidden for the backoff step |
//! | Dataverse says that a row changed, went or came | `Soon` | the next try looks everything up again |
//! | Dataverse 401 | `Soon` | the cached token is dropped; the next try reads the stored one |
//! | no token: none stored yet, the stored one refused, the store does not answer | `Postpone(5 min)` | goes back untouched |
//! | a refusal that concerns everybody ([`crate::refusal`]): disabled user, missing privilege, licence, API key; of one mailbox: nobody signed in, missing scopes | `Postpone(the pause)` | a pause for all workers; then one message goes as a probe |
//! | a refusal of which that is not known yet | `Soon` | hidden for the backoff step |
//! | another worker holds the claim | `Postpone(rest of its lease)` | looked at again then |
//! | 400, 403, 413 for one message while others get through, unmappable mail | `Never` | settled `dead` with the code; the message is acknowledged |
//! | the ledger does not answer | `Postpone(30 s)` | goes back untouched |
//!
//! After [`RECEIVE_LIMIT`] failures a message that could still be retried is settled `dead` too, and the queue moves it to
//! its dead-letter queue, from where an operator sends it again. The ledger counts the failures. The queue counts deliveries, and
//! a postponed one says nothing against the message: if it is the last one, the worker queues the message again, and however
//! long Dataverse throttles, it costs no mail.

use std::time::Duration;

/// How often the sync queue delivers a message before it moves it to the dead-letter queue, and after how
/// many failures a message is given up.
///
/// Equals `maxReceiveCount` in `template.yaml`; a test compares the two.
pub const RECEIVE_LIMIT: u32 = 10;

/// First step of the backoff.
pub const FIRST_STEP: Duration = Duration::from_secs(30);

/// Each step of the backoff is so many times the one before.
///
/// Nine steps span two days: a credential that expires on a Friday evening costs no message before somebody is back.
/// What recovers earlier is not kept waiting, because the scheduled backfill takes up whatever the ledger says is free.
const GROWTH: u32 = 4;

/// Longest time for which a message is hidden: a quarter of an hour less than the 12 hours that SQS allows.
///
/// SQS counts its 12 hours from the delivery and refuses a longer total; by the time that a message is hidden, some of them have passed.
/// Source: Amazon SQS Developer Guide, "Amazon SQS visibility timeout".
pub const LONGEST_HIDE: Duration = Duration::from_secs(12 * 60 * 60 - 15 * 60);

/// Whether, and when, a failed call is worth repeating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAdvice {
    /// The same call will fail again.
    Never,
    /// Not before this time has passed.
    After(Duration),
    /// Not before this time has passed, and for no fault of the message: the delivery does not count.
    Postpone(Duration),
    /// At the next step of the backoff.
    Soon,
}

/// How long the queue should hide a message before its next delivery.
///
/// `failures` is how many tries failed, this one included: 1 at the first failure. A postponed try
/// is none. `jitter_percent` (0 to 25, drawn by the caller) only ever lengthens the delay, so that a
/// `Retry-After` value is never undercut.
///
/// Returns `None` for [`RetryAdvice::Never`].
#[must_use]
pub fn redelivery_delay(
    advice: RetryAdvice,
    failures: u32,
    jitter_percent: u32,
) -> Option<Duration> {
    let base = match advice {
        RetryAdvice::Never => return None,
        RetryAdvice::After(wait) | RetryAdvice::Postpone(wait) => wait.min(LONGEST_HIDE),
        RetryAdvice::Soon => {
            let steps = failures.saturating_sub(1).min(10);
            FIRST_STEP
                .saturating_mul(GROWTH.pow(steps))
                .min(LONGEST_HIDE)
        }
    };
    let jitter = base.saturating_mul(jitter_percent.min(25)) / 100;
    Some((base + jitter).min(LONGEST_HIDE))
}

/// Reads a `Retry-After` header: whole seconds. A date, a fraction or anything else counts as absent.
///
/// Source: Dataverse facts §11.1 and Nylas facts §14; both send seconds.
#[must_use]
pub fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(reqwest::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_succeed_is_not_delivered_again() {
        assert_eq!(redelivery_delay(RetryAdvice::Never, 1, 0), None);
    }

    #[test]
    fn retry_after_is_a_floor() {
        for jitter in [0, 10, 25, 99] {
            let delay =
                redelivery_delay(RetryAdvice::After(Duration::from_secs(40)), 3, jitter).unwrap();
            assert!(
                delay >= Duration::from_secs(40) && delay <= Duration::from_secs(50),
                "{delay:?}"
            );
        }
    }

    #[test]
    fn the_backoff_grows_to_half_a_day_and_spans_a_weekend() {
        let steps: Vec<u64> = (1..=9)
            .map(|n| redelivery_delay(RetryAdvice::Soon, n, 0).unwrap().as_secs())
            .collect();
        assert!(steps.iter().sum::<u64>() > 45 * 3_600);
        assert_eq!(
            steps,
            [30, 120, 480, 1_920, 7_680, 30_720, 42_300, 42_300, 42_300]
        );
        assert_eq!(
            redelivery_delay(RetryAdvice::Soon, u32::MAX, 0),
            Some(Duration::from_secs(42_300))
        );
    }

    #[test]
    fn nothing_is_hidden_for_longer_than_the_queue_can() {
        let delay = redelivery_delay(RetryAdvice::After(Duration::from_secs(1_000_000)), 1, 25);
        assert_eq!(delay, Some(Duration::from_secs(42_300)));
    }

    #[test]
    fn only_whole_seconds_are_read_from_retry_after() {
        let read = |value: &str| {
            let mut headers = reqwest::header::HeaderMap::new();
            headers.insert(reqwest::header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("17"), Some(Duration::from_secs(17)));
        assert_eq!(read("-1"), None);
        assert_eq!(read("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(retry_after(&reqwest::header::HeaderMap::new()), None);
    }
}
