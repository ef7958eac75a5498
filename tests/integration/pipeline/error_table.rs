//! Tests the outcome of a message, and of its neighbours, for each row of the error table
//! (Dataverse facts §12).
//!
//! There is one test for each class of answers. Each row of a class is returned for the second of
//! three messages, in each of these ways:
//!
//! | Way | Write mode |
//! | --- | --- |
//! | for a part of the batch, with the failed change set wrapped or bare (§9a) | `changeset` |
//! | as the answer to a separate request | `stepwise` |
//! | as the answer to the whole batch of three | `changeset` |

use emulators::{Fault, Grant, Setting};
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::ledger::State;
use mailverse::pipeline::Outcome;
use serde_json::json;

use crate::test_organisation::{
    ATTACH, CREATE, TestOrganisation, dead, nylas_message, status, throttled, waiting, written,
};

/// A mailbox without a Dynamics user, so that there is no owner to leave out.
const OFFICE: &str = "grant-office";

/// Number of queries in a lookup of one page of people and messages.
const LOOK_UP_QUERIES: u64 = 6;

/// First step of the backoff, in seconds.
const FIRST_STEP: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Met {
    InAPart { bare: bool },
    OnItsOwn,
    ByTheBatch,
}

const WAYS: [Met; 4] = [
    Met::InAPart { bare: false },
    Met::InAPart { bare: true },
    Met::OnItsOwn,
    Met::ByTheBatch,
];

/// A pipeline in which Dataverse returns the tested answers in one of the ways.
struct Table {
    organisation: TestOrganisation,
    met: Met,
    rows: usize,
}

/// Three messages and their outcomes.
struct Three {
    ids: [String; 3],
    outcomes: Vec<Outcome>,
    /// Description of the tested answer, for assertion messages.
    row: String,
}

