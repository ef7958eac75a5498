//! Tests which record becomes the regarding of an email, and how many requests that takes.

use chrono::TimeDelta;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::model::sync_request::Trigger;
use mailverse::policy::document::{Ambiguous, App, CustomTable, FolderRegarding, RegardingSource};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, TestOrganisation, created, id_of, nylas_message, people, status, to_row, waiting,
    work, written,
};

in_both_write_modes!(
    a_reply_gets_the_current_regarding_of_the_email_it_answers,
    a_forward_to_unknown_recipients_does_not_inherit_the_regarding,
    the_regarding_record_and_the_owner_of_an_email_are_not_among_its_people,
    a_tracking_token_in_the_subject_gives_the_regarding_of_its_email,
    a_guessed_tracking_token_from_a_stranger_gives_no_regarding,
    only_the_newest_emails_of_a_repeated_tracking_token_are_read,
    an_unknown_tracking_token_gives_no_regarding,
    a_folder_rule_gives_the_regarding_while_its_record_exists,
    a_folder_rule_can_name_a_row_of_a_custom_table,
    the_only_open_opportunity_is_the_regarding_but_not_one_of_several,
    the_only_open_case_is_the_regarding_but_not_a_resolved_one,
    the_only_active_row_of_a_custom_table_is_the_regarding,
    a_message_is_written_although_the_table_of_the_app_does_not_exist,
    an_inherited_custom_record_is_bound_by_its_navigation_name_from_the_metadata,
    a_record_that_cannot_be_a_regarding_is_ignored,
    the_ambiguity_setting_decides_the_regarding_for_several_contacts,
    a_regarding_that_a_user_chose_survives_redeliveries,
    a_draft_that_a_user_gave_a_regarding_keeps_it_when_it_is_completed,
);

/// Part of the follow-up lookup for the app `service`.
const CASES: &str = "GET /api/data/v9.2/incidents?";
/// Part of the request that reads a table's names.
const DEFINITIONS: &str = "EntityDefinitions(";

fn answer(id: &str, to: &str, changes: &Value) -> Value {
    let headers = json!([
        {"name": "Message-ID", "value": format!("<{id}@kites.example>")}, {"name": "In-Reply-To", "value": format!("<{to}@kites.example>")},
    ]);
    let mut nylas_message = nylas_message(id, changes);
    nylas_message["headers"] = headers;
    nylas_message
}

impl TestOrganisation {
    fn row(&self, id: Uuid) -> Value {
        self.emulators.dataverse().row("email", id).unwrap()
    }

    /// Delivers a new message and returns its row.
    async fn row_of(&mut self, id: &str) -> Value {
        let outcome = self.deliver_one(ADA, id).await;
        self.row(written(&outcome).0)
    }

    fn opportunity(&self, name: &str) -> Uuid {
        let kites = to_row("account", self.people.kites);
        self.insert("opportunity", json!({"name": name, "customerid": kites}))
    }

    /// Sets the regarding of an email as a user does by hand.
    async fn choose(&self, email: Uuid, bind: &str, row: String) {
        let dataverse = self.emulators.dataverse().url();
        let token = self.emulators.entra().issue_token(&dataverse, 600);
        let call = reqwest::Client::new()
            .patch(format!("{dataverse}/api/data/v9.2/emails({email})"))
            .bearer_auth(token)
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0")
            .json(&json!({format!("{bind}@odata.bind"): row}));
        assert_eq!(call.send().await.unwrap().status(), 204);
    }

    fn projects(&self, has_activities: bool) {
        let lookup = ("new_customerid", &["account", "contact"][..]);
        self.emulators
            .dataverse()
            .add_table("new_project", lookup, has_activities)
            .unwrap();
    }

    fn requests(&self) -> u64 {
        self.emulators.dataverse().requests().total
    }
}

