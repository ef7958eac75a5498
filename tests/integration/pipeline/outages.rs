//! Tests outages: a service does not answer, fails, or throttles.

use std::time::Duration;

use chrono::TimeDelta;
use emulators::Fault;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::entra::TokenError;
use mailverse::ledger::State;
use mailverse::model::sync_request::Trigger;
use mailverse::pipeline::Outcome;
use serde_json::json;

use crate::test_organisation::{
    ADA, BEN, CREATE, LOOK_UP, TestOrganisation, dead, id_of, nylas_message, people, status,
    throttled, waiting, with_a_mail, with_a_mail_in, work, written,
};

in_both_write_modes!(
    an_outage_of_dataverse_delays_a_message_without_a_duplicate_row,
    a_message_waits_at_least_for_the_retry_after_of_dataverse,
    a_token_that_dataverse_rejects_is_replaced_for_the_next_attempt,
    a_throttled_write_delays_the_whole_batch_and_loses_no_message,
);

/// First step of the backoff, in seconds.
const FIRST_STEP: u64 = 30;

/// Asserts that a message waits this long without a claim, and that the next run writes it as one
/// completed row.
async fn waits_and_is_then_written(mut organisation: TestOrganisation, seconds: u64, what: &str) {
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&outcome).0.as_secs(), seconds, "{what}");
    let entry = organisation
        .entry(ADA, "m1")
        .await
        .expect("the message has a ledger item");
    assert_eq!((entry.state, entry.held), (State::Waiting, None), "{what}");
    assert_eq!(entry.reason.as_deref(), outcome.reason(), "{what}");
    organisation.pause_over();
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let email = organisation.email();
    assert_eq!(written(&outcome).0, id_of(&email), "{what}");
    assert_eq!(email["statecode"], 1, "{what}");
}

async fn an_outage_of_dataverse_delays_a_message_without_a_duplicate_row(mode: WriteMode) {
    for request in [LOOK_UP, CREATE] {
        for fault in [
            status(503, ""),
            status(500, "0x80044150"),
            Fault::ResetBefore,
            Fault::ResetAfterCommit,
        ] {
            let what = format!("{fault:?} at {request}");
            let organisation = with_a_mail_in(mode).await;
            organisation.fail_dataverse_at(request, fault);
            waits_and_is_then_written(organisation, FIRST_STEP, &what).await;
        }
    }
}

#[tokio::test]
async fn an_outage_of_nylas_delays_a_message() {
    for request in [
        "/messages/m1?",
        "/v3/grants?",
        "/v3/grants/grant-ada?expose_aliases",
        "/folders?",
    ] {
        for fault in [
            status(504, "provider_error"),
            Fault::ResetBefore,
            Fault::ResetAfterCommit,
        ] {
            let what = format!("{fault:?} at {request}");
            let organisation = with_a_mail().await;
            organisation.fail_nylas_at(request, fault);
            waits_and_is_then_written(organisation, FIRST_STEP, &what).await;
        }
    }
}

async fn a_message_waits_at_least_for_the_retry_after_of_dataverse(mode: WriteMode) {
    for request in [LOOK_UP, CREATE] {
        let organisation = with_a_mail_in(mode).await;
        organisation.fail_dataverse_at(request, throttled("0x80072322", 77));
        waits_and_is_then_written(organisation, 77, request).await;
    }
}

#[tokio::test]
async fn a_message_waits_at_least_for_the_retry_after_of_nylas() {
    let organisation = with_a_mail().await;
    organisation.fail_nylas_at("/messages/m1?", throttled("rate_limit_error", 41));
    waits_and_is_then_written(organisation, 41, "nylas").await;
}

#[tokio::test]
async fn an_outage_of_entra_delays_a_message_without_a_claim() {
    for fault in [status(503, "temporarily_unavailable"), Fault::ResetBefore] {
        let mut organisation = with_a_mail().await;
        let what = format!("{fault:?}");
        organisation.emulators.entra().fail_next(fault);
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(waiting(&outcome).0, TokenError::WAIT, "{what}");
        assert_eq!(
            organisation.entry(ADA, "m1").await,
            None,
            "{what}: the message is not claimed"
        );
        assert_eq!(organisation.pipeline.nylas.requests(), 0, "{what}");
        organisation.later(TimeDelta::minutes(5));
        written(&organisation.deliver_one(ADA, "m1").await);
    }
}

