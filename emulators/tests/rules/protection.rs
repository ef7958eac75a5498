//! Service protection limits: what a caller may request before Dataverse answers 429.
//!
//! The clock is stopped, and only the tests advance it.

use std::time::Duration;

use emulators::Setting;
use reqwest::Method;
use serde_json::json;

use super::batches::{get, send, statuses};
use super::valid_client::{ValidClient, error};

const BURST: &str = "x-ms-ratelimit-burst-remaining-xrm-requests";
const TIME: &str = "x-ms-ratelimit-time-remaining-xrm-requests";

async fn limited(settings: &[Setting]) -> ValidClient {
    let client = ValidClient::new().await;
    client.emulators.clock().stop();
    for setting in settings {
        client.emulators.dataverse().set_setting(setting.clone());
    }
    client
}

fn advance(client: &ValidClient, seconds: u64) {
    client
        .emulators
        .clock()
        .advance(Duration::from_secs(seconds));
}

#[tokio::test]
async fn a_429_has_the_exact_time_after_which_a_request_succeeds() {
    let client = limited(&[Setting::RequestsPerFiveMinutes(2)]).await;
    assert_eq!(client.get("WhoAmI").await.status, 200);
    advance(&client, 100);
    assert_eq!(client.get("WhoAmI").await.status, 200);
    let answer = client.post("emails", json!({})).await;
    assert_eq!(answer.error(), error(429, "0x80072322"));
    assert_eq!(answer.header("retry-after"), "200");
    let message = answer.json()["error"]["message"].clone();
    assert_eq!(
        message,
        "Number of requests exceeded the limit of 2 over time window of 300 seconds."
    );
    assert!(client.emulators.dataverse().rows("email").is_empty());
    advance(&client, 199);
    assert_eq!(client.get("WhoAmI").await.header("retry-after"), "1");
    advance(&client, 1);
    assert_eq!(client.get("WhoAmI").await.status, 200);
    assert_eq!(client.get("WhoAmI").await.header("retry-after"), "100");
}

#[tokio::test]
async fn the_length_of_the_rate_limit_window_is_configurable() {
    let client = limited(&[
        Setting::RequestsPerFiveMinutes(1),
        Setting::ProtectionWindowSeconds(2),
    ])
    .await;
    assert_eq!(client.get("WhoAmI").await.status, 200);
    assert_eq!(client.get("WhoAmI").await.header("retry-after"), "2");
    advance(&client, 2);
    assert_eq!(client.get("WhoAmI").await.status, 200);
}

#[tokio::test]
async fn each_part_of_a_batch_counts_towards_the_execution_time_limit() {
    let client = limited(&[
        Setting::ExecutionMilliseconds(1_000),
        Setting::OperationMilliseconds(250),
    ])
    .await;
    let parts = [get("WhoAmI"), get("WhoAmI"), get("WhoAmI")];
    let answer = send(&client, &parts, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header(TIME), "0.25");
    assert_eq!(client.get("WhoAmI").await.status, 200);
    let answer = client.get("WhoAmI").await;
    assert_eq!(answer.error(), error(429, "0x80072321"));
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    advance(&client, wait);
    assert_eq!(client.get("WhoAmI").await.status, 200);
}

#[tokio::test]
async fn a_batch_counts_as_one_request() {
    let client = limited(&[Setting::RequestsPerFiveMinutes(2)]).await;
    let parts = [get("WhoAmI"), get("WhoAmI"), get("WhoAmI"), get("WhoAmI")];
    let answer = send(&client, &parts, "").await;
    assert_eq!(statuses(&answer), [200; 4]);
    assert_eq!(answer.header(BURST), "1");
    assert_eq!(client.get("WhoAmI").await.status, 200);
    let refused = send(&client, &parts, "").await;
    assert_eq!(
        refused.error(),
        error(429, "0x80072322"),
        "the batch itself is throttled and answers plain JSON"
    );
    assert_eq!(refused.header("retry-after"), "300");
}

#[tokio::test]
async fn fifty_two_requests_may_be_in_flight() {
    let client = limited(&[]).await;
    client.emulators.dataverse().hold_requests();
    let mut waiting = Vec::new();
    for _ in 0..52 {
        let request = client.request(Method::GET, "WhoAmI");
        waiting.push(tokio::spawn(async move {
            request.send().await.unwrap().status()
        }));
    }
    client.emulators.dataverse().wait_for_in_flight(52).await;
    let answer = tokio::select! {
        answer = client.get("WhoAmI") => answer,
        () = client.emulators.dataverse().wait_for_in_flight(53) => panic!("accepted a 53rd request"),
    };
    assert_eq!(answer.error(), error(429, "0x80072326"));
    assert!(!answer.header("retry-after").is_empty());
    client.emulators.dataverse().release_requests();
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(client.get("WhoAmI").await.status, 200);
}

