//! Unique keys, addressing rows by key, binding lookups, and what a PATCH does if the row does not
//! exist.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use emulators::{SeedError, Setting};

use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn a_second_row_with_the_same_id_gets_412() {
    let client = ValidClient::new().await;
    let id = Uuid::from_u128(0x1234_5678);
    let body = json!({"activityid": id, "subject": "x"});
    assert_eq!(client.post("emails", body.clone()).await.id(), id);
    assert_eq!(
        client.post("emails", body.clone()).await.error(),
        error(412, "0x80040237")
    );
    let upper = json!({"activityid": id.to_string().to_uppercase()});
    assert_eq!(
        client.post("emails", upper).await.error(),
        error(412, "0x80040237")
    );
    assert_eq!(
        client
            .post("appointments", json!({"activityid": id}))
            .await
            .error(),
        error(412, "0x80040237")
    );
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
}

#[tokio::test]
async fn an_invalid_body_is_rejected_before_the_id_is_checked() {
    let client = ValidClient::new().await;
    let id = client.email().await;
    let body = json!({"activityid": id, "subject": "x".repeat(801)});
    assert_eq!(
        client.post("emails", body).await.error(),
        error(400, "0x80044331")
    );
}

#[tokio::test]
async fn an_alternate_key_is_case_insensitively_unique_and_addresses_its_row() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    dataverse.add_text_column("email", "new_key", 64).unwrap();
    dataverse.add_alternate_key("email", &["new_key"]).unwrap();
    let id = client.post("emails", json!({"new_key": "abc"})).await.id();
    assert_eq!(
        client
            .post("emails", json!({"new_key": "ABC"}))
            .await
            .error(),
        error(412, "0x80060892")
    );
    client.post("emails", json!({})).await.id();
    client.post("emails", json!({})).await.id();
    assert_eq!(
        client.get("emails(new_key='abc')").await.json()["activityid"],
        json!(id)
    );
    assert_eq!(
        client.get("emails(new_key='none')").await.error(),
        error(404, "0x80060891")
    );
    assert_eq!(
        client.get("emails(new_key='a%2Fb')").await.error(),
        error(400, "0x80060888")
    );
    assert_eq!(
        client.get("emails(subject='a')").await.error(),
        error(400, "0x80060888")
    );
}

#[tokio::test]
async fn a_patch_by_alternate_key_creates_a_row_with_the_key() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    dataverse.add_text_column("email", "new_key", 64).unwrap();
    dataverse.add_alternate_key("email", &["new_key"]).unwrap();
    let by_key = "emails(new_key='007')";
    let update_only = client
        .request(Method::PATCH, by_key)
        .header("If-Match", "*")
        .json(&json!({"subject": "a"}));
    assert_eq!(
        client.send(update_only).await.error(),
        error(404, "0x80060891")
    );
    // The key in the address wins over the key in the body.
    let body = json!({"subject": "a", "new_key": "other"});
    let id = client.patch(by_key, body).await.id();
    assert_eq!(client.stored(id, "new_key"), "007");
    let again = client.patch(by_key, json!({"subject": "b"})).await;
    assert_eq!((again.id(), client.stored(id, "subject")), (id, json!("b")));
    assert_eq!(client.get("emails(new_key='none')").await.status, 404);
    let delete = client.request(Method::DELETE, "emails(new_key='none')");
    assert_eq!(client.send(delete).await.error(), error(404, "0x80060891"));
}

#[tokio::test]
async fn a_bind_must_refer_to_an_existing_row_of_the_right_table() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    let missing = Uuid::from_u128(7);
    let bind = |name: &str, address: String| json!({ format!("{name}@odata.bind"): address });
    for (body, expected) in [
        (
            bind(
                "regardingobjectid_contact_email",
                format!("/contacts({missing})"),
            ),
            error(404, "0x80040217"),
        ),
        (
            bind(
                "regardingobjectid_account_email",
                format!("/contacts({contact})"),
            ),
            error(400, "0x80048d19"),
        ),
        (
            bind(
                "regardingobjectid_contact_email",
                format!("/nosuch({contact})"),
            ),
            error(400, "0x80048d19"),
        ),
        (
            bind("regardingobjectid_contact_email", "/contacts".to_owned()),
            error(400, "0x80048d19"),
        ),
        (
            bind("regardingobjectid_contact_email", "nonsense(".to_owned()),
            error(400, "0x80048d19"),
        ),
        (
            bind(
                "regardingobjectid_campaign_email",
                format!("/campaigns({missing})"),
            ),
            error(404, "0x80040217"),
        ),
        (
            bind("ownerid", format!("/contacts({contact})")),
            error(400, "0x80048d19"),
        ),
        (
            bind("regardingobjectid_contact_email", "$1".to_owned()),
            error(400, "0x80060888"),
        ),
    ] {
        assert_eq!(
            client.post("emails", body.clone()).await.error(),
            expected,
            "{body}"
        );
    }
    let url = client.emulators.dataverse().url();
    for address in [
        format!("/contacts({contact})"),
        format!("contacts({contact})"),
        format!("/api/data/v9.2/contacts({contact})"),
        format!("{url}/api/data/v9.2/contacts({contact})"),
    ] {
        for name in [
            "regardingobjectid_contact_email",
            "regardingobjectid_contact",
        ] {
            let id = client
                .post("emails", bind(name, address.clone()))
                .await
                .id();
            assert_eq!(
                client.stored(id, "regardingobjectid"),
                json!({"table": "contact", "id": contact})
            );
        }
    }
}

