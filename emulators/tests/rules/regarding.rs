//! The regarding record of an email, and the queries that find candidates for it.

use reqwest::Method;
use serde_json::json;

use super::definitions::each;
use super::valid_client::{ValidClient, error};

#[tokio::test]
async fn open_opportunities_and_cases_are_found_by_their_customer() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let insert = |table: &str, row| dataverse.insert(table, row).unwrap();
    let kites = insert("account", json!({"name": "Kites"}));
    let carol = client.contact("carol@kites.example");
    let to_kites = json!({"table": "account", "id": kites});
    let to_carol = json!({"table": "contact", "id": carol});
    let open = insert(
        "opportunity",
        json!({"name": "x", "customerid": to_kites, "parentcontactid": to_carol}),
    );
    insert(
        "opportunity",
        json!({"name": "won", "customerid": to_kites, "statecode": 1}),
    );
    let case = insert(
        "incident",
        json!({"title": "x", "customerid": to_kites, "primarycontactid": to_carol}),
    );
    insert(
        "incident",
        json!({"title": "done", "customerid": to_kites, "statecode": 1}),
    );
    for (set, key, lookup, customer, expected) in [
        ("opportunities", "opportunityid", "customerid", kites, open),
        (
            "opportunities",
            "opportunityid",
            "parentcontactid",
            carol,
            open,
        ),
        ("incidents", "incidentid", "customerid", kites, case),
        ("incidents", "incidentid", "primarycontactid", carol, case),
    ] {
        let path = format!(
            "{set}?$select={key}&$filter=statecode eq 0 and (_{lookup}_value eq {customer})"
        );
        let found = client.get(&path).await.json();
        assert_eq!(each(&found, key), [expected.to_string()], "{path}");
    }
    let unknown = client
        .get(&format!(
            "incidents?$select=incidentid&$filter=_parentcontactid_value eq {carol}"
        ))
        .await;
    assert_eq!(unknown.error(), error(400, "0x80060888"));
}

#[tokio::test]
async fn a_tracking_token_is_matched_as_a_whole_and_case_insensitively() {
    let client = ValidClient::new().await;
    let id = client
        .post(
            "emails",
            json!({"subject": "x", "trackingtoken": "CRM:0001234"}),
        )
        .await
        .id();
    for (token, expected) in [
        ("CRM:0001234", vec![id.to_string()]),
        ("crm:0001234", vec![id.to_string()]),
        ("CRM:000123", vec![]),
    ] {
        let path = format!("emails?$select=activityid&$filter=trackingtoken eq '{token}'");
        assert_eq!(
            each(&client.get(&path).await.json(), "activityid"),
            expected
        );
    }
    let long = json!({"subject": "x", "trackingtoken": "x".repeat(51)});
    assert_eq!(
        client.post("emails", long).await.error(),
        error(400, "0x80044331")
    );
}

#[tokio::test]
async fn parentactivityid_can_be_bound_on_create_only() {
    let client = ValidClient::new().await;
    let (first, other) = (client.email().await, client.email().await);
    let bind =
        |id| json!({"parentactivityid@odata.bind": format!("/emails({id})"), "subject": "Re: x"});
    let answer = client.post("emails", bind(first)).await.id();
    let to_first = json!({"table": "email", "id": first});
    assert_eq!(client.stored(answer, "parentactivityid"), to_first);
    let changed = client
        .patch(&format!("emails({answer})"), bind(other))
        .await;
    assert_eq!(changed.status, 204);
    assert_eq!(client.stored(answer, "parentactivityid"), to_first);
    assert_eq!(
        client.emulators.dataverse().dropped().len(),
        1,
        "the change is dropped without an error"
    );
    let missing = client.post("emails", bind(uuid::Uuid::from_u128(5))).await;
    assert_eq!(missing.error(), error(404, "0x80040217"));
}

#[tokio::test]
async fn an_email_is_bound_to_a_custom_table_by_the_navigation_name_of_its_relationship() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let customers = ["account", "contact"];
    let lookup = ("new_customerid", &customers[..]);
    dataverse.add_table("new_project", lookup, true).unwrap();
    dataverse.add_table("new_note", lookup, false).unwrap();
    assert!(dataverse.add_table("new_note", lookup, false).is_err());
    let row = dataverse
        .insert("new_project", json!({"new_name": "Big"}))
        .unwrap();
    let definition = "EntityDefinitions(LogicalName='new_project')";
    let table = client
        .get(&format!(
            "{definition}?$select=EntitySetName,PrimaryIdAttribute"
        ))
        .await
        .json();
    assert_eq!(
        (&table["EntitySetName"], &table["PrimaryIdAttribute"]),
        (&json!("new_projects"), &json!("new_projectid"))
    );
    let names = |table: &str| {
        format!(
            "EntityDefinitions(LogicalName='{table}')/OneToManyRelationships\
             ?$select=ReferencingAttribute,ReferencingEntityNavigationPropertyName&$filter=ReferencingEntity eq 'email'"
        )
    };
    let found = client.get(&names("new_project")).await.json();
    let column = "ReferencingEntityNavigationPropertyName";
    assert_eq!(
        each(&found, column),
        ["regardingobjectid_new_project_email"]
    );
    assert_eq!(each(&found, "ReferencingAttribute"), ["regardingobjectid"]);
    let none = client.get(&names("new_note")).await.json();
    assert!(
        each(&none, column).is_empty(),
        "a table without activities has no relationship with emails"
    );
    let bind = |name: &str, set: &str, id| {
        let mut body = json!({"subject": "x"});
        body[format!("{name}@odata.bind")] = json!(format!("/{set}({id})"));
        body
    };
    let email = client
        .post(
            "emails",
            bind("regardingobjectid_new_project_email", "new_projects", row),
        )
        .await
        .id();
    assert_eq!(
        client.stored(email, "regardingobjectid"),
        json!({"table": "new_project", "id": row})
    );
    let guessed = bind("regardingobjectid_new_note_email", "new_notes", row);
    assert_eq!(
        client.post("emails", guessed).await.error(),
        error(400, "0x80048d19")
    );
}

