//! The ledger's table where no template makes it: for `replay` and the tests, on an embedded DynamoDB.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveSpecification,
};

use aws_sdk_dynamodb::operation::create_table::CreateTableError;

use super::ledger::LedgerError;
use crate::aws;

/// Creates the table `name` with the keys and the TTL attribute that the template gives it; one that is there stays.
///
/// # Errors
/// [`LedgerError::Unavailable`].
pub async fn create(client: &Client, name: &str) -> Result<(), LedgerError> {
    let mut call = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest);
    for (attribute, kind) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let definition = AttributeDefinition::builder()
            .attribute_name(attribute)
            .attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder()
            .attribute_name(attribute)
            .key_type(kind);
        call = call
            .attribute_definitions(
                definition
                    .build()
                    .map_err(|e| LedgerError::Unavailable(e.to_string()))?,
            )
            .key_schema(
                key.build()
                    .map_err(|e| LedgerError::Unavailable(e.to_string()))?,
            );
    }
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
        .enabled(true);
    let ttl = ttl
        .build()
        .map_err(|e| LedgerError::Unavailable(e.to_string()))?;
    let call = client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(ttl);
    call.send()
        .await
        .map(drop)
        .map_err(|e| LedgerError::Unavailable(aws::describe(&e)))
}
