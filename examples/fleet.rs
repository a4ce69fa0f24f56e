//! Two instances that share one limit through Redis. In life they are two machines.
//!
//! ```sh
//! cargo run --example fleet                          # Redis at 127.0.0.1:6379
//! cargo run --example fleet redis://:secret@redis/1
//! ```
//!
//! Right after the start of a Redis, or a loss of its data, the first connection waits up to one
//! lease: nobody can know yet what others hold.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

mod support;

use std::error::Error;
use std::time::Duration;

use narrows::app::App;
use narrows::config::Config;
use narrows::limit::shared;

fn main() -> Result<(), Box<dyn Error>> {
    let redis = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let api = support::upstream()?;

    let [first, second] = [instance(&redis)?, instance(&redis)?];
    first.start()?;
    second.start()?;

    // Limits are each instance's own setting: all of a fleet are to have the same.
    let mut tunnels = Vec::new();
    for (name, app) in [("first", &first), ("second", &second), ("first", &first)] {
        match support::tunnel(app, api)? {
            Ok(tunnel) => {
                println!("through the {name}: open");
                tunnels.push(tunnel);
            }
            Err(answer) => println!("through the {name}: {answer}"),
        }
    }
    // Both know of both.
    for (name, app) in [("first", &first), ("second", &second)] {
        println!(
            "open in the fleet, says the {name}: {}",
            app.active_connections(&api.to_string())?
        );
    }

    drop(tunnels);
    for app in [first, second] {
        app.stop(Duration::from_secs(5)); // gives all slots back and leaves the fleet
    }
    Ok(())
}

fn instance(redis: &str) -> Result<App, Box<dyn Error>> {
    let mut config = Config::default();
    config.listen.address = "127.0.0.1:0".parse()?;
    config.admin = None;
    config.limit.default_limit = 2;
    config.shared = Some(shared::Settings {
        lease: Duration::from_secs(3),
        heartbeat: Duration::from_millis(500),
        ..shared::Settings::new(redis)
    });
    // A kept connection holds a slot that another instance may want.
    config.upstream.pool_idle = Duration::from_secs(1);
    Ok(App::new(config)?)
}
