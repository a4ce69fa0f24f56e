//! Text to settings: the command line and the environment become one [`Config`].
//!
//! Flags beat variables, variables beat defaults; what a setting is called stands in the table of
//! [`flags`]. All problems are found before any is told, and nothing has happened by then: no port
//! is bound, no file written. This is the only module that reads the environment, and it does so in
//! one place, [`environment`].

mod access;
mod answers;
mod bench;
mod bounds;
mod cache;
mod changes;
mod circuits;
mod clients;
mod egress;
mod file;
mod flags;
mod hosts;
mod http2;
mod inspect;
mod key;
mod limits;
mod policies;
mod redis;
mod replay;
mod source;
mod units;
mod upstream;
mod words;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

pub use self::access::Passwd;
pub use self::bench::Bench;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::file::said_of;
use self::flags::Group;
pub use self::flags::markdown_table;
pub use self::key::KeyLine;
pub use self::limits::Action;
pub use self::limits::Limits;
pub use self::replay::Replay;
use self::source::Noted;
use self::source::Source;
use self::units::Written;
use self::words::authorities;
use self::words::bare;
use self::words::failure;
use self::words::format;
use self::words::ip;
use self::words::level;
use self::words::limit;
use self::words::line_of;
use self::words::mode;
use self::words::pinned;
use self::words::port;
use self::words::port_or_off;
use self::words::resolver;
use self::words::some_time;
use self::words::target;
use self::words::time_or_off;
use self::words::token;
use self::words::token_file;
use self::words::via;
use self::words::whole;
use crate::admin;
use crate::base::authority::Host;
use crate::limit;
use crate::limit::rules::Rule;
use crate::limit::shared;
use crate::limit::shared::LeaseLoss;
use crate::listen;
use crate::policy;
use crate::policy::quota::Layout;
use crate::proxy;
use crate::store;
use crate::store::Secret;
use crate::telemetry::access::Target;
use crate::telemetry::trace;

/// All settings of one narrows. The default is what `narrows` without flags and variables does.
///
/// ```
/// let mut config = narrows::config::Config::default();
/// config.limit.default_limit = 25;
/// config.listen.address.set_port(0);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come in.
    pub listen: listen::Settings,
    /// The limits.
    pub limit: limit::Settings,
    /// Through Redis; none counts in memory.
    pub shared: Option<shared::Settings>,
    /// Who may use the proxy.
    pub clients: policy::access::Settings,
    /// APIs and their policies; the one named `default` is for all other forward traffic.
    pub apis: Vec<policy::api::Settings>,
    /// Where kept responses are, whichever API they are of.
    pub cache: policy::cache::tiers::Settings,
    /// The far side.
    pub upstream: crate::upstream::Settings,
    /// The near side.
    pub proxy: proxy::Settings,
    /// The admin port; none leaves it closed.
    pub admin: Option<admin::Settings>,
    /// The log.
    pub trace: trace::Settings,
    /// The access log.
    pub access: Target,
    /// The decision log.
    pub decisions: Target,
    /// How long running requests may take to end after a stop.
    pub shutdown_timeout: Duration,
}

/// What a command line asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Measure what the limiter costs.
    Bench(Box<Bench>),
    /// Ask a running narrows how it is.
    Health(Health),
    /// Make a line of a file of keys.
    Key(KeyLine),
    /// Show or change the fleet's limits.
    Limits(Box<Limits>),
    /// Make a line of a users file.
    Passwd(Passwd),
    /// Say whether a Redis is fit.
    RedisCheck(Box<RedisCheck>),
    /// Decide again what a log says was decided.
    Replay(Box<Replay>),
    /// Say this and end.
    Say(String),
    /// Be a proxy.
    Serve(Box<Serve>),
}

/// Whom to ask how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The admin port.
    pub address: SocketAddr,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Which Redis to look at.
#[derive(Clone, Debug)]
pub struct RedisCheck {
    /// The Redis.
    pub store: store::Settings,
    /// Whether the findings are for programs.
    pub json: bool,
}

/// How to be a proxy.
#[derive(Clone, Debug)]
pub struct Serve {
    /// The settings.
    pub config: Config,
    /// What is odd in what was given, but no reason not to start; for the log.
    pub warnings: Vec<String>,
    /// What it was read from, so that it can be read again.
    pub sources: Sources,
}