async fn a_reply_gets_the_current_regarding_of_the_email_it_answers(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let first = id_of(&organisation.row_of("m1").await);
    let opportunity = organisation.opportunity("Spring");
    let chosen = format!("/opportunities({opportunity})");
    organisation
        .choose(first, "regardingobjectid_opportunity_email", chosen)
        .await;
    organisation.put(ADA, answer("m2", "m1", &json!({})));
    let row = organisation.row_of("m2").await;
    assert_eq!(row["regardingobjectid"], to_row("opportunity", opportunity));
    assert_eq!(row["parentactivityid"], to_row("email", first));
    organisation.put(ADA, answer("m3", "m0", &json!({})));
    let row = organisation.row_of("m3").await;
    assert_eq!(
        row["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
    assert_eq!(
        row["parentactivityid"],
        Value::Null,
        "the answered message m0 has no row"
    );
}

async fn a_forward_to_unknown_recipients_does_not_inherit_the_regarding(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let first = id_of(&organisation.row_of("m1").await);
    let from = people(&["ada@ours.example"]);
    let to_a_stranger = json!({"from": from, "to": people(&["new@else.example"])});
    organisation.put(ADA, answer("m2", "m1", &to_a_stranger));
    let row = organisation.row_of("m2").await;
    assert_eq!(
        (&row["regardingobjectid"], &row["parentactivityid"]),
        (&Value::Null, &Value::Null)
    );
    let to_both = json!({"from": from, "to": people(&["new@else.example", "carol@kites.example"])});
    organisation.put(ADA, answer("m3", "m1", &to_both));
    let row = organisation.row_of("m3").await;
    assert_eq!(row["parentactivityid"], to_row("email", first));
}

async fn the_regarding_record_and_the_owner_of_an_email_are_not_among_its_people(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let eve = json!({"lastname": "Eve", "emailaddress1": "eve@out.example"});
    let eve = to_row("contact", organisation.insert("contact", eve));
    // A disabled user is external.
    let zoe =
        json!({"lastname": "Zoe", "internalemailaddress": "zoe@out.example", "isdisabled": true});
    let zoe = to_row("systemuser", organisation.insert("systemuser", zoe));
    let first = organisation.insert(
        "email",
        json!({
            "subject": "x", "messageid": "<m1@kites.example>", "sender": "carol@kites.example",
            "statecode": 1, "statuscode": 4, "regardingobjectid": eve, "ownerid": zoe,
        }),
    );
    let added: Vec<(Value, Value)> = organisation
        .emulators
        .dataverse()
        .parties(first)
        .iter()
        .map(|party| {
            (
                party["participationtypemask"].clone(),
                party["partyid"].clone(),
            )
        })
        .collect();
    assert_eq!(added, [(json!(8), eve.clone()), (json!(9), zoe)]);
    for (id, from, regarding) in [
        ("m2", "eve@out.example", &eve),
        ("m3", "zoe@out.example", &Value::Null),
    ] {
        organisation.put(ADA, answer(id, "m1", &json!({"from": people(&[from])})));
        let row = organisation.row_of(id).await;
        assert_eq!(row["parentactivityid"], Value::Null, "{from}");
        assert_eq!(&row["regardingobjectid"], regarding, "{from}");
        let record = organisation.record(ADA, id).await;
        let candidates = record.regarding.unwrap().candidates;
        assert_eq!(
            (
                candidates[0].source.as_str(),
                candidates[0].outcome.as_str()
            ),
            ("thread", "other_people"),
            "{from}"
        );
    }
    // Carol wrote it.
    organisation.put(ADA, answer("m4", "m1", &json!({})));
    let row = organisation.row_of("m4").await;
    assert_eq!(row["parentactivityid"], to_row("email", first));
    assert_eq!(row["regardingobjectid"], eve);
}

async fn a_tracking_token_in_the_subject_gives_the_regarding_of_its_email(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let opportunity = organisation.opportunity("Spring");
    let earlier = json!({
        "subject": "x", "sender": "carol@kites.example", "trackingtoken": "CRM:0001234", "statecode": 1, "statuscode": 3,
        "regardingobjectid": to_row("opportunity", opportunity),
    });
    organisation.insert("email", earlier);
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"subject": "Re: Kites CRM:0001234"})),
    );
    let row = organisation.row_of("m1").await;
    assert_eq!(row["regardingobjectid"], to_row("opportunity", opportunity));
    assert_eq!(row["parentactivityid"], Value::Null);
    let kites = to_row("account", organisation.people.kites);
    let earlier = json!({
        "subject": "x", "sender": "carol@kites.example", "trackingtoken": "#1234", "regardingobjectid": kites,
    });
    organisation.insert("email", earlier);
    let subject = json!({"subject": "Re: #1234 CRM:0001234"});
    organisation.set(&json!({"regarding": {"tracking_token": "#[0-9]+"}}));
    organisation.put(ADA, nylas_message("m2", &subject));
    assert_eq!(organisation.row_of("m2").await["regardingobjectid"], kites);
}

