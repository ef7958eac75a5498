//! Tests what happens if the process dies, or if another worker or client writes first.

use emulators::Fault;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::ledger::{ClaimRequest, ClaimToken, LEASE};
use serde_json::json;
use uuid::Uuid;

use crate::test_organisation::{
    ADA, CREATE, UPDATE, World, created, id_of, key, mail, to_row, waiting, with_a_mail_in, written,
};

in_both_write_modes!(
    a_crash_between_write_and_settle_leaves_one_row,
    an_open_row_that_a_crash_left_is_completed,
    a_ledger_that_fails_after_the_write_costs_a_second_look,
    a_worker_that_overran_its_lease_does_not_overwrite_its_successor,
    a_row_of_server_side_sync_that_changed_meanwhile_is_looked_at_again,
);

async fn a_crash_between_write_and_settle_leaves_one_row(mode: WriteMode) {
    let mut world = with_a_mail_in(mode).await;
    let first = world.deliver_one(ADA, "m1").await;
    world.lose_ledger().await;
    let again = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&again),
        (written(&first).0, Some("already existed"))
    );
    world.email();
}

async fn an_open_row_that_a_crash_left_is_completed(mode: WriteMode) {
    let mut world = with_a_mail_in(mode).await;
    let message = world.emulators.nylas().message(ADA, "m1").unwrap();
    let message =
        mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
    let id = message.activity_id();
    world.insert("email", json!({"activityid": id, "subject": "Kites for spring", "messageid": "<m1@kites.example>", "directioncode": false}));
    assert_eq!(
        written(&world.deliver_one(ADA, "m1").await),
        (id.uuid(), None)
    );
    let email = world.email();
    assert_eq!(
        (&email["statecode"], &email["statuscode"]),
        (&json!(1), &json!(4))
    );
}

async fn a_ledger_that_fails_after_the_write_costs_a_second_look(mode: WriteMode) {
    let mut world = with_a_mail_in(mode).await;
    world.before_dataverse_gets(CREATE, world.drop_ledger());
    waiting(&world.deliver_one(ADA, "m1").await);
    world.lose_ledger().await;
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&fate),
        (id_of(&world.email()), Some("already existed"))
    );
}

async fn a_worker_that_overran_its_lease_does_not_overwrite_its_successor(mode: WriteMode) {
    let mut world = with_a_mail_in(mode).await;
    let successor = ClaimToken::new(Uuid::from_u128(999));
    let (ledger, at) = (world.pipeline.ledger.clone(), world.now + LEASE);
    world.before_dataverse_gets(CREATE, async move {
        let claim = ledger
            .claim(&key(ADA, "m1"), &ClaimRequest::new(successor, at))
            .await;
        assert!(claim.unwrap().is_won());
    });
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        waiting(&fate).1,
        "the claim was lost: another worker took over the message"
    );
    let entry = world.entry(ADA, "m1").await.unwrap();
    assert_eq!(
        entry.held,
        Some((successor, at + LEASE)),
        "the successor still holds the claim"
    );
    // The successor dies. The next worker finds the row.
    world.later(LEASE + LEASE);
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&fate),
        (id_of(&world.email()), Some("already existed"))
    );
}

async fn a_row_of_server_side_sync_that_changed_meanwhile_is_looked_at_again(mode: WriteMode) {
    let mut world = with_a_mail_in(mode).await;
    let theirs = world.insert(
        "email",
        json!({"subject": "x", "messageid": "<m1@kites.example>", "statecode": 1, "statuscode": 4}),
    );
    let dataverse = world.emulators.dataverse().url();
    let token = world.emulators.entra().issue_token(&dataverse, 600);
    let account = format!("/accounts({})", world.people.kites);
    world.before_dataverse_gets(UPDATE, async move {
        let call =
            reqwest::Client::new().patch(format!("{dataverse}/api/data/v9.2/emails({theirs})"));
        let call = call
            .bearer_auth(token)
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0");
        let body = json!({"regardingobjectid_account_email@odata.bind": account});
        let answer = call.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    });
    let fate = world.deliver_one(ADA, "m1").await;
    assert!(
        waiting(&fate).1.starts_with("a dataverse row changed"),
        "{fate:?}"
    );
    assert_eq!(written(&world.deliver_one(ADA, "m1").await).0, theirs);
    assert_eq!(
        world.email()["regardingobjectid"],
        to_row("account", world.people.kites),
        "the regarding that the other client chose is kept"
    );
}

#[tokio::test]
async fn a_lost_answer_to_a_batch_of_writes_leaves_one_row_for_each_mail() {
    let mut world = World::start().await;
    let ids = ["m1", "m2", "m3"];
    for id in ids {
        world.put(ADA, mail(id, &json!({})));
    }
    world.fail_dataverse_at(CREATE, Fault::ResetAfterCommit);
    let work = || ids.map(|id| created(ADA, id)).into_iter().collect();
    for done in world.run(work()).await {
        waiting(&done.fate);
    }
    for done in world.run(work()).await {
        assert_eq!(written(&done.fate).1, Some("already existed"));
    }
    assert_eq!(world.emails().len(), 3);
}
