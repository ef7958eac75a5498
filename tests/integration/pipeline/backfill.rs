//! Tests a backfill from an operator's request to the end of its tasks, with in-memory queues.

use backfill::task::{cache_limit, digest};
use backfill::{Backfill, BackfillError};
use chrono::{DateTime, TimeDelta, Utc};
use emulators::{Fault, Grant};
use futures_util::{StreamExt, stream};
use mailverse::clients::aws::queue::MemoryQueue;
use mailverse::ledger::backfill_runs::TaskKey;
use mailverse::ledger::mailbox_state::Lists;
use mailverse::ledger::messages::StoredOutcome;
use mailverse::ledger::{ClaimRequest, ClaimToken, State};
use mailverse::rate_limit::{ApplicationUser, Limits, Reservation};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, CREATE, LOOK_UP, TestOrganisation, assert_skipped, key, nylas_message, status,
    throttled, waiting,
};

/// An old date as Unix time in seconds, long before the 90 days that Nylas keeps of the IMAP
/// family.
pub(super) const OLD: i64 = 1_700_000_000;

/// The backfill function and its queues.
struct History {
    backfill: Backfill<MemoryQueue>,
    tasks: MemoryQueue,
    sync: MemoryQueue,
}

impl History {
    async fn of(organisation: &TestOrganisation) -> Self {
        let (tasks, sync) = (MemoryQueue::default(), MemoryQueue::default());
        let pipeline = organisation.another_pipeline().await;
        Self {
            backfill: Backfill::new(pipeline, sync.clone(), tasks.clone()),
            tasks,
            sync,
        }
    }

    async fn handle(&self, organisation: &mut TestOrganisation, event: &Value) -> Value {
        let run = organisation.begin();
        self.backfill.handle(event, &|| run).await.unwrap()
    }

    /// Requests the backfill of a mailbox as an operator does, and returns the id of the run.
    async fn ask(&self, organisation: &mut TestOrganisation, mailbox: &str) -> Value {
        let request = json!({"mailboxes": [mailbox], "received_after": OLD - 1});
        self.handle(organisation, &request).await["run_id"].clone()
    }

    async fn process_queue(&self, organisation: &mut TestOrganisation) -> usize {
        let run = organisation.begin();
        self.backfill.process_queue(&|| run).await.len()
    }

    /// Requests the state of a run.
    async fn answer(&self, organisation: &mut TestOrganisation, run_id: &Value) -> Value {
        self.handle(organisation, &json!({"run_id": run_id})).await
    }
}

/// Puts old messages into a folder of a mailbox, one minute apart.
pub(super) fn fill(
    organisation: &TestOrganisation,
    grant: &str,
    prefix: &str,
    count: i64,
    folder: &str,
) {
    for n in 0..count {
        let message = nylas_message(
            &format!("{prefix}{n}"),
            &json!({"date": OLD + n * 60, "folders": [folder]}),
        );
        organisation.put(grant, message);
    }
}

pub(super) fn numbers(answer: &Value) -> [u64; 5] {
    ["total_emails", "synced", "skipped", "waiting", "dead"]
        .map(|name| answer[name].as_u64().unwrap())
}

/// Makes the next list of a run's mailbox use pages of 20 messages, as after failures of Nylas.
pub(super) async fn use_small_pages(organisation: &TestOrganisation, run_id: &Value, grant: &str) {
    let task = TaskKey {
        run_id: run_id.as_str().unwrap().parse().unwrap(),
        grant_id: grant.parse().unwrap(),
    };
    let ledger = &organisation.pipeline.ledger;
    for _ in 0..4 {
        let noted = ledger.note_nylas_failure(&task, organisation.now).await;
        noted.unwrap();
    }
}

/// A mailbox of the IMAP family.
const IMAP: &str = "grant-imap";

