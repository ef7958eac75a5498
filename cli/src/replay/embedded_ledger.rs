//! The ledger without AWS: an embedded DynamoDB, in memory or in a file, called through its HTTP
//! API.

use std::path::Path;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use dynoxide::Database;
use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::ledger::table;
use tokio::sync::oneshot;

/// The name of the table, the only one in the database.
const TABLE: &str = "mailverse-ledger";

/// The embedded database could not be opened or served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddedError {
    #[error("failed to open the embedded ledger: {0}")]
    Open(String),
    #[error("failed to bind a port for the embedded ledger: {0}")]
    Port(#[from] std::io::Error),
    #[error(transparent)]
    Table(#[from] LedgerError),
}

/// A running embedded ledger. Dropping the value stops it.
pub(crate) struct EmbeddedLedger {
    pub(crate) ledger: Ledger,
    _stop: oneshot::Sender<()>,
}

impl EmbeddedLedger {
    /// Opens the database in `file`, or in memory for `None`, and creates the table.
    ///
    /// # Errors
    /// The file cannot be opened, there is no free port, or the table cannot be created. The caller
    /// cannot go on without a ledger.
    pub(crate) async fn start(file: Option<&Path>) -> Result<Self, EmbeddedError> {
        let opened = match file {
            Some(path) => Database::new(&path.to_string_lossy()),
            None => Database::memory(),
        };
        let database = opened.map_err(|error| EmbeddedError::Open(error.to_string()))?;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(dynoxide::server::serve_with_shutdown(
            listener,
            database,
            async {
                // Returns when the sender is dropped.
                let _ = stopped.await;
            },
        ));
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("local"))
            .credentials_provider(Credentials::new("local", "local", None, None, "embedded"))
            .endpoint_url(format!("http://{address}"))
            .build();
        let client = aws_sdk_dynamodb::Client::from_conf(config);
        table::create(&client, TABLE).await?;
        Ok(Self {
            ledger: Ledger::new(client, TABLE.to_owned()),
            _stop: stop,
        })
    }
}
