//! What Nylas answers to requests for grants, folders, attachments and unknown paths.

use emulators::{Emulators, Fault, Grant};
use reqwest::Client;
use serde_json::json;

use super::valid_client::Answered;

pub(crate) struct NylasTestClient {
    pub(crate) emulators: Emulators,
    pub(crate) http: Client,
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

impl NylasTestClient {
    pub(crate) async fn new() -> Self {
        let emulators = Emulators::start().await.unwrap();
        for (id, provider) in [("g", "google"), ("m", "microsoft"), ("i", "imap")] {
            emulators.nylas().add_grant(grant(id, provider));
        }
        Self {
            emulators,
            http: Client::new(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        let url = format!("{}/v3/grants{path}", self.emulators.nylas().url());
        Answered::read(
            self.http
                .get(url)
                .bearer_auth(self.emulators.nylas().api_key())
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    pub(crate) fn add(&self, grant: &str, id: &str, date: i64) {
        let message = json!({
            "id": id, "subject": format!("Kites {id}"), "date": date, "folders": ["INBOX"], "unread": date % 2 == 0,
            "from": [{"name": "Ada", "email": "Ada@example.com"}], "to": [{"email": "bea@example.com"}],
        });
        self.emulators.nylas().add_message(grant, message);
    }
}

pub(crate) fn ids(answer: &Answered) -> Vec<String> {
    let body = answer.json();
    let rows = body["data"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", answer.body));
    rows.iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn error(answer: &Answered) -> (u16, String) {
    (
        answer.status,
        answer.json()["error"]["type"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn a_wrong_key_and_an_expired_grant_have_different_errors() {
    let nylas = NylasTestClient::new().await;
    let url = format!("{}/v3/grants", nylas.emulators.nylas().url());
    for request in [
        nylas.http.get(&url),
        nylas.http.get(&url).bearer_auth("wrong"),
    ] {
        let answer = Answered::read(request.send().await.unwrap()).await;
        assert_eq!(
            error(&answer),
            (401, "token.unauthorized_access".to_owned())
        );
        assert_eq!(answer.json()["error"]["code"], "token.unauthorized_access");
    }
    nylas.emulators.nylas().set_grant_status("g", "invalid");
    let answer = nylas.get("/g/messages").await;
    assert_eq!(error(&answer), (401, "unauthorized".to_owned()));
    assert_eq!(answer.json()["error"]["provider_error"]["code"], 401);
    assert_eq!(
        nylas.get("/g").await.json()["data"]["grant_status"],
        "invalid"
    );
}

#[tokio::test]
async fn grants_are_listed_with_limit_and_offset_instead_of_a_cursor() {
    let nylas = NylasTestClient::new().await;
    let all = nylas.get("").await;
    assert_eq!(ids(&all), ["i", "m", "g"], "grants are listed newest first");
    assert_eq!(
        (all.json()["limit"].clone(), all.json()["offset"].clone()),
        (json!(10), json!(0))
    );
    assert!(all.json().get("next_cursor").is_none());
    assert_eq!(ids(&nylas.get("?limit=1&offset=1").await), ["m"]);
    nylas.emulators.nylas().set_grant_status("m", "invalid");
    assert_eq!(ids(&nylas.get("?grant_status=invalid").await), ["m"]);
    assert_eq!(ids(&nylas.get("?email=g@example.com").await), ["g"]);
    assert_eq!(
        error(&nylas.get("?offset=x").await),
        (400, "invalid_request_error".to_owned())
    );
}

#[tokio::test]
async fn a_page_of_grants_can_be_capped_and_shows_the_cap_as_its_limit() {
    let nylas = NylasTestClient::new().await;
    nylas.emulators.nylas().cap_grant_pages(2);
    for (query, expected, limit) in [
        ("", vec!["i", "m"], 2),
        ("?limit=3", vec!["i", "m"], 2),
        ("?limit=3&offset=2", vec!["g"], 2),
        ("?limit=1", vec!["i"], 1),
    ] {
        let page = nylas.get(query).await;
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page.json()["limit"], limit, "{query}");
    }
}

#[tokio::test]
async fn a_grant_has_one_workspace_and_the_list_can_be_filtered_by_workspace() {
    let client = NylasTestClient::new().await;
    let nylas = client.emulators.nylas();
    let workspace =
        async |id: &str| client.get(&format!("/{id}")).await.json()["data"]["workspace_id"].clone();
    assert_eq!(workspace("g").await, "workspace-default");
    nylas.set_workspace("m", "workspace-kites");
    assert_eq!(workspace("m").await, "workspace-kites");
    assert_eq!(
        ids(&client.get("?workspace_id=workspace-kites").await),
        ["m"]
    );
    let asked = nylas.requested();
    assert_eq!(asked[0], "/v3/grants/g?");
    assert_eq!(asked[2], "/v3/grants?workspace_id=workspace-kites");
}

#[tokio::test]
async fn a_deleted_grant_is_not_listed_and_its_messages_get_404() {
    let nylas = NylasTestClient::new().await;
    nylas.add("m", "a", 1);
    nylas.emulators.nylas().remove_grant("m");
    assert_eq!(ids(&nylas.get("").await), ["i", "g"]);
    let unknown = (404, "grant.not_found".to_owned());
    assert_eq!(error(&nylas.get("/m/messages/a").await), unknown);
}

#[tokio::test]
async fn a_grant_is_found_by_id_or_address_and_returns_aliases_on_request() {
    let nylas = NylasTestClient::new().await;
    for slot in ["g", "grant:g", "g@example.com", "email:G@Example.com"] {
        assert_eq!(
            nylas.get(&format!("/{slot}")).await.json()["data"]["id"],
            "g",
            "{slot}"
        );
    }
    assert!(
        nylas.get("/g").await.json()["data"]
            .get("email_aliases")
            .is_none()
    );
    let with = nylas.get("/g?expose_aliases=true").await.json();
    assert_eq!(
        with["data"]["email_aliases"],
        json!(["g.alias@example.com"])
    );
    let imap = nylas.get("/i?expose_aliases=true").await.json()["data"].clone();
    assert!(imap.get("email_aliases").is_none() && imap.get("scope").is_none());
    for slot in ["nosuch", "me"] {
        let answer = nylas.get(&format!("/{slot}/messages")).await;
        assert_eq!(error(&answer), (404, "grant.not_found".to_owned()));
        assert_eq!(
            answer.json()["error"]["message"],
            "No Grant found for this Grant ID"
        );
    }
}

#[tokio::test]
async fn every_response_has_its_request_id_in_body_and_header() {
    let nylas = NylasTestClient::new().await;
    for path in ["", "/g/messages", "/nosuch"] {
        let answer = nylas.get(path).await;
        assert_eq!(
            answer.json()["request_id"],
            json!(answer.header("x-request-id")),
            "{path}"
        );
    }
    assert_eq!(nylas.emulators.nylas().requests(), 3);
}

#[tokio::test]
async fn a_deleted_folder_is_not_found_and_takes_the_messages_that_are_only_there() {
    let nylas = NylasTestClient::new().await;
    let folder = json!({"id": "Clients", "name": "Clients"});
    nylas.emulators.nylas().add_folder("i", folder);
    let now = chrono::Utc::now().timestamp();
    for (id, folders) in [
        ("there", json!(["Clients"])),
        ("both", json!(["Clients", "INBOX"])),
        ("elsewhere", json!(["INBOX"])),
        ("nowhere", json!([])),
    ] {
        let message = json!({"id": id, "date": now, "folders": folders});
        nylas.emulators.nylas().add_message("i", message);
    }
    let listed = "/i/messages?in=Clients";
    assert_eq!(ids(&nylas.get(listed).await), ["there", "both"]);
    nylas.emulators.nylas().remove_folder("i", "Clients");
    assert_eq!(nylas.get(listed).await.status, 400);
    assert_eq!(nylas.get("/i/folders/Clients").await.status, 404);
    assert!(!ids(&nylas.get("/i/folders").await).contains(&"Clients".to_owned()));
    let mut left = ids(&nylas.get("/i/messages").await);
    left.sort();
    assert_eq!(left, ["both", "elsewhere", "nowhere"]);
    let both = nylas.get("/i/messages/both").await.json();
    assert_eq!(both["data"]["folders"], json!(["INBOX"]));
}

#[tokio::test]
async fn folder_ids_are_words_for_google_and_opaque_for_microsoft() {
    let nylas = NylasTestClient::new().await;
    assert!(ids(&nylas.get("/g/folders").await).contains(&"SENT".to_owned()));
    assert_eq!(
        nylas.get("/g/folders/SENT").await.json()["data"]["attributes"],
        json!(["\\Sent"])
    );
    let sent = nylas.emulators.nylas().folder_id("m", "\\Sent").unwrap();
    assert!(sent.starts_with("AQMkAD"), "{sent}");
    assert_eq!(
        nylas
            .get(&format!("/m/folders/{}", sent.replace('=', "%3D")))
            .await
            .json()["data"]["name"],
        "Sent Items"
    );
    assert_eq!(
        nylas.get("/m/messages?in=SENT").await.status,
        400,
        "Microsoft mailboxes accept folder ids, not names"
    );
    nylas
        .emulators
        .nylas()
        .add_folder("m", json!({"id": "f/1=", "name": "Kites"}));
    let folder = nylas.get("/m/folders/f%2F1%3D").await.json()["data"].clone();
    assert_eq!(
        (folder["object"].clone(), folder["attributes"].clone()),
        (json!("folder"), json!([]))
    );
    let page = nylas.get("/g/folders?limit=3").await.json();
    let next = nylas
        .get(&format!(
            "/g/folders?limit=3&page_token={}",
            page["next_cursor"].as_str().unwrap()
        ))
        .await;
    assert_ne!(next.json()["data"][0], page["data"][0]);
}

#[tokio::test]
async fn an_attachment_request_needs_the_message_id_and_the_listed_size_is_too_large() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a", 1);
    nylas.add("m", "a", 1);
    let bytes = vec![0, 159, 146, 150, 7];
    let object =
        json!({"id": "att:1=", "filename": "kite.png", "content_disposition": "attachment"});
    for grant in ["g", "m"] {
        nylas
            .emulators
            .nylas()
            .add_attachment(grant, "a", object.clone(), bytes.clone());
    }
    let listed = nylas.get("/g/messages/a").await.json()["data"]["attachments"][0].clone();
    assert_eq!(
        (listed["id"].clone(), listed["grant_id"].clone()),
        (json!("att:1="), json!("g"))
    );
    assert!(listed["size"].as_u64().unwrap() > 5);
    assert_eq!(
        nylas
            .get("/g/attachments/att%3A1%3D?message_id=a")
            .await
            .json()["data"],
        listed
    );
    assert!(
        nylas
            .get("/m/attachments/att%3A1%3D?message_id=a")
            .await
            .json()["data"]
            .get("content_disposition")
            .is_none()
    );
    let url = format!(
        "{}/v3/grants/g/attachments/att%3A1%3D/download?message_id=a",
        nylas.emulators.nylas().url()
    );
    let response = nylas
        .http
        .get(url)
        .bearer_auth(nylas.emulators.nylas().api_key())
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
            error(&nylas.get(path).await),
            (400, "invalid_request_error".to_owned())
        );
        assert_eq!(
            nylas.get(&format!("{path}?message_id=other")).await.status,
            404
        );
    }
}

#[tokio::test]
async fn a_message_can_be_replaced_and_removed() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a", 1);
    nylas
        .emulators
        .nylas()
        .add_message("g", json!({"id": "a", "subject": "other"}));
    assert_eq!(
        nylas.emulators.nylas().message("g", "a").unwrap()["subject"],
        "other"
    );
    nylas.emulators.nylas().remove_message("g", "a");
    assert_eq!(nylas.get("/g/messages/a").await.status, 404);
    assert!(nylas.emulators.nylas().message("g", "a").is_none());
}

#[tokio::test]
async fn unknown_routes_get_404() {
    let nylas = NylasTestClient::new().await;
    for path in [
        "/g/nosuch",
        "/g/messages/a/b",
        "/g/attachments",
        "/g/messages/",
    ] {
        assert_eq!(nylas.get(path).await.status, 404, "{path}");
    }
    let url = format!("{}/v3/grants/g/messages", nylas.emulators.nylas().url());
    let post = nylas
        .http
        .post(url)
        .bearer_auth(nylas.emulators.nylas().api_key())
        .send()
        .await
        .unwrap();
    assert_eq!(post.status(), 404);
}

#[tokio::test]
async fn faults_can_be_injected_into_nylas() {
    let nylas = NylasTestClient::new().await;
    let fault = |status: u16, code: &str, seconds| Fault::Status {
        status,
        code: code.to_owned(),
        message: "later".to_owned(),
        retry_after_seconds: seconds,
    };
    nylas
        .emulators
        .nylas()
        .fail_next(fault(429, "rate_limit_error", Some(9)));
    nylas
        .emulators
        .nylas()
        .fail_next(fault(504, "provider_error", None));
    let throttled = nylas.get("/g/messages").await;
    assert_eq!(
        (error(&throttled), throttled.header("retry-after")),
        ((429, "rate_limit_error".to_owned()), "9")
    );
    assert_eq!(
        error(&nylas.get("/g/messages").await),
        (504, "provider_error".to_owned())
    );
    assert_eq!(nylas.get("/g/messages").await.status, 200);
    nylas.emulators.nylas().fail_next(Fault::ResetBefore);
    let url = format!("{}/v3/grants", nylas.emulators.nylas().url());
    assert!(nylas.http.get(url).send().await.is_err());
}

#[tokio::test]
async fn signing_in_again_keeps_the_messages_of_the_mailbox() {
    let nylas = NylasTestClient::new().await;
    nylas.add("g", "a", 1);
    nylas.emulators.nylas().set_grant_status("g", "invalid");
    nylas.emulators.nylas().add_grant(grant("g", "google"));
    assert_eq!(ids(&nylas.get("/g/messages").await), ["a"]);
}
