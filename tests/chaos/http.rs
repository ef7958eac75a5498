//! HTTP/1.1 messages on a connection: read completely, then written again.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// A request or an answer.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The lines before the empty line, which is not included.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Creates an error in the JSON protocol of the AWS services.
    pub(crate) fn aws_error(kind: &str) -> Self {
        Self {
            head: "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0".to_owned(),
            body: format!(r#"{{"__type":"{kind}","message":"as the harness asked"}}"#).into_bytes(),
        }
        .measured()
    }

    /// Creates an error of Nylas; `retry_after` is in seconds.
    pub(crate) fn nylas_error(status: u16, kind: &str, retry_after: Option<u64>) -> Self {
        let body = format!(
            r#"{{"request_id":"1","error":{{"type":"{kind}","message":"as the harness asked"}}}}"#
        );
        Self::json(status, &body, retry_after)
    }

    /// Creates an answer of Dataverse that throttles for this many seconds.
    pub(crate) fn dataverse_throttles(seconds: u64) -> Self {
        let body = r#"{"error":{"code":"0x80072322","message":"as the harness asked"}}"#;
        Self::json(429, body, Some(seconds))
    }

    /// Creates an answer of Dataverse that rejects a request as a whole.
    pub(crate) fn dataverse_refuses(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"as the harness asked"}}}}"#);
        Self::json(status, &body, None)
    }

    /// Creates an answer of Dataverse while it is unavailable.
    pub(crate) fn dataverse_unavailable() -> Self {
        Self::json(503, "", None)
    }

    fn json(status: u16, body: &str, retry_after: Option<u64>) -> Self {
        let wait = retry_after.map(|seconds| format!("\r\nRetry-After: {seconds}"));
        Self {
            head: format!(
                "HTTP/1.1 {status} Failed\r\nContent-Type: application/json{}",
                wait.unwrap_or_default()
            ),
            body: body.as_bytes().to_vec(),
        }
        .measured()
    }

    /// Returns the first line.
    pub(crate) fn start(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// Returns the status of an answer.
    pub(crate) fn status(&self) -> u16 {
        let code = self.start().split(' ').nth(1);
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known
                .trim()
                .eq_ignore_ascii_case(name)
                .then(|| value.trim())
        })
    }

    /// Returns whether the sender closes the connection after this message.
    pub(crate) fn is_last(&self) -> bool {
        let word = self.header("connection").unwrap_or_default();
        word.eq_ignore_ascii_case("close")
            || (self.start().starts_with("HTTP/1.0") && !word.eq_ignore_ascii_case("keep-alive"))
    }

    /// Replaces the body and its length.
    pub(crate) fn replace_body(&mut self, body: Vec<u8>) {
        self.body = body;
        *self = self.clone().measured();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n\r\n", &self.body].concat()
    }

    fn measured(mut self) -> Self {
        let kept = self.head.lines().filter(|line| {
            let name = line
                .split(':')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            name != "content-length" && name != "transfer-encoding"
        });
        let mut lines: Vec<String> = kept.map(str::to_owned).collect();
        lines.push(format!("Content-Length: {}", self.body.len()));
        self.head = lines.join("\r\n");
        self
    }

    fn has_no_body(&self) -> bool {
        self.start().starts_with("HTTP/") && matches!(self.status(), 100..=199 | 204 | 304)
    }
}

/// Reads the next message of a connection; `None` if the connection ended before it began.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    from: &mut BufReader<R>,
) -> io::Result<Option<Message>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head).await? == 0 {
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
    let head = String::from_utf8_lossy(&head).trim_end().to_owned();
    let mut message = Message {
        head,
        body: Vec::new(),
    };
    if message.has_no_body() {
        return Ok(Some(message));
    }
    if let Some(length) = message.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        message.body = vec![0; length];
        from.read_exact(&mut message.body).await?;
    } else if message.header("transfer-encoding").is_some() {
        message.body = read_chunks(from).await?;
        message = message.measured();
    } else if message.start().starts_with("HTTP/") {
        from.read_to_end(&mut message.body).await?;
        message = message.measured();
    }
    Ok(Some(message))
}

async fn read_chunks<R: AsyncRead + Unpin>(from: &mut BufReader<R>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).await?;
        let length = line.trim().split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(length, 16).map_err(io::Error::other)?;
        let start = body.len();
        // Includes the line break after each chunk, and the empty line after the last one.
        body.resize(start + length + 2, 0);
        from.read_exact(&mut body[start..]).await?;
        body.truncate(start + length);
        if length == 0 {
            return Ok(body);
        }
    }
}
