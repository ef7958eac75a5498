//! What a client can learn about tables, columns and keys.

use serde_json::json;

use super::world::{World, error};

#[tokio::test]
async fn limits_of_texts_can_be_read_before_they_hurt() {
    let world = World::new().await;
    world
        .twin
        .dataverse()
        .set_max_length("lead", "subject", 50)
        .unwrap();
    let all = world
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
    assert!(subject.get("Targets").is_none(), "not selected");
}

#[tokio::test]
async fn a_column_or_table_that_is_missing_is_404() {
    let world = World::new().await;
    let email = "EntityDefinitions(LogicalName='email')";
    assert_eq!(world.get(email).await.json()["EntitySetName"], "emails");
    assert_eq!(
        world
            .get(&format!("{email}/Attributes(LogicalName='new_key')"))
            .await
            .status,
        404
    );
    world
        .twin
        .dataverse()
        .add_text_column("email", "new_key", 64)
        .unwrap();
    assert_eq!(
        world
            .get(&format!("{email}/Attributes(LogicalName='new_key')"))
            .await
            .json()["MaxLength"],
        64
    );
    assert_eq!(
        world
            .get("EntityDefinitions(LogicalName='nosuch')")
            .await
            .status,
        404
    );
    assert_eq!(
        world.get(&format!("{email}/Nosuch")).await.error(),
        error(404, "0x8006088A")
    );
}

#[tokio::test]
async fn keys_and_names_of_lookups_can_be_found_out() {
    let world = World::new().await;
    let keys = "EntityDefinitions(LogicalName='email')/Keys";
    assert_eq!(world.get(keys).await.json()["value"], json!([]));
    world
        .twin
        .dataverse()
        .add_alternate_key("email", &["messageid"])
        .unwrap();
    let key = world.get(keys).await.json()["value"][0].clone();
    assert_eq!(
        (
            key["KeyAttributes"].clone(),
            key["EntityKeyIndexStatus"].clone()
        ),
        (json!(["messageid"]), json!("Active"))
    );
    let relationships = "EntityDefinitions(LogicalName='opportunity')/OneToManyRelationships";
    let found = world
        .get(&format!(
            "{relationships}?$filter=ReferencingEntity%20eq%20%27email%27"
        ))
        .await
        .json();
    let names: Vec<&str> = found["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            found["ReferencingEntityNavigationPropertyName"]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!(
        names,
        [
            "regardingobjectid_opportunity",
            "regardingobjectid_opportunity_email"
        ]
    );
}

#[tokio::test]
async fn definitions_are_not_searched_or_changed_here() {
    let world = World::new().await;
    let search = world
        .get("EntityDefinitions?$filter=startswith(LogicalName,%27e%27)")
        .await;
    assert_eq!(search.error(), error(501, "0x8006088A"));
    assert_eq!(
        world.post("EntityDefinitions", json!({})).await.error(),
        error(501, "twin")
    );
    assert_eq!(world.get("$metadata").await.error(), error(501, "twin"));
}
