//! What a body may contain, and what creating, updating and deleting rows does.

use emulators::{SeedError, Setting};
use reqwest::Method;
use serde_json::{Value, json};

use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn a_create_returns_204_with_the_url_of_the_row() {
    let client = ValidClient::new().await;
    let answer = client.post("emails", json!({"subject": "Kites"})).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let id = answer.id();
    let url = format!(
        "{}/api/data/v9.2/emails({id})",
        client.emulators.dataverse().url()
    );
    assert_eq!(answer.header("odata-entityid"), url);
    assert_eq!(client.stored(id, "subject"), "Kites");
}

#[tokio::test]
async fn a_create_can_return_the_row() {
    let client = ValidClient::new().await;
    let request = client
        .request(Method::POST, "emails?$select=subject")
        .header("Prefer", "return=representation");
    let answer = client
        .send(request.json(&json!({"subject": "Kites"})))
        .await;
    assert_eq!(answer.status, 201);
    let body = answer.json();
    assert_eq!(body["subject"], "Kites");
    assert!(body["@odata.etag"].is_string() && body["activityid"].is_string());
    assert!(
        body.get("description").is_none(),
        "a column that is not selected is not returned"
    );
}

#[tokio::test]
async fn a_new_email_has_the_defaults_of_the_platform() {
    let client = ValidClient::new().await;
    let id = client.post("emails", json!({})).await.id();
    let row = client.emulators.dataverse().row("email", id).unwrap();
    let user = client.emulators.dataverse().rows("systemuser")[0]["systemuserid"].clone();
    assert_eq!(
        row["directioncode"],
        json!(true),
        "an email is outgoing by default"
    );
    assert_eq!(
        (row["statecode"].clone(), row["statuscode"].clone()),
        (json!(0), json!(1))
    );
    assert_eq!(row["ownerid"], json!({"table": "systemuser", "id": user}));
    assert_eq!(row["activitytypecode"], "email");
    assert!(row["createdon"].is_string());
}

#[tokio::test]
async fn unknown_names_and_wrong_types_are_payload_errors() {
    let client = ValidClient::new().await;
    for body in [
        json!({"Subject": "x"}),
        json!({"subject": 1}),
        json!({"to": "a@example.com"}),
        json!({"ownerid": "x"}),
        json!({"regardingobjectid_nosuch@odata.bind": "/contacts(00000000-0000-4000-8000-000000000001)"}),
        json!([{"subject": "x"}]),
        json!("x"),
    ] {
        assert_eq!(
            client.post("emails", body.clone()).await.error(),
            error(400, "0x80048d19"),
            "{body}"
        );
    }
    for text in ["", "{", "\u{feff}{}", "{\"subject\": \"\\ud800\"}"] {
        let request = client
            .request(Method::POST, "emails")
            .header("Content-Type", "application/json")
            .body(text);
        assert_eq!(
            client.send(request).await.error(),
            error(400, "0x80048d19"),
            "{text}"
        );
    }
    let request = client
        .request(Method::POST, "emails")
        .header("Content-Type", "application/json");
    assert_eq!(
        client
            .send(request.body(vec![b'"', 0xff, b'"']))
            .await
            .error(),
        error(400, "0x80048d19")
    );
    assert!(client.emulators.dataverse().rows("email").is_empty());
}

#[tokio::test]
async fn a_body_without_a_json_content_type_gets_415() {
    let client = ValidClient::new().await;
    let request = client
        .request(Method::POST, "emails")
        .header("Content-Type", "text/plain")
        .body("{}");
    assert_eq!(client.send(request).await.status, 415);
}

