//! Errors of the AWS SDK as text that may be logged.
//!
//! The SDK's own descriptions append the raw answer, and the answer of Secrets Manager is the secret. So a failure is told by its kind, its
//! code and its HTTP status; the service's words are kept where access was denied, since they name the role and the right that is missing.

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

/// A failed call as text, without anything that it carried.
#[must_use]
pub fn describe<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    let status = || {
        error
            .raw_response()
            .map_or(0, |answer| answer.status().as_u16())
    };
    match error {
        SdkError::ConstructionFailure(_) => "the request could not be made".to_owned(),
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            "no connection in time".to_owned()
        }
        SdkError::DispatchFailure(_) => "not reachable".to_owned(),
        SdkError::ServiceError(refusal) => {
            let code = refusal.err().code().unwrap_or("an error without a code");
            let denied = refusal
                .err()
                .message()
                .filter(|_| code.contains("AccessDenied"));
            format!(
                "{} {code}{}",
                status(),
                denied.map(|text| format!(": {text}")).unwrap_or_default()
            )
        }
        _ => format!("an unreadable answer, status {}", status()),
    }
}
