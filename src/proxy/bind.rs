//! Step 1. Sockets to accept on: bound by us, or passed on by whoever started the process (systemd's socket activation).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::policy::{Listen, Listener};

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: i32 = 4096;
/// The number of the first descriptor that is passed on (sd_listen_fds(3)).
const FIRST_DESCRIPTOR: usize = 3;

/// A socket that can be accepted on.
pub enum Bound {
    Tcp(TcpListener),
    /// Whether the file is ours to remove.
    Unix(UnixListener, bool),
}

/// A connection as it was accepted.
pub enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bound {
    pub fn address(&self) -> Option<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Self::Unix(..) => None,
        }
    }

    pub fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    pub async fn accept(&self) -> io::Result<(Raw, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (Raw::Tcp(stream), Some(peer))),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| (Raw::Unix(stream), None)),
        }
    }

    /// Closes the listener, and gives what the kernel had accepted for it: clients that connected when it was open.
    pub fn close(self) -> io::Result<Vec<(Raw, Option<SocketAddr>)>> {
        let mut waiting = Vec::new();
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                for (stream, peer) in std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize) {
                    stream.set_nonblocking(true)?;
                    waiting.push((Raw::Tcp(TcpStream::from_std(stream)?), Some(peer)));
                }
            }
            Self::Unix(listener, ours) => {
                let listener = listener.into_std()?;
                // The file outlives its listener, and would be in the way of the next one.
                if let Some(path) = listener.local_addr()?.as_pathname().filter(|_| ours) {
                    let _ = std::fs::remove_file(path);
                }
                for (stream, _) in std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize) {
                    stream.set_nonblocking(true)?;
                    waiting.push((Raw::Unix(UnixStream::from_std(stream)?), None));
                }
            }
        }
        Ok(waiting)
    }
}

/// Binds a listener. A name of sockets that were passed on may stand for several.
pub fn bind(listener: &Listener, activated: &Activated) -> io::Result<Vec<Bound>> {
    match &listener.address {
        Listen::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into()).map(|listener| vec![Bound::Tcp(listener)])
        }
        Listen::Unix(path) => unix(path, listener.mode).map(|listener| vec![Bound::Unix(listener, true)]),
        Listen::Inherited(name) => activated.open(name),
    }
}

/// Goes on with sockets that another process bound. They are shared with that one, and do not block there either.
pub fn adopt(listener: &Listener, sockets: Vec<OwnedFd>) -> io::Result<Vec<Bound>> {
    let adopt = |socket: OwnedFd| match SockRef::from(&socket).domain()? {
        Domain::UNIX => {
            let ours = matches!(listener.address, Listen::Unix(_));
            UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).map(|listener| Bound::Unix(listener, ours))
        }
        _ => TcpListener::from_std(std::net::TcpListener::from(socket)).map(Bound::Tcp),
    };
    sockets.into_iter().map(adopt).collect()
}

/// A Unix socket with its permissions. Nobody can connect to a socket that is bound and not listened on yet, so that there
/// is no moment in which anyone could who may not.
fn unix(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    // A socket that nobody listens on is left over from a process that was killed.
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if left_over {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let opened = match mode {
        Some(mode) => set_mode(path, mode),
        None => Ok(()),
    };
    let listening = opened.and_then(|()| socket.listen(BACKLOG)).and_then(|()| UnixListener::from_std(socket.into()));
    listening.inspect_err(|_| drop(std::fs::remove_file(path)))
}

pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Sockets that were passed on, kept for as long as the process lives: a listener may be taken out of the configuration
/// and come back.
#[derive(Default)]
pub struct Activated(Vec<Passed>);

struct Passed {
    number: String,
    name: String,
    socket: Option<Kept>,
}

enum Kept {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Activated {
    /// Takes what the environment tells of (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`). There is something to take once
    /// a process.
    pub fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for i in 0..passed.len() {
            let tcp = passed.take_tcp_listener(i).ok().flatten().map(Kept::Tcp);
            let socket = tcp.or_else(|| passed.take_unix_listener(i).ok().flatten().map(Kept::Unix));
            let (number, name) = ((FIRST_DESCRIPTOR + i).to_string(), names.next().unwrap_or_default());
            sockets.push(Passed { number, name, socket: socket.filter(Kept::is_listening) });
        }
        Self(sockets)
    }

    /// Adds what a process before this one had, each under its number and name.
    pub fn add(&mut self, passed: Vec<(String, OwnedFd)>) {
        for (both, socket) in passed {
            let (number, name) = both.split_once(' ').unwrap_or((&both, ""));
            if self.0.iter().any(|own| own.number == number) {
                continue;
            }
            let socket = match SockRef::from(&socket).domain() {
                Ok(Domain::UNIX) => Kept::Unix(socket.into()),
                _ => Kept::Tcp(socket.into()),
            };
            self.0.push(Passed { number: number.to_owned(), name: name.to_owned(), socket: Some(socket) });
        }
    }

    /// All of them that can be listened on, under the same.
    pub fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let kept = self.0.iter().filter_map(|passed| Some((format!("{} {}", passed.number, passed.name), passed.socket.as_ref()?)));
        let copy = |socket: &Kept| match socket {
            Kept::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Kept::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        };
        kept.map(|(name, socket)| Ok((name, copy(socket)?))).collect()
    }

    /// Whether two names stand for one socket, which would then have two kinds of settings.
    pub fn overlap(&self, one: &Listen, other: &Listen) -> bool {
        let (Listen::Inherited(one), Listen::Inherited(other)) = (one, other) else { return false };
        self.0.iter().any(|passed| passed.is(one) && passed.is(other))
    }

    fn open(&self, wanted: &str) -> io::Result<Vec<Bound>> {
        let found: Vec<&Passed> = self.0.iter().filter(|passed| passed.is(wanted)).collect();
        if found.is_empty() {
            let known: Vec<String> = self.0.iter().map(|passed| format!("{} ({})", passed.name, passed.number)).collect();
            let known = if known.is_empty() { "none at all".to_owned() } else { known.join(", ") };
            return Err(io::Error::other(format!("no socket of this name was passed on (LISTEN_FDS), but {known}")));
        }
        let open = |passed: &Passed| match &passed.socket {
            None => Err(io::Error::other(format!("descriptor {} is no stream socket that is listened on", passed.number))),
            Some(Kept::Tcp(listener)) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Bound::Tcp)
            }
            Some(Kept::Unix(listener)) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(|listener| Bound::Unix(listener, false))
            }
        };
        found.into_iter().map(open).collect()
    }
}

impl Passed {
    fn is(&self, wanted: &str) -> bool {
        self.name == wanted || self.number == wanted
    }
}

impl Kept {
    fn is_listening(&self) -> bool {
        let socket = match self {
            Self::Tcp(listener) => SockRef::from(listener),
            Self::Unix(listener) => SockRef::from(listener),
        };
        socket.is_listener().unwrap_or(false)
    }
}
