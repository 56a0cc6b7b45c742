//! The certificate of the API listener and, if clients have to have one too, who vouches for theirs: read again when the
//! files change.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::followed::{self, Followed, LastGood, Offered, ReadError};
use crate::metrics::{FollowedFile, Metrics};

/// A chain of certificates is some kilobytes; a bundle of all public authorities some hundred.
const MOST_FILE_BYTES: usize = 4 << 20;
/// The best that both sides know is spoken.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// PEM: the certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: authorities of which clients have to have a certificate, if they have to have one.
    pub client_ca: Option<PathBuf>,
}

/// TLS for as long as the process runs.
pub struct Tls {
    files: TlsFiles,
    config: LastGood<ServerConfig>,
    metrics: Arc<Metrics>,
}

/// The content of the files.
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("failed to read {what} from {file}: {source}")]
    Pem { what: &'static str, file: PathBuf, source: pem::Error },
    #[error("there is no certificate in {0}")]
    NoCertificate(PathBuf),
    #[error("certificate and key cannot be used: {0}")]
    Pair(rustls::Error),
    #[error("{file} has a certificate that is no authority: {source}")]
    Authority { file: PathBuf, source: rustls::Error },
    #[error("the authorities of clients cannot be used: {0}")]
    Authorities(#[from] VerifierBuilderError),
}

impl Tls {
    /// Reads the files once. Until they hold no connection is made.
    pub async fn open(files: TlsFiles, metrics: Arc<Metrics>) -> Self {
        let tls = Self { files, config: LastGood::default(), metrics };
        tls.look().await;
        tls
    }

    /// What connections that begin now use.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.get()
    }

    /// Why no connection can be made, if that is so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.config.trouble()
    }

    /// Reads the files again whenever they change, for as long as the process serves.
    pub async fn follow(&self) -> std::convert::Infallible {
        let TlsFiles { certificate, key, client_ca } = self.files.clone();
        let mut files = Followed::new([certificate, key].into_iter().chain(client_ca).collect());
        loop {
            files.changed().await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let read = self.read().await;
        let content = match &read {
            Ok(Pem { certificate, key, client_ca }) => {
                Ok([certificate, key, client_ca.as_deref().unwrap_or_default()].concat())
            }
            Err(error) => Err(error.to_string()),
        };
        let path = self.files.certificate.display();
        let applied = match self.config.offer(&content, |_before| self.make(&read?)) {
            Offered::Known => return,
            Offered::Applied(_) => {
                tracing::info!(%path, "certificate and key applied");
                true
            }
            Offered::Kept(error) => {
                tracing::error!(%path, %error, "certificate or key is refused; the last good ones stay in force");
                false
            }
            Offered::Nothing(error) => {
                tracing::error!(%path, %error, "certificate or key is refused; no connection is made until they hold");
                false
            }
        };
        self.metrics.file_read(FollowedFile::Tls, applied);
    }

    async fn read(&self) -> Result<Pem, TlsError> {
        let TlsFiles { certificate, key, client_ca } = &self.files;
        Ok(Pem {
            certificate: followed::read(certificate, MOST_FILE_BYTES).await?,
            key: followed::read(key, MOST_FILE_BYTES).await?,
            client_ca: match client_ca {
                Some(file) => Some(followed::read(file, MOST_FILE_BYTES).await?),
                None => None,
            },
        })
    }

    fn make(&self, pem: &Pem) -> Result<ServerConfig, TlsError> {
        let Pem { certificate, key, client_ca } = pem;
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(certificate, &self.files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem {
            what: "a private key",
            file: self.files.key.clone(),
            source,
        })?;
        let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let clients = match (client_ca, &self.files.client_ca) {
            (Some(pem), Some(file)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem, file)? {
                    roots
                        .add(authority)
                        .map_err(|source| TlsError::Authority { file: file.clone(), source })?;
                }
                versions.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?,
                )
            }
            _ => versions.with_no_client_auth(),
        };
        let mut config = clients.with_single_cert(chain, key).map_err(TlsError::Pair)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(config)
    }
}

fn certificates(pem: &[u8], file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { what: "a certificate", file: file.to_owned(), source };
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(wrong)?;
    if all.is_empty() { Err(TlsError::NoCertificate(file.to_owned())) } else { Ok(all) }
}
