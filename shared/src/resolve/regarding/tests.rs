//! Tests each source once where it matches and once where it just does not.

mod app;
mod related_emails;

use std::collections::HashSet;

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::clients::nylas::wire;
use crate::lookup::related_emails::EarlierEmail;
use crate::lookup::result::OpenRows;
use crate::mailboxes::Mailboxes;
use crate::model::ids::InternetMessageId;
use crate::policy::document::{Ambiguous, App, CustomTable};

fn record(table: Table, id: u128) -> PartyReference {
    PartyReference {
        table,
        id: Uuid::from_u128(id),
    }
}

fn target(table: &str, id: u128) -> RecordReference {
    RecordReference {
        table: table.to_owned(),
        id: Uuid::from_u128(id),
    }
}

fn person(table: Table, id: u128, account: Option<u128>) -> Person {
    Person {
        record: record(table, id),
        active: true,
        account: account.map(Uuid::from_u128),
        changed: None,
    }
}

fn inactive(table: Table, id: u128, account: Option<u128>) -> Person {
    Person {
        active: false,
        ..person(table, id, account)
    }
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn id(text: &str) -> InternetMessageId {
    InternetMessageId::from_header(text).unwrap()
}

/// A message from `from` to `to`, where `ours.example` is internal, and the lookup result.
struct Case {
    from: &'static str,
    to: Vec<&'static str>,
    ancestors: Vec<&'static str>,
    tokens: Vec<String>,
    folder: Option<RecordReference>,
    settings: Regarding,
    ambiguous: Ambiguous,
    found: LookupResult,
}

impl Case {
    fn of(from: &'static str, to: &[&'static str], known: &[(&str, Person)]) -> Self {
        let mut found = LookupResult::default();
        for (email, person) in known {
            found.add_person(address(email), person.clone());
        }
        Self {
            from,
            to: to.to_vec(),
            ancestors: Vec::new(),
            tokens: Vec::new(),
            folder: None,
            settings: Regarding::default(),
            ambiguous: Ambiguous::default(),
            found,
        }
    }

    /// Returns a message from Eve, who is a contact of the company 9.
    fn from_eve() -> Self {
        let eve = person(Table::Contact, 1, Some(9));
        Self::of(
            "eve@out.example",
            &["ada@ours.example"],
            &[("eve@out.example", eve)],
        )
    }

    /// Adds an earlier email with these participants.
    fn earlier(&mut self, number: u128, people: &[&str], regarding: Option<RecordReference>) {
        let email = EarlierEmail {
            completed: true,
            created: None,
            activity_id: ActivityId::new(Uuid::from_u128(number)),
            regarding,
            people: people.iter().map(|it| (Some(address(it)), None)).collect(),
        };
        let (name, token) = (format!("<{number}@x>"), format!("CRM:{number}"));
        self.found.add_earlier(email, Some(id(&name)), Some(&token));
    }

    fn message(&self) -> Message {
        let to: Vec<_> = self
            .to
            .iter()
            .map(|email| json!({"email": email}))
            .collect();
        let object = json!({"id": "m", "from": [{"email": self.from}], "to": to});
        let mut message =
            wire::message(&"g".parse().unwrap(), &object).unwrap_or_else(|e| panic!("{e}"));
        message.ancestors = self.ancestors.iter().map(|name| id(name)).collect();
        message
    }

    fn step(&self) -> RegardingStep {
        let message = self.message();
        let domains = HashSet::from(["ours.example".to_owned()]);
        decide(&RegardingInput {
            message: &message,
            found: &self.found,
            internal: &InternalAddresses {
                mailboxes: &Mailboxes::default(),
                found: &self.found,
                domains: &domains,
            },
            folder: self.folder.as_ref(),
            settings: &self.settings,
            ambiguous: self.ambiguous,
            tokens: &self.tokens,
        })
    }

    #[track_caller]
    fn decision(&self) -> RegardingDecision {
        match self.step() {
            RegardingStep::Decided(decision) => decision,
            RegardingStep::Ask(further) => panic!("expected a decision, got queries: {further:?}"),
        }
    }

    #[track_caller]
    fn ask(&self) -> FollowUpRequest {
        match self.step() {
            RegardingStep::Ask(further) => further,
            RegardingStep::Decided(decision) => {
                panic!("expected queries, got a decision: {decision:?}")
            }
        }
    }

    #[track_caller]
    fn target(&self) -> Option<RecordReference> {
        self.decision().target().cloned()
    }

    #[track_caller]
    fn outcomes(&self) -> Vec<(RegardingSource, CandidateOutcome)> {
        let candidates = self.decision().candidates;
        candidates
            .iter()
            .map(|it| (it.source, it.outcome))
            .collect()
    }
}

