//! A Lambda function that a verb invokes, and whose answer it waits for; with AWS's own variables, and the right lambda:InvokeFunction.

use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::aws::{self, AwsError};
use crate::terminal::printable;

/// The function was not asked, or has not done what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FunctionError {
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("the function {name} cannot be asked: {what}")]
    Call { name: String, what: String },
    /// The function's own words.
    #[error("the function refused: {0}")]
    Refused(String),
    #[error("the function's answer cannot be read: {0}")]
    Answer(#[source] serde_json::Error),
}

/// By name or ARN.
pub(crate) struct Function {
    client: Client,
    name: String,
}

impl Function {
    /// Nothing is called yet.
    pub(crate) async fn connect(name: String) -> Result<Self, FunctionError> {
        let client = Client::new(&aws::connect().await?);
        Ok(Self { client, name })
    }

    /// What the function answers. An `error` in it counts as a refusal, as does an invocation that failed.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        request: &Value,
    ) -> Result<T, FunctionError> {
        let call = self.client.invoke().function_name(&self.name);
        let call = call.payload(Blob::new(request.to_string()));
        let answer = call.send().await.map_err(|error| FunctionError::Call {
            name: self.name.clone(),
            what: mailverse::aws::describe(&error),
        })?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        let told: Result<Value, _> = serde_json::from_slice(&payload);
        let text = |name: &str| told.as_ref().ok()?.get(name)?.as_str();
        let refusal = match answer.function_error {
            Some(_) => Some(text("errorMessage").unwrap_or("it ended without a word")),
            None => text("error"),
        };
        if let Some(refusal) = refusal {
            return Err(FunctionError::Refused(printable(refusal)));
        }
        told.and_then(serde_json::from_value)
            .map_err(FunctionError::Answer)
    }
}
