//! The story of the demo, played by a browser: what Alice allows is what WeatherBot gets, and nothing else.

use std::net::SocketAddr;

use wicketgate::app::App;
use wicketgate::demo::issuer::{Application, Ceiling, Issuer, Resource, Settings, SigningAlgorithm, Tenant, TokenRequest, User};
use wicketgate::demo::{OfficialApp, OfficialAppSettings, StartPage, StartPageSettings, Weather, WeatherBot, WeatherBotSettings};
use wicketgate::reload::Source;

use crate::support::{Browser, Page, Reserved, loopback, reserve, soon, until};

/// Everybody, on ports of their own.
struct Story {
    issuer: Issuer,
    weather: Weather,
    _running: App,
    gate: String,
    weatherbot: WeatherBot,
    official_app: OfficialApp,
    start_page: StartPage,
    _ports: Vec<Reserved>,
    _directory: tempfile::TempDir,
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Seconds that an access token lives.
async fn story(token_lifetime_seconds: i64) -> Story {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ports: Vec<Reserved> = (0..3).map(|_| reserve()).collect();
    let [gate_at, bot_at, app_at] = [0, 1, 2].map(|i| ports[i].address);
    let gate = url(gate_at);
    let resource = Resource::new(&gate, &[("read:weather", "See the forecast"), ("write:weather", "Report the weather")]).named("Weather");
    let tenant = Tenant { resources: vec![resource.clone()], ..Tenant::default() };
    let ceiling = Ceiling { resource_scopes: tenant.scope_ids(&gate, &["read:weather", "write:weather"]), ..Ceiling::default() };
    let mut bot = Application::third_party("weatherbot", "bot secret&é", &WeatherBot::redirect_uri(bot_at), ceiling).named("WeatherBot");
    bot.post_logout_redirect_uris = vec![WeatherBot::post_logout_redirect_uri(bot_at)];
    let mut app = Application::first_party("official", "app-secret", &OfficialApp::redirect_uri(app_at)).named("Weather");
    app.post_logout_redirect_uris = vec![OfficialApp::post_logout_redirect_uri(app_at)];
    let settings = Settings {
        resources: vec![resource],
        applications: vec![bot, app],
        users: vec![User::new("alice", "Alice", "demo", &["read:weather", "write:weather"]), User::new("bob", "Bob", "demo", &[])],
        token_lifetime_seconds,
        ..Settings::default()
    };
    let issuer = Issuer::start(loopback(), settings).await.unwrap();
    let weather = Weather::start(loopback()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wicketgate.yaml");
    let yaml = format!(
        "listen: {gate_at}\nadmin: 127.0.0.1:0\nissuer: {}\nkeys: {{ cooldown: 100ms }}\nservices:\n  - name: weather\n    resource: {gate}\n    upstream: {}\n    routes:\n      \
         GET /forecast/{{city}}: read:weather\n      POST /forecast/{{city}}: write:weather\n      GET /me/saved-cities: read:weather\n",
        issuer.url(),
        url(weather.address()),
    );
    std::fs::write(&path, yaml).unwrap();
    let source = Source::new(&path);
    let loaded = source.load().unwrap_or_else(|faults| panic!("{faults}"));
    let running = soon("starting", App::start(source, loaded, None)).await.unwrap();
    let start_page = StartPage::start(
        loopback(),
        StartPageSettings {
            official_app: Some(url(app_at)),
            weatherbot: url(bot_at),
            gate: gate.clone(),
            admin: url(running.admin_address()),
            issuer: issuer.url().to_owned(),
            resource: gate.clone(),
            service: url(weather.address()),
            config_path: path.display().to_string(),
            external_issuer: false,
        },
    );
    let start_page = start_page.await.unwrap();
    let bot_settings = WeatherBotSettings {
        client_id: "weatherbot".to_owned(),
        client_secret: "bot secret&é".to_owned(),
        issuer: issuer.url().to_owned(),
        api: gate.clone(),
        start_page: url(start_page.address()),
        controls: Some(issuer.clone()),
    };
    let weatherbot = WeatherBot::start(bot_at, bot_settings).await.unwrap();
    let app_settings = OfficialAppSettings {
        client_id: "official".to_owned(),
        client_secret: "app-secret".to_owned(),
        issuer: issuer.url().to_owned(),
        api: gate.clone(),
        resource: gate.clone(),
        start_page: url(start_page.address()),
    };
    let official_app = OfficialApp::start(app_at, app_settings).await.unwrap();
    Story { issuer, weather, _running: running, gate, weatherbot, official_app, start_page, _ports: ports, _directory: directory }
}

impl Story {
    /// From WeatherBot's empty page to an answered question.
    async fn ask_and_allow(&self, browser: &mut Browser, user: &str, question: &str) -> Page {
        let page = browser.get(&url(self.weatherbot.address())).await;
        let page = browser.send(&page, "/ask", &[("question", question)]).await;
        let page = browser.sign_in(&page, user).await;
        browser.decide(&page, "allow").await
    }
}

/// The steps of the latest question, as their first line and the answer's.
fn steps(page: &Page) -> Vec<String> {
    let latest = page.text.split("class=\"record\"").nth(1).unwrap_or_default();
    let heads = latest.split("<p class=\"head\">").skip(1).map(|head| head.split("</p>").next().unwrap());
    let plain = |html: &str| html.split('<').filter_map(|part| part.split_once('>').map(|(_, text)| text)).collect::<Vec<_>>().join(" ");
    heads.map(|head| plain(&format!("<>{head}")).split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn a_question_goes_from_refusal_over_consent_to_an_answer_and_the_next_needs_one_exchange() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(story.weatherbot.address())).await;
    page.shows("Nothing. No token");
    let consent_policy = format!("form-action 'self' http://{};", story.issuer.address());
    assert!(page.policy.contains(&consent_policy) && !page.policy.contains("script"), "{}", page.policy);
    let sign_in = browser.send(&page, "/ask", &[("question", "Weather in Oslo?")]).await;
    assert_eq!(sign_in.url.port(), Some(story.issuer.address().port()));
    let consent = browser.sign_in(&sign_in, "alice").await;
    consent.shows("read:weather");
    assert!(!consent.has("write:weather"), "only what the challenge names is asked for");
    let page = browser.decide(&consent, "allow").await;
    assert_eq!((page.status, page.url.as_str()), (200, format!("{}/", url(story.weatherbot.address())).as_str()));
    page.shows("This is the weather in Oslo:");
    page.shows("alice");
    assert_eq!(
        steps(&page),
        [
            "WeatherBot → Gate GET /forecast/Oslo 401 Unauthorized",
            "WeatherBot → Gate GET /.well-known/oauth-protected-resource 200 OK",
            "WeatherBot → Issuer GET /.well-known/oauth-authorization-server/oidc 404 Not Found",
            "WeatherBot → Issuer GET /oidc/.well-known/openid-configuration 200 OK",
            "Browser → Issuer GET /oidc/auth",
            "Browser → WeatherBot GET /callback",
            "WeatherBot → Issuer POST /oidc/token 200 OK",
            "WeatherBot → Gate GET /forecast/Oslo 200 OK",
        ]
    );
    let page = browser.send(&page, "/ask", &[("question", "Which cities did I save?")]).await;
    page.shows("You saved these cities:");
    assert_eq!(steps(&page), ["WeatherBot → Gate GET /me/saved-cities 200 OK"]);
}

#[tokio::test]
async fn no_secret_and_no_token_stands_on_the_page() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Weather in Oslo?").await;
    let callback = page.way.iter().find(|url| url.contains("/callback?")).unwrap().clone();
    let callback = reqwest::Url::parse(&callback).unwrap();
    for (name, value) in callback.query_pairs().filter(|(name, _)| name != "iss") {
        assert!(!page.has(&value), "the {name} is on the page");
    }
    let words = page.text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_'));
    let long: Vec<&str> = words.filter(|word| word.len() > 64 || (word.starts_with("ey") && word.contains('.'))).collect();
    assert!(long.is_empty(), "{long:?}");
    for secret in ["bot+secret", "bot secret", &browser.cookies["weatherbot_session"]] {
        assert!(!page.has(secret), "{secret}");
    }
    page.shows("&#34;client_id&#34;: &#34;weatherbot&#34;");
}

#[tokio::test]
async fn who_cancels_gives_nothing_and_is_answered_kindly() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(story.weatherbot.address())).await;
    let page = browser.send(&page, "/ask", &[("question", "Oslo")]).await;
    let consent = browser.sign_in(&page, "alice").await;
    let page = browser.decide(&consent, "cancel").await;
    assert_eq!(page.status, 200);
    page.shows("you did not allow it");
    page.shows("Nothing. No token");
    assert_eq!(story.issuer.counts().token, 0);
}