fn add_imap_mailbox(organisation: &TestOrganisation) {
    organisation.emulators.nylas().add_grant(Grant {
        id: IMAP.to_owned(),
        email: "cyd@ours.example".to_owned(),
        provider: "imap".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
}

#[tokio::test]
async fn old_imap_messages_are_listed_from_the_server_folder_by_folder() {
    let mut organisation = TestOrganisation::start().await;
    add_imap_mailbox(&organisation);
    let folder = json!({"id": "Canary Clients", "name": "Canary Clients"});
    organisation.emulators.nylas().add_folder(IMAP, folder);
    fill(&organisation, IMAP, "inbox", 5, "INBOX");
    fill(&organisation, IMAP, "client", 205, "Canary Clients");
    let history = History::of(&organisation).await;
    let run_id = history.ask(&mut organisation, "cyd@ours.example").await;
    let queued = history.tasks.receive(1).remove(0);
    assert!(!queued.body.contains("Canary") && !queued.body.contains("cyd"));
    history.tasks.delete(&queued.receipt);
    history.ask(&mut organisation, IMAP).await;
    history.process_queue(&mut organisation).await;
    assert_eq!(organisation.emails().len(), 210);
    // The task of the first run was deleted from its queue, so that run has not ended. A new
    // request finds every message settled.
    assert_eq!(
        history.answer(&mut organisation, &run_id).await["ended"],
        json!(false)
    );
    let one_folder =
        json!({"mailboxes": [IMAP], "received_after": OLD - 1, "folder": "canary clients"});
    let run_id = history.handle(&mut organisation, &one_folder).await["run_id"].clone();
    history.process_queue(&mut organisation).await;
    let answer = history.answer(&mut organisation, &run_id).await;
    assert_eq!(answer["ended"], json!(true));
    assert_eq!(numbers(&answer), [205, 205, 0, 0, 0]);
}

#[tokio::test]
async fn a_rejected_cursor_restarts_the_list_and_settles_no_message_twice() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 410, "INBOX");
    let history = History::of(&organisation).await;
    let run_id = history.ask(&mut organisation, ADA).await;
    organisation.fail_nylas_at("page_token=", status(400, "invalid_request_error"));
    history.process_queue(&mut organisation).await;
    let answer = history.answer(&mut organisation, &run_id).await;
    assert_eq!(answer["ended"], json!(true), "{answer}");
    assert_eq!(
        answer["tasks"][0]["repaired"], 410,
        "each message was settled once"
    );
    assert_eq!(organisation.emails().len(), 410);
    // Nine batches of two requests each.
    assert!(organisation.emulators.dataverse().requests().total <= 20);
}

#[tokio::test]
async fn a_message_that_fails_alone_is_queued_even_if_no_capacity_is_left() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 4, "INBOX");
    let file = json!({"id": "a1", "filename": "Offer.pdf", "content_type": "application/pdf"});
    let nylas = organisation.emulators.nylas().clone();
    nylas.add_attachment(ADA, "m1", file, b"%PDF".to_vec());
    organisation.fail_nylas_at("/attachments/", status(504, "provider_error"));
    let (ledger, now) = (organisation.pipeline.ledger.clone(), organisation.now);
    organisation.before_dataverse_gets(CREATE, async move {
        let reservation = Reservation {
            expected: TimeDelta::minutes(1),
            owed: TimeDelta::zero(),
        };
        let (user, limits) = (ApplicationUser::primary(), Limits::default());
        ledger
            .reserve(&user, &reservation, &limits, now)
            .await
            .unwrap();
    });
    let history = History::of(&organisation).await;
    let run_id = history.ask(&mut organisation, ADA).await;
    history.process_queue(&mut organisation).await;
    let answer = history.answer(&mut organisation, &run_id).await;
    assert_eq!(answer["ended"], json!(true), "{answer}");
    assert_eq!(numbers(&answer), [4, 3, 0, 1, 0]);
}

