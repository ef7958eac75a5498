//! The test writes. Each is a separate change set that Dataverse rolls back.

use mailverse::clients::dataverse::probes::{ProbeStep, WhoAmI};
use mailverse::model::ids::ActivityId;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Found, USERS, text};
use crate::doctor::check::Check;
use crate::doctor::requirements::Requirements;

pub(super) const CREATE: &str = "create emails";
pub(super) const WRITE: &str = "three steps in one change set";
pub(super) const DELETE: &str = "delete emails";
pub(super) const ASSIGN: &str = "assign emails";
pub(super) const CREATED_ON: &str = "override created-on";
pub(super) const ACCOUNTS: &str = "create accounts";
pub(super) const CONTACTS: &str = "create contacts";
pub(super) const ACT: &str = "act for users";

/// A table whose rows an email refers to, as a party or as its regarding.
pub(in crate::doctor) struct Append {
    pub(in crate::doctor) name: &'static str,
    /// The name of the read that finds a row to test with.
    pub(in crate::doctor) from: &'static str,
    pub(in crate::doctor) key: &'static str,
    pub(in crate::doctor) set: &'static str,
    /// The binding property of an activity party (`partyid_…`) or of the regarding.
    pub(in crate::doctor) binding: &'static str,
    pub(in crate::doctor) right: &'static str,
}

const APPENDS: [Append; 4] = [
    Append {
        name: "append to contacts",
        from: "read contacts",
        key: "contactid",
        set: "contacts",
        binding: "partyid_contact@odata.bind",
        right: "Append on Activity, Append To on Contact",
    },
    Append {
        name: "append to accounts",
        from: "read accounts",
        key: "accountid",
        set: "accounts",
        binding: "partyid_account@odata.bind",
        right: "Append on Activity, Append To on Account",
    },
    Append {
        name: "append to leads",
        from: "read leads",
        key: "leadid",
        set: "leads",
        binding: "partyid_lead@odata.bind",
        right: "Append on Activity, Append To on Lead",
    },
    Append {
        name: "append to users",
        from: USERS,
        key: "systemuserid",
        set: "systemusers",
        binding: "partyid_systemuser@odata.bind",
        right: "Append on Activity, Append To on User",
    },
];

pub(super) fn appends(requirements: &Requirements) -> impl Iterator<Item = &Append> {
    APPENDS
        .iter()
        .chain(requirements.app.map(|app| &app.append))
}

/// A test write.
pub(super) struct WriteCheck {
    pub(super) name: &'static str,
    /// Entity set, key column and key of the row that must not remain.
    pub(super) row: (&'static str, &'static str, Uuid),
    pub(super) steps: Vec<ProbeStep>,
    /// The privileges that the role needs for it.
    pub(super) right: &'static str,
    /// The name of the test write that covers the first step. If that one fails, this check is
    /// skipped.
    pub(super) needs: Option<&'static str>,
}

