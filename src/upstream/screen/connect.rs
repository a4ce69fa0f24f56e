//! The answer to a CONNECT: a head, judged as that of any response, with nothing behind it that
//! would be part of it.

use super::Bounds;
use super::Expected;
use super::Fault;
use super::head::After;
use super::head::Scan;

/// 1xx answers before the final one.
const INTERIM: usize = 8;

/// An answer as it comes.
#[derive(Debug)]
pub(crate) struct Answer {
    bounds: Bounds,
    scan: Scan,
    head: Vec<u8>,
    interim: usize,
}

impl Answer {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, scan: Scan::default(), head: Vec::new(), interim: 0 }
    }

    /// Looks at what comes next; how much of it belongs to the answer and its status, once that is
    /// whole.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Result<Option<(usize, u16)>, Fault> {
        // RFC 9110 §9.3.6: a length in a 2xx is to be ignored, and the body of any other is of no
        // interest: as to HEAD.
        let expected = Expected::new(true, false);
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        // Of what is in `head`, where the bytes that came now begin, and where the current head does.
        let (fresh, mut at) = (before, 0);
        loop {
            let found = self.scan.look(&self.head[at..], expected, &self.bounds)?;
            let Some((length, after)) = found else {
                self.head.drain(..at);
                return Ok(None);
            };
            at += length;
            let status = self.scan.status();
            if after != After::Head {
                return Ok(Some((at - fresh, status)));
            }
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(Fault::Interim);
            }
            self.scan = Scan::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pieces: &[&str]) -> Result<Option<(usize, u16)>, Fault> {
        let mut answer = Answer::new(Bounds::default());
        let mut told = Ok(None);
        for piece in pieces {
            told = answer.look(piece.as_bytes());
            if !matches!(told, Ok(None)) {
                break;
            }
        }
        told
    }

    #[test]
    fn what_stands_behind_the_head_is_not_the_answers() {
        let head = "HTTP/1.1 200 Connection established\r\n\r\n";
        let all = format!("{head}SSH-2.0-x\r\n");
        assert_eq!(look(&[&all]), Ok(Some((head.len(), 200))));
        assert_eq!(look(&[&all[..10], &all[10..]]), Ok(Some((head.len() - 10, 200))));
        let interim = "HTTP/1.1 103 x\r\nA: b\r\n\r\n";
        let both = format!("{interim}{all}");
        assert_eq!(look(&[&both]), Ok(Some((interim.len() + head.len(), 200))));
        let cut = interim.len() + 5;
        assert_eq!(look(&[&both[..cut], &both[cut..]]), Ok(Some((head.len() - 5, 200))));
    }

    #[test]
    fn a_length_in_a_2xx_is_ignored_and_other_statuses_are_told() {
        let with = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(look(&[with]), Ok(Some((with.len(), 200))));
        let refused = "HTTP/1.0 407 x\r\nProxy-Authenticate: Basic\r\n\r\n";
        assert_eq!(look(&[refused]), Ok(Some((refused.len(), 407))));
    }

    #[test]
    fn what_is_no_answer_or_never_ends_is_refused() {
        assert_eq!(look(&["SSH-2.0-x\r\n"]), Err(Fault::NotHttp));
        assert_eq!(look(&["HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n"]), Err(Fault::Switch));
        let interim = "HTTP/1.1 100 x\r\n\r\n".repeat(INTERIM + 1);
        assert_eq!(look(&[&interim]), Err(Fault::Interim));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n", "x".repeat(70_000));
        assert_eq!(look(&[&long]), Err(Fault::HeadSize));
    }
}