use RegardingSource::{Account, App as AppSource, Contact, Folder, Lead, Thread, TrackingToken};

#[test]
fn an_external_contact_is_the_regarding_as_sender_or_as_recipient() {
    let known = [("eve@out.example", person(Table::Contact, 1, Some(9)))];
    for case in [
        Case::of("eve@out.example", &["ada@ours.example"], &known),
        Case::of(
            "ada@ours.example",
            &["x@out.example", "eve@out.example"],
            &known,
        ),
    ] {
        assert_eq!(case.target(), Some(target("contact", 1)));
        assert_eq!(case.outcomes(), [(Contact, CandidateOutcome::Hit)]);
    }
}

#[test]
fn the_sender_comes_before_the_recipients_and_a_contact_before_an_account() {
    let known = [
        ("info@out.example", person(Table::Account, 5, None)),
        ("a@out.example", person(Table::Contact, 1, None)),
        ("b@out.example", person(Table::Contact, 2, None)),
    ];
    for (from, to, expected) in [
        ("b@out.example", "a@out.example", target("contact", 2)),
        ("info@out.example", "a@out.example", target("contact", 1)),
        ("info@out.example", "ada@ours.example", target("account", 5)),
    ] {
        assert_eq!(Case::of(from, &[to], &known).target(), Some(expected));
    }
}

#[test]
fn contacts_that_share_an_address_and_a_company_resolve_to_the_company() {
    for (second, expected) in [(9, Some(target("account", 9))), (8, None)] {
        let known = [
            ("eve@out.example", person(Table::Contact, 1, Some(9))),
            ("eve@out.example", person(Table::Contact, 2, Some(second))),
        ];
        let case = Case::of("eve@out.example", &["ada@ours.example"], &known);
        assert_eq!(case.target(), expected);
    }
}

#[test]
fn inactive_contacts_do_not_decide_the_company_of_those_who_share_their_address() {
    let active = person(Table::Contact, 1, Some(9));
    let second = person(Table::Contact, 2, Some(9));
    let inactive = inactive(Table::Contact, 3, Some(8));
    let account = Some(target("account", 9));
    for (known, expected) in [
        (vec![&active, &inactive], account.clone()),
        (vec![&inactive, &active], account.clone()),
        (vec![&active, &second, &inactive], account),
        (vec![&inactive], None),
    ] {
        let known = known.into_iter().map(|it| ("eve@out.example", it.clone()));
        let known: Vec<(&str, Person)> = known.collect();
        let mut case = Case::of("eve@out.example", &["ada@ours.example"], &known);
        // A contact would come first.
        case.settings.order = vec![Account];
        assert_eq!(case.target(), expected, "{known:?}");
    }
}

#[test]
fn internal_and_unknown_people_do_not_become_the_regarding() {
    let known = [("ada@ours.example", person(Table::Contact, 1, None))];
    let case = Case::of("ada@ours.example", &["x@out.example"], &known);
    assert_eq!(case.decision(), RegardingDecision::default());
}

#[test]
fn an_open_lead_comes_before_a_contact_and_a_closed_one_does_not() {
    let lead = person(Table::Lead, 2, None);
    let closed = Person {
        active: false,
        ..lead.clone()
    };
    let eve = ("eve@out.example", person(Table::Contact, 1, None));
    let with = |lead| {
        let known = [eve.clone(), ("lea@out.example", lead)];
        Case::of("eve@out.example", &["lea@out.example"], &known).target()
    };
    assert_eq!(with(lead), Some(target("lead", 2)));
    assert_eq!(with(closed), Some(target("contact", 1)));
}

