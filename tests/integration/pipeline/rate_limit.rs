//! Tests that backfill and live mail share one rate limit for each application user.
//!
//! The clock of the services is stopped and advances by the time that calls take.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use emulators::{Clock, Setting};
use mailverse::clients::aws::queue::{MemoryQueue, SyncQueue};
use mailverse::clients::nylas::{Filter, Headers};
use mailverse::ledger::{ClaimToken, State};
use mailverse::model::sync_request::Trigger;
use mailverse::pipeline::backfill_batches::Page;
use mailverse::pipeline::{Delivery, Invocation, Pipeline};
use mailverse::rate_limit::{ApplicationUser, Limits, Reservation};
use serde_json::json;
use uuid::Uuid;

use crate::test_organisation::{
    ADA, CREATE, TestOrganisation, key, nylas_message, throttled, waiting, work, written,
};

fn page(organisation: &TestOrganisation, messages: usize) -> Vec<Delivery> {
    let message = |n| {
        let id = format!("m{n}");
        organisation.put(ADA, nylas_message(&id, &json!({})));
        work(ADA, &id, Trigger::Backfill, 1)
    };
    (0..messages).map(message).collect()
}

async fn backfill_page(pipeline: &Pipeline, work: Vec<Delivery>, run: Invocation) -> Page {
    let queue = MemoryQueue::default();
    pipeline.backfill_page(work, &queue, &|| run).await
}

thread_local! {
    /// The stopped clock of a test's services, its time when it was stopped, and the machine's
    /// instant at that time. Each test runs in its own thread.
    static CLOCK: OnceCell<(Clock, DateTime<Utc>, Instant)> = const { OnceCell::new() };
}

fn by_the_services_clock() -> Instant {
    CLOCK.with(|clock| {
        let (clock, then, instant) = clock.get().unwrap();
        *instant + (clock.now() - *then).to_std().unwrap()
    })
}

/// Stops the clock of the services. From then on each request advances it by 30 ms, and each
/// operation by `operation_ms`.
fn stop_clock(organisation: &TestOrganisation, operation_ms: u64) -> Clock {
    for setting in [
        Setting::OperationMilliseconds(operation_ms),
        Setting::NetworkMilliseconds(30),
    ] {
        organisation.emulators.dataverse().set_setting(setting);
    }
    let clock = organisation.emulators.clock().clone();
    clock.stop();
    let stopped = (clock.clone(), clock.now(), Instant::now());
    CLOCK.with(|one| assert!(one.set(stopped).is_ok()));
    clock
}

fn begin_by(clock: &Clock) -> Invocation {
    Invocation {
        token: ClaimToken::new(Uuid::new_v4()),
        now: clock.now(),
        begun: by_the_services_clock(),
        clock: by_the_services_clock,
        deadline: clock.now() + TimeDelta::hours(1),
        application_user: 0,
        jitter_percent: 0,
    }
}

#[tokio::test]
async fn a_large_backfill_stays_below_the_rate_limits() {
    let mut organisation = TestOrganisation::start().await;
    // 120 messages take 10 seconds of execution time, and the window allows 6.
    for setting in [
        Setting::ProtectionWindowSeconds(60),
        Setting::ExecutionMilliseconds(6_000),
    ] {
        organisation.emulators.dataverse().set_setting(setting);
    }
    organisation.keep_to("10000,5,60".parse().unwrap());
    let clock = stop_clock(&organisation, 40);
    let started = clock.now();
    let begin = || begin_by(&clock);
    let queue = MemoryQueue::default();
    let mut work = page(&organisation, 120);
    let mut times = 0;
    while !work.is_empty() {
        times += 1;
        let page = organisation
            .pipeline
            .backfill_page(work, &queue, &begin)
            .await;
        for done in &page.processed {
            written(&done.outcome);
        }
        work = Vec::new();
        if let Some(left) = page.left {
            // The queue hides the rest of the page until then.
            clock.advance((left.not_before - clock.now()).to_std().unwrap_or_default());
            work = left.deliveries;
        }
    }
    assert_eq!(organisation.emails().len(), 120);
    let took = clock.now() - started;
    assert!(
        times > 1 && took > TimeDelta::seconds(60),
        "{times} calls took {took}"
    );
}

