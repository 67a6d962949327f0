//! The broker's certificate authority and certificate, made at first start and kept in the data folder.
//!
//! `ca.pem` is what clients trust, and may be copied to them. The keys are readable by their owner only.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Name of the file clients trust.
pub(crate) const CA_FILE: &str = "ca.pem";
const CERT_FILE: &str = "server.pem";
const KEY_FILE: &str = "server-key.pem";
const CA_KEY_FILE: &str = "ca-key.pem";

/// All files of certificates in a data folder, which clients know the broker by.
pub const FILES: [&str; 4] = [CA_FILE, CA_KEY_FILE, KEY_FILE, CERT_FILE];

/// Why the broker has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{} cannot be used: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{} holds no usable certificate or key: {message}; remove it and ca.pem to have new ones made", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Making the certificates failed.
    #[error("no certificate could be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// The certificate and its key do not fit together.
    #[error("the certificate in {CERT_FILE} cannot be used: {0}")]
    Config(#[from] rustls::Error),
}

/// The TLS side of the listener: the certificate of `data_dir`, made if there is none.
pub(crate) fn server_config(data_dir: &Path) -> Result<rustls::ServerConfig, TlsError> {
    if !data_dir.join(CERT_FILE).exists() {
        generate(data_dir)?;
    }
    let cert_path = data_dir.join(CERT_FILE);
    let key_path = data_dir.join(KEY_FILE);
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |error: rustls::pki_types::pem::Error| TlsError::Pem {
            path,
            message: error.to_string(),
        }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&cert_path)
        .and_then(Iterator::collect)
        .map_err(pem(&cert_path))?;
    let key = PrivateKeyDer::from_pem_file(&key_path).map_err(pem(&key_path))?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![pointsman_protocol::ALPN.to_vec()];
    Ok(config)
}

fn generate(data_dir: &Path) -> Result<(), TlsError> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "Pointsman CA");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Ok(name) = rustix::system::uname().nodename().to_str()
        && !name.is_empty()
        && name.is_ascii()
        && !names.iter().any(|n| n == name)
    {
        names.push(name.to_owned());
    }
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server
        .distinguished_name
        .push(DnType::CommonName, "Pointsman broker");
    let cert = server.signed_by(&key, &ca)?;

    // The certificate comes last: as long as it is missing, everything is made anew.
    write(
        &data_dir.join(CA_KEY_FILE),
        ca.key().serialize_pem().as_bytes(),
        0o600,
    )?;
    write(&data_dir.join(CA_FILE), ca.pem().as_bytes(), 0o644)?;
    write(&data_dir.join(KEY_FILE), key.serialize_pem().as_bytes(), 0o600)?;
    write(&data_dir.join(CERT_FILE), cert.pem().as_bytes(), 0o644)
}

/// Writes a file whose permissions are right from the start.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    use std::os::unix::fs::OpenOptionsExt;
    let error = |error| TlsError::File {
        path: path.to_owned(),
        error,
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(error)?;
    file.write_all(content).map_err(error)?;
    file.sync_all().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_start_keeps_the_certificate_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        server_config(dir.path()).unwrap();
        let first = fs::read(dir.path().join(CERT_FILE)).unwrap();
        server_config(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join(CERT_FILE)).unwrap(), first);
        for key in [KEY_FILE, CA_KEY_FILE] {
            let mode = fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{key} is readable by others");
        }
    }

    #[test]
    fn a_broken_certificate_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        server_config(dir.path()).unwrap();
        fs::write(dir.path().join(CERT_FILE), "not a certificate").unwrap();
        let error = server_config(dir.path()).unwrap_err().to_string();
        assert!(error.contains(CERT_FILE), "{error}");
    }
}
