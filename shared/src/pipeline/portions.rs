//! Divides a batch into portions, so that no message makes the deliveries of other messages fail.
//!
//! | A message that | Goes through the steps |
//! | --- | --- |
//! | is like any other | together with others, as many at a time as fit in memory |
//! | failed [`ALONE_AFTER`] times already | alone, after the others |
//! | was in a portion that panicked, and has no outcome yet | alone, after the others |
//! | panicked alone | not again: the delivery has failed, as after an error |
//!
//! Every step can be repeated (see [`super`]), so a message that is processed again may already
//! have been written. A panic is a bug in this program. Its text may quote the message, so it is
//! dropped here; the log names only the place in the code ([`crate::telemetry::init`]).

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use super::failure::Failure;
use super::invocation::Invocation;
use super::stages::{Finished, PendingMessage};
use crate::model::ids::MessageKey;
use crate::model::message::Message;

/// The number of failures after which a message is processed alone, because it may be what makes
/// the others fail.
const ALONE_AFTER: u32 = 2;

/// Another fetch may begin while the messages in memory are below this size, in bytes.
///
/// Three fetches run at a time, so at most three messages of
/// [`crate::clients::nylas::LARGEST_MESSAGE`] are added to it. While a message is read or written,
/// it is in memory about three times. Measured: `docs/limits.md`.
const FETCH_WHILE_BELOW: usize = 48 * 1024 * 1024;

/// The bytes of the messages that a portion holds or is receiving.
#[derive(Default)]
pub(super) struct MemoryInUse(AtomicUsize);

impl MemoryInUse {
    /// Returns whether another fetch may begin.
    pub(super) fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < FETCH_WHILE_BELOW
    }

    /// Adds a message that a list returned.
    pub(super) fn add(&self, message: &Message) {
        let bytes = message.body.len() + message.snippet.len();
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the counter to which a fetch adds its bytes.
    pub(super) const fn counter(&self) -> &AtomicUsize {
        &self.0
    }
}

/// Jobs that are waiting to be processed.
pub(super) struct Portions {
    waiting: VecDeque<Vec<PendingMessage>>,
    /// Copies of the jobs in the current portion, as they were before it began.
    at_work: Vec<PendingMessage>,
}

impl Portions {
    pub(super) fn of(pending_messages: Vec<PendingMessage>) -> Self {
        let (suspects, together): (Vec<_>, Vec<_>) =
            pending_messages.into_iter().partition(is_suspect);
        let mut waiting = VecDeque::from([together]);
        waiting.extend(suspects.into_iter().map(|pending| vec![pending]));
        Self {
            waiting,
            at_work: Vec::new(),
        }
    }

    /// Returns the next portion; `None` if every job was processed.
    pub(super) fn next(&mut self) -> Option<Vec<PendingMessage>> {
        let portion = std::iter::from_fn(|| self.waiting.pop_front()).find(|it| !it.is_empty())?;
        self.at_work = portion.iter().map(PendingMessage::restarted).collect();
        Some(portion)
    }

    /// Puts back the jobs that did not fit in memory; they are the next portion.
    pub(super) fn put_back(&mut self, rest: Vec<PendingMessage>) {
        self.waiting.push_front(rest);
    }

    /// Handles a panic in the current portion. Jobs without an outcome are queued to be processed
    /// alone. If the portion was a single job, the job has failed.
    pub(super) fn panicked(&mut self, finished: &mut Vec<Finished>, invocation: &Invocation) {
        let at_work = std::mem::take(&mut self.at_work);
        let was_alone = at_work.len() == 1;
        let over: HashSet<&MessageKey> = finished.iter().map(|finished| &finished.key).collect();
        let open = at_work
            .into_iter()
            .filter(|pending| !over.contains(&pending.key));
        let open: Vec<PendingMessage> = open.collect();
        if was_alone {
            finished.extend(
                open.into_iter()
                    .map(|pending| pending.failed(panicked_alone(), invocation)),
            );
        } else {
            tracing::error!(
                messages = open.len(),
                "a message of this portion made the program panic; processing those without an outcome one by one"
            );
            self.waiting
                .extend(open.into_iter().map(|pending| vec![pending]));
        }
    }
}

/// Runs the steps of a portion; `None` if they panicked.
///
/// State shared with later portions stays consistent after a panic: a cache replaces its content as
/// one value, and an outcome is pushed as one value.
pub(super) async fn caught<T>(steps: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(steps).catch_unwind().await.ok()
}

fn is_suspect(pending: &PendingMessage) -> bool {
    pending.attempts.failures >= ALONE_AFTER
}

