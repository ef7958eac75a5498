//! Which token requests Entra accepts when the client uses a secret.

use std::time::Duration;

use emulators::Fault;
use serde_json::Value;

use super::valid_client::ValidClient;

type Form = Vec<(&'static str, String)>;

fn right(client: &ValidClient) -> Form {
    let entra = client.emulators.entra();
    vec![
        ("client_id", entra.client_id()),
        (
            "scope",
            format!("{}/.default", client.emulators.dataverse().url()),
        ),
        ("grant_type", "client_credentials".to_owned()),
        ("client_secret", entra.client_secret()),
    ]
}

async fn ask(client: &ValidClient, tenant: &str, form: &Form) -> (u16, Value) {
    let url = format!(
        "{}/{tenant}/oauth2/v2.0/token",
        client.emulators.entra().authority()
    );
    let response = client.http.post(url).form(form).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn ask_with(client: &ValidClient, name: &'static str, value: Option<&str>) -> (u16, Value) {
    let mut form = right(client);
    form.retain(|(known, _)| *known != name);
    form.extend(value.map(|value| (name, value.to_owned())));
    ask(client, &client.emulators.entra().tenant_id(), &form).await
}

#[tokio::test]
async fn the_correct_secret_gets_a_new_token_that_dataverse_accepts() {
    let mut client = ValidClient::new().await;
    let tenant = client.emulators.entra().tenant_id();
    let (status, first) = ask(&client, &tenant, &right(&client)).await;
    assert_eq!(
        (
            status,
            first["token_type"].as_str(),
            first["expires_in"].as_i64()
        ),
        (200, Some("Bearer"), Some(3599))
    );
    assert!(first.get("refresh_token").is_none());
    let (_, second) = ask(&client, &tenant, &right(&client)).await;
    assert_ne!(first["access_token"], second["access_token"]);
    first["access_token"]
        .as_str()
        .unwrap()
        .clone_into(&mut client.token);
    assert_eq!(client.get("WhoAmI").await.status, 200);
    assert_eq!(client.emulators.entra().requests(), 2);
}

#[tokio::test]
async fn each_token_keeps_the_lifetime_it_was_issued_with() {
    let mut client = ValidClient::new().await;
    let entra = client.emulators.entra().clone();
    let mut tokens = Vec::new();
    for lifetime in [5_400, 3_600] {
        entra.set_lifetime(lifetime);
        let (status, body) = ask(&client, &entra.tenant_id(), &right(&client)).await;
        assert_eq!(
            (
                status,
                body["expires_in"].as_i64(),
                body["ext_expires_in"].as_i64()
            ),
            (200, Some(lifetime), Some(lifetime))
        );
        tokens.push(body["access_token"].as_str().unwrap().to_owned());
    }
    client.emulators.clock().advance(Duration::from_secs(4_000));
    let mut accepted = Vec::new();
    for token in tokens {
        client.token = token;
        accepted.push(client.get("WhoAmI").await.status);
    }
    assert_eq!(accepted, [200, 401]);
}

#[tokio::test]
async fn each_invalid_parameter_has_its_own_error_code() {
    let client = ValidClient::new().await;
    for (name, value, status, error, number) in [
        (
            "client_secret",
            Some("wrong"),
            401,
            "invalid_client",
            7_000_215,
        ),
        (
            "client_id",
            Some("6a5d9b0e-0000-4000-8000-000000000000"),
            400,
            "unauthorized_client",
            700_016,
        ),
        (
            "scope",
            Some("https://org.example.com"),
            400,
            "invalid_scope",
            70_011,
        ),
        (
            "scope",
            Some("https://org.example.com/.default"),
            400,
            "invalid_resource",
            500_011,
        ),
        (
            "grant_type",
            Some("password"),
            400,
            "unsupported_grant_type",
            70_003,
        ),
        ("grant_type", None, 400, "invalid_request", 900_144),
        ("client_id", None, 400, "invalid_request", 900_144),
        ("client_secret", None, 400, "invalid_request", 900_144),
        ("scope", None, 400, "invalid_request", 900_144),
    ] {
        let (got, body) = ask_with(&client, name, value).await;
        assert_eq!(
            (got, body["error"].as_str()),
            (status, Some(error)),
            "{name} {value:?}"
        );
        assert_eq!(body["error_codes"][0], number);
        let text = body["error_description"].as_str().unwrap();
        assert!(text.starts_with(&format!("AADSTS{number}: ")), "{text}");
        for field in ["timestamp", "trace_id", "correlation_id", "error_uri"] {
            assert!(body[field].is_string(), "{field}");
        }
    }
}

#[tokio::test]
async fn an_unknown_tenant_is_not_found() {
    let client = ValidClient::new().await;
    let (status, body) = ask(&client, "nosuch.example.com", &right(&client)).await;
    assert_eq!(
        (status, body["error_codes"][0].as_i64()),
        (400, Some(90_002))
    );
}

#[tokio::test]
async fn a_request_without_a_form_body_is_rejected() {
    let client = ValidClient::new().await;
    let entra = client.emulators.entra();
    let url = format!(
        "{}/{}/oauth2/v2.0/token",
        entra.authority(),
        entra.tenant_id()
    );
    let response = client
        .http
        .post(&url)
        .json(&right(&client))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(client.http.get(&url).send().await.unwrap().status(), 400);
    assert_eq!(
        client
            .http
            .get(entra.authority())
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}

#[tokio::test]
async fn a_secret_that_is_not_percent_encoded_is_rejected() {
    let client = ValidClient::new().await;
    let entra = client.emulators.entra();
    let raw = right(&client)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&");
    let request = client.http.post(format!(
        "{}/{}/oauth2/v2.0/token",
        entra.authority(),
        entra.tenant_id()
    ));
    let response = request
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(raw)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn a_fault_can_be_injected_into_entra() {
    let client = ValidClient::new().await;
    client.emulators.entra().fail_next(Fault::Status {
        status: 503,
        code: "temporarily_unavailable".to_owned(),
        message: "later".to_owned(),
        retry_after_seconds: None,
    });
    let tenant = client.emulators.entra().tenant_id();
    let (status, body) = ask(&client, &tenant, &right(&client)).await;
    assert_eq!(
        (status, body["error"].as_str()),
        (503, Some("temporarily_unavailable"))
    );
    assert_eq!(ask(&client, &tenant, &right(&client)).await.0, 200);
}
