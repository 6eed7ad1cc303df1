//! `demo`: the whole story on one machine, to watch in a browser.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{Failed, load};
use crate::app::{App, StartError};
use crate::config::Span;
use crate::demo::stage::{self, Credentials, Ports, loopback};
use crate::demo::{
    Issuer, OfficialApp, OfficialAppSettings, StartPage, StartPageSettings, Weather, WeatherBot, WeatherBotSettings, terminal,
};
use crate::shutdown::Signals;

pub const EXAMPLES: &str = "\
Everything listens on loopback only; people, keys and tokens are made up at each start.

Examples:
  wicketgate demo --open                           from the start page, click through the story
  wicketgate demo --token-lifetime 20s             see an agent renew an expired token by itself
  WICKETGATE_DEMO_WEATHERBOT_SECRET=... wicketgate demo --issuer https://my-tenant.logto.app/oidc --weatherbot-id ...
                                                   the same story with a tenant of your own (docs/guide.md)";

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// The gate's port; the other parties take the six that follow
    #[arg(long, env = "WICKETGATE_DEMO_PORT", default_value_t = 8080)]
    port: u16,
    /// Open the start page in the browser
    #[arg(long)]
    open: bool,
    /// Where the gate's configuration is written, to be changed while it runs [default: wicketgate-demo-PORT.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long access tokens of the embedded issuer live, in whole seconds, to see them expire
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime, conflicts_with = "issuer")]
    token_lifetime: Duration,
    #[command(flatten)]
    external: ExternalIssuer,
}

/// An issuer of your own in place of the embedded one, and the two apps as it knows them. A secret alone asks for nothing: it
/// may be left in the environment from an earlier demo.
#[derive(Debug, Args)]
#[command(next_help_heading = "With an issuer of your own")]
struct ExternalIssuer {
    /// Its identifier, for example https://my-tenant.logto.app/oidc
    #[arg(long, env = "WICKETGATE_DEMO_ISSUER", value_name = "URL", requires = "weatherbot_id", requires = "weatherbot_secret")]
    issuer: Option<String>,
    /// Client id of the third-party app
    #[arg(long, env = "WICKETGATE_DEMO_WEATHERBOT_ID", value_name = "ID", requires = "issuer")]
    weatherbot_id: Option<String>,
    /// Its secret; better in the environment, where other users of the machine do not see it
    #[arg(long, env = "WICKETGATE_DEMO_WEATHERBOT_SECRET", hide_env_values = true, value_name = "SECRET")]
    weatherbot_secret: Option<String>,
    /// Client id of the first-party app; without it that app does not play
    #[arg(long, env = "WICKETGATE_DEMO_OFFICIAL_APP_ID", value_name = "ID", requires = "issuer", requires = "official_app_secret")]
    official_app_id: Option<String>,
    /// Its secret
    #[arg(long, env = "WICKETGATE_DEMO_OFFICIAL_APP_SECRET", hide_env_values = true, value_name = "SECRET")]
    official_app_secret: Option<String>,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let span = Span::parse(text)?;
    match span.0.subsec_nanos() == 0 && !span.0.is_zero() {
        true => Ok(span.0),
        false => Err("an issuer counts in whole seconds, at least one".to_owned()),
    }
}

