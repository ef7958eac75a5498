//! Tests what happens if the process dies, or if another worker or client writes first.

use emulators::Fault;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::messages::LAST_DELIVERY_UNFINISHED;
use mailverse::ledger::{ClaimRequest, ClaimToken, LEASE, State};
use mailverse::model::sync_request::Trigger;
use serde_json::json;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::test_organisation::{
    ADA, CREATE, TestOrganisation, UPDATE, created, id_of, key, nylas_message, to_row, waiting,
    with_a_mail_in, work, written,
};

in_both_write_modes!(
    a_crash_between_write_and_settle_leaves_one_row,
    an_open_row_left_by_a_crash_is_completed,
    a_ledger_outage_after_the_write_leaves_one_row,
    a_message_whose_worker_dies_on_the_last_delivery_is_listed_as_dead,
    a_worker_that_overran_its_lease_does_not_overwrite_its_successor,
    an_external_row_that_changed_after_the_lookup_is_looked_up_again,
);

async fn a_crash_between_write_and_settle_leaves_one_row(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let first = organisation.deliver_one(ADA, "m1").await;
    organisation.lose_ledger().await;
    let again = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&again),
        (written(&first).0, Some("already existed"))
    );
    organisation.email();
}

async fn an_open_row_left_by_a_crash_is_completed(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let message = organisation.emulators.nylas().message(ADA, "m1").unwrap();
    let message =
        mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
    let id = message.activity_id();
    organisation.insert("email", json!({"activityid": id, "subject": "Kites for spring", "messageid": "<m1@kites.example>", "directioncode": false}));
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await),
        (id.uuid(), None)
    );
    let email = organisation.email();
    assert_eq!(
        (&email["statecode"], &email["statuscode"]),
        (&json!(1), &json!(4))
    );
}

async fn a_ledger_outage_after_the_write_leaves_one_row(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    organisation.before_dataverse_gets(CREATE, organisation.drop_ledger());
    waiting(&organisation.deliver_one(ADA, "m1").await);
    organisation.lose_ledger().await;
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&outcome),
        (id_of(&organisation.email()), Some("already existed"))
    );
}

async fn a_message_whose_worker_dies_on_the_last_delivery_is_listed_as_dead(mode: WriteMode) {
    for (receive_count, expected) in [
        (RECEIVE_LIMIT - 1, (State::Waiting, false, None)),
        (
            RECEIVE_LIMIT,
            (State::Dead, true, Some(LAST_DELIVERY_UNFINISHED)),
        ),
        (
            RECEIVE_LIMIT + 1,
            (State::Dead, true, Some(LAST_DELIVERY_UNFINISHED)),
        ),
    ] {
        let mut organisation = with_a_mail_in(mode).await;
        let (died, dying) = oneshot::channel();
        organisation.before_dataverse_gets(CREATE, async {
            died.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        let delivery = work(ADA, "m1", Trigger::Created, receive_count);
        tokio::select! {
            _ = organisation.run(vec![delivery]) => panic!("the worker should not finish"),
            dying = dying => dying.unwrap(),
        }
        let entry = organisation.entry(ADA, "m1").await.unwrap();
        let seen = (entry.state, entry.claimable, entry.reason.as_deref());
        assert_eq!(seen, expected, "delivery {receive_count}");
        // An operator redrives it, or the queue still has it.
        organisation.later(LEASE);
        written(&organisation.deliver_one(ADA, "m1").await);
        organisation.email();
    }
}

async fn a_worker_that_overran_its_lease_does_not_overwrite_its_successor(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let successor = ClaimToken::new(Uuid::from_u128(999));
    let (ledger, at) = (
        organisation.pipeline.ledger.clone(),
        organisation.now + LEASE,
    );
    organisation.before_dataverse_gets(CREATE, async move {
        let claim = ledger
            .claim(&key(ADA, "m1"), &ClaimRequest::new(successor, at))
            .await;
        assert!(claim.unwrap().is_won());
    });
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(
        waiting(&outcome).1,
        "the claim was lost: another worker took over the message"
    );
    let entry = organisation.entry(ADA, "m1").await.unwrap();
    assert_eq!(
        entry.held,
        Some((successor, at + LEASE)),
        "the successor still holds the claim"
    );
    // The successor dies. The next worker finds the row.
    organisation.later(LEASE + LEASE);
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&outcome),
        (id_of(&organisation.email()), Some("already existed"))
    );
}

async fn an_external_row_that_changed_after_the_lookup_is_looked_up_again(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let external_row = organisation.insert(
        "email",
        json!({"subject": "x", "messageid": "<m1@kites.example>", "statecode": 1, "statuscode": 4}),
    );
    let dataverse = organisation.emulators.dataverse().url();
    let token = organisation.emulators.entra().issue_token(&dataverse, 600);
    let account = format!("/accounts({})", organisation.people.kites);
    organisation.before_dataverse_gets(UPDATE, async move {
        let call = reqwest::Client::new()
            .patch(format!("{dataverse}/api/data/v9.2/emails({external_row})"));
        let call = call
            .bearer_auth(token)
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0");
        let body = json!({"regardingobjectid_account_email@odata.bind": account});
        let answer = call.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    });
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert!(
        waiting(&outcome).1.starts_with("a dataverse row changed"),
        "{outcome:?}"
    );
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).0,
        external_row
    );
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("account", organisation.people.kites),
        "the regarding that the other client chose is kept"
    );
}

#[tokio::test]
async fn a_lost_response_to_a_write_batch_leaves_one_row_per_message() {
    let mut organisation = TestOrganisation::start().await;
    let ids = ["m1", "m2", "m3"];
    for id in ids {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    organisation.fail_dataverse_at(CREATE, Fault::ResetAfterCommit);
    let work = || ids.map(|id| created(ADA, id)).into_iter().collect();
    for done in organisation.run(work()).await {
        waiting(&done.outcome);
    }
    for done in organisation.run(work()).await {
        assert_eq!(written(&done.outcome).1, Some("already existed"));
    }
    assert_eq!(organisation.emails().len(), 3);
}
