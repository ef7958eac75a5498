//! What the role of the application user has to allow, each found out by a request that changes nothing.

use mailverse::dataverse::DataverseClient;
use mailverse::dataverse::error::DataverseError;
use mailverse::dataverse::probe::{Step, WhoAmI};
use mailverse::dataverse::session::Session;
use mailverse::ids::ActivityId;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::check::Check;
use super::dataverse::{failed, is_self};

/// A table that the sync reads.
struct Read {
    name: &'static str,
    /// As the role's editor calls it.
    table: &'static str,
    query: &'static str,
    /// Done without where it may not be read, or is not there.
    optional: bool,
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
        "read users",
        "User",
        "systemusers?$select=systemuserid&$filter=isdisabled%20eq%20false&$top=2",
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

const CREATE: &str = "create emails";
const WRITE: &str = "three steps in one change set";
const DELETE: &str = "delete emails";
const ASSIGN: &str = "assign emails";
const REST: &str = "nothing left behind";

/// Tables whose rows are on mails: the check, the read that finds a row, its key, its set, and the party's binding.
const APPENDS: [(&str, &str, &str, &str, &str); 4] = [
    (
        "append to contacts",
        "read contacts",
        "contactid",
        "contacts",
        "partyid_contact@odata.bind",
    ),
    (
        "append to accounts",
        "read accounts",
        "accountid",
        "accounts",
        "partyid_account@odata.bind",
    ),
    (
        "append to leads",
        "read leads",
        "leadid",
        "leads",
        "partyid_lead@odata.bind",
    ),
    (
        "append to users",
        "read users",
        "systemuserid",
        "systemusers",
        "partyid_systemuser@odata.bind",
    ),
];

pub(super) fn skip_all(checks: &mut Vec<Check>, needs: &str) {
    let reads = READS.iter().map(|it| it.name);
    let appends = APPENDS.iter().map(|it| it.0);
    let writes = [CREATE, WRITE, DELETE]
        .into_iter()
        .chain(appends)
        .chain([ASSIGN, REST]);
    checks.extend(reads.chain(writes).map(|name| Check::skipped(name, needs)));
}

/// What was read of a table: `None` where it could not be.
type Rows = Option<Vec<Value>>;

pub(super) async fn examine(
    client: &DataverseClient,
    session: &Session,
    who: &WhoAmI,
    checks: &mut Vec<Check>,
) {
    let queries: Vec<String> = READS.iter().map(|it| it.query.to_owned()).collect();
    let answers = match client.query_each(session, &queries).await {
        Ok(answers) => answers,
        Err(error) => {
            checks.push(failed("reads", &error));
            return;
        }
    };
    let mut found: Vec<(&str, Rows)> = Vec::new();
    for (read, answer) in READS.iter().zip(answers) {
        let (check, rows) = judge_read(read, answer);
        checks.push(check);
        found.push((read.name, rows));
    }
    writes(client, session, who, &found, checks).await;
}

fn judge_read(read: &Read, answer: Result<Vec<Value>, DataverseError>) -> (Check, Rows) {
    match answer {
        Ok(rows) => (Check::well(read.name, "allowed"), Some(rows)),
        Err(error) if read.optional && is_done_without(&error) => {
            let seen = format!("done without: {error}");
            (Check::well(read.name, seen), None)
        }
        Err(error) => {
            let remedy = remedy(&error, &format!("Read on {}", read.table));
            (Check::broken(read.name, error.to_string(), remedy), None)
        }
    }
}

/// As the look-up takes it: a table that is not there, or queues that may not be read.
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
        _ => "look up the code in Dataverse's documentation; a plug-in or a rule of the organisation may refuse it".to_owned(),
    }
}

/// A write that is tried: the check, the steps, and the right that it needs.
struct Trial {
    name: &'static str,
    id: ActivityId,
    steps: Vec<Step>,
    right: &'static str,
}

