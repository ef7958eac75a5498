//! Checks of the Dataverse organisation: clock, token, user, file limits and column lengths.

use aws_config::SdkConfig;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::error::DataverseError;
use mailverse::clients::dataverse::probes::WhoAmI;
use mailverse::clients::dataverse::session::Session;
use mailverse::clients::entra::token_store::TokenStoreError;
use mailverse::mapping::{self, LENGTHS};
use serde_json::Value;

use super::check::{Check, judged};
use super::requirements::Requirements;
use super::{DoctorError, SETTINGS, privileges, skip, test_email};
use crate::services::DataverseSettings;

const TOKEN: &str = "dataverse token";
pub(super) const WHO: &str = "dataverse user";
const CLOCK: &str = "clock";
const FILES: &str = "file limits";
const LENGTH: &str = "column lengths";

/// The largest file that is sent, in bytes of base64. Dataverse's default limit.
const LARGEST_FILE: i64 = 5_242_880;

/// The largest difference between two clocks. Beyond it, leases, tokens and request signatures may
/// fail.
const SKEW: TimeDelta = TimeDelta::seconds(60);

/// Runs all checks of Dataverse. `settings` is `None` if a setting is missing.
///
/// # Errors
/// The HTTP client could not be created. A call that fails is a broken check.
pub(super) async fn examine(
    settings: Option<DataverseSettings>,
    aws: &SdkConfig,
    requirements: &Requirements,
    probe_write: bool,
    checks: &mut Vec<Check>,
) -> Result<(), DoctorError> {
    let rest = |checks: &mut Vec<Check>, needs: &str| {
        privileges::skip_all(requirements, checks, needs);
        skip(checks, &[FILES, LENGTH], needs);
        if probe_write {
            skip(checks, &[test_email::WRITE], needs);
        }
    };
    let Some(settings) = settings else {
        skip(checks, &[CLOCK, TOKEN, WHO], SETTINGS);
        rest(checks, SETTINGS);
        return Ok(());
    };
    let tokens = settings.tokens(aws);
    let (client, _) = settings.connect(aws)?;
    // Checked before the token, because a wrong clock misjudges when the token expires.
    let external_row = client.now().await;
    checks.push(clock(external_row, Utc::now()));
    let now = external_row.unwrap_or_else(Utc::now);
    let token = match tokens.read().await {
        Ok(token) if token.expires_at > now => {
            let left = (token.expires_at - now).num_minutes();
            checks.push(Check::passed(
                TOKEN,
                format!("stored, expires in {left} min"),
            ));
            token.access_token
        }
        other => {
            let refresh = "run `mailverse token refresh`: if it fails, it prints Entra's reason and what to do";
            let (seen, remedy) = match other {
                Ok(token) => {
                    let ago = (now - token.expires_at).num_minutes();
                    (format!("expired {ago} min ago"), refresh)
                }
                Err(error @ TokenStoreError::NoToken { .. }) => (error.to_string(), refresh),
                Err(error @ TokenStoreError::Secret(_)) => {
                    let remedy = "check TOKEN_SECRET_ID, AWS_REGION and the right secretsmanager:GetSecretValue";
                    (error.to_string(), remedy)
                }
            };
            checks.push(Check::broken(TOKEN, seen, remedy));
            skip(checks, &[WHO], TOKEN);
            rest(checks, TOKEN);
            return Ok(());
        }
    };
    let session = Session::new(token);
    let who = match client.who_am_i(&session).await {
        Ok(who) => who,
        Err(error) => {
            checks.push(Check::broken(
                WHO,
                error.to_string(),
                sign_in_remedy(&error),
            ));
            rest(checks, WHO);
            return Ok(());
        }
    };
    let seen = format!("{} of organisation {}", who.user, who.organization);
    checks.push(Check::passed(WHO, seen));
    privileges::examine(&client, &session, &who, requirements, checks).await;
    checks.push(files(&client, &session).await);
    checks.push(lengths(&client, &session).await);
    if probe_write {
        test_email::write(&client, &session, requirements, checks).await;
    }
    Ok(())
}