#[tokio::test]
async fn writing_is_refused_explained_asked_for_and_then_done() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Weather in Oslo?").await;
    let page = browser.send(&page, "/ask", &[("question", "Report snow in Lima.")]).await;
    page.shows("For this I need write:weather");
    assert_eq!(steps(&page), ["WeatherBot → Gate POST /forecast/Lima 403 Forbidden"]);
    let consent = browser.send(&page, "/step-up", &[]).await;
    consent.shows("write:weather");
    consent.shows("already allowed");
    let page = browser.decide(&consent, "allow").await;
    page.shows("Done: snow is reported in Lima");
    assert!(steps(&page).contains(&"WeatherBot → Gate POST /forecast/Lima 201 Created".to_owned()), "{:?}", steps(&page));
    // The challenge named what was there already, so that nothing is lost.
    let page = browser.send(&page, "/ask", &[("question", "Lima")]).await;
    assert_eq!(steps(&page), ["WeatherBot → Gate GET /forecast/Lima 200 OK"]);
}

#[tokio::test]
async fn who_lacks_the_permission_is_told_so_and_not_asked_in_circles() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "bob", "Weather in Oslo?").await;
    page.shows("either your account lacks that permission");
    assert_eq!(story.issuer.counts().token, 1);
    // At his wish he is asked once more, and the answer is the same.
    let consent = browser.send(&page, "/write", &[]).await;
    let page = browser.decide(&consent, "allow").await;
    page.shows("I asked for write:weather");
    assert_eq!(story.issuer.counts().token, 2);
}