#[tokio::test]
async fn listing_settled_messages_again_sends_no_request_to_dataverse() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 60, "INBOX");
    let history = History::of(&organisation).await;
    history.ask(&mut organisation, ADA).await;
    assert_eq!(history.process_queue(&mut organisation).await, 60);
    let before = organisation.emulators.dataverse().requests().total;
    history.ask(&mut organisation, ADA).await;
    assert_eq!(history.process_queue(&mut organisation).await, 60);
    assert_eq!(organisation.emulators.dataverse().requests().total, before);
}

#[tokio::test]
async fn a_backfill_task_of_a_signed_out_mailbox_is_parked_and_resumed_by_the_schedule() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 3, "INBOX");
    let history = History::of(&organisation).await;
    let schedule = json!({"source": "aws.scheduler", "time": organisation.now.to_rfc3339()});
    // The first run is requested while the grant is valid, the second when it no longer is.
    let first = history.ask(&mut organisation, ADA).await;
    organisation
        .emulators
        .nylas()
        .set_grant_status(ADA, "invalid");
    let second = history.ask(&mut organisation, ADA).await;
    assert_eq!(history.process_queue(&mut organisation).await, 0);
    for run_id in [&first, &second] {
        let answer = history.answer(&mut organisation, run_id).await;
        assert_eq!(
            (&answer["ended"], &answer["tasks"][0]["state"]),
            (&json!(false), &json!("parked"))
        );
    }
    let planned = history.handle(&mut organisation, &schedule).await;
    assert_eq!(
        (&planned["unparked"], &planned["not_valid"]),
        (&json!(0), &json!(1))
    );
    history.process_queue(&mut organisation).await;
    organisation
        .emulators
        .nylas()
        .set_grant_status(ADA, "valid");
    let planned = history.handle(&mut organisation, &schedule).await;
    assert_eq!(planned["unparked"], 2);
    history.process_queue(&mut organisation).await;
    for run_id in [&first, &second] {
        let answer = history.answer(&mut organisation, run_id).await;
        assert_eq!(
            (&answer["ended"], numbers(&answer)),
            (&json!(true), [3, 3, 0, 0, 0])
        );
    }
    let planned = history.handle(&mut organisation, &schedule).await;
    assert_eq!(planned["unparked"], 0, "each task is unparked once");
}

#[tokio::test]
async fn a_mailbox_that_another_worker_lists_is_not_listed_at_the_same_time() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 3, "INBOX");
    let history = History::of(&organisation).await;
    let other = ClaimToken::new(Uuid::from_u128(1_000_000));
    let ledger = organisation.pipeline.ledger.clone();
    let ada = ADA.parse().unwrap();
    ledger
        .lease_mailbox(
            &ada,
            Lists::Operator,
            "another run",
            other,
            organisation.now,
        )
        .await
        .unwrap();
    history.ask(&mut organisation, ADA).await;
    assert_eq!(history.process_queue(&mut organisation).await, 0);
    let hidden = history.tasks.hidden();
    assert_eq!(hidden.len(), 1, "the task waits until the lease expires");
    assert_eq!(hidden[0].1.as_secs(), 900);
    // Messages of today do not wait for that lease.
    organisation.put(ADA, nylas_message("today", &json!({})));
    let schedule = json!({"source": "aws.scheduler", "time": organisation.now.to_rfc3339()});
    history.handle(&mut organisation, &schedule).await;
    assert_eq!(history.process_queue(&mut organisation).await, 1);
    // If another scheduled task lists the mailbox, this one is dropped. The next scheduled run
    // plans the same.
    ledger
        .lease_mailbox(
            &ada,
            Lists::Schedule,
            "another run",
            other,
            organisation.now,
        )
        .await
        .unwrap();
    history.handle(&mut organisation, &schedule).await;
    assert_eq!(history.process_queue(&mut organisation).await, 0);
    assert_eq!(history.tasks.hidden().len(), 1);
    organisation.later(TimeDelta::seconds(901));
    history.ask(&mut organisation, ADA).await;
    assert_eq!(history.process_queue(&mut organisation).await, 4);
}

