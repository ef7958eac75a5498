//! The organisation: the token, who we are there, the clock, its settings and columns.

use aws_config::SdkConfig;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::dataverse::DataverseClient;
use mailverse::dataverse::error::DataverseError;
use mailverse::dataverse::probe::WhoAmI;
use mailverse::dataverse::session::Session;
use mailverse::entra::store::TokenStoreError;
use mailverse::mapping::{self, LENGTHS};
use serde_json::Value;

use super::check::{Check, judged};
use super::wants::Wants;
use super::{DoctorError, SETTINGS, privileges, probe, skip};
use crate::services::DataverseSettings;

const TOKEN: &str = "dataverse token";
pub(super) const WHO: &str = "dataverse user";
const CLOCK: &str = "clock";
const FILES: &str = "file limits";
const LENGTH: &str = "column lengths";

/// The largest file that is sent, as base64: Dataverse's default.
const LARGEST_FILE: i64 = 5_242_880;

/// How far two clocks may be apart before leases, tokens and signatures of requests begin to suffer.
const SKEW: TimeDelta = TimeDelta::seconds(60);

pub(super) async fn examine(
    settings: Option<DataverseSettings>,
    aws: &SdkConfig,
    wants: &Wants,
    probe_write: bool,
    checks: &mut Vec<Check>,
) -> Result<(), DoctorError> {
    let rest = |checks: &mut Vec<Check>, needs: &str| {
        privileges::skip_all(wants, checks, needs);
        skip(checks, &[FILES, LENGTH], needs);
        if probe_write {
            skip(checks, &[probe::WRITE], needs);
        }
    };
    let Some(settings) = settings else {
        skip(checks, &[CLOCK, TOKEN, WHO], SETTINGS);
        rest(checks, SETTINGS);
        return Ok(());
    };
    let tokens = settings.tokens(aws);
    let (client, _) = settings.connect(aws)?;
    // Before the token, whose end a wrong clock misjudges.
    let theirs = client.now().await;
    checks.push(clock(theirs, Utc::now()));
    let now = theirs.unwrap_or_else(Utc::now);
    let token = match tokens.read().await {
        Ok(token) if token.expires_at > now => {
            let left = (token.expires_at - now).num_minutes();
            checks.push(Check::well(TOKEN, format!("stored, ends in {left} min")));
            token.access_token
        }
        other => {
            let refresh = "run `mailverse token refresh`: where it fails, it names Entra's reason and what to do";
            let (seen, remedy) = match other {
                Ok(token) => {
                    let ago = (now - token.expires_at).num_minutes();
                    (format!("ended {ago} min ago"), refresh)
                }
                Err(error @ TokenStoreError::NoToken { .. }) => (error.to_string(), refresh),
                Err(error @ TokenStoreError::Secret(_)) => {
                    let remedy = "check TOKEN_SECRET_ID, AWS_REGION, and the right secretsmanager:GetSecretValue";
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
            checks.push(Check::broken(WHO, error.to_string(), let_in(&error)));
            rest(checks, WHO);
            return Ok(());
        }
    };
    let seen = format!("{} of organisation {}", who.user, who.organization);
    checks.push(Check::well(WHO, seen));
    privileges::examine(&client, &session, &who, wants, checks).await;
    checks.push(files(&client, &session).await);
    checks.push(lengths(&client, &session).await);
    if probe_write {
        probe::write(&client, &session, wants, checks).await;
    }
    Ok(())
}

/// What to do when WhoAmI is refused.
fn let_in(error: &DataverseError) -> &'static str {
    match error {
        DataverseError::TokenRejected => {
            "the token is for another organisation, or was made before the credential changed: check DATAVERSE_URL here and at token-refresher, then run `mailverse token refresh`"
        }
        DataverseError::Rejected { status: 403, .. } => {
            "in the Power Platform admin center, add the app registration as an application user with a security role"
        }
        DataverseError::Throttled { .. } => "wait some minutes and try again",
        DataverseError::Rejected { .. }
        | DataverseError::Unavailable { .. }
        | DataverseError::Stale { .. }
        | DataverseError::TooLarge => "check DATAVERSE_URL; where it is right, try again later",
    }
}

fn clock(theirs: Option<DateTime<Utc>>, ours: DateTime<Utc>) -> Check {
    let Some(theirs) = theirs else {
        return Check::skipped(CLOCK, "Dataverse to say what time it is");
    };
    let apart = ours - theirs;
    let seconds = apart.num_seconds();
    let problem = (apart.abs() > SKEW).then(|| {
        let side = if seconds > 0 { "ahead of" } else { "behind" };
        let remedy = "set this machine's clock; tokens and signed requests are refused otherwise";
        (
            format!("{} s {side} Dataverse", seconds.abs()),
            remedy.to_owned(),
        )
    });
    judged(CLOCK, "within a minute of Dataverse's".to_owned(), problem)
}

/// What an attachment may be; what is more is left out of its mail, so nothing here is broken.
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
        "; larger ones are refused one by one and left out"
    } else {
        ""
    };
    let seen = format!(
        "{} bytes of base64, {} blocked types{note}",
        largest.min(LARGEST_FILE),
        blocked.count()
    );
    Check::well(FILES, seen)
}

/// How long texts may be here. Shorter columns are not broken: what goes into them is cut.
async fn lengths(client: &DataverseClient, session: &Session) -> Check {
    let lengths = match client.read_lengths(session, &mapping::TABLES).await {
        Ok(lengths) => lengths,
        Err(error) => {
            let remedy = "give the role of the application user the right to read definitions (Customization: Read on Entity and Attribute); without it, a mail with a text that is longer than a shortened column ends dead with 0x80044331";
            return Check::broken(LENGTH, error.to_string(), remedy);
        }
    };
    let shorter = LENGTHS.iter().filter_map(|(table, column, usual)| {
        let held = lengths.of(table, column).filter(|held| held < usual)?;
        Some(format!("{table}.{column} holds {held}, not {usual}"))
    });
    let shorter: Vec<String> = shorter.collect();
    let seen = match shorter.as_slice() {
        [] => format!("{} columns hold what is written to them", LENGTHS.len()),
        some => format!("{}: longer texts are cut to that", some.join("; ")),
    };
    Check::well(LENGTH, seen)
}

/// What the calls below say of a failed request as a whole.
pub(super) fn failed(name: &str, error: &DataverseError) -> Check {
    Check::broken(name, error.to_string(), "try again later")
}

/// Who the checks of privileges are about.
pub(super) fn is_self(who: &WhoAmI, user: &str) -> bool {
    user.eq_ignore_ascii_case(&who.user.to_string())
}
