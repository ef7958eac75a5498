//! Tests the effect of policy settings on messages, and which requests they cause.

use chrono::TimeDelta;
use mailverse::ledger::State;
use mailverse::model::sync_request::Trigger;
use mailverse::pipeline::Delivery;
use mailverse::policy::cache::PolicySource;
use mailverse::policy::{Policy, Rule, RuleAnswer};
use serde_json::{Value, json};

use crate::test_organisation::{
    ADA, BEN, TestOrganisation, assert_skipped, bound, created, key, nylas_message, people, policy,
    unbound, waiting, work, written,
};

/// Starts a pipeline with these settings as the policy of the organisation.
async fn under(settings: Value) -> TestOrganisation {
    let mut organisation = TestOrganisation::start().await;
    organisation.pipeline.policy = PolicySource::given(policy(&settings));
    organisation
}

/// Returns the number of requests to Dataverse so far.
fn asked(organisation: &TestOrganisation) -> u64 {
    organisation.emulators.dataverse().requests().total
}

/// Returns changes that give a message this header among others.
fn with_header(name: &str, value: &str) -> Value {
    let id = json!({"name": "Message-ID", "value": "<m1@kites.example>"});
    json!({"headers": [id, {"name": name, "value": value}, {"name": "Date", "value": "today"}]})
}

#[tokio::test]
async fn a_message_skipped_without_a_lookup_causes_no_dataverse_request_and_no_download() {
    let block = json!([{"domain": "kites.example", "action": "drop"}]);
    for (settings, rule) in [
        (
            json!({"track": {"received": "none", "sent": "none"}}),
            Rule::TrackNone,
        ),
        (json!({"folders": {"only": ["CRM"]}}), Rule::Folder),
        (json!({"block": block}), Rule::Blocked),
        (json!({"allow": ["else.example"]}), Rule::NotAllowed),
        (
            json!({"track": {"received": "replies", "sent": "replies"}}),
            Rule::NotAReply,
        ),
    ] {
        let mut organisation = under(settings).await;
        organisation.put(
            ADA,
            nylas_message(
                "m1",
                &json!({"attachments": [{"id": "f1", "filename": "a.pdf"}]}),
            ),
        );
        let before = organisation.emulators.nylas().requests();
        assert_skipped(&organisation.deliver_one(ADA, "m1").await, rule.name());
        assert_eq!(asked(&organisation), 0, "{rule}");
        // Requests: the mailboxes, Ada's and Ben's aliases, the message and the folders. No file.
        assert_eq!(
            organisation.emulators.nylas().requests() - before,
            5,
            "{rule}"
        );
        let entry = organisation.entry(ADA, "m1").await.unwrap();
        assert_eq!(entry.reason.as_deref(), Some(rule.name()));
    }
}

#[tokio::test]
async fn a_message_is_tracked_once_it_is_moved_into_a_tracked_folder() {
    let mut organisation = under(json!({"folders": {"only": ["CRM"]}})).await;
    organisation.put(ADA, nylas_message("m1", &json!({"folders": ["INBOX"]})));
    assert_skipped(&organisation.deliver_one(ADA, "m1").await, "folder");
    // The message was only marked as read.
    let read = organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    assert_skipped(&read[0].outcome, "folder");
    let nylas = organisation.emulators.nylas();
    nylas.add_folder(
        ADA,
        json!({"id": "Label_7", "name": "CRM/Kites", "attributes": []}),
    );
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"folders": ["INBOX", "Label_7"]})),
    );
    // The folder is newer than the cached list of folders, so the list is read again.
    let moved = organisation
        .run(vec![work(ADA, "m1", Trigger::Updated, 1)])
        .await;
    written(&moved[0].outcome);
    organisation.email();
}

#[tokio::test]
async fn an_unlisted_folder_is_looked_for_once_a_minute() {
    let mut organisation = under(json!({"folders": {"except": ["CRM"]}})).await;
    for id in ["m1", "m2", "m3"] {
        organisation.put(ADA, nylas_message(id, &json!({"folders": ["hidden"]})));
    }
    written(&organisation.deliver_one(ADA, "m1").await);
    let before = organisation.emulators.nylas().requests();
    written(&organisation.deliver_one(ADA, "m2").await);
    assert_eq!(
        organisation.emulators.nylas().requests() - before,
        1,
        "only the message is fetched"
    );
    organisation.later(TimeDelta::minutes(1));
    written(&organisation.deliver_one(ADA, "m3").await);
    assert_eq!(
        organisation.emulators.nylas().requests() - before,
        3,
        "the message and the folders are fetched"
    );
}

