//! Each rule where it fires and where it just does not; each check of a document likewise.

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{Person, Record, Table};
use crate::mailboxes::{Folders, Mailboxes};
use crate::nylas::wire;

/// Who is known, and where mail lies:
///
/// | Address | is |
/// | --- | --- |
/// | `ada@ours.example`, `sales@alias.example` | a mailbox and its alias |
/// | `user@crm.example`, `former@crm.example` | an enabled user and a disabled one |
/// | all of `domain.example` | inside by the document |
/// | `carol@kites.example`, `info@kites.example`, `lea@leads.example` | a contact, an account, a lead |
struct World {
    mailboxes: Mailboxes,
    found: Found,
    folders: Folders,
}

fn world() -> World {
    let grant = json!({"id": "g", "email": "ada@ours.example", "provider": "google", "email_aliases": ["sales@alias.example"]});
    let mut found = Found::default();
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
            record: Record { table, id },
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
    World {
        mailboxes: Mailboxes::new(&[wire::grant(&grant).unwrap()]),
        found,
        folders: Folders::new(folders.iter().filter_map(wire::folder).collect()),
    }
}

/// The default policy but for `changes` to the settings of the organisation.
fn policy(changes: &Value) -> Policy {
    let mut defaults = json!({"internal_domains": ["domain.example"]});
    let settings = defaults.as_object_mut().unwrap();
    settings.extend(changes.as_object().unwrap().clone());
    Policy::parse(&json!({"defaults": defaults}).to_string())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What the policy says of a message before the look-up and after it.
fn decisions(changes: &Value, message: &Value) -> [Decision; 2] {
    let (world, policy) = (world(), policy(changes));
    let message = wire::message(&"g".parse().unwrap(), message).unwrap();
    let effective = policy.for_mailbox(EmailAddress::parse("ada@ours.example").as_ref());
    let nothing = Found::default();
    [&nothing, &world.found].map(|found| {
        policy.decide(&Case {
            message: &message,
            effective: &effective,
            folders: &world.folders,
            inside: &Inside {
                mailboxes: &world.mailboxes,
                found,
                domains: policy.internal_domains(),
            },
            looked_up: !std::ptr::eq(found, &raw const nothing),
        })
    })
}

fn verdicts(changes: &Value, message: &Value) -> [Verdict; 2] {
    decisions(changes, message).map(|decision| decision.verdict)
}

/// The verdict that counts in the end. Before the look-up, the policy may not have said anything else.
fn verdict(changes: &Value, message: &Value) -> Verdict {
    let [before, after] = verdicts(changes, message);
    assert_ne!(
        after,
        Verdict::Open,
        "after the look-up everything is known"
    );
    match before {
        Verdict::Open => {}
        Verdict::Track => assert_eq!(after, Verdict::Track),
        Verdict::Skip(_) => assert!(matches!(after, Verdict::Skip(_)), "{before:?} {after:?}"),
    }
    after
}

fn assert_skipped(rule: Rule, changes: &Value, message: &Value) {
    assert_eq!(verdict(changes, message), Verdict::Skip(rule), "{message}");
}

/// Skipped before anybody is looked up.
fn assert_refused(rule: Rule, changes: &Value, message: &Value) {
    assert_eq!(
        verdicts(changes, message)[0],
        Verdict::Skip(rule),
        "{message}"
    );
    assert_skipped(rule, changes, message);
}

fn assert_tracked(changes: &Value, message: &Value) {
    assert_eq!(verdict(changes, message), Verdict::Track, "{message}");
}

const ADA: &str = "ada@ours.example";
const CAROL: &str = "carol@kites.example";
const STRANGER: &str = "eve@outside.example";

fn mail(from: &str, to: &[&str]) -> Value {
    let to: Vec<Value> = to.iter().map(|email| json!({"email": email})).collect();
    json!({"id": "m", "from": [{"email": from}], "to": to})
}

fn with(mut mail: Value, field: &str, value: Value) -> Value {
    mail[field] = value;
    mail
}

fn with_headers(headers: &[(&str, &str)]) -> Value {
    let headers = headers
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}));
    with(mail(CAROL, &[ADA]), "headers", headers.collect())
}

fn default() -> Value {
    json!({})
}

