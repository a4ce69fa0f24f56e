//! Where Redis is: several settings that make one URL.
//!
//! SECURITY: the URL may hold a password. It leaves here as a [`Secret`] and stands in no problem.

use redis::IntoConnectionInfo;

use super::flags;
use super::flags::Setting;
use super::source::Given;
use super::source::Noted;
use super::source::Origin;
use super::source::Source;
use crate::base::authority::Authority;
use crate::store::Secret;

const PORT: u16 = 6379;
const URL: &str = "a URL such as redis://HOST:6379/0, rediss://HOST or redis+unix:///PATH";
const ADDR: &str = "HOST:PORT, such as 127.0.0.1:6379";

/// The URL of Redis with user, password and database filled in; none without a Redis.
pub(super) fn url(source: &mut Source<'_>) -> Result<Option<Secret>, Noted> {
    let addr = source.given(&flags::REDIS_ADDR);
    let url = source.given(&flags::REDIS_URL);
    let username = source.given(&flags::REDIS_USERNAME);
    let password = source.given(&flags::REDIS_PASSWORD);
    let db = match source.given(&flags::REDIS_DB) {
        Ok(Some(db)) if db.text.parse::<u32>().is_err() => {
            Err(source.refuse(&flags::REDIS_DB, &db, &db.text, &"a whole number from 0"))
        }
        other => other,
    };
    let Some((setting, given)) = place(source, addr?, url?)? else { return Ok(None) };
    let (username, password, db) = (username?, password?, db?);
    let base = if std::ptr::eq(setting, &raw const flags::REDIS_ADDR) {
        address(&given.text).map(|address| format!("redis://{address}"))
    } else {
        Some(given.text.clone())
    };
    let allowed = if base.is_some() || setting.secret { URL } else { ADDR };
    let Some(mut url) = base.and_then(|base| redis::parse_redis_url(&base)) else {
        return Err(source.refuse(setting, &given, &given.text, &allowed));
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
            return Err(source.refuse(setting, &given, &given.text, &allowed));
        }
        if let Some(db) = db {
            url.set_path(&db);
        }
    }
    match url.as_str().into_connection_info() {
        Ok(_) => Ok(Some(Secret(url.to_string()))),
        Err(_why) => Err(source.refuse(setting, &given, &given.text, &allowed)),
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
}