fn email(extra: &[(&str, Value)]) -> (ActivityId, Map<String, Value>) {
    let id = ActivityId::new(Uuid::new_v4());
    let mut row = Map::new();
    row.insert("activityid".to_owned(), json!(id));
    row.insert(
        "subject".to_owned(),
        json!("mailverse doctor: to be taken back"),
    );
    row.extend(
        extra
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    (id, row)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn trials(who: &WhoAmI, found: &[(&str, Rows)]) -> (Vec<Trial>, Vec<Check>) {
    let mut trials = Vec::new();
    let mut skipped = Vec::new();
    let (id, row) = email(&[]);
    trials.push(Trial {
        name: CREATE,
        id,
        steps: vec![Step::Create("emails", row)],
        right: "Create on Activity",
    });
    let (id, row) = email(&[]);
    let file = json!({
        "activitymimeattachmentid": Uuid::new_v4(), "objectid_activitypointer@odata.bind": format!("/activitypointers({id})"),
        "objecttypecode": "email", "filename": "doctor.txt", "mimetype": "text/plain", "body": "ZG9jdG9y",
    });
    let done = json!({"statecode": 1, "statuscode": 4});
    let steps = vec![
        Step::Create("emails", row),
        Step::Create("activitymimeattachments", object(file)),
        Step::Update(id, object(done)),
    ];
    trials.push(Trial {
        name: WRITE,
        id,
        steps,
        right: "Write and Append on Activity",
    });
    let (id, row) = email(&[]);
    let steps = vec![Step::Create("emails", row), Step::Delete(id)];
    trials.push(Trial {
        name: DELETE,
        id,
        steps,
        right: "Delete on Activity",
    });
    let rows = |of: &str| {
        found
            .iter()
            .find(|(name, _)| *name == of)
            .and_then(|(_, rows)| rows.as_ref())
    };
    for (name, from, key, set, binding) in APPENDS {
        let first = rows(from).and_then(|rows| rows.first()?.get(key)?.as_str());
        let Some(target) = first else {
            let needs = if rows(from).is_some() {
                "a row to try it with"
            } else {
                from
            };
            skipped.push(Check::skipped(name, needs));
            continue;
        };
        let party = json!([{"participationtypemask": 2, "addressused": "doctor@mailverse.invalid", binding: format!("/{set}({target})")}]);
        let (id, row) = email(&[("email_activity_parties", party)]);
        let right = match name {
            "append to contacts" => "Append on Activity, Append To on Contact",
            "append to accounts" => "Append on Activity, Append To on Account",
            "append to leads" => "Append on Activity, Append To on Lead",
            _ => "Append on Activity, Append To on User",
        };
        trials.push(Trial {
            name,
            id,
            steps: vec![Step::Create("emails", row)],
            right,
        });
    }
    let other = rows("read users").and_then(|users| {
        let ids = users
            .iter()
            .filter_map(|it| it.get("systemuserid")?.as_str());
        ids.into_iter().find(|id| !is_self(who, id))
    });
    match other {
        Some(user) => {
            let owner = json!(format!("/systemusers({user})"));
            let (id, row) = email(&[("ownerid@odata.bind", owner)]);
            trials.push(Trial {
                name: ASSIGN,
                id,
                steps: vec![Step::Create("emails", row)],
                right: "Assign on Activity",
            });
        }
        None => skipped.push(Check::skipped(ASSIGN, "another user to try it with")),
    }
    (trials, skipped)
}

async fn writes(
    client: &DataverseClient,
    session: &Session,
    who: &WhoAmI,
    found: &[(&str, Rows)],
    checks: &mut Vec<Check>,
) {
    let (trials, skipped) = trials(who, found);
    let steps: Vec<Vec<Step>> = trials.iter().map(|it| it.steps.clone()).collect();
    let answers = match client.would_pass(session, &steps).await {
        Ok(answers) => answers,
        Err(error) => {
            checks.push(failed(CREATE, &error));
            return;
        }
    };
    let may_create = answers.first().is_some_and(Result::is_ok);
    for (trial, answer) in trials.iter().zip(answers) {
        checks.push(match answer {
            Ok(()) => Check::well(trial.name, "allowed"),
            // All of them begin with a new email.
            Err(_) if trial.name != CREATE && !may_create => Check::skipped(trial.name, CREATE),
            Err(error) if trial.name == ASSIGN && !is_privilege(&error) => {
                // A user may be none who can own an email; the sync then leaves the owner out.
                Check::well(ASSIGN, format!("not for the user that was tried: {error}"))
            }
            Err(error) if trial.name == WRITE && !is_privilege(&error) => {
                Check::broken(WRITE, error.to_string(), "set WRITE_MODE (template parameter WriteMode) to stepwise, after `mailverse doctor --probe-write` says so")
            }
            Err(error) => Check::broken(trial.name, error.to_string(), remedy(&error, trial.right)),
        });
    }
    checks.extend(skipped);
    checks.push(left_behind(client, session, &trials).await);
}

fn is_privilege(error: &DataverseError) -> bool {
    matches!(error, DataverseError::Rejected { code: Some(code), .. } if code.concerns_privilege())
}

/// That change sets are all or nothing here is what the trials rest on.
async fn left_behind(client: &DataverseClient, session: &Session, trials: &[Trial]) -> Check {
    let ids: Vec<String> = trials
        .iter()
        .map(|it| format!("activityid%20eq%20{}", it.id))
        .collect();
    let query = format!("emails?$select=activityid&$filter={}", ids.join("%20or%20"));
    let rows = client.query_each(session, &[query]).await;
    match rows.map(|mut all| all.pop()) {
        Ok(Some(Ok(rows))) if rows.is_empty() => Check::well(REST, "every trial was taken back"),
        Ok(Some(Ok(rows))) => Check::broken(
            REST,
            format!("{} emails of the trials are there", rows.len()),
            "delete the emails with the subject \"mailverse doctor: to be taken back\", and report it: change sets are not all or nothing here",
        ),
        _ => Check::skipped(REST, "read emails"),
    }
}