#[test]
fn drafts_spam_and_trash_are_skipped_whatever_the_policy_says() {
    let all = json!({"track": {"received": "all", "sent": "all"}, "folders": {"only": ["Entwürfe", "Werbung", "Papierkorb"]}});
    for (folder, rule) in [
        ("drafts", Rule::Draft),
        ("junk", Rule::Spam),
        ("bin", Rule::Trash),
    ] {
        let lying_there = with(mail(CAROL, &[ADA]), "folders", json!(["in", folder]));
        assert_refused(rule, &default(), &lying_there);
        assert_refused(rule, &all, &lying_there);
    }
    assert_tracked(
        &default(),
        &with(mail(CAROL, &[ADA]), "folders", json!(["in"])),
    );
}

#[test]
fn only_the_named_folders_or_all_but_the_named_are_tracked() {
    let lying_in = |folders: &[&str]| with(mail(CAROL, &[ADA]), "folders", json!(folders));
    for name in ["CRM", "crm", "\\Inbox"] {
        let (only, except) = (
            json!({"folders": {"only": [name]}}),
            json!({"folders": {"except": [name]}}),
        );
        let (within, without) = if name == "\\Inbox" {
            ("in", "kites")
        } else {
            ("kites", "in")
        };
        assert_tracked(&only, &lying_in(&[within]));
        assert_tracked(&only, &lying_in(&[within, without]));
        assert_refused(Rule::Folder, &only, &lying_in(&[without]));
        assert_refused(Rule::Folder, &only, &lying_in(&[]));
        assert_tracked(&except, &lying_in(&[without]));
        assert_tracked(&except, &lying_in(&[]));
        assert_refused(Rule::Folder, &except, &lying_in(&[within]));
        assert_refused(Rule::Folder, &except, &lying_in(&[within, without]));
    }
}

#[test]
fn a_direction_of_which_none_is_tracked_is_refused_as_early_as_it_is_known() {
    let (sent, received) = (mail(ADA, &[CAROL]), mail(CAROL, &[ADA]));
    let by_user = mail("user@crm.example", &[CAROL]);
    let none_sent = json!({"track": {"sent": "none"}});
    assert_refused(Rule::TrackNone, &none_sent, &sent);
    assert_tracked(&none_sent, &received);
    // Only the look-up tells that the sender is a user.
    assert_eq!(verdicts(&none_sent, &by_user)[0], Verdict::Open);
    assert_skipped(Rule::TrackNone, &none_sent, &by_user);
    let none_received = json!({"track": {"received": "none"}});
    assert_tracked(&none_received, &sent);
    assert_tracked(&none_received, &by_user);
    assert_skipped(Rule::TrackNone, &none_received, &received);
    let from_nobody = with(received.clone(), "from", Value::Null);
    assert_refused(Rule::TrackNone, &none_received, &from_nobody);
    let neither = json!({"track": {"received": "none", "sent": "none"}});
    for mail in [&sent, &received, &by_user] {
        assert_refused(Rule::TrackNone, &neither, mail);
    }
}

#[test]
fn a_mail_that_names_somebody_blocked_is_dropped_in_whatever_role() {
    let block = json!({"block": [{"address": STRANGER, "action": "drop"}, {"domain": "bad.example", "action": "drop"}]});
    for blocked in [STRANGER, "eve+news@outside.example", "x@sub.bad.example"] {
        assert_refused(Rule::Blocked, &block, &mail(blocked, &[ADA]));
        assert_refused(Rule::Blocked, &block, &mail(ADA, &[CAROL, blocked]));
        let bcc = with(mail(ADA, &[CAROL]), "bcc", json!([{"email": blocked}]));
        assert_refused(Rule::Blocked, &block, &bcc);
    }
    for other in ["steve@outside.example", "x@notbad.example"] {
        assert_tracked(&block, &mail(other, &[ADA]));
    }
}

#[test]
fn who_is_stripped_does_not_count_but_does_not_stop_the_mail() {
    let block = json!({"block": [{"address": STRANGER, "action": "strip"}]});
    assert_tracked(&block, &mail(STRANGER, &[ADA, CAROL]));
    assert_skipped(Rule::InternalOnly, &block, &mail(STRANGER, &[ADA]));
    assert_skipped(Rule::InternalOnly, &block, &mail(ADA, &[STRANGER]));
    assert_refused(Rule::Nobody, &block, &mail(STRANGER, &[STRANGER]));
    let both = json!({"block": [{"address": STRANGER, "action": "strip"}, {"domain": "outside.example", "action": "drop"}]});
    assert_refused(Rule::Blocked, &both, &mail(STRANGER, &[ADA, CAROL]));
}

