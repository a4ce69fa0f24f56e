//! Promises of the screen before hyper's client, tried with any bytes (`crate::fuzzing`).

use httparse::Status::Complete;

use super::Bounds;
use super::Expected;
use super::Screen;
use super::State;

/// What goes on to hyper is the same in whatever pieces it comes, and httparse reads each head of it.
pub fn response(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let expected = Expected::new(kind & 1 == 1, kind & 2 == 2);
    let whole = pass(bytes, expected, bytes.len());
    for piece in [1, 5] {
        let part = pass(bytes, expected, piece);
        assert_eq!(part.1, whole.1, "in pieces of {piece}");
        // Before a fault in a body, what came in good order may be on its way already.
        assert!(part.0 == whole.0 || (whole.1.is_some() && part.0 > whole.0), "in {piece}s");
    }
    let mut rest = &bytes[..whole.0];
    while !rest.is_empty() {
        let mut room = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut room);
        let read = response.parse(rest);
        assert!(read.is_ok_and(|status| status.is_complete()), "httparse does not read {rest:?}");
        let length =
            read.map_or(0, |status| if let Complete(length) = status { length } else { 0 });
        match response.code {
            Some(100 | 102..=199) => rest = &rest[length..],
            Some(_) | None => break,
        }
    }
}

/// How many bytes pass, and what is wrong.
fn pass(bytes: &[u8], expected: Expected, piece: usize) -> (usize, Option<super::Fault>) {
    let mut screen = Screen::new(Bounds::default());
    screen.begin(expected);
    let (mut passed, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece.max(1));
        passed += screen.pass(&bytes[passed..end]);
        if let State::Failed(fault) = screen.state {
            return (passed, Some(fault));
        }
    }
    (passed, None)
}
