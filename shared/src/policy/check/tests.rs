use serde_json::{Value, json};

use crate::policy::{Policy, Problem};

fn problems(text: &str) -> Vec<String> {
    match Policy::parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

fn of_defaults(settings: &Value) -> Vec<String> {
    problems(&json!({"defaults": settings}).to_string())
}

/// Returns the problems of Ada's override on top of the organisation's settings.
fn of_part(settings: &Value, part: &Value) -> Vec<String> {
    let document = json!({"defaults": settings, "mailboxes": {"ada@ours.example": part}});
    problems(&document.to_string())
}

/// Asserts that the organisation's settings have exactly this problem, and that the settings
/// `instead` have none.
fn refused(settings: &Value, problem: &str, instead: &Value) {
    assert_eq!(of_defaults(settings), [format!("defaults.{problem}")]);
    assert_eq!(of_defaults(instead), [""; 0], "{instead}");
}

#[test]
fn an_invalid_document_is_rejected_with_line_and_column() {
    for (text, problem) in [
        (
            "{\n  \"defaults\": {,\n}",
            "line 2, column 16, defaults: key must be a string",
        ),
        ("{}\n[]", "line 2, column 1: trailing characters"),
        ("", "line 1, column 0: EOF while parsing a value"),
    ] {
        assert_eq!(problems(text), [problem], "{text}");
    }
    assert_eq!(problems("{}"), [""; 0]);
    let long = format!("{{\"$schema\": \"{}\"}}", "x".repeat(350_000));
    assert_eq!(
        problems(&long),
        ["the document: is 350015 bytes long; at most 350000 can be stored"]
    );
}

#[test]
fn an_unknown_setting_or_value_is_rejected_with_its_path() {
    for (text, beginning) in [
        (
            r#"{"default": {}}"#,
            "line 1, column 10, default: unknown field `default`",
        ),
        (
            r#"{"defaults": {"skip_bullk": true}}"#,
            "line 1, column 26, defaults.skip_bullk: unknown field `skip_bullk`",
        ),
        (
            r#"{"defaults": {"track": {"received": "some"}}}"#,
            "line 1, column 42, defaults.track.received: unknown variant `some`",
        ),
        (
            r#"{"defaults": {"block": [{"address": "a@x.example", "action": "hide"}]}}"#,
            "line 1, column 67, defaults.block[0].action: unknown variant `hide`",
        ),
        (
            r#"{"mailboxes": {"ada@x.example": {"internal_domains": []}}}"#,
            r#"line 1, column 51, mailboxes."ada@x.example".internal_domains: unknown field"#,
        ),
        (
            r#"{"defaults": {"folders": {"only": ["a"], "except": ["b"]}}}"#,
            "line 1, column 39, defaults.folders",
        ),
        (
            r#"{"defaults": {"skip_bulk": true, "skip_bulk": false}}"#,
            "line 1, column 44, defaults: duplicate field `skip_bulk`",
        ),
        (
            r#"{"mailboxes": {"ada@x.example": {}, "ada@x.example": {}}}"#,
            "line 1, column 56, mailboxes: invalid entry: found duplicate key",
        ),
    ] {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(beginning), "{found:?}");
    }
}

#[test]
fn every_problem_is_reported_and_not_only_the_first() {
    let found = of_part(
        &json!({"track": {"received": "known"}, "internal_domains": ["@ours.example"], "regarding": {"tracking_token": "("}}),
        &json!({"track": {"received": "all"}, "block": [{"action": "drop"}]}),
    );
    assert_eq!(
        found,
        [
            "defaults.internal_domains[0]: is not a domain such as example.com",
            "defaults.regarding.tracking_token: is not a regular expression: found open group without closing ')'",
            r#"mailboxes."ada@ours.example".track.received: must not be wider than defaults (got all, defaults: known)"#,
            r#"mailboxes."ada@ours.example".block[0]: has neither an address nor a domain; give one of them"#,
        ]
    );
}

#[test]
fn folder_lists_contain_each_valid_name_once() {
    refused(
        &json!({"folders": {"only": []}}),
        "folders.only: lists no folder",
        &json!({"folders": {"only": ["CRM"]}}),
    );
    refused(
        &json!({"folders": {"except": ["CRM", " "]}}),
        "folders.except[1]: is not a folder name",
        &json!({"folders": {"except": ["CRM", "\\Archive"]}}),
    );
    refused(
        &json!({"folders": {"only": ["CRM", "crm "]}}),
        "folders.only[1]: is named twice",
        &json!({"folders": {"only": ["CRM", "CRM/A"]}}),
    );
}

