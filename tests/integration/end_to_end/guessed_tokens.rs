//! A tracking token in a subject, with the compiled functions: what it leads to, for whom, and what
//! `explain` shows.

use serde_json::json;

use super::canary;
use super::cloud::GRANT;
use super::command::run;
use super::explaining::Office;

#[tokio::test]
async fn a_guessed_tracking_token_gives_a_stranger_no_regarding() {
    let office = Office::open().await;
    let dataverse = office.0.emulators.dataverse();
    let contact = dataverse.rows("contact")[0]["contactid"].clone();
    let contact = contact.as_str().unwrap();
    let account = dataverse.insert("account", json!({"name": "Kites"}));
    let account = account.unwrap().to_string();
    for (created, table, id) in [
        ("2026-01-02T03:04:05Z", "account", account.as_str()),
        ("2026-02-02T03:04:05Z", "contact", contact),
    ] {
        let row = json!({
            "subject": "x", "trackingtoken": "CRM:0001001", "sender": canary::ADDRESS, "createdon": created,
            "regardingobjectid": {"table": table, "id": id}, "statecode": 1, "statuscode": 4,
        });
        dataverse.insert("email", row).unwrap();
    }
    for (id, from) in [
        ("stranger", "mallory@else.example"),
        ("carol", canary::ADDRESS),
    ] {
        let mut nylas_message = office.0.put_mail("m2")["data"]["object"].clone();
        nylas_message["id"] = json!(id);
        nylas_message["subject"] = json!("Please read CRM:0001001");
        nylas_message["from"] = json!([{"email": from}]);
        nylas_message["headers"] =
            json!([{"name": "Message-ID", "value": format!("<{id}@else.example>")}]);
        office.0.emulators.nylas().add_message(GRANT, nylas_message);
        office.work(&[(GRANT, id)]).await;
    }
    let settings = office.all_settings();
    let stranger = run(&["explain", "grant-1/stranger"], &settings).await;
    stranger.assert_shows(&[
        "regarding  nothing",
        "tracking_token: other_people, seen in email/",
    ]);
    let carol = run(&["explain", "grant-1/carol"], &settings).await;
    carol.assert_shows(&[
        &format!("regarding  contact/{contact} by tracking_token"),
        &format!("tracking_token: repeated account/{account}, seen in email/"),
    ]);
    let concerns: Vec<_> = office
        .0
        .emails()
        .iter()
        .filter(|row| row["subject"] == "Please read CRM:0001001")
        .map(|row| (row["sender"].clone(), row["regardingobjectid"].clone()))
        .collect();
    assert_eq!(concerns.len(), 2, "{concerns:#?}");
    for (sender, regarding) in concerns {
        if sender == canary::ADDRESS {
            assert_eq!(regarding, json!({"table": "contact", "id": contact}));
        } else {
            assert_eq!(regarding, json!(null), "{sender}");
        }
    }
}
