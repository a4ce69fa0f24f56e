//! Whether this user may run what narrows runs, and the ACL line that lets it.
//!
//! Which commands the scripts run is read from the scripts, so that none can be forgotten here;
//! [`probe`] knows how to try each without harm.

use std::collections::BTreeSet;

use redis::Cmd;
use redis::RedisConnectionInfo;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::Findings;
use super::ask;
use super::explain;
use super::node::is_no_right;
use crate::store::Deployment;
use crate::store::Settings;
use crate::store::nodes::Place;
use crate::store::scripts;

/// What may be forbidden.
#[derive(Debug, Default)]
struct Missing {
    commands: BTreeSet<String>,
    unknown: BTreeSet<String>,
    keys: bool,
    channels: bool,
}

/// Tries everything on a key and a channel that nobody uses.
pub(super) async fn look(
    findings: &mut Findings,
    connection: &mut MultiplexedConnection,
    settings: &Settings,
    place: &Place,
    shard: u16,
) {
    let stem = format!("{}:{{{shard}}}:@check-{:012x}", settings.prefix, fastrand::u64(..) >> 16);
    let mut missing = Missing::default();
    for command in commands(settings, place.info.redis_settings()) {
        if let Some(call) = probe(&command, &stem) {
            let Err(error) = ask::<redis::Value>(connection, &call).await else { continue };
            if error.is_io_error() {
                findings.fail("rights", explain(&error).0, explain(&error).1);
                return;
            }
            missing.note(&command, &error);
        }
    }
    // What could not be written need not be deleted.
    drop(ask::<redis::Value>(connection, redis::cmd("DEL").arg(&stem)).await);
    missing.tell(findings, settings, place);
}

impl Missing {
    fn note(&mut self, command: &str, error: &RedisError) {
        let text = error.to_string().to_lowercase();
        if is_no_right(error) {
            if text.contains("to run the") {
                self.commands.insert(command.to_owned());
            } else if text.contains("channel") {
                self.channels = true;
            } else {
                self.keys = true;
            }
        } else if text.contains("unknown command") || text.contains("unknown subcommand") {
            self.unknown.insert(command.to_owned());
        }
    }

    fn tell(self, findings: &mut Findings, settings: &Settings, place: &Place) {
        if !self.unknown.is_empty() {
            let words = format!("there is no command {}", list(&self.unknown));
            let remedy = "Take back the rename-command that hides it, or use another Redis";
            findings.fail("commands", words, remedy);
        }
        let mut lacks = Vec::new();
        if !self.commands.is_empty() {
            lacks.push(format!("run {}", list(&self.commands)));
        }
        if self.keys {
            lacks.push(format!("use the keys {}:*", settings.prefix));
        }
        if self.channels {
            lacks.push(format!("use the channels {}:*", settings.prefix));
        }
        if lacks.is_empty() {
            findings.ok("rights", "this user may run all that narrows runs");
            return;
        }
        let words = format!("this user may not {}", lacks.join(", nor "));
        // Only what tells more about a restart is lost.
        let only_info = self.commands.iter().all(|name| name == "info");
        let remedy = remedy(settings, place.info.redis_settings());
        if only_info && !self.keys && !self.channels {
            findings.warn("rights", words, remedy);
        } else {
            findings.fail("rights", words, remedy);
        }
    }
}

fn list(names: &BTreeSet<String>) -> String {
    let names: Vec<String> =
        names.iter().map(|name| name.replace('|', " ").to_uppercase()).collect();
    names.join(", ")
}

/// The line for a user, or for one who has yet to get a name.
pub(super) fn remedy(settings: &Settings, login: &RedisConnectionInfo) -> String {
    format!("Allow it: {}", acl_line(settings, login))
}

/// The line that makes a user who may do what narrows does, and nothing else.
fn acl_line(settings: &Settings, login: &RedisConnectionInfo) -> String {
    let user = login.username().unwrap_or("narrows");
    let prefix = escaped(&settings.prefix);
    let allowed: Vec<String> =
        commands(settings, login).iter().map(|command| format!("+{command}")).collect();
    let allowed = allowed.join(" ");
    format!(
        "ACL SETUSER {user} on >PASSWORD resetkeys ~{prefix}:* resetchannels &{prefix}:* -@all \
         {allowed}"
    )
}

