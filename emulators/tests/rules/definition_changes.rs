//! How tables, columns and keys are created, changed and deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::batches::{change_set, send};
use super::definitions::each;
use super::valid_client::{Answered, ValidClient, error};

pub(crate) const EMAIL: &str = "EntityDefinitions(LogicalName='email')";

fn label(text: &str) -> Value {
    json!({
        "@odata.type": "Microsoft.Dynamics.CRM.Label",
        "LocalizedLabels": [{
            "@odata.type": "Microsoft.Dynamics.CRM.LocalizedLabel", "Label": text, "LanguageCode": 1033,
        }],
    })
}

/// Returns the definition of a text column in the documented form, with the properties of `with`
/// replaced. A null removes a property.
fn column(with: Value) -> Value {
    let column = json!({
        "@odata.type": "Microsoft.Dynamics.CRM.StringAttributeMetadata", "AttributeType": "String",
        "AttributeTypeName": {"Value": "StringType"}, "SchemaName": "new_SyncKey", "MaxLength": 64,
        "FormatName": {"Value": "Text"}, "DisplayName": label("Sync key"), "Description": label("Which mail this is."),
        "RequiredLevel": {
            "Value": "None", "CanBeChanged": true, "ManagedPropertyLogicalName": "canmodifyrequirementlevelsettings",
        },
    });
    changed(column, with)
}

fn changed(mut body: Value, with: Value) -> Value {
    let fields = body.as_object_mut().unwrap();
    let Value::Object(with) = with else { panic!() };
    fields.extend(with);
    fields.retain(|_, value| !value.is_null());
    body
}

fn table(with: Value) -> Value {
    let title = column(json!({"SchemaName": "new_Name", "IsPrimaryName": true}));
    let table = json!({
        "@odata.type": "Microsoft.Dynamics.CRM.EntityMetadata", "SchemaName": "new_Project",
        "DisplayName": label("Project"), "DisplayCollectionName": label("Projects"), "OwnershipType": "UserOwned",
        "IsActivity": false, "HasNotes": false, "HasActivities": true, "Attributes": [title],
    });
    changed(table, with)
}

async fn put(client: &ValidClient, path: &str, body: Value) -> Answered {
    let request = client.request(Method::PUT, path).json(&body);
    client.send(request).await
}

pub(crate) async fn with_key_column(client: &ValidClient) {
    let made = client
        .post(&format!("{EMAIL}/Attributes"), column(json!({})))
        .await;
    assert_eq!(made.status, 204, "{}", made.body);
}

pub(crate) fn key(with: Value) -> Value {
    let key = json!({
        "SchemaName": "new_SyncKeyKey", "KeyAttributes": ["new_synckey"], "DisplayName": label("Sync key"),
    });
    changed(key, with)
}

#[tokio::test]
async fn a_new_column_can_be_read_written_and_described_at_once() {
    let client = ValidClient::new().await;
    let made = client
        .post(&format!("{EMAIL}/Attributes"), column(json!({})))
        .await;
    assert_eq!((made.status, made.body.as_str()), (204, ""));
    let url = made.header("odata-entityid").to_owned();
    let path = url.split_once("/api/data/v9.2/").unwrap().1;
    let form = client.get(path).await.json();
    assert_eq!(form["LogicalName"], "new_synckey");
    assert_eq!(
        (&form["MaxLength"], &form["IsCustomAttribute"]),
        (&json!(64), &json!(true))
    );
    assert_eq!(
        form["DisplayName"]["UserLocalizedLabel"]["Label"],
        "Sync key"
    );
    let row = client
        .post("emails", json!({"new_synckey": "ab"}))
        .await
        .id();
    assert_eq!(client.stored(row, "new_synckey"), "ab");
    let long = json!({"new_synckey": "x".repeat(65)});
    assert_eq!(
        client.post("emails", long).await.error(),
        error(400, "0x80044331")
    );
    assert!(client.get("$metadata").await.body.contains("new_synckey"));
    assert!(client.emulators.dataverse().dropped().is_empty());
}

