//! Tests two different messages with the same Message-ID and sender.
//! `end_to_end/shared_message_ids.rs` does the same with the compiled functions.

use chrono::TimeDelta;
use emulators::Setting;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::ledger::ClaimToken;
use mailverse::policy::document::CreateContacts;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, created, key, nylas_message, status, waiting, written,
};

in_both_write_modes!(
    an_open_row_is_not_completed_with_another_message_of_the_same_message_id,
    a_row_is_still_found_after_a_user_changed_its_subject,
    a_concurrently_written_row_is_also_compared_by_its_body,
    messages_stored_without_a_body_are_distinguished_by_date_and_subject,
    messages_stored_without_subject_and_body_share_one_row,
    an_external_row_of_another_message_is_not_merged_with_the_own_row,
    a_message_is_written_although_an_external_draft_has_its_message_id,
    both_messages_are_written_despite_an_alternate_key_on_message_ids,
    a_second_key_conflict_without_a_visible_row_makes_the_message_wait,
    a_contact_rejected_for_another_key_is_not_taken_for_an_existing_one,
);

const ID: &str = "<m1@kites.example>";
const FIRST_DATE: i64 = 1_795_150_000;
const DAY: i64 = 86_400;

/// Returns another message from Carol with the Message-ID of `m1`.
fn second(id: &str, changes: &Value) -> Value {
    let mut second = nylas_message(
        id,
        &json!({
            "subject": "Kites for autumn", "body": "<p>Not one of the red ones flies.</p>", "date": FIRST_DATE + 3 * DAY,
            "headers": [{"name": "Message-ID", "value": ID}],
        }),
    );
    let fields = second.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    second
}

impl TestOrganisation {
    /// Inserts the row of `m1`, of which the ledger knows nothing, and returns its id.
    fn row_of_m1(&self, changes: &Value) -> Uuid {
        let message = self.emulators.nylas().message(ADA, "m1").unwrap();
        let message =
            mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
        let mut row = json!({
            "activityid": message.activity_id(), "subject": message.subject, "messageid": ID, "sender": "carol@kites.example",
            "description": message.body, "actualstart": "2026-11-20T04:46:40Z", "sortdate": "2026-11-20T04:46:40Z",
        });
        assert_eq!(
            message.date.unwrap().to_rfc3339(),
            "2026-11-20T04:46:40+00:00"
        );
        let fields = row.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        self.insert("email", row)
    }

    fn states(&self) -> Vec<Value> {
        let emails = self.emails();
        emails
            .iter()
            .map(|email| email["statecode"].clone())
            .collect()
    }
}

async fn an_open_row_is_not_completed_with_another_message_of_the_same_message_id(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(ADA, second("m2", &json!({})));
    let draft = organisation.row_of_m1(&json!({}));
    let outcome = organisation.deliver_one(ADA, "m2").await;
    let (row, note) = written(&outcome);
    assert_ne!(row, draft);
    assert_eq!(note, Some("left out: message_id_reused"));
    assert_eq!(organisation.states(), [0, 1]);
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).0, draft);
    assert_eq!(organisation.states(), [1, 1]);
}

async fn a_row_is_still_found_after_a_user_changed_its_subject(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let headers = json!([{"name": "Message-ID", "value": ID}]);
    organisation.put(
        BEN,
        nylas_message("m2", &json!({"headers": headers, "date": FIRST_DATE + 30})),
    );
    let row = organisation
        .row_of_m1(&json!({"statecode": 1, "statuscode": 4, "subject": "Filed under K"}));
    for (grant, id, requests) in [(ADA, "m1", 1), (BEN, "m2", 2)] {
        let before = organisation.emulators.dataverse().requests().total;
        let outcome = organisation.deliver_one(grant, id).await;
        assert_eq!(written(&outcome), (row, Some("already existed")));
        let asked = organisation.emulators.dataverse().requests().total - before;
        assert_eq!(asked, requests, "the body is read only if the dates differ");
    }
    organisation.email();
}

async fn a_concurrently_written_row_is_also_compared_by_its_body(mode: WriteMode) {
    for (id, changes, rows) in [
        // Half a minute later, which is too close to decide. Subject and body differ, so it is
        // another message.
        ("m2", json!({"date": FIRST_DATE + 30}), 2),
        // Days later and with another subject, but with the same body. It is the same message,
        // filed again.
        ("m3", json!({"body": "<p>Two red ones, please.</p>"}), 1),
    ] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation.put(BEN, nylas_message("m1", &json!({})));
        organisation.put(ADA, second(id, &changes));
        let other = organisation.another_pipeline().await;
        let mut run = organisation.begin();
        run.token = ClaimToken::new(Uuid::from_u128(99));
        organisation.before_dataverse_gets(CREATE, async move {
            let processed = other.run(vec![created(BEN, "m1")], run).await;
            written(&processed[0].outcome);
        });
        written(&organisation.deliver_one(ADA, id).await);
        assert_eq!(organisation.emails().len(), rows, "{id}");
        assert_eq!(organisation.states(), vec![json!(1); rows]);
    }
}

