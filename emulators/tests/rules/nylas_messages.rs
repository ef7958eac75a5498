//! Which messages Nylas lists, and in which form it returns them.

use serde_json::{Value, json};

use super::nylas::{NylasTestClient, error, ids};

#[tokio::test]
async fn messages_are_listed_newest_first_in_stable_pages() {
    let nylas = NylasTestClient::new().await;
    for number in 1..=5 {
        nylas.add("g", &format!("a{number}"), 100 + number);
    }
    let first = nylas.get("/g/messages?limit=2&in=INBOX").await;
    assert_eq!(ids(&first), ["a5", "a4"]);
    nylas.add("g", "new", 200);
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
    let second = nylas
        .get(&format!("/g/messages?limit=2&in=INBOX&page_token={cursor}"))
        .await;
    assert_eq!(ids(&second), ["a3", "a2"]);
    let cursor = second.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(
        ids(&nylas
            .get(&format!("/g/messages?limit=2&in=INBOX&page_token={cursor}"))
            .await),
        ["a1"]
    );
    let without_filter = nylas
        .get(&format!("/g/messages?limit=2&page_token={cursor}"))
        .await;
    assert_eq!(
        error(&without_filter),
        (400, "invalid_request_error".to_owned())
    );
    assert_eq!(
        nylas.get("/g/messages?page_token=nonsense").await.status,
        400
    );
}

#[tokio::test]
async fn a_message_can_have_another_date_than_its_place_in_a_list() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a", 100);
    nylas.add("g", "c", 300);
    nylas.emulators.nylas().add_message(
        "g",
        json!({"id": "b", "date": 1, "received": 200, "folders": []}),
    );
    let all = nylas.get("/g/messages").await;
    assert_eq!(ids(&all), ["c", "b", "a"]);
    let odd = all.json()["data"][1].clone();
    assert_eq!((&odd["date"], odd.get("received")), (&json!(1), None));
    let between = nylas
        .get("/g/messages?received_after=100&received_before=300")
        .await;
    assert_eq!(ids(&between), ["b"]);
}

#[tokio::test]
async fn the_last_page_has_a_null_absent_or_empty_cursor() {
    let nylas = NylasTestClient::new().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(
            nylas
                .get("/g/messages")
                .await
                .json()
                .get("next_cursor")
                .cloned(),
        );
    }
    for ending in [Some(Value::Null), None, Some(json!(""))] {
        assert!(seen.contains(&ending), "{ending:?} is missing in {seen:?}");
    }
}

#[tokio::test]
async fn the_page_limit_is_50_by_default_and_200_at_most() {
    let nylas = NylasTestClient::new().await;
    for number in 0..201 {
        nylas.add("g", &format!("a{number}"), number);
    }
    assert_eq!(ids(&nylas.get("/g/messages").await).len(), 50);
    assert_eq!(ids(&nylas.get("/g/messages?limit=200").await).len(), 200);
    for limit in ["201", "0", "-1", "x"] {
        let answer = nylas.get(&format!("/g/messages?limit={limit}")).await;
        assert_eq!(
            error(&answer),
            (400, "invalid_request_error".to_owned()),
            "{limit}"
        );
    }
}

#[tokio::test]
async fn messages_are_filtered_by_their_fields() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a1", 101);
    nylas.add("g", "a2", 102);
    nylas.emulators.nylas().add_message("g", json!({
        "id": "b", "date": 50, "subject": "invoice", "folders": ["SENT", "Label_2"], "thread_id": "t",
        "from": [{"email": "me@example.com"}], "cc": [{"email": "cy@example.com"}], "attachments": [{"id": "x"}],
    }));
    for (query, expected) in [
        ("received_after=101", vec!["a2"]),
        ("received_before=101", vec!["b"]),
        ("received_after=50&received_before=102", vec!["a1"]),
        ("in=SENT", vec!["b"]),
        ("from=ada@EXAMPLE.com", vec!["a2", "a1"]),
        ("to=bea@example.com", vec!["a2", "a1"]),
        ("cc=cy@example.com", vec!["b"]),
        ("any_email=cy@example.com,none@example.com", vec!["b"]),
        ("subject=Kites", vec!["a2", "a1"]),
        ("subject=kites", vec![]),
        ("thread_id=t", vec!["b"]),
        ("unread=true", vec!["a2"]),
        ("has_attachment=true", vec!["b"]),
        ("in=INBOX&in=SENT", vec!["b"]),
    ] {
        assert_eq!(
            ids(&nylas.get(&format!("/g/messages?{query}")).await),
            expected,
            "{query}"
        );
    }
}

#[tokio::test]
async fn parameters_that_nylas_rejects_are_rejected() {
    let nylas = NylasTestClient::new().await;
    let many = vec!["a@example.com"; 26].join(",");
    for query in [
        "in=inbox",
        "received_after=x",
        "unread=yes",
        "fields=all",
        &format!("any_email={many}"),
    ] {
        assert_eq!(
            nylas.get(&format!("/g/messages?{query}")).await.status,
            400,
            "{query}"
        );
    }
    assert_eq!(
        nylas.get("/m/messages?unread=true&subject=x").await.status,
        400,
        "Microsoft does not support `unread` together with `subject`"
    );
    assert_eq!(
        nylas.get("/g/messages?unread=true&subject=x").await.status,
        200
    );
    assert_eq!(
        error(&nylas.get("/g/messages?search_query_native=x").await),
        (501, "twin".to_owned())
    );
}