async fn a_guessed_tracking_token_from_a_stranger_gives_no_regarding(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let carol = to_row("contact", organisation.people.carol);
    let earlier = json!({
        "subject": "x", "sender": "carol@kites.example", "trackingtoken": "CRM:0001001", "statecode": 1, "statuscode": 4,
        "regardingobjectid": carol,
    });
    organisation.insert("email", earlier);
    let from = people(&["mallory@else.example"]);
    let guess = json!({"subject": "Urgent CRM:0001001", "from": from});
    organisation.put(ADA, nylas_message("m1", &guess));
    assert_eq!(
        organisation.row_of("m1").await["regardingobjectid"],
        Value::Null
    );
    let copied = json!({"subject": "Urgent CRM:0001001", "from": from, "cc": people(&["carol@kites.example"])});
    organisation.put(ADA, nylas_message("m2", &copied));
    assert_eq!(organisation.row_of("m2").await["regardingobjectid"], carol);
}

/// A counter of three digits starts again after 999 emails, and every answer has the token, so
/// hundreds of emails may share one.
async fn only_the_newest_emails_of_a_repeated_tracking_token_are_read(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let kites = to_row("account", organisation.people.kites);
    let opportunity = organisation.opportunity("Spring");
    for day in 0..300 {
        let concerns = match day {
            299 => to_row("opportunity", opportunity),
            _ => kites.clone(),
        };
        let created = chrono::DateTime::from_timestamp(1_700_000_000 + day * 86_400, 0).unwrap();
        let earlier = json!({
            "subject": "x", "sender": "carol@kites.example", "trackingtoken": "CRM:0001001", "statecode": 1, "statuscode": 4,
            "regardingobjectid": concerns, "createdon": created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        });
        organisation.insert("email", earlier);
    }
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"subject": "Re: CRM:0001001"})),
    );
    let row = organisation.row_of("m1").await;
    assert_eq!(row["regardingobjectid"], to_row("opportunity", opportunity));
    let regarding = organisation.record(ADA, "m1").await.regarding.unwrap();
    let looked_at: Vec<(&str, usize)> = regarding
        .candidates
        .iter()
        .map(|one| (one.outcome.as_str(), one.emails.len()))
        .collect();
    assert_eq!(looked_at, [("repeated", 9), ("hit", 1)]);
}

async fn an_unknown_tracking_token_gives_no_regarding(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let canceled = json!({
        "subject": "x", "trackingtoken": "CRM:0001234", "statecode": 2, "statuscode": 5,
        "regardingobjectid": to_row("account", organisation.people.kites),
    });
    organisation.insert("email", canceled);
    for (id, token) in [("m1", "CRM:0001234"), ("m2", "CRM:000123")] {
        organisation.put(ADA, nylas_message(id, &json!({"subject": token})));
        let row = organisation.row_of(id).await;
        assert_eq!(
            row["regardingobjectid"],
            to_row("contact", organisation.people.carol)
        );
    }
}

fn in_folder(id: &str, folder: &str) -> Value {
    nylas_message(id, &json!({"folders": [folder]}))
}

