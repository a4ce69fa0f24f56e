//! The log: tracing-subscriber set up.

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
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The least important level that is written.
    pub level: tracing::Level,
    /// How.
    pub format: Format,
}
