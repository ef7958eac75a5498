//! How a `$batch` behaves: change sets, references between operations, failures and limits.

use emulators::{Emulators, Fault, Setting};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::valid_client::{Answered, ValidClient, error};

/// Builds one part: a request of the batch itself or, with a `Content-ID`, an operation of a
/// change set.
fn part(boundary: &str, content_id: Option<&str>, request: &str, body: Option<Value>) -> String {
    let id = content_id
        .map(|id| format!("Content-ID: {id}\r\n"))
        .unwrap_or_default();
    let head = format!(
        "--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n{id}\r\n"
    );
    match body {
        Some(body) => {
            format!("{head}{request} HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{body}\r\n")
        }
        None => format!("{head}{request} HTTP/1.1\r\nAccept: application/json\r\n\r\n\r\n"),
    }
}

pub(crate) fn change_set(operations: &[(&str, &str, Value)]) -> String {
    let parts: String = operations
        .iter()
        .map(|(id, request, body)| part("c", Some(id), request, Some(body.clone())))
        .collect();
    format!("--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n{parts}--c--\r\n")
}

pub(crate) fn get(path: &str) -> String {
    part("b", None, &format!("GET /api/data/v9.2/{path}"), None)
}

pub(crate) async fn send(client: &ValidClient, parts: &[String], prefer: &str) -> Answered {
    let body = format!("{}--b--\r\n", parts.concat());
    let request = client
        .request(Method::POST, "$batch")
        .header("Content-Type", "multipart/mixed; boundary=b");
    client
        .send(request.header("Prefer", prefer).body(body))
        .await
}

/// Returns the HTTP statuses of all parts, in order.
pub(crate) fn statuses(answer: &Answered) -> Vec<u16> {
    let lines = answer
        .body
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    lines.map(|line| line[..3].parse().unwrap()).collect()
}

const EMAIL: &str = "POST /api/data/v9.2/emails";

#[tokio::test]
async fn one_change_set_can_create_an_email_add_an_attachment_and_complete_it() {
    let client = ValidClient::new().await;
    let email = Uuid::from_u128(0xe);
    let attachment = json!({
        "objectid_activitypointer@odata.bind": format!("/activitypointers({email})"), "objecttypecode": "email",
        "filename": "a.txt", "mimetype": "text/plain", "body": "YQ==",
    });
    let set = change_set(&[
        (
            "1",
            EMAIL,
            json!({"activityid": email, "email_activity_parties": [
            {"participationtypemask": 1, "addressused": "a@example.com"}]}),
        ),
        (
            "2",
            "POST /api/data/v9.2/activitymimeattachments",
            attachment,
        ),
        (
            "3",
            &format!("PATCH /api/data/v9.2/emails({email})"),
            json!({"statecode": 1, "statuscode": 4}),
        ),
    ]);
    let answer = send(&client, &[set], "").await;
    assert_eq!(
        (answer.status, statuses(&answer)),
        (200, vec![204, 204, 204])
    );
    assert!(
        answer
            .header("content-type")
            .starts_with("multipart/mixed; boundary=batchresponse_")
    );
    assert!(answer.body.contains("boundary=changesetresponse_"));
    for id in ["1", "2", "3"] {
        assert!(
            answer.body.contains(&format!("\r\nContent-ID: {id}\r\n")),
            "{id}"
        );
    }
    let url = format!(
        "OData-EntityId: {}/api/data/v9.2/emails({email})\r\n",
        client.emulators.dataverse().url()
    );
    assert!(answer.body.contains(&url));
    assert_eq!(client.stored(email, "statuscode"), 4);
    let requests = client.emulators.dataverse().requests();
    assert_eq!(
        (requests.total, requests.operations, requests.writes),
        (1, 3, 3)
    );
}

