use super::*;
use crate::base::authority::Authority;
use crate::base::identity::Identity;
use crate::limit::Patience;

const INSIDE: &str = "127.0.0.1:9";
const OUTSIDE: &str = "192.0.2.9:9";

fn settings() -> Settings {
    Settings {
        reach: Reach::Any,
        allow: Vec::new(),
        deny: Vec::new(),
        otherwise: Otherwise::Allow,
        connect_ports: vec!["443".parse().unwrap()],
        own: Own {
            proxy: vec!["0.0.0.0:8080".parse().unwrap(), "127.0.0.1:8081".parse().unwrap()],
            admin: vec!["127.0.0.1:9900".parse().unwrap()],
        },
    }
}

fn rules(list: &[&str]) -> Vec<Rule> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// What becomes of a client's wish to go to a host that has these addresses, at port 443.
fn go(
    settings: &Settings,
    client: &str,
    asked: &str,
    addresses: &[&str],
) -> Result<Vec<String>, Denied> {
    let egress = Egress::new(settings.clone(), Arc::default());
    let authority = Authority::parse(asked, None).unwrap();
    let identity = Identity::Anonymous;
    let client = client.parse().unwrap();
    let errand = Errand {
        authority: &authority,
        tls: false,
        patience: Patience::None,
        client,
        identity: &identity,
        parent: None,
        request_timeout: None,
    };
    egress.ask(errand)?;
    let port = authority.port_number();
    let found = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
    let left = egress.admit(errand, found)?;
    Ok(left.iter().map(|address| address.ip().to_string()).collect())
}

fn reaches(settings: &Settings, client: &str, address: &str) -> Result<(), Denied> {
    go(settings, client, "a.test:443", &[address]).map(drop)
}

/// This machine, its link and the metadata of clouds, in every coat.
const LOCAL: [&str; 24] = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "::",
    "::1",
    "fe80::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "64:ff9b:1:7f00:0:100::",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:db8::5efe:127.0.0.1",
    "fe80::5efe:192.0.2.1",
];

#[test]
fn a_client_from_elsewhere_never_reaches_this_machine_or_a_clouds_word() {
    for address in LOCAL {
        assert_eq!(reaches(&settings(), OUTSIDE, address), Err(Denied::Address), "{address}");
        assert_eq!(reaches(&settings(), INSIDE, address), Ok(()), "{address}");
    }
    for address in ["192.0.2.1", "10.0.0.1", "192.168.1.1", "fd00::1", "2606:4700::1111"] {
        assert_eq!(reaches(&settings(), OUTSIDE, address), Ok(()), "{address}");
    }
    assert_eq!(reaches(&settings(), "[::1]:9", "127.0.0.1"), Ok(()));
    assert_eq!(reaches(&settings(), "[::ffff:127.0.0.1]:9", "::1"), Ok(()));
    assert_eq!(reaches(&settings(), "[::ffff:192.0.2.9]:9", "::1"), Err(Denied::Address));
}

#[test]
fn nobody_reaches_the_proxy_through_itself() {
    let asked =
        |client, address: &str| go(&settings(), client, "a.test:8080", &[address]).map(drop);
    for address in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::ffff:127.0.0.1", "2002:7f00:1::"] {
        assert_eq!(asked(INSIDE, address), Err(Denied::Loop), "{address}");
        assert_eq!(asked(OUTSIDE, address), Err(Denied::Address), "{address}");
    }
    let mut open = settings();
    open.allow = rules(&["127.0.0.0/8", "*"]);
    let answer = go(&open, INSIDE, "a.test:8080", &["127.0.0.1"]);
    assert_eq!(answer, Err(Denied::Loop), "no rule makes a loop useful");
    assert_eq!(asked(INSIDE, "::1"), Ok(()), "a socket of IPv4 has no IPv6");
    assert_eq!(asked(INSIDE, "203.0.113.77"), Ok(()), "another machine's port of that number");
    let at = |address| go(&settings(), INSIDE, "a.test:8081", &[address]).map(drop);
    assert_eq!(at("127.0.0.1"), Err(Denied::Loop));
    assert_eq!(at("127.0.0.2"), Ok(()), "it listens on 127.0.0.1 alone");
    assert_eq!(at("0.0.0.0"), Err(Denied::Loop), "which is 127.0.0.1 to connect(2)");
}

#[test]
fn an_address_of_this_machine_is_known_whichever_it_is() {
    assert!(is_here("127.3.2.1".parse().unwrap()) && is_here("::1".parse().unwrap()));
    assert!(!is_here("192.0.2.200".parse().unwrap()));
    let mut everywhere = settings();
    everywhere.own.proxy = vec!["[::]:443".parse().unwrap()];
    for address in ["127.0.0.1", "::1", "::", "0.0.0.0", "::ffff:127.0.0.1"] {
        assert_eq!(reaches(&everywhere, INSIDE, address), Err(Denied::Loop), "{address}");
    }
    assert_eq!(reaches(&everywhere, INSIDE, "192.0.2.200"), Ok(()));
}

