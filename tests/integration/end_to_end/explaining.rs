//! Tests of the compiled `mailverse explain`: what it finds, what it shows to which reader, and
//! that it changes nothing.

use emulators::Grant;
use mailverse::model::ids::ActivityId;
use serde_json::{Value, json};

use super::canary::{self, assert_silent};
use super::cloud::{Cloud, GRANT, TABLE};
use super::command::{Seen, run};
use crate::manual;

const OTHER: &str = "grant-2";

impl Seen {
    fn messages(&self) -> Vec<Value> {
        let report = self.json();
        report["messages"].as_array().unwrap().clone()
    }

    #[track_caller]
    pub(super) fn assert_shows(&self, texts: &[&str]) {
        for text in texts {
            assert!(
                self.out.contains(text),
                "{text} in\n{}{}",
                self.out,
                self.err
            );
        }
    }
}

/// A cloud with mailboxes whose messages the worker has processed.
pub(super) struct Office(pub(super) Cloud);

impl Office {
    /// Opens an office with one mailbox, which has the message `m1`.
    async fn with_one_mailbox() -> Self {
        let cloud = Cloud::start(10).await;
        cloud.store_secrets().await;
        cloud.refresh_token().await;
        cloud.put_mail("m1");
        let office = Self(cloud);
        office.work(&[(GRANT, "m1")]).await;
        office
    }

