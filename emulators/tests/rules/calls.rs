//! Who may call Dataverse, which headers a call needs, and which faults a test can inject.

use emulators::{Fault, Privilege, Setting};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn whoami_returns_the_application_user_of_a_valid_token() {
    let client = ValidClient::new().await;
    for path in ["WhoAmI", "WhoAmI()"] {
        let body = client.get(path).await.json();
        let users = client.emulators.dataverse().rows("systemuser");
        assert_eq!(body["UserId"], users[0]["systemuserid"]);
        assert!(body["BusinessUnitId"].is_string() && body["OrganizationId"].is_string());
    }
}

#[tokio::test]
async fn a_missing_foreign_expired_or_revoked_token_gets_401() {
    let mut client = ValidClient::new().await;
    let url = client.emulators.dataverse().url();
    let bare = client
        .http
        .get(format!("{url}/api/data/v9.2/WhoAmI"))
        .header("OData-Version", "4.0");
    assert_eq!(client.send(bare).await.status, 401);
    let good = client.token.clone();
    for token in [
        "nonsense".to_owned(),
        client
            .emulators
            .entra()
            .issue_token("https://other.example.com", 600),
        client.emulators.entra().issue_token(&url, -1),
    ] {
        client.token = token;
        assert_eq!(client.get("WhoAmI").await.status, 401);
    }
    client.token = good;
    assert_eq!(client.get("WhoAmI").await.status, 200);
    client.emulators.entra().revoke_all();
    assert_eq!(client.get("WhoAmI").await.status, 401);
}

#[tokio::test]
async fn an_application_without_an_application_user_gets_403() {
    let client = ValidClient::new().await;
    client.emulators.dataverse().remove_application_user();
    assert_eq!(client.get("WhoAmI").await.error(), error(403, "0x80072560"));
}

#[tokio::test]
async fn both_version_headers_are_required() {
    let client = ValidClient::new().await;
    let url = format!(
        "{}/api/data/v9.2/WhoAmI",
        client.emulators.dataverse().url()
    );
    for header in ["OData-Version", "OData-MaxVersion"] {
        let request = client
            .http
            .get(&url)
            .bearer_auth(&client.token)
            .header(header, "4.0");
        assert_eq!(
            client.send(request).await.status,
            400,
            "only {header} was sent"
        );
    }
}

#[tokio::test]
async fn unknown_urls_are_rejected_without_breaking_the_connection() {
    let client = ValidClient::new().await;
    for (path, expected) in [
        ("emailz", error(404, "0x8006088A")),
        ("Emails", error(404, "0x8006088A")),
        ("emails(1)", error(400, "0x80060888")),
        ("emails()", error(400, "0x80060888")),
        ("", error(404, "0x8006088A")),
        ("%ff%fe", error(404, "0x8006088A")),
        (
            "emails(00000000-0000-4000-8000-000000000001)",
            error(404, "0x80040217"),
        ),
        (
            "emails/Microsoft.Dynamics.CRM.DeliverIncomingEmail",
            error(501, "twin"),
        ),
    ] {
        assert_eq!(client.get(path).await.error(), expected, "{path}");
    }
    let elsewhere = format!(
        "{}/api/data/v9.1/emails",
        client.emulators.dataverse().url()
    );
    let request = client.http.get(elsewhere).bearer_auth(&client.token);
    assert_eq!(client.send(request).await.status, 404);
}

#[tokio::test]
async fn an_unsupported_method_gets_405() {
    let client = ValidClient::new().await;
    let id = client.email().await;
    for (method, path) in [
        (Method::PUT, "emails".to_owned()),
        (Method::DELETE, "emails".to_owned()),
        (Method::POST, format!("emails({id})")),
        (Method::PUT, format!("emails({id})")),
        (Method::POST, "WhoAmI".to_owned()),
        (Method::GET, "$batch".to_owned()),
    ] {
        let answer = client
            .send(client.request(method.clone(), &path).json(&json!({})))
            .await;
        assert_eq!(answer.status, 405, "{method} {path}");
    }
}

