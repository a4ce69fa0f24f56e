//! When hosts to which no tunnel can be opened are left alone.

use super::flags;
use super::mode;
use super::some_time;
use super::source::Noted;
use super::source::Source;
use super::whole;
use crate::policy::breaker::Settings;

pub(super) fn connects(source: &mut Source<'_>) -> Result<Option<Settings>, Noted> {
    let failures = source.read(&flags::CONNECT_BREAKER_FAILURES, |text| match text {
        "off" => Ok(0),
        _ => whole(text, 1, 1_000_000, "").map_err(|allowed| format!("{allowed}, or off")),
    });
    let reset_timeout = source.read(&flags::CONNECT_BREAKER_RESET, some_time);
    let mode = source.read(&flags::CONNECT_BREAKER_MODE, mode);
    let (failure_threshold, reset_timeout, mode) = (failures?, reset_timeout?, mode?);
    let settings = Settings {
        mode,
        failure_threshold,
        reset_timeout,
        // One tunnel that opens says all that there is to be known.
        success_threshold: 1,
        ..Settings::default()
    };
    Ok((failure_threshold > 0).then_some(settings))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::problems;
    use super::super::tests::serve;

    #[test]
    fn tunnels_have_a_breaker_if_they_are_given_one() {
        let read = |args: &[&str]| serve(args, &[]).config.proxy.connect_breaker;
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["--connect-breaker-failures", "off"]), None);
        let breaker = read(&["--connect-breaker-failures", "3"]).unwrap();
        assert_eq!((breaker.failure_threshold, breaker.success_threshold), (3, 1));
        assert_eq!(breaker.reset_timeout, Duration::from_secs(30));
        let set = ["--connect-breaker-failures=3", "--connect-breaker-reset=500ms"];
        assert_eq!(read(&set).unwrap().reset_timeout, Duration::from_millis(500));
    }

    #[test]
    fn impossible_values_are_named() {
        let bad = ["--connect-breaker-failures=0", "--connect-breaker-reset=0"];
        let found = problems(&bad, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("--connect-breaker-failures"), "{found:?}");
        assert!(found[1].contains("--connect-breaker-reset"), "{found:?}");
    }
}
