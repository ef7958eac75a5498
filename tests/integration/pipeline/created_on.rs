//! Tests that a backfilled row can have the original date as `createdon`, and what happens if
//! Dataverse rejects that.

use chrono::TimeDelta;
use emulators::Setting;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::pipeline::created_on::CreatedOn;
use serde_json::{Value, json};

use crate::test_organisation::{ADA, World, mail, status, written};

in_both_write_modes!(
    old_mail_says_when_it_came_on_request_and_new_mail_never,
    what_dataverse_refuses_is_left_out_and_not_tried_again,
    a_refused_owner_does_not_cost_the_date,
    a_refused_owner_and_a_refused_date_cost_both,
);

/// Starts a pipeline that keeps the original date, with one message of last year and one of today.
async fn world(mode: WriteMode) -> World {
    let mut world = World::start_in(mode).await;
    world.pipeline.created_on = CreatedOn::Original.into();
    world.put(ADA, mail("old", &json!({"date": 1_763_600_000})));
    let today = (world.now - TimeDelta::hours(2)).timestamp();
    world.put(ADA, mail("new", &json!({"date": today})));
    world
}

/// Returns the `createdon` of the row of a message, and whether the writer set it.
fn made(world: &World, id: &str) -> (Value, bool) {
    let message_id = json!(format!("<{id}@kites.example>"));
    let emails = world.emails();
    let row = emails.iter().find(|row| row["messageid"] == message_id);
    let row = row.unwrap_or_else(|| panic!("no row has the Message-ID of {id}"));
    (
        row["createdon"].clone(),
        row.get("overriddencreatedon").is_some(),
    )
}

async fn old_mail_says_when_it_came_on_request_and_new_mail_never(mode: WriteMode) {
    let mut world = world(mode).await;
    for fate in world.deliver(&[(ADA, "old"), (ADA, "new")]).await {
        written(&fate);
    }
    assert_eq!(made(&world, "old"), (json!("2025-11-20T00:53:20Z"), true));
    assert!(!made(&world, "new").1);
    assert!(!world.pipeline.created_on.is_refused());

    world.pipeline.created_on = CreatedOn::Now.into();
    world.put(ADA, mail("older", &json!({"date": 1_700_000_000})));
    written(&world.deliver_one(ADA, "older").await);
    assert!(!made(&world, "older").1);
}

async fn what_dataverse_refuses_is_left_out_and_not_tried_again(mode: WriteMode) {
    let mut world = world(mode).await;
    let dataverse = world.emulators.dataverse().clone();
    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    for id in ["old2", "old3"] {
        world.put(ADA, mail(id, &json!({"date": 1_763_600_000})));
    }
    let fates = world
        .deliver(&[(ADA, "old"), (ADA, "new"), (ADA, "old2")])
        .await;
    for fate in &fates {
        written(fate);
    }
    assert!(world.pipeline.created_on.is_refused());
    for id in ["old", "new", "old2"] {
        assert!(!made(&world, id).1, "{id}");
    }
    let ada = json!({"table": "systemuser", "id": world.people.ada});
    for email in world.emails() {
        assert_eq!(
            email["ownerid"], ada,
            "the owner is kept, because it was not rejected"
        );
    }
    // The date is not tried again: as many writes as without the setting.
    let before = dataverse.requests().writes;
    written(&world.deliver_one(ADA, "old3").await);
    assert_eq!(dataverse.requests().writes - before, 2);
}

/// Rejects the next two rows that set an owner, as if the application lacked a privilege.
fn refuse_the_owner(world: &World) {
    for _ in 0..2 {
        world.fail_dataverse_at("ownerid@odata.bind", status(403, "0x80040220"));
    }
}

async fn a_refused_owner_does_not_cost_the_date(mode: WriteMode) {
    let mut world = world(mode).await;
    refuse_the_owner(&world);
    let fate = world.deliver_one(ADA, "old").await;
    assert_eq!(written(&fate).1, Some("left out: owner refused"));
    assert!(made(&world, "old").1);
    assert!(!world.pipeline.created_on.is_refused());
}

async fn a_refused_owner_and_a_refused_date_cost_both(mode: WriteMode) {
    let mut world = world(mode).await;
    let dataverse = world.emulators.dataverse();
    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    refuse_the_owner(&world);
    let fate = world.deliver_one(ADA, "old").await;
    assert_eq!(written(&fate).1, Some("left out: owner refused"));
    assert!(!made(&world, "old").1);
    assert!(world.pipeline.created_on.is_refused());
}