#[tokio::test]
async fn a_request_whose_client_disconnected_is_no_longer_in_flight() {
    let client = limited(&[Setting::ConcurrentRequests(1)]).await;
    client.emulators.dataverse().hold_requests();
    let request = client.request(Method::GET, "WhoAmI");
    let lost = tokio::spawn(async move { request.send().await.map(|answer| answer.status()) });
    client.emulators.dataverse().wait_for_in_flight(1).await;
    lost.abort();
    assert!(lost.await.is_err());
    client.emulators.dataverse().wait_for_idle().await;
    client.emulators.dataverse().release_requests();
    assert_eq!(client.get("WhoAmI").await.status, 200);
}

#[tokio::test]
async fn each_application_user_has_its_own_limits() {
    let mut client = limited(&[Setting::RequestsPerFiveMinutes(1)]).await;
    let (dataverse, entra) = (client.emulators.dataverse(), client.emulators.entra());
    let first = dataverse.rows("systemuser")[0]["systemuserid"].clone();
    assert_eq!(client.get("WhoAmI").await.json()["UserId"], first);
    assert_eq!(client.get("WhoAmI").await.status, 429);

    let other = "5e0e1b52-7c6e-4d0a-9a3e-0d6f1c2b3a41";
    let token = entra.issue_token_for(other, &dataverse.url(), 600);
    let user = dataverse
        .insert(
            "systemuser",
            json!({"lastname": "Wren", "applicationid": other}),
        )
        .unwrap();
    client.token = token;
    let me = client.get("WhoAmI").await;
    assert_eq!(me.json()["UserId"], json!(user));
    assert_eq!(client.get("WhoAmI").await.status, 429);
}

#[tokio::test]
async fn a_token_of_an_unknown_application_gets_403() {
    let mut client = limited(&[]).await;
    let url = client.emulators.dataverse().url();
    client.token = client
        .emulators
        .entra()
        .issue_token_for("stranger", &url, 600);
    assert_eq!(client.get("WhoAmI").await.error(), error(403, "0x80072560"));
}

#[tokio::test]
async fn every_response_reports_the_remaining_capacity() {
    let client = limited(&[]).await;
    let answer = client.get("WhoAmI").await;
    assert_eq!(answer.header(BURST), "5999");
    assert_eq!(answer.header(TIME), "1,200.00");
    assert_eq!(answer.header("x-ms-dop-hint"), "4");
    client
        .emulators
        .dataverse()
        .set_setting(Setting::ParallelismHint(12));
    let refused = client.get("nosuch").await;
    assert_eq!(refused.header(BURST), "5998");
    assert_eq!(refused.header("x-ms-dop-hint"), "12");
}

#[tokio::test]
async fn parts_can_be_throttled_individually_when_execution_time_is_used_up() {
    let client = limited(&[
        Setting::ThrottleParts(true),
        Setting::ExecutionMilliseconds(500),
        Setting::OperationMilliseconds(250),
    ])
    .await;
    let parts = [get("WhoAmI"), get("WhoAmI"), get("WhoAmI")];
    let answer = send(&client, &parts, "odata.continue-on-error").await;
    assert_eq!(
        (answer.status, statuses(&answer)),
        (200, vec![200, 200, 429])
    );
    assert!(answer.body.contains("\r\nRetry-After: 300\r\n"));
    assert!(answer.body.contains("0x80072321"));
    let answer = send(&client, &parts, "").await;
    assert_eq!((answer.status, statuses(&answer)), (429, vec![429]));
    assert_eq!(client.get("WhoAmI").await.status, 429);
}

#[tokio::test]
async fn parts_can_be_throttled_individually_when_requests_are_used_up() {
    let client = limited(&[
        Setting::ThrottleParts(true),
        Setting::RequestsPerFiveMinutes(1),
    ])
    .await;
    assert_eq!(client.get("WhoAmI").await.status, 200);
    let parts = [get("WhoAmI"), get("WhoAmI")];
    let answer = send(&client, &parts, "odata.continue-on-error").await;
    assert_eq!((answer.status, statuses(&answer)), (200, vec![429, 429]));
    assert!(answer.body.contains("0x80072322"));
}
