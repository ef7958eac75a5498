//! Tests what a decision record contains, and that it contains nothing private.

use emulators::Fault;
use mailverse::decision_record::{Asked, CandidatePart, ChosenPart, DecisionRecord, LONGEST, Row};
use mailverse::ledger::decisions::DecidedRow;
use mailverse::model::sync_request::Trigger;
use serde_json::{Value, json};

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, assert_skipped, id_of, key, nylas_message, people, policy,
    to_row, waiting, with_a_mail, work, written,
};

impl TestOrganisation {
    async fn record_text(&self, grant: &str, id: &str) -> Option<String> {
        let stored_message = self
            .pipeline
            .ledger
            .stored_message(&key(grant, id))
            .await
            .unwrap();
        stored_message
            .expect("the message has a ledger item")
            .decision
    }

    pub(super) async fn record(&self, grant: &str, id: &str) -> DecisionRecord {
        let text = self
            .record_text(grant, id)
            .await
            .expect("the ledger item has a decision record");
        DecisionRecord::parse(&text).unwrap()
    }
}

fn last(record: &DecisionRecord) -> (&str, &str) {
    let Asked { rule, answer } = record
        .policy
        .path
        .last()
        .expect("at least one rule was evaluated");
    (rule, answer)
}

#[tokio::test]
async fn the_decision_record_of_a_skipped_message_has_the_evaluated_rules_and_no_people() {
    let mut organisation = TestOrganisation::start().await;
    let junk = organisation
        .emulators
        .nylas()
        .folder_id(ADA, "\\Junk")
        .unwrap();
    organisation.put(ADA, nylas_message("m1", &json!({"folders": [junk]})));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "spam");
    let record = organisation.record(ADA, "m1").await;
    assert_eq!(last(&record), ("spam", "skips"));
    assert_eq!(
        record.policy.path.len(),
        2,
        "only the rules `draft` and `spam` were evaluated"
    );
    assert_eq!(record.at, organisation.now.timestamp());
    assert_eq!((record.people.len(), record.direction), (0, None));
    assert_eq!(record.row, DecidedRow::None);
}

#[tokio::test]
async fn a_decision_record_identifies_people_by_role_and_position() {
    let mut organisation = TestOrganisation::start().await;
    let to = ["stranger@else.example", "ada@ours.example"];
    organisation.put(ADA, nylas_message("m1", &json!({"to": people(&to)})));
    written(&organisation.deliver_one(ADA, "m1").await);
    let record = organisation.record(ADA, "m1").await;
    assert_eq!(last(&record).1, "passes");
    assert_eq!(record.direction.as_deref(), Some("incoming"));
    assert_eq!(record.row, DecidedRow::Ours);
    let shown: Vec<(&str, usize, Vec<Row>)> = record
        .people
        .iter()
        .map(|person| (person.role.as_str(), person.place, person.chosen.clone()))
        .collect();
    let carol = Row::of("contact", organisation.people.carol);
    let ada = Row::of("systemuser", organisation.people.ada);
    assert_eq!(
        shown,
        [
            ("from", 0, vec![carol]),
            ("to", 0, vec![]),
            ("to", 1, vec![ada])
        ]
    );
}

#[tokio::test]
async fn a_message_that_is_tracked_later_has_the_decision_record_that_tracked_it() {
    let mut organisation = TestOrganisation::start().await;
    let junk = organisation
        .emulators
        .nylas()
        .folder_id(ADA, "\\Junk")
        .unwrap();
    organisation.put(ADA, nylas_message("m1", &json!({"folders": [junk]})));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "spam");
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let processed = organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    written(&processed[0].outcome);
    let record = organisation.record(ADA, "m1").await;
    assert_eq!((last(&record).1, record.row), ("passes", DecidedRow::Ours));
}

