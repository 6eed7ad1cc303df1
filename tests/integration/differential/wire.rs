//! HTTP/1.1 on raw bytes: what is sent is known to the byte, and so is what came.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::support::soon;

/// A field with its name as it came and its value to the byte.
pub type Field = (String, Vec<u8>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Neither a length nor a coding, and no body.
    #[default]
    None,
    Length,
    Chunked,
    /// To the end of the connection.
    Close,
}

/// A request or an answer as it came.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Message {
    pub line: String,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    /// Interim answers before it.
    pub interim: usize,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ({:?}, {} bytes)", self.line, self.framing, self.body.len())?;
        self.fields.iter().chain(&self.trailers).try_for_each(|(name, value)| writeln!(f, "    {name}: {}", value.escape_ascii()))
    }
}

impl Message {
    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice()).collect()
    }

    pub fn one(&self, name: &str) -> Option<String> {
        self.all(name).first().map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// Fields by their names in lower case; lines of one name stay in order.
pub fn by_name(fields: &[Field]) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut found: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, value) in fields {
        found.entry(name.to_ascii_lowercase()).or_default().push(value.clone());
    }
    found
}

pub struct Wire {
    reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        Self { reader, writer, buffer: Vec::new() }
    }

    /// Writes while it reads what comes back: neither side waits for the other.
    /// An answer is `None` when the connection ended before it.
    pub async fn exchange(&mut self, bytes: &[u8], methods: &[&str]) -> Vec<Option<Message>> {
        let Self { reader, writer, buffer } = self;
        let mut reading = Reading { reader, buffer };
        let read = async {
            let mut answers = Vec::new();
            for method in methods {
                answers.push(soon("an answer", reading.response(method)).await);
            }
            answers
        };
        let (_, answers) = tokio::join!(writer.write_all(bytes), read);
        answers
    }

    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok()
    }

    /// Reads the head of one interim answer.
    pub async fn interim(&mut self) -> Option<Message> {
        soon("an interim answer", self.reading().head()).await
    }

    /// Reads one request; `None` at the end of the connection.
    pub async fn request(&mut self) -> Option<Message> {
        let mut message = self.reading().head().await?;
        if message.one("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) && message.line.ends_with("/1.1") {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        self.reading().body(&mut message, true).await?;
        Some(message)
    }

    fn reading(&mut self) -> Reading<'_> {
        Reading { reader: &mut self.reader, buffer: &mut self.buffer }
    }
}

struct Reading<'w> {
    reader: &'w mut OwnedReadHalf,
    buffer: &'w mut Vec<u8>,
}

impl Reading<'_> {
    async fn more(&mut self) -> Option<()> {
        let mut part = vec![0; 64 << 10];
        let count = self.reader.read(&mut part).await.ok().filter(|count| *count > 0)?;
        self.buffer.extend_from_slice(&part[..count]);
        Some(())
    }

    /// A line without its CR LF.
    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|part| part == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return Some(line);
            }
            self.more().await?;
        }
    }

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    async fn fields(&mut self) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or_else(|| panic!("no field: {line:?}"));
            let space = |byte: &u8| matches!(byte, b' ' | b'\t');
            let mut value = &line[colon + 1..];
            while let Some((_, rest)) = value.split_first().filter(|(byte, _)| space(byte)) {
                value = rest;
            }
            while let Some((_, rest)) = value.split_last().filter(|(byte, _)| space(byte)) {
                value = rest;
            }
            fields.push((String::from_utf8(line[..colon].to_vec()).unwrap(), value.to_vec()));
        }
    }

    async fn head(&mut self) -> Option<Message> {
        let mut line = self.line().await?;
        while line.is_empty() {
            line = self.line().await?;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let fields = self.fields().await?;
        Some(Message { line, fields, ..Message::default() })
    }

    async fn body(&mut self, message: &mut Message, request: bool) -> Option<()> {
        if message.one("transfer-encoding").is_some() {
            message.framing = Framing::Chunked;
            loop {
                let line = self.line().await?;
                let digits = String::from_utf8_lossy(line.split(|byte| *byte == b';').next().unwrap()).trim().to_owned();
                let size = usize::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
                if size == 0 {
                    break;
                }
                message.body.extend(self.bytes(size).await?);
                assert_eq!(self.bytes(2).await?, b"\r\n");
            }
            message.trailers = self.fields().await?;
        } else if let Some(length) = message.one("content-length") {
            message.framing = Framing::Length;
            message.body = self.bytes(length.parse().unwrap()).await?;
        } else if !request {
            message.framing = Framing::Close;
            while self.more().await.is_some() {}
            message.body = std::mem::take(self.buffer);
        }
        Some(())
    }

    /// One answer to a request of this method. Interim ones are counted.
    async fn response(&mut self, method: &str) -> Option<Message> {
        let mut interim = 0;
        loop {
            let mut message = self.head().await?;
            if message.status() / 100 == 1 {
                interim += 1;
                continue;
            }
            message.interim = interim;
            if method != "HEAD" && !matches!(message.status(), 204 | 304) {
                self.body(&mut message, false).await?;
            }
            return Some(message);
        }
    }
}