#[tokio::test]
async fn rows_of_a_custom_table_are_found_by_their_customer() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let lookup = ("new_customerid", &["account", "contact"][..]);
    dataverse.add_table("new_project", lookup, true).unwrap();
    let carol = client.contact("carol@kites.example");
    let to_carol = json!({"table": "contact", "id": carol});
    let row = |name: &str, state: i64| json!({"new_name": name, "new_customerid": to_carol, "statecode": state});
    let active = dataverse.insert("new_project", row("a", 0)).unwrap();
    dataverse.insert("new_project", row("b", 1)).unwrap();
    let path = format!(
        "new_projects?$select=new_projectid,_new_customerid_value&$filter=statecode eq 0 and (_new_customerid_value eq {carol})"
    );
    let found = client.get(&path).await.json();
    assert_eq!(each(&found, "new_projectid"), [active.to_string()]);
}

#[tokio::test]
async fn the_parties_of_an_email_can_be_expanded_with_their_tables() {
    let client = ValidClient::new().await;
    let carol = client.contact("carol@kites.example");
    let parties = json!([
        {"participationtypemask": 1, "addressused": "carol@kites.example", "partyid_contact@odata.bind": format!("/contacts({carol})")},
        {"participationtypemask": 2, "addressused": "ada@ours.example"},
    ]);
    let body = json!({"subject": "x", "messageid": "<1@x>", "email_activity_parties": parties});
    client.post("emails", body).await.id();
    let path = "emails?$select=activityid&$filter=messageid eq '<1@x>'\
                &$expand=email_activity_parties($select=participationtypemask,addressused,_partyid_value)";
    let request = client.request(Method::GET, path).header(
        "Prefer",
        "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname\"",
    );
    let found = client.send(request).await.json();
    let people = found["value"][0]["email_activity_parties"]
        .as_array()
        .unwrap();
    let carol_there = people
        .iter()
        .find(|party| party["participationtypemask"] == 1)
        .unwrap();
    assert_eq!(carol_there["addressused"], "carol@kites.example");
    assert_eq!(
        carol_there["_partyid_value@Microsoft.Dynamics.CRM.lookuplogicalname"],
        "contact"
    );
    assert!(
        people
            .iter()
            .any(|party| party["addressused"] == "ada@ours.example")
    );
}

#[tokio::test]
async fn createdby_and_modifiedby_are_distinguished() {
    let client = ValidClient::new().await;
    let id = client.completed_email().await;
    let by = |row: &serde_json::Value| (row["createdby"].clone(), row["modifiedby"].clone());
    let row = client.emulators.dataverse().row("email", id).unwrap();
    assert_eq!(by(&row).0, by(&row).1);
    let application_id = "11111111-2222-4333-8444-555555555555";
    let user = json!({"lastname": "Other", "applicationid": application_id});
    let user = client
        .emulators
        .dataverse()
        .insert("systemuser", user)
        .unwrap();
    let kites = client
        .emulators
        .dataverse()
        .insert("account", json!({"name": "Kites"}))
        .unwrap();
    let url = client.emulators.dataverse().url();
    let token = client
        .emulators
        .entra()
        .issue_token_for(application_id, &url, 600);
    let body = json!({"regardingobjectid_account_email@odata.bind": format!("/accounts({kites})")});
    let other = ValidClient { token, ..client };
    let changed = other.patch(&format!("emails({id})"), body).await;
    assert_eq!(changed.status, 204, "{}", changed.body);
    let row = other.emulators.dataverse().row("email", id).unwrap();
    assert_eq!(by(&row).1, json!({"table": "systemuser", "id": user}));
    assert_ne!(by(&row).0, by(&row).1);
}

#[tokio::test]
async fn a_row_of_server_side_sync_is_completed_and_has_no_regarding() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let changes = json!({"sender": null, "subject": "Mine"});
    let id = dataverse
        .track_by_server_side_sync("<1@x>", "carol@kites.example", &changes)
        .unwrap();
    for (column, expected) in [
        ("statecode", json!(1)),
        ("statuscode", json!(4)),
        ("messageid", json!("<1@x>")),
        ("subject", json!("Mine")),
        ("sender", json!(null)),
        ("regardingobjectid", json!(null)),
    ] {
        assert_eq!(client.stored(id, column), expected, "{column}");
    }
    let wrong = json!({"nosuch": 1});
    assert!(
        dataverse
            .track_by_server_side_sync("<2@x>", "carol@kites.example", &wrong)
            .is_err()
    );
}

#[tokio::test]
async fn a_completed_email_can_be_deleted_by_version_but_not_cancelled() {
    let client = ValidClient::new().await;
    let id = client.completed_email().await;
    let path = format!("emails({id})");
    let etag = client.get(&path).await.header("etag").to_owned();
    let canceled = client
        .patch(&path, json!({"statecode": 2, "statuscode": 5}))
        .await;
    assert_eq!(canceled.error(), error(400, "0x80043500"));
    let stale = client
        .request(Method::DELETE, &path)
        .header("If-Match", "W/\"0\"");
    assert_eq!(client.send(stale).await.error(), error(412, "0x80060882"));
    let seen = client
        .request(Method::DELETE, &path)
        .header("If-Match", etag);
    assert_eq!(client.send(seen).await.status, 204);
    assert_eq!(client.get(&path).await.error(), error(404, "0x80040217"));
}
