//! Tests each rule with a message that it just skips and one that it just does not skip: rules
//! about the message and its folders (`tests/message.rs`), rules about people (`tests/people.rs`),
//! and here what applies to all rules.

mod message;
mod people;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::clients::dataverse::records::{PartyReference, Person, Table};
use crate::clients::nylas::wire;
use crate::lookup::result::LookupResult;
use crate::mailboxes::{Folders, Mailboxes};

/// The known addresses and folders:
///
/// | Address | is |
/// | --- | --- |
/// | `ada@ours.example`, `sales@alias.example` | a mailbox and its alias |
/// | `user@crm.example`, `former@crm.example` | an enabled user and a disabled one |
/// | all of `domain.example` | internal by the document |
/// | `carol@kites.example`, `info@kites.example`, `lea@leads.example` | a contact, an account, a lead |
struct Organisation {
    mailboxes: Mailboxes,
    found: LookupResult,
    folders: Folders,
}

fn organisation() -> Organisation {
    let grant = json!({"id": "g", "email": "ada@ours.example", "provider": "google", "email_aliases": ["sales@alias.example"]});
    let mut found = LookupResult::default();
    for (n, (email, table, active)) in [
        ("user@crm.example", Table::SystemUser, true),
        ("former@crm.example", Table::SystemUser, false),
        ("carol@kites.example", Table::Contact, true),
        ("info@kites.example", Table::Account, true),
        ("lea@leads.example", Table::Lead, false),
    ]
    .into_iter()
    .enumerate()
    {
        let id = Uuid::from_u128(n as u128);
        let person = Person {
            record: PartyReference { table, id },
            active,
            account: None,
            changed: None,
        };
        found.add_person(EmailAddress::parse(email).unwrap(), person);
    }
    found.add_email(
        &json!({"activityid": Uuid::from_u128(90), "messageid": "<tracked@x>", "statecode": 1}),
    );
    let folders = [
        json!({"id": "in", "name": "Inbox", "attributes": ["\\Inbox"]}),
        json!({"id": "crm", "name": "CRM"}),
        json!({"id": "kites", "name": "Kites", "parent_id": "crm"}),
        json!({"id": "drafts", "name": "Entwürfe", "attributes": ["\\Drafts"]}),
        json!({"id": "junk", "name": "Werbung", "attributes": ["\\Junk"]}),
        json!({"id": "bin", "name": "Papierkorb", "attributes": ["\\Trash"]}),
    ];
    Organisation {
        mailboxes: Mailboxes::new(&[wire::grant(&grant).unwrap()]),
        found,
        folders: Folders::new(folders.iter().filter_map(wire::folder).collect()),
    }
}

/// Returns the default policy with `changes` to the settings of the organisation.
fn policy(changes: &Value) -> Policy {
    let mut defaults = json!({"internal_domains": ["domain.example"]});
    let settings = defaults.as_object_mut().unwrap();
    settings.extend(changes.as_object().unwrap().clone());
    Policy::parse(&json!({"defaults": defaults}).to_string())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Returns the policy's decisions on a message before and after the lookup.
fn decisions(changes: &Value, message: &Value) -> [PolicyDecision; 2] {
    let (organisation, policy) = (organisation(), policy(changes));
    let message = wire::message(&"g".parse().unwrap(), message).unwrap();
    let mailbox_policy = policy.for_mailbox(EmailAddress::parse("ada@ours.example").as_ref());
    let nothing = LookupResult::default();
    [&nothing, &organisation.found].map(|found| {
        policy.decide(&Case {
            message: &message,
            mailbox_policy: &mailbox_policy,
            folders: &organisation.folders,
            internal: &InternalAddresses {
                mailboxes: &organisation.mailboxes,
                found,
                domains: policy.internal_domains(),
            },
            looked_up: !std::ptr::eq(found, &raw const nothing),
        })
    })
}

fn verdicts(changes: &Value, message: &Value) -> [PolicyVerdict; 2] {
    decisions(changes, message).map(|decision| decision.verdict)
}

/// Returns the final verdict, and asserts that the verdict before the lookup does not contradict
/// it.
fn verdict(changes: &Value, message: &Value) -> PolicyVerdict {
    let [before, after] = verdicts(changes, message);
    assert_ne!(
        after,
        PolicyVerdict::Open,
        "after the lookup no verdict may be open"
    );
    match before {
        PolicyVerdict::Open => {}
        PolicyVerdict::Track => assert_eq!(after, PolicyVerdict::Track),
        PolicyVerdict::Skip(_) => assert!(
            matches!(after, PolicyVerdict::Skip(_)),
            "{before:?} {after:?}"
        ),
    }
    after
}

fn assert_skipped(rule: Rule, changes: &Value, message: &Value) {
    assert_eq!(
        verdict(changes, message),
        PolicyVerdict::Skip(rule),
        "{message}"
    );
}

/// Asserts that the message is skipped before any participant is looked up.
fn assert_refused(rule: Rule, changes: &Value, message: &Value) {
    assert_eq!(
        verdicts(changes, message)[0],
        PolicyVerdict::Skip(rule),
        "{message}"
    );
    assert_skipped(rule, changes, message);
}

fn assert_tracked(changes: &Value, message: &Value) {
    assert_eq!(verdict(changes, message), PolicyVerdict::Track, "{message}");
}

const ADA: &str = "ada@ours.example";
const CAROL: &str = "carol@kites.example";
const STRANGER: &str = "eve@outside.example";

fn message(from: &str, to: &[&str]) -> Value {
    let to: Vec<Value> = to.iter().map(|email| json!({"email": email})).collect();
    json!({"id": "m", "from": [{"email": from}], "to": to})
}

fn with(mut message: Value, field: &str, value: Value) -> Value {
    message[field] = value;
    message
}

fn with_headers(headers: &[(&str, &str)]) -> Value {
    let headers = headers
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}));
    with(message(CAROL, &[ADA]), "headers", headers.collect())
}