/// What settings are read from: arguments and variables as they were when narrows started, and the
/// config file as it is when it is read.
#[derive(Clone)]
pub struct Sources {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    file: Option<PathBuf>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SECURITY: variables and flags hold passwords.
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Sources {
    /// The config file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads all settings anew: all of them, or all that is wrong with them. A name for Via that
    /// nobody chose is another one each time.
    pub fn read(&self) -> Result<Serve, Problems> {
        match Config::read(self.arguments.clone(), self.environment.clone())? {
            Command::Serve(serve) => Ok(*serve),
            Command::Bench(_)
            | Command::Health(_)
            | Command::Key(_)
            | Command::Limits(_)
            | Command::Passwd(_)
            | Command::RedisCheck(_)
            | Command::Replay(_)
            | Command::Say(_) => Err(Problems(vec!["these settings are for no proxy".to_owned()])),
        }
    }
}

/// All that is wrong with what was given, in lines for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The variables of this process: what [`Config::read`] takes outside tests.
pub fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

impl Default for Config {
    #[expect(clippy::expect_used, reason = "reads constants, and a test reads them too")]
    fn default() -> Self {
        let nothing = ArgMatches::default();
        let mut source = Source::new(vec![&nothing], []);
        config(&mut source).expect("the defaults of the table are allowed")
    }
}

impl Config {
    /// What the arguments (the first is the program's name) and the variables ask for.
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Command, Problems> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
        let matches = match flags::command().try_get_matches_from(&arguments) {
            Ok(matches) => matches,
            Err(error) if error.use_stderr() => {
                return Err(Problems(vec![error.render().to_string().trim_end().to_owned()]));
            }
            Err(help) => return Ok(Command::Say(help.render().to_string())),
        };
        if matches.get_flag(flags::PRINT_MARKDOWN) {
            return Ok(Command::Say(markdown_table()));
        }
        match matches.subcommand() {
            Some((bench::NAME, middle)) => {
                let bench = bench::read(middle, &matches, environment);
                return bench.map(|bench| Command::Bench(Box::new(bench))).map_err(Problems);
            }
            Some((replay::NAME, inner)) => {
                let replay = replay::read(inner, &matches, environment);
                return replay.map(|replay| Command::Replay(Box::new(replay))).map_err(Problems);
            }
            Some((limits::NAME, middle)) => {
                let (name, inner) = middle.subcommand().unwrap_or(("", middle));
                let mut source = Source::new(vec![inner, &matches], environment);
                source.open_file_for_some();
                let limits = limits::read(&mut source, name, inner);
                return finish(
                    limits.map(|limits| Command::Limits(Box::new(limits))),
                    source.problems,
                );
            }
            Some((name @ (inspect::CHECK | inspect::CONFIG), inner)) => {
                return inspect::run(name, inner, &matches, environment).map(Command::Say);
            }
            Some((access::PASSWD, inner)) => {
                let mut source = Source::new(vec![inner, &matches], environment);
                let passwd = access::passwd(&mut source, inner);
                return finish(passwd.map(Command::Passwd), source.problems);
            }
            Some((key::KEY, middle)) => {
                let (word, inner) = middle.subcommand().unwrap_or(("", middle));
                let mut source = Source::new(vec![inner, &matches], environment);
                let key = key::read(&mut source, word, inner);
                return finish(key.map(Command::Key), source.problems);
            }
            Some((flags::REDIS, redis)) => {
                let inner = redis.subcommand_matches(flags::CHECK).unwrap_or(redis);
                let mut source = Source::new(vec![inner, &matches], environment);
                source.open_file_for_some();
                let check = check(&mut source, inner);
                return finish(
                    check.map(|check| Command::RedisCheck(Box::new(check))),
                    source.problems,
                );
            }
            Some((_, inner)) => {
                let mut source = Source::new(vec![inner, &matches], environment);
                source.open_file_for_some();
                // A file that went wrong later is no reason to call the narrows that runs unwell.
                source.problems.clear();
                let health = health(&mut source, inner);
                return finish(health.map(Command::Health), source.problems);
            }
            None => {}
        }
        let mut source = Source::new(vec![&matches], environment.clone());
        let file = source.given(&flags::CONFIG).ok().flatten().map(|given| given.text.into());
        let config = config(&mut source);
        source.warn_of_strangers();
        if let Ok(Config { shared: None, .. }) = &config {
            warn_of_idle_fleet_settings(&mut source);
        }
        let Source { problems, warnings, .. } = source;
        let sources = Sources { arguments, environment, file };
        let serve = |config| Command::Serve(Box::new(Serve { config, warnings, sources }));
        let serve = config.map(serve);
        finish(serve, problems)
    }
}