/// Returns how many requests a backfill of 200 messages takes if each operation takes this long.
///
/// Each batch takes two requests, and more if one `$batch` with all queries would take too long.
async fn requests_at(operation_ms: u64) -> u64 {
    let mut organisation = TestOrganisation::start().await;
    organisation.keep_to("1000000,1000000,300".parse().unwrap());
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse.set_setting(Setting::ExecutionMilliseconds(1_000_000_000));
    // One batch at a time.
    dataverse.set_setting(Setting::ParallelismHint(1));
    let ledger = organisation.pipeline.ledger.clone();
    let clock = stop_clock(&organisation, operation_ms);
    let user = ApplicationUser::primary();
    ledger
        .store_suggested_concurrency(&user, 1, clock.now())
        .await
        .unwrap();
    let work = page(&organisation, 200);
    let queue = MemoryQueue::default();
    let page = organisation
        .pipeline
        .backfill_page(work, &queue, &|| begin_by(&clock))
        .await;
    assert_eq!((page.processed.len(), page.left.is_none()), (200, true));
    assert_eq!(organisation.emails().len(), 200);
    dataverse.requests().total
}

#[tokio::test]
async fn batches_grow_while_dataverse_is_fast() {
    // Batches of 50, 75 and 75 messages, with two requests each.
    assert_eq!(Box::pin(requests_at(1)).await, 6);
}

#[tokio::test]
async fn batches_shrink_while_dataverse_is_slow_but_not_below_ten_messages() {
    // Batches of 50, 25 and 12 messages, and the other 113 messages in twelve batches: 15 writes.
    // At two seconds a query, their lookups are divided into 44 requests.
    assert_eq!(Box::pin(requests_at(2_000)).await, 15 + 44);
}

#[tokio::test]
async fn a_page_waits_for_a_reservation_that_is_near() {
    let mut organisation = TestOrganisation::start().await;
    let work = page(&organisation, 30);
    let reservation = Reservation {
        expected: TimeDelta::milliseconds(20),
        owed: TimeDelta::zero(),
    };
    let ledger = organisation.pipeline.ledger.clone();
    let (user, limits) = (ApplicationUser::primary(), Limits::default());
    ledger
        .reserve(&user, &reservation, &limits, organisation.now)
        .await
        .unwrap();
    let run = organisation.begin();
    let left = backfill_page(&organisation.pipeline, work, run)
        .await
        .left
        .unwrap();
    assert_eq!(left.not_before, run.now + TimeDelta::milliseconds(20));
    let steps = AtomicI64::new(0);
    let begin = || Invocation {
        now: run.now + TimeDelta::milliseconds(8 * steps.fetch_add(1, Ordering::Relaxed)),
        ..run
    };
    let queue = MemoryQueue::default();
    let page = organisation
        .pipeline
        .backfill_page(left.deliveries, &queue, &begin)
        .await;
    assert_eq!((page.processed.len(), page.left.is_none()), (30, true));
    assert_eq!(
        steps.into_inner(),
        4,
        "the fourth attempt, after 24 ms, gets its turn"
    );
}

#[tokio::test]
async fn live_mail_does_not_wait_for_reserved_capacity() {
    let mut organisation = TestOrganisation::start().await;
    let user = ApplicationUser::primary();
    let far = TimeDelta::minutes(4);
    let reservation = Reservation {
        expected: far,
        owed: TimeDelta::zero(),
    };
    let ledger = &organisation.pipeline.ledger;
    let limits = Limits::default();
    let reserved = ledger.reserve(&user, &reservation, &limits, organisation.now);
    reserved.await.unwrap();
    let work = page(&organisation, 3);
    let run = organisation.begin();
    let left = backfill_page(&organisation.pipeline, work, run)
        .await
        .left
        .unwrap();
    assert_eq!(
        (left.deliveries.len(), left.not_before),
        (3, organisation.now + far)
    );
    assert_eq!(organisation.emulators.dataverse().requests().total, 0);
    assert_eq!(
        organisation.entry(ADA, "m0").await,
        None,
        "the message is not claimed"
    );
    written(&organisation.deliver_one(ADA, "m0").await);
    organisation.later(TimeDelta::minutes(5));
    let run = organisation.begin();
    let page = backfill_page(&organisation.pipeline, left.deliveries, run).await;
    assert!(page.left.is_none());
    for done in &page.processed {
        written(&done.outcome);
    }
}