fn panicked_alone() -> Failure {
    Failure::soon(
        "the program panicked while processing this message, which is a bug in the program",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::ledger::ClaimToken;
    use crate::pipeline::outcome::{Attempts, Outcome};

    fn pending(id: &str, failures: u32) -> PendingMessage {
        PendingMessage {
            key: MessageKey {
                grant_id: "g".parse().unwrap(),
                message_id: id.parse().unwrap(),
            },
            attempts: Attempts {
                failures,
                ..Attempts::first(DateTime::UNIX_EPOCH)
            },
            message: None,
            decision: None,
            made: BTreeSet::new(),
        }
    }

    fn run() -> Invocation {
        Invocation {
            token: ClaimToken::new(Uuid::nil()),
            now: DateTime::UNIX_EPOCH,
            begun: Instant::now(),
            clock: Instant::now,
            deadline: DateTime::UNIX_EPOCH,
            application_user: 0,
            jitter_percent: 0,
        }
    }

    fn id(key: &MessageKey) -> &str {
        key.message_id.as_str()
    }

    fn ids(pending_messages: &[PendingMessage]) -> Vec<String> {
        pending_messages
            .iter()
            .map(|pending| id(&pending.key).to_owned())
            .collect()
    }

    /// Ends a job; `Skipped` represents any outcome.
    fn over(pending: PendingMessage) -> Finished {
        Finished {
            key: pending.key,
            attempts: pending.attempts,
            outcome: Outcome::Skipped {
                rule: "gone".to_owned(),
            },
            refusal: None,
            wrote: false,
            decision: None,
            record: None,
            summary: None,
        }
    }

    /// Runs a step that takes `room` jobs at a time and panics at the job `bad`: on reaching it, or
    /// if `late`, after the other jobs of the portion ended. Returns the portions that the step
    /// received, and the outcome of each message.
    async fn portions(
        pending_messages: Vec<PendingMessage>,
        room: usize,
        bad: &str,
        late: bool,
    ) -> (Vec<Vec<String>>, Vec<Finished>) {
        let (mut seen, mut finished) = (Vec::new(), Vec::new());
        let mut portions = Portions::of(pending_messages);
        while let Some(mut portion) = portions.next() {
            let rest = portion.split_off(room.min(portion.len()));
            seen.push(ids(&portion));
            let steps = async {
                tokio::task::yield_now().await;
                let has_bad = portion.iter().any(|pending| id(&pending.key) == bad);
                for pending in portion {
                    assert!(late || id(&pending.key) != bad, "a private subject");
                    if id(&pending.key) != bad {
                        finished.push(over(pending));
                    }
                }
                assert!(!has_bad, "a private subject");
                rest
            };
            match caught(steps).await {
                Some(rest) => portions.put_back(rest),
                None => portions.panicked(&mut finished, &run()),
            }
        }
        (seen, finished)
    }

    fn all(names: &[&str]) -> Vec<PendingMessage> {
        names.iter().map(|name| pending(name, 0)).collect()
    }

    #[tokio::test]
    async fn messages_that_do_not_fit_are_processed_in_the_next_portion() {
        let (seen, finished) = portions(all(&["a", "b", "c"]), 2, "", false).await;
        assert_eq!(seen, [vec!["a", "b"], vec!["c"]]);
        assert_eq!(finished.len(), 3);
    }

    #[tokio::test]
    async fn a_message_that_failed_twice_is_processed_alone_after_the_others() {
        let pending_messages = vec![
            pending("a", 2),
            pending("b", 1),
            pending("c", 7),
            pending("d", 0),
        ];
        let (seen, _) = portions(pending_messages, 10, "", false).await;
        assert_eq!(seen, [vec!["b", "d"], vec!["a"], vec!["c"]]);
    }

    #[tokio::test]
    async fn a_panic_on_one_message_fails_its_delivery_and_does_not_affect_the_others() {
        for late in [false, true] {
            let (seen, finished) = portions(all(&["a", "b", "c"]), 10, "b", late).await;
            // Jobs that ended before the panic are not processed again.
            let alone: Vec<&str> = seen[1..]
                .iter()
                .map(|portion| portion[0].as_str())
                .collect();
            assert_eq!(alone, if late { vec!["b"] } else { vec!["b", "c"] });
            assert_eq!(finished.len(), 3, "each message has one outcome");
            for Finished { key, outcome, .. } in &finished {
                match outcome {
                    Outcome::Waiting { reason, .. } if id(key) == "b" => {
                        assert!(reason.contains("panicked"), "{reason}");
                        assert!(!reason.contains("private"), "{reason}");
                    }
                    Outcome::Skipped { .. } if id(key) != "b" => {}
                    other => panic!("{key}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn repeated_panics_make_a_message_dead_like_repeated_errors() {
        let last = vec![pending("a", crate::clients::retry::RECEIVE_LIMIT - 1)];
        let (_, finished) = portions(last, 10, "a", false).await;
        assert!(matches!(
            finished[0].outcome,
            Outcome::Dead {
                attempts_exhausted: true,
                ..
            }
        ));
    }

    #[test]
    fn another_fetch_starts_while_memory_use_is_below_the_threshold() {
        let memory = MemoryInUse::default();
        assert!(memory.has_room());
        memory
            .counter()
            .fetch_add(FETCH_WHILE_BELOW - 1, Ordering::Relaxed);
        assert!(memory.has_room());
        memory.counter().fetch_add(1, Ordering::Relaxed);
        assert!(!memory.has_room());
    }
}