#[tokio::test]
async fn bulk_mail_is_skipped_by_its_headers_only_if_the_policy_says_so() {
    for (settings, is_skipped) in [(json!({"skip_bulk": true}), true), (json!({}), false)] {
        let mut organisation = under(settings).await;
        organisation.put(
            ADA,
            nylas_message("m1", &with_header("List-Id", "<kites.example>")),
        );
        organisation.put(ADA, nylas_message("m2", &json!({})));
        let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
        if is_skipped {
            assert_skipped(&outcomes[0], "bulk");
        } else {
            written(&outcomes[0]);
        }
        written(&outcomes[1]);
        let ids: Vec<Value> = organisation
            .emails()
            .iter()
            .map(|email| email["messageid"].clone())
            .collect();
        assert!(ids.contains(&json!("<m2@kites.example>")), "{ids:?}");
    }
}

#[tokio::test]
async fn imap_messages_keep_their_message_ids_and_are_bulk_only_by_sender() {
    let mut organisation = under(json!({"skip_bulk": true})).await;
    organisation.emulators.nylas().add_grant(emulators::Grant {
        id: "office".to_owned(),
        email: "office@ours.example".to_owned(),
        provider: "imap".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
    organisation.put(
        "office",
        nylas_message("m1", &with_header("List-Id", "<kites.example>")),
    );
    organisation.put(
        "office",
        nylas_message("m2", &json!({"from": people(&["no-reply@kites.example"])})),
    );
    let outcomes = organisation
        .deliver(&[("office", "m1"), ("office", "m2")])
        .await;
    written(&outcomes[0]);
    assert_eq!(organisation.email()["messageid"], "<m1@kites.example>");
    assert_skipped(&outcomes[1], "bulk");
}

#[tokio::test]
async fn a_listed_message_with_too_few_headers_is_fetched_again() {
    let mut organisation = under(json!({"skip_bulk": true})).await;
    organisation.put(ADA, nylas_message("m1", &with_header("Precedence", "bulk")));
    let listed = organisation
        .pipeline
        .nylas
        .messages(
            &ADA.parse().unwrap(),
            &mailverse::clients::nylas::Filter::default(),
            None,
            mailverse::clients::nylas::Headers::Basic,
            50,
        )
        .await
        .unwrap();
    let in_hand = listed.messages.into_iter().next();
    let processed = organisation
        .run(vec![Delivery {
            message: in_hand,
            ..work(ADA, "m1", Trigger::Backfill, 1)
        }])
        .await;
    assert_skipped(&processed[0].outcome, "bulk");
}

#[tokio::test]
async fn a_stripped_address_is_in_no_party_and_no_column() {
    let settings = json!({"block": [{"address": "eve@outside.example", "action": "strip"}, {"domain": "kites.example", "action": "strip"}]});
    let mut organisation = under(settings).await;
    let to = people(&[
        "eve@outside.example",
        "lea@prospects.example",
        "ada@ours.example",
    ]);
    organisation.put(ADA, nylas_message("m1", &json!({"to": to})));
    written(&organisation.deliver_one(ADA, "m1").await);
    let email = organisation.email();
    assert_eq!(email["sender"], Value::Null);
    assert_eq!(
        email["torecipients"],
        "lea@prospects.example;ada@ours.example"
    );
    assert_eq!(
        organisation.parties(),
        [
            bound(2, "lea@prospects.example", "lead", organisation.people.lea),
            bound(2, "ada@ours.example", "systemuser", organisation.people.ada),
        ]
    );
    assert_eq!(email["directioncode"], false);
}

#[tokio::test]
async fn a_message_keeps_its_direction_if_its_sender_is_stripped() {
    let outside = people(&["carol@kites.example", "eve@outside.example"]);
    for (sender, to, outgoing, status) in [
        ("ada@ours.example", &outside, true, 3),
        // An alias of the mailbox, another mailbox, and an address that is internal by setting.
        ("sales@ours.example", &outside, true, 3),
        ("ben@ours.example", &outside, true, 3),
        ("pat@partner.example", &outside, true, 3),
        (
            "eve@outside.example",
            &people(&["ada@ours.example", "carol@kites.example"]),
            false,
            4,
        ),
    ] {
        let strip = json!([{"address": sender, "action": "strip"}]);
        let mut organisation = under(json!({"block": strip})).await;
        let message = json!({"from": people(&[sender]), "to": to});
        organisation.put(ADA, nylas_message("m1", &message));
        written(&organisation.deliver_one(ADA, "m1").await);
        let email = organisation.email();
        assert_eq!(email["sender"], Value::Null, "{sender}");
        assert_eq!(
            (&email["directioncode"], &email["statuscode"]),
            (&json!(outgoing), &json!(status)),
            "{sender}"
        );
        let has_sender = organisation.parties().iter().any(|party| party.0 == 1);
        assert!(!has_sender, "{sender}");
    }
}

#[tokio::test]
async fn a_copy_in_a_mailbox_without_strip_rules_shares_the_row() {
    let mut organisation = TestOrganisation::start().await;
    let text = json!({"mailboxes": {"ada@ours.example": {"block": [{"address": "carol@kites.example", "action": "strip"}]}}});
    organisation.pipeline.policy = PolicySource::given(Policy::parse(&text.to_string()).unwrap());
    let to =
        json!({"to": people(&["ada@ours.example", "ben@ours.example", "eve@outside.example"])});
    organisation.put(ADA, nylas_message("m1", &to));
    organisation.put(BEN, nylas_message("m1", &to));
    written(&organisation.deliver_one(ADA, "m1").await);
    written(&organisation.deliver_one(BEN, "m1").await);
    let addresses: Vec<String> = organisation
        .parties()
        .into_iter()
        .map(|party| party.1)
        .collect();
    assert_eq!(
        addresses,
        [
            "ada@ours.example",
            "ben@ours.example",
            "eve@outside.example"
        ]
    );
}

#[tokio::test]
async fn a_mailbox_policy_applies_only_to_its_mailbox() {
    let mut organisation = TestOrganisation::start().await;
    let text = json!({"mailboxes": {"Ada@ours.example": {"track": {"received": "none"}}}});
    organisation.pipeline.policy = PolicySource::given(Policy::parse(&text.to_string()).unwrap());
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(BEN, nylas_message("m2", &json!({})));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (BEN, "m2")]).await;
    // Only the lookup shows whether Carol is a user.
    assert_skipped(&outcomes[0], "track_none");
    written(&outcomes[1]);
}

