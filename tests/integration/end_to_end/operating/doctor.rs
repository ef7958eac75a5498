//! Runs the compiled `mailverse doctor` on a healthy installation, and on one in which one thing at
//! a time is broken. What can be broken in Dynamics 365: `doctor/dynamics.rs`.

mod dynamics;

use aws_sdk_dynamodb::types::TimeToLiveSpecification;
use emulators::{Privilege, Setting};
use mailverse::ledger::messages::Ledger;
use mailverse::ledger::policy_document::Pushed;
use serde_json::{Value, json};

use super::webhook::Front;
use crate::dynamo;
use crate::end_to_end::canary;
use crate::end_to_end::cloud::{Cloud, GRANT, TABLE};
use crate::end_to_end::command::{Seen, run};
use crate::manual;

/// A healthy installation and the settings of its operator.
struct Installed {
    cloud: Cloud,
    settings: Vec<(&'static str, String)>,
}

impl Installed {
    async fn new() -> Self {
        let cloud = Cloud::start(10).await;
        cloud.store_secrets().await;
        for (table, row) in [
            ("account", json!({"name": "Kites"})),
            ("lead", json!({"subject": "A lead", "lastname": "L"})),
        ] {
            cloud.emulators.dataverse().insert(table, row).unwrap();
        }
        let front = Front::before(&cloud).await;
        let own = vec![
            ("WEBHOOK_URL", front.url),
            ("WEBHOOK_SECRET_ID", "webhook".to_owned()),
            ("NYLAS_API_URL", cloud.emulators.nylas().url()),
            ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
            ("MAILBOXES", "ours.example".to_owned()),
            ("DATAVERSE_URL", cloud.emulators.dataverse().url()),
            ("TOKEN_SECRET_ID", "token".to_owned()),
            ("LEDGER_TABLE", TABLE.to_owned()),
            ("SYNC_QUEUE_URL", cloud.queue.clone()),
            ("BACKFILL_QUEUE_URL", cloud.tasks.clone()),
        ];
        let settings = [cloud.aws_settings(), own].concat();
        let installed = Self { cloud, settings };
        installed.store_token(3_600).await;
        let made = run(&["webhook", "create"], &installed.settings).await;
        assert_eq!(made.status, Some(0), "{}", made.err);
        installed
    }

    /// Stores a genuine token. Its stored expiry is `seconds` from now.
    async fn store_token(&self, seconds: i64) {
        let (entra, dataverse) = (
            self.cloud.emulators.entra(),
            self.cloud.emulators.dataverse(),
        );
        let token = entra.issue_token(&dataverse.url(), 7_200);
        let ends = chrono::Utc::now().timestamp() + seconds;
        let stored = json!({"access_token": token, "expires_at": ends});
        self.cloud.store("token", &stored.to_string()).await;
    }

    async fn doctor(&self, arguments: &[&str]) -> Seen {
        let seen = run(&[&["doctor"], arguments].concat(), &self.settings).await;
        let mut secrets = self.cloud.secret_texts().await;
        secrets.extend(self.cloud.stored("webhook").await);
        canary::assert_silent("standard output", &seen.out, &secrets);
        canary::assert_silent("standard error", &seen.err, &secrets);
        assert_eq!(seen.err, "");
        seen
    }

    async fn doctor_with(&mut self, name: &'static str, value: Option<&str>) -> Seen {
        let before = self.settings.clone();
        self.settings.retain(|(known, _)| *known != name);
        self.settings
            .extend(value.map(|value| (name, value.to_owned())));
        let seen = self.doctor(&[]).await;
        self.settings = before;
        seen
    }

    /// Creates a webhook destination with these triggers at a new address. The caller may stop its
    /// receiver.
    async fn destination(&self, triggers: &[&str]) -> Front {
        let front = Front::before(&self.cloud).await;
        let nylas = self.cloud.emulators.nylas();
        let call = reqwest::Client::new()
            .post(format!("{}/v3/webhooks", nylas.url()))
            .bearer_auth(nylas.api_key())
            .json(&json!({"webhook_url": front.url, "trigger_types": triggers}));
        assert_eq!(call.send().await.unwrap().status(), 200);
        front
    }

