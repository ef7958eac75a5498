//! What Nylas answers.

use reqwest::Client;
use serde_json::{Value, json};
use twin::{Fault, Grant, Twin};

use super::world::Answered;

struct Mail {
    twin: Twin,
    http: Client,
}

fn grant(id: &str, provider: &str) -> Grant {
    Grant {
        id: id.to_owned(),
        email: format!("{id}@example.com"),
        provider: provider.to_owned(),
        aliases: vec![format!("{id}.alias@example.com")],
        status: "valid".to_owned(),
    }
}

impl Mail {
    async fn new() -> Self {
        let twin = Twin::start().await.unwrap();
        for (id, provider) in [("g", "google"), ("m", "microsoft"), ("i", "imap")] {
            twin.nylas().add_grant(grant(id, provider));
        }
        Self {
            twin,
            http: Client::new(),
        }
    }

    async fn get(&self, path: &str) -> Answered {
        let url = format!("{}/v3/grants{path}", self.twin.nylas().url());
        Answered::read(
            self.http
                .get(url)
                .bearer_auth(self.twin.nylas().api_key())
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    fn add(&self, grant: &str, id: &str, date: i64) {
        let message = json!({
            "id": id, "subject": format!("Kites {id}"), "date": date, "folders": ["INBOX"], "unread": date % 2 == 0,
            "from": [{"name": "Ada", "email": "Ada@example.com"}], "to": [{"email": "bea@example.com"}],
        });
        self.twin.nylas().add_message(grant, message);
    }
}

fn ids(answer: &Answered) -> Vec<String> {
    let body = answer.json();
    let rows = body["data"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", answer.body));
    rows.iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

fn error(answer: &Answered) -> (u16, String) {
    (
        answer.status,
        answer.json()["error"]["type"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn a_wrong_key_is_told_apart_from_an_expired_grant() {
    let mail = Mail::new().await;
    let url = format!("{}/v3/grants", mail.twin.nylas().url());
    for request in [
        mail.http.get(&url),
        mail.http.get(&url).bearer_auth("wrong"),
    ] {
        let answer = Answered::read(request.send().await.unwrap()).await;
        assert_eq!(
            error(&answer),
            (401, "token.unauthorized_access".to_owned())
        );
        assert_eq!(answer.json()["error"]["code"], "token.unauthorized_access");
    }
    mail.twin.nylas().set_grant_status("g", "invalid");
    let answer = mail.get("/g/messages").await;
    assert_eq!(error(&answer), (401, "unauthorized".to_owned()));
    assert_eq!(answer.json()["error"]["provider_error"]["code"], 401);
    assert_eq!(
        mail.get("/g").await.json()["data"]["grant_status"],
        "invalid"
    );
}

#[tokio::test]
async fn grants_are_listed_with_limit_and_offset_instead_of_a_cursor() {
    let mail = Mail::new().await;
    let all = mail.get("").await;
    assert_eq!(ids(&all), ["i", "m", "g"], "the newest first");
    assert_eq!(
        (all.json()["limit"].clone(), all.json()["offset"].clone()),
        (json!(10), json!(0))
    );
    assert!(all.json().get("next_cursor").is_none());
    assert_eq!(ids(&mail.get("?limit=1&offset=1").await), ["m"]);
    mail.twin.nylas().set_grant_status("m", "invalid");
    assert_eq!(ids(&mail.get("?grant_status=invalid").await), ["m"]);
    assert_eq!(ids(&mail.get("?email=g@example.com").await), ["g"]);
    assert_eq!(
        error(&mail.get("?offset=x").await),
        (400, "invalid_request_error".to_owned())
    );
}

#[tokio::test]
async fn a_grant_is_found_by_id_or_address_and_shows_aliases_on_request() {
    let mail = Mail::new().await;
    for slot in ["g", "grant:g", "g@example.com", "email:G@Example.com"] {
        assert_eq!(
            mail.get(&format!("/{slot}")).await.json()["data"]["id"],
            "g",
            "{slot}"
        );
    }
    assert!(
        mail.get("/g").await.json()["data"]
            .get("email_aliases")
            .is_none()
    );
    let with = mail.get("/g?expose_aliases=true").await.json();
    assert_eq!(
        with["data"]["email_aliases"],
        json!(["g.alias@example.com"])
    );
    let imap = mail.get("/i?expose_aliases=true").await.json()["data"].clone();
    assert!(imap.get("email_aliases").is_none() && imap.get("scope").is_none());
    for slot in ["nosuch", "me"] {
        let answer = mail.get(&format!("/{slot}/messages")).await;
        assert_eq!(error(&answer), (404, "grant.not_found".to_owned()));
        assert_eq!(
            answer.json()["error"]["message"],
            "No Grant found for this Grant ID"
        );
    }
}

#[tokio::test]
async fn every_answer_carries_its_request_id_twice() {
    let mail = Mail::new().await;
    for path in ["", "/g/messages", "/nosuch"] {
        let answer = mail.get(path).await;
        assert_eq!(
            answer.json()["request_id"],
            json!(answer.header("x-request-id")),
            "{path}"
        );
    }
    assert_eq!(mail.twin.nylas().requests(), 3);
}

#[tokio::test]
async fn messages_come_newest_first_in_pages_that_do_not_shift() {
    let mail = Mail::new().await;
    for number in 1..=5 {
        mail.add("g", &format!("a{number}"), 100 + number);
    }
    let first = mail.get("/g/messages?limit=2&in=INBOX").await;
    assert_eq!(ids(&first), ["a5", "a4"]);
    mail.add("g", "new", 200);
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
    let second = mail
        .get(&format!("/g/messages?limit=2&in=INBOX&page_token={cursor}"))
        .await;
    assert_eq!(ids(&second), ["a3", "a2"]);
    let cursor = second.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(
        ids(&mail
            .get(&format!("/g/messages?limit=2&in=INBOX&page_token={cursor}"))
            .await),
        ["a1"]
    );
    let without_filter = mail
        .get(&format!("/g/messages?limit=2&page_token={cursor}"))
        .await;
    assert_eq!(
        error(&without_filter),
        (400, "invalid_request_error".to_owned())
    );
    assert_eq!(
        mail.get("/g/messages?page_token=nonsense").await.status,
        400
    );
}

#[tokio::test]
async fn the_end_of_a_list_is_null_absent_or_empty() {
    let mail = Mail::new().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(
            mail.get("/g/messages")
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
async fn limits_are_50_by_default_and_200_at_most() {
    let mail = Mail::new().await;
    for number in 0..201 {
        mail.add("g", &format!("a{number}"), number);
    }
    assert_eq!(ids(&mail.get("/g/messages").await).len(), 50);
    assert_eq!(ids(&mail.get("/g/messages?limit=200").await).len(), 200);
    for limit in ["201", "0", "-1", "x"] {
        let answer = mail.get(&format!("/g/messages?limit={limit}")).await;
        assert_eq!(
            error(&answer),
            (400, "invalid_request_error".to_owned()),
            "{limit}"
        );
    }
}

#[tokio::test]
async fn messages_are_filtered_by_what_they_say() {
    let mail = Mail::new().await;
    mail.add("g", "a1", 101);
    mail.add("g", "a2", 102);
    mail.twin.nylas().add_message("g", json!({
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
            ids(&mail.get(&format!("/g/messages?{query}")).await),
            expected,
            "{query}"
        );
    }
}

#[tokio::test]
async fn parameters_that_nylas_refuses_are_refused() {
    let mail = Mail::new().await;
    let many = vec!["a@example.com"; 26].join(",");
    for query in [
        "in=inbox",
        "received_after=x",
        "unread=yes",
        "fields=all",
        &format!("any_email={many}"),
    ] {
        assert_eq!(
            mail.get(&format!("/g/messages?{query}")).await.status,
            400,
            "{query}"
        );
    }
    assert_eq!(
        mail.get("/m/messages?unread=true&subject=x").await.status,
        400,
        "Microsoft cannot do both"
    );
    assert_eq!(
        mail.get("/g/messages?unread=true&subject=x").await.status,
        200
    );
    assert_eq!(
        error(&mail.get("/g/messages?search_query_native=x").await),
        (501, "twin".to_owned())
    );
}

#[tokio::test]
async fn headers_come_only_when_asked_for() {
    let mail = Mail::new().await;
    mail.twin.nylas().add_message("g", json!({"id": "a", "date": 1, "created_at": 1, "headers": [
        {"name": "Message-Id", "value": "<a@example.com>"}, {"name": "In-Reply-To", "value": "<b@example.com>"},
        {"name": "X-Other", "value": "1"}, {"name": "References", "value": "<b@example.com>"},
    ]}));
    let plain = mail.get("/g/messages/a").await.json()["data"].clone();
    assert!(plain.get("headers").is_none() && plain.get("created_at").is_none());
    let names = |body: Value| -> Vec<String> {
        body["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|header| header["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let basic = mail
        .get("/g/messages/a?fields=include_basic_headers")
        .await
        .json()["data"]
        .clone();
    assert_eq!(names(basic), ["Message-Id", "In-Reply-To", "References"]);
    let all = mail.get("/g/messages?fields=include_headers").await.json()["data"][0].clone();
    assert_eq!(names(all).len(), 4);
    let raw = mail.get("/g/messages/a?fields=raw_mime").await.json()["data"].clone();
    assert_eq!(
        raw.as_object().unwrap().len(),
        4,
        "id, grant_id, object and raw_mime"
    );
}

#[tokio::test]
async fn a_message_without_a_message_id_gets_a_stable_one() {
    let mail = Mail::new().await;
    mail.add("g", "a", 1);
    mail.add("m", "a", 1);
    let imap = "<kites/1+2=@example.com>";
    mail.add("i", imap, 1);
    let header = async |grant: &str, id: &str| {
        let answer = mail
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
        "another mailbox, another message"
    );
    let encoded = "%3Ckites%2F1%2B2%3D%40example.com%3E";
    assert_eq!(header("i", encoded).await, imap);
    let all = mail
        .get(&format!("/i/messages/{encoded}?fields=include_headers"))
        .await
        .json();
    assert!(
        !all.to_string().contains("Message-ID"),
        "IMAP gives original headers only as the basic ones"
    );
}

#[tokio::test]
async fn ids_are_decoded_once_and_must_be_encoded() {
    let mail = Mail::new().await;
    let id = "<a/b+c=%41@example.com>";
    mail.add("i", id, 1);
    let encoded = "%3Ca%2Fb%2Bc%3D%2541%40example.com%3E";
    assert_eq!(
        mail.get(&format!("/i/messages/{encoded}")).await.json()["data"]["id"],
        id
    );
    let twice = encoded.replace('%', "%25");
    assert_eq!(
        error(&mail.get(&format!("/i/messages/{twice}")).await),
        (404, "not_found_error".to_owned())
    );
    let slash = mail.get("/i/messages/%3Ca/b%2Bc").await;
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
        mail.get("/i/messages/a+b").await.status,
        404,
        "a special character that is not encoded"
    );
    assert_eq!(
        error(&mail.get("/g/messages/none").await),
        (404, "not_found_error".to_owned())
    );
}

#[tokio::test]
async fn select_keeps_nothing_but_what_it_names() {
    let mail = Mail::new().await;
    mail.add("g", "a", 1);
    assert_eq!(
        mail.get("/g/messages/a?select=subject").await.json()["data"],
        json!({"subject": "Kites a"})
    );
    let listed = mail.get("/g/messages?select=id,date").await.json()["data"][0].clone();
    assert_eq!(listed, json!({"id": "a", "date": 1}));
}

#[tokio::test]
async fn folders_are_words_on_google_and_opaque_on_microsoft() {
    let mail = Mail::new().await;
    assert!(ids(&mail.get("/g/folders").await).contains(&"SENT".to_owned()));
    assert_eq!(
        mail.get("/g/folders/SENT").await.json()["data"]["attributes"],
        json!(["\\Sent"])
    );
    let sent = mail.twin.nylas().folder_id("m", "\\Sent").unwrap();
    assert!(sent.starts_with("AQMkAD"), "{sent}");
    assert_eq!(
        mail.get(&format!("/m/folders/{}", sent.replace('=', "%3D")))
            .await
            .json()["data"]["name"],
        "Sent Items"
    );
    assert_eq!(
        mail.get("/m/messages?in=SENT").await.status,
        400,
        "names are no ids"
    );
    mail.twin
        .nylas()
        .add_folder("m", json!({"id": "f/1=", "name": "Kites"}));
    let folder = mail.get("/m/folders/f%2F1%3D").await.json()["data"].clone();
    assert_eq!(
        (folder["object"].clone(), folder["attributes"].clone()),
        (json!("folder"), json!([]))
    );
    let page = mail.get("/g/folders?limit=3").await.json();
    let next = mail
        .get(&format!(
            "/g/folders?limit=3&page_token={}",
            page["next_cursor"].as_str().unwrap()
        ))
        .await;
    assert_ne!(next.json()["data"][0], page["data"][0]);
}

#[tokio::test]
async fn attachments_need_their_message_and_say_a_size_above_the_real_one() {
    let mail = Mail::new().await;
    mail.add("g", "a", 1);
    mail.add("m", "a", 1);
    let bytes = vec![0, 159, 146, 150, 7];
    let object =
        json!({"id": "att:1=", "filename": "kite.png", "content_disposition": "attachment"});
    for grant in ["g", "m"] {
        mail.twin
            .nylas()
            .add_attachment(grant, "a", object.clone(), bytes.clone());
    }
    let listed = mail.get("/g/messages/a").await.json()["data"]["attachments"][0].clone();
    assert_eq!(
        (listed["id"].clone(), listed["grant_id"].clone()),
        (json!("att:1="), json!("g"))
    );
    assert!(listed["size"].as_u64().unwrap() > 5);
    assert_eq!(
        mail.get("/g/attachments/att%3A1%3D?message_id=a")
            .await
            .json()["data"],
        listed
    );
    assert!(
        mail.get("/m/attachments/att%3A1%3D?message_id=a")
            .await
            .json()["data"]
            .get("content_disposition")
            .is_none()
    );
    let url = format!(
        "{}/v3/grants/g/attachments/att%3A1%3D/download?message_id=a",
        mail.twin.nylas().url()
    );
    let response = mail
        .http
        .get(url)
        .bearer_auth(mail.twin.nylas().api_key())
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "application/octet-stream"
    );
    assert_eq!(response.bytes().await.unwrap(), bytes);
    for path in [
        "/g/attachments/att%3A1%3D",
        "/g/attachments/att%3A1%3D/download",
    ] {
        assert_eq!(
            error(&mail.get(path).await),
            (400, "invalid_request_error".to_owned())
        );
        assert_eq!(
            mail.get(&format!("{path}?message_id=other")).await.status,
            404
        );
    }
}

#[tokio::test]
async fn a_message_can_be_replaced_and_removed() {
    let mail = Mail::new().await;
    mail.add("g", "a", 1);
    mail.twin
        .nylas()
        .add_message("g", json!({"id": "a", "subject": "other"}));
    assert_eq!(
        mail.twin.nylas().message("g", "a").unwrap()["subject"],
        "other"
    );
    mail.twin.nylas().remove_message("g", "a");
    assert_eq!(mail.get("/g/messages/a").await.status, 404);
    assert!(mail.twin.nylas().message("g", "a").is_none());
}

#[tokio::test]
async fn addresses_that_no_route_has_are_unrecognized() {
    let mail = Mail::new().await;
    for path in [
        "/g/nosuch",
        "/g/messages/a/b",
        "/g/attachments",
        "/g/messages/",
    ] {
        assert_eq!(mail.get(path).await.status, 404, "{path}");
    }
    let url = format!("{}/v3/grants/g/messages", mail.twin.nylas().url());
    let post = mail
        .http
        .post(url)
        .bearer_auth(mail.twin.nylas().api_key())
        .send()
        .await
        .unwrap();
    assert_eq!(post.status(), 404);
}

#[tokio::test]
async fn nylas_can_fail_too() {
    let mail = Mail::new().await;
    let fault = |status: u16, code: &str, seconds| Fault::Status {
        status,
        code: code.to_owned(),
        message: "later".to_owned(),
        retry_after_seconds: seconds,
    };
    mail.twin
        .nylas()
        .fail_next(fault(429, "rate_limit_error", Some(9)));
    mail.twin
        .nylas()
        .fail_next(fault(504, "provider_error", None));
    let throttled = mail.get("/g/messages").await;
    assert_eq!(
        (error(&throttled), throttled.header("retry-after")),
        ((429, "rate_limit_error".to_owned()), "9")
    );
    assert_eq!(
        error(&mail.get("/g/messages").await),
        (504, "provider_error".to_owned())
    );
    assert_eq!(mail.get("/g/messages").await.status, 200);
    mail.twin.nylas().fail_next(Fault::ResetBefore);
    let url = format!("{}/v3/grants", mail.twin.nylas().url());
    assert!(mail.http.get(url).send().await.is_err());
}
