//! Tests malformed messages: each reaches a final state with the usable part of its content, and
//! does not affect a valid message in the same batch.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::nylas::wire;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::test_organisation::{
    ADA, TestOrganisation, created, id_of, nylas_message, people, written,
};

in_both_write_modes!(
    an_invalid_date_is_omitted,
    a_date_with_another_offset_is_written_in_utc,
    malformed_people_are_omitted_and_the_email_is_written,
    malformed_recipients_are_omitted_and_the_email_is_written,
    a_subject_is_cleaned_and_truncated_to_one_line_of_800_characters,
    a_body_is_stored_without_the_characters_that_dataverse_rejects,
    a_message_with_an_overlong_message_id_gets_only_one_row,
    a_message_id_with_folding_quotes_or_control_characters_is_normalised,
    a_message_without_a_message_id_is_identified_by_its_mailbox_and_id,
    malformed_folders_and_attachments_are_ignored,
    attachments_without_a_usable_id_are_omitted_with_a_note_on_the_row,
    a_message_with_any_content_is_written_or_skipped,
);

/// Delivers a message with these changes together with a valid one. Returns the row of the changed
/// message and the stored reason, if any.
async fn row_of(mode: WriteMode, changes: &Value) -> (Value, Option<String>) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("odd", changes));
    organisation.put(ADA, nylas_message("good", &json!({})));
    let outcomes = organisation.deliver(&[(ADA, "odd"), (ADA, "good")]).await;
    assert_eq!(
        written(&outcomes[1]).1,
        None,
        "the valid message next to {changes}"
    );
    let (id, note) = written(&outcomes[0]);
    let email = organisation.emulators.dataverse().row("email", id).unwrap();
    assert_eq!(email["statecode"], 1, "{changes}");
    (email, note.map(str::to_owned))
}

async fn an_invalid_date_is_omitted(mode: WriteMode) {
    for date in [
        json!("yesterday"),
        json!(""),
        json!(-5),
        json!(1.5),
        json!(1e300),
        json!(253_402_300_800_i64),
        json!(i64::MIN),
        json!(true),
        json!([1_795_150_000]),
        json!(null),
    ] {
        let (email, note) = row_of(mode, &json!({"date": date})).await;
        assert_eq!(note.as_deref(), Some("left out: date"), "{date}");
        for column in ["actualstart", "actualend", "sortdate"] {
            assert_eq!(email[column], Value::Null, "{column} for {date}");
        }
    }
}

async fn a_date_with_another_offset_is_written_in_utc(mode: WriteMode) {
    let (email, note) = row_of(mode, &json!({"date": "2026-01-31T23:15:00-05:00"})).await;
    assert_eq!(
        (email["actualstart"].as_str(), note),
        (Some("2026-02-01T04:15:00Z"), None)
    );
}

async fn malformed_people_are_omitted_and_the_email_is_written(mode: WriteMode) {
    for (changes, parties, note) in [
        (
            json!({"from": null}),
            vec!["2 ada@ours.example", "2 carol@kites.example"],
            None,
        ),
        (
            json!({"from": "carol@kites.example"}),
            vec!["2 ada@ours.example", "2 carol@kites.example"],
            None,
        ),
        (
            json!({"from": {}}),
            vec!["2 ada@ours.example", "2 carol@kites.example"],
            None,
        ),
        (
            json!({"from": [null, 3, {"email": null}, {"email": "Carol <carol@kites.example>"}]}),
            vec!["2 ada@ours.example", "2 carol@kites.example"],
            Some("left out: 4 × address"),
        ),
        (
            json!({"cc": [{"email": "not an address"}, {"email": "\u{0}@kites.example"}, {"email": "dan@kites.example"}]}),
            vec![
                "1 carol@kites.example",
                "2 ada@ours.example",
                "2 carol@kites.example",
                "3 dan@kites.example",
            ],
            Some("left out: 2 × address"),
        ),
        (
            json!({"bcc": [{"email": format!("{}@kites.example", "x".repeat(320))}]}),
            vec![
                "1 carol@kites.example",
                "2 ada@ours.example",
                "2 carol@kites.example",
            ],
            Some("left out: address"),
        ),
    ] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        let mut message = nylas_message(
            "m1",
            &json!({"to": people(&["ada@ours.example", "carol@kites.example"])}),
        );
        for (name, value) in changes.as_object().unwrap() {
            message[name] = value.clone();
        }
        organisation.put(ADA, message);
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(written(&outcome).1, note, "{changes}");
        let shown: Vec<String> = organisation
            .parties()
            .iter()
            .map(|(mask, address, _)| format!("{mask} {address}"))
            .collect();
        assert_eq!(shown, parties, "{changes}");
    }
}

