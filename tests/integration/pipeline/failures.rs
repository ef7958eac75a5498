//! What if a service fails, or the process dies?

use chrono::TimeDelta;
use mailverse::dedupe::{Claim, ClaimToken, LEASE, State};
use mailverse::pipeline::Fate;
use mailverse::sync_request::Trigger;
use serde_json::json;
use twin::Fault;
use uuid::Uuid;

use crate::world::{
    ADA, BEN, CREATE, LOOK_UP, UPDATE, World, created, dead, id_of, key, mail, people, status,
    throttled, to_row, waiting, work, written,
};

/// First step of the backoff, in seconds.
const FIRST_STEP: u64 = 30;

/// A message waits, is free in the ledger, and the next run writes it as one completed row.
async fn waits_and_is_then_written(mut world: World, seconds: u64, what: &str) {
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&fate).0.as_secs(), seconds, "{what}");
    let entry = world.entry(ADA, "m1").await.expect("an item");
    assert_eq!((entry.state, entry.held), (State::Waiting, None), "{what}");
    assert_eq!(entry.reason.as_deref(), fate.reason(), "{what}");
    let fate = world.deliver_one(ADA, "m1").await;
    let email = world.email();
    assert_eq!(written(&fate).0, id_of(&email), "{what}");
    assert_eq!(email["statecode"], 1, "{what}");
}

async fn with_a_mail() -> World {
    let world = World::start().await;
    world.put(ADA, mail("m1", &json!({})));
    world
}

#[tokio::test]
async fn an_outage_of_dataverse_costs_time_and_no_second_row() {
    for request in [LOOK_UP, CREATE] {
        for fault in [
            status(503, ""),
            status(500, "0x80044150"),
            Fault::ResetBefore,
            Fault::ResetAfterCommit,
        ] {
            let what = format!("{fault:?} at {request}");
            let world = with_a_mail().await;
            world.fail_dataverse_at(request, fault);
            waits_and_is_then_written(world, FIRST_STEP, &what).await;
        }
    }
}

#[tokio::test]
async fn an_outage_of_nylas_costs_time() {
    for request in [
        "/messages/m1?",
        "/v3/grants?",
        "/v3/grants/grant-ada?expose_aliases",
        "/folders?",
    ] {
        for fault in [
            status(504, "provider_error"),
            Fault::ResetBefore,
            Fault::ResetAfterCommit,
        ] {
            let what = format!("{fault:?} at {request}");
            let world = with_a_mail().await;
            world.fail_nylas_at(request, fault);
            waits_and_is_then_written(world, FIRST_STEP, &what).await;
        }
    }
}

#[tokio::test]
async fn retry_after_of_dataverse_is_a_floor() {
    for request in [LOOK_UP, CREATE] {
        let world = with_a_mail().await;
        world.fail_dataverse_at(request, throttled("0x80072322", 77));
        waits_and_is_then_written(world, 77, request).await;
    }
}

#[tokio::test]
async fn retry_after_of_nylas_is_a_floor() {
    let world = with_a_mail().await;
    world.fail_nylas_at("/messages/m1?", throttled("rate_limit_error", 41));
    waits_and_is_then_written(world, 41, "nylas").await;
}

#[tokio::test]
async fn an_outage_of_entra_costs_time() {
    for fault in [status(503, "temporarily_unavailable"), Fault::ResetBefore] {
        let world = with_a_mail().await;
        let what = format!("{fault:?}");
        world.twin.entra().fail_next(fault);
        waits_and_is_then_written(world, FIRST_STEP, &what).await;
    }
}

