//! What one Redis is asked.

use std::time::Duration;

use redis::ErrorKind;
use redis::RedisError;
use redis::ServerErrorKind;
use redis::aio::MultiplexedConnection;

use super::Finding;
use super::Findings;
use super::PATIENCE;
use super::ask;
use super::explain;
use super::in_time;
use super::rights;
use crate::base::clock;
use crate::store::Deployment;
use crate::store::Settings;
use crate::store::nodes;
use crate::store::nodes::Place;

const PINGS: u32 = 50;

/// Looks at the Redis that has `shard`.
pub(super) async fn look(settings: &Settings, shard: u16, place: Place) -> Vec<Finding> {
    let mut findings = Findings::at(&place.name);
    let connecting = clock::now();
    let connected = in_time(nodes::connect(place.info.clone(), nodes::quiet())).await;
    let took = clock::now() - connecting;
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            let address = place.info.addr();
            let (words, remedy) = explain(&error);
            let remedy = if error.to_string().contains("no permissions") {
                rights::remedy(settings, place.info.redis_settings())
            } else {
                remedy.to_owned()
            };
            findings.fail("reachable", format!("cannot speak to {address}: {words}"), remedy);
            return findings.all;
        }
    };
    let timeout = settings.timeout;
    let words = format!("connected in {}", ms(took));
    if took > timeout {
        let remedy = format!("That is above --redis-timeout {}: raise it", ms(timeout));
        findings.fail("reachable", words, remedy);
    } else {
        findings.ok("reachable", words);
    }
    look_at_latency(&mut findings, &mut connection, timeout).await;
    match ask::<String>(&mut connection, &redis::cmd("INFO")).await {
        Ok(text) => look_at_info(&mut findings, &Info(&text), &settings.deployment),
        Err(error) if is_no_right(&error) => {
            look_without_info(&mut findings, &mut connection).await;
        }
        Err(error) => findings.fail("reachable", explain(&error).0, explain(&error).1),
    }
    look_at_clock(&mut findings, &mut connection).await;
    rights::look(&mut findings, &mut connection, settings, &place, shard).await;
    findings.all
}

pub(super) fn is_no_right(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

async fn look_at_latency(
    findings: &mut Findings,
    connection: &mut MultiplexedConnection,
    timeout: Duration,
) {
    let end = clock::now() + PATIENCE;
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let asked = clock::now();
        if let Err(error) = ask::<redis::Value>(connection, &redis::cmd("PING")).await {
            if is_no_right(&error) {
                // Told with the other rights.
                return;
            }
            findings.fail("latency", explain(&error).0, explain(&error).1);
            return;
        }
        let now = clock::now();
        times.push(now - asked);
        if now > end {
            break;
        }
    }
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    let words = format!(
        "half of {} PINGs took up to {}, the longest {}",
        times.len(),
        ms(median),
        ms(most)
    );
    if median > timeout {
        let remedy = format!("That is above --redis-timeout {}: raise it", ms(timeout));
        findings.fail("latency", words, remedy);
    } else if most > timeout / 2 {
        let remedy = format!(
            "That is near --redis-timeout {}, after which Redis counts as away: move it nearer, or \
             raise that",
            ms(timeout)
        );
        findings.warn("latency", words, remedy);
    } else {
        findings.ok("latency", words);
    }
}