#[tokio::test]
async fn an_expired_token_is_refreshed_without_the_user_and_the_refresh_token_rotates() {
    // Expired as soon as it is there, by WeatherBot's clock, which leaves a margin; the gate allows for skew.
    let story = story(2).await;
    let mut browser = Browser::new();
    let mut page = story.ask_and_allow(&mut browser, "alice", "Weather in Oslo?").await;
    for _ in 0..2 {
        page = browser.send(&page, "/ask", &[("question", "Lima")]).await;
        assert_eq!(steps(&page), ["WeatherBot → Issuer POST /oidc/token 200 OK", "WeatherBot → Gate GET /forecast/Lima 200 OK"]);
    }
    page.shows("grant_type=refresh_token");
}

#[tokio::test]
async fn a_token_that_the_gate_refuses_is_refreshed_once_whatever_the_clock_says() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Weather in Oslo?").await;
    let ask_as = |expires_in| {
        let asked =
            TokenRequest { resource: story.gate.clone(), scope: Some("read:weather".to_owned()), expires_in, ..TokenRequest::default() };
        Browser::new().client.get(format!("{}/forecast/oslo", story.gate)).bearer_auth(story.issuer.token(asked))
    };
    let with_old_key = ask_as(3600);
    // Two new keys in a row: the one that signed the token is not published any more, and a new token tells the gate so.
    story.issuer.rotate(SigningAlgorithm::default());
    story.issuer.rotate(SigningAlgorithm::default());
    until("the gate forgets the old key", || async {
        ask_as(3600).send().await.unwrap();
        with_old_key.try_clone().unwrap().send().await.unwrap().status() == 401
    })
    .await;
    let page = browser.send(&page, "/ask", &[("question", "Lima")]).await;
    page.shows("This is the weather in Lima:");
    assert_eq!(
        steps(&page),
        [
            "WeatherBot → Gate GET /forecast/Lima 401 Unauthorized",
            "WeatherBot → Issuer POST /oidc/token 200 OK",
            "WeatherBot → Gate GET /forecast/Lima 200 OK",
        ]
    );
}

#[tokio::test]
async fn a_callback_counts_once_in_one_browser_and_with_its_state() {
    let story = story(3600).await;
    let (mut browser, mut other) = (Browser::new(), Browser::new());
    let page = browser.get(&url(story.weatherbot.address())).await;
    let sign_in = browser.send(&page, "/ask", &[("question", "Oslo")]).await;
    let consent = browser.sign_in(&sign_in, "alice").await;
    let callback = browser.send_and_follow(&consent, "/consent", &[("decision", "allow")], Some("/callback?code=")).await.text;
    other.get(&url(story.weatherbot.address())).await;
    let wrong_state = callback.replace("state=", "state=x");
    let wrong_issuer = callback.replace("&iss=", "&iss=x");
    let bare = callback.split("&state=").next().unwrap().to_owned();
    for (is_other, url) in [(true, &callback), (false, &wrong_state), (false, &wrong_issuer), (false, &bare)] {
        let page = if is_other { other.get(url).await } else { browser.get(url).await };
        assert_eq!(page.status, 400, "{url}");
        page.shows("That did not work");
    }
    assert_eq!(Browser::new().get(&callback).await.status, 400);
    assert_eq!(story.issuer.counts().token, 0);
    let before = browser.cookies["weatherbot_session"].clone();
    assert_eq!(browser.get(&callback).await.status, 200);
    assert_ne!(browser.cookies["weatherbot_session"], before, "a session has another name once somebody signed in");
    let replayed = browser.get(&callback).await;
    assert_eq!((replayed.status, story.issuer.counts().token), (400, 1));
    // An error is told as one, with a state or without.
    let page = browser.get(&format!("{}/callback?error=server_error", url(story.weatherbot.address()))).await;
    assert_eq!(page.status, 400);
}

