//! Checks the API key of the Nylas application. `mailboxes.rs` checks its mailboxes.

use mailverse::clients::nylas::NylasClient;
use mailverse::clients::nylas::error::NylasError;
use mailverse::mailboxes::AllowList;

use url::Url;

use super::check::Check;
use super::mailboxes::{self, MAILBOXES};

pub(super) const KEY: &str = "nylas key";

/// Checks the API key, and with it the mailboxes.
///
/// Returns the client for the checks that need the key.
///
/// # Errors
/// The name of the broken check, which the checks that need the key report as the reason.
pub(super) async fn examine(
    nylas: &NylasClient,
    url: &Url,
    allowed: Option<&AllowList>,
    checks: &mut Vec<Check>,
) -> Result<NylasClient, &'static str> {
    let grants = match nylas.grants().await {
        Ok(grants) => grants,
        Err(error) => {
            let remedy = remedy(&error);
            checks.push(Check::broken(KEY, error.to_string(), remedy));
            checks.push(Check::skipped(MAILBOXES, KEY));
            return Err(KEY);
        }
    };
    // A Nylas application belongs to one region, and the host name shows which.
    let host = url.host_str().unwrap_or_default();
    checks.push(Check::passed(KEY, format!("accepted by {host}")));
    mailboxes::examine(&grants, allowed, checks);
    Ok(nylas.clone())
}

fn remedy(error: &NylasError) -> &'static str {
    match error {
        NylasError::NoKey { .. } => {
            "put the API key into the secret that NYLAS_API_KEY_SECRET_ID names; if it is there, check AWS_REGION and the right secretsmanager:GetSecretValue"
        }
        NylasError::SignInNeeded { .. } => {
            "store the application's API key; if it is right, the application is in the other region: set NYLAS_API_URL to https://api.us.nylas.com or https://api.eu.nylas.com"
        }
        NylasError::Throttled { .. } => "wait a minute and try again",
        NylasError::Unavailable { .. } | NylasError::Rejected { .. } => {
            "check NYLAS_API_URL; if it is right, Nylas has a problem: try again later"
        }
    }
}
