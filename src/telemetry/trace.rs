//! The log: tracing-subscriber set up, on standard error.
//!
//! Only the binary calls [`init`]. The library emits events and leaves it to its host program
//! where they go.

use std::io::IsTerminal;
use std::io::Write;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Filter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Text for people.
    #[default]
    Text,
}

/// What the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least important level that is written.
    pub level: Level,
    /// How.
    pub format: Format,
    /// Whether text may be coloured where standard error is a terminal (<https://no-color.org>).
    pub colour: bool,
}

/// Sends all events of the process to standard error. False when the process has a subscriber
/// already; that one stays.
pub fn init(settings: &Settings) -> bool {
    let colour = settings.colour && std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    let layer = layer(settings, colour, std::io::stderr, filter);
    let is_ours = tracing::subscriber::set_global_default(Registry::default().with(layer)).is_ok();
    is_ours && FILTER.set(handle).is_ok()
}

/// What is written of the events that [`init`] sends somewhere.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Has other events written from now on. False without [`init`]: then the level is the host
/// program's.
pub fn set_level(level: Level) -> bool {
    FILTER.get().is_some_and(|handle| handle.reload(filter(level)).is_ok())
}

fn layer<W>(
    settings: &Settings,
    colour: bool,
    to: W,
    filter: impl Filter<Registry> + Send + Sync + 'static,
) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    for<'a> <W as MakeWriter<'a>>::Writer: Write,
{
    // A log that cannot be written is no reason to panic: `log_internal_errors` would print to
    // standard error, which is what fails.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(to)
        .with_ansi(colour)
        .log_internal_errors(false);
    match settings.format {
        Format::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
        Format::Text => layer.with_filter(filter).boxed(),
    }
}

/// Our own events at `level`. Those of the crates below only as warnings, so that "debug" is the
/// connection tracker that it is said to be; "trace" shows all.
fn filter(level: Level) -> Targets {
    let others = if level == Level::TRACE { Level::TRACE } else { level.min(Level::WARN) };
    Targets::new()
        .with_default(LevelFilter::from_level(others))
        .with_target("narrows", LevelFilter::from_level(level))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(level: Level, format: Format, speak: impl FnOnce()) -> String {
        let page = Page::default();
        let settings = Settings { level, format, colour: true };
        let writer = page.clone();
        let layer = layer(&settings, false, move || writer.clone(), filter(level));
        tracing::subscriber::with_default(Registry::default().with(layer), speak);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_less_important_than_the_level_is_left_out() {
        let text = written(Level::INFO, Format::Text, || {
            tracing::info!(host = "a.test", "told");
            tracing::debug!("kept quiet");
        });
        assert!(text.contains("told") && text.contains("host=\"a.test\""), "{text}");
        assert!(!text.contains("quiet"), "{text}");
    }

    #[test]
    fn another_level_holds_at_once() {
        let page = Page::default();
        let settings = Settings { level: Level::INFO, format: Format::Text, colour: true };
        let writer = page.clone();
        let (filter, handle) = reload::Layer::new(filter(settings.level));
        let layer = layer(&settings, false, move || writer.clone(), filter);
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            for _ in 0..2 {
                tracing::debug!("before");
            }
            handle.reload(super::filter(Level::DEBUG)).unwrap();
            tracing::debug!("after");
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("after") && !text.contains("before"), "{text}");
    }

    #[test]
    fn debug_is_ours_alone() {
        let text = written(Level::DEBUG, Format::Text, || {
            tracing::debug!(target: "narrows::upstream", "ours");
            tracing::debug!(target: "hickory_proto", "theirs");
            tracing::warn!(target: "hickory_proto", "grave");
        });
        assert!(text.contains("ours") && text.contains("grave"), "{text}");
        assert!(!text.contains("theirs"), "{text}");
    }

    #[test]
    fn json_has_the_fields_at_the_top() {
        let text = written(Level::INFO, Format::Json, || {
            tracing::warn!(host = "a.test", count = 3, "connection refused");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "connection refused");
        assert_eq!((&line["host"], &line["count"]), (&"a.test".into(), &3.into()));
        assert_eq!(line["level"], "WARN");
    }
}
