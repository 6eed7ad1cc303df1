//! How a client asks others: without redirects or proxies, within a time and a size, and each exchange on the record.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use reqwest::redirect;
use serde_json::Value;
use url::Url;

use super::Trouble;
use crate::demo::wire::{Party, Wire};
use crate::policy::is_loopback;

const TIMEOUT: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

pub struct Http(reqwest::Client);

impl Http {
    pub fn new() -> io::Result<Self> {
        // The process has one cryptographic provider; if it is there already, this changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            // A redirect could carry a secret to another host.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .build();
        client.map(Self).map_err(io::Error::other)
    }

    /// Asks, and puts question and answer on the record.
    pub async fn exchange(&self, wire: &mut Wire, to: Party, why: &str, request: Request<Vec<u8>>) -> Result<Answer, Trouble> {
        let answer = self.send(&request).await;
        wire.exchange(to, why, &request, answer.as_ref().map_err(String::as_str));
        answer.map_err(Trouble::Unanswered)
    }

    async fn send(&self, request: &Request<Vec<u8>>) -> Result<Answer, String> {
        let request = reqwest::Request::try_from(request.clone()).map_err(|_| "no request can be made of this address".to_owned())?;
        if !may_be_asked(request.url()) {
            return Err("not asked: neither https nor this machine".to_owned());
        }
        let mut response = self.0.execute(request).await.map_err(|error| describe(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(format!("the answer is larger than {BODY_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }
}

/// Codes, secrets and tokens travel by https, or do not leave this machine.
pub fn may_be_asked(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

/// The error's first cause, which says more than "error sending request".
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("no answer: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_are_asked() {
        for (url, may) in [
            ("https://issuer.example/token", true),
            ("http://127.0.0.1:8082/token", true),
            ("http://localhost:3001/", true),
            ("http://issuer.example/token", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(may_be_asked(&Url::parse(url).unwrap()), may, "{url}");
        }
    }
}