#[tokio::test]
async fn a_lookup_can_be_bound_only_once_per_body_and_cleared_with_null() {
    let client = ValidClient::new().await;
    let address = format!("/contacts({})", client.contact("lark@example.com"));
    let twice = json!({
        "regardingobjectid_contact@odata.bind": address, "regardingobjectid_contact_email@odata.bind": address,
    });
    assert_eq!(
        client.post("emails", twice).await.error(),
        error(400, "0x80048d19")
    );
    let bound = json!({"regardingobjectid_contact@odata.bind": address});
    let id = client.post("emails", bound.clone()).await.id();
    client
        .patch(
            &format!("emails({id})"),
            json!({"regardingobjectid_contact@odata.bind": null}),
        )
        .await
        .id();
    assert_eq!(client.stored(id, "regardingobjectid"), Value::Null);
    client.patch(&format!("emails({id})"), bound).await.id();
    assert_eq!(
        client
            .delete(&format!("emails({id})/regardingobjectid_contact/$ref"))
            .await
            .status,
        204
    );
    assert_eq!(client.stored(id, "regardingobjectid"), Value::Null);
}

#[tokio::test]
async fn if_match_and_if_none_match_control_whether_a_patch_updates_or_creates() {
    let client = ValidClient::new().await;
    let patch = |id: Uuid, name: &'static str, value: String| {
        let request = client
            .request(Method::PATCH, &format!("emails({id})"))
            .json(&json!({"subject": "y"}));
        client.send(request.header(name, value))
    };
    let missing = Uuid::from_u128(9);
    assert_eq!(
        patch(missing, "If-Match", "*".to_owned()).await.error(),
        error(404, "0x80040217")
    );
    assert_eq!(
        client
            .patch(&format!("emails({missing})"), json!({"subject": "new"}))
            .await
            .id(),
        missing
    );
    assert_eq!(client.stored(missing, "subject"), "new");
    assert_eq!(
        patch(missing, "If-None-Match", "*".to_owned())
            .await
            .error(),
        error(412, "0x80040237")
    );
    assert_eq!(
        patch(missing, "If-Match", "W/\"0\"".to_owned())
            .await
            .error(),
        error(412, "0x80060882")
    );
    let etag = client.get(&format!("emails({missing})")).await.json()["@odata.etag"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(patch(missing, "If-Match", etag.clone()).await.status, 204);
    assert_eq!(
        patch(missing, "If-Match", etag).await.status,
        412,
        "the previous update changed the version of the row"
    );
    assert_eq!(
        patch(missing, "If-None-Match", "null".to_owned())
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn a_patch_can_return_the_row_with_201_if_created_and_200_if_updated() {
    let client = ValidClient::new().await;
    let path = format!("emails({})", Uuid::from_u128(9));
    for status in [201, 200] {
        let request = client
            .request(Method::PATCH, &path)
            .header("Prefer", "return=representation");
        assert_eq!(
            client
                .send(request.json(&json!({"subject": "y"})))
                .await
                .status,
            status
        );
    }
}

#[tokio::test]
async fn a_patch_with_parties_is_rejected() {
    let client = ValidClient::new().await;
    let id = client.email().await;
    for id in [id, Uuid::from_u128(9)] {
        let answer = client
            .patch(
                &format!("emails({id})"),
                json!({"email_activity_parties": []}),
            )
            .await;
        assert_eq!(answer.error(), error(400, "0x80048d19"));
    }
}

#[tokio::test]
async fn no_client_can_create_a_second_email_with_the_same_message_id() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let first = client
        .post("emails", json!({"messageid": "<a@x.example>"}))
        .await
        .id();
    for same in ["<a@x.example>", "<A@X.example>"] {
        let answer = client.post("emails", json!({"messageid": same})).await;
        assert_eq!(answer.error(), error(412, "0x80040237"), "{same}");
    }
    let theirs = dataverse.track_by_server_side_sync("<a@x.example>", "a@x.example", &json!({}));
    assert!(matches!(theirs, Err(SeedError::Duplicate { .. })));
    // An update cannot set a Message-ID that another row has either. It may repeat the row's own.
    // Empty Message-IDs do not collide.
    let second = client.post("emails", json!({})).await.id();
    client.post("emails", json!({"messageid": ""})).await.id();
    client.post("emails", json!({"messageid": ""})).await.id();
    let change = json!({"messageid": "<a@x.example>"});
    let path = format!("emails({second})");
    let answer = client.patch(&path, change.clone()).await;
    assert_eq!(answer.error(), error(412, "0x80040237"));
    let path = format!("emails({first})");
    assert_eq!(client.patch(&path, change).await.status, 204);
    // A Message-ID is free again once its row is deleted or gets another one.
    assert_eq!(
        client
            .patch(&path, json!({"messageid": "<b@x.example>"}))
            .await
            .status,
        204
    );
    client
        .post("emails", json!({"messageid": "<a@x.example>"}))
        .await
        .id();
}

#[tokio::test]
async fn two_emails_with_the_same_message_id_are_stored_if_the_organisation_allows_it() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    dataverse.set_setting(Setting::UniqueMessageIds(false));
    for _ in 0..2 {
        client
            .post("emails", json!({"messageid": "<a@x.example>"}))
            .await
            .id();
    }
    assert_eq!(dataverse.rows("email").len(), 2);
}