#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(story.weatherbot.address())).await;
    let bot = page.url.join("/ask").unwrap();
    for body in ["question=Oslo", "question=Oslo&form_secret=", "question=Oslo&form_secret=guessed"] {
        let answered = browser.follow(reqwest::Method::POST, bot.clone(), Some(body.to_owned()), None).await;
        assert_eq!(answered.status, 403, "{body}");
    }
    let without_session = Browser::new().follow(reqwest::Method::POST, bot, Some("question=Oslo".to_owned()), None).await;
    assert_eq!(without_session.status, 400);
    let rebound = reqwest::Client::builder().no_proxy().build().unwrap().get(page.url.clone()).header("host", "evil.example").send().await;
    assert_eq!(rebound.unwrap().status(), 421);
}

#[tokio::test]
async fn what_comes_from_outside_is_text_on_the_page() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(story.weatherbot.address())).await;
    let page = browser.send(&page, "/ask", &[("question", "<script>alert('1')</script>")]).await;
    assert!(!page.has("<script") && page.has("&#60;script&#62;"), "{}", page.text);
    let page = browser.send(&page, "/ask", &[("question", &"x".repeat(201))]).await;
    page.shows("too long for me");
}

#[tokio::test]
async fn who_is_forgotten_leaves_nothing_behind() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Which cities did I save?").await;
    let page = browser.send(&page, "/forget", &[]).await;
    page.shows("Nothing. No token");
    assert_eq!(steps(&page), ["WeatherBot → Issuer POST /oidc/token/revocation 200 OK"]);
    assert!(!page.has("alice") && !page.has("saved these cities"), "{}", page.text);
}

#[tokio::test]
async fn a_withdrawn_consent_ends_refreshing_at_once_and_the_token_when_it_expires() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Weather in Oslo?").await;
    let page = browser.send(&page, "/withdraw", &[]).await;
    page.shows("My refresh token is dead at once");
    let page = browser.send(&page, "/ask", &[("question", "Lima")]).await;
    assert_eq!(steps(&page), ["WeatherBot → Gate GET /forecast/Lima 200 OK"]);
    let page = browser.send(&page, "/refresh", &[]).await;
    page.shows("My access token still works until");
    assert_eq!(steps(&page), ["WeatherBot → Issuer POST /oidc/token 400 Bad Request"]);
}

#[tokio::test]
async fn signing_out_ends_both_sessions() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Weather in Oslo?").await;
    let confirmation = browser.send(&page, "/sign-out", &[]).await;
    assert_eq!((confirmation.status, confirmation.url.port()), (200, Some(story.issuer.address().port())), "{}", confirmation.text);
    assert!(!browser.cookies.contains_key("weatherbot_session"));
    let page = browser.get(&url(story.weatherbot.address())).await;
    page.shows("Nothing. No token");
}

#[tokio::test]
async fn the_official_app_never_asks() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(story.official_app.address())).await;
    let sign_in = browser.send(&page, "/sign-in", &[]).await;
    let page = browser.sign_in(&sign_in, "alice").await;
    assert_eq!((page.status, page.url.path()), (200, "/"));
    assert!(!page.way.iter().any(|url| url.contains("/consent")), "{:?}", page.way);
    page.shows("Signed in: <strong>Alice</strong>");
    page.shows("The weather in Oslo");
    page.shows("Cities you saved");
    let page = browser.get(&format!("{}/?city=Lima", url(story.official_app.address()))).await;
    page.shows("The weather in Lima");
    // Alice has one session at the issuer: WeatherBot need not ask who she is, only what she allows.
    let page = browser.get(&url(story.weatherbot.address())).await;
    let consent = browser.send(&page, "/ask", &[("question", "Oslo")]).await;
    consent.shows("Let WeatherBot in?");
    let page = browser.decide(&consent, "allow").await;
    page.shows("This is the weather in Oslo:");
}