#[test]
fn a_folder_rule_must_name_a_table_that_can_be_the_regarding() {
    let rule = |folder: &str, table: &str| json!({"folder": folder, "table": table, "id": "00000000-0000-0000-0000-000000000001"});
    let known = json!({"folder_regarding": [rule("A", "opportunity"), rule("B", "incident")]});
    let found = of_defaults(&json!({"folder_regarding": [rule("A", "systemuser")]}));
    assert_eq!(found.len(), 1);
    let expected = "defaults.folder_regarding[0].table: is not a table that an email can regard";
    assert!(found[0].starts_with(expected), "{found:?}");
    refused(
        &json!({"folder_regarding": [rule("A", "account"), rule("a", "contact")]}),
        "folder_regarding[1].folder: is named twice",
        &known,
    );
    refused(
        &json!({"folder_regarding": [rule("A", "account")], "regarding": {"order": ["thread"]}}),
        "folder_regarding: has no effect unless defaults.regarding.order lists folder",
        &json!({"folder_regarding": [rule("A", "account")], "regarding": {"order": ["folder"]}}),
    );
    let custom = json!({"custom": {"table": "new_project", "set": "new_projects", "key": "new_projectid", "customer": "new_customerid"}});
    let own = json!({"folder_regarding": [rule("A", "new_project")], "regarding": {"app": custom}});
    assert_eq!(of_defaults(&own), [""; 0]);
    assert_eq!(
        of_defaults(&json!({"folder_regarding": [rule("A", "new_project")]})).len(),
        0,
        "only the table's definition tells whether an email can regard it"
    );
}

#[test]
fn domains_are_valid_and_unique_and_allowed_domains_are_external() {
    refused(
        &json!({"internal_domains": ["a.example", "A.example"]}),
        "internal_domains[1]: is named twice",
        &json!({"internal_domains": ["a.example", "b.a.example"]}),
    );
    refused(
        &json!({"allow": ["*.kites.example"]}),
        "allow[0]: is not a domain such as example.com",
        &json!({"allow": ["kites.example"]}),
    );
    refused(
        &json!({"allow": ["kites.example", "ours.example"], "internal_domains": ["Ours.example"]}),
        "allow[1]: is an internal domain, so its addresses are never external",
        &json!({"allow": ["kites.example", "x.ours.example"], "internal_domains": ["Ours.example"]}),
    );
}

#[test]
fn a_block_has_one_address_or_one_domain_and_no_contradiction() {
    let block = |blocks: Value| json!({"block": blocks});
    let fine = block(
        json!([{"address": "a@x.example", "action": "drop"}, {"domain": "y.example", "action": "strip"}]),
    );
    for (blocks, problem) in [
        (
            json!([{"address": "a@x.example", "domain": "x.example", "action": "drop"}]),
            "block[0]: has both an address and a domain; give one of them",
        ),
        (
            json!([{"address": "x.example", "action": "drop"}]),
            "block[0].address: is not an email address",
        ),
        (
            json!([{"domain": "a@x.example", "action": "drop"}]),
            "block[0].domain: is not a domain such as example.com",
        ),
        (
            json!([{"domain": "x.example", "action": "drop"}, {"domain": "X.example", "action": "drop"}]),
            "block[1]: is blocked twice",
        ),
        (
            json!([{"domain": "x.example", "action": "drop"}, {"domain": "X.example", "action": "strip"}]),
            "block[1]: is both dropped and stripped",
        ),
    ] {
        refused(&block(blocks), problem, &fine);
    }
    let of = |domain: &str| json!({"internal_domains": ["eu.ours.example"], "allow": ["kites.example"], "block": [{"domain": domain, "action": "drop"}]});
    refused(
        &of("ours.example"),
        "block[0]: blocks an internal domain",
        &of("us.ours.example"),
    );
    refused(
        &of("kites.example"),
        "block[0]: blocks a domain that defaults.allow lists",
        &of("spam.kites.example"),
    );
}

