//! A browser as far as the demo needs one: it keeps cookies, follows redirects and sends forms.

use std::collections::BTreeMap;

use reqwest::redirect::Policy;

use super::soon;

/// A browser that keeps cookies as browsers do, for the host whatever the port, and follows redirects.
pub struct Browser {
    pub client: reqwest::Client,
    pub cookies: BTreeMap<String, String>,
}

/// What the browser shows.
pub struct Page {
    pub status: u16,
    pub url: reqwest::Url,
    pub text: String,
    pub policy: String,
    /// Where it came by, the latest last.
    pub way: Vec<String>,
}

impl Page {
    /// The value of an input of that name in the form with that action.
    pub fn field(&self, action: &str, name: &str) -> String {
        let form = self.text.split("<form").find(|form| form.contains(&format!("action=\"{action}\""))).unwrap_or_else(|| {
            panic!("no form {action} on {}:\n{}", self.url, self.text);
        });
        let input = form.split("<input").find(|input| input.contains(&format!("name=\"{name}\""))).unwrap();
        input.split("value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    pub fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    pub fn shows(&self, text: &str) {
        assert!(self.has(text), "{text:?} is not on {}:\n{}", self.url, self.text);
    }
}

impl Browser {
    pub fn new() -> Self {
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { client, cookies: BTreeMap::new() }
    }

    pub async fn get(&mut self, url: &str) -> Page {
        let url = reqwest::Url::parse(url).unwrap();
        self.follow(reqwest::Method::GET, url, None, None).await
    }

    /// Sends the form with that action, with the fields that it has and these.
    pub async fn send(&mut self, page: &Page, action: &str, fields: &[(&str, &str)]) -> Page {
        self.send_and_follow(page, action, fields, None).await
    }

    pub async fn send_and_follow(&mut self, page: &Page, action: &str, fields: &[(&str, &str)], stop_before: Option<&str>) -> Page {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        for hidden in ["form_secret", "interaction", "csrf"] {
            let form = page.text.split("<form").find(|form| form.contains(&format!("action=\"{action}\""))).unwrap_or_default();
            if form.split("</form>").next().unwrap_or_default().contains(&format!("name=\"{hidden}\"")) {
                body.append_pair(hidden, &page.field(action, hidden));
            }
        }
        body.extend_pairs(fields);
        let url = page.url.join(action).unwrap();
        self.follow(reqwest::Method::POST, url, Some(body.finish()), stop_before).await
    }

    pub async fn follow(
        &mut self,
        mut method: reqwest::Method,
        mut url: reqwest::Url,
        mut body: Option<String>,
        stop_before: Option<&str>,
    ) -> Page {
        let mut way = Vec::new();
        loop {
            assert!(way.len() < 20, "round in circles: {way:#?}");
            way.push(url.to_string());
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let mut request = self.client.request(method.clone(), url.clone());
            if !cookies.is_empty() {
                request = request.header("cookie", cookies.join("; "));
            }
            if let Some(body) = body.take() {
                request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
            }
            let response = soon("an answer", request.send()).await.unwrap();
            for cookie in response.headers().get_all("set-cookie") {
                let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
                let value = rest.split(';').next().unwrap();
                match value.is_empty() {
                    true => self.cookies.remove(name),
                    false => self.cookies.insert(name.to_owned(), value.to_owned()),
                };
            }
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            let (status, policy, location) = (response.status().as_u16(), header("content-security-policy"), header("location"));
            if (300..400).contains(&status) && stop_before.is_none_or(|stop| !location.contains(stop)) {
                url = url.join(&location).unwrap();
                method = reqwest::Method::GET;
                continue;
            }
            let text = match location.is_empty() {
                true => response.text().await.unwrap(),
                false => location,
            };
            return Page { status, url, text, policy, way };
        }
    }

    pub async fn sign_in(&mut self, page: &Page, user: &str) -> Page {
        self.send(page, "/sign-in", &[("user", user), ("password", "demo")]).await
    }

    pub async fn decide(&mut self, page: &Page, decision: &str) -> Page {
        self.send(page, "/consent", &[("decision", decision)]).await
    }
}
