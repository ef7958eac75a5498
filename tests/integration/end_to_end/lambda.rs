//! A function as a process, and the Lambda Runtime API that it talks to.
//!
//! | The function asks | Answer |
//! | --- | --- |
//! | `GET …/invocation/next` | the next event, as soon as the test has one |
//! | `POST …/invocation/{id}/response` | 202, and the test gets the body |
//! | `POST …/invocation/{id}/error` | 202, and the test gets the error |
//! | anything else | 404, and the test fails with the call's name |
//!
//! Source: AWS Lambda Developer Guide, "Using the Lambda runtime API".

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{TimeDelta, Utc};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Longest time that anything here may take on the slowest machine. Nothing waits for it to pass.
const OVERALL: Duration = Duration::from_secs(120);

/// What an invocation came to: the response, or the error that the function reported.
type Answer = Result<Value, Value>;

struct Invocation {
    event: Value,
    answer: oneshot::Sender<Answer>,
}

struct RuntimeApi {
    invocations: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    running: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    unexpected: Mutex<Vec<String>>,
}

/// A function that runs until it is dropped.
pub(super) struct Function {
    name: &'static str,
    process: Child,
    invocations: mpsc::Sender<Invocation>,
    api: Arc<RuntimeApi>,
    output: Vec<JoinHandle<String>>,
}

impl Function {
    /// Starts the compiled function `name` with these settings and nothing else in its environment.
    pub(super) async fn start(name: &'static str, settings: &[(&str, String)]) -> Self {
        let (invocations, incoming) = mpsc::channel(1);
        let api = Arc::new(RuntimeApi {
            invocations: tokio::sync::Mutex::new(incoming),
            running: Mutex::default(),
            unexpected: Mutex::default(),
        });
        let address = serve(Arc::clone(&api)).await;
        let mut process = Command::new(binary(name))
            .env_clear()
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
                ("AWS_LAMBDA_FUNCTION_NAME", name),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/test"),
                ("AWS_LAMBDA_LOG_STREAM_NAME", "test"),
            ])
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = vec![
            tokio::spawn(read_all(process.stdout.take().unwrap())),
            tokio::spawn(read_all(process.stderr.take().unwrap())),
        ];
        Self {
            name,
            process,
            invocations,
            api,
            output,
        }
    }

    /// One invocation.
    pub(super) async fn invoke(&mut self, event: Value) -> Answer {
        let (answer, answered) = oneshot::channel();
        let invocation = Invocation { event, answer };
        let invoked = async {
            self.invocations
                .send(invocation)
                .await
                .expect("the runtime API stands");
            answered.await.expect("an answer")
        };
        let ended = tokio::select! {
            answer = tokio::time::timeout(OVERALL, invoked) => match answer {
                Ok(answer) => return answer,
                Err(_) => "did not answer".to_owned(),
            },
            status = self.process.wait() => format!("ended with {}", status.unwrap()),
        };
        self.process.start_kill().ok();
        let (name, printed) = (self.name, self.printed().await);
        panic!("{name} {ended}\n{printed}");
    }

    /// One invocation that has to succeed.
    pub(super) async fn succeed(&mut self, event: Value) -> Value {
        match self.invoke(event).await {
            Ok(response) => response,
            Err(error) => panic!("{} failed: {error}", self.name),
        }
    }

    /// Waits for a function that ends by itself; how it ended, and what it printed.
    pub(super) async fn ended(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(OVERALL, self.process.wait()).await;
        let status = status
            .expect("it goes on although it should not have started")
            .unwrap();
        (status, self.printed().await)
    }

    /// Ends the function; everything that it printed.
    pub(super) async fn stop(mut self) -> String {
        self.process.kill().await.unwrap();
        let unexpected = self.api.unexpected.lock().unwrap().clone();
        assert_eq!(
            unexpected, [""; 0],
            "calls that the runtime API does not have"
        );
        self.printed().await
    }

    async fn printed(&mut self) -> String {
        let mut all = String::new();
        for stream in self.output.drain(..) {
            all.push_str(&stream.await.unwrap());
        }
        all
    }
}

/// The compiled function, beside this test.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing: `make test` builds it, or `cargo build --workspace --bins`",
        path.display()
    );
    path
}

async fn read_all(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn serve(api: Arc<RuntimeApi>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/{outcome}", post(done))
        .fallback(unexpected)
        .with_state(api);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> Response {
    let Some(invocation) = api.invocations.lock().await.recv().await else {
        // The test is over; Lambda freezes a function here.
        return std::future::pending().await;
    };
    let id = uuid::Uuid::new_v4().to_string();
    let deadline = (Utc::now() + TimeDelta::minutes(14)).timestamp_millis();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", id.clone()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-north-1:123456789012:function:test".to_owned(),
        ),
        (
            "lambda-runtime-trace-id",
            "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0".to_owned(),
        ),
        ("content-type", "application/json".to_owned()),
    ] {
        headers.insert(name, HeaderValue::from_str(&value).unwrap());
    }
    api.running.lock().unwrap().insert(id, invocation.answer);
    (headers, invocation.event.to_string()).into_response()
}

async fn done(
    State(api): State<Arc<RuntimeApi>>,
    Path((id, outcome)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = match outcome.as_str() {
        "response" => Ok(body),
        "error" => Err(body),
        other => return note(&api, &format!("POST {other}")),
    };
    match api.running.lock().unwrap().remove(&id) {
        Some(waiting) => {
            // The test may have given up meanwhile.
            waiting.send(answer).ok();
            StatusCode::ACCEPTED
        }
        None => note(&api, &format!("an answer to {id}, which does not run")),
    }
}

async fn unexpected(State(api): State<Arc<RuntimeApi>>, request: Request) -> StatusCode {
    note(&api, &format!("{} {}", request.method(), request.uri()))
}

fn note(api: &RuntimeApi, call: &str) -> StatusCode {
    api.unexpected.lock().unwrap().push(call.to_owned());
    StatusCode::NOT_FOUND
}