/// The answer to INFO.
struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
        self.0.lines().find_map(value).map(str::trim)
    }

    fn number(&self, name: &str) -> u64 {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

fn look_at_info(findings: &mut Findings, info: &Info<'_>, deployment: &Deployment) {
    look_at_version(findings, info, deployment);
    look_at_mode(findings, info, deployment);
    look_at_role(findings, info.get("role").unwrap_or_default(), info.get("master_host"));
    look_at_memory(findings, info);
    look_at_replicas(findings, info, deployment);
}

fn look_at_version(findings: &mut Findings, info: &Info<'_>, deployment: &Deployment) {
    let version = info.get("redis_version").unwrap_or("0");
    let name = match info.get("valkey_version") {
        Some(valkey) => format!("Valkey {valkey} (as Redis {version})"),
        None => format!("Redis {version}"),
    };
    let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let needed = if matches!(deployment, Deployment::Cluster { .. }) { 7 } else { 6 };
    if major < needed {
        let remedy = format!("Use Redis {needed}.0 or later, or Valkey");
        findings.fail("version", name, remedy);
    } else {
        findings.ok("version", name);
    }
}

fn look_at_mode(findings: &mut Findings, info: &Info<'_>, deployment: &Deployment) {
    let is_cluster = matches!(deployment, Deployment::Cluster { .. });
    match info.get("redis_mode") {
        Some("cluster") if !is_cluster => {
            findings.fail("mode", "it is a node of a cluster", "Give it as --redis-cluster");
        }
        Some("sentinel") => {
            findings.fail("mode", "it is a sentinel", "Give it as --redis-sentinels");
        }
        _ => {}
    }
}

fn look_at_role(findings: &mut Findings, role: &str, master: Option<&str>) {
    if role == "master" {
        findings.ok("role", "it is a master");
    } else {
        let words = match master {
            Some(master) => format!("it is a replica of {master}, which can only be read"),
            None => format!("its role is {role:?}, not master"),
        };
        let remedy = "Give the address of its master, or --redis-sentinels";
        findings.fail("role", words, remedy);
    }
}

fn look_at_memory(findings: &mut Findings, info: &Info<'_>) {
    let policy = info.get("maxmemory_policy").unwrap_or("unknown");
    let (used, most) = (info.number("used_memory"), info.number("maxmemory"));
    if policy == "noeviction" {
        findings.ok("eviction", "noeviction: no count is thrown away for want of memory");
    } else if most == 0 {
        let words = format!("the policy is {policy}, which does nothing as long as maxmemory is 0");
        findings.warn("eviction", words, "Better: CONFIG SET maxmemory-policy noeviction");
    } else {
        let words = format!("the policy is {policy}: counts may be thrown away, and caps exceeded");
        findings.warn("eviction", words, "Better: CONFIG SET maxmemory-policy noeviction");
    }
    if most > 0 && used > most / 10 * 9 {
        let words = format!("{used} bytes of {most} (maxmemory) are used");
        let remedy = "When they are all used nothing is granted: raise maxmemory";
        findings.warn("memory", words, remedy);
    }
}

fn look_at_replicas(findings: &mut Findings, info: &Info<'_>, deployment: &Deployment) {
    let replicas = info.number("connected_slaves");
    // It is there only if both settings are.
    let waits = info.get("min_slaves_good_slaves").is_some();
    if replicas > 0 && !waits {
        let words = format!(
            "{replicas} replicas, but a master that is cut off from them goes on granting, beside \
             the next master"
        );
        let remedy = "Better: CONFIG SET min-replicas-to-write 1, CONFIG SET min-replicas-max-lag \
                      10";
        findings.warn("replicas", words, remedy);
    } else if replicas > 0 {
        findings.ok("replicas", format!("{replicas}, and a master without them grants nothing"));
    } else if matches!(deployment, Deployment::Sentinel { .. }) {
        let remedy = "Start one, or the sentinels have nothing to choose from";
        findings.warn("replicas", "the master has no replica", remedy);
    }
}

/// The role can be asked for in another way.
async fn look_without_info(findings: &mut Findings, connection: &mut MultiplexedConnection) {
    let words = "this user may not run INFO: version, eviction and replicas were not looked at, and \
                 after a restart of Redis each instance waits for a lease that it might not need to";
    findings.warn("info", words, "See the ACL line at rights");
    if let Ok(role) = ask::<Vec<redis::Value>>(connection, &redis::cmd("ROLE")).await {
        let role = role.first().map(redis::from_redis_value_ref::<String>);
        look_at_role(findings, &role.and_then(Result::ok).unwrap_or_default(), None);
    }
}

async fn look_at_clock(findings: &mut Findings, connection: &mut MultiplexedConnection) {
    let mut times = Vec::new();
    for _ in 0..2 {
        match ask::<(u64, u64)>(connection, &redis::cmd("TIME")).await {
            Ok(time) => times.push(time),
            // Told with the other rights.
            Err(_) => return,
        }
    }
    if times[1] < times[0] {
        let remedy = "Leases are counted by it: let it be slewed, never set back";
        findings.warn("clock", "its clock runs backwards", remedy);
    } else {
        findings.ok("clock", "its clock runs; that of this machine does not matter");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::store::Secret;

    fn looked(info: &str, deployment: &Deployment) -> Vec<(Grade, &'static str)> {
        let mut findings = Findings::default();
        look_at_info(&mut findings, &Info(info), deployment);
        findings.all.iter().map(|finding| (finding.grade, finding.about)).collect()
    }

    fn graded(about: &str, info: &str, deployment: &Deployment) -> Option<Grade> {
        looked(info, deployment).into_iter().find(|(_, it)| *it == about).map(|(grade, _)| grade)
    }

    #[test]
    fn what_info_says_is_judged() {
        let single = Deployment::Single { url: Secret("redis://r".to_owned()) };
        let cluster =
            Deployment::Cluster { seeds: Vec::new(), login: crate::store::Login::default() };
        let (ok, warn, fail) = (Some(Grade::Ok), Some(Grade::Warn), Some(Grade::Fail));
        assert_eq!(graded("version", "redis_version:6.2.1\r\n", &single), ok);
        assert_eq!(graded("version", "redis_version:6.2.1\r\n", &cluster), fail);
        assert_eq!(graded("version", "redis_version:5.0.14\r\n", &single), fail);
        let valkey = "redis_version:7.2.4\r\nvalkey_version:8.1.0\r\n";
        assert_eq!(graded("version", valkey, &cluster), ok);
        assert_eq!(graded("mode", "redis_mode:cluster\r\n", &single), fail);
        assert_eq!(graded("mode", "redis_mode:cluster\r\n", &cluster), None);
        assert_eq!(graded("role", "role:slave\r\nmaster_host:a\r\n", &single), fail);
        assert_eq!(graded("role", "role:master\r\n", &single), ok);
        assert_eq!(graded("eviction", "maxmemory_policy:allkeys-lru\r\n", &single), warn);
        let full = "maxmemory_policy:noeviction\r\nused_memory:95\r\nmaxmemory:100\r\n";
        assert_eq!(graded("eviction", full, &single), ok);
        assert_eq!(graded("memory", full, &single), warn);
        assert_eq!(graded("replicas", "connected_slaves:2\r\n", &single), warn);
        let safe = "connected_slaves:2\r\nmin_slaves_good_slaves:2\r\n";
        assert_eq!(graded("replicas", safe, &single), ok);
    }
}