impl Table {
    async fn start(met: Met) -> Self {
        let mode = if met == Met::OnItsOwn {
            WriteMode::Stepwise
        } else {
            WriteMode::ChangeSet
        };
        let organisation = TestOrganisation::start_in(mode).await;
        organisation.emulators.nylas().add_grant(Grant {
            id: OFFICE.to_owned(),
            email: "office@ours.example".to_owned(),
            provider: "imap".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        let bare = met == Met::InAPart { bare: true };
        let dataverse = organisation.emulators.dataverse();
        dataverse.set_setting(Setting::BareChangeSetErrors(bare));
        Self {
            organisation,
            met,
            rows: 0,
        }
    }

    /// Delivers three messages. Dataverse answers the create of the second with `fault`.
    async fn deliver(&mut self, fault: Fault) -> Three {
        self.rows += 1;
        let row = format!("{fault:?} met {:?}", self.met);
        let ids = [1, 2, 3].map(|n| format!("m{}-{n}", self.rows));
        for id in &ids {
            self.organisation.put(OFFICE, nylas_message(id, &json!({})));
        }
        let of_the_second = format!("<{}@kites.example>", ids[1]);
        match self.met {
            Met::InAPart { .. } => {
                let dataverse = self.organisation.emulators.dataverse();
                // Each message is a POST and a PATCH.
                dataverse.fail_operation(LOOK_UP_QUERIES + 2, fault);
            }
            Met::OnItsOwn => self.organisation.fail_dataverse_at(&of_the_second, fault),
            Met::ByTheBatch => self.organisation.fail_dataverse_at(CREATE, fault),
        }
        let outcomes = self.organisation.deliver(&in_office(&ids)).await;
        Three { ids, outcomes, row }
    }

    /// Delivers the three messages again and asserts that each is one completed row.
    async fn is_written_at_the_next_delivery(&mut self, three: &Three) {
        self.organisation.pause_over();
        for outcome in self.organisation.deliver(&in_office(&three.ids)).await {
            let (id, _) = written(&outcome);
            let email = self
                .organisation
                .emulators
                .dataverse()
                .row("email", id)
                .unwrap();
            assert_eq!(email["statecode"], 1, "{}", three.row);
        }
        assert_eq!(
            self.organisation.emails().len(),
            3 * self.rows,
            "{}",
            three.row
        );
    }
}

/// Asserts that both neighbours are written.
fn are_written(neighbours: [&Outcome; 2]) {
    for outcome in neighbours {
        written(outcome);
    }
}

fn in_office(ids: &[String; 3]) -> [(&str, &str); 3] {
    ids.each_ref().map(|id| (OFFICE, id.as_str()))
}

impl Three {
    /// Returns the outcome of the message that got the tested answer, and those of its neighbours.
    fn split(&self) -> (&Outcome, [&Outcome; 2]) {
        (&self.outcomes[1], [&self.outcomes[0], &self.outcomes[2]])
    }
}

#[tokio::test]
async fn a_permanently_rejected_message_is_dead_and_logged_as_an_error() {
    let rows = [
        (400, "0x80048d19"),
        (400, "0x80060888"),
        (404, "0x80060888"),
        (405, "0x80060888"),
        (501, "0x80060888"),
        (404, "0x8006088A"),
        (501, "0x8006088A"),
        (400, "0x80048408"),
        (400, "0x80044331"),
        (400, "0x8004431A"),
        (400, "0x80040203"),
        (400, "0x80040200"),
        (400, "0x80040278"),
        (400, "0x80040265"),
        (405, "0x80040227"),
        (412, "0x80040333"),
        (500, "0x80040333"),
    ];
    for met in WAYS.into_iter().filter(|met| *met != Met::ByTheBatch) {
        let mut table = Table::start(met).await;
        for (n, (http, code)) in rows.iter().enumerate() {
            let three = table.deliver(status(*http, code)).await;
            let (second, neighbours) = three.split();
            let named = format!("{http} {}", code.to_lowercase());
            assert!(
                dead(second).to_lowercase().contains(&named),
                "{}",
                three.row
            );
            are_written(neighbours);
            let entry = table
                .organisation
                .entry(OFFICE, &three.ids[1])
                .await
                .unwrap();
            assert_eq!(entry.state, State::Dead, "{}", three.row);
            assert_eq!(
                table.organisation.emails().len(),
                2 * (n + 1),
                "{}",
                three.row
            );
            assert_eq!(
                table.organisation.log.errors_about(&three.ids[1]),
                1,
                "{}",
                three.row
            );
            assert_eq!(
                table.organisation.log.errors(),
                n + 1,
                "{}: one error for each dead message and no other",
                three.row
            );
        }
    }
}

#[tokio::test]
async fn a_message_whose_single_request_is_too_large_is_dead() {
    for met in WAYS.into_iter().filter(|met| *met != Met::ByTheBatch) {
        let mut table = Table::start(met).await;
        for code in ["0x8004418A", ""] {
            let three = table.deliver(status(413, code)).await;
            let (second, neighbours) = three.split();
            let reason = "dataverse refused the request: it is too large";
            assert_eq!(dead(second), reason, "{}", three.row);
            are_written(neighbours);
            assert_eq!(
                table.organisation.log.errors_about(&three.ids[1]),
                1,
                "{}",
                three.row
            );
        }
    }
}

#[tokio::test]
async fn a_rejected_batch_is_repeated_message_by_message() {
    let mut table = Table::start(Met::ByTheBatch).await;
    for (http, code) in [
        (413, "0x8004418A"),
        (413, ""),
        (400, "0x80048d19"),
        (400, "0x80060888"),
        (400, ""),
    ] {
        let before = table.organisation.emulators.dataverse().requests().total;
        let three = table.deliver(status(http, code)).await;
        for outcome in &three.outcomes {
            written(outcome);
        }
        let sent = table.organisation.emulators.dataverse().requests().total - before;
        let expected = 1 + 1 + 3;
        assert_eq!(
            sent, expected,
            "{}: a lookup, the batch, three single messages",
            three.row
        );
    }
    assert_eq!(table.organisation.log.errors(), 0);
}

#[tokio::test]
async fn a_message_with_a_transient_error_waits_for_the_backoff_and_is_written() {
    let rows = [
        (400, "0x80040216"),
        (500, "0x80040216"),
        (500, "0x80044151"),
        (500, "0x80044150"),
        (500, "0x80073000"),
        (500, "0x80072323"),
        (500, "0x80072324"),
        (500, "0x80071154"),
        (500, "0x8004A001"),
        (500, "0x80081111"),
        (502, ""),
        (503, ""),
        (504, ""),
    ];
    waits_alone_and_is_then_written(&rows, "dataverse is unavailable: ").await;
}

/// Dataverse rejects the caller once, while it accepts the neighbours' rows.
#[tokio::test]
async fn a_rejection_of_the_caller_makes_no_message_dead_even_if_others_are_written() {
    let rows = [
        (403, "0x80040220"),
        (403, "0x80048306"),
        (403, "0x80048405"),
        (403, "0x80072560"),
        (403, "0x8004A104"),
    ];
    for met in WAYS.into_iter().filter(|met| *met != Met::ByTheBatch) {
        let mut table = Table::start(met).await;
        for (http, code) in rows {
            let three = table.deliver(status(http, code)).await;
            let (second, neighbours) = three.split();
            let (delay, reason) = waiting(second);
            assert_eq!(delay.as_secs(), FIRST_STEP, "{}", three.row);
            let named = format!("{http} {}", code.to_lowercase());
            assert!(reason.to_lowercase().contains(&named), "{}", three.row);
            are_written(neighbours);
            table.is_written_at_the_next_delivery(&three).await;
        }
    }
}

#[tokio::test]
async fn a_message_with_a_stale_lookup_result_is_looked_up_again_and_written() {
    let rows = [
        (404, "0x80040217"),
        (404, "0x80060891"),
        (412, "0x80060882"),
        (412, "0x80060892"),
    ];
    waits_alone_and_is_then_written(&rows, "a dataverse row changed in the meantime: ").await;
}

async fn waits_alone_and_is_then_written(rows: &[(u16, &str)], reason: &str) {
    for met in WAYS {
        let mut table = Table::start(met).await;
        for (http, code) in rows {
            let three = table.deliver(status(*http, code)).await;
            let (second, neighbours) = three.split();
            let expect = |outcome: &Outcome| {
                let (delay, why) = waiting(outcome);
                assert_eq!(delay.as_secs(), FIRST_STEP, "{}", three.row);
                assert!(why.starts_with(reason), "{why}: {}", three.row);
            };
            expect(second);
            if met == Met::ByTheBatch {
                neighbours.into_iter().for_each(expect);
            } else {
                are_written(neighbours);
            }
            table.is_written_at_the_next_delivery(&three).await;
        }
        assert_eq!(
            table.organisation.log.errors(),
            0,
            "{met:?}: no error is logged, because no operator has to act"
        );
    }
}

#[tokio::test]
async fn a_throttled_message_waits_for_its_retry_after_and_is_written() {
    for met in WAYS {
        let mut table = Table::start(met).await;
        for code in ["0x80072322", "0x80072321", "0x80072326", "0x8005F103", ""] {
            let three = table.deliver(throttled(code, 77)).await;
            let (second, [first, third]) = three.split();
            let expect =
                |outcome: &Outcome| assert_eq!(waiting(outcome).0.as_secs(), 77, "{}", three.row);
            expect(second);
            match met {
                // Dataverse answered the parts of the neighbours.
                Met::InAPart { .. } => are_written([first, third]),
                Met::OnItsOwn => {
                    written(first);
                    expect(third);
                }
                Met::ByTheBatch => [first, third].into_iter().for_each(expect),
            }
            table.is_written_at_the_next_delivery(&three).await;
        }
        assert_eq!(
            table.organisation.log.errors(),
            0,
            "{met:?}: no error is logged, because no operator has to act"
        );
    }
}

#[tokio::test]
async fn a_rejected_token_is_renewed_once_and_the_messages_are_written() {
    for met in [Met::OnItsOwn, Met::ByTheBatch] {
        let mut table = Table::start(met).await;
        let three = table.deliver(status(401, "")).await;
        let (second, [first, third]) = three.split();
        let expect = |outcome: &Outcome| {
            let (delay, reason) = waiting(outcome);
            assert_eq!(
                (delay.as_secs(), reason),
                (FIRST_STEP, "dataverse refused the token")
            );
        };
        expect(second);
        expect(third);
        if met == Met::OnItsOwn {
            written(first);
        } else {
            expect(first);
        }
        assert_eq!(table.organisation.emulators.entra().requests(), 1);
        table.is_written_at_the_next_delivery(&three).await;
        assert_eq!(
            table.organisation.emulators.entra().requests(),
            2,
            "the token is renewed once"
        );
    }
}

#[tokio::test]
async fn a_message_rejected_for_a_duplicate_key_is_still_written() {
    for met in WAYS.into_iter().filter(|met| *met != Met::ByTheBatch) {
        let mut table = Table::start(met).await;
        let three = table.deliver(status(412, "0x80040237")).await;
        if met == Met::OnItsOwn {
            // The answer says that the row exists, but it does not. Another row may have the
            // Message-ID, so the message is written without it.
            let (_, note) = written(&three.outcomes[1]);
            assert_eq!(note, Some("left out: message_id_reused"));
            assert_eq!(table.organisation.emails().len(), 3);
        } else {
            for outcome in &three.outcomes {
                written(outcome);
            }
            assert_eq!(table.organisation.emails().len(), 3);
        }
        assert_eq!(table.organisation.log.errors(), 0);
    }
}

#[tokio::test]
async fn a_rejected_attachment_is_omitted_and_the_email_is_written() {
    for mode in [WriteMode::ChangeSet, WriteMode::Stepwise] {
        for code in ["0x80044A02", "0x80044A04", "0x80044A08", "0x80043E09"] {
            let mut organisation = TestOrganisation::start_in(mode).await;
            organisation.put(
                crate::test_organisation::ADA,
                nylas_message("m1", &json!({})),
            );
            let file = json!({"id": "a1", "filename": "a.pdf", "content_type": "application/pdf"});
            let nylas = organisation.emulators.nylas();
            nylas.add_attachment(crate::test_organisation::ADA, "m1", file, b"%PDF".to_vec());
            if mode == WriteMode::ChangeSet {
                let dataverse = organisation.emulators.dataverse();
                dataverse.fail_operation(LOOK_UP_QUERIES + 1, status(400, code));
                // The change set fails there. Then the email and the attachment are sent
                // separately, and the attachment is rejected again.
                dataverse.fail_operation(LOOK_UP_QUERIES + 3, status(400, code));
            } else {
                organisation.fail_dataverse_at(ATTACH, status(400, code));
            }
            let outcome = organisation
                .deliver_one(crate::test_organisation::ADA, "m1")
                .await;
            let note = Some("left out: attachment");
            assert_eq!(written(&outcome).1, note, "{code} {mode:?}");
            let email = organisation.email();
            assert_eq!(email["statecode"], 1, "{code} {mode:?}");
            assert_eq!(email["notifications"], 1, "{code} {mode:?}");
            assert!(organisation.attachments().is_empty(), "{code} {mode:?}");
        }
    }
}
