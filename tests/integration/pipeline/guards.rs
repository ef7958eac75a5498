//! Tests rows and messages that are easily confused, and rows or files that block a message.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::model::sync_request::Trigger;
use serde_json::json;

use crate::test_organisation::{
    ADA, ATTACH, BEN, CREATE, UPDATE, World, assert_skipped, dead, id_of, mail, status, waiting,
    work, written,
};

in_both_write_modes!(
    whoever_repeats_a_message_id_does_not_swallow_another_mail,
    a_message_that_was_given_up_is_written_when_it_is_sent_again,
    a_file_that_nylas_refuses_costs_itself_and_not_the_mail,
    a_row_of_somebody_else_carries_the_mail_even_if_its_regarding_cannot_be_filled,
    a_draft_of_somebody_else_carries_no_mail,
    a_row_that_another_client_wrote_meanwhile_is_found_although_a_key_of_the_organisation_refuses_ours,
    a_draft_that_a_key_of_the_organisation_keeps_in_our_way_is_given_up_in_the_end,
    a_refusal_whose_meaning_cannot_be_found_out_now_is_not_final,
);

/// Adds a file to Ada's message `m1`.
fn attach_a_file(world: &World) {
    let file = json!({"id": "a1", "filename": "a.pdf", "content_type": "application/pdf"});
    world
        .emulators
        .nylas()
        .add_attachment(ADA, "m1", file, b"%PDF".to_vec());
}

const SAME_ID: &str = "<same@x.example>";

fn with_id(id: &str, from: &str) -> serde_json::Value {
    let headers = json!([{"name": "Message-ID", "value": SAME_ID}]);
    mail(id, &json!({"headers": headers, "from": [{"email": from}]}))
}

async fn whoever_repeats_a_message_id_does_not_swallow_another_mail(mode: WriteMode) {
    let mut world = World::start_in(mode).await;
    world.put(ADA, with_id("m1", "mallory@outside.example"));
    world.put(ADA, with_id("m2", "carol@kites.example"));
    written(&world.deliver_one(ADA, "m1").await);
    written(&world.deliver_one(ADA, "m2").await);
    let senders: Vec<String> = world
        .emails()
        .iter()
        .map(|email| email["sender"].to_string())
        .collect();
    assert_eq!(
        senders,
        ["\"mallory@outside.example\"", "\"carol@kites.example\""]
    );
}

async fn a_message_that_was_given_up_is_written_when_it_is_sent_again(mode: WriteMode) {
    let mut world = World::start_in(mode).await;
    world.put(ADA, mail("m1", &json!({})));
    world.fail_dataverse_at(CREATE, status(503, ""));
    world.has_failed(ADA, "m1", 9).await;
    let last = world.deliver_one(ADA, "m1").await;
    assert!(dead(&last).starts_with("gave up after 10 failures"));
    written(&world.deliver_one(ADA, "m1").await);
    world.email();
}

#[tokio::test]
async fn a_message_that_a_list_shows_is_not_gone() {
    let mut world = World::start().await;
    world.put(ADA, mail("m1", &json!({})));
    let message = world.emulators.nylas().message(ADA, "m1").unwrap();
    world.emulators.nylas().remove_message(ADA, "m1");
    world.has_failed(ADA, "m1", 4).await;
    assert_skipped(&world.deliver_one(ADA, "m1").await, "gone");
    world.put(ADA, message);
    let listed = world.run(vec![work(ADA, "m1", Trigger::Backfill, 1)]).await;
    written(&listed[0].fate);
}

#[tokio::test]
async fn a_mail_too_large_for_one_request_is_written_step_by_step() {
    let mut world = World::start().await;
    world.put(ADA, mail("m1", &json!({})));
    attach_a_file(&world);
    world.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    written(&world.deliver_one(ADA, "m1").await);
    assert_eq!(world.attachments().len(), 1);
    assert_eq!(world.email()["statecode"], 1);
}

async fn a_file_that_nylas_refuses_costs_itself_and_not_the_mail(mode: WriteMode) {
    let mut world = World::start_in(mode).await;
    world.put(ADA, mail("m1", &json!({})));
    attach_a_file(&world);
    world.fail_nylas_at("/attachments/", status(400, "invalid_request_error"));
    let note = written(&world.deliver_one(ADA, "m1").await)
        .1
        .map(str::to_owned);
    assert_eq!(note.as_deref(), Some("left out: attachment"));
    assert_eq!(world.email()["notifications"], 1);
}

async fn a_row_of_somebody_else_carries_the_mail_even_if_its_regarding_cannot_be_filled(
    mode: WriteMode,
) {
    let mut world = World::start_in(mode).await;
    let theirs = world.insert(
        "email",
        json!({"messageid": SAME_ID, "sender": "carol@kites.example", "statecode": 1, "statuscode": 4}),
    );
    world.put(ADA, with_id("m1", "carol@kites.example"));
    world.fail_dataverse_at(UPDATE, status(400, "0x80040265"));
    let fate = world.deliver_one(ADA, "m1").await;
    let (id, note) = written(&fate);
    assert_eq!(id, theirs);
    assert!(note.unwrap().contains("could not be filled"));
}

