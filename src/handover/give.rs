//! The old process's side: it offers everything, waits until the new one is ready, and leaves once that serves.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::carried::tell;
use super::wire::{Link, Message, PROTOCOLS, STEP_TIMEOUT};
use crate::revocation::{Revocations, Told};

/// What is handed over.
pub struct Offer {
    /// Copies of the descriptors, by name.
    pub sockets: Vec<(String, OwnedFd)>,
    pub door: OwnedFd,
    pub without_keys: Vec<String>,
    pub shared_state: bool,
}

/// The process that serves now.
pub struct Successor {
    pub told: Told,
    pub pid: u32,
    pub version: String,
    /// Names of the sockets that it goes on with.
    pub taken: Vec<String>,
}

/// Hands over to the process at the other end, or says why nothing came of it.
pub async fn hand_over(link: &Link, offer: &Offer, revocations: &Revocations, patience: Duration) -> Result<Successor, String> {
    match steps(link, offer, revocations, patience).await {
        Ok((told, pid, version, taken)) => Ok(Successor { told, pid, version, taken }),
        Err(reason) => {
            refuse(link, &reason).await;
            Err(reason)
        }
    }
}

/// Tells who came that nothing comes of it: an end without a word would mean that this process has died.
pub async fn refuse(link: &Link, reason: &str) {
    let _ = tokio::time::timeout(STEP_TIMEOUT, link.send(&Message::Refused { reason: reason.to_owned() })).await;
}

/// Tells the new process that this one accepts no more. Whatever becomes of this word, that one serves.
pub async fn say_leaving(link: &Link) {
    let _ = bounded(STEP_TIMEOUT, link.send(&Message::Leaving)).await;
}

type Taken = (Told, u32, String, Vec<String>);

async fn steps(link: &Link, offer: &Offer, revocations: &Revocations, patience: Duration) -> Result<Taken, String> {
    let (pid, version) = greet(link).await?;
    let mut told = Told::default();
    let offering = async {
        for (name, socket) in &offer.sockets {
            link.send_with(&Message::Socket { name: name.clone() }, Some(socket.as_fd())).await?;
        }
        link.send_with(&Message::Socket { name: super::DOOR_NAME.to_owned() }, Some(offer.door.as_fd())).await?;
        tell(link, revocations, &mut told).await?;
        link.send(&Message::Offered { without_keys: offer.without_keys.clone(), shared_state: offer.shared_state }).await
    };
    bounded(patience, offering).await?;
    // The new one gives up first, and says why.
    let taken = match link.expect(patience + patience / 2).await {
        Ok((Message::Prepared { taken }, _)) => taken,
        Ok((Message::Refused { reason }, _)) => return Err(reason),
        Ok(_) => return Err("it said something else than that it is ready".to_owned()),
        Err(error) => return Err(ended(&error)),
    };
    bounded(STEP_TIMEOUT, async {
        tell(link, revocations, &mut told).await?;
        link.send(&Message::Go).await
    })
    .await?;
    match link.expect(STEP_TIMEOUT).await {
        Ok((Message::Serving, _)) => {}
        Ok((Message::Refused { reason }, _)) => return Err(reason),
        Ok(_) => return Err("it said something else than that it serves".to_owned()),
        Err(error) => return Err(ended(&error)),
    }
    Ok((told, pid, version, taken))
}

async fn greet(link: &Link) -> Result<(u32, String), String> {
    if std::process::id() == 1 {
        return Err("it is process 1, and the container would end with it: replace the container".to_owned());
    }
    let (protocols, version, pid) = match link.expect(STEP_TIMEOUT).await {
        Ok((Message::Hello { protocols, version, pid }, _)) => (protocols, version, pid),
        Ok(_) => return Err("it did not say hello".to_owned()),
        Err(error) => return Err(ended(&error)),
    };
    let common = PROTOCOLS.iter().copied().filter(|known| protocols.contains(known)).max();
    let protocol = common.ok_or_else(|| format!("it speaks protocols {protocols:?} and this process {PROTOCOLS:?}"))?;
    let welcome = Message::Welcome { protocol, version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
    bounded(STEP_TIMEOUT, link.send(&welcome)).await?;
    Ok((pid, version))
}

async fn bounded(patience: Duration, work: impl Future<Output = io::Result<()>>) -> Result<(), String> {
    match tokio::time::timeout(patience, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ended(&error)),
        Err(_) => Err("it took too long".to_owned()),
    }
}

fn ended(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "it ended before it was ready".to_owned()
        }
        io::ErrorKind::TimedOut => "it took too long".to_owned(),
        _ => error.to_string(),
    }
}
