//! AWS as the operators' verbs reach it: with AWS's own variables, checked before the first call, so that what is missing is called by its name.

use std::fmt;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::config::ProvideCredentials;
use mailverse::dedupe::ledger::Ledger;

/// AWS cannot be asked for anything: nothing was done.
#[derive(Debug)]
pub(crate) enum AwsError {
    NoRegion,
    NoCredentials(String),
}

impl AwsError {
    /// What is missing.
    pub(crate) fn problem(&self) -> String {
        match self {
            Self::NoRegion => "there is no AWS region".to_owned(),
            Self::NoCredentials(why) => format!("there are no AWS credentials ({why})"),
        }
    }

    /// What to do.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::NoRegion => "set AWS_REGION, or AWS_PROFILE to a profile that has one",
            Self::NoCredentials(_) => {
                "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and what belongs to it; after `aws sso login`, `aws configure export-credentials --format env` prints them"
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

/// What AWS's own variables say, once they say enough.
pub(crate) async fn connect() -> Result<SdkConfig, AwsError> {
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    if aws.region().is_none() {
        return Err(AwsError::NoRegion);
    }
    // Without this, a call fails as if AWS could not be reached.
    let Some(provider) = aws.credentials_provider() else {
        return Err(AwsError::NoCredentials("no provider of any".to_owned()));
    };
    match provider.provide_credentials().await {
        Ok(_) => Ok(aws),
        Err(error) => Err(AwsError::NoCredentials(error.to_string())),
    }
}

/// The ledger in this table.
pub(crate) fn ledger(aws: &SdkConfig, table: &str) -> Ledger {
    Ledger::new(aws_sdk_dynamodb::Client::new(aws), table.to_owned())
}
