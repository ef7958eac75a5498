//! Rules from the Dataverse facts that no other file covers: names of lookups, appointments,
//! headers, and features that Dataverse or the emulator does not have.

use emulators::Setting;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn every_pair_of_state_and_status_is_accepted_or_rejected_as_documented() {
    let client = ValidClient::new().await;
    let pairs = [
        (0, 1),
        (0, 8),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 6),
        (1, 7),
        (2, 5),
    ];
    for state in 0..3 {
        for status in 1..9 {
            let path = format!("emails({})", client.email().await);
            let body = json!({"statecode": state, "statuscode": status});
            let answer = client.patch(&path, body).await;
            if pairs.contains(&(state, status)) {
                assert_eq!(answer.status, 204, "{state} {status}");
            } else {
                assert_eq!(answer.error(), error(400, "0x80048408"), "{state} {status}");
            }
            let created = client.post("emails", json!({"statuscode": status})).await;
            let fits = pairs.contains(&(0, status));
            assert_eq!(created.status, if fits { 204 } else { 400 }, "{status}");
        }
    }
}

#[tokio::test]
async fn a_cancelled_email_is_closed() {
    let client = ValidClient::new().await;
    let path = format!("emails({})", client.email().await);
    assert_eq!(
        client.patch(&path, json!({"statecode": 2})).await.status,
        204
    );
    let answer = client.patch(&path, json!({"subject": "x"})).await;
    assert_eq!(answer.error(), error(400, "0x80043500"));
}

#[tokio::test]
async fn attachments_of_a_closed_email_cannot_be_changed_or_removed() {
    let client = ValidClient::new().await;
    let email = client.email().await;
    let attachment = json!({
        "objectid_email@odata.bind": format!("/emails({email})"), "objecttypecode": "email", "filename": "a.txt",
        "mimetype": "text/plain", "body": "YQ==",
    });
    let id = client
        .post("activitymimeattachments", attachment)
        .await
        .id();
    let path = format!("activitymimeattachments({id})");
    assert_eq!(
        client
            .patch(&path, json!({"filename": "b.txt"}))
            .await
            .status,
        204
    );
    client
        .patch(&format!("emails({email})"), json!({"statecode": 1}))
        .await;
    let refused = error(400, "0x80043500");
    assert_eq!(
        client
            .patch(&path, json!({"filename": "c.txt"}))
            .await
            .error(),
        refused
    );
    assert_eq!(client.delete(&path).await.error(), refused);
    assert_eq!(
        client.emulators.dataverse().attachments(email)[0]["filename"],
        "b.txt"
    );
}

