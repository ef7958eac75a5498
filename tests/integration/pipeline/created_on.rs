//! Tests that a backfilled row can have the original date as `createdon`, and what happens if
//! Dataverse rejects that.

use chrono::TimeDelta;
use emulators::Setting;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::pipeline::created_on::CreatedOn;
use serde_json::{Value, json};

use crate::test_organisation::{ADA, TestOrganisation, nylas_message, status, written};

in_both_write_modes!(
    createdon_is_overridden_only_for_old_messages_and_only_on_request,
    a_rejected_createdon_is_omitted_and_not_tried_again,
    a_rejected_owner_does_not_affect_createdon,
    a_rejected_owner_and_a_rejected_createdon_are_both_omitted,
);

/// Starts a pipeline that keeps the original date, with one message of last year and one of today.
async fn organisation(mode: WriteMode) -> TestOrganisation {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.pipeline.created_on = CreatedOn::Original.into();
    organisation.put(ADA, nylas_message("old", &json!({"date": 1_763_600_000})));
    let today = (organisation.now - TimeDelta::hours(2)).timestamp();
    organisation.put(ADA, nylas_message("new", &json!({"date": today})));
    organisation
}

/// Returns the `createdon` of the row of a message, and whether the writer set it.
fn made(organisation: &TestOrganisation, id: &str) -> (Value, bool) {
    let message_id = json!(format!("<{id}@kites.example>"));
    let emails = organisation.emails();
    let row = emails.iter().find(|row| row["messageid"] == message_id);
    let row = row.unwrap_or_else(|| panic!("no row has the Message-ID of {id}"));
    (
        row["createdon"].clone(),
        row.get("overriddencreatedon").is_some(),
    )
}

async fn createdon_is_overridden_only_for_old_messages_and_only_on_request(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    for outcome in organisation.deliver(&[(ADA, "old"), (ADA, "new")]).await {
        written(&outcome);
    }
    assert_eq!(
        made(&organisation, "old"),
        (json!("2025-11-20T00:53:20Z"), true)
    );
    assert!(!made(&organisation, "new").1);
    assert!(!organisation.pipeline.created_on.is_refused());

    organisation.pipeline.created_on = CreatedOn::Now.into();
    organisation.put(ADA, nylas_message("older", &json!({"date": 1_700_000_000})));
    written(&organisation.deliver_one(ADA, "older").await);
    assert!(!made(&organisation, "older").1);
}

async fn a_rejected_createdon_is_omitted_and_not_tried_again(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    for id in ["old2", "old3"] {
        organisation.put(ADA, nylas_message(id, &json!({"date": 1_763_600_000})));
    }
    let outcomes = organisation
        .deliver(&[(ADA, "old"), (ADA, "new"), (ADA, "old2")])
        .await;
    for outcome in &outcomes {
        written(outcome);
    }
    assert!(organisation.pipeline.created_on.is_refused());
    for id in ["old", "new", "old2"] {
        assert!(!made(&organisation, id).1, "{id}");
    }
    let ada = json!({"table": "systemuser", "id": organisation.people.ada});
    for email in organisation.emails() {
        assert_eq!(
            email["ownerid"], ada,
            "the owner is kept, because it was not rejected"
        );
    }
    // The date is not tried again: as many writes as without the setting.
    let before = dataverse.requests().writes;
    written(&organisation.deliver_one(ADA, "old3").await);
    assert_eq!(dataverse.requests().writes - before, 2);
}

/// Rejects the next two rows that set an owner, as if the application lacked a privilege.
fn refuse_the_owner(organisation: &TestOrganisation) {
    for _ in 0..2 {
        organisation.fail_dataverse_at("ownerid@odata.bind", status(403, "0x80040220"));
    }
}

async fn a_rejected_owner_does_not_affect_createdon(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    refuse_the_owner(&organisation);
    let outcome = organisation.deliver_one(ADA, "old").await;
    assert_eq!(written(&outcome).1, Some("left out: owner refused"));
    assert!(made(&organisation, "old").1);
    assert!(!organisation.pipeline.created_on.is_refused());
}

async fn a_rejected_owner_and_a_rejected_createdon_are_both_omitted(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    refuse_the_owner(&organisation);
    let outcome = organisation.deliver_one(ADA, "old").await;
    assert_eq!(written(&outcome).1, Some("left out: owner refused"));
    assert!(!made(&organisation, "old").1);
    assert!(organisation.pipeline.created_on.is_refused());
}
