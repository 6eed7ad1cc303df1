//! A new process takes over from a running one: it is given the sockets and what was revoked, says when it is ready, and
//! serves; then the old one stops accepting and ends.
//!
//! **Invariant:** until the old process has heard that the new one serves, it serves as if nothing was. The sockets are
//! shared and never closed in between, so that no connection is refused or lost in a queue.
//!
//! ```text
//!   new                                   old
//!    │ Hello: the protocols that it speaks ▶│ checks the user, and that it is not going down
//!    │◀ Welcome                             │
//!    │◀ Socket, with its descriptor         │ once for each listener, what systemd passed on, the admin listener and this socket
//!    │◀ Known                               │ what is revoked, in pieces
//!    │◀ Offered                             │
//!    │ compiles, binds what is new, fetches keys; anything may fail, and nothing has happened then
//!    │ Prepared: which sockets it uses     ▶│
//!    │◀ Known                               │ what was revoked meanwhile
//!    │◀ Go                                  │
//!    │ accepts                              │ (both accept)
//!    │ Serving                             ▶│
//!    │◀ Leaving                             │ stops accepting, and ends its connections as in a shutdown
//!    │ ◀ Known, while the old one lives   ▶ │ what either of them revokes and lifts
//! ```

mod carried;
mod door;
mod give;
mod take;
mod wire;

pub use carried::follow;
pub use door::Door;
pub use give::{Offer, Successor, hand_over, refuse, say_leaving};
pub use take::Predecessor;
pub use wire::Link;

/// The name under which a listener is handed over.
pub fn listener_name(listen: &impl std::fmt::Display) -> String {
    format!("listen {listen}")
}

/// The name under which the admin listener is handed over.
pub fn admin_name(address: &impl std::fmt::Display) -> String {
    format!("admin {address}")
}

/// Before the names of sockets that a service manager passed on, in use or not.
const PASSED: &str = "passed ";

/// The name under which a socket that a service manager passed on is handed over.
pub fn passed_name(name: &str) -> String {
    format!("{PASSED}{name}")
}

