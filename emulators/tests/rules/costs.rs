//! How long requests and operations take. The clock is stopped, so a wait only advances it.

use std::time::Duration;

use chrono::TimeDelta;
use emulators::Setting;
use serde_json::json;

use super::batches::{change_set, get, send};
use super::valid_client::ValidClient;

/// Returns how many milliseconds `step` takes on the emulator's clock.
async fn cost(client: &ValidClient, step: impl Future) -> i64 {
    let before = client.emulators.clock().now();
    step.await;
    let passed: TimeDelta = client.emulators.clock().now() - before;
    passed.num_milliseconds()
}

#[tokio::test]
async fn requests_take_no_time_by_default() {
    let client = ValidClient::new().await;
    client.emulators.clock().stop();
    assert_eq!(cost(&client, client.email()).await, 0);
}

#[tokio::test]
async fn a_request_takes_the_network_time_and_each_operation_its_execution_time() {
    let client = ValidClient::new().await;
    client.emulators.clock().stop();
    let dataverse = client.emulators.dataverse();
    dataverse.set_setting(Setting::NetworkMilliseconds(40));
    dataverse.set_setting(Setting::OperationMilliseconds(15));
    assert_eq!(cost(&client, client.get("WhoAmI")).await, 55);
    assert_eq!(cost(&client, client.email()).await, 55);
    let parts = [get("WhoAmI"), get("emails")];
    assert_eq!(cost(&client, send(&client, &parts, "")).await, 40 + 2 * 15);
    let set = [change_set(&[
        ("1", "POST /api/data/v9.2/emails", json!({})),
        ("2", "PATCH $1", json!({"subject": "x"})),
        ("3", "PATCH $1", json!({"statecode": 1})),
    ])];
    assert_eq!(cost(&client, send(&client, &set, "")).await, 40 + 3 * 15);
}

#[tokio::test]
async fn parts_that_are_not_executed_take_no_time() {
    let client = ValidClient::new().await;
    client.emulators.clock().stop();
    client
        .emulators
        .dataverse()
        .set_setting(Setting::OperationMilliseconds(15));
    let parts = [get("WhoAmI"), get("nosuch"), get("WhoAmI")];
    assert_eq!(cost(&client, send(&client, &parts, "")).await, 30);
}

#[tokio::test]
async fn a_token_expires_by_the_clock_of_the_emulator() {
    let client = ValidClient::new().await;
    assert_eq!(client.get("WhoAmI").await.status, 200);
    client.emulators.clock().advance(Duration::from_secs(601));
    assert_eq!(client.get("WhoAmI").await.status, 401);
}

#[tokio::test]
async fn createdon_is_the_time_of_the_emulator_clock() {
    let client = ValidClient::new().await;
    client
        .emulators
        .clock()
        .advance(Duration::from_secs(86_400));
    client.emulators.clock().stop();
    let token = client
        .emulators
        .entra()
        .issue_token(&client.emulators.dataverse().url(), 600);
    let client = ValidClient { token, ..client };
    let email = client.email().await;
    let now = client
        .emulators
        .clock()
        .now()
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    assert_eq!(client.stored(email, "createdon"), now);
}
