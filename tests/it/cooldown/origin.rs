//! An origin that writes down who came when, and refuses one request when it is told to.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use crate::support::Origin;
use crate::support::origin::MARK;

pub(crate) struct Asked {
    origin: Origin,
    start: Instant,
    page: Arc<Mutex<Page>>,
}

#[derive(Default)]
struct Page {
    /// Status line and field of the next answer, if that is another than 200.
    next: Option<(String, String)>,
    came: Vec<(Instant, String)>,
    limited: Option<Instant>,
}

impl Asked {
    pub(crate) fn start() -> Self {
        let page = Arc::<Mutex<Page>>::default();
        let shared = Arc::clone(&page);
        let origin = Origin::raw(move |mut connection| {
            let page = Arc::clone(&shared);
            async move {
                while let Ok(Some(head)) = connection.head().await {
                    let now = Instant::now();
                    let credential = head.field("authorization").unwrap_or_default().to_owned();
                    let next = {
                        let mut page = page.lock().unwrap();
                        page.came.push((now, credential));
                        let next = page.next.take();
                        page.limited = next.as_ref().map(|_| now).or(page.limited);
                        next
                    };
                    let answer = match next {
                        Some((status, field)) => format!(
                            "HTTP/1.1 {status}\r\n{MARK}: 1\r\n{field}\r\nContent-Length: 9\r\n\r\n\
                             slow down"
                        ),
                        None => {
                            format!("HTTP/1.1 200 OK\r\n{MARK}: 1\r\nContent-Length: 2\r\n\r\nok")
                        }
                    };
                    if connection.send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { origin, start: Instant::now(), page }
    }

    pub(crate) fn url(&self) -> String {
        self.origin.url("/")
    }

    pub(crate) fn authority(&self) -> String {
        self.origin.authority()
    }

    /// The next request gets a 429 with this field.
    pub(crate) fn limit_next(&self, field: &str) {
        self.answer_next("429 Too Many Requests", field);
    }

    pub(crate) fn answer_next(&self, status: &str, field: &str) {
        self.page.lock().unwrap().next = Some((status.to_owned(), field.to_owned()));
    }

    /// When the last one came that was refused.
    pub(crate) fn limited(&self) -> Option<Instant> {
        self.page.lock().unwrap().limited
    }

    /// When the last one came.
    pub(crate) fn last(&self) -> Instant {
        self.page.lock().unwrap().came.last().unwrap().0
    }

    pub(crate) fn begun(&self) -> Instant {
        self.start
    }

    /// When those came since then that had this credential.
    pub(crate) fn came(&self, credential: &str, since: Instant) -> Vec<Instant> {
        let credential = credential.trim_start_matches("Authorization: ");
        let page = self.page.lock().unwrap();
        let came = page.came.iter().filter(|(at, its)| *at >= since && its == credential);
        came.map(|(at, _)| *at).collect()
    }
}