#[tokio::test]
async fn a_url_above_32768_characters_gets_414() {
    let client = ValidClient::new().await;
    let path = |length: usize| {
        format!(
            "contacts?$filter=fullname%20eq%20%27{}%27",
            "x".repeat(length)
        )
    };
    assert_eq!(client.get(&path(32_000)).await.status, 200);
    assert_eq!(client.get(&path(33_000)).await.status, 414);
}

#[tokio::test]
async fn requests_operations_reads_and_writes_are_counted() {
    let client = ValidClient::new().await;
    client.email().await;
    client.get("emails").await;
    client.post("emails", json!({"nosuch": 1})).await;
    let requests = client.emulators.dataverse().requests();
    assert_eq!(
        (
            requests.total,
            requests.operations,
            requests.writes,
            requests.reads
        ),
        (3, 3, 2, 1)
    );
}

#[tokio::test]
async fn a_status_fault_answers_one_request_and_executes_nothing() {
    let client = ValidClient::new().await;
    let fault = Fault::Status {
        status: 429,
        code: "0x80072322".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(17),
    };
    client.emulators.dataverse().fail_next(fault);
    let answer = client.post("emails", json!({"subject": "x"})).await;
    assert_eq!(answer.error(), error(429, "0x80072322"));
    assert_eq!(answer.header("retry-after"), "17");
    assert!(client.emulators.dataverse().rows("email").is_empty());
    assert_eq!(
        client.post("emails", json!({"subject": "x"})).await.status,
        204
    );
}

#[tokio::test]
async fn a_reset_fault_drops_the_response_before_or_after_the_commit() {
    let client = ValidClient::new().await;
    let post = || {
        client
            .request(Method::POST, "emails")
            .json(&json!({"subject": "x"}))
    };
    client.emulators.dataverse().fail_next(Fault::ResetBefore);
    assert!(post().send().await.is_err());
    assert_eq!(client.emulators.dataverse().rows("email").len(), 0);
    client
        .emulators
        .dataverse()
        .fail_next(Fault::ResetAfterCommit);
    assert!(post().send().await.is_err());
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
    assert_eq!(client.send(post()).await.status, 204);
}

#[tokio::test]
async fn a_dropped_emulator_does_not_answer_even_on_open_connections() {
    let client = ValidClient::new().await;
    assert_eq!(client.get("WhoAmI").await.status, 200);
    let again = client.request(Method::GET, "WhoAmI");
    drop(client.emulators);
    assert!(again.send().await.is_err());
}

#[tokio::test]
async fn errors_contain_details_when_annotations_are_requested() {
    let client = ValidClient::new().await;
    let annotated = client
        .request(Method::GET, "emailz")
        .header("Prefer", "odata.include-annotations=\"*\"");
    let error = client.send(annotated).await.json()["error"].clone();
    assert!(error["@Microsoft.PowerApps.CDS.ErrorDetails.OperationStatus"].is_string());
    assert!(error["@Microsoft.PowerApps.CDS.HelpLink"].is_string());
    let plain = client.get("emailz").await.json()["error"].clone();
    assert_eq!(plain.as_object().unwrap().len(), 2);
}

/// Inserts a user with this Entra object id.
fn user(client: &ValidClient, entra_id: &str) -> Uuid {
    let row = json!({"lastname": "Ada", "azureactivedirectoryobjectid": entra_id});
    client
        .emulators
        .dataverse()
        .insert("systemuser", row)
        .unwrap()
}

const ADA: &str = "00000000-0000-4000-8000-00000000000a";

