//! Tests that backfill continues with further application users of Dataverse.

use chrono::{TimeDelta, Utc};
use mailverse::rate_limit::ApplicationUser;
use serde_json::{Value, json};

use super::cloud::{Cloud, GRANT};

const CLIENT: &str = "33333333-2222-4333-8444-555555555555";

/// Puts a message of today into the mailbox. Returns what a scheduled run with these further users
/// found and printed.
async fn scheduled_run(cloud: &Cloud, application_users: &str) -> (Value, String) {
    cloud.put_mail("m1");
    let setting = [("DATAVERSE_APPLICATION_USERS", application_users.to_owned())];
    let mut backfill = cloud.function_with("backfill", &setting).await;
    let planned = cloud.reconcile(&mut backfill, "2026-11-20T06:00:00Z").await;
    (cloud.coverage(&planned).await, backfill.stop().await)
}

/// Creates a second application user with a stored token. Returns the user's id and the token.
async fn second_user(cloud: &Cloud) -> (Value, String) {
    let user = json!({"lastname": "Two", "applicationid": CLIENT});
    let user = cloud
        .emulators
        .dataverse()
        .insert("systemuser", user)
        .unwrap();
    let url = cloud.emulators.dataverse().url();
    let token = cloud.emulators.entra().issue_token_for(CLIENT, &url, 3_600);
    let expires_at = (Utc::now() + TimeDelta::hours(1)).timestamp();
    let stored = cloud.stored("token").await.unwrap();
    let mut stored: Value = serde_json::from_str(&stored).unwrap();
    stored["application_users"] = json!({"two": {"access_token": token, "expires_at": expires_at}});
    cloud.store("token", &stored.to_string()).await;
    (json!(user), token)
}

#[tokio::test]
async fn backfill_alternates_between_the_application_users_and_live_mail_uses_the_primary() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let (user, _) = second_user(&cloud).await;
    // Three batches of forty.
    for n in 2..=120 {
        cloud.put_mail(&format!("m{n}"));
    }
    let (coverage, _) = scheduled_run(&cloud, "two").await;
    assert_eq!(coverage["written"], 120, "{coverage}");
    let by_second = |row: &Value| row["createdby"]["id"] == user;
    let of_second = cloud.emails().into_iter().filter(by_second).count();
    assert!([40, 80].contains(&of_second), "{of_second}");
    for n in 121..=125 {
        cloud.put_mail(&format!("m{n}"));
        let request = json!({"version": 1, "grant_id": GRANT, "message_id": format!("m{n}"), "trigger": "created"});
        cloud.send(&request.to_string()).await;
    }
    let setting = [("DATAVERSE_APPLICATION_USERS", "two".to_owned())];
    let mut worker = cloud.function_with("sync-worker", &setting).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let emails = cloud.emails();
    assert_eq!(emails.len(), 125);
    let still_of_second = emails.into_iter().filter(by_second).count();
    assert_eq!(still_of_second, of_second);
}

#[tokio::test]
async fn backfill_continues_as_another_user_while_the_primary_user_is_paused() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let (user, token) = second_user(&cloud).await;
    let pause = Utc::now() + TimeDelta::hours(1);
    let ledger = cloud.ledger();
    ledger
        .pause(&ApplicationUser::primary(), pause)
        .await
        .unwrap();
    let (coverage, printed) = scheduled_run(&cloud, "two").await;
    assert_eq!(coverage["written"], 1, "{coverage}");
    assert_eq!(cloud.emails()[0]["createdby"]["id"], user);
    assert!(!printed.contains(&token));
}

#[tokio::test]
async fn backfill_continues_without_a_user_that_has_no_token_and_logs_a_warning() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let (coverage, printed) = scheduled_run(&cloud, "nobody").await;
    assert_eq!(coverage["written"], 1, "{coverage}");
    let told = printed
        .lines()
        .find(|line| line.contains("backfill continues without it"));
    let told = told.expect("the function should log a warning");
    assert!(told.contains("WARN") && told.contains("nobody"), "{told}");
}