#[tokio::test]
async fn a_row_whose_write_response_was_lost_keeps_the_decision_record_that_wrote_it() {
    let mut organisation = with_a_mail().await;
    organisation.fail_dataverse_at(CREATE, Fault::ResetAfterCommit);
    waiting(&organisation.deliver_one(ADA, "m1").await);
    let tried = organisation
        .record_text(ADA, "m1")
        .await
        .expect("the ledger item has a decision record");
    // A new policy applies now, and it would decide differently.
    organisation.pipeline.policy =
        mailverse::policy::cache::PolicySource::given(policy(&json!({"content": "participants"})));
    organisation.later(chrono::TimeDelta::minutes(1));
    let (_, note) = {
        let outcome = organisation.deliver_one(ADA, "m1").await;
        let (row, note) = written(&outcome);
        (row, note.map(str::to_owned))
    };
    assert_eq!(note.as_deref(), Some("already existed"));
    assert_eq!(organisation.record_text(ADA, "m1").await, Some(tried));
    // A further delivery does not change the settled message.
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.record(ADA, "m1").await.row, DecidedRow::Ours);
}

#[tokio::test]
async fn a_copy_in_another_mailbox_has_its_own_decision_record() {
    let mut organisation = TestOrganisation::start().await;
    for grant in [ADA, BEN] {
        let headers = json!([{"name": "Message-ID", "value": "<one@kites.example>"}]);
        organisation.put(grant, nylas_message(grant, &json!({"headers": headers})));
    }
    written(&organisation.deliver_one(ADA, ADA).await);
    written(&organisation.deliver_one(BEN, BEN).await);
    assert_eq!(organisation.record(ADA, ADA).await.row, DecidedRow::Ours);
    assert_eq!(organisation.record(BEN, BEN).await.row, DecidedRow::Found);
    let row = mailverse::model::ids::ActivityId::new(id_of(&organisation.email()));
    let copies = organisation
        .pipeline
        .ledger
        .messages_of_row(row)
        .await
        .unwrap();
    assert_eq!(copies, [key(ADA, ADA), key(BEN, BEN)]);
}

#[tokio::test]
async fn a_decision_record_has_the_match_of_each_person_and_the_regarding() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    written(&organisation.deliver_one(ADA, "m1").await);
    let record = organisation.record(ADA, "m1").await;
    let how: Vec<(&str, &str)> = record
        .people
        .iter()
        .map(|person| (person.matched.as_str(), person.choice.as_str()))
        .collect();
    assert_eq!(how, [("exact", "only"), ("exact", "only")]);
    let regarding = record.regarding.expect("the regarding was resolved");
    let chosen = regarding.chosen.expect("a record was chosen");
    assert_eq!(chosen.source, "contact");
    assert_eq!(chosen.record, Row::of("contact", organisation.people.carol));
    let hit = regarding.candidates.iter().find(|one| one.outcome == "hit");
    assert_eq!(
        hit.expect("one candidate was a hit").records,
        [chosen.record]
    );
}

#[tokio::test]
async fn a_decision_record_names_the_earlier_email_that_gave_the_regarding() {
    let mut organisation = TestOrganisation::start().await;
    let kites = to_row("account", organisation.people.kites);
    let earlier = |more: Value| {
        let mut row =
            json!({"subject": "x", "statecode": 1, "statuscode": 4, "regardingobjectid": kites});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        organisation.insert("email", row)
    };
    let answered =
        earlier(json!({"messageid": "<m0@kites.example>", "sender": "carol@kites.example"}));
    let named = earlier(json!({"trackingtoken": "CRM:0001234", "sender": "carol@kites.example"}));
    let headers = json!([
        {"name": "Message-ID", "value": "<m1@kites.example>"}, {"name": "In-Reply-To", "value": "<m0@kites.example>"},
    ]);
    organisation.put(ADA, nylas_message("thread", &json!({"headers": headers})));
    let with_token = json!({"subject": "Re: Kites CRM:0001234"});
    organisation.put(ADA, nylas_message("token", &with_token));
    let kites = Row::of("account", organisation.people.kites);
    for (id, source, email, is_answer) in [
        ("thread", "thread", answered, true),
        ("token", "tracking_token", named, false),
    ] {
        written(&organisation.deliver_one(ADA, id).await);
        let regarding = organisation
            .record(ADA, id)
            .await
            .regarding
            .expect("the regarding was resolved");
        let email = mailverse::model::ids::ActivityId::new(email);
        let evidence = CandidatePart {
            source: source.to_owned(),
            outcome: "hit".to_owned(),
            records: vec![kites.clone()],
            emails: vec![email],
        };
        assert_eq!(regarding.candidates, [evidence]);
        let chosen = ChosenPart {
            source: source.to_owned(),
            record: kites.clone(),
            parent: is_answer.then_some(email),
        };
        assert_eq!(regarding.chosen, Some(chosen));
    }
}

