//! Follows a notification from Nylas through a public address to the compiled receiver, and runs
//! the compiled command that checks this path. Whether the signature can match depends on what a
//! front end does with the body.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::canary::assert_silent;
use super::cloud::Cloud;
use super::command::{Seen, run};
use super::events::{delivery, http_event, signature};
use super::lambda::Function;
use crate::clients::secrets::broken_store;

/// The front end of the function, and what it does with a request.
#[derive(Clone, Copy, PartialEq)]
enum FrontEnd {
    /// A function URL that passes on every body unchanged.
    Faithful,
    /// A front end that passes on JSON bodies as text, even compressed ones.
    AsText,
    /// An API Gateway REST API: it decompresses the body, and its response header reveals it.
    RestApi,
    /// A REST API behind a proxy that removes the headers that reveal it.
    HiddenRestApi,
    /// A server that answers 200 to everything and has no receiver behind it.
    Stranger,
}

/// A public address with the compiled receiver behind it.
struct Public {
    url: String,
    function: Arc<Mutex<Option<Function>>>,
}

#[derive(Clone)]
struct Gate {
    front_end: FrontEnd,
    function: Arc<Mutex<Option<Function>>>,
}

impl Public {
    async fn before(function: Function, front_end: FrontEnd) -> Self {
        let function = Arc::new(Mutex::new(Some(function)));
        let gate = Gate {
            front_end,
            function: Arc::clone(&function),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = Router::new().fallback(pass).with_state(gate);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, function }
    }

    /// Stops the receiver and returns everything that it printed.
    async fn stop(self) -> String {
        let function = self.function.lock().await.take();
        function.unwrap().stop().await
    }
}

async fn pass(
    State(gate): State<Gate>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = uri.query().unwrap_or_default();
    if gate.front_end == FrontEnd::Stranger {
        let challenge = query.strip_prefix("challenge=").unwrap_or("ok");
        return challenge.to_owned().into_response();
    }
    let packed = headers.get("content-encoding").is_some();
    let (body, as_base64) = match gate.front_end {
        FrontEnd::RestApi | FrontEnd::HiddenRestApi if packed => {
            let mut plain = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            (plain, false)
        }
        FrontEnd::AsText => (
            String::from_utf8_lossy(&body).into_owned().into_bytes(),
            false,
        ),
        _ => (body.to_vec(), packed),
    };
    let mut kept = Vec::new();
    for name in ["content-type", "content-encoding", "x-nylas-signature"] {
        let gone = name == "content-encoding" && gate.front_end == FrontEnd::HiddenRestApi;
        if let Some(value) = headers.get(name).filter(|_| !gone) {
            kept.push((name, value.to_str().unwrap()));
        }
    }
    let event = http_event(method.as_str(), query, &kept, &body, as_base64);
    let mut function = gate.function.lock().await;
    let answer = function.as_mut().unwrap().succeed(event).await;
    let status = u16::try_from(answer["statusCode"].as_u64().unwrap()).unwrap();
    let text = answer["body"].as_str().unwrap_or_default().to_owned();
    let mut response = (StatusCode::from_u16(status).unwrap(), text).into_response();
    if gate.front_end == FrontEnd::RestApi {
        let name = "x-amz-apigw-id";
        let id = "Abc123EXAMPLE=".parse().unwrap();
        response.headers_mut().insert(name, id);
    }
    response
}

/// A cloud whose receiver is reached through a front end, and the settings of the command.
struct Installed {
    cloud: Cloud,
    public: Public,
    settings: Vec<(&'static str, String)>,
}

impl Installed {
    async fn behind(front_end: FrontEnd) -> Self {
        let cloud = Cloud::start(10).await;
        cloud
            .store("nylas", &cloud.emulators.nylas().api_key())
            .await;
        let function = cloud.function("webhook-receiver").await;
        let public = Public::before(function, front_end).await;
        let own = vec![
            ("WEBHOOK_URL", public.url.clone()),
            ("WEBHOOK_SECRET_ID", "webhook".to_owned()),
            ("NYLAS_API_URL", cloud.emulators.nylas().url()),
            ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
        ];
        let settings = [cloud.aws_settings(), own].concat();
        Self {
            cloud,
            public,
            settings,
        }
    }

    async fn webhook(&self, arguments: &[&str]) -> Seen {
        run(&[&["webhook"], arguments].concat(), &self.settings).await
    }

    async fn doctor(&self) -> Seen {
        run(&["doctor", "--json"], &self.settings).await
    }

