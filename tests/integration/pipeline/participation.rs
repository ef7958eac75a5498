//! Tests which mailboxes are synchronised if two companies share one Nylas application.

use chrono::TimeDelta;
use emulators::Grant;
use mailverse::ledger::State;
use mailverse::model::sync_request::Trigger;
use mailverse::pipeline::Fate;
use serde_json::json;

use crate::test_organisation::{ADA, World, assert_skipped, mail, people, waiting, work, written};

/// The mailbox of the other company.
const EVE: &str = "grant-eve";

fn connect(world: &World, email: &str) {
    world.emulators.nylas().add_grant(Grant {
        id: EVE.to_owned(),
        email: email.to_owned(),
        provider: "google".to_owned(),
        aliases: vec!["help@theirs.example".to_owned()],
        status: "valid".to_owned(),
    });
}

/// Starts a pipeline that also sees a mailbox of another company. The setting names the mailboxes
/// that take part.
async fn with_two_companies(setting: &str) -> World {
    let mut world = World::start().await;
    connect(&world, "eve@theirs.example");
    world
        .emulators
        .nylas()
        .set_workspace(EVE, "workspace-theirs");
    world.put(
        EVE,
        mail("e1", &json!({"to": people(&["eve@theirs.example"])})),
    );
    world.admit(setting);
    world
}

/// Asserts that no request was about Eve's mailbox: only the grant list and Ada's data were read.
fn assert_left_alone(world: &World) {
    let asked = world.emulators.nylas().requested();
    assert!(!asked.is_empty(), "at least one request was sent");
    let of_eve: Vec<&String> = asked
        .iter()
        .filter(|path| path.contains(EVE) || path.contains("theirs"))
        .collect();
    assert_eq!(of_eve, [""; 0]);
}

#[tokio::test]
async fn mail_of_a_mailbox_that_takes_no_part_is_skipped_and_nothing_of_it_is_asked_for() {
    let mut world = with_two_companies("ours.example").await;
    world.put(ADA, mail("m1", &json!({})));
    let fates = world.deliver(&[(EVE, "e1"), (ADA, "m1")]).await;
    assert_skipped(&fates[0], "mailbox_excluded");
    written(&fates[1]);
    world.email();
    world.list_mailboxes().await;
    world.email();
    assert_left_alone(&world);
    let entry = world.entry(EVE, "e1").await.unwrap();
    assert_eq!(entry.state, State::Skipped);
    // The message is still skipped when Nylas reports a change.
    let again = world.run(vec![work(EVE, "e1", Trigger::Updated, 1)]).await;
    assert_skipped(&again[0].fate, "mailbox_excluded");
    assert_left_alone(&world);
}

#[tokio::test]
async fn a_mailbox_that_takes_no_part_is_nobody_of_ours() {
    for (id, to) in [("m1", "eve@theirs.example"), ("m2", "help@theirs.example")] {
        let among = json!({"from": people(&["ada@ours.example"]), "to": people(&[to])});
        let mut world = with_two_companies("Ada@ours.example").await;
        world.put(ADA, mail(id, &among));
        written(&world.deliver_one(ADA, id).await);
        assert_left_alone(&world);
        let mut world = with_two_companies("all").await;
        world.put(ADA, mail(id, &among));
        assert_skipped(&world.deliver_one(ADA, id).await, "internal_only");
    }
}

#[tokio::test]
async fn an_alias_of_a_mailbox_that_takes_part_by_its_address_alone_is_ours() {
    let mut world = with_two_companies("ada@ours.example").await;
    let among =
        json!({"from": people(&["ada@ours.example"]), "to": people(&["sales@ours.example"])});
    world.put(ADA, mail("m1", &among));
    assert_skipped(&world.deliver_one(ADA, "m1").await, "internal_only");
}

#[tokio::test]
async fn mail_that_came_while_its_mailbox_took_no_part_is_brought_in_once_it_does() {
    let mut world = with_two_companies("ours.example").await;
    let fate = world.deliver_one(EVE, "e1").await;
    assert_skipped(&fate, "mailbox_excluded");
    world.list_mailboxes().await;
    assert_eq!(world.emails().len(), 0);
    world.admit("ours.example, workspace:workspace-theirs");
    // A repeated notification does not change the outcome.
    let fate = world.deliver_one(EVE, "e1").await;
    assert_skipped(&fate, "mailbox_excluded");
    // Live mail has reserved capacity, so backfill runs five minutes later.
    world.later(TimeDelta::minutes(5));
    world.list_mailboxes().await;
    let parties = world.parties();
    assert_eq!(parties.len(), 2, "{parties:?}");
}