#[tokio::test]
async fn an_application_impersonates_the_user_with_the_given_entra_object_id() {
    let client = ValidClient::new().await;
    let ada = user(&client, ADA);
    let application = client.get("WhoAmI").await.json()["UserId"].clone();
    let request = client.request(Method::GET, "WhoAmI");
    let request = request.header("CallerObjectId", ADA.to_uppercase());
    assert_eq!(client.send(request).await.json()["UserId"], json!(ada));

    let request = client.request(Method::POST, "emails");
    let request = request.header("CallerObjectId", ADA).json(&json!({}));
    let email = client.send(request).await.id();
    let row = client.emulators.dataverse().row("email", email).unwrap();
    for (column, expected) in [
        ("createdby", json!(ada)),
        ("ownerid", json!(ada)),
        ("createdonbehalfby", application.clone()),
        ("modifiedonbehalfby", application.clone()),
    ] {
        assert_eq!(row[column]["id"], expected, "{column}");
    }
    let path = format!("emails({email})");
    let change = client.patch(&path, json!({"subject": "x"})).await;
    assert_eq!(change.status, 204);
    let row = client.emulators.dataverse().row("email", email).unwrap();
    assert_eq!(row["modifiedby"]["id"], application);
    assert_eq!(row["modifiedonbehalfby"], json!(null));
    assert_eq!(row["createdby"]["id"], json!(ada));
}

#[tokio::test]
async fn impersonation_needs_an_active_user_the_privilege_and_the_rights_of_both_users() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    user(&client, ADA);
    let gone = "00000000-0000-4000-8000-00000000000b";
    let row = json!({"lastname": "B", "isdisabled": true, "azureactivedirectoryobjectid": gone});
    dataverse.insert("systemuser", row).unwrap();
    let as_user = async |id: &str| {
        let request = client.request(Method::POST, "emails");
        let request = request.header("CallerObjectId", id).json(&json!({}));
        client.send(request).await
    };
    for nobody in [gone, "x", "00000000-0000-4000-8000-00000000000c"] {
        let refused = as_user(nobody).await;
        assert_eq!(refused.error(), error(403, "0x80072560"), "{nobody}");
    }
    let create = vec![(Privilege::Create, "activity")];
    for setting in [
        Setting::Withheld(vec![(Privilege::ActOnBehalf, "systemuser")]),
        Setting::Withheld(create.clone()),
        Setting::WithheldFromUsers(create),
    ] {
        let what = format!("{setting:?}");
        dataverse.set_setting(setting);
        let refused = as_user(ADA).await;
        assert_eq!(refused.error(), error(403, "0x80040220"), "{what}");
        dataverse.set_setting(Setting::Withheld(Vec::new()));
    }
    // A privilege that is withheld from users does not affect calls that the application makes as
    // itself.
    assert_eq!(client.post("emails", json!({})).await.status, 204);
}

#[tokio::test]
async fn impersonation_by_mscrmcallerid_is_not_emulated() {
    let client = ValidClient::new().await;
    let request = client.request(Method::GET, "WhoAmI");
    let request = request.header("MSCRMCallerID", ADA);
    assert_eq!(client.send(request).await.error(), error(501, "twin"));
}

#[tokio::test]
async fn an_organisation_survives_export_and_import() {
    let (first, second) = (ValidClient::new().await, ValidClient::new().await);
    let contact = first.contact("lark@example.com");
    let email = first
        .post("emails", json!({
            "subject": "Kites", "regardingobjectid_contact_email@odata.bind": format!("/contacts({contact})"),
            "email_activity_parties": [{"participationtypemask": 1, "addressused": "a@example.com"}],
        }))
        .await
        .id();
    let state = first.emulators.dataverse().export();
    second.emulators.dataverse().import(state.clone()).unwrap();
    assert_eq!(second.emulators.dataverse().export(), state);
    assert_eq!(second.emulators.dataverse().parties(email).len(), 3);
    assert_eq!(second.get(&format!("emails({email})")).await.status, 200);
    assert!(
        second
            .emulators
            .dataverse()
            .import(json!({"tables": {}}))
            .is_err()
    );
    assert_eq!(
        second.emulators.dataverse().export(),
        state,
        "a rejected import changes nothing"
    );
}
