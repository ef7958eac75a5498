//! A proxied connection from one process to one service, on which a request or its answer can get
//! lost.
//!
//! A request is read completely before anything happens to it. Then the fault proxy decides whether
//! it is forwarded completely, in half or not at all, and, once the service has answered, whether
//! the process receives the answer. So "committed and not answered" is a place on the connection
//! and does not depend on luck.

use std::io;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::fault_proxy::FaultProxy;
use crate::http::{self, Message};

/// What happens to a request.
pub(crate) enum Before {
    Forward,
    /// The connection breaks, and the service does not receive the request.
    Cut,
    /// The service receives half of the request, then the connection breaks.
    Half,
    /// The harness answers instead of the service.
    Answer(Message),
}

/// What happens to an answer.
pub(crate) enum After {
    Relay,
    /// The connection breaks, and the process does not receive the answer.
    Cut,
}

/// A loopback address that leads to a service, until the runtime ends.
pub(crate) struct Connection {
    pub(crate) url: String,
}

impl Connection {
    /// Opens a listener that forwards to `upstream` (`http://127.0.0.1:PORT`).
    pub(crate) async fn to(upstream: &str, fault_proxy: FaultProxy) -> Self {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/');
        let upstream = upstream.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).ok();
                // Requests on this connection belong to the current process, not to its successor.
                let fault_proxy = fault_proxy.for_this_process();
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    // An error is a broken connection, which the harness causes on purpose.
                    serve(client, &upstream, &fault_proxy).await.ok();
                });
            }
        });
        Self { url }
    }
}

async fn serve(client: TcpStream, upstream: &str, fault_proxy: &FaultProxy) -> io::Result<()> {
    let (from_client, mut to_client) = client.into_split();
    let mut from_client = BufReader::new(from_client);
    let mut service = None;
    while let Some(mut request) = http::read(&mut from_client).await? {
        let _busy = fault_proxy.busy();
        let loss = fault_proxy.loss();
        let answer = match fault_proxy.before(&mut request, loss).await {
            Before::Forward => {
                let passed = fault_proxy.pass(&request, forward(&mut service, upstream, &request));
                let Some(answer) = passed.await? else {
                    return Ok(());
                };
                match fault_proxy.after(&request, &answer, loss).await {
                    After::Relay => answer,
                    After::Cut => return Ok(()),
                }
            }
            Before::Cut => return Ok(()),
            Before::Half => {
                let bytes = request.bytes();
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
                TcpStream::connect(upstream).await?.write_all(half).await?;
                return Ok(());
            }
            Before::Answer(answer) => answer,
        };
        fault_proxy.hears(&answer);
        to_client.write_all(&answer.bytes()).await?;
        if answer.is_last() {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends a request to the service. Returns `None` if it closes the connection instead of answering.
/// `kept` is the connection of the previous request.
async fn forward(
    kept: &mut Option<BufReader<TcpStream>>,
    upstream: &str,
    request: &Message,
) -> io::Result<Option<Message>> {
    let mut service = match kept.take() {
        Some(service) => service,
        None => BufReader::new(TcpStream::connect(upstream).await?),
    };
    service.get_ref().set_nodelay(true)?;
    if service.get_mut().write_all(&request.bytes()).await.is_err() {
        return Ok(None);
    }
    let answer = http::read(&mut service).await.ok().flatten();
    if let Some(answer) = &answer
        && !answer.is_last()
    {
        *kept = Some(service);
    }
    Ok(answer)
}