#[test]
fn the_setting_decides_the_order_and_omitted_sources_are_not_tried() {
    let mut case = Case::from_eve();
    case.earlier(7, &["eve@out.example"], Some(target("account", 3)));
    case.ancestors = vec!["7@x"];
    assert_eq!(case.target(), Some(target("account", 3)));
    case.settings.order = vec![Contact, Thread];
    assert_eq!(case.target(), Some(target("contact", 1)));
    assert_eq!(case.outcomes(), [(Contact, CandidateOutcome::Hit)]);
    case.settings.order = vec![Lead];
    assert_eq!(case.decision(), RegardingDecision::default());
}

#[test]
fn the_first_matching_folder_rule_decides_the_record() {
    let rule = |folder: &str, id| FolderRegarding {
        folder: folder.to_owned(),
        table: "account".to_owned(),
        id: Uuid::from_u128(id),
    };
    let rules = [
        rule("Clients/Kites", 1),
        rule("Clients", 2),
        rule("INBOX", 3),
    ];
    let named = |names: &[&str]| by_folder(&rules, |name| names.contains(&name));
    assert_eq!(named(&["INBOX", "Clients"]), Some(target("account", 2)));
    assert_eq!(named(&["Archive"]), None);
}

#[test]
fn a_folder_rule_applies_only_if_its_record_exists() {
    let mut case = Case::from_eve();
    case.folder = Some(target("account", 3));
    let asked = case.ask();
    assert_eq!(asked.records, [target("account", 3)].into());
    case.found.set_there(&target("account", 3), true);
    assert_eq!(case.target(), Some(target("account", 3)));
    case.found.set_there(&target("account", 3), false);
    assert_eq!(
        case.outcomes(),
        [
            (Folder, CandidateOutcome::Missing),
            (Contact, CandidateOutcome::Hit)
        ]
    );
}

#[test]
fn names_of_other_tables_are_looked_up_and_a_table_that_cannot_be_bound_is_skipped() {
    let mut case = Case::from_eve();
    case.earlier(7, &["eve@out.example"], Some(target("new_project", 3)));
    case.ancestors = vec!["7@x"];
    let asked = case.ask();
    assert_eq!(asked.tables, ["new_project".to_owned()].into());
    case.found.set_names("new_project", None);
    assert_eq!(
        case.outcomes(),
        [
            (Thread, CandidateOutcome::CannotBeBound),
            (Contact, CandidateOutcome::Hit)
        ]
    );
    let names = TableNames {
        set: "new_projects".to_owned(),
        key: "new_projectid".to_owned(),
        regarding: "regardingobjectid_new_project_email".to_owned(),
    };
    case.found.set_names("new_project", Some(names.clone()));
    let choice = case.decision().choice.unwrap();
    assert_eq!(
        (choice.target, choice.names),
        (target("new_project", 3), names)
    );
}

#[test]
fn a_folder_rule_for_a_table_that_cannot_be_bound_is_skipped() {
    let mut case = Case::from_eve();
    case.folder = Some(target("new_note", 3));
    assert_eq!(case.ask().tables, ["new_note".to_owned()].into());
    case.found.set_names("new_note", None);
    assert_eq!(
        case.outcomes(),
        [
            (Folder, CandidateOutcome::CannotBeBound),
            (Contact, CandidateOutcome::Hit)
        ]
    );
}

fn rows(ids: &[u128]) -> OpenRows {
    OpenRows::Rows(ids.iter().map(|id| Uuid::from_u128(*id)).collect())
}

fn sales(of_contact: &[u128], of_company: &[u128]) -> Case {
    let mut case = Case::from_eve();
    case.settings.app = App::Sales;
    case.found
        .set_open_rows(record(Table::Contact, 1), rows(of_contact));
    case.found
        .set_open_rows(record(Table::Account, 9), rows(of_company));
    case
}

#[test]
fn a_candidate_is_recorded_as_ids_and_codes() {
    let decision = sales(&[5, 6], &[]).decision();
    assert_eq!(
        serde_json::to_value(&decision.candidates[0]).unwrap(),
        json!({"source": "app", "outcome": "ambiguous", "records": [
            {"table": "opportunity", "id": Uuid::from_u128(5)}, {"table": "opportunity", "id": Uuid::from_u128(6)},
        ]})
    );
}
