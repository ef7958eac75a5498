//! Checks the privileges that the role of the application user needs. Each check is a request that
//! changes nothing.
//!
//! [`Requirements`] lists the privileges that are needed only with certain policies or settings.
//! [`write_checks`](mod@trials) lists the test writes.

pub(super) mod write_checks;

use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::error::DataverseError;
use mailverse::clients::dataverse::odata::rows;
use mailverse::clients::dataverse::probes::{ProbeStep, WhoAmI};
use mailverse::clients::dataverse::session::Session;
use serde_json::Value;

use self::write_checks::{
    ACCOUNTS, ACT, ASSIGN, CONTACTS, CREATE, CREATED_ON, DELETE, WRITE, WriteCheck, appends,
    write_checks,
};
use super::check::Check;
use super::dataverse::{failed, is_self};
use super::requirements::Requirements;

/// A table that the sync reads.
pub(super) struct Read {
    pub(super) name: &'static str,
    /// The table's name in the editor of security roles.
    pub(super) table: &'static str,
    pub(super) query: &'static str,
    /// The sync works without the table if it may not be read or does not exist.
    pub(super) optional: bool,
}

const READS: [Read; 6] = [
    read(
        "read emails",
        "Activity",
        "emails?$select=activityid&$top=1",
        false,
    ),
    read(
        "read contacts",
        "Contact",
        "contacts?$select=contactid&$top=1",
        false,
    ),
    read(
        "read accounts",
        "Account",
        "accounts?$select=accountid&$top=1",
        false,
    ),
    read("read leads", "Lead", "leads?$select=leadid&$top=1", true),
    read(
        USERS,
        "User",
        "systemusers?$select=systemuserid,azureactivedirectoryobjectid&$filter=isdisabled%20eq%20false%20and%20applicationid%20eq%20null&$top=50",
        false,
    ),
    read(
        "read queues",
        "Queue",
        "queues?$select=queueid&$top=1",
        true,
    ),
];

const fn read(
    name: &'static str,
    table: &'static str,
    query: &'static str,
    optional: bool,
) -> Read {
    Read {
        name,
        table,
        query,
        optional,
    }
}

const USERS: &str = "read users";
const REST: &str = "nothing left behind";

/// Adds a skipped check for each privilege, because the check `needs` is broken.
pub(super) fn skip_all(requirements: &Requirements, checks: &mut Vec<Check>, needs: &str) {
    let mut names: Vec<&str> = reads(requirements).map(|it| it.name).collect();
    names.extend([CREATE, WRITE, DELETE]);
    names.extend(appends(requirements).map(|it| it.name));
    names.push(ASSIGN);
    let asked = [
        (requirements.is_backdated(), CREATED_ON),
        (requirements.contacts, ACCOUNTS),
        (requirements.contacts, CONTACTS),
        (requirements.impersonate, ACT),
    ];
    names.extend(
        asked
            .into_iter()
            .filter_map(|(it, name)| it.then_some(name)),
    );
    names.push(REST);
    checks.extend(names.into_iter().map(|name| Check::skipped(name, needs)));
}

fn reads(requirements: &Requirements) -> impl Iterator<Item = &Read> {
    READS.iter().chain(requirements.app.map(|app| &app.read))
}

/// The rows that were read from a table; `None` if the read failed.
type Rows = Option<Vec<Value>>;

/// The rows that were read, by the name of the read.
struct Found(Vec<(&'static str, Rows)>);

impl Found {
    fn rows(&self, of: &str) -> Option<&[Value]> {
        let (_, rows) = self.0.iter().find(|(name, _)| *name == of)?;
        rows.as_deref()
    }

    /// Returns all users except the application user.
    fn users<'a>(&'a self, who: &'a WhoAmI) -> impl Iterator<Item = &'a Value> {
        let users = self.rows(USERS).unwrap_or_default().iter();
        users.filter(|user| text(user, "systemuserid").is_some_and(|id| !is_self(who, id)))
    }
}

fn text<'a>(row: &'a Value, column: &str) -> Option<&'a str> {
    row.get(column)?.as_str()
}