#[tokio::test]
async fn a_reference_reaches_only_earlier_operations_of_its_change_set() {
    let client = ValidClient::new().await;
    let attachment = json!({
        "objectid_activitypointer@odata.bind": "$1", "objecttypecode": "email",
        "filename": "a.txt", "mimetype": "text/plain", "body": "YQ==",
    });
    let post = (
        "2",
        "POST /api/data/v9.2/activitymimeattachments",
        attachment.clone(),
    );
    let good = change_set(&[
        ("1", EMAIL, json!({})),
        post.clone(),
        ("3", "PATCH $1", json!({"statecode": 1})),
    ]);
    assert_eq!(statuses(&send(&client, &[good], "").await), [204, 204, 204]);
    assert_eq!(
        client.emulators.dataverse().rows("email")[0]["statecode"],
        1
    );

    let forward = change_set(&[
        (
            "2",
            "POST /api/data/v9.2/activitymimeattachments",
            attachment,
        ),
        ("1", EMAIL, json!({})),
    ]);
    let answer = send(&client, &[forward], "").await;
    assert_eq!((answer.status, statuses(&answer)), (400, vec![400]));
    assert!(answer.body.contains("does not exist in the batch context"));

    let (first, second) = (
        change_set(&[("1", EMAIL, json!({}))]),
        change_set(&[("9", "PATCH $1", json!({"statecode": 1}))]),
    );
    assert_eq!(
        send(&client, &[first, second], "").await.status,
        400,
        "a reference does not reach another change set"
    );
}

#[tokio::test]
async fn content_ids_may_repeat_in_another_change_set() {
    let client = ValidClient::new().await;
    let set = || change_set(&[("1", EMAIL, json!({}))]);
    assert_eq!(
        statuses(&send(&client, &[set(), set()], "").await),
        [204, 204]
    );
}

#[tokio::test]
async fn a_failed_change_set_writes_nothing_and_returns_only_its_failure() {
    let client = ValidClient::new().await;
    let taken = client.email().await;
    let set = change_set(&[
        ("1", EMAIL, json!({"subject": "first"})),
        (
            "2",
            &format!("PATCH /api/data/v9.2/emails({taken})"),
            json!({"subject": "changed"}),
        ),
        ("3", EMAIL, json!({"activityid": taken})),
        ("4", EMAIL, json!({})),
    ]);
    let answer = send(&client, &[set.clone(), get("WhoAmI")], "").await;
    assert_eq!(
        (answer.status, statuses(&answer)),
        (412, vec![412]),
        "the batch stops at the failed change set"
    );
    assert!(answer.body.contains("Content-ID: 3\r\n") && answer.body.contains("0x80040237"));
    assert!(
        answer.body.contains("changesetresponse_"),
        "by default, the error is wrapped in a change set response"
    );
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
    assert_eq!(client.stored(taken, "subject"), "Kites");

    client
        .emulators
        .dataverse()
        .set_setting(Setting::BareChangeSetErrors(true));
    let bare = send(&client, &[set], "").await;
    assert_eq!(statuses(&bare), [412]);
    assert!(!bare.body.contains("changesetresponse_"));
}

#[tokio::test]
async fn a_batch_stops_at_its_first_failure_unless_continue_on_error_is_set() {
    let client = ValidClient::new().await;
    let parts = [
        get("WhoAmI"),
        get("emailz"),
        change_set(&[("1", EMAIL, json!({"nosuch": 1}))]),
        change_set(&[("2", EMAIL, json!({}))]),
        get("emails"),
    ];
    let stopped = send(&client, &parts, "").await;
    assert_eq!((stopped.status, statuses(&stopped)), (404, vec![200, 404]));
    assert!(client.emulators.dataverse().rows("email").is_empty());
    let all = send(&client, &parts, "odata.continue-on-error").await;
    assert_eq!(
        (all.status, statuses(&all)),
        (200, vec![200, 404, 400, 204, 200])
    );
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
}

#[tokio::test]
async fn reads_in_a_batch_may_have_raw_spaces_absolute_urls_and_long_queries() {
    let client = ValidClient::new().await;
    client.contact("lark@example.com");
    let long = "x".repeat(40_000);
    let parts = [
        get("contacts?$filter=emailaddress1 eq 'LARK@example.com'&$select=lastname"),
        part(
            "b",
            None,
            "GET https://proxy.example.com/api/data/v9.2/contacts?$select=lastname",
            None,
        ),
        get(&format!("contacts?$filter=lastname eq '{long}'")),
    ];
    let answer = send(&client, &parts, "").await;
    assert_eq!(
        (answer.status, statuses(&answer)),
        (200, vec![200, 200, 200])
    );
    assert_eq!(answer.body.matches("\"lastname\":\"Lark\"").count(), 2);
    let too_long = get(&format!(
        "contacts?$filter=lastname eq '{}'",
        "x".repeat(66_000)
    ));
    assert_eq!(
        send(&client, &[too_long], "").await.error(),
        error(400, "0x80060888")
    );
}

