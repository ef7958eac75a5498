//! Runs the compiled `mailverse policy` on files and on a table, and checks what the project
//! publishes about the policy document.

use std::process::{Command, Output};

use mailverse::ledger::messages::Ledger;
use mailverse::ledger::table;
use mailverse::policy::Policy;
use serde_json::{Value, json};

use crate::dynamo;
use crate::replay::{command, project};

const TABLE: &str = "ledger";

/// A local DynamoDB table, and a folder for documents.
struct Desk {
    endpoint: String,
    ledger: Ledger,
    folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let endpoint = dynamo::start().await;
        let client = dynamo::client(&endpoint);
        table::create(&client, TABLE).await.unwrap();
        Self {
            endpoint,
            ledger: Ledger::new(client, TABLE.to_owned()),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, content: &Value) -> String {
        let path = self.folder.path().join("policy.json");
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    /// Runs the command on another thread, since the test's thread serves the table.
    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(command());
        command
            .arg("policy")
            .args(arguments)
            .current_dir(project())
            .env_clear()
            .env("LEDGER_TABLE", TABLE)
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_REGION", "eu-north-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }
}

fn policy(arguments: &[&str]) -> Output {
    Command::new(command())
        .arg("policy")
        .args(arguments)
        .current_dir(project())
        .env_clear()
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn printed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn published(path: &str) -> String {
    let path = project().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_published_schema_matches_the_types() {
    let schema = policy(&["schema"]);
    assert!(schema.status.success());
    assert_eq!(
        text(&schema.stdout),
        published("docs/policy.schema.json"),
        "the published schema is outdated: run cargo run --bin mailverse -- policy schema > docs/policy.schema.json"
    );
}

#[test]
fn every_published_policy_document_is_valid() {
    let folder = project().join("docs/policy");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        files.push(entry.unwrap().path());
    }
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let checked = policy(&["check", &file.display().to_string()]);
        assert!(checked.status.success(), "{}", text(&checked.stderr));
    }
}

/// What the published schema says about the same documents is tested in
/// `tools/test_policy_schema.py`.
#[test]
fn policy_check_rejects_what_the_schema_rejects_and_contradictory_documents() {
    let documents = published("tests/fixtures/policy/documents.json");
    let documents: Vec<Value> = serde_json::from_str(&documents).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.json");
    for Document { what, text, by } in documents.iter().map(Document::of) {
        std::fs::write(&file, text).unwrap();
        let checked = policy(&["check", &file.display().to_string()]);
        let refused = by.contains(&"check");
        let status = checked.status.code();
        assert_eq!(status, Some(i32::from(refused)), "{what}: {checked:?}");
        assert!(refused || !by.contains(&"schema"), "{what}");
    }
    let default = json!({"what": "the default document", "refused_by": [], "document": Policy::default().document()});
    assert!(documents.contains(&default), "{default:#}");
}

/// A document of the fixture, and what rejects it.
struct Document<'a> {
    what: &'a str,
    text: String,
    by: Vec<&'a str>,
}

impl<'a> Document<'a> {
    fn of(entry: &'a Value) -> Self {
        let by = entry["refused_by"].as_array().unwrap().iter();
        Self {
            what: entry["what"].as_str().unwrap(),
            text: entry["document"].to_string(),
            by: by.map(|name| name.as_str().unwrap()).collect(),
        }
    }
}