#[tokio::test]
async fn a_token_that_dataverse_no_longer_takes_is_replaced_for_the_next_try() {
    for request in [LOOK_UP, CREATE] {
        let mut world = with_a_mail().await;
        world.put(ADA, mail("m0", &json!({})));
        world.deliver_one(ADA, "m0").await;
        let entra = world.twin.entra().clone();
        world.before_dataverse_gets(request, async move { entra.revoke_all() });
        let fate = world.deliver_one(ADA, "m1").await;
        assert_eq!(
            waiting(&fate),
            (
                std::time::Duration::from_secs(FIRST_STEP),
                "dataverse refused the token"
            )
        );
        assert_eq!(
            world.twin.entra().requests(),
            1,
            "the first one was kept until now"
        );
        written(&world.deliver_one(ADA, "m1").await);
        assert_eq!(world.emails().len(), 2);
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end() {
    let mut world = with_a_mail().await;
    world.put(ADA, mail("m2", &json!({})));
    world.deliver_one(ADA, "m1").await;
    world.later(TimeDelta::seconds(3_599 - 299));
    written(&world.deliver_one(ADA, "m2").await);
    assert_eq!(world.twin.entra().requests(), 2);
}

#[tokio::test]
async fn a_crash_between_write_and_settle_leaves_one_row() {
    let mut world = with_a_mail().await;
    let first = world.deliver_one(ADA, "m1").await;
    world.lose_ledger().await;
    let again = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&again),
        (written(&first).0, Some("was there already"))
    );
    world.email();
}

#[tokio::test]
async fn an_open_row_that_a_crash_left_is_completed() {
    let mut world = with_a_mail().await;
    let message = world.twin.nylas().message(ADA, "m1").unwrap();
    let message = mailverse::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
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

#[tokio::test]
async fn a_ledger_that_does_not_answer_stops_everything_before_it_begins() {
    let mut world = with_a_mail().await;
    world.drop_ledger().await;
    let fate = world.deliver_one(ADA, "m1").await;
    let (delay, reason) = waiting(&fate);
    assert_eq!(delay.as_secs(), FIRST_STEP);
    assert!(reason.starts_with("the ledger did not answer"), "{reason}");
    assert_eq!(world.twin.nylas().requests(), 0);
    assert!(world.emails().is_empty());
}

#[tokio::test]
async fn a_ledger_that_fails_after_the_write_costs_a_second_look() {
    let mut world = with_a_mail().await;
    world.before_dataverse_gets(CREATE, world.drop_ledger());
    waiting(&world.deliver_one(ADA, "m1").await);
    world.lose_ledger().await;
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&fate),
        (id_of(&world.email()), Some("was there already"))
    );
}

#[tokio::test]
async fn a_worker_that_overran_its_lease_does_not_overwrite_its_successor() {
    let mut world = with_a_mail().await;
    let successor = ClaimToken::new(Uuid::from_u128(999));
    let (ledger, at) = (world.pipeline.ledger.clone(), world.now + LEASE);
    world.before_dataverse_gets(CREATE, async move {
        let claim = ledger
            .claim(&key(ADA, "m1"), successor, at, LEASE, false)
            .await;
        assert_eq!(claim.unwrap(), Claim::Won);
    });
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&fate).1, "another worker took the message over");
    let entry = world.entry(ADA, "m1").await.unwrap();
    assert_eq!(
        entry.held,
        Some((successor, at + LEASE)),
        "the successor's claim stands"
    );
    // The successor dies; whoever comes next finds the row.
    world.later(LEASE + LEASE);
    let fate = world.deliver_one(ADA, "m1").await;
    assert_eq!(
        written(&fate),
        (id_of(&world.email()), Some("was there already"))
    );
}

#[tokio::test]
async fn a_row_of_server_side_sync_that_changed_meanwhile_is_looked_at_again() {
    let mut world = with_a_mail().await;
    let theirs = world.insert(
        "email",
        json!({"subject": "x", "messageid": "<m1@kites.example>", "statecode": 1, "statuscode": 4}),
    );
    let dataverse = world.twin.dataverse().url();
    let token = world.twin.entra().issue_token(&dataverse, 600);
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
        waiting(&fate).1.starts_with("dataverse changed in between"),
        "{fate:?}"
    );
    assert_eq!(written(&world.deliver_one(ADA, "m1").await).0, theirs);
    assert_eq!(
        world.email()["regardingobjectid"],
        to_row("account", world.people.kites),
        "what the other client chose stays"
    );
}

