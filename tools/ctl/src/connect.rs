//! Which servers, and how they are reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};

/// How long one of several endpoints may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// The flags that say it, as etcdctl has them.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where servers listen, by commas; the first that answers is asked.
    #[arg(long, global = true, default_value = "127.0.0.1:2379", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// PEM file of the CAs that may have signed the servers' certificates. Endpoints without a scheme are then https.
    #[arg(long, global = true)]
    cacert: Option<PathBuf>,
    /// PEM file of the certificate that is shown to servers.
    #[arg(long, global = true, requires = "tls-key")]
    cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(id = "tls-key", long = "key", value_name = "KEY", global = true, requires = "cert")]
    key: Option<PathBuf>,
}

/// Endpoints, and what TLS needs.
pub struct Servers {
    /// As given, or as the members say.
    pub endpoints: Vec<String>,
    tls: Option<TlsOptions>,
}

impl Servers {
    /// What the flags say.
    ///
    /// # Errors
    /// A sentence: a file cannot be read, or there is none where one is needed.
    pub fn new(flags: Flags) -> Result<Servers, String> {
        let Flags { endpoints, cacert, cert, key } = flags;
        let mut tls = None;
        if let Some(cacert) = &cacert {
            let with_ca = TlsOptions::new().ca_certificate(Certificate::from_pem(read(cacert)?));
            tls = Some(match cert.as_deref().zip(key.as_deref()) {
                Some((cert, key)) => with_ca.identity(Identity::from_pem(read(cert)?, read(key)?)),
                None => with_ca,
            });
        }
        let needs_tls = cert.is_some() || endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        if needs_tls && tls.is_none() {
            return Err("TLS needs --cacert: the system's CAs are not used".into());
        }
        Ok(Servers { endpoints, tls })
    }

    /// The same way to others.
    pub fn with(&self, endpoints: Vec<String>) -> Servers {
        Servers { endpoints, tls: self.tls.clone() }
    }

    /// A client of one endpoint.
    pub async fn connect(&self, endpoint: &str) -> Result<Client, Error> {
        let tls = self.tls.clone().filter(|_| !endpoint.starts_with("http://"));
        Client::connect([endpoint], tls.map(|tls| ConnectOptions::new().with_tls(tls))).await
    }

    /// A client of the first endpoint that answers. A balanced channel of all would give some requests to one that is
    /// gone.
    pub async fn first(&self) -> Result<Client, Error> {
        let Some((last, others)) = self.endpoints.split_last() else {
            return Err(Error::InvalidArgs("no endpoints".into()));
        };
        for endpoint in others {
            let Ok(mut client) = self.connect(endpoint).await else { continue };
            if tokio::time::timeout(PATIENCE, client.status()).await.is_ok_and(|status| status.is_ok()) {
                return Ok(client);
            }
        }
        self.connect(last).await
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