#[tokio::test]
async fn a_listed_message_that_must_wait_is_queued_unless_it_is_queued_already() {
    let mut organisation = TestOrganisation::start().await;
    let junk = organisation
        .emulators
        .nylas()
        .folder_id(ADA, "\\Junk")
        .unwrap();
    organisation.put(ADA, nylas_message("tried", &json!({})));
    organisation.put(ADA, nylas_message("revisited", &json!({"folders": [junk]})));
    // A worker released the first message, so its request is still on the queue. The second was
    // skipped, and then claimed again by a backfill that died.
    organisation.fail_dataverse_at(LOOK_UP, status(503, ""));
    let outcomes = organisation
        .deliver(&[(ADA, "tried"), (ADA, "revisited")])
        .await;
    waiting(&outcomes[0]);
    assert_skipped(&outcomes[1], "spam");
    // After a minute, the capacity that these deliveries reserved is free again.
    organisation.later(TimeDelta::minutes(1));
    let claim = ClaimRequest {
        revisit: true,
        ..ClaimRequest::new(
            ClaimToken::new(Uuid::from_u128(1_000_000)),
            organisation.now,
        )
    };
    let ledger = organisation.pipeline.ledger.clone();
    let claimed = ledger.claim(&key(ADA, "revisited"), &claim).await;
    assert!(claimed.unwrap().is_won());
    let history = History::of(&organisation).await;
    let schedule = json!({"source": "aws.scheduler", "time": organisation.now.to_rfc3339()});
    history.handle(&mut organisation, &schedule).await;
    organisation.fail_dataverse_at(LOOK_UP, status(503, ""));
    assert_eq!(history.process_queue(&mut organisation).await, 2);
    let queued = history.sync.hidden();
    assert_eq!(queued.len(), 1, "{queued:?}");
    assert!(queued[0].0.body.contains("revisited"), "{queued:?}");
    assert_eq!(
        queued[0].1.as_secs(),
        180,
        "the message is delivered once the claim has expired"
    );
}

#[tokio::test]
async fn a_throttled_list_is_retried_after_its_retry_after() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 3, "INBOX");
    let history = History::of(&organisation).await;
    history.ask(&mut organisation, ADA).await;
    let throttled = Fault::Status {
        status: 429,
        code: "rate_limit_error".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(77),
    };
    organisation.fail_nylas_at("/messages?", throttled);
    assert_eq!(history.process_queue(&mut organisation).await, 0);
    assert_eq!(history.tasks.hidden()[0].1.as_secs(), 77);
}

/// Returns the event with which Lambda delivers a task for the `receive_count`-th time.
pub(super) fn delivery(task: &str, receive_count: u32) -> Value {
    json!({"Records": [{
        "messageId": "1", "receiptHandle": "r", "body": task, "attributes": {"ApproximateReceiveCount": receive_count.to_string()},
        "messageAttributes": {}, "eventSource": "aws:sqs", "awsRegion": "eu-north-1",
    }]})
}

/// Delivers the task again, after it was delivered `before` times.
async fn deliver(
    history: &History,
    organisation: &mut TestOrganisation,
    task: &str,
    before: u32,
) -> Value {
    organisation.later(TimeDelta::minutes(1));
    history
        .handle(organisation, &delivery(task, before + 1))
        .await
}

#[tokio::test]
async fn the_page_size_depends_on_failures_of_nylas_and_not_on_the_receive_count() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, ADA, "m", 3, "INBOX");
    let history = History::of(&organisation).await;
    history.ask(&mut organisation, ADA).await;
    let task = history.tasks.receive(1).remove(0).body;
    // The task was postponed eight times before.
    for (before, limit) in [(8, 200), (9, 200), (0, 50), (1, 50), (2, 20)] {
        let asked = format!("limit={limit}");
        organisation.fail_nylas_at(&asked, status(503, "provider_error"));
        let answer = deliver(&history, &mut organisation, &task, before).await;
        // With `before == 9` the queue delivers for the last time. Only two deliveries failed, so
        // the task is queued again.
        let is_acknowledged = answer["batchItemFailures"] == json!([]);
        assert_eq!(is_acknowledged, before == 9, "{before}");
    }
    assert_eq!(history.tasks.hidden().len(), 1);
    let answer = deliver(&history, &mut organisation, &task, 3).await;
    assert_eq!(answer["batchItemFailures"], json!([]));
    assert_eq!(organisation.emails().len(), 3);
}