#[test]
fn bulk_mail_is_refused_where_the_policy_says_so() {
    let skip = json!({"skip_bulk": true});
    for header in [
        ("List-Id", "<kites>"),
        ("List-Unsubscribe", "<mailto:u@x>"),
        ("Precedence", "bulk"),
        ("Auto-Submitted", "auto-replied"),
    ] {
        assert_refused(Rule::Bulk, &skip, &with_headers(&[header]));
        assert_tracked(&default(), &with_headers(&[header]));
    }
    for header in [("Precedence", "first-class"), ("Auto-Submitted", "no")] {
        assert_tracked(&skip, &with_headers(&[header]));
    }
    assert_refused(Rule::Bulk, &skip, &mail("no-reply@kites.example", &[ADA]));
    assert_tracked(&skip, &mail(ADA, &["no-reply@kites.example"]));
}

#[test]
fn a_mail_that_answers_another_is_not_the_first_of_its_thread() {
    let first = json!({"first_of_thread_only": true});
    for header in ["In-Reply-To", "References"] {
        let answer = with_headers(&[(header, "<a@x>")]);
        assert_refused(Rule::LaterInThread, &first, &answer);
        assert_tracked(&default(), &answer);
    }
    assert_tracked(
        &first,
        &with_headers(&[("Message-ID", "<a@x>"), ("In-Reply-To", "")]),
    );
}

#[test]
fn mail_without_any_usable_address_is_skipped_by_name() {
    let nobody = json!({"id": "m", "to": [{"email": "undisclosed recipients"}]});
    assert_refused(Rule::Nobody, &default(), &nobody);
    assert_tracked(
        &default(),
        &with(nobody, "from", json!([{"email": STRANGER}])),
    );
}

#[test]
fn mail_among_mailboxes_aliases_users_and_internal_domains_is_internal() {
    let among_us = [
        "sales@alias.example",
        "user@crm.example",
        "anyone@domain.example",
    ];
    assert_skipped(
        Rule::InternalOnly,
        &default(),
        &mail("ADA@ours.example", &among_us),
    );
    assert_refused(
        Rule::InternalOnly,
        &default(),
        &mail(ADA, &["sales@alias.example", "x@domain.example"]),
    );
    assert_tracked(&json!({"skip_internal": false}), &mail(ADA, &among_us));
}

#[test]
fn one_participant_outside_is_enough_to_track() {
    assert_tracked(&default(), &mail(ADA, &["user@crm.example", STRANGER]));
    assert_tracked(&default(), &mail(STRANGER, &[ADA]));
    let bcc = with(mail(ADA, &[]), "bcc", json!([{"email": STRANGER}]));
    assert_tracked(&default(), &bcc);
    // A disabled user, and a domain below an internal one, are outside.
    assert_tracked(&default(), &mail(ADA, &["former@crm.example"]));
    assert_tracked(&default(), &mail(ADA, &["x@sub.domain.example"]));
}

#[test]
fn somebody_unknown_may_be_outside() {
    let from_nobody = with(mail(ADA, &[ADA]), "from", Value::Null);
    assert_tracked(&default(), &from_nobody);
    assert_tracked(
        &default(),
        &mail(ADA, &["user@crm.example", "the whole team"]),
    );
}

#[test]
fn with_a_list_of_domains_only_those_outside_count() {
    let allow = json!({"allow": ["kites.example"]});
    assert_tracked(&allow, &mail("any@kites.example", &[ADA]));
    assert_tracked(&allow, &mail(ADA, &[STRANGER, "any@eu.kites.example"]));
    assert_refused(Rule::NotAllowed, &allow, &mail(STRANGER, &[ADA]));
    assert_refused(
        Rule::NotAllowed,
        &allow,
        &mail(ADA, &["x@notkites.example"]),
    );
    assert_refused(Rule::NotAllowed, &allow, &mail(ADA, &["the whole team"]));
    // What concerns us alone is for the other rule.
    assert_refused(
        Rule::InternalOnly,
        &allow,
        &mail(ADA, &["x@domain.example"]),
    );
    let internal_too = json!({"allow": ["kites.example"], "skip_internal": false});
    assert_tracked(&internal_too, &mail(ADA, &["user@crm.example"]));
    assert_skipped(
        Rule::NotAllowed,
        &internal_too,
        &mail(ADA, &["user@crm.example", STRANGER]),
    );
}