    /// Creates a destination at Nylas for the address, with or without compressed delivery, and
    /// stores its secret.
    async fn destination(&self, compressed: bool) {
        let nylas = self.cloud.emulators.nylas();
        let triggers = ["message.created", "message.updated"];
        let call = reqwest::Client::new()
            .post(format!("{}/v3/webhooks", nylas.url()))
            .bearer_auth(nylas.api_key())
            .json(&json!({
                "webhook_url": self.public.url, "trigger_types": triggers, "compressed_delivery": compressed,
            }));
        let made: Value = call.send().await.unwrap().json().await.unwrap();
        let secret = made["data"]["webhook_secret"].as_str().unwrap();
        self.cloud.store("webhook", secret).await;
    }

    /// Sends a notification as Nylas does and returns the status codes of the receiver.
    async fn deliver(&self, notification: &Value) -> Vec<u16> {
        let mut all = self.cloud.emulators.nylas().deliveries(notification);
        let mut delivery = all.remove(0);
        delivery.attempt().await;
        delivery.answers
    }
}

/// Returns the verdict, the observation and the remedy of a check in a JSON report. `None` if the
/// report has no such check.
fn check(seen: &Seen, name: &str) -> Option<(String, String, String)> {
    let report = seen.json();
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|it| it["name"] == name)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("verdict"), text("seen"), text("remedy")))
}

fn verdict(seen: &Seen, name: &str) -> String {
    let found = check(seen, name);
    found.map_or("none".to_owned(), |(verdict, _, _)| verdict)
}

fn notification(id: &str, kind: &str) -> Value {
    json!({
        "specversion": "1.0", "type": kind, "source": "/google/emails/realtime", "id": format!("notification-{id}"),
        "time": Utc::now().timestamp(),
        "data": {"application_id": "app", "object": {"id": id, "grant_id": "grant-1", "object": "message"}},
    })
}

/// Receives messages until the queue is empty and returns their message ids.
async fn queued(cloud: &Cloud) -> HashSet<String> {
    let mut ids = HashSet::new();
    loop {
        let batch = cloud.receive().await;
        if batch.is_empty() {
            return ids;
        }
        for message in &batch {
            let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
            ids.insert(body["message_id"].as_str().unwrap().to_owned());
        }
    }
}

fn ids(all: &[&str]) -> HashSet<String> {
    all.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test]
async fn a_webhook_is_created_uncompressed_so_that_every_gateway_delivers_it_intact() {
    for front_end in [FrontEnd::RestApi, FrontEnd::AsText, FrontEnd::Faithful] {
        let installed = Installed::behind(front_end).await;
        let made = installed.webhook(&["create"]).await;
        assert_eq!(made.status, Some(0), "{}{}", made.out, made.err);
        let answers = installed
            .deliver(&notification("m1", "message.created"))
            .await;
        assert_eq!(answers, [200]);
        assert!(made.out.contains("A signed delivery arrives unchanged."));
        let listed = installed.webhook(&["list", "--json"]).await.json();
        assert_eq!(listed[0]["compressed_delivery"], false);
        let verified = installed.webhook(&["verify", "--json"]).await;
        assert_eq!(verified.status, Some(0), "{}", verified.out);
        for seen in [verified, installed.doctor().await] {
            assert_eq!(verdict(&seen, "webhook probe"), "well", "{}", seen.out);
            assert_eq!(verdict(&seen, "webhook gzip probe"), "none");
        }
        // The probes were not queued.
        assert_eq!(queued(&installed.cloud).await, ids(&["m1"]));
        let secret = installed.cloud.stored("webhook").await.unwrap();
        let printed = installed.public.stop().await;
        assert_eq!(printed.matches("probe answered").count(), 3);
        assert_silent("the receiver's output", &printed, &[secret]);
    }
}

