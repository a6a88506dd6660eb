//! TLS under certificates of the test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedKey, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

pub(crate) struct Certificate(CertifiedKey<KeyPair>);

impl Certificate {
    /// For `localhost`.
    pub(crate) fn new() -> Self {
        Self::for_name("localhost")
    }

    pub(crate) fn for_name(name: &str) -> Self {
        Self::for_names(&[name])
    }

    pub(crate) fn for_names(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Self(rcgen::generate_simple_self_signed(names).unwrap())
    }

    /// For `localhost`, until 2020.
    pub(crate) fn expired() -> Self {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(2020, 1, 1);
        let signing_key = KeyPair::generate().unwrap();
        let cert = parameters.self_signed(&signing_key).unwrap();
        Self(CertifiedKey { cert, signing_key })
    }

    pub(crate) fn pem(&self) -> String {
        self.0.cert.pem()
    }

    /// Writes it where `SSL_CERT_FILE` can say so.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        let file = directory.join("ca.pem");
        std::fs::write(&file, self.pem()).unwrap();
        file
    }

    /// Accepts connections under it, for one of these protocols (ALPN); none: whichever the other side speaks.
    pub(crate) fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.0.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.0.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