#[tokio::test]
async fn unused_capacity_of_a_delivery_is_returned_by_the_next_one() {
    let mut organisation = TestOrganisation::start().await;
    page(&organisation, 1);
    let mut reserved = Vec::new();
    for _ in 0..3 {
        // The first delivery settles the message, so the others send nothing to Dataverse.
        written(&organisation.deliver_one(ADA, "m0").await);
        let limiter_state = organisation
            .pipeline
            .ledger
            .limiter_state(&ApplicationUser::primary())
            .await;
        reserved.push(limiter_state.unwrap().tat.unwrap());
    }
    // The second delivery reserved capacity for a message and used none. The third returns it.
    assert_eq!(reserved[2], reserved[1]);
}

#[tokio::test]
async fn backfill_waits_while_more_than_ten_live_messages_are_queued() {
    let mut organisation = TestOrganisation::start().await;
    let queue = MemoryQueue::default();
    let work = page(&organisation, 30);
    for one in work.iter().take(11) {
        queue.send(&one.request, Duration::ZERO).await.unwrap();
    }
    let run = organisation.begin();
    let left = organisation
        .pipeline
        .backfill_page(work, &queue, &|| run)
        .await
        .left
        .unwrap();
    assert_eq!(left.deliveries.len(), 30);
    assert!(left.not_before > organisation.now);
    assert_eq!(organisation.emulators.dataverse().requests().total, 0);
    // A worker receives ten of the eleven messages.
    assert_eq!(queue.receive(10).len(), 10);
    let page = organisation
        .pipeline
        .backfill_page(left.deliveries, &queue, &|| run)
        .await;
    assert_eq!((page.processed.len(), page.left.is_none()), (30, true));
}

#[tokio::test]
async fn backfill_stops_at_a_429_and_returns_the_rest_of_the_page_unclaimed() {
    let mut organisation = TestOrganisation::start().await;
    organisation.keep_to(Limits::boundless());
    organisation.fail_dataverse_at(CREATE, throttled("0x80072321", 77));
    // One batch at a time.
    let user = ApplicationUser::primary();
    organisation
        .pipeline
        .ledger
        .store_suggested_concurrency(&user, 1, organisation.now)
        .await
        .unwrap();
    let work = page(&organisation, 100);
    let run = organisation.begin();
    let page = backfill_page(&organisation.pipeline, work, run).await;
    assert_eq!(page.processed.len(), 50);
    for done in &page.processed {
        assert_eq!(waiting(&done.outcome).0.as_secs(), 77);
    }
    let left = page.left.unwrap();
    assert_eq!(left.deliveries.len(), 50);
    assert!(left.not_before >= organisation.now + TimeDelta::seconds(77));
    assert_eq!(organisation.emulators.dataverse().requests().total, 2);
    assert_eq!(
        organisation.entry(ADA, "m50").await,
        None,
        "the message is not claimed"
    );
}

#[tokio::test]
async fn backfill_runs_as_many_batches_at_once_as_dataverse_suggests() {
    let mut organisation = TestOrganisation::start().await;
    organisation.keep_to(Limits::boundless());
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse.set_setting(Setting::ParallelismHint(2));
    // The first answer contains the suggestion.
    let work = page(&organisation, 200);
    written(&organisation.deliver_one(ADA, "m0").await);
    dataverse.hold_requests();
    let run = organisation.begin();
    let looked_at = async {
        dataverse.wait_for_in_flight(2).await;
        let claimed = [
            organisation.entry(ADA, "m1").await,
            organisation.entry(ADA, "m99").await,
        ];
        assert!(claimed.iter().all(Option::is_some));
        assert_eq!(
            organisation.entry(ADA, "m100").await,
            None,
            "two batches of fifty messages are running"
        );
        dataverse.release_requests();
    };
    let (page, ()) =
        futures_util::join!(backfill_page(&organisation.pipeline, work, run), looked_at);
    assert_eq!(page.processed.len(), 200);
    assert!(page.left.is_none());
}

/// Puts messages into Ada's mailbox, of which `has_file` have a file each, and lists them with the
/// newest, which is number 0, first.
async fn listed_page(
    organisation: &TestOrganisation,
    messages: i64,
    has_file: impl Fn(i64) -> bool,
) -> Vec<Delivery> {
    let nylas = organisation.emulators.nylas().clone();
    for n in 0..messages {
        let id = format!("m{n}");
        let date = json!({"date": organisation.now.timestamp() - n});
        organisation.put(ADA, nylas_message(&id, &date));
        if has_file(n) {
            let file = json!({"id": format!("file-of-{id}"), "filename": "a.txt", "content_type": "text/plain"});
            nylas.add_attachment(ADA, &id, file, b"kites".to_vec());
        }
    }
    let filter = Filter {
        received_after: 0,
        received_before: None,
        folder: None,
        query_imap: false,
    };
    let grant = ADA.parse().unwrap();
    let client = &organisation.pipeline.nylas;
    let listed = client.messages_within(&grant, &filter, None, Headers::Basic, 200, usize::MAX);
    let listed = listed.await.unwrap().unwrap().messages;
    let deliveries = listed.into_iter().map(|message| Delivery {
        message: Some(message.clone()),
        ..work(ADA, message.key.message_id.as_str(), Trigger::Backfill, 1)
    });
    deliveries.collect()
}