#[test]
fn each_regarding_source_is_listed_once_and_has_valid_settings() {
    let regarding = |settings: Value| json!({"regarding": settings});
    refused(
        &regarding(json!({"order": ["lead", "contact", "lead"]})),
        "regarding.order[2]: lead is named twice",
        &regarding(json!({"order": ["lead", "contact"]})),
    );
    refused(
        &regarding(json!({"tracking_token": "(CRM:[0-9]+)?"})),
        "regarding.tracking_token: matches every subject",
        &regarding(json!({"tracking_token": "(CRM:[0-9]+)"})),
    );
    refused(
        &regarding(json!({"order": ["contact"], "app": "sales"})),
        "regarding.app: has no effect unless defaults.regarding.order lists app",
        &regarding(json!({"order": ["app"], "app": "sales"})),
    );
    let custom = |table: &str| {
        regarding(
            json!({"app": {"custom": {"table": table, "set": "new_projects", "key": "new_projectid", "customer": "new_customerid"}}}),
        )
    };
    for none in ["", "New Project", "new_projects?$filter", "1x"] {
        refused(
            &custom(none),
            "regarding.app.custom.table: is not a logical name such as new_project",
            &custom("new_project"),
        );
    }
}

#[test]
fn a_mailbox_is_a_unique_email_address() {
    let found = problems(r#"{"mailboxes": {"Ada@x.example": {}, "ada@x.example": {}, "ada": {}}}"#);
    assert_eq!(
        found,
        [
            "mailboxes.ada: is not an email address",
            r#"mailboxes."ada@x.example": is named twice"#
        ]
    );
}

#[test]
fn an_override_that_is_wider_than_the_defaults_is_rejected() {
    let organisation = json!({
        "track": {"received": "known", "sent": "replies"}, "folders": {"except": ["Private"]}, "skip_bulk": true,
        "first_of_thread_only": true, "allow": ["kites.example"], "content": "subject", "create_contacts": "sent",
    });
    for (part, problem) in [
        (
            json!({"track": {"received": "all"}}),
            "track.received: must not be wider than defaults (got all, defaults: known)",
        ),
        (
            json!({"track": {"sent": "known"}}),
            "track.sent: must not be wider than defaults (got known, defaults: replies)",
        ),
        (
            json!({"folders": "all"}),
            "folders: must not be wider than defaults, which restrict the folders",
        ),
        (
            json!({"skip_internal": false}),
            "skip_internal: must not be wider than defaults (got false, defaults: true)",
        ),
        (
            json!({"skip_bulk": false}),
            "skip_bulk: must not be wider than defaults (got false, defaults: true)",
        ),
        (
            json!({"first_of_thread_only": false}),
            "first_of_thread_only: must not be wider than defaults (got false, defaults: true)",
        ),
        (
            json!({"allow": ["else.example"]}),
            "allow[0]: must not be wider than defaults (defaults.allow does not include it)",
        ),
        (
            json!({"content": "snippet"}),
            "content: must not be wider than defaults (got snippet, defaults: subject)",
        ),
        (
            json!({"create_contacts": "all"}),
            "create_contacts: must not be wider than defaults (got all, defaults: sent)",
        ),
    ] {
        assert_eq!(
            of_part(&organisation, &part),
            [format!(r#"mailboxes."ada@ours.example".{problem}"#)]
        );
    }
    let narrower = json!({
        "track": {"received": "known", "sent": "none"}, "folders": {"only": ["CRM"]}, "skip_internal": true, "skip_bulk": true,
        "first_of_thread_only": true, "allow": ["eu.kites.example"], "content": "participants", "create_contacts": "never",
        "block": [{"address": "a@x.example", "action": "drop"}],
    });
    assert_eq!(of_part(&organisation, &narrower), [""; 0]);
    // A mailbox may drop what the organisation strips, but must not strip what it drops.
    let stripped = json!({"block": [{"domain": "x.example", "action": "strip"}]});
    let dropped = json!({"block": [{"domain": "x.example", "action": "drop"}]});
    assert_eq!(of_part(&stripped, &dropped), [""; 0]);
    assert_eq!(
        of_part(&dropped, &stripped),
        [r#"mailboxes."ada@ours.example".block[0]: is both dropped and stripped"#]
    );
}
