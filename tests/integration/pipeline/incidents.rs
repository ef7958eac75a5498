//! Tests what happens if Dataverse or Nylas rejects every message: messages wait, none becomes
//! dead, and few requests are sent meanwhile.

use chrono::TimeDelta;
use emulators::{Privilege, RefusedEmails, Setting};
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::refusal::RefusalState;
use mailverse::ledger::State;
use mailverse::ledger::pauses::Scope;
use mailverse::pipeline::Outcome;
use mailverse::rate_limit::ApplicationUser;
use serde_json::json;

use crate::test_organisation::{
    ADA, BEN, TestOrganisation, dead, nylas_message, people, throttled, waiting, written,
};

in_both_write_modes!(
    a_disabled_application_user_makes_messages_wait_with_one_request_per_pause,
    a_removed_privilege_is_named_and_makes_messages_wait,
    an_unknown_error_code_pauses_the_user_after_five_messages,
    a_rejected_message_becomes_dead_once_another_one_is_written,
);

const IDS: [&str; 10] = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"];

async fn ten_mails(mode: WriteMode) -> TestOrganisation {
    let organisation = TestOrganisation::start_in(mode).await;
    for id in IDS {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    organisation
}

async fn deliver(organisation: &mut TestOrganisation) -> Vec<Outcome> {
    organisation.deliver(&IDS.map(|id| (ADA, id))).await
}

fn refuse(organisation: &TestOrganisation, status: u16, code: &'static str, subject: &'static str) {
    let refused = RefusedEmails {
        status,
        code,
        subject,
    };
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_setting(Setting::RefusedEmails(Some(refused)));
}

impl TestOrganisation {
    fn sent(&self) -> u64 {
        self.emulators.dataverse().requests().total
    }

    async fn refusals(&self) -> RefusalState {
        let limiter_state = self
            .pipeline
            .ledger
            .limiter_state(&ApplicationUser::primary())
            .await;
        limiter_state.unwrap().refused
    }

    async fn all_are_written(&mut self) {
        self.later(TimeDelta::minutes(6));
        for outcome in deliver(self).await {
            written(&outcome);
        }
        assert_eq!(self.emails().len(), IDS.len());
        assert_eq!(self.refusals().await.cause, None, "the pause has ended");
    }
}

/// Asserts that all messages wait and that no attempt was counted.
async fn all_wait(organisation: &TestOrganisation, outcomes: &[Outcome]) {
    for (outcome, id) in outcomes.iter().zip(IDS) {
        let Outcome::Waiting { postponed, .. } = outcome else {
            panic!("{id} does not wait: {outcome:?}");
        };
        assert!(postponed, "{id}");
        if let Some(entry) = organisation.entry(ADA, id).await {
            assert_eq!((entry.state, entry.failures), (State::Waiting, 0), "{id}");
        }
    }
}

async fn a_disabled_application_user_makes_messages_wait_with_one_request_per_pause(
    mode: WriteMode,
) {
    let mut organisation = ten_mails(mode).await;
    organisation.emulators.dataverse().remove_application_user();
    let outcomes = deliver(&mut organisation).await;
    all_wait(&organisation, &outcomes).await;
    assert_eq!(
        organisation.sent(),
        1,
        "only the lookup of the batch was sent"
    );
    let cause = organisation.refusals().await.cause.unwrap();
    assert!(cause.contains("0x80072560"), "{cause}");
    // During the pause nothing is sent. After it, the first worker sends one probe.
    for (minutes, sent) in [(0, 1), (2, 2), (0, 2), (3, 3), (5, 4)] {
        organisation.later(TimeDelta::minutes(minutes));
        let outcomes = deliver(&mut organisation).await;
        all_wait(&organisation, &outcomes).await;
        assert_eq!(organisation.sent(), sent, "{minutes} minutes later");
    }
    organisation.emulators.dataverse().add_application_user();
    organisation.all_are_written().await;
}

async fn a_removed_privilege_is_named_and_makes_messages_wait(mode: WriteMode) {
    let mut organisation = ten_mails(mode).await;
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse.set_setting(Setting::Withheld(vec![(Privilege::Create, "activity")]));
    let outcomes = deliver(&mut organisation).await;
    all_wait(&organisation, &outcomes).await;
    let refusals = organisation.refusals().await;
    let cause = refusals.cause.unwrap();
    assert!(cause.contains("0x80040220"), "{cause}");
    assert_eq!(refusals.times, 1);
    let before = organisation.sent();
    organisation.later(TimeDelta::minutes(2));
    let outcomes = deliver(&mut organisation).await;
    all_wait(&organisation, &outcomes).await;
    assert!(
        organisation.sent() - before <= 5,
        "{} requests",
        organisation.sent() - before
    );
    assert_eq!(organisation.refusals().await.times, 2);
    dataverse.set_setting(Setting::Withheld(Vec::new()));
    organisation.all_are_written().await;
}

async fn an_unknown_error_code_pauses_the_user_after_five_messages(mode: WriteMode) {
    let mut organisation = ten_mails(mode).await;
    refuse(&organisation, 400, "0x80099999", "");
    // Messages arrive one by one. It is not yet known whether the message itself is the cause.
    for id in &IDS[..4] {
        let outcome = organisation.deliver_one(ADA, id).await;
        assert!(
            matches!(
                outcome,
                Outcome::Waiting {
                    postponed: false,
                    ..
                }
            ),
            "{outcome:?}"
        );
    }
    assert_eq!(organisation.refusals().await.messages, 4);
    // A second rejection of the same message does not count.
    waiting(&organisation.deliver_one(ADA, IDS[0]).await);
    assert_eq!(organisation.refusals().await.cause, None);
    let outcome = organisation.deliver_one(ADA, IDS[4]).await;
    assert!(
        matches!(
            outcome,
            Outcome::Waiting {
                postponed: true,
                ..
            }
        ),
        "{outcome:?}"
    );
    let cause = organisation.refusals().await.cause.unwrap();
    assert!(cause.contains("0x80099999"), "{cause}");
    let before = organisation.sent();
    deliver(&mut organisation).await;
    assert_eq!(
        organisation.sent(),
        before,
        "all messages of this user pause"
    );
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_setting(Setting::RefusedEmails(None));
    organisation.all_are_written().await;
}

async fn a_rejected_message_becomes_dead_once_another_one_is_written(mode: WriteMode) {
    let mut organisation = ten_mails(mode).await;
    organisation.put(
        ADA,
        nylas_message("bad", &json!({"subject": "Invoice for a plug-in"})),
    );
    refuse(&organisation, 400, "0x80040265", "plug-in");
    let outcome = organisation.deliver_one(ADA, "bad").await;
    let (_, reason) = waiting(&outcome);
    assert!(reason.contains("0x80040265"), "{reason}");
    organisation.later(TimeDelta::minutes(1));
    written(&organisation.deliver_one(ADA, "m0").await);
    organisation.later(TimeDelta::minutes(1));
    let outcome = organisation.deliver_one(ADA, "bad").await;
    assert!(dead(&outcome).contains("0x80040265"), "{outcome:?}");
}

#[tokio::test]
async fn a_throttled_mailbox_gets_no_request_until_its_pause_ends() {
    let mut organisation = ten_mails(WriteMode::ChangeSet).await;
    let of_ben = json!({"to": people(&["ben@ours.example"])});
    organisation.put(BEN, nylas_message("b1", &of_ben));
    organisation.put(BEN, nylas_message("b2", &of_ben));
    // This caches mailboxes and folders.
    organisation.put(ADA, nylas_message("before", &json!({})));
    written(&organisation.deliver_one(ADA, "before").await);
    organisation.fail_nylas_at("/messages/m0?", throttled("rate_limit_error", 120));
    let asked = |organisation: &TestOrganisation| organisation.emulators.nylas().requests();
    let before = asked(&organisation);
    let outcomes = deliver(&mut organisation).await;
    // A few calls are already running when the first answer arrives.
    let first = asked(&organisation) - before;
    assert!(first <= 3, "{first} requests");
    let waits = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Waiting { .. }))
        .count();
    assert!(waits >= 8, "{outcomes:?}");
    let before = asked(&organisation);
    // Another worker gets another message of the throttled mailbox, and one of another mailbox.
    let another = organisation.another_pipeline().await;
    let run = organisation.begin();
    let work = vec![
        crate::test_organisation::created(ADA, "m9"),
        crate::test_organisation::created(BEN, "b1"),
    ];
    let processed = another.run(work, run).await;
    let outcome = |id: &str| {
        let done = processed
            .iter()
            .find(|done| done.key.message_id.as_str() == id);
        &done.unwrap().outcome
    };
    let (delay, _) = waiting(outcome("m9"));
    assert!((110..=120).contains(&delay.as_secs()), "{delay:?}");
    written(outcome("b1"));
    let most = 2 + 2 + 1 + 1;
    assert!(
        asked(&organisation) - before <= most,
        "only grants, their aliases, one message and its folders are requested"
    );
    organisation.later(TimeDelta::minutes(3));
    for outcome in deliver(&mut organisation).await {
        written(&outcome);
    }
}