#[tokio::test]
async fn webhook_create_rejects_compression_behind_a_rest_api_with_a_remedy() {
    let installed = Installed::behind(FrontEnd::RestApi).await;
    let refused = installed.webhook(&["create", "--compressed"]).await;
    assert_eq!((refused.status, refused.out.as_str()), (Some(2), ""));
    for part in ["REST API", "Omit --compressed", "WebhookUrl"] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    let listed = installed.webhook(&["list", "--json"]).await;
    assert_eq!(listed.json(), json!([]), "no destination was created");
    assert_eq!(installed.cloud.stored("webhook").await, None);

    // The address alone shows a REST API, so no request is sent.
    let mut elsewhere = installed.settings.clone();
    let address = "https://abc123.execute-api.eu-north-1.amazonaws.com/live/nylas";
    elsewhere.push(("WEBHOOK_URL", address.to_owned()));
    let refused = run(&["webhook", "create", "--compressed"], &elsewhere).await;
    assert_eq!(refused.status, Some(2));
    assert!(refused.err.contains("the stage live"), "{}", refused.err);

    let installed = Installed::behind(FrontEnd::Faithful).await;
    let made = installed.webhook(&["create", "--compressed"]).await;
    assert_eq!(made.status, Some(0), "{}{}", made.out, made.err);
    let answers = installed
        .deliver(&notification("m1", "message.created"))
        .await;
    assert_eq!(answers, [200]);
    let verified = installed.webhook(&["verify", "--json"]).await;
    assert_eq!(verified.status, Some(0), "{}", verified.out);
    assert_eq!(verdict(&verified, "webhook probe"), "well");
    assert_eq!(verdict(&verified, "webhook gzip probe"), "well");
    assert_eq!(queued(&installed.cloud).await, ids(&["m1"]));
}

#[tokio::test]
async fn the_probe_and_doctor_detect_a_front_end_that_changes_compressed_bodies() {
    for (front_end, answer) in [
        (FrontEnd::RestApi, 503),
        (FrontEnd::AsText, 503),
        // No header shows that the body was decompressed.
        (FrontEnd::HiddenRestApi, 401),
    ] {
        let installed = Installed::behind(front_end).await;
        installed.destination(true).await;
        let answers = installed
            .deliver(&notification("m1", "message.created"))
            .await;
        assert_eq!(answers, [answer]);
        let verified = installed.webhook(&["verify", "--json"]).await;
        assert_eq!(verified.status, Some(1), "{}", verified.out);
        // Within a minute after the receiver read the secrets, it answers 503, not 401, to a body
        // that it cannot verify.
        for (seen, answer) in [(verified, answer), (installed.doctor().await, 503)] {
            assert_eq!(verdict(&seen, "webhook probe"), "well", "{}", seen.out);
            let (verdict, what, remedy) = check(&seen, "webhook gzip probe").unwrap();
            assert_eq!(verdict, "broken", "{}", seen.out);
            assert!(what.contains(&answer.to_string()), "{what}");
            assert!(remedy.contains("compressed delivery off"), "{remedy}");
            if front_end == FrontEnd::RestApi {
                assert!(remedy.contains("REST API"), "{remedy}");
            }
        }
        assert_eq!(queued(&installed.cloud).await, ids(&[]));
        let printed = installed.public.stop().await;
        let counted = if answer == 503 {
            r#""DeliveryAltered":1"#
        } else {
            r#""SignatureRefused":1"#
        };
        assert_eq!(printed.matches(counted).count(), 3, "{printed}");
    }
    // Where nothing shows it in advance, `create` finds it by its own probe at once.
    let installed = Installed::behind(FrontEnd::HiddenRestApi).await;
    let made = installed.webhook(&["create", "--compressed"]).await;
    assert_eq!(made.status, Some(1), "{}{}", made.out, made.err);
    for part in [
        "do not arrive",
        "✘ webhook gzip probe",
        "compressed delivery off",
    ] {
        assert!(made.out.contains(part), "{part}: {}", made.out);
    }
}

#[tokio::test]
async fn a_failed_webhook_probe_reports_the_answer_and_a_remedy() {
    // The command uses another secret than the receiver.
    let mut installed = Installed::behind(FrontEnd::Faithful).await;
    installed.destination(false).await;
    let create = installed.cloud.secrets.create_secret().name("other");
    create.send().await.unwrap();
    installed
        .cloud
        .store("other", "canary-other-secret-77")
        .await;
    installed
        .settings
        .push(("WEBHOOK_SECRET_ID", "other".to_owned()));
    let verified = installed.webhook(&["verify", "--json"]).await;
    assert_eq!(verified.status, Some(1));
    let (verdict, what, remedy) = check(&verified, "webhook probe").unwrap();
    assert_eq!(
        (verdict.as_str(), what.as_str()),
        ("broken", "a signed probe was answered with 401: signature")
    );
    assert!(remedy.contains("WEBHOOK_SECRET_ID"), "{remedy}");
    assert!(!verified.out.contains("canary-other-secret-77"));

    // A server that answers 200 to everything.
    let installed = Installed::behind(FrontEnd::Stranger).await;
    installed.destination(false).await;
    let verified = installed.webhook(&["verify", "--json"]).await;
    assert_eq!(verified.status, Some(1), "{}", verified.out);
    let (_, what, remedy) = check(&verified, "webhook probe").unwrap();
    assert_eq!(what, "a signed probe was answered with 200: ok");
    assert!(remedy.contains("something else answers"), "{remedy}");
}