#[tokio::test]
async fn what_dataverse_refuses_for_good_is_dead_with_its_code_and_does_not_harm_its_neighbours() {
    let mut world = World::start().await;
    world
        .twin
        .dataverse()
        .set_max_length("email", "subject", 200)
        .unwrap();
    world.put(ADA, mail("good1", &json!({})));
    world.put(ADA, mail("poison", &json!({"subject": "x".repeat(201)})));
    world.put(
        BEN,
        mail("good2", &json!({"to": people(&["ben@ours.example"])})),
    );
    let fates = world
        .deliver(&[(ADA, "good1"), (ADA, "poison"), (BEN, "good2")])
        .await;
    written(&fates[0]);
    written(&fates[2]);
    let reason = "dataverse refused the row: 400 0x80044331, a text is longer than its column in this organisation";
    assert_eq!(dead(&fates[1]), reason);
    assert!(matches!(fates[1], Fate::Dead { gave_up: false, .. }));
    let entry = world.entry(ADA, "poison").await.unwrap();
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Dead, Some(reason))
    );
    assert_eq!(world.emails().len(), 2);
    assert_eq!(
        world.deliver_one(ADA, "poison").await,
        fates[1],
        "dead until somebody sends it again"
    );
}

#[tokio::test]
async fn a_look_up_that_is_refused_because_of_one_message_does_not_harm_its_neighbours() {
    let mut world = World::start().await;
    for id in ["good1", "poison", "good2"] {
        world.put(ADA, mail(id, &json!({})));
    }
    // The query that asks for the poisonous mail: once with the others, once alone.
    for _ in 0..2 {
        world.fail_dataverse_at("poison%40kites.example", status(400, "0x80060888"));
    }
    let fates = world
        .deliver(&[(ADA, "good1"), (ADA, "poison"), (ADA, "good2")])
        .await;
    written(&fates[0]);
    written(&fates[2]);
    assert!(dead(&fates[1]).contains("0x80060888"), "{:?}", fates[1]);
    assert_eq!(world.emails().len(), 2);
}

