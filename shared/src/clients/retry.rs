//! Decides what happens after a failed call, in one place.
//!
//! The queue is the only retry loop. The clients of Dataverse, Nylas and Entra make one attempt per
//! call, and nothing sleeps. A failure has a [`RetryAdvice`], [`redelivery_delay`] turns it into a
//! delay, and the worker asks the queue to hide the message for that long. (The AWS SDK repeats its
//! own calls a few times within milliseconds; all of ours are safe to repeat.)
//!
//! | Failure | Advice | Then |
//! | --- | --- | --- |
//! | 429 with `Retry-After: n` | `Postpone(n s)` | hidden for at least n s; a pause for all workers that use the same Dataverse user, or for that Nylas mailbox |
//! | 429 without the header | `Postpone(30 s)` | the same |
//! | any later call of the same invocation after a Dataverse 429 or 401 | the same | returned to the queue without another request |
//! | a pause that another worker stored | `Postpone(rest of it)` | returned to the queue untouched |
//! | the invocation's time is nearly over | `Postpone(30 s)` | messages not started yet are returned to the queue untouched |
//! | 5xx, timeout, connection lost, unreadable response | `Soon` | hidden for the current backoff step |
//! | Dataverse reports that a row was changed, deleted or created meanwhile | `Soon` | the next attempt repeats the lookup |
//! | Dataverse 401 | `Soon` | the cached token is dropped; the next attempt reads the stored one |
//! | no token: none stored yet, the stored one was rejected, or the secret store does not answer | `Postpone(5 min)` | returned to the queue untouched |
//! | a rejection that affects every message ([`crate::clients::refusal`]): disabled user, missing privilege, licence, API key; or one mailbox: signed out, missing scopes | `Postpone(the pause)` | a pause for all workers; then one message is sent as a probe |
//! | a rejection that is not yet known to affect every message | `Soon` | hidden for the current backoff step |
//! | another worker holds the claim | `Postpone(rest of its lease)` | tried again then |
//! | 400, 403, 413 for one message while others succeed, or a message that cannot be mapped | `Never` | settled as `dead` with the code; the message is acknowledged |
//! | the ledger does not answer | `Postpone(30 s)` | returned to the queue untouched |
//!
//! After [`RECEIVE_LIMIT`] failures, a message that could still be retried is settled as `dead`
//! too, and the queue moves it to its dead-letter queue. From there an operator can redrive it. The
//! ledger counts failures, the queue counts deliveries. A postponed delivery is not a failure of
//! the message: if it is the last one, the worker queues the message again. So no message is lost,
//! however long Dataverse throttles.

use std::time::Duration;

/// How often the sync queue delivers a message before it moves it to the dead-letter queue, and
/// after how many failures a message is settled as `dead`.
///
/// Equals `maxReceiveCount` in `template.yaml`; a test compares the two.
pub const RECEIVE_LIMIT: u32 = 10;

/// The first step of the backoff.
pub const FIRST_STEP: Duration = Duration::from_secs(30);

/// The factor from one backoff step to the next.
///
/// Nine steps span two days, so that no message is lost if a credential expires on a Friday evening
/// and an operator fixes it after the weekend. If the service recovers earlier, messages do not
/// have to wait, because the scheduled backfill processes every message whose claim the ledger
/// reports as free.
const GROWTH: u32 = 4;

/// The longest time for which a message is hidden: 15 minutes less than the 12 hours of SQS.
///
/// SQS counts its 12 hours from the delivery and rejects a longer total. Part of them has passed by
/// the time a message is hidden. Source: Amazon SQS Developer Guide, "Amazon SQS visibility
/// timeout".
pub(crate) const LONGEST_HIDE: Duration = Duration::from_secs(12 * 60 * 60 - 15 * 60);

/// Whether, and when, a failed call is worth repeating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAdvice {
    /// The same call will fail again.
    Never,
    /// Repeat the call only after this time. The message is not at fault: the delivery does not
    /// count.
    Postpone(Duration),
    /// Repeat the call at the next step of the backoff.
    Soon,
}

/// Returns how long the queue should hide a message before its next delivery, or `None` for
/// [`RetryAdvice::Never`].
///
/// `failures` counts the failed attempts including this one: 1 at the first failure. A postponed
/// attempt is not a failure. `jitter_percent` (0 to 25, drawn by the caller) can only lengthen the
/// delay, so that a `Retry-After` value is never undercut.
#[must_use]
pub fn redelivery_delay(
    advice: RetryAdvice,
    failures: u32,
    jitter_percent: u32,
) -> Option<Duration> {
    let base = match advice {
        RetryAdvice::Never => return None,
        RetryAdvice::Postpone(wait) => wait.min(LONGEST_HIDE),
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

/// Reads a `Retry-After` header in whole seconds. A date, a fraction or anything else counts as
/// absent.
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
    fn a_permanent_failure_is_not_redelivered() {
        assert_eq!(redelivery_delay(RetryAdvice::Never, 1, 0), None);
    }

    #[test]
    fn retry_after_is_a_floor() {
        for jitter in [0, 10, 25, 99] {
            let delay = redelivery_delay(RetryAdvice::Postpone(Duration::from_secs(40)), 3, jitter)
                .unwrap();
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
    fn the_delay_never_exceeds_the_longest_visibility_timeout() {
        let delay = redelivery_delay(RetryAdvice::Postpone(Duration::from_secs(1_000_000)), 1, 25);
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