/// The name of the socket over which all this goes.
const DOOR_NAME: &str = "upgrade";

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use tokio::net::UnixStream;

    use super::wire::{Link, Message, PROTOCOLS};
    use super::*;
    use crate::access::{Revocation, RevokedBy, Revokes};
    use crate::clock;
    use crate::config::Document;
    use crate::policy::{Policy, compile};
    use crate::revocation::Revocations;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn policy() -> Policy {
        let text = "issuer: https://i.example\nrevocations: { entries: 3 }\nservices:\n  - { name: a, resource: https://a.example, upstream: 'http://127.0.0.1:1', routes: { /x: public } }\n";
        let config = Document::read(text, &|_| None).config.unwrap();
        compile(&config, String::new(), &|_| Err(String::new())).unwrap()
    }

    fn pair() -> (Link, Link) {
        let (one, other) = UnixStream::pair().unwrap();
        (Link::new(one), Link::new(other))
    }

    fn descriptor() -> OwnedFd {
        UnixStream::pair().unwrap().0.as_fd().try_clone_to_owned().unwrap()
    }

    fn offer() -> Offer {
        let sockets = vec![("listen a".to_owned(), descriptor()), ("admin b".to_owned(), descriptor())];
        Offer { sockets, door: descriptor(), without_keys: vec!["https://i.example".to_owned()], shared_state: false }
    }

    fn hello(protocols: &[u32]) -> Message {
        Message::Hello { protocols: protocols.to_vec(), version: "0".to_owned(), pid: 7 }
    }

    fn revocation(subject: &str) -> Revocation {
        Revocation {
            revokes: Revokes::Subject(subject.to_owned()),
            by: RevokedBy::Operator,
            issuer: None,
            revoked_at: clock::unix_now(),
            later_too: false,
            expires_at: clock::unix_now() + 600,
        }
    }

    /// What a new process says, each after what it waits for.
    async fn new_process(link: Link, says: usize) {
        let all = [hello(PROTOCOLS), Message::Prepared { taken: vec!["listen a".to_owned()] }, Message::Serving];
        for message in all.iter().take(says) {
            link.send(message).await.unwrap();
            loop {
                match (message, link.receive().await.unwrap().unwrap().0) {
                    (Message::Hello { .. }, Message::Offered { .. }) | (Message::Prepared { .. }, Message::Go) => break,
                    (Message::Serving, Message::Leaving) => return,
                    _ => {}
                }
            }
        }
    }

    #[tokio::test]
    async fn the_old_process_leaves_when_the_new_one_serves_and_at_no_end_before() {
        let revocations = Revocations::new(&policy());
        for says in 0..=3 {
            let (old, new) = pair();
            let offer = offer();
            let handing = async {
                let outcome = hand_over(&old, &offer, &revocations, PATIENCE).await;
                if outcome.is_ok() {
                    say_leaving(&old).await;
                }
                outcome
            };
            let (outcome, ()) = tokio::join!(handing, new_process(new, says));
            match says {
                3 => {
                    let successor = outcome.unwrap();
                    assert_eq!((successor.pid, successor.taken), (7, vec!["listen a".to_owned()]));
                }
                _ => assert_eq!(outcome.map(|_| ()), Err("it ended before it was ready".to_owned()), "{says}"),
            }
        }
    }

    #[tokio::test]
    async fn a_process_of_another_protocol_is_told_so() {
        let (old, new) = pair();
        let (policy, offer) = (policy(), offer());
        let revocations = Revocations::new(&policy);
        let asking = async {
            new.send(&hello(&[99])).await.unwrap();
            new.receive().await.unwrap().unwrap().0
        };
        let (outcome, answer) = tokio::join!(hand_over(&old, &offer, &revocations, PATIENCE), asking);
        assert!(matches!(answer, Message::Refused { reason } if reason.contains("[99]")));
        assert!(outcome.is_err());
    }

    #[tokio::test]
    async fn a_new_process_that_takes_too_long_is_left_behind() {
        let (old, new) = pair();
        let (policy, offer) = (policy(), offer());
        let revocations = Revocations::new(&policy);
        let asking = async {
            new.send(&hello(PROTOCOLS)).await.unwrap();
            loop {
                if let Message::Refused { reason } = new.receive().await.unwrap().unwrap().0 {
                    return reason;
                }
            }
        };
        let (outcome, reason) = tokio::join!(hand_over(&old, &offer, &revocations, Duration::from_millis(500)), asking);
        assert_eq!((outcome.map(|_| ()), reason), (Err("it took too long".to_owned()), "it took too long".to_owned()));
    }

    /// A process that has ended and that nobody has waited for.
    fn dead_process() -> std::process::Child {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        child.kill().unwrap();
        child
    }

    /// A door behind which an old process of this id says so much, and then ends.
    async fn old_process(pid: u32, says: Vec<Message>) -> (tempfile::TempDir, Result<Option<Predecessor>, String>, Link) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        let door = Door::bind(&path).unwrap();
        let old = async {
            let link = door.knock().await;
            assert!(matches!(link.receive().await, Ok(Some((Message::Hello { .. }, None)))));
            let version = "0".to_owned();
            link.send(&Message::Welcome { protocol: PROTOCOLS[0], version, pid }).await.unwrap();
            for message in says {
                let descriptor = matches!(message, Message::Socket { .. }).then(descriptor);
                link.send_with(&message, descriptor.as_ref().map(AsFd::as_fd)).await.unwrap();
            }
            link
        };
        let (link, found) = tokio::join!(old, Predecessor::find(&path, PATIENCE));
        (directory, found, link)
    }

    fn offered() -> Message {
        Message::Offered { without_keys: Vec::new(), shared_state: false }
    }

    #[tokio::test]
    async fn a_new_process_goes_on_alone_when_the_old_one_died_and_not_when_it_broke_off() {
        let revocations = Revocations::new(&policy());
        let mut dead = dead_process();
        for (pid, alone) in [(dead.id(), true), (std::process::id(), false)] {
            for step in 0..3 {
                let (_directory, found, link) = old_process(pid, vec![Message::Socket { name: "listen a".to_owned() }, offered()]).await;
                let mut predecessor = found.unwrap().unwrap();
                assert!(predecessor.socket("listen a").is_some() && predecessor.socket("listen a").is_none());
                let taken = vec!["listen a".to_owned()];
                let outcome = match step {
                    0 => {
                        drop(link);
                        predecessor.breaks_off().await
                    }
                    1 => {
                        drop(link);
                        predecessor.prepared(taken, &revocations).await
                    }
                    _ => {
                        link.send(&Message::Go).await.unwrap();
                        predecessor.prepared(taken, &revocations).await.unwrap();
                        drop(link);
                        predecessor.serving().await
                    }
                };
                assert_eq!(outcome.is_ok(), alone, "{step} {outcome:?}");
            }
        }
        dead.wait().unwrap();
    }

    #[tokio::test]
    async fn a_new_process_ends_when_the_offer_is_not_whole_or_is_taken_back() {
        for says in [vec![], vec![Message::Go], vec![Message::Socket { name: "listen a".to_owned() }]] {
            let (directory, path) = (tempfile::tempdir().unwrap(), "upgrade.sock");
            let door = Door::bind(&directory.path().join(path)).unwrap();
            let old = async {
                let link = door.knock().await;
                for message in says {
                    link.send(&message).await.unwrap();
                }
            };
            let path = directory.path().join(path);
            let ((), found) = tokio::join!(old, Predecessor::find(&path, PATIENCE));
            assert!(found.is_err());
        }
        let (_directory, found, link) = old_process(7, vec![offered()]).await;
        let mut predecessor = found.unwrap().unwrap();
        link.send(&Message::Refused { reason: "it is going down".to_owned() }).await.unwrap();
        assert_eq!(predecessor.breaks_off().await, Err("it is going down".to_owned()));
    }

    #[tokio::test]
    async fn nobody_at_the_socket_is_no_error_and_a_file_that_is_none_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        assert!(matches!(Predecessor::find(&path, PATIENCE).await, Ok(None)));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(Predecessor::find(&path, PATIENCE).await, Ok(None)));
        let door = Door::bind(&path).unwrap();
        drop(door);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(Door::bind(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn what_either_side_revokes_or_lifts_the_other_hears_of_and_none_is_forgotten_for_want_of_room() {
        let (policy, mut told) = (policy(), crate::revocation::Told::default());
        let (mine, yours) = (Revocations::new(&policy), Revocations::new(&policy));
        for subject in ["a", "b", "c"] {
            mine.put(revocation(subject)).await.unwrap();
        }
        yours.put(revocation("x")).await.unwrap();
        mine.note_seen([9; 32]);
        mine.unsuspend(None, "u", 5_000).await.unwrap();
        let (one, other) = pair();
        let mut heard = crate::revocation::Told::default();
        for piece in mine.untold_to(&mut told) {
            yours.take_carried(piece, &mut heard);
        }
        assert_eq!(yours.list().len(), 4, "one more than there is room for");
        assert!(yours.has_seen(&[9; 32]));
        assert!(mine.untold_to(&mut told).is_empty());

        let both = async {
            tokio::join!(follow(&one, &mine, told), follow(&other, &yours, heard));
        };
        let told_by_both = async {
            let (mut here, mut there) = (mine.changes(), yours.changes());
            let subjects = |revocations: &Revocations| {
                let mut list: Vec<String> = revocations.list().into_iter().map(|entry| format!("{:?}", entry.revokes)).collect();
                list.sort();
                list
            };
            mine.lift(&revocation("a").id()).await.unwrap();
            while subjects(&mine) != subjects(&yours) || mine.list().len() != 3 {
                tokio::select! {
                    _ = here.changed() => {}
                    _ = there.changed() => {}
                }
            }
            yours.lift(&revocation("x").id()).await.unwrap();
            while mine.list().len() != 2 {
                here.changed().await.unwrap();
            }
            assert_eq!(subjects(&mine), subjects(&yours));
        };
        tokio::select! {
            () = both => panic!("both live"),
            () = told_by_both => {}
        }
    }
}
