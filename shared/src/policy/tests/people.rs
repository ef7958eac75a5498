//! Tests the rules about the participants.

use serde_json::{Value, json};

use super::*;

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
        &message("ADA@ours.example", &among_us),
    );
    assert_refused(
        Rule::InternalOnly,
        &default(),
        &message(ADA, &["sales@alias.example", "x@domain.example"]),
    );
    assert_tracked(&json!({"skip_internal": false}), &message(ADA, &among_us));
}

#[test]
fn one_external_participant_is_enough_to_track() {
    assert_tracked(&default(), &message(ADA, &["user@crm.example", STRANGER]));
    assert_tracked(&default(), &message(STRANGER, &[ADA]));
    let bcc = with(message(ADA, &[]), "bcc", json!([{"email": STRANGER}]));
    assert_tracked(&default(), &bcc);
    // A disabled user and an address in a subdomain of an internal domain are external.
    assert_tracked(&default(), &message(ADA, &["former@crm.example"]));
    assert_tracked(&default(), &message(ADA, &["x@sub.domain.example"]));
}

#[test]
fn a_missing_or_unreadable_participant_may_be_external() {
    let from_nobody = with(message(ADA, &[ADA]), "from", Value::Null);
    assert_tracked(&default(), &from_nobody);
    assert_tracked(
        &default(),
        &message(ADA, &["user@crm.example", "the whole team"]),
    );
}

#[test]
fn an_allow_list_tracks_only_messages_with_a_participant_of_its_domains() {
    let allow = json!({"allow": ["kites.example"]});
    assert_tracked(&allow, &message("any@kites.example", &[ADA]));
    assert_tracked(&allow, &message(ADA, &[STRANGER, "any@eu.kites.example"]));
    assert_refused(Rule::NotAllowed, &allow, &message(STRANGER, &[ADA]));
    assert_refused(
        Rule::NotAllowed,
        &allow,
        &message(ADA, &["x@notkites.example"]),
    );
    assert_refused(Rule::NotAllowed, &allow, &message(ADA, &["the whole team"]));
    // Messages among internal participants only are skipped by `InternalOnly` instead.
    assert_refused(
        Rule::InternalOnly,
        &allow,
        &message(ADA, &["x@domain.example"]),
    );
    let internal_too = json!({"allow": ["kites.example"], "skip_internal": false});
    assert_tracked(&internal_too, &message(ADA, &["user@crm.example"]));
    assert_skipped(
        Rule::NotAllowed,
        &internal_too,
        &message(ADA, &["user@crm.example", STRANGER]),
    );
}

#[test]
fn tracking_replies_requires_a_reply_to_a_tracked_email() {
    let replies = json!({"track": {"received": "replies"}});
    let answer_to = |id: &str| with_headers(&[("References", id)]);
    assert_tracked(&replies, &answer_to("<other@x> <tracked@x> <nearer@x>"));
    assert_skipped(Rule::AnswersUntracked, &replies, &answer_to("<other@x>"));
    assert_eq!(
        verdicts(&replies, &answer_to("<other@x>"))[0],
        PolicyVerdict::Open
    );
    assert_skipped(Rule::NotAReply, &replies, &with_headers(&[]));
    assert_tracked(&replies, &message(ADA, &[CAROL]));
    let both = json!({"track": {"received": "replies", "sent": "replies"}});
    assert_refused(Rule::NotAReply, &both, &message(ADA, &[CAROL]));
    assert_refused(Rule::NotAReply, &both, &message(CAROL, &[ADA]));
}

#[test]
fn tracking_known_people_requires_one_known_external_participant() {
    let known = json!({"track": {"received": "known", "sent": "known"}});
    for person in [CAROL, "info@kites.example", "lea@leads.example"] {
        assert_tracked(&known, &message(person, &[ADA]));
        assert_tracked(&known, &message(ADA, &[STRANGER, person]));
    }
    assert_skipped(Rule::NobodyKnown, &known, &message(STRANGER, &[ADA]));
    // A disabled user is external, but not a contact, account or lead.
    assert_skipped(
        Rule::NobodyKnown,
        &known,
        &message("former@crm.example", &[ADA]),
    );
    let stripped =
        json!({"track": {"received": "known"}, "block": [{"address": CAROL, "action": "strip"}]});
    assert_skipped(
        Rule::NobodyKnown,
        &stripped,
        &message(STRANGER, &[ADA, CAROL]),
    );
    let uncounted = json!({"track": {"received": "known"}, "allow": ["outside.example"]});
    assert_skipped(
        Rule::NobodyKnown,
        &uncounted,
        &message(STRANGER, &[ADA, CAROL]),
    );
    assert_tracked(
        &json!({"track": {"sent": "known"}}),
        &message(STRANGER, &[ADA]),
    );
}
