//! The subcommands, and what each prints.
#![allow(clippy::print_stderr, reason = "this is the one place that talks to a terminal")]

/// Prints a line. A reader that has gone (`wicketgate check | head -1`) is no fault of the command.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{}\n", format_args!($($text)*)).as_bytes());
    }};
}

#[cfg(feature = "demo")]
mod demo;
mod drain;
mod explain;
mod healthcheck;
mod logto;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::app::{App, StartError};
use crate::config::{self, Span};
use crate::observe;
use crate::policy::{EndpointSource, Policy, Service};
use crate::reload::{Loaded, Source};
use crate::shutdown::Signals;

/// Exit codes, after sysexits.h: what a script or a supervisor can tell apart.
pub const EXIT_PENDING: u8 = 2;
pub const EXIT_USAGE: u8 = 64;
pub const EXIT_UNAVAILABLE: u8 = 69;
pub const EXIT_INTERNAL: u8 = 70;

#[cfg(feature = "demo")]
macro_rules! demo_example {
    () => {
        "  wicketgate demo --open                           watch the whole story in a browser, nothing to set up\n"
    };
}
#[cfg(not(feature = "demo"))]
macro_rules! demo_example {
    () => {
        ""
    };
}

const EXAMPLES: &str = concat!(
    "Examples:\n",
    demo_example!(),
    "  wicketgate check --config wicketgate.yaml        every fault of a configuration, or a summary of its routes
  wicketgate run --config wicketgate.yaml          serve
  wicketgate explain GET /forecast/oslo            what would happen to this request, and why
  wicketgate logto plan                            what is missing in Logto for this configuration; apply makes it so
  wicketgate schema > wicketgate.schema.json       for completion and checks in an editor

Exit codes: 0 good, 2 there is something to do (logto plan), 64 a fault in the configuration or the command line, 69 something needed is not there
(a port is taken, the issuer cannot be reached), 70 an internal error."
);

/// An authenticating reverse proxy: it lets a request through on the caller's own ticket.
#[derive(Debug, Parser)]
#[command(name = "wicketgate", version, about, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration
    #[arg(short, long, env = "WICKETGATE_CONFIG", default_value = "wicketgate.yaml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    #[command(
        after_help = "SIGHUP reloads; SIGTERM and SIGINT drain and end, a second one ends at once; SIGUSR2 starts this program anew, for it to take over."
    )]
    Run {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Report every fault of the configuration, or a summary of its routes
    #[command(after_help = "Exit code 0 when it could be served, 64 when not. Nothing is bound and no one is asked.")]
    Check {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Say what would happen to a request: route, each check, headers for the upstream, challenge for the caller
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::ExplainArguments),
    /// Show what Logto should hold for this configuration, and make it so
    #[command(subcommand)]
    Logto(logto::LogtoCommand),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Live the whole story in a browser: an official app, an agent, sign-in and consent, a service, the gate between them
    #[cfg(feature = "demo")]
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::DemoArguments),
    /// Ask a running gate whether it is alive (for a container's health check)
    Healthcheck(healthcheck::HealthcheckArguments),
    /// Tell a running gate to be unready, and wait until nobody new comes
    #[command(after_help = drain::EXAMPLES)]
    Drain(drain::DrainArguments),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// How a command ends badly.
pub(crate) enum Failed {
    /// Nothing failed, and there is something to do: what a script asks `logto plan` for.
    Pending,
    Usage(String),
    Unavailable(String),
    Internal(String),
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(faults) => Self::Usage(faults.to_string()),
            StartError::Unavailable(reason) => Self::Unavailable(reason),
            StartError::Internal(reason) => Self::Internal(reason),
        }
    }
}

/// Runs the command line. The one entry of the binary.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let (code, reason) = match run(arguments.command) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failed::Pending) => return ExitCode::from(EXIT_PENDING),
        Err(Failed::Usage(reason)) => (EXIT_USAGE, reason),
        Err(Failed::Unavailable(reason)) => (EXIT_UNAVAILABLE, reason),
        Err(Failed::Internal(reason)) => (EXIT_INTERNAL, reason),
    };
    eprintln!("{reason}");
    ExitCode::from(code)
}