pub async fn demo(arguments: DemoArguments) -> Result<(), Failed> {
    say!("DEMO: made-up people, keys and weather, on this machine only. Never use it for anything real.");
    let ports = Ports::from(arguments.port);
    let ports = ports.ok_or_else(|| Failed::Usage("--port has no six ports behind it; write one from 1 to 65529".to_owned()))?;
    let embedded = match &arguments.external.issuer {
        Some(issuer) => {
            is_issuer(issuer)?;
            None
        }
        None => {
            let lifetime = i64::try_from(arguments.token_lifetime.as_secs()).ok();
            let started = Issuer::start(loopback(ports.issuer), stage::tenant(&ports, lifetime)).await;
            Some(started.map_err(taken("issuer", ports.issuer))?)
        }
    };
    let issuer = embedded.as_ref().map(Issuer::url).or(arguments.external.issuer.as_deref()).unwrap_or_default().to_owned();
    let weather = Weather::start(loopback(ports.service)).await.map_err(taken("weather service", ports.service))?;
    let file = arguments.config.clone().unwrap_or_else(|| format!("wicketgate-demo-{}.yaml", ports.gate).into());
    let file = std::path::absolute(&file).unwrap_or(file);
    let clients = start_clients(&arguments.external, &ports, &issuer, embedded.clone(), &file).await?;
    let config = ConfigFile::write(file, stage::configuration(&ports, &issuer))?;
    let (source, loaded) = load(config.path.clone())?;
    // Until it is dropped: then what is queued is written.
    // It holds events back until the address stands above them; when it is dropped, what is queued is written.
    let terminal = terminal::start().map_err(Failed::Internal)?;
    let signals = Signals::new().map_err(|error| Failed::Internal(error.to_string()))?;
    let app = App::start(source, loaded, None).await.map_err(|error| match error {
        StartError::Unavailable(reason) => Failed::Unavailable(format!("{reason}; choose other ports with --port")),
        other => other.into(),
    })?;
    let start_page = stage::url(ports.start_page);
    say!(
        "\n  Open {start_page} in a browser. Ctrl-C ends everything.\n  The gate's configuration, to be changed while this runs: {}\n",
        config.path.display()
    );
    if arguments.open
        && let Err(error) = open::that_detached(&start_page)
    {
        say!("  No browser could be opened ({error}); open the address by hand.\n");
    }
    terminal.release();
    app.run(signals).await;
    clients.stop().await;
    if let Some(issuer) = embedded {
        issuer.stop().await;
    }
    weather.stop().await;
    Ok(())
}

/// It is written into the gate's configuration, which says more about it; here it only has to be an address.
fn is_issuer(text: &str) -> Result<(), Failed> {
    let wrong = |why: &str| Failed::Usage(format!("--issuer {text:?}: {why}; write it as in https://my-tenant.logto.app/oidc"));
    let url = url::Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    match url.as_str().trim_end_matches('/') == text.trim_end_matches('/') && matches!(url.scheme(), "https" | "http") {
        true => Ok(()),
        false => Err(wrong("no http or https URL in its plain form")),
    }
}

/// A party's port is not to be had: which one, why, and what to do.
fn taken(party: &'static str, port: u16) -> impl Fn(io::Error) -> Failed {
    move |error| Failed::Unavailable(format!("{party}: {}: {error}; choose other ports with --port", loopback(port)))
}

/// The parties that have pages.
struct Clients {
    official_app: Option<OfficialApp>,
    weatherbot: WeatherBot,
    start_page: StartPage,
}

impl Clients {
    async fn stop(&self) {
        if let Some(app) = &self.official_app {
            app.stop().await;
        }
        self.weatherbot.stop().await;
        self.start_page.stop().await;
    }
}

/// The gate's configuration as a file that the user sees and may change.
struct ConfigFile {
    path: PathBuf,
    text: String,
}

/// The first words of a file that a demo wrote.
const WRITTEN_BY_DEMO: &str = "# The running demo's gate.";
/// Files of earlier demos beside the new one.
const SET_ASIDE_MAX: u32 = 100;

