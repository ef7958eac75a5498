//! The Nylas application: its key, and whether its mailboxes are signed in.

use mailverse::nylas::NylasClient;
use mailverse::nylas::error::NylasError;
use mailverse::nylas::wire::Grant;

use url::Url;

use super::check::Check;

pub(super) const KEY: &str = "nylas key";
pub(super) const MAILBOXES: &str = "mailboxes";

/// The client, for what else needs the key; otherwise the check that is broken.
pub(super) async fn examine(
    nylas: &NylasClient,
    url: &Url,
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
    // An application lives in one region, which is part of the address.
    let host = url.host_str().unwrap_or_default();
    checks.push(Check::well(KEY, format!("accepted by {host}")));
    // A virtual calendar is a grant without mail.
    let mailboxes: Vec<&Grant> = grants.iter().filter(|it| it.address.is_some()).collect();
    if mailboxes.is_empty() {
        let remedy = "connect the first mailbox at Nylas";
        checks.push(Check::broken(MAILBOXES, "none is connected", remedy));
    } else {
        checks.push(Check::well(
            MAILBOXES,
            format!("{} connected", mailboxes.len()),
        ));
    }
    checks.extend(mailboxes.into_iter().map(mailbox));
    Ok(nylas.clone())
}

fn mailbox(grant: &Grant) -> Check {
    let name = format!("mailbox {}", grant.id);
    if grant.valid {
        return Check::well(name, format!("signed in, {}", grant.provider));
    }
    Check::broken(
        name,
        format!("needs signing in again, {}", grant.provider),
        "let its owner sign in again at Nylas: the next scheduled backfill then lists the mailbox since its watermark, so no mail of the time between is missing",
    )
}

fn remedy(error: &NylasError) -> &'static str {
    match error {
        NylasError::NoKey { .. } => {
            "put the API key into the secret that NYLAS_API_KEY_SECRET_ID names; where it is in there, check AWS_REGION and the right secretsmanager:GetSecretValue"
        }
        NylasError::SignInNeeded { .. } => {
            "store the application's API key; where it is right, the application lives in the other region: set NYLAS_API_URL to https://api.us.nylas.com or https://api.eu.nylas.com"
        }
        NylasError::Throttled { .. } => "wait a minute and try again",
        NylasError::Unavailable { .. } | NylasError::Rejected { .. } => {
            "check NYLAS_API_URL; where it is right, Nylas has a problem of its own: try again later"
        }
    }
}
