//! Does history go on with further application users of Dataverse?

use chrono::{TimeDelta, Utc};
use mailverse::governor::User;
use serde_json::{Value, json};

use super::cloud::Cloud;
use super::events::schedule;

const CLIENT: &str = "33333333-2222-4333-8444-555555555555";

/// A mail of today in the mailbox, and what a scheduled run with these further users came to and printed.
async fn scheduled_run(cloud: &Cloud, identities: &str) -> (Value, String) {
    cloud.put_mail("m1");
    let setting = [("DATAVERSE_IDENTITIES", identities.to_owned())];
    let mut backfill = cloud.function_with("backfill", &setting).await;
    let outcome = backfill.succeed(schedule("2026-11-20T06:00:00Z")).await;
    (outcome, backfill.stop().await)
}

#[tokio::test]
async fn while_the_primary_user_has_to_pause_history_goes_on_with_another() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let user = json!({"lastname": "Two", "applicationid": CLIENT});
    let user = cloud.twin.dataverse().insert("systemuser", user).unwrap();
    let url = cloud.twin.dataverse().url();
    let token = cloud.twin.entra().issue_token_for(CLIENT, &url, 3_600);
    let expires_at = (Utc::now() + TimeDelta::hours(1)).timestamp();
    let create = cloud.secrets.create_secret().name("token-two");
    create.send().await.unwrap();
    let stored = json!({"access_token": token, "expires_at": expires_at});
    cloud.store("token-two", &stored.to_string()).await;
    let pause = Utc::now() + TimeDelta::hours(1);
    let ledger = cloud.ledger();
    ledger.pause(&User::primary(), pause).await.unwrap();
    let (outcome, printed) = scheduled_run(&cloud, "two").await;
    assert_eq!(outcome["written"], 1, "{outcome}");
    assert_eq!(cloud.emails()[0]["createdby"]["id"], json!(user));
    assert!(!printed.contains(&token));
}

#[tokio::test]
async fn a_user_without_a_token_is_left_out_and_told_of() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let (outcome, printed) = scheduled_run(&cloud, "nobody").await;
    assert_eq!(outcome["written"], 1, "{outcome}");
    let told = printed
        .lines()
        .find(|line| line.contains("does without this user"));
    let told = told.expect("a warning");
    assert!(told.contains("WARN") && told.contains("nobody"), "{told}");
}
