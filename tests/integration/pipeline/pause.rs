//! Tests a 429 or 401 from Dataverse halfway through a batch: nothing more is sent, and the rest of
//! the batch waits for the same reason.
//!
//! Also tests a pause that another worker stored, and an invocation whose time runs out.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::State;
use mailverse::model::sync_request::Trigger;
use mailverse::pipeline::Outcome;
use mailverse::pipeline::preview::PreviewOutcome;
use mailverse::rate_limit::ApplicationUser;
use serde_json::json;

use crate::test_organisation::{
    ADA, CREATE, LOOK_UP, TestOrganisation, UPDATE, created, nylas_message, status, throttled,
    waiting, work, written,
};

const IDS: [&str; 4] = ["m1", "m2", "m3", "m4"];

/// Number of queries in a lookup of one page of people and messages.
const LOOK_UP_QUERIES: u64 = 6;

/// Puts four messages into Ada's mailbox. The first `with_files` of them have a file.
async fn four_mails(mode: WriteMode, with_files: usize) -> TestOrganisation {
    let organisation = TestOrganisation::start_in(mode).await;
    for (n, id) in IDS.into_iter().enumerate() {
        organisation.put(ADA, nylas_message(id, &json!({})));
        if n < with_files {
            attach(&organisation, id);
        }
    }
    organisation
}

fn attach(organisation: &TestOrganisation, id: &str) {
    let file = json!({"id": format!("file-of-{id}"), "filename": "a.pdf", "content_type": "application/pdf"});
    let nylas = organisation.emulators.nylas();
    nylas.add_attachment(ADA, id, file, b"%PDF".to_vec());
}

fn throttle() -> emulators::Fault {
    throttled("0x80072322", 77)
}

async fn deliver(organisation: &mut TestOrganisation) -> Vec<Outcome> {
    organisation.deliver(&IDS.map(|id| (ADA, id))).await
}

/// Asserts that these messages wait as long as Dataverse said, that this many requests were sent in
/// all, and that the next delivery writes every message.
async fn wait_and_are_then_written(
    mut organisation: TestOrganisation,
    waiting_ones: &[&Outcome],
    requests: u64,
) {
    for outcome in waiting_ones {
        let throttled = "dataverse throttled the call";
        assert_eq!(
            (waiting(outcome).0.as_secs(), waiting(outcome).1),
            (77, throttled)
        );
    }
    assert_eq!(
        organisation.emulators.dataverse().requests().total,
        requests
    );
    organisation.pause_over();
    for outcome in deliver(&mut organisation).await {
        written(&outcome);
    }
    assert_eq!(organisation.emails().len(), IDS.len());
}

#[tokio::test]
async fn the_single_writes_of_a_split_batch_stop_after_a_429() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    organisation.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    organisation.fail_dataverse_at(CREATE, throttle());
    let outcomes = deliver(&mut organisation).await;
    // The lookup, the batch, and the first single message.
    wait_and_are_then_written(organisation, &outcomes.iter().collect::<Vec<_>>(), 3).await;
}

#[tokio::test]
async fn the_single_lookups_of_a_split_batch_stop_after_a_429() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    organisation.fail_dataverse_at(LOOK_UP, status(400, "0x80060888"));
    organisation.fail_dataverse_at(LOOK_UP, throttle());
    let outcomes = deliver(&mut organisation).await;
    wait_and_are_then_written(organisation, &outcomes.iter().collect::<Vec<_>>(), 2).await;
}

#[tokio::test]
async fn no_further_files_are_fetched_and_no_emails_sent_after_a_429() {
    let mut organisation = four_mails(WriteMode::ChangeSet, IDS.len()).await;
    // This caches what a pipeline requests once: mailboxes and folders.
    organisation.put(ADA, nylas_message("m0", &json!({})));
    written(&organisation.deliver_one(ADA, "m0").await);
    let (nylas, dataverse) = (
        organisation.emulators.nylas().clone(),
        organisation.emulators.dataverse().clone(),
    );
    let before = (nylas.requests(), dataverse.requests().total);
    organisation.fail_dataverse_at(CREATE, throttle());
    for outcome in deliver(&mut organisation).await {
        assert_eq!(waiting(&outcome).0.as_secs(), 77);
    }
    assert_eq!(
        nylas.requests() - before.0,
        4 + 1,
        "the four messages and one file are fetched"
    );
    assert_eq!(dataverse.requests().total - before.1, 2);
    organisation.pause_over();
    for outcome in deliver(&mut organisation).await {
        written(&outcome);
    }
}

#[tokio::test]
async fn in_stepwise_mode_no_further_step_is_sent_after_a_429() {
    for (step, requests) in [(CREATE, 2), (UPDATE, 3)] {
        let mut organisation = four_mails(WriteMode::Stepwise, 0).await;
        organisation.fail_dataverse_at(step, throttle());
        let outcomes = deliver(&mut organisation).await;
        wait_and_are_then_written(organisation, &outcomes.iter().collect::<Vec<_>>(), requests)
            .await;
    }
}

