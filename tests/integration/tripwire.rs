//! A proxy to a service that runs an action when a given text passes in a request.
//!
//! The emulator can only fail "the next request". A test means "the request that creates the
//! email", whatever its number. So the test gives a text of that request, and the action can tell
//! the emulator to fail while the request is still in transit.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Action = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A loopback address that forwards to a service, byte by byte.
pub(crate) struct Tripwire {
    url: String,
    wires: Arc<Mutex<Vec<(String, Action)>>>,
}

impl Tripwire {
    /// Starts a proxy that forwards to `upstream` (`http://127.0.0.1:PORT`) until the test's
    /// runtime ends.
    pub(crate) async fn before(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let wires = Arc::<Mutex<Vec<(String, Action)>>>::default();
        let watched = Arc::clone(&wires);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let service = TcpStream::connect(&upstream).await.unwrap();
                tokio::spawn(forward(client, service, Arc::clone(&watched)));
            }
        });
        Self { url, wires }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs `action` once, before the service has completely received the first request that
    /// contains `text`. The request waits for the action.
    pub(crate) fn at(&self, text: &str, action: impl Future<Output = ()> + Send + 'static) {
        let wire: (String, Action) = (text.to_owned(), Box::pin(action));
        self.wires.lock().unwrap().push(wire);
    }

    /// Returns the texts that have not passed yet.
    pub(crate) fn left(&self) -> Vec<String> {
        let wires = self.wires.lock().unwrap();
        wires.iter().map(|(text, _)| text.clone()).collect()
    }
}

/// Forwards in both directions. Closes both connections as soon as one of them is closed.
async fn forward(client: TcpStream, service: TcpStream, wires: Arc<Mutex<Vec<(String, Action)>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_service, mut to_service) = service.into_split();
    let there = async {
        // The last bytes that passed, since a text may arrive in two pieces.
        let mut seen = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            seen.extend_from_slice(&buffer[..length]);
            if let Some(action) = touched(&mut seen, &wires) {
                action.await;
            }
            if to_service.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let back = tokio::io::copy(&mut from_service, &mut to_client);
    tokio::select! {
        () = there => {}
        _ = back => {}
    }
}

/// Removes and returns the action of the first text that is in `seen`. `None` if no text is.
fn touched(seen: &mut Vec<u8>, wires: &Mutex<Vec<(String, Action)>>) -> Option<Action> {
    let mut wires = wires.lock().unwrap();
    // Searched as text, because the standard library's text search is fast even without
    // optimisation.
    let shown = String::from_utf8_lossy(seen);
    if let Some(at) = wires
        .iter()
        .position(|(text, _)| shown.contains(text.as_str()))
    {
        // Only one action per text: a second action on the same text is for the next request.
        seen.clear();
        return Some(wires.remove(at).1);
    }
    let longest = wires.iter().map(|(text, _)| text.len()).max().unwrap_or(1);
    let keep = seen.len().saturating_sub(longest - 1);
    seen.drain(..keep);
    None
}
