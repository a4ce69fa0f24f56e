//! Where Redis is: several settings that make one [`store::Settings`].
//!
//! One Redis is an address or a URL, behind sentinels it is their addresses, a cluster some of its
//! nodes'; only one of these ways may be meant.
//!
//! SECURITY: the settings may hold passwords. They leave here as [`Secret`]s and stand in no
//! problem.

use std::fs;

use redis::IntoConnectionInfo;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::flags;
use super::flags::Setting;
use super::source::Given;
use super::source::Noted;
use super::source::Origin;
use super::source::Source;
use crate::base::authority::Authority;
use crate::base::authority::Host;
use crate::store;
use crate::store::ClientCertificate;
use crate::store::Deployment;
use crate::store::Login;
use crate::store::Node;
use crate::store::Secret;
use crate::store::Tls;

/// What says that there is a Redis.
pub(super) const PLACES: &str = "--redis-addr, --redis-url, --redis-sentinels or --redis-cluster";

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const URL: &str = "a URL such as redis://HOST:6379/0, rediss://HOST or redis+unix:///PATH";
const ADDR: &str = "HOST:PORT, such as 127.0.0.1:6379";

/// Everything about Redis but when it is spoken to; none without a Redis.
pub(super) fn store(source: &mut Source<'_>) -> Result<Option<store::Settings>, Noted> {
    let prefix = source.read(&flags::REDIS_PREFIX, prefix);
    let timeout = source.read(&flags::REDIS_TIMEOUT, super::some_time);
    let tls = tls(source);
    let parts = Parts::read(source);
    let way = way(source);
    let (prefix, timeout, (tls, asks), parts) = (prefix?, timeout?, tls?, parts?);
    let way = way?;
    if !way.as_ref().is_some_and(|(setting, _)| is(setting, &flags::REDIS_SENTINELS)) {
        warn_of_idle_sentinel_settings(source);
    }
    let Some((setting, given)) = way else { return Ok(None) };
    let deployment = if is(setting, &flags::REDIS_CLUSTER) {
        cluster(source, &given, parts)?
    } else if is(setting, &flags::REDIS_SENTINELS) {
        sentinel(source, &given, parts)?
    } else {
        single(source, setting, &given, parts, tls.is_some())?
    };
    if let (Deployment::Single { url }, Some(setting)) = (&deployment, asks)
        && !["rediss:", "valkeys:"].iter().any(|scheme| url.0.starts_with(scheme))
    {
        return Err(source.clash(setting, "needs a --redis-url that begins with rediss://"));
    }
    Ok(Some(store::Settings { deployment, tls, prefix, timeout }))
}

/// What is read one by one, before it is known what of it matters.
struct Parts {
    sentinels: Vec<Node>,
    master: String,
    sentinel_login: Login,
    seeds: Vec<Node>,
    username: Option<Given>,
    password: Option<Given>,
    database: Option<(Given, u32)>,
}

impl Parts {
    fn read(source: &mut Source<'_>) -> Result<Self, Noted> {
        let sentinels = source.list(&flags::REDIS_SENTINELS, |text| node(text, SENTINEL_PORT));
        let seeds = source.list(&flags::REDIS_CLUSTER, |text| node(text, PORT));
        let master = source.read(&flags::REDIS_SENTINEL_MASTER, |text| {
            let is_name = text.bytes().all(|byte| byte.is_ascii_graphic());
            if is_name { Ok(text.to_owned()) } else { Err("a name without spaces") }
        });
        let sentinel_username = source.given(&flags::REDIS_SENTINEL_USERNAME);
        let sentinel_password =
            password(source, &flags::REDIS_SENTINEL_PASSWORD, &flags::REDIS_SENTINEL_PASSWORD_FILE);
        let username = source.given(&flags::REDIS_USERNAME);
        let password = password(source, &flags::REDIS_PASSWORD, &flags::REDIS_PASSWORD_FILE);
        let database = match source.given(&flags::REDIS_DB) {
            Ok(Some(given)) => match given.text.parse() {
                Ok(number) => Ok(Some((given, number))),
                Err(_why) => {
                    let allowed = "a whole number from 0";
                    Err(source.refuse(&flags::REDIS_DB, &given, &given.text, &allowed))
                }
            },
            Ok(None) => Ok(None),
            Err(noted) => Err(noted),
        };
        Ok(Self {
            sentinels: sentinels?,
            master: master?,
            sentinel_login: login(sentinel_username?, sentinel_password?),
            seeds: seeds?,
            username: username?,
            password: password?,
            database: database?,
        })
    }
}

