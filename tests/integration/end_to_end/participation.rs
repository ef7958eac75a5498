//! Tests on the compiled functions which mailboxes take part: two companies share one Nylas
//! application, and only one of them is admitted (`MAILBOXES=ours.example`, see `cloud.rs`).

use emulators::Grant;
use mailverse::ledger::backfill_runs::{TaskKey, TaskState};
use mailverse::ledger::{Entry, State};
use mailverse::model::ids::MessageKey;
use serde_json::{Value, json};

use super::canary::{self, assert_silent};
use super::cloud::{Cloud, GRANT};
use super::command::run;
use super::events::{delivery, schedule};
use super::explaining::Office;
use super::lambda::Function;

/// The grant of the other company's mailbox.
const EVE: &str = "grant-eve";
const WORKSPACE: &str = "workspace-theirs";

fn connect_eve(cloud: &Cloud) {
    let nylas = cloud.emulators.nylas();
    nylas.add_grant(Grant {
        id: EVE.to_owned(),
        email: "eve@theirs.example".to_owned(),
        provider: "google".to_owned(),
        aliases: vec!["help@theirs.example".to_owned()],
        status: "valid".to_owned(),
    });
    nylas.set_workspace(EVE, WORKSPACE);
}

/// Puts a message into a mailbox and returns the notification about it.
fn put(cloud: &Cloud, grant: &str, id: &str, from: &str, to: &str) -> Value {
    let mut notification = cloud.put_mail(id);
    let object = &mut notification["data"]["object"];
    object["grant_id"] = json!(grant);
    object["from"] = json!([{"email": from}]);
    object["to"] = json!([{"email": to}]);
    cloud.emulators.nylas().add_message(grant, object.clone());
    if grant != GRANT {
        cloud.emulators.nylas().remove_message(GRANT, id);
    }
    notification
}

async fn two_companies() -> Cloud {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    connect_eve(&cloud);
    cloud
}

/// Returns the requests to Nylas that name Eve's mailbox or company, starting with number `after`
/// (from 0).
fn asked_of_eve(cloud: &Cloud, after: usize) -> Vec<String> {
    let asked = cloud.emulators.nylas().requested().split_off(after);
    let of_eve = |path: &String| path.contains(EVE) || path.contains("theirs");
    asked.into_iter().filter(of_eve).collect()
}

async fn entry(cloud: &Cloud, grant: &str, id: &str) -> Option<Entry> {
    let key = MessageKey {
        grant_id: grant.parse().unwrap(),
        message_id: id.parse().unwrap(),
    };
    cloud.ledger().entry(&key).await.unwrap()
}

async fn process_queue(cloud: &Cloud, worker: &mut Function) {
    let batch = cloud.receive().await;
    assert!(!batch.is_empty());
    assert_eq!(cloud.work(worker, &batch).await, [""; 0]);
    assert_eq!(cloud.queue_length().await, ("0".to_owned(), "0".to_owned()));
}