#[tokio::test]
async fn each_column_type_accepts_only_its_own_values() {
    let client = ValidClient::new().await;
    for (kind, good, bad) in [
        ("Memo", json!("x".repeat(2_000)), json!("x".repeat(2_001))),
        ("Integer", json!(5), json!("5")),
        ("BigInt", json!(5_000_000_000_u64), json!(1.5)),
        ("Decimal", json!(1.5), json!("1.5")),
        ("Boolean", json!(true), json!("true")),
        (
            "DateTime",
            json!("2026-01-31T09:15:00Z"),
            json!("yesterday"),
        ),
    ] {
        let name = format!("new_{kind}");
        let body = column(json!({
            "@odata.type": format!("Microsoft.Dynamics.CRM.{kind}AttributeMetadata"), "SchemaName": name,
            "AttributeType": kind, "AttributeTypeName": {"Value": format!("{kind}Type")}, "MaxLength": null,
            "FormatName": null,
        }));
        let made = client.post(&format!("{EMAIL}/Attributes"), body).await;
        assert_eq!(made.status, 204, "{kind}: {}", made.body);
        let name = name.to_lowercase();
        assert_eq!(
            client.post("emails", json!({&name: good})).await.status,
            204,
            "{kind}"
        );
        assert_eq!(
            client.post("emails", json!({&name: bad})).await.status,
            400,
            "{kind}"
        );
    }
    let money = column(json!({"@odata.type": "Microsoft.Dynamics.CRM.MoneyAttributeMetadata"}));
    let refused = client.post(&format!("{EMAIL}/Attributes"), money).await;
    assert_eq!(refused.error(), error(501, "twin"));
}

#[tokio::test]
async fn invalid_column_definitions_are_rejected_and_create_nothing() {
    let client = ValidClient::new().await;
    for (with, code) in [
        (json!({"@odata.type": null}), "0x80048d19"),
        (json!({"Nosuch": 1}), "0x80048d19"),
        (json!({"schemaname": "new_x"}), "0x80048d19"),
        (json!({"MaxLength": "64"}), "0x80048d19"),
        (json!({"DisplayName": "Sync key"}), "0x80048d19"),
        (json!({"RequiredLevel": {"Value": "Always"}}), "0x80048d19"),
        (json!({"MaxLength": 4_001}), "0x80040203"),
        (json!({"MaxLength": 0}), "0x80040203"),
        (json!({"AttributeType": "Memo"}), "0x80040203"),
        (json!({"SchemaName": null}), "0x80040200"),
        (json!({"DisplayName": null}), "0x80040200"),
        (json!({"SchemaName": "SyncKey"}), "0x80044366"),
        (json!({"SchemaName": "n_SyncKey"}), "0x80044366"),
        (json!({"SchemaName": "2ew_SyncKey"}), "0x80044366"),
        (json!({"SchemaName": "new_Sync Key"}), "0x80044364"),
    ] {
        let answer = client
            .post(&format!("{EMAIL}/Attributes"), column(with.clone()))
            .await;
        assert_eq!(answer.error(), error(400, code), "{with}");
    }
    let absent = client
        .get(&format!("{EMAIL}/Attributes(LogicalName='new_synckey')"))
        .await;
    assert_eq!(absent.status, 404);
    with_key_column(&client).await;
    let again = column(json!({"SchemaName": "new_synckey"}));
    let again = client.post(&format!("{EMAIL}/Attributes"), again).await;
    assert_eq!(again.error(), error(400, "0x80047013"));
}

