//! TLS towards upstreams, for `https://` requests in absolute-form, and towards parents.
//!
//! Certificates are always verified. Tunnels never come here: their TLS is the client's own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::base::authority::Host;

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The upstream's certificate is not trusted.
    #[error("{0}")]
    Certificate(String),
    /// The handshake failed otherwise.
    #[error("{0}")]
    Protocol(String),
}

/// What narrows trusts and offers when it originates TLS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// The system's roots and the certificate authorities in these PEM files.
    pub(crate) fn new(files: &[PathBuf]) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (used, _) = roots.add_parsable_certificates(native.certs);
        if used == 0 && files.is_empty() {
            tracing::debug!("no certificate authority is known: https:// requests will fail");
        }
        for file in files {
            let failed = |why: String| io::Error::other(format!("{}: {why}", file.display()));
            let certificates = CertificateDer::pem_file_iter(file)
                .map_err(|error| failed(error.to_string()))?
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| failed(error.to_string()))?;
            if certificates.is_empty() {
                return Err(failed("holds no PEM certificate".to_owned()));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    pub(crate) async fn handshake<S>(
        &self,
        host: &Host,
        stream: S,
    ) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.to_string())
                .map_err(|error| TlsError::Protocol(error.to_string()))?,
        };
        self.connector.connect(name, stream).await.map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if let Some(rustls::Error::InvalidCertificate(_)) = inner {
                TlsError::Certificate(error.to_string())
            } else {
                TlsError::Protocol(error.to_string())
            }
        })
    }
}
