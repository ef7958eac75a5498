//! Runs the compiled `mailverse replay` on files, as an operator does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Returns the path of the compiled command, beside this test's executable.
pub(crate) fn command() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("mailverse");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins`",
        path.display()
    );
    path
}

fn replay(arguments: &[&str]) -> Output {
    Command::new(command())
        .arg("replay")
        .args(arguments)
        .current_dir(project())
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder with the files of one test.
struct Saved(tempfile::TempDir);

impl Saved {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn folder(&self) -> String {
        self.0.path().display().to_string()
    }
}

fn received(id: &str, more: &Value) -> Value {
    let mut object = json!({
        "id": id, "grant_id": "g1", "object": "message", "subject": format!("about {id}"), "body": "<p>text</p>", "date": 1_723_821_981,
        "from": [{"name": "Ada Bell", "email": "ada.bell@bellworks.example.org"}], "to": [{"email": "nyla@example.com"}], "folders": ["INBOX"],
    });
    for (key, value) in more.as_object().unwrap() {
        object[key] = value.clone();
    }
    json!({"specversion": "1.0", "type": "message.created", "source": "/google/emails/realtime", "id": format!("n-{id}"), "time": 1_723_821_985,
        "webhook_delivery_attempt": 1, "data": {"application_id": "a", "object": object}})
}

#[test]
fn the_demo_summary_in_the_manuals_matches_the_output() {
    let printed = text(&replay(&["events"]).stdout);
    let summary: Vec<&str> = printed.lines().rev().skip(1).take(2).collect();
    assert!(summary.iter().all(|line| line.contains("12")), "{printed}");
    for page in ["README.md", "docs/getting-started.md"] {
        let page = std::fs::read_to_string(project().join(page)).unwrap();
        for line in &summary {
            assert!(page.contains(line), "a manual lacks the line: {line}");
        }
    }
}

#[test]
fn replayed_sample_events_give_one_activity_per_message_although_delivered_twice() {
    let output = replay(&["events", "--json"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    let written: Vec<&Value> = report["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["fate"] == "written")
        .collect();
    assert!(written.len() >= 10);
    assert_eq!(report["activities"], written.len());
    assert_eq!(report["written"], written.len());
    assert!(
        report["duplicate_deliveries"].as_u64().unwrap()
            >= report["messages"].as_array().unwrap().len() as u64
    );
    assert_eq!(
        (&report["refused"], &report["waiting"], &report["dead"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

#[test]
fn replay_with_once_delivers_each_event_once() {
    let report = report(&replay(&[
        "events/05-received-html.json",
        "--once",
        "--json",
    ]));
    assert_eq!(
        (&report["written"], &report["duplicate_deliveries"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn replayed_copies_in_two_mailboxes_become_one_activity() {
    let report = report(&replay(&[
        "events/15-transformed.json",
        "tests/fixtures/replay/copy-in-another-mailbox.json",
        "--json",
    ]));
    assert_eq!(
        (&report["written"], &report["activities"]),
        (&json!(2), &json!(1))
    );
}

#[test]
fn the_replay_table_shows_event_outcome_subject_people_and_regarding() {
    let output = replay(&["events"]);
    let table = text(&output.stdout);
    for part in [
        "05-received-html.json",
        "written",
        "Quote for",
        "✔ contact Ada Bell",
        "· bo.berg@northfair.example.net",
        "account Bellworks",
        "internal_only",
        "12 email activities",
        "ignored",
    ] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
}

#[test]
fn replay_names_a_broken_file_with_its_reason_and_continues() {
    let saved = Saved::new();
    let broken = [
        saved.file("b-cut.json", &received("b", &json!({})).to_string()[..60]),
        saved.file("c-encoding.json", b"{\"type\": \"\xff\xfe\"}"),
        saved.file("d-array.json", "[]"),
        saved.file(
            "e-null.json",
            received("e", &json!({"id": null})).to_string(),
        ),
        saved.file(
            "f-records.json",
            r#"{"Records":[{"eventSource":"aws:sqs","messageId":"1","body":7}]}"#,
        ),
        saved.file(
            "g-body.json",
            r#"{"Records":[{"eventSource":"aws:sqs","messageId":"1","body":"no request"}]}"#,
        ),
        saved.file("h-schedule.json", r#"{"source":"aws.scheduler"}"#),
    ];
    saved.file("a-good.json", received("a", &json!({})).to_string());
    saved.file("z-good.json", received("z", &json!({})).to_string());
    let output = replay(&[&saved.folder(), "--json"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        (
            &report["written"],
            &report["activities"],
            &report["refused"]
        ),
        (&json!(2), &json!(2), &json!(broken.len()))
    );
    for file in broken {
        let refused = report["other_events"]
            .as_array()
            .unwrap()
            .iter()
            .find(|event| event["event"] == json!(file));
        let reason = refused.unwrap_or_else(|| panic!("{file} in {report}"))["reason"]
            .as_str()
            .unwrap();
        assert!(reason.len() > 10, "{file}: {reason}");
    }
}

#[test]
fn malformed_content_is_replayed_with_its_usable_parts() {
    let saved = Saved::new();
    let odd = [
        json!({"date": "no date"}),
        json!({"from": null, "cc": null, "attachments": null, "folders": null}),
        json!({"cc": [{"email": "no address"}, {"name": "nobody"}, 7]}),
        json!({"subject": 7, "body": ["x"]}),
        json!({"subject": "a\r\n--batch_mailverse--\r\n\u{0}\u{1b}[2J", "body": "--changeset_0--\r\n"}),
        json!({"body": "x".repeat(2 * 1024 * 1024)}),
        json!({"subject": "ü😀".repeat(900)}),
    ];
    for (number, more) in odd.iter().enumerate() {
        saved.file(
            &format!("{number}.json"),
            received(&format!("m{number}"), more).to_string(),
        );
    }
    let duplicate_keys = received("dup", &json!({})).to_string().replacen(
        "\"subject\"",
        "\"subject\":\"first\",\"subject\"",
        1,
    );
    saved.file("dup.json", duplicate_keys);
    let output = replay(&[&saved.folder(), "--json"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(
        (&report["written"], &report["activities"]),
        (&json!(odd.len() + 1), &json!(odd.len() + 1))
    );
    let table = text(&replay(&[&saved.folder()]).stdout);
    assert!(
        !table.contains('\u{1b}') && !table.contains('\u{0}'),
        "a control character of a message reaches the terminal"
    );
    assert!(
        table.contains("left out: date") && table.contains("3 × address"),
        "{table}"
    );
}

#[test]
fn a_foreign_signature_is_rejected_without_its_secret_or_a_new_signature() {
    let saved = Saved::new();
    // The published test vector of Nylas' own SDK: body, secret and signature.
    let vector = project().join("functions/webhook-receiver/tests/fixtures/signed-grant.deleted");
    let body = std::fs::read_to_string(vector.with_extension("deleted.body")).unwrap();
    let meta: Value =
        serde_json::from_slice(&std::fs::read(vector.with_extension("deleted.meta.json")).unwrap())
            .unwrap();
    let (signature, secret) = (
        &meta["valid_signature"],
        meta["webhook_secret"].as_str().unwrap(),
    );
    let event = json!({"version": "2.0", "rawPath": "/", "headers": {"host": "x.example.com", "x-nylas-signature": signature}, "body": body,
        "isBase64Encoded": false, "requestContext": {"http": {"method": "POST", "path": "/"}, "accountId": "a", "apiId": "a", "stage": "$default", "timeEpoch": 0}});
    let file = saved.file("signed.json", event.to_string());
    let refused = replay(&[&file, "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        report(&refused)["other_events"][0]["reason"]
            .as_str()
            .unwrap()
            .starts_with("401: the signature does not match")
    );
    let secret_file = saved.file("secret", format!("{secret}\n"));
    assert_eq!(
        replay(&[&file, "--webhook-secret-file", &secret_file])
            .status
            .code(),
        Some(0)
    );
    assert_eq!(replay(&[&file, "--resign"]).status.code(), Some(0));
}

#[test]
fn a_saved_ledger_has_the_outcomes_of_an_earlier_replay() {
    let saved = Saved::new();
    let state = saved.folder() + "/state.db";
    let first = report(&replay(&["events", "--json", "--once", "--state", &state]));
    let second = report(&replay(&["events", "--json", "--once", "--state", &state]));
    for figure in ["written", "skipped", "activities"] {
        assert_eq!(first[figure], second[figure], "{figure}");
    }
    assert_eq!(
        second["dataverse_requests"], 0,
        "nothing is looked up or written again"
    );
}

#[test]
fn replay_applies_the_given_policy_and_an_invalid_one_is_bad_usage() {
    let saved = Saved::new();
    let outcomes = |policy: Option<Value>| {
        let mut arguments = vec!["--json".to_owned(), "events".to_owned()];
        if let Some(policy) = policy {
            let file = saved.file("policy.json", policy.to_string());
            arguments.extend(["--policy".to_owned(), file]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        replay(&arguments)
    };
    let activities = |output: &Output| report(output)["activities"].as_u64().unwrap();
    let default = activities(&outcomes(None));
    assert!(default > 0);
    assert_eq!(activities(&outcomes(Some(json!({})))), default);
    let none = json!({"defaults": {"track": {"received": "none", "sent": "none"}}});
    assert_eq!(activities(&outcomes(Some(none))), 0);
    let wrong = outcomes(Some(json!({"defaults": {"trak": "none"}})));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("defaults.trak: unknown field"));
}

#[test]
fn an_unreadable_replay_path_is_bad_usage() {
    let saved = Saved::new();
    for (arguments, part) in [
        (vec!["no-such-file.json"], "no-such-file.json"),
        (vec![saved.0.path().to_str().unwrap()], "no *.json file"),
        (vec![], "PATH"),
        (vec!["events", "--yes"], "--org"),
        (vec!["events", "--org"], "TOKEN_SECRET_ID is missing"),
    ] {
        let output = replay(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(part), "{part} in {output:?}");
    }
}