async fn a_folder_rule_gives_the_regarding_while_its_record_exists(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let rule = |folder: &str, id| FolderRegarding {
        folder: folder.to_owned(),
        table: "account".to_owned(),
        id,
    };
    let gone = Uuid::from_u128(5);
    organisation.set(
        &json!({"folder_regarding": vec![rule("kites", organisation.people.kites), rule("gone", gone)]}),
    );
    for (id, folder, expected) in [
        ("m1", "kites", to_row("account", organisation.people.kites)),
        ("m2", "gone", to_row("contact", organisation.people.carol)),
        ("m3", "INBOX", to_row("contact", organisation.people.carol)),
    ] {
        organisation.put(ADA, in_folder(id, folder));
        let before = organisation.requests();
        assert_eq!(
            organisation.row_of(id).await["regardingobjectid"],
            expected,
            "{id}"
        );
        let steps = if mode == WriteMode::Stepwise { 2 } else { 1 };
        assert_eq!(
            organisation.requests() - before,
            1 + steps,
            "one lookup is enough"
        );
    }
}

async fn a_folder_rule_can_name_a_row_of_a_custom_table(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.projects(true);
    let project = organisation.insert("new_project", json!({"new_name": "Big"}));
    organisation.set(&json!({"folder_regarding": vec![FolderRegarding {
        folder: "big".to_owned(),
        table: "new_project".to_owned(),
        id: project,
    }]}));
    for (id, look_ups) in [("m1", 3), ("m2", 1)] {
        organisation.put(ADA, in_folder(id, "big"));
        let before = organisation.requests();
        let row = organisation.row_of(id).await;
        assert_eq!(row["regardingobjectid"], to_row("new_project", project));
        let steps = if mode == WriteMode::Stepwise { 2 } else { 1 };
        assert_eq!(
            organisation.requests() - before,
            look_ups + steps,
            "the table's names are cached"
        );
    }
}

async fn the_only_open_opportunity_is_the_regarding_but_not_one_of_several(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let first = organisation.opportunity("Spring");
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let row = organisation.row_of("m1").await;
    let carol = to_row("contact", organisation.people.carol);
    assert_eq!(
        row["regardingobjectid"], carol,
        "no app is searched by default"
    );
    organisation.set(&json!({"regarding": {"app": App::Sales}}));
    organisation.put(ADA, nylas_message("m2", &json!({})));
    let row = organisation.row_of("m2").await;
    assert_eq!(row["regardingobjectid"], to_row("opportunity", first));
    organisation.opportunity("Autumn");
    organisation.put(ADA, nylas_message("m3", &json!({})));
    assert_eq!(organisation.row_of("m3").await["regardingobjectid"], carol);
    let of_carol = organisation.insert(
        "opportunity",
        json!({"name": "Hers", "parentcontactid": carol}),
    );
    organisation.put(ADA, nylas_message("m4", &json!({})));
    let row = organisation.row_of("m4").await;
    assert_eq!(row["regardingobjectid"], to_row("opportunity", of_carol));
}

async fn the_only_open_case_is_the_regarding_but_not_a_resolved_one(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"regarding": {"app": App::Service}}));
    let carol = to_row("contact", organisation.people.carol);
    let case = |state: i64| json!({"title": "x", "customerid": to_row("account", organisation.people.kites), "primarycontactid": carol, "statecode": state});
    organisation.insert("incident", case(1));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    assert_eq!(organisation.row_of("m1").await["regardingobjectid"], carol);
    let case = json!({"title": "x", "customerid": carol});
    let open = organisation.insert("incident", case);
    organisation.put(ADA, nylas_message("m2", &json!({})));
    let row = organisation.row_of("m2").await;
    assert_eq!(row["regardingobjectid"], to_row("incident", open));
}

fn project_app() -> App {
    App::Custom(CustomTable {
        table: "new_project".to_owned(),
        set: "new_projects".to_owned(),
        key: "new_projectid".to_owned(),
        customer: "new_customerid".to_owned(),
    })
}

async fn the_only_active_row_of_a_custom_table_is_the_regarding(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.projects(true);
    organisation.set(&json!({"regarding": {"app": project_app()}}));
    let kites = to_row("account", organisation.people.kites);
    let project =
        |state: i64| json!({"new_name": "x", "new_customerid": kites, "statecode": state});
    organisation.insert("new_project", project(1));
    let active = organisation.insert("new_project", project(0));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let row = organisation.row_of("m1").await;
    assert_eq!(row["regardingobjectid"], to_row("new_project", active));
}