#[tokio::test]
async fn attachments_cannot_be_created_inside_an_email_or_by_block_upload() {
    let client = ValidClient::new().await;
    for name in [
        "email_activity_mime_attachment",
        "activity_pointer_activity_mime_attachment",
    ] {
        let body = json!({name: [{"filename": "a.txt", "mimetype": "text/plain", "body": "YQ=="}]});
        assert_eq!(
            client.post("emails", body).await.error(),
            error(501, "twin"),
            "{name}"
        );
    }
    for name in [
        "InitializeAttachmentBlocksUpload",
        "UploadBlock",
        "CommitAttachmentBlocksUpload",
    ] {
        assert_eq!(
            client.post(name, json!({})).await.error(),
            error(501, "twin"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn two_emails_share_a_message_id_only_if_the_organisation_allows_it() {
    for (unique, second) in [(true, 412), (false, 204)] {
        let client = ValidClient::new().await;
        let dataverse = client.emulators.dataverse();
        dataverse.set_setting(Setting::UniqueMessageIds(unique));
        for status in [204, second] {
            let body = json!({"messageid": "<kites@example.com>"});
            assert_eq!(client.post("emails", body).await.status, status);
        }
    }
}

#[tokio::test]
async fn a_party_can_be_an_account_contact_lead_queue_or_user() {
    let client = ValidClient::new().await;
    for (table, set, row) in [
        ("account", "accounts", json!({"name": "Kite Works"})),
        ("contact", "contacts", json!({"lastname": "Lark"})),
        ("lead", "leads", json!({"lastname": "Wren"})),
        ("queue", "queues", json!({"name": "Support"})),
        ("systemuser", "systemusers", json!({"lastname": "Owl"})),
    ] {
        let id = client.emulators.dataverse().insert(table, row).unwrap();
        let party = json!({
            "participationtypemask": 2, format!("partyid_{table}@odata.bind"): format!("/{set}({id})"),
        });
        let email = json!({"email_activity_parties": [party]});
        let email = client.post("emails", email).await.id();
        let parties = client.emulators.dataverse().parties(email);
        assert_eq!(parties[0]["partyid"], json!({"table": table, "id": id}));
    }
}

#[tokio::test]
async fn an_email_accepts_senders_and_recipients_and_an_appointment_accepts_attendees() {
    let client = ValidClient::new().await;
    for mask in 1..13 {
        let party = json!([{"participationtypemask": mask, "addressused": "a@example.com"}]);
        let email = client
            .post("emails", json!({"email_activity_parties": party}))
            .await;
        assert_eq!(email.status == 204, (1..=4).contains(&mask), "{mask}");
        if (5..=7).contains(&mask) {
            let body = json!({"appointment_activity_parties": party});
            assert_eq!(
                client.post("appointments", body).await.status,
                204,
                "{mask}"
            );
        }
    }
    let wrong = json!({"email_activity_parties": []});
    let wrong = client.post("appointments", wrong).await;
    assert_eq!(wrong.error(), error(400, "0x80048d19"));
}

#[tokio::test]
async fn an_appointment_has_its_own_states_and_navigation_names() {
    let client = ValidClient::new().await;
    let contact = format!("/contacts({})", client.contact("lark@example.com"));
    for name in [
        "regardingobjectid_contact_appointment",
        "regardingobjectid_contact",
    ] {
        let body = json!({format!("{name}@odata.bind"): contact});
        assert_eq!(
            client.post("appointments", body).await.status,
            204,
            "{name}"
        );
    }
    let foreign = json!({"regardingobjectid_contact_email@odata.bind": contact});
    assert_eq!(
        client.post("appointments", foreign).await.error(),
        error(400, "0x80048d19")
    );
    for (state, status) in [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (3, 6)] {
        let path = format!(
            "appointments({})",
            client.post("appointments", json!({})).await.id()
        );
        let body = json!({"statecode": state, "statuscode": status});
        assert_eq!(
            client.patch(&path, body).await.status,
            204,
            "{state} {status}"
        );
    }
    let series = client
        .post("appointments", json!({"instancetypecode": 1}))
        .await
        .id();
    let stored = client
        .emulators
        .dataverse()
        .row("appointment", series)
        .unwrap();
    assert_eq!(stored.get("instancetypecode"), None);
}

#[tokio::test]
async fn owners_are_users_and_teams() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let team = dataverse.insert("team", json!({"name": "Kites"})).unwrap();
    let user = dataverse
        .insert("systemuser", json!({"lastname": "Owl"}))
        .unwrap();
    for (table, address) in [
        ("team", format!("/teams({team})")),
        ("systemuser", format!("/systemusers({user})")),
    ] {
        let id = client
            .post("emails", json!({"ownerid@odata.bind": address}))
            .await
            .id();
        assert_eq!(client.stored(id, "ownerid")["table"], table);
    }
}

#[tokio::test]
async fn navigation_names_are_case_sensitive_and_some_have_only_one_form() {
    let client = ValidClient::new().await;
    for name in [
        "regardingobjectid_contact_email",
        "regardingobjectid_contact",
        "regardingobjectid_asyncoperation",
        "CorrelatedActivityId_Email",
        "ReceivingMailboxId_Email",
    ] {
        let body = json!({format!("{name}@odata.bind"): null});
        assert_eq!(client.post("emails", body).await.status, 204, "{name}");
    }
    for name in [
        "RegardingObjectId_contact_email",
        "regardingobjectid_Contact",
        "regardingobjectid",
        "regardingobjectid_asyncoperation_email",
        "correlatedactivityid",
        "receivingmailboxid",
        "acceptingentityid_queue",
    ] {
        let body = json!({format!("{name}@odata.bind"): null});
        assert_eq!(
            client.post("emails", body).await.error(),
            error(400, "0x80048d19"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_regarding_is_returned_with_its_table_and_navigation_name() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    let body =
        json!({"regardingobjectid_contact_email@odata.bind": format!("/contacts({contact})")});
    let email = client.post("emails", body).await.id();
    let request = client
        .request(
            Method::GET,
            &format!("emails({email})?$select=_regardingobjectid_value"),
        )
        .header("Prefer", "odata.include-annotations=\"*\"");
    let row = client.send(request).await.json();
    assert_eq!(row["_regardingobjectid_value"], json!(contact));
    let note =
        |name: &str| row[format!("_regardingobjectid_value@Microsoft.Dynamics.CRM.{name}")].clone();
    assert_eq!(note("lookuplogicalname"), "contact");
    let name = note("associatednavigationproperty");
    assert!(
        name.as_str()
            .unwrap()
            .starts_with("regardingobjectid_contact"),
        "{name}"
    );
}

#[tokio::test]
async fn key_values_with_reserved_characters_are_unique_but_address_no_row() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    dataverse.add_text_column("email", "new_key", 64).unwrap();
    dataverse.add_alternate_key("email", &["new_key"]).unwrap();
    for sign in ['/', '<', '>', '*', '%', '&', ':', '\\', '?', '+'] {
        let body = json!({"new_key": format!("a{sign}b")});
        assert_eq!(
            client.post("emails", body.clone()).await.status,
            204,
            "{sign}"
        );
        assert_eq!(
            client.post("emails", body).await.error(),
            error(412, "0x80060892"),
            "{sign}"
        );
        let path = format!("emails(new_key='a%{:02X}b')", sign as u8);
        assert_eq!(
            client.get(&path).await.error(),
            error(400, "0x80060888"),
            "{sign}"
        );
        let patched = client.patch(&path, json!({"subject": "x"})).await;
        assert_eq!(patched.error(), error(400, "0x80060888"), "{sign}");
    }
    let bound = json!({"CorrelatedActivityId_Email@odata.bind": "/emails(new_key='none')"});
    assert_eq!(
        client.post("emails", bound).await.error(),
        error(404, "0x80060891")
    );
}

#[tokio::test]
async fn a_create_only_upsert_creates_the_row_and_ignores_an_expand() {
    let client = ValidClient::new().await;
    let path = format!("emails({})", Uuid::from_u128(5));
    let request = client
        .request(
            Method::PATCH,
            &format!("{path}?$select=subject&$expand=email_activity_parties"),
        )
        .header("If-None-Match", "*")
        .header("Prefer", "return=representation")
        .json(&json!({"subject": "Kites"}));
    let answer = client.send(request).await;
    assert_eq!(
        (answer.status, &answer.json()["subject"]),
        (201, &json!("Kites"))
    );
    assert_eq!(answer.json().get("email_activity_parties"), None);
}

#[tokio::test]
async fn emails_do_not_support_createmultiple_updatemultiple_or_upsertmultiple() {
    let client = ValidClient::new().await;
    for set in ["emails", "activitymimeattachments"] {
        for name in ["CreateMultiple", "UpdateMultiple", "UpsertMultiple"] {
            let path = format!("{set}/Microsoft.Dynamics.CRM.{name}");
            let answer = client.post(&path, json!({"Targets": []})).await;
            assert_eq!(answer.error(), error(400, "0x80040800"), "{path}");
        }
    }
    let others = client
        .post("contacts/Microsoft.Dynamics.CRM.CreateMultiple", json!({}))
        .await;
    assert_eq!(others.error(), error(501, "twin"));
}

#[tokio::test]
async fn a_request_that_is_too_large_gets_413() {
    let client = ValidClient::new().await;
    client
        .emulators
        .dataverse()
        .set_setting(Setting::LargestRequest(1_000));
    let text = |length: usize| json!({"description": "x".repeat(length)});
    assert_eq!(client.post("emails", text(900)).await.status, 204);
    assert_eq!(
        client.post("emails", text(1_000)).await.error(),
        error(413, "0x8004418A")
    );
    let batch = client
        .request(Method::POST, "$batch")
        .header("Content-Type", "multipart/mixed; boundary=b")
        .body("x".repeat(1_001));
    assert_eq!(client.send(batch).await.error(), error(413, "0x8004418A"));
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
}

#[tokio::test]
async fn every_response_has_a_request_id_for_support() {
    let client = ValidClient::new().await;
    let mut seen = Vec::new();
    for path in ["WhoAmI", "nosuch"] {
        let answer = client.get(path).await;
        for name in ["x-ms-service-request-id", "REQ_ID"] {
            Uuid::parse_str(answer.header(name)).unwrap();
        }
        seen.push(answer.header("REQ_ID").to_owned());
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn headers_and_parameters_for_plug_ins_and_caches_have_no_effect() {
    let client = ValidClient::new().await;
    let request = client
        .request(Method::POST, "emails?tag=mailverse")
        .header("If-None-Match", "null")
        .header("MSCRM.BypassCustomPluginExecution", "true")
        .header(
            "MSCRM.BypassBusinessLogicExecution",
            "CustomSync,CustomAsync",
        )
        .header("MSCRM.SuppressCallbackRegistrationExpanderJob", "true")
        .header("MSCRM.SuppressDuplicateDetection", "false")
        .header("Consistency", "Strong")
        .header("x-ms-client-request-id", Uuid::from_u128(1).to_string())
        .header("Content-Type", "application/json; charset=utf-8")
        .body(r#"{"subject": "Kites"}"#);
    assert_eq!(client.send(request).await.status, 204);
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
}

#[tokio::test]
async fn lookups_are_compared_without_quotes_and_filters_accept_aliases() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    let body = json!({"regardingobjectid_contact@odata.bind": format!("/contacts({contact})")});
    client.post("emails", body).await;
    let count = |answer: Value| answer["value"].as_array().unwrap().len();
    let bare = client
        .get(&format!(
            "emails?$filter=_regardingobjectid_value eq {contact}"
        ))
        .await;
    assert_eq!(count(bare.json()), 1);
    let quoted = client
        .get(&format!(
            "emails?$filter=_regardingobjectid_value eq '{contact}'"
        ))
        .await;
    assert_eq!(quoted.error(), error(400, "0x80060888"));
    let alias = client
        .get("contacts?$filter=lastname eq @p1&@p1='lark'")
        .await;
    assert_eq!(count(alias.json()), 1);
}

#[tokio::test]
async fn inactive_rows_are_returned_unless_filtered_out() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    client
        .patch(&format!("contacts({contact})"), json!({"statecode": 1}))
        .await;
    let found = client
        .get("contacts?$filter=emailaddress1 eq 'lark@example.com'")
        .await;
    assert_eq!(found.json()["value"].as_array().unwrap().len(), 1);
    let active = client
        .get("contacts?$filter=emailaddress1 eq 'lark@example.com' and statecode eq 0")
        .await;
    assert_eq!(active.json()["value"], json!([]));
}

#[tokio::test]
async fn top_takes_precedence_over_a_page_size() {
    let client = ValidClient::new().await;
    for number in 0..3 {
        client.contact(&format!("{number}@example.com"));
    }
    let request = client
        .request(Method::GET, "contacts?$select=lastname&$top=2")
        .header("Prefer", "odata.maxpagesize=1");
    let body = client.send(request).await.json();
    assert_eq!(body["value"].as_array().unwrap().len(), 2);
    assert_eq!(body.get("@odata.nextLink"), None);
    let skipped = client.get("contacts?$skip=1").await;
    assert_eq!(skipped.error(), error(400, "0x80060888"));
}