/// Runs all checks of privileges.
pub(super) async fn examine(
    client: &DataverseClient,
    session: &Session,
    who: &WhoAmI,
    requirements: &Requirements,
    checks: &mut Vec<Check>,
) {
    let queries: Vec<String> = reads(requirements).map(|it| it.query.to_owned()).collect();
    let answers = match client.query_each(session, &queries).await {
        Ok(answers) => answers,
        Err(error) => {
            checks.push(failed("reads", &error));
            return;
        }
    };
    let mut found = Found(Vec::new());
    for (read, answer) in reads(requirements).zip(answers) {
        let (check, rows) = judge_read(read, answer);
        checks.push(check);
        found.0.push((read.name, rows));
    }
    writes(client, session, who, &found, requirements, checks).await;
}

fn judge_read(read: &Read, answer: Result<Vec<Value>, DataverseError>) -> (Check, Rows) {
    match answer {
        Ok(rows) => (Check::passed(read.name, "allowed"), Some(rows)),
        Err(error) if read.optional && is_done_without(&error) => {
            let seen = format!("optional, not readable: {error}");
            (Check::passed(read.name, seen), None)
        }
        Err(error) => {
            let remedy = remedy(&error, &format!("Read on {}", read.table));
            (Check::broken(read.name, error.to_string(), remedy), None)
        }
    }
}

/// Returns whether the error means that an optional table does not exist or may not be read.
///
/// The lookup of the sync skips a table that does not exist, and queues that may not be read.
fn is_done_without(error: &DataverseError) -> bool {
    match error {
        DataverseError::Rejected { status, .. } => matches!(status, 403 | 404),
        DataverseError::Unavailable { what } => what.starts_with("404"),
        _ => false,
    }
}

fn remedy(error: &DataverseError, right: &str) -> String {
    match error {
        DataverseError::Rejected { code: Some(code), .. } if code.concerns_privilege() => {
            format!("give the role of the application user the right: {right}")
        }
        _ => "look up the code in the Dataverse documentation; a plug-in or a business rule of the organisation may have rejected it".to_owned(),
    }
}

async fn writes(
    client: &DataverseClient,
    session: &Session,
    who: &WhoAmI,
    found: &Found,
    requirements: &Requirements,
    checks: &mut Vec<Check>,
) {
    let (mut write_checks, skipped) = write_checks(who, found, requirements);
    let steps: Vec<Vec<ProbeStep>> = write_checks.iter().map(|it| it.steps.clone()).collect();
    let answers = match client.test_writes(session, &steps).await {
        Ok(answers) => answers,
        Err(error) => {
            checks.push(failed(CREATE, &error));
            return;
        }
    };
    let refused: Vec<&str> = write_checks
        .iter()
        .zip(&answers)
        .filter_map(|(trial, answer)| answer.is_err().then_some(trial.name))
        .collect();
    for (trial, answer) in write_checks.iter().zip(answers) {
        let needs = trial.needs.filter(|needs| refused.contains(needs));
        checks.push(match (answer, needs) {
            (Ok(()), _) => Check::passed(trial.name, "allowed"),
            (Err(_), Some(needs)) => Check::skipped(trial.name, needs),
            (Err(error), None) => judge_refusal(trial, &error, requirements),
        });
    }
    checks.extend(skipped);
    if requirements.impersonate {
        let (check, tried) = act_for_users(client, session, who, found).await;
        checks.push(check);
        write_checks.extend(tried);
    }
    checks.push(left_behind(client, session, &write_checks).await);
}

