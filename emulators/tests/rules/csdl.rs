//! Compares the service document (`$metadata`, CSDL) with what the emulator answers.

use std::collections::BTreeSet;

use reqwest::Method;
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use super::valid_client::{ValidClient, error};

async fn document(client: &ValidClient) -> String {
    let answer = client.get("$metadata").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/xml");
    answer.body
}

fn entity_type<'d>(document: &'d Document<'d>, name: &str) -> Option<Node<'d, 'd>> {
    let name = name.trim_start_matches("mscrm.");
    document
        .descendants()
        .find(|node| node.has_tag_name("EntityType") && node.attribute("Name") == Some(name))
}

/// Returns the names of a type's child elements of one kind, including those of its base types.
fn names(document: &Document<'_>, kind: &str, element: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut next = entity_type(document, kind);
    while let Some(node) = next {
        let children = node.children().filter(|child| child.has_tag_name(element));
        names.extend(children.map(|child| child.attribute("Name").unwrap().to_owned()));
        next = node
            .attribute("BaseType")
            .and_then(|base| entity_type(document, base));
    }
    names
}

/// Returns the entity sets that contain rows, with their types.
fn sets(document: &Document<'_>) -> Vec<(String, String)> {
    document
        .descendants()
        .filter(|node| node.has_tag_name("EntitySet"))
        .map(|node| {
            let kind = node.attribute("EntityType").unwrap();
            let kind = kind.trim_start_matches("mscrm.").to_owned();
            (node.attribute("Name").unwrap().to_owned(), kind)
        })
        .filter(|(name, _)| !["activitypointers", "EntityDefinitions"].contains(&name.as_str()))
        .collect()
}

#[tokio::test]
async fn the_metadata_document_is_an_odata_model_with_namespace_and_alias() {
    let client = ValidClient::new().await;
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "Edmx");
    assert_eq!(root.attribute("Version"), Some("4.0"));
    let schema = document
        .descendants()
        .find(|node| node.has_tag_name("Schema"))
        .unwrap();
    assert_eq!(
        schema.tag_name().namespace(),
        Some("http://docs.oasis-open.org/odata/ns/edm")
    );
    assert_eq!(
        schema.attribute("Namespace"),
        Some("Microsoft.Dynamics.CRM")
    );
    assert_eq!(schema.attribute("Alias"), Some("mscrm"));
    let function = document
        .descendants()
        .find(|node| node.has_tag_name("FunctionImport"))
        .unwrap();
    assert_eq!(function.attribute("Function"), Some("mscrm.WhoAmI"));
}

#[tokio::test]
async fn every_entity_set_is_declared_and_can_be_read() {
    let client = ValidClient::new().await;
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    let declared: BTreeSet<String> = sets(&document).into_iter().map(|(set, _)| set).collect();
    let tables = client.get("EntityDefinitions?$select=EntitySetName").await;
    let known: BTreeSet<String> = tables.json()["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| table["EntitySetName"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(declared, known);
    for set in declared {
        assert_eq!(client.get(&set).await.status, 200, "{set}");
    }
}

#[tokio::test]
async fn every_declared_property_can_be_selected_and_every_returned_one_is_declared() {
    let client = ValidClient::new().await;
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    for (set, kind) in sets(&document) {
        client
            .emulators
            .dataverse()
            .insert(&kind, json!({}))
            .unwrap();
        let declared = names(&document, &kind, "Property");
        let select: Vec<&str> = declared.iter().map(String::as_str).collect();
        let selected = client
            .get(&format!("{set}?$top=1&$select={}", select.join(",")))
            .await;
        assert_eq!(selected.status, 200, "{set}: {}", selected.body);
        let row = client.get(&format!("{set}?$top=1")).await.json()["value"][0].clone();
        let mut shown: BTreeSet<String> = row
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| !name.starts_with('@'))
            .cloned()
            .collect();
        // This is the only column that is declared and not valid for read.
        if kind == "email" {
            shown.insert("messageiddupcheck".to_owned());
        }
        assert_eq!(shown, declared, "{set}");
    }
}

#[tokio::test]
async fn only_declared_navigations_can_be_expanded() {
    let client = ValidClient::new().await;
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    for (set, kind) in sets(&document) {
        let navigations: Vec<String> = names(&document, &kind, "NavigationProperty")
            .into_iter()
            .collect();
        if !navigations.is_empty() {
            let path = format!("{set}?$top=1&$expand={}", navigations.join(","));
            assert_eq!(client.get(&path).await.status, 200, "{set}");
        }
        let answer = client.get(&format!("{set}?$expand=nosuch")).await;
        assert_eq!(answer.error(), error(400, "0x80060888"), "{set}");
    }
}

#[tokio::test]
async fn the_declared_lookup_navigations_can_be_used_to_bind() {
    let client = ValidClient::new().await;
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    for (set, kind) in [("emails", "email"), ("appointments", "appointment")] {
        let row = client.post(set, json!({})).await.id();
        for name in names(&document, kind, "NavigationProperty") {
            if name.contains("_activity_") {
                continue;
            }
            let body = json!({format!("{name}@odata.bind"): null});
            let answer = client.patch(&format!("{set}({row})"), body).await;
            assert_eq!(answer.status, 204, "{name}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn the_document_declares_text_lengths_and_reflects_their_changes() {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    dataverse.set_max_length("lead", "subject", 50).unwrap();
    dataverse.add_text_column("email", "new_key", 64).unwrap();
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    let length = |kind: &str, name: &str| {
        let kind = entity_type(&document, kind).unwrap();
        let property = kind
            .children()
            .find(|node| node.attribute("Name") == Some(name))
            .unwrap();
        property.attribute("MaxLength").map(str::to_owned)
    };
    assert_eq!(length("lead", "subject").as_deref(), Some("50"));
    assert_eq!(length("email", "new_key").as_deref(), Some("64"));
    assert_eq!(length("email", "subject").as_deref(), Some("800"));
    assert_eq!(length("appointment", "subject").as_deref(), Some("200"));
}

#[tokio::test]
async fn definitions_have_only_properties_that_the_document_declares() {
    let client = ValidClient::new().await;
    let text = document(&client).await;
    let document = Document::parse(&text).unwrap();
    let compare = |form: &Value, kind: &str| {
        let declared = names(&document, kind, "Property");
        for name in form.as_object().unwrap().keys() {
            let known = name.starts_with('@') || declared.contains(name);
            assert!(known, "{kind}.{name}");
        }
    };
    let email = "EntityDefinitions(LogicalName='email')";
    compare(&client.get(email).await.json(), "EntityMetadata");
    let columns = client.get(&format!("{email}/Attributes")).await.json();
    for column in columns["value"].as_array().unwrap() {
        let kind = column["@odata.type"].as_str().unwrap();
        let kind = kind.trim_start_matches("#Microsoft.Dynamics.CRM.");
        compare(column, kind);
    }
    let lookups = format!("{email}/ManyToOneRelationships");
    let lookups = client.get(&lookups).await.json();
    compare(&lookups["value"][0], "OneToManyRelationshipMetadata");
}

#[tokio::test]
async fn the_metadata_document_is_read_only() {
    let client = ValidClient::new().await;
    let post = client.request(Method::POST, "$metadata").json(&json!({}));
    assert_eq!(client.send(post).await.error(), error(405, "0x80060888"));
}
