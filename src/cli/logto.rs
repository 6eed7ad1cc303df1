//! `logto plan` and `logto apply`: what the tenant should hold against what it holds, as a diff, and made so.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{ConfigArgument, Failed};
use crate::logto::{Line, LogtoError, ManagementApi, Plan, Progress, Secrets, Step, plan};
use crate::policy::{AppKind, Logto};

pub const EXAMPLES: &str = "\
Examples:
  wicketgate logto plan                          what is missing or differs; changes nothing
  wicketgate logto apply --secrets-file new.json make it so, and keep the secrets of the apps that were made
  wicketgate logto apply --prune --yes           take away, too, what the configuration does not name

Exit codes: 0 nothing to do or done, 2 plan: there is something to do, 64 a fault in the configuration or the command
line, 69 Logto cannot be reached, refuses, or holds something that no step can change.

--prune takes away, and only this: scopes of the resources that the configuration names, from these resources, roles and
apps; redirect URIs and user scopes of apps that it names; apps that apply made and that can ask for these resources alone.
Resources, roles, users and first-party apps are never deleted.";

#[derive(Debug, Subcommand)]
pub enum LogtoCommand {
    /// Show what is missing in Logto or differs from the configuration
    #[command(after_help = EXAMPLES)]
    Plan(PlanArguments),
    /// Make it so; a second time there is nothing to do
    #[command(after_help = EXAMPLES)]
    Apply(ApplyArguments),
}

#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Count what --prune would take away as something to do
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, Args)]
pub struct ApplyArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// One JSON object at the end instead of a line a step; never a secret in it
    #[arg(long)]
    json: bool,
    /// Take away what the configuration does not name; asks for --yes
    #[arg(long)]
    prune: bool,
    /// The plan was read: take away what it shows
    #[arg(long, requires = "prune")]
    yes: bool,
    /// Print the secret of each app that is made, once
    #[arg(long, conflicts_with = "json")]
    show_secrets: bool,
    /// Write the secret of each app that is made to a new file that only its owner can read
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
}

pub async fn logto(command: LogtoCommand) -> Result<(), Failed> {
    match command {
        LogtoCommand::Plan(arguments) => show(arguments).await,
        LogtoCommand::Apply(arguments) => apply(arguments).await,
    }
}

async fn compare(config: &Path) -> Result<(ManagementApi, Plan), Failed> {
    let (_, loaded) = super::load(config.to_owned())?;
    let Some(Logto { access, tenant, .. }) = loaded.policy.logto.clone() else {
        let config = config.display();
        let missing = format!("{config}: no logto: in it; add endpoint, app_id and app_secret (config.example.yaml shows them)");
        return Err(Failed::Usage(missing));
    };
    let api = ManagementApi::new(access).map_err(unavailable)?;
    let actual = api.read(&tenant).await.map_err(unavailable)?;
    let plan = plan(&tenant, &actual);
    Ok((api, plan))
}

fn unavailable(error: LogtoError) -> Failed {
    Failed::Unavailable(error.to_string())
}

fn conflicts(plan: &Plan) -> Result<(), Failed> {
    match plan.conflicts.is_empty() {
        true => Ok(()),
        false => Err(Failed::Unavailable(plan.conflicts.join("\n"))),
    }
}

fn lines(steps: &[Step]) -> Vec<Line> {
    steps.iter().map(Step::line).collect()
}

async fn show(arguments: PlanArguments) -> Result<(), Failed> {
    let (_, plan) = compare(&arguments.config.config).await?;
    let (mut changes, mut left) = (lines(&plan.steps), lines(&plan.extra));
    if arguments.prune {
        changes.append(&mut left);
    }
    if arguments.json {
        say!("{:#}", json!({ "changes": changes, "left_alone": left, "conflicts": plan.conflicts }));
    } else {
        changes.iter().for_each(|line| say!("{line}"));
        left.iter().for_each(|line| say!("{line}  left alone (use --prune)"));
        match changes.len() {
            0 => say!("nothing to do"),
            count => say!("{count} to do; wicketgate logto apply makes it so"),
        }
    }
    conflicts(&plan)?;
    match changes.is_empty() {
        true => Ok(()),
        false => Err(Failed::Pending),
    }
}