fn judge_refusal(trial: &WriteCheck, error: &DataverseError, requirements: &Requirements) -> Check {
    let seen = error.to_string();
    if is_privilege(error) {
        return Check::broken(trial.name, seen, remedy(error, trial.right));
    }
    match trial.name {
        // Some users cannot own an email; the sync then leaves the owner out.
        ASSIGN => Check::passed(ASSIGN, format!("not to the user that was tested: {seen}")),
        WRITE if requirements.is_stepwise() => Check::passed(
            WRITE,
            format!("rejected, but WRITE_MODE is stepwise: {seen}"),
        ),
        WRITE => Check::broken(
            WRITE,
            seen,
            "run `mailverse doctor --probe-write`; if it recommends it, set WRITE_MODE (template parameter WriteMode) to stepwise",
        ),
        name => Check::broken(name, seen, remedy(error, trial.right)),
    }
}

fn is_privilege(error: &DataverseError) -> bool {
    matches!(error, DataverseError::Rejected { code: Some(code), .. } if code.concerns_privilege())
}

/// Checks impersonation: whether an email can be created as another user.
///
/// Tested with one user who has an Entra object id. Returns the test write too, if there was one.
async fn act_for_users(
    client: &DataverseClient,
    session: &Session,
    who: &WhoAmI,
    found: &Found,
) -> (Check, Option<WriteCheck>) {
    let of_entra = |user: &Value| {
        let entra_id = text(user, "azureactivedirectoryobjectid")?.parse().ok()?;
        Some((text(user, "systemuserid")?.to_owned(), entra_id))
    };
    let Some((user, entra_id)) = found.users(who).find_map(of_entra) else {
        let needs = "a user with an Entra object id to test with";
        return (Check::skipped(ACT, needs), None);
    };
    let trial = WriteCheck::email(ACT, "", &[], |_| Vec::new());
    let steps = std::slice::from_ref(&trial.steps);
    let answer = client
        .impersonating(Some(entra_id))
        .test_writes(session, steps)
        .await;
    let check = match answer.map(|mut all| all.pop()) {
        Ok(Some(Ok(()))) => Check::passed(ACT, format!("allowed, tested with user {user}")),
        Ok(Some(Err(error))) => Check::broken(
            ACT,
            format!("user {user}: {error}"),
            "give that user's role Create, Read, Write and Append on Activity; until then, the emails of such users are written as the application user",
        ),
        Err(error) => Check::broken(
            ACT,
            error.to_string(),
            "give the role of the application user prvActOnBehalfOfAnotherUser (the role Delegate has it), or remove impersonate from the policy; until then, emails are written as the application user",
        ),
        Ok(None) => Check::skipped(ACT, CREATE),
    };
    (check, Some(trial))
}

/// Checks that no row of a test write remains.
///
/// The test writes rely on change sets being atomic in this organisation.
async fn left_behind(
    client: &DataverseClient,
    session: &Session,
    write_checks: &[WriteCheck],
) -> Check {
    let mut queries = Vec::new();
    for of_one in write_checks.chunk_by(|one, other| one.row.0 == other.row.0) {
        let terms: Vec<String> = of_one
            .iter()
            .map(|it| format!("{} eq {}", it.row.1, it.row.2))
            .collect();
        if let Some(WriteCheck {
            row: (set, key, _), ..
        }) = of_one.first()
        {
            queries.push(rows(set, key, &terms.join(" or ")));
        }
    }
    let Ok(answers) = client.query_each(session, &queries).await else {
        return Check::skipped(REST, "read emails");
    };
    let mut left = 0;
    for answer in answers {
        match answer {
            Ok(rows) => left += rows.len(),
            Err(_) => return Check::skipped(REST, "the right to read the rows of the test writes"),
        }
    }
    if left == 0 {
        return Check::passed(REST, "every test write was rolled back");
    }
    Check::broken(
        REST,
        format!("{left} rows of test writes remain"),
        "delete the rows with the subject or name \"mailverse doctor: to be taken back\", and report this: change sets are not atomic in this organisation",
    )
}
