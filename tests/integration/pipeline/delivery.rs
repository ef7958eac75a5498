//! Tests that each message becomes the right row, exactly once.

use chrono::TimeDelta;
use futures_util::future::join;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::State;
use mailverse::model::ids::ActivityId;
use mailverse::model::sync_request::Trigger;
use serde_json::{Value, json};

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, created, id_of, nylas_message, people, status, to_row,
    waiting, work, written,
};

in_both_write_modes!(
    a_received_message_becomes_a_completed_email,
    a_sent_message_is_outgoing_and_completed_as_sent,
    a_message_delivered_twice_gets_one_row,
    a_message_that_is_twice_in_one_batch_gets_one_row,
    a_message_that_is_twice_in_one_batch_counts_with_its_lower_receive_count,
    copies_in_two_mailboxes_give_the_same_row_in_either_order,
    two_copies_of_a_message_in_one_batch_share_a_row,
    two_workers_with_one_ledger_do_not_process_the_same_message,
    two_workers_with_separate_ledgers_write_one_row,
    the_claim_of_a_dead_worker_is_taken_over_after_its_lease,
    an_external_row_is_adopted_and_its_empty_regarding_is_filled,
    the_regarding_of_an_external_row_is_not_replaced,
    a_message_id_that_differs_by_case_belongs_to_another_message,
    an_update_of_a_written_message_changes_nothing,
);

async fn a_received_message_becomes_a_completed_email(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let email = organisation.email();
    assert_eq!(written(&outcome), (id_of(&email), None));
    for (column, expected) in [
        ("subject", json!("Kites for spring")),
        ("description", json!("<p>Two red ones, please.</p>")),
        ("sender", json!("carol@kites.example")),
        ("torecipients", json!("ada@ours.example")),
        ("directioncode", json!(false)),
        ("actualstart", json!("2026-11-20T04:46:40Z")),
        ("actualend", json!("2026-11-20T04:46:40Z")),
        ("sortdate", json!("2026-11-20T04:46:40Z")),
        ("messageid", json!("<m1@kites.example>")),
        ("statecode", json!(1)),
        ("statuscode", json!(4)),
        (
            "regardingobjectid",
            to_row("contact", organisation.people.carol),
        ),
        ("ownerid", to_row("systemuser", organisation.people.ada)),
        ("notifications", Value::Null),
    ] {
        assert_eq!(email[column], expected, "{column}");
    }
    let entry = organisation.entry(ADA, "m1").await.unwrap();
    assert_eq!(entry.state, State::Written);
    assert_eq!(entry.activity_id.map(ActivityId::uuid), Some(id_of(&email)));
}

async fn a_sent_message_is_outgoing_and_completed_as_sent(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let sent = json!({"from": people(&["ada@ours.example"]), "to": people(&["carol@kites.example"]), "folders": ["SENT"]});
    organisation.put(ADA, nylas_message("m1", &sent));
    written(&organisation.deliver_one(ADA, "m1").await);
    let email = organisation.email();
    assert_eq!(
        (
            &email["directioncode"],
            &email["statecode"],
            &email["statuscode"]
        ),
        (&json!(true), &json!(1), &json!(3))
    );
}

async fn a_message_delivered_twice_gets_one_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let first = organisation.deliver_one(ADA, "m1").await;
    let asked = organisation.emulators.dataverse().requests();
    let processed = organisation.run(vec![created(ADA, "m1")]).await;
    assert_eq!(processed[0].outcome, first);
    assert!(processed[0].settled_before);
    assert_eq!(
        organisation.emulators.dataverse().requests(),
        asked,
        "the ledger has the outcome, so Dataverse is not asked"
    );
    organisation.email();
}

async fn a_message_that_is_twice_in_one_batch_gets_one_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let processed = organisation
        .run(vec![created(ADA, "m1"), created(ADA, "m1")])
        .await;
    assert_eq!(processed.len(), 1);
    written(&processed[0].outcome);
    organisation.email();
}

