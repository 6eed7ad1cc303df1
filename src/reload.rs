//! Reading the configuration from the disk, and noticing that it changed.
//!
//! The content is compared, not the file's dates and not by a watch: a watch on a file goes deaf once Kubernetes swaps
//! the directory that a ConfigMap's files point into. A changed content must look the same twice before it is taken,
//! so that a half-written file is not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::{ConfigErrors, Document, Fault, Place};
use crate::keys::KeySet;
use crate::policy::{Files, KeySource, Policy, compile};
use crate::proxy;
use crate::state;

/// The largest file that is read: a configuration, a key set, a certificate, a secret.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the configuration is.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
}

/// A policy, and how to notice that what it was made from changed.
#[derive(Debug)]
pub struct Loaded {
    pub policy: Policy,
    pub files: Vec<PathBuf>,
    pub seen: [u8; 32],
}

/// What was found on the disk, good or not.
#[derive(Debug)]
pub struct Reading {
    pub result: Result<Policy, ConfigErrors>,
    /// The files that the document names, whether they could be read or not.
    pub files: Vec<PathBuf>,
    /// What [`Source::look`] says of exactly the content that was read.
    pub seen: [u8; 32],
}

impl Source {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Reads and compiles. Every fault of the document and of the files that it names is in the error.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let Reading { result, files, seen } = self.read();
        Ok(Loaded { policy: result?, files, seen })
    }

    /// The same for who watches: a refused document is worth reading again when a file changes that it names.
    pub fn read(&self) -> Reading {
        let bytes = read_file(&self.path);
        let read: RefCell<BTreeMap<PathBuf, Vec<u8>>> = RefCell::default();
        let files = |named: &str| {
            let path = self.beside(named);
            let content = read_file(&path);
            read.borrow_mut().insert(path, or_reason(content.clone()));
            content
        };
        let result = self.compile(&bytes, &files);
        let read = read.into_inner();
        let seen = fingerprint(&or_reason(bytes), &read);
        let result = result.map(|policy| Policy { hash: hex(&seen), ..policy });
        Reading { result, files: read.into_keys().collect(), seen }
    }

    fn compile(&self, bytes: &Result<Vec<u8>, String>, files: Files<'_>) -> Result<Policy, ConfigErrors> {
        let name = self.name();
        let whole = |reason: &str| ConfigErrors::new(&name, vec![whole_file(reason)]);
        let bytes = bytes.as_ref().map_err(|reason| whole(reason))?;
        let text = std::str::from_utf8(bytes).map_err(|_| whole("the file is not UTF-8 text"))?;
        let document = Document::read(text, &|name| std::env::var(name).ok());
        let Some(config) = &document.config else { return Err(document.into_errors(&name, Vec::new())) };
        match compile(config, String::new(), files) {
            Err(faults) => Err(document.into_errors(&name, faults)),
            Ok(policy) => match unusable(&policy) {
                faults if faults.is_empty() && !document.has_faults() => Ok(policy),
                faults => Err(document.into_errors(&name, faults)),
            },
        }
    }

    /// The admin address alone, from a document that may have faults elsewhere: who asks a running gate whether it is
    /// well must not fail over an edit that the gate has refused.
    pub fn admin(&self) -> Option<String> {
        let bytes = read_file(&self.path).ok()?;
        let document = Document::read(std::str::from_utf8(&bytes).ok()?, &|name| std::env::var(name).ok());
        document.config.map(|config| config.admin)
    }

    /// A fingerprint of what is on the disk now: equal content, equal fingerprint.
    pub fn look(&self, files: &[PathBuf]) -> [u8; 32] {
        let content = |path: &Path| or_reason(read_file(path));
        let files = files.iter().map(|path| (path.clone(), content(path))).collect();
        fingerprint(&content(&self.path), &files)
    }

    /// Names in the document are relative to its directory.
    fn beside(&self, named: &str) -> PathBuf {
        self.path.parent().map_or_else(|| PathBuf::from(named), |directory| directory.join(named))
    }
}

/// A file that cannot be read counts as one that says so.
fn or_reason(content: Result<Vec<u8>, String>) -> Vec<u8> {
    content.unwrap_or_else(|reason| reason.into_bytes())
}

/// What only using a policy would find: keys in files without a usable one, and a certificate that does not fit its key.
fn unusable(policy: &Policy) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, issuer) in policy.issuers.iter().enumerate() {
        if let KeySource::File(bytes) = &issuer.source
            && let Err(reason) = KeySet::parse(bytes, policy.limits.key_count)
        {
            let trail = vec!["issuer".to_owned(), i.to_string(), "jwks_file".to_owned()];
            faults.push(Fault::new(trail, format!("{}: {reason}", issuer.url), "put the issuer's public signature keys into it"));
        }
    }
    if let Err(reason) = state::check(policy) {
        let trail = vec!["state".to_owned()];
        faults.push(Fault::new(trail, reason, "write it as in redis://:password@redis.internal:6379/0, and name authorities as PEM"));
    }
    for (i, reason) in proxy::check_upstreams(policy) {
        let trail = ["services", &i.to_string(), "upstream", "tls"].map(str::to_owned).to_vec();
        faults.push(Fault::new(trail, reason, "name PEM files: authorities, a chain, and the private key that belongs to it"));
    }
    if let Err(reason) = proxy::check_tls(policy) {
        faults.push(Fault::new(vec!["tls".to_owned()], reason, "name a PEM chain and the private key that belongs to it"));
    }
    faults
}

/// A fault of the file itself.
fn whole_file(reason: &str) -> Fault {
    let cure = match reason {
        MISSING => "name one with --config or WICKETGATE_CONFIG; config.example.yaml has every key",
        _ => "the configuration is one YAML file of at most a megabyte",
    };
    Fault { place: Some(Place { line: 1, column: 1 }), ..Fault::new(Vec::new(), reason, cure) }
}

const MISSING: &str = "there is no such file";

/// Reads a regular file of bounded size.
fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let open = || {
        // The kind is asked first: opening a pipe would wait for its writer.
        let kind = std::fs::metadata(path)?;
        match kind.is_file() {
            true => File::open(path).map(Some),
            false => Ok(None),
        }
    };
    let file = open().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => MISSING.to_owned(),
        kind => format!("the file cannot be read: {kind}"),
    })?;
    let Some(file) = file else { return Err("not a file".to_owned()) };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("the file cannot be read: {}", error.kind()))?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(format!("the file is larger than {FILE_BYTES_MAX} bytes")),
        false => Ok(bytes),
    }
}

fn fingerprint(document: &[u8], files: &BTreeMap<PathBuf, Vec<u8>>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    add(document);
    for (path, bytes) in files {
        add(path.as_os_str().as_encoded_bytes());
        add(bytes);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
