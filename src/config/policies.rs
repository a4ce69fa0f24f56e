//! APIs and their policies, out of the file and the settings of the default API.

use super::file;
use super::file::tree::Node;
use super::source::Source;
use crate::policy::api::Settings;

/// Reads all APIs. `file` is what the config file holds.
pub(super) fn read(source: &mut Source<'_>, file: Option<Node>) -> Vec<Settings> {
    let Some(root) = file else { return Vec::new() };
    let mut notes = file::Notes::default();
    let apis = file::apis(&root, &[], &mut notes);
    source.note(notes);
    apis
}
