//! Tests `mailverse backfill`: an operator starts a backfill run, waits for it, stops waiting, and
//! asks for its result later.

use std::process::Stdio;
use std::time::Duration;

use emulators::{RefusedEmails, Setting};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{Cloud, GRANT, Seen, run};
use crate::end_to_end::canary::assert_silent;
use crate::end_to_end::invoking;
use crate::replay;

/// Starts a cloud with `count` messages. Returns it with the settings of an operator who may invoke
/// its backfill function.
async fn with_mail(count: usize) -> (Cloud, Vec<(&'static str, String)>) {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    for n in 0..count {
        cloud.put_mail(&format!("m{n}"));
    }
    let own = vec![("BACKFILL_FUNCTION", invoking::NAME.to_owned())];
    let function = invoking::settings(cloud.function("backfill").await).await;
    let settings = [cloud.aws_settings(), own, function].concat();
    (cloud, settings)
}

/// Starts a run with these further arguments, works on its tasks, and waits for its end.
async fn wait_for_run(cloud: &Cloud, settings: &[(&'static str, String)], more: &[&str]) -> Seen {
    let arguments = [&["backfill", "--since", "2020-01-01", "--json"], more].concat();
    let begun = run(&arguments, settings).await.json();
    let mut worker = cloud.function("backfill").await;
    assert_eq!(cloud.work_tasks(&mut worker).await.1, 0);
    worker.stop().await;
    let run_id = begun["run_id"].as_str().unwrap();
    run(&["backfill", "--run", run_id, "--wait"], settings).await
}

#[tokio::test]
async fn a_backfill_command_queues_a_run_and_reports_its_progress_and_result() {
    let (cloud, settings) = with_mail(3).await;
    let begun = run(&["backfill", "--since", "2020-01-01", "--json"], &settings).await;
    let answer = begun.json();
    assert_eq!(
        (&begun.status, &answer["ended"], &answer["total_emails"]),
        (&Some(0), &json!(false), &json!(0)),
        "{answer}"
    );
    let run_id = answer["run_id"].as_str().unwrap();
    let asked = run(&["backfill", "--run", run_id], &settings).await;
    assert_eq!(asked.status, Some(0), "{}", asked.err);
    let mut worker = cloud.function("backfill").await;
    assert_eq!(cloud.work_tasks(&mut worker).await.1, 0);
    let finished = run(&["backfill", "--run", run_id, "--wait"], &settings).await;
    finished.assert_ended(
        0,
        "3 messages in 1 mailbox: 3 written, 0 skipped, 0 waiting, 0 dead",
    );
    assert_eq!(cloud.emails().len(), 3);
    let printed = [begun, asked, finished].map(|seen| seen.out + &seen.err);
    assert_silent(
        "what the commands print",
        &printed.concat(),
        &cloud.secret_texts().await,
    );
}

#[tokio::test]
async fn interrupting_backfill_wait_does_not_stop_the_run_and_waiting_can_resume() {
    let (cloud, settings) = with_mail(2).await;
    let mut waiting = Command::new(replay::command())
        .args(["backfill", "--since", "2020-01-01", "--wait"])
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The command waits from here on, because no worker works on the task.
    let mut out = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let first = out.next_line().await.unwrap().unwrap();
    let run_id = first.strip_prefix("run ").unwrap().to_owned();
    let id = waiting.id().unwrap().to_string();
    let signalled = Command::new("kill").args(["-INT", &id]).status().await;
    assert!(signalled.unwrap().success());
    let finished = tokio::time::timeout(Duration::from_secs(60), waiting.wait_with_output());
    let finished = finished.await.unwrap().unwrap();
    let told = String::from_utf8(finished.stderr).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{told}");
    assert!(
        told.contains(&format!("mailverse backfill --run {run_id} --wait")),
        "{told}"
    );
    let mut worker = cloud.function("backfill").await;
    assert_eq!(cloud.work_tasks(&mut worker).await.1, 0);
    let again = run(&["backfill", "--run", &run_id, "--wait"], &settings).await;
    again.assert_ended(
        0,
        "2 messages in 1 mailbox: 2 written, 0 skipped, 0 waiting, 0 dead",
    );
}

#[tokio::test]
async fn backfill_names_an_unconnected_mailbox_and_a_missing_function() {
    let (_cloud, settings) = with_mail(0).await;
    let arguments = [
        "backfill",
        "--since",
        "30d",
        "--mailbox",
        "eve@nowhere.example",
    ];
    let seen = run(&arguments, &settings).await;
    assert_eq!(seen.status, Some(2), "{}", seen.out);
    let refused = "the function reported an error: mailboxes[0]: no connected mailbox";
    assert!(seen.err.contains(refused), "{}", seen.err);
    let elsewhere: Vec<_> = settings
        .iter()
        .map(|(name, value)| match *name {
            "BACKFILL_FUNCTION" => (*name, "nobody".to_owned()),
            _ => (*name, value.clone()),
        })
        .collect();
    let seen = run(&["backfill", "--since", "30d"], &elsewhere).await;
    assert_eq!(seen.status, Some(2), "{}", seen.out);
    assert!(
        seen.err.contains("ResourceNotFoundException"),
        "{}",
        seen.err
    );
    let unnamed: Vec<_> = settings
        .into_iter()
        .filter(|(name, _)| *name != "BACKFILL_FUNCTION")
        .collect();
    let seen = run(&["backfill", "--since", "30d"], &unnamed).await;
    assert_eq!(seen.status, Some(2), "{}", seen.out);
    assert!(
        seen.err.contains("BACKFILL_FUNCTION is missing"),
        "{}",
        seen.err
    );
}

#[tokio::test]
async fn backfill_wait_exits_with_1_if_a_message_is_dead() {
    let (cloud, settings) = with_mail(2).await;
    let mut refused = cloud.emulators.nylas().message(GRANT, "m1").unwrap();
    refused["subject"] = json!("Refused");
    cloud.emulators.nylas().add_message(GRANT, refused);
    let refusal = RefusedEmails {
        status: 400,
        code: "0x80048d19",
        subject: "Refused",
    };
    let dataverse = cloud.emulators.dataverse();
    dataverse.set_setting(Setting::RefusedEmails(Some(refusal)));
    let seen = wait_for_run(&cloud, &settings, &[]).await;
    seen.assert_ended(
        1,
        "2 messages in 1 mailbox: 1 written, 0 skipped, 0 waiting, 1 dead",
    );
}

#[tokio::test]
async fn backfill_wait_exits_with_1_if_a_mailbox_failed_or_is_parked() {
    let (cloud, settings) = with_mail(1).await;
    let nothing = "0 messages in 1 mailbox: 0 written, 0 skipped, 0 waiting, 0 dead";
    let seen = wait_for_run(&cloud, &settings, &["--folder", "nowhere"]).await;
    assert_eq!(seen.status, Some(1), "{}{}", seen.out, seen.err);
    assert!(seen.out.contains(nothing), "{}", seen.out);
    cloud.emulators.nylas().set_grant_status(GRANT, "invalid");
    let seen = wait_for_run(&cloud, &settings, &[]).await;
    assert_eq!(seen.status, Some(1), "{}{}", seen.out, seen.err);
    assert!(seen.out.contains(nothing), "{}", seen.out);
}
