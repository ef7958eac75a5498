//! Planted defects, to show that the audit detects what each guard prevents. The product is not
//! changed: its requests are changed on the connection.

use std::collections::HashMap;

use clap::ValueEnum;
use serde_json::Value;
use uuid::Uuid;

use crate::history::Write;
use crate::http::Message;
use crate::plan::Service;

/// The guard that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Defect {
    /// A settlement does not check who holds the claim.
    Fence,
    /// The rows of an email get a different key in each request.
    Key,
    /// A claim does not check whether the message is free.
    Claim,
}

/// A condition that is true for any item, and for none.
const ALWAYS: &str = "attribute_exists(pk) OR attribute_not_exists(pk)";

impl Defect {
    /// Changes a request into the one that the broken product would send.
    pub(crate) fn edit(self, service: Service, request: &mut Message) {
        match (self, service) {
            (Self::Fence | Self::Claim, Service::Ledger) => {
                let Ok(mut call) = serde_json::from_slice::<Value>(&request.body) else {
                    return;
                };
                let broken = match Write::read(&call) {
                    Some(Write::Claim { .. }) => self == Self::Claim,
                    Some(Write::Settle { .. }) => self == Self::Fence,
                    None => false,
                };
                if broken {
                    // The condition is kept, because DynamoDB rejects values that are not used.
                    let condition = call["ConditionExpression"].as_str().unwrap_or_default();
                    call["ConditionExpression"] = Value::from(format!("({condition}) OR {ALWAYS}"));
                    request.replace_body(call.to_string().into_bytes());
                }
            }
            (Self::Key, Service::Dataverse) => with_other_keys(request),
            _ => {}
        }
    }
}

/// Replaces each activity id by another one, the same throughout the request.
fn with_other_keys(request: &mut Message) {
    let Ok(mut text) = String::from_utf8(request.body.clone()) else {
        return;
    };
    let mut others: HashMap<String, String> = HashMap::new();
    for (at, name) in text.match_indices(r#""activityid":""#) {
        let key = text.get(at + name.len()..at + name.len() + 36);
        if let Some(key) = key {
            others.insert(key.to_owned(), Uuid::new_v4().to_string());
        }
    }
    for (key, other) in &others {
        text = text.replace(key.as_str(), other);
    }
    if !others.is_empty() {
        request.replace_body(text.into_bytes());
    }
}
