//! Boards on a real Redis, which stands still, dies, forgets its scripts.

use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;

pub(crate) const TIMEOUT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

/// Counts its calls, tells everybody, and answers with what it was given.
static NOTE: Script = Script::new(
    "local count = redis.call('INCR', KEYS[1])
     redis.call(ARGV[2], ARGV[1], ARGV[3] .. count .. '\\n' .. (ARGV[4] or ''))
     return { count, KEYS[1], KEYS[2], ARGV[3], ARGV[4] or '', ARGV[5] or '' }",
);
static FAULT: Script = Script::new("return redis.error_reply('ERR not today')");

/// A private Redis on a socket in a folder of its own.
pub(crate) struct Redis {
    folder: TempDir,
    server: Child,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Self::spawn(folder.path());
        let redis = Self { folder, server };
        until(async || redis.query(&["PING"]).await.is_some()).await;
        redis
    }

    fn spawn(folder: &Path) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(folder.join("redis.sock")).arg("--dir").arg(folder);
        command.stdout(Stdio::null()).spawn().expect("redis-server is on the PATH")
    }

    pub(crate) fn settings(&self) -> Settings {
        let url = format!("redis+unix://{}", self.folder.path().join("redis.sock").display());
        Settings { prefix: "p".to_owned(), timeout: TIMEOUT, ..Settings::new(url) }
    }

    pub(crate) async fn connection(&self) -> Option<MultiplexedConnection> {
        let super::super::Deployment::Single { url } = self.settings().deployment else {
            return None;
        };
        let client = redis::Client::open(url.0).unwrap();
        client.get_multiplexed_async_connection().await.ok()
    }

    pub(crate) async fn query(&self, words: &[&str]) -> Option<Value> {
        let mut connection = self.connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let server = i32::try_from(self.server.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(server).unwrap(), signal)
            .unwrap();
    }

    pub(crate) fn hang(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One instance's board, which runs.
pub(crate) struct Running {
    pub(crate) board: Board,
    task: JoinHandle<Result<(), RedisError>>,
}

impl Running {
    pub(crate) fn start(redis: &Redis) -> Self {
        let board = Board::new(&redis.settings(), || 4);
        let task = tokio::spawn(board.clone().run(redis.settings()));
        Self { board, task }
    }

    pub(crate) async fn up(redis: &Redis) -> Self {
        let running = Self::start(redis);
        running.is_up().await;
        running
    }

    async fn is_up(&self) {
        until(async || self.counts().is_up).await;
    }

    fn counts(&self) -> Snapshot {
        self.board.snapshot().unwrap()
    }

    async fn note(&self, word: &str) -> Result<Vec<String>, Away> {
        self.board.ask(&NOTE, "note", "k", &[word]).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who writes down what was heard.
#[derive(Debug, Default)]
struct Book {
    heard: Mutex<Vec<String>>,
    backs: AtomicU64,
}

impl Listener for Book {
    fn heard(&self, key: &str, words: &[&str]) {
        self.heard.lock().unwrap().push(format!("{key}: {}", words.join(" ")));
    }

    fn back(&self) {
        self.backs.fetch_add(1, Relaxed);
    }
}

impl Book {
    fn open(board: &Board) -> Arc<Self> {
        let book = Arc::<Self>::default();
        let listener: Arc<dyn Listener> = Arc::<Self>::clone(&book);
        board.listen("note", Arc::downgrade(&listener));
        book
    }

    fn has(&self, line: &str) -> bool {
        self.heard.lock().unwrap().iter().any(|heard| heard == line)
    }

    async fn is_told(&self, times: u64) {
        until(async || self.backs.load(Relaxed) == times).await;
    }
}

pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = clock::now() + LONG;
    while !is_so().await {
        assert!(clock::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_script_gets_its_keys_and_words_and_all_instances_hear_what_it_says() {
    let redis = Redis::start().await;
    let (one, other) = (Running::up(&redis).await, Running::up(&redis).await);
    let books = [Book::open(&one.board), Book::open(&other.board)];
    for book in &books {
        book.is_told(1).await;
    }
    let told = one.board.ask(&NOTE, "note", "shop/a:80", &["hello", "there"]).await.unwrap();
    let expected =
        ["1", "p:{0}:@p:note:shop/a:80", "p:{0}:@p:note", "note\nshop/a:80\n", "hello", "there"];
    assert_eq!(told, expected);
    for book in &books {
        until(async || book.has("shop/a:80: 1 hello")).await;
    }

    other.board.tell(&NOTE, "note", "shop/a:80", &["again"]);
    other.board.tell(&NOTE, "other", "x", &["of another topic"]);
    for book in &books {
        until(async || book.has("shop/a:80: 2 again")).await;
        assert_eq!(book.heard.lock().unwrap().len(), 2);
    }
    assert_eq!(one.board.instances(), 4);
}

#[tokio::test]
async fn many_are_answered_at_once_and_each_gets_its_own_words() {
    let redis = Redis::start().await;
    let running = Running::up(&redis).await;
    let names: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let asks = names.iter().map(|name| running.note(name));
    let answers = join_all(asks).await;
    for (name, answer) in names.iter().zip(answers) {
        assert_eq!(answer.unwrap()[4], *name);
    }
    assert_eq!(running.counts().answered, 2000);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_time_out_and_nothing_after_that() {
    let redis = Redis::start().await;
    let running = Running::up(&redis).await;
    let book = Book::open(&running.board);
    running.note("before").await.unwrap();

    redis.signal(rustix::process::Signal::STOP);
    let start = clock::now();
    let at_once = join_all((0..50).map(|_| running.note("hung"))).await;
    assert!(at_once.iter().all(Result::is_err));
    let took = clock::now() - start;
    assert!((TIMEOUT..TIMEOUT * 3).contains(&took), "{took:?}");
    // For longer than several attempts to connect take: none of those is waited for.
    let start = clock::now();
    while start.elapsed() < TIMEOUT * 4 {
        let asked = clock::now();
        assert_eq!(running.note("hung").await, Err(Away));
        assert!(asked.elapsed() < TIMEOUT / 4, "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    redis.signal(rustix::process::Signal::CONT);
    running.is_up().await;
    running.note("after").await.unwrap();
    book.is_told(2).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_found_its_scripts_are_loaded_and_listeners_are_told() {
    let mut redis = Redis::start().await;
    let running = Running::up(&redis).await;
    let book = Book::open(&running.board);
    book.is_told(1).await;
    assert_eq!(running.note("a").await.unwrap()[0], "1");
    redis.kill();
    until(async || !running.counts().is_up).await;
    assert_eq!(running.note("b").await, Err(Away));
    redis.server = Redis::spawn(redis.folder.path());
    running.is_up().await;
    assert_eq!(running.note("c").await.unwrap()[0], "1", "it has lost all");
    book.is_told(2).await;
    until(async || book.has("k: 1 c")).await;
    assert_eq!(running.counts().connects, 2);
}

#[tokio::test]
async fn a_script_that_redis_does_not_know_is_given_to_it() {
    let redis = Redis::start().await;
    let running = Running::up(&redis).await;
    for word in ["first", "second"] {
        redis.query(&["SCRIPT", "FLUSH"]).await.unwrap();
        assert_eq!(running.note(word).await.unwrap()[4], word);
    }
    redis.query(&["SCRIPT", "FLUSH"]).await.unwrap();
    let answers = join_all(["x", "y", "z"].map(|word| running.note(word))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(running.counts().connects, 1, "for that no connection is given up");
}

#[tokio::test]
async fn a_script_that_fails_sends_its_asker_away_and_nobody_else() {
    let redis = Redis::start().await;
    let running = Running::up(&redis).await;
    let (failed, ran) =
        tokio::join!(running.board.ask(&FAULT, "note", "k", &[]), running.note("x"));
    assert_eq!(failed, Err(Away));
    assert!(ran.is_ok());
    assert_eq!(running.counts().connects, 1);
}

#[tokio::test]
async fn what_is_too_much_to_be_sent_is_dropped_and_counted() {
    let redis = Redis::start().await;
    let running = Running::up(&redis).await;
    // Nothing is sent before this task waits for something.
    for _ in 0..QUEUE + 10 {
        running.board.tell(&NOTE, "note", "k", &[]);
    }
    assert_eq!(running.counts().dropped, 10);
    assert_eq!(running.board.ask(&NOTE, "note", "k", &[]).await, Err(Away));
    assert_eq!(running.counts().dropped, 11);
    until(async || running.counts().answered == QUEUE as u64).await;
    assert!(running.note("x").await.is_ok(), "there is room again");
}

#[tokio::test]
async fn without_redis_nobody_waits() {
    let alone = Board::alone();
    assert_eq!(alone.ask(&NOTE, "note", "k", &[]).await, Err(Away));
    assert!(!alone.is_shared());
    assert_eq!(alone.instances(), 1);
    assert_eq!(alone.snapshot(), None);

    let folder = tempfile::tempdir().unwrap();
    let url = format!("redis+unix://{}/none", folder.path().display());
    let board = Board::new(&Settings::new(url.clone()), || 0);
    let task = tokio::spawn(board.clone().run(Settings::new(url)));
    let start = clock::now();
    for _ in 0..100 {
        assert_eq!(board.ask(&NOTE, "note", "k", &[]).await, Err(Away));
        board.tell(&NOTE, "note", "k", &[]);
    }
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    assert_eq!(board.snapshot().unwrap().away, 200);
    task.abort();
}

#[tokio::test]
async fn who_is_gone_hears_nothing_and_who_comes_late_is_told_that_redis_is_there() {
    let redis = Redis::start().await;
    let running = Running::up(&redis).await;
    let early = Book::open(&running.board);
    early.is_told(1).await;
    drop(early);
    let late = Book::open(&running.board);
    late.is_told(1).await;
    running.note("x").await.unwrap();
    until(async || late.has("k: 1 x")).await;
    let shared = running.board.shared.as_ref().unwrap();
    assert_eq!(shared.listeners().len(), 1);
}
