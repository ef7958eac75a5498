//! Which attachments Dataverse accepts.

use emulators::Setting;
use serde_json::{Value, json};
use uuid::Uuid;

use super::valid_client::{Answered, ValidClient, error};

/// Posts a valid attachment after `change` has modified its body.
async fn attach(client: &ValidClient, email: Uuid, change: impl FnOnce(&mut Value)) -> Answered {
    let mut body = json!({
        "objectid_activitypointer@odata.bind": format!("/activitypointers({email})"), "objecttypecode": "email",
        "filename": "kite.txt", "mimetype": "text/plain", "body": "aGVsbG8=",
    });
    change(&mut body);
    client.post("activitymimeattachments", body).await
}

#[tokio::test]
async fn an_attachment_has_its_size_and_is_counted_on_its_email() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    let id = attach(&client, email, |_| {}).await.id();
    let row = client
        .emulators
        .dataverse()
        .row("activitymimeattachment", id)
        .unwrap();
    assert_eq!(
        (row["filesize"].clone(), row["attachmentnumber"].clone()),
        (json!(5), json!(1))
    );
    assert_eq!(row["objectid"], json!({"table": "email", "id": email}));
    assert_eq!(client.stored(email, "attachmentcount"), 1);
    assert_eq!(client.emulators.dataverse().attachments(email).len(), 1);
    let value = client
        .get(&format!("activitymimeattachments({id})/body/$value"))
        .await;
    assert_eq!((value.status, value.body.as_str()), (200, "aGVsbG8="));
    assert_eq!(
        client
            .delete(&format!("activitymimeattachments({id})"))
            .await
            .status,
        204
    );
    assert_eq!(client.stored(email, "attachmentcount"), 0);
}

#[tokio::test]
async fn an_attachment_can_be_bound_to_its_email_by_either_navigation() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    let direct = attach(&client, email, |body| {
        body.as_object_mut()
            .unwrap()
            .remove("objectid_activitypointer@odata.bind");
        body["objectid_email@odata.bind"] = json!(format!("/emails({email})"));
    });
    assert_eq!(direct.await.status, 204);
}

#[tokio::test]
async fn invalid_attachments_are_rejected() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    let missing = Uuid::from_u128(1);
    let set = |name: &'static str, value: Value| (name, value);
    for ((name, value), expected) in [
        (set("body", json!("")), error(400, "0x80044A04")),
        (set("body", Value::Null), error(400, "0x80044A04")),
        (set("body", json!("not base64!")), error(400, "0x80040203")),
        (set("filename", Value::Null), error(400, "0x80040203")),
        (set("mimetype", Value::Null), error(400, "0x80040203")),
        (set("filename", json!("a/b.txt")), error(400, "0x80044A08")),
        (
            set("filename", json!("what?.txt")),
            error(400, "0x80044A08"),
        ),
        (
            set("filename", json!("virus.EXE")),
            error(400, "0x80043E09"),
        ),
        (
            set("filename", json!("x".repeat(256))),
            error(400, "0x80044331"),
        ),
        (set("objecttypecode", Value::Null), error(400, "0x80040200")),
        (
            set("objecttypecode", json!("appointment")),
            error(400, "0x80040203"),
        ),
        (
            set("objectid_activitypointer@odata.bind", Value::Null),
            error(400, "0x80040200"),
        ),
        (
            set(
                "objectid_activitypointer@odata.bind",
                json!(format!("/activitypointers({missing})")),
            ),
            error(404, "0x80040217"),
        ),
        (
            set(
                "objectid_activitypointer@odata.bind",
                json!(format!("/emails({email})x")),
            ),
            error(400, "0x80048d19"),
        ),
    ] {
        let answer = attach(&client, email, |body| body[name] = value.clone()).await;
        assert_eq!(answer.error(), expected, "{name} {value}");
    }
    assert!(
        client
            .emulators
            .dataverse()
            .rows("activitymimeattachment")
            .is_empty()
    );
}

#[tokio::test]
async fn the_size_limit_counts_base64_characters() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    client
        .emulators
        .dataverse()
        .set_setting(Setting::MaxUploadFileSize(8));
    assert_eq!(
        attach(&client, email, |body| body["body"] = json!("aGVsbG8="))
            .await
            .status,
        204
    );
    let answer = attach(&client, email, |body| body["body"] = json!("aGVsbG8gd29y")).await;
    assert_eq!(
        answer.error(),
        error(400, "0x80044A02"),
        "nine bytes are twelve Base64 characters, more than the limit of eight"
    );
}

#[tokio::test]
async fn the_default_size_limit_is_five_mebibytes_of_base64() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    assert_eq!(
        attach(&client, email, |body| body["body"] =
            json!("A".repeat(5_242_880)))
        .await
        .status,
        204
    );
    let answer = attach(&client, email, |body| {
        body["body"] = json!("A".repeat(5_242_884));
    })
    .await;
    assert_eq!(answer.error(), error(400, "0x80044A02"));
}

#[tokio::test]
async fn blocked_extensions_are_a_setting_that_clients_can_read() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    client
        .emulators
        .dataverse()
        .set_setting(Setting::BlockedAttachments("txt; pdf".to_owned()));
    assert_eq!(
        attach(&client, email, |_| {}).await.error(),
        error(400, "0x80043E09")
    );
    let exe = attach(&client, email, |body| body["filename"] = json!("run.exe")).await;
    assert_eq!(exe.status, 204);
    let row = client
        .get("organizations?$select=maxuploadfilesize,blockedattachments")
        .await
        .json()["value"][0]
        .clone();
    assert_eq!(
        (
            row["maxuploadfilesize"].clone(),
            row["blockedattachments"].clone()
        ),
        (json!(5_242_880), json!("txt;pdf"))
    );
}

#[tokio::test]
async fn a_stored_file_can_be_reused_without_sending_it_again() {
    let client = ValidClient::new().await;
    let (first, second) = (client.email().await, client.email().await);
    let stored = attach(&client, first, |_| {}).await.id();
    let reuse = |with_content: bool| {
        let mut body = json!({
            "objectid_email@odata.bind": format!("/emails({second})"), "objecttypecode": "email",
            "attachmentid@odata.bind": format!("/activitymimeattachments({stored})"),
        });
        if with_content {
            body["filename"] = json!("other.txt");
        }
        client.post("activitymimeattachments", body)
    };
    let id = reuse(false).await.id();
    let row = client
        .emulators
        .dataverse()
        .row("activitymimeattachment", id)
        .unwrap();
    assert_eq!(
        (row["filename"].clone(), row["filesize"].clone()),
        (json!("kite.txt"), json!(5))
    );
    assert_eq!(reuse(true).await.error(), error(400, "0x80040203"));
}
