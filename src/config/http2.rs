//! What a connection of HTTP/2 may have, from text.

use super::bounds::bytes;
use super::flags;
use super::source::Noted;
use super::source::Source;
use super::whole;
use crate::proxy::Http2;

/// The smallest and the largest window of a stream that can be asked for.
const WINDOWS: (u64, u64) = (64 * 1024, 16 * 1024 * 1024);

pub(super) fn read(source: &mut Source<'_>) -> Result<Http2, Noted> {
    let max_streams = source.read(&flags::HTTP2_MAX_STREAMS, |text| whole(text, 1, 65_535, ""));
    let (smallest, largest) = WINDOWS;
    let window = source.read(&flags::HTTP2_WINDOW, |text| bytes(text, smallest, largest));
    let max_resets = source.read(&flags::HTTP2_MAX_RESETS, |text| whole(text, 1, 1_000_000, ""));
    Ok(Http2 { max_streams: max_streams?, window: window?, max_resets: max_resets? })
}
