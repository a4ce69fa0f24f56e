//! TLS towards clients: the certificate that narrows shows, whose certificates it believes, and
//! new ones while it runs.
//!
//! Files are looked at once a second, through symbolic links. A pair that cannot be used is told
//! and the old one stays; connections that are there keep what they began with. Versions and
//! ciphers are rustls' own: TLS 1.2 and 1.3, forward secrecy always (RFC 9325 §3.1, §4.2).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// HTTP/2, as ALPN has it (RFC 9113 §3.2).
pub(crate) const HTTP2: &[u8] = b"h2";

/// The protocols that are offered, the dearest first (ALPN, RFC 7301); a client that speaks none
/// of them gets an alert, one that names none speaks HTTP/1.1.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// What narrows needs to speak TLS with clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM file of the certificate, and of those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// Whose certificates clients must or may show; none asks for none.
    pub clients: Option<Clients>,
}

/// Who may come by certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// PEM file of the authorities.
    pub authorities: PathBuf,
    /// Whether a client without a certificate may come in, too.
    pub optional: bool,
}

/// Why there is no TLS with these files.
#[derive(Debug, Error)]
pub enum BadFiles {
    /// A file without a certificate.
    #[error("{0}: holds no PEM certificate")]
    NoCertificate(PathBuf),
    /// A file without a key.
    #[error("{0}: holds no PEM private key")]
    NoKey(PathBuf),
    /// A key of another certificate.
    #[error("{key}: is not the key of the certificate in {certificate}")]
    OtherKey {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// A file that cannot be read, or is not PEM.
    #[error("{0}: {1}")]
    Unread(PathBuf, pem::Error),
    /// What rustls makes nothing of.
    #[error("{0}: {1}")]
    Unusable(PathBuf, String),
}

/// TLS as the files had it when they were last looked at.
#[derive(Debug)]
pub(crate) struct Tls {
    settings: Settings,
    current: ArcSwap<ServerConfig>,
    /// The files as they were just before they were read first.
    first: Vec<Option<Mark>>,
}

impl Tls {
    pub(crate) fn new(settings: &Settings) -> Result<Self, BadFiles> {
        let first = settings.marks();
        let current = ArcSwap::from_pointee(load(settings)?);
        Ok(Self { settings: settings.clone(), current, first })
    }

    /// What a connection that begins now goes by.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Follows the files for as long as it is polled; `reloaded` hears how each reload went.
    pub(crate) async fn watch(self: Arc<Self>, reloaded: impl Fn(bool)) {
        let mut seen = self.first.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let this = Arc::clone(&self);
            // A file system that hangs must not take the thread with it.
            let looked = tokio::task::spawn_blocking(move || this.look(seen)).await;
            let Ok((now, loaded)) = looked else { return };
            seen = now;
            if let Some(loaded) = loaded {
                reloaded(self.take(loaded));
            }
        }
    }

    /// What the files are now, and what was in them if they are others than before.
    fn look(&self, before: Vec<Option<Mark>>) -> (Vec<Option<Mark>>, Option<Loaded>) {
        // Marked before they are read: what changes in between is found the next time.
        let now = self.settings.marks();
        let loaded = (now != before).then(|| load(&self.settings));
        (now, loaded)
    }

    fn take(&self, loaded: Loaded) -> bool {
        match loaded {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!(
                    certificate = %self.settings.certificate.display(),
                    "the TLS files have changed: new connections get what they hold now"
                );
                true
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "the TLS files have changed and cannot be used: the old certificate stays"
                );
                false
            }
        }
    }
}

type Loaded = Result<ServerConfig, BadFiles>;

impl Settings {
    fn marks(&self) -> Vec<Option<Mark>> {
        let authorities = self.clients.as_ref().map(|clients| &clients.authorities);
        [&self.certificate, &self.key].into_iter().chain(authorities).map(|p| Mark::of(p)).collect()
    }
}

/// By what a file is known to be the same: where a link leads to another, or one is written anew,
/// some of these differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Makes of files what rustls goes by.
pub(crate) fn load(settings: &Settings) -> Result<ServerConfig, BadFiles> {
    let chain = certificates(&settings.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| {
        if let pem::Error::NoItemsFound = error {
            BadFiles::NoKey(settings.key.clone())
        } else {
            BadFiles::Unread(settings.key.clone(), error)
        }
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |path: &Path, error: &dyn std::fmt::Display| {
        BadFiles::Unusable(path.to_owned(), error.to_string())
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&settings.certificate, &error))?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let file = &clients.authorities;
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots.add(authority).map_err(|error| unusable(file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if clients.optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| unusable(file, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        if let rustls::Error::InconsistentKeys(_) = error {
            let Settings { certificate, key, .. } = settings.clone();
            return BadFiles::OtherKey { key, certificate };
        }
        unusable(&settings.certificate, &error)
    })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFiles> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| BadFiles::Unread(path.to_owned(), error))?;
    if found.is_empty() {
        return Err(BadFiles::NoCertificate(path.to_owned()));
    }
    Ok(found)
}
