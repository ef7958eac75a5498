//! Tests rows and messages that are easily confused, and rows or files that block a message.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::model::sync_request::Trigger;
use serde_json::json;

use crate::test_organisation::{
    ADA, ATTACH, BEN, CREATE, TestOrganisation, UPDATE, assert_skipped, dead, id_of, nylas_message,
    status, waiting, work, written,
};

in_both_write_modes!(
    a_message_with_a_reused_message_id_does_not_prevent_another_from_being_written,
    a_given_up_message_is_written_when_it_is_delivered_again,
    a_file_that_nylas_rejects_is_omitted_and_the_email_is_written,
    an_external_row_is_adopted_even_if_its_regarding_cannot_be_filled,
    an_external_draft_is_not_adopted,
    a_concurrent_external_row_is_adopted_after_an_alternate_key_rejects_the_own_row,
    a_message_blocked_by_a_draft_with_the_same_alternate_key_is_finally_given_up,
    a_rejection_that_cannot_be_confirmed_now_is_retried,
);

/// Adds a file to Ada's message `m1`.
fn attach_a_file(organisation: &TestOrganisation) {
    let file = json!({"id": "a1", "filename": "a.pdf", "content_type": "application/pdf"});
    organisation
        .emulators
        .nylas()
        .add_attachment(ADA, "m1", file, b"%PDF".to_vec());
}

const SAME_ID: &str = "<same@x.example>";

fn with_id(id: &str, from: &str) -> serde_json::Value {
    let headers = json!([{"name": "Message-ID", "value": SAME_ID}]);
    nylas_message(id, &json!({"headers": headers, "from": [{"email": from}]}))
}

async fn a_message_with_a_reused_message_id_does_not_prevent_another_from_being_written(
    mode: WriteMode,
) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, with_id("m1", "mallory@outside.example"));
    organisation.put(ADA, with_id("m2", "carol@kites.example"));
    written(&organisation.deliver_one(ADA, "m1").await);
    written(&organisation.deliver_one(ADA, "m2").await);
    let senders: Vec<String> = organisation
        .emails()
        .iter()
        .map(|email| email["sender"].to_string())
        .collect();
    assert_eq!(
        senders,
        ["\"mallory@outside.example\"", "\"carol@kites.example\""]
    );
}

async fn a_given_up_message_is_written_when_it_is_delivered_again(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.fail_dataverse_at(CREATE, status(503, ""));
    organisation.has_failed(ADA, "m1", 9).await;
    let last = organisation.deliver_one(ADA, "m1").await;
    assert!(dead(&last).starts_with("gave up after 10 failures"));
    written(&organisation.deliver_one(ADA, "m1").await);
    organisation.email();
}

#[tokio::test]
async fn a_message_skipped_as_gone_is_written_when_backfill_lists_it() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let message = organisation.emulators.nylas().message(ADA, "m1").unwrap();
    organisation.emulators.nylas().remove_message(ADA, "m1");
    organisation.has_failed(ADA, "m1", 4).await;
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "gone");
    organisation.put(ADA, message);
    let listed = organisation
        .run(vec![work(ADA, "m1", Trigger::Backfill, 1)])
        .await;
    written(&listed[0].outcome);
}

#[tokio::test]
async fn an_email_whose_change_set_gets_413_is_written_in_steps() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    attach_a_file(&organisation);
    organisation.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.attachments().len(), 1);
    assert_eq!(organisation.email()["statecode"], 1);
}

async fn a_file_that_nylas_rejects_is_omitted_and_the_email_is_written(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    attach_a_file(&organisation);
    organisation.fail_nylas_at("/attachments/", status(400, "invalid_request_error"));
    let note = written(&organisation.deliver_one(ADA, "m1").await)
        .1
        .map(str::to_owned);
    assert_eq!(note.as_deref(), Some("left out: attachment"));
    assert_eq!(organisation.email()["notifications"], 1);
}

async fn an_external_row_is_adopted_even_if_its_regarding_cannot_be_filled(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let external_row = organisation.insert(
        "email",
        json!({"messageid": SAME_ID, "sender": "carol@kites.example", "statecode": 1, "statuscode": 4}),
    );
    organisation.put(ADA, with_id("m1", "carol@kites.example"));
    organisation.fail_dataverse_at(UPDATE, status(400, "0x80040265"));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (id, note) = written(&outcome);
    assert_eq!(id, external_row);
    assert!(note.unwrap().contains("could not be filled"));
}

