//! What if Dataverse asks for time, or for another token, halfway through a batch? Nothing more is sent, and the rest goes back with the same advice.

use mailverse::dataverse::write::WriteMode;
use mailverse::pipeline::Fate;
use serde_json::json;

use crate::world::{
    ADA, CREATE, LOOK_UP, UPDATE, World, mail, status, throttled, waiting, written,
};

const IDS: [&str; 4] = ["m1", "m2", "m3", "m4"];

/// Queries of a look-up for one page of people and mails.
const LOOK_UP_QUERIES: u64 = 5;

/// Four mails in Ada's mailbox, the first `with_files` of which have a file.
async fn four_mails(mode: WriteMode, with_files: usize) -> World {
    let world = World::start_in(mode).await;
    for (n, id) in IDS.into_iter().enumerate() {
        world.put(ADA, mail(id, &json!({})));
        if n < with_files {
            attach(&world, id);
        }
    }
    world
}

fn attach(world: &World, id: &str) {
    let file = json!({"id": format!("file-of-{id}"), "filename": "a.pdf", "content_type": "application/pdf"});
    let nylas = world.twin.nylas();
    nylas.add_attachment(ADA, id, file, b"%PDF".to_vec());
}

fn throttle() -> twin::Fault {
    throttled("0x80072322", 77)
}

async fn deliver(world: &mut World) -> Vec<Fate> {
    world.deliver(&IDS.map(|id| (ADA, id))).await
}

/// These wait as long as Dataverse said, after so many requests in all; the next delivery writes them.
async fn wait_and_are_then_written(mut world: World, waiting_ones: &[&Fate], requests: u64) {
    for fate in waiting_ones {
        let throttled = "dataverse throttled the call";
        assert_eq!(
            (waiting(fate).0.as_secs(), waiting(fate).1),
            (77, throttled)
        );
    }
    assert_eq!(world.twin.dataverse().requests().total, requests);
    for fate in deliver(&mut world).await {
        written(&fate);
    }
    assert_eq!(world.emails().len(), IDS.len());
}

#[tokio::test]
async fn the_singles_of_a_split_batch_are_not_sent_after_a_429() {
    let mut world = four_mails(WriteMode::ChangeSet, 0).await;
    world.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    world.fail_dataverse_at(CREATE, throttle());
    let fates = deliver(&mut world).await;
    // The look-up, the batch, and the first single.
    wait_and_are_then_written(world, &fates.iter().collect::<Vec<_>>(), 3).await;
}

#[tokio::test]
async fn the_single_look_ups_of_a_split_batch_are_not_sent_after_a_429() {
    let mut world = four_mails(WriteMode::ChangeSet, 0).await;
    world.fail_dataverse_at(LOOK_UP, status(400, "0x80060888"));
    world.fail_dataverse_at(LOOK_UP, throttle());
    let fates = deliver(&mut world).await;
    wait_and_are_then_written(world, &fates.iter().collect::<Vec<_>>(), 2).await;
}

#[tokio::test]
async fn mails_with_files_are_neither_fetched_nor_sent_after_a_429() {
    let mut world = four_mails(WriteMode::ChangeSet, IDS.len()).await;
    // What a pipeline asks once, about mailboxes and folders, is asked before.
    world.put(ADA, mail("m0", &json!({})));
    written(&world.deliver_one(ADA, "m0").await);
    let (nylas, dataverse) = (world.twin.nylas().clone(), world.twin.dataverse().clone());
    let before = (nylas.requests(), dataverse.requests().total);
    world.fail_dataverse_at(CREATE, throttle());
    for fate in deliver(&mut world).await {
        assert_eq!(waiting(&fate).0.as_secs(), 77);
    }
    assert_eq!(
        nylas.requests() - before.0,
        4 + 1,
        "the messages and one file"
    );
    assert_eq!(dataverse.requests().total - before.1, 2);
    for fate in deliver(&mut world).await {
        written(&fate);
    }
}

#[tokio::test]
async fn step_by_step_no_further_step_is_taken_after_a_429() {
    for (step, requests) in [(CREATE, 2), (UPDATE, 3)] {
        let mut world = four_mails(WriteMode::Stepwise, 0).await;
        world.fail_dataverse_at(step, throttle());
        let fates = deliver(&mut world).await;
        wait_and_are_then_written(world, &fates.iter().collect::<Vec<_>>(), requests).await;
    }
}

#[tokio::test]
async fn after_a_429_in_a_part_the_other_parts_count_and_nothing_more_is_sent() {
    let mut world = four_mails(WriteMode::ChangeSet, 0).await;
    attach(&world, "m4");
    // Of each mail a POST and a PATCH: the second one's POST. The fourth has a file and would be written after the batch.
    let dataverse = world.twin.dataverse();
    dataverse.fail_operation(LOOK_UP_QUERIES + 2, throttle());
    let fates = deliver(&mut world).await;
    written(&fates[0]);
    written(&fates[2]);
    wait_and_are_then_written(world, &[&fates[1], &fates[3]], 2).await;
}

#[tokio::test]
async fn after_a_429_in_a_part_of_the_look_up_nothing_is_written() {
    let mut world = four_mails(WriteMode::ChangeSet, 0).await;
    world.twin.dataverse().fail_operation(1, throttle());
    let fates = deliver(&mut world).await;
    wait_and_are_then_written(world, &fates.iter().collect::<Vec<_>>(), 1).await;
}

#[tokio::test]
async fn after_a_429_for_a_row_of_another_client_nothing_is_written() {
    let mut world = four_mails(WriteMode::ChangeSet, 0).await;
    let theirs = json!({"messageid": "<m1@kites.example>", "statecode": 1, "statuscode": 4});
    world.insert("email", theirs);
    world.fail_dataverse_at(UPDATE, throttle());
    let fates = deliver(&mut world).await;
    wait_and_are_then_written(world, &fates.iter().collect::<Vec<_>>(), 2).await;
}

#[tokio::test]
async fn a_second_batch_is_not_sent_after_a_429_for_the_first() {
    let mut world = World::start().await;
    let ids: Vec<String> = (0..120).map(|n| format!("m{n}")).collect();
    for id in &ids {
        world.put(ADA, mail(id, &json!({})));
    }
    let messages: Vec<(&str, &str)> = ids.iter().map(|id| (ADA, id.as_str())).collect();
    world.fail_dataverse_at(CREATE, throttle());
    for fate in world.deliver(&messages).await {
        assert_eq!(waiting(&fate).0.as_secs(), 77);
    }
    assert_eq!(world.twin.dataverse().requests().total, 2);
    for fate in world.deliver(&messages).await {
        written(&fate);
    }
    let requests = world.twin.dataverse().requests().total;
    assert_eq!(requests, 2 + 3, "a look-up and two batches");
}

#[tokio::test]
async fn a_refused_token_is_not_shown_again_in_the_same_run() {
    for mode in [WriteMode::ChangeSet, WriteMode::Stepwise] {
        let mut world = four_mails(mode, IDS.len()).await;
        let entra = world.twin.entra().clone();
        world.before_dataverse_gets(CREATE, async move { entra.revoke_all() });
        for fate in deliver(&mut world).await {
            assert_eq!(waiting(&fate).1, "dataverse refused the token");
        }
        assert_eq!(world.twin.dataverse().requests().total, 2);
        for fate in deliver(&mut world).await {
            written(&fate);
        }
        assert_eq!(world.twin.entra().requests(), 2, "renewed once");
    }
}
