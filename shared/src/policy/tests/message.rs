//! Tests the rules about a message and its folders.

use serde_json::{Value, json};

use super::*;

#[test]
fn drafts_spam_and_trash_are_skipped_whatever_the_policy_says() {
    let all = json!({"track": {"received": "all", "sent": "all"}, "folders": {"only": ["Entwürfe", "Werbung", "Papierkorb"]}});
    for (folder, rule) in [
        ("drafts", Rule::Draft),
        ("junk", Rule::Spam),
        ("bin", Rule::Trash),
    ] {
        let lying_there = with(message(CAROL, &[ADA]), "folders", json!(["in", folder]));
        assert_refused(rule, &default(), &lying_there);
        assert_refused(rule, &all, &lying_there);
    }
    assert_tracked(
        &default(),
        &with(message(CAROL, &[ADA]), "folders", json!(["in"])),
    );
}

#[test]
fn only_the_listed_folders_or_all_except_the_listed_are_tracked() {
    let lying_in = |folders: &[&str]| with(message(CAROL, &[ADA]), "folders", json!(folders));
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
fn an_untracked_direction_is_skipped_as_soon_as_it_is_known() {
    let (sent, received) = (message(ADA, &[CAROL]), message(CAROL, &[ADA]));
    let by_user = message("user@crm.example", &[CAROL]);
    let none_sent = json!({"track": {"sent": "none"}});
    assert_refused(Rule::TrackNone, &none_sent, &sent);
    assert_tracked(&none_sent, &received);
    // Only the lookup tells that the sender is a user.
    assert_eq!(verdicts(&none_sent, &by_user)[0], PolicyVerdict::Open);
    assert_skipped(Rule::TrackNone, &none_sent, &by_user);
    let none_received = json!({"track": {"received": "none"}});
    assert_tracked(&none_received, &sent);
    assert_tracked(&none_received, &by_user);
    assert_skipped(Rule::TrackNone, &none_received, &received);
    let from_nobody = with(received.clone(), "from", Value::Null);
    assert_refused(Rule::TrackNone, &none_received, &from_nobody);
    let neither = json!({"track": {"received": "none", "sent": "none"}});
    for message in [&sent, &received, &by_user] {
        assert_refused(Rule::TrackNone, &neither, message);
    }
}

#[test]
fn a_message_with_a_blocked_participant_in_any_role_is_dropped() {
    let block = json!({"block": [{"address": STRANGER, "action": "drop"}, {"domain": "bad.example", "action": "drop"}]});
    for blocked in [STRANGER, "eve+news@outside.example", "x@sub.bad.example"] {
        assert_refused(Rule::Blocked, &block, &message(blocked, &[ADA]));
        assert_refused(Rule::Blocked, &block, &message(ADA, &[CAROL, blocked]));
        let bcc = with(message(ADA, &[CAROL]), "bcc", json!([{"email": blocked}]));
        assert_refused(Rule::Blocked, &block, &bcc);
    }
    for other in ["steve@outside.example", "x@notbad.example"] {
        assert_tracked(&block, &message(other, &[ADA]));
    }
}

#[test]
fn a_stripped_participant_does_not_count_and_does_not_block_the_message() {
    let block = json!({"block": [{"address": STRANGER, "action": "strip"}]});
    assert_tracked(&block, &message(STRANGER, &[ADA, CAROL]));
    assert_skipped(Rule::InternalOnly, &block, &message(STRANGER, &[ADA]));
    assert_skipped(Rule::InternalOnly, &block, &message(ADA, &[STRANGER]));
    assert_refused(Rule::Nobody, &block, &message(STRANGER, &[STRANGER]));
    let both = json!({"block": [{"address": STRANGER, "action": "strip"}, {"domain": "outside.example", "action": "drop"}]});
    assert_refused(Rule::Blocked, &both, &message(STRANGER, &[ADA, CAROL]));
}

#[test]
fn bulk_mail_is_skipped_if_the_policy_requires_it() {
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
    assert_refused(
        Rule::Bulk,
        &skip,
        &message("no-reply@kites.example", &[ADA]),
    );
    assert_tracked(&skip, &message(ADA, &["no-reply@kites.example"]));
}

#[test]
fn a_reply_is_not_the_first_message_of_its_thread() {
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
fn a_message_without_any_usable_address_is_skipped_by_its_own_rule() {
    let nobody = json!({"id": "m", "to": [{"email": "undisclosed recipients"}]});
    assert_refused(Rule::Nobody, &default(), &nobody);
    assert_tracked(
        &default(),
        &with(nobody, "from", json!([{"email": STRANGER}])),
    );
}
