//! `--probe-write`: writes one marked email as the sync does, reads it back and deletes it.
//!
//! The email always has the same key, so a run deletes what an earlier run left when it died.

use chrono::{DateTime, Utc};
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::email_row::EmailWrite;
use mailverse::clients::dataverse::emails::CreateOutcome;
use mailverse::clients::dataverse::error::DataverseError;
use mailverse::clients::dataverse::records::RowState;
use mailverse::clients::dataverse::session::Session;
use mailverse::model::ids::ActivityId;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::check::Check;
use super::requirements::Requirements;

pub(super) const WRITE: &str = "write mode";
const CREATED_ON: &str = "created-on";
const REMOVED: &str = "probe deleted";

/// The key of the email: a UUID made from the text "mailverse doctor".
const KEY: Uuid = Uuid::from_u128(0x6d61_696c_7665_4d73_a520_646f_6374_6f72);

/// The created-on that is requested: the start of a day, because it is unknown whether Dataverse
/// keeps the time of day (Dataverse facts §20).
const WISHED: &str = "2020-02-02T00:00:00Z";

const COLUMN: &str = "overriddencreatedon";

fn message(with_created_on: bool) -> EmailWrite {
    let id = ActivityId::new(KEY);
    let mut row = fields(json!({
        "activityid": id, "subject": "mailverse doctor: to be deleted", "description": "Written by mailverse doctor --probe-write.",
        "directioncode": false, "sender": "doctor@mailverse.invalid", "torecipients": "probe@mailverse.invalid",
        "actualstart": WISHED, "actualend": WISHED, "sortdate": WISHED, "messageid": "<doctor@mailverse.invalid>",
        "email_activity_parties": [
            {"participationtypemask": 1, "addressused": "doctor@mailverse.invalid"},
            {"participationtypemask": 2, "addressused": "probe@mailverse.invalid"},
        ],
    }));
    if with_created_on {
        row.insert(COLUMN.to_owned(), Value::from(WISHED));
    }
    let file = json!({
        "activitymimeattachmentid": Uuid::new_v4(), "objectid_activitypointer@odata.bind": format!("/activitypointers({id})"),
        "objecttypecode": "email", "filename": "doctor.txt", "mimetype": "text/plain", "body": "ZG9jdG9y",
    });
    EmailWrite {
        activity_id: id,
        row,
        attachments: vec![fields(file)],
        completion: fields(json!({"statecode": 1, "statuscode": 4})),
    }
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// How the email was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ChangeSet,
    Stepwise,
}

/// Deletes what an earlier run left, writes the email, reads it back and deletes it.
pub(super) async fn write(
    client: &DataverseClient,
    session: &Session,
    requirements: &Requirements,
    checks: &mut Vec<Check>,
) {
    let id = ActivityId::new(KEY);
    match client.remove(session, id).await {
        Ok(()) | Err(DataverseError::Stale { .. }) => {}
        Err(error) => {
            let remedy = "give the role Delete on Activity; if an email \"mailverse doctor: to be deleted\" of an earlier probe exists, delete it";
            checks.push(Check::broken(WRITE, error.to_string(), remedy));
            return;
        }
    }
    let (way, with_created_on) = match try_all(client, session).await {
        Ok(found) => found,
        Err(error) => {
            let remedy = "an email can be written neither in one change set nor step by step: see the lines above, and look up the code";
            checks.push(Check::broken(WRITE, error.to_string(), remedy));
            // The stepwise attempt may have left a draft.
            let _gone = client.remove(session, id).await;
            return;
        }
    };
    checks.push(match way {
        Way::ChangeSet if requirements.is_stepwise() => Check::passed(
            WRITE,
            "stepwise, but changeset works here too and needs far fewer requests",
        ),
        Way::ChangeSet => Check::passed(WRITE, "changeset: all three steps work in one change set"),
        Way::Stepwise if requirements.is_stepwise() => {
            Check::passed(WRITE, "stepwise: the three steps work only one by one")
        }
        Way::Stepwise => Check::broken(
            WRITE,
            "the three steps work one by one, but not in one change set",
            "set WRITE_MODE (template parameter WriteMode) to stepwise",
        ),
    });
    checks.push(created_on(client, session, with_created_on).await);
    let state = client.existing(session, id).await.map(|found| found.state);
    checks.push(match (state, client.remove(session, id).await) {
        (Ok(RowState::Completed), Ok(())) => {
            Check::passed(REMOVED, "read back as completed, then deleted")
        }
        (Ok(state), Ok(())) => Check::broken(
            REMOVED,
            format!("the email was {state:?}, expected completed"),
            "a plug-in or a workflow of the organisation changes emails: find out which",
        ),
        (Err(error), Ok(())) => Check::broken(
            REMOVED,
            format!("failed to read the email back: {error}"),
            "give the role Read on Activity",
        ),
        (_, Err(error)) => Check::broken(
            REMOVED,
            error.to_string(),
            format!("delete the email {KEY} manually, and give the role Delete on Activity"),
        ),
    });
}

/// Writes the email in one change set, with the requested created-on if that works, otherwise
/// without it. If both fail, writes it step by step.
///
/// Returns how it was written, and whether the created-on was accepted.
async fn try_all(
    client: &DataverseClient,
    session: &Session,
) -> Result<(Way, bool), DataverseError> {
    for with_created_on in [true, false] {
        let results = client.write(session, &[message(with_created_on)]).await;
        if let Some(Ok(CreateOutcome::Created)) = results.first() {
            return Ok((Way::ChangeSet, with_created_on));
        }
    }
    client.write_stepwise(session, &message(false)).await?;
    Ok((Way::Stepwise, false))
}

/// Reports whether the organisation keeps a requested created-on. It is optional, so this is never
/// broken.
async fn created_on(client: &DataverseClient, session: &Session, sent: bool) -> Check {
    if !sent {
        return Check::passed(
            CREATED_ON,
            "rejected: CREATED_ON=original has no effect unless the role has prvOverrideCreatedOnCreatedBy",
        );
    }
    let query = format!("emails?$select=createdon&$filter=activityid%20eq%20{KEY}");
    let rows = client.query_each(session, &[query]).await;
    let rows = rows.ok().and_then(|mut all| all.pop()).and_then(Result::ok);
    let created = rows.and_then(|rows| {
        let text = rows.first()?.get("createdon")?.as_str()?.to_owned();
        text.parse::<DateTime<Utc>>().ok()
    });
    match created {
        None => Check::skipped(CREATED_ON, "the right to read the email back"),
        Some(time) if time.date_naive().to_string() == "2020-02-02" => {
            Check::passed(CREATED_ON, "accepted: CREATED_ON can be original")
        }
        Some(_) => Check::passed(
            CREATED_ON,
            "accepted but ignored: CREATED_ON=original has no effect",
        ),
    }
}
