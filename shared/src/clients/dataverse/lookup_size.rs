//! Decides how many queries one `$batch` holds: as many as Dataverse recently answered in a few
//! seconds.
//!
//! The operations of a batch run one after another, so its time grows with their number, and an
//! answer that exceeds the timeout is lost as a whole ([`crate::clients::http`]). The size is kept
//! for the life of the process and shared by all clones of a client.
//!
//! | A batch | Size of the next batches |
//! | --- | --- |
//! | took longer than [`TARGET`] | as many queries as would have taken that long |
//! | was full and took less than half of it | twice as many |
//! | had no answer for [`TOO_LONG`] | half as many as it held |

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::DataverseClient;
use super::batch::{BatchPart, MOST_OPERATIONS, gets};
use super::error::DataverseError;
use super::session::Session;

/// How long a batch of queries should take.
const TARGET: Duration = Duration::from_secs(5);

/// A batch without an answer for this long counts as too large. Our HTTP client waits for 15
/// seconds, and a gateway may answer in place of Dataverse before that.
const TOO_LONG: Duration = Duration::from_secs(10);

/// The first size. At 15 ms per query, which is slow for an indexed column, it takes 4.5 seconds.
/// The 15 ms are a guess, since nothing is published.
const FIRST: usize = 300;

/// The number of queries per batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LookupSize {
    size: usize,
}

impl Default for LookupSize {
    fn default() -> Self {
        Self { size: FIRST }
    }
}

impl LookupSize {
    fn took(&mut self, queries: usize, time: Duration) {
        if time > TARGET {
            let share = TARGET.as_secs_f64() / time.as_secs_f64();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share below 1 of at most a thousand"
            )]
            let fitting = (queries as f64 * share) as usize;
            self.size = fitting.max(1);
        } else if queries >= self.size && time < TARGET / 2 {
            self.size = (self.size * 2).min(MOST_OPERATIONS);
        }
    }

    fn timed_out(&mut self, queries: usize) {
        self.size = (queries / 2).max(1);
    }
}

/// The batch size that all clones of a client share.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedLookupSize(Arc<Mutex<LookupSize>>);

impl SharedLookupSize {
    // A panic elsewhere leaves the value consistent: each change is one assignment.
    fn lookup_size(&self) -> MutexGuard<'_, LookupSize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DataverseClient {
    /// Returns how many queries the next batch holds at most.
    #[must_use]
    pub(crate) fn queries_a_batch(&self) -> usize {
        self.lookup_size.lookup_size().size
    }

    /// Sends as many of these queries as one batch should hold now, from the start of the list.
    /// Returns their answers.
    ///
    /// # Errors
    /// [`DataverseError`]. A timeout is also counted in [`Session::timeouts`]: ask for less at a
    /// time.
    pub(crate) async fn first_of<About>(
        &self,
        session: &Session,
        queries: &[(About, String)],
    ) -> Result<Vec<Vec<BatchPart>>, DataverseError> {
        let some = queries.get(..self.queries_a_batch()).unwrap_or(queries);
        let begun = session.now();
        let answers = self.batch(session, &gets(some)).await;
        let time = session.now().saturating_duration_since(begun);
        match &answers {
            Ok(_) => self.lookup_size.lookup_size().took(some.len(), time),
            Err(DataverseError::Unavailable { .. }) if time >= TOO_LONG => {
                self.lookup_size.lookup_size().timed_out(some.len());
                session.note_timeout();
                tracing::warn!(
                    queries = some.len(),
                    duration_ms = time.as_millis(),
                    "dataverse did not answer a batch of queries in time; sending smaller batches from now on"
                );
            }
            Err(_) => {}
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: &[(usize, u64)]) -> usize {
        let mut lookup_size = LookupSize::default();
        for (queries, milliseconds) in steps {
            lookup_size.took(*queries, Duration::from_millis(*milliseconds));
        }
        lookup_size.size
    }

    #[test]
    fn a_slow_batch_shrinks_the_next_one_to_fit_the_target_time() {
        assert_eq!(after(&[(300, 10_000)]), 150);
        assert_eq!(after(&[(30, 10_000)]), 15);
        assert_eq!(after(&[(1, 60_000)]), 1, "at least one query");
    }

    #[test]
    fn a_full_and_fast_batch_doubles_the_next_one_up_to_the_dataverse_limit() {
        assert_eq!(after(&[(300, 100)]), 600);
        assert_eq!(
            after(&[(300, 100), (600, 100), (1_000, 100)]),
            MOST_OPERATIONS
        );
    }

    #[test]
    fn a_small_batch_or_one_near_the_target_does_not_change_the_size() {
        assert_eq!(after(&[(5, 100)]), FIRST);
        assert_eq!(after(&[(300, 4_000)]), FIRST, "near the target");
    }

    #[test]
    fn a_timeout_halves_the_lookup_size() {
        let mut lookup_size = LookupSize::default();
        lookup_size.timed_out(300);
        assert_eq!(lookup_size.size, 150);
        lookup_size.timed_out(1);
        assert_eq!(lookup_size.size, 1);
    }
}