fn run(command: Command) -> Result<(), Failed> {
    match command {
        Command::Run { config } => serve(config),
        Command::Check { config } => check(&config),
        Command::Explain(arguments) => in_runtime(explain::explain(arguments)),
        Command::Logto(command) => in_runtime(logto::logto(command)),
        Command::Schema => {
            say!("{:#}", config::json_schema().as_value());
            Ok(())
        }
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => in_runtime(demo::demo(arguments)),
        Command::Drain(arguments) => in_runtime(drain::drain(arguments)),
        Command::Healthcheck(arguments) => in_runtime(healthcheck::healthcheck(arguments)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "wicketgate", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// A runtime on all cores, with the one TLS provider of the process.
fn in_runtime<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    // It fails only when a provider is installed already, which is then this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failed::Internal(format!("no runtime: {error}")))?.block_on(work)
}

pub(crate) fn load(path: PathBuf) -> Result<(Source, Loaded), Failed> {
    let source = Source::new(path);
    let loaded = source.load().map_err(|faults| Failed::Usage(faults.to_string()))?;
    Ok((source, loaded))
}

fn serve(config: ConfigArgument) -> Result<(), Failed> {
    let huge_pages = rustix::thread::disable_transparent_huge_pages(true);
    let (source, loaded) = load(config.config)?;
    let log = Arc::new(observe::start_log(&loaded.policy.log).map_err(Failed::Internal)?);
    // An idle connection touches a few pages of buffers that are far larger, and in huge pages it would hold all of them: two
    // thirds more memory for 10,000 connections. The allocator asks for huge pages where the machine leaves it the choice.
    if let Err(error) = huge_pages {
        tracing::warn!(target: "wicketgate::app", %error, "huge pages cannot be turned off: idle connections take more memory");
    }
    raise_descriptor_limit(&loaded.policy);
    // Kept until the runtime is gone: requests that are cut off then still write their records.
    let handle = log.clone();
    let served = in_runtime(async {
        let signals = Signals::new().map_err(|error| Failed::Internal(error.to_string()))?;
        let app = App::start(source, loaded, Some(handle)).await?;
        app.run(signals).await;
        Ok(())
    });
    drop(log);
    served
}

/// A connection takes a descriptor, and one more to the upstream while it asks.
fn raise_descriptor_limit(policy: &Policy) {
    /// Idle connections to the upstream, listeners, the log, the issuers.
    const OTHERS: u64 = 1100;
    let needed = 2 * policy.limits.connections as u64 + OTHERS;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < needed => {
            tracing::warn!(target: "wicketgate::app", limit, needed, "fewer file descriptors than limits.connections may take")
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(target: "wicketgate::app", %error, "the limit of file descriptors cannot be raised"),
    }
}

fn check(config: &ConfigArgument) -> Result<(), Failed> {
    let (source, loaded) = load(config.config.clone())?;
    say!("{}{}: good", summary(&loaded.policy), source.path().display());
    Ok(())
}

/// The compiled routes as a table, and what the operator should know.
fn summary(policy: &Policy) -> String {
    let mut text = String::new();
    let listen: Vec<String> = policy.listeners.iter().map(ToString::to_string).collect();
    text.push_str(&format!("listen   {}\nadmin    {}\n", listen.join(" "), policy.admin));
    for issuer in &policy.issuers {
        text.push_str(&format!("issuer   {}\n", issuer.url));
    }
    if let Some(audit) = &policy.audit {
        text.push_str(&format!("audit    {}\n", audit.to));
    }
    for service in policy.services.iter().filter(|service| !service.own) {
        let path = if service.prefix.is_empty() { "/" } else { &service.prefix };
        text.push_str(&format!("\nservice  {}  {path} -> {}\n", service.name, service.upstream));
        text.push_str(&format!("resource {}\nmetadata {}\n", service.audiences.join(" "), service.metadata_url));
        if let Some(settings) = &service.introspection {
            let place = match &settings.endpoint {
                EndpointSource::Given(url) => url.as_str(),
                EndpointSource::Discovery(_) => "the endpoint in the issuer's metadata",
            };
            let age = Span(settings.max_age);
            text.push_str(&format!("opaque   tokens are asked about at {place}, as {}; an answer counts for {age}\n", settings.client_id));
        }
        if let Some(settings) = &service.consent {
            let age = Span(Duration::from_secs(settings.max_age.unsigned_abs()));
            let otherwise = match settings.max_stale {
                None => "refused".to_owned(),
                Some(seconds) => format!("what was known counts for {}", Span(Duration::from_secs(seconds.unsigned_abs()))),
            };
            text.push_str(&format!(
                "consent  of third-party apps' users is asked for at {}; an answer counts for {age}; without one: {otherwise}\n",
                settings.access.endpoint
            ));
        }
        let changes = service.rewriting.to_string();
        if !changes.is_empty() {
            text.push_str(&format!("changes  {changes}\n"));
        }
        if let Some(cors) = &service.cors {
            text.push_str(&format!("cors     {cors}\n"));
        }
        summarize_routes(&mut text, service);
    }
    text.push('\n');
    for warning in &policy.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn summarize_routes(text: &mut String, service: &Service) {
    let width = service.routes.iter().map(|route| route.key.chars().count()).max().unwrap_or(0);
    for route in &service.routes {
        let streams = if route.streams == crate::policy::Streams::Keep { "  (streams outlive their token)" } else { "" };
        let report = if route.mode == crate::policy::Mode::Report { "  (report only)" } else { "" };
        text.push_str(&format!("  {:width$}  {}{report}{streams}\n", route.key, route.requirement));
        if let Some(rule) = &route.client_certificate {
            text.push_str(&format!("  {:width$}  {rule}\n", ""));
        }
        if let Some(port) = route.redirect_to_https {
            text.push_str(&format!("  {:width$}  to https, port {port}, without TLS\n", ""));
        }
        for limit in &route.rate_limits.list {
            text.push_str(&format!("  {:width$}  at most {limit}\n", ""));
        }
        if *route.rewriting != *service.rewriting {
            let changes = route.rewriting.to_string();
            let changes = if changes.is_empty() { "nothing" } else { &changes };
            text.push_str(&format!("  {:width$}  changes {changes}\n", ""));
        }
        match &route.cors {
            Some(cors) if service.cors.as_ref().is_none_or(|all| all.origins != cors.origins) => {
                text.push_str(&format!("  {:width$}  cors {cors}\n", ""));
            }
            None if service.cors.is_some() => text.push_str(&format!("  {:width$}  cors of the upstream's own\n", "")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