#[tokio::test]
async fn a_backfill_dry_run_reports_the_outcomes_and_writes_nothing() {
    let mut organisation = TestOrganisation::start().await;
    fill(&organisation, BEN, "m", 3, "INBOX");
    let junk = organisation
        .emulators
        .nylas()
        .folder_id(BEN, "\\Junk")
        .unwrap();
    fill(&organisation, BEN, "spam", 2, &junk);
    let history = History::of(&organisation).await;
    let request = json!({"mailboxes": "all", "received_after": OLD - 1, "dry_run": true});
    let run_id = history.handle(&mut organisation, &request).await["run_id"].clone();
    history.process_queue(&mut organisation).await;
    let answer = history.answer(&mut organisation, &run_id).await;
    assert_eq!(
        (&answer["dry_run"], &answer["ended"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(numbers(&answer), [5, 3, 2, 0, 0]);
    assert_eq!(organisation.emails().len(), 0);
    assert_eq!(organisation.entry(BEN, "m0").await, None);
}

#[tokio::test]
async fn a_call_of_the_function_url_returns_json_or_names_the_invalid_field() {
    let mut organisation = TestOrganisation::start().await;
    let history = History::of(&organisation).await;
    let call = |body: &Value| json!({"requestContext": {"http": {"method": "POST"}}, "body": body.to_string()});
    let good = json!({"mailboxes": [ADA], "received_after": OLD});
    let answer = history.handle(&mut organisation, &call(&good)).await;
    assert_eq!(answer["statusCode"], 200);
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["tasks"][0]["grant_id"], ADA);
    for (wrong, field) in [
        (json!({"mailboxes": [ADA]}), "received_after"),
        (
            json!({"mailboxes": ["eve@nowhere.example"], "received_after": OLD}),
            "mailboxes[0]",
        ),
        (
            json!({"run_id": "11111111-2222-4333-8444-555555555555"}),
            "run_id",
        ),
    ] {
        let answer = history.handle(&mut organisation, &call(&wrong)).await;
        assert_eq!(answer["statusCode"], 400);
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["field"], field, "{body}");
        assert!(!body.to_string().contains("eve"), "{body}");
    }
}

#[tokio::test]
async fn an_invalid_direct_request_is_answered_with_an_error_and_does_not_fail() {
    let mut organisation = TestOrganisation::start().await;
    let history = History::of(&organisation).await;
    let eve = json!({"mailboxes": ["eve@nowhere.example"], "received_after": OLD});
    for (wrong, field) in [
        (json!({"mailboxes": [ADA]}), "received_after"),
        (eve.clone(), "mailboxes[0]"),
        (
            json!({"run_id": "11111111-2222-4333-8444-555555555555"}),
            "run_id",
        ),
    ] {
        let answer = history.handle(&mut organisation, &wrong).await;
        assert_eq!(answer["field"], field, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with(field), "{answer}");
        assert!(!answer.to_string().contains("eve"), "{answer}");
    }
    let schedule = json!({"source": "aws.scheduler", "time": organisation.now.to_rfc3339()});
    organisation.fail_nylas_at("/v3/grants?", status(503, ""));
    let answer = history.handle(&mut organisation, &eve).await;
    let error = answer["error"].as_str().unwrap();
    assert!(
        error.starts_with("failed to list the connected mailboxes") && !error.contains("eve"),
        "{answer}"
    );
    assert_eq!(answer.get("field"), None, "{answer}");
    // A scheduled invocation fails, so that Lambda keeps the event and the alarm fires.
    organisation.fail_nylas_at("/v3/grants?", status(503, ""));
    let run = organisation.begin();
    let failed = history.backfill.handle(&schedule, &|| run).await;
    assert!(matches!(failed, Err(BackfillError::Grants(_))));
    organisation.drop_ledger().await;
    let ada = json!({"mailboxes": [ADA], "received_after": OLD});
    let answer = history.handle(&mut organisation, &ada).await;
    assert!(answer["error"].is_string(), "{answer}");
}

#[tokio::test]
async fn many_messages_waiting_for_a_retry_do_not_hide_a_stranded_one() {
    // More messages than one scheduled run requeues.
    const WAITING: usize = 1_001;
    let mut organisation = TestOrganisation::start().await;
    let history = History::of(&organisation).await;
    let ledger = &organisation.pipeline.ledger;
    let now = organisation.now;
    let released = async |id: String, at: DateTime<Utc>, retry_at: DateTime<Utc>| {
        let (key, token) = (key(ADA, &id), ClaimToken::new(Uuid::from_u128(77)));
        let claim = ledger.claim(&key, &ClaimRequest::new(token, at)).await;
        assert!(claim.unwrap().is_won());
        let reason = "dataverse throttled the call".to_owned();
        let stored_outcome = StoredOutcome::Released {
            retry_at,
            reason,
            counted: true,
        };
        let settled = ledger.settle(&key, token, at, &stored_outcome).await;
        settled.unwrap();
    };
    let day_ago = now - TimeDelta::days(1);
    let waiting = (0..WAITING).map(|n| released(format!("w{n}"), day_ago, now));
    let waiting = stream::iter(waiting).buffer_unordered(50);
    waiting.collect::<()>().await;
    let later = day_ago + TimeDelta::hours(1);
    released("stranded".to_owned(), later, later).await;
    let schedule = json!({"source": "aws.scheduler", "time": now.to_rfc3339()});
    let planned = history.handle(&mut organisation, &schedule).await;
    assert_eq!(planned["stranded"], 1);
    let queued = history.sync.receive(10);
    assert_eq!(queued.len(), 1);
    assert!(queued[0].body.contains("stranded"), "{}", queued[0].body);
}

/// Returns the `received_before` of the lists of messages so far: of those that Nylas answers from
/// its cache, and of those that it passes on to the mail server.
fn upper_bounds(organisation: &TestOrganisation) -> [Vec<Option<i64>>; 2] {
    let requested = organisation.emulators.nylas().requested();
    let lists = requested.iter().filter(|it| it.contains("/messages?"));
    let (server, cache): (Vec<&String>, Vec<&String>) =
        lists.partition(|it| it.contains("query_imap=true"));
    [cache, server].map(|lists| {
        let bounds = lists.into_iter().map(|list| {
            let (_, bound) = list.split_once("received_before=")?;
            let digits = bound.split('&').next().unwrap();
            Some(digits.parse().unwrap())
        });
        bounds.collect()
    })
}

#[tokio::test]
async fn the_earliest_upper_bound_of_an_imap_list_applies() {
    const DAY: i64 = 24 * 60 * 60;
    // Of 25 messages, the first page has the newest 20.
    let newest = OLD + 24 * 60;
    let now = TestOrganisation::start().await.now;
    let end_of_cache = cache_limit(now);
    for (until, is_cursor_rejected, cache, server, rows) in [
        // The end of the cache is the earliest.
        (None, false, None, end_of_cache, 25),
        (
            Some(end_of_cache + DAY),
            false,
            Some(end_of_cache + DAY),
            end_of_cache,
            25,
        ),
        // The operator's bound is the earliest.
        (Some(newest + 1), false, Some(newest + 1), newest + 1, 25),
        (
            Some(OLD + 10 * 60),
            false,
            Some(OLD + 10 * 60),
            OLD + 10 * 60,
            10,
        ),
        // The place where the list restarts is the earliest.
        (None, true, None, newest + DAY, 25),
        (
            Some(end_of_cache + DAY),
            true,
            Some(end_of_cache + DAY),
            newest + DAY,
            25,
        ),
        // The list restarts, and the operator's bound is the earliest.
        (Some(newest + 1), true, Some(newest + 1), newest + 1, 25),
    ] {
        let of = format!("until {until:?}, cursor rejected: {is_cursor_rejected}");
        let mut organisation = TestOrganisation::start().await;
        add_imap_mailbox(&organisation);
        for folder in ["Sent", "Drafts", "Junk", "Trash"] {
            organisation.emulators.nylas().remove_folder(IMAP, folder);
        }
        fill(&organisation, IMAP, "m", 25, "INBOX");
        let history = History::of(&organisation).await;
        let request =
            json!({"mailboxes": [IMAP], "received_after": OLD - 1, "received_before": until});
        let run_id = history.handle(&mut organisation, &request).await["run_id"].clone();
        use_small_pages(&organisation, &run_id, IMAP).await;
        if is_cursor_rejected {
            organisation.fail_nylas_at("page_token=", status(400, "invalid_request_error"));
        }
        history.process_queue(&mut organisation).await;
        let answer = history.answer(&mut organisation, &run_id).await;
        assert_eq!(answer["ended"], json!(true), "{of}: {answer}");
        let [of_cache, of_server] = upper_bounds(&organisation);
        assert_eq!(of_cache, [cache], "{of}");
        assert_eq!(of_server.last(), Some(&Some(server)), "{of}");
        assert_eq!(organisation.emails().len(), rows, "{of}");
    }
}

#[tokio::test]
async fn a_message_with_an_odd_date_does_not_make_a_restarted_list_skip_others() {
    const IN_1999: i64 = 930_000_000;
    const IN_2099: i64 = 4_080_000_000;
    for odd in [IN_1999, IN_2099] {
        let mut organisation = TestOrganisation::start().await;
        fill(&organisation, ADA, "m", 24, "INBOX");
        // It is on the first page of two.
        let received = OLD + 20 * 60;
        let message = json!({"date": odd, "received": received, "folders": ["INBOX"]});
        organisation.put(ADA, nylas_message("odd", &message));
        let history = History::of(&organisation).await;
        let run_id = history.ask(&mut organisation, ADA).await;
        use_small_pages(&organisation, &run_id, ADA).await;
        organisation.fail_nylas_at("page_token=", status(400, "invalid_request_error"));
        history.process_queue(&mut organisation).await;
        let answer = history.answer(&mut organisation, &run_id).await;
        assert_eq!(answer["ended"], json!(true), "{answer}");
        assert_eq!(answer["tasks"][0]["repaired"], 25, "{odd}: {answer}");
        assert_eq!(organisation.emails().len(), 25, "{odd}");
    }
}

#[tokio::test]
async fn the_folder_after_a_deleted_one_is_listed_from_its_beginning() {
    const LATER: i64 = 10 * 24 * 60 * 60;
    let mut organisation = TestOrganisation::start().await;
    add_imap_mailbox(&organisation);
    let nylas = organisation.emulators.nylas().clone();
    for folder in ["INBOX", "Sent", "Drafts", "Junk", "Trash"] {
        nylas.remove_folder(IMAP, folder);
    }
    // Folders are listed in the order of the digests of their ids.
    let mut folders = ["Clients", "Suppliers"];
    folders.sort_by_key(|id| digest(id));
    let [first, second] = folders;
    for folder in folders {
        nylas.add_folder(IMAP, json!({"id": folder, "name": folder}));
    }
    fill(&organisation, IMAP, "first", 25, first);
    // These are newer than where the list of the first folder would restart.
    for n in 0..3 {
        let date = json!({"date": OLD + LATER + n, "folders": [second]});
        organisation.put(IMAP, nylas_message(&format!("second{n}"), &date));
    }
    let history = History::of(&organisation).await;
    let run_id = history.ask(&mut organisation, IMAP).await;
    use_small_pages(&organisation, &run_id, IMAP).await;
    // No time is left after the list of the cache and the first page of the first folder.
    let begin = organisation.begin_until_page(2, TimeDelta::seconds(59));
    let task = history.tasks.receive(1).remove(0);
    let event = delivery(&task.body, 1);
    let answer = history.backfill.handle(&event, &begin).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([]));
    assert_eq!((nylas.pages(), organisation.emails().len()), (2, 20));
    nylas.remove_folder(IMAP, first);
    organisation.later(TimeDelta::hours(1));
    history.process_queue(&mut organisation).await;
    let answer = history.answer(&mut organisation, &run_id).await;
    assert_eq!(answer["ended"], json!(true), "{answer}");
    assert_eq!(numbers(&answer), [23, 23, 0, 0, 0]);
    assert_eq!(organisation.emails().len(), 23);
}