/// A password, from the one place that says it: a setting, or the file that another names.
fn password(
    source: &mut Source<'_>,
    setting: &'static Setting,
    in_file: &'static Setting,
) -> Result<Option<Given>, Noted> {
    let text = source.given(setting);
    let file = source.given(in_file);
    let (text, file) = (text?, file?);
    let Some(mut file) = file else { return Ok(text) };
    // REDIS_PASSWORD may be there for others.
    if text.is_some_and(|text| text.is_meant()) {
        let problem = format!("--{} is there too; give one", setting.name);
        return Err(source.clash(in_file, &problem));
    }
    match super::line_of(&file.text) {
        Ok(line) if !line.is_empty() => {
            file.text = line;
            Ok(Some(file))
        }
        Ok(_) => Err(source.refuse(in_file, &file, &file.text, &"a file with one line")),
        Err(why) => Err(source.refuse(in_file, &file, &file.text, &why)),
    }
}

fn login(username: Option<Given>, password: Option<Given>) -> Login {
    Login {
        username: username.map(|given| given.text),
        password: password.map(|given| Secret(given.text)),
    }
}

fn is(setting: &Setting, other: &'static Setting) -> bool {
    std::ptr::eq(setting, other)
}

type Way = (&'static Setting, Given);

/// Which of the ways to say where Redis is holds: the one that was given most directly.
fn way(source: &mut Source<'_>) -> Result<Option<Way>, Noted> {
    let addr = source.given(&flags::REDIS_ADDR);
    let url = source.given(&flags::REDIS_URL);
    let sentinels = source.given(&flags::REDIS_SENTINELS);
    let cluster = source.given(&flags::REDIS_CLUSTER);
    let mut ways: Vec<Way> = place(source, addr?, url?)?.into_iter().collect();
    ways.extend(sentinels?.map(|given| (&flags::REDIS_SENTINELS, given)));
    ways.extend(cluster?.map(|given| (&flags::REDIS_CLUSTER, given)));
    ways.sort_by_key(|(_, given)| std::cmp::Reverse(given.origin));
    let mut ways = ways.into_iter();
    let Some(strongest) = ways.next() else { return Ok(None) };
    for (setting, given) in ways {
        if given.origin == strongest.1.origin {
            let problem =
                format!("--{} says otherwise where Redis is; give one of them", setting.name);
            return Err(source.clash(strongest.0, &problem));
        }
        warn(source, strongest.0, setting, given.origin);
    }
    Ok(Some(strongest))
}

fn cluster(source: &mut Source<'_>, given: &Given, parts: Parts) -> Result<Deployment, Noted> {
    if let Some((database, 1..)) = &parts.database {
        let allowed = "0, the only database of a cluster";
        return Err(source.refuse(&flags::REDIS_DB, database, &database.text, &allowed));
    }
    if parts.seeds.is_empty() {
        return Err(source.refuse(&flags::REDIS_CLUSTER, given, &given.text, &ADDR));
    }
    let login = login(parts.username, parts.password);
    Ok(Deployment::Cluster { seeds: parts.seeds, login })
}

fn sentinel(source: &mut Source<'_>, given: &Given, parts: Parts) -> Result<Deployment, Noted> {
    if parts.sentinels.is_empty() {
        return Err(source.refuse(&flags::REDIS_SENTINELS, given, &given.text, &ADDR));
    }
    Ok(Deployment::Sentinel {
        sentinels: parts.sentinels,
        master: parts.master,
        sentinel_login: parts.sentinel_login,
        login: login(parts.username, parts.password),
        database: parts.database.map_or(0, |(_, number)| number.into()),
    })
}

fn node(text: &str, port: u16) -> Result<Node, &'static str> {
    let authority = Authority::parse(text, Some(port)).map_err(|_why| ADDR)?;
    let host = match authority.host() {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.to_string(),
    };
    Ok(Node { host, port: authority.port_number() })
}

