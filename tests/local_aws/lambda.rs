//! A function as a process, and the Lambda Runtime API that it uses.
//!
//! | The function calls | Answer |
//! | --- | --- |
//! | `GET …/invocation/next` | the next event, once the test sends one |
//! | `POST …/invocation/{id}/response` | 202, and the test gets the body |
//! | `POST …/invocation/{id}/error` | 202, and the test gets the error |
//! | anything else | 404, and the test fails with the name of the call |
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
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// The longest time that anything here may take on the slowest machine; what takes longer hangs. No
/// test waits for it to pass. On a machine with forty processes for two cores, two minutes were not
/// enough.
const OVERALL: Duration = Duration::from_secs(600);

/// The result of an invocation: the response, or the error that the function reported.
pub type Answer = Result<Value, Value>;

struct Invocation {
    event: Value,
    deadline: DateTime<Utc>,
    answer: oneshot::Sender<Answer>,
}

struct RuntimeApi {
    invocations: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    running: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    unexpected: Mutex<Vec<String>>,
}

/// A running function; it ends when this is dropped.
pub struct Function {
    name: &'static str,
    /// The process id.
    process: u32,
    killer: Killer,
    invocations: mpsc::Sender<Invocation>,
    api: Arc<RuntimeApi>,
    server: JoinHandle<()>,
    output: Vec<JoinHandle<String>>,
}

/// Kills a function's process at once, from anywhere. Clones kill the same process.
#[derive(Clone)]
pub struct Killer {
    orders: mpsc::Sender<()>,
    finished: watch::Receiver<Option<ExitStatus>>,
}

impl Killer {
    /// Sends SIGKILL and waits until the process has ended.
    pub async fn kill(&self) {
        // A process that has ended takes no more orders.
        self.orders.send(()).await.ok();
        self.finished().await;
    }

    async fn finished(&self) -> ExitStatus {
        let mut finished = self.finished.clone();
        let status = finished.wait_for(Option::is_some).await;
        status
            .expect("a task waits for the process and publishes its exit status")
            .unwrap()
    }
}

/// How an invocation ended.
pub enum Finished {
    /// The function answered.
    Answered(Answer),
    /// The process ended.
    Died(ExitStatus),
}

impl Function {
    /// Starts the compiled function `name` with these settings and nothing else in its environment.
    pub async fn start(name: &'static str, settings: &[(&str, String)]) -> Self {
        let (invocations, incoming) = mpsc::channel(1);
        let api = Arc::new(RuntimeApi {
            invocations: tokio::sync::Mutex::new(incoming),
            running: Mutex::default(),
            unexpected: Mutex::default(),
        });
        let (address, server) = serve(Arc::clone(&api)).await;
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
            process: process
                .id()
                .expect("a process that was just started has an id"),
            killer: watch_over(process),
            invocations,
            api,
            server,
            output,
        }
    }

    /// Runs one invocation with the timeout of the longest function.
    ///
    /// # Errors
    /// The error that the function reported.
    pub async fn invoke(&mut self, event: Value) -> Answer {
        match self.run(event, Utc::now() + TimeDelta::minutes(14)).await {
            Finished::Answered(answer) => answer,
            Finished::Died(status) => {
                let (name, printed) = (self.name, self.printed().await);
                panic!("{name} ended with {status}\n{printed}");
            }
        }
    }

    /// Runs one invocation with this deadline. The deadline is not enforced: that is up to the
    /// caller.
    pub async fn run(&mut self, event: Value, deadline: DateTime<Utc>) -> Finished {
        let (answer, answered) = oneshot::channel();
        let invocation = Invocation {
            event,
            deadline,
            answer,
        };
        let invoked = async {
            self.invocations
                .send(invocation)
                .await
                .expect("the runtime API is running");
            answered.await.expect("every invocation gets an answer")
        };
        let finished = tokio::select! {
            answer = tokio::time::timeout(OVERALL, invoked) => answer.map(Finished::Answered),
            status = self.killer.finished() => Ok(Finished::Died(status)),
        };
        if let Ok(finished) = finished {
            return finished;
        }
        self.killer.kill().await;
        let (name, printed) = (self.name, self.printed().await);
        panic!("{name} did not answer\n{printed}");
    }

    /// Runs one invocation that must succeed.
    pub async fn succeed(&mut self, event: Value) -> Value {
        match self.invoke(event).await {
            Ok(response) => response,
            Err(error) => panic!("{} failed: {error}", self.name),
        }
    }

    /// Returns the handle that kills the process.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Returns the peak memory of the process so far, in bytes; `None` once it has ended.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kilobytes * 1024)
    }

    /// Waits for a function that ends by itself. Returns its exit status and what it printed.
    pub async fn finished(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(OVERALL, self.killer.finished()).await;
        let status =
            status.expect("the function keeps running although it should have refused to start");
        (status, self.printed().await)
    }

    /// Ends the function. Returns everything that it printed.
    pub async fn stop(mut self) -> String {
        self.killer.kill().await;
        let unexpected = self.api.unexpected.lock().unwrap().clone();
        assert_eq!(
            unexpected, [""; 0],
            "the function made calls that the runtime API does not have"
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

impl Drop for Function {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Waits for the process to end. Kills it on an order, or when the last handle is dropped.
fn watch_over(mut process: Child) -> Killer {
    let (orders, mut ordered) = mpsc::channel(1);
    let (ending, finished) = watch::channel(None);
    tokio::spawn(async move {
        let status = tokio::select! {
            status = process.wait() => status,
            _ = ordered.recv() => {
                process.start_kill().ok();
                process.wait().await
            }
        };
        ending.send_replace(Some(status.unwrap()));
    });
    Killer { orders, finished }
}

/// Returns the path of the compiled function, beside this test.
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

async fn serve(api: Arc<RuntimeApi>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/{outcome}", post(done))
        .fallback(unexpected)
        .with_state(api);
    let server = tokio::spawn(async move {
        // The server ends only when it is aborted.
        let _never = axum::serve(listener, router).await;
    });
    (address, server)
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> Response {
    let Some(invocation) = api.invocations.lock().await.recv().await else {
        // The test is over; Lambda would freeze the function here.
        return std::future::pending().await;
    };
    let id = uuid::Uuid::new_v4().to_string();
    let deadline = invocation.deadline.timestamp_millis();
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
            // The test may have given up in the meantime.
            waiting.send(answer).ok();
            StatusCode::ACCEPTED
        }
        None => note(&api, &format!("an answer to {id}, which is not running")),
    }
}

async fn unexpected(State(api): State<Arc<RuntimeApi>>, request: Request) -> StatusCode {
    note(&api, &format!("{} {}", request.method(), request.uri()))
}

fn note(api: &RuntimeApi, call: &str) -> StatusCode {
    api.unexpected.lock().unwrap().push(call.to_owned());
    StatusCode::NOT_FOUND
}