#[tokio::test]
async fn a_mailbox_is_kept_for_a_task_that_returns_within_15_minutes_and_for_no_other() {
    const SIX_HOURS: u64 = 6 * 60 * 60;
    for (seconds, is_kept) in [(899, true), (900, true), (901, false), (SIX_HOURS, false)] {
        let mut organisation = TestOrganisation::start().await;
        fill(&organisation, ADA, "m", 3, "INBOX");
        let history = History::of(&organisation).await;
        history.ask(&mut organisation, ADA).await;
        organisation.fail_nylas_at("/messages?", throttled("rate_limit_error", seconds));
        assert_eq!(history.process_queue(&mut organisation).await, 0);
        let (first, delay) = history.tasks.hidden().remove(0);
        assert_eq!(delay.as_secs(), seconds);
        // Another operator requests the mailbox as soon as Nylas can be asked again.
        organisation.later(TimeDelta::seconds(i64::try_from(seconds).unwrap() + 1));
        history.ask(&mut organisation, ADA).await;
        let processed = history.process_queue(&mut organisation).await;
        assert_eq!(processed, if is_kept { 0 } else { 3 }, "{seconds}");
        // The first task may begin in both cases.
        let answer = deliver(&history, &mut organisation, &first.body, 1).await;
        assert_eq!(answer["batchItemFailures"], json!([]), "{seconds}");
        assert_eq!(organisation.emails().len(), 3, "{seconds}");
    }
}

