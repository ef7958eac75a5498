//! Which states an email may have, and which changes a closed email still accepts.

use serde_json::json;

use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn an_email_cannot_be_created_as_sent_or_received() {
    let client = ValidClient::new().await;
    for body in [
        json!({"statuscode": 3}),
        json!({"statuscode": 4}),
        json!({"statecode": 1, "statuscode": 4}),
    ] {
        assert_eq!(
            client.post("emails", body.clone()).await.error(),
            error(400, "0x80048408"),
            "{body}"
        );
    }
    let id = client.post("emails", json!({"statecode": 1})).await.id();
    assert_eq!(
        client.stored(id, "statecode"),
        0,
        "a create drops the state"
    );
    assert_eq!(
        client.post("emails", json!({"statuscode": 8})).await.status,
        204
    );
}

#[tokio::test]
async fn a_state_change_needs_a_matching_status_or_none() {
    let client = ValidClient::new().await;
    for (body, state, status) in [
        (json!({"statecode": 1, "statuscode": 4}), 1, 4),
        (json!({"statecode": 1, "statuscode": 3}), 1, 3),
        (json!({"statecode": 1}), 1, 2),
        (json!({"statecode": 2}), 2, 5),
        (json!({"statuscode": 8}), 0, 8),
        (
            json!({"subject": "with a column", "statecode": 1, "statuscode": 4}),
            1,
            4,
        ),
    ] {
        let id = client.email().await;
        assert_eq!(
            client
                .patch(&format!("emails({id})"), body.clone())
                .await
                .status,
            204,
            "{body}"
        );
        assert_eq!(
            (
                client.stored(id, "statecode"),
                client.stored(id, "statuscode")
            ),
            (json!(state), json!(status))
        );
    }
    for body in [
        json!({"statuscode": 4}),
        json!({"statecode": 0, "statuscode": 4}),
        json!({"statecode": 1, "statuscode": 1}),
    ] {
        let id = client.email().await;
        assert_eq!(
            client
                .patch(&format!("emails({id})"), body.clone())
                .await
                .error(),
            error(400, "0x80048408"),
            "{body}"
        );
    }
    let id = client.email().await;
    assert_eq!(
        client
            .patch(&format!("emails({id})"), json!({"statuscode": null}))
            .await
            .status,
        400
    );
    assert_eq!(
        client
            .patch(&format!("emails({id})"), json!({"statecode": 9}))
            .await
            .error(),
        error(400, "0x8004431A")
    );
}

#[tokio::test]
async fn only_the_regarding_of_a_closed_email_can_be_changed() {
    let client = ValidClient::new().await;
    let address = format!("/contacts({})", client.contact("lark@example.com"));
    let id = client.completed_email().await;
    let path = format!("emails({id})");
    for body in [
        json!({"subject": "x"}),
        json!({"statecode": 0}),
        json!({"statecode": 1, "statuscode": 4}),
        json!({"regardingobjectid_contact_email@odata.bind": address, "subject": "x"}),
    ] {
        assert_eq!(
            client.patch(&path, body.clone()).await.error(),
            error(400, "0x80043500"),
            "{body}"
        );
    }
    let regarding = json!({"regardingobjectid_contact_email@odata.bind": address});
    assert_eq!(client.patch(&path, regarding).await.status, 204);
    assert_eq!(client.stored(id, "regardingobjectid")["table"], "contact");
    assert_eq!(client.delete(&path).await.status, 204);
}

#[tokio::test]
async fn a_closed_email_accepts_no_parties_or_attachments() {
    let client = ValidClient::new().await;
    let id = client.completed_email().await;
    let put = client.request(
        reqwest::Method::PUT,
        &format!("emails({id})/email_activity_parties"),
    );
    assert_eq!(
        client.send(put.json(&json!({"value": []}))).await.error(),
        error(400, "0x80043500")
    );
    let attachment = json!({
        "objectid_email@odata.bind": format!("/emails({id})"), "objecttypecode": "email", "filename": "a.txt",
        "mimetype": "text/plain", "body": "YQ==",
    });
    assert_eq!(
        client
            .post("activitymimeattachments", attachment)
            .await
            .error(),
        error(400, "0x80043500")
    );
}

#[tokio::test]
async fn an_inactive_contact_can_still_be_changed() {
    let client = ValidClient::new().await;
    let id = client.contact("lark@example.com");
    assert_eq!(
        client
            .patch(&format!("contacts({id})"), json!({"statecode": 1}))
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .patch(&format!("contacts({id})"), json!({"lastname": "Wren"}))
            .await
            .status,
        204
    );
}