/// Returns the paths of the settings in the schema that apply to the whole organisation.
fn settings() -> Vec<String> {
    let schema: Value = serde_json::from_str(&published("docs/policy.schema.json")).unwrap();
    let properties = |kind: &str| -> Vec<String> {
        let properties = schema["$defs"][kind]["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let below = |setting: &str, kind: &str| -> Vec<String> {
        let names = properties(kind);
        names
            .iter()
            .map(|name| format!("{setting}.{name}"))
            .collect()
    };
    let mut settings = properties("Settings");
    settings.retain(|name| !["track", "regarding"].contains(&name.as_str()));
    settings.extend(below("track", "Track"));
    settings.extend(below("regarding", "Regarding"));
    settings
}

#[test]
fn the_policy_page_has_a_row_for_every_setting_with_its_default() {
    let page = published("docs/policy.md");
    let defaults = serde_json::to_value(Policy::default().document()).unwrap();
    for setting in settings() {
        let pointer = format!("/defaults/{}", setting.replace('.', "/"));
        let default = defaults.pointer(&pointer).unwrap();
        let start = format!("| `{setting}` | `{default}` |");
        let row = page.lines().find(|line| line.starts_with(&start));
        assert!(row.is_some(), "docs/policy.md has no row {start}");
        // The example is valid: the setting, with a value that passes the check.
        let example = row.unwrap().rsplit('`').nth(1).unwrap();
        let example: Value = serde_json::from_str(&format!("{{{example}}}")).unwrap();
        let document = json!({"defaults": example});
        let checked = Policy::parse(&document.to_string());
        assert!(checked.is_ok(), "{setting}: {:?}", checked.err());
        let shown = serde_json::to_value(checked.unwrap().document()).unwrap();
        assert_ne!(
            shown.pointer(&pointer),
            Some(default),
            "{setting}: the example must differ from the default"
        );
    }
}

#[test]
fn the_policy_page_has_a_row_for_every_rule() {
    let page = published("docs/policy.md");
    for rule in mailverse::policy::RULES {
        assert!(page.contains(&format!("| `{rule}` |")), "{rule}");
    }
}

#[tokio::test]
async fn an_invalid_policy_is_rejected_with_all_problems_and_their_paths() {
    let desk = Desk::new().await;
    let file = desk.file(&json!({"defaults": {"allow": ["@x"], "block": [{"action": "drop"}]}}));
    for verb in ["check", "push"] {
        let refused = desk.run(&[verb, &file]).await;
        assert_eq!(refused.status.code(), Some(1));
        let problems = text(&refused.stderr);
        let expected = [
            format!(
                "{file}: defaults.block[0]: has neither an address nor a domain; give one of them"
            ),
            format!("{file}: defaults.allow[0]: is not a domain such as example.com"),
        ];
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    }
    assert_eq!(desk.ledger.stored_policy().await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_policy_file_or_setting_is_bad_usage() {
    let missing = policy(&["check", "no-such-file.json"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("no-such-file.json"));
    let nowhere = policy(&["show"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("LEDGER_TABLE is missing"));
    let desk = Desk::new().await;
    let nobody = desk.run(&["show", "--mailbox", "ada"]).await;
    assert_eq!(nobody.status.code(), Some(2));
}

#[tokio::test]
async fn policy_push_shows_the_changes_and_policy_show_the_current_policy() {
    let desk = Desk::new().await;
    let none = desk.run(&["show"]).await;
    assert!(text(&none.stderr).contains("No policy is stored"));
    assert_eq!(printed(&none)["defaults"]["skip_internal"], true);

    let file = desk.file(&json!({"defaults": {"track": {"received": "known"}}}));
    let first = desk.run(&["push", &file]).await;
    assert!(first.status.success(), "{first:?}");
    let shown = text(&first.stdout);
    assert!(shown.contains("No policy is stored"), "{shown}");
    let change = r#"defaults.track.received: "all" → "known""#;
    assert!(shown.lines().any(|line| line == change), "{shown}");
    let stored = desk.ledger.stored_policy().await.unwrap().unwrap();
    assert!(shown.contains(&stored.version), "{shown}");
    assert!(Policy::parse(&stored.document).is_ok());

    let again = text(&desk.run(&["push", &file]).await.stdout);
    assert!(again.contains("No setting changes."), "{again}");

    let part =
        json!({"Ada@ours.example": {"track": {"received": "replies"}, "content": "subject"}});
    let file = desk.file(&json!({"defaults": {"track": {"received": "known"}, "internal_domains": ["Ours.example"]}, "mailboxes": part}));
    assert!(desk.run(&["push", &file]).await.status.success());
    let whole = desk.run(&["show"]).await;
    assert_eq!(printed(&whole)["mailboxes"], part);
    let ada = printed(&desk.run(&["show", "--mailbox", "ada@ours.example"]).await);
    assert_eq!(ada["received"], json!(["known", "replies"]));
    assert_eq!(ada["content"], "subject");
    assert_eq!(ada["internal_domains"], json!(["ours.example"]));
    let ben = printed(&desk.run(&["show", "--mailbox", "ben@ours.example"]).await);
    assert_eq!(ben["received"], json!(["known"]));
    // The output of `show` can be pushed.
    let file = desk.file(&printed(&whole));
    let same = text(&desk.run(&["push", &file]).await.stdout);
    assert!(same.contains("No setting changes."), "{same}");
}

#[tokio::test]
async fn an_unusable_stored_policy_is_reported_and_can_be_replaced() {
    let desk = Desk::new().await;
    let now = chrono::Utc::now();
    let broken = r#"{"defaults": {"new_setting": 1}}"#;
    let pushed = desk.ledger.push_policy(broken, "v9", None, now).await;
    pushed.unwrap();
    let shown = desk.run(&["show"]).await;
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stderr).contains("unknown field `new_setting`"));
    let file = desk.file(&json!({}));
    let mended = desk.run(&["push", &file]).await;
    assert!(mended.status.success(), "{mended:?}");
    assert!(desk.run(&["show"]).await.status.success());
}
