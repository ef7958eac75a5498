//! Tests organisations with shorter columns: texts are cut to the column lengths, which are read
//! once.

use emulators::Fault;
use mailverse::clients::dataverse::emails::WriteMode;
use serde_json::{Value, json};

use crate::test_organisation::{
    ADA, TestOrganisation, nylas_message, people, status, throttled, to_row, waiting,
    with_a_mail_in, written,
};

in_both_write_modes!(
    texts_are_truncated_to_the_column_lengths_of_the_organisation,
    column_lengths_are_read_once_and_later_messages_are_truncated_in_advance,
    a_failed_read_of_column_lengths_delays_the_message_without_other_effects,
);

fn shorten(organisation: &TestOrganisation, columns: &[(&str, &str, usize)]) {
    for (table, column, length) in columns {
        let dataverse = organisation.emulators.dataverse();
        dataverse.set_max_length(table, column, *length).unwrap();
    }
}

async fn texts_are_truncated_to_the_column_lengths_of_the_organisation(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    shorten(
        &organisation,
        &[
            ("email", "subject", 10),
            ("email", "sender", 5),
            ("email", "messageid", 6),
            ("email", "torecipients", 33),
            ("activitymimeattachment", "filename", 12),
        ],
    );
    let to = people(&["ada@ours.example", "ben@ours.example", "x@y.example"]);
    let long = json!({"subject": "Red kites, please", "to": to});
    organisation.put(ADA, nylas_message("m1", &long));
    organisation.attach(ADA, "m1", "f1", "a long name.pdf", b"abc");
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (_, note) = written(&outcome);
    assert_eq!(note, Some("left out: long Message-ID"));
    let email = organisation.email();
    assert_eq!(email["subject"], "Red kites,");
    assert_eq!(email["torecipients"], "ada@ours.example;ben@ours.example");
    assert_eq!(
        email["sender"],
        Value::Null,
        "an address is left out, because a cut one would be another address"
    );
    assert_eq!(email["messageid"], Value::Null);
    assert_eq!(organisation.attachments()[0]["filename"], "a long n.pdf");
    assert_eq!(email["statecode"], 1);
    // Another worker that has not read the column lengths still finds the row.
    organisation.lose_ledger().await;
    organisation.pipeline = organisation.another_pipeline().await;
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.attachments().len(), 1);
}

async fn column_lengths_are_read_once_and_later_messages_are_truncated_in_advance(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    for n in 0..6 {
        let long = json!({"subject": "x".repeat(100 + n)});
        organisation.put(ADA, nylas_message(&format!("m{n}"), &long));
    }
    let reads =
        |organisation: &TestOrganisation| organisation.emulators.dataverse().requests().reads;
    let batch = |range: std::ops::Range<usize>| range.map(|n| format!("m{n}"));
    let deliver = async |organisation: &mut TestOrganisation, range| {
        let ids: Vec<String> = batch(range).collect();
        let nylas_messages: Vec<(&str, &str)> = ids.iter().map(|id| (ADA, id.as_str())).collect();
        let before = (
            reads(organisation),
            organisation.emulators.dataverse().requests().writes,
        );
        for outcome in organisation.deliver(&nylas_messages).await {
            written(&outcome);
        }
        let after = organisation.emulators.dataverse().requests();
        (after.reads - before.0, after.writes - before.1)
    };
    let usual = deliver(&mut organisation, 0..2).await;
    shorten(&organisation, &[("email", "subject", 50)]);
    let (learning, _) = deliver(&mut organisation, 2..4).await;
    assert!(
        learning > usual.0,
        "the column lengths were read from two definitions"
    );
    let knowing = deliver(&mut organisation, 4..6).await;
    assert_eq!(
        knowing, usual,
        "later messages are cut beforehand and not rejected"
    );
    let cut = organisation.emails();
    let cut = cut.iter().filter(|row| row["subject"] == "x".repeat(50));
    assert_eq!(cut.count(), 4);
    // The column becomes shorter again while the process has cached the former length.
    shorten(&organisation, &[("email", "subject", 20)]);
    organisation.put(
        ADA,
        nylas_message("m9", &json!({"subject": "x".repeat(100)})),
    );
    written(&organisation.deliver_one(ADA, "m9").await);
}

async fn a_failed_read_of_column_lengths_delays_the_message_without_other_effects(mode: WriteMode) {
    for fault in [
        status(503, ""),
        status(401, ""),
        throttled("0x80072322", 7),
        Fault::ResetBefore,
    ] {
        let mut organisation = with_a_mail_in(mode).await;
        organisation.set(&json!({"impersonate": "owner"}));
        shorten(&organisation, &[("email", "subject", 5)]);
        let what = format!("{fault:?}");
        organisation.fail_dataverse_at("EntityDefinitions(", fault);
        waiting(&organisation.deliver_one(ADA, "m1").await);
        assert!(organisation.emails().is_empty(), "{what}");
        organisation.pause_over();
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(written(&outcome).1, None, "{what}");
        let (email, ada) = (
            organisation.email(),
            to_row("systemuser", organisation.people.ada),
        );
        assert_eq!(email["subject"].as_str().unwrap().len(), 5, "{what}");
        assert_eq!(
            [&email["createdby"], &email["ownerid"]],
            [&ada, &ada],
            "{what}"
        );
    }
}