#[tokio::test]
async fn after_a_429_in_a_part_the_other_parts_are_written_and_nothing_more_is_sent() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    attach(&organisation, "m4");
    // Each message is a POST and a PATCH, so this is the POST of the second message. The fourth
    // has a file and would be written after the batch.
    let dataverse = organisation.emulators.dataverse();
    dataverse.fail_operation(LOOK_UP_QUERIES + 2, throttle());
    let outcomes = deliver(&mut organisation).await;
    written(&outcomes[0]);
    written(&outcomes[2]);
    wait_and_are_then_written(organisation, &[&outcomes[1], &outcomes[3]], 2).await;
}

#[tokio::test]
async fn after_a_429_in_a_part_of_the_lookup_nothing_is_written() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    organisation
        .emulators
        .dataverse()
        .fail_operation(1, throttle());
    let outcomes = deliver(&mut organisation).await;
    wait_and_are_then_written(organisation, &outcomes.iter().collect::<Vec<_>>(), 1).await;
}

#[tokio::test]
async fn after_a_429_for_an_external_row_nothing_is_written() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    let external_row = json!({"messageid": "<m1@kites.example>", "statecode": 1, "statuscode": 4});
    organisation.insert("email", external_row);
    organisation.fail_dataverse_at(UPDATE, throttle());
    let outcomes = deliver(&mut organisation).await;
    wait_and_are_then_written(organisation, &outcomes.iter().collect::<Vec<_>>(), 2).await;
}

#[tokio::test]
async fn a_second_batch_is_not_sent_after_a_429_for_the_first() {
    let mut organisation = TestOrganisation::start().await;
    let ids: Vec<String> = (0..120).map(|n| format!("m{n}")).collect();
    for id in &ids {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    let messages: Vec<(&str, &str)> = ids.iter().map(|id| (ADA, id.as_str())).collect();
    organisation.fail_dataverse_at(CREATE, throttle());
    for outcome in organisation.deliver(&messages).await {
        assert_eq!(waiting(&outcome).0.as_secs(), 77);
    }
    assert_eq!(organisation.emulators.dataverse().requests().total, 2);
    organisation.pause_over();
    for outcome in organisation.deliver(&messages).await {
        written(&outcome);
    }
    let requests = organisation.emulators.dataverse().requests().total;
    assert_eq!(requests, 2 + 3, "a lookup and two batches");
}

#[tokio::test]
async fn a_rejected_token_is_not_sent_again_in_the_same_invocation() {
    for mode in [WriteMode::ChangeSet, WriteMode::Stepwise] {
        let mut organisation = four_mails(mode, IDS.len()).await;
        let entra = organisation.emulators.entra().clone();
        organisation.before_dataverse_gets(CREATE, async move { entra.revoke_all() });
        for outcome in deliver(&mut organisation).await {
            assert_eq!(waiting(&outcome).1, "dataverse refused the token");
        }
        assert_eq!(organisation.emulators.dataverse().requests().total, 2);
        for outcome in deliver(&mut organisation).await {
            written(&outcome);
        }
        assert_eq!(
            organisation.emulators.entra().requests(),
            2,
            "the token is renewed once"
        );
    }
}

#[tokio::test]
async fn a_pause_applies_to_all_workers() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    organisation.fail_dataverse_at(CREATE, throttle());
    waiting(&organisation.deliver_one(ADA, "m1").await);
    let before = organisation.emulators.dataverse().requests().total;
    let nylas_before = organisation.pipeline.nylas.requests();

    let another = organisation.another_pipeline().await;
    organisation.later(TimeDelta::seconds(30));
    let run = organisation.begin();
    let work = IDS.map(|id| created(ADA, id)).into_iter().collect();
    for done in another.run(work, run).await {
        let (delay, reason) = waiting(&done.outcome);
        assert_eq!(reason, "dataverse asked for a pause");
        // The rest of the pause, which began when the 429 arrived.
        assert!((47..60).contains(&delay.as_secs()), "{delay:?}");
    }
    assert_eq!(organisation.emulators.dataverse().requests().total, before);
    assert_eq!(organisation.pipeline.nylas.requests(), nylas_before);
    assert_eq!(
        organisation.entry(ADA, "m2").await,
        None,
        "the message is not claimed"
    );
    organisation.pause_over();
    for outcome in deliver(&mut organisation).await {
        written(&outcome);
    }
}

