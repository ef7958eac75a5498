//! Invokes a Lambda function and waits for its answer.
//!
//! Uses the standard AWS variables. The caller needs the right lambda:InvokeFunction.

use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::aws::{self, AwsError};
use crate::terminal::printable;

/// The function could not be invoked, or it did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FunctionError {
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("failed to invoke the function {name}: {what}")]
    Call { name: String, what: String },
    /// The function reported an error; this is its text.
    #[error("the function reported an error: {0}")]
    Refused(String),
    #[error("failed to parse the function's answer: {0}")]
    Answer(#[source] serde_json::Error),
}

/// A Lambda function, named by its name or ARN.
pub(crate) struct Function {
    client: Client,
    name: String,
}

impl Function {
    /// Loads the AWS configuration. Does not invoke the function yet.
    pub(crate) async fn connect(name: String) -> Result<Self, FunctionError> {
        let client = Client::new(&aws::connect().await?);
        Ok(Self { client, name })
    }

    /// Invokes the function with `request` and returns its parsed answer.
    ///
    /// # Errors
    /// - `Call`: Lambda refused or did not answer; check the name, the region and the right to
    ///   invoke it.
    /// - `Refused`: the answer has the field `error`, or the invocation itself failed.
    /// - `Answer`: the answer is not JSON of the expected form; the command and the function may
    ///   have different versions.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        request: &Value,
    ) -> Result<T, FunctionError> {
        let call = self.client.invoke().function_name(&self.name);
        let call = call.payload(Blob::new(request.to_string()));
        let answer = call.send().await.map_err(|error| FunctionError::Call {
            name: self.name.clone(),
            what: mailverse::clients::aws::describe(&error),
        })?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        let told: Result<Value, _> = serde_json::from_slice(&payload);
        let text = |name: &str| told.as_ref().ok()?.get(name)?.as_str();
        let refusal = match answer.function_error {
            Some(_) => Some(text("errorMessage").unwrap_or("it ended without an error message")),
            None => text("error"),
        };
        if let Some(refusal) = refusal {
            return Err(FunctionError::Refused(printable(refusal)));
        }
        told.and_then(serde_json::from_value)
            .map_err(FunctionError::Answer)
    }
}