async fn messages_stored_without_a_body_are_distinguished_by_date_and_subject(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"content": "subject"}));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(ADA, second("m2", &json!({})));
    written(&organisation.deliver_one(ADA, "m1").await);
    written(&organisation.deliver_one(ADA, "m2").await);
    assert_eq!(organisation.emails().len(), 2);
    organisation.lose_ledger().await;
    organisation.deliver(&[(ADA, "m2"), (ADA, "m1")]).await;
    assert_eq!(organisation.emails().len(), 2);
}

async fn messages_stored_without_subject_and_body_share_one_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"content": "participants"}));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(ADA, second("m2", &json!({})));
    let row = written(&organisation.deliver_one(ADA, "m1").await).0;
    assert_eq!(written(&organisation.deliver_one(ADA, "m2").await).0, row);
    organisation.email();
}

async fn an_external_row_of_another_message_is_not_merged_with_the_own_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_setting(Setting::UniqueMessageIds(false));
    let columns = json!({
        "subject": "Kites for autumn", "description": "<p>Not one of the red ones flies.</p>",
        "actualstart": "2026-11-23T04:46:40Z", "sender": null,
    });
    let external_row = dataverse.track_by_server_side_sync(ID, "carol@kites.example", &columns);
    let external_row = external_row.unwrap();
    organisation.later(TimeDelta::minutes(15));
    organisation.list_mailboxes().await;
    assert_eq!(organisation.emails().len(), 2);
    let entry = organisation.entry(ADA, "m1").await.unwrap();
    assert_eq!(entry.activity_id.unwrap().uuid(), ours);
    let row = organisation
        .emulators
        .dataverse()
        .row("email", external_row)
        .unwrap();
    assert_eq!(
        row.get("regardingobjectid"),
        None,
        "another message's row is not changed"
    );
    // The rows are not merged when the message is delivered again, either.
    organisation.lose_ledger().await;
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).0, ours);
    assert_eq!(organisation.emails().len(), 2);
}

async fn a_message_is_written_although_an_external_draft_has_its_message_id(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.insert("email", json!({"messageid": ID, "subject": "a draft"}));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (row, note) = written(&outcome);
    assert_eq!(note, Some("left out: message_id_reused"));
    assert_eq!(organisation.states(), [0, 1]);
    let stored_message = organisation
        .pipeline
        .ledger
        .stored_message(&key(ADA, "m1"))
        .await
        .unwrap();
    let record = stored_message.unwrap().decision.unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["omissions"], json!({"message_id_reused": 1}));
    organisation.lose_ledger().await;
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).0, row);
}

async fn both_messages_are_written_despite_an_alternate_key_on_message_ids(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_setting(Setting::UniqueMessageIds(false));
    dataverse
        .add_alternate_key("email", &["messageid"])
        .unwrap();
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(ADA, second("m2", &json!({})));
    written(&organisation.deliver_one(ADA, "m1").await);
    written(&organisation.deliver_one(ADA, "m2").await);
    assert_eq!(organisation.states(), [1, 1]);
}

async fn a_second_key_conflict_without_a_visible_row_makes_the_message_wait(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    // Dataverse rejects the first attempt, but no row with the key is found. The second attempt
    // omits the Message-ID and succeeds.
    organisation.put(ADA, nylas_message("m1", &json!({})));
    refuse_keys(&organisation, &[0]);
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("left out: message_id_reused"));
    assert_eq!(organisation.email().get("messageid"), None);
    // If the second attempt is rejected as well, the message is not reported as written. Two
    // queries are sent between the attempts.
    organisation.put(ADA, nylas_message("m9", &json!({})));
    refuse_keys(&organisation, &[0, 3]);
    let outcome = organisation.deliver_one(ADA, "m9").await;
    let reason = "a dataverse row changed in the meantime: 412 0x80040237, and no row has the key";
    assert_eq!(waiting(&outcome).1, reason);
    written(&organisation.deliver_one(ADA, "m9").await);
    assert_eq!(organisation.emails().len(), 2);
}

/// Rejects operations because a key is taken. They are counted from the next create of an email.
fn refuse_keys(organisation: &TestOrganisation, operations: &'static [u64]) {
    let dataverse = organisation.emulators.dataverse().clone();
    organisation.before_dataverse_gets(CREATE, async move {
        for skip in operations {
            dataverse.fail_operation(*skip, status(412, "0x80040237"));
        }
    });
}

async fn a_contact_rejected_for_another_key_is_not_taken_for_an_existing_one(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"create_contacts": CreateContacts::All}));
    let from = json!([{"name": "Dora Vance", "email": "dora.vance@gmail.com"}]);
    organisation.put(ADA, nylas_message("m1", &json!({"from": from})));
    let dataverse = organisation.emulators.dataverse().clone();
    organisation.before_dataverse_gets("POST /api/data/v9.2/contacts HTTP", async move {
        dataverse.fail_operation(0, status(412, "0x80040237"));
    });
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("left out: contact refused"));
    organisation.email();
}
