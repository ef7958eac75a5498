//! Creates the ledger's table where no template does: for `replay` and the tests, on an embedded
//! DynamoDB.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TimeToLiveSpecification,
};

use super::messages::LedgerError;
use super::{attention_index, decisions};
use crate::clients::aws;

/// Creates the table `name` with the keys, the indexes and the TTL attribute of the template. An
/// existing table is left unchanged.
///
/// # Errors
/// [`LedgerError::Unavailable`]: the table may or may not exist; call it again.
pub async fn create(client: &Client, name: &str) -> Result<(), LedgerError> {
    let index = |name, keys, projection| {
        GlobalSecondaryIndex::builder()
            .index_name(name)
            .set_key_schema(Some(keys))
            .projection(Projection::builder().projection_type(projection).build())
            .build()
            .map_err(not_built)
    };
    let attention_keys = keys(&["attention", "since_ms"]).map_err(not_built)?;
    let activity_keys = keys(&["activity_id"]).map_err(not_built)?;
    let indexes = vec![
        index(attention_index::INDEX, attention_keys, ProjectionType::All)?,
        index(decisions::INDEX, activity_keys, ProjectionType::KeysOnly)?,
    ];
    let call = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(attributes().map_err(not_built)?))
        .set_key_schema(Some(keys(&["pk", "sk"]).map_err(not_built)?))
        .set_global_secondary_indexes(Some(indexes));
    match call.send().await {
        Ok(_) => {}
        Err(error)
            if error
                .as_service_error()
                .is_some_and(CreateTableError::is_resource_in_use_exception) =>
        {
            return Ok(());
        }
        Err(error) => {
            return Err(LedgerError::Unavailable(aws::describe(&error)));
        }
    }
    let ttl = TimeToLiveSpecification::builder()
        .attribute_name("expires_at")
        .enabled(true)
        .build();
    let call = client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(ttl.map_err(not_built)?);
    call.send()
        .await
        .map(drop)
        .map_err(|e| LedgerError::Unavailable(aws::describe(&e)))
}

fn attributes() -> Result<Vec<AttributeDefinition>, BuildError> {
    let text = ["pk", "sk", "attention", "activity_id"].map(|name| (name, ScalarAttributeType::S));
    text.into_iter()
        .chain([("since_ms", ScalarAttributeType::N)])
        .map(|(name, kind)| {
            let definition = AttributeDefinition::builder().attribute_name(name);
            definition.attribute_type(kind).build()
        })
        .collect()
}

fn keys(names: &[&str]) -> Result<Vec<KeySchemaElement>, BuildError> {
    let kinds = names.iter().zip([KeyType::Hash, KeyType::Range]);
    kinds
        .map(|(name, kind)| {
            let element = KeySchemaElement::builder().attribute_name(*name);
            element.key_type(kind).build()
        })
        .collect()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "`map_err` passes the error by value"
)]
fn not_built(error: BuildError) -> LedgerError {
    LedgerError::Unavailable(error.to_string())
}
