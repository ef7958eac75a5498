//! Tests `mailverse webhook`: a destination at Nylas, its secret in Secrets Manager, and a receiver
//! between them that never rejects a genuine delivery permanently.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use chrono::{TimeDelta, Utc};
use emulators::{Delivery, Fault, Nylas};
use mailverse::clients::aws::queue::SqsQueue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use webhook_receiver::webhook_secrets::WebhookSecrets;
use webhook_receiver::{Receiver, event};

use crate::end_to_end::cloud::Cloud;
use crate::end_to_end::command::{Seen, run};
use crate::end_to_end::events::http_event;
use crate::tripwire::Tripwire;

/// The receiver on a loopback address, as it is reached through a function URL, with a clock that
/// the test can move.
#[derive(Clone)]
pub(in crate::end_to_end) struct Front {
    receiver: Arc<Receiver<SqsQueue>>,
    /// Seconds by which the test has moved the clock.
    passed: Arc<AtomicI64>,
    pub(in crate::end_to_end) url: String,
    server: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Front {
    pub(in crate::end_to_end) async fn before(cloud: &Cloud) -> Self {
        let queue = SqsQueue::new(cloud.sqs.clone(), cloud.queue.clone());
        let secrets = WebhookSecrets::stored(cloud.secrets.clone(), "webhook".to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Self {
            receiver: Arc::new(Receiver::new(queue, secrets)),
            passed: Arc::default(),
            url: format!("http://{}/", listener.local_addr().unwrap()),
            server: Arc::default(),
        };
        let app = Router::new().fallback(answer).with_state(front.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        *front.server.lock().unwrap() = Some(server);
        front
    }

    /// Stops the server, so that nothing answers at its address.
    pub(in crate::end_to_end) async fn close(&self) {
        let server = self.server.lock().unwrap().take().unwrap();
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
    }

    fn pass(&self, seconds: i64) {
        self.passed.fetch_add(seconds, Ordering::SeqCst);
    }
}

async fn answer(
    State(front): State<Front>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let header = |name: &'static str| headers.get(name).map(|it| (name, it.to_str().unwrap()));
    let kept: Vec<_> = ["x-nylas-signature", "content-encoding"]
        .into_iter()
        .filter_map(header)
        .collect();
    let event = http_event(
        method.as_str(),
        uri.query().unwrap_or_default(),
        &kept,
        &body,
        true,
    );
    let request = event::request(&event.to_string()).unwrap();
    let now = Utc::now() + TimeDelta::seconds(front.passed.load(Ordering::SeqCst));
    let received = front.receiver.handle(request, now).await;
    let status = received.response.status();
    (status, received.response.body().to_vec())
}

/// Runs the command with the settings of the stack.
struct Operator {
    settings: Vec<(&'static str, String)>,
}

impl Operator {
    fn new(cloud: &Cloud, front: &Front) -> Self {
        let own = vec![
            ("WEBHOOK_URL", front.url.clone()),
            ("WEBHOOK_SECRET_ID", "webhook".to_owned()),
            ("NYLAS_API_URL", cloud.emulators.nylas().url()),
            ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
        ];
        Self {
            settings: [cloud.aws_settings(), own].concat(),
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.settings.push((name, value.to_owned()));
        self
    }

    fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| *known == name);
        &found.unwrap().1
    }

    async fn run(&self, verb: &str) -> Seen {
        run(&["webhook", verb], &self.settings).await
    }

    /// Starts a rotation that is killed after Nylas created the secret and before Secrets Manager
    /// stored it.
    async fn rotate_and_die(&self, to_store: &Tripwire) {
        let (reached, store_is_reached) = tokio::sync::oneshot::channel();
        to_store.at("PutSecretValue", async {});
        to_store.at("PutSecretValue", async {
            reached.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            seen = self.run("rotate") => panic!("{}{}", seen.out, seen.err),
            reached = store_is_reached => reached.unwrap(),
        }
    }

    async fn succeed(&self, verb: &str) -> String {
        let seen = self.run(verb).await;
        assert_eq!(seen.status, Some(0), "{}{}", seen.out, seen.err);
        seen.out
    }
}

async fn set_up() -> (Cloud, Front, Operator) {
    let cloud = Cloud::start(10).await;
    cloud
        .store("nylas", &cloud.emulators.nylas().api_key())
        .await;
    let front = Front::before(&cloud).await;
    let operator = Operator::new(&cloud, &front);
    (cloud, front, operator)
}

fn notification(id: &str) -> Value {
    json!({
        "specversion": "1.0", "type": "message.created", "source": "/google/emails/realtime", "id": format!("notification-{id}"),
        "time": 1_795_150_010, "data": {"application_id": "app", "object": {"id": id, "grant_id": "grant-1", "object": "message"}},
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

#[tokio::test]
async fn webhook_create_stores_the_secret_of_the_destination_and_never_prints_it() {
    let (cloud, _front, operator) = set_up().await;
    let mut seen = operator.succeed("create").await;
    let id = seen.split(' ').nth(1).unwrap().to_owned();
    let secret = cloud.emulators.nylas().webhook_secret(&id).unwrap();
    assert_eq!(cloud.stored("webhook").await, Some(secret.clone()));
    let mut deliveries = cloud.emulators.nylas().deliveries(&notification("m1"));
    deliveries[0].attempt().await;
    assert!(deliveries[0].is_taken(), "{:?}", deliveries[0].answers);
    assert_eq!(queued(&cloud).await, HashSet::from(["m1".to_owned()]));
    for verb in ["list", "verify"] {
        let out = operator.succeed(verb).await;
        assert!(out.contains(&id) && out.contains("active"), "{out}");
        seen.push_str(&out);
    }
    let again = operator.run("create").await;
    assert_eq!(again.status, Some(2));
    assert!(again.err.contains("webhook rotate"), "{}", again.err);
    seen.push_str(&again.err);
    assert!(!seen.contains(&secret));
}

#[tokio::test]
async fn webhook_create_stores_nothing_if_the_challenge_is_not_answered() {
    let (cloud, _front, operator) = set_up().await;
    let operator = operator.with("WEBHOOK_URL", "http://127.0.0.1:9/");
    let seen = operator.run("create").await;
    assert_eq!(seen.status, Some(2));
    assert!(seen.err.contains("challenge"), "{}", seen.err);
    assert_eq!(cloud.stored("webhook").await, None);
    let seen = operator.run("rotate").await;
    assert!(seen.err.contains("webhook create"), "{}", seen.err);
    let seen = operator.with("WEBHOOK_SECRET_ID", "elsewhere");
    let seen = seen.run("create").await;
    assert!(
        seen.err.contains("ResourceNotFoundException"),
        "{}",
        seen.err
    );
}

/// Deliveries that are made at each moment of a rotation and repeated until the receiver accepts
/// them.
#[derive(Clone)]
struct Stream {
    nylas: Nylas,
    made: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<Delivery>>>,
}

impl Stream {
    /// Creates two deliveries: one is sent at once, the other stays in transit until
    /// [`Self::arrive`].
    async fn flow(self) {
        for at_once in [true, false] {
            let id = format!("m{}", self.made.fetch_add(1, Ordering::SeqCst));
            for mut delivery in self.nylas.deliveries(&notification(&id)) {
                if at_once {
                    delivery.attempt().await;
                }
                self.open.lock().unwrap().push(delivery);
            }
        }
    }

    /// Sends every delivery that the receiver has not accepted yet, again or for the first time.
    async fn arrive(&self) {
        let mut open = std::mem::take(&mut *self.open.lock().unwrap());
        for delivery in &mut open {
            delivery.attempt().await;
        }
        self.open.lock().unwrap().extend(open);
    }
}

#[tokio::test]
async fn a_secret_rotation_during_a_stream_of_deliveries_loses_none() {
    let (cloud, front, operator) = set_up().await;
    operator.succeed("create").await;
    let first = cloud.stored("webhook").await.unwrap();
    let stream = Stream {
        nylas: cloud.emulators.nylas().clone(),
        made: Arc::default(),
        open: Arc::default(),
    };
    let to_store = Tripwire::before(operator.setting("AWS_ENDPOINT_URL_SECRETS_MANAGER")).await;
    let to_nylas = Tripwire::before(&cloud.emulators.nylas().url()).await;
    let operator = operator
        .with("AWS_ENDPOINT_URL_SECRETS_MANAGER", to_store.url())
        .with("NYLAS_API_URL", to_nylas.url());
    stream.clone().flow().await;
    // A forged delivery made the receiver read the secrets less than a minute ago.
    let forged = reqwest::Client::new()
        .post(&front.url)
        .header("x-nylas-signature", "0".repeat(64));
    forged.body("{}").send().await.unwrap();
    for text in [
        // The four moments: before the announcement, before Nylas rotates, before the new secret is
        // stored, and before the rotation ends.
        "PutSecretValue",
        "rotate-secret",
        "PutSecretValue",
        "UpdateSecretVersionStage",
    ] {
        let line = if text == "rotate-secret" {
            &to_nylas
        } else {
            &to_store
        };
        line.at(text, stream.clone().flow());
    }
    operator.succeed("rotate").await;
    assert!(to_store.left().is_empty() && to_nylas.left().is_empty());
    assert_ne!(cloud.stored("webhook").await.unwrap(), first);
    stream.clone().flow().await;
    // Ten minutes later, Nylas repeats the deliveries that were answered with 503.
    front.pass(600);
    stream.arrive().await;
    let open = stream.open.lock().unwrap().clone();
    let answers: Vec<&[u16]> = open.iter().map(|it| &it.answers[..]).collect();
    assert_eq!(open.len(), 12, "two deliveries at each of six moments");
    assert!(open.iter().all(Delivery::is_taken), "{answers:?}");
    assert!(
        answers.contains(&[503, 200].as_slice()),
        "one delivery arrived after Nylas rotated and before the secret was stored: {answers:?}"
    );
    let all = (0..12).map(|n| format!("m{n}")).collect();
    assert_eq!(queued(&cloud).await, all);
}

#[tokio::test]
async fn an_interrupted_rotation_is_reported_and_repeating_it_repairs_it() {
    let (cloud, front, operator) = set_up().await;
    operator.succeed("create").await;
    let to_store = Tripwire::before(operator.setting("AWS_ENDPOINT_URL_SECRETS_MANAGER")).await;
    let operator = operator.with("AWS_ENDPOINT_URL_SECRETS_MANAGER", to_store.url());
    operator.rotate_and_die(&to_store).await;
    let mut early = cloud
        .emulators
        .nylas()
        .deliveries(&notification("m0"))
        .remove(0);
    early.attempt().await;
    assert!(!early.is_lost(), "{:?}", early.answers);
    let verified = operator.run("verify").await;
    assert_eq!(verified.status, Some(1));
    assert!(
        verified
            .out
            .contains("✘ webhook secret       a rotation was started"),
        "{}",
        verified.out
    );
    operator.succeed("rotate").await;
    // Two minutes later the receiver reads the secrets again.
    front.pass(120);
    operator.succeed("verify").await;
    let mut delivery = cloud
        .emulators
        .nylas()
        .deliveries(&notification("m1"))
        .remove(0);
    delivery.attempt().await;
    assert!(delivery.is_taken());

    // If Secrets Manager rejects the write at that point, the error says what to do.
    let secrets = cloud.secrets.clone();
    to_store.at("PutSecretValue", async {});
    to_store.at("PutSecretValue", async move {
        let delete = secrets.delete_secret().secret_id("webhook");
        let deleted = delete.force_delete_without_recovery(true).send().await;
        deleted.unwrap();
    });
    let seen = operator.run("rotate").await;
    assert_eq!(seen.status, Some(2), "{}", seen.out);
    for part in ["could not be stored", "run `mailverse webhook rotate` now"] {
        assert!(seen.err.contains(part), "{}", seen.err);
    }
}

/// Makes Nylas answer the next rotation with this status and code.
fn refuse_rotation(cloud: &Cloud, to_nylas: &Tripwire, status: u16, code: &'static str) {
    let nylas = cloud.emulators.nylas().clone();
    to_nylas.at("rotate-secret", async move {
        nylas.fail_next(Fault::Status {
            status,
            code: code.to_owned(),
            message: "no".to_owned(),
            retry_after_seconds: None,
        });
    });
}

#[tokio::test]
async fn a_rejected_rotation_leaves_an_interrupted_one_open_and_loses_no_delivery() {
    let (cloud, front, operator) = set_up().await;
    operator.succeed("create").await;
    let to_store = Tripwire::before(operator.setting("AWS_ENDPOINT_URL_SECRETS_MANAGER")).await;
    let to_nylas = Tripwire::before(&cloud.emulators.nylas().url()).await;
    let operator = operator
        .with("AWS_ENDPOINT_URL_SECRETS_MANAGER", to_store.url())
        .with("NYLAS_API_URL", to_nylas.url());
    operator.rotate_and_die(&to_store).await;
    for (status, code) in [
        (429, "rate_limit_error"),
        (401, "unauthorized"),
        (403, "insufficient_scopes"),
    ] {
        refuse_rotation(&cloud, &to_nylas, status, code);
        let seen = operator.run("rotate").await;
        assert_eq!(seen.status, Some(2), "{status}");
        assert!(seen.err.contains("nylas"), "{status}: {}", seen.err);
        assert!(seen.err.contains("is still open"), "{status}: {}", seen.err);
        // Two minutes later the receiver reads the secrets again.
        front.pass(120);
        let id = status.to_string();
        let mut delivery = cloud
            .emulators
            .nylas()
            .deliveries(&notification(&id))
            .remove(0);
        delivery.attempt().await;
        assert_eq!(delivery.answers, [503], "{status}");
    }
    operator.succeed("rotate").await;
    front.pass(120);
    operator.succeed("verify").await;
}

#[tokio::test]
async fn a_rejection_by_nylas_is_reported_even_if_the_secret_store_then_fails() {
    let (cloud, _front, operator) = set_up().await;
    operator.succeed("create").await;
    let to_store = Tripwire::before(operator.setting("AWS_ENDPOINT_URL_SECRETS_MANAGER")).await;
    let to_nylas = Tripwire::before(&cloud.emulators.nylas().url()).await;
    let operator = operator
        .with("AWS_ENDPOINT_URL_SECRETS_MANAGER", to_store.url())
        .with("NYLAS_API_URL", to_nylas.url());
    refuse_rotation(&cloud, &to_nylas, 403, "insufficient_scopes");
    let secrets = cloud.secrets.clone();
    to_store.at("UpdateSecretVersionStage", async move {
        let delete = secrets.delete_secret().secret_id("webhook");
        let deleted = delete.force_delete_without_recovery(true).send().await;
        deleted.unwrap();
    });
    let seen = operator.run("rotate").await;
    assert_eq!(seen.status, Some(2), "{}", seen.out);
    for part in ["403 insufficient_scopes", "ResourceNotFoundException"] {
        assert!(seen.err.contains(part), "{}", seen.err);
    }
}

#[tokio::test]
async fn a_rejected_rotation_leaves_no_pending_state_but_one_with_an_unclear_result_does() {
    let (cloud, _front, operator) = set_up().await;
    operator.succeed("create").await;
    let before = cloud.stored("webhook").await;
    let to_nylas = Tripwire::before(&cloud.emulators.nylas().url()).await;
    let verifying = operator.with("NYLAS_API_URL", to_nylas.url());
    for (status, code, verdict) in [(403, "insufficient_scopes", 0), (503, "internal_error", 1)] {
        refuse_rotation(&cloud, &to_nylas, status, code);
        let seen = verifying.run("rotate").await;
        assert_eq!(seen.status, Some(2), "{status}");
        assert_eq!(cloud.stored("webhook").await, before, "{status}");
        let verified = verifying.run("verify").await;
        assert_eq!(verified.status, Some(verdict), "{status}: {}", verified.out);
    }
}