/// TLS, if it is asked for by another setting than a URL, and that setting.
fn tls(source: &mut Source<'_>) -> Result<(Option<Tls>, Option<&'static Setting>), Noted> {
    let on = source.read(&flags::REDIS_TLS, |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off"),
    });
    let authority = source.read_if(&flags::REDIS_TLS_CA, |path| {
        super::authorities(path)?;
        fs::read(path).map_err(|error| error.to_string())
    });
    let certificate = source.read_if(&flags::REDIS_TLS_CERT, |path| {
        super::authorities(path)?;
        fs::read(path).map_err(|error| error.to_string())
    });
    let key = source.read_if(&flags::REDIS_TLS_KEY, key);
    let client = match (certificate?, key?) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(source.clash(&flags::REDIS_TLS_CERT, "needs --redis-tls-key"));
        }
        (None, Some(_)) => {
            return Err(source.clash(&flags::REDIS_TLS_KEY, "needs --redis-tls-cert"));
        }
    };
    let tls = Tls { authority: authority?, client };
    let asks = match &tls {
        Tls { authority: Some(_), .. } => Some(&flags::REDIS_TLS_CA),
        Tls { client: Some(_), .. } => Some(&flags::REDIS_TLS_CERT),
        Tls { .. } if on? => Some(&flags::REDIS_TLS),
        Tls { .. } => None,
    };
    Ok((asks.map(|_| tls), asks))
}

fn warn_of_idle_sentinel_settings(source: &mut Source<'_>) {
    let settings = [
        &flags::REDIS_SENTINEL_MASTER,
        &flags::REDIS_SENTINEL_USERNAME,
        &flags::REDIS_SENTINEL_PASSWORD,
        &flags::REDIS_SENTINEL_PASSWORD_FILE,
    ];
    for setting in settings {
        if source.given(setting).is_ok_and(|given| given.is_some_and(|given| given.is_meant())) {
            let warning = format!("--{} has no effect without --redis-sentinels", setting.name);
            source.warnings.push(warning);
        }
    }
}

fn key(path: &str) -> Result<Secret, String> {
    let allowed = |why: &dyn std::fmt::Display| format!("a PEM file of a key ({why})");
    let text = fs::read_to_string(path).map_err(|error| allowed(&error))?;
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(_) => Ok(Secret(text)),
        Err(error) => Err(allowed(&error)),
    }
}

fn prefix(text: &str) -> Result<String, &'static str> {
    // Braces would move the key to another slot of a cluster.
    if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}') {
        return Ok(text.to_owned());
    }
    Err("visible ASCII characters without { and }")
}

/// One Redis, its user, password and database filled into its URL.
fn single(
    source: &mut Source<'_>,
    setting: &'static Setting,
    given: &Given,
    parts: Parts,
    tls: bool,
) -> Result<Deployment, Noted> {
    let Parts { username, password, database, .. } = parts;
    let db = database.map(|(given, _)| given);
    let is_address = is(setting, &flags::REDIS_ADDR);
    let base = if is_address {
        let scheme = if tls { "rediss" } else { "redis" };
        address(&given.text).map(|address| format!("{scheme}://{address}"))
    } else {
        Some(given.text.clone())
    };
    let allowed = if base.is_some() || setting.secret { URL } else { ADDR };
    let Some(mut url) = base.and_then(|base| redis::parse_redis_url(&base)) else {
        return Err(source.refuse(setting, given, &given.text, &allowed));
    };

    // What a setting of its own says beats what the URL says, unless it is a weaker one: a
    // REDIS_PASSWORD in the environment does not change the URL of a flag.
    let beats = |part: &Given, there: bool| !there || part.origin >= given.origin;
    let unix = url.scheme().ends_with("unix");
    let has = |name: &str| url.query_pairs().any(|(key, _)| key == name);
    let there = if unix {
        [has("user"), has("pass"), has("db")]
    } else {
        let path = !url.path().trim_matches('/').is_empty();
        [!url.username().is_empty(), url.password().is_some(), path]
    };
    let [username, password, db] = [(username, there[0]), (password, there[1]), (db, there[2])]
        .map(|(part, there)| part.filter(|part| beats(part, there)).map(|part| part.text));
    if unix {
        let parts = [("user", username), ("pass", password), ("db", db)];
        let kept: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(key, _)| !parts.iter().any(|(name, part)| key == name && part.is_some()))
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        let new = parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?)));
        let pairs: Vec<(String, String)> = kept.into_iter().chain(new).collect();
        url.set_query(None);
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
    } else {
        let set = username.is_none_or(|name| url.set_username(&escaped(&name)).is_ok())
            && password.is_none_or(|word| url.set_password(Some(&escaped(&word))).is_ok());
        if !set {
            // A URL without a host takes no user.
            return Err(source.refuse(setting, given, &given.text, &allowed));
        }
        if let Some(db) = db {
            url.set_path(&db);
        }
    }
    match url.as_str().into_connection_info() {
        Ok(_) => Ok(Deployment::Single { url: Secret(url.to_string()) }),
        Err(_why) => Err(source.refuse(setting, given, &given.text, &allowed)),
    }
}