impl WriteCheck {
    /// Returns the creation of an email with `columns`, followed by the steps that `then` returns
    /// for its id.
    pub(super) fn email(
        name: &'static str,
        right: &'static str,
        columns: &[(&str, Value)],
        then: impl FnOnce(ActivityId) -> Vec<ProbeStep>,
    ) -> Self {
        let id = ActivityId::new(Uuid::new_v4());
        let mut row =
            object(json!({"activityid": id, "subject": "mailverse doctor: to be taken back"}));
        row.extend(
            columns
                .iter()
                .map(|(column, value)| ((*column).to_owned(), value.clone())),
        );
        let mut steps = vec![ProbeStep::Create("emails", row)];
        steps.extend(then(id));
        Self {
            name,
            row: ("emails", "activityid", id.uuid()),
            steps,
            right,
            needs: (name != CREATE).then_some(CREATE),
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Returns the test writes, and a skipped check for each one that there is no row to test with.
pub(super) fn write_checks(
    who: &WhoAmI,
    found: &Found,
    requirements: &Requirements,
) -> (Vec<WriteCheck>, Vec<Check>) {
    let nothing = |_: ActivityId| Vec::new();
    let mut skipped = Vec::new();
    let mut write_checks = vec![
        WriteCheck::email(CREATE, "Create on Activity", &[], nothing),
        WriteCheck::email(WRITE, "Write and Append on Activity", &[], |id| {
            let file = json!({
                "activitymimeattachmentid": Uuid::new_v4(), "objectid_activitypointer@odata.bind": format!("/activitypointers({id})"),
                "objecttypecode": "email", "filename": "doctor.txt", "mimetype": "text/plain", "body": "ZG9jdG9y",
            });
            let done = json!({"statecode": 1, "statuscode": 4});
            vec![
                ProbeStep::Create("activitymimeattachments", object(file)),
                ProbeStep::Update(id, object(done)),
            ]
        }),
        WriteCheck::email(DELETE, "Delete on Activity", &[], |id| {
            vec![ProbeStep::Delete(id)]
        }),
    ];
    for append in appends(requirements) {
        let rows = found.rows(append.from);
        let Some(target) = rows.and_then(|rows| text(rows.first()?, append.key)) else {
            let needs = rows.map_or(append.from, |_| "a row to test with");
            skipped.push(Check::skipped(append.name, needs));
            continue;
        };
        let row = format!("/{}({target})", append.set);
        let columns = if append.binding.starts_with("partyid_") {
            let party = json!([{"participationtypemask": 2, "addressused": "doctor@mailverse.invalid", append.binding: row}]);
            [("email_activity_parties", party)]
        } else {
            [(append.binding, Value::from(row))]
        };
        write_checks.push(WriteCheck::email(
            append.name,
            append.right,
            &columns,
            nothing,
        ));
    }
    let other = found.users(who).find_map(|user| text(user, "systemuserid"));
    match other {
        Some(user) => {
            let owner = json!(format!("/systemusers({user})"));
            let columns = [("ownerid@odata.bind", owner)];
            write_checks.push(WriteCheck::email(
                ASSIGN,
                "Assign on Activity",
                &columns,
                nothing,
            ));
        }
        None => skipped.push(Check::skipped(ASSIGN, "another user to test with")),
    }
    if requirements.is_backdated() {
        let columns = [("overriddencreatedon", json!("2020-02-02T00:00:00Z"))];
        let right = "prvOverrideCreatedOnCreatedBy (Override Created on or Created by), or set CREATED_ON to now";
        write_checks.push(WriteCheck::email(CREATED_ON, right, &columns, nothing));
    }
    if requirements.contacts {
        write_checks.extend(of_contacts());
    }
    (write_checks, skipped)
}

/// Returns the creation of an account and of a contact, needed if the policy creates contacts.
fn of_contacts() -> [WriteCheck; 2] {
    let (account, contact) = (Uuid::new_v4(), Uuid::new_v4());
    let new_account = |id: Uuid| {
        let row = json!({"accountid": id, "name": "mailverse doctor: to be taken back"});
        ProbeStep::Create("accounts", object(row))
    };
    let company = Uuid::new_v4();
    let new_contact = json!({
        "contactid": contact, "lastname": "mailverse doctor: to be taken back", "parentcustomerid_account@odata.bind": format!("/accounts({company})"),
    });
    [
        WriteCheck {
            name: ACCOUNTS,
            row: ("accounts", "accountid", account),
            steps: vec![new_account(account)],
            right: "Create on Account, needed by create_contacts in the policy",
            needs: None,
        },
        WriteCheck {
            name: CONTACTS,
            row: ("contacts", "contactid", contact),
            steps: vec![
                new_account(company),
                ProbeStep::Create("contacts", object(new_contact)),
            ],
            right: "Create and Append on Contact, Append To on Account, needed by create_contacts in the policy",
            needs: Some(ACCOUNTS),
        },
    ]
}
