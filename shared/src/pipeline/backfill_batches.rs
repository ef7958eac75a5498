//! Backfill: runs a page of listed messages through the pipeline, within the rate limit of the
//! [governor](crate::rate_limit).
//!
//! The page is divided into batches, each with its own claims, and several run at the same time. A
//! batch begins when a user has free capacity; until then, the running batches continue. If no
//! batch is running, the page waits for its turn if that is near ([`NEAR`]); otherwise it stops,
//! and the caller brings the rest again later.
//!
//! This is the only place that waits for time to pass. A page that is brought again has to be
//! listed again, and when several invocations use up a rate limit together, each of them would stop
//! after every other batch.

use std::pin::pin;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

use super::application_users::Admitted;
use super::claim::once_each;
use super::invocation::{Delivery, Invocation};
use super::processed::Processed;
use super::{BatchReport, Pipeline};
use crate::clients::aws::queue::SyncQueue;
use crate::ledger::LEASE;

/// The weight of a message with attachments, in messages without. Its files are fetched and sent
/// one by one, and the batch has to end before its claims expire.
const WITH_FILES: usize = 10;

/// The longest time that a page waits for its turn: about what a batch of another invocation has
/// reserved.
pub const NEAR: TimeDelta = TimeDelta::seconds(4);

/// The result of processing a page.
pub struct Page {
    /// Each message that was started, once.
    pub processed: Vec<Processed>,
    /// The messages that were not started; `None` if all were.
    pub left: Option<Remaining>,
}

/// The rest of a page.
pub struct Remaining {
    /// The messages, unclaimed and unchanged.
    pub deliveries: Vec<Delivery>,
    /// The earliest time to bring them again: the rate limit is used up until then, live mail is
    /// waiting, Dataverse is paused, or (then it is the current time) the invocation is nearly
    /// over.
    pub not_before: DateTime<Utc>,
}

impl Pipeline {
    /// Processes as many messages of a page as possible now: after live mail, which waits in
    /// `queue`, and within the rate limit.
    ///
    /// `begin` returns the time and randomness for each batch.
    pub async fn backfill_page<Q: SyncQueue>(
        &self,
        deliveries: Vec<Delivery>,
        queue: &Q,
        begin: &impl Fn() -> Invocation,
    ) -> Page {
        // Reversed, so that batches are split off the end in the order of the page.
        let mut rest = once_each(deliveries);
        rest.reverse();
        let mut processed = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut concurrency = 1;
        let mut not_before = None;
        let mut waited_at = None;
        while !rest.is_empty() {
            let mut invocation = begin();
            let free_at = if invocation.is_nearly_over() || under_way.len() >= concurrency {
                None
            } else {
                let admission = self.admit(rest.len(), queue, invocation.now);
                match alongside(admission, &mut under_way, &mut processed).await {
                    Ok(admitted) => {
                        concurrency = admitted.concurrency;
                        invocation.application_user = admitted.application_user;
                        invocation.deadline = invocation.deadline.min(invocation.now + LEASE);
                        let batch = rest.split_off(rest.len() - how_many(&rest, admitted.size));
                        under_way.push(self.batch(batch, invocation, admitted));
                        continue;
                    }
                    Err(until) => Some(until),
                }
            };
            if under_way.is_empty() {
                let turn = free_at.filter(|until| *until - invocation.now <= NEAR);
                // A clock that does not advance, as in tests, means: do not wait again.
                let Some(turn) = turn.filter(|_| waited_at < Some(invocation.now)) else {
                    not_before = Some(free_at.unwrap_or(invocation.now));
                    break;
                };
                waited_at = Some(invocation.now);
                wait_until(turn, invocation.now).await;
                continue;
            }
            let finished = under_way.next();
            let finished =
                match free_at.map(|until| (until - invocation.now).to_std().unwrap_or_default()) {
                    // Until a batch ends or the time is reached, whichever comes first.
                    Some(wait) => tokio::time::timeout(wait, finished).await.ok().flatten(),
                    None => finished.await,
                };
            processed.extend(finished.into_iter().flatten());
        }
        while let Some(done) = under_way.next().await {
            processed.extend(done);
        }
        rest.reverse();
        Page {
            processed,
            left: not_before.map(|not_before| Remaining {
                deliveries: rest,
                not_before,
            }),
        }
    }

    async fn batch(
        &self,
        mut deliveries: Vec<Delivery>,
        invocation: Invocation,
        admitted: Admitted,
    ) -> Vec<Processed> {
        deliveries.reverse();
        // Boxed, because several batches run in one invocation.
        let process_reserved =
            Box::pin(self.process_reserved(deliveries, &invocation, &admitted.reserved));
        let BatchReport {
            processed, usage, ..
        } = process_reserved.await;
        self.adapt(usage, &invocation);
        processed
    }
}

async fn wait_until(turn: DateTime<Utc>, now: DateTime<Utc>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is not a retry: the page waits for its turn, which is cheaper than listing it again"
    )]
    tokio::time::sleep((turn - now).to_std().unwrap_or_default()).await;
}

/// Awaits `one` while the others continue, and collects the results of those that finish.
async fn alongside<T>(
    one: impl Future<Output = T>,
    others: &mut FuturesUnordered<impl Future<Output = Vec<Processed>>>,
    processed: &mut Vec<Processed>,
) -> T {
    let mut one = pin!(one);
    while !others.is_empty() {
        match select(one.as_mut(), others.next()).await {
            Either::Left((answer, _)) => return answer,
            Either::Right((done, _)) => processed.extend(done.into_iter().flatten()),
        }
    }
    one.await
}

/// Returns how many messages from the end, at least one, form a batch of this size.
fn how_many(rest: &[Delivery], size: usize) -> usize {
    let mut room = size;
    let fitting = rest.iter().rev().take_while(|deliveries| {
        let message = deliveries.message.as_ref();
        let has_files = message.is_some_and(|message| !message.attachments.is_empty());
        let weight = if has_files { WITH_FILES } else { 1 };
        let fits = weight <= room;
        room = room.saturating_sub(weight);
        fits
    });
    fitting.count().max(1)
}
