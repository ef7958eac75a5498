//! The AWS configuration of the commands, from the standard AWS variables.
//!
//! Region and credentials are checked before the first call, so that the error names what is
//! missing.

use std::fmt;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::config::ProvideCredentials;
use mailverse::ledger::messages::Ledger;

/// The AWS configuration is incomplete. No call was made.
#[derive(Debug)]
pub(crate) enum AwsError {
    NoRegion,
    NoCredentials(String),
}

impl AwsError {
    /// Returns what is missing.
    pub(crate) fn problem(&self) -> String {
        match self {
            Self::NoRegion => "no AWS region is configured".to_owned(),
            Self::NoCredentials(why) => format!("no AWS credentials were found ({why})"),
        }
    }

    /// Returns what to do about it.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::NoRegion => "set AWS_REGION, or set AWS_PROFILE to a profile that has a region",
            Self::NoCredentials(_) => {
                "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN); after `aws sso login`, `aws configure export-credentials --format env` prints them"
            }
        }
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem(), self.remedy())
    }
}

impl std::error::Error for AwsError {}

/// Loads the AWS configuration and checks that it has a region and valid credentials.
///
/// # Errors
/// An [`AwsError`] that names what is missing; the operator has to set it.
pub(crate) async fn connect() -> Result<SdkConfig, AwsError> {
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    if aws.region().is_none() {
        return Err(AwsError::NoRegion);
    }
    // Without this check, the first call fails with an error that looks like a network problem.
    let Some(provider) = aws.credentials_provider() else {
        return Err(AwsError::NoCredentials(
            "no credentials provider".to_owned(),
        ));
    };
    match provider.provide_credentials().await {
        Ok(_) => Ok(aws),
        Err(error) => Err(AwsError::NoCredentials(error.to_string())),
    }
}

/// Returns the ledger that is stored in the DynamoDB table `table`.
pub(crate) fn ledger(aws: &SdkConfig, table: &str) -> Ledger {
    Ledger::new(aws_sdk_dynamodb::Client::new(aws), table.to_owned())
}