#[tokio::test]
async fn each_part_of_a_batch_has_its_own_preferences() {
    let client = ValidClient::new().await;
    client.contact("lark@example.com");
    client.contact("wren@example.com");
    let page = get("contacts?$select=lastname")
        .replace("Accept:", "Prefer: odata.maxpagesize=1\r\nAccept:");
    let answer = send(&client, &[page, get("contacts?$select=lastname")], "").await;
    assert_eq!(answer.body.matches("@odata.nextLink").count(), 1);
}

#[tokio::test]
async fn a_malformed_batch_gets_a_plain_error_and_executes_nothing() {
    let client = ValidClient::new().await;
    let good = change_set(&[("1", EMAIL, json!({}))]);
    let nested = part("b", None, "POST /api/data/v9.2/$batch", Some(json!({})));
    let no_id = format!(
        "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n{}--c--\r\n",
        part("c", None, EMAIL, Some(json!({})))
    );
    let read_inside = change_set(&[("1", "GET /api/data/v9.2/emails", json!({}))]);
    let twice = change_set(&[("1", EMAIL, json!({})), ("1", EMAIL, json!({}))]);
    for (bad, code) in [
        (good.replace("\r\n", "\n"), "0x80048d19"),
        (nested, "0x80048d19"),
        (no_id, "0x80060888"),
        (read_inside, "0x80048d19"),
        (twice, "0x80060888"),
        ("nonsense".to_owned(), "0x80048d19"),
    ] {
        let answer = send(
            &client,
            &[change_set(&[("9", EMAIL, json!({}))]), bad.clone()],
            "",
        )
        .await;
        assert!(
            answer
                .header("content-type")
                .starts_with("application/json"),
            "{bad}"
        );
        assert_eq!(answer.error(), error(400, code), "{bad}");
    }
    assert!(
        client.emulators.dataverse().rows("email").is_empty(),
        "the valid change set before the malformed part is not executed either"
    );
    let request = client
        .request(Method::POST, "$batch")
        .header("Content-Type", "application/json")
        .body("{}");
    assert_eq!(client.send(request).await.error(), error(400, "0x80048d19"));
}

#[tokio::test]
async fn a_batch_has_at_most_one_thousand_operations() {
    let client = ValidClient::new().await;
    let parts = vec![get("WhoAmI"); 1_001];
    assert_eq!(send(&client, &parts[..1_000], "").await.status, 200);
    assert_eq!(
        send(&client, &parts, "").await.error(),
        error(400, "0x80048d19")
    );
}

#[tokio::test]
async fn a_truncated_or_corrupted_batch_always_gets_a_valid_response() {
    let client = ValidClient::new().await;
    let good = format!(
        "{}{}--b--\r\n",
        change_set(&[("1", EMAIL, json!({"subject": "ä"}))]),
        get("WhoAmI")
    )
    .into_bytes();
    // The emulator answers with a valid HTTP status wherever the body is cut and whichever byte
    // is replaced.
    for at in 0..good.len() {
        let mut spoilt = good.clone();
        spoilt[at] = 0xff;
        for body in [good[..at].to_vec(), spoilt] {
            let request = client
                .request(Method::POST, "$batch")
                .header("Content-Type", "multipart/mixed; boundary=b");
            let status = client.send(request.body(body)).await.status;
            assert!(
                matches!(status, 200 | 400 | 404 | 405 | 415),
                "{status} at {at}"
            );
        }
    }
}

#[tokio::test]
async fn the_emulators_run_on_a_multi_thread_runtime() {
    let runtime = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            Emulators::start()
                .await
                .unwrap()
                .dataverse()
                .requests()
                .total
        })
    });
    assert_eq!(runtime.join().unwrap(), 0);
}

#[tokio::test]
async fn a_fault_can_be_injected_into_one_operation_of_a_batch() {
    let client = ValidClient::new().await;
    let throttled = Fault::Status {
        status: 429,
        code: "0x80072322".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(7),
    };
    client.emulators.dataverse().fail_operation(1, throttled);
    let sets = [
        change_set(&[("1", EMAIL, json!({})), ("2", EMAIL, json!({}))]),
        change_set(&[("3", EMAIL, json!({}))]),
    ];
    let answer = send(&client, &sets, "odata.continue-on-error").await;
    assert_eq!((answer.status, statuses(&answer)), (200, vec![429, 204]));
    assert!(answer.body.contains("Retry-After: 7\r\n"));
    assert_eq!(client.emulators.dataverse().rows("email").len(), 1);
}
