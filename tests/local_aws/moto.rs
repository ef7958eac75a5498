//! SQS and Secrets Manager: moto, as a process that ends with the test.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A moto server with SQS and Secrets Manager; it ends when this is dropped.
pub struct Moto {
    /// `http://127.0.0.1:PORT`
    pub endpoint: String,
    _process: Child,
}

impl Moto {
    /// Starts the server from `.venv` on a free port.
    pub async fn start() -> Self {
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/moto_server");
        assert!(
            server.exists(),
            "{} is missing: `make test` sets it up, or `make .venv/ready`",
            server.display()
        );
        let mut process = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let endpoint = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("moto did not start:\n{seen}"));
            if let Some((_, address)) = line.split_once("Running on ") {
                break address.trim().to_owned();
            }
            seen.push_str(&line);
        };
        // Its log is read and dropped, so that a full pipe does not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            endpoint,
            _process: process,
        }
    }

    /// Creates a client for its SQS.
    #[must_use]
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(aws_sdk_sqs::config::BehaviorVersion::v2026_01_12())
            .region(aws_sdk_sqs::config::Region::from_static("eu-north-1"))
            .credentials_provider(credentials())
            .endpoint_url(&self.endpoint);
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    /// Creates a client for its Secrets Manager.
    #[must_use]
    pub fn secrets(&self) -> aws_sdk_secretsmanager::Client {
        let config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(aws_sdk_secretsmanager::config::BehaviorVersion::v2026_01_12())
            .region(aws_sdk_secretsmanager::config::Region::from_static(
                "eu-north-1",
            ))
            .credentials_provider(credentials())
            .endpoint_url(&self.endpoint);
        aws_sdk_secretsmanager::Client::from_conf(config.build())
    }
}

fn credentials() -> aws_sdk_sqs::config::Credentials {
    aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "stage")
}
