//! All of it in one process, to watch, to try and to test with: a legacy weather service, an issuer that behaves as
//! Logto does, the company's own app, and an agent of somebody else's. Each is written as its party would write it.
//!
//! Everything here listens on loopback only, since its secrets are known to all and its data are made up.

pub mod issuer;
pub mod official_app;
pub mod stage;
pub mod start_page;
pub mod terminal;
pub mod weather;
pub mod weatherbot;

mod event;
mod forecast;
mod kept;
mod oauth_client;
mod page;
mod server;
mod session;
mod wire;

pub use issuer::Issuer;
pub use official_app::{OfficialApp, OfficialAppSettings};
pub use start_page::{StartPage, StartPageSettings};
pub use weather::Weather;
pub use weatherbot::{WeatherBot, WeatherBotSettings};
