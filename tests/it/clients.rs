//! Real clients doing real work through narrows: curl, wget, git, pip, Python, Node. `scripts/clients`
//! has more of them.
//!
//! Their origins have names that only narrows can resolve (`--resolve`), so what succeeds went through
//! it. None of these tests is skipped: a program that is missing fails its test and says so.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::Certs;
use crate::support::Head;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Redis;
use crate::support::Wire;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;

/// A folder to work in, with nobody's configuration.
struct Desk {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

struct Done {
    is_ok: bool,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new() -> Desk {
        Desk { folder: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// One whose programs all use this proxy, as an operator would tell them.
    fn behind(proxy: &Proxy) -> Desk {
        let mut desk = Desk::new();
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            desk.variables.push((name, proxy.url()));
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program whose words have no spaces; it must succeed.
    async fn run(&self, line: &str) -> Done {
        let done = self.try_run(line).await;
        assert!(done.is_ok, "{line}\n{}\n{}", done.stdout, done.stderr);
        done
    }

    async fn try_run(&self, line: &str) -> Done {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.try_run_words(&words).await
    }

    async fn try_run_words(&self, words: &[&str]) -> Done {
        let program = words[0];
        let child = Command::new(program)
            .args(&words[1..])
            .current_dir(self.folder.path())
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| KEPT.contains(&name.as_str())))
            .envs(self.variables.iter().cloned())
            .env("HOME", self.folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("PIP_CONFIG_FILE", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
        let output = soon(program, child.wait_with_output()).await.unwrap();
        Done {
            is_ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What finds programs; nothing else of the environment leads them anywhere.
const KEPT: [&str; 5] = ["LD_LIBRARY_PATH", "PATH", "PYENV_ROOT", "PYENV_VERSION", "TMPDIR"];

#[tokio::test]
async fn curl_gets_and_posts_by_http() {
    let origin = Origin::start();
    let proxy = narrows().flags("--resolve web.test=127.0.0.1").start().await;
    let desk = Desk::behind(&proxy);
    let url = format!("http://web.test:{}", origin.port());
    let got = desk.run(&format!("curl -sS {url}/one {url}/two {url}/chunked?n=0")).await;
    assert_eq!(got.stdout, "/one/two");

    std::fs::write(desk.path("file"), pattern(4 * MIB)).unwrap();
    desk.run(&format!("curl -sS -o back --data-binary @file {url}/echo")).await;
    assert!(std::fs::read(desk.path("back")).unwrap() == pattern(4 * MIB));
    desk.run(&format!("curl -sS -o back -T file {url}/continue")).await;
    assert_eq!(std::fs::read_to_string(desk.path("back")).unwrap(), format!("{} bytes", 4 * MIB));
}

#[tokio::test]
async fn curl_verifies_the_origins_own_certificate_through_a_tunnel() {
    let certs = Certs::new();
    let origin = Origin::https(certs.server(&["web.test"], &[]).0);
    let proxy = narrows().flags("--resolve web.test=127.0.0.1").start().await;
    let desk = Desk::behind(&proxy);
    let (ca, url) = (certs.file(), format!("https://web.test:{}/secret", origin.port()));
    let got = desk.run(&format!("curl -sS --cacert {} {url}", ca.display())).await;
    assert_eq!(got.stdout, "/secret");
    assert!(!desk.try_run(&format!("curl -sS {url}")).await.is_ok, "nobody vouches for it");
}

#[tokio::test]
async fn curl_says_why_a_tunnel_was_refused() {
    let origin = Origin::echo();
    let flags = "--max-connections 1 --resolve web.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let host = format!("web.test:{}", origin.port());
    let _holder = proxy.tunnel(&host).await;
    let failed = Desk::behind(&proxy).try_run(&format!("curl -v https://{host}/")).await;
    assert!(!failed.is_ok);
    let reason = format!("503 host limit 1/1 {host}");
    assert!(failed.stderr.contains(&reason), "{}", failed.stderr);
}

#[tokio::test]
async fn five_curls_at_once_take_turns_under_a_cap_of_one() {
    let origin = Origin::start();
    let flags = "--max-connections 1 --queue-timeout 10s --resolve web.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    let line = format!("curl -sS http://web.test:{}/slow?ms=100", origin.port());
    let curl = || desk.run(&line);
    let (a, b, c, d, e) = tokio::join!(curl(), curl(), curl(), curl(), curl());
    for done in [a, b, c, d, e] {
        assert_eq!(done.stdout, "slow");
    }
    assert_eq!((origin.hits(), origin.peak()), (5, 1));
}

#[tokio::test]
async fn wget_gets_and_posts_by_http_and_through_a_tunnel() {
    let certs = Certs::new();
    let plain = Origin::start();
    let secure = Origin::https(certs.server(&["web.test"], &[]).0);
    let proxy = narrows().flags("--resolve web.test=127.0.0.1").start().await;
    let desk = Desk::behind(&proxy);
    let (ca, url) = (certs.file(), format!("http://web.test:{}", plain.port()));
    let wget = format!("wget -nv --tries=1 --ca-certificate={} -O -", ca.display());
    // One by one on a kept connection, to the proxy and to the origin.
    let got = desk.run(&format!("{wget} {url}/one {url}/two {url}/chunked?n=0")).await;
    assert_eq!(got.stdout, "/one/two");
    assert_eq!((plain.hits(), plain.accepted()), (3, 1));

    std::fs::write(desk.path("file"), pattern(MIB)).unwrap();
    desk.run(&format!("{} --post-file=file {url}/echo", wget.replace("-O -", "-O back"))).await;
    assert!(std::fs::read(desk.path("back")).unwrap() == pattern(MIB));

    let got = desk.run(&format!("{wget} https://web.test:{}/by/tls", secure.port())).await;
    assert_eq!(got.stdout, "/by/tls");
    let failed = desk.try_run(&format!("{wget} {url}/status/404")).await;
    assert!(!failed.is_ok, "{}", failed.stdout);
}

/// Node's own http and https, with an agent that keeps connections to the proxy, and a tunnel for TLS.
const NODE: &str = r"
const [plain, secure, proxy, ca] = process.argv.slice(2);
const http = require('http'), https = require('https'), tls = require('tls'), fs = require('fs');
const [host, port] = proxy.split(':');
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (make, options, body) => new Promise((resolve, reject) => {
  const request = make(options, (response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (part) => { text += part; });
    response.on('end', () => resolve(text)).on('error', reject);
  });
  request.on('error', reject);
  (body || []).forEach((part) => request.write(part));
  request.end();
});
const tunnel = () => new Promise((resolve, reject) => {
  const request = http.request({ host, port, method: 'CONNECT', path: secure });
  request.on('error', reject).on('connect', (response, socket) => {
    if (response.statusCode !== 200) reject(new Error(response.statusMessage));
    const servername = secure.split(':')[0];
    const channel = tls.connect({ socket, servername, ca: fs.readFileSync(ca) });
    channel.on('error', reject).on('secureConnect', () => resolve(channel));
  });
  request.end();
});
(async () => {
  for (const n of [0, 1, 2]) {
    console.log(await ask(http.request, { agent, host, port, path: `http://${plain}/kept/${n}` }));
  }
  const echo = { agent, host, port, method: 'POST', path: `http://${plain}/echo` };
  console.log(await ask(http.request, echo, ['in ', 'chunks']));
  const channel = await tunnel();
  const inside = { createConnection: () => channel, path: '/by/tls', headers: { host: secure } };
  console.log(await ask(https.request, inside));
  agent.destroy();
})().catch((error) => { console.error(error); process.exit(1); });
";

#[tokio::test]
async fn node_talks_by_http_and_through_a_tunnel() {
    let certs = Certs::new();
    let plain = Origin::start();
    let secure = Origin::https(certs.server(&["web.test"], &[]).0);
    let flags = "--max-connections 1 --resolve web.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::new();
    std::fs::write(desk.path("talk.js"), NODE).unwrap();
    let line = format!(
        "node talk.js web.test:{} web.test:{} {} {}",
        plain.port(),
        secure.port(),
        proxy.address,
        certs.file().display()
    );
    let said = desk.run(&line).await.stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["/kept/0", "/kept/1", "/kept/2", "in chunks", "/by/tls"]);
    assert_eq!((plain.accepted(), plain.peak(), secure.peak()), (1, 1, 1));
}

/// A bare repository `repo.git` in the desk's folder, with some history.
async fn repository(desk: &Desk) {
    let git = async |words: &str| desk.run(&format!("git {words}")).await;
    git("init -q --initial-branch=main work").await;
    for n in 0..20 {
        std::fs::write(desk.path("work").join(format!("file-{n}")), pattern(5000 + n)).unwrap();
        git("-C work add .").await;
        let commit = "-C work -c user.name=n -c user.email=n@n.test commit -q -m change";
        git(commit).await;
    }
    git("clone -q --bare work repo.git").await;
    git("-C repo.git update-server-info").await;
}

async fn assert_cloned(desk: &Desk, name: &str) {
    let log = desk.run(&format!("git -C {name} log --oneline")).await;
    assert_eq!(log.stdout.lines().count(), 20);
    assert!(std::fs::read(desk.path(name).join("file-19")).unwrap() == pattern(5019));
    desk.run(&format!("git -C {name} fsck --strict")).await;
}

#[tokio::test]
async fn git_clones_by_the_plain_files_of_a_repository() {
    let source = Desk::new();
    repository(&source).await;
    let origin = files(source.folder.path());
    let flags = "--max-connections 2 --queue-timeout 10s --resolve git.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    desk.run(&format!("git clone -q http://git.test:{}/repo.git clone", origin.port())).await;
    assert_cloned(&desk, "clone").await;
    assert!((1..=2).contains(&origin.peak()), "{}", origin.peak());
}

#[tokio::test]
async fn git_clones_by_the_smart_protocol() {
    let source = Desk::new();
    repository(&source).await;
    let origin = git_server(source.folder.path());
    let flags = "--max-connections 1 --queue-timeout 10s --resolve git.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    desk.run(&format!("git clone -q http://git.test:{}/repo.git clone", origin.port())).await;
    assert_cloned(&desk, "clone").await;
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn git_clones_by_https_through_tunnels() {
    let source = Desk::new();
    repository(&source).await;
    let certs = Certs::new();
    let origin = secure_files(source.folder.path(), &certs, "git.test");
    let flags = "--max-connections 2 --queue-timeout 10s --resolve git.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    let ca = certs.file();
    desk.run(&format!(
        "git -c http.maxRequests=2 -c http.sslCAInfo={} clone -q https://git.test:{}/repo.git clone",
        ca.display(),
        origin.port()
    ))
    .await;
    assert_cloned(&desk, "clone").await;
    assert!((1..=2).contains(&origin.peak()), "{}", origin.peak());
}

/// An index with one package, `narrowtest` 1.0, in the desk's folder.
async fn index(desk: &Desk) {
    let wheel = "narrowtest-1.0-py3-none-any.whl";
    let script = format!(
        "import zipfile\n\
         with zipfile.ZipFile('{wheel}', 'w') as wheel:\n\
         \x20   wheel.writestr('narrowtest.py', 'answer = 42\\n')\n\
         \x20   info = 'narrowtest-1.0.dist-info/'\n\
         \x20   wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: narrowtest\\nVersion: 1.0\\n')\n\
         \x20   wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         \x20   wheel.writestr(info + 'RECORD', '')\n"
    );
    std::fs::write(desk.path("wheel.py"), script).unwrap();
    desk.run("python3 wheel.py").await;
    let simple = desk.path("simple").join("narrowtest");
    std::fs::create_dir_all(&simple).unwrap();
    let page = format!("<!DOCTYPE html><html><body><a href=\"/{wheel}\">{wheel}</a></body></html>");
    std::fs::write(simple.join("index.html"), page).unwrap();
}

const PIP: &str = "python3 -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
                   --target site --quiet";

async fn assert_installed(desk: &Desk) {
    std::fs::write(desk.path("use.py"), "import narrowtest\nprint(narrowtest.answer)\n").unwrap();
    let mut words = vec!["env", "PYTHONPATH=site"];
    words.extend(["python3", "use.py"]);
    assert_eq!(desk.run(&words.join(" ")).await.stdout, "42\n");
}

#[tokio::test]
async fn pip_installs_by_http() {
    let source = Desk::new();
    index(&source).await;
    let origin = files(source.folder.path());
    let flags = "--max-connections 2 --resolve pypi.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    let url = format!("http://pypi.test:{}/simple/", origin.port());
    desk.run(&format!("{PIP} --trusted-host pypi.test --index-url {url} narrowtest")).await;
    assert_installed(&desk).await;
    assert!((1..=2).contains(&origin.peak()), "{}", origin.peak());
}

#[tokio::test]
async fn pip_installs_by_https_through_a_tunnel() {
    let source = Desk::new();
    index(&source).await;
    let certs = Certs::new();
    let origin = secure_files(source.folder.path(), &certs, "pypi.test");
    let flags = "--max-connections 2 --resolve pypi.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    let url = format!("https://pypi.test:{}/simple/", origin.port());
    let ca = certs.file();
    desk.run(&format!("{PIP} --cert {} --index-url {url} narrowtest", ca.display())).await;
    assert_installed(&desk).await;
    assert!((1..=2).contains(&origin.peak()), "{}", origin.peak());
}

const PYTHON: &str = "\
import http.client, ssl, sys, urllib.request
plain, secure, proxy, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)

print(urllib.request.urlopen('http://' + plain + '/by/urllib').read().decode())
posted = urllib.request.urlopen('http://' + plain + '/echo', data=b'x' * 100000)
print(len(posted.read()))
print(urllib.request.urlopen('https://' + secure + '/by/tls', context=context).read().decode())

connection = http.client.HTTPConnection(proxy)
for n in range(3):
    connection.request('GET', 'http://%s/kept/%d' % (plain, n))
    print(connection.getresponse().read().decode())

tunnel = http.client.HTTPSConnection(proxy, context=context)
tunnel.set_tunnel(secure)
for n in range(3):
    tunnel.request('PUT', '/echo', body=iter([b'in ', b'chunks']), encode_chunked=True,
                   headers={'Transfer-Encoding': 'chunked'})
    print(tunnel.getresponse().read().decode())
";

#[tokio::test]
async fn python_talks_by_urllib_and_by_http_client() {
    let certs = Certs::new();
    let plain = Origin::start();
    let secure = Origin::https(certs.server(&["web.test"], &[]).0);
    let flags = "--max-connections 3 --resolve web.test=127.0.0.1";
    let proxy = narrows().flags(flags).start().await;
    let desk = Desk::behind(&proxy);
    std::fs::write(desk.path("talk.py"), PYTHON).unwrap();
    let line = format!(
        "python3 talk.py web.test:{} web.test:{} {} {}",
        plain.port(),
        secure.port(),
        proxy.address,
        certs.file().display()
    );
    let said = desk.run(&line).await.stdout;
    let lines: Vec<&str> = said.lines().collect();
    let wanted = [
        "/by/urllib",
        "100000",
        "/by/tls",
        "/kept/0",
        "/kept/1",
        "/kept/2",
        "in chunks",
        "in chunks",
        "in chunks",
    ];
    assert_eq!(lines, wanted);
}

#[tokio::test]
async fn real_clients_of_two_instances_on_one_redis_share_a_cap() {
    let source = Desk::new();
    repository(&source).await;
    index(&source).await;
    let origin = git_server(source.folder.path());
    let redis = Redis::start().await;
    let setup = narrows().flags("--max-connections 4 --pool-idle 200ms --queue-timeout 10s");
    let setup = setup.flags("--resolve all.test=127.0.0.1").shared(&redis);
    let (a, b) = (setup.clone().start().await, setup.start().await);
    a.wait_until_up().await;
    b.wait_until_up().await;
    let url = format!("http://all.test:{}", origin.port());
    let (cloning, installing) = (Desk::behind(&a), Desk::behind(&b));
    let clone = format!("git clone -q {url}/repo.git clone");
    let install = format!("{PIP} --trusted-host all.test --index-url {url}/simple/ narrowtest");
    let curl = format!("curl -sS -o page {url}/simple/narrowtest/");
    tokio::join!(
        cloning.run(&clone),
        installing.run(&install),
        cloning.run(&curl),
        installing.run(&curl)
    );
    assert_cloned(&cloning, "clone").await;
    assert_installed(&installing).await;
    assert!((1..=4).contains(&origin.peak()), "{}", origin.peak());
}

/// An origin of the files in `folder`; a folder is its `index.html`.
fn files(folder: &Path) -> Origin {
    let folder: Arc<Path> = Arc::from(folder);
    Origin::raw(move |mut connection| {
        let folder = Arc::clone(&folder);
        async move { drop(serve_files(&mut connection, &folder).await) }
    })
}

/// The same over TLS.
fn secure_files(folder: &Path, certs: &Certs, name: &str) -> Origin {
    let folder: Arc<Path> = Arc::from(folder);
    let (acceptor, _) = certs.server(&[name], &["http/1.1"]);
    Origin::raw(move |connection| {
        let (folder, acceptor) = (Arc::clone(&folder), acceptor.clone());
        async move {
            if let Ok(mut connection) = connection.secured(acceptor).await {
                drop(serve_files(&mut connection, &folder).await);
            }
        }
    })
}

async fn serve_files<S>(wire: &mut Wire<S>, folder: &Path) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(head) = wire.head().await? {
        wire.request_body(&head).await?;
        send_file(wire, folder, &head).await?;
    }
    Ok(())
}

async fn send_file<S>(wire: &mut Wire<S>, folder: &Path, head: &Head) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let path = head.target().split('?').next().unwrap_or_default();
    let page = if path.ends_with('/') { "index.html" } else { "" };
    let file = folder.join(format!("{}{page}", path.trim_start_matches('/')));
    let (status, content) = match std::fs::read(file) {
        Ok(content) => ("200 OK", content),
        Err(_) => ("404 Not Found", b"no such file".to_vec()),
    };
    let kind = if page.is_empty() { "application/octet-stream" } else { "text/html" };
    send(wire, status, kind, &content, head.method() == "HEAD").await
}

async fn send<S>(
    wire: &mut Wire<S>,
    status: &str,
    kind: &str,
    content: &[u8],
    is_head: bool,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = content.len();
    wire.send(format!(
        "HTTP/1.1 {status}\r\nX-Origin: yes\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ))
    .await?;
    if is_head { Ok(()) } else { wire.send(content).await }
}

/// An origin that runs `git http-backend` for what is in a `.git`, and serves files otherwise.
fn git_server(folder: &Path) -> Origin {
    let folder: Arc<Path> = Arc::from(folder);
    Origin::raw(move |mut connection| {
        let folder = Arc::clone(&folder);
        async move {
            let wire: &mut Wire<_> = &mut connection;
            while let Ok(Some(head)) = wire.head().await {
                let Ok((body, _)) = wire.request_body(&head).await else { return };
                let done = if head.target().contains(".git/") {
                    let (status, kind, content) = http_backend(&folder, &head, &body).await;
                    send(wire, &status, &kind, &content, false).await
                } else {
                    send_file(wire, &folder, &head).await
                };
                if done.is_err() {
                    return;
                }
            }
        }
    })
}

/// RFC 3875, as much as git needs of it: status, content type and body.
async fn http_backend(folder: &Path, head: &Head, body: &[u8]) -> (String, String, Vec<u8>) {
    let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", head.method())
        .env("CONTENT_TYPE", head.field("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", head.field("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", head.field("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("git is needed for this test: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(body).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let fields = String::from_utf8(output[..end].to_vec()).unwrap();
    let field = |name: &str| {
        fields.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let status = field("Status:").unwrap_or_else(|| "200 OK".to_owned());
    (status, field("Content-Type:").unwrap_or_default(), output[end + 4..].to_vec())
}
