//! What a client can read about tables, columns and keys (`EntityDefinitions`).

use reqwest::Method;
use serde_json::{Value, json};

use super::valid_client::{ValidClient, error};

const EMAIL: &str = "EntityDefinitions(LogicalName='email')";

/// Returns the text of one property of each row of a list.
pub(crate) fn each(body: &Value, name: &str) -> Vec<String> {
    let rows = body["value"].as_array().unwrap().iter();
    rows.map(|row| row[name].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn maximum_text_lengths_can_be_read_from_the_definitions() {
    let client = ValidClient::new().await;
    client
        .emulators
        .dataverse()
        .set_max_length("lead", "subject", 50)
        .unwrap();
    let all = client
        .get("EntityDefinitions(LogicalName='lead')/Attributes/Microsoft.Dynamics.CRM.StringAttributeMetadata?$select=LogicalName,MaxLength")
        .await
        .json();
    let subject = all["value"]
        .as_array()
        .unwrap()
        .iter()
        .find(|column| column["LogicalName"] == "subject")
        .unwrap();
    assert_eq!(subject["MaxLength"], 50);
    assert!(
        subject.get("SchemaName").is_none(),
        "a property that is not selected is not returned"
    );
    assert!(
        !each(&all, "LogicalName").contains(&"description".to_owned()),
        "multi-line texts have another metadata type (Memo)"
    );
}

#[tokio::test]
async fn a_missing_column_or_table_gets_404() {
    let client = ValidClient::new().await;
    assert_eq!(client.get(EMAIL).await.json()["EntitySetName"], "emails");
    let column = format!("{EMAIL}/Attributes(LogicalName='new_key')");
    assert_eq!(client.get(&column).await.status, 404);
    client
        .emulators
        .dataverse()
        .add_text_column("email", "new_key", 64)
        .unwrap();
    assert_eq!(client.get(&column).await.json()["MaxLength"], 64);
    for path in [
        "EntityDefinitions(LogicalName='nosuch')".to_owned(),
        format!("{EMAIL}/Keys(LogicalName='nosuch')"),
        format!(
            "{EMAIL}/Attributes(LogicalName='subject')/Microsoft.Dynamics.CRM.MemoAttributeMetadata"
        ),
        "EntityDefinitions(00000000-0000-4000-8000-000000000001)".to_owned(),
    ] {
        assert_eq!(client.get(&path).await.status, 404, "{path}");
    }
    for path in [
        format!("{EMAIL}/Nosuch"),
        format!("{EMAIL}/Attributes/Microsoft.Dynamics.CRM.NoSuchMetadata"),
    ] {
        assert_eq!(
            client.get(&path).await.error(),
            error(404, "0x8006088A"),
            "{path}"
        );
    }
    let broken = client.get("EntityDefinitions(email)").await;
    assert_eq!(broken.error(), error(400, "0x80060888"));
}

#[tokio::test]
async fn a_table_definition_is_found_by_name_or_id() {
    let client = ValidClient::new().await;
    let found = client
        .get("EntityDefinitions?$select=MetadataId,LogicalName,PrimaryIdAttribute&$filter=LogicalName eq 'contact'")
        .await
        .json();
    assert_eq!(each(&found, "LogicalName"), ["contact"]);
    assert_eq!(found["value"][0]["PrimaryIdAttribute"], "contactid");
    let id = each(&found, "MetadataId").remove(0);
    for path in [
        format!("EntityDefinitions({id})"),
        format!("EntityDefinitions(MetadataId={id})"),
    ] {
        assert_eq!(client.get(&path).await.json()["LogicalName"], "contact");
    }
    let nothing = client
        .get("EntityDefinitions?$filter=LogicalName eq 'nosuch'")
        .await;
    assert_eq!(nothing.json()["value"], json!([]));
}

#[tokio::test]
async fn expanded_choices_include_their_labels() {
    let client = ValidClient::new().await;
    let path = |column: &str, kind: &str| {
        format!(
            "{EMAIL}/Attributes(LogicalName='{column}')/Microsoft.Dynamics.CRM.{kind}AttributeMetadata\
             ?$select=LogicalName&$expand=OptionSet"
        )
    };
    let priority = client.get(&path("prioritycode", "Picklist")).await.json();
    let options = priority["OptionSet"]["Options"].as_array().unwrap();
    let values: Vec<i64> = options
        .iter()
        .map(|option| option["Value"].as_i64().unwrap())
        .collect();
    assert_eq!(values, [0, 1, 2]);
    assert_eq!(options[2]["Label"]["UserLocalizedLabel"]["Label"], "High");

    let status = client.get(&path("statuscode", "Status")).await.json();
    let options = status["OptionSet"]["Options"].as_array().unwrap();
    let received = options.iter().find(|option| option["Value"] == 4).unwrap();
    assert_eq!(received["State"], 1);

    let state = client.get(&path("statecode", "State")).await.json();
    let completed = &state["OptionSet"]["Options"][1];
    assert_eq!(
        (&completed["Value"], &completed["DefaultStatus"]),
        (&json!(1), &json!(2))
    );

    let direction = client.get(&path("directioncode", "Boolean")).await.json();
    let label = &direction["OptionSet"]["FalseOption"]["Label"]["UserLocalizedLabel"]["Label"];
    assert_eq!(*label, "Incoming");
    let bare = format!("{EMAIL}/Attributes(LogicalName='prioritycode')");
    assert!(client.get(&bare).await.json().get("OptionSet").is_none());
}

#[tokio::test]
async fn navigation_names_of_lookups_can_be_read_from_relationships() {
    let client = ValidClient::new().await;
    let found = client
        .get("EntityDefinitions(LogicalName='opportunity')/OneToManyRelationships?$filter=ReferencingEntity eq 'email'")
        .await
        .json();
    let name = "ReferencingEntityNavigationPropertyName";
    assert_eq!(each(&found, name), ["regardingobjectid_opportunity_email"]);
    let inherited = client
        .get("EntityDefinitions(LogicalName='opportunity')/OneToManyRelationships?$filter=ReferencingEntity eq 'activitypointer'")
        .await
        .json();
    assert_eq!(each(&inherited, name), ["regardingobjectid_opportunity"]);
    let own = client
        .get(&format!(
            "{EMAIL}/ManyToOneRelationships?$filter=ReferencedEntity eq 'contact' and ReferencingAttribute eq 'regardingobjectid'"
        ))
        .await
        .json();
    assert_eq!(each(&own, name), ["regardingobjectid_contact_email"]);
}

#[tokio::test]
async fn keys_can_be_read_and_expanded() {
    let client = ValidClient::new().await;
    let keys = format!("{EMAIL}/Keys");
    assert_eq!(client.get(&keys).await.json()["value"], json!([]));
    client
        .emulators
        .dataverse()
        .add_alternate_key("email", &["messageid"])
        .unwrap();
    let key = client.get(&keys).await.json()["value"][0].clone();
    assert_eq!(key["KeyAttributes"], json!(["messageid"]));
    assert_eq!(key["EntityKeyIndexStatus"], "Active");
    let table = client
        .get(&format!(
            "{EMAIL}?$select=LogicalName&$expand=Keys($select=SchemaName)"
        ))
        .await
        .json();
    assert_eq!(table["Keys"][0]["SchemaName"], "messageid");
    assert!(table["Keys"][0].get("KeyAttributes").is_none());
}

#[tokio::test]
async fn definitions_can_only_be_filtered_by_comparisons() {
    let client = ValidClient::new().await;
    for function in ["contains", "startswith", "endswith"] {
        let search = client
            .get(&format!(
                "EntityDefinitions?$filter={function}(LogicalName,'e')"
            ))
            .await;
        assert_eq!(search.error(), error(501, "0x8006088A"), "{function}");
    }
    let custom = client
        .get(&format!(
            "{EMAIL}/Attributes?$select=LogicalName&$filter=IsCustomAttribute eq true"
        ))
        .await;
    assert_eq!(custom.json()["value"], json!([]));
    let memos = client
        .get(&format!(
            "{EMAIL}/Attributes?$filter=AttributeType eq Microsoft.Dynamics.CRM.AttributeTypeCode'Memo' and not \
             (LogicalName eq 'description')"
        ))
        .await
        .json();
    let memos = each(&memos, "LogicalName");
    assert!(memos.contains(&"safedescription".to_owned()));
    assert!(!memos.contains(&"description".to_owned()));
}

#[tokio::test]
async fn unknown_property_names_are_rejected_in_queries_of_definitions() {
    let client = ValidClient::new().await;
    for (query, expected) in [
        ("Attributes?$select=MaxLength", error(400, "0x80060888")),
        ("Attributes?$select=logicalname", error(400, "0x80060888")),
        ("Attributes?$filter=Nosuch eq 'x'", error(400, "0x80060888")),
        ("Attributes?$expand=Nosuch", error(400, "0x80060888")),
        ("Attributes?$orderby=LogicalName", error(400, "0x80060888")),
        ("Attributes?$select=IsAuditEnabled", error(501, "twin")),
    ] {
        let answer = client.get(&format!("{EMAIL}/{query}")).await;
        assert_eq!(answer.error(), expected, "{query}");
    }
}

#[tokio::test]
async fn settings_and_solutions_of_the_organisation_can_be_read() {
    let client = ValidClient::new().await;
    let settings = client
        .get("organizations?$select=maxuploadfilesize,blockedattachments")
        .await
        .json();
    assert_eq!(settings["value"][0]["maxuploadfilesize"], 5_242_880);
    let blocked = settings["value"][0]["blockedattachments"].as_str().unwrap();
    assert!(blocked.split(';').any(|ending| ending == "exe"));
    let solutions = client
        .get("solutions?$filter=isvisible eq true&$select=uniquename,version,ismanaged")
        .await
        .json();
    assert_eq!(each(&solutions, "uniquename"), ["Default"]);
    assert_eq!(solutions["value"][0]["ismanaged"], false);
}

#[tokio::test]
async fn an_unsupported_method_on_definitions_gets_405() {
    let client = ValidClient::new().await;
    let column = format!("{EMAIL}/Attributes(LogicalName='subject')");
    for (method, path) in [
        (Method::PATCH, EMAIL.to_owned()),
        (Method::PATCH, column.clone()),
        (Method::POST, column),
        (Method::PATCH, format!("{EMAIL}/Keys")),
        (Method::PUT, "EntityDefinitions".to_owned()),
        (Method::POST, format!("{EMAIL}/OneToManyRelationships")),
    ] {
        let request = client.request(method.clone(), &path).json(&json!({}));
        let answer = client.send(request).await;
        assert_eq!(answer.error(), error(405, "0x80060888"), "{method} {path}");
    }
}