#[tokio::test]
async fn the_official_app_refuses_a_strange_callback_and_tells_who_may_not_see_the_weather() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let app = url(story.official_app.address());
    let page = browser.get(&app).await;
    assert_eq!(browser.get(&format!("{app}/callback?code=x&state=y")).await.status, 400);
    let sign_in = browser.send(&page, "/sign-in", &[]).await;
    assert_eq!(browser.get(&format!("{app}/callback?code=x&state=y")).await.status, 400);
    let page = browser.sign_in(&sign_in, "bob").await;
    page.shows("Your account may not see the weather");
}

#[tokio::test]
async fn the_start_page_leads_to_everybody() {
    let story = story(3600).await;
    let page = Browser::new().get(&url(story.start_page.address())).await;
    for address in [story.weatherbot.address(), story.official_app.address(), story.weather.address()] {
        page.shows(&url(address));
    }
    page.shows(&story.gate);
    page.shows(story.issuer.url());
}

/// A WeatherBot whose developer registered it somewhere else, or mistook the address.
async fn other_weatherbot(story: &Story, issuer: &str, api: &str) -> WeatherBot {
    let settings = WeatherBotSettings {
        client_id: "weatherbot".to_owned(),
        client_secret: "bot secret&é".to_owned(),
        issuer: issuer.to_owned(),
        api: api.to_owned(),
        start_page: url(story.start_page.address()),
        controls: None,
    };
    WeatherBot::start(loopback(), settings).await.unwrap()
}

#[tokio::test]
async fn weatherbot_trusts_no_issuer_but_its_own_and_has_no_levers_without_the_demos() {
    let story = story(3600).await;
    let bot = other_weatherbot(&story, "https://id.example/oidc", &story.gate).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(bot.address())).await;
    assert!(!page.has("/rotate") && !page.has("/withdraw"));
    let page = browser.send(&page, "/ask", &[("question", "Oslo")]).await;
    page.shows("I am registered with https://id.example/oidc and give my secret to nobody else");
    assert_eq!(steps(&page).len(), 2, "only the gate was asked");
    assert_eq!((story.issuer.counts().discovery, story.issuer.counts().token), (1, 0), "only the gate's own fetch");
}

#[tokio::test]
async fn a_gate_that_is_not_there_is_told_and_shown() {
    let story = story(3600).await;
    let nobody = reserve();
    let bot = other_weatherbot(&story, story.issuer.url(), &url(nobody.address)).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(bot.address())).await;
    let page = browser.send(&page, "/ask", &[("question", "Oslo")]).await;
    page.shows("I have no answer.");
    assert!(steps(&page)[0].starts_with("WeatherBot → Gate GET /forecast/Oslo no answer:"), "{:?}", steps(&page));
}

#[tokio::test]
async fn what_one_person_asked_is_not_shown_to_the_next() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = story.ask_and_allow(&mut browser, "alice", "Which cities did I save?").await;
    page.shows("You saved these cities:");
    let step_up = browser.send(&page, "/write", &[]).await;
    // The page asks who it is, and this time it is Bob.
    let other = format!("http://{}/sign-in?{}", story.issuer.address(), step_up.url.query().unwrap());
    let sign_in = browser.get(&other).await;
    let consent = browser.sign_in(&sign_in, "bob").await;
    let page = browser.decide(&consent, "allow").await;
    page.shows("Signed in: <strong>bob</strong>");
    assert!(!page.has("saved these cities") && !page.has("alice"), "{}", page.text);
    let kept = ["Browser → WeatherBot GET /callback", "WeatherBot → Issuer POST /oidc/token 200 OK"];
    assert_eq!(steps(&page)[..2], kept);
}

#[tokio::test]
async fn signing_out_of_the_official_app_leads_past_the_issuer_and_back() {
    let story = story(3600).await;
    let mut browser = Browser::new();
    let page = browser.get(&url(story.official_app.address())).await;
    let sign_in = browser.send(&page, "/sign-in", &[]).await;
    let page = browser.sign_in(&sign_in, "alice").await;
    let confirmation = browser.send(&page, "/sign-out", &[]).await;
    assert_eq!(confirmation.url.port(), Some(story.issuer.address().port()));
    let page = browser.get(&url(story.official_app.address())).await;
    page.shows("Not signed in");
}
