//! Where clients come in, out of several settings: listeners, TLS, balancers, bounds.

use std::convert::Infallible;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::flags;
use super::source::Noted;
use super::source::Origin;
use super::source::Source;
use crate::listen::Listener;
use crate::listen::Settings;
use crate::listen::tls;

/// Reads all but what stands in `address` (of `--bind` and `--port`) and `threads`.
pub(super) fn listen(
    source: &mut Source<'_>,
    address: Result<SocketAddr, Noted>,
    threads: Result<usize, Noted>,
) -> Result<Settings, Noted> {
    let listeners = source.list(&flags::LISTEN, listener);
    let has_port = source.given(&flags::PORT)?.is_some_and(|port| port.origin > Origin::Default);
    let tls = tls(source);
    let proxy_protocol_from = source.list(&flags::PROXY_PROTOCOL_FROM, network);
    let handshake_timeout = source.read(&flags::HANDSHAKE_TIMEOUT, super::some_time);
    let max_clients = source.read_if(&flags::MAX_CLIENTS, |text| super::whole(text, 1, MOST, ""));
    let max_clients_per_address = source.read(&flags::MAX_CLIENTS_PER_ADDRESS, |text| {
        super::whole(text, 0, MOST, " (as many as in all)")
    });
    let (mut listeners, tls, address) = (listeners?, tls?, address?);
    let given = source.given(&flags::BIND)?;
    if !listeners.is_empty() && !has_port && given.is_some_and(|bind| bind.origin > Origin::Default)
    {
        let warning = "--bind has no effect beside --listen unless --port is given too";
        source.warnings.push(warning.to_owned());
    }
    if !listeners.is_empty() && has_port {
        listeners.insert(0, Listener { address, tls: false });
    }
    fit(source, &listeners, tls.is_some())?;
    Ok(Settings {
        address,
        listeners,
        threads: threads?,
        tls,
        proxy_protocol_from: proxy_protocol_from?,
        handshake_timeout: handshake_timeout?,
        max_clients: max_clients?,
        max_clients_per_address: max_clients_per_address?,
    })
}

/// More clients than any machine has descriptors for.
const MOST: u64 = 100_000_000;

/// Whether listeners are in each other's way, and have the certificate they need.
fn fit(source: &mut Source<'_>, listeners: &[Listener], has_tls: bool) -> Result<(), Noted> {
    for (at, one) in listeners.iter().enumerate() {
        if let Some(other) =
            listeners[..at].iter().find(|other| super::overlap(one.address, other.address))
        {
            let (one, other) = (one.address, other.address);
            return Err(source.clash(&flags::LISTEN, &format!("{one} is in the way of {other}")));
        }
    }
    let wants = listeners.iter().find(|listener| listener.tls);
    match (wants, has_tls) {
        (Some(listener), false) => {
            let problem = format!("{listener} needs --tls-cert and --tls-key");
            Err(source.clash(&flags::LISTEN, &problem))
        }
        (None, true) if !listeners.is_empty() => {
            let problem = "no listener uses it: give one as --listen https://ADDR:PORT";
            Err(source.clash(&flags::TLS_CERT, problem))
        }
        _ => Ok(()),
    }
}

