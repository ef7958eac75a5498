//! Tests which mailboxes are synchronised if two companies share one Nylas application.

use chrono::TimeDelta;
use emulators::Grant;
use mailverse::ledger::State;
use mailverse::model::sync_request::Trigger;
use mailverse::pipeline::Outcome;
use serde_json::json;

use crate::test_organisation::{
    ADA, TestOrganisation, assert_skipped, nylas_message, people, waiting, work, written,
};

/// The mailbox of the other company.
const EVE: &str = "grant-eve";

fn connect(organisation: &TestOrganisation, email: &str) {
    organisation.emulators.nylas().add_grant(Grant {
        id: EVE.to_owned(),
        email: email.to_owned(),
        provider: "google".to_owned(),
        aliases: vec!["help@theirs.example".to_owned()],
        status: "valid".to_owned(),
    });
}

/// Starts a pipeline that also sees a mailbox of another company. The setting names the mailboxes
/// that take part.
async fn with_two_companies(setting: &str) -> TestOrganisation {
    let mut organisation = TestOrganisation::start().await;
    connect(&organisation, "eve@theirs.example");
    organisation
        .emulators
        .nylas()
        .set_workspace(EVE, "workspace-theirs");
    organisation.put(
        EVE,
        nylas_message("e1", &json!({"to": people(&["eve@theirs.example"])})),
    );
    organisation.admit(setting);
    organisation
}

/// Asserts that no request was about Eve's mailbox: only the grant list and Ada's data were read.
fn assert_left_alone(organisation: &TestOrganisation) {
    let asked = organisation.emulators.nylas().requested();
    assert!(!asked.is_empty(), "at least one request was sent");
    let of_eve: Vec<&String> = asked
        .iter()
        .filter(|path| path.contains(EVE) || path.contains("theirs"))
        .collect();
    assert_eq!(of_eve, [""; 0]);
}

#[tokio::test]
async fn messages_of_an_excluded_mailbox_are_skipped_without_a_request_about_it() {
    let mut organisation = with_two_companies("ours.example").await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let outcomes = organisation.deliver(&[(EVE, "e1"), (ADA, "m1")]).await;
    assert_skipped(&outcomes[0], "mailbox_excluded");
    written(&outcomes[1]);
    organisation.email();
    organisation.list_mailboxes().await;
    organisation.email();
    assert_left_alone(&organisation);
    let entry = organisation.entry(EVE, "e1").await.unwrap();
    assert_eq!(entry.state, State::Skipped);
    // The message is still skipped when Nylas reports a change.
    let again = organisation
        .run(vec![work(EVE, "e1", Trigger::Updated, 1)])
        .await;
    assert_skipped(&again[0].outcome, "mailbox_excluded");
    assert_left_alone(&organisation);
}

#[tokio::test]
async fn the_addresses_of_an_excluded_mailbox_are_external() {
    for (id, to) in [("m1", "eve@theirs.example"), ("m2", "help@theirs.example")] {
        let among = json!({"from": people(&["ada@ours.example"]), "to": people(&[to])});
        let mut organisation = with_two_companies("Ada@ours.example").await;
        organisation.put(ADA, nylas_message(id, &among));
        written(&organisation.deliver_one(ADA, id).await);
        assert_left_alone(&organisation);
        let mut organisation = with_two_companies("all").await;
        organisation.put(ADA, nylas_message(id, &among));
        assert_skipped(&organisation.deliver_one(ADA, id).await, "internal_only");
    }
}

#[tokio::test]
async fn an_alias_of_a_mailbox_that_is_included_by_address_is_internal() {
    let mut organisation = with_two_companies("ada@ours.example").await;
    let among =
        json!({"from": people(&["ada@ours.example"]), "to": people(&["sales@ours.example"])});
    organisation.put(ADA, nylas_message("m1", &among));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "internal_only");
}

#[tokio::test]
async fn messages_skipped_while_their_mailbox_was_excluded_are_backfilled_once_it_is_included() {
    let mut organisation = with_two_companies("ours.example").await;
    let outcome = organisation.deliver_one(EVE, "e1").await;
    assert_skipped(&outcome, "mailbox_excluded");
    organisation.list_mailboxes().await;
    assert_eq!(organisation.emails().len(), 0);
    organisation.admit("ours.example, workspace:workspace-theirs");
    // A repeated notification does not change the outcome.
    let outcome = organisation.deliver_one(EVE, "e1").await;
    assert_skipped(&outcome, "mailbox_excluded");
    // Live mail has reserved capacity, so backfill runs five minutes later.
    organisation.later(TimeDelta::minutes(5));
    organisation.list_mailboxes().await;
    let parties = organisation.parties();
    assert_eq!(parties.len(), 2, "{parties:?}");
}