async fn apply(arguments: ApplyArguments) -> Result<(), Failed> {
    let (api, plan) = compare(&arguments.config.config).await?;
    conflicts(&plan)?;
    let pruned = if arguments.prune { plan.extra.as_slice() } else { &[] };
    if !pruned.is_empty() && !arguments.yes {
        pruned.iter().for_each(|step| say!("{}", step.line()));
        return Err(Failed::Usage(format!("--prune would take away {}; read the lines above, then add --yes", pruned.len())));
    }
    let mut report = Report::new(&arguments, &plan)?;
    let mut progress = Progress::new(&api, &plan);
    let mut failed = None;
    for step in plan.steps.iter().chain(pruned) {
        if let Err(error) = make(&api, &mut progress, step, &mut report).await {
            failed = Some(format!("{}: {error}", step.line()));
            break;
        }
    }
    if !arguments.prune {
        report.left = lines(&plan.extra);
    }
    report.end(failed)
}

async fn make(api: &ManagementApi, progress: &mut Progress<'_>, step: &Step, report: &mut Report) -> Result<(), String> {
    let made = progress.make(step).await.map_err(|error| error.to_string())?;
    report.done(step.line());
    let Some(made) = made else { return Ok(()) };
    report.made(&made.name, &made.id);
    if !report.wants_secrets() || !made.kind.is_confidential() {
        return Ok(());
    }
    let lost = |reason: &str| format!("the app is made, but its secret could not be had: {reason}; the Console shows it");
    let secrets = api.application_secrets(&made.id).await.map_err(|error| lost(&error.to_string()))?;
    let secret = secrets.first().ok_or_else(|| lost("there is none"))?;
    report.secret(&made.name, &made.id, secret).map_err(|error| lost(&error.to_string()))
}

/// What `apply` says: a line a step as it is done, or all of it in the end.
struct Report {
    json: bool,
    show_secrets: bool,
    secrets: Option<File>,
    done: Vec<Line>,
    left: Vec<Line>,
    made: Vec<Value>,
}

impl Report {
    /// The file for secrets is there before anything is made whose secret it should take.
    fn new(arguments: &ApplyArguments, plan: &Plan) -> Result<Self, Failed> {
        let confidential = |step: &Step| matches!(step, Step::CreateApp { kind: AppKind::Traditional, .. });
        let needed = plan.steps.iter().any(confidential);
        let secrets = match arguments.secrets_file.as_ref().filter(|_| needed) {
            None => None,
            Some(path) => Some(private_file(path).map_err(|error| Failed::Usage(format!("{}: {error}", path.display())))?),
        };
        let (json, show_secrets) = (arguments.json, arguments.show_secrets);
        Ok(Self { json, show_secrets, secrets, done: Vec::new(), left: Vec::new(), made: Vec::new() })
    }

    fn done(&mut self, line: Line) {
        if !self.json {
            say!("{line}");
        }
        self.done.push(line);
    }

    fn made(&mut self, name: &str, client_id: &str) {
        if !self.json {
            say!("            client_id {client_id}");
        }
        self.made.push(json!({ "name": name, "client_id": client_id }));
    }

    fn wants_secrets(&self) -> bool {
        self.show_secrets || self.secrets.is_some()
    }

    fn secret(&mut self, name: &str, client_id: &str, secret: &Secrets) -> std::io::Result<()> {
        if self.show_secrets {
            say!("            client_secret {}", secret.value.expose());
        }
        if let Some(file) = &mut self.secrets {
            let line = json!({ "name": name, "client_id": client_id, "client_secret": secret.value.expose() });
            writeln!(file, "{line}")?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn end(self, failed: Option<String>) -> Result<(), Failed> {
        let count = self.done.len();
        if self.json {
            let apps = Value::Array(self.made);
            say!("{:#}", json!({ "done": self.done, "apps": apps, "left_alone": self.left, "failed": failed }));
        } else {
            self.left.iter().for_each(|line| say!("{line}  left alone (use --prune)"));
        }
        match failed {
            Some(reason) => {
                Err(Failed::Unavailable(format!("{reason}\n{count} done before that stay; wicketgate logto apply goes on from there")))
            }
            None if self.json => Ok(()),
            None => {
                say!("{}", if count == 0 { "nothing to do".to_owned() } else { format!("{count} done") });
                Ok(())
            }
        }
    }
}

/// A file that was not there before and that only its owner reads: nothing is overwritten, and no link is followed.
fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