/// Returns what to do if Dataverse rejects `WhoAmI`.
fn sign_in_remedy(error: &DataverseError) -> &'static str {
    match error {
        DataverseError::TokenRejected => {
            "the token is for another organisation, or was issued before the credential changed: check DATAVERSE_URL here and at token-refresher, then run `mailverse token refresh`"
        }
        DataverseError::Rejected { status: 403, .. } => {
            "in the Power Platform admin center, add the app registration as an application user with a security role"
        }
        DataverseError::Throttled { .. } => "wait a few minutes and try again",
        DataverseError::Rejected { .. }
        | DataverseError::Unavailable { .. }
        | DataverseError::Stale { .. }
        | DataverseError::TooLarge => "check DATAVERSE_URL; if it is right, try again later",
    }
}

fn clock(external_row: Option<DateTime<Utc>>, our_destination: DateTime<Utc>) -> Check {
    let Some(external_row) = external_row else {
        return Check::skipped(CLOCK, "the time from an answer of Dataverse");
    };
    let apart = our_destination - external_row;
    let seconds = apart.num_seconds();
    let problem = (apart.abs() > SKEW).then(|| {
        let side = if seconds > 0 { "ahead of" } else { "behind" };
        let remedy = "set this machine's clock; otherwise tokens and signed requests are rejected";
        (
            format!("{} s {side} Dataverse", seconds.abs()),
            remedy.to_owned(),
        )
    });
    judged(CLOCK, "within a minute of Dataverse's".to_owned(), problem)
}

/// Reports the limits for attachments. Files beyond them are left out, so this is never broken.
async fn files(client: &DataverseClient, session: &Session) -> Check {
    let query = "organizations?$select=maxuploadfilesize,blockedattachments".to_owned();
    let rows = client.query_each(session, &[query]).await;
    let rows = rows.and_then(|mut all| all.pop().unwrap_or_else(|| Ok(Vec::new())));
    let Ok([organisation, ..]) = rows.as_deref() else {
        return Check::skipped(FILES, "the right to read the organization row");
    };
    let largest = organisation
        .get("maxuploadfilesize")
        .and_then(Value::as_i64);
    let blocked = organisation
        .get("blockedattachments")
        .and_then(Value::as_str);
    let blocked = blocked
        .unwrap_or_default()
        .split(';')
        .filter(|it| !it.trim().is_empty());
    let largest = largest.unwrap_or(LARGEST_FILE);
    let note = if largest < LARGEST_FILE {
        "; larger files are rejected one by one and left out"
    } else {
        ""
    };
    let seen = format!(
        "{} bytes of base64, {} blocked types{note}",
        largest.min(LARGEST_FILE),
        blocked.count()
    );
    Check::passed(FILES, seen)
}

/// Reports the text columns that are shorter than usual. Longer texts are cut, so this is broken
/// only if the lengths cannot be read.
async fn lengths(client: &DataverseClient, session: &Session) -> Check {
    let lengths = match client.read_lengths(session, &mapping::TABLES).await {
        Ok(lengths) => lengths,
        Err(error) => {
            let remedy = "give the role of the application user the right to read definitions (Customization: Read on Entity and Attribute); without it, an email with a text that is too long for a shortened column ends dead with 0x80044331";
            return Check::broken(LENGTH, error.to_string(), remedy);
        }
    };
    let shorter = LENGTHS.iter().filter_map(|(table, column, usual)| {
        let held = lengths.of(table, column).filter(|held| held < usual)?;
        Some(format!("{table}.{column} holds {held}, not {usual}"))
    });
    let shorter: Vec<String> = shorter.collect();
    let seen = match shorter.as_slice() {
        [] => format!("{} columns are long enough", LENGTHS.len()),
        some => format!("{}: longer texts are cut to that", some.join("; ")),
    };
    Check::passed(LENGTH, seen)
}

/// Returns a broken check for a request that failed as a whole.
pub(super) fn failed(name: &str, error: &DataverseError) -> Check {
    Check::broken(name, error.to_string(), "try again later")
}

/// Returns whether `user` is the id of the application user itself.
pub(super) fn is_self(who: &WhoAmI, user: &str) -> bool {
    user.eq_ignore_ascii_case(&who.user.to_string())
}