async fn a_message_is_written_although_the_table_of_the_app_does_not_exist(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"regarding": {"app": project_app()}}));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let row = organisation.row_of("m1").await;
    assert_eq!(
        row["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
}

/// Inserts an earlier email from Carol whose regarding is a project, and returns the project.
fn about_a_project(organisation: &TestOrganisation) -> Uuid {
    let project = organisation.insert("new_project", json!({"new_name": "x"}));
    organisation.insert(
        "email",
        json!({
            "subject": "x", "messageid": "<m0@kites.example>", "sender": "carol@kites.example", "statecode": 1, "statuscode": 4,
            "regardingobjectid": to_row("new_project", project),
        }),
    );
    project
}

async fn an_inherited_custom_record_is_bound_by_its_navigation_name_from_the_metadata(
    mode: WriteMode,
) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.projects(true);
    let project = about_a_project(&organisation);
    for (id, look_ups) in [("m1", 2), ("m2", 1)] {
        organisation.put(ADA, answer(id, "m0", &json!({})));
        let before = organisation.requests();
        let row = organisation.row_of(id).await;
        assert_eq!(row["regardingobjectid"], to_row("new_project", project));
        let steps = if mode == WriteMode::Stepwise { 2 } else { 1 };
        assert_eq!(
            organisation.requests() - before,
            look_ups + steps,
            "the table's names are cached"
        );
    }
}

async fn a_record_that_cannot_be_a_regarding_is_ignored(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.projects(false);
    let project = organisation.insert("new_project", json!({"new_name": "x"}));
    organisation.set(&json!({"folder_regarding": vec![FolderRegarding {
        folder: "big".to_owned(),
        table: "new_project".to_owned(),
        id: project,
    }]}));
    organisation.put(ADA, in_folder("m1", "big"));
    let row = organisation.row_of("m1").await;
    assert_eq!(
        row["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
}

async fn the_ambiguity_setting_decides_the_regarding_for_several_contacts(mode: WriteMode) {
    for ambiguous in [Ambiguous::Unresolved, Ambiguous::MostRecent, Ambiguous::All] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation.set(&json!({"ambiguous": ambiguous, "regarding": {"app": App::Sales}}));
        let contact = |modified: &str| {
            let row = json!({"lastname": "Twin", "emailaddress1": "twin@else.example", "modifiedon": modified});
            organisation.insert("contact", row)
        };
        let older = contact("2026-11-01T00:00:00Z");
        let newer = contact("2026-11-02T00:00:00Z");
        organisation.put(
            ADA,
            nylas_message("m1", &json!({"from": people(&["twin@else.example"])})),
        );
        let row = organisation.row_of("m1").await;
        let expected = match ambiguous {
            Ambiguous::MostRecent => to_row("contact", newer),
            // All of them are parties, so the email does not show which one it concerns.
            Ambiguous::Unresolved | Ambiguous::All => Value::Null,
        };
        assert_eq!(row["regardingobjectid"], expected, "{ambiguous:?}");
        let of = |name: &str, contact| {
            let row = json!({"name": name, "parentcontactid": to_row("contact", contact)});
            organisation.insert("opportunity", row)
        };
        let (_, of_newer) = (of("Autumn", older), of("Spring", newer));
        organisation.put(
            ADA,
            nylas_message("m2", &json!({"from": people(&["twin@else.example"])})),
        );
        let row = organisation.row_of("m2").await;
        let expected = match ambiguous {
            Ambiguous::MostRecent => to_row("opportunity", of_newer),
            Ambiguous::Unresolved | Ambiguous::All => Value::Null,
        };
        assert_eq!(row["regardingobjectid"], expected, "{ambiguous:?}");
    }
}

async fn a_regarding_that_a_user_chose_survives_redeliveries(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let headers = json!([{"name": "Message-ID", "value": "<one@kites.example>"}]);
    organisation.put(ADA, nylas_message("m1", &json!({"headers": headers})));
    organisation.put(BEN, nylas_message("m2", &json!({"headers": headers})));
    let id = id_of(&organisation.row_of("m1").await);
    let kites = format!("/accounts({})", organisation.people.kites);
    organisation
        .choose(id, "regardingobjectid_account_email", kites)
        .await;
    organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    written(&organisation.deliver_one(BEN, "m2").await);
    organisation.lose_ledger().await;
    written(&organisation.deliver_one(ADA, "m1").await);
    organisation.later(TimeDelta::minutes(15));
    organisation.list_mailboxes().await;
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("account", organisation.people.kites)
    );
}