async fn a_message_that_is_twice_in_one_batch_counts_with_its_lower_receive_count(mode: WriteMode) {
    for (receive_counts, expected) in [
        ([1, RECEIVE_LIMIT], State::Waiting),
        ([RECEIVE_LIMIT, 1], State::Waiting),
        // Neither will be delivered again, so until the worker queues it, nothing has it.
        ([RECEIVE_LIMIT, RECEIVE_LIMIT], State::Dead),
    ] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation.put(ADA, nylas_message("m1", &json!({})));
        organisation.fail_dataverse_at(CREATE, status(503, ""));
        let deliveries = receive_counts.map(|count| work(ADA, "m1", Trigger::Created, count));
        let processed = organisation.run(deliveries.into()).await;
        assert_eq!(processed.len(), 1, "{receive_counts:?}");
        waiting(&processed[0].outcome);
        let entry = organisation.entry(ADA, "m1").await.unwrap();
        assert_eq!(entry.state, expected, "{receive_counts:?}");
    }
}

/// Delivers the copies of two mailboxes in this order.
///
/// Returns the row and the parties, which must not depend on the order, and the order.
async fn seen_in_order(
    mode: WriteMode,
    order: [&str; 2],
    copy: &Value,
) -> (Value, Vec<crate::test_organisation::PartyView>, [String; 2]) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let same_id = json!([{"name": "Message-ID", "value": "<one@mail.example>"}]);
    for grant in [ADA, BEN] {
        let mut copy = nylas_message(&format!("copy-in-{grant}"), copy);
        copy["headers"] = same_id.clone();
        organisation.put(grant, copy);
    }
    let mut ids = Vec::new();
    for grant in order {
        let outcome = organisation
            .deliver_one(grant, &format!("copy-in-{grant}"))
            .await;
        ids.push(written(&outcome).0);
    }
    assert_eq!(ids[0], ids[1], "both copies have the same row");
    let email = organisation.email();
    // Row ids differ between runs, so only tables and addresses are compared.
    let regarding = email["regardingobjectid"]["table"].clone();
    let parties = organisation
        .parties()
        .into_iter()
        .map(|(mask, address, row)| {
            (
                mask,
                address,
                row.map(|(table, _)| (table, uuid::Uuid::nil())),
            )
        });
    let row = json!({
        "id": email["activityid"], "direction": email["directioncode"], "status": email["statuscode"],
        "regarding": regarding, "sender": email["sender"], "to": email["torecipients"],
    });
    (row, parties.collect(), order.map(str::to_owned))
}

async fn copies_in_two_mailboxes_give_the_same_row_in_either_order(mode: WriteMode) {
    for copy in [
        // From an external sender to both mailboxes.
        json!({"to": people(&["ada@ours.example", "ben@ours.example"])}),
        // From one mailbox to the other and to an external recipient.
        json!({"from": people(&["ada@ours.example"]), "to": people(&["ben@ours.example", "carol@kites.example"])}),
        // From an alias that only one of the mailboxes has.
        json!({"from": people(&["sales@ours.example"]), "to": people(&["info@kites.example"]), "cc": people(&["ben@ours.example"])}),
    ] {
        let (one, parties, _) = seen_in_order(mode, [ADA, BEN], &copy).await;
        let (other, same_parties, order) = seen_in_order(mode, [BEN, ADA], &copy).await;
        assert_eq!(one, other, "{order:?}");
        assert_eq!(parties, same_parties);
    }
}

async fn two_copies_of_a_message_in_one_batch_share_a_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let both = json!({"to": people(&["ada@ours.example", "ben@ours.example"])});
    organisation.put(ADA, nylas_message("m1", &both));
    organisation.put(BEN, nylas_message("m1", &both));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (BEN, "m1")]).await;
    let id = id_of(&organisation.email());
    assert_eq!((written(&outcomes[0]).0, written(&outcomes[1]).0), (id, id));
    assert_eq!(organisation.email()["statecode"], 1);
}

