//! A proxy inside a program, counting in memory: the third connection to a host is told why not.
//!
//! ```sh
//! cargo run --example local
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

mod support;

use std::error::Error;
use std::time::Duration;

use narrows::app::App;
use narrows::config::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let api = support::upstream()?;

    let mut config = Config::default();
    config.listen.address = "127.0.0.1:0".parse()?; // port 0 picks one
    config.admin = None;
    config.limit.default_limit = 20;

    let app = App::new(config)?;
    app.set_host_limit(&api.to_string(), 2)?;
    app.start()?; // on threads of its own; returns when the port is open

    // What an HTTP client takes as its proxy, or a child process as HTTP_PROXY and HTTPS_PROXY.
    println!("proxy: {}", app.proxy_url().ok_or("the proxy does not run")?);

    let mut tunnels = Vec::new();
    for number in 1..=3 {
        match support::tunnel(&app, api)? {
            Ok(tunnel) => {
                println!("connection {number}: open");
                tunnels.push(tunnel);
            }
            Err(answer) => println!("connection {number}: {answer}"),
        }
    }
    println!("open to {api}: {}", app.active_connections(&api.to_string())?);

    drop(tunnels);
    println!("stopped: {:?}", app.stop(Duration::from_secs(5)));
    Ok(())
}
