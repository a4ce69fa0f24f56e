//! Where the proxy may go: the text of its rules.

use super::flags;
use super::source::Noted;
use super::source::Source;
use crate::upstream::egress::Otherwise;
use crate::upstream::egress::Own;
use crate::upstream::egress::Ports;
use crate::upstream::egress::Reach;
use crate::upstream::egress::Rule;
use crate::upstream::egress::Settings;

pub(super) fn read(source: &mut Source<'_>) -> Result<Settings, Noted> {
    let reach = source.read(&flags::EGRESS, |text| match text {
        "any" => Ok(Reach::Any),
        "public-only" => Ok(Reach::PublicOnly),
        _ => Err("any or public-only"),
    });
    let allow = source.list(&flags::EGRESS_ALLOW, str::parse::<Rule>);
    let deny = source.list(&flags::EGRESS_DENY, str::parse::<Rule>);
    let otherwise = source.read(&flags::EGRESS_DEFAULT, |text| match text {
        "allow" => Ok(Otherwise::Allow),
        "deny" => Ok(Otherwise::Deny),
        _ => Err("allow or deny"),
    });
    let connect_ports = source.list(&flags::CONNECT_PORTS, str::parse::<Ports>);
    let settings = Settings {
        reach: reach?,
        allow: allow?,
        deny: deny?,
        otherwise: otherwise?,
        connect_ports: connect_ports?,
        own: Own::default(),
    };
    if settings.otherwise == Otherwise::Deny && settings.allow.is_empty() {
        let warning = "--egress-default deny without --egress-allow lets no request go anywhere";
        source.warnings.push(warning.to_owned());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::serve;
    use super::*;

    #[test]
    fn rules_come_from_flags_and_variables() {
        let read = |args: &[&str], env: &[(&str, &str)]| serve(args, env).config.upstream.egress;
        let settings = read(&[], &[]);
        assert_eq!((settings.reach, settings.otherwise), (Reach::Any, Otherwise::Allow));
        assert!(settings.allow.is_empty() && settings.deny.is_empty());
        let ports: Vec<String> = settings.connect_ports.iter().map(Ports::to_string).collect();
        assert_eq!(ports, ["80", "443", "1024-65535"]);

        let args = ["--egress", "public-only", "--egress-allow", "a.test, 10.0.0.0/8:80"];
        let settings = read(&args, &[("NARROWS_EGRESS_DENY", "*:25,[::1]:80")]);
        assert_eq!(settings.reach, Reach::PublicOnly);
        assert_eq!((settings.allow.len(), settings.deny.len()), (2, 2));
        let settings = read(&["--connect-ports", "443", "--connect-ports", "8443"], &[]);
        assert_eq!(settings.connect_ports.len(), 2);
    }

    #[test]
    fn what_is_no_rule_is_named_with_what_would_be_one() {
        let found = problems(
            &["--egress", "none", "--egress-allow", "10.0.0.1/8,a.test", "--egress-deny", "a..b"],
            &[("NARROWS_CONNECT_PORTS", "0"), ("NARROWS_EGRESS_DEFAULT", "perhaps")],
        );
        for part in [
            "--egress (or NARROWS_EGRESS): \"none\" is not allowed: any or public-only",
            "\"10.0.0.1/8\" is not allowed: a network's address must end where its prefix does",
            "\"a..b\" is not allowed: HOST, *.SUFFIX, *, an address or a network",
            "--connect-ports (NARROWS_CONNECT_PORTS): \"0\" is not allowed: a port from 1",
            "--egress-default (NARROWS_EGRESS_DEFAULT): \"perhaps\" is not allowed: allow or deny",
        ] {
            assert!(found.iter().any(|problem| problem.contains(part)), "{part}: {found:?}");
        }
    }

    #[test]
    fn denying_all_is_warned_of() {
        let warnings = |args: &[&str]| serve(args, &[]).warnings.len();
        assert_eq!(warnings(&["--egress-default", "deny"]), 1);
        assert_eq!(warnings(&["--egress-default", "deny", "--egress-allow", "a.test"]), 0);
    }
}
