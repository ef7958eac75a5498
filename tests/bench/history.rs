//! History: invocations that list mailboxes page by page and take each through the pipeline. This plays the queue between them: what is left of a page is
//! brought again when it is worth it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use mailverse::ids::GrantId;
use mailverse::message::Message;
use mailverse::nylas::{Filter, Headers};
use mailverse::pipeline::{Fate, Pipeline, Run, Work};
use mailverse::queue::SyncQueue;
use mailverse::sync_request::{SyncRequest, Trigger};

use crate::company::{Company, MAILBOXES, WARM_UP, mailbox, pass};

/// Invocations at the same time.
const INVOCATIONS: usize = 3;

/// Messages a page, as before one has its fill of bodies.
const PAGE: u32 = 200;

/// Mailboxes that were begun, in any phase: each is worked through once.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// What history came to after the warm-up.
#[derive(Default)]
pub(crate) struct Worked {
    /// For how long it was measured.
    pub(crate) time: Duration,
    /// Operations that Dataverse ran for everybody.
    pub(crate) operations: u64,
    /// Messages that history saw through.
    pub(crate) messages: usize,
    /// Messages that had to wait, warm-up included.
    pub(crate) postponed: usize,
}

/// Works for so long, after the warm-up.
pub(crate) async fn run(company: &Company, time: Duration) -> Worked {
    let begun = Instant::now() + WARM_UP;
    let end = begun + time;
    let invocations = (0..INVOCATIONS).map(|_| invocation(company, begun, end));
    let measured = async {
        pass(WARM_UP).await;
        let before = company.operations();
        pass(time).await;
        company.operations() - before
    };
    let invocations = futures_util::future::join_all(invocations);
    let (operations, invocations) = tokio::join!(measured, invocations);
    let mut worked = Worked {
        time,
        operations,
        ..Worked::default()
    };
    for (messages, postponed) in invocations {
        worked.messages += messages;
        worked.postponed += postponed;
    }
    worked
}

async fn invocation(company: &Company, begun: Instant, end: Instant) -> (usize, usize) {
    let pipeline = company.pipeline();
    let (mut messages, mut postponed) = (0, 0);
    while Instant::now() < end {
        let number = BEGUN.fetch_add(1, Ordering::Relaxed);
        assert!(number < MAILBOXES, "history has run out of mail");
        let grant: GrantId = mailbox(number).parse().unwrap();
        let mut cursor = None;
        let everything = Filter::default();
        while Instant::now() < end {
            let page = pipeline.nylas.messages(
                &grant,
                &everything,
                cursor.as_deref(),
                Headers::Basic,
                PAGE,
            );
            let page = page.await.unwrap();
            let mut work: Vec<Work> = page.messages.into_iter().map(in_hand).collect();
            while !work.is_empty() && Instant::now() < end {
                let (left, not_before) = bring(
                    company,
                    &pipeline,
                    work,
                    begun..end,
                    &mut messages,
                    &mut postponed,
                )
                .await;
                work = left;
                pass(not_before).await;
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
    }
    (messages, postponed)
}

/// Brings a page as far as it goes; what is left of it, and after how long.
async fn bring(
    company: &Company,
    pipeline: &Pipeline,
    work: Vec<Work>,
    measured: std::ops::Range<Instant>,
    messages: &mut usize,
    postponed: &mut usize,
) -> (Vec<Work>, Duration) {
    // What is begun before the end has time enough; after it, nothing is begun.
    let begin = || {
        let is_over = Instant::now() >= measured.end;
        Run::begin(Utc::now() + TimeDelta::minutes(if is_over { 0 } else { 2 }))
    };
    let page = Box::pin(pipeline.history(work, &company.queue, &begin)).await;
    for handled in &page.handled {
        if let Fate::Waiting { delay, reason, .. } = &handled.fate {
            *postponed += 1;
            println!("postponed: {reason}");
            let request = SyncRequest {
                key: handled.key.clone(),
                trigger: Trigger::Backfill,
            };
            company.queue.send(&request, *delay).await.unwrap();
        } else if measured.contains(&Instant::now()) {
            *messages += 1;
        }
    }
    let Some(left) = page.left else {
        return (Vec::new(), Duration::ZERO);
    };
    let wait = (left.not_before - Utc::now()).to_std().unwrap_or_default();
    (left.work, wait)
}

fn in_hand(message: Message) -> Work {
    let request = SyncRequest {
        key: message.key.clone(),
        trigger: Trigger::Backfill,
    };
    Work {
        request,
        message: Some(message),
        receive_count: 1,
    }
}