/// A prefix as a pattern that matches nothing else.
fn escaped(prefix: &str) -> String {
    let mut text = String::new();
    for letter in prefix.chars() {
        if "*?[]\\^".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// All that narrows runs with these settings, as an ACL writes it.
fn commands(settings: &Settings, login: &RedisConnectionInfo) -> BTreeSet<String> {
    let own = ["evalsha", "script|load", "hgetall", "hmget", "ping"];
    let mut all: BTreeSet<String> = own.iter().map(|&name| name.to_owned()).collect();
    all.extend(scripts::commands());
    // The pool for reads looks with it whether a connection still lives.
    all.insert("unwatch".to_owned());
    let further: &[&str] = match settings.deployment {
        Deployment::Cluster { .. } => {
            &["cluster|info", "cluster|slots", "role", "spublish", "ssubscribe"]
        }
        Deployment::Sentinel { .. } => &["publish", "role", "subscribe"],
        Deployment::Single { .. } => &["publish", "subscribe"],
    };
    all.extend(further.iter().map(|&name| name.to_owned()));
    if login.db() != 0 {
        all.insert("select".to_owned());
    }
    all
}

/// A call that shows whether a command is allowed; it changes at most the key. An answer that
/// complains of the key's type is as good as any. None for what needs no call.
fn probe(command: &str, key: &str) -> Option<Cmd> {
    let arguments: &[&str] = match command {
        "cluster|info" | "cluster|slots" | "info" | "ping" | "role" | "time" | "unwatch" => &[],
        "del" | "exists" | "get" | "hgetall" | "hkeys" | "hlen" | "hvals" | "incr" | "llen"
        | "lpop" | "persist" | "pttl" | "rpop" | "ssubscribe" | "subscribe" | "ttl" | "type"
        | "unlink" | "zcard" => &[key],
        "append" | "hdel" | "hexists" | "hget" | "hmget" | "lpush" | "rpush" | "set" | "zrank"
        | "zrem" | "zscore" => &[key, "x"],
        "expire" | "lindex" | "pexpire" => &[key, "60"],
        "hincrby" | "hset" | "hsetnx" => &[key, "x", "0"],
        "evalsha" => &["0000000000000000000000000000000000000000", "1", key],
        "getrange" | "lrange" | "lrem" | "lset" | "ltrim" | "zcount" | "zrange"
        | "zrangebyscore" | "zremrangebyrank" | "zremrangebyscore" | "zrevrange" => {
            &[key, "0", "0"]
        }
        "publish" | "spublish" => &[key, ""],
        "script|load" => &["return 1"],
        "zadd" | "zincrby" => &[key, "0", "x"],
        // "select" is how the connection began.
        _ => return None,
    };
    let mut words = command.split('|');
    let mut call = redis::cmd(&words.next().unwrap_or_default().to_uppercase());
    for word in words {
        call.arg(word.to_uppercase());
    }
    for argument in arguments {
        call.arg(argument);
    }
    Some(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::nodes::Nodes;

    async fn line(settings: &Settings) -> String {
        let place = Nodes::new(settings).unwrap().place(0).await.unwrap();
        acl_line(settings, place.info.redis_settings())
    }

    #[tokio::test]
    async fn the_line_names_the_user_the_prefix_and_each_command_of_the_scripts() {
        let mut settings = Settings::new("redis://me:geheim@localhost/3");
        settings.prefix = "p*".to_owned();
        let line = line(&settings).await;
        let start = "ACL SETUSER me on >PASSWORD resetkeys ~p\\*:* resetchannels &p\\*:* -@all ";
        assert!(line.starts_with(start), "{line}");
        let some = ["evalsha", "hmget", "info", "lpush", "rpush", "script|load", "select", "zadd"];
        for command in some.map(|name| format!("+{name}")) {
            assert!(line.split(' ').any(|word| word == command), "{command} in {line}");
        }
        assert!(!line.contains("geheim"));
    }

    #[test]
    fn each_command_of_the_scripts_can_be_tried() {
        let untried: Vec<String> =
            scripts::commands().into_iter().filter(|name| probe(name, "k").is_none()).collect();
        assert!(scripts::commands().contains("info"), "{:?}", scripts::commands());
        assert!(untried.is_empty(), "a row of `probe` is missing for {untried:?}");
    }

    #[tokio::test]
    async fn who_logs_in_without_a_name_is_told_to_make_one() {
        let line = line(&Settings::new("redis://localhost")).await;
        assert!(line.starts_with("ACL SETUSER narrows on >PASSWORD "), "{line}");
        assert!(!line.contains("+select"), "{line}");
    }
}