async fn a_draft_of_somebody_else_carries_no_mail(mode: WriteMode) {
    let mut world = World::start_in(mode).await;
    let draft = world.insert(
        "email",
        json!({"messageid": SAME_ID, "statecode": 0, "statuscode": 1, "subject": "a draft"}),
    );
    world.put(ADA, with_id("m1", "carol@kites.example"));
    let fate = world.deliver_one(ADA, "m1").await;
    assert_ne!(written(&fate).0, draft);
}

#[tokio::test]
async fn a_mail_that_another_worker_completed_meanwhile_is_written() {
    let mut world = World::start().await;
    world.put(ADA, with_id("m1", "carol@kites.example"));
    attach_a_file(&world);
    // The change set is too large. Before the first file is sent separately, the other worker
    // completes the row.
    world.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    let other = world.another_pipeline().await;
    let mut run = world.begin();
    run.token = mailverse::ledger::ClaimToken::new(uuid::Uuid::from_u128(99));
    world.put(BEN, with_id("m2", "carol@kites.example"));
    // A separate request has its headers in lower case; a part of a batch does not.
    let alone = format!("{ATTACH}/1.1\r\ncontent-type");
    world.before_dataverse_gets(&alone, async move {
        let fates = other
            .run(vec![work(BEN, "m2", Trigger::Created, 1)], run)
            .await;
        written(&fates[0].fate);
    });
    let fate = world.deliver_one(ADA, "m1").await;
    let (id, note) = written(&fate);
    assert_eq!((id, note), (id_of(&world.email()), Some("already existed")));
}

/// Starts a pipeline whose organisation has an alternate key on Message-IDs, and puts a message.
async fn with_a_key(mode: WriteMode) -> World {
    let world = World::start_in(mode).await;
    let dataverse = world.emulators.dataverse();
    dataverse
        .add_alternate_key("email", &["messageid"])
        .unwrap();
    world.put(ADA, with_id("m1", "carol@kites.example"));
    world
}

async fn a_row_that_another_client_wrote_meanwhile_is_found_although_a_key_of_the_organisation_refuses_ours(
    mode: WriteMode,
) {
    let mut world = with_a_key(mode).await;
    let dataverse = world.emulators.dataverse().clone();
    let theirs = uuid::Uuid::from_u128(7);
    world.before_dataverse_gets(CREATE, async move {
        let row =
            json!({"activityid": theirs, "messageid": SAME_ID, "statecode": 1, "statuscode": 4});
        dataverse.insert("email", row).unwrap();
    });
    let fate = world.deliver_one(ADA, "m1").await;
    let reason = "a dataverse row changed in the meantime: 412 0x80060892";
    assert_eq!(waiting(&fate).1, reason);
    let fate = world.deliver_one(ADA, "m1").await;
    let note = Some("written by another client, found by its Message-ID");
    assert_eq!(written(&fate), (theirs, note));
    world.email();
}

async fn a_draft_that_a_key_of_the_organisation_keeps_in_our_way_is_given_up_in_the_end(
    mode: WriteMode,
) {
    let mut world = with_a_key(mode).await;
    world.insert("email", json!({"messageid": SAME_ID, "subject": "a draft"}));
    waiting(&world.deliver_one(ADA, "m1").await);
    world.has_failed(ADA, "m1", 8).await;
    let last = world.deliver_one(ADA, "m1").await;
    let reason = dead(&last);
    assert!(reason.starts_with("gave up after 10 failures"), "{reason}");
    assert!(reason.contains("0x80060892"), "{reason}");
    assert_eq!(world.email()["statecode"], 0, "the draft is unchanged");
}

async fn a_refusal_whose_meaning_cannot_be_found_out_now_is_not_final(mode: WriteMode) {
    let mut world = World::start_in(mode).await;
    world.put(ADA, with_id("m1", "carol@kites.example"));
    let file = json!({"id": "a1", "filename": "a.pdf", "content_type": "application/pdf"});
    let nylas = world.emulators.nylas();
    nylas.add_attachment(ADA, "m1", file, b"%PDF".to_vec());
    if mode == WriteMode::ChangeSet {
        world.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    }
    // The rejection looks as if another worker had completed the row, and the query that would
    // confirm it fails.
    let alone = format!("{ATTACH}/1.1\r\ncontent-type");
    world.fail_dataverse_at(&alone, status(400, "0x80040203"));
    world.fail_dataverse_at("GET /api/data/v9.2/emails(", status(503, ""));
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&fate).1, "dataverse is unavailable: 503");
    written(&world.deliver_one(ADA, "m1").await);
    assert_eq!(world.attachments().len(), 1);
}
