//! The binary itself, as a process of its own: for what only a process has, signals, exit codes and standard output.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::support::{self, Answer, Ask, soon, until};

type Lines = Arc<Mutex<Vec<String>>>;

/// A running `wicketgate run`. It is killed when the test ends before it does.
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    pub directory: Arc<TempDir>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    has_heir: AtomicBool,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it with this configuration and waits until it says that it serves.
    pub async fn run(yaml: &str) -> Self {
        Self::spawn(yaml).serving().await
    }

    /// Starts it and waits for nothing.
    pub fn spawn(yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("wicketgate.yaml"), yaml).unwrap();
        Self::spawn_in(Arc::new(directory), "wicketgate.yaml", &[])
    }

    /// Starts another one with the configuration that stands there now, and waits for nothing.
    pub fn another(&self) -> Self {
        Self::spawn_in(self.directory.clone(), "wicketgate.yaml", &[])
    }

    /// Starts it with a socket that it finds at descriptor 3 under this name, as systemd passes one on.
    pub fn spawn_activated(yaml: &str, name: &str, socket: std::net::TcpListener) -> Self {
        const PASS_ON: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let directory = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(directory.path().join("wicketgate.yaml"), yaml).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", PASS_ON]).arg(wicketgate().get_program()).stdin(std::os::fd::OwnedFd::from(socket));
        command.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", name)]);
        Self::start(command, directory, "wicketgate.yaml")
    }

    /// The same with a file of its own, and with something in its environment.
    pub fn spawn_in(directory: Arc<TempDir>, file: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = wicketgate();
        command.envs(environment.iter().copied());
        Self::start(command, directory, file)
    }

    fn start(mut command: Command, directory: Arc<TempDir>, file: &str) -> Self {
        command.arg("run").arg("--config").arg(directory.path().join(file)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (read_lines(child.stdout.take().unwrap()), read_lines(child.stderr.take().unwrap()));
        let nowhere = support::loopback();
        Self { child, stdout, stderr, directory, address: nowhere, admin: nowhere, has_heir: AtomicBool::new(false) }
    }

    /// Waits until it says that it serves.
    pub async fn serving(mut self) -> Self {
        until("the process says that it serves", || async { self.line("serving").is_some() }).await;
        let serving = self.line("serving").unwrap();
        let listen = serving["listen"].as_str().unwrap().split(' ').find_map(|listen| listen.parse().ok());
        self.address = listen.unwrap();
        self.admin = serving["admin"].as_str().unwrap().parse().unwrap();
        self
    }

    /// Waits until it has its keys.
    pub async fn ready(self) -> Self {
        until("the process has its keys", || async { self.admin("/readyz").await.status == 200 }).await;
        self
    }

    pub fn get(&self, target: &str) -> Ask {
        Ask::new(self.address, "GET", target)
    }

    pub async fn admin(&self, target: &str) -> Answer {
        Ask::new(self.admin, "GET", target).send().await
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        self.has_heir.fetch_or(name == "USR2", Ordering::Relaxed);
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &self.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// All that it has printed so far.
    pub fn output(&self) -> String {
        [&self.stdout, &self.stderr].map(|lines| lines.lock().unwrap().join("\n")).join("\n")
    }

    /// The log's lines so far.
    pub fn log(&self) -> Vec<Value> {
        self.stdout
            .lock()
            .unwrap()
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}")))
            .collect()
    }

    /// The first line with this message.
    pub fn line(&self, message: &str) -> Option<Value> {
        self.log().into_iter().find(|line| line["message"] == message)
    }

    /// Another configuration in the place of the old one.
    pub fn write(&self, yaml: &str) {
        let (new, path) = (self.directory.path().join("new"), self.directory.path().join("wicketgate.yaml"));
        std::fs::write(&new, yaml).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    /// Waits until it has ended, and all that it printed is read: its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let code = soon("the process ends", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        // A process that it started itself prints to the same place, and goes on.
        if !self.has_heir.load(Ordering::Relaxed) {
            let read = || [&self.stdout, &self.stderr].iter().all(|lines| Arc::strong_count(lines) == 1);
            until("its last words are read", async || read()).await;
        }
        code
    }
}

fn read_lines(stream: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let read = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            read.lock().unwrap().push(line);
        }
    });
    lines
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a subcommand to its end, with this on standard input.
pub async fn command(arguments: &[&str], stdin: &str) -> Ended {
    let mut command = wicketgate();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let stdin = stdin.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // A command that does not read it may have closed it.
        let _ = input.write_all(stdin.as_bytes());
        drop(input);
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        Ended { code: child.wait().unwrap().code(), stdout, stderr: errors.join().unwrap() }
    });
    soon("the command ends", work).await.unwrap()
}

/// The binary, without what this environment would tell it.
fn wicketgate() -> Command {
    let binary = std::env::var_os("WICKETGATE_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_wicketgate").into());
    let mut command = Command::new(binary);
    command.env_remove("WICKETGATE_CONFIG").env_remove("WICKETGATE_TOKEN");
    command
}