async fn two_workers_with_one_ledger_do_not_process_the_same_message(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let other = organisation.another_pipeline().await;
    let (mine, external_row) = (organisation.begin(), organisation.begin());
    let (one, two) = join(
        organisation.pipeline.run(vec![created(ADA, "m1")], mine),
        other.run(vec![created(ADA, "m1")], external_row),
    )
    .await;
    let outcomes = [&one[0].outcome, &two[0].outcome];
    let written = outcomes
        .iter()
        .filter(|outcome| outcome.state() == State::Written)
        .count();
    assert_eq!(written, 1, "{outcomes:?}");
    let waits = outcomes
        .iter()
        .find(|outcome| outcome.state() == State::Waiting)
        .unwrap();
    let (delay, reason) = waiting(waits);
    assert_eq!(
        (delay.as_secs(), reason),
        (180, "another worker is processing it")
    );
    organisation.email();
}

async fn two_workers_with_separate_ledgers_write_one_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let other = organisation.another_pipeline().await;
    organisation.lose_ledger().await;
    let (mine, external_row) = (organisation.begin(), organisation.begin());
    let (one, two) = join(
        organisation.pipeline.run(vec![created(ADA, "m1")], mine),
        other.run(vec![created(ADA, "m1")], external_row),
    )
    .await;
    assert_eq!(written(&one[0].outcome).0, written(&two[0].outcome).0);
    assert_eq!(organisation.email()["statecode"], 1);
}

async fn the_claim_of_a_dead_worker_is_taken_over_after_its_lease(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let died = organisation.begin();
    let key = crate::test_organisation::key(ADA, "m1");
    let request = mailverse::ledger::ClaimRequest::new(died.token, died.now);
    let claim = organisation.pipeline.ledger.claim(&key, &request);
    assert!(claim.await.unwrap().is_won());

    organisation.later(TimeDelta::seconds(60));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(
        waiting(&outcome).0.as_secs(),
        120,
        "the message waits for the rest of the lease"
    );
    organisation.later(TimeDelta::seconds(120));
    written(&organisation.deliver_one(ADA, "m1").await);
    organisation.email();
}

async fn an_external_row_is_adopted_and_its_empty_regarding_is_filled(mode: WriteMode) {
    for form in ["<m1@kites.example>", "m1@kites.example"] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation.put(ADA, nylas_message("m1", &json!({})));
        let external_row = organisation.insert("email", json!({"subject": "Kites for spring", "messageid": form, "statecode": 1, "statuscode": 4}));
        let outcome = organisation.deliver_one(ADA, "m1").await;
        let note = "written by another client, found by its Message-ID";
        assert_eq!(written(&outcome), (external_row, Some(note)), "{form}");
        let email = organisation.email();
        assert_eq!(
            email["regardingobjectid"],
            to_row("contact", organisation.people.carol)
        );
        assert_eq!(
            email["description"],
            Value::Null,
            "no other column is changed"
        );
    }
}

async fn the_regarding_of_an_external_row_is_not_replaced(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let kites = to_row("account", organisation.people.kites);
    let external_row = organisation.insert(
        "email",
        json!({"subject": "x", "messageid": "<m1@kites.example>", "statecode": 1, "statuscode": 4, "regardingobjectid": kites}),
    );
    let before = organisation.emulators.dataverse().requests().writes;
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).0,
        external_row
    );
    assert_eq!(organisation.email()["regardingobjectid"], kites);
    assert_eq!(organisation.emulators.dataverse().requests().writes, before);
}

async fn a_message_id_that_differs_by_case_belongs_to_another_message(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let other = organisation.insert(
        "email",
        json!({"subject": "x", "messageid": "<M1@kites.example>", "statecode": 1, "statuscode": 4}),
    );
    let (id, _) = written(&organisation.deliver_one(ADA, "m1").await);
    assert_ne!(id, other);
    assert_eq!(organisation.emails().len(), 2);
}

async fn an_update_of_a_written_message_changes_nothing(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let first = organisation.deliver_one(ADA, "m1").await;
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"subject": "Changed meanwhile"})),
    );
    let processed = organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    assert_eq!(processed[0].outcome, first);
    assert_eq!(organisation.email()["subject"], "Kites for spring");
}
