//! Describes errors of the AWS SDK in text that is safe to log.
//!
//! The SDK's own descriptions append the raw response, and the response of Secrets Manager is the
//! secret. So the text gives only the kind of failure, its code and its HTTP status. The service's
//! message is kept for an access denial, because it names the role and the missing permission.

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

/// Describes a failed call without any content of the request or the response.
#[must_use]
pub fn describe<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    let status = || {
        error
            .raw_response()
            .map_or(0, |answer| answer.status().as_u16())
    };
    match error {
        SdkError::ConstructionFailure(_) => "the request could not be built".to_owned(),
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
