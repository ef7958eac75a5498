//! Runs the compiled `mailverse import` on saved files: each object is written once, and a dry run
//! shows the rows that the real run writes.

use std::collections::BTreeMap;

use emulators::{Grant, Setting};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cloud::{Cloud, GRANT};
use super::command::{Seen, run};
use super::explaining::Office;
use crate::replay::project;
use crate::tripwire::Tripwire;

fn fixture(name: &str) -> String {
    let path = project().join("tests/fixtures/import").join(name);
    path.display().to_string()
}

/// Starts a cloud with an empty ledger whose Dataverse has the contact Carol and the account KITES,
/// which the saved messages and contacts name.
async fn desk() -> Office {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let dataverse = cloud.emulators.dataverse();
    let kites = json!({"name": "KITES", "websiteurl": "https://elsewhere.example"});
    dataverse.insert("account", kites).unwrap();
    let carol =
        json!({"firstname": "Carol", "emailaddress1": "carol@kites.example", "telephone1": "110"});
    dataverse.insert("contact", carol).unwrap();
    Office(cloud)
}

impl Office {
    async fn import(&self, files: &[&str], more: &[&str]) -> Seen {
        let files: Vec<String> = files.iter().map(|name| fixture(name)).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let arguments = [&["import"], files.as_slice(), more].concat();
        run(&arguments, &self.all_settings()).await
    }

    async fn imported(&self, files: &[&str], more: &[&str]) -> Value {
        let seen = self
            .import(files, &[&["--yes", "--json"], more].concat())
            .await;
        assert!(seen.status.is_some_and(|status| status < 2), "{}", seen.err);
        seen.json()
    }

    /// Puts the saved message `id` into the mailbox, with a Message-ID, a date and one file.
    fn keep_in_mailbox(&self, id: &str) {
        let saved = std::fs::read_to_string(fixture("cli-messages.json")).unwrap();
        let saved: Vec<Value> = serde_json::from_str(&saved).unwrap();
        let mut message = saved.into_iter().find(|one| one["id"] == id).unwrap();
        let message_id = format!("<{id}@kites.example>");
        message["headers"] = json!([{"name": "Message-ID", "value": message_id}]);
        message["date"] = json!(1_706_710_500);
        message["folders"] = json!(["INBOX"]);
        let file = json!({"id": "file-1", "filename": "order.txt", "content_type": "text/plain", "size": 5});
        let nylas = self.0.emulators.nylas();
        nylas.add_attachment(GRANT, id, file, b"order".to_vec());
        nylas.add_message(GRANT, message);
    }

    fn rows(&self, table: &str) -> Vec<Value> {
        self.0.emulators.dataverse().rows(table)
    }

    fn contact(&self, address: &str) -> Value {
        let contacts = self.rows("contact");
        let found = contacts.iter().find(|row| row["emailaddress1"] == address);
        found
            .unwrap_or_else(|| panic!("no {address}: {contacts:#?}"))
            .clone()
    }
}

