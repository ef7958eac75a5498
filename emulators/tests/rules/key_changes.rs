//! How alternate keys are created, activated and rejected.

use std::time::Duration;

use emulators::Setting;
use serde_json::json;

use super::definition_changes::{EMAIL, key, with_key_column};
use super::definitions::each;
use super::valid_client::{ValidClient, error};

/// Returns the index status of the first alternate key of the table `email`.
async fn key_status(client: &ValidClient) -> String {
    let keys = client.get(&format!("{EMAIL}/Keys")).await.json();
    each(&keys, "EntityKeyIndexStatus").remove(0)
}

#[tokio::test]
async fn a_key_is_pending_until_its_index_is_built_and_is_not_enforced_before() {
    let client = ValidClient::new().await;
    client.emulators.clock().stop();
    client
        .emulators
        .dataverse()
        .set_setting(Setting::KeyIndexSeconds(30));
    with_key_column(&client).await;
    let made = client.post(&format!("{EMAIL}/Keys"), key(json!({}))).await;
    assert_eq!((made.status, made.body.as_str()), (204, ""));
    assert!(made.header("odata-entityid").contains("/Keys("));
    assert_eq!(key_status(&client).await, "Pending");
    let email = client
        .post("emails", json!({"new_synckey": "ab"}))
        .await
        .id();
    let by_key = client.get("emails(new_synckey='ab')").await;
    assert_eq!(by_key.error(), error(400, "0x80060888"));
    client.emulators.clock().advance(Duration::from_secs(30));
    assert_eq!(key_status(&client).await, "Active");
    let found = client.get("emails(new_synckey='ab')").await.json();
    assert_eq!(found["activityid"], json!(email));
    let again = client.post("emails", json!({"new_synckey": "AB"})).await;
    assert_eq!(again.error(), error(412, "0x80060892"));
}

#[tokio::test]
async fn a_key_index_fails_on_duplicates_and_can_be_reactivated_without_them() {
    let client = ValidClient::new().await;
    with_key_column(&client).await;
    client.post("emails", json!({"new_synckey": "ab"})).await;
    let second = client
        .post("emails", json!({"new_synckey": "AB"}))
        .await
        .id();
    assert_eq!(
        client
            .post(&format!("{EMAIL}/Keys"), key(json!({})))
            .await
            .status,
        204
    );
    assert_eq!(key_status(&client).await, "Failed");
    let key = json!({"EntityLogicalName": "email", "EntityKeyLogicalName": "new_synckeykey"});
    client.delete(&format!("emails({second})")).await;
    assert_eq!(
        client.post("ReactivateEntityKey", key.clone()).await.status,
        204
    );
    assert_eq!(key_status(&client).await, "Active");
    let again = client.post("ReactivateEntityKey", key).await;
    assert_eq!(again.error(), error(400, "0x80060897"));
}

#[tokio::test]
async fn invalid_key_definitions_are_rejected() {
    let client = ValidClient::new().await;
    with_key_column(&client).await;
    let keys = format!("{EMAIL}/Keys");
    for (with, code) in [
        (json!({"SchemaName": "SyncKey"}), "0x80044366"),
        (json!({"SchemaName": null}), "0x80040200"),
        (json!({"KeyAttributes": null}), "0x80040200"),
        (json!({"KeyAttributes": "new_synckey"}), "0x80048d19"),
        (json!({"Columns": ["new_synckey"]}), "0x80048d19"),
        (json!({"KeyAttributes": []}), "0x8006088F"),
        (json!({"KeyAttributes": ["nosuch"]}), "0x8006088F"),
        (json!({"KeyAttributes": ["description"]}), "0x8006088F"),
        (json!({"KeyAttributes": ["directioncode"]}), "0x8006088F"),
        (json!({"KeyAttributes": ["subject"]}), "0x80060895"),
    ] {
        let answer = client.post(&keys, key(with.clone())).await;
        assert_eq!(answer.error(), error(400, code), "{with}");
    }
    assert_eq!(client.post(&keys, key(json!({}))).await.status, 204);
    let name = client
        .post(&keys, key(json!({"KeyAttributes": ["messageid"]})))
        .await;
    assert_eq!(name.error(), error(400, "0x80060893"));
    let columns = client
        .post(&keys, key(json!({"SchemaName": "new_Other"})))
        .await;
    assert_eq!(columns.error(), error(400, "0x80060894"));
}

#[tokio::test]
async fn a_lookup_in_a_key_is_addressed_by_its_value_property() {
    let client = ValidClient::new().await;
    let body = key(json!({"KeyAttributes": ["regardingobjectid", "importsequencenumber"]}));
    assert_eq!(
        client.post(&format!("{EMAIL}/Keys"), body).await.status,
        204
    );
    let contact = client.contact("lark@example.com");
    let email = json!({
        "regardingobjectid_contact@odata.bind": format!("/contacts({contact})"), "importsequencenumber": 7,
    });
    let email = client.post("emails", email).await.id();
    let path = |column: &str| format!("emails({column}={contact},importsequencenumber=7)");
    let found = client.get(&path("_regardingobjectid_value")).await;
    assert_eq!(found.json()["activityid"], json!(email));
    let raw = client.get(&path("regardingobjectid")).await;
    assert_eq!(raw.error(), error(400, "0x80060888"));
}