#[test]
fn the_admin_port_is_for_clients_on_loopback_and_who_is_let_in_by_a_rule() {
    let to =
        |settings: &Settings, client| go(settings, client, "a.test:9900", &["192.0.2.1"]).map(drop);
    let mut far = settings();
    far.own.admin = vec!["192.0.2.1:9900".parse().unwrap()];
    assert_eq!(to(&far, INSIDE), Ok(()));
    assert_eq!(to(&far, OUTSIDE), Err(Denied::Address));
    far.allow = rules(&["192.0.2.1:9900"]);
    assert_eq!(to(&far, OUTSIDE), Ok(()));
}

#[test]
fn public_only_is_for_loopback_clients_too() {
    let closed = Settings { reach: Reach::PublicOnly, ..settings() };
    let others = ["10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "198.18.0.1", "224.0.0.1"];
    let six =
        ["fd00::1", "2001:db8::1", "3fff::1", "5f00::1", "ff02::1", "100::1", "2002:808:808::"];
    let inner = ["64:ff9b::10.0.0.1", "::ffff:10.0.0.1", "2606:4700::5efe:10.0.0.1"];
    for address in LOCAL.iter().chain(&others).chain(&six).chain(&inner) {
        for client in [INSIDE, OUTSIDE] {
            assert_eq!(reaches(&closed, client, address), Err(Denied::Address), "{address}");
        }
    }
    for address in ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"] {
        assert_eq!(reaches(&closed, OUTSIDE, address), Ok(()), "{address}");
    }
}

#[test]
fn deny_beats_allow_and_allow_beats_what_holds_without_rules() {
    let mut settings = Settings { reach: Reach::PublicOnly, ..settings() };
    settings.allow = rules(&["10.0.0.0/8", "127.0.0.1:443"]);
    settings.deny = rules(&["10.6.0.0/16", "bad.test", "*.bad.test"]);
    assert_eq!(reaches(&settings, OUTSIDE, "10.0.0.1"), Ok(()));
    assert_eq!(reaches(&settings, OUTSIDE, "10.6.0.1"), Err(Denied::Address));
    assert_eq!(reaches(&settings, OUTSIDE, "::ffff:10.6.0.1"), Err(Denied::Address));
    assert_eq!(reaches(&settings, OUTSIDE, "64:ff9b::10.6.0.1"), Err(Denied::Address));
    assert_eq!(reaches(&settings, OUTSIDE, "64:ff9b::10.5.0.1"), Ok(()), "both faces may");
    assert_eq!(reaches(&settings, OUTSIDE, "127.0.0.1"), Ok(()));
    assert_eq!(reaches(&settings, OUTSIDE, "127.0.0.2"), Err(Denied::Address));
    for name in ["bad.test:443", "a.bad.test:443"] {
        assert_eq!(go(&settings, OUTSIDE, name, &["8.8.8.8"]), Err(Denied::Host));
    }
}

#[test]
fn a_rule_for_a_name_opens_no_address() {
    let mut settings = settings();
    settings.allow = rules(&["a.test", "*"]);
    assert_eq!(reaches(&settings, OUTSIDE, "127.0.0.1"), Err(Denied::Address));
    assert_eq!(reaches(&settings, OUTSIDE, "169.254.169.254"), Err(Denied::Address));
    settings.allow = rules(&["169.254.169.254:443"]);
    assert_eq!(reaches(&settings, OUTSIDE, "169.254.169.254"), Ok(()), "one for it does");
}

#[test]
fn a_rule_for_a_coat_does_not_open_what_is_in_it() {
    let mut settings = settings();
    settings.allow = rules(&["64:ff9b::/96", "2002::/16"]);
    for address in ["64:ff9b::127.0.0.1", "2002:a9fe:a9fe::1"] {
        assert_eq!(reaches(&settings, OUTSIDE, address), Err(Denied::Address), "{address}");
    }
}

#[test]
fn what_no_rule_allows_is_denied_where_that_is_the_default() {
    let mut settings = Settings { otherwise: Otherwise::Deny, ..settings() };
    settings.allow = rules(&["a.test", "*.b.test:443"]);
    let to = |settings: &Settings, asked| go(settings, OUTSIDE, asked, &["8.8.8.8"]).map(drop);
    assert_eq!(to(&settings, "a.test:80"), Ok(()));
    assert_eq!(to(&settings, "x.b.test:443"), Ok(()));
    assert_eq!(to(&settings, "x.b.test:80"), Err(Denied::Host), "before any look-up");
    assert_eq!(to(&settings, "8.8.8.8:80"), Err(Denied::Host));
    settings.allow.extend(rules(&["8.8.8.0/24"]));
    assert_eq!(to(&settings, "c.test:80"), Ok(()), "the address is allowed");
    assert_eq!(go(&settings, OUTSIDE, "c.test:80", &["9.9.9.9"]), Err(Denied::Address));
    assert_eq!(go(&settings, OUTSIDE, "a.test:80", &["9.9.9.9"]).map(drop), Ok(()));
}

#[test]
fn of_several_addresses_those_that_may_be_dialled_are_left() {
    let mixed = ["::1", "8.8.8.8", "127.0.0.1", "2606:4700::1111", "10.0.0.1"];
    let left = go(&settings(), OUTSIDE, "a.test:443", &mixed);
    assert_eq!(left.unwrap(), ["8.8.8.8", "2606:4700::1111", "10.0.0.1"]);
    let left = go(&settings(), OUTSIDE, "a.test:443", &["::1", "127.0.0.1"]);
    assert_eq!(left, Err(Denied::Address));
}
