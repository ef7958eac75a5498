//! The form of a row in an answer: columns, annotations, expanded rows and ETags.

use reqwest::Method;
use serde_json::{Value, json};

use super::queries::contacts;
use super::valid_client::ValidClient;

#[tokio::test]
async fn a_row_is_returned_with_its_key_its_version_and_the_selected_columns() {
    let client = contacts().await;
    let row = client
        .get("contacts?$select=lastname,_parentcustomerid_value")
        .await
        .json()["value"][0]
        .clone();
    let mut names: Vec<&String> = row.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(
        names,
        [
            "@odata.etag",
            "_parentcustomerid_value",
            "contactid",
            "lastname"
        ]
    );
    let all = client.get("contacts").await.json()["value"][2].clone();
    assert_eq!(
        all["firstname"],
        Value::Null,
        "a column without a value is null"
    );
    assert!(all.get("firstname").is_some());
}

#[tokio::test]
async fn annotations_are_returned_on_request() {
    let client = contacts().await;
    let request = client.request(
        Method::GET,
        "contacts?$select=_parentcustomerid_value,statecode",
    );
    let row = client
        .send(request.header("Prefer", "odata.include-annotations=\"*\""))
        .await
        .json()["value"][0]
        .clone();
    let name = |suffix: &str| format!("_parentcustomerid_value@{suffix}");
    assert_eq!(
        row[name("Microsoft.Dynamics.CRM.lookuplogicalname")],
        "account"
    );
    assert_eq!(
        row[name("Microsoft.Dynamics.CRM.associatednavigationproperty")],
        "parentcustomerid_account"
    );
    assert_eq!(
        row[name("OData.Community.Display.V1.FormattedValue")],
        "Kite Works"
    );
    assert_eq!(
        row["statecode@OData.Community.Display.V1.FormattedValue"],
        "Active"
    );
    let only = client.request(Method::GET, "contacts?$select=_parentcustomerid_value");
    let only = only.header(
        "Prefer",
        "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname\"",
    );
    let row = client.send(only).await.json()["value"][0].clone();
    assert!(
        row.get(name("Microsoft.Dynamics.CRM.lookuplogicalname"))
            .is_some()
    );
    assert!(
        row.get(name("OData.Community.Display.V1.FormattedValue"))
            .is_none()
    );
    let plain = client
        .get("contacts?$select=_parentcustomerid_value")
        .await
        .body;
    assert!(!plain.contains("lookuplogicalname"));
}

#[tokio::test]
async fn parties_and_lookups_can_be_expanded() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    let body = json!({
        "email_activity_parties": [
            {"participationtypemask": 1, "partyid_contact@odata.bind": format!("/contacts({contact})")},
            {"participationtypemask": 2, "addressused": "b@example.com"},
        ],
        "regardingobjectid_contact_email@odata.bind": format!("/contacts({contact})"),
    });
    let id = client.post("emails", body).await.id();
    let query = "$select=subject&$expand=email_activity_parties($select=participationtypemask,_partyid_value),\
                 regardingobjectid_contact_email($select=lastname),regardingobjectid_account_email($select=name)";
    for row in [
        client.get(&format!("emails({id})?{query}")).await.json(),
        client.get(&format!("emails?{query}")).await.json()["value"][0].clone(),
    ] {
        assert_eq!(
            row["email_activity_parties"][0]["_partyid_value"],
            json!(contact)
        );
        assert_eq!(
            row["email_activity_parties"][1]["_partyid_value"],
            Value::Null
        );
        assert!(
            row["email_activity_parties"][1]
                .get("addressused")
                .is_none(),
            "a column that is not selected is not returned"
        );
        assert_eq!(row["regardingobjectid_contact_email"]["lastname"], "Lark");
        assert_eq!(row["regardingobjectid_account_email"], Value::Null);
    }
    let expanded = client
        .get(&format!(
            "emails({id})/regardingobjectid_contact_email?$select=lastname"
        ))
        .await;
    assert_eq!(expanded.json()["lastname"], "Lark");
}

#[tokio::test]
async fn a_single_property_can_be_read() {
    let client = ValidClient::new().await;
    let id = client.email().await;
    assert_eq!(
        client.get(&format!("emails({id})/subject")).await.json()["value"],
        "Kites"
    );
    assert_eq!(
        client
            .get(&format!("emails({id})/subject/$value"))
            .await
            .body,
        "Kites"
    );
    assert_eq!(
        client
            .get(&format!("emails({id})/description"))
            .await
            .status,
        204
    );
    assert_eq!(
        client.get(&format!("emails({id})/nosuch")).await.status,
        404
    );
}

#[tokio::test]
async fn an_unchanged_row_is_answered_with_304() {
    let client = ValidClient::new().await;
    let path = format!("emails({})", client.email().await);
    let etag = client.get(&path).await.header("etag").to_owned();
    let again = client
        .request(Method::GET, &path)
        .header("If-None-Match", &etag);
    assert_eq!(client.send(again).await.status, 304);
    client.patch(&path, json!({"subject": "y"})).await;
    let again = client
        .request(Method::GET, &path)
        .header("If-None-Match", &etag);
    assert_eq!(client.send(again).await.status, 200);
}