#[tokio::test]
async fn headers_are_returned_only_on_request() {
    let nylas = NylasTestClient::new().await;
    nylas.emulators.nylas().add_message("g", json!({"id": "a", "date": 1, "created_at": 1, "headers": [
        {"name": "Message-Id", "value": "<a@example.com>"}, {"name": "In-Reply-To", "value": "<b@example.com>"},
        {"name": "X-Other", "value": "1"}, {"name": "References", "value": "<b@example.com>"},
    ]}));
    let plain = nylas.get("/g/messages/a").await.json()["data"].clone();
    assert!(plain.get("headers").is_none() && plain.get("created_at").is_none());
    let names = |body: Value| -> Vec<String> {
        body["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|header| header["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let basic = nylas
        .get("/g/messages/a?fields=include_basic_headers")
        .await
        .json()["data"]
        .clone();
    assert_eq!(names(basic), ["Message-Id", "In-Reply-To", "References"]);
    let all = nylas.get("/g/messages?fields=include_headers").await.json()["data"][0].clone();
    assert_eq!(names(all).len(), 4);
    let raw = nylas.get("/g/messages/a?fields=raw_mime").await.json()["data"].clone();
    assert_eq!(
        raw.as_object().unwrap().len(),
        4,
        "only id, grant_id, object and raw_mime are returned"
    );
}

#[tokio::test]
async fn a_message_without_a_message_id_gets_a_stable_one() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a", 1);
    nylas.add("m", "a", 1);
    let imap = "<kites/1+2=@example.com>";
    nylas.add("i", imap, 1);
    let header = async |grant: &str, id: &str| {
        let answer = nylas
            .get(&format!(
                "/{grant}/messages/{id}?fields=include_basic_headers"
            ))
            .await
            .json();
        answer["data"]["headers"][0]["value"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = header("g", "a").await;
    assert!(first.starts_with('<') && first.ends_with("@twin.example.com>"));
    assert_eq!(header("g", "a").await, first);
    assert_ne!(
        header("m", "a").await,
        first,
        "a message in another mailbox gets another Message-ID"
    );
    let encoded = "%3Ckites%2F1%2B2%3D%40example.com%3E";
    assert_eq!(header("i", encoded).await, imap);
    let all = nylas
        .get(&format!("/i/messages/{encoded}?fields=include_headers"))
        .await
        .json();
    assert!(
        !all.to_string().contains("Message-ID"),
        "for IMAP, only `include_basic_headers` returns original headers"
    );
}

#[tokio::test]
async fn message_ids_must_be_percent_encoded_and_are_decoded_once() {
    let nylas = NylasTestClient::new().await;
    let id = "<a/b+c=%41@example.com>";
    nylas.add("i", id, 1);
    let encoded = "%3Ca%2Fb%2Bc%3D%2541%40example.com%3E";
    assert_eq!(
        nylas.get(&format!("/i/messages/{encoded}")).await.json()["data"]["id"],
        id
    );
    let twice = encoded.replace('%', "%25");
    assert_eq!(
        error(&nylas.get(&format!("/i/messages/{twice}")).await),
        (404, "not_found_error".to_owned())
    );
    let slash = nylas.get("/i/messages/%3Ca/b%2Bc").await;
    assert_eq!(slash.status, 404);
    let text = slash.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        text.starts_with("Unrecognized request URL (GET: /v3/grants/i/messages/"),
        "{text}"
    );
    assert_eq!(
        nylas.get("/i/messages/a+b").await.status,
        404,
        "an id with an unencoded special character is not found"
    );
    assert_eq!(
        error(&nylas.get("/g/messages/none").await),
        (404, "not_found_error".to_owned())
    );
}

#[tokio::test]
async fn select_returns_only_the_selected_fields() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a", 1);
    assert_eq!(
        nylas.get("/g/messages/a?select=subject").await.json()["data"],
        json!({"subject": "Kites a"})
    );
    let listed = nylas.get("/g/messages?select=id,date").await.json()["data"][0].clone();
    assert_eq!(listed, json!({"id": "a", "date": 1}));
}

#[tokio::test]
async fn imap_messages_older_than_90_days_are_listed_only_with_query_imap() {
    let nylas = NylasTestClient::new().await;
    let days = |days: i64| chrono::Utc::now().timestamp() - days * 86_400;
    for (id, age) in [("new", 89), ("old", 91), ("older", 500)] {
        nylas.add("i", id, days(age));
        nylas.add("g", id, days(age));
    }
    assert_eq!(ids(&nylas.get("/i/messages").await), ["new"]);
    assert_eq!(
        ids(&nylas.get("/g/messages").await),
        ["new", "old", "older"]
    );
    let old = nylas
        .get("/i/messages?query_imap=true&in=INBOX&limit=2")
        .await;
    assert_eq!(ids(&old), ["new", "old"]);
    let cursor = old.json()["next_cursor"].as_str().unwrap().to_owned();
    let rest = format!("/i/messages?query_imap=true&in=INBOX&limit=2&page_token={cursor}");
    assert_eq!(ids(&nylas.get(&rest).await), ["older"]);
    let sent = nylas.get("/i/messages?query_imap=true&in=Sent").await;
    assert_eq!(ids(&sent), [""; 0]);
    for refused in [
        "/i/messages?query_imap=true",
        "/i/messages?query_imap=yes&in=INBOX",
        "/g/messages?query_imap=true&in=INBOX",
    ] {
        assert_eq!(nylas.get(refused).await.status, 400, "{refused}");
    }
}
