//! The places that records go to: standard output, a file, a syslog server.

use std::io::{self, Write};
use std::time::Duration;

use super::file::RotatingFile;
use super::queue::Line;
use super::syslog::Syslog;
use crate::policy::AuditTo;

/// Why a record was not written.
#[derive(Debug)]
pub enum Trouble {
    /// The place fails: it may work again.
    Place(io::Error),
    /// This record will never be taken there.
    Record,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Place(error)
    }
}

/// An open place.
#[derive(Debug)]
pub struct Sink {
    to: AuditTo,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Stdout,
    File(RotatingFile),
    Syslog(Syslog),
}

impl Sink {
    /// Opens a file, so that one that cannot be is found before it is needed. A syslog server is asked when there is
    /// something to say: one that is away for a moment is no reason not to start.
    pub fn open(to: &AuditTo) -> io::Result<Self> {
        let kind = match to {
            AuditTo::Stdout => Kind::Stdout,
            AuditTo::File { path, rotate_bytes, keep } => Kind::File(RotatingFile::open(path, *rotate_bytes, *keep)?),
            AuditTo::Syslog { server, facility } => Kind::Syslog(Syslog::new(server.clone(), *facility)),
        };
        Ok(Self { to: to.clone(), kind })
    }

    pub fn to(&self) -> &AuditTo {
        &self.to
    }

    pub fn write(&mut self, line: &Line) -> Result<(), Trouble> {
        match &mut self.kind {
            // The whole line under one lock: it never mixes with the log's.
            Kind::Stdout => Ok(io::stdout().write_all(&line.json)?),
            Kind::File(file) => Ok(file.write(&line.json)?),
            Kind::Syslog(syslog) => syslog.write(line),
        }
    }

    pub fn reopen(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stdout => Ok(()),
            Kind::File(file) => file.reopen(),
            Kind::Syslog(syslog) => {
                syslog.disconnect();
                Ok(())
            }
        }
    }

    /// How long until `sync` has something to do.
    pub fn rest(&self) -> Option<Duration> {
        match &self.kind {
            Kind::File(file) => file.rest(),
            Kind::Stdout | Kind::Syslog(_) => None,
        }
    }

    pub fn sync(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::File(file) => file.sync(),
            Kind::Stdout | Kind::Syslog(_) => Ok(()),
        }
    }
}
