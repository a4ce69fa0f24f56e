//! Limits that change while the proxy runs, and who is counted where.
//!
//! ```sh
//! cargo run --example limits
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

mod support;

use std::error::Error;
use std::time::Duration;

use narrows::app::App;
use narrows::config::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let api = support::upstream()?;
    let host = api.to_string();

    let mut config = Config::default();
    config.listen.address = "127.0.0.1:0".parse()?;
    config.admin = None;
    let app = App::new(config)?;
    app.start()?;

    app.set_default_limit(1);
    let first = support::tunnel(&app, api)?;
    println!("limit 1: {}", told(&support::tunnel(&app, api)?));

    // A raised limit holds at once, for those who wait already too.
    app.set_host_limit(&host, 2)?;
    let second = support::tunnel(&app, api)?;
    println!("limit 2: {}", told(&second));
    println!("open: {}", app.active_connections(&host)?);

    // A lowered one closes nothing: it holds for what comes.
    app.set_host_limit(&host, 1)?;
    println!("limit 1 again, open: {}", app.active_connections(&host)?);

    // All rules for single hosts at once; the most exact one wins.
    app.set_host_limits([("*.example.com", 10), ("api.example.com", 3), (host.as_str(), 0)])?;
    let third = support::tunnel(&app, api)?;
    println!("unlimited: {}", told(&third));

    // Without its rule the host has the default again: 1, and three are open.
    println!("there was a rule: {}", app.remove_host_limit(&host)?);
    println!("limit 1: {}", told(&support::tunnel(&app, api)?));

    drop((first, second, third));
    app.stop(Duration::from_secs(5));
    Ok(())
}

fn told(asked: &support::Asked) -> &str {
    match asked {
        Ok(_tunnel) => "open",
        Err(answer) => answer,
    }
}