#[test]
fn where_replies_are_tracked_only_an_answer_to_a_tracked_mail_is() {
    let replies = json!({"track": {"received": "replies"}});
    let answer_to = |id: &str| with_headers(&[("References", id)]);
    assert_tracked(&replies, &answer_to("<other@x> <tracked@x> <nearer@x>"));
    assert_skipped(Rule::AnswersUntracked, &replies, &answer_to("<other@x>"));
    assert_eq!(
        verdicts(&replies, &answer_to("<other@x>"))[0],
        Verdict::Open
    );
    assert_skipped(Rule::NotAReply, &replies, &with_headers(&[]));
    assert_tracked(&replies, &mail(ADA, &[CAROL]));
    let both = json!({"track": {"received": "replies", "sent": "replies"}});
    assert_refused(Rule::NotAReply, &both, &mail(ADA, &[CAROL]));
    assert_refused(Rule::NotAReply, &both, &mail(CAROL, &[ADA]));
}

#[test]
fn where_known_people_are_tracked_one_of_them_outside_is_enough() {
    let known = json!({"track": {"received": "known", "sent": "known"}});
    for person in [CAROL, "info@kites.example", "lea@leads.example"] {
        assert_tracked(&known, &mail(person, &[ADA]));
        assert_tracked(&known, &mail(ADA, &[STRANGER, person]));
    }
    assert_skipped(Rule::NobodyKnown, &known, &mail(STRANGER, &[ADA]));
    // A disabled user is outside, and no customer.
    assert_skipped(
        Rule::NobodyKnown,
        &known,
        &mail("former@crm.example", &[ADA]),
    );
    let stripped =
        json!({"track": {"received": "known"}, "block": [{"address": CAROL, "action": "strip"}]});
    assert_skipped(Rule::NobodyKnown, &stripped, &mail(STRANGER, &[ADA, CAROL]));
    let uncounted = json!({"track": {"received": "known"}, "allow": ["outside.example"]});
    assert_skipped(
        Rule::NobodyKnown,
        &uncounted,
        &mail(STRANGER, &[ADA, CAROL]),
    );
    assert_tracked(
        &json!({"track": {"sent": "known"}}),
        &mail(STRANGER, &[ADA]),
    );
}

#[test]
fn the_path_names_every_rule_that_was_asked_and_ends_with_the_one_that_decided() {
    let block = json!({"block": [{"domain": "outside.example", "action": "drop"}]});
    let [before, _] = decisions(&block, &mail(STRANGER, &[ADA]));
    let asked: Vec<&str> = before.path.iter().map(|step| step.rule.name()).collect();
    let expected = ["draft", "spam", "trash", "folder", "track_none", "blocked"];
    assert_eq!(asked, expected);
    let (last, earlier) = before.path.split_last().unwrap();
    assert_eq!(last.answer, Answer::Skips);
    assert!(earlier.iter().all(|step| step.answer == Answer::Passes));
    let known = json!({"track": {"received": "known"}});
    let [before, after] = decisions(&known, &mail(CAROL, &[ADA]));
    let answer = |decision: &Decision, rule| {
        let step = decision.path.iter().find(|step| step.rule == rule);
        step.unwrap().answer
    };
    assert_eq!(answer(&before, Rule::NobodyKnown), Answer::Open);
    assert_eq!(answer(&after, Rule::NobodyKnown), Answer::Passes);
    assert_eq!(after.path.len(), RULES.len());
    assert_eq!(after.policy, policy(&known).version());
}

#[test]
fn what_a_later_change_undoes_are_the_rules_about_place_and_order() {
    let rules = [
        Rule::Draft,
        Rule::Spam,
        Rule::Trash,
        Rule::Folder,
        Rule::AnswersUntracked,
        Rule::Gone,
    ];
    assert_eq!(
        rules.map(|rule| rule.to_string()),
        crate::dedupe::SKIPPED_FOR_NOW
    );
}

#[test]
fn a_mailbox_has_its_part_by_its_address_in_any_case() {
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
fn a_version_is_short_and_that_of_one_text() {
    let (a, b) = (version_of("{}"), version_of("{ }"));
    assert_eq!((a.len(), b.len()), (12, 12));
    assert_ne!(a, b);
    assert_eq!(Policy::parse("{}").unwrap().version(), a);
    assert_eq!(Policy::default().version(), "default");
}