    /// Stores a policy document without checking it.
    async fn push(&self, document: &str) {
        let dynamo = dynamo::client(self.setting("AWS_ENDPOINT_URL_DYNAMODB"));
        let ledger = Ledger::new(dynamo, TABLE.to_owned());
        let stored = ledger.stored_policy().await.unwrap();
        let before = stored.as_ref().map(|stored| stored.version.as_str());
        let version = format!("v{}", document.len());
        let pushed = ledger.push_policy(document, &version, before, chrono::Utc::now());
        assert_eq!(pushed.await.unwrap(), Pushed::Stored);
    }

    fn withhold(&self, withheld: &[(Privilege, &'static str)]) {
        let setting = Setting::Withheld(withheld.to_vec());
        self.cloud.emulators.dataverse().set_setting(setting);
    }

    async fn time_to_live(&self, enabled: bool) {
        let specification = TimeToLiveSpecification::builder()
            .attribute_name("expires_at")
            .enabled(enabled);
        let dynamo = dynamo::client(self.setting("AWS_ENDPOINT_URL_DYNAMODB"));
        let call = dynamo.update_time_to_live().table_name(TABLE);
        let call = call.time_to_live_specification(specification.build().unwrap());
        call.send().await.unwrap();
    }

    fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| *known == name);
        &found.unwrap().1
    }
}

/// Asserts that exactly one check is broken: it has this name, and shows this problem and this
/// remedy. Checks that depend on it are skipped, and all others passed.
fn assert_broken(case: &str, seen: &Seen, name: &str, what: &str, remedy: &str) {
    assert_eq!(seen.status, Some(1), "{case}:\n{}", seen.out);
    let lines: Vec<&str> = seen.out.lines().collect();
    let broken: Vec<usize> = (0..lines.len())
        .filter(|at| lines[*at].starts_with('✘'))
        .collect();
    assert_eq!(broken.len(), 1, "{case}:\n{}", seen.out);
    let (line, below) = (lines[broken[0]], lines[broken[0] + 1]);
    let named = line.strip_prefix("✘ ").unwrap();
    assert!(named.starts_with(&format!("{name} ")), "{case}: {line}");
    assert!(line.contains(what), "{case}: {line}");
    assert!(
        below.contains("→") && below.contains(remedy),
        "{case}: {below}"
    );
    assert!(lines.last().unwrap().starts_with("1 broken"), "{case}");
}

fn assert_healthy(seen: &Seen) {
    assert_eq!(seen.status, Some(0), "{}{}", seen.out, seen.err);
    assert!(!seen.out.contains(['✘', '–']), "{}", seen.out);
}

#[tokio::test]
async fn doctor_reports_a_healthy_installation_and_changes_nothing() {
    let installed = Installed::new().await;
    let before = installed.cloud.emulators.dataverse().export();
    let seen = installed.doctor(&[]).await;
    println!("{}", seen.out);
    assert_healthy(&seen);
    assert!(seen.out.ends_with("checks passed.\n"), "{}", seen.out);
    assert_eq!(installed.cloud.emulators.dataverse().export(), before);
    let report = installed.doctor(&["--json"]).await;
    assert_eq!(
        (report.status, &report.json()["healthy"]),
        (Some(0), &json!(true))
    );
    let checks = report.json()["checks"].as_array().unwrap().clone();
    assert_eq!(checks.len(), seen.out.lines().count() - 1);
    let first = json!({"name": "settings", "verdict": "well", "seen": "all settings are present", "remedy": Value::Null});
    assert_eq!(checks[0], first);
    let bad = run(&["doctor", "--fix"], &installed.settings).await;
    assert_eq!(bad.status, Some(2));
}

#[tokio::test]
async fn doctor_names_each_missing_setting_with_the_template_output_that_has_it() {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/../template.yaml");
    let template = std::fs::read_to_string(template).unwrap();
    let (_, outputs) = template.split_once("\nOutputs:\n").unwrap();
    let cloud = Cloud::start(10).await;
    let seen = run(&["doctor"], &cloud.aws_settings()).await;
    assert_eq!(seen.status, Some(1), "{}", seen.out);
    let remedies: Vec<&str> = seen.out.lines().filter(|it| it.contains("→")).collect();
    assert_eq!(remedies.len(), 9, "{}", seen.out);
    let named = remedies
        .iter()
        .filter_map(|it| it.split_once("the output "));
    let named: Vec<&str> = named.map(|(_, it)| it.split_once(' ').unwrap().0).collect();
    assert_eq!(named.len(), 7, "{}", seen.out);
    for output in named {
        assert!(
            outputs.contains(&format!("\n  {output}:\n"))
                || outputs.starts_with(&format!("  {output}:")),
            "{output}"
        );
    }
}

/// A setting, the value it gets (`None`: it is removed), and the check that is then broken, with
/// its problem and its remedy.
type Misnamed<'a> = (&'static str, Option<&'a str>, &'a str, &'a str, &'a str);

