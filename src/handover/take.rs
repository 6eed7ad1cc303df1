//! The new process's side: it asks the running one for everything, and says when it is ready.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::door::own_user;
use super::wire::{Link, Message, PROTOCOLS, STEP_TIMEOUT};
use crate::revocation::{Carried, Revocations, Told};

/// More sockets than a policy has listeners.
const SOCKETS_MAX: usize = 1024;
/// Pieces of what is revoked that are taken: with as many as go into each, far more than anybody keeps.
const PIECES_MAX: usize = 1 << 17;
/// How long a process may take to be gone after its sockets are.
const DEATH_TIMEOUT: Duration = Duration::from_secs(2);
const DEATH_LOOK: Duration = Duration::from_millis(10);

/// The process that serves until this one does.
pub struct Predecessor {
    link: Link,
    pid: u32,
    pub version: String,
    /// Several under one name are one listener's that a service manager passed on.
    sockets: Vec<(String, OwnedFd)>,
    known: Vec<Carried>,
    told: Told,
    pub without_keys: Vec<String>,
    pub shared_state: bool,
    alone: bool,
}

impl Predecessor {
    /// The one that waits at this socket, with all that it hands over. `None` when nobody is there.
    pub async fn find(socket: &Path, patience: Duration) -> Result<Option<Self>, String> {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
            Err(error) => return Err(format!("upgrade.socket {}: {error}", socket.display())),
        };
        let link = Link::new(stream);
        match link.user() {
            Ok(user) if user == own_user() => {}
            _ => return Err(format!("upgrade.socket {}: another user holds it", socket.display())),
        }
        Self::greet(link, patience).await.map(Some).map_err(|reason| format!("the running gate does not hand over: {reason}"))
    }

    async fn greet(link: Link, patience: Duration) -> Result<Self, String> {
        let (version, pid) = (env!("CARGO_PKG_VERSION").to_owned(), std::process::id());
        let hello = Message::Hello { protocols: PROTOCOLS.to_vec(), version, pid };
        link.send(&hello).await.map_err(|error| error.to_string())?;
        let (pid, version) = match next(&link, patience).await? {
            (Message::Welcome { protocol, version, pid }, _) if PROTOCOLS.contains(&protocol) => (pid, version),
            _ => return Err("it said something else than welcome".to_owned()),
        };
        let (mut sockets, mut known) = (Vec::new(), Vec::new());
        loop {
            match next(&link, STEP_TIMEOUT).await? {
                (Message::Socket { name }, Some(descriptor)) if sockets.len() < SOCKETS_MAX => {
                    sockets.push((name, descriptor));
                }
                (Message::Known(piece), _) if known.len() < PIECES_MAX => known.push(piece),
                (Message::Offered { without_keys, shared_state }, _) => {
                    let told = Told::default();
                    return Ok(Self { link, pid, version, sockets, known, told, without_keys, shared_state, alone: false });
                }
                _ => return Err("it said something that makes no sense".to_owned()),
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A socket of this name, each once.
    pub fn socket(&mut self, name: &str) -> Option<OwnedFd> {
        let found = self.sockets.iter().position(|(own, _)| own == name)?;
        Some(self.sockets.remove(found).1)
    }

    /// Those that a service manager passed on to it or to one before it.
    pub fn passed(&mut self) -> Vec<(String, OwnedFd)> {
        let passed = self.sockets.extract_if(.., |(name, _)| name.starts_with(super::PASSED));
        passed.map(|(name, socket)| (name[super::PASSED.len()..].to_owned(), socket)).collect()
    }

    /// The socket at which it waited, for the next one to find this process there.
    pub fn door(&mut self) -> Option<OwnedFd> {
        self.socket(super::DOOR_NAME)
    }

    /// Takes what is revoked.
    pub fn tell(&mut self, revocations: &Revocations) {
        for piece in std::mem::take(&mut self.known) {
            revocations.take_carried(piece, &mut self.told);
        }
    }

    /// While this process is not ready yet: returns with the other's reason if that takes its offer back, and without one if
    /// it died, so that this process had better serve.
    pub async fn breaks_off(&mut self) -> Result<(), String> {
        self.link.readable().await;
        match timeout(STEP_TIMEOUT, self.link.receive()).await {
            Ok(Ok(Some((Message::Refused { reason }, _)))) => Err(reason),
            Ok(Ok(Some(_))) => Err("it said something that makes no sense".to_owned()),
            _ => self.is_dead().await,
        }
    }

    /// Says why this process will not take over.
    pub async fn give_up(&self, reason: &str) {
        super::give::refuse(&self.link, reason).await;
    }

    /// Says that this process could serve now, and returns when it may.
    pub async fn prepared(&mut self, taken: Vec<String>, revocations: &Revocations) -> Result<(), String> {
        // What this process does not go on with is the other's to close.
        self.sockets.clear();
        if self.link.send(&Message::Prepared { taken }).await.is_err() {
            return self.is_dead().await;
        }
        loop {
            match timeout(STEP_TIMEOUT, self.link.receive()).await {
                Ok(Ok(Some((Message::Known(piece), _)))) => revocations.take_carried(piece, &mut self.told),
                Ok(Ok(Some((Message::Go, _)))) => return Ok(()),
                Ok(Ok(Some((Message::Refused { reason }, _)))) => return Err(reason),
                Ok(Ok(Some(_))) => return Err("it said something that makes no sense".to_owned()),
                Ok(Ok(None) | Err(_)) => return self.is_dead().await,
                Err(_) => return Err("it took too long".to_owned()),
            }
        }
    }

    /// Says that this process accepts, and returns when the other does no more.
    pub async fn serving(&mut self) -> Result<(), String> {
        if self.alone || self.link.send(&Message::Serving).await.is_err() {
            return self.is_dead().await;
        }
        match timeout(STEP_TIMEOUT, self.link.receive()).await {
            Ok(Ok(Some((Message::Leaving, _)))) => Ok(()),
            Ok(Ok(Some((Message::Refused { reason }, _)))) => Err(reason),
            Ok(Ok(Some(_))) => Err("it said something that makes no sense".to_owned()),
            Ok(Ok(None) | Err(_)) => self.is_dead().await,
            Err(_) => Err("it took too long".to_owned()),
        }
    }

    /// Whether it serves no more, after it ended without a word. This process then goes on by itself: it has the sockets.
    async fn is_dead(&mut self) -> Result<(), String> {
        if self.alone {
            return Ok(());
        }
        let gone = async {
            while !is_gone(self.pid) {
                sleep(DEATH_LOOK).await;
            }
        };
        match timeout(DEATH_TIMEOUT, gone).await {
            Ok(()) => {
                tracing::warn!(target: "wicketgate::handover", pid = self.pid, "the old process died in the middle; this one goes on by itself");
                self.alone = true;
                Ok(())
            }
            Err(_) => Err("it broke off".to_owned()),
        }
    }

    /// What the two go on telling each other over.
    pub fn into_link(self) -> (Link, Told) {
        (self.link, self.told)
    }
}

/// Whether a process has ended, also when nobody has asked for its exit code yet.
fn is_gone(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())) == Ok(1),
        Err(error) => error == Errno::SRCH,
    }
}

async fn next(link: &Link, patience: Duration) -> Result<(Message, Option<OwnedFd>), String> {
    match link.expect(patience).await {
        Ok((Message::Refused { reason }, _)) => Err(reason),
        Ok(received) => Ok(received),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err("it does not answer".to_owned()),
        Err(error) => Err(format!("it broke off: {error}")),
    }
}
