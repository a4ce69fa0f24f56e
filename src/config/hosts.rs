//! What is remembered of hosts: settings of `limit::hosts`.

use std::time::Duration;

use super::flags;
use super::source::Noted;
use super::source::Source;
use super::units;
use super::whole;
use crate::limit::hosts::Settings;

/// It is looked twice as often for hosts that nobody uses.
const SHORTEST: Duration = Duration::from_millis(100);

pub(super) fn read(source: &mut Source<'_>) -> Result<Settings, Noted> {
    let idle = source.read(&flags::HOST_IDLE, |text| match units::duration(text) {
        Ok(time) if time >= SHORTEST => Ok(time),
        _ => Err("a time from 100ms to 365d, such as 10s or 5m"),
    });
    let named = source.read(&flags::METRICS_HOSTS, |text| whole(text, 0, 100_000, ""));
    Ok(Settings { idle: idle?, named: named? })
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::serve;
    use super::*;

    #[test]
    fn hosts_are_remembered_for_ten_seconds_unless_told() {
        let hosts = serve(&[], &[]).config.limit.hosts;
        assert_eq!((hosts.idle, hosts.named), (Duration::from_secs(10), 100));
        let hosts =
            serve(&["--host-idle", "1m"], &[("NARROWS_METRICS_HOSTS", "0")]).config.limit.hosts;
        assert_eq!((hosts.idle, hosts.named), (Duration::from_mins(1), 0));
    }

    #[test]
    fn what_is_not_allowed_is_told() {
        for (flag, value, allowed) in [
            ("--host-idle", "0", "a time from 100ms to 365d"),
            ("--host-idle", "99ms", "a time from 100ms to 365d"),
            ("--metrics-hosts", "100001", "a whole number from 0 to 100000"),
            ("--metrics-hosts", "-1", "a whole number from 0 to 100000"),
        ] {
            let told = problems(&[flag, value], &[]);
            assert!(told.len() == 1 && told[0].contains(flag), "{told:?}");
            assert!(told[0].contains(value) && told[0].contains(allowed), "{told:?}");
        }
    }
}
