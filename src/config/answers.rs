//! What answers tell.

use super::flags;
use super::source::Noted;
use super::source::Source;

#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    pub(super) explain: bool,
    pub(super) details: bool,
}

pub(super) fn read(source: &mut Source<'_>) -> Result<Answers, Noted> {
    let explain = source.read(&flags::EXPLAIN, switch);
    let details = source.read(&flags::ERROR_DETAILS, switch);
    Ok(Answers { explain: explain?, details: details? })
}

fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::problems;
    use super::super::tests::serve;

    #[test]
    fn answers_tell_little_unless_they_are_asked_to() {
        let read = |args: &[&str]| {
            let proxy = serve(args, &[]).config.proxy;
            (proxy.explain, proxy.error_details)
        };
        assert_eq!(read(&[]), (false, false));
        assert_eq!(read(&["--explain", "on"]), (true, false));
        assert_eq!(read(&["--error-details", "on"]), (false, true));
        let found = problems(&["--explain", "yes"], &[]);
        assert!(found[0].contains("\"yes\" is not allowed: on or off"), "{found:?}");
    }
}