fn default() -> Value {
    json!({})
}

#[test]
fn the_path_lists_every_evaluated_rule_and_ends_with_the_deciding_one() {
    let block = json!({"block": [{"domain": "outside.example", "action": "drop"}]});
    let [before, _] = decisions(&block, &message(STRANGER, &[ADA]));
    let asked: Vec<&str> = before.path.iter().map(|step| step.rule.name()).collect();
    let expected = ["draft", "spam", "trash", "folder", "track_none", "blocked"];
    assert_eq!(asked, expected);
    let (last, earlier) = before.path.split_last().unwrap();
    assert_eq!(last.answer, RuleAnswer::Skips);
    assert!(earlier.iter().all(|step| step.answer == RuleAnswer::Passes));
    let known = json!({"track": {"received": "known"}});
    let [before, after] = decisions(&known, &message(CAROL, &[ADA]));
    let answer = |decision: &PolicyDecision, rule| {
        let step = decision.path.iter().find(|step| step.rule == rule);
        step.unwrap().answer
    };
    assert_eq!(answer(&before, Rule::NobodyKnown), RuleAnswer::Open);
    assert_eq!(answer(&after, Rule::NobodyKnown), RuleAnswer::Passes);
    assert_eq!(after.path.len(), RULES.len());
    assert_eq!(after.policy, policy(&known).version());
}

#[test]
fn the_rules_that_skip_only_for_now_match_those_of_the_ledger() {
    let rules = [
        Rule::Draft,
        Rule::Spam,
        Rule::Trash,
        Rule::Folder,
        Rule::AnswersUntracked,
        Rule::Gone,
        Rule::MailboxExcluded,
        Rule::MailboxUnknown,
    ];
    assert_eq!(
        rules.map(|rule| rule.to_string()),
        crate::ledger::SKIPPED_FOR_NOW
    );
}

#[test]
fn an_override_is_found_by_the_mailbox_address_in_any_case() {
    let text = json!({"mailboxes": {"Ada@Ours.example": {"content": "subject"}}}).to_string();
    let policy = Policy::parse(&text).unwrap();
    let content = |address: Option<&str>| {
        let address = address.and_then(EmailAddress::parse);
        policy.for_mailbox(address.as_ref()).content
    };
    assert_eq!(content(Some(ADA)), document::Content::Subject);
    assert_eq!(content(Some(CAROL)), document::Content::Full);
    assert_eq!(content(None), document::Content::Full);
    assert!(policy.differs_by_mailbox() && !Policy::default().differs_by_mailbox());
}

#[test]
fn a_version_is_short_and_identifies_one_text() {
    let (a, b) = (version_of("{}"), version_of("{ }"));
    assert_eq!((a.len(), b.len()), (12, 12));
    assert_ne!(a, b);
    assert_eq!(Policy::parse("{}").unwrap().version(), a);
    assert_eq!(Policy::default().version(), "default");
}