async fn malformed_recipients_are_omitted_and_the_email_is_written(mode: WriteMode) {
    for to in [
        json!(null),
        json!("ada@ours.example"),
        json!({"email": "ada@ours.example"}),
        json!(7),
    ] {
        let (email, note) = row_of(mode, &json!({"to": to})).await;
        assert_eq!(
            (email["torecipients"].as_str().unwrap_or_default(), note),
            ("", None),
            "{to}"
        );
    }
}

async fn a_subject_is_cleaned_and_truncated_to_one_line_of_800_characters(mode: WriteMode) {
    let boundary = "a\r\n--batch_mailverse\r\nContent-Type: application/http\r\n\r\nDELETE /api/data/v9.2/emails HTTP/1.1";
    for (subject, expected) in [
        (json!(null), "(no subject)".to_owned()),
        (json!(7), "(no subject)".to_owned()),
        (json!([]), "(no subject)".to_owned()),
        (json!(""), "(no subject)".to_owned()),
        (
            json!("\u{0}\u{1}\u{1f} \u{fffe}\u{ffff}\r\n"),
            "(no subject)".to_owned(),
        ),
        (json!("x".repeat(900)), "x".repeat(800)),
        (json!("😀".repeat(900)), "😀".repeat(400)),
        (
            json!(format!("x{}", "😀".repeat(900))),
            format!("x{}", "😀".repeat(399)),
        ),
        (json!("a\u{0}b\u{b}c\u{7f}d"), "abc d".to_owned()),
        (json!(boundary), boundary.replace(['\r', '\n'], " ")),
        (
            json!("--batch_mailverse--"),
            "--batch_mailverse--".to_owned(),
        ),
        (
            json!("--changeset_0--\r\n--batch_mailverse--\r\n"),
            "--changeset_0--  --batch_mailverse--".to_owned(),
        ),
        (
            json!("\u{202e}\"quoted\" \\ <b> & 'x' \u{1f600}"),
            "\u{202e}\"quoted\" \\ <b> & 'x' \u{1f600}".to_owned(),
        ),
    ] {
        let (email, note) = row_of(mode, &json!({"subject": subject})).await;
        assert_eq!(
            (email["subject"].as_str(), note),
            (Some(expected.as_str()), None),
            "{subject}"
        );
    }
}

async fn a_body_is_stored_without_the_characters_that_dataverse_rejects(mode: WriteMode) {
    let large = "<p>ä</p>".repeat(2 * 1024 * 1024 / 9);
    let boundary = "--batch_mailverse--\r\n\r\n--changeset_0\r\n".to_owned();
    for (body, expected) in [
        (json!(null), String::new()),
        (json!(7), String::new()),
        (json!({"html": "x"}), String::new()),
        (
            json!("a\u{0}b\u{8}c\u{fffe}d\te\r\nf"),
            "abcd\te\r\nf".to_owned(),
        ),
        (json!(boundary), boundary),
        (json!(large), large),
    ] {
        let (email, note) = row_of(mode, &json!({"body": body})).await;
        let stored = email["description"].as_str().unwrap_or_default();
        assert!(
            stored == expected,
            "{} bytes stored of {}",
            stored.len(),
            expected.len()
        );
        assert_eq!(note, None);
    }
}

async fn a_message_with_an_overlong_message_id_gets_only_one_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let headers =
        json!([{"name": "Message-Id", "value": format!("<{}@kites.example>", "x".repeat(400))}]);
    organisation.put(ADA, nylas_message("m1", &json!({"headers": headers})));
    let first = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&first).1, Some("left out: long Message-ID"));
    assert_eq!(organisation.email()["messageid"], Value::Null);
    organisation.lose_ledger().await;
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).0,
        written(&first).0
    );
    organisation.email();
}

async fn a_message_id_with_folding_quotes_or_control_characters_is_normalised(mode: WriteMode) {
    for (header, stored) in [
        ("<a.\r\n b@kites.example>", "<a.b@kites.example>"),
        (
            "<it's\u{0}'odd'@kites.example>",
            "<it's'odd'@kites.example>",
        ),
        ("a@kites.example", "<a@kites.example>"),
        ("<\u{fffe}\u{e4}@kites.example>", "<\u{e4}@kites.example>"),
    ] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        let headers = json!([null, {"name": 7}, {"name": "MESSAGE-ID", "value": header}]);
        organisation.put(ADA, nylas_message("m1", &json!({"headers": headers})));
        let first = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(organisation.email()["messageid"], stored);
        organisation.lose_ledger().await;
        assert_eq!(
            written(&organisation.deliver_one(ADA, "m1").await).0,
            written(&first).0
        );
        organisation.email();
    }
}

