//! Tests permanent rejections: the message is dead with the reason, and its neighbours are written.

use emulators::{Privilege, Setting};
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::nylas::wire;
use mailverse::ledger::State;
use mailverse::model::ids::ActivityId;
use mailverse::pipeline::Outcome;
use serde_json::json;

use crate::test_organisation::{
    ADA, BEN, TestOrganisation, created, dead, id_of, key, nylas_message, people, status,
    throttled, waiting, with_a_mail, with_a_mail_in, written,
};

in_both_write_modes!(
    a_rejected_message_is_dead_with_its_code_and_does_not_affect_its_batch,
    a_copy_in_another_mailbox_is_written_although_the_first_copy_is_rejected,
    a_message_waits_with_a_clear_reason_if_there_is_no_application_user,
);

async fn a_rejected_message_is_dead_with_its_code_and_does_not_affect_its_batch(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_max_length("email", "subject", 200).unwrap();
    // The column lengths cannot be read.
    dataverse.set_setting(Setting::Withheld(vec![(Privilege::Read, "attribute")]));
    organisation.put(ADA, nylas_message("good1", &json!({})));
    organisation.put(
        ADA,
        nylas_message("poison", &json!({"subject": "x".repeat(201)})),
    );
    organisation.put(
        BEN,
        nylas_message("good2", &json!({"to": people(&["ben@ours.example"])})),
    );
    let outcomes = organisation
        .deliver(&[(ADA, "good1"), (ADA, "poison"), (BEN, "good2")])
        .await;
    written(&outcomes[0]);
    written(&outcomes[2]);
    let reason = "dataverse refused the row: 400 0x80044331, a text is longer than its column in this organisation";
    assert_eq!(dead(&outcomes[1]), reason);
    assert!(matches!(
        outcomes[1],
        Outcome::Dead {
            attempts_exhausted: false,
            ..
        }
    ));
    let entry = organisation.entry(ADA, "poison").await.unwrap();
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Dead, Some(reason))
    );
    assert_eq!(organisation.emails().len(), 2);
    assert_eq!(
        organisation.deliver_one(ADA, "poison").await,
        outcomes[1],
        "the message stays dead until an operator redrives it"
    );
}

async fn a_copy_in_another_mailbox_is_written_although_the_first_copy_is_rejected(mode: WriteMode) {
    let (fits, is_too_long) = ("x".repeat(200), "x".repeat(201));
    for subjects in [
        [&is_too_long, &fits],
        [&fits, &is_too_long],
        [&is_too_long, &is_too_long],
    ] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        let dataverse = organisation.emulators.dataverse();
        dataverse.set_max_length("email", "subject", 200).unwrap();
        // The column lengths cannot be read, so the subject is not cut.
        dataverse.set_setting(Setting::Withheld(vec![(Privilege::Read, "attribute")]));
        for (grant, subject) in [ADA, BEN].into_iter().zip(subjects) {
            organisation.put(grant, nylas_message("m1", &json!({"subject": subject})));
        }
        let outcomes = organisation.deliver(&[(ADA, "m1"), (BEN, "m1")]).await;
        let lengths = subjects.map(String::len);
        if lengths == [201, 201] {
            for outcome in &outcomes {
                dead(outcome);
            }
            assert!(organisation.emails().is_empty());
            continue;
        }
        let row = id_of(&organisation.email());
        for (grant, outcome, length) in [
            (ADA, &outcomes[0], lengths[0]),
            (BEN, &outcomes[1], lengths[1]),
        ] {
            let entry = organisation.entry(grant, "m1").await.unwrap();
            let stored = entry.activity_id.map(ActivityId::uuid);
            // A copy that comes second finds the row of the first, so its own subject is not sent.
            if length == 201 && grant == ADA {
                dead(outcome);
                assert_eq!((entry.state, stored), (State::Dead, None), "{lengths:?}");
            } else {
                assert_eq!(written(outcome).0, row, "{lengths:?}");
                assert_eq!(
                    (entry.state, stored),
                    (State::Written, Some(row)),
                    "{lengths:?}"
                );
            }
        }
        assert_eq!(organisation.email()["statecode"], 1);
    }
}