impl Config {
    /// The flags of what is another in `new` and cannot change while narrows runs.
    pub(crate) fn fixed_changes(&self, new: &Self) -> Vec<&'static str> {
        changes::fixed(self, new)
    }
}

fn finish<T>(read: Result<T, Noted>, problems: Vec<String>) -> Result<T, Problems> {
    match read {
        Ok(read) if problems.is_empty() => Ok(read),
        _ => Err(Problems(problems)),
    }
}

/// Reads all settings before it looks at any of them, so that every problem is noted.
fn config(source: &mut Source<'_>) -> Result<Config, Noted> {
    let file = source.open_file();
    let port = source.read(&flags::PORT, port);
    let bind = source.read(&flags::BIND, ip);
    let threads = source.read_if(&flags::THREADS, |text| whole(text, 1, 1024, ""));
    let threads = threads.map(|threads| match threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, |n| n.get().min(1024)),
    });
    let via = source.read_if(&flags::VIA, via);
    let bounds = bounds::bounds(source);
    let shutdown_timeout = source.read(&flags::SHUTDOWN_TIMEOUT, units::duration);

    let default_limit = source.read(&flags::MAX_CONNECTIONS, limit);
    let rules = source.list(&flags::HOST_LIMIT, str::parse::<Rule>);
    let queue_timeout = source.read(&flags::QUEUE_TIMEOUT, units::duration);
    let queue_size = source.read(&flags::QUEUE_SIZE, |text| whole(text, 0, 1_000_000, ""));
    let hosts = hosts::read(source);
    let queue_timeout_max = source.read(&flags::QUEUE_TIMEOUT_MAX, units::duration);
    let answers = answers::read(source);
    let connect_breaker = circuits::connects(source);
    let refuse_status = source.read(&flags::REFUSE_STATUS, |text| whole(text, 400, 599, ""));

    let identities = access::identities(source);
    let clients = access::read(source);
    let shared = shared(source);

    let resolver = source.read(&flags::RESOLVER, resolver);
    let pinned = source.list(&flags::RESOLVE, pinned);
    let authorities = source.list(&flags::UPSTREAM_CA, authorities);
    let pool_idle = source.read_if(&flags::POOL_IDLE, units::duration);
    let pool_size = source.read(&flags::POOL_SIZE, |text| whole(text, 0, 1_000_000, ""));

    let upstream_bounds = upstream::bounds(source);

    let egress = egress::read(source);
    let connect_timeout = source.read(&flags::CONNECT_TIMEOUT, some_time);
    let dns_timeout = source.read(&flags::DNS_TIMEOUT, some_time);
    let response_timeout = source.read(&flags::RESPONSE_TIMEOUT, time_or_off);
    let idle_timeout = source.read(&flags::IDLE_TIMEOUT, time_or_off);
    let tunnel_idle_timeout = source.read(&flags::TUNNEL_IDLE_TIMEOUT, time_or_off);
    let idle_reclaim = source.read(&flags::IDLE_RECLAIM, time_or_off);
    if let (Ok(reclaim), Ok(timeout)) = (&idle_reclaim, &tunnel_idle_timeout)
        && *reclaim < units::LONGEST
        && reclaim >= timeout
    {
        let warning =
            "--idle-reclaim has no effect: --tunnel-idle-timeout closes idle tunnels no later";
        source.warnings.push(warning.to_owned());
    }
    let http2 = http2::read(source);
    let header_timeout = source.read(&flags::HEADER_TIMEOUT, some_time);
    let keep_alive_timeout = source.read(&flags::KEEP_ALIVE_TIMEOUT, some_time);

    let admin_port = source.read(&flags::ADMIN_PORT, port_or_off);
    let admin_bind = source.read(&flags::ADMIN_BIND, ip);
    let admin_token = admin_token(source);
    let gateway_hosts = source.list(&flags::GATEWAY_HOST, Host::parse);
    let admin_hosts = source.list(&flags::ADMIN_HOST, Host::parse);

    let level = source.read(&flags::LOG_LEVEL, level);
    let format = source.read(&flags::LOG_FORMAT, format);
    let access = source.read(&flags::ACCESS_LOG, target);
    let decisions = source.read(&flags::DECISION_LOG, target);
    let colour = !source.has_variable("NO_COLOR");

    let cache = cache::read(source);
    let apis = policies::read(source, file);
    let shared = shared.and_then(|shared| {
        let is_cluster = |shared: &shared::Settings| {
            matches!(shared.store.deployment, store::Deployment::Cluster { .. })
        };
        let is_apitwo = |api: &policy::api::Settings| {
            api.quota.as_ref().is_some_and(|quota| quota.counting.layout == Layout::Apitwo)
        };
        // Its keys are of any slot, so that no script may use them together.
        if shared.as_ref().is_some_and(is_cluster) && apis.iter().any(is_apitwo) {
            let problem = "quotas in the layout of apitwo cannot be counted in a cluster";
            return Err(source.clash(&flags::REDIS_CLUSTER, problem));
        }
        Ok(shared)
    });

    let address = bind.and_then(|ip| Ok(SocketAddr::new(ip, port?)));
    let listen = clients::listen(source, address, threads);
    let admin = match (admin_bind, admin_port) {
        (Ok(ip), Ok(Some(port))) => {
            let token = admin_token?;
            let hosts = admin_hosts?;
            let admin = admin::Settings { address: SocketAddr::new(ip, port), token, hosts };
            let mut listeners = listen.iter().flat_map(listen::Settings::all);
            match listeners.find(|listener| overlap(listener.address, admin.address)) {
                Some(_) => {
                    let problem = format!("{port} is the proxy's port too; give another, or off");
                    Err(source.clash(&flags::ADMIN_PORT, &problem))
                }
                None => Ok(Some(admin)),
            }
        }
        (Ok(_), Ok(None)) => Ok(None),
        (Err(noted), _) | (_, Err(noted)) => Err(noted),
    };

    let shared = shared?;
    let pool_idle = pool_idle?.unwrap_or(Duration::from_secs(if shared.is_some() { 1 } else { 4 }));
    Ok(Config {
        listen: listen?,
        limit: limit::Settings {
            default_limit: default_limit?,
            rules: rules?,
            queue_timeout: queue_timeout?,
            queue_size: queue_size?,
            queue_timeout_max: queue_timeout_max?,
            hosts: hosts?,
            identities: identities?,
        },
        shared,
        clients: clients?,
        apis,
        cache: cache?,
        upstream: crate::upstream::Settings {
            connect_timeout: connect_timeout?,
            dns_timeout: dns_timeout?,
            response_timeout: response_timeout?,
            idle_timeout: idle_timeout?,
            pool_idle,
            // A connection that may not idle is not to be kept at all.
            pool_size: if pool_idle.is_zero() { 0 } else { pool_size? },
            resolver: resolver?,
            pinned: pinned?,
            bounds: upstream_bounds?,
            egress: egress?,
            authorities: authorities?,
        },
        proxy: proxy::Settings {
            header_timeout: header_timeout?,
            keep_alive_timeout: keep_alive_timeout?,
            tunnel_idle_timeout: tunnel_idle_timeout?,
            idle_reclaim: idle_reclaim.map(|time| Some(time).filter(|t| *t < units::LONGEST))?,
            via: via?.unwrap_or_else(|| Some(format!("{MADE_UP}{:08x}", fastrand::u32(..)))),
            gateway_hosts: gateway_hosts?,
            bounds: bounds?,
            http2: http2?,
            connect_breaker: connect_breaker?,
            refuse_status: refuse_status?,
            explain: answers?.explain,
            error_details: answers?.details,
        },
        admin: admin?,
        trace: trace::Settings { level: level?, format: format?, colour },
        access: access?,
        decisions: decisions?,
        shutdown_timeout: shutdown_timeout?,
    })
}