#[tokio::test]
async fn read_only_columns_are_dropped_without_an_error_and_recorded() {
    let client = ValidClient::new().await;
    let body = json!({"subject": "x", "senton": "2026-01-01T00:00:00Z", "inreplyto": "<a@example.com>", "statecode": 1});
    let id = client.post("emails", body).await.id();
    assert_eq!(client.stored(id, "senton"), Value::Null);
    assert_eq!(client.stored(id, "statecode"), 0);
    client
        .patch(
            &format!("emails({id})"),
            json!({"overriddencreatedon": "2026-01-01T00:00:00Z", "subject": "y"}),
        )
        .await;
    let dropped = client.emulators.dataverse().dropped();
    let dropped: Vec<(&str, &str)> = dropped
        .iter()
        .map(|value| (value.column.as_str(), value.operation))
        .collect();
    assert_eq!(
        dropped,
        [
            ("inreplyto", "create"),
            ("senton", "create"),
            ("statecode", "create"),
            ("overriddencreatedon", "update")
        ]
    );
}

#[tokio::test]
async fn a_read_only_column_still_needs_the_right_type() {
    let client = ValidClient::new().await;
    assert_eq!(
        client.post("emails", json!({"senton": 5})).await.error(),
        error(400, "0x80048d19")
    );
}

#[tokio::test]
async fn lengths_and_choices_are_checked_on_create_and_on_update() {
    let client = ValidClient::new().await;
    let id = client.email().await;
    let path = format!("emails({id})");
    for (body, code) in [
        (json!({"subject": "x".repeat(801)}), "0x80044331"),
        (json!({"torecipients": "x".repeat(501)}), "0x80044331"),
        (json!({"messageid": "x".repeat(321)}), "0x80044331"),
        (json!({"prioritycode": 7}), "0x8004431A"),
        (json!({"subject": "a\u{1}b"}), "0x80040278"),
    ] {
        assert_eq!(
            client.post("emails", body.clone()).await.error(),
            error(400, code),
            "{body}"
        );
        assert_eq!(
            client.patch(&path, body.clone()).await.error(),
            error(400, code),
            "{body}"
        );
    }
    assert_eq!(client.stored(id, "subject"), "Kites");
}

#[tokio::test]
async fn an_organisation_can_have_its_own_limits_and_columns() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    dataverse.set_max_length("email", "subject", 10).unwrap();
    assert_eq!(
        client
            .post("emails", json!({"subject": "x".repeat(11)}))
            .await
            .error(),
        error(400, "0x80044331")
    );
    dataverse.add_text_column("email", "new_key", 64).unwrap();
    assert_eq!(
        client.post("emails", json!({"new_key": "a"})).await.status,
        204
    );
    assert!(matches!(
        dataverse.add_text_column("nosuch", "x", 1),
        Err(SeedError::UnknownTable { .. })
    ));
    assert!(matches!(
        dataverse.set_max_length("email", "nosuch", 1),
        Err(SeedError::UnknownColumn { .. })
    ));
}

#[tokio::test]
async fn createdon_can_be_overridden_on_create() {
    let client = ValidClient::new().await;
    let id = client
        .post(
            "emails",
            json!({"overriddencreatedon": "2020-02-03T04:05:06Z"}),
        )
        .await
        .id();
    assert_eq!(client.stored(id, "createdon"), "2020-02-03T04:05:06Z");
}

#[tokio::test]
async fn overriding_createdon_needs_its_privilege() {
    let client = ValidClient::new().await;
    client
        .emulators
        .dataverse()
        .set_setting(Setting::MayOverrideCreatedOn(false));
    let dated = json!({"overriddencreatedon": "2020-02-03T04:05:06Z"});
    let refused = client.post("emails", dated.clone()).await;
    assert_eq!(refused.error(), error(403, "0x80040220"));
    assert_eq!(client.emulators.dataverse().rows("email"), [Value::Null; 0]);
    let nothing = json!({"overriddencreatedon": null});
    let id = client.post("emails", nothing).await.id();
    // An update drops the column, with or without the privilege.
    let answer = client.patch(&format!("emails({id})"), dated).await;
    assert_eq!(answer.status, 204);
    assert_ne!(client.stored(id, "createdon"), "2020-02-03T04:05:06Z");
}