#[tokio::test]
async fn the_schedule_looks_again_at_what_was_skipped_for_its_place() {
    let mut organisation = TestOrganisation::start().await;
    organisation.set(&json!({"folders": {"except": ["Private"]}}));
    let nylas = organisation.emulators.nylas().clone();
    nylas.add_folder(ADA, json!({"id": "Label_1", "name": "Private"}));
    let places = [
        ("DRAFT", "draft"),
        ("SPAM", "spam"),
        ("TRASH", "trash"),
        ("Label_1", "folder"),
    ];
    for (folder, rule) in places {
        for id in [format!("{rule}-moved"), format!("{rule}-left")] {
            organisation.put(ADA, nylas_message(&id, &json!({"folders": [folder]})));
            assert_skipped(&organisation.deliver_one(ADA, &id).await, rule);
        }
    }
    // The webhooks about these changes are lost.
    for (_, rule) in places {
        let id = format!("{rule}-moved");
        organisation.put(ADA, nylas_message(&id, &json!({"folders": ["INBOX"]})));
    }
    // After a minute, the capacity that these deliveries reserved is free again.
    organisation.later(TimeDelta::minutes(1));
    organisation.list_mailboxes().await;
    for (_, rule) in places {
        let moved = organisation
            .entry(ADA, &format!("{rule}-moved"))
            .await
            .unwrap();
        assert_eq!(moved.state, State::Written, "{rule}");
        let left = organisation
            .entry(ADA, &format!("{rule}-left"))
            .await
            .unwrap();
        assert_eq!(
            (left.state, left.reason.as_deref()),
            (State::Skipped, Some(rule))
        );
    }
    assert_eq!(organisation.emails().len(), places.len());
}