async fn a_token_that_dataverse_rejects_is_replaced_for_the_next_attempt(mode: WriteMode) {
    for request in [LOOK_UP, CREATE] {
        let mut organisation = with_a_mail_in(mode).await;
        organisation.put(ADA, nylas_message("m0", &json!({})));
        organisation.deliver_one(ADA, "m0").await;
        let entra = organisation.emulators.entra().clone();
        organisation.before_dataverse_gets(request, async move { entra.revoke_all() });
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(
            waiting(&outcome),
            (
                Duration::from_secs(FIRST_STEP),
                "dataverse refused the token"
            )
        );
        assert_eq!(
            organisation.emulators.entra().requests(),
            1,
            "the first token was used until now"
        );
        written(&organisation.deliver_one(ADA, "m1").await);
        assert_eq!(organisation.emails().len(), 2);
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_its_expiry() {
    let mut organisation = with_a_mail().await;
    organisation.put(ADA, nylas_message("m2", &json!({})));
    organisation.deliver_one(ADA, "m1").await;
    organisation.later(TimeDelta::seconds(3_599 - 299));
    written(&organisation.deliver_one(ADA, "m2").await);
    assert_eq!(organisation.emulators.entra().requests(), 2);
}

#[tokio::test]
async fn nothing_is_requested_while_the_ledger_is_unavailable() {
    let mut organisation = with_a_mail().await;
    organisation.drop_ledger().await;
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (delay, reason) = waiting(&outcome);
    assert_eq!(delay.as_secs(), FIRST_STEP);
    assert!(reason.starts_with("the ledger is unavailable"), "{reason}");
    assert_eq!(organisation.emulators.nylas().requests(), 0);
    assert!(organisation.emails().is_empty());
}

#[tokio::test]
async fn messages_of_a_mailbox_with_an_expired_grant_wait_and_others_are_written() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(
        BEN,
        nylas_message("m2", &json!({"to": people(&["ben@ours.example"])})),
    );
    organisation
        .emulators
        .nylas()
        .set_grant_status(BEN, "invalid");
    let outcomes = organisation.deliver(&[(ADA, "m1"), (BEN, "m2")]).await;
    written(&outcomes[0]);
    let (delay, reason) = waiting(&outcomes[1]);
    let minutes = delay.as_secs_f64() / 60.0;
    assert!(
        (14.0..=15.0).contains(&minutes),
        "the mailbox pauses until a user signs in again"
    );
    assert!(reason.contains("check the grant's status"), "{reason}");
    organisation
        .emulators
        .nylas()
        .set_grant_status(BEN, "valid");
    organisation.later(TimeDelta::minutes(16));
    written(&organisation.deliver_one(BEN, "m2").await);
}

#[tokio::test]
async fn the_backoff_grows_with_each_failure_and_after_the_tenth_the_message_is_dead() {
    let mut organisation = with_a_mail().await;
    for seconds in [30, 120, 480] {
        organisation.fail_dataverse_at(LOOK_UP, status(503, ""));
        // The receive count of the queue does not affect the backoff.
        let processed = organisation
            .run(vec![work(ADA, "m1", Trigger::Created, 7)])
            .await;
        assert_eq!(waiting(&processed[0].outcome).0.as_secs(), seconds);
    }
    organisation.has_failed(ADA, "m1", 6).await;
    organisation.fail_dataverse_at(LOOK_UP, status(503, ""));
    let processed = organisation
        .run(vec![work(ADA, "m1", Trigger::Created, 7)])
        .await;
    assert_eq!(
        dead(&processed[0].outcome),
        "gave up after 10 failures: dataverse is unavailable: 503"
    );
    assert!(matches!(
        processed[0].outcome,
        Outcome::Dead {
            attempts_exhausted: true,
            ..
        }
    ));
    assert_eq!(
        organisation.entry(ADA, "m1").await.unwrap().state,
        State::Dead
    );
    assert!(organisation.emails().is_empty());
}

async fn a_throttled_write_delays_the_whole_batch_and_loses_no_message(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let ids = ["m1", "m2", "m3"];
    for id in ids {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    organisation.fail_dataverse_at(CREATE, throttled("0x80072326", 60));
    let messages = ids.map(|id| (ADA, id));
    for outcome in organisation.deliver(&messages).await {
        assert_eq!(waiting(&outcome).0.as_secs(), 60);
    }
    organisation.pause_over();
    for outcome in organisation.deliver(&messages).await {
        written(&outcome);
    }
    assert_eq!(organisation.emails().len(), 3);
}

#[tokio::test]
async fn a_failed_query_of_a_lookup_delays_the_batch() {
    let organisation = with_a_mail().await;
    organisation
        .emulators
        .dataverse()
        .fail_operation(2, status(503, ""));
    waits_and_is_then_written(organisation, FIRST_STEP, "one query").await;
}