#[tokio::test]
async fn deleting_an_email_deletes_its_parties_and_attachments() {
    let client = ValidClient::new().await;
    let body = json!({"email_activity_parties": [{"participationtypemask": 1, "addressused": "a@example.com"}]});
    let id = client.post("emails", body).await.id();
    let attachment = json!({
        "objectid_email@odata.bind": format!("/emails({id})"), "objecttypecode": "email", "filename": "a.txt",
        "mimetype": "text/plain", "body": "YQ==",
    });
    client
        .post("activitymimeattachments", attachment)
        .await
        .id();
    assert_eq!(client.delete(&format!("emails({id})")).await.status, 204);
    assert_eq!(
        client.delete(&format!("emails({id})")).await.error(),
        error(404, "0x80040217")
    );
    assert!(
        client
            .emulators
            .dataverse()
            .rows("activityparty")
            .is_empty()
    );
    assert!(
        client
            .emulators
            .dataverse()
            .rows("activitymimeattachment")
            .is_empty()
    );
}

#[tokio::test]
async fn deleting_a_contact_marks_its_parties_as_deleted() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    let party = json!({"participationtypemask": 1, "partyid_contact@odata.bind": format!("/contacts({contact})")});
    let id = client
        .post("emails", json!({"email_activity_parties": [party]}))
        .await
        .id();
    assert_eq!(
        client.delete(&format!("contacts({contact})")).await.status,
        204
    );
    assert_eq!(
        client.emulators.dataverse().parties(id)[0]["ispartydeleted"],
        true
    );
}

#[tokio::test]
async fn the_full_name_is_composed_of_first_and_last_name() {
    let client = ValidClient::new().await;
    let id = client
        .post(
            "contacts",
            json!({"firstname": "Ada", "lastname": "Lark", "fullname": "ignored"}),
        )
        .await
        .id();
    assert_eq!(
        client.emulators.dataverse().row("contact", id).unwrap()["fullname"],
        "Ada Lark"
    );
    client
        .patch(&format!("contacts({id})"), json!({"lastname": "Wren"}))
        .await
        .id();
    assert_eq!(
        client.emulators.dataverse().row("contact", id).unwrap()["fullname"],
        "Ada Wren"
    );
}

#[tokio::test]
async fn an_inserted_row_is_validated_like_a_body_but_may_set_read_only_columns() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let account = dataverse
        .insert("account", json!({"name": "Kite Works"}))
        .unwrap();
    let lookup = json!({"table": "account", "id": account});
    let contact = dataverse
        .insert(
            "contact",
            json!({"lastname": "Lark", "parentcustomerid": lookup}),
        )
        .unwrap();
    assert_eq!(
        dataverse.row("contact", contact).unwrap()["parentcustomerid"],
        lookup
    );
    let sent = json!({"statecode": 1, "statuscode": 3, "senton": "2026-01-01T00:00:00Z"});
    assert!(dataverse.insert("email", sent).is_ok());
    assert!(matches!(
        dataverse.insert("nosuch", json!({})),
        Err(SeedError::UnknownTable { .. })
    ));
    assert!(matches!(
        dataverse.insert("contact", json!({"nosuch": 1})),
        Err(SeedError::UnknownColumn { .. })
    ));
    let again = json!({"contactid": contact});
    assert!(matches!(
        dataverse.insert("contact", again),
        Err(SeedError::Duplicate { .. })
    ));
    for bad in [
        json!({"lastname": "x".repeat(51)}),
        json!({"parentcustomerid": {"table": "lead", "id": account}}),
        json!({"parentcustomerid": {"table": "account", "id": contact}}),
        json!({"parentcustomerid": "text"}),
        json!({"statecode": 1, "statuscode": 1}),
        json!([]),
    ] {
        assert!(
            matches!(
                dataverse.insert("contact", bad.clone()),
                Err(SeedError::BadValue { .. })
            ),
            "{bad}"
        );
    }
}