#[tokio::test]
async fn a_waiting_message_is_skipped_once_its_mailbox_is_excluded() {
    let mut organisation = with_two_companies("all").await;
    organisation.fail_nylas_at("/messages/e1", emulators::Fault::ResetBefore);
    waiting(&organisation.deliver_one(EVE, "e1").await);
    organisation.admit("ours.example");
    let asked = organisation.emulators.nylas().requested().len();
    organisation.later(TimeDelta::minutes(5));
    assert_skipped(
        &organisation.deliver_one(EVE, "e1").await,
        "mailbox_excluded",
    );
    let asked = organisation.emulators.nylas().requested().split_off(asked);
    assert!(!asked.iter().any(|path| path.contains(EVE)), "{asked:?}");
}

#[tokio::test]
async fn a_mailbox_that_becomes_included_or_excluded_is_noticed_within_half_an_hour() {
    let mut organisation = with_two_companies("ours.example,workspace:workspace-ours").await;
    assert_skipped(
        &organisation.deliver_one(EVE, "e1").await,
        "mailbox_excluded",
    );
    let mut number = 1;
    let mut fate_of_a_new_mail = async |organisation: &mut TestOrganisation| {
        number += 1;
        let id = format!("e{number}");
        organisation.put(
            EVE,
            nylas_message(&id, &json!({"to": people(&["eve@theirs.example"])})),
        );
        organisation.deliver_one(EVE, &id).await
    };
    organisation
        .emulators
        .nylas()
        .set_workspace(EVE, "workspace-ours");
    organisation.later(TimeDelta::minutes(29));
    let before = fate_of_a_new_mail(&mut organisation).await;
    assert_skipped(&before, "mailbox_excluded");
    organisation.later(TimeDelta::minutes(2));
    written(&fate_of_a_new_mail(&mut organisation).await);
    organisation
        .emulators
        .nylas()
        .set_workspace(EVE, "workspace-theirs");
    organisation.later(TimeDelta::minutes(31));
    let moved_out = fate_of_a_new_mail(&mut organisation).await;
    assert_skipped(&moved_out, "mailbox_excluded");
    connect(&organisation, "eve@ours.example");
    organisation.later(TimeDelta::minutes(31));
    written(&fate_of_a_new_mail(&mut organisation).await);
}

#[tokio::test]
async fn a_message_of_a_newly_connected_mailbox_waits_until_nylas_lists_it() {
    let mut organisation = TestOrganisation::start().await;
    organisation.admit("ours.example,theirs.example");
    organisation.put(ADA, nylas_message("m1", &json!({})));
    written(&organisation.deliver_one(ADA, "m1").await);
    connect(&organisation, "eve@theirs.example");
    organisation.put(
        EVE,
        nylas_message("e1", &json!({"to": people(&["eve@theirs.example"])})),
    );
    let first = organisation.deliver_one(EVE, "e1").await;
    assert_eq!(waiting(&first).1, "nylas does not list the mailbox");
    assert_left_alone(&organisation);
    organisation.later(TimeDelta::minutes(2));
    let second = organisation
        .run(vec![work(EVE, "e1", Trigger::Created, 2)])
        .await;
    written(&second[0].outcome);
}

#[tokio::test]
async fn a_message_of_a_never_listed_mailbox_is_skipped_after_five_deliveries() {
    let mut organisation = TestOrganisation::start().await;
    for receive_count in 1..5 {
        let processed = organisation
            .run(vec![work(EVE, "e1", Trigger::Created, receive_count)])
            .await;
        waiting(&processed[0].outcome);
        organisation.later(TimeDelta::hours(1));
    }
    let last = organisation
        .run(vec![work(EVE, "e1", Trigger::Created, 5)])
        .await;
    assert_skipped(&last[0].outcome, "mailbox_unknown");
    assert_left_alone(&organisation);
    // Once the mailbox is listed, the missed message is written.
    connect(&organisation, "eve@theirs.example");
    organisation.put(
        EVE,
        nylas_message("e1", &json!({"to": people(&["eve@theirs.example"])})),
    );
    organisation.list_mailboxes().await;
    organisation.email();
}

#[tokio::test]
async fn messages_wait_unfetched_while_the_mailboxes_cannot_be_listed() {
    let mut organisation = with_two_companies("ours.example").await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.fail_nylas_at("/v3/grants?", emulators::Fault::ResetBefore);
    for outcome in organisation.deliver(&[(EVE, "e1"), (ADA, "m1")]).await {
        assert!(matches!(outcome, Outcome::Waiting { .. }), "{outcome:?}");
    }
    assert_eq!(organisation.emulators.nylas().requested(), [""; 0]);
}