/// All but the unreserved characters (RFC 3986 §2.3) percent-encoded. The URL's own setters leave
/// `%` alone, so that a password that holds `%41` would be read back with an `A`.
fn escaped(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| {
        if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

/// Which of the two ways to name the place holds.
fn place(
    source: &mut Source<'_>,
    addr: Option<Given>,
    url: Option<Given>,
) -> Result<Option<(&'static Setting, Given)>, Noted> {
    Ok(match (addr, url) {
        (None, None) => None,
        (Some(addr), None) => Some((&flags::REDIS_ADDR, addr)),
        (None, Some(url)) => Some((&flags::REDIS_URL, url)),
        (Some(addr), Some(url)) if is_same(&addr.text, &url.text) => Some((&flags::REDIS_URL, url)),
        (Some(addr), Some(url)) if addr.origin > url.origin => {
            warn(source, &flags::REDIS_ADDR, &flags::REDIS_URL, url.origin);
            Some((&flags::REDIS_ADDR, addr))
        }
        (Some(addr), Some(url)) if addr.origin < url.origin => {
            warn(source, &flags::REDIS_URL, &flags::REDIS_ADDR, addr.origin);
            Some((&flags::REDIS_URL, url))
        }
        (Some(addr), Some(_)) => {
            let problem = format!("{:?} and --redis-url name two places; give one", addr.text);
            return Err(source.clash(&flags::REDIS_ADDR, &problem));
        }
    })
}

fn warn(source: &mut Source<'_>, strong: &Setting, weak: &Setting, weak_origin: Origin) {
    let from = match weak_origin {
        Origin::Alias => weak.variables.last().copied().unwrap_or(weak.name),
        Origin::File => weak.name,
        Origin::Default | Origin::Flag | Origin::Variable => weak.variables[0],
    };
    source.warnings.push(format!("{from} is ignored: --{} was given more directly", strong.name));
}

/// `host:port` in its normal form. `:6379` is this machine, as Go programs read it, and so were
/// the settings of dprl.
fn address(text: &str) -> Option<Authority> {
    let local;
    let text = if text.starts_with(':') {
        local = format!("127.0.0.1{text}");
        &local
    } else {
        text
    };
    Authority::parse(text, Some(PORT)).ok()
}

fn is_same(addr: &str, url: &str) -> bool {
    let Some(url) = redis::parse_redis_url(url).filter(|url| url.scheme() == "redis") else {
        return false;
    };
    let there = format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(PORT));
    address(addr).is_some_and(|addr| address(&there) == Some(addr))
}

#[cfg(test)]
mod tests {
    use super::super::Serve;
    use super::super::tests::problems;
    use super::super::tests::serve;
    use crate::store::Deployment;

    fn url_of(serve: &Serve) -> String {
        match &serve.config.shared.as_ref().unwrap().store.deployment {
            Deployment::Single { url } => url.0.clone(),
            other @ (Deployment::Cluster { .. } | Deployment::Sentinel { .. }) => {
                panic!("{other:?}")
            }
        }
    }

    fn url(args: &[&str], env: &[(&str, &str)]) -> String {
        url_of(&serve(args, env))
    }

    #[test]
    fn an_address_becomes_a_url() {
        assert_eq!(url(&["--redis-addr", "Redis:6380"], &[]), "redis://redis:6380");
        assert_eq!(url(&[], &[("REDIS_ADDR", "redis")]), "redis://redis:6379");
        assert_eq!(url(&["--redis-addr=:7000"], &[]), "redis://127.0.0.1:7000");
        assert_eq!(url(&["--redis-addr=[::1]:7000"], &[]), "redis://[::1]:7000");
    }

    #[test]
    fn user_password_and_database_are_filled_in_and_escaped() {
        let env = [("REDIS_PASSWORD", "p@ss/w:rd%"), ("REDIS_DB", "3")];
        assert_eq!(
            url(&["--redis-addr=r:1", "--redis-username", "me"], &env),
            "redis://me:p%40ss%2Fw%3Ard%25@r:1/3"
        );
        assert_eq!(url(&["--redis-url=rediss://r"], &env), "rediss://:p%40ss%2Fw%3Ard%25@r/3");
        assert_eq!(
            url(&["--redis-url=redis+unix:///run/r.sock"], &env),
            "redis+unix:///run/r.sock?pass=p%40ss%2Fw%3Ard%25&db=3"
        );
    }

    #[test]
    fn a_password_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "sesame\n").unwrap();
        let file = file.to_str().unwrap();
        let flags = ["--redis-addr", "r", "--redis-password-file", file];
        let of = |env: &[(&str, &str)]| url(&flags, env);
        assert_eq!(of(&[]), "redis://:sesame@r:6379");
        assert_eq!(of(&[("REDIS_PASSWORD", "theirs")]), "redis://:sesame@r:6379");
        let both = problems(&flags, &[("NARROWS_REDIS_PASSWORD", "ours")]);
        assert!(both[0].contains("--redis-password is there too; give one"), "{both:?}");
        std::fs::write(file, "\n").unwrap();
        let empty = problems(&flags, &[]);
        assert!(empty[0].contains("is not allowed: a file with one line"), "{empty:?}");
        let none = problems(&["--redis-addr", "r", "--redis-password-file", "/nowhere"], &[]);
        assert!(none[0].contains("is not allowed: a file that can be read"), "{none:?}");
    }

    #[test]
    fn a_password_at_the_sentinels_may_stand_in_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "sesame\n").unwrap();
        let flags =
            ["--redis-sentinels=s", "--redis-sentinel-password-file", file.to_str().unwrap()];
        let served = serve(&flags, &[("REDIS_PASSWORD", "theirs")]);
        match served.config.shared.unwrap().store.deployment {
            Deployment::Sentinel { sentinel_login, login, .. } => {
                assert_eq!(sentinel_login.password.unwrap().0, "sesame");
                assert_eq!(login.password.unwrap().0, "theirs");
            }
            other @ (Deployment::Cluster { .. } | Deployment::Single { .. }) => panic!("{other:?}"),
        }
        let both = problems(&flags, &[("NARROWS_REDIS_SENTINEL_PASSWORD", "ours")]);
        assert!(both[0].contains("--redis-sentinel-password is there too; give one"), "{both:?}");
        let none = problems(&["--redis-sentinels=s", flags[1], "/nowhere"], &[]);
        assert!(none[0].contains("is not allowed: a file that can be read"), "{none:?}");
    }

    #[test]
    fn a_weaker_password_does_not_change_a_stronger_url() {
        let env = [("REDIS_PASSWORD", "theirs"), ("REDIS_DB", "3")];
        assert_eq!(url(&["--redis-url=redis://:mine@r/1"], &env), "redis://:mine@r/1");
        let env = [("REDIS_URL", "redis://:url@r/1"), ("NARROWS_REDIS_PASSWORD", "ours")];
        assert_eq!(url(&["--redis-db=7"], &env), "redis://:ours@r/7");
    }

    #[test]
    fn address_and_url_may_both_be_given_only_if_they_agree_or_one_is_stronger() {
        let args = ["--redis-addr=r:6379", "--redis-url=redis://:p@R"];
        assert_eq!(url(&args, &[]), "redis://:p@R");

        let served = serve(&["--redis-addr=r:1"], &[("REDIS_URL", "redis://other")]);
        assert_eq!(url_of(&served), "redis://r:1");
        assert_eq!(served.warnings, ["REDIS_URL is ignored: --redis-addr was given more directly"]);

        let told = problems(&["--redis-addr=r:1", "--redis-url=redis://other"], &[]);
        assert_eq!(
            told,
            ["--redis-addr (or NARROWS_REDIS_ADDR): \"r:1\" and --redis-url name two places; \
              give one"]
        );
    }

    #[test]
    fn a_bad_place_is_a_problem_and_no_secret_is_told() {
        for bad in ["http://r", "redis://:geheim@r/abc", "redis:", "geheim"] {
            let told = problems(&[], &[("REDIS_URL", bad)]);
            assert_eq!(told.len(), 1, "{bad}: {told:?}");
            assert!(told[0].starts_with("--redis-url (REDIS_URL): (secret) is not allowed"));
            assert!(!told[0].contains("geheim"), "{told:?}");
        }
        for bad in ["r:abc", "a b", "redis://r"] {
            let told = problems(&["--redis-addr", bad], &[]);
            assert!(told[0].ends_with("is not allowed: HOST:PORT, such as 127.0.0.1:6379"));
        }
        let told = problems(&["--redis-addr=r", "--redis-db=-1"], &[]);
        assert!(told[0].starts_with("--redis-db (or NARROWS_REDIS_DB): \"-1\""), "{told:?}");
        assert!(
            !format!("{:?}", serve(&["--redis-url=redis://:geheim@r"], &[])).contains("geheim")
        );
    }

    fn deployment(args: &[&str], env: &[(&str, &str)]) -> String {
        format!("{:?}", serve(args, env).config.shared.unwrap().store.deployment)
    }

    #[test]
    fn sentinels_and_clusters_are_lists_with_a_login() {
        let args = ["--redis-sentinels=a,[::1]:7", "--redis-sentinels", "b:1", "--redis-db=2"];
        let env = [("REDIS_PASSWORD", "p"), ("NARROWS_REDIS_SENTINEL_USERNAME", "s")];
        assert_eq!(
            deployment(&args, &env),
            "Sentinel { sentinels: [Node { host: \"a\", port: 26379 }, Node { host: \"::1\", port: \
             7 }, Node { host: \"b\", port: 1 }], master: \"mymaster\", sentinel_login: Login { \
             username: Some(\"s\"), password: None }, login: Login { username: None, password: \
             Some((secret)) }, database: 2 }"
        );
        assert_eq!(
            deployment(
                &["--redis-username=me", "--redis-db=0"],
                &[("NARROWS_REDIS_CLUSTER", "c,d:1")]
            ),
            "Cluster { seeds: [Node { host: \"c\", port: 6379 }, Node { host: \"d\", port: 1 }], \
             login: Login { username: Some(\"me\"), password: None } }"
        );
    }

    #[test]
    fn the_place_that_was_given_most_directly_holds() {
        let served = serve(&["--redis-cluster=c"], &[("REDIS_ADDR", "other")]);
        assert_eq!(
            served.warnings,
            ["REDIS_ADDR is ignored: --redis-cluster was given more directly"]
        );
        let told = problems(&["--redis-cluster=c", "--redis-sentinels=s"], &[]);
        assert_eq!(
            told,
            [
                "--redis-sentinels (or NARROWS_REDIS_SENTINELS): --redis-cluster says otherwise where \
              Redis is; give one of them"
            ]
        );
    }

    #[test]
    fn tls_is_for_the_forms_without_a_url() {
        let tls = |args: &[&str]| serve(args, &[]).config.shared.unwrap().store.tls;
        assert_eq!(url(&["--redis-addr=r", "--redis-tls=on"], &[]), "rediss://r:6379");
        assert!(tls(&["--redis-cluster=c", "--redis-tls=on"]).is_some());
        assert!(tls(&["--redis-cluster=c"]).is_none());
        assert!(tls(&["--redis-url=rediss://r"]).is_none(), "the URL says it");
        let told = problems(&["--redis-url=redis://r", "--redis-tls=on"], &[]);
        assert!(told[0].ends_with("needs a --redis-url that begins with rediss://"), "{told:?}");
        let told = problems(&["--redis-addr=r", "--redis-tls-ca=/nowhere"], &[]);
        assert!(told[0].contains("a PEM file of certificates"), "{told:?}");
        let told = problems(&["--redis-addr=r", "--redis-tls-key=/nowhere"], &[]);
        assert!(told[0].contains("a PEM file of a key"), "{told:?}");
    }

    #[test]
    fn what_only_sentinels_need_is_idle_without_them() {
        let served = serve(&["--redis-addr=r", "--redis-sentinel-master=m"], &[]);
        let idle = "--redis-sentinel-master has no effect without --redis-sentinels";
        assert_eq!(served.warnings, [idle]);
    }
}
