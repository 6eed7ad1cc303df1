//! A new process in the place of a running one: what this process takes from the one before it, and what it leaves to the
//! one after it.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{App, StartError};
use crate::handover::{
    Door, Link, Offer, Predecessor, Successor, admin_name, follow, hand_over, listener_name, passed_name, refuse, say_leaving,
};
use crate::observe::AdminView;
use crate::policy::{Listen, Policy};
use crate::proxy::{Gate, Inherited};
use crate::shutdown::{Signals, Wish};
use crate::systemd;

/// How long the shared state may take to be there, if it was there for the process before.
const SHARED_STATE_PATIENCE: Duration = Duration::from_secs(2);
const SHARED_STATE_LOOK: Duration = Duration::from_millis(10);

/// What a process that starts has of the one that runs, if one does.
pub(super) struct Succession {
    predecessor: Option<Predecessor>,
    taken: Vec<String>,
    patience: Duration,
}

impl Succession {
    pub async fn find(policy: &Policy) -> Result<Self, StartError> {
        let Some(upgrade) = &policy.upgrade else {
            return Ok(Self { predecessor: None, taken: Vec::new(), patience: Duration::ZERO });
        };
        let predecessor = Predecessor::find(&upgrade.socket, upgrade.timeout).await.map_err(StartError::Unavailable)?;
        if let Some(found) = &predecessor {
            tracing::info!(target: "wicketgate::handover", pid = found.pid(), version = found.version, "a running gate hands over");
        }
        Ok(Self { predecessor, taken: Vec::new(), patience: upgrade.timeout })
    }

    /// The listeners that stay, and the admin listener's; what is revoked is in force in the gate when this returns.
    pub fn inherit(&mut self, gate: &Gate, policy: &Policy) -> (Inherited, Option<OwnedFd>) {
        let mut inherited = Inherited::default();
        let Some(predecessor) = &mut self.predecessor else { return (inherited, None) };
        predecessor.tell(&gate.revocations);
        for listen in policy.listeners.iter().map(|listener| &listener.address) {
            let name = listener_name(listen);
            let before = self.taken.len();
            while let Some(socket) = predecessor.socket(&name) {
                inherited.put(listen, socket);
                self.taken.truncate(before);
                self.taken.push(name.clone());
            }
        }
        inherited.put_passed(predecessor.passed());
        let name = admin_name(&policy.admin);
        let admin = predecessor.socket(&name);
        self.taken.extend(admin.is_some().then_some(name));
        (inherited, admin)
    }

    /// Where the next process finds this one.
    pub fn door(&mut self, policy: &Policy) -> Result<Option<Door>, StartError> {
        let Some(upgrade) = &policy.upgrade else { return Ok(None) };
        let door = match self.predecessor.as_mut().and_then(Predecessor::door) {
            Some(socket) => Door::inherit(&upgrade.socket, socket),
            None => Door::bind(&upgrade.socket),
        };
        door.map(Some).map_err(StartError::Unavailable)
    }

    /// Returns when this process may serve: it has what a request needs, and the other is ready to leave.
    pub async fn go(&mut self, gate: &Gate) -> Result<(), StartError> {
        let Some(predecessor) = &mut self.predecessor else { return Ok(()) };
        let without = predecessor.without_keys.clone();
        let outcome = tokio::select! {
            keys = timeout(self.patience, gate.keys_had(&without)) => keys,
            broken = predecessor.breaks_off() => match broken {
                Ok(()) => Ok(()),
                Err(reason) => return Err(StartError::Unavailable(format!("the running gate takes its offer back: {reason}"))),
            },
        };
        if outcome.is_err() {
            let issuers = gate.without_keys().join(" ");
            let reason = format!("no keys of {issuers} within {:?}; the running gate goes on", self.patience);
            predecessor.give_up(&reason).await;
            return Err(StartError::Unavailable(reason));
        }
        if predecessor.shared_state && gate.shared().is_some() {
            let is_up = async {
                while !gate.shared().is_some_and(|shared| shared.is_up()) {
                    sleep(SHARED_STATE_LOOK).await;
                }
            };
            let _ = timeout(SHARED_STATE_PATIENCE, is_up).await;
        }
        let prepared = predecessor.prepared(std::mem::take(&mut self.taken), &gate.revocations).await;
        prepared.map_err(|reason| StartError::Unavailable(format!("the running gate goes on: {reason}")))
    }

    /// After this process began to serve: returns when the other accepts no more.
    pub async fn finish(self, gate: &std::sync::Arc<Gate>) -> Result<(), StartError> {
        let Some(mut predecessor) = self.predecessor else { return Ok(()) };
        predecessor.serving().await.map_err(|reason| StartError::Unavailable(format!("the running gate goes on: {reason}")))?;
        tracing::info!(target: "wicketgate::handover", pid = predecessor.pid(), "took over from the old process");
        let (link, told) = predecessor.into_link();
        let revocations = gate.revocations.clone();
        tokio::spawn(async move { follow(&link, &revocations, told).await });
        Ok(())
    }
}

