//! Certificate authorities that are trusted in addition to the system's: those of a company's own servers and proxies.

use std::path::{Path, PathBuf};

use reqwest::Certificate;

/// Certificates of authorities, read from a PEM file.
#[derive(Debug, Clone, Default)]
pub struct CaBundle(Vec<Certificate>);

/// Why a file is no bundle of certificates.
#[derive(Debug, thiserror::Error)]
pub enum CaBundleError {
    /// It cannot be read.
    #[error("failed to read certificates from {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// It holds something else than certificates.
    #[error("failed to read certificates from {file}: they have to be PEM, as -----BEGIN CERTIFICATE-----")]
    Parse {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: reqwest::Error,
    },
    /// It is empty, or holds keys only.
    #[error("there is no certificate in {file}")]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

impl CaBundle {
    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub fn read(file: &Path) -> Result<Self, CaBundleError> {
        let file = file.to_owned();
        let pem = match std::fs::read(&file) {
            Ok(pem) => pem,
            Err(cause) => return Err(CaBundleError::Read { file, cause }),
        };
        match Certificate::from_pem_bundle(&pem) {
            Ok(certificates) if certificates.is_empty() => Err(CaBundleError::Empty { file }),
            Ok(certificates) => Ok(Self(certificates)),
            Err(cause) => Err(CaBundleError::Parse { file, cause }),
        }
    }

    pub(super) fn certificates(&self) -> impl Iterator<Item = Certificate> + '_ {
        self.0.iter().cloned()
    }
}