    /// Opens an office with the message `m1` in one mailbox and a copy of it in a second mailbox.
    pub(super) async fn open() -> Self {
        let office = Self::with_one_mailbox().await;
        let cloud = &office.0;
        cloud.emulators.nylas().add_grant(Grant {
            id: OTHER.to_owned(),
            email: "bob@ours.example".to_owned(),
            provider: "microsoft".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        let mut copy = cloud.put_mail("m1")["data"]["object"].clone();
        copy["id"] = json!("AAMk/copy=");
        cloud.emulators.nylas().add_message(OTHER, copy);
        office.work(&[(OTHER, "AAMk/copy=")]).await;
        office
    }

    /// Runs the worker on these messages, in this order.
    pub(super) async fn work(&self, messages: &[(&str, &str)]) {
        for (grant, id) in messages {
            let request =
                json!({"version": 1, "grant_id": grant, "message_id": id, "trigger": "created"});
            self.0.send(&request.to_string()).await;
        }
        let mut worker = self.0.function("sync-worker").await;
        let batch = self.0.receive().await;
        self.0.work(&mut worker, &batch).await;
        worker.stop().await;
    }

    fn ledger_only(&self) -> Vec<(&'static str, String)> {
        [
            self.0.aws_settings(),
            vec![("LEDGER_TABLE", TABLE.to_owned())],
        ]
        .concat()
    }

    pub(super) fn all_settings(&self) -> Vec<(&'static str, String)> {
        let more = vec![
            ("DATAVERSE_URL", self.0.emulators.dataverse().url()),
            ("TOKEN_SECRET_ID", "token".to_owned()),
            ("NYLAS_API_URL", self.0.emulators.nylas().url()),
            ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
            ("MAILBOXES", "ours.example".to_owned()),
        ];
        [self.ledger_only(), more].concat()
    }
}

#[tokio::test]
async fn explain_accepts_every_identifier_of_a_message_and_shows_all_its_copies() {
    let office = Office::open().await;
    let emails = office.0.emails();
    let row = emails[0]["activityid"].as_str().unwrap();
    let writes = office.0.emulators.dataverse().requests().writes;
    let ledger = office.0.ledger_items().await;
    let braces = format!("{{{}}}", row.to_uppercase());
    let mut texts = Vec::new();
    for name in [
        "grant-1/m1",
        "grant-2/AAMk/copy=",
        "m1",
        "AAMk/copy=",
        row,
        &braces,
        "<m1@kites.example>",
        "m1@kites.example",
    ] {
        let seen = run(&["explain", name], &office.all_settings()).await;
        assert_eq!((seen.status, seen.err.as_str()), (Some(0), ""), "{name}");
        seen.assert_shows(&[
            "grant-1/m1\n",
            "grant-2/AAMk/copy=\n",
            &format!("email {row}"),
            "written",
            "policy default",
            "draft passes",
            "nobody_known passes",
            "already existed",
            &format!("from 1 ({}): contact/", canary::ADDRESS),
            "to 1 (ada@ours.example): systemuser/",
        ]);
        texts.push(seen.out);
        let json = run(&["explain", name, "--json"], &office.all_settings()).await;
        assert_eq!(json.status, Some(0), "{name}");
        assert_silent("the output of --json", &json.out, &[]);
        let rows: Vec<Value> = json
            .messages()
            .iter()
            .map(|message| message["decision"]["row"].clone())
            .collect();
        assert_eq!(rows, ["ours", "found"], "{name}");
    }
    texts.dedup();
    assert_eq!(
        texts.len(),
        1,
        "the output should be the same for every name: {texts:#?}"
    );
    assert_eq!(office.0.emulators.dataverse().requests().writes, writes);
    assert_eq!(office.0.ledger_items().await, ledger);
}

#[tokio::test]
async fn the_explain_transcript_of_the_manual_matches_the_output() {
    let office = Office::with_one_mailbox().await;
    let emails = office.0.emails();
    let row = emails[0]["activityid"].as_str().unwrap();
    let seen = run(&["explain", row], &office.all_settings()).await;
    manual::assert_shows(
        "docs/cli.md",
        &format!("mailverse explain {row}"),
        &seen.out,
    );
}

#[tokio::test]
async fn explain_shows_that_the_own_row_gave_way_to_an_external_row() {
    let office = Office::open().await;
    let ours = office.0.emails()[0]["activityid"].clone();
    let ours = ours.as_str().unwrap();
    let row = |text: &str| ActivityId::new(text.parse().unwrap());
    let external_row = "77777777-0000-4000-8000-000000000000";
    let ledger = office.0.ledger();
    let note = "another client wrote a row for it; ours was deleted";
    for message in ["grant-1/m1", "grant-2/AAMk/copy="] {
        let key = message.parse().unwrap();
        let told = ledger
            .replace_row(&key, row(ours), row(external_row), note)
            .await;
        assert!(told.unwrap(), "{message}");
    }
    let settings = office.all_settings();
    let seen = run(&["explain", external_row], &settings).await;
    seen.assert_shows(&[
        &format!("email {external_row}"),
        &format!("written by another client; it replaced our email {ours}"),
        note,
        "draft passes",
    ]);
    let json = run(&["explain", external_row, "--json"], &settings).await;
    let messages = json.messages();
    let rows: Vec<&Value> = messages.iter().map(|it| &it["decision"]["row"]).collect();
    assert_eq!(rows, ["gave_way", "found"]);
    assert!(messages.iter().all(|it| it["gave_way"] == ours));
    assert_silent("the output of --json", &json.out, &[]);
}

#[tokio::test]
async fn explain_shows_positions_without_mailbox_access_and_names_what_is_missing() {
    let office = Office::open().await;
    let settings = office.ledger_only();
    let seen = run(&["explain", "grant-1/m1"], &settings).await;
    assert_eq!(seen.status, Some(0), "{}", seen.err);
    seen.assert_shows(&[
        "from 1: contact/",
        "to 1: systemuser/",
        "NYLAS_API_KEY_SECRET_ID",
    ]);
    let secrets = office.0.secret_texts().await;
    assert_silent("an explanation without the mailbox", &seen.out, &secrets);

    for (name, expected) in [
        ("m1", &["NYLAS_API_KEY_SECRET_ID"] as &[&str]),
        ("<m1@kites.example>", &["DATAVERSE_URL and TOKEN_SECRET_ID"]),
        ("1a2265b9-1c53-5c96-b593-6ecd884c829f", &[]),
    ] {
        let seen = run(&["explain", name], &settings).await;
        assert_eq!((seen.status, seen.out.as_str()), (Some(1), ""), "{name}");
        assert!(
            seen.err.starts_with("mailverse: no message found for"),
            "{}",
            seen.err
        );
        for text in expected {
            assert!(seen.err.contains(text), "{}", seen.err);
        }
    }
    let nobody = run(
        &["explain", "<nobody@kites.example>", "--json"],
        &office.all_settings(),
    )
    .await;
    assert_eq!((nobody.status, nobody.messages().len()), (Some(1), 0));
}

#[tokio::test]
async fn explain_names_the_rule_of_a_skipped_message_and_the_retry_time_of_a_waiting_one() {
    let office = Office::open().await;
    let cloud = &office.0;
    let junk = cloud.emulators.nylas().folder_id(GRANT, "\\Junk").unwrap();
    let mut spam = cloud.put_mail("m1")["data"]["object"].clone();
    // The copy in the other mailbox was written.
    spam["id"] = json!("spam");
    spam["folders"] = json!([junk]);
    cloud.emulators.nylas().add_message(GRANT, spam);
    office.work(&[(GRANT, "spam"), (GRANT, "not-there")]).await;

    let seen = run(&["explain", "grant-1/spam"], &office.ledger_only()).await;
    assert_eq!(seen.status, Some(0));
    seen.assert_shows(&["skipped", "reason     spam", "draft passes", "spam skips"]);
    assert!(!seen.out.contains("people"), "{}", seen.out);

    let seen = run(
        &["explain", "grant-1/spam", "--json"],
        &office.all_settings(),
    )
    .await;
    let states: Vec<(Value, Value)> = seen
        .messages()
        .iter()
        .map(|message| (message["message_id"].clone(), message["state"].clone()))
        .collect();
    let expected = [
        ("m1", "written"),
        ("spam", "skipped"),
        ("AAMk/copy=", "written"),
    ];
    assert_eq!(
        states,
        expected.map(|(id, state)| (json!(id), json!(state)))
    );

    let seen = run(&["explain", "grant-1/not-there"], &office.ledger_only()).await;
    seen.assert_shows(&[
        "waiting, since ",
        ", until ",
        "1 try",
        "nylas does not find the message",
        "not recorded",
    ]);
}

#[tokio::test]
async fn explain_does_not_report_bad_usage_or_an_outage_as_an_unknown_message() {
    let office = Office::open().await;
    let with = |name: &'static str, value: &str| {
        let mut settings = office.all_settings();
        settings.push((name, value.to_owned()));
        settings
    };
    let nothing: &[(&str, String)] = &[];
    for (arguments, settings, expected) in [
        (&["explain"] as &[&str], office.all_settings(), "<MESSAGE>"),
        (
            &["explain", "m1"],
            nothing.to_vec(),
            "LEDGER_TABLE is missing",
        ),
        (
            &["explain", "m1"],
            with("LEDGER_TABLE", "elsewhere"),
            "ResourceNotFoundException",
        ),
        (
            &["explain", "m1"],
            with("NYLAS_API_URL", "http://127.0.0.1:9"),
            "failed to list the mailboxes",
        ),
        (
            &["explain", "a@x"],
            with("DATAVERSE_URL", "http://127.0.0.1:9"),
            "failed to look up the Message-ID in Dataverse",
        ),
        (
            &["explain", "a@x"],
            with("TOKEN_SECRET_ID", " "),
            "TOKEN_SECRET_ID is missing",
        ),
    ] {
        let seen = run(arguments, &settings).await;
        assert_eq!(
            (seen.status, seen.out.as_str()),
            (Some(2), ""),
            "{expected}"
        );
        assert!(seen.err.contains(expected), "{expected}: {}", seen.err);
    }
    // What is in the ledger is shown even if Nylas cannot be reached.
    let seen = run(
        &["explain", "grant-1/m1"],
        &with("NYLAS_API_URL", "http://127.0.0.1:9"),
    )
    .await;
    assert_eq!(seen.status, Some(0));
    seen.assert_shows(&["no addresses: failed to fetch the message"]);
}