fn message_ids_of(cloud: &Cloud) -> Vec<String> {
    let emails = cloud.emails();
    let mut ids: Vec<String> = emails
        .iter()
        .map(|email| email["messageid"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn only_mailboxes_of_the_included_company_are_read_or_written() {
    let cloud = two_companies().await;
    let mut receiver = cloud.function("webhook-receiver").await;
    let mut worker = cloud.function("sync-worker").await;
    for notification in [
        put(&cloud, EVE, "e1", canary::ADDRESS, "eve@theirs.example"),
        // The other company's people are external, by their addresses and by their aliases.
        put(
            &cloud,
            GRANT,
            "m1",
            "ada@ours.example",
            "eve@theirs.example",
        ),
        put(
            &cloud,
            GRANT,
            "m2",
            "help@theirs.example",
            "ada@ours.example",
        ),
    ] {
        let answer = receiver.succeed(delivery(&notification)).await;
        assert_eq!(answer["statusCode"], 200);
    }
    process_queue(&cloud, &mut worker).await;
    let written = ["<m1@kites.example>", "<m2@kites.example>"];
    assert_eq!(message_ids_of(&cloud), written);
    let excluded = entry(&cloud, EVE, "e1").await.unwrap();
    assert_eq!(excluded.state, State::Skipped);
    assert_eq!(excluded.reason.as_deref(), Some("mailbox_excluded"));

    // A scheduled run does not list the mailbox either, and neither does an operator's run.
    put(&cloud, EVE, "e2", canary::ADDRESS, "eve@theirs.example");
    let mut backfill = cloud.function("backfill").await;
    let planned = cloud.reconcile(&mut backfill, "2026-11-20T06:00:00Z").await;
    let counts = (&planned["mailboxes"], &planned["excluded"]);
    assert_eq!(counts, (&json!(1), &json!(1)));
    assert_eq!(cloud.coverage(&planned).await["written"], 2);
    for name in [EVE, "Eve@theirs.example"] {
        let request = json!({"mailboxes": [name], "received_after": 1});
        let answer = backfill.succeed(request).await;
        assert_eq!(answer["field"], "mailboxes[0]");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("does not take part"), "{error}");
    }
    let all = json!({"mailboxes": "all", "received_after": 1});
    let answer = backfill.succeed(all).await;
    assert_eq!(answer["tasks"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(cloud.work_tasks(&mut backfill).await.1, 0);

    assert_eq!(message_ids_of(&cloud), written);
    assert!(entry(&cloud, EVE, "e2").await.is_none());
    assert_eq!(asked_of_eve(&cloud, 0), [""; 0]);
    let printed = worker.stop().await;
    assert!(printed.contains("\"MailboxExcluded\":1"), "{printed}");
    assert!(!printed.contains("theirs"), "{printed}");
    let secrets = cloud.secret_texts().await;
    assert_silent("the worker's output", &printed, &secrets);
    assert_silent("the backfill's output", &backfill.stop().await, &secrets);
}

#[tokio::test]
async fn earlier_messages_of_a_mailbox_are_backfilled_once_it_is_included() {
    let cloud = two_companies().await;
    put(&cloud, EVE, "e1", canary::ADDRESS, "eve@theirs.example");
    let request = json!({"version": 1, "grant_id": EVE, "message_id": "e1", "trigger": "created"});
    cloud.send(&request.to_string()).await;
    let mut worker = cloud.function("sync-worker").await;
    process_queue(&cloud, &mut worker).await;
    assert_eq!(cloud.emails(), [Value::Null; 0]);
    let admitted = ("MAILBOXES", format!("ours.example, workspace:{WORKSPACE}"));
    let mut backfill = cloud.function_with("backfill", &[admitted]).await;
    let planned = cloud.reconcile(&mut backfill, "2026-11-20T06:00:00Z").await;
    let counts = (&planned["mailboxes"], &planned["excluded"]);
    assert_eq!(counts, (&json!(2), &json!(0)));
    assert_eq!(message_ids_of(&cloud), ["<e1@kites.example>"]);
}

#[tokio::test]
async fn a_backfill_task_of_a_mailbox_that_is_now_excluded_fails_without_requests() {
    let cloud = two_companies().await;
    put(&cloud, EVE, "e1", canary::ADDRESS, "eve@theirs.example");
    let everybody = [("MAILBOXES", "all".to_owned())];
    let mut before = cloud.function_with("backfill", &everybody).await;
    let planned = before.succeed(schedule("2026-11-20T06:00:00Z")).await;
    assert_eq!(planned["mailboxes"], 2);
    let history = json!({"mailboxes": [EVE], "received_after": 1});
    let history = before.succeed(history).await;
    before.stop().await;
    let asked = cloud.emulators.nylas().requested().len();
    let mut backfill = cloud.function("backfill").await;
    assert_eq!(cloud.work_tasks(&mut backfill).await, (3, 0));
    assert_eq!(asked_of_eve(&cloud, asked), [""; 0]);
    assert_eq!(cloud.emails(), [Value::Null; 0]);
    let key = TaskKey {
        run_id: history["run_id"].as_str().unwrap().parse().unwrap(),
        grant_id: EVE.parse().unwrap(),
    };
    let progress = cloud.ledger().progress(&key).await.unwrap();
    assert_eq!(progress.state, TaskState::Failed);
    let reason = progress.reason.unwrap();
    assert!(reason.contains("does not take part"), "{reason}");
}

#[tokio::test]
async fn a_message_of_an_unlisted_mailbox_waits_and_is_then_skipped_without_a_request() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let request = json!({"version": 1, "grant_id": EVE, "message_id": "e1", "trigger": "created"});
    cloud.send(&request.to_string()).await;
    let everybody = [("MAILBOXES", "all".to_owned())];
    let mut worker = cloud.function_with("sync-worker", &everybody).await;
    for _ in 1..5 {
        let batch = cloud.receive().await;
        let id = batch[0].message_id().unwrap();
        assert_eq!(
            cloud.work(&mut worker, &batch).await,
            [id],
            "the message waits"
        );
        cloud.make_visible(&batch[0]).await;
    }
    let waits = entry(&cloud, EVE, "e1").await.unwrap();
    assert_eq!(
        waits.reason.as_deref(),
        Some("nylas does not list the mailbox")
    );
    process_queue(&cloud, &mut worker).await;
    let unknown = entry(&cloud, EVE, "e1").await.unwrap();
    assert_eq!(unknown.reason.as_deref(), Some("mailbox_unknown"));
    assert_eq!(asked_of_eve(&cloud, 0), [""; 0]);
    let printed = worker.stop().await;
    assert!(printed.contains("\"MailboxUnknown\":1"), "{printed}");

    // If Nylas lists the mailbox later, the scheduled run finds its messages.
    connect_eve(&cloud);
    put(&cloud, EVE, "e1", canary::ADDRESS, "eve@theirs.example");
    let mut backfill = cloud.function_with("backfill", &everybody).await;
    cloud.reconcile(&mut backfill, "2026-11-20T06:00:00Z").await;
    assert_eq!(message_ids_of(&cloud), ["<e1@kites.example>"]);
}

#[tokio::test]
async fn an_invalid_mailboxes_setting_stops_the_function_and_is_reported_with_all_others() {
    for name in ["sync-worker", "backfill"] {
        for (value, problem) in [
            (
                "all,ours.example",
                "MAILBOXES has entry 1 `all` together with others",
            ),
            (
                "ours.example,everybody-at-canary",
                "MAILBOXES must be addresses, domains",
            ),
            (" , ", "MAILBOXES names no mailbox"),
        ] {
            let settings = [("MAILBOXES", value.to_owned())];
            let (status, printed) = Function::start(name, &settings).await.finished().await;
            assert!(!status.success(), "{name} {value}");
            assert!(printed.contains(problem), "{problem} in {printed}");
            assert!(printed.contains("LEDGER_TABLE is missing"), "{printed}");
            assert!(!printed.contains("canary"), "{printed}");
        }
    }
}

/// Writes a file for the command and returns its path.
fn file(folder: &tempfile::TempDir, name: &str, value: &Value) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn the_commands_send_no_request_about_an_excluded_mailbox() {
    let office = Office(two_companies().await);
    let cloud = &office.0;
    put(cloud, EVE, "e1", canary::ADDRESS, "eve@theirs.example");
    office.work(&[(EVE, "e1")]).await;
    let settings = office.all_settings();

    let explained = run(&["explain", "e1"], &settings).await;
    assert_eq!(explained.status, Some(0), "{}", explained.err);
    explained.assert_shows(&["mailbox_excluded"]);

    let folder = tempfile::tempdir().unwrap();
    let policy = file(&folder, "policy.json", &json!({"defaults": {}}));
    let arguments = ["what-if", &policy, "--since", "20000d", "--json"];
    let compared = run(&arguments, &settings).await;
    assert_eq!(compared.json()["mailboxes"], 1, "{}", compared.err);
    let named = [&arguments[..], &["--mailbox", EVE]].concat();
    let refused = run(&named, &settings).await;
    assert_eq!(refused.status, Some(2));
    assert!(
        refused.err.contains("does not take part"),
        "{}",
        refused.err
    );

    // Saved without a Message-ID, for which the command would otherwise ask Nylas.
    let saved = json!([
        {"object": "message", "id": "e1", "grant_id": EVE, "subject": "x", "date": 1_709_200_000,
         "from": [{"email": "carol@kites.example"}], "to": [{"email": "eve@theirs.example"}]},
        {"object": "contact", "id": "c1", "grant_id": EVE, "given_name": "Carol",
         "emails": [{"email": "carol@kites.example"}]},
    ]);
    let saved = file(&folder, "saved.json", &saved);
    for more in [&[] as &[&str], &["--mailbox", GRANT]] {
        let arguments = [&["import", &saved, "--yes"], more].concat();
        let imported = run(&arguments, &settings).await;
        assert_eq!(imported.status, Some(1), "{}", imported.err);
        imported.assert_shows(&[
            "saved.json[0]: not imported: the mailbox grant-eve does not take part",
            "saved.json[1]: not imported: the mailbox grant-eve does not take part",
            "Contacts of mailboxes that do not take part, not imported: 1.",
        ]);
    }
    let arguments = ["import", &saved, "--yes", "--mailbox", "eve@theirs.example"];
    let refused = run(&arguments, &settings).await;
    assert_eq!(refused.status, Some(2));
    assert!(
        refused.err.contains("does not take part"),
        "{}",
        refused.err
    );

    assert_eq!(cloud.emails(), [Value::Null; 0]);
    assert_eq!(cloud.emulators.dataverse().rows("contact").len(), 1);
    assert_eq!(asked_of_eve(cloud, 0), [""; 0]);
}
