//! A syslog server: messages of RFC 5424 over a Unix datagram socket, UDP (RFC 5426), or TCP with counted octets
//! (RFC 6587 §3.4.1).
//!
//! The `syslog` crate was read for this: it puts no octet count before a message, takes numbers alone as MSGID, panics
//! where it makes its time, and has no timeouts.

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv6Addr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::queue::Line;
use super::sink::Trouble;
use crate::policy::{Facility, SyslogServer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a UDP datagram can hold, and what Unix sockets take by default. A record is far shorter.
const DATAGRAM_BYTES_MAX: usize = 65_000;

const SEVERITY_NOTICE: u8 = 5;
const SEVERITY_INFORMATIONAL: u8 = 6;

#[derive(Debug)]
pub struct Syslog {
    server: SyslogServer,
    facility: u8,
    /// `wicketgate`'s fields of the header that stay: host, name and process id.
    origin: String,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    pub fn new(server: SyslogServer, facility: Facility) -> Self {
        let origin = format!("{} wicketgate {}", host_name(), std::process::id());
        Self { server, facility: facility as u8, origin, connection: None }
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    pub fn write(&mut self, line: &Line) -> Result<(), Trouble> {
        let message = self.message(line);
        // A server that went away while nothing was said: the first write to it would seem to succeed.
        if matches!(&self.connection, Some(Connection::Tcp(stream)) if has_gone(stream)) {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connect(&self.server)?),
        };
        if !matches!(connection, Connection::Tcp(_)) && message.len() > DATAGRAM_BYTES_MAX {
            return Err(Trouble::Record);
        }
        let sent = match connection {
            Connection::Unix(socket) => socket.send(&message).map(drop),
            Connection::Udp(socket) => socket.send(&message).map(drop),
            Connection::Tcp(stream) => {
                let mut counted = format!("{} ", message.len()).into_bytes();
                counted.extend_from_slice(&message);
                stream.write_all(&counted)
            }
        };
        if sent.is_err() {
            self.connection = None;
        }
        Ok(sent?)
    }

    /// `<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID SD MSG` (RFC 5424 §6), the record's kind as MSGID.
    fn message(&self, line: &Line) -> Vec<u8> {
        let priority = self.facility * 8 + if line.refusal { SEVERITY_NOTICE } else { SEVERITY_INFORMATIONAL };
        let mut message = format!("<{priority}>1 {} {} {} - ", line.time, self.origin, line.kind).into_bytes();
        message.extend_from_slice(line.json.trim_ascii_end());
        message
    }
}

fn connect(server: &SyslogServer) -> io::Result<Connection> {
    match server {
        SyslogServer::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
            Ok(Connection::Unix(socket))
        }
        SyslogServer::Udp(address) => first(address, |address| {
            let any = if address.is_ipv4() { "0.0.0.0:0".to_owned() } else { format!("[{}]:0", Ipv6Addr::UNSPECIFIED) };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            Ok(Connection::Udp(socket))
        }),
        SyslogServer::Tcp(address) => first(address, |address| {
            let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
            stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
            stream.set_nodelay(true)?;
            Ok(Connection::Tcp(stream))
        }),
    }
}

/// The first address of a name that works.
fn first(address: &str, connect: impl Fn(std::net::SocketAddr) -> io::Result<Connection>) -> io::Result<Connection> {
    let mut trouble = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match connect(address) {
            Ok(connection) => return Ok(connection),
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

/// Whether the server has closed. A syslog server says nothing, so that there is nothing else to read.
fn has_gone(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let found = stream.peek(&mut [0; 1]);
        stream.set_nonblocking(false)?;
        found
    };
    match look() {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// HOSTNAME is printable ASCII without spaces, 255 at most (RFC 5424 §6).
fn host_name() -> String {
    const HOST_NAME_BYTES_MAX: usize = 255;
    let name = hostname::get().ok().and_then(|name| name.into_string().ok());
    let proper = |name: &String| !name.is_empty() && name.len() <= HOST_NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    name.filter(proper).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_header_of_rfc_5424() {
        let server = SyslogServer::Unix("/nowhere".into());
        let syslog = Syslog { origin: "host wicketgate 7".to_owned(), ..Syslog::new(server, Facility::Authpriv) };
        let line = |refusal| Line { kind: "access", refusal, time: "T".to_owned(), json: b"{}\n".to_vec() };
        assert_eq!(syslog.message(&line(false)), b"<86>1 T host wicketgate 7 access - {}");
        assert_eq!(syslog.message(&line(true)), b"<85>1 T host wicketgate 7 access - {}");
    }

    #[test]
    fn a_record_that_no_datagram_can_hold_is_not_tried_forever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _held = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(SyslogServer::Unix(path), Facility::User);
        let line = Line { kind: "access", refusal: false, time: String::new(), json: vec![b'x'; DATAGRAM_BYTES_MAX] };
        assert!(matches!(syslog.write(&line), Err(Trouble::Record)));
    }
}
