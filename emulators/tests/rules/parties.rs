//! The activity parties of an email.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::valid_client::{Answered, ValidClient, error};

async fn with_parties(client: &ValidClient, parties: Value) -> Answered {
    client
        .post(
            "emails",
            json!({"subject": "Kites", "email_activity_parties": parties}),
        )
        .await
}

fn masks(rows: &[Value]) -> Vec<i64> {
    rows.iter()
        .map(|row| row["participationtypemask"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn parties_are_created_with_their_email_and_keep_their_order() {
    let client = ValidClient::new().await;
    let contact = client.contact("lark@example.com");
    let parties = json!([
        {"participationtypemask": 2, "addressused": "b@example.com", "unresolvedpartyname": "Bea"},
        {"participationtypemask": 1, "partyid_contact@odata.bind": format!("/contacts({contact})"),
         "addressused": "lark@example.com"},
        {"participationtypemask": 3, "addressused": "c@example.com"},
        {"participationtypemask": 4, "addressused": "d@example.com"},
    ]);
    let id = with_parties(&client, parties).await.id();
    let rows = client.emulators.dataverse().parties(id);
    assert_eq!(masks(&rows), [2, 1, 3, 4, 9], "the owner (9) is appended");
    assert_eq!(rows[0]["unresolvedpartyname"], "Bea");
    assert_eq!(
        rows[1]["partyid"],
        json!({"table": "contact", "id": contact})
    );
    assert_eq!(rows[0]["activityid"], json!({"table": "email", "id": id}));
    assert_eq!(
        client.stored(id, "emailsender"),
        json!({"table": "contact", "id": contact})
    );
}

#[tokio::test]
async fn the_platform_maintains_a_party_for_the_regarding_record() {
    let client = ValidClient::new().await;
    let bind = |id: Uuid| json!({"regardingobjectid_contact_email@odata.bind": format!("/contacts({id})")});
    let (first, second) = (
        client.contact("a@example.com"),
        client.contact("b@example.com"),
    );
    let id = client.post("emails", bind(first)).await.id();
    assert_eq!(masks(&client.emulators.dataverse().parties(id)), [8, 9]);
    client
        .patch(&format!("emails({id})"), bind(second))
        .await
        .id();
    let rows = client.emulators.dataverse().parties(id);
    let regarding = rows
        .iter()
        .find(|row| row["participationtypemask"] == 8)
        .unwrap();
    assert_eq!(regarding["partyid"]["id"], json!(second));
}

#[tokio::test]
async fn invalid_parties_are_rejected_and_nothing_is_written() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let opportunity = dataverse
        .insert("opportunity", json!({"name": "Kites"}))
        .unwrap();
    let contact = format!("/contacts({})", client.contact("lark@example.com"));
    let address = "a@example.com";
    for (parties, expected) in [
        (
            json!([{"participationtypemask": 1, "addressused": address}, {"participationtypemask": 1, "addressused": address}]),
            error(400, "0x80040B01"),
        ),
        (
            json!([{"participationtypemask": 1}]),
            error(400, "0x80043504"),
        ),
        (
            json!([{"participationtypemask": 1, "addressused": ""}]),
            error(400, "0x80043504"),
        ),
        (
            json!([{"participationtypemask": 1, "unresolvedpartyname": "Ada"}]),
            error(400, "0x80043504"),
        ),
        (json!([{"addressused": address}]), error(400, "0x80040B06")),
        (
            json!([{"participationtypemask": 8, "addressused": address}]),
            error(400, "0x80040203"),
        ),
        (
            json!([{"participationtypemask": 13, "addressused": address}]),
            error(400, "0x8004431A"),
        ),
        (
            json!([{"participationtypemask": "1", "addressused": address}]),
            error(400, "0x80048d19"),
        ),
        (
            json!([{"participationtypemask": 2, "partyid_opportunity@odata.bind": format!("/opportunities({opportunity})")}]),
            error(400, "0x80043506"),
        ),
        (
            json!([{"participationtypemask": 2, "partyid_contact@odata.bind": format!("/contacts({})", Uuid::from_u128(1))}]),
            error(404, "0x80040217"),
        ),
        (
            json!([{"participationtypemask": 2, "partyid_account@odata.bind": contact}]),
            error(400, "0x80048d19"),
        ),
        (
            json!([{"participationtypemask": 2, "partyid@odata.bind": contact}]),
            error(400, "0x80048d19"),
        ),
        (
            json!([{"participationtypemask": 2, "partyobjecttypecode": "contact", "addressused": address}]),
            error(400, "0x80048d19"),
        ),
        (
            json!([{"participationtypemask": 2, "addressused": "x".repeat(321)}]),
            error(400, "0x80044331"),
        ),
        (
            json!([{"participationtypemask": 2, "addressused": address, "unresolvedpartyname": "x".repeat(201)}]),
            error(400, "0x80044331"),
        ),
        (json!(["a@example.com"]), error(400, "0x80048d19")),
        (json!("a@example.com"), error(400, "0x80048d19")),
    ] {
        assert_eq!(
            with_parties(&client, parties.clone()).await.error(),
            expected,
            "{parties}"
        );
    }
    assert!(dataverse.rows("email").is_empty());
    assert!(dataverse.rows("activityparty").is_empty());
}

#[tokio::test]
async fn a_put_replaces_all_parties() {
    let client = ValidClient::new().await;
    let id = with_parties(
        &client,
        json!([{"participationtypemask": 1, "addressused": "a@example.com"}]),
    )
    .await
    .id();
    let path = format!("emails({id})/email_activity_parties");
    let put = |body: Value| client.send(client.request(Method::PUT, &path).json(&body));
    let new = json!({"value": [{"participationtypemask": 2, "addressused": "b@example.com"}]});
    assert_eq!(put(new).await.status, 204);
    let rows = client.emulators.dataverse().parties(id);
    assert_eq!(masks(&rows), [2, 9]);
    assert_eq!(put(json!([])).await.error(), error(400, "0x80048d19"));
    let bad = json!({"value": [{"participationtypemask": 2}]});
    assert_eq!(put(bad).await.error(), error(400, "0x80043504"));
    assert_eq!(
        client.emulators.dataverse().parties(id),
        rows,
        "a rejected replacement changes nothing"
    );
}

#[tokio::test]
async fn parties_can_be_listed_but_not_written_individually() {
    let client = ValidClient::new().await;
    let id = with_parties(
        &client,
        json!([{"participationtypemask": 1, "addressused": "a@example.com"}]),
    )
    .await
    .id();
    let list = client
        .get(&format!(
            "activityparties?$filter=_activityid_value%20eq%20{id}"
        ))
        .await
        .json();
    assert_eq!(list["value"].as_array().unwrap().len(), 2);
    let below = client
        .get(&format!(
            "emails({id})/email_activity_parties?$select=addressused"
        ))
        .await
        .json();
    assert_eq!(below["value"][0]["addressused"], "a@example.com");
    let party = list["value"][0]["activitypartyid"]
        .as_str()
        .unwrap()
        .to_owned();
    let new = json!({"participationtypemask": 1, "addressused": "a@example.com"});
    for (method, path) in [
        (Method::POST, "activityparties".to_owned()),
        (Method::PATCH, format!("activityparties({party})")),
        (Method::DELETE, format!("activityparties({party})")),
        (Method::GET, format!("activityparties({party})")),
        (Method::POST, format!("emails({id})/email_activity_parties")),
    ] {
        let answer = client
            .send(client.request(method.clone(), &path).json(&new))
            .await;
        assert_eq!(answer.status, 405, "{method} {path}");
    }
}

#[tokio::test]
async fn parties_can_be_inserted_for_an_inserted_email() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let contact = client.contact("lark@example.com");
    let email = dataverse
        .insert("email", json!({"subject": "Kites"}))
        .unwrap();
    let party = json!({
        "activityid": {"table": "email", "id": email}, "participationtypemask": 1,
        "partyid": {"table": "contact", "id": contact}, "addressused": "lark@example.com",
    });
    dataverse.insert("activityparty", party).unwrap();
    assert_eq!(masks(&dataverse.parties(email)), [1, 9]);
    assert_eq!(
        client.stored(email, "emailsender"),
        json!({"table": "contact", "id": contact})
    );
}