#[tokio::test]
async fn a_lookup_rejected_for_one_message_does_not_affect_the_others() {
    let mut organisation = TestOrganisation::start().await;
    for id in ["good1", "poison", "good2"] {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    // Dataverse rejects the query about the bad message twice: in the batch and alone.
    for _ in 0..2 {
        organisation.fail_dataverse_at("poison%40kites.example", status(400, "0x80060888"));
    }
    let outcomes = organisation
        .deliver(&[(ADA, "good1"), (ADA, "poison"), (ADA, "good2")])
        .await;
    written(&outcomes[0]);
    written(&outcomes[2]);
    assert!(
        dead(&outcomes[1]).contains("0x80060888"),
        "{:?}",
        outcomes[1]
    );
    assert_eq!(organisation.emails().len(), 2);
}

#[tokio::test]
async fn a_rejected_write_batch_is_repeated_message_by_message() {
    for code in [status(400, "0x80048d19"), status(413, "0x8004418A")] {
        let mut organisation = TestOrganisation::start().await;
        // A mailbox without a Dynamics user, so that there is no owner to leave out.
        organisation.emulators.nylas().add_grant(emulators::Grant {
            id: "office".to_owned(),
            email: "office@ours.example".to_owned(),
            provider: "imap".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        for id in ["m1", "m2", "m3"] {
            organisation.put("office", nylas_message(id, &json!({})));
        }
        // Dataverse rejects the batch of all three, then m2 alone.
        organisation.fail_dataverse_at("<m2@kites.example>", code.clone());
        organisation.fail_dataverse_at("<m2@kites.example>", code);
        let outcomes = organisation
            .deliver(&[("office", "m1"), ("office", "m2"), ("office", "m3")])
            .await;
        written(&outcomes[0]);
        dead(&outcomes[1]);
        written(&outcomes[2]);
    }
}

#[tokio::test]
async fn a_message_that_nylas_rejects_does_not_affect_the_others() {
    let mut organisation = TestOrganisation::start().await;
    for id in ["m1", "m2", "m3"] {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    organisation.fail_nylas_at("/messages/m2?", status(400, "invalid_request_error"));
    // The neighbours are prefetched, so that the failing request is the one for m2.
    let mut work: Vec<_> = ["m1", "m2", "m3"].map(|id| created(ADA, id)).into();
    for neighbour in [0, 2] {
        let id = work[neighbour].request.key.message_id.to_string();
        let object = organisation.emulators.nylas().message(ADA, &id).unwrap();
        work[neighbour].message = wire::message(&ADA.parse().unwrap(), &object).ok();
    }
    let processed = organisation.run(work).await;
    let outcome = |id: &str| {
        let done = processed.iter().find(|done| done.key == key(ADA, id));
        &done.unwrap().outcome
    };
    written(outcome("m1"));
    assert_eq!(
        dead(outcome("m2")),
        "nylas rejected the call: 400 invalid_request_error"
    );
    written(outcome("m3"));
}

async fn a_message_waits_with_a_clear_reason_if_there_is_no_application_user(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    organisation.emulators.dataverse().remove_application_user();
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (delay, reason) = waiting(&outcome);
    assert!(
        (59..=60).contains(&delay.as_secs()),
        "the message waits for the pause: {delay:?}"
    );
    assert!(
        reason.contains("0x80072560, the application is not a user of this organisation"),
        "{reason}"
    );
}

/// Number of queries in a lookup of one page of people and messages.
const LOOK_UP_QUERIES: u64 = 6;

#[tokio::test]
async fn only_the_message_of_a_throttled_change_set_waits() {
    let mut organisation = TestOrganisation::start().await;
    let ids = ["m1", "m2", "m3"];
    for id in ids {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    // Each message is a POST and a PATCH, so this is the POST of the second message.
    let dataverse = organisation.emulators.dataverse();
    dataverse.fail_operation(LOOK_UP_QUERIES + 2, throttled("0x80072322", 50));
    let outcomes = organisation.deliver(&ids.map(|id| (ADA, id))).await;
    written(&outcomes[0]);
    assert_eq!(waiting(&outcomes[1]).0.as_secs(), 50);
    written(&outcomes[2]);
    organisation.pause_over();
    written(&organisation.deliver_one(ADA, "m2").await);
    assert_eq!(organisation.emails().len(), 3);
}

#[tokio::test]
async fn a_rejected_completion_in_a_change_set_leaves_no_open_row() {
    let mut organisation = with_a_mail().await;
    for skip in [1, 3] {
        // The first attempt sets the owner, the second does not.
        let dataverse = organisation.emulators.dataverse();
        dataverse.fail_operation(LOOK_UP_QUERIES + skip, status(400, "0x80040265"));
    }
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (_, reason) = waiting(&outcome);
    assert!(
        reason.contains("0x80040265, a plug-in of this organisation refused the row"),
        "{reason}"
    );
    assert!(organisation.emails().is_empty());
}
