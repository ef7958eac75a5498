//! Tests which messages are skipped, and by which rule.

use mailverse::ledger::State;
use mailverse::model::sync_request::Trigger;
use serde_json::json;

use crate::test_organisation::{
    ADA, BEN, TestOrganisation, assert_skipped, nylas_message, people, work, written,
};

#[tokio::test]
async fn drafts_spam_and_trash_are_skipped_with_their_reason_on_every_provider() {
    let mut organisation = TestOrganisation::start().await;
    for (attribute, rule) in [
        ("\\Drafts", "draft"),
        ("\\Junk", "spam"),
        ("\\Trash", "trash"),
    ] {
        for grant in [ADA, BEN] {
            let folder = organisation
                .emulators
                .nylas()
                .folder_id(grant, attribute)
                .unwrap();
            let id = format!("{rule}-in-{grant}");
            organisation.put(grant, nylas_message(&id, &json!({"folders": [folder]})));
            assert_skipped(&organisation.deliver_one(grant, &id).await, rule);
            let entry = organisation.entry(grant, &id).await.unwrap();
            assert_eq!(entry.reason.as_deref(), Some(rule));
        }
    }
    assert_eq!(
        organisation.emulators.dataverse().requests().total,
        0,
        "no lookup was sent"
    );
}

#[tokio::test]
async fn a_later_folder_is_recognised_by_its_attribute() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(
        BEN,
        nylas_message(
            "m1",
            &json!({"folders": [organisation.emulators.nylas().folder_id(BEN, "\\Inbox").unwrap()]}),
        ),
    );
    written(&organisation.deliver_one(BEN, "m1").await);
    organisation.emulators.nylas().add_folder(
        BEN,
        json!({"id": "opaque", "name": "Werbung", "attributes": ["\\Junk"]}),
    );
    organisation.put(BEN, nylas_message("m2", &json!({"folders": ["opaque"]})));
    organisation.later(chrono::TimeDelta::minutes(1));
    assert_skipped(&organisation.deliver_one(BEN, "m2").await, "spam");
}

#[tokio::test]
async fn mail_between_internal_addresses_of_any_kind_is_skipped() {
    let mut organisation = TestOrganisation::start().await;
    organisation.insert("systemuser", json!({"lastname": "Zoe", "internalemailaddress": "zoe@elsewhere.example", "isdisabled": false}));
    let to = [
        "ben@ours.example",
        "SALES@ours.example",
        "zoe@elsewhere.example",
        "any@partner.example",
    ];
    organisation.put(
        ADA,
        nylas_message(
            "m1",
            &json!({"from": people(&["ada@ours.example"]), "to": people(&to)}),
        ),
    );
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "internal_only");
    assert!(organisation.emails().is_empty());
}

#[tokio::test]
async fn a_disabled_user_is_external() {
    let mut organisation = TestOrganisation::start().await;
    organisation.insert("systemuser", json!({"lastname": "Old", "internalemailaddress": "old@elsewhere.example", "isdisabled": true}));
    organisation.put(ADA, nylas_message("m1", &json!({"from": people(&["ada@ours.example"]), "to": people(&["old@elsewhere.example"])})));
    written(&organisation.deliver_one(ADA, "m1").await);
}

#[tokio::test]
async fn mail_without_a_usable_address_is_skipped() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(
        ADA,
        nylas_message(
            "m1",
            &json!({"from": [], "to": people(&["undisclosed recipients:;"])}),
        ),
    );
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "nobody");
}

#[tokio::test]
async fn a_message_moved_out_of_spam_is_written_on_the_next_update_notification() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({"folders": ["SPAM"]})));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "spam");
    organisation.put(ADA, nylas_message("m1", &json!({"folders": ["INBOX"]})));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "spam");
    let processed = organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    written(&processed[0].outcome);
    organisation.email();
}

#[tokio::test]
async fn internal_mail_is_not_fetched_again_on_an_update() {
    let mut organisation = TestOrganisation::start().await;
    let among_us =
        json!({"from": people(&["ada@ours.example"]), "to": people(&["ben@ours.example"])});
    organisation.put(ADA, nylas_message("m1", &among_us));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "internal_only");
    let asked = organisation.emulators.nylas().requests();
    let processed = organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    assert_skipped(&processed[0].outcome, "internal_only");
    assert_eq!(organisation.emulators.nylas().requests(), asked);
}

#[tokio::test]
async fn mail_without_a_sender_or_with_an_unreadable_address_is_not_internal() {
    let mut organisation = TestOrganisation::start().await;
    let to = people(&["ben@ours.example"]);
    organisation.put(ADA, nylas_message("m1", &json!({"from": null, "to": to})));
    let unreadable = people(&["ben@ours.example", "the whole team"]);
    organisation.put(
        ADA,
        nylas_message(
            "m2",
            &json!({"from": people(&["ada@ours.example"]), "to": unreadable}),
        ),
    );
    for outcome in organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await {
        written(&outcome);
    }
}

#[tokio::test]
async fn an_update_in_the_same_batch_as_its_creation_is_not_lost() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({"folders": ["SPAM"]})));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "spam");
    organisation.put(ADA, nylas_message("m1", &json!({"folders": ["INBOX"]})));
    let batch = vec![
        work(ADA, "m1", Trigger::Created, 1),
        work(ADA, "m1", Trigger::Updated, 1),
    ];
    written(&organisation.run(batch).await[0].outcome);
}

#[tokio::test]
async fn a_message_that_is_not_found_five_times_is_skipped_as_gone() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.emulators.nylas().remove_message(ADA, "m1");
    for _ in 1..=4 {
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(outcome.state(), State::Waiting);
    }
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "gone");
}