/// Processes a page whose messages 0 and 1 have a file each, in an invocation that ends after
/// `deadline`. While the file of message 0 is fetched, `passes` passes. Returns whether message 1,
/// which is the next of the batch, was begun.
async fn begins_the_next_after(deadline: TimeDelta, passes: Duration) -> bool {
    let mut organisation = TestOrganisation::start().await;
    organisation.keep_to(Limits::boundless());
    let clock = stop_clock(&organisation, 1);
    let deadline = clock.now() + deadline;
    let work = listed_page(&organisation, 30, |n| n < 2).await;
    let passing = clock.clone();
    organisation.before_nylas_gets("/attachments/file-of-m0/", async move {
        passing.advance(passes);
    });
    let begin = || Invocation {
        deadline,
        ..begin_by(&clock)
    };
    let queue = MemoryQueue::default();
    let pipeline = &organisation.pipeline;
    let page = pipeline.backfill_page(work, &queue, &begin).await;
    let outcome = |id: &str| {
        let done = page.processed.iter().find(|done| done.key == key(ADA, id));
        done.unwrap().outcome.clone()
    };
    written(&outcome("m0"));
    let next = outcome("m1");
    let is_begun = next.state() == State::Written;
    if !is_begun {
        assert!(waiting(&next).1.contains("time"), "{next:?}");
        let entry = organisation.entry(ADA, "m1").await.unwrap();
        assert_eq!((entry.state, entry.held), (State::Waiting, None));
    }
    is_begun
}

#[tokio::test]
async fn a_batch_goes_on_while_its_claims_are_held() {
    let (deadline, passes) = (TimeDelta::minutes(15), Duration::from_secs(140));
    assert!(Box::pin(begins_the_next_after(deadline, passes)).await);
}

#[tokio::test]
async fn a_batch_ends_before_its_claims_expire_though_the_invocation_has_time_left() {
    let (deadline, passes) = (TimeDelta::minutes(15), Duration::from_secs(151));
    assert!(!Box::pin(begins_the_next_after(deadline, passes)).await);
}

#[tokio::test]
async fn a_batch_ends_before_its_invocation_though_its_claims_are_held() {
    let (deadline, passes) = (TimeDelta::minutes(2), Duration::from_secs(100));
    assert!(!Box::pin(begins_the_next_after(deadline, passes)).await);
}

#[tokio::test]
async fn a_message_with_files_counts_as_ten_in_a_batch() {
    // A batch of at most 30, of which each message with files takes ten.
    for (with_files, first_batch) in [(0, 30), (1, 21), (2, 12), (3, 3), (30, 3)] {
        let mut organisation = TestOrganisation::start().await;
        organisation.keep_to(Limits::boundless());
        let user = ApplicationUser::primary();
        let ledger = organisation.pipeline.ledger.clone();
        ledger
            .store_suggested_concurrency(&user, 1, organisation.now)
            .await
            .unwrap();
        let work = listed_page(&organisation, 30, |n| n < with_files).await;
        let keys: Vec<_> = work.iter().map(|it| it.request.key.clone()).collect();
        let dataverse = organisation.emulators.dataverse().clone();
        dataverse.set_setting(Setting::ParallelismHint(1));
        dataverse.hold_requests();
        let run = organisation.begin();
        let looked_at = async {
            dataverse.wait_for_in_flight(1).await;
            let claimed = ledger.entries(&keys).await.unwrap();
            dataverse.release_requests();
            claimed
        };
        let (page, claimed) =
            futures_util::join!(backfill_page(&organisation.pipeline, work, run), looked_at);
        assert_eq!(claimed.len(), first_batch, "{with_files}");
        assert!(
            keys[..first_batch]
                .iter()
                .all(|key| claimed.contains_key(key))
        );
        assert_eq!((page.processed.len(), page.left.is_none()), (30, true));
    }
}