impl App {
    /// Who comes to take over, if somebody may.
    pub(super) async fn knock(door: Option<&Door>) -> Link {
        match door {
            Some(door) => door.knock().await,
            None => std::future::pending().await,
        }
    }

    /// Hands over to who came and ends, or goes on as if nothing was. Whether it ended.
    pub(super) async fn succeed(&mut self, link: Link, signals: &mut Signals) -> bool {
        let Some(patience) = self.gate.snapshot().policy.upgrade.as_ref().map(|upgrade| upgrade.timeout) else { return false };
        let offer = match self.offer() {
            Ok(offer) => offer,
            Err(error) => {
                refuse(&link, &error.to_string()).await;
                tracing::error!(target: "wicketgate::handover", %error, "nothing could be handed over");
                return false;
            }
        };
        let (revocations, mut reload, mut shutdown) = (self.gate.revocations.clone(), false, None);
        let outcome = {
            let handing = hand_over(&link, &offer, &revocations, patience);
            tokio::pin!(handing);
            loop {
                tokio::select! {
                    outcome = &mut handing => break Some(outcome),
                    wish = signals.next() => match wish {
                        // What is handed over must not change meanwhile.
                        Wish::Reload => reload = true,
                        Wish::Upgrade => {}
                        Wish::Shutdown(signal) => {
                            shutdown = Some(signal);
                            break None;
                        }
                    },
                }
            }
        };
        drop(offer);
        match outcome {
            Some(Ok(successor)) => {
                self.leave(successor, link, signals).await;
                return true;
            }
            Some(Err(reason)) => {
                tracing::error!(target: "wicketgate::handover", reason, "the new process did not take over; this one goes on");
            }
            None => refuse(&link, "it is going down").await,
        }
        drop(link);
        if let Some(signal) = shutdown {
            self.end(signal, signals).await;
            return true;
        }
        if reload {
            self.reload("SIGHUP").await;
        }
        false
    }

    fn offer(&self) -> std::io::Result<Offer> {
        let door = self.door.as_ref().ok_or(std::io::ErrorKind::NotConnected)?.descriptor().try_clone_to_owned()?;
        let listeners = self.listeners.sockets()?;
        let mut sockets: Vec<(String, OwnedFd)> = listeners.into_iter().map(|(listen, socket)| (listener_name(&listen), socket)).collect();
        sockets.extend(self.listeners.passed()?.into_iter().map(|(name, socket)| (passed_name(&name), socket)));
        if let Some(admin) = &self.admin {
            sockets.push((admin_name(&self.admin_wanted), admin.socket()?));
        }
        let shared_state = self.gate.shared().is_some_and(|shared| shared.is_up());
        Ok(Offer { sockets, door, without_keys: self.gate.without_keys(), shared_state })
    }

    /// Ends as in a shutdown, but at once: clients that come find the new process.
    async fn leave(&mut self, successor: Successor, link: Link, signals: &mut Signals) {
        let Successor { told, pid, version, taken } = successor;
        let policy = self.gate.snapshot().policy.clone();
        systemd::succeeded_by(pid);
        tracing::info!(target: "wicketgate::app", pid, version, deadline = ?policy.shutdown_deadline, "handed over to a new process");
        if let Some(door) = self.door.take() {
            door.leave();
        }
        match taken.contains(&admin_name(&self.admin_wanted)) {
            true => self.admin = None,
            false => self.gate.health.set_draining(),
        }
        let handed_over: Vec<Listen> = self.listeners.names().filter(|listen| taken.contains(&listener_name(listen))).cloned().collect();
        self.listeners.leave(&handed_over);
        say_leaving(&link).await;
        let revocations = self.gate.revocations.clone();
        let telling = tokio::spawn(async move { follow(&link, &revocations, told).await });
        tokio::select! {
            () = self.wait_for_the_last() => {}
            () = super::asked(signals, 2) => tracing::warn!(target: "wicketgate::app", "asked twice: going down at once"),
        }
        telling.abort();
    }

    /// Starts the program anew, with the same command line: it finds this process at its upgrade socket.
    pub(super) fn start_anew(&self) {
        if self.gate.snapshot().policy.upgrade.is_none() {
            tracing::warn!(target: "wicketgate::handover", "SIGUSR2 without the key upgrade in the configuration: nothing to do");
            return;
        }
        let mut arguments = std::env::args_os();
        let Some(program) = arguments.next() else { return };
        let mut command = Command::new(program);
        // systemd's watchdog is meant for whichever process is the main one.
        command.args(arguments).env_remove("WATCHDOG_PID");
        match command.spawn() {
            Err(error) => tracing::error!(target: "wicketgate::handover", %error, "the new process could not be started; this one goes on"),
            Ok(mut child) => {
                tracing::info!(target: "wicketgate::handover", pid = child.id(), "a new process was started");
                // A thread of its own, which nobody waits for: the child outlives this process if all goes well.
                std::thread::spawn(move || {
                    let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                    tracing::error!(target: "wicketgate::handover", status, "the new process ended");
                });
            }
        }
    }
}