#[tokio::test]
async fn a_reply_to_a_tracked_message_is_tracked_without_a_further_lookup() {
    let mut organisation = under(json!({"track": {"received": "replies"}})).await;
    let sent =
        json!({"from": people(&["ada@ours.example"]), "to": people(&["carol@kites.example"])});
    organisation.put(ADA, nylas_message("m1", &sent));
    let answer_to = |id: &str| {
        let own = json!({"name": "Message-ID", "value": "<answer@kites.example>"});
        json!({"headers": [own, {"name": "In-Reply-To", "value": id}]})
    };
    organisation.put(ADA, nylas_message("m2", &answer_to("<m1@kites.example>")));
    organisation.put(ADA, nylas_message("m3", &json!({})));
    // The answer is delivered first, when the message that it answers has no row yet.
    assert_skipped(
        &organisation.deliver_one(ADA, "m2").await,
        "answers_untracked",
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    let before = asked(&organisation);
    let listed = organisation
        .run(vec![work(ADA, "m2", Trigger::Backfill, 1)])
        .await;
    written(&listed[0].outcome);
    assert_eq!(
        asked(&organisation) - before,
        2,
        "one batch of queries and one of writes"
    );
    assert_skipped(&organisation.deliver_one(ADA, "m3").await, "not_a_reply");
}

#[tokio::test]
async fn only_mail_with_known_people_is_tracked_if_the_policy_says_so() {
    let mut organisation = under(json!({"track": {"received": "known"}})).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(
        ADA,
        nylas_message("m2", &json!({"from": people(&["eve@outside.example"])})),
    );
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    written(&outcomes[0]);
    assert_skipped(&outcomes[1], "nobody_known");
}

#[tokio::test]
async fn with_reduced_content_no_body_is_stored_and_no_file_is_downloaded() {
    for (content, subject, description) in [
        ("snippet", "Kites for spring", "Two red"),
        ("subject", "Kites for spring", ""),
        ("participants", "(not stored)", ""),
    ] {
        let mut organisation = under(json!({"content": content})).await;
        organisation.put(ADA, nylas_message("m1", &json!({"snippet": "Two red"})));
        let file = json!({"id": "f1", "filename": "a.pdf", "content_type": "application/pdf"});
        organisation
            .emulators
            .nylas()
            .add_attachment(ADA, "m1", file, b"text".to_vec());
        let before = organisation.emulators.nylas().requests();
        written(&organisation.deliver_one(ADA, "m1").await);
        assert_eq!(
            organisation.emulators.nylas().requests() - before,
            5,
            "no file is downloaded"
        );
        let email = organisation.email();
        assert_eq!(email["subject"], subject);
        assert_eq!(
            email["description"].as_str().unwrap_or_default(),
            description
        );
        assert!(organisation.attachments().is_empty());
        assert_eq!(
            organisation.parties()[0],
            bound(
                1,
                "carol@kites.example",
                "contact",
                organisation.people.carol
            )
        );
    }
}

#[tokio::test]
async fn the_outcome_of_a_message_includes_the_evaluated_rules() {
    let mut organisation = under(json!({"track": {"received": "known"}})).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.put(
        ADA,
        nylas_message("m2", &json!({"from": people(&["eve@outside.example"])})),
    );
    let processed = organisation
        .run(vec![created(ADA, "m1"), created(ADA, "m2")])
        .await;
    let last = |id: &str| {
        let done = processed
            .iter()
            .find(|done| done.key == key(ADA, id))
            .unwrap();
        *done.decision.as_ref().unwrap().path.last().unwrap()
    };
    assert_eq!(
        (last("m1").rule, last("m1").answer),
        (Rule::NobodyKnown, RuleAnswer::Passes)
    );
    assert_eq!(
        (last("m2").rule, last("m2").answer),
        (Rule::NobodyKnown, RuleAnswer::Skips)
    );
}

#[tokio::test]
async fn the_default_policy_applies_until_five_minutes_after_a_push() {
    let mut organisation = TestOrganisation::start().await;
    organisation.pipeline.policy = PolicySource::ledger();
    for id in ["m1", "m2", "m3"] {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    written(&organisation.deliver_one(ADA, "m1").await);
    let text = r#"{"defaults": {"block": [{"domain": "kites.example", "action": "drop"}]}}"#;
    let ledger = &organisation.pipeline.ledger;
    let pushed = ledger.push_policy(text, "v1", None, organisation.now).await;
    pushed.unwrap();
    organisation.later(TimeDelta::seconds(299));
    written(&organisation.deliver_one(ADA, "m2").await);
    organisation.later(TimeDelta::seconds(1));
    assert_skipped(&organisation.deliver_one(ADA, "m3").await, "blocked");
}

#[tokio::test]
async fn messages_wait_unfetched_while_the_stored_policy_is_unusable() {
    let mut organisation = TestOrganisation::start().await;
    organisation.pipeline.policy = PolicySource::ledger();
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let ledger = &organisation.pipeline.ledger;
    let pushed = ledger.push_policy(
        r#"{"defaults": {"new_setting": "carol"}}"#,
        "v1",
        None,
        organisation.now,
    );
    pushed.await.unwrap();
    let before = organisation.emulators.nylas().requests();
    for receive_count in [1, 10] {
        let processed = organisation
            .run(vec![work(ADA, "m1", Trigger::Created, receive_count)])
            .await;
        let (delay, reason) = waiting(&processed[0].outcome);
        assert_eq!(delay.as_secs(), 300);
        assert_eq!(
            reason,
            "the stored policy (version v1) has 1 problem(s) and cannot be used: run `mailverse policy show`"
        );
    }
    assert_eq!(organisation.emulators.nylas().requests(), before);
    // The last delivery of a queue message does not end the message. The worker queues it again
    // and records that in the ledger.
    let key = created(ADA, "m1").request.key;
    let ledger = &organisation.pipeline.ledger;
    assert!(ledger.mark_requeued(&key, organisation.now).await.unwrap());
    assert_eq!(
        organisation.entry(ADA, "m1").await.unwrap().state,
        State::Waiting
    );
    // Once the policy is fixed, it applies at once, not after five minutes.
    let ledger = &organisation.pipeline.ledger;
    ledger
        .push_policy("{}", "v2", Some("v1"), organisation.now)
        .await
        .unwrap();
    written(&organisation.deliver_one(ADA, "m1").await);
}

#[tokio::test]
async fn internal_mail_is_tracked_if_the_policy_says_so() {
    let mut organisation = under(json!({"skip_internal": false})).await;
    organisation.put(
        ADA,
        nylas_message(
            "m1",
            &json!({"from": people(&["ada@ours.example"]), "to": people(&["x@partner.example"])}),
        ),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.email()["directioncode"], true);
    assert_eq!(
        organisation.parties(),
        [
            bound(1, "ada@ours.example", "systemuser", organisation.people.ada),
            unbound(2, "x@partner.example")
        ]
    );
}