#[tokio::test]
async fn a_notification_type_with_an_unknown_suffix_is_queued_and_counted() {
    let installed = Installed::behind(FrontEnd::Faithful).await;
    installed.destination(false).await;
    for (id, kind) in [
        ("m1", "message.created.redacted"),
        ("m2", "message.created.v2.truncated"),
        ("m3", "message.updated.truncated.ada@x.example"),
        ("m4", "message.created.truncated"),
    ] {
        assert_eq!(installed.deliver(&notification(id, kind)).await, [200]);
    }
    let all = queued(&installed.cloud).await;
    assert_eq!(all, ids(&["m1", "m2", "m3", "m4"]));
    let printed = installed.public.stop().await;
    let counted = printed.matches(r#""NotificationSuffixUnknown":1"#);
    assert_eq!(counted.count(), 3, "{printed}");
    for suffix in [
        r#""suffix":"redacted""#,
        r#""suffix":"v2""#,
        r#""suffix":"(not shown)""#,
    ] {
        assert!(printed.contains(suffix), "{suffix} in {printed}");
    }
    assert!(!printed.contains("ada@x.example"), "{printed}");
}

#[tokio::test]
async fn foreign_old_and_duplicate_notifications_are_acknowledged_and_counted() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let setting = ("NYLAS_APPLICATION_ID", "app".to_owned());
    let mut receiver = cloud.function_with("webhook-receiver", &[setting]).await;
    let mut other = notification("m1", "message.created");
    other["data"]["application_id"] = json!("other");
    let mut old = notification("m2", "message.created");
    old["time"] = json!(Utc::now().timestamp() - 8 * 86_400);
    let ours = notification("m3", "message.created");
    let mut without = notification("m4", "message.created");
    without["data"]
        .as_object_mut()
        .unwrap()
        .remove("application_id");
    for (what, notification) in [
        ("of another application", &other),
        ("too old", &old),
        ("of our application", &ours),
        ("of our application, repeated", &ours),
        ("without an application id", &without),
    ] {
        let answer = receiver.succeed(delivery(notification)).await;
        let answer = (&answer["statusCode"], &answer["body"]);
        assert_eq!(answer, (&json!(200), &json!("ok")), "{what}");
    }
    assert_eq!(queued(&cloud).await, ids(&["m3", "m4"]));
    let printed = receiver.stop().await;
    for (count, times) in [
        ("NotificationOfAnotherApplication", 1),
        ("NotificationTooOld", 1),
        ("NotificationDuplicate", 1),
        ("NotificationQueued", 2),
    ] {
        let counted = printed.matches(&format!(r#""{count}":1"#)).count();
        assert_eq!(counted, times, "{count}: {printed}");
    }
}

#[tokio::test]
async fn a_body_with_a_too_large_content_length_is_rejected_before_any_secret_is_read() {
    let cloud = Cloud::start(10).await;
    // The webhook secret has no value, so a receiver that reads it answers 503.
    let mut receiver = cloud.function("webhook-receiver").await;
    let good = signature(b"{}");
    for (length, status) in [("4194305", 413), ("2", 503)] {
        let headers = [
            ("x-nylas-signature", good.as_str()),
            ("content-length", length),
        ];
        let event = http_event("POST", "", &headers, b"{}", false);
        assert_eq!(receiver.succeed(event).await["statusCode"], status);
    }
}

#[tokio::test]
async fn a_burst_during_a_secret_store_outage_gets_503_and_reads_the_store_once() {
    let cloud = Cloud::start(10).await;
    let (url, asked) = broken_store().await;
    let setting = ("AWS_ENDPOINT_URL_SECRETS_MANAGER", url);
    let mut receiver = cloud.function_with("webhook-receiver", &[setting]).await;
    let begun = Utc::now();
    for n in 0..20 {
        let notification = notification(&format!("m{n}"), "message.created");
        let answer = receiver.succeed(delivery(&notification)).await;
        assert_eq!(answer["statusCode"], 503);
    }
    // The SDK makes three attempts per read. The receiver reads again after five seconds, which a
    // burst on a slow machine may exceed.
    let spells = usize::try_from((Utc::now() - begun).num_seconds() / 5 + 1).unwrap();
    let asked = asked.load(Ordering::SeqCst);
    assert!(
        asked > 0 && asked <= 3 * spells,
        "{asked} requests in {spells} intervals of 5 s"
    );
}
