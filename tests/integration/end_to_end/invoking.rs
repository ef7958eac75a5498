//! Lambda's `Invoke`, as the AWS Lambda API Reference has it, for one function.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use local_aws::lambda::Function;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// The one function's name.
pub(super) const NAME: &str = "the-function";

/// The settings by which a command reaches the function.
pub(super) async fn settings(function: Function) -> Vec<(&'static str, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .with_state(Arc::new(Mutex::new(function)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    vec![("AWS_ENDPOINT_URL_LAMBDA", url)]
}

async fn invoke(
    State(function): State<Arc<Mutex<Function>>>,
    Path(name): Path<String>,
    event: String,
) -> Response {
    if name != NAME {
        let headers = [("x-amzn-errortype", "ResourceNotFoundException")];
        let body = json!({"Type": "User", "Message": "Function not found"});
        return (StatusCode::NOT_FOUND, headers, body.to_string()).into_response();
    }
    let event: Value = serde_json::from_str(&event).unwrap();
    match function.lock().await.invoke(event).await {
        Ok(answer) => answer.to_string().into_response(),
        Err(error) => ([("x-amz-function-error", "Unhandled")], error.to_string()).into_response(),
    }
}