#[tokio::test]
async fn an_imported_message_is_written_once_under_the_message_id_of_its_copies() {
    let office = desk().await;
    office.keep_in_mailbox("cli-1");
    let outcome = office.imported(&["cli-messages.json"], &[]).await;
    assert_eq!(outcome["messages"]["written"], 2, "{outcome:#}");
    assert_eq!(outcome["messages"]["skipped"], json!({"nobody": 1}));
    let mut emails = office.0.emails();
    emails.sort_by_key(|row| row["actualend"].to_string());
    let named: Vec<&Value> = emails.iter().map(|row| &row["messageid"]).collect();
    assert_eq!(named, [&json!("<cli-1@kites.example>"), &Value::Null]);
    let id: Uuid = serde_json::from_value(emails[0]["activityid"].clone()).unwrap();
    assert_eq!(office.0.emulators.dataverse().attachments(id).len(), 1);
    assert_eq!(
        emails[1]["actualend"], "2024-02-29T14:15:00Z",
        "the time in the file, in UTC"
    );

    // The same import again, then live copies of what it wrote, from the same mailbox and from
    // another.
    let again = office.imported(&["cli-messages.json"], &[]).await;
    assert_eq!(
        (
            &again["messages"]["written"],
            &again["messages"]["there_before"]
        ),
        (&json!(0), &json!(2))
    );
    office.0.emulators.nylas().add_grant(Grant {
        id: "grant-2".to_owned(),
        email: "bob@ours.example".to_owned(),
        provider: "microsoft".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
    let mut copy = office.0.emulators.nylas().message(GRANT, "cli-1").unwrap();
    copy["id"] = json!("copy");
    copy["attachments"] = json!([]);
    office.0.emulators.nylas().add_message("grant-2", copy);
    office
        .work(&[(GRANT, "cli-1"), (GRANT, "cli-2"), ("grant-2", "copy")])
        .await;
    assert_eq!(office.0.emails().len(), 2);
}

#[tokio::test]
async fn import_fetches_only_messages_without_a_message_id_and_none_with_as_saved() {
    let office = desk().await;
    for id in ["cli-1", "cli-2", "cli-3"] {
        office.keep_in_mailbox(id);
    }
    let nylas = office.0.emulators.nylas();
    let before = nylas.requests();
    let outcome = office.imported(&["api-messages.json"], &[]).await;
    assert_eq!(outcome["messages"]["written"], 1, "{outcome:#}");
    assert_eq!(outcome["messages"]["skipped"], json!({"internal_only": 1}));
    let ground = nylas.requests() - before;
    let before = nylas.requests();
    let saved = office
        .imported(&["cli-messages.json"], &["--as-saved"])
        .await;
    assert_eq!(saved["messages"]["written"], 2, "{saved:#}");
    // The additional request downloads the one attachment.
    assert_eq!(nylas.requests() - before, ground + 1);
    let unnamed = office
        .0
        .emails()
        .iter()
        .filter(|row| row["messageid"].is_null())
        .count();
    assert_eq!(unnamed, 2);
}

#[tokio::test]
async fn imported_contacts_are_created_or_filled_and_a_second_import_changes_nothing() {
    let office = desk().await;
    let emulators =
        ["One", "Two"].map(|name| json!({"lastname": name, "emailaddress2": "twin@kites.example"}));
    for row in emulators {
        office
            .0
            .emulators
            .dataverse()
            .insert("contact", row)
            .unwrap();
    }
    let files = ["cli-contacts.json", "api-contacts.json"];
    let outcome = office.imported(&files, &[]).await;
    let expected = json!({
        "created": 1, "filled": 1, "complete": 0, "merged": 1, "ambiguous": 1, "inside": 1, "role": 1, "known": 0, "without_address": 1, "excluded": 0, "failed": 0,
    });
    assert_eq!(outcome["contacts"], expected, "{outcome:#}");
    let jane = office.contact("jane@lanterns.example");
    for (column, value) in [
        ("firstname", "Jane"),
        ("lastname", "Doe"),
        ("jobtitle", "Buyer"),
        ("emailaddress2", "jane.doe@gmail.com"),
        ("emailaddress3", "jd@lanterns.example"),
        ("telephone1", "+1-555-555-5555"),
        ("mobilephone", "+1-555-555-5556"),
    ] {
        assert_eq!(jane[column], value, "{column}");
    }
    let accounts = office.rows("account");
    let lanterns = accounts
        .iter()
        .find(|row| row["name"] == "Lanterns Ltd")
        .unwrap();
    assert_eq!(lanterns["websiteurl"], "https://lanterns.example");
    assert_eq!(jane["parentcustomerid"]["id"], lanterns["accountid"]);
    let carol = office.contact("carol@kites.example");
    let kites = accounts.iter().find(|row| row["name"] == "KITES").unwrap();
    assert_eq!(
        carol["parentcustomerid"]["id"], kites["accountid"],
        "linked to the account of the same name"
    );
    assert_eq!(
        (&carol["telephone1"], &carol["mobilephone"]),
        (&json!("110"), &json!("+1-555-555-0001"))
    );
    assert_eq!(
        (&carol["lastname"], &carol["jobtitle"]),
        (&json!("Kite"), &json!("Chief"))
    );
    assert_eq!(accounts.len(), 2);

    let (writes, rows) = (
        office.0.emulators.dataverse().requests().writes,
        office.rows("contact"),
    );
    let again = office.imported(&files, &[]).await;
    assert_eq!(
        (&again["contacts"]["complete"], &again["contacts"]["filled"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(office.0.emulators.dataverse().requests().writes, writes);
    assert_eq!(office.rows("contact"), rows);
    assert_eq!(office.0.emulators.dataverse().dropped(), []);
}

/// Groups the rows that a dry run printed by table and id.
fn printed(seen: &Seen) -> BTreeMap<(String, String), Vec<Value>> {
    let mut rows: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    for line in seen.out.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        rows.entry((text("table"), text("id")))
            .or_default()
            .push(row);
    }
    rows
}

#[tokio::test]
async fn a_dry_run_of_an_import_shows_the_rows_and_writes_nothing() {
    let office = desk().await;
    office.keep_in_mailbox("cli-1");
    let files = [
        "cli-contacts.json",
        "api-contacts.json",
        "cli-messages.json",
        "api-messages.json",
    ];
    let dataverse = office.0.emulators.dataverse();
    let (writes, export) = (dataverse.requests().writes, dataverse.export());
    let seen = office
        .import(&files, &["--dry-run", "--created-on", "original"])
        .await;
    assert_eq!(seen.status, Some(0), "{}", seen.err);
    assert!(
        seen.err.contains("Messages: 3 would be written"),
        "{}",
        seen.err
    );
    assert!(
        seen.err
            .contains("Contacts: 2 would be created, 1 would be filled"),
        "{}",
        seen.err
    );
    assert_eq!(dataverse.requests().writes, writes);
    assert_eq!(dataverse.export(), export);
    assert!(office.0.ledger_items().await.is_empty());
    let rows = printed(&seen);

    let outcome = office.imported(&files, &["--created-on", "original"]).await;
    assert_eq!(outcome["messages"]["written"], 3, "{outcome:#}");
    let mut shown = 0;
    for (table, key) in [
        ("contact", "contactid"),
        ("account", "accountid"),
        ("email", "activityid"),
        ("activitymimeattachment", "activitymimeattachmentid"),
    ] {
        for row in office.rows(table) {
            let id = row[key].as_str().unwrap().to_owned();
            let before = export.to_string().contains(&id);
            let Some(writes) = rows.get(&(table.to_owned(), id)) else {
                assert!(before, "not shown: {row:#}");
                continue;
            };
            shown += 1;
            assert_eq!(writes[0]["write"], if before { "update" } else { "create" });
            for (column, value) in writes
                .iter()
                .flat_map(|write| write["columns"].as_object().unwrap())
            {
                // A lookup column is stored under another name. `overriddencreatedon` is stored as
                // `createdon`.
                match column.as_str() {
                    "overriddencreatedon" => assert_eq!(row["createdon"], *value),
                    column if row.get(column).is_some() => {
                        assert_eq!(row[column], *value, "{column}");
                    }
                    column => assert!(
                        column.contains('@') || column.ends_with("parties"),
                        "{column} of {row:#}"
                    ),
                }
            }
        }
    }
    assert_eq!(
        shown,
        rows.len(),
        "every row that the dry run showed was written"
    );
    assert_eq!(
        shown,
        3 + 1 + 2 + 1 + 1,
        "emails, file, contacts created, account, contact filled"
    );

    // A dry run after the real run shows no row, since every row exists.
    let seen = office.import(&files, &["--dry-run"]).await;
    assert_eq!(
        (seen.status, seen.out.as_str()),
        (Some(0), ""),
        "{}",
        seen.err
    );
}

#[tokio::test]
async fn import_can_set_the_original_createdon_and_reports_a_missing_privilege() {
    let office = desk().await;
    let outcome = office
        .imported(&["api-messages.json"], &["--created-on", "original"])
        .await;
    assert_eq!(outcome["created_on_refused"], false);
    assert_eq!(office.0.emails()[0]["createdon"], "2024-02-29T09:46:40Z");
    let dataverse = office.0.emulators.dataverse();
    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    let more = ["--created-on", "original", "--yes"];
    let seen = office.import(&["cli-messages.json"], &more).await;
    assert_eq!(seen.status, Some(0), "{}", seen.err);
    seen.assert_shows(&["Messages: 2 written", "lacks a privilege"]);
    assert_eq!(office.0.emails().len(), 3);
}

#[tokio::test]
async fn import_reports_unusable_files_and_objects_and_imports_the_rest() {
    let office = desk().await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let settings = office.all_settings();
    let threads = json!([{"object": "thread", "id": "t", "subject": "x"}]).to_string();
    for (text, expected) in [
        ("hello", "is not valid JSON"),
        ("[{", "is not valid JSON: it ends in the middle"),
        (threads.as_str(), "holds neither messages nor contacts"),
        (r#"{"error": "unauthorized"}"#, "holds an error"),
    ] {
        let file = write("unusable.json", text);
        let seen = run(
            &["import", &fixture("cli-messages.json"), &file, "--yes"],
            &settings,
        )
        .await;
        assert_eq!((seen.status, seen.out.as_str()), (Some(2), ""));
        assert!(
            seen.err.contains(expected) && seen.err.contains("unusable.json"),
            "{}",
            seen.err
        );
    }
    let seen = office.import(&["cli-messages.json"], &[]).await;
    assert_eq!(seen.status, Some(2));
    assert!(seen.err.contains("pass --yes"), "{}", seen.err);
    let seen = office
        .import(
            &["cli-messages.json"],
            &["--mailbox", "eve@ours.example", "--yes"],
        )
        .await;
    assert_eq!(seen.status, Some(2));
    assert!(
        seen.err.contains("Nylas has no mailbox eve@ours.example"),
        "{}",
        seen.err
    );
    assert_eq!(office.0.emails(), [Value::Null; 0], "nothing was written");

    let message = |id: &Value, grant: &Value| {
        json!({"id": id, "grant_id": grant, "object": "message", "subject": "x", "date": 1_709_200_000, "body": 7,
               "from": [{"email": "carol@kites.example"}], "to": "nobody", "headers": [{"name": "Message-ID", "value": format!("<{id}>")}]})
    };
    let list = json!([
        message(&json!("good"), &json!(GRANT)),
        message(&json!("elsewhere"), &json!("grant-9")),
        message(&json!("nowhere"), &Value::Null),
        message(&Value::Null, &json!(GRANT)),
        message(&json!("good"), &json!(GRANT)),
        {"object": "thread"},
    ]);
    let file = write("mixed.txt", &list.to_string());
    let seen = run(&["import", &file, "--yes"], &settings).await;
    assert_eq!(seen.status, Some(1), "{}", seen.err);
    seen.assert_shows(&[
        "mixed.txt[1]: not imported: Nylas has no mailbox grant-9: name its mailbox with --mailbox",
        "mixed.txt[2]: not imported: it names no mailbox: name its mailbox with --mailbox",
        "mixed.txt[3]: not imported: a message object has no usable id",
        "mixed.txt[5]: not imported: it is neither a message nor a contact",
        "Messages: 1 written, 0 written before, 0 skipped, 0 waiting, 0 dead, 1 repeated, 3 not imported.",
    ]);
    let seen = run(
        &[
            "import",
            &file,
            "--yes",
            "--json",
            "--mailbox",
            "Ada@ours.example",
        ],
        &settings,
    )
    .await;
    let outcome = seen.json();
    assert_eq!(outcome["messages"]["written"], 2, "{outcome:#}");
    assert_eq!(outcome["messages"]["there_before"], 1);
}

#[tokio::test]
async fn import_sends_no_further_request_to_nylas_after_a_429() {
    let office = desk().await;
    let folder = tempfile::tempdir().unwrap();
    let saved = std::fs::read_to_string(fixture("cli-messages.json")).unwrap();
    let saved: Vec<Value> = serde_json::from_str(&saved).unwrap();
    let many = (0..50).map(|n| {
        let mut message = saved[1].clone();
        message["id"] = json!(format!("many-{n}"));
        message
    });
    let file = folder.path().join("many.json");
    std::fs::write(&file, json!(many.collect::<Vec<_>>()).to_string()).unwrap();
    let arguments = ["import", file.to_str().unwrap(), "--yes", "--json"];
    let line = Tripwire::before(&office.0.emulators.nylas().url()).await;
    let nylas = office.0.emulators.nylas().clone();
    line.at("/messages/many-3?", async move {
        nylas.fail_next(emulators::Fault::Status {
            status: 429,
            code: "rate_limit_error".to_owned(),
            message: String::new(),
            retry_after_seconds: Some(60),
        });
    });
    let mut settings = office.all_settings();
    settings.push(("NYLAS_API_URL", line.url().to_owned()));
    let seen = run(&arguments, &settings).await;
    assert_eq!(seen.status, Some(1), "{}", seen.err);
    let outcome = seen.json();
    assert_eq!(outcome["paused_by"], "Nylas", "{outcome:#}");
    let written = outcome["messages"]["written"].as_u64().unwrap();
    assert!(written < 20, "{outcome:#}");
    assert_eq!(outcome["left"], 50 - written);
    let rest = run(&arguments, &office.all_settings()).await.json();
    assert_eq!(rest["messages"]["written"], 50 - written, "{rest:#}");
    assert_eq!(office.0.emails().len(), 50);
}

#[tokio::test]
async fn a_429_from_dataverse_ends_the_import_and_repeating_the_command_completes_it() {
    let office = desk().await;
    let dataverse = office.0.emulators.dataverse();
    dataverse.fail_next(emulators::Fault::Status {
        status: 429,
        code: "0x80072322".to_owned(),
        message: String::new(),
        retry_after_seconds: Some(60),
    });
    let files = ["cli-contacts.json", "cli-messages.json"];
    let seen = office.import(&files, &["--yes"]).await;
    assert_eq!(seen.status, Some(1), "{}", seen.err);
    seen.assert_shows(&[
        "Dataverse asked for a pause until",
        ": 3 objects were not processed.",
    ]);
    let seen = office.import(&files, &["--yes"]).await;
    assert_eq!(seen.status, Some(2), "{}", seen.out);
    office.0.end_pause().await;
    let outcome = office.imported(&files, &[]).await;
    assert_eq!(
        (
            &outcome["messages"]["written"],
            &outcome["contacts"]["created"]
        ),
        (&json!(2), &json!(1))
    );
}

#[tokio::test]
async fn import_exits_with_1_if_only_a_contact_failed() {
    let office = desk().await;
    let dataverse = office.0.emulators.dataverse();
    let folder = tempfile::tempdir().unwrap();
    let saved = std::fs::read_to_string(fixture("cli-contacts.json")).unwrap();
    let mut saved: Vec<Value> = serde_json::from_str(&saved).unwrap();
    saved.retain(|contact| contact["id"] == "c1" || contact["id"] == "c2");
    saved[0]["job_title"] = json!("Chief buyer of lanterns");
    let file = folder.path().join("contacts.json");
    std::fs::write(&file, json!(saved).to_string()).unwrap();
    let arguments = ["import", file.to_str().unwrap(), "--yes"];
    dataverse.set_max_length("contact", "jobtitle", 10).unwrap();
    let seen = run(&arguments, &office.all_settings()).await;
    assert_eq!(seen.status, Some(1), "{}{}", seen.out, seen.err);
    seen.assert_shows(&["contacts.json[0]: failed: ", "1 filled", "1 failed."]);
    dataverse
        .set_max_length("contact", "jobtitle", 100)
        .unwrap();
    let seen = run(&arguments, &office.all_settings()).await;
    assert_eq!(seen.status, Some(0), "{}{}", seen.out, seen.err);
    seen.assert_shows(&["1 created", "0 failed."]);
}
