//! The loopback socket of each service.
//!
//! A service is a function from a request to an answer ([`Service`]); everything about connections
//! is here. Two things are unusual for a server: it can break a connection on purpose (a
//! [`Fault`]), and it stops completely, open connections included, when its [`Server`] is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::fault::{Fault, Faults, Injection};

/// The longest request body that is read: 128 MiB.
///
/// Dataverse documents that a limit exists, but not its value (Dataverse facts §9: unknown; §10
/// mentions about 117 MB for bulk messages).
pub(crate) const LONGEST_BODY: usize = 128 * 1024 * 1024;

/// A request as the services receive it.
pub(crate) struct Incoming {
    pub(crate) method: Method,
    /// The path as it was sent, still percent-encoded.
    pub(crate) path: String,
    /// The query as it was sent, without the question mark.
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    /// `None` if the body was longer than [`LONGEST_BODY`].
    pub(crate) body: Option<Vec<u8>>,
}

impl Incoming {
    /// Returns a header's value; `None` if it is absent or not text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer as the services create it.
pub(crate) struct Outgoing {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// The interface that Dataverse, Nylas and Entra have in common.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Returns the queued faults and the fault plan.
    fn faults(&self) -> &Faults;

    /// Returns the clock that moves or waits when an answer is delayed.
    fn clock(&self) -> &Clock;

    /// Counts a request on arrival, whether it succeeds or not.
    fn count(&self);

    /// Returns an error answer in this service's error format.
    fn refuse(&self, status: u16, code: &str, message: &str) -> Outgoing;

    /// Makes the token of a request expire before the request is processed.
    fn expire_token(&self, _incoming: &Incoming) {}

    /// Answers a request.
    fn answer(&self, incoming: &Incoming) -> impl Future<Output = Outgoing> + Send;
}

/// A bound loopback socket. It exists before its service, which needs its address.
pub(crate) struct Socket {
    listener: TcpListener,
    address: SocketAddr,
}

impl Socket {
    pub(crate) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// `http://127.0.0.1:PORT`, without a final slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers requests on the current runtime until the returned value is dropped.
    pub(crate) fn serve<S: Service>(self, service: S) -> Server {
        let closed = Arc::new(AtomicBool::new(false));
        let listener = Loopback {
            listener: self.listener,
            closed: Arc::clone(&closed),
        };
        let router = Router::new().fallback(
            async move |ConnectInfo(line): ConnectInfo<Line>, request: Request| {
                handle(&service, &line, request).await
            },
        );
        let serve = axum::serve(
            listener,
            router.into_make_service_with_connect_info::<Line>(),
        );
        let task = tokio::spawn(async move {
            // The server runs until the task is aborted.
            let _never = serve.await;
        });
        Server { closed, task }
    }
}

/// A running service. It answers until this value is dropped.
pub(crate) struct Server {
    closed: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.task.abort();
    }
}

async fn handle<S: Service>(service: &S, line: &Line, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let incoming = Incoming {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: axum::body::to_bytes(body, LONGEST_BODY)
            .await
            .ok()
            .map(Vec::from),
    };
    service.count();
    let mut outgoing = match service.faults().next() {
        None => service.answer(&incoming).await,
        Some(Injection::Slow(time)) => {
            service.clock().pass(time).await;
            service.answer(&incoming).await
        }
        Some(Injection::TokenExpired) => {
            service.expire_token(&incoming);
            service.answer(&incoming).await
        }
        Some(Injection::ErrorBefore(status)) => server_error(service, status),
        Some(Injection::ErrorAfterCommit(status)) => {
            let _lost = service.answer(&incoming).await;
            server_error(service, status)
        }
        Some(Injection::Queued(Fault::Status {
            status,
            code,
            message,
            retry_after_seconds,
        })) => {
            let mut outgoing = service.refuse(status, &code, &message);
            if let Some(seconds) = retry_after_seconds {
                outgoing.headers.push(("Retry-After", seconds.to_string()));
            }
            outgoing
        }
        Some(Injection::ResetBefore | Injection::Queued(Fault::ResetBefore)) => {
            line.cut();
            return Response::default();
        }
        Some(Injection::ResetAfterCommit | Injection::Queued(Fault::ResetAfterCommit)) => {
            let _lost = service.answer(&incoming).await;
            line.cut();
            return Response::default();
        }
    };
    // HTTP servers send their time.
    let date = service.clock().now().format("%a, %d %b %Y %H:%M:%S GMT");
    outgoing.headers.push(("Date", date.to_string()));
    respond(outgoing)
}

/// Returns an injected server error: 500 comes from the service itself, any other status from a
/// gateway that does not answer in JSON.
fn server_error<S: Service>(service: &S, status: u16) -> Outgoing {
    if status == 500 {
        return service.refuse(status, "0x80044151", "SQL timeout expired.");
    }
    let text = format!("<html><body><h1>{status}</h1>The service is unavailable.</body></html>");
    Outgoing {
        status,
        headers: vec![("Content-Type", "text/html".to_owned())],
        body: text.into_bytes(),
    }
}

fn respond(outgoing: Outgoing) -> Response<Body> {
    let mut builder = Response::builder().status(outgoing.status);
    for (name, value) in outgoing.headers {
        builder = builder.header(name, value);
    }
    builder.body(Body::from(outgoing.body)).unwrap_or_else(|_| {
        let mut broken = Response::new(Body::from("the emulator made an invalid HTTP answer"));
        *broken.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        broken
    })
}

/// A listener whose connections can be broken.
struct Loopback {
    listener: TcpListener,
    closed: Arc<AtomicBool>,
}

impl Listener for Loopback {
    type Io = Breakable;
    type Addr = Line;

    async fn accept(&mut self) -> (Breakable, Line) {
        let (stream, _) = Listener::accept(&mut self.listener).await;
        // Requests of tests are small and wait for each other; without this option they are only
        // slower.
        let _slower = stream.set_nodelay(true);
        let line = Line {
            cut: Arc::default(),
            closed: Arc::clone(&self.closed),
        };
        (
            Breakable {
                stream,
                line: line.clone(),
            },
            line,
        )
    }

    fn local_addr(&self) -> io::Result<Line> {
        Ok(Line {
            cut: Arc::default(),
            closed: Arc::clone(&self.closed),
        })
    }
}

/// The handle with which a request breaks its own connection.
#[derive(Debug, Clone)]
struct Line {
    cut: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
}

impl Line {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) || self.closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Connected<IncomingStream<'_, Loopback>> for Line {
    fn connect_info(stream: IncomingStream<'_, Loopback>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A connection that fails as soon as its [`Line`] is cut: no byte of the answer is sent.
struct Breakable {
    stream: TcpStream,
    line: Line,
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match self.line.check() {
            Ok(()) => polled,
            Err(broken) => Poll::Ready(Err(broken)),
        }
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Err(broken) = self.line.check() {
            return Poll::Ready(Err(broken));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
