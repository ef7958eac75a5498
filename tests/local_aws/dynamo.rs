//! DynamoDB without AWS: the real SDK over real HTTP, in memory.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};
use dynoxide::Database;
use tokio::net::TcpListener;

/// Starts an empty DynamoDB in this process, which ends with its runtime. Returns its address.
pub async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let database = Database::memory().unwrap();
    tokio::spawn(dynoxide::server::serve_with_shutdown(
        listener,
        database,
        std::future::pending(),
    ));
    format!("http://{address}")
}

/// Creates a client for the DynamoDB at `endpoint`.
#[must_use]
pub fn client(endpoint: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static("eu-north-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "stage"))
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}
