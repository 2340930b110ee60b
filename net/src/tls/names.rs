//! The names in a certificate, and whether they fit the address that it comes from.
//!
//! The rule is etcd's (`client/pkg/transport`, `checkCertSAN`): a certificate that names addresses or hosts may come from
//! those alone. The questions to name servers are the caller's; here is what they must be and what follows from the answers.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The subject's first common name; empty if it has none.
    pub common_name: String,
    /// Subject alternative names that are addresses.
    pub ips: Vec<IpAddr>,
    /// Subject alternative names that are host names.
    pub dns: Vec<String>,
}

/// Answers of name servers. Both may take long.
pub trait Resolver {
    /// The names of an address (PTR); none if that can't be found out.
    fn names(&self, address: IpAddr) -> Vec<String>;
    /// The addresses of a name; none if that can't be found out.
    fn addresses(&self, name: &str) -> Vec<IpAddr>;
}

/// What can be said without a name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It may come from there.
    Yes,
    /// It may not.
    No,
    /// The name servers must be asked: [`Names::belong_to`].
    Ask,
}

impl Names {
    /// Reads them from a certificate.
    ///
    /// # Errors
    /// It is none, or one of its addresses has neither four nor sixteen bytes.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Names, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let mut common_names = parsed.subject().iter_common_name();
        let common_name = common_names.next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        let mut names = Names { common_name: common_name.to_owned(), ..Names::default() };
        let alternative = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.ips.push(address(bytes)?),
                _ => {}
            }
        }
        Ok(names)
    }

    /// Whether the certificate may come from `remote`, as far as its addresses tell.
    pub fn fit(&self, remote: IpAddr) -> Fit {
        let remote = remote.to_canonical();
        if self.ips.is_empty() && self.dns.is_empty() || self.ips.iter().any(|ip| ip.to_canonical() == remote)
        {
            return Fit::Yes;
        }
        if self.dns.is_empty() { Fit::No } else { Fit::Ask }
    }

    /// Whether its host names belong to `remote`: one is a name of that address, or that address is one of its addresses.
    /// `*.x` stands for every name of the address that ends in `.x`.
    pub fn belong_to(&self, remote: IpAddr, resolver: &dyn Resolver) -> bool {
        let remote = remote.to_canonical();
        let (wildcards, names): (Vec<&str>, Vec<&str>) =
            self.dns.iter().map(String::as_str).partition(|name| name.starts_with("*."));
        let fits = |found: &str| {
            let found = found.strip_suffix('.').unwrap_or(found).to_ascii_lowercase();
            wildcards.iter().any(|name| found.ends_with(&name[1..].to_ascii_lowercase()))
                || names.iter().any(|name| found.eq_ignore_ascii_case(name))
        };
        resolver.names(remote).iter().any(|found| fits(found))
            || names.iter().any(|name| resolver.addresses(name).iter().any(|ip| ip.to_canonical() == remote))
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| sixteen()).map_err(|_| format!("an address of {} bytes", bytes.len()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// One host of each of two names, and an address without a name.
    struct Servers;

    impl Resolver for Servers {
        fn names(&self, address: IpAddr) -> Vec<String> {
            let name = match address.to_string().as_str() {
                "10.0.0.1" => "m0.Example.test.",
                "10.0.0.2" => "deep.m1.example.test",
                _ => return Vec::new(),
            };
            vec!["unrelated.test.".to_owned(), name.to_owned()]
        }

        fn addresses(&self, name: &str) -> Vec<IpAddr> {
            match name {
                "forward.test" => vec!["10.0.0.8".parse().unwrap(), "10.0.0.9".parse().unwrap()],
                _ => Vec::new(),
            }
        }
    }

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "m0");
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn names_are_those_in_the_certificate() {
        let names = Names::of(&certificate(&["a.test", "10.0.0.1", "*.b.test", "fd00::1"])).unwrap();
        assert_eq!(names.common_name, "m0");
        assert_eq!(names.dns, ["a.test", "*.b.test"]);
        assert_eq!(names.ips, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(Names::of(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])).is_err());
        assert!(address(&[1, 2, 3]).is_err());
    }

    /// etcd `TestNewListenerTLSInfo…`, `checkCertSAN` and `isHostInDNS`, as a table.
    #[test]
    fn a_certificate_comes_from_where_it_says() {
        for (names, remote, want) in [
            (&[][..], "10.0.0.1", true), // names nobody
            (&["10.0.0.1"], "10.0.0.1", true),
            (&["10.0.0.1"], "::ffff:10.0.0.1", true),
            (&["10.0.0.1"], "10.0.0.2", false),
            (&["10.0.0.3", "m0.example.test"], "10.0.0.1", true), // by name
            (&["10.0.0.3", "m0.example.test"], "10.0.0.2", false),
            (&["m0.example.test"], "10.0.0.1", true),
            (&["m0.example.test"], "10.0.0.2", false),
            (&["m0.example.test"], "10.0.0.7", false), // an address without a name
            (&["*.example.test"], "10.0.0.1", true),
            (&["*.example.test"], "10.0.0.2", true), // as etcd: over any number of labels
            (&["*.0.example.test"], "10.0.0.1", false),
            (&["example.test"], "10.0.0.1", false),
            (&["other.test", "forward.test"], "10.0.0.9", true),
            (&["*.forward.test"], "10.0.0.9", false), // a wildcard has no addresses
        ] {
            let names = Names::of(&certificate(names)).unwrap();
            let remote = remote.parse().unwrap();
            let got = match names.fit(remote) {
                Fit::Yes => true,
                Fit::No => false,
                Fit::Ask => names.belong_to(remote, &Servers),
            };
            assert_eq!(got, want, "{names:?} from {remote}");
        }
    }
}