#[tokio::test]
async fn a_put_replaces_a_definition_and_merges_labels_on_request() {
    let client = ValidClient::new().await;
    with_key_column(&client).await;
    let path = format!("{EMAIL}/Attributes(LogicalName='new_synckey')");
    let german = json!({"LocalizedLabels": [{"Label": "Schlüssel", "LanguageCode": 1031}]});
    let body = column(json!({"DisplayName": german, "MaxLength": null}));
    let merged = client
        .request(Method::PUT, &path)
        .header("MSCRM.MergeLabels", "true")
        .json(&body);
    assert_eq!(client.send(merged).await.status, 204);
    let form = client.get(&path).await.json();
    assert_eq!(
        form["DisplayName"]["LocalizedLabels"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        form["MaxLength"], 100,
        "a property that is not sent gets its default"
    );

    assert_eq!(put(&client, &path, body).await.status, 204);
    let form = client.get(&path).await.json();
    assert_eq!(
        form["DisplayName"]["LocalizedLabels"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for (with, code) in [
        (json!({"SchemaName": "new_Other"}), "0x80040203"),
        (
            json!({"@odata.type": "Microsoft.Dynamics.CRM.MemoAttributeMetadata", "AttributeType": "Memo",
                "AttributeTypeName": null}),
            "0x80040203",
        ),
    ] {
        let answer = put(&client, &path, column(with.clone())).await;
        assert_eq!(answer.error(), error(400, code), "{with}");
    }
    let patched = client.patch(&path, column(json!({}))).await;
    assert_eq!(patched.error(), error(405, "0x80060888"));
}

#[tokio::test]
async fn a_deleted_column_loses_its_values_but_key_and_system_columns_cannot_be_deleted() {
    let client = ValidClient::new().await;
    with_key_column(&client).await;
    let row = client
        .post("emails", json!({"new_synckey": "ab"}))
        .await
        .id();
    let path = format!("{EMAIL}/Attributes(LogicalName='new_synckey')");
    let made = client.post(&format!("{EMAIL}/Keys"), key(json!({}))).await;
    assert_eq!(client.delete(&path).await.error(), error(400, "0x8004F01F"));
    let key_path = made
        .header("odata-entityid")
        .split_once("/api/data/v9.2/")
        .unwrap()
        .1
        .to_owned();
    assert_eq!(client.delete(&key_path).await.status, 204);
    assert_eq!(client.delete(&path).await.status, 204);
    assert_eq!(client.stored(row, "new_synckey"), Value::Null);
    let gone = client.get("emails?$select=new_synckey").await;
    assert_eq!(gone.error(), error(400, "0x80060888"));
    let standard = format!("{EMAIL}/Attributes(LogicalName='subject')");
    assert_eq!(
        client.delete(&standard).await.error(),
        error(400, "0x80047009")
    );
}

#[tokio::test]
async fn rows_of_a_new_table_can_be_the_regarding_of_emails() {
    let client = ValidClient::new().await;
    let made = client.post("EntityDefinitions", table(json!({}))).await;
    assert_eq!(made.status, 204, "{}", made.body);
    let path = made
        .header("odata-entityid")
        .split_once("/api/data/v9.2/")
        .unwrap()
        .1;
    let form = client.get(path).await.json();
    assert_eq!(form["EntitySetName"], "new_projects");
    assert_eq!(
        (&form["PrimaryIdAttribute"], &form["PrimaryNameAttribute"]),
        (&json!("new_projectid"), &json!("new_name"))
    );
    let project = client
        .post("new_projects", json!({"new_name": "Bridge"}))
        .await
        .id();
    let row = client.get(&format!("new_projects({project})")).await.json();
    assert_eq!(
        (&row["new_name"], &row["statecode"]),
        (&json!("Bridge"), &json!(0))
    );

    let lookups = format!("{path}/OneToManyRelationships?$filter=ReferencingEntity eq 'email'");
    let lookups = client.get(&lookups).await.json();
    let name = each(&lookups, "ReferencingEntityNavigationPropertyName").remove(0);
    assert_eq!(name, "regardingobjectid_new_project_email");
    let bound = json!({format!("{name}@odata.bind"): format!("/new_projects({project})")});
    let email = client.post("emails", bound).await.id();
    let stored = client.stored(email, "regardingobjectid");
    assert_eq!(stored["table"], "new_project");
    assert!(
        client
            .get("$metadata")
            .await
            .body
            .contains("EntitySet Name=\"new_projects\"")
    );
    assert!(client.emulators.dataverse().dropped().is_empty());
}

#[tokio::test]
async fn invalid_table_definitions_are_rejected() {
    let client = ValidClient::new().await;
    let no_title = json!([column(json!({}))]);
    for (with, code) in [
        (json!({"SchemaName": null}), "0x80040200"),
        (json!({"DisplayName": null}), "0x80040200"),
        (json!({"DisplayCollectionName": null}), "0x80040200"),
        (json!({"OwnershipType": null}), "0x80040200"),
        (json!({"OwnershipType": "TeamOwned"}), "0x8004700D"),
        (json!({"SchemaName": "Project"}), "0x80044366"),
        (json!({"Attributes": []}), "0x80044355"),
        (json!({"Attributes": no_title}), "0x80044355"),
        (json!({"EntitySetName": "emails"}), "0x8004700B"),
        (json!({"Nosuch": true}), "0x80048d19"),
    ] {
        let answer = client.post("EntityDefinitions", table(with.clone())).await;
        assert_eq!(answer.error(), error(400, code), "{with}");
    }
    let activity = client
        .post("EntityDefinitions", table(json!({"IsActivity": true})))
        .await;
    assert_eq!(activity.error(), error(501, "twin"));
    assert_eq!(
        client
            .post("EntityDefinitions", table(json!({})))
            .await
            .status,
        204
    );
    let again = client.post("EntityDefinitions", table(json!({}))).await;
    assert_eq!(again.error(), error(400, "0x8004700B"));
}

#[tokio::test]
async fn a_table_can_be_replaced_and_removed_with_its_rows() {
    let client = ValidClient::new().await;
    client
        .post("EntityDefinitions", table(json!({"HasActivities": false})))
        .await;
    let path = "EntityDefinitions(LogicalName='new_project')";
    let body = table(json!({"DisplayName": label("Venture"), "Attributes": null}));
    assert_eq!(put(&client, path, body).await.status, 204);
    let form = client.get(path).await.json();
    assert_eq!(
        form["DisplayName"]["UserLocalizedLabel"]["Label"],
        "Venture"
    );
    assert_eq!(form["HasActivities"], true);
    let patched = client.patch(path, json!({})).await;
    assert_eq!(patched.error(), error(405, "0x80060888"));
    client.post("new_projects", json!({})).await;
    assert_eq!(client.delete(path).await.status, 204);
    assert_eq!(
        client.get("new_projects").await.error(),
        error(404, "0x8006088A")
    );
    let bound = json!({"regardingobjectid_new_project@odata.bind": null});
    assert_eq!(
        client.post("emails", bound).await.error(),
        error(400, "0x80048d19")
    );
    assert_eq!(client.delete(EMAIL).await.error(), error(400, "0x80047008"));
}

#[tokio::test]
async fn a_component_of_a_solution_needs_the_prefix_of_its_publisher() {
    let client = ValidClient::new().await;
    let publisher = json!({"uniquename": "mv", "friendlyname": "mv", "customizationprefix": "mv"});
    let publisher = client.post("publishers", publisher).await.id();
    let solution = json!({
        "uniquename": "mailverse", "friendlyname": "mailverse", "version": "1.0.0.0",
        "publisherid@odata.bind": format!("/publishers({publisher})"),
    });
    assert_eq!(client.post("solutions", solution).await.status, 204);
    let post = |solution: &str, name: &str| {
        client
            .request(Method::POST, &format!("{EMAIL}/Attributes"))
            .header("MSCRM.SolutionUniqueName", solution)
            .json(&column(json!({"SchemaName": name})))
    };
    let foreign = client.send(post("mailverse", "new_SyncKey")).await;
    assert_eq!(foreign.error(), error(400, "0x80044366"));
    let missing = client.send(post("nosuch", "mv_SyncKey")).await;
    assert_eq!(missing.error(), error(404, "0x80040217"));
    assert_eq!(
        client.send(post("mailverse", "mv_SyncKey")).await.status,
        204
    );
    let seen = client
        .get("solutions?$filter=isvisible eq true&$select=uniquename")
        .await
        .json();
    assert_eq!(each(&seen, "uniquename"), ["Default", "mailverse"]);
}

#[tokio::test]
async fn a_failed_change_set_rolls_back_its_definitions() {
    let client = ValidClient::new().await;
    let attributes = format!("POST /api/data/v9.2/{EMAIL}/Attributes");
    let fails = ("2", "POST /api/data/v9.2/emails", json!({"nosuch": 1}));
    let set = change_set(&[("1", &attributes, column(json!({}))), fails]);
    assert_eq!(send(&client, &[set], "").await.status, 400);
    let path = format!("{EMAIL}/Attributes(LogicalName='new_synckey')");
    assert_eq!(client.get(&path).await.status, 404);
}

#[tokio::test]
async fn customisations_are_published_by_name_or_all_at_once() {
    let client = ValidClient::new().await;
    assert_eq!(client.post("PublishAllXml", json!({})).await.status, 204);
    let some = json!({"ParameterXml": "<importexportxml><entities><entity>email</entity></entities></importexportxml>"});
    assert_eq!(client.post("PublishXml", some).await.status, 204);
    let nothing = client.post("PublishXml", json!({})).await;
    assert_eq!(nothing.error(), error(400, "0x80048d19"));
    assert_eq!(client.get("PublishAllXml").await.status, 405);
    let unknown = client.post("CreateEntities", json!({})).await;
    assert_eq!(unknown.error(), error(501, "twin"));
}