#[tokio::test]
async fn a_pause_counts_from_the_429_and_not_from_the_start_of_the_invocation() {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    let mut run = organisation.begin();
    run.begun = *BEGUN;
    run.clock = || *BEGUN + Duration::from_secs(PASSED.load(Ordering::SeqCst));
    let (begun, dataverse) = (run.now, organisation.emulators.dataverse().clone());
    organisation.before_dataverse_gets(CREATE, async move {
        PASSED.store(60, Ordering::SeqCst);
        dataverse.fail_next(throttle());
    });
    let processed = organisation
        .pipeline
        .run(vec![created(ADA, "m1")], run)
        .await;
    assert_eq!(waiting(&processed[0].outcome).0.as_secs(), 77);
    let user = ApplicationUser::primary();
    let stored = organisation.pipeline.ledger.limiter_state(&user).await;
    let until = begun + TimeDelta::seconds(60 + 77);
    assert_eq!(stored.unwrap().pause(begun), Some(until));
    // So another worker waits for the last second of it.
    let another = organisation.another_pipeline().await;
    organisation.now = until - TimeDelta::seconds(1);
    let run = organisation.begin();
    let processed = another.run(vec![created(ADA, "m2")], run).await;
    let (delay, reason) = waiting(&processed[0].outcome);
    assert_eq!(
        (delay.as_secs(), reason),
        (1, "dataverse asked for a pause")
    );
    organisation.now = until;
    written(&organisation.deliver_one(ADA, "m2").await);
}

#[tokio::test]
async fn a_message_is_not_given_up_when_its_last_delivery_is_throttled() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    organisation.fail_dataverse_at(CREATE, throttle());
    let last = || vec![work(ADA, "m1", Trigger::Created, RECEIVE_LIMIT)];
    for reason in [
        "dataverse throttled the call",
        "dataverse asked for a pause",
    ] {
        assert_eq!(
            waiting(&organisation.run(last()).await[0].outcome).1,
            reason
        );
        // Until the worker has queued the message again, no queue has it, so `dead` is stored.
        let entry = organisation.entry(ADA, "m1").await.unwrap();
        assert_eq!((entry.state, entry.claimable), (State::Dead, true));
    }
    let later = organisation.now + TimeDelta::seconds(60);
    let key = created(ADA, "m1").request.key;
    assert!(
        organisation
            .pipeline
            .ledger
            .mark_requeued(&key, later)
            .await
            .unwrap()
    );
    let entry = organisation.entry(ADA, "m1").await.unwrap();
    assert_eq!((entry.state, entry.claimable), (State::Waiting, false));
    organisation.pause_over();
    written(&organisation.run(last()).await[0].outcome);
}

#[tokio::test]
async fn an_invocation_that_is_nearly_over_claims_no_message() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    organisation.invocation = TimeDelta::seconds(20);
    for outcome in deliver(&mut organisation).await {
        assert_eq!(
            waiting(&outcome).1,
            "the invocation had no time left for it"
        );
    }
    assert_eq!(organisation.emulators.dataverse().requests().total, 0);
    assert_eq!(
        organisation.entry(ADA, "m1").await,
        None,
        "the message is not claimed"
    );
}

#[tokio::test]
async fn an_invocation_that_runs_out_of_time_returns_the_unstarted_messages() {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let mut organisation = four_mails(WriteMode::Stepwise, 0).await;
    let mut run = organisation.begin();
    run.begun = *BEGUN;
    run.clock = || *BEGUN + Duration::from_secs(PASSED.load(Ordering::SeqCst));
    run.deadline = run.now + TimeDelta::seconds(120);
    // While the second email is created, all but 20 seconds pass.
    organisation.before_dataverse_gets("m2@kites.example", async {
        PASSED.store(100, Ordering::SeqCst);
    });
    let work = IDS.map(|id| created(ADA, id)).into_iter().collect();
    let processed = organisation.pipeline.run(work, run).await;
    let (done, returned) = processed.split_at(2);
    for one in done {
        written(&one.outcome);
    }
    for one in returned {
        assert_eq!(
            waiting(&one.outcome).1,
            "the invocation had no time left for it"
        );
    }
}

#[tokio::test]
async fn a_preview_sends_no_request_to_dataverse_during_a_pause() {
    let mut organisation = four_mails(WriteMode::ChangeSet, 0).await;
    let message = organisation.emulators.nylas().message(ADA, "m1").unwrap();
    let message =
        mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
    let ledger = &organisation.pipeline.ledger;
    let until = organisation.now + TimeDelta::minutes(1);
    ledger
        .pause(&ApplicationUser::primary(), until)
        .await
        .unwrap();
    let run = organisation.begin();
    let previews = organisation
        .pipeline
        .preview(vec![message.clone()], &run)
        .await;
    let untold = PreviewOutcome::Unknown {
        reason: "dataverse asked for a pause".to_owned(),
    };
    assert_eq!(previews.len(), 1);
    assert_eq!(
        (&previews[0].key, &previews[0].outcome),
        (&message.key, &untold)
    );
    assert_eq!(organisation.emulators.dataverse().requests().total, 0);
    organisation.pause_over();
    let run = organisation.begin();
    let previews = organisation.pipeline.preview(vec![message], &run).await;
    assert!(matches!(
        previews[0].outcome,
        PreviewOutcome::Tracked { .. }
    ));
}
