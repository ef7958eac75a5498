//! What `mailverse token refresh` prints, with the function that it invokes behind Lambda's API.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::{Cloud, Seen, run};
use crate::end_to_end::canary::assert_silent;
use stage::lambda::Function;

const NAME: &str = "the-refresher";

/// Lambda's `Invoke`, as the AWS Lambda API Reference has it, for the one function.
async fn lambda(refresher: Function) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .with_state(Arc::new(Mutex::new(refresher)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn invoke(
    State(refresher): State<Arc<Mutex<Function>>>,
    Path(name): Path<String>,
    event: String,
) -> Response {
    if name != NAME {
        let headers = [("x-amzn-errortype", "ResourceNotFoundException")];
        let body = json!({"Type": "User", "Message": "Function not found"});
        return (StatusCode::NOT_FOUND, headers, body.to_string()).into_response();
    }
    let event: Value = serde_json::from_str(&event).unwrap();
    match refresher.lock().await.invoke(event).await {
        Ok(answer) => answer.to_string().into_response(),
        Err(error) => ([("x-amz-function-error", "Unhandled")], error.to_string()).into_response(),
    }
}

async fn refresh(cloud: &Cloud, lambda: &str, arguments: &[&str]) -> Seen {
    let settings = [
        cloud.aws_settings(),
        vec![("AWS_ENDPOINT_URL_LAMBDA", lambda.to_owned())],
    ];
    run(
        &[&["token", "refresh"], arguments].concat(),
        &settings.concat(),
    )
    .await
}

#[tokio::test]
async fn a_refresh_on_demand_tells_how_long_the_token_is_good_or_what_to_change() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let lambda = lambda(cloud.function("token-refresher").await).await;
    let name = ["--function", NAME];

    let seen = refresh(&cloud, &lambda, &name).await;
    let token: Value = serde_json::from_str(&cloud.stored("token").await.unwrap()).unwrap();
    seen.assert_ended(0, seen.last_line());
    assert!(
        seen.out.starts_with("primary: renewed, good until 20"),
        "{}",
        seen.out
    );
    let json = refresh(&cloud, &lambda, &["--function", NAME, "--json"])
        .await
        .json();
    assert_eq!(json["tokens"][0]["identity"], "primary");
    assert!(token["expires_at"].is_i64());

    cloud
        .store("entra", r#"{"client_secret": "canary-wrong-secret"}"#)
        .await;
    let seen = refresh(&cloud, &lambda, &name).await;
    assert_eq!(seen.status, Some(1), "{}{}", seen.out, seen.err);
    assert!(
        seen.out.starts_with("not renewed: primary: entra refused the credential: invalid_client AADSTS7000215, the client secret is wrong"),
        "{}",
        seen.out
    );
    let secrets = [
        cloud.secret_texts().await,
        vec!["canary-wrong-secret".to_owned()],
    ]
    .concat();
    assert_silent(
        "the command's output",
        &format!("{}{}", seen.out, seen.err),
        &secrets,
    );
}

#[tokio::test]
async fn a_function_that_is_not_there_or_not_named_is_bad_usage() {
    let cloud = Cloud::start(10).await;
    let lambda = lambda(cloud.function("token-refresher").await).await;
    for (arguments, expected) in [
        (
            vec!["--function", "nobody"],
            "the function nobody cannot be asked: 404 ResourceNotFoundException",
        ),
        (vec![], "TOKEN_REFRESHER_FUNCTION is missing"),
    ] {
        let seen = refresh(&cloud, &lambda, &arguments).await;
        assert_eq!(seen.status, Some(2), "{}", seen.err);
        assert!(seen.err.contains(expected), "{}", seen.err);
    }
}
