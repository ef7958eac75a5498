//! History: a page of listed messages through the story, as the [governor](crate::governor) lets it.
//!
//! The page is divided into batches, each with claims of its own, and several are under way at the same time. A batch begins when there is time for it in the
//! budget; until then, the batches that are under way go on. When nothing is under way, the page waits for its turn, if that is near; else it stops, and what is
//! left of it is to be brought again. This is the only place where anything waits for time to pass: a page that is brought again has to be listed again, and when
//! as many invocations share a budget as it has room for, each of them would stop after every other batch.

use std::pin::pin;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

use super::budget::Admitted;
use super::claiming::once_each;
use super::fate::{Run, Work};
use super::handled::Handled;
use super::{Pipeline, Story};
use crate::dedupe::LEASE;
use crate::queue::SyncQueue;

/// A message with files counts for so many without: its files are fetched and sent for themselves, and the batch has to be over before its claims are.
const WITH_FILES: usize = 10;

/// For so long a page waits for its turn: about as long as a batch of somebody else has booked.
pub const NEAR: TimeDelta = TimeDelta::seconds(4);

/// How far a page got.
pub struct Page {
    /// Each message that was begun, once.
    pub handled: Vec<Handled>,
    /// Messages that were not begun, and when it is worth coming again with them; `None` when all were.
    pub left: Option<Left>,
}

/// What is left of a page.
pub struct Left {
    /// The messages, untouched.
    pub work: Vec<Work>,
    /// Not before: the budget is spent until then, live mail waits, Dataverse asked for a pause, or (a moment that is now) the invocation is nearly over.
    pub not_before: DateTime<Utc>,
}

impl Pipeline {
    /// Brings the messages of a page as far as they go now, history's way: after live mail, which waits in `queue`, and within the budget. `begin` draws time and
    /// chance for each batch.
    pub async fn history<Q: SyncQueue>(
        &self,
        work: Vec<Work>,
        queue: &Q,
        begin: &impl Fn() -> Run,
    ) -> Page {
        // From the end, which is the page's beginning.
        let mut rest = once_each(work);
        rest.reverse();
        let mut handled = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut lanes = 1;
        let mut not_before = None;
        let mut waited_at = None;
        while !rest.is_empty() {
            let mut run = begin();
            let free_at = if run.is_nearly_over() || under_way.len() >= lanes {
                None
            } else {
                let admission = self.admit(rest.len(), queue, run.now);
                match alongside(admission, &mut under_way, &mut handled).await {
                    Ok(admitted) => {
                        lanes = admitted.lanes;
                        run.identity = admitted.identity;
                        run.deadline = run.deadline.min(run.now + LEASE);
                        let batch = rest.split_off(rest.len() - how_many(&rest, admitted.size));
                        under_way.push(self.batch(batch, run, admitted));
                        continue;
                    }
                    Err(until) => Some(until),
                }
            };
            if under_way.is_empty() {
                let turn = free_at.filter(|until| *until - run.now <= NEAR);
                // A clock that stands still says that nobody is to wait.
                let Some(turn) = turn.filter(|_| waited_at < Some(run.now)) else {
                    not_before = Some(free_at.unwrap_or(run.now));
                    break;
                };
                waited_at = Some(run.now);
                wait_until(turn, run.now).await;
                continue;
            }
            let ended = under_way.next();
            let ended = match free_at.map(|until| (until - run.now).to_std().unwrap_or_default()) {
                // Whichever is first.
                Some(wait) => tokio::time::timeout(wait, ended).await.ok().flatten(),
                None => ended.await,
            };
            handled.extend(ended.into_iter().flatten());
        }
        while let Some(done) = under_way.next().await {
            handled.extend(done);
        }
        rest.reverse();
        Page {
            handled,
            left: not_before.map(|not_before| Left {
                work: rest,
                not_before,
            }),
        }
    }

    async fn batch(&self, mut work: Vec<Work>, run: Run, admitted: Admitted) -> Vec<Handled> {
        work.reverse();
        // Boxed, because several of them are under way in one invocation.
        let story = Box::pin(self.story(work, &run, &admitted.booked));
        let Story {
            handled, traffic, ..
        } = story.await;
        self.adapt(traffic, &run);
        handled
    }
}

async fn wait_until(turn: DateTime<Utc>, now: DateTime<Utc>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing is tried again here: it waits for its turn, which is cheaper than to list the page again"
    )]
    tokio::time::sleep((turn - now).to_std().unwrap_or_default()).await;
}

/// Waits for the one, while the others go on.
async fn alongside<T>(
    one: impl Future<Output = T>,
    others: &mut FuturesUnordered<impl Future<Output = Vec<Handled>>>,
    handled: &mut Vec<Handled>,
) -> T {
    let mut one = pin!(one);
    while !others.is_empty() {
        match select(one.as_mut(), others.next()).await {
            Either::Left((answer, _)) => return answer,
            Either::Right((done, _)) => handled.extend(done.into_iter().flatten()),
        }
    }
    one.await
}

/// How many messages from the end, at least one, make a batch of this size.
fn how_many(rest: &[Work], size: usize) -> usize {
    let mut room = size;
    let fitting = rest.iter().rev().take_while(|work| {
        let message = work.message.as_ref();
        let has_files = message.is_some_and(|message| !message.attachments.is_empty());
        let weight = if has_files { WITH_FILES } else { 1 };
        let fits = weight <= room;
        room = room.saturating_sub(weight);
        fits
    });
    fitting.count().max(1)
}