async fn an_external_draft_is_not_adopted(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let draft = organisation.insert(
        "email",
        json!({"messageid": SAME_ID, "statecode": 0, "statuscode": 1, "subject": "a draft"}),
    );
    organisation.put(ADA, with_id("m1", "carol@kites.example"));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_ne!(written(&outcome).0, draft);
}

#[tokio::test]
async fn a_message_that_another_worker_completed_meanwhile_is_written() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, with_id("m1", "carol@kites.example"));
    attach_a_file(&organisation);
    // The change set is too large. Before the first file is sent separately, the other worker
    // completes the row.
    organisation.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    let other = organisation.another_pipeline().await;
    let mut run = organisation.begin();
    run.token = mailverse::ledger::ClaimToken::new(uuid::Uuid::from_u128(99));
    organisation.put(BEN, with_id("m2", "carol@kites.example"));
    // A separate request has its headers in lower case; a part of a batch does not.
    let alone = format!("{ATTACH}/1.1\r\ncontent-type");
    organisation.before_dataverse_gets(&alone, async move {
        let outcomes = other
            .run(vec![work(BEN, "m2", Trigger::Created, 1)], run)
            .await;
        written(&outcomes[0].outcome);
    });
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (id, note) = written(&outcome);
    assert_eq!(
        (id, note),
        (id_of(&organisation.email()), Some("already existed"))
    );
}

/// Starts a pipeline whose organisation has an alternate key on Message-IDs, and puts a message.
async fn with_a_key(mode: WriteMode) -> TestOrganisation {
    let organisation = TestOrganisation::start_in(mode).await;
    let dataverse = organisation.emulators.dataverse();
    dataverse
        .add_alternate_key("email", &["messageid"])
        .unwrap();
    organisation.put(ADA, with_id("m1", "carol@kites.example"));
    organisation
}

async fn a_concurrent_external_row_is_adopted_after_an_alternate_key_rejects_the_own_row(
    mode: WriteMode,
) {
    let mut organisation = with_a_key(mode).await;
    let dataverse = organisation.emulators.dataverse().clone();
    let external_row = uuid::Uuid::from_u128(7);
    organisation.before_dataverse_gets(CREATE, async move {
        let row =
            json!({"activityid": external_row, "messageid": SAME_ID, "statecode": 1, "statuscode": 4});
        dataverse.insert("email", row).unwrap();
    });
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let reason = "a dataverse row changed in the meantime: 412 0x80060892";
    assert_eq!(waiting(&outcome).1, reason);
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let note = Some("written by another client, found by its Message-ID");
    assert_eq!(written(&outcome), (external_row, note));
    organisation.email();
}

async fn a_message_blocked_by_a_draft_with_the_same_alternate_key_is_finally_given_up(
    mode: WriteMode,
) {
    let mut organisation = with_a_key(mode).await;
    organisation.insert("email", json!({"messageid": SAME_ID, "subject": "a draft"}));
    waiting(&organisation.deliver_one(ADA, "m1").await);
    organisation.has_failed(ADA, "m1", 8).await;
    let last = organisation.deliver_one(ADA, "m1").await;
    let reason = dead(&last);
    assert!(reason.starts_with("gave up after 10 failures"), "{reason}");
    assert!(reason.contains("0x80060892"), "{reason}");
    assert_eq!(
        organisation.email()["statecode"],
        0,
        "the draft is unchanged"
    );
}

async fn a_rejection_that_cannot_be_confirmed_now_is_retried(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, with_id("m1", "carol@kites.example"));
    let file = json!({"id": "a1", "filename": "a.pdf", "content_type": "application/pdf"});
    let nylas = organisation.emulators.nylas();
    nylas.add_attachment(ADA, "m1", file, b"%PDF".to_vec());
    if mode == WriteMode::ChangeSet {
        organisation.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    }
    // The rejection looks as if another worker had completed the row, and the query that would
    // confirm it fails.
    let alone = format!("{ATTACH}/1.1\r\ncontent-type");
    organisation.fail_dataverse_at(&alone, status(400, "0x80040203"));
    organisation.fail_dataverse_at("GET /api/data/v9.2/emails(", status(503, ""));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&outcome).1, "dataverse is unavailable: 503");
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.attachments().len(), 1);
}
