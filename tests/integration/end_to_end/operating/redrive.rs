//! Tests `mailverse redrive`: which messages it queues, which it leaves unchanged, and that a
//! redriven message is still written once.

use chrono::TimeDelta;
use emulators::{Privilege, Setting};
use mailverse::ledger::State;
use serde_json::{Value, json};

use super::{key, refused, run};
use crate::end_to_end::canary::{self, assert_silent};
use crate::end_to_end::cloud::{Cloud, GRANT};

#[tokio::test]
async fn a_redriven_message_is_written_once_the_cause_of_its_rejection_is_fixed() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    cloud.put_mail("m1");
    let limit = |length| {
        let dataverse = cloud.emulators.dataverse();
        dataverse
            .set_max_length("email", "subject", length)
            .unwrap();
    };
    limit(5);
    // The column's length cannot be read, so the subject is not cut to it.
    let withheld = Setting::Withheld(vec![(Privilege::Read, "attribute")]);
    cloud.emulators.dataverse().set_setting(withheld);
    cloud
        .send(
            &json!({"version": 1, "grant_id": GRANT, "message_id": "m1", "trigger": "created"})
                .to_string(),
        )
        .await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let seen = cloud.command(&["status"]).await;
    assert_eq!(seen.status, Some(1));
    assert!(seen.out.contains("0x80044331"), "{}", seen.out);

    // Redriven too early: Dataverse rejects the message again, and it can be redriven again.
    let redrive = ["redrive", "grant-1/m1", "--yes"];
    let redriven = cloud.command(&redrive).await;
    redriven.assert_ended(0, "1 of 1 message queued.");
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.state("m1").await, State::Dead);
    assert_eq!(cloud.emails().len(), 0);

    // Redriven twice in a row: both requests are delivered, and the row is written once.
    limit(canary::SUBJECT.len());
    for _ in 0..2 {
        let redriven = cloud.command(&redrive).await;
        redriven.assert_ended(0, "1 of 1 message queued.");
    }
    for _ in 0..2 {
        let batch = cloud.receive().await;
        assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    }
    assert_eq!(cloud.queue_length().await, ("0".to_owned(), "0".to_owned()));
    assert_eq!(cloud.state("m1").await, State::Written);
    assert_eq!(cloud.emails().len(), 1);
    let afterwards = cloud.command(&redrive).await;
    afterwards.assert_ended(1, "0 of 1 message queued.");
    let quiet = cloud.command(&["status"]).await;
    assert_eq!(quiet.status, Some(0));
    let printed = [seen, redriven, afterwards, quiet].map(|seen| seen.out + &seen.err);
    let secrets = cloud.secret_texts().await;
    assert_silent("what the commands print", &printed.concat(), &secrets);
    worker.stop().await;
}

#[tokio::test]
async fn repeating_an_interrupted_redrive_completes_it() {
    let cloud = Cloud::start(10).await;
    cloud.fill().await;
    let mut settings = cloud.operators_settings();
    let (_, url) = settings.last_mut().unwrap();
    url.push_str("-that-is-not-there");
    let seen = run(&["redrive", "grant-1/refused", "--yes"], &settings).await;
    seen.assert_ended(2, "0 of 1 message queued.");
    assert!(
        seen.err
            .contains("-that-is-not-there: the queue did not answer or rejected the call")
            && seen.err.contains("run the same command again"),
        "{}",
        seen.err
    );
    let allowed = cloud
        .ledger()
        .entry(&key("refused"))
        .await
        .unwrap()
        .unwrap();
    assert!(allowed.claimable && allowed.state == State::Dead);
    for how in ["grant-1/refused", "--all"] {
        let seen = cloud.command(&["redrive", how, "--yes"]).await;
        assert_eq!(seen.status, Some(0), "{}", seen.err);
    }
    let bodies: Vec<Value> = cloud
        .receive()
        .await
        .iter()
        .map(|message| serde_json::from_str(message.body().unwrap()).unwrap())
        .collect();
    let mut queued: Vec<&str> = bodies
        .iter()
        .map(|body| body["message_id"].as_str().unwrap())
        .collect();
    queued.sort_unstable();
    assert_eq!(queued, ["given-up", "refused", "refused"]);
}

#[tokio::test]
async fn redrive_names_messages_that_are_not_dead_or_unknown_and_does_not_change_them() {
    let cloud = Cloud::start(10).await;
    cloud.fill().await;
    let ids = ["written", "skipped", "throttled", "unknown"];
    let before = cloud.entries(ids).await;
    let named =
        ["written", "skipped", "throttled", "unknown", "written"].map(|id| format!("{GRANT}/{id}"));
    let mut arguments = vec!["redrive", "--yes"];
    arguments.extend(named.iter().map(String::as_str));
    let seen = cloud.command(&arguments).await;
    seen.assert_ended(1, "0 of 4 messages queued.");
    assert_eq!(
        seen.err.lines().collect::<Vec<_>>(),
        [
            "mailverse: grant-1/written is written already: not queued",
            "mailverse: grant-1/skipped was skipped by the policy: not queued",
            "mailverse: grant-1/throttled is waiting and will be retried automatically: not queued",
            "mailverse: grant-1/unknown is not in the ledger: no worker has claimed it",
        ]
    );
    assert_eq!(cloud.entries(ids).await, before);
    // The messages that are dead are queued nevertheless.
    arguments.push("grant-1/refused");
    let seen = cloud.command(&arguments).await;
    seen.assert_ended(1, "1 of 5 messages queued.");
    assert_eq!(cloud.queue_length().await.0, "1");
}

#[tokio::test]
async fn redrive_all_queues_all_dead_messages_or_those_with_the_given_reason() {
    let cloud = Cloud::start(10).await;
    cloud.fill().await;
    for (text, count) in [("0X80044331", 1), ("grant: 401", 1), ("0x8004", 1)] {
        let seen = cloud
            .command(&["redrive", "--all", "--reason", text, "--yes"])
            .await;
        seen.assert_ended(0, &format!("{count} of {count} message queued."));
    }
    let seen = cloud
        .command(&["redrive", "--all", "--reason", "0x80060888"])
        .await;
    seen.assert_ended(
        0,
        "Nothing to redrive: no message is dead with a reason that contains 0x80060888.",
    );
    for n in 0..100 {
        cloud
            .message(&format!("d{n}"), TimeDelta::hours(1), Some(refused()))
            .await;
    }
    let seen = cloud.command(&["redrive", "--all", "--yes"]).await;
    seen.assert_ended(0, "102 of 102 messages queued.");
    assert_eq!(cloud.queue_length().await.0, "105");
}

#[tokio::test]
async fn redrive_queues_nothing_without_confirmation() {
    let cloud = Cloud::start(10).await;
    cloud.fill().await;
    for how in ["grant-1/refused", "--all"] {
        let seen = cloud.command(&["redrive", how]).await;
        assert_eq!((seen.status, seen.out.as_str()), (Some(2), ""));
        assert_eq!(
            seen.err,
            "mailverse: refusing to queue messages again without confirmation: pass --yes, or run in a terminal\n"
        );
    }
    assert_eq!(cloud.queue_length().await.0, "0");
}