async fn a_message_without_a_message_id_is_identified_by_its_mailbox_and_id(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let object = nylas_message("m1", &json!({"headers": null}));
    let in_hand = || {
        let mut work = created(ADA, "m1");
        work.message = Some(wire::message(&ADA.parse().unwrap(), &object).unwrap());
        vec![work]
    };
    let (id, note) = {
        let processed = organisation.run(in_hand()).await;
        let (id, note) = written(&processed[0].outcome);
        (id, note.map(str::to_owned))
    };
    assert_eq!(note, None);
    let email = organisation.email();
    assert_eq!((&email["messageid"], id_of(&email)), (&Value::Null, id));
    organisation.lose_ledger().await;
    assert_eq!(written(&organisation.run(in_hand()).await[0].outcome).0, id);
    organisation.email();
}

async fn malformed_folders_and_attachments_are_ignored(mode: WriteMode) {
    for changes in [
        json!({"folders": null}),
        json!({"folders": 7}),
        json!({"folders": ["no-such-folder", 7, null]}),
        json!({"attachments": null}),
        json!({"attachments": "none"}),
    ] {
        assert_eq!(row_of(mode, &changes).await.1, None, "{changes}");
    }
}

async fn attachments_without_a_usable_id_are_omitted_with_a_note_on_the_row(mode: WriteMode) {
    let changes = json!({"attachments": [null, 5, {}, {"id": 5}, {"id": ""}]});
    let (row, note) = row_of(mode, &changes).await;
    assert_eq!(note.as_deref(), Some("left out: 5 × attachment"));
    assert_eq!(row["notifications"], 1);
}

/// Values that a field of a hostile or broken message may have.
fn pool() -> Vec<Value> {
    let text = |text: &str| json!(text);
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!({"email": "x@y.example"}),
        text(""),
        text(" "),
        text("\r\n"),
        text("\u{0}"),
        text("\u{ffff}"),
        text("'"),
        text("''"),
        text("\\"),
        text("%27"),
        text("--batch_mailverse"),
        text("\r\n--batch_mailverse--\r\n"),
        text("😀"),
        text("\u{202e}"),
        text("x@y.example"),
        text("2026-11-20T00:00:00Z"),
        json!("é".repeat(1_000)),
        json!("\u{10ffff}".repeat(500)),
        people(&[
            "x@y.example",
            "X@Y.example",
            "a b@c",
            "@",
            "",
            "o'neil@y.example",
            "\"a;b\"@y.example",
        ]),
        people(&[
            format!("{}@y.example", "ü".repeat(300)),
            "ünï@cödé.example".to_owned(),
            "a@[127.0.0.1]".to_owned(),
        ]),
        json!([{"name": "Message-ID", "value": "<'); DROP TABLE email;--@y.example>"}]),
        json!([{"name": "Message-ID", "value": null}, {"value": "<x@y>"}, 7]),
    ]
}

async fn a_message_with_any_content_is_written_or_skipped(mode: WriteMode) {
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    let pool = pool();
    let mut organisation = TestOrganisation::start_in(mode).await;
    let fields = [
        "subject",
        "body",
        "date",
        "from",
        "to",
        "cc",
        "bcc",
        "folders",
        "headers",
        "attachments",
        "unread",
    ];
    for batch in 0..15 {
        let ids: Vec<String> = (0..20).map(|n| format!("m{batch}-{n}")).collect();
        for id in &ids {
            let mut message = nylas_message(id, &json!({}));
            for field in fields {
                if random.random_bool(0.4) {
                    message[field] = pool.choose(&mut random).unwrap().clone();
                }
            }
            organisation.put(ADA, message);
        }
        let messages: Vec<(&str, &str)> = ids.iter().map(|id| (ADA, id.as_str())).collect();
        let outcomes = organisation.deliver(&messages).await;
        for (id, outcome) in ids.iter().zip(outcomes) {
            let fine = matches!(
                outcome.state(),
                mailverse::ledger::State::Written | mailverse::ledger::State::Skipped
            );
            let message = organisation.emulators.nylas().message(ADA, id);
            assert!(fine, "seed {seed}: {outcome:?} for {message:?}");
        }
    }
    assert!(
        organisation.emails().len() > 100,
        "the generator produced too few messages that are written: {}",
        organisation.emails().len()
    );
}