#[tokio::test]
async fn a_write_that_is_refused_as_a_whole_is_repeated_mail_by_mail() {
    for code in [status(400, "0x80048d19"), status(413, "0x8004418A")] {
        let mut world = World::start().await;
        // A mailbox without a user: no owner that could be left out.
        world.twin.nylas().add_grant(twin::Grant {
            id: "office".to_owned(),
            email: "office@ours.example".to_owned(),
            provider: "imap".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        for id in ["m1", "m2", "m3"] {
            world.put("office", mail(id, &json!({})));
        }
        // The batch of all, then the one of m2 alone.
        world.fail_dataverse_at("<m2@kites.example>", code.clone());
        world.fail_dataverse_at("<m2@kites.example>", code);
        let fates = world
            .deliver(&[("office", "m1"), ("office", "m2"), ("office", "m3")])
            .await;
        written(&fates[0]);
        dead(&fates[1]);
        written(&fates[2]);
    }
}

#[tokio::test]
async fn a_message_that_nylas_cannot_give_does_not_harm_its_neighbours() {
    let mut world = World::start().await;
    for id in ["m1", "m2", "m3"] {
        world.put(ADA, mail(id, &json!({})));
    }
    world.fail_nylas_at("/messages/m2?", status(400, "invalid_request_error"));
    let fates = world
        .deliver(&[(ADA, "m1"), (ADA, "m2"), (ADA, "m3")])
        .await;
    written(&fates[0]);
    assert_eq!(
        dead(&fates[1]),
        "nylas refused the call: 400 invalid_request_error"
    );
    written(&fates[2]);
}

#[tokio::test]
async fn a_mailbox_whose_grant_expired_waits_and_the_others_go_on() {
    let mut world = World::start().await;
    world.put(ADA, mail("m1", &json!({})));
    world.put(
        BEN,
        mail("m2", &json!({"to": people(&["ben@ours.example"])})),
    );
    world.twin.nylas().set_grant_status(BEN, "invalid");
    let fates = world.deliver(&[(ADA, "m1"), (BEN, "m2")]).await;
    written(&fates[0]);
    let (delay, reason) = waiting(&fates[1]);
    assert_eq!(delay.as_secs(), 6 * 3_600, "somebody has to sign in");
    assert!(reason.contains("check the grant's status"), "{reason}");
    world.twin.nylas().set_grant_status(BEN, "valid");
    written(&world.deliver_one(BEN, "m2").await);
}

#[tokio::test]
async fn an_application_without_a_user_is_told_what_is_missing() {
    let mut world = with_a_mail().await;
    world.twin.dataverse().remove_application_user();
    let fate = world.deliver_one(ADA, "m1").await;
    assert!(
        dead(&fate).contains("0x80072560, the application is no user of this organisation"),
        "{fate:?}"
    );
}

#[tokio::test]
async fn the_backoff_grows_with_each_delivery_and_the_last_one_is_dead() {
    let mut world = with_a_mail().await;
    for (receive_count, seconds) in [(1, 30), (2, 120), (3, 480)] {
        world.fail_dataverse_at(LOOK_UP, status(503, ""));
        let handled = world
            .run(vec![work(ADA, "m1", Trigger::Created, receive_count)])
            .await;
        assert_eq!(waiting(&handled[0].fate).0.as_secs(), seconds);
    }
    world.fail_dataverse_at(LOOK_UP, status(503, ""));
    let handled = world.run(vec![work(ADA, "m1", Trigger::Created, 10)]).await;
    assert_eq!(
        dead(&handled[0].fate),
        "gave up after 10 deliveries: dataverse is unavailable: 503"
    );
    assert!(matches!(handled[0].fate, Fate::Dead { gave_up: true, .. }));
    assert_eq!(world.entry(ADA, "m1").await.unwrap().state, State::Dead);
    assert!(world.emails().is_empty());
}

#[tokio::test]
async fn one_failure_of_the_service_delays_the_whole_batch_and_loses_none_of_it() {
    let mut world = World::start().await;
    let ids = ["m1", "m2", "m3"];
    for id in ids {
        world.put(ADA, mail(id, &json!({})));
    }
    world.fail_dataverse_at(CREATE, throttled("0x80072326", 60));
    let messages = ids.map(|id| (ADA, id));
    for fate in world.deliver(&messages).await {
        assert_eq!(waiting(&fate).0.as_secs(), 60);
    }
    for fate in world.deliver(&messages).await {
        written(&fate);
    }
    assert_eq!(world.emails().len(), 3);
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
        assert_eq!(written(&done.fate).1, Some("was there already"));
    }
    assert_eq!(world.emails().len(), 3);
}

/// Queries of a look-up for one page of people and mails.
const LOOK_UP_QUERIES: u64 = 5;

#[tokio::test]
async fn a_change_set_that_is_throttled_within_its_batch_waits_alone() {
    let mut world = World::start().await;
    let ids = ["m1", "m2", "m3"];
    for id in ids {
        world.put(ADA, mail(id, &json!({})));
    }
    // Of each mail a POST and a PATCH: the second mail's POST.
    let dataverse = world.twin.dataverse();
    dataverse.fail_operation(LOOK_UP_QUERIES + 2, throttled("0x80072322", 50));
    let fates = world.deliver(&ids.map(|id| (ADA, id))).await;
    written(&fates[0]);
    assert_eq!(waiting(&fates[1]).0.as_secs(), 50);
    written(&fates[2]);
    written(&world.deliver_one(ADA, "m2").await);
    assert_eq!(world.emails().len(), 3);
}

#[tokio::test]
async fn a_mail_whose_completion_is_refused_within_its_batch_leaves_no_open_row() {
    let mut world = with_a_mail().await;
    for skip in [1, 3] {
        // With its owner, then without.
        let dataverse = world.twin.dataverse();
        dataverse.fail_operation(LOOK_UP_QUERIES + skip, status(400, "0x80040265"));
    }
    let fate = world.deliver_one(ADA, "m1").await;
    assert!(
        dead(&fate).contains("0x80040265, a plug-in of this organisation refused the row"),
        "{fate:?}"
    );
    assert!(world.emails().is_empty());
}

#[tokio::test]
async fn a_query_that_fails_within_the_look_up_delays_the_batch() {
    let world = with_a_mail().await;
    world.twin.dataverse().fail_operation(2, status(503, ""));
    waits_and_is_then_written(world, FIRST_STEP, "one query").await;
}