#[tokio::test]
async fn what_waited_when_its_mailbox_went_out_does_not_wait_for_ever() {
    let mut world = with_two_companies("all").await;
    world.fail_nylas_at("/messages/e1", emulators::Fault::ResetBefore);
    waiting(&world.deliver_one(EVE, "e1").await);
    world.admit("ours.example");
    let asked = world.emulators.nylas().requested().len();
    world.later(TimeDelta::minutes(5));
    assert_skipped(&world.deliver_one(EVE, "e1").await, "mailbox_excluded");
    let asked = world.emulators.nylas().requested().split_off(asked);
    assert!(!asked.iter().any(|path| path.contains(EVE)), "{asked:?}");
}

#[tokio::test]
async fn a_mailbox_that_moves_in_or_out_is_followed_within_half_an_hour() {
    let mut world = with_two_companies("ours.example,workspace:workspace-ours").await;
    assert_skipped(&world.deliver_one(EVE, "e1").await, "mailbox_excluded");
    let mut number = 1;
    let mut fate_of_a_new_mail = async |world: &mut World| {
        number += 1;
        let id = format!("e{number}");
        world.put(
            EVE,
            mail(&id, &json!({"to": people(&["eve@theirs.example"])})),
        );
        world.deliver_one(EVE, &id).await
    };
    world.emulators.nylas().set_workspace(EVE, "workspace-ours");
    world.later(TimeDelta::minutes(29));
    let before = fate_of_a_new_mail(&mut world).await;
    assert_skipped(&before, "mailbox_excluded");
    world.later(TimeDelta::minutes(2));
    written(&fate_of_a_new_mail(&mut world).await);
    world
        .emulators
        .nylas()
        .set_workspace(EVE, "workspace-theirs");
    world.later(TimeDelta::minutes(31));
    let moved_out = fate_of_a_new_mail(&mut world).await;
    assert_skipped(&moved_out, "mailbox_excluded");
    connect(&world, "eve@ours.example");
    world.later(TimeDelta::minutes(31));
    written(&fate_of_a_new_mail(&mut world).await);
}

#[tokio::test]
async fn mail_of_a_mailbox_that_was_connected_a_second_ago_waits_for_the_list_to_show_it() {
    let mut world = World::start().await;
    world.admit("ours.example,theirs.example");
    world.put(ADA, mail("m1", &json!({})));
    written(&world.deliver_one(ADA, "m1").await);
    connect(&world, "eve@theirs.example");
    world.put(
        EVE,
        mail("e1", &json!({"to": people(&["eve@theirs.example"])})),
    );
    let first = world.deliver_one(EVE, "e1").await;
    assert_eq!(waiting(&first).1, "nylas does not list the mailbox");
    assert_left_alone(&world);
    world.later(TimeDelta::minutes(2));
    let second = world.run(vec![work(EVE, "e1", Trigger::Created, 2)]).await;
    written(&second[0].fate);
}

#[tokio::test]
async fn a_mailbox_that_nylas_never_lists_is_never_asked_and_does_not_come_back_for_ever() {
    let mut world = World::start().await;
    for receive_count in 1..5 {
        let handled = world
            .run(vec![work(EVE, "e1", Trigger::Created, receive_count)])
            .await;
        waiting(&handled[0].fate);
        world.later(TimeDelta::hours(1));
    }
    let last = world.run(vec![work(EVE, "e1", Trigger::Created, 5)]).await;
    assert_skipped(&last[0].fate, "mailbox_unknown");
    assert_left_alone(&world);
    // Once the mailbox is listed, the missed message is written.
    connect(&world, "eve@theirs.example");
    world.put(
        EVE,
        mail("e1", &json!({"to": people(&["eve@theirs.example"])})),
    );
    world.list_mailboxes().await;
    world.email();
}

#[tokio::test]
async fn while_the_mailboxes_cannot_be_listed_mail_waits_and_none_is_fetched() {
    let mut world = with_two_companies("ours.example").await;
    world.put(ADA, mail("m1", &json!({})));
    world.fail_nylas_at("/v3/grants?", emulators::Fault::ResetBefore);
    for fate in world.deliver(&[(EVE, "e1"), (ADA, "m1")]).await {
        assert!(matches!(fate, Fate::Waiting { .. }), "{fate:?}");
    }
    assert_eq!(world.emulators.nylas().requested(), [""; 0]);
}
