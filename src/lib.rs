//! narrows: a distributed HTTP(S) forward proxy that caps connections per destination host.
//!
//! The program `narrows` is a thin shell around this library: an [`App`] is all of it, built from a
//! [`Config`], on threads of its own. Alone it counts in memory; with [`Config::shared`] all
//! instances on one Redis count together.
//!
//! ```
//! use std::time::Duration;
//!
//! let mut config = narrows::Config::default();
//! config.listen.address = "127.0.0.1:0".parse()?; // port 0 picks one
//! config.admin = None;
//! config.limit.default_limit = 20; // connections at once, to each host
//!
//! let app = narrows::App::new(config)?;
//! app.set_host_limit("*.example.com", 5)?;
//! app.start()?;
//! assert!(app.proxy_url().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
//! assert_eq!(app.active_connections("api.example.com")?, 0);
//! app.stop(Duration::from_secs(10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [`Limiter`] works by itself too, for connections that are not a proxy's: a [`Permit`] is a
//! slot, held for as long as it lives.
//!
//! ```
//! use narrows::Limiter;
//! use narrows::base::authority::HostKey;
//! use narrows::limit::Patience;
//! use narrows::limit::Settings;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let limiter = Limiter::local(Settings { default_limit: 1, ..Settings::default() });
//! let host = HostKey::parse("api.example.com")?;
//! let permit = limiter.acquire(&host, Patience::None).await?;
//! assert!(limiter.acquire(&host, Patience::None).await.is_err()); // full
//! drop(permit); // the slot is free again
//! assert!(limiter.acquire(&host, Patience::None).await.is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The modules are floors, one paragraph each, lowest first; a module uses lower floors only.

pub mod base;

pub mod listen;
pub mod store;
pub mod telemetry;

pub mod limit;
pub mod policy;

pub mod bench;
pub mod replay;

pub mod upstream;

pub mod admin;
pub mod proxy;

pub mod config;

pub mod app;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[expect(clippy::panic, reason = "a broken promise is to be heard")]
pub mod fuzzing;

pub use app::App;
pub use config::Config;
pub use limit::Limiter;
pub use limit::Permit;