impl ConfigFile {
    /// Sets aside what an earlier demo left, since it may hold changes, and takes the place of nothing.
    fn write(path: PathBuf, text: String) -> Result<Self, Failed> {
        let failed = |error: io::Error| Failed::Unavailable(format!("{}: {error}; choose another place with --config", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(found) if found.starts_with(WRITTEN_BY_DEMO) => {
                let aside = set_aside(&path).map_err(failed)?;
                say!("An earlier demo left {}; it is now {}, since you may have changed it.", path.display(), aside.display());
            }
            Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no demo wrote it"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // New, so that no link of somebody else's is followed.
        let mut file = std::fs::File::create_new(&path).map_err(failed)?;
        io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
        Ok(Self { path, text })
    }
}

/// Gives a file another name that nothing has yet: a link, unlike a rename, replaces nothing.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    for number in 1..=SET_ASIDE_MAX {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".old-{number}"));
        let aside = PathBuf::from(aside);
        match std::fs::hard_link(path, &aside) {
            Ok(()) => return std::fs::remove_file(path).map(|()| aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{SET_ASIDE_MAX} files of earlier demos are beside it")))
}

impl Drop for ConfigFile {
    /// It goes with the demo, unless the user has changed it.
    fn drop(&mut self) {
        match std::fs::read_to_string(&self.path) {
            Ok(found) if found == self.text => {
                let _ = std::fs::remove_file(&self.path);
            }
            Ok(_) => say!("{} has your changes and stays.", self.path.display()),
            Err(_) => {}
        }
    }
}

async fn start_clients(
    external: &ExternalIssuer,
    ports: &Ports,
    issuer: &str,
    controls: Option<Issuer>,
    config: &Path,
) -> Result<Clients, Failed> {
    let given = |id: &Option<String>, secret: &Option<String>| {
        let credentials = id.clone().zip(secret.clone());
        credentials.map(|(id, secret)| Credentials { id, secret })
    };
    let (official, bot) = match controls {
        Some(_) => (Some(Credentials::official_app()), Some(Credentials::weatherbot())),
        None => {
            (given(&external.official_app_id, &external.official_app_secret), given(&external.weatherbot_id, &external.weatherbot_secret))
        }
    };
    let bot = bot.ok_or_else(|| Failed::Usage("--issuer needs --weatherbot-id and --weatherbot-secret".to_owned()))?;
    let (api, start_page) = (stage::url(ports.gate), stage::url(ports.start_page));
    let mut official_app = None;
    if let Some(Credentials { id, secret }) = official {
        let settings = OfficialAppSettings {
            client_id: id,
            client_secret: secret,
            issuer: issuer.to_owned(),
            api: api.clone(),
            resource: ports.resource(),
            start_page: start_page.clone(),
        };
        let started = OfficialApp::start(loopback(ports.official_app), settings).await;
        official_app = Some(started.map_err(taken("official app", ports.official_app))?);
    }
    let settings = WeatherBotSettings {
        client_id: bot.id,
        client_secret: bot.secret,
        issuer: issuer.to_owned(),
        api: api.clone(),
        start_page,
        controls: controls.clone(),
    };
    let weatherbot = WeatherBot::start(loopback(ports.weatherbot), settings).await.map_err(taken("WeatherBot", ports.weatherbot))?;
    let settings = StartPageSettings {
        official_app: official_app.is_some().then(|| stage::url(ports.official_app)),
        weatherbot: stage::url(ports.weatherbot),
        gate: api,
        admin: stage::url(ports.admin),
        issuer: issuer.to_owned(),
        resource: ports.resource(),
        service: stage::url(ports.service),
        config_path: config.display().to_string(),
        external_issuer: controls.is_none(),
    };
    let start_page = StartPage::start(loopback(ports.start_page), settings).await.map_err(taken("start page", ports.start_page))?;
    Ok(Clients { official_app, weatherbot, start_page })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_earlier_demos_left_is_kept_and_so_is_every_file_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("gate.yaml");
        let old = |number: u32| place.path().join(format!("gate.yaml.old-{number}"));
        std::fs::write(old(1), "somebody's own").unwrap();
        for number in 2..=3 {
            std::fs::write(&path, format!("{WRITTEN_BY_DEMO} changed {number}")).unwrap();
            // Dropped at once, as when the demo ends.
            assert!(ConfigFile::write(path.clone(), format!("{WRITTEN_BY_DEMO} new")).is_ok());
            assert!(std::fs::read_to_string(old(number)).unwrap().ends_with(&format!("changed {number}")));
        }
        assert_eq!(std::fs::read_to_string(old(1)).unwrap(), "somebody's own");
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_no_demo_wrote_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let (path, link) = (place.path().join("notes"), place.path().join("link"));
        std::fs::write(&path, "notes").unwrap();
        std::os::unix::fs::symlink(place.path().join("nothing"), &link).unwrap();
        assert!(ConfigFile::write(path.clone(), String::new()).is_err());
        assert!(ConfigFile::write(link, String::new()).is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "notes");
        assert!(!place.path().join("nothing").exists());
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: DemoArguments,
    }

    #[test]
    fn a_secret_that_stayed_in_the_environment_asks_for_no_issuer() {
        let line = Line::try_parse_from(["demo", "--weatherbot-secret", "s", "--official-app-secret", "s"]).unwrap();
        assert!(line.arguments.external.issuer.is_none());
        assert!(Line::try_parse_from(["demo", "--issuer", "https://issuer.example", "--weatherbot-id", "bot"]).is_err());
        assert!(Line::try_parse_from(["demo", "--weatherbot-id", "bot", "--weatherbot-secret", "s"]).is_err());
    }
}