async fn a_draft_that_a_user_gave_a_regarding_keeps_it_when_it_is_completed(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let message = organisation.emulators.nylas().message(ADA, "m1").unwrap();
    let message =
        mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
    let kites = to_row("account", organisation.people.kites);
    let draft = json!({"activityid": message.activity_id(), "subject": "x", "messageid": "<m1@kites.example>", "regardingobjectid": kites});
    organisation.insert("email", draft);
    let row = organisation.row_of("m1").await;
    assert_eq!(
        (&row["statecode"], &row["regardingobjectid"]),
        (&json!(1), &kites)
    );
}

#[tokio::test]
async fn replies_take_no_more_requests_than_other_messages() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m0", &json!({})));
    organisation.row_of("m0").await;
    let ids: Vec<String> = (1..=30).map(|n| format!("m{n}")).collect();
    for id in &ids {
        let with = json!({"subject": format!("CRM:{id} CRM:1{}", &id[1..])});
        organisation.put(ADA, answer(id, "m0", &with));
    }
    let before = organisation.requests();
    let work = ids.iter().map(|id| created(ADA, id)).collect();
    for done in organisation.run(work).await {
        let row = organisation.row(written(&done.outcome).0);
        assert_ne!(row["parentactivityid"], Value::Null);
    }
    assert_eq!(organisation.requests() - before, 2);
}

#[tokio::test]
async fn only_messages_that_need_the_second_lookup_wait_if_it_fails() {
    let mut organisation = TestOrganisation::start().await;
    organisation.set(&json!({"regarding": {"app": App::Service}}));
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"from": people(&["x@nowhere.example"])})),
    );
    organisation.put(ADA, nylas_message("m2", &json!({})));
    organisation.fail_dataverse_at(CASES, status(503, ""));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    written(&outcomes[0]);
    waiting(&outcomes[1]);
    let before = organisation.requests();
    written(&organisation.deliver_one(ADA, "m2").await);
    assert_eq!(organisation.requests() - before, 3);
}

#[tokio::test]
async fn table_names_that_cannot_be_read_are_read_again_on_the_next_attempt() {
    let mut organisation = TestOrganisation::start().await;
    organisation.projects(true);
    let project = about_a_project(&organisation);
    organisation.put(ADA, answer("m1", "m0", &json!({})));
    organisation.fail_dataverse_at(DEFINITIONS, status(503, ""));
    waiting(&organisation.deliver_one(ADA, "m1").await);
    let row = organisation.row_of("m1").await;
    assert_eq!(row["regardingobjectid"], to_row("new_project", project));
}

#[tokio::test]
async fn regarding_sources_that_the_policy_omits_are_not_looked_up() {
    let mut organisation = TestOrganisation::start().await;
    organisation.set(&json!({"regarding": {"order": vec![RegardingSource::Contact]}}));
    organisation.put(ADA, nylas_message("m0", &json!({})));
    let first = id_of(&organisation.row_of("m0").await);
    let kites = format!("/accounts({})", organisation.people.kites);
    organisation
        .choose(first, "regardingobjectid_account_email", kites)
        .await;
    let before = organisation.emulators.dataverse().requests().reads;
    organisation.put(ADA, nylas_message("m1", &json!({"subject": "CRM:0001"})));
    organisation.row_of("m1").await;
    let plain = organisation.emulators.dataverse().requests().reads - before;
    organisation.put(ADA, answer("m2", "m0", &json!({"subject": "CRM:0001"})));
    let row = organisation.row_of("m2").await;
    assert_eq!(
        organisation.emulators.dataverse().requests().reads - before,
        2 * plain
    );
    assert_eq!(
        row["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
}