/// What a name in Via begins with that nobody has given.
const MADE_UP: &str = "narrows-";

/// The shortest lease: with less, the delays of an ordinary scheduler look like a death.
const SHORTEST_LEASE: Duration = Duration::from_millis(300);

fn shared(source: &mut Source<'_>) -> Result<Option<shared::Settings>, Noted> {
    let store = redis::store(source);
    let failure = source.read(&flags::REDIS_FAILURE, failure);
    let lease_loss = source.read(&flags::ON_LEASE_LOSS, |text| match text {
        "keep" => Ok(LeaseLoss::Keep),
        "close" => Ok(LeaseLoss::Close),
        _ => Err("keep or close"),
    });
    let slack = source.read(&flags::SLACK, |text| match text.parse() {
        Ok(slack @ 0..=1000) => Ok(slack),
        Ok(_) | Err(_) => Err("a whole number from 0 to 1000"),
    });
    let lease = source.read(&flags::LEASE, |text| match units::duration(text) {
        Ok(lease) if lease >= SHORTEST_LEASE => Ok(lease),
        _ => Err("a time of at least 300ms, such as 15s"),
    });
    let heartbeat = source.read_if(&flags::HEARTBEAT, some_time);
    let timing = match (lease, heartbeat) {
        (Ok(lease), Ok(None)) => Ok((lease, (lease / 5).min(Duration::from_secs(3)))),
        (Ok(lease), Ok(Some(heartbeat))) if heartbeat * 3 <= lease => Ok((lease, heartbeat)),
        (Ok(lease), Ok(Some(heartbeat))) => {
            let (heartbeat, lease) = (Written(heartbeat), Written(lease));
            let problem = format!(
                "{heartbeat} is not allowed: at most a third of --lease, which is {lease}, so that \
                 one late beat loses nothing"
            );
            Err(source.clash(&flags::HEARTBEAT, &problem))
        }
        (Err(noted), _) | (_, Err(noted)) => Err(noted),
    };
    let (store, failure, (lease, heartbeat)) = (store?, failure?, timing?);
    let (lease_loss, slack) = (lease_loss?, slack?);
    Ok(store.map(|store| shared::Settings { store, lease, heartbeat, failure, lease_loss, slack }))
}