fn tls(source: &mut Source<'_>) -> Result<Option<tls::Settings>, Noted> {
    let certificate = source.read_if(&flags::TLS_CERT, path);
    let key = source.read_if(&flags::TLS_KEY, path);
    let authorities = source.read_if(&flags::TLS_CLIENT_CA, path);
    let given = source.given(&flags::TLS_CLIENT_AUTH)?;
    let has_auth = given.is_some_and(|given| given.origin > Origin::Default);
    let optional = source.read(&flags::TLS_CLIENT_AUTH, |text| match text {
        "optional" => Ok(true),
        "required" => Ok(false),
        _ => Err("required or optional"),
    });
    let (certificate, key, authorities, optional) = (certificate?, key?, authorities?, optional?);
    if authorities.is_none() && has_auth {
        let problem = "whose certificates? give --tls-client-ca too";
        return Err(source.clash(&flags::TLS_CLIENT_AUTH, problem));
    }
    let settings = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let clients = authorities.map(|authorities| tls::Clients { authorities, optional });
            tls::Settings { certificate, key, clients }
        }
        (Some(_), None) => return Err(source.clash(&flags::TLS_CERT, "give --tls-key too")),
        (None, Some(_)) => return Err(source.clash(&flags::TLS_KEY, "give --tls-cert too")),
        (None, None) if authorities.is_some() => {
            let problem = "TLS with clients needs --tls-cert and --tls-key";
            return Err(source.clash(&flags::TLS_CLIENT_CA, problem));
        }
        (None, None) => return Ok(None),
    };
    // Read here so that a wrong file is a problem like any other, told before any port is bound.
    match tls::load(&settings) {
        Ok(_) => Ok(Some(settings)),
        Err(error) => Err(source.clash(&flags::TLS_CERT, &error.to_string())),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a reader of settings, as the others")]
fn path(text: &str) -> Result<PathBuf, Infallible> {
    Ok(text.into())
}

fn listener(text: &str) -> Result<Listener, &'static str> {
    let wrong = "http://ADDR:PORT, or https://ADDR:PORT for TLS, with an IP address";
    let (tls, address) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(address), _) => (false, address),
        (None, Some(address)) => (true, address),
        (None, None) => return Err(wrong),
    };
    let address = address.strip_suffix('/').unwrap_or(address);
    address.parse().map(|address| Listener { address, tls }).map_err(|_unparsed| wrong)
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse().or_else(|_| super::bare(text).parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_unparsed| "a network such as 10.0.0.0/8 or fd00::/8, or an IP address")
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::super::Config;
    use super::*;

    fn read(line: &str) -> Result<Settings, String> {
        let arguments = ["narrows"].into_iter().chain(line.split_whitespace());
        let command = Config::read(arguments.map(Into::into), []);
        let command = command.map_err(|problems| problems.to_string())?;
        let Command::Serve(serve) = command else { panic!("{command:?}") };
        Ok(serve.config.listen)
    }

    fn told(line: &str) -> Vec<String> {
        read(line).unwrap().all().iter().map(ToString::to_string).collect()
    }

    /// A certificate, its key, and another key.
    fn files() -> (tempfile::TempDir, [String; 3]) {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["proxy.test".to_owned()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let names = [("cert", pem), ("key", key.serialize_pem()), ("other", other)];
        let paths = names.map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        });
        (folder, paths)
    }

    #[test]
    fn listeners_stand_in_the_place_of_the_port_unless_that_is_given_too() {
        assert_eq!(told(""), ["127.0.0.1:8080"]);
        assert_eq!(told("--listen http://127.0.0.1:1,http://[::1]:2/"), ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(
            told("--listen http://127.0.0.1:1 --port 7 --bind 127.0.0.2"),
            ["127.0.0.2:7", "127.0.0.1:1"]
        );
    }

    #[test]
    fn a_certificate_alone_makes_the_one_port_speak_tls() {
        let (_folder, [cert, key, _]) = files();
        let tls = format!("--tls-cert {cert} --tls-key {key}");
        assert_eq!(told(&tls), ["https://127.0.0.1:8080"]);
        let both = "--listen http://127.0.0.1:1 --listen https://127.0.0.1:2";
        assert_eq!(told(&format!("{tls} {both}")), ["127.0.0.1:1", "https://127.0.0.1:2"]);
        let with_port = format!("{tls} --port 7 --listen https://127.0.0.1:2");
        assert_eq!(told(&with_port), ["127.0.0.1:7", "https://127.0.0.1:2"]);
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let (folder, [cert, key, other]) = files();
        let empty = folder.path().join("empty").to_str().unwrap().to_owned();
        std::fs::write(&empty, "").unwrap();
        for (line, problem) in [
            ("--listen 127.0.0.1:1".to_owned(), "https://ADDR:PORT for TLS"),
            ("--listen http://localhost:1".to_owned(), "with an IP address"),
            ("--listen http://[::]:1,http://[::1]:1".to_owned(), "is in the way of"),
            ("--listen https://127.0.0.1:1".to_owned(), "needs --tls-cert and --tls-key"),
            (
                format!("--listen http://127.0.0.1:1 --tls-cert {cert} --tls-key {key}"),
                "no listener uses it",
            ),
            (format!("--tls-cert {cert}"), "give --tls-key too"),
            (format!("--tls-key {key}"), "give --tls-cert too"),
            (format!("--tls-cert {cert} --tls-key {other}"), "is not the key of the certificate"),
            (format!("--tls-cert {cert} --tls-key {cert}"), "holds no PEM private key"),
            (format!("--tls-cert {key} --tls-key {key}"), "holds no PEM certificate"),
            (format!("--tls-cert {empty} --tls-key {key}"), "holds no PEM certificate"),
            (format!("--tls-cert {empty}x --tls-key {key}"), "No such file"),
            (format!("--tls-client-ca {cert}"), "needs --tls-cert and --tls-key"),
            ("--tls-client-auth optional".to_owned(), "give --tls-client-ca too"),
            (
                format!("--tls-cert {cert} --tls-key {key} --tls-client-ca {empty}"),
                "holds no PEM certificate",
            ),
            ("--proxy-protocol-from 10.0.0.0/33".to_owned(), "a network such as"),
            ("--max-clients 0".to_owned(), "from 1 to"),
            ("--handshake-timeout 0".to_owned(), "a time above 0"),
            ("--listen http://127.0.0.1:9900".to_owned(), "is the proxy's port too"),
        ] {
            let told = read(&line).unwrap_err();
            assert!(told.contains(problem), "{line}: {told}");
        }
    }

    #[test]
    fn a_balancer_is_a_network_or_an_address() {
        let listen = read("--proxy-protocol-from 10.0.0.0/8,192.0.2.1,::1").unwrap();
        let networks: Vec<String> =
            listen.proxy_protocol_from.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.1/32", "::1/128"]);
    }
}
