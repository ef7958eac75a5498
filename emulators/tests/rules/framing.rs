//! The grammar of a `$batch` body. Each case contains one mistake.

use reqwest::Method;
use serde_json::json;

use super::batches::{change_set, get};
use super::valid_client::{Answered, ValidClient, error};

const EMAIL: &str = "POST /api/data/v9.2/emails";

fn good() -> String {
    let set = change_set(&[
        ("1", EMAIL, json!({"subject": "a"})),
        ("2", EMAIL, json!({})),
    ]);
    format!("{0}{set}{0}{0}--b--\r\n", get("WhoAmI"))
}

async fn send(client: &ValidClient, body: String) -> Answered {
    let request = client
        .request(Method::POST, "$batch")
        .header("Content-Type", "multipart/mixed; boundary=b");
    client.send(request.body(body)).await
}

#[tokio::test]
async fn each_line_end_must_be_crlf() {
    let client = ValidClient::new().await;
    assert_eq!(send(&client, good()).await.status, 200);
    let before = client.emulators.dataverse().rows("email").len();
    let good = good();
    for (at, _) in good.match_indices("\r\n") {
        for end in ["\n", "\r"] {
            let mut bad = good.clone();
            bad.replace_range(at..at + 2, end);
            let answer = send(&client, bad.clone()).await;
            assert_eq!(answer.status, 400, "{end:?} at {at}: {bad}");
        }
    }
    assert_eq!(client.emulators.dataverse().rows("email").len(), before);
}

#[tokio::test]
async fn each_operation_of_a_change_set_needs_a_content_id() {
    let client = ValidClient::new().await;
    for (from, to) in [
        ("Content-ID: 1\r\n", ""),
        ("Content-ID: 2\r\n", ""),
        ("Content-ID: 2\r\n", "Content-ID: \r\n"),
        ("Content-ID: 2\r\n", "Content-ID: 1\r\n"),
        ("Content-ID: 2\r\n", "ContentID: 2\r\n"),
    ] {
        let answer = send(&client, good().replace(from, to)).await;
        assert_eq!(answer.error(), error(400, "0x80060888"), "{from} {to}");
    }
    assert!(client.emulators.dataverse().rows("email").is_empty());
    assert_eq!(
        send(&client, good().replace("Content-ID", "content-id"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn each_part_needs_a_valid_content_type_encoding_and_request_line() {
    let client = ValidClient::new().await;
    for (from, to) in [
        ("Content-Type: application/http", "Content-Type: text/plain"),
        ("Content-Type: application/http\r\n", ""),
        ("Content-Transfer-Encoding: binary\r\n", ""),
        (
            "Content-Transfer-Encoding: binary",
            "Content-Transfer-Encoding: 8bit",
        ),
        ("HTTP/1.1", "HTTP/2"),
        (" HTTP/1.1", ""),
        ("--c--", ""),
        ("--b--", ""),
        ("boundary=c", "boundary=d"),
    ] {
        let answer = send(&client, good().replace(from, to)).await;
        assert_eq!(answer.error(), error(400, "0x80048d19"), "{from} {to}");
    }
    assert!(client.emulators.dataverse().rows("email").is_empty());
}

#[tokio::test]
async fn common_deviations_from_the_batch_grammar_are_accepted() {
    let client = ValidClient::new().await;
    for (from, to) in [
        (
            "Content-Type: application/json\r\n",
            "Content-Type: application/json; type=entry\r\n",
        ),
        (
            "Content-Type: application/json\r\n\r\n{}",
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "/api/data/v9.2/emails",
            "https://proxy.example.com/api/data/v9.2/emails",
        ),
    ] {
        let body = good().replace(from, to);
        assert_ne!(body, good(), "{from}");
        let answer = send(&client, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let answer = send(&client, format!("\r\n{}", good())).await;
    assert_eq!(
        answer.status, 200,
        "an empty line before the first boundary is accepted"
    );
}

#[tokio::test]
async fn batch_responses_contain_the_url_of_each_new_row() {
    let client = ValidClient::new().await;
    let body = good().replace(
        "Content-Type: application/json\r\n",
        "Content-Type: application/json\r\nPrefer: return=representation\r\n",
    );
    for (body, status) in [(good(), "204 No Content"), (body, "201 Created")] {
        let answer = send(&client, body).await;
        assert_eq!(
            answer.body.matches(&format!("HTTP/1.1 {status}")).count(),
            2
        );
        assert_eq!(answer.body.matches("OData-EntityId: ").count(), 2);
        assert_eq!(answer.body.matches("Location: ").count(), 2);
    }
}