fn admin_token(source: &mut Source<'_>) -> Result<Option<Secret>, Noted> {
    let text = source.read_if(&flags::ADMIN_TOKEN, token);
    let file = source.read_if(&flags::ADMIN_TOKEN_FILE, token_file);
    match (text?, file?) {
        (Some(_), Some(_)) => {
            Err(source.clash(&flags::ADMIN_TOKEN_FILE, "--admin-token is there too; give one"))
        }
        (text, file) => Ok(text.or(file)),
    }
}

fn check(source: &mut Source<'_>, matches: &ArgMatches) -> Result<RedisCheck, Noted> {
    let store = redis::store(source)?.ok_or_else(|| {
        source.problems.push(format!("which Redis? give one of {}", redis::PLACES));
        Noted
    })?;
    Ok(RedisCheck { store, json: matches.get_flag(flags::JSON) })
}

fn health(source: &mut Source<'_>, matches: &ArgMatches) -> Result<Health, Noted> {
    let port = source.read(&flags::ADMIN_PORT, |text| match port_or_off(text) {
        Ok(Some(port)) if port > 0 => Ok(port),
        _ => Err("a health check needs the admin port's number, 1 to 65535"),
    });
    let ip = source.read(&flags::ADMIN_BIND, ip);
    let timeout = match matches.get_one::<OsString>(flags::HEALTH_TIMEOUT) {
        None => Ok(Duration::from_secs(2)),
        Some(text) => text.to_str().and_then(|text| some_time(text).ok()).ok_or_else(|| {
            let text = text.to_string_lossy();
            let problem = format!("--timeout: {text:?} is not allowed: a time such as 2s");
            source.problems.push(problem);
            Noted
        }),
    };
    // One that listens everywhere listens here.
    let ip = match ip? {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    Ok(Health { address: SocketAddr::new(ip, port?), timeout: timeout? })
}

fn warn_of_idle_fleet_settings(source: &mut Source<'_>) {
    for setting in flags::ALL.iter().filter(|setting| setting.group == Group::Fleet) {
        if !setting.name.starts_with("redis-sentinel-")
            && let Ok(Some(given)) = source.given(setting)
            // Names that others use too may be there for others.
            && given.is_meant()
        {
            let warning = format!("--{} has no effect without {}", setting.name, redis::PLACES);
            source.warnings.push(warning);
        }
    }
}

/// Whether two listening addresses would be in each other's way.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

// What each text must be. Errors say what is allowed.

#[cfg(test)]
mod tests;
