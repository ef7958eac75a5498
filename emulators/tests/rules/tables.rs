//! Compares what the Dataverse facts say about single columns with the emulator's metadata and
//! behaviour.
//!
//! The numbers are repeated here, so that a mistake in the emulator's tables is noticed.

use emulators::Setting;
use serde_json::{Value, json};

use super::valid_client::{ValidClient, error};

/// Table, column, type, maximum length in characters (0: not checked), valid for create, valid for
/// update.
type Row = (&'static str, &'static str, &'static str, u64, bool, bool);

#[rustfmt::skip]
const EMAIL: &[Row] = &[
    ("email", "activityid", "Uniqueidentifier", 0, true, false),
    ("email", "subject", "String", 800, true, true),
    ("email", "description", "Memo", 1_073_741_823, true, true),
    ("email", "safedescription", "Memo", 0, false, false),
    ("email", "issafedescriptiontruncated", "Integer", 0, false, false),
    ("email", "directioncode", "Boolean", 0, true, true),
    ("email", "sender", "String", 250, true, true),
    ("email", "torecipients", "String", 500, true, true),
    ("email", "submittedby", "String", 250, true, true),
    ("email", "actualstart", "DateTime", 0, true, true),
    ("email", "actualend", "DateTime", 0, true, true),
    ("email", "scheduledstart", "DateTime", 0, true, true),
    ("email", "scheduledend", "DateTime", 0, true, true),
    ("email", "scheduleddurationminutes", "Integer", 0, false, false),
    ("email", "actualdurationminutes", "Integer", 0, true, true),
    ("email", "senton", "DateTime", 0, false, false),
    ("email", "messageid", "String", 320, true, true),
    ("email", "messageiddupcheck", "Uniqueidentifier", 0, true, true),
    ("email", "inreplyto", "String", 320, false, false),
    ("email", "conversationindex", "String", 2_048, false, false),
    ("email", "baseconversationindexhash", "Integer", 0, true, true),
    ("email", "conversationtrackingid", "Uniqueidentifier", 0, true, false),
    ("email", "emailtrackingid", "Uniqueidentifier", 0, true, false),
    ("email", "trackingtoken", "String", 50, true, true),
    ("email", "internetmessageheaders", "String", 500, true, true),
    ("email", "mimetype", "String", 256, true, true),
    ("email", "statecode", "State", 0, false, true),
    ("email", "statuscode", "Status", 0, true, true),
    ("email", "prioritycode", "Picklist", 0, true, true),
    ("email", "deliveryprioritycode", "Picklist", 0, true, false),
    ("email", "readreceiptrequested", "Boolean", 0, true, true),
    ("email", "deliveryreceiptrequested", "Boolean", 0, true, true),
    ("email", "notifications", "Picklist", 0, true, true),
    ("email", "category", "String", 250, true, true),
    ("email", "subcategory", "String", 250, true, true),
    ("email", "overriddencreatedon", "DateTime", 0, true, false),
    ("email", "importsequencenumber", "Integer", 0, true, false),
    ("email", "createdon", "DateTime", 0, false, false),
    ("email", "modifiedon", "DateTime", 0, false, false),
    ("email", "ownerid", "Owner", 0, true, true),
    ("email", "regardingobjectid", "Lookup", 0, true, true),
    ("email", "parentactivityid", "Lookup", 0, true, false),
    ("email", "correlatedactivityid", "Lookup", 0, true, true),
    ("email", "correlationmethod", "Picklist", 0, false, false),
    ("email", "sendermailboxid", "Lookup", 0, false, false),
    ("email", "emailsender", "Lookup", 0, false, false),
    ("email", "sendersaccount", "Lookup", 0, false, false),
    ("email", "attachmentcount", "Integer", 0, false, false),
    ("email", "attachmentopencount", "Integer", 0, false, true),
    ("email", "linksclickedcount", "Integer", 0, false, true),
    ("email", "opencount", "Integer", 0, false, true),
    ("email", "sortdate", "DateTime", 0, true, true),
    ("email", "activitytypecode", "EntityName", 0, false, false),
];

#[rustfmt::skip]
const OTHERS: &[Row] = &[
    ("activitymimeattachment", "activitymimeattachmentid", "Uniqueidentifier", 0, true, false),
    ("activitymimeattachment", "subject", "String", 2_000, true, true),
    ("activitymimeattachment", "filename", "String", 255, true, true),
    ("activitymimeattachment", "mimetype", "String", 256, true, true),
    ("activitymimeattachment", "body", "String", 1_073_741_823, true, true),
    ("activitymimeattachment", "filesize", "Integer", 0, false, false),
    ("activitymimeattachment", "attachmentcontentid", "String", 250, true, true),
    ("activityparty", "addressused", "String", 320, true, true),
    ("activityparty", "unresolvedpartyname", "String", 200, true, true),
    ("activityparty", "exchangeentryid", "String", 1_024, true, true),
    ("activityparty", "ispartydeleted", "Boolean", 0, false, false),
    ("activityparty", "addressusedemailcolumnnumber", "Integer", 0, false, false),
    ("contact", "firstname", "String", 50, true, true),
    ("contact", "lastname", "String", 50, true, true),
    ("contact", "middlename", "String", 50, true, true),
    ("contact", "fullname", "String", 160, false, false),
    ("contact", "emailaddress1", "String", 100, true, true),
    ("contact", "emailaddress2", "String", 100, true, true),
    ("contact", "emailaddress3", "String", 100, true, true),
    ("contact", "telephone1", "String", 50, true, true),
    ("contact", "mobilephone", "String", 50, true, true),
    ("contact", "fax", "String", 50, true, true),
    ("contact", "jobtitle", "String", 100, true, true),
    ("contact", "websiteurl", "String", 200, true, true),
    ("contact", "description", "Memo", 2_000, true, true),
    ("account", "name", "String", 160, true, true),
    ("account", "emailaddress1", "String", 100, true, true),
    ("account", "websiteurl", "String", 200, true, true),
    ("account", "telephone1", "String", 50, true, true),
    ("lead", "subject", "String", 300, true, true),
    ("lead", "firstname", "String", 50, true, true),
    ("lead", "lastname", "String", 50, true, true),
    ("lead", "companyname", "String", 100, true, true),
    ("lead", "mobilephone", "String", 20, true, true),
    ("lead", "emailaddress1", "String", 100, true, true),
    ("lead", "statecode", "State", 0, false, true),
    ("appointment", "subject", "String", 200, true, true),
    ("appointment", "location", "String", 200, true, true),
    ("appointment", "description", "Memo", 2_000, true, true),
    ("appointment", "globalobjectid", "String", 300, true, true),
    ("appointment", "category", "String", 250, true, true),
    ("appointment", "isalldayevent", "Boolean", 0, true, true),
    ("appointment", "statecode", "State", 0, false, true),
    ("appointment", "isonlinemeeting", "Boolean", 0, true, true),
    ("appointment", "isdraft", "Boolean", 0, true, true),
    ("appointment", "onlinemeetingchatid", "String", 200, true, true),
    ("appointment", "onlinemeetingid", "String", 300, true, true),
    ("appointment", "onlinemeetingjoinurl", "String", 600, true, true),
    ("appointment", "onlinemeetingtype", "Picklist", 0, true, true),
];

#[tokio::test]
async fn column_types_lengths_and_write_flags_are_as_documented() {
    let client = ValidClient::new().await;
    let mut wrong = Vec::new();
    for row in EMAIL.iter().chain(OTHERS) {
        let (table, column, kind, length, create, update) = *row;
        let path =
            format!("EntityDefinitions(LogicalName='{table}')/Attributes(LogicalName='{column}')");
        let answer = client.get(&path).await;
        assert_eq!(answer.status, 200, "{table}.{column}");
        let form = answer.json();
        let same = form["AttributeType"] == kind
            && (length == 0 || form["MaxLength"] == length)
            && form["IsValidForCreate"] == create
            && form["IsValidForUpdate"] == update;
        if !same {
            wrong.push(format!(
                "{table}.{column}: {} {} {} {}",
                form["AttributeType"],
                form["MaxLength"],
                form["IsValidForCreate"],
                form["IsValidForUpdate"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns a value of this type that is not a default, or `None` for a type that is not tested.
fn value(kind: &str) -> Option<Value> {
    match kind {
        "String" | "Memo" => Some(json!("kite")),
        "Integer" => Some(json!(7)),
        "Boolean" => Some(json!(true)),
        "DateTime" => Some(json!("2001-02-03T04:05:06Z")),
        "Picklist" => Some(json!(2)),
        "Uniqueidentifier" => Some(json!("5e0e1b52-7c6e-4d0a-9a3e-0d6f1c2b3a41")),
        _ => None,
    }
}

#[tokio::test]
async fn each_email_column_is_stored_or_dropped_according_to_its_write_flags() {
    let client = ValidClient::new().await;
    // Each value is written to two rows, also that of `messageid`.
    let dataverse = client.emulators.dataverse();
    dataverse.set_setting(Setting::UniqueMessageIds(false));
    for (_, column, kind, _, create, update) in EMAIL {
        // These two columns have side effects; other tests cover them.
        let special = ["activityid", "overriddencreatedon"].contains(column);
        let Some(value) = value(kind).filter(|_| !special) else {
            continue;
        };
        let id = client.post("emails", json!({*column: value})).await.id();
        assert_eq!(
            client.stored(id, column) == value,
            *create,
            "{column} on create"
        );
        let id = client.email().await;
        let path = format!("emails({id})");
        assert_eq!(
            client.patch(&path, json!({*column: value})).await.status,
            204
        );
        assert_eq!(
            client.stored(id, column) == value,
            *update,
            "{column} on update"
        );
        let dropped = client.emulators.dataverse().dropped();
        let noted = |operation: &str| {
            dropped
                .iter()
                .any(|value| value.column == *column && value.operation == operation)
        };
        assert_eq!(
            (noted("create"), noted("update")),
            (!create, !update),
            "{column}"
        );
    }
}

#[tokio::test]
async fn a_text_of_the_documented_length_is_accepted_and_a_longer_one_is_rejected() {
    let client = ValidClient::new().await;
    for (table, column, _, length, create, _) in EMAIL.iter().chain(OTHERS) {
        let set = match *table {
            "email" => "emails",
            "contact" => "contacts",
            "account" => "accounts",
            "lead" => "leads",
            "appointment" => "appointments",
            _ => continue,
        };
        let length = usize::try_from(*length).unwrap();
        if !create || !(1..=5_000).contains(&length) {
            continue;
        }
        let text = |length: usize| json!({*column: "x".repeat(length)});
        assert_eq!(
            client.post(set, text(length)).await.status,
            204,
            "{table}.{column}"
        );
        let answer = client.post(set, text(length + 1)).await;
        assert_eq!(answer.error(), error(400, "0x80044331"), "{table}.{column}");
        let message = answer.json()["error"]["message"].to_string();
        for word in [*table, *column, length.to_string().as_str()] {
            assert!(message.contains(word), "{message}");
        }
    }
}

#[tokio::test]
async fn an_unknown_column_name_is_rejected_everywhere() {
    let client = ValidClient::new().await;
    let tables = client
        .get("EntityDefinitions?$select=EntitySetName,LogicalName")
        .await
        .json();
    for table in tables["value"].as_array().unwrap() {
        let set = table["EntitySetName"].as_str().unwrap();
        for query in [
            "$select=nosuch",
            "$filter=nosuch eq 1",
            "$orderby=nosuch",
            "$expand=nosuch",
        ] {
            let answer = client.get(&format!("{set}?{query}")).await;
            assert_eq!(answer.error(), error(400, "0x80060888"), "{set}?{query}");
        }
        if set == "activityparties" {
            continue;
        }
        let name = table["LogicalName"].as_str().unwrap();
        let row = client
            .emulators
            .dataverse()
            .insert(name, json!({}))
            .unwrap();
        for body in [
            json!({"nosuch": 1}),
            json!({"nosuch": null}),
            json!({"nosuch@odata.bind": null}),
            json!({"nosuch@odata.bind": "/contacts(5e0e1b52-7c6e-4d0a-9a3e-0d6f1c2b3a41)"}),
        ] {
            let refused = error(400, "0x80048d19");
            assert_eq!(
                client.post(set, body.clone()).await.error(),
                refused,
                "{set} {body}"
            );
            let path = format!("{set}({row})");
            assert_eq!(
                client.patch(&path, body.clone()).await.error(),
                refused,
                "{set} {body}"
            );
        }
    }
    let party = json!({"email_activity_parties": [
        {"participationtypemask": 1, "addressused": "a@example.com", "nosuch": 1},
    ]});
    assert_eq!(
        client.post("emails", party).await.error(),
        error(400, "0x80048d19")
    );
}

#[tokio::test]
async fn the_api_does_not_require_columns_that_forms_require() {
    let client = ValidClient::new().await;
    for set in ["accounts", "contacts", "leads", "appointments"] {
        assert_eq!(client.post(set, json!({})).await.status, 204, "{set}");
    }
    let odd = json!({"emailaddress1": "no address at all"});
    assert_eq!(client.post("contacts", odd).await.status, 204);
}
