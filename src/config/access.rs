//! Who may use the proxy, and what each of them may have; and `narrows passwd`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Arg;
use clap::ArgMatches;
use clap::Command;
use clap::builder::OsStringValueParser;
use ipnet::IpNet;

use super::bare;
use super::flags;
use super::limit;
use super::source::Noted;
use super::source::Source;
use super::whole;
use crate::limit::identities::EACH;
use crate::limit::identities::Identities;
use crate::policy::access;
use crate::policy::access::Settings;

/// The subcommand.
pub(super) const PASSWD: &str = "passwd";
const NAME: &str = "NAME";

/// A line of a users file that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwd {
    /// The user; without one the hash stands alone.
    pub name: Option<String>,
}

pub(super) fn command() -> Command {
    Command::new(PASSWD)
        .about(
            "Print a line for the file of --proxy-auth; the password is read from standard input",
        )
        .arg(
            Arg::new(NAME)
                .value_parser(OsStringValueParser::new())
                .help("The user; without a name only the hash is printed"),
        )
}

/// What [`PASSWD`] asks for.
pub(super) fn passwd(source: &mut Source<'_>, matches: &ArgMatches) -> Result<Passwd, Noted> {
    let Some(name) = matches.get_one::<OsString>(NAME) else { return Ok(Passwd { name: None }) };
    let name = name.to_string_lossy().into_owned();
    match access::check_name(&name) {
        Ok(()) => Ok(Passwd { name: Some(name) }),
        Err(why) => {
            source.problems.push(format!("{NAME}: {name:?} is not allowed: {why}"));
            Err(Noted)
        }
    }
}

pub(super) fn read(source: &mut Source<'_>) -> Result<Settings, Noted> {
    let users = source.read_if(&flags::PROXY_AUTH, users);
    let queue =
        source.read(&flags::PROXY_AUTH_QUEUE, |text| whole::<usize>(text, 1, 1_000_000, ""));
    let networks = source.list(&flags::ALLOW_FROM, network);
    Ok(Settings { users: users?, queue: queue?, networks: networks? })
}

pub(super) fn identities(source: &mut Source<'_>) -> Result<Identities, Noted> {
    let limits = source.list(&flags::IDENTITY_LIMIT, |text| pair(text, limit));
    let weights =
        source.list(&flags::IDENTITY_WEIGHT, |text| pair(text, |weight| whole(weight, 1, 100, "")));
    let mut identities = Identities::default();
    for (name, limit) in limits? {
        identities.set_limit(&name, limit);
    }
    for (name, weight) in weights? {
        identities.set_weight(&name, weight);
    }
    Ok(identities)
}

/// A name may have a `=`, a number has none.
fn pair(text: &str, number: impl Fn(&str) -> Result<u32, String>) -> Result<(String, u32), String> {
    let (name, value) = text.rsplit_once('=').ok_or("NAME=N, or *=N")?;
    let name = name.trim();
    if name != EACH {
        access::check_name(name).map_err(|why| why.to_string())?;
    }
    let value =
        number(value.trim()).map_err(|allowed| format!("behind the = must be {allowed}"))?;
    Ok((name.to_owned(), value))
}

fn users(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match access::check_users(&path) {
        Ok(_count) => Ok(path),
        Err(error) => Err(format!("a file of users, one NAME:HASH a line ({error})")),
    }
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    let allowed = "a network such as 10.0.0.0/8, 2001:db8::/32, or one address";
    let network = match text.parse() {
        Ok(network) => network,
        Err(_no_network) => IpNet::from(
            bare(text).parse::<std::net::IpAddr>().map_err(|_no_address| allowed)?.to_canonical(),
        ),
    };
    Ok(network.trunc())
}

#[cfg(test)]
mod tests {
    use super::super::Command as Asked;
    use super::super::tests::problems;
    use super::super::tests::read;
    use crate::policy::access::hash_password;

    fn config(words: &[&str]) -> super::super::Config {
        let asked = read(words, &[]).unwrap();
        let Asked::Serve(serve) = asked else { panic!("{asked:?}") };
        serve.config
    }

    #[test]
    fn nothing_is_asked_of_anybody_unless_it_is_said() {
        assert!(config(&[]).clients.is_open());
        assert_eq!(config(&[]).clients.queue, 256);
    }

    #[test]
    fn networks_are_read_as_networks_and_as_addresses() {
        let words = ["--allow-from", "10.1.2.3/8,::ffff:192.0.2.1", "--allow-from", "[::1]"];
        let networks: Vec<String> =
            config(&words).clients.networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.1/32", "::1/128"]);
        for wrong in ["10.0.0.0/33", "example.com", "10.0.0"] {
            let told = problems(&["--allow-from", wrong], &[]);
            assert!(told[0].contains("is not allowed: a network such as 10.0.0.0/8"), "{told:?}");
        }
    }

    #[test]
    fn a_users_file_is_looked_at_before_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let flag = ["--proxy-auth", path.to_str().unwrap()];
        let told = problems(&flag, &[]);
        assert!(
            told[0].contains("a file of users, one NAME:HASH a line (cannot be read"),
            "{told:?}"
        );
        std::fs::write(&path, "# nobody\nalice:opensesame\n").unwrap();
        let told = problems(&flag, &[]);
        assert!(told[0].contains("(line 2: the hash must be argon2's"), "{told:?}");
        assert!(!told[0].contains("sesame"), "{told:?}");
        std::fs::write(&path, format!("alice:{}\n", hash_password(b"x").unwrap())).unwrap();
        assert_eq!(config(&flag).clients.users, Some(path));
    }

    #[test]
    fn what_identities_may_have_is_a_name_and_a_number() {
        for wrong in ["alice", "=5", "a:b=5", "alice=", "alice=-1", "*=x"] {
            assert_eq!(problems(&["--identity-limit", wrong], &[]).len(), 1, "{wrong}");
        }
        for wrong in ["alice=0", "alice=101"] {
            let told = problems(&["--identity-weight", wrong], &[]);
            assert!(told[0].contains("must be a whole number from 1 to 100"), "{told:?}");
        }
        config(&["--identity-limit", "*=5,alice=0,a=b=2", "--identity-weight", "alice=3"]);
    }

    #[test]
    fn a_line_is_made_for_a_name_that_can_be_one() {
        let asked = |words: &[&str]| {
            let asked = read(words, &[]).unwrap();
            let Asked::Passwd(passwd) = asked else { panic!("{asked:?}") };
            passwd.name
        };
        assert_eq!(asked(&["passwd"]), None);
        assert_eq!(asked(&["passwd", "alice"]), Some("alice".to_owned()));
        let told = problems(&["passwd", "a:b"], &[]);
        assert!(told[0].starts_with("NAME: \"a:b\" is not allowed: the name must be"), "{told:?}");
    }
}