impl Installed {
    async fn assert_each_is_seen(&mut self, cases: &[Misnamed<'_>]) {
        for (name, value, broken, what, remedy) in cases {
            let seen = self.doctor_with(name, *value).await;
            assert_broken(&format!("{name} {value:?}"), &seen, broken, what, remedy);
        }
        assert_healthy(&self.doctor(&[]).await);
    }
}

#[tokio::test]
async fn doctor_reports_a_missing_or_malformed_setting_in_one_line_with_its_remedy() {
    let cases = [
        (
            "LEDGER_TABLE",
            None,
            "settings",
            "LEDGER_TABLE is missing",
            "the output LedgerTable",
        ),
        (
            "WEBHOOK_URL",
            None,
            "settings",
            "WEBHOOK_URL is missing",
            "the output WebhookUrl",
        ),
        (
            "BACKFILL_QUEUE_URL",
            None,
            "settings",
            "BACKFILL_QUEUE_URL is missing",
            "the output BackfillQueueUrl",
        ),
        (
            "WRITE_MODE",
            Some("fast"),
            "settings",
            "WRITE_MODE must be",
            "the same value as sync-worker",
        ),
        (
            "WEBHOOK_URL",
            Some("ftp://x.example"),
            "settings",
            "not an https URL",
            "WebhookUrl",
        ),
        (
            "MAILBOXES",
            None,
            "settings",
            "MAILBOXES is missing",
            "the template parameter Mailboxes",
        ),
        (
            "MAILBOXES",
            Some("all,ours.example"),
            "settings",
            "together with others",
            "the template parameter Mailboxes",
        ),
        (
            "DATAVERSE_URL",
            Some("http://x.example"),
            "settings",
            "DATAVERSE_URL must be",
            "address of your organisation",
        ),
        ("AWS_REGION", None, "aws", "no AWS region", "set AWS_REGION"),
    ];
    Installed::new().await.assert_each_is_seen(&cases).await;
}

#[tokio::test]
async fn doctor_reports_a_setting_with_the_wrong_target_in_one_line_with_its_remedy() {
    let mut installed = Installed::new().await;
    let cloud = &installed.cloud;
    let other = cloud.sqs.create_queue().queue_name("other").send().await;
    let other = other.unwrap().queue_url.unwrap();
    let empty = cloud.secrets.create_secret().name("empty").send();
    empty.await.unwrap();
    let unknown = cloud.queue.replace("sync", "unknown");
    let unknown_tasks = cloud.tasks.replace("backfill", "unknown");
    let sync = cloud.queue.clone();
    let nowhere = Some("http://127.0.0.1:9");
    let cases = [
        (
            "LEDGER_TABLE",
            Some("elsewhere"),
            "ledger table",
            "ResourceNotFound",
            "LEDGER_TABLE",
        ),
        (
            "SYNC_QUEUE_URL",
            Some(unknown.as_str()),
            "sync queue",
            "NonExistentQueue",
            "SYNC_QUEUE_URL",
        ),
        (
            "SYNC_QUEUE_URL",
            Some(other.as_str()),
            "sync queue",
            "none receives",
            "template",
        ),
        (
            "BACKFILL_QUEUE_URL",
            Some(unknown_tasks.as_str()),
            "backfill queue",
            "NonExistentQueue",
            "BACKFILL_QUEUE_URL",
        ),
        // The sync queue makes messages visible again while the lease of a mailbox still holds.
        (
            "BACKFILL_QUEUE_URL",
            Some(sync.as_str()),
            "backfill queue",
            "visibility timeout is 300 s",
            "template",
        ),
        (
            "NYLAS_API_KEY_SECRET_ID",
            Some("empty"),
            "nylas key",
            "no value yet",
            "put the API key",
        ),
        (
            "NYLAS_API_URL",
            nowhere,
            "nylas key",
            "unavailable",
            "check NYLAS_API_URL",
        ),
        (
            "WEBHOOK_SECRET_ID",
            Some("empty"),
            "webhook secret",
            "no value",
            "webhook rotate",
        ),
        (
            "TOKEN_SECRET_ID",
            Some("empty"),
            "dataverse token",
            "no token yet",
            "mailverse token refresh",
        ),
        (
            "DATAVERSE_URL",
            nowhere,
            "dataverse user",
            "unavailable",
            "check DATAVERSE_URL",
        ),
    ];
    installed.assert_each_is_seen(&cases).await;
}

#[tokio::test]
async fn doctor_reports_dead_letters_and_a_missing_ttl_in_one_line_with_a_remedy() {
    let installed = Installed::new().await;
    let cloud = &installed.cloud;
    let dead_tasks = cloud.tasks.replace("backfill", "dead-tasks");
    for (queue, name, remedy) in [
        (&cloud.dead_letters, "sync dead letters", "mailverse status"),
        (&dead_tasks, "backfill dead letters", "log of the backfill"),
    ] {
        let letter = cloud.sqs.send_message().queue_url(queue);
        letter.message_body("{}").send().await.unwrap();
        let seen = installed.doctor(&[]).await;
        assert_broken("a dead letter", &seen, name, "about 1", remedy);
        let purge = cloud.sqs.purge_queue().queue_url(queue);
        purge.send().await.unwrap();
    }
    installed.time_to_live(false).await;
    let seen = installed.doctor(&[]).await;
    assert_broken("no TTL", &seen, "ledger TTL", "off", "expires_at");
    installed.time_to_live(true).await;
    assert_healthy(&installed.doctor(&[]).await);
}

#[tokio::test]
async fn doctor_reports_an_unusable_policy_in_one_line_with_its_remedy() {
    let installed = Installed::new().await;
    installed
        .push(r#"{"defaults": {"new_setting": "canary-rule"}}"#)
        .await;
    let seen = installed.doctor(&[]).await;
    let remedy = "mailverse policy show";
    assert_broken(
        "unusable",
        &seen,
        "policy",
        "1 problem; messages wait",
        remedy,
    );
    assert!(!seen.out.contains("canary-rule"), "{}", seen.out);
    installed.push(r#"{"defaults": {}}"#).await;
    assert_healthy(&installed.doctor(&[]).await);
}

#[tokio::test]
async fn the_doctor_transcript_of_the_manual_matches_the_output() {
    let installed = Installed::new().await;
    let seen = installed.doctor(&["--probe-write"]).await;
    println!("{}", seen.out);
    assert_healthy(&seen);
    manual::assert_shows(
        "docs/operations.md",
        "mailverse doctor --probe-write",
        &seen.out,
    );
}

#[tokio::test]
async fn doctor_shows_why_each_mailbox_takes_part_and_warns_of_unused_entries() {
    const THEIRS: &str = "1e3288f6-0000-4000-8000-00000000000e";
    let mut installed = Installed::new().await;
    installed
        .cloud
        .emulators
        .nylas()
        .add_grant(emulators::Grant {
            id: THEIRS.to_owned(),
            email: "eve@theirs.example".to_owned(),
            provider: "google".to_owned(),
            aliases: Vec::new(),
            // An excluded mailbox need not be signed in.
            status: "invalid".to_owned(),
        });
    let seen = installed.doctor(&[]).await;
    assert_healthy(&seen);
    let out = format!("✔ mailbox {THEIRS}  excluded, no entry matches");
    let line = |text: &str| seen.out.lines().find(|line| line.contains(text)).unwrap();
    assert_eq!(line(THEIRS), out);
    assert!(line("mailboxes ").ends_with("1 of 2 take part"));
    assert!(line("mailbox grant-1").ends_with("included by entry 1, google"));
    assert!(line("MAILBOXES entry 1").ends_with("ours.example: 1 mailbox"));

    let setting = "typo.example,workspace:workspace-default,eve@theirs.example";
    let seen = installed.doctor_with("MAILBOXES", Some(setting)).await;
    assert_eq!(
        seen.status,
        Some(1),
        "Eve's mailbox takes part and is signed out: {}",
        seen.out
    );
    assert!(!seen.out.contains("eve@theirs"), "{}", seen.out);
    let about = |line: &&str| line.contains("ailbox") || line.contains("MAILBOXES");
    for line in seen
        .out
        .lines()
        .filter(about)
        .filter(|line| !line.contains("ask its owner"))
    {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(seen.out.contains("! MAILBOXES entry 1"), "{}", seen.out);
    assert!(
        seen.out.contains("typo.example: no mailbox"),
        "{}",
        seen.out
    );
    assert!(seen.out.ends_with("1 broken, 1 warning.\n"), "{}", seen.out);

    let seen = installed
        .doctor_with("MAILBOXES", Some("typo.example"))
        .await;
    assert_eq!(seen.status, Some(0), "{}", seen.out);
    assert!(seen.out.contains("0 of 2 take part"), "{}", seen.out);
    assert!(
        seen.out.ends_with("Nothing is broken, 2 warnings.\n"),
        "{}",
        seen.out
    );
}

#[tokio::test]
async fn doctor_reports_a_nylas_problem_in_one_line_with_its_remedy() {
    let mut installed = Installed::new().await;
    let nylas = installed.cloud.emulators.nylas().clone();
    nylas.set_grant_status(GRANT, "invalid");
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "an expired grant",
        &seen,
        "mailbox grant-1",
        "included by entry 1, signed out",
        "from its watermark",
    );
    nylas.set_grant_status(GRANT, "valid");
    for (status, remedy) in [
        ("pause", "from its watermark"),
        ("failing", "see its log"),
        ("failed", "active again"),
    ] {
        nylas.set_webhook_status(status);
        let seen = installed.doctor(&[]).await;
        assert_broken(
            status,
            &seen,
            "webhook destination",
            &format!("is {status}"),
            remedy,
        );
    }
    nylas.set_webhook_status("active");
    let unregistered = Front::before(&installed.cloud).await;
    let seen = installed
        .doctor_with("WEBHOOK_URL", Some(&unregistered.url))
        .await;
    assert_broken(
        "no destination",
        &seen,
        "webhook destination",
        "none of 1",
        "webhook create",
    );
    let lacking = installed.destination(&["message.created"]).await;
    let seen = installed
        .doctor_with("WEBHOOK_URL", Some(&lacking.url))
        .await;
    assert_broken(
        "a trigger",
        &seen,
        "webhook destination",
        "lacks message.updated",
        "subscribe",
    );
    let gone = installed
        .destination(&["message.created", "message.updated"])
        .await;
    gone.close().await;
    let seen = installed.doctor_with("WEBHOOK_URL", Some(&gone.url)).await;
    assert_broken(
        "a dead receiver",
        &seen,
        "webhook receiver",
        "",
        "webhook-receiver",
    );

    let put = installed
        .cloud
        .secrets
        .put_secret_value()
        .secret_id("webhook");
    let put = put.secret_string("a notice").version_stages("AWSPENDING");
    let pending = put.send().await.unwrap().version_id.unwrap();
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "half a rotation",
        &seen,
        "webhook secret",
        "not finished",
        "webhook rotate",
    );
    let end = installed
        .cloud
        .secrets
        .update_secret_version_stage()
        .secret_id("webhook");
    let end = end
        .version_stage("AWSPENDING")
        .remove_from_version_id(pending);
    end.send().await.unwrap();

    installed.cloud.store("nylas", "nyk_canary-9f31").await;
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "a wrong key",
        &seen,
        "nylas key",
        "rejected",
        "other region",
    );
    assert!(!seen.out.contains("nyk_canary-9f31"));
    installed.cloud.store("nylas", &nylas.api_key()).await;
    assert_healthy(&installed.doctor(&[]).await);
}
