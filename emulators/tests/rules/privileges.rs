//! What Dataverse rejects if the role of the caller lacks a privilege.

use emulators::{Privilege, Setting};
use reqwest::Method;
use serde_json::{Value, json};

use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn each_operation_needs_only_its_own_privileges() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let contact = dataverse
        .insert("contact", json!({"lastname": "Lark"}))
        .unwrap();
    let ada = dataverse
        .insert("systemuser", json!({"lastname": "Ada"}))
        .unwrap();
    let email = dataverse
        .insert("email", json!({"subject": "Kites"}))
        .unwrap();
    let party = json!([{"participationtypemask": 2, "partyid_contact@odata.bind": format!("/contacts({contact})")}]);
    let to_contact = json!({"email_activity_parties": party});
    let file = json!({
        "objectid_activitypointer@odata.bind": format!("/activitypointers({email})"), "objecttypecode": "email",
        "filename": "a.txt", "mimetype": "text/plain", "body": "YQ==",
    });
    let one = format!("emails({email})");
    let post = |set: &str, body: Value| (Method::POST, set.to_owned(), Some(body));
    let calls = [
        (
            Privilege::Read,
            "contact",
            (Method::GET, "contacts".to_owned(), None),
        ),
        (
            Privilege::Read,
            "activity",
            (Method::GET, one.clone(), None),
        ),
        (Privilege::Create, "activity", post("emails", json!({}))),
        (
            Privilege::Write,
            "activity",
            (Method::PATCH, one.clone(), Some(json!({"subject": "x"}))),
        ),
        (
            Privilege::Write,
            "activity",
            post("activitymimeattachments", file),
        ),
        (
            Privilege::Append,
            "activity",
            post("emails", to_contact.clone()),
        ),
        (Privilege::AppendTo, "contact", post("emails", to_contact)),
        (
            Privilege::Assign,
            "activity",
            post(
                "emails",
                json!({"ownerid@odata.bind": format!("/systemusers({ada})")}),
            ),
        ),
        (
            Privilege::Delete,
            "activity",
            (Method::DELETE, one.clone(), None),
        ),
    ];
    for (privilege, table, (method, path, body)) in calls {
        let send = async || {
            let call = client.request(method.clone(), &path);
            let call = match &body {
                Some(body) => call.json(body),
                None => call,
            };
            super::valid_client::Answered::read(call.send().await.unwrap()).await
        };
        dataverse.set_setting(Setting::Withheld(vec![(privilege, table)]));
        let refused = send().await;
        assert_eq!(
            refused.error(),
            error(403, "0x80040220"),
            "{privilege:?} {path}"
        );
        dataverse.set_setting(Setting::Withheld(vec![(privilege, "account")]));
        let allowed = send().await;
        assert!(
            allowed.status < 300,
            "{privilege:?} {path}: {}",
            allowed.body
        );
    }
}

#[tokio::test]
async fn writes_can_be_rejected_with_any_code_while_reads_succeed() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let email = dataverse
        .insert("email", json!({"subject": "Kites"}))
        .unwrap();
    let one = format!("emails({email})");
    dataverse.set_setting(Setting::RefusedWrites(Some((400, "0x80099999"))));
    let refused = [
        client.post("emails", json!({"subject": "Gulls"})).await,
        client.patch(&one, json!({"subject": "x"})).await,
        client.delete(&one).await,
    ];
    for answer in refused {
        assert_eq!(answer.error(), error(400, "0x80099999"));
    }
    let row = client.get(&one).await;
    assert_eq!(row.json()["subject"], "Kites");
    dataverse.set_setting(Setting::RefusedWrites(None));
    let made = client.post("emails", json!({"subject": "Gulls"})).await;
    assert!(made.status < 300, "{}", made.body);
}
