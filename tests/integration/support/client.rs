//! A client that sends exactly the bytes that a test says, and reads the answer leniently.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, soon};

/// One request in the making. It is sent on a connection of its own, which closes after it.
pub struct Ask {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<String>,
    host: Option<String>,
    body: Vec<u8>,
}

impl Ask {
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { address, method, target, headers: Vec::new(), host: Some(address.to_string()), body: Vec::new() }
    }

    /// Where it goes.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn token(self, token: &str) -> Self {
        self.header(&format!("Authorization: Bearer {token}"))
    }

    /// A header line, as it stands.
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push(line.to_owned());
        self
    }

    /// Another host than the gate's address, or none.
    pub fn host(mut self, host: Option<&str>) -> Self {
        self.host = host.map(str::to_owned);
        self
    }

    /// A body with its length.
    pub fn body(self, body: &str) -> Self {
        let mut ask = self.header(&format!("Content-Length: {}", body.len()));
        ask.body = body.as_bytes().to_vec();
        ask
    }

    /// Sends it and reads the answer to its end.
    pub async fn send(self) -> Answer {
        let mut connection = Connection::open(self.address).await;
        connection.write(&self.bytes("Connection: close")).await;
        connection.answer(&self.method).await
    }

    /// The request as bytes, with one more header line if it is not empty.
    pub fn bytes(&self, more: &str) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if let Some(host) = &self.host {
            text.push_str(&format!("Host: {host}\r\n"));
        }
        for line in self.headers.iter().map(String::as_str).chain(Some(more).filter(|more| !more.is_empty())) {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An open connection, for tests that need several requests or odd bytes on one.
pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await.unwrap();
        Self::over(stream)
    }

    /// One that is open already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), closed: false }
    }

    /// Says that nothing more will be written; reading goes on.
    pub async fn finish_writing(&mut self) {
        let _ = soon("half-closing", self.stream.shutdown()).await;
    }

    /// Writes; a peer that has closed already is no error here, its answer says why.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = soon("writing", self.stream.write_all(bytes)).await;
    }

    /// Writes at once, before any other task gets its turn. For what fits into the socket.
    pub fn write_now(&self, bytes: &[u8]) {
        assert_eq!(self.stream.try_write(bytes).unwrap(), bytes.len());
    }

    /// Reads until the text has been seen: everything that was read, up to its end.
    pub async fn read_until(&mut self, text: &str) -> String {
        loop {
            let found = self.buffer.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + text.len());
                let read = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8_lossy(&read).into_owned();
            }
            let before = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.more().await, "closed before {text:?} came; read {before:?}");
        }
    }

    /// Reads one answer, the method deciding whether a body is expected. Interim answers are skipped.
    pub async fn answer(&mut self, method: &str) -> Answer {
        loop {
            let head = self.read_until("\r\n\r\n").await;
            let mut answer = Answer::parse_head(&head);
            if answer.status / 100 == 1 && answer.status != 101 {
                continue;
            }
            let bodiless = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
            if bodiless {
                return answer;
            }
            if answer.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
                self.read_chunks(&mut answer).await;
            } else if let Some(length) = answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
                while self.buffer.len() < length && self.more().await {}
                answer.complete = self.buffer.len() >= length;
                let rest = self.buffer.split_off(self.buffer.len().min(length));
                answer.body = std::mem::replace(&mut self.buffer, rest);
            } else {
                while self.more().await {}
                answer.body = std::mem::take(&mut self.buffer);
            }
            return answer;
        }
    }

    async fn read_chunks(&mut self, answer: &mut Answer) {
        answer.complete = false;
        loop {
            let Some(line) = self.line().await else { return };
            let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).unwrap_or(0);
            if size == 0 {
                while let Some(line) = self.line().await {
                    match line.split_once(':') {
                        Some((name, value)) => answer.trailers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                        None => break,
                    }
                }
                answer.complete = true;
                return;
            }
            while self.buffer.len() < size + 2 {
                if !self.more().await {
                    return;
                }
            }
            answer.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|part| part == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Everything until the peer closes.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Forgets what was read beyond what was asked for, and says how many bytes that was.
    pub fn take_buffered(&mut self) -> usize {
        std::mem::take(&mut self.buffer).len()
    }

    /// Whether nothing has come that was not read yet. It says nothing of what is still under way.
    pub fn is_silent(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.buffer.is_empty() && nothing
    }

    /// Whether the peer closes without sending anything more.
    pub async fn is_closed(&mut self) -> bool {
        !self.more().await
    }

    async fn more(&mut self) -> bool {
        if self.closed {
            return false;
        }
        let mut part = vec![0; 64 << 10];
        let count = match tokio::time::timeout(PATIENCE, self.stream.read(&mut part)).await {
            Ok(count) => count.unwrap_or(0),
            Err(_) => panic!("no byte within {PATIENCE:?}; read {:?}", String::from_utf8_lossy(&self.buffer)),
        };
        self.buffer.extend_from_slice(&part[..count]);
        self.closed = count == 0;
        count > 0
    }
}

/// An answer, its header names in lower case.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Whether the body ended as it said it would.
    pub complete: bool,
}

impl Answer {
    fn parse_head(head: &str) -> Self {
        let mut lines = head.trim_start().lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok()).unwrap_or(0);
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { status, headers, complete: true, ..Self::default() }
    }

    /// The value of a header that stands there once; all of them with commas otherwise.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The `code` of a problem body; empty for an answer of another kind.
    pub fn code(&self) -> String {
        match self.header("content-type").as_deref() {
            Some("application/problem+json") => self.json()["code"].as_str().unwrap_or_default().to_owned(),
            _ => String::new(),
        }
    }
}