#[tokio::test]
async fn a_revoked_key_pauses_all_mailboxes_and_a_signed_out_mailbox_only_itself() {
    let mut organisation = ten_mails(WriteMode::ChangeSet).await;
    organisation.put(
        BEN,
        nylas_message("b1", &json!({"to": people(&["ben@ours.example"])})),
    );
    written(&organisation.deliver_one(ADA, "m0").await);
    organisation
        .emulators
        .nylas()
        .set_grant_status(ADA, "invalid");
    let outcomes = organisation.deliver(&[(ADA, "m1"), (BEN, "b1")]).await;
    waiting(&outcomes[0]);
    written(&outcomes[1]);
    let pauses = async |organisation: &TestOrganisation| {
        let scopes = [Scope::Nylas, Scope::Mailbox(ADA.parse().unwrap())];
        let pauses = organisation.pipeline.ledger.pauses(&scopes).await.unwrap();
        scopes.map(|scope| pauses.get(&scope).and_then(|it| it.refused.cause.clone()))
    };
    let [key, mailbox] = pauses(&organisation).await;
    assert_eq!(key, None);
    assert!(mailbox.unwrap().starts_with("401"));
    organisation
        .emulators
        .nylas()
        .set_grant_status(ADA, "valid");
    organisation.later(TimeDelta::minutes(16));
    organisation.emulators.nylas().revoke_api_key();
    let outcomes = organisation
        .deliver(&[(ADA, "m1"), (ADA, "m2"), (ADA, "m3")])
        .await;
    for outcome in &outcomes {
        waiting(outcome);
    }
    assert!(
        pauses(&organisation).await[0].is_some(),
        "the pause covers the API key, and so every mailbox"
    );
    let before = organisation.emulators.nylas().requests();
    for outcome in deliver(&mut organisation).await.iter().skip(1) {
        waiting(outcome);
    }
    assert_eq!(organisation.emulators.nylas().requests(), before);
    organisation.emulators.nylas().restore_api_key();
    organisation.later(TimeDelta::minutes(16));
    for outcome in deliver(&mut organisation).await {
        written(&outcome);
    }
    assert_eq!(pauses(&organisation).await, [None, None]);
}