#[tokio::test]
async fn a_decision_record_lists_created_contacts_and_accounts() {
    let mut organisation = TestOrganisation::start().await;
    organisation.pipeline.policy =
        mailverse::policy::cache::PolicySource::given(policy(&json!({"create_contacts": "all"})));
    let from = json!([{"name": "Nina New", "email": "nina@newcompany.com"}]);
    organisation.put(ADA, nylas_message("m1", &json!({"from": from})));
    written(&organisation.deliver_one(ADA, "m1").await);
    let record = organisation.record(ADA, "m1").await;
    let tables: Vec<&str> = record
        .made
        .iter()
        .filter_map(|row| row.0.split_once('/'))
        .map(|(table, _)| table)
        .collect();
    assert_eq!(tables, ["contact", "account"]);
    assert_eq!(record.people[0].matched, "made");
    assert_eq!(record.people[0].chosen, record.made[..1]);
}

/// Text that occurs only in the message.
const CANARY: &str = "canary9f2e";

/// Asserts that a record contains only mailverse's own names, ids and numbers.
///
/// Texts may consist of letters, digits, spaces and a few punctuation marks, at most 80 bytes each.
/// `@` is not allowed.
fn assert_private(text: &str) {
    assert!(!text.to_lowercase().contains(CANARY), "{text}");
    assert!(!text.contains('@') && !text.contains("example"), "{text}");
    let value: Value = serde_json::from_str(text).unwrap();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(values) => open.extend(values),
            Value::Object(fields) => open.extend(fields.into_values()),
            Value::String(text) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "_-/ ".contains(c);
                assert!(text.chars().all(plain) && text.len() <= 80, "{text}");
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[tokio::test]
async fn a_decision_record_has_no_message_content() {
    let mut organisation = TestOrganisation::start().await;
    let somebody = |n: usize| json!({"name": format!("{CANARY} name"), "email": format!("{CANARY}-{n}@{CANARY}.example")});
    let everybody: Vec<Value> = (0..300).map(somebody).collect();
    let loud = |id: &str, to: &[Value]| {
        nylas_message(
            id,
            &json!({
                "subject": format!("{CANARY} CRM:123 subject"), "body": CANARY, "snippet": CANARY, "to": to, "cc": [somebody(900)],
                "headers": [
                    {"name": "Message-ID", "value": format!("<{id}.{CANARY}@{CANARY}.example>")},
                    {"name": "In-Reply-To", "value": format!("<before.{CANARY}@{CANARY}.example>")},
                ],
                "attachments": [], "from": [somebody(901)],
            }),
        )
    };
    organisation.insert(
        "contact",
        json!({"lastname": CANARY, "emailaddress1": format!("{CANARY}-1@{CANARY}.example")}),
    );
    organisation.put(ADA, loud("few", &everybody[..3]));
    organisation.put(ADA, loud("many", &everybody));
    let odd = json!([{"email": format!("{CANARY} is no address")}, {"email": "ada@ours.example"}]);
    organisation.put(ADA, loud("odd", odd.as_array().unwrap()));
    let inside = json!({"subject": CANARY, "from": people(&["ben@ours.example"])});
    organisation.put(ADA, nylas_message("inside", &inside));
    let ids = ["few", "many", "odd", "inside"];
    organisation.deliver(&ids.map(|id| (ADA, id))).await;
    for id in ids {
        let text = organisation
            .record_text(ADA, id)
            .await
            .expect("the ledger item has a decision record");
        assert!(text.len() <= LONGEST, "{id}: {} bytes", text.len());
        assert_private(&text);
    }
    let many = organisation.record(ADA, "many").await;
    assert_eq!(many.people.len() + many.left_out.people, 302);
    assert!(
        many.left_out.people > 0,
        "the number of people in a record is limited"
    );
    assert_eq!(
        organisation.record(ADA, "odd").await.omissions["address"],
        1
    );
}
